"""Megatron-Bridge's own code writes what ``acereason export`` reads, and exports the families that it alone knows.

Transformer Engine, which it does not import without, has stand-ins (``without_transformer_engine.py``).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
FOLDERS = sorted(HERE.parents[1].glob(".venv-bridge-*/.ready"))
pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(not FOLDERS, reason="no Megatron-Bridge here: scripts/setup_bridge.sh"),
]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What bridge_work.py found, by family."""
    directory = tmp_path_factory.mktemp("bridge")
    paths = [str(FOLDERS[-1].parent), str(HERE.parents[1])]
    log = directory / "log.txt"
    with log.open("wb") as file:  # no pipe: its helper processes outlive it
        work = subprocess.Popen(
            [sys.executable, "-W", "ignore", str(HERE / "bridge_work.py"), str(directory)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        assert work.wait(250) == 0, log.read_text()[-4000:]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(work.pid, signal.SIGKILL)
    result: dict[str, Any] = json.loads((directory / "found.json").read_text())
    return result


@pytest.mark.parametrize("family", ["qwen2, tied", "qwen2", "qwen3", "llama"])
def test_what_bridge_makes_of_a_model_is_read_bit_for_bit(found: dict[str, Any], family: str) -> None:
    assert found[family]["num_tensors"] > 15
    assert found[family]["is_bit_exact"]
    assert found[family]["is_opened_again"], "Bridge opens what acereason export wrote"


def test_bridge_is_known_by_the_config_beside_its_tensors(found: dict[str, Any]) -> None:
    assert {".metadata", "run_config.yaml"} <= set(found["llama"]["written"])


def test_family_without_a_name_table_is_exported_by_bridge_itself(found: dict[str, Any]) -> None:
    assert found["mistral"]["num_tensors"] > 15
    assert found["mistral"]["is_bit_exact"]
