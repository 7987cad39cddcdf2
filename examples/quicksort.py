"""Sort by quicksort: each half is a task, down to a size where Python's own sort is faster.

    $ python3 scoop_lite.py -n 4 examples/quicksort.py
    100000 numbers in order: True
    The first, the middle, the last: 0.000019 0.499612 0.999992
"""
import random

from scoop_lite import futures


def quicksort(numbers):
    """Return the numbers in ascending order."""
    if len(numbers) <= 5_000:
        return sorted(numbers)
    pivot = numbers[len(numbers) // 2]
    below = futures.submit(quicksort, [number for number in numbers if number < pivot])
    above = futures.submit(quicksort, [number for number in numbers if number > pivot])
    return below.result() + [number for number in numbers if number == pivot] + above.result()


if __name__ == "__main__":
    rng = random.Random(1)
    numbers = [rng.random() for _ in range(100_000)]
    ordered = quicksort(numbers)
    print(f"{len(ordered)} numbers in order: {ordered == sorted(numbers)}")
    print("The first, the middle, the last:", *(f"{ordered[place]:.6f}" for place in (0, 50_000, -1)))
