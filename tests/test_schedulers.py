"""Real batch schedulers of three nodes each, on this machine: Slurm and Grid Engine (``cluster/``). They need root.

PBS and LSF cannot be brought up here: their environments are tables in test_host_lists.py.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
CLUSTER = CHECKOUT / "tests" / "cluster"
LOCK = "/run/scoop-lite-test-cluster.lock"
pytestmark = [pytest.mark.root, pytest.mark.cluster]

#: Prints how many tasks each node ran; the scheduler tells each process the name of its node.
WHERE = """\
import collections, os, socket, time
from scoop_lite import futures

def node(_):
    time.sleep(0.02)
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()

if __name__ == "__main__":
    print("nodes:", *sorted(set(futures.map(node, range(150)))), flush=True)
"""
#: Runs until it is ended.
LONG = """\
import os, time
from scoop_lite import futures

def sleep(_):
    time.sleep(60)

if __name__ == "__main__":
    print("begun", flush=True)
    list(futures.map(sleep, range(100)))
"""
#: Says when it is told that its end comes, as by `sbatch --signal=USR1@60`; then ends as soon as it may.
TOLD = """\
import os, signal, time
from scoop_lite import futures

def sleep(i):
    time.sleep(0.1)
    return i

if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, lambda number, frame: print("told", flush=True))
    print("begun", flush=True)
    done = []
    while not os.path.exists("enough"):
        done += futures.map(sleep, range(20))
    print("right" if done == list(range(20)) * (len(done) // 20) else "wrong", flush=True)
"""


def script(name, *words, check=True, limit_s=60, **how):
    """Run a script of the cluster directory; return what it says."""
    done = subprocess.run([str(CLUSTER / name), *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, timeout=limit_s, text=True, **how)
    assert done.returncode == 0 or not check, done.stdout
    return done.stdout.strip()


@pytest.fixture(scope="module")
def only_one():
    """Keep a second run of these tests waiting: a machine has one such set-up at a time, be it of one or both kinds."""
    with open(LOCK, "w", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def bring_up(*scripts):
    """Bring these set-ups up, one after another; yield; take them down."""
    for name in scripts:
        lacks = script(name, "missing", check=False)
        if lacks:
            pytest.skip(f"{name}: {lacks}")
    try:
        for name in scripts:
            script(name, "up")
        yield
    finally:
        for name in reversed(scripts):
            script(name, "down", check=False)


def settings(name):
    """Return the environment in which a scheduler's commands work, and `python3` is the Python of the tests."""
    words = shlex.split(script(name, "env"))[1:]
    path = f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"
    return dict(os.environ, PATH=path, **dict(word.split("=", 1) for word in words))


@pytest.fixture(scope="module")
def slurm(only_one):
    for _ in bring_up("slurm.sh"):
        yield settings("slurm.sh")


@pytest.fixture(scope="module")
def grid_engine(only_one):
    for _ in bring_up("netns-ssh.sh", "sge.sh"):
        yield settings("sge.sh")


@pytest.fixture
def place(tmp_path):
    """A directory as a user's: the one file, a program, the examples."""
    shutil.copy(CHECKOUT / "scoop_lite.py", tmp_path)
    shutil.copytree(CHECKOUT / "examples", tmp_path / "examples")
    (tmp_path / "where.py").write_text(WHERE)
    (tmp_path / "long.py").write_text(LONG)
    return tmp_path


def run(words, environment, place, limit_s=60):
    """Run a command to its end; return it, with its output."""
    return subprocess.run(words, cwd=place, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, timeout=limit_s, text=True)


def processes_of(place):
    """Return the command lines of the processes that run or serve a program of this directory."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if "python" in words and os.path.realpath(entry / "cwd") == str(place) and int(entry.name) != os.getpid():
                found.append(words[:100])
        except OSError:
            pass  # it has ended meanwhile
    return found


def wait_for(condition, within_s):
    limit = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < limit, f"not within {within_s} s"
        time.sleep(0.05)


def read(path):
    return path.read_text() if path.exists() else ""


# ---------------------------------------------------------------------------------------------------------------------
# Slurm
# ---------------------------------------------------------------------------------------------------------------------


def test_salloc(slurm, place):
    done = run(["salloc", "-N3", "-n6", "python3", "scoop_lite.py", "-v", "where.py"], slurm, place)
    assert (done.returncode, done.stdout) == (0, "nodes: node1 node2 node3\n"), done.stderr
    for node in ("node1", "node2", "node3"):
        assert f"{node}: " in done.stderr


def test_a_part_of_an_allocation(slurm, place):
    words = ["salloc", "-N3", "-n6", "python3", "scoop_lite.py", "--hosts", "node2:2", "--launcher", "srun", "where.py"]
    done = run(words, slurm, place)
    assert (done.returncode, done.stdout) == (0, "nodes: node2\n"), done.stderr


def test_a_failing_node_list_is_named(slurm, place):
    words = ["salloc", "-N1", "-n1", "python3", "scoop_lite.py", "--hosts", "node9", "--launcher", "srun", "where.py"]
    done = run(words, slurm, place)
    assert done.returncode == 1 and "node9 did not join" in done.stderr


def test_sbatch_runs_the_example(slurm, place):
    done = run(["sbatch", "--wait", "-o", "out", "examples/submit/slurm.sh"], slurm, place)
    text = read(place / "out")
    assert done.returncode == 0, text
    assert "1280000 darts: pi is about 3.1" in text and "node3 is there" in text


@pytest.mark.parametrize("export", ["NONE", "LANG"])
def test_what_a_job_exports_is_no_matter_of_our_steps(slurm, place, export):
    words = shlex.join([sys.executable, "scoop_lite.py", "where.py"])
    run(["sbatch", "-N3", "-n6", f"--export={export}", "-o", "out", "--wrap", f"{words}; echo end"], slurm, place)
    wait_for(lambda: "end" in read(place / "out"), 20)
    assert read(place / "out") == "nodes: node1 node2 node3\nend\n"


def test_lines_that_srun_is_to_label_are_not_ours(slurm, place):
    words = ["salloc", "-N3", "-n6", "python3", "scoop_lite.py", "where.py"]
    done = run(words, {**slurm, "SLURM_LABELIO": "1"}, place)
    assert (done.returncode, done.stdout) == (0, "nodes: node1 node2 node3\n"), done.stderr


def test_scancel_leaves_nothing(slurm, place):
    words = ["sbatch", "--parsable", "-N3", "-n6", "-o", "out", "--wrap", "exec python3 scoop_lite.py long.py"]
    job = run(words, slurm, place).stdout.strip()
    wait_for(lambda: "begun" in read(place / "out"), 15)
    assert processes_of(place)
    run(["scancel", job], slurm, place)
    wait_for(lambda: not processes_of(place), 5)


@pytest.mark.parametrize("way", [[], ["--batch"], ["--full"]], ids=["steps", "batch", "full"])
def test_an_announcement_reaches_the_script_and_costs_no_worker(slurm, place, way):
    """Slurm tells each process of the job's steps, or the one that the job's script has become, or all of them."""
    (place / "told.py").write_text(TOLD)
    words = ["sbatch", "--parsable", "-N3", "-n6", "-o", "out", "--wrap", "exec python3 scoop_lite.py -v told.py"]
    job = run(words, slurm, place).stdout.strip()
    wait_for(lambda: "begun" in read(place / "out"), 15)
    done = run(["scancel", "--signal=USR1", *way, job], slurm, place)
    assert done.returncode == 0, done.stderr
    wait_for(lambda: "told" in read(place / "out"), 10)
    time.sleep(1)
    (place / "enough").touch()
    wait_for(lambda: not processes_of(place), 15)
    text = read(place / "out")
    assert "right" in text and " 0 deaths" in text, text


def test_who_starts_several_launchers_by_srun_hears_of_it_once(slurm, place):
    (place / "rank.py").write_text("print('script')\n")
    done = run(["salloc", "-N2", "-n4", "srun", "python3", "scoop_lite.py", "--hosts", "localhost:1", "rank.py"],
               slurm, place)
    assert (done.returncode, done.stdout) == (0, "script\n" * 4)
    assert done.stderr.count("scoop_lite: srun has started 4 of us, and each runs the whole script") == 1, done.stderr
    done = run(["salloc", "-N2", "-n4", "srun", "-n1", "python3", "scoop_lite.py", "--hosts", "localhost:1", "rank.py"],
               slurm, place)
    assert (done.returncode, done.stdout) == (0, "script\n") and "scoop_lite:" not in done.stderr, done.stderr


def test_exit_status(slurm, place):
    (place / "seven.py").write_text("import sys\nsys.exit(7)\n")
    done = run(["salloc", "-N2", "-n2", "python3", "scoop_lite.py", "seven.py"], slurm, place)
    assert done.returncode == 7


# ---------------------------------------------------------------------------------------------------------------------
# Grid Engine
# ---------------------------------------------------------------------------------------------------------------------


def qsub(grid_engine, place, *words):
    """Submit from node1; return what qsub says."""
    return run([str(CLUSTER / "netns-ssh.sh"), "exec", "node1", "qsub", "-V", "-j", "y", "-o", "out", *words],
               grid_engine, place)


def test_qsub_runs_the_example(grid_engine, place):
    done = qsub(grid_engine, place, "-sync", "y", "examples/submit/sge.sh")
    text = read(place / "out")
    assert done.returncode == 0, text + done.stdout + done.stderr
    assert "1280000 darts: pi is about 3.1" in text
    assert sum(f"node{i} is there" in text for i in (1, 2, 3)) == 2  # the third is where the job's script runs


def test_qdel_leaves_nothing(grid_engine, place):
    (place / "job.sh").write_text("#$ -pe mpi 6\n#$ -cwd\n#$ -S /bin/sh\nexec python3 scoop_lite.py long.py\n")
    done = qsub(grid_engine, place, "-terse", "job.sh")
    wait_for(lambda: "begun" in read(place / "out"), 20)
    assert processes_of(place)
    run([str(CLUSTER / "netns-ssh.sh"), "exec", "node1", "qdel", done.stdout.strip()], grid_engine, place)
    wait_for(lambda: not processes_of(place), 5)
