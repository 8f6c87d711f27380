"""Several engines as one: every sample once, under its own prompt; one failure or one odd receipt is everyone's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from nemo_acereason.errors import EngineError, WeightSyncError
from nemo_acereason.records import Prompt, Receipt, Sample, Sampling
from nemo_acereason.rollout.engine_group import EngineGroup


class Echo:
    """A double of an engine: a sample's text is its prompt and seed. Fails at a prompt named ``poison``."""

    def __init__(self, checksum: str = "same") -> None:
        self.version = 0
        self.checksum = checksum
        self.is_closed = False

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, seeds: Sequence[int]
    ) -> Iterator[tuple[int, int, Sample]]:
        for index, (prompt, seed) in reversed(list(enumerate(zip(prompts, seeds, strict=True)))):
            if prompt.problem == "poison":
                raise EngineError("died")
            for number in range(sampling.num_samples):
                yield index, number, Sample((1,), (0.0,), f"{prompt.problem} {seed + number}", "stop", self.version)

    def receive_weights(self, manifest: Mapping[str, Any]) -> Receipt:
        self.version = manifest["version"]
        return Receipt(self.version, 3, 12, 0.5, self.checksum)

    def peak_memory_bytes(self) -> int:
        return 7

    def close(self) -> None:
        self.is_closed = True


def prompts(*problems: str) -> list[Prompt]:
    return [Prompt(problem, problem, "", "math", problem, (1,)) for problem in problems]


@pytest.mark.parametrize("num_engines", [1, 2, 3, 5])
def test_every_sample_comes_once_under_its_own_prompt_and_seed(num_engines: int) -> None:
    group = EngineGroup([Echo() for _ in range(num_engines)])
    drawn = list(group.generate(prompts("a", "b", "c", "d"), Sampling(2, 8), [10, 20, 30, 40]))
    texts = {(index, number): sample.text for index, number, sample in drawn}
    assert len(drawn) == 8
    assert texts == {
        (index, number): f"{problem} {10 * (index + 1) + number}"
        for index, problem in enumerate("abcd")
        for number in range(2)
    }


def test_failure_of_one_engine_reaches_the_caller() -> None:
    group = EngineGroup([Echo(), Echo()])
    with pytest.raises(EngineError, match="died"):
        list(group.generate(prompts("a", "poison", "c"), Sampling(1, 8), [1, 2, 3]))


def test_refit_reaches_all_and_gives_one_receipt() -> None:
    engines = [Echo(), Echo()]
    receipt = EngineGroup(engines).receive_weights({"version": 4})
    assert receipt == Receipt(4, 3, 12, 0.5, "same")
    assert [engine.version for engine in engines] == [4, 4]


def test_engines_that_took_different_weights_are_noticed() -> None:
    with pytest.raises(WeightSyncError, match="engine 1 took"):
        EngineGroup([Echo(), Echo("other")]).receive_weights({"version": 1})


def test_close_ends_all() -> None:
    engines = [Echo(), Echo()]
    group = EngineGroup(engines)
    assert group.peak_memory_bytes() == 7
    group.close()
    assert all(engine.is_closed for engine in engines)
