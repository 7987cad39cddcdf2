"""Programs whose tasks submit tasks and wait for them.

scoop_lite and SCOOP run the very same functions: both offer `futures`. The environment variable names which of the two
this process imports, because a task is found by name in whatever process it lands.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import random

LEAF_LENGTH = 20_000    # numbers that a quicksort task sorts without asking for help; 10^6 numbers make about 100 tasks
BRANCHES = 8            # children of a tree node that has any
FERTILITY = 0.122       # chance of having them: one of 2,000 subtrees gets two fifths of all nodes

_module = os.environ.get("SCOOP_LITE_BENCHMARK_FUTURES")
futures = importlib.import_module(_module).futures if _module else None


def n_fib_tasks(n):
    """Return the number of calls that `fib(n)` makes, itself included."""
    before, here = 1, 1
    for _ in range(n - 1):
        before, here = here, before + here + 1
    return here


def serial_fib(n):
    """Return the n-th Fibonacci number by plain calls."""
    return n if n < 2 else serial_fib(n - 1) + serial_fib(n - 2)


def fib(n):
    """Return the n-th Fibonacci number; every call down to n = 0 is a task."""
    if n < 2:
        return n
    left = futures.submit(fib, n - 1)
    right = futures.submit(fib, n - 2)
    return left.result() + right.result()


def children(node):
    """Return the children of a tree node: none or `BRANCHES`, as the node's own digest decides."""
    if int.from_bytes(node[:4], "big") >= FERTILITY * 2 ** 32:
        return []
    return [hashlib.sha1(node + bytes([index])).digest() for index in range(BRANCHES)]


def roots(n):
    """Return the `n` subtrees below the root of the search."""
    return [hashlib.sha1(b"%d" % index).digest() for index in range(n)]


def serial_count(nodes):
    """Return the number of nodes in the subtrees of `nodes`, without tasks and without recursion."""
    stack, n_nodes = list(nodes), 0
    while stack:
        n_nodes += 1
        stack.extend(children(stack.pop()))
    return n_nodes


def count(node):
    """Return the number of nodes of a subtree; every node is a task."""
    below = [futures.submit(count, child) for child in children(node)]
    return 1 + sum(future.result() for future in below)


def count_all(n_roots):
    """Return the number of nodes of the whole tree."""
    return sum(future.result() for future in [futures.submit(count, node) for node in roots(n_roots)])


def numbers(n):
    """Return the `n` floats that are to be sorted."""
    generator = random.Random(1)
    return [generator.random() for _ in range(n)]


def split(values):
    """Return the values below, at and above the median of three of them."""
    pivot = sorted((values[0], values[len(values) // 2], values[-1]))[1]
    below, equal, above = [], [], []
    for value in values:
        (below if value < pivot else above if value > pivot else equal).append(value)
    return below, equal, above


def serial_quicksort(values):
    """Return the values sorted, in one process."""
    if len(values) < 2:
        return values
    below, equal, above = split(values)
    return serial_quicksort(below) + equal + serial_quicksort(above)


def quicksort(values):
    """Return the values sorted; both sides of a split are tasks until they are short."""
    if len(values) <= LEAF_LENGTH:
        return serial_quicksort(values)
    below, equal, above = split(values)
    left = futures.submit(quicksort, below)
    right = futures.submit(quicksort, above)
    return left.result() + equal + right.result()
