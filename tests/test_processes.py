"""What a process knows about itself, and where the file runs."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from conftest import facts_with, program


@pytest.mark.parametrize("n", [1, 3])
def test_process_facts(facts, n):
    got = facts(
        """
        import logging

        def about(_=None):
            time.sleep(0.004)
            return [os.getpid(), scoop_lite.IS_RUNNING, scoop_lite.IS_ORIGIN, scoop_lite.SIZE, repr(scoop_lite.worker),
                    scoop_lite.DEBUG, isinstance(scoop_lite.logger, logging.Logger), repr(scoop_lite.MAIN_MODULE)]

        def main():
            rows = list(futures.map(about, range(30 * scoop_lite.SIZE)))
            return {"here": about(), "rows": rows, "pid": os.getpid()}
        """,
        n=n,
    )
    by_pid = {row[0]: row for row in got["rows"]}
    assert len(by_pid) == n
    assert got["here"][1:4] == [True, True, n]
    assert [pid for pid, row in by_pid.items() if row[2]] == [got["pid"]], "exactly one is the origin"
    assert all(row[1] is True and row[3] == n for row in by_pid.values())
    assert len({row[4] for row in by_pid.values()}) == n, "each worker has a name of its own"
    assert all(row[5] is False and row[6] for row in by_pid.values())
    assert all("program" in row[7] for row in by_pid.values())
    assert all(row == by_pid[row[0]] for row in got["rows"])


def test_process_facts_without_the_launcher(launch_once):
    outcome = launch_once.serial("""
        import logging, scoop_lite
        from scoop_lite import IS_RUNNING, SIZE
        print(IS_RUNNING, SIZE, scoop_lite.DEBUG, isinstance(scoop_lite.logger, logging.Logger))
        print(scoop_lite.IS_ORIGIN in (True, False), hasattr(scoop_lite, "worker"), hasattr(scoop_lite, "MAIN_MODULE"))
    """)
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert outcome.stdout == "False 1 False True\nTrue True True\n"


def test_public_names(launch_once):
    outcome = launch_once.serial("""
        import concurrent.futures, scoop_lite
        from scoop_lite import futures, shared

        for name in ("submit map map_as_completed as_completed wait mapReduce map_reduce mapScan map_scan shutdown "
                     "task_rng task_seed Future TimeoutError CancelledError "
                     "ALL_COMPLETED FIRST_COMPLETED FIRST_EXCEPTION").split():
            assert hasattr(futures, name), name
        for name in ("ALL_COMPLETED", "FIRST_COMPLETED", "FIRST_EXCEPTION", "CancelledError", "TimeoutError"):
            assert getattr(futures, name) is getattr(concurrent.futures, name), name
        for name in ("setConst", "getConst", "set_const", "get_const"):
            assert hasattr(shared, name), name
        assert issubclass(scoop_lite.MisuseError, (scoop_lite.ScoopError, RuntimeError))
        assert issubclass(scoop_lite.PeerError, scoop_lite.ScoopError)
        assert issubclass(scoop_lite.WorkerLost, scoop_lite.ScoopError)
        assert issubclass(scoop_lite.WorkerLost, concurrent.futures.BrokenExecutor)
        assert issubclass(scoop_lite.MisuseError, RuntimeError) and issubclass(scoop_lite.ScoopError, Exception)
        for name in ("submit", "map", "map_as_completed", "as_completed", "wait", "mapReduce", "mapScan", "shutdown"):
            assert getattr(futures, name).__doc__, name
        import scoop_lite.futures as again
        assert again is futures
    """)
    assert (outcome.returncode, outcome.stderr) == (0, "")


def test_an_unguarded_import_in_a_program_of_another_kind(launch_once):
    """The file is a module like any other: importing it starts nothing and changes nothing."""
    outcome = launch_once.serial("""
        import os, signal, sys, threading

        def state():
            files = sorted(os.listdir("/proc/self/fd"))
            return [threading.active_count(), files, signal.getsignal(signal.SIGINT), dict(os.environ)]

        before = state()
        import scoop_lite
        assert state() == before
        print([name for name in ("zmq", "greenlet") if name in sys.modules])
    """)
    assert (outcome.returncode, outcome.stdout, outcome.stderr) == (0, "[]\n", "")


# ---------------------------------------------------------------------------------------------------------------------
# Anywhere
# ---------------------------------------------------------------------------------------------------------------------

BARE = """
    import os, sys, time
    from scoop_lite import futures

    def work(x):
        time.sleep(0.003)
        return [x * x, os.getpid()]

    def fib(n):
        return n if n < 2 else futures.submit(fib, n - 1).result() + futures.submit(fib, n - 2).result()

    if __name__ == "__main__":
        rows = list(futures.map(work, range(80)))
        print([row[0] for row in rows] == [x * x for x in range(80)], len({row[1] for row in rows}), fib(10))
        print(sorted({name.split(".")[0] for name in sys.modules} & {"zmq", "greenlet", "site"}))
"""


def test_isolated_and_without_site_from_an_empty_directory(launch_once, tmp_path):
    """Only the file, only the standard library."""
    (tmp_path / "empty").mkdir()
    script = launch_once.write(BARE)
    how = {"python": [sys.executable, "-I", "-S"], "cwd": tmp_path / "empty"}
    outcome = launch_once([script], **how)
    assert (outcome.returncode, outcome.stdout, outcome.stderr) == (0, "True 2 55\n[]\n", "")
    assert list((tmp_path / "empty").iterdir()) == []


def test_with_warnings_as_errors_and_in_development_mode(launch_once):
    """No unclosed file, no deprecated call, no comparison of bytes with text."""
    development = [["-X", "dev"]] if sys.version_info >= (3, 9) else []  # 3.8 itself crashes when a forked child ends
    for flags in (["-W", "error"], *development, ["-bb"]):
        outcome = launch_once(BARE, python=[sys.executable, *flags])
        assert (outcome.returncode, outcome.stderr) == (0, ""), flags
        assert outcome.stdout.startswith("True 2 55\n")


#: What may have been done before our first line, as by a `sitecustomize`; then how agents come to be.
AGENTS = {"forked": [], "fresh": ["--python-interpreter", sys.executable]}


@pytest.mark.parametrize("how", AGENTS)
def test_a_watchdog_of_faulthandler_does_not_hold_up_the_end(launch_once, how):
    """Its thread would be missing in a forked process, whose end waits for it."""
    launch_once.write("import faulthandler\nfaulthandler.dump_traceback_later(1000)\n", "sitecustomize.py")
    env = {"PYTHONPATH": str(launch_once.directory)}
    outcome = launch_once("print(5)", env=env, options=AGENTS[how])
    assert (outcome.returncode, outcome.stdout, outcome.stderr) == (0, "5\n", "")


def test_a_standard_output_without_reconfigure_will_do(launch_once):
    launch_once.write("""
        import codecs, sys
        sys.stdout = codecs.getwriter("utf-8")(sys.stdout.buffer)
    """, "sitecustomize.py")  # fmt: skip
    outcome = launch_once("""
        from scoop_lite import futures

        if __name__ == "__main__":
            print(sum(futures.map(abs, range(1000))), len(futures.run_on_all(print, "ü")))
    """, n=3, env={"PYTHONPATH": str(launch_once.directory)})  # fmt: skip
    assert (outcome.returncode, outcome.stderr) == (0, ""), outcome
    assert sorted(outcome.stdout.splitlines()) == ["499500 3", "ü", "ü", "ü"]


#: Done by a `sitecustomize`: what then happens in workers before they have said a word.
BEFORE_HELLO = {
    "to all": "sys.stdout = type('', (), {'reconfigure': lambda *a, **k: 1 / 0, 'flush': lambda self: None})()",
    "to all but the origin": "os.devnull = '/nowhere/null'",
}


@pytest.mark.parametrize("what", BEFORE_HELLO)
def test_what_no_worker_can_begin_with_is_told_once(launch, what):
    launch.write(f"import os, sys\n{BEFORE_HELLO[what]}\n", "sitecustomize.py")
    outcome = launch("""
        from scoop_lite import futures
        if __name__ == "__main__":
            futures.run_on_all(abs, 1)
    """, n=3, env={"PYTHONPATH": f"{launch.directory}{os.pathsep}{launch.file.parent}"})
    told = re.findall(r"^scoop_lite: worker \d on .*: it cannot begin:", outcome.stderr, re.M)
    assert outcome.returncode == 1 and len(told) == 1, outcome
    assert ("ZeroDivisionError" if what == "to all" else "/nowhere/null") in outcome.stderr
    assert "starting another" not in outcome.stderr and outcome.stderr.count("Traceback") <= 4, outcome


REGISTERS = """
    import multiprocessing.util, os, tempfile, weakref

    def note(*words):
        with open(os.environ["LEDGER"], "a") as file:
            print(*words, file=file)

    def register(whose):
        multiprocessing.util.Finalize(None, note, (whose, os.getpid(), "multiprocessing"), exitpriority=1)
        weakref.finalize(note, note, whose, os.getpid(), "weakref")
        return tempfile.TemporaryDirectory()
"""


@pytest.mark.parametrize("how", AGENTS)
def test_finalizers_of_who_starts_us_are_not_the_workers(launch_once, how):
    """A temporary directory stays as long as its owner; what workers register themselves runs at their end."""
    launch_once.write(REGISTERS, "registers.py")
    launch_once.write("""
        import os, registers
        kept = registers.register("site")
        os.environ.setdefault("SITE_DIRECTORY", kept.name)
    """, "sitecustomize.py")  # fmt: skip
    outcome = launch_once("""
        import os, time
        import registers
        from scoop_lite import futures

        def work(_):
            time.sleep(0.01)
            if not hasattr(registers, "kept"):
                registers.kept = registers.register("worker")
            return os.path.exists(os.environ["SITE_DIRECTORY"])

        if __name__ == "__main__":
            print(all(futures.map(work, range(60))))
    """, n=3, env={"PYTHONPATH": str(launch_once.directory)}, options=[*AGENTS[how], "--max-tasks-per-child", "5"])
    assert (outcome.returncode, outcome.stdout) == (0, "True\n"), outcome
    ends = Counter(tuple(line.split()[::2]) for line in launch_once.ledger.elements())
    assert ends["site", "weakref"] == ends["site", "multiprocessing"] == 1, ends
    assert ends["worker", "weakref"] == ends["worker", "multiprocessing"] > 3, ends
    assert set(launch_once.ledger.values()) == {1}


def pythons():
    """The Pythons from 3.8 on that this machine has, other than the one that runs the tests, one per version."""
    names = [shutil.which(f"python3.{minor}") for minor in range(8, 16)]
    names += sorted(map(str, Path.home().glob(".pyenv/versions/3.*/bin/python")))
    found = {}
    for name in filter(None, names):
        code = "import sys; print('%d.%d' % sys.version_info[:2])"
        answer = subprocess.run([name, "-I", "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=20)
        version = answer.stdout.decode().strip()
        if answer.returncode == 0 and tuple(map(int, version.split("."))) >= (3, 8):
            found.setdefault(version, name)
    found.pop("%d.%d" % sys.version_info[:2], None)
    return found


def test_other_versions_of_python(launch_once):
    """Bare, so with the own engine and threads, or with what each of them has."""
    others = pythons()
    if not others:
        pytest.skip("this machine has no other Python from 3.8 on")
    for version, python in others.items():
        for flags in (["-I", "-S"], []):
            outcome = launch_once(BARE, python=[python, *flags])
            assert (outcome.returncode, outcome.stderr) == (0, ""), version
            assert outcome.stdout.startswith("True 2 55\n"), version


@pytest.mark.parametrize("version", ["2.7", "3.6", "3.7"])
def test_a_python_that_is_too_old_shows_which_is_needed(launch_once, version):
    """It prints the line that it cannot read: that has a comment which says so."""
    found = sorted(map(str, Path.home().glob(f".pyenv/versions/{version}.*/bin/python")))
    found += filter(None, [shutil.which(f"python{version}")])
    if not found:
        pytest.skip(f"this machine has no Python {version}")
    outcome = launch_once("pass", python=found[:1])
    assert outcome.returncode == 1 and "# needs Python 3.8" in outcome.stderr.splitlines()[-3], outcome


def test_the_main_program_works_with_a_read_only_checkout(launch_once, tmp_path):
    """Vendored by copying, on a file system that takes no compiled file."""
    place = tmp_path / "vendored"
    place.mkdir()
    copy = shutil.copy(launch_once.file, place)
    place.chmod(0o555)
    try:
        outcome = launch_once.run([copy, "-n", "2", launch_once.write(BARE)]).finish()
    finally:
        place.chmod(0o755)
    assert (outcome.returncode, outcome.stderr) == (0, "")


ANONYMOUS = """
    import os, sys, scoop_lite
    if __name__ == "__main__":
        status = open("/proc/self/status").read()
        print(os.path.abspath(scoop_lite.__file__), os.getcwd(), sys.flags.no_site, sys.argv[1:], sys.path, sep="\\n")
        print(status.partition("RssAnon:")[2].split()[0], file=sys.stderr)
        sys.exit(7)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing begins again")
def test_many_workers_are_forked_from_a_process_without_the_syntax_tree_of_our_file(launch_once, tmp_path):
    """What each fork has to copy; the run is the same in all else, also with relative paths and options of Python."""
    (tmp_path / "at").mkdir()
    launch_once.write(ANONYMOUS, "at/program.py")
    said, held = set(), []
    for n in ("2", "64"):
        words = [os.path.relpath(launch_once.file, tmp_path), "-n", n, "--path", "at", "program.py", "-n", "64", "a b"]
        outcome = launch_once.run(words, python=[sys.executable, "-S"], cwd=tmp_path).finish()
        assert outcome.returncode == 7, outcome
        said.add(outcome.stdout)
        held.append(int(outcome.stderr))
    assert len(said) == 1, said
    assert held[1] < 0.8 * held[0]


def test_starting_takes_no_time(launch_once):
    """The best of five, with a wide margin for a busy machine."""
    script = launch_once.write("print('x')")
    times = []
    for _ in range(5):
        start = time.monotonic()
        assert launch_once(script).returncode == 0
        times.append(time.monotonic() - start)
    print("seconds to run an empty script:", sorted(times))
    assert min(times) < 1.0


def test_an_idle_pool_uses_no_processor(launch):
    run = launch.start(
        program("""
        def main():
            list(futures.map(abs, range(1000)))
            print("ready", flush=True)
            time.sleep(1.5)
        """),
        n=4,
    )
    run.wait_for("ready")
    time.sleep(0.2)

    def used():
        fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in run.members()]
        return sum(int(row[11]) + int(row[12]) for row in fields) / os.sysconf("SC_CLK_TCK")

    before = used()
    time.sleep(1)
    seconds = used() - before
    assert run.finish().returncode == 0
    assert seconds <= 0.03


SPOILED = {
    "a message that is not a worker's": 'runtime.emit(scoop_lite.message("KILL", runtime.rank, 1, b"{}"))',
    "a message cut short": 'runtime.emit(scoop_lite.message("HUNGRY", runtime.rank, 1, b"!"))',
}


@pytest.mark.parametrize("what", SPOILED)
def test_a_worker_that_breaks_the_protocol_is_ended_and_its_task_runs_elsewhere(launch, what, tmp_path):
    outcome = launch(program("""
        def spoil(marker):
            runtime = scoop_lite._state["runtime"]
            if runtime.rank and not os.path.exists(marker):
                open(marker, "w").close()
                SPOIL
                time.sleep(60)
            return runtime.rank

        def main():
            marker = sys.argv[1]
            ranks = [away(spoil, marker).result() for _ in range(3)]
            return [os.path.exists(marker), ranks]
    """.replace("SPOIL", SPOILED[what])), n=3, args=[tmp_path / "spoiled"])
    assert outcome.returncode == 0 and outcome.facts[0], outcome
    assert re.search(r"worker [12] broke the protocol: ", outcome.stderr) and "starting another" in outcome.stderr


def test_workers_that_retire_cost_no_task_for_all_and_no_life(facts):
    got = facts(
        """
        def pid(_):
            time.sleep(0.005)
            return os.getpid()

        def main():
            pids, ranks = set(), []
            for _ in range(25):
                pids.update(futures.map(pid, range(12)))
                everywhere = futures.run_on_all(pid, None)  # waits for workers that are being started
                pids.update(everywhere.values())
                ranks.append(sorted(everywhere))
            return len(pids), ranks
        """,
        n=4, options=["--max-tasks-per-child", "1"],
    )  # fmt: skip
    assert got[0] > 50 and got[1] == [[0, 1, 2, 3]] * 25


# ---------------------------------------------------------------------------------------------------------------------
# Signals that the script handles itself
# ---------------------------------------------------------------------------------------------------------------------

#: A handler that leaves the script's wait, in each form in which handlers come.
LEAVES = """
class Enough(BaseException):
    pass

def stop(number, frame):
    signal.signal(number, signal.SIG_IGN)
    raise Enough

class Stops:
    def __call__(self, *told):
        signal.signal(told[0], signal.SIG_IGN)
        raise Enough

    def stop(self, number, frame):
        stop(number, frame)

HANDLERS = stop, lambda *told: stop(*told), Stops(), Stops().stop, functools.partial(Stops.stop, None)

def signals(_=None):
    time.sleep(0.02)
    os.kill(os.getpid(), signal.SIGUSR1)
    time.sleep(0.3)

def parent(_=None):
    return futures.submit(signals).result()

def idle():
    threading.Timer(0.1, signals).start()
    shared.getConst("never", timeout=20) or scoop_lite.IS_RUNNING or time.sleep(20)

def wait(*tasks):
    futures.wait(tasks)

def main():
    got = []
    for handler, task in zip(HANDLERS, itertools.cycle((signals, parent))):
        for call in (lambda: wait(futures.submit(task)), lambda: futures.submit(task).result(), idle,
                     lambda: list(futures.map(task, range(3)))):
            signal.signal(signal.SIGUSR1, handler)
            try:
                call()
                got.append("not left")
            except Enough:
                got.append(sum(futures.map(abs, range(10))))
    return got
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no such signals")
def test_what_a_handler_of_the_scripts_own_raises_comes_out_of_its_wait(launch_once, launch):
    """Be it that a task runs here then, or nothing; and the script may go on."""
    assert facts_with(launch, LEAVES, n=1) == [45] * 20
    if "thread" in launch.options:
        launch_once.write("raise ImportError", "greenlet.py")
    serial = launch_once.serial(program(LEAVES))
    assert serial.facts == [45] * 20, serial


SAVES = """
def slow(i):
    time.sleep(0.2)
    print("ran", flush=True)

def save(number, frame):
    print("saved", flush=True)
    sys.exit(int(sys.argv[1]))

def main():
    signal.signal(signal.SIGTERM, save)
    tasks = [futures.submit(slow, i) for i in range(6)]
    if sys.argv[2] == "wait":
        futures.wait(tasks)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no such signals")
@pytest.mark.parametrize("wait", ["wait", "end"])
@pytest.mark.parametrize("code", [0, 3])
@pytest.mark.parametrize("n", [1, 3])
def test_a_script_may_save_what_it_has_and_leave_when_it_is_asked_to_end(launch, n, code, wait):
    run = launch.start(program(SAVES), n=n, args=[str(code), wait])
    run.wait_for("ran")
    run.signal(signal.SIGTERM)
    outcome = run.finish()
    assert (outcome.returncode, outcome.stderr) == (code, "") and outcome.stdout.count("saved") == 1, outcome
