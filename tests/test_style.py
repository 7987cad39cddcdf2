"""The file is one that can be read: short functions, everything public documented, strictly typed, no long line."""

from __future__ import annotations

import ast
import importlib.util
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

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


def test_everything_public_is_documented():
    """All functions and classes of the module, and all public methods of what users call."""
    defined = [node for node in TREE.body if isinstance(node, (*FUNCTIONS, ast.ClassDef))]
    for node in defined.copy():
        if isinstance(node, ast.ClassDef) and node.name in INTERFACE:
            defined += [method for method in node.body if isinstance(method, FUNCTIONS) and method.name[0] != "_"]
    assert len(defined) > 200 and [node.name for node in defined if not ast.get_docstring(node)] == []


@pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="mypy is not installed")
def test_types_are_strict(tmp_path):
    done = subprocess.run([sys.executable, "-m", "mypy", "--strict", "--cache-dir", tmp_path, "scoop_lite.py"],
                          cwd=CHECKOUT, stdout=subprocess.PIPE, text=True, timeout=300)  # fmt: skip
    assert done.returncode == 0, done.stdout
