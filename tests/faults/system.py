"""What the fault suite needs of the system beneath: memory limits, small disks, sockets. What is missing skips."""
from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import subprocess
from typing import Iterator, List, NamedTuple, Set

import pytest

from faults import processes

LISTENING = "0A"
LISTENING_FLAG = 0x10000


def need_root() -> None:
    """Skip the test when it is not run by root."""
    if os.geteuid() != 0:
        pytest.skip("needs root")


def need_program(name: str) -> None:
    """Skip the test when a program is not installed."""
    if shutil.which(name) is None:
        pytest.skip("needs the program %s" % name)


@contextlib.contextmanager
def memory_group(limit_bytes: int) -> Iterator[pathlib.Path]:
    """Make a control group with a memory limit.

    Yields:
        The file into which a process id (or 0 for oneself) is written to join.
    """
    need_root()
    group, limit, members = memory_group_files()
    try:
        group.mkdir()
        limit.write_text(str(limit_bytes))
    except OSError as error:
        pytest.skip("no memory control group can be made: %s" % error)
    try:
        yield members
    finally:
        remove_group(group, members)


def memory_group_files():
    """Return a new group's directory, its limit file and its member file, for either version of control groups."""
    name = "fault-%d" % os.getpid()
    first = pathlib.Path("/sys/fs/cgroup/memory")
    if first.is_dir():
        return first / name, first / name / "memory.limit_in_bytes", first / name / "cgroup.procs"
    second = pathlib.Path("/sys/fs/cgroup")
    return second / name, second / name / "memory.max", second / name / "cgroup.procs"


def remove_group(group: pathlib.Path, members: pathlib.Path) -> None:
    """Remove a control group; whoever is still in it is moved out."""
    for pid in members.read_text().split():
        with contextlib.suppress(OSError):
            (group.parent / "cgroup.procs").write_text(pid)
    processes.wait_until(lambda: not members.read_text().split(), 5, lambda: "control group empty")
    group.rmdir()


def small_disk(directory) -> List[str]:
    """Return the words that run a command in a mount namespace of its own, inside a full file system of 1 MiB."""
    need_root()
    need_program("unshare")
    if subprocess.run(["unshare", "-m", "true"], stderr=subprocess.DEVNULL, check=False).returncode != 0:
        pytest.skip("needs mount namespaces")
    script = 'mount -t tmpfs -o size=1m none "$0" && cd "$0" && cat /dev/zero >fill 2>/dev/null; exec "$@"'
    return ["unshare", "-m", "sh", "-c", script, str(directory)]


class Socket(NamedTuple):
    """One socket that a process holds."""

    family: str
    local: str
    listening: bool


def socket_inodes(pid: int) -> Set[str]:
    """Return the inode numbers of a process's sockets."""
    found: Set[str] = set()
    try:
        descriptors = os.listdir("/proc/%d/fd" % pid)
    except OSError:
        return found
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            target = os.readlink("/proc/%d/fd/%s" % (pid, descriptor))
            if target.startswith("socket:["):
                found.add(target[len("socket:["):-1])
    return found


def sockets(pid: int) -> List[Socket]:
    """Return a process's sockets of the internet families, and its named or listening local ones."""
    mine = socket_inodes(pid)
    found = []
    for family in ("tcp", "tcp6", "udp", "udp6"):
        for row in rows(pid, family):
            if row[9] in mine:
                found.append(Socket(family, row[1], row[3] == LISTENING))
    for row in rows(pid, "unix"):
        listening = bool(int(row[3], 16) & LISTENING_FLAG)
        if row[6] in mine and (listening or len(row) > 7):
            found.append(Socket("unix", row[7] if len(row) > 7 else "", listening))
    return found


def rows(pid: int, table: str) -> List[List[str]]:
    """Return the rows of a socket table, as seen by a process, without its heading."""
    return [line.split() for line in processes.read_bytes(pid, "net/" + table).decode().splitlines()[1:]]


def address(local: str):
    """Return (host, port) of a hexadecimal IPv4 address of the kernel's tables."""
    host, port = local.split(":")
    return ".".join(str(byte) for byte in reversed(bytes.fromhex(host))), int(port, 16)
