"""Looking at processes from outside, through /proc.

A process is known by its id and its start time together, so that a reused id is never taken for the one that had it
before.
"""
from __future__ import annotations

import os
import signal
import time
from typing import Callable, Iterable, List, NamedTuple, Optional, Set


class Process(NamedTuple):
    """One process that was seen alive."""

    pid: int
    started: int

    def exists(self) -> bool:
        """Tell whether this very process is still there and is no zombie."""
        now = stat_of(self.pid)
        return now is not None and now.started == self.started and now.state not in "ZX"

    def is_reaped(self) -> bool:
        """Tell whether its parent has taken note of its end."""
        now = stat_of(self.pid)
        return now is None or now.started != self.started

    def kill(self, signal_number: int = signal.SIGKILL) -> None:
        """Send a signal, unless the process has gone."""
        if self.exists():
            send(self.pid, signal_number)


class Stat(NamedTuple):
    """The fields of /proc/PID/stat that the suite needs."""

    state: str
    parent: int
    session: int
    started: int
    cpu_ticks: int


def stat_of(pid: int) -> Optional[Stat]:
    """Return the facts of a process, or None when there is none."""
    try:
        with open("/proc/%d/stat" % pid, "rb") as file:
            words = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return Stat(words[0].decode(), int(words[1]), int(words[3]), int(words[19]), int(words[11]) + int(words[12]))


def process(pid: int) -> Process:
    """Return the process that has this id now.

    Raises:
        ProcessLookupError: there is none.
    """
    now = stat_of(pid)
    if now is None:
        raise ProcessLookupError("no process %d" % pid)
    return Process(pid, now.started)


def processes_of(pids: Iterable[int]) -> List[Process]:
    """Return those of the processes that are there, zombies left out."""
    found = [(pid, stat_of(pid)) for pid in pids]
    return [Process(pid, now.started) for pid, now in found if now is not None and now.state not in "ZX"]


def send(pid: int, signal_number: int) -> None:
    """Send a signal; a process that has just gone is no error."""
    try:
        os.kill(pid, signal_number)
    except ProcessLookupError:
        pass  # it ended between the look and the signal, which is what the caller wanted to bring about


def children(pid: int) -> List[int]:
    """Return the ids of a process's living children, oldest first."""
    found: List[int] = []
    try:
        threads = os.listdir("/proc/%d/task" % pid)
    except OSError:
        return []
    for thread in threads:
        try:
            with open("/proc/%d/task/%s/children" % (pid, thread), encoding="ascii") as file:
                found += map(int, file.read().split())
        except OSError:
            continue  # the thread ended while we looked
    return sorted(p.pid for p in processes_of(found))


def descendants(pid: int) -> List[int]:
    """Return the ids of everything below a process."""
    found: List[int] = []
    for child in children(pid):
        found += [child] + descendants(child)
    return found


def ancestors(pid: int) -> List[int]:
    """Return the ids above a process, the nearest first."""
    found: List[int] = []
    now = stat_of(pid)
    while now is not None and now.parent > 0:
        found.append(now.parent)
        now = stat_of(now.parent)
    return found


def command(pid: int) -> List[str]:
    """Return the command line of a process, [] when it has none."""
    return [os.fsdecode(word) for word in read_bytes(pid, "cmdline").split(b"\0")]


def read_bytes(pid: int, name: str) -> bytes:
    """Return the content of /proc/PID/name, b"" when the process has gone."""
    try:
        with open("/proc/%d/%s" % (pid, name), "rb") as file:
            return file.read()
    except OSError:
        return b""


def all_pids() -> List[int]:
    """Return the ids of all processes."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def carrying(mark: str) -> Set[Process]:
    """Return every process that was started with this word in its environment, wherever it hangs in the tree."""
    wanted = os.fsencode(mark)
    return set(processes_of(pid for pid in all_pids() if wanted in read_bytes(pid, "environ")))


def memory_kib(pid: int, field: str = "VmRSS") -> int:
    """Return a memory figure of a process (VmRSS now, VmHWM at its highest) in KiB, 0 when it has gone."""
    for line in read_bytes(pid, "status").decode().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    return 0


def cpu_s(pid: int) -> float:
    """Return the processor time a process has used, in seconds."""
    now = stat_of(pid)
    return 0.0 if now is None else now.cpu_ticks / os.sysconf("SC_CLK_TCK")


def wait_until(condition: Callable[[], object], within_s: float, what: Callable[[], str],
               every_s: float = 0.005) -> float:
    """Wait until a condition holds.

    Args:
        condition: looked at again and again.
        within_s: the longest wait, seconds.
        what: gives the condition in words, and the state of things, for the failure.
        every_s: how often to look.
    Returns:
        The seconds that it took.
    Raises:
        AssertionError: it did not hold in time.
    """
    begin = time.monotonic()
    while not condition():
        if time.monotonic() - begin > within_s:
            raise AssertionError("not within %.1f s: %s" % (within_s, what()))
        time.sleep(every_s)
    return time.monotonic() - begin
