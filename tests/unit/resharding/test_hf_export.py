"""The plan of files and the check of coverage; the export itself runs in tests/distributed/test_trainer.py."""

import pytest
import torch

from nemo_acereason.errors import WeightSyncError
from nemo_acereason.resharding.hf_export import check_coverage, plan_files

TENSORS = {"a": ((4, 2), torch.float32), "b": ((2, 2), torch.float32), "c": ((100,), torch.bfloat16)}
TOP, BOTTOM = (slice(0, 2), slice(0, 2)), (slice(2, 4), slice(0, 2))
REST = {"b": [(slice(0, 2), slice(0, 2))], "c": [(slice(0, 100),)]}


def test_files_keep_the_order_and_stay_below_their_limit() -> None:
    assert plan_files(TENSORS, 10_000) == [["a", "b", "c"]]
    assert plan_files(TENSORS, 48) == [["a", "b"], ["c"]]
    assert plan_files(TENSORS, 32) == [["a"], ["b"], ["c"]]


def test_shards_that_make_up_every_tensor_pass() -> None:
    check_coverage(TENSORS, [{"a": [TOP], **REST}, {"a": [BOTTOM]}])


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ([{"a": [TOP], **REST}], "a: 4 elements are held by no rank and 0 by several"),
        ([{"a": [TOP, BOTTOM], **REST}, {"a": [BOTTOM]}], "a: 0 elements are held by no rank and 4 by several"),
    ],
)
def test_a_gap_or_an_overlap_is_named(held: list[dict[str, list[tuple[slice, ...]]]], message: str) -> None:
    with pytest.raises(WeightSyncError, match=message):
        check_coverage(TENSORS, held)
