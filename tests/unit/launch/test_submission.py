"""Which jobs a plan becomes, and what is refused before one is submitted. No Slurm is needed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nemo_acereason.config.cluster import ClusterConfig, load_cluster, with_slurm
from nemo_acereason.config.load import load_plan, plan_yaml
from nemo_acereason.config.schema import Plan
from nemo_acereason.errors import ConfigError
from nemo_acereason.launch import submit as submitting
from nemo_acereason.launch.submit import planned_jobs, submit, submitted_jobs


@pytest.fixture
def plan() -> Plan:
    settings = ["trainer.tensor_parallel=1", "rollout.num_engines=1", "stages.math_middle.trainer={data_parallel: 3}"]
    return load_plan("tiny_cpu", [*settings, "stages.code=null", "stages.math_long=null"])


@pytest.fixture
def cluster() -> ClusterConfig:
    small = replace(load_cluster("cpu_1"), nodes=4, devices_per_node=1)
    return with_slurm(small, ["exclusive=false"])


STAGES = ["sft", "math_short", "math_middle"]
"""Of the small plan."""


def checkpoint(run_dir: Path, stage: str, *, is_stage_end: bool) -> None:
    directory = run_dir / "checkpoints" / "step_000004"
    directory.mkdir(parents=True)
    before = STAGES[: STAGES.index(stage)]
    state = {"step": 4, "stage": stage, "stage_step": 4, "is_stage_end": is_stage_end, "stages_before": before}
    (directory / "state.json").write_text(json.dumps(state))


def test_one_job_has_the_nodes_of_the_stage_that_needs_most(plan: Plan, cluster: ClusterConfig, tmp_path: Path) -> None:
    ((job, stages),) = planned_jobs(plan, tmp_path, cluster)
    assert (job.nodes, job.last, stages) == (3, "", ["sft", "math_short", "math_middle"])


def test_a_job_per_stage_has_the_stage_s_own(plan: Plan, cluster: ClusterConfig, tmp_path: Path) -> None:
    jobs = planned_jobs(plan, tmp_path, with_slurm(cluster, ["jobs=stages"]))
    assert [(job.name, job.nodes, job.last) for job, _ in jobs] == [
        ("tiny_cpu.sft", 1, "sft"),
        ("tiny_cpu.math_short", 1, "math_short"),
        ("tiny_cpu.math_middle", 3, "math_middle"),
    ]


@pytest.mark.parametrize(
    ("stage", "is_stage_end", "left"),
    [
        ("sft", False, ["sft", "math_short", "math_middle"]),
        ("sft", True, ["math_short", "math_middle"]),
        ("math_middle", True, []),
    ],
)
def test_what_is_done_is_not_submitted(
    plan: Plan, cluster: ClusterConfig, tmp_path: Path, stage: str, is_stage_end: bool, left: list[str]
) -> None:
    checkpoint(tmp_path, stage, is_stage_end=is_stage_end)
    assert [name for _, names in planned_jobs(plan, tmp_path, cluster) for name in names] == left


def test_a_submission_is_written_down_and_a_chain_follows_its_dependencies(
    plan: Plan, cluster: ClusterConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []

    def take(file: Path, _: object, after: str = "") -> str:
        asked.append((file.name, after))
        return str(100 + len(asked))

    monkeypatch.setattr(submitting, "submit_script", take)
    monkeypatch.setattr(submitting, "check_before_start", lambda *_, **__: None)
    run_dir = tmp_path / "run"
    submission = submit(plan, run_dir, with_slurm(cluster, ["jobs=stages"]))
    assert asked == [
        ("1_tiny_cpu.sft.sh", ""),
        ("2_tiny_cpu.math_short.sh", "101"),
        ("3_tiny_cpu.math_middle.sh", "102"),
    ]
    assert [job.job_id for job in submission.jobs] == ["101", "102", "103"]
    assert [row["stages"] for row in submitted_jobs(run_dir)] == [["sft"], ["math_short"], ["math_middle"]]
    assert (run_dir / "plan.yaml").read_text() == plan_yaml(plan)
    assert load_cluster(str(run_dir / "slurm" / "cluster.yaml")).slurm.jobs == "stages"

    changed = replace(plan, seed=99)
    submit(changed, run_dir, cluster)
    assert (run_dir / "plan.yaml").read_text() == plan_yaml(changed), "nothing had begun"
    (run_dir / "metrics.jsonl").touch()
    with pytest.raises(ConfigError, match=r"holds a run of another plan"):
        submit(plan, run_dir, cluster)
    submit(plan, run_dir, cluster, accept_changes=True)
    assert '"plan_change"' in (run_dir / "metrics.jsonl").read_text()


@pytest.mark.skipif(torch.backends.cuda.is_built(), reason="this torch can use GPUs")
def test_jobs_on_gpus_are_not_submitted_with_a_torch_for_cpus(
    plan: Plan, cluster: ClusterConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submitting, "submit_script", lambda *_, **__: "7")
    monkeypatch.setattr(submitting, "check_before_start", lambda *_, **__: None)
    gpus = replace(cluster, device="gpu")
    with pytest.raises(ConfigError, match=r"^the jobs would run on GPUs, and torch .* is a CPU build; submit from an "):
        submit(plan, tmp_path / "run", gpus)
    assert not (tmp_path / "run").exists()
    for number, settings in enumerate((["python=/gpu_env/bin/python"], ["container=pyxis", "image=a.sqsh"])):
        assert submit(plan, tmp_path / f"run_{number}", with_slurm(gpus, settings)).jobs[0].job_id == "7"


def test_fewer_nodes_than_a_stage_wants_are_refused(plan: Plan, cluster: ClusterConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"slurm.nodes=2: stage math_middle wants 3; use that, or 0"):
        planned_jobs(plan, tmp_path, with_slurm(cluster, ["nodes=2"]))
    assert planned_jobs(plan, tmp_path, with_slurm(cluster, ["nodes=4"]))[0][0].nodes == 4


def test_a_directory_that_cannot_be_made_is_refused(
    plan: Plan, cluster: ClusterConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submitting, "check_before_start", lambda *_, **__: None)
    with pytest.raises(ConfigError, match=r"--out /proc/run cannot be written \(No such file or directory\)"):
        submit(plan, Path("/proc/run"), cluster)


def test_a_directory_that_jobs_work_on_is_refused(
    plan: Plan, cluster: ClusterConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submitting, "check_before_start", lambda *_, **__: None)
    monkeypatch.setattr(submitting, "job_states", lambda _: {"7": "COMPLETED", "8": "PENDING (BeginTime)"})
    with pytest.raises(
        ConfigError, match=r"job 8 PENDING \(BeginTime\) works on it; wait for it, or `scancel 8` first"
    ):
        submit(plan, tmp_path / "run", cluster)
