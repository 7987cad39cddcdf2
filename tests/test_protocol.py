"""The message table is the protocol's single source of truth: against handlers, README, banners, bad input."""

from __future__ import annotations

import ast
import json
import re
import signal
import socket
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
    Config,
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
            self.turn(rank, "HELLO", scoop_lite.facts(clock=1.0, pid=100 + rank))
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


@pytest.mark.parametrize("kind", ["STARTED", "DIED"])
def test_an_agent_tells_of_workers_of_its_own_host_only(kind):
    """Else one host could end the script on another, with a status of its choice."""
    pool = Pool()
    told = scoop_lite.message(kind, AGENT, 0, scoop_lite.facts(rank=0, incarnation=1, pid=7, code=255, how="fell"))
    with pytest.raises(PeerError, match="worker 0, which is not there"):
        pool.broker.agent_turn(7, told)
    assert sorted(pool.broker.members) == [0, 1, 2] and pool.broker.status is None
    pool.broker.agent_turn(0, told)
    assert (pool.broker.status == 255) == (kind == "DIED")


@pytest.mark.parametrize("code", [-1 << 40, -signal.NSIG, 256, 1 << 40])
def test_a_process_ends_with_no_code_that_there_is_not(code):
    """A launcher that ended with it as the script did would fail at it."""
    pool, told = Pool(), {"rank": 0, "incarnation": 1, "pid": 7, "how": "fell"}
    with pytest.raises(PeerError, match="malformed DIED"):
        pool.broker.agent_turn(0, scoop_lite.message("DIED", AGENT, 0, scoop_lite.facts(**told, code=code)))
    assert 0 in pool.broker.members and pool.broker.status is None


def test_a_batch_that_is_refused_leaves_its_taker_hungry():
    pool = Pool()
    pool.turn(1, "HUNGRY", scoop_lite.HUNGER.pack(3, 2))
    needed = pool.broker.need
    assert needed
    with pytest.raises(PeerError, match="does not have"):
        pool.turn(2, "BATCH", b"f", CHUNK.pack(0, 1, 0, 0, 4, 0, 0, 0, 0, 0, 0))
    assert pool.broker.need == needed and 1 in pool.broker.hungry


STATS = dict.fromkeys(("done", "pending", "ran", "batches", "carved", "rerun", "sent", "received"), 1)
STATS.update(idle=False, final=True, spent={"f": [1, 0.5, 0.5]}, idle_s=0.1, up_s=1.0, cpu_s=1.0)
LOG = {"at_s": 1.0, "level": 30, "logger": "scoop_lite", "text": "t", "shown": False, "pid": 1}


@pytest.mark.parametrize("kind, good, bad", [
    *[("STATS", STATS, {name: 10**400}) for name in ("done", "pending", "carved")],
    *[("STATS", STATS, {"up_s": number}) for number in (float("nan"), float("inf"), 1e300)],
    *[("STATS", STATS, {"spent": {"f": sums}}) for sums in ([1, float("nan"), 1], [10**400, 1, 1], [1, 1], [1, True])],
    *[("LOG", LOG, {"at_s": number}) for number in (float("nan"), float("-inf"), 1e300, 1e17, 1e10, 1)],
    ("LOG", LOG, {"level": 1 << 60}),
], ids=repr)  # fmt: skip
def test_numbers_that_cannot_be_meant_are_refused(kind, good, bad):
    """A launcher that counts, sums up and formats them would fail at them."""
    pool, observed = Pool(), []
    pool.broker.observe = lambda *told: observed.append(told)
    pool.turn(0, kind, scoop_lite.facts(**good))
    with pytest.raises(PeerError):
        pool.turn(0, kind, scoop_lite.facts(**{**good, **bad}))
    assert len(observed) == 1


@pytest.mark.parametrize("kind, good", [
    ("HELLO", {"pid": 1, "clock": 1.0}),
    ("STATS", {**STATS, "spent": {}}),
    ("DIED", {"rank": 1, "incarnation": 1, "pid": 7, "code": 1, "how": "fell"}),
])  # fmt: skip
def test_what_nobody_has_asked_for_is_not_passed_on(kind, good):
    """Nested too deep, it could be read, but not be written again by a launcher that is further up its stack."""
    pool, observed = Pool(), []
    pool.broker.observe = lambda kind, member, told: observed.append(told)
    sender = (AGENT, 0) if kind == "DIED" else (1, 1)
    told = scoop_lite.facts(**good, more=[["deep"]], how_deep=2)
    pool.broker.agent_turn(0, scoop_lite.message(kind, *sender, told))
    assert not any(b"deep" in bytes(frame) for _, frames in pool.sent for frame in frames)
    assert not any("more" in told or "how_deep" in told for told in observed if kind != "DIED")
    with pytest.raises(PeerError):
        pool.broker.agent_turn(0, scoop_lite.message("HELLO", 2, 1, scoop_lite.facts(pid=1, clock=[["deep"]])))


def joining(**facts):
    """A launcher whose one host says JOIN with these facts."""
    launcher = scoop_lite.Launcher(Config(hosts=(("far", 1), ("other", 1))))
    launcher.joining.update(launcher.sites)
    there = {"cpus": 2, "python": "3.9.9", "directory": "/", "lost": False, "facing": "", **facts}
    launcher.take_agent(0, scoop_lite.message("JOIN", AGENT, 0, scoop_lite.facts(**there)))
    return launcher


@pytest.mark.parametrize("cpus", [-5, 0, 10**9, 1 << 40])
def test_a_host_offers_cpus_that_can_be(cpus):
    with pytest.raises(PeerError):
        joining(cpus=cpus)
    assert joining(cpus=3).sites[0].cpus == 3


@pytest.mark.parametrize("facing, found", [
    ("0.0.0.0", ""), ("::", ""), ("0", ""), ("*", ""), ("eth0", ""), ("\ud8ff", ""), ("::ffff:0:0%1", ""),
    ("::ffff:0:0", ""), ("1.2.3.4%\ud800", ""), ("1.2.3.4%eth0", ""), ("fe80::1%", ""), ("fe80::1%\ud800", ""),
    ("fe80::1%a]:1", ""),
    ("", ""), ("10.1.2.3", "10.1.2.3"), ("fe80::1%eth0.1", "fe80::1%eth0.1"), ("::1", "::1"),
    ("::ffff:10.1.2.3", "::ffff:10.1.2.3"), ("fe80::ffff:0:0", "fe80::ffff:0:0"),
])  # fmt: skip
def test_a_host_does_not_choose_that_the_launcher_listens_everywhere(facing, found):
    assert joining(facing=facing).sites[0].facing == found


def test_a_host_joins_once():
    """Else it could keep the launcher waiting for others, past --join-timeout."""
    launcher = joining()
    again = scoop_lite.facts(cpus=2, python="3.9.9", directory="/", lost=False, facing="")
    with pytest.raises(PeerError):
        launcher.take_agent(0, scoop_lite.message("JOIN", AGENT, 0, again))


def test_the_time_to_join_counts_from_the_last_host_that_answered_took_something_in_or_joined(monkeypatch):
    launcher, clock = scoop_lite.Launcher(Config(hosts=(("far", 1), ("other", 1)), join_timeout_s=10)), [1000.0]
    monkeypatch.setattr(scoop_lite, "now", lambda: clock[0])
    ours, theirs = socket.socketpair()
    site = launcher.sites[0]
    site.link, launcher.join_s = scoop_lite.StreamLink(ours), 1003
    launcher.joining.update(launcher.sites)
    launcher.selector.register(ours, 1)
    theirs.send(scoop_lite.MARKER + scoop_lite.ALL_BYTES[1:] + b"-")
    launcher.read_start(site)
    assert launcher.join_s == 1010
    clock[0] += 2
    theirs.send(b".")
    launcher.read_dots(site)
    assert launcher.join_s == 1012
    clock[0] += 5
    there = scoop_lite.facts(cpus=2, python="3.9.9", directory="/", lost=False, facing="")
    launcher.take_agent(0, scoop_lite.message("JOIN", AGENT, 0, there))
    assert launcher.join_s == 1017


@pytest.mark.parametrize("stream", [0, 3, -1, 2**40])
def test_output_goes_to_standard_output_and_error_only(stream):
    launcher = joining()
    head = scoop_lite.facts(rank=1, stream=stream)
    with pytest.raises(PeerError):
        launcher.take_agent(0, scoop_lite.message("OUTPUT", AGENT, 0, head, b"text\n"))
    assert not launcher.writer.left


def test_a_host_that_prints_on_though_it_was_to_wait_is_cut_off(monkeypatch):
    launcher, head = joining(), scoop_lite.facts(rank=1, stream=1)
    monkeypatch.setattr(launcher.writer, "put", lambda *line: None)
    monkeypatch.setattr(scoop_lite, "MAX_MESSAGE", 3000)
    output = scoop_lite.message("OUTPUT", AGENT, 0, head, bytes(1000))
    for _ in range(3):
        launcher.take_agent(0, output)
    with pytest.raises(PeerError, match="prints on"):
        launcher.take_agent(0, output)


def test_a_worker_says_hello_through_the_pipe_of_its_own_host_only():
    launcher = joining()
    launcher.sites[0].link, launcher.sites[1].link = map(scoop_lite.StreamLink, socket.socketpair())
    launcher.router, hello = True, scoop_lite.message("HELLO", 0, 1, scoop_lite.facts(clock=1.0, pid=1))
    launcher.broker.join(0, host=1, capacity=1).route = b"by ZeroMQ"
    launcher.take_agent(0, hello)
    assert launcher.broker.members[0].route == b"by ZeroMQ"
    launcher.broker.members[0].host = 0
    launcher.take_agent(0, hello)
    assert launcher.broker.members[0].route is None


def test_reports_name_what_has_no_name_in_unicode(monkeypatch):
    launcher, said = scoop_lite.Launcher(Config()), []
    monkeypatch.setattr(launcher.writer, "put", lambda *line: said.append(line))
    launcher.report("no directory /caf\udce9")
    assert said == [(2, b"scoop_lite: no directory /caf\\udce9\n")]


def test_a_wiretap_leaves_what_is_malformed_to_the_broker(monkeypatch):
    launcher = scoop_lite.Launcher(Config(wiretap=True))
    monkeypatch.setattr(launcher.writer, "put", lambda *line: None)
    launcher.broker.join(0, host=0, capacity=1)
    for frames in ([], [b"\x05"], scoop_lite.message("BATCH", 0, 1), scoop_lite.message("CANCEL", 0, 1, b"", b"")):
        with pytest.raises(PeerError):
            launcher.broker.turn(0, frames)


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
