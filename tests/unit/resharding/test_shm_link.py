"""The shared-memory link in one process; over several ranks: tests/distributed/test_weight_link.py."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch

from nemo_acereason.errors import WeightSyncError
from nemo_acereason.records import Receipt
from nemo_acereason.resharding.receiver import check_manifest, checksum_of, map_file, slots_in_order, tensor_views
from nemo_acereason.resharding.shm_link import SharedMemoryLink
from tests.doubles import TensorsAsTrainer


class Receiver:
    """Stands for an engine: copies out of the buffer what the manifest names."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.shapes = dict(shapes)
        self.version = 0
        self.received: dict[str, torch.Tensor] = {}
        self.path = ""

    def receive_weights(self, manifest: Mapping[str, Any]) -> Receipt:
        slots = check_manifest(manifest, self.shapes, self.version)
        views = tensor_views(map_file(manifest["path"], manifest["num_bytes"], writable=False), slots)
        self.received = {name: view.clone() for name, view in views.items()}
        self.path = manifest["path"]
        self.version = manifest["version"]
        num_bytes = sum(slot.num_bytes for slot in slots)
        return Receipt(self.version, len(slots), num_bytes, 0.0, checksum_of(self.received, slots, self.version))


TENSORS = {
    "embed": torch.randn(33, 7, generator=torch.Generator().manual_seed(1)),
    "norm": torch.arange(5, dtype=torch.bfloat16),
    "up": torch.randn(12, 33, generator=torch.Generator().manual_seed(2)).to(torch.bfloat16),
}
SHAPES = {name: tuple(tensor.shape) for name, tensor in TENSORS.items()}


@pytest.fixture
def link() -> Iterator[SharedMemoryLink]:
    link = SharedMemoryLink()
    yield link
    link.close()


def test_every_tensor_arrives_bit_for_bit_from_its_parts(link: SharedMemoryLink) -> None:
    parts = {
        "embed": [(slice(0, 20), slice(None)), (slice(20, 33), slice(None))],
        "up": [(slice(None), slice(16, 33)), (slice(None), slice(0, 16))],
    }
    engine = Receiver(SHAPES)
    receipt = link.push(TensorsAsTrainer(TENSORS, parts), engine)
    assert all(torch.equal(engine.received[name], tensor) for name, tensor in TENSORS.items())
    assert (receipt.version, receipt.num_tensors) == (1, 3)
    assert receipt.num_bytes == 33 * 7 * 4 + 5 * 2 + 12 * 33 * 2


def test_second_push_brings_the_new_values_in_the_same_buffer(link: SharedMemoryLink) -> None:
    engine, trainer = Receiver(SHAPES), TensorsAsTrainer(TENSORS)
    first = link.push(trainer, engine)
    path = engine.path
    trainer.tensors["embed"] = TENSORS["embed"] + 1
    second = link.push(trainer, engine)
    assert torch.equal(engine.received["embed"], TENSORS["embed"] + 1)
    assert (second.version, engine.path) == (2, path)
    assert second.checksum != first.checksum


def test_tensors_start_at_multiples_of_64_bytes_without_overlap() -> None:
    slots = slots_in_order(TensorsAsTrainer(TENSORS).hf_tensors())
    assert [slot.offset for slot in slots] == [0, 960, 1024]  # 33 * 7 * 4 = 924 bytes, then 10 bytes


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"embed": [(slice(0, 20), slice(None))]}, r"tensor embed: 140 of its 231 elements were sent"),
        ({"up": []}, r"tensor up: 0 of its 396 elements were sent"),
        ({"norm": [(slice(0, 3),), (slice(2, 5),)]}, r"tensor norm: trainer ranks 0 and 0 both sent \(\(2, 5\),\)"),
    ],
)
def test_an_element_left_out_or_sent_twice_is_named(
    link: SharedMemoryLink, parts: dict[str, list[tuple[slice, ...]]], message: str
) -> None:
    engine = Receiver(SHAPES)
    with pytest.raises(WeightSyncError, match=message):
        link.push(TensorsAsTrainer(TENSORS, parts), engine)
    assert engine.version == 0


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({**SHAPES, "lm_head": (3, 3)}, r"tensor lm_head did not come \(1 of 4 missing\)"),
        ({name: shape for name, shape in SHAPES.items() if name != "norm"}, "tensor norm came, but the engine"),
        ({**SHAPES, "norm": (6,)}, r"tensor norm came with shape \[5\]; the engine's model wants \[6\]"),
    ],
)
def test_a_model_that_differs_from_the_engines_is_refused(
    link: SharedMemoryLink, wanted: dict[str, tuple[int, ...]], message: str
) -> None:
    with pytest.raises(WeightSyncError, match=message):
        link.push(TensorsAsTrainer(TENSORS), Receiver(wanted))


def test_a_tensor_listed_twice_is_refused() -> None:
    tensors = [("norm", "float32", [5], 0), ("norm", "float32", [5], 64)]
    with pytest.raises(WeightSyncError, match="tensor norm came twice"):
        check_manifest({"version": 1, "tensors": tensors}, {"norm": (5,)}, 0)


@pytest.mark.parametrize("engine_version", [1, 2, 5])
def test_a_skipped_or_repeated_version_is_refused(link: SharedMemoryLink, engine_version: int) -> None:
    engine = Receiver(SHAPES)
    engine.version = engine_version
    with pytest.raises(WeightSyncError, match=f"version 1 pushed to an engine at version {engine_version}"):
        link.push(TensorsAsTrainer(TENSORS), engine)


def test_an_engine_that_read_other_bytes_is_found_out(link: SharedMemoryLink) -> None:
    class Stale(Receiver):
        def receive_weights(self, manifest: Mapping[str, Any]) -> Receipt:
            right = super().receive_weights(manifest)
            slots = check_manifest(manifest, self.shapes, 0)
            self.received["up"] = torch.zeros_like(self.received["up"])
            wrong = checksum_of(self.received, slots, 1)
            return Receipt(right.version, right.num_tensors, right.num_bytes, 0.0, wrong)

    with pytest.raises(WeightSyncError, match="the engine took checksum"):
        link.push(TensorsAsTrainer(TENSORS), Stale(SHAPES))


def test_close_frees_the_buffer(link: SharedMemoryLink) -> None:
    engine = Receiver(SHAPES)
    link.push(TensorsAsTrainer(TENSORS), engine)
    assert os.path.exists(engine.path)
    link.close()
    assert not os.path.exists(engine.path)
    with pytest.raises(WeightSyncError, match="cannot be opened"):
        map_file(engine.path, 64, writable=False)


def test_a_scalar_arrives(link: SharedMemoryLink) -> None:
    engine = Receiver({"scale": ()})
    link.push(TensorsAsTrainer({"scale": torch.tensor(2.5)}), engine)
    assert engine.received["scale"].item() == 2.5
