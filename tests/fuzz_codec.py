#!/usr/bin/env python3
"""Fuzz what reads bytes from a link: the ZMTP codec with its handshake, and the broker behind it.

    python3 tests/fuzz_codec.py --runs 1000000            # coverage-guided, if atheris is installed
    python3 tests/fuzz_codec.py --engine random --runs 100000 --seed 1

Each input is one connection's life. Only PeerError may come of it; its memory must stay in proportion to what came; cut
otherwise it must give the same messages. Without atheris, inputs are spoiled copies of good connections, from a seed.
Prints inputs per second; an input that fails is printed as Python, with what it did.
"""

from __future__ import annotations

import argparse
import functools
import random
import resource
import sys
import time
from pathlib import Path

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
    ANYBODY,
    BROKER,
    CHUNK,
    COUNT,
    HUNGER,
    OWNER,
    PART,
    REF,
    REFERENCE,
    REFERENCE_MARK,
    Broker,
    Codec,
    PeerError,
)

LIMIT = 1 << 20  # max_frame while fuzzing: what is announced and does not come may cost this much
KINDS = list(scoop_lite.CODES)
HELLO = scoop_lite.GREETING + scoop_lite.ready(b"DEALER")


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


scoop_lite.handlers_of = quick_handlers_of


def new_broker():
    """A broker with three workers, one of them hungry, one with a chunk of another's."""
    broker = Broker(lambda rank, frames: None, lambda host, frames: None, lambda text: None, restarts=2)
    broker.host_names[0] = "here"
    broker.start(0, range(3))
    for rank in range(3):
        broker.turn(rank, scoop_lite.message("HELLO", rank, 1, scoop_lite.facts(pid=rank)))
    broker.turn(1, scoop_lite.message("HUNGRY", 1, 1, HUNGER.pack(2, 1)))
    broker.end_turn(1.0)
    head = CHUNK.pack(0, 1, 0, 0, 4, 0, 0, 0, 0, 0, 1)
    broker.turn(0, scoop_lite.message("BATCH", 0, 1, b"f", head, b"payload"))
    return broker


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
    assert len(codec.rest) < scoop_lite.BIG_FRAME + 9 and len(codec.whole) <= LIMIT
    assert sum(len(reply) for reply in codec.replies) <= 2 * len(data)
    return [[bytes(frame) for frame in message] for message in codec.messages], refused


def one_input(data):
    """Live one connection: bytes -> codec -> broker, as a worker and as an agent."""
    if not data:
        return
    body = data[1:] if data[0] & 1 else HELLO + data[1:]
    whole = messages_of(body, 1 << 16)
    step = max(1 + (data[0] >> 1), len(body) >> 8)  # long inputs at most 256 times: this is what takes the time
    assert whole == messages_of(body, step), "cut otherwise, it gives other messages"
    broker = new_broker() if whole[0] else None
    for i, message in enumerate(whole[0]):
        for call in ((broker.turn, i % 3), (broker.agent_turn, 0)):
            try:
                call[0](call[1], message)
            except PeerError as error:
                assert len(str(error)) < 4000
        broker.end_turn(2.0 + i)


#: Frames that are right somewhere, for the chunk that `new_broker` has.
FRAMES = [
    *(HUNGER.pack(n, 2) for n in range(4)), *(OWNER.pack(rank, 1) for rank in range(3)), ANYBODY, BROKER, COUNT.pack(1),
    *(REF.pack(0, first, 1) for first in range(4)), *(PART.pack(0, 0, n, 0, 0, 1) for n in range(5)), b"f", b"",
    *(CHUNK.pack(owner, 1, 0, 0, 4, 0, 0, 0, 0, 0, 1) for owner in range(3)), bytes(1), bytes(255), bytes(256),
    *(REFERENCE.pack(REFERENCE_MARK, OWNER.pack(rank, 1), 1, 256) for rank in range(3)), scoop_lite.facts(pid=1),
    scoop_lite.facts(rank=1, incarnation=1, pid=1, code=0, how="ended"),
]  # fmt: skip


def good_frame(rng):
    """Return a frame that may be right; a big one now and then."""
    return rng.choice(FRAMES) if rng.random() < 0.98 else bytes(40_000)


def good_input(rng):
    """Return a connection as it should be, with messages of every kind."""
    parts = []
    for _ in range(rng.randrange(6)):
        kind, rank = rng.choice(KINDS), rng.choice((0, 1, 2, 2, scoop_lite.AGENT))
        frames = [good_frame(rng) for _ in range(rng.randrange(5))]
        parts += scoop_lite.encode(scoop_lite.message(kind, rank, rank != scoop_lite.AGENT, *frames))
        if rng.random() < 0.2:
            parts.append(scoop_lite.command(b"PING", b"\0\x0a" + bytes(rng.randrange(20))))
    return bytes([rng.randrange(0, 256, 2)]) + b"".join(map(bytes, parts))


def spoil(rng, data):
    """Flip, cut, repeat or insert bytes."""
    spoiled = bytearray(data)
    for _ in range(rng.randrange(4)):
        at = rng.randrange(len(spoiled) + 1)
        action = rng.randrange(4)
        if action == 0 and at < len(spoiled):
            spoiled[at] = rng.randrange(256)
        elif action == 1:
            del spoiled[at : at + rng.choice((1, 2, 9, 100))]
        elif action == 2:
            spoiled[at:at] = spoiled[at : at + rng.choice((1, 9, 50))]
        else:
            spoiled[at:at] = bytes(rng.randrange(256) for _ in range(rng.choice((1, 2, 9))))
    return bytes(spoiled)


def run_random(runs, seed):
    """Run spoiled good inputs; return 1 at the first that fails."""
    rng, start = random.Random(seed), time.perf_counter()
    for n in range(runs):
        data = spoil(rng, good_input(rng))
        try:
            one_input(data)
        except BaseException:
            print(f"input {n} of seed {seed}: {data!r}", flush=True)
            raise
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(f"{runs} inputs, 0 failed, {seconds:.1f} s, {runs / seconds:.0f} inputs/s, at most {peak} MiB")
    return 0


def run_atheris(runs, seed):
    rng = random.Random(seed)

    def mutate(data, max_size, mutation_seed):
        """Start half of the inputs from good connections: random bytes hardly ever get past the handshake."""
        rng.seed(mutation_seed)
        start = good_input(rng) if rng.random() < 0.5 else data
        return atheris.Mutate(start[:max_size], max_size)

    arguments = [f"-runs={runs}", f"-seed={seed + 1}", "-max_len=4096", "-rss_limit_mb=1024", "-timeout=10"]
    atheris.Setup([sys.argv[0], *arguments], one_input, custom_mutator=mutate)
    atheris.Fuzz()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100_000, help="inputs (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engine", choices=("atheris", "random"), default="atheris" if atheris else "random")
    options = parser.parse_args()
    return (run_atheris if options.engine == "atheris" else run_random)(options.runs, options.seed)


if __name__ == "__main__":
    sys.exit(main())
