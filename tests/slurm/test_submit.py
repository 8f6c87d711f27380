"""``acereason submit`` on a real Slurm: jobs run, save, come back and finish; what goes wrong is one line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from nemo_acereason.config.cluster import load_cluster
from nemo_acereason.config.slurm import SlurmConfig
from nemo_acereason.errors import ConfigError
from nemo_acereason.launch.attempts import Attempts
from nemo_acereason.launch.slurm import Job, job_script, missing_nodes, submit_script
from nemo_acereason.observe.log import read_metrics
from tests.e2e.commands import SCRIPTED, SMALL, Ended, num_steps, wait_until
from tests.slurm.real_slurm import Slurm, start_slurm, why_not

CLUSTER = str(Path(__file__).parent / "two_nodes.yaml")
TWO_NODES = ["trainer.tensor_parallel=1", "trainer.data_parallel=2"]
SHORT = [
    "trainer.tensor_parallel=1",
    "stages.sft.num_steps=2",
    "stages.math_short.num_steps=1",
    "stages.math_middle=null",
    "evaluations.heldout_sums=null",
]


def acereason(slurm: Slurm, *arguments: str | Path) -> Ended:
    """A verb as a user of the cluster calls it."""
    command = [sys.executable, "-c", "from nemo_acereason.cli import main; main()", *map(str, arguments)]
    ended = subprocess.run(command, env=slurm.environment, capture_output=True, text=True, timeout=200, check=False)
    return Ended(ended.returncode, ended.stdout, ended.stderr)


def submit(slurm: Slurm, run_dir: Path, *settings: str, engine: Sequence[str] = SCRIPTED) -> list[str]:
    """Ids of the jobs."""
    ended = acereason(slurm, "submit", SMALL, "--cluster", CLUSTER, "--out", run_dir, *engine, *settings)
    assert (ended.status, ended.stderr) == (0, ""), ended.stderr
    return [line.split()[1].rstrip(":") for line in ended.stdout.splitlines() if line.startswith("job ")]


def log_of(run_dir: Path) -> str:
    return "\n".join(file.read_text() for file in (run_dir / "slurm").glob("job-*.out"))


@pytest.mark.timeout(900)
def test_job_on_two_nodes_saves_when_asked_survives_a_dead_node_and_finishes(slurm: Slurm, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    (job_id,) = submit(slurm, run_dir, *TWO_NODES)
    refused = acereason(slurm, "submit", SMALL, "--cluster", CLUSTER, "--out", run_dir, *SCRIPTED, *TWO_NODES)
    assert refused.status == 2
    assert f"job {job_id} " in refused.stderr
    assert f"scancel {job_id}" in refused.stderr

    wait_until(lambda: num_steps(run_dir) >= 3)
    slurm.run("scancel", "--signal=TERM", job_id)
    wait_until(lambda: slurm.job(job_id)["Restarts"] == "1")
    first = Attempts(run_dir).read()[0]
    assert first.status == 75
    assert "asked to stop: saved behind step" in first.reason

    saved = num_steps(run_dir)
    wait_until(lambda: num_steps(run_dir) > saved and len(Attempts(run_dir).read()) == 2)
    on_two = slurm.run("scontrol", "show", "hostnames", slurm.job(job_id)["NodeList"]).split()
    slurm.kill_node(on_two[1])
    wait_until(lambda: slurm.job(job_id)["Restarts"] == "2")
    found = slurm.wait_for(job_id, "COMPLETED", "FAILED", deadline_s=240)
    assert found["JobState"] == "COMPLETED", log_of(run_dir)
    assert on_two[1] not in slurm.run("scontrol", "show", "hostnames", found["NodeList"]).split()
    slurm.start_node(on_two[1])
    second = Attempts(run_dir).read()[1]
    assert second.status == 75
    assert second.reason == f"the connection to node {on_two[1]} is gone; start again to go on from the last checkpoint"

    rows, events = read_metrics(run_dir)
    assert [row["step"] for row in rows] == list(range(1, 12)), "each step once, whatever was done twice"
    assert next(event["step"] for event in events if event["event"] == "resume") == saved
    assert len(Attempts(run_dir).read()) == 3

    status = acereason(slurm, "status", run_dir, "--json")
    assert status.status == 0
    told = json.loads(status.stdout)
    assert [stage["state"] for stage in told["stages"]] == ["done", "done", "done"]
    assert told["checkpoint"] == "step_000011"
    assert told["stop_reason"] == ""
    assert told["jobs"][0]["state"].startswith("COMPLETED")
    assert told["jobs"][0]["num_starts"] == 3
    nothing_left = acereason(slurm, "submit", SMALL, "--cluster", CLUSTER, "--out", run_dir, *SCRIPTED, *TWO_NODES)
    assert nothing_left.status == 2
    assert "all stages are done" in nothing_left.stderr


@pytest.mark.timeout(600)
def test_a_job_draws_with_vllm_on_both_of_its_nodes(slurm: Slurm, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    short = [*TWO_NODES, "stages.sft.num_steps=2", "stages.math_short.num_steps=2", "stages.math_middle=null"]
    (job_id,) = submit(slurm, run_dir, *short, engine=["rollout.num_engines=2", "rollout.sleep_level=2"])
    found = slurm.wait_for(job_id, "COMPLETED", "FAILED", deadline_s=400)
    assert found["JobState"] == "COMPLETED", log_of(run_dir)
    rows = [row for row in read_metrics(run_dir)[0] if row["stage"] == "math_short"]
    assert len(rows) == 2
    assert max(row["logp_error_max"] for row in rows) < 1e-4, "each engine has its own node's weights"
    started = [file.stat().st_size for file in sorted((run_dir / "logs").glob("engine_*.log"))]
    assert len(started) == 2
    assert min(started) > 0, "each engine has a process and a log of its own"


@pytest.mark.timeout(600)
def test_a_job_per_stage_runs_in_order_and_what_is_done_is_not_submitted_again(slurm: Slurm, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    jobs = submit(slurm, run_dir, *SHORT, "--slurm", "jobs=stages")
    assert len(jobs) == 2
    assert slurm.job(jobs[1])["Dependency"] == f"afterok:{jobs[0]}(unfulfilled)"
    slurm.run("scancel", jobs[1])
    assert slurm.wait_for(jobs[0], "COMPLETED", "FAILED")["JobState"] == "COMPLETED", log_of(run_dir)
    assert {row["stage"] for row in read_metrics(run_dir)[0]} == {"sft"}

    (second,) = submit(slurm, run_dir, *SHORT, "--slurm", "jobs=stages")
    assert slurm.wait_for(second, "COMPLETED", "FAILED")["JobState"] == "COMPLETED", log_of(run_dir)
    assert [(row["step"], row["stage"]) for row in read_metrics(run_dir)[0]] == [
        (1, "sft"),
        (2, "sft"),
        (3, "math_short"),
    ]


@pytest.mark.timeout(400)
def test_a_preempted_job_saves_and_comes_back_and_a_cancelled_one_saves_and_does_not(
    slurm: Slurm, tmp_path: Path, script: Path
) -> None:
    """Slurm's SIGTERM, to every process of the step."""
    run_dir = tmp_path / "run"
    (job_id,) = submit(slurm, run_dir, *SHORT, "stages.sft.num_steps=500", "--slurm", "partition=spare")
    wait_until(lambda: num_steps(run_dir) >= 1)
    urgent = slurm.run("sbatch", "--parsable", "--partition=urgent", "--ntasks=4", str(script))
    slurm.wait_for(urgent, "RUNNING", deadline_s=50)  # before the minute of grace is over
    (preempted,) = Attempts(run_dir).read()
    assert preempted.status == 75
    assert preempted.reason.startswith("asked to stop: saved behind step ")
    slurm.run("scancel", urgent)
    saved = num_steps(run_dir)
    wait_until(lambda: num_steps(run_dir) > saved)
    slurm.run("scancel", job_id)
    slurm.wait_for(job_id, "CANCELLED")
    wait_until(lambda: Attempts(run_dir).read()[-1].status is not None, deadline_s=30)
    assert [attempt.step for attempt in Attempts(run_dir).read()] == [0, saved], "it began with what was saved"
    status = acereason(slurm, "status", run_dir)
    assert "sft         stopped  step " in status.stdout
    assert "last stop   asked to stop: saved behind step " in status.stdout
    found = slurm.job(job_id)
    assert (found["JobState"], found["Restarts"]) == ("CANCELLED", "1")
    log = acereason(slurm, "logs", run_dir)
    assert log.stdout.startswith(f"==> {run_dir / 'slurm' / f'job-{job_id}.out'}")


def test_a_partition_that_is_not_there_is_one_line_with_those_that_are(slurm: Slurm, tmp_path: Path) -> None:
    ended = acereason(
        slurm,
        *("submit", SMALL, "--cluster", CLUSTER, "--out", tmp_path / "run", *SCRIPTED, *SHORT),
        *("--slurm", "partition=nope"),
    )
    assert ended.status == 2
    assert ended.error_lines == [
        "acereason: sbatch refused 1_small.sh: Invalid partition name specified (slurm.partition=nope); partitions "
        "here: batch, small, spare, urgent"
    ]


@pytest.fixture
def script(tmp_path: Path) -> Path:
    file = tmp_path / "job.sh"
    file.write_text("#!/bin/bash\n#SBATCH --output=/dev/null\nsleep 100\n")
    return file


def test_a_full_queue_is_one_line(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if reason := why_not():
        pytest.skip(reason)
    monkeypatch.setattr("nemo_acereason.launch.slurm.COMMAND_S", 3.0)
    with start_slurm(most_jobs=2) as small_queue:
        monkeypatch.setenv("SLURM_CONF", small_queue.environment["SLURM_CONF"])
        submit_script(script, SlurmConfig())
        with pytest.raises(ConfigError) as refused:
            submit_script(script, SlurmConfig())
    assert "\n" not in str(refused.value)
    assert "the queue may be full" in str(refused.value)


def test_nodes_that_do_not_work_are_named(slurm: Slurm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CONF", slurm.environment["SLURM_CONF"])
    assert missing_nodes(SlurmConfig(), 3) == ""
    assert missing_nodes(SlurmConfig(), 9) == "partition batch has 3 of 9 nodes that work (it is smaller)"
    slurm.run("scontrol", "update", "NodeName=node3", "State=DRAIN", "Reason=bad_fan")
    try:
        assert missing_nodes(SlurmConfig(), 3) == ("partition batch has 2 of 3 nodes that work (node3 drain: bad_fan)")
        assert missing_nodes(SlurmConfig(partition="small"), 1) == ""
    finally:
        slurm.run("scontrol", "update", "NodeName=node3", "State=RESUME")


def stand_in(slurm: Slurm, run_dir: Path, launcher: str, monkeypatch: pytest.MonkeyPatch, **settings: object) -> str:
    """Id of a job of the template alone, with a program of bash, begun in ``RUN/slurm``, in the launcher's place."""
    monkeypatch.setenv("SLURM_CONF", slurm.environment["SLURM_CONF"])
    (run_dir / "slurm").mkdir(parents=True)
    program = run_dir / "python"
    program.write_text(f"#!/bin/bash\ncd {str(run_dir / 'slurm')!r}\n{launcher}\n")
    program.chmod(0o755)
    cluster = load_cluster(CLUSTER)
    cluster = replace(cluster, slurm=replace(cluster.slurm, python=str(program), save_before_limit_s=60, **settings))
    file = run_dir / "slurm" / "job.sh"
    file.write_text(job_script(Job("stand_in", 1, run_dir, run_dir), cluster))
    return submit_script(file, cluster.slurm)


def test_a_job_that_was_told_which_node_is_sick_comes_back_without_it(
    slurm: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = tmp_path / "it's a run"
    launcher = (
        "[ -z ${SLURM_RESTART_COUNT:-} ] || { echo $SLURMD_NODENAME > second; exit 0; }\n"
        "echo $SLURMD_NODENAME | tee first > exclude; exit 75"
    )
    job_id = stand_in(slurm, run_dir, launcher, monkeypatch)
    found = slurm.wait_for(job_id, "COMPLETED", "FAILED", "CANCELLED")
    assert found["JobState"] == "COMPLETED", log_of(run_dir)
    first, second = ((run_dir / "slurm" / name).read_text().strip() for name in ("first", "second"))
    assert found["ExcNodeList"] == first
    assert first != second


def test_a_site_may_send_usr1_before_it_preempts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: Path) -> None:
    if reason := why_not():
        pytest.skip(reason)
    run_dir = tmp_path / "run"
    launcher = "touch started; while [ ! -e ../stop ]; do sleep 0.1; done; touch saved; exit 75"
    with start_slurm(parameters="SlurmctldParameters=preempt_send_user_signal") as cluster:
        job_id = stand_in(cluster, run_dir, launcher, monkeypatch, partition="spare")
        wait_until((run_dir / "slurm" / "started").exists)
        script.write_text(script.read_text().replace("\nsleep", "\n#SBATCH --partition=urgent --ntasks=4\nsleep"))
        submit_script(script, SlurmConfig())
        wait_until(lambda: cluster.job(job_id)["Restarts"] == "1", deadline_s=30)
        cluster.wait_for(job_id, "PENDING")  # its first start has ended
    assert (run_dir / "slurm" / "saved").exists()
