"""An evaluation of one held-out set: its groups stored, its scores named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nemo_acereason.evaluation.records import write_evaluation
from nemo_acereason.evaluation.summary import evaluation_scores
from nemo_acereason.records import ScoredGroup


def record_evaluation(
    run_dir: Path, name: str, groups: Sequence[ScoredGroup], *, step: int, stage: str, when: str
) -> dict[str, float]:
    """Append the groups to ``RUN/evaluations/NAME.jsonl``; avg@k and pass@k of what was judged."""
    scores = evaluation_scores(write_evaluation(run_dir, name, groups, step=step, stage=stage, when=when))
    return {key: value for key, value in scores.items() if key.startswith(("avg@", "pass@")) and value is not None}
