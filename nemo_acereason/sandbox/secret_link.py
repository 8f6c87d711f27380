"""TCP between processes of one run on different nodes: nobody is heard who does not prove that he knows the secret.

The connection is neither encrypted nor meant to leave the cluster.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import threading
from collections.abc import Iterator, Mapping
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge
from pathlib import Path
from typing import Any

CONNECT_TIMEOUT_S = 20.0
"""Longest connecting, and longest silence while the secret is proven."""


def listen_at(host: str) -> socket.socket:
    """A listening socket at this address of this machine, at any free port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, 0), family=family, backlog=16)


def leave_secret(file: Path, fields: Mapping[str, Any]) -> None:
    """Write what another node's process of the same user is to find as JSON, for nobody else to read; whole or not."""
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
        json.dump(fields, opened)
    fresh.replace(file)


def prove(connected: socket.socket, secret: bytes, *, is_server: bool) -> Connection:
    """Have both ends prove that they know the secret; the connection is a copy, for ``connected`` to be closed.

    Raises:
        OSError, EOFError, AuthenticationError: the other end does not prove it, or is silent for too long.
    """
    connected.settimeout(None)  # a file descriptor that blocks is what Connection reads
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection = Connection(os.dup(connected.fileno()))
    try:
        with bounded_silence(connected):
            for step in (deliver_challenge, answer_challenge) if is_server else (answer_challenge, deliver_challenge):
                step(connection, secret)
    except BaseException:
        connection.close()
        raise
    return connection


@contextlib.contextmanager
def bounded_silence(connected: socket.socket) -> Iterator[None]:
    """Inside, the kernel gives up one read after :data:`CONNECT_TIMEOUT_S`, with an OSError."""
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", int(CONNECT_TIMEOUT_S), 0))
    yield
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 0))


class SecretLink:
    """One TCP connection whose two ends have proven that they know the secret; any thread may send.

    Raises:
        OSError, EOFError, AuthenticationError: the other end does not prove it, or is silent for too long.
    """

    def __init__(self, connected: socket.socket, secret: bytes, *, is_server: bool) -> None:
        self._socket = connected
        self._sending = threading.Lock()
        try:
            self._connection = prove(connected, secret, is_server=is_server)
        except BaseException:
            connected.close()
            raise

    @property
    def connection(self) -> Connection:
        """For who sends and receives objects: only where both ends are this package's own code."""
        return self._connection

    def send(self, message: bytes) -> None:
        """Raises OSError where the other end is gone."""
        with self._sending:
            self._connection.send_bytes(message)

    def receive(self) -> bytes:
        """Wait for the next message; EOFError or OSError where none comes any more."""
        return self._connection.recv_bytes()

    def receive_soon(self) -> bytes:
        """As :meth:`receive`, given up with an OSError after :data:`CONNECT_TIMEOUT_S`."""
        with bounded_silence(self._socket):
            return self.receive()

    def hang_up(self) -> None:
        """Wake who receives, here and there; safe to call twice and after :meth:`close`."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Free the descriptors, when no thread receives any more; safe to call twice."""
        self._connection.close()
        self._socket.close()
