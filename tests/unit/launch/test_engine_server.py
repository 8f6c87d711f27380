"""Engine servers and the trainers that invite them; vLLM under it is in tests/nemo."""

from __future__ import annotations

import datetime
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from nemo_acereason.errors import ConfigError, EngineError
from nemo_acereason.launch import engine_server
from nemo_acereason.launch.engine_server import Invitation, invite, serve_invited
from nemo_acereason.launch.engines import leader_host

COMMAND = "from nemo_acereason.cli import main; main()"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, "engines", str(tmp_path)], stderr=subprocess.PIPE, text=True
    )
    yield process
    process.kill()
    process.communicate()


def told(server: subprocess.Popen[str], what: str) -> str:
    """Its output up to the line that says so."""
    assert server.stderr
    lines = []
    for line in server.stderr:
        lines.append(line)
        if what in line:
            return "".join(lines)
    raise AssertionError("".join(lines))


def test_a_server_serves_one_trainer_after_the_other_and_ends_while_it_serves(
    tmp_path: Path, server: subprocess.Popen[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        left_over = Invitation("127.0.0.1", closed.getsockname()[1], "00", 1)
    write(tmp_path, json.dumps(asdict(left_over)))  # of a trainer that was killed
    first = invite(tmp_path, "127.0.0.1", 1)
    address, num_gpus = first.wait_for(0)
    with socket.create_connection(address, 5):
        assert num_gpus >= 0
    first.end()
    assert not (tmp_path / "engines.json").exists()
    second = invite(tmp_path, "127.0.0.1", 1)
    second.wait_for(0)
    third = invite(tmp_path, "127.0.0.1", 1)  # its predecessor is gone without a word
    third.wait_for(0)
    server.send_signal(signal.SIGTERM)
    _, rest = server.communicate(timeout=20)
    assert server.returncode == 0
    assert rest.count("serves the trainer on 127.0.0.1") == 3
    assert "Traceback" not in rest
    assert "c10d" not in rest


@pytest.mark.parametrize(
    ("content", "mode", "why"),
    [
        ("{", 0o600, "Expecting property name"),
        ("{}", 0o600, "'host'"),
        ("[]", 0o600, "list indices must be"),
        (json.dumps({"host": "here", "port": 1, "secret": "no hex", "num_nodes": 1}), 0o600, "non-hexadecimal"),
        (json.dumps({"host": "here", "port": 1, "secret": "00", "num_nodes": 1}), 0o620, "not yours alone (mode 620)"),
    ],
)
def test_what_is_no_invitation_is_told_once_and_waited_out(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    content: str,
    mode: int,
    why: str,
) -> None:
    write(tmp_path, content, mode)
    looks: list[float] = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(engine_server.time, "sleep", sleep)
    with pytest.raises(KeyboardInterrupt):
        serve_invited(tmp_path, 0)
    said = capsys.readouterr().err
    assert said.count(why) == 1
    assert "goes on looking" in said


def test_numbers_that_nobody_waits_for_are_told(tmp_path: Path, server: subprocess.Popen[str]) -> None:
    nodes = invite(tmp_path, "127.0.0.1", 1)
    nodes.wait_for(0)
    for number, said in ((1, "that trainer wants 1 in all"), (0, "another server has this number")):
        other = subprocess.Popen(
            [sys.executable, "-c", COMMAND, "engines", str(tmp_path), "--number", str(number)],
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert said in told(other, said)
        finally:
            other.kill()
            other.communicate()
    assert server.poll() is None


def test_a_file_is_no_folder_of_a_trainer(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is a file; want the trainer's folder"):
        serve_invited(tmp_path / "file", 0)


def test_only_its_user_can_read_an_invitation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nodes = invite(tmp_path, "127.0.0.1", 3)
    file = tmp_path / "engines.json"
    assert file.stat().st_mode & 0o777 == 0o600
    assert json.loads(file.read_text())["secret"] == nodes.secret.hex()
    assert f"acereason engines {tmp_path} --number 0 to 2" in capsys.readouterr().err


def test_a_server_that_does_not_come_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_server, "WAIT", datetime.timedelta(seconds=0.2))
    with pytest.raises(EngineError, match="engine node 0 did not come: "):
        invite(tmp_path, "127.0.0.1", 1).wait_for(0)


@pytest.mark.parametrize(
    ("named", "master", "name", "host"),
    [
        ("head", "10.0.0.1", "10.0.0.2", "head"),
        ("", "10.0.0.1", "10.0.0.2", "10.0.0.1"),
        ("", "127.0.0.1", "10.0.0.2", "10.0.0.2"),
        ("", "127.0.0.1", "127.0.1.1", "127.0.0.1"),
        ("", "fd00::1", "10.0.0.2", "fd00::1"),
        ("", "::1", "10.0.0.2", "10.0.0.2"),
        ("", "::1", "no such name", "::1"),
    ],
)
def test_engine_nodes_are_told_an_address_that_means_something_elsewhere(
    monkeypatch: pytest.MonkeyPatch, named: str, master: str, name: str, host: str
) -> None:
    monkeypatch.setenv("ACEREASON_HOST", named)
    monkeypatch.setenv("MASTER_ADDR", master)
    monkeypatch.setattr(socket, "gethostname", lambda: name)
    assert leader_host() == host


def write(directory: Path, content: str, mode: int = 0o600) -> None:
    file = directory / "engines.json"
    file.write_text(content)
    file.chmod(mode)
