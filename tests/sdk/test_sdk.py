"""Results, resources, operations and errors of the guest side, without a sandbox: our code only."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import pathlib
import uuid
from typing import Any, NamedTuple

import pytest

from bridgehold_sdk import (
    Bridge,
    Cancelled,
    InvalidInput,
    NotPlain,
    ProviderNotGranted,
    ResourceNotFound,
    Store,
    operation,
)
from bridgehold_sdk.bridge import operations_of
from bridgehold_sdk.faults import describe
from bridgehold_sdk.plain import to_plain


@dataclasses.dataclass
class Point:
    x: int
    tags: tuple[str, ...] = ()


class Colour(enum.Enum):
    RED = "red"


class Pair(NamedTuple):
    left: int
    right: int


class Scalar:
    """Shaped as numpy's scalars are."""

    ndim = 0

    def __init__(self, value: object) -> None:
        self._value = value

    def item(self) -> object:
        return self._value


class Array:
    ndim, dtype = 1, "float64"

    def tolist(self) -> list[float]:
        return [1.0, 2.0]


class Model:
    def model_dump(self) -> dict[str, Any]:
        return {"answer": Point(1)}


class Word(str):
    __slots__ = ()


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (None, None),
        (True, True),
        ((1, [2.5, "x"]), [1, [2.5, "x"]]),
        ({3, 1, 2}, [1, 2, 3]),
        (frozenset(["b", "a"]), ["a", "b"]),
        (Point(1, ("a",)), {"x": 1, "tags": ["a"]}),
        (Pair(1, 2), [1, 2]),
        (Colour.RED, "red"),
        ({Colour.RED: 1, 2: 3}, {"red": 1, "2": 3}),
        (Word("w"), "w"),
        (datetime.datetime(2026, 1, 2, 3, tzinfo=datetime.timezone.utc), "2026-01-02T03:00:00+00:00"),  # noqa: UP017
        (datetime.date(2026, 1, 2), "2026-01-02"),
        (datetime.timedelta(seconds=90), 90.0),
        (datetime.timedelta(microseconds=100_001), 0.100001),
        (datetime.timedelta(days=-1, microseconds=1), -86399.999999),
        (datetime.time(1, 2, 3, 4), "01:02:03.000004"),
        (pathlib.PurePosixPath("/a/b"), "/a/b"),
        (uuid.UUID(int=5), "00000000-0000-0000-0000-000000000005"),
        (decimal.Decimal("1.10"), "1.10"),
        (Scalar(4), 4),
        ([Scalar(1.5)], [1.5]),
        (Array(), [1.0, 2.0]),
        (Model(), {"answer": {"x": 1, "tags": []}}),
        (2**64 - 1, 2**64 - 1),
    ],
)
def test_values_become_plain(value: object, plain: object) -> None:
    found = to_plain(value)
    assert found == plain
    assert type(found) is type(plain)


LOOP: list[Any] = []
LOOP.append(LOOP)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a": [1, float("nan")]}, "result.a[1]: nan is no JSON"),
        (float("-inf"), "result: -inf"),
        (Scalar(float("nan")), "nan is no JSON"),
        (datetime.timedelta.max, "no float holds this duration's seconds"),
        ({"a": ["é", "lone \ud800"]}, "result.a[1]: text with a lone surrogate at character 5"),
        ({"\udfff": 1}, "a key of result: text with a lone surrogate at character 0"),
        (pathlib.PurePosixPath("\udce9"), "result: text with a lone surrogate"),
        ([b"x"], "result[0]: bytes can't cross the wire; return base64 text"),
        (bytearray(b"x"), "base64"),
        (2**64, "beyond 64 bits"),
        ({"f": print}, "result.f: builtins.builtin_function_or_method can't cross"),
        (object, "can't cross the wire"),
        ({b"k": 1}, "a key of type bytes"),
        ({1: 1, "1": 2}, "two keys are both spelled '1'"),
        (LOOP, "refers to itself"),
        ([0] * 1_000_000, "more than 900000 values"),
    ],
)
def test_what_is_not_plain_says_where_and_what_instead(value: object, text: str) -> None:
    with pytest.raises(NotPlain) as caught:
        to_plain(value)
    assert text in str(caught.value)


def test_a_store_makes_and_checks_ids() -> None:
    store: Store[str] = Store("program", capacity=4)
    assert store.add("a") == "program_1"
    assert store.add("b", "program_2") == "program_2"
    assert store.add("c") == "program_3"
    assert store.get("program_2") == "b"
    assert (list(store), len(store), "program_1" in store) == (
        ["program_1", "program_2", "program_3"],
        3,
        True,
    )
    for wrong in ("", "x" * 201, "line\nbreak", "program_1"):
        with pytest.raises(InvalidInput):
            store.add("d", wrong)
    assert store.delete("program_1") == "a"
    with pytest.raises(ResourceNotFound, match=r"no program with id 'program_1'"):
        store.get("program_1")
    store.add("e")
    store.add("f")
    with pytest.raises(InvalidInput, match="most a session holds"):
        store.add("g")
    assert store.clear() == 4


def test_operations_are_collected_with_their_facts() -> None:
    class Base(Bridge):
        @operation(effect="read", resource="thing", id_field="id")
        def look(self, id: str) -> None: ...  # noqa: A002 - as an author writes it

    class Sample(Base):
        @operation(name="go_on", stream=True)
        def advance(self) -> None: ...

    found = operations_of(Sample)
    assert sorted(found) == ["go_on", "look"]
    assert (found["look"].effect, found["look"].resource, found["look"].id_field) == ("read", "thing", "id")
    assert (found["go_on"].method, found["go_on"].stream) == ("advance", True)

    class Twice(Sample):
        @operation(name="look")
        def other(self) -> None: ...

    with pytest.raises(TypeError, match="two methods"):
        operations_of(Twice)
    with pytest.raises(ValueError, match="none of create"):
        operation(effect="destroy")
    with pytest.raises(TypeError, match=r"asyncio\.run"):

        class Async(Bridge):
            @operation()
            async def wait(self) -> None: ...


def test_a_bridge_that_is_not_attached_says_so() -> None:
    with pytest.raises(RuntimeError, match=r"from open\(\) on"):
        Bridge().provider("openai")


def raised(error: BaseException) -> BaseException:
    with pytest.raises(BaseException) as caught:
        raise error
    return caught.value


def test_faults_are_bounded_and_coded() -> None:
    here = str(pathlib.Path(__file__).parent)
    for error, code in (
        (InvalidInput("x"), "invalid_input"),
        (ResourceNotFound("thing", "x"), "not_found"),
        (ProviderNotGranted("x", []), "application"),
        (Cancelled(), "cancelled"),
        (ModuleNotFoundError("no", name="abc"), "missing_module"),
        (SystemExit(3), "application"),
        (RuntimeError("x" * 100_000), "application"),
        (ValueError("mine"), "invalid_input"),
    ):
        fault = describe(raised(error), here)
        assert fault["code"] == code
        assert len(fault["message"]) <= 2_000
        assert len(fault["traceback"]) <= 8_100
    assert describe(raised(ValueError("deeper")), "/elsewhere")["code"] == "application"

    class HostileError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    assert describe(raised(HostileError()))["message"] == "<unprintable>"
    surrogate = describe(raised(RuntimeError("\ud800")))
    assert surrogate["message"] == "\\ud800"
    surrogate["traceback"].encode()
