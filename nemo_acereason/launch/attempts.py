"""The starts of a run on a cluster: ``RUN/slurm/attempts.jsonl``, a line when one begins and one when it ends.

A start that was killed with its node leaves the first alone. Tells whether another is worth it.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nemo_acereason.launch.resume import read_state, whole_checkpoints
from nemo_acereason.launch.slurm import JobStep
from nemo_acereason.observe.jsonl import append_lines, read_lines

COME_BACK = 75
"""Exit status by which a job asks to be queued again: EX_TEMPFAIL of sysexits.h."""
EXCLUDE_FILE = "slurm/exclude"
"""In the run directory: nodes that the job script has Slurm leave out when the job comes back."""
MAX_IN_VAIN = 3
"""Starts of one job without a new checkpoint before it gives up."""


@dataclass(frozen=True)
class Attempt:
    """One start."""

    job_id: str
    restart: int
    nodes: str
    step: int
    """Of the newest checkpoint when it began."""
    began: float
    """Unix seconds."""
    status: int | None = None
    """None: it is under way, or ended without a word."""
    reason: str = ""
    """Why it ended; of one that did not say so, what it was told last."""
    ended: float | None = None


class Attempts:
    """Those of one run directory."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self._file = run_dir / "slurm" / "attempts.jsonl"

    def begin(self, job: JobStep) -> None:
        """Note a start."""
        step = newest_step(self.run_dir)
        began = Attempt(job.job_id, job.restart, job.nodes, step, began=time.time())
        self._append({key: value for key, value in asdict(began).items() if value is not None})

    def note(self, job: JobStep, reason: str) -> None:
        """Note what it was told, which is why it ends should it have no time to say so itself."""
        self._append({"job_id": job.job_id, "restart": job.restart, "reason": reason})

    def end(self, job: JobStep, status: int, reason: str) -> None:
        """Note how it ended."""
        fields = {"status": status, "reason": reason, "ended": time.time()}
        self._append({"job_id": job.job_id, "restart": job.restart, **fields})

    def read(self) -> list[Attempt]:
        """All, in the order they began."""
        found: dict[tuple[str, int], dict[str, Any]] = {}
        for line in read_lines(self._file):
            found.setdefault((line["job_id"], line["restart"]), {}).update(line)
        return [Attempt(**fields) for fields in found.values()]

    def num_in_vain(self, job: JobStep) -> int:
        """How many starts of the job, the last included, found the checkpoint that is still the newest."""
        step = newest_step(self.run_dir)
        return sum(attempt.job_id == job.job_id and attempt.step == step for attempt in self.read())

    def _append(self, fields: dict[str, Any]) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        append_lines(self._file, [fields])


def newest_step(run_dir: Path) -> int:
    """Of the newest checkpoint; 0 before the first."""
    found = whole_checkpoints(run_dir / "checkpoints")
    return int(read_state(found[-1])["step"]) if found else 0
