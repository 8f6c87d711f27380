"""The reward pool against rewards that hang, crash, leak and lie, and against workers that die."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nemo_acereason.config.schema import RewardConfig
from nemo_acereason.errors import AceReasonError, ConfigError
from nemo_acereason.records import Prompt, Sample, Score, Verdict
from nemo_acereason.sandbox.pool import MAX_ATTEMPTS, RewardPool

ECHO = RewardConfig("pool_rewards:echo")


def prompt(reference: object = "", name: str = "p") -> Prompt:
    return Prompt(name, "", reference, "test", "", ())


def sample(text: str) -> Sample:
    return Sample((1, 2), (-0.5, -0.1), text, "stop", 0)


def children() -> set[int]:
    """Worker processes of this process that are alive (zombies do not count)."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                command = (entry / "cmdline").read_text()
            except OSError:
                continue
            if int(fields[1]) == os.getpid() and fields[0] != "Z" and "reward_worker" in command:
                found.add(int(entry.name))
    return found


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[RewardPool]:
    by_name = RewardConfig("pool_rewards:by_name", {"directory": str(tmp_path)})
    with RewardPool(by_name, num_workers=2, timeout_s=3.0, memory_bytes=4 << 30) as made:
        yield made


def judge(pool: RewardPool, text: str) -> Score:
    pool.submit(prompt(), sample(text), (0, 0))
    return pool.collect()[0, 0]


def test_every_sample_comes_back_under_its_key() -> None:
    with RewardPool(ECHO, num_workers=2) as pool:
        for place in range(50):
            pool.submit(prompt(str(place % 2), str(place)), sample("1"), (place, 3))
        scores = pool.collect()
    assert {key: score.reward for key, score in scores.items()} == {(place, 3): float(place % 2) for place in range(50)}


def test_collect_returns_each_score_once(pool: RewardPool) -> None:
    assert judge(pool, "fine").verdict is Verdict.CORRECT
    assert pool.collect() == {}


def test_math_reward_judges_in_the_pool() -> None:
    with RewardPool(RewardConfig(), num_workers=1) as pool:
        pool.submit(prompt("\\frac12"), sample("so</think> \\boxed{0.5}"), (0, 0))
        pool.submit(prompt("\\frac12"), sample("so</think> \\boxed{2}"), (0, 1))
        pool.submit(prompt("\\frac12"), sample("\\boxed{0.5}"), (0, 2))
        verdicts = [score.verdict for _, score in sorted(pool.collect().items())]
    assert verdicts == [Verdict.CORRECT, Verdict.WRONG, Verdict.UNFINISHED]


@pytest.mark.parametrize("text", ["sleep", "c loop"])
def test_a_case_over_its_limit_is_killed_and_the_next_one_judged(pool: RewardPool, text: str) -> None:
    score = judge(pool, text)
    assert score.verdict is Verdict.TIMEOUT
    assert score.reward == 0.0
    assert score.seconds >= 3.0
    assert judge(pool, "fine").verdict is Verdict.CORRECT


def test_the_limit_holds_when_a_thread_submits_and_collects(pool: RewardPool) -> None:
    seen: list[Score] = []
    thread = threading.Thread(target=lambda: seen.append(judge(pool, "sleep")))
    thread.start()
    thread.join()
    assert [score.verdict for score in seen] == [Verdict.TIMEOUT]


def test_too_much_memory_is_a_verdict(pool: RewardPool) -> None:
    assert judge(pool, "memory").verdict is Verdict.MEMORY
    assert judge(pool, "fine").verdict is Verdict.CORRECT


@pytest.mark.parametrize("text", ["exit", "segfault"])
def test_a_worker_that_always_dies_is_our_failure_not_a_wrong_answer(pool: RewardPool, text: str) -> None:
    score = judge(pool, text)
    assert score.verdict is Verdict.INFRASTRUCTURE
    assert "worker died" in score.detail
    assert pool.num_workers_replaced == MAX_ATTEMPTS
    assert judge(pool, "fine").verdict is Verdict.CORRECT


def test_a_sample_whose_worker_died_is_judged_by_another(pool: RewardPool, tmp_path: Path) -> None:
    assert judge(pool, "die once").verdict is Verdict.CORRECT
    assert (tmp_path / "died").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [("raise", "ValueError: no such thing"), ("nan", "finite"), ("text", "a Score, a number or a bool")],
)
def test_an_error_of_the_function_is_our_failure_with_its_message(pool: RewardPool, text: str, said: str) -> None:
    score = judge(pool, text)
    assert score.verdict is Verdict.INFRASTRUCTURE
    assert said in score.detail


def test_only_the_first_error_is_printed(pool: RewardPool, capfd: pytest.CaptureFixture[str]) -> None:
    judge(pool, "raise")
    judge(pool, "raise")
    assert capfd.readouterr().err.count("ValueError: no such thing") == 1


def test_what_a_function_prints_does_not_disturb_its_verdict(pool: RewardPool) -> None:
    assert judge(pool, "print").verdict is Verdict.CORRECT


def test_identical_responses_are_judged_once(pool: RewardPool, tmp_path: Path) -> None:
    for place in range(8):
        pool.submit(prompt(), sample("count"), (0, place))
    pool.submit(prompt(name="another prompt"), sample("count"), (1, 0))
    scores = pool.collect()
    assert len(scores) == 9
    assert (tmp_path / "calls").read_text() == "xx"


def test_use_changes_the_reward_of_what_is_submitted_next() -> None:
    with RewardPool(ECHO, num_workers=1) as pool:
        pool.submit(prompt("a"), sample("a"), (0, 0))
        pool.use(RewardConfig("pool_rewards:number", {"scale": 0.5}))
        pool.submit(prompt(), sample("0.5"), (1, 0))
        scores = pool.collect()
    assert scores[0, 0] == Score(Verdict.CORRECT, 1.0, scores[0, 0].seconds)
    assert scores[1, 0] == Score(Verdict.WRONG, 0.25, scores[1, 0].seconds)


def test_workers_import_no_engine(pool: RewardPool) -> None:
    assert judge(pool, "modules").detail == ""
    with RewardPool(RewardConfig(), num_workers=1) as math_pool:  # nor does the math reward
        math_pool.submit(prompt("1"), sample("</think>\\boxed{\\sqrt{1}}"), (0, 0))
        assert math_pool.collect()[0, 0].verdict is Verdict.CORRECT
        math_pool.use(RewardConfig("pool_rewards:by_name"))
        assert judge(math_pool, "modules").detail == ""


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("no_such_module:f", "No module named"),
        ("pool_rewards:no_such_function", "no_such_function"),
        ("pool_rewards", "module:function"),
        ("pool_rewards:Path.nothing", "nothing"),
    ],
)
def test_a_reward_that_cannot_be_imported_is_refused_at_the_start(function: str, said: str) -> None:
    before = children()
    with pytest.raises(ConfigError, match=said):
        RewardPool(RewardConfig(function))
    assert children() == before


def test_workers_killed_at_random_change_no_verdict() -> None:
    chance = random.Random(5)
    slow = RewardConfig("pool_rewards:by_name")
    with RewardPool(slow, num_workers=3) as pool:
        for place in range(60):
            pool.submit(prompt(name=str(place)), sample("slow"), (place, 0))
        for _ in range(6):
            time.sleep(0.15)
            for process_id in chance.sample(sorted(children()), k=min(1, len(children()))):
                os.kill(process_id, signal.SIGKILL)
        scores = pool.collect()
    assert {score.verdict for score in scores.values()} == {Verdict.CORRECT}
    assert len(scores) == 60


def test_close_leaves_no_process_and_can_be_called_twice() -> None:
    before = children()
    pool = RewardPool(ECHO, num_workers=3)
    for place in range(9):
        pool.submit(prompt("a", str(place)), sample("a"), (place, 0))
    pool.collect()
    assert len(children() - before) >= 1
    pool.close()
    pool.close()
    assert children() == before


def test_collect_after_close_says_that_samples_are_missing() -> None:
    pool = RewardPool(RewardConfig("pool_rewards:by_name"), num_workers=1, timeout_s=1.0)
    pool.submit(prompt(name="1"), sample("sleep"), (1, 0))
    pool.submit(prompt(name="2"), sample("slow"), (2, 0))
    pool.close()
    with pytest.raises(AceReasonError, match="closed while samples were under way"):
        pool.collect()


def test_workers_die_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    script = """
import sys, time
from nemo_acereason.config.schema import RewardConfig
from nemo_acereason.records import Prompt, Sample
from nemo_acereason.sandbox.pool import RewardPool
pool = RewardPool(RewardConfig("pool_rewards:by_name"), num_workers=2, timeout_s=600)
for text in ("sleep", "c loop"):
    pool.submit(Prompt(text, "", "", "", "", ()), Sample((), (), text, "stop", 0), (len(text), 0))
time.sleep(1.5)
print("ready", flush=True)
time.sleep(600)
"""
    marked = {**os.environ, "POOL_TEST_MARK": str(tmp_path), "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=marked)
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"ready\n"
    workers = _marked(str(tmp_path)) - {parent.pid}
    assert len(workers) == 2
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 20
    while _marked(str(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert _marked(str(tmp_path)) == set()


def _marked(mark: str) -> set[int]:
    """Living processes that inherited the mark."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                has_mark = f"POOL_TEST_MARK={mark}".encode() in (entry / "environ").read_bytes()
                if has_mark and (entry / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                    found.add(int(entry.name))
            except OSError:
                continue
    return found


def test_workers_keep_to_the_cores_they_were_given() -> None:
    core = min(os.sched_getaffinity(0))
    before = children()
    with RewardPool(ECHO, num_workers=1, cores=[core]) as pool:
        judge(pool, "a")
        assert [os.sched_getaffinity(pid) for pid in children() - before] == [{core}]
