"""The self-check says what is on, and tries it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from nemo_acereason.sandbox.doctor import doctor
from nemo_acereason.sandbox.warm import choose_level


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
def test_everything_is_held_back_under_kernel_isolation() -> None:
    findings = {finding.name: finding for finding in doctor("kernel")}
    assert findings["level"].detail.startswith("kernel")
    tried = [
        findings[name] for name in ("level", "an honest program", "memory limit", "no network", "no new processes")
    ]
    assert all(finding.is_good for finding in tried), tried


def test_what_is_missing_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    choose_level.cache_clear()
    try:
        findings = {finding.name: finding for finding in doctor("kernel")}
    finally:
        choose_level.cache_clear()
    assert not findings["level"].is_good
    assert not findings["bubblewrap"].is_good
    assert "apt-get install bubblewrap" in findings["bubblewrap"].detail
