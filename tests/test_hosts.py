"""Running on other hosts: stand-ins behind a command that joins two pipes, then (as root) real ones behind sshd.

What holds when hosts fail is in test_faults_hosts.py; what users and schedulers write is in test_host_lists.py.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import scoop_lite

pytestmark = pytest.mark.cluster

CHECKOUT = Path(__file__).resolve().parents[1]
NETNS = CHECKOUT / "tests" / "cluster" / "netns-ssh.sh"
STATE = Path("/run/netns-ssh/hosts")

#: Stands for ssh: runs the remote command in a shell, in another directory; tells the host's name in HOST.
FAKE = """\
#!/bin/sh
echo "$@" >>{record}
while [ "$1" != -- ]; do shift; done
export HOST="$2"
shift 2
cd /
exec /bin/sh -c "$*"
"""
WHERE = """\
import os, socket, sys, time
from scoop_lite import futures

def where(_):
    time.sleep(0.02)
    return os.environ.get("HOST", socket.gethostname()), os.getpid()

if __name__ == "__main__":
    seen = set(futures.map(where, range(200)))
    hosts = [host for host, _ in seen]
    print(*(f"{host}:{hosts.count(host)}" for host in sorted(set(hosts))), "origin", where(0)[0], flush=True)
"""


class Place:
    """A user's directory with programs in it, and what it takes to run them."""

    def __init__(self, path, file):
        self.path, self.file = path, file
        self.record = path / "record"
        programs = [str(path / "bin"), os.path.dirname(sys.executable), os.environ["PATH"]]
        self.environment = {**os.environ, "PATH": os.pathsep.join(programs), "PYTHONUNBUFFERED": ""}  # cuts lines
        self.write("where.py", WHERE)
        self.write("bin/ssh", FAKE.format(record=self.record)).chmod(0o755)

    def write(self, name, text):
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def start(self, *words, **how):
        how = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE,
               "start_new_session": True, **how}
        return subprocess.Popen([sys.executable, self.file, *map(str, words)], cwd=self.path, env=self.environment,
                                text=True, **how)

    def run(self, *words, limit_s=40, **how):
        """Run the launcher to its end; return the process, with its output."""
        process = self.start(*words, **how)
        try:
            process.out, process.err = process.communicate(timeout=limit_s)
        finally:
            process.kill()
        return process

    def right(self, *words, **how):
        """Run the launcher; return what it printed on standard output."""
        done = self.run(*words, **how)
        assert done.returncode == 0, done.err
        return done.out


@pytest.fixture
def place(tmp_path, request):
    return Place(tmp_path, request.config.getoption("--file"))


# ---------------------------------------------------------------------------------------------------------------------
# The plan, and the command line
# ---------------------------------------------------------------------------------------------------------------------


def test_workers_are_spread_as_the_plan_says(place):
    assert place.right("--hosts", "a:2", "b", "-n", "3", "where.py") == "a:2 b:1 origin a\n"
    assert place.right("--host", "b", "a", "a", "where.py") == "a:2 b:1 origin b\n"
    place.write("hosts", "# two\nb 1\na slots=2\n")
    assert place.right("--hostfile", "hosts", "where.py") == "a:2 b:1 origin b\n"


def test_a_host_without_count_gets_the_cpus_it_offers(place):
    cpus = len(os.sched_getaffinity(0))
    assert place.right("--hosts", "a", "where.py") == f"a:{cpus} origin a\n"


def test_this_host_may_be_one_of_them(place):
    out = place.right("--hosts", "localhost:1", "a:1", "where.py")
    assert out == f"{' '.join(sorted(['a:1', os.uname().nodename + ':1']))} origin {os.uname().nodename}\n"


def test_dry_run_starts_nothing(place):
    options = ["--dry-run", "--hosts", "a:2", "user@b", "--ssh-executable", "ssh -p 2222 -J 'the gate'"]
    done = place.run(*options, "where.py")
    assert done.returncode == 0 and not place.record.exists()
    assert "a: 2 workers, the origin among them" in done.err and "user@b: " in done.err
    commands = done.out.splitlines()
    begin = ("ssh -p 2222 -J 'the gate' -T -x -a -o BatchMode=yes -o ConnectTimeout=8 -o ControlMaster=no "
             "-o ClearAllForwardings=yes -- ")  # fmt: skip
    assert [command.startswith(begin + host) for command, host in zip(commands, ("a ", "user@b "))] == [True, True]
    for timeout, connect in (("60", "58"), ("1.5", "1")):  # so that ssh speaks first
        out = place.right("--dry-run", "--hosts", "a:2", "--join-timeout", timeout, "where.py")
        assert f" -o ConnectTimeout={connect} " in out


@pytest.mark.parametrize("there, words, begin", [
    (True, (), "srun "), (True, ("--ssh-executable", "ssh -p 2222"), "ssh -p 2222 "), (False, (), "ssh "),
])  # fmt: skip
def test_in_a_job_of_slurm_srun_reaches_hosts_if_it_is_there_and_no_ssh_is_named(place, there, words, begin):
    if there:
        place.write("bin/srun", "#!/bin/sh\n").chmod(0o755)
    place.environment["PATH"] = str(place.path / "bin")
    place.environment.update(SLURM_JOB_NODELIST="node[1-2]", SLURM_NTASKS="2", SLURM_TASKS_PER_NODE="1(x2)")
    commands = place.right("--dry-run", *words, "where.py").splitlines()
    assert len(commands) == 2 and all(command.startswith(begin) for command in commands)


def test_what_a_job_sets_for_steps_of_its_own_is_no_matter_of_ours(place):
    place.write("bin/srun", "#!/bin/sh\nenv >record; exit 1\n").chmod(0o755)
    mine = dict.fromkeys(("SRUN_CPUS_PER_TASK", "SLURM_EXACT", "SLURM_EXCLUSIVE", "SLURM_THREADS_PER_CORE"), "2")
    place.environment.update(SLURM_JOB_NODELIST="node1", SLURM_NTASKS="1", SLURM_TASKS_PER_NODE="1", **mine)
    assert place.run("where.py").returncode == 1
    given = dict(line.split("=", 1) for line in place.record.read_text().splitlines() if "=" in line)
    assert "SLURM_JOB_NODELIST" in given and not mine.keys() & given.keys()


def test_in_a_heterogeneous_job_of_slurm_the_user_hears_whose_hosts_are_used(place):
    place.environment.update(SLURM_JOB_NODELIST="node1", SLURM_NTASKS="1", SLURM_TASKS_PER_NODE="1", SLURM_HET_SIZE="2")
    told = "of the job's 2 components only the first one's hosts are used; ask for one, or name all"
    assert told in place.run("--dry-run", "where.py").err
    for words in (["-q"], ["--hosts", "node1:1", "node2:1"]):
        assert told not in place.run("--dry-run", *words, "where.py").err


def slurm_job(tasks, cpus):
    return {"SLURM_JOB_NODELIST": "node1", "SLURM_NTASKS": tasks, "SLURM_TASKS_PER_NODE": tasks,
            "SLURM_JOB_CPUS_PER_NODE": cpus}  # fmt: skip


@pytest.mark.parametrize("environment, told", [
    (slurm_job("1", "16"), "1 worker on 16 CPUs, as 1 task was asked for; -n 16 starts one per CPU"),
    (slurm_job("1", "1"), ""),
    (slurm_job("4", "16"), ""),  # it may well mean that each worker has four
    ({"FLUX_URI": "local:///run/flux/local"}, "FLUX_URI is of a scheduler that is not asked for its hosts: workers"),
])  # fmt: skip
def test_who_does_not_get_all_that_a_job_seems_to_grant_hears_of_it(place, environment, told):
    place.environment.update(environment)
    err = place.run("--dry-run", "where.py").err
    assert told in err and err.count("\n") == 1 + bool(told), err
    for words in (["-q"], ["-n", "2"], ["--hosts", "node1:1"]):
        assert place.run("--dry-run", *words, "where.py").err.count("\n") == 1


def test_a_scheduler_may_write_this_hosts_name_in_another_way(place):
    name = os.uname().nodename.partition(".")[0]
    place.write("nodes", f"{name.upper()}\n{name}.some.cluster\nnode1.some.cluster\n")
    place.environment["PBS_NODEFILE"] = "nodes"
    done = place.run("--dry-run", "where.py")
    assert "localhost: 2 workers" in done.err and "node1.some.cluster: 1 worker" in done.err, done.err
    done = place.run("--dry-run", "--hosts", f"{name}.some.cluster:1", "where.py")
    assert f"{name}.some.cluster: 1 worker" in done.err  # whoever writes it himself may mean another


HERE = os.uname().nodename
ONE_SLOT, FOUR = {"PE_HOSTFILE": "one"}, {"PE_HOSTFILE": "four"}
CHUNK = {"PBS_NODEFILE": "names", "NCPUS": "16", "OMP_NUM_THREADS": "16"}  # select=1:ncpus=16:mpiprocs=2


@pytest.mark.parametrize("environment, words, threads", [
    (ONE_SLOT, [], 1), (ONE_SLOT, ["--threads-per-worker", "5"], 5), ({**ONE_SLOT, "OMP_NUM_THREADS": "6"}, [], 6),
    (FOUR, [], 1), (FOUR, ["-n", "2"], 2), ({"LSB_MCPU_HOSTS": f"{HERE} 6"}, ["-n", "2"], 3), (CHUNK, [], 8),
    ({**CHUNK, "NCPUS": "2"}, [], 16), ({**CHUNK, "NCPUS": "2", "OMP_NUM_THREADS": "2"}, [], 1),
    ({"PBS_NODEFILE": "names"}, [], 1), ({}, ["-n", "2"], 8),
])  # fmt: skip
def test_workers_have_no_more_threads_than_the_slots_that_were_granted(place, environment, words, threads):
    """On a machine of sixteen CPUs, as far as this program knows."""
    place.write("names", f"{HERE}\n" * 2)
    place.write("one", f"{HERE} 1 all.q@{HERE} UNDEFINED\n")
    place.write("four", f"{HERE} 4 all.q@{HERE} UNDEFINED\n")
    source = Path(place.file).read_text()
    source = source.replace("    return max(1, min([n, *map", "    return 16\n    max(1, min([n, *map")
    place.file = str(place.write("scoop_lite.py", source))
    for name in scoop_lite.THREAD_VARIABLES:
        place.environment.pop(name, None)
    place.environment.update(environment)
    assert place.right(*words, "-c", "import os; print(os.environ['OMP_NUM_THREADS'])") == f"{threads}\n"


def test_verbose_shows_the_plan_and_marks_what_workers_print(place):
    place.write("shout.py", 'import sys, time\nfrom scoop_lite import futures\ndef f(i):\n    time.sleep(0.05)\n'
                            '    print("out", flush=True)\n    print("err", file=sys.stderr, flush=True)\n'
                            'if __name__ == "__main__":\n    list(futures.map(f, range(40)))\n')
    done = place.run("-v", "--hosts", "a:1", "b:1", "shout.py")
    assert "b: 1 worker\n" in done.err and "b is there: Python 3." in done.err
    assert set(done.out.splitlines()) == {"out", "[b 1] out"}
    assert {"err", "[b 1] err"} <= set(done.err.splitlines())


@pytest.mark.parametrize("words, part", [
    (["--hosts", "a", "--hostfile", "x"], "not both"),
    (["--hostfile", "no-such-file"], "no-such-file"),
    (["--hosts", "-oProxyCommand=x"], "--hosts"),
    (["--hosts", "a", "--launcher", "qrsh -inherit"], "place for the host"),
    (["--hosts", "a", "--ssh-executable", "ssh 'x"], "--ssh-executable"),
    (["--hosts", "a", "--rsh", "--ssh-executable", "ssh -p 22"], "--launcher rsh does not use ssh"),
    (["--hosts", "a", "--rsh", "--launcher", "ssh"], "--rsh or --launcher, not both"),
    (["--external-hostname", "no.such.name.invalid"], "--external-hostname"),
    (["-i", "--hosts", "a"], "--hosts localhost a"),
], ids=str)  # fmt: skip
def test_a_mistake_is_one_clear_sentence(place, words, part):
    done = place.run(*words, "-n", "2", "where.py")
    assert done.returncode == 2 and part in done.err and "Traceback" not in done.err
    assert not place.record.exists()


PEERS = """\
import os
from scoop_lite import futures

def peers(_):
    names = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
    links = [os.readlink(name) for name in names if os.path.exists(name)]
    with open("/proc/net/tcp") as table:
        rows = [line.split() for line in list(table)[1:]]
    return [row[2].split(":")[0] for row in rows if f"socket:[{row[9]}]" in links]

if __name__ == "__main__":
    print(sorted({peer for found in futures.run_on_all(peers, 0).values() for peer in found}))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/net/tcp")
def test_zmq_connects_to_the_address_that_the_hosts_see(place):
    pytest.importorskip("zmq", reason="pyzmq is not installed")
    seen = 'export HOST="$2" SSH_CONNECTION="127.0.0.7 1 127.0.0.7 22"'
    fake = FAKE.format(record=place.record).replace('export HOST="$2"', seen)
    place.write("bin/ssh", fake).chmod(0o755)
    place.write("peers.py", PEERS)
    done = place.run("--backend", "zmq", "--hosts", "a:2", "peers.py")
    assert (done.returncode, done.out) == (0, "['0700007F']\n"), done.err


def test_rsh(place):
    place.write("bin/rsh", '#!/bin/sh\nexport HOST=by-rsh\nshift\nexec /bin/sh -c "$*"\n').chmod(0o755)
    assert place.right("--rsh", "--hosts", "a:1", "where.py") == "by-rsh:1 origin by-rsh\n"


def test_options_of_workers_hold_remotely(place):
    place.write("prolog.sh", "echo printed by the prolog\nexport HOST=$HOST-after-prolog\n")
    wrapper = place.write("python", f'#!/bin/sh\nexport HOST=$HOST-other\nexec {sys.executable} "$@"\n')
    wrapper.chmod(0o755)
    options = ["--hosts", "a:2", "--prolog", "prolog.sh", "--python-interpreter", wrapper, "--nice", "3"]
    out = place.right(*options, "where.py")
    assert out == "a-after-prolog-other:2 origin a-after-prolog-other\n"


# ---------------------------------------------------------------------------------------------------------------------
# The origin on another host
# ---------------------------------------------------------------------------------------------------------------------


def test_streams_and_status_of_a_far_origin(place):
    place.write("end.py", "import sys\nprint(repr(sys.stdin.read()), end='')\n"
                          "print('err', file=sys.stderr)\nsys.exit(7)\n")
    done = place.run("--hosts", "a:2", "end.py")
    assert (done.returncode, done.out, done.err) == (7, "''", "err\n")


@pytest.mark.parametrize("source", ["pipe", "file", "empty pipe", "closed"])
def test_what_is_piped_in_for_a_far_origin_is_said_to_be_unread(place, source):
    place.write("text", "data")
    before = {"pipe": "echo data |", "file": "<text", "empty pipe": "true |", "closed": "<&-"}[source]
    words = [sys.executable, place.file, "--hosts", "a:1", "where.py"]
    done = subprocess.run(["sh", "-c", before + ' "$@"', "sh", *words], cwd=place.path, env=place.environment,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=40)
    assert done.returncode == 0 and ("nobody read standard input" in done.stderr) == (source in ("pipe", "file"))
    assert done.stderr.count("\n") == (source in ("pipe", "file"))


def test_a_program_from_standard_input_travels(place):
    with (place.path / "where.py").open() as file:
        assert place.right("--hosts", "a:2", "b", "-n", "3", "-", stdin=file) == "a:2 b:1 origin a\n"


def test_profiles_of_a_far_origin(place):
    """Each host writes those of its workers, into a directory that it may not have yet."""
    place.write("gone.py", "import shutil; shutil.rmtree('profiles', ignore_errors=True)\n" + WHERE)
    place.right("--profile", "profiles", "--hosts", "a:2", "gone.py")
    assert sorted(os.listdir(place.path / "profiles")) == ["worker-0.prof", "worker-1.prof"]


def test_an_interrupt_reaches_a_far_origin(place):
    place.write("wait.py", "import time\ntry:\n    print('waiting', flush=True)\n    time.sleep(60)\n"
                           "finally:\n    print('cleaned up', flush=True)\n")
    process = place.start("--hosts", "a:2", "wait.py")
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=10)
    assert (process.returncode, out) == (130, "cleaned up\n")
    assert "KeyboardInterrupt" in err


def test_an_announcement_reaches_a_far_origin(place):
    place.write("wait.py", "import signal, time\nsignal.signal(signal.SIGUSR1, lambda *_: print('told', flush=True))\n"
                           "print('waiting', flush=True)\ntime.sleep(2)\nprint('done')\n")
    process = place.start("--hosts", "a:1", "b:2", "wait.py")
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(signal.SIGUSR1)
    out, err = process.communicate(timeout=10)
    assert (process.returncode, out, err) == (0, "told\ndone\n", "")


def state(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.parametrize("backend", ["own", "zmq"])
def test_a_job_goes_on_after_it_was_suspended_for_long(place, backend):
    """Ctrl-Z stops launcher and origin (where it is local); the other hosts wait, beyond --dead-after, and work on."""
    if backend == "zmq":
        pytest.importorskip("zmq", reason="pyzmq is not installed")
    place.write("long.py", "import os, time\nfrom scoop_lite import futures\n"
                           "def f(i):\n    time.sleep(0.1)\n    return os.getpid()\n"
                           "if __name__ == '__main__':\n    print('begun', flush=True)\n"
                           "    print(len(set(futures.map(f, range(60)))))\n")
    process = place.start("--heartbeat", "0.2", "--dead-after", "1", "--backend", backend, "--hosts",
                          "localhost:1", "a:1", "b:1", "long.py", start_new_session=False, preexec_fn=os.setpgrp)
    assert process.stdout.readline() == "begun\n"
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGTSTP)
    time.sleep(4)
    assert state(process.pid) == "T"
    os.killpg(process.pid, signal.SIGCONT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, "3\n", "")


def test_a_launcher_that_was_stopped_untold_says_whom_it_has_lost(place):
    place.write("long.py", "import time\nfrom scoop_lite import futures\n"
                           "if __name__ == '__main__':\n    print('begun', flush=True)\n"
                           "    print(len(list(futures.map(time.sleep, [0.1] * 60))))\n")
    process = place.start("--heartbeat", "0.2", "--dead-after", "1", "--hosts", "localhost:1", "a:1", "long.py")
    assert process.stdout.readline() == "begun\n"
    time.sleep(0.5)
    process.send_signal(signal.SIGSTOP)
    time.sleep(3)
    process.send_signal(signal.SIGCONT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, "60\n")
    assert err.count("host a is lost: ") == 1, err


def test_a_stopped_launcher_that_is_killed_leaves_nobody(place):
    place.write("long.py", "import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(60)\n")
    process = place.start("--heartbeat", "0.2", "--dead-after", "1", "--hosts", "a:1", "long.py",
                          start_new_session=False, preexec_fn=os.setpgrp)
    origin = int(process.stdout.readline())
    os.killpg(process.pid, signal.SIGTSTP)
    time.sleep(3)
    assert os.path.exists(f"/proc/{origin}")
    process.kill()
    process.communicate(timeout=5)
    limit = time.monotonic() + 5
    while os.path.exists(f"/proc/{origin}"):
        assert time.monotonic() < limit
        time.sleep(0.05)


#: Changes one byte value on its way through.
SPOIL = """python3 -c 'import os
while 1:
    data = os.read(0, 9999)
    data or os._exit(0)
    os.write(1, data.replace(bytes([128]), b"?"))'"""


@pytest.mark.parametrize("pipe", ['/bin/sh -c "$*" | {}', '{} | /bin/sh -c "$*"'], ids=["up", "down"])
def test_a_starter_that_changes_bytes_is_found_out(place, pipe):
    place.write("bin/spoil", f"#!/bin/sh\nshift\n{pipe.format(SPOIL)}\n").chmod(0o755)
    done = place.run("--launcher", "spoil {host}", "--hosts", "a", "where.py")
    assert done.returncode == 1 and "host a did not join" in done.err and "not 8-bit clean" in done.err, done.err


def test_a_command_that_hands_one_word_to_a_shell(place):
    out = place.right("--launcher", "env HOST={host} sh -c", "--hosts", "a:1", "b:1", "where.py")
    assert out == "a:1 b:1 origin a\n"


def test_a_host_that_lacks_what_an_option_asks_for_ends_the_run_with_one_sentence(place):
    """It had been asked for a hundred workers, one after another, with a traceback each."""
    pytest.importorskip("greenlet")
    bare = place.write("bare", f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    bare.chmod(0o755)
    done = place.run("--hosts", "a:1", "b:2", "--strands", "greenlet", "--python-interpreter", bare, "where.py")
    assert done.returncode == 1 and re.search("^scoop_lite: worker [0-2] on [ab]: it cannot begin: --strands", done.err)
    assert "Traceback" not in done.err and "starting another" not in done.err, done.err


def test_the_user_hears_where_tasks_run_on_hosts_without_his_directory(place):
    """What they write there, he would look for in vain."""
    gone = place.path / "gone"
    gone.mkdir()
    place.write("bin/ssh", FAKE.format(record=place.record).replace("cd /", f"rmdir {gone} 2>/dev/null; cd /usr"))
    done = place.run("--path", gone, "--hosts", "a:1", "b:1", place.path / "where.py")
    assert (done.returncode, done.out) == (0, "a:1 b:1 origin a\n"), done.err
    assert done.err == f"scoop_lite: no {gone} on a and 1 other host: tasks run in /usr there\n"
    assert place.run("--hosts", "a:1", "where.py").err == ""
    gone.mkdir()
    elsewhere = f"rmdir {gone} 2>/dev/null; if [ $HOST = c ]; then cd /usr/bin; else cd /usr; fi"
    place.write("bin/ssh", FAKE.format(record=place.record).replace("cd /", elsewhere))
    done = place.run("--path", gone, "--hosts", "a:1", "b:1", "c:1", place.path / "where.py")
    assert done.err == (f"scoop_lite: no {gone} on a and 1 other host: tasks run in /usr there\n"
                        f"scoop_lite: no {gone} on c: tasks run in /usr/bin there\n")  # fmt: skip


@pytest.mark.root
@pytest.mark.skipif(not shutil.which("setpriv"), reason="setpriv is not installed")
def test_a_directory_that_a_host_cannot_enter_but_starts_us_in_is_no_other(place):
    """As srun does, before it becomes the user, who may enter less than root: on a shared disk, or at all."""
    closed = place.path / "closed"
    closed.mkdir(0o700)
    fake = FAKE.format(record=place.record).replace("cd /", f"cd {closed}")
    place.write("bin/ssh", fake.replace("exec /bin", "exec setpriv --reuid=65534 --clear-groups /bin"))
    done = place.run("--path", closed, "--hosts", "a:1", place.path / "where.py")
    assert (done.returncode, done.out, done.err) == (0, "a:1 origin a\n", "")


def test_variables_that_env_names_reach_other_hosts(place):
    value = "it's $HOME; \udcff\n é"
    place.environment.update(GIVEN=value, OTHER="x", KEPT="not given", OMP_NUM_THREADS="7")
    place.write("bin/ssh", FAKE.format(record=place.record).replace(
        "cd /", "export OMP_NUM_THREADS=3; GIVEN=old; unset KEPT; cd /"))
    place.write("given.py", """\
import os, time
from scoop_lite import futures

def given(_):
    time.sleep(0.02)
    return (os.environ.get("HOST"), *map(os.environ.get, ("GIVEN", "OTHER", "KEPT", "OMP_NUM_THREADS")))

if __name__ == "__main__":
    print(sorted(set(futures.map(given, range(100)))))
""")
    out = place.right("--hosts", "a:1", "b:1", "--env", "GIVEN,OTHER", "given.py")
    assert out == f"{[(host, value, 'x', None, '3') for host in 'ab']}\n"
    out = place.right("--hosts", "a:1", "--env", "OMP_NUM_THREADS", "given.py")
    assert out == "[('a', 'old', 'x', None, '7')]\n"  # OTHER came with the shell: it is this machine
    assert value not in place.record.read_text()
    out = place.right("--hosts", "a:1", "--env", "GIVEN", "--env", "OMP_NUM_THREADS", "given.py")
    assert out == f"{[('a', value, 'x', None, '7')]}\n"
    done = place.run("--hosts", "a:1", "--env", "GIVEN,ABSENT", "given.py")
    assert done.returncode == 2 and "--env ABSENT: it is not set here" in done.err


HASHES = """\
import os, time
from scoop_lite import futures

def about(_):
    time.sleep(0.02)
    return hash("a text"), os.environ.get("PYTHONHASHSEED"), os.environ.get("HOST")

if __name__ == "__main__":
    hashes, seeds, hosts = map(set, zip(*futures.map(about, range(200))))
    print(len(hashes), *seeds, *hashes, hosts >= {"a", "b", None})
"""


@pytest.mark.parametrize("seed", ["", "random", "5"])
def test_a_text_has_one_hash_on_all_hosts(place, seed):
    """Programs that divide work by it would be right on one host, and wrong on two."""
    place.environment["PYTHONHASHSEED"] = seed
    place.write("hashes.py", HASHES)
    n, *seeds, value, there = place.right("--hosts", "localhost:1", "a:1", "b:1", "hashes.py").split()
    assert (n, seeds, there) == ("1", [seed] * bool(seed), "True")
    plain = [sys.executable, "-c", "print(hash('a text'))"]
    assert (value == subprocess.check_output(plain, env=place.environment, text=True).strip()) is (seed == "5")


def test_hashes_are_others_in_each_run_and_their_seed_is_not_left_to_programs(place):
    place.environment.pop("PYTHONHASHSEED", None)
    place.write("hashes.py", HASHES)
    runs = {place.right("--hosts", "localhost:1", "a:1", "b:1", "hashes.py") for _ in range(2)}
    assert len(runs) == 2 and all(run.startswith("1 None ") for run in runs)


SUBMITTED = {
    "pbs.sh": {"PBS_NODEFILE": "nodes", "PBS_O_WORKDIR": ".", "PBS_JOBID": "17.server", "PBS_ENVIRONMENT": "PBS_BATCH"},
    "lsf.sh": {"LSB_MCPU_HOSTS": "a 2 b 2 c 2 ", "LSB_JOBID": "17", "LSB_HOSTS": "a a b b c c"},
    "oar.sh": {"OAR_NODEFILE": "nodes", "OAR_JOB_ID": "17"},
}


@pytest.mark.parametrize("script", sorted(SUBMITTED))
def test_submit_scripts_of_schedulers_that_cannot_be_here(place, script):
    """In an environment as their documentation describes it, with a stand-in for what starts processes elsewhere."""
    shutil.copy(place.file, str(place.path / "scoop_lite.py"))
    shutil.copytree(str(CHECKOUT / "examples"), str(place.path / "examples"))
    for starter in ("blaunch", "oarsh"):
        command = f'[ $STARTER = {starter} ] || exit\nexport HOST="$1"\nshift\ncd /\nexec /bin/sh -c "$*"\n'
        place.write(f"bin/{starter}", "#!/bin/sh\n" + command).chmod(0o755)
    place.write("nodes", "a\na\nb\nb\nc\nc\n")
    starter = {"pbs.sh": "ssh", "lsf.sh": "blaunch", "oar.sh": "oarsh"}[script]
    env = {**place.environment, **SUBMITTED[script], "STARTER": starter}
    with open(place.path / "examples" / "submit" / script, "rb") as file:
        done = subprocess.run(["/bin/sh"], cwd=place.path, env=env, stdin=file, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, timeout=60, text=True)
    assert (done.returncode, done.stdout[:30]) == (0, "1280000 darts: pi is about 3.1"), done.stderr
    for host in "abc":
        assert f"{host}: 2 workers" in done.stderr and f"{host} is there: " in done.stderr


@pytest.mark.parametrize("options, status, out", [
    (["--hosts", "dies:1", "late:1"], 1, ""),
    (["--hosts", "late:1", "dies:1"], 1, ""),
    (["--min-hosts", "1", "--hosts", "dies:1", "late:1"], 0, "late:1 origin late\n"),
    (["--min-hosts", "2", "--hosts", "dies:1", "late:1"], 1, ""),
], ids=str)  # fmt: skip
def test_a_host_that_dies_while_others_join_has_not_joined(place, options, status, out):
    late = f'if [ "$2" = late ]; then while [ ! -e {place.path}/gone ]; do sleep 0.05; done; fi\n'
    fake = FAKE.format(record=place.record).replace("export HOST", f"{late}echo $$ >{place.path}/$2\nexport HOST")
    place.write("bin/ssh", fake).chmod(0o755)
    process = place.start("-v", *options, "where.py")
    for line in process.stderr:
        if "dies is there" in line:
            break
    os.kill(int((place.path / "dies").read_text()), signal.SIGKILL)  # all commands become the agent in the end
    for line in process.stderr:
        if "host dies" in line:
            break
    place.write("gone", "")
    try:
        printed, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert (process.returncode, printed) == (status, out), line + err
    assert "did not join: it answered, then the connection ended; ssh ended with status -9" in line


def test_many_hosts_that_fall_silent_at_once_do_not_cost_the_others(place):
    """For each, the launcher once waited a little, so that it was silent itself, for longer than the others bear."""
    n = 12
    place.write("silent.py", f"""\
import os, signal, sys, time
from scoop_lite import futures
import glob

def stop(place, i):
    open(os.path.join(place, f"there-{{os.environ['HOST']}}"), "w").close()
    while len(glob.glob(os.path.join(place, "there-*"))) < {n + 1}:
        time.sleep(0.01)
    if os.environ["HOST"] != "alive":
        os.kill(os.getppid(), signal.SIGSTOP)
        time.sleep(60)
    return i

if __name__ == "__main__":
    print(sum(futures.map(stop, [sys.argv[1]] * {n + 1}, range({n + 1}))))
""")
    options = ["--heartbeat", "0.3", "--dead-after", "1.5", "--hosts", "alive:2", *(f"n{i}:1" for i in range(n))]
    done = place.run(*options, "silent.py", place.path)
    assert (done.returncode, done.out) == (0, f"{sum(range(n + 1))}\n"), done.err
    assert done.err.count("is lost: nothing was heard for 1.5 s") == n and "host alive" not in done.err, done.err


def test_hosts_that_are_silent_at_the_end_are_not_waited_for_one_after_another(place):
    n = 8
    place.write("silent.py", f"""\
import os, subprocess, time
from scoop_lite import futures

def stop_soon(_):
    if os.environ["HOST"] != "alive":
        wait = 'while [ ! -e "$GO" ]; do sleep 0.05; done; kill -STOP ' + str(os.getppid())
        subprocess.Popen(["sh", "-c", wait], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                         stderr=subprocess.DEVNULL)
    return os.getppid()

if __name__ == "__main__":
    agents = futures.run_on_all(stop_soon, 0).values()
    open(os.environ["GO"], "w").close()
    state = lambda pid: open(f"/proc/{{pid}}/stat").read().rpartition(")")[2].split()[0]
    while sum(state(pid) == "T" for pid in agents) < {n}:
        time.sleep(0.01)
    print("end", flush=True)
""")
    place.environment["GO"] = str(place.path / "go")
    options = ["--heartbeat", "0.3", "--dead-after", "1.5", "--hosts", "alive:1", *(f"n{i}:1" for i in range(n))]
    process = place.start(*options, "--", "silent.py")
    try:
        assert process.stdout.readline() == "end\n"
        begin = time.monotonic()
        process.communicate(timeout=40)
    finally:
        process.kill()
    assert process.returncode == 0 and time.monotonic() - begin < n  # it was two seconds for each


def test_what_start_up_files_leave_running_holds_nobody_up_at_the_end(place):
    fake = FAKE.format(record=place.record).replace("cd /", "cd /; sleep 12 &")  # it has the link, which does not end
    place.write("bin/ssh", fake)
    process = place.start("--hosts", "localhost:1", "a:1", "b:1", "where.py")
    try:
        assert process.stdout.readline().startswith("a:1 b:1 ")
        begin = time.monotonic()
        assert process.wait(30) == 0 and time.monotonic() - begin < 3
    finally:
        process.kill()


def test_a_host_that_says_nothing(place):
    place.write("bin/mute", "#!/bin/sh\nexec sleep 60\n").chmod(0o755)
    begin = time.monotonic()
    done = place.run("--launcher", "mute {host}", "--hosts", "a", "where.py")
    assert time.monotonic() - begin < 20
    assert done.returncode == 1 and "mute a" in done.err
    assert "host a did not join: no answer within 10 s (--join-timeout); " in done.err
    assert "does a start-up file over there, such as .bashrc, wait" in done.err


def test_a_slow_host_is_given_the_time_that_the_user_says(place):
    place.write("bin/ssh", FAKE.format(record=place.record).replace("cd /", "cd /; sleep 3"))
    done = place.run("--hosts", "a:1", "b:1", "--join-timeout", "1", "where.py")
    assert done.returncode == 1 and "host b did not join: no answer within 1 s (--join-timeout)" in done.err
    assert place.right("--hosts", "a:1", "b:1", "--join-timeout", "20", "where.py").startswith("a:1 b:1")


def test_a_host_whose_start_up_files_end_the_shell(place):
    place.write("bin/ssh", "#!/bin/sh\nexit 0\n")
    done = place.run("--hosts", "a:1", "where.py")
    assert done.returncode == 1 and "did not join: the connection ended; ssh ended with status 0; does a" in done.err
    assert "such as .bashrc, end the shell" in done.err


#: Carries 40 kB/s, and after that many bytes nothing any more.
SLOW_WAY = """\
import os, sys, time
left = int(sys.argv[1])
while left > 0:
    data = os.read(0, min(left, 8000))
    if not data:
        sys.exit()
    time.sleep(0.2)
    left -= os.write(1, data)
time.sleep(60)
"""


def over_slow_way(place, most):
    slow = f"{sys.executable} {place.write('slow.py', SLOW_WAY)} {most} | exec /bin/sh -c"
    place.write("bin/ssh", FAKE.format(record=place.record).replace("exec /bin/sh -c", slow))


def test_a_host_behind_a_slow_way_joins_as_long_as_bytes_arrive_there(place):
    over_slow_way(place, 10**9)
    begin = time.monotonic()
    assert place.right("--hosts", "localhost:1", "a:1", "--join-timeout", "2.5", "where.py").startswith("a:1 ")
    assert time.monotonic() - begin > 4  # the whole source would have taken 13 s


def test_a_host_whose_ssh_reads_nothing_of_ours_says_so(place):
    """As with `StdinNull yes` in the configuration of ssh."""
    fake = FAKE.format(record=place.record).replace('"$*"', '"$*" </dev/null')
    place.write("bin/ssh", fake).chmod(0o755)
    done = place.run("--hosts", "a:1", "where.py")
    assert done.returncode == 1 and "it said: standard input has ended; does ssh have -n, or StdinNull?" in done.err


def test_an_origin_without_the_script_says_so_in_a_sentence(place):
    """With --no-ship; here, the script is gone once the launcher has looked at it."""
    fake = FAKE.format(record=place.record).replace("cd /", f"rm {place.path}/gone.py; cd /")
    place.write("bin/ssh", fake).chmod(0o755)
    place.write("gone.py", "print('never')\n")
    done = place.run("--no-ship", "--hosts", "a:1", "gone.py")
    there = f"scoop_lite: {socket.gethostname()} cannot read {place.path}/gone.py: No such file or directory\n"
    assert (done.returncode, done.out, done.err) == (1, "", there)


def test_a_host_whose_way_breaks_while_it_takes_in_what_it_needs(place):
    over_slow_way(place, 40000)
    done = place.run("--hosts", "localhost:1", "a:1", "--join-timeout", "1", "where.py")
    assert done.returncode == 1 and "host a did not join: it answered, then nothing came within 1 s" in done.err
    assert "is the way to it very slow" in done.err


@pytest.mark.parametrize("lacking", ["here", "there"])
def test_a_python_without_zlib(place, lacking):
    lame = place.write("lame/zlib.py", "raise ImportError('no zlib here')\n").parent
    if lacking == "here":
        place.environment["PYTHONPATH"] = str(lame)
    else:
        fake = FAKE.format(record=place.record).replace("cd /", f"cd /; export PYTHONPATH={lame}")
        place.write("bin/ssh", fake)
    assert place.right("--hosts", "a:1", "where.py") == "a:1 origin a\n"


REFUSED = """\
for try in 1 2 3 4 5 6 7; do
    if mkdir try.$2.$try 2>/dev/null; then break; fi
done
if [ $try -le {times} ]; then
    echo "kex_exchange_identification: Connection closed by remote host" >&2
    exit 255
fi
"""


@pytest.mark.parametrize("times", [2, 6])
def test_a_host_that_is_too_busy_to_let_us_in_is_tried_again(place, times):
    """As sshd does with more than ten at once, when many hosts are reached through one."""
    refuse = REFUSED.format(times=times).replace("$2", '"$HOST"')
    fake = FAKE.format(record=place.record).replace("cd /", f"cd {place.path}\n{refuse}cd /")
    place.write("bin/ssh", fake)
    done = place.run("--hosts", "a:1", "b:1", "localhost:1", "where.py")
    if times == 2:
        assert done.returncode == 0 and done.out.startswith("a:1 b:1 ") and done.err == "", done.err
        assert len(list(place.path.glob("try.*"))) == 6
    else:
        assert done.returncode == 1 and "did not join: the connection ended; ssh ended with status 255" in done.err
        assert 6 in [len(list(place.path.glob(f"try.{host}.*"))) for host in "ab"]


def test_a_host_behind_a_way_that_is_broken_is_not_tried_again(place):
    said = "ssh: connect to host gate port 22: Connection refused\nkex_exchange_identification: Connection closed"
    place.write("bin/ssh", f"#!/bin/sh\necho '{said}' >&2\nmkdir try.$$\nexit 255\n").chmod(0o755)
    done = place.run("--hosts", "a:1", "where.py")
    assert done.returncode == 1 and "is sshd running there" in done.err and len(list(place.path.glob("try.*"))) == 1


def test_an_interrupt_while_a_busy_host_is_to_be_tried_again(place):
    fake = 'echo "kex_exchange_identification: Connection closed by remote host" >&2; : >begun; exit 255'
    place.write("bin/ssh", f"#!/bin/sh\n{fake}\n").chmod(0o755)
    process = place.start("--hosts", "a:1", "localhost:1", "where.py")
    while not (place.path / "begun").exists():
        time.sleep(0.01)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    begin = time.monotonic()
    assert process.wait(10) == 130 and time.monotonic() - begin < 3


def test_an_interrupt_while_hosts_join(place):
    place.write("bin/mute", "#!/bin/sh\n: >begun\nexec sleep 60\n").chmod(0o755)
    process = place.start("--launcher", "mute {host}", "--hosts", "a", "localhost", "where.py")
    limit = time.monotonic() + 20
    while not (place.path / "begun").exists():
        assert time.monotonic() < limit
        time.sleep(0.02)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)
    assert process.returncode == 130


def test_a_module_that_a_host_lacks_is_named_with_the_host_its_interpreter_and_its_path(place):
    place.write("lacking.py", "from scoop_lite import futures\nimport os, time\n"
                              "def task(i):\n    if os.environ['HOST'] == 'b':\n        import no_such_module\n"
                              "    time.sleep(0.02)\n"
                              "if __name__ == '__main__':\n    list(futures.map(task, range(1000)))\n")
    done = place.run("--hosts", "a:1", "b:1", "lacking.py")
    assert done.returncode == 1
    here = os.uname().nodename
    assert re.search(rf"No module named 'no_such_module' on {here}, for \S+ there \(nor beside the script\)", done.err)
    assert re.search(rf"\(on {here}, by \S+; sys.path there: \['", done.err)


@pytest.mark.parametrize("task", [False, True], ids=["script", "task"])
def test_a_module_that_the_origins_host_lacks_is_named_once(place, task):
    run = "def f():\n    import no_such_module\nif __name__ == '__main__':\n    futures.submit(f).result()\n"
    place.write("lacking.py", "from scoop_lite import futures\n" + (run if task else "import no_such_module\n"))
    done = place.run("--hosts", "a:1", "lacking.py")
    assert done.returncode == 1
    assert re.findall(r"No module named 'no_such_module' (.*)", done.err)[-1] == (
        f"on {os.uname().nodename}, for {sys.executable} there (nor beside the script)")


@pytest.mark.parametrize("there", ["it works", "it is not there", "it does not work", "it is too old"])
def test_hosts_run_our_own_interpreter_where_it_works(place, there):
    """As on a shared disk, where it has what the program needs; else `python3`."""
    place.write("which.py", "import os, sys\nfrom scoop_lite import futures\nif __name__ == '__main__':\n"
                            "    print(futures.run_on_all(os.environ.get, 'WHICH'))\n")
    python3 = place.write("bin/python3", f'#!/bin/sh\nWHICH=python3 exec {sys.executable} "$@"\n')
    python3.chmod(0o755)
    ours = place.write("it's ours", f'#!/bin/sh\nWHICH=ours exec -a "$0" {sys.executable} "$@"\n'.replace("sh", "bash"))
    ours.chmod(0o755)
    breaking = {"it works": "cd /", "it is not there": "rm \"$OURS\"", "it does not work": "echo exit 127 >\"$OURS\"",
                "it is too old": "echo '[ \"$2\" != -c ]' >\"$OURS\""}  # as what it is asked would tell
    place.environment["OURS"] = str(ours)
    place.write("bin/ssh", FAKE.format(record=place.record).replace("cd /", f"{breaking[there]}; cd /"))
    words = [str(ours), place.file, "--hosts", "a:2", "which.py"]
    done = subprocess.run(words, cwd=place.path, env=place.environment, stdout=subprocess.PIPE, timeout=40, text=True)
    which = "ours" if there == "it works" else "python3"
    assert (done.returncode, done.stdout) == (0, f"{{0: '{which}', 1: '{which}'}}\n")


def test_sixty_four_hosts_are_up_in_time(place):
    hosts = [f"n{i}:1" for i in range(64)]
    begin = time.monotonic()
    out = place.right("--hosts", *hosts, "-q", "where.py", limit_s=60)
    assert "n0:" in out and out.endswith("origin n0\n")
    assert time.monotonic() - begin < 20


# ---------------------------------------------------------------------------------------------------------------------
# Real hosts: three namespaces with sshd, /tmp of their own, so that nothing of the user's is there
# ---------------------------------------------------------------------------------------------------------------------


def netns(*words, check=True):
    environment = dict(os.environ, NETNS_TAG="hosts", NETNS_NET="10.79.0", PRIVATE="/dev/shm /tmp")
    done = subprocess.run([str(NETNS), *words], env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, timeout=60, text=True)
    assert done.returncode == 0 or not check, done.stdout
    return done.stdout.strip()


def set_python(node, interpreter):
    command = STATE / node / "bin" / "python3"
    command.write_text(f'#!/bin/sh\nexec {interpreter} "$@"\n')
    command.chmod(0o755)


@contextlib.contextmanager
def only_one():
    with open("/run/scoop-lite-test-hosts.lock", "w", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="module")
def nodes():
    lacks = netns("missing", check=False)
    if lacks:
        pytest.skip("real hosts: " + lacks)
    with only_one():
        try:
            netns("up", "3")
            for i in (1, 2, 3):
                set_python(f"node{i}", sys.executable)
            yield ["--ssh-executable", f"ssh -F {STATE}/ssh_config", "--hosts", "node1:2", "node2:2", "node3:2"]
        finally:
            netns("down", check=False)


@pytest.fixture
def real(place, nodes):
    (place.path / "bin" / "ssh").unlink()
    return place


PROGRAM = """\
import time
from scoop_lite import futures
import helper

def task(i):
    time.sleep(0.03)
    return helper.describe(i)

if __name__ == "__main__":
    print(sorted(set(futures.map(task, range(100)))))
"""
HELPER = """\
import os, pkgutil, socket
import package.inner

def describe(i):
    assert not os.path.exists(__file__)
    return socket.gethostname(), pkgutil.get_data("package", "data.txt").decode(), package.inner.VALUE

def fail(i):
    raise ValueError(i)  # this very line
"""


@pytest.fixture
def shipped(real):
    real.write("program.py", PROGRAM)
    real.write("helper.py", HELPER)
    real.write("package/__init__.py", "")
    real.write("package/inner.py", "VALUE = 42\n")
    real.write("package/data.txt", "data")
    return real


ALL_THREE = str([(f"node{i}", "data", 42) for i in (1, 2, 3)]) + "\n"


@pytest.mark.root
@pytest.mark.parametrize("program", [["program.py"], ["-m", "program"]], ids=["script", "module"])
def test_the_users_code_travels(shipped, nodes, program):
    assert shipped.right(*nodes, *program) == ALL_THREE


@pytest.mark.root
@pytest.mark.parametrize("program", [["--", "app"], ["app.zip"], ["./app.zip"], ["-m", "app"]], ids=" ".join)
def test_directories_zip_files_and_packages_travel(shipped, nodes, program):
    main = "from app.helper" if "-m" in program else "from helper"
    shipped.write("app/__main__.py", PROGRAM.replace("import helper", main + " import describe as d").replace(
        "helper.describe", "d"))
    for name in ("helper.py", "package"):
        (shipped.path / name).rename(shipped.path / "app" / name)
    if "-m" in program:
        text = HELPER.replace("import package.inner", "import app.package.inner as inner")
        shipped.write("app/helper.py", text.replace('"package"', '"app.package"').replace("package.inner.", "inner."))
    if program[0].endswith("zip"):
        shutil.make_archive(str(shipped.path / "app"), "zip", str(shipped.path / "app"))
        shutil.rmtree(str(shipped.path / "app"))
    assert shipped.right(*nodes, *program) == ALL_THREE


@pytest.mark.root
def test_a_file_that_only_the_launchers_host_has(shipped, nodes):
    shipped.write("numbers.txt", "1 2 3 4 5 6 7 8")
    shipped.write("package/square.py", "import socket, time\ndef square(x):\n    time.sleep(0.05)\n"
                                       "    return x * x, socket.gethostname()\n")
    shipped.write("data.py", "import helper\nfrom package.square import square\nfrom scoop_lite import futures\n"
                             "def task(x):\n    return helper.package.inner.VALUE, square(x)\n"
                             "if __name__ == '__main__':\n"
                             "    with open('numbers.txt') as file:\n"
                             "        numbers = list(map(int, file.read().split()))\n"
                             "    seen = list(futures.map(task, numbers * 5))\n"
                             "    print(sum(x for _, (x, _) in seen), *sorted({host for _, (_, host) in seen}))\n")
    out = shipped.right(*nodes[:-3], "localhost:1", "node2:2", "node3:2", "data.py")
    assert out == f"{204 * 5} {' '.join(sorted([os.uname().nodename, 'node2', 'node3']))}\n"


@pytest.mark.root
def test_tracebacks_show_the_source_of_what_travelled(shipped, nodes):
    shipped.write("failing.py", "from scoop_lite import futures\nimport helper\nif __name__ == '__main__':\n"
                                "    list(futures.map(helper.fail, range(9)))\n")
    done = shipped.run(*nodes, "failing.py")
    assert done.returncode == 1 and "raise ValueError(i)  # this very line" in done.err
    assert re.search(r'failing.py", line 4, in <module>\n    list\(futures.map', done.err)


@pytest.mark.root
def test_without_shipping_the_error_says_what_is_missing_where(shipped, nodes):
    done = shipped.run(*nodes, "--no-ship", "program.py")
    assert done.returncode == 1 and "program.py" in done.err and "No such file" in done.err


@pytest.mark.root
def test_a_missing_package_names_host_interpreter_and_package(real, nodes):
    real.write("third.py", "from scoop_lite import futures\ndef f(i):\n    import no_such_package\n"
                           "if __name__ == '__main__':\n    futures.submit(f, 1).result()\n")
    done = real.run(*nodes, "third.py")
    assert re.search(r"No module named 'no_such_package' on node\d, for /.*python", done.err), done.err


@pytest.mark.root
def test_another_python_on_a_host(real, nodes):
    other = next(iter(sorted(glob.glob(os.path.expanduser("~/.pyenv/versions/3.1[023].*/bin/python")))), None)
    if other is None or sys.version_info[:2] == (3, int(re.search(r"3\.(\d+)\.", other)[1])):
        pytest.skip("no second Python here")
    real.write("mixed.py", "import time\nfrom scoop_lite import futures\n"
                           "def f(i):\n    time.sleep(0.05)\n    return i\n"
                           "if __name__ == '__main__':\n    print(sum(futures.map(f, range(50))))\n"
                           "    print(sum(futures.map(lambda i: f(i), range(50))))\n")
    set_python("node3", other)
    try:
        done = real.run(*nodes, "--python-interpreter", "python3", "mixed.py")
    finally:
        set_python("node3", sys.executable)
    assert done.out.startswith("1225\n"), done.err
    assert done.returncode == 1 and "Python" in done.err.splitlines()[-1]


@pytest.mark.root
def test_zmq_reaches_the_hosts_that_can(real, nodes):
    pytest.importorskip("zmq", reason="pyzmq is not installed")
    set_python("node3", f"{sys.executable} -S")  # without site-packages, and so without pyzmq
    try:
        done = real.run(*nodes, "-v", "--backend", "zmq", "--python-interpreter", "python3", "where.py")
    finally:
        set_python("node3", sys.executable)
    assert done.out == "node1:2 node2:2 node3:2 origin node1\n", done.err
    ways = dict(re.findall(r"(node\d): its workers come (.*)", done.err))
    assert ways == {"node1": "by ØMQ", "node2": "by ØMQ", "node3": "through the pipe"}


@pytest.mark.root
def test_zmq_falls_back_where_the_address_does_not_answer(real, nodes):
    pytest.importorskip("zmq", reason="pyzmq is not installed")
    done = real.run(*nodes, "-v", "--backend", "zmq", "--external-hostname", "127.0.0.1", "where.py")
    assert done.out == "node1:2 node2:2 node3:2 origin node1\n", done.err
    assert done.err.count("through the pipe") == 3


@pytest.mark.root
def test_spaces_and_quotes_in_paths(shipped, nodes):
    odd = shipped.path / "it's a \"place\""
    odd.mkdir()
    for name in ("program.py", "helper.py", "package"):
        shutil.move(str(shipped.path / name), str(odd))
    assert shipped.right(*nodes, odd / "program.py") == ALL_THREE


@pytest.mark.root
def test_no_port_is_opened_that_the_users_configuration_of_ssh_would_forward(real, nodes):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = real.path / "ssh_config"
    forward = f"LocalForward 127.0.0.1:{port} localhost:9\n"
    config.write_text(f"Host *\n{forward}Include {STATE}/ssh_config\n")
    real.write("connect.py", f"import socket\nprint(socket.socket().connect_ex(('127.0.0.1', {port})))\n")
    told = subprocess.run(["ssh", "-G", "-F", config, "node1"], stdout=subprocess.PIPE, check=True, text=True)
    assert f"localforward [127.0.0.1]:{port} " in told.stdout
    options = ["--ssh-executable", f"ssh -F {config}", "--hosts", "localhost:1", "node1:1", "node2:1"]
    assert real.right(*options, "connect.py") == f"{errno.ECONNREFUSED}\n"


@pytest.mark.root
def test_options_hold_over_ssh(real, nodes):
    prolog, python = STATE / "it's a prolog.sh", STATE / "other python"  # on all hosts, as /tmp is not
    prolog.write_text("export AFTER=prolog\n")
    python.write_text(f'#!/bin/sh\nPYTHON=other exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    real.write("hosts", "node2 slots=2  # the origin's\nnode3:2\n")
    real.write("first.py", "import os\ndef init():\n    os.environ['INIT'] = 'called'\n")
    real.write("options.py", """\
import os, socket, sys, time
from scoop_lite import futures

def task(i):
    time.sleep(0.02)
    names = ("AFTER", "PYTHON", "INIT", "OMP_NUM_THREADS")
    return (socket.gethostname(), os.nice(0), os.getcwd(), "/from/pythonpath" in sys.path, *map(os.environ.get, names))

if __name__ == "__main__":
    print(sorted(set(futures.map(task, range(100)))))
""")
    options = [*nodes[:2], "--hostfile", "hosts", "--nice", "3", "--pythonpath", "/from/pythonpath", "--init",
               "first:init", "--prolog", prolog, "--python-interpreter", python, "--threads-per-worker", "5"]
    out = real.right(*options, "options.py")
    nice, rest = min(os.nice(0) + 3, 19), (True, "prolog", "other", "called", "5")  # sshd has our own niceness
    home = os.path.expanduser("~")  # as the directory from which the user starts is not there
    assert out == f"{[(node, nice, home, *rest) for node in ('node2', 'node3')]}\n"
    out = real.right(*options, "--path", "/usr", real.path / "options.py")
    assert out == f"{[(node, nice, '/usr', *rest) for node in ('node2', 'node3')]}\n"


@pytest.mark.root
def test_each_step_of_readme_on_a_fresh_host(real, nodes):
    text = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    section = re.search(r"^## From laptop to cluster.*?(?=^## )", text, re.MULTILINE | re.DOTALL)[0]
    steps = re.findall(r"^```\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    assert len(steps) == 5
    netns("exec", "node3", "sh", "-ec", 'mkdir /tmp/fresh; cp -r "$0" "$1" /tmp/fresh', str(real.file),
          str(CHECKOUT / "examples"))
    try:
        for step in steps:
            said = netns("exec", "node3", "sh", "-euc", "cd /tmp/fresh\n" + step)
            runs = [line for line in step.splitlines() if "scoop_lite.py" in line and "--dry-run" not in line]
            assert said.count("1280000 darts: pi is about 3.1") == len(runs), said
            assert ("the origin among them" in said) == ("--dry-run" in step), said
    finally:
        netns("exec", "node3", "rm", "-r", "/tmp/fresh")


@pytest.fixture
def bare_python():
    """A Python that every user may run."""
    old = "import sys; sys.exit(sys.version_info < (3, 8))"
    if subprocess.run(["/usr/bin/python3", "-c", old], check=False).returncode:
        pytest.skip("no /usr/bin/python3 of 3.8 or newer")
    set_python("node3", "/usr/bin/python3")
    yield
    set_python("node3", sys.executable)


@pytest.mark.root
def test_another_user_on_a_host(real, nodes, bare_python):
    passwd = STATE / "passwd"
    passwd.write_text(Path("/etc/passwd").read_text() + "guest:x:64001:64001::/tmp:/bin/sh\n")
    netns("exec", "node3", "mount", "--bind", str(passwd), "/etc/passwd")
    real.write("who.py", WHERE.replace("os.getpid()", "os.getuid()").replace("print(", "print(sorted(seen), "))
    try:
        out = real.right(*nodes[:2], "--hosts", "node1:2", "guest@node3:2", "who.py")
    finally:
        netns("exec", "node3", "umount", "/etc/passwd")
    assert out.startswith("[('node1', 0), ('node3', 64001)]")


@pytest.mark.root
def test_a_host_on_which_nothing_can_be_written(shipped, nodes):
    for words in (["mount", "--bind", os.path.expanduser("~"), os.path.expanduser("~")],
                  ["mount", "-o", "remount,ro,bind", os.path.expanduser("~")], ["mount", "-o", "remount,ro", "/tmp"]):
        netns("exec", "node3", *words)
    try:
        assert shipped.right(*nodes, "program.py") == ALL_THREE
    finally:
        netns("exec", "node3", "mount", "-o", "remount,rw", "/tmp")
        netns("exec", "node3", "umount", os.path.expanduser("~"))


PLANTED = """
import os
open(os.environ["PLANTED"], "a").write("ran\\n")
raise ImportError("planted")
"""


@pytest.mark.parametrize("words", [
    ["--hosts", "localhost:1", "n1:1"], ["--python-interpreter", sys.executable, "-n", "2"]], ids=["hosts", "here"])
def test_no_module_of_the_working_directory_is_run_by_agents(place, tmp_path, words):
    """Others may write to it; the script lies elsewhere."""
    place.write("program/job.py", "from scoop_lite import futures\nif __name__ == '__main__':\n"
                "    print(list(futures.map(abs, range(-3, 3))))\n")  # fmt: skip
    place.environment["PLANTED"] = str(tmp_path / "planted")
    for name in ("argparse", "greenlet", "queue", "selectors", "heapq", "hmac", "types", "fcntl"):
        place.write(f"{name}.py", PLANTED)
    assert place.right(*words, place.path / "program" / "job.py") == "[3, 2, 1, 0, 1, 2]\n"
    assert not (tmp_path / "planted").exists()


def test_hosts_may_be_given_in_several_options(place):
    out = place.right("--dry-run", "--hosts", "n1:2", "--host", "n2", "--hosts", "n3", "where.py")
    assert all(name in out for name in ("n1", "n2", "n3")), out


def test_what_pythonpath_names_is_relative_to_where_the_user_is(place):
    place.write("lib/beside.py", "VALUE = 7\n")
    place.write("other/program.py", """
import os
os.chdir("/")
from scoop_lite import futures
def value(_):
    import beside
    return beside.VALUE
if __name__ == "__main__":
    print(set(futures.map(value, range(20))))
""")
    assert place.right("-n", "2", "--pythonpath", "lib", "--path", "other", "program.py") == "{7}\n"


def test_a_named_pipe_beside_the_script_holds_nobody_up(tmp_path):
    os.mkfifo(tmp_path / "pipe.py")
    (tmp_path / "module.py").write_text("VALUE = 1")
    config, found = scoop_lite.Config(root=str(tmp_path), directory=str(tmp_path)), []

    def ask():
        for name in "pipe.py", "module.py":
            found.append(scoop_lite.read_library(config, {"number": 1, "paths": [name], "have": {}}))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(10)
    assert [content for _, content in found] == [b"", b"VALUE = 1"] and b'"path": null' in found[0][0]


def test_a_slow_disk_holds_up_who_asks_for_a_module_and_nobody_else():
    hangs, woken = threading.Event(), threading.Event()

    def read(request):
        assert hangs.wait(10)
        return [request["number"]]

    library, sent = scoop_lite.Library(read, woken.set), []
    for number in 1, 2:
        library.ask({"number": number}, sent.append)
    library.answer()
    assert not sent
    hangs.set()
    while len(sent) < 2:
        assert woken.wait(10)
        woken.clear()
        library.answer()
    assert sent == [1, 2]


def test_modules_are_read_where_no_thread_can_be_started_and_broken_archives_are_told(monkeypatch, caplog):
    def broken(request):
        raise LookupError("in the archive")

    sent, woken = [], threading.Event()
    library = scoop_lite.Library(broken, woken.set)
    library.ask({"number": 7}, lambda *frames: sent.append(frames))
    assert woken.wait(10)
    library.answer()
    assert b'"path": null' in sent[0][0] and b"7" in sent[0][0] and "in the archive" in caplog.text

    def no_more(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_more)
    library = scoop_lite.Library(lambda request: [b"found"], woken.set)
    for _ in range(2):
        library.ask({"number": 8}, lambda *frames: sent.append(frames))
    library.answer()
    assert sent[1:] == [(b"found",)] * 2


def test_the_launcher_answers_what_its_library_has_found():
    links = scoop_lite.Launcher(scoop_lite.Config(n=1))
    asked, sent = threading.Event(), []
    links.library.read = lambda request: [asked.wait(10)]
    links.broker.library({"number": 1}, sent.append)
    links.end_turn()
    assert not sent
    asked.set()
    assert select.select([links.bell], [], [], 10)[0]
    links.end_turn()
    assert sent == [True]


def test_a_starter_that_does_not_get_through_is_ended_with_what_it_started(place, tmp_path):
    place.write("bin/ssh", f"#!/bin/sh\nsleep 97.5 & echo $! > {tmp_path}/child\nwait\n").chmod(0o755)
    done = place.run("--hosts", "localhost:1", "n1:1", "--join-timeout", "1", "where.py")
    assert done.returncode == 1 and "no answer within 1 s" in done.err
    child, end = int((tmp_path / "child").read_text()), time.monotonic() + 5
    while time.monotonic() < end and os.path.exists(f"/proc/{child}/cmdline") and open(f"/proc/{child}/cmdline").read():
        time.sleep(0.05)
    assert not os.path.exists(f"/proc/{child}/cmdline") or not open(f"/proc/{child}/cmdline").read()


def test_an_exception_about_a_module_that_names_none_ends_its_task_only(place):
    place.write("program.py", """
from scoop_lite import futures
def fail():
    raise ModuleNotFoundError()
if __name__ == "__main__":
    print(type(futures.submit(fail).exception()).__name__, futures.submit(abs, -1).result())
""")
    assert place.right("--hosts", "n1:2", "program.py") == "ModuleNotFoundError 1\n"


@pytest.mark.parametrize("how", ["SIGINT", "SIGTERM", "SIGKILL", "ignored", "exit 1", "exit 0", "SIGUSR1"])
def test_what_a_script_on_another_host_has_started_ends_with_it_unless_that_ends_well(place, how):
    place.write("program.py", """
import signal, subprocess, sys
signal.signal(signal.SIGUSR1, lambda number, frame: sys.exit(child.poll()))
if __name__ == "__main__":
    trap = "trap '' INT; " * (sys.argv[1] == "ignored")
    child = subprocess.Popen(["sh", "-c", trap + "exec sleep 87.25"], stdin=subprocess.DEVNULL,
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    print(child.pid, flush=True)
    sys.exit(int(sys.argv[1][5:]) if sys.argv[1].startswith("exit") else child.wait())
""")
    run = place.start("--hosts", "a:1", "program.py", how)
    pid = int(run.stdout.readline())
    if not how.startswith("exit"):
        run.send_signal(getattr(signal, how, signal.SIGINT))
    run.communicate(timeout=20)
    stays = how in ("exit 0", "SIGUSR1")
    end = time.monotonic() + (1 if stays else 10)
    while time.monotonic() < end and os.path.exists(f"/proc/{pid}/exe"):
        time.sleep(0.02)
    stayed = os.path.exists(f"/proc/{pid}/exe")
    if stayed:
        os.kill(pid, signal.SIGKILL)
    assert stayed is stays


def test_what_a_scheduler_announces_while_an_agent_starts_does_not_end_it(tmp_path):
    python = tmp_path / "python"
    told = 'if [ "$1" = -S ]; then kill -USR1 $$ $PPID; kill -USR2 $$ $PPID; fi'
    python.write_text(f'#!/bin/sh\n{told}\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    words = ["sh", "-c", scoop_lite.FIND_PYTHON, python, "-c", "import sys; print(sys.executable)"]
    assert subprocess.run(words, stdout=subprocess.PIPE, timeout=20, text=True).stdout == f"{sys.executable}\n"

    words = [sys.executable, "-c", scoop_lite.BOOTSTRAP, "0", "1"]
    with subprocess.Popen(words, 0, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as agent:
        assert agent.stdout.read(16) == b"scoop_lite agent"
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            agent.send_signal(number)
        with pytest.raises(subprocess.TimeoutExpired):
            agent.wait(0.3)
        agent.stdin.close()
        assert agent.wait(10) == 1


def test_what_agents_ignore_while_they_start_is_ignored_by_nobody_else(place):
    place.write("program.py", """
import signal, subprocess, time
from scoop_lite import futures
def status(_):
    time.sleep(0.02)
    return [subprocess.call(["sh", "-c", f"kill -{name} $$; exit 1"]) for name in ("USR1", "USR2")]
if __name__ == "__main__":
    print([signal.getsignal(number) == signal.SIG_DFL for number in (signal.SIGUSR1, signal.SIGUSR2)])
    print(*{str(found) for found in futures.map(status, range(50))}, str(status(0)))
""")
    ended = f"[{-signal.SIGUSR1}, {-signal.SIGUSR2}]"
    assert place.right("--hosts", "a:2", "program.py") == f"[True, True]\n{ended} {ended}\n"


def test_signals_in_a_row_harm_no_link(place):
    place.write("program.py", """
import os, signal, time
from scoop_lite import futures
n = 0
def count(number, frame):
    global n
    n += 1
def nap(i):
    time.sleep(0.002)
    return bytes(100)
if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, count)
    print("ready", flush=True)
    end = time.monotonic() + 6
    while time.monotonic() < end:
        assert len(list(futures.map(nap, range(200)))) == 200
    print(n > 20)
""")
    run = place.start("--hosts", "localhost:1", "n1:2", "program.py")
    assert run.stdout.readline() == "ready\n"
    end = time.monotonic() + 5
    while time.monotonic() < end and run.poll() is None:
        run.send_signal(signal.SIGUSR1)
        time.sleep(0.03)
    out, err = run.communicate(timeout=60)
    assert (run.returncode, out, err) == (0, "True\n", "")
