#!/usr/bin/env python3
"""Let random users of an `Executor` do random things at once, while its workers are killed now and then.

    python3 tests/soak_executor.py --runs 100 --seed 1

Run number i has the seed SEED + i, from which its options, users and deaths follow. Each step of a user knows what must
come of it. A failure prints the line that runs its seed again, and what went wrong; the exit status is 1 then.
"""
from __future__ import annotations

import argparse
import concurrent.futures
import faulthandler
import functools
import importlib.util
import os
import pathlib
import random
import signal
import subprocess
import sys
import threading
import time
import traceback

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import scoop_lite  # noqa: E402
from scoop_lite import Executor, futures, shared  # noqa: E402

HANG_S = 90
BACKENDS = ["own", "zmq"] if importlib.util.find_spec("zmq") else ["own"]
STRANDS = ["greenlet", "thread"] if importlib.util.find_spec("greenlet") else ["thread"]
MIB = 1 << 20


def same(x):
    return x


def nap(seconds):
    time.sleep(seconds)
    return seconds


class Echo:
    def __init__(self, x):
        self.x = x

    def answer(self):
        return self.x


def answer_late(x, seconds):
    time.sleep(seconds)
    return x


def fail(x):
    raise ValueError(x)


def fib(n):
    return n if n < 2 else futures.submit(fib, n - 1).result() + fib(n - 2)


def nested_sum(n):
    return sum(futures.map(same, range(n)))


def nested_maximum(n):
    return futures.mapReduce(same, max, range(n))


def constant(name):
    return shared.getConst(name, timeout=10)


class Unpicklable:
    def __reduce__(self):
        raise RuntimeError("not me")


def make_unpicklable():
    return Unpicklable()


class User:
    """A thread of the program; each step draws one of the methods below and checks what came of it."""

    def __init__(self, pool, seed, max_tasks, deaths):
        self.pool, self.seed, self.rng, self.deaths = pool, seed, random.Random(seed), deaths
        self.few = max_tasks is not None  # with a new process for each few tasks, so many are slow
        self.n = 0

    def run(self, errors):
        steps = [getattr(self, name) for name in dir(self) if name.startswith("step_")]
        try:
            for n in range(self.rng.randrange(5, 40)):
                self.n = n
                self.rng.choice(steps)()
        except BaseException:
            errors.append(traceback.format_exc())

    def size(self, *sizes):
        """Draw a number of tasks."""
        return min(self.rng.choice(sizes), 8 if self.few else sizes[-1])

    def raises(self, error, future):
        try:
            future.result(60)
        except error as found:
            return found.args
        raise AssertionError(f"no {error.__name__}")

    def step_submit(self):
        n = self.size(1, 3, 100, 2000)
        found = [self.pool.submit(same, i) for i in range(n)]
        assert [future.result(60) for future in found] == list(range(n))

    def step_submit_many_ways(self):
        n = self.size(1, 3, 100, 2000)
        ways = [
            lambda i: (same, i), lambda i: (functools.partial(same, i),), lambda i: (Echo(i).answer,),
            lambda i: (answer_late, i, self.rng.random() * 0.002),
        ]  # fmt: skip
        found = [self.pool.submit(*self.rng.choice(ways)(i)) for i in range(n)]
        assert [future.result(60) for future in found] == list(range(n))

    def step_map(self):
        n = self.size(1, 10, 1000, 50_000)
        assert list(self.pool.map(same, range(n))) == list(range(n))

    def step_map_in_chunks(self):
        n = self.size(10, 1000)
        assert list(self.pool.map(same, list(range(n)), chunksize=self.rng.choice([1, 7, 100]))) == list(range(n))

    def step_begin_a_map(self):
        results = self.pool.map(same, iter(range(100_000)), buffersize=self.rng.choice([1, 3, 50]))
        assert [next(results) for _ in range(20)] == list(range(20))
        if self.rng.random() < 0.5:
            results.close()

    def step_fail(self):
        assert self.raises(ValueError, self.pool.submit(fail, self.n)) == (self.n,)

    def step_what_cannot_travel(self):
        self.raises(RuntimeError, self.pool.submit(make_unpicklable))
        self.raises(RuntimeError, self.pool.submit(same, Unpicklable()))
        assert self.pool.submit(lambda: lambda x: x + 1).result(60)(3) == 4

    def step_nest(self):
        n = self.size(10, 500)
        assert self.pool.submit(nested_sum, n).result(60) == sum(range(n))
        assert self.pool.submit(nested_maximum, n).result(60) == n - 1
        assert self.pool.submit(fib, 5 if self.few else 12).result(60) == (5 if self.few else 144)

    def step_big(self):
        n = self.rng.choice([10, MIB, 3 * MIB])
        assert self.pool.submit(len, bytes(n)).result(60) == n
        assert len(self.pool.submit(bytes, n).result(60)) == n

    def step_cancel(self):
        found = [self.pool.submit(nap, 0.01) for _ in range(self.size(30))]
        cancelled = {future for future in found if self.rng.random() < 0.5 and future.cancel()}
        assert all(future.cancelled() if future in cancelled else future.result(60) == 0.01 for future in found)

    def step_wait(self):
        n = self.size(10)
        found = [self.pool.submit(nap, self.rng.random() * 0.02) for _ in range(n)]
        assert len(list(concurrent.futures.as_completed(found, 60))) == n
        assert not concurrent.futures.wait(found, 60).not_done

    def step_run_on_all(self):
        try:
            assert set(self.pool.run_on_all(same, self.n).values()) == {self.n}
        except scoop_lite.WorkerLost:
            assert self.deaths, "a worker was lost, of which none was killed"

    def step_constant(self):
        name = f"c{self.seed}_{self.n}"
        self.pool.set_const(**{name: self.n})
        assert self.pool.submit(constant, name).result(60) == self.n


def children(pid):
    """Return the children of a process (Linux)."""
    try:
        return [int(child) for child in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def kill_some(pool, rng, deaths, n, over):
    """Kill `n` workers, as time goes by."""
    for _ in range(n):
        if over.wait(rng.random() * 0.4):
            return
        workers = [worker for agent in children(pool._client.process.pid) for worker in children(agent)]
        if workers:
            deaths.append(rng.choice(workers))
            try:
                os.kill(deaths[-1], signal.SIGKILL)
            except ProcessLookupError:
                pass  # it has retired just now


def run(seed):
    """Do one run; return what went wrong, and words about it."""
    rng = random.Random(seed)
    options = {"backend": rng.choice(BACKENDS), "strands": rng.choice(STRANDS)}
    options["max_tasks_per_child"] = max_tasks = rng.choice([None, None, 1, 3, 20])
    n, n_users, n_deaths = rng.randrange(1, 5), rng.choice([1, 2, 4]), rng.choice([0, 0, 1, 3, 6])
    errors, deaths, over = [], [], threading.Event()
    with Executor(n, retries=40, restarts=1000, quiet=True, **options) as pool:
        users = [User(pool, seed * 100 + i, max_tasks, deaths) for i in range(n_users)]
        threads = [threading.Thread(target=user.run, args=(errors,)) for user in users]
        killer = threading.Thread(target=kill_some, args=(pool, random.Random(~seed), deaths, n_deaths, over))
        for thread in (*threads, killer):
            thread.start()
        for thread in threads:
            thread.join()
        over.set()
        killer.join()
    return errors, f"{n} workers, {n_users} users, {len(deaths)} killed, {options}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--here", action="store_true", help="do one run, in this process")
    options = parser.parse_args()
    if options.here:
        faulthandler.dump_traceback_later(HANG_S, exit=True)
        errors, words = run(options.seed)
        print(words, *errors, sep="\n")
        return len(errors) > 0
    n_failed = 0
    for seed in range(options.seed, options.seed + options.runs):
        words = [sys.executable, __file__, "--here", "--seed", str(seed)]
        done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True)
        if done.returncode:
            n_failed += 1
            print(f"FAILED: {' '.join(words)}\n{done.stdout}", flush=True)
    print(f"{options.runs} runs from seed {options.seed}, {n_failed} failed")
    return n_failed > 0


if __name__ == "__main__":
    sys.exit(main())
