"""Drawing a batch of groups and judging each sample as it finishes. Names no engine."""

from __future__ import annotations

import random
from collections.abc import Sequence

from nemo_acereason.errors import EngineError
from nemo_acereason.protocols import RolloutEngine, Scorer
from nemo_acereason.records import Prompt, Sample, Sampling, ScoredGroup


def draw_and_score(
    engine: RolloutEngine, scorer: Scorer, prompts: Sequence[Prompt], sampling: Sampling, seeds: Sequence[int]
) -> list[Sample]:
    """All samples of a batch, flat and in order (prompt by prompt); their judging is under way in ``scorer``.

    Raises:
        EngineError: the engine gave a sample twice or not at all.
    """
    samples: list[list[Sample | None]] = [[None] * sampling.num_samples for _ in prompts]
    for prompt_index, sample_index, sample in engine.generate(prompts, sampling, seeds):
        if samples[prompt_index][sample_index] is not None:
            raise EngineError(f"the engine gave sample {sample_index} of prompt {prompt_index} twice; restart the run")
        samples[prompt_index][sample_index] = sample
        scorer.submit(prompts[prompt_index], sample, (prompt_index, sample_index))
    flat = [sample for group in samples for sample in group if sample is not None]
    if len(flat) != len(prompts) * sampling.num_samples:
        raise EngineError(
            f"the engine gave {len(flat)} samples, want {len(prompts) * sampling.num_samples}; restart the run"
        )
    return flat


def collect_groups(
    scorer: Scorer, prompts: Sequence[Prompt], samples: Sequence[Sample], num_samples: int
) -> list[ScoredGroup]:
    """Wait for the verdicts of what :func:`draw_and_score` drew and put groups together, in prompt order."""
    scores = scorer.collect()
    return [
        ScoredGroup(
            prompt,
            tuple(samples[index * num_samples : (index + 1) * num_samples]),
            tuple(scores[index, sample] for sample in range(num_samples)),
        )
        for index, prompt in enumerate(prompts)
    ]


def prompt_seeds(count: int, *where: object) -> list[int]:
    """One seed per prompt of a batch, from the place in the run alone: a resumed run draws what it would have drawn.

    >>> prompt_seeds(2, 1, "math", 7) == prompt_seeds(2, 1, "math", 7)
    True
    """
    generator = random.Random(repr(where))
    return [generator.getrandbits(31) for _ in range(count)]
