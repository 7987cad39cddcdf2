"""Hosts with a real sshd each, on this machine: ``tests/cluster/netns-ssh.sh`` from Python."""
from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import Iterator, List, Set

import pytest

from faults import processes
from faults.processes import Process, wait_until

SCRIPT = pathlib.Path(__file__).resolve().parents[1] / "cluster" / "netns-ssh.sh"
#: A set-up of our own, beside whatever else uses the script on this machine.
TAG, NET = "fault", "10.78.0"
STATE = pathlib.Path("/run/netns-ssh") / TAG


def cluster_script(*words: str, check: bool = True) -> str:
    """Run the script; return what it says."""
    environment = dict(os.environ, NETNS_TAG=TAG, NETNS_NET=NET)
    done = subprocess.run([str(SCRIPT), *words], env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, timeout=60, check=False, text=True)
    assert done.returncode == 0 or not check, done.stdout
    return done.stdout.strip()


class Cluster:
    """Three nodes with sshd, and a name for every way in which ssh can fail.

    ``ssh_config`` knows node1…node3 and, for node3's address, ``refused``, ``unknown-key`` and ``changed-key``; also
    ``unreachable``, an address that nobody has.
    """

    def __init__(self, directory: pathlib.Path) -> None:
        self.ssh_config = directory / "ssh_config"
        wrong = directory / "wrong_known_hosts"
        wrong.write_text("changed-key " + (STATE / "user_key.pub").read_text())
        first = (STATE / "ssh_config").read_text()
        self.ssh_config.write_text("""\
Host refused
  HostName {net}.3
  Port 9
Host unreachable
  HostName {net}.99
Host unknown-key
  HostName {net}.3
  UserKnownHostsFile /dev/null
Host changed-key
  HostName {net}.3
  HostKeyAlias changed-key
  UserKnownHostsFile {wrong}
Host refused unreachable unknown-key changed-key
  User root
  IdentityFile {state}/user_key
  IdentitiesOnly yes
  UserKnownHostsFile {state}/known_hosts
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
  BatchMode yes
  ConnectTimeout 5
{first}""".format(net=NET, state=STATE, wrong=wrong, first=first))
        for node in ("node1", "node2", "node3"):
            self.python(node)

    def state(self, node: str) -> pathlib.Path:
        """Return the directory that holds a node's bashrc and bin."""
        return STATE / node

    def options(self, *hosts: str) -> List[str]:
        """Return the options that run a job on these hosts."""
        return ["--hosts", *hosts, "--launcher", "ssh -F %s {host}" % self.ssh_config]

    def python(self, node: str, text: str = 'exec %s "$@"' % sys.executable) -> None:
        """Make a shell script the ``python3`` of a node; by default it runs the Python of the tests."""
        command = STATE / node / "bin" / "python3"
        command.write_text("#!/bin/sh\n%s\n" % text)
        command.chmod(0o755)

    def processes(self, *nodes: str) -> Set[Process]:
        """Return every process on these nodes but sshd itself; none on one that is off."""
        first = [cluster_script("pid1", node) for node in nodes]
        return set(processes.processes_of(pid for root in first if root for pid in processes.descendants(int(root))))

    def pythons(self, *nodes: str) -> Set[Process]:
        """Return every Python process on these nodes."""
        named = [(p, os.path.basename(os.path.realpath("/proc/%d/exe" % p.pid))) for p in self.processes(*nodes)]
        return {p for p, name in named if name.startswith("python")}

    def clean(self, within_s: float, *nodes: str) -> None:
        """Prove that nothing is left on these nodes."""
        wait_until(lambda: not self.processes(*nodes), within_s, lambda: "nothing left on %s; left: %s" % (
            nodes, [processes.command(p.pid) for p in self.processes(*nodes)]), every_s=0.05)

    def heal(self) -> None:
        """Undo all harm to the nodes."""
        for node in ("node1", "node2", "node3"):
            cluster_script("heal", node)
            cluster_script("boot", node)
            self.python(node)
            (STATE / node / "bashrc").write_text("")


@contextlib.contextmanager
def only_one() -> Iterator[None]:
    """Keep a second run of the suite waiting: a machine has one such set-up at a time."""
    with open(os.path.join(tempfile.gettempdir(), "netns-ssh-%s.lock" % TAG), "w", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.fixture(name="whole_cluster", scope="module")
def fixture_whole_cluster(tmp_path_factory) -> Iterator[Cluster]:
    """The nodes, up for all tests of a module."""
    lacks = cluster_script("missing", check=False)
    if lacks:
        pytest.skip("real hosts: " + lacks)
    with only_one():
        try:
            cluster_script("up", "3")
            yield Cluster(tmp_path_factory.mktemp("cluster"))
        finally:
            cluster_script("down")


@pytest.fixture(name="cluster")
def fixture_cluster(whole_cluster) -> Iterator[Cluster]:
    """The nodes, healed after each test."""
    yield whole_cluster
    whole_cluster.heal()
