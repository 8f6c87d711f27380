"""The callback that keeps the engine's weights the model's: before the first step, and behind every optimizer step."""

from __future__ import annotations

from typing import Any, cast

import lightning.pytorch as pl
from nemo.lightning import io

from nemo_acereason.launch.engines import weight_link
from nemo_acereason.nemo.data import RolloutDataModule
from nemo_acereason.nemo.policy import NemoPolicy
from nemo_acereason.protocols import PolicyTrainer, WeightLink
from nemo_acereason.records import Receipt


class WeightSync(pl.Callback, io.IOMixin):  # type: ignore[misc] # NeMo has no types
    """Sends the whole model to the engine of the trainer's :class:`RolloutDataModule`, and compares what arrived."""

    def __init__(self) -> None:
        self._link: WeightLink | None = None
        self._policy: NemoPolicy | None = None
        self.last_receipt: Receipt | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """First weights: those of the start, or of the checkpoint that is gone on from."""
        data: Any = getattr(trainer, "datamodule", None)
        assert isinstance(data, RolloutDataModule), "WeightSync goes with a RolloutDataModule"
        assert data.hosts is not None, "the data is open when training starts"
        self._link = weight_link(data.plan.rollout, pl_module.arch, data.hosts.host_of_rank, data.group)
        strategy: Any = trainer.strategy
        self._policy = NemoPolicy(list(strategy.megatron_parallel), pl_module.arch, data.group)
        self._push(trainer)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:  # noqa: ARG002
        """The optimizer has acted."""
        self._push(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:  # noqa: ARG002
        """Free the buffer."""
        if self._link:
            self._link.close()

    def _push(self, trainer: Any) -> None:
        data = trainer.datamodule
        assert self._link is not None
        # NeMo keeps steps, optimizer and checkpoints; a link asks for the weights alone
        self.last_receipt = self._link.push(cast(PolicyTrainer, self._policy), data.engine)
        data.engine_step = trainer.global_step
