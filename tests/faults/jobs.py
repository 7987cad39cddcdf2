"""Starting a run of the launcher, watching it from outside, and proving that nothing of it is left."""
from __future__ import annotations

import collections
import os
import pathlib
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import uuid
from typing import Dict, List, NamedTuple, Optional, Sequence, Set

from faults import processes
from faults.processes import Process, wait_until

ROOT = pathlib.Path(__file__).resolve().parents[2]
LAUNCHER = ROOT / "scoop_lite.py"
TOOLKIT = pathlib.Path(__file__).resolve().parent / "inside" / "toolkit.py"
STARTER = pathlib.Path(__file__).resolve().parent / "starter.py"

#: Liveness five times as quick as by default, so that the suite is; the soak runs at full length.
QUICK = ("--heartbeat", "0.2", "--dead-after", "1")
DEAD_AFTER_S = 1.0

#: Where programs put temporary things; each run has its own, below its directory.
PLACES = ("tmp", "runtime")

#: Each program begins with this. ``origin`` is the stage that tells the test which process runs the script.
PREAMBLE = """\
import collections, itertools, os, signal, sys, threading, time
from toolkit import *
import scoop_lite
from scoop_lite import futures, shared
if __name__ == "__main__":
    reach("origin")
"""


class Line(NamedTuple):
    """One line of the ledger: what happened, to which task, where, when."""

    kind: str
    key: str
    pid: int
    host: str
    time_s: float


class Outcome(NamedTuple):
    """How a run ended. ``status`` is negative for a death by signal, as subprocess has it."""

    status: int
    out: str
    err: str

    @property
    def shell_status(self) -> int:
        """The status as a shell shows it: 128 + the signal for a death by signal."""
        return 128 - self.status if self.status < 0 else self.status


class Job:
    """One run of the launcher.

    The program's text follows PREAMBLE, and toolkit.py is put beside it. The launcher gets a session of its own,
    standard output and error go to files (so that nothing left behind can block the test), TMPDIR is a directory of
    the run, and a word in the environment marks every process.

    Args:
        directory: an empty directory of the test.
        program: the script's text, indented as the test likes.
        options: options of the launcher.
        hosts: names of stand-in hosts (see starter.py) to run on, the origin's first.
        arguments: arguments of the script.
        environment: additions to the environment.
        before: words before the interpreter (``unshare …``), which must end in an exec.
        limits: resource limits of the launcher, {resource: value}.
        script: where to put the script, instead of in the directory.
        cwd: the working directory, instead of the directory.
        file: the scoop_lite.py to test.
        as_module: whether to run it as `python -m scoop_lite`.
    """

    def __init__(self, directory, program: str, options: Sequence[str] = (), hosts: Sequence[str] = (),
                 arguments: Sequence[str] = (), environment: Optional[Dict[str, str]] = None,
                 before: Sequence[str] = (), limits: Optional[Dict[int, int]] = None, script=None, cwd=None,
                 file=LAUNCHER, as_module: bool = False) -> None:
        self.directory = pathlib.Path(directory)
        self.mark = "FAULT_RUN=" + uuid.uuid4().hex
        self.seen: Set[Process] = set()
        self.hosts = list(hosts)
        self.limits = dict(limits or {})
        for name in PLACES:
            (self.directory / name).mkdir(parents=True, exist_ok=True)
        self.script = pathlib.Path(script) if script else self.directory / "program.py"
        self.script.write_text(PREAMBLE + textwrap.dedent(program), encoding="utf-8")
        shutil.copy(str(TOOLKIT), str(self.script.parent))
        self.before_shm = shared_memory_files()
        places = hosts_options(self.directory, hosts) if hosts else []
        ours = ["-m", "scoop_lite"] if as_module else [str(file)]
        self.words = [*before, sys.executable, *ours, *places, *options, str(self.script), *arguments]
        environment = dict(environment or {})
        if as_module:
            paths = [str(pathlib.Path(file).parent), environment.get("PYTHONPATH", "")]
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        self.process = self._start(environment, cwd or self.directory)

    def _start(self, additions: Dict[str, str], cwd) -> subprocess.Popen:
        name, _, value = self.mark.partition("=")
        environment = {key: word for key, word in os.environ.items()
                       if not (key.startswith("PYTHON") or key.endswith("_NUM_THREADS"))}
        environment.update({name: value, "FAULT_DIR": str(self.directory), "TMPDIR": str(self.directory / "tmp"),
                            "XDG_RUNTIME_DIR": str(self.directory / "runtime")})
        environment.update(additions)
        with open(self.directory / "out", "wb") as out, open(self.directory / "err", "wb") as err:
            return subprocess.Popen(self.words, stdin=subprocess.DEVNULL, stdout=out, stderr=err, cwd=str(cwd),
                                    env=environment, start_new_session=True, preexec_fn=self._limit)

    def _limit(self) -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for what, value in self.limits.items():
            resource.setrlimit(what, (value, value))

    def __enter__(self) -> Job:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.process.kill()
        for left in self.processes():
            left.kill()
        self.process.wait(10)

    # What the program and the test tell each other

    def reached(self, stage: str, within_s: float = 20) -> int:
        """Wait until the program has got to a stage; return the process that did.

        Raises:
            AssertionError: it did not, or the run ended first.
        """
        path = self.directory / ("stage-" + stage)
        wait_until(lambda: path.exists() or self.process.poll() is not None, within_s,
                   lambda: "stage %r; %s" % (stage, self))
        assert path.exists(), "the run ended before stage %r: %s" % (stage, self)
        return int(path.read_text(encoding="ascii"))

    def has_reached(self, stage: str) -> bool:
        """Tell whether the program has got to a stage."""
        return (self.directory / ("stage-" + stage)).exists()

    def give(self, sign: str) -> None:
        """Give the program a sign that it waits for."""
        (self.directory / ("sign-" + sign)).touch()

    def ledger(self, kind: Optional[str] = None) -> List[Line]:
        """Return the ledger so far, or its lines of one kind."""
        try:
            text = (self.directory / "ledger").read_text(encoding="ascii")
        except FileNotFoundError:
            return []
        rows = [row.split(" ") for row in text.split("\n")[:-1]]
        lines = [Line(row[0], row[1], int(row[2]), row[3], float(row[4])) for row in rows]
        return [line for line in lines if kind is None or line.kind == kind]

    def runs(self, kind: str = "run") -> Dict[str, int]:
        """Return how often each task was started."""
        return collections.Counter(line.key for line in self.ledger(kind))

    def noted(self, kind: str, count: int = 1, within_s: float = 20) -> List[Line]:
        """Wait until the ledger has so many lines of a kind; return them."""
        wait_until(lambda: len(self.ledger(kind)) >= count or self.process.poll() is not None, within_s,
                   lambda: "%d lines %r in the ledger; %s" % (count, kind, self))
        lines = self.ledger(kind)
        assert len(lines) >= count, "the run ended with %d of %d %r: %s" % (len(lines), count, kind, self)
        return lines

    # Its processes

    @property
    def launcher(self) -> int:
        """The launcher's process id."""
        return self.process.pid

    @property
    def origin(self) -> int:
        """The id of the process that runs the script."""
        return self.reached("origin")

    def agent(self, host: str = "") -> int:
        """Return the agent of this machine, or of a stand-in host."""
        below = processes.children(self.starter(host)) if host else processes.children(self.launcher)
        assert below, "%s has no agent; %s" % (host or "the launcher", self)
        while is_shell(below[0]):
            below = processes.children(below[0])
        return below[0]

    def starter(self, host: str) -> int:
        """Return the process that stands for the ssh to a host."""
        for child in processes.children(self.launcher):
            words = processes.command(child)
            if str(STARTER) in words and words[words.index("--") + 1] == host:
                return child
        raise AssertionError("no starter of host %r below the launcher; %s" % (host, self))

    def workers(self, host: str = "") -> List[int]:
        """Return the workers of this machine, or of a stand-in host, the origin among them."""
        self.processes()
        return processes.children(self.agent(host))

    def others(self, host: str = "") -> List[int]:
        """Return the workers that are not the origin."""
        return [pid for pid in self.workers(host) if pid != self.origin]

    def processes(self) -> Set[Process]:
        """Return every living process of the run, wherever it hangs now."""
        below = processes.processes_of(processes.descendants(self.launcher))
        self.seen |= processes.carrying(self.mark) | set(below)
        return {p for p in self.seen if p.exists() and p.pid != self.launcher}

    # Its end

    def finish(self, within_s: float = 30) -> Outcome:
        """Wait for the launcher's end; return how it ended.

        Raises:
            AssertionError: it hangs.
        """
        try:
            status = self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            raise AssertionError("the run hangs after %s s: %s" % (within_s, self)) from None
        return Outcome(status, self.output("out"), self.output("err"))

    def right(self, expected: object, within_s: float = 30) -> Outcome:
        """Wait for the end of a run that must be right, print what is expected, and leave nothing."""
        outcome = self.finish(within_s)
        assert outcome.status == 0, str(self)
        assert outcome.out.strip() == str(expected), str(self)
        self.clean()
        return outcome

    def output(self, name: str) -> str:
        """Return what is on standard output (``out``) or error (``err``) so far."""
        return (self.directory / name).read_bytes().decode("utf-8", "replace")

    def clean(self, within_s: float = 2) -> float:
        """Prove that nothing is left: no process, no socket file, no temporary file. Return the seconds until then."""
        wait = wait_until(lambda: self.process.poll() is not None and not self.processes(), within_s,
                          lambda: "all processes gone; left: %s; %s" % (self.leftovers(), self), every_s=0.02)
        wait_until(lambda: not self.files(), 1, lambda: "no file left: %s" % self.files())
        return wait

    def leftovers(self) -> List[str]:
        """Return what is left, for people to read."""
        return ["%d %s" % (p.pid, " ".join(processes.command(p.pid))[:150]) for p in self.processes()]

    def files(self) -> List[str]:
        """Return the files that the run has left in the places for such files."""
        found = [str(path) for name in PLACES for path in (self.directory / name).rglob("*")]
        return found + sorted(shared_memory_files() - self.before_shm)

    def __str__(self) -> str:
        tree = ["%d %s" % (pid, " ".join(processes.command(pid))[:100]) for pid in processes.descendants(self.launcher)]
        return "\n".join(["status %s" % self.process.poll(), "command: " + shlex.join(self.words), "processes:", *tree,
                          "ledger (end):", *map(str, self.ledger()[-8:]), "standard output:",
                          self.output("out")[-2000:], "standard error:", self.output("err")[-4000:]])


def is_shell(pid: int) -> bool:
    """Tell whether a process is the shell of a starter."""
    return os.path.basename(os.path.realpath("/proc/%d/exe" % pid)) in ("sh", "dash", "bash")


def shared_memory_files() -> Set[str]:
    """Return the files in shared memory that look like ours."""
    try:
        return {"/dev/shm/" + name for name in os.listdir("/dev/shm") if "scoop" in name}
    except OSError:
        return set()


def stop(pids: Sequence[int]) -> None:
    """Stop processes, as a debugger or a tired machine would."""
    for pid in pids:
        processes.send(pid, signal.SIGSTOP)


def resume(pids: Sequence[int]) -> None:
    """Let stopped processes go on."""
    for pid in pids:
        processes.send(pid, signal.SIGCONT)


def order_link(job: Job, host: str, order: str) -> None:
    """Tell the link of a stand-in host what to do from now on (see starter.py)."""
    with open(job.directory / ("link-" + host), "a", encoding="ascii") as file:
        file.write(order + "\n")
    time.sleep(0.05)


def hosts_options(directory, hosts: Sequence[str]) -> List[str]:
    """Return the options that run a job on stand-in hosts."""
    words = [sys.executable, str(STARTER), str(directory), "--"]
    return ["--hosts", *hosts, "--launcher", " ".join(map(shlex.quote, words)) + " {host}"]
