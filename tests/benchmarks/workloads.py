"""The workloads: what each one runs, how it checks the result, and its floor.

Every workload runs the same way through every system: `drive` is called in a process of its own that holds a fresh
system. A slow system is given fewer tasks, never other tasks: sizes grow until a measurement lasts about as long as its
budget or has reached the full size. Results are checked after the clock has stopped; a wrong one makes the whole
measurement a failure.
"""

from __future__ import annotations

import gc
import itertools
import math
import os
import random
import time

import floors
import nested
import systems
import tasks
from floors import check

BUDGET_S = 1.0
ARRAYS_MB = (1, 16, 64)
ARRAY_ROADS = {"out": "out", "back": "back", "all": "broadcast to 8 tasks"}
HOPS = 1                # links between an Executor's client and a worker of its own host: a straight one
SPIN_US = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000)


def sized(run, first, most, budget_s=BUDGET_S, warm_up=True):
    """Call `run(n)` with growing `n` until it lasts a good part of the budget; one call before only warms up.

    Returns:
        The last `n` and the seconds that `run` returned for it.
    """
    n = min(first, most)
    if warm_up:
        run(n)
    while True:
        gc.collect()
        length_s = run(n)
        if n == most or length_s > budget_s / 4:
            return n, length_s
        n = min(most, 50 * n, max(2 * n, int(n * budget_s / max(length_s, 1e-6))))


def timed(function, *args):
    """Return what a call returns and how many seconds it took."""
    start = time.perf_counter()
    value = function(*args)
    return value, time.perf_counter() - start


class Metric:
    """One number that a workload gives.

    Args:
        label: What it is.
        unit: Its unit.
        higher: Whether more is better.
        floors: Names of the floors it is held against.
    """

    def __init__(self, label, unit, higher=True, floors=()):
        self.label = label
        self.unit = unit
        self.higher = higher
        self.floors = floors

    def gain(self, ours, theirs):
        """Return how many times better ours is."""
        if not ours or not theirs:
            return math.nan
        return ours / theirs if self.higher else theirs / ours


class Workload:
    """One row of the benchmark."""

    number = 0
    name = ""
    title = ""
    metrics = {}
    limit_s = 90            # a run that takes longer is hung
    has_floor = True
    warm = True             # whether all workers have run a task before `drive` begins

    def refusal(self, system):
        """Return why a system does not run this at all, or nothing."""
        return system.cannot.get(self.name, "")

    def drive(self, system, channel, job):
        """Return {metric: value}, measured through a system."""
        raise NotImplementedError

    def floor(self, job):
        """Return {name of a floor: {metric: value}}."""
        raise NotImplementedError

    def jobs(self, system, workers):
        """Return the jobs that one measurement consists of; their results are joined."""
        return [{"workers": workers}]


class Map(Workload):
    """A long map of a function that does nothing."""

    number, name, title = 1, "map", "no-op map, 10^6 items"
    full = 10 ** 6
    metrics = {"range": Metric("map over a range", "tasks/s", floors=("one process", "two processes")),
               "list": Metric("map over a list", "tasks/s", floors=("one process", "two processes"))}
    kinds = {"range": range, "list": lambda n: list(range(n))}

    def drive(self, system, channel, job):
        return {key: self.rate(system, make) for key, make in self.kinds.items()}

    def rate(self, system, make):
        """Return tasks per second for one kind of input."""
        def run(n):
            items = make(n)
            result, length_s = timed(system.map, tasks.noop, items)
            check(result, list(range(n)))
            return length_s
        n, length_s = sized(run, 1000, self.full)
        return n / length_s

    def floor(self, job):
        inputs = {key: make(self.full) for key, make in self.kinds.items()}
        return {"one process": {key: self.full / floors.map_one_process(items) for key, items in inputs.items()},
                "two processes": {key: self.full / floors.map_two_processes(items) for key, items in inputs.items()}}


class Submit(Workload):
    """Many futures of a function that does nothing, all made first, all waited for then."""

    number, name, title = 2, "submit", "no-op submit + result, 10^5"
    full = 10 ** 5
    metrics = {"rate": Metric("submit + result", "tasks/s", floors=("in one process",))}

    def drive(self, system, channel, job):
        def run(n):
            start = time.perf_counter()
            result = system.results([system.submit(tasks.noop, index) for index in range(n)])
            length_s = time.perf_counter() - start
            check(list(result), list(range(n)))
            return length_s
        n, length_s = sized(run, 200, self.full)
        return {"rate": n / length_s}

    def floor(self, job):
        return {"in one process": {"rate": self.full / floors.submit_in_process(self.full)}}


class Metg(Workload):
    """Minimum effective task granularity: the shortest busy-wait at which half of the CPU time is the tasks'."""

    number = 3
    point_s = 0.15          # time for one task length, twice

    def tasks_at_once(self, system, length_ns, n):
        """Return the results of `n` tasks of one length."""
        raise NotImplementedError

    def drive(self, system, channel, job):
        overhead_s = self.overhead(system)
        curve = sweep(lambda us, n: self.efficiency(system, us, n), overhead_s, job["workers"], self.point_s)
        return {"metg": crossing(curve), "_curve": curve}

    def overhead(self, system):
        """Return the seconds that a task of no length costs."""
        def run(n):
            result, length_s = timed(self.tasks_at_once, system, 0, n)
            check(list(result), [0] * n)
            return length_s
        n, length_s = sized(run, 100, 10 ** 5, self.point_s)
        return length_s / n

    def efficiency(self, system, length_us, n):
        """Return the share of the workers' time that `n` tasks of one length were given."""
        length_ns = length_us * 1000
        gc.collect()
        result, length_s = timed(self.tasks_at_once, system, length_ns, n)
        check(list(result), [length_ns] * n)
        return n * length_us * 1e-6 / (system.workers * length_s)

    def floor(self, job):
        def efficiency(length_us, n):
            return n * length_us * 1e-6 / (2 * floors.spin_two_processes(length_us * 1000, n))
        curve = sweep(efficiency, 3e-7, 2, self.point_s)
        return {"two bare processes": {"metg": crossing(curve), "_curve": curve}}


class MetgSubmit(Metg):
    """By submit."""

    name, title = "metg-submit", "METG(50 %) by submit"
    metrics = {"metg": Metric("METG(50 %) by submit", "µs", False, ("two bare processes",))}

    def tasks_at_once(self, system, length_ns, n):
        return system.results([system.submit(tasks.spin, length_ns) for _ in range(n)])


class MetgMap(Metg):
    """By map."""

    name, title = "metg-map", "METG(50 %) by map"
    metrics = {"metg": Metric("METG(50 %) by map", "µs", False, ("two bare processes",))}

    def tasks_at_once(self, system, length_ns, n):
        return system.map(tasks.spin, [length_ns] * n)


def sweep(efficiency, overhead_s, workers, point_s):
    """Return [[task length in µs, efficiency], …] around the length at which the efficiency crosses a half.

    Args:
        efficiency: Called with a task length in µs and a number of tasks.
        overhead_s: What a task of no length costs: tells where to look.
        workers: Processes that share the work.
        point_s: About how long one point may take.
    """
    def measure(us):
        per_task_s = max(overhead_s, us * 1e-6 / workers)
        n = max(4 * workers, min(300_000, int(point_s / per_task_s)))
        return max(efficiency(us, n), efficiency(us, n))        # whoever else uses the machine only ever lowers it

    middle_us = workers * overhead_s * 1e6
    around = [us for us in SPIN_US if middle_us / 6 <= us <= middle_us * 25] or [SPIN_US[-1]]
    curve = {us: measure(us) for us in around}
    while curve[min(curve)] >= 0.5 and min(curve) > SPIN_US[0]:
        us = SPIN_US[SPIN_US.index(min(curve)) - 1]
        curve[us] = measure(us)
    while curve[max(curve)] < 0.5 and max(curve) < SPIN_US[-1]:
        us = SPIN_US[SPIN_US.index(max(curve)) + 1]
        curve[us] = measure(us)
    return sorted([us, value] for us, value in curve.items())


def crossing(curve):
    """Return the task length in µs from which on the efficiency is at least a half, between points by logarithms."""
    below = [index for index, (_, value) in enumerate(curve) if value < 0.5]
    if not below:
        return curve[0][0]
    if below[-1] == len(curve) - 1:
        return math.inf
    (us_0, value_0), (us_1, value_1) = curve[below[-1]:below[-1] + 2]
    return us_0 * (us_1 / us_0) ** ((0.5 - value_0) / (value_1 - value_0))


class Fib(Workload):
    """Nested tasks without a cut-off."""

    number, name, title = 4, "fib", "nested fib(25), no cut-off"
    metrics = {"rate": Metric("nested fib", "tasks/s", floors=("serial run / 2", "bare greenlets"))}
    limit_s = 30
    most = {"ray": 10, "ipyparallel": 4, "parsl": 14}       # Ray holds a process for every waiting task

    def refusal(self, system):
        if system.fib is systems.System.fib:
            return "no nested tasks"
        return ""

    def drive(self, system, channel, job):
        n, most = 4, self.most.get(system.name, 25)
        while True:
            gc.collect()
            result, length_s = timed(system.fib, n)
            check(result, nested.serial_fib(n))
            if n == most or length_s > BUDGET_S:
                return {"rate": nested.n_fib_tasks(n) / length_s}
            n = min(most, n + (2 if length_s > BUDGET_S / 8 else 4))

    def floor(self, job):
        n_tasks = nested.n_fib_tasks(25)
        return {"serial run / 2": {"rate": n_tasks / floors.fib_serial(25)},
                "bare greenlets": {"rate": n_tasks / floors.greenlet_loop(n_tasks)}}


class FuturesOnly(Workload):
    """A workload for the systems whose tasks have the very interface that programs have."""

    def refusal(self, system):
        return "" if issubclass(system, systems.Futures) else "not written for it; fib is"


class Tree(FuturesOnly):
    """A search in an unbalanced tree, one task a node."""

    number, name, title = 4, "tree", "unbalanced tree search, 69,152 nodes"
    metrics = {"rate": Metric("tree search", "tasks/s", floors=("serial run / 2",))}
    full = 2000             # subtrees; the largest holds two fifths of all nodes

    def drive(self, system, channel, job):
        sizes = {}

        def run(n):
            sizes[n], length_s = timed(nested.count_all, n)
            check(sizes[n], nested.serial_count(nested.roots(n)))
            return length_s
        n, length_s = sized(run, 100, self.full)
        return {"rate": sizes[n] / length_s}

    def floor(self, job):
        n, length_s = timed(nested.serial_count, nested.roots(self.full))
        return {"serial run / 2": {"rate": 2 * n / length_s}}


class Quicksort(FuturesOnly):
    """A quicksort that carries its numbers along."""

    number, name, title = 4, "quicksort", "nested quicksort of 10^6 numbers"
    metrics = {"speedup": Metric("quicksort, against the serial run before it", "×", floors=("two workers",))}

    def drive(self, system, channel, job):
        values = nested.numbers(10 ** 6)
        system.results([system.submit(tasks.noop, index) for index in range(100)])
        gc.collect()
        expected, serial_s = timed(nested.serial_quicksort, values)
        result, length_s = timed(nested.quicksort, values)
        check(result, expected)
        return {"speedup": serial_s / length_s}

    def floor(self, job):
        return {"two workers": {"speedup": 2.0}}


class Latency(Workload):
    """One task at a time, run elsewhere by a client that runs nothing itself."""

    number, name, title = 5, "latency", "closed loop: one task elsewhere"
    metrics = {"p50": Metric("round trip, p50", "µs", False, ("AF_UNIX ping-pong",)),
               "p99": Metric("round trip, p99", "µs", False, ("AF_UNIX ping-pong",)),
               "idle_p50": Metric("round trip after 10 ms idle, p50", "µs", False, ("AF_UNIX ping-pong",)),
               "idle_p99": Metric("round trip after 10 ms idle, p99", "µs", False, ("AF_UNIX ping-pong",))}
    n_idle = 60

    def drive(self, system, channel, job):
        call = system.caller()
        round_trips(call, 20, 5.0)
        return percentiles(round_trips(call, 3000, BUDGET_S), round_trips(call, self.n_idle, 30.0, 0.01))

    def floor(self, job):
        floors.ping_pong(HOPS, 100)
        return {"AF_UNIX ping-pong": percentiles(floors.ping_pong(HOPS, 3000),
                                                 floors.ping_pong(HOPS, self.n_idle, 0.01))}


def round_trips(call, most, budget_s, idle_s=0.0):
    """Return the seconds of single tasks, one after the other."""
    lengths, end = [], time.perf_counter() + budget_s
    while len(lengths) < most and time.perf_counter() < end:
        if idle_s:
            time.sleep(idle_s)
        result, length_s = timed(call, tasks.noop, len(lengths))
        check(result, len(lengths))
        lengths.append(length_s)
    return lengths


def percentiles(lengths, idle_lengths):
    """Return the latency metrics in µs."""
    def at(values, share):
        return sorted(values)[min(len(values) - 1, int(share * len(values)))] * 1e6
    return {"p50": at(lengths, 0.5), "p99": at(lengths, 0.99),
            "idle_p50": at(idle_lengths, 0.5), "idle_p99": at(idle_lengths, 0.99)}


class Arrays(Workload):
    """NumPy arrays out, back and to everybody."""

    number, name, title = 6, "arrays", "64 arrays of 1, 16, 64 MB"
    readers = 8
    limit_s = 150
    budget_s = 0.5
    names = itertools.count()
    metrics = {"%s_%d" % (key, mb): Metric("arrays of %d MB %s" % (mb, text), "GB/s", True,
                                           () if key == "all" else ("memcpy", "socketpair"))
               for key, text in ARRAY_ROADS.items() for mb in ARRAYS_MB}
    metrics["peak"] = Metric("peak memory, 16 MB out", "× bytes in flight", False)

    def drive(self, system, channel, job):
        numbers = {"peak": self.peak(system, channel, 16 * 131_072)}    # first, while nobody holds freed memory
        for mb in ARRAYS_MB:
            for key, run in (("out", self.out), ("back", self.back), ("all", self.broadcast)):
                numbers["%s_%d" % (key, mb)] = rate_gb_s(run, system, mb * 131_072)
        return numbers

    def out(self, system, n_elements, n):
        """Return seconds for `n` arrays as arguments."""
        import numpy
        arrays = [numpy.full(n_elements, float(index)) for index in range(n)]
        result, length_s = timed(lambda: system.results([system.submit(tasks.read_array, array) for array in arrays]))
        check([value for value, _ in result], [float(index) * n_elements for index in range(n)])
        return length_s

    def back(self, system, n_elements, n):
        """Return seconds for `n` arrays as results."""
        result, length_s = timed(lambda: system.results([system.submit(tasks.make_array, index, n_elements)
                                                         for index in range(n)]))
        check([float(array.sum()) for array in result], [float(index) * n_elements for index in range(n)])
        return length_s

    def broadcast(self, system, n_elements, n):
        """Return seconds for `n` arrays that each go to several tasks; one array is one name, never used again."""
        import numpy
        length_s = 0.0
        for index in range(n):
            array = numpy.full(n_elements, float(index))
            result, one_s = timed(system.broadcast, "array_%d" % next(self.names), array, self.readers)
            check([value for value, _ in result], [float(index) * n_elements] * self.readers)
            length_s += one_s
        return length_s / self.readers      # so that GB/s counts what was delivered

    def peak(self, system, channel, n_elements):
        """Return the highest memory while arrays go out, over their bytes."""
        n = 16
        before = channel.ask("watch")["now"]
        self.out(system, n_elements, n)
        return (channel.ask("unwatch")["peak"] - before) / (n * n_elements * 8)

    def floor(self, job):
        found = {"memcpy": {}, "socketpair": {}}
        for mb in ARRAYS_MB:
            n = max(4, min(64, 512 // mb))
            for key in ("out", "back"):
                found["memcpy"]["%s_%d" % (key, mb)] = floors.memcpy_gb_s(mb * 131_072, n)
                found["socketpair"]["%s_%d" % (key, mb)] = floors.socketpair_gb_s(mb * 131_072, n)
        return found


def rate_gb_s(run, system, n_elements):
    """Return GB/s with as many of 64 arrays as the budget and a sixth of the free memory allow."""
    most = max(4, min(64, free_memory() // 6 // (n_elements * 8)))
    n, length_s = sized(lambda n: run(system, n_elements, n), 1, most, Arrays.budget_s)
    return n * n_elements * 8 / length_s / 1e9


def free_memory():
    """Return the bytes that programs could still use."""
    with open("/proc/meminfo") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith("MemAvailable"))


class Irregular(Workload):
    """Tasks whose lengths differ, against list scheduling replayed on the lengths they turned out to have."""

    number, name, title = 7, "irregular", "2,000 tasks of irregular length"
    n_tasks, mean_us = 2000, 1000
    has_floor = False       # the floor is part of the number: it is replayed on each run's own lengths
    metrics = {"uniform": Metric("uniform lengths", "of list scheduling"),
               "lognormal": Metric("lognormal, σ 1.5", "of list scheduling"),
               "last": Metric("one long task at the end", "of list scheduling"),
               "longest_first": Metric("lognormal, longest first", "of list scheduling")}

    def lengths_us(self):
        """Return {metric: task lengths in µs, in order}."""
        generator = random.Random(7)
        uniform = [generator.uniform(0, 2 * self.mean_us) for _ in range(self.n_tasks)]
        mu = math.log(self.mean_us) - 1.5 ** 2 / 2
        lognormal = [generator.lognormvariate(mu, 1.5) for _ in range(self.n_tasks)]
        return {"uniform": uniform, "lognormal": lognormal,
                "last": uniform[:-1] + [200 * self.mean_us], "longest_first": sorted(lognormal, reverse=True)}

    def drive(self, system, channel, job):
        system.map(tasks.measured_spin, [1000] * 100)
        return {key: self.efficiency(system, lengths) for key, lengths in self.lengths_us().items()}

    def efficiency(self, system, lengths_us):
        """Return the makespan of list scheduling over the time that the system took."""
        lengths_ns = [int(us * 1000) for us in lengths_us]
        gc.collect()
        real_ns, length_s = timed(lambda: list(system.map(tasks.measured_spin, lengths_ns, True)))
        check([real >= asked for real, asked in zip(real_ns, lengths_ns)], [True] * self.n_tasks)
        return floors.list_schedule([ns * 1e-9 for ns in real_ns], system.workers) / length_s


class Generations(Workload):
    """Small maps, one after another, each of which needs the one before: an evolutionary algorithm's way of working."""

    number, name, title = 12, "generations", "maps of a few tasks, one after another"
    shapes = {"few_long": (10, 20_000), "few": (10, 5000), "few_short": (10, 1000), "many_short": (50, 200)}
    metrics = {key: Metric("%d tasks of %g ms each" % (n, us / 1000), "of two bare processes")
               for key, (n, us) in shapes.items()}
    has_floor = False       # so many milliseconds of work, by the clock

    def drive(self, system, channel, job):
        return {key: self.efficiency(system, *shape) for key, shape in self.shapes.items()}

    def efficiency(self, system, n, length_us):
        """Return the time that the workers need at least, over the time that a map takes."""
        lengths_ns = [length_us * 1000] * n
        generations = max(5, 500_000 // (n * length_us))

        def run():
            for _ in range(generations):
                check(list(system.map(tasks.spin, lengths_ns, True)), lengths_ns)

        run()
        gc.collect()
        least_s = generations * math.ceil(n / system.workers) * length_us * 1e-6
        return least_s / timed(run)[1]


class Start(Workload):
    """From the command to its exit, with one result on standard output in between."""

    number, name, title = 8, "start", "start: command, first result, clean exit"
    counts = (1, 2, 16, 64)
    metrics = {"start_%d" % n: Metric("start with %d worker%s" % (n, "s" * (n > 1)), "s", False,
                                      ("bare interpreter", "n bare interpreters")) for n in (1, 2, 16, 64)}
    limit_s = 60


class Pending(Workload):
    """A million futures held, then drained."""

    number, name, title = 9, "pending", "10^6 pending submits, then drained"
    full = 10 ** 6
    metrics = {"bytes": Metric("memory of a pending task, all processes", "bytes", False, ("bare futures",)),
               "drain": Metric("submit, hold, drain", "tasks/s")}

    def drive(self, system, channel, job):
        numbers = {}

        def run(n):
            gc.collect()
            before = anonymous_bytes(channel)
            start = time.perf_counter()
            handles = [system.submit(tasks.noop, index) for index in range(n)]
            submit_s = time.perf_counter() - start
            numbers["bytes"] = (anonymous_bytes(channel) - before) / n
            result, drain_s = timed(system.results, handles)
            check(list(result), list(range(n)))
            return submit_s + drain_s
        # A run before would leave free memory behind, which would hide what the next one needs.
        n, length_s = sized(run, 2000, self.full, 4.0, warm_up=False)
        numbers["drain"] = n / length_s
        return numbers

    def floor(self, job):
        return {"bare futures": {"bytes": floors.held_bytes(self.full)}}


def anonymous_bytes(channel):
    """Return the memory of all processes of this run."""
    return sum(process["anonymous"] for process in channel.ask("sample")["processes"].values())


class Sleepers(Workload):
    """Many more workers than cores."""

    number, name, title = 10, "sleepers", "64, 256, 1,000 workers on these cores, 10 sleeps each"
    counts = (64, 256, 1000)
    warm = False
    metrics = {}
    for _n in counts:
        metrics["long_%d" % _n] = Metric("%d workers, sleeps of 1 s" % _n, "of ideal", True, ("bare sleepers",))
        metrics["short_%d" % _n] = Metric("%d workers, sleeps of 0.1 s" % _n, "of ideal", True, ("bare sleepers",))
        metrics["up_%d" % _n] = Metric("%d workers up" % _n, "s", False)
        metrics["memory_%d" % _n] = Metric("%d workers, memory of each" % _n, "MB", False)

    def jobs(self, system, workers):
        return [{"workers": n} for n in self.counts if n <= system.most_workers]

    def refusal(self, system):
        return "" if system.most_workers >= self.counts[0] else "%d workers at most here" % system.most_workers

    def drive(self, system, channel, job):
        n = job["workers"]
        up = all_up(system, n, n / 100) - job["commanded"]  # so long that nobody needs a second one before all are up
        processes = channel.ask("sample")["processes"]
        return {"up_%d" % n: up, "memory_%d" % n: sum(one["pss"] for one in processes.values()) / n / 1e6,
                "short_%d" % n: self.efficiency(system, n, 0.1), "long_%d" % n: self.efficiency(system, n, 1.0)}

    def efficiency(self, system, n, nap_s):
        """Return the ideal time over the real one."""
        result, length_s = timed(lambda: system.results([system.submit(tasks.nap, nap_s) for _ in range(10 * n)]))
        check(len(list(result)), 10 * n)
        return 10 * nap_s / length_s

    def floor(self, job):
        numbers = {}
        for n in self.counts:
            numbers["short_%d" % n] = 1.0 / floors.sleepers(n, 10, 0.1)
            numbers["long_%d" % n] = 10.0 / floors.sleepers(n, 10, 1.0)
        return {"bare sleepers": numbers}


def all_up(system, n, nap_s=0.1):
    """Return the time at which the last of `n` workers began its first task."""
    first, limit_s = {}, time.monotonic() + 60
    while time.monotonic() < limit_s:
        for pid, start in system.results([system.submit(tasks.nap, nap_s) for _ in range(n)]):
            first[pid] = min(start, first.get(pid, start))
        if len(first) >= n:
            return max(first.values())
    raise ValueError("only %d of %d workers ever ran a task" % (len(first), n))


class Relay(Workload):
    """CPU time by process: what moving a task costs."""

    number, name, title = 11, "relay", "CPU a task, by process"
    metrics = {"submit_broker": Metric("broker, no-op submit, a task that travels", "µs", False,
                                       ("relayed in batches",)),
               "submit_all": Metric("all processes, no-op submit", "µs", False),
               "spin_broker": Metric("broker, tasks of 100 µs, a task that travels", "µs", False,
                                     ("relayed in batches",)),
               "spin_all": Metric("all processes, tasks of 100 µs, without the 100 µs", "µs", False),
               "alone_broker": Metric("broker, 64 workers, sleeps of 0.1 s, each travels alone", "µs", False,
                                      ("relayed alone",)),
               "alone_all": Metric("all processes, 64 workers, sleeps of 0.1 s", "µs", False)}

    def jobs(self, system, workers):
        return [{"workers": n} for n in (workers, 64) if n <= system.most_workers]

    def drive(self, system, channel, job):
        if job["workers"] >= 64:
            return used(system, channel, "alone", tasks.nap, 0.1, 640)
        n, _ = sized(lambda n: timed(batch, system, tasks.pid_noop, 0, n)[1], 200, 10 ** 5)
        numbers = used(system, channel, "submit", tasks.pid_noop, 0, n)
        numbers.update(used(system, channel, "spin", tasks.pid_spin, 100_000, min(n, 10_000)))
        numbers["spin_all"] -= 100
        return numbers

    def floor(self, job):
        batched_us = floors.relay_cpu_us(500, 4000, 200)
        return {"relayed in batches": {"submit_broker": batched_us, "spin_broker": batched_us},
                "relayed alone": {"alone_broker": floors.relay_cpu_us(5000, 150, 1)}}


def batch(system, function, argument, n):
    """Return the results of `n` equal tasks."""
    return list(system.results([system.submit(function, argument) for _ in range(n)]))


def used(system, channel, key, function, argument, n):
    """Return the CPU time that `n` tasks cost: all processes together, and the broker where there is one by itself."""
    before = channel.ask("sample")
    result = batch(system, function, argument, n)
    after = channel.ask("sample")
    cost = {pid: one["cpu_ns"] - before["processes"].get(pid, {"cpu_ns": 0})["cpu_ns"]
            for pid, one in after["processes"].items()}
    numbers = {key + "_all": sum(cost.values()) / n / 1000}
    broker = broker_of(system, after)
    travelled = sum(1 for answer in result if os.getpid() not in answer)
    if broker and travelled:
        numbers[key + "_broker"] = cost[broker] / travelled / 1000
    return numbers


def broker_of(system, sample):
    """Return the process that holds our broker: the launcher, or what the Executor started; none for peers."""
    if isinstance(system, systems.ScoopLite):
        return str(sample["root"])
    if isinstance(system, systems.ScoopLiteExecutor):
        return next((pid for pid, one in sample["processes"].items() if one["parent"] == os.getpid()), None)
    return None


class Idle(Workload):
    """A pool with nothing to do."""

    number, name, title = 11, "idle", "CPU of an idle pool over 10 s"
    metrics = {"share": Metric("CPU of an idle pool, all processes", "%", False)}
    has_floor = False
    watch_s = 10.0

    def drive(self, system, channel, job):
        system.map(tasks.noop, range(100))
        time.sleep(1.0)
        before = self.cpu_ns(channel)
        time.sleep(self.watch_s)
        return {"share": (self.cpu_ns(channel) - before) / (self.watch_s * 1e9) * 100}

    def cpu_ns(self, channel):
        """Return the CPU time of all processes but the asking itself."""
        processes = channel.ask("sample")["processes"]
        return sum(one["cpu_ns"] for one in processes.values())


ALL = (Map(), Submit(), MetgSubmit(), MetgMap(), Fib(), Tree(), Quicksort(), Latency(), Arrays(), Irregular(),
       Generations(), Start(), Pending(), Sleepers(), Relay(), Idle())
BY_NAME = {workload.name: workload for workload in ALL}
