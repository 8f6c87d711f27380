"""Writes a policy in training as a Hugging Face directory: sharded safetensors beside the source's own small files.

Tensors are gathered to the leader one by one and written file by file, so no process holds more than one file's worth.
Knows neither Megatron nor how the model is cut; it asks the trainer for its shards by Hugging Face name.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from nemo_acereason.errors import ConfigError, WeightSyncError
from nemo_acereason.parallel.collectives import on_leader
from nemo_acereason.protocols import PolicyTrainer
from nemo_acereason.resharding.plan import Index

Tensors = Mapping[str, tuple[tuple[int, ...], torch.dtype]]
Shards = Mapping[str, list[tuple[Index, torch.Tensor]]]

INDEX_FILE = "model.safetensors.index.json"
ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".index.json")
LEADER = 0


def export_hf(trainer: PolicyTrainer, source_dir: Path, to: Path, *, max_file_bytes: int = 5 * 2**30) -> None:
    """Write the model to ``to``, which appears whole or not at all. Called by all ranks together.

    Args:
        source_dir: where the model came from; its config (dtype updated), tokenizer, chat template and generation
            config go with the weights.
        max_file_bytes: weights per file; a larger tensor gets a file of its own.
    Raises:
        ConfigError: ``to`` exists already.
        WeightSyncError: the shards of the ranks do not make up a tensor exactly.
    """
    partial = on_leader(lambda: _new_sibling(to))
    tensors = trainer.hf_tensors()
    shards: dict[str, list[tuple[Index, torch.Tensor]]] = {}
    for name, index, values in trainer.hf_shards():
        shards.setdefault(name, []).append((index, values))
    held: list[dict[str, list[Index]]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(held, {name: [index for index, _ in pieces] for name, pieces in shards.items()})
    on_leader(lambda: check_coverage(tensors, held))

    files = plan_files(tensors, max_file_bytes)
    for number, names in enumerate(files, start=1):
        gathered = {name: _gather(name, *tensors[name], shards, held) for name in names}
        if dist.get_rank() == LEADER:
            save_file(gathered, partial / _file_name(number, len(files)), metadata={"format": "pt"})

    def finish() -> None:
        if len(files) > 1:
            _write_index(partial, tensors, files)
        _copy_beside(source_dir, partial, next(iter(tensors.values()))[1])
        os.replace(partial, to)

    on_leader(finish)


def plan_files(tensors: Tensors, max_file_bytes: int) -> list[list[str]]:
    """Names per file, in checkpoint order."""
    files: list[list[str]] = []
    room = 0
    for name, tensor in tensors.items():
        size = _num_bytes(*tensor)
        if not files or size > room:
            files.append([])
            room = max_file_bytes
        files[-1].append(name)
        room -= size
    return files


def check_coverage(tensors: Tensors, held: list[dict[str, list[Index]]]) -> None:
    """Each element of each tensor is held by exactly one rank.

    Raises:
        WeightSyncError: names the first tensor of which that is not so.
    """
    for name, (shape, _) in tensors.items():
        times_held = torch.zeros(shape, dtype=torch.uint8)
        for of_rank in held:
            for index in of_rank.get(name, []):
                times_held[index] += 1
        if not bool((times_held == 1).all()):
            raise WeightSyncError(
                f"{name}: {int((times_held == 0).sum())} elements are held by no rank and "
                f"{int((times_held > 1).sum())} by several; want each by one"
            )


def _gather(
    name: str, shape: tuple[int, ...], dtype: torch.dtype, shards: Shards, held: list[dict[str, list[Index]]]
) -> torch.Tensor:
    """The whole tensor on the leader, an empty one elsewhere. Goes over the CPU's backend, also from a GPU."""
    mine = shards.get(name, [])
    if dist.get_rank() != LEADER:
        for _, values in mine:
            dist.send(values.cpu().contiguous(), dst=LEADER)
        return torch.empty(0)
    whole = torch.empty(shape, dtype=dtype)
    for rank, of_rank in enumerate(held):
        for position, index in enumerate(of_rank.get(name, [])):
            place = whole[index]
            if rank == LEADER:
                place.copy_(mine[position][1])
            else:
                values = torch.empty(place.shape, dtype=dtype)
                dist.recv(values, src=rank)
                place.copy_(values)
    return whole


def _new_sibling(to: Path) -> Path:
    if to.exists():
        raise ConfigError(f"{to} exists already; name a directory that does not, or remove it first")
    to.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{to.name}.", dir=to.parent))
    partial.chmod(0o755)  # mkdtemp keeps it private; what is exported is to be read
    return partial


def _write_index(directory: Path, tensors: Tensors, files: list[list[str]]) -> None:
    file_of = {name: _file_name(number, len(files)) for number, names in enumerate(files, start=1) for name in names}
    total = sum(_num_bytes(*tensor) for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": file_of}
    (directory / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n")


def _copy_beside(source_dir: Path, directory: Path, dtype: torch.dtype) -> None:
    """Everything small that makes the directory a model: all of the source's files but weights and hidden ones."""
    for file in sorted(source_dir.iterdir()):
        if file.is_file() and not file.name.startswith(".") and not file.name.endswith(WEIGHT_SUFFIXES):
            shutil.copyfile(file, directory / file.name)
    config = json.loads((source_dir / "config.json").read_text())
    for key in ("dtype", "torch_dtype"):  # transformers 5 writes the first, 4 reads the second
        config[key] = str(dtype).removeprefix("torch.")
    config.setdefault("architectures", [ARCHITECTURES[config["model_type"]]])
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def _file_name(number: int, count: int) -> str:
    return "model.safetensors" if count == 1 else f"model-{number:05d}-of-{count:05d}.safetensors"


def _num_bytes(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    return math.prod(shape) * dtype.itemsize
