"""`strict_turns.steps`: in small pieces, what `strict.loads` makes at once, error for error."""

from __future__ import annotations

import json
import re
import time
import tracemalloc
from collections.abc import Iterator

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bridgehold import strict, strict_turns
from bridgehold.errors import UsageError
from bridgehold.protocol import plain
from bridgehold.steps import finished


@pytest.fixture(autouse=True, scope="module")
def in_small_pieces() -> Iterator[None]:
    """As long texts are read, in few bytes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strict_turns, "PIECE", 7)
        patch.setattr(strict_turns, "AT_ONCE", 0)
        patch.setattr(strict_turns, "LARGE", 5)
        yield


def outcome(made: object) -> tuple[object, ...]:
    """Comparable, with the kind of each value: 1, 1.0 and true differ."""
    return ("value", repr(made))


def at_once(data: bytes, **bounds: int) -> tuple[object, ...]:
    try:
        return outcome(strict.loads(data, **bounds))
    except strict.StrictError as error:
        return (error.reason, str(error), error.at)


def in_turns(data: bytes, **bounds: int) -> tuple[object, ...]:
    try:
        return outcome(finished(strict_turns.steps(data, **bounds)))
    except strict.StrictError as error:
        return (error.reason, str(error), error.at)


KEYS = st.sampled_from(["a", "b", "", "é", '"', "\\", "a,b", "{[", "\\u0041", "k" * 20])
TEXTS = st.text(st.sampled_from('ab,:[]{}"\\ \né\U0001f600'), max_size=12)
SCALARS = st.one_of(
    TEXTS,
    st.integers(-(2**66), 2**66),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([None, True, False, 10**18, 10**30, -(2**63), 2**64 - 1, 2**64]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=6), st.dictionaries(KEYS, inner, max_size=6)),
    max_leaves=40,
)
ODD = st.sampled_from(
    [
        *(
            b",",
            b",,",
            b"[",
            b"]",
            b"{",
            b"}",
            b":",
            b'"',
            b"\\",
            b'\\"',
            b" ",
            b"\n",
            b"null",
            b"NaN",
            b"1e999",
        ),
        *(
            b"01",
            b"-",
            b"1.",
            b"\xff",
            b"\xc3",
            b"\xa9",
            b"\xf0\x9f",
            b"\xed\xa0\x80",
            b"\x00",
            b'"a":1,',
            b"[,",
        ),
        *(b"99999999999999999999", b'{"a":1,"a":2}', b'"\\ud800"', b'"\\u00"', b"[" * 9, b"]" * 9, b'"' * 9),
    ]
)


@st.composite
def documents(draw: st.DrawFn) -> bytes:
    value = draw(VALUES)
    indent = draw(st.sampled_from([None, None, 1]))
    separators = draw(st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", " : ")]))
    said = json.dumps(value, ensure_ascii=draw(st.booleans()), indent=indent, separators=separators)
    data = said.encode()
    for _ in range(draw(st.integers(0, 2))):
        at, end = sorted((draw(st.integers(0, len(data))), draw(st.integers(0, len(data)))))
        kind = draw(st.sampled_from(["put", "cut", "drop", "twice"]))
        if kind == "put":
            data = data[:at] + draw(ODD) + data[at:]
        elif kind == "cut":
            data = data[:end]
        elif kind == "drop":
            data = data[:at] + data[min(end, at + 3) :]
        else:
            data = data[:end] + data[at:end] + data[end:]
    return data


@settings(max_examples=300, deadline=None)
@given(data=documents(), depth=st.integers(1, 6), values=st.integers(1, 60))
@example(b"[,1,2,3,4,5,6,7]", 6, 60)
@example(b'{"aaaaaaaa":{"b":1},"aaaaaaaa":2,"c":[1,2,3,4]}', 6, 60)
@example(b'[{"aaaa":1,"aaaa":{"bbbbbbbb":1,"cccc":[2,3,4]}}]', 6, 60)
@example(b"[[1,2,3,4,5},[1,2,3,4]]", 6, 60)
@example(b"1 , 2 , 3 , 4 , 5, 6", 6, 60)
@example(b"", 6, 60)
def test_what_is_read_in_turns_is_what_is_read_at_once(data: bytes, depth: int, values: int) -> None:
    for bounds in (
        {},
        {"max_depth": depth},
        {"max_values": values},
        {"max_depth": depth, "max_values": values},
    ):
        assert in_turns(data, **bounds) == at_once(data, **bounds)


FAULTS = st.sampled_from(
    [
        *(b"99999999999999999999", b"NaN", b"-Infinity", b"1e999", b'"\\ud800"', b'"\xff"', b'"a\xc3"'),
        *(b"[" * 61 + b"]" * 61, b'{"a":1,"b":2,"a":3}', b'{"k":[1,2,3,4,5,6,{"x":1}],"l":{},"k":3}'),
        *(b'{"x":[1,2,{"y":[1,2,3,4,5],"z,":[{}],"y":0}]}', b'[{"x":[1,2,3,"a,b",NaN]}]'),
    ]
)


@settings(max_examples=300, deadline=None)
@given(
    before=st.lists(VALUES, max_size=4),
    keys=st.lists(KEYS, min_size=1, max_size=3, unique=True),
    after=st.lists(VALUES, max_size=2),
    fault=FAULTS,
    spaces=st.sampled_from(["", " "]),
)
def test_a_fault_has_the_place_that_it_has_when_read_at_once(
    before: list[object], keys: list[str], after: list[object], fault: bytes, spaces: str
) -> None:
    value: object = [*before, "FAULT", *after]
    for key in keys:
        value = {"first": before, key + "!": value, "last": after}
    plain_numbers = json.dumps(value, separators=("," + spaces, ":" + spaces))
    data = re.sub(r"\d{19,}", "7", plain_numbers).encode().replace(b'"FAULT"', fault)

    def told() -> tuple[str, str, str | None]:
        with pytest.raises(UsageError) as caught:
            plain.loads(data, name="arguments")
        return caught.value.message, caught.value.where, caught.value.hint

    found = told()
    with pytest.MonkeyPatch.context() as patch:
        for name, size in (("PIECE", 1 << 30), ("AT_ONCE", 1 << 30), ("LARGE", 1 << 30)):
            patch.setattr(strict_turns, name, size)
        assert found == told()


def test_a_key_that_stands_twice_among_very_many_is_found_in_no_time() -> None:
    """Each of them was compared with all before it: 20,000 kept the host's loop for seconds, a frame for an hour."""
    many = b",".join(b'"%d":1' % number for number in range(100_000))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strict_turns, "PIECE", 1 << 15)
        began = time.process_time()
        with pytest.raises(UsageError, match="two keys are both spelled '99999'"):
            plain.loads(b"{%b,%b}" % (many, b'"99999":2'))
        assert time.process_time() - began < 20


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 200_000,
        b"[[]" * 100_000,
        b"[1 " * 100_000,
        b'""' * 200_000,
        b'[1,"' + b'\\"' * 200_000,
        b"[[[]]]" * 99_999,
        (b"[" * 32_700 + b"]" * 32_700 + b",") * 3,
        (b"[{" * 16_300 + b"}]" * 16_300 + b",") * 3,
    ],
)
def test_what_is_no_json_is_refused_in_linear_time(text: bytes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strict_turns, "PIECE", 1 << 15)
        began = time.process_time()
        assert in_turns(text)[0] in ("json", "depth")
        assert time.process_time() - began < 20


def test_how_deep_a_text_is_makes_it_no_larger_than_it_is() -> None:
    """Each piece kept a copy of all that was open around it: 8 MiB took 1 GiB of the host's, 64 MiB sixty-four times that."""
    text = (b"[" * 32_765 + b"1,") * 64
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strict_turns, "PIECE", 1 << 15)
        patch.setattr(strict_turns, "LARGE", 1 << 20)
        tracemalloc.start()
        try:
            assert in_turns(text)[0] == "values"
            with pytest.raises(UsageError):
                plain.loads(text + b"\xff")
            most = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert most < 12 * len(text)
