"""What a stranger can do at the door of the loopback way, where sockets cannot be inherited: nothing."""
from __future__ import annotations

import base64
import contextlib
import os
import random
import resource
import selectors
import socket
import subprocess
import sys
import threading
import time

import pytest
from faults import doors, processes, system
from faults.fixtures import *  # noqa: F403
from faults.fixtures import STRANDS, limit, root, runs_of, soak
from faults.jobs import Job
from faults.processes import process, wait_until

import scoop_lite
from scoop_lite import OWNER, Door, knock

AUDIT = os.path.join(os.path.dirname(doors.__file__), "inside", "audit")
PROOF = Door.PROOF.size
ROUNDS = """
    def work(i):
        note("run", i)
        time.sleep(0.005)
        return [i]

    if __name__ == "__main__":
        futures.submit(len, b"").result()
        reach("ready")
        await_sign("go")
        while not given("end"):
            assert [x for x, in futures.map(work, range(20))] == list(range(20))
        print("right")
"""


# The door alone


class Porter:
    """A door with a thread that keeps it; `admitted` holds rank, incarnation and socket of who got in."""

    def __init__(self):
        self.selector, self.admitted, self.over = selectors.DefaultSelector(), [], False
        self.door = Door(self.selector, lambda *who: self.admitted.append(who))
        self.port = self.door.sock.getsockname()[1]
        self.thread = threading.Thread(target=self.keep, daemon=True)
        self.thread.start()

    def keep(self):
        while not self.over:
            for key, _ in self.selector.select(0.02):
                key.data()
            self.door.sweep()

    def close(self):
        self.over = True
        self.thread.join()
        self.door.close()
        for *_, sock in self.admitted:
            sock.close()


@pytest.fixture
def porter():
    with contextlib.closing(Porter()) as found:
        yield found


def say(port, words):
    """Connect, say `words(nonce)`, and return all that the door answers before it closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as peer:
        nonce = scoop_lite.receive_exactly(peer, 32)
        with contextlib.suppress(OSError):
            peer.sendall(words(nonce))
        answer = bytearray()
        with contextlib.suppress(ConnectionResetError):
            for data in iter(lambda: peer.recv(4096), b""):
                answer += data
    return bytes(answer)


def proof_of(key, who, nonce, theirs, role=b"caller"):
    return who + theirs + Door.prove(key, role, who, nonce, theirs)


def test_who_proves_its_key_gets_in_once(porter):
    invitation = porter.door.invite(3, 1)
    with contextlib.closing(knock(**invitation)) as link:
        wait_until(lambda: porter.admitted, 5, lambda: "nobody got in")
        rank, incarnation, sock = porter.admitted[0]
        assert (rank, incarnation) == (3, 1) and not porter.door.keys and not porter.door.callers
        sock.sendall(b"welcome")
        assert scoop_lite.receive_exactly(link, 7) == b"welcome"
    key, theirs = bytes.fromhex(invitation["key"]), os.urandom(32)
    assert say(porter.port, lambda nonce: proof_of(key, OWNER.pack(3, 1), nonce, theirs)) == b"", "a used key opened"
    assert len(porter.admitted) == 1


#: What a stranger says to the door's nonce; he knows who is awaited, and has `heard` a right proof of an earlier call.
WRONG = {
    "nothing": lambda key, who, nonce, heard: b"",
    "half": lambda key, who, nonce, heard: proof_of(key, who, nonce, bytes(32))[:-1],
    "zeroes": lambda key, who, nonce, heard: bytes(PROOF),
    "no key": lambda key, who, nonce, heard: proof_of(b"", who, nonce, bytes(32)),
    "another key": lambda key, who, nonce, heard: proof_of(os.urandom(32), who, nonce, bytes(32)),
    "a key of others": lambda key, who, nonce, heard: proof_of(key, OWNER.pack(2, 1), nonce, bytes(32)),
    "an unknown rank without key": lambda key, who, nonce, heard: proof_of(b"", OWNER.pack(9, 9), nonce, bytes(32)),
    "replayed": lambda key, who, nonce, heard: heard,
    "reflected": lambda key, who, nonce, heard: who + nonce + Door.prove(key, b"door", who, nonce, nonce),
    "swapped": lambda key, who, nonce, heard: who + bytes(32) + Door.prove(key, b"caller", who, bytes(32), nonce),
    "one bit off": lambda key, who, nonce, heard: proof_of(key, who, nonce, b"1" * 32)[:-1] + bytes(
        [proof_of(key, who, nonce, b"1" * 32)[-1] ^ 1]
    ),
    "junk": lambda key, who, nonce, heard: os.urandom(1 << 20),
}


@pytest.mark.parametrize("how", WRONG)
def test_a_wrong_proof_opens_nothing_and_locks_nobody_out(porter, how):
    invitation, who = porter.door.invite(1, 1), OWNER.pack(1, 1)
    porter.door.invite(2, 1)
    key = bytes.fromhex(invitation["key"])
    with socket.create_connection(("127.0.0.1", porter.port), timeout=5) as earlier:  # was cut off before it spoke
        heard = proof_of(key, who, scoop_lite.receive_exactly(earlier, 32), os.urandom(32))
    begin_s = time.monotonic()
    for _ in range(1 if how in ("nothing", "half") else 20):
        assert say(porter.port, lambda nonce: WRONG[how](key, who, nonce, heard)) == b""
    assert time.monotonic() - begin_s < 4 and not porter.admitted
    knock(**invitation).close()
    wait_until(lambda: [who[:2] for who in porter.admitted] == [(1, 1)], 5, lambda: "the right one did not get in")


def test_a_worker_trusts_no_door_that_does_not_know_its_key(monkeypatch):
    """One that says back what it hears, one with another key, one that hangs up."""
    monkeypatch.setattr(scoop_lite, "JOIN_S", 0.2)
    key, heard = os.urandom(32), []

    def answer(peer):
        nonce = os.urandom(32)
        peer.sendall(nonce)
        proof = scoop_lite.receive_exactly(peer, PROOF)
        heard.append(proof)
        who, theirs, mac = Door.PROOF.unpack(proof)
        wrong = (mac, Door.prove(os.urandom(32), b"door", who, nonce, theirs), b"")
        peer.sendall(wrong[len(heard) % len(wrong)])

    def keep():
        with contextlib.suppress(OSError):
            while True:
                peer, _ = false.accept()
                with peer, contextlib.suppress(OSError):
                    answer(peer)

    with socket.create_server(("127.0.0.1", 0)) as false:
        threading.Thread(target=keep, daemon=True).start()
        with pytest.raises(scoop_lite.PeerError, match="let nobody in"):
            knock(false.getsockname()[1], key.hex(), 1, 1)
    assert len(heard) >= 3 and len(set(heard)) == len(heard)


def test_a_newcomer_gets_in_beside_more_silent_peers_than_may_wait(porter):
    with contextlib.ExitStack() as crowd:
        for _ in range(3 * scoop_lite.MAX_CALLERS):
            crowd.enter_context(socket.create_connection(("127.0.0.1", porter.port), timeout=5))
        knock(**porter.door.invite(1, 1)).close()
        wait_until(lambda: porter.admitted, 5, lambda: "nobody got in")
        assert len(porter.door.callers) <= scoop_lite.MAX_CALLERS
        wait_until(lambda: not porter.door.callers, 4, lambda: "silent ones cut")


# Runs


@pytest.fixture
def run_loopback(request, tmp_path):
    """Start runs with the loopback way."""
    yield from runs_of(request, tmp_path, ["--backend", "loopback", "--strands", STRANDS])


def workers(job: Job):
    """Return the workers, the origin among them: children of the launcher, which is their agent."""
    return [pid for pid in processes.children(job.launcher) if "serve_worker" in " ".join(processes.command(pid))]


def running(run_loopback, **how):
    """Start a run of four workers; return it, idle, and its one door."""
    job = run_loopback(ROUNDS, "-n", "4", **how)
    job.reached("ready")
    wait_until(lambda: len(established(job)) == 4, 10, lambda: "four links; %s" % job)
    found = doors.doors(job)
    assert len(found) == 1 and found[0].startswith("tcp://127.0.0.1:"), "listens at %s; %s" % (found, job)
    return job, found[0]


def established(job: Job):
    port = doors.doors(job)[0].rpartition(":")[2]
    return [s for s in system.sockets(job.launcher) if not s.listening and s.family != "unix"
            and str(system.address(s.local)[1]) == port]  # fmt: skip


def check_right(job: Job) -> None:
    """Prove that a run ends right, without a word."""
    job.give("end")
    job.right("right")
    assert "Traceback" not in job.output("err"), str(job)


@limit(300)
@pytest.mark.parametrize("count", [1000, pytest.param(30000, marks=soak)])
def test_no_stranger_gets_in_by_the_loopback_door(run_loopback, count):
    job, door = running(run_loopback, environment={"PYTHONPATH": AUDIT})
    doors.assault(door, 50, random.Random(0))
    before = processes.memory_kib(job.launcher)
    job.give("go")
    doors.assault(door, count, random.Random(1))
    job.noted("run", 40)
    assert processes.memory_kib(job.launcher) - before <= 32 * 1024
    assert len({line.pid for line in job.ledger("run")}) >= 2, "nobody but one worker works"
    check_right(job)
    looked_up = {int(path.name.split("-")[1]) for path in job.directory.glob("unpickled-*")}
    assert looked_up, "the audit hook is not in place"
    assert job.launcher not in looked_up, "the broker unpickled"


@pytest.mark.parametrize("limits", [{}, {resource.RLIMIT_NOFILE: 64}], ids=["", "few descriptors"])
def test_a_crowd_at_the_loopback_door_locks_nobody_out(run_loopback, limits):
    job, door = running(run_loopback, limits=limits)
    with doors.crowd(door, 200) as silent, doors.crowd(door, 50) as slow:
        begin_s = time.monotonic()
        dribbler = threading.Thread(target=doors.dribble, args=(slow, 4, 0.5), daemon=True)
        dribbler.start()
        before = set(workers(job))
        process(next(pid for pid in before if pid != job.origin)).kill()
        job.give("go")
        wait_until(lambda: {line.pid for line in job.ledger("run")} - before, 15,
                   lambda: "a new worker at work; %s" % job)  # fmt: skip
        wait_until(lambda: all(map(doors.is_cut, silent)), begin_s + 15 - time.monotonic(), lambda: "silent ones cut")
        dribbler.join()
    job.give("end")
    outcome = job.finish()
    assert outcome.status == 0 and outcome.out == "right\n" and "Traceback" not in outcome.err, str(job)
    job.clean()


#: Starts a worker where all descriptors are taken, some of them by strangers at the door.
SHORT_OF_DESCRIPTORS = """
import collections, os, resource, socket
from scoop_lite import Config, LoopbackAgent, StreamLink
resource.setrlimit(resource.RLIMIT_NOFILE, (80, 80))
ours, theirs = socket.socketpair()
agent = LoopbackAgent(StreamLink(theirs), Config(n=2, backend="loopback"), collections.deque())
strangers = [socket.create_connection(agent.door.sock.getsockname()) for _ in range(20)]
while len(agent.door.callers) < 20:
    agent.door.answer()
try:
    taken = [os.dup(0) for _ in range(80)]
except OSError:
    agent.start_interpreter(1, 1)
agent.children[1, 1].kill()
print("started")
"""


def test_strangers_make_way_for_the_descriptors_that_a_new_worker_takes():
    path = {**os.environ, "PYTHONPATH": os.path.dirname(scoop_lite.__file__)}
    done = subprocess.run([sys.executable, "-c", SHORT_OF_DESCRIPTORS], env=path, stdout=subprocess.PIPE, timeout=30)
    assert done.stdout == b"started\n"


def test_a_crowd_at_the_loopback_door_costs_next_to_no_processor_time(run_loopback):
    job, door = running(run_loopback)
    with doors.crowd(door, 200), doors.crowd(door, 50) as slow:
        cpu, begin_s = processes.cpu_s(job.launcher), time.monotonic()
        doors.dribble(slow, 3)
        assert processes.cpu_s(job.launcher) - cpu <= 0.1 * (time.monotonic() - begin_s)
    job.give("go")
    check_right(job)


OTHER_USER = """
import os, socket, struct, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
said = []
for path in ("/proc/%s/environ", "/proc/%s/mem", "/proc/%s/fd"):
    try:
        os.listdir(path % sys.argv[2]) if path.endswith("fd") else open(path % sys.argv[2], "rb").close()
        said.append(path)
    except OSError:
        pass
peer = socket.socket()
peer.settimeout(5)
peer.connect(("127.0.0.1", int(sys.argv[1])))
peer.recv(32)
peer.sendall(struct.pack("!II", 1, 2) + bytes(64))
try:
    said.append(peer.recv(1))
except ConnectionResetError:
    said.append(b"")
print(said)
"""


@root
def test_another_user_gets_neither_in_nor_at_a_key(run_loopback):
    job, door = running(run_loopback)
    for pid in workers(job):
        command = [sys.executable, "-c", OTHER_USER, door.rpartition(":")[2], str(pid)]
        said = subprocess.run(command, stdout=subprocess.PIPE, timeout=20, check=True).stdout
        assert said == b"[b'']\n", said
    job.give("go")
    check_right(job)


KEYS = """
    def key(i):
        note("run", i)
        time.sleep(0.3)
        frame = sys._getframe()
        while frame.f_code.co_name != "serve_worker":
            frame = frame.f_back
        return frame.f_locals["door"]["key"]

    if __name__ == "__main__":
        fs = [futures.submit(key, i) for i in range(4)]
        while not all(f.done() for f in fs):
            futures.wait(fs, timeout=0.01)
        print(" ".join({f.result() for f in fs}), flush=True)
        reach("told")
        await_sign("end")
"""


def test_a_loopback_key_is_in_no_command_line_no_environment_and_no_file(run_loopback):
    job = run_loopback(KEYS, "-n", "3", "--strands", "thread")
    job.reached("told")
    keys = [bytes.fromhex(word) for word in job.output("out").split()]
    assert keys, "no worker told its key: %s" % job
    places = {path: path.read_bytes() for path in job.directory.rglob("*") if path.is_file() and path.name != "out"}
    for pid in [job.launcher] + [p.pid for p in job.processes()]:
        places.update({(pid, name): processes.read_bytes(pid, name) for name in ("cmdline", "environ")})
    for place, text in places.items():
        for key in keys:
            forms = {key, key.hex().encode(), base64.b64encode(key).rstrip(b"="), repr(key)[2:-1].encode()}
            assert not [form for form in forms if form in text], "a key is in %s" % (place,)
    job.give("end")
    assert job.finish().status == 0
    job.clean()


def test_the_loopback_way_listens_in_the_launcher_only_and_not_for_long(run_loopback):
    job, door = running(run_loopback)
    for pid in workers(job):
        assert not [s for s in system.sockets(pid) if s.listening], str(job)
    job.give("go")
    check_right(job)
    with pytest.raises(ConnectionRefusedError):
        doors.knock(door)
