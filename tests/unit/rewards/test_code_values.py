"""Values cross as data, and mean the same on both sides."""

from __future__ import annotations

import json
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_acereason.rewards.code_values import (
    ValueRefused,
    check,
    close,
    close_in_any_order,
    decode,
    encode,
    list_node,
    same,
    tree_node,
)

_scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
_hashable = st.recursive(_scalars, lambda inner: st.tuples(inner, inner), max_leaves=4)
_values = st.recursive(
    _scalars,
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(_hashable, inner)
        | st.frozensets(_hashable).map(set)
    ),
    max_leaves=20,
)


@given(_values)
def test_values_survive_the_crossing(value: Any) -> None:
    crossed = json.loads(json.dumps(encode(value, keep_tuples=True)))
    check(crossed)
    assert decode(crossed) == value


@given(_values)
def test_every_value_is_the_same_as_itself(value: Any) -> None:
    once, twice = encode(value), json.loads(json.dumps(encode(value)))
    assert same(once, twice)
    assert close(once, twice)


@given(_values, _values)
def test_sameness_is_symmetric_and_as_python_sees_it(left: Any, right: Any) -> None:
    assert same(encode(left), encode(right)) == same(encode(right), encode(left))
    if left == right:
        assert same(encode(left), encode(right))


@given(st.recursive(st.integers() | st.text() | st.none(), lambda inner: st.lists(inner, max_size=3)), st.data())
def test_different_lists_are_not_the_same(value: Any, data: st.DataObject) -> None:
    other = data.draw(st.recursive(st.integers() | st.text() | st.none(), lambda inner: st.lists(inner, max_size=3)))
    assert same(encode(value), encode(other)) == (value == other)


def test_values_that_claim_to_equal_everything_are_read_for_what_they_hold() -> None:
    class Liar(int):
        def __eq__(self, other: object) -> bool:
            return True

        def __int__(self) -> int:
            return 42

        __hash__ = int.__hash__

    assert encode(Liar(7)) == 7
    assert type(encode(Liar(7))) is int
    assert not same(encode([Liar(7)]), [8])


def test_standard_containers_become_plain_ones() -> None:
    point = namedtuple("point", "x y")
    assert encode(point(1, 2)) == [1, 2]
    assert encode(deque([1, 2])) == [1, 2]
    assert encode(Counter("aab")) == {"d": [["a", 2], ["b", 1]]}
    assert encode(OrderedDict(a=1)) == encode(defaultdict(int, a=1)) == {"d": [["a", 1]]}
    assert encode(range(3)) == [0, 1, 2]
    assert encode({1: 2}.keys()) == [1]
    assert encode(b"\x01") == {"b": "01"}


def test_numpy_scalars_are_numbers_and_arrays_are_refused() -> None:
    assert encode(np.int64(3)) == 3
    assert encode(np.float64(0.5)) == 0.5
    assert encode(np.bool_(True)) is True
    with pytest.raises(ValueRefused, match="ndarray"):
        encode(np.arange(3))


@pytest.mark.parametrize("value", [object(), lambda: 0, int, (i for i in ()), 1j, ValueError("x")])
def test_other_types_are_refused(value: Any) -> None:
    with pytest.raises(ValueRefused):
        encode([value])


def test_endless_and_deep_values_are_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(ValueRefused, match="deeper"):
        encode(loop)
    node = list_node([1])
    assert node is not None
    node.next = node
    with pytest.raises(ValueRefused, match="without end"):
        encode(node)


def test_linked_lists_and_trees_cross_whole() -> None:
    assert encode(list_node([1, 2, 3])) == {"ln": [1, 2, 3]}
    assert encode(tree_node([1, None, 2, 3])) == {"tn": [1, None, 2, 3]}
    assert encode(decode({"tn": [5, 4, 8, 11, None, 13, 4, 7, 2, None, None, None, 1]})) == {
        "tn": [5, 4, 8, 11, None, 13, 4, 7, 2, None, None, None, 1]
    }
    assert decode({"ln": []}) is None
    assert decode({"tn": []}) is None


def test_an_empty_linked_list_is_none_and_a_full_one_is_not_a_list() -> None:
    assert same(None, {"ln": []})
    assert not same({"ln": [1]}, [1])
    assert not same({"tn": [1]}, {"ln": [1]})


@pytest.mark.parametrize(
    ("left", "right", "is_same"),
    [
        (1, 1.0, True),
        (True, 1, True),
        (1, "1", False),
        ([1, 2], {"t": [1, 2]}, True),
        ({"s": [1, 2]}, {"s": [2, 1]}, True),
        ({"s": [1]}, {"s": [1, 2]}, False),
        ({"s": [1]}, [1], False),
        ({"d": [[1, 2], [3, 4]]}, {"d": [[3, 4], [1, 2]]}, True),
        ({"d": [["1", 2]]}, {"d": [[1, 2]]}, False),
        ({"d": [[1, [2]]]}, {"d": [[1, [3]]]}, False),
        ({"i": hex(2**70)}, {"i": hex(2**70)}, True),
        ({"i": hex(2**70)}, 2.0**70, True),
        (0.1 + 0.2, 0.3, False),
        (None, False, False),
    ],
)
def test_sameness(left: Any, right: Any, is_same: bool) -> None:
    assert same(left, right) is is_same
    assert same(right, left) is is_same


@pytest.mark.parametrize(
    ("got", "wanted", "is_close"),
    [
        (0.1 + 0.2, 0.3, True),
        ([1.000001, 2], [1.0, 2], True),
        (1.001, 1.0, False),
        (1, 1.000001, True),
        (1_000_000_007, 1_000_000_008, False),
        (float("nan"), float("nan"), False),
        (float("inf"), float("inf"), True),
        (1e300, float("inf"), False),
        ("0.1", 0.1, False),
    ],
)
def test_floats_may_be_close_and_integers_may_not(got: Any, wanted: Any, is_close: bool) -> None:
    assert close(got, wanted) is is_close


def test_any_order_pairs_items() -> None:
    assert close_in_any_order([[1, 2], [3]], [[3], [1, 2]])
    assert not close_in_any_order([[2, 1], [3]], [[3], [1, 2]])
    assert not close_in_any_order([1, 1, 2], [1, 2, 2])
    assert close_in_any_order(5, 5)


@pytest.mark.parametrize(
    "forged",
    [
        {"evil": 1},
        {"i": 5},
        {"i": "0xzz"},
        {"i": "__import__"},
        {"s": 5},
        {"d": [1]},
        {"d": [[1, 2, 3]]},
        {"s": [], "t": []},
        {},
        [{"ln": {"x": 1}}],
    ],
)
def test_forged_values_are_refused(forged: Any) -> None:
    with pytest.raises(ValueRefused):
        check(forged)


def test_forged_depth_is_refused_before_it_can_hurt() -> None:
    deep: Any = 0
    for _ in range(900):
        deep = [deep]
    with pytest.raises(ValueRefused, match="deeper"):
        check(deep)
