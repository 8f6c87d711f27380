"""Ranks as processes of this machine: one reason told, no process left, whoever dies first."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from nemo_acereason.config.schema import WatchdogConfig, default_phase_limits
from nemo_acereason.launch import local, node_ranks
from nemo_acereason.launch.local import RankFailure, _first_failed, run_ranks

RANK = """
import os, signal, sys, time
from pathlib import Path
run_dir, rank = Path(sys.argv[1]), os.environ["RANK"]
(run_dir / f"pid_{rank}").write_text(str(os.getpid()))
from nemo_acereason.launch.watchdog import Pulse
pulse = Pulse(int(sys.argv[sys.argv.index("--pipe") + 1]))
def report(message, status, is_known):
    pulse.tell_end(message, status, is_known=is_known)
    os._exit(status)
"""


@pytest.fixture
def ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes ``RUN/rank.py`` the program of every rank instead of the trainer; it defines ``run_dir``, ``rank``."""
    popen = subprocess.Popen

    def run_script(command: list[str], **settings: object) -> object:
        assert command[1:3] == ["-m", "nemo_acereason.launch.rank"]
        return popen([command[0], str(tmp_path / "rank.py"), *command[3:]], **settings)  # type: ignore[call-overload]

    monkeypatch.setattr(node_ranks.subprocess, "Popen", run_script)
    monkeypatch.setattr(local, "GRACE_S", 1.0)
    return tmp_path


def script(run_dir: Path, text: str) -> None:
    (run_dir / "rank.py").write_text(RANK + textwrap.dedent(text))


def is_alive(run_dir: Path, rank: int) -> bool:
    return Path(f"/proc/{(run_dir / f'pid_{rank}').read_text()}").exists()


def test_ranks_that_end_well_are_no_failure(ranks: Path) -> None:
    script(ranks, "assert os.environ['WORLD_SIZE'] == '2'\nsys.stderr.write(f'rank {rank} was here')")
    run_ranks(ranks, 2, WatchdogConfig())
    assert (ranks / "logs" / "rank_1.log").read_text() == "rank 1 was here"


def test_what_a_rank_reports_is_the_reason_and_the_others_are_ended(ranks: Path) -> None:
    script(ranks, "time.sleep(60) if rank == '0' else report('step 3: too far apart', 3, True)")
    with pytest.raises(RankFailure, match=r"^step 3: too far apart$") as caught:
        run_ranks(ranks, 2, WatchdogConfig())
    assert caught.value.exit_status == 3
    assert not is_alive(ranks, 0)


@pytest.mark.parametrize("is_known", [True, False])
def test_a_killed_rank_is_the_reason_and_not_what_the_others_make_of_it(ranks: Path, is_known: bool) -> None:
    script(
        ranks,
        """
        if rank == '1':
            os.kill(os.getpid(), signal.SIGKILL)
        while Path(f"/proc/{(run_dir / 'pid_1').read_text() if (run_dir / 'pid_1').exists() else 'self'}/fd").exists():
            time.sleep(0.01)
        report('RuntimeError: Connection closed by peer', 1, IS_KNOWN)
        """.replace("IS_KNOWN", str(is_known)),
    )
    with pytest.raises(RankFailure, match=r"^rank 1 was killed by SIGKILL \(out of memory\?\); start again to go on"):
        run_ranks(ranks, 2, WatchdogConfig())


def test_an_unforeseen_error_names_the_log(ranks: Path) -> None:
    script(ranks, "report('ZeroDivisionError: division by zero', 1, False)")
    with pytest.raises(RankFailure, match=r"rank 0: ZeroDivisionError: division by zero; traceback in .*/rank_0.log"):
        run_ranks(ranks, 1, WatchdogConfig())


def test_a_silent_end_names_status_and_log(ranks: Path) -> None:
    script(ranks, "os._exit(7)")
    with pytest.raises(RankFailure, match=r"rank 0 ended with status 7; see .*rank_0.log"):
        run_ranks(ranks, 1, WatchdogConfig())


def test_a_stopped_rank_is_named_with_its_phase_and_the_others_give_their_stacks(ranks: Path) -> None:
    script(
        ranks,
        """
        pulse.enter('train', 7)
        if rank == '1':
            os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(60)
        """,
    )
    with pytest.raises(RankFailure) as caught:
        run_ranks(ranks, 2, WatchdogConfig(silence_s=2.5))
    assert caught.value.exit_status == 1
    assert str(caught.value).startswith(
        "rank 1 has shown no sign of life for 2.5 s (watchdog.silence_s), last in phase train of step 7: "
    )
    assert "rank 1 is stopped by a signal" in str(caught.value)
    stacks = (ranks / "logs" / "stacks.txt").read_text()
    assert "rank 0 (sleeps)\n" in stacks
    assert "rank.py" in stacks, "rank 0 says where it is"
    assert not is_alive(ranks, 0)
    assert not is_alive(ranks, 1)


def test_a_phase_that_takes_too_long_names_the_rank_that_is_in_no_collective(ranks: Path) -> None:
    script(
        ranks,
        """
        import torch.distributed as dist
        dist.init_process_group("gloo")
        def reads_from_a_lost_disk():
            time.sleep(60)
        if rank == '0':
            pulse.enter('train', 3)
            dist.barrier()
        reads_from_a_lost_disk()
        """,
    )
    with pytest.raises(RankFailure) as caught:
        run_ranks(ranks, 2, WatchdogConfig(phase_s=default_phase_limits() | {"train": 1.0}))
    message = str(caught.value)
    assert message.startswith("phase train of step 3 takes more than 1 s (watchdog.phase_s.train): rank 1 sleeps in ")
    assert "reads_from_a_lost_disk" in message
    assert "rank 0" not in message
    assert "dist.barrier" not in message
    assert "barrier" in (ranks / "logs" / "stacks.txt").read_text()


def test_a_rank_that_has_ended_well_is_not_called_silent(ranks: Path) -> None:
    script(ranks, "time.sleep(3) if rank == '0' else None\nos._exit(0)")
    run_ranks(ranks, 2, WatchdogConfig(silence_s=1.5))


def test_only_the_first_rank_is_bounded_outside_of_phases(ranks: Path) -> None:
    script(ranks, "pulse.enter('', 1) if rank == '1' else pulse.enter('generate', 1)\ntime.sleep(2.5)\nos._exit(0)")
    limits = default_phase_limits()
    run_ranks(ranks, 2, WatchdogConfig(phase_s=limits | {"other": 1.0}))
    with pytest.raises(
        RankFailure, match=r"phase generate of step 1 takes more than 1 s .*: rank 0 sleeps in [^;]*; stacks"
    ):
        run_ranks(ranks, 2, WatchdogConfig(phase_s=limits | {"generate": 1.0}))


def test_interrupt_ends_every_rank(ranks: Path) -> None:
    script(ranks, "os.kill(os.getppid(), signal.SIGTERM) if rank == '1' else None\ntime.sleep(60)")
    with pytest.raises(KeyboardInterrupt, match="SIGTERM"):
        run_ranks(ranks, 2, WatchdogConfig())
    assert not is_alive(ranks, 1)


def test_first_sigterm_asks_to_save_and_the_second_ends_every_rank(
    ranks: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "ONE_SIGTERM_S", 0.0)
    script(
        ranks,
        f"stop = Path({str(ranks / 'stop')!r})\n"
        "while rank == '1':\n"
        "    os.kill(os.getppid(), signal.SIGTERM)\n"
        "    while not stop.exists(): time.sleep(0.01)\n"
        "    stop.unlink()\n"
        "    (stop.parent / 'asked').touch()\n"
        "    rank = ''\n"
        "os.kill(os.getppid(), signal.SIGTERM) if rank == '' else None\n"
        "time.sleep(60)",
    )
    with pytest.raises(KeyboardInterrupt, match="SIGTERM"):
        run_ranks(ranks, 2, WatchdogConfig(), ask=(ranks / "stop").touch)
    assert (ranks / "asked").exists()
    assert not (ranks / "stop").exists(), "the second one does not ask again"
    assert "save behind the present step" in capsys.readouterr().err
    assert not is_alive(ranks, 1)


def test_usr1_asks_to_save_and_ends_nothing(ranks: Path) -> None:
    asked: list[str] = []
    script(ranks, "for _ in range(2):\n    os.kill(os.getppid(), signal.SIGUSR1)\n    time.sleep(0.1)")
    run_ranks(ranks, 1, WatchdogConfig(), ask=lambda: asked.append("to save"))
    assert asked == ["to save"]


def test_two_sigterms_at_once_are_one(ranks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "ONE_SIGTERM_S", 60.0)
    asked: list[str] = []
    script(ranks, "for _ in range(2):\n    os.kill(os.getppid(), signal.SIGTERM)\n    time.sleep(0.1)")
    run_ranks(ranks, 1, WatchdogConfig(), ask=lambda: asked.append("to save"))
    assert asked == ["to save"]


def test_a_process_dies_with_its_parent(tmp_path: Path) -> None:
    child = "import os, sys, time; from nemo_acereason.sandbox.lifetime import die_with_parent; "
    child += "die_with_parent(int(sys.argv[1])); print(os.getpid(), flush=True); time.sleep(60)"
    parent = f"import os, subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}, str(os.getpid())])"
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True, cwd=tmp_path)
    assert process.stdout is not None
    child_pid = int(process.stdout.readline())
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert process.stdout.read() == "", "the pipe closes when the child is gone"
    process.stdout.close()
    deadline = time.monotonic() + 30
    while Path(f"/proc/{child_pid}/exe").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not Path(f"/proc/{child_pid}/exe").exists()


def test_a_process_whose_parent_is_gone_already_ends_at_once() -> None:
    code = "from nemo_acereason.sandbox.lifetime import die_with_parent; die_with_parent(1 << 22); print('alive')"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (answer.returncode, answer.stdout) == (1, "")


def test_of_several_ends_found_at_once_the_killed_one_is_the_cause() -> None:
    assert _first_failed({0: 1, 1: -9, 2: 1}) == 1
    assert _first_failed({1: 3, 2: 3}) == 1
