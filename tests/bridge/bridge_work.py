"""What the tests of Megatron-Bridge run in one process: ``bridge_work.py DIRECTORY``.

Leaves ``DIRECTORY/found.json``.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from without_transformer_engine import import_bridge

sys.path.insert(0, str(Path(__file__).parents[1]))

FAMILIES: dict[str, dict[str, object]] = {
    "qwen2, tied": {},
    "qwen2": {"tie_word_embeddings": False},
    "qwen3": {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "head_dim": 32},
    "llama": {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "tie_word_embeddings": False},
    "mistral": {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "tie_word_embeddings": False},
}
"""The last one has no name table here: its export is Megatron-Bridge's own."""


def round_trip(bridge: Any, directory: Path, changes: dict[str, object]) -> dict[str, Any]:
    """Hugging Face -> Megatron-Bridge's checkpoint -> ``acereason export``, and the folder that Bridge wrote."""
    from doubles import write_tiny_model  # behind import_bridge, as all that imports Megatron
    from transformers import AutoConfig, AutoModelForCausalLM

    from nemo_acereason.launch.export import export_megatron

    distributed = importlib.import_module("megatron.bridge.training.model_load_save").temporary_distributed_context
    model_dir = directory / "hf"
    model_dir.mkdir(parents=True)
    write_tiny_model(model_dir, **changes)
    torch.manual_seed(1)
    config = AutoConfig.from_pretrained(model_dir)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(model_dir)
    with distributed(backend="gloo"):
        bridge.AutoBridge.import_ckpt(str(model_dir), str(directory / "megatron"), torch_dtype=torch.float32)
    export_megatron(directory / "megatron", model_dir, directory / "back")
    with distributed(backend="gloo"):  # what was exported here, opened there
        bridge.AutoBridge.import_ckpt(str(directory / "back"), str(directory / "again"), torch_dtype=torch.float32)
    export_megatron(directory / "again", model_dir, directory / "back_again")
    return {
        "is_opened_again": tensors(directory / "back_again") == tensors(model_dir),
        "is_bit_exact": tensors(directory / "back") == tensors(model_dir),
        "num_tensors": len(tensors(model_dir)),
        "written": sorted(path.name for path in (directory / "megatron" / "iter_0000000").iterdir()),
    }


def tensors(model_dir: Path) -> dict[str, list[Any]]:
    """Dtype and values by name."""
    found: dict[str, list[Any]] = {}
    for file in model_dir.glob("*.safetensors"):
        found |= {name: [str(values.dtype), values.tolist()] for name, values in load_file(file).items()}
    return found


def main() -> None:
    directory = Path(sys.argv[1])
    bridge = import_bridge()
    found = {name: round_trip(bridge, directory / name, changes) for name, changes in FAMILIES.items()}
    (directory / "found.json").write_text(json.dumps(found))
    sys.stdout.flush()
    os._exit(0)  # gloo's threads sometimes abort an interpreter that ends well


if __name__ == "__main__":
    main()
