"""Where a run is, from what lies in its directory and what Slurm still knows: ``acereason status`` and ``logs``.

Reads only, and no engine is imported: for a login node. Works for a run without Slurm too.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nemo_acereason.config.load import read_plan
from nemo_acereason.errors import ConfigError
from nemo_acereason.launch.attempts import Attempt, Attempts
from nemo_acereason.launch.resume import read_state, whole_checkpoints
from nemo_acereason.launch.submit import jobs_of, submitted_jobs
from nemo_acereason.observe.log import read_metrics


@dataclass(frozen=True)
class StageStatus:
    """One stage of the plan."""

    name: str
    state: str
    """``done``, ``runs``, ``stopped`` or ``waits``."""
    step: int
    num_steps: int
    """At most: rules and epochs may end a stage before."""


@dataclass(frozen=True)
class JobStatus:
    """One job that was submitted."""

    job_id: str
    stages: list[str]
    state: str
    """As Slurm says; empty: it knows it no more, or there is no Slurm here."""
    num_starts: int


@dataclass(frozen=True)
class RunStatus:
    """All of a run."""

    plan: str
    stages: list[StageStatus]
    checkpoint: str
    """Name of the newest; empty: none yet."""
    checkpoint_time: float | None
    stop_reason: str
    """Of the last stop; empty: it never stopped, or went on since."""
    last_sign: float | None
    """Unix seconds of the last line that the run wrote."""
    jobs: list[JobStatus] = field(default_factory=list)


def run_status(run_dir: Path) -> RunStatus:
    """Where a run is.

    Raises:
        ConfigError: no run lies there.
    """
    file = run_dir / "plan.yaml"
    if not file.exists():
        raise ConfigError(f"{run_dir} holds no plan.yaml; want the --out of a run")
    plan = read_plan(file)
    rows, events = read_metrics(run_dir)
    found = whole_checkpoints(run_dir / "checkpoints")
    attempts = Attempts(run_dir).read()
    states = jobs_of(run_dir)
    jobs = [
        JobStatus(
            str(job["job_id"]),
            job["stages"],
            states.get(str(job["job_id"]), ""),
            sum(attempt.job_id == str(job["job_id"]) for attempt in attempts),
        )
        for job in submitted_jobs(run_dir)
    ]
    lines = sorted([*rows, *events], key=lambda line: float(line["time"]))
    reason = _stop_reason(lines, attempts)
    is_at_work = any(job.state.startswith("RUNNING") for job in jobs) or not (reason or jobs)
    done = {event["stage"] for event in events if event["event"] == "stage_end"}
    if found and (state := read_state(found[-1]))["is_stage_end"]:
        done.add(state["stage"])
    stages = []
    for name, stage in plan.stages.items():
        step = max((row["stage_step"] for row in rows if row["stage"] == name), default=0)
        begun = step > 0 or any(event["event"] == "stage_start" and event["stage"] == name for event in events)
        now = "done" if name in done else "waits" if not begun else "runs" if is_at_work else "stopped"
        stages.append(StageStatus(name, now, step, stage.num_steps))
    return RunStatus(
        plan=plan.name,
        stages=stages,
        checkpoint=found[-1].name if found else "",
        checkpoint_time=found[-1].stat().st_mtime if found else None,
        stop_reason=reason,
        last_sign=float(lines[-1]["time"]) if lines else None,
        jobs=jobs,
    )


def status_lines(status: RunStatus, now: float | None = None) -> list[str]:
    """The status as a person reads it."""
    now = time.time() if now is None else now
    width = max(len(stage.name) for stage in status.stages)
    lines = [f"plan        {status.plan}"]
    for number, stage in enumerate(status.stages):
        head = "stages" if number == 0 else ""
        lines.append(f"{head:<12}{stage.name:<{width}}  {stage.state:<8} step {stage.step} of {stage.num_steps}")
    for number, job in enumerate(status.jobs):
        head = "jobs" if number == 0 else ""
        starts = f", started {job.num_starts} times" if job.num_starts > 1 else ""
        lines.append(f"{head:<12}{job.job_id}  {job.state or 'gone from the queue'}{starts}: {', '.join(job.stages)}")
    saved = f"{status.checkpoint}, {_ago(status.checkpoint_time, now)}" if status.checkpoint_time else "none yet"
    lines.append(f"checkpoint  {saved}")
    lines.append(f"last sign   {_ago(status.last_sign, now) if status.last_sign else 'none yet'}")
    lines.append(f"last stop   {status.stop_reason or 'none'}")
    return lines


def find_log(run_dir: Path, kind: str = "") -> Path:
    """The file to read: of a kind, else the one that tells most about the last stop.

    Args:
        kind: ``job``, ``rank_N``, ``engine`` or ``stacks``; empty: chosen.
    Raises:
        ConfigError: there is no such file.
    """
    logs = run_dir / "logs"
    jobs = sorted((run_dir / "slurm").glob("job-*.out"), key=lambda path: path.stat().st_mtime)
    wanted = [kind] if kind else _telling_kinds(run_dir)
    for name in wanted:
        file = (
            (jobs[-1] if jobs else None)
            if name == "job"
            else logs / (f"{name}.txt" if name == "stacks" else f"{name}.log")
        )
        if file and file.exists() and (kind or file.stat().st_size):
            return file
    there = [*(["job"] if jobs else []), *sorted(path.stem for path in logs.glob("*.*"))]
    if kind:
        raise ConfigError(f"{run_dir}: no log {kind!r}; there are {', '.join(there) or 'none'}")
    raise ConfigError(f"{run_dir}: no log has anything in it yet")


def _telling_kinds(run_dir: Path) -> list[str]:
    """Kinds of logs, the one that tells most about the last stop first."""
    _, events = read_metrics(run_dir)
    reason = _stop_reason(events, Attempts(run_dir).read())
    kinds = []
    if "stacks in" in reason:
        kinds.append("stacks")
    if "engine" in reason:
        kinds.append("engine")
    if match := re.search(r"\brank (\d+)\b", reason):
        kinds.append(f"rank_{match[1]}")
    return [*kinds, "job", "rank_0"]


def _stop_reason(lines: list[dict[str, Any]], attempts: list[Attempt]) -> str:
    """Of the last stop, whoever told it; a start that says nothing was killed."""
    told = str(lines[-1].get("reason", "")) if lines and lines[-1].get("event") == "stop" else ""
    if not attempts:
        return told
    last = attempts[-1]
    if last.status is None:
        before = attempts[-2].reason if len(attempts) > 1 else ""
        return last.reason or told or (before if not lines else "")
    return last.reason if last.status else ""


def _ago(then: float, now: float) -> str:
    seconds = max(now - then, 0.0)
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"
