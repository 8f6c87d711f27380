"""Where the seconds of `tiny_cpu` go: one JSON line.

``python benchmarks/loop.py`` runs the recipe anew in a temporary directory; ``--run DIR`` reads a finished run. Seconds
by phase are sums over the RL steps, the first step of each stage left out (it waits for what a stage starts). The
comparison is with the ideal step that only generates and trains: ``overhead`` is everything else.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from pathlib import Path

from nemo_acereason.config.load import load_plan
from nemo_acereason.launch.start import start
from nemo_acereason.observe.log import read_metrics


def main() -> None:
    """Print the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", type=Path, help="a finished run instead of a new one")
    run_dir: Path | None = parser.parse_args().run
    if run_dir is not None:
        print(json.dumps(measure(run_dir)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        start(load_plan("tiny_cpu"), Path(scratch) / "run")
        print(json.dumps(measure(Path(scratch) / "run")))


def measure(run_dir: Path) -> dict[str, object]:
    """Seconds by phase, rates and overhead of one run's RL steps."""
    rows, _ = read_metrics(run_dir)
    steps = [row for row in rows if "tokens/response" in row and row["stage_step"] > 1]
    seconds: Counter[str] = Counter()
    for row in steps:
        seconds.update({key.removeprefix("seconds/"): row[key] for key in row if key.startswith("seconds/")})
    whole = seconds.pop("step") - seconds.pop("evaluate", 0.0)
    sampled, trained = (sum(row[key] for row in steps) for key in ("tokens/response", "tokens/trained"))
    return {
        "benchmark": "loop",
        "steps": len(steps),
        "seconds_by_phase": {name: round(value, 3) for name, value in seconds.items()},
        "seconds_whole": round(whole, 3),
        "sampled_tokens_per_s": round(sampled / seconds["generate"], 1),
        "trained_tokens_per_s": round(trained / seconds["train"], 1),
        "tokens_per_s": round(sampled / whole, 1),
        "overhead": round(1 - (seconds["generate"] + seconds["train"]) / whole, 4),
    }


if __name__ == "__main__":
    main()
