"""A random nested program, whose result follows from its seed alone: ``soak_program.py SEED NODES``.

The program is a tree. A leaf works a little, in one of LEAVES' ways; an inner node hands its children to the pool, in
one of WAYS, from wherever it runs. The value of a node is a number; what goes wrong on purpose has a value as well,
so that the whole is right or wrong at one look, against the same tree added up at home.
"""
import functools
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
WAYS = ("submit", "map", "map", "map_as_completed", "as_completed", "reduce", "closure")
BULK = 70_000, 500_000, 2_000_000  # bytes: one message, what a socket does not take at once, several pieces
SEALED_VALUE, CONSTANT = 5, 1000


class Node:
    """One task: its number, what it does, its children; some carry luggage, so that they are big arguments."""

    def __init__(self, key, kind, children=(), seconds=0.0, luggage=0):
        self.key, self.kind, self.children, self.seconds = key, kind, list(children), seconds
        self.luggage = bytes([key % 256]) * luggage


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
    children = node.children
    if node.kind == "submit":
        futures_of = [futures.submit(evaluate, child) for child in children]
        return node.key + sum(map(settle, futures_of, children))
    if node.kind == "as_completed":
        of = {futures.submit(evaluate, child): child for child in children}
        return node.key + sum(settle(future, of[future]) for future in futures.as_completed(of))
    if node.kind == "reduce":
        return node.key + futures.mapReduce(evaluate_tame, operator.add, children)
    if node.kind == "closure":  # a function that is big itself
        data = bytes(BULK[node.key % 3])
        return node.key + sum(futures.map(lambda child: evaluate_tame(child) + data[-1], children))
    way = futures.map if node.kind == "map" else futures.map_as_completed
    return node.key + functools.reduce(operator.add, way(evaluate_tame, children))


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
