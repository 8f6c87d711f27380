"""Test formats as data sets have them, turned into the one form :mod:`code_tests` judges. Runs nothing."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from nemo_acereason.errors import DataError
from nemo_acereason.rewards import code_values


@dataclass(frozen=True, slots=True)
class StdinCase:
    """A whole program is run on ``input`` and its output compared with ``output``."""

    input: str
    output: str


@dataclass(frozen=True, slots=True)
class CallCase:
    """A function is called and its value compared. All values are tagged JSON (:mod:`code_values`)."""

    function: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    wanted: tuple[Any, ...]
    """Any of these will do."""
    compare: str = "close"
    """``close`` (floats as allclose), ``any_order`` (so, and the items of a list in any order), ``same`` (Python's
    ``==``), ``true`` or ``false`` (truth of the value)."""


@dataclass(frozen=True, slots=True)
class AssertScript:
    """Asserts that could not be turned into call cases; run in a process apart from the program's."""

    script: str
    entry_point: str | None
    called: tuple[str, ...]
    """Names the script calls and does not define: functions of the program."""


@dataclass(frozen=True, slots=True)
class CodeTests:
    """The tests of one problem; exactly one of the three kinds is not empty."""

    stdin: tuple[StdinCase, ...] = ()
    calls: tuple[CallCase, ...] = ()
    script: AssertScript | None = None
    setup: str = field(default="")
    """Code that goes before the program (and before the script)."""

    def __len__(self) -> int:
        return len(self.stdin) + len(self.calls) + (self.script is not None)


def read_tests(tests: Any, *, problem: str = "", starter_code: str = "", function: str = "") -> CodeTests:
    """The tests of a row, whatever known format they are in.

    Args:
        problem: where its text allows an answer "in any order", lists are compared so.
        tests: a dict or list, or JSON (or a Python literal) of one, or the text of an assert script.
        starter_code: names the function of LiveCodeBench's function problems, where their metadata do not.
        function: the same, named.
    Raises:
        DataError: no known format, or nothing to test with.
    """
    if isinstance(tests, str):
        tests = _parsed(tests)
    for name, (matches, convert) in FORMATS.items():
        if matches(tests):
            try:
                found = convert(tests, starter_code=starter_code, function=function)
            except (KeyError, TypeError, ValueError, SyntaxError, code_values.ValueRefused) as error:
                raise DataError(f"tests in {name} format cannot be read: {type(error).__name__}: {error}") from None
            if not len(found):
                raise DataError(f"tests in {name} format hold no test; drop the row")
            return _in_any_order(found) if _ANY_ORDER.search(problem) else found
    keys = sorted(tests) if isinstance(tests, dict) else type(tests).__name__
    raise DataError(f"tests are in no known format: got {keys}, wanted one of {', '.join(FORMATS)}")


_ANY_ORDER = re.compile(r"\bin\s+any\s+order\b", re.IGNORECASE)


def _in_any_order(tests: CodeTests) -> CodeTests:
    """A list of one item, or of which no second order exists, compares as before."""
    free = {"close": "any_order", "same": "any_order"}
    calls = tuple(replace(call, compare=free.get(call.compare, call.compare)) for call in tests.calls)
    return replace(tests, calls=calls)


def _parsed(text: str) -> Any:
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(value, dict | list):
            return value
    return {"kind": "assert", "setup": "", "code": text, "entry_point": None}


def from_canonical(tests: dict[str, Any], **_: str) -> CodeTests:
    """``{"kind": "stdin" | "call" | "assert", ...}``, the form of `acereason verify code`."""
    match tests["kind"]:
        case "stdin":
            return CodeTests(stdin=tuple(StdinCase(_text(c["input"]), _text(c["output"])) for c in tests["cases"]))
        case "call":
            calls = [_call(tests["fn_name"], case["args"], case["expected"]) for case in tests["cases"]]
            return CodeTests(calls=tuple(calls), setup=tests.get("setup", ""))
        case "assert":
            return from_asserts(tests["code"], setup=tests.get("setup", ""), entry_point=tests.get("entry_point"))
        case kind:
            raise ValueError(f"kind={kind!r} is not one of stdin, call, assert")


def from_livecodebench(tests: Any, *, starter_code: str, function: str) -> CodeTests:
    """Rows of ``input``, ``output``, ``testtype`` (and ``metadata.func_name``)."""
    rows = tests["tests"] if isinstance(tests, dict) else tests
    if all(row["testtype"] == "stdin" for row in rows):
        return CodeTests(stdin=tuple(StdinCase(_text(row["input"]), _text(row["output"])) for row in rows))
    if any(row["testtype"] == "stdin" for row in rows):
        raise ValueError("stdin and function tests in one problem")
    name = function or _function_of(rows[0].get("metadata"), starter_code)
    calls = []
    for row in rows:
        args = [_literal(line) for line in _text(row["input"]).split("\n") if line.strip()]
        calls.append(_call(name, args, _literal(_text(row["output"]))))
    return CodeTests(calls=tuple(calls))


def from_apps(tests: dict[str, Any], **_: str) -> CodeTests:
    """APPS and TACO: ``inputs``, ``outputs`` and, for function problems, ``fn_name``."""
    inputs, outputs = tests["inputs"], tests["outputs"]
    if len(inputs) != len(outputs):
        raise ValueError(f"{len(inputs)} inputs for {len(outputs)} outputs")
    if not tests.get("fn_name"):
        return CodeTests(
            stdin=tuple(StdinCase(_lines(given), _lines(wanted)) for given, wanted in zip(inputs, outputs, strict=True))
        )
    calls = []
    for given, wanted in zip(inputs, outputs, strict=True):
        args = [_literal(line) for line in given.split("\n")] if isinstance(given, str) else given
        call = _call(tests["fn_name"], [_int_keys(item) for item in args], _int_keys(wanted))
        if isinstance(wanted, list) and wanted:  # APPS wraps some results in a list of one; its runner takes either
            call = CallCase(
                call.function, call.args, call.kwargs, (*call.wanted, code_values.encode(_int_keys(wanted[0])))
            )
        calls.append(call)
    return CodeTests(calls=tuple(calls))


def from_leetcode(tests: dict[str, Any], **_: str) -> CodeTests:
    """``functional``: a script that ends in ``check(Solution().method)``."""
    return from_asserts(tests["functional"])


def from_humaneval(tests: dict[str, Any], **_: str) -> CodeTests:
    """HumanEval's own columns: ``prompt`` (goes before the program), ``test``, ``entry_point``."""
    return from_asserts(tests["test"], setup=tests.get("prompt", ""), entry_point=tests["entry_point"])


def from_mbpp(tests: dict[str, Any], **_: str) -> CodeTests:
    """MBPP: ``test_list`` of asserts, ``test_setup_code`` or ``test_imports`` before them."""
    setup = tests.get("test_setup_code") or "\n".join(tests.get("test_imports", ()))
    return from_asserts("\n".join(tests["test_list"]), setup=setup)


FORMATS: dict[str, tuple[Callable[[Any], bool], Callable[..., CodeTests]]] = {
    "canonical": (lambda tests: isinstance(tests, dict) and "kind" in tests, from_canonical),
    "livecodebench": (
        lambda tests: _is_rows(tests["tests"] if isinstance(tests, dict) and "tests" in tests else tests),
        from_livecodebench,
    ),
    "apps": (lambda tests: isinstance(tests, dict) and "inputs" in tests and "outputs" in tests, from_apps),
    "leetcode": (lambda tests: isinstance(tests, dict) and "functional" in tests, from_leetcode),
    "humaneval": (lambda tests: isinstance(tests, dict) and "test" in tests and "entry_point" in tests, from_humaneval),
    "mbpp": (lambda tests: isinstance(tests, dict) and "test_list" in tests, from_mbpp),
}
"""Adapters by name: whether a row's tests are of the format, and their conversion. Tried in this order."""


def from_asserts(script: str, *, setup: str = "", entry_point: str | None = None) -> CodeTests:
    """A script of asserts: as call cases where every assert is a plain call compared with a plain value.

    Then the comparison happens outside any process the program can reach. Other scripts are kept whole.

    Raises:
        SyntaxError: the script is not Python.
    """
    statements = ast.parse(script).body
    rest = []
    for statement in statements:
        named = _checked_function(statement)
        if named is None:
            rest.append(statement)
        else:
            entry_point = entry_point or named
    try:
        calls = [call for statement in rest for call in _calls_of(statement, entry_point)]
    except _NotPlain:
        calls = []
    if calls:
        return CodeTests(calls=tuple(calls), setup=setup)
    called, has_check = _called_names(rest)
    if not called and entry_point is None:
        raise ValueError("the script calls no function of the program")
    if entry_point is not None and not has_check and entry_point not in called:
        raise ValueError(f"the script neither defines check(candidate) nor calls {entry_point}")
    text = "\n".join(ast.unparse(statement) for statement in rest)
    return CodeTests(script=AssertScript(text, entry_point if has_check else None, called), setup=setup)


class _NotPlain(Exception):
    """A statement that is more than a call compared with a plain value."""


def _checked_function(statement: ast.stmt) -> str | None:
    """``f`` of a statement ``check(f)``, ``Solution.f`` of ``check(Solution().f)``."""
    match statement:
        case ast.Expr(value=ast.Call(func=ast.Name(id="check"), args=[argument], keywords=[])):
            match argument:
                case ast.Name(id=name):
                    return name
                case ast.Attribute(value=ast.Call(func=ast.Name(id=owner), args=[], keywords=[]), attr=name):
                    return f"{owner}.{name}"
    return None


def _calls_of(statement: ast.stmt, entry_point: str | None) -> list[CallCase]:
    match statement:
        case ast.FunctionDef(name="check", args=ast.arguments(args=[ast.arg(arg=candidate)])) if entry_point:
            return [call for inner in statement.body for call in _calls_of_body(inner, candidate, entry_point)]
        case ast.Assign(targets=[ast.Name(id="METADATA")]) | ast.Pass() | ast.Expr(value=ast.Constant()):
            return []
        case ast.Assert():
            return _calls_of_body(statement, None, "")
    raise _NotPlain


def _calls_of_body(statement: ast.stmt, candidate: str | None, entry_point: str) -> list[CallCase]:
    match statement:
        case ast.Expr(value=ast.Constant()) | ast.Pass() | ast.Assert(test=ast.Constant(value=True)):
            return []
        case ast.Assert(test=ast.Compare(left=left, ops=[ast.Eq() | ast.Is()], comparators=[right])):
            try:
                return [_plain_call(left, _plain_value(right), candidate, entry_point, "same")]
            except _NotPlain:
                return [_plain_call(right, _plain_value(left), candidate, entry_point, "same")]
        case ast.Assert(
            test=ast.Call(func=ast.Name(id="is_same_list" | "is_same_tree"), args=[left, right], keywords=[])
        ):
            return [_plain_call(left, _plain_value(right), candidate, entry_point, "same")]
        case ast.Assert(test=ast.UnaryOp(op=ast.Not(), operand=ast.Call() as call)):
            return [_plain_call(call, False, candidate, entry_point, "false")]
        case ast.Assert(test=ast.Call() as call):
            return [_plain_call(call, True, candidate, entry_point, "true")]
    raise _NotPlain


def _plain_call(node: ast.expr, wanted: Any, candidate: str | None, entry_point: str, compare: str) -> CallCase:
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        raise _NotPlain
    if candidate is not None and node.func.id != candidate:
        raise _NotPlain
    if candidate is None and (node.func.id in _BUILTINS or node.func.id in ("is_same_list", "is_same_tree")):
        raise _NotPlain
    if any(keyword.arg is None for keyword in node.keywords):
        raise _NotPlain
    return CallCase(
        function=node.func.id if candidate is None else entry_point,
        args=tuple(_plain_value(argument) for argument in node.args),
        kwargs={str(keyword.arg): _plain_value(keyword.value) for keyword in node.keywords},
        wanted=(wanted,),
        compare=compare,
    )


def _plain_value(node: ast.expr) -> Any:
    match node:
        case ast.Call(func=ast.Name(id="list_node" | "tree_node" as maker), args=[argument], keywords=[]):
            values = _python_literal(argument)
            make = code_values.list_node if maker == "list_node" else code_values.tree_node
            return code_values.encode(make(values))
    return code_values.encode(_python_literal(node), keep_tuples=True)


def _python_literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        raise _NotPlain from None


_BUILTINS = frozenset(dir(__import__("builtins")))


def _called_names(statements: Sequence[ast.stmt]) -> tuple[tuple[str, ...], bool]:
    """Names that are called and not defined here, and whether ``check`` is defined."""
    defined: set[str] = set()
    called: set[str] = set()
    for statement in statements:
        for node in ast.walk(statement):
            match node:
                case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.arg(arg=name):
                    defined.add(name)
                case ast.Name(id=name, ctx=ast.Store()):
                    defined.add(name)
                case ast.alias(name=name, asname=alias):
                    defined.add(alias or name.split(".")[0])
                case ast.Call(func=ast.Name(id=name)):
                    called.add(name)
    return tuple(sorted(called - defined - _BUILTINS)), "check" in defined


def _is_rows(tests: Any) -> bool:
    return isinstance(tests, list) and bool(tests) and all(isinstance(t, dict) and "testtype" in t for t in tests)


def _call(function: str, args: Sequence[Any], wanted: Any) -> CallCase:
    return CallCase(
        function,
        tuple(code_values.encode(item, keep_tuples=True) for item in args),
        {},
        (code_values.encode(wanted),),
    )


def _function_of(metadata: Any, starter_code: str) -> str:
    if isinstance(metadata, str):
        metadata = _parsed(metadata)
    if isinstance(metadata, dict) and metadata.get("func_name"):
        return str(metadata["func_name"])
    names = [name for name in re.findall(r"^\s*def (\w+)\(", starter_code, re.MULTILINE) if name != "__init__"]
    if not names:
        raise ValueError("neither metadata.func_name nor starter code names the function to call")
    return f"Solution.{names[-1]}" if "class Solution" in starter_code else names[-1]


def _literal(text: str) -> Any:
    """A value written as JSON, else as Python; else the text itself."""
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
    return text


def _int_keys(value: Any) -> Any:
    """APPS stores dicts with integer keys as JSON; its runner turns keys back where all of them are integers."""
    if isinstance(value, list):
        return [_int_keys(item) for item in value]
    if isinstance(value, dict):
        try:
            return {int(key): _int_keys(item) for key, item in value.items()}
        except ValueError:
            return value
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected text, got {type(value).__name__}")
    return value


def _lines(value: Any) -> str:
    """APPS gives standard input and output as text or as a list of lines."""
    return "\n".join(map(str, value)) if isinstance(value, list) else _text(value)
