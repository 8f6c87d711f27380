"""Data card and page of rows in a real headless browser: they open from disk, fit, and find a row again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from chromium import Chromium

from nemo_acereason.curation.run import curate
from nemo_acereason.curation.settings import CurationConfig, ExecutorConfig, SourceConfig

HOSTILE = "<script>window.hit = 1</script><img src=x onerror='window.hit = 2'>"


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("curation")
    rows = [{"problem": f"How many are {n} boats and {n + 1} {HOSTILE}?", "answer": str(2 * n + 1)} for n in range(30)]
    rows += [{"problem": f"Prove that {n} + 1 is the successor of {n}.", "answer": "1"} for n in range(3)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sources = {HOSTILE: SourceConfig(path="rows.jsonl")}
    config = CurationConfig(name="toy", root=str(folder), sources=sources, executor=ExecutorConfig(workers=1))
    curate(config, folder / "out", say=lambda _: None)
    return folder / "out"


@pytest.mark.parametrize("page", ["card.html", "samples.html"])
@pytest.mark.parametrize("look", [{"width": 1280}, {"width": 1280, "is_dark": True}, {"width": 390}], ids=str)
def test_page_opens_from_disk_without_error_and_fits(
    browser: Chromium, out: Path, page: str, look: dict[str, int]
) -> None:
    browser.errors.clear()
    browser.look(**look)  # type: ignore[arg-type]
    browser.open(out / page)
    assert browser.run("document.documentElement.scrollWidth <= window.innerWidth")
    assert browser.run("performance.getEntriesByType('resource').length") == 0
    assert browser.run("window.hit === undefined")
    assert browser.run("document.querySelectorAll('.plot .main-svg').length > 0") == (page == "card.html")
    assert browser.errors == []


def test_rows_are_found_by_reason_and_by_words(browser: Chromium, out: Path) -> None:
    browser.look(width=1280)
    browser.open(out / "samples.html")
    shown = "[...document.querySelectorAll('section:not([hidden]) article:not([hidden])')].length"
    assert browser.run(shown) == 20 + 3

    def choose(element: str, value: str, event: str) -> int:
        browser.run(f"{element}.value = '{value}'; {element}.dispatchEvent(new Event('{event}'))")
        found: int = browser.run(shown)
        return found

    assert choose("reason", "proof", "change") == 3
    assert choose("words", "successor of 2", "input") == 1
    assert choose("words", "boats", "input") == 0
    assert browser.run("!document.getElementById('none').hidden")
    assert choose("reason", "", "change") == 20
