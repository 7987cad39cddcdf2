#!/usr/bin/env python3
# /// script
# requires-python = ">=3.8"
# dependencies = ["pyzmq", "greenlet"]
# ///
"""scoop_lite: spread ``futures.map(f, xs)`` over every core you can reach, with one file.

    from scoop_lite import futures

    def square(x):
        return x * x

    if __name__ == "__main__":
        print(sum(futures.map(square, range(1000))))      # python scoop_lite.py -n 4 squares.py  ->  332833500

It does the job of SCOOP (Scalable COncurrent Operations in Python) and keeps its programming interface. The standard
library is enough; pyzmq (for networks) and greenlet (for waiting tasks) are used where they are installed. The manual:
``help(scoop_lite.futures)``, ``help(scoop_lite.shared)``, ``help(scoop_lite.Executor)``, ``python3 scoop_lite.py -h``.

    launcher (broker) --socketpair-- agent on this host --+-- worker 0 = origin: runs the script, tasks while it waits
          |                                               +-- worker 1 ...
          +-- stdin/stdout of `ssh node1 ...` -- agent ---+-- worker ...

Roles. The *launcher* is the process that the user started; it holds the *broker*, which moves tasks and results
between workers and never unpickles them. An *agent* starts, watches and connects the *workers* of one host. The
*origin* (worker 0) runs the user's script. With an Executor, its *client* takes the origin's place and runs no tasks;
to the workers of its own host, its *neighbours*, it has *straight links*, past the broker.

Words. *task*: one call on its way to being run; *future*: the caller's handle on it; *owner*: the worker whose code
created a task; *chunk*: tasks that run the same code, and so are alike in cost, pickled together, the unit that is
moved, accounted for and retried; *batch*: a chunk on its way; *order*: the broker's standing wish for tasks; *carve*:
take chunks out of the local queue to fill an order; *strand*: a stack that can be parked; *link*: one connection;
*starter*: the command that reaches a host. Durations end in ``_s``.

Guarantees. Without a fault each task runs exactly once; when workers die, at most ``--retries`` times more, and then it
fails with WorkerLost. Nothing listens anywhere but with ``--backend zmq`` or ``loopback`` (Windows' way); and then only
keys handed out by this run get in. No exit status 0 for a script that failed, and no process left behind.

How it is fast. ``submit`` and ``map`` only append to a queue; each worker runs the deepest tasks first and gives away
the shallowest, when somebody is hungry, in chunks of some 50 ms of measured work.

Contents
    Errors; Message table; Codec; Links                                    what processes say to each other
    Broker                                                                 who gets which tasks, and who has died
    Strands; Pickling; Explaining what cannot travel                       what tasks need
    Tasks and futures; Scheduler; Runtime                                  what is to be done, in which order; doing it
    futures and shared; Executor                                           the programming interface
    Worker process; Agent; Hosts; Starters; Launcher                       processes and hosts
    What the user sees; Command line                                       the terminal

SPDX-License-Identifier: MIT
"""

from __future__ import annotations

import _thread
import argparse
import atexit
import builtins
import collections
import concurrent.futures
import contextlib
import contextvars
import copyreg
import enum
import errno
import functools
import gc
import heapq
import importlib
import importlib.machinery
import importlib.util
import io
import itertools
import json
import logging
import marshal
import math
import mmap
import operator
import os
import pickle
import re
import select
import selectors
import shlex
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
import traceback
import types
import warnings
import weakref
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION, CancelledError, InvalidStateError
from concurrent.futures import TimeoutError as FutureTimeout
from operator import length_hint

try:
    import fcntl
    import resource
    import termios
except ImportError:  # not on Windows
    fcntl = resource = termios = None  # type: ignore[assignment]

if __name__ != "__main__":  # a program reads no annotations, and to import this would take its start 5 ms
    from typing import AbstractSet, Any, Callable, Deque, Dict, FrozenSet, Iterable, Iterator, List, Mapping

    # isort: split
    from typing import Optional, Sequence, Set, Tuple, Union

    Frames = List[Any]  # a message: bytes, bytearray or memoryview each
    Send = Callable[..., None]  # to a Member, or the agent of the host with a number: frames
    ChunkKey = Tuple[int, int, int]  # owner, its incarnation, chunk id
    Ranges = List[Tuple[int, int]]  # [first, end) each
    Told = List[Tuple[Callable[[Any], None], Any]]  # who is to be told, and of which future
    Names = AbstractSet[str]  # what travels by value, see `dumps`
    Reduction = Any  # what `__reduce__` returns: a tuple or a name; or NotImplemented
    Watched = Tuple[Callable[[], bool], "Waiter"]  # a condition, and who is to be woken when it holds
    # Tasks of one function that a strand is running one after another: function, arguments and keyword arguments of the
    # first; when it began, and was made (or None); the Visit that they belong to, or None for this worker's own.
    Run = Tuple[Any, Any, Any, float, Optional[float], Optional["Visit"]]

__version__ = "0.1.0"
_run_as_script = __name__ == "__main__"
_this: Any = sys.modules.get(__name__)  # needs Python 3.8 or newer; see `lead`
if _this is None:
    raise ImportError(f"{__name__} is not in sys.modules: put a module there before you have its loader execute it")
_code: Any = sys._getframe().f_code if _run_as_script and "begun" not in globals() else None  # see `begin_again`
__file__ = os.path.abspath(__file__)  # Python 3.8 leaves that of a script relative
if _run_as_script:  # one name, whatever the file is called: so that what it defines can be pickled
    if vars(_this) is not globals():  # cProfile, for one: nobody could import what runs here
        raise ImportError("nothing but Python runs scoop_lite; write -m cProfile script.py after it, or use --profile")
    __name__ = "scoop_lite"
__all__ = ["futures", "shared", "Executor", "main", "ScoopError", "MisuseError", "PeerError", "WorkerLost"]

# Durations are seconds and end in _s. Where a change costs something, the comment says what.
LOCAL_SLICE_S = 0.004  # tasks run in one C loop before this worker looks at its link: more delays orders, less is slow
MAX_SLICE_S = 0.05  # the same at most, for half of what is left: more has what messages bring wait, less looks in vain
CHUNK_S = 0.05  # measured work carved into one chunk: more is lost with a worker, less costs messages
FOLD_CHUNK_S = 0.5  # the same for reductions: their chunks send back few values, however long they are
MAX_CHUNK = 1 << 16  # tasks carved into one chunk: of very short ones, pickling more has their taker wait
PASS_OVER = 4  # times as many tasks as make a chunk are passed over for those alike in cost: more takes longer to do so
MIN_CHUNK_S = 0.001  # a chunk of less work than this costs more to move than others gain by it
SHORT_S = 0.002  # tasks measured shorter are prefetched, and run without the pump beside them
PREFETCH_S = 0.0001  # less work than this at hand, and asking for more goes with its results: one wait less
PREFETCH_PART = 1 / 16  # of a task: if fetching takes a bigger part, the next batch comes while the last task runs
NEAR_S = 0.002  # all that fetching takes on the launcher's host: what is beyond waits for a CPU, which others want, too
AHEAD_S = 0.03  # what fetching may take at most beside the shortest time seen: busy owners look at their links seldom
PATIENCE_S = 0.002  # for a client to send what it was asked for, before others are asked: less has them return theirs
PATIENCE_PART_S = 0.0002  # the same for each worker of a big pool, as the client serves one after another
DRAW_S = 0.001  # for which a map draws input before that may be run: of more, workers idle; less makes crumbs
DOZE_S = 0.015  # for slices of short tasks, until the pump looks whether they are: more holds up others, less costs CPU
SWITCH_S = 0.0005  # for which tasks may keep the GIL from the pump: of more, others idle; less slows threads of tasks
FLUSH_S = 0.05  # results wait this long for company while tasks are left: less wakes their owner for each slice
BIG_FRAME = 32 * 1024  # frames from here on are received straight into a buffer of their own
BIG_BUFFER = 64 * 1024  # pickle-5 buffers from here on are frames of their own; smaller ones cost less as a copy
HUGE_BUFFER = 1 << 21  # bytes of a huge page: smaller buffers could not have one
SMALL_FRAME = 256  # bytes of a frame that relays may hold whole, however many a message has; brokers read only such
MAX_FRAME = 1 << 26  # bytes; a length above it is a broken or hostile peer: what is big of ours travels in pieces
MAX_FRAMES = 1 << 21  # of one message; likewise
MAX_MESSAGE = 1 << 29  # bytes of one; likewise
PIECE = 1 << 20  # bytes of a message that is relayed in one go; of a bigger one, relays hold so much at a time
PIECES_AHEAD = 4  # pieces of one worker that may be under way: fewer slow down far links, more take relays' memory
MAX_TRACEBACK = 1 << 16  # characters that travel: more of deep recursions takes longer than they do
WINDOW = 1024  # first window of a lazy map, in items; doubles while consumers starve
MAX_WINDOW = 1 << 18
MAX_INLINE = 32  # tasks run on top of each other on one strand; deeper ones get a strand (and stack) of their own
MAX_PARKED = {"greenlet": 100_000, "thread": 1_000}  # parked strands from which a worker takes no more foreign tasks
MAX_DEPTH = 1 << 17  # of nested tasks: a worker has a queue of 700 bytes for each depth below the deepest
INITIALIZER = "scoop_lite.initializer"  # the name of the constant that an Executor gives its workers first
AGENT = 0xFFFFFFFF  # the rank that addresses an agent itself
ORIGIN = 0  # the rank of the worker that runs the user's script
MANY = 64  # workers, from which on to begin again saves more time than it takes
CAN_FORK = hasattr(os, "fork")  # else (Windows) local links are those of `Door`
HAS_GIL = getattr(sys, "_is_gil_enabled", lambda: True)()  # else threads of one process run side by side
#: What to say if this Python cannot run workers.
WRONG_PYTHON = "" if sys.implementation.name == "cpython" else (
    f"this Python is {sys.implementation.name}: workers need CPython, whose garbage collector and code they know"
)
NEW_GROUP = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)  # Windows: Ctrl-C is not for this process
TWICE_S = 0.1  # after a signal, the next one is the same: less lets `timeout` cut short what the first one begins
AGAIN_S = 10.0  # so long after one, an interrupt is a first again: more kills scripts that go on, less spares hung ones
DOOR_S = 2.0  # for a connection to prove its key: less refuses workers of a busy machine, more lets strangers stay
MAX_CALLERS = 64  # connections that have not proved a key yet; the oldest makes way for one more

logger = logging.getLogger("scoop_lite")
now = time.perf_counter  # the one clock here: monotonic on every platform, and fine enough for short tasks


# ======================================================================================================================
# Errors: misuse, bad peer, lost worker                                                            (every process)
# ======================================================================================================================


class ScoopError(Exception):
    """Base of all errors of this module."""


class MisuseError(ScoopError, RuntimeError):
    """The caller did what cannot work; the text says what to do instead."""


class Unpicklable(MisuseError, TypeError, pickle.PicklingError):
    """An argument or a result cannot travel; the text names the guilty part and the usual fix."""


class PeerError(ScoopError, ConnectionError):
    """The other end of a link sent what the protocol does not allow."""


class WorkerLost(ScoopError, concurrent.futures.BrokenExecutor):
    """A task was present at the death of its worker more often than ``--retries`` allows."""


class Stopped(BaseException):
    """Ends a strand whose result nobody can receive any more (never reaches user code's ``except Exception``)."""


class RemoteTraceback(Exception):
    """Carries the text of a traceback from another process; it is the ``__cause__`` of the exception it explains."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


# ======================================================================================================================
# Message table: the protocol's single source of truth                                             (every process)
# ======================================================================================================================
# Every message is a list of frames. The first is HEADER: kind, rank and incarnation of the worker it comes from (up) or
# goes to (down); agents and the broker route by it and touch nothing else. `to`, `chunk` and `part` are the structs
# below: clear text, so that the broker can account for tasks that it never unpickles. `function` is empty where it does
# not travel by name: it is in the payload then.

HEADER = struct.Struct("!BII")  # kind, rank, incarnation
COUNT = struct.Struct("!Q")  # a cumulative count
HUNGER = struct.Struct("!QQ")  # the batches a worker ever wanted, and how often it has said so
OWNER = struct.Struct("!II")  # rank and incarnation of the worker whose code created the tasks
CHUNK = struct.Struct("!IIQIIIBBQQI")  # owner, inc., chunk id, first, count, depth, careful, mode, place, order, frames
PART = struct.Struct("!QIIQBI")  # chunk id, first, count, nanoseconds they took, form, frames
REF = struct.Struct("!QII")  # chunk id, first, count
LOST_REF = struct.Struct("!QIIB")  # the same, and whether these tasks had surely begun
HEAP = struct.Struct("!QQ")  # number and bytes of what a sender cuts into pieces, as a whole (see `Outbox`)

Kind = collections.namedtuple("Kind", "code name direction frames when answer")  # a row of the message table
MESSAGES = [Kind(code, *row) for code, row in enumerate([
    ("HELLO", "worker > broker", "facts", "a worker is up", "WELCOME, CONST"),
    ("WELCOME", "broker > worker", "facts", "answers HELLO", ""),
    ("HUNGRY", "worker > broker", "hunger", "it can take in one more batch, or not any more", "BATCH"),
    ("ORDER", "broker > worker", "count", "takers wait; count of all batches ever ordered here", "BATCH"),
    ("BATCH", "worker > broker > worker", "function, chunk, payload…", "carved on order", "RESULT"),
    ("RETURNED", "worker > broker > worker", "function, chunk, payload…", "a BATCH is better run elsewhere", "BATCH"),
    ("RESULT", "worker > broker > worker", "to, (part, payload…)…", "tasks are done, or cannot be unpickled", "BATCH"),
    ("NEXT", "worker > broker, client", "to, hunger, (part, payload…)…", "RESULT and HUNGRY in one", "RESULT, BATCH"),
    ("CANCEL", "worker > broker > worker", "to, ref", "the owner gave up these tasks", "RESULT"),
    ("LOST", "broker > worker", "facts, ref…", "a worker died with tasks of this owner", "BATCH"),
    ("PURGE", "broker > worker", "to", "an owner died: drop its tasks", ""),
    ("CONST", "worker > broker > all", "to, count, name, payload…", "setConst; echoed to the setter too", "CONST"),
    ("REFUSED", "broker > worker", "count", "the constant of this CONST exists already", ""),
    ("FETCH", "worker > broker", "facts", "it imports what lies beside the script, on the launcher's host", "MODULE"),
    ("MODULE", "broker > worker", "facts, content", "answers FETCH; no content if the same is there", ""),
    ("POOL", "broker > worker", "facts", "the number of workers changed", ""),
    ("BYE", "worker > broker", "facts", "the origin's script has ended; another worker retires", "STOP"),
    ("STOP", "broker > worker, agent", "", "the job is over", ""),
    ("INTERRUPT", "broker > agent", "facts", "a signal for the script, most often to end", "BYE"),
    ("JOIN", "agent > launcher", "facts", "a host is there; how many CPUs it offers", "START"),
    ("START", "broker > agent", "facts", "start these workers", "STARTED"),
    ("STARTED", "agent > broker", "facts", "a worker runs (its link follows as a descriptor)", ""),
    ("DIED", "agent > broker", "facts", "a worker has ended, and how", "START"),
    ("KILL", "broker > agent", "facts", "end this worker", "DIED"),
    ("OUTPUT", "agent > launcher", "facts, bytes", "what a worker printed, in whole lines where possible", ""),
    ("WRITTEN", "broker > agent", "count", "bytes of OUTPUT that have reached the user so far", ""),
    ("BROKEN", "worker > broker > worker", "facts", "it cannot begin: nobody can run anything", ""),
    ("ALL", "worker > broker > worker", "function, chunk, payload…", "a task for each worker", "SPREAD, RESULT"),
    ("SPREAD", "broker > worker", "ref", "how many workers got the task of ALL", ""),
    ("OPENED", "worker > broker, client", "to, ref", "a task suspected of killing workers begins", "RESULT"),
    ("STATS", "worker > broker", "facts", "what it has done so far, while somebody watches", ""),
    ("TRACE", "worker > broker", "lines", "events for --trace", ""),
    ("LOG", "worker > broker", "facts", "a log record for the user", ""),
    ("ABORT", "worker > broker > worker", "to, ref", "like CANCEL, and end what runs: the user's interrupt", "RESULT"),
    ("PIECE", "worker > broker > worker", "to, heap, bytes", "a part of a big message, ahead of the rest", "CREDIT"),
    ("CREDIT", "worker > broker > worker", "to, count", "so many pieces have arrived", "PIECE"),
    ("SUSPEND", "broker > agent", "", "Ctrl-Z stops the launcher: until it speaks again, its silence is no death", ""),
    ("NEIGHBOUR", "broker > client", "facts", "a straight link to a worker follows as a descriptor", "CONST, BATCH"),
], 1)]  # fmt: skip
# Handled by whichever thread reads the link: they touch queues and counters only.
URGENT = ("WELCOME", "ORDER", "BATCH", "RETURNED", "CANCEL", "ABORT", "SPREAD", "LOST", "POOL", "MODULE",
          "PIECE", "CREDIT")  # fmt: skip
CODES = {row.name: row.code for row in MESSAGES}
NAMES = {row.code: row.name for row in MESSAGES}
#: The OWNER that an Executor's client is by its straight links to workers: what is so addressed goes past the broker.
STRAIGHT = OWNER.pack(ORIGIN, 0)
CLIENT = ORIGIN, 0  # the same, unpacked


def message(kind: str, rank: int, incarnation: int, *frames: Any) -> Frames:
    """Build a message: HEADER and its frames."""
    return [HEADER.pack(CODES[kind], rank, incarnation), *frames]


def facts(**values: Any) -> bytes:
    """Encode a frame of named facts (JSON: safe to read from anyone)."""
    return json.dumps(values).encode()


def read_facts(frame: Any, **kinds: type) -> Dict[str, Any]:
    """Decode a frame of named facts; PeerError if it is none, or one of `kinds` is missing, or no such value.

    What else it holds is dropped, as nobody has checked it.
    """
    try:
        found = json.loads(bytes(frame))
    except (ValueError, RecursionError) as error:
        raise PeerError(f"no facts: {bytes(frame[:80])!r}: {error!r:.100}") from None
    if type(found) is not dict or not all(is_fact(found.get(name), kind) for name, kind in kinds.items()):
        raise PeerError(f"facts without {', '.join(kinds)}: {bytes(frame[:80])!r}")
    return {name: found[name] for name in kinds}


def is_fact(value: Any, *kinds: type) -> bool:
    """Say whether a value is of one of these types; a number that cannot be meant (NaN, infinite, 10**400) is not."""
    return type(value) in kinds and (type(value) not in (int, float) or abs(value) < 1 << 53)


def handlers_of(owners: Sequence[Any], *directions: str) -> Dict[int, Callable[..., None]]:
    """Find a handler, by code, for each message whose direction holds one of these; a missing one is an error at start.

    It is the method ``on_<kind>`` of the first of `owners` that has one.
    """
    names = {row.code: "on_" + row.name.lower() for row in MESSAGES if any(d in row.direction for d in directions)}
    return {code: getattr(next((o for o in owners if hasattr(o, name)), owners[0]), name)
            for code, name in names.items()}


# ======================================================================================================================
# Codec: ZMTP 3.1 frames (ZeroMQ RFC 37), no input or output in here                                (every process)
# ======================================================================================================================
# greeting: FF 00*8 7F 03 01, mechanism[20], as-server, 00*31.  frame: flags, size (1 byte, or 8 with LONG), body.

MORE, LONG, COMMAND = 1, 2, 4
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"NULL".ljust(20, b"\0") + bytes(32)
LONG_HEAD = struct.Struct("!BQ")
SHORT_HEADS = [[bytes((flags, size)) for size in range(256)] for flags in range(2 * COMMAND)]


def encode(frames: Sequence[Any], out: Any, flag: int = 0) -> Any:
    """Add one message to the buffers to be written: small frames to the last one, big ones as they are (no copy)."""
    if not out or type(out[-1]) is not bytearray or len(out[-1]) >= BIG_FRAME:  # a frame, or partly written
        out.append(bytearray())
    small, flags, last, sizes = out[-1], flag | MORE, len(frames) - 1, [*map(len, frames)]
    if max(sizes) < 256:  # as most are: in C
        heads = [*map(SHORT_HEADS[flags].__getitem__, sizes)]
        heads[-1] = SHORT_HEADS[flag][sizes[-1]]
        small += b"".join(itertools.chain.from_iterable(zip(heads, frames)))
        return out
    for i, frame in enumerate(frames):
        if i == last:
            flags = flag
        size = len(frame)
        small += SHORT_HEADS[flags][size] if size < 256 else LONG_HEAD.pack(flags | LONG, size)
        if size < BIG_FRAME:
            small += frame
        else:
            small = bytearray()
            out += frame, small
    if not small:
        out.pop()
    return out


def command(name: bytes, body: bytes = b"") -> bytes:
    """Encode a ZMTP command frame such as READY or PING."""
    return bytes(encode([bytes((len(name),)) + name + body], [], COMMAND)[0])


# What to send first; no answer needs to be waited for. READY ends the NULL handshake.
OPENING = GREETING + command(b"READY", b"\x0bSocket-Type\0\0\0\x06DEALER")
NO_SIGNAL = getattr(socket, "MSG_NOSIGNAL", 0)  # a program may have SIGPIPE at its default
PING = command(b"PING", bytes(2))  # its time to live, 0: the receiver may judge our silence for himself


NO_ROOM = b"no room for this frame"  # the very object, in the place of a frame for which there was no memory


def is_whole(frames: Frames) -> bool:
    """Return True unless there was no memory for one of them."""
    return id(NO_ROOM) not in map(id, frames)


def room_for(size: int) -> Any:
    """Return a writable buffer of so many bytes; of huge pages where Linux has them. MemoryError if there are none.

    Pages are the price of a big buffer: else the kernel clears and maps 4 KiB at a time, when each is first touched. On
    a virtual machine that takes longer than to send and to receive what is in them.
    """
    if size >= HUGE_BUFFER and sys.platform == "linux":
        with contextlib.suppress(OSError, OverflowError):  # no huge pages here, or no memory: the next line will tell
            found = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            found.madvise(mmap.MADV_HUGEPAGE)
            return memoryview(found)
    return bytearray(size)


class Codec:
    """The receiving half of one ZMTP 3.1 connection with the NULL mechanism.

    Feed it what arrives; complete messages are in `messages`, what must be answered (PONG) in `replies`.
    """

    def __init__(self, max_frame: int = MAX_FRAME) -> None:
        self.messages: Deque[Frames] = collections.deque()
        self.replies: List[bytes] = []
        self.max_frame = max_frame
        self.n_held = 0  # bytes of a message that is not complete, or of several
        self.greeted = self.ready = False
        self.rest = b""  # bytes of a frame that is not complete
        self.frames: Frames = []  # frames of a message that is not complete
        self.spares = False  # a frame for which there is no memory becomes NO_ROOM: where nothing is relayed
        self.buffer: Any = None  # a big frame that is not complete
        self.big: Optional[memoryview] = None  # what is still to be filled of it
        self.big_flags = self.left = 0  # and how many bytes that are

    def feed(self, data: bytes) -> None:
        """Take in bytes that arrived; PeerError if this is not ZMTP 3.x with NULL, or a frame larger than max_frame."""
        if self.rest:
            data = self.rest + data
        at, end, begun = 0, len(data), self.frames
        if not self.greeted:
            if not self.greet(data):
                self.rest = data
                return
            at = len(GREETING)
        while end - at >= 2:
            flags, size, body = data[at], data[at + 1], at + 2
            if flags <= MORE and self.ready and body + size <= end:  # a small frame of a message, as most are
                at = body + size
                self.frames.append(data[body:at])
                if not flags:
                    self.messages.append(self.frames)
                    self.frames = []
                continue
            if flags & LONG:
                if end - at < 9:
                    break
                size, body = int.from_bytes(data[at + 1 : at + 9], "big"), at + 9
            if flags > 7 or size > self.max_frame or (flags & COMMAND and size >= BIG_FRAME):
                raise PeerError(f"not a frame of this protocol: {bytes(data[at : at + 80])!r}")
            if body + size > end:
                if size >= BIG_FRAME:
                    self.begin_big(flags, size, data[body:])
                    at = end
                break
            self.end_frame(flags, data[body : body + size] if size < BIG_FRAME else bytearray(data[body : body + size]))
            at = body + size
        self.rest = data[at:]
        self.n_held = 0 if not self.frames else end + (self.n_held if self.frames is begun else 0)
        if len(self.frames) > MAX_FRAMES or self.n_held > max(MAX_MESSAGE, self.max_frame):
            raise PeerError(f"a message of more than {MAX_FRAMES} frames, or {MAX_MESSAGE} bytes")

    def greet(self, data: bytes) -> bool:
        """Check the peer's greeting; return False while it is not all here."""
        if data[:1] not in (b"", b"\xff") or (len(data) > 9 and not data[9] & 1) or (len(data) > 10 and data[10] < 3):
            raise PeerError(f"expected a ZMTP 3 greeting, got {bytes(data[:200])!r}")
        if len(data) < len(GREETING):
            return False
        if data[12:32].rstrip(b"\0") != b"NULL":
            raise PeerError(f"expected the NULL mechanism, got {bytes(data[12:32])!r}")
        self.greeted = True
        return True

    def begin_big(self, flags: int, size: int, start: bytes) -> None:
        """Begin a big frame, in a buffer of its own: the link reads the rest straight into it."""
        self.big_flags, self.left = flags, size - len(start)
        try:
            self.buffer = room_for(size)
            self.buffer[: len(start)] = start
            self.big = memoryview(self.buffer)[len(start) :]
        except MemoryError:
            if not self.spares:
                raise
            self.buffer, self.big = NO_ROOM, memoryview(bytearray(min(self.left, BIG_FRAME)))

    def filled(self, n: int) -> None:
        """Note that `n` bytes were written to the start of `big`."""
        assert self.big is not None
        self.left -= n
        self.n_held += n
        if not self.left:
            whole, self.big, self.buffer = self.buffer, None, None
            self.end_frame(self.big_flags, whole)
        elif self.buffer is NO_ROOM:
            self.big = self.big[: self.left]  # filled over and over, and never with what follows this frame
        else:
            self.big = self.big[n:]

    def end_frame(self, flags: int, frame: Any) -> None:
        """Add a complete frame to its message, or obey it when it is a command."""
        if flags & COMMAND:
            self.obey(bytes(frame))
            return
        if not self.ready:
            raise PeerError(f"a message before the handshake has ended: {bytes(frame[:80])!r}")
        self.frames.append(frame)
        if not flags & MORE:
            self.messages.append(self.frames)
            self.frames, self.n_held = [], 0

    def obey(self, body: bytes) -> None:
        """Handle a command: READY ends the handshake, PING is answered, others are ignored as RFC 37 asks."""
        name = body[1 : 1 + body[0]] if body else b""
        if name == b"READY":
            self.ready = True
        elif name == b"ERROR":
            raise PeerError(f"the peer refused the connection: {body[7:]!r}")
        elif name == b"PING":
            self.replies.append(command(b"PONG", body[7:23]))


# ======================================================================================================================
# Links: one connection each; `send`, `receive`, `close`, one reader at a time                       (every process)
# ======================================================================================================================


class StreamLink:
    """A link over a connected socket, or over a pair of pipes (the standard input and output of a starter).

    Nothing blocks: what cannot be written at once waits in `out`, in order.
    """

    edge = False  # its descriptor stays readable while there is something to read

    def __init__(self, reader: Any, writer: Any = None, passes_descriptors: bool = False) -> None:
        self.sock = reader if isinstance(reader, socket.socket) else None
        self.reader, self.writer = reader, writer or reader
        self.fileno: Callable[[], int] = reader.fileno
        self.codec = Codec()
        self.out: Deque[Any] = collections.deque([OPENING])  # buffers of bytes
        self.closed = ""  # why, once it is
        self.silent = False  # that is why; whoever is at the other end may still be there
        self.descriptors: Deque[int] = collections.deque()  # received over a local socket, in order
        self.n_in = self.n_out = 0  # bytes
        self.unread = False  # there may be more than the last `receive` has read
        read = self.sock.recv if self.sock else functools.partial(os.read, reader.fileno())
        self.read: Callable[[int], bytes] = self.read_with_descriptors if passes_descriptors else read
        self.ends = {self.reader: selectors.EVENT_READ, self.writer: selectors.EVENT_WRITE}  # what each is good for
        if self.sock:
            self.ends = {self.sock: selectors.EVENT_READ | selectors.EVENT_WRITE}
        self.events = selectors.EVENT_READ  # that a selector waits for here
        self.key: Any = None  # of that selector: whom it calls
        self.held = False  # nothing is read, as there is no room for it (sockets only)
        for end in self.ends:
            end.setblocking(False) if self.sock else os.set_blocking(end.fileno(), False)
        self.last_heard_s = self.beat_s = now()
        self.ping_s = 0.0  # when to send the next PING

    def send(self, frames: Frames) -> None:
        """Send one message, as far as it goes now."""
        encode(frames, self.out)
        self.flush()

    def queue(self, frames: Frames) -> None:
        """Add a message to `out`, to be written by the next `flush`."""
        encode(frames, self.out)

    def backlog(self) -> int:
        """Return how many bytes wait to be written."""
        return sum(map(len, self.out))

    def send_with_descriptors(self, frames: Frames, *fds: int) -> None:
        """Send one message and pass open descriptors along with its first byte (local sockets only)."""
        assert self.sock is not None
        data = b"".join(encode(frames, []))
        self.sock.setblocking(True)
        try:
            self.flush()  # the descriptor must not overtake earlier messages
            packed = struct.pack(f"{len(fds)}i", *fds)
            sent = self.sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, packed)])
            self.sock.sendall(data[sent:])
        except (BrokenPipeError, ConnectionResetError):
            pass  # as in `flush`: what the other end had sent before is still to be read
        except OSError as error:
            self.closed = self.closed or str(error)
        finally:
            self.sock.setblocking(False)

    def write_many(self) -> int:
        """Write several buffers, or to a pipe, without waiting; return the number of bytes."""
        buffers = list(itertools.islice(self.out, 64))
        if self.sock is None:
            return os.writev(self.writer.fileno(), buffers)
        return self.sock.sendmsg(buffers, (), NO_SIGNAL)

    def flush(self) -> bool:
        """Write as much of `out` as goes; return True when all of it went."""
        out, sock = self.out, self.sock
        try:
            while out:
                alone = sock is not None and (len(out) == 1 or not hasattr(sock, "sendmsg"))
                n = sock.send(out[0], NO_SIGNAL) if alone else self.write_many()  # type: ignore[union-attr]
                self.n_out += n
                while out and n >= len(out[0]):
                    n -= len(out.popleft())
                if n:
                    out[0] = memoryview(out[0])[n:]
        except BlockingIOError:
            return False
        except OSError:  # the other end is gone, but what it had sent is still to be read: `receive` finds the end
            out.clear()
        return True

    def read_with_descriptors(self, size: int) -> bytes:
        """Read up to `size` bytes, with the descriptors that came along; b"" at end-of-file."""
        data: bytes
        data, ancillary, flags, _address = self.reader.recvmsg(size, 1024)
        if flags & socket.MSG_CTRUNC:
            raise OSError(errno.EMFILE, "no descriptor is left for a link that came; see `ulimit -n`")
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                self.descriptors.extend(fd for (fd,) in struct.iter_unpack("i", payload[: len(payload) // 4 * 4]))
        return data

    def receive(self, budget: int = 1 << 20) -> Deque[Frames]:
        """Read what is there, up to about `budget` bytes; return complete messages. Sets `closed` at the end.

        A short read means that the socket is empty: asking again would only cost a system call.
        """
        codec, self.unread = self.codec, False
        try:
            while budget > 0 and not self.closed:
                if codec.big is not None:
                    full = len(codec.big)
                    n = self.sock.recv_into(codec.big) if self.sock else os.readv(self.fileno(), [codec.big])
                    codec.filled(n)
                else:
                    data = self.read(1 << 16)
                    n, full = len(data), 1 << 16
                    codec.feed(data)
                if not n:
                    self.closed = self.closed or "the connection ended"
                self.n_in += n
                budget -= n
                self.last_heard_s = now()
                if n < full:
                    break
            else:  # the budget is used up
                self.unread = True
        except BlockingIOError:
            pass
        except OSError as error:  # a PeerError is one, too
            self.closed = self.closed or str(error)
        if codec.replies:
            if not self.out:  # else bytes are on their way, which tell the same
                self.out += codec.replies
            codec.replies.clear()
            self.flush()
        return codec.messages

    def take(self, handle: Callable[[Frames], Any], budget: int = 1 << 20) -> str:
        """Read what is there and have each message handled; return what is wrong with one, after which it is closed."""
        messages = self.receive(budget)
        try:
            while messages:
                handle(messages.popleft())
        except PeerError as error:
            self.closed = str(error)
            return self.closed
        return ""

    def watch(self, selector: selectors.BaseSelector) -> bool:
        """Flush; have a selector wait for writability while something is left. Return True when all of it went."""
        done = self.flush()
        events = (0 if self.held else selectors.EVENT_READ) | (0 if done else selectors.EVENT_WRITE)
        if events != self.events and not self.closed:
            self.key = selector.get_map().get(self.reader, self.key)
            self.unwatch(selector)
            self.events = events
            for end, possible in self.ends.items():
                if events & possible:
                    reads = possible & selectors.EVENT_READ
                    selector.register(end, events & possible, self.key.data if reads else lambda: None)
        return done

    def unwatch(self, selector: selectors.BaseSelector) -> None:
        for end in self.ends:
            with contextlib.suppress(KeyError):  # only one end of a pair, or none, was watched
                selector.unregister(end)

    def beat(self, now_s: float, heartbeat_s: float, dead_after_s: float) -> None:
        """Send a PING when it is time; close the link when it has been silent for too long.

        Both ends of a link between hosts do so, and any byte counts as life. Who finds that he was stopped or busy
        himself cannot know: then the silence begins anew, so that what came meanwhile is read before it is judged.
        """
        if now_s - self.beat_s > 2 * heartbeat_s:
            self.last_heard_s = max(self.last_heard_s, now_s)  # SUSPEND makes it infinite
        self.beat_s = now_s
        if now_s - self.last_heard_s > dead_after_s:
            self.closed, self.silent = self.closed or f"nothing was heard for {dead_after_s:g} s", True
        elif now_s >= self.ping_s:
            self.ping_s = now_s + heartbeat_s
            if not self.out:  # else bytes are on their way, and a PING would only queue behind them
                self.out.append(PING)

    def drain(self, timeout_s: float = 5.0) -> None:
        """Wait until everything is written, the link is closed, or `timeout_s` is over."""
        deadline = now() + timeout_s
        while not self.flush() and not self.closed and now() < deadline:
            Waits().wait([self], max(0.0, deadline - now()))  # not `select`, for which descriptors end at 1024

    def finish(self, timeout_s: float = 5.0) -> None:
        """Return when all is written; over TCP when the other end has read it: it may be lost with this process else.

        It is not closed yet, as the pump may wait on it.
        """
        self.drain(timeout_s)
        if self.sock is not None and self.sock.family == socket.AF_INET and not self.closed:
            with contextlib.suppress(OSError):  # the other end is gone, or does not close
                self.sock.shutdown(socket.SHUT_WR)
                self.sock.settimeout(timeout_s)
                while self.sock.recv(1 << 16):
                    pass

    def close(self) -> None:
        self.closed = self.closed or "closed here"
        self.reader.close()
        self.writer.close()


class Door:
    """Listens at 127.0.0.1, where descriptors can be neither inherited nor passed; who proves a key gets a link.

    Each side's proof is a MAC over its role, who the caller is and fresh nonces of both: it can be neither replayed nor
    reflected, and a key opens once. Until then so many bytes are read and no more, and nothing blocks.

        door > caller: nonce (32);  caller > door: OWNER of it (8), nonce (32), MAC (32);  door > caller: MAC (32)

    The thread that owns `selector` also calls `admit`: with rank, incarnation and socket of who has proved its key.
    """

    PROOF = struct.Struct("!8s32s32s")

    def __init__(self, selector: selectors.BaseSelector, admit: Callable[[int, int, socket.socket], Any]) -> None:
        self.selector, self.admit = selector, admit
        self.keys: Dict[bytes, bytes] = {}
        self.callers: Dict[socket.socket, float] = {}  # that have not proved a key yet, and until when they may
        self.sock = socket.socket()
        if hasattr(socket, "SO_EXCLUSIVEADDRUSE"):  # else another program could listen at the same port of Windows
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        self.sock.bind(("127.0.0.1", 0))
        self.sock.listen(128)
        self.sock.setblocking(False)
        selector.register(self.sock, selectors.EVENT_READ, self.answer)

    def invite(self, rank: int, incarnation: int) -> Dict[str, Any]:
        """Make a key; return what `knock` needs, to be handed over in secret."""
        key = self.keys[OWNER.pack(rank, incarnation)] = os.urandom(32)
        return {"port": self.sock.getsockname()[1], "key": key.hex(), "rank": rank, "incarnation": incarnation}

    @staticmethod
    def prove(key: bytes, role: bytes, *parts: bytes) -> bytes:
        import hmac  # where it is used: with OpenSSL behind it, it would take every start 3 ms

        return hmac.new(key, role + b"".join(parts), "sha256").digest()

    @classmethod
    def is_proof(cls, proof: bytes, key: bytes, role: bytes, *parts: bytes) -> bool:
        import hmac

        return hmac.compare_digest(proof, cls.prove(key, role, *parts))

    def answer(self) -> None:
        """Accept a connection, and begin to talk."""
        if len(self.callers) >= MAX_CALLERS:
            self.dismiss(next(iter(self.callers)))
        try:
            caller, _ = self.sock.accept()
        except OSError:  # it has gone already; or there are no descriptors
            self.make_room()
            return
        caller.setblocking(False)
        caller.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.callers[caller], talk = now() + DOOR_S, self.talk(caller)
        self.selector.register(caller, selectors.EVENT_READ, functools.partial(next, talk, None))
        next(talk, None)

    def talk(self, caller: socket.socket) -> Iterator[None]:
        """Send our nonce; read a proof, no byte more, going on when some have come; let in who gave a right one."""
        nonce, begun, right = os.urandom(32), b"", False
        with contextlib.suppress(OSError):  # it has gone, or was dismissed
            caller.send(nonce)
            while len(begun) < self.PROOF.size:
                yield
                data = caller.recv(self.PROOF.size - len(begun))
                if not data:
                    break
                begun += data
            else:
                who, theirs, proof = self.PROOF.unpack(begun)
                key = self.keys.get(who, b"")
                right = self.is_proof(proof, key, b"caller", who, nonce, theirs) and bool(key)
        if caller in self.callers:
            self.dismiss(caller, close=not right)
        if right:
            del self.keys[who]
            with contextlib.suppress(OSError):  # it has just died, as its link will tell
                caller.send(self.prove(key, b"door", who, nonce, theirs))
            rank, incarnation = OWNER.unpack(who)
            self.admit(rank, incarnation, caller)

    def dismiss(self, caller: socket.socket, close: bool = True) -> None:
        """Stop waiting for a caller; it is let in, or hung up on."""
        del self.callers[caller]
        self.selector.unregister(caller)
        if close:
            caller.close()

    def make_room(self) -> None:
        """Dismiss all callers, as descriptors are scarce: who has a key comes again."""
        list(map(self.dismiss, list(self.callers)))

    def sweep(self) -> None:
        """Dismiss who has been silent for too long."""
        for caller, deadline in list(self.callers.items()):
            if now() >= deadline:
                self.dismiss(caller)

    def close(self) -> None:
        self.selector.unregister(self.sock)
        self.sock.close()
        self.make_room()


def knock(port: int, key: str, rank: int, incarnation: int) -> socket.socket:
    """Connect to a `Door`, prove the key there, and have it prove the same: PeerError if it does not within 10 s."""
    who, secret, deadline = OWNER.pack(rank, incarnation), bytes.fromhex(key), now() + JOIN_S
    while True:
        sock = socket.socket()
        try:
            sock.settimeout(JOIN_S)
            sock.connect(("127.0.0.1", port))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            nonce, theirs = os.urandom(32), receive_exactly(sock, 32)
            sock.sendall(who + nonce + Door.prove(secret, b"caller", who, theirs, nonce))
            if Door.is_proof(receive_exactly(sock, 32), secret, b"door", who, theirs, nonce):
                return sock
            raise PeerError("it is somebody else's")
        except OSError as error:
            sock.close()
            if now() >= deadline:
                raise PeerError(f"port {port} of 127.0.0.1 let nobody in: {error}") from None
            time.sleep(0.05)  # a crowd of strangers may have pushed us out


def receive_exactly(sock: socket.socket, size: int) -> bytes:
    """Receive so many bytes; PeerError if the other end closes before."""
    received = b""
    while len(received) < size:
        data = sock.recv(size - len(received))
        if not data:
            raise PeerError("it hung up")
        received += data
    return received


class Bell:
    """Wakes whoever waits for its descriptor; any thread and any signal handler may ring."""

    def __init__(self) -> None:
        self.reader, self.writer = socket.socketpair()  # not a pipe, of which `select` on Windows knows nothing
        self.reader.setblocking(False)
        self.writer.setblocking(False)
        self.fileno, self.fd = self.reader.fileno, self.reader.fileno()

    def ring(self) -> None:
        try:
            self.writer.send(b"!")
        except OSError:  # it is ringing, or closed
            pass

    def clear(self) -> None:
        try:
            self.reader.recv(4096)
        except BlockingIOError:  # it did not
            pass

    def close(self) -> None:
        self.reader.close()
        self.writer.close()

    def __del__(self) -> None:
        if hasattr(self, "fd"):  # else there were no descriptors left for it
            self.close()


class Outbox:
    """The sending half of one end of the protocol: a big message's frames travel ahead of it, in pieces.

    So relays (agents, the broker, libzmq) hold little of them, and route and account for small messages only. No more
    than PIECES_AHEAD of them are under way: the receiver, who never stops reading, answers each with a CREDIT. That one
    waits for nothing, nor does OPENED: a task that will kill this process must be known by then. All else that is to
    be sent after them waits here, in order. Only frames below SMALL_FRAME stay; others make heaps, of a piece's size or
    one frame. The message has a REFERENCE in the place of each, and a piece without bytes behind it ends the transfer,
    up to its heap. No other frame is both so long and so begun: pickles begin with 0x80, and no text with 0xFF. Their
    `source` is the OWNER of this end; TO_BROKER if it is the broker's own.
    """

    def __init__(self, source: bytes) -> None:
        self.source = source
        self.waiting: Deque[Frames] = collections.deque()
        self.credit = PIECES_AHEAD
        self.n_heaps = 0

    def put(self, frames: Frames) -> Sequence[Frames]:
        """Take in a message; return what may be sent now."""
        big = sum(map(len, frames)) > PIECE
        if not self.waiting and not big or frames[0][0] in PROMPT:
            return (frames,)
        self.waiting.extend(self.cut(frames) if big else (frames,))
        return self.take()

    def take(self) -> Sequence[Frames]:
        """Return what may be sent now of what waits."""
        found = []
        while self.waiting and (self.credit or not is_piece(self.waiting[0])):
            self.credit -= is_piece(self.waiting[0])
            found.append(self.waiting.popleft())
        return found

    def cut(self, frames: Frames) -> Iterator[Frames]:
        """Yield the pieces of a big message; then the message, and the end of the transfer."""
        kind, rank, incarnation = HEADER.unpack(frames[0])
        to = frames[1] if NAMES[kind] in RESULTS else ANYBODY if NAMES[kind] == "BATCH" else TO_BROKER
        piece = functools.partial(message, "PIECE", rank, incarnation, to)
        small, left = list(frames), PIECE
        heaps: List[List[Any]] = []  # frames that travel together, the last one first
        for i in range(len(frames) - 1, -1, -1):
            size = len(frames[i])
            if size >= SMALL_FRAME:
                if left + size > PIECE:
                    heaps.append([])
                    left = 0
                heaps[-1].append(frames[i])
                left += size
                small[i] = REFERENCE.pack(REFERENCE_MARK, self.source, self.n_heaps + len(heaps), left, size)
        for heap in heaps:
            self.n_heaps += 1
            view = memoryview(heap[0] if len(heap) == 1 else b"".join(heap[::-1]))
            name = HEAP.pack(self.n_heaps, len(view))
            yield from (piece(name, view[at : at + PIECE]) for at in range(0, len(view), PIECE))
        yield small
        if heaps:
            yield piece(HEAP.pack(self.n_heaps, 0), b"")


# A mark, the source of the pieces, the number of the heap there, bytes from here to its end, bytes of the frame.
REFERENCE = struct.Struct("!7s8sQQQ")
REFERENCE_MARK = b"\xffpieces"
PROMPT = (CODES["CREDIT"], CODES["OPENED"])  # what an Outbox sends at once
ALL_HEAPS = HEAP.pack((1 << 64) - 1, 0)
RESULTS = "RESULT", "NEXT"  # messages that bring results
TO_BROKER, ANYBODY = OWNER.pack(AGENT, 0), OWNER.pack(AGENT, 1)  # who gets pieces: the broker; whoever gets the BATCH


def is_piece(frames: Frames) -> bool:
    """Return True for a message that needs CREDIT."""
    return frames[0][0] == CODES["PIECE"] and len(frames[3]) > 0


class Inbox:
    """The receiving half of one end of the protocol: puts together what an Outbox has cut."""

    def __init__(self) -> None:
        # By source and number, what no message has taken yet: a buffer for a heap, and how many bytes of it have come.
        self.heaps: Dict[Tuple[bytes, int], Tuple[Any, int]] = {}

    def on_piece(self, source: bytes, frames: Frames) -> bool:
        """Take in a PIECE; return True if a CREDIT is due. The end of a transfer drops what no message has used."""
        number, size = HEAP.unpack(frames[2])
        if is_piece(frames):
            piece, key = frames[3], (source, number)
            if key not in self.heaps and type(piece) is bytearray and len(piece) == size:  # all of it: not copied
                heap, end = piece, size
            else:
                heap, start = self.heaps.get(key) or (self.begin(size), 0)
                end = start + len(piece)
                if end > size:
                    raise PeerError(f"{end} bytes for a heap of {size}")
                if heap is not NO_ROOM:
                    heap[start:end] = piece
            self.heaps[key] = heap, end
            return True
        self.heaps = {key: heap for key, heap in self.heaps.items() if key[0] != source or key[1] > number}
        return False

    def begin(self, size: int) -> Any:
        """Return a buffer for a heap, or NO_ROOM: its pieces are taken all the same, as others come after them."""
        try:
            return room_for(size)
        except (MemoryError, OverflowError) as error:
            logger.warning("no memory for %d bytes of a message: %r", size, error)
            return NO_ROOM

    def mend(self, frames: Frames) -> Frames:
        """Put frames in the place of their references, in the order in which they lie in their heaps."""
        return [self.find(f) if len(f) == REFERENCE.size and f[:7] == REFERENCE_MARK else f for f in frames]

    def find(self, reference: Any) -> Any:
        """Take a frame out of its heap; what lies before it may be of parts that the broker has refused."""
        _, source, number, left, size = REFERENCE.unpack(reference)
        heap, end = self.heaps.get((source, number), (reference, -1))
        if left == size:  # the last of this heap
            self.heaps.pop((source, number), None)
        if heap is reference or heap is NO_ROOM:
            return heap
        if not size <= left <= end == len(heap):
            raise PeerError(f"{end} of the {len(heap)} bytes of a heap, {left} wanted")
        start = end - left
        return heap if size == end else bytearray(memoryview(heap)[start : start + size])  # a big frame is not copied


class ZmqLink:
    """A worker's link over ØMQ: a DEALER to the broker's ROUTER, encrypted and authenticated with CURVE.

    libzmq's descriptor is edge-triggered: after anything was sent or received, `ready` tells what it no longer shows.
    The keys (Z85) come through the starter's pipe, with the broker's endpoint.
    """

    edge = True
    closed = ""
    out = ()  # what waits to be written is libzmq's business
    n_in = n_out = 0  # bytes
    unread = False  # `receive` reads all

    def __init__(self, endpoint: str, server_key: str, public: str, secret: str) -> None:
        import zmq  # an optional accelerator, imported only where it is used: it takes 40 ms

        self.zmq: Any = zmq
        self.context = zmq.Context()
        self.socket: Any = self.context.socket(zmq.DEALER)
        self.socket.set_hwm(0)  # past a limit libzmq would block or drop; orders bound what is under way
        self.socket.linger, self.socket.ipv6 = 2000, "[" in endpoint
        self.socket.curve_serverkey = server_key.encode()
        self.socket.curve_publickey, self.socket.curve_secretkey = public.encode(), secret.encode()
        self.socket.connect(endpoint)
        self.messages: Deque[Frames] = collections.deque()

    def fileno(self) -> int:
        return self.socket.getsockopt(self.zmq.FD)  # type: ignore[no-any-return]

    def queue(self, frames: Frames) -> None:
        """Send one message; frames of 64 KiB and more without a copy. libzmq has a queue of its own."""
        self.n_out += sum(map(len, frames))
        self.socket.send_multipart(frames, copy=max(map(len, frames)) < BIG_BUFFER)

    send = queue

    def flush(self) -> bool:
        return True

    def receive(self) -> Deque[Frames]:
        """Return all messages that are there."""
        try:
            while True:
                frames = self.socket.recv_multipart(self.zmq.NOBLOCK, copy=False)
                self.n_in += sum(map(len, frames))
                self.messages.append([f.bytes if len(f) < BIG_FRAME else bytearray(f.buffer) for f in frames])
        except self.zmq.Again:
            return self.messages

    def ready(self) -> bool:
        return bool(self.socket.getsockopt(self.zmq.EVENTS) & self.zmq.POLLIN)

    def drain(self) -> None:
        """Close, when all that was sent has gone (at most 2 s)."""
        self.socket.close()
        self.context.term()


class ZmqRouter:
    """The broker's end of the ØMQ engine: one ROUTER that lets in exactly the keys it has handed out.

    Each worker gets a key pair of its own; the ZAP handler (RFC 27) knows who has which public key, and libzmq stamps
    every message with it: so nobody speaks for another worker, nor with a key of a past run. `take` gets them all.
    """

    def __init__(self, selector: selectors.BaseSelector, take: Callable[[Member, Frames], None]) -> None:
        import zmq
        from zmq.utils import z85

        self.zmq: Any = zmq
        self.z85, self.take = z85, take
        self.context = zmq.Context()
        self.zap: Any = self.context.socket(zmq.REP)
        self.zap.bind("inproc://zeromq.zap.01")
        self.socket: Any = self.context.socket(zmq.ROUTER)
        for option, value in ((zmq.SNDHWM, 0), (zmq.RCVHWM, 0), (zmq.LINGER, 1000), (zmq.HANDSHAKE_IVL, 1000),
                              (zmq.MAXMSGSIZE, PIECE + 64), (zmq.ROUTER_MANDATORY, 1)):  # fmt: skip
            self.socket.setsockopt(option, value)
        self.socket.curve_server = True
        self.server_key, self.socket.curve_secretkey = zmq.curve_keypair()
        self.socket.zap_domain = b"scoop_lite"
        for sock in (self.socket, self.zap):
            fd: Any = sock.getsockopt(zmq.FD)
            selector.register(fd, selectors.EVENT_READ, self.receive)
        self.endpoints: Dict[str, str] = {}  # by address that it listens at; "" where that is not possible
        self.members: Dict[str, Member] = {}  # by public key
        self.keys: Dict[int, str] = {}  # public keys by rank: the last one each

    def invite(self, member: Member, address: str) -> Optional[List[str]]:
        """Listen at an address (an ephemeral port); return what a worker's ZmqLink needs, None if it is not ours."""
        if address not in self.endpoints:
            place = f"tcp://[{address}]" if ":" in address else f"tcp://{address}"
            self.socket.setsockopt(self.zmq.IPV6, ":" in address)
            try:
                self.endpoints[address] = f"{place}:{self.socket.bind_to_random_port(place)}"
            except self.zmq.ZMQError:
                self.endpoints[address] = ""
        if not self.endpoints[address]:
            return None
        public, secret = (key.decode() for key in self.zmq.curve_keypair())
        self.members.pop(self.keys.get(member.rank, ""), None)  # that of a dead incarnation
        self.members[public], self.keys[member.rank] = member, public
        return [self.endpoints[address], self.server_key.decode(), public, secret]

    def authenticate(self) -> None:
        """Answer libzmq's questions who may come in."""
        while self.zap.getsockopt(self.zmq.EVENTS) & self.zmq.POLLIN:
            version, request, _domain, _address, _identity, mechanism, *credentials = self.zap.recv_multipart()
            public = self.z85.encode(credentials[0]) if mechanism == b"CURVE" and len(credentials) == 1 else b""
            member = self.members.get(public.decode())
            known = member is not None and member.death is None
            verdict = [b"200", b"OK", public] if known else [b"400", b"no such key", b""]
            self.zap.send_multipart([version, request, *verdict, b""])

    def receive(self) -> int:
        """Take in all messages that are there, and answer the ZAP handler's questions; return how many came."""
        self.authenticate()
        n = 0
        while self.socket.getsockopt(self.zmq.EVENTS) & self.zmq.POLLIN:
            identity, *frames = self.socket.recv_multipart(copy=False)
            member = self.members.get(frames[0].get("User-Id")) if frames else None
            if member is not None:
                member.route = identity.bytes
                self.take(member, [f.bytes if len(f) < BIG_FRAME else f.buffer for f in frames])
                n += 1
        return n

    def send(self, route: bytes, frames: Frames) -> None:
        """Send to the worker with this route. That its connection has just gone is its agent's to tell."""
        try:
            self.socket.send_multipart([route, *frames], copy=max(map(len, frames)) < BIG_BUFFER)
        except self.zmq.ZMQError as error:
            logger.debug("a worker's connection is gone: %s", error)

    def close(self) -> None:
        self.socket.close()
        self.zap.close()
        self.context.term()


# ======================================================================================================================
# Broker: moves work without opening it; pure: messages in, messages out, no clock of its own    (launcher, main thread)
# ======================================================================================================================

MAX_STATUS = 255 if os.name == "posix" else 0xFFFFFFFF  # that a process can end with
MALFORMED = (struct.error, IndexError, KeyError, ValueError, OverflowError)  # what handlers raise at what cannot be


def subtract(ranges: Ranges, first: int, end: int) -> Tuple[Ranges, int]:
    """Take [first, end) out of `ranges`; return what remains and how many indexes were there to take."""
    left: Ranges = []
    for a, b in ranges:
        left += [(x, y) for x, y in ((a, min(b, first)), (max(a, end), b)) if x < y]
    return left, sum(b - a for a, b in ranges) - sum(b - a for a, b in left)


class Member:
    """What the broker knows of one worker (or of an Executor's client, whose capacity is 0)."""

    def __init__(self, rank: int, incarnation: int, host: int, capacity: int = 1) -> None:
        self.rank, self.incarnation, self.host, self.capacity = rank, incarnation, host, capacity
        self.up = False  # it said HELLO
        self.pid = 0
        self.wants = self.given = 0  # batches it ever wanted, and got
        self.said_hungry = 0  # serial number of the message that said so
        self.ordered = self.filled = 0  # batches ever ordered from it, and received
        self.opened: Dict[ChunkKey, int] = {}  # of chunks that are run carefully: the task that has begun
        self.retires = False  # it said BYE after as many tasks as --max-tasks-per-child allows
        self.outbox, self.inbox = Outbox(TO_BROKER), Inbox()
        self.target: Optional[Member] = None  # where the frames go that it sends in pieces
        self.taker: Optional[Member] = None  # the same, while it is the next BATCH that they belong to
        self.unread: Dict[Member, int] = {}  # pieces on their way to it, by who sends them
        self.death: Optional[Dict[str, Any]] = None  # its facts; who has one is no member any more
        self.address = OWNER.pack(rank, incarnation)
        self.link: Optional[StreamLink] = None  # the launcher's, to this worker alone
        self.route: Optional[bytes] = None  # of its connection by ØMQ


class Orders:
    """The broker's register of all workers; who of them is hungry, who is to carve: demand and supply, by counts.

    Three things would cost n² messages, and are not done. To ask all suppliers for each hungry worker: two are asked,
    then twice as many …, unless batches come at a good pace. To tell them all how many are hungry: who filled an order
    last is told; of others one batch is wanted, with which they take the first place. To withdraw orders when nobody is
    hungry any more: one batch too many from each comes back to it, RETURNED, and that order is filled.
    """

    def __init__(self, send: Send, send_agent: Send, report: Callable[[str], None], welcome: Dict[str, Any]) -> None:
        self.send, self.send_agent, self.report, self.welcome = send, send_agent, report, welcome
        self.invite: Optional[Callable[[Member], Any]] = None  # to a link of its own
        self.members: Dict[int, Member] = {}
        self.host_names: Dict[int, str] = {}
        self.incarnations: Dict[int, int] = {}
        self.hungry: Dict[int, None] = {}  # ranks that want a batch, first come first served
        self.need = 0  # batches that they want together
        # ranks that are not hungry; those that filled orders lately come first
        self.suppliers: collections.OrderedDict[int, None] = collections.OrderedDict()
        self.last_supplier: Optional[Member] = None  # who filled an order last
        self.width = 2  # suppliers that hold an order at once; doubles while somebody is hungry
        self.widen_s = 0.0  # when to double it
        self.n_given = 0  # batches given to hungry workers since `width` was last looked at

    def start(self, host: int, ranks: Iterable[int]) -> None:
        """Have an agent start workers of these ranks, each as a new incarnation."""
        workers, invitations = [], {}
        for rank in ranks:
            member = self.join(rank, host, capacity=1)
            workers.append([rank, member.incarnation])
            if self.invite is not None:
                invitations[rank] = self.invite(member)
        start = facts(workers=workers, invitations=invitations, **self.welcome)
        self.send_agent(host, message("START", AGENT, 0, start))

    def join(self, rank: int, host: int = -1, capacity: int = 0) -> Member:
        """Add a member; by default an Executor's client, which no agent starts and which runs no tasks."""
        self.incarnations[rank] = incarnation = self.incarnations.get(rank, 0) + 1
        self.members[rank] = member = Member(rank, incarnation, host, capacity)
        return member

    def to(self, member: Member, kind: str, *frames: Any) -> None:
        for ready in member.outbox.put([HEADER.pack(CODES[kind], member.rank, member.incarnation), *frames]):
            self.send(member, ready)

    def live(self) -> int:
        """Count the workers that run tasks or are being started."""
        return sum(m.capacity for m in self.members.values())

    def find(self, rank: int, incarnation: int) -> Optional[Member]:
        """Find a member, unless this incarnation of it is dead."""
        member = self.members.get(rank)
        return member if member is not None and member.incarnation == incarnation else None

    def on_hungry(self, member: Member, frames: Frames) -> None:
        wants, serial = HUNGER.unpack(frames[-1])
        if wants > member.given + 1000:  # an honest worker wants one more than it got
            raise ValueError(wants)
        if serial <= member.said_hungry or member.retires:
            return  # two threads of the worker spoke at once; or it was on its way when the worker said BYE
        member.said_hungry = serial
        self.count(member, wants, member.given)

    def count(self, member: Member, wants: int, given: int) -> None:
        """Note how many batches a worker ever wanted and got; so it is hungry now, or may be asked for tasks."""
        if member.wants > member.given:
            self.need -= member.wants - member.given
        member.wants, member.given = wants, given
        if wants > given:
            self.need += wants - given
            self.hungry[member.rank] = None
            self.suppliers.pop(member.rank, None)  # an order that it has stays: for what it will get
        else:
            self.hungry.pop(member.rank, None)
            self.suppliers[member.rank] = None

    def dismiss(self, member: Member) -> None:
        """Neither feed a worker any more nor ask it for tasks."""
        self.count(member, member.given, member.given)
        self.suppliers.pop(member.rank, None)
        if self.last_supplier is member:
            self.last_supplier = None

    def place_orders(self, now_s: float) -> Optional[float]:
        """Place, widen or change orders; return seconds after which to do so again, or None."""
        need = self.need
        if not need:
            self.width, self.widen_s, self.n_given = 2, now_s + 0.002, 0
            return None
        if now_s >= self.widen_s and self.width < len(self.suppliers):
            if need > 8 * self.n_given:  # at that pace, some would wait for more than 32 ms
                self.width *= 2
            self.n_given, self.widen_s = 0, now_s + 0.004
        asked = [self.members[rank] for rank in itertools.islice(self.suppliers, self.width)]
        if not asked and self.last_supplier is not None:  # all are hungry: it has the order before it has new tasks
            asked = [self.last_supplier]
        for member in asked:
            aim = need - (member.wants - member.given) if member is asked[0] else 1  # not for its own hunger
            if aim and not aim <= member.ordered - member.filled <= 3 * aim:
                member.ordered = member.filled + aim + aim // 4  # so that not each one more changes it
                self.to(member, "ORDER", COUNT.pack(member.ordered))  # cumulative: crossing messages do no harm
        return max(0.0005, self.widen_s - now_s) if self.width < len(self.suppliers) else None

    def next_taker(self, sender: Member) -> Member:
        """Choose who gets a batch: the first hungry worker, else the sender itself."""
        for rank in self.hungry:
            taker = self.members[rank]
            if taker is not sender:
                self.count(taker, taker.wants, taker.given + 1)
                self.last_supplier, self.n_given = sender, self.n_given + 1
                if sender.rank in self.suppliers:
                    self.suppliers.move_to_end(sender.rank, last=False)
                return taker
        return sender

    def give_back(self, taker: Optional[Member], sender: Member) -> None:
        """Have a taker wait for another batch than that of `sender`, which will not come."""
        if taker is not None and taker is not sender and taker.death is None:
            self.count(taker, taker.wants, taker.given - 1)


class Accounts(Orders):
    """Who has which tasks, by the clear text of the messages that move them.

    Big messages pass in pieces, ahead of themselves: no more of them at a time than their receiver takes in.
    """

    def __init__(self, *way: Any) -> None:
        super().__init__(*way)
        self.chunks: Dict[ChunkKey, Dict[int, Ranges]] = {}  # who has which tasks of a chunk
        self.for_all: List[Tuple[Member, Frames]] = []  # tasks for each worker, until all are up
        self.n_rerun = 0

    def on_batch(self, member: Member, frames: Frames) -> None:
        """Pass a carved batch to the worker that has been hungry longest, or back when nobody is."""
        chunk = self.chunk_in(frames)
        member.filled += 1
        taker, member.taker = member.taker, None
        owner = self.find(chunk[0], chunk[1])
        if owner is None:
            self.give_back(taker, member)
            return
        taker = taker or self.next_taker(member)
        try:
            self.move(chunk, member, taker)
        except PeerError:
            self.give_back(taker, member)
            raise
        if taker.death is None:
            self.to(taker, "RETURNED" if taker is member else "BATCH", *frames[1:])
        else:  # it died while the frames were on their way: the owner sends them again, and nobody is to blame
            self.tell_lost(dict(taker.death, retired=True), {owner.rank: [LOST_REF.pack(*chunk[2:5], False)]})

    @staticmethod
    def chunk_in(frames: Frames) -> Tuple[Any, ...]:
        """Read the clear text of the chunk in a BATCH or ALL."""
        chunk = CHUNK.unpack(frames[2])
        if len(frames) != 3 + chunk[-1] or not chunk[4] or chunk[5] >= MAX_DEPTH:
            raise ValueError(chunk)
        return chunk

    def tell_lost(self, death: Dict[str, Any], lost: Dict[int, List[bytes]]) -> None:
        for owner, refs in lost.items():
            if owner in self.members:
                if not death.get("retired"):  # of such a one, none has begun
                    self.n_rerun += sum(LOST_REF.unpack(ref)[2] for ref in refs)
                self.to(self.members[owner], "LOST", facts(**death), *refs)

    def move(self, chunk: Tuple[Any, ...], sender: Member, taker: Member) -> None:
        """Account for a chunk's (or a part of a chunk's) way from one worker to another, or to one that is dead."""
        key, first, end = chunk[:3], chunk[3], chunk[3] + chunk[4]
        if key[0] != sender.rank:
            if self.release(key, sender, first, end) != end - first:
                raise PeerError(f"rank {sender.rank} passed on tasks that it does not have")
        if key[0] != taker.rank and taker.death is None:
            holders = self.chunks.setdefault(key, {})
            holders[taker.rank] = holders.get(taker.rank, []) + [(first, end)]

    def release(self, key: ChunkKey, member: Member, first: int, end: int) -> int:
        """Take [first, end) of a chunk off a worker's account; return how many tasks it had of them."""
        holders = self.chunks.get(key)
        if holders is None or member.rank not in holders:
            return 0
        whole = holders[member.rank] == [(first, end)]  # as nearly always
        left, n = ([], end - first) if whole else subtract(holders[member.rank], first, end)
        if left:
            holders[member.rank] = left
        else:
            del holders[member.rank]
            member.opened.pop(key, None)
            if not holders:
                del self.chunks[key]
        return n

    def on_result(self, member: Member, frames: Frames) -> None:
        """Pass results to the owner; results of tasks that the sender does not have (any more) are refused."""
        owner = self.find(*OWNER.unpack(frames[1]))
        at, good = 2, frames[1:2]
        while at < len(frames):
            chunk_id, first, count, _, _, n_frames = PART.unpack(frames[at])
            end = at + 1 + n_frames
            if end > len(frames):
                raise IndexError(n_frames)
            if owner and self.release((owner.rank, owner.incarnation, chunk_id), member, first, first + count) == count:
                good += frames[at:end]
            at = end
        if owner and len(good) > 1:
            self.to(owner, "RESULT", *good)

    def on_next(self, member: Member, frames: Frames) -> None:
        self.on_hungry(member, frames[:3])
        self.on_result(member, [frames[0], frames[1], *frames[3:]])

    def on_returned(self, member: Member, frames: Frames) -> None:
        """Pass on to a client what it had sent to its neighbour, who was asked for tasks: it knows who wants them."""
        member.filled += 1
        chunk = self.chunk_in(frames)
        owner = self.members.get(chunk[0])
        if owner is not None and owner.capacity:
            raise ValueError(chunk)
        if owner is not None:
            self.to(owner, "RETURNED", *frames[1:])

    def on_cancel(self, member: Member, frames: Frames) -> None:
        """Pass a cancellation (CANCEL or ABORT) to everyone who has tasks of the chunk."""
        chunk_id, first, count = REF.unpack(frames[2])
        holders = self.chunks.get((member.rank, member.incarnation, chunk_id), {})
        asked = [rank for rank, ranges in holders.items() if subtract(ranges, first, first + count)[1]]
        for rank in asked:
            self.to(self.members[rank], NAMES[frames[0][0]], member.address, frames[2])
        if not asked:  # they are on their way home: nobody will answer
            self.to(member, "RESULT", member.address, PART.pack(chunk_id, first, 0, 0, EACH, 0))

    on_abort = on_cancel

    def on_opened(self, member: Member, frames: Frames) -> None:
        """Note that a suspected task has begun: if the worker dies now, it is to blame."""
        chunk_id, first, _ = REF.unpack(frames[2])
        key = (*OWNER.unpack(frames[1]), chunk_id)
        if member.rank in self.chunks.get(key, ()):  # else its owner has died meanwhile
            member.opened[key] = first

    def on_all(self, member: Member, frames: Frames) -> None:
        chunk = self.chunk_in(frames)
        if chunk[:2] != (member.rank, member.incarnation):
            raise ValueError(chunk)
        self.for_all.append((member, frames))

    def spread(self) -> None:
        """Give the tasks that are for each worker to each, once all of them are up; their indexes tell them apart."""
        workers, askers = [m for m in self.members.values() if m.capacity], [owner for owner, _ in self.for_all]
        if not all(m.up and (not m.retires or m in askers) for m in workers):  # who asks does not leave before
            return
        for owner, (_, function, head, *payload) in self.for_all:
            if owner.death is None:
                chunk = CHUNK.unpack(head)
                self.to(owner, "SPREAD", REF.pack(chunk[2], 0, len(workers)))
                for i, worker in enumerate(workers):
                    chunk = (*chunk[:3], i, 1, *chunk[5:])
                    self.move(chunk, owner, worker)
                    self.to(worker, "ALL", function, CHUNK.pack(*chunk), *payload)
        self.for_all.clear()

    def on_piece(self, member: Member, frames: Frames) -> None:
        """Pass a piece on to where its message will go; if nobody is there (any more), it is taken here."""
        _, to, heap, piece = frames
        target, taken = member.target, is_piece(frames)
        if bytes(to) == TO_BROKER:
            member.inbox.on_piece(member.address, frames)
            target = None
        elif not taken:
            member.target = None
        elif target is None and bytes(to) == ANYBODY:  # whoever the coming batch is for
            target = member.target = member.taker = self.next_taker(member)
        elif target is None:  # the owner of results
            target = member.target = self.find(*OWNER.unpack(to))
        if target is not None and target.death is None:
            if taken:  # past what waits for credit of our own: its message comes later
                target.unread[member] = target.unread.get(member, 0) + 1
                self.send(target, message("PIECE", target.rank, target.incarnation, member.address, heap, piece))
            else:
                self.to(target, "PIECE", member.address, heap, piece)
        elif taken:
            self.to(member, "CREDIT", TO_BROKER, COUNT.pack(1))

    def on_credit(self, member: Member, frames: Frames) -> None:
        """Pass on how many pieces have arrived, to who sent them."""
        (n,) = COUNT.unpack(frames[2])
        if bytes(frames[1]) == TO_BROKER:
            member.outbox.credit += n
            for ready in member.outbox.take():
                self.send(member, ready)
            return
        sender = self.find(*OWNER.unpack(frames[1]))
        if sender is not None:
            left = member.unread.get(sender, 0) - n
            if left < 0:
                raise ValueError(n)
            member.unread[sender] = left
            self.to(sender, "CREDIT", *frames[1:3])

    def end_transfers(self, member: Member, death: Dict[str, Any]) -> None:
        """Of a dead worker: its receiver drops what has come of a frame; who was sending to it goes on, to nobody."""
        member.death = death
        self.give_back(member.taker, member)
        if member.target is not None and member.target.death is None:
            self.to(member.target, "PIECE", member.address, ALL_HEAPS, b"")
        for sender, n in member.unread.items():
            if n and sender.death is None:
                self.to(sender, "CREDIT", TO_BROKER, COUNT.pack(n))
        member.unread.clear()
        for other in self.members.values():
            other.unread.pop(member, None)


class Broker(Accounts):
    """Matches hungry workers with carved work, accounts for every chunk, and is the single judge of deaths.

    It sends frames to workers and to agents (by host number), and reports a sentence to the user. There are at most so
    many `restarts` of workers in any minute; `welcome` are facts for every WELCOME.
    """

    def __init__(
        self, send: Send, send_agent: Send, report: Callable[[str], None], restarts: int = 100,
        welcome: Optional[Dict[str, Any]] = None,
    ) -> None:  # fmt: skip
        super().__init__(send, send_agent, report, welcome or {})
        self.restarts = restarts
        self.library: Callable[[Dict[str, Any], Send], None] = lambda ask, answer: answer(facts(**ask, path=None), b"")
        # For those who watch: called with what STATS, TRACE and LOG tell; with DIED in words. And WELCOME's clock.
        self.observe: Callable[[str, Member, Any], None] = lambda kind, member, told: None
        self.clock: Callable[[], float] = lambda: 0.0
        self.now_s = 0.0
        self.constants: Dict[bytes, Frames] = {}
        self.restarted_s: Deque[float] = collections.deque()
        self.n_died = 0
        self.broken = b""  # why no worker can begin, if so: facts
        self.status: Optional[int] = None  # of the job, once it has ended
        self.said_bye = self.is_straight = False
        self.worker_handlers = handlers_of((self,), "worker > broker")
        self.agent_handlers = handlers_of((self,), "agent > broker")

    def turn(self, rank: int, frames: Frames) -> None:
        """Handle one message of a worker; one of an incarnation that was declared dead is refused."""
        try:
            code, sender, incarnation = HEADER.unpack(frames[0])
            member = self.members.get(rank)
            if member is None or sender != rank or incarnation != member.incarnation:
                logger.debug("refused %s of rank %s, incarnation %s", NAMES.get(code), sender, incarnation)
                return
            if member.inbox.heaps and code != CODES["PIECE"]:
                frames = member.inbox.mend(frames)
                if not is_whole(frames):
                    raise PeerError(f"no memory for a {NAMES[code]} of worker {rank}")
            self.worker_handlers[code](member, frames)
        except MALFORMED as error:
            raise self.objection(self.worker_handlers, frames, error) from error

    def agent_turn(self, host: int, frames: Frames) -> None:
        """Handle one message of a host's agent, or one that it relays."""
        try:
            code, sender, _ = HEADER.unpack(frames[0])
            if sender == AGENT:
                self.agent_handlers[code](host, frames)
            elif sender in self.members and self.members[sender].host == host:
                self.turn(sender, frames)
        except MALFORMED as error:
            raise self.objection(self.agent_handlers, frames, error) from error

    @staticmethod
    def objection(handlers: Dict[int, Any], frames: Frames, error: Exception) -> PeerError:
        """Say what is wrong with a message that could not be handled."""
        if not frames or len(frames[0]) != HEADER.size:
            return PeerError(f"no message header: {b''.join(bytes(f[:80]) for f in frames[:1])!r}")
        code = frames[0][0]
        if code not in handlers:
            return PeerError(f"message {NAMES.get(code, code)} has no business here")
        return PeerError(f"malformed {NAMES[code]}: {error!r}")

    def end_turn(self, now_s: float) -> Optional[float]:
        """Do what is best done once for a round of messages; return in how many seconds to do so again, or None."""
        self.now_s = now_s
        if self.for_all:
            self.spread()
        return self.place_orders(now_s)

    def on_hello(self, member: Member, frames: Frames) -> None:
        hello = read_facts(frames[1], pid=int, clock=float)
        member.pid, member.up = hello["pid"], True
        welcome = dict(self.welcome, live=self.live(), host=member.host, hello=hello["clock"], clock=self.clock())
        self.to(member, "WELCOME", facts(**welcome))
        for constant in self.constants.values():
            self.to(member, "CONST", *constant)
        if member.capacity or not self.is_straight:  # else its tasks go past us
            self.suppliers[member.rank] = None
        if self.is_over():  # it was started just before the job ended
            self.to(member, "STOP")
        elif self.broken and member.rank == ORIGIN:
            self.to(member, "BROKEN", self.broken)

    def on_broken(self, member: Member, frames: Frames) -> None:
        """Tell the user and the origin why a worker cannot begin; to start more of them would not help."""
        why = read_facts(frames[1], why=str)["why"]
        if not self.broken:
            text = f"worker {member.rank} on {self.host_names.get(member.host)}: {why}"
            self.report(text)
            self.restarts, self.broken = -1, facts(why=text)
            if member.rank != ORIGIN and ORIGIN in self.members and self.members[ORIGIN].up:  # else see `on_hello`
                self.to(self.members[ORIGIN], "BROKEN", self.broken)

    def on_const(self, member: Member, frames: Frames) -> None:
        """Keep a constant and echo it to all; one that exists already is refused to the setter alone."""
        name = bytes(frames[3])
        if name in self.constants:
            self.to(member, "REFUSED", frames[2])
            return
        self.constants[name] = frames[1:]
        for other in self.members.values():
            if other.up:
                self.to(other, "CONST", *frames[1:])

    def on_fetch(self, member: Member, frames: Frames) -> None:
        request = read_facts(frames[1], number=int, paths=list, have=dict)
        if not all(type(path) is str for path in request["paths"]):
            raise ValueError(request["paths"])
        self.library(request, lambda *found: self.to(member, "MODULE", *found))

    def on_stats(self, member: Member, frames: Frames) -> None:
        counts = dict.fromkeys(("done", "pending", "ran", "batches", "carved", "rerun", "sent", "received"), int)
        times = dict.fromkeys(("idle_s", "up_s", "cpu_s"), float)
        told = read_facts(frames[1], idle=bool, final=bool, spent=dict, **counts, **times)
        for sums in told["spent"].values():
            if type(sums) is not list or len(sums) != 3 or not all(is_fact(number, int, float) for number in sums):
                raise PeerError(f"no sums of a function: {sums!r:.80}")
        self.observe("STATS", member, told)

    def on_trace(self, member: Member, frames: Frames) -> None:
        if bytes(frames[1][:1]) != b"{" or bytes(frames[1][-2:]) != b",\n":
            raise PeerError(f"no lines of events: {bytes(frames[1][:80])!r}")
        self.observe("TRACE", member, bytes(frames[1]))

    def on_log(self, member: Member, frames: Frames) -> None:
        record = read_facts(frames[1], at_s=float, level=int, logger=str, text=str, shown=bool, pid=int)
        if abs(record["at_s"]) > 1e9:  # some thirty years
            raise ValueError(record["at_s"])
        self.observe("LOG", member, record)

    def on_bye(self, member: Member, frames: Frames) -> None:
        if member.rank != ORIGIN:
            member.retires = True
            self.dismiss(member)
            self.to(member, "STOP")
            return
        self.said_bye = True
        for other in self.members.values():  # need not wait until the origin's interpreter has been taken apart
            if other.up and other is not member:
                self.to(other, "STOP")

    def on_started(self, host: int, frames: Frames) -> Optional[Member]:
        started = read_facts(frames[1], rank=int, incarnation=int, pid=int)
        member = self.find_at(host, started)
        if member is not None:
            member.pid = started["pid"]
        return member

    def find_at(self, host: int, told: Dict[str, Any]) -> Optional[Member]:
        """Find the worker that an agent tells of; each knows of those on its own host only."""
        member = self.find(told["rank"], told["incarnation"])
        if member is not None and member.host != host:
            raise PeerError(f"host {host} speaks of worker {member.rank}, which is not there")
        return member

    def on_died(self, host: int, frames: Frames) -> None:
        death = read_facts(frames[1], rank=int, incarnation=int, pid=int, code=int, how=str)
        if not -signal.NSIG < death["code"] <= MAX_STATUS:
            raise ValueError(death["code"])
        member = self.find_at(host, death)
        if member is not None:
            death["host"] = self.host_names.get(host, str(host))
            self.bury(member, death)

    def bury(self, member: Member, death: Dict[str, Any]) -> None:
        """Process a death: the single cut, after which nothing of this incarnation is heard.

        Owners learn which of their tasks were lost; tasks that the dead one owned are dropped everywhere.
        """
        rank = member.rank
        del self.members[rank]
        self.dismiss(member)
        self.end_transfers(member, death)
        own: Set[int] = set()  # ranks that have tasks of the dead one
        lost: Dict[int, List[bytes]] = {}
        for key, holders in list(self.chunks.items()):
            if key[0] == rank:
                own.update(holders)
                for holder in holders:
                    self.members[holder].opened.pop(key, None)
                holders.clear()
            for first, end in holders.pop(rank, ()):
                opened = member.opened.get(key) == first
                lost.setdefault(key[0], []).append(LOST_REF.pack(key[2], first, end - first, opened))
            if not holders:
                del self.chunks[key]
        for holder in own:
            self.to(self.members[holder], "PURGE", member.address)
        if rank == ORIGIN:
            self.end(death["code"] if self.said_bye else death["code"] or 1, death)
        elif not self.is_over():
            self.mourn(member, death, lost)

    def mourn(self, member: Member, death: Dict[str, Any], lost: Dict[int, List[bytes]]) -> None:
        """Tell everyone concerned, and start a successor unless workers die faster than that makes sense."""
        recent = self.restarted_s
        while recent and recent[0] < self.now_s - 60:
            recent.popleft()
        allowed = len(recent) < self.restarts or member.retires and self.restarts >= 0
        allowed = allowed and death["pid"] != 0  # else it could not be started, and nor could another
        again = member.host in self.host_names and allowed
        if not member.retires:
            self.n_died += 1
            text = f"worker {member.rank} on {death['host']} (pid {death['pid']}) {death['how']}"
            alone = self.live() == 1 and self.members[ORIGIN].capacity
            left = "no other worker is left, the origin goes on alone" if alone else f"{self.live()} left"
            why = f" (--restarts {self.restarts})" if self.restarts >= 0 else ""
            self.report(text + ("; starting another" if again else f"; {left}{why}"))
            self.observe("DIED", member, text)
            recent.extend([self.now_s] * again)
        death.update(retired=member.retires, asked=member.said_hungry > 0)
        if again:
            self.start(member.host, [member.rank])
        for other in list(self.members.values()):
            if other.up and not again:
                self.to(other, "POOL", facts(live=self.live()))
            if not other.capacity:  # it may have had tasks straight from this client
                lost.setdefault(other.rank, [])
        self.tell_lost(death, lost)

    def lose_host(self, host: int, why: str) -> None:
        """Bury all workers of a host whose agent is gone."""
        name = self.host_names.pop(host, None)
        for member in [m for m in self.members.values() if m.host == host]:
            death = {"rank": member.rank, "incarnation": member.incarnation, "pid": member.pid, "code": 1}
            self.bury(member, dict(death, host=name, how=f"is lost with its host: {why}", cut_off=True))

    def has_begun(self) -> bool:
        """Tell whether a script runs, as far as we have heard."""
        origin = self.members.get(ORIGIN)
        return origin is not None and origin.up

    def is_over(self) -> bool:
        """Return True once the script has ended, so that nobody has anything to do any more."""
        return self.said_bye or self.status is not None

    def end(self, status: int, death: Optional[Dict[str, Any]] = None) -> None:
        """End the job with this exit status (negative: the signal that killed the origin)."""
        if self.status is not None:
            return
        self.status = status
        if death is not None and not self.said_bye:
            self.report(f"the origin (pid {death['pid']}) {death['how']} before its script had ended")
        for member in self.members.values():
            if member.up and (member.rank == ORIGIN or not self.said_bye):  # others were told by then
                self.to(member, "STOP")
        for host in self.host_names:
            self.send_agent(host, message("STOP", AGENT, 0))


# ======================================================================================================================
# Strands: stacks that can be parked; exactly one of a worker's strands runs at a time                    (each worker)
# ======================================================================================================================


class Strand:
    """A stack of its own for code that may have to wait: the user's script, or a scheduler that runs tasks."""

    def __init__(self, impl: Any = None) -> None:
        self.impl = impl
        self.saved: Any = None  # what the runtime knows of the code here (scope, slice, …), while another strand runs
        self.ready = False  # it is in the runtime's `ready` queue
        self.error: Optional[BaseException] = None  # to be raised where it waits
        self.ident = threading.get_ident()  # of the thread it runs on


class GreenletStrands:
    """Strands as greenlets: 1 µs to create, 0.4 µs to switch, some 6 KB while parked."""

    name = "greenlet"

    def __init__(self) -> None:
        import greenlet  # an optional accelerator: ThreadStrands do the same without it

        self.greenlet = greenlet.greenlet
        self.main = Strand(greenlet.getcurrent())
        # New strands start from here, where the stack is shallow: a greenlet inherits the recursion depth of its birth.
        self.hub = self.greenlet(self.bear)
        self.hub.switch(None)

    def bear(self, strand: Optional[Strand]) -> None:
        """Switch to the strand that is to begin, or that one hands over to at its end; the hub's own loop."""
        while True:
            strand = (strand or self.main).impl.switch()

    def new(self, body: Callable[[], Strand]) -> Strand:
        """Make a strand that will run `body`, which returns the strand to go on with at its end."""
        return Strand(self.greenlet(body, self.hub))  # what it returns goes to the hub, which switches there

    def switch(self, me: Strand, to: Strand) -> None:
        """Run `to`; return when somebody switches back to `me`."""
        if to.impl:  # it has begun and not ended
            to.impl.switch()
        else:
            self.hub.switch(to)


class ThreadStrands:
    """What GreenletStrands does, by threads that hand on one baton: some 16 KB each while parked, 5–10 µs to switch."""

    name = "thread"

    def __init__(self) -> None:
        self.main = Strand(threading.Lock())
        self.main.impl.acquire()  # its thread sleeps on this until somebody hands over to it

    def new(self, body: Callable[[], Strand]) -> Strand:
        strand = Strand(threading.Lock())
        strand.impl.acquire()

        def run() -> None:
            strand.impl.acquire()
            body().impl.release()

        thread = threading.Thread(target=run, name="scoop_lite strand", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            raise ScoopError(
                f"cannot start one more thread to park a waiting task ({threading.active_count()} exist): {error}; "
                "install greenlet (--strands greenlet), or nest fewer waiting tasks"
            ) from error
        strand.ident = thread.ident or 0
        return strand

    def switch(self, me: Strand, to: Strand) -> None:
        to.impl.release()
        me.impl.acquire()


# ======================================================================================================================
# Pickling: what travels, by name or by value   (any process, any thread)
# ======================================================================================================================
#
# A function or class that `module.qualname` finds again travels by name. All else (lambdas, closures, what is nested
# or typed at a prompt) travels by value, in two steps: an empty shell, which the pickler can already refer to, then
# its content. So recursion of any shape works.
#
# Discussion: a function by value brings copies of the globals it uses. Functions of one `dumps` share one dict of
# them; each `dumps` makes another, so a counter kept in a global starts afresh. A class by value carries a token, and
# who knows the token fills the class he has anew, unless it was born there, or has come later: each journey from its
# birthplace has a higher number. So `isinstance` holds, also for what comes home, and a counter kept in a class starts
# afresh, too. Making a class over there runs its metaclass and its parents' `__init_subclass__` again, without keyword
# arguments; what was `register`ed with an abstract class stays behind.

#: For `dumps(by_value_names=...)`: nothing in `__main__` can be imported by the receiver (prompt, notebook, `-c`).
ALL_NAMES = frozenset(["*"])

_FUNCTION_ATTRIBUTES = ("__name__", "__qualname__", "__module__", "__doc__", "__defaults__", "__kwdefaults__",
                        "__dict__")
#: What classes hold beside their attributes: annotations that are evaluated when asked for, where they have their dict.
_NO_CONTENT = "__slots__", "_abc_impl", "__classdictcell__", "__annotate_func__", "__annotations_cache__"
PLAIN = frozenset([type(None), bool, int, float, complex, str, bytes])
#: Builtin types that are no names in `builtins`: they travel as attributes of `types`.
_TYPE_NAMES = {kind: name for name, kind in vars(types).items() if isinstance(kind, type)
               and kind.__module__ == "builtins" and not hasattr(builtins, kind.__name__)
               and kind not in (type(None), type(...), type(NotImplemented))}  # pickle has ways of its own
_TYPING = "NewType", "ParamSpec", "TypeAliasType", "TypeVar", "TypeVarTuple"
HEAP_TYPE = 1 << 9  # of `__flags__`: the class was made by Python code, or in C like such a one
_LruCache = type(functools.lru_cache(maxsize=None)(len))

#: Classes that came or went by value, with their token, and the number of the journey that brought them as they are;
#: None if they were born here. They belong to the process, not to a run, and go with their last reference. Any thread
#: fills them, one atomic operation at a time.
_class_tokens: Any = weakref.WeakKeyDictionary()
_classes_by_token: Any = weakref.WeakValueDictionary()
_journeys = itertools.count()


def is_plain(value: Any) -> bool:
    """Return True for numbers, strings and the like, and for short tuples of them: C alone can pickle these."""
    return type(value) in PLAIN or type(value) is tuple and len(value) < 16 and PLAIN.issuperset(map(type, value))


def dumps(value: Any, by_value_names: Names = frozenset(), pickler: Any = None) -> Frames:
    """Pickle a value, whatever is in it; return frames: [pickle stream (bytes), buffer (memoryview of bytes), ...].

    `by_value_names`: top-level names of `__main__` that the receiver will not find, or `ALL_NAMES`; names of modules
    that it will not find, each with a dot behind.
    """
    if is_plain(value):
        return [pickle.dumps(value, 5)]
    buffers: Frames = []

    def keep_in_band(buffer: pickle.PickleBuffer) -> bool:
        if memoryview(buffer).nbytes < BIG_BUFFER:
            return True
        buffers.append(buffer.raw())
        return False

    # Not a bound method: it would close a reference cycle, and all that was pickled would live until the next gc.
    return [dumps_whole(value, by_value_names, pickler, keep_in_band), *buffers]


def dumps_whole(value: Any, by_value_names: Names = frozenset(), pickler: Any = None, on_buffer: Any = None) -> bytes:
    """Pickle as `dumps` does, but into one frame."""
    stream = io.BytesIO()
    (pickler or _Pickler)(stream, on_buffer, by_value_names).dump(value)
    return stream.getvalue()


def loads(frames: Frames) -> Any:
    """Rebuild what `dumps` took apart. Arrays lie on the frames after the first, so give writable ones."""
    if frames[0] is NO_ROOM or len(frames) > 1 and not is_whole(frames):
        raise MemoryError("not enough memory here for what came")
    try:
        return load(frames[0], buffers=frames[1:])
    except ModuleNotFoundError:
        if not import_script(sys.modules["__main__"]):  # which may say where modules are to be found
            raise
    return load(frames[0], buffers=frames[1:])


# In pickles, this module is called scoop_lite. Where it is not, as in a client that imports a copy from a package, the
# names of what is ours are changed when they are pickled and unpickled.


def renamed(module: Any, old: str, new: str) -> Any:
    """Return the name of a module; if that is one of ours, whose name is `old`, what it is where our name is `new`."""
    return f"{new}{module[len(old) :]}" if module in (old, f"{old}.futures", f"{old}.shared") else module


def reduce_by_name(obj: Any) -> Reduction:
    """Have pickle write the name of a function or class."""
    if __name__ == "scoop_lite" or renamed(obj.__module__, __name__, "") == obj.__module__:
        return NotImplemented
    return functools.reduce, (getattr, obj.__qualname__.split("."), sys.modules[obj.__module__])


class _Unpickler(pickle.Unpickler):
    """Finds what is ours where scoop_lite is not our name."""

    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(renamed(module, "scoop_lite", __name__), name)
        if found is importlib.import_module:
            return lambda name: importlib.import_module(renamed(name, "scoop_lite", __name__))
        return found


load: Any = pickle.loads if __name__ == "scoop_lite" else (
    lambda pickled, buffers: _Unpickler(io.BytesIO(pickled), buffers=buffers).load()
)


def finds_by_name(obj: Any, by_value_names: Names) -> bool:
    """Whether the receiver will get this very object from `module.qualname`."""
    try:
        module, name = getattr(obj, "__module__", None), getattr(obj, "__qualname__", None) or obj.__name__
    except Exception:  # its `__getattr__` may do anything
        return False
    parts = name.split(".") if isinstance(name, str) else [""]
    found: Any = sys.modules.get(str(module))
    if by_value_names and any(f"{module}.".startswith(name) for name in by_value_names if name[-1:] == "."):
        return False
    if module in ("__main__", "__mp_main__"):
        if by_value_names & {"*", parts[0]} or hasattr(sys, "ps1") and _is_typed(obj):
            return False
        if "scoop_lite_config" in getattr(found, "__dict__", ()):  # a worker's script that has not been imported:
            return False  # the pump, which may ask, must not do so
        if sys.modules.get("__mp_main__", found) is not sys.modules.get("__main__", found):
            return False  # a tool that runs the script, such as coverage, has put a module of its own there
    for part in parts:
        found = getattr(found, part, None)
    return found is obj


def _is_typed(obj: Any) -> bool:
    """Whether a function or class was typed at a prompt, maybe in place of one of the program's.

    Code from there has a file name such as <stdin>. What has no code of its own is sent by value as well.
    """
    functions = [f for f in (obj, *getattr(obj, "__dict__", {}).values()) if isinstance(f, types.FunctionType)]
    return not functions or any(f.__code__.co_filename.startswith("<") for f in functions)


def still_found(func: Any, by_value_names: Names) -> bool:
    """Whether a function that was found by name is so still: first by a quick look at the top of its module."""
    top_level = not by_value_names and getattr(sys.modules.get(func.__module__), func.__qualname__, None) is func
    return top_level and not hasattr(sys, "ps1") or finds_by_name(func, by_value_names)


class _Pickler(pickle.Pickler):
    """The C pickler, asking `reducer_override` about all that is not a builtin value."""

    def __init__(self, stream: io.BytesIO, buffer_callback: Any, by_value_names: Names) -> None:
        super().__init__(stream, 5, buffer_callback=buffer_callback)
        self.by_value_names = by_value_names
        #: id of a function's globals, or of a cell of its closure -> the empty one that stands for it over there
        self.shells: Dict[int, Any] = {}

    def reducer_override(self, obj: Any) -> Reduction:
        """Called by the C code; `NotImplemented` means: do as ever."""
        kind: Any = type(obj)
        reduce = _REDUCERS.get(kind)
        if reduce is not None:
            return reduce(self, obj)
        if issubclass(kind, type):
            return self.reduce_class(obj)
        if issubclass(kind, BaseException) and _has_own_init(kind):
            names = copyreg._slotnames(kind)  # type: ignore[attr-defined]
            state = {**obj.__dict__, **{name: getattr(obj, name) for name in names if hasattr(obj, name)}}
            return copyreg.__newobj__, (kind, *obj.args), state or None, None, None, _fill_exception  # type: ignore[attr-defined]
        if kind.__module__ == "typing" and kind.__name__ in _TYPING:
            return NotImplemented if finds_by_name(obj, self.by_value_names) else _reduce_typing(obj)
        if kind.__name__ == "ForwardRef" and kind.__module__ in ("typing", "annotationlib"):
            return kind, (obj.__forward_arg__,)
        managers = sys.modules.get("multiprocessing.managers")  # whose import may not have ended
        if issubclass(kind, getattr(managers, "BaseProxy", ())):
            return _make_proxy, (bytes(obj._authkey), *obj.__reduce__())
        if kind.__module__ == "multiprocessing.connection":  # plain pickle would send the bare number
            raise TypeError(f"cannot pickle {kind.__name__!r} object: its descriptor is another's elsewhere")
        if kind.__module__ == "dataclasses":  # its sentinels are compared by identity, hence sent by name
            names = (name for name, value in vars(sys.modules["dataclasses"]).items() if value is obj)
            return next(names, NotImplemented)
        return NotImplemented

    def reduce_function(self, func: types.FunctionType) -> Reduction:
        """Take a function apart: its code, the globals it uses, its closure, its attributes."""
        if finds_by_name(func, self.by_value_names):
            return reduce_by_name(func)
        if func.__name__ == "__annotate__":  # functools.update_wrapper copies it, since Python 3.14
            return _make_annotate, (_annotations(func),)
        code, global_names, all_names = _code_facts(func.__code__)
        scope = func.__globals__
        shell = self.shells.setdefault(id(scope), {k: scope.get(k) for k in ("__name__", "__package__")})
        cells = dict(zip(func.__code__.co_freevars, func.__closure__ or ()))
        closure = tuple(self.shells.setdefault(id(cell), types.CellType()) for cell in cells.values()) or None
        state = {name: getattr(func, name) for name in _FUNCTION_ATTRIBUTES}
        state["__annotations__"] = _annotations(getattr(func, "__annotate__", None), func)
        state["__globals__"] = {name: _imported(scope[name]) for name in global_names if name in scope}
        # Comparing with an empty cell is the one way to see an empty cell without an exception.
        state["__closure__"] = {k: cell.cell_contents for k, cell in cells.items() if cell != types.CellType()}
        state["submodules"] = [module for values in (state["__globals__"], state["__closure__"])
                               for value in values.values() if isinstance(value, types.ModuleType)
                               for module in _submodules(value, all_names)]
        args = sys.version_info[:2], func.__qualname__, code, shell, closure
        return _make_function, args, state, None, None, _fill_function

    def reduce_class(self, cls: Any) -> Reduction:
        """Take a class apart: token, bases, and what making it over there does not make anyway."""
        if cls in _TYPE_NAMES:
            return getattr, (types, _TYPE_NAMES[cls])
        if finds_by_name(cls, self.by_value_names) or _is_of_c(cls) or type(cls) in copyreg.dispatch_table:
            return reduce_by_name(cls)  # in the table is DEAP's metaclass
        token, journey = _class_tokens.setdefault(cls, (os.urandom(16), None))
        journey = next(_journeys) if journey is None else journey
        _classes_by_token.setdefault(token, cls)
        body = {name: vars(cls)[name] for name in ("__slots__", "__orig_bases__") if name in vars(cls)}
        body.update(__module__=cls.__module__, __qualname__=cls.__qualname__)
        members = getattr(cls, "__members__", {}) if isinstance(cls, enum.EnumMeta) else {}
        body.update((name, member._value_) for name, member in members.items())
        namespace = {name: value for name, value in vars(cls).items() if _is_content(cls, name, value)}
        if "__annotate_func__" in vars(cls):
            namespace["__annotations__"] = _annotations(cls.__annotate__, cls)
        state = token, journey, namespace, {name: vars(member) for name, member in members.items()}
        return _make_class, (token, type(cls), cls.__name__, cls.__bases__, body), state, None, None, _fill_class

    def reduce_lru_cache(self, cached: Any) -> Reduction:
        """Take a cached function apart; what it remembers stays here."""
        if finds_by_name(cached, self.by_value_names):
            return NotImplemented
        info = cached.cache_info()
        typed = hasattr(cached, "cache_parameters") and cached.cache_parameters()["typed"]  # Python >= 3.9
        state = {name: value for name, value in vars(cached).items() if name != "cache_parameters"}
        return _LruCache, (cached.__wrapped__, info.maxsize, typed, type(info)), state

    def reduce_module(self, module: types.ModuleType) -> Reduction:
        """Have a module imported over there, by a name that gives it here."""
        for name in (module.__name__, *list(sys.modules)):
            if sys.modules.get(name) is module:
                return importlib.import_module, (renamed(name, __name__, "scoop_lite"),)
        raise pickle.PicklingError(f"the module {module.__name__!r} is not what an import of that name gives")

    def reduce_method(self, method: types.MethodType) -> Reduction:
        # pickle's own way is getattr(self, name), which a lambda's or a private method's name does not survive, nor
        # that of a class method whose class is but a shell yet.
        owner: Any = method.__self__
        if getattr(owner, getattr(method, "__name__", ""), None) == method:
            if not isinstance(owner, type) or finds_by_name(owner, self.by_value_names):
                return NotImplemented
        return types.MethodType, (method.__func__, method.__self__)


#: Exact type -> how it travels. Classes are not here: they are instances of any metaclass.
_REDUCERS: Dict[type, Callable[[Any, Any], Reduction]] = {
    types.FunctionType: _Pickler.reduce_function,
    types.MethodType: _Pickler.reduce_method,
    types.ModuleType: _Pickler.reduce_module,
    _LruCache: _Pickler.reduce_lru_cache,
    staticmethod: lambda _, method: (staticmethod, (method.__func__,)),
    classmethod: lambda _, method: (classmethod, (method.__func__,)),
    property: lambda _, prop: (property, (prop.fget, prop.fset, prop.fdel, prop.__doc__)),
    types.CellType: lambda _, cell: (types.CellType, ()) if cell == types.CellType() else NotImplemented,  # a shell
    functools.cached_property: lambda _, prop: (functools.cached_property, (prop.func,), {"attrname": prop.attrname}),
    types.MappingProxyType: lambda _, proxy: (types.MappingProxyType, (dict(proxy),)),
    weakref.WeakKeyDictionary: lambda _, d: (weakref.WeakKeyDictionary, (), None, None, d.items()),
    weakref.WeakSet: lambda _, found: (weakref.WeakSet, ([*found],)),
}


@functools.lru_cache(maxsize=256)
def _code_facts(code: types.CodeType) -> Tuple[bytes, List[str], Set[str]]:
    """Return code marshalled, the global names that it and the code nested in it use, and all names in them."""
    import dis  # only what travels by value needs it

    global_names: Set[str] = set()
    all_names: Set[str] = set()
    parts = [code]
    for part in parts:  # it grows meanwhile
        all_names.update(part.co_names)
        # Not all of co_names: with `self.lock`, it would drag along an unrelated global `lock`.
        global_names.update(op.argval for op in dis.get_instructions(part)
                            if "GLOBAL" in op.opname or op.opname == "LOAD_NAME")
        parts.extend(const for const in part.co_consts if isinstance(const, types.CodeType))
    return marshal.dumps(code), sorted(global_names - {"__builtins__"}), all_names


def _submodules(module: types.ModuleType, names: Names) -> Iterator[types.ModuleType]:
    """Yield the loaded submodules that code with these names may reach: `xml` alone would arrive without `etree`."""
    lazy: Any = getattr(sys, "lazy_modules", ())  # names that Python >= 3.15 imports when they are used
    for name in sorted(names):
        path = f"{module.__name__}.{name}"
        if any(f"{later}.".startswith(f"{path}.") for later in list(lazy)):
            getattr(module, name, None)
        child = sys.modules.get(path)
        if child is not None:
            yield child
            yield from _submodules(child, names)


def _annotations(annotate: Any, owner: Any = None) -> Any:
    """Return the annotations of a function or class.

    Since Python 3.14 they are what its `annotate` returns, when asked for; names in them may never have been defined.
    """
    try:
        return annotate(1) if owner is None else owner.__annotations__
    except Exception:  # a NameError mostly, but they are any code
        library: Any = importlib.import_module("annotationlib")
        return library.call_annotate_function(annotate, library.Format.FORWARDREF, owner=owner)


def _make_annotate(annotations: Dict[str, Any]) -> Any:
    """Make an ``__annotate__`` that knows the annotations and nothing else of them."""
    def __annotate__(format: int, /, annotations: Dict[str, Any] = annotations) -> Dict[str, Any]:  # needs Python 3.8
        if format > 1:
            raise NotImplementedError
        return annotations
    return __annotate__


def _reduce_typing(obj: Any) -> Reduction:
    """Take apart what stands for a type: a variable, a new type, an alias."""
    kind: Any = type(obj)
    name = obj.__name__
    if kind.__name__ == "TypeVar":
        return functools.partial(kind, name, *obj.__constraints__, bound=obj.__bound__, covariant=obj.__covariant__,
                                 contravariant=obj.__contravariant__), ()
    if kind.__name__ != "TypeAliasType":
        return kind, (name, *([obj.__supertype__] if hasattr(obj, "__supertype__") else []))
    if _mentions(obj.__value__, obj, set()):  # it cannot be made of itself
        return sys.modules["typing"].ForwardRef, (name,)
    return functools.partial(kind, name, obj.__value__, type_params=obj.__type_params__), ()


def _mentions(part: Any, alias: Any, seen: Set[int]) -> bool:
    """Whether there is an alias in what stands for a type."""
    if part is alias or id(part) in seen:
        return part is alias
    seen.add(id(part))
    inner = *getattr(part, "__args__", ()), *([part.__value__] if type(part) is type(alias) else [])
    return any(_mentions(other, alias, seen) for other in inner)


def _imported(value: Any) -> Any:
    """Import what a global of Python >= 3.15 stands for, if it is imported lazily."""
    lazy: Any = getattr(types, "LazyImportType", ())
    return value.resolve() if isinstance(value, lazy) else value


def _is_of_c(cls: type) -> bool:
    """Whether a class is made in C: then nobody can make it from its attributes."""
    return any(isinstance(value, (types.WrapperDescriptorType, types.MethodDescriptorType))
               and value.__objclass__ is cls for value in vars(cls).values())


def _is_content(cls: type, name: str, value: Any) -> bool:
    """Whether an attribute is to be sent: not what making the class over there makes anyway."""
    if isinstance(cls, enum.EnumMeta) and (name in cls.__members__ or name in ("__new__", "__new_member__") or
                                           name[:1] == name[-1:] == "_" != name[1:2] and
                                           name not in ("_missing_", "_boundary_")):
        return False
    if isinstance(value, types.GetSetDescriptorType) and name in ("__dict__", "__weakref__"):
        return False  # by name, as since Python 3.15 all classes share these two, which belong to none
    return name not in _NO_CONTENT and not (isinstance(value, types.MemberDescriptorType) and value.__objclass__ is cls)


def _make_function(
    version: Tuple[int, int], qualname: str, code: bytes, scope: Dict[str, Any], closure: Optional[Tuple[Any, ...]]
) -> types.FunctionType:
    """Make the shell of a function: code, but neither globals nor closure yet."""
    if version != sys.version_info[:2]:
        sent, here = ("%d.%d" % v for v in (version, sys.version_info[:2]))
        raise MisuseError(f"{qualname} travels by value, which does not work between different Python versions: it "
                          f"was sent by {sent} and arrived at {here}. Fix: move it to the top level of a module that "
                          "all hosts have, or use one version everywhere.")
    scope.setdefault("__builtins__", builtins)
    return types.FunctionType(marshal.loads(code), scope, closure=closure)


def _fill_function(func: types.FunctionType, state: Dict[str, Any]) -> None:
    """Give a function its content, once all that this may refer to has a shell."""
    func.__globals__.update(state.pop("__globals__"))
    cells = dict(zip(func.__code__.co_freevars, func.__closure__ or ()))
    for name, value in state.pop("__closure__").items():
        cells[name].cell_contents = value
    del state["submodules"]  # loaded by now
    for name, value in state.items():
        setattr(func, name, value)


def _make_class(token: bytes, metaclass: type, name: str, bases: Tuple[type, ...], body: Dict[str, Any]) -> Any:
    """Make the shell of a class, or find the one that was made before."""
    known = _classes_by_token.get(token)
    if known is not None:
        return known
    if metaclass.__name__ == "_TypedDictMeta":  # it refuses the `dict` that it has put among the bases itself
        return type.__new__(metaclass, name, bases, body)
    namespace: Any = metaclass.__prepare__(name, bases)
    for attribute, value in body.items():  # not `update`: an enum's namespace must see each
        namespace[attribute] = value
    return metaclass(name, bases, namespace)


def _fill_class(cls: Any, state: Tuple[bytes, int, Dict[str, Any], Dict[str, Dict[str, Any]]]) -> None:
    """Give a class its attributes, and its members theirs (of an enum), once all that they may refer to has a shell."""
    token, journey, namespace, members = state
    known = _class_tokens.get(cls, (token, -1))[1]
    if known is None or known >= journey:  # it was born here, or came later: else it, or what it uses, may have changed
        return
    for name, value in namespace.items():
        type.__setattr__(cls, name, value)  # not setattr: the metaclass may have views on it
    for name, attributes in members.items():
        vars(cls.__members__[name]).update(attributes)
    _class_tokens[cls] = token, journey
    _classes_by_token[token] = cls


def _fill_exception(error: BaseException, state: Dict[str, Any]) -> None:
    """Give an exception its attributes, in slots or not, whatever its class thinks of that."""
    for name, value in state.items():
        BaseException.__setattr__(error, name, value)


def _has_own_init(kind: Any) -> bool:
    """Whether a class of exceptions takes what it likes, so that pickle's way, ``kind(*args)``, may fail or do harm."""
    base = next(c for c in kind.__mro__ if not c.__flags__ & HEAP_TYPE)  # the C class below: has it fields of its own?
    return (isinstance(kind.__init__, types.FunctionType) and kind.__reduce__ is BaseException.__reduce__
            and kind.__reduce_ex__ is object.__reduce_ex__ and kind.__new__ is base.__new__
            and base.__basicsize__ == BaseException.__basicsize__ and kind not in copyreg.dispatch_table)


class _OwnPickler(_Pickler):
    """Has names of `__main__` become the receiver's own of that name, or else what came along.

    Its own may use what it has. And what each worker gets is not sent again, as tasks are that lack a name.
    """

    def reducer_override(self, obj: Any) -> Reduction:
        names = self.by_value_names
        named = isinstance(obj, (type, types.FunctionType, _LruCache)) and finds_by_name(obj, names)
        if not named or obj.__module__ not in ("__main__", "__mp_main__"):
            return super().reducer_override(obj)
        ways = [dumps_whole(obj, names)]
        with contextlib.suppress(Exception):  # what it uses cannot travel; mostly it need not
            ways += [dumps_whole(obj, more) for more in (names | {obj.__qualname__.split(".")[0]}, ALL_NAMES)]
        return load_own, (*ways,)


def load_own(*ways: bytes) -> Any:
    """Unpickle a name of `__main__` the first way that works here."""
    for way in ways[:-1]:
        with contextlib.suppress(AttributeError):
            return loads([way])
    return loads([ways[-1]])


def _make_proxy(key: bytes, rebuild: Callable[..., Any], args: Tuple[Any, ...]) -> Any:
    """Make a proxy of multiprocessing's managers; to use it, or one that comes through it, takes the manager's key."""
    sys.modules["multiprocessing.process"].current_process().authkey = key
    return rebuild(*args)


# ======================================================================================================================
# Explaining what cannot travel   (any process, any thread)
# ======================================================================================================================

#: What code of the user's may raise while something of his is pickled or put in words.
RAISED = BaseException

#: Bounds of the search for the culprit: levels of nesting, and parts of one container (some 3 us each).
EXPLAIN_MAX_DEPTH, EXPLAIN_MAX_PARTS = 20, 200_000


def explain_unpicklable(value: Any, root: str, error: BaseException, by_value_names: Names = frozenset()) -> str:
    """Say in one sentence which part of a value that `dumps` refused cannot be pickled, and what to do.

    Each level of nesting costs about as much time as that attempt. `root`: the caller's name for it, such as "args".
    """
    path = root
    visited: Dict[int, Any] = {}
    while id(value) not in visited and len(visited) < EXPLAIN_MAX_DEPTH:
        visited[id(value)] = value
        for step, part in itertools.islice(_parts(value, by_value_names), EXPLAIN_MAX_PARTS):
            try:
                _Probe(visited, by_value_names).dump(part)
            except RAISED as problem:
                path, value, error = path + step, part, problem
                break
    kind = f"{type(value).__module__}.{type(value).__qualname__}".replace("builtins.", "")
    if isinstance(error, MemoryError):
        return f"cannot pickle {path} (type {kind}): no memory for a copy; fix: pass parts of it, or what builds it"
    fix = next(fix for pattern, fix in _FIXES if re.search(pattern, kind))
    return f"cannot pickle {path} (type {kind}): {words_of(error)}; fix: {fix}"


def words_of(error: BaseException) -> str:
    """Return what an exception says, or how it fails to: its `__str__` is code like any other."""
    try:
        return str(error)
    except RAISED as problem:
        return f"{type(error).__qualname__}, whose __str__ raises {type(problem).__qualname__}"


#: Pattern of the culprit's type -> what to do. The last one fits all.
_FIXES = (
    ("[lL]ock|Condition|Semaphore|Event|Barrier|[qQ]ueue", "create it inside the task, or pass what builds it"),
    ("^_io|socket|Connection|Cursor|mmap", "open it inside the task, and pass its path or address"),
    ("generator|coroutine|iterator", "pass a list of its items, or what is needed to make it"),
    ("^module$", "enter it in sys.modules, as the recipe of importlib does, or import it inside the task"),
    ("", "create it inside the task, or give its class a __reduce__ method"),
)

#: Type -> the attributes in which its unpicklable part may be, where `__reduce__` would not name them.
_LOOK_INTO: Dict[type, Tuple[str, ...]] = {
    types.MethodType: ("__self__", "__func__"), functools.partial: ("func", "args", "keywords"),
    staticmethod: ("__func__",), classmethod: ("__func__",), property: ("fget", "fset", "fdel"),
    _LruCache: ("__wrapped__",),
}  # fmt: skip


class _Probe(_Pickler):
    """A pickler that passes over what was visited: to refer back to an object on the path makes no culprit."""

    def __init__(self, visited: Dict[int, Any], by_value_names: Names) -> None:
        super().__init__(io.BytesIO(), None, by_value_names)
        self.visited = visited

    def persistent_id(self, obj: Any) -> Optional[int]:
        """Called by the C code; None means: look into it."""
        return id(obj) if id(obj) in self.visited else None


def _parts(value: Any, by_value_names: Names) -> Iterator[Tuple[str, Any]]:
    """Yield each part of a value that `dumps` looks into: the step that leads there, and the part."""
    kind = type(value)
    with contextlib.suppress(RAISED):  # then the value itself is the culprit
        if kind in _LOOK_INTO:
            yield from ((f".{name}", getattr(value, name)) for name in _LOOK_INTO[kind])
        elif kind in (list, tuple):
            yield from ((f"[{i}]", part) for i, part in enumerate(value))
        elif kind in (set, frozenset):
            yield from ((f" element {part!r:.60}", part) for part in list(value))
        else:
            reduced = _Probe({}, by_value_names).reducer_override(value)
            reduced = value.__reduce_ex__(5) if reduced is NotImplemented else reduced
            if isinstance(reduced, str):
                return  # it travels by this name
            _, args, state, items, pairs = (*reduced, None, None, None)[:5]
            for part in state if isinstance(state, tuple) else (state,):  # __dict__, what __slots__ hold, or anything
                whole = part if isinstance(part, dict) else {"__getstate__()": part}
                yield from ((f".{name}", attribute) for name, attribute in whole.items())
            yield from ((f".__reduce__()[1][{i}]", part) for i, part in enumerate(args))
            yield from ((f"[{i}]", part) for i, part in enumerate(items or ()))
            for key, part in pairs or ():
                yield f" element {key!r:.60}", key
                yield f"[{key!r:.60}]", part


# ======================================================================================================================
# Tasks and futures: what is to be done, and the caller's handle on it                    (owner, on its strands)
# ======================================================================================================================

# States of a future, in order; from CANCELLED on it is done.
PENDING, SENT, RUNNING, CANCELLED, FAILED, FINISHED = range(6)
# How a run of tasks lies: a column for each parameter; a tuple of arguments for each task; (function, args, kwargs) for
# each, if not all are of the very same function, or some have keyword arguments.
COLUMNS, CALLS, MIXED = range(3)
# How results are packed: as one list; a table of (status, number of frames), then each alone; or as facts, why not.
LIST, EACH, UNREADABLE = range(3)
CREATES = 4  # added to a form: tasks have created others on that worker
VALUE, ERROR, WITHDRAWN = range(3)
STATUS = struct.Struct("!BI")
GONE = object()  # the outcome of a task that was cancelled


class Failure:
    """The exception that a task ended with, until somebody looks at it.

    Dropped unseen with its future, it is logged: nothing that went wrong is swallowed. (A map's consumer looks as far
    as it wants to.) `__del__` only appends to a deque.
    """

    __slots__ = ("error", "unseen")

    def __init__(self, error: BaseException) -> None:
        self.error = error
        self.unseen: Optional[Deque[BaseException]] = None

    def look(self) -> BaseException:
        self.unseen = None
        return self.error

    def __del__(self) -> None:
        if self.unseen is not None:
            self.unseen.append(self.error)


class Scope:
    """What a running task (or the script) hands to the tasks it creates.

    Attributes:
        place: 64-bit number of its place in the program (parent, call order, index); the root of `task_seed`.
        depth: nesting depth of its children. level: the queue that they wait in. n: children so far.
    """

    __slots__ = ("place", "depth", "level", "n", "rng")

    def __init__(self, place: int, depth: int, level: Any) -> None:
        self.place, self.depth, self.level, self.n = place, depth, level, 0
        self.rng: Any = None  # random.Random


def place_of(parent: int, order: int) -> int:
    """Number the place of the `order`-th child of `parent`, independent of where and when it runs (64 bits)."""
    return (parent * 0x9E3779B97F4A7C15 + order + 1) & 0xFFFFFFFFFFFFFFFF


class Future:
    """A handle on one task, after PEP 3148. Made by `futures.submit`; used by the worker that made it.

    While the task waits here, `at` is the Scope that it was made in; once carved, the Parcel that took it along.
    `born_s` is set only while somebody records, and not for short tasks.
    """

    __slots__ = ("func", "args", "kwargs", "at", "order", "state", "value", "waiters", "born_s", "__weakref__")
    born_s: float

    def __init__(self, func: Any, args: Tuple[Any, ...], kwargs: Optional[Dict[str, Any]], at: Any, order: int) -> None:
        self.func, self.args, self.kwargs, self.at, self.order = func, args, kwargs, at, order
        self.state = PENDING
        self.value: Any = None
        self.waiters: Optional[List[Callable[[Future], None]]] = None

    def __repr__(self) -> str:
        names = "pending", "sent", "running", "cancelled", "failed", "finished"
        return f"<Future {names[self.state]} at {id(self):#x}>"

    def __reduce__(self) -> Any:
        raise TypeError("a Future cannot travel to another worker; pass its result, or create it there")

    @property
    def _condition(self) -> Any:
        """What the standard library's `wait` and `as_completed` look for first."""
        raise AttributeError("concurrent.futures cannot wait for these; use futures.wait and futures.as_completed")

    def settle(self, outcome: Any) -> None:
        """Set the outcome (a value, a Failure, or GONE), unless there is one, and tell everyone who waits."""
        if self.state >= CANCELLED:
            return
        self.value = outcome
        self.state = FAILED if type(outcome) is Failure else CANCELLED if outcome is GONE else FINISHED
        self.func = self.args = self.kwargs = self.at = None  # type: ignore[assignment]
        found = _state["runtime"]
        if self.state == FAILED and found is not None:
            found.has_failures = True
            if outcome.error is not found.strands.main.error:  # else it is on its way to the script
                outcome.unseen = found.unseen
        if self.waiters is not None:
            waiters, self.waiters = self.waiters, None
            tell([(waiter, self) for waiter in waiters])

    def result(self, timeout: Optional[float] = None) -> Any:
        """Return what the task returned; run it here, now, if nobody took it yet.

        Args:
            timeout: seconds; None waits for ever.

        Raises:
            concurrent.futures.TimeoutError, concurrent.futures.CancelledError, or what the task raised.

        Example:
            >>> futures.submit(pow, 2, 10).result(timeout=60)
            1024
        """
        if self.state < CANCELLED:
            (_state["runtime"] or runtime()).wait_for(self, timeout)
        if self.state == FINISHED:
            return self.value
        error: Any = self.exception()
        try:
            raise error
        finally:
            del error, self  # the traceback must not keep this frame's future alive

    def exception(self, timeout: Optional[float] = None) -> Optional[BaseException]:
        """Return what the task raised, or None if it returned.

        Args:
            timeout: see `result`, as for the errors of waiting.

        Example:
            >>> futures.submit(int, "ten").exception()
            ValueError("invalid literal for int() with base 10: 'ten'")
        """
        if self.state < CANCELLED:
            runtime().wait_for(self, timeout)
        if self.state == CANCELLED:
            raise CancelledError()
        return self.value.look() if self.state == FAILED else None

    def done(self) -> bool:
        """Return True when it has finished or was cancelled; other tasks may run meanwhile.

        Example:
            >>> task = futures.submit(abs, -3)
            >>> task.done(), task.result(), task.done()
            (False, 3, True)
        """
        if self.state < CANCELLED:
            runtime().poll(self)
        return self.state >= CANCELLED

    def running(self) -> bool:
        """Return True while the task is known to run, and so cannot be cancelled."""
        return self.state == RUNNING

    def cancelled(self) -> bool:
        """Return True when it was cancelled."""
        return self.state == CANCELLED

    def cancel(self) -> bool:
        """Cancel the task unless it has started, wherever it waits; return True when it is cancelled.

        Example:
            >>> task = futures.submit(abs, -3)
            >>> task.cancel(), task.cancelled(), task.done()
            (True, True, True)
        """
        if self.state in (PENDING, SENT):
            runtime().cancel(self)
        return self.state == CANCELLED

    def add_done_callback(self, fn: Callable[[Future], Any]) -> None:
        """Have a function called when the task is done; now, if it is.

        Args:
            fn: called with the future, in this process, whenever its code waits for `futures` or calls them: code that
                only sleeps until a callback has been called sleeps on. What it raises is logged. It may create tasks,
                and wait; but not for one that waits itself, as it may be called on top of that.

        Example:
            >>> task = futures.submit(abs, -3)
            >>> task.add_done_callback(lambda future: print("the result is", future.result()))
            >>> number = task.result()
            the result is 3
        """
        found = runtime()
        call = functools.partial(found.call_back, fn, found.scope_of_callback())
        if self.state >= CANCELLED:
            call(self)
        else:
            self.when_done(call)

    def when_done(self, waiter: Callable[[Future], None]) -> None:
        """Have somebody of this process called once it is done; see `add_done_callback` for user code."""
        self.waiters = self.waiters or []
        self.waiters.append(waiter)


def coming_answer() -> Future:
    """Make a future that stands for no task: whoever gets the answer to a message settles it."""
    answer = Future(None, (), None, None, 0)
    answer.state = RUNNING
    return answer


def tell(told: Told) -> None:
    """Tell those who wait that futures are done; where an interrupt ends a user's callback, all but other callbacks."""
    left = collections.deque(told)
    try:
        while left:
            waiter, future = left.popleft()
            waiter(future)
    finally:
        for waiter, future in left:
            if type(waiter) is not functools.partial:
                waiter(future)


class Job:
    """Tasks alike in cost that share how they are called, and where their results go. Base of the four below.

    Attributes:
        func: the function, or one of those that are MIXED: they are alike in cost. mode: how calls lie (COLUMNS, …).
        place, order: task i of the job has the place ``place_of(place, order + i)``. depth: of nesting. (But see
            `Block.spot`.)
        born_s: when it was made here. failed: an outcome may be a Failure; else nobody has to look at each.
        abandoned: nobody wants the results any more. key, owner: of the chunk they came in, if they are a `Visit`.
    """

    fold: Any = None  # the operator of a reduction, applied to each run of results where they are made
    failed = abandoned = False
    key: Any = None
    owner: Any = None

    def __init__(self, func: Any, mode: int, place: int, order: int, depth: int) -> None:
        self.func, self.mode, self.place, self.order, self.depth = func, mode, place, order, depth
        self.born_s = now()

    def deliver(self, first: int, count: int, outcomes: List[Any]) -> None:
        """Take in the outcomes (values, or Failure objects) of `count` tasks from `first` on.

        With a fold, one outcome stands for all of them: its list of nodes (see `absorb`), or a Failure.
        """
        raise NotImplementedError

    def settle(self, first: int, count: int, outcomes: List[Any]) -> Told:
        """Do the same; but what callbacks are to be told is returned, for `tell`: they may wait for what comes next."""
        self.deliver(first, count, outcomes)
        return []

    def n_left(self, block: Block) -> int:
        """Return how many tasks are left from a block on, with what will be queued behind it, as far as known."""
        return block.hi - block.lo

    def deliver_error(self, index: int, error: BaseException) -> None:
        self.failed = True
        self.deliver(index, 1, [Failure(error)])


class Parcel(Job):
    """Submitted tasks that were carved together: the owner's record of them until their results come."""

    def __init__(self, futures: List[Any], *about: Any) -> None:
        super().__init__(*about)
        self.futures = futures

    def deliver(self, first: int, count: int, outcomes: List[Any]) -> None:
        tell(self.settle(first, count, outcomes))

    def settle(self, first: int, count: int, outcomes: List[Any]) -> Told:
        told = []
        for future, outcome in zip(self.futures[first : first + count], outcomes):
            if future.waiters is not None and future.state < CANCELLED:
                told += [(waiter, future) for waiter in future.waiters]
                future.waiters = None
            future.settle(outcome)
        return told

    def fail(self, error: BaseException) -> None:
        for future in self.futures:
            if not future.done():
                future.settle(Failure(error))


class Everywhere(Job):
    """One call on each worker (`run_on_all`); `n` is how many there are, once known. `answer`: results by rank."""

    n = -1
    answer: Any  # a future

    def __init__(self, func: Any, args: Tuple[Any, ...], by_value: Names) -> None:
        super().__init__(functools.partial(with_rank, func), CALLS, 0, 0, 0)
        self.args = args
        self.function = dumps_whole((self.func, None), by_value, _OwnPickler)
        self.payload = dumps([[args]], by_value, _OwnPickler)
        self.outcomes: List[Any] = []  # pairs (rank, result); or a Failure, or GONE

    def deliver(self, first: int, count: int, outcomes: List[Any]) -> None:
        self.outcomes += outcomes
        if len(self.outcomes) == self.n:
            failed = [outcome for outcome in self.outcomes if type(outcome) is not tuple]
            self.answer.settle(failed[0] if failed else dict(sorted(self.outcomes)))

    def fail(self, error: BaseException) -> None:
        """Give up what has not come."""
        self.answer.settle(Failure(error))


def with_rank(func: Callable[..., Any], *args: Any) -> Tuple[int, Any]:
    """Call a function for `run_on_all`; return the worker's rank too."""
    return _state["runtime"].rank, func(*args)


class Visit(Job):
    """Tasks of another worker that came here as a chunk; their results are sent home in parts.

    It is unpickled when one of them is to be run: until then, it can be passed on as it came.

    Attributes:
        head: its CHUNK. function, payload: its frames. columns: the payload, once unpickled (see `Block`).
    """

    columns: Any = None
    sealed = False  # some of the outcomes are pickled already

    def __init__(self, head: Tuple[Any, ...], function: Any, payload: Frames, taker: Taker) -> None:
        self.func, self.mode, self.place, self.order, self.depth = None, head[7], head[8], head[9], head[5]
        self.head, self.function, self.payload, self.taker, self.born_s = head, function, payload, taker, now()
        self.key, self.owner = head[:3], head[:2]

    def deliver(self, first: int, count: int, outcomes: List[Any], seconds: float = 0.0) -> None:
        """Add results to the message that goes to their owner; see `Taker.flush`."""
        form, frames = pack_outcomes(outcomes, self.taker.by_value, self.sealed)
        with self.taker.lock:
            self.taker.n_visits += count
        self.taker.add_part(self.key, first, count, form, frames, seconds)


class MapJob(Job):
    """A running `map`: input drawn within a window, results handed out in order (or as they come).

    Attributes:
        ready: runs of outcomes by the index of their first. done: items handed to the consumer.
        drawn: items drawn from the input. window: how far `drawn` may be ahead of `done`.
    """

    columns: Optional[List[Any]] = None
    length: Optional[int] = None  # of the input, once known
    input_error: Optional[Exception] = None
    done = drawn = 0
    waiter: Any = None
    in_order = True

    def __init__(self, func: Any, iterables: Sequence[Any], scope: Scope, window: Optional[int], chunk: Optional[int]):
        super().__init__(func, COLUMNS, place_of(scope.place, scope.n), 0, scope.depth)
        self.scope = scope  # see `scope_of`
        scope.n += 1
        with contextlib.suppress(OverflowError):  # there is a range of more than 2**63 items
            if all(type(xs) in (list, tuple, range, str, bytes) for xs in iterables):
                self.length = min(map(len, iterables))
                self.columns = [xs[:] for xs in iterables]  # as Executor.map: later changes of a list do not count
        if self.columns is None:
            self.inputs = [iter(xs) for xs in iterables]
        self.ready: collections.OrderedDict[int, Tuple[int, List[Any]]] = collections.OrderedDict()
        self.window = window or WINDOW
        self.fixed = window is not None
        self.chunk = chunk

    def draw(self) -> Iterator[Block]:
        """Draw input as far as the window allows; yield what a moment brings, to be run while the next is drawn.

        What the input raises is kept in `input_error`, for the consumer to meet after the items before it.
        """
        n = self.done + self.window - self.drawn
        if n <= self.window // 4 and n < self.window or self.drawn == self.length or self.abandoned:
            return  # drawing as much as each run of results frees would keep the pieces as small as the runs
        first, end = self.drawn, self.drawn + n
        if self.columns is not None:
            self.drawn = min(self.length or 0, end)
            yield Block(self, self.columns, 0, first, self.drawn)
        while self.length is None and self.drawn < end:
            rows: List[Any] = []
            first, begun_s, n = self.drawn, now(), 1
            while n and self.length is None and now() < begun_s + DRAW_S:
                wanted = len(rows) + n
                try:
                    rows.extend(itertools.islice(zip(*self.inputs), n))  # keeps what was drawn when the input raises
                except Exception as error:
                    self.input_error = error
                if len(rows) < wanted:
                    self.length = first + len(rows)
                n = min(2 * n, end - first - len(rows))
            self.drawn = first + len(rows)
            if rows:
                yield Block(self, list(zip(*rows)), first, first, self.drawn)

    def n_left(self, block: Block) -> int:
        return (self.length or self.drawn) - block.lo  # else the end of each piece of input would be cut into crumbs

    def can_widen(self, scheduler: Scheduler) -> bool:
        """Return True when the window is used up though the pool could do with more, as far as that is useful."""
        if self.fixed or self.drawn == self.length or self.window >= max(WINDOW, self.useful_window(scheduler)):
            return False
        if self.drawn - self.done < self.window - self.window // 4:
            return False
        level = scheduler.level(self.depth)
        with scheduler.lock:  # the pump may be carving
            return not any(type(item) is Block and item.job is self for item in itertools.islice(level, 4))

    def useful_window(self, scheduler: Scheduler) -> int:
        """Return how many items are worth some chunks for each worker, as far as measured."""
        cost = scheduler.costs.get(cost_key(self.func), 1.0)
        most = MAX_WINDOW if self.columns is None else 4 * MAX_WINDOW  # such input takes no memory that it had not
        return min(most, int(4 * CHUNK_S * scheduler.live / (cost + 1e-9)))

    def deliver(self, first: int, count: int, outcomes: List[Any]) -> None:
        if not self.abandoned:
            self.ready[first] = count, outcomes
            if self.waiter is not None and (first == self.done or not self.in_order):
                self.waiter()

    def has_run(self) -> bool:
        """Return True when there are outcomes for the consumer."""
        return self.done in self.ready if self.in_order else bool(self.ready)


class Block:
    """Tasks [lo, hi) of a job, waiting here: the element that queues hold, carve and run.

    `columns` begin at index `base` of the job, so that one drawn piece of input is freed as soon as it is used up;
    they are None while a Visit is not unpickled. `deaths`: workers that died with these tasks. `alone`: they are moved
    and run one at a time, so that trouble (an unreadable argument, a death) hits the guilty task only.
    """

    __slots__ = ("job", "columns", "base", "lo", "hi", "deaths", "alone")

    def __init__(self, job: Any, columns: Any, base: int, lo: int, hi: int, deaths: int = 0) -> None:
        self.job, self.columns, self.base, self.lo, self.hi, self.deaths = job, columns, base, lo, hi, deaths
        self.alone = deaths > 0

    def part(self, lo: int, hi: int) -> Block:
        block = Block(self.job, self.columns, self.base, lo, hi, self.deaths)
        block.alone = self.alone
        return block

    def rows(self) -> List[Any]:
        """Return the columns of exactly these tasks (a slice of a range stays a range)."""
        lo, hi, columns = self.lo - self.base, self.hi - self.base, self.columns
        if lo == 0 and len(columns) == 1 and len(columns[0]) == hi:
            return columns  # type: ignore[no-any-return]
        return [c if lo == 0 and len(c) == hi else c[lo:hi] for c in columns]

    def spot(self, index: int) -> Any:
        """Return place and depth of a task. Submitted tasks of several parents have theirs in a second column."""
        job = self.job
        if job.mode != COLUMNS and len(self.columns) > 1:
            return self.columns[1][index - self.base]
        return place_of(job.place, job.order + index), job.depth

    def first_call(self) -> Any:
        """Return function, arguments and keyword arguments of the first of these tasks."""
        row, job = [column[self.lo - self.base] for column in self.columns], self.job
        return row[0] if job.mode == MIXED else (job.func, row if job.mode == COLUMNS else row[0], {})


# ======================================================================================================================
# Scheduler: work first, carve on order; a worker's queue and its half of the protocol, pure    (scheduler thread, pump)
# ======================================================================================================================
# Data's way: submit/map -> levels -> run here, or: carve -> BATCH -> broker -> BATCH -> levels of a taker -> run there
# -> RESULT -> broker -> RESULT -> future. The lock guards levels, slices, sent and the counters; pickling is outside.


class Level(collections.deque):  # type: ignore[type-arg]
    """The queue of one nesting depth: futures and blocks; first in, first out."""

    stale = 0  # futures in it that were run or cancelled meanwhile


def taken(queue: Deque[Any], take: Callable[[Deque[Any]], Any] = collections.deque.popleft) -> Iterator[Any]:
    """Take all that is in a queue; other threads may add to it, and take from it, meanwhile."""
    with contextlib.suppress(IndexError):
        while True:
            yield take(queue)


def snapshot(queue: Deque[Any]) -> Deque[Any]:
    """Copy a queue that another thread may be adding to."""
    while True:
        try:
            return queue.copy()
        except RuntimeError:  # it has: without a GIL, that may happen
            pass


DOOM = getattr(signal, "SIGURG", signal.SIGINT)  # a worker sends it to itself; SIGINT is the user's, also in tasks


def run_calls(piece: Slice, calls: Iterator[Any]) -> None:
    """Run a slice. Alone in its frame, so that a signal handler can tell tasks written in C from our own work."""
    if piece.block.hi - piece.block.lo == 1 and not piece.out:
        piece.out.append(next(calls))  # alone, a task's own StopIteration can be told from the end
    elif HAS_GIL:
        piece.out.extend(calls)
    else:  # that would lock `out` while tasks run
        collections.deque(map(piece.out.append, calls), 0)


def unseen_stop(block: Block, index: int) -> StopIteration:
    """Return the StopIteration of a task which has ended the C loop that ran it: what it held is not known."""
    task = describe(block.part(index, index + 1))
    why = f"{task} raised StopIteration in a loop of tasks, by which its value and traceback are lost"
    return with_cause(StopIteration(), ScoopError(why))  # type: ignore[return-value]


def call_with(func: Callable[..., Any], args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> Any:
    """Call a task of a slice that is MIXED."""
    return func(*args, **(kwargs or {}))


def raise_interrupt(_: Any) -> None:
    """Stand for a task's function, where one is to be interrupted."""
    raise KeyboardInterrupt


class Slice:
    """A block that is running in one C loop. Whoever holds the lock may take away what has not begun.

    ``list(it)`` takes all that remains in one step of the interpreter, and the loop simply ends after its current task.
    Without a GIL, two threads may both get the same item of an iterator, but not of a deque: so there, `it` takes from
    `rest`, and raises IndexError at its end.
    """

    __slots__ = ("block", "it", "rest", "out", "started_s", "due_s", "pause_s", "seen", "strand", "n_handed", "scope",
                 "scope_index")  # fmt: skip

    def __init__(self, block: Block, items: Iterable[Any], started_s: float, strand: Any = None) -> None:
        self.block, self.started_s, self.strand = block, started_s, strand
        rest: Any = iter(items) if HAS_GIL else collections.deque(items)
        self.rest, self.it = rest, rest if HAS_GIL else map(collections.deque.popleft, itertools.repeat(rest))
        self.due_s = self.pause_s = math.inf  # when it, and for how long its task, may go on before it is late
        self.seen = 0, started_s  # tasks that had ended at the last look that found more of them, and when that was
        self.out: List[Any] = []
        self.n_handed = 0  # tasks whose outcomes are no longer in `out`, nor the tasks in `block`
        self.scope: Optional[Scope] = None  # of the task with this index, once it has created a task
        self.scope_index = -1

    def index(self) -> int:
        """Return the index, in its job, of the task that runs now."""
        return self.block.lo + len(self.out)

    def begin(self, now_s: float, cost: float) -> None:
        """Note that it begins now, and should take `cost` seconds."""
        self.started_s, self.seen = now_s, (0, now_s)
        self.due_s = now_s + max(DOZE_S, 2 * cost)
        self.pause_s = max(DOZE_S, 4 * cost / (self.block.hi - self.block.lo))

    def is_late(self, now_s: float) -> bool:
        """Look what has ended; return True if it takes far longer than was thought: the whole, or the running task."""
        if len(self.out) != self.seen[0]:
            self.seen = len(self.out), now_s
        return now_s > self.due_s or now_s - self.seen[1] > self.pause_s

    def is_long(self, now_s: float) -> bool:
        """Return True if it takes long, as of a reduction, or as a chunk of others' tasks as a whole; or is late."""
        whole_chunk = self.block.job.owner is not None and self.due_s - self.started_s > 2 * DOZE_S
        return self.block.job.fold is not None or whole_chunk or self.is_late(now_s)

    def rob(self) -> Optional[Block]:
        """Take away all tasks that have not begun (lock held); of a slice that has not, none: the first is its own."""
        if length_hint(self.rest) >= self.block.hi - self.block.lo - len(self.out):
            return None
        n = len(list(self.it)) if HAS_GIL else sum(1 for _ in taken(self.rest, collections.deque.pop))
        if not n:
            return None
        rest = self.block.part(self.block.hi - n, self.block.hi)
        self.block.hi -= n
        return rest


class Sent:
    """An owner's record of one chunk under way."""

    __slots__ = ("block", "by_value", "holder", "left", "opened")

    def __init__(self, block: Block, by_value: Names, holder: Optional[Neighbour] = None) -> None:
        self.block, self.by_value = block, by_value  # as it was when they were pickled, or before
        self.holder = holder  # who has it, if an Executor's client has sent it past the broker
        self.left: Ranges = [(0, block.hi - block.lo)]  # of its tasks, those whose results have not come
        self.opened = -1  # of a holder's tasks that are run carefully: the one that has begun


def scope_of(runs: Any) -> Optional[Scope]:
    """Return the scope in which a running future, or a running slice's map, was made; None for other workers' tasks."""
    return getattr(runs.block.job, "scope", None) if type(runs) is Slice else getattr(runs, "at", None)


def absorb(op: Any, nodes: List[Tuple[int, int, Any]], index: int, size: int, value: Any) -> None:
    """Add a node to the partial reduction of a run of items, joining equal neighbours.

    A node (index, size, value) stands for items [index, index + size), size a power of two that divides index. So the
    tree's shape depends on the items' indexes alone, not on who computed what, and floating-point sums are the same
    on 1 and on 1,000 workers.
    """
    while nodes and nodes[-1][1] == size and not nodes[-1][0] & size:
        index, _, left = nodes.pop()
        value, size = op(left, value), size * 2
    nodes.append((index, size, value))


def chunk_s(job: Job) -> float:
    """Return how much measured work of a job makes a chunk."""
    return CHUNK_S if job.fold is None else FOLD_CHUNK_S


def cost_key(func: Any) -> Any:
    """Return what a function's measured cost is filed under."""
    while True:
        if type(func) is types.FunctionType:  # not the function: its cells may hold big objects, or a pool
            return func.__code__ if func.__closure__ is None else (func.__code__, func.__qualname__)
        if type(func) is types.MethodType:
            func = func.__func__
        elif type(func) is functools.partial:
            func = func.func
        else:
            return own_name(func) or own_name(type(func))


def own_name(func: Any) -> str:
    """Return the name that a function or class has, "" for other callables: their `__getattr__` may do anything."""
    try:
        name = func.__qualname__
    except Exception:
        return ""
    return name if isinstance(name, str) else ""


def name_of(func: Any) -> str:
    """Return a function's name for people."""
    while isinstance(func, functools.partial):
        func = func.args[0] if func.func is with_rank else func.func
    return " ".join((own_name(func) or type(func).__qualname__).split())


class Queue:
    """A worker's tasks, by nesting depth: the deepest run first here, and in runs as long as measurements allow.

    The lock guards all of it. Base of `Scheduler`, as `Carver` is.
    """

    retries = 2  # deaths that a task may survive; if none, tasks travel one by one

    def __init__(self, lock: Any, clock: Callable[[], float]) -> None:
        self.lock, self.clock = lock, clock
        self.live = 1  # workers in the pool
        self.runs_script = True  # so what may kill this process is better run elsewhere
        self.n_visits = 0  # tasks of others that were run here
        self.max_tasks = 0  # that a worker runs before it retires; 0 for no limit
        self.retired = False  # it has said so
        self.levels: List[Level] = [Level()]
        self.top = 0  # no level above holds anything, as far as the scheduler's thread knows; the pump never writes it
        self.home: Deque[Any] = collections.deque()  # blocks that cannot travel
        self.away: Deque[Block] = collections.deque()  # blocks that must not run here: suspected of killing workers
        self.late_s = 0.0  # when what runs here will have taken longer than a chunk should; 0 while nothing can
        self.costs: Dict[Any, float] = {}

    def level(self, depth: int) -> Level:
        """Return the queue for tasks of this nesting depth."""
        if depth >= MAX_DEPTH:
            raise MisuseError(f"tasks that wait for tasks that wait for …, {MAX_DEPTH} deep: is there an end to it?")
        while depth >= len(self.levels):
            self.levels.append(Level())
        return self.levels[depth]

    def put(self, block: Block) -> None:
        """Queue a block of this worker's own tasks."""
        self.level(block.job.depth).append(block)
        self.top = max(self.top, block.job.depth)

    def put_back(self, block: Block) -> None:
        """Return a block to the front of its queue (lock held); a suspected one is kept from the origin."""
        if block.deaths and self.runs_script and self.live > 1:
            self.away.append(block)
        else:
            self.level(block.job.depth).appendleft(block)

    def deepest(self) -> Optional[Level]:
        """Return the deepest queue that is not empty (lock held)."""
        levels = self.levels
        while self.top >= 0:
            if levels[self.top]:
                return levels[self.top]
            self.top -= 1
        for depth in range(len(levels) - 1, -1, -1):  # the pump may have added to any of them
            if levels[depth]:
                self.top = depth
                return levels[depth]
        self.top = 0
        return None

    def has_tasks(self) -> bool:
        """Return True if something waits that may run here."""
        return bool(self.home) or any(self.levels)

    def take(self, limit_s: Optional[float] = None) -> Any:
        """Take what to run next, if its tasks are shorter than `limit_s`: a Future (now RUNNING), a Block, or None."""
        self.late_s = self.clock() + CHUNK_S
        with self.lock:
            while self.home:  # nobody else can run it, so no time limit keeps it waiting
                block: Block = self.home.popleft()
                if not block.job.abandoned:
                    return block
            while True:
                level = self.deepest()
                if level is None:
                    return None
                head = level[0]
                if type(head) is Future and head.state != PENDING:
                    level.popleft()
                    level.stale -= 1
                elif type(head) is Block and head.job.abandoned:
                    level.popleft()
                elif limit_s is not None and self.known_cost(head) >= limit_s:
                    return None
                elif type(head) is Block and head.columns is not None:
                    return self.cut(level, self.local_size(head, limit_s))
                else:
                    if type(head) is Future:
                        head.state = RUNNING
                    return level.popleft()

    def take_like(self, func: Any) -> Optional[Future]:
        """Take one more future of this function, or one alike in cost, from the deepest queue, or None."""
        with self.lock:
            level = self.levels[self.top]
            if not level or type(level[0]) is not Future or level[0].state != PENDING:
                return None
            if level[0].func is not func and cost_key(level[0].func) != cost_key(func):
                return None
            future: Future = level.popleft()
            future.state = RUNNING
            return future

    def known_cost(self, item: Any) -> float:
        """Return the measured seconds per task of a queue's item; infinite if unknown, or not unpickled yet."""
        func = item.func if type(item) is Future else item.job.func
        return self.costs.get(cost_key(func), float("inf")) if func is not None else float("inf")

    def next_cost(self) -> float:
        """Return the measured seconds of the task that is next here; infinite if not known, or if there is none."""
        level = self.levels[self.top]
        try:
            return self.known_cost(level[0])
        except IndexError:  # it is empty, or the pump has carved from it just now
            return math.inf

    def left_s(self) -> float:
        """Return the measured seconds of work that waits here, infinite unless it is at most one item. Any thread."""
        levels = [level for level in self.levels if level]
        if not levels:
            return 0.0
        if len(levels) > 1 or len(levels[0]) > 1:
            return math.inf
        try:
            item = levels[0][0]
        except IndexError:  # the pump has carved it just now
            return 0.0
        return self.known_cost(item) * (item.hi - item.lo if type(item) is Block else 1)

    def is_short(self, func: Any) -> bool:
        return self.costs.get(cost_key(func), 1.0) < SHORT_S

    def note_cost(self, func: Any, seconds: float, n: int = 1) -> None:
        """Learn from `n` tasks that took `seconds` together: quick to believe longer, slower to believe shorter."""
        key, cost = cost_key(func), seconds / n
        old = self.costs.get(key)
        self.costs[key] = cost if old is None or n > 100 or cost > old else (old + cost) / 2
        if len(self.costs) > 4096:  # a program that makes functions all the time
            self.costs.pop(next(iter(self.costs)))

    def cut(self, level: Level, n: int) -> Block:
        """Cut `n` tasks off the block at the front of a queue (lock held)."""
        block: Block = level[0]
        if n >= block.hi - block.lo:
            level.popleft()
            return block
        block.lo += n
        return block.part(block.lo - n, block.lo)

    def local_size(self, block: Block, limit_s: Optional[float] = None) -> int:
        """Return how many tasks of a block to run in one go here: half of them, within bounds of measured time.

        What came as a chunk is run as a whole, but for the last of longer tasks: while it runs, the next chunk comes.
        Of a reduction, it is as much as a chunk of one: what is joined here need not travel.
        """
        job, cost = block.job, self.costs.get(cost_key(block.job.func))
        if block.alone or cost is None:
            return 1
        if job.fold is None and job.owner is None:
            budget_s = max(LOCAL_SLICE_S, min(MAX_SLICE_S, job.n_left(block) * cost / 2))
        else:
            budget_s = chunk_s(job)
        size = max(1, int(min(budget_s, limit_s or budget_s) / (cost + 1e-9)))
        if job.owner is not None and cost >= SHORT_S:
            size = max(1, min(size, block.hi - block.lo - 1))
        return min(size, max(1, self.max_tasks - self.n_visits)) if self.max_tasks else size

    def chunk_size(self, n: int, func: Any, budget_s: float = CHUNK_S, most: int = MAX_CHUNK) -> int:
        """Return how many of `n` waiting tasks make a chunk: guided self-scheduling, within bounds of measured time."""
        cost = self.costs.get(cost_key(func)) if n > 1 else None
        if cost is None:
            return 1
        guided = -(-n // (2 * max(2, self.live)))
        cost += 1e-9
        n = min(n, self.max_tasks or n, most)
        return min(n, max(1, min(max(guided, int(MIN_CHUNK_S / cost)), int(budget_s / cost))))

    def gather(self, level: Level) -> Block:
        """Take futures that are alike in cost from the front of a queue, as one parcel (lock held).

        Those between them are passed over, some. Where few of one parent wait, as in a recursion, others' from deeper
        queues come along: up to half of all.
        """
        head: Future = level[0]
        func, scope, order, key = head.func, head.at, head.order, cost_key(head.func)
        parcel = Parcel([], func, CALLS, scope.place, order, scope.depth)
        futures, spots, levels = parcel.futures, [], self.levels[scope.depth :]
        n = self.chunk_size(max(len(level), sum(map(len, levels)) // 2), func) if self.retries else 1
        for level in levels:
            others: List[Future] = []
            while level and type(level[0]) is Future and len(futures) < n and len(others) < PASS_OVER * n:
                item = level.popleft()
                if item.state != PENDING:
                    level.stale -= 1
                    continue
                if item.func is not func or item.kwargs is not None:
                    if cost_key(item.func) != key:
                        others.append(item)
                        continue
                    parcel.mode = MIXED
                spots.append((item.at, item.order))
                futures.append(item)
                item.state, item.at = SENT, parcel
            level.extendleft(reversed(others))
        mixed = parcel.mode == MIXED
        calls = [(f.func, f.args, f.kwargs) for f in futures] if mixed else [f.args for f in futures]
        if all(at is scope for at, _ in spots) and spots[-1][1] == order + len(spots) - 1:
            return Block(parcel, [calls], 0, 0, len(futures))
        return Block(parcel, [calls, [(place_of(at.place, i), at.depth) for at, i in spots]], 0, 0, len(futures))

    def claim(self, future: Future) -> bool:
        """Take one certain future out of its queue, to run it at once; False if somebody else has it."""
        with self.lock:
            if future.state != PENDING:
                return False
            future.state = RUNNING
            level = future.at.level
            if level and level[0] is future:
                level.popleft()
            elif level and level[-1] is future:
                level.pop()
            else:  # it stays there; such ones are swept out if they are most
                level.stale += 1
                if level.stale > 64 and level.stale * 2 > len(level):
                    kept = [item for item in level if type(item) is not Future or item.state == PENDING]
                    level.clear()
                    level.extend(kept)
                    level.stale = 0
            return True


class Taker(Queue):
    """Asks for tasks of others, the broker and, by a straight link, an Executor's client; sends back their results."""

    def __init__(self, emit: Callable[[Frames], None], *queue: Any) -> None:
        super().__init__(*queue)
        self.rank, self.incarnation, self.emit = ORIGIN, 1, emit
        self.wanted = self.received = 0
        self.is_hungry = False  # wanted > received
        self.n_hungry = 0  # how often that was said
        self.wanted_s, self.fetch_s = 0.0, 0.02  # when a batch was asked for; what it then takes to come, at least
        self.straight = self.asked = False  # there is a straight link to the client; it knows that a batch is wanted
        self.asked_s = 0.0
        self.from_broker = False  # the last batch was another worker's, so there may be more of these
        self.results: Dict[Tuple[int, int], Frames] = {}  # RESULT messages being filled, by owner
        self.flushed_s = 0.0
        self.by_value: FrozenSet[str] = frozenset()  # what workers could not find, see `dumps`
        self.packed: Tuple[Any, bytes] = None, b""  # the last function that came or went by name
        self.n_scopes = 0  # tasks (and callbacks) here that have created others
        self.others_create = False  # tasks that came back from other workers have

    def message(self, kind: str, *frames: Any) -> Frames:
        return [HEADER.pack(CODES[kind], self.rank, self.incarnation), *frames]

    def add_part(self, key: ChunkKey, first: int, count: int, form: int, frames: Frames, seconds: float = 0.0) -> None:
        with self.lock:
            to = self.results.setdefault(key[:2], [OWNER.pack(*key[:2])])
            form += CREATES * (self.n_scopes > 0)
            to += [PART.pack(key[2], first, count, int(seconds * 1e9), form, len(frames)), *frames]

    def flush(self, want: bool = False) -> None:
        """Send the results that wait for company; `want` one more batch, unless that was said and not answered.

        The broker has others return theirs for it: so the client is asked first, and gets some time to answer.
        """
        with self.lock:
            waiting, self.results = self.results, {}
            self.flushed_s = self.clock()
            ask = want and self.straight and not self.asked
            if ask:
                self.asked, self.asked_s = True, self.flushed_s
            hunger = self.hunger(self.received + 1) if want and not self.is_told() else None
        if ask:
            to, *parts = waiting.pop(CLIENT, [STRAIGHT])
            self.emit(self.message("NEXT", to, HUNGER.pack(1, 0), *parts))
        for owner, frames in waiting.items():
            if hunger is None or owner == CLIENT:
                self.emit(self.message("RESULT", *frames))
            else:
                self.emit(self.message("NEXT", frames[0], hunger, *frames[1:]))
                hunger = None
        if hunger is not None:
            self.emit(self.message("HUNGRY", hunger))

    def is_told(self) -> bool:
        """Return True while the broker knows that a batch is wanted, or need not know yet."""
        return self.is_hungry or not (self.from_broker or self.is_dry())

    def is_dry(self) -> bool:
        """Return True if no client has tasks for us: there is none, or it has been asked in vain for some time."""
        return not self.straight or self.asked and self.clock() - self.asked_s > self.patience_s()

    def patience_s(self) -> float:
        """Return how long the client may take to send what it was asked for, before the broker is asked."""
        return max(PATIENCE_S, self.live * PATIENCE_PART_S)

    def keeps_until(self) -> float:
        """Return when others' tasks that are kept for this worker may be given away after all; see `Carver.keeps`."""
        return min(self.late_s, self.asked_s + self.patience_s()) if self.straight and self.asked else self.late_s

    def hunger(self, wanted: int) -> bytes:
        """Note how many batches are wanted from now on; return the frame that says so (lock held)."""
        self.wanted, self.is_hungry = wanted, wanted > self.received
        if self.is_hungry:
            self.wanted_s = self.clock()
        self.n_hungry += 1
        return HUNGER.pack(wanted, self.n_hungry)

    def ahead_s(self) -> float:
        """Return how much work may be left when the next batch is asked for, so that it comes in time.

        The script's worker, which has tasks of its own, asks when nothing is left: others must be able to ask it.
        """
        return 0.0 if self.runs_script else 2 * self.fetch_s + AHEAD_S

    def sate(self, enough_s: float = 0.0) -> None:
        """Take back that a batch is wanted, if tasks are here meanwhile: who is hungry gets no orders for them."""
        with self.lock:
            if not self.is_hungry or not self.away and self.left_s() <= enough_s:
                return
            hunger = self.hunger(self.received)
        self.emit(self.message("HUNGRY", hunger))

    def pack_function(self, job: Job) -> bytes:
        """Pickle a job's function and fold, only if it is another than the last one; b"" if it travels by value."""
        func, packed = self.packed
        if job.func is func and job.fold is None and still_found(func, self.by_value):
            return packed
        if not finds_by_name(job.func, self.by_value):
            return b""
        packed = dumps_whole((job.func, job.fold), self.by_value)
        self.remember(job.func, job.fold, packed)
        return packed

    def unpack_function(self, packed: Any) -> Tuple[Any, Any]:
        """Undo `pack_function`, with the same economy."""
        packed = bytes(packed) if type(packed) is memoryview else packed  # else it is compared, and searched, bytewise
        func, known = self.packed  # once: the pump may put another there
        if packed == known and still_found(func, self.by_value):
            return func, None
        func, fold = loads([packed])
        self.remember(func, fold, packed)
        return func, fold

    def remember(self, func: Any, fold: Any, packed: Any) -> None:
        if fold is None and isinstance(func, FUNCTIONS) and MADE not in packed:
            self.packed = func, bytes(packed)


class Carver(Taker):
    """Fills the broker's orders from the queue."""

    n_straight = n_rerun = 0  # batches that went past the broker, and tasks of these that came back by a death
    carving = False  # tasks of our own, taken away, are neither here nor sent yet
    packing = 0  # the thread that pickles what was carved: it has `shipping`, so code that it calls there cannot wait

    def __init__(self, retries: int, *about: Any) -> None:
        super().__init__(*about)
        self.retries = retries
        self.shipping = threading.Lock()  # held while carved work is pickled and sent
        self.slices: List[Slice] = []
        self.sent: Dict[int, Sent] = {}
        self.n_chunks = self.ordered = self.filled = 0
        self.n_carved = self.n_kept = 0  # tasks; times that what was carved came back here, as it could not be pickled
        self.recorder: Optional[Recorder] = None

    def carve(self) -> None:
        """Fill the broker's orders from the queue; may be called by the scheduler's thread and by the pump."""
        while self.ordered > self.filled and self.may_give() and self.shipping.acquire(False):
            try:
                with self.lock:
                    item = self.take_away() if self.ordered > self.filled else None
                    self.filled += item is not None
                    self.carving = item is not None and item.job.owner is None
                if item is None:
                    return
                self.ship(item)
            finally:
                self.carving = False
                self.shipping.release()

    def keeps_last(self) -> bool:
        """Return True if a single task waits here, and the only other worker, which has some of ours, wants it ahead.

        Given away, it would have to wait, while nobody runs anything here; among more workers, who runs nothing serves
        the others at once.
        """
        if self.live > 2 or self.away or not self.sent:
            return False
        with self.lock:
            waiting = [item for level in self.levels for item in itertools.islice(level, 2)]
        return len(waiting) == 1 and (type(waiting[0]) is Future or waiting[0].hi - waiting[0].lo == 1)

    def may_give(self) -> bool:
        """Return False if there is surely nothing to give away."""
        return bool(self.away or self.slices or any(self.levels))

    def take_away(self) -> Any:
        """Take out what to give away next: the shallowest, as it is the biggest subtree (lock held)."""
        if self.away:
            return self.cut(self.away, 1)  # type: ignore[arg-type]
        for level in self.levels:
            while level:
                head = level[0]
                if type(head) is Block:
                    if self.keeps(head):
                        break
                    if not head.job.abandoned:
                        return self.cut(level, self.block_chunk(head, len(level) - 1))
                    level.popleft()
                elif head.state == PENDING:
                    return self.gather(level)
                else:
                    level.popleft()
                    level.stale -= 1
        return self.rob()

    def keeps(self, block: Block) -> bool:
        """Say whether tasks of another worker stay: passed on, they would only go round, as they are next here.

        Not so if they are far more work than they were thought to be. Those of an Executor's client go back once it has
        no others for whoever is hungry.
        """
        owner, known_s = block.job.owner, self.costs.get(cost_key(block.job.func), 0.0) * (block.hi - block.lo)
        early = owner is not None and self.clock() < self.late_s and known_s < 2 * chunk_s(block.job)
        return early and not (owner == CLIENT and self.is_dry())

    def block_chunk(self, block: Block, n_behind: int = 0) -> int:
        """Return how many tasks of a block make a chunk; what waits behind it counts, for else its end makes crumbs."""
        if block.columns is None:
            return block.hi - block.lo  # it goes on as it came
        if block.alone or not self.retries:
            return 1
        job, n = block.job, block.job.n_left(block) + n_behind
        most = MAX_CHUNK if job.fold is None else n
        return getattr(job, "chunk", None) or self.chunk_size(n, job.func, chunk_s(job), most)

    def rob(self) -> Optional[Block]:
        """Take half of what a running slice has not begun, when that is worth it (lock held)."""
        for piece in self.slices:
            if piece.block.job.owner == CLIENT and self.keeps(piece.block):
                continue  # who is hungry gets others from the client
            left = length_hint(piece.rest)
            cost = self.costs.get(cost_key(piece.block.job.func), SHORT_S)
            worth_it = piece.is_late(self.clock()) or left * cost > 2 * MIN_CHUNK_S
            if left and worth_it and not piece.block.job.abandoned:
                rest = piece.rob()
                if rest is not None:
                    middle = rest.lo + (rest.hi - rest.lo) // 2 if self.retries else rest.hi - 1
                    if middle > rest.lo:
                        self.level(rest.job.depth).appendleft(rest.part(rest.lo, middle))
                    return rest.part(middle, rest.hi)
        return None

    def break_off(self, piece: Slice) -> None:
        """Return the tasks of a running slice that have not begun to their queue (lock held)."""
        if piece in self.slices and (rest := piece.rob()) is not None:
            self.put_back(rest)

    def withdraw(self, wanted: Callable[[Job], bool], first: int = 0, end: int = sys.maxsize) -> Ranges:
        """Take what has not begun of tasks [first, end) of certain jobs out of all queues (lock held); return ranges.

        What remains of a Visit that is not unpickled yet is to run here: passed on as it came, all would run.
        """
        found: Ranges = []
        for piece in self.slices:
            if wanted(piece.block.job):
                self.break_off(piece)
        for queue in (self.home, self.away, *self.levels):
            for item in [x for x in snapshot(queue) if type(x) is Block and wanted(x.job)]:
                a, b = max(first, item.lo), min(end, item.hi)
                if a < b:
                    found.append((a, b))
                    queue.remove(item)
                    rest = [item.part(x, y) for x, y in ((item.lo, a), (b, item.hi)) if x < y]
                    (self.home if item.columns is None else queue).extend(rest)
        return found

    def recall(self, kind: str, job: Optional[Job] = None, first: int = 0, end: int = sys.maxsize) -> Ranges:
        """CANCEL or ABORT tasks [first, end) of a job, or all, that are under way.

        Return, for each chunk that they are in, its id and the first of them in it.
        """
        asked = []
        with self.shipping:  # what is being carved must be on its way before its cancellation
            for chunk_id, sent in list(self.sent.items()):
                block = sent.block
                a, b = max(first, block.lo) - block.lo, min(end, block.hi) - block.lo
                if a < b and job in (None, block.job):
                    asked.append((chunk_id, a))
                    ref = REF.pack(chunk_id, a, b - a)
                    if sent.holder is None:
                        self.emit(self.message(kind, OWNER.pack(self.rank, self.incarnation), ref))
                    else:
                        sent.holder.link.send(message(kind, *sent.holder[:2], STRAIGHT, ref))
        return asked

    def ship(self, block: Block) -> None:
        """Pickle and send what was carved; what cannot be pickled runs at home."""
        job, start_s, chunk_id = block.job, self.clock(), self.n_chunks
        if job.owner == CLIENT:  # it came straight from the client, which still has it, and knows who wants it
            head = CHUNK.pack(ORIGIN, 1, job.key[2], block.lo, block.hi - block.lo, 0, 0, 0, 0, 0, 0)
            self.emit(self.message("RETURNED", b"", head))
        elif block.columns is None:
            self.emit(self.message("BATCH", job.function, CHUNK.pack(*job.head), *job.payload))
        else:
            frames = self.load(block, self.incarnation)
            if frames is None:
                with self.lock:
                    self.filled -= 1
                return
            self.emit(frames)
            if self.recorder is not None:
                self.recorder.carved(start_s, block, (self.rank, self.incarnation, chunk_id))

    def load(self, block: Block, incarnation: int, holder: Optional[Neighbour] = None) -> Optional[Frames]:
        """Pickle a block and account for it, as it is going to be sent now; None if it cannot be pickled."""
        by_value, self.packing = self.by_value, threading.get_ident()
        try:
            frames = self.pack(block, incarnation)
        except RAISED as error:
            self.not_shipped(block, error)
            return None
        finally:
            self.packing = 0
        if block.job.owner is None:
            self.sent[self.n_chunks] = Sent(block, by_value, holder)
            self.n_chunks += 1
        self.n_carved += block.hi - block.lo
        return frames

    def pack(self, block: Block, incarnation: int) -> Frames:
        """Pickle a block as a BATCH of one chunk; a function that does not travel by name as a part of the payload."""
        job, n = block.job, block.hi - block.lo
        if job.owner:
            function, key, first = job.function, job.key, block.lo
        else:
            function = b"" if job.mode == MIXED else self.pack_function(job)
            key, first = (self.rank, incarnation, self.n_chunks), 0
        rows = block.rows()
        if not function:
            payload = dumps((block.first_call()[0], job.fold, rows), self.by_value)
        elif n == 1 and job.mode == CALLS and is_plain(rows[0][0]):
            payload = [pickle.dumps(rows, 5)]
        else:
            payload = dumps(rows, self.by_value)
        order = job.order + block.lo - first
        careful = min(255, block.deaths + 1) if block.alone or not self.retries else 0
        head = CHUNK.pack(*key, first, n, job.depth, careful, job.mode, job.place, order, len(payload))
        return self.message("BATCH", function, head, *payload)

    def account(self, chunk_id: int, first: int, count: int) -> None:
        """Note that tasks of a chunk are no longer under way (lock held)."""
        sent = self.sent[chunk_id]
        whole = sent.left == [(first, first + count)]  # as nearly always
        sent.left = [] if whole else subtract(sent.left, first, first + count)[0]
        if not sent.left:
            del self.sent[chunk_id]
            if self.recorder is not None and type(sent.block.job) is not Everywhere:
                owner = (self.rank, self.incarnation) if sent.holder is None else CLIENT
                self.recorder.arrow("f", self.clock(), (*owner, chunk_id))

    def take_home(self, chunk_id: int, first: int, count: int) -> Block:
        """Return tasks of a chunk that are no longer under way as a block (lock held)."""
        block = self.sent[chunk_id].block
        self.account(chunk_id, first, count)
        return block.part(block.lo + first, block.lo + first + count)

    def not_shipped(self, block: Block, error: BaseException) -> None:
        """Keep what cannot be pickled: tasks that travel alone may still do so, the others run here."""
        with self.lock:
            if block.hi - block.lo > 1:
                middle = (block.lo + block.hi) // 2
                for part in block.part(middle, block.hi), block.part(block.lo, middle):
                    part.alone = part.hi - part.lo == 1
                    self.put_back(part)
            else:
                logger.debug("a task of %r stays at home: %s", block.job.func, error)
                self.home.append(block)
            self.n_kept += 1  # only now: who sees it looks into the queue


class Scheduler(Carver):
    """Decides what runs here next, what is carved for others, and what becomes of chunks when workers die.

    It does no input or output: `emit` sends a message to the broker, `clock` tells the time, `later` defers a call to
    the scheduler's own thread (from the pump, which must not run user code). The handlers of urgent messages (see
    URGENT) are called with the lock held, by either thread; they touch queues and counters, never user code. The
    others belong to the scheduler's thread.
    """

    def __init__(
        self, emit: Callable[[Frames], None], later: Callable[[Callable[[], None]], None], lock: Any, retries: int = 2,
        clock: Callable[[], float] = now,
    ) -> None:  # fmt: skip
        super().__init__(retries, emit, lock, clock)
        self.later = later
        self.aborted: Deque[Tuple[ChunkKey, int, int]] = collections.deque(maxlen=64)  # of late
        # Raise KeyboardInterrupt in the task that runs; not in the origin, which listens to its user alone.
        self.interrupt: Callable[[Slice], None] = lambda piece: None
        self.cancelling: Dict[Tuple[int, int], Callable[[], None]] = {}
        self.answers: Deque[Frames] = collections.deque()  # to be sent once the lock is free
        self.n_done = self.n_returned = 0  # tasks
        self.undrawn = 0  # items of maps that are not in a queue yet

    def take_part(self, rank: int, incarnation: int, live: int, straight: bool) -> None:
        """Be that worker of a pool of `live`; `straight`: with a link to the client."""
        self.rank, self.incarnation, self.live, self.straight = rank, incarnation, live, straight
        self.runs_script = self.runs_script and rank == ORIGIN

    def on_order(self, frames: Frames) -> None:
        (self.ordered,) = COUNT.unpack(frames[1])

    def on_batch(self, frames: Frames) -> None:
        """Queue the chunk of a batch that was wanted here.

        The shortest wait is the way's, what was longer waited for tasks to be there; 5% a time follow a way that slows.
        """
        if self.retired:
            return
        self.late_s = self.late_s or self.clock() + CHUNK_S  # it came to be run here, not to be passed on
        if frames[2][: OWNER.size] == STRAIGHT:
            self.fetch_s = min(self.clock() - self.asked_s, self.fetch_s * 1.05)
            self.asked = self.from_broker = False
        else:
            self.fetch_s = min(self.clock() - self.wanted_s, self.fetch_s * 1.05)
            self.from_broker = True
            self.received += 1
            self.wanted = max(self.wanted, self.received)  # it may have crossed what `sate` said
            self.is_hungry = self.wanted > self.received
        self.on_returned(frames)

    def on_returned(self, frames: Frames) -> None:
        """Queue a chunk; or take back tasks of our own, unless they have been accounted for meanwhile."""
        head = CHUNK.unpack(frames[2])
        if head[:2] != (self.rank, self.incarnation):
            queue = self.level(head[5]) if is_whole(frames) else self.home  # not whole, it must not be passed on
            queue.append(self.visitors(head, frames))
        elif head[2] in self.sent:
            self.put_back(self.take_home(*head[2:5]))

    def visitors(self, head: Tuple[Any, ...], frames: Frames) -> Block:
        """Return the tasks of another worker that are in a message."""
        visit = Visit(head, frames[1], frames[3:], self)
        return Block(visit, None, head[3], head[3], head[3] + head[4], max(0, head[6] - 1))

    def on_cancel(self, frames: Frames) -> None:
        """Withdraw tasks that have not started; answer for each range, or that there were none."""
        chunk_id, first, count = REF.unpack(frames[2])
        key = (*OWNER.unpack(frames[1]), chunk_id)
        ranges = self.withdraw(lambda job: job.key == key, first, first + count)
        answer: Frames = [frames[1]]
        for a, b in ranges:
            answer += [PART.pack(chunk_id, a, b - a, 0, EACH, 1), STATUS.pack(WITHDRAWN, 0) * (b - a)]
        if not ranges:
            answer += [PART.pack(chunk_id, first, 0, 0, EACH, 0)]
        self.answers.append(self.message("RESULT", *answer))

    def on_abort(self, frames: Frames) -> None:
        """Withdraw tasks that have not started, and interrupt those that run (lock held)."""
        self.on_cancel(frames)
        chunk_id, first, count = REF.unpack(frames[2])
        key = (*OWNER.unpack(frames[1]), chunk_id)
        self.aborted.append((key, first, first + count))
        for piece in self.slices:
            if piece.block.job.key == key and first <= piece.index() < first + count:
                self.interrupt(piece)

    def was_aborted(self, block: Block) -> bool:
        """Say whether these tasks were aborted while they were between a queue and the slice that runs them."""
        key = block.job.key
        return any(key == k and first <= block.lo and block.hi <= end for k, first, end in self.aborted)

    def on_lost(self, frames: Frames) -> None:
        """Take back tasks that a dead worker had; blame those that were surely running, fail the hopeless ones."""
        death = json.loads(bytes(frames[1]))
        for frame in frames[2:]:
            chunk_id, first, count, opened = LOST_REF.unpack(frame)
            block = self.take_home(chunk_id, first, count)
            if self.recorder is not None and not death.get("retired"):
                name, about = name_of(block.job.func), {"tasks": count}
                self.recorder.mark("i", name, self.clock(), s="t", cat="rerun", args=about)
            cut_off = death.get("cut_off") and not self.retries  # OPENED may be lost; these must not run twice
            if not death.get("retired") and (opened or cut_off or not (block.alone or not self.retries)):
                block.deaths += 1
                block.alone = True
            if block.job.abandoned:
                continue
            hopeless = block.deaths > self.retries or block.deaths > 1 and self.runs_script and self.live <= 1
            if hopeless or type(block.job) is Everywhere:
                self.later(functools.partial(self.give_up, block, death))
            else:
                self.put_back(block)

    def give_up(self, block: Block, death: Dict[str, Any]) -> None:
        """Fail tasks that were present at too many deaths."""
        worker = f"worker {death['rank']} on {death['host']} (pid {death['pid']})"
        text = f"{worker} {death['how']} during run_on_all()" if type(block.job) is Everywhere else (
            f"{describe(block)} was running on {block.deaths} worker{'s' * (block.deaths > 1)} that died; "
            f"the last one, {worker}, {death['how']}. "
            f"It was tried {block.deaths} time{'s' * (block.deaths > 1)} (--retries {self.retries}); look for a crash "
            "in native code, memory that runs out, or os._exit in this task"
        )
        for i in range(block.lo, block.hi):
            block.job.deliver_error(i, WorkerLost(text))

    def is_busy(self, own: bool = False) -> bool:
        """Return True while tasks are under way, or wait here and are wanted.

        `own`: this worker's own only, and not what `wait_for_all` asks of each worker, which waits for the answer.
        """
        sent = [sent.block.job.func for sent in [*self.sent.values()]]
        if self.carving or self.home or self.away or not all(own and is_rest(func) for func in sent):
            return True
        with self.lock:
            for item in itertools.chain.from_iterable(self.levels):
                if type(item) is not Future and not (item.job.abandoned or own and item.job.owner):
                    return True
                if type(item) is Future and item.state == PENDING:
                    return True
        return False

    def on_purge(self, frames: Frames) -> None:
        """Drop what belongs to an owner that died."""
        owner = OWNER.unpack(frames[1])
        self.withdraw(lambda job: job.owner == owner)
        for piece in self.slices:
            if piece.block.job.owner == owner:
                piece.block.job.abandoned = True
        self.results.pop(owner, None)

    def on_pool(self, frames: Frames) -> None:
        """Learn how many workers there are; the origin, once alone, must run what it would have given to others."""
        self.live = json.loads(bytes(frames[1]))["live"]
        if self.live <= 1:
            while self.away:
                self.put_back(self.away.popleft())

    def open(self, block: Block) -> bool:
        """Unpickle tasks of another worker; False if they cannot be unpickled, which is reported to their owner."""
        visit: Visit = block.job
        count = block.hi - block.lo
        if visit.head[6]:  # said before anything of it is touched: unpickling may be what kills us
            self.flush()
            self.emit(self.message("OPENED", OWNER.pack(*visit.owner), REF.pack(visit.key[2], block.lo, count)))
        try:
            if visit.columns is None:
                if visit.function:
                    visit.func, visit.fold = self.unpack_function(visit.function)
                    visit.columns = loads(visit.payload)
                else:
                    visit.func, visit.fold, visit.columns = loads(visit.payload)
                visit.payload = []
        except BaseException as error:
            self.add_part(visit.key, block.lo, count, UNREADABLE, [why_unreadable(error)])
            self.flush()
            return False
        block.columns = visit.columns
        return True

    def on_all(self, frames: Frames) -> None:
        """Open a task that is for each worker; no other can have it from the queue that it waits in."""
        head = CHUNK.unpack(frames[2])
        if head[:2] == (self.rank, self.incarnation):
            job: Any = self.sent[head[2]].block.job
            self.home.append(Block(job, [[job.args]], head[3], head[3], head[3] + 1))
            self.account(head[2], head[3], 1)
        else:
            self.home.append(self.visitors(head, frames))

    def on_spread(self, frames: Frames) -> None:
        chunk_id, _, count = REF.unpack(frames[1])
        sent = self.sent[chunk_id]
        sent.block.hi = sent.block.job.n = count
        sent.block.columns, sent.left = [[sent.block.job.args] * count], [(0, count)]

    def run_on_all(self, job: Everywhere, answer: Any) -> None:
        """Send a task that each worker is to run once; its results by rank settle the answer, a future."""
        job.answer = answer
        block = Block(job, [[job.args]], 0, 0, 1)
        block.alone = True
        with self.shipping:
            key, n_frames = (self.rank, self.incarnation, self.n_chunks), len(job.payload)
            self.sent[self.n_chunks] = Sent(block, self.by_value)
            self.n_chunks += 1
        head = CHUNK.pack(*key, 0, 1, 0, 0, CALLS, job.place, 0, n_frames)
        self.emit(self.message("ALL", job.function, head, *job.payload))

    def send_again(self, block: Block, by_value: Names, reason: Dict[str, Any]) -> None:
        """Send tasks again that a worker could not unpickle: one at a time, or by value if it lacked a name."""
        names = set(reason["missing"]) - by_value
        if names and type(block.job) is not Everywhere:
            self.by_value |= names
            self.packed = None, b""  # that may be one of them
        elif block.hi - block.lo == 1:
            text = f"worker could not unpickle {describe(block)}:\n{reason['error']}"
            block.job.deliver_error(block.lo, ScoopError(text))
            return
        block.alone = not names
        with self.lock:
            self.put_back(block)

    def on_result(self, frames: Frames) -> None:
        """Unpickle results and hand them to their futures; call nobody before all are settled."""
        at = 2
        told: Told = []
        while at < len(frames):
            chunk_id, first, count, nanoseconds, form, n_frames = PART.unpack(frames[at])
            form, self.others_create = form % CREATES, self.others_create or form >= CREATES
            payload = frames[at + 1 : at + 1 + n_frames]
            at += 1 + n_frames
            if not count:
                if (chunk_id, first) in self.cancelling:
                    self.cancelling.pop((chunk_id, first))()
                continue
            sent = self.sent[chunk_id]
            block = sent.block
            with self.lock:
                self.account(chunk_id, first, count)
            if form == UNREADABLE:
                part = block.part(block.lo + first, block.lo + first + count)
                self.send_again(part, sent.by_value, json.loads(bytes(payload[0])))
                continue
            self.n_returned += count
            if nanoseconds:
                self.note_cost(block.job.func, nanoseconds / 1e9, count)
            if not block.job.abandoned:
                outcomes = unpack_outcomes(form, payload, count)
                block.job.failed = block.job.failed or form != LIST or type(outcomes[0]) is Failure
                told += block.job.settle(block.lo + first, count, outcomes)
        tell(told)


def why_unreadable(error: BaseException) -> bytes:
    """Tell the owner of a task that cannot be unpickled why, and which names of `__main__`, or module, are missing."""
    text = str(error) if isinstance(error, AttributeError) else ""
    missing = re.findall("attribute '([^'.]+)", text) if "'__main__'" in text else []
    module = str(error.name or "") if isinstance(error, ModuleNotFoundError) else ""
    return facts(error=traceback_text(error), missing=missing, module=module)


class _PlainPickler(_Pickler):
    """Refuses instances of classes with code of their own for unpickling, as that may fail where they arrive."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, (type, *FUNCTIONS)):
            plain = finds_by_name(obj, self.by_value_names)
        else:
            plain = not type(obj).__flags__ & HEAP_TYPE or is_plain_class(type(obj))  # type: ignore[arg-type]
        if not plain:
            raise Unpicklable("not plain")
        return NotImplemented


@functools.lru_cache(maxsize=256)
def is_plain_class(kind: type) -> bool:
    """Say whether instances are made and filled as `object` does it."""
    names = ("__new__", "__getattr__", "__getattribute__", "__setattr__", "__reduce__", "__reduce_ex__", "__getstate__",
             "__setstate__", "__getnewargs__", "__getnewargs_ex__")  # fmt: skip
    own = any(getattr(kind, name, None) is not getattr(object, name, None) for name in names)
    return not own and kind not in copyreg.dispatch_table and kind is not Failure  # exceptions have a way of their own


class Sealed(tuple):  # type: ignore[type-arg]
    """What a task returned, as `pack_outcome` has packed it at once."""


def sealer(visit: Visit, by_value: Names) -> Callable[[Any], Any]:
    """Return what copies or pickles a result of an Executor's task, unless it can't change.

    The next task of its slice may fill the same object.
    """

    def seal(result: Any, plain: FrozenSet[type] = PLAIN) -> Any:
        kind = type(result)
        if kind in plain or is_plain(result):
            return result
        if kind is list and plain.issuperset(map(type, result)):
            return result[:]
        if kind is dict and plain.issuperset(map(type, result.values())):
            return result.copy()
        visit.sealed = True
        return Sealed(pack_outcome(result, by_value))

    return seal


def pack_outcomes(outcomes: List[Any], by_value: Any = frozenset(), sealed: bool = False) -> Tuple[int, Frames]:
    """Pickle outcomes: plain ones together, others one by one, so that a bad one spoils only itself."""
    if len(outcomes) == 1 and is_plain(outcomes[0]):
        try:
            return LIST, [pickle.dumps(outcomes, 5)]
        except MemoryError:  # of it, too, something is to be said
            pass
    if not sealed:
        with contextlib.suppress(Exception):  # else one by one: so only what is to blame fails, be it memory that lacks
            return LIST, keep(dumps(outcomes, by_value, _PlainPickler), outcomes)
    table = bytearray()
    frames: Frames = []
    for outcome in outcomes:
        status, packed = outcome if type(outcome) is Sealed else pack_outcome(outcome, by_value)
        table += STATUS.pack(status, len(packed))
        frames += packed
    return EACH, [bytes(table), *frames]


def keep(frames: Frames, outcomes: Sequence[Any] = ()) -> Frames:
    """Copy buffers of results that may change before they are sent, as somebody else has them, or may have.

    A task may return an array that it keeps, and fills again. Only of what lies in `outcomes` itself, or in a tuple,
    list or dict there, can be told by counting references that nobody has it.
    """
    found = {id(outcome) for outcome in outcomes} if len(frames) > 1 else set()
    for i in range(len(outcomes) if found else 0):
        if type(outcomes[i]) in (tuple, list, dict) and references(outcomes[i]) < lone():
            parts = outcomes[i].values() if type(outcomes[i]) is dict else outcomes[i]
            found.update(map(id, parts))
    for i in range(1, len(frames)):
        if not (type(frames[i].obj) is bytes or is_lone(frames, i, found)):
            frames[i] = bytearray(frames[i])
    return frames


def references(obj: Any) -> int:
    """Return how many references, weak ones too, there are to an object; some are this call's own, see `lone`."""
    return sys.getrefcount(obj) + weakref.getweakrefcount(obj)


@functools.lru_cache(maxsize=1)
def lone() -> int:
    """Return how many there are if one container and one frame, as its buffer, refer to it."""
    made = [pickle.PickleBuffer(bytearray(BIG_BUFFER))]
    frames = dumps(made)
    return references(frames[1].obj)


def owns_memory(array: Any) -> bool:
    """Return True unless the memory below an array, and below those that it is a view of, is another object's."""
    base: Any = getattr(array, "base", None)
    while base is not None and type(base) is type(array):
        array, base = base, getattr(base, "base", None)
    flags: Any = getattr(array, "flags", None)
    return bool(flags.owndata) if hasattr(flags, "owndata") else base is None


def is_lone(frames: Frames, i: int, found: AbstractSet[int]) -> bool:
    """Return True if a frame is the buffer of an array with such an id, and nobody else refers to that and its base."""
    if not owns_memory(frames[i].obj):
        return False
    n = references(frames[i].obj)
    array = frames[i].obj
    base = getattr(array, "base", None)
    if base is None:
        return id(array) in found and n <= lone()
    del base
    if id(array) in found:  # a view lies in the result: the view alone refers to its base, no container
        n_of_base = references(array.base) + 1
    else:  # or pickling has made a view, to which no container refers, of what lies there
        n, n_of_base = n + 1, references(array.base)
        found = found if id(array.base) in found else frozenset()
    return bool(found) and n <= lone() and n_of_base <= lone() and getattr(array.base, "base", None) is None


def pack_outcome(outcome: Any, by_value: Names) -> Tuple[int, Frames]:
    """Pickle what a task returned or raised; return the form of it (see PART) and its frames."""
    if type(outcome) is not Failure:
        try:
            return VALUE, keep(dumps(outcome, by_value))
        except Stopped:
            raise
        except RAISED as error:
            why = explain_unpicklable(outcome, "result", error, by_value)
            problem: BaseException = Unpicklable(f"the task's result cannot travel back: {why}")
            if not isinstance(error, (TypeError, pickle.PicklingError)):  # what its own class raises, as itself
                problem = with_cause(error, problem)
            outcome = Failure(problem)
    raised = outcome.look()
    text, summary = traceback_text(raised), traceback_text(raised, brief=True)
    try:
        pickled = dumps_whole(raised, by_value)
    except Stopped:
        raise
    except RAISED:
        pickled = b""  # the text says what it was
    return ERROR, [text.encode("utf-8", "replace"), summary.encode("utf-8", "replace"), pickled]


def unpack_outcomes(form: int, frames: Frames, count: int) -> List[Any]:
    """Undo `pack_outcomes`; what cannot be unpickled becomes Failures: of those packed one by one, only itself."""
    if form == LIST:
        try:
            return loads(frames)  # type: ignore[no-any-return]
        except BaseException as problem:
            return [unreadable(problem)] * count
    outcomes, at = [], 1
    for status, n in STATUS.iter_unpack(frames[0]):
        outcomes.append(unpack_outcome(status, frames[at : at + n]))
        at += n
    return outcomes


def unreadable(problem: BaseException) -> Failure:
    """Say what became of a result that cannot be unpickled."""
    return Failure(ScoopError(f"the task's result cannot be unpickled here: {problem!r}"))


def unpack_outcome(status: int, frames: Frames) -> Any:
    """Undo `pack_outcome`: return a result, a Failure, or GONE."""
    if status == WITHDRAWN:
        return GONE
    try:
        if status == VALUE:
            return loads(frames)
        error = loads([frames[2]]) if frames[2] else None
    except BaseException as problem:
        if status == VALUE:
            return unreadable(problem)
        error = None
    text, summary = bytes(frames[0]).decode(), bytes(frames[1]).decode()
    if not isinstance(error, BaseException):
        error = ScoopError(f"a task raised {summary} (the exception itself cannot be pickled and unpickled)")
    return Failure(with_cause(error, RemoteTraceback(text)))


def with_cause(error: BaseException, cause: BaseException) -> BaseException:
    """Set an exception's cause, even if its class forbids to set anything, as a frozen dataclass does; return it."""
    BaseException.__setattr__(error, "__cause__", cause)
    return error


FUNCTIONS = types.FunctionType, types.BuiltinFunctionType
MADE = _make_function.__name__.encode()  # it is in what travels by value


def traceback_text(error: BaseException, brief: bool = False) -> str:
    """Format an exception with its causes, without this module's own frames at the top; of an import, say where.

    If it is to be `brief`, leave out causes, frames and place.
    """
    tb = error.__traceback__
    while tb is not None and tb.tb_frame.f_globals is globals() and tb.tb_next is not None:
        tb = tb.tb_next
    try:
        if brief:
            return "".join(traceback.format_exception_only(type(error), error)).strip()
        text = "".join(traceback.format_exception(type(error), error, tb)).rstrip()
    except MemoryError:  # Python 3.15 imports a module for it
        return f"{type(error).__qualname__} (and no memory to say more)"
    if len(text) > MAX_TRACEBACK:  # as of an error that has passed through thousands of tasks, each of which adds to it
        left_out, half = len(text) - MAX_TRACEBACK, MAX_TRACEBACK // 2
        text = f"{text[:half]}\n… {left_out:,} characters …\n{text[-half:]}"
    if isinstance(error, ImportError) and not isinstance(error.__cause__, RemoteTraceback):  # that one says it
        text += f"\n(on {socket.gethostname()}, by {sys.executable}; sys.path there: {sys.path})"
    return text


def describe(block: Block) -> str:
    """Name tasks for a message: function and short arguments of the first."""
    func, args, kwargs = block.first_call()
    try:
        text = ", ".join([*map(repr, args), *(f"{name}={value!r}" for name, value in (kwargs or {}).items())])
    except RAISED as error:
        text = f"<{type(error).__name__} in repr>"
    return f"task {name_of(func)}({text[:80]}{'…' * (len(text) > 80)})"


# ======================================================================================================================
# Runtime: one per process; joins scheduler, strands and link, and runs the tasks          (scheduler's strands, pump)
# ======================================================================================================================


class Waiter:
    """Wakes a strand once, when called (with or without an argument)."""

    __slots__ = ("runtime", "strand")

    def __init__(self, runtime: Mailbox, strand: Optional[Strand]) -> None:
        self.runtime = runtime
        self.strand = strand

    def __call__(self, _: Any = None) -> None:
        if self.strand is not None and not self.strand.ready:
            self.strand.ready = True
            self.runtime.ready.append(self.strand)


class Pickled(list):  # type: ignore[type-arg]
    """Frames of a constant that nobody has asked for yet."""


def travelled(by_value: Names, **parts: Any) -> Any:
    """Return copies of a task's parts that went through pickle (--check), or raise Unpicklable, as if it travelled."""
    try:
        first, *buffers = dumps((*parts.values(),), by_value)
        return loads([first, *((bytes if buffer.readonly else bytearray)(buffer) for buffer in buffers)])
    except Exception as error:
        for name, value in parts.items():
            try:
                dumps(value, by_value)
            except Exception as problem:
                raise Unpicklable(f"--check: {explain_unpicklable(value, name, problem, by_value)}") from problem
        raise Unpicklable(f"--check: {brief_call((), parts)} cannot be unpickled: {error!r}") from error


class Mailbox:
    """A process's end of the protocol: reads its link, sends, and hands each message to who handles it.

    `Runtime` is built in floors, each of which uses those before it: Mailbox, Porch, Baton, Runner, Parking, Calls. The
    scheduler's strands own all of it but what the scheduler's lock guards; the pump only reads the link into `inbox`,
    carves and flushes. Foreign threads may not call in (`check_thread`).
    """

    scheduler_class = Scheduler
    roles: Tuple[str, ...] = ("> worker", "> all")  # in the directions of messages that come here

    # How every runtime begins, where that is a plain value and no task reads it often.
    idle_s = 0.0  # spent waiting for messages
    n_received = 0  # messages
    corked = False  # messages wait for one flush
    careful = False  # results of tasks that are suspected of killing workers are being sent
    polled_s = 0.0  # when the link was looked at in passing
    initialized = False  # the initializer has been called here
    pipe: Optional[StreamLink] = None  # of a worker: `link`, or beside a ZmqLink; what is written survives this process
    pump: Optional[Pump] = None
    last_func: Any = None  # a short function that ran here last

    def __init__(self, config: Config) -> None:
        self.config, self.rank, self.incarnation = config, ORIGIN, 1
        self.link: Any = None
        self.straight: Optional[StreamLink] = None
        self.links: Dict[int, Any] = {}  # those that are read, by descriptor
        self.outbox, self.arriving = Outbox(OWNER.pack(ORIGIN, 1)), Inbox()
        self.lock = threading.Lock()
        self.later: Deque[Callable[[], Any]] = collections.deque()
        self.scheduler = self.scheduler_class(self.emit, self.later.append, self.lock, config.retries)
        self.scheduler.max_tasks = config.max_tasks
        self.unseen: Deque[BaseException] = collections.deque()  # exceptions of futures dropped without a look
        self.n_unseen, self.told_unseen_s = 0, -math.inf  # how many were only counted; when one was last told in full
        self.recorder: Optional[Recorder] = None  # what the hooks call
        self.inbox: Deque[Frames] = collections.deque()
        self.ready: Deque[Strand] = collections.deque()  # parked strands that can go on
        self.resting: List[Watched] = []  # of strands that wait for the end of work: tried after each task, too
        self.awaited: List[Watched] = []  # of consumers of maps: tried before idling
        self.modules: Dict[int, Tuple[Dict[str, Any], bytes]] = {}  # answers to `fetch`, until it takes them
        self.at_leave: List[Callable[[], None]] = []
        self.handlers = handlers_of((self, self.scheduler), *self.roles)
        self.urgent = {CODES[kind]: self.handlers[CODES[kind]] for kind in URGENT}

    def connect(
        self, config: Config, rank: int, incarnation: int, link: Any, straight: Optional[StreamLink] = None
    ) -> None:
        """Take part in a pool, as that worker and by these links: once, in the process that will go on."""
        self.config, self.rank, self.incarnation, self.link, self.straight = config, rank, incarnation, link, straight
        self.links = {found.fileno(): found for found in (straight, link) if found is not None}
        self.outbox.source = OWNER.pack(rank, incarnation)
        self.scheduler.take_part(rank, incarnation, config.n, straight is not None)
        self.teller = Recorder(self, config)
        if config.verbose > 0 or config.trace:
            self.recorder = self.scheduler.recorder = self.teller
        self.bell = Bell()
        shared = config.capacity > 0 and not link.edge
        self.waits = Waits(self.bell.fd, *self.links, shared=shared, many=not config.capacity)
        self.waits_for_pump = Waits(self.bell.fd)

    def emit(self, frames: Frames) -> None:
        """Send a message to the broker; any thread."""
        link = self.link
        with self.lock:
            if self.link is None:  # it may just have been let go
                return
            if self.straight is not None and len(frames) > 1 and frames[1] == STRAIGHT:
                self.straight.send(frames)
            elif self.pipe is not None and (
                frames[0][0] == CODES["OPENED"]
                or self.careful and frames[0][0] == CODES["RESULT"] and sum(map(len, frames)) < PIECE
            ):
                self.pipe.send(frames)  # not to be lost with this process, as what libzmq has not sent would
                self.pipe.drain(1e6)  # nobody waits for it to take more
            else:
                self.post(self.outbox.put(frames))
        if link.edge:
            self.look_again()

    def post(self, messages: Iterable[Frames]) -> None:
        """Send what the outbox lets go (lock held)."""
        for frames in messages:
            self.link.queue(frames)
        if not self.corked:
            self.link.flush()

    def wait_for_room(self) -> None:
        """Have whoever logs without end wait for a link that is behind; ØMQ's own queue has no bound."""
        while True:
            with self.lock:  # the pump writes, too
                link = self.link
                if link is None or link.closed or link.edge or link.flush() or link.backlog() <= BACKLOG:
                    return
            Waits().wait([link], 1.0)

    def look_again(self) -> None:
        """After sending by ØMQ, which may have hidden from the other thread that something came."""
        if self.pump is not None:
            self.wake()
            self.pump.nudge()

    def wake(self) -> None:
        """End `wait_link`; may be called by any thread and by signal handlers."""
        if self.links:  # without the launcher, nobody waits for messages
            self.bell.ring()

    def glance(self, force: bool = False, runs: bool = False) -> None:
        """Look at the link in passing, at most each millisecond unless forced; fill orders.

        Args:
            runs: who calls is about to run a task.
        """
        if self.link is None:
            return
        t = now()
        if force or t - self.polled_s > 0.001:
            self.polled_s = t
            self.receive()
            due = self.scheduler.results and t - self.scheduler.flushed_s > FLUSH_S
            if due and (self.ready or any(self.scheduler.levels)):
                self.scheduler.flush()  # else they leave together with hunger
            if t > self.teller.tell_s or self.teller.logs:
                self.teller.tell()
        if self.inbox or self.later or self.unseen:
            self.dispatch()
        if self.resting:
            self.try_conditions(self.resting)
        if self.scheduler.is_hungry:
            self.scheduler.sate(self.scheduler.ahead_s())
        if self.scheduler.ordered > self.scheduler.filled and not (runs and self.scheduler.keeps_last()):
            self.scheduler.carve()

    def try_conditions(self, watched: List[Watched]) -> bool:
        """Wake a strand whose condition, of which no message tells, holds now; return True if there is one."""
        for condition, waiter in watched:
            if condition():
                waiter()
                return True
        return False

    def receive(self, woken: Optional[Dict[int, int]] = None) -> int:
        """Read the link: urgent messages act on the queue at once, others wait in `inbox`. Scheduler's thread or pump.

        `woken` are the descriptors that have something, as far as that is known. Return how many messages came.
        """
        with self.lock:
            if self.link is None:
                return 0
            n, unread = 0, False
            for fd in [*self.links] if woken is None or self.link.edge else woken:
                link = self.links.get(fd)
                if link is None:
                    continue
                if link.out:
                    link.flush()
                arrived = link.receive()
                n, unread = n + len(arrived), unread or link.unread
                self.take_in(arrived)
                if link.closed and link is not self.link:
                    self.drop(link)
            self.n_received += n
            if self.link.closed:
                self.inbox.append(message("STOP", self.rank, self.incarnation))
            ready = self.outbox.take() if self.outbox.waiting else ()
            if ready:
                self.post(ready)
        if ready and self.link.edge:
            self.look_again()
        if unread and self.pump is not None:
            self.pump.nudge()  # whom the kernel has not told of it, if we were waiting
        if self.scheduler.ordered > self.scheduler.filled and self.pump is not None and self.pump.thread is not None:
            self.pump.asleep = True  # nor of an order: who submits tells it
        for answer in taken(self.scheduler.answers) if self.scheduler.answers else ():  # the pump may be here, too
            self.emit(answer)
        return n

    def take_in(self, arrived: Deque[Frames]) -> None:
        """Have urgent messages act at once, others wait (lock held)."""
        while arrived:
            frames = arrived.popleft()
            code = frames[0][0]
            if self.arriving.heaps and code != CODES["PIECE"]:
                frames = self.arriving.mend(frames)
            handler = self.urgent.get(code)
            if handler is not None:
                handler(frames)
            else:
                self.inbox.append(frames)

    def drop(self, link: StreamLink) -> None:
        """Let go of a straight link: its other end is gone, as the broker will soon tell (lock held)."""
        for waits in (self.waits, self.pump and self.pump.watching_both):
            if waits:
                waits.forget(link)
        del self.links[link.fileno()]
        link.close()
        if link is self.straight:
            self.straight, self.scheduler.straight = None, False

    def dispatch(self) -> None:
        """Handle what waits for the scheduler's own thread."""
        while self.later:
            self.later.popleft()()
        while self.inbox:
            frames = self.inbox.popleft()
            self.handlers[frames[0][0]](frames)
        if self.unseen:
            self.dispatch_unseen()

    def dispatch_unseen(self, final: bool = False) -> None:
        """Log exceptions whose futures were dropped without a look: one a second in full, the others by their number.

        What makes one of a thousand tasks fail often makes all of them fail.
        """
        while self.unseen:
            error = self.unseen.popleft()
            if now() < self.told_unseen_s + 1.0:
                self.n_unseen += 1
                continue
            self.told_unseen_s = now()
            logger.error("a task failed and nobody looked at it", exc_info=(type(error), error, error.__traceback__))
        if self.n_unseen and (final or now() >= self.told_unseen_s + 1.0):
            logger.error("%s failed and nobody looked at them", plural(self.n_unseen, "more task"))
            self.n_unseen = 0

    def on_piece(self, frames: Frames) -> None:
        """Keep a piece of a frame, until its message comes (lock held)."""
        if self.arriving.on_piece(bytes(frames[1]), frames):
            self.scheduler.answers.append(message("CREDIT", self.rank, self.incarnation, frames[1], COUNT.pack(1)))

    def on_credit(self, frames: Frames) -> None:
        """Note that pieces have arrived, so that more may follow (lock held)."""
        self.outbox.credit += COUNT.unpack(frames[2])[0]


class Porch(Mailbox):
    """How a process waits for messages, asks the launcher for modules, and leaves."""

    n_fetched = 0
    dismissed = False  # the broker has answered the BYE of this worker, which retires

    def settle(self, timeout_s: float) -> None:
        """Before leaving: have all go that waits for credit."""
        end_s = now() + timeout_s
        while self.outbox.waiting and not self.link.closed and now() < end_s:
            if not self.receive():
                Waits(self.link.fileno()).wait([self.link], 0.02)  # the pump may read it in our place

    def on_module(self, frames: Frames) -> None:
        """Keep an answer for the thread that waits for it in `fetch` (lock held)."""
        answer = json.loads(bytes(frames[1]))
        self.modules[answer["number"]] = answer, bytes(frames[2])

    def fetch(self, paths: Sequence[str], have: Dict[str, str]) -> Tuple[Dict[str, Any], bytes]:
        """Ask for the first of these paths that the launcher's host has; `have` is SHA-256 of what lies here at them.

        Any thread; no other strand runs meanwhile: it might import the same module, and would see half of it.
        """
        with self.lock:
            self.n_fetched = number = self.n_fetched + 1
        self.emit(message("FETCH", self.rank, self.incarnation, facts(number=number, paths=paths, have=have)))
        while number not in self.modules:
            if self.link is None or self.link.closed:
                raise ImportError(f"cannot ask for {paths[0]}: the job is over")
            if not self.receive():
                Waits(self.link.fileno()).wait((), 0.02)  # the pump may read it in our place
        return self.modules.pop(number)

    def wait_link(self, timeout: Optional[float]) -> Dict[int, int]:
        """Wait until a link can be read or go on writing, or somebody wakes us; return descriptors of such links."""
        if self.link.edge:
            with self.lock:
                if self.link.ready():
                    return {}
        start_s = now()
        pump_reads = self.pump is not None and self.pump.reads() and not self.waits.shared
        try:
            woken = (self.waits_for_pump if pump_reads else self.waits).wait([*self.links.values()], timeout)
        except BaseException:  # an interrupt
            if self.pump is not None:
                self.pump.nudge()  # what has woken us as well, it was not told of
            raise
        if woken.pop(self.bell.fd, None) is not None:
            self.bell.clear()
        self.polled_s = now()  # whoever waited is going to read
        self.idle_s += self.polled_s - start_s
        if self.recorder is not None:
            self.recorder.wait(start_s)
        return woken

    def tell_idle(self, timeout: Optional[float]) -> Optional[float]:
        """Before waiting: tell the launcher what is new, if due; return the time until it will be, or `timeout`."""
        left_s = self.teller.tell_s - now()
        if left_s <= 0 or self.teller.logs:
            self.teller.tell(idle=True)
        elif self.teller.is_news():
            return left_s if timeout is None else min(timeout, left_s)
        return timeout

    def detach(self) -> None:
        """Stop using the link: the origin's work is done. What exit functions still submit runs here."""
        with self.lock:
            self.link, self.scheduler.live, self.scheduler.ordered = None, 1, self.scheduler.filled
        if self.pump is not None:
            self.pump.nudge()

    def leave_with(self, status: int, *last: Frames) -> None:
        """Leave when all is sent; the last messages go by the way that DIED will come, as they must not be later."""
        link: Any = self.link
        pipe: Any = self.pipe
        self.detach()
        link.drain()
        if self.straight is not None:
            self.straight.drain()
        for frames in last:
            pipe.send(frames)
        pipe.drain()
        self.leave(status)

    def on_stop(self, frames: Frames) -> None:
        """The job is over, or the launcher is gone: leave. But first, it is the answer to our BYE."""
        if self.scheduler.retired and not self.dismissed and not self.link.closed:
            self.dismissed = True
            return
        if self.link is not None and not self.link.closed:
            self.outbox.waiting.clear()
            self.teller.tell(final=True)
            (self.pipe or self.link).drain()
        self.leave(0 if self.link and not self.link.closed else 1)

    def leave(self, status: int) -> None:
        """End a worker process: exit functions, buffers, out; nobody waits for other threads and parked strands."""
        for function in self.at_leave:
            function()
        atexit._run_exitfuncs()
        flush_files()
        flush_output()
        if self.pipe is not None:
            self.pipe.finish()
        os._exit(status)


class Baton(Porch):
    """Which strand runs, what, and how long: one at a time, but for a task that an interrupt leaves in its thread."""

    context = contextvars.Context()  # a copy of it is what a strand begins with
    n_parked = 0  # strands that wait
    progress = -1, 0.0  # tasks run, carved and returned; and since when that has not changed, as far as it counts
    looked_s = 0.0  # when that was looked at, or a wait ended
    interrupting = False  # a KeyboardInterrupt is on its way to the script

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.pid = os.getpid()
        self.strands = new_strands(self.config.strands)
        self.current: Strand = self.strands.main
        self.spares: List[Strand] = []  # scheduler strands without work
        self.deadlines: List[Tuple[float, int, Waiter, float]] = []  # of timed waits, the nearest first; their patience
        self.left: Dict[int, Tuple[Strand, Any]] = {}  # by thread: strands left behind; the recorder's stacks
        self.root = Scope(0, 0, self.scheduler.level(0))
        # What runs now on the current strand; saved and restored by `switch`.
        self.scope: Optional[Scope] = self.root  # of the running code, once it has created a task
        self.slice: Optional[Slice] = None  # the running slice; or else
        self.task: Optional[Future] = None  # the running future's task
        self.inline = 0  # tasks stacked on this strand
        self.epoch = 0  # number of switches: a measurement across one is void

    def note_context(self) -> None:
        """Have strands that begin see the context variables, as of `decimal`, that are set here now.

        In the origin, it is what the script has set when it waits; else what importing it and the initializer have set.
        """
        self.context = contextvars.copy_context()

    def is_due(self) -> bool:
        """Return True when a timed wait is to end now."""
        return bool(self.deadlines) and self.deadlines[0][0] <= now()

    def time_limit(self) -> Optional[float]:
        """Return how long the next task may take at most: the time left of the nearest timed wait.

        A pool of one must run tasks of unknown length, and so must who `is_stuck`; else a program that polls with short
        timeouts could wait for ever.
        """
        while self.deadlines and self.deadlines[0][2].strand is None:
            heapq.heappop(self.deadlines)  # that wait is over
        if not self.deadlines or self.scheduler.live <= 1 or self.is_stuck(self.deadlines[0][3]):
            return None
        return self.deadlines[0][0] - now()

    def time_to_wait(self, holding: bool) -> Optional[float]:
        """Return how long to wait for a message at most: until a timed wait is to end, or who `is_stuck` acts."""
        if not self.deadlines:
            return None
        end_s, _, _, patience_s = self.deadlines[0]
        if not holding and self.scheduler.has_tasks():  # what that wait keeps from running is run then
            end_s = min(end_s, self.progress[1] + patience_s + 0.001)
        return min(1e6, max(0.0, end_s - now()))  # the system takes no more than 24 days

    def is_stuck(self, patience_s: float) -> bool:
        """Return True when for so long nothing has happened here: no task was run, given away or answered."""
        scheduler, t = self.scheduler, now()
        progress = scheduler.n_done + scheduler.n_carved + scheduler.n_returned
        if progress != self.progress[0]:
            self.progress = progress, t
        self.looked_s = t
        return t - self.progress[1] > (patience_s if scheduler.live > 1 else 0.001)  # of one: nobody else can

    def patience(self, timeout: float) -> float:
        """Return the patience, in seconds, of the running code with a wait of so many that begins, or with a look (0).

        A script leaves its tasks to others, as it may have a window to serve; of the time that it took for itself, half
        a patience counts. What a task waits for in vain may be something that all others wait for, too: one that looks
        is patient for half as long as what is next here takes, if that is known and short.
        """
        if self.slice is not None or self.task is not None:
            return min(5.0, min(0.1, max(SHORT_S, self.scheduler.next_cost() / 2)) + 10 * timeout)
        patience_s = 5.0 if timeout > 0 or self.scheduler.sent else 1.0
        own_s = now() - self.looked_s
        self.progress = self.progress[0], self.progress[1] + max(0.0, own_s - patience_s / 2)
        return patience_s

    def interrupt_script(self, error: Optional[BaseException] = None) -> None:
        """Raise KeyboardInterrupt, or another error, where the script waits."""
        self.interrupting = False
        main, error = self.strands.main, error or KeyboardInterrupt()
        if self.current is main and main.saved is None:
            raise error
        main.error = error
        if not main.ready:
            main.ready = True
            self.ready.appendleft(main)

    def rouse_script(self, error: BaseException) -> None:
        """In the script's thread, whose sleep a signal's handler has ended by an exception: return when that may go on.

        That is when the strand that runs hands over; at once, where it runs a task.
        """
        main = self.strands.main
        if self.strands.name != "thread":
            raise error
        try:
            if self.current is main:  # it has just got the baton, or is about to; or `leave_behind` took it
                main.impl.acquire(timeout=0.01)
                main.error = error
                return
            self.interrupt_script(error)
            self.wake()
            while not main.impl.acquire(timeout=0.01):
                if (self.slice is not None or self.task is not None) and self.leave_behind():
                    return
        except BaseException as another:  # of the next signal
            self.rouse_script(another)

    def leave_behind(self) -> bool:
        """Have the script go on at once while a task runs on in its thread, which nobody can interrupt; see `rejoin`.

        Return False if the thread is at work for us: then not now.
        """
        strand, main = self.current, self.strands.main
        code = innermost(sys._current_frames()[strand.ident]).f_code
        if code not in (run_calls.__code__, call_with.__code__, Runner.run_future.__code__):
            return False
        self.left[strand.ident] = strand, self.recorder and self.recorder.park()
        strand.saved = self.scope, self.slice, self.task, self.inline
        if main.ready:
            main.ready = False
            self.ready.remove(main)
        self.epoch += 1
        self.current = main
        return True

    def rejoin(self, error: Optional[BaseException] = None) -> bool:
        """In a strand that was left behind, wait for its turn: its task has ended, or needs us. False in others.

        In a child that user code has forked, the task's end (with this error, if any) is the end of the process.
        """
        if os.getpid() != self.pid:
            end_child(error)
        strand, stack = self.left.get(threading.get_ident(), (None, None))
        if strand is None:
            return False
        self.n_parked += 1
        del self.left[strand.ident]
        strand.ready = True
        self.ready.append(strand)
        self.wake()
        strand.impl.acquire()
        self.n_parked -= 1
        self.current = strand
        self.restore(strand)
        if self.recorder is not None and stack is not None:
            self.recorder.resume(stack)
        return True

    def settle_behind(self, future: Future, outcome: Any) -> None:
        """Settle what has just run, and tell of it behind what came meanwhile; a callback of that may wait for this."""
        waiters, future.waiters = future.waiters or (), None
        future.settle(outcome)
        try:
            self.dispatch()
        finally:
            tell([(waiter, future) for waiter in waiters])

    def restore(self, strand: Strand) -> None:
        """Take up again what a strand was at when it was left, once."""
        if strand.saved is not None:
            self.scope, self.slice, self.task, self.inline = strand.saved
            strand.saved = None


def fold(found: Runner, job: Job, first: int, values: List[Any]) -> Any:
    """Reduce a slice's values to nodes (see `absorb`); the first failure stands for all.

    The operator may create tasks, as a task with a place of its own does.
    """
    nodes: List[Tuple[int, int, Any]] = []
    saved, at = (found.scope, found.slice, found.task), Scope(job.place, job.depth, ())
    found.scope, found.slice, found.task = None, None, Future(job.fold, (), None, at, -1 - first)
    try:
        for index, value in enumerate(values, first):
            if type(value) is Failure:
                return value
            absorb(job.fold, nodes, index, 1, value)
    except BaseException as error:
        job.failed = True
        return found.failure(error)
    finally:
        found.scope, found.slice, found.task = saved
    return nodes


class Runner(Baton):
    """Runs tasks: futures one by one, blocks in C loops, and knows at any time whose code runs."""

    n_here = 0  # tasks run where they were waited for
    has_failures = False  # a future that was made here has failed
    missed = False  # one could not be raised when its signal came
    retrying = False  # so the signal will come again

    def execute(self, item: Any) -> None:
        """Run what `take` returned."""
        if type(item) is Block:
            if item.columns is None:
                if not self.scheduler.open(item):
                    return
                if item.hi - item.lo > 1 or item.deaths:
                    with self.lock:
                        self.scheduler.put_back(item)
                    return  # without a glance: it would have all this carved again before it runs here
            self.run_block(item)
        else:
            self.prepare(item.func, 1)
            self.run_burst(item)
        if self.scheduler.has_tasks():  # else it is idle in a moment, and looks then
            self.glance(runs=True)

    def prepare(self, func: Any, n: int) -> float:
        """Before tasks that may be long: send results that wait; let the pump serve orders meanwhile.

        Return how many seconds they should take, as far as measured.
        """
        scheduler, pump = self.scheduler, self.pump
        if pump is None:
            return 0.0
        known = scheduler.costs.get(cost_key(func))
        cost = n * (known or 0.0)
        pump.long_task = known is None or known >= SHORT_S
        waited = pump.long_task and (scheduler.asked or scheduler.is_hungry)  # who has no tasks may wait for results
        if pump.long_task and scheduler.straight and scheduler.is_hungry:
            scheduler.sate(-1.0)  # what the client sent, the broker does not know of
        fetch_s = min(scheduler.fetch_s, NEAR_S) if self.config.near else scheduler.fetch_s
        prefetch = PREFETCH_S < cost and (not pump.long_task or cost * PREFETCH_PART < fetch_s)
        told = prefetch and scheduler.is_told() and (scheduler.asked or not scheduler.straight)
        want = prefetch and not told and scheduler.left_s() <= scheduler.ahead_s()  # it comes while these run
        if want or scheduler.results and (known is None or waited or now() - scheduler.flushed_s + cost > FLUSH_S):
            scheduler.flush(want)  # now, as these tasks may keep the GIL from the pump
        if pump.long_task and not pump.watching:  # else it waits on the link already, and that is all that it is to do
            pump.kick()
        if pump.asleep and any(scheduler.levels) or pump.patient and (n > 1 or scheduler.results):
            pump.kick(soon=True)  # if these are long after all, others shall have what waits here, and what is done
        return cost

    def run_burst(self, future: Future) -> None:
        """Run a future's task, and those queued behind it while known to be short, with one time measurement."""
        scheduler, func, n, epoch, start = self.scheduler, future.func, 0, self.epoch, now()
        limit = 64 if scheduler.is_short(func) and self.time_limit() is None else 1
        item: Any = future
        if self.recorder is not None:
            self.recorder.begin(future, start, func, future.args, future.kwargs)
        while True:
            self.run_future(item)
            n += 1
            if n >= limit or self.epoch != epoch or self.inbox or self.ready:
                break
            item = scheduler.take_like(func)
            if item is None:
                break
        if self.recorder is not None:
            self.recorder.end(now())
        if self.epoch == epoch:
            scheduler.note_cost(func, now() - start, n)

    def run_here(self, future: Future) -> None:
        """Run a future's task on the spot; of the same short function time is taken only now and then."""
        func, recorder = future.func, self.recorder if self.inline <= NESTED_DEPTH else None
        self.n_here += 1
        if func is self.last_func and self.n_here & 15:
            self.run_future(future)
            return
        if self.scheduler.ordered > self.scheduler.filled:
            self.scheduler.carve()  # now: while it runs, the pump would have to wait for the GIL again and again
        epoch, start = self.epoch, now()
        if recorder is not None:
            recorder.begin(future, start, func, future.args, future.kwargs)
        try:
            self.run_future(future)
        finally:
            end = now()
            if recorder is not None:
                recorder.end(end, inline=True)
        if epoch == self.epoch:
            seconds = end - start
            self.scheduler.note_cost(func, seconds)
            self.last_func = func if seconds < 50e-6 else None

    def run_future(self, future: Future) -> None:
        """Run one task of this worker's own (state RUNNING) and settle its future."""
        saved = self.scope, self.slice, self.task
        self.scope, self.slice, self.task = None, None, future
        try:
            if future.kwargs is None:
                outcome = future.func(*future.args)
            else:
                outcome = future.func(*future.args, **future.kwargs)
            if self.config.check:
                outcome = travelled(self.scheduler.by_value, result=outcome)[0]
            if self.left:
                self.rejoin()
        except BaseException as error:
            if self.left:
                self.rejoin(error)
            self.scope, self.slice, self.task = saved
            try:
                outcome = self.failure(error)
            except BaseException:  # it goes on to the script, which waits here, and may look again at this future
                if not isinstance(error, Stopped):
                    future.settle(Failure(error))
                    future.value.look()
                raise
        self.scope, self.slice, self.task = saved
        self.scheduler.n_done += 1
        if self.inbox:
            self.settle_behind(future, outcome)
        else:
            future.settle(outcome)
        outcome = None  # a traceback keeps this frame: the cycle would keep an exception from being missed

    def failure(self, error: BaseException) -> Failure:
        """Turn what a task raised into its outcome; our own Stopped, and what a signal to the script raised, go on."""
        if isinstance(error, Stopped):
            raise error
        if isinstance(error, KeyboardInterrupt) and self.interrupting or self.rank == ORIGIN and is_of_handler(error):
            if self.current is self.strands.main:
                self.interrupting = False
                raise error  # the script's own strand runs this task
            self.interrupt_script(error)
        elif isinstance(error, SystemExit) and self.rank == ORIGIN:  # the script is to see that this is a task's
            with_cause(error, RemoteTraceback(traceback_text(error)))
        name_host(error, self.config)
        return Failure(error)

    def run_block(self, block: Block) -> None:
        """Run a block of tasks in one C loop, as far as nobody takes some away or one of them waits.

        ``list.extend`` keeps what it has appended when a task raises, so the loop goes on behind that task. A task
        that raises StopIteration ends the loop silently: told from the real end by the number of outcomes.
        """
        job = block.job
        rows = block.rows()
        piece = Slice(block, rows[0], now(), self.current)
        if job.mode == COLUMNS:
            calls: Iterator[Any] = map(job.func, piece.it, *rows[1:])
        else:
            calls = itertools.starmap(job.func if job.mode == CALLS else call_with, piece.it)
        if self.config.serve >= 0 and job.owner is not None and job.fold is None and block.hi - block.lo > 1:
            calls = map(sealer(job, self.scheduler.by_value), calls)
        saved, epoch = (self.scope, self.slice, self.task), self.epoch
        self.scope, self.slice, self.task = None, piece, None
        with self.lock:
            self.scheduler.slices.append(piece)
            if self.scheduler.aborted and self.scheduler.was_aborted(block):
                calls = map(raise_interrupt, piece.it)
        if self.recorder is not None:
            self.recorder.begin(job, piece.started_s, *block.first_call())
        try:
            cost = self.prepare(job.func, block.hi - block.lo)  # not earlier: the pump must find the slice
            piece.begin(now(), cost)
            self.run_slice(piece, calls)
        except Stopped:
            if not job.abandoned:
                raise
            return
        finally:
            if self.recorder is not None:
                self.recorder.end(now(), n_more=len(piece.out) + piece.n_handed)
            with self.lock:
                self.scheduler.slices.remove(piece)
            if type(self.current.error) is Stopped and job.abandoned and job.owner is not None:
                self.current.error = None  # it has ended before it had to wait
            self.scope, self.slice, self.task = saved
        seconds = now() - piece.started_s if epoch == self.epoch else 0.0
        self.finish_slice(piece, seconds)

    def run_slice(self, piece: Slice, calls: Iterator[Any]) -> None:
        out, block = piece.out, piece.block
        while True:
            error: Optional[BaseException] = None
            try:
                run_calls(piece, calls)
            except BaseException as problem:
                error = problem
            if self.left:  # in a child that a task has forked, its own error is the child's, not the end of `rest`
                self.rejoin(error if len(out) < block.hi - block.lo else None)
            with self.lock:
                ended = len(out) >= block.hi - block.lo
            if ended and (error is None or not HAS_GIL and type(error) is IndexError):
                return
            block.job.failed = True
            failure: Any = self.failure(unseen_stop(block, block.lo + len(out)) if error is None else error)
            if self.config.serve >= 0 and type(block.job) is Visit and block.job.fold is None:
                failure = sealer(block.job, self.scheduler.by_value)(failure)  # its arguments may be filled again, too
            if not ended:  # else the interrupt came when all was done
                out.append(failure)
            del error, failure  # whose traceback refers to this frame

    def finish_slice(self, piece: Slice, seconds: float) -> None:
        """Hand in the outcomes of a slice, and learn from the time that it took."""
        block, job, out, n = piece.block, piece.block.job, piece.out, piece.block.hi - piece.block.lo
        self.scheduler.n_done += n + piece.n_handed
        if seconds and n + piece.n_handed:
            self.scheduler.note_cost(job.func, seconds, n + piece.n_handed)
            seconds *= n / (n + piece.n_handed)
        if not n:
            return
        outcomes = [fold(self, job, job.order + block.lo, out)] if job.fold is not None else out
        if type(job) is Visit:
            job.deliver(block.lo, n, outcomes, seconds)
            if block.alone:
                self.careful = True
                self.scheduler.flush()
                self.careful = False
        else:
            try:
                if self.inbox and type(job) is MapJob and not job.in_order:
                    self.dispatch()  # what came while it ran was done before it
            finally:
                job.deliver(block.lo, n, outcomes)

    def hand_in(self, piece: Slice) -> None:
        """Deliver what a running slice has done so far: its scheduler's thread; for a visit's slice, the pump too."""
        job = piece.block.job
        with self.lock:
            first, running = piece.block.lo, piece in self.scheduler.slices
            n = len(piece.out) if running and job.fold is None else 0
            done = piece.out[:n]
            del piece.out[:n]  # from here to the end of the next line, `index` is wrong
            piece.block.lo += n
            piece.n_handed += n
        if done:
            job.deliver(first, n, done)


class Parking(Runner):
    """Strands: one that waits is parked, and others, ready or new, go on; when all wait, so does the process."""

    holding = 0  # strands that want no task to be started here

    def check_thread(self) -> None:
        """Raise MisuseError unless called from where tasks run (the script's or a task's own thread).

        There, raise what is to end this strand, if anything is.
        """
        if threading.get_ident() == self.scheduler.packing:
            raise MisuseError("what pickles an argument cannot wait for tasks, nor cancel them; its task stays here")
        if threading.get_ident() == self.current.ident:
            self.raise_error()
        elif not (self.left and self.rejoin()):
            refuse_green_threads()
            raise MisuseError(
                f"futures were used from the thread {threading.current_thread().name!r}; only the script's own thread "
                "and tasks may: submit there and hand results over, or use scoop_lite.Executor, which any may call"
            )

    def wait_until(
        self, condition: Callable[[], bool], timeout: Optional[float] = None,
        tell: Optional[Callable[[Waiter], Any]] = None, watched: Optional[List[Watched]] = None,
    ) -> bool:  # fmt: skip
        """Park until a condition holds, or `timeout` seconds have passed; return whether it does.

        Args:
            tell: called with the Waiter that is to be called when the condition may hold.
            watched: `resting` or `awaited`, if no message tells of it.
        """
        strange = threading.get_ident() != self.current.ident or self.scheduler.packing
        if strange or self.current.error is not None or self.missed:
            self.check_thread()
        waiter = Waiter(self, self.current)
        if tell is not None:
            tell(waiter)
        if watched is not None:
            watched.append((condition, waiter))
        try:
            self.glance(force=timeout is not None, runs=True)
            deadline = patience_s = math.inf
            if timeout is not None:
                patience_s = self.patience(timeout := max(0.0, timeout))  # 0 also of nan
                stuck = timeout <= 0 and self.is_stuck(patience_s)  # then something is to be run
                deadline = now() + (0.001 if stuck else timeout)
            if not condition():
                self.let_go()  # may call callbacks, which may wait on this strand, or bring what is waited for
            while not condition():
                if timeout is not None:
                    if now() >= deadline:
                        return False
                    heapq.heappush(self.deadlines, (deadline, id(waiter), waiter, patience_s))
                self.park()
            return True
        finally:
            waiter.strand, self.looked_s = None, now()
            if watched is not None:
                watched.remove((condition, waiter))
            if self.current.ready:  # what it waited for came before it had parked: it goes on, and nobody resumes it
                self.current.ready = False
                self.ready.remove(self.current)

    def let_go(self) -> None:
        """Before this strand is parked: what its slice has not begun goes back, what that has done is delivered."""
        for piece in self.scheduler.slices[:]:
            if piece.strand is self.current:
                with self.lock:
                    self.scheduler.break_off(piece)
                self.hand_in(piece)

    def park(self) -> None:
        """Leave this strand until its Waiter is called; other strands go on."""
        self.raise_error()
        self.n_parked += 1
        try:
            self.switch(self.next_strand())
        finally:
            self.n_parked -= 1
        self.raise_error()

    def raise_error(self) -> None:
        """Raise what is to end the current strand, if anything is: or else an interrupt that came amid our own work."""
        error, self.current.error = self.current.error, None
        if error is not None:
            raise error
        if self.missed:
            self.missed, self.interrupting = False, self.slice is not None or self.task is not None
            raise KeyboardInterrupt

    def next_strand(self) -> Strand:
        """Return the strand to go on with: one that became ready, or a scheduler without work."""
        if self.ready:
            strand = self.ready.popleft()
            strand.ready = False
            return strand
        if self.spares:
            return self.spares.pop()
        if self.scheduler.runs_script and self.current is self.strands.main and not (self.slice or self.task):
            self.note_context()
        return self.strands.new(functools.partial(self.context.copy().run, self.schedule))

    def switch(self, to: Strand) -> None:
        """Run another strand; return when this one is switched to again."""
        me = self.current
        if to is me:
            return
        me.saved = self.scope, self.slice, self.task, self.inline
        self.epoch += 1
        self.current, self.scope, self.slice, self.task, self.inline = to, None, None, None, 0
        recorder = self.recorder
        stack: Any = recorder and recorder.park()
        try:
            self.strands.switch(me, to)
        except BaseException as error:
            self.rouse_script(error)
        if recorder is not None:
            recorder.resume(stack)
        self.current = me
        self.restore(me)

    def schedule(self) -> Strand:
        """Run tasks: the body of every scheduler strand. Return the strand to go on with, when enough are spare."""
        while True:
            if self.ready:
                strand = self.next_strand()
                if len(self.spares) >= 16 and self.current is not self.strands.main:  # its end would be the worker's
                    self.epoch += 1
                    self.current = strand
                    return strand
                self.spares.append(self.current)
                self.switch(strand)
            else:
                try:
                    self.step()
                except BaseException as error:  # not only Exception: a handler of the script's own may call sys.exit
                    if self.current is self.strands.main:
                        raise
                    self.fail(error)

    def fail(self, error: BaseException) -> None:
        """Have an error that no task is to blame for, such as a lack of memory, end the script, or this worker."""
        if self.rank == ORIGIN:
            self.interrupt_script(error)
        else:
            traceback.print_exception(type(error), error, error.__traceback__)
            self.leave(1)

    def step(self) -> None:
        """Run something, or else wait for a message or a deadline.

        Who is stuck runs a task before a wait ends: else strands that poll would end each other's waits for ever.
        """
        if self.inbox or self.later or self.unseen:
            self.dispatch()
            return
        if self.scheduler.max_tasks and self.scheduler.n_visits >= self.scheduler.max_tasks:
            self.retire()
        seen, item = (self.n_received, self.scheduler.n_kept), None  # before the queue is looked at
        run = self.config.capacity and not self.holding and self.scheduler.has_tasks()
        if run and not (self.deadlines and self.is_due() and not self.is_stuck(self.deadlines[0][3])):
            item = self.scheduler.take(self.time_limit() if self.deadlines else None)
        if item is not None:
            self.execute(item)
        elif self.deadlines and self.is_due():
            self.offer()  # where several strands poll, one is always due
            heapq.heappop(self.deadlines)[2]()
        else:
            self.idle(seen)

    def retire(self) -> None:
        """After `max_tasks` tasks of others: say so; leave once the broker knows, and no task of our own is left.

        What crosses that is still done if it is for each worker, else it runs elsewhere.
        """
        scheduler = self.scheduler
        if self.rank == ORIGIN or self.n_parked or self.scheduler.is_busy(own=True):
            return
        scheduler.flush()
        if self.dismissed:
            self.settle(math.inf)
            self.teller.tell(final=True)
            self.leave_with(0)
        elif not scheduler.retired:
            with self.lock:
                scheduler.retired = True
                for level in scheduler.levels:
                    level.clear()
            self.emit(message("BYE", self.rank, self.incarnation, facts(tasks=scheduler.n_visits)))

    def offer(self) -> bool:
        """With nothing to run here: fill orders, send results, say that this worker is hungry.

        Return True if a client was asked for tasks, who may not have any.
        """
        scheduler, room = self.scheduler, False
        if self.link is None:
            return False
        self.corked = True  # results and hunger leave together: the broker wakes once
        scheduler.late_s = 0.0
        scheduler.carve()
        if scheduler.away or any(scheduler.levels):
            scheduler.flush()
            scheduler.sate()  # others shall have what must not run here, or not within a time limit
        else:
            room = bool(self.config.capacity) and not self.holding and self.n_parked < MAX_PARKED[self.strands.name]
            room = room and (self.initialized or not self.config.initializes)  # else it will ask when that has returned
            scheduler.flush(want=room)
        self.corked = False
        with self.lock:
            self.link.flush()
        return scheduler.asked and room and not scheduler.is_hungry

    def idle(self, seen: Tuple[int, int]) -> None:
        """Say that this worker is hungry and wait for a message, or for the nearest deadline.

        `seen`: how many messages had come, and how often what cannot travel had come back, when the queue was looked
        at. The pump may have read one since, or brought something back.
        """
        if self.resting and self.try_conditions(self.resting) or self.awaited and self.try_conditions(self.awaited):
            return
        scheduler, timeout = self.scheduler, self.time_to_wait(bool(self.holding))
        if self.link is None:
            if timeout is None:
                raise MisuseError("everything waits for everything else: this program cannot go on (deadlock)")
            time.sleep(timeout)
            return
        if self.offer():  # then the broker is asked, too
            patience_s = max(0.0, scheduler.asked_s + scheduler.patience_s() - now())
            timeout = patience_s if timeout is None else min(timeout, patience_s)
        assert self.pump is not None
        self.pump.rest()
        if self.resting:
            self.try_conditions(self.resting)  # again: carving may have given away somebody else's last task
        busy = self.inbox or self.later or self.ready or (self.n_received, scheduler.n_kept) != seen
        woken = None if busy else self.wait_link(self.tell_idle(timeout))
        self.pump.idling = False
        if any(scheduler.levels):
            self.pump.kick()  # what a time limit keeps from running here is still for others to have
        self.receive(woken)
        if self.ready or self.inbox:
            scheduler.carve()  # now: what goes on may be user code, and the pump has not seen the order that came


class Calls(Parking):
    """What user code does through `futures`: create tasks, wait for them, cancel them, map."""

    def submit(self, func: Callable[..., Any], args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> Future:
        """Queue one task (see `futures.submit`): no pickling, no message."""
        if threading.get_ident() != self.current.ident:
            self.check_thread()
        scope = self.scope
        if scope is None:
            scope = self.open_scope()
        if self.config.check:
            func, args, kwargs = travelled(self.scheduler.by_value, func=func, args=args, kwargs=kwargs)
        future = Future(func, args, kwargs or None, scope, scope.n)
        if self.recorder is not None and func is not self.last_func:  # of short ones, not even the clock is read
            future.born_s = now()
        scope.n += 1
        scope.level.append(future)
        scheduler = self.scheduler
        if scope.depth > scheduler.top:
            scheduler.top = scope.depth
        if self.pump is not None:
            if scheduler.is_hungry:
                scheduler.sate()
            if self.pump.asleep:
                self.pump.kick()
        return future

    def open_scope(self) -> Scope:
        """Return the scope of the running task; made when it creates its first child."""
        piece = self.slice
        if piece is not None:
            with self.lock:  # the pump may be in `hand_in`
                block, index = piece.block, piece.index()
            if piece.scope is None or piece.scope_index != index:
                place, depth = block.spot(index)
                piece.scope, piece.scope_index = self.new_scope(place, depth + 1), index
            return piece.scope
        assert self.task is not None
        parent: Scope = self.task.at
        self.scope = self.new_scope(place_of(parent.place, self.task.order), parent.depth + 1)
        return self.scope

    def new_scope(self, place: int, depth: int) -> Scope:
        self.scheduler.n_scopes += 1
        return Scope(place, depth, self.scheduler.level(depth))

    def scope_here(self) -> Scope:
        """Return the scope of the code that calls `futures`."""
        self.check_thread()
        return self.scope or self.open_scope()

    def scope_of_callback(self) -> Scope:
        """Make a scope for a callback that is added now: when and on which strand it will run, nobody knows yet."""
        scope = self.scope_here()
        scope.n += 1
        return self.new_scope(place_of(scope.place, scope.n - 1), scope.depth)

    def call_back(self, fn: Callable[[Future], Any], scope: Scope, future: Future) -> None:
        """Call a user's callback; its exception is logged, as PEP 3148 says, unless it ends the code below it."""
        saved, self.scope = self.scope, scope
        try:
            fn(future)
        except BaseException as error:
            below = saved or self.slice or self.task  # else a scheduler's strand calls, which must not end
            if below is not None and isinstance(error, (KeyboardInterrupt, Stopped)):
                raise
            logger.exception("exception in the callback %r of %r", fn, future)
        finally:
            self.scope = saved

    def wait_for(self, future: Future, timeout: Optional[float] = None) -> None:
        """Return when `future` is done, or raise TimeoutError; a task that waits here is run on the spot."""
        if timeout is None and future.state == PENDING and self.inline < MAX_INLINE:
            strange = threading.get_ident() != self.current.ident or self.scheduler.packing
            if strange or self.current.error is not None:
                self.check_thread()
            if self.scheduler.claim(future):
                self.inline += 1
                try:
                    self.run_here(future)
                finally:
                    self.inline -= 1
                return
        if not self.wait_until(lambda: future.state >= CANCELLED, timeout, future.when_done):
            future.waiters = [w for w in future.waiters or () if type(w) is not Waiter or w.strand is not None]
            raise FutureTimeout(f"the task was not done within {timeout} s")

    def cancel(self, future: Future) -> None:
        """Cancel a future's task wherever it waits, if it has not started."""
        self.check_thread()
        if self.scheduler.claim(future):
            future.settle(GONE)
        elif future.state == SENT:
            self.cancel_sent(future)

    def cancel_sent(self, future: Future) -> None:
        """Cancel a task that was carved. If it is not here, ask whoever has it, and wait: done, or the refusal."""
        scheduler, parcel, index = self.scheduler, future.at, future.at.futures.index(future)

        def is_home() -> bool:
            with self.lock:
                found = scheduler.withdraw(lambda job: job is parcel, index, index + 1)
            if found:
                future.settle(GONE)
            return bool(found)

        if is_home():
            return
        asked, waiting = scheduler.recall("CANCEL", parcel, index, index + 1), scheduler.cancelling

        def tell(waiter: Waiter) -> None:
            future.when_done(waiter)
            waiting.update(dict.fromkeys(asked, waiter))

        self.holding += 1  # what is to be cancelled must not be run meanwhile
        try:
            self.wait_until(lambda: future.state >= CANCELLED or waiting.keys().isdisjoint(asked), 5.0, tell)
        finally:
            self.holding -= 1
            for ref in asked:
                waiting.pop(ref, None)
        is_home()  # by now, if nobody had it because it was on its way back

    def abandon(self, job: MapJob, kind: str = "CANCEL") -> None:
        """Drop what has not started of a map whose consumer is gone; `kind` may be ABORT (see `giving_up`).

        An iterator may be dropped anywhere, even in the pump with a lock held (the garbage collector decides): so this
        only leaves a note.
        """
        if not job.abandoned and job.columns is not None:
            self.scheduler.undrawn -= (job.length or 0) - job.drawn
        job.abandoned = True
        job.ready.clear()
        if self.link is not None and (job.length is None or job.done < job.length):
            if kind == "ABORT" and self.pump is not None:  # a script that was interrupted may go on, without us
                self.abort(job)
            else:
                self.later.append(functools.partial(self.scheduler.recall, kind, job))

    def abort(self, job: Optional[Job] = None, patience_s: float = 0.0) -> None:
        """End tasks of a job, or all, that are under way: in a thread, as what is pickled just now may take long."""
        done = threading.Semaphore(0)

        def recall() -> None:
            self.scheduler.recall("ABORT", job)
            done.release()

        with contextlib.suppress(RuntimeError, MemoryError):  # no thread can be started: they run on
            _thread.start_new_thread(recall, ())  # `Thread.start` waits for ever if the thread lacks memory
            done.acquire(timeout=patience_s)

    def run_on_all(self, func: Any, args: Tuple[Any, ...]) -> Any:
        """Call a function once on each worker (see `futures.run_on_all`)."""
        self.check_thread()
        if self.link is None:
            return {self.rank: func(*args)}
        answer = coming_answer()
        self.scheduler.run_on_all(Everywhere(func, args, self.scheduler.by_value), answer)
        return answer.result()

    def feed(self, job: MapJob) -> None:
        """Draw a map's input into the queue: as its window allows; of what comes slowly, until there are results."""
        if job.columns is not None and not job.fixed:
            job.window = max(job.window, job.useful_window(self.scheduler))  # pieces of less make chunks too small
        for block in job.draw():
            if self.config.check:
                rows = [travelled(self.scheduler.by_value, func=job.func, args=row)[1] for row in zip(*block.rows())]
                block = Block(job, list(zip(*rows)), block.lo, block.lo, block.hi)
            if job.columns is not None:
                self.scheduler.undrawn -= block.hi - block.lo
            self.scheduler.put(block)
            if self.pump is not None:
                self.scheduler.sate()
                self.scheduler.carve()
                self.pump.kick()
            if job.columns is None and block.hi - block.lo < 16:  # it comes slowly, or ends: nobody is to wait for more
                self.glance()
                if job.has_run() or self.scheduler.live == 1:
                    break

    def await_run(self, job: MapJob, deadline: Optional[float]) -> bool:
        """Wait until a run of a map's results is there, or raise TimeoutError; return False at the end of the map."""
        self.check_thread()
        if job.fixed:
            self.feed(job)  # only now: what the consumer has taken is all that he has been handed
        while not job.has_run():
            self.check_thread()
            if job.length is not None and job.done >= job.length:
                return False
            if deadline is None and self.run_next_here(job):
                continue
            if job.can_widen(self.scheduler):
                job.window *= 2
                self.feed(job)
            left_s, tell = time_left(deadline), functools.partial(setattr, job, "waiter")
            if not self.wait_until(lambda: job.has_run() or job.can_widen(self.scheduler), left_s, tell, self.awaited):
                raise FutureTimeout("a result of map() was not there in time")
            job.waiter = None
        return True

    def run_next_here(self, job: MapJob) -> bool:
        """Run the very task whose result is waited for, if it waits here and may be long or has few companions.

        A run of many short tasks is left to the scheduler's C loop instead.
        """
        if self.inline >= MAX_INLINE:
            return False
        with self.lock:
            level = self.scheduler.level(job.depth)
            block = level[0] if level else None
            if type(block) is not Block or block.job is not job or block.lo != job.done or block.deaths:
                return False
            if block.hi - block.lo > 4 and self.scheduler.known_cost(block) < LOCAL_SLICE_S:
                return False
            block = self.scheduler.cut(level, 1)
        self.inline += 1
        try:
            self.run_block(block)
        finally:
            self.inline -= 1
        self.glance()
        return True


class Runtime(Calls):
    """What a process needs to run and create tasks, one per process: all of the above, constants, interrupts, ends."""

    n_constants = 0
    signal = 2  # the signal that an interrupt came from

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.constants: Dict[str, Any] = {}
        self.verdicts: Dict[bytes, Tuple[str, Any]] = {}  # by serial: a constant's name, the future of its acceptance
        self.waiting_for: Dict[str, List[Waiter]] = {}
        self.doomed: Dict[Slice, int] = {}  # in which running tasks, by index, one is to be raised
        self.signals: Set[int] = set()  # that came to us

    def connect(self, config: Config, *about: Any) -> None:
        super().connect(config, *about)
        self.pid = os.getpid()
        if config.capacity:
            self.pump = Pump(self)

    def on_welcome(self, frames: Frames) -> None:
        """Learn the facts of the pool (lock held; later it would undo what POOL has said since)."""
        welcome = json.loads(bytes(frames[1]))
        self.scheduler.live = welcome["live"]
        self.teller.set_clock(welcome)

    def on_const(self, frames: Frames) -> None:
        """Keep a constant, pickled until somebody asks for it."""
        name = bytes(frames[3]).decode()
        if OWNER.unpack(frames[1]) == (self.rank, self.incarnation) and bytes(frames[2]) in self.verdicts:
            self.verdicts.pop(bytes(frames[2]))[1].settle(None)
        if name == INITIALIZER:
            if self.config.capacity and not self.initialized:
                self.initialized = True
                self.initialize(lambda: loads(frames[4:]))
            return
        self.constants.setdefault(name, Pickled(frames[4:]))  # it may have come from broker and client
        for waiter in self.waiting_for.pop(name, ()):
            waiter()

    def on_refused(self, frames: Frames) -> None:
        name, answer = self.verdicts.pop(bytes(frames[1]))
        answer.settle(Failure(set_already(name)))

    def set_constants(self, values: Dict[str, Any]) -> None:
        """Give all workers constants; return when every task submitted from now on will see them.

        The broker echoes each in the order in which it passes on batches, and decides which of two setters was first.
        """
        self.check_thread()
        for name in self.constants.keys() & values:
            raise set_already(name)
        packed = {}
        for name, value in values.items() if self.link is not None else ():
            try:
                packed[name] = dumps(value, self.scheduler.by_value, _OwnPickler)
            except Exception as error:
                why = explain_unpicklable(value, name, error, self.scheduler.by_value)
                raise MisuseError(f"constant {name!r}: {why}") from error
        self.scheduler.carve()
        answers = {name: coming_answer() for name in packed}
        for name, answer in answers.items():
            self.send_constant(name, packed[name], answer)
        for answer in answers.values():
            answer.result()
        if self.config.check:
            values = dict(zip(values, travelled(self.scheduler.by_value, **values)))
        self.constants.update(values)

    def send_constant(self, name: str, frames: Frames, answer: Any) -> Frames:
        """Send a constant; what the broker makes of it settles the answer, a future. Return it as all get it."""
        self.n_constants += 1
        serial = COUNT.pack(self.n_constants)
        self.verdicts[serial] = name, answer
        constant = [OWNER.pack(self.rank, self.incarnation), serial, name.encode(), *frames]
        self.emit(self.scheduler.message("CONST", *constant))
        return constant

    def get_constant(self, name: str, timeout: Optional[float]) -> Any:
        """Return a constant, waiting up to `timeout` seconds for it; None if there is none by then."""
        self.check_thread()
        if name not in self.constants:
            if self.link is None:
                return None
            waiters = self.waiting_for.setdefault(name, [])
            self.wait_until(lambda: name in self.constants, timeout, waiters.append)
            waiters[:] = [waiter for waiter in waiters if waiter.strand is not None]  # a program may ask often
        value = self.constants.get(name)
        if type(value) is Pickled:
            value = self.constants[name] = loads(value)
        return value

    def initialize(self, find: Callable[[], Tuple[Callable[..., Any], Tuple[Any, ...]]]) -> None:
        """Call this worker's initializer; if it fails, say so and leave. `find` returns it and its arguments."""
        try:
            func, args = find()
            func(*args)
            self.note_context()
        except BaseException as error:
            if self.rank == ORIGIN:
                raise
            why = facts(why=f"the initializer failed:\n{traceback_text(error)}")
            self.leave_with(1, message("BROKEN", self.rank, self.incarnation, why))

    def on_broken(self, frames: Frames) -> None:
        """No worker can begin: raise that in the script."""
        self.interrupt_script(MisuseError(json.loads(bytes(frames[1]))["why"]))

    def on_purge(self, frames: Frames) -> None:
        """Drop the tasks of an owner that died; end strands that are parked in one, and ours when it waits next."""
        with self.lock:
            self.scheduler.on_purge(frames)
        for piece in list(self.scheduler.slices):
            if piece.block.job.abandoned and piece.block.job.owner is not None:
                piece.strand.error = Stopped("the owner of this task is gone")
                if piece.strand is not self.current:
                    Waiter(self, piece.strand)()

    def is_busy(self, own: bool = False) -> bool:
        """Return True while tasks of this worker's own, or strands, are not finished.

        Args:
            own: of what waits in the queue, tasks of others do not count; nor does a script that waits for this answer.
        """
        resting = sum(waiter.strand is not self.current for _, waiter in self.resting) + (own and self.rank == ORIGIN)
        return bool(self.n_parked > resting or self.left or self.later) or self.scheduler.is_busy(own)

    def finish(self, success: bool) -> None:
        """End the origin's work: wait for what was submitted if the script succeeded, else end it."""
        if success:
            wait_for_all(self)
        else:
            with self.lock:
                for queue in (self.scheduler.home, self.scheduler.away, *self.scheduler.levels):
                    queue.clear()
            self.abort(patience_s=0.5)  # so that `finally` blocks of what runs elsewhere run, too
        if self.has_failures:
            gc.collect()  # an exception's traceback refers back to its future: only now is a forgotten one known
        self.dispatch_unseen(final=True)

    def poll(self, future: Future) -> None:
        """Look at the link in passing; who asks again and again in vain runs tasks. Other threads do neither."""
        if threading.get_ident() == self.current.ident:
            if self.missed:
                self.raise_error()
            self.glance()
            if self.scheduler.results and now() - self.scheduler.flushed_s > FLUSH_S:
                self.scheduler.flush()  # when this code comes to wait, nobody knows
            if self.is_stuck(self.patience(0.0)):
                self.wait_until(lambda: future.state >= CANCELLED, 0.0)

    def catch_signals(self) -> None:
        """In the origin: SIGINT, SIGTERM and SIGHUP raise KeyboardInterrupt in the script, whatever runs here."""
        names = "SIGINT", "SIGTERM", "SIGHUP"
        numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
        for number in numbers:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self.on_signal)
        if CAN_FORK:
            self.let_children_end(numbers)
        else:  # where a signal ends no wait either
            signal.set_wakeup_fd(self.bell.writer.fileno(), warn_on_full_buffer=False)

    def let_children_end(self, numbers: List[int]) -> None:
        """Give signals of which a process ends their meaning back in children that user code forks, as a pool's.

        A handler of ours would not run if the signal came just before the child begins, or waits for something.
        """
        masks: Dict[int, Any] = {}  # by thread

        def before() -> None:
            masks[threading.get_ident()] = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)

        def after() -> None:
            signal.pthread_sigmask(signal.SIG_SETMASK, masks.pop(threading.get_ident()))

        def in_child() -> None:
            for number in numbers:
                if number != signal.SIGINT and signal.getsignal(number) == self.on_signal:
                    signal.signal(number, signal.SIG_DFL)
            after()

        os.register_at_fork(before=before, after_in_parent=after, after_in_child=in_child)

    def on_signal(self, number: int, frame: Any) -> None:
        if os.getpid() != self.pid:
            os._exit(128 + number)  # a child of the user's by fork
        self.signals.add(number)
        self.signal = number
        again, self.retrying = self.retrying, False
        if again and not self.missed:
            return  # a wait has raised it since
        self.missed = False
        if self.lock.locked() or not self.interrupt(frame):  # in the middle of our own work: come again in a moment,
            self.missed = self.retrying = True  # unless a wait that begins is sooner
            threading.Timer(0.01, signal_self, (number,)).start()

    def interrupt(self, frame: Any) -> bool:
        """Raise KeyboardInterrupt in the script, here or where it waits; False where that would lose results."""
        main, in_task = self.strands.main, self.slice is not None or self.task is not None
        if self.current is main and main.saved is not None:  # it is being switched to just now
            self.interrupt_script()
        elif self.current is not main and not in_task:  # a scheduler is waiting, or at work
            self.later.append(self.interrupt_script)
            self.wake()
        elif self.current is not main and self.strands.name == "thread":  # nobody can interrupt the task's thread
            if not self.leave_behind():
                return False
            self.restore(main)
            raise KeyboardInterrupt
        elif getattr(innermost(frame), "f_code", None) in INTERRUPTIBLE:
            self.interrupting = in_task  # then `failure` lets it pass, or passes it on to the script
            raise KeyboardInterrupt
        else:
            return False
        return True

    def interrupt_task(self, piece: Slice) -> None:
        """Have KeyboardInterrupt raised in the task that a slice runs now. Any thread, lock held."""
        self.doomed[piece] = piece.index()
        self.later.append(functools.partial(self.interrupt_parked, piece, piece.index()))
        signal_self(DOOM)
        self.wake()

    def interrupt_parked(self, piece: Slice, index: int) -> None:
        """Do the same for a task that waits for others."""
        strand = piece.strand
        if piece in self.scheduler.slices and piece.index() == index and strand is not self.current:
            self.doomed.pop(piece, None)
            strand.error = KeyboardInterrupt()
            Waiter(self, strand)()

    def heed_doom(self, number: int, frame: Any) -> None:
        """Raise KeyboardInterrupt in a doomed task that still runs; while our code works for it, a moment later."""
        if not self.doomed or os.getpid() != self.pid:
            return
        main = self.strands.name == "greenlet" or self.current is self.strands.main
        runs, ours = self.slice or self.task, innermost(frame)
        in_slice = ours.f_code in (run_calls.__code__, call_with.__code__)
        in_task = in_slice or ours is not frame and ours.f_code is Runtime.run_future.__code__
        for piece, index in list(self.doomed.items()):
            mine = runs is piece or piece.scope is not None and scope_of(runs) is piece.scope
            if piece.index() == index and main and (mine or piece.strand is self.current):
                if self.lock.locked() or not in_task or not mine:
                    threading.Timer(0.01, os.kill, (self.pid, number)).start()
                    return
                del self.doomed[piece]
                raise KeyboardInterrupt
            del self.doomed[piece]


GREEN = {"gevent", "eventlet"}  # packages that replace threads by greenlets


def refuse_green_threads() -> None:
    """Raise MisuseError where gevent, or its like, stands for what waits in the standard library: we would hang."""
    if sys.modules.keys().isdisjoint(GREEN):
        return
    import queue

    ours = threading.get_ident, queue.SimpleQueue, select.select, socket.socketpair, subprocess.Popen, time.sleep
    for strange in GREEN & {str(used.__module__).partition(".")[0] for used in ours}:
        raise MisuseError(
            f"{strange} has replaced threads or waits of the standard library (monkey.patch_all), and scoop_lite does "
            "not work with greenlets in their place; fix: keep what uses it in a program that is not patched"
        )


def innermost(frame: Any) -> Any:
    """Return the innermost frame of ours: where user code was called, if another is above. None at the exit."""
    while frame is not None and frame.f_globals is not globals():
        frame = frame.f_back
    return frame


def is_of_handler(error: BaseException) -> bool:
    """Return True for what a handler of a signal to the script has raised in a task; a timer's may be the task's own.

    Only Python calls a function with a signal's number and the very frame that it interrupts.
    """
    tb = error.__traceback__
    while tb is not None and tb.tb_next is not None:
        interrupted, tb = tb.tb_frame, tb.tb_next
        code, values = tb.tb_frame.f_code, tb.tb_frame.f_locals
        if code in (Runner.run_future.__code__, Runner.run_slice.__code__):
            break  # what is below is of another task, for which this one has waited
        given = [values.get(name) for name in code.co_varnames[: code.co_argcount]]
        if code.co_flags & 4:  # it has *args
            rest = values.get(code.co_varnames[code.co_argcount + code.co_kwonlyargcount])
            given += rest if type(rest) is tuple else ()
        for number, frame in zip(given, given[1:]):
            if frame is interrupted and isinstance(number, int) and number in (*END_SIGNALS, *NOTICES):
                return True
    return False


def signal_self(number: int) -> None:
    """Send this process a signal (the `kill` of Windows would end it)."""
    os.kill(os.getpid(), number) if CAN_FORK else signal.raise_signal(number)


def set_already(name: str) -> TypeError:
    """Make the error of whoever sets a constant for the second time."""
    return TypeError(f"the constant {name!r} is set already; constants can be set once")


def new_strands(name: str) -> Union[GreenletStrands, ThreadStrands]:
    """Make the kind of strands that the configuration names; "auto" takes greenlets if they can be imported."""
    if name != "thread":
        try:
            return GreenletStrands()
        except ImportError:
            if name == "greenlet":
                raise MisuseError("--strands greenlet: greenlet cannot be imported; pip install greenlet") from None
    return ThreadStrands()


def flush_output() -> None:
    """Flush standard output and error; what cannot be written has no one left to hear of it."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()


def flush_files() -> None:
    """Write what files that user code has left open still hold: `os._exit`, by which we end, does not do that.

    What was there when this process was forked is frozen (see `gc.freeze`), and so none of them.
    """
    kind = io.IOBase.__base__
    files = [obj for obj in gc.get_objects() if kind in type(obj).__mro__]
    for last in (False, False, True):  # text, compressed, buffered: what one lets go, the next one holds
        for file in files:
            try:
                if not file.closed:
                    file.flush()
            except Exception as error:
                if last:
                    show = repr if type(file).__module__ in ("_io", "gzip", "bz2", "lzma") else object.__repr__
                    print(f"scoop_lite: {show(file)} cannot be written: {error}", file=sys.stderr)  # another may fail


IS_BEHIND = operator.attrgetter("out")  # of a link: something waits to be written
EXCLUSIVE = getattr(select, "EPOLLEXCLUSIVE", 0)  # of those who wait for a descriptor, the kernel is to wake one


class Waits:
    """Waits until one of some descriptors can be read, by the cheapest call that the platform has. One thread.

    `shared`: another thread waits for them, too, and the kernel is to wake one of the two: whose Waits was made first,
    if he is waiting. Only Linux can do that; elsewhere this attribute becomes False, and both are woken.
    `many`: there may be a thousand, which `poll` would look at one by one.
    """

    def __init__(self, *fds: int, shared: bool = False, many: bool = False) -> None:
        self.fds, self.shared = fds, shared and EXCLUSIVE != 0
        self.epoll = self.shared or many and hasattr(select, "epoll")
        try:
            self.poll = self.open()
        except OSError:  # this kernel only imitates Linux
            self.shared = self.epoll = False
            self.poll = self.open()

    def open(self) -> Any:
        """Make what waits; None where there is only `select`."""
        make: Any = select.epoll if self.epoll else getattr(select, "poll", None)
        poll = make and make()
        for fd in self.fds if make else ():
            poll.register(fd, select.POLLIN | EXCLUSIVE * self.shared)
        return poll

    def wait(self, links: Sequence[Any] = (), timeout: Optional[float] = None) -> Dict[int, int]:
        """Wait, at most `timeout` seconds, until one can be read, or one of the links go on writing; return which."""
        behind = [*filter(IS_BEHIND, links)]
        writes = [link.writer.fileno() for link in behind] if behind else []
        if self.poll is None:
            readable, writable, _ = select.select(self.fds, writes, [], timeout)
            return dict.fromkeys(readable + writable, 0)
        if self.epoll:
            return Waits(*self.fds).wait(links, timeout) if writes else dict(self.poll.poll(timeout))
        for fd in writes:
            self.poll.register(fd, select.POLLOUT | (select.POLLIN if fd in self.fds else 0))
        try:
            return dict(self.poll.poll(None if timeout is None else math.ceil(timeout * 1000)))
        finally:
            for fd in writes:
                if fd in self.fds:
                    self.poll.register(fd, select.POLLIN)
                else:
                    self.poll.unregister(fd)

    def add(self, link: Any) -> None:
        """Wait for one more descriptor."""
        self.fds += (link.fileno(),)
        if self.poll is not None:
            self.poll.register(link.fileno(), select.POLLIN | EXCLUSIVE * self.shared)

    def close(self) -> None:
        if self.epoll:
            self.poll.close()

    def forget(self, link: Any) -> None:
        """Wait for a link no more, that is about to be closed."""
        self.fds = tuple(fd for fd in self.fds if fd != link.fileno())
        if self.poll is not None:
            self.poll.unregister(link.fileno())


class Pump:
    """A daemon thread that serves the broker's orders while user code computes.

    It sleeps while there is nothing to carve, flush or expect, and while the scheduler itself waits on the link, but
    for `reads`. It dozes while short tasks run in slices, unless one is long: between slices the scheduler looks at the
    link, and to wait there too would make both threads want the GIL for each message. Else it waits on the link. It
    never runs user code, except what pickling calls.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.asleep = True  # `kick` wakes it
        self.patient = True  # it waits without a time limit
        self.dozing = False  # it waits for `kick` or a time limit, while the scheduler looks at the link often enough
        self.idling = False  # the scheduler waits on the link itself
        self.watching = False  # this thread waits on the link
        self.long_task = False  # the running task is not known to be short: orders, cancellations … may come meanwhile
        self.thread: Optional[threading.Thread] = None
        self.bell = Bell()
        self.watching_both: Optional[Waits] = None  # link(s) and bell

    def kick(self, soon: bool = False) -> None:
        """Wake the pump (scheduler's thread): there is something to carve, or `soon`, unless it looks anyway."""
        if not (self.asleep or (self.patient if soon else self.dozing)):
            return
        self.asleep = self.patient = self.dozing = False
        if self.thread is not None:
            self.bell.ring()
            return
        self.watching_both = Waits(self.bell.fd, *self.runtime.links, shared=self.runtime.waits.shared)
        thread = threading.Thread(target=self.run, name="scoop_lite pump", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # we do not come here again, as nobody sets `asleep`
            logger.warning("%s to serve others while a task runs: they wait for its end; see `ulimit -u`", error)
        else:
            sys.setswitchinterval(SWITCH_S)
            self.thread = thread

    def nudge(self) -> None:
        """Have the pump look at the link again, if it waits on it."""
        if self.watching and threading.current_thread() is not self.thread:
            self.bell.ring()

    def rest(self) -> None:
        """Let the pump sleep, unless it `reads`: the scheduler is going to wait on the link itself."""
        self.idling = True
        if self.watching and not self.long_task:
            self.watching = False
            self.bell.ring()

    def reads(self) -> bool:
        """Return True while this thread waits on the link even while the scheduler idles.

        Between long tasks it does: to wake it when each begins, and to send it to sleep again, costs more. The kernel
        wakes the scheduler then, if it can choose (see `Waits`); else a message reaches that a moment later, by us.
        """
        return self.long_task and self.thread is not None

    def wanted(self) -> bool:
        scheduler = self.runtime.scheduler
        return bool(
            self.long_task or scheduler.sent or scheduler.results or scheduler.away or self.runtime.outbox.waiting
            or any(scheduler.levels)
        )

    def plan(self) -> Tuple[bool, Optional[float]]:
        """Decide whether to watch the link, and how long to wait at most: who submits kicks us; time does not."""
        runtime, scheduler = self.runtime, self.runtime.scheduler
        self.asleep = self.patient = self.dozing = True  # from here on `kick` rings; only then look
        slices = scheduler.slices[:]
        running = not self.idling and any(p.block.hi - p.block.lo + p.n_handed > 1 for p in slices)
        late = any(piece.is_late(now()) for piece in slices)
        unseen = late or any(piece.is_long(now()) for piece in slices)  # the scheduler will not look soon
        if running and not (self.long_task or unseen or self.runtime.outbox.waiting):
            self.asleep = self.patient = False
            return False, DOZE_S
        self.dozing = False
        watch = self.wanted() or late if not self.idling else self.reads()  # what comes behind a late one is for others
        queued, ordered = bool(scheduler.away or any(scheduler.levels)), scheduler.ordered > scheduler.filled
        busy = running or queued and not self.idling
        timeout = 0.05 if busy else None  # to look whether a slice takes longer than it should
        if watch and ordered and (queued or busy):  # tasks that may be given away only later
            timeout = 0.005 if running else max(0.005, scheduler.keeps_until() - now())
        elif watch and scheduler.results:
            timeout = FLUSH_S  # then they are to go
        due_s = runtime.teller.due_s() if watch and runtime.config.is_followed and not self.idling else math.inf
        if due_s < math.inf:
            timeout = min(math.inf if timeout is None else timeout, max(0.0, due_s - now()))
        self.asleep, self.patient, self.watching = not watch or ordered and not queued, timeout is None, watch
        if not ordered and scheduler.ordered > scheduler.filled:
            return self.plan()  # the scheduler's thread has just read an order, which changes what was decided
        return watch, timeout

    def run(self) -> None:
        try:
            self.serve()
        except BaseException as error:  # such as a lack of memory: nobody would serve others now
            self.runtime.later.append(functools.partial(self.runtime.fail, error))
            self.runtime.wake()

    def serve(self) -> None:
        runtime = self.runtime
        sleep = Waits(self.bell.fd)
        for link in iter(lambda: runtime.link, None):
            watch, timeout = self.plan()
            woken: Dict[int, int] = {}
            if not watch:
                woken = sleep.wait((), timeout)
            elif not (link.edge and self.read()):
                woken = self.watching_both.wait([*runtime.links.values()], timeout)  # type: ignore[union-attr]
            self.watching = self.asleep = self.dozing = False
            kicked = self.bell.fd in woken
            if kicked:
                self.bell.clear()
            if self.idling and watch:
                self.read()
            elif not self.idling:
                self.work()
                runtime.teller.tell_meanwhile()
                if kicked and not any(runtime.scheduler.levels):
                    time.sleep(0.001)  # a program that submits and waits in turns must not wake us each time

    def read(self) -> int:
        """Read the link; if the scheduler idles, have it look at what came, be it only that the link has ended."""
        n = self.runtime.receive()
        if self.idling and (n or self.runtime.inbox):
            self.runtime.wake()
        return n

    def work(self) -> None:
        """Read, carve, flush; end slices that are late, so that their rest can be given away, or hold up a message."""
        runtime, scheduler, n_kept = self.runtime, self.runtime.scheduler, self.runtime.scheduler.n_kept
        self.read()
        if scheduler.is_hungry:  # what was thought to be short may have turned out to be long
            scheduler.sate(-1.0 if any(piece.is_late(now()) for piece in scheduler.slices[:]) else scheduler.ahead_s())
        if scheduler.ordered > scheduler.filled:
            scheduler.carve()
        if scheduler.results and now() - scheduler.flushed_s > FLUSH_S:
            scheduler.flush()
        for piece in scheduler.slices[:]:
            t = now()
            late, in_the_way = piece.is_late(t), runtime.inbox and t - piece.started_s > DOZE_S
            if late:
                scheduler.late_s = min(scheduler.late_s, t)
            if (late or in_the_way) and piece.block.job.fold is None:
                with runtime.lock:
                    scheduler.break_off(piece)
                if piece.out and type(piece.block.job) is Visit:
                    runtime.hand_in(piece)  # its owner may wait for just these
                    scheduler.flush()
        kept = scheduler.n_kept != n_kept
        if self.idling and (kept or runtime.resting or any(link.out for link in [*runtime.links.values()])):
            runtime.wake()  # what was carved may be what it waits for; or it is to wait until all is written


# ======================================================================================================================
# futures and shared: the programming interface                                                    (script and tasks)
# ======================================================================================================================

#: Of this process: its runtime, set apart while it imports the script; whether `lead` was called.
_state: Dict[str, Any] = {"runtime": None, "importing": None, "leads": False}


def runtime() -> Runtime:
    """Return this process's runtime; without the launcher, make one that runs everything here, after a warning."""
    found: Optional[Runtime] = _state["runtime"]
    if found is not None:
        return found
    if _state["importing"] is not None:
        raise MisuseError(
            "futures were used while a worker imports the script: put what starts the work under "
            "`if __name__ == '__main__':`, as every worker imports the script to find its functions"
        )
    ours = itertools.takewhile(lambda found: found[0].f_globals is globals(), traceback.walk_stack(sys._getframe()))
    warnings.warn(
        "scoop_lite runs everything serially: this program was not started by its launcher "
        "(python scoop_lite.py -n 4 script.py)", RuntimeWarning, stacklevel=1 + len(list(ours)),
    )  # fmt: skip
    found = _state["runtime"] = Runtime(Config(n=1))
    with contextlib.suppress(RuntimeError):  # the script has ended: from now on, only what is waited for is run
        at_exit(finish_serially, found)
    return found


def at_exit(function: Callable[..., None], *args: Any) -> None:
    """Have a function called when the main thread has ended its work, while threads can still be started."""
    getattr(threading, "_register_atexit", atexit.register)(function, *args)


def finish_serially(found: Runtime) -> None:
    """Run what a script without the launcher has submitted and not waited for, unless an exception has ended it."""
    if os.getpid() != found.pid or threading.get_ident() != found.current.ident:
        return
    found.interrupting = True  # it ends all this, not a task alone
    try:
        found.finish(not hasattr(sys, "last_type"))
    except BaseException as error:  # raised further, it would be printed, and the status 0
        show_exception(error)
        if isinstance(error, KeyboardInterrupt) and CAN_FORK:
            atexit._run_exitfuncs()
            end_by_signal(signal.SIGINT)
        found.leave(1)


futures = types.ModuleType(f"{__name__}.futures", """Create tasks and wait for them, from the script and from tasks.

`map` does what the builtin does, `submit` returns a `Future`; the others wait for futures, or reduce results. Tasks run
on the workers that ``python3 scoop_lite.py -n 8 script.py`` starts, this one included; without the launcher they run
here, after a warning. Tasks may create tasks, to any depth: one that waits gives its worker to others.

The script is imported by every worker, so what starts the work goes under ``if __name__ == "__main__":``. Functions of
modules and scripts travel by name, all others (lambdas, closures, what was typed at a prompt) by value. Arguments,
results and exceptions are pickled when they travel; what cannot be pickled runs at home, or fails its own future.

Exceptions of tasks arrive as themselves, with the remote traceback as their ``__cause__``. A task whose worker dies is
run again, ``--retries`` times at most, and then fails with `scoop_lite.WorkerLost`. A KeyboardInterrupt that ends a
`map` also ends its tasks. The functions below may be called by the thread of the script, or of the task.""")
shared = types.ModuleType(f"{__name__}.shared", "Constants that all workers see.")
futures.__dict__.update(
    Future=Future, CancelledError=CancelledError, TimeoutError=FutureTimeout, InvalidStateError=InvalidStateError,
    ALL_COMPLETED=ALL_COMPLETED, FIRST_COMPLETED=FIRST_COMPLETED, FIRST_EXCEPTION=FIRST_EXCEPTION,
)  # fmt: skip
_leader: Any = sys.modules.get("scoop_lite")
if getattr(_leader, "_state", {}).get("leads") and _leader.__version__ == __version__:
    # A copy that the program brings, as in a package of its own, while another is running it: it is to mean that one.
    sys.modules[__name__] = _leader
else:
    _leader = _this
sys.modules.update({f"{__name__}.futures": _leader.futures, f"{__name__}.shared": _leader.shared})


def lead() -> None:
    """Be the copy of this file that runs this process and all that it forks: what the name scoop_lite means there.

    Copies of the same version that are imported later are replaced by this one. One that came before, as by a
    `sitecustomize`, is filled with what is ours: so functions that somebody has of it do the same.
    """
    for other in list(sys.modules.values()):
        names = getattr(other, "__dict__", {})
        if "_run_as_script" in names and names.get("__version__") == __version__:
            names.update(globals())
    if CAN_FORK and "faulthandler" in sys.modules:  # else what we fork waits at its end for a thread that it lacks
        sys.modules["faulthandler"].cancel_dump_traceback_later()
    _state["leads"] = True
    sys.modules.update({"scoop_lite": _this, "scoop_lite.futures": futures, "scoop_lite.shared": shared})


def public(module: types.ModuleType, *names: str) -> Callable[[Any], Any]:
    """Make a function part of a module, to be pickled by its (first) name there; its `vars` stay empty."""
    vars(module).setdefault("__all__", ["Future"] * (module is futures)).append(names[0])  # what help() shows

    def add(function: Any) -> Any:
        function.__module__, function.__name__, function.__qualname__ = module.__name__, names[0], names[0]
        for name in names:
            setattr(module, name, function)
        return function

    return add


@public(futures, "submit")
def submit(func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
    """Create a task that calls ``func(*args, **kwargs)`` on some worker.

    Args:
        func: a function, method, class, partial or callable object; lambdas and closures travel by value.
        args, kwargs: its arguments. They are read when the task starts or travels: don't change them meanwhile. A task
            that runs where it was made gets these very objects, so it should not change them either.

    Returns:
        A Future.

    Raises:
        TypeError: `func` cannot be called.

    Example:
        >>> futures.submit(pow, 2, 10).result()
        1024
    """
    if not callable(func):
        raise TypeError(f"submit() needs a callable first, not {type(func).__name__}")
    return (_state["runtime"] or runtime()).submit(func, args, kwargs)


class MapResults(itertools.chain):  # type: ignore[type-arg]
    """The iterator that `map` returns: a chain of runs of results, so that each item costs no Python call.

    Dropping it, or `close`, cancels what has not started.
    """

    runs: Any = None

    @classmethod
    def over(cls, runs: Iterator[Iterable[Any]]) -> MapResults:
        results: Any = cls.from_iterable(runs)
        results.runs = runs
        return results  # type: ignore[no-any-return]

    def close(self) -> None:
        """Cancel what has not started; the iterator then ends."""
        self.runs.close()
        collections.deque(self, 0)  # lets go of the rest of the run that has begun


@public(futures, "map")
def map_(
    func: Callable[..., Any],
    *iterables: Iterable[Any],
    timeout: Optional[float] = None,
    chunksize: Optional[int] = None,
    buffersize: Optional[int] = None,
) -> Iterator[Any]:
    """Call `func` with the items of the iterables, in parallel; yield the results in order, as they come.

    Args:
        func: see `submit`.
        iterables: as for the builtin map; drawn lazily, within a window that adapts, so they may be endless.
        timeout: seconds from now within which every result must be there; None or -1 for no limit.
        chunksize: tasks that travel together; by default as many as make some 50 ms of measured work.
        buffersize: items that may be drawn ahead of the results taken.

    Returns:
        An iterator; dropping it cancels what has not started.

    Raises:
        concurrent.futures.TimeoutError from the iterator; whatever a task or an input raises, at its place.

    Example:
        >>> list(futures.map(pow, [1, 2, 3], [2, 2, 2]))
        [1, 4, 9]
    """
    return start_map(func, iterables, timeout, chunksize, buffersize)


@public(futures, "map_as_completed", "mapAsCompleted")
def map_as_completed(
    func: Callable[..., Any], *iterables: Iterable[Any], timeout: Optional[float] = None
) -> Iterator[Any]:
    """Do what `map` does, but yield each result as soon as it is there.

    Args:
        func, iterables, timeout: see `map`.

    Returns:
        An iterator over the results, in the order of their coming.

    Raises:
        concurrent.futures.TimeoutError from the iterator; whatever a task or an input raises, when it comes.

    Example:
        >>> sorted(futures.map_as_completed(abs, [-3, 2]))
        [2, 3]
    """
    return start_map(func, iterables, timeout, in_order=False)


def start_map(
    func: Any, iterables: Sequence[Any], timeout: Optional[float] = None, chunksize: Optional[int] = None,
    buffersize: Optional[int] = None, fold: Any = None, in_order: bool = True,
) -> MapResults:  # fmt: skip
    """Check a map's arguments, make its job and queue what its window allows; return its results."""
    if not callable(func):
        raise TypeError(f"map() needs a callable first, not {type(func).__name__}")
    if not iterables:
        raise TypeError("map() needs at least one iterable")
    for name, value in (("chunksize", chunksize), ("buffersize", buffersize)):
        if value is not None and (not hasattr(value, "__index__") or value < 1):
            raise ValueError(f"{name} must be a positive integer or None, not {value!r}")
    chunksize, buffersize = (n if n is None else operator.index(n) for n in (chunksize, buffersize))  # numpy's, too
    found = runtime()
    job = MapJob(func, iterables, found.scope_here(), buffersize, chunksize)
    job.fold, job.in_order = fold, in_order
    if job.columns is None and not job.fixed:
        job.window = max(32, 4 * found.scheduler.live)
    found.scheduler.undrawn += job.length or 0
    try:
        found.feed(job)
    except BaseException:
        found.abandon(job, giving_up())
        raise
    runs = runs_of(found, job, deadline_in(timeout))
    next(runs)  # who drops it before he takes a result ends the map, too
    return MapResults.over(runs)


def deadline_in(timeout: Optional[float]) -> Optional[float]:
    """Return when a timeout will be over, by `now()`; None for none, which -1 means too."""
    return None if timeout is None or timeout == -1 else now() + timeout


def time_left(deadline: Optional[float]) -> Optional[float]:
    """Return the seconds until a deadline, 0 after it, None without one."""
    return None if deadline is None else max(0.0, deadline - now())


def runs_of(found: Runtime, job: MapJob, deadline: Optional[float]) -> Iterator[List[Any]]:
    """Yield a map's results in runs (lists of neighbours), in order or as they come, as its job was made."""
    try:
        yield []
        while found.await_run(job, deadline):
            count, outcomes = job.ready.pop(job.done) if job.in_order else job.ready.popitem(last=False)[1]
            job.done += count
            if not job.fixed:
                found.feed(job)
            if job.failed and Failure in set(map(type, outcomes)):
                i = list(map(type, outcomes)).index(Failure)
                yield outcomes[:i]
                raise outcomes[i].look()
            yield outcomes
        if job.input_error is not None:
            raise job.input_error
    finally:
        found.abandon(job, giving_up())


def giving_up() -> str:
    """Return the message that takes back tasks in a `finally` clause: after an interrupt, what runs is ended, too."""
    return "ABORT" if isinstance(sys.exc_info()[1], KeyboardInterrupt) else "CANCEL"


@public(futures, "mapReduce", "map_reduce")
def map_reduce(
    map_func: Callable[..., Any],
    reduction_op: Callable[[Any, Any], Any],
    *iterables: Iterable[Any],
    timeout: Optional[float] = None,
) -> Any:
    """Reduce the results of `map` with an associative operator.

    Equal to ``functools.reduce(reduction_op, map(map_func, *iterables))``. Results are joined where they are made, in
    a tree whose shape depends on the number of items alone: floating-point sums do not depend on the workers.

    Args:
        map_func: called with the items. reduction_op: joins two neighbouring results; need not be commutative.
        iterables, timeout: see `map`.

    Returns:
        The reduction of all.

    Raises:
        TypeError: there were no items. concurrent.futures.TimeoutError. Else what a task, an input or the operator
            raises.

    Example:
        >>> import operator; futures.mapReduce(abs, operator.add, [-1, -2, -3])
        6
    """
    if not callable(reduction_op):
        raise TypeError(f"mapReduce() needs a callable operator, not {type(reduction_op).__name__}")
    nodes: List[Tuple[int, int, Any]] = []
    with contextlib.closing(start_map(map_func, iterables, timeout, fold=reduction_op)) as results:
        for node in itertools.chain.from_iterable(results):
            absorb(reduction_op, nodes, *node)
    if not nodes:
        raise TypeError("mapReduce() of no items has no value")
    return functools.reduce(lambda right, left: reduction_op(left, right), [v for _, _, v in reversed(nodes)])


@public(futures, "mapScan", "map_scan")
def map_scan(
    map_func: Callable[..., Any],
    reduction_op: Callable[[Any, Any], Any],
    *iterables: Iterable[Any],
    timeout: Optional[float] = None,
) -> List[Any]:
    """Return all partial reductions of the results of `map`, in order.

    Equal to ``list(itertools.accumulate(map(map_func, *iterables), reduction_op))``. All of them are wanted here, so
    they are joined here, from the left, while the mapped values stream in.

    Args:
        map_func, reduction_op, iterables, timeout: see `mapReduce`.

    Returns:
        As many values as there are items; the last is what `mapReduce` returns.

    Raises:
        concurrent.futures.TimeoutError. Else what a task, an input or the operator raises.

    Example:
        >>> import operator; futures.mapScan(abs, operator.add, [-1, -2, -3])
        [1, 3, 6]
    """
    return list(itertools.accumulate(map_(map_func, *iterables, timeout=timeout), reduction_op))


@public(futures, "as_completed")
def as_completed(fs: Iterable[Future], timeout: Optional[float] = None) -> Iterator[Future]:
    """Yield futures as they are done; each once.

    Args:
        fs: futures of this worker. timeout: seconds from now; None or -1 for no limit.

    Returns:
        An iterator over the futures.

    Raises:
        concurrent.futures.TimeoutError: some were not done in time.

    Example:
        >>> tasks = [futures.submit(abs, -3), futures.submit(abs, -4)]
        >>> sorted(task.result() for task in futures.as_completed(tasks))
        [3, 4]
    """
    found, waiting, deadline = runtime(), list(dict.fromkeys(fs)), deadline_in(timeout)

    def completed() -> Iterator[Future]:
        done: Deque[Future] = collections.deque(f for f in waiting if f.state >= CANCELLED)
        waiters: List[Waiter] = []

        def note(future: Future) -> None:
            done.append(future)
            while waiters:
                waiters.pop()()

        for future in waiting:
            if future.state < CANCELLED:
                future.when_done(note)
        try:
            for _ in waiting:
                if not done and not found.wait_until(lambda: bool(done), time_left(deadline), waiters.append):
                    raise FutureTimeout("some futures were not done in time")
                yield done.popleft()
        finally:
            for future in waiting:  # a program may wait a thousand times for the first of a thousand
                if future.waiters:
                    future.waiters.remove(note)

    return completed()


DoneAndNotDone = collections.namedtuple("DoneAndNotDone", "done not_done")  # what `wait` returns: two sets of futures


@public(futures, "wait")
def wait(fs: Iterable[Future], timeout: Optional[float] = -1, return_when: str = ALL_COMPLETED) -> DoneAndNotDone:
    """Wait for futures.

    Args:
        fs: futures of this worker.
        timeout: seconds; None or -1 for no limit, 0 to look only.
        return_when: ALL_COMPLETED, FIRST_COMPLETED or FIRST_EXCEPTION.

    Returns:
        (done, not_done): two sets. When the time is over, some are not done: no error.

    Raises:
        ValueError: `return_when` is something else.

    Example:
        >>> done, not_done = futures.wait([futures.submit(abs, -3)])
        >>> len(done), len(not_done)
        (1, 0)
    """
    if return_when not in (ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION):
        raise ValueError(f"return_when must be ALL_COMPLETED, FIRST_COMPLETED or FIRST_EXCEPTION, not {return_when!r}")
    waiting = set(fs)
    if any(future.state >= CANCELLED for future in waiting):  # then there may be no wait, in which others would be run
        all(future.done() for future in waiting)
    with contextlib.suppress(FutureTimeout):
        for future in as_completed(waiting, timeout):
            if return_when == FIRST_COMPLETED or return_when == FIRST_EXCEPTION and future.state == FAILED:
                break
    done = {f for f in waiting if f.state >= CANCELLED}
    return DoneAndNotDone(done, waiting - done)


@public(futures, "shutdown")
def shutdown(wait: bool = True, *, cancel_futures: bool = False) -> None:
    """Do what `concurrent.futures.Executor.shutdown` does, for code that takes this module as its executor.

    The pool belongs to the launcher and stays; new tasks may be submitted.

    Args:
        wait: return when all tasks of this worker's own are done. cancel_futures: before that, cancel what no
            other has got yet.

    Example:
        >>> task = futures.submit(abs, -3)
        >>> futures.shutdown()
        >>> task.done()
        True
    """
    found = runtime()
    if cancel_futures:
        for queue in (*found.scheduler.levels, found.scheduler.home, found.scheduler.away):
            for item in snapshot(queue):
                for future in [item] if type(item) is Future else getattr(item.job, "futures", ())[item.lo : item.hi]:
                    found.cancel(future)
    if wait:
        found.wait_until(lambda: not found.scheduler.is_busy(own=True), watched=found.resting)


def wait_for_all(found: Runtime) -> None:
    """In the origin: wait until no worker has tasks left, be they of a task that did not wait for them."""
    found.wait_until(lambda: not found.is_busy(), watched=found.resting)
    totals: List[int] = []
    while found.link is not None and found.scheduler.others_create and is_to_be_asked_again(totals):
        with contextlib.suppress(WorkerLost):  # and with it what its tasks had left behind
            totals.append(sum(found.run_on_all(rest, ()).values()))


def rest() -> int:
    """Wait until this worker has no tasks of its own; return how many of those that ran here had created others.

    This is none of the user's tasks, and not to be counted.
    """
    found = runtime()
    found.wait_until(lambda: not found.is_busy(own=True), watched=found.resting)
    found.scheduler.n_done -= 1
    return int(found.scheduler.n_scopes)


def is_rest(func: Any) -> bool:
    """Say whether that is what `run_on_all` calls for `rest`, and no task of the user's."""
    return type(func) is functools.partial and func.func is with_rank and func.args[0] is rest


def is_to_be_asked_again(totals: List[int]) -> bool:
    """Say whether some worker may have tasks of its own, although each has rested; `totals` are the sums of `rest`.

    Those of another may have run on it meanwhile, and have left it some: not if there is none that has created any.
    """
    return not totals or totals[-1] != 0 and totals[-2:-1] != totals[-1:]


@public(futures, "run_on_all", "runOnAll")
def run_on_all(func: Callable[..., Any], /, *args: Any) -> Dict[int, Any]:
    """Call a function once on each worker there is now, this one included; wait for all.

    Args:
        func, args: see `submit`.

    Returns:
        The results by worker (rank).

    Raises:
        WorkerLost: one died meanwhile. Else what the function raised.

    Example:
        >>> futures.run_on_all(len, "abc")
        {0: 3}
    """
    return runtime().run_on_all(func, args)  # type: ignore[no-any-return]


@public(futures, "task_seed")
def task_seed() -> int:
    """Return a 64-bit seed for the running task, from the run's seed (``--seed``) and the task's place in the program.

    The place is (parent, call order, index): the same whatever worker runs the task, and however many there are. For
    NumPy: ``numpy.random.default_rng(futures.task_seed())``.

    Example:
        >>> len({futures.submit(futures.task_seed).result() for _ in range(5)})
        5
    """
    import hashlib

    found = runtime()
    digest = hashlib.blake2b(b"%d:%d" % (found.config.seed, found.scope_here().place), digest_size=8).digest()
    return int.from_bytes(digest, "big")


@public(futures, "task_rng")
def task_rng() -> Any:
    """Return the running task's own random generator, seeded with `task_seed`; the same object within one task.

    Example:
        >>> 0 <= futures.task_rng().random() < 1
        True
    """
    scope = runtime().scope_here()
    if scope.rng is None:
        import random

        scope.rng = random.Random(task_seed())
    return scope.rng


@public(shared, "setConst", "set_const")
def set_const(**constants: Any) -> None:
    """Give all workers constants; visible to every task submitted from now on, and to workers that start later.

    Args:
        constants: names and values; functions and lambdas too.

    Raises:
        TypeError: a name is set already. MisuseError: a value cannot be pickled. If that is known here, none is set.

    Example:
        >>> shared.setConst(limit=10)
        >>> shared.getConst("limit")
        10
    """
    runtime().set_constants(constants)


@public(shared, "getConst", "get_const")
def get_const(name: str, timeout: Optional[float] = 0.1) -> Any:
    """Return a constant.

    Args:
        name: as given to `setConst`.
        timeout: seconds to wait until somebody sets it; None waits for ever.

    Returns:
        Its value, or None when it is not set in time.

    Raises:
        Exception: what unpickling the value raises here.

    Example:
        >>> print(shared.getConst("nobody sets this", timeout=0))
        None
    """
    return runtime().get_constant(name, timeout)


def __getattr__(name: str) -> Any:
    """Give facts of this process under the names that SCOOP gave them, right at the time of reading.

    `IS_RUNNING`: the launcher started it. `IS_ORIGIN`: it runs the script. `SIZE`: workers. `worker`: this one's rank.

    Example:
        >>> scoop_lite.IS_RUNNING, scoop_lite.IS_ORIGIN, scoop_lite.SIZE, scoop_lite.worker
        (False, True, 1, 0)
    """
    found: Optional[Runtime] = _state["runtime"] or _state["importing"]
    running = found is not None and found.link is not None
    rank = found.rank if found is not None else ORIGIN
    values: Dict[str, Any] = {
        "IS_RUNNING": running,
        "IS_ORIGIN": rank == ORIGIN,
        "SIZE": found.config.n if running and found else 1,
        "worker": rank,
        "DEBUG": bool(found and found.config.verbose > 1),
        "MAIN_MODULE": found.config.main_name if found is not None else None,
        "WORKER_NAME": b"%d" % rank,
        "BROKER_NAME": b"broker",
        "BROKER": None,  # it has no address
        "CONFIGURATION": {"headless": False, "backend": found.config.backend if found is not None else None},
        "VALID": True,
    }
    if name in POOL_ERRORS:
        return pool_error(name)
    if name not in values:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return values[name]


def shared_getattr(name: str) -> Any:
    """Give `shared.elements`: the constants that are here, by who set them, as SCOOP keeps them; a copy."""
    if name != "elements":
        raise AttributeError(f"module {shared.__name__!r} has no attribute {name!r}")
    found = runtime()
    return {found.rank: {name: found.get_constant(name, 0) for name in list(found.constants)}}


shared.__dict__["__getattr__"] = shared_getattr


def alias_scoop() -> None:
    """Let the names of SCOOP mean this module, so that programs written for it run as they are.

    In the launcher's processes only, and whether or not SCOOP is installed. Some programs look into
    ``scoop.futures.__dict__["_controller"]`` to find out whether they were launched.
    """
    futures.__dict__["_controller"] = _state["runtime"]
    sys.modules.update({"scoop": _this, "scoop.futures": futures, "scoop.shared": shared})


# ======================================================================================================================
# Executor: a pool for programs that run without the launcher             (any thread; a thread of its own does the I/O)
# ======================================================================================================================
# submit/map (any thread) -> intake -> the client's thread: carve -> BATCH -> broker, in a launcher that the
# Executor has started as a subprocess -> workers -> RESULT -> the client's thread -> concurrent.futures.Future.
# On one host, BATCH and RESULT (as NEXT) go by a straight link to each worker, past the broker: two wake-ups less for
# a task there and back. The broker still has all else: deaths, constants, nested tasks.
# Only that thread touches queue and link: a KeyboardInterrupt, which hits the main thread anywhere, breaks neither.


class LazyCondition:
    """Makes a future's condition when it is first asked for, once nobody changes the state without one."""

    def __get__(self, future: PoolFuture, _: Any) -> threading.Condition:
        attributes = future.__dict__
        made: threading.Condition = attributes.get("_made") or attributes.setdefault("_made", threading.Condition())
        while "_free" not in attributes and future._state != "FINISHED":
            time.sleep(0)
        attributes["_condition"] = made  # from here on it is found without us
        return made


class PoolFuture(concurrent.futures.Future):  # type: ignore[type-arg]
    """A `concurrent.futures.Future` that makes its condition when somebody waits: most never need it, and it is dear.

    Who changes the state pops `_free`; if there is no condition, he needs none, and who makes one meanwhile waits that
    moment. So under a condition the state stays as it is, which `concurrent.futures.wait` relies on. Nor does the first
    who waits for the result need one: he leaves a lock, to be released once it is there. Interrupted, he gives up the
    task.
    """

    client: Callable[[], Optional[Client]]
    _sleeper: Any = None  # that lock
    waiters = None  # `Parcel.settle` looks; those of this kind of future are told by `concurrent.futures`

    def __init__(self) -> None:
        self._state, self._free = "PENDING", True
        self._result = self._exception = None
        self._waiters, self._done_callbacks = [], []  # type: ignore[var-annotated]

    _condition = LazyCondition()

    def _becomes(self, state: str, result: Any = None, exception: Optional[BaseException] = None) -> bool:
        """Change the state if there is no condition, and so nobody who waits or is to be called back."""
        attributes = self.__dict__
        if not attributes.pop("_free", False):
            return False
        alone = "_made" not in attributes and self._state != state
        if alone:
            self._result, self._exception = result, exception
            self._state = state
        if state != "FINISHED" or not alone:
            self._free = True
        elif self._sleeper is not None:
            self._rouse()
        return alone

    def __reduce__(self) -> Any:
        raise TypeError("a future cannot travel to another process; pass its result")

    def set_running_or_notify_cancel(self) -> bool:
        """Do what `concurrent.futures.Future` does, as all that follows; what user code has settled does not run."""
        return self._becomes("RUNNING") or self._state != "FINISHED" and super().set_running_or_notify_cancel()

    def set_result(self, result: Any) -> None:
        if not self._becomes("FINISHED", result):
            super().set_result(result)

    def set_exception(self, exception: Optional[BaseException]) -> None:
        if not self._becomes("FINISHED", None, exception):
            super().set_exception(exception)

    def _invoke_callbacks(self) -> None:
        """Wake who sleeps, too, now that it is done; before callbacks, which may take long or raise anything.

        What they raise is logged, as by the base class. In the client's thread, that is also what would end it.
        """
        self._rouse()
        for callback in self._done_callbacks:
            try:
                callback(self)
            except BaseException as error:
                client = getattr(self, "client", lambda: None)()
                if not (isinstance(error, Exception) or client and client.thread.ident == threading.get_ident()):
                    raise
                logging.getLogger("concurrent.futures").exception("exception calling callback for %r", self)

    def _rouse(self) -> None:
        sleeper = self.__dict__.pop("_sleeper", None)  # once, as two threads may come here
        if sleeper is not None:
            sleeper.release()

    def settle(self, outcome: Any) -> None:
        """Set the outcome, as `Future.settle` does; one that user code has set itself stays as it is."""
        try:
            if type(outcome) is Failure:
                self.set_exception(pool_failure(outcome))
            elif outcome is GONE:
                self.set_exception(CancelledError())
            else:
                self.set_result(outcome)
        except InvalidStateError:
            logger.debug("%r has an outcome already, from somebody else", self)

    def done(self) -> bool:
        return self._state not in ("PENDING", "RUNNING")

    def result(self, timeout: Optional[float] = None) -> Any:
        if not self.done():
            self._wait(timeout)
        if self._state == "FINISHED" and self._exception is None:
            return self._result
        return super().result(0)

    def exception(self, timeout: Optional[float] = None) -> Optional[BaseException]:
        if not self.done():
            self._wait(timeout)
        return super().exception(0)

    def _wait(self, timeout: Optional[float]) -> None:
        """Wait until it is done, or for so long; on an interrupt, cancel the task or have it ended."""
        lock = threading.Lock()
        try:
            lock.acquire()
            if self.__dict__.setdefault("_sleeper", lock) is not lock:
                with contextlib.suppress(FutureTimeout, CancelledError):
                    super().exception(timeout)  # not `concurrent.futures.wait`, for which a cancelled one is not done
            elif not self.done():  # else nobody may have seen the lock
                lock.acquire(True, -1 if timeout is None else max(0.0, timeout))
        except KeyboardInterrupt:
            client = self.client()
            if client is not None and not self.done() and not self.cancel():
                client.call(client.give_up, self)
            raise


FUTURE_OF, ARGS_OF, CALL_OF = map(operator.itemgetter, (0, 2, slice(1, 4)))  # of what waits in an intake
#: A worker on the client's own host, which it has a straight link to: tasks and results go past the broker.
Neighbour = collections.namedtuple("Neighbour", "rank incarnation link")


class ClientScheduler(Scheduler):
    """The scheduler of a process that runs no tasks itself: it carves them straight from what other threads hand in.

    For neighbours it does the broker's work, too: who is hungry, who has what, what is lost with whom.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.runs_script = False
        self.hungry: Deque[Neighbour] = collections.deque()
        self.paths: List[str] = []  # `sys.path` when workers were told of it
        self.intake: Deque[Any] = collections.deque()  # (future, func, args, kwargs) of a submit, the block of a map
        self.n_maps_and_tasks = 0
        self.in_hand: Optional[Block] = None  # what was taken away last, while it may be neither here nor sent

    def may_give(self) -> bool:
        return bool(self.intake or any(self.levels))

    def send_again(self, block: Block, by_value: Names, reason: Dict[str, Any]) -> None:
        """Also by value if what a worker lacked is a module that is found here by what came to `sys.path` later."""
        top = reason["module"].partition(".")[0]
        if top and not importlib.machinery.PathFinder.find_spec(top, self.paths):
            reason["missing"].append(f"{reason['module']}.")
        super().send_again(block, by_value, reason)

    def block_chunk(self, block: Block, n_behind: int = 0) -> int:
        return super().block_chunk(block, n_behind + len(self.intake))

    def carve(self) -> None:
        """Give tasks to hungry neighbours; fill the broker's orders.

        First comes who was hungry first, as the last may still be at work: it asks ahead. But if nobody has anything,
        the last one's caches are warm.
        """
        while self.hungry and (self.intake or any(self.levels)):
            with self.lock:
                block = self.take_away()
            if block is None:
                return
            i, start_s, key = 0 if self.sent else -1, self.clock(), (*CLIENT, self.n_chunks)
            frames = self.load(block, 0, self.hungry[i])
            if frames is not None:
                self.n_straight += 1
                self.hungry[i].link.send(frames)
                del self.hungry[i]
                if self.recorder is not None:
                    self.recorder.carved(start_s, block, key)
        if self.ordered > self.filled:
            super().carve()
        self.in_hand = None

    def lost_with(self, rank: int, incarnation: int) -> Frames:
        """Say, as LOST does, which tasks a neighbour had that is dead."""
        return [
            LOST_REF.pack(chunk_id, first, end - first, sent.opened == first)
            for chunk_id, sent in self.sent.items() if sent.holder and sent.holder[:2] == (rank, incarnation)
            for first, end in sent.left
        ]  # fmt: skip

    def take_away(self) -> Any:
        """Take out the next chunk: what came back, or the map that is running, before what has come since."""
        item = super().take_away() if self.away or any(self.levels) else None
        while item is None and self.intake:
            if type(self.intake[0]) is Block:
                block = self.intake.popleft()
                if block.lo == 0:
                    block.job.place = place_of(0, self.n_maps_and_tasks)
                    self.n_maps_and_tasks += 1
                if not block.job.abandoned:
                    self.put(block)
                item = super().take_away()
            else:
                item = self.gather_intake()
        self.in_hand = item
        return item

    def gather_intake(self) -> Optional[Block]:
        """Take tasks that are alike in cost off the intake, as `gather` does, but for those cancelled meanwhile."""
        intake, func, mode = self.intake, self.intake[0][1], CALLS
        n = self.chunk_size(len(intake), func) if self.retries and len(intake) > 1 else 1
        items: List[Any] = []
        others: List[Any] = []
        while intake and type(intake[0]) is not Block and len(items) < n and len(others) < PASS_OVER * n:
            item = intake.popleft()
            if len(item) == 4:  # it was not passed over before, so these numbers follow the order of submission
                item = (*item, self.n_maps_and_tasks)
                self.n_maps_and_tasks += 1
            if item[1] is not func or item[3]:
                if cost_key(item[1]) != cost_key(func):
                    others.append(item)
                    continue
                mode = MIXED
            if item[0]._state == "RUNNING" or item[0].set_running_or_notify_cancel():  # user code may have done so
                items.append(item)
        intake.extendleft(reversed(others))
        if not items:
            return None
        first, last = items[0][4], items[-1][4]
        parcel = Parcel([*map(FUTURE_OF, items)], func, mode, 0, first, 0)
        columns: List[Any] = [[*map(CALL_OF if mode == MIXED else ARGS_OF, items)]]
        if last - first >= len(items):  # there are gaps between them
            columns.append([(place_of(0, item[4]), 0) for item in items])
        return Block(parcel, columns, 0, 0, len(items))

    def not_shipped(self, block: Block, error: BaseException) -> None:
        """Fail what cannot be pickled: there is no other place where it could run."""
        if block.hi - block.lo > 1:
            super().not_shipped(block, error)
            return
        root = "(function, arguments, keyword arguments)"
        problem = explain_unpicklable(block.first_call(), root, error, self.by_value)
        block.job.deliver_error(block.lo, with_cause(error, MisuseError(problem)))


class PoolMap(MapJob):
    """A map whose results go to a consumer on any thread: as (first index, outcomes), or (-1, error)."""

    def __init__(self, func: Any, iterables: Sequence[Any], window: int, chunk: Optional[int]) -> None:
        import queue

        super().__init__(func, iterables, Scope(0, 0, Level()), window, chunk)
        self.fixed = window < sys.maxsize  # else all input has been drawn at once
        self.arrived: queue.SimpleQueue[Tuple[int, Any]] = queue.SimpleQueue()

    def deliver(self, first: int, count: int, outcomes: List[Any]) -> None:
        self.arrived.put((first, outcomes))

    def fail(self, error: BaseException) -> None:
        self.arrived.put((-1, error))

    def next_run(self, deadline: Optional[float]) -> List[Any]:
        """Wait for the next run of outcomes in order."""
        import queue

        while self.done not in self.ready:
            try:
                first, outcomes = self.arrived.get(timeout=time_left(deadline))
            except queue.Empty:
                raise FutureTimeout("a result of map() was not there in time") from None
            if first < 0:
                raise outcomes
            self.ready[first] = len(outcomes), outcomes
        return self.ready.pop(self.done)[1]


class Neighbourhood(Runtime):
    """The straight links of a client: what it says to workers on its own host, and hears from them."""

    scheduler_class = ClientScheduler
    roles = (*Runtime.roles, "> client", ", client")

    def __init__(self, config: Config) -> None:
        self.scheduler: ClientScheduler
        super().__init__(config)
        self.neighbours: Dict[int, Neighbour] = {}  # by rank
        self.shared: Dict[bytes, Frames] = {}  # by name: the constants that each neighbour must have before other tasks
        self.broken: Optional[BaseException] = None
        self.stillborn = 0, 0  # results that had come, and how many workers have died in their initializer since

    def on_neighbour(self, frames: Frames) -> None:
        """Take up the straight link to a worker; a constant must be there before the tasks that use it."""
        told, fd = json.loads(bytes(frames[1])), self.link.descriptors.popleft()
        link = straight_link(socket.socket(fileno=fd))
        neighbour = self.neighbours[told["rank"]] = Neighbour(told["rank"], told["incarnation"], link)
        for constant in self.shared.values():
            link.send(message("CONST", *neighbour[:2], *constant))
        self.links[link.fileno()] = link
        self.waits.add(link)

    def share(self, constant: Frames) -> None:
        """Give a constant to all neighbours, present and future, once."""
        if self.shared.setdefault(bytes(constant[2]), constant) is constant:
            for neighbour in self.neighbours.values():
                neighbour.link.send(message("CONST", *neighbour[:2], *constant))

    def start_initializer(self, func: Callable[..., Any], args: Tuple[Any, ...]) -> None:
        """Give workers their initializer: a constant, as those come before all tasks, to later workers too."""
        try:
            first, *buffers = dumps((func, args), self.scheduler.by_value, _OwnPickler)
        except Exception as error:
            self.break_down(f"the initializer cannot be pickled: {error}")
        else:
            frames = [first, *map(bytes, buffers)]  # as they are now, also for workers that come later
            self.share(self.send_constant(INITIALIZER, frames, PoolFuture()))

    def break_down(self, why: str) -> None:
        """Have the pool end at once, broken."""
        self.broken = self.broken or broken_pool(why)

    def on_const(self, frames: Frames) -> None:
        """Before whoever set a constant goes on, neighbours must have it: tasks may reach them sooner than our echo."""
        self.share(frames[1:])
        super().on_const(frames)

    def on_next(self, frames: Frames) -> None:
        """Take in a neighbour's results; it is hungry."""
        _, rank, incarnation = HEADER.unpack(frames[0])
        neighbour = self.neighbours.get(rank)
        if neighbour is not None and neighbour.incarnation == incarnation and not neighbour.link.closed:
            self.scheduler.hungry.append(neighbour)
        self.scheduler.on_result([*frames[:2], *frames[3:]])

    def on_opened(self, frames: Frames) -> None:
        """Note that a suspected task has begun at a neighbour."""
        chunk_id, first, _ = REF.unpack(frames[2])
        if chunk_id in self.scheduler.sent:
            self.scheduler.sent[chunk_id].opened = first

    def on_lost(self, frames: Frames) -> None:
        """Take back what a dead worker had, once all has been taken in that it had sent straight."""
        death = json.loads(bytes(frames[1]))
        neighbour = self.neighbours.get(death["rank"])
        if neighbour is not None and neighbour.incarnation == death["incarnation"]:
            del self.neighbours[death["rank"]]
            self.receive()
            with self.lock:
                if neighbour.link in self.links.values():
                    self.drop(neighbour.link)
            self.inbox.append(frames)
            return
        lost = self.scheduler.lost_with(death["rank"], death["incarnation"])
        innocent = lost or frames[2:] or death["retired"] or death["asked"] or death.get("cut_off") or not death["pid"]
        if self.config.initializes and not innocent:
            self.count_stillborn(death)
        if not death.get("retired"):
            self.scheduler.n_rerun += sum(LOST_REF.unpack(ref)[2] for ref in lost)
        with self.lock:
            self.scheduler.on_lost([*frames, *lost])

    def count_stillborn(self, death: Dict[str, Any]) -> None:
        """Break the pool when worker after worker dies before it has asked for a task, and none returns any."""
        n_returned, n = self.stillborn
        self.stillborn = self.scheduler.n_returned, n + 1 if n_returned == self.scheduler.n_returned else 1
        if self.stillborn[1] > self.config.retries:
            last = "worker {rank} on {host} (pid {pid}) {how}".format(**death)
            self.break_down(f"{plural(self.stillborn[1], 'worker')} in a row died in the initializer; {last}")

    def drop(self, link: StreamLink) -> None:
        super().drop(link)
        hungry = self.scheduler.hungry
        self.scheduler.hungry = collections.deque(neighbour for neighbour in hungry if neighbour.link is not link)


class Client(Neighbourhood):
    """An Executor's link to its pool: rank 0, as the origin, but of capacity 0.

    Any thread appends to `intake` and `later` and wakes the client's thread, to which all else belongs.
    """

    def __init__(self, owner: Executor, options: Sequence[str], n: Optional[int], max_tasks: int) -> None:
        program = program_facts()
        sys.modules["__mp_main__"] = sys.modules["__main__"]  # as workers name what they import of it
        program["initializes"] = initializes = owner._initializer is not None
        config = Config(
            n=n or usable_cpus(), strands="thread", max_tasks=max_tasks, capacity=0, initializes=initializes
        )
        if "--quiet" not in options:
            tell_copies("runs the whole program, with an Executor's workers of its own")
        words = [*compiled_command(), *(("-n", str(n)) if n else ()), *options, "--serve"]
        sock = self.start_launcher(words, program)
        super().__init__(config)
        self.connect(config, ORIGIN, 1, StreamLink(sock, passes_descriptors=CAN_FORK))
        if program["kind"] == "prompt":
            self.scheduler.by_value = ALL_NAMES
        self.scheduler.paths = program["paths"]
        del self.urgent[CODES["POOL"]], self.urgent[CODES["LOST"]]  # they come behind results, in the order of sending
        self.intake = self.scheduler.intake
        self.asleep = self.closing = self.ended = self.given_up = False
        self.asked: Optional[PoolFuture] = None  # a `rest` of all workers
        self.totals: List[int] = []
        self.me = weakref.ref(self)
        self.owner: Callable[[], Optional[Executor]] = weakref.ref(owner, lambda _: self.close())
        self.link.send(hello(ORIGIN, 1))
        self.thread = threading.Thread(target=self.serve, name="scoop_lite executor", daemon=True)
        _state["clients"].add(self)
        try:
            self.thread.start()
        except RuntimeError as error:
            _state["clients"].discard(self)
            self.link.close()
            self.process.wait()
            raise broken_pool(f"{error} for a pool; see `ulimit -u` and `ulimit -v`") from error

    def start_launcher(self, words: List[str], program: Dict[str, Any]) -> socket.socket:
        """Start our launcher, and tell it what it needs to know, not in its arguments, which everybody can see."""
        ours, theirs = socket.socketpair()
        selector, door, came = selectors.DefaultSelector(), None, [ours]
        with theirs, selector:
            if "loopback" in words or not CAN_FORK:
                door = Door(selector, lambda rank, incarnation, sock: came.append(sock))
                program["door"] = door.invite(ORIGIN, 1)
            fds, told = [] if door else [theirs.fileno()], json.dumps(program).encode()
            words, environment = [*words, str(fds[0] if fds else 0)], {**os.environ, AS_PYTHON: "1"}
            try:
                self.process = subprocess.Popen(words, stdin=subprocess.PIPE, pass_fds=fds, env=environment,
                                                start_new_session=True, creationflags=NEW_GROUP)  # fmt: skip
            except OSError as error:
                ours.close()
                raise broken_pool(f"its launcher cannot be started: {error.strerror}; see `ulimit -a`") from error
            assert self.process.stdin is not None
            with self.process.stdin as stdin:
                stdin.write(told)
            while door and len(came) == 1 and self.process.poll() is None:  # if it ends before, our end tells that
                for key, _ in selector.select(0.1):
                    key.data()
                door.sweep()
            if door:
                door.close()
        return came[-1]

    # -- any thread ----------------------------------------------------------------------------------------------------

    def enqueue(self, item: Any) -> None:
        """Queue a task or a piece of a map: an item of the scheduler's intake."""
        self.intake.append(item)
        if self.asleep or self.ended:
            self.alert()

    def call(self, func: Callable[..., None], *args: Any) -> None:
        """Have the client's thread call a function soon."""
        self.later.append(functools.partial(func, *args))
        self.alert()

    def ask(self, func: Callable[..., Any], *args: Any) -> PoolFuture:
        """Have the client's thread call a function that sends a question; return the future of the answer."""
        answer = PoolFuture()
        answer.client = self.me
        self.call(func, *args, answer)
        return answer

    def alert(self) -> None:
        """Have the client's thread look at what was handed in; if it has ended, fail that here."""
        self.asleep = False
        if self.ended:
            self.fail_all()
        else:
            self.wake()

    def close(self) -> None:
        """End when nothing is left to do. Weak references and exit functions call this."""
        self.closing = True
        self.wake()

    # -- the client's thread -------------------------------------------------------------------------------------------

    def serve(self) -> None:
        """Serve the pool until it is closed and idle, or broken."""
        try:
            while not (self.broken or self.closing and not self.is_busy() and self.all_rest()):
                if self.inbox or self.later or self.unseen:
                    self.dispatch()
                self.scheduler.carve()
                # Without an order, there is nothing to do for what threads may hand in now: they need not wake us.
                timeout = self.tell_idle(TELL_S if self.is_busy() else None) if self.recorder is not None else None
                self.asleep = may_carve = bool(self.scheduler.hungry) or self.scheduler.ordered > self.scheduler.filled
                busy = self.intake and may_carve or self.inbox or self.later or self.closing and not self.is_busy()
                woken = None
                if not (busy or self.broken):  # broken: nobody may be left to wake us
                    woken = self.wait_link(timeout)
                if woken is None or woken:
                    self.receive(woken)
                self.asleep = False
        except BaseException as error:
            for link in self.links.values():  # first: to say so may take a descriptor
                with contextlib.suppress(OSError):  # somebody has closed it, which may be why we are here
                    link.close()
            self.broken = broken_pool(f"the pool's client failed: {error!r}")
            self.broken.__cause__ = error
        self.end()

    def is_busy(self, own: bool = False) -> bool:
        """Return True while tasks are under way, or wait and are still wanted, or questions are not answered."""
        return bool(self.intake or self.later or self.verdicts) or self.scheduler.is_busy(own)

    def all_rest(self) -> bool:
        """Once all is done here, ask the workers whether tasks have left any behind; return True when none has."""
        if self.given_up or not self.scheduler.others_create:
            return True
        error = self.asked.exception() if self.asked is not None else None
        if self.asked is not None and error is None:
            self.totals.append(sum(self.asked.result().values()))
        if error is not None and not isinstance(error, WorkerLost):
            logger.warning("workers cannot be asked whether tasks have left others behind: %s", error)
            return True
        if not is_to_be_asked_again(self.totals):
            return True
        self.asked = PoolFuture()
        self.scheduler.run_on_all(Everywhere(rest, (), self.scheduler.by_value), self.asked)
        return False

    def give_up(self, future: Optional[PoolFuture] = None) -> None:
        """End a task of `submit` that has been sent, or everything, whether it runs or waits, be it here again."""
        if future is None:
            self.given_up = True
            self.cancel_all(keep=0)
            if self.asked is not None:  # what is left was made by tasks: only with their workers does it end
                self.break_down("an interrupt ended the wait for what tasks have left behind")
        scheduler = self.scheduler
        sent = [sent.block for sent in scheduler.sent.values()]
        for job in {block.job for block in (*sent, *itertools.chain(*scheduler.levels))}:
            first, end = 0, sys.maxsize
            if future is not None:
                if type(job) is not Parcel or future not in job.futures:
                    continue
                first = job.futures.index(future)
                end = first + 1
            with self.lock:
                back = scheduler.withdraw({job}.__contains__, first, end)
            for a, b in back:
                job.deliver(a, b - a, [GONE] * (b - a))
            scheduler.recall("ABORT", job, first, end)

    def cancel_all(self, keep: Optional[int] = None) -> None:
        """Cancel all that waits here but the first `keep`: by default as many as are on their way to new workers."""
        if keep is None:
            keep = 0 if self.scheduler.n_carved else self.config.n
        tasks = itertools.takewhile(lambda item: type(item) is tuple, snapshot(self.intake))
        kept = [self.intake.popleft() for _ in itertools.islice(tasks, keep)]
        for item in self.take_waiting():
            if type(item) is tuple:
                if item[0].cancel():
                    item[0].set_running_or_notify_cancel()
            elif type(item.job) is PoolMap:
                item.job.fail(CancelledError())
                self.abandon(item.job)
        self.intake.extend(kept)

    def take_waiting(self) -> List[Any]:
        """Return what waits in the queue and in the intake, which is empty then."""
        return [*itertools.chain(*self.scheduler.levels), *taken(self.intake)]

    def on_welcome(self, frames: Frames) -> None:
        """Learn from the launcher what its options, which it alone has read, say of our tasks, and who watches them."""
        super().on_welcome(frames)
        told = json.loads(bytes(frames[1]))
        known = {name: value for name, value in told.items() if name in Config.__annotations__}
        self.config = self.teller.config = self.config.replace(n=told["size"], **known)
        self.scheduler.retries, self.teller.tell_s = self.config.retries, now()
        if self.config.is_followed or self.config.trace:
            self.recorder = self.scheduler.recorder = self.teller

    def on_pool(self, frames: Frames) -> None:
        """Break the pool when no worker is left to run its tasks."""
        self.scheduler.on_pool(frames)
        if not self.scheduler.live:
            self.break_down("all workers of the pool have died, and no more are started")

    def on_broken(self, frames: Frames) -> None:
        why = json.loads(bytes(frames[1]))["why"]
        logging.getLogger("concurrent.futures").critical("%s", why)  # as CPython's executors say that
        self.break_down(why)

    def on_stop(self, frames: Frames) -> None:
        """Break the pool: the launcher has gone before it was asked to."""
        how = f" ({self.link.closed or 'it was stopped'})"
        with contextlib.suppress(subprocess.TimeoutExpired):
            how = f" with status {self.process.wait(2)}; what it said is on standard error"
        self.break_down("the pool's launcher has ended" + how)

    def fail_all(self) -> None:
        """Fail what is not done and never will be."""
        error = self.broken or broken_pool("the pool is closed")
        for call in taken(self.later):  # first: it may be a map's next block, or a question
            call()
        under_way = self.scheduler.in_hand, *[sent.block for sent in self.scheduler.sent.values()]
        for item in filter(None, (*self.take_waiting(), *under_way)):
            if type(item) is tuple:
                item[0].settle(Failure(error))
            else:
                item.job.fail(error)
        for _, answer in list(self.verdicts.values()):
            answer.settle(Failure(error))

    def end(self) -> None:
        """Fail what is not done, close the link, wait for the pool's processes."""
        self.closing = self.ended = True
        if self.broken is not None or self.later or self.intake:  # a thread may have asked for something just now
            self.fail_all()
        self.teller.tell(final=True)
        self.emit(message("BYE", ORIGIN, 1, facts(code="0")))
        self.link.drain(1.0)
        for link in self.links.values():
            link.close()
        self.process.wait()
        self.bell.close()
        self.waits.close()
        self.waits_for_pump.close()
        _state["clients"].discard(self)
        # These refer back to us; without them all goes at once, with the last reference.
        self.handlers, self.urgent, self.owner = {}, {}, lambda: None
        del self.teller
        self.scheduler.emit = lambda _: None
        self.scheduler.later = lambda _: None


@functools.lru_cache(maxsize=None)
def pool_error(name: str) -> Any:
    """Return the class of an error of a pool, made at its first use: what it inherits from takes long to import."""
    base, doc = POOL_ERRORS[name]
    broken: Any = concurrent.futures.BrokenExecutor
    with contextlib.suppress(RuntimeError):  # at the interpreter's exit, the import may fail
        from concurrent.futures.process import BrokenProcessPool as broken
    bases = (base,) if issubclass(base, broken) else (base, broken)
    return type(name, bases, {"__doc__": doc, "__module__": __name__})


POOL_ERRORS = {
    "PoolTaskBroken": (ScoopError, "A task or its result could not be unpickled; the pool goes on."),
    "PoolBroken": (ScoopError, "An Executor's pool cannot go on: its launcher, its workers or its initializer failed."),
    "PoolWorkerLost": (WorkerLost, "WorkerLost, as a future of an Executor raises it; the pool goes on."),
}


def broken_pool(text: str) -> Any:
    """Make the exception of a pool that is broken, as `concurrent.futures` names it."""
    return pool_error("PoolBroken")(text)


def pool_failure(failure: Failure) -> BaseException:
    """Return a failure's exception as an Executor's future raises it."""
    error = failure.look()
    names: Dict[Any, str] = {ScoopError: "PoolTaskBroken", WorkerLost: "PoolWorkerLost"}
    if type(error) not in names:
        return error
    broken: BaseException = pool_error(names[type(error)])(*error.args)
    broken.__cause__ = error.__cause__
    return broken


def end_pools() -> None:
    """At the interpreter's exit: finish what was submitted, end all pools."""
    _state["exiting"] = True
    clients = list(_state["clients"])
    interrupted = getattr(sys, "last_type", None) is KeyboardInterrupt and not hasattr(sys, "ps1")
    for client in clients:
        if interrupted:  # the program has ended by that, so nobody will see what its tasks return
            client.call(client.give_up)
        client.close()
    for client in clients:
        join_client(client)


def join_client(client: Client) -> None:
    """Wait for the end of a pool; an interrupt meanwhile ends it at once."""
    try:
        client.thread.join()
    except KeyboardInterrupt:
        client.call(client.break_down, "an interrupt ended the wait for its last tasks")
        raise


MAKING = threading.RLock()  # held while a pool is made: nobody forks meanwhile, as his child would hold its links open


def set_up_pools() -> None:
    """Before the first pool: see to the ends and the forks of this process."""
    if "clients" in _state:
        return
    at_exit(end_pools)  # before daemon threads are frozen
    _state["clients"], _state["exiting"] = set(), False
    if CAN_FORK:
        os.register_at_fork(before=MAKING.acquire, after_in_parent=MAKING.release, after_in_child=forget_pools)


def forget_pools() -> None:
    """In a forked child: let go of the parent's pools, whose threads are not here; an Executor makes a new one."""
    MAKING.release()
    for client in list(_state["clients"]):
        for link in client.links.values():
            link.close()
        executor = client.owner()
        if executor is not None:
            executor._lock, executor._client = threading.RLock(), None
    _state["clients"].clear()


class Executor(concurrent.futures.Executor):
    """A pool of processes, here and on other hosts: `concurrent.futures.Executor` to the letter, for any program.

    Tasks may use `futures` and `shared` to any depth. A task that kills its worker raises a BrokenProcessPool of its
    own, after --retries attempts elsewhere; the pool goes on.

    Args:
        max_workers: processes; by default as many as hosts, or a batch job, give; else the CPUs that we may really use.
        hosts: names of hosts to run workers on, as for the launcher.
        initializer, initargs: called first in each worker. max_tasks_per_child: a worker is replaced after so many.
        options: the launcher's other options, as keywords: ``retries=2``, ``seed=1``, ``dead_after=5``, ``quiet=True``…

    Raises:
        ValueError, TypeError: an argument that cannot be, or an option that the launcher has not. A value that the
            launcher refuses breaks the pool: the first use raises that, the reason is on standard error.

    Example:
        >>> with scoop_lite.Executor(4) as pool:
        ...     print(sum(pool.map(abs, range(-3, 3))))
        9
    """

    def __init__(
        self,
        max_workers: Optional[int] = None,
        *,
        hosts: Optional[Sequence[str]] = None,
        initializer: Optional[Callable[..., Any]] = None,
        initargs: Tuple[Any, ...] = (),
        max_tasks_per_child: Optional[int] = None,
        **options: Any,
    ) -> None:
        refuse_green_threads()
        for name, n, least in (("max_workers", max_workers, "greater than 0"),
                               ("max_tasks_per_child", max_tasks_per_child, ">= 1")):  # fmt: skip
            if not isinstance(n or 1, int):
                raise TypeError(f"{name} must be an integer")
            if n is not None and n <= 0:
                raise ValueError(f"{name} must be {least}")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        self._n, self._max_workers = max_workers and int(max_workers), int(max_workers or usable_cpus())
        self._initializer, self._initargs, self._max_tasks = initializer, initargs, max_tasks_per_child or 0
        self._options = option_words(hosts=hosts, max_tasks_per_child=max_tasks_per_child, **options)
        self._lock, self._shutdown = threading.RLock(), False  # a signal's handler may submit, too
        self._client: Optional[Client] = None
        if getattr(_state["importing"] or _state["runtime"], "rank", ORIGIN) == ORIGIN:
            self._start()  # else only when it is used: what a worker imports may just make one

    def _start(self) -> Client:
        """Start the pool: at once but in a worker, and again in a forked child that uses it (lock held)."""
        if _state["importing"]:
            raise MisuseError(
                "an Executor was used while a worker imports the program: put what starts the work under "
                "`if __name__ == '__main__':`, as every worker imports the program to find its functions"
            )
        with MAKING:
            set_up_pools()
            self._client = Client(self, self._options, self._n, self._max_tasks)
        if self._initializer is not None:
            self._client.call(self._client.start_initializer, self._initializer, self._initargs)
        return self._client

    def _ready(self) -> Client:
        """Return the client, if tasks can be submitted (lock held)."""
        if self._shutdown or _state.get("exiting"):
            raise RuntimeError(f"cannot schedule new futures after {'' if self._shutdown else 'interpreter '}shutdown")
        refuse_green_threads()
        client = self._client or self._start()
        if client.broken is not None:
            raise broken_pool(f"the pool is broken: {client.broken}")
        return client

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[Any]:
        """Have ``fn(*args, **kwargs)`` called by a worker.

        Args:
            fn, args, kwargs: see `futures.submit`. Any thread may call this, and set callbacks on what it returns.

        Returns:
            A `concurrent.futures.Future`. What cannot be pickled, or was lost with its worker, raises there.

        Raises:
            RuntimeError: the executor was shut down. BrokenProcessPool: its pool cannot go on.

        Example:
            >>> with scoop_lite.Executor(2) as pool:
            ...     pool.submit(pow, 2, 10).result()
            1024
        """
        future = PoolFuture()
        with self._lock:
            client = self._ready()
            future.client = client.me
            client.enqueue((future, fn, args, kwargs))
        return future

    def map(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: Optional[float] = None,
        chunksize: Optional[int] = None,
        buffersize: Optional[int] = None,
    ) -> Iterator[Any]:
        """Return an iterator over the results of calling `fn` with the items of the iterables, in order.

        Args:
            fn, iterables: see `futures.map`.
            timeout: seconds from now. chunksize: tasks that travel together; by default chosen by measurement.
            buffersize: items drawn ahead of the results taken; by default all are drawn before this returns.

        Returns:
            An iterator; dropping it cancels what has not started.

        Raises:
            concurrent.futures.TimeoutError from the iterator; whatever a task or an input raises, at its place.

        Example:
            >>> with scoop_lite.Executor(2) as pool:
            ...     list(pool.map(pow, [1, 2, 3], [2, 2, 2]))
            [1, 4, 9]
        """
        deadline = None if timeout is None else now() + timeout
        chunksize = chunksize and operator.index(chunksize)
        if chunksize is not None and chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if buffersize is not None and not isinstance(buffersize, int):
            raise TypeError("buffersize must be an integer or None")
        if buffersize is not None and buffersize < 1:
            raise ValueError("buffersize must be None or > 0")
        job = PoolMap(fn, iterables or ((),), buffersize or sys.maxsize, None if chunksize == 1 else chunksize)
        with self._lock:
            client = self._ready()
        try:
            for block in job.draw():
                with self._lock:
                    self._ready().enqueue(block)
            if job.input_error is not None and buffersize is None:
                raise job.input_error
        except BaseException:
            client.call(client.abandon, job, giving_up())
            raise
        return MapResults.over(pool_results(client, job, deadline))

    def run_on_all(self, func: Callable[..., Any], /, *args: Any) -> Dict[int, Any]:
        """Call a function once on each worker; wait for all.

        Args:
            func, args: see `futures.submit`.

        Returns:
            The results by worker; workers of a pool are numbered from 1.

        Raises:
            BrokenProcessPool: one died meanwhile, or the pool cannot go on. Else what the function raised.

        Example:
            >>> with scoop_lite.Executor(2) as pool:
            ...     pool.run_on_all(len, "abc")
            {1: 3, 2: 3}
        """
        with self._lock:
            client = self._ready()
        job = Everywhere(func, args, client.scheduler.by_value)
        by_worker: Dict[int, Any] = client.ask(client.scheduler.run_on_all, job).result()
        return by_worker

    def set_const(self, **constants: Any) -> None:
        """Give the tasks constants; return when every task submitted from now on will see them.

        Args:
            constants: see `shared.setConst`; tasks read them with `shared.getConst`.

        Raises:
            TypeError: a name is set already. BrokenProcessPool: the pool cannot go on. Else what pickling raises.

        Example:
            >>> with scoop_lite.Executor(2) as pool:
            ...     pool.set_const(limit=10)
            ...     pool.submit(scoop_lite.shared.getConst, "limit").result()
            10
        """
        with self._lock:
            client = self._ready()
        for name in client.shared.keys() & set(map(str.encode, constants)):  # then none is set
            raise set_already(name.decode())
        packed = {name: dumps(value, client.scheduler.by_value, _OwnPickler) for name, value in constants.items()}
        for answer in [client.ask(client.send_constant, name, frames) for name, frames in packed.items()]:
            answer.result()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let the pool end when its tasks are done.

        Args:
            wait: until it has ended. cancel_futures: cancel what no worker has got yet.

        Example:
            >>> pool = scoop_lite.Executor(2)
            >>> task = pool.submit(abs, -3)
            >>> pool.shutdown()
            >>> task.done()
            True
        """
        with self._lock:
            self._shutdown, client = True, self._client
        if client is None:
            return
        if cancel_futures:
            client.call(client.cancel_all)
        client.close()
        if wait:
            join_client(client)

    def kill_workers(self) -> None:
        """End the pool now: futures of tasks that run raise BrokenProcessPool, others are cancelled. Return at once.

        Workers have half a second to leave by themselves. `terminate_workers` does the same.

        Example:
            >>> pool = scoop_lite.Executor(2)
            >>> task = pool.submit(time.sleep, 3600)
            >>> pool.kill_workers()
            >>> concurrent.futures.wait([task]).done == {task}
            True
        """
        self.shutdown(wait=False, cancel_futures=True)
        if self._client is not None:
            self._client.call(self._client.break_down, "its workers were to be killed")

    terminate_workers = kill_workers

    def __exit__(self, kind: Any, *_: Any) -> None:
        """Wait for all tasks; after a KeyboardInterrupt, give up all of them first."""
        client = self._client
        if kind is not None and issubclass(kind, KeyboardInterrupt) and client is not None:
            client.call(client.give_up)
        self.shutdown()

    @property
    def _broken(self) -> Union[bool, str]:
        """Say why no more tasks can be submitted, or False; as CPython's executors do."""
        client = self._client
        return str(client.broken) if client is not None and client.broken is not None else False

    def __reduce__(self) -> Any:
        raise TypeError("an Executor cannot travel; its tasks submit others with scoop_lite.futures")


def pool_results(client: Client, job: PoolMap, deadline: Optional[float]) -> Iterator[Iterable[Any]]:
    """Yield a map's results in runs that let go of each as it is taken; drop what has not started at the end."""
    try:
        while job.length is None or job.done < job.length:
            outcomes = job.next_run(deadline)
            all_well = not job.fixed and not (job.failed and Failure in set(map(type, outcomes)))
            if all_well and len(outcomes) > 256:  # so many at once are not big
                job.done += len(outcomes)
                yield outcomes
                continue
            outcomes.reverse()
            n = len(outcomes) if all_well else 1
            while outcomes:
                job.done += n
                for block in job.draw():
                    client.call(client.scheduler.put, block)
                if type(outcomes[-1]) is Failure:
                    raise pool_failure(outcomes.pop())
                yield map(list.pop, itertools.repeat(outcomes, n))
        if job.input_error is not None:
            raise job.input_error
    finally:
        if not client.ended and (job.length is None or job.done < job.length):
            client.call(client.abandon, job, giving_up())


# ======================================================================================================================
# Worker process: the user's script, as the origin's __main__ and as every worker's import               (each worker)
# ======================================================================================================================


class Config:
    """What the command line decided; made once, passed down, never changed. Plain values only: it travels as JSON."""

    n: int = 1  # workers, the origin included
    kind: str = "script"  # of program: script, archive (or directory), module, code, stdin, prompt
    program: str = ""
    args: Tuple[str, ...] = ()
    backend: str = "own"
    strands: str = "auto"
    retries: int = 2
    check: bool = False  # local tasks go through pickle too
    restarts: int = 100
    seed: int = 0
    heartbeat_s: float = 1.0
    dead_after_s: float = 5.0
    join_timeout_s: float = 10.0
    verbose: int = 0
    nice: int = 0
    pythonpath: str = ""
    env: str = ""  # names of variables that go to other hosts, with commas between them
    prolog: str = ""
    python: str = ""
    profile: str = ""
    hash_seed: str = ""  # of all interpreters that we start, so that texts have the same `hash` everywhere
    threads: int = 0
    cpu_share: int = 0  # CPUs that a scheduler has granted for each worker; 0: it does not say
    capacity: int = 1  # tasks it runs at once: 0 in an Executor's client
    near: bool = False  # this worker is on the launcher's host
    hosts: Tuple[Tuple[str, Optional[int]], ...] = ()  # the plan; none: this host alone
    launcher: str = ""  # template of the command that reaches a host
    min_hosts: int = 0  # hosts that suffice; 0: all
    ship: bool = False  # modules below `root` come from the launcher's host
    safe_path: bool = False  # as with `python -P`: modules come neither from `root` nor from the current directory
    directory: str = ""  # where the launcher was started
    address: str = ""  # of this machine, for --backend zmq
    root: str = ""  # directory of the user's modules, on the launcher's host
    init: str = ""
    max_tasks: int = 0
    interactive: bool = False
    serve: int = -1  # descriptor of the link to an Executor's client, if it is one that we work for
    initializes: bool = False  # that client gives workers an initializer
    paths: Tuple[str, ...] = ()  # `sys.path` of that client
    authkey: str = ""  # of its multiprocessing (hex), so that tasks can use its managers
    progress: str = ""  # "line" on a terminal, "plain" lines
    wiretap: bool = False
    trace: str = ""  # files
    log: str = ""

    def __init__(self, **values: Any) -> None:
        unknown = values.keys() - Config.__annotations__.keys()
        if unknown:
            raise TypeError(f"a Config has no {', '.join(sorted(unknown))}")
        vars(self).update(values)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{name} = {value!r}: a Config is never changed, use `replace`")

    def replace(self, **values: Any) -> Config:
        """Return a copy with other values."""
        return Config(**{**vars(self), **values})

    @property
    def main_name(self) -> str:
        """The name of the program, as SCOOP's MAIN_MODULE gives it."""
        return os.path.basename(self.program) if self.kind in ("script", "archive") else self.program

    @property
    def script(self) -> str:
        """The path of a script, not normalized, as python does it."""
        return os.path.join(self.directory, self.program)

    @property
    def is_straight(self) -> bool:
        """True if an Executor's client and all workers are on one host, and linked by inherited descriptors."""
        return self.serve >= 0 and self.backend == "own" and all(is_here(name) for name, _ in self.hosts)

    @property
    def is_followed(self) -> bool:
        """True if workers tell their numbers as they go: for progress, or for the summary, if one is killed."""
        return bool(self.progress) or self.verbose > 0


def program_facts() -> Dict[str, Any]:
    """Tell workers what to import to find what this process's `__main__` defines, if that can be imported at all."""
    main, found = sys.modules["__main__"], _state["runtime"]
    path, spec = vars(main).get("__file__"), getattr(vars(main).get("__spec__"), "name", None)
    kind, program = "prompt", ""
    if found is not None and found.link is not None:
        kind, program = found.config.kind, found.config.program
    elif path and not hasattr(sys, "ps1"):
        if spec not in (None, "__main__"):
            kind, program = "module", spec
        elif spec is None and os.path.isfile(path):
            kind, program = "script", os.path.abspath(path)
    authkey = ""
    if "multiprocessing.process" in sys.modules:
        import multiprocessing.process  # else another thread's import of it may not have ended

        authkey = multiprocessing.process.current_process().authkey.hex()
    paths = [os.fsdecode(path) or directory_here() for path in sys.path if isinstance(path, (str, bytes))]  # as Python
    return {"kind": kind, "program": program, "args": [*map(str, sys.argv[1:])], "paths": paths, "authkey": authkey}


def directory_here() -> str:
    """Return the current directory, "" if it has been removed."""
    with contextlib.suppress(FileNotFoundError):
        return os.getcwd()
    return ""


class MainModule(types.ModuleType):
    """Stands for `__main__` in a worker; imports the script, with another `__name__`, at the first look-up in it."""

    def __init__(self, config: Config) -> None:
        super().__init__("__mp_main__")
        self.__dict__["scoop_lite_config"] = config

    def __repr__(self) -> str:
        return f"<module '__main__' from {vars(self).get('__file__')!r}>"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__") or not import_script(self):
            raise AttributeError(f"{self!r} has no attribute {name!r}")
        return getattr(self, name)


def import_script(main: types.ModuleType) -> bool:
    """In a worker, import the script if nothing of it was needed yet; return True if that was done now."""
    config = vars(main).pop("scoop_lite_config", None)
    if config is None:
        return False
    found = _state["runtime"]
    _state.update(runtime=None, importing=found)
    try:
        run_program(config, main)
    except BaseException as error:
        vars(main)["scoop_lite_config"] = config  # the next look-up tries again, and fails as clearly
        where = f"worker {found.rank} on {socket.gethostname()}"
        raise ImportError(f"{where} cannot import {config.program}: {type(error).__name__}: {error}") from error
    finally:
        _state.update(runtime=found, importing=None)
    found.note_context()
    return True


@functools.lru_cache(maxsize=1)
def compile_script(loader: Any, path: str) -> types.CodeType:
    """Read and compile the script, once in an agent and the workers that it forks."""
    source = importlib.util.decode_source(loader("__main__", path).get_data(path))  # else no error in comments is found
    code: types.CodeType = compile(source, path, "exec", dont_inherit=True)  # else our `from __future__` would hold
    return code


#: Kinds of programs that no worker can import, so that all of them travels by value; and what tracebacks call them.
NAMELESS = {"code": "<string>", "prompt": "<string>", "stdin": "<stdin>"}


def run_program(config: Config, module: types.ModuleType) -> None:
    """Run the user's program in a module, as `python` would."""
    namespace = module.__dict__
    namespace.setdefault("__builtins__", __builtins__)
    if config.kind in NAMELESS:
        namespace["__loader__"] = importlib.machinery.BuiltinImporter
        code = compile(config.program, NAMELESS[config.kind], "exec", dont_inherit=True)
        if config.kind == "stdin":
            namespace["__file__"] = "<stdin>"  # as there
    elif config.kind in ("module", "archive"):
        import runpy

        tool: Any = runpy  # as `python directory` and `python -m` use it
        try:
            named = config.kind == "module"
            _, spec, code = tool._get_module_details(config.program) if named else tool._get_main_module_details()
        except ImportError as error:
            sys.exit(f"{sys.executable}: {error}")
        if module.__name__ != "__main__":
            if spec.name.rpartition(".")[2] == "__main__" and "__name__" not in code.co_names:
                return  # it has no guard, and would do all that it does again: what it defines comes by value
        elif named:
            sys.argv[0] = spec.origin
        namespace.update(__file__=spec.origin, __spec__=spec, __loader__=spec.loader, __package__=spec.parent)
    else:
        path = config.script
        found = ShippedLoader if "shipper" in _state else importlib.machinery.SourceFileLoader
        namespace.update(__file__=path, __loader__=found(module.__name__, path), __cached__=None)
        try:
            code = compile_script(found, path)
        except (OSError, SyntaxError, ValueError) as error:
            if found is ShippedLoader or module.__name__ != "__main__":
                raise
            if isinstance(error, OSError):  # with --no-ship: the launcher's host has it
                sys.exit(f"scoop_lite: {socket.gethostname()} cannot read {path}: {error.strerror}")
            sys.exit(subprocess.call([*own_python(), path, *config.args]))  # Python has words of its own for some
    exec(code, namespace)


def set_up_imports(config: Config, found: Runtime) -> None:
    """Set `sys.argv` and `sys.path` as `python` would for this program; have imports find what is ours."""
    named = {"module": "-m", "code": "-c", "stdin": "-", "prompt": ""}
    sys.argv = [named.get(config.kind, config.program), *config.args]
    if config.authkey:
        import multiprocessing.process

        multiprocessing.process.current_process().authkey = bytes.fromhex(config.authkey)
    if os.path.dirname(os.__file__) in config.paths:  # else that client has another Python
        sys.path[:] = config.paths
    else:
        safe = getattr(sys.flags, "safe_path", sys.flags.isolated)  # -P, -I: then our own directory is not there either
        own = not safe and (_run_as_script or __spec__ is not None)  # nor where BOOTSTRAP has made this module
        bare = (safe or config.safe_path) and config.kind != "archive"
        sys.path[:own] = [] if bare else ["" if config.kind in NAMELESS else config.root]
    sys.path[1:1] = [p for p in config.pythonpath.split(os.pathsep) if p]
    if _this.__spec__ is None:  # run as a script: without one, `importlib.util.find_spec("scoop_lite")` fails
        _this.__spec__ = importlib.machinery.ModuleSpec("scoop_lite", None, origin=__file__)
    if config.serve < 0:
        alias_scoop()
    if config.ship:
        _state["shipper"] = shipper = Shipper(config.root, found.fetch)
        sys.meta_path.insert(sys.meta_path.index(importlib.machinery.PathFinder), shipper)


class Shipper:
    """Import hook of workers on other hosts: modules below `root`, where the script is, come from the launcher's host.

    What lies at the same path here is used if it has the same content. All else is found here, as ever; also below
    `root`, as that stays on `sys.path`: on shared disks, compiled modules come from there.
    """

    def __init__(self, root: str, fetch: Callable[..., Tuple[Dict[str, Any], bytes]]) -> None:
        self.root, self.fetch = root, fetch
        self.names: Optional[Set[str]] = None  # top-level names in `root`
        self.contents: Dict[str, bytes] = {}

    def find_spec(self, name: str, path: Optional[Sequence[str]] = None, target: Any = None) -> Any:
        """Find a module below `root`; None leaves it to the finders of this host."""
        if self.names is None:
            self.names = set()  # what is imported in order to ask is found here
            self.names = {entry.partition(".")[0] for entry in self.look([self.root]).get("names", ())}
        tail = name.rpartition(".")[2]
        inside = self.root.rstrip(os.sep) + os.sep  # it may be "/"
        base = self.root if path is None else next((p for p in path if p.startswith(inside)), None)
        if base is None or (path is None and tail not in self.names):
            return None
        place = os.path.join(base, tail)
        found = self.look([os.path.join(place, "__init__.py"), place + ".py", place])["path"]
        if found is None:
            return None
        if found != place:
            return importlib.util.spec_from_file_location(name, found, loader=ShippedLoader(name, found))
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)  # any package wins over a mere directory
        if spec is None:
            spec = importlib.machinery.ModuleSpec(name, None, is_package=True)
            spec.submodule_search_locations = [place]
        return spec

    def look(self, paths: Sequence[str]) -> Dict[str, Any]:
        """Return what the launcher says of the first of these paths that it has, and keep its content."""
        local = {path: read_if_there(path) for path in paths if os.path.isfile(path)}  # a FIFO would be waited for
        have = {path: sha256(data) for path, data in local.items() if data is not None}
        found, content = self.fetch(paths, have)
        if found.get("file"):
            self.contents[found["path"]] = local[found["path"]] if found["same"] else content  # type: ignore[assignment]
        return found

    def get(self, path: str) -> bytes:
        """Return the content of a file below `root`, or else of one here."""
        if path not in self.contents and not self.look([path]).get("file"):
            with open(path, "rb") as file:
                return file.read()
        return self.contents[path]


class ShippedLoader(importlib.machinery.SourceFileLoader):
    """Loads what a Shipper found: source for the import system and for tracebacks, files for pkgutil.get_data."""

    def path_stats(self, path: str) -> Any:
        """Keep the import system from looking for a .pyc file."""
        raise OSError("no compiled file stands for what came through the link")

    def get_data(self, path: str) -> bytes:
        """Return the content of a file, and have tracebacks show its lines."""
        import linecache

        data: bytes = _state["shipper"].get(path)
        if path.endswith(".py"):
            lines = data.decode(errors="replace").splitlines(keepends=True)
            linecache.cache[path] = len(data), None, lines, path
        return data


def sha256(data: bytes) -> str:
    """Return the SHA-256 of some bytes, in hexadecimal."""
    import hashlib  # where it is used: it would take every start 3 ms

    return hashlib.sha256(data).hexdigest()


def read_if_there(path: str) -> Optional[bytes]:
    """Return the content of a file, None if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return None


def run_script(config: Config, found: Runtime) -> Any:
    """Run the script as `__main__`; return what to pass to `sys.exit`. The origin's role."""
    module = types.ModuleType("__main__")
    module.__dict__.update(__annotations__={}, __builtins__=__builtins__)
    sys.modules["__main__"] = sys.modules["__mp_main__"] = module
    code: Any = 0
    try:
        call_init(config, found)
        try:
            run_program(config, module)
        except Exception as error:
            if not config.interactive:
                raise
            show_exception(error)  # and look around, as with `python -i`
        if config.interactive:
            prompt(module)
    except BaseException as error:
        code = status_of(error, found)
    if os.getpid() != found.pid:
        sys.exit(code)  # a child that the script has forked; what follows is the origin's
    try:
        found.finish(code is None or code == 0)
    except BaseException as error:
        code = status_of(error, found)
        found.finish(False)
    for function in found.at_leave:
        function()
    return code


def status_of(error: BaseException, found: Runtime) -> Any:
    """Return what to pass to `sys.exit` after an exception that nobody has caught, which is shown."""
    if isinstance(error, SystemExit):
        if not error.code and isinstance(error.__cause__, RemoteTraceback):
            return "scoop_lite: a task called sys.exit(0); as nobody caught that, this is no success"
        return error.code
    name_host(error, found.config)
    show_exception(error)
    return 128 + found.signal if isinstance(error, KeyboardInterrupt) else 1


def name_host(error: BaseException, config: Config) -> None:
    """Have the error about a module that this host lacks, and others may have, say which host that is."""
    there = " there (nor beside the script)"
    if isinstance(error, ModuleNotFoundError) and config.ship and not str(error.msg).endswith(there):
        error.msg = f"{error.msg} on {socket.gethostname()}, for {sys.executable}{there}"
        error.args = (error.msg,)


def show_exception(error: BaseException) -> None:
    """Print an uncaught exception as `python` does: without the frames of this module, by the script's excepthook."""
    tb = error.__traceback__
    while tb is not None and tb.tb_frame.f_globals is globals():
        tb = tb.tb_next
    error = error.with_traceback(tb)
    flush_output()
    show: Any = sys.excepthook
    if "shipper" in _state and show is sys.__excepthook__:
        show = traceback.print_exception  # which knows the source of what is not on this disk
    try:
        show(type(error), error, tb)
    except Exception:
        traceback.print_exc()  # of the hook, and of `error`, which it was to show


def prepare(config: Config) -> Optional[Runtime]:
    """Do before an agent's first fork what each worker would do: they share its memory until they change it.

    What fails here does so again in a worker, which says why.
    """
    boot_id()  # which is remembered
    if config.kind == "script" and not config.ship and os.path.isfile(config.script):
        with contextlib.suppress(Exception):
            compile_script(importlib.machinery.SourceFileLoader, config.script)
    with contextlib.suppress(MisuseError):  # no greenlets, though they are wanted
        return new_runtime(config)
    return None


def new_runtime(config: Config) -> Runtime:
    """Make the runtime of a worker, which sends what is logged here to the launcher."""
    found = Runtime(config)
    LogHandler(
        config, lambda *about: found.teller.log(*about), lambda: found.link is not None and os.getpid() == found.pid
    )
    return found


def work(
    found: Optional[Runtime], config: Config, rank: int, incarnation: int, invitation: Optional[List[str]],
    pipes: Sequence[Tuple[int, int]], sock: socket.socket, straight: Optional[socket.socket] = None,
) -> Any:  # fmt: skip
    """Be a worker: the role of every process that an agent starts.

    `sock` leads to the broker, maybe by its agent, and `straight` to an Executor's client; `invitation` is for ZmqLink,
    `pipes` for what it prints.
    """
    pipe = StreamLink(sock)
    try:
        if pipes:
            redirect_output(pipes)
        found = found or new_runtime(config)
        lower_priority(config)
        link = (join_zmq(invitation, rank, incarnation) if invitation else None) or pipe
        found.connect(config, rank, incarnation, link, straight_link(straight) if straight else None)
        found.pipe = pipe
        begin(found, config)
    except Exception as error:
        if is_lack(error):  # which others need not have
            raise
        text = str(error) if isinstance(error, MisuseError) else traceback_text(error)
        pipe.send(message("BROKEN", rank, incarnation, facts(why=f"it cannot begin: {text}")))
        pipe.finish()
        os._exit(1)
    if link is pipe:
        link.send(hello(rank, incarnation))
    if rank == ORIGIN:
        return be_origin(found, config)
    sys.modules["__main__"] = sys.modules["__mp_main__"] = MainModule(config)
    call_init(config, found)
    found.scheduler.interrupt = found.interrupt_task
    signal.signal(DOOM, found.heed_doom)
    found.schedule()
    return 0


def begin(found: Runtime, config: Config) -> None:
    """Make this process what a worker is to user code."""
    alone = found.rank == ORIGIN and config.n == 1 and not config.hosts  # then its output is buffered as Python's own
    for stream in (sys.stdout, sys.stderr):  # others write to the same file: a full buffer would end in mid-line
        if hasattr(stream, "reconfigure") and not alone:  # the user's own may be anything, or None
            stream.reconfigure(line_buffering=True)
    if CAN_FORK:
        os.register_at_fork(after_in_child=disown)
    _state["runtime"] = found
    if config.kind in NAMELESS:
        found.scheduler.by_value = ALL_NAMES
    set_up_imports(config, found)
    if config.profile:
        start_profile(config, found)
    gc.freeze()


def be_origin(found: Runtime, config: Config) -> Any:
    """Run the script, and leave the pool; return what to pass to `sys.exit`."""
    link: Any = found.link
    pipe: Any = found.pipe
    found.catch_signals()
    atexit.register(flush_files)  # the last exit function to be called
    code = run_script(config, found)
    found.teller.tell(final=True)
    found.settle(2.0)
    found.detach()
    found.scheduler.packed, found.last_func = (None, b""), None  # of the script, which then ends as without us
    if link is not pipe:
        link.drain()
    pipe.send(message("BYE", ORIGIN, found.incarnation, facts(code=str(code))))  # by the way that DIED will come
    pipe.finish()
    pipe.sock.detach()  # closed by the kernel, behind our atexit functions: from then on DIED is due, see `late_s`
    return code


def call_init(config: Config, found: Runtime) -> None:
    """Call the function that --init names."""
    if config.init:
        module, _, name = config.init.partition(":")
        found.initialize(lambda: (getattr(importlib.import_module(module), name), ()))


def prompt(module: types.ModuleType) -> None:
    """Read and run what the user types (-i), while the pool stands by."""
    import code

    with contextlib.suppress(ImportError):
        import readline  # line editing, where there is a terminal
        import rlcompleter

        readline.set_completer(rlcompleter.Completer(module.__dict__).complete)
        readline.parse_and_bind("tab: complete")
    pool = f"scoop_lite {__version__} with {plural(_state['runtime'].config.n, 'worker')}"
    banner = f"Python {sys.version.split()[0]}, {pool}; futures and shared are there"
    module.__dict__.update(futures=futures, shared=shared)
    code.interact(banner, local=module.__dict__, exitmsg="")


#: Of functions that call user code or wait, so that an interrupt loses nothing there.
INTERRUPTIBLE = {None} | {  # None: exit functions
    function.__code__
    for function in (run_calls, call_with, Runner.run_future, MapJob.draw, absorb, Runtime.initialize, Waits.wait,
                     run_program, prompt, *vars(futures).values(), *vars(shared).values())
    if isinstance(function, types.FunctionType)
}  # fmt: skip


def is_lack(error: Exception) -> bool:
    """Return True if memory, descriptors or processes have run out, of which there may be enough a moment later."""
    lacks = errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM
    return isinstance(error, MemoryError) or getattr(error, "errno", None) in lacks


def straight_link(sock: socket.socket) -> StreamLink:
    """Make a link between a client and its neighbour: nobody relays there, so frames go whole."""
    link = StreamLink(sock)
    link.codec.max_frame, link.codec.spares = sys.maxsize, True
    return link


def hello(rank: int, incarnation: int) -> Frames:
    """Build the first message of a worker."""
    return message("HELLO", rank, incarnation, facts(pid=os.getpid(), clock=now()))


def join_zmq(invitation: List[str], rank: int, incarnation: int) -> Optional[ZmqLink]:
    """Connect to the broker's ROUTER; None if pyzmq is missing here or the broker does not answer within 2 s."""
    try:
        link = ZmqLink(*invitation)
    except ImportError:
        return None
    link.send(hello(rank, incarnation))
    if link.socket.poll(2000):
        return link
    link.socket.close(linger=0)
    return None


def lower_priority(config: Config) -> None:
    """Apply --nice."""
    if config.nice and hasattr(os, "nice"):
        try:
            os.nice(config.nice)
        except (OSError, OverflowError) as error:
            raise MisuseError(f"--nice {config.nice}: {error}") from error


def share_cpus(config: Config) -> None:
    """Apply --threads-per-worker: to the libraries of workers, which get our environment."""
    for name in THREAD_VARIABLES:
        os.environ.setdefault(name, str(config.threads))  # the user's setting wins


def user_environment(names: str = "") -> Dict[str, str]:
    """Return what the user has set, here, of the variables that we set, and of --env."""
    wanted = *THREAD_VARIABLES, HASH_SEED, *names.split(",")
    return {name: os.environ[name] for name in wanted if name in os.environ}


def adopt_environment(told: Dict[str, str], names: str = "") -> None:
    """In an interpreter that we have started: set what the user has set; the seed of hashes has done its work."""
    os.environ.pop(HASH_SEED, None)
    for name, value in told.items():
        if name not in THREAD_VARIABLES or name not in os.environ or name in names.split(","):  # else this host's holds
            os.environ[name] = value


def disown() -> None:
    """In a child that user code forks: it is no worker, and must not touch our link. It ends with the code around."""
    found, _state["runtime"] = _state["runtime"], None
    if found is not None:
        found.left[-1] = found.current, None  # has the end of its task call `rejoin`


def end_child(error: Optional[BaseException]) -> None:
    """End a child that a task has forked, as its code returns to us: as an interpreter that has run it would end."""
    code: Any = error.code if isinstance(error, SystemExit) else 1 if error else 0
    if error is not None and not isinstance(error, SystemExit):
        show_exception(error)
    elif code is not None and not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    atexit._run_exitfuncs()
    flush_files()
    flush_output()
    os._exit((code or 0) & 0xFF)


def end_worker(code: Any) -> None:
    """End as `sys.exit` does; with PYTHONINSPECT, that would show a traceback, and leave us at a prompt."""
    if sys.flags.inspect and os.environ.get("PYTHONINSPECT"):  # not with `python -i`
        threading._shutdown()  # type: ignore[attr-defined]  # waits for the script's threads
        end_child(SystemExit(code))
    sys.exit(code)


def start_profile(config: Config, found: Runtime) -> None:
    """Profile this worker with cProfile into ``DIR/worker-0.prof``, one that replaces it into ``worker-0-2.prof``."""
    import cProfile
    import pstats

    profiles: List[Any] = []

    def begin(*event: Any) -> None:
        profiles.append(cProfile.Profile())
        profiles[-1].enable()

    def dump() -> None:
        total: Any = pstats.Stats()
        for profile in profiles:
            profile.create_stats()
            if profile.stats:  # else it is refused
                total.add(profile)
        again = f"-{found.incarnation}" if found.incarnation > 1 else ""
        path = os.path.join(config.profile, f"worker-{found.rank}{again}.prof")
        try:
            os.makedirs(config.profile, exist_ok=True)  # on another host it need not be there yet
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            with open(path, "xb") as file:  # not through a link, by which others would have us write elsewhere
                marshal.dump(total.stats, file)
        except OSError as error:
            text = f"scoop_lite: {socket.gethostname()} cannot write {path}: {error.strerror}"
            if found.rank == ORIGIN:
                sys.exit(text)
            print(text, file=sys.stderr)

    found.at_leave.append(dump)
    if sys.version_info < (3, 12):  # then each thread, as strands may be, needs one of its own
        threading.setprofile(begin)
    begin()


THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS",
                    "VECLIB_MAXIMUM_THREADS", "BLIS_NUM_THREADS")  # fmt: skip
HASH_SEED = "PYTHONHASHSEED"


def usable_cpus() -> int:
    """Return the CPUs that this process may really use: affinity and cgroup quota, not the machine's number."""
    n = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    groups = os.fsdecode(read_if_there("/proc/self/cgroup") or b"").splitlines()
    quotas = [quota for group in groups for quota in cgroup_quotas(*group.split(":", 2)[1:])]
    return max(1, min([n, *map(math.ceil, quotas)]))


def cgroup_quotas(controllers: str, path: str) -> Iterator[float]:
    """Yield the CPU quotas (in CPUs) of a cgroup and its ancestors, versions 1 and 2."""
    names = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if controllers else ("cpu.max",)
    parts = path.strip("/").split("/")
    for depth in range(len(parts) + 1):
        place = os.path.join("/sys/fs/cgroup", controllers, *parts[:depth])
        words = b" ".join(read_if_there(os.path.join(place, name)) or b"" for name in names).split()
        if len(words) == 2 and words[0].isdigit():  # not "max", nor -1
            yield int(words[0]) / int(words[1])


# ======================================================================================================================
# Agent: starts, watches and connects the workers of one host                       (one single-threaded process a host)
# ======================================================================================================================


class Child:
    """A worker as its agent sees it."""

    def __init__(self, rank: int, incarnation: int, pid: int, lifeline: int, link: Optional[StreamLink]) -> None:
        self.rank, self.incarnation, self.pid, self.lifeline, self.link = rank, incarnation, pid, lifeline, link
        self.key = OWNER.pack(rank, incarnation)  # as its messages have it behind their kind, and a Door knows it
        self.outputs: Dict[int, Tuple[int, bytearray]] = {}  # pipe -> (1 or 2, the beginning of a line)
        self.process: Any = None  # if it is an interpreter of its own

    def close(self) -> None:
        """Let go of all that leads to it."""
        for fd in (self.lifeline, *self.outputs):
            os.close(fd)
        if self.link is not None:
            self.link.close()

    def kill(self) -> None:
        self.process.kill() if self.process else os.kill(self.pid, signal.SIGKILL)

    def message(self, kind: str, **more: Any) -> Frames:
        """Build a message about it."""
        return message(kind, AGENT, 0, facts(rank=self.rank, incarnation=self.incarnation, pid=self.pid, **more))


def not_started(rank: int, incarnation: int, error: OSError, fds: Iterable[int]) -> Frames:
    """Close the descriptors made for a worker that could not be started; build the message that says so."""
    for fd in fds:
        os.close(fd)
    how = f"could not be started: {error.strerror}; see `ulimit -a`"
    return message("DIED", AGENT, 0, facts(rank=rank, incarnation=incarnation, pid=0, code=1, how=how))


class Relay:
    """Passes on what workers say, and what they print while the user's terminal keeps up."""

    def __init__(self, link: StreamLink) -> None:
        self.link = link
        self.selector = selectors.DefaultSelector()
        self.printed = self.written = 0  # bytes of workers' output sent, and said to have reached the user
        self.paused: Dict[int, Child] = {}  # pipes that are not read while the user's terminal is behind
        self.children: Dict[Tuple[int, int], Child] = {}
        self.ending: Dict[Child, float] = {}  # workers without a link, and when they are ended

    def read_worker(self, child: Child) -> None:
        """Relay a worker's messages to the broker, untouched; one that speaks for another is ended."""

        def pass_on(frames: Frames) -> None:
            if frames[0][1:] != child.key:
                raise PeerError("it speaks for another")
            self.link.queue(frames)

        assert child.link is not None
        wrong = child.link.take(pass_on)
        if wrong:
            print(f"scoop_lite: worker {child.rank} broke the protocol: {wrong}", file=sys.stderr, flush=True)
            child.link.codec.messages.clear()
        if wrong or child.link.closed:
            child.link.unwatch(self.selector)
            self.ending.setdefault(child, now() + (0.0 if wrong else STOP_GRACE_S))

    def end_workers(self) -> None:
        """End workers that live on without a link."""
        for child in [child for child, end_s in self.ending.items() if now() >= end_s]:
            del self.ending[child]
            if (child.rank, child.incarnation) in self.children:  # else it has ended, and its number may be another's
                child.kill()

    def read_output(self, child: Child, fd: int, dead: bool = False) -> bool:
        """Pass on whole lines that a worker printed, and the rest at its end; False when there is no more."""
        stream, begun = child.outputs[fd]
        try:
            data = os.read(fd, 65536)
        except BlockingIOError:
            if not dead:
                return False
            data = b""  # a process that the worker started still holds the pipe
        begun += data
        whole_lines = data and child.rank != ORIGIN and len(begun) < 1 << 20
        end = begun.rfind(b"\n") + 1 if whole_lines else len(begun)
        if end:
            self.printed += end
            head = facts(rank=child.rank, stream=stream)
            self.link.queue(message("OUTPUT", AGENT, 0, head, bytes(begun[:end])))
            del begun[:end]
        if not data or self.printed - self.written > OUTPUT_WINDOW:
            with contextlib.suppress(KeyError):  # it was paused already
                self.selector.unregister(fd)
            self.paused[fd] = child
        if not data:
            del self.paused[fd], child.outputs[fd]
            os.close(fd)
        return bool(data)

    def on_written(self, frames: Frames) -> None:
        """Go on reading output once the user's terminal has caught up."""
        (self.written,) = COUNT.unpack(frames[1])
        if self.printed - self.written < OUTPUT_WINDOW // 2:
            paused, self.paused = self.paused, {}
            for fd, child in paused.items():
                self.selector.register(fd, selectors.EVENT_READ, functools.partial(self.read_output, child, fd))


class Agent(Relay):
    """Forks workers, obeys the broker, passes on what they say and print, and reports their deaths.

    With `local`, the origin inherits our standard input, output and error, which are the user's.
    """

    def __init__(self, link: StreamLink, config: Config, local: bool) -> None:
        super().__init__(link)
        self.config, self.local = config.replace(near=local), local
        self.direct = local and config.backend == "own"  # workers' links are handed to the broker, not relayed
        self.oom_kills = count_oom_kills()
        self.signals: Set[int] = set()  # that came to us, and so to all: from a terminal, or from a scheduler
        self.old_handlers: Dict[int, Any] = {}  # signal handlers that our workers shall have
        self.bell = Bell()
        self.handlers = handlers_of((self,), "> agent", ", agent")
        self.stop_s, self.interrupted_s = math.inf, 0.0  # when to kill who has not left
        self.prepared: Optional[Runtime] = None  # what workers begin with
        self.held = bytearray()  # by number: 1 for a descriptor that workers to come have to close

    def reap(self) -> None:
        """Report workers that have ended, with all they had printed."""
        with contextlib.suppress(ChildProcessError):  # there are none
            for pid, status in iter(lambda: os.waitpid(-1, os.WNOHANG), (0, 0)):
                child = next((child for child in self.children.values() if child.pid == pid), None)
                if child is not None:  # else it is an orphan that the system handed to us
                    self.bury(child, os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status))

    def bury(self, child: Child, code: int) -> None:
        """Report a worker that has ended, after all that it had printed and sent; end what its tasks had started."""
        del self.children[child.rank, child.incarnation]
        if (child.rank != ORIGIN or code and not self.local) and hasattr(os, "killpg"):  # else it is the user's
            with contextlib.suppress(ProcessLookupError, PermissionError):  # there is nothing
                os.killpg(child.pid, signal.SIGKILL)
        for fd in list(child.outputs):
            while self.read_output(child, fd, dead=True):
                pass
        if child.link is not None:
            self.read_worker(child)
            child.link.unwatch(self.selector)
        child.close()
        self.link.send(child.message("DIED", code=code, how=self.explain(code)))

    def explain(self, code: int) -> str:
        """Say in words how a process ended, given its exit status (negative: the signal)."""
        if code >= 0:
            return f"exited with status {code if code < 256 else hex(code)}"
        text = "was killed by " + {number.value: number.name for number in signal.Signals}.get(-code, f"signal {-code}")
        if code == -9:  # SIGKILL, a name that Windows does not have
            before, self.oom_kills = self.oom_kills, count_oom_kills()
            why = "somebody with kill -9, or memory ran out" + ", or CPU time, see `ulimit -t`" * has_cpu_limit()
            why = "out of memory, by the kernel's count" if self.oom_kills > before else why
            text += f" ({f'by its agent: {self.link.closed} from the launcher' if self.link.silent else why})"
        return text

    def run(self) -> None:
        """Serve until the job is over or the link ends; return when all workers are gone."""
        if threading.current_thread() is threading.main_thread():  # else (`LoopbackAgent`) they are the launcher's
            self.catch_signals()
        self.selector.register(self.bell, selectors.EVENT_READ, self.bell.clear)
        self.selector.register(self.link.fileno(), selectors.EVENT_READ, functools.partial(self.link.take, self.obey))
        while self.children or self.stop_s == math.inf:
            for key, _ in self.selector.select(self.timeout()):
                key.data()
            self.reap()
            self.end_workers()
            if not self.local:  # then only a heartbeat tells that the other end is gone
                self.link.beat(now(), self.config.heartbeat_s, self.config.dead_after_s)
            if self.link.closed or now() >= self.stop_s:
                for child in self.children.values():
                    child.kill()
                self.stop_s = now() + 1
            self.flush()
        self.link.drain()

    def catch_signals(self) -> None:
        """Note signals and ring, so that they are acted on between two messages."""
        for number in (*END_SIGNALS, *NOTICES, signal.SIGCHLD):
            self.old_handlers.setdefault(number, signal.signal(number, self.on_signal))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGCHLD, DOOM))  # which who started us may have blocked
        signal.set_wakeup_fd(self.bell.writer.fileno(), warn_on_full_buffer=False)

    def timeout(self) -> float:
        """Return how long a round may wait for something to happen."""
        due_s = min(self.stop_s, *self.ending.values()) if self.ending else self.stop_s
        return max(0.0, min(due_s - now(), IDLE_S if self.local else self.config.heartbeat_s))

    def flush(self) -> None:
        """Write what this round has queued, and wait for writability where it does not go at once.

        While the launcher is behind, workers are not read, so that they feel it; the launcher always is.
        """
        held = not self.link.watch(self.selector) and self.link.backlog() > BACKLOG
        for child in self.children.values():
            if child.link is not None:
                child.link.held = held
                child.link.watch(self.selector)

    def on_signal(self, number: int, frame: Any) -> None:
        """Note a signal (see `catch_signals`); those that end the agent of another host start its grace."""
        self.signals.add(number)
        if not self.local and number in END_SIGNALS and number != signal.SIGINT:  # a scheduler ends its job
            self.stop_s = min(self.stop_s, now() + 3)

    def obey(self, frames: Frames) -> None:
        """Obey the broker, or pass its message on to the worker that it is for."""
        code, rank, incarnation = HEADER.unpack(frames[0])
        child = self.children.get((rank, incarnation))
        if rank == AGENT:
            self.handlers[code](frames)
        elif child is not None and child.link is not None:
            child.link.send(frames)

    def on_start(self, frames: Frames) -> None:
        """Start workers, each with its share of the CPUs for libraries that make threads."""
        order = read_facts(frames[1], workers=list, size=int, invitations=dict)
        share = min(usable_cpus() // len(order["workers"]), self.config.cpu_share or MAX_HOSTS)
        threads = self.config.threads or max(1, share)
        self.config = self.config.replace(n=order["size"], threads=threads)
        self.start_workers(order)

    def start_workers(self, order: Dict[str, Any]) -> None:
        """Fork workers, in batches: of the memory that we write to between two forks, each gets a copy."""
        share_cpus(self.config)
        self.held = bytearray()
        for child in self.children.values():
            self.hold((child.lifeline, *child.outputs))
        n, workers = 0, order["workers"]
        while n < len(workers):
            batch = workers[n : n + max(1, min(n, FORK_BATCH))]
            started = [self.start_worker(rank, incarnation, order) for rank, incarnation in batch]
            for child, fds in filter(None, started):
                self.introduce(child, fds)
            n += len(batch)

    def hold(self, fds: Iterable[int]) -> None:
        """Note descriptors that workers to come have to close.

        They do that by ranges, not by what they belong to, as that would copy memory: 3 ms for the last of a thousand.
        """
        for fd in fds:
            self.held.extend(bytes(max(0, fd + 1 - len(self.held))))
            self.held[fd] = 1

    def start_worker(self, rank: int, incarnation: int, order: Dict[str, Any]) -> Optional[Tuple[Child, List[int]]]:
        """Fork one worker; return what `introduce` needs, if that went well. In the child, this does not return."""
        self.prepared = self.prepared or prepare(self.config)
        flush_output()
        ends: List[Tuple[int, int]] = []
        try:
            links = [socket.socketpair() for _ in range(1 + self.config.is_straight)]  # our end and the worker's, each
            for _ in range(1 if rank == ORIGIN and self.local else 3):
                ends.append(os.pipe())
            pid = fork_deaf() if rank == ORIGIN else os.fork()  # a signal to our group is not meant for others
        except OSError as error:
            self.link.send(not_started(rank, incarnation, error, itertools.chain(*ends)))
            return None
        (life_out, life_in), *pipes = ends
        if pid == 0:
            os.close(life_in)
            for ours, _ in links:
                ours.close()
            self.forget(rank)
            tie_life(life_out)
            invitation = order["invitations"].get(str(rank))
            end_worker(work(self.prepared, self.config, rank, incarnation, invitation, pipes, *(e for _, e in links)))
        self.signals = set() if rank == ORIGIN else self.signals  # of what came during the fork, it knows nothing
        child = Child(rank, incarnation, pid, life_in, None)
        child.outputs = {r: (stream, bytearray()) for stream, (r, _) in enumerate(pipes, 1)}
        fds = [ours.detach() for ours, _ in links]
        for fd in (life_out, *(w for _, w in pipes), *(theirs.detach() for _, theirs in links)):
            os.close(fd)
        self.hold((life_in, *child.outputs, *fds))
        return child, fds

    def introduce(self, child: Child, fds: List[int]) -> None:
        """Take care of a forked worker, and tell the broker of it; descriptors are of our ends of its links."""
        self.children[child.rank, child.incarnation] = child
        for fd in child.outputs:
            os.set_blocking(fd, False)
            self.selector.register(fd, selectors.EVENT_READ, functools.partial(self.read_output, child, fd))
        for fd in fds:
            self.held[fd] = 0  # it is closed now, or in each worker to come with the link that it belongs to
        if self.direct:
            self.link.send_with_descriptors(child.message("STARTED"), *fds)
            for fd in fds:
                os.close(fd)
        else:
            child.link = StreamLink(socket.socket(fileno=fds[0]))
            self.link.send(child.message("STARTED"))
            self.selector.register(fds[0], selectors.EVENT_READ, functools.partial(self.read_worker, child))

    def forget(self, rank: int) -> None:
        """In a forked child: close all that is the agent's, and take back its signal handlers."""
        if rank != ORIGIN or not self.local:
            leave_terminal()  # first
        if rank != ORIGIN:  # NOTICES pass: to ignore them would be inherited by the programs that tasks start
            let_pass = dict.fromkeys(NOTICES, lambda number, frame: None)
            self.old_handlers.update({signal.SIGINT: signal.default_int_handler, **let_pass})
        signal.set_wakeup_fd(-1)
        for number, handler in self.old_handlers.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, END_SIGNALS)  # see `fork_deaf`
        if rank == ORIGIN or not hasattr(self.selector, "fileno"):  # `select` and `poll` have no descriptor
            self.selector.close()  # properly: at the origin's end its deletion would close what has its number then
        else:
            self.hold((self.selector.fileno(),))
        self.bell.close()
        self.link.close()
        held, end = bytes(self.held) + b"\0", 0
        while (first := held.find(1, end)) >= 0:  # no regular expression: to compile one would copy memory, too
            end = held.find(0, first)
            os.closerange(first, end)
        for child in () if self.direct else self.children.values():
            child.link.close()  # type: ignore[union-attr]

    def on_kill(self, frames: Frames) -> None:
        order = read_facts(frames[1], rank=int, incarnation=int)
        child = self.children.get((order["rank"], order["incarnation"]))
        if child is not None:
            child.kill()

    def on_interrupt(self, frames: Frames) -> None:
        """Signal the origin as the launcher was, unless all of the job's processes here were: then it knows."""
        number = read_facts(frames[1], signal=int)["signal"]
        if number not in self.signals and now() > self.interrupted_s + TWICE_S:  # else one of many in a row
            time.sleep(TWICE_S / 2)  # `timeout` signals the launcher first, then its group
        self.interrupted_s = now()
        for child in [child for child in self.children.values() if child.rank == ORIGIN and number not in self.signals]:
            interrupt(child.pid, number, whole_group=not self.local and number not in NOTICES)
        self.signals.discard(number)  # the next one counts again

    def on_suspend(self, frames: Frames) -> None:
        """Wait for the launcher as long as its end of the link is open; with its next byte, judging begins anew."""
        self.link.last_heard_s = math.inf

    def on_stop(self, frames: Frames) -> None:
        """Give workers a moment to end by themselves; `run` kills what is left."""
        self.stop_s = now() + STOP_GRACE_S


class LoopbackAgent(Agent):
    """An agent as a thread of the launcher, where processes cannot fork and descriptors cannot be passed.

    A worker is a fresh interpreter with a pipe from us, through which come its orders and its key; at the pipe's end it
    ends too. It prints where the launcher does. Its link comes in by our door, and we pass it on to the launcher.
    """

    def __init__(self, link: StreamLink, config: Config, passed: Deque[int]) -> None:
        super().__init__(link, config, local=True)
        self.passed = passed
        self.door = Door(self.selector, self.admit)

    def run(self) -> None:
        try:
            super().run()
        finally:
            self.door.close()
            self.link.close()

    def timeout(self) -> float:
        return min(super().timeout(), 0.5 if self.door.callers else IDLE_S)

    def start_workers(self, order: Dict[str, Any]) -> None:
        for rank, incarnation in order["workers"]:
            self.start_interpreter(rank, incarnation)

    def start_interpreter(self, rank: int, incarnation: int) -> None:
        """Start a fresh interpreter, and tell it through a pipe, which is also its lifeline, what to be."""
        self.door.make_room()
        life_out, life_in = os.pipe()
        number, how = inheritance(life_out)
        python, *words = compiled_command()
        if rank != ORIGIN:
            how.update(stdin=subprocess.DEVNULL, start_new_session=True, creationflags=NEW_GROUP)
        environment = {**os.environ, HASH_SEED: self.config.hash_seed}
        command = [self.config.python or python, *words, WORKER, str(number)]
        try:
            process = subprocess.Popen(command, env=environment, **how)
        except OSError as error:
            self.link.send(not_started(rank, incarnation, error, (life_out, life_in)))
            return
        os.close(life_out)
        child = self.children[rank, incarnation] = Child(rank, incarnation, process.pid, life_in, None)
        child.process = process
        door = self.door.invite(rank, incarnation)
        orders = facts(config=vars(self.config), door=door, environment=user_environment()) + b"\n"
        threading.Thread(target=self.attend, args=(child, orders), daemon=True).start()

    def attend(self, child: Child, orders: bytes) -> None:
        """Tell a worker its orders, and wait for its end: a thread each, which works on every platform."""
        with contextlib.suppress(OSError):  # it has ended, as we are going to see
            with open(child.lifeline, "wb", closefd=False) as pipe:
                pipe.write(orders)
        child.process.wait()
        self.bell.ring()

    def admit(self, rank: int, incarnation: int, sock: socket.socket) -> None:
        """Pass on the link of a worker that has proved its key."""
        self.passed.append(sock.detach())
        self.link.queue(self.children[rank, incarnation].message("STARTED"))

    def reap(self) -> None:
        """Bury the processes whose end their threads have seen; nobody may knock for them any more."""
        self.door.sweep()
        for child in [child for child in self.children.values() if child.process.returncode is not None]:
            self.door.keys.pop(child.key, None)
            self.bury(child, child.process.returncode)

    def on_stop(self, frames: Frames) -> None:
        super().on_stop(frames)
        for child in self.children.values():
            if child.key in self.door.keys:
                child.kill()  # it still starts, and will not hear of the end

    def on_interrupt(self, frames: Frames) -> None:
        """Tell the origin of a signal; it knows whether it got that one itself, as all do that share a terminal."""
        order = read_facts(frames[1], signal=int)
        for child in self.children.values():
            if child.rank == ORIGIN:
                with contextlib.suppress(OSError):  # it has ended, as we are going to see
                    os.write(child.lifeline, bytes([order["signal"]]))


WORKER = "--serve_worker"  # with the number of a pipe behind it: this command is a worker of `LoopbackAgent`


def inheritance(fd: int) -> Tuple[int, Dict[str, Any]]:
    """Return the number by which a child will know a pipe of ours, and the keywords for Popen that bring it there."""
    if os.name == "nt":
        import msvcrt

        handle = msvcrt.get_osfhandle(fd)  # type: ignore[attr-defined]
        os.set_handle_inheritable(handle, True)  # type: ignore[attr-defined]
        info = subprocess.STARTUPINFO(lpAttributeList={"handle_list": [handle]})  # type: ignore[attr-defined]
        return handle, {"startupinfo": info, "stdin": 0, "stdout": 1, "stderr": 2}  # else no others would be inherited
    return fd, {"pass_fds": [fd]}


def serve_worker(number: int) -> None:
    """Be a worker that `LoopbackAgent` started, at the other end of the pipe of this number. Does not return."""
    if os.name == "nt":
        import msvcrt

        number = msvcrt.open_osfhandle(number, os.O_RDONLY)  # type: ignore[attr-defined]
    life = open(number, "rb", 0)
    order = json.loads(life.readline())
    config, door = Config(**order["config"]), order["door"]
    adopt_environment(order["environment"])
    threading.Thread(target=obey, args=(life,), name="scoop_lite lifeline", daemon=True).start()
    share_cpus(config)
    end_worker(work(None, config, door["rank"], door["incarnation"], None, (), knock(**door)))


def obey(life: Any) -> None:
    """Raise the signals that our agent tells of, unless they have reached us too; end this process with its agent."""
    for (number,) in iter(lambda: life.read(1), b""):
        if _state["runtime"] is None:
            os._exit(128 + number)  # no script has begun
        if number not in _state["runtime"].signals:
            signal_self(number if number in NOTICES or callable(signal.getsignal(number)) else signal.SIGINT)
    os._exit(1)


#: They ask a job to end.
END_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
#: They mean what the script makes of them. Schedulers announce a job's end by them, often to each of its processes.
NOTICES = [getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name)]
OUTPUT_WINDOW = 4 << 20  # bytes of workers' output that may wait for the user's terminal
BACKLOG = 4 << 20  # bytes that may wait for a slow link before those who would send more have to wait
FORK_BATCH = 16  # workers forked before any of them is taken care of: less copies more memory, more has these wait
IDLE_S = 3600.0  # that an agent may wait for something to happen: of less, an idle pool uses CPU
STOP_GRACE_S = 0.5  # for workers to leave by themselves at the end of a job
END_S = 30.0  # of silence after it, until a host is cut off: of a process that waits for a dead disk, nobody is rid
SIGNAL_S = 4.0  # the same after a signal; and for a script to end after SIGTERM or SIGHUP, as more would come to 5 s


def leave_terminal() -> None:
    """Have the terminal's Ctrl-C not reach this process, nor this process ask there: it would be stopped.

    Not by a session of its own: for those the kernel shares out CPUs, and any terminal that is opened becomes theirs.
    """
    os.setpgid(0, 0)
    with contextlib.suppress(OSError):  # there is none
        terminal = os.open("/dev/tty", os.O_RDWR)
        fcntl.ioctl(terminal, termios.TIOCNOTTY)
        os.close(terminal)


def fork_deaf() -> int:
    """Fork with END_SIGNALS blocked until the child has handlers and unblocks them: it would lose what came earlier."""
    signal.pthread_sigmask(signal.SIG_BLOCK, END_SIGNALS)
    pid = -1
    try:
        pid = os.fork()
    finally:
        if pid != 0:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, END_SIGNALS)
    return pid


def interrupt(pid: int, number: int, whole_group: bool) -> None:
    """Signal an origin, and what it has started where no terminal does that; it alone if it leads no group yet.

    SIGTERM and SIGHUP, which would end it without its `finally` blocks, come as SIGINT, if it does not catch them.
    """
    number = number if number in NOTICES or catches(pid, number) else signal.SIGINT
    try:
        os.killpg(pid, number) if whole_group else os.kill(pid, number)
    except (ProcessLookupError, PermissionError):  # see `Agent.forget`; or it is a zombie, to macOS
        os.kill(pid, number)


def catches(pid: int, number: int) -> bool:
    """Return True if a process has a handler of its own for a signal (where the system tells)."""
    caught = re.search(rb"\nSigCgt:\s*(\w+)", read_if_there(f"/proc/{pid}/status") or b"")
    return caught is not None and bool(int(caught[1], 16) >> (number - 1) & 1)


def is_stopped(pid: int) -> bool:
    """Return True if a process was stopped by a signal (where the system tells)."""
    return (read_if_there(f"/proc/{pid}/stat") or b"").rpartition(b")")[2].split()[:1] == [b"T"]


def count_oom_kills() -> int:
    """Return how many processes the kernel has killed for memory (0 where it does not tell)."""
    counted = re.search(rb"\boom_kill (\d+)", read_if_there("/proc/vmstat") or b"")
    return int(counted[1]) if counted else 0


def has_cpu_limit() -> bool:
    """Return True if the kernel kills processes of ours that have used up their processor time."""
    return resource is not None and resource.getrlimit(resource.RLIMIT_CPU)[1] != resource.RLIM_INFINITY


def tie_life(fd: int, forks: bool = False) -> None:
    """Have the kernel kill this process when the other end of a pipe closes, even while it is stopped or in C code.

    Where the platform cannot do that, a thread waits for the end-of-file. An agent, which `forks` and so must have no
    threads, finds the end of its link instead.
    """
    if hasattr(fcntl, "F_SETSIG"):
        fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC | os.O_NONBLOCK)
        with contextlib.suppress(BlockingIOError):
            if not os.read(fd, 1):  # it had closed before we asked for the signal
                os._exit(1)
    elif not forks:
        threading.Thread(target=lambda: os.read(fd, 1) or os._exit(1), daemon=True).start()


def redirect_output(pipes: Sequence[Tuple[int, int]]) -> None:
    """In a worker: standard input is empty, standard output and error go to the agent, a line at a time."""
    null = os.open(os.devnull, os.O_RDONLY)
    for target, fd in enumerate((null, *(writer for _, writer in pipes))):
        os.dup2(fd, target)
    for fd in itertools.chain([null], *pipes):
        os.close(fd)


# ======================================================================================================================
# Hosts: what users and batch schedulers write becomes a plan, [Host(name, n), ...]; text only   (launcher, main thread)
# ======================================================================================================================

#: Most hosts of a node list, most workers of a host: a slip such as n[1-99999999] must not fill the memory.
MAX_HOSTS = 100_000

#: All that may reach a starter's command line, [user@]name or [user@]IPv6: no leading "-", no blank, quote, shell sign.
HOST_NAME = re.compile(
    r"([A-Za-z0-9_][A-Za-z0-9._-]{0,63}@)?(?:([A-Za-z0-9_][A-Za-z0-9._-]{0,252})"
    r"|(\[)?([0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f.]{0,15}){2,8}(?:%[A-Za-z0-9._-]{1,32})?)(?(3)\]))"
)

#: Words behind a host on a line of a host file, and what they mean: "" is a bare number, `workers` is early SCOOP's.
LINE_WORDS = {"": "n", "slots": "n", "cpu": "n", "count": "n", "workers": "n", "max_slots": "max", "max-slots": "max"}

#: Scheduler, the variable that tells of its job, and what that holds. The first one that is set wins.
ALLOCATIONS = (
    ("Slurm", "SLURM_JOB_NODELIST", "nodes"),
    ("PBS", "PBS_NODEFILE", "file"),
    ("Grid Engine", "PE_HOSTFILE", "file"),
    ("Grid Engine", "SGE_TASK_ID", "serial"),  # a job without a parallel environment
    ("LSF", "LSB_MCPU_HOSTS", "pairs"),
    ("LSF", "LSB_DJOB_HOSTFILE", "file"),
    ("LSF", "LSB_HOSTS", "words"),  # last, because LSF leaves it out of big jobs
    ("OAR", "OAR_NODEFILE", "file"),
)


class HostsError(MisuseError):
    """A host list that cannot be used; args: where (file and line, option, variable), what is wrong, what to do."""

    def __str__(self) -> str:
        return "{}: {}; {}".format(*self.args)


#: A host of the plan. Its name is as the user wrote it (alias, user@host), but [::1] without brackets: ssh cannot
#: resolve them; n are its workers, None for as many as the host's agent finds that it really offers.
Host = collections.namedtuple("Host", "name n")


def check_host_name(name: str, where: str = "host") -> str:
    """Return `name` as a starter takes it, or raise HostsError before any starter sees it."""
    match = HOST_NAME.fullmatch(name)
    if not match:
        raise HostsError(where, f"{name[:60]!a} is not a host name", "write [user@]name of letters, digits and . _ - "
                         "(no '-' in front), or an IPv6 address in brackets")
    return (match[1] or "") + (match[2] or match[4])


def read_count(text: str, where: str) -> int:
    """Return the number of workers that `text` gives to a host."""
    if not re.fullmatch("[0-9]{1,6}", text) or not 1 <= int(text) <= MAX_HOSTS:
        raise HostsError(where, f"{text[:60]!a} is not a number of workers", f"write 1 to {MAX_HOSTS} or leave it out")
    return int(text)


def split_nodelist(text: str, where: str) -> List[str]:
    """Split `text` at the commas outside of brackets: "n[1,3],gpu" gives ["n[1,3]", "gpu"]."""
    pieces = re.findall(r"(?:[^,\[\]]|\[[^\[\]]*\])+", text)
    if text and ",".join(pieces) == text:
        return pieces
    raise HostsError(where, f"an empty name or an unpaired bracket in {text[:60]!a}", "write a,b or n[1-3,7]")


def expand_ranges(body: str, where: str) -> List[str]:
    """Return what stands in brackets: "001-003,7" gives 001, 002, 003, 7; the lower end sets the zero padding."""
    numbers: List[str] = []
    for part in body.split(","):
        match = re.fullmatch("([0-9]{1,18})(?:-([0-9]{1,18}))?", part)
        low, high, width = (int(match[1]), int(match[2] or match[1]), len(match[1])) if match else (1, 0, 0)
        if high < low:
            raise HostsError(where, f"{part[:60]!a} in brackets is no number or rising range", "write name[1-3,7]")
        numbers += [f"{number:0{width}d}" for number in range(low, high + 1)[: MAX_HOSTS + 1]]
    return numbers


def expand_nodelist(text: str, where: str = "node list") -> List[str]:
    """Expand a list of nodes as Slurm writes it, without asking scontrol; every name that comes out is checked.

    "n[001-003,7],gpu[1-2]x[3-4]" gives n001 n002 n003 n7 gpu1x3 gpu1x4 gpu2x3 gpu2x4: the last bracket runs fastest.
    """
    hosts: List[str] = []
    for piece in split_nodelist(text, where):
        # Literal text at even places, the insides of brackets at odd ones; but an IPv6 address is literal as a whole.
        parts = [piece] if HOST_NAME.fullmatch(piece) else re.split(r"\[([^\[\]]*)\]", piece)
        choices = [expand_ranges(part, where) if place % 2 else [part] for place, part in enumerate(parts)]
        if len(hosts) + math.prod(map(len, choices)) > MAX_HOSTS:
            raise HostsError(where, f"more than {MAX_HOSTS} hosts", "look for a slip in a range, or give fewer")
        hosts += [check_host_name("".join(parts), where) for parts in itertools.product(*choices)]
    return hosts


def expand_counts(text: str, where: str = "count list") -> List[int]:
    """Expand counts per node as Slurm writes them: "2(x3),1" gives [2, 2, 2, 1]."""
    matches = [re.fullmatch(r"([0-9]{1,6})(?:\(x([0-9]{1,5})\))?", part) for part in text.split(",")]
    if None in matches:
        raise HostsError(where, f"{text[:60]!a} is not a list of counts", "write counts like 2(x3),1")
    if sum(int(match[2] or 1) for match in matches if match) > MAX_HOSTS:
        raise HostsError(where, f"more than {MAX_HOSTS} hosts", "look for a slip in a count, or give fewer")
    return [int(match[1]) for match in matches if match for _ in range(int(match[2] or 1))]


def expand_word(word: str, n: Optional[int], where: str) -> List[Host]:
    """Expand names, each perhaps with `:count` behind it; `n` is a count given to the whole word."""
    hosts: List[Host] = []
    for piece in split_nodelist(word, where):
        names, *counts = re.split(r":(?![^\[]*\])", piece)  # not at the colons of [::1]
        if len(counts) + (n is not None) > 1:  # fe80::1:4 too: it could be read in two ways
            raise HostsError(where, f"more than one count or colon at {piece[:60]!a}", "write host:N or [IPv6]:N")
        each = read_count(counts[0], where) if counts else n
        hosts += [Host(name, each) for name in expand_nodelist(names, where)]
    return hosts


def merge_hosts(entries: Sequence[Host], where: str) -> List[Host]:
    """Add up the mentions of each host, in order of first mention.

    A host without a count has None, unless such a host is named again: then the list counts workers by repeating names
    (`--hosts a b b`, node files of PBS), and every mention without a count is one worker.
    """
    if not entries:
        raise HostsError(where, "names no host", "name at least one")
    mentions = collections.Counter(host.name for host in entries)
    by_repeats = any(host.n is None and mentions[host.name] > 1 for host in entries)
    plan: Dict[str, Optional[int]] = {}
    for name, n in entries:
        plan[name] = None if n is None and not by_repeats else (plan.get(name) or 0) + (n or 1)
    return [Host(name, n) for name, n in plan.items()]


def parse_hosts(words: Sequence[str], origin: str) -> List[Host]:
    """Read the hosts of a command line: a b b user@c:4 n[1-3]:2 [::1]:4; `origin` (an option) is named in errors."""
    return merge_hosts([host for word in words for host in expand_word(word, None, origin)], origin)


def parse_hostfile(text: str, name: str) -> List[Host]:
    """Read a host file, each line in a form of its own; `name` is the file's, for errors; `#` starts a comment.

    SCOOP `host 4` or `host`; Open MPI `host slots=4 max_slots=8`; MPICH `host:4`; PBS one `host` per worker; Grid
    Engine `host 4 queue@host UNDEFINED`. A node list as Slurm writes it may stand wherever a host may.
    """
    entries: List[Host] = []
    for number, line in enumerate(text.split("\n"), 1):
        fields = re.sub(r"\s*=\s*", "=", line.partition("#")[0]).split()
        where = f"{name}, line {number}"
        entries += expand_word(fields[0], read_line_count(fields[1:], where), where) if fields else []
    return merge_hosts(entries, name)


def read_line_count(fields: Sequence[str], where: str) -> Optional[int]:
    """Return the count among the words behind a host on its line, None if there is none."""
    found: Dict[str, int] = {}
    for field in fields[:1] if len(fields) == 3 and "@" in fields[1] else fields:  # Grid Engine: n, queue@host, CPUs
        key, _, value = field.rpartition("=")
        meaning = LINE_WORDS.get(key)
        if meaning is None or meaning in found:
            raise HostsError(where, f"{field[:60]!a} does not belong here",
                              "a line is host, host N, host:N or host slots=N; a user goes before the host, user@host")
        found[meaning] = read_count(value, where)
    if found.get("max", MAX_HOSTS) < found.get("n", MAX_HOSTS):
        raise HostsError(where, "max_slots without slots, or below it", "write slots=N, at most max_slots")
    return found.get("n")


def read_host_file(path: str) -> str:
    """Return the text of a host file; bytes that are not UTF-8 do no harm in comments and are refused in names."""
    try:
        with open(path, encoding="utf-8-sig", errors="replace") as file:
            return file.read()
    except OSError as error:
        raise HostsError(path, f"cannot be read ({error.strerror})", "check its name and permissions") from error


def read_slurm_hosts(environ: Mapping[str, str]) -> List[Host]:
    """Read a Slurm job's tasks per node, or its CPUs per node where no number of tasks was asked for (-N2)."""
    names = expand_nodelist(environ["SLURM_JOB_NODELIST"], "SLURM_JOB_NODELIST")
    variable = "SLURM_TASKS_PER_NODE" if environ.get("SLURM_NTASKS") else "SLURM_JOB_CPUS_PER_NODE"
    counts = expand_counts(environ.get(variable, ""), variable)
    if len(counts) != len(names):  # as in a step of srun, which counts its own tasks
        raise HostsError(variable, f"counts for {len(counts)} hosts, but SLURM_JOB_NODELIST names {len(names)}",
                         "start in the batch script or in salloc, not through srun")
    return merge_hosts([Host(name, n) for name, n in zip(names, counts) if n], variable)


def read_allocation(variable: str, form: str, environ: Mapping[str, str]) -> List[Host]:
    """Read the hosts that a scheduler's `variable` gives, in the `form` that ALLOCATIONS states."""
    value, words = environ[variable], environ[variable].split()
    if form == "nodes":
        return read_slurm_hosts(environ)
    if form == "file":
        return parse_hostfile(read_host_file(value), value)
    if form == "serial":
        variable, words = "NSLOTS", [f"localhost:{environ.get('NSLOTS', '1')}"]
    if form == "pairs":  # "h1 2 h2 3"; a host left without its count becomes "h2:" and is refused
        words = [":".join(pair) for pair in itertools.zip_longest(words[::2], words[1::2], fillvalue="")]
    return parse_hosts(words, variable)


def hosts_from_environment(environ: Mapping[str, str]) -> Optional[Tuple[str, List[Host]]]:
    """Return the scheduler in whose job we are and the hosts that it gave us, None outside of a job."""
    for scheduler, variable, form in ALLOCATIONS:
        if environ.get(variable):
            try:
                hosts = read_allocation(variable, form, environ)
            except HostsError as error:
                remedy = f"{error.args[2]}, or replace {scheduler}'s list by --hosts or --hostfile"
                raise HostsError(*error.args[:2], remedy) from error
            return scheduler, [Host(name, n or 1) for name, n in hosts]  # a mention grants one slot, not all the CPUs
    return None


def spread(hosts: Sequence[Host], n: Optional[int]) -> List[Host]:
    """Spread `n` >= 1 workers as SCOOP documents its -n.

    Host after host is filled, so the last may be left out; those that outnumber the places go one to each host in
    turn. The first host, which runs the origin, is always kept. A host without a count has one place; hosts like it
    alone take what outnumbers the places (-n 3 over two of them gives 2 and 1), and without `n` they keep None.
    """
    if n is None or not hosts:
        return list(hosts)
    takers = [host.name for host in hosts if host.n is None] or [host.name for host in hosts]
    share, rest = divmod(max(0, n - sum(host.n or 1 for host in hosts)), len(takers))
    extra = {name: share + (place < rest) for place, name in enumerate(takers)}
    plan: List[Host] = []
    for name, count in hosts:
        plan.append(Host(name, min(n, (count or 1) + extra.get(name, 0))))
        n -= plan[-1].n or 0
    return [host for host in plan if host.n]


# ======================================================================================================================
# Starters: commands that reach a host and join two pipes; what crosses them before the first frame    (launcher; agent)
# ======================================================================================================================
# up:   whatever a login shell prints, "scoop_lite agent:", 256 bytes 00…FF, "z" if it has zlib, "-" if not.
# down: 256 bytes 00…FF, then three times 8 digits and so many bytes: path and source of this file, header (JSON). The
#       source is compressed where both ends can. up: a dot for each part of this that arrives. Then both ways: ZMTP.

#: What a user's environment may tell `srun`, by which it would be no link, or its step have not all of a host's CPUs.
SRUN_SETTINGS = ("SLURM_LABELIO", "SLURM_STDINMODE", "SLURM_STDOUTMODE", "SLURM_STDERRMODE", "SLURM_SRUN_MULTI",
                 "SRUN_CPUS_PER_TASK", "SLURM_EXACT", "SLURM_EXCLUSIVE", "SLURM_THREADS_PER_CORE")  # fmt: skip
#: Name: command that reaches a host. All but srun hand one word to a shell over there, as ssh does.
#: We open no port: so neither shall ssh, whatever the user's configuration has it forward, nor leave a master behind.
#: What `sbatch --export` says is for the job's script: a step of srun without PATH would find no program.
STARTERS = {
    "ssh": "ssh -T -x -a -o BatchMode=yes -o ConnectTimeout={connect_s} -o ControlMaster=no "
           "-o ClearAllForwardings=yes -- {host}",
    "rsh": "rsh {host}",
    "srun": "srun --nodelist={host} -N1 -n1 --overlap --export=ALL --unbuffered --cpu-bind=none --mpi=none",
    "qrsh": "qrsh -inherit {host}",
    "blaunch": "blaunch {host}",
    "oarsh": "oarsh {host}",
}
#: The starters that processes must come from to belong to a scheduler's job, and so to be counted and ended with it.
SCHEDULER_STARTERS = {"Slurm": "srun", "Grid Engine": "qrsh", "LSF": "blaunch", "OAR": "oarsh"}
JOIN_S = 10.0  # for a host to join, since one last did, or took in what it needs: they may share processors and links
LEAVE_S = 1.0  # for a starter to end behind its agent: less cuts slow ones off, more waits for what has its pipes
PIPE_BUF = getattr(select, "PIPE_BUF", 4096)  # bytes that a pipe takes all at once
#: What ssh says where sshd had too many at once (MaxStartups), as on the way to many hosts through one; tries, at most.
BUSY, MAX_TRIES = "exchange_identification", 6
ALL_BYTES = bytes(range(256))
MARKER = b"scoop_lite agent:" + ALL_BYTES[:1]
#: What `python3 -c` runs: a constant, without a line break or exclamation mark, for which csh has no quotes. What lies
#: in the working directory, which others may write to, is none of the modules that we import. With an "x" begins what
#: zlib has compressed, and no source of ours.
BOOTSTRAP = """import sys
sys.path[:]=[p for p in sys.path if p]
import os,signal,types
for s in signal.SIGUSR1,signal.SIGUSR2:signal.signal(s,signal.SIG_IGN)
v=sys.version.split()[0]
if sys.version_info<(3,8):sys.exit("python3 is too old: "+sys.executable+" is "+v+", not 3.8 or newer")
try:from zlib import decompress as unpack
except ImportError:unpack=None
r,w=int(sys.argv[1]),int(sys.argv[2])
a=bytes(range(256))
os.write(w,b"scoop_lite agent:"+a+(b"z" if unpack else b"-"))
def read(n):
 b=b""
 while len(b)<n:
  try:d=os.read(r,n-len(b));d and os.write(w,b".")
  except OSError:d=b""
  if d==b"":sys.exit(1 if r else "standard input has ended; does ssh have -n, or StdinNull?")
  b+=d
 return b
def part():return read(int(read(8)))
if not read(256)==a:sys.exit("this starter is not 8-bit clean")
m=sys.modules["scoop_lite"]=types.ModuleType("scoop_lite")
m.__file__=os.fsdecode(part())
s=part()
if s[:1]==b"x":s=unpack(s)
exec(compile(s,m.__file__,"exec"),m.__dict__)
m.serve_agent(r,w,part())"""
#: Becomes the interpreter that it is told, if that works there (as on a shared disk), else `python3`. Like BOOTSTRAP,
#: it ignores NOTICES, which may come while we start; `serve_agent` sees to it that no worker does.
FIND_PYTHON = (
    'trap "" USR1 USR2; '
    '"$0" -S -c "import sys;sys.exit(sys.version_info<(3,8))" </dev/null >/dev/null 2>&1 && exec "$0" "$@"; '
    'exec python3 "$@"'
)
#: Sources a prolog, in bash where there is one; then becomes the agent.
LOCAL_PROLOG = """exec "$(command -v bash || command -v sh)" -c '. "$0" && exec "$@"' "$0" "$@" """
PROLOG = f"exec 3<&0 4>&1 </dev/null >&2; {LOCAL_PROLOG} 3 4"  # with the link out of its way

#: What starters and shells say, and what it means.
CAUSES = (
    ("No route to host|etwork is unreachable", "there is no route to it"),
    ("answered, then nothing", "is the way to it very slow, or has it too much to do?"),
    ("(?i)timed out|no answer", "is it up, does the network let ssh through, does something wait for a password, "
     "does a start-up file over there, such as .bashrc, wait or start another program?"),
    ("Connection refused", "is sshd running there, at this port?"),
    ("(?i)could not resolve|not known|name resolution", "its name is unknown here"),
    ("(?i)host key", "its host key is unknown or has changed; ssh to it once by hand"),
    ("Event not found", "csh cannot read a path with ! in it; see --python-interpreter"),
    (r"Invalid generic resource \(gres\)", "the job should ask for GPUs by --gpus-per-node or --gres"),
    ("Permission denied|authentication fail", "it wants a key without a question; see ssh-copy-id and ssh-agent"),
    ("(?i)python.*(not found|no such file)", "there is no such Python; see --python-interpreter"),
    ("frame", "something else than the agent wrote into the link; see what start-up files print"),
    (r"ended with status 0\b", "does a start-up file over there, such as .bashrc, end the shell or start another "
     "program?"),
)


#: In the environment of what an Executor starts as an interpreter: if that is its own program, it starts no other.
AS_PYTHON = "SCOOP_LITE_AS_PYTHON"


def own_python() -> List[str]:
    """Return the words that start this Python with its own options."""
    return [interpreter(), *subprocess._args_from_interpreter_flags()]  # type: ignore[attr-defined]


def interpreter() -> str:
    """Return the Python that runs this program; of a program that embeds Python, the one which that belongs to."""
    if WRONG_PYTHON:
        raise MisuseError(WRONG_PYTHON)
    if AS_PYTHON in os.environ:
        raise MisuseError(f"an Executor started this program again, as its workers' interpreter: sys.executable is "
                          f"{sys.executable!r}. Fix: set sys.executable to a Python interpreter")
    version = "python%d.%d" % sys.version_info[:2] + getattr(sys, "abiflags", "")
    beside = os.path.join(sys.exec_prefix, *(("python.exe",) if os.name == "nt" else ("bin", version)))
    frozen = getattr(sys, "frozen", False)
    own = getattr(sys, "_base_executable", sys.executable) if frozen else None  # that is the program itself
    for path in [sys.executable or ""] if frozen else [sys.executable or "", beside]:
        if path != own and "py" in os.path.basename(path).lower() and os.access(path, os.X_OK):
            return path
    raise MisuseError(f"this program is frozen, or embeds Python, and so has no interpreter to start workers with: "
                      f"neither sys.executable, {sys.executable!r}, nor {beside}. Fix: set sys.executable to one")


def compiled_command() -> List[str]:
    """Return the words that run this file by the .pyc file that importing it has left: to compile it takes 0.1 s."""
    if not os.path.isfile(__file__):
        own_source()  # which says if it is not in a zip file either
    return [*own_python(), "-c", COMPILED, __file__]


#: Runs a script as `python` would, but for that; also one in a zip file. No module that lies beside it is imported.
COMPILED = """import sys
p=__file__=sys.argv[0]=sys.argv.pop(1)
if sys.path[0]=="": sys.path[0]=p
import os,importlib.machinery as m,zipimport as z
d,n=os.path.split(os.path.splitext(p)[0])
f=m.SourcelessFileLoader if p.endswith(".pyc") else m.SourceFileLoader
exec((f(n,p) if os.path.isfile(p) else z.zipimporter(d)).get_code(n))"""


def begin_again(n: int) -> None:
    """Before many workers, go on in a fresh interpreter: this one keeps our syntax tree for as long as it runs us.

    It is 24 MB. To copy their page tables would take half of the time in which many workers are forked.
    """
    if _code is None or n < MANY:
        return
    with contextlib.suppress(OSError, AttributeError, MisuseError):  # not on Linux, or no way to do so: it is well here
        python, *words = own_python()
        with open(os.memfd_create("scoop_lite"), "wb") as file:
            marshal.dump(_code, file)
            file.seek(0)
            fd = fcntl.fcntl(file, fcntl.F_DUPFD, 3)  # inherited, and no standard stream, of which one may be closed
            os.execv(python, [python, *words, "-c", AGAIN, str(fd), __file__, *sys.argv[1:]])


#: Goes on with this file where `begin_again` has left it.
AGAIN = """# scoop_lite, which needs less memory when it is begun again; see begin_again in:
import marshal,sys
begun=int(sys.argv.pop(1))
__file__=sys.argv[0]=sys.argv.pop(1)
if sys.path[0]=="": sys.path[0]=__file__
with open(begun,"rb") as f: f=marshal.load(f)
exec(f)"""


def own_source() -> bytes:
    """Return what this file holds, which may lie in a zip file; a frozen program may lack it."""
    if not os.path.isfile(__file__):
        import zipimport

        try:
            return zipimport.zipimporter(os.path.dirname(__file__)).get_data(__file__)
        except zipimport.ZipImportError:
            raise MisuseError(f"{__file__} is not there, and other interpreters need it (not frozen)") from None
    with open(__file__, "rb") as file:
        return file.read()


@functools.lru_cache(maxsize=None)
def packed_source() -> bytes:
    """Return the same, in a third of the bytes if this Python has zlib; to gain more would hold up fast links."""
    try:
        import zlib
    except ImportError:  # it was built without
        return own_source()
    return zlib.compress(own_source(), 1)


def is_here(name: str) -> bool:
    """Return True for names that mean this very machine and need no starter."""
    return name in ("localhost", "127.0.0.1", "::1")


def agent_command(config: Config, local: Sequence[int] = ()) -> List[str]:
    """Return the words that start an agent: constants but for a number, interpreters, and the user's prolog.

    Its link is its standard input and output, or the `local` descriptors, which it inherits. On another host, a prolog
    says by PATH which interpreter runs it; else it is our own, where that works too: it has what the program needs.
    """
    found = ["python3"] if config.prolog else ["sh", "-c", FIND_PYTHON, sys.executable or "python3"]
    python = [config.python] if config.python else own_python() if local else found
    if "=" in python[0]:  # `env` would take it for a variable
        python = ["sh", "-c", 'exec "$0" "$@"', *python]
    words = ["env", f"{HASH_SEED}={config.hash_seed}", *python, "-c", f"exec({BOOTSTRAP!r})"]
    if config.prolog:
        words = ["/bin/sh", "-c", LOCAL_PROLOG if local else PROLOG, config.prolog, *words]
    return words + [str(fd) for fd in local or (() if config.prolog else (0, 1))]


def starter_command(host: str, config: Config) -> List[str]:
    """Return the command that starts an agent on another host; no shell of this host has a part in it."""
    words = [word.replace("{host}", host) for word in shlex.split(config.launcher)]
    if os.path.basename(words[0]) == "srun":
        return words + agent_command(config)
    return [*words, "exec " + shlex.join(agent_command(config))]


def start_deaf(command: List[str], **how: Any) -> Any:
    """Start a command that ignores NOTICES, by which most would end. So do we meanwhile: no script has begun yet."""
    handlers = {number: signal.signal(number, signal.SIG_IGN) for number in NOTICES}
    try:
        return subprocess.Popen(command, **how)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


class Site:
    """A host of the plan as the launcher sees it: what starts its agent, and what is known once that speaks."""

    link: StreamLink  # to its agent
    command: List[str] = []  # that reaches it, unless its agent is forked or a thread
    process: Any = None  # that runs this
    life = -1  # the number that a pipe from us has in its agent, if that inherits one
    pid = 0  # of the agent, if that is forked
    cpus = 0  # that it offers, once it has joined
    facing = ""  # our address as it sees it
    directory = ""  # where its workers run, if it does not have ours
    printed = told = 0  # bytes that its workers have printed; how many of these its agent knows to be written
    told_way = False  # we have said how its workers come
    n_tries = 0  # to start it

    def __init__(self, number: int, host: Host, config: Config) -> None:
        self.number, self.name, self.n, self.config = number, *host, config
        self.here = is_here(self.name)  # this machine, whose agent inherits its link and the user's terminal
        self.noise = self.words = b""  # what came before the marker; the last that was said on standard error

    def start(self) -> None:
        """Start the command (OSError: there is none), maybe again."""
        before = (self.link, self.process.stderr) if self.n_tries else ()  # of which `last_words` tells if we fail
        self.n_tries += 1
        if self.here:
            ours, theirs = socket.socketpair()
            self.life, _stays_open = os.pipe()
            fd = theirs.fileno()
            self.command = agent_command(self.config, (fd, fd))
            self.process = start_deaf(self.command, pass_fds=(fd, self.life))
            self.link = StreamLink(ours, passes_descriptors=True)
            theirs.close()
            os.close(self.life)
        else:
            self.command = starter_command(self.name, self.config)
            how: Any = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
            how["env"] = {name: value for name, value in os.environ.items() if name not in SRUN_SETTINGS}
            self.process = start_deaf(self.command, bufsize=0, start_new_session=True, **how)
            os.set_blocking(self.process.stderr.fileno(), False)
            self.link = StreamLink(self.process.stdout, self.process.stdin)
            packed_source()  # now, while it connects
        for end in before:
            end.close()
        self.noise = self.words = b""

    def needs(self, unpacks: bool) -> bytes:
        """Return what its agent has to be sent, which has said whether it has zlib."""
        source = packed_source() if unpacks else own_source()
        environment = user_environment(self.config.env)
        header = facts(config=vars(self.config), here=self.here, life=self.life, environment=environment)
        parts = os.fsencode(__file__), source, header
        return ALL_BYTES + b"".join(b"%8d%b" % (len(part), part) for part in parts)

    def read_words(self) -> Optional[bytes]:
        """Return what the command says on standard error now, None when that has ended."""
        try:
            text: bytes = os.read(self.process.stderr.fileno(), 65536)
        except BlockingIOError:
            return b""
        self.words = (self.words + text)[-4000:]
        return text or None

    def last_words(self) -> str:
        """Return how the command ended and the last it said, as the end of a sentence."""
        if self.process is None:
            return ""
        status = ""
        with contextlib.suppress(subprocess.TimeoutExpired):  # its end may come a moment after that of its link;
            # but with a switch, many hosts fall silent: to wait for each would make us silent for all others
            code = self.process.wait(0.3 if self.link.closed and not self.link.silent else 0)
            status = f"; {os.path.basename(self.command[0])} ended with status {code}"
        while self.process.stderr is not None and self.read_words():
            pass
        lines = (self.noise + b"\n" + self.words).decode(errors="replace").splitlines()
        said = " / ".join([line.strip() for line in lines if line.strip() and not line.startswith((" ", "Trace"))][-3:])
        return status + (f"; it said: {said[-500:]}" if said else "")

    def explain(self, why: str) -> str:
        """Say why this host did not join: reason, last words, likely cause, command."""
        text = why + self.last_words()
        if self.config.prolog:
            cause = f"; does the prolog {self.config.prolog} work there?"
        else:
            cause = next((f"; {cause}" for pattern, cause in CAUSES if re.search(pattern, text)), "")
        command = f" (command: {shlex.join(self.command).partition('exec(')[0]}…)" if self.command else ""
        return f"host {self.name} did not join: {text}{cause}{command}"

    def kill(self) -> None:
        """End the command, with all that it has started here; what it started over there ends with its link."""
        if self.process is None or self.process.poll() is not None:
            return
        if self.here or not CAN_FORK:
            self.process.kill()
        else:  # it leads a session
            with contextlib.suppress(ProcessLookupError, PermissionError):  # it has just ended
                os.killpg(self.process.pid, signal.SIGKILL)

    def end(self) -> None:
        """Wait for the agent's or the command's end, which comes with the link's."""
        if self.pid:
            with contextlib.suppress(ChildProcessError):  # who started us ignores SIGCHLD: then so do we
                os.waitpid(self.pid, 0)
        if self.process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(2)
            self.kill()
            self.process.wait()


class Clerk:
    """Does one thing after another in a thread, as a disk or a terminal may take long, and calls `wake` after each."""

    def __init__(self, do: Callable[..., None], wake: Callable[[], None]) -> None:
        self.do, self.wake = do, wake
        self.left: Deque[Tuple[Any, ...]] = collections.deque()  # arguments for `do`; empty when all is done
        self.n_left = threading.Semaphore(0)
        self.thread: Optional[threading.Thread] = None

    def ask(self, *what: Any) -> None:
        """Have `do` called with these arguments, without waiting for it."""
        self.left.append(what)
        if self.thread is None:
            thread = threading.Thread(target=self.run, name=f"scoop_lite {type(self).__name__.lower()}", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # this user may have no more threads, and what is to be said may be just that
                self.do_next()
                return
            self.thread = thread
        self.n_left.release()

    def run(self) -> None:
        while self.n_left.acquire():
            self.do_next()

    def do_next(self) -> None:
        self.do(*self.left[0])
        self.left.popleft()
        self.wake()


class Library(Clerk):
    """Answers workers' FETCHes, as `read` does; who asks is to call `answer` when `wake` has been called."""

    def __init__(self, read: Callable[[Dict[str, Any]], Frames], wake: Callable[[], None]) -> None:
        super().__init__(self.find, wake)
        self.read = read
        self.found: Deque[Tuple[Send, Frames]] = collections.deque()

    def find(self, request: Dict[str, Any], send: Send) -> None:
        """Find the answer to a request, with the frames of which `send` is to be called."""
        try:
            frames = self.read(request)
        except Exception as error:  # such as what a broken archive may raise
            logger.warning("modules cannot be read for other hosts: %r", error)
            frames = [facts(number=request["number"], path=None), b""]
        self.found.append((send, frames))

    def answer(self) -> None:
        """Send what has been found."""
        for send, frames in taken(self.found):
            send(*frames)


def read_library(config: Config, request: Dict[str, Any]) -> Frames:
    """Answer FETCH: the first of some paths that exists and is the program, or below its directory. In the launcher."""
    import pathlib  # where they are used: only other hosts ask
    import zipfile

    inflating = getattr(sys.modules.get("zlib"), "error", OSError)  # zipfile has imported it, where there is one
    unreadable = OSError, MemoryError, zipfile.BadZipFile, inflating, EOFError, RuntimeError, ValueError, KeyError
    root, number = os.path.abspath(config.root), request["number"]
    for path in request["paths"]:
        whole = os.path.abspath(os.path.join(config.directory, path))
        inside = (whole + os.sep).startswith(root.rstrip(os.sep) + os.sep)
        if not inside and path not in (config.program, config.script):
            continue
        with contextlib.suppress(*unreadable):  # then it is not there: a zip file may be written anew at this moment
            place: Any = pathlib.Path(whole)
            if os.path.isfile(root):
                place = zipfile.Path(root).joinpath(whole[len(root) + 1 :].replace(os.sep, "/"))
            if place.is_dir():
                return [facts(number=number, path=path, names=[entry.name for entry in place.iterdir()]), b""]
            if place.is_file():
                content = place.read_bytes()
                same = request["have"].get(path) == sha256(content)
                return [facts(number=number, path=path, file=True, same=same), b"" if same else content]
    return [facts(number=number, path=None), b""]


def serve_agent(reader: int, writer: int, header: bytes) -> None:
    """Be the agent of a host: the role of the process that BOOTSTRAP began, and of what it forks. Does not return."""
    lead()
    order = json.loads(header)
    config = Config(**order["config"])
    alike = set(sys.path) <= set(config.paths)  # else this host, or Python, has an installation of its own
    config = config.replace(ship=config.ship and not order["here"], paths=config.paths if alike else ())
    adopt_environment(order["environment"], config.env)
    try:
        os.chdir(config.directory)
        lost = False
    except OSError:  # JOIN tells where we are instead, unless who started us has put us there
        lost = directory_here() != config.directory
    if order["here"]:
        link = StreamLink(socket.socket(fileno=reader))
        tie_life(order["life"], forks=True)
    else:
        link = StreamLink(open(os.dup(reader), "rb", 0), open(os.dup(writer), "wb", 0))
        with open(os.devnull, "rb", 0) as null:  # what anybody reads or prints here is not the link's
            os.dup2(null.fileno(), reader)
        os.dup2(2, writer)
    raise_file_limit()
    # In this order: srun passes on the SSH_CONNECTION of a login long ago, but sshd passes on no variable of Slurm's.
    facing = os.environ.get("SLURM_LAUNCH_NODE_IPADDR") or os.environ.get("SSH_CONNECTION", "").split(" ")[0]
    there = facts(cpus=usable_cpus(), python=sys.version.split()[0], directory=os.getcwd(), lost=lost, facing=facing)
    link.send(message("JOIN", AGENT, 0, there))
    agent = Agent(link, config, local=order["here"])
    agent.old_handlers = dict.fromkeys(NOTICES, signal.SIG_DFL)  # which were ignored until now
    be_agent(agent)


def be_agent(agent: Agent) -> None:
    """Serve as the one agent of this process, and end it.

    Workers do not inherit the finalizers of who started us: their end would delete the temporary directories that he
    uses, and stop his managers. Exit functions they do inherit, as coverage.py's writes what they ran.
    """
    for module, registry in ("weakref", "finalize._registry"), ("multiprocessing.util", "_finalizer_registry"):
        if module in sys.modules:
            operator.attrgetter(registry)(sys.modules[module]).clear()
    agent.run()
    os._exit(0)


# ======================================================================================================================
# Launcher: holds the broker, connects hosts and workers, talks to the user                      (launcher, main thread)
# ======================================================================================================================


READER_GONE = (errno.EPIPE, errno.EINVAL) if os.name == "nt" else (errno.EPIPE,)  # what writing says then


class Writer(Clerk):
    """Writes what workers print, so that a stopped terminal stops nobody but those who print."""

    def __init__(self, wake: Callable[[], None]) -> None:
        super().__init__(self.write, wake)
        self.broken: Set[int] = set()  # descriptors that nothing is written to any more
        self.lost = ""  # why something could not be kept, if so

    def open(self, path: str) -> int:
        """Open a file to be written anew; return its descriptor, -1 for none."""
        try:
            return open_to_write(path) if path else -1
        except OSError as error:  # when options were read, it could be opened
            self.lost = f"{path}: {error.strerror}"
            return -1

    def put(self, stream: int, data: bytes) -> None:
        """Queue bytes for a descriptor, unless it is that of a file which nobody wants (-1); never blocks."""
        if stream >= 0:
            self.ask(stream, data)

    def drain(self, timeout_s: float) -> None:
        """Wait until everything is written, or for that long."""
        deadline = now() + timeout_s
        while self.left and now() < deadline:
            time.sleep(0.001)

    def write(self, stream: int, data: bytes) -> None:
        """Write all of it, in the thread that may block when a terminal is stopped or a reader is slow."""
        done = 0
        while done < len(data) and stream not in self.broken:
            # The origin writes to the user's pipe, too: only what is so short goes in as a whole, in whole lines.
            end = stream <= 2 and data.rfind(b"\n", done, done + PIPE_BUF) + 1 or len(data)
            try:
                done += os.write(stream, memoryview(data)[done:end])
            except BlockingIOError:
                select.select([], [stream], [])
            except OSError as error:
                self.broken.add(stream)
                if error.errno not in READER_GONE:  # else that is no fault, as with `script | head`
                    self.lost = str(error)


class Links:
    """The launcher's links, on which the broker sits: to each host's agent, and to workers with a link of their own."""

    def __init__(self, config: Config) -> None:
        self.config = config
        plan = config.hosts or (("localhost", config.n),)
        self.sites = [Site(number, Host(*host), config) for number, host in enumerate(plan)]
        self.far = [site for site in self.sites if not site.here]  # who exchange heartbeats with us
        self.selector = selectors.DefaultSelector()
        told = ("retries", "verbose", "progress", "trace")
        welcome = {"size": config.n, **{name: getattr(config, name) for name in told}}
        self.broker = Broker(self.send, self.send_agent, self.report, config.restarts, welcome)
        self.library = Library(functools.partial(read_library, config), lambda: self.bell.ring())
        self.broker.library = self.library.ask
        self.broker.agent_handlers = handlers_of((self, self.broker), "agent > broker", "agent > launcher")
        self.agents: Dict[int, StreamLink] = {}  # links of those that speak, by host number
        self.touched: Set[Any] = set()  # links with something to write
        self.bell = Bell()
        self.selector.register(self.bell, selectors.EVENT_READ, self.bell.clear)
        self.writer = Writer(self.bell.ring)
        files = sys.__stdout__, sys.__stderr__  # None if they were closed from the start: then these numbers are ours
        self.writer.broken.update(fd for fd, file in enumerate(files, 1) if file is None)
        self.router: Any = None  # a ZmqRouter, with --backend zmq
        self.interrupts: Deque[int] = collections.deque()  # signals that the script is to be told of
        self.signalled: Optional[int] = None  # the first signal that asked us to end
        self.joining: Set[Site] = set()  # that have neither joined nor failed
        self.join_s = 0.0  # when to give them up
        self.printing: Set[Site] = set()  # whose workers have printed something
        self.begun = False  # workers have been started
        self.ending: Dict[Member, float] = {}  # workers whose link has ended, and when to end those that have not
        self.heard_s = now()  # when an agent last had something to say
        self.left_s = math.inf  # when the origin's link had ended, as it does with its process, behind its BYE
        self.kill_s = math.inf  # when to end everything

    def report(self, text: str, fatal: bool = False) -> None:
        """Say one sentence to the user, on standard error; with -q, only why the run is no success."""
        if self.config.verbose >= 0 or fatal or self.broker.status:
            self.writer.put(2, f"scoop_lite: {visible(text)}\n".encode("utf-8", "backslashreplace"))

    def show(self, site: Site, text: bytes) -> None:
        """With -v, show the user what a starter has printed, which is none of ours."""
        for line in text.decode(errors="replace").splitlines() if self.config.verbose > 0 else ():
            self.report(f"{site.name} says: {line}")

    def read_words(self, site: Site) -> None:
        """Keep and show what a starter says on standard error."""
        text = site.read_words()
        if text is None:
            self.end_words(site)
        self.show(site, text or b"")

    def end_words(self, site: Site) -> None:
        """Listen no more to what a starter says on standard error."""
        with contextlib.suppress(KeyError):  # that was done when its link ended, a moment ago
            self.selector.unregister(site.process.stderr)

    def send(self, member: Member, frames: Frames, *fds: int) -> None:
        """Send to a worker that has said HELLO: straight, maybe with descriptors, or through its agent."""
        link = member.link or self.sites[member.host].link  # whose agent drops what nobody reads
        if member.route is not None:
            self.router.send(member.route, frames)
        elif fds:
            link.send_with_descriptors(frames, *fds)
        elif not link.closed:  # else it is about to be found dead
            encode(frames, link.out)
            self.touched.add(link)

    def send_agent(self, host: int, frames: Frames) -> None:
        link = self.agents.get(host)
        if link is not None:
            link.queue(frames)
            self.touched.add(link)

    def send_interrupts(self) -> None:
        """Tell the agent of the script's host of the signals that came."""
        for number in taken(self.interrupts):
            origin = self.broker.members.get(ORIGIN)
            if origin is not None and not (self.broker.said_bye and number in NOTICES):  # whose handlers may be gone
                self.broker.send_agent(origin.host, message("INTERRUPT", AGENT, 0, facts(signal=number)))

    def kill_worker(self, member: Member) -> None:
        """Have a worker's agent end it, if it is not dead already."""
        order = facts(rank=member.rank, incarnation=member.incarnation)
        self.broker.send_agent(member.host, message("KILL", AGENT, 0, order))

    def invite(self, member: Member) -> Optional[List[str]]:
        """Invite a worker to the ØMQ engine, at the address that faces its host; None where there is no such way."""
        site = self.sites[member.host]
        address = "127.0.0.1" if site.here else self.config.address or site.facing
        return self.router.invite(member, address) if address else None

    def tell_way(self, host: int, way: str) -> None:
        """With -v, say once which way the workers of a host have come."""
        if self.config.verbose > 0 and not self.sites[host].told_way:
            self.sites[host].told_way = True
            self.report(f"{self.broker.host_names[host]}: its workers come {way}")

    def kill_agents(self) -> None:
        """End agents that do not answer: those of other hosts end with their starter, or by themselves."""
        for site in self.sites:
            site.kill()
            if site.pid and site.number in self.agents:  # its link is open: so this is still its number
                os.kill(site.pid, signal.SIGKILL)

    def close(self, link: Any) -> None:
        """Close a link, of which nothing is to be heard any more."""
        link.unwatch(self.selector)
        self.touched.discard(link)
        link.close()

    def end_turn(self) -> Optional[float]:
        """Send what the library has found, and let the broker place its orders.

        With libzmq, until its sockets, whose descriptors do not tell, are empty.
        """
        self.library.answer()
        while True:
            delay = self.broker.end_turn(now())
            if self.router is None or not self.router.receive():
                return delay

    def flush(self) -> None:
        """Write what this round has queued; wait for writability where it does not go at once."""
        self.send_interrupts()
        self.touched = {link for link in self.touched if not link.watch(self.selector)}


class Reception(Links):
    """What comes by these links: from agents, from workers that have a link of their own, and their ends."""

    def take_zmq(self, member: Member, frames: Frames) -> None:
        """Handle a message that came through the ROUTER; its sender is proved by its key."""
        if member.death is None:
            self.tell_way(member.host, "by ØMQ")
            try:
                self.broker.turn(member.rank, frames)
            except PeerError as error:
                self.report(f"worker {member.rank} broke the protocol: {error}")
                self.kill_worker(member)

    def add_peer(self, member: Member, fd: int) -> None:
        """Connect to a worker by the descriptor of its own link, as its agent passes it to us."""
        link = member.link = StreamLink(socket.socket(fileno=fd))
        self.selector.register(link.fileno(), selectors.EVENT_READ, functools.partial(self.read_peer, member))
        self.touched.add(link)

    def read_peer(self, member: Member, budget: int = 1 << 20) -> None:
        """Hand a worker's messages to the broker; one whose link has ended is about to end, or is ended."""
        link: Any = member.link
        if link.fileno() < 0:
            return  # it was dropped a moment ago, with its worker
        wrong = link.take(functools.partial(self.broker.turn, member.rank), budget)
        if wrong:
            self.report(f"worker {member.rank} broke the protocol: {wrong}")
        if link.closed:
            self.close(link)
            if member.rank == ORIGIN and self.config.serve >= 0:
                self.broker.said_bye = True  # it has nobody left to tell otherwise
                self.heard_s = now()  # from here on a host that is silent is late
                self.broker.bury(member, {"code": 0})
            elif wrong:
                self.kill_worker(member)
            elif not self.broker.is_over():
                self.ending[member] = now() + STOP_GRACE_S
            elif member.rank == ORIGIN and self.config.backend != "loopback":  # there it ends with the script
                self.left_s = now()

    def end_workers(self, now_s: float) -> None:
        """End workers that live on without a link."""
        for member in [member for member, end_s in self.ending.items() if now_s >= end_s]:
            del self.ending[member]
            if member.death is None:
                self.report(f"worker {member.rank} has closed its link, and lives on: it is ended")
                self.kill_worker(member)

    def late_s(self) -> float:
        """Return when who is still there is ended: as signals have asked for, or long after the job's end.

        That a script has ended does not count, as its atexit functions may take as long as they like.
        """
        end_s = self.heard_s if self.broker.status is not None else max(self.heard_s, self.left_s)
        return min(self.kill_s, end_s + self.patience_s())

    def patience_s(self) -> float:
        """Return how long, at the job's end, a host may be silent: another one, over a slow link, in one message."""
        return END_S if self.signalled is None or any(site.number in self.agents for site in self.far) else SIGNAL_S

    def read_dots(self, site: Site) -> None:
        """Give a host more time with each part of what it needs that arrives there, for which it sends a dot."""
        self.join_s = max(self.join_s, now() + self.config.join_timeout_s)
        byte = b"."
        with contextlib.suppress(BlockingIOError, ConnectionResetError):
            for _ in range(1024):  # others have something to say, too
                byte = os.read(site.link.fileno(), 1)
                if byte != b".":
                    break
        if byte != b".":
            site.link.codec.rest += byte  # of its agent's greeting; nothing at the link's end
            key = self.selector.get_key(site.link.fileno())
            self.selector.modify(key.fileobj, key.events, functools.partial(self.read_agent, site))

    def read_agent(self, site: Site) -> None:
        """Hand an agent's messages on, its own and those of its workers; without its link, its host is lost."""
        site.link.take(functools.partial(self.take_agent, site.number))
        if site.link.closed:
            self.lose_host(site, site.link.closed)

    def take_agent(self, host: int, frames: Frames) -> None:
        """Have the broker handle what came from an agent; workers that ØMQ did not bring here say HELLO that way."""
        self.heard_s = now()
        if self.router is not None and frames[0][:1] == bytes([CODES["HELLO"]]):
            member = self.broker.members.get(int.from_bytes(frames[0][1:5], "big"))
            if member is not None and member.host == host:
                member.route = None
            self.tell_way(host, "through the pipe")
        self.broker.agent_turn(host, frames)

    def on_started(self, host: int, frames: Frames) -> None:
        """Take up the link of a worker that runs, if its agent has passed it to us."""
        member, descriptors = self.broker.on_started(host, frames), self.sites[host].link.descriptors
        if member is not None and self.config.verbose > 1:
            self.report(f"worker {member.rank} on {self.broker.host_names[host]} runs as process {member.pid}")
        if member is not None and descriptors:
            self.add_peer(member, descriptors.popleft())
            if self.config.is_straight:  # its other link is for the Executor's client
                fd, client = descriptors.popleft(), self.broker.members.get(ORIGIN)
                if client is not None:
                    told = facts(rank=member.rank, incarnation=member.incarnation)
                    self.broker.send(client, message("NEIGHBOUR", ORIGIN, 1, told), fd)
                os.close(fd)

    def on_died(self, host: int, frames: Frames) -> None:
        """Before a death is judged, take in all that the worker had sent."""
        member = self.broker.find_at(host, read_facts(frames[1], rank=int, incarnation=int))
        if self.router is not None:
            self.router.receive()
        if member is not None and member.link is not None:
            self.read_peer(member, budget=sys.maxsize)
            if not member.link.closed:
                self.close(member.link)
        self.broker.on_died(host, frames)

    def on_join(self, host: int, frames: Frames) -> None:
        """Note that a host's agent is there."""
        there = read_facts(frames[1], cpus=int, facing=str, python=str, directory=str, lost=bool)
        site = self.sites[host]
        if site not in self.joining or not 1 <= there["cpus"] <= MAX_HOSTS:
            raise ValueError(there["cpus"])
        self.joining.discard(site)
        self.join_s = max(self.join_s, now() + self.config.join_timeout_s)
        site.cpus, site.facing = there["cpus"], there["facing"] if is_address(there["facing"]) else ""
        site.directory = there["directory"] if there["lost"] else ""
        self.broker.host_names[host] = socket.gethostname() if site.here else site.name
        if self.config.verbose > 0:
            self.report("{} is there: Python {python}, {cpus} CPUs, {directory}".format(site.name, **there))

    def tell_directories(self) -> None:
        """Name hosts that lack the user's directory: what tasks write there is not where he looks for it."""
        for directory in sorted({site.directory for site in self.sites} - {""}):
            lost = [site.name for site in self.sites if site.directory == directory]
            more = f" and {plural(len(lost) - 1, 'other host')}" if lost[1:] else ""
            self.report(f"no {self.config.directory} on {lost[0]}{more}: tasks run in {directory} there")

    def on_output(self, host: int, frames: Frames) -> None:
        """Write what a worker printed; with -v and several hosts, behind its host and rank."""
        head, text, site = read_facts(frames[1], rank=int, stream=int), bytes(frames[2]), self.sites[host]
        site.printed += len(text)
        if head["stream"] not in (1, 2):
            raise ValueError(head["stream"])
        if site.printed - site.told > MAX_MESSAGE:  # workers that have ended meanwhile may have left some
            raise PeerError("it prints on, though it was to wait")
        self.printing.add(site)
        if self.config.verbose > 0 and len(self.sites) > 1 and head["rank"] != ORIGIN:
            mark = f"[{self.broker.host_names[host]} {head['rank']}] ".encode()
            text = b"".join(mark + line for line in text.splitlines(keepends=True))
        self.writer.put(head["stream"], text)

    def tell_written(self) -> None:
        """Let agents know how much output has reached the user, so that they read more."""
        for site in () if self.writer.left else self.printing:
            if site.printed - site.told > OUTPUT_WINDOW // 8:
                site.told = site.printed
                self.broker.send_agent(site.number, message("WRITTEN", AGENT, 0, COUNT.pack(site.told)))

    def beat(self, now_s: float) -> None:
        """Exchange heartbeats with other hosts; lose those that are silent, or have had their last say."""
        over = self.broker.status is not None and now_s > self.heard_s + LEAVE_S
        busy = {member.host for member in self.broker.members.values()} if over else set()
        for site in self.far:
            if site.number in self.agents and site not in self.joining:
                site.link.beat(now_s, self.config.heartbeat_s, self.config.dead_after_s)
                self.touched.add(site.link)
                if over and site.number not in busy:
                    site.link.closed, site.link.silent = site.link.closed or "its command does not end", True
                if site.link.closed:
                    self.lose_host(site, site.link.closed)

    def lose_host(self, site: Site, why: str) -> None:
        """Let go of a host, of its workers and its command. Before workers start, it has not joined at all."""
        if self.broker.status is None and self.begun:
            why += site.last_words()
            self.report(f"host {self.broker.host_names[site.number]} is lost: {why}")
        elif self.broker.status is None and self.signalled is None:
            self.report(site.explain("it answered, then " * (site.cpus > 0) + why), fatal=True)  # before `kill` below
        if site in self.joining or site.number in self.agents:  # else its command could not be started
            if self.broker.status is None or site in self.joining or site.link.silent:
                site.kill()  # else it ends by itself, and `end` waits for that
            self.joining.discard(site)
            self.agents.pop(site.number, None)
            self.close(site.link)
            site.cpus = 0
            self.broker.lose_host(site.number, why)


class Launcher(Reception):
    """Runs one job: an agent on each host, the broker in the middle, signals and output of the user's terminal."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.join_s = self.second_s = math.inf  # when hosts are late; from when on a second signal counts
        self.is_early = False  # a signal came before we had heard of a script; it may have begun unheard
        self.old_handlers = {number: signal.getsignal(number) for number in (*END_SIGNALS, *NOTICES)}
        self.again: Dict[Site, float] = {}  # hosts that were too busy to let us in, and when to try again
        self.view = View(self)

    def start_hosts(self) -> None:
        """Start an agent on every host; on this one first, before any thread or ØMQ context exists here.

        With others, this one's is not forked: it could not have their seed of hashes.
        """
        loopback, config = self.config.backend == "loopback", self.config
        for site in sorted(self.sites, key=lambda site: not site.here):
            if site.here and (loopback or not (config.python or config.prolog or self.far)):
                self.start_here(site, loopback)
            else:
                self.start_host(site)
        self.join_s = now() + self.config.join_timeout_s

    def start_here(self, site: Site, loopback: bool) -> None:
        """Fork this host's agent, where it does not return; with --backend loopback it is a thread."""
        ours, theirs = socket.socketpair()
        site.link = self.agents[site.number] = StreamLink(ours, passes_descriptors=not loopback)
        config = self.config.replace(ship=False)
        if loopback:
            agent: Agent = LoopbackAgent(StreamLink(theirs), config, site.link.descriptors)
            threading.Thread(target=agent.run, name="scoop_lite agent", daemon=True).start()
        else:
            life_out, life_in = os.pipe()
            flush_output()
            try:
                site.pid = os.fork()
            except OSError as error:
                sys.exit(f"scoop_lite: the agent of this host cannot be started: {error.strerror}; see `ulimit -a`")
            if site.pid == 0:
                os.close(life_in)
                for own in (ours, self.selector, self.bell):
                    own.close()
                tie_life(life_out, forks=True)
                if config.serve >= 0:
                    os.close(config.serve)
                gc.freeze()
                agent = Agent(StreamLink(theirs), config, local=True)
                agent.old_handlers = self.old_handlers
                agent.prepared = prepare(config)  # now, while we get ready to say what is to be started
                be_agent(agent)
            theirs.close()
            os.close(life_out)
        site.cpus = usable_cpus()
        self.broker.host_names[site.number] = socket.gethostname()
        self.selector.register(ours, selectors.EVENT_READ, functools.partial(self.read_agent, site))

    def start_host(self, site: Site) -> None:
        """Start the command that reaches a host, or the interpreter that this host's agent needs."""
        try:
            site.start()
        except OSError as error:
            self.lose_host(site, str(error))
            return
        self.joining.add(site)
        self.selector.register(site.link.fileno(), selectors.EVENT_READ, functools.partial(self.read_start, site))
        if site.process.stderr is not None:
            self.selector.register(site.process.stderr, selectors.EVENT_READ, functools.partial(self.read_words, site))

    def read_start(self, site: Site) -> None:
        """Take in what a host says before its agent does; from the marker on, it is a link like any other."""
        link, data = site.link, b""
        with contextlib.suppress(ConnectionResetError):
            data = os.read(link.fileno(), 65536)
        before, _, after = (site.noise + data).partition(MARKER)
        site.noise = before if len(after) >= 256 else site.noise + data
        if len(after) >= 256 and after[:255] == ALL_BYTES[1:]:
            link.last_heard_s = now()
            link.codec.rest = after[256:]  # nothing, as an agent waits for what it needs; or what start-up files print
            needs = site.needs(unpacks=after[255:256] == b"z")  # sent earlier, start-up files or qrsh might lose it
            link.out.appendleft(memoryview(needs))
            self.touched.add(link)
            self.join_s = max(self.join_s, now() + self.config.join_timeout_s)
            self.selector.modify(link.fileno(), selectors.EVENT_READ, functools.partial(self.read_dots, site))
            self.agents[site.number] = link
            self.show(site, before)
            return
        if len(after) >= 256:
            link.closed = "this starter is not 8-bit clean: does it make a terminal (ssh -t)?"
        elif not data or len(before) > 1 << 20:
            link.closed = "the connection ended" if not data else "it prints without end"
        if link.closed and not self.may_try_again(site):
            self.lose_host(site, link.closed)

    def may_try_again(self, site: Site) -> bool:
        """Have a command started again soon that has ended because its server was asked too often at once."""
        if site.process.stderr is None or site.n_tries >= MAX_TRIES:
            return False
        said = site.last_words()
        if BUSY not in said or any(re.search(pattern, said) for pattern, _ in CAUSES):  # the way there is broken
            return False
        self.selector.unregister(site.link.fileno())
        self.end_words(site)
        self.again[site] = now() + site.n_tries * (0.5 + os.urandom(1)[0] / 256)  # others wait for the same
        self.join_s = max(self.join_s, self.again[site] + self.config.join_timeout_s)
        return True

    def watch_hosts(self, now_s: float) -> None:
        """Try busy hosts again, give up on those that take too long to join, exchange heartbeats with others."""
        for site in [site for site, start_s in self.again.items() if now_s >= start_s]:
            del self.again[site]
            if site in self.joining:
                self.start_host(site)
        for site in self.sites if self.joining and now_s >= self.join_s else ():
            if site in self.joining:
                said = "it answered, then nothing came" if site.number in self.agents else "no answer"
                self.lose_host(site, f"{said} within {self.config.join_timeout_s:g} s (--join-timeout)")
        self.beat(now_s)

    def run(self) -> int:
        """Run the job; return the exit status (negative: the signal that killed the origin)."""
        for number, handler in self.old_handlers.items():
            if handler is not signal.SIG_IGN or number in NOTICES:
                signal.signal(number, self.on_signal)
        self.start_hosts()
        signal.set_wakeup_fd(self.bell.writer.fileno(), warn_on_full_buffer=False)
        self.catch_suspend()
        while self.agents or self.joining:
            if self.suspending:
                self.suspend()
            if not self.begun:
                self.begin()
            delay = self.end_turn()
            self.flush()
            for key, _ in self.selector.select(self.timeout(delay)):
                key.data()
            self.tell_written()
            self.watch_hosts(now())
            self.end_workers(now())
            self.view.tick()
            if now() >= self.late_s():
                self.kill_all()
        return self.end()

    def begin(self) -> None:
        """Once every host has joined or failed: number the workers, host after host, and start them."""
        if self.joining and self.signalled is None:
            return
        self.begun = True
        shares = [(site.number, site.n or site.cpus) for site in self.sites if site.cpus]
        if self.signalled is not None or len(shares) < (self.config.min_hosts or len(self.sites)):
            self.heard_s = now()  # agents that have joined long ago had nothing to say since
            self.broker.end(1)
            for site in list(self.joining):
                self.lose_host(site, "the job ends before it has begun")
            return
        self.broker.welcome["size"] = sum(n for _, n in shares)
        self.tell_directories()
        if self.config.backend == "zmq":  # only now, as a context must not exist before the agent is forked
            self.router, self.broker.invite = ZmqRouter(self.selector, self.take_zmq), self.invite
        first = ORIGIN
        if self.config.serve >= 0:  # an Executor's client takes the origin's place
            self.broker.is_straight = self.config.is_straight
            self.add_peer(self.broker.join(ORIGIN), self.config.serve)
            first += 1
        for number, n in shares:
            self.broker.start(number, range(first, first + n))
            first += n
        self.flush()
        self.view.begin()

    def timeout(self, delay: Optional[float]) -> Optional[float]:
        """Return the seconds to wait at most: until the broker, the view, a heartbeat or a grace is due."""
        join_s = self.join_s if self.joining else math.inf
        due_s = min(self.view.due_s(), self.late_s(), join_s, *self.ending.values(), *self.again.values())
        beat_s = self.config.heartbeat_s / 2 if self.far else math.inf  # so late, at most, a silence is noticed
        beat_s = min(beat_s, LEAVE_S) if self.broker.status is not None else beat_s
        delay = min(math.inf if delay is None else delay, beat_s, max(0.0, due_s - now()))
        return delay if delay < math.inf else None

    def on_signal(self, number: int, frame: Any) -> None:
        """A first signal asks the script to end, a second soon after it ends everything, as after SIGTERM does time."""
        begun = self.broker.has_begun()
        if number not in NOTICES and not (begun and self.config.interactive and number == signal.SIGINT):
            if self.signalled is not None and (self.signalled != signal.SIGINT or now() < self.second_s + AGAIN_S):
                if now() > self.second_s:  # `timeout` sends us two at once
                    self.is_early, self.kill_s = False, now()
                return
            self.signalled, self.is_early, self.second_s = number, not begun, now() + TWICE_S
            self.kill_s = now() + (1 if self.is_early else math.inf if number == signal.SIGINT else SIGNAL_S)
        if begun or number not in NOTICES:  # before a script has begun, these are for nobody
            self.interrupts.append(number)  # a handler may run in the middle of `encode` or `flush`

    def catch_suspend(self) -> None:
        """Learn of Ctrl-Z, unless whoever started us wants it ignored. No agent must be forked from here on."""
        self.suspending = False
        if hasattr(signal, "SIGTSTP") and signal.getsignal(signal.SIGTSTP) is signal.SIG_DFL:
            signal.signal(signal.SIGTSTP, lambda number, frame: setattr(self, "suspending", True))

    def suspend(self) -> None:
        """Tell the agents of other hosts that silence will mean nothing; then stop, as any program does at Ctrl-Z."""
        self.view.end_line()
        for host, link in self.agents.items():
            self.broker.send_agent(host, message("SUSPEND", AGENT, 0))
            link.drain(1.0)
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        self.catch_suspend()

    def kill_all(self) -> None:
        """End every process of the job, now; a script that has begun meanwhile gets two seconds."""
        if self.is_early and self.broker.has_begun():  # it may be ending, or have missed the signal
            self.is_early, self.kill_s = False, now() + 2
            return
        self.heard_s = now()
        if self.heard_s < self.kill_s:
            if self.broker.status is None and not any(site.pid and is_stopped(site.pid) for site in self.sites):
                return  # the script may have closed its link, and live on: its agent will tell
            on, s = ", ".join(self.broker.host_names.get(host, "") for host in self.agents), self.patience_s()
            self.report(f"the job is over, but nothing was heard of its end on {on} for {s:g} s: it is cut off")
        self.kill_s = now() + 2
        for member in self.broker.members.values():
            self.kill_worker(member)
        if self.broker.status is not None or self.left_s < math.inf:
            self.kill_agents()
        self.broker.end(128 + (self.signalled or signal.SIGTERM))

    def end(self) -> int:
        """Wait for the agents' ends and for the last output; return the job's exit status."""
        if self.router is not None:
            self.router.close()
        for site in self.sites:
            site.end()
        self.view.end()
        self.writer.drain(2)
        while self.writer.left and self.signalled is None:  # a pager, or a stopped terminal: as any program waits
            time.sleep(0.05)
        status = 1 if self.broker.status is None else self.broker.status
        last_words = Writer(self.bell.ring)  # its thread is not stuck
        last_words.broken = self.writer.broken
        for writer, what in ((self.writer, "what workers printed"), (self.view.files, "--log or --trace")):
            why = writer.lost or "it was not read in time" * bool(writer.left)
            if why:
                last_words.put(2, f"scoop_lite: {what} could not all be written: {why}\n".encode())
                status = status or 1
        last_words.drain(2)
        if self.signalled is not None and not (self.broker.said_bye and status >= 0):
            return 128 + self.signalled  # the script did not come to its own end
        return status


# ======================================================================================================================
# What the user sees: progress, summary, wiretap, logs, trace               (recorded in each worker; shown by launcher)
# ======================================================================================================================

TELL_S = 0.25  # a worker tells its numbers and records at most this often: a late line, against a message each time
QUIET_S = 2.0  # runs shorter than this show no progress line
PLAIN_S = 10.0  # between two plain lines of --progress
MERGE_S = 0.005  # runs of tasks of one function, with no gap to speak of, are one record up to this length
SLIP_S = 0.0002  # what counts as no gap
NESTED_S = 0.002  # tasks run inside of others, and shorter than this, are counted, not recorded
NESTED_DEPTH = 6  # and so are those further inside
WAIT_S = 0.001  # shorter waits are not recorded: the gap between two tasks shows them
ALL_DRAWN = 1000  # chunks of each worker whose carving and arrows are in the trace; of later ones each 16th


class Recorder:
    """What a worker knows of its doings, and tells the launcher: numbers, log records, and for --trace what ran when.

    The scheduler's strands measure; any thread may append a record. Where nobody wants to see anything, the hooks find
    None in place of this and cost one attribute test.
    """

    def __init__(self, found: Mailbox, config: Config) -> None:
        self.found, self.scheduler, self.config = found, found.scheduler, config
        self.born_s = self.cut_s = self.zero_s = now()  # cut_s: when a run or a wait last began or ended
        self.tell_s = self.born_s + 0.75 * QUIET_S if config.progress else math.inf
        if config.trace or config.verbose > 0:
            self.tell_s = self.born_s
        self.offset_s, self.host = 0.0, 0  # what to add to this host's clock for the launcher's; zero_s: where ts is 0
        self.records: Deque[Any] = collections.deque()  # of --trace: [ph, name, start, end, more fields]
        self.logs: Deque[bytes] = collections.deque()
        self.stack: List[Run] = []  # what runs on the current strand, outermost first
        self.last: Any = None  # the record to which one of the same function and depth may be added
        self.depth = -1  # its depth; -1: to that one, nothing may be added
        self.n_recorded = 0  # tasks that are in a record: each counts those that have ended since the one before
        self.spent: Dict[str, List[float]] = {}  # tasks, seconds and longest by function
        self.told: Any = None

    # -- measuring --------------------------------------------------------------------------------------------------

    def begin(self, task: Any, start_s: float, func: Any, args: Any, kwargs: Any) -> None:
        """Note that a future's task has begun, or the first one of a job's, and maybe more of its function after it."""
        visit, self.cut_s = task if type(task) is Visit else None, start_s
        self.stack.append((func, args, kwargs, start_s, getattr(task, "born_s", None), visit))

    def end(self, end_s: float, inline: bool = False, n_more: int = 0) -> None:
        """Note that what began last has ended; the scheduler will count `n_more` tasks as done in a moment."""
        self.cut_s, run = end_s, self.stack.pop()
        if not (inline and self.stack and end_s - run[3] < NESTED_S):  # else it is counted only
            self.write(run, self.scheduler.n_done + n_more - self.n_recorded)

    def write(self, run: Run, n: int) -> None:
        """Add a run that ends now to what the summary shows, and to the records: by itself, or to the one before it."""
        func, call, kwargs, start_s, born_s, visit = run
        if is_rest(func):
            return
        name, end_s, depth, last = name_of(func), self.cut_s, len(self.stack), self.last
        self.n_recorded += n
        if self.config.verbose > 0:
            spent = self.spent.get(name, (0, 0.0, 0.0))
            longest_s = max(spent[2], (end_s - start_s) / (n or 1))
            self.spent[name] = [spent[0] + n, spent[1] + end_s - start_s, longest_s]
        if not self.config.trace or not n and end_s - start_s < SLIP_S:
            return
        if (depth, name) == (self.depth, last and last[1]) and start_s - last[3] < SLIP_S and end_s - last[2] < MERGE_S:
            last[3], last[4]["args"]["n"] = end_s, last[4]["args"].get("n", 1) + n
        else:
            about = {"args": brief_call(call, kwargs), "n": None if n == 1 else n, "owner": visit and visit.key[0],
                     "queued_us": born_s and round((start_s - born_s) * 1e6)}  # fmt: skip
            args = {key: value for key, value in about.items() if value is not None}
            self.depth = depth
            self.last = ["X", name, start_s, end_s, {"cat": "task", "args": args}]
            self.records.append(self.last)
        if visit is not None:
            self.arrow("t", start_s, visit.key)

    def park(self) -> List[Run]:
        """The current strand is left: end the records of what runs on it. Return that, for `resume`."""
        stack, self.stack, self.cut_s = self.stack, [], now()
        for run in stack:
            self.depth = -1
            self.write(run, 0)
        self.depth = -1
        return stack

    def resume(self, stack: List[Run]) -> None:
        """Go on with a strand; parts of one stack begin a moment after each other, so that viewers can nest them."""
        self.cut_s = now()
        self.stack = [(*run[:3], self.cut_s + i * 1e-6, None, run[5]) for i, run in enumerate(stack)]

    def wait(self, start_s: float) -> None:
        """Note that this worker has waited for a message since then."""
        self.cut_s = now()
        if self.cut_s - start_s > WAIT_S:
            self.mark("X", "wait", start_s, self.cut_s, cat="wait")

    def mark(self, ph: str, name: str, start_s: float, end_s: float = 0.0, **more: Any) -> None:
        """Append a record. Any thread."""
        if self.config.trace:
            self.records.append((ph, name, start_s, end_s, more))

    def carved(self, start_s: float, block: Block, key: ChunkKey) -> None:
        """Note that a chunk was pickled and sent. If the pump did so while a run began or ended, clip it."""
        if is_drawn(key[2]):
            end_s, args = now(), {"function": name_of(block.job.func), "n": block.hi - block.lo}
            self.mark("X", "carve", start_s, start_s if self.cut_s >= start_s else end_s, cat="carve", args=args)
            if type(block.job) is not Visit:
                self.arrow("s", start_s, key)

    def arrow(self, ph: str, at_s: float, key: ChunkKey) -> None:
        """Begin, lead on or end the arrow from the carving of a chunk through its running to its last result."""
        owner, incarnation, chunk_id = key
        if is_drawn(chunk_id):  # numbered below 2**53
            number = (owner % 4096 << 40) + (incarnation % 64 << 34) + chunk_id % (1 << 34) + 1
            self.mark(ph, "chunk", at_s, cat="flow", id=number)

    # -- telling ----------------------------------------------------------------------------------------------------

    def set_clock(self, welcome: Dict[str, Any]) -> None:
        """Learn the launcher's clock from its WELCOME: halfway between our HELLO and now, unless it is our own."""
        t, self.host = now(), welcome.get("host", 0)
        if "boot" in welcome and welcome["boot"] != boot_id() and welcome["hello"] is not None:
            error_s = (t - welcome["hello"]) / 2
            self.offset_s = welcome["clock"] - t + error_s
            self.mark("M", "scoop_lite", t, args={f"clock of {socket.gethostname()}": f"± {span(error_s)}"})
        self.zero_s = welcome.get("epoch", self.born_s) - self.offset_s

    def is_news(self, idle: bool = True) -> bool:
        """Return True when there is something to be told at the next time for it; `idle`: what would be told."""
        if not self.config.is_followed:
            return bool(self.records)
        known = self.scheduler.n_done, self.scheduler.n_returned + self.n_arrived(), idle
        return known != self.told or bool(self.records)

    def n_arrived(self) -> int:
        """Count results that wait until the running code comes to us."""
        return sum(n for frames in snapshot(self.found.inbox) for _, _, _, n in parts_of(frames))

    def numbers(self) -> Dict[str, Any]:
        """Count what this worker has done so far, and what it knows that is to be done."""
        s, links, n_arrived = self.scheduler, [*self.found.links.values()], self.n_arrived()
        with self.found.lock:
            under_way = [*s.sent.values()]  # the other thread may add to them
            pending = s.undrawn + sum(end - first for sent in under_way for first, end in sent.left) - n_arrived
            for queue in (s.home, s.away, [piece.block for piece in s.slices], *s.levels, getattr(s, "intake", ())):
                # By index, as others may add to it meanwhile. A longer one holds futures, one by one.
                items = [queue[i] for i in range(min(1000, len(queue)))]
                pending += sum(map(own_tasks, items)) + len(queue) - len(items)
        return {
            "done": s.n_done - s.n_visits + s.n_returned + n_arrived, "pending": pending, "ran": s.n_done,
            "batches": s.filled + s.n_straight, "carved": s.n_carved, "rerun": s.n_rerun,
            "sent": sum(link.n_out for link in links), "received": sum(link.n_in for link in links),
            "idle_s": self.found.idle_s, "up_s": now() - self.born_s, "cpu_s": time.process_time(),
        }  # fmt: skip

    def tell(self, final: bool = False, idle: bool = False) -> None:
        """Send numbers and records to the launcher; the last ones by the way that DIED comes, so before it."""
        emit, pipe, config, s = self.found.emit, self.found.pipe, self.config, self.scheduler
        if final:
            self.found.dispatch_unseen(final)
        if final and pipe is not None and pipe is not self.found.link:
            emit = pipe.send
        self.cut_s = t = now()
        every_s = TELL_S * max(1.0, s.live / 100)  # so that a big pool's broker has time for tasks
        self.tell_s = t + every_s if (config.is_followed or config.trace) and not final else math.inf
        rest = s.n_done - self.n_recorded
        if final and rest and self.found.recorder is not None:  # short ones, which the next record would have counted
            self.write((self.found.last_func, (), None, t, None, None), rest)
        numbers = self.numbers()
        if config.is_followed:
            self.send_numbers(emit, numbers, idle, final)
        if self.records:
            self.mark("C", "queue", t, args={"tasks": numbers["pending"]})
            emit(self.scheduler.message("TRACE", self.lines()))
        self.send_logs(emit)

    def send_numbers(self, emit: Callable[[Frames], None], numbers: Dict[str, Any], idle: bool, final: bool) -> None:
        self.told = self.scheduler.n_done, self.scheduler.n_returned + self.n_arrived(), idle
        spent = self.spent if final else {}
        emit(self.scheduler.message("STATS", facts(idle=idle, final=final, spent=spent, **numbers)))

    def due_s(self) -> float:
        """Return when the pump is to tell how far we are, as user code may run for long."""
        return self.tell_s if self.config.is_followed else math.inf

    def tell_meanwhile(self) -> None:
        """Tell that, if it is due. The pump, while user code runs."""
        if now() >= self.due_s():
            self.tell_s = now() + TELL_S * max(1.0, self.scheduler.live / 100)
            if self.is_news(idle=False):
                self.send_numbers(self.found.emit, self.numbers(), False, False)

    def lines(self) -> bytes:
        """Format all records, a line each, in the launcher's time."""
        self.depth, zero_s = -1, self.zero_s
        records = [self.records.popleft() for _ in range(len(self.records))]
        return b"".join(trace_line(ph, name, self.host, self.found.rank, start_s - zero_s, end_s - zero_s, **more)
                        for ph, name, start_s, end_s, more in records)  # fmt: skip

    def log(self, record: logging.LogRecord, text: str) -> None:
        """Send a log record to the launcher: at once, unless this very thread may be in the middle of our own work."""
        elsewhere = bool(logging.getLogger().handlers)  # the script has set up logging: it shows what it likes
        self.logs.append(facts(at_s=now() + self.offset_s, level=record.levelno, logger=record.name, text=text,
                               shown=elsewhere, pid=os.getpid()))  # fmt: skip
        if not self.found.lock.locked():
            self.send_logs(self.found.emit)
            self.found.wait_for_room()

    def send_logs(self, emit: Callable[[Frames], None]) -> None:
        for record in taken(self.logs):
            emit(self.scheduler.message("LOG", record))


class LogHandler(logging.Handler):
    """Passes records of our loggers to `take` (record, text) while that can use them (`alive`), else prints them."""

    def __init__(self, config: Config, take: Callable[..., None], alive: Callable[[], bool]) -> None:
        super().__init__(log_level(config, to_file=True))
        self.take, self.alive = take, alive
        if logger.level == logging.NOTSET:
            logger.setLevel(self.level)
        logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record on its way; where there is none, as in a forked child, print it as `logging` would."""
        if self.alive():
            self.take(record, self.format(record))
        elif logging.lastResort is not None:
            logging.lastResort.handle(record)


def log_level(config: Config, to_file: bool = False) -> int:
    """Return the level from which records are shown, or sent because of --log."""
    shown = max(logging.DEBUG, logging.WARNING - 10 * config.verbose)
    return min(shown, logging.INFO) if to_file and config.log else shown


def is_drawn(chunk_id: int) -> bool:
    """Return whether the carving and the arrows of a chunk are in the trace: bytes on disk stay few per task."""
    return chunk_id < ALL_DRAWN or chunk_id % 16 == 0


def own_tasks(item: Any) -> int:
    """Count the tasks of a queue's item that this worker itself owns, and that wait."""
    if type(item) is Block:
        return 0 if item.job.owner else item.hi - item.lo
    return int(type(item) is tuple or type(item) is Future and item.state == PENDING)  # tuple: of a client's intake


def brief_call(args: Sequence[Any], kwargs: Any) -> str:
    """Write a task's arguments in some 40 characters, without calling anybody's __repr__."""
    parts = [*map(brief, args[:4]), *["…"] * (len(args) > 4)]
    parts += [f"{key}={brief(value)}" for key, value in itertools.islice((kwargs or {}).items(), 3)]
    text = ", ".join(parts)
    return f"({text[:40]}{'…' * (len(text) > 40)})"


def brief(value: Any) -> str:
    """Describe an argument in a few characters, for the trace: never by its own `__repr__`."""
    kind = type(value)
    if kind in (str, bytes):
        return repr(value[:20]) + "…" * (len(value) > 20)
    if kind in (type(None), bool, float, complex) or kind is int and value.bit_length() < 128:
        return repr(value)
    return f"{kind.__name__} of {len(value)}" if kind in (list, tuple, dict, set, frozenset, range) else kind.__name__


TRACE_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def trace_line(ph: str, name: str, host: int, rank: Any, start_s: float, end_s: float = 0.0, **more: Any) -> bytes:
    """Format one event of the Chrome trace-event format, a line of its own. Rounded as they are, slices still nest."""
    ts, lane = round(start_s * 1e6), {} if rank is None else {"tid": rank}
    length = {"dur": max(0, round(end_s * 1e6) - ts)} if ph == "X" else {}
    event = {"ph": ph, "name": name, "pid": host, **lane, "ts": ts, **length, **more}
    return (TRACE_JSON.encode(event) + ",\n").encode("utf-8", "replace")


def date_and_time(wall_s: float) -> str:
    """Format a time of the system's clock, as local time."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(wall_s))


@functools.lru_cache(maxsize=1)
def boot_id() -> str:
    """Name the running kernel: processes on the same one share a clock."""
    known = read_if_there("/proc/sys/kernel/random/boot_id")
    return known.decode().strip() if known else socket.gethostname()


class StatusLine:
    """The last line of a terminal, kept apart from what scrolls above it.

    Programs write to the terminal without us: so a redrawn line among theirs would mix with it, whoever erases first.
    Instead the terminal itself is told to scroll only the lines above (DECSTBM), as `apt` does it, and each drawing
    saves and restores the cursor. One write each, which the kernel does not interleave with others.
    """

    def __init__(self, put: Callable[[bytes], None], fd: int = 2) -> None:
        self.put, self.fd = put, fd
        self.size = (0, 0)  # (columns, lines) for which the terminal is set up
        self.text = ""

    def draw(self, parts: Sequence[str]) -> None:
        """Show as many of these parts as fit, the first cut if need be, if they differ from what is shown."""
        try:
            columns, lines = os.get_terminal_size(self.fd)
            if os.tcgetpgrp(self.fd) != os.getpgrp():
                return  # in the background: the terminal is another's
        except OSError:
            return
        lengths = itertools.accumulate(len(part) + len(", ") for part in parts)
        n = sum(length <= columns + 1 for length in lengths)
        text = ", ".join(parts[: max(1, n)])[: max(0, columns - 1)]
        if not text or lines < 3 or (text, (columns, lines)) == (self.text, self.size):
            return
        data = f"\0337\033[{lines};1H\033[0m\033[2K{text}\0338"
        if self.size != (columns, lines):  # make room: a line more below the cursor, which stays where its text is
            clear = "\033[J" if self.text else ""  # after a resize: nothing but our old line is below the cursor
            data = f"{clear}\0337\033[r\0338\033D\033M\0337\033[1;{lines - 1}r\0338" + data
        self.text, self.size = text, (columns, lines)
        self.put(data.encode())

    def erase(self) -> None:
        """Give the terminal back as it was."""
        if self.text:
            self.put(f"\0337\033[r\033[{self.size[1]};1H\033[2K\0338".encode())
        self.text, self.size = "", (0, 0)


_pipes: Dict[str, int] = {}  # named pipes that are open, by path


def open_to_write(path: str) -> int:
    """Open a file to be written anew; of our own output, go on behind what is there."""
    own = own_output(path)
    if own or path in _pipes:
        return os.dup(own or _pipes[path])
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)


def own_output(path: str) -> int:
    """Return 1 or 2 if that is what a path names, else 0."""
    with contextlib.suppress(OSError):  # it does not exist, or output is closed
        return next((fd for fd in (1, 2) if os.path.samestat(os.stat(path), os.fstat(fd))), 0)
    return 0


def is_pipe(path: str) -> bool:
    """Say whether there is a named pipe."""
    return os.path.exists(path) and stat.S_ISFIFO(os.stat(path).st_mode)


class View:
    """Shows the user what the launcher knows; all methods run in its main thread, writing is the writers' business."""

    def __init__(self, launcher: Launcher) -> None:
        self.launcher, self.config, self.broker = launcher, launcher.config, launcher.broker
        self.start_s, self.started, self.pid = now(), time.time(), os.getpid()
        # What was told last, by rank and incarnation; with 0, by all who have ended, together.
        self.numbers: Dict[Tuple[int, int], Dict[str, Any]] = {}
        self.files = Writer(launcher.bell.ring)
        self.trace = self.log = -1  # descriptors
        self.logs: List[Tuple[float, str]] = []  # a heap: records wait for earlier ones from other hosts
        self.rates: Deque[Tuple[float, int]] = collections.deque(maxlen=20)
        live = self.config.progress == "line"
        self.line = StatusLine(functools.partial(launcher.writer.put, 2)) if live else None
        self.next_s = self.start_s + (QUIET_S if live else PLAIN_S) if self.config.progress else math.inf
        self.broker.observe, self.broker.clock = self.observe, now
        self.broker.welcome.update(epoch=self.start_s, boot=boot_id())
        if self.config.wiretap:
            self.tap("turn", "worker {} > broker")
            self.tap("agent_turn", "agent {} > broker")
            self.tap("send", "broker > worker {}")
            self.tap("send_agent", "broker > agent {}")

    def begin(self) -> None:
        """Open the files, as no process is forked any more that would inherit them; with -v, say what starts."""
        c, n, hosts = self.config, self.broker.welcome["size"], ", ".join(self.broker.host_names.values())
        strands = c.strands if c.strands != "auto" else "greenlet" if importlib.util.find_spec("greenlet") else "thread"
        run = {"workers": n, "hosts": hosts, "engine": c.backend, "strands": strands, "seed": c.seed,
               "Python": "%d.%d.%d" % sys.version_info[:3]}  # fmt: skip
        if c.verbose > 0:
            self.launcher.report(f"version {__version__}, " + ", ".join(f"{key} {value}" for key, value in run.items()))
        self.log, self.trace = map(self.files.open, (c.log, c.trace))
        command = " ".join(["scoop_lite.py", c.main_name, *c.args])[:200]
        self.files.put(self.trace, b"[\n")
        about = {"command": command, "version": __version__, "started": date_and_time(self.started), **run}
        self.draw("M", "scoop_lite", args=about)
        for number, name in self.broker.host_names.items():
            self.draw("M", "process_name", number, args={"name": f"host {name}"})
        for member in self.broker.members.values():
            name = f"worker {member.rank}" if member.capacity else "client"
            self.draw("M", "thread_name", member.host, member.rank, args={"name": name})
        LogHandler(c, lambda record, text: self.take_log(now(), record.levelno, record.name, text, "launcher", False),
                   lambda: os.getpid() == self.pid)  # fmt: skip

    def end_line(self) -> None:
        """Give the terminal back, until the next `tick`."""
        if self.line is not None:
            self.line.erase()
            self.launcher.writer.drain(0.5)

    # -- what comes from workers ------------------------------------------------------------------------------------

    def observe(self, kind: str, member: Member, told: Any) -> None:
        """Take in what STATS, TRACE or LOG tells, or that a worker has died."""
        host = self.broker.host_names.get(member.host, "?")
        if kind == "STATS":
            numbers = {**told, "host": host, "rank": member.rank, "works": member.capacity > 0}
            if told["final"]:  # a worker may have a million predecessors
                self.numbers.pop((member.rank, member.incarnation), None)
                numbers = add_numbers(self.numbers.get((member.rank, 0), {}), numbers)
            self.numbers[member.rank, member.incarnation * (not told["final"])] = numbers
        elif kind == "TRACE":
            self.files.put(self.trace, told)
        elif kind == "LOG":
            self.take_log(told["at_s"], told["level"], told["logger"], told["text"], f"{host}, worker {member.rank}",
                          told["shown"], host=host, rank=member.rank, pid=told["pid"])  # fmt: skip
        elif kind == "DIED":
            self.draw("i", "worker lost", member.host, member.rank, s="p", cat="fault", args={"text": told})
            self.take_log(now(), logging.WARNING, "scoop_lite", told, "launcher", True)

    def draw(self, ph: str, name: str, host: int = 0, rank: Optional[int] = None, **more: Any) -> None:
        """Write an event of the launcher's own into the trace."""
        self.files.put(self.trace, trace_line(ph, name, host, rank, 0 if ph == "M" else now() - self.start_s, **more))

    def take_log(self, at_s: float, level: int, name: str, text: str, who: str, shown: bool, **more: Any) -> None:
        """Show a log record on the terminal, unless it is to be seen elsewhere, and keep it for the log file."""
        if level >= log_level(self.config) and not shown:
            text_in_lines = f"scoop_lite: {logging.getLevelName(level)} from {who}: {text}\n"
            self.launcher.writer.put(2, text_in_lines.encode("utf-8", "replace"))
        if self.log >= 0:
            wall_us = round((time.time() - now() + at_s) * 1e6)  # by the clock as it is set now
            stamp = f"{date_and_time(wall_us // 10**6)}.{wall_us % 10**6:06}"
            more = {"time": stamp, "level": logging.getLevelName(level), "logger": name, **more, "text": text}
            heapq.heappush(self.logs, (at_s, json.dumps(more) + "\n"))

    def write_logs(self, until_s: float) -> None:
        while self.logs and self.logs[0][0] <= until_s:
            self.files.put(self.log, heapq.heappop(self.logs)[1].encode())

    # -- progress and summary ---------------------------------------------------------------------------------------

    def due_s(self) -> float:
        """Return when `tick` has something to do."""
        return min(self.next_s, self.logs[0][0] + 0.5) if self.logs else self.next_s

    def tick(self) -> None:
        """Redraw the progress line, or write a plain one, when it is time for that."""
        t = now()
        self.write_logs(t - 0.5)
        if t < self.next_s:
            return
        self.next_s = t + (PLAIN_S if self.line is None else TELL_S)
        if self.line is None:
            self.launcher.report(", ".join(self.progress(t)))
        elif not self.launcher.writer.left:  # a stopped terminal is not sent more
            self.line.draw(self.progress(t))

    def progress(self, t: float) -> List[str]:
        """Say how far the run is, the most important first."""
        broker, told = self.broker, self.numbers
        done = sum(numbers["done"] for numbers in told.values())
        live = [told[m.rank, m.incarnation] for m in broker.members.values() if (m.rank, m.incarnation) in told]
        known = done + sum(numbers["pending"] for numbers in live)
        n_idle = sum(numbers["idle"] and numbers["rank"] in broker.hungry for numbers in live)
        self.rates.append((t, done))
        (t0, done0), parts = self.rates[0], [f"{done:,}/{known:,} tasks"]
        rate = (done - done0) / (t - t0) if t > t0 else done / (t - self.start_s)
        if rate > 0:
            parts.append(f"{rate:,.{0 if rate >= 10 else 1}f}/s")
            if known > done:
                parts.append(f"{span(max(1, round((known - done) / rate)))} left")
        parts += [f"{broker.live() - n_idle}/{plural(broker.live(), 'worker')} busy"]
        parts += [plural(self.n_rerun(), "re-run")] * (self.n_rerun() > 0)
        return [*parts, plural(len(broker.host_names), "host")]

    def n_rerun(self) -> int:
        """Count what was run again, as the broker knows, or a client whose tasks go past it."""
        straight: int = sum(numbers["rerun"] for numbers in self.numbers.values())
        return self.broker.n_rerun + straight

    def end(self) -> None:
        """Take the progress line away, close the files, and with -v sum up."""
        self.end_line()
        self.write_logs(math.inf)
        last = trace_line("M", "scoop_lite", 0, None, 0, args={"ended": date_and_time(time.time())})
        self.files.put(self.trace, last[:-2] + b"\n]\n")  # as JSON has it: no comma
        self.files.drain(2)
        if self.config.verbose > 0:
            for text in self.summary():
                self.launcher.report(text)

    def summary(self) -> Iterator[str]:
        """Yield the lines of the summary. busy: not waiting for messages; lost: not there, as starting or dead."""
        wall_s, n = now() - self.start_s, self.broker.welcome["size"]
        by_rank: Dict[int, Dict[str, Any]] = {}
        for rank, incarnation in sorted(self.numbers):  # of one that was killed, what it told last
            by_rank[rank] = add_numbers(by_rank.get(rank, {}), self.numbers[rank, incarnation])
        told = [*by_rank.values()]
        done, batches, carved, sent, received = (
            sum(v[name] for v in told) for name in ("done", "batches", "carved", "sent", "received"))
        told = [v for v in told if v["works"]]  # not an Executor's client
        cpu_s, up_s, idle_s = (sum(v[name] for v in told) for name in ("cpu_s", "up_s", "idle_s"))
        yield (f"{plural(done, 'task')} in {wall_s:.2f} s, CPU {cpu_s + time.process_time():.2f} s, "
               f"efficiency {(up_s - idle_s) / (n * wall_s):.0%} ({plural(n, 'worker')})")  # fmt: skip
        yield (f"{plural(batches, 'batch', 'es')} of {carved / (batches or 1):.1f} tasks, "
               f"{sent + received:,} bytes moved, "
               f"{plural(self.broker.n_died, 'death')}, {plural(self.n_rerun(), 're-run')}")  # fmt: skip
        for host in dict.fromkeys(v["host"] for v in told):
            here = [v for v in told if v["host"] == host]
            yield f"host {host}: {shares(here, wall_s)}"
            for v in here:
                yield f"  worker {v['rank']}: {shares([v], wall_s)}"
        spent: Dict[str, Any] = functools.reduce(add_numbers, told, {"spent": {}})["spent"]
        for name, (count, seconds, longest_s) in sorted(spent.items(), key=lambda item: -item[1][2])[:5]:
            yield f"  {name}: longest {span(longest_s)}, {count:,.0f} measured, {span(seconds)} together"

    # -- wiretap ----------------------------------------------------------------------------------------------------

    def tap(self, name: str, way: str) -> None:
        """Have a method of the broker show the messages that it is called with."""
        call = getattr(self.broker, name)

        def tapped(peer: Any, frames: Frames, *fds: int) -> None:
            if name != "agent_turn" or frames[0][1:5] == TO_BROKER[:4]:  # else it is a worker's, whose `turn` comes
                with contextlib.suppress(*MALFORMED):  # as the broker is going to say
                    self.show(way, getattr(peer, "rank", peer), frames)
            call(peer, frames, *fds)

        setattr(self.broker, name, tapped)

    def show(self, way: str, number: int, frames: Frames) -> None:
        """Write one message as a plain line."""
        kind, n_chunks = NAMES.get(frames[0][0], "?"), len(parts_of(frames))
        sender, receiver = way.format(number).split(" > ")
        line = (f"{(now() - self.start_s) * 1e3:9.2f} ms  {sender:>9} > {receiver:<9}  {kind:<10} "
                f"{plural(n_chunks, 'chunk') if n_chunks else '':<10} {sum(map(len, frames)):8,} B  "
                f"{in_words(kind, frames)}\n")  # fmt: skip
        self.launcher.writer.put(2, line.encode())


def add_numbers(old: Dict[str, Any], new: Dict[str, Any]) -> Dict[str, Any]:
    """Return what two workers have done together, as STATS tells it; all else is the new one's."""
    both = {name: value + old.get(name, 0) if type(value) in (int, float) else value for name, value in new.items()}
    spent = dict(old.get("spent", {}))
    for name, (count, seconds, longest_s) in new["spent"].items():
        n, sum_s, most_s = spent.get(name, (0, 0.0, 0.0))
        spent[name] = n + count, sum_s + seconds, max(most_s, longest_s)
    return {**both, "spent": spent, "rank": new["rank"]}


def shares(told: List[Dict[str, Any]], wall_s: float) -> str:
    """Say what workers, each with its predecessors, did with their time."""
    up_s, idle_s = sum(v["up_s"] for v in told), sum(v["idle_s"] for v in told)
    return (f"{plural(sum(v['ran'] for v in told), 'task')}, busy {up_s - idle_s:.2f} s, idle {idle_s:.2f} s, "
            f"lost {max(0.0, len(told) * wall_s - up_s):.2f} s")  # fmt: skip


def parts_of(frames: Frames) -> List[Tuple[int, int, int, int]]:
    """Return (owner, chunk id, first, count) for each chunk of a BATCH, or part of a RESULT."""
    kind, found = NAMES.get(frames[0][0]), []
    if kind in ("BATCH", "RETURNED", *RESULTS):
        at = 2 + (kind == "NEXT")
        form, owner = (PART, OWNER.unpack(frames[1])[0]) if kind in RESULTS else (CHUNK, -1)
        while at < len(frames):
            head = form.unpack(frames[at])
            found.append((owner, *head[:3]) if form is PART else (head[0], *head[2:5]))
            at += 1 + head[-1]
    return found


def in_words(kind: str, frames: Frames) -> str:
    """Say what is in a message."""
    parts, row = parts_of(frames), next((row for row in MESSAGES if row.name == kind), None)
    if row is None:
        return "no message of the table"
    if parts:
        tasks = [f"task{f's {lo}–{lo + n - 1}' if n > 1 else f' {lo}'} of chunk {i}" for _, i, lo, n in parts[:3]]
        text = ", ".join(tasks) + f" and {len(parts) - 3} more" * (len(parts) > 3)
        return f"{'results of ' * (kind in RESULTS)}{text} of worker {parts[0][0]}"
    if row.frames in ("hunger", "count"):
        (n,) = COUNT.unpack_from(frames[1])
        return f"{row.when.partition(';')[0]} ({n} {'wanted ' * (row.frames == 'hunger')}so far)"
    if row.frames.startswith("to, ref"):
        return "{}: tasks of chunk {} from {} on, {} of them".format(row.when, *REF.unpack(frames[2]))
    clear = frames[3] if kind == "CONST" else frames[1] if row.frames.startswith("facts") else b""
    text = bytes(clear[:60]).decode("utf-8", "replace").translate(dict.fromkeys(map(ord, '"{}')))
    return f"{row.when}: {text}{'…' * (len(clear) > 60)}" if text else row.when


def span(seconds: float) -> str:
    """Write a duration."""
    if seconds < 1:
        return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} µs"
    if seconds < 60:
        return f"{seconds:.3g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def visible(text: str) -> str:
    """Return a text with what is not to be printed, and would tell a terminal what to do, as Python writes it."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", lambda found: ascii(found[0])[1:-1], text)


def plural(n: float, word: str, ending: str = "s") -> str:
    """Write a number of things."""
    return f"{n:,} {word}{ending * (n != 1)}"


# ======================================================================================================================
# Command line                                                                                     (launcher, at start)
# ======================================================================================================================


ACCELERATORS = (  # option, value, the module and the package that this value needs, what is not there without
    ("backend", "zmq", "zmq", "pyzmq", "--backend zmq cannot be used; the own engine can"),
    ("strands", "greenlet", "greenlet", "greenlet", "each task that waits keeps a thread"),
)


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one sentence."""

    def error(self, text: str) -> Any:
        """End with the sentence and status 2."""
        self.exit(2, f"scoop_lite: {visible(text)}; see --help\n")


def positive(text: str, least: int = 1, most: int = MAX_HOSTS) -> int:
    """Read a number of workers, hosts or threads; more than MAX_HOSTS are a slip: to start them would take hours."""
    value = int(text)
    if not least <= value <= most:
        bound = f"at least {least}" if value < least else f"at most {most}"
        raise argparse.ArgumentTypeError(f"must be {bound}, not {value}")
    return value


def natural(text: str) -> int:
    """Read a number from 0 on."""
    return positive(text, 0, sys.maxsize)


def seconds(text: str) -> float:
    """Read a duration; "nan" is none."""
    value = float(text)
    if not 0 < value < 2e6:  # the system waits for no more than 24 days
        raise argparse.ArgumentTypeError(f"must be above 0 and below two million, not {value:g}")
    return value


def address(text: str) -> str:
    """Read a host name or an address; return the address. Nothing stays nothing: it would mean every interface."""
    try:
        return text and socket.gethostbyname(text)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text}: {error}") from None


def is_address(text: str) -> bool:
    """Return True for the address of one interface, as numbers: neither a name nor all of them."""
    number, zoned, zone = text.partition("%")
    family = socket.AF_INET6 if ":" in number else socket.AF_INET
    if zoned and (family == socket.AF_INET or not re.fullmatch("[A-Za-z0-9._-]+", zone)):
        return False
    with contextlib.suppress(OSError, ValueError):
        packed = socket.inet_pton(family, number)
        mapped = bytes(10) + b"\xff\xff"  # precedes an IPv4 address in an IPv6 one that means the same
        return any(packed[len(mapped) :] if packed.startswith(mapped) else packed)
    return False


def option(*names: str, **about: Any) -> Tuple[Tuple[str, ...], Dict[str, Any]]:
    """Describe an option: what `add_argument` is to be told. Without another action, it takes a word, "" by default."""
    if "action" not in about and "nargs" not in about:
        about = {"default": "", **about}
    return names, about


PROGRAM_ENDINGS = ".py", ".pyw", ".pyc", ".pyz", ".zip"  # of what Python runs
# Every option there is, by group, as --help shows them. A value whose `dest` is a field of Config goes there as it is.
OPTIONS = {
    "the program": [
        option("script", nargs="?", help="the program, run as `python script.py args...` would; - reads it from stdin"),
        option("args", nargs=argparse.REMAINDER, help="its arguments"),
        option("-m", dest="module", nargs=argparse.REMAINDER, help="run a module as the program"),
        option("-c", dest="code", nargs=argparse.REMAINDER, help="run code as the program"),
        option("-i", dest="interactive", action="store_true", help="a prompt with a running pool, after the program"),
        option("-p", "--path", metavar="DIR", help="working directory of the program"),
        option("--pythonpath", action="append", default=[], metavar="PATH",
               help="prepended to the module search path of workers"),
        option("--seed", type=int, default=0, metavar="S", help="root of futures.task_rng() (default: 0)"),
    ],
    "the pool": [
        option("-n", type=positive, default=0, metavar="N", help="workers, the origin included (default: usable CPUs)"),
        option("--backend", type=str.lower, choices=["auto", "own", "zmq", "loopback", "tcp"], default="auto",
               help="links: our own over inherited descriptors (auto, own); ZeroMQ (zmq); or Windows' way, a port of "
               "127.0.0.1 for fresh interpreters that prove a key (loopback)"),
        option("--strands", choices=["auto", "greenlet", "thread"], default="auto", help="stacks of waiting tasks"),
        option("--retries", type=natural, default=2, metavar="K", help="deaths a task may survive (default: 2)"),
        option("--restarts", type=natural, default=100, metavar="K", help="worker restarts in a minute (default: 100)"),
        option("--max-tasks-per-child", dest="max_tasks", type=natural, default=0, metavar="K",
               help="a worker is replaced after K tasks (default: never)"),
        option("--init", metavar="M:F", help="function F of module M is called first in each worker"),
        option("--nice", type=int, default=0, metavar="N", help="lower the priority of all workers by N"),
        option("--threads-per-worker", dest="threads", type=positive, default=0, metavar="T",
               help="OMP_NUM_THREADS and its kin, unless set (default: CPUs / workers)"),
        option("--check", action="store_true", help="send local calls through pickle too, to find what cannot travel"),
    ],
    "hosts": [
        option("--hosts", "--host", nargs=1, action="extend", default=[], metavar="HOST...",
               help="hosts to run on, the origin's first: a b b user@c:4 n[1-8]:2 (default: the batch job's)"),
        option("--hostfile", metavar="FILE", help="file of hosts, one a line: host, host 4, host slots=4"),
        option("--launcher", default="auto", metavar="auto|ssh|srun|COMMAND",
               help="how to reach a host: a name, or a command as 'qrsh -inherit {host}' (default: auto)"),
        option("--ssh-executable", default="ssh", metavar="CMD", help="ssh with options, as 'ssh -p 2222 -J gate'"),
        option("--rsh", action="store_true", help="reach hosts by rsh"),
        option("--external-hostname", dest="address", type=address, metavar="ADDRESS",
               help="this machine's address that the hosts can reach, for --backend zmq (default: where they see it)"),
        option("--python-interpreter", dest="python", metavar="EXE",
               help="interpreter that runs workers (default: this one, or python3 on hosts where it does not work)"),
        option("--env", action="append", default=[], metavar="NAME,...",
               help="environment variables to pass on to other hosts"),
        option("--prolog", metavar="FILE", help="shell script sourced on each host before its agent"),
        option("--no-ship", dest="ship", action="store_false", help="import the script's modules from their own disks"),
        option("--join-timeout", dest="join_timeout_s", type=seconds, default=JOIN_S, metavar="S",
               help="seconds for a host to join, since one last did, or took in a part of what it needs (default: 10)"),
        option("--min-hosts", type=positive, default=0, metavar="K", help="run if K hosts join (default: all must)"),
        option("--heartbeat", dest="heartbeat_s", type=seconds, default=1.0, metavar="S",
               help="seconds between signs of life of a host, less than --dead-after (default: 1)"),
        option("--dead-after", dest="dead_after_s", type=seconds, default=5.0, metavar="S",
               help="seconds of silence that mean death (default: 5)"),
        option("--tunnel", action="store_true", help="accepted for SCOOP's sake: links go through ssh anyway"),
    ],
    "what you see": [
        option("-v", "--verbose", action="count", default=0, help="say more; twice: debugging"),
        option("-q", "--quiet", action="store_true", help="say nothing but errors"),
        option("--progress", action="store_true", default=None,
               help="show how far the run is, also where standard error is no terminal (a line each 10 s)"),
        option("--no-progress", dest="progress", action="store_false", help="don't, even on a terminal"),
        option("--wiretap", action="store_true", help="show every message that passes the broker"),
        option("--trace", metavar="FILE.json", help="record what ran when, for Perfetto and report.py"),
        option("--log", metavar="FILE", help="log records of all hosts, as JSON lines in order of time"),
        option("--profile", nargs="?", const=".", default="", metavar="DIR", help="cProfile each worker into DIR"),
    ],
    "instead of a run": [
        option("-h", "--help", action="help", help="print this, and stop"),
        option("--dry-run", action="store_true", help="print the plan and the commands, and stop"),
        option("--self-check", action="store_true",
               help="try what a run needs, with a small job for each engine and kind of strand"),
        option("--version", action="store_true", help="print the version, and this file's SHA-256 and path"),
        option("--serve", type=int, default=-1, help=argparse.SUPPRESS),  # an Executor's client starts us with it
        option("--safe-path", action="store_true", help=argparse.SUPPRESS),  # so does --self-check, with this one
    ],
}  # fmt: skip


def parser() -> Parser:
    """Build the parser of the command line."""
    p = Parser(
        prog="scoop_lite",
        usage="python scoop_lite.py [options] script.py [args...] | -m module [args...] | -c code [args...]",
        description="Run a Python program whose futures.map(f, xs) spreads over all cores.",
        allow_abbrev=False,
        add_help=False,  # with it, or an argument outside of a group, each start would import shutil, for 4 ms
    )
    for title, rows in OPTIONS.items():
        group = p.add_argument_group(title)
        for names, about in rows:
            group.add_argument(*names, **about)
    return p


def option_words(**options: Any) -> List[str]:
    """Turn keywords into words of the launcher's command line; refuse what is no option."""
    known, words = {flag: about for title, rows in OPTIONS.items() if title != "instead of a run"
                    for flags, about in rows for flag in flags}, []  # fmt: skip
    for name, value in options.items():
        if value is not None and value is not False:
            flag = "--" + name.replace("_", "-")
            if flag not in known:
                raise TypeError(f"Executor() has no option {name!r}; see python scoop_lite.py --help")
            values = value if isinstance(value, (list, tuple)) else [value]
            bare = value is True or known[flag].get("action") == "count"
            words += [flag] * value if bare else [f"{flag}={value}" for value in values]
    return words


def choose_program(options: argparse.Namespace, root: str) -> Dict[str, Any]:
    """Return what the configuration says of the program; refuse one that cannot be read, in Python's own words."""
    for kind, words in (("module", options.module), ("code", options.code)):
        if words is not None:
            if not words:
                raise MisuseError(f"option -{kind[0]} needs an argument")
            return {"kind": kind, "program": words[0], "root": root}
    path = options.script
    if path is None:
        return {"kind": "prompt", "root": root}
    if path == "-":
        try:
            if sys.stdin is None:
                raise MisuseError("can't read a program from standard input: it is closed")
            return {"kind": "stdin", "program": importlib.util.decode_source(sys.stdin.buffer.read()), "root": root}
        except (OSError, SyntaxError, UnicodeError) as error:
            raise MisuseError(f"can't read a program from standard input: {error}") from error
    spec = importlib.machinery.PathFinder.find_spec("__main__", [path])
    if spec is not None and spec.loader is not None:  # a directory or a zip file, run by the `__main__` in it
        return {"kind": "archive", "program": path, "root": os.path.join(root, path)}
    if os.path.isdir(path):
        raise MisuseError(f"can't find '__main__' module in {path!r}")
    try:
        open(path, "rb").close()
    except OSError as error:
        raise MisuseError(f"can't open file {path!r}: [Errno {error.errno}] {error.strerror}") from error
    return {"kind": "script", "program": path, "root": os.path.dirname(os.path.realpath(path))}


def configure(options: argparse.Namespace) -> Config:
    """Turn options into the configuration; MisuseError if they cannot work."""
    options.env = ",".join(options.env)
    scheduler, hosts = plan_hosts(options)  # files are relative to where the user is, the program is to --path
    try:
        for name in ("trace", "log", "profile", "prolog"):
            path = getattr(options, name)
            if path and (name != "prolog" or os.path.exists(path)):  # a prolog may be on the hosts alone
                setattr(options, name, os.path.abspath(path))
        paths = os.pathsep.join(options.pythonpath).split(os.pathsep)
        options.pythonpath = os.pathsep.join(os.path.abspath(p) for p in paths if p)
        if options.path:
            os.chdir(options.path)
        directory = os.getcwd() if options.serve < 0 else directory_here()
    except OSError as error:
        raise MisuseError(f"--path {options.path or '. (this directory)'}: {error.strerror}") from error
    program = choose_program(options, directory)  # `python` too has the directory on `sys.path`, but for a file
    for wrong, why in mistakes(options, hosts):
        if wrong:
            raise MisuseError(why)
    if not options.dry_run:
        try_files(options)
    terminal = hasattr(os, "tcgetpgrp") and os.isatty(2) and os.environ.get("TERM", "dumb") != "dumb"
    terminal = terminal and options.serve < 0  # else we are in a session without one
    progress = not options.quiet if options.progress is None else options.progress
    hash_seed = os.environ.get(HASH_SEED, "random")
    if hash_seed in ("", "random"):
        hash_seed = str(int.from_bytes(os.urandom(4), "big") or 1)  # 0 would mean: none
    config = Config(**{name: value for name, value in vars(options).items() if name in Config.__annotations__}).replace(
        **program, directory=directory, hosts=tuple(hosts), launcher=choose_launcher(options, scheduler),
        backend="loopback" if not CAN_FORK else options.backend if options.backend in ("zmq", "loopback") else "own",
        progress="line" if progress and terminal else "plain" if options.progress else "", n=options.n or usable_cpus(),
        verbose=-1 if options.quiet else options.verbose, hash_seed=hash_seed,
    )  # fmt: skip
    if options.serve < 0:
        return config
    os.environ.pop(AS_PYTHON, None)
    words = sys.stdin.buffer.read()  # whatever PYTHONIOENCODING says
    if not words:  # an interrupt came before our Executor could say anything
        sys.exit(1)
    told = json.loads(words)
    return config.replace(serve=knock(**told.pop("door")).detach() if "door" in told else options.serve, **told)


def mistakes(o: argparse.Namespace, hosts: Sequence[Host]) -> Iterator[Tuple[Any, str]]:
    """Yield what cannot work with these options, hosts and packages, or on this platform: (is it so, a sentence)."""
    n, first = max(1, len(hosts)), hosts[0].name if hosts else "localhost"
    yield WRONG_PYTHON, WRONG_PYTHON
    yield o.hosts and o.hostfile, "give --hosts or --hostfile, not both"
    yield o.tunnel and o.backend == "zmq", "--tunnel: --backend zmq does not go through ssh; leave out one of the two"
    yield o.rsh and o.launcher not in ("auto", "rsh"), "give --rsh or --launcher, not both"
    same = o.log and o.trace and os.path.realpath(o.log) == os.path.realpath(o.trace)
    device = same and os.path.exists(o.log) and not os.path.isfile(o.log)
    yield same and not device, f"--log and --trace need a file each, not both {o.log}"
    yield o.min_hosts > n, f"--min-hosts {o.min_hosts}: the plan has {plural(n, 'host')}"
    beat = f"--heartbeat {o.heartbeat_s:g}: must be shorter than --dead-after {o.dead_after_s:g}"
    yield o.heartbeat_s >= o.dead_after_s, beat  # else every host that has nothing to say would be dead
    for variable in filter(None, o.env.split(",")):
        yield variable not in os.environ, f"--env {variable}: it is not set here"
    yield o.init and not all(o.init.partition(":")), f"--init {o.init}: it names a function as module:function"
    prompt = f"-i: you type here, but {first} runs the program; write --hosts localhost {first}"
    yield o.interactive and not is_here(first), prompt
    for name, value, module, package, _ in ACCELERATORS:
        needs = f"--{name} {value} needs {package}, which is not installed here (pip install {package})"
        yield getattr(o, name) == value and importlib.util.find_spec(module) is None, needs
    if not hosts:
        yield o.prolog and not os.access(o.prolog, os.R_OK), f"--prolog {o.prolog}: cannot be read"
        yield o.python and not is_command(o.python), f"--python-interpreter {o.python}: there is no such command"
    yield o.prolog and o.backend == "loopback", "--prolog does not work with --backend loopback"
    far = not all(is_here(host) for host, _ in hosts)
    fresh = o.prolog or o.python or far  # agents, which get our source
    yield fresh and __file__.endswith(".pyc"), f"{__file__} is compiled: other hosts and interpreters need the source"
    if fresh:
        own_source()  # or it says that this is not there
    if not CAN_FORK:
        zmq = o.backend == "zmq"
        for wrong, what in (o.prolog, "--prolog"), (o.nice, "--nice"), (zmq, "--backend zmq"), (far, "another host"):
            yield wrong, f"{what} does not work with {sys.platform}"


def is_command(name: str) -> bool:
    """Return True for a program that can be found and run here."""
    import shutil  # where it is used: it would take every start 2 ms

    return shutil.which(name) is not None


def try_files(options: argparse.Namespace) -> None:
    """Create the files and directories that will be written, or refuse them."""
    path = options.profile
    try:
        if path:
            os.makedirs(path, exist_ok=True)
        for path in [path for path in (options.trace, options.log) if path and not own_output(path)]:
            if is_pipe(path):
                await_reader(path)
                continue
            with open(path, "ab") as file:
                if os.path.isfile(path):  # else it may be /dev/null
                    size = file.tell()
                    file.write(bytes(4096))  # a full disk is told now, not when the results are there
                    file.flush()
                    file.truncate(size)
    except OSError as error:
        raise MisuseError(f"cannot write {path}: {error.strerror}") from error


def await_reader(path: str) -> None:
    """Open a named pipe for good, lest its reader go before we write; OSError if there is none within 2 s."""
    deadline = now() + 2
    while path not in _pipes:
        try:
            _pipes[path] = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            if now() > deadline:
                raise OSError(error.errno, "nobody reads this pipe") from error
            time.sleep(0.01)


def split_words(argv: Sequence[str], p: Parser) -> Tuple[List[str], List[str]]:
    """Return our words, up to the program, and the program's, which argparse would change (it drops `--`).

    What argparse would take the program for is made plain: `--hosts a b` becomes `--hosts=a,b`, and `--profile` without
    a directory `--profile=.`.
    """
    words, i = list(argv), 0
    valued = {name for action in p._actions if action.nargs is None for name in action.option_strings}
    while i < len(words):
        bundle = re.match("-[ivq]*([cmn])(.*)", words[i], re.DOTALL)  # -qn 4, -im module, -n4
        name, attached = ("-" + bundle[1], bundle[2]) if bundle else (words[i], "")
        if name in ("-", "--", "-m", "-c") or not name.startswith("-"):
            end = i + 1 + (name in ("--", "-m", "-c") and not attached)
            return words[:end], words[end:]
        if name in ("--hosts", "--host", "--profile"):
            values = up_to_program(words[i + 1 :], p, name)
            if not values and name != "--profile":
                p.error(f"{name} needs a host before the program")
            words[i : i + 1 + len(values)] = [f"{name}={','.join(values) or '.'}"]
        elif name in valued and not attached:
            i += 1
        i += 1
    return words, []


def up_to_program(words: Sequence[str], p: Parser, name: str) -> List[str]:
    """Return the values of --hosts, or --profile, which may have one, from the words behind it, up to the program.

    What is the program among hosts is told by its ending, or its directory, as a host has none; not by what lies here:
    that may be a log named like a host, or put here, by others, to be run in the program's place. So where such a file
    could be meant, the user is to say so.
    """
    values = list(itertools.takewhile(lambda word: word[:1] != "-", words))
    if name == "--profile":  # what is a file, or ends like one, is no directory
        n = 0 if not values or values[0].endswith(PROGRAM_ENDINGS) or os.path.isfile(values[0]) else 1
        doubtful = values[:n] if len(values) == 1 else []
    else:
        programs = [i for i, word in enumerate(values) if word.endswith(PROGRAM_ENDINGS) or os.path.dirname(word)]
        n = min(programs, default=len(values))
        doubtful = values[1:n]  # the first one is a host: there must be one
    for word in doubtful:
        if os.path.isfile(word) or os.path.isfile(os.path.join(word, "__main__.py")):
            p.error(f"{word!r} may be meant for {name}, or be the program: write {name}=... with its values first")
    return values[:n]


def plan_hosts(options: argparse.Namespace) -> Tuple[str, List[Host]]:
    """Return the scheduler that gave us hosts, if any, and the plan; an empty one means this machine alone."""
    scheduler, hosts = "", []
    if options.hosts:
        hosts = parse_hosts(options.hosts, "--hosts")
    elif options.hostfile:
        hosts = parse_hostfile(read_host_file(options.hostfile), options.hostfile)
    else:
        scheduler, hosts = hosts_from_environment(os.environ) or ("", [])
        if not options.quiet:
            tell_unused(scheduler, hosts, options.n)
    own = {first_label(name) for name in (socket.gethostname(), socket.getfqdn())} if scheduler else set()
    hosts = [Host("localhost", n) if is_here(name) or first_label(name) in own else Host(name, n) for name, n in hosts]
    slots = merge_hosts(hosts, "--hosts") if hosts else []
    plan = spread(slots, options.n or None)
    options.cpu_share = granted_share(scheduler, dict(slots), plan)
    return scheduler, plan


def first_label(name: str) -> str:
    """Return what a scheduler's name of a host and the host's own have in common: domain and case may differ."""
    label = name.lower().partition(".")[0]
    return name if label.isdigit() else label  # of an address, all counts


def granted_share(scheduler: str, slots: Mapping[str, int], plan: Sequence[Host]) -> int:
    """Return the CPUs for each worker of those granted, by schedulers that may confine no process to them; else 0.

    PBS sets OMP_NUM_THREADS to the CPUs of a chunk, NCPUS, however many slots (mpiprocs) these have: this says nothing.
    """
    environ, least = os.environ, 1
    if scheduler == "PBS" and environ.get("NCPUS", "").isdecimal():
        least = int(environ["NCPUS"])
        if environ.get("OMP_NUM_THREADS") == environ["NCPUS"]:
            del environ["OMP_NUM_THREADS"]
    confines = scheduler not in ("Grid Engine", "LSF", "PBS")
    return 0 if confines else max(1, min(max(slots[name], least) // n for name, n in plan))


def choose_launcher(options: argparse.Namespace, scheduler: str) -> str:
    """Return the template of the command that reaches hosts: the user's choice, the scheduler's own, or ssh."""
    name: str = "rsh" if options.rsh else options.launcher
    own_ssh = options.ssh_executable != "ssh"
    if name == "auto":
        own = SCHEDULER_STARTERS.get(scheduler, "")
        name = own if own and not own_ssh and is_command(own) else "ssh"
    if own_ssh and name != "ssh":
        raise MisuseError(f"--ssh-executable {options.ssh_executable}: --launcher {name} does not use ssh")
    template = STARTERS.get(name, name)
    if "{host}" not in template:
        raise MisuseError(f"--launcher {name}: it needs a place for the host, as in 'qrsh -inherit {{host}}'")
    try:
        shlex.split(template), shlex.split(options.ssh_executable)
    except ValueError as error:
        raise MisuseError(f"--launcher, --ssh-executable: {error}") from error
    if name == "ssh":
        connect_s = max(1, int(options.join_timeout_s) - 2)  # so that ssh's own words come before our limit
        template = options.ssh_executable + template[3:].replace("{connect_s}", str(connect_s))
    return template


def show_plan(config: Config, commands: bool) -> None:
    """Print the plan on standard error, with the exact commands if these are all that is wanted (--dry-run)."""
    for place, (name, n) in enumerate(config.hosts or (("localhost", config.n),)):
        origin = ", the origin among them" if not place else ""
        amount = plural(n, "worker") if n else "as many workers as CPUs"
        print(f"scoop_lite: {name}: {amount}{origin}", file=sys.stderr)
        if commands and not is_here(name):
            print(shlex.join(starter_command(name, config)))


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Run the command line: what ``python3 scoop_lite.py`` does.

    Args:
        argv: the words after the command; by default those of this process. ``["--help"]`` explains all of them.

    Raises:
        SystemExit: always, at the end, with the program's exit status.

    Example:
        >>> scoop_lite.main(["-n", "2", "--quiet", "-c", "print('hello')"])    # doctest: +SKIP
    """
    lead()
    if argv is None and sys.argv[1:2] == [WORKER]:
        serve_worker(int(sys.argv[2]))
    p = parser()
    words, args = split_words(sys.argv[1:] if argv is None else argv, p)
    options = p.parse_args(words)
    options.args = tuple(args)
    no_program = (options.script, options.module, options.code) == (None, None, None) and not options.interactive
    if options.self_check and (options.dry_run or not no_program):
        p.error("--self-check brings its own program, and runs it; give it neither another nor --dry-run")
    if options.version or options.self_check:
        print(f"scoop_lite {__version__}\n{sum_line()}")
        sys.exit(0 if options.version else self_check([word for word in words if word != "--self-check"], options))
    if no_program and options.serve < 0:
        if words:  # such as `-n 4 $SCRIPT` in a batch job: no success
            p.error("there is no program: give a script, -m module or -c code after the options")
        p.parse_args(["--help"])
    begin_again(options.n or usable_cpus())
    try:
        config = configure(options)
    except MisuseError as error:
        p.error(str(error))
    if config.verbose > 0 and config.hosts or options.dry_run:
        show_plan(config, options.dry_run)
    if options.dry_run:
        sys.exit(0)
    if options.tunnel and not options.quiet:
        print("scoop_lite: --tunnel is not needed: everything goes through ssh's own pipes", file=sys.stderr)
    status = run_launcher(config)
    tell_unread_input(config)
    if status < 0:
        end_by_signal(-status)
    if _run_as_script:  # then all that is left is to take the interpreter apart, which takes 10 ms
        atexit._run_exitfuncs()
        flush_output()
        os._exit(status)
    sys.exit(status)


def run_launcher(config: Config) -> int:
    """Run a whole job; return its exit status."""
    if config.serve < 0 and config.verbose >= 0:
        tell_copies("runs the whole script on all its workers")
    raise_file_limit()
    try:
        return Launcher(config).run()
    except OSError as error:
        if not is_lack(error):
            raise
        sys.exit(f"scoop_lite: the run cannot go on: {error.strerror}; see `ulimit -a`")


def sum_line() -> str:
    """Return this file's SHA-256 and path, as `sha256sum --check` reads them; or why there is none."""
    path, mark = os.path.abspath(__file__), ""
    if "\n" in path:
        path, mark = path.replace("\\", "\\\\").replace("\n", "\\n"), "\\"
    try:
        return f"{mark}{sha256(own_source())}  {path}"
    except MisuseError as error:
        return str(error)


#: What a command that starts a program several times tells each of them: which it is, and of how many.
COPIES = (
    ("srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
    ("mpirun", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("mpiexec", "PMI_RANK", "PMI_SIZE"),
)


@functools.lru_cache(maxsize=None)  # once, however many pools a program makes
def tell_copies(fault: str) -> None:
    """Tell the user, once, if we were started as programs of MPI are, of which each does all the work."""
    for command, rank, size in COPIES:
        n = os.environ.get(size, "")
        if os.environ.get(rank) == "0" and n.isdigit() and n not in ("0", "1"):
            what = f"{command} has started {n} of us, and each {fault}"
            print(f"scoop_lite: {what}; leave out {command}, unless you mean that", file=sys.stderr)
            return


def tell_unused(scheduler: str, hosts: Sequence[Host], n: int) -> None:
    """Tell the user what of a batch job is not used: other components' hosts; CPUs, if -n asks for none; all of it."""
    environ, told = os.environ, ""
    components, cpus = environ.get("SLURM_HET_SIZE", "1"), environ.get("SLURM_JOB_CPUS_PER_NODE", "1")
    unread = [name for name in ("COBALT_NODEFILE", "FLUX_URI", "_CONDOR_SLOT") if environ.get(name)]
    if scheduler == "Slurm" and components.isdigit() and components != "1":
        told = (f"of the job's {components} components only the first one's hosts are used; ask for one, or name all "
                "hosts by --hosts if ssh reaches them")
    elif scheduler == "Slurm" and not n and sum(host.n for host in hosts) == 1 and cpus.isdecimal() and cpus != "1":
        told = f"1 worker on {cpus} CPUs, as 1 task was asked for; -n {cpus} starts one per CPU"
    elif unread and not scheduler and not n:
        told = (f"{unread[0]} is of a scheduler that is not asked for its hosts: workers start here, one per CPU; "
                "see --hosts, --hostfile and -n")
    if told:
        print(f"scoop_lite: {told}", file=sys.stderr)


def tell_unread_input(config: Config) -> None:
    """Tell the user if something was piped in that a program on another host could not read."""
    host = config.hosts[0][0] if config.hosts else "localhost"
    if not is_here(host) and config.serve < 0 and config.verbose >= 0:
        n = bytearray(4)
        with contextlib.suppress(OSError):  # it is closed, or /dev/null
            if not os.isatty(0):
                fcntl.ioctl(0, termios.FIONREAD, n)
        if any(n):
            remedy = f"write --hosts localhost {host}, if it was meant for that"
            print(f"scoop_lite: {host} ran the program, so nobody read standard input; {remedy}", file=sys.stderr)


def raise_file_limit() -> None:
    """Allow as many descriptors as the system lets us: a link for each worker."""
    if resource is not None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        enough = 10240 if hard == resource.RLIM_INFINITY else min(hard, 1 << 16)  # macOS refuses "unlimited"
        if soft < enough:
            resource.setrlimit(resource.RLIMIT_NOFILE, (enough, hard))


def end_by_signal(number: int) -> None:
    """End as the origin did, without a second core dump."""
    flush_output()
    with contextlib.suppress(OSError, ValueError):  # SIGKILL has no handler
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    sys.exit(128 + number)


# What --self-check runs: tasks that wait for their own tasks, and one that every worker must do. All of it travels by
# name, as hosts may have different versions of Python.
SELF_CHECK = """
import functools, operator, os
from scoop_lite import futures, ScoopError, SIZE

total = functools.partial(futures.mapReduce, abs, operator.add)
try:
    pids = set(futures.run_on_all(os.getpid))
    if len(pids) != SIZE:
        raise SystemExit(f"{len(pids)} of {SIZE} workers answered")
    print(sum(futures.map(total, [range(100)] * 200)))
except ScoopError as error:
    raise SystemExit(error)
"""


def self_check(words: Sequence[str], options: argparse.Namespace) -> int:
    """Print what a run with these words of the command line meets here, and try some; return the exit status."""
    there = [value for _, value, module, _, _ in ACCELERATORS if importlib.util.find_spec(module)]
    engines = ["own", "zmq"][: 1 + ("zmq" in there and not options.tunnel)] if CAN_FORK else ["loopback"]
    engines = engines if options.backend == "auto" else [options.backend]
    strands = ["thread", "greenlet"][: 1 + ("greenlet" in there)] if options.strands == "auto" else [options.strands]
    jobs = (check_job(words, engine, kind) for engine in engines for kind in strands)
    failed = 0
    for verdict, text in itertools.chain(check_host(options), jobs):
        if options.strands == "auto" and "greenlet cannot be imported" in text:
            verdict = "missing"  # where workers run; a run does without
        print(f"{verdict:8}{text}".replace("\n", "\n" + 8 * " "), flush=True)
        failed += verdict == "FAILED"
    print(f"scoop_lite: {failed} failed" if failed else "scoop_lite: all that must work does")
    return 1 if failed else 0


def check_host(options: argparse.Namespace) -> Iterator[Tuple[str, str]]:
    """Yield what this host has and allows: "ok", "missing" (runs go without it) or "FAILED", and the words."""
    import platform

    yield "ok", f"Python {sys.version.split()[0]} on {platform.platform()}: {sys.executable}"
    yield "ok", f"CPUs: {usable_cpus()} to use, by affinity and cgroup quota; {os.cpu_count()} in all"
    for _, _, module, package, without in ACCELERATORS:
        there = importlib.util.find_spec(module)
        yield ("ok", f"{package} is installed") if there else ("missing", f"{package} is not installed: {without}")
    try:
        command = [*shlex.split(options.ssh_executable), "-V"]
        said = subprocess.check_output(command, stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT, timeout=10)
        yield "ok", f"{options.ssh_executable}: {said.decode(errors='replace').strip()}"
    except (OSError, subprocess.SubprocessError) as error:
        yield "missing", f"{options.ssh_executable}: {error}: it cannot reach other hosts"
    if resource is None:
        return  # what follows is none of Windows
    n = options.n or usable_cpus()
    for name, allowed, need in (  # an agent holds three descriptors for each worker, the launcher one
        ("open files", resource.getrlimit(resource.RLIMIT_NOFILE)[1], 32 + 3 * n),  # we raise the soft limit
        ("processes of this user", resource.getrlimit(resource.RLIMIT_NPROC)[0], n + 3),
    ):
        unlimited = allowed == resource.RLIM_INFINITY
        amount, enough = "no limit" if unlimited else f"{allowed:,} allowed", unlimited or allowed >= need
        yield "ok" if enough else "FAILED", f"{name}: {amount}; {n} workers here take about {need}"


def check_job(words: Sequence[str], engine: str, kind: str) -> Tuple[str, str]:
    """Run a small job, with two workers unless `words` ask for others; return what came of it as `check_host` does.

    It imports nothing from the current directory, of which nobody has said that there is a program in it.
    """
    words = ["-n", "2", *words, "--backend", engine, "--strands", kind, "--safe-path", "--no-ship", "-c", SELF_CHECK]
    command = [*own_python(), __file__, *words]
    begin_s = now()
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
        works, output = done.returncode == 0 and done.stdout.split() == [b"990000"], done.stderr + done.stdout
        ended = f"status {done.returncode} after {now() - begin_s:.2f} s"
    except subprocess.TimeoutExpired as error:
        works, output, ended = False, error.stderr or b"", "not done after 60 s"
    said = "" if works else ": " + (output.decode(errors="replace").strip()[-2000:] or "without a word")
    return "ok" if works else "FAILED", f"a job with --backend {engine} --strands {kind}: {ended}{said}"


if _run_as_script:
    main()
