"""`futures`, from the outside: the oracle is the serial `map`, `functools.reduce` and `itertools.accumulate`."""

from __future__ import annotations

import functools
import itertools
import operator
import os
import random
import re
import sys
import textwrap
import time
import zlib
from collections import Counter

import pytest
from conftest import facts_with, program

#: On top of "the task that is running here" a time-out may be this late; the second half is for a busy test machine.
LATE_S = 0.05 + 0.15


def fibonacci(n):
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)


# ---------------------------------------------------------------------------------------------------------------------
# submit
# ---------------------------------------------------------------------------------------------------------------------


def test_submit(facts):
    got = facts("""
        def power(base, exponent=2, *, plus=0):
            return base ** exponent + plus

        def main():
            many = [futures.submit(power, i, plus=1) for i in range(500)]
            return {
                "positional": futures.submit(power, 3, 4).result(),
                "keyword": futures.submit(power, 3, exponent=3, plus=1).result(),
                "names of our own parameters": futures.submit(dict, func=1, fn=2, self=3, timeout=4).result(),
                "away": away(power, 5, plus=2).result(),
                "many": [future.result() for future in many],
                "backwards": [future.result() for future in reversed(many)],
                "not callable": outcome(lambda: futures.submit(3).result()).split(":")[0],
                "no argument": outcome(lambda: futures.submit().result()).split(":")[0],
                "wrong call": outcome(lambda: futures.submit(power).result()).split(":")[0],
            }
    """)
    many = [i**2 + 1 for i in range(500)]
    assert got == {
        "positional": 81,
        "keyword": 28,
        "names of our own parameters": {"func": 1, "fn": 2, "self": 3, "timeout": 4},
        "away": 27,
        "many": many,
        "backwards": many[::-1],
        "not callable": "TypeError",
        "no argument": "TypeError",
        "wrong call": "TypeError",
    }


@pytest.mark.parametrize("n", [1, 2, 4])
def test_every_worker_takes_part(facts, n):
    pids = facts(
        """
        def whoami(_):
            time.sleep(0.02)
            return os.getpid()

        def main():
            return sorted(set(futures.map(whoami, range(60))))
        """,
        n=n,
    )
    assert len(pids) == n


def test_a_script_that_ends_normally_waits_for_what_it_submitted(launch):
    outcome = launch(
        program("""
        def work(i):
            time.sleep(0.02)
            record(i)

        def main():
            for i in range(30):
                futures.submit(work, i)
        """)
    )
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert launch.ledger == {str(i): 1 for i in range(30)}


def test_a_script_that_fails_cancels_what_it_submitted(launch):
    outcome = launch(
        program("""
        def work(i):
            time.sleep(0.05)
            record(i)

        def main():
            kept = [futures.submit(work, i) for i in range(200)]
            time.sleep(0.2)
            raise LookupError("enough")
        """)
    )
    assert outcome.returncode == 1
    assert "LookupError: enough" in outcome.stderr
    assert len(launch.ledger) < 60
    assert set(launch.ledger.values()) <= {1}


def test_shutdown_waits(launch):
    outcome = launch(
        program("""
        def work(i):
            time.sleep(0.01)
            record(i)

        def main():
            for i in range(20):
                futures.submit(work, i)
            futures.shutdown()
            return len(open(os.environ["LEDGER"]).readlines())
        """)
    )
    assert (outcome.returncode, outcome.stderr, outcome.facts) == (0, "", 20)


# ---------------------------------------------------------------------------------------------------------------------
# map
# ---------------------------------------------------------------------------------------------------------------------


def test_map_equals_the_serial_map(facts):
    got = facts("""
        def join(*words):
            return "-".join(map(str, words))

        class Sequence:
            def __getitem__(self, i):
                if i == 5: raise IndexError
                return i * 10

        def main():
            cases = {
                "range": [range(1000)],
                "range with a step": [range(100, 0, -7)],
                "list": [list("abcdefg")],
                "generator": [(i * i for i in range(300))],
                "tuple, string, range": [("x", "y", "z"), "abcdef", range(10, 20)],
                "unequal lengths": [range(7), iter(range(3)), itertools.count()],
                "dictionary": [{"k": 1, "l": 2}],
                "old sequence": [Sequence()],
                "bytes": [b"bytes"],
                "repeat": [range(4), itertools.repeat("r")],
                "empty": [[]],
                "one empty": [range(5), []],
                "one item": [[42]],
            }
            iterator = futures.map(join, "ab")
            numbers = list(range(5000))
            mapped = futures.map(join, numbers)
            numbers[:] = []
            return {
                "list that has changed since": list(mapped),
                "results": {name: list(futures.map(join, *case)) for name, case in cases.items()},
                "iterator": [iter(iterator) is iterator, next(iterator), next(iterator), next(iterator, "end")],
                "chunksize": [list(futures.map(join, range(50), chunksize=size)) for size in (1, 7, 50, 1000)],
                "buffersize": [list(futures.map(join, range(50), buffersize=size)) for size in (1, 7, 50, 1000)],
                "both": list(futures.map(join, range(50), chunksize=4, buffersize=10)),
                "builtin": list(futures.map(abs, range(-5, 5))),
                "no iterable": outcome(futures.map, join).split(":")[0],
                "unknown keyword": outcome(futures.map, join, [1], chunk=1).split(":")[0],
                "not iterable": outcome(lambda: list(futures.map(join, 3))).split(":")[0],
            }
    """)

    def join(*words):
        return "-".join(map(str, words))

    results = got["results"]
    assert results["range"] == [join(i) for i in range(1000)]
    assert results["range with a step"] == [join(i) for i in range(100, 0, -7)]
    assert results["list"] == list("abcdefg")
    assert results["generator"] == [join(i * i) for i in range(300)]
    assert results["tuple, string, range"] == ["x-a-10", "y-b-11", "z-c-12"]
    assert results["unequal lengths"] == ["0-0-0", "1-1-1", "2-2-2"]
    assert results["dictionary"] == ["k", "l"]
    assert results["old sequence"] == ["0", "10", "20", "30", "40"]
    assert results["bytes"] == [join(i) for i in b"bytes"]
    assert results["repeat"] == ["0-r", "1-r", "2-r", "3-r"]
    assert (results["empty"], results["one empty"], results["one item"]) == ([], [], ["42"])
    assert got["list that has changed since"] == [join(i) for i in range(5000)]
    assert got["iterator"] == [True, "a", "b", "end"]
    fifty = [join(i) for i in range(50)]
    assert got["chunksize"] == got["buffersize"] == [fifty] * 4
    assert got["both"] == fifty
    assert got["builtin"] == list(map(abs, range(-5, 5)))
    assert (got["no iterable"], got["unknown keyword"], got["not iterable"]) == ("TypeError",) * 3


def test_map_refuses_sizes_that_mean_nothing(facts):
    got = facts("""
        def main():
            return [
                outcome(lambda: list(futures.map(abs, [1], **{name: size}))).split(":")[0]
                for name in ("chunksize", "buffersize")
                for size in (0, -1, "3")
            ]
    """)
    assert set(got) <= {"ValueError", "TypeError", "MisuseError"}, got


def test_chunksize_is_how_many_tasks_travel_together(launch_once):
    outcome = launch_once("""
        import time
        from scoop_lite import futures

        def nap(i):
            time.sleep(0.02)
            return i

        if __name__ == "__main__":
            futures.run_on_all(abs, -1)  # now the other worker is there, too
            print(list(futures.map(nap, range(52), chunksize=13)) == list(range(52)))
    """, options=["--wiretap"])  # fmt: skip
    batches = re.findall(r"worker 0 > broker +BATCH .* task(?:s (\d+)–)? ?(\d+) of chunk", outcome.stderr)
    assert outcome.stdout == "True\n", outcome
    assert max(int(last) - int(first or last) + 1 for first, last in batches) == 13, outcome


def test_the_window_of_a_map_grows_rather_than_let_its_owner_idle(launch):
    body = """
        def nothing(x):
            return x

        def main():
            return sum(sum(futures.map(nothing, range(10 ** 6))) for _ in range(3))
    """
    outcome = launch(program(body), n=2, options=["-v"])
    assert outcome.facts == 3 * sum(range(10 ** 6))
    mean = float(re.search(r"batches of ([\d.,]+) tasks", outcome.stderr).group(1).replace(",", ""))
    assert mean > 1500, "chunks are as small as the first window"


def test_tasks_that_hold_the_gil_give_way_to_the_pump(facts):
    """By Python's own 5 ms, others would idle for as long whenever they ask a busy worker for tasks."""
    got = facts("def main(): return [sys.getswitchinterval(), away(abs, -1).result(), sys.getswitchinterval()]")
    assert got == [0.005, 1, 0.0005]  # what needs no pump runs as it ever did


def test_no_batch_of_long_tasks_is_left_to_one_worker(facts):
    """Whatever came before it, and however long its owner paused: who idles gets tasks while another one runs."""
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    got = facts(f"""
        chance = random.Random({seed})

        def nap():
            time.sleep(0.01)
            return os.getpid()

        def naps(n):
            tasks = [futures.submit(nap) for _ in range(n)]
            return [task.result() for task in tasks]

        def main():
            alone = collections.Counter()
            for _ in range(40):
                alone["script"] += len(set(naps(6))) == 1
                time.sleep(chance.choice([0, 0.002, 0.008]))
                alone["task"] += len(set(futures.submit(naps, 8).result())) == 1
                alone["map"] += len(set(futures.map(lambda _: nap(), range(6)))) == 1
                if chance.random() < 0.3:
                    list(futures.map(abs, range(1000)))
            return alone
    """, n=4)
    assert max(got.values()) < 4, got  # a busy machine may start others late, but not time after time


def test_pools_that_tasks_fork_can_be_terminated_just_when_they_begin(facts):
    """`Pool.terminate` sends SIGTERM; a handler inherited from the script's process would miss it now and then."""
    assert facts("""
        import multiprocessing

        def negatives(x):
            with multiprocessing.get_context("fork").Pool(2) as pool:
                return pool.map(abs, [-x, x])

        def main():
            return [sum(map(sum, futures.map(negatives, range(6)))) for _ in range(15)]
    """) == [30] * 15


def test_map_of_an_endless_generator_draws_within_a_window(facts):
    got = facts("""
        drawn = 0

        def endless():
            global drawn
            while True:
                drawn += 1
                yield drawn

        def double(x):
            time.sleep(0.001)
            return 2 * x

        def main():
            got = {}
            for size in (1, 10, None):
                global drawn
                drawn = 0
                results = futures.map(double, endless(), buffersize=size)
                ahead, first = [drawn], []
                for _ in range(100):
                    first.append(next(results))
                    ahead.append(drawn - len(first))
                time.sleep(0.2)
                ahead.append(drawn - 100)
                more = list(itertools.islice(results, 20))
                got[str(size)] = {"right": first + more == list(range(2, 242, 2)), "ahead": ahead, "at 120": drawn}
                results.close() if hasattr(results, "close") else None
                del results
            return got
    """)
    for size in (1, 10):
        window = got[str(size)]
        assert window["right"]
        assert window["ahead"][0] == max(window["ahead"]) == size
        assert window["at 120"] <= 120 + size
    assert got["None"]["right"]
    assert got["None"]["at 120"] < 20_000


def test_map_of_any_length_in_bounded_memory(facts):
    got = facts("""
        import resource

        def same(x):
            return x

        def main():
            sum(futures.map(same, iter(range(50_000))))
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            total = sum(futures.map(same, (i for i in range(600_000))))
            return {"total": total, "kilobytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before}
    """)
    assert got["total"] == sum(range(600_000))
    assert got["kilobytes"] < 40_000


def test_map_streams_in_order(facts):
    got = facts("""
        def pause(i):
            time.sleep(0.05)
            return i

        def main():
            start = time.monotonic()
            arrivals = [(i, time.monotonic() - start) for i in futures.map(pause, range(30))]
            return arrivals
    """)
    order, times = zip(*got)
    assert order == tuple(range(30))
    assert times[0] < times[-1] / 2
    assert sum(time < times[-1] * 0.8 for time in times) >= 6


def test_an_abandoned_map_starts_nothing_more(launch):
    got = facts_with(
        launch,
        """
        def slow(i):
            record(i)
            time.sleep(0.02)
            return i

        def lines():
            return len(open(os.environ["LEDGER"]).readlines())

        def main():
            results = futures.map(slow, itertools.count())
            taken = [next(results) for _ in range(5)]
            del results
            for i in futures.map(slow, range(1000, 2000)):
                taken.append(i)
                if i == 1004:
                    break
            time.sleep(0.5)
            before = lines()
            time.sleep(0.5)
            return {"taken": taken, "before": before, "after": lines()}
        """,
    )
    assert got["taken"] == [0, 1, 2, 3, 4, 1000, 1001, 1002, 1003, 1004]
    assert got["before"] == got["after"] < 100
    assert sum(launch.ledger.values()) == got["after"]
    assert set(launch.ledger.values()) == {1}


def test_a_closed_map_has_ended(facts):
    got = facts("""
        def main():
            left = []
            for results in futures.map(abs, range(1000)), futures.map_as_completed(abs, range(1000)):
                next(results)
                results.close()
                left.append(list(results))
            return left
    """)
    assert got == [[], []]


def test_map_over_results_of_maps(facts):
    """The input of one map may itself come from a map, or from a generator that waits for futures."""
    got = facts("""
        def double(x):
            return 2 * x

        def inputs():
            for i in range(30):
                yield futures.submit(double, i).result()

        def main():
            chained = futures.map(double, futures.map(double, map(double, range(2000))))
            left, right = futures.map(double, range(50)), futures.map(double, range(100, 150))
            return {
                "chain": list(chained) == [8 * i for i in range(2000)],
                "waiting generator": list(futures.map(double, inputs())),
                "interleaved": [a + b for a, b in zip(left, right)],
            }
    """)
    assert got["chain"]
    assert got["waiting generator"] == [4 * i for i in range(30)]
    assert got["interleaved"] == [2 * i + 2 * (i + 100) for i in range(50)]


def test_a_map_runs_what_it_has_drawn_while_it_draws_more(facts):
    """Input may be slow to come: files that are read, an instrument."""
    assert facts("""
        def touch(path):
            open(path, "w").close()

        def inputs(there):
            for n in range(30):
                yield str(n)
                time.sleep(0.05)
                there.append(n < 10 or os.path.exists(str(n - 10)))

        def main():
            there = []
            list(futures.map(touch, inputs(there)))
            list(futures.map_as_completed(touch, inputs(there)))
            return there
    """, n=2) == [True] * 60


@pytest.mark.parametrize("n", [1, 2])
def test_results_of_input_that_comes_slowly_do_not_wait_for_more_of_it(facts, n):
    got = facts("""
        def main():
            drawn = []

            def stream():
                while True:
                    time.sleep(0.03)
                    drawn.append(1)
                    yield len(drawn)

            ahead = []
            for call in (futures.map, futures.map_as_completed):
                results = call(abs, stream())
                for _ in range(3):
                    next(results)
                    ahead.append(len(drawn))
                results.close()
                drawn.clear()
            return ahead
    """, n=n)
    assert max(got) < 20, got  # a window has 32


def test_map_raises_where_the_serial_map_would(facts):
    got = facts("""
        def check(i):
            if i == 13:
                raise LookupError("thirteen")
            return i

        def breaking():
            yield from range(5)
            raise OSError("no more input")

        def drain(results):
            got = []
            try:
                for result in results:
                    got.append(result)
            except Exception as error:
                got.append(repr(error))
            return got

        def stop(i):
            raise StopIteration(i)

        def main():
            return {
                "task": drain(futures.map(check, range(40))),
                "input": drain(futures.map(check, breaking())),
                "stop": outcome(lambda: list(futures.map(stop, range(3)))).split(":")[0],
            }
    """)
    assert got["task"] == [*range(13), "LookupError('thirteen')"]
    assert got["input"] == [*range(5), "OSError('no more input')"]
    assert got["stop"] == "RuntimeError", "a StopIteration out of a task must not end the results silently"


def test_an_exception_that_is_false_arrives_as_itself(facts):
    got = facts("""
        class Empty(Exception):
            def __len__(self):
                return 0

        def fail(i):
            raise Empty(i)

        def main():
            found = [outcome(lambda: list(futures.map(fail, range(9))))]
            return found + [outcome(future.result) for future in [futures.submit(fail, i) for i in range(3)]]
    """)
    assert [text.split(":")[0] for text in got] == ["Empty"] * 4


def test_a_stopiteration_that_a_loop_of_tasks_swallows_is_told_with_its_task(facts):
    """What it held is lost there; who raised it is not."""
    got = facts("""
        def stop(i):
            time.sleep(0.001)
            return next(iter([])) if i % 7 == 3 else i

        def main():
            import traceback
            found = []
            for i, future in [(i, futures.submit(stop, i)) for i in range(60)]:
                try:
                    future.result()
                except StopIteration as error:
                    found.append([i, "".join(traceback.format_exception(type(error), error, error.__traceback__))])
            return found
    """)
    assert [i for i, _ in got] == [*range(3, 60, 7)]
    for i, text in got:
        assert f"task stop({i}) raised StopIteration in a loop" in text or "next(iter([]))" in text, text


# ---------------------------------------------------------------------------------------------------------------------
# map_as_completed, as_completed, wait
# ---------------------------------------------------------------------------------------------------------------------


def test_as_completed(facts):
    got = facts("""
        def nap(seconds):
            time.sleep(seconds)
            return seconds

        def main():
            start = time.monotonic()
            order = list(futures.map_as_completed(nap, [0.6, 0.01, 0.02, 0.03, 0.01, 0.02]))
            tasks = [futures.submit(nap, s) for s in [0.6, 0.01, 0.02, 0.03]]
            completed = list(futures.as_completed(iter(tasks)))
            again = list(futures.as_completed(tasks + tasks))
            return {
                "first": order[0], "sorted": sorted(order),
                "futures": [f.result() for f in completed], "same": set(completed) == set(tasks) == set(again),
                "each once": len(completed) == len(again) == 4, "done": all(f.done() for f in completed),
                "none": list(futures.as_completed([])), "map of none": list(futures.map_as_completed(nap, [])),
                "two iterables": sorted(futures.map_as_completed(max, [1, 5, 2], [3, 4, 9])),
                "unknown keyword": outcome(futures.as_completed, [], when=1).split(":")[0],
                "unknown keyword of map": outcome(futures.map_as_completed, nap, [], chunk=1).split(":")[0],
            }
    """)
    assert got["first"] < 0.6 and got["sorted"] == [0.01, 0.01, 0.02, 0.02, 0.03, 0.6]
    assert got["futures"][0] < 0.6
    assert got["same"] and got["each once"] and got["done"]
    assert (got["none"], got["map of none"], got["two iterables"]) == ([], [], [3, 5, 9])
    assert (got["unknown keyword"], got["unknown keyword of map"]) == ("TypeError", "TypeError")


def test_as_completed_goes_by_when_tasks_ended_not_by_when_they_are_asked_for(facts_once):
    ended, order = facts_once("""
        ended = []

        def main():
            tasks = [futures.submit(ended.append, i) for i in range(30)]
            found = futures.as_completed(tasks[::-1])
            first = next(found)
            futures.wait(tasks)
            return ended, [tasks.index(task) for task in [first, *found]]
    """, n=1)  # fmt: skip
    assert sorted(ended) == list(range(30)) and order == ended


def test_waiting_for_the_first_of_many_leaves_nothing_with_the_others(facts):
    """A program may wait a thousand times for the first of a thousand."""
    assert facts("""
        def main():
            pending, most = {futures.submit(pow, 2, i) for i in range(200)}, 0
            while pending:
                _, pending = futures.wait(pending, return_when=futures.FIRST_COMPLETED)
                most = max([most, *(len(future.waiters or ()) for future in pending)])
            return most
    """) == 0


def test_wait(facts):
    got = facts("""
        def nap(seconds):
            time.sleep(seconds)
            return seconds

        def fail(seconds):
            time.sleep(seconds)
            raise LookupError(seconds)

        def seen(result):
            done, not_done = result
            return [len(done), len(not_done), result.done is done, result.not_done is not_done]

        def main():
            got = {}
            quick = [futures.submit(nap, 0.01) for _ in range(6)]
            got["all"] = seen(futures.wait(quick))
            got["all again"] = seen(futures.wait(quick, return_when=futures.ALL_COMPLETED))
            got["twice the same"] = seen(futures.wait(quick + quick))
            got["generator"] = seen(futures.wait(f for f in quick))
            got["no limit, SCOOP's way"] = seen(futures.wait([futures.submit(nap, 0.1) for _ in range(3)], -1))
            got["no limit"] = seen(futures.wait([futures.submit(nap, 0.1) for _ in range(3)], timeout=None))
            slow = [futures.submit(nap, 0.5) for _ in range(4)]
            start = time.monotonic()
            got["look"] = seen(futures.wait(slow, 0))
            got["look took"] = time.monotonic() - start
            got["then all"] = seen(futures.wait(slow))
            got["look after"] = seen(futures.wait(slow, 0))
            mixed = [futures.submit(nap, 0.2) for _ in range(12)]
            got["first"] = seen(futures.wait(mixed, return_when=futures.FIRST_COMPLETED))
            got["first of done"] = seen(futures.wait(mixed + quick, return_when="FIRST_COMPLETED"))
            futures.wait(mixed)
            failing = [futures.submit(nap, 0.2) for _ in range(6)]
            failing[3:3] = [futures.submit(fail, 0.05)]
            failing += [futures.submit(nap, 0.2) for _ in range(6)]
            got["exception"] = seen(futures.wait(failing, return_when=futures.FIRST_EXCEPTION))
            got["raised"] = outcome(failing[3].result)
            fine = [futures.submit(nap, s) for s in (0.01, 0.1)]
            got["no exception"] = seen(futures.wait(fine, return_when=futures.FIRST_EXCEPTION))
            got["none"] = seen(futures.wait([]))
            cancelled = [futures.submit(nap, 0.2) for _ in range(20)]
            got["cancel"] = sum([f.cancel() for f in cancelled])
            got["cancelled"] = seen(futures.wait(cancelled))
            running = futures.submit(nap, 0.1)
            got["no exception, but cancelled"] = seen(
                futures.wait([running, *cancelled], return_when=futures.FIRST_EXCEPTION)
            )
            late = [futures.submit(nap, 0.5)]
            got["wrong"] = str(outcome(futures.wait, late, return_when="SOMETIMES")).split(":")[0]
            got["unknown keyword"] = outcome(futures.wait, quick, when=1).split(":")[0]
            return got
    """)
    assert got["all"] == got["all again"] == got["twice the same"] == got["generator"] == [6, 0, True, True]
    assert got["no limit, SCOOP's way"] == got["no limit"] == [3, 0, True, True]
    assert sum(got["look"][:2]) == 4 and got["look"][0] <= 1 and got["look took"] < LATE_S
    assert got["then all"] == got["look after"] == [4, 0, True, True]
    assert 1 <= got["first"][0] <= 4 and sum(got["first"][:2]) == 12
    assert 7 <= got["first of done"][0] <= 12
    assert got["exception"][1] >= 2 and sum(got["exception"][:2]) == 13
    assert got["raised"] == "LookupError: 0.05"
    assert got["no exception"] == [2, 0, True, True]
    assert got["none"] == [0, 0, True, True]
    assert got["cancel"] >= 16 and got["cancelled"] == [20, 0, True, True]
    assert got["no exception, but cancelled"] == [21, 0, True, True]
    assert (got["wrong"], got["unknown keyword"]) == ("ValueError", "TypeError")


def test_time_outs_are_honoured(facts):
    got = facts("""
        import concurrent.futures

        def nap(seconds):
            time.sleep(seconds)
            return seconds

        def timed(call, *args, **kwargs):
            start = time.monotonic()
            kind = outcome(call, *args, **kwargs)
            return [kind.split(":")[0] if isinstance(kind, str) else "ended", time.monotonic() - start]

        def main():
            futures.wait([futures.submit(nap, 0.4) for _ in range(2)])  # so it is known how long they take
            running = futures.submit(nap, 3)
            time.sleep(0.3)  # now another worker has it
            early = futures.as_completed([running], timeout=0.4)
            got = {
                "result": timed(running.result, 0.3),
                "exception": timed(running.exception, timeout=0.3),
                "zero": timed(running.result, timeout=0),
                "as_completed, called long ago": timed(list, early),
                "as_completed": timed(lambda: list(futures.as_completed([running], timeout=0.3))),
                "wait": timed(futures.wait, [running], timeout=0.3),
                "map": timed(lambda: list(futures.map(nap, [3], timeout=0.3))),
                "map_as_completed": timed(lambda: list(futures.map_as_completed(nap, [3], timeout=0.3))),
            }
            same = futures.TimeoutError is concurrent.futures.TimeoutError
            return {"times": got, "same": same and futures.CancelledError is concurrent.futures.CancelledError}
    """)
    assert got["same"]
    for name, (kind, seconds) in got["times"].items():
        limit_s = 0 if name in ("zero", "as_completed, called long ago") else 0.3
        assert kind == ("ended" if name == "wait" else "TimeoutError"), name
        assert limit_s - 0.01 <= seconds <= limit_s + LATE_S, (name, seconds)


def test_the_time_of_a_map_is_for_all_of_its_results(facts):
    got = facts("""
        def main():
            return [outcome(lambda: list(call(time.sleep, [0.15] * 12, timeout=0.5)))
                    for call in (futures.map, futures.map_as_completed)]
    """)
    assert [str(kind).split(":")[0] for kind in got] == ["TimeoutError"] * 2, got


@pytest.mark.parametrize("n", [1, 2])
def test_waiting_in_small_steps_gets_there(facts, n):
    """A program that polls with short time-outs makes progress even when nobody else can run its tasks."""
    got = facts(
        """
        def quick(x):
            return x + 1

        def main():
            future, steps, limit = futures.submit(quick, 1), 0, time.monotonic() + 10
            while futures.wait([future], timeout=0.02).not_done and time.monotonic() < limit:
                steps += 1
            return {"done": future.done(), "steps": steps}
        """,
        n=n,
    )
    assert got["done"]


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("look", [
    "future.done()",
    "not futures.wait([future], timeout=0).not_done",
    "not late(future.result, timeout=0)",
    "not late(list, futures.as_completed([future], timeout=0.0005))",
])
def test_tasks_that_ask_again_and_again_get_there(facts, look, n):
    """Also when all workers do nothing but ask."""
    got = facts(
        """
        LIMIT = time.monotonic() + 25

        def late(ask, *args, **kwargs):
            try:
                ask(*args, **kwargs)
            except futures.TimeoutError:
                return True

        def tree(depth):
            if depth == 0:
                return 1
            children = [futures.submit(tree, depth - 1) for _ in range(3)]
            for future in children:
                while not (LOOK):
                    time.sleep(0.002)  # until another strand's wait is over
                    if time.monotonic() > LIMIT:
                        return -1000
            return sum(future.result() for future in children)

        def main():
            return futures.submit(tree, 3).result()
        """.replace("LOOK", look),
        n=n,
    )
    assert got == 27


@pytest.mark.parametrize(("n_pollers", "look"), [
    (2, "future.done()"),
    (3, "not futures.wait([future], timeout=0).not_done"),
])
def test_tasks_that_ask_again_and_again_do_not_keep_their_worker_from_those_of_others(facts, n_pollers, look):
    """Though one of several always has to go on: their worker does not wait for anything."""
    elsewhere, late_s, polled = facts("""
        def poll(limit_s):
            future = futures.submit(shared.getConst, "go", 30)
            limit = time.monotonic() + limit_s
            while not (LOOK) and time.monotonic() < limit:
                time.sleep(0.002)
            return future.done()

        def main():
            pollers = [futures.submit(poll, 20) for _ in range(%d)]
            time.sleep(1)  # the other worker has them all by then
            start, pids = time.monotonic(), [away(os.getpid).result() for _ in range(3)]
            late_s = time.monotonic() - start
            shared.setConst(go=1)
            return os.getpid() not in pids, late_s, [poller.result() for poller in pollers]
    """.replace("LOOK", look) % n_pollers)
    assert (elsewhere, polled) == (True, [True] * n_pollers)
    assert late_s < 5  # the limit of `away`; mostly three times 0.1 s, of which nothing happens


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("done", [
    "shared.getConst('five', timeout=0)",
    "len(futures.wait(tasks, return_when=futures.FIRST_COMPLETED).done) == 3",
    "len(futures.wait(tasks, timeout=0, return_when=futures.FIRST_COMPLETED).done) == 3",
])
def test_a_script_that_asks_for_what_only_it_can_run_gets_there(facts, done, n):
    assert facts(
        """
        def main():
            tasks = [futures.submit(abs, 0), futures.submit(abs, 1), futures.submit(set_five)]
            limit = time.monotonic() + 15
            while not (DONE) and time.monotonic() < limit:
                time.sleep(0.002)
            return bool(DONE)

        def set_five():
            shared.setConst(five=5)
        """.replace("DONE", done),
        n=n,
    )


@pytest.mark.parametrize("nap", ["time.sleep(0.01)", "futures.wait(tasks, timeout=0.01)"])
def test_a_script_that_asks_leaves_the_work_to_others(facts, nap):
    """For it may have a window to serve."""
    pids = facts("""
        def main():
            tasks = [away(os.getpid)] + [futures.submit(nap_there, 0.3) for _ in range(3)]
            while not all([task.done() for task in tasks]):
                NAP
            return [os.getpid(), *[task.result() for task in tasks]]

        def nap_there(seconds):
            time.sleep(seconds)
            return os.getpid()
    """.replace("NAP", nap))
    assert pids[0] not in pids[1:]


def test_done_is_seen_without_waiting(facts):
    assert facts("""
        def main():
            future = away(os.getpid)
            return [future.done(), future.result() != os.getpid()]
    """) == [True, True]


def test_map_as_completed_hands_over_in_the_order_of_completion_to_who_is_slow(facts):
    got = facts("""
        def work(i):
            time.sleep(0.02)
            return time.monotonic()

        def main():
            results = futures.map_as_completed(work, range(30))
            ended = [next(results)]
            time.sleep(1)  # another worker does the others meanwhile
            return [*ended, *results]
    """, n=2)  # fmt: skip
    assert len(got) == 30 and got == sorted(got), got


def test_reductions_may_be_late(facts):
    got = facts("""
        def nap(seconds):
            time.sleep(seconds)
            return seconds

        def main():
            late = [outcome(call, nap, operator.add, [0.5, 0.5, 0.5, 0.5], timeout=0.3).split(":")[0]
                    for call in (futures.mapReduce, futures.mapScan)]
            return [*late, futures.mapReduce(nap, operator.add, [0, 0], timeout=20)]
    """, n=2)  # fmt: skip
    assert got == ["TimeoutError", "TimeoutError", 0]


def test_the_standard_librarys_wait_says_what_to_use(launch_once):
    outcome = launch_once("""
        import concurrent.futures
        from scoop_lite import futures
        if __name__ == "__main__":
            for call in concurrent.futures.wait, lambda fs: next(concurrent.futures.as_completed(fs)):
                try:
                    call([futures.submit(abs, -1)])
                except AttributeError as error:
                    print(error)
    """)
    assert outcome.stdout.count("use futures.wait and futures.as_completed") == 2, outcome


# ---------------------------------------------------------------------------------------------------------------------
# mapReduce, mapScan
# ---------------------------------------------------------------------------------------------------------------------

REDUCTIONS = """
    def text(i):
        return "<%d>" % i

    def matrix(i):
        return ((1, i), (i % 3, 1))

    def product(a, b):
        return tuple(tuple(sum(a[i][k] * b[k][j] for k in (0, 1)) % 1000003 for j in (0, 1)) for i in (0, 1))

    def term(i):
        return (-1.0) ** i / (2 * i + 1)

    def pair(a, b):
        return "%s%s" % (a, b)

    def nested(i):
        return futures.mapReduce(text, operator.add, range(i, i + 5))

    def main():
        return {
            "text": [futures.mapReduce(text, operator.add, range(n)) for n in SIZES],
            "scanned text": [list(futures.mapScan(text, operator.add, range(n))) for n in SIZES],
            "matrix": [futures.mapReduce(matrix, product, range(n)) for n in SIZES],
            "scanned matrix": [list(futures.mapScan(matrix, product, range(n))) for n in SIZES],
            "float": [futures.mapReduce(term, operator.add, range(n)).hex() for n in SIZES],
            "scanned float": [[x.hex() for x in futures.mapScan(term, operator.add, range(n))] for n in SIZES],
            "two iterables": futures.mapReduce(pair, operator.add, "abc", range(10)),
            "generator": futures.mapReduce(text, lambda a, b: a + b, (i for i in range(100))),
            "aliases": [futures.map_reduce(text, operator.add, range(3)),
                        list(futures.map_scan(text, operator.add, range(3)))],
            "nested": futures.mapReduce(nested, operator.add, range(20)),
            "nested scan": list(futures.mapScan(nested, operator.add, range(5))),
            "none": outcome(futures.mapReduce, text, operator.add, []).split(":")[0],
            "scan of none": list(futures.mapScan(text, operator.add, [])),
            "unknown keyword": [outcome(call, text, operator.add, [1], initial=0).split(":")[0]
                                for call in (futures.mapReduce, futures.mapScan)],
        }
"""
SIZES = [1, 2, 3, 4, 7, 64, 65, 300]


def text(i):
    return "<%d>" % i


def matrix(i):
    return ((1, i), (i % 3, 1))


def product(a, b):
    return tuple(tuple(sum(a[i][k] * b[k][j] for k in (0, 1)) % 1000003 for j in (0, 1)) for i in (0, 1))


def as_lists(value):
    return [as_lists(item) for item in value] if isinstance(value, (list, tuple)) else value


def test_reductions_equal_the_serial_ones(facts):
    source = "\n    SIZES = %r\n" % SIZES + REDUCTIONS
    got = facts(source, n=4)
    assert got["text"] == [functools.reduce(operator.add, map(text, range(n))) for n in SIZES]
    assert got["scanned text"] == [list(itertools.accumulate(map(text, range(n)))) for n in SIZES]
    assert got["matrix"] == as_lists([functools.reduce(product, map(matrix, range(n))) for n in SIZES])
    scans = [list(itertools.accumulate(map(matrix, range(n)), product)) for n in SIZES]
    assert got["scanned matrix"] == as_lists(scans)
    assert got["two iterables"] == "a0b1c2"
    assert got["generator"] == "".join(map(text, range(100)))
    assert got["aliases"] == ["<0><1><2>", ["<0>", "<0><1>", "<0><1><2>"]]
    nested = ["".join(map(text, range(i, i + 5))) for i in range(20)]
    assert got["nested"] == "".join(nested)
    assert got["nested scan"] == list(itertools.accumulate(nested[:5]))
    assert (got["none"], got["scan of none"]) == ("TypeError", [])
    assert got["unknown keyword"] == ["TypeError", "TypeError"]
    assert facts(source, n=1) == got, "bit for bit the same on any number of workers, floating point too"


def test_reductions_hand_over_exceptions(facts):
    got = facts("""
        def bad(i):
            if i == 30: raise LookupError("thirty")
            return i

        def worse(a, b):
            raise OSError("no reduction")

        def main():
            return [outcome(call, *args) if call is futures.mapReduce else outcome(lambda: list(call(*args)))
                    for call in (futures.mapReduce, futures.mapScan)
                    for args in ((bad, operator.add, range(60)), (abs, worse, range(60)))]
    """)
    assert got == ["LookupError: thirty", "OSError: no reduction"] * 2


def test_reductions_happen_where_the_values_are(facts):
    got = facts("""
        def value(i):
            time.sleep(0.002)
            return {os.getpid()} if i < 0 else set()

        def join(a, b):
            return a | b | {os.getpid()}

        def main():
            pids = futures.mapReduce(value, join, range(400))
            return [os.getpid() in pids, len(pids)]
    """)
    assert got[1] == 2, "both workers reduce"


# ---------------------------------------------------------------------------------------------------------------------
# Future
# ---------------------------------------------------------------------------------------------------------------------


def test_future_after_pep_3148(facts):
    got = facts("""
        def nap(seconds):
            time.sleep(seconds)
            return seconds

        def hold(place):
            open(os.path.join(place, "begun"), "w").close()
            while not os.path.exists(os.path.join(place, "end")):
                time.sleep(0.01)
            return 1

        def fail():
            raise LookupError("why")

        def main():
            calls = []
            plain = futures.submit(nap, 0.01)
            plain.add_done_callback(lambda f: calls.append(["first", f is plain, f.done()]))
            plain.add_done_callback(lambda f: calls.append(["second", f is plain, f.done()]))
            before = list(calls)
            result = plain.result()
            plain.add_done_callback(lambda f: calls.append(["late", f is plain, f.done()]))
            failed = futures.submit(fail)
            failed.add_done_callback(lambda f: calls.append(["failed", repr(f.exception())]))
            error = failed.exception()
            place = tempfile.mkdtemp()
            running = futures.submit(hold, place)
            while not os.path.exists(os.path.join(place, "begun")):
                time.sleep(0.01)  # until the other worker is busy with it
            cancelled = futures.submit(nap, 9)
            cancelled.add_done_callback(lambda f: calls.append(["cancelled", f.cancelled()]))
            return {
                "before": before, "result": [result, plain.result(), plain.result(timeout=1), plain.result(0)],
                "state": [plain.done(), plain.running(), plain.cancelled(), plain.cancel(), plain.exception()],
                "failed": [repr(error), failed.exception() is error, outcome(failed.result), failed.done(),
                           failed.cancel(), failed.cancelled()],
                "cancelled": [cancelled.cancel(), cancelled.cancel(), cancelled.cancelled(), cancelled.done(),
                              cancelled.running(), outcome(cancelled.result).split(":")[0],
                              outcome(cancelled.exception).split(":")[0]],
                "running": [running.cancel(), running.done(), running.cancelled(),
                            open(os.path.join(place, "end"), "w").close(), running.result()],
                "types": [isinstance(f, futures.Future) for f in (plain, failed, cancelled)],
                "hashable": len({plain, failed, cancelled, plain}), "repr": repr(plain),
                "calls": calls,
            }
    """)
    assert got["before"] == []
    assert got["result"] == [0.01] * 4
    assert got["state"] == [True, False, False, False, None]
    why = "LookupError('why')"
    assert got["failed"] == [why, True, "LookupError: why", True, False, False]
    assert got["cancelled"] == [True, True, True, True, False, "CancelledError", "CancelledError"]
    assert got["running"] == [False, False, False, None, 1]
    assert got["types"] == [True] * 3 and got["hashable"] == 3 and "Future" in got["repr"]
    assert got["calls"] == [
        ["first", True, True],
        ["second", True, True],
        ["late", True, True],
        ["failed", why],
        ["cancelled", True],
    ]


def test_running_is_seen(facts):
    assert facts("""
        def work():
            record("started")
            time.sleep(1)

        def main():
            future = futures.submit(work)
            while not os.path.exists(os.environ["LEDGER"]):
                time.sleep(0.01)
            time.sleep(0.1)
            return [future.running() or not future.cancel(), future.done(), future.result()]
    """) == [True, False, None]


def test_a_callback_that_fails_is_logged(launch):
    outcome = launch(
        program("""
        def bad(future):
            raise LookupError("from the callback")

        def main():
            future, calls = futures.submit(abs, -1), []
            future.add_done_callback(bad)
            future.add_done_callback(lambda f: calls.append(f.result()))
            return [future.result(), calls]
        """)
    )
    assert (outcome.returncode, outcome.facts) == (0, [1, [1]])
    assert "LookupError: from the callback" in outcome.stderr


def test_a_callback_may_create_tasks_wherever_its_future_was_done(facts):
    """It may run on a strand that has no task; the seeds of its tasks depend on the place where it was added."""
    body = """
        def nap(i):
            time.sleep(0.02)
            return i

        def main():
            seen, seeds = [], []
            tasks = [futures.submit(nap, i) for i in range(20)]
            for task in tasks:
                task.add_done_callback(lambda f: seen.append(futures.submit(abs, -f.result()).result()))
                task.add_done_callback(lambda f: seen.append(sum(futures.map(abs, [f.result()]))))
                task.add_done_callback(lambda f: seeds.append(futures.submit(futures.task_seed).result()))
            futures.wait(tasks)
            return [sorted(seen), sorted(seeds) + [futures.submit(futures.task_seed).result()]]
    """
    seen, seeds = facts(body)
    assert seen == sorted(2 * list(range(20))) and len(set(seeds)) == 21
    assert facts(body, n=1) == [seen, seeds]


def test_a_callback_that_exits_stops_nobody(launch):
    got = facts_with(
        launch,
        """
        def nap(i):
            time.sleep(0.02)

        def main():
            tasks = [futures.submit(nap, i) for i in range(20)]
            for i, task in enumerate(tasks):
                task.add_done_callback(lambda f: sys.exit("from the callback"))
            return [len(futures.wait(tasks).done), futures.submit(abs, -1).result()]
        """,
        stderr=None,
    )
    assert got == [20, 1]


# ---------------------------------------------------------------------------------------------------------------------
# cancel, wherever a task waits
# ---------------------------------------------------------------------------------------------------------------------


def test_cancel_in_the_queue_of_its_owner(launch):
    got = facts_with(
        launch,
        """
        def main():
            tasks = [futures.submit(record, i) for i in range(100)]
            cancelled = [task.cancel() for task in tasks[::2]]
            futures.wait(tasks)
            return [all(cancelled), [task.cancelled() for task in tasks]]
        """,
        n=1,
    )
    assert got == [True, [True, False] * 50]
    assert launch.ledger == {str(i): 1 for i in range(1, 100, 2)}


def test_cancel_on_the_way_and_in_the_queue_of_a_taker(launch):
    """Whoever holds a task that has not started, it never starts after `cancel` said yes and had a moment to arrive."""
    got = facts_with(
        launch,
        """
        def work(i):
            record(i, time.time())
            time.sleep(0.15)

        def main():
            tasks = [futures.submit(work, i) for i in range(60)]
            time.sleep(0.4)
            cancelled = [task.cancel() for task in tasks]
            moment = time.time()
            done = futures.wait(tasks).done
            return {"cancelled": cancelled, "done": len(done), "moment": moment,
                    "states": [task.cancelled() for task in tasks]}
        """,
        n=3,
    )
    assert got["done"] == 60 and got["states"] == got["cancelled"]
    started = {int(line.split()[0]): float(line.split()[1]) for line in launch.ledger}
    assert set(launch.ledger.values()) == {1}
    assert sum(got["cancelled"]) >= 50
    assert all(i in started for i, yes in enumerate(got["cancelled"]) if not yes), "refused, but never ran"
    late = [i for i, yes in enumerate(got["cancelled"]) if yes and started.get(i, 0) > got["moment"] + 0.1]
    assert late == [], "cancelled, but started later"
    wrong = [i for i, yes in enumerate(got["cancelled"]) if yes and i in started]
    assert len(wrong) <= 1, f"already running, but cancel() said yes: {wrong}"


def test_cancel_of_what_cannot_travel(launch):
    got = facts_with(
        launch,
        """
        def work(lock, i):
            record(i)

        def main():
            lock = threading.Lock()
            tasks = [futures.submit(work, lock, i) for i in range(10)]
            time.sleep(0.3)  # the workers have asked for them in vain
            cancelled = [task.cancel() for task in tasks[:5]]
            futures.wait(tasks)
            return [cancelled, [task.cancelled() for task in tasks]]
        """,
    )
    assert got == [[True] * 5, [True] * 5 + [False] * 5]
    assert launch.ledger == {str(i): 1 for i in range(5, 10)}


def test_cancel_from_a_task(launch):
    got = facts_with(
        launch,
        """
        def child(i):
            record(i)
            time.sleep(0.2)
            return i

        def parent(base):
            tasks = [futures.submit(child, base + i) for i in range(20)]
            first = tasks[0].result()
            cancelled = [task.cancel() for task in tasks]
            return [first, sum(cancelled)]

        def main():
            return list(futures.map(parent, [100, 200]))
        """,
        n=3,
    )
    assert [row[0] for row in got] == [100, 200]
    n_cancelled = sum(row[1] for row in got)
    assert n_cancelled >= 16
    assert sum(launch.ledger.values()) <= 40 - n_cancelled + 3
    assert set(launch.ledger.values()) == {1}


def test_cancel_of_a_task_that_waits_is_refused(facts):
    got = facts("""
        def child():
            time.sleep(0.5)
            return "child"

        def parent():
            record("parent")
            return futures.submit(child).result()

        def main():
            future = futures.submit(parent)
            while not os.path.exists(os.environ["LEDGER"]):
                time.sleep(0.01)
            time.sleep(0.1)
            return [future.cancel(), future.result()]
    """)
    assert got == [False, "child"]


# ---------------------------------------------------------------------------------------------------------------------
# Exceptions
# ---------------------------------------------------------------------------------------------------------------------

FAILING = """
    class Special(Exception):
        def __init__(self, code, *, detail=None):
            super().__init__(code)
            self.detail = detail

    def innermost(x):
        error = Special(x)
        error.detail = "kept"
        raise error

    def failing(x):
        return innermost(x)

    def nested(x):
        return futures.submit(failing, x).result()

    def chained(x):
        try:
            {}["missing"]
        except KeyError as error:
            raise Special(x) from error
"""


def test_exceptions_arrive_as_themselves_with_their_traceback(facts):
    got = facts(
        FAILING
        + """
    import traceback

    def caught(future):
        try:
            future.result()
        except Special as error:
            text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
            return {"args": list(error.args), "detail": error.detail, "same": future.exception() is error, "text": text}

    def main():
        return {
            "away": caught(away(failing, 7)),
            "anywhere": caught(futures.submit(failing, 7)),
            "nested": caught(away(nested, 7)),
            "chained": caught(away(chained, 7)),
        }
    """
    )
    for name in ("away", "anywhere", "nested"):
        assert (got[name]["args"], got[name]["detail"], got[name]["same"]) == ([7], "kept", True), name
        for part in ("in failing", "in innermost", "raise error", "program.py", "Special: 7"):
            assert part in got[name]["text"], (name, part)
    assert "in nested" in got["nested"]["text"]
    assert "KeyError: 'missing'" in got["chained"]["text"]


def test_an_uncaught_remote_exception_prints_both_tracebacks(launch):
    outcome = launch(program(FAILING + "\n    def main():\n        away(failing, 7).result()\n"))
    assert outcome.returncode == 1
    for part in ("in innermost", "raise error", "in main", "away(failing, 7).result()", "Special: 7"):
        assert part in outcome.stderr, part
    assert outcome.stderr.rstrip().endswith("Special: 7")


def test_each_task_of_a_map_runs_once_where_threads_run_side_by_side(facts):
    """On a Python without a GIL as it is; elsewhere only as if there was none, which breaks nothing either."""
    seed = random.randrange(2**32)
    got = facts(
        """
        import random
        import time

        import scoop_lite
        scoop_lite.HAS_GIL = False

        def work(x):
            sum(range(x % 7 * 30))
            if x % 5000 == 4999:
                raise (IndexError, StopIteration)[x % 3 == 0](x)
            return futures.submit(abs, x).result() if x % 997 == 0 else x

        def main():
            rng, n_wrong, end_s = random.Random(SEED), 0, time.time() + 2
            while time.time() < end_s:
                n, raised = rng.choice([100, 3000, 40000]), 0
                xs = range(n) if rng.random() < 0.5 else list(range(n))
                found = [futures.map(work, xs[i : i + 5000]) for i in range(0, n, 5000)]
                results = []
                for part in found:
                    try:
                        results.extend(part)
                    except (IndexError, RuntimeError):
                        raised += 1
                n_wrong += (results, raised) != ([x for x in range(n) if x % 5000 != 4999], n // 5000)
            return n_wrong
        """.replace("SEED", str(seed))
    )
    assert got == 0, seed


def test_an_exception_that_nobody_looked_at_is_logged(launch):
    outcome = launch(
        program("""
        def fail(text):
            raise LookupError(text)

        def main():
            seen = futures.submit(fail, "somebody saw this")
            futures.wait([seen])
            seen.exception()
            unseen = futures.submit(fail, "nobody saw this")
            futures.wait([unseen])
            del seen, unseen
            return "went on"
        """)
    )
    assert (outcome.returncode, outcome.facts) == (0, "went on")
    assert "LookupError: nobody saw this" in outcome.stderr
    assert "somebody saw this" not in outcome.stderr


def test_a_thousand_failures_that_nobody_looked_at_do_not_flood_the_terminal(launch):
    """The script's own traceback would be gone from it."""
    outcome = launch(
        program("""
        def fail(x):
            raise LookupError(x)

        def main():
            made = [futures.submit(fail, x) for x in range(1000)]
            futures.wait(made)
            del made
            futures.submit(abs, -1).result()
            time.sleep(1.1)
            futures.submit(fail, "a second later")
            futures.submit(fail, "and once more")
        """)
    )
    assert outcome.returncode == 0
    lines = outcome.stderr.splitlines()
    n_told, numbers = 0, 0
    for line in lines:
        n_told += line.endswith("a task failed and nobody looked at it")
        more = re.search(r"(\S+) more tasks? failed and nobody looked at them", line)
        numbers += int(more[1].replace(",", "")) if more else 0
    assert n_told + numbers == 1002 and 1 <= n_told < 8 and len(lines) < 100, outcome


@pytest.mark.parametrize("n", [1, 2])
def test_exceptions_that_are_not_errors(facts, n):
    got = facts(
        """
        def throw(kind, *args):
            raise kind(*args)

        def leave():
            sys.exit(3)

        def main():
            away_or_here = away if scoop_lite.SIZE > 1 else futures.submit
            kinds = (StopIteration, GeneratorExit, BaseException, KeyboardInterrupt, SystemExit)
            tasks = [away_or_here(throw, kind, "x") for kind in kinds] + [away_or_here(leave), futures.submit(leave)]
            return [outcome(task.result) for task in tasks] + [futures.submit(abs, -1).result()]
        """,
        n=n,
    )
    assert got[:3] == ["StopIteration: x", "GeneratorExit: x", "BaseException: x"]
    assert got[3].startswith(("KeyboardInterrupt", "ScoopError"))
    for answer in got[4:7]:
        assert answer.startswith("SystemExit") or (answer.startswith("ScoopError") and "exit" in answer), answer
    assert got[7] == 1


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("wait, code", [("futures.submit(leave, 0).result()", 1), ("away(leave, 0).result()", 1),
                                        ("list(futures.map(leave, [None] * 9))", 1), ("sys.exit(0)", 0),
                                        ("outcome(futures.submit(leave, 0).result), sys.exit(0)", 0)])  # fmt: skip
def test_a_script_that_a_task_has_ended_by_sys_exit_is_no_success(launch, n, wait, code):
    """Wherever it ran. What the script itself passes to `sys.exit` is its status, also after a task's was caught."""
    ended = launch(program(f"leave = sys.exit\n\ndef main():\n    {wait}"), n=n)
    said = "scoop_lite: a task called sys.exit(0); as nobody caught that, this is no success\n" if code else ""
    assert (ended.returncode, ended.stdout, ended.stderr) == (code, "", said), ended


# ---------------------------------------------------------------------------------------------------------------------
# What can be called, and with what
# ---------------------------------------------------------------------------------------------------------------------


def test_callables(facts):
    got = facts("""
        class Adder:
            unit = 1

            def __init__(self, start):
                self.start = start

            def __call__(self, x):
                return self.start + x

            def bound(self, x):
                return self.start * x

            @staticmethod
            def static(x):
                return x - 1

            @classmethod
            def klass(cls, x):
                return cls.unit + x

        FACTOR = 3

        @functools.lru_cache(None)
        def cached(x):
            return x + 100

        def decorate(func):
            @functools.wraps(func)
            def wrapper(*args):
                return ["wrapped", func(*args)]
            return wrapper

        @decorate
        def decorated(x):
            return x

        def make(a, b=2, *, c=3):
            def inner(x, d=a, *, e=c):
                return [a, b, x, d, e]
            return inner

        def recursive():
            def factorial(n):
                return 1 if n < 2 else n * factorial(n - 1)
            return factorial

        def even_odd():
            def even(n): return True if n == 0 else odd(n - 1)
            def odd(n): return False if n == 0 else even(n - 1)
            return even

        def counting():
            count = 0
            def count_up(x):
                nonlocal count
                count += x
                return count
            return count_up

        def submits():
            return lambda x: futures.submit(lambda y: y + x, 10).result()

        Point = collections.namedtuple("Point", "x y")

        def main():
            local_factor = 5
            namespace = {}
            exec("def typed(x):\\n    return x * 7", namespace)
            adder = Adder(10)
            calls = {
                "partial": (functools.partial(pow, 2), 5), "partial of partial": (functools.partial(
                    functools.partial(make(1), d=4), e=5), 6),
                "object": (adder, 5), "bound": (adder.bound, 5), "static": (Adder.static, 5), "class": (adder.klass, 5),
                "builtin": (len, "four"), "method of a builtin": ("a-b".split, "-"), "type": (int, "12"),
                "itemgetter": (operator.itemgetter(1), "xyz"), "methodcaller": (operator.methodcaller("upper"), "x"),
                "lambda": (lambda x: x + 1, 5), "lambda with a global": (lambda x: x * FACTOR, 5),
                "closure": (lambda x: x * local_factor, 5), "nested": (make("a"), "x"),
                "recursive": (recursive(), 10), "mutually recursive": (even_odd(), 9), "cached": (cached, 5),
                "decorated": (decorated, 5), "typed": (namespace["typed"], 6), "counting": (counting(), 4),
                "imports": (lambda x: json.loads(x), "[1]"), "submits": (submits(), 5),
                "generator expression inside": (lambda n: sum(i * local_factor for i in range(n)), 4),
                "comprehension": (lambda x: [y for y in x], "ab"), "named tuple": (Point(1, 2).__add__, (3,)),
            }
            return {
                name: [outcome(away(func, x).result), outcome(futures.submit(func, x).result),
                       outcome(lambda: list(futures.map(func, [x, x])))]
                for name, (func, x) in calls.items()
            }
    """)
    expected = {
        "partial": 32,
        "partial of partial": [1, 2, 6, 4, 5],
        "object": 15,
        "bound": 50,
        "static": 4,
        "class": 6,
        "builtin": 4,
        "method of a builtin": ["a", "b"],
        "type": 12,
        "itemgetter": "y",
        "methodcaller": "X",
        "lambda": 6,
        "lambda with a global": 15,
        "closure": 25,
        "nested": ["a", 2, "x", "a", 3],
        "recursive": 3628800,
        "mutually recursive": False,
        "cached": 105,
        "decorated": ["wrapped", 5],
        "typed": 42,
        "imports": [1],
        "submits": 15,
        "generator expression inside": 30,
        "comprehension": ["a", "b"],
        "named tuple": [1, 2, 3],
    }
    counting = got.pop("counting")
    assert all(isinstance(value, int) for value in [*counting[:2], *counting[2]]), counting
    assert got == {name: [value, value, [value, value]] for name, value in expected.items()}


def test_callable_objects_that_answer_for_any_attribute(facts):
    """As proxies and dictionaries with dots do: who asks for their name must expect anything."""
    assert facts("""
        class Proxy:
            def __getattr__(self, name):
                if name.startswith("__") and name != "__qualname__":
                    raise AttributeError(name)
                return [name]

            def __call__(self, x):
                time.sleep(0.005)
                return x + 1

        class Refusing(Proxy):
            def __getattr__(self, name):
                raise AttributeError(name) if name in ("__getstate__", "__setstate__") else LookupError(name)

        def main():
            return [
                [futures.submit(f, 1).result(), list(futures.map(f, range(20))), away(f, 2).result()]
                for f in (Proxy(), Refusing(), functools.partial(Proxy()))
            ]
    """) == [[2, list(range(1, 21)), 3]] * 3


def test_by_value_functions_really_travel(facts):
    got = facts("""
        THREE = 3

        def main():
            five = 5
            def nested(x):
                return [os.getpid(), x * THREE * five]
            function = away(nested, 2).result()
            anonymous = away(lambda: os.getpid()).result()
            return [function[0] != os.getpid(), function[1], anonymous != os.getpid()]
    """)
    assert got == [True, 30, True]


def test_a_function_that_only_the_origin_has(facts):
    """Defined under the guard, so the workers' import does not find it: it goes by value."""
    got = facts("""
        def main():
            return [only_here(1), away(only_here, 1).result(), list(futures.map(only_here, range(3)))]

        if __name__ == "__main__":
            OFFSET = 1000

            def only_here(x):
                return x + OFFSET
    """)
    assert got == [1001, 1001, [1000, 1001, 1002]]


def test_a_class_that_only_the_origin_has(facts):
    got = facts("""
        def main():
            there = away(lambda held: held[0].twice(), [OnlyHere(2)]).result()
            return [there.n, type(there) is OnlyHere, away(attrgetter("colour.name"), OnlyHere(Colour.RED)).result()]

        if __name__ == "__main__":
            import enum
            from operator import attrgetter

            class Colour(enum.Enum):
                RED = 1

            class OnlyHere:
                def __init__(self, n): self.n = self.colour = n
                def twice(self): return OnlyHere(2 * self.n)
    """)
    assert got == [4, True, "RED"]


def test_arguments_and_results(facts):
    got = facts("""
        import array, dataclasses, datetime, decimal, enum, fractions

        class Colour(enum.Enum):
            RED = 1

        @dataclasses.dataclass
        class Record:
            name: str
            items: list

        Point = collections.namedtuple("Point", "x y")

        class Slotted:
            __slots__ = ("a",)
            def __init__(self, a): self.a = a
            def __eq__(self, other): return self.a == other.a

        def same(x):
            return x

        def total(numbers, start=0):
            return sum(numbers, start)

        def main():
            loop = [1]
            loop.append(loop)
            values = [None, True, 2 ** 200, -0.0, float("inf"), 1j, "text \\u20ac \\U0001f600", b"\\x00\\xff",
                      bytearray(b"abc"), [], (), {}, set(), frozenset([1]), {"a": [1, (2,)]}, range(3, 30, 7),
                      slice(1, 2), Ellipsis, NotImplemented, array.array("d", [1.5]), datetime.date(2020, 1, 2),
                      decimal.Decimal("1.10"), fractions.Fraction(1, 3), Colour.RED, Record("n", [1]), Point(1, 2),
                      Slotted(4), int, len, same, Colour, operator.add, LookupError("x").args, "\\ud800", b""]
            def right(a, b):
                return type(a) is type(b) and (a == b or a is b)
            looped = away(same, loop).result()
            return {
                "away": [repr(v) for v in values if not right(v, away(same, v).result())],
                "map": [repr(v) for v, w in zip(values, futures.map(same, values)) if not right(v, w)],
                "loop": looped[1] is looped,
                "generator": [futures.submit(total, (i for i in range(10))).result(),
                              futures.submit(total, start=5, numbers=iter([1, 2])).result()],
                "generator result": outcome(lambda: sum(futures.submit(lambda: (i for i in range(4))).result())),
                "map of generators": list(futures.map(total, [(i for i in range(n)) for n in range(5)])),
            }
    """)
    assert (got["away"], got["map"], got["loop"]) == ([], [], True)
    assert got["generator"] == [45, 8]
    assert got["generator result"] == 6 or "generator" in got["generator result"]
    assert got["map of generators"] == [sum(range(n)) for n in range(5)]


def test_what_cannot_be_pickled_harms_only_its_own_future(facts):
    got = facts("""
        class BadArgument:
            def __reduce__(self): raise LookupError("argument will not go")

        class BadArrival:
            def __reduce__(self): return explode, ("argument will not arrive",)

        def explode(text):
            if scoop_lite.IS_ORIGIN: return text
            raise LookupError(text)

        class BadError(Exception):
            def __init__(self, a, b): super().__init__(a)

        class LockedError(Exception):
            def __init__(self): super().__init__(threading.Lock())

        def same(x):
            time.sleep(0.002)
            return x

        def lock(i):
            time.sleep(0.002)
            return threading.Lock() if i % 10 == 3 else i

        def fail(i):
            time.sleep(0.002)
            if i % 10 == 3: raise BadError(1, 2)
            if i % 10 == 4: raise LockedError()
            return i

        def kinds(tasks):
            got = []
            for task in tasks:
                error = task.exception(timeout=20)
                got.append(task.result() if error is None and isinstance(task.result(), int) else
                           type(error or task.result()).__name__)
            return got

        def main():
            arguments = [BadArgument() if i % 10 == 3 else BadArrival() if i % 10 == 4 else i for i in range(40)]
            return {
                "arguments": kinds([futures.submit(same, x) for x in arguments]),
                "results": kinds([futures.submit(lock, i) for i in range(40)]),
                "exceptions": kinds([futures.submit(fail, i) for i in range(40)]),
                "lock away": str(away(lock, 3).exception()), "error away": repr(away(fail, 3).exception()),
                "locked error away": str(away(fail, 4).exception()),
                "map": len(list(futures.map(lock, [i for i in range(40) if i % 10 != 3]))),
            }
    """)
    for name in ("arguments", "results", "exceptions"):
        good = [value for i, value in enumerate(got[name]) if i % 10 not in (3, 4)]
        assert good == [i for i in range(40) if i % 10 not in (3, 4)], name
    assert set(got["arguments"][3::10]) == {"BadArgument"}, "it cannot travel, so it runs at home"
    assert set(got["arguments"][4::10]) <= {"BadArrival", "LookupError", "ScoopError"}
    assert all(isinstance(kind, str) for kind in got["results"][3::10] + got["exceptions"][3::10])
    assert "lock" in got["lock away"] and "pickle" in got["lock away"]
    assert got["error away"] == "BadError(1)"
    assert "LockedError" in got["locked error away"]
    assert got["map"] == 36


def test_an_unpicklable_item_in_a_map(facts):
    got = facts("""
        def kind(x):
            time.sleep(0.001)
            return type(x).__name__

        def main():
            items = [threading.Lock() if i == 25 else i for i in range(60)]
            return list(futures.map(kind, items))
    """)
    assert got == ["int"] * 25 + ["lock"] + ["int"] * 34


def test_a_call_for_each_worker_may_ask_for_another_while_workers_retire(facts):
    got = facts("""
        def everywhere(n):
            return futures.run_on_all(everywhere, n - 1) if n else os.getpid()

        def main():
            n = []
            for i in range(12):
                tasks = [futures.submit(time.sleep, 0.001) for _ in range(6)]
                n.append(len(futures.run_on_all(everywhere, 1)))
                futures.wait(tasks)
            return n
    """, n=2, options=["--max-tasks-per-child", "2"])  # fmt: skip
    assert got == [2] * 12


def test_a_callback_may_wait_where_a_task_is_about_to(facts):
    """What its slice has done is delivered before it is parked; meanwhile, what it waits for may come."""
    got = facts("""
        got = []

        def nap(seconds):
            time.sleep(seconds)
            return seconds

        def work(kind):
            if kind == "wait":
                task = futures.submit(nap, 0.05)
                futures.wait([task])
                return task.result()
            time.sleep(0.4 if kind == "long" else 0)
            return kind

        def collect(_):
            task = futures.submit(nap, 0.2)
            futures.wait([task])
            got.append(task.result())

        def main():
            for _ in range(4):
                list(futures.map(work, range(3000)))  # so that it is known to be short
                tasks = [futures.submit(work, kind) for kind in ["long", 1, "wait", 3, 4, 5, 6, 7]]
                tasks[1].add_done_callback(collect)
                time.sleep(0.1)  # another worker takes all; what it has not begun comes back
                futures.wait(tasks)
            return got
    """, n=2)  # fmt: skip
    assert got == [0.2] * 4


def test_a_callback_may_wait_for_what_came_with_its_task_or_has_just_run(facts):
    got = facts("""
        def nap(seconds):
            time.sleep(seconds)
            return seconds

        def main():
            list(futures.map(nap, [0.002] * 200))  # the cost is known: those submitted travel together
            tasks, got = [futures.submit(nap, 0.002) for i in range(100)], []
            for i, task in enumerate(tasks[:-1]):
                task.add_done_callback(lambda _, i=i: got.append(tasks[i + 1].result()))
            futures.wait(tasks)
            quick, slow = futures.submit(nap, 0.1), futures.submit(nap, 0.3)
            quick.add_done_callback(lambda _: got.append(slow.result()))
            time.sleep(0.05)  # another worker takes the first
            slow.result(), quick.result()
            return got
    """, n=2)  # fmt: skip
    assert got == [0.002] * 99 + [0.3]


def test_what_pickles_an_argument_cannot_wait(facts):
    got = facts("""
        class Lazy:
            def __init__(self, task):
                self.task = task

            def __getstate__(self):
                return {"value": self.task.result()}

        def value(lazy):
            return lazy.task.result() if hasattr(lazy, "task") else "it has travelled"

        def main():
            lazy = Lazy(futures.submit(time.sleep, 0.3))
            time.sleep(0.1)  # another worker has that, a third one is hungry
            tasks = [futures.submit(value, lazy), futures.submit(futures.run_on_all, time.sleep, 0.01)]
            futures.wait(tasks)
            return [tasks[0].result(), len(tasks[1].result())]
    """, n=3)  # fmt: skip
    assert got in ([None, 3], ["it has travelled", 3])


def test_a_range_may_be_longer_than_python_can_count(facts):
    got = facts("""
        def main():
            return list(itertools.islice(futures.map(abs, range(-3, 2**70)), 5))
    """)
    assert got == [3, 2, 1, 0, 1]


@pytest.mark.parametrize("n", [2, 3])
def test_the_last_task_is_run_here_if_the_pump_finds_that_it_cannot_travel(facts, n):
    """Once nobody runs anything, and everybody waits."""
    got = facts(
        """
        def main():
            lock, sums = threading.Lock(), []

            def total(n):
                with lock:
                    n += 1
                return sum(futures.map(abs, range(100)))

            for _ in range(40):
                sums.append(sum(futures.map(total, range(50))))
            return sums
        """,
        n=n,
    )
    assert got == [50 * 4950] * 40


# ---------------------------------------------------------------------------------------------------------------------
# Nesting, depth, size, number
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 4])
def test_fibonacci_by_nested_futures(facts, n):
    got = facts(
        """
        def fib(n):
            if n < 2:
                return n
            left, right = futures.submit(fib, n - 1), futures.submit(fib, n - 2)
            return left.result() + right.result()

        def main():
            return fib(18)
        """,
        n=n,
    )
    assert got == fibonacci(18)


@pytest.mark.parametrize("n", [1, 2])
def test_a_chain_of_5000_tasks_each_waiting_on_the_next(launch, combo, n):
    """Threads may have a limit, which they must name."""
    outcome = launch(
        program("""
        def link(n):
            return 1 + futures.submit(link, n - 1).result() if n else 0

        def main():
            return futures.submit(link, 5000).result()
        """),
        n=n,
        timeout=60,
    )
    if outcome.returncode == 0:
        assert (outcome.facts, outcome.stderr) == (5000, "")
    else:
        assert combo.endswith("thread"), outcome
        assert "RecursionError" not in outcome.stderr, outcome
        assert "strand" in outcome.stderr.splitlines()[-1] or "thread" in outcome.stderr.splitlines()[-1], outcome


def test_everything_from_inside_tasks(facts):
    got = facts(
        """
        def leaf(x):
            return x

        def tree(depth):
            if depth == 0:
                return 1
            tasks = [futures.submit(tree, depth - 1) for _ in range(3)]
            done = futures.wait(tasks).done
            return sum(f.result() for f in done)

        def maps(depth):
            return 1 if depth == 0 else sum(futures.map(maps, [depth - 1] * 3))

        def unordered(depth):
            return 1 if depth == 0 else sum(futures.map_as_completed(unordered, [depth - 1] * 3))

        def reduces(depth):
            return 1 if depth == 0 else futures.mapReduce(reduces, operator.add, [depth - 1] * 3)

        def scans(depth):
            return 1 if depth == 0 else list(futures.mapScan(scans, operator.add, [depth - 1] * 3))[-1]

        def completed(depth):
            if depth == 0:
                return 1
            return sum(f.result() for f in futures.as_completed([futures.submit(completed, depth - 1) for _ in "abc"]))

        def mixed(depth):
            kinds = [tree, maps, unordered, reduces, scans, completed]
            return 1 if depth == 0 else sum(futures.map(lambda kind: kind(depth - 1), kinds))

        def main():
            return [kind(5) for kind in (tree, maps, unordered, reduces, scans, completed)] + [mixed(4)]
    """,
        n=3,
    )
    assert got == [3**5] * 6 + [6 * 3**3]


@pytest.mark.parametrize("attempt", range(3))
def test_random_nested_programs(facts, attempt):
    """Trees of calls drawn at random give what the same tree gives serially; SCOOP_LITE_TEST_SEED replays one."""
    seed = int(os.environ.get("SCOOP_LITE_TEST_SEED") or random.SystemRandom().randrange(10**6))
    print(f"SCOOP_LITE_TEST_SEED={seed}")
    got = facts(
        f"""
        SEED = {seed}
        """
        + """
        def grow(rng, depth):
            width = rng.choice([0, 1, 2, 3, 8]) if depth else 0
            return [rng.choice("smwarc"), rng.random() < 0.1, [grow(rng, depth - 1) for _ in range(width)]]

        def digest(values, letter):
            return hash((letter, tuple(values))) % 1000003

        def serial(tree):
            letter, _, branches = tree
            return digest([serial(branch) for branch in branches], ord(letter))

        def parallel(tree):
            letter, pause, branches = tree
            if pause:
                time.sleep(0.002)
            if letter == "m":
                values = list(futures.map(parallel, branches))
            elif letter == "r":
                values = futures.mapReduce(lambda b: [parallel(b)], operator.add, branches) if branches else []
            else:
                tasks = [futures.submit(parallel, branch) for branch in branches]
                if letter == "w":
                    futures.wait(tasks)
                elif letter == "a":
                    list(futures.as_completed(tasks))
                elif letter == "c":
                    extra = futures.submit(time.sleep, 0.001)
                    extra.cancel()
                values = [task.result() for task in tasks]
            return digest(values, ord(letter))

        def size(tree):
            return 1 + sum(map(size, tree[2]))

        def main():
            rng = random.Random(SEED)
            trees = [grow(rng, 6) for _ in range(6)]
            trees = [tree for tree in trees if size(tree) < 3000]
            return [list(map(serial, trees)), list(map(parallel, trees)), list(futures.map(parallel, trees))]
        """,
        n=3,
        timeout=60,
    )
    assert got[0] == got[1] == got[2]


def test_every_task_runs_exactly_once(launch):
    facts_with(
        launch,
        """
        def work(name, i):
            record(name, i)
            if i % 97 == 0:
                time.sleep(0.01)
            return i

        def parent(i):
            return sum(futures.map(functools.partial(work, "child%d" % i), range(50)))

        def main():
            tasks = [futures.submit(work, "submit", i) for i in range(1000)]
            mapped = sum(futures.map(functools.partial(work, "map"), range(1000)))
            nested = sum(futures.map(parent, range(20)))
            scanned = list(futures.mapScan(functools.partial(work, "scan"), operator.add, range(200)))[-1]
            return [sum(task.result() for task in tasks), mapped, nested, scanned]
        """,
        n=3,
    )
    expected = [f"{name} {i}" for name, n in (("submit", 1000), ("map", 1000), ("scan", 200)) for i in range(n)]
    expected += [f"child{k} {i}" for k in range(20) for i in range(50)]
    assert launch.ledger == dict.fromkeys(expected, 1)


def test_big_arguments_and_results(facts):
    got = facts(
        """
        import hashlib
        N = 10_000_000

        def check(data):
            return [type(data).__name__, len(data), hashlib.sha256(data).hexdigest()]

        def make(i):
            return bytes([i]) * N

        def main():
            data = random.Random(1).getrandbits(8 * N).to_bytes(N, "little")
            digest = hashlib.sha256(data).hexdigest()
            return {
                "bytes": away(check, data).result() == ["bytes", N, digest],
                "bytearray": away(check, bytearray(data)).result() == ["bytearray", N, digest],
                "result": away(make, 7).result() == make(7),
                "several": [len(x) for x in futures.map(make, range(4))],
                "arguments": [x[2] == digest for x in futures.map(check, [data] * 4)],
                "list": sum(away(list, range(300_000)).result()),
            }
    """,
        timeout=60,
    )
    assert got["bytes"] and got["bytearray"] and got["result"] and all(got["arguments"])
    assert got["several"] == [10_000_000] * 4
    assert got["list"] == sum(range(300_000))


def test_big_functions(facts):
    """One is sent by the pump when the scheduler begins to wait, and the kernel does not take all of it at once."""
    got = facts("""
        def make(n):
            data = bytes(n)

            def add(i):
                return len(data) + i

            return add

        def main():
            return [sum(futures.map(make(4_000_000), range(8))) for _ in range(6)]
    """, n=3)  # fmt: skip
    assert got == [8 * 4_000_000 + 28] * 6


def test_a_hundred_thousand_futures(facts):
    start = time.monotonic()
    got = facts("""
        def same(x):
            return x

        def main():
            tasks = [futures.submit(same, i) for i in range(100_000)]
            total = sum(task.result() for task in tasks)
            return [total, len(futures.wait(tasks).done), sum(futures.map(same, range(10 ** 6)))]
    """)
    assert got == [sum(range(100_000)), 100_000, sum(range(10**6))]
    assert time.monotonic() - start < 20


def test_many_tasks_that_wait_at_once(facts):
    got = facts("""
        def leaf(i):
            return i

        def parent(i):
            return futures.submit(leaf, i).result() + sum(futures.map(leaf, range(3)))

        def main():
            tasks = [futures.submit(parent, i) for i in range(300)]
            return [sum(futures.map(parent, range(300))), sum(task.result() for task in tasks)]
    """)
    assert got == [sum(range(300)) + 900] * 2


# ---------------------------------------------------------------------------------------------------------------------
# Random numbers
# ---------------------------------------------------------------------------------------------------------------------

RANDOM = """
    def draw(i):
        rng = futures.task_rng()
        return [i, rng.random(), rng.randrange(10 ** 9)]

    def parent(i):
        return [draw(i), list(futures.map(draw, range(3))), futures.submit(draw, 9).result()]

    def seed(_):
        return futures.task_seed()

    def same(_):
        return futures.task_rng() is futures.task_rng()

    def slowly(i):
        time.sleep(0.001 * (i % 7))
        return draw(i)

    def patient(i):
        first = futures.submit(draw, i)
        futures.wait([first], timeout=9)  # others run here meanwhile
        return [first.result(), futures.submit(draw, i).result()]

    def main():
        tasks = [futures.submit(draw, i) for i in range(10)]
        return {
            "patient": sum(futures.map(patient, range(6)), []), "main": draw(-1),
            "map": list(futures.map(draw, range(200))),
            "chunks": list(futures.map(draw, range(50), chunksize=9)),
            "submit": [task.result() for task in tasks], "nested": list(futures.map(parent, range(5))),
            "slowly": list(futures.map(slowly, range(40))),
            "unordered": sorted(futures.map_as_completed(draw, range(20))),
            "reduced": futures.mapReduce(parent, operator.add, range(6)), "seeds": list(futures.map(seed, range(50))),
            "kind": isinstance(futures.task_rng(), random.Random),
            "same": [same(0), *futures.map(same, range(20)), futures.submit(same, 0).result()],
        }
"""


def test_random_numbers_depend_on_the_place_in_the_program_alone(facts):
    one = facts(RANDOM, n=1, options=["--seed", "42"])
    assert facts(RANDOM, n=4, options=["--seed", "42"]) == one
    other = facts(RANDOM, n=2, options=["--seed", "43"])
    assert other["map"] != one["map"] and other["seeds"] != one["seeds"]
    drawn = [draw[1] for draw in one["map"] + one["submit"] + one["chunks"] + one["slowly"] + one["patient"]]
    assert len(set(drawn)) == len(drawn), "each task has numbers of its own"
    assert len(set(one["seeds"])) == 50 and all(isinstance(seed, int) and seed >= 0 for seed in one["seeds"])
    assert 1 << 63 <= max(one["seeds"]) < 1 << 64
    assert one["kind"] and one["same"] == [True] * 22, "each task has one generator"


def test_two_tasks_under_way_keep_two_workers_busy(facts):
    """The other worker, which wants a task ahead, must not get all: the origin would watch it."""
    got = facts("""
        def nap(_):
            time.sleep(0.005)
            return os.getpid()

        def main():
            list(futures.map(nap, range(8)))
            under_way, ran = {futures.submit(nap, 0) for _ in range(2)}, []
            while under_way:
                done, under_way = futures.wait(under_way, return_when=futures.FIRST_COMPLETED)
                ran += [task.result() for task in done]
                under_way = {*under_way, *(futures.submit(nap, 0) for _ in done if len(ran) < 100)}
            return len(ran), ran.count(os.getpid())
    """, n=2)
    assert got[0] >= 100 and 10 <= got[1] <= 90, got


TREE = """
    def children(seed):
        return 8 if seed % 1000 < 123 else 0  # critical: paths with hundreds of small trees beside them

    def grow(depth, fatal):
        seed = futures.task_seed()
        if fatal and depth == fatal and not scoop_lite.IS_ORIGIN and not os.path.exists("killed"):
            open("killed", "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        n = 8 if depth < 3 else children(seed) if depth < 60 else 0
        made = [futures.submit(grow, depth + 1, fatal) for _ in range(n)]
        return seed ^ functools.reduce(lambda old, task: (old * 31 + task.result()) % 2 ** 61, made, 0)

    def main():
        return [futures.submit(grow, 0, FATAL).result() for _ in range(3)]
"""


@pytest.mark.parametrize("fatal", [0, 4], ids=["alive", "killed"])
def test_tasks_that_travel_with_those_of_other_parents_keep_their_random_numbers(facts, fatal):
    """In a deep recursion, few tasks of one parent wait, so those of several travel together."""
    assert facts(TREE.replace("FATAL", str(fatal)), n=3, stderr=None) == facts(TREE.replace("FATAL", "0"), n=1)


MIXED = """
    class Drawer:
        def __init__(self, k):
            self.k = k

        def draw(self, i, trouble=None):
            until = time.perf_counter() + 0.0002
            while time.perf_counter() < until:
                pass
            if type(trouble) is str and not scoop_lite.IS_ORIGIN and not os.path.exists(trouble):
                open(trouble, "w").close()
                os.kill(os.getpid(), signal.SIGKILL)
            if type(trouble) is int:
                raise ValueError(trouble)
            return [self.k, i, futures.task_seed()]

    def other(i):
        time.sleep(0.0001)
        return futures.task_seed()

    def main():
        one = Drawer(-1)
        made = [
            lambda i: futures.submit(one.draw, i), lambda i: futures.submit(Drawer(i).draw, i=i),
            lambda i: futures.submit(functools.partial(one.draw, i)), lambda i: futures.submit(other, i),
            lambda i: futures.submit(one.draw, i, i if i % 100 == 4 else None),
            lambda i: futures.submit(one.draw, i, trouble=threading.Lock() if i == 1205 else None),
            lambda i: futures.submit(one.draw, i, "killed") if i == FATAL else futures.submit(other, i),
        ]
        tasks = [made[i % 7](i) for i in range(2100)]
        results = [outcome(task.result) for task in tasks]
        scheduler = scoop_lite._state["runtime"].scheduler
        return results, scheduler.n_carved / max(1, scheduler.n_chunks)
"""


@pytest.mark.parametrize("fatal", [-1, 1007], ids=["alive", "killed"])
def test_tasks_of_methods_partials_and_keyword_arguments_travel_together(facts, fatal):
    """They are what they would be alone: their results, errors and random numbers, and what cannot be pickled."""
    expected, _ = facts(MIXED.replace("FATAL", "-1"), n=1)
    got, n_in_chunk = facts(MIXED.replace("FATAL", str(fatal)), n=3, stderr=None)
    expected[1007] = got[1007] if fatal > 0 else expected[1007]
    assert got == expected
    assert [result for result in got if isinstance(result, str)] == [f"ValueError: {i}" for i in range(4, 2100, 700)]
    assert n_in_chunk > 2


# ---------------------------------------------------------------------------------------------------------------------
# Threads and processes of the user
# ---------------------------------------------------------------------------------------------------------------------


def test_a_call_from_a_foreign_thread_is_a_clear_error_or_works(facts):
    got = facts("""
        def in_a_thread(call):
            answer = []
            thread = threading.Thread(target=lambda: answer.append(outcome(call)), daemon=True)
            thread.start()
            thread.join(10)
            return answer[0] if answer else "nothing"

        def from_a_task():
            return in_a_thread(lambda: futures.submit(abs, -5).result())

        def main():
            future = futures.submit(abs, -7)
            return [
                in_a_thread(lambda: futures.submit(abs, -5).result()),
                in_a_thread(lambda: list(futures.map(abs, [-5]))[0]),
                in_a_thread(lambda: len(futures.wait([futures.submit(abs, -5)]).done) * 5),
                in_a_thread(lambda: futures.mapReduce(abs, operator.add, [-2, -3])),
                away(from_a_task).result(),
                future.result(), futures.submit(abs, -6).result(),
            ]
    """)
    assert got[-2:] == [7, 6]
    for answer in got[:-2]:
        assert answer == 5 or (answer.startswith("MisuseError") and "thread" in answer), answer


def test_tasks_may_use_threads_and_processes(facts):
    got = facts(
        """
        import subprocess

        def threads(n):
            answers = []
            workers = [threading.Thread(target=lambda i=i: answers.append(i)) for i in range(n)]
            [w.start() for w in workers]
            [w.join() for w in workers]
            return sum(answers)

        def command(i):
            return subprocess.run([sys.executable, "-c", "print(%d * 2)" % i], stdout=subprocess.PIPE).stdout.decode()

        def forked(i):
            pid = os.fork()
            if pid == 0:
                answer = outcome(lambda: futures.submit(abs, -1).result())
                os._exit(5 if answer == 1 else 6 if "Error" in str(answer) else 7)
            return os.waitpid(pid, 0)[1] >> 8

        def pool(i):
            import multiprocessing
            with multiprocessing.get_context("fork").Pool(2) as workers:
                return workers.map(abs, [-i, -i])

        def main():
            return [list(futures.map(threads, [3, 4])), list(futures.map(command, [3, 4])),
                    list(futures.map(forked, range(4))), away(pool, 3).result(), pool(4),
                    list(futures.map(abs, range(100))) == list(range(100))]
    """,
        stderr=None,
    )
    assert got[:2] == [[3, 6], ["6\n", "8\n"]]
    assert set(got[2]) <= {5, 6}, "in the child of a fork: an error or a right answer, at once"
    assert got[3:] == [[3, 3], [4, 4], True]


def test_a_forked_child_that_comes_back_to_us_ends_and_is_no_worker(facts):
    """Else there were two workers on one link: results of a child's own, and answers that the parent missed."""
    got = facts(
        """
        def forked(how):
            sys.stdout.flush()
            pid = os.fork()
            if pid == 0:
                os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
                if how == "exits":
                    sys.exit(4)
                elif how == "exits with words":
                    sys.exit("words")
                elif how == "raises":
                    raise LookupError(how)
                return "the child's own"
            return how, os.waitpid(pid, 0)[1] >> 8

        def main():
            waits = ["exits", "exits with words", "raises", "returns"]
            child = forked("returns")
            if child == "the child's own":
                return  # to the end of the script
            return [[away(forked, how).result() for how in waits], list(futures.map(forked, waits * 5)),
                    [futures.submit(forked, how).result() for how in waits], child,
                    list(futures.map(abs, range(100))) == list(range(100))]
    """,
        stderr=None,
    )
    codes = [["exits", 4], ["exits with words", 1], ["raises", 1], ["returns", 0]]
    assert [[list(pair) for pair in pairs] for pairs in got[:3]] == [codes, codes * 5, codes]
    assert (list(got[3]), got[4]) == (["returns", 0], True)


# ---------------------------------------------------------------------------------------------------------------------
# Misuse, and what else is refused
# ---------------------------------------------------------------------------------------------------------------------


def test_misuse_is_told_in_words(facts_once):
    got = facts_once("""
        import pickle

        def main():
            task = futures.submit(abs, -1)
            return {
                "future": outcome(pickle.dumps, task),
                "map": outcome(futures.map, 3, [1]),
                "nothing": outcome(futures.map, abs),
                "operator": outcome(futures.mapReduce, abs, None, [1]),
                "when": outcome(futures.wait, [task], return_when="NEVER"),
                "name": outcome(getattr, scoop_lite, "nonsense"),
                "shared": outcome(getattr, shared, "nonsense"),
            }
    """)
    words = {"future": "cannot travel", "map": "callable first, not int", "nothing": "at least one iterable",
             "operator": "callable operator, not NoneType", "when": "not 'NEVER'", "name": "no attribute 'nonsense'",
             "shared": "'scoop_lite.shared' has no attribute"}  # fmt: skip
    assert [name for name, text in words.items() if text not in got[name]] == [], got


def test_shutdown_need_not_wait_and_may_cancel_what_has_not_started(facts):
    got = facts("""
        def main():
            first = away(abs, -1)
            tasks = [futures.submit(time.sleep, 0.3) for _ in range(50)]
            futures.shutdown(wait=False)
            waited = all([task.done() for task in tasks])
            futures.shutdown(cancel_futures=True)
            return [waited, first.cancelled(), all(task.done() for task in tasks),
                    sum(task.cancelled() for task in tasks), futures.submit(abs, -2).result()]
    """)
    assert got[:3] == [False, False, True] and got[3] >= 45 and got[4] == 2, got


def test_an_input_that_fails_fails_its_reduction(facts):
    got = facts("""
        def numbers():
            yield from range(100)
            raise OSError("no more input")

        def main():
            return outcome(futures.mapReduce, abs, max, numbers())
    """)
    assert got == "OSError: no more input"


def test_map_as_completed_hands_over_exceptions(facts):
    got = facts("""
        def root(x):
            return x ** 0.5 if x >= 0 else 1 / 0

        def main():
            results = futures.map_as_completed(root, [4, 9, -1, 16])
            found = []
            try:
                for result in results:
                    found.append(result)
            except ZeroDivisionError:
                return [found, list(results)]
    """)
    assert set(got[0]) <= {2, 3, 4} and got[1] == []


@pytest.mark.parametrize("check", [False, True])
def test_arguments_are_copied_when_they_travel_or_by_check(launch_once, check):
    facts = facts_with(launch_once, """
    def grow(items):
        items.append("by the task")
        return items

    def main():
        items = []
        grown = futures.submit(grow, items).result()
        mapped = []
        grown_by_map, = futures.map(grow, [mapped])
        changed = []
        future = futures.submit(len, changed)
        changed.append("between submit and start")
        big = Big(bytearray(100_000))
        filled = [futures.submit(fill, big).result() for _ in range(2)]
        return items, grown is items, mapped, grown_by_map is mapped, future.result(), filled, big.data[0]

    class Big:
        "Has its data travel in a frame of its own."
        def __init__(self, data):
            self.data = data
        def __reduce_ex__(self, protocol):
            return Big, (pickle.PickleBuffer(self.data),)

    def fill(big):
        big.data[0] += 1
        return big.data[0]

    import pickle
    """, n=1, options=["--check"] * check)
    copied = [[], False, [], False, 0, [1, 1], 0]
    assert facts == (copied if check else [["by the task"], True, ["by the task"], True, 1, [1, 2], 2])


def test_a_breakpoint_in_a_task(launch_once):
    body = """
    def stop(i):
        time.sleep(0.02)
        if i == 3:
            breakpoint()
        return i

    def main():
        return list(futures.map(stop, range(6)))
    """
    alone = launch_once(program(body), n=1, stdin=b"p i * 11\ncontinue\n")
    assert alone.returncode == 0 and "(Pdb) 33\n(Pdb) [0, 1, 2, 3, 4, 5]" in alone.stdout, alone
    others = launch_once(program(body.replace("list(futures.map(stop, range(6)))", "outcome(lambda: each(stop))") + """
    def each(function):
        return futures.run_on_all(function, 3)
    """), n=2, stdin=b"continue\n")
    assert others.returncode == 0 and re.search("BdbQuit|SystemExit", others.stdout), others  # maybe not the last line


def test_check_sends_all_through_pickle(launch_once):
    """Even what is run where it was made: so it is a copy, and what cannot travel is named by its path."""
    got = facts_with(launch_once, """
        class Odd:
            def __reduce__(self):
                return broken, ()

        def broken():
            raise ValueError("not again")

        def add(words):
            words.append(1)
            return words

        def lock(_):
            return {"the": threading.Lock()}

        def main():
            words = []
            own = futures.submit(add, words).result(), *futures.map(add, [words])
            return [words, own, outcome(lambda: futures.submit(lock, 1).result()),
                    outcome(lambda: futures.submit(add, threading.Lock()).result()),
                    outcome(lambda: futures.submit(add, words=Odd()).result())]
    """, n=1, options=["--check"])  # fmt: skip
    words, own, of_result, of_argument, of_copy = got
    assert (words, own) == ([], [[1], [1]])
    assert "cannot pickle result['the']" in of_result and "cannot pickle args[0]" in of_argument
    assert "cannot be unpickled: ValueError('not again')" in of_copy


# ---------------------------------------------------------------------------------------------------------------------
# What a worker cannot import
# ---------------------------------------------------------------------------------------------------------------------


def test_a_module_that_a_worker_cannot_import_is_named_with_host_interpreter_and_path(facts):
    by_name, in_task, first, others = facts("""
        import socket

        def imports():
            import no_such_module

        def main():
            others = away(lambda: sys.path).result()
            os.mkdir("late")
            with open("late/late_module.py", "w") as file:
                file.write("def one(): return 1")
            sys.path.insert(0, "late")  # workers were there before
            import late_module
            by_name = str(away(late_module.one).exception())
            error = away(imports).exception()
            there = "(on %s, by %s; sys.path there: %s)" % (socket.gethostname(), sys.executable, others)
            return by_name, str(error.__cause__), str(error), there
    """)
    assert "ModuleNotFoundError: No module named 'late_module'" in by_name and by_name.endswith(others), by_name
    assert first == "No module named 'no_such_module'" and in_task.endswith(f"ModuleNotFoundError: {first}\n{others}")
    assert in_task.count("sys.path there") == 1


def test_a_script_that_a_worker_cannot_import_is_named_with_host_interpreter_and_path(facts):
    text, where, host = facts("""
        import socket

        if __name__ != "__main__":
            raise LookupError("only at home")

        class Argument:
            pass

        def main():
            return str(away(repr, Argument()).exception()), __file__, socket.gethostname()
    """)
    assert f"ImportError: worker 1 on {host} cannot import " in text and "LookupError: only at home" in text
    assert f"(on {host}, by " in text and "; sys.path there: [" in text and os.path.basename(where) in text


@pytest.mark.parametrize("n", [1, 2, None], ids=["1", "2", "serial"])
def test_a_program_may_ask_whether_tasks_are_done_until_they_are(launch, n):
    """Also where nobody else can run them: in a pool of one, or when every worker asks."""
    source = """
        import time
        from scoop_lite import futures

        def ask(tasks):
            while not all(task.done() for task in tasks):
                time.sleep(0.002)
            return [task.result() for task in tasks]

        def family(i):
            return sum(ask([futures.submit(abs, -i)]))

        if __name__ == "__main__":
            print(ask([futures.submit(family, i) for i in range(4)]))
            tasks = [futures.submit(abs, -i) for i in range(4)]
            while futures.wait(tasks, timeout=0).not_done:
                time.sleep(0.002)
        """
    outcome = launch(source, n=n) if n else launch.serial(textwrap.dedent(source), python=(sys.executable, "-Wignore"))
    assert (outcome.returncode, outcome.stdout, outcome.stderr) == (0, "[0, 1, 2, 3]\n", ""), outcome


def test_what_is_for_each_worker_sees_what_that_worker_has(facts):
    """A function that the script defines uses the globals of each worker's own script, not copies of the caller's."""
    assert facts(
        """
        STATE = None

        def set_up(value):
            global STATE
            STATE = value

        def look(_):
            time.sleep(0.005)
            return STATE

        def main():
            futures.run_on_all(set_up, 7)
            return [sorted(futures.run_on_all(look, 0).items()), sorted(set(futures.map(look, range(40)))),
                    sorted(futures.run_on_all(lambda: look(0)).items())]
        """,
        n=3,
    ) == [[[0, 7], [1, 7], [2, 7]], [7], [[0, 7], [1, 7], [2, 7]]]


def test_what_is_for_each_worker_may_be_known_to_the_caller_alone(launch):
    outcome = launch(
        """
        import functools
        from scoop_lite import futures, shared

        def call(found, x):
            return found(x)

        if __name__ == "__main__":
            class Here:
                def __call__(self, x):
                    return only_here(x)

            @functools.lru_cache(10)
            def only_here(x):
                return x + used_here

            used_here = 1
            shared.setConst(here=Here(), both=[Here(), only_here])
            for func, *args in (
                (only_here, 1), (lambda: only_here(1),), (Here(), 1), (call, Here(), 1),
                (lambda: shared.getConst("here")(1),), (lambda: shared.getConst("both")[1](1),),
            ):
                print(sorted(futures.run_on_all(func, *args).items()))
        """,
        n=3,
    )
    assert (outcome.returncode, outcome.stdout, outcome.stderr) == (0, "[(0, 2), (1, 2), (2, 2)]\n" * 6, "")


def test_what_is_for_each_worker_may_use_what_cannot_travel(facts):
    """It goes by value only in case that a worker does not find it."""
    assert facts("""
        LOCK = threading.Lock()

        class Guarded:
            def get(self, x=3):
                with LOCK:
                    return x

        def guarded(x):
            with LOCK:
                return x

        def main():
            shared.setConst(guarded=guarded, instance=Guarded())
            ways = [lambda: shared.getConst("guarded")(3), lambda: shared.getConst("instance").get(), Guarded().get]
            return [sorted(futures.run_on_all(*call).values()) for call in ((guarded, 3), *((way,) for way in ways))]
    """) == [[3, 3]] * 4


def test_a_function_by_value_takes_big_data_along(facts):
    """Buffers that `dumps` would keep apart are in its one frame."""
    pytest.importorskip("numpy")
    assert facts("""
        import numpy

        def make(array):
            return lambda: [float(array.sum()), os.getpid()]

        def main():
            total, pid = away(make(numpy.ones(50_000))).result()
            return total, pid != os.getpid()
    """) == [50_000, True]


def test_tasks_use_managers_of_multiprocessing(facts):
    """Of the script, though each worker's process has a key of its own; by proxies in what they return, too."""
    assert facts("""
        def add(outer, x):
            outer["inner"].append(x)
            return os.getpid()

        def main():
            import multiprocessing, scoop_lite
            sys.path.append(os.path.dirname(scoop_lite.__file__))  # for the manager's process, if it is started anew
            with multiprocessing.Manager() as manager:
                outer = manager.dict(inner=manager.list())
                elsewhere = away(add, outer, 1).result() != os.getpid()
                away(outer["inner"].append, 2).result()
                return elsewhere, list(outer["inner"])
    """) == [True, [1, 2]]


def test_an_argument_that_each_worker_fails_to_read_is_told(facts):
    """Nothing of it is sent again, but the call fails, and the pool goes on."""
    text, after = facts("""
        class Odd:
            def __reduce__(self): return getattr, (len, "nothing")

        def main():
            try:
                futures.run_on_all(repr, Odd())
            except scoop_lite.ScoopError as error:
                return str(error), away(abs, -1).result()
    """)
    assert "could not unpickle task repr(<" in text and after == 1


def test_what_is_for_each_worker_is_passed_on_to_no_other(launch):
    """Though hungry workers wait for tasks, and the worker that has it is only about to begin."""
    outcome = launch("""
        import os
        from scoop_lite import futures, SIZE
        if __name__ == "__main__":
            for _ in range(100):
                found = futures.run_on_all(os.getpid)
                assert len(set(found.values())) == SIZE == len(found), found
            print("each its own")
        """, n=8)  # fmt: skip
    assert outcome.stdout == "each its own\n", outcome


def test_a_task_that_waits_with_a_timeout_does_not_put_the_pool_to_sleep(facts_once):
    """Tasks of unknown length are kept from who waits so, for some seconds, not to the end of the timeout."""
    took = facts_once("""
        def inner(i):
            return i

        def outer(i):
            return futures.submit(inner, i).result(timeout=3600)

        def main():
            begin = time.monotonic()
            assert list(futures.map(outer, range(4))) == list(range(4))
            return time.monotonic() - begin
    """, n=2)  # fmt: skip
    assert took < 15


@pytest.mark.parametrize("timeout", ["3e6", "1e12", "float('inf')"])
def test_timeouts_may_be_longer_than_the_system_waits(facts_once, timeout):
    got = facts_once(f"""
        def nap(i):
            time.sleep(0.05)
            return i

        def main():
            tasks = [futures.submit(nap, i) for i in range(8)]
            time.sleep(0.1)
            return [task.result(timeout={timeout}) for task in tasks]
    """, n=2)  # fmt: skip
    assert got == list(range(8))


@pytest.mark.parametrize("end", ["", ".close()"])
def test_a_map_whose_results_nobody_takes_is_ended_whole(facts_once, end):
    """It was never begun, as generators are: so no part of it runs, which would be taken for all of it."""
    n, ran = facts_once(f"""
        def note(i):
            record("ran")

        def main():
            futures.map(note, range(3000)){end}
            futures.submit(abs, 1).result()
            futures.shutdown()
            path = os.environ["LEDGER"]
            return len(list(futures.map(abs, range(10)))), len(open(path).readlines()) if os.path.exists(path) else 0
    """, n=1)  # fmt: skip
    assert (n, ran) == (10, 0)


def test_polls_of_a_future_leave_nothing_behind(facts_once):
    n = facts_once("""
        def main():
            task = futures.submit(time.sleep, 1)
            time.sleep(0.2)  # so that another worker has it
            for _ in range(200):
                try:
                    task.result(timeout=0)
                except futures.TimeoutError:
                    pass
            return len(task.waiters or ())
    """, n=2)  # fmt: skip
    assert n < 5


def test_random_numbers_are_for_the_scripts_thread_and_tasks(facts_once):
    got = facts_once("""
        def main():
            said = []
            def ask():
                for call in futures.task_rng, futures.task_seed:
                    said.append(outcome(call).split(":")[0])
            thread = threading.Thread(target=ask)
            thread.start()
            time.sleep(0.2)
            thread.join()
            return said
    """, n=1)  # fmt: skip
    assert got == ["MisuseError", "MisuseError"]


FROZEN = """
    import dataclasses

    @dataclasses.dataclass(frozen=True)
    class Frozen(Exception):
        code: int = 7

    class Slotted(Exception):
        __slots__ = ("code",)
        def __init__(self, code):
            super().__init__(code)
            self.code = code

    class Mute(Exception):
        def __str__(self):
            return self.args[0]["nothing there"]

    def frozen():
        raise Frozen(9)

    def slotted():
        raise Slotted(5)

    def mute():
        raise Mute()

    def unnamed():
        raise ModuleNotFoundError()
"""


def test_exceptions_of_every_kind_arrive(facts):
    """Those that forbid to set an attribute, that have slots, that cannot be put in words."""
    got = facts(FROZEN + """
    def main():
        found = {}
        for func in frozen, slotted, mute, unnamed:
            for call in away, futures.submit:
                error = call(func).exception()
                found.setdefault(func.__name__, []).append([type(error).__name__, getattr(error, "code", None)])
        return found
    """)
    assert got == {"frozen": [["Frozen", 9]] * 2, "slotted": [["Slotted", 5]] * 2, "mute": [["Mute", None]] * 2,
                   "unnamed": [["ModuleNotFoundError", None]] * 2}  # fmt: skip


def test_a_script_that_ends_with_a_frozen_exception_shows_it(launch_once):
    outcome = launch_once(program(FROZEN + "    def main():\n        frozen()\n"))
    assert outcome.returncode == 1 and outcome.stderr.rstrip().endswith("Frozen: 9"), outcome
    assert "before its script had ended" not in outcome.stderr


EXITS = """
    class Leaves(BaseException): pass

    def leave():
        {leave}

    class Exits:
        def __reduce__(self):
            leave()

    class ExitsToo(Exception):
        def __reduce__(self):
            leave()

    def take(it):
        time.sleep(0.02)
        return type(it).__name__

    def give(i):
        time.sleep(0.02)
        return Exits()

    def fail(i):
        time.sleep(0.02)
        raise ExitsToo()
"""


@pytest.mark.parametrize("leave", ["sys.exit('in __reduce__')", "raise Leaves"])
@pytest.mark.parametrize("func, arg, expected", [
    ("take", "Exits()", {"Exits"}), ("give", "1", {"Unpicklable", "SystemExit", "Leaves", "Exits"}),
    ("fail", "1", {"ExitsToo", "ScoopError"})])  # fmt: skip
def test_an_exit_while_something_is_pickled_ends_neither_worker_nor_pump(facts, func, arg, expected, leave):
    got = facts(EXITS.format(leave=leave) + f"""
    def main():
        tasks = [futures.submit({func}, {arg}) for _ in range(8)]
        time.sleep(0.2)
        found = set()
        for task in tasks:
            error = task.exception()
            found.add(type(error).__name__ if error is not None else
                      task.result() if isinstance(task.result(), str) else type(task.result()).__name__)
        return sorted(found)
    """)
    assert got and set(got) <= expected


FORGETS = """
    def grow(depth, path):
        time.sleep(random.Random(path).random() / 50)
        record(path)
        for i in range(2 if depth else 0):
            futures.submit(grow, depth - 1, f"{path}{i}")
        return path
"""


@pytest.mark.parametrize("begin", ["list(futures.map(grow, [4], ['r']))", "futures.submit(grow, 4, 'r')"])
def test_tasks_that_nobody_waits_for_are_run_all_the_same_wherever_they_were_made(launch, begin):
    """Also those of tasks that other workers have run."""
    outcome = launch(program(FORGETS + f"    def main():\n        {begin}\n"), n=3)
    paths = Counter("r" + "".join(bits) for depth in range(5) for bits in itertools.product("01", repeat=depth))
    assert outcome.returncode == 0 and launch.ledger == paths, outcome


@pytest.mark.parametrize("wait, n", [
    ("shared.getConst('never', timeout=0.3)", 6), ("futures.submit(time.sleep, 0.2).result()", 6),
    ("futures.shutdown()", 1),  # of two on different workers, each may wait for the other
])  # fmt: skip
def test_what_is_left_behind_may_wait_itself(launch, wait, n):
    """In the script's own worker, too."""
    source = program(f"""
        def left(i):
            time.sleep(0.05)
            {wait}
            record(i)

        def parent(i):
            time.sleep(0.05)
            futures.submit(left, i)

        def main():
            if {n} > 1:
                futures.submit(left, "own")
            list(futures.map(parent, range({n})))
    """)
    outcome = launch(source, n=3)
    assert outcome.returncode == 0 and launch.ledger == Counter([*["own"] * (n > 1), *map(str, range(n))]), outcome


def test_functions_travel_from_a_worker_that_has_not_imported_the_script(launch_once):
    """Its pump, which pickles them, must not import it in the place of the worker's own thread."""
    outcome = launch_once("""
        import sys
        import time
        from scoop_lite import futures
        if __name__ != "__main__":
            time.sleep(0.5)
        def main():
            import time
            from scoop_lite import futures
            def task(n):
                import time
                from scoop_lite import futures
                def sub(i):
                    import time
                    time.sleep(0.02)
                    return i
                tasks = []
                for i in range(40):
                    tasks.append(futures.submit(sub, i))
                    t = time.perf_counter()
                    while time.perf_counter() < t + 0.01:
                        pass
                return sum(task.result() for task in tasks)
            print(list(futures.map(task, range(2))))
        if __name__ == "__main__":
            main()
    """, n=3)  # fmt: skip
    assert (outcome.returncode, outcome.stdout, outcome.stderr) == (0, "[780, 780]\n", ""), outcome


def test_exit_functions_may_use_futures(launch):
    outcome = launch("""
        import atexit, time
        from scoop_lite import futures

        def double(x):
            time.sleep(0.002)
            return 2 * x

        if __name__ == "__main__":
            atexit.register(lambda: print(sum(futures.map(double, range(9))), futures.submit(double, 2).result()))
            print(sum(futures.map(double, range(50))))
    """)
    assert (outcome.returncode, outcome.stdout) == (0, "2450\n72 4\n"), outcome


def test_what_files_left_open_hold_is_written_at_the_end(launch, tmp_path):
    """As the interpreter does it for a script; here also in workers, and whatever has run before."""
    script = launch.write("""
        import gzip, os, time
        from scoop_lite import futures

        files = []

        def note(i):
            time.sleep(0.005)
            if not files:
                files.append(open("%d.txt" % os.getpid(), "w"))
                files.append(gzip.open("%d.gz" % os.getpid(), "wt"))
            for file in files:
                file.write("%d\\n" % i)
            return os.getpid()

        if __name__ == "__main__":
            script = open("script", "w")
            for pid in futures.map(note, range(60)):
                script.write("%d\\n" % pid)
    """)
    outcome = launch(script, n=3)
    assert (outcome.returncode, outcome.stderr) == (0, "")
    pids = Counter((tmp_path / "script").read_text().split())
    assert sum(pids.values()) == 60 and len(pids) == 3
    noted = {path.stem: path.read_text().split() for path in tmp_path.glob("*.txt")}
    assert {pid: len(lines) for pid, lines in noted.items()} == pids
    assert sorted(map(int, itertools.chain(*noted.values()))) == list(range(60))
    for pid in pids:
        packed = (tmp_path / (pid + ".gz")).read_bytes()
        assert zlib.decompressobj(31).decompress(packed).decode().split() == noted[pid]


def test_a_file_that_cannot_be_written_at_the_end_is_told(launch):
    outcome = launch("""
        import io
        from scoop_lite import futures

        class Bad(io.TextIOBase):
            def flush(self):
                raise OSError("the disk is full")

        def leave_open(rank):
            globals()["bad"] = Bad()

        if __name__ == "__main__":
            futures.run_on_all(leave_open, 0)
    """)
    assert outcome.returncode == 0
    assert "Bad object at" in outcome.stderr and "cannot be written: the disk is full" in outcome.stderr, outcome


def test_tasks_see_the_context_variables_that_the_script_has_set(launch):
    """Those of `decimal` are the usual ones. Wherever a task runs, also while the script or other tasks wait there."""
    outcome = launch("""
        import contextvars, decimal, time
        from collections import Counter
        from scoop_lite import futures

        number = contextvars.ContextVar("number", default=1)
        number.set(2)
        decimal.setcontext(decimal.Context(prec=50))

        def third(i):
            time.sleep(0.003)
            return number.get(), len(str(decimal.Decimal(1) / 3))

        def nested(i):
            found = [third(0), *futures.map(third, range(3))]
            return Counter([*found, *(task.result() for task in [futures.submit(third, i) for i in range(3)])])

        if __name__ == "__main__":
            print(dict(Counter(futures.map(third, range(60)))))
            print(dict(sum(futures.map(nested, range(12)), Counter())))
    """, n=2)  # fmt: skip
    assert outcome.stdout == "{(2, 52): 60}\n{(2, 52): 84}\n", outcome


def test_an_operator_of_map_reduce_may_use_futures(facts):
    got = facts("""
        import operator

        def same(x):
            return x

        def by_submit(a, b):
            return futures.submit(operator.add, a, b).result()

        def by_map(a, b):
            return sum(futures.map(same, [a, b]))

        def by_reduction(a, b):
            return futures.mapReduce(same, operator.add, [a, b])

        def with_a_number(a, b):
            assert 0 <= futures.task_rng().random() < 1
            return a + b

        def fails(a, b):
            futures.submit(time.sleep, 0).result()
            raise KeyError(a)

        def main():
            tried = by_submit, by_map, by_reduction, with_a_number, fails
            return [str(outcome(futures.mapReduce, same, op, range(300))) for op in tried]
    """)
    assert got[:4] == ["44850"] * 4 and got[4].startswith("KeyError"), got


SLOW_TO_PICKLE = """
    class Slow:
        def __reduce__(self):
            time.sleep(1.0)
            return int, (7,)

    def note(x):
        record("ran")

    def leave(other):
        futures.submit(note, Slow())
        end = time.monotonic() + 0.4  # while it is being pickled
        while time.monotonic() < end:
            time.sleep(0.01)
"""


@pytest.mark.parametrize("where", ["in the script", "in a task"])
def test_a_task_that_is_being_pickled_is_not_forgotten_at_the_end(launch, where):
    call = "leave(0)" if where == "in the script" else "futures.run_on_all(leave, 0)"
    outcome = launch(program(SLOW_TO_PICKLE + """
    def main():
        time.sleep(0.3)  # others are hungry by now
        %s
    """ % call), n=2)  # fmt: skip
    assert outcome.returncode == 0, outcome
    assert launch.ledger == {"ran": 1 if where == "in the script" else 2}, outcome


def test_what_cannot_travel_is_dropped_with_its_map_and_cancelled_by_shutdown(facts):
    got = facts("""
        import threading
        ran = []

        def work(lock):
            ran.append(1)
            time.sleep(0.05)

        def main():
            results = futures.map(work, [threading.Lock() for _ in range(40)])
            next(results)
            results.close()
            mapped = len(ran)
            futures.shutdown()
            dropped = len(ran)
            tasks = [futures.submit(work, threading.Lock()) for _ in range(40)]
            tasks[0].result()
            futures.shutdown(cancel_futures=True)
            return [mapped, dropped, all(task.done() for task in tasks), sum(task.cancelled() for task in tasks) > 20]
    """)
    mapped, dropped, *rest = got
    assert dropped - mapped <= 1 and rest == [True, True], got


def test_an_interrupt_while_a_map_draws_its_first_input_ends_its_tasks(launch):
    outcome = launch(program("""
        def work(x):
            time.sleep(0.2)
            record("ran")

        def slowly():
            for i in range(16):
                yield i
                time.sleep(0.002)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(20)

        def main():
            try:
                list(futures.map(work, slowly()))
            except KeyboardInterrupt:
                record("interrupted")
            futures.shutdown()
    """), n=2)  # fmt: skip
    assert outcome.returncode == 0, outcome
    assert launch.ledger["interrupted"] == 1 and launch.ledger["ran"] <= 2, launch.ledger


def test_a_timeout_that_is_no_number_is_over_at_once(facts):
    got = facts("""
        def main():
            slow = futures.submit(time.sleep, 1.5)
            futures.wait([slow], timeout=0.3)  # it is under way by now
            start = time.monotonic()
            answers = [outcome(slow.result, timeout=float("nan")).split(":")[0], time.monotonic() - start < 0.9]
            return [*answers, slow.result()]
    """)
    assert got == ["TimeoutError", True, None]
