"""A random nested program, whose result follows from its seed alone: ``soak_program.py SEED NODES``.

The program is a tree. A leaf works a little, in one of LEAVES' ways; an inner node hands its children to the pool, in
one of WAYS, from wherever it runs. The value of a node is a number; what goes wrong on purpose has a value as well,
so that the whole is right or wrong at one look, against the same tree added up at home.
"""
import functools
import itertools
import operator
import os
import random
import sys
import threading
import time

from toolkit import DIRECTORY, burn, die, hold_gil, note, reach

import scoop_lite
from scoop_lite import futures, shared

LEAVES = ("quick",) * 6 + ("sleep", "sleep", "burn", "gil", "bulk", "raises", "sealed", "constant", "dies once")
WAYS = ("submit", "map", "map", "map_as_completed", "as_completed", "reduce", "scan", "closure", "lazy", "abandon",
        "cancel", "impatient", "wait", "callback", "everyone", "calls")
BULK = 70_000, 500_000, 2_000_000  # bytes: one message, what a socket does not take at once, several pieces
SEALED_VALUE, CONSTANT = 5, 1000


class Node:
    """One task: its number, what it does, its children; some carry luggage, so that they are big arguments."""

    def __init__(self, key, kind, children=(), seconds=0.0, luggage=0):
        self.key, self.kind, self.children, self.seconds = key, kind, list(children), seconds
        self.luggage = bytes([key % 256]) * luggage

    def run(self):
        return evaluate(self)


def make(rng, size, keys):
    """Return a random tree of about so many nodes."""
    key = next(keys)
    if size <= 1:
        luggage = rng.choice(BULK) if rng.random() < 0.03 else 0
        return Node(key, rng.choice(LEAVES), (), rng.choice([0.001, 0.01, 0.03]), luggage)
    count = min(size - 1, rng.choice([1, 2, 3, 8, 30]))
    shares = [max(1, (size - 1) // count)] * count
    return Node(key, rng.choice(WAYS), [make(rng, share, keys) for share in shares])


def value_at_home(node):
    """Return what the value of a tree must be."""
    if node.children:
        return node.key + sum(map(value_at_home, node.children))
    return {"raises": -node.key, "sealed": SEALED_VALUE, "constant": node.key + CONSTANT}.get(node.kind, node.key)


def evaluate(node):
    """Run a tree: the task of this program."""
    note("run", node.key)
    assert node.luggage.count(node.key % 256) == len(node.luggage)
    return inner(node) if node.children else leaf(node)


def evaluate_tame(node):
    """Run a tree; what goes wrong on purpose becomes its value here, and not at the caller."""
    try:
        return untangled(node, evaluate(node))
    except ValueError as error:
        return expected_error(node, error)


def untangled(node, value):
    """Return the number that stands for a value."""
    if node.kind == "sealed":
        return SEALED_VALUE
    return node.key + len(value) - BULK[node.key % 3] if node.kind == "bulk" else value


def expected_error(node, error):
    """Return the value of a leaf that raises; any other error goes on."""
    if node.kind == "raises" and str(error) == "leaf %d" % node.key:
        return -node.key
    raise error


def leaf(node):
    """Work a little."""
    if node.kind in ("sleep", "burn", "gil"):
        {"sleep": time.sleep, "burn": burn, "gil": hold_gil}[node.kind](node.seconds)
    elif node.kind == "bulk":
        return b"x" * BULK[node.key % 3]
    elif node.kind == "raises":
        raise ValueError("leaf %d" % node.key)
    elif node.kind == "sealed":
        return threading.Lock()
    elif node.kind == "constant":
        return node.key + shared.getConst("thousand", timeout=10)
    elif node.kind == "dies once":
        die_once(node)
    return node.key


def die_once(node):
    """End this process, unless it is the origin, or somebody has done so for this leaf before."""
    try:
        os.close(os.open(os.path.join(DIRECTORY, "died-%d" % node.key), os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    if not scoop_lite.IS_ORIGIN:
        note("died", node.key)
        die(("kill", "_exit", "segfault")[node.key % 3])


def inner(node):
    """Hand the children to the pool; return the sum of their values and this node's number."""
    values = [VALUES_OF_ALL[node.kind](node)] if node.kind in VALUES_OF_ALL else VALUES[node.kind](node)
    return functools.reduce(operator.add, values, node.key)


def by_closure(node):
    """Map a function that is big itself."""
    data = bytes(BULK[node.key % 3])
    return futures.map(lambda child: evaluate_tame(child) + data[-1], node.children)


def lazily(node):
    """Map what is drawn as it is needed."""
    more = [{}, {"buffersize": 1 + node.key % 5}, {"chunksize": 1 + node.key % 5}][node.key % 3]
    return futures.map(evaluate_tame, iter(node.children), **more)


def after_an_endless_map(node):
    """Map, while an endless map of something else is left alone or closed."""
    endless = futures.map(operator.neg, itertools.count(), **({"buffersize": 10} if node.key % 2 else {}))
    assert list(itertools.islice(endless, 20)) == [-i for i in range(20)]
    if node.key % 3 == 0:
        endless.close()
    return futures.map(evaluate_tame, node.children)


def beside_cancelled(node):
    """Submit, and cancel the half of what is submitted besides."""
    found = []
    for child in node.children:
        found += [(child, futures.submit(evaluate, child)), (None, futures.submit(time.sleep, 0.002))]
    given_up = {future for child, future in found if child is None and future.cancel()}
    for child, future in found:
        if child:
            yield settle(future, child)
        elif future in given_up:
            assert future.cancelled() and future.done()
        else:
            assert future.result() is None and not future.cancelled()


def impatiently(node):
    """Ask again and again for what is not there yet."""
    for child, future in [(child, futures.submit(evaluate, child)) for child in node.children]:
        while not future.done():
            try:
                future.exception(timeout=0.0005 * (node.key % 4))
            except futures.TimeoutError:
                pass
        yield settle(future, child)


def by_wait(node):
    """Wait for the first again and again."""
    of = {futures.submit(evaluate, child): child for child in node.children}
    pending = set(of)
    while pending:
        timeout = 0.003 * (node.key % 3) or None
        done, pending = futures.wait(pending, timeout=timeout, return_when=futures.FIRST_COMPLETED)
        assert done or timeout
        yield from (settle(future, of[future]) for future in done)


def by_callbacks(node):
    """Take the values where they arrive; each must, once."""
    called = []
    found = [(child, futures.submit(evaluate, child)) for child in node.children]
    for _, future in found:
        future.add_done_callback(called.append)
    futures.wait([future for _, future in found])
    assert sorted(map(id, called)) == sorted(id(future) for _, future in found)
    return (settle(future, child) for child, future in found)


def after_everyone(node):
    """Map, after a call on each worker."""
    try:
        assert set(futures.run_on_all(pow, node.key, 2).values()) == {node.key ** 2}
    except scoop_lite.WorkerLost:
        note("lost", node.key)
    return futures.map(evaluate_tame, node.children)


def by_submit(node):
    """Submit all, then ask for one after another."""
    return [settle(*pair) for pair in [(futures.submit(evaluate, child), child) for child in node.children]]


def by_calls_of_all_kinds(node):
    """Submit methods, partials, closures and keyword arguments."""
    found = []
    for i, child in enumerate(node.children):
        calls = (child.run,), (functools.partial(evaluate, child),), (lambda of=child: of.run(),), (evaluate, child)
        call = calls[(node.key + i * i) % 5 % 4]
        found.append((futures.submit(evaluate, node=child) if i % 4 == 3 else futures.submit(*call), child))
    return [settle(*pair) for pair in found]


def as_completed(node):
    """Submit all, and take what is done."""
    of = {futures.submit(evaluate, child): child for child in node.children}
    return (settle(future, of[future]) for future in futures.as_completed(of))


VALUES = {"submit": by_submit, "as_completed": as_completed, "closure": by_closure, "lazy": lazily,
          "abandon": after_an_endless_map, "cancel": beside_cancelled, "impatient": impatiently, "wait": by_wait,
          "callback": by_callbacks, "everyone": after_everyone, "calls": by_calls_of_all_kinds,
          "map": lambda node: futures.map(evaluate_tame, node.children),
          "map_as_completed": lambda node: futures.map_as_completed(evaluate_tame, node.children)}
VALUES_OF_ALL = {"reduce": lambda node: futures.mapReduce(evaluate_tame, operator.add, node.children),
                 "scan": lambda node: futures.mapScan(evaluate_tame, operator.add, node.children)[-1]}


def settle(future, node):
    """Return the value of a future's node."""
    try:
        return untangled(node, future.result())
    except ValueError as error:
        return expected_error(node, error)
    except Exception:
        if node.kind != "sealed":
            raise
        return SEALED_VALUE


def main():
    """Run the tree of a seed; say whether it is right."""
    seed, size = map(int, sys.argv[1:3])
    tree = make(random.Random(seed), size, iter(range(1, 10**6)))
    shared.setConst(thousand=CONSTANT)
    reach("running")
    value, wanted = futures.submit(evaluate_tame, tree).result(), value_at_home(tree)
    print("right" if value == wanted else "wrong: %r instead of %r" % (value, wanted))


if __name__ == "__main__":
    main()
