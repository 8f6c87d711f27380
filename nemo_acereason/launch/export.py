"""``acereason export``: a checkpoint as a Hugging Face directory, in one process whatever layout it was trained in."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path

import torch.distributed as dist
from torch._C._distributed_c10d import HashStore

from nemo_acereason.config.load import read_plan
from nemo_acereason.config.schema import TrainerConfig
from nemo_acereason.errors import CheckpointError
from nemo_acereason.launch.build import model_directory
from nemo_acereason.launch.rank import build_trainer
from nemo_acereason.launch.resume import read_state, whole_checkpoints
from nemo_acereason.resharding.hf_export import export_hf


def export_checkpoint(checkpoint: Path, to: Path) -> None:
    """Write ``checkpoint`` (or the newest of a run directory) to the new directory ``to``.

    Raises:
        CheckpointError: not a checkpoint, or ``to`` exists.
    """
    if to.exists():
        raise CheckpointError(f"--to {to} exists; want a directory that does not")
    if (checkpoint / "plan.yaml").exists():
        found = whole_checkpoints(checkpoint / "checkpoints")
        if not found:
            raise CheckpointError(f"{checkpoint} has no checkpoint yet; wait for the first")
        checkpoint = found[-1]
    read_state(checkpoint)
    run_dir = checkpoint.resolve().parent.parent
    plan = read_plan(run_dir / "plan.yaml")
    one = TrainerConfig(dtype=plan.trainer.dtype, distributed_optimizer=plan.trainer.distributed_optimizer)
    plan = dataclasses.replace(plan, trainer=one)
    model_dir = model_directory(plan, run_dir)
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Megatron's and torch's deprecations tell who exports nothing
            trainer = build_trainer(plan, model_dir)
            trainer.load(checkpoint / "model")
        export_hf(trainer, model_dir, to)
    finally:
        dist.destroy_process_group()
