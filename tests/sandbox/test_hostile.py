"""Hostile programs are contained: as root and as an ordinary user, with nothing left behind."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from nemo_acereason.records import RunLimits
from nemo_acereason.rewards.code_formats import CodeTests, StdinCase
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
def unprivileged() -> dict[str, Any]:
    """Verdicts on all programs, judged by an executor whose user is nobody in particular."""
    printed = run_unprivileged("tests.sandbox.hostile", "kernel", "1", timeout_s=250)
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


def test_without_namespaces_an_ordinary_users_programs_are_held_by_the_filter() -> None:
    printed = run_unprivileged("tests.sandbox.hostile", "process", "3", timeout_s=250)
    result = json.loads(printed)
    assert result["level"] == "process"
    for hostile in HOSTILE[::3]:
        verdict, detail = result["verdicts"][hostile.name]
        assert verdict in hostile.ends.split(), (hostile.name, verdict, detail)
    assert result["verdicts"]["honest program"] == ["correct", ""]


def test_a_crowded_machine_changes_no_verdict() -> None:
    """Many more programs at once than cores: each waits long for its turn, which is not its fault."""
    spin = (
        "import time\nend = time.process_time() + 0.5\nwhile time.process_time() < end: pass\nprint(int(input()) * 2)"
    )
    limits = RunLimits(time_limit_s=0.8)
    tests = CodeTests(stdin=(StdinCase("21\n", "42"),))

    def judge_two() -> list[str]:
        with contextlib.closing(SandboxExecutor("kernel")) as own:
            return [judge(code, tests, own, limits).verdict.value for code in (spin, "while True: pass")]

    count = 5 * len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(count) as threads:
        verdicts = [future.result() for future in [threads.submit(judge_two) for _ in range(count)]]
    assert verdicts == [["correct", "timeout"]] * count


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
