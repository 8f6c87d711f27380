# ruff: noqa: E501 - programs stand on one line each, so that the tables can be read
"""The executor against a real sandbox: results, limits, and what happens when its processes are killed."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from nemo_acereason.errors import ConfigError
from nemo_acereason.records import RunLimits, Verdict
from nemo_acereason.rewards.code_formats import read_tests
from nemo_acereason.rewards.code_tests import judge
from nemo_acereason.sandbox.executor import SandboxExecutor, executor_of_this_process
from nemo_acereason.sandbox.warm import choose_level

pytestmark = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
LIMITS = RunLimits(time_limit_s=1.0, memory_bytes=512 << 20, output_bytes=1 << 20)


@pytest.fixture(scope="module")
def executor() -> Iterator[SandboxExecutor]:
    with contextlib.closing(SandboxExecutor("kernel")) as executor:
        yield executor


@pytest.mark.parametrize(
    ("program", "stdin", "output"),
    [
        ("print(int(input()) + 1)", "4\n", "5\n"),
        ("import sys\nsys.stdout.write(sys.stdin.read())", "a\r\nb", "a\nb"),
        ("import sys\nsys.stdout.buffer.write(sys.stdin.buffer.read())", "é\x00", "é\x00"),
        ("print(open(0).read(), end='')", "x", "x"),
        ("print(open('/dev/stdin').read(), end='')", "x", "x"),
        ("import os\nos.write(1, os.read(0, 9))", "x", "x"),
        ("if __name__ == '__main__':\n    print(1)", "", "1\n"),
        ("print(1)\nexit()", "", "1\n"),
        ("import sys\nprint(1)\nsys.exit(1)", "", "1\n"),
        ("import os\nprint(1, flush=True)\nos._exit(0)", "", "1\n"),
        ("import threading\nthreading.Thread(target=lambda: print(1)).start()", "", "1\n"),
        ("import atexit\natexit.register(lambda: print(2))\nprint(1)", "", "1\n2\n"),
        ("import sys, io\nsys.stdout = io.TextIOWrapper(open(1, 'wb', closefd=False))\nprint(1)", "", "1\n"),
        ("f = open(1, 'w', closefd=False)\nf.write('1')", "", "1"),
        ("import sys\nsys.setrecursionlimit(10**6)\ndef f(n): return n and 1 + f(n - 1)\nprint(f(90000))", "", "90000\n"),
        ("@cache\ndef f(n): return n and 1 + f(n - 1)\nprint(f(90000))", "", "90000\n"),
        ("print(List, heappush, Counter, defaultdict, inf, gcd(4, 6), np.arange(2).sum())", "", None),
        ("from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass A:\n    x: int\nprint(A(1))", "", "A(x=1)\n"),
        ("import pickle\nclass A: pass\nprint(type(pickle.loads(pickle.dumps(A()))) is A)", "", "True\n"),
        ("print(len(str(10 ** 4000)))", "", "4001\n"),
        ("import sys\nprint('x', file=sys.stderr)", "", ""),
    ],
)  # fmt: skip
def test_programs_run_as_they_would_by_themselves(
    executor: SandboxExecutor, program: str, stdin: str, output: str | None
) -> None:
    result = executor.run(program, stdin, LIMITS)
    assert result.failure is None, result.detail
    if output is not None:
        assert result.output == output


@pytest.mark.parametrize(
    ("program", "verdict", "detail"),
    [
        ("1 / 0", Verdict.CRASH, "ZeroDivisionError: division by zero"),
        ("x = (", Verdict.CRASH, "SyntaxError"),
        ("input()", Verdict.CRASH, "EOFError"),
        ("while True: pass", Verdict.TIMEOUT, "used 1 s of CPU"),
        ("import time\ntime.sleep(99)", Verdict.TIMEOUT, "took 3 s"),
        ("x = bytearray(1 << 30)", Verdict.MEMORY, "MemoryError"),
        ("print('x' * (2 << 20))", Verdict.OUTPUT_LIMIT, "printed 1048576 bytes"),
        ("import os\nos.fork()", Verdict.FORBIDDEN, "system call"),
        ("import ctypes\nctypes.string_at(0)", Verdict.CRASH, "SIGSEGV"),
        ("import os\nos.kill(os.getpid(), 9)", Verdict.CRASH, "SIGKILL"),
        ("import os\nos.kill(os.getpid(), 15)", Verdict.CRASH, "SIGTERM before its end, twice"),
        ("import os\nos._exit(3)", Verdict.CRASH, "status 3"),
        ("(" * 100_000, Verdict.CRASH, ""),
        ("\x00", Verdict.CRASH, ""),
        ("\ud800", Verdict.CRASH, ""),
    ],
)
def test_failures_say_why(executor: SandboxExecutor, program: str, verdict: Verdict, detail: str) -> None:
    result = executor.run(program, "", LIMITS)
    assert result.failure is verdict, result
    assert detail in result.detail


def test_calls_share_a_process_and_cross_as_values(executor: SandboxExecutor) -> None:
    code = "class Solution:\n    def f(self, a, b=1):\n        a.append(b)\n        return (a, {b: None})\n    def g(self): 1 / 0"
    with executor.load(code, LIMITS) as program:
        assert program.call("Solution.f", [[1]], {"b": 2}).value == [[1, 2], {"d": [[2, None]]}]
        assert program.call("f", [[]], {}).value == [[1], {"d": [[1, None]]}]
        assert program.call("g", [], {}).detail == "ZeroDivisionError: division by zero"
        assert program.call("missing", [], {}).detail == "NameError: the program does not define missing"
        assert program.call("f", [[]], {}).failure is None, "an exception does not end the program"


def test_a_function_is_found_in_a_class_or_beside_it(executor: SandboxExecutor) -> None:
    with executor.load("def f(x): return x", LIMITS) as program:
        assert program.call("Solution.f", [1], {}).value == 1
    with executor.load("import sys\nclass Solution:\n    def f(self, x): return x", LIMITS) as program:
        assert program.call("f", [1], {}).value == 1


def test_the_prelude_answers_no_problem(executor: SandboxExecutor) -> None:
    with executor.load("def other(): pass", LIMITS) as program:
        assert program.call("gcd", [4, 6], {}).failure is Verdict.CRASH
    with executor.load("from math import gcd", LIMITS) as program:
        assert program.call("gcd", [4, 6], {}).value == 2


def test_setup_goes_before_the_program(executor: SandboxExecutor) -> None:
    with executor.load("def f(): return helper() + 1", LIMITS, "def helper(): return 1\ndef f(): pass") as program:
        assert program.call("f", [], {}).value == 2


def test_each_call_has_its_own_time(executor: SandboxExecutor) -> None:
    code = "import time\ndef f(s):\n    end = time.process_time() + s\n    while time.process_time() < end: pass\n    return s"
    with executor.load(code, LIMITS) as program:
        assert [program.call("f", [0.6], {}).value for _ in range(3)] == [0.6] * 3
        assert program.call("f", [30], {}).failure is Verdict.TIMEOUT
        assert program.call("f", [0], {}).failure is Verdict.TIMEOUT, "it is gone"


def test_a_program_that_fails_to_load_fails_every_call(executor: SandboxExecutor) -> None:
    with executor.load("import nowhere", LIMITS) as program:
        result = program.call("f", [], {})
    assert result.failure is Verdict.CRASH
    assert "ModuleNotFoundError" in result.detail


def test_a_loaded_program_makes_room_for_another_and_comes_back(executor: SandboxExecutor) -> None:
    with executor.load("def f(): return 1", LIMITS) as first:
        assert first.call("f", [], {}).value == 1
        assert executor.run("print(2)", "", LIMITS).output == "2\n"
        with executor.load("def f(): return 3", LIMITS) as second:
            assert second.call("f", [], {}).value == 3
        assert first.call("f", [], {}).value == 1


@pytest.mark.parametrize(
    ("script", "code", "failure"),
    [
        ("for i in range(3):\n    assert f(i) == 2 * i", "def f(x): return 2 * x", None),
        ("for i in range(3):\n    assert f(i) == 2 * i", "def f(x): return 2", Verdict.WRONG),
        ("for i in range(3):\n    assert f(i) == 2 * i", "def f(x): 1 / 0", Verdict.CRASH),
        ("for i in range(3):\n    assert f(i) == 2 * i", "def f(x):\n    while True: pass", Verdict.TIMEOUT),
        ("a = [2, 1]\nf(a)\nassert a == [1, 2]", "def f(x): x.sort()", None),
        ("try:\n    f(-1)\n    assert False\nexcept ValueError: pass", "def f(x): raise ValueError('no')", None),
        ("try:\n    f(-1)\n    assert False\nexcept ValueError: pass", "def f(x): return 1", Verdict.WRONG),
        ("assert f(1) == 1\nassert f(2) == 2", "import os\ndef f(x):\n    os._exit(0)", Verdict.CRASH),
        ("assert f(1) == 1", "class A:\n    def __eq__(self, o): return True\ndef f(x): return A()", Verdict.CRASH),
        ("assert g(f('ab')) == 'ab'", "def f(x): return x[::-1]\ndef g(x): return x[::-1]", None),
        ("x = 1\nassert f(x) == (1, {(2, 3): 4})", "def f(x): return x, {(2, 3): 4}", None),
        ("x = 1\nassert f(x) == (1, 2)", "def f(x): return [x, 2]", Verdict.WRONG),
        ("import math\nassert math.isclose(f(1), 1 / 3)", "def f(x): return x / 3", None),
        ("def check(candidate):\n    assert abs(candidate(4) - 2) < 1e-9", "def f(x): return x ** 0.5", None),
    ],
)  # fmt: skip
def test_assert_scripts_run_apart_from_the_program(
    executor: SandboxExecutor, script: str, code: str, failure: Verdict | None
) -> None:
    entry_point = "f" if "candidate" in script else None
    result = executor.run_script(script, code, LIMITS, setup="", functions=["f", "g"], entry_point=entry_point)
    assert result.failure is failure, result


def test_the_asserts_side_holds_no_code_of_the_program(executor: SandboxExecutor) -> None:
    """A program that replaces AssertionError, ends its process or prints cannot reach the asserts."""
    code = "import builtins, sys\nbuiltins.AssertionError = ValueError\nprint('passed')\ndef f(x): return 0"
    tests = read_tests({"kind": "assert", "setup": "", "code": "x = 2\nassert f(x) == 4", "entry_point": None})
    assert tests.script is not None
    assert judge(code, tests, executor, LIMITS).verdict is Verdict.WRONG


def test_killing_processes_at_random_changes_no_verdict() -> None:
    """A template, its bubblewrap or a child is killed again and again while programs are judged."""
    tests = read_tests({"kind": "call", "fn_name": "f", "cases": [{"args": [i], "expected": 2 * i} for i in range(20)]})
    programs = [f"def f(x): return x * {k}  # {i}" for i in range(8) for k in (2, 3)]
    others = set(_descendants(os.getpid()))  # of earlier tests: multiprocessing keeps a process for good
    executor, stop, draw = SandboxExecutor("kernel"), threading.Event(), random.Random(7)
    executor.warm()
    num_killed = 0

    def kill() -> None:
        nonlocal num_killed
        while not stop.wait(draw.random()):
            family = sorted(set(_descendants(os.getpid())) - others)
            if family:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(draw.choice(family), draw.choice([signal.SIGKILL, signal.SIGTERM]))
                    num_killed += 1

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        verdicts = [judge(program, tests, executor, LIMITS).verdict for program in programs * 8]
    finally:
        stop.set()
        killer.join()
        executor.close()
    assert verdicts == [Verdict.CORRECT, Verdict.WRONG] * 64
    assert num_killed > 0


def test_a_closed_executor_leaves_no_process_and_works_again() -> None:
    others = set(_descendants(os.getpid()))
    executor = SandboxExecutor("kernel")
    executor.run("print(1)", "", LIMITS)
    assert set(_descendants(os.getpid())) - others
    executor.close()
    executor.close()
    assert set(_descendants(os.getpid())) <= others
    assert executor.run("print(1)", "", LIMITS).output == "1\n"
    executor.close()


def test_the_executor_of_a_process_is_its_own() -> None:
    assert executor_of_this_process("kernel") is executor_of_this_process("kernel")
    executor_of_this_process("kernel").close()


def test_a_wrong_level_is_refused_with_the_choices() -> None:
    with pytest.raises(ConfigError, match="isolation='docker' is not one of auto, kernel, process, none"):
        choose_level("docker")


def test_kernel_isolation_is_refused_without_bubblewrap(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    choose_level.cache_clear()
    try:
        with pytest.raises(ConfigError, match=r"'kernel' cannot be had here .*not installed"):
            choose_level("kernel")
    finally:
        choose_level.cache_clear()


def test_the_next_best_level_is_taken_loudly(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    choose_level.cache_clear()
    try:
        level = choose_level("auto")
    finally:
        choose_level.cache_clear()
    assert level.name != "kernel"
    assert "bubblewrap is not installed" in caplog.text


def _descendants(pid: int) -> list[int]:
    """Children of a process, and theirs."""
    try:
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []
    return children + [below for child in children for below in _descendants(child)]
