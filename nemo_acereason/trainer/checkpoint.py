"""Model, optimizer and step count on disk, through Megatron's sharded checkpoints (``torch_dist``).

Every rank writes its own share; the format names parameters, not ranks, so that another layout can read it. Random
state, prompts and the like are the caller's, as is making the directory visible by a rename.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.core import CheckpointingException
from megatron.core.dist_checkpointing.mapping import ShardedStateDict
from megatron.core.models.gpt import GPTModel
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.parallel_state import get_data_parallel_group
from torch.distributed.checkpoint.api import CheckpointException

from nemo_acereason.errors import CheckpointError
from nemo_acereason.trainer.checkpoint_writer import write_in_process
from nemo_acereason.trainer.optimizer import load_state


def save(
    directory: Path, model: GPTModel, optimizer: MegatronOptimizer, step_count: int, identity: Mapping[str, Any]
) -> None:
    """Write into ``directory``, which is made here and must not hold a checkpoint yet. Called by all ranks.

    Args:
        identity: plain values that a loading trainer must share, by the name they have in messages.
    Raises:
        CheckpointError: it could not be written.
    """
    state = _sharded_state(model, optimizer, is_loading=False)
    state["step_count"] = step_count
    state["identity"] = dict(identity)
    write_in_process()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        dist_checkpointing.save(state, str(directory))
    except (CheckpointingException, CheckpointException, OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{directory}: cannot be written ({reason}); free space and start again") from error


def load(directory: Path, model: GPTModel, optimizer: MegatronOptimizer, identity: Mapping[str, Any]) -> int:
    """Read into ``model`` and ``optimizer``; called by all ranks.

    Returns:
        The step count it was saved with.
    Raises:
        CheckpointError: nothing there, another model's or optimizer's, or torn.
    """
    if not (directory / "metadata.json").is_file():
        raise CheckpointError(f"{directory} holds no trainer checkpoint; want a directory that a run has saved")
    try:
        saved = dist_checkpointing.load_common_state_dict(str(directory))["identity"]
        for name, value in identity.items():
            if saved.get(name) != value:
                raise CheckpointError(
                    f"{directory} was saved with {name}={saved.get(name)}, this run has {name}={value}; "
                    "resume with the settings of its own run"
                )
        state = dist_checkpointing.load(_sharded_state(model, optimizer, is_loading=True), str(directory))
    # torch's is no Exception: it would pass every handler of the run
    except (CheckpointingException, CheckpointException, OSError) as error:
        reason = str(error).strip().splitlines()[-1:]
        raise CheckpointError(f"{directory} cannot be read ({''.join(reason)}); go back to an older one") from error
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
