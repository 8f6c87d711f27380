"""One launcher per node of a job: ``python -m nemo_acereason.launch.node RUN_DIR``, started by srun on all of them.

The first node drives the plan of ``RUN/plan.yaml`` as ``acereason run`` does; the others start ranks when it says so.
Exit status: 0 done, 75 come back (:mod:`nemo_acereason.launch.attempts`), else that of the error.

SIGTERM or SIGUSR1 to the first node's launcher asks the run to save; those of other nodes leave it to the first, with
which they end.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from nemo_acereason.config.cluster import ClusterConfig, load_cluster
from nemo_acereason.config.load import read_plan
from nemo_acereason.errors import AceReasonError, RunStopped, StopAsked, UserError
from nemo_acereason.launch.attempts import COME_BACK, EXCLUDE_FILE, MAX_IN_VAIN, Attempts
from nemo_acereason.launch.health import SickNodes, check_nodes, node_facts
from nemo_acereason.launch.local import RankFailure
from nemo_acereason.launch.nodes import Crew, Meeting, NodeLost, join, serve
from nemo_acereason.launch.slurm import JobStep
from nemo_acereason.launch.start import start

TERMINATED = 143
ASKED = "asked to save by a signal: cancelled, preempted, sent by hand, or a node of the job failed"


def run_node(run_dir: Path, job: JobStep, last: str = "") -> int:
    """Take this node's part in the job; its exit status.

    Args:
        last: the stage to end with; empty: the plan's last.
    """
    meeting = Meeting(run_dir, job.attempt, job.node_index, job.num_nodes, job.node_name)
    if job.node_index == 0:
        return _drive(meeting, job, last)
    try:
        wire = join(meeting, node_facts(run_dir))
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        serve(wire)
    except NodeLost as lost:
        print(f"acereason: node {job.node_name}: {lost}", file=sys.stderr)
        return COME_BACK
    return 0


def _drive(meeting: Meeting, job: JobStep, last: str) -> int:
    """What the first node does."""
    attempts = Attempts(meeting.run_dir)
    attempts.begin(job)
    told = ""

    def on_asked() -> None:
        nonlocal told
        told = ASKED
        with contextlib.suppress(OSError):  # a full disk: what counts is that the run saves
            attempts.note(job, told)

    try:
        if attempts.num_in_vain(job) > MAX_IN_VAIN:  # starts that were killed could not say so themselves
            raise AceReasonError(f"{MAX_IN_VAIN} starts ended without a new checkpoint")
        _run_plan(meeting, last, on_asked)
    except AceReasonError as error:
        return _end(attempts, job, error, told)
    except KeyboardInterrupt as interrupt:
        reason = f"ended by {interrupt}: cancelled, preempted, or a node of the job failed"
        attempts.end(job, TERMINATED, reason)
        return TERMINATED
    attempts.end(job, 0, f"stage {last} is done" if last else "all stages are done")
    return 0


def _run_plan(meeting: Meeting, last: str, on_asked: Callable[[], None]) -> None:
    run_dir = meeting.run_dir
    plan = read_plan(run_dir / "plan.yaml")
    cluster = _cluster(run_dir)
    crew = Crew.gather(meeting)
    try:
        check_nodes(run_dir, crew, cluster)
        start(plan, run_dir, cluster=cluster, crew=crew, last=last, on_asked=on_asked)
    finally:
        crew.dismiss()


def _end(attempts: Attempts, job: JobStep, error: AceReasonError, told: str) -> int:
    """Say why, and whether to come back: not for what a person must mend, nor where nothing moves any more.

    Args:
        told: why the job was already about to end; empty: it was not.
    """
    is_final = isinstance(error, UserError) or (isinstance(error, RunStopped) and not isinstance(error, StopAsked))
    status, reason = error.exit_status, str(error)
    if told and status != COME_BACK:  # it has not saved
        reason = f"{told}; then {reason}"
    if error.exit_status not in (2, 3) and not is_final:
        if (num := attempts.num_in_vain(job)) >= MAX_IN_VAIN and not isinstance(error, StopAsked):
            reason = f"{reason}; job {job.job_id} started {num} times without a new checkpoint: it does not come back"
            status = 1
        else:
            status = COME_BACK
    # nodes of a job that is taken from them go one by one: none of them is to blame
    if status == COME_BACK and not told and (names := _nodes_to_leave(error)):
        file = attempts.run_dir / EXCLUDE_FILE  # what Slurm is told takes the place of what it was told before
        before = file.read_text().split(",") if file.exists() else []
        file.write_text(",".join(dict.fromkeys([*before, *names])))
    print(f"acereason: {reason}", file=sys.stderr)
    attempts.end(job, status, reason)
    return status


def _nodes_to_leave(error: AceReasonError) -> list[str]:
    """Nodes that the job script has Slurm exclude, as it may not know of them, or not yet."""
    if isinstance(error, SickNodes):
        return error.names
    return [error.lost_node] if isinstance(error, RankFailure) and error.lost_node else []


def _cluster(run_dir: Path) -> ClusterConfig | None:
    """What the job was submitted with; None: by hand, and each node is checked as what it is."""
    file = run_dir / "slurm" / "cluster.yaml"
    return load_cluster(str(file)) if file.exists() else None


def _interrupt(number: int, _frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # another one must not disturb the end
    raise KeyboardInterrupt(signal.Signals(number).name)


def main(arguments: Sequence[str] | None = None) -> None:
    """Exit status as the module says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--last", default="", help="the stage to end with")
    given = parser.parse_args(arguments)
    try:
        job = JobStep.from_environment(os.environ)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # while nothing can save yet; it would end a launcher
        if job.node_index == 0:
            signal.signal(signal.SIGTERM, _interrupt)
        status = run_node(given.run_dir.resolve(), job, given.last)
    except AceReasonError as error:
        print(f"acereason: {error}", file=sys.stderr)
        status = error.exit_status
    raise SystemExit(status)


if __name__ == "__main__":
    main()
