"""Imported by the programs of the fault suite, in every process of the run under test.

Three ways to speak with the test outside, all of them files in the directory named by FAULT_DIR: the *ledger* (a line
for each thing that happened, appended in one write), *stages* (the program has got there), and *signs* (the test
says: go on).
"""
from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import time

DIRECTORY = os.environ.get("FAULT_DIR") or os.path.dirname(os.path.abspath(__file__))
HOSTS = {}  # process: its host; looked up once in each process, also after a fork


def note(kind, key="-"):
    """Append one line to the ledger: kind, key, process, host, monotonic time."""
    line = "%s %s %d %s %.6f\n" % (kind, key, os.getpid(), host(), time.monotonic())
    ledger = os.open(os.path.join(DIRECTORY, "ledger"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(ledger, line.encode())
    finally:
        os.close(ledger)


def reach(stage):
    """Tell the test that this process has got to a stage; what it printed before can be read then."""
    sys.stdout.flush()
    path = os.path.join(DIRECTORY, "stage-" + stage)
    with open(path + ".new", "w", encoding="ascii") as file:
        file.write("%d" % os.getpid())
    os.rename(path + ".new", path)


def given(sign):
    """Tell whether the test has given a sign."""
    return os.path.exists(os.path.join(DIRECTORY, "sign-" + sign))


def await_sign(sign, within_s=60):
    """Sleep until the test gives a sign: this process takes no tasks meanwhile."""
    deadline = time.monotonic() + within_s
    while not given(sign):
        if time.monotonic() > deadline:
            raise TimeoutError("the test gave no sign %r" % sign)
        time.sleep(0.01)


def notes(kind, key=""):
    """Return how often a kind, or a kind with a key, stands in the ledger so far."""
    beginning = "%s %s" % (kind, key) + (" " if key else "")
    try:
        with open(os.path.join(DIRECTORY, "ledger"), encoding="ascii") as file:
            return sum(line.startswith(beginning) for line in file)
    except FileNotFoundError:
        return 0


def await_notes(kind, count, key="", within_s=60):
    """Sleep until the ledger holds so many such lines: this process takes no tasks meanwhile."""
    deadline = time.monotonic() + within_s
    while notes(kind, key) < count:
        if time.monotonic() > deadline:
            raise TimeoutError("%d of %d notes %r %r" % (notes(kind, key), count, kind, key))
        time.sleep(0.01)


def poll(future, within_s=30):
    """Sleep until a future is done, without running tasks for it; return it."""
    deadline = time.monotonic() + within_s
    while not future.done():
        if time.monotonic() > deadline:
            raise TimeoutError("the future is not done after %s s" % within_s)
        time.sleep(0.01)
    return future


def fate(future, within_s=30):
    """Return what became of a future, on one line: ``right VALUE`` or ``TYPE: TEXT``."""
    error = poll(future, within_s).exception()
    if error is None:
        return "right %r" % (future.result(),)
    return "%s: %s" % (type(error).__name__, " / ".join(str(error).splitlines()))


def host():
    """Return the name of the host that this process runs on, be it a stand-in or a real one."""
    if os.getpid() not in HOSTS:
        HOSTS[os.getpid()] = find_host()
    return HOSTS[os.getpid()]


def find_host():
    """Return the host of the nearest starter above this process, else the machine's name."""
    pid = os.getpid()
    while pid > 1:
        with open("/proc/%d/cmdline" % pid, "rb") as file:
            words = file.read().split(b"\0")
        if any(word.endswith(b"/faults/starter.py") for word in words):
            return os.fsdecode(words[words.index(b"--") + 1])
        with open("/proc/%d/stat" % pid, "rb") as file:
            pid = int(file.read().rpartition(b")")[2].split()[1])
    return socket.gethostname()


def hold_gil(seconds):
    """Compute in C without ever letting another thread of this process run."""
    ctypes.PyDLL(None).usleep(int(seconds * 1e6))


def burn(seconds):
    """Compute in Python."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        pass


def zmq_sockets():
    """Return this process's open ØMQ sockets, also those that were made before a gc.freeze()."""
    import gc

    import zmq
    gc.unfreeze()
    return [found for found in gc.get_objects() if isinstance(found, zmq.Socket) and not found.closed]


def curve_key(zmq_socket, option):
    """Return one of a socket's CURVE keys, 32 bytes; pyzmq can set them only, libzmq also tells them."""
    import zmq.backend.cython._zmq as binding
    key, size = ctypes.create_string_buffer(32), ctypes.c_size_t(32)
    library = ctypes.CDLL(binding.__file__)
    if library.zmq_getsockopt(ctypes.c_void_p(zmq_socket.underlying), option, key, ctypes.byref(size)) != 0:
        raise OSError("libzmq tells no key")
    return key.raw


def die(how):
    """End this process in one of the ways that a task should not.

    Args:
        how: ``exit`` (SystemExit), ``_exit`` (no clean-up, status 0), ``segfault``, or ``kill`` (SIGKILL).
    """
    if how == "exit":
        sys.exit("a task called sys.exit")
    elif how == "_exit":
        os._exit(0)
    elif how == "segfault":
        ctypes.string_at(0)
    else:
        os.kill(os.getpid(), signal.SIGKILL)


class Trap:
    """An object that does harm at one end of its journey.

    Args:
        how: what ``die`` is to do.
        when: ``pickled`` or ``unpickled``.
        home: the process in which nothing happens (the origin builds and may look at the object unharmed).
    """

    def __init__(self, how, when, home=0):
        self.how, self.when, self.home = how, when, home

    def __reduce__(self):
        if self.when == "pickled" and os.getpid() != self.home:
            note("sprung", "pickled")
            die(self.how)
        return spring, (self.how, self.when, self.home)


def spring(how, when, home):
    """Rebuild a Trap, or go off."""
    if when == "unpickled" and os.getpid() != home:
        note("sprung", "unpickled")
        die(how)
    return Trap(how, when, home)
