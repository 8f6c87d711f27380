"""Engines on nodes of their own for a trainer that our launcher did not start (NeMo's): ``acereason engines DIR``.

Both see ``DIR``, where rank 0 of the trainer leaves an invitation, readable for its user alone: where its store is, and
the secret. From there on all is as in :mod:`nemo_acereason.launch.engine_node`. A server outlives the trainer that it
served and waits for the next one: it need not be started anew for each stage.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import secrets
import sys
import time
from pathlib import Path

from torch._C._distributed_c10d import TCPStore

from nemo_acereason.launch.engine_node import WAIT, EngineNodes, serve, store_at

_ASK_S = 1.0
"""Between two looks at the directory."""
_CONNECT = datetime.timedelta(seconds=10)
"""An invitation may be of a trainer that is no more."""


def invite(directory: Path, address: str, num_nodes: int) -> EngineNodes:
    """On rank 0 of a trainer: ask for so many engine servers.

    Args:
        address: of this machine, as the servers reach it.
    """
    secret = secrets.token_bytes(32)
    store = TCPStore(address, 0, is_master=True, wait_for_workers=False, timeout=WAIT)
    directory.mkdir(parents=True, exist_ok=True)
    fresh = _invitation(directory).with_suffix(".new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump({"host": address, "port": store.port, "secret": secret.hex()}, file)
    fresh.replace(_invitation(directory))
    which = "--number 0" if num_nodes == 1 else f"--number 0 to {num_nodes - 1}"
    print(f"acereason: the engines' nodes are awaited: acereason engines {directory} {which}", file=sys.stderr)
    return EngineNodes(secret, store)


def serve_invited(directory: Path, number: int) -> None:
    """Start what any trainer asks for that invites here, one trainer after the other; does not return."""
    served = ""
    print(f"acereason: engine server {number} waits for a trainer in {directory}", file=sys.stderr)
    while True:
        with contextlib.suppress(FileNotFoundError):  # nobody has invited yet
            invitation = json.loads(_invitation(directory).read_text())
            if invitation["secret"] != served and (store := _reach(invitation)):
                served = invitation["secret"]
                print(f"acereason: engine server {number} serves the trainer on {store.host}", file=sys.stderr)
                serve(number, bytes.fromhex(served), store)
                print(f"acereason: engine server {number} waits for the next one", file=sys.stderr)
        time.sleep(_ASK_S)


def _reach(invitation: dict[str, str]) -> TCPStore | None:
    """The trainer's store; None: it is no more, or not yet to be reached."""
    try:
        return store_at(invitation["host"], int(invitation["port"]), _CONNECT)
    except RuntimeError:
        return None


def _invitation(directory: Path) -> Path:
    return directory / "engines.json"
