"""Tests of every known format become the same few kinds of cases."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nemo_acereason.errors import DataError
from nemo_acereason.rewards.code_formats import CallCase, StdinCase, from_asserts, read_tests


def _calls(tests: Any, **options: str) -> list[tuple[str, list[Any], Any]]:
    return [(c.function, list(c.args), c.wanted[0]) for c in read_tests(tests, **options).calls]


def test_canonical_stdin_and_call() -> None:
    stdin = read_tests({"kind": "stdin", "cases": [{"input": "1\n", "output": "2"}]})
    assert stdin.stdin == (StdinCase("1\n", "2"),)
    call = {"kind": "call", "fn_name": "Solution.f", "cases": [{"args": [[1, 2], "a"], "expected": {"a": 1}}]}
    assert _calls(call) == [("Solution.f", [[1, 2], "a"], {"d": [["a", 1]]})]


def test_livecodebench_rows() -> None:
    rows = [{"input": "5\n", "output": "7\n", "testtype": "stdin"}]
    assert read_tests(rows).stdin == (StdinCase("5\n", "7\n"),)
    rows = [{"input": '[1, 2]\n"a"', "output": "[true]", "testtype": "functional", "metadata": {"func_name": "f"}}]
    assert _calls(rows) == [("f", [[1, 2], "a"], [True])]
    assert _calls(json.dumps(rows)) == _calls(rows), "as text too"


def test_livecodebench_function_is_named_by_its_starter_code() -> None:
    rows = [{"input": "1", "output": "2", "testtype": "functional"}]
    starter = "class Solution:\n    def solveIt(self, n: int) -> int:\n        "
    assert _calls(rows, starter_code=starter) == [("Solution.solveIt", [1], 2)]
    assert _calls(rows, starter_code="def solve(n):\n") == [("solve", [1], 2)]
    with pytest.raises(DataError, match="names the function"):
        read_tests(rows)


def test_apps_stdin_as_text_or_lines() -> None:
    tests = read_tests({"inputs": ["1\n", ["2", "3"]], "outputs": ["a\n", ["b", "c"]]})
    assert tests.stdin == (StdinCase("1\n", "a\n"), StdinCase("2\n3", "b\nc"))


def test_apps_function_takes_a_result_with_or_without_its_wrapping_list() -> None:
    tests = read_tests({"fn_name": "f", "inputs": [[[1, 2], 3]], "outputs": [[True]]})
    assert tests.calls == (CallCase("f", ([1, 2], 3), {}, ([True], True)),)
    assert _calls({"fn_name": "f", "inputs": ["[1]\n2"], "outputs": [3]}) == [("f", [[1], 2], 3)]


def test_apps_turns_integer_keys_back() -> None:
    assert _calls({"fn_name": "f", "inputs": [[{"1": "a"}]], "outputs": [{"2": 3}]}) == [
        ("f", [{"d": [[1, "a"]]}], {"d": [[2, 3]]})
    ]


def test_leetcode_script_becomes_calls() -> None:
    script = "def check(candidate):\n    assert candidate(n = 1, s = 'a') == [1.5]\n\ncheck(Solution().run)"
    (call,) = read_tests({"functional": script}).calls
    assert (call.function, call.args, call.kwargs) == ("Solution.run", (), {"n": 1, "s": "a"})
    assert (call.wanted, call.compare) == (([1.5],), "same")


def test_leetcode_nodes_cross_as_nodes() -> None:
    script = (
        "def check(candidate):\n"
        "    assert is_same_list(candidate(head = list_node([1, 2]), k = 1), list_node([2, 1]))\n"
        "    assert is_same_tree(candidate(root = tree_node([1, None, 2])), tree_node([]))\n"
        "    assert candidate(root = tree_node([1, None, 2])) == [1]\n"
        "check(Solution().run)"
    )
    first, second, third = read_tests({"functional": script}).calls
    assert (first.kwargs, first.wanted) == ({"head": {"ln": [1, 2]}, "k": 1}, ({"ln": [2, 1]},))
    assert (second.kwargs, second.wanted) == ({"root": {"tn": [1, None, 2]}}, (None,))
    assert third.wanted == ([1],)


def test_humaneval_columns_put_the_prompt_before_the_program() -> None:
    row = {
        "prompt": "def double(x):\n",
        "entry_point": "double",
        "test": "METADATA = {'author': 'a'}\n\ndef check(candidate):\n    assert candidate(2) == 4, 'no'\n"
        "    assert True, 'always'\n    assert not candidate(0)\n    assert candidate(1)\n",
    }
    tests = read_tests(row)
    assert tests.setup == row["prompt"]
    assert [(c.function, c.args, c.wanted, c.compare) for c in tests.calls] == [
        ("double", (2,), (4,), "same"),
        ("double", (0,), (False,), "false"),
        ("double", (1,), (True,), "true"),
    ]


def test_mbpp_asserts_name_their_function() -> None:
    row = {"test_list": ["assert add((1, 2), x=[3]) == {4}", "assert 5 == sub(-1)"], "test_imports": ["import math"]}
    tests = read_tests(row)
    assert tests.setup == "import math"
    assert [(c.function, c.args, dict(c.kwargs), c.wanted) for c in tests.calls] == [
        ("add", ({"t": [1, 2]},), {"x": [3]}, ({"s": [4]},)),
        ("sub", (-1,), {}, (5,)),
    ]


@pytest.mark.parametrize(
    "script",
    [
        "def check(candidate):\n    for i in range(3):\n        assert candidate(i) == i",
        "def check(candidate):\n    assert abs(candidate(2) - 4) < 1e-6",
        "def check(candidate):\n    assert candidate(2) == helper(4)",
        "def check(candidate):\n    assert candidate(2) != 4",
        "def check(candidate):\n    x = [1]\n    candidate(x)\n    assert x == []",
        "def check(candidate):\n    assert candidate(*[1]) == 4",
        "def check(candidate):\n    assert candidate(**{'a': 1}) == 4",
    ],
)
def test_other_scripts_are_kept_whole(script: str) -> None:
    tests = from_asserts(script, entry_point="f")
    assert tests.calls == ()
    assert tests.script is not None
    assert tests.script.entry_point == "f"


def test_a_kept_script_names_the_functions_it_needs() -> None:
    script = "def near(a, b):\n    return abs(a - b) < 1\nassert near(area(2), 12)\nassert len(sides(3)) == 3"
    tests = from_asserts(script)
    assert tests.script is not None
    assert tests.script.called == ("area", "sides")
    assert tests.script.entry_point is None


def test_a_comparison_of_two_calls_is_not_taken_for_a_case() -> None:
    """Both sides would come from the program, which could make any two things equal."""
    tests = from_asserts("assert decode(encode('abc')) == 'abc'")
    assert tests.calls == ()
    assert tests.script is not None


def test_any_order_is_taken_from_the_problem_text() -> None:
    row = {"kind": "call", "fn_name": "f", "cases": [{"args": [], "expected": [1, 2]}]}
    assert read_tests(row, problem="Return them in  any order.").calls[0].compare == "any_order"
    assert read_tests(row, problem="Return them in order.").calls[0].compare == "close"


@pytest.mark.parametrize(
    ("tests", "message"),
    [
        ({"unknown": 1}, "no known format: got .*unknown"),
        ([], "no known format"),
        (7, "no known format: got int"),
        ({"kind": "other"}, "canonical format cannot be read: .*other"),
        ({"kind": "stdin", "cases": []}, "hold no test"),
        ({"kind": "stdin", "cases": [{"input": 5, "output": "x"}]}, "expected text, got int"),
        ({"kind": "call", "fn_name": "f"}, "canonical format cannot be read: KeyError"),
        ({"inputs": ["a"], "outputs": []}, "1 inputs for 0 outputs"),
        ([{"testtype": "stdin", "input": "", "output": ""}, {"testtype": "functional"}], "in one problem"),
        ("assert (", "canonical format cannot be read: SyntaxError"),
        ("x = 5", "calls no function"),
    ],
)
def test_unreadable_tests_say_why(tests: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_tests(tests)
