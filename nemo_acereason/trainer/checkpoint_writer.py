"""Makes Megatron's sharded checkpoints write in the process that asks for it.

Megatron-core 0.16 writes, even when saving synchronously, from processes forked off the trainer and collects their
results through a manager process, waiting without a limit. A fork of a process with running threads (gloo's, torch's)
can inherit a held lock and hang; and the manager outlives a trainer that is killed, as was seen here: it kept the
run's output open for ever.
"""

from __future__ import annotations

import queue
from typing import Any

from megatron.core.dist_checkpointing.strategies import filesystem_async
from megatron.core.dist_checkpointing.strategies import torch as torch_strategy
from megatron.core.dist_checkpointing.strategies.filesystem_async import FileSystemWriterAsync


def write_in_process() -> None:
    """Let every later save of this process write by itself; safe to call again."""
    torch_strategy.FileSystemWriterAsync = _InProcessWriter
    # where Megatron finds a queue already, it starts no manager process
    filesystem_async._results_queue = queue.Queue()


class _InProcessWriter(FileSystemWriterAsync):  # type: ignore[misc] # megatron has no types
    @staticmethod
    def write_preloaded_data_multiproc(
        transforms: Any, _: bool, __: int, buckets: list[Any], all_results: queue.Queue[Any]
    ) -> None:
        """Write bucket after bucket; leave the results, or the first exception, as Megatron's version does."""
        outcome: dict[int, Any] = {}
        for number, bucket in enumerate(buckets):
            results: queue.Queue[Any] = queue.Queue()
            pending: queue.Queue[int] = queue.Queue()
            pending.put(number)
            FileSystemWriterAsync.write_preloaded_data(transforms, number, bucket, results, pending, use_fsync=True)
            _, written = results.get()
            if isinstance(written, Exception):
                all_results.put(written)
                return
            outcome[number] = written
        all_results.put(outcome)
