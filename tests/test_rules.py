"""Rules of broker and scheduler, one at a time, where a simulation of everything would not tell which one failed."""

from __future__ import annotations

import collections
import contextlib
import copyreg
import datetime
import fractions
import functools
import json
import operator
import pickle
import select
import selectors
import signal
import socket
import sys
import threading
import time
import traceback
from types import SimpleNamespace

import pytest
from test_protocol import Pool

import scoop_lite
from scoop_lite import CHUNK, HUNGER, NAMES, ORIGIN, OWNER, PART, REF, Failure, PeerError


def news(pool, call, *args):
    """What the broker sends because of a call; each its receiver, kind and frames after the header."""
    before = len(pool.sent)
    call(*args)
    pool.check()
    return [(to, NAMES[frames[0][0]], frames[1:]) for to, frames in pool.sent[before:]]


def kinds(found):
    return [(to, kind) for to, kind, _ in found]


@pytest.fixture
def pool():
    made = Pool()
    made.said = []
    made.broker.report = made.said.append
    return made


def death(rank, incarnation=1, code=-9):
    facts = scoop_lite.facts(rank=rank, incarnation=incarnation, pid=100 + rank, code=code, how="was killed")
    return scoop_lite.message("DIED", scoop_lite.AGENT, 0, facts)


def die(pool, rank, at_s=2.0, **how):
    pool.broker.now_s = at_s
    return news(pool, pool.broker.agent_turn, 0, death(rank, **how))


# ---------------------------------------------------------------------------------------------------------------------
# Broker
# ---------------------------------------------------------------------------------------------------------------------


def test_a_death_starts_a_successor_with_the_next_incarnation_and_returns_what_was_lost(pool):
    assert {key for key, holders in pool.broker.chunks.items() if 1 in holders} == {(0, 1, 0), (2, 1, 0)}
    found = die(pool, 1)
    lost = {to: scoop_lite.LOST_REF.unpack(frames[1]) for to, kind, frames in found if kind == "LOST"}
    assert lost == {0: (0, 0, 4, 0), 2: (0, 0, 4, 0)} and pool.broker.n_rerun == 8
    assert (0, "START") in kinds(found) and pool.broker.members[1].incarnation == 2
    assert pool.broker.chunks == {}


def test_restarts_are_counted_within_a_minute(pool):
    pool.broker.restarts = 2
    for n, at_s in enumerate((10.0, 30.0)):
        found = die(pool, 1, at_s, incarnation=n + 1)
        assert (0, "START") in kinds(found) and "starting another" in pool.said[-1]
        pool.broker.turn(1, scoop_lite.message("HELLO", 1, n + 2, scoop_lite.facts(clock=1.0, pid=1)))
    found = die(pool, 1, 69.9, incarnation=3)  # the third one within a minute
    assert (0, "START") not in kinds(found) and 1 not in pool.broker.members
    assert pool.said[-1].endswith("; 2 left (--restarts 2)")
    assert [json.loads(bytes(frames[0]))["live"] for to, kind, frames in found if kind == "POOL"] == [2, 2]
    found = die(pool, 2, 70.1)  # the first one is forgotten
    assert (0, "START") in kinds(found)


def test_the_last_worker_lost_leaves_the_origin_alone(pool):
    pool.broker.restarts = 0
    die(pool, 1)
    die(pool, 2)
    assert pool.said[-1].endswith("the origin goes on alone (--restarts 0)") and pool.broker.status is None


def test_a_worker_that_retires_is_replaced_without_a_word_and_without_being_counted(pool):
    pool.broker.restarts = 0
    pool.turn(1, "HUNGRY", HUNGER.pack(4, 2))
    assert pool.broker.need > 0
    found = news(pool, pool.turn, 1, "BYE", scoop_lite.facts(tasks=5))
    assert kinds(found) == [(1, "STOP")]  # it leaves when it knows that we know
    pool.check()
    assert pool.broker.members[1].retires and 1 not in pool.broker.hungry and 1 not in pool.broker.suppliers
    assert pool.broker.need == sum(max(0, m.wants - m.given) for m in pool.broker.members.values()) == 0
    assert (0, "START") in kinds(die(pool, 1, code=0)) and pool.said == [] and not pool.broker.restarted_s


@pytest.mark.parametrize("said_bye, code, status", [(True, 0, 0), (True, 3, 3), (False, 0, 1), (False, -9, -9)])
def test_the_origins_end_is_the_jobs_and_without_bye_no_success(pool, said_bye, code, status):
    found = news(pool, pool.turn, 0, "BYE", scoop_lite.facts(code="0")) if said_bye else []
    found += die(pool, ORIGIN, code=code)
    assert pool.broker.status == status and kinds(found).count((1, "STOP")) == 1
    words = "the origin (pid 100) was killed before its script had ended"
    assert pool.said == [words] * (not said_bye)


def test_when_the_script_has_ended_others_leave_at_once_unmourned_and_who_comes_late_too(pool):
    found = news(pool, pool.turn, ORIGIN, "BYE", scoop_lite.facts(code="0"))
    assert kinds(found) == [(1, "STOP"), (2, "STOP")] and pool.broker.status is None
    assert not {"START", "LOST", "POOL"} & {kind for _, kind in kinds(die(pool, 1, code=0))} and pool.said == []
    pool.broker.start(0, [1])
    hello = news(pool, pool.broker.turn, 1, scoop_lite.message("HELLO", 1, 2, scoop_lite.facts(clock=1.0, pid=7)))
    assert (1, "STOP") in kinds(hello)
    die(pool, ORIGIN, code=5)
    assert pool.broker.status == 5


@pytest.mark.parametrize("restarts", (0, 1, 100))
def test_a_broken_initializer_is_told_once_and_ends_all_restarts(pool, restarts):
    pool.broker.restarts = restarts
    why = scoop_lite.facts(why="no such module")
    assert kinds(news(pool, pool.turn, 1, "BROKEN", why)) == [(ORIGIN, "BROKEN")]
    assert kinds(news(pool, pool.turn, 2, "BROKEN", why)) == []
    assert pool.said == ["worker 1 on here: no such module"]
    assert (0, "START") not in kinds(die(pool, 1))
    pool.turn(2, "BYE", scoop_lite.facts(tasks=5))
    assert (0, "START") not in kinds(die(pool, 2))  # not even for one that retires


def test_an_origin_that_is_not_up_yet_learns_later_that_no_worker_can_begin(pool):
    pool.broker.start(0, [ORIGIN])
    assert news(pool, pool.turn, 1, "BROKEN", scoop_lite.facts(why="w")) == []
    hello = scoop_lite.message("HELLO", ORIGIN, 2, scoop_lite.facts(clock=1.0, pid=7))
    told = news(pool, pool.broker.turn, ORIGIN, hello)
    assert told[-1] == (ORIGIN, "BROKEN", [scoop_lite.facts(why="worker 1 on here: w")])


def test_the_origins_own_initializer_is_told_to_nobody_else(pool):
    assert kinds(news(pool, pool.turn, ORIGIN, "BROKEN", scoop_lite.facts(why="w"))) == []


def test_a_task_for_all_is_spread_with_an_index_for_each(pool):
    head = CHUNK.pack(0, 1, 9, 0, 1, 0, 0, 1, 0, 0, 1)
    pool.turn(0, "ALL", b"f", head, b"payload")
    found = news(pool, pool.broker.end_turn, 3.0)
    assert REF.unpack(next(frames for to, kind, frames in found if kind == "SPREAD")[0]) == (9, 0, 3)
    got = {to: CHUNK.unpack(frames[1])[:5] for to, kind, frames in found if kind == "ALL"}
    assert got == {rank: (0, 1, 9, rank, 1) for rank in range(3)}
    assert all(frames[0] == b"f" and frames[2:] == [b"payload"] for _, kind, frames in found if kind == "ALL")
    assert set(pool.broker.chunks[0, 1, 9]) == {1, 2} and pool.broker.for_all == []


@pytest.mark.parametrize("owner, n", [((0, 1), 2), ((0, 1), 0), ((1, 1), 1), ((0, 2), 1)])
def test_a_task_for_all_that_is_not_its_senders_or_lacks_frames_is_refused(pool, owner, n):
    with pytest.raises(PeerError):
        pool.turn(0, "ALL", b"f", CHUNK.pack(*owner, 9, 0, 1, 0, 0, 1, 0, 0, n), b"payload")
    assert pool.broker.for_all == []


@pytest.mark.parametrize("how", ("starts", "retires"))
def test_a_task_for_all_waits_for_those_that_start_and_for_the_successors_of_those_that_retire(pool, how):
    die(pool, 1)
    if how == "retires":
        pool.turn(2, "BYE", scoop_lite.facts(tasks=5))
    pool.turn(0, "ALL", b"f", CHUNK.pack(0, 1, 9, 0, 1, 0, 0, 1, 0, 0, 1), b"payload")
    assert news(pool, pool.broker.end_turn, 3.0) == []
    pool.broker.turn(1, scoop_lite.message("HELLO", 1, 2, scoop_lite.facts(clock=1.0, pid=1)))
    found = news(pool, pool.broker.end_turn, 4.0)
    assert [kind for _, kind, _ in found] == (["SPREAD"] + ["ALL"] * 3) * (how == "starts")


def test_a_constant_is_echoed_to_all_and_refused_the_second_time(pool):
    frames = [OWNER.pack(1, 1), scoop_lite.COUNT.pack(7), b"name", b"payload"]
    assert sorted(kinds(news(pool, pool.turn, 1, "CONST", *frames))) == [(rank, "CONST") for rank in range(3)]
    assert kinds(news(pool, pool.turn, 2, "CONST", OWNER.pack(2, 1), *frames[1:])) == [(2, "REFUSED")]


def test_hunger_is_a_count_so_that_an_old_word_changes_nothing(pool):
    member = pool.broker.members[2]
    pool.turn(2, "HUNGRY", HUNGER.pack(3, 1))
    pool.check()
    assert member.wants - member.given >= 1 and 2 in pool.broker.hungry and 2 not in pool.broker.suppliers
    pool.turn(2, "HUNGRY", HUNGER.pack(member.given, 2))
    pool.check()
    assert 2 not in pool.broker.hungry


def test_a_worker_begins_with_nothing():
    fresh = scoop_lite.Member(3, 1, 0)
    numbers = {name: value for name, value in vars(fresh).items() if type(value) is int}
    wanted = {"rank": 3, "incarnation": 1, "capacity": 1}
    assert numbers == {**dict.fromkeys(numbers, 0), **wanted} and {"pid", "wants", "given", "ordered"} <= set(numbers)


@pytest.mark.parametrize("heard", ("HELLO", "STARTED"))
def test_a_death_is_told_with_the_process_that_the_worker_was(pool, heard):
    if heard == "STARTED":
        for incarnation, pid in ((1, 55), (2, 66)):  # the second is not the one that runs
            words = scoop_lite.facts(rank=1, incarnation=incarnation, pid=pid)
            pool.broker.agent_turn(0, scoop_lite.message("STARTED", scoop_lite.AGENT, 0, words))
    pool.broker.members[1].host, pool.broker.host_names[1] = 1, "there"
    found = news(pool, pool.broker.lose_host, 1, "its link broke")
    (death,) = [json.loads(bytes(frames[0])) for to, kind, frames in found if kind == "LOST" and to == 2]
    assert (death["rank"], death["pid"], death["host"]) == (1, {"HELLO": 101, "STARTED": 55}[heard], "there")
    assert death["code"] == 1  # of an origin, the job's exit status
    assert death["cut_off"] is True  # so that tasks which must not run twice are not: OPENED may be lost
    assert "is lost with its host: its link broke; 2 left" in pool.said[-1] and 1 not in pool.broker.members


def test_a_worker_is_started_with_its_invitation(pool):
    pool.broker.invite = lambda member: [f"key {member.rank}"]
    ((_, _, frames),) = news(pool, pool.broker.start, 0, [7, 8])
    start = json.loads(bytes(frames[0]))
    assert start["workers"] == [[7, 1], [8, 1]] and start["invitations"] == {"7": ["key 7"], "8": ["key 8"]}


def test_a_death_may_come_before_anything_else():
    sent, said = [], []
    broker = scoop_lite.Broker(lambda *_: None, lambda host, frames: sent.append(NAMES[frames[0][0]]), said.append)
    broker.host_names[0] = "here"
    broker.start(0, [1])
    broker.join(0)
    broker.agent_turn(0, death(1))
    assert sent == ["START", "START"] and broker.members[1].incarnation == 2 and "starting another" in said[0]


def test_the_tasks_of_a_dead_owner_are_forgotten_in_all_books(pool):
    pool.turn(1, "OPENED", OWNER.pack(2, 1), REF.pack(0, 0, 4))
    assert pool.broker.members[1].opened == {(2, 1, 0): 0}
    assert (1, "PURGE", [OWNER.pack(2, 1)]) in die(pool, 2)
    assert not pool.broker.members[1].opened
    assert {key: list(holders) for key, holders in pool.broker.chunks.items()} == {(0, 1, 0): [1]}


def test_big_frames_for_the_broker_itself_are_put_together(pool):
    payload = bytes(range(256)) * 8192
    outbox = scoop_lite.Outbox(OWNER.pack(1, 1))
    big = scoop_lite.message("CONST", 1, 1, OWNER.pack(1, 1), scoop_lite.COUNT.pack(7), b"name", payload)
    ready = list(outbox.put(big))
    while ready:
        pool.broker.turn(1, ready.pop(0))
        outbox.credit = 1
        ready += outbox.take()
    assert [bytes(frame) for frame in pool.broker.constants[b"name"][2:]] == [b"name", payload]


def ordered(found):
    return {to: scoop_lite.COUNT.unpack(frames[0])[0] for to, kind, frames in found if kind == "ORDER"}


def test_the_more_are_hungry_and_the_longer_the_more_suppliers_get_orders():
    pool = Pool()
    broker = pool.broker
    broker.start(0, range(3, 12))
    for rank in range(3, 12):
        pool.turn(rank, "HELLO", scoop_lite.facts(clock=1.0, pid=rank))
    have_orders = lambda: sum(member.ordered > member.filled for member in broker.members.values())  # noqa: E731
    assert broker.end_turn(5.0) is None and have_orders() == 1  # nobody is hungry; what was ordered stays
    pool.turn(3, "HUNGRY", HUNGER.pack(1, 1))
    steps = [(5.001, 0.001, 2), (5.002, 0.004, 4), (5.0058, 0.0005, 4), (5.006, 0.004, 8), (5.010, None, 11)]
    for at_s, again_s, n in steps:  # in time for two, four, … to have answered
        assert broker.end_turn(at_s) == (again_s and pytest.approx(again_s)) and have_orders() == n, at_s
    assert broker.end_turn(5.020) is None and broker.width == 16
    pool.turn(3, "HUNGRY", HUNGER.pack(0, 2))
    assert broker.end_turn(6.0) is None and (broker.width, broker.widen_s) == (2, 6.002)


def test_while_batches_come_at_a_good_pace_no_more_suppliers_are_asked(pool):
    broker, chunks = pool.broker, iter(range(100, 10_000))
    broker.start(0, range(3, 40))
    for rank in range(3, 40):
        pool.turn(rank, "HELLO", scoop_lite.facts(clock=1.0, pid=rank))
    broker.end_turn(5.0)

    def hunger(rank, n):
        member = broker.members[rank]
        pool.turn(rank, "HUNGRY", HUNGER.pack(member.given + n, member.said_hungry + 1))

    for step in range(20):
        hunger(1, 8)
        for _ in range(4):
            pool.turn(0, "BATCH", b"f", CHUNK.pack(0, 1, next(chunks), 0, 1, 0, 0, 0, 0, 0, 1), b"payload")
        broker.end_turn(5.0 + step * 0.005)
        assert broker.need == 4 and broker.width == 2, step
    for at_s, width in (5.2, 4), (5.3, 8):  # it has stopped
        broker.end_turn(at_s)
        assert broker.width == width


def test_who_filled_an_order_last_is_asked_for_all_that_is_wanted_and_others_for_one_batch(pool):
    given, filled = pool.broker.members[1].given, {rank: pool.broker.members[rank].filled for rank in (0, 2)}
    first = next(iter(pool.broker.suppliers))
    other = 2 - first
    for rank in filled:
        pool.broker.members[rank].ordered = filled[rank]
    steps = [(3, 3, None), (4, 5, None), (5, None, None), (6, 7, None), (3, None, None), (2, 2, None), (1, None, None)]
    for serial, (hungry, of_first, of_other) in enumerate(steps, 2):
        pool.turn(1, "HUNGRY", HUNGER.pack(given + hungry, serial))
        found = ordered(news(pool, pool.broker.end_turn, 2.0))
        assert found.get(first) == (of_first and filled[first] + of_first), hungry
        assert found.get(other) == (filled[other] + 1 if serial == 2 else None), hungry


def test_when_all_are_hungry_who_filled_the_last_order_has_one_before_it_has_tasks(pool):
    for serial, rank in enumerate((0, 1, 2), 5):
        pool.turn(rank, "HUNGRY", HUNGER.pack(pool.broker.members[rank].given + 1, serial))
    last = pool.broker.members[2]
    assert not pool.broker.suppliers and pool.broker.last_supplier is last
    last.ordered = last.filled
    assert ordered(news(pool, pool.broker.end_turn, 2.0)) == {2: last.filled + 2}  # not for itself: it would come back
    assert ordered(news(pool, pool.broker.end_turn, 2.1)) == {}
    die(pool, 2)
    assert ordered(news(pool, pool.broker.end_turn, 2.2)) == {}  # its successor has filled none


def big_batch(pool, sender, incarnation=1):
    """The frames of a batch that one has sent ahead in pieces, so that its taker is chosen already."""
    heap = scoop_lite.HEAP.pack(1, 1)
    piece = [scoop_lite.ANYBODY, heap, b"x" * 10]
    found = news(pool, pool.turn, sender, "PIECE", *piece)
    return found, [b"f", CHUNK.pack(0, incarnation, 7, 2, 3, 0, 0, 0, 0, 0, 1), b"payload"]


def test_a_batch_whose_taker_died_while_it_came_is_asked_for_again_of_its_owner(pool):
    pool.turn(2, "HUNGRY", HUNGER.pack(1, 1))
    pool.turn(1, "HUNGRY", HUNGER.pack(pool.broker.members[1].given + 1, 2))
    found, batch = big_batch(pool, 0)
    assert kinds(found) == [(2, "PIECE")]
    die(pool, 2)
    n_rerun = pool.broker.n_rerun
    found = news(pool, pool.turn, 0, "BATCH", *batch)
    assert kinds(found) == [(0, "LOST")]
    death, ref = found[0][2]
    assert scoop_lite.LOST_REF.unpack(ref) == (7, 2, 3, 0)
    assert json.loads(bytes(death))["retired"] is True and pool.broker.n_rerun == n_rerun  # it had not begun
    assert (0, 1, 7) not in pool.broker.chunks and 1 in pool.broker.hungry


def test_a_batch_of_anothers_tasks_whose_taker_died_is_off_the_senders_account(pool):
    pool.turn(2, "HUNGRY", HUNGER.pack(1, 1))
    _, _ = big_batch(pool, 1)
    die(pool, 2)
    before = pool.broker.chunks[0, 1, 0][1]
    assert before == [(0, 4)]
    found = news(pool, pool.turn, 1, "BATCH", b"f", CHUNK.pack(0, 1, 0, 1, 2, 0, 0, 0, 0, 0, 1), b"payload")
    assert kinds(found) == [(0, "LOST")] and pool.broker.chunks[0, 1, 0] == {1: [(0, 1), (3, 4)]}


def test_a_taker_whose_batch_will_not_come_is_hungry_again(pool):
    pool.turn(2, "HUNGRY", HUNGER.pack(1, 1))
    _, batch = big_batch(pool, 0, incarnation=9)
    assert 2 not in pool.broker.hungry and 2 in pool.broker.suppliers and pool.broker.need == 0
    news(pool, pool.turn, 0, "BATCH", *batch)  # it belongs to an owner that has died
    assert 2 in pool.broker.hungry and 2 not in pool.broker.suppliers and pool.broker.need == 1


def test_a_taker_that_has_found_tasks_meanwhile_needs_no_other_batch(pool):
    pool.turn(2, "HUNGRY", HUNGER.pack(1, 1))
    _, batch = big_batch(pool, 0, incarnation=9)
    pool.turn(2, "HUNGRY", HUNGER.pack(0, 2))
    news(pool, pool.turn, 0, "BATCH", *batch)
    assert 2 not in pool.broker.hungry and 2 in pool.broker.suppliers and pool.broker.need == 0


def test_pieces_go_to_one_taker_until_the_end_of_their_transfer(pool):
    for rank in (1, 2):
        pool.turn(rank, "HUNGRY", HUNGER.pack(pool.broker.members[rank].given + 1, 9))
    heap = scoop_lite.HEAP.pack(1, 1)
    source = OWNER.pack(0, 1)
    for _ in range(2):
        found = news(pool, pool.turn, 0, "PIECE", scoop_lite.ANYBODY, heap, b"x")
        assert found == [(1, "PIECE", [source, heap, b"x"])]
    assert pool.broker.members[1].unread == {pool.broker.members[0]: 2}
    assert kinds(news(pool, pool.turn, 1, "CREDIT", source, scoop_lite.COUNT.pack(2))) == [(0, "CREDIT")]
    assert kinds(news(pool, pool.turn, 0, "PIECE", scoop_lite.ANYBODY, heap, b"")) == [(1, "PIECE")]
    assert pool.broker.members[0].target is None
    assert kinds(news(pool, pool.turn, 0, "PIECE", OWNER.pack(2, 1), heap, b"x")) == [(2, "PIECE")]  # of a result


def test_pieces_for_nobody_are_taken_by_the_broker_so_that_their_sender_goes_on(pool):
    for to in (OWNER.pack(1, 9), scoop_lite.TO_BROKER):
        found = news(pool, pool.turn, 0, "PIECE", to, scoop_lite.HEAP.pack(1, 1), b"x")
        assert found == [(0, "CREDIT", [scoop_lite.TO_BROKER, scoop_lite.COUNT.pack(1)])]
        assert news(pool, pool.turn, 0, "PIECE", to, scoop_lite.HEAP.pack(1, 0), b"") == []


@pytest.mark.parametrize("n_sent, n_credits, right", [(0, 1, False), (2, 3, False), (2, 2, True)])
def test_nobody_answers_more_pieces_than_came(pool, n_sent, n_credits, right):
    for _ in range(n_sent):
        pool.turn(0, "PIECE", OWNER.pack(1, 1), scoop_lite.HEAP.pack(1, 1), b"x")
    credit = OWNER.pack(0, 1), scoop_lite.COUNT.pack(n_credits)
    if right:
        assert news(pool, pool.turn, 1, "CREDIT", *credit) == [(0, "CREDIT", list(credit))]
    else:
        with pytest.raises(PeerError, match="malformed CREDIT"):
            pool.turn(1, "CREDIT", *credit)


def test_who_joins_is_the_first_of_its_rank_and_may_run_no_tasks(pool):
    live = pool.broker.live()
    client = pool.broker.join(9)
    assert (client.incarnation, client.host, pool.broker.live()) == (1, -1, live)
    pool.broker.start(0, [9])
    assert pool.broker.members[9].incarnation == 2 and pool.broker.live() == live + 1


def test_a_death_ends_transfers_on_both_sides(pool):
    heap = scoop_lite.HEAP.pack(1, 1)
    pool.turn(1, "PIECE", OWNER.pack(2, 1), heap, b"x")  # the dead one was sending to 2
    for _ in range(3):
        pool.turn(0, "PIECE", OWNER.pack(1, 1), heap, b"x")  # and 0 to it
    found = die(pool, 1)
    assert (2, "PIECE", [OWNER.pack(1, 1), scoop_lite.ALL_HEAPS, b""]) in found
    assert (0, "CREDIT", [scoop_lite.TO_BROKER, scoop_lite.COUNT.pack(3)]) in found
    assert not any(member.unread for member in pool.broker.members.values())


@pytest.mark.parametrize("kind", ("CANCEL", "ABORT"))
def test_a_cancellation_reaches_those_who_have_the_tasks_and_is_answered_if_nobody_has(pool, kind):
    me = OWNER.pack(0, 1)
    pool.turn(1, "RESULT", me, PART.pack(0, 0, 2, 0, 0, 1), b"r")  # tasks 2 and 3 are left
    found = news(pool, pool.turn, 0, kind, me, REF.pack(0, 1, 2))
    assert found == [(1, kind, [me, REF.pack(0, 1, 2)])]
    for first, count in ((0, 2), (4, 1)):
        (found,) = news(pool, pool.turn, 0, kind, me, REF.pack(0, first, count))
        assert found[:2] == (0, "RESULT") and PART.unpack(found[2][1]) == (0, first, 0, 0, scoop_lite.EACH, 0)


def test_what_watchers_are_told_is_checked(pool):
    seen = []
    pool.broker.observe = lambda kind, member, told: seen.append((kind, member.rank, told))
    counts = dict.fromkeys(("done", "pending", "ran", "batches", "carved", "rerun", "sent", "received"), 1)
    sums = {**counts, **dict.fromkeys(("idle_s", "up_s", "cpu_s"), 1.5), "idle": False, "final": True}
    pool.turn(1, "STATS", scoop_lite.facts(**sums, spent={"f": [1, 2.0, 3]}))
    assert [(kind, rank, told["spent"]) for kind, rank, told in seen] == [("STATS", 1, {"f": [1, 2.0, 3]})]
    for spent in ({"f": [1, 2]}, {"f": [1, 2, 3, 4]}, {"f": [1, 2, "3"]}, {"f": 3}):
        with pytest.raises(PeerError, match="no sums"):
            pool.turn(1, "STATS", scoop_lite.facts(**sums, spent=spent))
    pool.turn(1, "TRACE", b'{"ph": "i"},\n')
    for lines in (b'{"ph": "i"}', b'"ph": "i"},\n', b""):
        with pytest.raises(PeerError, match="no lines"):
            pool.turn(1, "TRACE", lines)
    assert [kind for kind, _, _ in seen] == ["STATS", "TRACE"]
    with pytest.raises(PeerError, match="no business here"):
        pool.broker.agent_turn(0, scoop_lite.message("OUTPUT", scoop_lite.AGENT, 0, scoop_lite.facts(), b"text"))
    with pytest.raises(PeerError, match="malformed FETCH"):
        pool.turn(1, "FETCH", scoop_lite.facts(number=1, paths=[1], have={}))
    with pytest.raises(PeerError, match="malformed HUNGRY"):
        pool.turn(1, "HUNGRY", HUNGER.pack(5000, 9))
    for frames in ([HUNGER.pack(5000, 9), OWNER.pack(0, 1)], [HUNGER.pack(1, 1)], [OWNER.pack(0, 1), OWNER.pack(0, 1)]):
        with pytest.raises(PeerError, match="malformed NEXT"):
            pool.turn(1, "NEXT", *frames)


# ---------------------------------------------------------------------------------------------------------------------
# Scheduler
# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def scheduler():
    sent = []
    made = scoop_lite.Scheduler(sent.append, lambda call: call(), threading.RLock(), clock=lambda: 0.0)
    made.messages = lambda: [NAMES[frames[0][0]] for frames in sent]
    made.last = lambda: sent[-1]
    return made


def test_a_task_for_all_knows_how_many_there_are_from_spread(scheduler):
    job = scoop_lite.Everywhere(len, ("abc",), frozenset())
    scheduler.n_chunks = 4
    scheduler.run_on_all(job, scoop_lite.coming_answer())
    assert scheduler.messages() == ["ALL"] and scheduler.n_chunks == 5
    head = CHUNK.unpack(scheduler.last()[2])
    assert head[:5] == (0, 1, 4, 0, 1) and head[-1] == len(scheduler.last()) - 3
    assert job.n == -1 and head[5:10] == (0, 0, scoop_lite.CALLS, 0, 0)
    assert [(b.base, b.lo, b.hi, b.alone) for b in [scheduler.sent[4].block]] == [(0, 0, 1, True)]
    scheduler.on_spread([b"", REF.pack(4, 0, 3)])
    assert job.n == scheduler.sent[4].block.hi == 3 and scheduler.sent[4].left == [(0, 3)]
    scheduler.on_all([b"", b"", CHUNK.pack(0, 1, 4, 2, 1, 0, 0, 1, 0, 0, 0)])
    assert [(block.job, block.base, block.lo, block.hi) for block in scheduler.home] == [(job, 2, 2, 3)]
    assert scheduler.sent[4].left == [(0, 2)]
    scheduler.home.clear()
    scheduler.on_all([b"", *chunk_of(first=1, n=1)])  # another worker's
    assert scheduler.open(scheduler.home[0])
    assert [(b.job.key, b.rows(), b.lo, b.hi) for b in scheduler.home] == [((3, 1, 5), [[("",)]], 1, 2)]


@pytest.mark.parametrize("last, value", [((1, "a"), {1: "a", 3: "c"}), (scoop_lite.GONE, None)])
def test_what_all_return_is_one_answer_or_what_one_of_them_ended_with(last, value):
    job = scoop_lite.Everywhere(len, ("abc",), frozenset())
    job.n, job.answer = 2, scoop_lite.coming_answer()
    for i, outcome in enumerate([(3, "c"), last]):
        assert job.answer.state < scoop_lite.CANCELLED
        job.deliver(i, 1, [outcome])
    assert job.answer.value == value if value else job.answer.cancelled()


def test_what_a_task_costs_is_believed_quickly_if_longer_and_slowly_if_shorter(scheduler):
    def task():
        pass

    scheduler.note_cost(task, 8.0)
    assert list(scheduler.costs.values()) == [8.0]
    scheduler.note_cost(task, 4.0, 2)  # two tasks: 2 s each
    assert list(scheduler.costs.values()) == [5.0]
    scheduler.note_cost(task, 9.0)
    assert list(scheduler.costs.values()) == [9.0]
    scheduler.note_cost(task, 101.0, 101)  # so many are believed at once
    assert list(scheduler.costs.values()) == [1.0]


def identity(x):
    return x


def test_a_map_draws_what_keeps_the_pool_busy_by_measurement_and_fills_an_order_before_anything_runs():
    runtime, sent = scoop_lite.Runtime(scoop_lite.Config(n=1)), []
    runtime.pump, runtime.scheduler.emit = SimpleNamespace(kick=lambda: None), sent.append
    runtime.scheduler.live = 2
    unknown = scoop_lite.MapJob(identity, [range(10**6)], runtime.root, None, None)
    runtime.feed(unknown)
    assert unknown.drawn == scoop_lite.WINDOW and not sent
    runtime.scheduler.note_cost(identity, 1e-5)
    runtime.scheduler.ordered = 1
    known = scoop_lite.MapJob(identity, [range(10**6)], runtime.root, None, None)
    runtime.feed(known)
    assert known.drawn == pytest.approx(4 * scoop_lite.CHUNK_S * 2 / 1e-5, rel=1e-3)
    assert [NAMES[frames[0][0]] for frames in sent] == ["BATCH"]
    for fixed in (scoop_lite.MapJob(identity, [range(10**6)], runtime.root, 7, None),
                  scoop_lite.MapJob(identity, [iter(range(10**6))], runtime.root, None, None)):  # fmt: skip
        runtime.feed(fixed)
        assert fixed.drawn == fixed.window <= scoop_lite.WINDOW  # as asked for; no more of a generator than is needed


def test_a_map_is_not_cut_into_crumbs_where_a_piece_of_its_input_ends():
    scheduler = scoop_lite.Scheduler(emit=print, later=print, lock=threading.Lock())
    scheduler.live = 2
    scheduler.note_cost(identity, scoop_lite.CHUNK_S / 50)
    for xs, n_chunks in (range(1000), 1), (iter(range(1000)), 3):  # of this one's end, nothing is known
        job = scoop_lite.MapJob(identity, [xs], scoop_lite.Scope(1, 0, scheduler.level(0)), 100, None)
        scheduler.put(*job.draw())
        sizes = [block.hi - block.lo for block in iter(scheduler.take_away, None)]
        assert sum(sizes) == 100 and sizes[0] == (49 if n_chunks == 1 else 25) and len(sizes) >= 2 * n_chunks


def test_a_map_looks_at_its_queue_while_the_pump_takes_from_it():
    runtime = scoop_lite.Runtime(scoop_lite.Config(n=2))
    runtime.scheduler.live = 8
    runtime.scheduler.note_cost(abs, 1e-6)
    job = scoop_lite.MapJob(abs, [iter(range(10**6))], runtime.root, None, None)
    job.drawn = job.window
    level = runtime.scheduler.level(job.depth)
    stop, before = threading.Event(), sys.getswitchinterval()

    other = scoop_lite.Block(scoop_lite.MapJob(abs, ["a"], runtime.root, None, None), [[1]], 0, 0, 1)
    level.extend([other] * 4)

    def turn_over():
        while not stop.is_set():
            with runtime.scheduler.lock:
                level.append(other)
                level.popleft()

    pump = threading.Thread(target=turn_over)
    sys.setswitchinterval(1e-6)
    try:
        pump.start()
        assert all(job.can_widen(runtime.scheduler) for _ in range(20_000))
    finally:
        stop.set()
        pump.join()
        sys.setswitchinterval(before)

@pytest.mark.parametrize("strands", ["thread", "auto"])
def test_who_was_woken_before_he_had_parked_is_not_woken_again(strands):
    """His strand may end before that, and nobody would run; or go on with somebody else's turn."""
    runtime = scoop_lite.Runtime(scoop_lite.Config(n=1, strands=strands))
    assert runtime.wait_until(lambda: True, tell=lambda waiter: waiter())
    assert not runtime.ready and not runtime.current.ready



def test_a_wait_that_is_over_limits_no_task_any_more():
    runtime = scoop_lite.Runtime(scoop_lite.Config(n=1))
    runtime.scheduler.live = 2
    runtime.scheduler.note_cost(identity, 1e-6)
    runtime.wait_for(runtime.submit(identity, (1,), {}), 60)
    assert runtime.time_limit() is None and not runtime.deadlines


def test_other_threads_only_look_whether_a_task_is_done(monkeypatch):
    runtime = scoop_lite.Runtime(scoop_lite.Config(n=1))
    future, glances = runtime.submit(identity, (1,), {}), []
    monkeypatch.setattr(runtime, "glance", lambda force=False: glances.append(threading.current_thread()))
    thread = threading.Thread(target=runtime.poll, args=(future,))
    thread.start()
    thread.join()
    assert not glances and future.state == scoop_lite.PENDING
    runtime.poll(future)
    assert glances


def test_a_task_that_is_given_away_just_before_its_cancellation_is_not_cancelled_here():
    runtime = scoop_lite.Runtime(scoop_lite.Config(n=1))
    future, lock = runtime.submit(identity, (1,), {}), threading.Lock()

    class Carving:
        def __enter__(self):
            lock.acquire()
            if runtime.scheduler.levels[0]:
                runtime.scheduler.gather(runtime.scheduler.levels[0])

        def __exit__(self, *_):
            lock.release()

    runtime.lock = runtime.scheduler.lock = Carving()
    runtime.cancel(future)
    assert future.state == scoop_lite.SENT


def test_a_task_that_is_on_its_way_back_when_it_is_cancelled_is_cancelled():
    runtime = scoop_lite.Runtime(scoop_lite.Config(n=1))
    scheduler, future, sent = runtime.scheduler, runtime.submit(identity, (1,), {}), []
    scheduler.emit = sent.append
    scheduler.ordered = 1
    scheduler.carve()

    def answer(*_):
        """Nobody was hungry: it comes back, and the broker finds nobody who has it."""
        (batch,) = [frames for frames in sent if NAMES[frames[0][0]] == "BATCH"]
        scheduler.on_returned(batch)
        scheduler.on_result([b"", OWNER.pack(0, 1), PART.pack(0, 0, 0, 0, scoop_lite.EACH, 0)])

    runtime.wait_until = lambda *_: answer()
    assert future.state == scoop_lite.SENT
    runtime.cancel(future)
    assert future.cancelled() and [NAMES[frames[0][0]] for frames in sent] == ["BATCH", "CANCEL"]
    assert not scheduler.is_busy()


def test_what_was_lost_with_its_worker_is_missed_when_nobody_looks_at_it(monkeypatch):
    runtime = scoop_lite.Runtime(scoop_lite.Config(n=1))
    monkeypatch.setitem(scoop_lite._state, "runtime", runtime)
    for seen in True, False:
        future = scoop_lite.coming_answer()
        scoop_lite.Parcel([future], len, scoop_lite.CALLS, 0, 0, 0).deliver_error(0, scoop_lite.WorkerLost("gone"))
        if seen:
            assert str(future.exception()) == "gone"
        del future
    assert [str(error) for error in runtime.unseen] == ["gone"]


def test_results_of_suspects_take_the_way_that_survives_their_worker():
    runtime, ways = scoop_lite.Runtime(scoop_lite.Config(n=1)), []
    runtime.pipe = SimpleNamespace(send=lambda frames: ways.append("pipe"), drain=lambda timeout_s: None)
    runtime.link = SimpleNamespace(queue=lambda frames: ways.append("link"), flush=lambda: None, edge=False)
    visit = scoop_lite.Visit((0, 1, 5, 0, 2, 1, 0, scoop_lite.CALLS, 0, 0, 1), b"", [b""], runtime.scheduler)
    for alone, value in (False, 1), (True, 2), (True, b"x" * scoop_lite.PIECE):
        block = scoop_lite.Block(visit, [[(value,)]], 0, 0, 1)
        block.alone = alone
        runtime.finish_slice(SimpleNamespace(block=block, out=[value], n_handed=0), 0.0)
        runtime.scheduler.flush()
    assert ways[:2] == ["link", "pipe"] and set(ways[2:]) == {"link"}  # big ones go in pieces, with credit


def test_costs_are_remembered_of_so_many_functions(scheduler):
    for _ in range(5000):
        scheduler.note_cost(eval("lambda: None"), 1.0)
    assert len(scheduler.costs) <= 4096


def outcomes_of(outcomes, **how):
    form, frames = scoop_lite.pack_outcomes(outcomes, **how)
    return form, scoop_lite.unpack_outcomes(form, [bytearray(frame) for frame in frames], len(outcomes))


class Simple:
    def __init__(self, x):
        self.x = x

    def __eq__(self, other):
        return self.x == other.x


class Asking(Simple):
    def __getattr__(self, name):
        return getattr(self.x, name)  # before there is an x, without end


class Filled(Simple):
    def __setstate__(self, state):
        self.__dict__.update(state)


def test_plain_outcomes_travel_together_and_others_one_by_one():
    deep = functools.reduce(lambda inner, _: [inner], range(100_000), 0)
    together = [1, "a", None, 2.5], [1, {2: {3}}, (4, [b"5"], bytearray(b"6"))], [[1]], [7], [len, Own, 8], [
        datetime.date(2024, 2, 29), collections.OrderedDict(a=1)], [Simple(1), [Simple(2)]]  # fmt: skip
    for outcomes in together:
        assert outcomes_of(outcomes) == (scoop_lite.LIST, outcomes)
    for other in Filled(1), fractions.Fraction(1, 2), (1, {2: fractions.Fraction(1, 2)}):
        assert outcomes_of([1, other]) == (scoop_lite.EACH, [1, other])
        assert outcomes_of([other]) == (scoop_lite.EACH, [other])
    assert outcomes_of([lambda: 1])[0] == scoop_lite.EACH
    form, (one, _) = outcomes_of([1, Asking(Simple(1))])
    assert form == scoop_lite.EACH and one == 1
    form, (one, failure) = outcomes_of([1, deep])
    assert form == scoop_lite.EACH and one == 1 and type(failure.look()) is RecursionError
    while deep:
        (deep,) = deep  # taken apart from outside, as some Pythons free it by recursion


def test_arrays_and_their_scalars_travel_together_and_big_ones_beside_the_stream():
    numpy = pytest.importorskip("numpy")
    form, found = outcomes_of([numpy.float64(1.5), numpy.arange(3)])
    assert form == scoop_lite.LIST and type(found[0]) is numpy.float64 and found[0] == 1.5
    assert list(found[1]) == [0, 1, 2]
    form, frames = scoop_lite.pack_outcomes([numpy.zeros(10**5), numpy.ones(10**5)])
    assert form == scoop_lite.LIST and list(map(len, frames[1:])) == [800_000] * 2
    form, found = outcomes_of([numpy.array([1, fractions.Fraction(1, 2)], object), 2])
    assert form == scoop_lite.EACH and found[0][1] == fractions.Fraction(1, 2)


def test_outcomes_that_came_together_and_cannot_be_unpickled_are_failures_all():
    found = scoop_lite.unpack_outcomes(scoop_lite.LIST, [b"garbage"], 2)
    assert [str(failure.look())[:36] for failure in found] == ["the task's result cannot be unpickled"[:36]] * 2


def raised(error):
    try:
        raise error
    except Exception as caught:
        return Failure(caught)


class Own(Exception):
    def __reduce__(self):
        raise TypeError("not to be pickled")


def test_an_exception_travels_with_its_traceback_and_spoils_only_itself():
    _, (first, failure, last) = outcomes_of([1, raised(KeyError("k")), [2]])
    error = failure.look()
    assert (first, last) == (1, [2]) and type(failure) is Failure
    assert type(error) is KeyError and error.args == ("k",)
    assert type(error.__cause__) is scoop_lite.RemoteTraceback and "in raised\n" in str(error.__cause__)


def test_what_cannot_be_pickled_is_told_in_words():
    _, (own, lock) = outcomes_of([raised(Own("text")), threading.Lock()])
    assert "a task raised" in str(own.look()) and "Own: text" in str(own.look())
    assert type(own.look()) is scoop_lite.ScoopError and "in raised\n" in str(own.look().__cause__)
    assert type(lock.look()) is scoop_lite.Unpicklable and "result" in str(lock.look())


def test_a_result_that_cannot_be_unpickled_is_a_failure_of_its_own():
    form, frames = scoop_lite.pack_outcomes([fractions.Fraction(1, 2), fractions.Fraction(1, 3)])
    frames[1] = b"garbage"
    bad, good = scoop_lite.unpack_outcomes(form, frames, 2)
    assert good == fractions.Fraction(1, 3) and type(bad) is Failure and "cannot be unpickled here" in str(bad.look())
    table = scoop_lite.STATUS.pack(scoop_lite.WITHDRAWN, 0)
    assert scoop_lite.unpack_outcomes(scoop_lite.EACH, [table], 1) == [scoop_lite.GONE]


class Big(bytearray):
    def __reduce_ex__(self, protocol):
        return Big, (pickle.PickleBuffer(self),)


class ManyBuffers:
    """Holds one buffer many times over."""

    def __init__(self, n):
        self.n, self.data = n, bytes(scoop_lite.BIG_BUFFER)

    def __reduce__(self):
        return count, tuple(pickle.PickleBuffer(self.data) for _ in range(self.n))


def count(*buffers):
    return len(buffers)


def test_a_task_and_a_result_may_have_very_many_buffers():
    form, frames = scoop_lite.pack_outcomes([ManyBuffers(70_000)])
    assert form == scoop_lite.EACH and scoop_lite.unpack_outcomes(form, frames, 1) == [70_000]
    assert CHUNK.unpack(CHUNK.pack(*range(10), 70_000))[-1] == 70_000


def test_a_name_for_people_is_one_line():
    def function():
        pass

    function.__qualname__ = "new\nscoop_lite:  line"
    assert scoop_lite.name_of(function) == "new scoop_lite: line"


def test_what_must_not_be_split_is_pickled_whole():
    big = Big(b"x" * 100_000)
    assert len(scoop_lite.dumps([big, len])) == 2
    data, func, size = pickle.loads(scoop_lite.dumps_whole([big, len, lambda: len(big)]))
    assert data == big and func is len and size() == len(big)


class InMain:
    def method(self):
        pass


def in_main():
    pass


def test_ranges_are_cut():
    assert scoop_lite.subtract([(0, 10)], 3, 5) == ([(0, 3), (5, 10)], 2)
    assert scoop_lite.subtract([(0, 3), (5, 10)], 2, 7) == ([(0, 2), (7, 10)], 3)
    assert scoop_lite.subtract([(0, 3)], 3, 9) == ([(0, 3)], 0)
    assert scoop_lite.subtract([(4, 6)], 4, 6) == ([], 2)


def test_a_result_for_a_stranger_is_not_taken(pool):
    assert news(pool, pool.turn, 2, "RESULT", OWNER.pack(1, 9), PART.pack(0, 0, 1, 0, 0, 1), b"r") == []


# ---------------------------------------------------------------------------------------------------------------------
# Scheduler: the queue
# ---------------------------------------------------------------------------------------------------------------------


class Tasks(scoop_lite.Job):
    """A job that keeps what is delivered."""

    __slots__ = ("got",)

    def __init__(self, func=len, depth=0, fold=None):
        super().__init__(func, scoop_lite.CALLS, 77, 100, depth)
        self.got, self.fold = [], fold

    def deliver(self, first, count, outcomes):
        self.got.append((first, count, outcomes))


def block(n=10, deaths=0, **how):
    return scoop_lite.Block(Tasks(**how), [[(str(i),) for i in range(n)]], 0, 0, n, deaths)


def scope(scheduler, depth=0):
    return scoop_lite.Scope(1, depth, scheduler.level(depth))


def add(scheduler, where, func=len, kwargs=None, n=1):
    made = []
    for _ in range(n):
        made.append(scoop_lite.Future(func, ("abc",), kwargs, where, where.n))
        where.n += 1
        where.level.append(made[-1])
        scheduler.top = max(scheduler.top, where.depth)
    return made


def test_the_deepest_is_run_first_and_the_shallowest_given_away(scheduler):
    blocks = [block(depth=depth) for depth in (1, 0, 2)]
    for one in blocks:
        scheduler.put(one)
    assert scheduler.top == 2
    scheduler.ordered = 1
    scheduler.carve()
    assert (CHUNK.unpack(scheduler.last()[2])[5], scheduler.filled, scheduler.n_carved > 0) == (0, 1, True)
    assert [scheduler.take().job.depth for _ in range(20)] == [2] * 10 + [1] * 10
    assert scheduler.take().job.depth == 0


def test_orders_are_filled_once(scheduler):
    scheduler.put(block(100))
    scheduler.ordered = 2
    scheduler.carve()
    scheduler.carve()
    assert scheduler.messages() == ["BATCH", "BATCH"] and scheduler.filled == 2


def test_what_has_come_back_is_not_given_away_in_crumbs_while_more_waits_behind_it(scheduler):
    scheduler.note_cost(len, 1e-4)
    scheduler.live, scheduler.ordered = 2, 1
    add(scheduler, scope(scheduler), n=2000)
    scheduler.put_back(block(20))  # alone, it would be cut into 5, 4, 3 ...
    scheduler.carve()
    assert CHUNK.unpack(scheduler.last()[2])[4] == 20


def test_a_batch_says_which_tasks_it_holds_and_the_owner_keeps_them(scheduler):
    one = block(10, depth=3)
    scheduler.n_chunks = 6
    scheduler.ship(one.part(2, 7))
    _, function, head, *payload = scheduler.last()
    owner, incarnation, chunk, first, count, depth, careful, mode, place, order, n = CHUNK.unpack(head)
    assert (owner, incarnation, chunk, first, count, depth) == (0, 1, 6, 0, 5, 3)
    assert (careful, mode, place, order, n) == (0, scoop_lite.CALLS, 77, 102, len(payload))
    assert scoop_lite.loads([function]) == (len, None)
    assert scoop_lite.loads(payload) == [[("2",), ("3",), ("4",), ("5",), ("6",)]]
    assert scheduler.sent[6].left == [(0, 5)] and scheduler.n_chunks == 7 and scheduler.n_carved == 5


@pytest.mark.parametrize("deaths, retries, careful", [(0, 2, 0), (1, 2, 2), (2, 2, 3), (0, 0, 1), (300, 2, 255)])
def test_suspected_tasks_travel_carefully(scheduler, deaths, retries, careful):
    scheduler.retries = retries
    scheduler.ship(block(1, deaths=deaths))
    assert CHUNK.unpack(scheduler.last()[2])[6] == careful


def test_what_cannot_be_pickled_is_split_until_only_the_guilty_task_stays_at_home(scheduler):
    one = scoop_lite.Block(Tasks(), [[(1,), (2,), (threading.Lock(),), (4,)]], 0, 0, 4)
    scheduler.filled = 1
    scheduler.ship(one)
    assert scheduler.messages() == [] and scheduler.sent == {} and scheduler.n_carved == scheduler.filled == 0
    assert [(part.lo, part.hi, part.alone) for part in scheduler.levels[0]] == [(0, 2, False), (2, 4, False)]
    while scheduler.levels[0]:
        scheduler.ship(scheduler.levels[0].popleft())
    assert [(part.lo, part.hi) for part in scheduler.home] == [(2, 3)]
    assert scheduler.messages() == ["BATCH", "BATCH"] and scheduler.n_carved == 3


def shouted(word):
    return word.upper()


def test_a_function_is_pickled_once_while_its_name_means_it(scheduler, monkeypatch):
    def packed(func, fold=None):
        job = scoop_lite.Job(func, scoop_lite.CALLS, 0, 0, 0)
        job.fold = fold
        return scheduler.pack_function(job)

    assert packed(shouted) is packed(shouted) != packed(len)
    assert packed(shouted, max) != packed(shouted) != packed(max, shouted)
    assert packed("a".upper) == packed(lambda: 1) == b""  # they have no names, and are in the payload
    by_name, old = packed(shouted), shouted
    assert scheduler.unpack_function(by_name) == (old, None)
    monkeypatch.setattr(sys.modules[__name__], "shouted", lambda word: word + "!")
    assert packed(old) == b""  # by value now
    assert scheduler.unpack_function(by_name) == (shouted, None)


def test_a_function_that_the_pump_packs_meanwhile_is_not_taken_for_what_came(scheduler, monkeypatch):
    by_name = scoop_lite.dumps_whole((shouted, None))
    seen = iter([(shouted, by_name)] + [(len, b"another")] * 9)
    monkeypatch.setattr(type(scheduler), "packed", property(lambda _: next(seen), lambda *_: None), raising=False)
    assert scheduler.unpack_function(by_name) == (shouted, None)


class Holder:
    """Big, and in no need of being copied to travel."""

    def __init__(self, data):
        self.data = data

    def __reduce_ex__(self, protocol):
        return Holder, (pickle.PickleBuffer(self.data),)

    def add(self, x):
        return len(self.data) + x


@pytest.mark.parametrize("fold", [None, max])
def test_what_a_method_belongs_to_travels_once_a_chunk_and_uncopied(scheduler, fold):
    holder, rows = Holder(bytearray(100_000)), [[(1,), (2,), (3,)]]
    for mode, columns in (scoop_lite.CALLS, rows), (scoop_lite.MIXED, [[(Holder.add, (holder, 1), None)] * 3]):
        job = scoop_lite.Job(holder.add, mode, 0, 0, 0)
        job.fold = fold
        packed = scheduler.pack(scoop_lite.Block(job, columns, 0, 0, 3), 1)
        assert packed[1] == b"" and [memoryview(frame).obj is holder.data for frame in packed[3:]] == [False, True]
        visit = scheduler.visitors(scoop_lite.CHUNK.unpack(packed[2]), packed)
        assert scheduler.open(visit)
        again = scheduler.pack(visit.part(1, 3), 1)  # as when others are hungrier
        passed_on = scheduler.visitors(scoop_lite.CHUNK.unpack(again[2]), again)
        assert scheduler.open(passed_on) and passed_on.hi - passed_on.lo == 2
        for block in visit, passed_on:
            func, args, _ = scoop_lite.Block(block.job, block.columns, block.lo, block.lo, block.hi).first_call()
            assert block.job.fold is fold and func(*args) == 100_001 + (mode == scoop_lite.CALLS) * block.lo


def test_what_came_by_value_is_made_anew_each_time(scheduler):
    travelling = scoop_lite.dumps_whole((lambda: None, None))
    one, two = (scheduler.unpack_function(travelling)[0] for _ in range(2))
    assert one is not two and one.__globals__ is not two.__globals__
    assert scheduler.unpack_function(scoop_lite.dumps_whole((len, max))) == (len, max)
    assert scheduler.unpack_function(scoop_lite.dumps_whole((len, None))) == (len, None)


def test_results_and_hunger_travel_in_one_message(timed):
    for owner in (3, 4):
        timed.add_part((owner, 1, 7), 0, 1, scoop_lite.LIST, [b"r"])
    timed.flush(want=True)
    assert timed.messages() == ["NEXT", "RESULT"] and timed.is_hungry and timed.wanted_s == timed.clock()
    timed.flush(want=True)
    assert timed.messages() == ["NEXT", "RESULT"]  # that was said, and there is no result
    timed.sate(-1.0)
    timed.flush(want=True)
    assert timed.messages() == ["NEXT", "RESULT", "HUNGRY", "HUNGRY"]
    assert HUNGER.unpack(timed.last()[1]) == (1, 3)


def straight_batch(scheduler, chunk=5, n=4):
    """What a client sends to its neighbour, to whom it is rank 0 of incarnation 0."""
    head = CHUNK.pack(*scoop_lite.CLIENT, chunk, 0, n, 0, 0, scoop_lite.CALLS, 0, 0, 1)
    function = scoop_lite.dumps_whole((len, None))
    return scheduler.message("BATCH", function, head, *scoop_lite.dumps([[("a",)] * n]))


@pytest.mark.parametrize("mode, rows", [
    (scoop_lite.COLUMNS, [[1], [lambda: 7]]), (scoop_lite.CALLS, [[(1, lambda: 7)]]), (scoop_lite.CALLS, [[(1, 2)]]),
])  # fmt: skip
def test_a_task_that_travels_alone_may_have_any_arguments(scheduler, mode, rows):
    """Only plain ones are pickled by C alone; `1` at the beginning does not make them so."""
    job = Tasks(func=len)
    job.mode = mode
    frames = scheduler.pack(scoop_lite.Block(job, rows, 0, 0, 1), 1)
    back = scoop_lite.loads(frames[3:])
    last = back[-1][0] if mode == scoop_lite.COLUMNS else back[0][0][1]
    assert (last() if callable(last) else last) in (7, 2)


def test_the_next_batch_is_asked_of_the_client_before_the_broker_has_others_return_theirs(timed):
    timed.straight, timed.rank = True, 3
    timed.flush(want=True)
    assert timed.messages() == ["NEXT"] and timed.last()[1] == scoop_lite.STRAIGHT and not timed.is_hungry
    timed.at_s += scoop_lite.PATIENCE_S * 0.9
    timed.flush(want=True)
    assert timed.messages() == ["NEXT"]
    timed.at_s += scoop_lite.PATIENCE_S * 0.2  # the client has none
    timed.flush(want=True)
    timed.flush(want=True)
    assert timed.messages() == ["NEXT", "HUNGRY"] and timed.is_hungry
    timed.on_batch(straight_batch(timed))
    timed.sate(-1.0)
    timed.flush(want=True)
    assert timed.messages()[3:] == ["NEXT"]
    _, *batch = straight_batch(timed)
    batch[1] = CHUNK.pack(2, 1, *CHUNK.unpack(batch[1])[2:])
    timed.on_batch(timed.message("BATCH", *batch))
    timed.flush(want=True)  # another worker's tasks: whoever has such ones is asked at once
    assert timed.messages()[4:] == ["HUNGRY"]


def test_the_client_of_a_big_pool_is_given_more_time(timed):
    """It serves one worker after another; who asks the broker as well only makes it slower."""
    timed.straight, timed.rank, timed.live = True, 3, 500
    timed.flush(want=True)
    timed.at_s += 499 * scoop_lite.PATIENCE_PART_S
    timed.flush(want=True)
    assert timed.messages() == ["NEXT"]
    timed.at_s += 2 * scoop_lite.PATIENCE_PART_S
    timed.flush(want=True)
    assert timed.messages() == ["NEXT", "HUNGRY"]


def test_the_clients_tasks_stay_here_while_it_may_have_others_for_who_is_hungry(timed):
    timed.straight, timed.rank, timed.live = True, 3, 3
    timed.note_cost(len, 0.001)
    timed.on_batch(straight_batch(timed, n=20))
    timed.late_s = timed.clock() + scoop_lite.CHUNK_S
    piece = running(timed, visit(timed, owner=scoop_lite.CLIENT, n=9))
    assert timed.take_away() is None and piece.block.hi == 9
    timed.flush(want=True)
    assert timed.take_away() is None
    timed.at_s += scoop_lite.PATIENCE_S * 1.1  # asked in vain
    first, second = timed.take_away(), timed.take_away()
    assert (first.lo, first.hi, second.lo, second.hi) == (0, 20, 5, 9) and piece.block.hi == 1


def test_futures_that_travel_together_are_alike_in_cost(scheduler):
    """Bound methods, or calls with keyword arguments, would travel one by one else, each in a message of its own."""
    where, level = scope(scheduler), scheduler.levels[0]
    scheduler.note_cost(len, 1e-5)
    plain, others = add(scheduler, where, n=3), add(scheduler, where, func=abs, n=2)
    alike = add(scheduler, where, kwargs={"x": 1}) + add(scheduler, where, func=functools.partial(len))
    parcel = scheduler.gather(level)
    assert (parcel.job.mode, parcel.job.func, parcel.job.futures) == (scoop_lite.MIXED, len, plain + alike)
    assert parcel.columns[0][2:] == [(len, ("abc",), None), (len, ("abc",), {"x": 1}), (alike[1].func, ("abc",), None)]
    assert [place for place, _ in spots(parcel)] == [scoop_lite.place_of(where.place, i) for i in (0, 1, 2, 5, 6)]
    assert list(level) == others
    level.clear()
    futures = add(scheduler, where, n=40)
    futures[3].state, level.stale = scoop_lite.CANCELLED, 1
    parcel = scheduler.gather(level)
    assert parcel.job.mode == scoop_lite.CALLS and parcel.columns[0][0] == ("abc",)
    assert parcel.hi == 39 and futures[3].state == scoop_lite.CANCELLED and level.stale == 0
    assert parcel.job.futures == futures[:3] + futures[4:]
    assert {(future.state, future.at) for future in parcel.job.futures} == {(scoop_lite.SENT, parcel.job)}


def test_few_are_passed_over_for_those_alike_in_cost(scheduler):
    where, level = scope(scheduler), scheduler.levels[0]
    scheduler.note_cost(len, 0.01)  # five make a chunk
    first, others = add(scheduler, where), add(scheduler, where, func=abs, n=30)
    add(scheduler, where)
    assert scheduler.gather(level).job.futures == first
    assert list(level)[:-1] == others
    assert scheduler.gather(level).job.futures == others[:1]  # its cost is not known


def spots(parcel):
    return [parcel.spot(index) for index in range(parcel.lo, parcel.hi)]


def test_tasks_of_several_parents_keep_their_places(scheduler):
    """Else their random numbers, and those of their children, would depend on who travelled with whom."""
    scheduler.note_cost(len, 1e-5)
    places = ((1, 0), (2, 0), (3, 1))
    where, other, deep = (scoop_lite.Scope(place, depth, scheduler.level(depth)) for place, depth in places)
    add(scheduler, where, n=3)
    parcel = scheduler.gather(scheduler.levels[0])
    assert len(parcel.columns) == 1  # of one parent, and without a gap: the first one's place tells all
    assert spots(parcel) == [(scoop_lite.place_of(1, order), 0) for order in range(3)]
    add(scheduler, where, n=2)
    where.n += 1  # one was taken from between
    made = add(scheduler, where, n=1) + add(scheduler, other, n=2) + add(scheduler, deep, n=20)
    parcel = scheduler.gather(scheduler.levels[0])
    expected = [(scoop_lite.place_of(1, order), 0) for order in (3, 4, 6)]
    expected += [(scoop_lite.place_of(2, order), 0) for order in range(2)]
    expected += [(scoop_lite.place_of(3, order), 1) for order in range(7)]
    assert spots(parcel) == expected  # half of all
    assert parcel.job.futures[2] is made[0] and len(scheduler.levels[1]) == 13
    part = parcel.part(4, 7)
    assert spots(part) == expected[4:7]
    head, payload = scoop_lite.CHUNK.unpack(scheduler.pack(part, 1)[2]), scheduler.pack(part, 1)[3:]
    arrived = visit(scheduler, n=3)
    arrived.job.mode, arrived.columns = head[7], scoop_lite.loads(payload)
    assert spots(arrived) == expected[4:7]
    runtime = scoop_lite.Runtime(scoop_lite.Config(n=1))
    runtime.slice = scoop_lite.Slice(arrived, arrived.rows()[0], 0.0)
    runtime.slice.out.append(None)  # the second runs
    child = runtime.open_scope()
    assert (child.place, child.depth) == (expected[5][0], expected[5][1] + 1)


def test_a_task_that_travels_with_others_children_is_the_one_cancelled():
    runtime = scoop_lite.Runtime(scoop_lite.Config(n=1))
    scheduler, sent = runtime.scheduler, []
    scheduler.note_cost(len, 1e-5)
    first, second = (scoop_lite.Scope(depth, depth, scheduler.level(depth)) for depth in (0, 1))
    futures = add(scheduler, first, n=2) + add(scheduler, second, n=10)
    parcel = scheduler.gather(scheduler.levels[0])
    assert parcel.job.futures == futures[:6]
    scheduler.recall = lambda *about: sent.append(about) or []
    runtime.wait_until = lambda *_: None
    runtime.cancel(futures[4])
    assert sent == [("CANCEL", parcel.job, 4, 5)]


def test_without_retries_each_task_travels_alone(scheduler):
    scheduler.retries = 0
    add(scheduler, scope(scheduler), n=5)
    assert scheduler.gather(scheduler.levels[0]).hi == 1 and scheduler.block_chunk(block(50)) == 1


def test_a_single_task_that_the_only_other_worker_wants_ahead_is_run_here(scheduler):
    """Who keeps two tasks under way would have them all run by that one, in turns."""
    where, lone = scope(scheduler), block(1)
    scheduler.live = 2
    add(scheduler, where, n=1)
    assert not scheduler.keeps_last()  # the other one may have nothing
    scheduler.sent[0] = None
    assert scheduler.keeps_last()
    scheduler.live = 3
    assert not scheduler.keeps_last()  # among more, an owner that watches keeps all busy
    scheduler.live = 2
    scheduler.away.append(lone)
    assert not scheduler.keeps_last()
    scheduler.away.clear()
    add(scheduler, scope(scheduler, 2), n=1)
    assert not scheduler.keeps_last()
    for n, kept in ((2, False), (1, True)):
        for level in scheduler.levels:
            level.clear()
        scheduler.put(block(n))
        assert scheduler.keeps_last() == kept


@pytest.mark.parametrize("kept", [True, False])
def test_a_glance_before_a_task_fills_no_order_with_the_last_one(linked, monkeypatch, kept):
    carved = []
    monkeypatch.setattr(linked.scheduler, "keeps_last", lambda: kept)
    monkeypatch.setattr(linked.scheduler, "carve", lambda: carved.append(1))
    linked.scheduler.ordered = 1
    linked.glance()
    assert len(carved) == 1  # what goes on may be the script
    linked.glance(runs=True)
    assert len(carved) == 2 - kept


def test_one_more_of_the_same_function_is_taken_while_it_is_next(scheduler):
    where = scope(scheduler)
    first, second, third = add(scheduler, where, n=2) + add(scheduler, where, func=abs)
    assert scheduler.take_like(abs) is None
    assert scheduler.take_like(len) is first and first.state == scoop_lite.RUNNING
    second.state = scoop_lite.CANCELLED
    assert scheduler.take_like(len) is None
    scheduler.levels[0].popleft()
    assert scheduler.take_like(abs) is third and scheduler.take_like(abs) is None
    scheduler.put(block())
    assert scheduler.take_like(len) is None


def test_taking_passes_over_what_nobody_wants(scheduler):
    where = scope(scheduler)
    gone, wanted = add(scheduler, where, n=2)
    gone.state = scoop_lite.CANCELLED
    scheduler.levels[0].stale = 1
    dropped = block()
    dropped.job.abandoned = True
    scheduler.levels[0].appendleft(dropped)
    assert scheduler.take() is wanted and wanted.state == scoop_lite.RUNNING and scheduler.levels[0].stale == 0
    assert scheduler.take() is None


def test_a_limit_of_time_leaves_what_is_longer_or_unknown(scheduler):
    add(scheduler, scope(scheduler))
    assert scheduler.take(1.0) is None
    scheduler.note_cost(len, 1.0)
    assert scheduler.take(1.0) is None
    assert scheduler.take(1.1) is not None
    at_home = scoop_lite.Block(scoop_lite.Job(len, scoop_lite.CALLS, 0, 0, 0), [[()]], 0, 0, 1)
    scheduler.home.append(at_home)
    assert scheduler.take(0.0) is at_home


def test_slices_are_as_long_as_their_tasks_are_short(scheduler):
    assert scheduler.local_size(block()) == 1  # unknown
    scheduler.note_cost(len, scoop_lite.LOCAL_SLICE_S / 8)
    assert scheduler.local_size(block()) in (7, 8)
    assert scheduler.local_size(block(1000)) in (99, 100) and scheduler.local_size(block(40)) == 19
    assert scheduler.local_size(block(1000), 0.002) == 3  # a timed wait is to end
    assert scheduler.local_size(block(1000, fold=max)) in (999, 1000)
    chunk = block()
    chunk.job.owner = 3, 1  # it is run as a whole
    assert scheduler.local_size(chunk) in (99, 100)
    scheduler.costs.clear()
    scheduler.note_cost(len, scoop_lite.SHORT_S)
    assert [scheduler.local_size(part) for part in (chunk, chunk.part(0, 2), chunk.part(0, 1))] == [9, 1, 1]
    assert scheduler.local_size(block(deaths=1)) == 1
    scheduler.note_cost(len, 1.0)
    assert scheduler.local_size(block()) == 1
    scheduler.costs.clear()
    scheduler.note_cost(len, scoop_lite.LOCAL_SLICE_S / 8)
    scheduler.max_tasks, scheduler.n_visits = 10, 7
    assert scheduler.local_size(block()) == 3
    scheduler.n_visits = 12
    assert scheduler.local_size(block()) == 1


def visit(scheduler, owner=(3, 1), n=4):
    function = scoop_lite.dumps_whole((len, None))
    head = (*owner, 5, 0, n, 0, 0, scoop_lite.CALLS, 0, 0, 1)
    made = scheduler.visitors(head, [b"", function, b"", *scoop_lite.dumps([[("a",)] * n])])
    assert scheduler.open(made)
    return made


def test_what_is_queued_counts_if_somebody_wants_it(scheduler):
    assert not scheduler.is_busy()
    scheduler.put(visit(scheduler))
    assert scheduler.is_busy() and not scheduler.is_busy(own=True)
    one = block()
    scheduler.put(one)
    assert scheduler.is_busy(own=True)
    one.job.abandoned = True
    assert not scheduler.is_busy(own=True)
    scheduler.levels[0][0].job.abandoned = True
    assert not scheduler.is_busy()
    (future,) = add(scheduler, scope(scheduler))
    assert scheduler.is_busy(own=True)
    future.state = scoop_lite.CANCELLED
    assert not scheduler.is_busy()


def test_the_tasks_of_an_owner_that_died_are_dropped_everywhere(scheduler):
    function = scoop_lite.dumps_whole((len, None))
    of_dead, of_other = visit(scheduler), visit(scheduler, owner=(3, 2))
    runs, runs_on = running(scheduler, visit(scheduler)), running(scheduler, visit(scheduler, owner=(3, 2)))
    heads = [(*owner, 6, 0, 4, 0, 0, scoop_lite.CALLS, 0, 0, 1) for owner in ((3, 1), (4, 1))]
    chunks = [scheduler.visitors(head, [b"", function, b"", b""]) for head in heads]
    for item in (of_dead, of_other, *chunks):
        scheduler.levels[0].append(item)
    scheduler.home.append(visit(scheduler))
    scheduler.results[3, 1] = []
    scheduler.on_purge([b"", OWNER.pack(3, 1)])
    assert list(scheduler.levels[0]) == [of_other, chunks[1]] and not scheduler.home and scheduler.results == {}
    assert runs.block.job.abandoned and runs.block.hi == 1 and not runs_on.block.job.abandoned and runs_on.block.hi == 4


def test_suspected_tasks_are_kept_from_the_origin_while_others_live(scheduler):
    scheduler.live = 2
    scheduler.put_back(block(deaths=1))
    assert len(scheduler.away) == 1 and not scheduler.levels[0]
    scheduler.live = 1
    scheduler.put_back(block(deaths=1))
    scheduler.runs_script, scheduler.live = False, 2
    scheduler.put_back(block(deaths=1))
    assert len(scheduler.away) == 1 and len(scheduler.levels[0]) == 2


@pytest.mark.parametrize("deaths, words", [(1, ("1 worker that", "1 time (")), (3, ("3 workers that", "3 times ("))])
def test_tasks_given_up_say_what_happened(scheduler, deaths, words):
    facts = dict(rank=4, host="node1", pid=9, how="was killed")  # noqa: C408
    one = block(3, deaths=deaths).part(1, 3)
    scheduler.give_up(one, facts)
    assert [(first, count) for first, count, _ in one.job.got] == [(1, 1), (2, 1)]
    text = str(one.job.got[0][2][0].look())
    assert all(word in text for word in (*words, "worker 4 on node1 (pid 9), was killed", "--retries 2", "len("))
    job = scoop_lite.Everywhere(len, ("abc",), frozenset())
    scheduler.give_up(scoop_lite.Block(job, [[job.args]], 2, 2, 3), facts)
    text = str(job.outcomes[0].look())
    assert "worker 4 on node1" in text and "during run_on_all()" in text


# ---------------------------------------------------------------------------------------------------------------------
# Scheduler: what comes from others, and what goes wrong
# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def timed(scheduler):
    """A scheduler whose clock the test sets."""
    scheduler.at_s = 10.0
    scheduler.clock = lambda: scheduler.at_s
    return scheduler


def shipped(scheduler, n=10, lo=0, **how):
    """A block of this worker's tasks from `lo` on that others have; its chunk's number."""
    whole = block(n + lo, **how)
    scheduler.ship(whole.part(lo, lo + n))
    return whole.job, scheduler.n_chunks - 1


def lost(scheduler, chunk, first, count, opened=False, **more):
    death = dict(rank=4, host="node1", pid=9, how="was killed", **more)  # noqa: C408
    ref = scoop_lite.LOST_REF.pack(chunk, first, count, opened)
    scheduler.on_lost([b"", scoop_lite.facts(**death), ref])
    return [(b.lo, b.hi, b.deaths, b.alone) for b in scheduler.levels[0]]


@pytest.mark.parametrize("deaths, live, given_up", [(0, 1, 0), (1, 1, 1), (1, 2, 0)])
def test_an_origin_that_is_alone_runs_no_task_that_was_at_two_deaths(scheduler, deaths, live, given_up):
    scheduler.retries, scheduler.live = 9, live
    suspect = block(1, deaths=deaths)
    scheduler.ship(suspect)
    lost(scheduler, 0, 0, 1, True)
    assert len(suspect.job.got) == given_up and len(scheduler.levels[0]) + len(scheduler.away) == 1 - given_up


def test_what_a_dead_worker_had_comes_back_to_its_owner_and_is_suspected(scheduler):
    job, chunk = shipped(scheduler, n=10, lo=5)
    scheduler.runs_script = False
    assert lost(scheduler, chunk, 2, 3) == [(7, 10, 1, True)]
    assert scheduler.sent[chunk].left == [(0, 2), (5, 10)]
    assert lost(scheduler, chunk, 5, 5)[0] == (10, 15, 1, True) and scheduler.sent[chunk].left == [(0, 2)]
    lost(scheduler, chunk, 0, 2)
    assert chunk not in scheduler.sent and job.got == []


@pytest.mark.parametrize("alone, opened, retired, retries, cut_off, deaths", [
    (True, False, False, 2, False, 0), (True, True, False, 2, False, 1), (False, False, False, 2, False, 1),
    (False, False, True, 2, False, 0), (True, True, True, 2, False, 0), (False, False, False, 0, False, 0),
    (True, False, False, 0, True, 1), (False, True, False, 0, False, 1),
])  # fmt: skip
def test_blamed_is_what_was_begun_or_may_have_been(scheduler, alone, opened, retired, retries, cut_off, deaths):
    scheduler.runs_script, scheduler.retries = False, retries
    whole = block(1)
    whole.alone = alone
    scheduler.ship(whole)
    given_up = []
    scheduler.later = given_up.append
    found = lost(scheduler, 0, 0, 1, opened, retired=retired, cut_off=cut_off)
    if deaths > retries:
        assert found == [] and len(given_up) == 1
    else:
        assert found == [(0, 1, deaths, alone or bool(deaths))] and given_up == []


def test_tasks_that_nobody_wants_are_not_run_again(scheduler):
    job, chunk = shipped(scheduler)
    job.abandoned = True
    assert lost(scheduler, chunk, 0, 10) == [] and not scheduler.away and scheduler.sent == {}


def test_a_task_for_all_whose_worker_died_is_not_tried_elsewhere(scheduler):
    job = scoop_lite.Everywhere(len, ("abc",), frozenset())
    scheduler.run_on_all(job, scoop_lite.coming_answer())
    assert scheduler.sent[0].block.alone and scheduler.sent[0].left == [(0, 1)]
    assert scoop_lite.loads(scheduler.last()[3:]) == [[("abc",)]]
    scheduler.on_spread([b"", REF.pack(0, 0, 3)])
    lost(scheduler, 0, 2, 1)
    (failure,) = job.outcomes
    assert "during run_on_all()" in str(failure.look())


def test_a_worker_that_dies_when_a_task_has_just_been_spread_is_counted():
    runtime = scoop_lite.Runtime(scoop_lite.Config(n=1))
    job = scoop_lite.Everywhere(len, ("abc",), frozenset())
    runtime.scheduler.run_on_all(job, scoop_lite.coming_answer())
    death = scoop_lite.facts(rank=2, host="node1", pid=9, how="was killed")
    lost = scoop_lite.message("LOST", 0, 1, death, scoop_lite.LOST_REF.pack(0, 2, 1, False))
    runtime.take_in(collections.deque([scoop_lite.message("SPREAD", 0, 1, REF.pack(0, 0, 3)), lost]))
    runtime.dispatch()
    assert runtime.scheduler.sent[0].left == [(0, 2)] and len(job.outcomes) == 1


def chunk_of(owner=(3, 1), chunk=5, first=0, n=4, careful=0, depth=0, payload=None):
    """A chunk of another worker's `len` tasks, as it comes in a batch."""
    function = scoop_lite.dumps_whole((len, None))
    payload = scoop_lite.dumps([[("a" * i,) for i in range(n)]]) if payload is None else payload
    head = CHUNK.pack(*owner, chunk, first, n, depth, careful, scoop_lite.CALLS, 9, 20, len(payload))
    return [function, head, *payload]


def received(scheduler, **how):
    function, head, *payload = chunk_of(**how)
    return scheduler.visitors(CHUNK.unpack(head), [b"", function, head, *payload])


def test_a_chunk_of_suspected_tasks_is_told_of_before_it_is_opened(scheduler):
    opened = received(scheduler, first=7)
    assert scheduler.open(opened)
    assert (opened.lo, opened.hi, opened.deaths, opened.alone) == (7, 11, 0, False) and scheduler.messages() == []
    scheduler.results[3, 1] = [OWNER.pack(3, 1)]
    opened = received(scheduler, first=7, careful=3)
    assert scheduler.open(opened)
    assert scheduler.messages() == ["RESULT", "OPENED"]  # what is done is not to be lost with it
    assert scheduler.last()[1:] == [OWNER.pack(3, 1), REF.pack(5, 7, 4)] and opened.deaths == 2 and opened.alone
    assert (opened.job.place, opened.job.order, opened.job.depth) == (9, 20, 0)


@pytest.mark.parametrize("lacking", [False, True])
def test_a_chunk_that_had_no_room_here_is_not_passed_on(scheduler, lacking):
    head = CHUNK.pack(3, 1, 5, 0, 1, 0, 0, scoop_lite.CALLS, 0, 0, 2)
    payload = [b"head", scoop_lite.NO_ROOM if lacking else b"a buffer"]
    scheduler.on_returned(scheduler.message("BATCH", scoop_lite.dumps_whole((len, None)), head, *payload))
    scheduler.live, scheduler.ordered = 8, 1
    scheduler.carve()
    assert scheduler.messages() == ([] if lacking else ["BATCH"])
    if lacking:
        assert not scheduler.open(scheduler.take())
        assert scheduler.last()[2] == PART.pack(5, 0, 1, 0, scoop_lite.UNREADABLE, 1)
        assert b"not enough memory here" in scheduler.last()[3]


def test_a_chunk_that_cannot_be_unpickled_is_asked_for_one_by_one(scheduler):
    assert not scheduler.open(received(scheduler, payload=[b"garbage"]))
    assert scheduler.messages() == ["RESULT"]
    assert scheduler.last()[1:3] == [OWNER.pack(3, 1), PART.pack(5, 0, 4, 0, scoop_lite.UNREADABLE, 1)]
    reason = scheduler.last()[3]
    job, chunk = shipped(scheduler, n=4, lo=3)
    scheduler.on_result([b"", b"", PART.pack(chunk, 1, 3, 0, scoop_lite.UNREADABLE, 1), reason])
    assert [(b.lo, b.hi, b.alone) for b in scheduler.levels[0]] == [(4, 7, True)]
    assert scheduler.sent[chunk].left == [(0, 1)]
    scheduler.on_result([b"", b"", PART.pack(chunk, 0, 1, 0, scoop_lite.UNREADABLE, 1), reason])
    ((first, count, (failure,)),) = job.got
    assert (first, count) == (3, 1) and "worker could not unpickle task len('3')" in str(failure.look())
    assert chunk not in scheduler.sent


def test_a_name_that_workers_lack_travels_by_value_from_then_on(scheduler, monkeypatch):
    monkeypatch.setattr(in_main, "__module__", "__main__")
    chunks = [shipped(scheduler, n=1, func=in_main)[1] for _ in range(2)]
    reason = scoop_lite.facts(error="no attribute", missing=["in_main"])
    for chunk in chunks:  # the second had left before the first was refused
        scheduler.on_result([b"", b"", PART.pack(chunk, 0, 1, 0, scoop_lite.UNREADABLE, 1), reason])
    assert scheduler.by_value == {"in_main"}
    assert [(b.lo, b.hi, b.alone) for b in scheduler.levels[0]] == [(0, 1, False)] * 2
    job, chunk = shipped(scheduler, n=1, func=in_main)
    scheduler.on_result([b"", b"", PART.pack(chunk, 0, 1, 0, scoop_lite.UNREADABLE, 1), reason])
    assert "no attribute" in str(job.got[0][2][0].look())


def test_batches_are_counted_and_the_shortest_wait_is_what_fetching_takes(timed):
    assert not timed.is_hungry
    timed.flush(want=True)
    timed.flush(want=True)
    assert (timed.messages(), timed.is_hungry, timed.wanted_s) == (["HUNGRY"], True, 10.0)
    assert HUNGER.unpack(timed.last()[1]) == (1, 1)
    timed.at_s = 10.005
    timed.on_batch([b"", *chunk_of()])
    assert timed.fetch_s == pytest.approx(0.005) and (timed.received, timed.is_hungry) == (1, False)
    timed.flush(want=True)
    assert HUNGER.unpack(timed.last()[1]) == (2, 2)
    timed.at_s = 60.0  # nobody had tasks meanwhile
    timed.on_batch([b"", *chunk_of()])
    assert timed.fetch_s == pytest.approx(0.00525)
    timed.on_batch([b"", *chunk_of()])  # it was on its way when this worker said that it needs none
    assert (timed.wanted, timed.received, timed.is_hungry) == (3, 3, False)


def test_the_way_from_a_client_is_measured_from_when_it_was_asked_and_followed_slowly(timed):
    straight = scoop_lite.OWNER.unpack(scoop_lite.STRAIGHT)
    timed.take_part(1, 1, 2, True)
    for taken_s, expected_s in ((0.005, 0.005), (50.0, 0.00525)):
        timed.flush(want=True)
        assert timed.asked and timed.last()[1] == scoop_lite.STRAIGHT
        timed.at_s += taken_s
        timed.on_batch([b"", *chunk_of(owner=straight)])
        assert timed.fetch_s == pytest.approx(expected_s) and not timed.asked and timed.received == 0


def test_a_clients_tasks_that_others_are_to_have_go_back_by_the_broker_by_name_alone(timed):
    timed.take_part(1, 1, 2, True)
    visit = received(timed, owner=scoop_lite.OWNER.unpack(scoop_lite.STRAIGHT), chunk=7, first=3, n=2)
    timed.ship(visit)
    kind, function, head = timed.last()
    assert NAMES[kind[0]] == "RETURNED" and function == b""
    assert CHUNK.unpack(head) == (ORIGIN, 1, 7, 3, 2, 0, 0, 0, 0, 0, 0)


def test_tasks_that_neighbours_have_are_called_back_by_their_own_links(scheduler):
    told = []
    neighbour = scoop_lite.Neighbour(4, 6, SimpleNamespace(send=told.append))
    job, chunk_id = shipped(scheduler)
    scheduler.sent[chunk_id].holder = neighbour
    n_messages = len(scheduler.messages())
    assert scheduler.recall("CANCEL", job, 2, 5) == [(chunk_id, 2)] and len(scheduler.messages()) == n_messages
    assert told == [scoop_lite.message("CANCEL", 4, 6, scoop_lite.STRAIGHT, REF.pack(chunk_id, 2, 3))]


@pytest.mark.parametrize("outcomes, failed", [([1, 2], False), ([ValueError(), 2], True), ([1, ValueError()], True)])
def test_a_job_knows_whether_an_outcome_may_be_a_failure(scheduler, outcomes, failed):
    job, chunk_id = shipped(scheduler, n=2)
    packed = [Failure(outcome) if isinstance(outcome, Exception) else outcome for outcome in outcomes]
    form, frames = scoop_lite.pack_outcomes(packed)
    scheduler.on_result([b"", OWNER.pack(0, 1), PART.pack(chunk_id, 0, 2, 0, form, len(frames)), *frames])
    assert job.failed is failed and len(job.got) == 1


def test_results_that_cannot_be_unpickled_are_failures_and_the_job_knows(scheduler):
    job, chunk_id = shipped(scheduler, n=2)
    scheduler.on_result([b"", OWNER.pack(0, 1), PART.pack(chunk_id, 0, 2, 0, scoop_lite.LIST, 1), b"no pickle"])
    assert job.failed and [type(outcome) for outcome in job.got[0][2]] == [Failure] * 2


def test_what_is_under_way_or_must_be_run_here_or_elsewhere_keeps_a_worker_busy(scheduler):
    for place in (scheduler.home, scheduler.away):
        assert scheduler.is_busy() is False
        place.append(block())
        assert scheduler.is_busy() is True
        place.clear()
    shipped(scheduler)
    assert scheduler.is_busy() is True


def test_what_came_to_be_run_here_stays_for_as_long_as_a_chunk_should_take(timed):
    timed.on_batch([b"", *chunk_of()])
    assert timed.late_s == pytest.approx(10.0 + scoop_lite.CHUNK_S)
    timed.at_s += 0.001
    timed.on_batch([b"", *chunk_of(chunk=6)])
    assert timed.late_s == pytest.approx(10.0 + scoop_lite.CHUNK_S)  # since something runs


def test_a_cancellation_is_answered_without_a_time_that_could_be_learnt_from(scheduler):
    scheduler.level(0).append(received(scheduler))
    for first, answer in ((1, (5, 1, 2, 0, scoop_lite.EACH, 1)), (1, (5, 1, 0, 0, scoop_lite.EACH, 0))):
        scheduler.on_cancel([b"", OWNER.pack(3, 1), REF.pack(5, first, 2)])
        assert PART.unpack(scheduler.answers.popleft()[2]) == answer


def test_instances_of_a_class_with_a_reducer_of_its_own_are_not_plain(monkeypatch):
    class Plain:
        pass

    class Reduced:
        pass

    monkeypatch.setitem(copyreg.dispatch_table, Reduced, lambda found: (Reduced, ()))
    assert scoop_lite.is_plain_class(Plain) and not scoop_lite.is_plain_class(Reduced)


def test_a_worker_that_has_started_is_found_for_the_launcher(pool):
    told = scoop_lite.facts(rank=1, incarnation=1, pid=4711)
    member = pool.broker.on_started(0, scoop_lite.message("STARTED", scoop_lite.AGENT, 0, told))
    assert member is pool.broker.members[1] and member.pid == 4711


def test_more_is_asked_for_before_all_is_done_but_where_the_script_runs(timed):
    """As much earlier as a batch may need to come; what was asked for so is not taken back for what is left."""
    timed.costs[scoop_lite.cost_key(len)], timed.fetch_s, timed.runs_script = 0.001, 0.002, False
    assert timed.left_s() == 0 and timed.ahead_s() == pytest.approx(0.004 + scoop_lite.AHEAD_S)
    timed.put(block(9))
    assert timed.left_s() == pytest.approx(0.009)
    timed.flush(want=True)
    timed.sate(timed.ahead_s())
    assert timed.messages() == ["HUNGRY"] and timed.is_hungry
    timed.put(block(1))
    assert timed.left_s() == float("inf")  # more than a look at one item tells
    timed.sate(timed.ahead_s())
    assert timed.messages() == ["HUNGRY"] * 2 and not timed.is_hungry
    timed.runs_script = True
    assert timed.ahead_s() == 0


@pytest.mark.parametrize("left_s, asks", [(0.9, True), (1.1, False)])
def test_more_is_asked_for_before_the_last_slice_but_one_begins(linked, left_s, asks):
    """During a slice nobody looks: what counts is what will be left when it ends."""
    scheduler = linked.scheduler
    scheduler.from_broker, scheduler.fetch_s = True, 0.0
    scheduler.note_cost(len, 0.001)
    scheduler.put(block(round(left_s * scoop_lite.AHEAD_S / 0.001)))
    assert linked.prepare(len, 50) == pytest.approx(0.05)
    assert (scheduler.wanted > scheduler.received) is asks


@pytest.mark.parametrize("fetch_s, cost_s, near, kinds", [
    (0.01, 0.1, False, ["NEXT"]), (0.001, 0.1, False, ["RESULT"]), (0.01, 0.1, True, ["RESULT"]),
    (0.01, 0.003, True, ["NEXT"]),
])  # fmt: skip
def test_results_and_hunger_leave_together_before_a_long_task(linked, fetch_s, cost_s, near, kinds):
    """If fetching takes a good part of the task's length; else more is asked for when it has ended.

    On the launcher's host a batch that takes long to come waits for a CPU. To ask ahead there does not make it come
    sooner: of 450 workers that slept on two cores, it took a quarter of the time.
    """
    scheduler, linked.config = linked.scheduler, linked.config.replace(near=near)
    scheduler.from_broker, scheduler.fetch_s = True, fetch_s
    scheduler.note_cost(len, cost_s)
    scheduler.add_part((3, 1, 5), 0, 1, scoop_lite.LIST, [b""])
    linked.prepare(len, 1)
    told = linked.peer.receive()
    assert [scoop_lite.NAMES[frames[0][0]] for frames in told] == kinds


@pytest.mark.parametrize("woken", ["one", "none", "any"])
def test_links_are_read_that_have_something(linked, woken):
    """Of a thousand links few do."""
    peer, theirs = socket.socketpair()
    linked.peer.flush()
    other = linked.straight = scoop_lite.StreamLink(theirs)
    linked.links[other.fileno()] = other
    peer.send(b"".join(scoop_lite.encode(scoop_lite.message("CREDIT", 0, 1, b"", scoop_lite.COUNT.pack(1)), [])))
    other.codec.greeted = other.codec.ready = True
    found = {"one": {other.fileno(): 1}, "none": {linked.link.fileno(): 1, linked.bell.fd: 1}, "any": None}[woken]
    assert linked.receive(found) == (woken != "none")
    peer.close()
    other.close()


def test_hunger_is_taken_back_when_tasks_are_here_meanwhile(timed):
    timed.sate()
    timed.flush(want=True)
    timed.sate()  # nothing is here
    assert timed.messages() == ["HUNGRY"] and timed.is_hungry
    timed.put(block())
    timed.sate()
    assert timed.messages() == ["HUNGRY"] * 2 and not timed.is_hungry and timed.wanted == timed.received == 0
    assert HUNGER.unpack(timed.last()[1]) == (0, 2)


def test_chunks_that_come_home_unopened_are_queued_again_and_others_wait_in_their_depth(scheduler):
    _, chunk = shipped(scheduler, n=6, lo=2)
    own = CHUNK.pack(0, 1, chunk, 1, 2, 0, 0, scoop_lite.CALLS, 77, 100, 1)
    scheduler.on_returned([b"", b"f", own, b"p"])
    scheduler.on_returned([b"", *chunk_of(depth=2)])
    assert [(b.lo, b.hi) for b in scheduler.levels[0]] == [(3, 5)]
    assert scheduler.sent[chunk].left == [(0, 1), (3, 6)]
    assert [(b.job.key, b.columns) for b in scheduler.levels[2]] == [((3, 1, 5), None)]
    for first, n in (3, 3), (0, 1), (0, 1):  # the last for nothing
        own = CHUNK.pack(0, 1, chunk, first, n, 0, 0, scoop_lite.CALLS, 77, 100, 1)
        scheduler.on_returned([b"", b"f", own, b"p"])
    assert [(b.lo, b.hi) for b in scheduler.levels[0]] == [(2, 3), (5, 8), (3, 5)] and scheduler.sent == {}


def results(scheduler, chunk, *parts):
    frames = [b"", b""]
    for first, values, nanoseconds in parts:
        form, packed = scoop_lite.pack_outcomes(values) if values else (scoop_lite.EACH, [])
        frames += [PART.pack(chunk, first, len(values), nanoseconds, form, len(packed)), *packed]
    scheduler.on_result(frames)


def test_results_go_to_their_jobs_and_teach_what_tasks_cost(scheduler):
    job, chunk = shipped(scheduler, n=6, lo=2)
    asked = []
    scheduler.cancelling[chunk, 1] = lambda: asked.append(1)
    results(scheduler, chunk, (1, [], 0), (0, [10, 11], 4_000_000_000), (9, [], 0), (2, [12], 0))
    assert job.got == [(2, 2, [10, 11]), (4, 1, [12])] and asked == [1]
    assert list(scheduler.costs.values()) == [2.0] and scheduler.n_returned == 3
    assert scheduler.sent[chunk].left == [(3, 6)]
    job.abandoned = True
    results(scheduler, chunk, (3, [13, 14, 15], 0))
    assert len(job.got) == 2 and scheduler.sent == {}


def answer(scheduler):
    """The parts of the answer to a cancellation: chunk, first, count; and what is said of each task."""
    (frames,) = scheduler.answers
    scheduler.answers.clear()
    assert NAMES[frames[0][0]] == "RESULT" and frames[1] == OWNER.pack(3, 1)
    return [PART.unpack(frame)[:3] for frame in frames[2:] if len(frame) == PART.size]


def cancel(scheduler, first, count, handler="on_cancel"):
    getattr(scheduler, handler)([b"", OWNER.pack(3, 1), REF.pack(5, first, count)])
    return answer(scheduler)


def test_a_cancellation_takes_tasks_out_of_chunks_and_blocks_wherever_they_wait(scheduler):
    scheduler.levels[0].append(received(scheduler, n=6))
    assert cancel(scheduler, 2, 2) == [(5, 2, 2)]
    assert not scheduler.levels[0] and [(b.lo, b.hi) for b in scheduler.home] == [(0, 2), (4, 6)]
    assert cancel(scheduler, 1, 4) == [(5, 1, 1), (5, 4, 1)]
    assert cancel(scheduler, 2, 3) == [(5, 2, 0)]  # none
    assert cancel(scheduler, 0, 9) == [(5, 0, 1), (5, 5, 1)] and not scheduler.home
    opened = visit(scheduler, n=6)
    scheduler.levels[0].append(opened)
    scheduler.levels[0].append(block())
    assert cancel(scheduler, 2, 2) == [(5, 2, 2)]
    assert [(b.lo, b.hi) for b in scheduler.levels[0] if b.job is opened.job] == [(0, 2), (4, 6)]
    assert len(scheduler.levels[0]) == 3  # that of another job is as it was


def running(scheduler, one, begun=1):
    """A slice of a block of which so many tasks have begun; the last of them runs."""
    piece = scoop_lite.Slice(one, range(one.hi - one.lo), scheduler.clock())
    for _ in range(begun):
        next(piece.it)
    piece.out.extend([None] * (begun - 1))
    scheduler.slices.append(piece)
    return piece


def test_a_cancellation_robs_what_runs_of_what_has_not_begun(scheduler):
    piece = running(scheduler, visit(scheduler, n=6), begun=2)
    assert cancel(scheduler, 0, 4) == [(5, 2, 2)]
    assert piece.block.hi == 2 and [(b.lo, b.hi) for b in scheduler.levels[0]] == [(4, 6)]


@pytest.mark.parametrize("first, count, interrupted", [(0, 1, False), (1, 1, True), (0, 6, True), (2, 4, False)])
def test_an_abort_interrupts_the_task_that_runs_if_it_is_meant(scheduler, first, count, interrupted):
    piece = running(scheduler, visit(scheduler, n=6), begun=2)  # task 1 runs
    found = []
    scheduler.interrupt = found.append
    cancel(scheduler, first, count, "on_abort")
    assert found == [piece] * interrupted
    for lo, hi in ((0, 1), (1, 2), (2, 6)):  # what was on its way to a slice meanwhile
        part = piece.block.part(lo, hi)
        assert scheduler.was_aborted(part) is (first <= lo and hi <= first + count)
    assert not scheduler.was_aborted(block())


def test_half_of_what_a_slice_has_not_begun_is_taken_if_that_is_worth_it(timed):
    long = running(timed, block(11))
    timed.note_cost(len, 1e-6)
    assert timed.rob() is None  # ten tasks of a microsecond
    long.due_s, timed.at_s = timed.at_s, timed.at_s + 0.01  # but they take longer than was thought
    taken = timed.rob()
    assert (taken.lo, taken.hi) == (6, 11) and [(b.lo, b.hi) for b in timed.levels[0]] == [(1, 6)]
    assert long.block.hi == 1 and timed.rob() is None
    timed.slices[:] = []
    timed.levels[0].clear()
    timed.costs.clear()
    timed.note_cost(len, 1.01 * 2 * scoop_lite.MIN_CHUNK_S / 4)
    running(timed, block(5))
    timed.retries = 0  # each task travels alone
    taken = timed.rob()
    assert (taken.lo, taken.hi) == (4, 5) and [(b.lo, b.hi) for b in timed.levels[0]] == [(1, 4)]
    timed.slices[:] = []
    running(timed, block(9)).block.job.abandoned = True
    timed.at_s += 1
    assert timed.rob() is None


def test_the_pump_dozes_while_the_scheduler_looks_at_its_link_between_short_slices():
    runtime = scoop_lite.Runtime(scoop_lite.Config(n=1))
    pump = runtime.pump = scoop_lite.Pump(runtime)
    pump.thread = threading.current_thread()  # so that `kick` rings
    rung = lambda: bool(select.select([pump.bell.fd], [], [], 0)[0])  # noqa: E731
    piece = running(runtime.scheduler, block(5))
    assert pump.plan() == (False, scoop_lite.DOZE_S)
    pump.kick(soon=True)  # another slice
    assert not rung()
    pump.kick()  # a task that is not known to be short
    assert rung() and not pump.dozing
    pump.bell.clear()
    pump.long_task = True
    assert pump.plan() == (True, 0.05) and pump.watching and not pump.dozing
    pump.long_task = False
    runtime.outbox.waiting.append([b""])  # for credit
    assert pump.plan()[0] is True
    runtime.outbox.waiting.clear()
    piece.block.job.fold = max  # a reduction's slice is long, and nobody looks meanwhile
    assert pump.plan() == (False, 0.05) and not pump.dozing
    piece.block.job.fold = None
    piece.block.hi = 1  # the rest was taken away, as it took too long
    assert pump.plan() == (False, None) and pump.asleep
    piece.due_s = 0.0  # the task that goes on is late: what comes meanwhile is for others
    assert pump.plan() == (True, None)
    piece.due_s, piece.n_handed = float("inf"), 4  # or will be: what was before it has been handed in
    assert pump.plan() == (False, scoop_lite.DOZE_S)
    piece.n_handed = 0
    runtime.scheduler.sent[0] = None  # something is expected
    assert pump.plan() == (True, None)


@pytest.mark.parametrize("task_s, pause_s", [(0.001, scoop_lite.DOZE_S), (0.1, 0.4)])
def test_a_slice_is_late_when_it_or_its_running_task_takes_far_longer_than_was_thought(timed, task_s, pause_s):
    piece = running(timed, block(10), begun=3)
    assert not piece.is_late(1000.0)
    piece.begin(10.0, 10 * task_s)
    assert not piece.is_late(10.001)
    assert not piece.is_late(10.0 + pause_s) and piece.is_late(10.002 + pause_s)
    piece.out.append(None)  # its third task has ended
    late_s = piece.due_s - pause_s / 2
    assert not piece.is_late(late_s)
    assert piece.is_late(piece.due_s + 0.001)  # as a whole


@pytest.mark.parametrize("what, ends", [("", False), ("message, soon", False), ("message", True), ("late", True)])
def test_the_pump_ends_a_slice_for_a_message_and_when_it_is_late(linked, what, ends):
    piece = running(linked.scheduler, block(10), begun=3)
    linked.scheduler.late_s = float("inf")
    if "message" in what:
        linked.inbox.append([b""])
        piece.started_s -= 0.001 if "soon" in what else 2 * scoop_lite.DOZE_S
    elif what == "late":
        piece.due_s = 0.0
    linked.pump.work()
    assert piece.block.hi == (3 if ends else 10)
    assert [(b.lo, b.hi) for b in linked.scheduler.levels[0]] == ([(3, 10)] if ends else [])
    assert (linked.scheduler.late_s < float("inf")) is (what == "late")  # others' tasks behind it may be passed on


@pytest.mark.parametrize("why", ["it is late", "it is a whole chunk"])
def test_the_pump_watches_while_a_slice_is_long(linked, why):
    piece = running(linked.scheduler, block(10), begun=3)
    linked.pump.idling = False
    piece.begin(scoop_lite.now(), 1.1 * scoop_lite.DOZE_S)
    assert linked.pump.plan() == (False, scoop_lite.DOZE_S)
    if why == "it is late":
        piece.due_s = 0.0
    else:
        piece.block.job.owner = 3, 1
    linked.scheduler.results[3, 1] = []
    assert linked.pump.plan()[0] is True and not linked.pump.dozing


@pytest.mark.parametrize("from_client", [False, True])
def test_the_pump_looks_at_tasks_that_are_kept_when_they_may_be_given_away(linked, from_client):
    """Not all the time meanwhile; a client may run dry before."""
    scheduler, waiting = linked.scheduler, block(1)
    running(scheduler, block(1))
    waiting.job.owner = scoop_lite.CLIENT if from_client else (3, 1)
    scheduler.put(waiting)
    scheduler.ordered, scheduler.late_s = 1, scoop_lite.now() + 0.04
    if from_client:
        scheduler.straight, scheduler.asked, scheduler.asked_s, scheduler.live = True, True, scoop_lite.now(), 100
    watches, wait_s = linked.pump.plan()
    assert watches and (0.01 if from_client else 0.03) < wait_s <= (0.02 if from_client else 0.04)
    scheduler.late_s = 0.0
    assert linked.pump.plan() == (True, 0.005)


def test_others_tasks_are_passed_on_only_when_what_runs_here_takes_too_long(timed):
    timed.take()
    timed.levels[0].append(received(timed))
    assert timed.late_s == pytest.approx(10.0 + scoop_lite.CHUNK_S) and timed.take_away() is None
    timed.at_s = timed.late_s
    assert timed.take_away().job.key == (3, 1, 5) and not timed.levels[0]


@pytest.mark.parametrize("fold", (None, max))
@pytest.mark.parametrize("chunks_of_work, n_given", [(1.9, 0), (2.1, 1)])
def test_others_tasks_that_are_far_more_work_than_was_thought_are_passed_on_at_once(
    timed, chunks_of_work, n_given, fold
):
    visit = received(timed)
    assert timed.open(visit)
    visit.job.fold = fold
    timed.take()
    timed.put_back(visit)
    timed.note_cost(visit.job.func, chunks_of_work * scoop_lite.chunk_s(visit.job) / 4)  # each of its four
    given = timed.take_away()
    assert (given.hi - given.lo if given else 0) == n_given


def test_what_waits_for_others_goes_first_and_one_by_one_and_home_when_nobody_is_left(scheduler):
    scheduler.live = 3
    scheduler.put(block())
    scheduler.put_back(block(2, deaths=1))
    taken = scheduler.take_away()
    assert (taken.lo, taken.hi, taken.deaths) == (0, 1, 1) and scheduler.away[0].lo == 1
    scheduler.on_pool([b"", scoop_lite.facts(live=2)])
    assert scheduler.live == 2 and len(scheduler.away) == 1
    scheduler.on_pool([b"", scoop_lite.facts(live=1)])
    assert not scheduler.away and [b.deaths for b in scheduler.levels[0]] == [1, 0]


def test_the_deepest_queue_is_found_wherever_the_pump_has_put_something(scheduler):
    scheduler.level(3)
    scheduler.top = -1
    assert scheduler.deepest() is None and scheduler.top == 0
    scheduler.level(3).append(block(depth=3))  # the pump leaves `top` alone
    assert scheduler.deepest() is scheduler.levels[3] and scheduler.top == 3
    scheduler.level(5)
    assert scheduler.deepest() is scheduler.levels[3]
    scheduler.levels[3].clear()
    for depth in (0, 2, 4):
        scheduler.top = -1
        scheduler.level(depth).append(block(depth=depth))
        assert scheduler.deepest() is scheduler.levels[depth] and scheduler.top == depth


def test_futures_taken_out_of_the_middle_are_swept_out_when_they_are_most(scheduler):
    futures = add(scheduler, scope(scheduler), n=200)
    assert scheduler.claim(futures[0]) and scheduler.claim(futures[199]) and len(scheduler.levels[0]) == 198
    assert not scheduler.claim(futures[0])
    for future in futures[10:109]:
        assert scheduler.claim(future)
    level = scheduler.levels[0]
    assert len(level) == 198 and level.stale == 99
    for future in futures[109:150]:
        assert scheduler.claim(future)
    assert len(level) == 198 - 100 and level.stale == 40  # swept at the 100th
    assert [f for f in level if f.state == scoop_lite.PENDING] == futures[1:10] + futures[150:199]
    assert [scheduler.take() for _ in range(9)] == futures[1:10] and scheduler.take() is futures[150]
    assert level.stale == 0


def test_costs_are_kept_by_what_a_function_is(scheduler):
    def outer(x):
        return lambda: x

    class Called:
        def __call__(self):
            pass

    key = scoop_lite.cost_key
    assert key(functools.partial(functools.partial(in_main, 1))) == key(in_main)
    assert key(len) == "len" and key(Called()) == Called.__qualname__
    assert key(InMain().method) == key(InMain.method) != key(in_main)

    def decorated(func):
        return functools.wraps(func)(lambda: func())

    assert key(decorated(in_main)) != key(decorated(outer))  # although they have one and the same code
    assert key(outer(1)) == key(outer(2)) != key(outer)


def test_chunks_are_a_guided_share_within_bounds_of_measured_time(scheduler):
    size = lambda n: scheduler.chunk_size(n, len)  # noqa: E731
    assert size(1000) == 1  # unknown
    scheduler.note_cost(len, scoop_lite.CHUNK_S / 10)
    assert size(1000) in (9, 10) and size(12) == 3 and size(2) == 1  # 12 / (2 * 2 takers)
    scheduler.live = 3
    assert size(12) == 2
    scheduler.costs.clear()
    scheduler.note_cost(len, 1e-9)
    assert size(10**7) == scoop_lite.MAX_CHUNK
    scheduler.costs.clear()
    scheduler.note_cost(len, scoop_lite.MIN_CHUNK_S / 8)
    assert size(12) in (7, 8) and size(4) == 4
    scheduler.max_tasks = 5
    assert size(12) == 5
    scheduler.max_tasks, scheduler.live = 0, 1
    scheduler.costs.clear()
    scheduler.note_cost(len, scoop_lite.CHUNK_S / 10)
    assert scheduler.block_chunk(block(1000)) in (9, 10)
    assert 90 < scheduler.block_chunk(block(1000, fold=max)) <= 10 * scoop_lite.FOLD_CHUNK_S / scoop_lite.CHUNK_S
    assert scheduler.block_chunk(block(1000, deaths=1)) == 1


def test_what_is_measured_short_is_short(scheduler):
    assert not scheduler.is_short(len)
    scheduler.note_cost(len, scoop_lite.SHORT_S)
    assert not scheduler.is_short(len)
    scheduler.costs.clear()
    scheduler.note_cost(len, scoop_lite.SHORT_S * 0.99)
    assert scheduler.is_short(len)


@pytest.fixture(params=[True, False], ids=["gil", "no-gil"])
def gil(request, monkeypatch):
    """Slices as where threads take turns, and as where they run side by side; what a test does in turn is the same."""
    if request.param and not scoop_lite.HAS_GIL:
        pytest.skip("this Python has none")
    monkeypatch.setattr(scoop_lite, "HAS_GIL", request.param)
    return request.param


def test_a_slice_begins_with_nothing_handed_on(scheduler, gil):
    piece = scoop_lite.Slice(block(4), range(4), 0.0)
    assert (piece.n_handed, piece.scope, piece.scope_index, piece.index()) == (0, None, -1, 0)
    piece.out.extend("ab")
    assert piece.index() == 2
    for _ in range(3):
        next(piece.it)
    rest = piece.rob()
    assert (rest.lo, rest.hi, piece.block.hi) == (3, 4, 3) and piece.rob() is None


def test_two_threads_share_a_slice_without_doing_a_task_twice_or_not_at_all(gil):
    """One runs it, the other takes away what has not begun: without a GIL, an iterator of C may give both an item."""
    n = 20_000
    for turn in range(40):
        one = scoop_lite.Block(scoop_lite.Job(identity, 0, 0, 0, 0), [range(n)], 0, 0, n)
        piece = scoop_lite.Slice(one, range(n), 0.0)
        runs = threading.Thread(target=run_slice_alone, args=(piece, map(identity, piece.it)))
        runs.start()
        time.sleep(turn * 0.00005)
        rest = piece.rob()
        runs.join()
        assert piece.out == list(range(one.hi)) and (one.hi == n if rest is None else (rest.lo, rest.hi) == (one.hi, n))


def run_slice_alone(piece, calls):
    with contextlib.suppress(IndexError):  # the end, without a GIL
        scoop_lite.run_calls(piece, calls)


def test_what_is_withdrawn_is_found_though_tasks_are_submitted_meanwhile(scheduler):
    """The pump withdraws what a CANCEL names; the task that runs goes on to submit, for which it needs no lock."""
    job, here = scoop_lite.MapJob(len, (["a"],), scope(scheduler), None, None), scope(scheduler)
    scheduler.put(scoop_lite.Block(job, [["a"]], 0, 0, 1))

    def wanted(found):
        add(scheduler, here)
        return found is job

    assert scheduler.withdraw(wanted) == [(0, 1)]
    assert scheduler.withdraw(wanted) == []


def test_a_queue_is_copied_and_taken_as_it_is():
    queue = scoop_lite.Level("abc")
    assert list(scoop_lite.snapshot(queue)) == list("abc") and queue.stale == 0
    found = []
    for item in scoop_lite.taken(queue):
        found.append(item)
        queue.extend("d" * (len(found) == 2))  # what comes meanwhile is taken, too
    assert found == list("abcd") and not queue
    with pytest.raises(IndexError, match="of whoever takes it"):
        for _ in scoop_lite.taken(collections.deque("a")):
            raise IndexError("of whoever takes it")


def test_what_runs_tells_where_it_was_made(scheduler):
    where = scope(scheduler)
    (future,) = add(scheduler, where)
    job = scoop_lite.MapJob(len, (["a"],), where, None, None)
    own = scoop_lite.Slice(scoop_lite.Block(job, [["a"]], 0, 0, 1), "a", 0.0)
    others = scoop_lite.Slice(visit(scheduler), "a", 0.0)
    assert [scoop_lite.scope_of(runs) for runs in (future, own, others, None)] == [where, where, None, None]


def test_a_reduction_is_a_tree_of_the_items_numbers():
    nodes = []
    for i in range(7):
        scoop_lite.absorb(lambda a, b: f"({a}{b})", nodes, i, 1, str(i))
    assert [(index, size, value) for index, size, value in nodes] == [
        (0, 4, "((01)(23))"), (4, 2, "(45)"), (6, 1, "6")]  # fmt: skip
    nodes = []
    for i in (3, 4, 5):  # a run that begins at an odd item joins only what is joined everywhere
        scoop_lite.absorb(lambda a, b: f"({a}{b})", nodes, i, 1, str(i))
    assert [(index, size, value) for index, size, value in nodes] == [(3, 1, "3"), (4, 2, "(45)")]


def test_a_slice_that_has_not_begun_keeps_its_tasks(gil):
    """Its first one was taken out of the queue to be run here; whoever took it too would run it again, or lose it."""
    for n in (1, 4):
        job = scoop_lite.Job(len, 0, 0, 0, 0)
        piece = scoop_lite.Slice(scoop_lite.Block(job, [range(n)], 0, 0, n), range(n), 0.0)
        assert piece.rob() is None and operator.length_hint(piece.rest) == n
        next(piece.it)  # now the first one runs
        rest = piece.rob()
        assert (rest is None) if n == 1 else (rest.lo, rest.hi, piece.block.hi) == (1, 4, 1)


# ---------------------------------------------------------------------------------------------------------------------
# Strands
# ---------------------------------------------------------------------------------------------------------------------


def test_without_greenlet_strands_are_threads_unless_greenlets_were_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "greenlet", None)
    assert scoop_lite.new_strands("auto").name == scoop_lite.new_strands("thread").name == "thread"
    with pytest.raises(scoop_lite.MisuseError, match="pip install greenlet"):
        scoop_lite.new_strands("greenlet")


def test_a_strand_for_which_there_is_no_thread_says_what_to_do(monkeypatch):
    strands = scoop_lite.ThreadStrands()

    def start(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(scoop_lite.ScoopError, match="can't start new thread; install greenlet"):
        strands.new(lambda: strands.main)


# ---------------------------------------------------------------------------------------------------------------------
# What tasks are called, and what comes back of exceptions
# ---------------------------------------------------------------------------------------------------------------------


class Silent:
    def __repr__(self):
        raise LookupError


def test_tasks_are_described_in_short_whatever_their_arguments_are():
    def call(*args, **kwargs):
        job = scoop_lite.Job(abs, scoop_lite.MIXED, 0, 0, 0)
        return scoop_lite.describe(scoop_lite.Block(job, [[(len, args, kwargs)]], 0, 0, 1))

    assert call(1, "a", key=None) == "task len(1, 'a', key=None)"
    assert call(Silent()) == "task len(<LookupError in repr>)"
    assert call("x" * 200) == f"task len('{'x' * 79}…)"


def test_an_exception_that_cannot_be_unpickled_arrives_as_its_text():
    frames = scoop_lite.pack_outcomes([raised(KeyError("k"))])[1]
    frames[-1] = b"garbage"
    (failure,) = scoop_lite.unpack_outcomes(scoop_lite.EACH, frames, 1)
    error = failure.look()
    assert type(error) is scoop_lite.ScoopError and "a task raised KeyError: 'k'" in str(error)
    assert "in raised\n" in str(error.__cause__)


# ---------------------------------------------------------------------------------------------------------------------
# Pump
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n, inbox, idling, wakes", [
    (1, [], True, 1), (0, ["STOP"], True, 1), (0, [], True, 0), (1, ["STOP"], False, 0),
])  # fmt: skip
def test_the_pump_tells_an_idle_scheduler_what_came_and_that_the_link_has_ended(n, inbox, idling, wakes):
    woken = []
    pump = scoop_lite.Pump(SimpleNamespace(receive=lambda: n, inbox=inbox, wake=lambda: woken.append(1)))
    pump.idling = idling
    assert pump.read() == n and len(woken) == wakes


@pytest.fixture
def linked():
    """A runtime with a link to the other end of a socket, and a pump whose bell can be heard."""
    ours, theirs = socket.socketpair()
    runtime = scoop_lite.Runtime(scoop_lite.Config(n=2))
    runtime.connect(runtime.config, 1, 1, scoop_lite.StreamLink(ours))
    runtime.peer = scoop_lite.StreamLink(theirs)
    runtime.peer.flush()
    runtime.receive()
    runtime.pump.thread = threading.current_thread()  # which `kick` need not start
    runtime.rung = lambda: bool(select.select([runtime.pump.bell.fd], [], [], 0)[0])
    yield runtime
    runtime.link.close()
    runtime.peer.close()


def test_a_pump_that_watches_the_link_is_left_alone_when_a_long_task_begins(linked):
    linked.pump.asleep = True  # for `submit`: there is an order, and nothing to fill it with
    linked.pump.watching = True
    linked.prepare(identity, 1)
    assert linked.pump.long_task and not linked.rung()
    linked.pump.watching = False
    linked.prepare(identity, 1)
    assert linked.rung()


def test_an_idle_scheduler_gives_away_what_a_task_keeps_waiting_that_was_left_behind(linked):
    """An interrupt leaves it in its thread, with the rest of its slice; the pump leaves an idle scheduler alone."""
    running(linked.scheduler, block(10), begun=3)
    linked.scheduler.ordered = 1
    linked.offer()
    assert "BATCH" in [scoop_lite.NAMES[frames[0][0]] for frames in linked.peer.receive()]


def test_what_the_scheduler_leaves_in_the_link_is_for_the_pump_to_read(linked, monkeypatch):
    """The kernel has told only one of the two that something came."""
    linked.pump.watching, linked.pump.thread = True, None
    monkeypatch.setattr(linked.link, "receive", functools.partial(linked.link.receive, 1 << 16))
    linked.peer.send([bytes(30_000)] * 3)
    linked.receive()
    assert linked.link.unread and linked.rung()
    linked.pump.bell.clear()
    linked.receive()
    assert not linked.link.unread and not linked.rung()
    assert [list(map(len, frames)) for frames in linked.inbox] == [[30_000] * 3]


def test_an_order_that_the_pump_has_not_seen_is_told_it_by_who_submits(linked):
    """It waits on the link without a limit, as there was nothing to give and nobody to give it to; nor does it wake."""
    linked.pump.asleep, linked.pump.patient, linked.pump.watching = False, True, True
    linked.peer.send(scoop_lite.message("ORDER", 1, 1, scoop_lite.COUNT.pack(1)))
    linked.receive()
    assert not linked.rung()
    linked.submit(identity, (1,), {})
    assert linked.rung()


def test_an_order_is_filled_before_a_task_that_may_be_long_is_run_where_it_is_waited_for(linked):
    """While it computes, the pump would have to wait for the GIL for each system call."""
    told = []

    def look():
        told.extend(scoop_lite.NAMES[frames[0][0]] for frames in linked.peer.receive())

    first, _ = linked.submit(look, (), {}), linked.submit(identity, (1,), {})
    linked.scheduler.ordered = 1
    linked.wait_for(first)
    assert told.count("BATCH") == 1


def test_an_order_that_ends_a_wait_is_filled_before_user_code_goes_on(linked):
    """It may compute for long then, and the kernel has told the pump of nothing."""
    linked.submit(identity, (1,), {})
    linked.peer.send(scoop_lite.message("ORDER", 1, 1, scoop_lite.COUNT.pack(1)))
    linked.peer.send(scoop_lite.message("RESULT", 1, 1, scoop_lite.OWNER.pack(1, 1)))  # somebody waits for such a one
    linked.idle(linked.n_received)
    assert "BATCH" in [scoop_lite.NAMES[frames[0][0]] for frames in linked.peer.receive()]


@pytest.mark.parametrize("size", [10, 900_000])
def test_what_the_pump_cannot_write_at_once_is_the_schedulers_to_write_on_if_it_waits(linked, size):
    """It watches the link, but for writing only if something was to be written when it began to wait."""
    linked.submit(len, (bytes(size),), {})
    linked.scheduler.ordered = 1
    linked.pump.idling = True
    linked.pump.work()
    assert bool(linked.link.out) is (size > 10)
    assert bool(select.select([linked.bell.fd], [], [], 0)[0]) is bool(linked.link.out)


def test_a_function_in_a_view_of_memory_is_told_by_its_bytes(linked):
    scheduler = linked.scheduler
    by_name, by_value = (scoop_lite.dumps_whole((func, None)) for func in (len, lambda: 1))
    scheduler.packed = None, b""
    assert scheduler.unpack_function(memoryview(by_name)) == (len, None) and scheduler.packed == (len, by_name)
    assert scheduler.unpack_function(memoryview(by_value))[0]() == 1
    assert scheduler.packed == (len, by_name)  # what comes by value is another object each time


def test_an_order_that_comes_while_the_pump_makes_its_plan_changes_it(linked):
    """Its thread may be interrupted anywhere: here, after it has looked for orders."""

    class Results(dict):
        def __len__(self):
            linked.scheduler.ordered = 1
            return 0

    linked.pump.long_task, linked.scheduler.results = True, Results()
    assert linked.pump.plan() == (True, None) and linked.pump.watching
    assert linked.scheduler.ordered == 1 and linked.pump.asleep  # who submits wakes it


def test_a_wait_that_is_interrupted_passes_on_what_may_have_ended_it(linked, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    linked.pump.watching, linked.pump.thread = True, None
    monkeypatch.setattr(linked.waits, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        linked.wait_link(None)
    assert linked.rung()


@pytest.mark.parametrize("way", ["a timed wait", "a look", "the signal again"])
def test_an_interrupt_amid_our_own_work_is_raised_once_and_soon(linked, monkeypatch, way):
    again = []
    monkeypatch.setattr(threading, "Timer", lambda *_: SimpleNamespace(start=lambda: again.append(1)))
    future = linked.submit(identity, (1,), {})
    with linked.lock:
        linked.on_signal(signal.SIGINT, None)
    assert again == [1]
    with pytest.raises(KeyboardInterrupt):
        if way == "a timed wait":
            linked.wait_for(future, 10)
        elif way == "a look":
            linked.poll(future)
        else:
            linked.on_signal(signal.SIGINT, None)
    if way != "the signal again":
        linked.on_signal(signal.SIGINT, None)  # as it was under way
    linked.poll(future)
    assert again == [1]
    with pytest.raises(KeyboardInterrupt):
        linked.on_signal(signal.SIGINT, None)  # the user's next


def test_without_a_thread_for_the_pump_tasks_go_on_and_the_user_is_told_once(linked, monkeypatch, caplog):
    def no_thread(_):
        raise RuntimeError("can't start new thread")

    linked.pump.thread = None
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    for _ in range(3):
        linked.prepare(identity, 1)
        linked.peer.send(scoop_lite.message("ORDER", 1, 1, scoop_lite.COUNT.pack(1)))
        linked.receive()
        linked.submit(identity, (1,), {})
    assert [r.getMessage() for r in caplog.records] == [
        "can't start new thread to serve others while a task runs: they wait for its end; see `ulimit -u`"
    ]
    assert not linked.pump.reads()


def test_who_asks_in_vain_for_a_constant_leaves_nothing_behind(linked):
    for _ in range(3):
        assert linked.get_constant("nobody sets this", 0.0) is None
    assert not linked.waiting_for["nobody sets this"]


def visit_of(runtime, func):
    """One task of another worker, to be run here."""
    visit = scoop_lite.Visit((3, 1, 5, 0, 1, 0, 0, scoop_lite.CALLS, 0, 0, 1), b"", [], runtime.scheduler)
    visit.func, visit.columns = func, [[(0,)]]
    return scoop_lite.Block(visit, visit.columns, 0, 0, 1)


@pytest.mark.parametrize("way", ["map", "submit", "wait"])
def test_a_running_task_whose_owner_has_died_ends_where_it_waits_next(linked, monkeypatch, way):
    """It is not parked: it runs its own tasks itself, one after another."""
    ran = []

    def child(i):
        time.sleep(2 * scoop_lite.LOCAL_SLICE_S)
        ran.append(i)
        if i == 2:
            linked.inbox.append(scoop_lite.message("PURGE", 1, 1, OWNER.pack(3, 1)))
        return i

    def parent(_):
        if way == "map":
            return sum(scoop_lite.futures.map(child, range(10)))
        tasks = [scoop_lite.futures.submit(child, i) for i in range(10)]
        if way == "wait":
            assert tasks[2].result() == 2
            scoop_lite.futures.wait(tasks[:1], return_when=scoop_lite.FIRST_COMPLETED)
        return sum(task.result() for task in tasks)

    monkeypatch.setitem(scoop_lite._state, "runtime", linked)
    linked.run_block(visit_of(linked, parent))
    assert ran == ([2] if way == "wait" else [0, 1, 2])
    assert linked.current.error is None and not linked.scheduler.slices and not linked.scheduler.results


def test_a_running_task_whose_owner_has_died_and_that_does_not_wait_ends_nobody_else(linked, monkeypatch):
    monkeypatch.setitem(scoop_lite._state, "runtime", linked)
    purge = scoop_lite.message("PURGE", 1, 1, OWNER.pack(3, 1))
    linked.run_block(visit_of(linked, lambda _: linked.on_purge(purge)))
    assert linked.current.error is None
    assert scoop_lite.futures.submit(identity, 5).result() == 5


def test_a_task_that_runs_alone_keeps_what_its_own_stop_iteration_says(gil):
    def stop(_):
        raise StopIteration(5)

    piece = scoop_lite.Slice(block(1), [1], 0.0)
    with pytest.raises(StopIteration) as caught:
        scoop_lite.run_calls(piece, map(stop, piece.it))
    assert caught.value.value == 5 and not piece.out


def test_a_configuration_is_never_changed_and_has_no_other_names():
    config = scoop_lite.Config(n=3)
    assert (config.n, config.retries, config.replace(n=4, seed=7).n, config.n) == (3, 2, 4, 3)
    with pytest.raises(AttributeError, match="never changed"):
        config.n = 4
    for wrong in (lambda: scoop_lite.Config(retrys=1), lambda: config.replace(retrys=1)):
        with pytest.raises(TypeError, match="no retrys"):
            wrong()


def test_a_task_of_c_alone_in_its_slice_may_raise_stop_iteration_wherever_it_lies(scheduler, gil):
    for lo in (0, 5):
        piece = scoop_lite.Slice(block(6).part(lo, lo + 1), [1], 0.0)
        with pytest.raises(StopIteration):
            scoop_lite.run_calls(piece, map(next, [iter([])]))


def test_one_future_is_as_much_work_as_one_task(scheduler):
    scheduler.note_cost(len, 0.5)
    add(scheduler, scope(scheduler))
    assert scheduler.left_s() == 0.5


@pytest.mark.parametrize("n_waiting", [0, 6])
def test_an_answer_to_a_cancellation_tells_no_time(scheduler, n_waiting):
    if n_waiting:
        scheduler.levels[0].append(received(scheduler, n=n_waiting))
    cancel = [b"", OWNER.pack(3, 1), REF.pack(5, 2, 2)]
    scheduler.on_cancel(cancel)
    found = PART.unpack(scheduler.answers.popleft()[2])
    assert found == ((5, 2, 2, 0, scoop_lite.EACH, 1) if n_waiting else (5, 2, 0, 0, scoop_lite.EACH, 0))


def test_what_each_worker_returned_settles_the_answer(scheduler):
    answer = scoop_lite.coming_answer()
    job = scoop_lite.Everywhere(len, (b"",), frozenset())
    scheduler.run_on_all(job, answer)
    job.n = 2
    for rank in (1, 0):
        job.deliver(rank, 1, [(rank, "ok")])
    assert answer.value == {0: "ok", 1: "ok"}


def test_an_import_that_failed_is_explained_with_the_place():
    error = ImportError("no module")
    assert f"(on {socket.gethostname()}, by {sys.executable}; sys.path there: " in scoop_lite.traceback_text(error)


def test_who_waits_is_told_though_an_interrupt_ends_a_callback_before():
    told = []

    def interrupted(future):
        raise KeyboardInterrupt

    callback = functools.partial(lambda name, future: told.append(name), "another callback")
    with pytest.raises(KeyboardInterrupt):
        scoop_lite.tell([(told.append, 1), (functools.partial(interrupted), 2), (callback, 3), (told.append, 4)])
    assert told == [1, 4]


def test_the_types_of_none_and_its_like_travel_by_ways_that_older_pythons_know():
    kinds = [type(None), type(...), type(NotImplemented)]
    packed = scoop_lite.dumps(kinds)[0]
    assert b"types" not in packed and scoop_lite.loads([packed]) == kinds


@pytest.mark.parametrize("how", [{}, {"cut_off": True}, {"pid": 0}, {"asked": True}, {"retired": True}])
def test_only_who_dies_in_its_initializer_counts_as_such(how):
    client, counted = object.__new__(scoop_lite.Neighbourhood), []
    client.config, client.neighbours = scoop_lite.Config(initializes=True), {}
    client.lock, client.count_stillborn = threading.Lock(), counted.append
    client.scheduler = scoop_lite.ClientScheduler(print, print, client.lock)
    death = {"rank": 1, "incarnation": 1, "pid": 7, "retired": False, "asked": False, **how}
    client.on_lost([b"", scoop_lite.facts(**death)])
    assert counted == ([] if how else [death])


def test_a_traceback_that_travels_has_an_end():
    text = scoop_lite.traceback_text(ValueError("begin" + "x" * 1_000_000 + "end"))
    assert "begin" in text and text.endswith("end") and len(text) < 1.1 * scoop_lite.MAX_TRACEBACK
    assert f"\n… {1_000_020 - scoop_lite.MAX_TRACEBACK:,} characters …\n" in text


def test_who_logs_without_end_looks_at_the_link_while_nobody_writes_there():
    runtime, looks = scoop_lite.Runtime(scoop_lite.Config(n=1)), []

    class Link:
        closed, edge = "", False

        def flush(self):
            return False

        def backlog(self):
            looks.append(runtime.lock.locked())
            return 0

    runtime.link = Link()
    runtime.wait_for_room()
    assert looks == [True]


def test_the_end_of_a_script_does_not_wait_for_a_thread_that_lacks_memory(monkeypatch):
    runtime = scoop_lite.Runtime(scoop_lite.Config(n=1))
    monkeypatch.setattr("_thread.start_new_thread", lambda function, args: 1)
    monkeypatch.setattr(threading.Thread, "start", lambda thread: time.sleep(30))
    start = time.monotonic()
    runtime.finish(success=False)
    assert time.monotonic() - start < 5


def test_an_error_travels_though_there_is_no_memory_to_format_it(monkeypatch):
    def fail(*_, **__):
        raise MemoryError

    monkeypatch.setattr(traceback, "format_exception", fail)
    monkeypatch.setattr(traceback, "format_exception_only", fail)
    form, frames = scoop_lite.pack_outcomes([Failure(ValueError(3))])
    (failure,) = scoop_lite.unpack_outcomes(form, frames, 1)
    error = failure.look()
    assert (type(error), error.args) == (ValueError, (3,))
    assert str(error.__cause__).strip() == "ValueError (and no memory to say more)"


def test_a_task_that_looks_in_vain_leaves_short_ones_to_others_for_a_short_time():
    found = scoop_lite.Runtime(scoop_lite.Config(n=2, strands="thread"))
    found.scheduler.live = 2
    future = found.submit(abs, (1,), {})
    assert found.patience(0.0) == 1.0  # of a script
    found.task = future
    assert found.patience(0.0) == 0.1
    for seconds, patience_s in (1.0, 0.1), (0.02, 0.01), (1e-6, scoop_lite.SHORT_S):  # one look alone is not in vain
        found.scheduler.costs[scoop_lite.cost_key(abs)] = seconds
        assert found.patience(0.0) == patience_s
    assert found.patience(0.01) == pytest.approx(0.1 + scoop_lite.SHORT_S)
    assert found.patience(60.0) == 5.0
    found.scheduler.levels[0].clear()
    assert found.patience(0.0) == 0.1


def test_the_broker_forgets_the_keys_of_dead_workers():
    pytest.importorskip("zmq")
    with selectors.DefaultSelector() as selector:
        router = scoop_lite.ZmqRouter(selector, lambda *_: None)
        for rank, incarnation in (1, 1), (2, 1), (1, 2), (1, 3):
            router.invite(scoop_lite.Member(rank, incarnation, 0), "127.0.0.1")
        assert [(member.rank, member.incarnation) for member in router.members.values()] == [(2, 1), (1, 3)]
        router.close()


def test_time_that_a_script_took_for_itself_is_no_time_in_which_it_waited_in_vain(monkeypatch):
    """Else a wait of a moment after it runs a task that may take long; of its looks, each counts a little."""
    clock = [100.0]
    monkeypatch.setattr(scoop_lite, "now", lambda: clock[0])
    found = scoop_lite.Runtime(scoop_lite.Config(n=2, strands="thread"))
    found.scheduler.live, found.scheduler.sent = 2, {0: None}

    def look():
        return found.is_stuck(found.patience(0.0))

    assert not look()
    clock[0] += 60
    assert not look()
    clock[0] += 2.4
    assert not look()
    clock[0] += 0.2
    assert look()
    found.scheduler.n_returned += 1
    assert not look()
    for _ in range(2):  # it asks each minute
        clock[0] += 60
        assert not look()
    clock[0] += 60
    assert look()
    found.scheduler.n_returned += 1
    patience_s = found.patience(10.0)
    assert not found.is_stuck(patience_s)
    clock[0] += 5.1  # which the wait takes
    assert found.is_stuck(patience_s)


def test_hunger_that_was_said_before_what_is_known_counts_no_more(pool):
    broker, member = pool.broker, pool.broker.members[2]
    pool.turn(2, "HUNGRY", HUNGER.pack(member.given + 1, 7))
    assert member.said_hungry == 7 and broker.need
    pool.turn(2, "HUNGRY", HUNGER.pack(member.given, 6))  # the other thread spoke earlier, and came later
    assert member.wants == member.given + 1 and member.said_hungry == 7


def test_only_to_a_client_its_tasks_are_returned(pool):
    client = pool.broker.join(9)
    head = scoop_lite.CHUNK.pack(client.rank, client.incarnation, 3, 0, 4, 0, 0, 0, 0, 0, 0)
    del pool.sent[:]
    pool.turn(1, "RETURNED", b"", head)
    assert [(to, NAMES[frames[0][0]]) for to, frames in pool.sent] == [(9, "RETURNED")]
    with pytest.raises(PeerError):
        pool.turn(1, "RETURNED", b"", scoop_lite.CHUNK.pack(0, 1, 3, 0, 4, 0, 0, 0, 0, 0, 0))
    del pool.broker.members[9]
    del pool.sent[:]
    pool.turn(1, "RETURNED", b"", head)  # it has gone
    assert not pool.sent


def test_buffers_that_may_change_are_copied():
    size, kept = scoop_lite.BIG_BUFFER, bytearray(scoop_lite.BIG_BUFFER)
    frames = scoop_lite.keep(scoop_lite.dumps([pickle.PickleBuffer(kept), pickle.PickleBuffer(bytes(size))]))
    kept[:] = b"x" * size
    assert bytes(frames[1]) == bytes(size) and type(frames[2]) is memoryview  # which can only be read


class Keeper:
    """Holds an array."""


def test_arrays_that_somebody_else_has_or_may_have_are_copied_and_no_others():
    np = pytest.importorskip("numpy")
    kept, square = np.zeros(1 << 17), np.zeros((300, 300))
    table, rows, keeper = {"a": np.zeros(1 << 17)}, [np.zeros(1 << 17)], Keeper()
    view, keeper.array = kept[:90000], np.zeros(1 << 17)
    for copied, make in (
        (False, lambda: np.ones(1 << 17)), (False, lambda: np.ones(90000).reshape(300, 300)),
        (False, lambda: np.asfortranarray(np.random.rand(300, 300))),
        (False, lambda: {"in": np.ones(1 << 17)}), (False, lambda: (1, np.ones(1 << 17))),
        (False, lambda: [np.asfortranarray(np.random.rand(300, 300))]), (True, lambda: np.ones((300, 300)).T),
        (True, lambda: kept), (True, lambda: kept[:90000]), (True, lambda: view), (True, lambda: square.reshape(-1)),
        (True, lambda: square.T), (True, lambda: {"in": kept}), (True, lambda: table), (True, lambda: (table,)),
        (True, lambda: rows), (True, lambda: keeper), (True, lambda: [square.T]), (True, lambda: kept[:][:]),
    ):  # fmt: skip
        results = [make()]
        frames = scoop_lite.keep(scoop_lite.dumps(results), results)
        assert len(frames) == 2 and (type(frames[1]) is bytearray) == copied, make
