"""The recipes as NeMo-Run objects: tasks, stages of an experiment, executors, factories of its command line.

::

    nemo acereason train --factory acereason_1_1_7b out=/shared/run plan.trainer.tensor_parallel=8 run.executor=...

A task carries its whole plan; what it runs is ``acereason`` in the environment of the engines, which need not be the
one that NeMo-Run submits from. Imported by NeMo-Run alone (entry point ``nemo_run.cli``), in environment ``launch`` or
``nemo``; needs no torch.
"""

# no `from __future__ import annotations`: NeMo-Run's command line reads annotations as types

import dataclasses
import importlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

import nemo_run as run
from nemo_run.core.tunnel.client import Tunnel

from nemo_acereason.config.cluster import load_cluster
from nemo_acereason.config.load import check_plan, load_plan, read_plan, recipe_names, save_plan
from nemo_acereason.config.schema import Plan
from nemo_acereason.config.slurm import SlurmConfig
from nemo_acereason.errors import ConfigError
from nemo_acereason.launch.plan_change import list_changes, refusal
from nemo_acereason.launch.slurm import check_settings, container_mounts, exports, gpus_per_node

NAMESPACE = "acereason"


@run.cli.entrypoint(name="train", namespace=NAMESPACE)  # type: ignore[untyped-decorator] # NeMo-Run has no types
def train(plan: Plan, out: str, python: str = "", last: str = "") -> None:
    """Run a plan, or go on with it, in this job: on this machine, or on all nodes where Slurm started one task each.

    Args:
        plan: what runs.
        out: run directory; on a cluster one that every node sees.
        python: interpreter of the environment that has the engines; empty: this one's.
        last: the stage to end with; empty: the plan's last.
    Raises:
        ConfigError: the plan cannot work, or ``out`` holds a run of another plan.
        SystemExit: the run did not end well; its exit status. On a cluster this process becomes the node's launcher.
    """
    check_plan(plan)
    run_dir = Path(out).resolve()
    interpreter = shutil.which(python or sys.executable)
    if interpreter is None:
        raise ConfigError(f"python={python}: no such program; want an environment's bin/python")
    if "SLURM_JOB_ID" in os.environ:
        if os.environ.get("SLURM_NODEID", "0") == "0":
            _begin(plan, run_dir)
        command = [interpreter, "-m", "nemo_acereason.launch.node", str(run_dir), *(["--last", last] if last else [])]
        os.execvp(interpreter, command)  # Slurm's SIGTERM may go to its own children alone: the launcher becomes one
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "plan.yaml"
        save_plan(plan, file)
        code = "from nemo_acereason.cli import main; main()"
        command = [interpreter, "-c", code, "run", str(file), "--out", str(run_dir)]
        status = subprocess.run([*command, *(["--last", last] if last else [])], check=False).returncode
    if status:
        raise SystemExit(status)


def task(
    recipe: str, out: str, changes: list[str] | None = None, *, python: str = "", last: str = ""
) -> run.Partial[Callable[..., None]]:
    """One stage or the whole of a recipe, every setting open to NeMo-Run's overrides (``plan.stages.NAME.num_steps``).

    Args:
        recipe: as :func:`nemo_acereason.config.load.load_plan` takes it, ``changes`` as ``key=value``.
        out: see :func:`train`, like ``python`` and ``last``.
    """
    plan = load_plan(recipe, changes or [], needs_inputs=False)
    return run.Partial(train, plan=as_config(plan), out=out, python=python, last=last)


def add_stages(
    experiment: run.Experiment,
    recipe: str,
    out: str,
    executor: run.Executor,
    changes: list[str] | None = None,
    *,
    python: str = "",
) -> list[str]:
    """A task for each stage into an experiment that was entered, each behind the one before; their ids.

    ::

        with run.Experiment("acereason") as experiment:
            add_stages(experiment, "acereason_1_1_7b", "/shared/run", slurm_executor("h100_16x8", "/shared/run"))
            experiment.dryrun()
    """
    ids: list[str] = []
    for stage in load_plan(recipe, changes or [], needs_inputs=False).stages:
        one = task(recipe, out, changes, python=python, last=stage)
        ids.append(experiment.add(one, executor=executor.clone(), name=stage, dependencies=ids[-1:]))
    return ids


def slurm_executor(cluster: str, out: str, tunnel: Tunnel | None = None) -> run.SlurmExecutor:
    """NeMo-Run's executor for a cluster's file: what its ``slurm`` section asks for, but ``jobs`` and ``python``.

    A job asks its run to save before the time limit, and comes back where it ends with status 75, as those of
    ``acereason submit`` do.

    Args:
        cluster: a shipped cluster's name, or a ``.yaml`` file.
        out: the run directory, see :func:`train`; containers see the folder around it, and the working directory.
        tunnel: how Slurm is reached; None: its commands are on this machine, and every node sees ``NEMORUN_HOME``.
    Raises:
        ConfigError: no such cluster; containers of apptainer, which NeMo-Run does not start, or without an image; a
            short option of sbatch.
    """
    config = load_cluster(cluster)
    slurm = config.slurm
    check_settings(slurm)
    if slurm.container == "apptainer":
        raise ConfigError("slurm.container=apptainer: NeMo-Run starts pyxis alone; use `acereason submit`")
    run_dir = Path(out).resolve()
    executor = run.SlurmExecutor(
        account=slurm.account,
        partition=slurm.partition or None,
        qos=slurm.qos or None,
        time=slurm.time_limit,
        nodes=slurm.nodes or config.nodes,
        ntasks_per_node=1,  # one launcher a node, which starts the ranks
        cpus_per_task=config.cores_per_node,
        gpus_per_node=gpus_per_node(config),
        exclusive=slurm.exclusive or None,
        mem="0" if slurm.exclusive else None,
        additional_parameters=_options(slurm),
        container_image=slurm.image if slurm.container == "pyxis" else None,
        container_mounts=container_mounts(slurm, run_dir, Path.cwd()),
        # behind NeMo-Run's own --wait=60 --kill-on-bad-exit=1: the first node writes down why and how a run ends
        srun_args=["--wait=0", "--kill-on-bad-exit=0", f"--cpus-per-task={config.cores_per_node}", *slurm.srun_options],
        # not env_vars, whose values NeMo-Run does not quote and whose names it has in capitals
        setup_lines="\n".join([*exports(slurm), *slurm.setup, *_around_the_run(slurm, run_dir)]),
        tunnel=tunnel or run.LocalTunnel(job_dir=""),  # copies nothing: "" is where NeMo-Run writes its scripts
    )
    executor.packager = run.Packager()
    return executor


def as_config(value: Any) -> Any:
    """A plan, or a part of one, as a ``run.Config`` that NeMo-Run can override and store."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        # notes on where values come from have dotted names; they decide nothing
        fields.pop("sources", None)
        type(value).__init__.__annotations__.update(get_type_hints(type(value)))  # which the schema has as text
        return run.Config(type(value), **{name: as_config(below) for name, below in fields.items()})
    if isinstance(value, dict) and all(isinstance(key, str) and key.isidentifier() for key in value):
        return run.Config(table, **{name: as_config(below) for name, below in value.items()})
    return value


def table(**entries: Any) -> dict[str, Any]:
    """A table by name (stages, rules, options), whose entries NeMo-Run reaches by a dot."""
    return entries


def _begin(plan: Plan, run_dir: Path) -> None:
    """The plan into its run directory, by one node; a run that goes on keeps its own."""
    file = run_dir / "plan.yaml"
    if file.exists():
        if changes := list_changes(read_plan(file), plan):
            raise ConfigError(refusal(changes, str(run_dir)))
        return
    run_dir.mkdir(parents=True, exist_ok=True)
    fresh = file.with_name("plan.yaml.new")
    save_plan(plan, fresh)
    fresh.replace(file)


def _options(slurm: SlurmConfig) -> dict[str, Any]:
    """Options of sbatch that NeMo-Run has no fields for."""
    options: dict[str, Any] = {"requeue" if slurm.requeue else "no_requeue": True}
    if slurm.reservation:
        options["reservation"] = slurm.reservation
    for option in slurm.options:
        name, separator, value = option.partition("=")
        if not name.startswith("--") or " " in name:
            raise ConfigError(
                f"slurm.options has {option!r}: NeMo-Run takes long options alone, e.g. --constraint=h100"
            )
        options[name.removeprefix("--")] = value if separator else True
    return options


def _around_the_run(slurm: SlurmConfig, run_dir: Path) -> list[str]:
    """Lines of NeMo-Run's script before its srun, which waits in the foreground: it hears no signal meanwhile."""
    # loops.run.STOP_FILE, whose module needs torch
    end = 'date +%s -d "$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%e)"'
    left = f"$(($({end}) - $(date +%s) - {slurm.save_before_limit_s}))"
    lines = [f"(sleep {left} && touch {shlex.quote(str(run_dir / 'stop'))}) &"]
    if slurm.requeue:
        # 143 and 135 as in slurm/run.sh; a job that is cancelled ends this script too, and runs no more
        runs = 'scontrol --oneliner show job "$SLURM_JOB_ID" | grep -q " JobState=RUNNING "'
        lines.append(f"""trap 'case $? in 75 | 135 | 143) {runs} && scontrol requeue "$SLURM_JOB_ID" ;; esac' EXIT""")
    return lines


def _register(recipe: str) -> None:
    """A factory of NeMo-Run's command line that goes by the recipe's name."""

    def build() -> run.Partial[Callable[..., None]]:
        return task(recipe, out=f"runs/{recipe}")

    build.__name__ = build.__qualname__ = recipe
    build.__doc__ = (importlib.import_module(f"nemo_acereason.recipes.{recipe}").__doc__ or "").splitlines()[0]
    run.cli.factory(build, target=train, name=recipe)


for _recipe in recipe_names():
    _register(_recipe)
