"""Megatron-core's GPTModel for a :class:`ModelArch`, without its weights: a slice of the stack, or several, per rank.

Transformer Engine layers on CUDA where it imports, Megatron's local layers with :class:`PackedAttention` elsewhere.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.extensions.transformer_engine import HAVE_TE
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import (
    get_gpt_layer_local_spec,
    get_gpt_layer_with_transformer_engine_spec,
)
from megatron.core.tensor_parallel import layers
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_config import TransformerConfig

from nemo_acereason.config.model_arch import ModelArch
from nemo_acereason.config.schema import TrainerConfig
from nemo_acereason.errors import ConfigError
from nemo_acereason.resharding.layout import padded_vocab_size
from nemo_acereason.trainer.packed_attention import PackedAttention
from nemo_acereason.trainer.rope import rope_frequencies

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


def uses_transformer_engine() -> bool:
    """Layers come from Transformer Engine: it imports and there is a CUDA device."""
    return bool(HAVE_TE) and torch.cuda.is_available()


def build_model(arch: ModelArch, config: TrainerConfig) -> list[GPTModel]:
    """This rank's slices of the model, one but for ``virtual_pipeline``; their parameters allocated and not yet set.

    Megatron's process groups exist already.

    Raises:
        ConfigError: a rope scaling that is not supported, or a setting without its package.
    """
    if config.gradient_accumulation_fusion and not layers._grad_accum_fusion_available:
        raise ConfigError(
            "trainer.gradient_accumulation_fusion=true needs Apex's fused_weight_gradient_mlp_cuda, which does not "
            "import here; install Apex with it (NGC has it), or set it to false"
        )
    inv_freq, _ = rope_frequencies(arch)
    shared = transformer_config(arch, config)
    return [_build_slice(arch, config, shared, inv_freq, number) for number in range(config.virtual_pipeline)]


def _build_slice(
    arch: ModelArch, config: TrainerConfig, shared: TransformerConfig, inv_freq: torch.Tensor, number: int
) -> GPTModel:
    model = GPTModel(
        config=shared,
        transformer_layer_spec=_layer_spec(arch),
        vocab_size=padded_vocab_size(arch.vocab_size),
        max_sequence_length=arch.max_positions,
        pre_process=parallel_state.is_pipeline_first_stage(ignore_virtual=False, vp_stage=number),
        post_process=parallel_state.is_pipeline_last_stage(ignore_virtual=False, vp_stage=number),
        vp_stage=number if config.virtual_pipeline > 1 else None,
        share_embeddings_and_output_weights=arch.tied_embeddings,
        position_embedding_type="rope",
        rotary_base=arch.rope_theta,
    )
    model.rotary_pos_emb.inv_freq = inv_freq
    for name, parameter in model.named_parameters():
        if not name.endswith(("layernorm.weight", "layer_norm_weight")):
            # Megatron sets this mark only where it also initialises, and counts unmarked ones once in a gradient norm
            parameter.tensor_model_parallel = True
    if model.post_process:
        # the module is still called, so that its hooks (the gather of its weight) run
        model.output_layer.forward = lambda hidden, **_: (hidden, None)
    # torch's norms are made in float32 whatever params_dtype says
    return model.to(device=torch.cuda.current_device(), dtype=DTYPES[config.dtype])


def output_weight(model: GPTModel) -> torch.nn.Parameter:
    """[V, D] this rank's rows of the output layer, which may be the embedding; on the last pipeline stage."""
    is_tied = model.share_embeddings_and_output_weights
    weight: torch.nn.Parameter = model.shared_embedding_or_output_weight() if is_tied else model.output_layer.weight
    return weight


def logits_of(model: GPTModel, hidden: torch.Tensor) -> torch.Tensor:
    """What Megatron's output layer makes of hidden states: this rank's columns of the logits."""
    layer = model.output_layer
    logits: torch.Tensor = type(layer).forward(layer, hidden, weight=output_weight(model))[0]
    return logits


def tokens_multiple(config: TrainerConfig) -> int:
    """What the tokens of a microbatch on each rank are padded to a multiple of.

    FP8 products want 16 rows, 128 where each block has a scale; sequence parallel cuts them over its processes.
    """
    rows = {"": 1, "blockwise": 128}.get(config.fp8, 16)
    return rows * (config.tensor_parallel if config.sequence_parallel else 1)


def _layer_spec(arch: ModelArch) -> ModuleSpec:
    if uses_transformer_engine():
        return get_gpt_layer_with_transformer_engine_spec(qk_layernorm=arch.qk_norm)
    return packed_local_spec(qk_norm=arch.qk_norm)


def packed_local_spec(*, qk_norm: bool) -> ModuleSpec:
    """Layers without Transformer Engine that keep packed segments apart."""
    spec = get_gpt_layer_local_spec(qk_layernorm=qk_norm, normalization="RMSNorm")
    spec.submodules.self_attention.submodules.core_attention = PackedAttention
    return spec


def model_settings(arch: ModelArch, dtype: str) -> dict[str, Any]:
    """Megatron's words for a model's shape and precision, whoever trains it."""
    torch_dtype = DTYPES[dtype]
    is_cuda = torch.cuda.is_available()
    return {
        "num_layers": arch.num_layers,
        "hidden_size": arch.hidden_size,
        "ffn_hidden_size": arch.ffn_size,
        "num_attention_heads": arch.num_heads,
        "num_query_groups": arch.num_query_groups,
        "kv_channels": arch.head_dim,
        "layernorm_epsilon": arch.norm_epsilon,
        "qk_layernorm": arch.qk_norm,
        "add_qkv_bias": arch.qkv_bias,
        "params_dtype": torch_dtype,
        "pipeline_dtype": torch_dtype,
        "bf16": torch_dtype is torch.bfloat16,
        "use_cpu_initialization": not is_cuda,
        "bias_activation_fusion": is_cuda,
        "bias_dropout_fusion": is_cuda,
        "masked_softmax_fusion": False,
    }


def recompute_and_fp8(config: TrainerConfig) -> dict[str, Any]:
    """Megatron's words for what a pass computes again, and for its FP8 products."""
    return {**_recompute(config), **_fp8(config)}


def _recompute(config: TrainerConfig) -> dict[str, Any]:
    if config.recompute == "none":
        return {}
    if config.recompute == "selective":
        return {"recompute_granularity": "selective", "recompute_modules": list(config.recompute_modules)}
    return {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}


def _fp8(config: TrainerConfig) -> dict[str, Any]:
    if not config.fp8:
        return {}
    return {
        # scales of small blocks leave no need for the wider range of E5M2 in gradients, DeepSeek-V3 arXiv:2412.19437
        "fp8": "e4m3" if config.fp8 == "blockwise" else "hybrid",
        "fp8_recipe": config.fp8,
        # the history that Transformer Engine's own recipe has; Megatron's default looks at one step
        "fp8_amax_history_len": 1024,
        "fp8_amax_compute_algo": "max",
        "first_last_layers_bf16": config.fp8_bf16_layers > 0,
        "num_layers_at_start_in_bf16": config.fp8_bf16_layers,
        "num_layers_at_end_in_bf16": config.fp8_bf16_layers,
    }


def transformer_config(arch: ModelArch, config: TrainerConfig) -> TransformerConfig:
    """Megatron's settings for this model and trainer."""
    _, attention_factor = rope_frequencies(arch)
    settings = TransformerConfig(
        **model_settings(arch, config.dtype),
        normalization="RMSNorm",
        gated_linear_unit=True,
        activation_func=torch.nn.functional.silu,
        add_bias_linear=False,
        attention_dropout=0.0,
        hidden_dropout=0.0,
        tensor_model_parallel_size=config.tensor_parallel,
        sequence_parallel=config.sequence_parallel,
        context_parallel_size=config.context_parallel,
        pipeline_model_parallel_size=config.pipeline_parallel,
        virtual_pipeline_model_parallel_size=config.virtual_pipeline if config.virtual_pipeline > 1 else None,
        # the microbatches of a step are as long as their tokens, padding is not computed
        variable_seq_lengths=config.pipeline_parallel > 1,
        # a setting of mixtures of experts, checked for dense models too: the default refuses varying lengths
        moe_token_dispatcher_type="alltoall",
        # rows already carry their share of the step's loss: no averaging anywhere
        calculate_per_token_loss=True,
        perform_initialization=False,
        gradient_accumulation_fusion=config.gradient_accumulation_fusion,
        persist_layer_norm=False,
        # the fused kernel does not apply YaRN's factor
        apply_rope_fusion=uses_transformer_engine() and attention_factor == 1.0,
        **recompute_and_fp8(config),
    )
    if attention_factor != 1.0:
        # not fields: Megatron's attention scales cosine and sine by (0.1 mscale ln(e) + 1) / (0.1 * 0 + 1)
        settings.yarn_rotary_scaling_factor = math.e
        settings.yarn_mscale = 10.0 * (attention_factor - 1.0)
        settings.yarn_mscale_all_dim = 0.0
    return settings
