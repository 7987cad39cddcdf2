"""The message table is the protocol's single source of truth: against handlers, README, banners, bad input."""

from __future__ import annotations

import ast
import json
import re
import struct
import threading
from pathlib import Path

import fuzz_codec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import scoop_lite
from scoop_lite import (
    AGENT,
    CHUNK,
    CODES,
    COUNT,
    HEADER,
    LOST_REF,
    MESSAGES,
    NAMES,
    OWNER,
    PART,
    REF,
    Broker,
    PeerError,
)

CHECKOUT = Path(__file__).resolve().parents[1]
SOURCE = Path(scoop_lite.__file__).read_text(encoding="utf-8")
PARTIES = {"worker", "broker", "agent", "launcher", "client", "all"}


# ---------------------------------------------------------------------------------------------------------------------
# The table against the file
# ---------------------------------------------------------------------------------------------------------------------


def steps(row):
    """Where a message goes: [senders, …, receivers], a set of parties each."""
    return [set(part.split(", ")) for part in row.direction.split(" > ")]


def test_codes_and_names_are_unique_and_fit_their_byte():
    assert len({row.code for row in MESSAGES}) == len({row.name for row in MESSAGES}) == len(MESSAGES)
    assert all(0 < row.code < 256 for row in MESSAGES)
    assert all(set().union(*steps(row)) <= PARTIES for row in MESSAGES)


def test_answers_are_messages():
    for row in MESSAGES:
        assert set(filter(None, row.answer.split(", "))) <= set(CODES), row


def test_every_urgent_kind_reaches_workers():
    for kind in scoop_lite.URGENT:
        assert steps(MESSAGES[CODES[kind] - 1])[-1] & {"worker", "all"}


@pytest.mark.parametrize("row", MESSAGES, ids=lambda row: row.name)
def test_who_gets_a_message_has_its_handler(row):
    """And nobody else has: a handler without a row would be dead code, or a hole."""
    name = "on_" + row.name.lower()
    receivers = set().union(*steps(row)[1:])
    assert hasattr(Broker, name) == ("broker" in receivers)
    worker = hasattr(scoop_lite.Runtime, name) or hasattr(scoop_lite.Scheduler, name)
    assert worker == bool(receivers & {"worker", "all"})
    assert hasattr(scoop_lite.Agent, name) == ("agent" in receivers)
    client = hasattr(scoop_lite.Client, name) or hasattr(scoop_lite.ClientScheduler, name)
    assert client == bool(receivers & {"worker", "client", "all"})


def handler_names(cls):
    return {name for name in vars(cls) if name.startswith("on_")} - {"on_signal"}


@pytest.mark.parametrize(
    "cls", (Broker, scoop_lite.Scheduler, scoop_lite.Runtime, scoop_lite.Agent, scoop_lite.Neighbourhood)
)
def test_every_handler_has_its_row(cls):
    assert handler_names(cls) <= {"on_" + kind.lower() for kind in CODES}


def test_every_kind_is_sent_somewhere():
    """Kinds are sent by name: `message("KIND"`, `self.to(member, "KIND"`, `self.message("KIND"`; or chosen from two."""
    strings = {node.value for node in ast.walk(ast.parse(SOURCE)) if isinstance(node, ast.Constant)}
    call = r'(message|to|send_agent|recall)\([^()]*(\([^()]*\)[^()]*)*"%s"'
    sent = {kind for kind in CODES if re.search(call % kind, SOURCE)}
    assert set(CODES) - sent <= {"BATCH", "RETURNED"}
    assert set(CODES) <= strings


# ---------------------------------------------------------------------------------------------------------------------
# README and the docstring's contents
# ---------------------------------------------------------------------------------------------------------------------


def readme_rows():
    path = CHECKOUT / "README.md"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    found = re.search(r"<!-- messages -->(.*?)<!-- /?messages -->", text + "<!-- messages -->", re.DOTALL)
    if not found or "<!-- messages -->" not in text:
        pytest.skip("README.md has no message table yet")
    lines = [line for line in found[1].splitlines() if line.startswith("|")]
    cells = [line.replace("`", "").replace("\\>", ">").strip("|").split("|") for line in lines]
    return [[cell.strip() for cell in row] for row in cells]


def test_readme_has_the_same_table():
    header, rule, *rows = readme_rows()
    assert set("".join(rule)) <= set("-: ")
    have = {row[0]: row for row in rows}
    assert list(have) == [row.name for row in MESSAGES]
    for row in MESSAGES:
        for value in (row.direction, row.when):
            assert value in have[row.name], f"README's row of {row.name} lacks {value!r}"


def banners():
    """The titles between two long rules."""
    found = re.findall(r"^# ={20,}\n# (.+?)\n# ={20,}$", SOURCE, re.MULTILINE)
    return [re.split(r"\s{2,}|\s*\(", title)[0].strip() for title in found]


def test_the_docstring_lists_the_banners_in_their_order():
    doc = scoop_lite.__doc__ or ""
    if "Contents" not in doc:
        pytest.skip("the docstring has no contents list yet")
    contents = doc[doc.index("Contents") :]
    places = [contents.find(title.split(":")[0]) for title in banners()]
    assert -1 not in places, [title for title, place in zip(banners(), places) if place < 0]
    assert places == sorted(places)


def test_there_are_banners():
    assert len(banners()) >= 12


# ---------------------------------------------------------------------------------------------------------------------
# Malformed messages
# ---------------------------------------------------------------------------------------------------------------------


class Pool:
    """A broker with three workers on one host, some of whose messages have come, and what it sends."""

    def __init__(self):
        self.sent = []
        self.broker = Broker(lambda member, frames: self.sent.append((member.rank, frames)),
                             lambda host, frames: self.sent.append((host, frames)), lambda text: None)  # fmt: skip
        self.broker.host_names[0] = "here"
        self.broker.start(0, range(3))
        for rank in range(3):
            self.turn(rank, "HELLO", scoop_lite.facts(pid=100 + rank))
        self.turn(1, "HUNGRY", scoop_lite.HUNGER.pack(2, 1))
        self.broker.end_turn(1.0)
        self.turn(0, "BATCH", b"f", CHUNK.pack(0, 1, 0, 0, 4, 0, 0, 0, 0, 0, 1), b"payload")
        self.turn(2, "BATCH", b"f", CHUNK.pack(2, 1, 0, 0, 4, 0, 1, 0, 0, 0, 1), b"payload")

    def turn(self, rank, kind, *frames):
        self.broker.turn(rank, scoop_lite.message(kind, rank, 1, *frames))

    def check(self):
        """The books agree, whatever came."""
        b = self.broker
        assert b.need == sum(max(0, m.wants - m.given) for m in b.members.values())
        assert all(holders and {key[0], *holders} <= set(b.members) for key, holders in b.chunks.items())
        assert all(first < end for holders in b.chunks.values() for ranges in holders.values() for first, end in ranges)
        for _, frames in self.sent:
            assert frames[0][0] in NAMES


def packed(layout):
    """Strategy: a struct filled with small or huge numbers, maybe cut or lengthened."""
    fields = [c for c in layout.format.lstrip("!") if c.isalpha()]
    limits = {"B": 255, "H": 65535, "I": (1 << 32) - 1, "Q": (1 << 64) - 1}
    numbers = [st.one_of(st.integers(0, 4), st.integers(0, limits[c])) for c in fields]
    whole = st.tuples(*numbers).map(lambda values: layout.pack(*values))
    return st.one_of(whole, whole, whole, whole.map(lambda b: b[:-1]), whole.map(lambda b: b + b"\0"))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["pid", "rank", "incarnation", "workers", "code", "how", "why", "live", "error", "missing"]),
        inner, max_size=6), max_leaves=12,
)  # fmt: skip
fact_frames = json_values.map(lambda value: json.dumps(value).encode())
good_death = st.fixed_dictionaries(
    {"rank": st.integers(0, 3), "incarnation": st.integers(0, 2), "pid": st.just(1), "code": st.integers(-9, 9),
     "how": st.just("fell")}
).map(lambda value: json.dumps(value).encode())  # fmt: skip
frame = st.one_of(
    st.binary(max_size=40), fact_frames, good_death, st.just(b"[" * 100_000), st.just(b'{"pid": 1'),
    *map(packed, (COUNT, scoop_lite.HUNGER, OWNER, CHUNK, PART, REF, LOST_REF, HEADER)),
)  # fmt: skip
header = st.one_of(
    st.builds(HEADER.pack, st.sampled_from(sorted(NAMES)), st.integers(0, 3), st.just(1)),
    st.builds(HEADER.pack, st.integers(0, 255), st.sampled_from([0, 1, 2, AGENT]), st.integers(0, 2)),
    st.binary(max_size=12),
)
with_header = st.tuples(header, st.lists(frame, max_size=6)).map(lambda found: [found[0], *found[1]])
any_message = st.one_of(st.lists(frame, max_size=6), with_header)


def survive(pool, call, *args):
    try:
        call(*args)
    except PeerError as error:
        assert str(error)
    pool.check()


@given(st.lists(st.tuples(st.integers(0, 2), any_message), max_size=8))
@settings(deadline=None, max_examples=150)
def test_malformed_messages_of_workers_are_peer_errors_at_most(batch):
    pool = Pool()
    for i, (rank, frames) in enumerate(batch):
        survive(pool, pool.broker.turn, rank, frames)
        survive(pool, pool.broker.end_turn, 2.0 + i)


agent_header = st.one_of(
    st.builds(HEADER.pack, st.sampled_from(sorted(NAMES)), st.just(AGENT), st.just(0)),
    st.builds(HEADER.pack, st.sampled_from(sorted(NAMES)), st.integers(0, 2), st.just(1)),
)


@given(st.lists(st.one_of(any_message, st.tuples(agent_header, frame, frame).map(list)), max_size=8))
@settings(deadline=None, max_examples=150)
def test_malformed_messages_of_agents_are_peer_errors_at_most(batch):
    pool = Pool()
    for i, frames in enumerate(batch):
        survive(pool, pool.broker.agent_turn, 0, frames)
        survive(pool, pool.broker.end_turn, 2.0 + i)


LAYOUTS = {"count": COUNT, "to": OWNER, "ref": REF, "chunk": CHUNK, "(part": PART}


@pytest.mark.parametrize("row", [r for r in MESSAGES if "worker > broker" in r.direction], ids=lambda row: row.name)
def test_each_kind_cut_short_is_malformed(row):
    """A kind whose table row promises frames is refused without them, and with a first one that is none."""
    if not row.frames or row.name == "BYE":
        return
    for frames in ([], [b"\xff"], [b"\xff", b"\xff"], [b"", b"", b"\xff"]):
        pool = Pool()
        if row.name == "CONST" and len(frames) == 3 or row.name == "TRACE" and frames[:1] == [b"\xff"]:
            continue  # all of its frames are there, and may hold anything
        with pytest.raises(PeerError):
            pool.turn(0, row.name, *frames)
        pool.check()


@pytest.mark.parametrize("kind", [row.name for row in MESSAGES if not {"worker"} & steps(row)[0]])
def test_a_worker_cannot_say_what_is_not_its_to_say(kind):
    pool = Pool()
    death = scoop_lite.facts(rank=1, incarnation=1, pid=1, code=0, how="fell", why="")
    with pytest.raises(PeerError, match="no business"):
        pool.turn(0, kind, death, death)
    assert sorted(pool.broker.members) == [0, 1, 2]


@pytest.mark.parametrize("kind", [row.name for row in MESSAGES if steps(row)[:2] == [{"worker"}, {"broker"}]])
def test_an_agent_speaks_for_its_own_workers_only(kind):
    pool = Pool()
    with pytest.raises(PeerError, match="no business"):
        pool.broker.agent_turn(0, scoop_lite.message(kind, AGENT, 0, b"{}"))
    before = len(pool.sent)
    pool.broker.agent_turn(7, scoop_lite.message(kind, 0, 1, b"{}"))  # rank 0 is not on host 7
    assert len(pool.sent) == before


def test_a_past_incarnation_is_not_heard():
    pool = Pool()
    before = len(pool.sent)
    pool.broker.turn(1, scoop_lite.message("HUNGRY", 1, 2, scoop_lite.HUNGER.pack(9, 9)))
    pool.broker.turn(1, scoop_lite.message("HUNGRY", 2, 1, scoop_lite.HUNGER.pack(9, 9)))
    assert len(pool.sent) == before and pool.broker.members[1].wants == 2


def test_what_a_worker_does_not_have_it_cannot_pass_on_or_answer():
    pool = Pool()
    with pytest.raises(PeerError, match="does not have"):
        pool.turn(2, "BATCH", b"f", CHUNK.pack(0, 1, 0, 0, 4, 0, 0, 0, 0, 0, 0))
    before = len(pool.sent)
    pool.turn(2, "RESULT", OWNER.pack(0, 1), PART.pack(0, 0, 4, 0, 0, 1), b"forged")
    assert len(pool.sent) == before


def test_a_chunk_of_tasks_nested_without_end_reaches_nobody():
    """Who got it would make a queue for each depth."""
    head = CHUNK.pack(1, 1, 9, 0, 1, scoop_lite.MAX_DEPTH, 0, 0, 0, 0, 1)
    for kind, frames in (("BATCH", (b"f", head, b"")), ("ALL", (b"f", head, b""))):
        with pytest.raises(PeerError, match="malformed"):
            Pool().turn(1, kind, *frames)
    scheduler = scoop_lite.Scheduler(print, print, threading.Lock())
    with pytest.raises(scoop_lite.MisuseError, match="is there an end"):
        scheduler.level(scoop_lite.MAX_DEPTH)
    assert len(scheduler.levels) == 1


def test_a_cancellation_of_what_is_on_its_way_home_is_answered():
    pool = Pool()
    pool.turn(0, "CANCEL", OWNER.pack(0, 1), REF.pack(99, 3, 1))
    rank, frames = pool.sent[-1]
    assert (rank, NAMES[frames[0][0]], PART.unpack(frames[2])[:3]) == (0, "RESULT", (99, 3, 0))


def test_spoiled_connections_are_peer_errors_at_most():
    """See fuzz_codec.py for the coverage-guided kind."""
    with fuzz_codec.stand_in():
        assert fuzz_codec.run_random(5000, seed=0) == 0


def test_structs_have_no_padding():
    for name in ("HEADER", "COUNT", "OWNER", "CHUNK", "PART", "REF", "LOST_REF", "STATUS"):
        layout = getattr(scoop_lite, name)
        assert layout.format.startswith("!") and layout.size == struct.calcsize(layout.format)
