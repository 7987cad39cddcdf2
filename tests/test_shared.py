"""`shared`: constants that every task sees."""

from __future__ import annotations


def test_constants_are_seen_by_every_task_submitted_afterwards(facts):
    got = facts(
        """
        def look(_):
            time.sleep(0.005)
            return [os.getpid(), shared.getConst("number"), shared.get_const("table"), shared.getConst("empty")]

        def nested(i):
            return list(futures.map(look, range(5)))

        def main():
            shared.setConst(number=42, table={"a": [1, 2]})
            shared.set_const(empty=None)
            seen = list(futures.map(look, range(80)))
            return {
                "workers": len({row[0] for row in seen}),
                "values": [list(row) for row in {(row[1], str(row[2]), row[3]) for row in seen}],
                "nested": all(row[1:] == [42, {"a": [1, 2]}, None]
                              for rows in futures.map(nested, range(10)) for row in rows),
                "here": [shared.getConst("number"), shared.getConst("table")],
            }
        """,
        n=3,
    )
    assert got["workers"] == 3
    assert got["values"] == [[42, "{'a': [1, 2]}", None]]
    assert got["nested"]
    assert got["here"] == [42, {"a": [1, 2]}]


def test_a_constant_overtakes_no_task(facts):
    """Set, and at once submitted: each task sees what was set before it."""
    got = facts(
        """
        def look(name):
            return shared.getConst(name, timeout=0)

        def main():
            bad = []
            for i in range(60):
                shared.setConst(**{"c%d" % i: i})
                values = list(futures.map(look, ["c%d" % i] * 8))
                if values != [i] * 8:
                    bad.append([i, values])
            return bad
        """,
        n=3,
    )
    assert got == []


def test_setting_twice_is_a_type_error(facts):
    got = facts(
        """
        def again(name):
            return outcome(shared.setConst, **{name: 2})

        def race(i):
            return outcome(shared.setConst, contested=i)

        def main():
            shared.setConst(once=1)
            errors = [again("once"), away(again, "once").result(), futures.submit(again, "once").result()]
            together = outcome(shared.setConst, fresh=1, once=3)
            unpicklable = outcome(shared.setConst, fresh=1, lock=threading.Lock())
            shared.setConst(fresh=2)  # neither has set anything
            winners = list(futures.map(race, range(20)))
            return {"errors": errors, "value": shared.getConst("once"), "together": together,
                    "fresh": [unpicklable.split(":")[0], away(shared.getConst, "fresh").result()],
                    "winners": sum(answer is None for answer in winners), "contested": shared.getConst("contested"),
                    "winner": winners.index(None)}
        """,
        n=3,
    )
    for error in (*got["errors"], got["together"]):
        assert error.startswith("TypeError") and "once" in error, error
    assert got["value"] == 1 and got["fresh"] == ["MisuseError", 2]
    assert got["winners"] == 1 and got["contested"] == got["winner"]


def test_a_task_may_set_a_constant(facts):
    got = facts(
        """
        def announce(name, value):
            shared.setConst(**{name: value})
            return os.getpid()

        def look(name):
            return shared.getConst(name, timeout=5)

        def waits_for(name):
            return shared.getConst(name, timeout=10)

        def main():
            far = away(announce, "far", [1, 2, 3]).result()
            early = futures.submit(waits_for, "late")
            time.sleep(0.2)
            shared.setConst(late="came")
            return {"away": far != os.getpid(), "here": shared.getConst("far", timeout=5), "late": early.result(),
                    "all": list(futures.map(look, ["far"] * 10))}
        """,
        n=3,
    )
    assert got == {"away": True, "here": [1, 2, 3], "late": "came", "all": [[1, 2, 3]] * 10}


def test_a_constant_that_never_comes(facts):
    got = facts("""
        def timed(*args, **kwargs):
            start = time.monotonic()
            return [shared.getConst(*args, **kwargs), time.monotonic() - start]

        def main():
            return {"default": timed("missing"), "zero": timed("missing", 0), "longer": timed("missing", timeout=0.4),
                    "away": away(timed, "missing", timeout=0.4).result(), "after": list(futures.map(abs, [-1, -2]))}
    """)
    for name, limit_s in (("default", 0.1), ("zero", 0), ("longer", 0.4), ("away", 0.4)):
        value, seconds = got[name]
        assert value is None and limit_s - 0.01 <= seconds < limit_s + 0.2, (name, value, seconds)
    assert got["after"] == [1, 2]


def test_functions_lambdas_and_big_values(facts):
    got = facts("""
        def double(x):
            return 2 * x

        class Model:
            weights = b""

        def use(name, *args):
            return shared.getConst(name)(*args)

        def size(name):
            return len(shared.getConst(name))

        def same(name):
            return shared.getConst(name) is shared.getConst(name)

        def main():
            offset = 100
            def nested(x):
                return x + offset
            shared.setConst(function=double, anonymous=lambda x: x + 1, closure=nested, kind=Model, builtin=len)
            shared.setConst(big=bytes(10_000_000))
            return {
                "away": [away(use, "function", 4).result(), away(use, "anonymous", 4).result(),
                         away(use, "closure", 4).result(), away(use, "builtin", "four").result()],
                "here": [use("function", 4), use("anonymous", 4), use("closure", 4)],
                "class": [type(use("kind")).__name__, type(away(use, "kind").result()).__name__],
                "big": list(futures.map(size, ["big"] * 6)),
                "same": sorted(futures.run_on_all(same, "big").items()),
            }
    """)
    assert got["away"] == [8, 5, 104, 4]
    assert got["here"] == [8, 5, 104]
    assert got["class"] == ["Model", "Model"]
    assert got["big"] == [10_000_000] * 6
    assert got["same"] == [[0, True], [1, True]], "it is unpickled once in each worker"


def test_a_function_that_only_the_setter_has(facts):
    got = facts("""
        def use(x):
            return shared.getConst("function", timeout=None)(x), os.getpid()

        def is_own(_):
            return shared.getConst("use") is use

        def main():
            shared.setConst(function=only_here, use=use)
            (value, pid), own = away(use, 1).result(), away(is_own, 0).result()
            return value, pid != os.getpid(), own

        if __name__ == "__main__":
            OFFSET = 1000

            def add(x):
                return x + OFFSET

            def only_here(x):
                return add(x)
    """)
    assert got == [1001, True, True]


def test_what_cannot_be_shared_is_an_error_at_once(facts):
    got = facts("""
        def main():
            error = outcome(shared.setConst, lock=threading.Lock())
            return [error, list(futures.map(abs, [-1, -2])), outcome(shared.setConst, lock=1),
                    shared.getConst("lock") == 1]
    """)
    assert isinstance(got[0], str) and "Error" in got[0] and "lock" in got[0]
    assert got[1:] == [[1, 2], None, True], "the run goes on, and the name is still free"


def test_workers_that_start_later_see_constants_too(facts):
    """A worker that replaces a dead one gets what was set before it was born."""
    got = facts(
        """
        def die_once():
            if not os.path.exists(os.environ["LEDGER"]):
                record("died")
                os.kill(os.getpid(), signal.SIGKILL)
            return [os.getpid(), shared.getConst("answer")]

        def main():
            shared.setConst(answer=42)
            pid, value = away(die_once).result()
            return [pid != os.getpid(), value]
        """,
        stderr=None,
    )
    assert got == [True, 42]


def test_without_the_launcher(launch_once):
    outcome = launch_once.serial("""
        from scoop_lite import futures, shared

        def look(name):
            return shared.getConst(name)

        if __name__ == "__main__":
            shared.setConst(answer=42)
            try:
                shared.setConst(answer=43)
            except TypeError as error:
                print("TypeError" if "answer" in str(error) else error)
            print(list(futures.map(look, ["answer"] * 3)), shared.getConst("missing"))
    """)
    assert (outcome.returncode, outcome.stdout) == (0, "TypeError\n[42, 42, 42] None\n")
