"""The file is one that can be read: short functions, everything public documented, strictly typed, no long line."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
import statistics
import subprocess
import sys
import types
from pathlib import Path

import pytest

import scoop_lite

CHECKOUT = Path(__file__).resolve().parents[1]
TREE = ast.parse((CHECKOUT / "scoop_lite.py").read_text(encoding="utf-8"))
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)

#: What users call: these classes are documented to the last method.
INTERFACE = ("Future", "futures", "shared", "Executor")


def lines(node):
    return node.end_lineno - node.lineno + 1


def functions():
    return [node for node in ast.walk(TREE) if isinstance(node, FUNCTIONS)]


def test_no_function_is_long():
    assert {node.name: lines(node) for node in functions() if lines(node) > 50} == {}


def test_functions_are_short():
    assert statistics.median(map(lines, functions())) <= 10


def test_no_class_is_long():
    classes = [node for node in ast.walk(TREE) if isinstance(node, ast.ClassDef)]
    assert len(classes) > 50 and {node.name: lines(node) for node in classes if lines(node) > 250} == {}


def test_everything_public_is_documented():
    """All functions and classes of the module, and all public methods of what users call."""
    defined = [node for node in TREE.body if isinstance(node, (*FUNCTIONS, ast.ClassDef))]
    for node in defined.copy():
        if isinstance(node, ast.ClassDef) and node.name in INTERFACE:
            defined += [method for method in node.body if isinstance(method, FUNCTIONS) and method.name[0] != "_"]
    assert len(defined) > 200 and [node.name for node in defined if not ast.get_docstring(node)] == []


def interface():
    """(qualified name, function) of all that users call."""
    for module in (scoop_lite.futures, scoop_lite.shared):
        yield from ((name, vars(module)[name]) for name in module.__all__ if name != "Future")
    for owner in (scoop_lite.Future, scoop_lite.Executor):
        methods = ((name, f) for name, f in vars(owner).items() if isinstance(f, types.FunctionType))
        yield from ((f"{owner.__name__}.{name}", f) for name, f in methods if name[0] != "_")
    yield "main", scoop_lite.main


def test_the_manual_is_complete():
    """What users call tells its arguments, what it returns or yields, what it raises, and gives an example."""
    found = dict(interface())
    assert len(found) > 25
    missing = []
    for name, function in found.items():
        if name in ("Future.end", "Future.settle", "Future.when_done"):  # called by scheduler and runtime
            continue
        text, signature = inspect.getdoc(function), inspect.signature(function)
        told = re.findall(r"^    ((?:\w+, )*\w+): ", text, re.M) + re.findall(r"\. (\w+): ", text)
        arguments = {word for words in told for word in words.split(", ")}
        missing += [(name, p) for p in signature.parameters if p not in arguments | {"self"}]
        returns = signature.return_annotation != "None"
        if returns and not re.search(r"^(Returns:|Return |Yield )|[;,] return ", text, re.M):
            missing.append((name, "Returns"))
        if ">>> " not in text and name not in ("Future.running", "Future.cancelled"):
            missing.append((name, "Example"))
    assert missing == []


@pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="mypy is not installed")
def test_types_are_strict(tmp_path):
    done = subprocess.run([sys.executable, "-m", "mypy", "--strict", "--cache-dir", tmp_path, "scoop_lite.py"],
                          cwd=CHECKOUT, stdout=subprocess.PIPE, text=True, timeout=300)  # fmt: skip
    assert done.returncode == 0, done.stdout
