"""Megatron's data-parallel wrapper and AdamW for one stage of the model.

Weight decay spares everything of one dim: norms and biases, as Megatron does. In bfloat16 the optimizer keeps float32
main weights and gradients are reduced in float32.
"""

from __future__ import annotations

import math

import torch
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig, finalize_model_grads
from megatron.core.models.gpt import GPTModel
from megatron.core.optimizer import MegatronOptimizer, get_megatron_optimizer
from megatron.core.optimizer import OptimizerConfig as MegatronOptimizerConfig
from megatron.core.optimizer.clip_grads import clip_grad_by_total_norm_fp32

from nemo_acereason.config.schema import OptimizerConfig, TrainerConfig


def wrap_data_parallel(model: GPTModel, config: TrainerConfig) -> DistributedDataParallel:
    """Gradient buffers, and their sum over data ranks when a backward pass ends."""
    wrapped = DistributedDataParallel(
        config=model.config,
        ddp_config=DistributedDataParallelConfig(
            grad_reduce_in_fp32=True,
            overlap_grad_reduce=False,
            use_distributed_optimizer=config.distributed_optimizer,
        ),
        module=model,
    )
    model.config.no_sync_func = wrapped.no_sync
    # Megatron would divide by a count of tokens here; a step's loss comes normalised
    model.config.finalize_model_grads_func = lambda models, num_tokens, **kwargs: finalize_model_grads(
        models, None, **kwargs
    )
    return wrapped


def build_optimizer(
    model: DistributedDataParallel, trainer: TrainerConfig, config: OptimizerConfig
) -> MegatronOptimizer:
    """AdamW over the weights that ``model`` has now."""
    is_bfloat16 = trainer.dtype == "bfloat16"
    optimizer = get_megatron_optimizer(
        MegatronOptimizerConfig(
            optimizer="adam",
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            adam_beta1=config.beta1,
            adam_beta2=config.beta2,
            adam_eps=config.epsilon,
            bf16=is_bfloat16,
            params_dtype=torch.bfloat16 if is_bfloat16 else torch.float32,
            clip_grad=config.clip_grad_norm,
            use_distributed_optimizer=trainer.distributed_optimizer,
        ),
        [model],
        use_gloo_process_groups=False,
    )
    apply_settings(optimizer, config)
    return optimizer


def apply_settings(optimizer: MegatronOptimizer, config: OptimizerConfig) -> None:
    """Give every parameter group the settings of a stage; the moments stay.

    Megatron marks the groups without weight decay (``wd_mult`` 0) but leaves it to its own scheduler to act on the
    mark; without this call norms and biases would decay too.
    """
    for group in optimizer.param_groups:
        group["betas"] = (config.beta1, config.beta2)
        group["eps"] = config.epsilon
        group["weight_decay"] = config.weight_decay * group["wd_mult"]


def reduce_and_step(optimizer: MegatronOptimizer, *, learning_rate: float, clip_grad_norm: float) -> float:
    """One update from the gradients in the buffers.

    Returns:
        The norm of the whole model's gradient before clipping. If it is not finite, nothing was updated.
    """
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    optimizer.prepare_grads()
    grad_norm = float(optimizer.get_grad_norm())
    if not math.isfinite(grad_norm):
        return grad_norm
    if clip_grad_norm > 0:
        clip_grad_by_total_norm_fp32(optimizer_parameters(optimizer), clip_grad_norm, grad_norm)
    optimizer.step_with_ready_grads()
    return grad_norm


def optimizer_parameters(optimizer: MegatronOptimizer) -> list[torch.nn.Parameter]:
    """The (main) parameters that this rank updates."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
