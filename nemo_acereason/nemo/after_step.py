"""The callback that does behind each step what our own loop does there: guard rails, exits, samples for a person.

Every :class:`nemo_acereason.nemo.model.AceReasonModel` brings it to its trainer, so that no stage goes without. What is
looked at is the data module's (:class:`nemo_acereason.nemo.data.StageData`); this only says when.
"""

from __future__ import annotations

import math
from typing import Any

import lightning.pytorch as pl
from nemo.lightning import io


class AfterStep(pl.Callback, io.IOMixin):  # type: ignore[misc] # NeMo has no types
    """Ends the trainer's run where the plan ends the stage, on every rank behind the same step.

    Lightning has checkpoint callbacks act last: what a step reported is in the checkpoint behind it, and a guard rail
    that stops leaves none.
    """

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:  # noqa: ARG002 - Lightning's signature
        """A run that is gone on with may have ended already."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        self._end(trainer, data.begin())

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:  # noqa: ARG002
        """The optimizer has acted, and the engines have the new weights."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        grad_norm = float(trainer.callback_metrics.get("grad_norm", math.nan))
        self._end(trainer, data.after_step(grad_norm))

    @staticmethod
    def _end(trainer: pl.Trainer, reason: str | None) -> None:
        if reason:
            trainer.should_stop = True
            trainer.datamodule.say(f"ends behind step {trainer.global_step}: {reason}")  # type: ignore[attr-defined]
