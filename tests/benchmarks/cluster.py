"""Hosts behind a real sshd, on this machine: `python3 tests/benchmarks/cluster.py` (as root; three minutes).

Three network namespaces of `tests/cluster/netns-ssh.sh` stand for hosts. All of them share this machine's CPUs, so tasks
sleep where workers are counted, and links differ in what they cost, not in what a network would add. Rounds take turns.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve()
NETNS = HERE.parents[1] / "cluster" / "netns-ssh.sh"
TAG, NET = "bench", "10.76.0"
STATE = pathlib.Path("/run/netns-ssh") / TAG
ROUNDS, LIMIT_S = 5, 60
NODES = ("node1", "node2", "node3")
N_MAP = 1500            # tasks of 10 ms: 2.5 s on six workers
N_TRIPS = 300
SIZES = (100, 10_000, 100_000, 1_000_000, 10_000_000)

#: name: (label, sign and bound, or nothing)
ROWS = {
    "ssh": ("`ssh node1 true`, s", None),
    "first": ("first result from each of 3 ssh hosts, s after the command", ("≤", 2.5)),
    "many": ("first result from each of 64 hosts behind a local command, s", ("≤", 15)),
    "local": ("`map` of 10 ms tasks, 6 local workers, tasks/s", None),
    "remote": ("the same over 3 hosts × 2 workers, tasks/s", None),
    "share": ("of local workers' rate", ("≥", 0.9)),
}


# ---------------------------------------------------------------------------------------------------------------------
# What runs under the launcher
# ---------------------------------------------------------------------------------------------------------------------


def where(_):
    """Return the host that ran this."""
    time.sleep(0.02)
    return os.environ.get("HOST") or os.uname().nodename


def nap(length_s):
    """Sleep as long as a task takes."""
    time.sleep(length_s)


def see_hosts(futures, n):
    """Wait until results have come from `n` hosts."""
    seen = set()
    for host in futures.map(where, range(10 ** 6)):
        seen.add(host)
        if len(seen) == n:
            return {"hosts": n}


def map_naps(futures, n):
    """Return the rate of a map of 10 ms tasks, once all workers are there."""
    futures.run_on_all(where, 0)
    start = time.perf_counter()
    for _ in futures.map(nap, [0.01] * n):
        pass
    return {"rate": n / (time.perf_counter() - start)}


def echo(data):
    """Send a payload back."""
    return data


# ---------------------------------------------------------------------------------------------------------------------
# What starts it
# ---------------------------------------------------------------------------------------------------------------------


def netns(*words):
    """Run the script that makes hosts."""
    subprocess.run([str(NETNS), *words], env=dict(os.environ, NETNS_TAG=TAG, NETNS_NET=NET), stdin=subprocess.DEVNULL,
                   stdout=subprocess.DEVNULL, check=True)


def seconds(command):
    """Return how long a command takes."""
    start = time.perf_counter()
    subprocess.run(command, stdin=subprocess.DEVNULL, check=True, timeout=LIMIT_S)
    return time.perf_counter() - start


def launch(options, part, n):
    """Run a part of this file under the launcher; return its numbers, and `s`: seconds until they were there."""
    command = [sys.executable, str(options.file), *options.words, str(HERE), "--inside", part, str(n)]
    start = time.perf_counter()
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        line = process.stdout.readline()
        numbers = dict(json.loads(line or "{}"), s=time.perf_counter() - start)
        if process.wait(LIMIT_S) or not line:
            sys.exit("failed with status %s: %s" % (process.returncode, " ".join(command)))
    return numbers


def start_round(options):
    """Return one round's numbers of starting and of a map."""
    ssh = ["--launcher", "ssh -F %s/ssh_config {host}" % STATE]

    def run(part, n, *words):
        options.words = words
        return launch(options, part, n)

    found = {"ssh": seconds(["ssh", "-F", "%s/ssh_config" % STATE, "node1", "true"]),
             "first": run("see_hosts", 3, *ssh, "--hosts", *(node + ":1" for node in NODES))["s"],
             "many": run("see_hosts", 64, "--launcher", "env HOST={host} sh -c", "--hosts",
                         *("n%d:1" % i for i in range(64)))["s"],
             "local": run("map_naps", N_MAP, "-n", "6")["rate"],
             "remote": run("map_naps", N_MAP, *ssh, "--hosts", *(node + ":2" for node in NODES))["rate"]}
    return dict(found, share=found["remote"] / found["local"])


def link_round(scoop_lite, backend):
    """Return {payload: (seconds there and back, MB/s both ways together)} of a link to one worker on one host."""
    found = {}
    launcher = "ssh -F %s/ssh_config {host}" % STATE
    with scoop_lite.Executor(hosts=["node1:1"], launcher=launcher, backend=backend) as pool:
        for size in SIZES:
            data = os.urandom(size)
            for _ in range(3):
                pool.submit(echo, data).result()
            trips = []
            for _ in range(max(5, min(N_TRIPS, 40_000_000 // size))):
                start = time.perf_counter()
                if len(pool.submit(echo, data).result()) != size:
                    sys.exit("a payload came back with another length")
                trips.append(time.perf_counter() - start)
            n = max(8, min(1000, 50_000_000 // size))
            start = time.perf_counter()
            for future in [pool.submit(echo, fresh(data, i)) for i in range(n)]:
                future.result()
            found[size] = statistics.median(trips), 2 * n * size / 1e6 / (time.perf_counter() - start)
    return found


def fresh(data, i):
    """Return a payload of its own: what is the same object would travel once for all tasks of a chunk."""
    return data[:-4] + i.to_bytes(4, "big")


def start_table(rounds):
    """Return the report of starting and mapping."""
    lines = ["| | median | lowest | highest | bar | met |", "|---|---|---|---|---|---|"]
    for key, (label, bar) in ROWS.items():
        values = [numbers[key] for numbers in rounds]
        middle = statistics.median(values)
        met = ("%s %g" % bar, "yes" if (middle <= bar[1]) == (bar[0] == "≤") else "**no**") if bar else ("–", "–")
        cells = ["%.4g" % value for value in (middle, min(values), max(values))]
        lines.append("| %s | %s |" % (label, " | ".join([*cells, *met])))
    return "\n".join(lines)


def link_table(rounds):
    """Return the report of the two kinds of links: medians of the rounds."""
    lines = ["| bytes | there and back, ms: pipe | by ØMQ | MB/s: pipe | by ØMQ |", "|---|---|---|---|---|"]
    for size in SIZES:
        cells = ["%.3g" % (factor * statistics.median(one[backend][size][part] for one in rounds))
                 for part, factor in ((0, 1e3), (1, 1)) for backend in ("own", "zmq")]
        lines.append("| %s | %s |" % ("{:,}".format(size), " | ".join(cells)))
    return "\n".join(lines)


def load_module(path):
    """Import the file that is measured under its own name."""
    spec = importlib.util.spec_from_file_location("scoop_lite", path)
    module = sys.modules["scoop_lite"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def options_from(words):
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--inside", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--file", type=pathlib.Path, default=HERE.parents[2] / "scoop_lite.py",
                        help="the scoop_lite.py to measure")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--only", choices=("start", "links"), help="one of the two tables")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write every number")
    return parser.parse_args(words)


def measure(options):
    """Take all rounds; return {table: [numbers of a round, …]}."""
    module = load_module(options.file)
    parts = {"start": functools.partial(start_round, options),
             "links": lambda: {backend: link_round(module, backend) for backend in ("own", "zmq")}}
    found = {name: [] for name in parts if options.only in (None, name)}
    for index in range(options.rounds):
        for name, rounds in found.items():
            rounds.append(parts[name]())
            print("round %d of %d, %s: %s" % (index + 1, options.rounds, name, rounds[-1]), file=sys.stderr)
    return found


def main():
    """Run inside the pool, or bring up hosts, start pools on them and report."""
    options = options_from(sys.argv[1:])
    if options.inside:
        from scoop_lite import futures
        part, n = options.inside
        print(json.dumps(globals()[part](futures, int(n))), flush=True)
        return
    load = os.getloadavg()[0]
    try:
        netns("up", "3")
        for node in NODES:
            python = STATE / node / "bin" / "python3"
            python.write_text('#!/bin/sh\nexec %s "$@"\n' % sys.executable)
            python.chmod(0o755)
        found = measure(options)
    finally:
        netns("down")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))
    print("Python %s, %d CPUs, load before %.1f, medians of %d rounds\n" % (
        platform.python_version(), os.cpu_count(), load, options.rounds))
    tables = {"start": start_table, "links": link_table}
    print("\n\n".join(tables[name](rounds) for name, rounds in found.items()))


if __name__ == "__main__":
    main()
