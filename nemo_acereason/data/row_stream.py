"""An endless walk over rows, epoch after epoch, whose position can be stored: what prompt and SFT streams share.

Rows become items only when they are taken. Tokenising them all at start would cost every start and every resume of a
run with 50k prompts several seconds on each process, for rows that a stage of a few hundred steps never reaches.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from nemo_acereason.data.sources import Row
from nemo_acereason.errors import CheckpointError, DataError

Item = TypeVar("Item")


class RowStream(Generic[Item]):
    """Items made of rows, in an order that depends on seed and epoch alone.

    Args:
        make_item: from a row's index to its item, or None where the row is too long to use.
        shuffle: a new order every epoch; else the order of ``rows``.
        limit_hint: the setting that a user would raise if every row is too long.
    Raises:
        DataError: no row gives an item.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        make_item: Callable[[int], Item | None],
        *,
        seed: int,
        shuffle: bool,
        limit_hint: str,
    ) -> None:
        self._rows = rows
        self._make_item = make_item
        self._seed = seed
        self._shuffle = shuffle
        self._epoch = 0
        self._position = 0
        self._num_dropped = 0
        self._order = self._epoch_order(0)
        self._fingerprint = _fingerprint(rows, seed, shuffle)
        if all(make_item(index) is None for index in self._order):
            raise DataError(f"all {len(rows)} rows are longer than {limit_hint}; raise it or give shorter rows")

    @property
    def epoch(self) -> int:
        """Which walk over the rows the next item comes from, from 0."""
        return self._epoch

    @property
    def num_dropped(self) -> int:
        """Rows found too long so far; each is counted once, and all of them once the first epoch is over."""
        return self._num_dropped

    def take(self, count: int) -> list[Item]:
        """The next ``count`` items; goes on into the next epoch where one ends."""
        items: list[Item] = []
        while len(items) < count:
            if self._position == len(self._rows):
                self._epoch, self._position = self._epoch + 1, 0
                self._order = self._epoch_order(self._epoch)
            index = self._order[self._position]
            self._position += 1
            item = self._make_item(index)
            if item is not None:
                items.append(item)
            elif self._epoch == 0:
                self._num_dropped += 1
        return items

    def state(self) -> dict[str, Any]:
        """Plain JSON from which :meth:`restore` goes on with the very next item."""
        return {
            "epoch": self._epoch,
            "position": self._position,
            "num_dropped": self._num_dropped,
            "rows": self._fingerprint,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go to a stored position.

        Raises:
            CheckpointError: the position belongs to other rows, or to another seed or order of them.
        """
        if state["rows"] != self._fingerprint:
            raise CheckpointError(
                "the stored data position belongs to other rows, or to another seed or order of them; "
                "give the run the data it started with, or start a new one"
            )
        self._epoch, self._position = int(state["epoch"]), int(state["position"])
        self._num_dropped = int(state["num_dropped"])
        self._order = self._epoch_order(self._epoch)

    def _epoch_order(self, epoch: int) -> list[int]:
        order = list(range(len(self._rows)))
        if self._shuffle:
            random.Random(f"{self._seed} {epoch}").shuffle(order)
        return order


def _fingerprint(rows: Sequence[Row], seed: int, shuffle: bool) -> str:
    digest = hashlib.sha256(json.dumps([seed, shuffle]).encode())
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True, default=str).encode())
    return digest.hexdigest()
