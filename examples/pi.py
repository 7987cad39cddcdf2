"""Estimate pi: throw darts at a square, count those inside the circle (the Monte Carlo method).

    $ python3 scoop_lite.py -n 4 examples/pi.py
    1280000 darts: pi is about 3.1...

`futures.task_rng()` gives each task random numbers that depend on the seed of the run and on the task's place in
the program, never on the worker: `--seed 7` prints the same digits with any `-n`.
"""
from scoop_lite import futures

TASKS = 64
DARTS_PER_TASK = 20_000


def count_hits(n_darts):
    """Return how many of n_darts random points of the unit square lie in the quarter circle."""
    random = futures.task_rng().random
    return sum(random() ** 2 + random() ** 2 <= 1.0 for _ in range(n_darts))


if __name__ == "__main__":
    hits = sum(futures.map(count_hits, [DARTS_PER_TASK] * TASKS))
    n_darts = TASKS * DARTS_PER_TASK
    print(f"{n_darts} darts: pi is about {4 * hits / n_darts:.6f}")
