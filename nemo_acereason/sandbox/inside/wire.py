"""Frames between a run and the executor outside: a length of four bytes, then JSON. Does not judge or limit."""

from __future__ import annotations

import json
import socket
import struct
from typing import Any

_LENGTH = struct.Struct("<I")


def pack(message: Any) -> bytes:
    """One frame.

    Raises:
        ValueError: longer than a frame can be (4 GiB).
    """
    body = json.dumps(message, separators=(",", ":")).encode()
    if len(body) >= 2**32:
        raise ValueError("message too long for a frame")
    return _LENGTH.pack(len(body)) + body


def send(channel: socket.socket, message: Any) -> None:
    """Write one frame, waiting as long as it takes."""
    channel.sendall(pack(message))


def receive(channel: socket.socket) -> Any:
    """Read one frame, waiting as long as it takes.

    Raises:
        EOFError: the other side is gone.
    """
    (length,) = _LENGTH.unpack(_read(channel, _LENGTH.size))
    return json.loads(_read(channel, length))


def _read(channel: socket.socket, size: int) -> bytes:
    parts = []
    while size:
        part = channel.recv(min(size, 1 << 20))
        if not part:
            raise EOFError
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


class FrameReader:
    """Collects frames from a source that is not trusted, without waiting and never more than ``max_bytes`` at once."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Take what arrived."""
        self._buffer += data

    @property
    def is_too_long(self) -> bool:
        """The frame under way says, or is, more than ``max_bytes``."""
        return self._announced() > self.max_bytes or len(self._buffer) > self.max_bytes + _LENGTH.size

    def next(self) -> bytes | None:
        """The body of the first whole frame, or None while there is none."""
        end = _LENGTH.size + self._announced()
        if len(self._buffer) < max(end, _LENGTH.size):
            return None
        body = bytes(self._buffer[_LENGTH.size : end])
        del self._buffer[:end]
        return body

    def _announced(self) -> int:
        if len(self._buffer) < _LENGTH.size:
            return 0
        length: int = _LENGTH.unpack_from(self._buffer)[0]
        return length
