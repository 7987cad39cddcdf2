"""The functions that the systems run as tasks, all at module level: every system can pickle them by name."""

from __future__ import annotations

import os
import time


def noop(value):
    """Return the argument: all that is measured is the road there and back."""
    return value


def pid_noop(value):
    """Return the argument and the process that returned it."""
    return value, os.getpid()


def spin(length_ns):
    """Keep a CPU busy for `length_ns` by the clock, and return `length_ns`."""
    end = time.perf_counter_ns() + length_ns
    while time.perf_counter_ns() < end:
        pass
    return length_ns


def pid_spin(length_ns):
    """Keep a CPU busy, and return the process that did."""
    spin(length_ns)
    return length_ns, os.getpid()


def measured_spin(length_ns):
    """Keep a CPU busy, and return how long it really took, in nanoseconds."""
    start = time.perf_counter_ns()
    spin(length_ns)
    return time.perf_counter_ns() - start


def nap(length_s):
    """Sleep; return the process and the start by the clock that all processes of this machine share."""
    start = time.monotonic()
    time.sleep(length_s)
    return os.getpid(), start


def read_array(array):
    """Read every element of an array, as a task that was sent one would; return the sum and the process."""
    return float(array.sum()), os.getpid()


def make_array(value, n_elements):
    """Return a new array full of `value`: its bytes travel home."""
    import numpy
    return numpy.full(n_elements, float(value))


def apply_chunk(function, items):
    """Run one hand-made batch, the form that several peers' documentation recommends for short tasks."""
    return [function(item) for item in items]
