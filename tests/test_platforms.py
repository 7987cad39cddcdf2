"""The way of Windows, forced on this system; and this system with all taken away that Windows or macOS lacks."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
from conftest import is_of_module, launcher_for, program
from test_examples import EXAMPLES, NAMES, expect_documented

PLATFORMS = Path(__file__).parent / "platforms"
#: Name: options, and the directory of what makes a Python poorer.
WAYS = {"loopback": (["--backend", "loopback"], None), "windows": ([], "windows"), "macos": ([], "macos")}


@pytest.fixture(params=WAYS)
def way(request):
    return request.param


@pytest.fixture
def launch_way(request, tmp_path, way, monkeypatch):
    """Launches in one of the WAYS; the programs find `scoop_lite` and the poorer platform on their path."""
    if not sys.platform.startswith("linux"):
        pytest.skip("Linux is what is made poorer")
    options, directory = WAYS[way]
    as_module = is_of_module(request.config, "zmq" if directory else "own")  # that way, too, on a poorer platform
    launches = launcher_for(request, tmp_path, options, as_module)
    launch = next(launches)
    path = [str(launch.file.parent)] + ([str(PLATFORMS / directory)] if directory else [])
    plain = launch.environment
    launch.environment = lambda more=(): {**plain(more), "PYTHONPATH": os.pathsep.join(path)}
    yield launch
    next(launches, None)


@pytest.mark.parametrize("name", NAMES)
def test_example_prints_what_it_documents(launch_way, name):
    outcome = launch_way([f"examples/{name}.py"], n=4, cwd=EXAMPLES.parent)
    expect_documented(name, outcome)
    assert outcome.stderr == ""


def test_the_platform_is_as_poor_as_its_name_says(launch_way, way):
    lacks = {"loopback": [], "windows": ["fork", "set_blocking", "WNOHANG"], "macos": ["sched_getaffinity"]}[way]
    outcome = launch_way("import os\nprint([name for name in %r if hasattr(os, name)])" % lacks)
    assert (outcome.returncode, outcome.stdout) == (0, "[]\n"), outcome


def test_what_travels_arrives(launch_way):
    """Big and small arguments and results, closures, constants, input, arguments, nested tasks."""
    outcome = launch_way(program("""
        def double(data):
            return data + data

        def nested(n):
            return sum(futures.map(abs, range(n))) + shared.getConst("one", timeout=5)

        def main():
            shared.setConst(one=1)
            sizes = [10**k for k in range(8)]
            back = [away(double, bytes(n)).result() for n in sizes]
            add = 7
            return {
                "sizes": [len(x) for x in back] == [2 * n for n in sizes],
                "nested": list(futures.map(nested, range(4))),
                "closure": list(futures.map(lambda x: x + add, range(3))),
                "workers": len(set(futures.run_on_all(os.getpid).values())),
                "input": sys.stdin.read(),
                "arguments": sys.argv[1:],
            }
    """), n=3, args=["-x", "ü"], stdin=b"one line\n")
    assert outcome.returncode == 0 and outcome.facts == {
        "sizes": True, "nested": [1, 1, 2, 4], "closure": [7, 8, 9], "workers": 3, "input": "one line\n",
        "arguments": ["-x", "ü"],
    }, outcome  # fmt: skip


ENDS = {
    "sys.exit(7)": (7, ""),
    "sys.exit('no')": (1, "no\n"),
    "1 / 0": (1, "ZeroDivisionError"),
    "os._exit(9)": (9, "the origin (pid"),
    "os._exit(0)": (1, "before its script had ended"),
    "futures.submit(fails, 3).result()": (1, "KeyError: 3"),
    "None": (0, ""),
}


@pytest.mark.parametrize("end", ENDS)
def test_the_exit_status_is_the_scripts(launch_way, end):
    status, said = ENDS[end]
    outcome = launch_way("""
        import os, sys
        from scoop_lite import futures

        def fails(x):
            raise KeyError(x)

        if __name__ == "__main__":
            print(sum(futures.map(abs, range(100))), flush=True)
            %s
    """ % end)
    assert (outcome.returncode, outcome.stdout) == (status, "4950\n"), outcome
    assert said in outcome.stderr if said else outcome.stderr == "", outcome


def test_a_task_that_kills_its_worker_is_lost_and_no_other_is(launch_way):
    outcome = launch_way(program("""
        def work(i):
            if i == 7 and scoop_lite.worker != 0:
                os._exit(3)
            time.sleep(0.01)
            record(i)
            return i

        def main():
            futures_ = [futures.submit(work, i) for i in range(30)]
            time.sleep(0.5)
            while not futures_[7].running() and not futures_[7].done():
                futures.wait(futures_, timeout=0.01)
            return [outcome(f.result) for f in futures_]
    """), n=3)
    assert outcome.returncode == 0 and outcome.facts[:7] + outcome.facts[8:] == [*range(7), *range(8, 30)], outcome
    assert outcome.facts[7] == 7 or "WorkerLost" in outcome.facts[7] and "status 3" in outcome.facts[7], outcome


INTERRUPTED = """
    import time
    from scoop_lite import futures

    def rest(x):
        time.sleep(60)

    if __name__ == "__main__":
        try:
            f = [futures.submit(rest, i) for i in range(6)]
            print("ready", flush=True)
            f[0].result()
        finally:
            print("finally", flush=True)
"""


@pytest.mark.parametrize("whom", ["launcher", "group"])
def test_ctrl_c_ends_everything_and_runs_finally_once(launch_way, whom):
    run = launch_way.start(INTERRUPTED, n=3)
    run.wait_for("ready")
    (run.signal if whom == "launcher" else run.signal_group)(signal.SIGINT)
    outcome = run.finish()
    assert outcome.returncode == 130 and outcome.stdout == "ready\nfinally\n", outcome
    assert outcome.stderr.count("\nKeyboardInterrupt\n") == 1 and outcome.seconds < 20, outcome


def test_a_killed_launcher_leaves_nobody(launch_way):
    run = launch_way.start(INTERRUPTED, n=3)
    run.wait_for("ready")
    run.signal(signal.SIGKILL)
    assert run.ended(5)
    run.expect_nobody(5)


EXECUTOR = """
    import os, sys
    import scoop_lite

    def square(x):
        return x * x

    def dies():
        os._exit(3)

    if __name__ == "__main__":
        options = {"backend": "loopback"} if "loopback" in sys.argv else {}
        with scoop_lite.Executor(3, quiet=True, **options) as pool:
            print(sum(pool.map(square, range(1000))), pool.submit(lambda: 5).result())
            try:
                pool.submit(dies).result()
            except scoop_lite.WorkerLost as error:
                print("lost")
            print(pool.submit(square, 5).result())
        try:
            scoop_lite.Executor(2, **options, heartbeat="often").submit(square, 2).result()
        except RuntimeError as error:
            print(type(error).__name__)
"""


def test_an_executor_works_and_says_when_its_launcher_fails(launch_way, way):
    outcome = launch_way.plain(EXECUTOR, args=[way])
    assert outcome.stdout == "332833500 5\nlost\n25\nPoolBroken\n" and outcome.returncode == 0, outcome


@pytest.mark.parametrize("way", ["windows", "loopback"], indirect=True)
def test_what_does_not_work_there_is_said_in_one_sentence(launch_way, way):
    (launch_way.directory / "prolog").write_text("")
    options = [["--prolog", "prolog"]]
    if way == "windows":
        options += [["--hosts=localhost,node1"], ["--nice", "3"]]
    for words in options:
        outcome = launch_way("print(1)", options=words)
        assert outcome.returncode == 2 and outcome.stdout == "" and "does not work with" in outcome.stderr, outcome
        assert outcome.stderr.count("\n") == 1, outcome


def test_the_self_check_finds_all_that_must_work(launch_way):
    outcome = launch_way(["--self-check"], n=2, timeout=90)
    assert outcome.returncode == 0 and "FAILED" not in outcome.stdout, outcome
