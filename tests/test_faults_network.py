"""What a stranger can do at the port of the ØMQ engine: nothing.

The own engine has no port; test_faults.py shows that.
"""
from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import socket
import struct
import threading
import time

import pytest
from faults import doors, processes
from faults.fixtures import *  # noqa: F403
from faults.fixtures import limit, root, soak
from faults.jobs import Job
from faults.processes import process, wait_until

zmq = pytest.importorskip("zmq", reason="pyzmq is not installed")
z85 = pytest.importorskip("zmq.utils.z85")

AUDIT = os.path.join(os.path.dirname(doors.__file__), "inside", "audit")
ROUNDS = """
    def work(i):
        note("run", i)
        time.sleep(0.005)
        return Item(i)

    class Item:
        def __init__(self, value):
            self.value = value

    if __name__ == "__main__":
        futures.submit(len, b"").result()
        reach("ready")
        await_sign("go")
        while not given("end"):
            assert [x.value for x in futures.map(work, range(20))] == list(range(20))
        print("right")
"""


def running(run_zmq, **how) -> Job:
    """Start a run of four workers; return it, idle, with its one door."""
    job = run_zmq(ROUNDS, "-n", "4", **how)
    job.reached("ready")
    wait_until(lambda: len(job.workers()) == 4, 5, lambda: "four workers; %s" % job)
    time.sleep(0.3)
    return job


def door_of(job: Job) -> str:
    """Return the one door of a run."""
    found = doors.doors(job)
    assert len(found) == 1, "listens at %s; %s" % (found, job)
    return found[0]


def check_right(job: Job) -> None:
    """Prove that a run ends right, without a word."""
    job.give("end")
    job.right("right")
    assert "Traceback" not in job.output("err"), str(job)


@limit(300)
@pytest.mark.parametrize("count", [2000, pytest.param(100000, marks=soak)])
def test_hostile_connections_are_cut_and_nothing_of_them_is_unpickled(run_zmq, count):
    job = running(run_zmq, environment={"PYTHONPATH": AUDIT})
    door = door_of(job)
    doors.assault(door, 50, random.Random(0))  # the first ones make libzmq's buffers
    before = processes.memory_kib(job.launcher)
    job.give("go")
    doors.assault(door, count, random.Random(1))
    job.noted("run", 40)
    assert processes.memory_kib(job.launcher) - before <= 32 * 1024
    check_right(job)
    looked_up = {int(path.name.split("-")[1]) for path in job.directory.glob("unpickled-*")}
    assert job.origin in looked_up, "the audit hook is not in place"
    assert job.launcher not in looked_up, "the broker unpickled"


def test_a_giant_frame_announced_by_a_stranger_fills_no_memory(run_zmq):
    job = running(run_zmq)
    door, before = door_of(job), processes.memory_kib(job.launcher)
    for hello in (doors.greeting(doors.CURVE), doors.greeting(doors.NULL)):
        with contextlib.suppress(OSError), contextlib.closing(doors.knock(door)) as peer:
            peer.sendall(hello + struct.pack(">BQ", doors.LONG, 1 << 30))
            for _ in range(200):
                peer.sendall(bytes(1 << 20))
    assert processes.memory_kib(job.launcher, "VmHWM") - before <= 32 * 1024
    job.give("go")
    check_right(job)


def test_silent_and_slow_peers_are_cut_cost_nothing_and_keep_nobody_out(run_zmq):
    job = running(run_zmq)
    door = door_of(job)
    memory, begin = processes.memory_kib(job.launcher), time.monotonic()
    with doors.crowd(door, 200) as silent, doors.crowd(door, 50) as slow:
        dribbler = threading.Thread(target=doors.dribble, args=(slow, 6), daemon=True)
        dribbler.start()
        check_a_new_worker_joins(job, 2)
        wait_until(lambda: all(map(doors.is_cut, silent)), begin + 4 - time.monotonic(), lambda: "silent ones cut")
        assert processes.memory_kib(job.launcher) - memory <= 32 * 1024
        dribbler.join()
    check_right(job)


def check_a_new_worker_joins(job: Job, within_s: float) -> None:
    """Kill a worker; prove that the one in its place runs a task soon."""
    before = set(job.workers())
    process(job.others()[0]).kill()
    job.give("go")
    wait_until(lambda: {x.pid for x in job.ledger("run")} - before, within_s, lambda: "a new worker at work; %s" % job)


def test_a_crowd_of_silent_peers_costs_the_broker_no_processor_time(run_zmq):
    job = running(run_zmq)
    with doors.crowd(door_of(job), 200), doors.crowd(door_of(job), 50) as slow:
        cpu, begin = processes.cpu_s(job.launcher), time.monotonic()
        doors.dribble(slow, 3)
        assert processes.cpu_s(job.launcher) - cpu <= 0.05 * (time.monotonic() - begin)
    job.give("go")
    check_right(job)


def test_with_few_descriptors_a_crowd_of_silent_peers_stops_no_job(run_zmq):
    job = running(run_zmq, limits={resource.RLIMIT_NOFILE: 64})
    with doors.crowd(door_of(job), 120):
        job.give("go")
        job.noted("run", 40)
        time.sleep(1)
        check_right(job)


# Peers that speak ØMQ well, and should not get in


CREDENTIALS = """
    def credentials(i):
        import zmq
        note("asked", i)
        time.sleep(0.3)
        ours = next(found for found in zmq_sockets() if found.type == zmq.DEALER)
        names = {"server": zmq.CURVE_SERVERKEY, "public": zmq.CURVE_PUBLICKEY, "secret": zmq.CURVE_SECRETKEY}
        told = {name: curve_key(ours, option).hex() for name, option in names.items()}
        return dict(told, identity=ours.getsockopt(zmq.ROUTING_ID).hex())

    def work(i):
        note("run", i)
        time.sleep(0.01)
        return i

    if __name__ == "__main__":
        import json
        print(json.dumps([poll(f).result() for f in [futures.submit(credentials, i) for i in range(2)]]), flush=True)
        reach("told")
        await_sign("go")
        while not given("end"):
            assert list(futures.map(work, range(20))) == list(range(20))
        print("right")
"""


def told(run_zmq) -> Job:
    """Start a run whose workers tell their credentials."""
    job = run_zmq(CREDENTIALS, "-n", "3")
    job.reached("told")
    return job


def credentials(job: Job):
    """Return what the workers told, as bytes."""
    rows = json.loads(job.output("out").splitlines()[0])
    return [{name: bytes.fromhex(text) for name, text in row.items()} for row in rows]


def as_null(peer, theirs, past):
    """No security at all."""


def as_plain(peer, theirs, past):
    """A name and a password."""
    peer.plain_username, peer.plain_password = b"admin", b"admin"


def as_curve(peer, server, pair):
    """CURVE with these keys."""
    peer.curve_serverkey = server
    peer.curve_publickey, peer.curve_secretkey = pair


def with_wrong_server_key(peer, theirs, past):
    """A worker's own pair, for another server."""
    as_curve(peer, zmq.curve_keypair()[0], (z85.encode(theirs["public"]), z85.encode(theirs["secret"])))


def with_unknown_key(peer, theirs, past):
    """The right server key, and a pair made just now."""
    as_curve(peer, z85.encode(theirs["server"]), zmq.curve_keypair())


def with_anothers_identity(peer, theirs, past):
    """The same, under the name of a worker that is there."""
    with_unknown_key(peer, theirs, past)
    peer.setsockopt(zmq.ROUTING_ID, theirs["identity"] or b"worker")


def with_a_past_key(peer, theirs, past):
    """The pair of a worker of a past run."""
    as_curve(peer, z85.encode(theirs["server"]), (z85.encode(past["public"]), z85.encode(past["secret"])))


STRANGERS = [as_null, as_plain, with_wrong_server_key, with_unknown_key, with_anothers_identity, with_a_past_key]


@pytest.fixture
def context():
    """A context of the test's own, which waits for nothing at its end."""
    made = zmq.Context()
    yield made
    made.destroy(linger=0)


def events_of(monitor, within_s):
    """Return the events of a socket during some time."""
    from zmq.utils.monitor import recv_monitor_message
    events, end = set(), time.monotonic() + within_s
    while monitor.poll(max(0, int(1000 * (end - time.monotonic())))):
        events.add(recv_monitor_message(monitor)["event"])
    return events


def test_no_stranger_gets_in_and_no_worker_is_locked_out(run_zmq, context):
    past_job = told(run_zmq)
    past = credentials(past_job)[0]
    past_job.give("go")
    past_job.give("end")
    assert past_job.finish().status == 0
    job = told(run_zmq)
    theirs, workers, door = credentials(job)[0], job.workers(), door_of(job)
    job.give("go")
    for disguise in STRANGERS:
        with contextlib.closing(context.socket(zmq.DEALER)) as peer:
            peer.linger = 0
            monitor = peer.get_monitor_socket()
            disguise(peer, theirs, past)
            peer.connect(door)
            for _ in range(100):
                peer.send_multipart([b"\x80\x05junk", bytes(100)], zmq.NOBLOCK)
            seen = events_of(monitor, 0.7)
            assert zmq.EVENT_CONNECTED in seen, "%s did not even reach the door" % disguise.__name__
            assert zmq.EVENT_HANDSHAKE_SUCCEEDED not in seen, "%s was let in" % disguise.__name__
            assert not peer.poll(0), "%s got an answer" % disguise.__name__
            peer.disable_monitor()
    since_s = time.monotonic()
    wait_until(lambda: {x.pid for x in job.ledger("run") if x.time_s > since_s} == set(workers), 5,
               lambda: "all workers still at work; %s" % job)
    job.give("end")
    outcome = job.finish()
    assert outcome.status == 0 and outcome.out.splitlines()[1] == "right", str(job)
    job.clean()


@root
def test_captured_bytes_hold_no_plain_text(run_zmq):
    job = run_zmq("""
        def secret_function(argument):
            note("run")
            return b"marker-of-a-result" + argument

        if __name__ == "__main__":
            reach("ready")
            await_sign("go")
            print(len(poll(futures.submit(secret_function, b"marker-of-an-argument" * 100)).result()))
    """, "-n", "2")
    job.reached("ready")
    door = door_of(job)
    if door.startswith("ipc:"):
        pytest.skip("the engine's local link is a socket file, whose bytes nobody can capture")
    with contextlib.closing(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))) as wire:
        wire.bind(("lo", 0))
        wire.setblocking(False)
        job.give("go")
        job.right(18 + 2100)
        captured = bytearray()  # what has come meanwhile
        with contextlib.suppress(BlockingIOError):
            while len(captured) < 1 << 24:
                captured += wire.recv(1 << 17)
    assert len(captured) > 2100, "nothing was captured"
    for marker in (b"marker-of-an-argument", b"marker-of-a-result", b"secret_function"):
        assert marker not in captured
