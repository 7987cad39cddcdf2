"""Knocking at the door of the ØMQ engine: raw connections, hostile bytes, peers that should not get in."""
from __future__ import annotations

import contextlib
import os
import pickle
import random
import socket
import struct
import time
from typing import Iterator, List

from faults import system
from faults.jobs import Job

NULL, PLAIN, CURVE = b"NULL", b"PLAIN", b"CURVE"
COMMAND, LONG = 0x04, 0x02


def doors(job: Job) -> List[str]:
    """Return the addresses at which a launcher listens: ``tcp://HOST:PORT`` or ``ipc://PATH``."""
    found = []
    for opened in system.sockets(job.launcher):
        if opened.listening and opened.family == "unix":
            found.append("ipc://" + opened.local)
        elif opened.listening:
            host, port = system.address(opened.local)
            found.append("tcp://%s:%d" % (host.replace("0.0.0.0", "127.0.0.1"), port))
    return found


def knock(door: str) -> socket.socket:
    """Connect to a door."""
    kind, _, where = door.partition("://")
    if kind == "ipc":
        local = socket.socket(socket.AF_UNIX)
        local.settimeout(2)
        local.connect("\0" + where[1:] if where.startswith("@") else where)
        return local
    host, port = where.split(":")
    return socket.create_connection((host, int(port)), timeout=2)


def greeting(mechanism: bytes, as_server: bool = False) -> bytes:
    """Return a valid greeting of ZMTP 3.1 (ZeroMQ RFC 37), 64 bytes."""
    return b"\xff" + bytes(8) + b"\x7f\x03\x01" + mechanism.ljust(20, b"\0") + bytes([as_server]) + bytes(31)


def frame(body: bytes, flags: int = 0) -> bytes:
    """Return a frame of ZMTP 3.1."""
    if len(body) > 255 or flags & LONG:
        return struct.pack(">BQ", flags | LONG, len(body)) + body
    return struct.pack(">BB", flags, len(body)) + body


class Bomb:
    """Whoever unpickles one looks up ``os.system``."""

    def __reduce__(self):
        return os.system, ("touch /tmp/pwned-by-pickle",)


def hostile(rng: random.Random) -> bytes:
    """Return the bytes of one hostile connection."""
    hello = greeting(rng.choice([NULL, PLAIN, CURVE, CURVE, b"GSSAPI", b"?" * 20]), rng.random() < 0.3)
    junk = bytes(rng.getrandbits(8) for _ in range(rng.randrange(1, 200)))
    ready = frame(b"\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER", COMMAND)
    bombs = [pickle.dumps(Bomb()), b"\x80\x05" + b"]" * 5000 + b".", b"(" * 5000, pickle.dumps([[[[]]]] * 50)]
    return rng.choice([
        lambda: junk,
        lambda: hello[:rng.randrange(64)],
        lambda: hello + junk,
        lambda: hello + struct.pack(">BQ", rng.choice([0, COMMAND]) | LONG, 2**63) + junk,
        lambda: hello + struct.pack(">BQ", LONG, 2**40) + junk * 50,
        lambda: hello + frame(b"\x05HELLO\x01\x00" + bytes(192), COMMAND) + junk,
        lambda: hello + frame(b"\x05HELLO" + junk, COMMAND),
        lambda: hello + ready + b"".join(frame(rng.choice(bombs), rng.choice([0, 1])) for _ in range(100)),
        lambda: hello + ready[:rng.randrange(len(ready))],
        lambda: hello + frame(b"\x04PING" + junk, COMMAND) * 200,
        lambda: b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ])()


def assault(door: str, count: int, rng: random.Random) -> None:
    """Make so many hostile connections, one after the other."""
    for _ in range(count):
        with contextlib.suppress(OSError), contextlib.closing(knock(door)) as peer:  # being cut off is what we expect
            peer.sendall(hostile(rng))


@contextlib.contextmanager
def crowd(door: str, count: int) -> Iterator[List[socket.socket]]:
    """Hold so many connections that say nothing."""
    with contextlib.ExitStack() as stack:
        peers = []
        for _ in range(count):
            with contextlib.suppress(OSError):
                peers.append(stack.enter_context(contextlib.closing(knock(door))))
        yield peers


def is_cut(peer: socket.socket) -> bool:
    """Tell whether the other end has closed a connection; what it said meanwhile is thrown away."""
    peer.setblocking(False)
    try:
        while peer.recv(4096):
            pass
        return True
    except BlockingIOError:
        return False
    except OSError:
        return True


def dribble(peers: List[socket.socket], seconds: float, every_s: float = 1.0) -> None:
    """Let each of the peers say its greeting byte by byte."""
    text, begin, said = greeting(CURVE), time.monotonic(), 0
    while time.monotonic() < begin + seconds:
        for peer in peers:
            with contextlib.suppress(OSError):
                peer.send(text[said % 64:said % 64 + 1])
        said += 1
        time.sleep(every_s)
