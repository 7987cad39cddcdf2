"""`scoop_lite.Executor`, SCOOP's names, initializers, `run_on_all`, `--max-tasks-per-child`, `-i`."""

from __future__ import annotations

import asyncio
import builtins
import collections
import concurrent.futures
import contextlib
import functools
import gc
import importlib.util
import json
import os
import pickle
import py_compile
import random
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import types
import weakref
from concurrent.futures.process import BrokenProcessPool
from operator import mul
from pathlib import Path

import pytest
from conftest import needs_memory_limit

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(CHECKOUT))

import scoop_lite  # noqa: E402
from scoop_lite import Executor, futures, shared  # noqa: E402

INSTALLED = [Path("/usr/bin/python3"), *Path.home().glob(".pyenv/versions/3.*/bin/python")]
PYTHONS = sorted({sys.executable, *(str(p) for p in INSTALLED if p.exists() and not re.search(r"/3\.[67]\.", str(p)))})


@pytest.fixture(scope="module")
def pool():
    with Executor(2, quiet=True) as executor:
        yield executor


def run(source, *options, stdin=None, limit_s=30, launch=True):
    """Run a program, under the launcher or alone; return (status, standard output, standard error)."""
    words = [str(CHECKOUT / "scoop_lite.py"), "-n", "2", *options] if launch else []
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    program = ["-c", textwrap.dedent(source)] if source is not None else []
    done = subprocess.run([sys.executable, *words, *program], input=stdin, env=env, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, universal_newlines=True, timeout=limit_s)  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def fib(n):
    return n if n < 2 else futures.submit(fib, n - 1).result() + fib(n - 2)


def wait_for_file(path):
    """Wait until there is such a file, if a path is given at all; return whether it came in time."""
    deadline = time.monotonic() + 10
    while path and not os.path.exists(path) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not path or os.path.exists(path)


def die_once(path):
    """Kill the worker at the first call, return a number at the second."""
    if not os.path.exists(path):
        open(path, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return 7


STATE = []


def initialize(*values):
    STATE.append(values)


# -- PEP 3148 ---------------------------------------------------------------------------------------------------------


def test_a_future_is_a_real_one(pool):
    future = pool.submit(pow, 2, 10)
    assert isinstance(future, concurrent.futures.Future)
    assert future.result(20) == 1024
    assert concurrent.futures.wait([pool.submit(pow, 2, i) for i in range(5)]).not_done == set()


@pytest.fixture
def restless():
    """Have threads switch as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def raced(n, make, *actions):
    """Have a thread for each action call it with the same new future, at about the same time, `n` times over."""
    made, results = [make() for _ in range(n)], [[] for _ in actions]
    barrier = threading.Barrier(len(actions))

    def play(action, into):
        for future in made:
            barrier.wait(100)
            into.append(action(future))

    threads = [threading.Thread(target=play, args=pair) for pair in zip(actions, results)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive(), "somebody waits for ever"
    return list(zip(made, *results))


def test_a_task_is_started_or_cancelled_never_both(restless):
    starts = scoop_lite.PoolFuture.set_running_or_notify_cancel
    cancels = scoop_lite.PoolFuture.cancel
    for future, started, cancelled, also in raced(1000, scoop_lite.PoolFuture, starts, cancels, cancels):
        assert started is not cancelled and cancelled is also
        assert future.running() is started and future.cancelled() is cancelled


def test_failing_a_future_that_is_cancelled_at_that_moment_does_no_harm():
    class Cancelled(scoop_lite.PoolFuture):
        def done(self):
            before = super().done()
            self.cancel()
            return before

        def set_exception(self, exception):
            self.cancel()
            super().set_exception(exception)

    future = Cancelled()
    future.settle(scoop_lite.Failure(BrokenProcessPool("x")))
    assert future.cancelled()


def test_who_waits_does_not_miss_the_result_whenever_it_comes(restless):
    called = []

    def wait(future):
        future.add_done_callback(called.append)
        return concurrent.futures.wait([future], 20).not_done == set() and future.result(20)

    outcomes = raced(1000, scoop_lite.PoolFuture, lambda future: future.set_result(7), lambda future: future.result(20),
                     lambda future: next(concurrent.futures.as_completed([future], 20)).result(), wait)
    assert {outcome[1:] for outcome in outcomes} == {(None, 7, 7, 7)}
    assert called == [outcome[0] for outcome in outcomes]


@pytest.mark.parametrize("settle", [lambda future: future.set_result(7), scoop_lite.PoolFuture.cancel,
                                    lambda future: future.set_exception(KeyError(7))])  # fmt: skip
def test_all_who_sleep_are_woken_whatever_the_outcome(restless, settle):
    def outcome(future):
        try:
            return future.result(20)
        except Exception as error:
            return type(error)

    def error(future):
        try:
            return type(future.exception(20))
        except Exception as error:
            return type(error)

    found = raced(300, scoop_lite.PoolFuture, settle, outcome, outcome, error)
    (expected,) = {(results[0], *results[1:]) for _, _, *results in found}
    assert expected in [(7, 7, type(None)), (KeyError, KeyError, KeyError), (concurrent.futures.CancelledError,) * 3]


@pytest.mark.parametrize("settle", [lambda future: future.set_result(7), scoop_lite.PoolFuture.cancel])
def test_who_sleeps_is_woken_before_callbacks(settle):
    """These may take long, or end the thread that calls them."""
    woken, future = threading.Event(), scoop_lite.PoolFuture()
    future.add_done_callback(lambda _: woken.wait(20) and sys.exit())

    def sleep():
        with contextlib.suppress(concurrent.futures.CancelledError):
            future.result()
        woken.set()

    sleeper = threading.Thread(target=sleep)
    sleeper.start()
    while future._sleeper is None:
        time.sleep(0.01)
    with pytest.raises(SystemExit):
        settle(future)
    assert woken.is_set()
    sleeper.join(20)


@pytest.mark.parametrize("seconds", [-1, 0, 0.05])
def test_who_has_waited_long_enough_may_wait_again(seconds):
    future = scoop_lite.PoolFuture()
    for wait in (future.result, future.exception) * 2:
        begun = time.monotonic()
        with pytest.raises(concurrent.futures.TimeoutError):
            wait(timeout=seconds)
        assert time.monotonic() - begun >= seconds
    setter = threading.Timer(0.05, future.set_result, [7])
    setter.start()
    assert future.result(20) == 7 and future.exception() is None


def test_a_settled_future_stays_as_it_is():
    future = scoop_lite.PoolFuture()
    future.set_exception(KeyError("x"))
    assert not future.cancel() and not future.cancelled() and future.done()
    with pytest.raises(concurrent.futures.InvalidStateError, match="FINISHED"):
        future.set_result(1)
    with pytest.raises(KeyError, match="x"):
        future.result()
    with pytest.raises(TypeError, match="cannot travel"):
        pickle.dumps(future)


def test_map_is_the_builtin_map(pool):
    assert list(pool.map(mul, range(10_000), range(10_000))) == list(map(mul, range(10_000), range(10_000)))
    assert list(pool.map(abs, [])) == []
    assert list(pool.map(divmod, [7, 8], iter([2, 3]))) == [(3, 1), (2, 2)]
    numbers = list(range(-5000, 0))
    results = pool.map(abs, numbers)
    numbers[:] = []  # later changes do not count
    assert list(results) == list(range(5000, 0, -1))


def test_chunksize_is_how_many_tasks_travel_together():
    status, out, err = run("""
        import time, scoop_lite

        def nap(i):
            time.sleep(0.02)
            return i

        if __name__ == "__main__":
            with scoop_lite.Executor(2, wiretap=True, backend="loopback") as pool:  # there, all goes by the broker
                print(list(pool.map(nap, range(52), chunksize=13)) == list(range(52)))
    """, launch=False)  # fmt: skip
    batches = re.findall(r"worker 0 > broker +BATCH .* task(?:s (\d+)–)? ?(\d+) of chunk", err)
    assert (status, out) == (0, "True\n"), err
    assert max(int(last) - int(first or last) + 1 for first, last in batches) == 13, err


def test_buffersize_bounds_what_is_drawn(pool):
    drawn = []

    def numbers():
        for i in range(1_000_000):
            drawn.append(i)
            yield i

    results = pool.map(abs, numbers(), buffersize=4)
    assert drawn == [0, 1, 2, 3]
    assert [next(results) for _ in range(10)] == list(range(10))
    assert len(drawn) == 14
    results.close()


@pytest.mark.parametrize("length", [20, 5000])
def test_a_closed_map_has_ended_in_the_middle_of_a_run(pool, length):
    results = pool.map(abs, range(length), chunksize=length)
    assert next(results) == 0
    results.close()
    assert list(results) == []


@pytest.mark.parametrize("size", [0, -1, 1.5])
def test_bad_sizes_are_refused(pool, size):
    with pytest.raises((TypeError, ValueError), match="buffersize"):
        pool.map(abs, [1], buffersize=size)
    with pytest.raises(ValueError, match="max_workers must be greater than 0"):
        Executor(-1)
    with pytest.raises(TypeError, match="no option 'colour'"):
        Executor(1, colour="red")
    with pytest.raises(ValueError, match="chunksize must be >= 1"):
        pool.map(abs, [1], chunksize=0)
    with pytest.raises(TypeError, match="float"):
        pool.map(abs, [-1, -2], chunksize=2 / 1)
    assert list(pool.map(abs, [-1, -2, -3], chunksize=Two())) == [1, 2, 3]  # as numpy's; and the pool goes on


class Two:
    def __index__(self):
        return 2

    def __lt__(self, other):
        return 2 < other


@pytest.mark.parametrize("how, error, text", [
    ({"initializer": 3}, TypeError, "initializer must be a callable"),
    ({"max_tasks_per_child": "x"}, TypeError, "max_tasks_per_child must be an integer"),
    ({"max_tasks_per_child": -1}, ValueError, "max_tasks_per_child must be >= 1"),
])  # fmt: skip
def test_misuse_is_refused_before_a_process_starts(how, error, text):
    with pytest.raises(error, match=text):
        Executor(1, **how)


def test_a_result_that_is_late_ends_its_map_and_leaves_the_pool_usable(pool, tmp_path):
    assert pool.submit(abs, -1).result(20) == 1  # it is up
    results = pool.map(wait_for_file, [str(tmp_path / "go")], timeout=1)
    with pytest.raises(concurrent.futures.TimeoutError, match="was not there in time"):
        next(results)
    (tmp_path / "go").touch()
    assert pool.submit(abs, -1).result(20) == 1


def test_the_time_of_a_map_runs_from_its_call_on_while_its_input_is_drawn_too(pool):
    def slowly():
        time.sleep(0.9)
        yield 0.7

    assert pool.submit(abs, -1).result(20) == 1  # it is up
    with pytest.raises(concurrent.futures.TimeoutError):
        list(pool.map(time.sleep, slowly(), timeout=0.8))


def test_a_map_raises_where_the_serial_map_would(pool):
    def numbers():
        yield 1
        raise OSError("no more input")

    results = pool.map(divmod, [1, 2, 3], [1, 0, 3])
    assert next(results) == (1, 0)
    with pytest.raises(ZeroDivisionError):
        next(results)
    with pytest.raises(OSError, match="no more input"):  # all is drawn at once
        pool.map(abs, numbers())
    results = pool.map(abs, numbers(), buffersize=1)
    assert next(results) == 1
    with pytest.raises(OSError, match="no more input"):
        next(results)


def test_shutdown_may_cancel_a_map_that_has_just_begun():
    pool = Executor(1, quiet=True)
    results, start = pool.map(time.sleep, [0.2] * 100), time.monotonic()
    pool.shutdown(cancel_futures=True)
    assert time.monotonic() - start < 15  # of 20 s of work
    with pytest.raises(concurrent.futures.CancelledError):
        list(results)


@pytest.mark.parametrize("how, n", [
    ({"hosts": ["localhost:5"]}, 5), ({"hosts": ["localhost"]}, scoop_lite.usable_cpus()), ({}, 4),
    ({"max_workers": 1, "hosts": ["localhost:5"]}, 1),
])  # fmt: skip
def test_hosts_say_how_many_workers_there_are_unless_the_caller_does(monkeypatch, tmp_path, how, n):
    (tmp_path / "nodes").write_text("localhost\n" * 4)
    monkeypatch.setenv("PBS_NODEFILE", str(tmp_path / "nodes"))
    with Executor(**how) as pool:
        assert len(pool.run_on_all(os.getpid)) == n


def test_shutdown_may_cancel_what_no_worker_has(tmp_path):
    pool = Executor(1, quiet=True)
    running = pool.submit(wait_for_file, str(tmp_path / "go"))
    while not running.running():
        time.sleep(0.01)
    waiting = [pool.submit(abs, -i) for i in range(50)]
    results = pool.map(wait_for_file, [str(tmp_path / "go")] * 50)
    pool.shutdown(wait=False, cancel_futures=True)
    (tmp_path / "go").touch()
    with pytest.raises(concurrent.futures.CancelledError):
        list(results)
    pool.shutdown()
    assert running.result(20) and sum(future.cancelled() for future in waiting) >= 40
    assert all(future.done() for future in waiting)


def test_a_future_that_the_user_has_settled_stays_so(pool, tmp_path):
    future = pool.submit(wait_for_file, str(tmp_path / "go"))
    while not future.running():
        time.sleep(0.01)
    future.set_result("mine")
    (tmp_path / "go").touch()
    assert pool.submit(abs, -1).result(20) == 1 and set(pool.run_on_all(len, "abc").values()) == {3}
    assert future.result() == "mine"


def test_what_the_user_settles_before_it_starts_does_not_run(pool, tmp_path):
    tasks = [pool.submit(wait_for_file, str(tmp_path / "go")) for _ in range(20)]
    tasks[-1].set_result("mine")
    (tmp_path / "go").touch()
    assert all(task.result(20) for task in tasks[:-1])
    assert tasks[-1].result() == "mine" and pool.submit(abs, -1).result(20) == 1


def test_what_is_for_all_workers_fails_its_caller_alone(pool):
    with pytest.raises(TypeError, match="pickle"):
        pool.run_on_all(len, threading.Lock())
    with pytest.raises(TypeError, match="pickle"):
        pool.set_const(a_lock=threading.Lock())
    with pytest.raises(Odd, match="no"):
        pool.run_on_all(fail_oddly)
    assert set(pool.run_on_all(len, "abc").values()) == {3}


def test_what_cannot_be_pickled_fails_its_own_future(pool):
    bad, good = pool.submit(abs, threading.Lock()), pool.submit(abs, -1)
    with pytest.raises(TypeError) as caught:
        bad.result(20)
    assert "arguments)[1][0] (type _thread.lock)" in str(caught.value.__cause__)
    assert good.result(20) == 1
    with pytest.raises(TypeError, match="cannot travel"):
        pool.submit(abs, pool).result(20)


class Odd(Exception):
    def __init__(self, code, text):
        super().__init__(text)
        self.code = code


class Stubborn:
    """Raises what it likes when it is pickled, or, elsewhere, when it is unpickled."""

    def __init__(self, at_home=False):
        self.at_home = at_home

    def __reduce__(self):
        return (int, ("no number",)) if self.at_home else 1 / 0


def fail_oddly():
    raise Odd(3, "no")


#: A function and its arguments; the error that its future has; what the error says; what its cause says.
FAILURES = {
    "exception with arguments of its own": ((fail_oddly,), Odd, "^no$", r"raise Odd\(3"),
    "argument that raises": ((abs, Stubborn()), ZeroDivisionError, "division", r"arguments\)\[1\]\[0\]"),
    "result that raises": ((Stubborn,), ZeroDivisionError, "division", r"cannot pickle result \(type .*Stubborn\)"),
    "result that cannot travel": ((threading.Lock,), TypeError, "cannot pickle result.*fix: create it inside", ""),
    "argument that cannot be read": ((dict, {1: Stubborn(True)}), BrokenProcessPool, r"unpickle task", ""),
}


@pytest.mark.parametrize("what", FAILURES)
def test_failures_say_what_happened(pool, what):
    call, error, text, cause = FAILURES[what]
    with pytest.raises(error, match=text) as caught:
        pool.submit(*call).result(20)
    assert re.search(cause, str(caught.value.__cause__))


def test_tasks_are_named_with_their_arguments(pool):
    with pytest.raises(BrokenProcessPool, match=r"task dict\(1, key=<.*Stubborn object at \w+>\)"):
        pool.submit(dict, 1, key=Stubborn(True)).result(20)


def test_nested_tasks(pool):
    assert pool.submit(fib, 12).result(30) == 144


def test_any_thread_may_submit(pool):
    results = [None] * 8

    def use(i):
        results[i] = sum(pool.submit(abs, -j).result(30) for j in range(50))

    threads = [threading.Thread(target=use, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [sum(range(50))] * 8


def test_an_executor_made_in_a_thread_outlives_it():
    made = []
    thread = threading.Thread(target=lambda: made.append(Executor(1)))
    thread.start()
    thread.join()
    with made[0] as executor:
        assert executor.submit(abs, -3).result(20) == 3


def test_asyncio(pool):
    async def main():
        loop = asyncio.get_running_loop()
        return await asyncio.gather(*(loop.run_in_executor(pool, pow, 2, i) for i in range(20)))

    assert asyncio.run(main()) == [2**i for i in range(20)]


def test_the_asyncio_example():
    command = [sys.executable, "examples/executor_asyncio.py"]
    done = subprocess.run(command, cwd=CHECKOUT, stdout=subprocess.PIPE, timeout=60)
    documented = (CHECKOUT / "examples" / "executor_asyncio.py").read_text().splitlines()[3:6]
    assert [line.strip() for line in documented] == done.stdout.decode().splitlines()


def test_a_directory_that_is_gone_is_done_without(tmp_path):
    source = f"""
        import os
        os.mkdir({str(tmp_path / "gone")!r})
        os.chdir({str(tmp_path / "gone")!r})
        os.rmdir({str(tmp_path / "gone")!r})
        import scoop_lite
        with scoop_lite.Executor(2) as pool:
            print(sum(pool.map(lambda x: x * x, range(100))))
        """
    assert run(source, launch=False) == (0, "328350\n", "")


@pytest.mark.parametrize("module, name", [(threading, "get_ident"), (select, "select"), (subprocess, "Popen")])
def test_green_threads_are_refused_rather_than_waited_with(monkeypatch, module, name):
    green = lambda *args: 1  # noqa: E731
    green.__module__ = "gevent.thread"
    monkeypatch.setattr(module, name, green)
    monkeypatch.setitem(sys.modules, "gevent", green)
    with pytest.raises(scoop_lite.MisuseError, match="gevent has replaced"):
        Executor(1)


def test_green_threads_that_come_later_are_refused_too(monkeypatch):
    with Executor(1) as pool:
        with monkeypatch.context() as patched:
            patched.setitem(sys.modules, "eventlet", os)
            patched.setattr(scoop_lite.select, "select", types.SimpleNamespace(__module__="eventlet.green.select"))
            for use in pool.submit, pool.map:
                with pytest.raises(scoop_lite.MisuseError, match="eventlet has replaced"):
                    use(abs, [-1])
        assert pool.submit(abs, -1).result() == 1


def test_a_future_that_user_code_has_set_running_is_run_all_the_same():
    with Executor(1) as pool:
        tasks = []
        with pool._lock:  # the client's thread is busy
            pool._client.call(time.sleep, 0.2)
            for i in range(5):
                tasks.append(pool.submit(abs, -i))
        try:
            tasks[2].set_running_or_notify_cancel()
        except (concurrent.futures.InvalidStateError, RuntimeError):
            pass  # it was sent already
        assert [task.result(10) for task in tasks] == [*range(5)]


def test_tasks_of_tasks_that_nobody_waits_for_are_run_before_a_pool_ends(tmp_path):
    ledger = tmp_path / "ledger"

    def grow(depth):
        time.sleep(0.01)
        with open(ledger, "a") as file:
            file.write("x")
        for _ in range(2 if depth else 0):
            futures.submit(grow, depth - 1)

    with Executor(3) as pool:
        pool.submit(grow, 5).result()
    assert ledger.read_text() == "x" * 63
    started = tmp_path / "started"

    def go_on():
        futures.submit(time.sleep, 60)
        started.touch()
        time.sleep(60)

    with pytest.raises(KeyboardInterrupt), Executor(1) as pool:  # which gives up all
        pool.submit(go_on)
        while not started.exists():
            time.sleep(0.01)
        raise KeyboardInterrupt


def test_an_interrupt_ends_the_wait_for_what_tasks_have_left_behind():
    def leave():
        futures.submit(time.sleep, 60)

    pool = Executor(1)
    pool.submit(leave).result()
    pool.shutdown(wait=False)
    while pool._client.asked is None:
        time.sleep(0.01)
    pool._client.call(pool._client.give_up)  # as at the exit of a program that an interrupt has ended
    pool._client.thread.join(10)
    assert not pool._client.thread.is_alive()


def test_a_signals_handler_may_submit_while_the_program_does():
    with Executor(1) as pool, pool._lock:  # as where `submit` is interrupted
        task = pool.submit(abs, -1)
        assert task.result(10) == 1


def test_an_executor_made_by_an_exit_function_is_refused_each_time():
    source = """
        import atexit, scoop_lite

        @atexit.register
        def late():
            for _ in range(2):
                try:
                    print(scoop_lite.Executor(1).submit(abs, -1).result())
                except RuntimeError as error:
                    print(type(error).__name__)
    """
    assert run(source, launch=False) == (0, 2 * ("1\n" if sys.version_info < (3, 9) else "RuntimeError\n"), "")


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
def test_no_worker_holds_descriptors_that_lead_to_others():
    with Executor(9) as pool:
        assert len(set(pool.run_on_all(count_descriptors).values())) == 1


def count_descriptors():
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="tasks go through the broker, which serves who was hungry first")
def test_a_lone_task_goes_to_the_worker_that_was_busy_last():
    with Executor(2) as pool:
        pool.run_on_all(os.getpid)
        pids = [pool.submit(os.getpid).result(20) for _ in range(60)]
    assert collections.Counter(pids).most_common(1)[0][1] >= 45, pids  # in turn, it would be 30


def test_two_executors_are_two_pools():
    with Executor(1) as one, Executor(1) as other:
        assert one.submit(os.getpid).result(20) != other.submit(os.getpid).result(20)


@pytest.mark.parametrize("name", ["kill_workers", "terminate_workers"])
def test_the_pool_can_be_ended_with_all_that_runs(tmp_path, name):
    executor = Executor(2, quiet=True)
    pids = executor.run_on_all(os.getpid)
    running = [executor.submit(wait_for_file, str(tmp_path / "never")) for _ in range(2)]
    while not all(future.running() for future in running):
        time.sleep(0.01)
    waiting = [executor.submit(abs, -i) for i in range(50)]
    results = executor.map(abs, range(50))
    getattr(executor, name)()
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(abs, 1)
    for future in running:
        assert isinstance(future.exception(20), BrokenProcessPool)
    assert concurrent.futures.wait(waiting, 20).not_done == set() and any(future.cancelled() for future in waiting)
    with pytest.raises((concurrent.futures.CancelledError, BrokenProcessPool)):
        list(results)
    executor.shutdown()
    assert not [pid for pid in pids.values() if os.path.exists(f"/proc/{pid}")]
    getattr(executor, name)()  # of a pool that has ended, too


def test_a_pool_that_is_not_used_can_be_ended():
    executor = Executor(1)
    executor.kill_workers()
    executor.shutdown()
    assert executor._client.process.returncode is not None


def test_shutdown_leaves_no_process_and_refuses_more():
    executor = Executor(2)
    pids = executor.run_on_all(os.getpid)
    assert sorted(pids) == [1, 2]
    future = executor.submit(time.sleep, 0.2)
    executor.shutdown()
    assert future.done()
    assert not [pid for pid in pids.values() if os.path.exists(f"/proc/{pid}")]
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(abs, 1)


def test_closed_pools_leave_nothing_to_the_garbage_collector():
    """Each kept two descriptors until it came, and a program that makes little garbage may run out of them before."""
    gc.collect()
    gc.disable()
    try:
        with Executor(1) as executor:
            assert executor.submit(pow, 2, 5).result(20) == 32
        client = weakref.ref(executor._client)
        del executor
        assert client() is None
    finally:
        gc.enable()


def test_a_dropped_executor_ends_its_pool():
    executor = Executor(1)
    pid, future = executor.submit(os.getpid).result(20), executor.submit(pow, 2, 3)
    del executor
    gc.collect()
    assert future.result(20) == 8
    limit = time.monotonic() + 10
    while os.path.exists(f"/proc/{pid}") and time.monotonic() < limit:
        time.sleep(0.01)
    assert not os.path.exists(f"/proc/{pid}")


def test_constants(pool):
    pool.set_const(executor_constant=[1, 2])
    assert pool.submit(shared.getConst, "executor_constant").result(20) == [1, 2]
    with pytest.raises(TypeError, match="set already"):
        pool.set_const(another_constant=4, executor_constant=3)
    pool.set_const(another_constant=5)  # nothing was set
    pool.set_const()  # none: done at once


# -- faults -----------------------------------------------------------------------------------------------------------


def wait_for_constant(name, path):
    """Tell by a file that this task has begun; wait until the constant is there."""
    open(path, "w").close()
    return shared.getConst(name, None)


@pytest.mark.parametrize("strands", ["auto", "thread"])
def test_a_worker_whose_first_strand_has_nothing_left_to_do_stays(tmp_path, strands):
    """There are enough spare strands when the first, which is the process itself, has run the first task to its end."""
    waits = ["last", *["first"] * 20, "last"]
    with Executor(1, retries=0, strands=strands) as pool:
        tasks = [pool.submit(wait_for_constant, name, str(tmp_path / str(i))) for i, name in enumerate(waits)]
        for i in range(len(waits)):
            assert wait_for_file(str(tmp_path / str(i)))
        pool.set_const(first=1)
        assert [task.result(20) for task in tasks[1:-1]] == [1] * 20
        pool.set_const(last=2)
        assert (tasks[0].result(20), tasks[-1].result(20)) == (2, 2)


def test_results_do_not_wait_for_a_task_that_was_believed_to_be_short(tmp_path):
    for turn in range(3):  # each in a fresh pool: its worker has not been woken for anything yet
        with Executor(1) as pool:
            for _ in range(turn):
                pool.submit(wait_for_file, "").result(30)
            told = tmp_path / str(turn)
            results = pool.map(wait_for_file, ["", "", "", str(told)], chunksize=4)
            assert [next(results) for _ in range(3)] == [True] * 3
            told.touch()
            assert next(results), turn


def test_a_pool_without_workers_is_broken():
    """Those who wait for it are told, and those who come later."""
    pool = Executor(2, quiet=True, restarts=0, retries=0)
    tasks = [pool.submit(os._exit, 3) for _ in range(20)]
    results = pool.map(os._exit, [3] * 20)
    for future in tasks:
        with pytest.raises(BrokenProcessPool):
            future.result(20)
    with pytest.raises(BrokenProcessPool):
        list(results)
    with pytest.raises(BrokenProcessPool):
        pool.run_on_all(abs, -1)
    with pytest.raises(BrokenProcessPool, match="all workers of the pool have died"):
        pool.submit(abs, -1)
    assert "all workers of the pool have died" in pool._broken
    pool.shutdown()


def count_and_die(path):
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, b"!")
    os._exit(3)


@pytest.mark.parametrize("retries", (0, 1))
def test_a_task_runs_no_more_often_than_retries_allow(tmp_path, retries):
    with Executor(2, quiet=True, retries=retries) as pool:
        tasks = [pool.submit(count_and_die, str(tmp_path / str(i))) for i in range(6)]
        for future in tasks:
            with pytest.raises(scoop_lite.WorkerLost, match=rf"\(--retries {retries}\)"):
                future.result(20)
    runs = [len(path.read_text()) for path in tmp_path.iterdir()]
    assert len(runs) == 6 and max(runs) == retries + 1  # of a chunk, some were only present


def test_an_initializer_that_cannot_travel_breaks_the_pool():
    with Executor(1, quiet=True, initializer=print, initargs=(threading.Lock(),)) as pool:
        with pytest.raises(BrokenProcessPool, match="the initializer cannot be pickled: .*lock"):
            pool.submit(abs, -1).result(20)


def test_a_lost_worker_fails_its_task_alone(pool, tmp_path):
    assert pool.submit(die_once, str(tmp_path / "here")).result(30) == 7  # tried again
    doomed, fine = pool.submit(os.kill, 0, signal.SIGKILL), pool.submit(abs, -1)
    with pytest.raises(BrokenProcessPool, match="was running on 3 workers that died") as caught:
        doomed.result(30)
    assert isinstance(caught.value, scoop_lite.WorkerLost)
    assert fine.result(30) == 1
    assert pickle.loads(pickle.dumps(caught.value)).args == caught.value.args


def test_the_end_of_the_launcher_breaks_the_pool():
    executor = Executor(1)
    executor.submit(abs, 1).result(20)
    future = executor.submit(time.sleep, 60)
    executor._client.process.kill()
    with pytest.raises(BrokenProcessPool, match=f"the pool's launcher has ended with status {-signal.SIGKILL}"):
        future.result(10)
    with pytest.raises(BrokenProcessPool):
        executor.submit(abs, 1)
    executor.shutdown()


@pytest.mark.parametrize("question", ["set_const", "run_on_all"])
def test_who_waits_for_an_answer_learns_that_the_pool_is_broken(question):
    executor = Executor(1, quiet=True)
    ask = {"set_const": lambda: executor.set_const(a=1), "run_on_all": lambda: executor.run_on_all(abs, 1)}[question]
    executor.submit(abs, 1).result(20)
    client = executor._client
    os.kill(client.process.pid, signal.SIGSTOP)
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        answer = thread.submit(ask)
        time.sleep(0.1)
        client.process.kill()
        with pytest.raises(BrokenProcessPool, match="the pool's launcher has ended"):
            answer.result(20)
    executor.shutdown()
    with pytest.raises(BrokenProcessPool):  # one that comes just when the client has ended
        client.ask(client.send_constant, "b", [b""]).result(20)


SHORT_OF_DESCRIPTORS = """
    import contextlib, os, resource, scoop_lite
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, ({n}, {n} if {all} else hard))  # the launcher raises its own
    pool = scoop_lite.Executor(8)
    with contextlib.suppress(OSError):
        taken = [os.dup(0) for _ in range(0 if {all} else {n})]
    try:
        pool.submit(abs, -1).result()
    except scoop_lite.PoolBroken as error:
        print(error)
    """


@pytest.mark.parametrize("whole, n, words", [
    (True, 16, "all workers of the pool have died"), (False, 64, "no descriptor is left|Too many open files")
], ids=["launcher", "client"])  # fmt: skip
def test_a_pool_that_is_short_of_descriptors_says_so_and_nobody_waits(whole, n, words):
    status, out, err = run(SHORT_OF_DESCRIPTORS.format(n=n, all=whole), launch=False)
    assert status == 0 and re.search(words, out), (out, err)
    assert err.count("could not be started: Too many open files; see `ulimit -a`; ") == 8 * whole, err


SHORT_OF_MEMORY = """
    import resource, scoop_lite

    def limit():
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (50 << 20), -1))

    if __name__ == "__main__":
        if {big_result}:
            pool, work = scoop_lite.Executor(2), (bytes, 150 << 20)
            pool.submit(abs, -1).result()
            limit()
        else:
            pool, work = scoop_lite.Executor(2, initializer=limit), (len, bytes(150 << 20))
        print(pool.submit(*work).exception(60))
        print(pool.submit(abs, -7).result(60))
    """


@pytest.mark.parametrize("program", ["sys.frozen, sys._base_executable = True, sys.executable",
                                     "sys.executable, sys.exec_prefix = '', '/nowhere'"])  # fmt: skip
def test_a_frozen_program_does_not_start_itself_over_and_over(program):
    status, out, err = run("""
        import sys, scoop_lite
        %s
        try:
            scoop_lite.Executor(2)
        except scoop_lite.MisuseError as error:
            print(error)
    """ % program, launch=False)
    assert (status, err) == (0, "") and "frozen" in out, (out, err)


def test_a_frozen_program_uses_the_interpreter_that_it_names_if_our_file_is_there():
    status, out, err = run("""
        import sys, scoop_lite
        sys.frozen, sys._base_executable = True, "/opt/copy/program"
        with scoop_lite.Executor(2) as pool:
            print(pool.submit(abs, -5).result())
        scoop_lite.__file__ = "/nowhere/scoop_lite.py"
        try:
            scoop_lite.Executor(2)
        except scoop_lite.MisuseError as error:
            print(error)
    """, launch=False)
    assert (status, err) == (0, "") and out.startswith("5\n/nowhere/scoop_lite.py is not there"), (out, err)


@pytest.mark.parametrize("encoding", ["utf-16", "cp037", "ascii"])
def test_an_encoding_of_the_streams_is_not_that_of_what_an_executor_tells_its_launcher(tmp_path, encoding):
    (tmp_path / "ü").mkdir()
    env = dict(os.environ, PYTHONPATH=os.path.dirname(scoop_lite.__file__), PYTHONIOENCODING=encoding)
    code = "import scoop_lite\nif scoop_lite.Executor(2).submit(abs, -5).result() != 5: raise SystemExit(9)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "ü", env=env, stderr=subprocess.PIPE, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("executable", ["", "/bin/sh", "/nowhere/python3"], ids=["unknown", "other", "missing"])
def test_a_program_that_embeds_python_uses_the_interpreter_that_this_belongs_to(executable):
    status, out, err = run("""
        import sys, scoop_lite
        sys.executable = %r
        if __name__ == "__main__":
            with scoop_lite.Executor(2) as pool:
                print(*pool.map(abs, [-1, -2]))
    """ % executable, launch=False)
    assert (status, out, err) == (0, "1 2\n", "")


def test_a_program_that_passes_for_an_interpreter_starts_itself_once_at_most(tmp_path):
    program, app = tmp_path / "program.py", tmp_path / "pyapp"
    program.write_text(f"import sys; sys.executable = {str(app)!r}; print('started', flush=True)\n"
                       f"sys.path.insert(0, {os.path.dirname(scoop_lite.__file__)!r}); import scoop_lite\n"
                       "scoop_lite.Executor(2).submit(abs, -1).result()")
    app.write_text(f"#!/bin/sh\nexec {sys.executable} {program}\n")
    app.chmod(0o755)
    done = subprocess.run([str(app)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True,
                          timeout=60)  # fmt: skip
    assert done.returncode == 1 and done.stdout == "started\n" * 2, done
    assert f"sys.executable is {str(app)!r}. Fix: set sys.executable" in done.stderr, done.stderr


@pytest.mark.parametrize("buffersize", [None, 30])
def test_map_runs_what_it_has_drawn_while_it_draws_more(tmp_path, buffersize):
    """Input may be slow to come: files that are read, an instrument."""
    paths, there = [tmp_path / str(n) for n in range(30)], []

    def inputs():
        for n, path in enumerate(paths):
            yield path
            time.sleep(0.05)
            there.append(n < 10 or paths[n - 10].exists())

    with Executor(2) as pool:
        list(pool.map(abs, range(8)))  # all have started
        assert list(pool.map(Path.touch, inputs(), buffersize=buffersize)) == [None] * 30
    assert all(there), there


@pytest.mark.parametrize("error", [LookupError, KeyboardInterrupt])
def test_what_the_input_of_map_raises_gives_up_what_was_drawn_before_it(error):
    """As CPython's executor, `map` raises it at once."""
    def inputs():
        yield 0.0
        time.sleep(0.05)
        yield from (5.0,) * 100
        time.sleep(0.05)
        raise error("own")

    with Executor(2) as pool:
        before = time.monotonic()
        with pytest.raises(error, match="own"):
            pool.map(time.sleep, inputs())
        assert pool.submit(abs, -1).result(30) == 1
    assert time.monotonic() - before < 30


def test_random_numbers_of_a_map_do_not_depend_on_how_its_input_came():
    def slowly():
        for i in range(10):
            time.sleep(0.003)
            yield i

    def seeds(inputs):
        with Executor(2) as pool:
            return [*pool.map(seed_of, inputs), *pool.map(seed_of, inputs and range(3))]

    assert seeds(slowly()) == seeds(range(10)) == seeds(iter(range(10)))


class Scaled:
    """A callable, and a method, that take a while."""

    def __init__(self, factor):
        self.factor = factor

    def __call__(self, x, error=None):
        time.sleep(0.0003)
        if error is not None:
            raise error
        return self.factor * x, futures.task_seed()

    method = __call__


def mixed(pool, i):
    """The i-th of many tasks, of which few are of the same function and called alike."""
    calls = [
        lambda: pool.submit(Scaled(i).method, i), lambda: pool.submit(Scaled(i), x=i), lambda: pool.submit(seed_of, i),
        lambda: pool.submit(functools.partial(Scaled(2).method, i)), lambda: pool.submit(Scaled(2).method, i),
        lambda: pool.submit(Scaled(2).method, i, error=ValueError(i) if i % 50 == 5 else None),
        lambda: pool.submit(Scaled(2).method, x=threading.Lock() if i == 104 else i),
    ]  # fmt: skip
    return calls[i % 7]()


def test_tasks_of_methods_partials_and_keyword_arguments_travel_together():
    """They are what they would be alone: their results, errors and random numbers, and what cannot be pickled."""
    found = []
    for n_workers in (1, 3):
        with Executor(n_workers) as pool:
            pool.submit(Scaled(1), 1).result()
            found.append([outcome_of(task) for task in [mixed(pool, i) for i in range(1400)]])
            scheduler = pool._client.scheduler
            assert scheduler.n_carved / scheduler.n_chunks > 2
    assert found[0] == found[1]
    failed = [i for i, result in enumerate(found[0]) if str(result).startswith(f"ValueError: {i} ")]
    assert failed == [*range(5, 1400, 350)]
    assert "keyword arguments)[2]['x'] (type _thread.lock)" in found[0].pop(104)
    assert [result[0] for result in found[0][:100:7]] == [i * i for i in range(0, 100, 7)]


def outcome_of(task):
    try:
        return task.result()
    except Exception as error:
        return f"{type(error).__name__}: {error} {error.__cause__ or ''}".strip()


def seed_of(_):
    return futures.task_seed()


def seeds_but_for(cancelled):
    with Executor(1) as pool:
        pool.submit(time.sleep, 0.3)  # the others wait behind it
        tasks = [pool.submit(seed_of, i) for i in range(6)]
        assert all(tasks[i].cancel() for i in cancelled)
        return [None if i in cancelled else tasks[i].result() for i in range(6)]


def test_random_numbers_of_a_task_do_not_depend_on_others_that_are_cancelled():
    whole, rest = seeds_but_for([]), seeds_but_for([1, 3])
    assert rest == [whole[0], None, whole[2], None, *whole[4:]] and len(set(whole)) == 6


ZIPPED = """
import helper
from vendor.scoop_lite import Executor

def outer(x):
    return helper.twice(x) + 1

if __name__ == "__main__":
    with Executor(2, {options}) as pool:
        print(*pool.map(outer, [1, 2]), *pool.map(helper.twice, [3]), *pool.map(lambda x: -x, [4]))
"""


@pytest.mark.parametrize("compiled", [False, True], ids=["source", "compiled"])
@pytest.mark.parametrize("options", ["", "backend='loopback'"], ids=["own", "loopback"])
def test_a_zip_file_may_hold_the_program_and_scoop_lite(tmp_path, compiled, options):
    app = tmp_path / "app"
    (app / "vendor").mkdir(parents=True)
    (app / "__main__.py").write_text(ZIPPED.format(options=options))
    (app / "helper.py").write_text("def twice(x):\n    return 2 * x\n")
    (app / "vendor" / "__init__.py").write_text("")
    vendored = app / "vendor" / "scoop_lite.py"
    shutil.copy(scoop_lite.__file__, vendored)
    if compiled:
        py_compile.compile(str(vendored), str(vendored) + "c")
        vendored.unlink()
    zipped = shutil.make_archive(str(tmp_path / "app"), "zip", app)
    done = subprocess.run([sys.executable, zipped], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          universal_newlines=True, timeout=60)  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "3 5 6 -4\n", "")


def test_an_executors_workers_find_what_pythonpath_names(tmp_path):
    (tmp_path / "beside").mkdir()
    (tmp_path / "beside" / "only_there.py").write_text("VALUE = 7\n")
    status, out, err = run(f"""
        from scoop_lite import Executor
        def value(_):
            import only_there
            return only_there.VALUE
        if __name__ == "__main__":
            with Executor(2, pythonpath=["nowhere", {str(tmp_path / "beside")!r}]) as pool:
                print(set(pool.map(value, range(20))))
    """, launch=False)
    assert (status, out, err) == (0, "{7}\n", "")


def test_a_program_that_has_changed_sys_path_finds_its_modules_in_workers(tmp_path):
    """As programs packed by pex do: without what this Python has installed, with what they bring."""
    (tmp_path / "app.py").write_text("""
import helper
from scoop_lite import Executor

def outer(x):
    return helper.twice(x) + 1

if __name__ == "__main__":
    with Executor(2) as pool:
        print(*pool.map(outer, [1, 2]))
""")
    (tmp_path / "helper.py").write_text("def twice(x):\n    return 2 * x\n")
    status, out, err = run(f"""
        import runpy, sys
        sys.path[:] = [{str(tmp_path)!r}, *(p for p in sys.path if "-packages" not in p)]
        runpy.run_module("app", run_name="__main__", alter_sys=True)
    """, launch=False)
    assert (status, out, err) == (0, "3 5\n", "")


@needs_memory_limit
@pytest.mark.parametrize("big_result", [True, False], ids=["result", "argument"])
def test_what_has_no_room_where_it_arrives_fails_alone(big_result):
    status, out, err = run(SHORT_OF_MEMORY.format(big_result=big_result), launch=False)
    assert status == 0 and "not enough memory here for what came" in out, (out, err)
    assert out.splitlines()[-1] == "7" and "starting another" not in err, (out, err)


@needs_memory_limit
@pytest.mark.parametrize("value", ["data", "data, 1", "[data]"], ids=["bytes", "tuple", "list"])
def test_a_result_that_there_is_no_room_to_pickle_fails_alone(value):
    status, out, err = run("""
        import os, resource, scoop_lite

        def work(size):
            data = bytes(size)
            with open("/proc/self/statm") as file:
                used = int(file.read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + (50 << 20), -1))
            return %s

        if __name__ == "__main__":
            pool = scoop_lite.Executor(1)
            pid = pool.submit(os.getpid).result(60)
            print(type(pool.submit(work, 150 << 20).exception(60)).__name__, pool.submit(os.getpid).result(60) == pid)
    """ % value, launch=False)
    assert (status, out) == (0, "MemoryError True\n") and "starting another" not in err, (out, err)


def test_a_forked_child_gets_a_pool_of_its_own():
    with Executor(1) as executor:
        pid = executor.submit(os.getpid).result(20)
        child = os.fork()
        if not child:
            other = executor.submit(os.getpid).result(20)
            executor.shutdown()
            os._exit(0 if other != pid else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert executor.submit(os.getpid).result(20) == pid


INTERRUPTS = """
import os, signal, threading, time, scoop_lite
from scoop_lite import futures

def nap(seconds):
    try:
        print("began", flush=True)  # in here, as an interrupt may come at once
        time.sleep(seconds)
    finally:
        print("ended", flush=True)

def spin(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass

def parent(seconds):
    return list(futures.map(time.sleep, [seconds] * 4))

def interrupt(wait):
    threading.Timer(0.4, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        wait()
    except KeyboardInterrupt:
        return time.monotonic()
"""
#: What the main thread does when it is interrupted.
WAITS = {
    "map": "lambda: list(pool.map(nap, [60] * 10))",
    "map of a function in C": "lambda: list(pool.map(time.sleep, [60] * 10))",
    "map of a loop": "lambda: list(pool.map(spin, [60] * 3))",
    "result": "pool.submit(nap, 60).result",
    "result of a call with keywords": "pool.submit(nap, seconds=60).result",
    "exception": "pool.submit(nap, 60).exception",
    "result of a task that waits": "pool.submit(parent, 60).result",
}


@pytest.mark.parametrize("wait", WAITS)
def test_an_interrupt_ends_what_was_waited_for_and_leaves_the_pool_usable(wait):
    status, out, err = run(INTERRUPTS + f"""
if __name__ == "__main__":
    pool = scoop_lite.Executor(2)
    pids, other = pool.run_on_all(os.getpid), pool.submit(time.sleep, 0.8)
    interrupted = interrupt({WAITS[wait]})
    print(list(pool.map(abs, range(-50, 0))) == list(range(50, 0, -1)), pool.run_on_all(os.getpid) == pids)
    print(other.result(), time.monotonic() - interrupted < 20)
    """, launch=False, limit_s=90)  # fmt: skip
    assert (status, out.split()[-4:]) == (0, ["True", "True", "None", "True"]), (out, err)


def test_an_interrupt_in_a_with_block_gives_up_all_of_its_tasks():
    status, out, err = run(INTERRUPTS + """
def block():
    with scoop_lite.Executor(2) as pool:
        pool.run_on_all(os.getpid)
        tasks.extend(pool.submit(time.sleep, 60) for _ in range(20))
        threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT)).start()
        concurrent.futures.wait(tasks)

if __name__ == "__main__":
    import concurrent.futures
    tasks = []
    try:
        block()
    except KeyboardInterrupt:
        pass
    kinds = ["cancelled" if task.cancelled() else type(task.exception(0)).__name__ for task in tasks]
    print(set(kinds) == {"cancelled", "KeyboardInterrupt"}, kinds.count("KeyboardInterrupt") >= 2)
    """, launch=False, limit_s=50)  # fmt: skip
    assert (status, out.split()) == (0, ["True", "True"]), (out, err)


def test_a_program_that_an_interrupt_ends_waits_for_nothing(tmp_path):
    (tmp_path / "program.py").write_text(INTERRUPTS + """
if __name__ == "__main__":
    pool = scoop_lite.Executor(2)
    tasks = [pool.submit(nap, 60) for _ in range(20)]
    tasks.pop().result()
""")  # fmt: skip
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    words = [sys.executable, str(tmp_path / "program.py")]
    program = subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert program.stdout.readline() == program.stdout.readline() == b"began\n"
    program.send_signal(signal.SIGINT)
    out, err = program.communicate(timeout=30)
    assert program.returncode == -signal.SIGINT and out.count(b"ended") >= 2, (out, err)


def test_a_second_interrupt_does_not_wait_for_tasks_that_the_first_could_not_end(tmp_path):
    (tmp_path / "program.py").write_text(INTERRUPTS + """
def stubborn(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            print("began", flush=True)
            time.sleep(seconds)
        except KeyboardInterrupt:
            pass

if __name__ == "__main__":
    try:
        with scoop_lite.Executor(1, quiet=True) as pool:
            task = pool.submit(stubborn, 20)
            time.sleep(60)
    except KeyboardInterrupt:
        print(type(task.exception(10)).__name__)
""")  # fmt: skip
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    words = [sys.executable, str(tmp_path / "program.py")]
    program = subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert program.stdout.readline() == b"began\n"
    program.send_signal(signal.SIGINT)
    assert program.stdout.readline() == b"began\n"
    time.sleep(0.3)  # now the program waits for its task
    program.send_signal(signal.SIGINT)
    out, err = program.communicate(timeout=40)
    assert (program.returncode, out, err) == (0, b"PoolBroken\n", b"")


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="no signal can be blocked here")
def test_a_program_that_blocks_signals_hears_of_deaths_and_can_give_up_tasks():
    """As one whose main thread waits in sigwait(). The pool's processes inherit that."""
    status, out, err = run(INTERRUPTS + """
if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.valid_signals()) - {signal.SIGINT})
    with scoop_lite.Executor(2, quiet=True, retries=0) as pool:
        print({type(pool.submit(os._exit, 3).exception()).__name__ for _ in range(10)})
        interrupt(lambda: list(pool.map(nap, [60] * 10)))
        print(pool.submit(abs, -1).result())
""", launch=False)  # fmt: skip
    assert status == 0 and {"{'PoolWorkerLost'}", "1"} <= set(out.splitlines()), (out, err)


def test_a_launcher_whose_executor_was_interrupted_at_its_start_says_nothing():
    assert run(None, "--serve", "0", stdin="") == (1, "", "")


def test_the_interpreter_ends_by_itself():
    source = "import scoop_lite, time; pool = scoop_lite.Executor(2); pool.submit(print, 'done', flush=True)"
    assert run(source, launch=False) == (0, "done\n", "")
    source = "import scoop_lite; results = scoop_lite.Executor(1).map(abs, [-1, -2]); print(next(results))"
    assert run(source, launch=False) == (0, "1\n", "")  # a map half read is dropped when all is over


def test_when_the_interpreter_ends_a_pool_takes_no_more():
    said = "cannot schedule new futures after interpreter shutdown\n"
    assert run("""
        import atexit, scoop_lite

        @atexit.register
        def late():
            for call in pool.submit, pool.map:
                try:
                    call(abs, [-1])
                except RuntimeError as error:
                    print(error)

        pool = scoop_lite.Executor(1)
        pool.submit(abs, -1).result()
    """, launch=False) == (0, 2 * said, "")  # fmt: skip


@pytest.mark.parametrize("bad", ["os._exit, 9", "Odd"])
def test_a_bad_task_fails_alone_also_while_the_interpreter_ends(bad):
    source = f"""
import os, scoop_lite, time
class Odd:
    def __reduce__(self):
        return int, ("no number",)
if __name__ == "__main__":
    pool, done = scoop_lite.Executor(2, quiet=True), []
    tasks = [pool.submit({bad}), *(pool.submit(time.sleep, 0.05) for _ in range(20))]
    for task in tasks:
        task.add_done_callback(done.append)
    __import__("atexit").register(lambda: print(len(done), type(tasks[0].exception()).__name__))
"""
    name = "PoolTaskBroken" if bad == "Odd" else "PoolWorkerLost"
    assert run(source, launch=False) == (0, f"21 {name}\n", "")


def test_a_pool_that_is_killed_at_the_end_of_the_program_lets_it_end():
    source = """
import scoop_lite, threading, time
pool = scoop_lite.Executor(1)
task = pool.submit(time.sleep, 3600)
while not task.running():
    time.sleep(0.01)
threading.Thread(target=lambda: print(type(task.exception()).__name__)).start()
pool.kill_workers()
"""
    assert run(source, launch=False) == (0, "PoolBroken\n", "")


def test_a_name_that_is_nowhere_fails_its_task_alone():
    source = """
import scoop_lite
class Odd:
    def __reduce__(self):
        return getattr, (len, "nothing")
with scoop_lite.Executor(1) as pool:
    print(type(pool.submit(abs, Odd()).exception()).__name__, pool.submit(abs, -1).result())
"""
    assert run(source, launch=False) == (0, "PoolTaskBroken 1\n", "")


def test_a_program_without_the_guard_is_told(tmp_path):
    script = tmp_path / "unguarded.py"
    script.write_text("import scoop_lite\ndef f(): return 1\nprint(scoop_lite.Executor(1).submit(f).result())\n")
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run([sys.executable, script], env=env, stderr=subprocess.PIPE, stdout=subprocess.PIPE, timeout=30)
    assert done.returncode != 0 or done.stdout == b"1\n"
    assert b"if __name__ == '__main__':" in done.stderr or done.stdout == b"1\n"


@pytest.mark.parametrize("how", [{}, {"launch": False}], ids=["launched", "alone"])
def test_a_class_by_value_is_elsewhere_what_it_is_here_now(how):
    source = """
import enum, types, weakref, scoop_lite
from scoop_lite import futures

class Same:
    pass

class Model:
    rate, names = 1, []
    def run(self, x, other=Same):
        return price(x) * self.rate, sorted(self.names), other is Same, isinstance(Same(), other)

if hasattr(enum, "KEEP"):  # since Python 3.11
    exec("class Flag(enum.Flag, boundary=enum.KEEP): A = 1")

def odd(members, kind=types.GeneratorType):
    return len(members), isinstance((i for i in ()), kind), Flag(9).value if hasattr(enum, "KEEP") else 9

if __name__ == "__main__":
    alone = "scoop_lite_pool" not in globals() and not scoop_lite.IS_RUNNING
    submit = scoop_lite.Executor(2).submit if alone else futures.submit
    for factor in 1, 2:
        def price(x, factor=factor):
            return x * factor
        Model.rate, Model.names = factor, Model.names + [str(factor)]
        class Same:
            pass
        tasks = [submit(Model().run, 10, Same) for _ in range(20)]
        print({str(task.result()) for task in tasks})
    print(submit(odd, weakref.WeakSet([Model])).result())
"""
    expected = "{\"(10, ['1'], True, True)\"}\n{\"(40, ['1', '2'], True, True)\"}\n(1, True, 9)\n"
    assert run(source, **how) == (0, expected, "")


def test_of_a_class_by_value_the_newest_journey_counts():
    class Travels:
        x = 1

    pickled = [scoop_lite.dumps_whole(Travels)]
    Travels.x = 2
    pickled.append(scoop_lite.dumps_whole(Travels))
    with Executor(1) as pool:
        assert pool.submit(x_after, *pickled, pickled[0]).result(20) == [1, 2, 2]


def x_after(*pickled):
    return [pickle.loads(one).x for one in pickled]


def test_two_threads_with_a_task_each_keep_two_workers_busy():
    with Executor(2) as pool:
        pool.run_on_all(os.getpid)
        pids = [[], []]
        threads = [threading.Thread(target=lambda found=found: found.extend(
            pool.submit(pid_after, 0.004).result(20) for _ in range(60))) for found in pids]  # fmt: skip
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    share = min(collections.Counter(pids[0] + pids[1]).values()) / 120
    assert share > 0.3, share


def pid_after(seconds):
    time.sleep(seconds)
    return os.getpid()


def test_what_is_defined_anew_at_a_prompt_is_what_runs(tmp_path):
    script = tmp_path / "program.py"
    script.write_text("""
import sys, scoop_lite
def f(x):
    return x
class Kind:
    name = "old"
def name_of(kind):
    return kind().name
def locked(x, lock=__import__("threading").Lock()):
    return x
if __name__ == "__main__":
    pool = scoop_lite.Executor(2)
    print(list(pool.map(f, [1, 2])), pool.submit(name_of, Kind).result())
    sys.ps1 = ">>> "  # as at the prompt that follows with `python -i`
    print(pool.submit(locked, 2).result())  # as before: it could not travel by value
    exec(compile("def f(x): return x + 1000\\nclass Kind: name = 'new'", "<stdin>", "exec"))
    print(list(pool.map(f, [1, 2])), pool.submit(lambda: f(3)).result(), pool.submit(name_of, Kind).result())
""")
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run([sys.executable, script], env=env, capture_output=True, timeout=60, text=True)
    assert (done.returncode, done.stdout) == (0, "[1, 2] old\n2\n[1001, 1002] 1003 new\n"), done.stderr


def test_a_module_that_its_name_does_not_mean_is_not_another(tmp_path):
    (tmp_path / "twin.py").write_text("def f(): return 'by path'\n")
    with Executor(1) as pool:
        spec = importlib.util.spec_from_file_location("json", tmp_path / "twin.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        with pytest.raises(pickle.PicklingError) as caught:
            pool.submit(lambda: module.f()).result(20)
        assert "'json' is not what an import of that name gives" in str(caught.value)
        assert "enter it in sys.modules" in str(caught.value.__cause__)


@pytest.mark.parametrize("place", ["script", "module"])
def test_an_executor_that_a_module_keeps_is_started_where_it_is_used(tmp_path, place):
    (tmp_path / "web.py").write_text("import scoop_lite\npool = scoop_lite.Executor(2)\ndef f(x): return x + 1\n"
                                     "def nested(x): return pool.submit(f, x).result()\n")  # fmt: skip
    own = "from web import f, nested, pool" if place == "module" else (tmp_path / "web.py").read_text()
    (tmp_path / "script.py").write_text(f"""{own}
import os
def started():
    return pool._client is not None
if __name__ == "__main__":
    print(pool.run_on_all(started), list(pool.map(f, [1, 2])), pool.submit(nested, 3).result())
""")
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run([sys.executable, tmp_path / "script.py"], env=env, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, b"{1: False, 2: False} [2, 3] 4\n"), done.stderr


# -- initializers, run_on_all, max_tasks_per_child --------------------------------------------------------------------


def test_initializer_runs_once_in_each_worker():
    with Executor(2, initializer=initialize, initargs=(1, "a")) as executor:
        states = executor.run_on_all(get_state)
        assert states == {1: [(1, "a")], 2: [(1, "a")]}


def get_state():
    return STATE


@pytest.mark.parametrize("retries", [0, 2])
def test_an_initializer_that_ends_worker_after_worker_breaks_the_pool(retries):
    with Executor(2, initializer=die_slowly, quiet=True, retries=retries) as executor:
        with pytest.raises(BrokenProcessPool, match=f"{retries + 1} workers? in a row died in the initializer"):
            executor.submit(abs, -1).result(30)


def die_slowly():
    time.sleep(0.7)  # fewer than --restarts in a minute
    os._exit(5)


def test_an_initializer_may_end_some_workers(tmp_path):
    marks = [str(tmp_path / str(i)) for i in range(2)]
    with Executor(2, initializer=die_for_each, initargs=(marks,), quiet=True) as executor:
        assert executor.submit(abs, -1).result(30) == 1


def die_for_each(marks):
    for mark in marks:
        with contextlib.suppress(FileExistsError):
            os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
            os._exit(5)


def test_a_failing_initializer_breaks_the_pool():
    with Executor(2, initializer=divmod, initargs=(1, 0), quiet=True) as executor:
        with pytest.raises(BrokenProcessPool, match="ZeroDivisionError"):
            executor.submit(abs, 1).result(20)


def test_max_tasks_per_child():
    with Executor(1, max_tasks_per_child=3) as executor:
        pids = [executor.submit(os.getpid).result(20) for _ in range(7)]
        assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [3, 3, 1]
        assert len(set(executor.map(pid_of_task, range(30)))) >= 10


def pid_of_task(_):
    return os.getpid()


@pytest.mark.parametrize("runs", [1, pytest.param(100, marks=pytest.mark.soak)])
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds workers in /proc")
def test_random_users_of_pools_whose_workers_die(runs):
    seed = random.randrange(10**6)
    words = [sys.executable, str(CHECKOUT / "tests" / "soak_executor.py"), "--runs", str(runs), "--seed", str(seed)]
    done = subprocess.run(words, stdout=subprocess.PIPE, universal_newlines=True, timeout=100 * runs)
    assert done.returncode == 0, done.stdout


def test_the_launcher_has_the_same(tmp_path):
    (tmp_path / "prepare.py").write_text("def begin():\n    import builtins\n    builtins.prepared = 5\n")
    source = """
        import os, time
        from scoop_lite import futures
        def pid(_):
            time.sleep(0.02)
            return prepared, os.getpid()
        answers = list(futures.map(pid, range(40)))
        print({a for a, _ in answers}, len({p for _, p in answers}) > 3, sorted(futures.run_on_all(abs, -1).items()))
        """
    options = ["--init", "prepare:begin", "--max-tasks-per-child", "2", "--pythonpath", str(tmp_path)]
    status, out, err = run(source, *options)
    assert (status, out) == (0, "{5} True [(0, 1), (1, 1)]\n"), err
    status, out, err = run("print(1)", "--init", "prepare:nothing", "--pythonpath", str(tmp_path))
    assert status == 1 and "has no attribute 'nothing'" in err


WORK, CACHE = [0], weakref.WeakValueDictionary()


def fail_with_work(i):
    WORK[:] = [i]
    raise LookupError(i, WORK)


def test_an_exception_is_its_own_though_tasks_fill_the_same_object_again(pool):
    errors = [task.exception() for task in [pool.submit(fail_with_work, i) for i in range(50)]]
    assert [error.args for error in errors] == [(i, [i]) for i in range(50)]


def fill_cached(i):
    """Return an array that is used again as long as somebody has it, to which the cache does not count."""
    import numpy

    array = CACHE.get("work")
    if array is None:
        array = CACHE["work"] = numpy.empty(300_000)
    array[:] = i
    return array if i % 2 else (array,)


@pytest.mark.parametrize("retries", [0, 2])
def test_a_result_is_its_own_though_weak_references_find_it_again(retries):
    pytest.importorskip("numpy")
    with Executor(2, retries=retries) as pool:
        found = [array if i % 2 else array[0] for i, array in enumerate(pool.map(fill_cached, range(100)))]
    assert [(array.min(), array.max()) for array in found] == [(i, i) for i in range(100)]


def test_workers_that_come_later_get_initargs_as_they_were():
    numpy = pytest.importorskip("numpy")
    array = numpy.full(20_000, 8.0)
    with Executor(2, initializer=functools.partial(setattr, builtins, "scoop_lite_kept"), initargs=(array,),
                  max_tasks_per_child=3) as pool:  # fmt: skip
        assert set(pool.map(eval, ["float(scoop_lite_kept.min())"] * 8)) == {8.0}
        array[:] = -2
        assert set(pool.map(eval, ["float(scoop_lite_kept.min())"] * 30)) == {8.0}


def test_a_pool_begins_while_another_thread_imports_multiprocessing():
    status, out, err = run("""
        import sys, threading, scoop_lite
        begun, go = threading.Event(), threading.Event()
        class Stop:
            def find_spec(self, name, path=None, target=None):
                if name == "_weakrefset" and threading.current_thread() is not threading.main_thread():
                    begun.set()
                    go.wait(0.5)
        assert "multiprocessing.process" not in sys.modules
        del sys.modules["_weakrefset"]  # in the middle of that module, it is looked for
        sys.meta_path.insert(0, Stop())
        thread = threading.Thread(target=__import__, args=["multiprocessing.process"])
        thread.start()
        begun.wait(10)
        with scoop_lite.Executor(2) as pool:
            print(begun.is_set(), pool.submit(abs, -3).result())
    """, launch=False)
    assert (status, out, err) == (0, "True 3\n", "")


def test_the_trace_of_a_pool_has_arrows_and_no_worker_more(tmp_path):
    path = tmp_path / "trace.json"
    with Executor(2, trace=str(path)) as pool:
        assert list(pool.map(time.sleep, [0.02] * 20)) == [None] * 20
    events = json.loads(path.read_text())
    arrows = collections.defaultdict(list)
    for event in sorted((event for event in events if event.get("cat") == "flow"), key=lambda event: event["ts"]):
        arrows[event["id"]].append(event["ph"])
    assert arrows and all(re.fullmatch("st+f", "".join(steps)) for steps in arrows.values()), arrows
    assert len(arrows) == sum(event.get("cat") == "carve" for event in events)
    report = [sys.executable, str(CHECKOUT / "examples" / "report.py"), str(path)]
    done = subprocess.run(report, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60, universal_newlines=True)
    assert ", workers 2, hosts 1, " in done.stderr, done.stderr


def test_a_pool_that_cannot_have_a_thread_takes_no_tasks_of_others_along():
    status, out, err = run("""
        import threading, time, scoop_lite
        good, start = scoop_lite.Executor(1), threading.Thread.start
        def refuse(thread):
            if thread.name == "scoop_lite executor":
                raise RuntimeError("can't start new thread")
            start(thread)
        threading.Thread.start = refuse
        for _ in range(4):
            try:
                scoop_lite.Executor(1)
            except scoop_lite.PoolBroken as error:
                print(error)
        threading.Thread.start = start
        for i in range(20):
            good.submit(time.sleep, 0.01).add_done_callback(lambda _: print(".", end=""))
    """, launch=False)
    why = "can't start new thread for a pool; see `ulimit -u` and `ulimit -v`\n"
    assert (status, out, err) == (0, why * 4 + "." * 20, "")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a limit that elsewhere is another")
def test_a_launcher_that_is_short_of_descriptors_at_its_start_says_so():
    words = [str(CHECKOUT / "scoop_lite.py"), "-n", "2", "-c", "0"]
    for n in range(6, 9):
        done = subprocess.run(["sh", "-c", f'ulimit -n {n}; exec "$@"', "sh", sys.executable, *words], timeout=60,
                              env={**os.environ, "PYTHONPATH": str(CHECKOUT)}, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True)  # fmt: skip
        assert done.returncode == 1 and "see `ulimit -a`" in done.stderr and "Traceback" not in done.stderr, done


def test_a_pool_whose_launcher_cannot_be_started_says_why(monkeypatch):
    def refuse(*_, **__):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    with pytest.raises(scoop_lite.PoolBroken, match="launcher cannot be started: Resource .*; see `ulimit -a`"):
        Executor(1)


def test_a_prompt_with_a_running_pool():
    lines = "def f(x):\n    return x * 2\n\nlist(futures.map(f, range(4)))\nexit(3)\n"
    status, out, err = run(None, "-i", stdin=lines)
    assert status == 3 and "[0, 2, 4, 6]" in out and "with 2 workers" in err, (status, out, err)


# -- SCOOP ------------------------------------------------------------------------------------------------------------


def test_names_of_scoop():
    status, out, err = run("""
        import importlib.util, pickle, scoop, sys
        import scoop.futures
        from scoop import IS_RUNNING, futures, logger, shared
        from scoop.futures import map as parallel_map
        shared.setConst(limit=3)
        def f(x):
            return x * shared.getConst("limit", timeout=5), scoop.IS_RUNNING
        print(list(parallel_map(f, range(3))), scoop.SIZE, scoop.IS_ORIGIN, scoop.worker, IS_RUNNING)
        print(vars(futures.map), pickle.loads(pickle.dumps(futures.map)) is futures.map, shared.elements)
        controller = sys.modules["scoop.futures"].__dict__.get("_controller")
        print(bool(controller), importlib.util.find_spec("scoop") is not None, scoop.BROKER, scoop.VALID)
        """)
    assert status == 0, err
    assert out.splitlines() == [
        "[(0, True), (3, True), (6, True)] 2 True 0 True", "{} True {0: {'limit': 3}}", "True True None True",
    ]  # fmt: skip


def test_without_the_launcher_scoop_is_scoop():
    status, _, err = run("import scoop_lite, scoop", launch=False)
    assert status == 0 or "No module named 'scoop'" in err


# -- what README says to write instead --------------------------------------------------------------------------------


def test_map_keeps_no_reference_to_what_it_has_handed_out(pool):
    own = bytearray(1)
    alone = sys.getrefcount(own)
    for options in ({}, {"buffersize": 3}):
        for item in pool.map(bytearray, range(1, 50), **options):
            assert sys.getrefcount(item) == alone, options


def test_results_are_of_the_programs_own_classes(tmp_path):
    """Though the program has not imported multiprocessing, which gives `__main__` its second name."""
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent("""
        import sys
        import scoop_lite

        class Own:
            pass

        def make(_):
            return Own()

        if __name__ == "__main__":
            assert "multiprocessing" not in sys.modules
            with scoop_lite.Executor(2) as pool:
                print(type(pool.submit(make, 1).result()) is Own, {type(x) for x in pool.map(make, range(9))} == {Own})
        """))
    done = subprocess.run([sys.executable, str(program)], stdout=subprocess.PIPE, text=True, timeout=60,
                          env={**os.environ, "PYTHONPATH": str(Path(scoop_lite.__file__).parent)})  # fmt: skip
    assert done.stdout == "True True\n"


@pytest.mark.parametrize("launch", [True, False])
def test_rows_of_the_table_coming_from_other_tools(launch, tmp_path):
    """Each row's left side by the tool itself, its right side by us; `pool` too, where README offers both."""
    (tmp_path / "rows.py").write_text(textwrap.dedent("""
        import functools, multiprocessing, operator, os, sys
        import scoop_lite
        from concurrent.futures import ProcessPoolExecutor
        from scoop_lite import futures, shared

        def f(x, y=1):
            return x * x + y

        def scaled(x):
            return x * shared.getConst("data")

        def prepare(number):
            os.environ["PREPARED"] = str(number)

        def prepared(_):
            return os.environ.get("PREPARED")

        def both(pool, xs, pairs):
            called = []
            pool.submit(f, 3, y=4).add_done_callback(lambda future: called.append(future.result()))
            return [list(pool.map(f, xs)), list(pool.map(f, *zip(*pairs))), (pool.shutdown(), called)[1]]

        def rows():
            xs, pairs, called = range(20), [(1, 2), (3, 4)], []
            with multiprocessing.Pool(2) as theirs:
                wanted = [theirs.map(f, xs), theirs.starmap(f, pairs)]
                theirs.apply_async(f, (3,), {"y": 4}, called.append).wait()
                assert wanted[0] == list(theirs.imap(f, xs)) and called == [13]
                unordered = sorted(theirs.imap_unordered(f, xs))
            with ProcessPoolExecutor(2) as theirs:
                assert both(theirs, xs, pairs) == [*wanted, called]
            if scoop_lite.IS_RUNNING:
                yield both(futures, xs, pairs) == [*wanted, called]
                yield sorted(futures.map_as_completed(f, xs)) == unordered
                yield futures.mapReduce(f, operator.add, xs) == functools.reduce(operator.add, map(f, xs))
                shared.setConst(data=3)
                yield list(futures.map(scaled, xs)) == [3 * x for x in xs]
            else:
                yield both(scoop_lite.Executor(2), xs, pairs) == [*wanted, called]
                with scoop_lite.Executor(2, initializer=prepare, initargs=(7,), max_tasks_per_child=100) as pool:
                    yield set(pool.map(prepared, xs)) == {"7"}
                    pool.set_const(data=3)
                    yield list(pool.map(scaled, xs)) == [3 * x for x in xs]

        if __name__ == "__main__":
            print(all(list(rows())))
        """))
    words = [str(CHECKOUT / "scoop_lite.py"), "-n", "2"] if launch else []
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run([sys.executable, *words, tmp_path / "rows.py"], env=env, stdout=subprocess.PIPE, timeout=60)
    assert (done.returncode, done.stdout) == (0, b"True\n")


# -- the tests of others ----------------------------------------------------------------------------------------------


def check(words, **more):
    """Run somebody else's tests, which must pass."""
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=600, **more)
    print(done.stdout.decode()[-6000:])
    assert done.returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("python", PYTHONS)
def test_the_tests_of_cpython(python, tmp_path):
    find = "import importlib.util, sys, test; print(sys.version[:4].strip('.'), test.__path__[0]); " \
           "sys.exit(importlib.util.find_spec('test.test_concurrent_futures') is None)"  # fmt: skip
    found = subprocess.run([python, "-c", find], stdout=subprocess.PIPE, universal_newlines=True)
    env = dict(os.environ)
    if found.returncode:
        version, directory = found.stdout.split()
        env["PYTHONPATH"] = packaged_tests(version, directory, tmp_path)
    check([python, str(CHECKOUT / "tests" / "cpython_executor.py")], env=env)


def packaged_tests(version, directory, tmp_path):
    """Get the tests of a Python that was installed without them from Debian's package of them, if there is one."""
    package = f"libpython{version}-testsuite"
    try:
        subprocess.run(["apt-get", "download", "-q", package], cwd=tmp_path, check=True, timeout=120)
        subprocess.run(["dpkg", "-x", *tmp_path.glob("*.deb"), tmp_path / "package"], check=True)
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"this Python {version} has no tests, and {package} cannot be had: {error}")
    for part in (directory, tmp_path / "package" / "usr" / "lib" / f"python{version}" / "test"):
        subprocess.run(["cp", "-r", part, tmp_path], check=True)
    return str(tmp_path)


@pytest.mark.slow
def test_the_tests_of_mpi4py(tmp_path):
    get = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary=mpi4py", "mpi4py==4.1.2"]
    done = subprocess.run(get, cwd=tmp_path, stderr=subprocess.PIPE, timeout=300)
    if done.returncode:
        pytest.skip(f"mpi4py's source cannot be had: {done.stderr[-300:].decode()}")
    subprocess.run(["tar", "xzf", *tmp_path.glob("*.tar.gz")], cwd=tmp_path, check=True)
    (tests,) = tmp_path.glob("*/demo/futures/test_futures.py")
    check([sys.executable, str(CHECKOUT / "tests" / "mpi4py_executor.py"), str(tests)])


LATE = """
class Point:
    def __init__(self, x):
        self.x = x

def one():
    return 1

def double(point):
    return Point(2 * one() * point.x)
"""


def test_modules_that_are_found_since_the_pool_was_made_travel_by_value(pool, tmp_path, monkeypatch):
    (tmp_path / "late_package").mkdir()
    (tmp_path / "late_package" / "module.py").write_text(LATE)
    monkeypatch.syspath_prepend(str(tmp_path))
    from late_package.module import Point, double, one

    points = list(pool.map(double, map(Point, range(100))))
    assert {type(point) for point in points} == {Point} and sum(point.x for point in points) == 9900
    assert pool.submit(one).result(10) == 1 and pool.submit(lambda: one()).result(10) == 1


@pytest.mark.parametrize("change", [
    "sys.path.insert(0, pathlib.Path('.'))", "sys.path[:0] = [b'x', None, 3]", "sys.argv += [pathlib.Path('.'), 3]",
])  # fmt: skip
def test_a_pool_of_a_program_with_odd_paths_and_arguments(tmp_path, change):
    """Python ignores what is no text in `sys.path`, but for bytes in old versions."""
    status, out, err = run_script(tmp_path, f"import pathlib, sys, scoop_lite\n{change}\n" + """
if __name__ == "__main__":
    with scoop_lite.Executor(1) as pool:
        print(pool.submit(abs, -1).result())
""")
    assert (status, out, err) == (0, "1\n", "")


def test_a_module_that_a_pools_workers_cannot_import_is_named_with_host_and_path(pool, tmp_path, monkeypatch):
    (tmp_path / "late_module.py").touch()
    theirs = pool.run_on_all(eval, "__import__('sys').path").values()  # a worker that has imported this file has more
    monkeypatch.syspath_prepend(str(tmp_path))
    import late_module

    with pytest.raises(BrokenProcessPool) as info:
        pool.submit(bool, late_module).result(10)
    assert "No module named 'late_module'" in str(info.value)
    where = f"(on {socket.gethostname()}, by {sys.executable}; sys.path there: "
    assert str(info.value).endswith(tuple(f"{where}{path})" for path in theirs))


def test_a_pool_starts_from_compiled_code_and_not_from_modules_of_the_directory(tmp_path):
    """An Executor's launcher runs the .pyc file of this file, with the `sys.path` that a script would have."""
    own, here = tmp_path / "own", tmp_path / "here"
    own.mkdir(), here.mkdir()
    shutil.copy(CHECKOUT / "scoop_lite.py", own / "renamed.py")
    (here / "selectors.py").write_text("raise SystemExit('imported from the current directory')")

    def out(*command):
        env = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
        return subprocess.run(command, cwd=here, env=env, stdout=subprocess.PIPE, check=True).stdout.decode()

    source = "import sys; sys.path[0] = sys.argv[1]; import renamed; print(*renamed.compiled_command(), sep='|')"
    command = out(sys.executable, "-c", source, own)[:-1].split("|")
    assert out(*command, "-n", "1", "-c", "import sys; print(sys.argv)", "word") == "['-c', 'word']\n"
    (compiled,) = (own / "__pycache__").glob("renamed.*.pyc")
    compiled.write_bytes(compiled.read_bytes().replace(b"the program's exit status", b"the PROGRAM's exit status"))
    source = "import scoop_lite; print(scoop_lite.main.__doc__)"
    assert "the PROGRAM's exit status" in out(*command, "-n", "1", "-c", source), "this was not what is compiled"


def test_a_pool_of_a_file_without_its_source(tmp_path):
    py_compile.compile(str(CHECKOUT / "scoop_lite.py"), str(tmp_path / "scoop_lite.pyc"), doraise=True)
    source = "import scoop_lite as s\nwith s.Executor(2) as pool: print(*pool.map(abs, [-3, 4]), s.__file__)"
    done = subprocess.run([sys.executable, "-c", source], cwd=tmp_path, stdout=subprocess.PIPE, check=True)
    assert done.stdout.decode().split() == ["3", "4", str(tmp_path / "scoop_lite.pyc")]


def test_a_file_without_its_source_is_refused_where_that_is_sent(tmp_path):
    py_compile.compile(str(CHECKOUT / "scoop_lite.py"), str(tmp_path / "scoop_lite.pyc"), doraise=True)
    for words in ["--hosts", "far"], ["--python-interpreter", sys.executable]:
        done = subprocess.run([sys.executable, "scoop_lite.pyc", *words, "-c", "pass"], cwd=tmp_path,
                              stderr=subprocess.PIPE)  # fmt: skip
        why = f"{tmp_path}/scoop_lite.pyc is compiled: other hosts and interpreters need the source; see --help\n"
        assert (done.returncode, done.stderr.decode()) == (2, f"scoop_lite: {why}")


def test_importing_takes_no_module_that_few_runs_need():
    rare = ["hashlib", "hmac", "random", "shutil", "zmq", "greenlet"]
    source = f"import sys, scoop_lite; print([name for name in {rare} if name in sys.modules])"
    assert run(source, launch=False)[1] == "[]\n"


def test_a_start_takes_no_module_that_few_runs_need():
    """What launcher and agent have imported, the origin has as well: it is forked from them."""
    rare = {"hashlib", "hmac", "random", "shutil", "bz2", "lzma", "typing", "zmq"}
    bare = subprocess.check_output([sys.executable, "-c", "import sys; print(*sys.modules)"]).decode().split()
    status, out, err = run("import sys; print(*sys.modules)", "--strands", "thread")
    assert status == 0 and not (rare & set(out.split())) - set(bare), err


@pytest.mark.parametrize("workers", [1, 2])
def test_what_a_task_prints_is_there_while_it_runs(launch_once, tmp_path, workers):
    go = tmp_path / "go"
    program = launch_once.write("""
        import os, sys, time, scoop_lite
        def say(path):
            print("said")
            limit = time.monotonic() + 10
            while not os.path.exists(path) and time.monotonic() < limit:
                time.sleep(0.01)
            return os.path.exists(path)
        if __name__ == "__main__":
            with scoop_lite.Executor(int(sys.argv[2])) as pool:
                print(pool.submit(say, sys.argv[1]).result())
    """)
    env = {"PYTHONPATH": str(launch_once.file.parent), "PYTHONUNBUFFERED": ""}
    run = launch_once.run([program, str(go), str(workers)], env=env)
    run.wait_for("said")
    go.touch()
    outcome = run.finish(settle_s=3)
    assert outcome.stdout == "said\nTrue\n" and outcome.returncode == 0, outcome


# ---------------------------------------------------------------------------------------------------------------------
# Straight links between the client and the workers of its own host
# ---------------------------------------------------------------------------------------------------------------------


def broker_saw(backend):
    """Return the kinds of messages that passed the broker while a pool of two ran single tasks and a map."""
    source = f"""
        from scoop_lite import Executor
        with Executor(2, wiretap=True, backend={backend!r}) as pool:
            print([pool.submit(abs, -i).result() for i in range(20)] == list(range(20)))
            print(sum(pool.map(abs, range(10_000))))
        """
    status, out, err = run(source, launch=False)
    assert (status, out) == (0, "True\n49995000\n"), err
    return {line.split()[6] for line in err.splitlines() if " ms  " in line}


def test_tasks_for_the_own_host_go_past_the_broker():
    assert broker_saw("own") & {"HELLO", "BATCH", "RESULT", "NEXT"} == {"HELLO"}
    assert {"BATCH", "RESULT"} <= broker_saw("loopback")


def test_what_goes_past_the_broker_is_not_faster_than_constants():
    with Executor(3) as pool:
        for i in range(100):
            pool.set_const(**{f"constant_{i}": i})
            tasks = [pool.submit(shared.getConst, f"constant_{i}", 0) for _ in range(3)]
            assert [task.result() for task in tasks] == [i] * 3


def pid_later(_):
    time.sleep(0.1)
    return os.getpid()


def test_a_worker_gives_back_what_another_can_begin_sooner():
    with Executor(2) as pool:
        for _ in range(5):
            pids = list(pool.map(pid_later, range(8), chunksize=8))
            assert len(pids) == 8 and len(set(pids)) == 2, pids


def test_the_summary_counts_what_goes_past_the_broker(tmp_path):
    source = f"""
        import os, scoop_lite
        def die_once(path):
            if not os.path.exists(path):
                open(path, "w").close()
                os._exit(1)
        with scoop_lite.Executor(2, verbose=True) as pool:
            assert sum(pool.map(abs, range(1000))) == 499500
            pool.submit(die_once, {str(tmp_path / "here")!r}).result()
        """
    status, out, err = run(source, launch=False)
    assert re.search(r"1,001 tasks in .* efficiency \d\d?% \(2 workers\)\n", err), err
    batches, tasks = re.search(r"(\d+) batches of ([\d.]+) tasks, .* 1 death, 1 re-run\n", err).groups()
    assert int(batches) >= 2 and 1001 <= int(batches) * (float(tasks) + 0.1)
    assert re.findall(r"worker (\d):", err.rpartition("host ")[2]) == ["1", "2"]


def test_progress_counts_what_goes_past_the_broker(launch_once):
    program = launch_once.write("""
        import time, scoop_lite
        if __name__ == "__main__":
            with scoop_lite.Executor(2, progress=True) as pool:
                list(pool.map(time.sleep, [0.05] * 420))
    """)
    outcome = launch_once.run([program], env={"PYTHONPATH": str(launch_once.file.parent)}).finish(settle_s=3)
    found = re.fullmatch(r"scoop_lite: (\d+)/420 tasks, 3\d/s, \d s left, 2/2 workers busy, 1 host\n", outcome.stderr)
    assert found and int(found[1]) > 300, outcome


@pytest.mark.parametrize("retries", (0, 2))
def test_tasks_in_a_chunk_that_is_lost_run_again_but_what_was_done_does_not(retries, tmp_path):
    ledger = tmp_path / "ledger"
    with Executor(2, retries=retries, quiet=True) as pool:
        tasks = [pool.submit(note_or_die, str(ledger), i) for i in range(40)]
        lost = [i for i, task in enumerate(tasks) if isinstance(task.exception(), scoop_lite.WorkerLost)]
        assert lost == [20] and all(task.result() == i for i, task in enumerate(tasks) if i != 20)
    runs = collections.Counter(map(int, ledger.read_text().split()))
    assert runs.pop(20) == retries + 1
    assert set(runs) == set(range(40)) - {20}
    assert max(runs.values()) <= min(retries, 1) + 1  # those of its chunk, at its first death; then it runs alone


def note_or_die(ledger, i):
    with open(ledger, "a") as file:
        file.write(f"{i}\n")
    if i == 20:
        os._exit(1)
    return i


#: Runs a program as coverage does: `__main__` is another module from then on, of which multiprocessing has not heard.
TOOL = """\
import multiprocessing, sys, types

main = sys.modules["__main__"] = types.ModuleType("__main__")
main.__file__ = sys.argv[1]
exec(compile(open(sys.argv[1]).read(), sys.argv[1], "exec"), main.__dict__)
"""
UNDER_A_TOOL = """\
import scoop_lite

class Point:
    def __init__(self, x):
        self.x = x

def double(point):
    return Point(2 * point.x)

if __name__ == "__main__":
    with scoop_lite.Executor(2) as pool:
        points = list(pool.map(double, map(Point, range(50))))
        print({type(point) is Point for point in points}, sum(point.x for point in points))
"""
TOOLS = {
    "like coverage": ["tool.py"],
    "cProfile": ["-m", "cProfile", "-o", "profile"],
    "trace": ["-m", "trace", "--count", "-C", "counts"],
    "pdb": ["-m", "pdb", "-c", "continue", "-c", "quit"],
    "runpy": ["-c", "import runpy, sys; runpy.run_path(sys.argv[1], run_name='__main__')"],
}


@pytest.mark.parametrize("tool", TOOLS)
def test_programs_that_a_tool_runs_find_their_classes(tmp_path, tool):
    (tmp_path / "tool.py").write_text(TOOL)
    (tmp_path / "program.py").write_text(UNDER_A_TOOL)
    env = dict(os.environ, PYTHONPATH=os.path.dirname(scoop_lite.__file__))
    done = subprocess.run([sys.executable, *TOOLS[tool], "program.py"], cwd=tmp_path, env=env, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60)
    assert "{True} 2450\n" in done.stdout and done.returncode == 0, done


SPIN = """
import concurrent.futures as cf, time
from scoop_lite import Executor

def spin(seconds):
    end = time.time() + seconds
    while time.time() < end:
        pass

if __name__ == "__main__":
    stuck = 0
    for _ in range(8):
        with Executor(2) as pool:
            cf.wait([pool.submit(spin, 0) for _ in range(2000)])
            list(pool.map(spin, [0] * 2000))
            tasks = [pool.submit(spin, seconds) for seconds in [0] * 20 + [2] + [0] * 200]
            del tasks[20]
            stuck += bool(cf.wait(tasks, timeout=1.6).not_done)
    print(stuck)
"""


def test_short_tasks_do_not_wait_behind_a_long_one_of_the_same_function(tmp_path):
    """Its worker, which thought it short, had said that it wanted more; so nobody was asked for what it held."""
    status, out, err = run_script(tmp_path, SPIN)
    assert status == 0 and int(out) <= 1, (out, err)


def test_what_a_callback_raises_ends_no_pool(caplog):
    """In the client's thread, it would: as where it looks at the result of a task that was interrupted, or exits."""
    with Executor(2) as pool:
        other = pool.submit(time.sleep, 0.5)
        for error in (SystemExit, KeyboardInterrupt, asyncio.CancelledError, GeneratorExit, KeyError):
            task = pool.submit(fail_with, error)
            task.add_done_callback(lambda task: task.result())
            assert type(task.exception(20)) is error
        assert other.result(20) is None and pool.submit(abs, -3).result(20) == 3
    assert [record.exc_info[0] for record in caplog.records if "callback" in record.message] == [
        SystemExit, KeyboardInterrupt, asyncio.CancelledError, GeneratorExit, KeyError
    ]  # fmt: skip


CROSSING = """
import threading
import scoop_lite

if __name__ == "__main__":
    pool = scoop_lite.Executor(1)
    print(pool.submit(abs, -1).result())
    begun, gap, submitted = threading.Event(), threading.Event(), threading.Event()
    enqueue, end = scoop_lite.Client.enqueue, scoop_lite.Client.end

    def enqueue_late(client, item):
        begun.set()
        gap.wait(20)
        enqueue(client, item)
        submitted.set()

    def end_behind_it(client):
        gap.set()
        submitted.wait(20)
        end(client)

    def submit():
        try:
            print(pool.submit(abs, -2).result(20))
        except Exception as error:
            print(error)

    scoop_lite.Client.enqueue, scoop_lite.Client.end = enqueue_late, end_behind_it
    threading.Thread(target=submit).start()
    begun.wait()
"""


def test_what_crosses_the_end_of_a_pool_is_told(tmp_path):
    assert run_script(tmp_path, CROSSING) == (0, "1\nthe pool is closed\n", "")


class Strict(type):
    def __eq__(cls, other):
        return cls is other


class Adder(metaclass=Strict):
    def __call__(self, x):
        return x + 1


def test_a_function_whose_class_has_no_hash_breaks_no_pool():
    """`pickle` cannot send it, as elsewhere."""
    with Executor(1) as pool:
        assert isinstance(pool.submit(Adder(), 1).exception(20), TypeError)
        assert pool.submit(abs, -3).result(20) == 3


FORK = """
import os, signal, socket, threading, time
import scoop_lite

def fork():
    begun.wait()
    children.append(os.fork() or time.sleep(60) or os._exit(0))

def socketpair(*args):
    pair = made(*args)
    begun.set()
    time.sleep(0.5)
    return pair

if __name__ == "__main__":
    begun, children, made = threading.Event(), [], socket.socketpair
    socket.socketpair = socketpair
    forker = threading.Thread(target=fork)
    forker.start()
    pool = scoop_lite.Executor(1)
    print(pool.submit(abs, -7).result())
    forker.join()
    print(pool.submit(abs, -8).result())
    pool.shutdown()
    print(os.waitpid(children[0], os.WNOHANG), "it still lives")
    os.kill(children[0], signal.SIGKILL)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nobody can fork here")
def test_a_child_that_is_forked_while_a_pool_is_made_holds_up_nothing(tmp_path):
    """As a server forks its workers: with the pool's links open in one, the pool would not end before it does."""
    assert run_script(tmp_path, FORK) == (0, "7\n8\n(0, 0) it still lives\n", "")


def fail_with(error):
    time.sleep(0.05)
    raise error("as it was asked to")


def run_script(directory, source, limit_s=60):
    (directory / "program.py").write_text(source)
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run([sys.executable, "program.py"], cwd=directory, env=env, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, universal_newlines=True, timeout=limit_s)  # fmt: skip
    return done.returncode, done.stdout, done.stderr


ODD = """
import concurrent.futures as cf, dataclasses, sys, time
from scoop_lite import Executor

class Mute(Exception):
    def __str__(self):
        return self.args[0]["nothing there"]

class Argument:
    def __init__(self, error):
        self.error = error
    def __getstate__(self):
        raise self.error

@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    code: int = 7

def frozen(i):
    time.sleep(0.05)
    raise Frozen(i)

class Named:
    def __init__(self):
        self.__name__ = self.__qualname__ = 3
    def __call__(self):
        return "called"

class Unbound:
    def __getattr__(self, name):
        raise RuntimeError("nothing is bound")
    def __call__(self):
        return "called, too"
    def __reduce__(self):
        return Unbound, ()

if __name__ == "__main__":
    with Executor(2) as pool:
        first = pool.submit(time.sleep, 0.3)
        errors = Mute(), SystemExit(3), KeyboardInterrupt(), MemoryError()
        odd = [pool.submit(id, Argument(error)) for error in errors]
        odd += [pool.submit(frozen, i) for i in range(3)]
        print(*(type(task.exception(20)).__name__ for task in odd), odd[-1].exception().code)
        print(pool.submit(Named()).result(20), pool.submit(Unbound()).result(20))
        print(first.result(20), pool.submit(abs, -1).result(20))
"""


def test_a_bad_argument_or_exception_fails_its_own_future_only(tmp_path):
    status, out, err = run_script(tmp_path, ODD)
    names = "Mute SystemExit KeyboardInterrupt MemoryError Frozen Frozen Frozen 2"
    assert (status, out) == (0, f"{names}\ncalled called, too\nNone 1\n"), (out, err)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
def test_an_executor_that_was_shut_down_holds_no_descriptor():
    kept, before = [], None
    for _ in range(4):
        pool = Executor(1)
        pool.submit(abs, 1).result()
        pool.shutdown()
        kept.append(pool)
        before = before or len(os.listdir("/proc/self/fd"))
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_map_with_a_negative_timeout_is_late_at_once():
    with Executor(1) as pool:
        for timeout in -1, -2, 0:
            with pytest.raises(concurrent.futures.TimeoutError):
                list(pool.map(time.sleep, [0.5], timeout=timeout))


@pytest.mark.parametrize("how", ["memoryview", "frombuffer", "broadcast", "read-only", "asarray"])
def test_a_view_of_what_a_function_fills_again_is_each_tasks_own(how):
    if how != "memoryview":
        pytest.importorskip("numpy")
    with Executor(1) as pool:
        results = [bytes(result) for result in pool.map(view_of_kept, [how] * 12, range(12))]
    assert [set(result) for result in results] == [{i} for i in range(12)]


KEPT = bytearray(1 << 20)


def view_of_kept(how, i):
    KEPT[:] = bytes([i]) * len(KEPT)
    if how == "memoryview":
        return pickle.PickleBuffer(memoryview(KEPT).toreadonly())
    import numpy

    array = numpy.frombuffer(KEPT, "u1") if how != "asarray" else numpy.asarray(memoryview(KEPT))
    if how == "read-only":
        array.flags.writeable = False
    return numpy.broadcast_to(array, array.shape) if how == "broadcast" else array


@pytest.mark.parametrize("n", [1.5, "2"])
def test_the_number_of_workers_is_an_integer(n):
    with pytest.raises(TypeError, match="max_workers"):
        Executor(n)


@pytest.mark.parametrize("options", [{"verbose": True}, {"verbose": 2}, {"quiet": True}])
def test_options_that_count_or_switch(options):
    with Executor(1, **options) as pool:
        assert pool.submit(abs, -1).result(30) == 1


@pytest.mark.parametrize("option", ["dry_run", "self_check", "version", "help", "serve", "no_such"])
def test_what_is_no_option_of_a_run_is_refused(option):
    with pytest.raises(TypeError, match="no option"):
        Executor(1, **{option: True})


TAKEN_BACK = """
import os, sys, time
from scoop_lite import Executor

def long():
    time.sleep(60)

def quick(i):
    if not os.path.exists("once"):
        open("once", "w").close()
        time.sleep(0.3)
        os._exit(3)
    open(f"ran {i}", "w").close()

if __name__ == "__main__":
    try:
        with Executor(2, restarts=0, quiet=True) as pool:
            tasks = [pool.submit(long), pool.submit(quick, 0)]
            end = time.time() + 20
            while not os.path.exists("once") and time.time() < end:
                time.sleep(0.01)
            time.sleep(1.5)
            begun = time.time()
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        print(os.path.exists("once"), os.path.exists("ran 0"), time.time() - begun < 10,
              *(type(task.exception()).__name__ for task in tasks))
"""


def test_an_interrupt_gives_up_tasks_that_have_come_back_from_a_dead_worker(tmp_path):
    status, out, err = run_script(tmp_path, TAKEN_BACK)
    assert (status, out.split()) == (0, ["True", "False", "True", "KeyboardInterrupt", "CancelledError"]), (out, err)


TWO_DOOMED = """
import os, time
import scoop_lite
from scoop_lite import shared

def first():
    shared.getConst("x", timeout=None)
    open("first runs", "w").close()
    try:
        while True:
            time.sleep(0.02)
    finally:
        open("first ended", "w").close()

def second():
    open("second waits", "w").close()
    try:
        shared.getConst("y", timeout=None)
    finally:
        open("second ended", "w").close()

def wait_for(name):
    end = time.time() + 20
    while not os.path.exists(name) and time.time() < end:
        time.sleep(0.02)

if __name__ == "__main__":
    try:
        with scoop_lite.Executor(1) as pool:
            tasks = [pool.submit(first)]
            time.sleep(0.5)
            tasks.append(pool.submit(second))
            wait_for("second waits")
            pool.set_const(x=1)
            wait_for("first runs")
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        print(*sorted(name for name in os.listdir() if name.endswith("ended")))
"""


def test_an_interrupt_ends_several_tasks_of_one_worker(tmp_path):
    status, out, err = run_script(tmp_path, TWO_DOOMED)
    assert (status, out) == (0, "first ended second ended\n"), (out, err)


PACKAGED = """
from app.vendor.scoop_lite import Executor, futures
import app.vendor.scoop_lite

def square(x):
    return x * x

def outer(n):
    return sum(futures.map(square, range(n)))

if __name__ == "__main__":
    print(list(futures.map(outer, range(4))), app.vendor.scoop_lite.worker is not None)
"""


@pytest.mark.parametrize("way", ["file", "module", "executor"])
def test_a_copy_in_a_package_is_the_one_that_runs(tmp_path, way):
    """In a launched process, the program's own copy means the launcher, whatever name it is imported by."""
    package = tmp_path / "app" / "vendor"
    package.mkdir(parents=True)
    (tmp_path / "app" / "__init__.py").touch()
    (package / "__init__.py").touch()
    shutil.copy(scoop_lite.__file__, package)
    source = PACKAGED
    if way == "executor":
        source = source.partition("if __name__")[0] + (
            "if __name__ == '__main__':\n    with Executor(2) as pool: print(list(pool.map(outer, range(4))))\n")
    (tmp_path / "program.py").write_text(source)
    words = {"file": [str(package / "scoop_lite.py")], "module": ["-m", "app.vendor.scoop_lite"], "executor": []}[way]
    words += ["-n", "2"] * bool(words)
    done = subprocess.run([sys.executable, *words, "program.py"], cwd=tmp_path, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, universal_newlines=True, timeout=60)  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done
    assert done.stdout.startswith("[0, 0, 1, 5]") and ("True" in done.stdout) == (way != "executor"), done


REUSED = """
import array, pickle, time
from scoop_lite import Executor

class Buffer:
    def __init__(self, size):
        self.data = bytearray(size)
    def __reduce_ex__(self, protocol):
        return bytearray, (pickle.PickleBuffer(self.data),)

LIST, DICT, NEST, BIG = [0], {}, [[0]], Buffer(1 << 20)

def in_a_list(i):
    LIST[0] = i
    return LIST

def in_a_dict(i):
    DICT["value"] = i
    return DICT

def rarely_in_a_dict(i):
    return i > 300 and in_a_dict(i)

def in_a_nest(i):
    NEST[0][0] = i
    return NEST

def in_a_big_buffer(i):
    BIG.data[:] = bytes([i % 256]) * len(BIG.data)
    return BIG

def in_a_big_buffer_slowly(i):
    time.sleep(0.01)
    return in_a_big_buffer(i)

if __name__ == "__main__":
    with Executor(2) as pool:
        for func in in_a_list, in_a_dict, in_a_nest:
            tasks = [pool.submit(func, i) for i in range(2000)]
            for results in pool.map(func, range(2000)), [task.result() for task in tasks]:
                print(sum(result not in ([i], {"value": i}, [[i]]) for i, result in enumerate(results)))
        results = list(pool.map(rarely_in_a_dict, range(2000)))  # whose first results cannot change
        print(sum(result != (i > 300 and {"value": i}) for i, result in enumerate(results)))
        for n, func in (300, in_a_big_buffer), (60, in_a_big_buffer_slowly):
            tasks = [pool.submit(func, i) for i in range(n)]
            for results in pool.map(func, range(n)), [task.result() for task in tasks]:
                print(sum(result != bytes([i % 256]) * len(result) for i, result in enumerate(results)))
"""


def test_results_are_each_tasks_own_though_tasks_fill_the_same_object_again(tmp_path):
    """Else what one task returned would be, in whole or in part, what a later one has put in its place."""
    status, out, err = run_script(tmp_path, REUSED)
    assert (status, out.split(), err) == (0, ["0"] * 11, ""), (out, err)
