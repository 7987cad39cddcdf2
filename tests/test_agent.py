"""An agent on its own, in this process: what it finds out about its host, and what it does with its workers' words.

With processes and faults it is tried in `test_cleanliness.py`, `test_faults.py` and `test_hosts.py`.
"""

from __future__ import annotations

import builtins
import errno
import functools
import gc
import io
import itertools
import json
import math
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading

import pytest

import scoop_lite
from scoop_lite import AGENT, COUNT, NAMES, ORIGIN, Config


class Files:
    """Stands for some files of the system; `None` for one that cannot be opened."""

    def __init__(self, monkeypatch, **found):
        self.found, self.open = found, builtins.open
        monkeypatch.setattr(builtins, "open", self)

    def __call__(self, path, *args, **how):
        name = str(path).strip("/").replace("/", "_").replace(".", "_")
        if name not in self.found and not str(path).startswith(("/proc", "/sys")):
            return self.open(path, *args, **how)
        if self.found.get(name) is None:
            raise FileNotFoundError(path)
        content = self.found[name]
        return io.BytesIO(content.encode()) if "rb" in args else io.StringIO(content)


# ---------------------------------------------------------------------------------------------------------------------
# Its host
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("files, cpus", [
    ({}, 8),
    ({"proc_self_cgroup": "0::/job/task\n"}, 8),
    ({"proc_self_cgroup": "0::/job/task\n", "sys_fs_cgroup_job_task_cpu_max": "150000 100000\n"}, 2),
    ({"proc_self_cgroup": "0::/job/task\n", "sys_fs_cgroup_job_cpu_max": "300000 100000\n",
      "sys_fs_cgroup_job_task_cpu_max": "max 100000\n"}, 3),
    ({"proc_self_cgroup": "0::/job\n", "sys_fs_cgroup_job_cpu_max": "20000 100000\n"}, 1),
    ({"proc_self_cgroup": "0::/job\n", "sys_fs_cgroup_job_cpu_max": "nonsense\n"}, 8),
    ({"proc_self_cgroup": "5:memory:/job\n4:cpu,cpuacct:/job\n",
      "sys_fs_cgroup_cpu,cpuacct_job_cpu_cfs_quota_us": "-1",
      "sys_fs_cgroup_cpu,cpuacct_job_cpu_cfs_period_us": "100000"}, 8),
    ({"proc_self_cgroup": "4:cpu,cpuacct:/job\n", "sys_fs_cgroup_cpu,cpuacct_job_cpu_cfs_quota_us": "400000",
      "sys_fs_cgroup_cpu,cpuacct_job_cpu_cfs_period_us": "100000"}, 4),
])  # fmt: skip
def test_cpus_are_those_that_affinity_and_each_cgroup_above_allow(monkeypatch, files, cpus):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    Files(monkeypatch, **files)
    assert scoop_lite.usable_cpus() == cpus


def test_who_catches_a_signal_is_seen_where_the_system_tells(monkeypatch):
    handler = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        here = scoop_lite.catches(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert here is os.path.exists("/proc/self/status")
    bit = 1 << signal.SIGTERM - 1
    for text, caught in ((f"SigCgt: {bit:016x}\n", True), (f"SigCgt: {bit << 1:016x}\n", False), ("Pid: 7\n", False)):
        Files(monkeypatch, proc_7_status=f"Name:\tpython\n{text}")
        assert scoop_lite.catches(7, signal.SIGTERM) is caught
    assert scoop_lite.catches(8, signal.SIGTERM) is False


def test_deaths_for_want_of_memory_are_counted_where_the_system_tells(monkeypatch):
    for text, n in (("pgfree 7\noom_kill 3\n", 3), ("pgfree 7\n", 0), ("oom_kill x\n", 0), (None, 0)):
        Files(monkeypatch, proc_vmstat=text)
        assert scoop_lite.count_oom_kills() == n


def test_a_clock_is_shared_by_processes_of_one_kernel(monkeypatch):
    for text, name in (("the kernel\n", "the kernel"), (None, socket.gethostname())):
        Files(monkeypatch, proc_sys_kernel_random_boot_id=text)
        scoop_lite.boot_id.cache_clear()
        assert scoop_lite.boot_id() == name
    scoop_lite.boot_id.cache_clear()


# ---------------------------------------------------------------------------------------------------------------------
# Its workers
# ---------------------------------------------------------------------------------------------------------------------


class Held:
    """An agent whose broker's end of the link is here."""

    def __init__(self, local=True):
        ours, theirs = socket.socketpair()
        self.link = scoop_lite.StreamLink(ours)
        self.agent = scoop_lite.Agent(scoop_lite.StreamLink(theirs), Config(n=2), local)

    def child(self, rank=1, link=None):
        """A worker that prints into the pipe that is returned."""
        reader, writer = os.pipe()
        lifeline, _ = os.pipe()
        os.close(_)
        os.set_blocking(reader, False)
        child = scoop_lite.Child(rank, 1, 4_000_000 + rank, lifeline, link)
        child.outputs[reader] = 1, bytearray()
        self.agent.children[rank, 1] = child
        self.agent.selector.register(reader, 1, lambda: self.agent.read_output(child, reader))
        return child, reader, writer

    def told(self):
        """What has come to the broker since: (kind, frames)."""
        self.agent.link.flush()
        self.link.flush()
        messages = self.link.receive()
        found = [(NAMES[frames[0][0]], frames[1:]) for frames in messages]
        messages.clear()
        return found


def output(found):
    return [(json.loads(bytes(frames[0]))["rank"], bytes(frames[1])) for kind, frames in found if kind == "OUTPUT"]


@pytest.fixture
def held():
    if not scoop_lite.CAN_FORK:
        pytest.skip("agents fork here or not at all")
    return Held()


def test_lines_are_passed_on_whole_and_the_rest_at_the_end(held):
    child, reader, writer = held.child()
    os.write(writer, b"one\ntwo\nthr")
    assert held.agent.read_output(child, reader) and output(held.told()) == [(1, b"one\ntwo\n")]
    assert held.agent.read_output(child, reader) is False  # nothing new
    os.close(writer)
    assert held.agent.read_output(child, reader) is False and output(held.told()) == [(1, b"thr")]
    assert not child.outputs and reader not in held.agent.selector.get_map()


def test_what_the_origin_prints_is_passed_on_at_once(held):
    child, reader, writer = held.child(rank=ORIGIN)
    os.write(writer, b"a prompt: ")
    held.agent.read_output(child, reader)
    assert output(held.told()) == [(0, b"a prompt: ")]


def test_output_is_not_read_while_the_terminal_is_behind(held, monkeypatch):
    monkeypatch.setattr(scoop_lite, "OUTPUT_WINDOW", 100)
    child, reader, writer = held.child()
    for _ in range(3):
        os.write(writer, b"x" * 49 + b"\n")
        held.agent.read_output(child, reader)
    assert list(held.agent.paused) == [reader] and reader not in held.agent.selector.get_map()
    held.agent.on_written([b"", COUNT.pack(100)])  # 50 are left: not less than half
    assert held.agent.paused
    held.agent.on_written([b"", COUNT.pack(101)])
    assert not held.agent.paused and reader in held.agent.selector.get_map()


def test_each_host_is_told_how_much_of_its_own_output_is_written(monkeypatch):
    launcher = scoop_lite.Launcher(Config(hosts=(("a", 1), ("b", 1))))
    put, told, window = [], [], scoop_lite.OUTPUT_WINDOW
    monkeypatch.setattr(launcher.writer, "put", lambda *line: put.append(line))
    monkeypatch.setattr(launcher.broker, "send_agent",
                        lambda host, frames: told.append((host, *COUNT.unpack(frames[1]))))  # fmt: skip
    show = lambda host, n, text: launcher.on_output(host, [b"", scoop_lite.facts(rank=n, stream=n), text])  # noqa: E731
    show(0, 1, bytes(window))
    show(1, 2, b"little")
    launcher.writer.left.append((1, b"not written yet"))
    launcher.tell_written()
    assert put == [(1, bytes(window)), (2, b"little")] and told == []
    launcher.writer.left.clear()
    launcher.tell_written()
    launcher.tell_written()
    assert told == [(0, window)]
    show(1, 2, bytes(window))
    launcher.tell_written()
    assert told == [(0, window), (1, window + len("little"))]


def test_a_pipe_that_ended_while_it_was_paused_is_forgotten(held, monkeypatch):
    monkeypatch.setattr(scoop_lite, "OUTPUT_WINDOW", 10)
    child, reader, writer = held.child()
    os.write(writer, b"a long line\n")
    held.agent.read_output(child, reader)
    os.close(writer)
    held.agent.read_output(child, reader)
    held.agent.on_written([b"", COUNT.pack(99)])
    assert not held.agent.paused and reader not in held.agent.selector.get_map()


def test_a_death_is_told_after_all_that_the_worker_had_to_say(held):
    ours, theirs = socket.socketpair()
    child, reader, writer = held.child(link=scoop_lite.StreamLink(theirs))
    held.agent.selector.register(theirs, 1, lambda: None)
    worker = scoop_lite.StreamLink(ours)
    worker.send(scoop_lite.message("HUNGRY", 1, 1, b"words"))
    os.write(writer, b"last words")  # and something that it has started holds the pipe
    held.agent.bury(child, -9)
    found = held.told()
    assert [kind for kind, _ in found] == ["OUTPUT", "HUNGRY", "DIED"] and output(found) == [(1, b"last words")]
    death = json.loads(bytes(found[-1][1][0]))
    assert (death["rank"], death["incarnation"], death["code"]) == (1, 1, -9) and "SIGKILL" in death["how"]
    assert not held.agent.children and theirs.fileno() == -1


@pytest.mark.parametrize("header", [(1, 2), (2, 1), (ORIGIN, 1), (scoop_lite.AGENT, 0)], ids=repr)
def test_a_worker_that_speaks_for_another_is_ended(held, header, capfd):
    """As the origin, or as its agent, it could end the script with a status of its choice."""
    ours, theirs = socket.socketpair()
    child, _, _ = held.child(link=scoop_lite.StreamLink(theirs))
    held.agent.selector.register(theirs, 1, lambda: None)
    child.process, ended = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE), []
    worker = scoop_lite.StreamLink(ours)
    worker.send(scoop_lite.message("LOG", 1, 1, b"true"))
    worker.send(scoop_lite.message("LOG", *header, b"forged"))
    worker.send(scoop_lite.message("LOG", 1, 1, b"behind it"))
    held.agent.read_worker(child)
    held.agent.read_worker(child)  # as at its end: what was behind it is not read either
    held.agent.end_workers()
    ended.append(child.process.wait(10))
    assert [(kind, bytes(frames[0])) for kind, frames in held.told()] == [("LOG", b"true")]
    assert ended != [0] and child.link.closed
    assert "worker 1 broke the protocol: it speaks for another" in capfd.readouterr().err


def test_a_host_that_is_silent_long_after_the_jobs_end_is_cut_off(monkeypatch):
    """One of its processes may wait for a dead disk, which no signal ends."""
    launcher, said, killed = scoop_lite.Launcher(Config(hosts=(("far", 1),))), [], []
    monkeypatch.setattr(launcher, "report", said.append)
    monkeypatch.setattr(launcher.sites[0], "kill", lambda: killed.append("far"))
    launcher.agents[0], launcher.broker.host_names[0] = None, "far"
    launcher.heard_s -= 2 * scoop_lite.END_S
    assert launcher.late_s() == math.inf  # a script may run for as long as it likes
    launcher.broker.status = 0
    assert launcher.late_s() < scoop_lite.now()
    launcher.broker.agent_handlers = dict.fromkeys(launcher.broker.agent_handlers, lambda *_: None)
    launcher.take_agent(0, scoop_lite.message("OUTPUT", AGENT, 0, b"{}", b""))
    assert launcher.late_s() > scoop_lite.now()  # it is not silent
    launcher.heard_s -= 2 * scoop_lite.END_S
    monkeypatch.setattr(launcher.broker, "send_agent", lambda *_: None)
    launcher.kill_all()
    assert killed == ["far"] and "nothing was heard of its end on far for 30 s" in said[0]
    assert scoop_lite.now() < launcher.late_s() < math.inf


def test_a_pool_that_ends_after_long_silence_has_time_for_it():
    launcher = scoop_lite.Launcher(Config(serve=9))
    ours, theirs = socket.socketpair()
    client = launcher.broker.join(ORIGIN)
    launcher.add_peer(client, ours.detach())
    launcher.heard_s -= 2 * scoop_lite.END_S
    theirs.close()
    launcher.read_peer(client)
    assert launcher.broker.status == 0 and launcher.late_s() > scoop_lite.now() + scoop_lite.END_S / 2


@pytest.mark.parametrize("begun", [True, False])
@pytest.mark.parametrize("number", scoop_lite.END_SIGNALS)
def test_a_signal_leaves_a_job_some_time(monkeypatch, number, begun):
    launcher, clock, script = scoop_lite.Launcher(Config()), [1000.0], [begun]
    monkeypatch.setattr(scoop_lite, "now", lambda: clock[0])
    monkeypatch.setattr(launcher.broker, "has_begun", lambda: script[0])
    launcher.on_signal(number, None)
    assert launcher.kill_s == 1000 + (1 if not begun else math.inf if number == signal.SIGINT else 4)
    if not begun:  # when that is over, the script may have begun meanwhile
        script[0], clock[0] = True, launcher.kill_s
        launcher.kill_all()
        assert launcher.kill_s == 1003 and launcher.broker.status is None


def test_two_signals_within_a_tenth_of_a_second_are_one(monkeypatch):
    launcher, clock = scoop_lite.Launcher(Config()), [1000.0]
    monkeypatch.setattr(scoop_lite, "now", lambda: clock[0])
    monkeypatch.setattr(launcher.broker, "has_begun", lambda: True)
    for clock[0], kill_s in (1000.0, math.inf), (1000.09, math.inf), (1000.11, 1000.11):
        launcher.on_signal(signal.SIGINT, None)
        assert launcher.kill_s == kill_s
    assert list(launcher.interrupts) == [signal.SIGINT]


@pytest.mark.parametrize("said, cause", [
    ("ssh: connect to host far port 22: No route to host", "there is no route to it"),
    ("connect: Network is unreachable", "there is no route to it"),
    ("ssh: connect to host far port 22: Connection timed out", "is it up"),
    ("ssh: connect to host far port 22: Connection refused", "is sshd running there"),
    ("ssh: Could not resolve hostname far: Name or service not known", "its name is unknown here"),
    ("ssh: far: Temporary failure in name resolution", "its name is unknown here"),
    ("Host key verification failed.", "its host key is unknown or has changed"),
    ("me@far: Permission denied (publickey,password).", "it wants a key without a question"),
    ("sh: 1: exec: python3: not found", "there is no such Python"),
    ("bash: /opt/python3: No such file or directory", "there is no such Python"),
    ("dir/bin/python: Event not found.", "csh cannot read a path with ! in it"),
    ("srun: error: Unable to create step for job 7: Invalid generic resource (gres) specification",
     "the job should ask for GPUs by --gpus-per-node"),
])  # fmt: skip
def test_what_a_starter_says_is_explained_with_its_likely_cause(monkeypatch, said, cause):
    site = scoop_lite.Launcher(Config(hosts=(("far", 1),))).sites[0]
    monkeypatch.setattr(site, "last_words", lambda: f"; it said: {said}")
    monkeypatch.setattr(site, "command", ["ssh", "far"])
    text = site.explain("the connection ended")
    assert text.startswith(f"host far did not join: the connection ended; it said: {said}; {cause}")
    assert text.endswith(" (command: ssh far…)")


@pytest.mark.parametrize("backend", ["own", "loopback"])
def test_the_link_of_a_script_that_has_ended_says_when_its_agent_is_late(backend):
    launcher = scoop_lite.Launcher(Config(n=1, backend=backend))
    origin, (ours, theirs) = launcher.broker.join(ORIGIN, 0, 1), socket.socketpair()
    launcher.add_peer(origin, ours.detach())
    launcher.broker.said_bye = True
    launcher.heard_s -= 2 * scoop_lite.END_S
    assert launcher.late_s() == math.inf  # its atexit functions may take as long as they like
    theirs.close()
    launcher.read_peer(origin)
    if backend == "loopback":  # there it ends before them
        assert launcher.late_s() == math.inf
    else:
        assert 0 < launcher.late_s() - scoop_lite.now() <= scoop_lite.END_S
        launcher.signalled = signal.SIGINT
        assert 0 < launcher.late_s() - scoop_lite.now() <= scoop_lite.SIGNAL_S
        launcher.sites[0].pid = os.getpid()  # an agent that nobody has stopped: it will tell, if the script lives on
        launcher.kill_all()
        assert launcher.broker.status is None and launcher.kill_s == math.inf


def test_another_host_may_be_silent_for_long_after_a_signal_too():
    """What it sends may be one big message, behind a slow link."""
    launcher = scoop_lite.Launcher(Config(hosts=(("far", 1),)))
    launcher.signalled = signal.SIGINT
    assert launcher.patience_s() == scoop_lite.SIGNAL_S  # it is not there
    launcher.agents[0] = None
    assert launcher.patience_s() == scoop_lite.END_S


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc")
def test_a_stopped_process_is_known():
    child = subprocess.Popen(["sleep", "60"])
    assert not scoop_lite.is_stopped(child.pid)
    child.send_signal(signal.SIGSTOP)
    os.waitpid(child.pid, os.WUNTRACED)
    assert scoop_lite.is_stopped(child.pid)
    child.kill()
    child.wait()


def test_hosts_that_joined_long_before_another_failed_are_not_cut_off_at_once():
    launcher = scoop_lite.Launcher(Config(hosts=(("far", 1),)))
    launcher.heard_s -= 2 * scoop_lite.END_S
    launcher.begin()
    assert launcher.broker.status == 1 and launcher.late_s() > scoop_lite.now()


def n_descriptors():
    gc.collect()  # other tests' sockets
    return len(os.listdir("/proc/self/fd"))


def test_workers_are_forked_in_growing_batches_and_the_first_does_not_wait(held, monkeypatch):
    calls = []
    monkeypatch.setattr(scoop_lite.os, "environ", {})
    monkeypatch.setattr(held.agent, "start_worker", lambda rank, *_: calls.append("fork") or (rank != 3 and (rank, [])))
    monkeypatch.setattr(held.agent, "introduce", lambda *_: calls.append("introduce"))
    held.agent.start_workers({"workers": [(rank, 1) for rank in range(50)]})
    runs = [len(list(run)) for _, run in itertools.groupby(calls)]
    assert runs[::2] == [1, 1, 2, 4, 8, 16, 16, 2] and runs[1::2] == [1, 1, 1, 4, 8, 16, 16, 2]  # 3 was not started
    assert scoop_lite.os.environ["OMP_NUM_THREADS"] == str(held.agent.config.threads)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
def test_a_worker_that_cannot_be_started_leaves_no_descriptor_behind(held, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", refuse)
    held.agent.config = Config(n=1, threads=1)
    before = n_descriptors()
    for incarnation in range(1, 4):
        held.agent.start_worker(3, incarnation, {})
    assert n_descriptors() == before and not held.agent.children
    told = [json.loads(bytes(frames[0])) for kind, frames in held.told() if kind == "DIED"]
    assert [(death["rank"], death["incarnation"], death["pid"]) for death in told] == [(3, 1, 0), (3, 2, 0), (3, 3, 0)]
    assert {death["how"] for death in told} == {
        "could not be started: Resource temporarily unavailable; see `ulimit -a`"
    }


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
def test_an_interpreter_that_cannot_be_started_leaves_its_agent_alive(monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    ours, theirs = map(scoop_lite.StreamLink, socket.socketpair())
    agent = scoop_lite.LoopbackAgent(theirs, Config(n=2, threads=1), [])
    monkeypatch.setattr(subprocess, "Popen", refuse)
    before = n_descriptors()
    agent.start_interpreter(1, 1)
    assert n_descriptors() == before and not agent.children
    ours.flush()
    (death,) = [json.loads(bytes(frames[1])) for frames in ours.receive()]
    assert death["how"] == "could not be started: Cannot allocate memory; see `ulimit -a`"
    agent.door.close()


def test_without_a_thread_for_them_lines_are_written_all_the_same(monkeypatch):
    def refuse(_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    reader, pipe = os.pipe()
    writer = scoop_lite.Writer(lambda: None)
    writer.put(pipe, b"one\n")
    writer.put(pipe, b"two\n")
    assert os.read(reader, 100) == b"one\ntwo\n" and not writer.left
    os.close(reader)
    os.close(pipe)


@pytest.mark.parametrize("code, how", [
    (0, "exited with status 0"), (3, "exited with status 3"), (3221225477, "exited with status 0xc0000005"),
    (-15, "was killed by SIGTERM"), (-99, "was killed by signal 99"),
    (-9, "was killed by SIGKILL (somebody with kill -9, or memory ran out)"),
])  # fmt: skip
def test_an_end_is_told_in_words(held, code, how):
    assert held.agent.explain(code) == how


def test_a_limit_of_processor_time_is_named_where_it_may_have_killed(held, monkeypatch):
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrlimit", lambda which: (60, 60) if which == resource.RLIMIT_CPU else (9, 9))
    assert held.agent.explain(-9).endswith("(somebody with kill -9, or memory ran out, or CPU time, see `ulimit -t`)")


def test_a_kill_by_the_kernel_is_told_once_for_each_that_it_counts(held, monkeypatch):
    held.agent.oom_kills = 4
    monkeypatch.setattr(scoop_lite, "count_oom_kills", lambda: 5)
    assert "out of memory, by the kernel's count" in held.agent.explain(-9)
    assert "somebody with kill -9" in held.agent.explain(-9)


def test_what_the_broker_says_reaches_the_worker_that_it_is_for(held):
    links, killed = {}, []
    for rank in (1, 2):
        ours, theirs = socket.socketpair()
        child, *_ = held.child(rank, scoop_lite.StreamLink(theirs))
        child.kill = functools.partial(killed.append, rank)
        links[rank] = scoop_lite.StreamLink(ours)
    for rank, incarnation in ((1, 1), (2, 2), (3, 1)):  # the second is not the one that runs, and there is no third
        held.link.send(scoop_lite.message("POOL", rank, incarnation, b"{}"))
    held.agent.link.take(held.agent.obey)
    assert [(rank, len(link.receive())) for rank, link in links.items()] == [(1, 1), (2, 0)]
    held.link.send(scoop_lite.message("KILL", AGENT, 0, scoop_lite.facts(rank=2, incarnation=1)))
    held.link.send(scoop_lite.message("KILL", AGENT, 0, scoop_lite.facts(rank=1, incarnation=2)))
    held.agent.link.take(held.agent.obey)
    assert killed == [2]


@pytest.mark.parametrize("local", [True, False])
def test_workers_know_whether_they_are_on_the_launchers_host(local):
    assert Held(local).agent.config.near is local


@pytest.mark.parametrize("local, number, ends", [
    (True, "SIGTERM", False), (False, "SIGTERM", True), (False, "SIGINT", False), (False, "SIGCHLD", False),
])  # fmt: skip
def test_a_scheduler_that_ends_its_job_ends_the_agents_of_other_hosts(local, number, ends):
    if not hasattr(signal, number) or not scoop_lite.CAN_FORK:
        pytest.skip(f"no {number} here")
    agent = Held(local).agent
    agent.on_signal(getattr(signal, number), None)
    assert agent.signals == {getattr(signal, number)} and (agent.stop_s < math.inf) is ends
    if ends:
        assert 2 < agent.stop_s - scoop_lite.now() < 3.1 and agent.timeout() <= Config(n=2).heartbeat_s


def test_while_the_link_is_behind_workers_are_not_read(held):
    ours, theirs = socket.socketpair()
    child, _, _ = held.child(link=scoop_lite.StreamLink(theirs))
    held.agent.selector.register(held.agent.link.fileno(), 1, lambda: None)
    held.agent.selector.register(theirs, 1, lambda: None)
    held.agent.link.queue([b"x" * (scoop_lite.BACKLOG + 30_000_000)])
    held.agent.flush()
    assert child.link.held and theirs not in held.agent.selector.get_map()
    while held.agent.link.out:
        held.link.receive(1 << 30)
        held.agent.flush()
    assert not child.link.held and theirs in held.agent.selector.get_map()


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX")
def test_who_is_tied_to_a_pipe_that_is_closed_already_ends():
    reader, writer = os.pipe()
    os.close(writer)
    pid = os.fork()
    if not pid:
        try:
            scoop_lite.tie_life(reader)
        finally:
            os._exit(77)
    os.close(reader)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL or os.WEXITSTATUS(status) == 1


def test_a_client_that_is_gone_when_a_straight_link_is_to_reach_it_ends_its_pool():
    links = scoop_lite.Reception(scoop_lite.Config(n=1, serve=0))
    ours, theirs = socket.socketpair()
    member = links.broker.join(scoop_lite.ORIGIN)
    links.add_peer(member, ours.detach())
    theirs.close()
    with open(os.devnull) as file:
        links.send(member, scoop_lite.message("NEIGHBOUR", 0, 1, scoop_lite.facts(rank=1)), file.fileno())
    assert not member.link.closed  # what it may have said before is still to be read
    for key, _ in links.selector.select(0):
        key.data()
    assert member.death and links.broker.said_bye and not links.selector.select(0)
    links.selector.close()
    links.bell.close()


REPLACED = """
    import os, signal, time
    import scoop_lite
    from scoop_lite import futures

    def fact():
        return os.getpid(), %s

    def replace(first, *ranks):
        for rank in ranks:
            os.kill(first[rank][0], signal.SIGKILL)
        while True:
            try:
                later = futures.run_on_all(fact)
            except scoop_lite.WorkerLost:  # he had not died yet
                continue
            if len(later) == len(first) and all(later[rank][0] != first[rank][0] for rank in ranks):
                return later

    if __name__ == "__main__":
"""


def test_a_script_that_changes_while_it_runs_is_the_one_that_was_started(launch):
    """It is read once a host: it is the same for workers that need it later, and for those that replace a dead one."""
    outcome = launch(
        textwrap.dedent(REPLACED % "'as it was'")
        + """
    with open(__file__, "w") as file:
        file.write("this is (no more Python")
    first = futures.run_on_all(fact)
    print({what for _, what in [*first.values(), *replace(first, 1).values()]})
""",
        n=3,
    )
    assert (outcome.returncode, outcome.stdout) == (0, "{'as it was'}\n")


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
def test_a_worker_holds_none_of_the_descriptors_that_lead_to_others(launch):
    """The last one as few as the first, and those that take the place of dead ones, too."""
    outcome = launch(
        textwrap.dedent(REPLACED % "len(os.listdir('/proc/self/fd'))")
        + """
    first = futures.run_on_all(fact)
    later = replace(first, 2, 5)
    print([n - first[1][1] for rank, (_, n) in [*first.items(), *later.items()] if rank])
""",
        n=7,
    )
    assert (outcome.returncode, outcome.stdout) == (0, f"{[0] * 12}\n")
