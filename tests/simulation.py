#!/usr/bin/env python3
"""Thousands of workers in one process, in virtual time: the real Broker, Runtime and Scheduler, and nothing else real.

    python3 tests/simulation.py --seeds 1000 --workers 1000 --events 100000 --seed 1

Each run draws a pool (hosts, workers, delays), a nested program and, every other run, faults from its seed alone; it
prints runs per second, and for each broken invariant the seed that replays it (`--seeds 1 --seed S`).

What is simulated: the clock; links (first in, first out, each message with a random delay of its own); agents (START,
DIED); processes. A worker is a `Runtime` whose strands are greenlets: a task computes by `compute(seconds)`, which
switches to the event loop; so does a worker that waits for its link. The pump is the real one without its thread: it
runs when the real one would, while the worker computes, and now and then where a lock is let go, as a thread might.

What must hold (`Simulation.check_*`): without faults each task runs once and each result reaches its owner; with faults
no task starts more often than `retries` allow, and each task of a live owner ends; nothing is delivered twice; the
broker never refuses an honest worker; its books are consistent at all times; each task has a place of its own in the
program; nobody is hungry for seconds while somebody has work to give away; messages stay few; when all is done, no
state is left anywhere.
"""

from __future__ import annotations

import argparse
import collections
import functools
import gc
import heapq
import itertools
import operator
import random
import sys
import time
import traceback
from pathlib import Path

import greenlet

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import scoop_lite  # noqa: E402
from scoop_lite import futures, shared  # noqa: E402

STARVED_S = 2.0  # hungry for so long (virtual) beside a worker that has had work to give for so long
CHECK_EVERY = 2000  # events between looks at the books
TINY_S = 100e-6  # a worker's computing below this is added up before it costs an event
HAS_WORK_MIN = 2  # tasks that a worker must have to count as one that could give some away


SIZES = scoop_lite.PIECE, scoop_lite.BIG_BUFFER, scoop_lite.SMALL_FRAME
SMALL_SIZES = (130, 90, 51), (30, 51, 51)  # nearly all messages go in pieces then; from 51 on, as the broker reads 50


class Violation(Exception):
    """An invariant does not hold."""


class SimTime:
    """Stands for the module `time` inside scoop_lite."""

    def __init__(self, sim):
        self.monotonic = self.perf_counter = sim.clock

    @staticmethod
    def sleep(seconds):
        SIM.compute(seconds)

    def __getattr__(self, name):
        return getattr(time, name)


class SimLock:
    """A lock that lets the pump in, now and then, when it is released: where threads may switch."""

    def __init__(self, worker):
        self.worker, self.held = worker, False

    def __enter__(self):
        if self.held:
            raise Violation("deadlock: a lock is taken twice by one thread")
        self.held = True

    def __exit__(self, *_):
        self.held = False
        worker = self.worker
        if worker.sim.preempt and not worker.pump.running and worker.sim.rng.random() < worker.sim.preempt:
            if not worker.pump.asleep and worker.alive:
                worker.pump.iterate()

    def acquire(self, blocking=True):
        if self.held:
            if blocking:
                raise Violation("deadlock: a lock is taken twice by one thread")
            return False
        self.held = True
        return True

    def release(self):
        self.held = False

    def locked(self):
        return self.held


class SimLink:
    """A worker's end of its link; what the broker sends arrives in `arrived` when its delay is over."""

    edge = unread = False
    out = ()

    def __init__(self, worker):
        self.worker = worker
        self.arrived = collections.deque()
        self.closed = ""
        self.waiting = []  # what is to be written by the next `flush`
        self.n_in = self.n_out = 0  # bytes, which nobody counts here

    def queue(self, frames):
        self.waiting.append(frames)

    def send(self, frames):
        self.queue(frames)
        self.flush()

    def flush(self):
        waiting, self.waiting = self.waiting, []
        for frames in waiting:
            if not self.closed:
                self.worker.sim.to_broker(self.worker, frames)
        return True

    def receive(self):
        return self.arrived

    def ready(self):
        return bool(self.arrived)

    def drain(self):
        pass


class SimPump(scoop_lite.Pump):
    """The pump without its thread: `iterate` is one round of `Pump.run`."""

    def __init__(self, worker):
        self.worker, self.runtime = worker, worker.runtime
        self.asleep = self.patient = True
        self.long_task = self.dozing = False
        self.idling = self.watching = self.running = False
        self.thread = None  # so the scheduler itself reads the link while it idles
        self.ticket = 0  # only the latest appointment counts

    def appoint(self, delay_s):
        self.ticket += 1
        self.worker.sim.after(delay_s, self.wake_up, self.ticket)

    def wake_up(self, ticket):
        if ticket == self.ticket and self.worker.alive:
            self.worker.sim.inside(self.worker, self.iterate)

    def kick(self, soon=False):
        if self.asleep or (self.patient if soon else self.dozing):
            self.asleep = self.patient = self.dozing = False
            self.appoint(self.worker.sim.rng.random() * 1e-3)

    def nudge(self):
        pass

    def rest(self):
        self.idling = True
        if self.watching:
            self.watching = False
            self.appoint(self.worker.sim.rng.random() * 1e-4)

    def iterate(self):
        self.running = True
        try:
            if not self.idling:
                self.work()
        finally:
            self.running = False
        _, timeout = self.plan()
        if timeout is not None:
            self.appoint(timeout)


class SimStrands(scoop_lite.GreenletStrands):
    """Greenlets that a worker's death unwinds one by one, each back to the event loop."""

    def __init__(self, worker):
        self.worker = worker
        self.greenlet = greenlet.greenlet
        self.main = scoop_lite.Strand(greenlet.getcurrent())
        self.hub = self.make(self.guard(self.bear))
        self.hub.switch(None)

    def make(self, body, parent=None):
        made = greenlet.greenlet(body, parent)
        self.worker.greenlets.append(made)
        if len(self.worker.greenlets) > 64 and not len(self.worker.greenlets) % 64:
            self.worker.greenlets[:] = [g for g in self.worker.greenlets if not g.dead]
        return made

    def new(self, body):
        return scoop_lite.Strand(self.make(self.guard(body), self.hub))

    def guard(self, body):
        def run(*args):
            try:
                return body(*args)
            except (scoop_lite.Stopped, greenlet.GreenletExit):
                greenlet.getcurrent().parent = self.worker.sim.hub
            except BaseException:
                self.worker.crash()
                greenlet.getcurrent().parent = self.worker.sim.hub

        return run


class SimRuntime(scoop_lite.Runtime):
    """A worker's runtime on virtual time."""

    def __init__(self, worker, config):
        self.worker = worker
        super().__init__(config.replace(strands="thread"))
        self.rank, self.incarnation = worker.rank, worker.incarnation
        self.outbox.source = scoop_lite.OWNER.pack(worker.rank, worker.incarnation)
        self.scheduler.take_part(worker.rank, worker.incarnation, config.n, False)
        self.teller = scoop_lite.Recorder(self, config)
        self.strands = SimStrands(worker)
        self.current = self.strands.main
        self.lock = self.scheduler.lock = SimLock(worker)
        self.scheduler.shipping = SimLock(worker)
        self.scheduler.clock = worker.sim.clock
        self.link = worker.link
        self.links = {0: worker.link}

    def step(self):
        self.worker.check_alive()
        super().step()

    def next_strand(self):
        self.worker.check_alive()
        return super().next_strand()

    def new_scope(self, place, depth):
        sim = self.worker.sim
        if place in sim.places and not sim.faults:
            sim.violate(f"two tasks, or one twice, have the place {place}, and so the same random numbers")
        sim.places.add(place)
        return super().new_scope(place, depth)

    def wait_link(self, timeout):
        if not self.link.ready():
            self.worker.wait(timeout)

    def wake(self):
        self.worker.wake()

    def leave(self, status):
        self.worker.exit(status)


class SimWorker:
    """One worker process."""

    def __init__(self, sim, host, rank, incarnation):
        self.sim, self.host, self.rank, self.incarnation = sim, host, rank, incarnation
        self.alive = True
        self.skew_s = 0.0  # computed so far without an event of its own
        self.greenlets = []
        self.waiting = None  # the greenlet that waits for the link
        self.ticket = 0
        self.link = SimLink(self)
        self.up = Line(sim, sim.delay_s())
        self.down = Line(sim, sim.delay_s())
        self.has_work_s = self.hungry_s = (False, 0.0)  # how often that has changed, and since when it is so

    def start(self):
        self.main = greenlet.greenlet(self.live)
        self.greenlets.append(self.main)
        self.sim.inside(self, self.main.switch)

    def live(self):
        try:
            self.runtime = SimRuntime(self, self.sim.config)
            self.pump = self.runtime.pump = SimPump(self)
            scoop_lite._state["runtime"] = self.runtime
            hello = scoop_lite.facts(clock=1.0, pid=self.rank)
            self.link.send(scoop_lite.message("HELLO", self.rank, self.incarnation, hello))
            if self.rank == 0:
                self.sim.script(self.runtime)
                self.exit(0)
            self.runtime.schedule()
        except (scoop_lite.Stopped, greenlet.GreenletExit):
            pass
        except BaseException:
            self.crash()

    def check_alive(self):
        """Go on unwinding, where a strand has taken its end for that of its task alone."""
        if not self.alive:
            raise scoop_lite.Stopped("the worker is dead")

    def crash(self):
        self.sim.violate(f"worker {self.rank} failed: {traceback.format_exc()}")

    def wait(self, timeout):
        """Wait for a message, or at most `timeout` seconds; called by the runtime when it has nothing to do."""
        self.check_alive()
        self.ticket += 1
        if timeout is not None:
            self.sim.after(timeout, self.time_out, self.ticket)
        self.waiting = greenlet.getcurrent()
        self.skew_s = 0.0
        self.sim.leave_to_hub(self)

    def time_out(self, ticket):
        if ticket == self.ticket:
            self.wake()

    def wake(self):
        waiting, self.waiting = self.waiting, None
        if waiting is not None and self.alive:
            self.ticket += 1
            self.sim.inside(self, waiting.switch)

    def arrive(self, frames):
        """Take in a message: the waiting runtime does, or the pump."""
        if not self.alive:
            return
        self.link.arrived.append(frames)
        if self.waiting is not None:
            self.wake()
        elif self.pump.watching:
            self.pump.appoint(self.sim.rng.random() * 1e-4)

    def exit(self, status):
        self.sim.kill(self, status, f"exited with status {status}")
        raise scoop_lite.Stopped("the worker has ended")

    def unwind(self):
        """End all stacks of a dead worker."""
        self.alive, self.link.closed, self.waiting = False, "dead", None
        for item in self.greenlets:
            while item and item is not greenlet.getcurrent():
                item.parent = self.sim.hub
                item.throw(scoop_lite.Stopped("the worker is dead"))
        self.greenlets.clear()


def since(before, state, now_s):
    """Note since when a state has lasted; False is no state."""
    if state is False or state is None:
        return False, now_s
    return before if before[0] is not False and before[0] == state else (state, now_s)


class Line:
    """One direction of a link: first in, first out, each message some time under way."""

    def __init__(self, sim, delay_s):
        self.sim, self.delay_s, self.last_s, self.cut = sim, delay_s, 0.0, False

    def send(self, deliver, *args):
        sim = self.sim
        at = max(self.last_s, sim.clock() + self.delay_s * (0.5 + sim.rng.random()))
        self.last_s = at
        sim.at(at, self.deliver, deliver, *args)

    def deliver(self, deliver, *args):
        if not self.cut:
            deliver(*args)


class SimBroker(scoop_lite.Broker):
    """The broker; that an honest worker's message is refused is a violation."""

    def release(self, key, member, first, end):
        n = super().release(key, member, first, end)
        if n != end - first:
            SIM.violate(f"rank {member.rank} gives up {end - first} tasks of chunk {key}, but has {n} of them")
        return n


class Simulation:
    """One run.

    Args:
        seed: decides everything. workers, events: at most, roughly. faults: whether workers and hosts die.
        pieces: whether nearly all messages are too big to be sent in one go; by default in runs of every seventh seed.
    """

    def __init__(self, seed, workers=100, events=20_000, faults=None, full=False, pieces=None):
        self.seed, self.rng = seed, random.Random(seed)
        pieces = seed % 7 == 6 if pieces is None else pieces
        self.set_sizes(*SMALL_SIZES[seed // 7 % 2] if pieces else SIZES)
        rng = self.rng
        self.faults = seed % 2 == 1 if faults is None else faults
        self.n = workers if full else max(1, int(workers ** rng.random() * rng.choice((1, 1, 0.3))))
        self.n_tasks = max(1, int((events / 8) * (1 if full else rng.random())))
        self.max_events = 40 * events + 400 * self.n
        self.retries = rng.choice((2, 2, 0, 1, 4))
        self.mean_delay_s = 10 ** rng.uniform(-4.3, -1.7)
        self.preempt = rng.choice((0.0, 0.02, 0.2))
        self.pace = 10 ** rng.uniform(-2, 1)  # of all tasks' durations
        self.now_s, self.queue, self.n_events, self.order = 0.0, [], 0, itertools.count()
        self.violations, self.quiet = [], False
        self.hub = greenlet.getcurrent()
        self.current = None
        self.workers = {}
        self.counts = collections.Counter()  # messages by kind and direction
        self.next_uid = itertools.count(1)
        self.runs = collections.Counter()  # by task
        self.places = set()  # of tasks that created others
        self.at_most = {}  # task -> (fewest, most) runs that are right without faults
        self.spared = collections.Counter()  # how often a loss of messages may have had a task run once more
        self.finals = collections.Counter()
        self.n_killed = 0
        self.config = scoop_lite.Config(n=self.n, retries=self.retries)
        self.broker_inbox, self.round_due, self.timer = collections.deque(), False, 0
        restarts = rng.choice((100, 100, 3, 0))
        self.broker = SimBroker(self.from_broker, self.to_agent, lambda text: None, restarts, {"size": self.n})
        self.n_hosts = min(self.n, rng.choice((1, 1, 2, 5, 20)))
        self.dead_hosts = set()

    @staticmethod
    def set_sizes(piece, big, small):
        scoop_lite.PIECE, scoop_lite.BIG_BUFFER, scoop_lite.SMALL_FRAME = piece, big, small

    # -- time ----------------------------------------------------------------------------------------------------------

    def clock(self):
        return self.now_s + (self.current.skew_s if self.current is not None else 0.0)

    def at(self, when_s, call, *args):
        heapq.heappush(self.queue, (when_s, next(self.order), call, args))

    def after(self, delay_s, call, *args):
        self.at(self.clock() + delay_s, call, *args)

    def delay_s(self):
        return self.mean_delay_s * 10 ** self.rng.uniform(-1, 0.5)

    def inside(self, worker, call):
        """Run `call` as code of a worker, until it waits."""
        if not worker.alive:
            return
        before = self.current, scoop_lite._state["runtime"]
        self.current = worker
        scoop_lite._state["runtime"] = getattr(worker, "runtime", None)
        try:
            call()
        finally:
            self.current, scoop_lite._state["runtime"] = before

    def leave_to_hub(self, worker):
        self.hub.switch()
        worker.check_alive()

    def compute(self, seconds):
        """Let the current task take this time."""
        worker = self.current
        worker.check_alive()
        worker.skew_s += seconds
        if worker.skew_s < TINY_S:
            return
        seconds, worker.skew_s = worker.skew_s, 0.0
        me = greenlet.getcurrent()
        self.at(self.now_s + seconds, self.inside, worker, me.switch)
        self.leave_to_hub(worker)

    # -- messages ------------------------------------------------------------------------------------------------------

    def to_broker(self, worker, frames):
        self.counts["up " + scoop_lite.NAMES[frames[0][0]]] += 1
        worker.up.send(self.at_broker, worker, frames)

    def at_broker(self, source, frames):
        self.broker_inbox.append((source, frames))
        if not self.round_due:
            self.round_due = True
            self.after(self.rng.random() * 2e-4, self.broker_round)

    def broker_round(self):
        self.round_due = False
        self.timer += 1
        while self.broker_inbox:
            source, frames = self.broker_inbox.popleft()
            try:
                if isinstance(source, SimWorker):
                    self.broker.turn(source.rank, frames)
                else:
                    self.broker.agent_turn(source, frames)
            except scoop_lite.PeerError as error:
                self.violate(f"the broker refused a message: {error}")
        delay_s = self.broker.end_turn(self.now_s)
        if delay_s is not None:
            self.after(delay_s, self.broker_timer, self.timer)

    def broker_timer(self, timer):
        if timer == self.timer:
            self.broker_round()

    def from_broker(self, member, frames):
        code, rank, incarnation = scoop_lite.HEADER.unpack(frames[0])
        self.counts["down " + scoop_lite.NAMES[code]] += 1
        worker = self.workers.get((rank, incarnation))
        if worker is None:
            self.violate(f"{scoop_lite.NAMES[code]} for rank {rank}, which never was")
        worker.down.send(worker.arrive, frames)

    def to_agent(self, host, frames):
        kind = scoop_lite.NAMES[frames[0][0]]
        if kind == "START":
            for rank, incarnation in scoop_lite.json.loads(frames[1])["workers"]:
                worker = self.workers[rank, incarnation] = SimWorker(self, host, rank, incarnation)
                self.after(self.delay_s(), self.start_worker, worker)

    def start_worker(self, worker):
        if worker.alive and worker.host not in self.dead_hosts:
            worker.start()
        else:
            worker.alive = False

    # -- faults --------------------------------------------------------------------------------------------------------

    def kill(self, worker, code=-9, how="was killed by SIGKILL", keep=True):
        """End a worker; its agent says so once all that it had sent is with the broker (or, not `keep`, is lost)."""
        if not worker.alive:
            return
        worker.alive, worker.link.closed = False, "dead"
        if not keep:
            self.spare(worker)
            worker.up.cut = True
        facts = scoop_lite.facts(rank=worker.rank, incarnation=worker.incarnation, pid=worker.rank, code=code, how=how)
        died = scoop_lite.message("DIED", scoop_lite.AGENT, 0, facts)
        self.at(max(worker.up.last_s, self.now_s + self.delay_s()), self.at_broker, worker.host, died)
        self.after(0, worker.unwind)

    def spare(self, worker):
        """Note the tasks whose start the broker may never hear of: they may start once more than the books say."""
        self.spared.update(self.runs.keys())

    def kill_some(self):
        """Kill a random worker that is not the origin, and come again."""
        victims = [w for w in self.workers.values() if w.alive and w.rank != 0 and hasattr(w, "pump")]
        if victims and not self.quiet:
            worker = self.rng.choice(victims)
            self.n_killed += 1
            if self.n_hosts > 1 and worker.host != 0 and self.rng.random() < 0.1:
                self.kill_host(worker.host)
            else:
                self.kill(worker, keep=self.rng.random() < 0.7)
        self.kills_left -= 1
        if self.kills_left > 0 and not self.quiet:
            self.after(self.rng.expovariate(1 / self.kill_every_s), self.kill_some)

    def kill_host(self, host):
        self.dead_hosts.add(host)
        for worker in list(self.workers.values()):
            if worker.host == host and worker.alive:
                worker.alive, worker.link.closed, worker.up.cut = False, "dead", True
                if self.retries:  # without retries, all that a lost host had counts as begun
                    self.spare(worker)
                self.after(0, worker.unwind)
        self.after(self.delay_s(), self.lose_host, host)

    def lose_host(self, host):
        self.broker.lose_host(host, "its agent is gone")
        late = scoop_lite.facts(rank=-1, incarnation=1, pid=1)
        self.at_broker(host, scoop_lite.message("STARTED", scoop_lite.AGENT, 0, late))

    # -- the run -------------------------------------------------------------------------------------------------------

    def run(self):
        """Run to the end; return the violations."""
        global SIM
        SIM = self
        saved = scoop_lite.now, scoop_lite.time, scoop_lite._state["runtime"]
        scoop_lite.now, scoop_lite.time = self.clock, SimTime(self)
        gc.disable()  # what a cycle's end triggers must come at the same moment each time
        try:
            self.play()
        except Violation as error:
            self.violations.append(str(error))
        finally:
            for worker in self.workers.values():
                worker.unwind()
            scoop_lite.now, scoop_lite.time, scoop_lite._state["runtime"] = saved
            self.set_sizes(*SIZES)  # other tests of this process need them
            gc.enable()
        return self.violations

    def play(self):
        for host in range(self.n_hosts):
            self.broker.host_names[host] = f"host{host}"
        for host in range(self.n_hosts):
            self.broker.start(host, range(host, self.n, self.n_hosts))
        if self.faults:
            self.kills_left = self.rng.choice((1, 3, 10, 40))
            self.kill_every_s = self.pace * 10 ** self.rng.uniform(-2.5, 0)
            self.after(self.rng.expovariate(1 / self.kill_every_s), self.kill_some)
        self.loop()
        if not self.quiet:
            self.violate("hang: everybody waits, and the script has not ended" + self.picture())
        self.check_books()
        self.check_nothing_left()
        self.check_runs()
        self.check_counts()
        self.end_job()

    def loop(self):
        queue, next_check = self.queue, CHECK_EVERY
        while queue:
            self.now_s, _, call, args = heapq.heappop(queue)
            self.n_events += 1
            call(*args)
            if self.violations:
                raise Violation(self.violations.pop())
            if self.n_events >= next_check:
                next_check += CHECK_EVERY + 20 * self.n
                self.check_books()
                self.check_hunger()
                if self.n_events > self.max_events:
                    self.violate(f"livelock: {self.n_events} events" + self.picture())

    def script(self, runtime):
        """Be the user's script: the program, its end, and then patience until the pool is quiet."""
        size = play(0, next(self.next_uid), self.n_tasks, self.rng.getrandbits(62))
        if size != self.n_tasks:
            self.violate(f"the program counts {size} tasks, not {self.n_tasks}")
        if self.seed % 3 == 0:
            futures.shutdown()
        runtime.finish(True)
        self.quiet = True
        runtime.wait_until(lambda: self.over)
        self.over_at_s = self.now_s

    over = False

    def end_job(self):
        """Let the origin exit; then everybody must leave."""
        origin = self.workers[0, 1]
        bye = scoop_lite.message("BYE", 0, 1, scoop_lite.facts(code="0"))
        origin.link.send(bye)
        self.kill(origin, 0, "exited with status 0")
        self.loop()
        if self.broker.status != 0:
            self.violate(f"the job ended with status {self.broker.status}")
        left = [w.rank for w in self.workers.values() if w.alive]
        if left:
            self.violate(f"workers {left} stayed behind")

    def violate(self, text):
        self.violations.append(text)
        raise Violation(text)

    def picture(self):
        """Describe who has what, for the report of a hang."""
        lines = [""]
        for worker in self.workers.values():
            if worker.alive and hasattr(worker, "pump"):
                s = worker.runtime.scheduler
                if worker.rank == 0 or any(s.levels) or s.sent or s.away or s.home or worker.runtime.n_parked:
                    lines.append(
                        f"  rank {worker.rank}: levels {list(map(len, s.levels))} home {len(s.home)} away {len(s.away)}"
                        f" sent {list(s.sent.items())[:3]} ordered {s.ordered} filled {s.filled} wanted {s.wanted}"
                        f" received {s.received} parked {worker.runtime.n_parked} live {s.live}"
                    )
        b = self.broker
        lines.append(f"  broker: need {b.need} hungry {list(b.hungry)[:9]} suppliers {list(b.suppliers)[:9]}"
                     f" chunks {list(b.chunks.items())[:9]}")
        return "\n".join(lines[:14])

    # -- what must hold ------------------------------------------------------------------------------------------------

    def expect(self, condition, text, *args):
        if not condition:
            self.violate(text % args + self.picture())

    def check_books(self):
        """The broker's books agree with each other."""
        b, members = self.broker, self.broker.members
        need = sum(max(0, m.wants - m.given) for m in members.values())
        self.expect(b.need == need, "need is %s, should be %s", b.need, need)
        hungry = {r for r, m in members.items() if m.wants > m.given}
        self.expect(set(b.hungry) == hungry, "hungry is %s, should be %s", set(b.hungry), hungry)
        suppliers = {r for r, m in members.items() if m.up and r not in hungry}
        self.expect(set(b.suppliers) == suppliers, "suppliers are %s, should be %s", set(b.suppliers), suppliers)
        for key, holders in b.chunks.items():
            alive = key[0] in members and members[key[0]].incarnation == key[1] and set(holders) <= set(members)
            self.expect(alive and holders, "%s of chunk %s, which is or was of dead ones", list(holders), key)
        for m in members.values():
            holds = {key for key, holders in b.chunks.items() if m.rank in holders}
            self.expect(set(m.opened) <= holds, "rank %s opened %s, which it does not hold", m.rank, m.opened)

    def check_hunger(self):
        """Nobody is hungry for long beside somebody who has work to give."""
        hungry = give = None
        for worker in self.workers.values():
            if not worker.alive or not hasattr(worker, "pump"):
                continue
            s = worker.runtime.scheduler
            n_waiting = sum(1 for level in s.levels for _ in itertools.islice(level, HAS_WORK_MIN))
            has = n_waiting >= HAS_WORK_MIN or bool(s.away)
            worker.has_work_s = since(worker.has_work_s, has and s.filled, self.now_s)
            worker.hungry_s = since(worker.hungry_s, not has and s.wanted > s.received and s.received, self.now_s)
            if self.now_s - worker.hungry_s[1] > STARVED_S:
                hungry = worker
            if self.now_s - worker.has_work_s[1] > STARVED_S:
                give = worker
        if hungry and give:
            self.violate(f"rank {hungry.rank} starves beside rank {give.rank}" + self.picture())

    def check_nothing_left(self):
        """When all is done, nobody remembers anything of it."""
        b = self.broker
        self.expect(not b.chunks, "the broker still has chunks: %s", list(b.chunks.items())[:5])
        for worker in self.workers.values():
            if not worker.alive:
                continue
            r, s = worker.runtime, worker.runtime.scheduler
            for name in ("sent", "away", "home", "slices", "results", "cancelling"):
                self.expect(not getattr(s, name), "rank %s still has %s: %.300s", worker.rank, name, getattr(s, name))
            for level in s.levels:
                self.expect(not level, "rank %s still has queued %s", worker.rank, list(level)[:3])
                self.expect(level.stale == 0, "rank %s counts %s stale futures in no queue", worker.rank, level.stale)
            parked = r.n_parked - (worker.rank == 0)
            self.expect(parked == 0, "rank %s still has %s parked strands", worker.rank, parked)
            for name in ("ready", "inbox", "later", "waiting_for"):
                self.expect(not getattr(r, name), "rank %s still has %s: %.300s", worker.rank, name, getattr(r, name))
            self.check_no_pieces(worker)

    def check_no_pieces(self, worker):
        """No transfer is left half-way, and all credit is back."""
        member, runtime = self.broker.members[worker.rank], worker.runtime
        for outbox, inbox in (runtime.outbox, runtime.arriving), (member.outbox, member.inbox):
            left = outbox.waiting or inbox.heaps or scoop_lite.PIECES_AHEAD - outbox.credit
            self.expect(not left, "rank %s still has pieces: %.300s", worker.rank, left)
        self.expect(not any(member.unread.values()), "rank %s has not taken all pieces", worker.rank)
        self.expect(member.taker is member.target is None, "rank %s has a receiver for nothing", worker.rank)

    def check_runs(self):
        """Each task ran as often as it should."""
        for uid, (fewest, most) in self.at_most.items():
            n = self.runs[uid]
            if self.faults:
                most = self.retries + 1 + self.spared[uid]
                fewest = 0
            self.expect(fewest <= n <= most, "task %s ran %s times, not %s to %s", uid, n, fewest, most)

    def check_counts(self):
        """Messages are few: in particular, hunger and orders are bounded by what is moved."""
        c = self.counts
        moved = c["up BATCH"] + c["up HUNGRY"] + self.n
        self.expect(c["down ORDER"] <= 8 * moved, "%s orders for %s batches and hungers of %s workers",
                    c["down ORDER"], moved, self.n)  # fmt: skip


SIM = None  # the run that is under way

# ---------------------------------------------------------------------------------------------------------------------
# The program: tasks that count themselves and their descendants
# ---------------------------------------------------------------------------------------------------------------------


class Unreadable:
    """An argument that cannot be unpickled."""

    def __reduce__(self):
        return explode, ()


class Unpicklable:
    """A value that cannot be pickled."""

    def __reduce__(self):
        raise TypeError("it cannot travel")


def explode():
    raise ValueError("it cannot be read")


def play(scale, uid, size, dice, *_):
    """Be a task: compute, create `size - 1` further tasks below this one, and return `size`."""
    sim = SIM
    sim.runs[uid] += 1
    seconds = (2e-6, 40e-6, 1e-3, 0.02, 0.3)[scale] * (0.5 + (dice & 1023) / 1024) * (sim.pace if scale > 1 else 1)
    if size == 1:
        sim.compute(seconds * (20 if dice & 0xFFC00 == 0 else 1))  # some take much longer than the others
        return 1
    sim.compute(seconds / 2)
    rng = random.Random(dice)
    left = size - 1
    while left:
        part = left if rng.random() < 0.3 else rng.randint(1, left)
        shape = rng.choice(SHAPES)
        counted = shape(rng, part)
        if counted != part:
            sim.violate(f"{shape.__name__} counts {counted} tasks, not {part}")
        left -= part
    sim.compute(seconds / 2)
    return size


def play0(*args, **more):
    return play(0, *args, **more)


def play1(*args, **more):
    return play(1, *args, **more)


def play2(*args, **more):
    return play(2, *args, **more)


def play3(*args, **more):
    return play(3, *args, **more)


def play4(*args, **more):
    return play(4, *args, **more)


def failing(uid, *_):
    SIM.runs[uid] += 1
    raise ValueError("planned")


def deadly(uid, *_):
    """Kill the worker, unless it is the origin."""
    SIM.runs[uid] += 1
    worker = SIM.current
    if worker.rank != 0:
        SIM.n_killed += 1
        SIM.kill(worker)
        SIM.leave_to_hub(worker)
    return 1


def bad_result(uid, *_):
    SIM.runs[uid] += 1
    return Unpicklable()


def read_constant(uid, size, dice, name):
    SIM.runs[uid] += 1
    if shared.getConst(name, timeout=0) != name:
        SIM.violate(f"the constant {name} is not there")
    return 1


PLAYS = (play0, play1, play2, play3, play4)


def new_uid(fewest=1, most=1):
    uid = next(SIM.next_uid)
    SIM.at_most[uid] = fewest, most
    return uid


class Caller:
    """What has a method to be called."""

    def __init__(self, func):
        self.func = func

    def call(self, *args):
        return self.func(*args)


def create(rng, func, *args):
    """Submit a task, in one of the ways to write a call: those alike in cost travel together."""
    way = rng.random()
    if way < 0.15:
        return futures.submit(functools.partial(func, args[0]), *args[1:])
    if way < 0.3:
        return futures.submit(Caller(func).call, *args)
    if way < 0.4 and func in PLAYS:
        return futures.submit(func, *args[:2], dice=args[2])
    return futures.submit(func, *args)


def split(rng, total):
    """Split a number of tasks among children: some big, many single."""
    sizes = []
    while total:
        part = 1 if rng.random() < 0.6 else rng.randint(1, max(1, total // 2))
        sizes.append(part)
        total -= part
        if len(sizes) > 200:
            sizes += [1] * total
            total = 0
    return sizes


def draw_play(rng):
    return rng.choices(PLAYS, (4, 8, 8, 4, 1))[0]


def outcome(future, size):
    """Count a future's tasks, whatever became of them; only some ends are allowed."""
    try:
        value = future.result()
    except futures.CancelledError:
        return size
    except scoop_lite.WorkerLost as error:
        if not SIM.n_killed:
            SIM.violate(f"a task was lost without a death: {error}")
        return size
    except (scoop_lite.ScoopError, ValueError, TypeError) as error:
        if "planned" not in str(error) and "cannot" not in str(error):
            SIM.violate(f"a task failed: {error!r}")
        return size
    return size if isinstance(value, Unpicklable) else value


def submit_all(rng, total):
    func = draw_play(rng)
    made = [(create(rng, func, new_uid(), s, rng.getrandbits(62)), s) for s in split(rng, total)]
    if rng.random() < 0.3:
        futures.wait([f for f, _ in made], timeout=rng.choice((-1, 0, 0.01)), return_when=futures.FIRST_COMPLETED)
    return sum(outcome(future, size) for future, size in made)


def submit_mixed(rng, total):
    made = [(create(rng, draw_play(rng), new_uid(), s, rng.getrandbits(62)), s) for s in split(rng, total)]
    rng.shuffle(made)
    return sum(outcome(future, size) for future, size in made)


def submit_in_turn(rng, total):
    func, sizes = draw_play(rng), split(rng, total)
    return sum(outcome(futures.submit(func, new_uid(), s, rng.getrandbits(62)), s) for s in sizes)


def complete_any(rng, total):
    func = draw_play(rng)
    sizes = {futures.submit(func, new_uid(), s, rng.getrandbits(62)): s for s in split(rng, total)}
    return sum(outcome(future, sizes[future]) for future in futures.as_completed(sizes))


def forget(rng, total):
    for size in split(rng, total):
        futures.submit(draw_play(rng), new_uid(), size, rng.getrandbits(62))
    return total


def cancel_some(rng, total):
    func = draw_play(rng)
    uids = [new_uid(0) for _ in range(total)]
    made = [futures.submit(func, uid, 1, rng.getrandbits(62)) for uid in uids]
    if rng.random() < 0.7:
        SIM.compute(10 ** rng.uniform(-4, -1))
    for uid, future in zip(uids, made):
        if rng.random() < 0.5:
            ran = future.cancel()
            if ran and SIM.runs[uid] and not SIM.faults:
                SIM.violate(f"task {uid} ran and was cancelled")
            if ran != future.cancelled():
                SIM.violate("cancel() and cancelled() differ")
            if not ran and future.done() and isinstance(future.exception(), futures.CancelledError):
                SIM.violate("a future failed with CancelledError instead of being cancelled")
    return sum(outcome(future, 1) for future in made)


def map_input(rng, sizes):
    columns = [new_uid() for _ in sizes], sizes, [rng.getrandbits(62) for _ in sizes]
    return columns if rng.random() < 0.5 else [iter(c) for c in columns]


def collect(results, sizes, in_order=True):
    """Check a map's results, as far as they come; a lost task ends a map."""
    found = []
    try:
        found.extend(results)
    except scoop_lite.WorkerLost as error:
        if not SIM.n_killed:
            SIM.violate(f"a task was lost without a death: {error}")
        return sum(sizes)
    if (found if in_order else sorted(found)) != (sizes if in_order else sorted(sizes)):
        SIM.violate(f"a map of {sizes[:20]} gave {found[:20]}")
    return sum(found)


def map_all(rng, total):
    sizes, options = split(rng, total), {}
    if rng.random() < 0.3:
        options["chunksize"] = rng.randint(1, 20)
    if rng.random() < 0.3:
        options["buffersize"] = rng.randint(1, 50)
    return collect(futures.map(draw_play(rng), *map_input(rng, sizes), **options), sizes)


def map_flat(rng, total):
    sizes = [1] * total
    return collect(futures.map(draw_play(rng), *map_input(rng, sizes)), sizes)


def map_any_order(rng, total):
    sizes = split(rng, total)
    return collect(futures.map_as_completed(draw_play(rng), *map_input(rng, sizes)), sizes, in_order=False)


def map_abandoned(rng, total):
    uids = [new_uid(0) for _ in range(total)]
    results = futures.map(draw_play(rng), uids, itertools.repeat(1), [rng.getrandbits(62) for _ in uids])
    taken = 0
    try:
        for _ in itertools.islice(results, rng.randint(0, total)):
            taken += 1
    except scoop_lite.WorkerLost:
        pass
    return total


def reduce_all(rng, total):
    try:
        return futures.mapReduce(draw_play(rng), operator.add, *map_input(rng, split(rng, total)))
    except scoop_lite.WorkerLost:
        return total


def trouble(rng, total):
    """Create tasks that fail in some way, one of them at a time or all in a row."""
    made = []
    for _ in range(total):
        kind = rng.choice((failing, bad_result, Unreadable, Unpicklable, deadly))
        if kind is deadly and not SIM.faults or rng.random() < 0.3:
            kind = play1
        args = (new_uid(0), 1, rng.getrandbits(62))
        if kind in (Unreadable, Unpicklable):
            made.append(futures.submit(play1, *args, kind()))
        else:
            made.append(create(rng, kind, *args))
    return sum(outcome(future, 1) for future in made)


def constants(rng, total):
    name = f"c{new_uid(0)}"
    try:
        shared.setConst(**{name: name})
    except TypeError:
        if not SIM.faults:
            raise
    made = [futures.submit(read_constant, new_uid(), 1, 0, name) for _ in range(total)]
    return sum(outcome(future, 1) for future in made)


SHAPES = (submit_all, submit_mixed, submit_in_turn, complete_any, forget, cancel_some, map_all, map_all, map_flat,
          map_any_order, map_abandoned, reduce_all, trouble, constants)  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=100, help="runs (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="the first one's seed (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=100, help="at most (default: %(default)s)")
    parser.add_argument("--events", type=int, default=20_000, help="at most, roughly (default: %(default)s)")
    parser.add_argument("--full", action="store_true", help="every run with all workers, and a program to match")
    parser.add_argument("--faults", choices=("yes", "no"), help="by default in runs of an odd seed")
    parser.add_argument("--pieces", choices=("yes", "no"), help="by default in runs of every seventh seed")
    parser.add_argument("--stop", action="store_true", help="at the first failure")
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no run after this time")
    options = parser.parse_args()
    faults = None if options.faults is None else options.faults == "yes"
    pieces = None if options.pieces is None else options.pieces == "yes"
    start, failed, n_events, n_killed = time.perf_counter(), [], 0, 0
    for seed in range(options.seed, options.seed + options.seeds):
        sim = Simulation(seed, options.workers, options.events, faults, options.full, pieces)
        violations = sim.run()
        n_events, n_killed = n_events + sim.n_events, n_killed + sim.n_killed
        if violations:
            failed.append(seed)
            size = f"{sim.n} workers, {sim.n_tasks} tasks, {sim.n_events} events"
            print(f"seed {seed} ({size}): {violations[0]}", flush=True)
        if violations and options.stop or time.perf_counter() - start > options.seconds:
            break
    seconds = time.perf_counter() - start
    n = seed - options.seed + 1
    print(f"{n} runs, {n_events} events, {n_killed} faults, {len(failed)} failed, {seconds:.1f} s, "
          f"{n / seconds:.1f} runs/s, {n_events / seconds:.0f} events/s")  # fmt: skip
    if failed:
        print("replay with the same options, but --seeds 1 --seed:", *failed[:20])
    return 1 if failed else 0


if __name__ == "__main__":
    import simulation  # this file once more: functions of `__main__` would be pickled whole, most of the time

    sys.exit(simulation.main())
