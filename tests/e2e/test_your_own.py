"""The page on a run of one's own does what it says: its files are written, its command is run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.e2e.commands import Command, num_steps

PAGE = Path(__file__).parents[2] / "docs" / "your_own.md"
MOST_LINES = 30


def blocks(page: str) -> dict[str, str]:
    """Code blocks by their language; each language comes once."""
    found = re.findall(r"```(\w+)\n(.*?)```", page, flags=re.DOTALL)
    assert len({language for language, _ in found}) == len(found)
    return dict(found)


@pytest.mark.timeout(600)
def test_page_on_a_task_of_ones_own_runs_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = PAGE.read_text()
    block = blocks(page)
    files = {"words.jsonl": block["json"], "reward.py": block["python"], "words.yaml": block["yaml"]}
    assert sum(len(text.splitlines()) for text in files.values()) < MOST_LINES
    for name, text in files.items():
        assert f"`{name}` —" in page
        (tmp_path / name).write_text(text)

    monkeypatch.chdir(tmp_path)
    plan, run = (line.split() for line in block["bash"].splitlines())
    assert plan[0] == run[0] == "acereason"
    shown = Command(*plan[1:]).wait()
    assert (shown.status, shown.stderr) == (0, "")
    assert "letters_in_place" in shown.stdout
    few_steps = ["stages.spell.num_steps=3", "stages.copy.num_steps=3", "rollout.kv_cache_gib=0.1"]
    ended = Command(*run[1:], *few_steps).wait(400)
    assert (ended.status, ended.stderr) == (0, "")

    assert num_steps(tmp_path / "runs/words") == 6
    summary = json.loads((tmp_path / "runs/words/summary.json").read_text())
    assert summary["is_finished"]
    assert [(stage["name"], stage["kind"], stage["steps"]) for stage in summary["stages"]] == [
        ("copy", "sft", 3),
        ("spell", "grpo", 3),
    ]
    for stage in summary["stages"]:
        scores = stage["eval"]["words"]["after"]
        assert (scores["num_problems"], scores["num_samples"], scores["num_unjudged"]) == (5, 8, 0)
    rewards = [json.loads(line)["reward"] for line in (tmp_path / "runs/words/samples.jsonl").read_text().splitlines()]
    assert any(0 < reward < 1 for reward in rewards), "a share of the letters, from the page's own function"
    assert ended.stdout.splitlines()[-1] == "report: runs/words/report.html"
    shown_lines = block["text"].splitlines()
    assert [line.split(":")[0] for line in ended.stdout.splitlines()[-3:]] == [
        line.split(":")[0] for line in shown_lines
    ]
