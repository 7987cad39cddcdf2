"""Big frames over ØMQ travel in pieces, and come back as they were."""
from __future__ import annotations

import pytest

import scoop_lite

HEADER = scoop_lite.message("RESULT", 1, 1)[0]
PIECE = scoop_lite.ZMQ_PIECE
SIZES = [0, 1, 255, 70_000, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE]


@pytest.mark.parametrize("sizes", [SIZES, SIZES[::-1], [5], [scoop_lite.ZMQ_PIECE * 2], []])
def test_there_and_back(sizes):
    frames = [HEADER, *(bytes([i + 1]) * size for i, size in enumerate(sizes))]
    cut = scoop_lite.cut_frames(frames)
    assert max(map(len, cut)) <= scoop_lite.ZMQ_PIECE
    assert [bytes(frame) for frame in scoop_lite.mend_frames(cut)] == frames


def test_small_messages_are_left_alone():
    frames = [HEADER, b"a", b"b" * 1000]
    assert scoop_lite.cut_frames(frames) is frames
    assert scoop_lite.mend_frames(frames) is frames


def test_pieces_that_were_not_announced_are_refused():
    cut = scoop_lite.cut_frames([HEADER, bytes(scoop_lite.ZMQ_PIECE * 2)])
    with pytest.raises(scoop_lite.PeerError, match="announced"):
        scoop_lite.mend_frames(cut[:-1])
    with pytest.raises(scoop_lite.PeerError, match="announced"):
        scoop_lite.mend_frames([*cut, b"more"])
