"""Job scripts: what they ask for, how they quote, what they do with an exit status. No Slurm is needed."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nemo_acereason.config.cluster import ClusterConfig, load_cluster, with_slurm
from nemo_acereason.config.slurm import SlurmConfig
from nemo_acereason.errors import ConfigError
from nemo_acereason.launch.slurm import Job, JobStep, exports, job_script, limit_seconds, submit_script

H100 = load_cluster("h100_16x8")


def script(run_dir: str = "/shared/run", last: str = "", **slurm: object) -> str:
    cluster = dataclasses.replace(H100, slurm=dataclasses.replace(H100.slurm, **slurm))  # type: ignore[arg-type]
    return job_script(Job("plan", 16, Path(run_dir), Path("/work dir"), last), cluster)


def directives(text: str) -> list[str]:
    return [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH ")]


def srun_words(text: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith("srun ")]
    return shlex.split(line.removesuffix(" &"))


def test_whole_nodes_with_their_gpus_are_asked_for() -> None:
    assert directives(script(partition="batch", options=["--constraint=ib"])) == [
        "--job-name=plan",
        "--nodes=16",
        "--ntasks-per-node=1",
        "--time=04:00:00",
        "--signal=B:USR1@900",
        "--requeue",
        "--open-mode=append",
        "--output=/shared/run/slurm/job-%j.out",
        "--chdir='/work dir'",
        "--gpus-per-node=8",
        "--exclusive",
        "--mem=0",
        "--partition=batch",
        "--constraint=ib",
    ]


def test_a_directory_that_the_shell_would_read_is_quoted(tmp_path: Path) -> None:
    run_dir = f"{tmp_path}/it's $HOME; 100% `date`"
    text = script(run_dir, python="python3")
    assert srun_words(text)[-3:] == ["-m", "nemo_acereason.launch.node", run_dir]
    (assignment,) = [line for line in text.splitlines() if line.startswith("run_dir=")]
    told = subprocess.run(
        ["bash", "-c", f'{assignment}; printf %s "$run_dir"'], capture_output=True, text=True, check=True
    )
    assert told.stdout == run_dir
    (output,) = [option for option in directives(text) if option.startswith("--output")]
    assert "100%% " in output, "a lone % is sbatch's"
    with pytest.raises(ConfigError, match="one line"):
        script("/two\nlines")


@pytest.mark.parametrize("container", ["none", "pyxis", "apptainer"])
def test_the_container_gets_run_directory_working_directory_and_mounts(container: str) -> None:
    words = srun_words(
        script(container=container, image="/images/a b.sqsh", mounts=["/data:/data:ro"], python="python3", last="sft")
    )
    assert words[-5:] == ["-m", "nemo_acereason.launch.node", "/shared/run", "--last", "sft"]
    mounts = "/shared:/shared,/work dir:/work dir,/data:/data:ro"
    inside = {
        "none": [],
        "pyxis": [
            "--container-image=/images/a b.sqsh",
            f"--container-mounts={mounts}",
            "--container-workdir=/work dir",
        ],
        "apptainer": ["apptainer", "exec", "--nv", "--bind", mounts, "--pwd", "/work dir", "/images/a b.sqsh"],
    }
    assert words[4:-6] == inside[container]


@pytest.mark.parametrize(("container", "taken"), [("none", "cwd"), ("apptainer", "image"), ("pyxis", "image")])
def test_a_containers_python_takes_no_package_of_the_folder_it_is_in(
    container: str, taken: str, tmp_path: Path
) -> None:
    (tmp_path / "nemo_acereason.py").write_text("print('cwd')")
    lines = exports(SlurmConfig(container=container, image="image.sif", environment={"SAID": "its own"}))
    command = "\n".join(
        [*lines, f"{sys.executable} -c 'import nemo_acereason.errors' 2>/dev/null || exit", "echo image"]
    )
    ended = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.stdout.split() == [taken]
    assert "export SAID='its own'" in lines
    assert ("export PYTHONNOUSERSITE=1" in lines) == (container != "none"), "Apptainer shows it ~/.local"


def test_a_container_wants_an_image() -> None:
    with pytest.raises(ConfigError, match=r"slurm.container=pyxis wants slurm.image"):
        script(container="pyxis")


def test_a_time_limit_that_yaml_took_for_a_number_is_refused() -> None:
    assert with_slurm(ClusterConfig(), ["time_limit=01:30:00"]).slurm.time_limit == "01:30:00"
    with pytest.raises(ConfigError, match=r"slurm.time_limit=14400: want HOURS:MINUTES:SECONDS, in a file in quotes"):
        script(time_limit="14400")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"time_limit": "banana"}, "slurm.time_limit=banana: want HOURS:MINUTES:SECONDS or DAYS-"),
        ({"time_limit": "00:10:00"}, "slurm.save_before_limit_s=900 leaves nothing of slurm.time_limit=00:10:00"),
        ({"environment": {"A B": "1"}}, "slurm.environment has 'A B', which is no variable's name"),
    ],
)
def test_settings_that_no_job_can_have_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        script(**settings)


@pytest.mark.parametrize(
    ("limit", "seconds"),
    [
        ("04:00:00", 14400),
        ("20:00", 1200),
        ("1-02", 93600),
        ("1-02:03", 93780),
        ("1-02:03:04", 93784),
        ("infinite", None),
    ],
)
def test_a_time_limit_is_read_as_slurm_writes_it(limit: str, seconds: int | None) -> None:
    assert limit_seconds(limit) == seconds


def test_a_wrong_slurm_setting_names_the_nearest_right_one() -> None:
    with pytest.raises(ConfigError, match=r"slurm.partiton.*partition"):
        with_slurm(ClusterConfig(), ["partiton=batch"])


def play(tmp_path: Path, launcher: str, job_state: str = "RUNNING", **slurm: object) -> tuple[int, list[str]]:
    """Exit status of a script whose ``srun`` is ``launcher``, and what it had ``scontrol`` do."""
    scontrol = (
        f"""[ "$1" = --oneliner ] && echo "JobId=5 JobState={job_state} Reason=None" || echo "$@" >> {tmp_path}/said"""
    )
    run_dir = tmp_path / "run"
    (run_dir / "slurm").mkdir(parents=True)
    for name, text in {"srun": launcher, "scontrol": scontrol}.items():
        (tmp_path / name).write_text(f"#!/bin/bash\nrun_dir={run_dir}\n{text}\n")
        (tmp_path / name).chmod(0o755)
    file = tmp_path / "job.sh"
    file.write_text(script(str(run_dir), **slurm))
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "5"}
    environment["SLURM_CPUS_ON_NODE"] = "2"
    ended = subprocess.run(["bash", str(file)], env=environment, timeout=60, check=False)
    said = tmp_path / "said"
    return ended.returncode, said.read_text().splitlines() if said.exists() else []


@pytest.mark.parametrize("status", [0, 2, 3, 75])
def test_only_a_run_that_asks_for_it_comes_back(tmp_path: Path, status: int) -> None:
    assert play(tmp_path, f"exit {status}") == (status, ["requeue 5"] if status == 75 else [])


@pytest.mark.parametrize(
    ("status", "job_state", "ended"),
    [
        (143, "RUNNING", (75, ["requeue 5"])),
        (143, "COMPLETING", (143, [])),
        (135, "RUNNING", (75, ["requeue 5"])),
        (134, "RUNNING", (134, [])),
        (138, "RUNNING", (138, [])),  # a launcher that USR1 ended, which the script's own `wait` can end with, too
    ],
)
def test_a_run_whose_step_alone_was_terminated_comes_back(
    tmp_path: Path, status: int, job_state: str, ended: tuple[int, list[str]]
) -> None:
    assert play(tmp_path, f"exit {status}", job_state) == ended


def test_a_sick_node_is_excluded_behind_the_requeueing(tmp_path: Path) -> None:
    wanted = ["requeue 5", "update JobId=5 ExcNodeList=node3,node4"]
    assert play(tmp_path, 'printf node3,node4 > "$run_dir/slurm/exclude"; exit 75') == (75, wanted)


def test_a_run_that_is_asked_to_save_comes_back_once(tmp_path: Path) -> None:
    launcher = 'sleep 0.5; kill -USR1 $PPID; while [ ! -e "$run_dir/stop" ]; do sleep 0.05; done; exit 75'
    assert play(tmp_path, launcher, save_before_limit_s=33) == (75, ["requeue 5"])
    subprocess.run(["sleep", "3.5"], check=True)
    assert (tmp_path / "said").read_text() == "requeue 5\n", "the deadline was called off"


def test_a_run_that_cannot_save_in_time_is_requeued_all_the_same(tmp_path: Path) -> None:
    launcher = f"kill -USR1 $PPID; while [ ! -e {tmp_path}/said ]; do sleep 0.05; done; exit 143"
    assert play(tmp_path, launcher, "COMPLETING", save_before_limit_s=31) == (143, ["requeue 5"])


def test_environment_and_the_site_s_lines_come_before_the_run(tmp_path: Path) -> None:
    launcher = f'echo "$HF_HOME $NCCL_DEBUG" > {tmp_path}/seen; exit 0'
    lines = ["echo $NOT_SET >/dev/null", "NCCL_DEBUG=INFO"]
    assert play(tmp_path, launcher, environment={"HF_HOME": "/a b/$x", "NCCL_DEBUG": "WARN"}, setup=lines) == (0, [])
    assert (tmp_path / "seen").read_text() == "/a b/$x INFO\n"


def test_without_requeueing_nothing_comes_back(tmp_path: Path) -> None:
    assert "--no-requeue" in directives(script(requeue=False))
    assert play(tmp_path, "exit 75", requeue=False) == (75, [])


def test_a_process_that_srun_did_not_start_is_told_how_to_begin() -> None:
    with pytest.raises(ConfigError, match=r"SLURM_JOB_ID is not set: .*`acereason submit`"):
        JobStep.from_environment({})
    environment = {"SLURM_JOB_ID": "5", "SLURM_NODEID": "1", "SLURM_STEP_NUM_NODES": "2", "SLURMD_NODENAME": "n1"}
    assert JobStep.from_environment(environment).attempt == "5.0"
    assert JobStep.from_environment(environment | {"SLURM_RESTART_COUNT": "2"}).attempt == "5.2"


def test_without_slurm_the_message_says_where_to_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"sbatch is not on the PATH: submit from a login node"):
        submit_script(tmp_path / "job.sh", SlurmConfig())
