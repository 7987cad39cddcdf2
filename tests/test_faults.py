"""What holds when processes die, stop, run out of memory or disk, or do what no task should: on one machine.

Every test runs with each link engine, has a hard limit of time, and ends with a proof that nothing of the run is
left. Exactly once is proved by a ledger to which every execution appends a line. The harness is in ``faults/``; each
program stands in its test and follows faults.jobs.PREAMBLE.
"""
from __future__ import annotations

import base64
import json
import math
import os
import re
import signal
import socket
import time
import types

import pytest
from conftest import needs_memory_limit
from faults import processes, system
from faults.fixtures import *  # noqa: F403
from faults.fixtures import PACES, limit, root, soak
from faults.jobs import resume, stop
from faults.processes import process, processes_of, wait_until

import scoop_lite

SQUARES = """
    def square(i):
        note("run", i)
        time.sleep(0.02)
        return i * i

    if __name__ == "__main__":
        print(sum(futures.map(square, range(200))))
        reach("end")
        if {wait}:
            await_sign("end")
"""
SUM_OF_SQUARES = sum(i * i for i in range(200))


# A worker dies


def test_a_killed_busy_worker_costs_only_second_runs_of_what_it_held(run):
    job = run(SQUARES.format(wait=False), "-n", "4")
    job.noted("run", 40)
    others = set(job.others())
    victim = process(next(line.pid for line in reversed(job.ledger("run")) if line.pid in others))
    victim.kill()
    wait_until(victim.is_reaped, 1, lambda: "the agent notices the death; %s" % job)
    job.right(SUM_OF_SQUARES)
    held = {line.key for line in job.ledger("run") if line.pid == victim.pid}
    assert set(job.runs()) == set(map(str, range(200)))
    assert not {key: n for key, n in job.runs().items() if n > (2 if key in held else 1)}


def test_a_worker_killed_while_idle_is_replaced_and_not_missed(run):
    job = run("""
        def double(i):
            note("run", i)
            time.sleep(0.02)
            return 2 * i

        if __name__ == "__main__":
            list(futures.map(double, range(100, 120)))
            reach("idle")
            await_sign("go")
            begin = time.monotonic()
            print([f.result() for f in [futures.submit(double, i) for i in range(50)]])
            print(time.monotonic() - begin, file=sys.stderr)
    """, "-n", "4")
    job.reached("idle")
    victim = process(job.others()[0])
    time.sleep(0.2)
    victim.kill()
    wait_until(victim.is_reaped, 1, lambda: "the agent notices the death; %s" % job)
    job.give("go")
    outcome = job.right([2 * i for i in range(50)])
    assert float(outcome.err.split()[-1]) <= 50 * 0.02 / 3 + 2
    assert set(job.runs().values()) == {1}


def kill_at_once(workers):
    """Kill workers, none of which may run what another, killed a moment before, has lost."""
    for number in signal.SIGSTOP, signal.SIGKILL:
        for worker in workers:
            worker.kill(number)


def test_all_workers_but_the_origin_killed_are_restarted(run):
    job = run(SQUARES.format(wait=True), "-n", "4")
    job.noted("run", 40)
    killed = processes_of(job.others())
    kill_at_once(killed)
    wait_until(lambda: len(set(job.others()) - {p.pid for p in killed}) == 3, 5, lambda: "three new workers; %s" % job)
    job.reached("end")
    job.give("end")
    job.right(SUM_OF_SQUARES)
    assert max(job.runs().values()) <= 2
    later = {line.pid for line in job.ledger("run")} - {p.pid for p in killed} - {job.origin}
    assert later, "the new workers took no part"


def test_with_restarts_off_the_origin_finishes_alone_and_says_so(run):
    job = run(SQUARES.format(wait=False), "-n", "4", "--restarts", "0")
    job.noted("run", 40)
    kill_at_once(processes_of(job.others()))
    wait_until(lambda: not job.others(), 1, lambda: "no other worker; %s" % job)
    killed_at_s = time.monotonic()
    outcome = job.right(SUM_OF_SQUARES)
    assert max(job.runs().values()) <= 2
    assert {line.pid for line in job.ledger("run") if line.time_s > killed_at_s + 0.1} == {job.origin}
    assert re.search(r"alone|no (other )?workers? (is |are )?left", outcome.err), outcome.err


# A healthy task is left alone


LONG = """
    def long(how):
        note("run", how.__name__)
        how({seconds})
        return how.__name__

    if __name__ == "__main__":
        fs = [futures.submit(long, how) for how in (time.sleep, hold_gil, burn)]
        await_notes("run", 3)
        {origin}
        print(sorted(poll(f, 120).result() for f in fs))
"""


def check_no_false_death(run, pace, origin="pass"):
    """Run three tasks of 4 times the death limit, away from the origin, and prove that each ran once, in peace."""
    job = run(LONG.format(seconds=4 * pace.dead_after_s, origin=origin), "-n", "4", *pace.options)
    job.noted("run", 3)
    outcome = job.right(["burn", "hold_gil", "sleep"], within_s=6 * pace.dead_after_s + 10)
    assert job.runs() == {"sleep": 1, "hold_gil": 1, "burn": 1}
    assert len({line.pid for line in job.ledger("run")} - {job.origin}) == 3
    assert outcome.err == ""


@pytest.mark.parametrize("pace", PACES)
@pytest.mark.parametrize("origin", ["pass", "hold_gil(5)"], ids=["idle origin", "origin holding the GIL"])
def test_healthy_tasks_longer_than_the_death_limit_run_once(run, pace, origin):
    check_no_false_death(run, pace, origin)


@soak
@limit(1200)
def test_twenty_rounds_of_long_tasks_see_no_false_death(run):
    for _ in range(20):
        check_no_false_death(run, PACES[1].values[0])


# A task that kills its worker


def check_blame(job, fates, bad):
    """Prove that one task is blamed for exactly three deaths, by its message, and the others are right."""
    assert job.runs()[bad] == 3
    lost = fates.pop(int(bad))
    assert lost.startswith("WorkerLost: ")
    for wanted in ("work", socket.gethostname(), "SIGKILL", "3"):
        assert wanted in lost, "%r is not in: %s" % (wanted, lost)
    assert fates == ["right %d" % i for i in range(51) if i != int(bad)]
    assert max(n for key, n in job.runs().items() if key != bad) <= 2
    wait_until(lambda: len(job.others()) == 2, 5, lambda: "two other workers again; %s" % job)


WORK = """
    def work(i):
        note("run", i)
        if i == {bad}:
            die("kill")
        time.sleep(0.002)
        return i
"""


def test_a_task_that_kills_its_worker_is_lost_after_three_deaths_and_no_other_is(run):
    job = run(WORK.format(bad=25) + """
    if __name__ == "__main__":
        fs = [futures.submit(work, i) for i in range(51)]
        for f in fs:
            print(fate(f))
        reach("end")
        await_sign("end")
    """, "-n", "3")
    job.reached("end", 30)
    check_blame(job, job.output("out").splitlines(), "25")
    job.give("end")
    assert job.finish().status == 0
    job.clean()


def test_a_task_that_kills_its_worker_is_found_among_one_chunk(run):
    job = run(WORK.format(bad=50) + """
    if __name__ == "__main__":
        results = futures.map(work, range(51), chunksize=51)
        await_notes("run", 3, key="50")
        time.sleep(0.5)
        try:
            for result in results:
                print("right %d" % result)
        except Exception as error:
            print("%s: %s" % (type(error).__name__, " / ".join(str(error).splitlines())))
        reach("end")
        await_sign("end")
    """, "-n", "3")
    job.reached("end", 30)
    check_blame(job, job.output("out").splitlines(), "50")
    job.give("end")
    assert job.finish().status == 0
    job.clean()


def test_a_task_that_must_not_run_twice_is_lost_at_its_first_death(run):
    job = run("""
        def work():
            note("run", 0)
            die("kill")

        if __name__ == "__main__":
            print(fate(futures.submit(work)))
    """, "-n", "2", "--retries", "0")
    outcome = job.finish()
    assert outcome.status == 0 and outcome.out.startswith("WorkerLost: "), str(job)
    assert job.runs() == {"0": 1}
    job.clean()


ENDINGS = """
    def in_task():
        note("run", 0)
        die({how!r})

    def in_argument(trap):
        note("run", 0)

    def in_result():
        note("run", 0)
        return Trap({how!r}, "pickled")

    def child():
        note("child", 0)
        return Trap({how!r}, "unpickled", os.getpid())

    def in_caller():
        before = notes("child")
        future = futures.submit(child)
        await_notes("child", before + 1)
        try:
            return future.result()
        except BaseException as error:
            raise RuntimeError("caught %s: %s" % (type(error).__name__, error))

    def healthy():
        return os.getpid()

    if __name__ == "__main__":
        begin = time.monotonic()
        arguments = [Trap({how!r}, "unpickled", os.getpid())] if {where!r} == "in_argument" else []
        print(fate(futures.submit({where}, *arguments)))
        print(time.monotonic() - begin)
        print(fate(futures.submit(healthy)))
"""


@pytest.mark.parametrize("how, cause", [("exit", r"sys\.exit|SystemExit|status 1"), ("_exit", "status 0"),
                                        ("segfault", "SIGSEGV")], ids=["sys.exit", "os._exit", "segfault"])
@pytest.mark.parametrize("where", ["in_task", "in_argument", "in_result", "in_caller"])
def test_a_fatal_call_reaches_the_caller_as_a_named_exception(run, where, how, cause):
    job = run(ENDINGS.format(how=how, where=where), "-n", "3")
    outcome = job.finish()
    assert outcome.status == 0, str(job)
    first, seconds, after = outcome.out.splitlines()
    assert re.search(cause, first) and not first.startswith("right"), str(job)
    assert how == "exit" or first.startswith("WorkerLost: "), str(job)
    assert float(seconds) <= 5
    assert re.match(r"right \d+$", after), str(job)
    job.clean()


SEALED = """
    class Holds(Exception):
        def __init__(self, text):
            super().__init__(text, threading.Lock())

    class TwoArguments(Exception):
        def __init__(self, first, second):
            super().__init__("%s-%s" % (first, second))

    def work(i):
        note("run", i)
        if i == 10:
            return {"model": threading.Lock()}
        if i == 20:
            raise Holds("deep water")
        if i == 30:
            raise TwoArguments("left", "right")
        return i

    def use(number, settings):
        return os.getpid()

    if __name__ == "__main__":
        fs = [futures.submit(work, i) for i in range(51)]
        sealed = futures.submit(use, 1, {"model": threading.Lock()})
        for f in fs:
            print(fate(f))
        print("home" if sealed.result() == os.getpid() else "away")
"""


def test_what_cannot_be_pickled_fails_its_own_future_only(run):
    job = run(SEALED, "-n", "3")
    outcome = job.finish()
    assert outcome.status == 0, str(job)
    fates = outcome.out.splitlines()
    assert "lock" in fates[10] and "model" in fates[10] and "pickle" in fates[10], fates[10]
    assert "Holds" in fates[20] and "deep water" in fates[20], fates[20]
    assert "TwoArguments" in fates[30] and "left-right" in fates[30], fates[30]
    assert [f for i, f in enumerate(fates[:51]) if i not in (10, 20, 30)] == [
        "right %d" % i for i in range(51) if i not in (10, 20, 30)]
    assert fates[51] == "home", "a task that cannot travel runs where it was made"
    assert set(job.runs().values()) == {1}
    job.clean()


def test_check_names_an_argument_that_cannot_travel_by_its_path(run):
    job = run("""
        def use(number, settings):
            return number

        if __name__ == "__main__":
            try:
                print(futures.submit(use, 1, {"model": threading.Lock()}).result())
            except Exception as error:
                print(" / ".join(str(error).splitlines()))
    """, "-n", "1", "--check")
    outcome = job.finish()
    assert outcome.status == 0, str(job)
    assert "args[1]['model']" in outcome.out and "lock" in outcome.out, str(job)
    job.clean()


# Memory and disk


GREEDY = """
    def greedy():
        note("run", 0)
        {limit}
        return len(bytearray(b"x") * 200000000)

    def healthy():
        return 7

    if __name__ == "__main__":
        print(fate(futures.submit(greedy)))
        print(fate(futures.submit(healthy)))
"""


@root
def test_a_worker_that_the_kernel_kills_for_memory_is_said_to_be_out_of_memory(run):
    with system.memory_group(64 << 20) as members:
        job = run(GREEDY.format(limit="open(%r, 'w').write(str(os.getpid()))" % str(members)), "-n", "2")
        outcome = job.finish()
        assert outcome.status == 0, str(job)
        lost, after = outcome.out.splitlines()
        assert lost.startswith("WorkerLost: ") and "SIGKILL" in lost and "memory" in lost, str(job)
        assert after == "right 7"
        job.clean()


@needs_memory_limit
def test_a_task_that_meets_a_memory_limit_fails_with_memory_error(run):
    limit_words = "import resource; resource.setrlimit(resource.RLIMIT_AS, (150 << 20, -1))"
    job = run(GREEDY.format(limit=limit_words), "-n", "2")
    outcome = job.finish()
    assert outcome.status == 0, str(job)
    error, after = outcome.out.splitlines()
    assert error.startswith("MemoryError"), str(job)
    assert after == "right 7"
    job.clean()


@pytest.mark.parametrize("strands", ["greenlet", "thread"])
@pytest.mark.parametrize("who", ["origin", "other"])
@pytest.mark.parametrize("method", ["Queue.take", "Pump.work"])
def test_an_error_outside_of_tasks_ends_the_script_or_the_worker_and_hangs_nobody(run, method, who, strands):
    """Such as a lack of memory, in whichever thread or strand it is noticed."""
    job = run("""
        import contextlib

        armed = []

        def arm(owner, name, who):
            if (who == "origin") == scoop_lite.IS_ORIGIN:
                real = getattr(getattr(scoop_lite, owner), name)

                def fails_once(self, *args):
                    if armed:
                        raise MemoryError("planted" + armed.pop())
                    return real(self, *args)

                setattr(getattr(scoop_lite, owner), name, fails_once)
                armed.append("!")

        def leaf(i):
            time.sleep(0.02)
            return i

        def node(i):
            return sum(futures.map(leaf, range(4)))

        if __name__ == "__main__":
            try:
                with contextlib.suppress(scoop_lite.WorkerLost):  # of who had it to run
                    futures.run_on_all(arm, *sys.argv[1].split("."), sys.argv[2])
                for _ in range(5):
                    assert sum(futures.map(node, range(8))) == 48
            finally:
                print("cleaned up")
    """, "-n", "2", "--strands", strands, arguments=[method, who])
    outcome = job.finish()
    assert outcome.status == (who == "origin") and outcome.out == "cleaned up\n", str(job)
    assert outcome.err.count("MemoryError: planted!") == 1, str(job)
    job.clean()


@needs_memory_limit
@pytest.mark.parametrize("where", ["result", "argument"])
def test_what_has_no_room_where_it_arrives_fails_alone(run, where):
    job = run("""
        import resource

        def limit(everywhere):
            if everywhere or not scoop_lite.IS_ORIGIN:
                with open("/proc/self/statm") as file:
                    used = int(file.read().split()[0]) * resource.getpagesize()
                resource.setrlimit(resource.RLIMIT_AS, (used + (50 << 20), -1))

        def big():
            return b"" if scoop_lite.IS_ORIGIN else bytes(150 << 20)

        def length(data):
            return len(data)

        def report(func, *args):
            try:
                print("right", futures.run_on_all(func, *args))
            except Exception as error:
                print(str(error).replace("\\n", " "))

        if __name__ == "__main__":
            if sys.argv[1] == "result":
                limit(True)
                report(big)
            else:
                data = bytes(150 << 20)
                futures.run_on_all(limit, False)
                report(length, data)
            report(length, "four")
    """, "-n", "2", arguments=[where])
    outcome = job.finish()
    assert outcome.status == 0, str(job)
    wrong, right = outcome.out.splitlines()
    assert "cannot be unpickled here: MemoryError" in wrong or "could not unpickle" in wrong, str(job)
    assert "not enough memory here" in wrong and right == "right {0: 4, 1: 4}", str(job)
    job.clean()


@root
def test_a_full_disk_stops_no_job_that_needs_none(run, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    job = run(SQUARES.format(wait=False), "-n", "3", before=system.small_disk(disk), environment={"TMPDIR": str(disk)})
    assert job.right(SUM_OF_SQUARES).err == ""


@root
@pytest.mark.parametrize("option", ["--log", "--trace"])
def test_a_full_disk_for_what_was_asked_for_is_said_before_anything_starts(run, tmp_path, option, help_text):
    if option not in help_text:
        pytest.skip("scoop_lite has no option %s" % option)
    disk = tmp_path / "disk"
    disk.mkdir()
    job = run(SQUARES.format(wait=False), "-n", "3", option, "asked-for", cwd=disk, before=system.small_disk(disk))
    outcome = job.finish()
    assert "o space" in outcome.err and "Traceback" not in outcome.err, str(job)
    assert outcome.status not in (0, -signal.SIGKILL) and not job.has_reached("origin"), str(job)
    job.clean()


BULK = """
    def turn(data):
        note("run", len(data))
        return data

    if __name__ == "__main__":
        reach("ready")
        await_sign("go")
        data = b"x" * {size}
        future = poll(futures.submit(turn, data), 100)
        if future.exception() is None:
            print("right" if future.result() == data else "wrong")
        else:
            print(future.exception())
        del data, future
        print(fate(futures.submit(turn, b"small")))
"""


@root
@limit(120)
@pytest.mark.parametrize("size, memory", [(256 << 20, 64 << 20), pytest.param(1 << 30, 256 << 20, marks=soak)])
def test_a_huge_argument_and_result_pass_a_small_broker(run, size, memory):
    with system.memory_group(memory) as members:
        job = run(BULK.format(size=size), "-n", "2")
        job.reached("ready")
        members.write_text(str(job.launcher))
        job.give("go")
        outcome = job.finish(100)
        assert outcome.status == 0, str(job)
        huge, small = outcome.out.splitlines()
        assert huge == "right" or re.search("too (large|big)", huge), str(job)
        assert small == "right b'small'"
        job.clean()


MANY = """
    def listed(size):
        note("run", size)
        return [bytes(size)]

    if __name__ == "__main__":
        reach("ready")
        await_sign("go")
        results = futures.map(listed, [60000] * 5000, chunksize=5000)
        time.sleep(2)  # a worker that nobody waits for sends many of them at once
        print(sum(len(result[0]) for result in results))
"""


@root
@limit(90)
def test_many_results_that_are_not_big_pass_a_small_broker_too(run):
    with system.memory_group(32 << 20) as members:
        job = run(MANY, "-n", "2")
        job.reached("ready")
        members.write_text(str(job.launcher))
        job.give("go")
        job.right(5000 * 60000, 80)


DRAW = """
    drawn = 0

    def numbers():
        global drawn
        for drawn in range(1, 10**6 + 1):
            yield drawn

    def work(i):
        time.sleep({task_s})
        return i

    if __name__ == "__main__":
        worst = 0
        for n, value in enumerate(futures.map(work, numbers()), 1):
            assert value == n
            worst = max(worst, drawn - n)
            time.sleep({consumer_s})
            if n == {enough}:
                break
        print(worst)
        reach("end")
        await_sign("end")
"""


@pytest.mark.parametrize("task_s, consumer_s, enough", [(0.002, 0, 2000), (0, 0.002, 1000)],
                         ids=["slow workers", "slow consumer"])
def test_map_draws_an_endless_input_within_a_bounded_window(run, task_s, consumer_s, enough):
    job = run(DRAW.format(task_s=task_s, consumer_s=consumer_s, enough=enough), "-n", "3")
    job.reached("end")
    assert processes.memory_kib(job.launcher, "VmHWM") <= 100 * 1024
    assert int(job.output("out")) <= 50000
    job.give("end")
    assert job.finish().status == 0
    job.clean()


@limit(180)
@pytest.mark.parametrize("count", [100000, pytest.param(10**6, marks=soak)])
def test_results_that_nobody_reads_do_not_pile_up_in_the_broker(run, count):
    job = run("""
        def work(i):
            return b"x" * 100

        if __name__ == "__main__":
            for i in range(%d):
                futures.submit(work, i)
            print(futures.submit(len, b"abc").result())
            reach("end")
            await_sign("end")
    """ % count, "-n", "3")
    job.reached("end", 100)
    assert processes.memory_kib(job.launcher, "VmHWM") <= 100 * 1024
    job.give("end")
    job.right("3", 60)


# An agent, the origin, the launcher dies


HANG = """
    def hang(i):
        note("run", i)
        while True:
            {grip}

    if __name__ == "__main__":
        reach("ready")
        if {idle}:
            await_sign("never")
        results = futures.map(hang, range(6))
        await_notes("run", 2)
        list(results)
"""
GRIPS = {"idle": "pass", "computing": "burn(1)", "gil": "hold_gil(60)", "stopped": "time.sleep(1)"}


@pytest.fixture(params=list(GRIPS))
def hanging(request, run):
    """A run of three workers that would never end: idle, computing, holding the GIL in C, or stopped."""
    job = run(HANG.format(grip=GRIPS[request.param], idle=request.param == "idle"), "-n", "3")
    job.reached("ready")
    wait_until(lambda: len(job.workers()) == 3, 5, lambda: "three workers; %s" % job)
    if request.param != "idle":
        wait_until(lambda: len({line.pid for line in job.noted("run", 3)}) == 3, 5, lambda: "all at work; %s" % job)
    if request.param == "stopped":
        stop(job.workers())
    return job


def check_it_ends_with_a_reason(job, within_s=5):
    """Prove that a run ends by itself, with a status and a sentence that say that it failed, and leaves nothing."""
    outcome = job.finish(within_s)
    job.clean()
    assert outcome.status != 0, str(job)
    assert re.search(r"agent|worker|origin", outcome.err), str(job)
    assert "Traceback" not in outcome.err, str(job)
    return outcome


def test_the_only_agent_killed_takes_its_workers_along_and_ends_the_run(hanging):
    workers = processes_of(hanging.workers())
    process(hanging.agent()).kill()
    wait_until(lambda: not any(w.exists() for w in workers), 1, lambda: "its workers gone; %s" % hanging)
    check_it_ends_with_a_reason(hanging)


@limit(90)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, pytest.param(None, marks=soak)])
def test_the_only_agent_stopped_does_not_hold_up_the_end(run_own, number):
    """It cannot tell of the script's end any more, but the end of the origin's link does."""
    job = run_own(SQUARES.format(wait=True), "-n", "3")
    job.reached("end")
    stop([job.agent()])
    job.give("end")
    wait_until(lambda: processes.stat_of(job.origin).state == "Z", 5, lambda: "the script's end; %s" % job)
    if number is not None:
        os.kill(job.launcher, number)
    outcome = job.finish(5 if number else 35)
    job.clean()
    assert outcome.shell_status == 128 + (number or signal.SIGTERM) and outcome.out.strip() == str(SUM_OF_SQUARES)
    assert number or "nothing was heard of its end" in outcome.err, str(job)


def test_the_launcher_killed_leaves_nobody(hanging):
    hanging.processes()
    process(hanging.launcher).kill()
    hanging.clean(5)


def test_each_child_of_the_launcher_killed_ends_the_run_or_is_made_good(run):
    program = HANG.format(grip="time.sleep(1)", idle=False)
    number = 0
    while True:
        job = run(program, "-n", "3")
        job.noted("run", 3)
        below = processes.children(job.launcher)
        if number >= len(below):
            break
        process(below[number]).kill()
        check_it_ends_with_a_reason(job)
        number += 1
    assert number >= 1


@pytest.mark.parametrize("how", ["killed", "os._exit(0)", "os._exit(3)"])
def test_the_origin_gone_in_mid_run_ends_everything_with_a_status(run, how):
    job = run("""
        def leaf(i):
            note("leaf", i)
            time.sleep(30)

        def tree(i):
            return list(futures.map(leaf, range(3)))

        if __name__ == "__main__":
            fs = [futures.submit(tree, i) for i in range(4)]
            await_notes("leaf", 2)
            reach("in-flight")
            %s
    """ % ("await_sign('never')" if how == "killed" else how), "-n", "3")
    job.reached("in-flight")
    if how == "killed":
        process(job.origin).kill()
    assert job.finish(10).status != 0, str(job)
    job.clean()


# Signals


SIGNALLED = """
    def hang(i):
        note("run", i)
        time.sleep(30)

    if __name__ == "__main__":
        print("first words")
        if {phase!r} == "shutdown":
            fs = [futures.submit(hang, i) for i in range(4)]
            await_notes("run", 1)
            reach("shutdown")
        else:
            try:
                list(futures.map(hang, range(8)))
            finally:
                note("finally")
                time.sleep({finally_s})
"""
PHASES = ("start", "run", "shutdown")
GENTLE = ("SIGINT", "SIGTERM")  # after these, and no second one, the script may clean up and what it printed is kept


def signalled(run, phase, numbers, to_group):
    """Start a run, send it signals in one of its phases; return the job at once."""
    job = run(SIGNALLED.format(phase=phase, finally_s=30 if len(numbers) > 1 else 0.1), "-n", "3")
    if phase == "start":
        wait_until(lambda: processes.children(job.launcher), 5, lambda: "the launcher's first child; %s" % job, 0.001)
    elif phase == "run":
        job.noted("run", 3)
    else:
        job.reached("shutdown")
        time.sleep(0.2)
    job.processes()
    for number in numbers:
        if to_group:
            os.killpg(job.launcher, number)
        else:
            processes.send(job.launcher, number)
        time.sleep(0.2)
    return job


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("names", ["SIGTERM", "SIGHUP", "SIGINT", "SIGINT SIGINT"])
def test_a_signal_to_the_launcher_or_its_group_ends_everything(run, names, phase):
    numbers = [getattr(signal, name) for name in names.split()]
    jobs = {where: signalled(run, phase, numbers, where == "group") for where in ("process", "group")}
    for where, job in jobs.items():
        outcome = job.finish(5)
        job.clean(1)
        assert outcome.shell_status == 128 + numbers[0], "%s: %s" % (where, job)
        if phase != "start" and names in GENTLE:
            assert outcome.out == "first words\n", "%s: %s" % (where, job)
        if phase == "run" and names in GENTLE:
            assert len(job.ledger("finally")) == 1, "%s: %s" % (where, job)


NOTICED = """
    def slow(i):
        note("run", i)
        time.sleep(0.05)
        return i

    if __name__ == "__main__":
        if {catches}:
            for number in (signal.SIGUSR1, signal.SIGUSR2):
                signal.signal(number, lambda number, frame: note("noticed", number))
        reach("handlers")
        print(sum(futures.map(slow, range(120))))
"""


def notify(job, where, number):
    """Send a signal as users, shells or schedulers do: to the launcher, to its group, to each process of the job."""
    if where == "group":
        os.killpg(job.launcher, number)
    else:
        others = [p.pid for p in job.processes()] if where == "all" else []
        for pid in [*others, job.launcher]:
            processes.send(pid, number)


@pytest.mark.parametrize("where", ["process", "group", "all"])
def test_what_a_scheduler_announces_by_a_signal_reaches_the_script_once_and_harms_nobody(run, where):
    job = run(NOTICED.format(catches=True), "-n", "3")
    job.reached("handlers")
    job.noted("run", 3)
    workers = job.workers()
    for n, number in enumerate([signal.SIGUSR1, signal.SIGUSR2, signal.SIGUSR1], 1):
        notify(job, where, number)
        assert job.noted("noticed", n)[-1].key == str(int(number))
        time.sleep(0.3)  # of two such signals in one moment, one may be lost or be noticed twice
    assert job.workers() == workers
    job.right(sum(range(120)))
    assert len(job.ledger("noticed")) == 3 and set(job.runs().values()) == {1}, str(job)
    job.clean()


def test_a_signal_that_the_script_does_not_catch_kills_it_as_it_would_without_us(run):
    job = run(NOTICED.format(catches=False), "-n", "3")
    job.reached("handlers")
    job.noted("run", 3)
    notify(job, "process", signal.SIGUSR1)
    assert job.finish(10).shell_status == 128 + signal.SIGUSR1, str(job)
    job.clean()


def test_a_script_that_has_begun_before_the_launcher_heard_of_it_may_clean_up(run):
    """On a busy machine, the launcher gets its turn late; then the script's word comes after the signal."""
    for _ in range(3):
        job = run("""
            if __name__ == "__main__":
                try:
                    reach("begun")
                    time.sleep(30)
                finally:
                    time.sleep(1.5)
                    note("finally")
        """, "-n", "2")
        wait_until(lambda: [pid for child in processes.children(job.launcher) for pid in processes.children(child)],
                   5, lambda: "the first worker; %s" % job, 0.0005)
        stop([job.launcher])
        job.reached("begun")
        os.kill(job.launcher, signal.SIGINT)
        resume([job.launcher])
        outcome = job.finish(8)
        job.clean(1)
        assert outcome.shell_status == 128 + signal.SIGINT and len(job.ledger("finally")) == 1, str(job)


def test_big_results_of_suspected_tasks_arrive(run):
    """They are sent at once, by the way that is not lost with the worker, which holds less than one of them."""
    job = run("""
        def give(i):
            time.sleep(0.1)
            if i % 5 == 3 and not scoop_lite.IS_ORIGIN and not notes("died", i):
                note("died", i)
                os.kill(os.getpid(), signal.SIGKILL)
            return bytes(1_000_000)

        if __name__ == "__main__":
            print(sum(map(len, futures.map(give, range(40)))))
    """, "-n", "3")
    outcome = job.finish(20)
    assert (outcome.status, outcome.out) == (0, "40000000\n"), str(job)


CATCHES = """
    if __name__ == "__main__":
        try:
            reach("waits")
            futures.submit(time.sleep, 1.5).result()
        except KeyboardInterrupt:
            note("caught")
        print(sum(futures.map(abs, [-1, -2])), flush=True)
        {end}
"""


@pytest.mark.parametrize("number, end, status", [
    (signal.SIGINT, "sys.exit(7)", 7), (signal.SIGTERM, "1 / 0", 1), (signal.SIGHUP, "", 0)])  # fmt: skip
def test_a_script_that_catches_a_signal_ends_with_its_own_status(run, number, end, status):
    job = run(CATCHES.format(end=end), "-n", "2")
    job.reached("waits")
    time.sleep(0.3)
    os.kill(job.launcher, number)
    outcome = job.finish(8)
    job.clean(1)
    assert (outcome.shell_status, outcome.out, len(job.ledger("caught"))) == (status, "3\n", 1), str(job)


@pytest.mark.parametrize("interactive", [False, True])
def test_a_second_interrupt_ends_all_only_soon_after_the_first_and_not_at_a_prompt(monkeypatch, interactive):
    """What the launcher makes of it, by a clock of ours."""
    clock, launcher = [0.0], types.SimpleNamespace(
        broker=types.SimpleNamespace(has_begun=lambda: True), config=scoop_lite.Config(interactive=interactive),
        signalled=None, second_s=math.inf, kill_s=math.inf, is_early=False, interrupts=[])  # fmt: skip
    monkeypatch.setattr(scoop_lite, "now", lambda: clock[0])

    def interrupted(at_s, number=signal.SIGINT):
        clock[0] = at_s
        scoop_lite.Launcher.on_signal(launcher, number, None)
        return len(launcher.interrupts), launcher.kill_s

    assert interrupted(1.0) == (1, math.inf)
    if interactive:
        assert interrupted(1.5) == (2, math.inf)
        assert interrupted(2.0, signal.SIGTERM) == (3, 2.0 + scoop_lite.SIGNAL_S)
        return
    assert interrupted(1.05) == (1, math.inf), "`timeout` sends two at once"
    assert interrupted(20.0) == (2, math.inf), "the script has gone on"
    assert interrupted(29.0) == (2, 29.0)


POLLED = """
    def hang():
        note("run")
        time.sleep(30)

    def poll():
        f = futures.submit(hang)
        while True:
            try:
                f.result(timeout=0)
            except futures.TimeoutError:
                pass

    if __name__ == "__main__":
        try:
            {begin}
        finally:
            note("finally")
"""


@pytest.mark.parametrize("begin", ["poll()", "futures.submit(poll).result()"])
def test_ctrl_c_ends_a_script_that_looks_without_a_pause(run, begin):
    """Almost all of its time is our own, where an interrupt would lose something."""
    job = run(POLLED.format(begin=begin), "-n", "2")
    job.noted("run", 1)
    time.sleep(0.3)
    os.kill(job.launcher, signal.SIGINT)
    outcome = job.finish(3)
    job.clean(1)
    assert outcome.shell_status == 128 + signal.SIGINT and len(job.ledger("finally")) == 1, str(job)


# What can be seen from outside


def test_the_own_engine_opens_no_port_and_no_socket_file(run_own):
    job = run_own(HANG.format(grip="time.sleep(1)", idle=False), "-n", "3")
    job.noted("run", 3)
    for pid in [job.launcher] + [p.pid for p in job.processes()]:
        assert system.sockets(pid) == [], str(job)
    job.process.terminate()
    job.finish(5)
    job.clean()


def test_the_zmq_engine_listens_in_the_launcher_only_and_on_no_outer_address(run_zmq):
    job = run_zmq(HANG.format(grip="time.sleep(1)", idle=False), "-n", "3")
    job.noted("run", 3)
    for pid in [job.launcher] + [p.pid for p in job.processes()]:
        listening = [s for s in system.sockets(pid) if s.listening]
        assert not listening or pid == job.launcher, str(job)
        for found in listening:
            assert found.family == "unix" or system.address(found.local)[0] == "127.0.0.1", str(job)
    job.process.terminate()
    job.finish(5)
    job.clean()


KEYS = """
    def keys(wanted):
        import zmq
        note("keys")
        time.sleep(0.3)
        options = (zmq.CURVE_PUBLICKEY, zmq.CURVE_SECRETKEY, zmq.CURVE_SERVERKEY)
        found = {curve_key(socket, option) for socket in zmq_sockets() for option in options}
        return sorted(key.hex() for key in found if key.strip(b"\\0"))

    if __name__ == "__main__":
        import json
        fs = [futures.submit(keys, i) for i in range(2)]
        print(json.dumps(sorted(set(sum([poll(f).result() for f in fs], [])))), flush=True)
        reach("told")
        await_sign("end")
"""


def key_forms(key: bytes):
    """Return the ways in which a key of 32 bytes might be written somewhere."""
    import zmq.utils.z85 as z85
    words = {key, key.hex().encode(), key.hex().upper().encode(), z85.encode(key), repr(key)[2:-1].encode()}
    return words | {base64.b64encode(key).rstrip(b"="), base64.urlsafe_b64encode(key).rstrip(b"=")}


@pytest.mark.parametrize("hosts", [(), ("alpha", "beta")], ids=["local", "hosts"])
def test_keys_are_in_no_command_line_no_environment_and_no_file(run_zmq, hosts):
    job = run_zmq(KEYS, "-n", "4", *(["--external-hostname", "127.0.0.1"] if hosts else []), hosts=hosts)
    job.reached("told")
    wait_until(lambda: job.output("out").endswith("\n"), 10, lambda: "what it printed: %s" % job)
    keys = [bytes.fromhex(key) for key in json.loads(job.output("out"))]
    assert len(keys) >= 3, "a worker has its own pair of keys and the broker's public one: %s" % job
    places = {path: path.read_bytes() for path in job.directory.rglob("*") if path.is_file() and path.name != "out"}
    for pid in [job.launcher] + [p.pid for p in job.processes()]:
        places.update({(pid, name): processes.read_bytes(pid, name) for name in ("cmdline", "environ")})
    for place, text in places.items():
        assert not [form for key in keys for form in key_forms(key) if form in text], "a key is in %s" % (place,)
    job.give("end")
    assert job.finish().status == 0
    job.clean()
