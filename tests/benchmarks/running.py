"""Runs one program under a hard time limit, answers its questions about its own processes, and leaves nothing behind.

Every process that a run starts, however it detaches itself, inherits an environment variable with the run's own value:
that is how they are found, measured and, at the end, killed. The program tells its results through a UNIX socket,
because launchers differ in what they do to standard output and to inherited descriptors.
"""

from __future__ import annotations

import json
import os
import pathlib
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import uuid

MARK = "SCOOP_LITE_BENCHMARK_RUN"
JOB = "SCOOP_LITE_BENCHMARK_JOB"
EXIT_LIMIT_S = 20       # a program that has told its result may take this long to stop its processes
FAILED_LIMIT_S = 2      # and one that has told its failure, this long
SAMPLE_S = 0.02         # between two looks at the memory of all processes


def read_text(path):
    """Return a file's bytes, or nothing when its process has just ended."""
    try:
        return pathlib.Path(path).read_bytes()
    except OSError:
        return b""


def marked_processes(value):
    """Return the ids of all living processes that carry this run's mark."""
    needle = ("%s=%s" % (MARK, value)).encode()
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()
            and needle in read_text("/proc/%s/environ" % entry)]


def cpu_ns(pid):
    """Return the CPU time a process has used, its ended threads included, in nanoseconds."""
    try:
        return time.clock_gettime_ns((~pid << 3) | 2)       # the clock that clock_getcpuclockid(3) names
    except OSError:
        return 0


def memory(pid):
    """Return a process's proportional share of memory: all of it, and the anonymous part, in bytes."""
    fields = dict(line.split(b":", 1) for line in read_text("/proc/%d/smaps_rollup" % pid).splitlines()[1:])
    return tuple(1024 * int(fields.get(name, b"0 kB").split()[0]) for name in (b"Pss", b"Pss_Anon"))


def shared_memory():
    """Return the bytes of shared memory in use on this machine: tmpfs and memory files, mapped or not."""
    lines = read_text("/proc/meminfo").splitlines()
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith(b"Shmem:"))


def parent(pid):
    """Return the id of a process's parent."""
    return int((read_text("/proc/%d/stat" % pid).rpartition(b")")[2].split() or [0, 0])[1])


class Run:
    """One run of one program.

    Args:
        command: Words of the command.
        environment: Variables on top of this process's own.
        job: What the program finds as JSON in the file that `SCOOP_LITE_BENCHMARK_JOB` names.
        limit_s: When to call it hung.
    """

    def __init__(self, command, environment, job, limit_s):
        self.value = uuid.uuid4().hex
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="slb-"))
        self.deadline = time.monotonic() + limit_s
        self.limit_s = limit_s
        self.result = None
        self.failure = ""
        self.note = ""
        self.peak = None        # highest memory seen while watching
        self.buffer = b""
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind(str(self.directory / "channel"))
        self.server.listen()
        self.link = None
        job = dict(job, channel=str(self.directory / "channel"), commanded=time.monotonic())
        (self.directory / "job.json").write_text(json.dumps(job))
        variables = dict(os.environ, **environment)
        variables.update({MARK: self.value, JOB: str(self.directory / "job.json"), "TMPDIR": str(self.directory),
                          "IPYTHONDIR": str(self.directory / "ipython")})
        with open(self.directory / "log", "wb") as log:
            self.begun = time.perf_counter()
            self.process = subprocess.Popen(command, cwd=self.directory, env=variables, stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=log, start_new_session=True)

    def finish(self):
        """Wait for the end or the limit, clean up, and return this run."""
        try:
            self.step()
            while not self.is_over():
                self.step()
            self.judge()
        finally:
            self.clean_up()
        return self

    def is_over(self):
        """Return whether the program has ended or its time is up."""
        return self.process.poll() is not None or time.monotonic() > self.deadline

    def step(self):
        """Wait a little for the program to say something, and answer."""
        sources = [self.server] if self.link is None else [self.link]
        readable = select.select(sources, [], [], SAMPLE_S if self.peak is not None else 0.05)[0]
        if self.peak is not None:
            self.peak = max(self.peak, self.memory_in_use())
        if self.server in readable:
            self.link = self.server.accept()[0]
        elif readable:
            self.read()

    def read(self):
        """Read messages, one JSON object a line; at end-of-file wait for the process only."""
        data = self.link.recv(65536)
        if not data:
            self.link.close()
            self.link = self.server
        self.buffer += data
        *lines, self.buffer = self.buffer.split(b"\n")
        for line in lines:
            message = json.loads(line)
            getattr(self, "on_" + message.pop("event"))(**message)

    def answer(self, **fields):
        """Send the answer that the program is waiting for."""
        self.link.sendall(json.dumps(fields).encode() + b"\n")

    def on_result(self, metrics):
        """Keep the result; from here the program only has to end."""
        self.result = metrics
        self.deadline = time.monotonic() + EXIT_LIMIT_S

    def on_failure(self, text):
        """Keep the program's own account of what went wrong, and give it a moment to end."""
        if self.result is None:
            self.failure = text
        else:
            self.note = "result told, then: " + text
        self.deadline = min(self.deadline, time.monotonic() + FAILED_LIMIT_S)

    def on_sample(self):
        """Tell parent, CPU time and memory of each of the program's processes."""
        processes = {}
        for pid in marked_processes(self.value):
            pss, anonymous = memory(pid)
            processes[pid] = {"parent": parent(pid), "cpu_ns": cpu_ns(pid), "pss": pss, "anonymous": anonymous}
        self.answer(root=self.process.pid, processes=processes)

    def memory_in_use(self):
        """Return what the program's processes and all shared memory occupy, in bytes."""
        return shared_memory() + sum(memory(pid)[1] for pid in marked_processes(self.value))

    def on_watch(self):
        """Start to look at the memory again and again."""
        self.peak = self.memory_in_use()
        self.answer(now=self.peak)

    def on_unwatch(self):
        """Stop looking, and tell the highest value."""
        self.answer(peak=max(self.peak, self.memory_in_use()))
        self.peak = None

    def judge(self):
        """Decide what a run without a result, or without an end, has died of."""
        hung = self.process.poll() is None
        if self.result is None and not self.failure:
            self.failure = self.hang() if hung else "ended with status %s: %s" % (
                self.process.returncode, self.last_line())
        elif hung and self.result is not None:
            self.note = self.note or "did not end within %d s of its last word" % EXIT_LIMIT_S

    def hang(self):
        """Tell a deadlock from work that is too slow: whether the processes still use a CPU."""
        before = sum(map(cpu_ns, marked_processes(self.value)))
        time.sleep(0.5)
        busy = sum(map(cpu_ns, marked_processes(self.value))) - before > 25_000_000
        return ("hung: still busy after %d s" if busy else "deadlock: nothing moves after %d s") % self.limit_s

    def last_line(self):
        """Return the end of what the program printed."""
        lines = (self.directory / "log").read_text(errors="replace").split("\n")
        return next((line.strip()[:200] for line in reversed(lines) if line.strip()), "no output")

    def clean_up(self):
        """Kill whatever of this run still lives, and remove its directory."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for _ in range(50):
            alive = marked_processes(self.value)
            if not alive:
                break
            for pid in alive:
                kill(pid)
            time.sleep(0.02)
        for link in (self.server, self.link):
            if link is not None:
                link.close()
        shutil.rmtree(self.directory, ignore_errors=True)


def kill(pid):
    """Kill a process that may just have ended by itself."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


class Start(Run):
    """A run of a whole program that tells nothing but 42 on standard output: only its length counts."""

    def __init__(self, command, environment, limit_s):
        super().__init__(command, environment, {}, limit_s)
        self.length_s = 0.0

    def step(self):
        """Wait for the end without polling, which would be seen in the length; a timer kills what hangs."""
        timer = threading.Timer(self.limit_s, os.killpg, (self.process.pid, signal.SIGKILL))
        timer.start()
        self.process.wait()
        self.length_s = time.perf_counter() - self.begun
        timer.cancel()

    def judge(self):
        """Look at what was printed."""
        if self.length_s >= self.limit_s:
            self.failure = "hung: no end after %d s" % self.limit_s
        elif self.process.returncode or b"42\n" not in (self.directory / "log").read_bytes():
            self.failure = "status %s: %s" % (self.process.returncode, self.last_line())
