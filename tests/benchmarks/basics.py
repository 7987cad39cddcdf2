"""The first bars, in less than half a minute and without installing anything: `python3 tests/benchmarks/basics.py`.

Two workers run a long no-op `map`, many no-op `submit`s and nested Fibonacci futures; ProcessPoolExecutor runs its
`submit`s in between. Greenlets are used where they can be imported. Every result is checked.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import importlib.util
import json
import os
import pathlib
import platform
import signal
import statistics
import subprocess
import sys
import time

import tasks

HERE = pathlib.Path(__file__).resolve()
ROUNDS = 5
LIMIT_S = 15            # for one pool, which takes about two seconds
N_MAP, N_SUBMIT, N_PEER, FIB = 10 ** 6, 10 ** 5, 3000, 22
BARS = {"map": 1.5e6, "submit": 2e5, "fib": 2e5, "ratio": 20}
LABELS = {"map": "no-op map, tasks/s", "submit": "no-op submit + result, tasks/s",
          "fib": "nested fib(%d), tasks/s" % FIB, "peer": "ProcessPoolExecutor, submit + result, tasks/s",
          "ratio": "submit + result, times ProcessPoolExecutor's"}


def rate(n, run, expected):
    """Return tasks per second of a run that must give the expected value."""
    start = time.perf_counter()
    value = run()
    length_s = time.perf_counter() - start
    if value != expected:
        raise ValueError("wrong result")
    return n / length_s


def submit_all(submit, n):
    """Return the results of `n` tasks, all submitted first."""
    return [future.result() for future in [submit(tasks.noop, index) for index in range(n)]]


def ours():
    """Return our three rates; runs under the launcher."""
    import nested
    futures = nested.futures
    list(futures.map(tasks.nap, [0.001] * 100))         # both workers are up
    return {"map": rate(N_MAP, lambda: list(futures.map(tasks.noop, range(N_MAP))), list(range(N_MAP))),
            "submit": rate(N_SUBMIT, lambda: submit_all(futures.submit, N_SUBMIT), list(range(N_SUBMIT))),
            "fib": rate(nested.n_fib_tasks(FIB), lambda: nested.fib(FIB), nested.serial_fib(FIB))}


def launch(file, strands):
    """Return what a new pool of two workers measures."""
    environment = dict(os.environ, SCOOP_LITE_BENCHMARK_FUTURES="scoop_lite")
    command = [sys.executable, str(file), "-n", "2", "--strands", strands, str(HERE), "--inside"]
    pool = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, start_new_session=True)
    try:
        answer = pool.communicate(timeout=LIMIT_S)[0]
    except subprocess.TimeoutExpired:
        os.killpg(pool.pid, signal.SIGKILL)
        sys.exit("hung: no result within %d s from: %s" % (LIMIT_S, " ".join(command)))
    if pool.returncode:
        sys.exit("failed with status %d: %s" % (pool.returncode, " ".join(command)))
    return json.loads(answer)


def peer():
    """Return the rate of the standard library's executor."""
    with concurrent.futures.ProcessPoolExecutor(2) as executor:
        list(executor.map(tasks.nap, [0.001] * 100))
        return rate(N_PEER, lambda: submit_all(executor.submit, N_PEER), list(range(N_PEER)))


def measure(file, strands, n_rounds):
    """Return one dictionary of numbers a round; who begins changes from round to round."""
    rounds = []
    for index in range(n_rounds):
        if index % 2:
            numbers = {"peer": peer()}
            numbers.update(launch(file, strands))
        else:
            numbers = launch(file, strands)
            numbers["peer"] = peer()
        numbers["ratio"] = numbers["submit"] / numbers["peer"]
        rounds.append(numbers)
        print("round %d of %d: %s" % (index + 1, n_rounds, ", ".join("%s %.4g" % item for item in numbers.items())),
              file=sys.stderr)
    return rounds


def table(rounds, strands):
    """Return the report."""
    lines = ["Python %s, %d CPUs, 2 workers, strands: %s, %d rounds" % (
        platform.python_version(), os.cpu_count(), strands, len(rounds)), "",
        "| | median | lowest | highest | bar | met |", "|---|---|---|---|---|---|"]
    for key, label in LABELS.items():
        values = [numbers[key] for numbers in rounds]
        middle, bar = statistics.median(values), BARS.get(key)
        met = ("%g" % bar, "yes" if middle >= bar else "**no**") if bar else ("–", "–")
        lines.append("| %s | %s | %s | %s | %s | %s |" % ((label,) + tuple(
            "{:,.0f}".format(value) for value in (middle, min(values), max(values))) + met))
    return "\n".join(lines)


def main():
    """Run inside the pool, or start pools and report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--file", type=pathlib.Path, default=HERE.parents[2] / "scoop_lite.py",
                        help="the scoop_lite.py to measure")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write every number")
    options = parser.parse_args()
    if options.inside:
        print(json.dumps(ours()))
        return
    strands = "greenlet" if importlib.util.find_spec("greenlet") else "thread"
    rounds = measure(options.file, strands, options.rounds)
    if options.json:
        options.json.write_text(json.dumps({"strands": strands, "rounds": rounds}, indent=1))
    print(table(rounds, strands))


if __name__ == "__main__":
    main()
