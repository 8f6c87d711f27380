"""Frames from a side that is not trusted."""

from __future__ import annotations

import struct
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from nemo_acereason.sandbox.inside.wire import FrameReader, pack


@given(st.lists(st.dictionaries(st.text(), st.integers() | st.text()), max_size=5), st.integers(1, 9))
def test_frames_arrive_whole_whatever_the_pieces(messages: list[dict[str, Any]], size: int) -> None:
    stream = b"".join(map(pack, messages))
    reader, bodies = FrameReader(1 << 20), []
    for start in range(0, len(stream), size):
        reader.feed(stream[start : start + size])
        while (body := reader.next()) is not None:
            bodies.append(body)
    assert bodies == [pack(message)[4:] for message in messages]


def test_a_frame_that_announces_too_much_is_known_at_once() -> None:
    reader = FrameReader(100)
    reader.feed(struct.pack("<I", 101))
    assert reader.is_too_long
    assert reader.next() is None


def test_an_empty_frame_is_a_frame() -> None:
    reader = FrameReader(100)
    reader.feed(struct.pack("<I", 0))
    assert reader.next() == b""


@given(st.binary(max_size=200))
def test_junk_is_never_an_error(junk: bytes) -> None:
    reader = FrameReader(64)
    reader.feed(junk)
    while not reader.is_too_long and reader.next() is not None:
        pass
