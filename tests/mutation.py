#!/usr/bin/env python3
"""How many small faults, planted in codec, broker and scheduler, do the fast pure tests notice?

    nice -n 19 python3 tests/mutation.py --sample 400 --seed 1

Each mutant is one change in one function: a comparison turned round, a sum made a difference, a condition negated, a
statement left out, and so on. A process that has run the tests once, so that all is imported and they are known to
pass, forks for each mutant; the child puts the changed code into the function and runs the tests until one fails.
A crash, a hang (`--cpu-limit`) and memory without bounds count as noticed. Prints each survivor with its line.

What is left out, as other tests are about it: texts, asserts, type comments, and statements that only record what the
user sees (`UNSEEN`); what changes nothing that can be observed (`EQUAL`, with the reasons).
"""

from __future__ import annotations

import argparse
import ast
import copy
import gc
import inspect
import io
import os
import random
import re
import resource
import signal
import sys
import time
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from hypothesis import settings

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS.parent), str(TESTS)]
import scoop_lite  # noqa: E402

SECTIONS = {  # section of the file: the tests, those first that are likely to notice
    "Codec": ("codec", "protocol"),
    "Broker": ("rules", "protocol", "simulation"),
    "Scheduler": ("rules", "simulation"),
}
SLOW = ("libzmq", "messages_both_ways", "frames_of_64_mb", "heartbeats", "mechanism", "readme", "docstring", "banners",
        "thousand", "test_seeds")  # fmt: skip
UNSEEN = re.compile(r"recorder|report\(|logger|\.mark\(|__repr__|n_died")
EQUAL = {  # a part of a mutant's line: why no test can notice
    "1e-09  ->": "keeps a cost of 0 from being divided by; its size is nobody's business",
    "self.clock() < self.late_s": "at the very moment, either will do",
    "known_s < 2 * chunk_s": "likewise",
    "recent[0] < self.now_s - 60": "likewise",
    "start_s, chunk_id =": "what only the recorder of traces reads",
    "self.big_flags = 0": "a declaration; who begins a big frame sets it",
    "Codec.__init__: constant: 0": "likewise",
    "self.runs_script = False": "a declaration; the scheduler sets it",
    "on_credit: constant: 3": "the end of a slice, and of the message",
    "Broker.end: constant: 0": "agents have no incarnation",
    "Taker.__init__: constant: 0.0": "a declaration; who asks or flushes sets it",
    "Taker.flush: constant: 1": "a client takes any NEXT for hunger",
    "size < BIG_FRAME": "a frame of just that size may be received either way",
    "member.inbox.heaps and code": "to mend what needs no mending changes nothing",
    "Orders.__init__: constant: 2": "a declaration; the first look at the orders sets it",
}

SWAPPED = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Add: ast.Sub, ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult, ast.Div: ast.Mult, ast.Mod: ast.Mult, ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd, ast.LShift: ast.RShift, ast.RShift: ast.LShift, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# Mutants
# ---------------------------------------------------------------------------------------------------------------------


def changes(node):
    """Yield (what, replacement) for each small change of one node of the syntax tree."""
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        yield "comparison", ast.Compare(node.left, [SWAPPED[type(node.ops[0])]()], node.comparators)
    elif isinstance(node, (ast.BinOp, ast.AugAssign)) and type(node.op) in SWAPPED:
        changed = copy.copy(node)
        changed.op = SWAPPED[type(node.op)]()
        yield "operator", changed
    elif isinstance(node, ast.BoolOp):
        yield "and/or", ast.BoolOp(SWAPPED[type(node.op)](), node.values)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield "no not", node.operand
    elif isinstance(node, ast.Constant) and type(node.value) in (int, float, bool):
        yield "constant", ast.Constant(not node.value if type(node.value) is bool else node.value + 1)
    if isinstance(node, (ast.If, ast.While, ast.IfExp)):
        changed = copy.copy(node)
        changed.test = ast.UnaryOp(ast.Not(), node.test)
        yield "negated", changed
    elif isinstance(node, (ast.Break, ast.Continue)):
        yield "break/continue", ast.Continue() if isinstance(node, ast.Break) else ast.Break()
    elif isinstance(node, ast.Return) and ast.unparse(node) not in ("return", "return None"):
        yield "returns None", ast.Return(ast.Constant(None))
    is_call = isinstance(node, ast.Expr) and isinstance(node.value, (ast.Call, ast.Yield))
    if is_call or isinstance(node, (ast.Raise, ast.AugAssign, ast.Delete, ast.Assign)):
        yield "left out", ast.Pass()


def places(node, parent=None, field=None, index=None):
    """Yield (node, parent, field, index) for each node in which a change may be made."""
    if isinstance(node, (ast.Assert, ast.AnnAssign, ast.JoinedStr)) or (
        isinstance(node, ast.stmt) and not hasattr(node, "body") and UNSEEN.search(ast.unparse(node))
    ):
        return
    yield node, parent, field, index
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "args", "decorator_list") and not isinstance(node, ast.Call):
            continue
        for at, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if isinstance(child, ast.AST):
                yield from places(child, node, name, at)


class Mutant:
    """One change: `put` it into scoop_lite."""

    def __init__(self, section, class_name, function, place, what, new):
        self.section, self.class_name, self.function, self.what, self.new = section, class_name, function, what, new
        self.node, self.parent, self.field, self.index = place

    def __str__(self):
        where = f"{self.class_name}.{self.function.name}" if self.class_name else self.function.name
        old = ast.unparse(self.node).splitlines()[0]
        new = ast.unparse(ast.fix_missing_locations(self.new)).splitlines()[0]
        return f"{self.node.lineno}: {where}: {self.what}: {old[:70]}  ->  {new[:70]}"

    def set(self, node):
        if self.index is None:
            setattr(self.parent, self.field, node)
        else:
            getattr(self.parent, self.field)[self.index] = node

    def code(self):
        """The code object of the changed function."""
        self.set(ast.copy_location(self.new, self.node))
        body = copy.deepcopy(self.function)
        self.set(self.node)
        body.decorator_list, body.args.defaults, body.args.kw_defaults = [], [], [None] * len(body.args.kwonlyargs)
        if self.class_name:
            body = ast.ClassDef(name=self.class_name, bases=[], keywords=[], body=[body], decorator_list=[])
        module = ast.fix_missing_locations(ast.Module([body], []))
        code = compile(module, scoop_lite.__file__, "exec", annotations.compiler_flag, dont_inherit=True)
        for name in filter(None, (self.class_name, self.function.name)):
            code = next(c for c in code.co_consts if inspect.iscode(c) and c.co_name == name)
        return code

    def put(self):
        owner = getattr(scoop_lite, self.class_name) if self.class_name else scoop_lite
        found = vars(owner)[self.function.name]
        found = getattr(found, "fget", None) or getattr(found, "__func__", None) or inspect.unwrap(found)
        found.__code__ = self.code()


def mutants():
    """All mutants of the sections, in order of lines."""
    source = Path(scoop_lite.__file__).read_text(encoding="utf-8")
    starts = [(m.start(), m.group(1)) for m in re.finditer(r"^# ={20,}\n# ([^:\n]+?)(?::|   ).*\n# =", source, re.M)]
    starts = [(source.count("\n", 0, at) + 1, title) for at, title in starts]
    section_of = lambda line: [title for start, title in starts if start <= line][-1:]  # noqa: E731
    for top in ast.parse(source).body:
        (section,) = section_of(top.lineno) or [None]
        if section in SECTIONS:
            for function in top.body if isinstance(top, ast.ClassDef) else [top]:
                if isinstance(function, ast.FunctionDef):
                    class_name = top.name if isinstance(top, ast.ClassDef) else ""
                    for place in places(function):
                        for what, new in changes(place[0]):
                            if place[1] is not None:
                                yield Mutant(section, class_name, function, place, what, new)


# ---------------------------------------------------------------------------------------------------------------------
# Tests
# ---------------------------------------------------------------------------------------------------------------------


def failure(section):
    """Run a section's tests in this process; return what they print, or "" when all pass."""
    files = [str(TESTS / f"test_{name}.py") for name in SECTIONS[section]]
    plugins = ("cacheprovider", "xdist", "rerunfailures", "faulthandler")
    words = ["-x", "-q", *(word for name in plugins for word in ("-p", "no:" + name))]
    with redirect_stdout(io.StringIO()) as output, redirect_stderr(output):
        status = pytest.main([*words, "-k", " and ".join("not " + name for name in SLOW), *files])
    return "" if status == 0 else output.getvalue()


def survives(mutant, cpu_s, wall_s):
    """Try a mutant in a child; return True when no test notices."""
    pid = os.fork()
    if not pid:
        status = 1
        try:
            silence = os.open(os.devnull, os.O_RDWR)
            for number in (0, 1, 2):
                os.dup2(silence, number)
            resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))
            resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
            mutant.put()
            status = 1 if failure(mutant.section) else 0
        finally:
            os._exit(status)
    limit = time.monotonic() + wall_s
    while time.monotonic() < limit:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return status == 0
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return False


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sample", type=int, default=0, help="so many mutants, drawn with --seed (default: all)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sections", default=",".join(SECTIONS), help="some of " + ", ".join(SECTIONS))
    parser.add_argument("--only", default="", help="only mutants whose line of text contains this")
    parser.add_argument("--cpu-limit", type=int, default=40, help="seconds of CPU time that mean a hang")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    settings.register_profile("mutation", derandomize=True, database=None)
    settings.load_profile("mutation")
    wanted = options.sections.split(",")
    chosen = [m for m in mutants() if m.section in wanted and options.only in str(m)]
    chosen = [m for m in chosen if not any(part in str(m) for part in EQUAL)]
    print(f"{len(chosen)} mutants", flush=True)
    if options.sample and options.sample < len(chosen):
        chosen = random.Random(options.seed).sample(chosen, options.sample)
    for section in wanted:
        begin = time.process_time()
        text = failure(section)
        if text:
            sys.exit(f"the tests of {section} fail without any mutant:\n{text}")
        print(f"{section}: its tests pass in {time.process_time() - begin:.1f} s of CPU time", flush=True)
    gc.collect()
    gc.freeze()
    tried, alive = Counter(), Counter()
    try:
        for mutant in chosen:
            unnoticed = survives(mutant, options.cpu_limit, 10 * options.cpu_limit)
            tried[mutant.section] += 1
            alive[mutant.section] += unnoticed
            if unnoticed:
                print(f"survived {mutant}", flush=True)
            if sum(tried.values()) % 20 == 0:
                show(options.seed, tried, alive)
    finally:  # a sample that was interrupted is a smaller sample
        show(options.seed, tried, alive)


def show(seed, tried, alive):
    for section, n in [*tried.items(), ("all", sum(tried.values()))]:
        noticed = n - (sum(alive.values()) if section == "all" else alive[section])
        share = f"{100 * noticed / max(1, n):.1f} %"
        print(f"seed {seed}: {section}: {noticed} of {n} mutants noticed, {share}", flush=True)


if __name__ == "__main__":
    main()
