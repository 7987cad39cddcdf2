"""Compare scoop_lite with its peers and with what the machine itself allows: `python3 tests/benchmarks`.

Every measurement is a process of its own with a fresh system; all systems take turns, forwards in one round and
backwards in the next. Progress goes to standard error, the Markdown tables to standard output.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time

import environment
import report
import running
import systems
import workloads

HERE = pathlib.Path(__file__).resolve().parent
ROUNDS, QUICK_ROUNDS = 7, 3
BUSY = 0.5      # load average before the start from which on the numbers say more about others than about us
DEFAULT_OURS = "scoop_lite,scoop_lite.Executor"


def options_from(words):
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(prog="python3 tests/benchmarks", description=__doc__.split("\n")[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("--only", metavar="LIST", default="", help="workloads by number or name: %s"
        % ", ".join("%d %s" % (one.number, one.name) for one in workloads.ALL))
    add("--peers", metavar="LIST", default="all", help="peers, by name or the start of it; 'none' for none: %s"
        % ", ".join(one.name for one in systems.PEERS))
    add("--ours", metavar="LIST", default=DEFAULT_OURS, help="which of our own: %s"
        % ", ".join(one.name for one in systems.OURS))
    add("--settings", choices=("both", "default", "best"), default="both", help="peers' settings")
    add("--workers", type=int, default=2, help="processes that run tasks")
    add("--rounds", type=int, default=ROUNDS, help="rounds")
    add("--quick", action="store_true", help="only %d rounds" % QUICK_ROUNDS)
    add("--file", type=pathlib.Path, default=HERE.parents[1] / "scoop_lite.py", help="the scoop_lite.py to measure")
    add("--venv", type=pathlib.Path, default=environment.default_directory(), help="environment with the peers")
    add("--json", metavar="FILE", type=pathlib.Path, help="write every number of every round")
    add("--from-json", metavar="FILE", type=pathlib.Path, help="measure nothing: report what --json has written")
    add("--markdown", metavar="FILE", type=pathlib.Path, help="write the tables there too")
    add("--svg", metavar="FILE", type=pathlib.Path, help="write the plot of efficiency against task length")
    options = parser.parse_args(words)
    options.file, options.venv = options.file.resolve(), options.venv.resolve()
    if options.quick:
        options.rounds = QUICK_ROUNDS
    return options


def chosen(text, everything, labels):
    """Return the items of `everything` that comma-separated words name: by a whole label, or by the start of one."""
    found = []
    for word in filter(None, (part.strip().lower() for part in text.split(","))):
        exact = [one for one in everything if word in map(str.lower, labels(one))]
        some = exact or [one for one in everything if any(name.lower().startswith(word) for name in labels(one))]
        if not some:
            sys.exit("nothing is called %r" % word)
        found += some
    return [one for one in everything if one in found or not text]


class Benchmark:
    """One run of the benchmark.

    Args:
        options: The command line.
    """

    def __init__(self, options):
        self.options = options
        self.workloads = chosen(options.only, workloads.ALL, lambda one: (str(one.number), one.name))
        self.peers = [] if options.peers == "none" else chosen(
            "" if options.peers == "all" else options.peers, systems.PEERS, lambda one: (one.name,))
        self.ours = chosen(options.ours, systems.OURS, lambda one: (one.name,)) if options.file.exists() else []
        self.environment = environment.Environment(options.venv)
        self.rounds = {}
        self.gone = set()       # (workload, system) that hung or cannot: not tried again
        self.started = time.monotonic()
        self.load = os.getloadavg()[0]

    def tell(self, text):
        """Show progress."""
        seconds = int(time.monotonic() - self.started)
        print("[%d:%02d] %s" % (seconds // 60, seconds % 60, text), file=sys.stderr, flush=True)

    def run(self):
        """Measure everything."""
        if not self.ours:
            self.tell("%s does not exist: only peers and floors are measured" % self.options.file)
        self.environment.prepare(self.ours + self.peers, self.tell)
        if self.ours:
            self.snapshot()
        if self.load > BUSY:
            self.tell("others keep this machine busy (load %.1f): efficiencies and latencies will suffer" % self.load)
        for workload in self.workloads:
            self.rounds[workload.name] = {}
            for index in range(self.options.rounds):
                order = self.entrants(workload)
                for system, best in order if index % 2 == 0 else order[::-1]:
                    self.measure(workload, system, best, index)

    def snapshot(self):
        """Measure a copy: the file may be edited while this runs, and all rounds must be about the same one."""
        copy = self.environment.directory / "measured" / "scoop_lite.py"
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(self.options.file.read_bytes())
        self.options.file = copy

    def entrants(self, workload):
        """Return the systems of one round in order: (class, or None for the floors; whether at its best setting)."""
        order = [(system, False) for system in self.ours]
        if workload.name == "start" and systems.ScoopLite in self.ours and systems.ScoopLiteModule not in self.ours:
            order.append((systems.ScoopLiteModule, False))
        if workload.has_floor:
            order.append((None, False))
        for peer in self.peers:
            if self.options.settings != "best" or workload.name not in peer.best_in:
                order.append((peer, False))
            if self.options.settings != "default" and workload.name in peer.best_in:
                order.append((peer, True))
        return order

    def measure(self, workload, system, best, index):
        """Measure one workload through one system once and keep the numbers, or the reason why there are none."""
        name = label(system, best)
        if (workload.name, name) in self.gone:
            return
        self.tell("%s %d/%d: %s" % (workload.name, index + 1, self.options.rounds, name))
        found = self.numbers(workload, system, best)
        if "failure" in found and (index == 0 or found["failure"].startswith(("hung", "deadlock"))):
            self.gone.add((workload.name, name))
        for key, entry in (found if system is None and "failure" not in found else {name: found}).items():
            key = report.FLOOR + key if system is None and not key.startswith("floor") else key
            entries = self.rounds[workload.name].setdefault(key, [])
            entries.extend([None] * (index - len(entries)))
            entries.append(entry)
            self.tell("    %s: %s" % (key, said(entry)))

    def numbers(self, workload, system, best):
        """Return {metric: value} or {"failure": text}; for floors {floor: {metric: value}}."""
        why = system and (self.environment.failures.get(system.name) or workload.refusal(system))
        if why:
            return {"failure": why}
        if workload.name == "start":
            return self.starts(workload, system, best)
        if system is None:
            return self.one_run(workload, None, False, {"workers": self.options.workers}, [self.environment.python])
        found = {}
        for job in workload.jobs(system, self.options.workers):
            command = system.command(self.environment.python, self.options, job["workers"], best)
            found.update(self.one_run(workload, system, best, job, command))
        if "failure" in found and len(found) > 1:
            found["_failure"] = found.pop("failure")
        return found

    def one_run(self, workload, system, best, job, command):
        """Return what one process tells."""
        job = dict(job, workload=workload.name, system=system.name if system else "floor", best=best)
        run = running.Run(command + [str(HERE / "driver.py")], self.variables(system), job, workload.limit_s).finish()
        if run.failure:
            return {"failure": run.failure}
        return dict(run.result, _note=run.note) if run.note else run.result

    def variables(self, system):
        """Return the environment variables of a run."""
        path = os.pathsep.join([str(self.environment.bin), os.environ.get("PATH", "")])
        return {"PATH": path, "PYTHONPATH": os.pathsep.join([str(HERE), str(self.options.file.parent)]),
                "PYTHONDONTWRITEBYTECODE": "",      # modules are compiled once, as on any user's machine
                "SCOOP_LITE_BENCHMARK_FUTURES": getattr(system, "module", ""), "RAY_USAGE_STATS_ENABLED": "0"}

    def starts(self, workload, system, best):
        """Return the seconds from the command to its exit, by number of workers."""
        if system is None:
            one_s = statistics.median(self.bare(1) for _ in range(9))
            return {"bare interpreter": {"start_%d" % n: one_s for n in workload.counts},
                    "n bare interpreters": {"start_%d" % n: self.bare(n) for n in workload.counts}}
        found = {}
        for n in workload.counts:
            if n <= system.most_workers:
                found.update(self.start(workload, system, best, n))
        return found

    def bare(self, n):
        """Return the seconds that `n` interpreters at once need to start and end."""
        start = time.perf_counter()
        children = [subprocess.Popen([self.environment.python, "-c", "pass"]) for _ in range(n)]
        for child in children:
            child.wait()
        return time.perf_counter() - start

    def start(self, workload, system, best, n):
        """Return one start by `n` workers: the program must print its result and end well."""
        program = self.options.venv / ("hello_%s.py" % system.name.replace(".", "_"))
        program.write_text(system.hello.replace("{workers}", str(n)))
        command = system.command(self.environment.python, self.options, n, best) + [str(program)]
        run = running.Start(command, self.variables(system), workload.limit_s).finish()
        return {"start_%d" % n: run.length_s} if not run.failure else {"failure": "%d workers: %s" % (n, run.failure)}

    def facts(self):
        """Return what a reader must know to repeat this."""
        return {"command": " ".join(["python3", "tests/benchmarks", *sys.argv[1:]]),
                "python": platform.python_version(), "date": datetime.date.today().isoformat(),
                "machine": platform.platform(), "cpu": cpu_model(),
                "cpus": len(os.sched_getaffinity(0)), "workers": self.options.workers, "rounds": self.options.rounds,
                "sha256": digest(self.options.file), "load before": self.load, "minutes": round((time.monotonic() - self.started) / 60, 1), "versions": self.environment.versions(),
                "best settings": {one.name: one.best_text for one in self.peers if one.best_text},
                "not installed": self.environment.failures}


def label(system, best):
    """Return the name that a system at a setting has in tables."""
    return "floor" if system is None else system.name + (" (best)" if best else "")


def said(entry):
    """Return an entry as progress shows it."""
    if "failure" in entry:
        return entry["failure"]
    numbers = ", ".join("%s %s" % (key, report.number(value)) for key, value in entry.items() if key[0] != "_")
    return "; ".join([numbers] + [entry[key] for key in ("_failure", "_note") if key in entry])


def digest(path):
    """Return the start of a file's SHA-256, or nothing when there is no file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.exists() else ""


def cpu_model():
    """Return the processor's name."""
    with open("/proc/cpuinfo") as file:
        return next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), "unknown")


def text_of(facts, results):
    """Return the whole report in Markdown."""
    head = ("%(python)s, %(cpus)d CPUs (%(cpu)s), %(workers)d workers, %(rounds)d rounds, %(minutes)g minutes, "
            "load before %(load before).1f, %(date)s: `%(command)s`" % facts)
    best = "\n".join("- %s (best): %s" % item for item in facts["best settings"].items())
    return "\n\n".join(["Python " + head, report.summary(results), "## Bars", report.bar_table(results),
                        "## Every system", best, report.details(results)]) + "\n"


def main():
    """Measure, or read what was measured, and report."""
    options = options_from(sys.argv[1:])
    if options.from_json:
        stored = json.loads(options.from_json.read_text())
    else:
        benchmark = Benchmark(options)
        try:
            benchmark.run()
        except KeyboardInterrupt:
            benchmark.tell("interrupted: what was measured is reported")
        stored = {"facts": benchmark.facts(), "rounds": benchmark.rounds}
    results = report.Results(stored["rounds"])
    text = text_of(stored["facts"], results)
    for path, content in ((options.json, json.dumps(stored, indent=1)), (options.markdown, text),
                          (options.svg, report.plot(results))):
        if path:
            path.write_text(content)
    print(text)


if __name__ == "__main__":
    main()
