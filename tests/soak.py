#!/usr/bin/env python3
"""Run random nested programs and do them random harm, with both link engines, for as long as wanted.

    python3 tests/soak.py --minutes 5 --seed 1

Run number i has the seed SEED + i, and everything about it follows from its seed: program, engine, strands, workers,
hosts, faults and their moments. A failure prints the line that runs its seed again. The exit status is 1 when
anything failed.

A run must end by itself in time; leave nothing; print what the same program gives at home, with each task run once,
when no fault was injected; print the same with tasks run again at most as often as there were deaths, for each run of
the task that asked for them, when workers, agents or links died; and end with a status that is not 0 when its origin,
its launcher or its only agent died.
"""
from __future__ import annotations

import argparse
import collections
import contextlib
import importlib.util
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from faults import processes
from faults.jobs import Job, Outcome, order_link, resume, stop

PROGRAM = pathlib.Path(__file__).resolve().parent / "faults" / "inside" / "soak_program.py"
sys.path[1:1] = [str(PROGRAM.parent), str(PROGRAM.parents[3])]
import soak_program  # noqa: E402

HANG_S = 60
CLEAN_S = 5
# Options of a run, of which it draws one set.
MORE = (), (), (), ("--check",), ("--max-tasks-per-child", "30"), ("--trace", "trace.json"), ("--wiretap",)
OPTIONS = ("--retries", "30", "--restarts", "1000", "--heartbeat", "0.2", "--dead-after", "2")


class Fault(NamedTuple):
    """What to do, and how long after the fault before it."""

    name: str
    wait_s: float


class Plan(NamedTuple):
    """Everything about a run."""

    seed: int
    engine: str
    strands: str
    workers: int
    hosts: Sequence[str]
    nodes: int
    faults: Sequence[Fault]
    more: Sequence[str]

    @property
    def options(self) -> List[str]:
        """The launcher's options."""
        hosts = ["--min-hosts", "1"] if self.hosts else []
        return ["-n", str(self.workers), "--backend", self.engine, "--strands", self.strands, *hosts, *self.more,
                *OPTIONS]

    def __str__(self) -> str:
        faults = ", ".join("%s after %.2f s" % fault for fault in self.faults) or "no faults"
        return "seed %d: %s-%s, %d workers%s%s, %d tasks, %s" % (
            self.seed, self.engine, self.strands, self.workers, " on " + "+".join(self.hosts) if self.hosts else "",
            "".join(" " + word for word in self.more), self.nodes, faults)


# Harm. Each function gets a run and a source of chance; it does nothing when its victim has gone.


def some_worker(job: Job, rng: random.Random) -> Optional[int]:
    """Choose a worker that is not the origin."""
    agents = []  # of which one may have no worker any more
    for host in job.hosts or [""]:
        with contextlib.suppress(AssertionError, IndexError):
            agents.append(job.agent(host))
    below = [pid for agent in agents for pid in processes.descendants(agent) if not processes.children(pid)]
    found = [pid for pid in below if pid != job.origin]
    return rng.choice(sorted(found)) if found else None


def kill_worker(job: Job, rng: random.Random) -> None:
    """SIGKILL a worker."""
    victim = some_worker(job, rng)
    if victim:
        processes.send(victim, signal.SIGKILL)


def stop_worker(job: Job, rng: random.Random) -> None:
    """Stop a worker for a while."""
    victim = some_worker(job, rng)
    if victim:
        stop([victim])
        time.sleep(rng.uniform(0, 0.5))
        resume([victim])


def far(job: Job, rng: random.Random) -> str:
    """Choose a host that is not the origin's."""
    return rng.choice(job.hosts[1:])


def kill_far_agent(job: Job, rng: random.Random) -> None:
    """SIGKILL the agent of a host."""
    processes.send(job.agent(far(job, rng)), signal.SIGKILL)


def stop_far_host(job: Job, rng: random.Random) -> None:
    """Stop all of a host until it is taken for dead, or nearly."""
    agent = job.agent(far(job, rng))
    everyone = [agent] + processes.descendants(agent)
    stop(everyone)
    time.sleep(rng.choice([0.5, 3.0]))
    resume(everyone)


def kill_starter(job: Job, rng: random.Random) -> None:
    """SIGKILL the command that stands for ssh."""
    processes.send(job.starter(far(job, rng)), signal.SIGKILL)


def spoil_link(job: Job, rng: random.Random) -> None:
    """Do something to a host's link for a while."""
    host = far(job, rng)
    order_link(job, host, rng.choice(["cut", "end", "flip", "delay 0.05", "rate 200000", "inject 0d0a627965"]))
    time.sleep(rng.choice([0.2, 3.0]))
    order_link(job, host, "ok")


def kill_origin(job: Job, rng: random.Random) -> None:
    """SIGKILL the process that runs the script."""
    processes.send(job.origin, signal.SIGKILL)


def kill_home_agent(job: Job, rng: random.Random) -> None:
    """SIGKILL the origin's agent."""
    processes.send(job.agent(job.hosts[0] if job.hosts else ""), signal.SIGKILL)


def kill_launcher(job: Job, rng: random.Random) -> None:
    """SIGKILL the launcher, having noted what is below it."""
    job.processes()
    processes.send(job.launcher, signal.SIGKILL)


def signal_launcher(job: Job, rng: random.Random) -> None:
    """Ask the launcher, or its group, to end."""
    number = rng.choice([signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    for _ in range(rng.choice([1, 2])):
        if rng.random() < 0.5:
            processes.send(job.launcher, number)
        else:
            os.killpg(job.launcher, number)
        time.sleep(0.05)


LOCAL: Dict[str, Callable] = {"kill worker": kill_worker, "stop worker": stop_worker}
FAR: Dict[str, Callable] = {"kill far agent": kill_far_agent, "stop far host": stop_far_host,
                            "kill starter": kill_starter, "spoil link": spoil_link}
FATAL: Dict[str, Callable] = {"kill origin": kill_origin, "kill home agent": kill_home_agent,
                              "kill launcher": kill_launcher, "signal launcher": signal_launcher}
HARM = {**LOCAL, **FAR, **FATAL}


# Runs


def plan_of(seed: int, combos: Sequence[str], local: bool = False) -> Plan:
    """Return the plan that follows from a seed; ``local`` leaves the hosts, and what may befall them, out."""
    rng = random.Random(seed)
    engine, strands = rng.choice(list(combos)).split("-")
    hosts = rng.choice([(), (), ("alpha", "beta"), ("alpha", "beta", "gamma")][:1 if local else None])
    workers = rng.randrange(2, 6) + len(hosts)
    gentle = list(LOCAL) * 3 + (list(FAR) if hosts else [])
    names = [rng.choice(gentle) for _ in range(rng.choice([0, 1, 2, 4]))]
    if rng.random() < 0.25:
        names.append(rng.choice(list(FATAL)))
    faults = [Fault(name, rng.uniform(0, rng.choice([0.05, 0.2, 0.6]))) for name in names]
    return Plan(seed, engine, strands, workers, hosts, rng.choice([30, 300, 1000]), faults, rng.choice(MORE))


def run(plan: Plan, directory: str, file: str) -> collections.Counter:
    """Carry out a plan; return how often each fault was injected.

    Raises:
        AssertionError: the run did not do what it must.
    """
    injected: collections.Counter = collections.Counter()
    with Job(directory, PROGRAM.read_text(encoding="utf-8"), plan.options, hosts=plan.hosts,
             arguments=[str(plan.seed), str(plan.nodes)], file=file) as job:
        rng = random.Random(plan.seed + 1)
        job.reached("running")
        for fault in plan.faults:
            time.sleep(fault.wait_s)
            if job.process.poll() is None:
                inject(fault.name, job, rng)
                injected[fault.name] += 1
        judge(plan, job, injected)
    return injected


def inject(name: str, job: Job, rng: random.Random) -> None:
    """Do harm; a run that has just ended, or lost the victim, cannot be harmed."""
    try:
        HARM[name](job, rng)
    except (AssertionError, OSError, IndexError) as gone:
        try:
            if not job.hosts:
                job.process.wait(CLEAN_S)  # its agent is gone a moment before the launcher
        except subprocess.TimeoutExpired:
            raise AssertionError("no victim for %r: %s" % (name, gone)) from gone


def finish(job: Job) -> Outcome:
    """Wait for the end of a run, for as long as it starts tasks: on a busy machine, many deaths take long."""
    while True:
        begun = len(job.ledger())
        try:
            return job.finish(HANG_S)
        except AssertionError:
            if len(job.ledger()) == begun:
                raise


def judge(plan: Plan, job: Job, injected: collections.Counter) -> None:
    """Prove that a run ended as it must."""
    outcome = finish(job)
    job.clean(CLEAN_S)
    fatal = any(injected[name] for name in FATAL)
    assert outcome.status == 0 or fatal, str(job)
    assert outcome.status != 0 or outcome.out == "right\n", str(job)
    deaths = sum(injected.values()) + len(job.ledger("died"))
    assert deaths or not job.ledger("lost"), "a worker was lost, of which none had died; %s" % job
    runs, again = job.runs(), deaths * (plan.workers if plan.hosts else 1)
    for key, above in parents(soak_program.make(random.Random(plan.seed), plan.nodes, iter(range(1, 10**6)))):
        asked = runs.get(str(above), 0) if above else 1  # each run of a node asks for its children once
        assert runs.get(str(key), 0) <= asked + again, "task %s ran %d times; %s" % (key, runs[str(key)], job)


def parents(node: soak_program.Node, above: int = 0) -> Iterator[Tuple[int, int]]:
    """Yield the number of each node of a tree, and that of the one above it."""
    yield node.key, above
    for child in node.children:
        yield from parents(child, node.key)


def combos_at_hand() -> List[str]:
    """Return the combinations of engine and strands that this Python can run."""
    engines = ["own"] + ["zmq"] * (importlib.util.find_spec("zmq") is not None)
    strands = ["thread"] + ["greenlet"] * (importlib.util.find_spec("greenlet") is not None)
    return ["%s-%s" % (engine, kind) for engine in engines for kind in strands]


def soak(options: argparse.Namespace) -> int:
    """Run plan after plan until the time or the number is over; return how many failed."""
    end = time.monotonic() + 60 * options.minutes
    total: collections.Counter = collections.Counter()
    runs, failures = 0, []
    while runs < options.runs and time.monotonic() < end:
        plan = plan_of(options.seed + runs, options.combos, options.local)
        directory = tempfile.mkdtemp(prefix="soak-")
        runs += 1
        try:
            total += run(plan, directory, options.file)
            if options.verbose:
                print("right:", plan, flush=True)
        except AssertionError as error:
            failures.append(plan.seed)
            print("FAILED: %s\n%s\nagain: python3 %s --runs 1 --seed %d%s\n" % (
                plan, error, sys.argv[0], plan.seed, " --local" if options.local else ""), flush=True)
        finally:
            shutil.rmtree(directory, ignore_errors=True)
    print("%d runs, %d faults injected (%s), %d failures%s" % (
        runs, sum(total.values()), ", ".join("%s %d" % item for item in sorted(total.items())) or "none",
        len(failures), ": seeds " + " ".join(map(str, failures)) if failures else ""))
    return len(failures)


def main() -> int:
    """Read the command line and soak."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=5, help="how long, at most (default: 5)")
    parser.add_argument("--runs", type=int, default=10**9, help="how many runs, at most")
    parser.add_argument("--seed", type=int, default=1, help="the first run's seed; each next one's is one more")
    parser.add_argument("--combos", type=lambda words: words.split(","), default=combos_at_hand(),
                        help="engines and strands to choose from (default: %s)" % ",".join(combos_at_hand()))
    parser.add_argument("--local", action="store_true", help="no stand-in hosts")
    parser.add_argument("--file", default=str(PROGRAM.parents[3] / "scoop_lite.py"), help="the scoop_lite.py to test")
    parser.add_argument("-v", "--verbose", action="store_true", help="print each run's plan")
    # The stand-in hosts' python3 is this one: another might lack what a combination needs.
    os.environ["PATH"] = os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup ignores it, and then launchers rightly do so too
    return 1 if soak(parser.parse_args()) else 0


if __name__ == "__main__":
    sys.exit(main())
