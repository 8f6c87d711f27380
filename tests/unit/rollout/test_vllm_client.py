"""The client's side of the vLLM engine that needs no vLLM."""

from __future__ import annotations

import os
import re
import sys
from importlib import metadata
from pathlib import Path

import pytest

from nemo_acereason.config.model_arch import read_model_arch
from nemo_acereason.config.schema import RolloutConfig
from nemo_acereason.errors import ConfigError
from nemo_acereason.rollout.engine import check_engine
from nemo_acereason.rollout.placement import EnginePlace
from nemo_acereason.rollout.worker_process import thread_bind, visible_devices, worker_environment
from tests.doubles import write_tiny_model


def test_the_trainers_variables_do_not_reach_the_worker() -> None:
    trainers = {
        "RANK": "0",
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": "29500",
        "TORCHELASTIC_RUN_ID": "none",
        "TORCHDYNAMO_DISABLE": "1",
        "OMP_NUM_THREADS": "1",
    }
    worker = worker_environment({**trainers, "HOME": "/home/me"}, RolloutConfig(num_threads=3), EnginePlace())
    assert {name: worker[name] for name in trainers if name in worker} == {"OMP_NUM_THREADS": "3"}
    assert worker["HOME"] == "/home/me"


def test_one_process_engine_keeps_its_core_in_the_worker() -> None:
    assert worker_environment({}, RolloutConfig(), EnginePlace())["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    assert worker_environment({}, RolloutConfig(), EnginePlace())["OMP_NUM_THREADS"] == str(
        len(os.sched_getaffinity(0))
    )
    assert "VLLM_ENABLE_V1_MULTIPROCESSING" not in worker_environment(
        {}, RolloutConfig(tensor_parallel=2), EnginePlace()
    )


def test_cores_are_shared_out_among_tensor_parallel_processes() -> None:
    assert thread_bind([0, 1], 2) == "0|1"
    assert thread_bind([0, 1, 2, 3], 2) == "0,1|2,3"
    assert thread_bind([5], 2) == "5|5"


def test_engines_share_a_hosts_cores() -> None:
    threads = worker_environment({}, RolloutConfig(), EnginePlace(num_on_host=len(os.sched_getaffinity(0))))
    assert threads["OMP_NUM_THREADS"] == "1"


def test_an_engine_sees_its_own_gpus_first_and_then_those_of_the_trainer() -> None:
    assert visible_devices("0,1,2,3", [2, 3]) == "2,3,0,1"
    assert visible_devices("GPU-a,GPU-b", [1]) == "GPU-b,GPU-a"


def test_another_environment_gets_nothing_of_this_one_s_python() -> None:
    ours = {"PYTHONPATH": "/ours", "PYTHONHOME": "/ours", "VIRTUAL_ENV": "/ours", "HOME": "/home/me"}
    theirs = worker_environment(ours, RolloutConfig(python="/theirs/bin/python"), EnginePlace())
    assert theirs.keys().isdisjoint({"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"})
    assert theirs["HOME"] == "/home/me"
    assert worker_environment(ours, RolloutConfig(), EnginePlace())["PYTHONPATH"].endswith(":/ours")


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("", "this is no program"),
        ("exit 3", "it says: status 3"),
        ("echo No module named nemo_acereason >&2; exit 1", "it says: No module named nemo_acereason"),
        ("echo 0.0.0.dev0 True", "it has nemo_acereason 0.0.0.dev0, here is "),
        (f"echo {metadata.version('nemo_acereason')} False", "it has no vLLM"),
    ],
)
def test_python_that_cannot_run_vllm_is_refused_before_anything_starts(tmp_path: Path, script: str, said: str) -> None:
    python = tmp_path / "python"
    if script:
        python.write_text(f"#!/bin/sh\n{script}\n")
        python.chmod(0o755)
    else:
        python.mkdir()
    arch = read_model_arch(write_tiny_model(tmp_path))
    with pytest.raises(ConfigError, match=rf"^rollout.python={python}: want the bin/python of .*; {re.escape(said)}"):
        check_engine(RolloutConfig(python=str(python)), arch)
    check_engine(RolloutConfig(python=sys.executable), arch)
