"""NeMo's trainer on two nodes with real vLLM of the default environment. Both nodes are this machine."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nemo.collections.llm", reason="environment nemo: scripts/setup_nemo.sh, then make test")

HERE = Path(__file__).parent
ENGINES = HERE.parents[1] / ".venv" / "bin"
pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(not ENGINES.exists(), reason="no vLLM: make test sets up the default environment too"),
]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a model and the checkpoint to begin with."""
    directory = tmp_path_factory.mktemp("nemo_engines")
    run_on_nodes(directory, "make", num_nodes=1)
    return directory


@pytest.fixture
def server(directory: Path) -> Iterator[Path]:
    """An engine server of the other environment; its log."""
    log = directory / "server.log"
    with log.open("wb") as file:
        served = subprocess.Popen(
            [ENGINES / "acereason", "engines", directory / "logs" / "served" / "acereason", "--number", "0"],
            stdout=file,
            stderr=file,
            stdin=subprocess.DEVNULL,
        )
    try:
        yield log
        served.send_signal(signal.SIGTERM)
        assert served.wait(20) == 0, log.read_text()
    finally:
        served.kill()


def run_on_nodes(directory: Path, kind: str, num_nodes: int) -> None:
    """A launcher for each node, as srun would start them."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    logs = [directory / f"{kind}_{node}.log" for node in range(num_nodes)]
    launchers = []
    for node, log in enumerate(logs):
        command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", str(num_nodes), "--node-rank", str(node)]
        command += ["--master-addr", "127.0.0.1", "--master-port", str(port), "--nproc-per-node", "1"]
        with log.open("wb") as file:
            launchers.append(
                subprocess.Popen(
                    [*command, str(HERE / "engines_work.py"), str(directory), kind],
                    stdout=file,
                    stderr=file,
                    stdin=subprocess.DEVNULL,
                    env={**os.environ, "OMP_NUM_THREADS": "1"},
                    start_new_session=True,
                )
            )
    try:
        statuses = [launcher.wait(300) for launcher in launchers]
    finally:
        for launcher in launchers:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(launcher.pid, signal.SIGKILL)
    assert statuses == [0] * num_nodes, "\n".join(log.read_text()[-4000:] for log in logs)


def draw(directory: Path, kind: str) -> Any:
    """What rank 0 found, once its engines are seen to draw with the trainer's weights."""
    run_on_nodes(directory, kind, num_nodes=2)
    found = json.loads((directory / f"{kind}.json").read_text())
    assert len(found["steps"]) == 2
    assert max(step["logp_error_max"] for step in found["steps"]) < 1e-4, "nats between vLLM and NeMo's model"
    assert found["version"] == 3, "the first weights, and those behind each of two steps"
    logs = list((directory / "logs" / kind / "acereason" / "logs").glob("engine*.log"))
    assert len(logs) == len(found["hosts"]), "each engine has a process and a log of its own"
    return found


def test_engines_of_another_environment_stand_on_both_nodes_of_the_trainer(directory: Path) -> None:
    assert draw(directory, "on_both_nodes")["hosts"] == [0, 1]


def test_engines_are_served_to_a_model_that_lies_on_two_nodes(directory: Path, server: Path) -> None:
    assert draw(directory, "served")["hosts"] == [0], "as many of the plan's two engines as that node has room for"
    for _ in range(200):
        if "waits for the next one" in server.read_text():
            return
        time.sleep(0.1)
    raise AssertionError(server.read_text())
