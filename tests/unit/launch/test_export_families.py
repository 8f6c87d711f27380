"""Export of another tool's checkpoint of a family without a name table: left to Megatron-Bridge.

A stub stands in for Megatron-Bridge, for what is refused and what it is handed; its real ``AutoBridge`` is in
``tests/bridge``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from nemo_acereason.errors import ConfigError
from nemo_acereason.launch.export import export_megatron


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A run of Megatron-Bridge, as far as anything here looks at it."""
    for number in (7, 20):
        directory = tmp_path / "run" / f"iter_{number:07}"
        directory.mkdir(parents=True)
        (directory / ".metadata").touch()
        (directory / "run_config.yaml").touch()
    return tmp_path / "run"


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    directory = tmp_path / "hf"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps({"model_type": "gemma3"}))
    return directory


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """Of the stub of Megatron-Bridge, which is there instead of the package."""
    found: list[tuple[object, ...]] = []

    def from_hf_pretrained(path: str) -> SimpleNamespace:
        return SimpleNamespace(export_ckpt=lambda *where, **options: found.append((path, *where, options)))

    stub = ModuleType("megatron.bridge")
    stub.AutoBridge = SimpleNamespace(from_hf_pretrained=from_hf_pretrained)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "megatron.bridge", stub)
    return found


def test_family_without_a_name_table_goes_by_bridge(
    checkpoint: Path, model_dir: Path, calls: list[tuple[object, ...]], tmp_path: Path
) -> None:
    export_megatron(checkpoint, model_dir, tmp_path / "new")
    newest = str(checkpoint / "iter_0000020")
    assert calls == [(str(model_dir), newest, str(tmp_path / "new"), {"show_progress": False})]


def test_directory_that_exists_is_not_handed_to_bridge(
    checkpoint: Path, model_dir: Path, calls: list[tuple[object, ...]], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="exists; want a directory that does not"):
        export_megatron(checkpoint, model_dir, tmp_path)
    assert not calls


def test_checkpoint_that_bridge_did_not_write_is_refused(
    checkpoint: Path, model_dir: Path, calls: list[tuple[object, ...]], tmp_path: Path
) -> None:
    (checkpoint / "iter_0000020" / "run_config.yaml").unlink()
    with pytest.raises(ConfigError, match=r"'gemma3' has no name table here, and .*0020 has no run_config.yaml"):
        export_megatron(checkpoint, model_dir, tmp_path / "new")
    assert not calls


def test_without_bridge_the_family_is_refused_in_one_line(
    checkpoint: Path, model_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "megatron.bridge", None)
    with pytest.raises(ConfigError, match="which may know it, does not import here") as refusal:
        export_megatron(checkpoint, model_dir, tmp_path / "new")
    assert "\n" not in str(refusal.value)
