"""Engines on nodes of their own for a trainer that our launcher did not start (NeMo's): ``acereason engines DIR``.

Both see ``DIR``, where rank 0 of the trainer leaves an invitation, readable for its user alone: where its store is, and
the secret. From there on all is as in :mod:`nemo_acereason.launch.engine_node`. A server outlives the trainer that it
served: it waits for the next invitation in its folder, and leaves one that is replaced.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import secrets
import socket
import stat
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from torch._C._distributed_c10d import TCPStore

from nemo_acereason.errors import ConfigError
from nemo_acereason.launch.engine_node import WAIT, EngineNodes, claim, start_host, store_at, wait_for_end
from nemo_acereason.sandbox.secret_link import leave_secret

_ASK_S = 1.0
"""Between two looks at the directory."""
_CONNECT_S = 10.0
"""An invitation may be of a trainer that is no more."""


@dataclass(frozen=True)
class Invitation:
    """What a trainer writes for servers."""

    host: str
    port: int
    secret: str
    num_nodes: int

    @classmethod
    def read(cls, file: Path) -> Invitation | None:
        """The one that lies there; None: none does.

        Raises:
            ValueError, TypeError, KeyError: another thing lies there.
            OSError: it cannot be read, or somebody else could have written it: what comes by the connection is obeyed.
        """
        try:
            with file.open() as opened:
                told = os.fstat(opened.fileno())
                if told.st_uid != os.geteuid() or stat.S_IMODE(told.st_mode) & 0o077:
                    raise PermissionError(f"is not yours alone (mode {stat.S_IMODE(told.st_mode):o})")
                fields = json.load(opened)
        except FileNotFoundError:
            return None
        found = cls(str(fields["host"]), int(fields["port"]), str(fields["secret"]), int(fields["num_nodes"]))
        bytes.fromhex(found.secret)
        return found


def invite(directory: Path, address: str, num_nodes: int) -> EngineNodes:
    """On rank 0 of a trainer: ask for so many engine servers.

    Args:
        address: of this machine, as the servers reach it.
    """
    secret = secrets.token_bytes(32)
    store = TCPStore(address, 0, is_master=True, wait_for_workers=False, timeout=WAIT)
    file = _file(directory)
    leave_secret(file, asdict(Invitation(address, store.port, secret.hex(), num_nodes)))
    which = "--number 0" if num_nodes == 1 else f"--number 0 to {num_nodes - 1}"
    print(f"acereason: waits for the engines' nodes: acereason engines {directory} {which}", file=sys.stderr)
    return EngineNodes(secret, store, on_end=lambda: file.unlink(missing_ok=True))


def serve_invited(directory: Path, number: int) -> None:
    """Start what any trainer asks for that invites here, one trainer after the other; does not return.

    Raises:
        ConfigError: no directory.
    """
    if directory.exists() and not directory.is_dir():
        raise ConfigError(f"{directory} is a file; want the trainer's folder, DIR/NAME/acereason of a NeMo recipe")
    absent = "" if directory.exists() else ", which is not there yet"
    _say(number, f"waits for a trainer in {directory}{absent}")
    for invitation in _invitations(directory, number):
        if number >= invitation.num_nodes:
            _say(number, f"that trainer wants {invitation.num_nodes} in all, numbers from 0; waits for another")
        else:
            _serve(directory, number, invitation)
            _say(number, "waits for the next one")


def _invitations(directory: Path, number: int) -> Iterator[Invitation]:
    """Each once, when its trainer can be reached; what is no invitation is told once."""
    told = taken = ""
    while True:
        try:
            invitation = Invitation.read(_file(directory))
        except (OSError, ValueError, TypeError, KeyError) as error:
            invitation, problem = None, f"{_file(directory)}: {' '.join(str(error).split())[:200]}; goes on looking"
            if problem != told:
                _say(number, problem)
            told = problem
        if invitation and invitation.secret != taken and _is_there(invitation):
            taken = invitation.secret
            yield invitation
        time.sleep(_ASK_S)


def _is_there(invitation: Invitation) -> bool:
    """Whether anybody listens: torch, which tries for long, would fill the terminal otherwise."""
    try:
        socket.create_connection((invitation.host, invitation.port), _CONNECT_S).close()
    except OSError:
        return False
    return True


def _serve(directory: Path, number: int, invitation: Invitation) -> None:
    """Until that trainer says to end, is gone, or another one has taken its place."""
    try:
        store = store_at(invitation.host, invitation.port, datetime.timedelta(seconds=_CONNECT_S))
        if not claim(store, number):
            _say(number, "another server has this number; give each its own by --number")
            return
        _say(number, f"serves the trainer on {invitation.host}")
        host = start_host(number, bytes.fromhex(invitation.secret), store)
    except (RuntimeError, OSError) as error:
        _say(number, f"lost the trainer on {invitation.host}: {' '.join(str(error).split())[:200]}")
        return
    # in a thread: torch waits where no signal reaches, also for a trainer whose machine is gone without a word
    waiting = threading.Thread(target=wait_for_end, args=(store,), daemon=True)
    waiting.start()
    try:
        while waiting.is_alive() and _lies_there(directory, invitation):
            waiting.join(_ASK_S)
    finally:
        host.close()


def _lies_there(directory: Path, invitation: Invitation) -> bool:
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        return Invitation.read(_file(directory)) == invitation
    return True  # a moment's failure of the file system ends nothing


def _file(directory: Path) -> Path:
    return directory / "engines.json"


def _say(number: int, what: str) -> None:
    print(f"acereason: engine server {number}: {what}", file=sys.stderr)
