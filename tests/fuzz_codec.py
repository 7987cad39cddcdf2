#!/usr/bin/env python3
"""Fuzz what reads bytes from a link: the ZMTP codec with its handshake, and what handles messages of each kind.

    python3 tests/fuzz_codec.py --runs 1000000            # coverage-guided, if atheris is installed
    python3 tests/fuzz_codec.py --engine random --runs 100000 --seed 1

Each input is one connection's life. Cut otherwise it must give the same messages. Each message goes to a broker, as
from a worker and as from an agent, which may raise PeerError and nothing else; and to a worker and to an agent, as from
their broker, which they believe: a malformed message may end them with an error of malformed data. No input may take
10 s of the processor, and no million of them memory. Targets live for some hundred inputs: to make them takes long, and
what they went through is part of the test.

Without atheris, inputs are good connections, spoiled at random, from a seed: the same seed gives the same run. Prints
inputs per second; an input that fails is printed as Python, with what it did.
"""

from __future__ import annotations

import argparse
import collections
import functools
import gc
import logging
import math
import os
import pickle
import random
import signal
import struct
import sys
import time
import types
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
try:
    import atheris
except ImportError:
    atheris = None

if __name__ == "__main__" and atheris is not None and "random" not in sys.argv:
    with atheris.instrument_imports(include=["scoop_lite"]):
        import scoop_lite
else:
    import scoop_lite

from scoop_lite import (  # noqa: E402
    AGENT,
    ANYBODY,
    CHUNK,
    COUNT,
    HUNGER,
    LOST_REF,
    OWNER,
    PART,
    REF,
    REFERENCE,
    REFERENCE_MARK,
    STATUS,
    TO_BROKER,
    Broker,
    Codec,
    PeerError,
    ScoopError,
    facts,
    message,
)

LIMIT = 1 << 20  # max_frame while fuzzing: what is announced and does not come may cost this much
HANG_S = 10
GROWTH = 32 << 20  # bytes that a process may grow by after its first inputs
LIFE = 300  # inputs, at most, that targets live
KINDS = list(scoop_lite.CODES)
HELLO = scoop_lite.OPENING
MALFORMED = (  # what may end who believes it
    ScoopError, struct.error, LookupError, ValueError, TypeError, AttributeError, pickle.PickleError
)  # fmt: skip
TARGET_LIMIT = 1 << 10  # messages that go to targets, of one input


# What messages are given to


@functools.lru_cache(maxsize=None)
def handler_names(directions):
    """Return names of handlers by code, found as the broker's are: it takes a new broker most of its time otherwise."""
    return {code: handler.__name__ for code, handler in ORIGINAL((Broker,), *directions).items()}


ORIGINAL = scoop_lite.handlers_of


def quick_handlers_of(owners, *directions):
    """Stand for `handlers_of` where all owners are brokers."""
    if isinstance(owners[0], Broker):
        return {code: getattr(owners[0], name) for code, name in handler_names(directions).items()}
    return ORIGINAL(owners, *directions)


def new_broker():
    """A broker with three workers, one of them hungry, one with a chunk of another's."""
    broker = Broker(lambda member, frames: None, lambda host, frames: None, lambda text: None, restarts=2)
    broker.host_names[0] = "here"
    broker.start(0, range(3))
    for rank in range(3):
        broker.turn(rank, message("HELLO", rank, 1, facts(clock=1.0, pid=rank)))
    broker.turn(1, message("HUNGRY", 1, 1, HUNGER.pack(2, 1)))
    broker.end_turn(1.0)
    head = CHUNK.pack(0, 1, 0, 0, 4, 0, 0, 0, 0, 0, 1)
    broker.turn(0, message("BATCH", 0, 1, b"f", head, b"payload"))
    return broker


def is_fresh(broker):
    """Tell whether all workers are those of `new_broker`; what they say is refused otherwise."""
    return broker.status is None and all(r in broker.members and broker.members[r].incarnation == 1 for r in range(3))


class Wire:
    """A link without another end: what arrives there is put in `arrived`."""

    edge = False

    def __init__(self):
        self.arrived, self.closed, self.n_in, self.n_out = collections.deque(), "", 0, 0

    def receive(self):
        return self.arrived

    def swallow(self, *_):
        return True

    queue = send = flush = drain = send_with_descriptors = beat = watch = swallow

    take = scoop_lite.StreamLink.take

    def ready(self):
        return bool(self.arrived)

    def backlog(self):
        return 0


class Worker(scoop_lite.Runtime):
    """A worker whose broker is not honest; one map of its own is under way, and it has a chunk of another's."""

    def __init__(self):
        config = scoop_lite.Config(n=3, strands="thread")
        super().__init__(config)
        self.link = Wire()
        self.submit(len, ((),), {})
        self.feed(scoop_lite.MapJob(len, [[()] * 8], self.root, None, 4))
        for self.scheduler.ordered in (1, 2, 3):
            self.scheduler.carve()

    def leave(self, status):
        pass  # fuzzing goes on

    leave_with = interrupt_script = leave

    def wake(self):
        pass

    def take(self, frames):
        self.link.arrived.append(frames)
        try:
            self.receive()
            self.dispatch()
        finally:
            self.link.closed = ""
            self.link.arrived.clear()
            if len(self.inbox) > 100:
                raise AssertionError("messages pile up")


class HostWorker(scoop_lite.Child):
    """A worker that is no process."""

    def kill(self):
        pass


class Host(scoop_lite.Agent):
    """An agent whose broker is not honest, and whose workers are no processes."""

    def __init__(self):
        super().__init__(Wire(), scoop_lite.Config(n=3, strands="thread"), local=False)
        self.children = {(pid, 1): HostWorker(pid, 1, pid, -1, Wire()) for pid in range(3)}

    def start_worker(self, rank, incarnation, order):
        assert len(self.children) < 1000

    def on_interrupt(self, frames):
        pass

    def take(self, frames):
        self.link.arrived.append(frames)
        try:
            self.link.take(self.obey)
        finally:
            self.link.arrived.clear()
            self.stop_s = math.inf

    def close(self):
        self.selector.close()
        self.bell.close()


def harmless_loads(data, buffers=()):
    """Stand for pickle.loads: what was fuzzed must not be unpickled."""
    size = len(data) % 8
    if size == 7:
        raise pickle.UnpicklingError("fuzzed")
    return [(len, None)[:size]] if size < 2 else [None] * size


class Targets:
    """A broker, a worker and an agent; renewed when they are old, or refuse everything."""

    def __init__(self):
        self.broker, self.worker, self.host = None, None, None
        self.age = LIFE

    def renew(self):
        self.broker, self.age = new_broker(), 0
        self.worker = Worker()
        if self.host is not None:
            self.host.close()
        self.host = Host()

    def take(self, messages):
        """Handle the messages of one connection."""
        self.age += 1
        if self.age > LIFE or not is_fresh(self.broker):
            self.renew()
        broker = self.broker
        for i, frames in enumerate(messages[:TARGET_LIMIT]):
            rank = frames[0][4] if len(frames[0]) == 9 and frames[0][4] < 3 else i % 3  # nearly always the header's
            for call, sender in ((broker.turn, rank), (broker.agent_turn, 0)):
                try:
                    call(sender, list(frames))
                except PeerError as error:
                    assert len(str(error)) < 4000
            broker.end_turn(2.0 + i)
            for believer in (self.worker, self.host):
                try:
                    believer.take(list(frames))
                except MALFORMED:
                    pass


TARGETS = Targets()
logging.getLogger("fuzz").disabled = True


# One input


def feed(codec, data, step):
    """Feed as a link does: `step` bytes at a time, and a big frame's straight into its buffer."""
    view = memoryview(data)
    while view:
        if codec.big is not None:
            n = min(len(codec.big), len(view), step)
            codec.big[:n] = view[:n]
            codec.filled(n)
        else:
            n = min(step, len(view))
            codec.feed(bytes(view[:n]))
        view = view[n:]


def messages_of(data, step):
    """Return (complete messages, whether it ended in PeerError) of one connection."""
    codec, refused = Codec(max_frame=LIMIT), False
    try:
        feed(codec, data, step)
    except PeerError as error:
        refused = True
        assert len(str(error)) < 4000
    assert len(codec.rest) < scoop_lite.BIG_FRAME + 9 and (codec.big is None or len(codec.big.obj) <= LIMIT)
    assert sum(map(len, codec.replies)) <= 2 * len(data)
    return list(codec.messages), refused


def one_input(data):
    """Live one connection: bytes -> codec -> broker, worker and agent."""
    if not data:
        return
    body = data[1:] if data[0] & 1 else HELLO + data[1:]
    whole = messages_of(body, 1 << 16)
    most = 256 if data[0] < 16 else 16  # cuts: few inputs with many, which take long
    step = max(1 + (data[0] >> 1), len(body) // most)
    assert whole == messages_of(body, step), "cut otherwise, it gives other messages"
    if whole[0]:
        TARGETS.take(whole[0])


# Good connections, and what is done to them

#: Frames that are right somewhere, for what the targets have.
FRAMES = [
    *(HUNGER.pack(n, 2) for n in range(4)), *(OWNER.pack(rank, 1) for rank in range(3)), ANYBODY, TO_BROKER,
    COUNT.pack(1), *(REF.pack(0, first, 1) for first in range(4)),
    *(PART.pack(0, 0, n, 0, 0, 1) for n in range(5)), b"f", b"",
    *(PART.pack(chunk, first, 1, 0, 1, 2) for chunk in range(3) for first in range(2)), REF.pack(1, 0, 4),
    *(CHUNK.pack(owner, 1, 0, 0, 4, 0, 0, 0, 0, 0, 1) for owner in range(3)), bytes(1), bytes(255), bytes(256),
    *(REFERENCE.pack(REFERENCE_MARK, OWNER.pack(rank, 1), 1, 256, 256) for rank in range(3)), facts(pid=1),
    *(STATUS.pack(status, 1) for status in range(3)), *(LOST_REF.pack(0, first, 1, first) for first in range(2)),
    facts(rank=1, incarnation=1, pid=1, code=0, how="ended", host="here"), facts(live=3, hello=1.0, clock=1.0),
    facts(workers=[[1, 1]], size=3, invitations={}), facts(workers=[[1, 2]], size=3), facts(signal=2, count=1),
    facts(number=1, paths=["a.py"], have={}), facts(error="no", missing=["f"]), facts(why="so"), facts(level=1),
]  # fmt: skip


def good_frame(rng):
    """Return a frame that may be right; a big one now and then, whose bytes are no frames, or a thousand small ones."""
    return rng.choice(FRAMES) if rng.random() < 0.98 else rng.choice((b"\xff" * 40_000, b"\xff" * 70_000, bytes(2000)))


def good_message(rng):
    """Return the bytes of a message that may be right, of any kind, now and then with a PING behind it."""
    kind, rank = rng.choice(KINDS), rng.choice((0, 0, 1, 2, AGENT, AGENT))
    frames = [good_frame(rng) for _ in range(rng.randrange(5))]
    parts = scoop_lite.encode(message(kind, rank, rank != AGENT, *frames), [])
    if rng.random() < 0.2:
        parts.append(scoop_lite.command(b"PING", b"\0\x0a" + bytes(rng.randrange(20))))
    return b"".join(map(bytes, parts))


@functools.lru_cache(maxsize=1)
def good_messages(seed):
    """Return some thousand messages to draw from: to make one takes as long as to handle it."""
    rng = random.Random(seed)
    return [good_message(rng) for _ in range(5000)]


def good_input(rng, number=0):
    """Return a connection as it should be, with messages of every kind; of some, the handshake too is to be spoiled."""
    chance, stock = rng.random, good_messages(number // 50_000)
    parts = [stock[int(chance() * len(stock))] for _ in range(int(chance() * 6))]
    first = int(chance() * 256)
    return bytes([first]) + (HELLO if first & 1 else b"") + b"".join(parts)


def spoil(rng, data):
    """Flip, cut, repeat or insert bytes, up to three times."""
    spoiled, chance = bytearray(data), rng.random
    for _ in range(int(chance() * 4)):
        at = int(chance() * (len(spoiled) + 1))
        action, size = int(chance() * 4), (1, 2, 9, 60)[int(chance() * 4)]
        if action == 0 and at < len(spoiled):
            spoiled[at] = int(chance() * 256)
        elif action == 1:
            del spoiled[at : at + size]
        elif action == 2:
            spoiled[at:at] = spoiled[at : at + size]
        else:
            spoiled[at:at] = bytes(rng.getrandbits(8) for _ in range(size * (size < 60))) or bytes(size)
    return bytes(spoiled)


# Runs


def resident():
    """Return this process's resident memory in bytes."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def on_alarm(number, frame):
    raise AssertionError(f"an input took more than {HANG_S} s of CPU")


def run_random(runs, seed):
    """Run spoiled good inputs; return 0, or raise at the first that fails."""
    rng, start, base = random.Random(seed), time.perf_counter(), 0
    before = signal.signal(signal.SIGPROF, on_alarm)
    for n in range(runs):
        data = spoil(rng, good_input(rng, n))
        signal.setitimer(signal.ITIMER_PROF, HANG_S)
        try:
            one_input(data)
        except BaseException:
            print(f"input {n} of seed {seed}: {data!r}", flush=True)
            raise
        if n in (20_000, runs - 1) or n and n % 1_000_000 == 0:
            base = check_growth(n, seed, base)
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.signal(signal.SIGPROF, before)
    seconds = time.perf_counter() - start
    print(f"{runs} inputs of seed {seed}, 0 failed, {seconds:.1f} s, {runs / seconds:.0f} inputs/s")
    return 0


def check_growth(n, seed, base):
    """Say how much memory is held, and that it is no more than after the first inputs; return what it was then."""
    held = resident()
    print(f"seed {seed}: {n} inputs, {held >> 20} MiB", flush=True)
    assert not base or held - base < GROWTH, f"{held - base} bytes more than {base}"
    return base or held


def run_atheris(runs, seed):
    rng = random.Random(seed)

    def mutate(data, max_size, mutation_seed):
        """Start half of the inputs from good connections: random bytes hardly ever get past the handshake."""
        rng.seed(mutation_seed)
        start = good_input(rng) if rng.random() < 0.5 else data
        return atheris.Mutate(start[:max_size], max_size)

    arguments = [f"-runs={runs}", f"-seed={seed + 1}", "-max_len=4096", "-rss_limit_mb=512", f"-timeout={HANG_S}"]
    atheris.Setup([sys.argv[0], *arguments], one_input, custom_mutator=mutate)
    atheris.Fuzz()


def stand_in():
    """Take from scoop_lite what would unpickle, harm other processes or cost time, until the context ends."""
    pickles = types.SimpleNamespace(**{**vars(pickle), "loads": harmless_loads})
    replaced = {"pickle": pickles, "loads": lambda frames: harmless_loads(frames[0]), "handlers_of": quick_handlers_of}
    return mock.patch.multiple(scoop_lite, logger=logging.getLogger("fuzz"), MAX_DEPTH=1000, **replaced)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100_000, help="inputs (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engine", choices=("atheris", "random"), default="atheris" if atheris else "random")
    options = parser.parse_args()
    with stand_in():
        return (run_atheris if options.engine == "atheris" else run_random)(options.runs, options.seed)


if __name__ == "__main__":
    sys.exit(main())
