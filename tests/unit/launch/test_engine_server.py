"""Engine servers and the trainers that invite them; vLLM under it is in tests/nemo."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nemo_acereason.errors import EngineError
from nemo_acereason.launch import engine_server
from nemo_acereason.launch.engine_server import invite

COMMAND = "from nemo_acereason.cli import main; main()"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, "engines", str(tmp_path)], stderr=subprocess.PIPE, text=True
    )
    yield process
    process.kill()
    process.communicate()


def test_a_server_serves_one_trainer_after_the_other_and_ends_when_told(
    tmp_path: Path, server: subprocess.Popen[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        left_over = {"host": "127.0.0.1", "port": closed.getsockname()[1], "secret": "00"}
    (tmp_path / "engines.json").write_text(json.dumps(left_over))  # of a trainer that was killed
    seen = []
    for _ in range(2):
        nodes = invite(tmp_path, "127.0.0.1", 1)
        address, num_gpus = nodes.wait_for(0)
        with socket.create_connection(address, 5):
            seen.append(nodes.secret)
        assert num_gpus >= 0
        nodes.end()
    assert len(set(seen)) == 2, "each trainer has a secret of its own"
    server.send_signal(signal.SIGINT)
    _, told = server.communicate(timeout=20)
    assert server.returncode == 0
    assert told.count("serves the trainer on 127.0.0.1") == 2
    assert "Traceback" not in told


def test_only_its_user_can_read_an_invitation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nodes = invite(tmp_path, "127.0.0.1", 3)
    file = tmp_path / "engines.json"
    assert file.stat().st_mode & 0o777 == 0o600
    assert json.loads(file.read_text())["secret"] == nodes.secret.hex()
    assert f"acereason engines {tmp_path} --number 0 to 2" in capsys.readouterr().err


def test_a_server_that_does_not_come_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datetime

    monkeypatch.setattr(engine_server, "WAIT", datetime.timedelta(seconds=0.2))
    with pytest.raises(EngineError, match="engine node 0 did not come: "):
        invite(tmp_path, "127.0.0.1", 1).wait_for(0)
