"""Megatron-Bridge where Transformer Engine is not, by stand-ins for what it imports and a CPU does not need.

Every name of an absent package is a class that takes anything and does nothing. What the tests look at is the code of
Megatron-Bridge and Megatron-core, with Megatron-core's own layers in place of Transformer Engine's.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

PACKAGES = ("transformer_engine", "modelopt", "mamba_ssm", "fla", "causal_conv1d", "datasets")
"""Imported without asking whether they are there; ``datasets`` is, but wants a newer hub than its transformers."""


class _Names(type):
    """Has any attribute."""

    def __getattr__(cls, name: str) -> Any:
        return _stand_in(name)


def _stand_in(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    return _Names(name, (), {"__init__": lambda *_, **__: None})


class _Package(ModuleType):
    __version__ = "2.12.0"
    __path__: Sequence[str] = ()

    def __getattr__(self, name: str) -> Any:
        return _stand_in(name)


class _Finder(MetaPathFinder, Loader):
    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:  # noqa: ARG002
        return ModuleSpec(fullname, self, is_package=True) if fullname.split(".")[0] in PACKAGES else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Package(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


def import_bridge() -> Any:
    """``megatron.bridge``, its models made of Megatron-core's own layers; CUDA calls go to the CPU."""
    from nemo_acereason.trainer import cpu_device

    cpu_device.install()
    assert importlib.util.find_spec("transformer_engine") is None, "what is here is to be used"
    for module in ("models.gpt.gpt_layer_specs", "optimizer"):  # which are not to take stand-ins for the real ones
        importlib.import_module(f"megatron.core.{module}")
    sys.meta_path.insert(0, _Finder())
    bridge = importlib.import_module("megatron.bridge")
    models = importlib.import_module("megatron.bridge.models.gpt_provider")
    models.transformer_engine_layer_spec = models.local_layer_spec
    finalize = models.GPTModelProvider.finalize

    def without_its_kernels(provider: Any) -> None:
        provider.apply_rope_fusion = provider.persist_layer_norm = False
        finalize(provider)

    models.GPTModelProvider.finalize = without_its_kernels
    return bridge
