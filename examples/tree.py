"""Count the leaves of a binary tree: every task submits tasks of its own and waits for them.

    $ python3 scoop_lite.py -n 4 examples/tree.py
    A tree of depth 10 has 1024 leaves.

A task that waits gives its worker to other tasks, so that 4 workers suffice for the 2047 tasks of this tree.
"""
from scoop_lite import futures


def count_leaves(depth):
    """Return the number of leaves below a node, asking both of its children."""
    if depth == 0:
        return 1
    left = futures.submit(count_leaves, depth - 1)
    right = futures.submit(count_leaves, depth - 1)
    return left.result() + right.result()


if __name__ == "__main__":
    print(f"A tree of depth 10 has {futures.submit(count_leaves, 10).result()} leaves.")
