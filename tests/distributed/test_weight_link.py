"""The shared-memory link over trainer ranks: each writes its own shards, and all see the same outcome."""

from __future__ import annotations

from typing import Any

import torch

from tests.distributed.launch import run_ranks


def _push_halves(send_twice: bool) -> tuple[Any, ...]:
    import torch.distributed as dist

    from nemo_acereason.errors import WeightSyncError
    from nemo_acereason.resharding.shm_link import SharedMemoryLink
    from tests.doubles import TensorsAsTrainer
    from tests.unit.resharding.test_shm_link import Receiver

    rank = dist.get_rank()
    whole = {"up": torch.arange(60.0).view(10, 6), "norm": torch.ones(6)}
    rows = slice(0, 10) if send_twice else slice(5 * rank, 5 * rank + 5)
    trainer = TensorsAsTrainer(whole, {"up": [(rows, slice(None))], "norm": [(slice(None),)] if rank == 1 else []})
    engine = Receiver({"up": (10, 6), "norm": (6,)}) if rank == 0 else None
    link = SharedMemoryLink()
    try:
        receipt = link.push(trainer, engine)
        same = engine is None or all(torch.equal(engine.received[name], whole[name]) for name in whole)
        return receipt.version, receipt.checksum, same
    except WeightSyncError as error:
        return (str(error),)
    finally:
        link.close()


def test_two_ranks_fill_one_buffer_and_share_the_receipt() -> None:
    first, second = run_ranks(2, _push_halves, False)
    assert first == second
    assert first[0] == 1
    assert first[2] is True


def test_the_same_error_reaches_every_rank() -> None:
    first, second = run_ranks(2, _push_halves, True)
    assert first == second == ("tensor up: trainer ranks 0 and 1 both sent ((0, 10), (0, 6)); want every element once",)
