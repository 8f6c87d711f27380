"""The recipes through NeMo-Run, in its environment (scripts/setup_launch.sh): runs by LocalExecutor, scripts for Slurm.

What runs is the default environment's ``acereason``, with the scripted engine.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("nemo_run", reason="environment launch: scripts/setup_launch.sh, then make test")

from nemo_acereason.config.load import load_plan, recipe_names
from nemo_acereason.errors import ConfigError
from nemo_acereason.launch.nemo_run_recipes import as_config, slurm_executor
from tests.slurm.real_slurm import start_slurm, why_not

ROOT = Path(__file__).parents[2]
SMALL = str(ROOT / "tests" / "e2e" / "small.yaml")
ENGINES = str(ROOT / ".venv" / "bin" / "python")
"""Interpreter of the default environment."""
SCRIPTED = [
    "rollout.engine=scripted",
    f"rollout.options.responses={ROOT / 'tests' / 'e2e' / 'scripted_answers.py'}:respond",
    "trainer.tensor_parallel=1",
    "stages.math_short.guards.mean_logp_error=100",
    "stages.math_short.guards.max_logp_error=0",
    "stages.math_middle=null",
    "evaluations.heldout_sums=null",
    "stages.sft.num_steps=2",
    "stages.math_short.num_steps=2",
]


def command_line(tmp_path: Path, *command: str, **variables: str) -> str:
    """What a command prints, as in a shell with the environment active: NeMo-Run starts the `python` of the path."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "NEMORUN_HOME": str(tmp_path / "home"),  # NeMo-Run replaces the word nemo_run in paths of its scripts
        "OMP_NUM_THREADS": "1",
        **variables,
    }
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=1200, check=False, env=environment, stdin=subprocess.DEVNULL
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def experiment_script(tmp_path: Path, *lines: str) -> Path:
    """A Python file that has an experiment open where the lines stand."""
    script = tmp_path / "submit.py"
    head = [
        "import nemo_run as run",
        "from nemo_acereason.launch.nemo_run_recipes import add_stages, slurm_executor, task",
        "if __name__ == '__main__':",  # NeMo-Run's tasks import the script
        "  with run.Experiment('small') as experiment:",
    ]
    script.write_text("\n".join([*head, *(f"    {line}" for line in lines)]) + "\n")
    return script


@pytest.mark.parametrize("recipe", recipe_names())
def test_plan_survives_the_way_through_nemo_run(recipe: str) -> None:
    from fiddle import build

    plan = load_plan(recipe, needs_inputs=False)
    built = build(as_config(plan))
    plan.sources = {}
    for stage in plan.stages.values():
        stage.sources = {}
    assert built == plan


def test_two_stages_run_in_order_by_the_local_executor(tmp_path: Path) -> None:
    out = tmp_path / "run"
    script = experiment_script(
        tmp_path,
        f"add_stages(experiment, {SMALL!r}, {str(out)!r}, run.LocalExecutor(), {SCRIPTED!r}, python={ENGINES!r})",
        "experiment.run(tail_logs=True)",
    )
    said = command_line(tmp_path, sys.executable, str(script))
    assert (out / "metrics.jsonl").exists(), said
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["stage"] for row in rows if "event" not in row] == ["sft", "sft", "math_short", "math_short"]
    assert json.loads((out / "summary.json").read_text())["is_finished"] is True


def test_command_line_overrides_in_its_own_syntax(tmp_path: Path) -> None:
    exported = tmp_path / "plan.yaml"
    command = [str(Path(sys.executable).with_name("nemo")), "acereason", "train", "--yes"]
    command += ["--factory", "acereason_1_1_7b", "--to-yaml", str(exported)]
    command += ["plan.trainer.tensor_parallel=8", "plan.stages.math_8k.num_steps=3"]
    command_line(tmp_path, *command, "plan.stages.math_8k.reward.options.flag=True", f"out={tmp_path / 'run'}")
    text = exported.read_text()
    assert "tensor_parallel: 8" in text
    assert "num_steps: 3" in text
    assert "flag: true" in text


@pytest.mark.parametrize("kind", ["bash", "python"])
def test_what_the_page_shows_prints_its_jobs(tmp_path: Path, kind: str) -> None:
    page = (ROOT / "docs" / "nemo.md").read_text()
    code = re.findall(rf"```{kind}\n(.*?)```", page, re.DOTALL)[0].replace("/shared/run", str(tmp_path / "run"))
    file = tmp_path / f"page.{kind}"
    file.write_text(code)
    said = command_line(tmp_path, "bash" if kind == "bash" else sys.executable, str(file))
    for wanted in ("tensor_parallel=8,", "num_steps=3,") if kind == "bash" else ("#SBATCH --nodes=16",):
        assert wanted in said, wanted
    assert not (tmp_path / "run").exists()


def test_slurm_script_starts_one_launcher_on_every_node(tmp_path: Path) -> None:
    cluster = tmp_path / "here.yaml"
    cluster.write_text(
        "nodes: 2\ndevices_per_node: 8\nslurm:\n  account: me\n  partition: batch\n  container: pyxis\n"
        "  image: registry/image:1\n  mounts: [/data:/data]\n  reservation: night\n"
        "  options: [--constraint=h100, --contiguous]\n  save_before_limit_s: 600\n"
        "  environment: {greeting: two words}\n"
    )
    out = tmp_path / "run"
    executor = slurm_executor(str(cluster), str(out))
    assert (executor.nodes, executor.ntasks_per_node, executor.gpus_per_node) == (2, 1, 8)
    script = experiment_script(
        tmp_path,
        f"executor = slurm_executor({str(cluster)!r}, {str(out)!r})",
        f"experiment.add(task({SMALL!r}, {str(out)!r}), executor=executor, name='all')",
        "experiment.dryrun(delete_exp_dir=False)",
    )
    text = command_line(tmp_path, sys.executable, str(script), COLUMNS="2000")  # no line is broken
    for wanted in (
        "--nodes=2",
        "--ntasks-per-node=1",
        "--account=me",
        "--partition=batch",
        "registry/image:1",
        "/data:/data",
        f"{tmp_path}:{tmp_path},",
        "--reservation=night",
        "--constraint=h100",
        "#SBATCH --contiguous ",
        "#SBATCH --requeue ",
        "export greeting='two words'",
        "--kill-on-bad-exit=1 --wait=0 --kill-on-bad-exit=0 --cpus-per-task=",  # the last word counts
        "- 600",
    ):
        assert wanted in text, wanted


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("container: apptainer, image: image.sif", "NeMo-Run starts pyxis alone"),
        ("container: pyxis", "container=pyxis wants slurm.image"),
        ("options: [-C h100]", "long options alone"),
    ],
)
def test_settings_that_nemo_run_does_not_take_are_refused(tmp_path: Path, settings: str, said: str) -> None:
    cluster = tmp_path / "here.yaml"
    cluster.write_text(f"slurm: {{{settings}}}\n")
    with pytest.raises(ConfigError, match=said):
        slurm_executor(str(cluster), str(tmp_path / "run"))


def test_a_job_asks_its_run_to_save_before_the_time_limit_and_comes_back(tmp_path: Path) -> None:
    cluster = tmp_path / "here.yaml"
    cluster.write_text("slurm: {save_before_limit_s: 600}\n")
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, line in (
        ("squeue", "date -d '+601 seconds' +%Y-%m-%dT%H:%M:%S"),
        ("scontrol", f'[ "$1" = --oneliner ] && echo "Id=7 JobState=$STATE Why=" || echo "$@" >> {tmp_path}/said'),
    ):
        (commands / name).write_text(f"#!/bin/sh\n{line}\n")
        (commands / name).chmod(0o755)
    out = tmp_path / "a run"
    out.mkdir()
    lines = slurm_executor(str(cluster), str(out)).setup_lines
    wait = f"for _ in $(seq 100); do [ -e '{out}/stop' ] && break; sleep 0.1; done"
    script = f"export SLURM_JOB_ID=7\n{lines}\n{wait}\nset -e\nexit"
    environment = {**os.environ, "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}"}
    for status, state in ((75, "RUNNING"), (2, "RUNNING"), (143, "RUNNING"), (143, "CANCELLED")):
        environment["STATE"] = state
        ended = subprocess.run(["bash", "-c", f"{script} {status}"], env=environment, check=False, timeout=60)
        assert ended.returncode == status
        assert (out / "stop").exists()
    assert (tmp_path / "said").read_text() == "requeue 7\n" * 2, "saved, or told by SIGTERM alone to end"


@pytest.mark.timeout(600)
def test_slurm_executor_runs_a_stage_on_two_nodes_of_a_real_slurm_and_comes_back(tmp_path: Path) -> None:
    if reason := why_not():
        pytest.skip(reason)
    cluster = tmp_path / "here.yaml"
    setup = f'slurm:\n  setup: ["export PATH={Path(sys.executable).parent}:$PATH"]'
    cluster.write_text((ROOT / "tests" / "slurm" / "two_nodes.yaml").read_text().replace("slurm:", setup))
    out = tmp_path / "run"
    changes = [*SCRIPTED, "trainer.data_parallel=2", "stages.math_short=null", "stages.sft.num_steps=30"]
    script = experiment_script(
        tmp_path,
        f"executor = slurm_executor({str(cluster)!r}, {str(out)!r})",
        f"whole = task({SMALL!r}, {str(out)!r}, {changes!r}, python={ENGINES!r})",
        "experiment.add(whole, executor=executor, name='all')",
        "experiment.run(detach=True)",
    )
    with start_slurm() as slurm:
        said = command_line(tmp_path, sys.executable, str(script), SLURM_CONF=slurm.environment["SLURM_CONF"])
        (job_id,) = slurm.run("squeue", "--noheader", "--states=all", "--format=%A").split()
        deadline = time.monotonic() + 200
        while not (out / "metrics.jsonl").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        slurm.run("scancel", "--signal=TERM", job_id)
        found = slurm.wait_for(job_id, "COMPLETED", "FAILED", deadline_s=300)
        logs = "\n".join(file.read_text() for file in (tmp_path / "home").rglob("*.out"))
    assert found["JobState"] == "COMPLETED", said + logs
    assert found["NumNodes"] == "2"
    ended = [
        row for row in map(json.loads, (out / "slurm" / "attempts.jsonl").read_text().splitlines()) if "ended" in row
    ]
    by_stop = [row for row in ended if row["reason"].startswith("asked to stop: saved")]
    assert [row["status"] for row in by_stop] == [75], ended
    assert int(found["Restarts"]) >= 1, ended  # more where a busy machine failed an attempt
    assert json.loads((out / "summary.json").read_text())["is_finished"] is True
