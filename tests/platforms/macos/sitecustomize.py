"""Makes a Python on Linux lack what Python on macOS lacks: /proc, CPU affinity, F_SETSIG, epoll and other names.

A directory for PYTHONPATH: all processes of a run then import this first. A fork beside a living thread, which macOS
punishes only now and then, is an error here. kqueue is not imitated: `poll` takes its place.
"""

import builtins
import fcntl
import io
import os
import select
import selectors
import signal
import socket
import sys
import threading

OS_NAMES = """sched_getaffinity sched_setaffinity sched_getscheduler sched_setscheduler pipe2 memfd_create eventfd
    pidfd_open getxattr setxattr listxattr posix_fadvise posix_fallocate splice copy_file_range
    getrandom setresuid setresgid getresuid getresgid unshare setns O_DIRECT O_PATH O_TMPFILE
    O_LARGEFILE""".split()
SOCKET_NAMES = """MSG_NOSIGNAL MSG_CMSG_CLOEXEC SO_PEERCRED SO_PASSCRED SCM_CREDENTIALS SOCK_CLOEXEC SOCK_NONBLOCK
    AF_NETLINK AF_PACKET SO_DOMAIN SO_PROTOCOL TCP_USER_TIMEOUT TCP_QUICKACK""".split()
FCNTL_NAMES = "F_SETSIG F_GETSIG F_SETPIPE_SZ F_GETPIPE_SZ F_NOTIFY F_SETLEASE F_ADD_SEALS F_OFD_SETLK".split()
SIGNAL_NAMES = "SIGRTMIN SIGRTMAX SIGPWR SIGSTKFLT SIGPOLL SIGCLD sigwaitinfo sigtimedwait pidfd_send_signal".split()


def without(module, names):
    """Take names out of a module."""
    for name in names:
        if hasattr(module, name):
            delattr(module, name)


def not_below_proc(call):
    """Make a function that opens or lists a path find neither /proc nor /sys."""

    def checked(path=".", *args, **kwargs):
        if isinstance(path, (str, bytes)) and os.fsdecode(path).startswith(("/proc", "/sys")):
            raise FileNotFoundError(2, "No such file or directory", path)
        return call(path, *args, **kwargs)

    return checked


def fork():
    """Fork, unless another thread lives: it might hold a lock for ever in the child."""
    if threading.active_count() > 1:
        others = [thread.name for thread in threading.enumerate() if thread is not threading.current_thread()]
        os.write(2, ("macos: fork beside %s\n" % ", ".join(others)).encode())
        os.abort()
    return real_fork()


real_fork, os.fork = os.fork, fork
without(os, OS_NAMES)
without(socket, SOCKET_NAMES)
without(fcntl, FCNTL_NAMES)
without(signal, SIGNAL_NAMES)
without(select, [name for name in dir(select) if name.lower().startswith("epoll")])
selectors.DefaultSelector = selectors.PollSelector
builtins.open = io.open = not_below_proc(open)
os.open, os.listdir, os.scandir = not_below_proc(os.open), not_below_proc(os.listdir), not_below_proc(os.scandir)
sys.platform = "darwin"
