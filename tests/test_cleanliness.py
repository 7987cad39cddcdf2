"""Nothing is left behind: no process, no file, no socket, however a run ends.

That no process is left is also checked after each launch of every other test.
"""

from __future__ import annotations

import functools
import os
import random
import shutil
import signal
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import pytest
from conftest import program

LISTENING = "0A"  #: state of a TCP socket, /proc/net/tcp
ACCEPTS = 0x10000  #: flag of a Unix socket that listens, /proc/net/unix

BUSY = {
    "sleeping": "time.sleep(60)",
    "computing": "[None for _ in iter(int, 1)]",
    "holding the GIL": "sum(range(10 ** 11))",
    "ignoring signals": "[signal.signal(s, signal.SIG_IGN) for s in (1, 2, 15)], time.sleep(60)",
    "waiting": "futures.submit(time.sleep, 60).result()",
    "with a child": "__import__('subprocess').call(['sleep', '60'])",
}


def busy_program(what):
    return program(f"""
        def busy(i):
            record("busy")
            {what}

        def main():
            tasks = [futures.submit(busy, i) for i in range(6)]
            while not os.path.exists(os.environ["LEDGER"]):
                time.sleep(0.01)
            try:
                print("ready", flush=True)
                time.sleep(60)
            finally:
                print("finally", flush=True)
    """)


@pytest.fixture
def scratch(tmp_path):
    """A short TMPDIR and HOME of the run's own, to see what it leaves in them."""
    directory = Path(tempfile.mkdtemp(prefix="sl"))
    for name in ("tmp", "home"):
        (directory / name).mkdir()
    yield directory
    shutil.rmtree(directory)


def surroundings(scratch):
    return {
        "TMPDIR": str(scratch / "tmp"),
        "HOME": str(scratch / "home"),
        "XDG_RUNTIME_DIR": str(scratch / "tmp"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def files_left(launch, scratch):
    ours = {launch.directory / "program.py", launch.ledger_path}
    places = [scratch, launch.directory]
    found = [path for place in places for path in place.rglob("*") if not path.is_dir() and path not in ours]
    return found + shared_memory()


def shared_memory():
    """Entries of this system's shared memory that look like ours."""
    place = Path("/dev/shm")
    return [path for path in place.iterdir() if "scoop" in path.name] if place.is_dir() else []


def sockets_of(pids):
    """Inodes of the sockets that the processes have open."""
    inodes = set()
    for pid in pids:
        try:
            links = [os.readlink(entry.path) for entry in os.scandir(f"/proc/{pid}/fd")]
        except OSError:  # it has ended meanwhile, or the file was closed while we looked
            continue
        inodes.update(link[8:-1] for link in links if link.startswith("socket:["))
    return inodes


def listening(pids):
    """Lines of /proc/net that show one of these processes listening, or a socket with a name."""
    inodes = sockets_of(pids)
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[9] in inodes and fields[3] == LISTENING:
                found.append(f"{table} {line}")
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[6] in inodes and (int(fields[3], 16) & ACCEPTS or len(fields) > 7):
            found.append(f"unix {line}")
    return found


def other_sockets(pids):
    """Sockets that are neither TCP nor Unix ones: UDP, raw, packet."""
    inodes = sockets_of(pids)
    tables = [Path("/proc/net") / name for name in ("udp", "udp6", "raw", "packet", "netlink")]
    return [f"{table.name} {line}" for table in tables if table.exists() for line in table.read_text().splitlines()[1:]
            if inodes & set(line.split())]  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# Files and sockets
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["success", "failure", "interrupt", "launcher killed"])
def test_no_file_is_left(launch, scratch, end):
    run = launch.start(
        program("""
        def main():
            shared.setConst(answer=42)
            print(sum(futures.map(abs, range(1000))), flush=True)
            away(abs, -1).result()
            if os.environ["END"] == "success":
                return 0
            if os.environ["END"] == "failure":
                raise LookupError
            futures.submit(time.sleep, 60)
            print("ready", flush=True)
            time.sleep(60)
        """),
        n=3,
        env={**surroundings(scratch), "END": end},
    )
    if end == "interrupt":
        run.wait_for("ready")
        run.signal_group(signal.SIGINT)
    elif end == "launcher killed":
        run.wait_for("ready")
        run.signal(signal.SIGKILL)
    outcome = run.finish(settle_s=5)
    assert "499500" in outcome.stdout
    assert (outcome.returncode == 0) == (end == "success")
    assert files_left(launch, scratch) == []


def test_the_own_engine_never_listens(launch, combo, scratch):
    """Looked at again and again, from the start to the end of a run."""
    if not combo.startswith("own"):
        pytest.skip("the own engine is the one that opens no port")
    run = launch.start(
        program("""
        def work(i):
            time.sleep(0.01)
            return bytes(100_000)

        def main():
            shared.setConst(answer=42)
            return sum(map(len, futures.map(work, range(150))))
        """),
        n=3,
        env=surroundings(scratch),
    )
    n_looks, n_processes = 0, 0
    while run.process.poll() is None:
        pids = run.members()
        assert listening(pids) + other_sockets(pids) == []
        assert not [path for path in scratch.rglob("*") if path.is_socket() or path.is_fifo()]
        n_looks += 1
        n_processes = max(n_processes, len(pids))
        time.sleep(0.01)
    outcome = run.finish()
    assert outcome.returncode == 0, outcome
    assert n_looks > 3 and n_processes >= 4


def test_the_zmq_engine_listens_to_this_host_alone(launch, combo, scratch):
    """On one machine its socket is no business of any other."""
    if not combo.startswith("zmq"):
        pytest.skip("about the zmq engine")
    run = launch.start(busy_program(BUSY["sleeping"]), env=surroundings(scratch))
    run.wait_for("ready")
    tables = [line.split() for line in listening(run.members()) if line.startswith("tcp")]
    run.signal_group(signal.SIGINT)
    run.finish(settle_s=5)
    local = ("0100007F", "00000000000000000000000001000000")
    assert [row[2] for row in tables if row[2].split(":")[0] not in local] == []
    assert files_left(launch, scratch) == []


def test_secrets_are_in_no_command_line_and_no_environment(launch, combo):
    """What the processes show to anybody who asks for their command lines is what the user typed."""
    run = launch.start(busy_program(BUSY["sleeping"]), n=3)
    run.wait_for("ready")
    allowed = set(map(os.fsencode, map(str, run.process.args)))
    for pid in run.members():
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        strange = [word for word in words if word and word not in allowed and len(word) >= 32]
        assert strange == []
        names = {entry.split(b"=")[0] for entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")}
        assert not [name for name in names if b"KEY" in name.upper() and name not in map(os.fsencode, os.environ)]
    run.signal_group(signal.SIGINT)
    run.finish(settle_s=5)


# ---------------------------------------------------------------------------------------------------------------------
# Interrupts
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("whom", ["group", "launcher"])
@pytest.mark.parametrize("what", BUSY)
def test_interrupt(launch_once, whom, what):
    run = launch_once.start(busy_program(BUSY[what]), n=3)
    run.wait_for("ready")
    time.sleep(0.1)
    start = time.monotonic()
    (run.signal_group if whom == "group" else run.signal)(signal.SIGINT)
    outcome = run.finish(settle_s=2)
    assert time.monotonic() - start < 5
    assert outcome.returncode in (130, -signal.SIGINT), outcome
    assert outcome.stdout == "ready\nfinally\n", "the script's own `finally` blocks run"
    assert "KeyboardInterrupt" in outcome.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_agent_that_does_not_answer_holds_up_no_end(launch_once, number):
    """It may compile a big script, or read it from a disk that is gone; here it is stopped."""
    run = launch_once.start(
        program("""
        def main():
            os.kill(os.getppid(), signal.SIGSTOP)
            print("ready", flush=True)
            time.sleep(60)
        """),
        n=3,
    )
    run.wait_for("ready")
    start = time.monotonic()
    for _ in range(2):
        run.signal(number)
        time.sleep(0.2)
    outcome = run.finish(settle_s=2)
    assert time.monotonic() - start < 5
    assert outcome.returncode == 128 + number, outcome


@pytest.mark.parametrize("backend", ["own", "loopback"])
def test_exit_functions_may_take_longer_than_a_host_may_be_silent(launch_once, backend):
    """The launcher, which would wait for 30 s of silence, is told to wait for a half."""
    script = launch_once.write("""
        import atexit, time
        if __name__ == "__main__":
            atexit.register(lambda: (time.sleep(1.5), print("last")))
    """)
    words = ["-n", "2", "--backend", backend, str(script)]
    code = f"import scoop_lite; scoop_lite.END_S = 0.5; scoop_lite.main({words})"
    outcome = launch_once.run(["-c", code], env={"PYTHONPATH": str(launch_once.file.parent)}).finish()
    assert (outcome.returncode, outcome.stdout, outcome.stderr) == (0, "last\n", ""), outcome


@pytest.mark.parametrize("whom", ["group", "launcher"])
def test_interrupt_in_each_combination(launch, whom):
    run = launch.start(
        program("""
        def pause(i):
            time.sleep(0.02)
            return i

        def main():
            try:
                print("ready", flush=True)
                list(futures.map(pause, itertools.count()))
            finally:
                print("finally", flush=True)
        """),
        n=3,
    )
    run.wait_for("ready")
    time.sleep(0.3)
    start = time.monotonic()
    (run.signal_group if whom == "group" else run.signal)(signal.SIGINT)
    outcome = run.finish(settle_s=2)
    assert time.monotonic() - start < 5
    assert outcome.returncode in (130, -signal.SIGINT), outcome
    assert outcome.stdout == "ready\nfinally\n"
    assert outcome.stderr.count("\nKeyboardInterrupt") == 1, outcome


def test_a_script_may_survive_an_interrupt(launch):
    """Caught, it is over; what was not yet done can go on."""
    run = launch.start(
        program("""
        def pause(i):
            time.sleep(0.02)
            return i

        def main():
            try:
                print("ready", flush=True)
                list(futures.map(pause, range(1000)))
            except KeyboardInterrupt:
                print("caught", flush=True)
            return sum(futures.map(pause, range(50)))
        """)
    )
    run.wait_for("ready")
    time.sleep(0.3)
    run.signal_group(signal.SIGINT)
    outcome = run.finish(settle_s=2)
    assert (outcome.returncode, outcome.stdout) == (0, f"ready\ncaught\n{sum(range(50))}\n"), outcome


@pytest.mark.skipif(not hasattr(signal, "SIGCHLD"), reason="there is no SIGCHLD here")
def test_who_ignores_the_ends_of_children_hears_how_a_job_ended(launch):
    """The launcher inherits that."""
    ignore = functools.partial(signal.signal, signal.SIGCHLD, signal.SIG_IGN)
    program = "from scoop_lite import futures\nif __name__ == '__main__': print(list(futures.map(abs, [-1] * 9)))\n"
    outcome = launch(program, preexec_fn=ignore)
    assert (outcome.returncode, outcome.stdout, outcome.stderr) == (0, f"{[1] * 9}\n", ""), outcome


def test_a_task_that_was_waited_for_is_done_when_an_interrupt_has_ended_it(launch):
    """Its `result` ran it in the script's own thread; who asks again must not wait for ever."""
    run = launch.start(
        program("""
        def nap():
            print("ready", flush=True)
            time.sleep(20)

        def main():
            task = futures.submit(nap)
            try:
                task.result()
            except KeyboardInterrupt:
                pass
            waited = futures.wait([task], timeout=5)
            return [task.done(), task.running(), len(waited.done), type(task.exception(timeout=5)).__name__]
        """), n=1)  # fmt: skip
    run.wait_for("ready")
    time.sleep(0.2)
    run.signal_group(signal.SIGINT)
    outcome = run.finish(settle_s=2)
    assert (outcome.returncode, outcome.facts) == (0, [True, False, 1, "KeyboardInterrupt"]), outcome


NAP = """
def nap(i):
    record("run", scoop_lite.worker)
    try:
        time.sleep(20 if scoop_lite.worker else 0.01)
    finally:
        record("finally", scoop_lite.worker)

"""


def interrupted_in_a_nap(launch, main):
    """Run a program with this `main`; interrupt it once another worker naps; return its outcome."""
    run = launch.start(program(NAP + textwrap.dedent(main)))
    deadline = time.monotonic() + 10
    while launch.ledger["run 1"] == 0 and time.monotonic() < deadline:
        time.sleep(0.05)
    run.signal_group(signal.SIGINT)
    return run.finish(settle_s=2)


@pytest.mark.parametrize("wait", [
    "list(futures.map(nap, range(500)))", "futures.wait([futures.submit(nap, i) for i in range(500)])"])  # fmt: skip
def test_tasks_elsewhere_run_their_finally_blocks_when_an_interrupt_ends_the_script(launch, wait):
    outcome = interrupted_in_a_nap(launch, f"""
        def main():
            {wait}
    """)  # fmt: skip
    assert outcome.returncode == 128 + signal.SIGINT, outcome
    assert launch.ledger["run 1"] == launch.ledger["finally 1"] == 1, (outcome, launch.ledger)


def test_an_interrupt_that_ends_a_map_ends_its_tasks_though_the_script_computes_on(launch):
    outcome = interrupted_in_a_nap(launch, """
        def main():
            try:
                list(futures.map(nap, range(500)))
            except KeyboardInterrupt:
                print("caught", flush=True)
            end = time.monotonic() + 8
            while time.monotonic() < end and "finally 1" not in open(os.environ["LEDGER"]).read():
                time.sleep(0.01)  # without a call of `futures`
            return time.monotonic() < end
    """)  # fmt: skip
    assert (outcome.returncode, outcome.stdout) == (0, "caught\ntrue\n"), outcome


def test_a_script_that_fails_ends_though_something_is_pickled_without_end(launch):
    outcome = launch(program("""
        class Endless:
            def __reduce__(self):
                record("begun")
                time.sleep(60)

        def main():
            futures.submit(len, Endless())
            end = time.monotonic() + 10
            while not os.path.exists(os.environ["LEDGER"]) and time.monotonic() < end:
                time.sleep(0.01)
            raise LookupError("of the script")
    """), timeout=20)  # fmt: skip
    assert outcome.returncode == 1 and "LookupError: of the script" in outcome.stderr, outcome
    assert launch.ledger["begun"] == 1


def test_an_exit_function_can_be_interrupted(launch):
    run = launch.start("""
        import atexit, time
        from scoop_lite import futures
        def last():
            try:
                print("ready", flush=True)  # in here, as the interrupt may come at once
                time.sleep(60)
            except KeyboardInterrupt:
                print("caught", flush=True)
        if __name__ == "__main__":
            print(sum(futures.map(abs, range(10))), flush=True)
            atexit.register(last)
    """)
    run.wait_for("ready")
    run.signal_group(signal.SIGINT)
    outcome = run.finish(settle_s=3)
    assert outcome.stdout == "45\nready\ncaught\n" and not outcome.stderr, outcome


def test_a_script_survives_interrupts_at_any_moment(launch):
    seed = random.randrange(10**6)
    outcome = launch(
        program("""
        def pause(i):
            time.sleep(0.002)
            return i

        def nest(i):
            return sum(future.result() for future in [futures.submit(pause, j) for j in range(3)])

        def main():
            rng = random.Random(int(sys.argv[1]))
            caught = 0
            for turn in range(1, 21):
                timer = threading.Timer(rng.random() * 0.05, os.kill, (os.getpid(), signal.SIGINT))
                try:
                    timer.start()
                    list(futures.map(rng.choice((pause, nest)), range(1000)))
                except KeyboardInterrupt:
                    caught += 1
                timer.join()
                assert caught == turn, (caught, turn)
                n = rng.randrange(2, 30)
                assert list(futures.map(pause, range(n))) == list(range(n))
                assert list(futures.map(nest, range(3))) == [3] * 3
            return caught
        """),
        args=[str(seed)],
    )
    assert outcome.stdout == "20\n" and outcome.returncode == 0, (seed, outcome)


@pytest.mark.parametrize("options", [[], ["--trace", "trace.json"]], ids=["plain", "traced"])
def test_a_task_in_a_thread_goes_on_when_the_script_is_interrupted(launch_once, options):
    """Nobody can interrupt it; when it needs the runtime, or ends, it waits until the script does."""
    run = launch_once.start(
        program("""
        def slow(started):
            print("ready", flush=True)
            end = time.monotonic() + 0.7
            while time.monotonic() < end:
                time.sleep(0.01)
            return futures.submit(abs, started).result()

        def main():
            slow_ones = [futures.submit(slow, i) for i in range(2)]
            try:
                slow_ones[0].result(timeout=60)
            except KeyboardInterrupt:
                print("caught", flush=True)
            return [sum(futures.map(abs, range(50))), *(future.result() for future in slow_ones)]
        """),
        options=["-n", "1", "--strands", "thread", *options],
    )
    run.wait_for("ready")
    time.sleep(0.1)
    run.signal_group(signal.SIGINT)
    outcome = run.finish(settle_s=4)
    assert outcome.stdout == f"ready\ncaught\nready\n[{sum(range(50))}, 0, 1]\n", outcome
    assert outcome.returncode == 0, outcome


@pytest.mark.skipif(not shutil.which("timeout"), reason="needs timeout, of coreutils")
@pytest.mark.parametrize("name", ["INT", "TERM", "HUP"])
def test_timeout_lets_the_script_clean_up(launch_once, name):
    """It sends one signal to the process that it has started, and one to its group: the launcher may get both."""
    script = launch_once.write("""
        import time
        from scoop_lite import futures
        if __name__ == "__main__":
            try:
                futures.submit(print, "ready", flush=True).result()
                time.sleep(60)
            finally:
                time.sleep(0.5)
                print("saved", flush=True)
    """)
    before = ["timeout", "-s", name, "3", sys.executable]
    runs = [launch_once.run([launch_once.file, "-n", "2", script], python=before) for _ in range(4)]
    for run in runs:
        outcome = run.finish(settle_s=3)
        assert outcome.returncode == 124 and outcome.stdout in ("ready\nsaved\n", ""), outcome  # "": it was too slow


def test_a_second_interrupt_ends_a_script_that_will_not(launch_once):
    run = launch_once.start("""
        import time
        from scoop_lite import futures
        total = sum(futures.map(abs, range(10))) if __name__ == "__main__" else 0
        while __name__ == "__main__":
            try:
                print(total, flush=True)
                time.sleep(60)
            except KeyboardInterrupt:
                print("no", flush=True)
    """)
    run.wait_for("45")
    run.signal_group(signal.SIGINT)
    run.wait_for("no")
    time.sleep(0.5)  # two signals at once may be one to the launcher
    start = time.monotonic()
    run.signal_group(signal.SIGINT)
    outcome = run.finish(settle_s=3)
    assert time.monotonic() - start < 5
    assert outcome.returncode in (130, -signal.SIGINT), outcome


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_request_to_end(launch_once, number):
    run = launch_once.start(busy_program(BUSY["computing"]), n=3)
    run.wait_for("ready")
    start = time.monotonic()
    run.signal(number)
    outcome = run.finish(settle_s=2)
    assert time.monotonic() - start < 5
    assert outcome.returncode in (128 + number, -number), outcome


# ---------------------------------------------------------------------------------------------------------------------
# Sudden deaths
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", BUSY)
def test_launcher_killed(launch_once, what):
    if what == "with a child":
        pytest.skip("a child of the user's own is the user's, once nobody is left to end it")
    run = launch_once.start(busy_program(BUSY[what]), n=3)
    run.wait_for("ready")
    time.sleep(0.1)
    run.signal(signal.SIGKILL)
    run.finish(settle_s=5)


def test_launcher_killed_at_any_moment(launch):
    """From the first instant of starting to the last of ending."""
    seed = int(os.environ.get("SCOOP_LITE_TEST_SEED") or random.SystemRandom().randrange(10**6))
    print(f"SCOOP_LITE_TEST_SEED={seed}")
    rng = random.Random(seed)
    script = launch.write(
        program("""
        def main():
            return sum(futures.map(abs, range(20_000)))
        """)
    )
    for _ in range(6):
        run = launch.start(script, n=3)
        time.sleep(rng.uniform(0.0, 0.6))
        run.signal(signal.SIGKILL)
        run.finish(settle_s=5)


def test_interrupted_at_any_moment(launch):
    """Status 130 or, when it was over before, 0; never a trace of ours."""
    seed = int(os.environ.get("SCOOP_LITE_TEST_SEED") or random.SystemRandom().randrange(10**6))
    print(f"SCOOP_LITE_TEST_SEED={seed}")
    rng = random.Random(seed)
    script = launch.write(
        program("""
        def main():
            return sum(futures.map(abs, range(20_000)))
        """)
    )
    for _ in range(6):
        run = launch.start(script, n=3)
        delay_s = rng.uniform(0.0, 0.6)
        time.sleep(delay_s)
        run.signal_group(signal.SIGINT)
        outcome = run.finish(settle_s=2)
        assert outcome.returncode in (0, 1, 130, -signal.SIGINT), (delay_s, outcome)


@pytest.mark.parametrize("which", ["origin", "other"])
def test_a_worker_killed(launch, which):
    """Of the origin: the run fails at once. Of another: the run goes on."""
    run = launch.start(
        program("""
        def whoami(_):
            time.sleep(0.005)
            return os.getpid()

        def main():
            pids = set(futures.map(whoami, range(100)))
            print("pids", os.getpid(), *(pids - {os.getpid()}), "ready", flush=True)
            time.sleep(1)
            return len(list(futures.map(whoami, range(100))))
        """),
        n=2,
    )
    run.wait_for("ready")
    pids = run.output["stdout"].decode().split()[1:-1]
    os.kill(int(pids[0] if which == "origin" else pids[1]), signal.SIGKILL)
    outcome = run.finish(settle_s=5)
    if which == "origin":
        assert outcome.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL) and outcome.seconds < 10, outcome
    else:
        assert outcome.returncode == 0 and outcome.facts == 100, outcome


def test_what_a_task_has_started_ends_with_its_worker(facts_once):
    got = facts_once("""
        import subprocess

        def start():
            record(subprocess.Popen(["sleep", "60"]).pid)
            os.kill(os.getpid(), signal.SIGKILL)

        def lives(pid):
            try:
                with open(f"/proc/{pid}/stat") as file:
                    return file.read().rpartition(")")[2].split()[0] not in "ZX"
            except OSError:
                return False

        def main():
            lost = outcome(away(start).result).split(":")[0]
            pid, limit = open(os.environ["LEDGER"]).read().strip(), time.monotonic() + 5
            while lives(pid) and time.monotonic() < limit:
                time.sleep(0.01)
            return [lost, lives(pid)]
    """, options=["--retries", "0"], stderr=None)  # fmt: skip
    assert got == ["WorkerLost", False]


def test_processes_end_with_the_run_not_later(launch):
    """A hundred short runs in a row leave nobody, and none of them hangs."""
    script = launch.write("print('done')")
    for _ in range(10):
        outcome = launch(script, n=3, timeout=10)
        assert (outcome.returncode, outcome.stdout, outcome.stderr) == (0, "done\n", "")
