"""``acereason submit``: a checked plan becomes jobs; what is done already is not submitted again.

Nothing runs here: the plan goes to ``RUN/plan.yaml``, the cluster to ``RUN/slurm/cluster.yaml``, a script for each job
beside it, and the jobs' ids to ``RUN/slurm/jobs.jsonl``.
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from nemo_acereason.config.cluster import ClusterConfig
from nemo_acereason.config.known_models import planned_arch
from nemo_acereason.config.load import plan_yaml
from nemo_acereason.config.schema import Plan
from nemo_acereason.errors import ConfigError
from nemo_acereason.launch.attempts import EXCLUDE_FILE, newest_step
from nemo_acereason.launch.capacity import plan_capacity
from nemo_acereason.launch.health import lacks_cuda
from nemo_acereason.launch.plan_change import refusal
from nemo_acereason.launch.preflight import check_before_start
from nemo_acereason.launch.resume import read_state, whole_checkpoints
from nemo_acereason.launch.segments import next_segment
from nemo_acereason.launch.slurm import Job, job_script, job_states, missing_nodes, runs_on_gpus_here, submit_script
from nemo_acereason.launch.start import find_changes
from nemo_acereason.observe.jsonl import append_lines, read_lines
from nemo_acereason.observe.log import log_plan_change

_OVER = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "DEADLINE", "BOOT_FAIL")


@dataclass(frozen=True)
class Submitted:
    """One job that Slurm took."""

    job_id: str
    name: str
    nodes: int
    script: Path
    stages: list[str]


@dataclass(frozen=True)
class Submission:
    """What was submitted."""

    jobs: list[Submitted]
    note: str
    """Why they would wait for ever as things are; empty: nothing is known against them."""


def planned_jobs(plan: Plan, run_dir: Path, cluster: ClusterConfig) -> list[tuple[Job, list[str]]]:
    """The jobs that are left to do, in order, and the stages of each.

    Raises:
        ConfigError: a stage wants more nodes than there are.
    """
    found = whole_checkpoints(run_dir / "checkpoints")
    state = read_state(found[-1]) if found else None
    segment = next_segment(plan, state)
    names = list(plan.stages)
    left = names[names.index(next(iter(_stages_due(plan, state)))) :] if segment else []
    nodes = _nodes_by_stage(plan, cluster)
    groups = [left] if cluster.slurm.jobs == "one" else [[name] for name in left]
    jobs = []
    for stages in filter(None, groups):
        job = Job(
            name=_job_name(plan.name, stages[0] if cluster.slurm.jobs == "stages" else ""),
            nodes=_nodes_of_job(cluster.slurm.nodes, {stage: nodes[stage] for stage in stages}),
            run_dir=run_dir,
            work_dir=Path.cwd(),
            last=stages[-1] if cluster.slurm.jobs == "stages" else "",
        )
        jobs.append((job, stages))
    return jobs


def check_submission(plan: Plan, run_dir: Path, cluster: ClusterConfig, *, accept_changes: bool = False) -> list[str]:
    """Refuse what would fail on the nodes; what the plan changes of the one that the run began with.

    Raises:
        UserError: in one line, what to mend.
    """
    # a plan that was submitted and never began is no run yet
    is_waiting = (run_dir / "plan.yaml").exists() and not (run_dir / "metrics.jsonl").exists()
    changes = [] if is_waiting else find_changes(plan, run_dir)
    if changes and not accept_changes:
        raise ConfigError(refusal(changes, str(run_dir)))
    check_before_start(plan, cluster, runs_here=False)
    return changes


def submit(plan: Plan, run_dir: Path, cluster: ClusterConfig, *, accept_changes: bool = False) -> Submission:
    """Check a plan and submit what is left of it.

    Raises:
        UserError: the plan cannot work, jobs work on the directory already, nothing is left to do, Slurm refuses.
    """
    run_dir = run_dir.resolve()
    changes = check_submission(plan, run_dir, cluster, accept_changes=accept_changes)
    if busy := {job_id: state for job_id, state in jobs_of(run_dir).items() if not state.startswith(_OVER)}:
        told = ", ".join(f"{job_id} {state}" for job_id, state in busy.items())
        raise ConfigError(f"--out {run_dir}: job {told} works on it; wait for it, or `scancel {' '.join(busy)}` first")
    jobs = planned_jobs(plan, run_dir, cluster)
    if runs_on_gpus_here(cluster) and (lack := lacks_cuda()):
        raise ConfigError(f"the jobs would run on GPUs, and {lack}")
    if not jobs:
        raise ConfigError(f"--out {run_dir}: all stages are done; see {run_dir / 'report.html'}, or give another --out")
    folder = run_dir / "slurm"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {run_dir} cannot be written ({error.strerror}); give another directory") from None
    (run_dir / EXCLUDE_FILE).unlink(missing_ok=True)  # nodes may have been mended since
    if changes:
        log_plan_change(run_dir, newest_step(run_dir), changes)
    (run_dir / "plan.yaml").write_text(plan_yaml(plan))
    (folder / "cluster.yaml").write_text(yaml.safe_dump(dataclasses.asdict(cluster), sort_keys=False))
    done: list[Submitted] = []
    for number, (job, stages) in enumerate(jobs, start=1):
        script = folder / f"{number}_{job.name}.sh"
        script.write_text(job_script(job, cluster))
        job_id = submit_script(script, cluster.slurm, after=done[-1].job_id if done else "")
        done.append(Submitted(job_id, job.name, job.nodes, script, stages))
        row = {"job_id": job_id, "name": job.name, "nodes": job.nodes, "stages": stages, "time": time.time()}
        append_lines(folder / "jobs.jsonl", [row])
    return Submission(done, missing_nodes(cluster.slurm, max(job.nodes for job in done)))


def submitted_jobs(run_dir: Path) -> list[dict[str, Any]]:
    """Every job that was submitted for a run, oldest first."""
    return read_lines(run_dir / "slurm" / "jobs.jsonl")


def jobs_of(run_dir: Path) -> dict[str, str]:
    """State of a run's jobs that Slurm still knows, by id."""
    return job_states([str(row["job_id"]) for row in submitted_jobs(run_dir)])


def _stages_due(plan: Plan, state: dict[str, Any] | None) -> Sequence[str]:
    names = list(plan.stages)
    return names if state is None else names[names.index(state["stage"]) + bool(state["is_stage_end"]) :]


def _nodes_by_stage(plan: Plan, cluster: ClusterConfig) -> dict[str, int]:
    capacity = plan_capacity(plan, planned_arch(plan.model), cluster)
    return {stage.name: stage.num_nodes(cluster.devices_per_node) for stage in capacity.stages}


def _nodes_of_job(asked: int, wanted: Mapping[str, int]) -> int:
    most = max(wanted, key=lambda stage: wanted[stage])
    if asked and asked < wanted[most]:
        raise ConfigError(f"slurm.nodes={asked}: stage {most} wants {wanted[most]}; use that, or 0")
    return asked or wanted[most]


def _job_name(plan: str, stage: str) -> str:
    return re.sub(r"[^\w.-]+", "_", f"{plan}.{stage}" if stage else plan)
