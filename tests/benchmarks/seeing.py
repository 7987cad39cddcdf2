"""What it costs to look: `python3 tests/benchmarks/seeing.py`.

`--trace`: a pool of one worker runs each program many times, by turns with its recorder and without; and pools of two,
by turns with `--trace` and without, run a `map`. Then the size of a trace of tasks that travel alone. `--progress`:
the share of a run of no-ops that its worker spends on telling, and what the launcher needs with and without it.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve()


def noop(value):
    """Return the argument."""
    return value


def nap(length_s):
    """Keep no CPU busy."""
    time.sleep(length_s)


def spin(length_s):
    """Keep a CPU busy."""
    end = time.perf_counter() + length_s
    while time.perf_counter() < end:
        pass


def fib(n):
    """Return the n-th Fibonacci number; every call is a task."""
    if n < 2:
        return n
    left, right = futures().submit(fib, n - 1), futures().submit(fib, n - 2)
    return left.result() + right.result()


def futures():
    """Return the programming interface."""
    return sys.modules["scoop_lite"].futures


def submit_all(function, items):
    """Submit all, then take all results."""
    for future in [futures().submit(function, item) for item in items]:
        future.result()


PROGRAMS = {
    "`submit` and `result` of 50,000 no-ops": lambda: submit_all(noop, range(50_000)),
    "nested `fib(20)`, 21,891 tasks": lambda: fib(20),
    "`submit` and `result` of 2,000 tasks of 50 µs": lambda: submit_all(spin, [50e-6] * 2_000),
}


def toggle(n_rounds):
    """Print for each program the least CPU seconds without the recorder, and with it (in a pool of one worker)."""
    runtime = sys.modules["scoop_lite"]._state["runtime"]
    recorder, found = runtime.recorder, {}
    for name, program in PROGRAMS.items():
        spent = {True: [], False: []}
        for index in range(2 * n_rounds):
            with_it = bool(index % 2) ^ bool(index // 2 % 2)
            runtime.recorder = runtime.scheduler.recorder = recorder if with_it else None
            start = time.process_time()
            program()
            spent[with_it].append(time.process_time() - start)
        found[name] = [statistics.median(spent[False]), statistics.median(spent[True])]
    runtime.recorder = runtime.scheduler.recorder = recorder
    print(json.dumps(found))


def map_noops(n):
    """Print the CPU seconds of all workers for a `map` of no-ops."""
    list(futures().map(noop, range(1000)))
    before = sum(futures().run_on_all(time.process_time).values())
    for _ in futures().map(noop, range(n)):
        pass
    print(json.dumps(sum(futures().run_on_all(time.process_time).values()) - before))


def cpu_of(pid):
    """Return the CPU seconds of a process, and its parent (Linux)."""
    fields = pathlib.Path("/proc/%d/stat" % pid).read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), int(fields[1])


def progress(n):
    """Print the share of a worker's time that goes into telling, and the CPU seconds of the launcher."""
    runtime = sys.modules["scoop_lite"]._state["runtime"]
    tell, told = runtime.teller.tell, []

    def timed(*args, **more):
        start = time.thread_time()
        tell(*args, **more)
        told.append(time.thread_time() - start)

    runtime.teller.tell = timed
    start, (_, launcher) = time.perf_counter(), cpu_of(cpu_of(os.getpid())[1])
    before = cpu_of(launcher)[0]
    for _ in futures().map(noop, range(n)):
        pass
    length_s = time.perf_counter() - start
    print(json.dumps([sum(told) / length_s, (cpu_of(launcher)[0] - before) / length_s, length_s, len(told)]))


def launch(file, n, options, *words):
    """Return what a pool of `n` workers prints."""
    command = [sys.executable, str(file), "-n", str(n), *options, str(HERE), *map(str, words)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=300)
    if done.returncode:
        sys.exit("failed with status %d: %s\n%s" % (done.returncode, command, done.stderr.decode()))
    return json.loads(done.stdout or "null")


def compare(file, rounds):
    """Print the tables."""
    with tempfile.TemporaryDirectory() as directory:
        trace = pathlib.Path(directory) / "trace.json"
        options = ["--trace", str(trace)]
        found = launch(file, 1, options, "--inside", "toggle", "--rounds", 4 * rounds)
        spent = {True: [], False: []}
        for index in range(2 * rounds):
            with_it = bool(index % 2) ^ bool(index // 2 % 2)
            spent[with_it].append(launch(file, 2, options if with_it else [], "--inside", "map"))
        found["`map` of 10⁷ no-ops, two workers"] = [min(spent[False]), min(spent[True])]
        print("| --trace | CPU s without | with | ratio |\n|---|---|---|---|")
        for name, (without, with_it) in found.items():
            print("| %s | %.4f | %.4f | %.3f |" % (name, without, with_it, with_it / without))
        print("| | bytes a task |\n|---|---|\n| 10⁷ no-ops by `map` | %.2g |" % (trace.stat().st_size / 1e7))
        launch(file, 20, options, "--inside", "naps")
        print("| 20,000 tasks of 30 ms, each alone, on 20 workers | %.0f |" % (trace.stat().st_size / 20_000))
    print("\n| 3 × 10⁷ no-ops by `map` | telling, share of the worker's time | launcher's CPU, share of the time |\n|---|---|---|")
    for option in ([], ["--progress"]) * 2:
        share, launcher, length_s, n = launch(file, 2, option, "--inside", "progress")
        print("| %s | %.3f %% (%d times in %.1f s) | %.2f %% |" % (
            " ".join(option) or "nothing", 100 * share, n, length_s, 100 * launcher))


def main():
    """Run inside a pool, or start pools and report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--inside", choices=("toggle", "map", "naps", "progress"), help=argparse.SUPPRESS)
    parser.add_argument("--file", type=pathlib.Path, default=HERE.parents[2] / "scoop_lite.py",
                        help="the scoop_lite.py to measure")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    inside = {"toggle": lambda: toggle(options.rounds), "map": lambda: map_noops(10 ** 7),
              "naps": lambda: submit_all(nap, [0.03] * 20_000), "progress": lambda: progress(3 * 10 ** 7)}
    if options.inside:
        inside[options.inside]()
    else:
        compare(options.file, options.rounds)


if __name__ == "__main__":
    main()
