"""Lets Megatron-core run in a process without CUDA: every use it makes of ``cuda`` is answered by the CPU.

Megatron-core 0.16-0.19 names CUDA in four ways, each redirected here:

- ``torch.cuda.current_device()`` and its neighbours (streams, events, random state): replaced by CPU stand-ins;
- factory functions with ``device="cuda"`` or ``pin_memory=True``: the device becomes the CPU, pinning is dropped;
- ``tensor.cuda()``: the tensor itself;
- ``tensor.type() == "torch.cuda.FloatTensor"`` in its optimizer and clipping: ``type()`` answers as CUDA would.

Process-wide and not undone: call :func:`install` before the first import of ``megatron.core``, only in a trainer
process, never in one that runs vLLM. It computes nothing and does nothing where a CUDA device exists.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch

_CPU = torch.device("cpu")
_FACTORIES = ("empty", "zeros", "ones", "full", "tensor", "arange", "rand", "randn", "empty_like", "zeros_like")


def install() -> None:
    """Redirect ``cuda`` to the CPU for the rest of this process; a no-op with a CUDA device or when called again."""
    cuda: Any = torch.cuda
    if cuda.is_available() or cuda.current_device is _current_device:
        return
    # what Megatron warns of here is known: no Transformer Engine, no Apex, no CUDA, and torch calls of its own it has
    # not yet replaced
    for category in (UserWarning, FutureWarning):
        warnings.filterwarnings("ignore", category=category, module=r"megatron\.|torch\.distributed\.")
    # Megatron decorates with torch.compile: there is nothing to fuse for here and compiling takes minutes. Not by
    # TORCHDYNAMO_DISABLE, which the engine's processes would inherit.
    torch_module: Any = torch
    torch_module.compile = _keep_eager

    cuda.current_device = _current_device
    cuda.device_count = lambda: 1
    for name in ("set_device", "synchronize", "empty_cache"):
        setattr(cuda, name, _new_nothing())
    for name in ("Stream", "Event", "current_stream", "default_stream", "stream", "device"):
        setattr(cuda, name, type(name, (_Stream,), {}))
    for module in (cuda, cuda.random):
        module.get_rng_state = lambda *_, **__: torch.get_rng_state()
        module.set_rng_state = lambda state, *_, **__: torch.set_rng_state(state)
        module.manual_seed = torch.manual_seed

    for name in _FACTORIES:
        setattr(torch, name, _on_cpu(getattr(torch, name)))
    tensor: Any = torch.Tensor
    tensor.cuda = lambda self, *_, **__: self
    tensor.pin_memory = lambda self, *_, **__: self
    tensor.type = _type_as_cuda(tensor.type)


class _Stream:
    """A stream, event or device context that is always finished: the CPU runs in program order."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __enter__(self) -> _Stream:
        return self

    def __exit__(self, *args: object) -> None:
        pass

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name in ("wait_stream", "wait_event", "wait", "synchronize", "record", "record_event"):
            return _new_nothing()
        raise AttributeError(name)


def _new_nothing() -> Callable[..., None]:
    """A function of its own for each name: dynamo lists torch's functions by identity and refuses to see one twice."""
    return lambda *_, **__: None


def _current_device() -> torch.device:
    return _CPU


def _keep_eager(function: Any = None, **_: Any) -> Any:
    return function if function is not None else lambda decorated: decorated


def _on_cpu(factory: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    @functools.wraps(factory)
    def make(*args: Any, **kwargs: Any) -> torch.Tensor:
        device = kwargs.get("device")
        if device is not None and torch.device(device).type == "cuda":
            kwargs["device"] = _CPU
        if kwargs.get("pin_memory"):
            kwargs["pin_memory"] = False
        return factory(*args, **kwargs)

    return make


def _type_as_cuda(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def type_of(self: torch.Tensor, dtype: Any = None, *args: Any, **kwargs: Any) -> Any:
        if dtype is None:
            return str(original(self)).replace("torch.", "torch.cuda.", 1)
        return original(self, dtype, *args, **kwargs)

    return type_of
