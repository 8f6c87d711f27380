"""Model, optimizer and step count on disk, through Megatron's sharded checkpoints (``torch_dist``).

Every rank writes its own share; the format names parameters, not ranks, so that another layout can read it. Random
state, prompts and the like are the caller's, as is making the directory visible by a rename.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.mapping import ShardedStateDict
from megatron.core.models.gpt import GPTModel
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.parallel_state import get_data_parallel_group

from nemo_acereason.errors import CheckpointError
from nemo_acereason.trainer.checkpoint_writer import write_in_process
from nemo_acereason.trainer.optimizer import load_state


def save(directory: Path, model: GPTModel, optimizer: MegatronOptimizer, step_count: int) -> None:
    """Write into ``directory``, which is made here and must not hold a checkpoint yet. Called by all ranks."""
    directory.mkdir(parents=True, exist_ok=True)
    state = _sharded_state(model, optimizer, is_loading=False)
    state["step_count"] = step_count
    write_in_process()
    dist_checkpointing.save(state, str(directory))


def load(directory: Path, model: GPTModel, optimizer: MegatronOptimizer) -> int:
    """Read into ``model`` and ``optimizer``; called by all ranks.

    Returns:
        The step count it was saved with.
    Raises:
        CheckpointError: nothing there, or another model's.
    """
    if not (directory / "metadata.json").is_file():
        raise CheckpointError(f"{directory} holds no trainer checkpoint; want a directory that a run has saved")
    try:
        state = dist_checkpointing.load(_sharded_state(model, optimizer, is_loading=True), str(directory))
    except dist_checkpointing.core.CheckpointingException as error:
        raise CheckpointError(
            f"{directory} does not fit this model and optimizer ({error}); want a checkpoint of the same model"
        ) from error
    model.load_state_dict(state["model"])
    load_state(optimizer, state["optimizer"])
    return int(state["step_count"])


def _sharded_state(model: GPTModel, optimizer: MegatronOptimizer, *, is_loading: bool) -> ShardedStateDict:
    metadata: dict[str, Any] = {
        # named by parameter and gathered over data ranks, so that it fits every layout
        "distrib_optim_sharding_type": "fully_reshardable",
        "chained_optim_avoid_prefix": True,
        "dp_cp_group": get_data_parallel_group(with_context_parallel=True),
    }
    model_state = model.sharded_state_dict(metadata=metadata)
    optimizer_state = optimizer.sharded_state_dict(model_state, is_loading=is_loading, metadata=metadata)
    return {"model": model_state, "optimizer": optimizer_state}
