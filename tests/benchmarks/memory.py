"""Where memory is bounded: the highest resident memory of each process, case by case.

`python3 tests/benchmarks/memory.py [--backend zmq]` runs each case by itself, with three workers, and checks its
result; `python3 tests/benchmarks/memory.py --size 1024 -n 2 constant` one case, of 1 GiB. Linux only: of each process,
what is read is VmHWM, which is exact; of all together, the sum of their shares (PSS), each 20 ms.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from scoop_lite import futures, shared  # noqa: E402

BIG, N = int(os.environ.get("MEMORY_MIB", 256)) << 20, 300_000
ROWS = {
    "idle": "nothing: workers that wait",
    "endless": "a `map` over an endless input, of which 300,000 results are read",
    "unread": "300,000 results that nobody reads",
    "slow": "30,000 results of 1,000 bytes, read one each 0.2 ms",
    "many": "10,000 results, each a list of 60,000 bytes, read one by one",
    "there": "an argument of {} MiB, and its length back",
    "back": "a result of {} MiB",
    "constant": "a constant of {} MiB, read by all",
}


def same(x):
    return x


def blob(x):
    return bytes(x)


def listed(x):
    return [bytes(x)]


def constant_size(_):
    return len(shared.getConst("big", timeout=60))


def endless():
    i = 0
    while True:
        yield i
        i += 1


def elsewhere(func, *args):
    """Run a task, not here."""
    future = futures.submit(func, *args)
    while not future.done():
        time.sleep(0.005)
    return future.result()


def run(case):
    """Do what a case is about; return whether it was right."""
    if case == "endless":
        results = futures.map(same, endless())
        return all(next(results) == i for i in range(N))
    if case == "unread":
        waiting = [futures.submit(same, i) for i in range(N)]
        futures.wait(waiting)
        return waiting[-1].result() == N - 1
    if case == "slow":
        return all(time.sleep(2e-4) or len(result) == 1000 for result in futures.map(blob, [1000] * 30_000))
    if case == "many":  # in one chunk, sent home by a worker that nobody waits for
        results = futures.map(listed, [60_000] * 10_000, chunksize=10_000)
        time.sleep(2)
        return all(len(result[0]) == 60_000 for result in results)
    if case in ("there", "back"):
        return elsewhere(len, bytes(BIG)) == BIG if case == "there" else len(elsewhere(blob, BIG)) == BIG
    if case == "constant":
        shared.setConst(big=bytes(BIG))
        return set(futures.run_on_all(constant_size, 0).values()) == {BIG}
    return True


def status(pid, field):
    with open(f"/proc/{pid}/status") as file:
        return int(next(line.split()[1] for line in file if line.startswith(field + ":")))


def peak_mib(pid="self"):
    return status(pid, "VmHWM") >> 10


def share_kib(pid):
    """Return the memory of a process and all below it, shared pages divided among those that have them."""
    try:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            own = next(int(line.split()[1]) for line in file if line.startswith("Pss:"))
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            return own + sum(map(share_kib, file.read().split()))
    except (OSError, StopIteration):
        return 0  # it has just ended


def main():
    case = os.environ.get("MEMORY_CASE")
    if case:
        right = run(case)
        agent = os.getppid()
        others = [peak for rank, peak in futures.run_on_all(peak_mib).items() if rank]
        print(*(peak_mib(pid) for pid in (status(agent, "PPid"), agent, "self")), max(others), right)
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", default="own")
    parser.add_argument("--size", default="256", help="MiB of what is big (default: %(default)s)")
    parser.add_argument("-n", default="3", help="workers (default: %(default)s)")
    parser.add_argument("cases", nargs="*", default=ROWS)
    options = parser.parse_args()
    print("| MiB, at most | Launcher | Agent | Origin | Another worker | Together |\n|---|---|---|---|---|---|")
    for case in options.cases:
        words = ["-q", "-n", options.n, "--backend", options.backend, __file__]
        environment = dict(os.environ, MEMORY_CASE=case, MEMORY_MIB=options.size)
        command = [sys.executable, str(ROOT / "scoop_lite.py"), *words]
        process, together = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE), 0
        while process.poll() is None:
            together = max(together, share_kib(process.pid) >> 10)
            time.sleep(0.02)
        *peaks, right = process.communicate()[0].decode().split()
        if right != "True":
            raise SystemExit(f"{case}: wrong result")
        print(f"| {ROWS[case].format(options.size)} | {' | '.join(peaks)} | {together} |", flush=True)


if __name__ == "__main__":
    main()
