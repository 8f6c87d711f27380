"""One stage of a plan as a recipe of NeMo's; every number comes from the plan, every object can be overridden."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import lightning.pytorch as pl
import nemo_run as run
import torch
from megatron.core.distributed import DistributedDataParallelConfig
from nemo import lightning as nl
from nemo.collections import llm

from nemo_acereason.config.load import for_stage, load_plan
from nemo_acereason.config.schema import Plan, SftStage
from nemo_acereason.errors import ConfigError
from nemo_acereason.nemo.data import AceReasonSFTData, RolloutDataModule
from nemo_acereason.nemo.model import AceReasonModel
from nemo_acereason.nemo.optim import stage_optimizer
from nemo_acereason.nemo.settings import check_stage, engines_that_fit, megatron_settings
from nemo_acereason.nemo.weight_sync import WeightSync
from nemo_acereason.trainer.model import DTYPES


def stage_recipe(
    recipe: str,
    stage: str,
    model_dir: str,
    start: str,
    *,
    dir: str,  # noqa: A002 - as NeMo's recipes name it
    name: str,
    num_nodes: int,
    num_gpus_per_node: int,
    changes: list[str] | None = None,
    beside_engines: Sequence[str] = (),
) -> run.Partial[Callable[..., Path]]:
    """``llm.finetune`` of a stage, layout and length as the plan has them, its engines as many as fit.

    Args:
        recipe: as :func:`nemo_acereason.config.load.load_plan` takes it, ``changes`` as ``key=value``.
        model_dir: Hugging Face directory of the model.
        start: NeMo checkpoint that the stage begins with: ``llm.import_ckpt`` of the model, or the stage before's last.
        beside_engines: further changes, behind which ``changes`` stand, where engines share the trainer's GPUs.
        dir: where NeMo keeps logs and checkpoints; a run that is there is gone on with.
    Raises:
        ConfigError: no such stage, or it wants what this host cannot.
    """
    changes = [*(changes or []), f"model.path={model_dir}"]
    plan = load_plan(recipe, changes, needs_inputs=False)
    if stage not in plan.stages:
        raise ConfigError(f"stage={stage!r} is not in {recipe}; it has {', '.join(plan.stages)}")
    plan = for_stage(plan, stage)
    check_stage(plan, stage, num_nodes, num_gpus_per_node)
    is_sft = isinstance(plan.stages[stage], SftStage)
    if not is_sft:
        num_engines = engines_that_fit(plan, num_nodes, num_gpus_per_node)
        changes.append(f"stages.{stage}.rollout.num_engines={num_engines}")
        if not plan.rollout.nodes:
            changes = [*beside_engines, *changes]
    data: type[pl.LightningDataModule] = AceReasonSFTData if is_sft else RolloutDataModule
    return run.Partial(
        llm.finetune,
        model=run.Config(
            AceReasonModel.from_hf,
            model_dir=model_dir,
            config_changes=dict(plan.model.config_changes),
            dtype=plan.trainer.dtype,
            chunk_tokens=plan.trainer.logprob_chunk_tokens,
            kernel=plan.trainer.logprob_kernel,
            megatron=megatron_settings(plan.trainer),
        ),
        data=run.Config(data, recipe=recipe, stage=stage, changes=changes, run_dir=str(Path(dir) / name / "acereason")),
        trainer=run.Config(
            nl.Trainer,
            num_nodes=num_nodes,
            devices=num_gpus_per_node,
            accelerator="gpu" if torch.cuda.is_available() else "cpu",
            max_steps=plan.stages[stage].num_steps,
            strategy=_strategy(plan),
            limit_val_batches=0,
            num_sanity_val_steps=0,
            log_every_n_steps=1,
            callbacks=[] if is_sft else [run.Config(WeightSync)],
        ),
        log=run.Config(
            nl.NeMoLogger,
            name=name,
            log_dir=dir,
            use_datetime_version=False,
            ckpt=_checkpoints(plan, stage),
        ),
        optim=run.Config(stage_optimizer, recipe=recipe, stage=stage, changes=changes),
        resume=run.Config(
            nl.AutoResume,
            restore_config=run.Config(nl.RestoreConfig, path=start),
            resume_if_exists=True,
            resume_ignore_no_checkpoint=True,
        ),
        tokenizer=None,
    )


def _strategy(plan: Plan) -> run.Config[nl.MegatronStrategy]:
    trainer = plan.trainer
    return run.Config(
        nl.MegatronStrategy,
        tensor_model_parallel_size=trainer.tensor_parallel,
        pipeline_model_parallel_size=trainer.pipeline_parallel,
        virtual_pipeline_model_parallel_size=trainer.virtual_pipeline if trainer.virtual_pipeline > 1 else None,
        context_parallel_size=trainer.context_parallel,
        sequence_parallel=trainer.sequence_parallel,
        pipeline_dtype=DTYPES[trainer.dtype],
        use_tp_pp_dp_mapping=True,  # a copy of the model lies within a node, as its engines want it
        ckpt_optim_fully_reshardable=True,  # another layout can go on
        ckpt_async_save=plan.checkpoint.asynchronous and torch.cuda.is_available(),
        ddp=run.Config(
            DistributedDataParallelConfig,
            grad_reduce_in_fp32=True,
            overlap_grad_reduce=trainer.overlap_grad_reduce,
            use_distributed_optimizer=trainer.distributed_optimizer,
        ),
    )


def _checkpoints(plan: Plan, stage: str) -> run.Config[nl.ModelCheckpoint]:
    return run.Config(
        nl.ModelCheckpoint,
        every_n_train_steps=plan.checkpoint.every_steps or plan.stages[stage].num_steps,
        save_last=True,
        # the newest ones; NeMo goes by the names when it starts again, so they hold what is compared
        save_top_k=plan.checkpoint.keep_last,
        monitor="stage_step",
        mode="max",
        filename="{stage_step:.0f}",
        save_optim_on_train_end=True,  # a stage that is made longer goes on
    )
