"""The doctor's page: an absent package is told with what it costs, a broken one is no traceback."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nemo_acereason.launch.doctor import PACKAGES, _Package, _sandbox, _torch, _try_import
from nemo_acereason.sandbox.doctor import Finding as SandboxFinding


def test_what_an_import_prints_is_the_finding() -> None:
    found = _try_import(_Package("one", "print(1 + 1)", True, "nothing works"))
    assert (found.mark, found.detail) == ("ok", "2")


def test_an_absent_package_is_bad_only_where_it_is_needed() -> None:
    for is_needed, mark in ((True, "BAD"), (False, "--")):
        found = _try_import(_Package("one", "import no_such_package", is_needed, "no FP8"))
        assert found.mark == mark
        assert found.detail == "ModuleNotFoundError: No module named 'no_such_package': no FP8"


def test_a_broken_package_is_bad_and_one_line() -> None:
    code = "raise RuntimeError('operator torchvision::nms\\ndoes not exist')"
    found = _try_import(_Package("one", code, False, "no models"))
    assert found.mark == "BAD"
    assert "\n" not in found.detail


def test_a_package_that_kills_the_interpreter_is_bad() -> None:
    found = _try_import(_Package("one", "import os; os.abort()", True, "no engine"))
    assert found.mark == "BAD"
    assert "ended with status -6: no engine" in found.detail


@pytest.mark.skipif(torch.backends.cuda.is_built(), reason="this torch can use GPUs")
def test_gpus_that_torch_cannot_use_are_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert [(one.mark, one.name) for one in _torch()] == [("ok", "torch"), ("--", "CUDA, NCCL")]
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'GPU 0: H100 (UUID: a)'\n")
    program.chmod(0o755)
    told = _torch()[1]
    assert told.mark == "BAD"
    assert told.detail.endswith("want a CUDA build, for this driver: docs/cluster.md, section 1")


@pytest.mark.skipif(torch.backends.cuda.is_built(), reason="of vLLM's CPU build")
def test_a_vllm_whose_compiled_part_does_not_load_is_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "libnuma.so.1").touch()
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    (vllm,) = [package for package in PACKAGES if package.name == "vLLM"]
    found = _try_import(vllm)  # vLLM itself warns, and is imported
    assert found.mark == "BAD"
    assert "libnuma.so.1: file too short: no rollout but rollout.engine=scripted" in found.detail


def test_a_lower_level_of_the_sandbox_is_told_with_what_keeps_the_best_from_being_had(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked = [SandboxFinding("level", False, "process, programs run as the user who started it")]
    looked += [SandboxFinding("level kernel", False, "it ended: bwrap; start the container with --security-opt a=b")]
    looked += [SandboxFinding("level process", True, "starts")]
    monkeypatch.setattr("nemo_acereason.sandbox.doctor.doctor", lambda: looked)
    (found,) = _sandbox()
    assert found.mark == "BAD"
    assert found.detail == (
        "process, programs run as the user who started it; model-written code is held less well than by level kernel "
        "(it ended: bwrap; start the container with --security-opt a=b): `acereason sandbox doctor`"
    )
