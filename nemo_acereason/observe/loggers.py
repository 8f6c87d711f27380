"""Lightning's loggers by name. Makes them; what goes in is :mod:`nemo_acereason.observe.log`'s."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from nemo_acereason.errors import ConfigError


def make_tensorboard(run_dir: Path, **writer_options: Any) -> TensorBoardLogger:
    """TensorBoard files in ``RUN/tensorboard``; ``purge_step`` hides what was written before from that step on."""
    return TensorBoardLogger(run_dir, name="tensorboard", version="", default_hp_metric=False, **writer_options)


def make_logger(name: str, run_dir: Path, options: Mapping[str, Any]) -> Logger:
    """A logger by the name that ``log.loggers`` gives it.

    Raises:
        ConfigError: the name is unknown, its package is missing, or it refuses the options.
    """
    known: dict[str, tuple[Callable[..., Logger], dict[str, Any]]] = {
        "wandb": (WandbLogger, {"save_dir": run_dir, "name": run_dir.name, "project": "nemo_acereason"}),
        "mlflow": (MLFlowLogger, {"save_dir": str(run_dir / "mlflow"), "run_name": run_dir.name}),
        "csv": (CSVLogger, {"save_dir": run_dir, "name": "csv"}),
    }
    if name in known:
        make, defaults = known[name]
    elif ":" in name:
        make, defaults = _import_logger(name), {}
    else:
        raise ConfigError(f"log.loggers={name}: want one of {', '.join(known)}, or module:Class of a Lightning logger")
    try:
        logger = make(**{**defaults, **options})
    except ModuleNotFoundError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"log.loggers={name}: {reason}; install the package or leave the logger out") from error
    except (TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"log.logger_options.{name}={options}: {reason}; mend the options") from error
    if not isinstance(logger, Logger):
        raise ConfigError(
            f"log.loggers={name} gives a {type(logger).__name__}; want a lightning.pytorch.loggers.Logger"
        )
    return logger


def _import_logger(name: str) -> Callable[..., Logger]:
    module_name, _, attribute = name.partition(":")
    try:
        made: Callable[..., Logger] = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"log.loggers={name} cannot be imported ({error}); name a module:Class that can") from error
    return made
