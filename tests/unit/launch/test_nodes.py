"""Launchers of several nodes as processes of this machine: who runs what, and one reason whoever fails."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nemo_acereason.config.schema import WatchdogConfig, default_phase_limits
from nemo_acereason.errors import ConfigError
from nemo_acereason.launch import nodes
from nemo_acereason.launch.engine_node import take_secret
from nemo_acereason.launch.local import RankFailure, run_ranks
from nemo_acereason.launch.node_ranks import ENGINE_SECRET, NodeReport
from nemo_acereason.launch.nodes import Crew, Meeting, NodeLost, Ranks, RemoteNode, ThisNode, join
from nemo_acereason.launch.watchdog import End
from nemo_acereason.sandbox import secret_link

OTHER = """
import sys
from pathlib import Path
from nemo_acereason.launch.nodes import Meeting, join, serve
index = int(sys.argv[2])
serve(join(Meeting(Path(sys.argv[1]), "7.0", index, 3, f"other{index}"), {"num_gpus": 0}))
"""
RANK = """
import os, signal, sys, time
from pathlib import Path
from nemo_acereason.launch.watchdog import Pulse
run_dir, rank = Path(sys.argv[1]), os.environ["RANK"]
written = run_dir / f"writing_{rank}"
written.write_text(f"{os.getpid()} {os.getppid()}")
written.rename(run_dir / f"pid_{rank}")  # whole where it is seen
pulse = Pulse(int(sys.argv[sys.argv.index("--pipe") + 1]))
"""


@pytest.fixture
def others(tmp_path: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Two further nodes of a job of three, on their way; ``RUN/ranks.py`` is what a rank runs there and here."""
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    started = [
        subprocess.Popen([sys.executable, "-c", OTHER, str(tmp_path), str(index)], env=environment) for index in (1, 2)
    ]
    yield started
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def crew(tmp_path: Path, others: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch) -> Iterator[Crew]:
    assert len(others) == 2
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setattr("nemo_acereason.launch.local.GRACE_S", 1.0)
    monkeypatch.setattr(nodes, "MEET_S", 120.0)
    gathered = Crew.gather(Meeting(tmp_path, "7.0", 0, 3, "first"))
    yield gathered
    gathered.dismiss()
    for process in others:
        process.wait(30)


def run(run_dir: Path, crew: Crew, num_ranks: int, text: str, **watchdog: object) -> None:
    for left_over in run_dir.glob("pid_*"):
        left_over.unlink()
    (run_dir / "ranks.py").write_text(RANK + textwrap.dedent(text))
    run_ranks(run_dir, num_ranks, WatchdogConfig(**watchdog), crew, module="ranks")  # type: ignore[arg-type]


def test_three_nodes_run_one_segment_after_the_other_and_name_what_fails(tmp_path: Path, crew: Crew) -> None:
    """One crew for all: gathering takes seconds."""
    assert [node.name for node in crew.nodes] == ["first", "other1", "other2"]
    assert not (tmp_path / "nodes" / "meet.json").exists(), "nobody is awaited any more"

    place = "(run_dir / f'place_{rank}').write_text(' '.join(os.environ[name] for name in "
    place += "('LOCAL_RANK', 'LOCAL_WORLD_SIZE', 'WORLD_SIZE', 'MASTER_ADDR')))"
    run(tmp_path, crew, 5, place)
    places = [(tmp_path / f"place_{rank}").read_text().split() for rank in range(5)]
    assert [(local, here) for local, here, _, _ in places] == [
        ("0", "2"),
        ("1", "2"),
        ("0", "2"),
        ("1", "2"),
        ("0", "1"),
    ]
    assert {(size, address) for _, _, size, address in places} == {("5", crew.address)}
    parents = [(tmp_path / f"pid_{rank}").read_text().split()[1] for rank in range(5)]
    assert parents[0] == parents[1] == str(os.getpid())
    assert len(set(parents)) == 3

    with pytest.raises(RankFailure, match=r"^rank 2 was killed by SIGKILL \(out of memory\?\); start again"):
        run(
            tmp_path,
            crew,
            3,
            """
            if rank == '2':
                time.sleep(1)
                os.kill(os.getpid(), signal.SIGKILL)
            while not (run_dir / 'pid_2').exists():
                time.sleep(0.01)
            while Path('/proc', (run_dir / 'pid_2').read_text().split()[0], 'exe').exists():
                time.sleep(0.01)
            pulse.tell_end('RuntimeError: connection closed by peer', 1, is_known=False)
            os._exit(1)
            """,
        )

    with pytest.raises(RankFailure, match=r"^step 3: too far apart$") as caught:
        run(
            tmp_path,
            crew,
            3,
            """
            if rank == '0':
                time.sleep(60)
            pulse.tell_end('step 3: too far apart', 3, is_known=True)
            os._exit(3)
            """,
        )
    assert caught.value.exit_status == 3

    with pytest.raises(RankFailure) as caught:
        run(
            tmp_path,
            crew,
            3,
            """
            def reads_a_lost_disk():
                time.sleep(60)
            pulse.enter('train' if rank == '1' else '', 4)
            reads_a_lost_disk()
            """,
            phase_s=default_phase_limits() | {"train": 1.0},
        )
    assert str(caught.value).startswith("phase train of step 4 takes more than 1 s (watchdog.phase_s.train): rank 1 ")
    assert "reads_a_lost_disk" in str(caught.value)
    stacks = (tmp_path / "logs" / "stacks.txt").read_text()
    assert all(f"rank {rank} (sleeps)" in stacks for rank in range(3)), "every node was asked"

    run(tmp_path, crew, 1, "assert os.environ['WORLD_SIZE'] == '1'")


def test_a_node_that_goes_is_the_reason_and_its_ranks_go_with_it(
    tmp_path: Path, crew: Crew, others: list[subprocess.Popen[bytes]]
) -> None:
    def cut_power() -> None:
        while not (tmp_path / "pid_1").exists():
            time.sleep(0.05)
        time.sleep(0.5)
        others[0].send_signal(signal.SIGKILL)

    threading.Thread(target=cut_power).start()
    die_with_parent = "from nemo_acereason.sandbox.lifetime import die_with_parent\n"
    die_with_parent += "die_with_parent(int(sys.argv[sys.argv.index('--parent') + 1]))\ntime.sleep(60)"
    with pytest.raises(RankFailure, match=r"^the connection to node other\d is gone; start again to go on"):
        run(tmp_path, crew, 3, die_with_parent)
    for rank in range(3):
        pid = (tmp_path / f"pid_{rank}").read_text().split()[0]
        deadline = time.monotonic() + 30
        while Path("/proc", pid, "exe").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not Path("/proc", pid, "exe").exists()


def test_nodes_that_do_not_come_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "MEET_S", 0.5)
    with pytest.raises(NodeLost, match=r"^node 1, 2 of 3 \(from 0\) did not come within 0.5 s"):
        Crew.gather(Meeting(tmp_path, "7.0", 0, 3, "first"))
    with pytest.raises(NodeLost, match=r"^node 1 \(other\) did not reach the first node"):
        join(Meeting(tmp_path, "8.0", 1, 3, "other"), {})


def test_the_secret_is_its_user_s_alone_and_a_stranger_is_not_taken_for_a_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes, "MEET_S", 2.0)
    monkeypatch.setattr(secret_link, "CONNECT_TIMEOUT_S", 1.0)
    seen: list[int] = []

    def intrude() -> None:
        file = Meeting(tmp_path, "7.0", 0, 2, "").file
        while not file.exists():
            time.sleep(0.01)
        seen.append(file.stat().st_mode & 0o777)
        with socket.create_connection(("127.0.0.1", json.loads(file.read_text())["port"])) as stranger:
            stranger.sendall(b'{"index": 1, "name": "stranger", "time": 0, "facts": {}}')
            time.sleep(0.5)

    thread = threading.Thread(target=intrude)
    thread.start()
    with pytest.raises(NodeLost, match="node 1 of 2"):
        Crew.gather(Meeting(tmp_path, "7.0", 0, 2, "first"))
    thread.join()
    assert seen == [0o600]


def test_a_report_survives_its_journey() -> None:
    report = NodeReport(False, {3: -9}, [End(3, "out of memory", 1, True)], (3, "phase train"))
    assert NodeReport.from_json(json.loads(json.dumps(report.to_json()))) == report


@pytest.mark.parametrize(
    ("num_ranks", "num_nodes", "wanted"),
    [(8, 2, [(0, 4), (4, 4)]), (5, 2, [(0, 3), (3, 2)]), (1, 3, [(0, 1)]), (4, 3, [(0, 2), (2, 2)])],
)
def test_ranks_fill_nodes_in_order(num_ranks: int, num_nodes: int, wanted: list[tuple[int, int]]) -> None:
    others = [RemoteNode(f"other{index}", None, {}) for index in range(1, num_nodes)]  # type: ignore[arg-type]
    places = [place for _, place in Crew(ThisNode("first"), others, "127.0.0.1").places(Ranks(num_ranks))]
    assert [(place.first_rank, place.num_here) for place in places] == wanted
    assert len({dataclasses.replace(place, first_rank=0, num_here=0) for place in places}) == 1


@pytest.mark.parametrize(
    ("ranks", "num_nodes", "here"),
    [
        (Ranks(16, copy_size=4, room=8), 8, [4, 4, 4, 4]),
        (Ranks(4, copy_size=4, room=8), 8, [4]),
        (Ranks(8, copy_size=4, room=8), 3, [4, 4]),
        (Ranks(16, copy_size=16, room=8), 2, [8, 8]),
        (Ranks(5), 3, [2, 2, 1]),
    ],
)
def test_a_copy_of_the_model_is_not_parted_where_a_node_has_room(ranks: Ranks, num_nodes: int, here: list[int]) -> None:
    others: list[Any] = [ThisNode(str(number)) for number in range(num_nodes - 1)]
    assert [place.num_here for _, place in Crew(ThisNode("first"), others, "127.0.0.1").places(ranks)] == here


def test_nodes_with_engines_alone_stand_behind_the_ranks_and_share_a_secret_with_the_first() -> None:
    others: list[Any] = [ThisNode("second"), ThisNode("third")]
    crew = Crew(ThisNode("first"), others, "127.0.0.1")
    places = list(crew.places(Ranks(2, num_engine_nodes=1)))
    assert [(node.name, place.first_rank, place.num_ranks) for node, place in places] == [
        ("first", 0, 2),
        ("second", 1, 2),
        ("third", 2, 2),
    ]
    assert places[0][1].secret == places[2][1].secret != ""
    assert places[1][1].secret == ""


def test_the_secret_of_engine_nodes_leaves_the_environment_with_its_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENGINE_SECRET, "ab" * 32)
    assert take_secret() == bytes.fromhex("ab" * 32)
    assert ENGINE_SECRET not in os.environ
    with pytest.raises(ConfigError, match=r"rollout\.nodes needs a run that `acereason submit` .* started"):
        take_secret()
