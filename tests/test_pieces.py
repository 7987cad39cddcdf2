"""Big frames travel in pieces ahead of their message, within a window, and come back as they were.

What happens to transfers when somebody dies is tried in `test_simulation.py`, with real processes in `test_faults.py`.
"""

from __future__ import annotations

import itertools
import pickle

import pytest

import scoop_lite
from scoop_lite import ANYBODY, BIG_BUFFER, COUNT, OWNER, PIECE, PIECES_AHEAD, TO_BROKER, Inbox, Outbox, is_piece

SOURCE, OWNED = OWNER.pack(1, 1), OWNER.pack(2, 1)
SIZES = [0, 1, 255, BIG_BUFFER - 1, BIG_BUFFER, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE]
SMALL = scoop_lite.message("HUNGRY", 1, 1, b"small")


def big(kind="RESULT", size=2 * PIECE):
    hunger = [scoop_lite.HUNGER.pack(1, 1)] if kind == "NEXT" else []
    return scoop_lite.message(kind, 1, 1, OWNED, *hunger, bytes(size))


def transfer(outbox, frames, inbox):
    """Carry a message to `inbox`, answering each piece; return what arrives, and the pieces."""
    arrived, pieces, ready = [], [], list(outbox.put(frames))
    while ready:
        for sent in ready:
            if sent[0][0] != scoop_lite.CODES["PIECE"]:
                arrived.append([bytes(f) for f in inbox.mend(sent)])
            elif inbox.on_piece(SOURCE, sent):
                outbox.credit += 1
                pieces.append(sent)
        ready = list(outbox.take())
    return arrived, pieces


@pytest.mark.parametrize("sizes", [SIZES, SIZES[::-1], [5], [PIECE * 9], []])
def test_there_and_back(sizes):
    frames = scoop_lite.message("RESULT", 1, 1, OWNED, *(bytes([i + 1]) * size for i, size in enumerate(sizes)))
    outbox, inbox = Outbox(SOURCE), Inbox()
    arrived, pieces = transfer(outbox, frames, inbox)
    assert arrived == [frames] and not inbox.heaps and outbox.credit == PIECES_AHEAD
    assert all(len(piece[3]) <= PIECE and piece[1] == OWNED for piece in pieces)


def test_small_messages_are_left_alone_and_so_are_many_tiny_frames():
    for frames in (SMALL, scoop_lite.message("BATCH", 1, 1, *[bytes(200)] * 10_000)):
        (sent,) = Outbox(SOURCE).put(frames)
        assert sent == frames


def test_many_frames_share_pieces_and_what_the_broker_reads_stays():
    parts = itertools.chain(*((bytes([i % 256]) * 29, bytes([i % 256]) * (i % 5 * 15_000)) for i in range(5000)))
    frames = scoop_lite.message("RESULT", 1, 1, OWNED, *parts)
    outbox, inbox = Outbox(SOURCE), Inbox()
    n_pieces = len(list(itertools.chain(outbox.put(frames), outbox.waiting))) - 2
    assert sum(map(len, frames)) / PIECE < n_pieces < 1.1 * sum(map(len, frames)) / PIECE + 2
    message = outbox.waiting[-2]
    assert max(map(len, message)) < scoop_lite.SMALL_FRAME and message[2::2] == frames[2::2]
    arrived, pieces = transfer(Outbox(SOURCE), frames, inbox)
    assert arrived == [frames] and not inbox.heaps and len(pieces) == n_pieces < len(frames) / 8


def test_frames_that_the_broker_has_left_out_are_skipped_and_none_is_taken_twice():
    whole = scoop_lite.message("RESULT", 1, 1, OWNED, *(bytes([i]) * 60_000 for i in range(1, 18)), bytes(40_000))
    (piece, second, sent, _), inbox = Outbox(SOURCE).put(whole), Inbox()
    inbox.on_piece(SOURCE, piece)
    inbox.on_piece(SOURCE, second)
    references = sent[2:]
    assert inbox.mend(references[1:2] + references[4:]) == whole[3:4] + whole[6:]
    assert inbox.mend(references[1:]) == references[1:]


def test_what_is_sent_before_the_message_is_small():
    sent = Outbox(SOURCE).put(big(size=PIECE + 1))
    assert [len(frames[-1]) for frames in sent] == [PIECE, 1, scoop_lite.REFERENCE.size, 0]


@pytest.mark.parametrize("kind, to", [
    ("RESULT", OWNED), ("NEXT", OWNED), ("BATCH", ANYBODY), ("CONST", TO_BROKER), ("ALL", TO_BROKER),
])  # fmt: skip
def test_pieces_go_where_their_message_will(kind, to):
    assert Outbox(SOURCE).put(big(kind))[0][1] == to


def test_a_message_of_one_big_frame_goes_to_the_broker_in_pieces():
    """Such as a log record of some megabytes, or the events of a busy second."""
    frames = scoop_lite.message("LOG", 1, 1, bytes(range(256)) * (PIECE // 128))
    arrived, pieces = transfer(Outbox(SOURCE), frames, Inbox())
    assert arrived == [frames] and [piece[1] for piece in pieces] == [TO_BROKER] * 2


def test_no_more_than_the_window_is_under_way_and_nothing_overtakes_but_credit():
    outbox = Outbox(SOURCE)
    assert len(outbox.put(big(size=(PIECES_AHEAD + 2) * PIECE))) == PIECES_AHEAD
    credit = scoop_lite.message("CREDIT", 1, 1, OWNED, COUNT.pack(1))
    assert not outbox.put(SMALL) and list(outbox.put(credit)) == [credit]
    outbox.credit += 1
    assert len(outbox.take()) == 1 and not outbox.take()
    outbox.credit += 1
    last_piece, message, end, small = outbox.take()
    assert is_piece(last_piece) and not is_piece(end)
    assert message[0][0] == scoop_lite.CODES["RESULT"] and small == SMALL


def test_the_end_of_a_transfer_drops_what_nobody_asked_for_but_not_what_follows():
    outbox, inbox = Outbox(SOURCE), Inbox()
    first, second = ([sent for sent in outbox.put(big(size=PIECE + 1)) if len(sent) == 4] for _ in range(2))
    for sent in first[:2] + second[:1] + first[2:]:
        inbox.on_piece(SOURCE, sent)
    assert list(inbox.heaps) == [(SOURCE, 2)]


def test_half_a_frame_is_refused():
    inbox = Inbox()
    piece, _, message, _ = Outbox(SOURCE).put(big(size=PIECE + 1))
    inbox.on_piece(SOURCE, piece)
    with pytest.raises(scoop_lite.PeerError, match="of a heap"):
        inbox.mend(message)


def test_no_more_comes_than_was_said():
    inbox, heap = Inbox(), scoop_lite.HEAP.pack(1, PIECE + 1)
    inbox.on_piece(SOURCE, scoop_lite.message("PIECE", 1, 1, OWNED, heap, bytes(PIECE)))
    with pytest.raises(scoop_lite.PeerError, match="for a heap of"):
        inbox.on_piece(SOURCE, scoop_lite.message("PIECE", 1, 1, OWNED, heap, bytes(2)))


@pytest.mark.parametrize("size", [1 << 55, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
def test_for_what_has_no_room_all_pieces_are_taken_and_what_is_unpickled_of_it_is_a_memory_error(size):
    inbox = Inbox()
    for _ in range(3):
        piece = scoop_lite.message("PIECE", 1, 1, OWNED, scoop_lite.HEAP.pack(1, size), bytes(PIECE))
        assert inbox.on_piece(SOURCE, piece)
    reference = scoop_lite.REFERENCE.pack(scoop_lite.REFERENCE_MARK, SOURCE, 1, size, size)
    (frame,) = inbox.mend([reference])
    assert not inbox.heaps
    for frames in [frame], [pickle.dumps(1), frame]:
        with pytest.raises(MemoryError):
            scoop_lite.loads(frames)


def test_what_arrives_is_writable_and_one_piece_is_not_copied():
    inbox, piece = Inbox(), bytearray(PIECE)
    inbox.on_piece(SOURCE, scoop_lite.message("PIECE", 1, 1, OWNED, scoop_lite.HEAP.pack(1, PIECE), piece))
    reference = scoop_lite.REFERENCE.pack(scoop_lite.REFERENCE_MARK, SOURCE, 1, PIECE, PIECE)
    assert inbox.mend([reference])[0] is piece and not inbox.heaps
    for size in (PIECE, PIECE + 1, 5 * PIECE):
        outbox, inbox, found = Outbox(SOURCE), Inbox(), []
        ready = list(outbox.put(big(size=size)))
        while ready:
            for sent in ready:
                if sent[0][0] == scoop_lite.CODES["PIECE"]:
                    outbox.credit += inbox.on_piece(SOURCE, sent)
                else:
                    found = inbox.mend(sent)
            ready = list(outbox.take())
        assert not memoryview(found[-1]).readonly and len(found[-1]) == size


def test_a_worker_cannot_take_more_pieces_than_came():
    broker = scoop_lite.Broker(lambda member, frames: None, lambda host, frames: None, lambda text: None)
    broker.host_names[0] = "here"
    broker.start(0, range(3))
    with pytest.raises(scoop_lite.PeerError, match="malformed CREDIT"):
        broker.turn(1, scoop_lite.message("CREDIT", 1, 1, OWNED, COUNT.pack(1)))
