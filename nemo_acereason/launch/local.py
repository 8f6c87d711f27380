"""All trainer ranks of a run, on one node or several: started together, watched, ended together, one reason told.

What ranks do on their node is :mod:`nemo_acereason.launch.node_ranks`, how the nodes of a job meet
:mod:`nemo_acereason.launch.nodes`.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType

from nemo_acereason.config.schema import WatchdogConfig
from nemo_acereason.errors import AceReasonError
from nemo_acereason.launch.node_ranks import NodeReport
from nemo_acereason.launch.nodes import Crew, NodeLost, Ranks, ThisNode
from nemo_acereason.launch.watchdog import End, blamed_ranks, write_stacks

GRACE_S = 10.0
"""How long ranks may take to end by themselves once one has failed."""
SETTLE_S = 1.0
"""How long other nodes may take to tell that one of their ranks was the first."""
ONE_SIGTERM_S = 2.0
"""SIGTERMs closer together are one: Slurm sends two where it takes a job's nodes without a time of grace."""
GO_ON = "start again to go on from the last checkpoint"


class RankFailure(AceReasonError):
    """A trainer rank ended the run; carries the exit status of what it met.

    Args:
        lost_node: the node whose going was the reason, if one's was.
    """

    def __init__(self, message: str, exit_status: int, lost_node: str = "") -> None:
        super().__init__(message)
        self.exit_status = exit_status
        self.lost_node = lost_node


def run_ranks(
    run_dir: Path,
    ranks: Ranks | int,
    watchdog: WatchdogConfig,
    crew: Crew | None = None,
    arguments: Sequence[str] = (),
    module: str = "nemo_acereason.launch.rank",
    ask: Callable[[], None] | None = None,
) -> None:
    """Run the plan of ``run_dir`` on its ranks, and what serves engines on nodes without ranks, and wait for all.

    Args:
        ranks: a number: spread evenly over all nodes.
        crew: the nodes; None: this one alone.
        arguments: to every process, besides the directory.
        module: what each of the ranks runs.
        ask: called at the first SIGTERM or SIGUSR1, to ask the ranks to save and end, and only another SIGTERM ends
            them; None: the first one does.
    Raises:
        RankFailure: what the first failing rank said, with its exit status; which rank hung, and where; or which node
            is lost.
        KeyboardInterrupt: after the ranks have been ended.
    """
    ranks = Ranks(ranks) if isinstance(ranks, int) else ranks
    crew = crew or Crew(ThisNode(), [], "127.0.0.1")
    logs = run_dir / "logs"
    asked: float | None = None

    def forward(number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        now = time.monotonic()
        if ask and asked is None:
            asked = now
            ask()
            print("acereason: to save behind the present step and end; another SIGTERM ends at once", file=sys.stderr)
        elif number == signal.SIGTERM and (asked is None or now - asked >= ONE_SIGTERM_S):
            signal.signal(number, signal.SIG_IGN)  # another one must not disturb the end
            raise KeyboardInterrupt(signal.Signals(number).name)

    before = {number: signal.signal(number, forward) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        for node, place in crew.places(ranks):
            runs = module if place.first_rank < ranks.number else "nemo_acereason.launch.engine_node"
            node.start(run_dir, place, watchdog, [str(run_dir), *arguments], runs)
        while not (told := _all_reports(crew)).failed:
            if told.has_ended_well:
                return
            if told.overdue:
                raise _hang(logs, crew, ranks.number, *told.overdue)
            time.sleep(0.05)
        if crew.others:
            time.sleep(SETTLE_S)
            told = _all_reports(crew)
        first = _first_failed(told.failed)
        deadline = time.monotonic() + GRACE_S
        for node in crew.nodes:
            node.wait(max(deadline - time.monotonic(), 0.0))
        raise _failure(logs, first, told.failed[first], _all_reports(crew).ends)
    except NodeLost as lost:
        time.sleep(SETTLE_S)  # a job that is ended loses its nodes one by one: then our own SIGTERM is on its way
        raise RankFailure(f"{lost}; {GO_ON}", 1, lost.name) from None
    finally:
        for node in crew.nodes:
            node.end()
        for number, handler in before.items():
            signal.signal(number, handler)


def _all_reports(crew: Crew) -> NodeReport:
    """How the ranks of all nodes are, as if they were of one."""
    reports = [node.report() for node in crew.nodes]
    return NodeReport(
        has_ended_well=all(report.has_ended_well for report in reports),
        failed={rank: status for report in reports for rank, status in report.failed.items()},
        ends=[end for report in reports for end in report.ends],
        overdue=next((report.overdue for report in reports if report.overdue), None),
    )


def _first_failed(failed: Mapping[int, int]) -> int:
    # of several found at once the killed one is the cause: the others end because it is gone
    return min(failed, key=lambda rank: failed[rank] >= 0)


def _failure(logs: Path, rank: int, status: int, ends: Sequence[End]) -> RankFailure:
    """What the ranks told, else how ``rank``, the first to end, ended.

    A killed rank tells nothing, and what the others then tell (a closed connection) is not the cause.
    """
    log = logs / f"rank_{rank}.log"
    if status == -signal.SIGKILL:
        return RankFailure(f"rank {rank} was killed by SIGKILL (out of memory?); {GO_ON}", 1)
    for end in ends:
        if end.is_known:
            return RankFailure(end.message, end.exit_status)
    if status < 0:
        name = signal.Signals(-status).name
        return RankFailure(f"rank {rank} was killed by {name}; see {log}; {GO_ON}", 1)
    for end in ends:
        return RankFailure(f"rank {end.rank}: {end.message}; traceback in {logs}/rank_{end.rank}.log", 1)
    return RankFailure(f"rank {rank} ended with status {status}; see {log}", 1)


def _hang(logs: Path, crew: Crew, num_ranks: int, overdue: int, what: str) -> RankFailure:
    everyone = {rank: stack for node in crew.nodes for rank, stack in node.stacks().items()}
    write_stacks(logs / "stacks.txt", everyone)
    # a node that has engines alone takes part in no collective, and is not the one who is missing there
    stacks = {rank: stack for rank, stack in everyone.items() if rank < num_ranks or rank == overdue}
    blamed = "; ".join(f"rank {rank} {stacks.get(rank, 'did not answer')}" for rank in blamed_ranks(stacks, overdue))
    return RankFailure(f"{what}: {blamed}; stacks in {logs / 'stacks.txt'}; {GO_ON}", 1)
