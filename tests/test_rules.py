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


# ---------------------------------------------------------------------------------------------------------------------
# Scheduler: the queue
# ---------------------------------------------------------------------------------------------------------------------


class Tasks(scoop_lite.Job):
    """A job that keeps what is delivered."""

    __slots__ = ("got", "is_dropped")

    def __init__(self, func=len, depth=0, fold=None):
        super().__init__(func, scoop_lite.CALLS, 77, 100, depth)
        self.got, self.is_dropped, self.fold = [], False, fold

    def deliver(self, first, count, outcomes):
        self.got.append((first, count, outcomes))

    def dropped(self):
        return self.is_dropped


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
    assert scheduler.sent[6].left[0] == 5 and scheduler.n_chunks == 7 and scheduler.n_carved == 5


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


def test_futures_that_travel_together_are_of_one_function_one_parent_and_in_order(scheduler):
    where, other = scope(scheduler), scope(scheduler)
    scheduler.note_cost(len, 1e-5)
    for futures, more in (((1, len, None), (1, abs, None)), ((2, len, None), (1, len, {"x": 1}))):
        scheduler.levels[0].clear()
        for n, func, kwargs in (futures, more):
            add(scheduler, where, func, kwargs, n)
        taken = scheduler.gather(scheduler.levels[0])
        assert taken.hi == futures[0] and len(scheduler.levels[0]) == 1
    scheduler.levels[0].clear()
    add(scheduler, where, n=2)
    where.n += 1  # one was taken from between
    add(scheduler, where, n=1)
    assert scheduler.gather(scheduler.levels[0]).hi == 2 and len(scheduler.levels[0]) == 1
    scheduler.levels[0].clear()
    add(scheduler, where, n=1)
    add(scheduler, other, n=1)
    assert scheduler.gather(scheduler.levels[0]).hi == 1
    scheduler.levels[0].clear()
    futures = add(scheduler, where, n=40)
    futures[3].state = scoop_lite.CANCELLED
    parcel = scheduler.gather(scheduler.levels[0])
    assert parcel.hi == 3 and [future.state for future in futures[:4]] == [scoop_lite.SENT] * 3 + [scoop_lite.CANCELLED]
    assert [(future.at, future.order) for future in futures[:3]] == [(parcel.job, i) for i in range(3)]


def test_without_retries_each_task_travels_alone(scheduler):
    scheduler.retries = 0
    add(scheduler, scope(scheduler), n=5)
    assert scheduler.gather(scheduler.levels[0]).hi == 1 and scheduler.block_chunk(block(50)) == 1


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
    dropped.job.is_dropped = True
    scheduler.levels[0].appendleft(dropped)
    assert scheduler.take() is wanted and wanted.state == scoop_lite.RUNNING and scheduler.levels[0].stale == 0
    assert scheduler.take() is None


def test_a_limit_of_time_leaves_what_is_longer_or_unknown(scheduler):
    add(scheduler, scope(scheduler))
    assert scheduler.take(1.0) is None
    scheduler.note_cost(len, 1.0)
    assert scheduler.take(1.0) is None
    assert scheduler.take(1.1) is not None
    scheduler.home.append("home")
    assert scheduler.take(0.0) == "home"


def test_slices_are_as_long_as_their_tasks_are_short(scheduler):
    assert scheduler.local_size(block()) == 1  # unknown
    scheduler.note_cost(len, scoop_lite.LOCAL_SLICE_S / 8)
    assert scheduler.local_size(block()) in (7, 8)
    assert scheduler.local_size(block(fold=max)) in (999, 1000)
    assert scheduler.local_size(block(deaths=1)) == 1
    scheduler.max_tasks, scheduler.n_visits = 10, 7
    assert scheduler.local_size(block()) == 3
    scheduler.n_visits = 12
    assert scheduler.local_size(block()) == 1


def visit(scheduler, owner=(3, 1), n=4):
    function = scoop_lite.join(scoop_lite.dumps((len, None)))
    head = (*owner, 5, 0, n, 0, 0, scoop_lite.CALLS, 0, 0, 1)
    return scoop_lite.Block(scoop_lite.Visit(head, function, None), [[("a",)] * n], 0, 0, n)


def test_what_is_queued_counts_if_somebody_wants_it(scheduler):
    assert not scheduler.has_queued()
    scheduler.put(visit(scheduler))
    assert scheduler.has_queued() and not scheduler.has_queued(own=True)
    one = block()
    scheduler.put(one)
    assert scheduler.has_queued(own=True)
    one.job.is_dropped = True
    assert not scheduler.has_queued(own=True)
    scheduler.levels[0][0].job.purged = True
    assert not scheduler.has_queued()
    (future,) = add(scheduler, scope(scheduler))
    assert scheduler.has_queued(own=True)
    future.state = scoop_lite.CANCELLED
    assert not scheduler.has_queued()


def test_the_tasks_of_an_owner_that_died_are_dropped_everywhere(scheduler):
    function = scoop_lite.join(scoop_lite.dumps((len, None)))
    of_dead, of_other = visit(scheduler), visit(scheduler, owner=(3, 2))
    heads = [(*owner, 6, 0, 4, 0, 0, scoop_lite.CALLS, 0, 0, 1) for owner in ((3, 1), (4, 1))]
    chunks = [scoop_lite.Chunk(head, function, [b""]) for head in heads]
    for item in (of_dead, of_other, *chunks):
        scheduler.levels[0].append(item)
    scheduler.home.append(visit(scheduler))
    scheduler.results[3, 1] = []
    scheduler.on_purge([b"", OWNER.pack(3, 1)])
    assert list(scheduler.levels[0]) == [of_other, chunks[1]] and not scheduler.home and scheduler.results == {}
    assert of_dead.job.purged and not of_other.job.purged


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
    job = scoop_lite.Everywhere(len, ("abc",), lambda: None)
    scheduler.give_up(scoop_lite.Block(job, [[job.args]], 2, 2, 3), facts)
    assert "worker 4 on node1" in str(job.results[-3].look()) and "during run_on_all()" in str(job.results[-3].look())
