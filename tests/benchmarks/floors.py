"""The floors: what the same machine does in the same minute without any task system."""

from __future__ import annotations

import os
import pickle
import socket
import struct
import time

import nested
import tasks

LENGTH = struct.Struct("!Q")


class Partner:
    """A forked process at the other end of a socketpair.

    Args:
        serve: Called in the new process with its end; the process exits when it returns.
    """

    def __init__(self, serve):
        self.link, theirs = socket.socketpair()
        self.pid = os.fork()
        if not self.pid:
            status = 1
            try:
                self.link.close()
                serve(theirs)
                status = 0
            finally:
                os._exit(status)
        theirs.close()

    def close(self):
        """End the partner and collect it."""
        self.link.close()
        os.waitpid(self.pid, 0)


def send(link, value):
    """Send one pickled value."""
    data = pickle.dumps(value, protocol=5)
    link.sendall(LENGTH.pack(len(data)) + data)


def receive_into(link, view):
    """Fill a buffer from a socket."""
    while len(view):
        n = link.recv_into(view)
        if not n:
            raise EOFError
        view = view[n:]


def receive(link):
    """Return one pickled value."""
    head = bytearray(LENGTH.size)
    receive_into(link, memoryview(head))
    data = bytearray(LENGTH.unpack(head)[0])
    receive_into(link, memoryview(data))
    return pickle.loads(data)


def serve_columns(link):
    """Answer columns of arguments with the list of results, until the other end closes."""
    while True:
        try:
            function, columns = receive(link)
        except EOFError:
            return
        send(link, list(map(function, *columns)))


def map_one_process(items):
    """Return seconds for the same list in one process."""
    noop = tasks.noop
    start = time.perf_counter()
    result = [noop(item) for item in items]
    length_s = time.perf_counter() - start
    check(result, list(items))
    return length_s


def map_two_processes(items):
    """Return seconds for the same list in two processes: half of the arguments travel as a column."""
    partner = Partner(serve_columns)
    send(partner.link, (tasks.noop, ([1],)))
    receive(partner.link)
    half = len(items) // 2
    start = time.perf_counter()
    send(partner.link, (tasks.noop, (items[half:],)))
    result = list(map(tasks.noop, items[:half]))
    result += receive(partner.link)
    length_s = time.perf_counter() - start
    partner.close()
    check(result, list(items))
    return length_s


class BareFuture:
    """The least that a future can be."""

    __slots__ = ("function", "args", "value")

    def __init__(self, function, args):
        self.function = function
        self.args = args


def submit_in_process(n):
    """Return seconds to make a future, pickle and unpickle its call, and call it, for `n` tasks one by one."""
    dumps, loads = pickle.dumps, pickle.loads
    start = time.perf_counter()
    futures = [BareFuture(tasks.noop, (index,)) for index in range(n)]
    for future in futures:
        function, args = loads(dumps((future.function, future.args), 5))
        future.value = function(*args)
    result = [future.value for future in futures]
    length_s = time.perf_counter() - start
    check(result, list(range(n)))
    return length_s


def spin_two_processes(length_ns, n):
    """Return seconds for `n` busy-wait tasks, half of them in each of two bare processes."""
    partner = Partner(serve_columns)
    send(partner.link, (tasks.spin, ([1],)))
    receive(partner.link)
    start = time.perf_counter()
    send(partner.link, (tasks.spin, ([length_ns] * (n - n // 2),)))
    result = list(map(tasks.spin, [length_ns] * (n // 2)))
    result += receive(partner.link)
    length_s = time.perf_counter() - start
    partner.close()
    check(result, [length_ns] * n)
    return length_s


def fib_serial(n):
    """Return seconds for half of the serial run: what two perfect workers would take."""
    start = time.perf_counter()
    nested.serial_fib(n)
    return (time.perf_counter() - start) / 2


def greenlet_loop(n):
    """Return seconds for a loop that makes a greenlet for each of `n` tasks, switches to it and gets its value back."""
    from greenlet import greenlet
    start = time.perf_counter()
    result = [greenlet(tasks.noop).switch(index) for index in range(n)]
    length_s = time.perf_counter() - start
    check(result, list(range(n)))
    return length_s


def relay(source, target, n_bytes):
    """Pass messages of `n_bytes` on, both ways, until the near end closes."""
    while True:
        data = source.recv(n_bytes)
        if not data:
            return
        target.sendall(data)
        source.sendall(target.recv(n_bytes))


def serve_hops(n_hops, n_bytes):
    """Return what the process at the far end of a link does: echo, or pass on to one that is `n_hops` - 1 away."""
    def serve(link):
        if n_hops == 1:
            while True:
                data = link.recv(n_bytes)
                if not data:
                    return
                link.sendall(data)
        partner = Partner(serve_hops(n_hops - 1, n_bytes))
        relay(link, partner.link, n_bytes)
        partner.close()
    return serve


def ping_pong(n_hops, n, idle_s=0.0, n_bytes=100):
    """Return the seconds of `n` round trips over `n_hops` AF_UNIX links."""
    partner = Partner(serve_hops(n_hops, n_bytes))
    message, lengths = b"x" * n_bytes, []
    for _ in range(n):
        if idle_s:
            time.sleep(idle_s)
        start = time.perf_counter()
        partner.link.sendall(message)
        partner.link.recv(n_bytes)
        lengths.append(time.perf_counter() - start)
    partner.close()
    return lengths


def memcpy_gb_s(n_elements, n):
    """Return GB/s of copying arrays into fresh memory, the second time: a virtual machine has its pages by then."""
    import numpy
    arrays = [numpy.full(n_elements, float(index)) for index in range(n)]
    for _ in range(2):
        start = time.perf_counter()
        copies = [array.copy() for array in arrays]
        length_s = time.perf_counter() - start
        check([copy[-1] for copy in copies], list(range(n)))
        del copies
    return n * arrays[0].nbytes / length_s / 1e9


def socketpair_gb_s(n_elements, n):
    """Return GB/s of arrays through a socketpair, received straight into fresh memory and read there."""
    import numpy
    arrays = [numpy.full(n_elements, float(index)) for index in range(n)]
    partner = Partner(lambda link: serve_arrays(link, n_elements, n))
    start = time.perf_counter()
    for array in arrays:
        partner.link.sendall(memoryview(array).cast("B"))
    sums = receive(partner.link)
    length_s = time.perf_counter() - start
    partner.close()
    check(sums, [float(index) * n_elements for index in range(n)])
    return n * arrays[0].nbytes / length_s / 1e9


def serve_arrays(link, n_elements, n):
    """Receive `n` arrays and send their sums."""
    import numpy
    sums = []
    for _ in range(n):
        array = numpy.empty(n_elements)
        receive_into(link, memoryview(array).cast("B"))
        sums.append(float(array.sum()))
    send(link, sums)


def list_schedule(lengths, workers):
    """Return the makespan when each task in turn goes to the worker that is free first."""
    free = [0.0] * workers
    for length in lengths:
        index = free.index(min(free))
        free[index] += length
    return max(free)


def held_bytes(n):
    """Return the resident bytes of a list of `n` bare futures with arguments."""
    before = resident()
    held = [BareFuture(tasks.noop, (index,)) for index in range(n)]
    return (resident() - before) / len(held)


def resident():
    """Return this process's resident bytes."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def sleepers(n, n_naps, nap_s):
    """Return seconds for `n` forked processes to take all their naps, from a start that they wait for together."""
    start_read, start_write = os.pipe()
    done_read, done_write = os.pipe()
    pids = [fork_sleeper(start_read, start_write, done_write, n_naps, nap_s) for _ in range(n)]
    os.close(start_read)
    time.sleep(0.5)             # all of them wait by now
    start = time.perf_counter()
    os.close(start_write)       # end-of-file wakes all of them
    n_done = 0
    while n_done < n:
        n_done += len(os.read(done_read, n))
    length_s = time.perf_counter() - start
    for pid in pids:
        os.waitpid(pid, 0)
    for end in (done_read, done_write):
        os.close(end)
    return length_s


def fork_sleeper(start_read, start_write, done_write, n_naps, nap_s):
    """Fork a process that waits for the start, sleeps, tells and exits."""
    pid = os.fork()
    if pid:
        return pid
    os.close(start_write)
    os.read(start_read, 1)
    for _ in range(n_naps):
        time.sleep(nap_s)
    os.write(done_write, b".")
    os._exit(0)


def relay_cpu_us(n_messages, n_bytes, tasks_a_message):
    """Return the CPU time a task costs the middle one of three processes, which passes on message and answer."""
    counters = Partner(lambda link: serve_relay(link, n_bytes))
    message = b"x" * n_bytes
    for _ in range(n_messages):
        counters.link.sendall(message)
        left = n_bytes
        while left:
            left -= len(counters.link.recv(left))
    counters.link.shutdown(socket.SHUT_WR)
    used_s = receive(counters.link)
    counters.close()
    return used_s / (n_messages * tasks_a_message) * 1e6


def serve_relay(link, n_bytes):
    """Pass on, both ways, until the near end has no more; then tell the CPU time that took."""
    partner = Partner(serve_hops(1, n_bytes))
    before = time.process_time()
    while True:
        data = link.recv(n_bytes)
        if not data:
            break
        partner.link.sendall(data)
        left = len(data)
        while left:
            answer = partner.link.recv(left)
            link.sendall(answer)
            left -= len(answer)
    send(link, time.process_time() - before)
    partner.close()


def check(result, expected):
    """Refuse a wrong result: a number about it would mean nothing."""
    if result != expected:
        raise ValueError("wrong result")
