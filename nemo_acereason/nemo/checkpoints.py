"""NeMo 2 checkpoints (``weights/`` and ``context/``) from Hugging Face directories, bit for bit.

By our own plan of names (:func:`nemo_acereason.resharding.plan.training_pieces`), for NeMo's importers need Transformer
Engine and untie tied embeddings. What is written is one of NeMo's own models and opens with NeMo alone. One process,
the model in host memory, as in NeMo's own conversion. The way back needs no NeMo:
:mod:`nemo_acereason.resharding.megatron_checkpoint`.

Also registered with NeMo for :class:`nemo_acereason.nemo.model.AceReasonModel`, so ``llm.import_ckpt`` works on it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch.distributed as dist
from lightning.pytorch.trainer.states import TrainerFn
from megatron.core import parallel_state
from nemo import lightning as nl
from nemo.collections import llm
from nemo.collections.common.tokenizers.huggingface.auto_tokenizer import AutoTokenizer
from nemo.lightning import io

from nemo_acereason.config.model_arch import ModelArch, read_model_arch
from nemo_acereason.data.model_files import changed_config
from nemo_acereason.errors import ConfigError
from nemo_acereason.nemo.model import AceReasonModel, nemo_config
from nemo_acereason.nemo.policy import NemoPolicy
from nemo_acereason.trainer.weights import HfDirectory

MODELS = {"qwen2": llm.Qwen2Model, "qwen3": llm.Qwen3Model, "llama": llm.LlamaModel}


def hf_to_nemo(model_dir: Path, to: Path, *, dtype: str = "bfloat16") -> None:
    """Write a Hugging Face directory as a checkpoint of NeMo's own model class, tokenizer included.

    Args:
        to: must not exist.
        dtype: that the weights are stored in; ``bfloat16`` or ``float32``.
    Raises:
        ConfigError: ``to`` exists, or a model that NeMo does not have.
    """
    arch = read_model_arch(model_dir)
    model = MODELS[arch.family](nemo_config(arch, dtype), tokenizer=AutoTokenizer(str(model_dir)))
    _write(model, arch, model_dir, to)


def _write(model: Any, arch: ModelArch, model_dir: Path, to: Path) -> None:
    if to.exists():
        raise ConfigError(f"{to} exists already; name a directory that does not, or remove it first")
    if dist.is_initialized():
        raise ConfigError("conversion is for one process by itself; call it outside of a distributed run")
    trainer = nl.Trainer(
        devices=1,
        accelerator="cpu",
        strategy=nl.MegatronStrategy(ckpt_save_optimizer=False, ckpt_async_save=False),
    )
    trainer.state.fn = TrainerFn.FITTING  # else NeMo does not save
    trainer.strategy.connect(model)
    trainer.strategy.setup_environment()
    try:
        model.configure_model()
        NemoPolicy([model], arch).load(HfDirectory(model_dir, arch))
        io.ModelConnector().nemo_save(to, trainer)
    finally:
        parallel_state.destroy_model_parallel()
        dist.destroy_process_group()


@io.model_importer(AceReasonModel, "hf")
class HfImporter(io.ModelConnector):  # type: ignore[misc] # NeMo has no types
    """``llm.import_ckpt(model, "hf:///DIR")``: the weights a run under NeMo's trainer starts from."""

    def apply(self, output_path: Path) -> Path:
        """NeMo's word for doing it."""
        model_dir = Path(str(self))
        config = changed_config(model_dir, {})
        dtype = "float32" if (config.get("dtype") or config.get("torch_dtype")) == "float32" else "bfloat16"
        model = AceReasonModel(config, dtype=dtype)
        _write(model, model.arch, model_dir, output_path)
        return output_path
