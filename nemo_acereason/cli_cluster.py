"""``acereason submit``, ``status``, ``logs``, ``engines`` and ``doctor``: a run on a cluster. Only the verbs."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import signal
from pathlib import Path
from typing import Annotated

import typer

from nemo_acereason.cli_plan import DataFiles, ModelDir, Recipe, Settings, YamlFiles, load_recipe

RunDir = Annotated[Path, typer.Argument(help="Run directory.")]


def submit(
    recipe: Recipe,
    cluster: Annotated[str, typer.Option("--cluster", help="A shipped cluster, or a .yaml file.")],
    settings: Settings = None,
    model: ModelDir = None,
    data: DataFiles = None,
    config: YamlFiles = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Run directory that all nodes see; default runs/RECIPE.")
    ] = None,
    slurm: Annotated[
        list[str] | None,
        typer.Option("--slurm", metavar="KEY=VALUE", help="The cluster's slurm settings, e.g. partition=batch."),
    ] = None,
    accept_changes: Annotated[
        bool, typer.Option("--accept-changes", help="Go on with a run though the recipe is not the one it began with.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check, print the scripts, submit nothing.")] = False,
) -> None:
    """Check a recipe against a cluster and submit it to Slurm, or what is left of a run."""
    from nemo_acereason.config.cluster import load_cluster, with_slurm
    from nemo_acereason.launch import submit as jobs
    from nemo_acereason.launch.slurm import job_script

    plan = load_recipe(recipe, settings, model, data, config)
    resolved = with_slurm(load_cluster(cluster), slurm or [])
    run_dir = (out or Path("runs") / plan.name).resolve()
    if dry_run:
        jobs.check_submission(plan, run_dir, resolved, accept_changes=accept_changes)
        print("\n".join(job_script(job, resolved) for job, _ in jobs.planned_jobs(plan, run_dir, resolved)), end="")
        return
    submission = jobs.submit(plan, run_dir, resolved, accept_changes=accept_changes)
    for job in submission.jobs:
        print(f"job {job.job_id}: {', '.join(job.stages)} on {job.nodes} nodes ({job.script})")
    if submission.note:
        print(f"note: {submission.note}; the job waits until more do")
    print(f"see: acereason status {run_dir}")


def status(
    run_dir: RunDir,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Say where a run is: stages, steps, jobs, last checkpoint, reason of the last stop."""
    from nemo_acereason.launch.status import run_status, status_lines

    found = run_status(run_dir)
    print(json.dumps(dataclasses.asdict(found), indent=2) if as_json else "\n".join(status_lines(found)))


def logs(
    run_dir: RunDir,
    kind: Annotated[str, typer.Argument(help="job, rank_N, engine or stacks; default: what tells most.")] = "",
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many of its last lines; 0: the path.")] = 40,
) -> None:
    """Find the log that tells about the last stop, and print its end."""
    from nemo_acereason.launch.status import find_log

    file = find_log(run_dir, kind)
    if not lines:
        print(file)
        return
    print(f"==> {file}")
    with file.open(errors="replace") as text:
        print("".join(collections.deque(text, maxlen=lines)), end="")


def engines(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="That the trainer sees too: DIR/NAME/acereason of a NeMo recipe.")
    ],
    number: Annotated[
        int, typer.Option("--number", min=0, envvar="SLURM_PROCID", help="Which of rollout.nodes this one is, from 0.")
    ] = 0,
) -> None:
    """Serve vLLM engines from this environment and node to NeMo's trainer, until ended; one trainer after the other."""
    from nemo_acereason.launch.engine_server import serve_invited

    # by Ctrl-C, or by SIGTERM, which a script's background job hears alone: either is how it is meant to end
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        serve_invited(directory.resolve(), number)


def doctor() -> None:
    """Show what this machine or container offers, what will not work, and how to mend it."""
    from nemo_acereason.launch.doctor import findings

    for finding in findings():
        print(f"{finding.mark:<4} {finding.name:<18} {finding.detail}", flush=True)
