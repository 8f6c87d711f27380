"""The container's files, as far as they can be tried without building it, which docker/build_without_gpu.sh does."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from nemo_acereason.config.load import load_plan
from nemo_acereason.config.schema import GrpoStage
from nemo_acereason.launch.health import IMAGE_FILE

ROOT = Path(__file__).parents[2]
CHECK = ROOT / "docker" / "check.sh"


def instructions() -> list[tuple[str, str]]:
    """Of the Dockerfile: word and the rest, continued lines joined."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line and not line.startswith("#")]
    return [(word, " ".join(rest.split())) for word, rest in lines]


def index(part: str) -> int:
    """Of the one instruction that has ``part``."""
    (found,) = [number for number, (_, rest) in enumerate(instructions()) if part in rest]
    return found


def test_base_and_every_package_are_pinned() -> None:
    given = dict(rest.split("=", 1) for word, rest in instructions() if word == "ARG")
    assert re.fullmatch(r"nvcr\.io/nvidia/vllm:\d\d\.\d\d-py3", given["BASE"])
    assert re.fullmatch(r"\d+\.\d+\.\d+", given["TRANSFORMER_ENGINE"])
    assert [rest.split()[0] for word, rest in instructions() if word == "FROM"] == ["${BASE}", "${BASE}"]
    lines = (ROOT / "requirements" / "container.txt").read_text().splitlines()
    packages = [line for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9.]+", line) for line in packages), packages
    assert not {line.partition("==")[0] for line in packages} & {"torch", "vllm", "transformers"}, "the base's own"


def test_it_does_not_run_as_root() -> None:
    words = [word for word, _ in instructions()]
    user = words.index("USER")
    assert instructions()[user][1] == "acereason"
    assert index("useradd") < user
    assert "RUN" not in words[user:]


def test_what_changes_often_comes_late() -> None:
    order = ["NVTE_FRAMEWORK", "-r /src/requirements/container.txt", "nemo_acereason /src/nemo", "/wheels/ours /src"]
    order += ["apt-get install", "source=/wheels,", "source=/wheels/ours,", "check.sh", "acereason-check requirements"]
    order += ["ACEREASON_COMMIT"]
    found = [index(part) for part in order]
    assert found == sorted(found)


@pytest.mark.parametrize(("version", "num_built"), [("2.20.2", 3), ("", 0)])
def test_an_empty_version_leaves_transformer_engine_out(version: str, num_built: int, tmp_path: Path) -> None:
    _, line = instructions()[index("NVTE_FRAMEWORK")]
    (tmp_path / "pip").write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    (tmp_path / "pip").chmod(0o755)
    told = subprocess.run(
        ["bash", "-c", line.partition("/root/.cache/pip ")[2]],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "TRANSFORMER_ENGINE": version},
        capture_output=True,
        text=True,
        check=True,
    )
    built = [word for word in told.stdout.split() if word.startswith("transformer-engine")]
    assert len(built) == num_built
    assert all(word.endswith("==2.20.2") for word in built)


def test_what_is_copied_is_there_and_enough_to_build_the_package() -> None:
    copied = [rest.split() for word, rest in instructions() if word == "COPY"]
    sources = {source for words in copied for source in words[:-1] if not source.startswith("--")}
    assert [source for source in sources if not (ROOT / source).exists()] == []
    # test_packaging.py builds it of the same
    assert sources >= {"pyproject.toml", "README.md", "conf", "recipes", "slurm", "nemo_acereason"}


def test_the_name_of_the_build_is_where_nodes_look_for_it() -> None:
    assert f">{IMAGE_FILE}" in instructions()[index("acereason-check requirements")][1]


def site(folder: Path, *requirements: str) -> Path:
    """A folder with our package's metadata, whatever the environment was installed from."""
    (folder / "nemo_acereason-0.1.0.dist-info").mkdir(parents=True)
    lines = ["Metadata-Version: 2.4", "Name: nemo_acereason", "Version: 0.1.0"]
    lines += [f"Requires-Dist: {requirement}" for requirement in requirements]
    (folder / "nemo_acereason-0.1.0.dist-info" / "METADATA").write_text("\n".join(lines) + "\n")
    return folder


def check_requirements(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(CHECK), "requirements"],
        env={**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_check_looks_for_every_requirement(tmp_path: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ended = check_requirements(site(tmp_path / "whole", *project["dependencies"], 'no-such; extra == "gpu"'))
    assert (ended.returncode, ended.stderr) == (0, "")
    told = ended.stdout.splitlines()
    assert told[0] == "== requirements"
    assert [line.split()[0] for line in told[1:]][: len(project["dependencies"])] == project["dependencies"]

    ended = check_requirements(site(tmp_path / "torn", "no-such>=2", "torch>=99", "rich"))
    assert ended.returncode == 1
    assert re.fullmatch(r"check: no-such>=2 is not installed; torch>=99 is \d\S*\n", ended.stderr)


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("ok   sandbox            kernel, programs run as the user who started it", 0),
        ("BAD  sandbox            process, programs run as the user who started it; held less well", 0),
        ("BAD  sandbox            kernel, programs run as user 7; no network: ran to its end", 1),
        ("BAD  sandbox            none, programs run as the user who started it", 1),
        ("BAD  vLLM               ImportError: cannot import name 'x'", 1),
    ],
)
def test_check_fails_on_what_is_the_images_own(line: str, status: int, tmp_path: Path) -> None:
    # a lower level of the sandbox is how the container was started
    (condition,) = re.findall(r"^if (grep -q .*?); then\n", CHECK.read_text(), re.DOTALL | re.MULTILINE)
    others = "" if " sandbox " in line else "ok   sandbox            kernel, programs run as user 7\n"
    (tmp_path / "doctor.txt").write_text(f"ok   torch              2.13.0\n{others}{line}\n")
    (tmp_path / "bwrap").touch(0o755)
    command = f"PATH=$PATH:$PWD; if {condition}; then exit 1; fi"
    assert subprocess.run(["bash", "-c", command], cwd=tmp_path, check=False).returncode == status


def test_check_runs_a_plan_that_the_recipe_takes(tmp_path: Path) -> None:
    assert subprocess.run(["bash", "-n", str(CHECK)], check=False).returncode == 0
    (command,) = re.findall(r"acereason run tiny_cpu --out \S+((?: .*\\\n)* .*\n)", CHECK.read_text())
    said = subprocess.run(
        ["bash", "-c", f"printf '%q ' {command}"],
        env={**os.environ, "work": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    plan = load_plan("tiny_cpu", shlex.split(said.stdout))
    assert list(plan.stages) == ["sft", "math_short"]
    assert plan.stages["sft"].num_steps == 2
    stage = plan.stages["math_short"]
    assert isinstance(stage, GrpoStage)
    assert (stage.num_steps, stage.prompts_per_step, plan.evaluations) == (1, 4, {})


@pytest.mark.parametrize("word", ["latest", "ADD", "sudo"])
def test_what_a_linter_would_refuse_is_not_there(word: str) -> None:
    assert not [rest for first, rest in instructions() if word in (first, *re.split(r"[\s:]", rest))]
