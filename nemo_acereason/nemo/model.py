"""A NeMo model whose training step is ours: packed segments in, hidden states out, our loss on our batch.

The functions are those of our own loop (:func:`nemo_acereason.trainer.forward.microbatch_loss`, the losses of
:mod:`nemo_acereason.algorithm`); NeMo brings the trainer, its checkpoints, loggers and callbacks. Draws nothing and
knows no data: see :mod:`nemo_acereason.nemo.data`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.distributed import finalize_model_grads
from megatron.core.models.gpt import GPTModel as MegatronModel
from megatron.core.transformer.spec_utils import ModuleSpec
from nemo.collections import llm
from nemo.collections.llm.gpt.model.base import GPTConfig, transformer_engine_layer_spec
from nemo.lightning.megatron_parallel import MegatronLossReduction
from nemo.lightning.pytorch.optim import OptimizerModule

from nemo_acereason.config.model_arch import ModelArch, model_arch
from nemo_acereason.data.model_files import changed_config
from nemo_acereason.errors import ConfigError
from nemo_acereason.nemo.after_step import AfterStep
from nemo_acereason.protocols import TokenLoss
from nemo_acereason.resharding.layout import padded_vocab_size
from nemo_acereason.trainer.forward import microbatch_loss, packed_segments
from nemo_acereason.trainer.microbatch import Microbatch
from nemo_acereason.trainer.model import (
    DTYPES,
    model_settings,
    output_weight,
    packed_local_spec,
    uses_transformer_engine,
)

CONFIGS = {"qwen2": llm.Qwen2Config, "qwen3": llm.Qwen3Config, "llama": llm.LlamaConfig}


class Work:
    """One microbatch on its way through NeMo's step: no container that a precision plugin would look into.

    Args:
        loss: of its tokens.
        temperature: divides the logits, as it did where the responses were drawn.
    """

    def __init__(self, microbatch: Microbatch, loss: TokenLoss, temperature: float) -> None:
        self.microbatch = microbatch
        self.loss = loss
        self.temperature = temperature


class AceReasonModel(llm.GPTModel):  # type: ignore[misc] # NeMo has no types
    """A Llama, Qwen2 or Qwen3 decoder for NeMo's trainer.

    Args:
        hf_config: the content of the model's ``config.json``; stored with checkpoints, so that they stand alone.
        dtype: of weights and activations, ``bfloat16`` or ``float32``.
        optim: see :func:`nemo_acereason.nemo.optim.stage_optimizer`.
        tokenizer: NeMo's, kept with checkpoints; the data has its own.
        chunk_tokens: tokens whose logits exist at once.
        kernel: as in :func:`nemo_acereason.parallel.vocab_parallel.logp_and_entropy`.
        megatron: settings of Megatron's own config that differ, e.g. ``recompute_granularity``.
    Raises:
        ConfigError: a family or rope scaling that is not supported.
    """

    _training_loss_reduction: StepLoss | None

    def __init__(
        self,
        hf_config: dict[str, Any],
        dtype: str = "bfloat16",
        optim: OptimizerModule | None = None,
        tokenizer: Any = None,
        chunk_tokens: int = 1024,
        kernel: str = "torch",
        megatron: dict[str, Any] | None = None,
    ) -> None:
        self.arch = model_arch(hf_config)
        config = nemo_config(
            self.arch,
            dtype,
            transformer_layer_spec=packed_layer_spec,
            # rows carry their share of the step's loss: no averaging anywhere
            calculate_per_token_loss=True,
            # microbatches are as long as their tokens
            variable_seq_lengths=True,
            moe_token_dispatcher_type="alltoall",
            **(megatron or {}),
        )
        super().__init__(config, optim=optim, tokenizer=tokenizer)
        self.hf_config = hf_config
        self.dtype_name = dtype
        self.chunk_tokens = chunk_tokens
        self.kernel = kernel

    @classmethod
    def from_hf(
        cls, model_dir: str | Path, config_changes: Mapping[str, Any] | None = None, **settings: Any
    ) -> AceReasonModel:
        """For the model of a Hugging Face directory; reads no weights, see :mod:`nemo_acereason.nemo.checkpoints`.

        Args:
            config_changes: keys of its ``config.json`` that differ, as a plan's ``model.config_changes``.
        Raises:
            ConfigError: no ``config.json`` there, or a change of a key that it does not have.
        """
        return cls(changed_config(Path(model_dir), config_changes or {}), **settings)

    def configure_model(self, vp_stage: int | None = None) -> None:
        """Build this rank's slice; its last stage ends at the hidden states."""
        super().configure_model(vp_stage)
        model = megatron_model(self)
        if not uses_transformer_engine():
            # torch's norms are made in float32 whatever params_dtype says, and two dtypes cannot be saved reshardable
            model.to(DTYPES[self.dtype_name])
        if model.post_process:
            model.output_layer.forward = lambda hidden, **_: (hidden, None)

    def reinit(self) -> AceReasonModel:
        """Another slice of the stack for this rank: NeMo's word for it, under interleaved pipelines."""
        other = type(self)(self.hf_config, self.dtype_name, chunk_tokens=self.chunk_tokens, kernel=self.kernel)
        other.config = self.config  # as NeMo's strategy and precision plugin have changed it
        return other

    def configure_callbacks(self) -> list[AfterStep]:
        """Lightning's way for a model to bring callbacks of its own."""
        return [AfterStep()]

    def on_fit_start(self) -> None:
        """Take the reduced gradients as they are: Megatron would divide by a count of tokens."""
        self.config.finalize_model_grads_func = lambda models, _=None, **options: finalize_model_grads(
            models, None, **options
        )

    def data_step(self, dataloader_iter: Any) -> Work:
        """The step's next microbatch, which is on the device already."""
        work: Work = next(dataloader_iter)
        return work

    def forward_step(self, batch: Work) -> torch.Tensor:
        """[1, T, D] hidden states on the last stage, what is sent on elsewhere."""
        row = batch.microbatch.row
        output: torch.Tensor = self(
            row.token_T[None], row.position_T[None], None, packed_seq_params=packed_segments(batch.microbatch)
        )
        return output

    @property
    def training_loss_reduction(self) -> StepLoss:
        """One for all microbatches."""
        if self._training_loss_reduction is None:
            self._training_loss_reduction = StepLoss(self.arch.vocab_size, self.chunk_tokens, self.kernel)
        return self._training_loss_reduction


class StepLoss(MegatronLossReduction):  # type: ignore[misc]
    """The loss of a microbatch, and of a step: a plain sum, for every token carries its weight."""

    def __init__(self, vocab_size: int, chunk_tokens: int, kernel: str) -> None:
        super().__init__()
        self._kernel = kernel
        self._vocab_size = vocab_size
        self._chunk_tokens = chunk_tokens
        self._model: list[MegatronModel] = []

    def setup(self, batch: Work, forward_module: Any) -> None:
        """NeMo's word of what the next call is about."""
        self.batch = batch
        self._model = [megatron_model(forward_module)]  # in a list: no submodule of this one

    def forward(
        self, batch: Work, hidden_1TD: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
        """What Megatron's schedule wants of a loss."""
        model = self._model[0]
        total, metrics = microbatch_loss(
            model,
            batch.microbatch,
            hidden_1TD.to(output_weight(model).dtype),  # NeMo's precision plugin has them in float32
            batch.loss,
            temperature=batch.temperature,
            vocab_size=self._vocab_size,
            chunk_tokens=self._chunk_tokens,
            tp_pg=parallel_state.get_tensor_model_parallel_group(),
            kernel=self._kernel,
        )
        return total, torch.ones((), dtype=torch.int, device=total.device), metrics

    def reduce(self, losses_reduced_per_micro_batch: list[dict[str, torch.Tensor]]) -> torch.Tensor:
        """The step's loss."""
        loss = torch.stack([metrics["loss"].float() for metrics in losses_reduced_per_micro_batch]).sum()
        dist.all_reduce(loss, group=parallel_state.get_data_parallel_group(with_context_parallel=True))
        return loss


def nemo_config(arch: ModelArch, dtype: str, **settings: Any) -> GPTConfig:
    """NeMo's own config class for a model, as its importers fill it.

    Raises:
        ConfigError: a rope scaling that NeMo's class does not have.
    """
    config_class = CONFIGS[arch.family]
    settings = {"gradient_accumulation_fusion": False, **settings}
    if arch.rope_scaling:
        scaling = arch.rope_scaling
        kind = scaling.get("rope_type", scaling.get("type"))
        if arch.family != "llama" or kind != "llama3":
            raise ConfigError(
                f"rope_scaling of type {kind!r} in a {arch.family} model: NeMo 2 has llama3 for Llama alone; "
                "use our own trainer for this model"
            )
        config_class = llm.Llama31Config
        settings |= _llama3(scaling)
    is_cuda = torch.cuda.is_available()
    config: GPTConfig = config_class(
        **model_settings(arch, dtype),
        rotary_base=arch.rope_theta,
        share_embeddings_and_output_weights=arch.tied_embeddings,
        vocab_size=padded_vocab_size(arch.vocab_size),
        seq_length=arch.max_positions,
        apply_rope_fusion=uses_transformer_engine(),
        persist_layer_norm=is_cuda,
        cross_entropy_loss_fusion=is_cuda,
        **settings,
    )
    return config


def packed_layer_spec(config: GPTConfig) -> ModuleSpec:
    """Layers that keep packed segments apart: Transformer Engine's on CUDA, ours elsewhere."""
    if uses_transformer_engine():
        return transformer_engine_layer_spec(config)
    return packed_local_spec(qk_norm=config.qk_layernorm)


def megatron_model(module: Any) -> MegatronModel:
    """The Megatron model inside NeMo's, Lightning's and Megatron's wrappers."""
    while not isinstance(module, MegatronModel):
        module = module.module
    return module


def _llama3(scaling: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "scale_factor": float(scaling["factor"]),
        "low_freq_factor": float(scaling["low_freq_factor"]),
        "high_freq_factor": float(scaling["high_freq_factor"]),
        "old_context_len": int(scaling["original_max_position_embeddings"]),
    }
