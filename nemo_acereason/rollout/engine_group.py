"""Several engines behind one: prompts are dealt out, samples come back as any of them finishes one.

On a CPU two engines of one thread each draw more than one engine of two threads; on a cluster each engine has GPUs of
its own. Every engine takes every refit.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

from nemo_acereason.errors import WeightSyncError
from nemo_acereason.protocols import RolloutEngine
from nemo_acereason.records import Prompt, Receipt, Sample, Sampling

Result = TypeVar("Result")
_Finished = tuple[int, int, Sample]


class EngineGroup:
    """Implements :class:`nemo_acereason.protocols.RolloutEngine` over several.

    Args:
        engines: at least one, none of them used by anyone else.
    """

    def __init__(self, engines: Sequence[RolloutEngine]) -> None:
        self._engines = list(engines)

    @property
    def version(self) -> int:
        """Refits received, by all of them."""
        return min(engine.version for engine in self._engines)

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, seeds: Sequence[int]
    ) -> Iterator[tuple[int, int, Sample]]:
        """Engine ``e`` of ``n`` draws for prompts ``e, e + n, ...``: which one drew a sample never changes a rerun.

        Raises:
            EngineError: one of them died or went silent; what the others were drawing is dropped.
        """
        count = len(self._engines)
        finished: queue.SimpleQueue[_Finished | Exception | None] = queue.SimpleQueue()

        def draw(first: int) -> None:
            try:
                mine = slice(first, None, count)
                for index, sample_index, sample in self._engines[first].generate(prompts[mine], sampling, seeds[mine]):
                    finished.put((first + index * count, sample_index, sample))
                finished.put(None)
            except Exception as error:  # told to who waits; a thread has nobody to raise to
                finished.put(error)

        threads = [threading.Thread(target=draw, args=(first,), daemon=True) for first in range(count)]
        for thread in threads:
            thread.start()
        num_running = count
        while num_running:
            item = finished.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                num_running -= 1
            else:
                yield item

    def receive_weights(self, manifest: Mapping[str, Any]) -> Receipt:
        """Every engine takes the same buffer at the same time; one receipt for all.

        Raises:
            WeightSyncError: one of them took something else than the others, or could not take it.
        """
        receipts: list[Receipt] = self._all(lambda engine: engine.receive_weights(manifest))
        first = receipts[0]
        for number, receipt in enumerate(receipts[1:], start=1):
            if replace(receipt, seconds=0.0) != replace(first, seconds=0.0):
                raise WeightSyncError(f"refit {first.version}: engine {number} took {receipt}, engine 0 took {first}")
        return replace(first, seconds=max(receipt.seconds for receipt in receipts))

    def peak_memory_bytes(self) -> int:
        """Of the largest of them."""
        return max(engine.peak_memory_bytes() for engine in self._engines)

    def close(self) -> None:
        """End all of them; safe to call twice."""
        self._all(lambda engine: engine.close())

    def _all(self, work: Callable[[RolloutEngine], Result]) -> list[Result]:
        with ThreadPoolExecutor(len(self._engines)) as pool:
            return list(pool.map(work, self._engines))
