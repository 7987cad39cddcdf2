"""Rules of broker and scheduler, one at a time, where a simulation of everything would not tell which one failed."""

from __future__ import annotations

import functools
import json
import pickle
import threading

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
    assert set(pool.broker.members[1].holds) == {(0, 1, 0), (2, 1, 0)}
    found = die(pool, 1)
    lost = {to: scoop_lite.LOST_REF.unpack(frames[1]) for to, kind, frames in found if kind == "LOST"}
    assert lost == {0: (0, 0, 4, 0), 2: (0, 0, 4, 0)} and pool.broker.n_rerun == 2
    assert (0, "START") in kinds(found) and pool.broker.members[1].incarnation == 2
    assert pool.broker.chunks == {} and not any(member.owns for member in pool.broker.members.values())


def test_restarts_are_counted_within_a_minute(pool):
    pool.broker.restarts = 2
    for n, at_s in enumerate((10.0, 30.0)):
        found = die(pool, 1, at_s, incarnation=n + 1)
        assert (0, "START") in kinds(found) and "starting another" in pool.said[-1]
        pool.broker.turn(1, scoop_lite.message("HELLO", 1, n + 2, scoop_lite.facts(pid=1)))
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
    pool.turn(1, "BYE", scoop_lite.facts(tasks=5))
    pool.check()
    assert pool.broker.members[1].retires and 1 not in pool.broker.hungry and 1 not in pool.broker.suppliers
    assert pool.broker.need == sum(max(0, m.wants - m.given) for m in pool.broker.members.values()) == 0
    assert (0, "START") in kinds(die(pool, 1, code=0)) and pool.said == [] and not pool.broker.restarted_s


@pytest.mark.parametrize("said_bye, code, status", [(True, 0, 0), (True, 3, 3), (False, 0, 1), (False, -9, -9)])
def test_the_origins_end_is_the_jobs_and_without_bye_no_success(pool, said_bye, code, status):
    if said_bye:
        pool.turn(0, "BYE", scoop_lite.facts(code="0"))
    found = die(pool, ORIGIN, code=code)
    assert pool.broker.status == status and (1, "STOP") in kinds(found)


@pytest.mark.parametrize("restarts", (0, 1, 100))
def test_a_broken_initializer_is_told_once_and_ends_all_restarts(pool, restarts):
    pool.broker.restarts = restarts
    why = scoop_lite.facts(why="no such module")
    assert kinds(news(pool, pool.turn, 1, "BROKEN", why)) == [(ORIGIN, "BROKEN")]
    assert kinds(news(pool, pool.turn, 2, "BROKEN", why)) == []
    assert pool.said == ["the initializer failed in worker 1:\nno such module"]
    assert (0, "START") not in kinds(die(pool, 1))
    pool.turn(2, "BYE", scoop_lite.facts(tasks=5))
    assert (0, "START") not in kinds(die(pool, 2))  # not even for one that retires


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


# ---------------------------------------------------------------------------------------------------------------------
# Scheduler
# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def scheduler():
    sent = []
    made = scoop_lite.Scheduler(0, 1, sent.append, lambda call: call(), threading.RLock(), clock=lambda: 0.0)
    made.messages = lambda: [NAMES[frames[0][0]] for frames in sent]
    made.last = lambda: sent[-1]
    return made


def test_a_task_for_all_knows_how_many_there_are_from_spread(scheduler):
    job = scoop_lite.Everywhere(len, ("abc",), lambda: None)
    scheduler.n_chunks = 4
    scheduler.run_on_all(job)
    assert scheduler.messages() == ["ALL"] and scheduler.n_chunks == 5
    head = CHUNK.unpack(scheduler.last()[2])
    assert head[:5] == (0, 1, 4, 0, 1) and head[-1] == len(scheduler.last()) - 3
    assert job.n == -1
    scheduler.on_spread([b"", REF.pack(4, 0, 3)])
    assert job.n == 3 and scheduler.sent[4].left[0] == scheduler.sent[4].block.hi == 3
    scheduler.on_all([b"", b"", CHUNK.pack(0, 1, 4, 2, 1, 0, 0, 1, 0, 0, 0)])
    assert [(block.job, block.lo, block.hi) for block in scheduler.home] == [(job, 2, 3)]
    assert scheduler.sent[4].left[0] == 2


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


def test_costs_are_remembered_of_so_many_functions(scheduler):
    for _ in range(5000):
        scheduler.note_cost(eval("lambda: None"), 1.0)
    assert len(scheduler.costs) <= 4096


def outcomes_of(outcomes, **how):
    form, frames = scoop_lite.pack_outcomes(outcomes, **how)
    return form, scoop_lite.unpack_outcomes(form, [bytearray(frame) for frame in frames])


def test_plain_outcomes_travel_together_and_others_one_by_one():
    assert outcomes_of([1, "a", None, 2.5]) == (scoop_lite.LIST, [1, "a", None, 2.5])
    form, found = outcomes_of([1, {2: 3}, (4,)])
    assert form == scoop_lite.EACH and found == [1, {2: 3}, (4,)]


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
    form, frames = scoop_lite.pack_outcomes([[1], [2]])
    frames[1] = b"garbage"
    bad, good = scoop_lite.unpack_outcomes(form, frames)
    assert good == [2] and type(bad) is Failure and "cannot be unpickled here" in str(bad.look())
    table = scoop_lite.STATUS.pack(scoop_lite.WITHDRAWN, 0)
    assert scoop_lite.unpack_outcomes(scoop_lite.EACH, [table]) == [scoop_lite.GONE]


class Big(bytearray):
    def __reduce_ex__(self, protocol):
        return Big, (pickle.PickleBuffer(self),)


def test_frames_that_must_not_be_split_are_joined():
    assert scoop_lite.join([b"one"]) == b"one"
    big = Big(b"x" * 100_000)
    frames = scoop_lite.dumps([big, len])
    assert len(frames) == 2
    data, func = pickle.loads(scoop_lite.join(frames))
    assert data == big and func is len


class InMain:
    def method(self):
        pass

    def __call__(self):
        pass


def in_main():
    pass


def test_names_of_main_that_a_function_is_pickled_by(monkeypatch):
    monkeypatch.setattr(InMain, "__module__", "__main__")
    monkeypatch.setattr(InMain.method, "__module__", "__main__")
    monkeypatch.setattr(in_main, "__module__", "__mp_main__")
    for func, wanted in ((in_main, {"in_main"}), (functools.partial(functools.partial(in_main, 1), 2), {"in_main"}),
                         (InMain().method, {"InMain"}), (InMain(), {"InMain"}), (InMain, {"InMain"}),
                         (len, set()), (outcomes_of, set())):  # fmt: skip
        assert scoop_lite.main_names(func) == wanted, func


def test_ranges_are_cut():
    assert scoop_lite.subtract([(0, 10)], 3, 5) == ([(0, 3), (5, 10)], 2)
    assert scoop_lite.subtract([(0, 3), (5, 10)], 2, 7) == ([(0, 2), (7, 10)], 3)
    assert scoop_lite.subtract([(0, 3)], 3, 9) == ([(0, 3)], 0)
    assert scoop_lite.subtract([(4, 6)], 4, 6) == ([], 2)


def test_a_result_for_a_stranger_is_not_taken(pool):
    assert news(pool, pool.turn, 2, "RESULT", OWNER.pack(1, 9), PART.pack(0, 0, 1, 0, 0, 1), b"r") == []
