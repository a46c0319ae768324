"""The host's codec against the golden vectors, hostile streams and random bytes."""

from __future__ import annotations

import base64
import contextlib
import json
import tracemalloc
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridgehold import strict
from bridgehold.bridges import frames
from bridgehold.bridges.frames import CallFrame, CancelFrame, FaultFrame, ResultFrame, StrayFrame
from bridgehold.bridges.wire import WIRE_REASONS, FrameReader, WireError, encode
from bridgehold.errors import LimitError, UsageError

VECTORS = Path(__file__).parent.parent / "vectors" / "wire"
STAMP = "2026-01-02T03:04:05.678+00:00"


def vectors(name: str) -> list[Any]:
    listed = json.loads((VECTORS / f"{name}.json").read_text(encoding="utf-8"))
    return [pytest.param(vector, id=vector["name"]) for vector in listed]


def body_of(vector: dict[str, Any]) -> bytes:
    if "hex" in vector:
        return bytes.fromhex(vector["hex"])
    if "build" in vector:
        before, part, times, after = vector["build"]
        return (before + part * times + after).encode()
    return str(vector["text"]).encode()


def framed(body: bytes | str) -> bytes:
    data = body.encode() if isinstance(body, str) else body
    return len(data).to_bytes(4, "big") + data


READY = framed('{"type":"ready","bridge":"b","version":"1","operations":[]}')


def ready_reader(*ids: int, **bounds: int) -> FrameReader:
    reader = FrameReader(**bounds)
    reader.feed(READY)
    for call_id in ids:
        reader.expect(call_id)
    return reader


def result(call_id: int, value: str = "1") -> bytes:
    return framed(f'{{"id":{call_id},"success":true,"result":{value}}}')


@pytest.mark.parametrize("vector", vectors("guest_frames"))
def test_guest_frames_are_believed(vector: dict[str, Any]) -> None:
    reader = FrameReader() if vector["kind"] == "ReadyFrame" else ready_reader(1, 2, 7)
    (frame,) = reader.feed(framed(vector["text"]))
    assert type(frame).__name__ == vector["kind"]
    assert json.loads(msgspec.json.encode(frame)) == vector["fields"]


@pytest.mark.parametrize("vector", vectors("host_frames"))
def test_host_frames_have_these_bytes(vector: dict[str, Any]) -> None:
    frame = msgspec.convert(vector["fields"], getattr(frames, vector["kind"]))
    assert encode(frame, timestamp=STAMP) == framed(vector["text"])


@pytest.mark.parametrize("vector", vectors("parted"))
def test_bytes_beside_a_frame_have_this_form(vector: dict[str, Any]) -> None:
    data, part = bytes.fromhex(vector["hex"]), bytes.fromhex(vector["part"])
    said = {**vector["said"], "base64": part}
    if vector["from"] == "guest":
        for step in (1, 3, len(data)):
            reader = ready_reader(1)
            (frame,) = [f for at in range(0, len(data), step) for f in reader.feed(data[at : at + step])]
            assert frame == ResultFrame(id=vector["id"], result=said)
            assert (reader.buffered, reader.within_part) == (0, False)
        return
    call = frames.CallFrame(id=vector["id"], command=vector["command"], args=said)
    assert encode(call, timestamp=STAMP, parts=True) == data
    told = json.loads(encode(call, timestamp=STAMP)[4:])  # to a guest that takes none
    assert told["args"] == {**vector["said"], "base64": base64.b64encode(part).decode()}
    assert "part" not in told
    with pytest.raises(LimitError):
        encode(call, max_bytes=len(data) - 9, parts=True)


@pytest.mark.parametrize("vector", vectors("parted_broken"))
def test_bytes_beside_no_sound_frame_break_the_wire(vector: dict[str, Any]) -> None:
    reader = ready_reader(1)
    with pytest.raises(WireError) as caught:
        reader.feed(bytes.fromhex(vector["hex"]))
    assert caught.value.reason == vector["reason"]
    assert (reader.buffered, reader.within_part) == (0, False)


def test_a_part_is_one_only_once_its_json_is_there() -> None:
    """What of a frame counts as bytes that nobody looks through: no JSON, and nothing that may become some."""
    data = bytes.fromhex(vectors("parted")[0].values[0]["hex"])
    reader, begins = ready_reader(1), len(data) - 5
    seen = []
    for at in range(len(data)):
        reader.feed(data[at : at + 1])
        seen.append(reader.within_part)
    assert seen == [at >= begins - 1 for at in range(len(data) - 1)] + [False]
    reader = ready_reader(1)
    reader.feed(((1 << 31) | 4096).to_bytes(4, "big") + (64).to_bytes(4, "big") + b"{" * 63)
    assert not reader.within_part


def test_a_part_is_the_same_however_it_comes_and_takes_no_more_than_it_is_long() -> None:
    said = b'{"id":1,"success":true,"result":{},"part":"result.base64"}'
    part = bytes(range(256)) * 128
    size = 4 + len(said) + len(part)
    data = (1 << 31 | size).to_bytes(4, "big") + len(said).to_bytes(4, "big") + said + part
    then = data[:4] + data[4:].replace(b'"id":1', b'"id":2', 1)
    for width in (1, 4096, 16 * 1024, 100_000, len(data), 3 * len(data)):
        reader, stream = ready_reader(1, 2), data + then
        tracemalloc.start()
        found, most = [], 0
        for at in range(0, len(stream), width):
            found += reader.feed(stream[at : at + width])
            if width == 1 and at == len(data) - 2:
                most = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert [one.result["base64"] == part for one in found] == [True, True]  # type: ignore[index, union-attr]
        assert (reader.buffered, reader.within_part) == (0, False)
        assert most < 2 * len(data)  # no object for each byte
    reader = ready_reader(1)
    reader.feed(data[:-1])
    with pytest.raises(WireError, match="unexpected_end"):
        reader.end()
    assert reader.buffered == 0


@pytest.mark.parametrize("vector", vectors("invalid"))
def test_invalid_bytes_are_refused_with_their_reason(vector: dict[str, Any]) -> None:
    reader = ready_reader(1)
    with pytest.raises(WireError) as caught:
        reader.feed(framed(body_of(vector)))
    assert caught.value.reason == vector["reason"]
    assert caught.value.code == "protocol"
    with pytest.raises(WireError, match="broken already"):
        reader.feed(result(1))
    assert reader.buffered == 0


@pytest.mark.parametrize("vector", vectors("misshapen"))
def test_misshapen_frames_are_refused(vector: dict[str, Any]) -> None:
    with pytest.raises(WireError) as caught:
        ready_reader(1).feed(framed(vector["text"]))
    assert caught.value.reason == "shape"


@pytest.mark.parametrize("length", [0, 1, 2048 + 1025, 0x48656C6C, 2**32 - 1])
def test_a_length_is_refused_before_anything_is_kept(length: int) -> None:
    reader = ready_reader(max_frame=2048)
    with pytest.raises(WireError) as caught:
        reader.feed(length.to_bytes(4, "big"))
    assert caught.value.reason == "length"


def test_half_a_frame_holds_no_more_than_what_came() -> None:
    reader = ready_reader(1)
    tracemalloc.start()
    reader.feed((8 << 20).to_bytes(4, "big") + b'{"id"')
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert reader.buffered == 9
    assert peak < 64 * 1024
    with pytest.raises(WireError) as caught:
        reader.end()
    assert caught.value.reason == "unexpected_end"


def test_frames_come_out_whole_however_they_are_cut() -> None:
    stream = READY + b"".join(result(number, f'"{number}é"') for number in range(30))
    for step in (1, 2, 3, 7, 1000, len(stream)):
        reader = FrameReader()
        for number in range(30):
            reader.expect(number)
        found = [
            f for start in range(0, len(stream), step) for f in reader.feed(stream[start : start + step])
        ]
        assert found[1:] == [ResultFrame(id=number, result=f"{number}é") for number in range(30)]
        assert (reader.buffered, reader.frames) == (0, 31)
        reader.end()


def test_a_reply_reaches_its_call_once_and_nobody_else() -> None:
    reader = ready_reader(1, 2, 3)
    reader.forget(2)
    found = reader.feed(result(1) + result(1) + result(2) + result(9))
    assert found == [
        ResultFrame(id=1, result=1),
        StrayFrame(id=1, kind="result", reason="late"),
        StrayFrame(id=2, kind="result", reason="late"),
        StrayFrame(id=9, kind="result", reason="unknown"),
    ]
    late = reader.feed(
        framed('{"type":"chunk","id":1,"seq":4,"data":1}')
        + framed('{"type":"progress","id":2,"done":1,"total":1}')
    )
    assert [frame.kind for frame in late if isinstance(frame, StrayFrame)] == ["chunk", "progress"]


def test_order_before_and_after_ready() -> None:
    for early in (result(1), framed('{"type":"progress","id":1,"done":1,"total":1}')):
        with pytest.raises(WireError, match="before `ready`"):
            FrameReader().feed(early)
    with pytest.raises(WireError, match="second time"):
        ready_reader().feed(READY)
    fault = (
        '{"id":0,"success":false,"error":{"type":"E","message":"m","code":"missing_module","alive":false}}'
    )
    (frame,) = FrameReader().feed(framed(fault))
    assert isinstance(frame, FaultFrame)
    (stray,) = ready_reader().feed(framed(fault))
    assert isinstance(stray, StrayFrame)


def test_chunks_are_counted() -> None:
    def chunk(seq: int) -> bytes:
        return framed(f'{{"type":"chunk","id":1,"seq":{seq},"data":null}}')

    assert len(ready_reader(1).feed(chunk(0) + chunk(1) + chunk(2))) == 3
    for wrong in (chunk(1), chunk(0) + chunk(0), chunk(0) + chunk(2)):
        with pytest.raises(WireError) as caught:
            ready_reader(1).feed(wrong)
        assert caught.value.reason == "order"


def test_what_can_not_be_sent_is_refused_here() -> None:
    deep: Any = []
    for _ in range(80):
        deep = [deep]
    for value in (float("nan"), float("inf"), b"x", {1, 2}, "\ud800", 2**64, -(2**63) - 1, deep, object()):
        with pytest.raises(UsageError) as caught:
            encode(CallFrame(id=1, command="a:b", args={"x": value}))
        assert caught.value.hint
    with pytest.raises(LimitError):
        encode(CallFrame(id=1, command="a:b", args={"x": "y" * 2000}), max_bytes=1000)
    assert encode(CancelFrame(id=3)) == framed('{"type":"cancel","id":3}')


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=200), max_size=5), st.booleans())
def test_random_bytes_raise_nothing_else(pieces: list[bytes], lengths: bool) -> None:
    reader = ready_reader(1, max_frame=4096)
    fed = 0
    caught: WireError | None = None
    try:
        for piece in pieces:
            data = framed(piece) if lengths else piece
            fed += len(data)
            reader.feed(data)
            assert reader.buffered <= fed
        reader.end()
    except WireError as error:
        caught = error
    assert caught is None or (caught.reason in WIRE_REASONS and len(caught.message) < 600)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=5)
    ),
    max_leaves=30,
)


@settings(max_examples=300, deadline=None)
@given(json_values, st.booleans())
def test_every_json_value_comes_through_in_any_spelling(value: Any, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    (frame,) = ready_reader(1).feed(result(1, text))
    assert isinstance(frame, ResultFrame)
    assert frame.result == value


@settings(max_examples=300, deadline=None)
@given(json_values, st.booleans(), st.integers(1, 40))
def test_what_stands_outside_strings_is_found_however_a_text_is_taken_apart(
    value: Any, ascii_only: bool, piece: int
) -> None:
    text = json.dumps([value, "\\", '\\"', value], ensure_ascii=ascii_only).encode("utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strict, "_PIECE", piece)
        outside = strict.outside_strings(text)
        assert outside.replace(b'"', b"") == strict.STRING.sub(b"", text)
        assert strict.outside_strings(b'12"a,b"34') == b'12"34', "two numbers are no longer one"


@settings(max_examples=400, deadline=None)
@given(json_values, st.data())
def test_mangled_json_is_read_as_a_strict_parser_reads_it(value: Any, data: st.DataObject) -> None:
    """One byte changed: either refused, or the value that the standard parser reads too."""
    text = bytearray(json.dumps([value, value]).encode())
    text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = strict.loads(bytes(text))
    except strict.StrictError:
        return

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(pairs)) == len(pairs)
        return dict(pairs)

    assert found == json.loads(bytes(text).decode("utf-8"), object_pairs_hook=unique)


@pytest.mark.parametrize(
    "body",
    [
        b'\\"' * (1 << 20),
        b'"' + b'\\"' * (1 << 20),
        b'"' + b"\\" * (1 << 20),
        b"-" * (1 << 20),
        (b"1" * 19 + b".") * 50_000,
        b"0." + b"1" * (1 << 20),
        b"[" * (1 << 20),
    ],
)
def test_no_text_takes_more_than_linear_time(body: bytes) -> None:
    """Would run into the suite's time limit for minutes if a scan were quadratic."""
    with contextlib.suppress(strict.StrictError):
        strict.loads(body)


@pytest.mark.parametrize("item", [b"{}", b"[]", b"1", b'"a"', b'{"a":1}', b"[[]]"])
def test_more_values_than_one_decode_may_make_are_refused_before_any_is_made(
    item: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bound is on what a frame may make its host allocate."""
    made: list[bytes] = []
    monkeypatch.setattr(strict, "decode", made.append)
    most = 1_000
    for body in (
        b"[" + item + (b"," + item) * most + b"]",
        b'{"a":' + item + (b',"b":' + item) * most + b"}",
    ):
        with pytest.raises(strict.StrictError, match=f"more than {most} values") as refused:
            strict.loads(body, max_values=most)
        assert refused.value.reason == "values"
    assert not made
    assert strict.MAX_VALUES == 1_000_000


@pytest.mark.parametrize(
    "body", [b"[%b" % (b"1," * 500_000), b'{"id":1,"success":true,"x":%b}' % (b" " * 1_000_000)]
)
def test_an_error_that_somebody_keeps_holds_nothing_of_its_frame(body: bytes) -> None:
    kept: list[WireError] = []
    tracemalloc.start()
    try:
        for _ in range(10):
            reader = FrameReader()
            try:
                reader.feed(framed(body))
            except WireError as error:
                kept.append(error)
        assert tracemalloc.get_traced_memory()[0] < len(body)
    finally:
        tracemalloc.stop()
    assert {error.reason for error in kept} <= {"json", "shape"}
    assert len(kept) == 10
