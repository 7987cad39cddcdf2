"""What the tests of the public door share.

Every test starts real programs with the launcher, as a user would: in a session of their own, with a hard limit of
time, and with a look at the end whether any process stayed behind. `combo` runs a test with each link engine and each
kind of strand.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from collections import Counter
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
# Who looks for `python3` shall find the Python that runs the tests, also when its environment is not activated.
os.environ["PATH"] = os.path.dirname(sys.executable) + os.pathsep + os.environ.get("PATH", os.defpath)

COMBOS = ("own-greenlet", "own-thread", "zmq-greenlet", "zmq-thread")
QUICK = ("own-greenlet", "zmq-thread")  # each engine and each kind of strand once
PACKAGES = {"zmq": "pyzmq", "greenlet": "greenlet"}

# What a shell ignores for a job in the background, or nohup, would be ignored by all that tests start, too.
for _number, _default in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
    if hasattr(signal, _number) and signal.getsignal(getattr(signal, _number)) is signal.SIG_IGN:
        signal.signal(getattr(signal, _number), _default)

#: In the environment of every process that a test starts: so all of them can be found, whatever session they moved to.
MARKER = "SCOOP_LITE_TEST_RUN"

#: Start of every program that `facts` runs.
PRELUDE = '''\
import collections, functools, itertools, json, operator, os, random, signal, sys, tempfile, threading, time
import scoop_lite
from scoop_lite import futures, shared


def record(*words):
    """Append a line to the execution ledger, in one write, so that the lines of several workers never mix."""
    descriptor = os.open(os.environ["LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, (" ".join(map(str, words)) + "\\n").encode())
    os.close(descriptor)


def away(func, *args, **kwargs):
    """Submit, and stay out of the way until another worker has done it (5 s at most)."""
    future = futures.submit(func, *args, **kwargs)
    limit = time.monotonic() + 5
    while not future.done() and time.monotonic() < limit:
        time.sleep(0.002)
    return future


def outcome(call, *args, **kwargs):
    """What a call returned, or the type and text of what it raised."""
    try:
        return call(*args, **kwargs)
    except BaseException as error:
        return "{}: {}".format(type(error).__name__, error)


'''

EPILOGUE = """

if __name__ == "__main__":
    print(json.dumps(main()))
"""


# ---------------------------------------------------------------------------------------------------------------------
# Combinations of engine and strand
# ---------------------------------------------------------------------------------------------------------------------


#: For tests that leave a process little memory: without a GIL, Python reserves a gigabyte of it ahead.
needs_memory_limit = pytest.mark.skipif("t" in getattr(sys, "abiflags", ""), reason="`ulimit -v` comes too late here")


def program_file(text):
    """Read the path of a copy; from wherever tests run, and whose directory `python -m scoop_lite` can be told."""
    path = Path(text).resolve()
    if path.name != "scoop_lite.py" or not path.exists():
        raise argparse.ArgumentTypeError(f"{text}: there must be such a file, and its name be scoop_lite.py")
    return str(path)


def pytest_addoption(parser):
    parser.addoption("--combos", default="all",
                     help=f"'all', 'quick' ({', '.join(QUICK)}), or some of {', '.join(COMBOS)} with commas between")
    parser.addoption("--limit", type=float, default=30, help="hard limit of most runs of a program, seconds")
    parser.addoption("--file", default=str(CHECKOUT / "scoop_lite.py"), type=program_file,
                     help="the scoop_lite.py to test")  # fmt: skip
    parser.addoption("--run", default="both", choices=["file", "module", "both"],
                     help="what most runs are of: the file, the module (`python -m scoop_lite`), which Python compiles "
                          "once, or both: of the module with ZeroMQ, else of the file")


def missing_package(combo):
    """The package that a combination needs and this Python lacks, or None."""
    for part in combo.split("-"):
        if part in PACKAGES and importlib.util.find_spec(part) is None:
            return PACKAGES[part]
    return None


def as_parameter(combo):
    package = missing_package(combo)
    marks = [pytest.mark.skip(reason=f"{combo}: {package} is not installed")] if package else []
    return pytest.param(combo, id=combo, marks=marks)


def is_of_module(config, engine="own"):
    """Whether a run with that engine is to be of the module, not of the file."""
    wanted = config.getoption("--run")
    return wanted == "module" or wanted == "both" and engine == "zmq"


def pytest_generate_tests(metafunc):
    if "combo" not in metafunc.fixturenames:
        return
    wanted = metafunc.config.getoption("--combos")
    chosen = {"all": COMBOS, "quick": QUICK}.get(wanted) or tuple(wanted.split(","))
    unknown = set(chosen) - set(COMBOS)
    if unknown:
        raise pytest.UsageError(f"--combos: {', '.join(sorted(unknown))} is none of {', '.join(COMBOS)}")
    metafunc.parametrize("combo", [as_parameter(combo) for combo in chosen], indirect=True)


@pytest.fixture
def combo(request):
    """One of COMBOS, "engine-strands"."""
    return request.param


# ---------------------------------------------------------------------------------------------------------------------
# Processes
# ---------------------------------------------------------------------------------------------------------------------


def read_proc(pid, name):
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:  # it has ended meanwhile, or this system has no /proc
        return b""


def stat_of(pid):
    """State letter and session of a process; ("X", 0) when it is gone."""
    fields = read_proc(pid, "stat").rpartition(b")")[2].split()
    return (fields[0].decode(), int(fields[3])) if len(fields) > 3 else ("X", 0)


def processes_of(marker, session):
    """Living processes that carry the marker in their environment or are in the session, oldest first."""
    entries = os.listdir("/proc") if os.path.isdir("/proc") else []
    found = []
    for pid in sorted(int(entry) for entry in entries if entry.isdigit()):
        state, its_session = stat_of(pid)
        if state not in "ZX" and (its_session == session or f"{MARKER}={marker}".encode() in read_proc(pid, "environ")):
            found.append(pid)
    return found


def describe(pid):
    command = read_proc(pid, "cmdline").replace(b"\0", b" ").decode(errors="replace")
    return f"process {pid}, state {stat_of(pid)[0]}: {command}"


class Outcome(subprocess.CompletedProcess):
    """How a run ended: `stdout` and `stderr` as text, `stdout_bytes` and `stderr_bytes`, `seconds`."""

    def __init__(self, args, returncode, stdout_bytes, stderr_bytes, seconds):
        super().__init__(args, returncode, stdout_bytes.decode(errors="replace"), stderr_bytes.decode(errors="replace"))
        self.stdout_bytes = stdout_bytes
        self.stderr_bytes = stderr_bytes
        self.seconds = seconds

    def __repr__(self):
        return f"\n{' '.join(map(str, self.args))}\nstatus {self.returncode} after {self.seconds:.2f} s\n" + "".join(
            f"--- {name}\n{text[-6000:]}\n" for name, text in (("stdout", self.stdout), ("stderr", self.stderr))
        )

    @property
    def facts(self):
        """The JSON value in the last line of the output."""
        return json.loads(self.stdout.splitlines()[-1])


class Run:
    """One command in its own session, with a hard limit of time; ends in `finish`.

    Args:
        stdin: what the command reads: bytes, an open file or descriptor, or nothing.
        popen: more for `subprocess.Popen`; standard output and error are pipes that we read unless given here.
    """

    def __init__(self, command, cwd, env, stdin=None, limit_s=30.0, **popen):
        self.marker = uuid.uuid4().hex
        self.started = time.monotonic()
        self.limit_s = limit_s
        feed = isinstance(stdin, bytes)
        popen["stdin"] = subprocess.PIPE if feed else subprocess.DEVNULL if stdin is None else stdin
        popen.setdefault("stdout", subprocess.PIPE)
        popen.setdefault("stderr", subprocess.PIPE)
        environment = {**env, MARKER: self.marker}
        self.process = subprocess.Popen(command, cwd=cwd, env=environment, start_new_session=True, **popen)
        self.pid = self.process.pid
        self.output = {"stdout": bytearray(), "stderr": bytearray()}
        self.threads = [threading.Thread(target=self._read, args=(name,), daemon=True) for name in self.output]
        if feed:
            self.threads.append(threading.Thread(target=self._write, args=(stdin,), daemon=True))
        for thread in self.threads:
            thread.start()

    def _read(self, name):
        pipe = getattr(self.process, name)
        if pipe is not None:
            for data in iter(lambda: os.read(pipe.fileno(), 65536), b""):
                self.output[name] += data

    def _write(self, data):
        try:
            with self.process.stdin as pipe:
                pipe.write(data)
        except BrokenPipeError:  # a program need not read its input
            pass

    def members(self):
        return processes_of(self.marker, self.pid)

    def wait_for(self, text, name="stdout"):
        """Block until the output holds `text`; fail when the run ends or its time is over first."""
        while text.encode() not in self.output[name]:
            ended = self.process.poll() is not None and not self.threads[0].is_alive()
            if ended or time.monotonic() > self.started + self.limit_s:
                self.fail(f"{text!r} never came to {name}")
            time.sleep(0.005)

    def signal(self, number):
        os.kill(self.pid, number)

    def signal_group(self, number):
        os.killpg(self.pid, number)

    def finish(self, settle_s=1.0):
        """Wait for the end; check that no process is left `settle_s` later.

        Returns:
            An `Outcome`.
        """
        __tracebackhide__ = True
        if not self.ended(max(0.1, self.started + self.limit_s - time.monotonic())):
            self.fail(f"not ended after {self.limit_s} s")
        seconds = time.monotonic() - self.started
        self.expect_nobody(settle_s)
        for thread in self.threads:
            thread.join(5)
        for pipe in filter(None, (self.process.stdout, self.process.stderr)):
            pipe.close()
        return Outcome(self.process.args, self.process.returncode, *map(bytes, self.output.values()), seconds)

    def ended(self, within_s):
        try:
            self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def expect_nobody(self, within_s):
        __tracebackhide__ = True
        limit = time.monotonic() + within_s
        while self.members():
            if time.monotonic() > limit:
                self.fail("left behind: " + "; ".join(map(describe, self.members())))
            time.sleep(0.005)

    def fail(self, reason):
        """End all processes of the run, each with its stacks on standard error, and fail the test."""
        __tracebackhide__ = True
        listing = "\n".join(map(describe, self.members()))
        for pid in reversed(self.members()):  # the launcher last: it carries what the others print
            self._end(pid, signal.SIGABRT)
        time.sleep(0.3)
        self.kill()
        self.process.wait(5)
        outcome = Outcome(self.process.args, self.process.returncode, *map(bytes, self.output.values()), self.limit_s)
        pytest.fail(f"{reason}\n{listing}\n{outcome!r}", pytrace=False)

    def kill(self):
        for pid in self.members():
            self._end(pid, signal.SIGKILL)

    @staticmethod
    def _end(pid, number):
        try:
            os.kill(pid, signal.SIGCONT)
            os.kill(pid, number)
        except ProcessLookupError:  # it was faster
            pass
        time.sleep(0.02)


# ---------------------------------------------------------------------------------------------------------------------
# Launching
# ---------------------------------------------------------------------------------------------------------------------


class Launch:
    """Runs programs with `scoop_lite.py`; called, it waits for the end and returns an `Outcome`."""

    def __init__(self, file, directory, options, limit_s=30.0, as_module=False):
        self.file, self.as_module = Path(file), as_module
        self.directory = directory
        self.options = list(options)
        self.limit_s = limit_s
        self.ledger_path = directory / "ledger"
        self.runs = []

    def environment(self, more=()):
        """This process's environment without what would change a Python or a pool, and with what the tests need."""
        env = {
            name: value
            for name, value in os.environ.items()
            if not (name.startswith("PYTHON") or name.endswith("_THREADS"))
        }
        env.update(LEDGER=str(self.ledger_path), PYTHONFAULTHANDLER="1")
        env.update(more)
        return env

    def write(self, source, name="program.py"):
        path = self.directory / name
        path.write_text(textwrap.dedent(source), encoding="utf-8")
        return path

    def start(self, program, n=2, args=(), options=(), timeout=None, **more):
        """Start the launcher.

        Args:
            program: the source of a script, the path of one, or a list: the words in place of a script.
            n: number of workers; None leaves the option out.
            options: options of ours, before the script.
            args: arguments of the script.
            timeout: hard limit, seconds; without it, the one of the command line.
            more: see `run`.
        """
        if isinstance(program, str):
            program = self.write(program)
        words = list(program) if isinstance(program, (list, tuple)) else [program]
        count = [] if n is None else ["-n", str(n)]
        ours = ["-m", "scoop_lite"] if self.finds_module(more) else [self.file]
        return self.run([*ours, *count, *self.options, *options, *words, *args], timeout, **more)

    def finds_module(self, how):
        """Whether a run is to be of the module: then, have it found there."""
        if not self.as_module or "python" in how:  # which may ignore the environment
            return False
        env = dict(how.get("env", {}))
        path = [str(self.file.parent), *filter(None, [env.get("PYTHONPATH")])]
        how["env"] = {**env, "PYTHONPATH": os.pathsep.join(path)}
        return True

    def run(self, words, timeout=None, python=(sys.executable,), env=(), cwd=None, **more):
        """Start a Python with these words; `more` goes to `Run` and `subprocess.Popen`."""
        command = [*python, *words]
        run = Run(command, cwd or self.directory, self.environment(env), limit_s=timeout or self.limit_s, **more)
        self.runs.append(run)
        return run

    def __call__(self, program, **how):
        return self.start(program, **how).finish()

    def plain(self, program, args=(), **how):
        """What the same Python does with the program without us."""
        if isinstance(program, str):
            program = self.write(program)
        words = list(program) if isinstance(program, (list, tuple)) else [program]
        self.finds_module(how)  # as with us
        return self.run([*words, *args], **how).finish()

    def serial(self, program, **how):
        """The program run without the launcher, with `scoop_lite` on the path."""
        env = {"PYTHONPATH": str(self.file.parent), **dict(how.pop("env", {}))}
        return self.plain(program, env=env, **how)

    @property
    def ledger(self):
        """How often each line was written by `record`."""
        return Counter(self.ledger_path.read_text().splitlines() if self.ledger_path.exists() else [])


def launcher_for(request, directory, options, as_module):
    option = request.config.getoption
    launch = Launch(option("--file"), directory, options, option("--limit"), as_module)
    yield launch
    for run in launch.runs:
        run.kill()


@pytest.fixture
def launch(request, tmp_path, combo):
    """Launches with each combination of engine and strand."""
    engine, strands = combo.split("-")
    options = ["--backend", engine, "--strands", strands]
    yield from launcher_for(request, tmp_path, options, is_of_module(request.config, engine))


@pytest.fixture
def launch_once(request, tmp_path):
    """Launches with what the launcher chooses by itself, for what no engine and no strand can change."""
    yield from launcher_for(request, tmp_path, [], is_of_module(request.config))


def facts_with(launch, body, stderr="", **how):
    """Run PRELUDE + body + EPILOGUE and return the value of the program's `main()`; `stderr` None allows any."""
    __tracebackhide__ = True
    outcome = launch(program(body), **how)
    if outcome.returncode != 0 or stderr not in (None, outcome.stderr):
        pytest.fail(f"expected status 0 and standard error {stderr!r}{outcome!r}", pytrace=False)
    return outcome.facts


def program(body):
    return PRELUDE + textwrap.dedent(body) + EPILOGUE


@pytest.fixture
def facts(launch):
    """Runs a program given as the text of its functions, of which `main()` returns facts that JSON can carry."""

    def run(body, **how):
        __tracebackhide__ = True
        return facts_with(launch, body, **how)

    return run


@pytest.fixture
def facts_once(launch_once):
    def run(body, **how):
        __tracebackhide__ = True
        return facts_with(launch_once, body, **how)

    return run
