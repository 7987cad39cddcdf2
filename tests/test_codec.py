"""Our ZMTP 3.1 (Codec, encode, StreamLink) against libzmq in both roles, and every way to cut or spoil bytes."""

from __future__ import annotations

import ctypes
import errno
import functools
import importlib.util
import mmap
import os
import random
import re
import select
import selectors
import socket
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import scoop_lite
from scoop_lite import BIG_FRAME, Codec, PeerError, StreamLink, encode

SIZES = [0, 1, 2, 127, 254, 255, 256, 257, 32767, 32768, 32769, 65535, 65536, 65537, 1 << 20]
HELLO = scoop_lite.OPENING

needs_zmq = pytest.mark.skipif(importlib.util.find_spec("zmq") is None, reason="pyzmq is not installed")


def flat(buffers):
    return b"".join(bytes(b) for b in buffers)


def plain(messages):
    return [[bytes(frame) for frame in message] for message in messages]


def feed_like_a_link(codec, data):
    """Do what `StreamLink.receive` does with bytes: those of a big frame go straight into its buffer."""
    view = memoryview(data)
    while view:
        if codec.big is not None:
            n = min(len(codec.big), len(view))
            codec.big[:n] = view[:n]
            codec.filled(n)
        else:
            n = min(1 << 16, len(view))
            codec.feed(bytes(view[:n]))
        view = view[n:]


def decode(pieces):
    codec = Codec()
    for piece in pieces:
        feed_like_a_link(codec, piece)
    return plain(codec.messages)


# ---------------------------------------------------------------------------------------------------------------------
# Bytes cut anywhere
# ---------------------------------------------------------------------------------------------------------------------

frames = st.one_of(
    st.binary(max_size=300), st.sampled_from(SIZES[:-1]).map(bytes), st.integers(0, 70_000).map(lambda n: b"x" * n)
)
messages = st.lists(st.lists(frames, min_size=1, max_size=4), max_size=4)


def interleave(batch):
    """Put a PING before each message, and an unknown command behind: commands may stand between messages."""
    for message in batch:
        yield scoop_lite.command(b"PING", b"\0\x0a" + b"context")
        yield flat(encode(message, []))
        yield scoop_lite.command(b"NOVELTY", b"anything")


@given(messages, st.lists(st.integers(0, 1 << 20), max_size=30))
@settings(deadline=None)
def test_any_cut_gives_the_same_messages(batch, cuts):
    data = HELLO + b"".join(interleave(batch))
    edges = sorted({0, len(data), *(c % (len(data) + 1) for c in cuts)})
    assert decode(data[a:b] for a, b in zip(edges, edges[1:])) == batch


@pytest.mark.parametrize("step", (1, 2, 3, 7, 8, 9, 10, 63, 64, 65))
def test_every_byte_boundary(step):
    batch = [[b"a"], [b"", b"b" * 255, b""], [b"c" * 256], [b"", b""], [b"d" * 300, b"e"]]
    data = HELLO + b"".join(interleave(batch))
    assert decode(data[i : i + step] for i in range(0, len(data), step)) == batch


def test_one_cut_at_every_place():
    batch = [[b"a", b"b" * 256], [b"", b"c" * 255], [b"d" * 600]]
    data = HELLO + b"".join(interleave(batch))
    for cut in range(len(data) + 1):
        assert decode([data[:cut], data[cut:]]) == batch


def test_one_cut_at_every_place_near_big_frames():
    batch = [[b"a", b"b" * 32768, b"c"], [b"d" * 32767], [b"e" * 70000, b"f" * 32768]]
    data = HELLO + b"".join(flat(encode(message, [])) for message in batch)
    near = {i + d for i in (0, len(HELLO), len(HELLO) + 32768, len(HELLO) + 65535, len(data)) for d in range(-40, 41)}
    for cut in sorted(c for c in near if 0 <= c <= len(data)):
        assert decode([data[:cut], data[cut:]]) == batch


def test_a_greeting_is_known_at_its_last_byte():
    codec = Codec()
    codec.feed(scoop_lite.GREETING[:-1])
    assert not codec.greeted
    codec.feed(scoop_lite.GREETING[-1:])
    assert codec.greeted and codec.rest == b""


def test_pings_are_answered_with_their_context():
    codec = Codec()
    codec.feed(HELLO + scoop_lite.command(b"PING", b"\0\x0acontext 16 bytes") + scoop_lite.command(b"PING", b"\0\x0a"))
    assert codec.replies == [scoop_lite.command(b"PONG", b"context 16 bytes"), scoop_lite.command(b"PONG")]
    codec.feed(scoop_lite.command(b"PING", b"\0\x0acontext 16 bytes and more"))  # RFC 37 allows no more
    assert codec.replies[2:] == [scoop_lite.command(b"PONG", b"context 16 bytes")]
    assert not codec.messages


def test_encode_joins_small_frames_and_leaves_big_ones_alone():
    big = bytearray(1 << 20)
    buffers = encode([b"a", big, b"b" * 300, b""], [])
    assert len(buffers) == 3 and buffers[1] is big
    rest = b"\3" + (300).to_bytes(8, "big") + b"b" * 300 + b"\0\0"
    assert flat(buffers) == b"\1\1a\3" + (1 << 20).to_bytes(8, "big") + big + rest


# ---------------------------------------------------------------------------------------------------------------------
# Garbage
# ---------------------------------------------------------------------------------------------------------------------


def buffered(codec):
    """Count the bytes that a codec keeps in its own buffers."""
    return len(codec.rest) + (len(codec.buffer) if codec.buffer is not None else 0)


def survive(codec, data):
    """Feed anything; only PeerError may come of it, and what is kept is bounded by what came."""
    fed = 0
    try:
        for i in range(0, len(data), 50):
            feed_like_a_link(codec, data[i : i + 50])
            fed += 50
            assert len(codec.rest) < scoop_lite.BIG_FRAME + 9
    except PeerError as error:
        assert len(str(error)) < 2000


@given(st.binary(max_size=2000))
@settings(deadline=None)
def test_garbage_is_a_peer_error_at_most(data):
    survive(Codec(max_frame=1 << 20), data)
    survive(Codec(max_frame=1 << 20), HELLO + data)
    survive(Codec(max_frame=1 << 20), scoop_lite.GREETING + data)


@given(messages, st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), min_size=1, max_size=5))
@settings(deadline=None)
def test_flipped_bytes_are_a_peer_error_at_most(batch, flips):
    data = bytearray(HELLO + b"".join(interleave(batch)))
    for at, value in flips:
        data[at % len(data)] = value
    survive(Codec(max_frame=1 << 20), bytes(data))


@pytest.mark.parametrize(
    "data, text",
    [
        (b"Welcome to node1\n", "expected a ZMTP 3 greeting, got b'Welcome to node1"),
        (b"\xff" + bytes(8) + b"\x7e", "greeting"),
        (b"\xff" + bytes(8) + b"\x7f\x01", "greeting"),
        (scoop_lite.GREETING.replace(b"NULL\0", b"PLAIN"), "NULL mechanism"),
        (scoop_lite.GREETING + b"\0\1x", "before the handshake"),
        (HELLO + b"\2" + (1 << 63).to_bytes(8, "big"), "not a frame"),
        (HELLO + b"\2" + ((1 << 64) - 1).to_bytes(8, "big"), "not a frame"),
        (HELLO + b"\2" + (scoop_lite.MAX_FRAME + 1).to_bytes(8, "big"), "not a frame"),
        (HELLO + b"\x08\0", "not a frame"),
        (HELLO + b"\xff" + bytes(8), "not a frame"),
        (scoop_lite.GREETING + scoop_lite.command(b"ERROR", b"\x05no no"), "no no"),
    ],
)
def test_what_is_not_the_protocol_is_named(data, text):
    with pytest.raises(PeerError, match=text):
        Codec().feed(data)


def test_an_announced_big_frame_costs_no_memory_before_it_comes():
    """A peer that announces gigabytes and sends nothing must not have us take the memory for them."""
    import tracemalloc

    tracemalloc.start()
    try:
        codec = Codec()
        started = time.perf_counter()
        codec.feed(HELLO + b"\2" + scoop_lite.MAX_FRAME.to_bytes(8, "big") + b"x")
        assert tracemalloc.get_traced_memory()[1] <= scoop_lite.MAX_FRAME + (1 << 20)
        assert time.perf_counter() - started < 1
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("size", [0, BIG_FRAME, scoop_lite.HUGE_BUFFER - 1, scoop_lite.HUGE_BUFFER, 3 << 20])
def test_a_buffer_to_receive_into_is_writable_and_zero(size):
    view = memoryview(scoop_lite.room_for(size))
    assert len(view) == size and not view.readonly and bytes(view) == bytes(size)
    view[-1:] = view[:1]


def test_a_big_frame_is_of_huge_pages():
    """Where the kernel has them: then it takes one page fault for 512."""
    try:
        with open("/sys/kernel/mm/transparent_hugepage/enabled") as file:
            if "[never]" in file.read():
                pytest.skip("no huge pages: they are turned off here")
    except FileNotFoundError:
        pytest.skip("no huge pages: not Linux, or a kernel without")
    codec, size = Codec(), 32 << 20
    codec.feed(HELLO + b"\2" + size.to_bytes(8, "big") + b"x")
    room = codec.buffer
    start = ctypes.addressof(ctypes.c_char.from_buffer(room))
    with open("/proc/self/smaps") as file:
        found = re.search(r"^%x-.*?^VmFlags:(.*?)$" % start, file.read(), re.MULTILINE | re.DOTALL)
    assert found and "hg" in found.group(1).split(), found and found.group()


def test_without_huge_pages_a_buffer_is_an_ordinary_one(monkeypatch):
    def refuse(*args):
        raise OSError(errno.EINVAL, "a kernel without them")

    monkeypatch.setattr(mmap, "mmap", refuse)
    assert type(scoop_lite.room_for(scoop_lite.HUGE_BUFFER)) is bytearray


@pytest.mark.parametrize("size", [2 * BIG_FRAME, 3 * BIG_FRAME, 5 * BIG_FRAME + 7])
@pytest.mark.parametrize("step", [1000, BIG_FRAME, BIG_FRAME + 9, 1 << 20])
def test_a_frame_without_room_is_passed_over_where_nothing_is_relayed(step, size, monkeypatch):
    def refuse(size):
        raise MemoryError

    codec = Codec()
    codec.spares = True
    data = HELLO + flat(encode([b"before"], [])) + flat(encode([b"a", bytes(size), b"b"], []))
    data += flat(encode([b"after"], []))
    monkeypatch.setattr(scoop_lite, "room_for", refuse)
    for at in range(0, len(data), step):
        feed_like_a_link(codec, data[at : at + step])
    assert list(codec.messages) == [[b"before"], [b"a", scoop_lite.NO_ROOM, b"b"], [b"after"]]
    assert codec.messages[1][1] is scoop_lite.NO_ROOM
    with pytest.raises(MemoryError):
        Codec().feed(HELLO + b"\2" + size.to_bytes(8, "big"))


@pytest.mark.parametrize("size", (BIG_FRAME, 1 << 30))
def test_a_command_may_not_be_big(size):
    """Commands are for libraries; one of gigabytes would be kept whole before anyone looked at it."""
    with pytest.raises(PeerError, match="not a frame of this protocol"):
        Codec().feed(HELLO + bytes([scoop_lite.COMMAND | scoop_lite.LONG]) + size.to_bytes(8, "big") + b"x")


def test_endless_frames_of_one_message_are_bounded():
    codec, more = Codec(), b"\1\0" * 32768
    codec.feed(HELLO)
    with pytest.raises(PeerError, match="frames"):
        for _ in range(1000):
            codec.feed(more)


# ---------------------------------------------------------------------------------------------------------------------
# StreamLink over sockets and pipes
# ---------------------------------------------------------------------------------------------------------------------


def collect(link, n, limit_s=20.0):
    """Receive `n` messages, writing whatever waits."""
    found, deadline = [], time.monotonic() + limit_s
    while len(found) < n and not link.closed and time.monotonic() < deadline:
        scoop_lite.Waits(link.fileno()).wait([link], 0.1)
        link.flush()
        arrived = link.receive()
        while arrived:
            found.append(arrived.popleft())
    return plain(found)


@pytest.mark.skipif(not scoop_lite.EXCLUSIVE, reason="this system always wakes both")
@pytest.mark.parametrize("first_waits", (True, False))
def test_of_two_threads_that_wait_for_a_link_one_is_woken_and_rather_the_first(first_waits):
    ours, theirs = socket.socketpair()
    order = [scoop_lite.Waits(ours.fileno(), shared=True) for _ in range(2)]
    woken = [None, None]

    def wait(i):
        woken[i] = order[i].wait((), 0.5)

    threads = [threading.Thread(target=wait, args=(i,)) for i in ((1, 0) if first_waits else (1,))]
    for thread in threads:
        thread.start()
    time.sleep(0.25)  # they wait
    theirs.send(b"!")
    for thread in threads:
        thread.join()
    assert woken == ([{ours.fileno(): 1}, {}] if first_waits else [None, {ours.fileno(): 1}])
    assert order[0].wait((), 0) == {ours.fileno(): 1}  # it has not been read
    assert order[1].wait((), 0) == ({} if first_waits else {ours.fileno(): 1})  # nobody tells the other one later
    ours.close()
    theirs.close()


@pytest.mark.skipif(not scoop_lite.EXCLUSIVE, reason="this system always wakes both")
def test_where_a_kernel_only_imitates_linux_both_are_woken(monkeypatch):
    # No kernel takes these two together.
    monkeypatch.setattr(scoop_lite, "EXCLUSIVE", scoop_lite.EXCLUSIVE | select.EPOLLONESHOT)
    ours, theirs = socket.socketpair()
    two = [scoop_lite.Waits(ours.fileno(), shared=True) for _ in range(2)]
    assert not any(waits.shared for waits in two)
    theirs.send(b"!")
    assert [waits.wait((), 1) for waits in two] == [{ours.fileno(): select.POLLIN}] * 2
    ours.close()
    theirs.close()


@pytest.mark.skipif(not hasattr(select, "epoll"), reason="this system has only `poll`")
def test_many_descriptors_are_not_looked_at_one_by_one():
    pairs = [socket.socketpair() for _ in range(3)]
    waits = scoop_lite.Waits(pairs[0][0].fileno(), many=True)
    for ours, _ in pairs[1:]:
        waits.add(ours)
    assert isinstance(waits.poll, select.epoll)
    pairs[2][1].send(b"!")
    assert waits.wait((), 1) == {pairs[2][0].fileno(): select.EPOLLIN}
    for sock in [sock for pair in pairs for sock in pair]:
        sock.close()


@pytest.mark.parametrize("how", ({}, {"shared": True}, {"many": True}))
def test_who_has_something_to_write_waits_for_that_too(how):
    ours, theirs = socket.socketpair()
    link = StreamLink(ours)
    waits = scoop_lite.Waits(link.fileno(), **how)
    assert waits.wait([link], 0) == {link.fileno(): select.POLLOUT}
    link.flush()
    assert waits.wait([link], 0) == {}
    waits.forget(link)
    theirs.send(b"!")
    assert waits.wait([link], 0) == {}
    waits.add(link)
    assert waits.wait([link], 0) == {link.fileno(): select.POLLIN}
    link.close()
    theirs.close()


@pytest.mark.parametrize("ended", [False, True])
def test_what_nobody_will_read_is_not_waited_for(ended):
    """Such as by an agent whose launcher was killed, behind a starter that still holds the pipe open."""
    (reader, to_us), (from_us, writer) = os.pipe(), os.pipe()
    link = StreamLink(open(reader, "rb", 0), open(writer, "wb", 0))
    link.send([bytes(3_000_000)])
    if ended:
        os.close(to_us)
        link.receive()
    started = time.perf_counter()
    link.drain(0.5)
    assert (time.perf_counter() - started < 0.4) is ended and link.out
    link.close()
    for fd in (from_us,) if ended else (from_us, to_us):
        os.close(fd)


@pytest.mark.parametrize("family", ("unix", "tcp", "pipes"))
def test_two_links_talk(family):
    make = {"unix": socket.socketpair, "tcp": tcp_pair}.get(family)
    one, other = map(StreamLink, make()) if make else pipe_links()
    batch = [[b"n", bytes(size), b""] for size in SIZES]
    writer = threading.Thread(target=lambda: [one.send(m) for m in batch] and one.drain(20))
    writer.start()
    assert collect(other, len(batch)) == batch
    writer.join()
    one.receive()  # the greeting: what is left unread makes a reset of the end
    one.close()
    assert collect(other, 1) == [] and other.closed == "the connection ended"
    other.close()


def tcp_pair():
    with socket.create_server(("127.0.0.1", 0)) as server:
        a = socket.create_connection(server.getsockname())
        return a, server.accept()[0]


def pipe_links():
    """As over a starter: what one writes to its standard output, the other reads from a pipe."""
    (a, b), (c, d) = os.pipe(), os.pipe()
    ends = [open(fd, mode, 0) for fd, mode in ((a, "rb"), (d, "wb"), (c, "rb"), (b, "wb"))]
    return StreamLink(*ends[:2]), StreamLink(*ends[2:])


def links(**how):
    a, b = socket.socketpair()
    one, other = StreamLink(a), StreamLink(b, **how)
    for link in (one, other, one):
        link.flush()
        link.receive()
    return one, other


@pytest.mark.skipif(not hasattr(socket.socket, "sendmsg"), reason="descriptors are not passed here")
def test_a_descriptor_comes_with_its_message_and_not_before_earlier_ones():
    one, other = links(passes_descriptors=True)
    reader, writer = os.pipe()
    batch = [[b"big", bytes(3_000_000)], [b"with a descriptor"], [b"last"]]
    found = []
    thread = threading.Thread(target=lambda: found.extend(collect(other, 3)))
    thread.start()
    one.send(batch[0])
    one.send_with_descriptors(batch[1], writer)
    one.send(batch[2])
    thread.join(20)
    assert found == batch and len(other.descriptors) == 1
    os.write(other.descriptors[0], b"it is the same pipe")
    assert os.read(reader, 99) == b"it is the same pipe"
    other.send([b"last words"])
    other.close()
    one.send_with_descriptors(batch[1], writer)
    assert list(one.receive()) == [[b"last words"]] and not one.out  # though the other end has gone
    assert one.receive() and one.closed
    for fd in (reader, writer, other.descriptors[0]):
        os.close(fd)


def test_a_silent_link_is_asked_and_then_given_up_but_not_after_a_pause_of_ones_own():
    one, other = links()
    beat = functools.partial(one.beat, heartbeat_s=1.0, dead_after_s=5.0)
    one.last_heard_s = one.beat_s = 100.0
    beat(100.1)
    assert list(one.out) == [scoop_lite.PING]
    beat(101.2)
    assert list(one.out) == [scoop_lite.PING]  # the first one is on its way
    one.flush()
    other.receive()
    assert other.closed == "" and not one.codec.messages
    for at_s in range(102, 106):
        beat(float(at_s))
    assert not one.closed
    beat(105.5)
    assert one.closed == "nothing was heard for 5 s"
    one.closed = ""
    beat(120.0)  # stopped for a quarter of a minute: what came meanwhile is read first
    assert not one.closed and one.last_heard_s == 120.0
    one.last_heard_s = float("inf")  # as after SUSPEND
    beat(500.0)
    assert one.last_heard_s == float("inf") and not one.closed


@pytest.mark.parametrize("make", (links, pipe_links))
def test_a_selector_watches_what_is_left_to_do(make):
    one, other = make()
    with selectors.DefaultSelector() as selector:
        selector.register(one.reader, selectors.EVENT_READ, "data")
        assert one.watch(selector) and one.backlog() == 0
        one.queue([bytes(30_000_000)])
        assert not one.watch(selector) and 0 < one.backlog() <= 30_000_100
        watched = {key.fd: key.events for key in selector.get_map().values()}
        if one.reader is one.writer:
            assert watched == {one.fileno(): selectors.EVENT_READ | selectors.EVENT_WRITE}
            one.held = True
            one.watch(selector)
            assert {key.fd: key.events for key in selector.get_map().values()} == {one.fileno(): selectors.EVENT_WRITE}
        else:
            assert watched == {one.fileno(): selectors.EVENT_READ, one.writer.fileno(): selectors.EVENT_WRITE}
        while not one.watch(selector):
            other.receive(1 << 30)
        if one.held:
            assert not selector.get_map()
            one.held = False
            assert one.watch(selector)
        assert {key.fd: key.events for key in selector.get_map().values()} == {one.fileno(): selectors.EVENT_READ}
        assert selector.get_key(one.reader).data == "data"
        one.unwatch(selector)
        assert not selector.get_map()
    one.close()
    other.close()


def test_a_bell_rings_once_however_often_it_is_rung_and_may_be_silent():
    bell = scoop_lite.Bell()
    bell.clear()
    for _ in range(100_000):  # more than its buffer holds
        bell.ring()
    assert select.select([bell], [], [], 0)[0]
    while select.select([bell], [], [], 0)[0]:
        bell.clear()
    bell.clear()


def test_a_link_that_gets_garbage_closes_and_says_what_it_got():
    a, b = socket.socketpair()
    link = StreamLink(a)
    b.sendall(b"bash: python3: command not found\n")
    collect(link, 1, 1)
    assert "command not found" in link.closed
    link.close()
    b.close()


# ---------------------------------------------------------------------------------------------------------------------
# libzmq at the other end
# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def context():
    import zmq

    context = zmq.Context()
    yield context
    context.destroy(linger=0)


def connect(context, transport, role, tmp_path, heartbeat_ms=0):
    """Join a libzmq DEALER and a StreamLink; `role` says whether libzmq binds or connects."""
    import zmq

    dealer = context.socket(zmq.DEALER)
    dealer.linger = 0
    if heartbeat_ms:
        dealer.setsockopt(zmq.HEARTBEAT_IVL, heartbeat_ms)
        dealer.setsockopt(zmq.HEARTBEAT_TIMEOUT, 5 * heartbeat_ms)
        dealer.setsockopt(zmq.HEARTBEAT_TTL, 10_000)
    path = str(tmp_path / "s")
    family = socket.AF_UNIX if transport == "ipc" else socket.AF_INET
    if role == "binds":
        if transport == "ipc":
            dealer.bind("ipc://" + path)
            address = path
        else:
            address = ("127.0.0.1", dealer.bind_to_random_port("tcp://127.0.0.1"))
        ours = socket.socket(family)
        ours.connect(address)
    else:
        with socket.socket(family) as server:
            server.bind(path if transport == "ipc" else ("127.0.0.1", 0))
            server.listen()
            dealer.connect("ipc://" + path if transport == "ipc" else "tcp://127.0.0.1:%d" % server.getsockname()[1])
            ours = server.accept()[0]
    link = StreamLink(ours)
    link.flush()  # our opening; libzmq's DEALER sends nothing before it
    return dealer, link


both_ways = [
    needs_zmq,
    pytest.mark.parametrize("transport", ("tcp", "ipc")),
    pytest.mark.parametrize("role", ("binds", "connects")),
]


def with_libzmq(test):
    for mark in both_ways:
        test = mark(test)
    return test


@with_libzmq
def test_messages_both_ways(context, transport, role, tmp_path):
    dealer, link = connect(context, transport, role, tmp_path)
    rng = random.Random(1)
    batch = [[rng.randbytes(size) if hasattr(rng, "randbytes") else bytes(size)] for size in SIZES]
    batch += [[b"", b"x" * 300, b""], [b"a"] * 20, [bytes(40_000), b"", bytes(70_000)]]
    for message in batch:
        dealer.send_multipart(message)
    assert collect(link, len(batch)) == batch
    echo = threading.Thread(target=lambda: [link.send(m) for m in batch] and link.drain(20))
    echo.start()
    dealer.rcvtimeo = 20_000
    assert [dealer.recv_multipart() for _ in batch] == batch
    echo.join()
    link.close()
    dealer.close()


@with_libzmq
def test_frames_of_64_mb(context, transport, role, tmp_path):
    dealer, link = connect(context, transport, role, tmp_path)
    big = bytes(range(256)) * (64 << 12)
    dealer.send_multipart([b"head", big, b"tail"])
    assert collect(link, 1, 60) == [[b"head", big, b"tail"]]
    writer = threading.Thread(target=lambda: (link.send([b"head", big, b"tail"]), link.drain(60)))
    writer.start()
    dealer.rcvtimeo = 60_000
    assert dealer.recv_multipart() == [b"head", big, b"tail"]
    writer.join()
    link.close()
    dealer.close()


@with_libzmq
def test_heartbeats_keep_the_connection(context, transport, role, tmp_path):
    """libzmq pings each 20 ms and would give up after 100; it reconnects then, which our link would see as its end."""
    dealer, link = connect(context, transport, role, tmp_path, heartbeat_ms=20)
    collect(link, 1, 0.5)
    assert not link.closed
    read_before = link.n_in
    collect(link, 1, 0.3)
    assert link.n_in > read_before, "no PING came"
    dealer.send(b"still here")
    assert collect(link, 1) == [[b"still here"]]
    link.send([b"so are we"])
    dealer.rcvtimeo = 5000
    assert dealer.recv() == b"so are we"
    assert not link.closed
    link.close()
    dealer.close()


@needs_zmq
def test_without_answers_to_heartbeats_libzmq_would_have_given_up(context, tmp_path, monkeypatch):
    """The control: it is the PONGs that keep the connection above."""
    monkeypatch.setattr(Codec, "obey", lambda self, body: setattr(self, "ready", True))
    _, link = connect(context, "tcp", "binds", tmp_path, heartbeat_ms=20)
    collect(link, 1, 1.5)
    assert link.closed


@needs_zmq
def test_another_mechanism_ends_the_connection(context):
    """Whoever reads the other's greeting first ends it: libzmq, or we."""
    import zmq

    dealer = context.socket(zmq.DEALER)
    dealer.linger = 0
    dealer.plain_username, dealer.plain_password = b"me", b"secret"
    with socket.create_server(("127.0.0.1", 0)) as server:
        dealer.connect("tcp://127.0.0.1:%d" % server.getsockname()[1])
        link = StreamLink(server.accept()[0])
    collect(link, 1, 5)
    assert link.closed and not link.codec.messages
    link.close()
    dealer.close()


def test_what_one_message_may_hold_is_bounded_and_what_many_hold_together_is_not(monkeypatch):
    """Frames of which each is allowed would fill any memory, if there were always one more."""
    monkeypatch.setattr(scoop_lite, "MAX_MESSAGE", 200_000)
    codec = Codec(max_frame=100_000)
    codec.feed(HELLO)
    stream = b"".join(map(bytes, encode([b"x" * 1000] * 3, []))) * 600
    for at in range(0, len(stream), 1700):  # each piece that arrives ends within a message
        codec.feed(stream[at : at + 1700])
    assert len(codec.messages) == 600
    begun = b"".join(map(bytes, encode([b"x" * 1000] * 4, [])))[: -1000 - 9]  # its last frame does not come
    codec = Codec(max_frame=100_000)
    codec.feed(HELLO)
    with pytest.raises(PeerError, match="bytes"):
        for _ in range(300):
            codec.feed(begun)


def test_pings_of_a_peer_that_reads_nothing_are_not_answered_without_end():
    ours, theirs = socket.socketpair()
    link = StreamLink(ours)
    theirs.sendall(HELLO)
    link.queue([bytes(1 << 22)])  # more than goes
    link.flush()
    before = link.backlog()
    assert before
    for _ in range(50):
        theirs.sendall(scoop_lite.PING * 100)
        link.receive()
    assert link.backlog() == before
