"""The nodes of one job: the first drives, the others start ranks when told, tell how they are, and end with it.

::

    first node                                     every other node
    Crew.gather -- RUN/nodes/meet.json ----------> join (address, secret)
    RemoteNode  == TCP, JSON lines, secret ======> serve -- NodeRanks -- ranks

Whichever side is gone, the other ends what it runs: no rank outlives the job's reason. A machine that is gone without
a word shows by the kernel's keep-alive. Nothing that crosses is unpickled. Which node runs how many ranks is decided
here, what they run and why they stop is not.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import AuthenticationError
from pathlib import Path
from typing import Any, Protocol

from nemo_acereason.config.schema import WatchdogConfig
from nemo_acereason.errors import AceReasonError
from nemo_acereason.launch.node_ranks import NodeRanks, NodeReport, Place
from nemo_acereason.launch.watchdog import Stack
from nemo_acereason.sandbox.secret_link import leave_secret, prove

POLL_S = 0.05
MEET_S = 600.0
"""How long nodes wait for each other: a container image may have to be fetched."""
STACKS_S = 30.0
KEEP_ALIVE = {
    socket.TCP_KEEPIDLE: 15,
    socket.TCP_KEEPINTVL: 5,
    socket.TCP_KEEPCNT: 6,
    socket.TCP_USER_TIMEOUT: 45_000,
}
"""A machine that is gone is noticed after 45 s."""


class NodeLost(AceReasonError):
    """The connection to a node of the job is gone.

    Args:
        name: of the node, where one is to blame.
    """

    def __init__(self, message: str, name: str = "") -> None:
        super().__init__(message)
        self.name = name


class Node(Protocol):
    """Where ranks can run: this node or another."""

    @property
    def name(self) -> str: ...

    def start(
        self, run_dir: Path, place: Place, watchdog: WatchdogConfig, arguments: Sequence[str], module: str
    ) -> None:
        """Start ranks; those before must have ended."""

    def report(self) -> NodeReport:
        """How they are.

        Raises:
            NodeLost: nobody knows.
        """

    def stacks(self) -> dict[int, Stack]: ...

    def wait(self, seconds: float) -> None:
        """Let them end by themselves, for so long at most."""

    def end(self) -> None:
        """Kill what is left of them; safe to call at any time."""


class ThisNode:
    """Ranks that are children of this process."""

    def __init__(self, name: str = "") -> None:
        self.name = name or socket.gethostname()
        self._ranks: NodeRanks | None = None

    def start(
        self, run_dir: Path, place: Place, watchdog: WatchdogConfig, arguments: Sequence[str], module: str
    ) -> None:
        self._ranks = NodeRanks(run_dir, place, watchdog, arguments, module)

    def report(self) -> NodeReport:
        return self._ranks.report() if self._ranks else NodeReport(True, {})

    def stacks(self) -> dict[int, Stack]:
        return self._ranks.stacks() if self._ranks else {}

    def wait(self, seconds: float) -> None:
        if self._ranks:
            self._ranks.wait(seconds)

    def end(self) -> None:
        ranks, self._ranks = self._ranks, None
        if ranks:
            ranks.end()


class RemoteNode:
    """Ranks on another node, as its :func:`serve` tells of them."""

    def __init__(self, name: str, wire: Connection, facts: Mapping[str, Any]) -> None:
        self.name = name
        self.facts = facts
        """What it said of itself when it joined."""
        self._wire = wire
        self._report = NodeReport(True, {})
        self._num_starts = 0
        self._stacks: dict[int, Stack] | None = None
        self._is_lost = False

    def start(
        self, run_dir: Path, place: Place, watchdog: WatchdogConfig, arguments: Sequence[str], module: str
    ) -> None:
        self._report = NodeReport(False, {})
        self._num_starts += 1
        settings = {"run_dir": str(run_dir), "place": asdict(place), "watchdog": asdict(watchdog)}
        self._say("start", number=self._num_starts, **settings, arguments=list(arguments), module=module)

    def report(self) -> NodeReport:
        self._listen()
        return self._report

    def stacks(self) -> dict[int, Stack]:
        self._stacks = None
        deadline = time.monotonic() + STACKS_S
        with contextlib.suppress(NodeLost):
            self._say("stacks")
            while self._stacks is None and time.monotonic() < deadline:
                self._listen()
                time.sleep(POLL_S)
        return self._stacks or {}

    def wait(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        with contextlib.suppress(NodeLost):
            while not _is_over(self.report()) and time.monotonic() < deadline:
                time.sleep(POLL_S)

    def end(self) -> None:
        with contextlib.suppress(NodeLost):
            self._say("end")

    def dismiss(self) -> None:
        """Let the node's launcher end."""
        with contextlib.suppress(NodeLost):
            self._say("leave")
        self._wire.close()

    def _say(self, what: str, **fields: Any) -> None:
        if self._is_lost:
            self._lose("")
        try:
            _send(self._wire, {"say": what, **fields})
        except OSError:
            self._lose(f"the connection to node {self.name} is gone")

    def _listen(self) -> None:
        if self._is_lost:
            self._lose("")
        try:
            while self._wire.poll(0):
                told = _receive(self._wire)
                # what is told of ranks that were ended before these started may still be under way
                if told["say"] == "report" and told["number"] == self._num_starts:
                    self._report = NodeReport.from_json(told["report"])
                elif told["say"] == "stacks":
                    self._stacks = {int(rank): Stack(*fields) for rank, fields in told["stacks"].items()}
        except (OSError, EOFError):
            self._lose(f"the connection to node {self.name} is gone")

    def _lose(self, reason: str) -> None:
        self._is_lost = True
        raise NodeLost(reason or f"node {self.name} is lost", self.name)


@dataclass(frozen=True)
class Meeting:
    """Who is to come: the same on all nodes but for ``index``."""

    run_dir: Path
    attempt: str
    """Tells this start of the job from earlier ones, whose file may still be there."""
    index: int
    num_nodes: int
    name: str
    """Of this node."""

    @property
    def file(self) -> Path:
        """On the shared file system; readable for its owner alone, as it holds the secret."""
        return self.run_dir / "nodes" / "meet.json"


@dataclass(frozen=True)
class Ranks:
    """What is to be spread over the nodes of a job."""

    number: int
    """Of trainer ranks."""
    copy_size: int = 1
    """Ranks of one copy of the model, neighbours; they are not parted where a node has room for them."""
    room: int = 0
    """Ranks that a node has devices for; 0: as many as come."""
    num_engine_nodes: int = 0
    """Nodes of the job that have engines and no ranks."""

    def on_a_node(self, num_nodes: int) -> int:
        """Ranks of each of ``num_nodes`` but the last that has any.

        >>> Ranks(16, copy_size=4).on_a_node(8)
        4
        >>> Ranks(16, copy_size=16, room=8).on_a_node(2)
        8
        """
        even = -(-self.number // num_nodes)
        whole = -(-even // self.copy_size) * self.copy_size
        return even if 0 < self.room < whole else whole


class Crew:
    """All nodes of a job, in order, this one first."""

    def __init__(self, first: ThisNode, others: Sequence[RemoteNode], address: str) -> None:
        self.nodes: list[Node] = [first, *others]
        self.others = list(others)
        self.address = address

    @classmethod
    def gather(cls, meeting: Meeting) -> Crew:
        """Wait for the other nodes.

        Raises:
            NodeLost: names those that did not come.
        """
        this = ThisNode(meeting.name)
        if meeting.num_nodes == 1:
            return cls(this, [], "127.0.0.1")
        secret = secrets.token_bytes(32)
        found: dict[int, tuple[RemoteNode, str]] = {}
        with socket.create_server(("", 0), backlog=meeting.num_nodes) as listener:
            _publish(meeting, listener.getsockname()[1], secret)
            deadline = time.monotonic() + MEET_S
            while len(found) < meeting.num_nodes - 1:
                listener.settimeout(max(deadline - time.monotonic(), 0.01))
                try:
                    accepted, _ = listener.accept()
                except TimeoutError:
                    missing = sorted({*range(1, meeting.num_nodes)} - {*found})
                    raise NodeLost(
                        f"node {', '.join(map(str, missing))} of {meeting.num_nodes} (from 0) did not come within "
                        f"{MEET_S:g} s; see what it says in RUN/nodes/, and whether it sees {meeting.run_dir}"
                    ) from None
                here = accepted.getsockname()[0]
                with contextlib.suppress(OSError, EOFError, AuthenticationError):  # not one of ours
                    wire = _prove(accepted, secret, is_server=True)
                    told = _receive(wire)
                    facts = {**told["facts"], "clock_s": told["time"] - time.time()}
                    found[told["index"]] = RemoteNode(told["name"], wire, facts), here
        meeting.file.unlink(missing_ok=True)
        others = [found[index][0] for index in sorted(found)]
        return cls(this, others, found[min(found)][1])

    def places(self, ranks: Ranks) -> Iterator[tuple[Node, Place]]:
        """Which node runs which ranks: filled in order, evenly, so that neighbouring ranks share a node.

        Nodes at the end that have engines alone get one process each, behind all ranks.
        """
        port = _free_port("" if self.others else "127.0.0.1")
        secret = secrets.token_hex(32) if ranks.num_engine_nodes else ""
        num_ranks, num_nodes = ranks.number, len(self.nodes) - ranks.num_engine_nodes
        most = ranks.on_a_node(num_nodes)
        for index, node in enumerate(self.nodes[:num_nodes]):
            num_here = min(most, num_ranks - index * most)
            if num_here > 0:
                yield node, Place(index * most, num_here, num_ranks, self.address, port, "" if index else secret)
        for index, node in enumerate(self.nodes[num_nodes:]):
            yield node, Place(num_ranks + index, 1, num_ranks, self.address, port, secret)

    def dismiss(self) -> None:
        """Let the other nodes go."""
        for node in self.others:
            node.dismiss()


def join(meeting: Meeting, facts: Mapping[str, Any]) -> Connection:
    """From another node: find the first, and prove to be of this job.

    Args:
        facts: about this node, for the health check.
    Raises:
        NodeLost: the first node cannot be found or reached.
    """
    deadline = time.monotonic() + MEET_S
    tried = f"no {meeting.file} of attempt {meeting.attempt}"
    while time.monotonic() < deadline:
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
            invitation = json.loads(meeting.file.read_text())
            if invitation["attempt"] == meeting.attempt:
                secret = bytes.fromhex(invitation["secret"])
                for host in invitation["hosts"]:
                    try:
                        wire = _prove(socket.create_connection((host, invitation["port"]), 10), secret, is_server=False)
                        hello = {"index": meeting.index, "name": meeting.name, "time": time.time()}
                        _send(wire, {**hello, "facts": dict(facts)})
                    except (OSError, EOFError, AuthenticationError) as error:
                        tried = f"{host} port {invitation['port']}: {error}"
                        continue
                    return wire
        time.sleep(0.5)
    raise NodeLost(f"node {meeting.index} ({meeting.name}) did not reach the first node in {MEET_S:g} s: {tried}")


def serve(wire: Connection, node: Node | None = None) -> None:
    """Do what the first node says, until it says to leave.

    Raises:
        NodeLost: it is gone; the ranks here have been ended.
    """
    node = node or ThisNode()
    number, told = 0, NodeReport(True, {})
    try:
        while True:
            if wire.poll(POLL_S):
                command = _receive(wire)
                if command["say"] == "leave":
                    return
                number = command.get("number", number)
                _obey(command, node, wire)
            if (report := node.report()) != told:
                _send(wire, {"say": "report", "number": number, "report": report.to_json()})
                told = report
    except (OSError, EOFError):
        raise NodeLost("the connection to the first node is gone; ended the ranks here") from None
    finally:
        node.end()
        wire.close()


def _obey(command: Mapping[str, Any], node: Node, wire: Connection) -> None:
    if command["say"] == "start":
        watchdog = WatchdogConfig(**command["watchdog"])
        node.start(
            Path(command["run_dir"]), Place(**command["place"]), watchdog, command["arguments"], command["module"]
        )
    elif command["say"] == "stacks":
        stacks = {str(rank): [stack.state, stack.text] for rank, stack in node.stacks().items()}
        _send(wire, {"say": "stacks", "stacks": stacks})
    elif command["say"] == "end":
        node.end()


def _publish(meeting: Meeting, port: int, secret: bytes) -> None:
    name = socket.gethostname()
    addresses = {str(info[4][0]) for info in _lookup(name)}
    hosts = [os.environ.get("ACEREASON_HOST", ""), name, *sorted(addresses)]
    # by name first: each node resolves it, while what a host takes for its own address may be a loopback one
    invitation = {"attempt": meeting.attempt, "hosts": [host for host in hosts if host], "port": port}
    leave_secret(meeting.file, {**invitation, "secret": secret.hex()})


def _prove(end: socket.socket, secret: bytes, *, is_server: bool) -> Connection:
    with end:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in KEEP_ALIVE.items():
            end.setsockopt(socket.IPPROTO_TCP, option, value)
        return prove(end, secret, is_server=is_server)


def _send(wire: Connection, fields: Mapping[str, Any]) -> None:
    wire.send_bytes(json.dumps(fields).encode())


def _receive(wire: Connection) -> dict[str, Any]:
    fields = json.loads(wire.recv_bytes(1 << 24))
    assert isinstance(fields, dict)
    return fields


def _is_over(report: NodeReport) -> bool:
    return report.has_ended_well or bool(report.failed)


def _lookup(name: str) -> list[Any]:
    with contextlib.suppress(OSError):
        return socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    return []


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port
