"""One process of NeMo's trainer with real vLLM, started by torchrun: ``engines_work.py DIRECTORY KIND``.

``make`` alone writes the model and the checkpoint to begin with; each other kind is a run, which leaves
``DIRECTORY/KIND.json``.
"""

from __future__ import annotations

import json
import os
import re
import sys
import textwrap
from pathlib import Path
from typing import Any

import nemo_acereason.nemo  # noqa: F401 - first: lets Megatron run without CUDA

# isort: split
from nemo.collections import llm
from nemo_work import SMALL, execute, write_weights

from nemo_acereason.config.load import load_plan
from nemo_acereason.launch.build import model_directory
from nemo_acereason.nemo.model import AceReasonModel
from nemo_acereason.nemo.recipes.acereason_1_1_7b import rl_recipe
from nemo_acereason.nemo.weight_sync import WeightSync

ENGINES = str(Path(__file__).parents[2] / ".venv" / "bin" / "python")
CHANGES = ["reward_pool.num_workers=1", "stages.math_short.num_steps=2", "rollout.num_engines=2"]
KINDS = {
    "on_both_nodes": [f"rollout.python={ENGINES}", "trainer.tensor_parallel=1"],
    "served": ["rollout.nodes=1", "trainer.tensor_parallel=2"],
}


def make(directory: Path) -> None:
    """A small model for both."""
    model_directory(load_plan(SMALL), directory).rename(directory / "hf")
    write_weights(directory / "hf")
    model = AceReasonModel.from_hf(directory / "hf", dtype="float32")
    llm.import_ckpt(model, f"hf://{directory / 'hf'}", output_path=directory / "start")
    page(directory / "hf")


def page(model_dir: Path) -> None:
    """What docs/nemo.md shows of engines of another environment."""
    text = (Path(__file__).parents[2] / "docs" / "nemo.md").read_text()
    (code,) = re.findall(r"^  ```python\n(  .*?)^  ```", text, re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {"rl_recipe": rl_recipe}
    exec(textwrap.dedent(code).replace("HF_DIR", str(model_dir)), names)
    recipe = names["rl"]
    assert "rollout.python=/path/to/.venv/bin/python" in recipe.data.changes
    assert "stages.math_8k.rollout.num_engines=32" in recipe.data.changes, "of the plan's 128 what 4 nodes hold"
    shares = "rollout.gpu_memory_utilization=0.5"
    assert shares not in recipe.data.changes, "four nodes have room for what the plan says"
    assert shares in rl_recipe(str(model_dir), "start").data.changes
    served = rl_recipe(str(model_dir), "start", changes=["rollout.nodes=2"]).data.changes
    assert shares not in served
    assert "stages.math_8k.rollout.num_engines=16" in served


def train(directory: Path, kind: str) -> None:
    """Two steps of an RL stage, on two nodes of one process each."""
    recipe = rl_recipe(
        str(directory / "hf"),
        str(directory / "start"),
        "math_short",
        dir=str(directory / "logs"),
        name=kind,
        num_nodes=2,
        num_gpus_per_node=1,
        recipe=str(Path(__file__).with_name("small.py")),
        changes=[*CHANGES, *KINDS[kind]],
    )
    stage, steps = execute(recipe)
    (sync,) = (one for one in stage.keywords["trainer"].callbacks if isinstance(one, WeightSync))
    if os.environ["RANK"] == "0":
        hosts = [place.host for place in stage.keywords["data"].hosts.places]
        found = {"steps": steps, "version": sync.last_receipt.version, "hosts": hosts}
        (directory / f"{kind}.json").write_text(json.dumps(found))


def main() -> None:
    directory, kind = Path(sys.argv[1]), sys.argv[2]
    if kind == "make":
        make(directory)
    else:
        train(directory, kind)
    sys.stdout.flush()
    os._exit(0)  # gloo's threads sometimes abort an interpreter that ends well


if __name__ == "__main__":
    main()
