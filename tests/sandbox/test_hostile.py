"""Hostile programs are contained: as root and as an ordinary user, with nothing left behind."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nemo_acereason.sandbox.executor import SandboxExecutor
from nemo_acereason.sandbox.isolation import own_uid
from tests.sandbox.hostile import HOSTILE, LIMITS, STDIN, Hostile, judge, judge_hostile
from tests.sandbox.users import run_unprivileged

pytestmark = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
_IDS = [hostile.name for hostile in HOSTILE]


@pytest.fixture(scope="module")
def executor() -> Iterator[SandboxExecutor]:
    """One for all programs: each must leave it as good as new."""
    with contextlib.closing(SandboxExecutor("kernel")) as executor:
        yield executor


@pytest.fixture(scope="module")
def unprivileged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Verdicts on all programs, judged by an executor whose user is nobody in particular."""
    scratch = tmp_path_factory.mktemp("unprivileged")
    printed = run_unprivileged("tests.sandbox.hostile", "kernel", scratch=scratch, timeout_s=250)
    return json.loads(printed)  # type: ignore[no-any-return]


@pytest.mark.parametrize("hostile", HOSTILE, ids=_IDS)
def test_hostile_program_is_contained(executor: SandboxExecutor, hostile: Hostile) -> None:
    score = judge_hostile(executor, hostile)
    assert score.verdict.value in hostile.ends.split(), score
    assert score.reward == 0.0
    assert judge("print(int(input()) * 2)", STDIN, executor, LIMITS).reward == 1.0


@pytest.mark.parametrize("hostile", HOSTILE, ids=_IDS)
def test_hostile_program_is_contained_without_root(unprivileged: dict[str, Any], hostile: Hostile) -> None:
    verdict, detail = unprivileged["verdicts"][hostile.name]
    assert verdict in hostile.ends.split(), detail


def test_ordinary_user_gets_kernel_isolation_and_honest_programs_pass(unprivileged: dict[str, Any]) -> None:
    assert (unprivileged["level"], unprivileged["uid"]) == ("kernel", 0)
    assert unprivileged["verdicts"]["honest program"] == ["correct", ""]
    assert unprivileged["verdicts"]["honest function"] == ["correct", ""]


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("untouched")
    before = _traces()
    executor = SandboxExecutor("kernel")
    for hostile in HOSTILE[::4]:
        judge_hostile(executor, hostile)
    template = executor.warm().pid
    executor.close()
    assert not Path(f"/proc/{template}").exists()
    assert _traces() == before
    assert not Path("/tmp/evil").exists()
    assert secret.read_text() == "untouched"


def test_root_runs_programs_as_a_user_of_this_process_alone(executor: SandboxExecutor) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    result = executor.run("import os; print(os.getresuid(), os.getgroups(), len(os.environ))", "", LIMITS)
    assert result.output.startswith(f"({own_uid()}, {own_uid()}, {own_uid()}) []")


def test_launchers_environment_and_files_are_not_visible(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("A_SECRET_OF_THE_LAUNCHER", "42")
    fresh = SandboxExecutor("kernel")
    program = (
        "import os\nprint('A_SECRET_OF_THE_LAUNCHER' in os.environ, sorted(os.listdir('/')), os.listdir('/tmp'),"
        " [p for p in os.listdir('/proc') if p.isdigit()])"
    )
    printed = fresh.run(program, "", LIMITS).output
    fresh.close()
    assert printed.startswith("False [")
    assert "'home'" not in printed
    assert "'work'" not in printed
    assert "['1', " in printed, "process 1 and the program are all there is"


def test_one_program_sees_nothing_of_the_one_before(executor: SandboxExecutor) -> None:
    assert executor.run("open('/tmp/note', 'w').write('psst')\nprint(1)", "", LIMITS).output == "1\n"
    assert executor.run("import os\nprint(os.listdir('/tmp'))", "", LIMITS).output == "[]\n"
    assert executor.run("import builtins, json\nbuiltins.abs = json.loads = None\nprint(1)", "", LIMITS).output == "1\n"
    assert executor.run("import json\nprint(abs(-3), json.loads('7'))", "", LIMITS).output == "3 7\n"


def _traces() -> tuple[list[str], set[str], list[str]]:
    """Open files of this process, its children (zombies too), and processes of the user it makes for programs."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    users = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(FileNotFoundError):
                if entry.stat().st_uid == own_uid():
                    users.append(entry.name)
    return sorted(os.listdir("/proc/self/fd")), set(children), sorted(users)
