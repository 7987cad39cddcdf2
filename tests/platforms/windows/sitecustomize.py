"""Makes a Python on Linux lack what Python on Windows lacks, so that every call that nothing guards shows.

A directory for PYTHONPATH: all processes of a run then import this first. The standard library keeps what it needs to
start processes. What only Windows has (msvcrt, handles, consoles) is not imitated: `os.name` stays.
"""

import concurrent.futures.thread
import errno
import logging
import os
import random
import re
import select
import selectors
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import types

UNIX_MODULES = "fcntl grp pwd readline resource syslog termios tty pty".split()
OS_NAMES = """fork forkpty fork1 register_at_fork set_blocking get_blocking readv writev preadv pwritev pread
    pwrite pipe2 killpg getpgid setpgid getpgrp setpgrp getsid setsid getuid geteuid getgid getegid nice
    getpriority sched_getaffinity sched_setaffinity sched_yield uname statvfs fstatvfs tcgetpgrp
    tcsetpgrp openpty mkfifo mknod chroot memfd_create wait wait3 wait4 waitid WNOHANG WIFEXITED
    WEXITSTATUS WIFSIGNALED WTERMSIG WCOREDUMP sysconf confstr getloadavg pidfd_open eventfd sendfile
    splice posix_spawn O_NONBLOCK O_ASYNC O_CLOEXEC ctermid fchmod fchown lockf""".split()
SOCKET_NAMES = "AF_UNIX SCM_RIGHTS SO_PEERCRED MSG_NOSIGNAL MSG_DONTWAIT send_fds recv_fds AF_NETLINK".split()
SELECT_NAMES = ["poll", "kqueue", "devpoll", *(name for name in dir(select) if name.lower().startswith("epoll"))]
SIGNALS = {"SIGABRT", "SIGFPE", "SIGILL", "SIGINT", "SIGSEGV", "SIGTERM"}
SIGNAL_NAMES = """pthread_sigmask pthread_kill sigwait sigwaitinfo sigtimedwait sigpending setitimer getitimer alarm
    pause siginterrupt ITIMER_REAL""".split()


def copy_of(module):
    """Return a module with all that another one has now."""
    made = types.ModuleType(module.__name__)
    made.__dict__.update(module.__dict__)
    return made


def without(module, names):
    """Take names out of a module."""
    for name in names:
        if hasattr(module, name):
            delattr(module, name)


def is_socket(end):
    return stat.S_ISSOCK(os.fstat(end if isinstance(end, int) else end.fileno()).st_mode)


def no_socket(call):
    """Make a function of `os` refuse a socket's descriptor, which is none on Windows."""

    def checked(fd, *args):
        if is_socket(fd):
            raise OSError(errno.EBADF, "a socket is no file")
        return call(fd, *args)

    return checked


def select_sockets(readers, writers, others, *timeout):
    """Wait for sockets: `select` of Windows knows nothing else."""
    if not all(map(is_socket, [*readers, *writers, *others])):
        raise OSError(10038, "An operation was attempted on something that is not a socket")
    if not (readers or writers or others):
        raise OSError(10022, "An invalid argument was supplied")
    return real.select.select(readers, writers, others, *timeout)


def set_wakeup_fd(fd, *, warn_on_full_buffer=True):
    if fd != -1 and not is_socket(fd):
        raise ValueError("not a socket")
    return real.signal.set_wakeup_fd(fd, warn_on_full_buffer=warn_on_full_buffer)


def set_signal(number, handler):
    if real.signal.Signals(number).name not in SIGNALS:
        raise ValueError("invalid signal value")
    return real.signal.signal(number, handler)


def raise_signal(number):
    """Interrupt the main thread, whichever thread calls: its waits look at an event that the signal sets there."""
    real.os.kill(os.getpid(), number)


def terminate(pid, number):
    """Kill at once: for any signal but the two of consoles, TerminateProcess is all that `os.kill` knows there."""
    real.os.kill(pid, real.signal.SIGKILL)


def socketpair(family=socket.AF_INET, kind=socket.SOCK_STREAM, protocol=0):
    """Connect two sockets over 127.0.0.1, as there are no others."""
    with socket.socket(family, kind, protocol) as door:
        door.bind(("127.0.0.1", 0))
        door.listen(1)
        one = socket.create_connection(door.getsockname())
        other, _ = door.accept()
    return one, other


def missing(self):
    raise AttributeError("sockets of Windows have no sendmsg and no recvmsg")


LOADED = concurrent.futures.thread, logging, random, shutil, tempfile  # which look for `fork` or `pwd` when imported
real = types.SimpleNamespace(os=copy_of(os), select=copy_of(select), signal=copy_of(signal))
subprocess.os, subprocess.signal, subprocess.select = real.os, real.signal, real.select
selectors.select = real.select
selectors.DefaultSelector = selectors.SelectSelector
selectors.SelectSelector._select = lambda self, r, w, _, timeout=None: select_sockets(r, w, [], timeout)
sys.modules.update(dict.fromkeys(UNIX_MODULES))
without(os, OS_NAMES)
without(socket, SOCKET_NAMES)
without(select, SELECT_NAMES)
OTHER_SIGNALS = [name for name in dir(signal) if re.fullmatch("SIG[A-Z0-9]+", name) and name not in SIGNALS]
without(signal, SIGNAL_NAMES + OTHER_SIGNALS)
signal.SIGBREAK = 21
signal.signal, signal.set_wakeup_fd, signal.raise_signal = set_signal, set_wakeup_fd, raise_signal
select.select = select_sockets
os.read, os.write, os.close, os.kill = no_socket(os.read), no_socket(os.write), no_socket(os.close), terminate
socket.socketpair = socketpair
socket.socket.sendmsg = socket.socket.recvmsg = property(missing)
