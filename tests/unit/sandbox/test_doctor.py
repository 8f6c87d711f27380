"""The self-check says what is on, and tries it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from nemo_acereason.sandbox.doctor import container_options, doctor
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


def test_a_container_that_keeps_bubblewrap_out_is_told_the_options_that_let_it() -> None:
    # of a Podman container as started without options, and of one on Ubuntu's Docker with seccomp=unconfined
    podman = container_options(["Name:\tpython3", "Seccomp:\t2"], ["/", "/proc", "/proc/acpi", "/proc/keys"], "")
    assert podman == ["--security-opt seccomp=unconfined", "--security-opt systempaths=unconfined"]
    docker = container_options(["Seccomp:\t0"], ["/proc", "/proc/kcore"], "docker-default (enforce)\n")
    assert docker == ["--security-opt systempaths=unconfined", "--security-opt apparmor=unconfined"]
    assert container_options(["Seccomp:\t0"], ["/", "/proc", "/proc/sys/fs/binfmt_misc"], "unconfined\n") == []
