"""The pages in a real headless browser: opened from disk, used with clicks, read as a person would."""

import re
from pathlib import Path

import pytest
from chromium import Chromium
from small_evaluation import DyingEngine, declare, run
from synthetic_run import make_run

from nemo_acereason.evaluation.compare import compare, read_side
from nemo_acereason.evaluation.compare_report import write_compare_report
from nemo_acereason.evaluation.eval_report import write_eval_report
from nemo_acereason.evaluation.report import write_report

HOSTILE = "</think><script>window.hit = 1</script><img src=x onerror='window.hit = 2'> & \x07"


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One of each kind, every response hostile."""
    directory = tmp_path_factory.mktemp("pages")
    name = declare(directory)
    for out, skill in (("a", 0.3), ("b", 0.9)):
        run(directory / out, DyingEngine(skill=skill, suffix=HOSTILE), k=4, name=name)
    result = compare(read_side(directory / "a"), read_side(directory / "b"))
    return {
        "eval": write_eval_report(directory / "b"),
        "compare": write_compare_report(result, directory / "compare.html"),
        "run": write_report(make_run(directory / "run", hostile_text=HOSTILE)),
    }


def opened(browser: Chromium, page: Path, **look: object) -> Chromium:
    browser.errors.clear()
    browser.look(**look)  # type: ignore[arg-type]
    browser.open(page)
    return browser


@pytest.mark.parametrize("kind", ["eval", "compare", "run"])
@pytest.mark.parametrize("look", [{"width": 1280}, {"width": 1280, "is_dark": True}, {"width": 390}], ids=str)
def test_page_opens_from_disk_without_error_and_fits(
    browser: Chromium, pages: dict[str, Path], kind: str, look: dict[str, int]
) -> None:
    page = opened(browser, pages[kind], **look)
    plots = page.run("document.querySelectorAll('.plot .main-svg').length")
    assert plots > 0
    assert page.run("performance.getEntriesByType('resource').length") == 0
    assert page.run("document.documentElement.scrollWidth <= window.innerWidth")
    background = page.run("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(19, 20, 23)" if look.get("is_dark") else "rgb(251, 251, 250)")
    assert page.errors == []


@pytest.mark.parametrize("kind", ["eval", "compare", "run"])
def test_sample_opens_with_verdict_and_reason_and_its_markup_is_text(
    browser: Chromium, pages: dict[str, Path], kind: str
) -> None:
    page = opened(browser, pages[kind], width=1280)
    page.run("[...document.querySelectorAll('.tile')].at(-1).click()")
    page.wait_for("!!document.querySelector('.opened .sample')")
    text = page.run("document.querySelector('.opened').textContent")
    assert "<script>window.hit = 1</script><img src=x onerror='window.hit = 2'> & \u2407" in text
    reason = {"run": r"\d+ = \d+|\d+, want \d+|no </think> before the limit"}.get(kind, "<b>in the box</b>")
    assert re.search(reason, text)  # why the verdict
    assert page.run("document.querySelector('.opened .badge').textContent") in ("correct", "wrong", "unfinished")
    assert page.run("document.querySelectorAll('.opened script, .opened img').length") == 0
    assert page.run("window.hit") is None
    page.run("document.querySelector('.opened .quiet').click()")
    assert page.run("document.querySelectorAll('.opened').length") == 0
    assert page.errors == []


def tiles(page: Chromium) -> list[str]:
    labels: list[str] = page.run("[...document.querySelectorAll('.tile')].map(tile => tile.getAttribute('aria-label'))")
    return labels


def choose(page: Chromium, control: str, value: str) -> None:
    page.run(
        f"(() => {{ const it = document.querySelector('[aria-label=\"{control}\"]'); it.value = {value!r};"
        " it.dispatchEvent(new Event('input')); })()"
    )


def test_grid_filters_and_sorts(browser: Chromium, pages: dict[str, Path]) -> None:
    page = opened(browser, pages["compare"], width=1280)
    every = tiles(page)
    assert [label.split()[0] for label in every] == [f"sums-{i}" for i in range(4)]
    rates = {label.split()[0]: [int(part.split()[0]) for part in label.split(" ", 1)[1].split(", ")] for label in every}
    choose(page, "show", "never solved")
    assert [label.split()[0] for label in tiles(page)] == [name for name, rate in rates.items() if rate == [0, 0]]
    choose(page, "show", "gained")
    assert [label.split()[0] for label in tiles(page)] == [name for name, (a, b) in rates.items() if b > a]
    choose(page, "show", "all problems")
    choose(page, "find in problems", "3+3")
    assert [label.split()[0] for label in tiles(page)] == ["sums-3"]
    choose(page, "find in problems", "")
    choose(page, "kind", "difficulty: odd")
    assert [label.split()[0] for label in tiles(page)] == ["sums-1", "sums-3"]
    choose(page, "kind", "any kind")
    choose(page, "order", "hardest first")
    last = [rates[label.split()[0]][1] for label in tiles(page)]
    assert last == sorted(last)
    assert page.errors == []
