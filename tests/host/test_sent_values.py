"""What a caller sends: as it was meant, or refused before it leaves, with its place and what to do."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import itertools
import json
import math
import pathlib
import re
import uuid
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import bridgehold_sdk.given as guest_given
from bridgehold.client import execution
from bridgehold.errors import ProtocolError, UsageError
from bridgehold.host.front.connection import _request
from bridgehold.protocol.plain import MAX_DEPTH, loads, to_plain


class Word(str):
    __slots__ = ()


class Count(int):
    pass


class Ratio(float):
    pass


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


@dataclasses.dataclass
class Point:
    x: float
    tags: tuple[str, ...] = ()


class Kept(msgspec.Struct):
    a: int
    when: datetime.date


class Cell:
    """As numpy's scalars and arrays are."""

    def __init__(self, value: Any, kind: str = "f", ndim: int = 0) -> None:
        self._value, self.ndim = value, ndim
        self.dtype = type("dtype", (), {"kind": kind})

    def item(self) -> Any:
        return self._value

    tolist = item


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Word("w"), "w"),
        (Count(2**60), 2**60),
        (Ratio(0.5), 0.5),
        (Level.HIGH, 3),
        ({Colour.RED: Colour.RED, 7: True, Word("k"): None}, {"red": "red", "7": True, "k": None}),
        ((1, [2.5, {"x": ()}]), [1, [2.5, {"x": []}]]),
        ({3, 1}, [1, 3]),
        (Point(1.5, ("a",)), {"x": 1.5, "tags": ["a"]}),
        (Kept(1, datetime.date(2026, 1, 2)), {"a": 1, "when": "2026-01-02"}),
        (pathlib.Path("/a/b"), "/a/b"),
        (decimal.Decimal("1.10"), "1.10"),
        (uuid.UUID(int=5), "00000000-0000-0000-0000-000000000005"),
        (datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC), "2026-01-02T00:00:00+00:00"),
        (datetime.time(1, 2), "01:02:00"),
        ([Cell(1.5), Cell([1, 2], "i", 1)], [1.5, [1, 2]]),
        ([2**64 - 1, -(2**63)], [2**64 - 1, -(2**63)]),
    ],
)
def test_what_loses_nothing_is_converted(value: object, plain: object) -> None:
    found = to_plain(value, "arguments")
    assert (json.dumps(found), type(found)) == (json.dumps(plain), type(plain))


LOOP: dict[str, Any] = {}
LOOP["again"] = [LOOP]


@pytest.mark.parametrize(
    ("value", "where", "text"),
    [
        ({"data": [1, 2, 3, {"x": math.nan}]}, "arguments.data[3].x", "nan, which JSON has not"),
        ([1.0, -math.inf], "arguments[1]", "-inf"),
        (Cell(math.nan), "arguments", "nan"),
        ({"b": b"x"}, "arguments.b", "bytes"),
        ([bytearray(b"x")], "arguments[0]", "bytes"),
        ([1, 2**64], "arguments[1]", "beyond 64 bits"),
        (["fine", "lone \ud800"], "arguments[1]", "a lone surrogate at character 5"),
        ({"\udfff": 1}, "a key of arguments", "surrogate"),
        ({None: 1}, "arguments", "a key of type NoneType"),
        ({"k": {(1, 2): 1}}, "arguments.k", "a key of type tuple"),
        ({True: 1}, "arguments", "a key of type bool"),
        ({1: 1, "1": 2}, "arguments", "two keys are both spelled '1'"),
        ({"f": print}, "arguments.f", "builtins.builtin_function_or_method can't be sent"),
        (object, "arguments", "builtins.type can't be sent"),
        (datetime.timedelta(1), "arguments", "datetime.timedelta can't be sent"),
        (Cell(5, "M"), "arguments", "Cell can't be sent"),
        (complex(1, 2), "arguments", "complex can't be sent"),
    ],
)
def test_what_would_lose_is_refused_with_its_place(value: object, where: str, text: str) -> None:
    with pytest.raises(UsageError) as caught:
        to_plain(value, "arguments")
    assert caught.value.where == where
    assert text in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    "make", [lambda: LOOP, lambda: __import__("functools").reduce(lambda a, _: [a], range(9_999), 1)]
)
def test_what_refers_to_itself_is_refused(make: Callable[[], object]) -> None:
    with pytest.raises(UsageError, match=f"nested deeper than {MAX_DEPTH}, or refers to itself"):
        to_plain(make(), "arguments")


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(VALUES)
def test_plain_values_arrive_as_they_are(value: object) -> None:
    arrived = msgspec.json.decode(msgspec.json.encode(to_plain(value, "arguments")))
    assert repr(arrived) == repr(value)


WRONG = {
    "NaN": "nan",
    "-1e400": "-inf",
    str(2**64): "64 bits",
    r'"q\"\\\ud800"': "at character 3",
    '{"k": 1, "k": 2}': "'k'",
}
TEXT = st.text(st.characters(codec="utf-8")) | st.sampled_from(["NaN", '"[{', "\\", "1e999", ",", "\\ud800"])
MIXED = st.recursive(
    st.none() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


@given(
    st.lists(st.tuples(st.lists(MIXED, max_size=3), TEXT | st.none()), max_size=5),
    st.sampled_from(list(WRONG)),
)
def test_what_is_wrong_in_json_is_told_by_its_place_whatever_stands_before_it(
    around: list[tuple[list[Any], str | None]], wrong: str
) -> None:
    text, place = wrong, ""
    for before, key in around:
        if key is None:
            text = json.dumps([*before, 0])[:-2] + text + "]"
            place = f"[{len(before)}]{place}"
        else:
            text = (
                json.dumps({f"{index} {key}": item for index, item in enumerate(before)} | {key: 0})[:-2]
                + text
                + "}"
            )
            place = f".{key}{place}"
    with pytest.raises(UsageError) as caught:
        loads(text.encode(), name="arguments")
    assert caught.value.where == f"arguments{place}"[:200]
    assert f"{WRONG[wrong]}" in caught.value.message


@pytest.mark.parametrize("size", [100, 40_000, 2_000_000])
def test_a_frame_with_a_fault_is_its_callers_whichever_way_round_it_stands(size: int) -> None:
    value = b'"params": {"x": ["%b", NaN, {"id": 9, "method": "no"}]}' % (b"a" * size)
    said = [b'"id": 7', b'"method": "call"', value]
    for order in itertools.permutations(said):
        found = _request(b"{%b}" % b" , ".join(order))
        assert (found.id, found.method) == (7, "call")
        assert found.fault is not None
        assert ("x[1]" in found.fault.message) == (size < 1_000_000), "a large one costs a look at its ends"
    if size > 100:
        for unclear in ([*said, b'"id": 8'], said[1:], [value, *said], [b'"id": -1', *said[1:]]):
            with pytest.raises(ProtocolError):
                _request(b"{%b}" % b",".join(unclear))


@pytest.mark.parametrize(
    "broken", ["]", '"', '["\\', "[1,]", "NaN]", "[" * 200, '{"a" "b"}', '[1e400,"\\ud800']
)
def test_what_is_no_json_is_refused_whatever_it_resembles(broken: str) -> None:
    with pytest.raises(UsageError):
        loads(broken.encode())
    with pytest.raises(UsageError):
        loads(b'{"data": [' + b'"a", ' * 50_000 + broken.encode(), name="arguments")


class NotATime(datetime.datetime):
    """As pandas' NaT is one."""

    def __eq__(self, other: object) -> bool:
        return False

    def __hash__(self) -> int:
        return 0


class Finer(datetime.datetime):
    """As pandas' `Timestamp` is one."""

    nanosecond = 1


TAGGED = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
    | st.binary(max_size=5) | st.dates() | st.datetimes().map(lambda found: found.replace(fold=0)),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["$bytes", "$float", "$object", "$frame", "$", "a"]), inner, max_size=2),
    max_leaves=8,
)  # fmt: skip


@given(TAGGED)
def test_a_variable_is_in_the_code_what_it_was_and_comes_back_so(value: Any) -> None:
    """Also one that looks like what something else is sent as."""
    sent = to_plain({"v": execution.encoded(value, "arguments.variables.v")}, "arguments")
    inside = guest_given.decoded(json.loads(json.dumps(sent))["v"])
    assert repr(inside) == repr(value)
    back = execution.decoded(json.loads(json.dumps(guest_given.encoded(inside))))
    assert repr(back) == repr(value)


def test_a_variable_of_another_type_is_the_value_or_refused_with_its_place() -> None:
    for value, inside in (
        (Ratio("nan"), math.nan),
        (Ratio("-inf"), -math.inf),
        (memoryview(b"x"), b"x"),
        (bytearray(b"x"), b"x"),
        (True, True),
    ):
        sent = to_plain(execution.encoded(value, "arguments.variables.v"), "arguments.variables.v")
        assert repr(guest_given.decoded(sent)) == repr(inside)
    deep: list[Any] = []
    deep.append(deep)
    for wrong in (
        deep,
        [[{"a": NotATime(2020, 1, 1)}]],
        [Finer(2020, 1, 1)],
        {"a": object()},
    ):
        with pytest.raises(UsageError) as caught:
            to_plain(execution.encoded(wrong, "arguments.variables.v"), "arguments.variables.v")
        assert caught.value.where.startswith(("arguments.variables.v[0]", "arguments.variables.v.a"))
        assert caught.value.hint


class Broken(dict[str, int]):
    def items(self) -> Any:
        raise OSError("no such table")


def test_what_raises_while_it_is_read_is_refused_with_its_place() -> None:
    for wrong, what in (
        ({"a": [Broken(a=1)]}, "Broken can't be read: OSError: no such table"),
        ({"a": [type("Model", (), {"model_dump": lambda self: 1 / 0})()]}, "ZeroDivisionError"),
        ({"a": [Cell(property, "f", 1)]}, "can't be sent"),
    ):
        for send in (to_plain, lambda value, where: to_plain(execution.encoded(value, where), where)):
            with pytest.raises(UsageError, match=re.escape(what)) as caught:
                send(wrong, "arguments.v")
            assert caught.value.where == "arguments.v.a[0]"
            assert caught.value.hint
    with pytest.raises(UsageError, match="can't be read: ValueError: Exceeds the limit"):
        execution.encoded(10**5_000, "arguments.v")


def test_a_variable_keeps_what_json_has_not_in_arrays_and_dataclasses() -> None:
    for value, inside in (
        (Point(math.inf, ("a",)), {"x": math.inf, "tags": ["a"]}),
        (Cell([1.5, math.nan], "f", 1), [1.5, math.nan]),
        (Cell(-math.inf), -math.inf),
    ):
        sent = to_plain(execution.encoded(value, "arguments.variables.v"), "arguments.variables.v")
        assert repr(guest_given.decoded(sent)) == repr(inside)
