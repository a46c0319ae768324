"""The wire of DSPex and Snakepit without I/O: bytes to frames, bodies to values, all of them bounded."""

from __future__ import annotations

import json
import math
import time
import tracemalloc

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridgehold.bridges.legacy import messages
from bridgehold.bridges.legacy.bodies import TURN, decode_values, format_of, plain_json
from bridgehold.bridges.legacy.frames import Splitter, pack
from bridgehold.errors import ProtocolError


@given(st.lists(st.binary(max_size=300), max_size=8), st.integers(1, 50))
def test_frames_come_out_as_they_went_in_wherever_the_stream_is_cut(bodies: list[bytes], step: int) -> None:
    stream = b"".join(map(pack, bodies))
    splitter = Splitter(300)
    found = [
        body for start in range(0, len(stream), step) for body in splitter.feed(stream[start : start + step])
    ]
    assert found == bodies
    assert splitter.frames == len(bodies)
    splitter.finish()


def test_text_where_a_length_belongs_is_named() -> None:
    with pytest.raises(ProtocolError, match=r"1214606444 bytes.*'Hell'.*text, not a frame"):
        Splitter(1 << 20).feed(b"Hello")


def test_a_length_beyond_the_bound_is_refused_before_its_body_comes() -> None:
    splitter = Splitter(1000)
    assert splitter.feed(pack(b"x" * 1000)) == [b"x" * 1000]
    with pytest.raises(ProtocolError, match="at most 1000"):
        splitter.feed((1001).to_bytes(4, "big"))


def test_a_stream_that_ends_inside_a_frame_is_an_error() -> None:
    splitter = Splitter(1000)
    splitter.feed(pack(b"abc")[:-1])
    with pytest.raises(ProtocolError, match="inside a frame"):
        splitter.finish()


REQUEST = {"id": 7, "command": "echo", "args": {"text": "grüße 🎈", "n": [1, 2.5, None]}, "timestamp": "t"}


@pytest.mark.parametrize("written_in", ["json", "msgpack"])
def test_a_request_is_read_in_both_formats(written_in: str) -> None:
    body = json.dumps(REQUEST).encode() if written_in == "json" else msgspec.msgpack.encode(REQUEST)
    assert format_of(body) == written_in
    request = messages.read_request(body)
    assert isinstance(request, messages.Request)
    assert (request.id, request.command, request.args, request.format) == (
        7,
        "echo",
        REQUEST["args"],
        written_in,
    )


def test_nan_and_halves_of_pairs_do_not_keep_a_request_from_being_read() -> None:
    body = json.dumps({"id": 1, "command": "x", "args": {"a": float("nan"), "b": "\ud800é😀 NaN"}}).encode()
    request = messages.read_request(body)
    assert isinstance(request, messages.Request)
    assert request.args == {"a": None, "b": "\ufffdé😀 NaN"}


PIECES = ["a", '"', "\n", "\ud800", "\udc00", "é", "😀", "NaN", "u", "-Infinity", "ud800"]
texts = st.lists(st.sampled_from(PIECES), max_size=8).map("".join)
values = st.recursive(
    st.floats(width=16) | texts | st.none() | st.integers(-5, 5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("abN"), inner, max_size=3),
    max_leaves=12,
)


def repaired(item: object) -> object:
    """What JSON can say of `item`, as Python's own decoder read it."""
    if isinstance(item, float) and not math.isfinite(item):
        return None
    if isinstance(item, str):
        return item.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(item, list):
        return [repaired(one) for one in item]
    if isinstance(item, dict):
        return {key: repaired(one) for key, one in item.items()}
    return item


@given(values)
def test_the_copy_is_what_python_meant_but_for_what_json_has_not(value: object) -> None:
    text = json.dumps(value)
    assert msgspec.json.decode(plain_json(text.encode())) == repaired(json.loads(text))


def test_a_text_with_too_much_to_repair_is_refused_quickly() -> None:
    body = b'{"id":1,"success":true,"result":[NaN' + b",NaN" * 1_000_000 + b"]}"
    began = time.perf_counter()
    with pytest.raises(ProtocolError, match="only Python reads"):
        messages.read_answer(body)
    assert time.perf_counter() - began < 0.3


def test_plain_json_leaves_strings_alone() -> None:
    text = rb'{"NaN": "NaN -Infinity \\ud800 \" NaN", "x": [NaN, -Infinity, Infinity]}'
    assert plain_json(text) == rb'{"NaN": "NaN -Infinity \\ud800 \" NaN", "x": [null, null, null]}'


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"hello",
        b"[]",
        b"null",
        b'{"id": 1}',
        b'{"id": 1, "command": 5}',
        b'{"id": 1, "command": "x", "args": []}',
        b'{"id": 1, "command": "x", "args": {"a": 1, "a": 2}}',
        b'{"id": 1.5, "command": "x"}',
        b'{"id": true, "command": "x"}',
        b'{"id": 1, "command": "' + b"x" * 201 + b'"}',
        b'{"id": 1, "command": "x\xff"}',
        b'{"id": 1, "command": "x", "args": ' + b'{"a":' * 500 + b"1" + b"}" * 500 + b"}",
        b'{"id": 1, "command": "x", "args": ' + b"[" * 200_000,
        b"\x81\xa2id\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\x82\xa7command\xa1x\xa4args" + b"\x91" * 200_000,
        b"\x82\xa7command\xa1x\xa4args\x90",
        b"\x82\xa2id\x01\xc4\x07command\xa1x",
        b"\x82\xa2id\x01\x91\x01\x01",
        b"\xc1",
    ],
)
def test_what_is_no_request_is_a_protocol_error_and_nothing_else(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        messages.read_request(body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"id": 1, "command": "ping", "command": "x"}',
        b'{"id": 1, "command": "ping", "\\u0063ommand": "x"}',
        b'{"id": 1, "command": NaN, "command": "x"}',
        b'{"id": 1, "id": 2, "command": "x"}',
        b'{"id": 1, "command": "x", "args": {"a": 1}, "args": {}}',
        b'{"id": 1, "command": "x", "args": {"a": [{"b": 1, "b": 2}]}}',
        b'{"type": "x", "type": "protocol_negotiation"}',
        b"\x83\xa2id\x01\xa7command\xa4ping\xa7command\xa1x",
        b"\x83\xa2id\x01\xa7command\xa1x\xc4\x07command\xa4ping",
        b"\x83\xa2id\x01\xa7command\xa1x\xa4args\x82\xa1a\x01\xa1a\x02",
        b"\x83\xa2id\x01\xa7command\xa1x\xa4args\x82\xa1a\x01\xc4\x01a\x02",
        b"\x83\xa2id\x01\xa7command\xa1x\xa4args\x82\x01\x01\xa11\x02",
        b"\x83\xa2id\x01\xa7command\xa1x\xa4args\x81\xa1a\x91\x82\xa1b\x01\xa1b\x02",
        b"\x83\xa2id\x01\xa7command\xa1x\xa4args\xde\x00\x02\xa1b\x01\xa1b\x02",
        b"\x83\xa2id\x01\xa7command\xa1x\xa4args\xdf\x00\x00\x00\x02\xa1b\x01\xa1b\x02",
    ],
)
def test_a_key_that_stands_twice_is_refused_whoever_would_win(body: bytes) -> None:
    """A script that takes the first would do another thing than what was decided on."""
    with pytest.raises(ProtocolError, match="same key twice"):
        messages.read_request(body)


@pytest.mark.parametrize(
    "more",
    [
        b', "command": "x", "id": 1',
        b', "\\u0063ommand": "x", "id": 1',
        b', "args": {}',
        b', "timestamp": {"command": "x"}',
        b', "supported": [["x"]]',
        b', "supported": [' + b'"x",' * 20 + b'"x"]',
    ],
)
def test_a_negotiation_that_says_more_is_none(more: bytes) -> None:
    with pytest.raises(ProtocolError):
        messages.read_request(b'{"type": "protocol_negotiation"' + more + b"}")
    with pytest.raises(ProtocolError, match="comes in JSON"):
        messages.read_request(msgspec.msgpack.encode({"type": "protocol_negotiation", "supported": ["json"]}))


def test_keys_that_are_one_only_in_different_objects_pass() -> None:
    args = {
        "a": {"a": {"a": 1}},
        "b": [{"a": 1}, {"a": 1}, [{"a": [{}]}]],
        "many": {str(n): n for n in range(70_000)},
    }
    for encode in (msgspec.json.encode, msgspec.msgpack.encode):
        request = messages.read_request(encode({"id": 1, "command": "x", "args": args}))
        assert isinstance(request, messages.Request)
        assert request.args == args


@given(st.binary(max_size=200) | st.binary(max_size=60).map(lambda tail: b"\x84" + tail))
def test_any_bytes_are_a_request_or_a_protocol_error(body: bytes) -> None:
    for read in (messages.read_request, messages.read_answer):
        try:
            read(body)
        except ProtocolError:
            continue


def test_a_result_is_not_built_to_be_judged() -> None:
    """Seven million empty lists would be 400 MB of values; the copy that is read skips them."""
    body = msgspec.msgpack.encode({"id": 1, "success": True})
    hostile = b"\x83" + body[1:] + b"\xa6result\xdd" + (7_000_000).to_bytes(4, "big") + b"\x90" * 7_000_000
    tracemalloc.start()
    answer = messages.read_answer(hostile)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert answer is not None
    assert answer.application_ok
    assert peak < 3 * len(hostile)


def test_arguments_of_too_many_values_are_refused_before_they_are_built() -> None:
    body = b"\xdd" + (2_000_000).to_bytes(4, "big") + b"\x90" * 2_000_000
    tracemalloc.start()
    with pytest.raises(ProtocolError, match="values"):
        decode_values(body, "msgpack")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3 * len(body)


@pytest.mark.parametrize("field", ["error", "result"])
def test_nothing_is_made_of_an_error_that_is_no_text(field: str) -> None:
    """Four million numbers would hold the loop of all tenants for half a second at each answer."""
    many = b"\xdd" + (4_000_000).to_bytes(4, "big") + b"\x01" * 4_000_000
    inside = b"\x81\xa5error" + many if field == "result" else many
    body = b"\x83\xa2id\x01\xa7success" + (b"\xc3" if field == "result" else b"\xc2")
    body += bytes([0xA0 | len(field)]) + field.encode() + inside
    tracemalloc.start()
    answer = messages.read_answer(body)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert answer is not None
    assert (answer.application_ok, answer.error) == (False, "")
    assert peak < 4 * len(body)  # copies of bytes; a list of them has eight for each


def test_numbers_are_counted_before_they_are_made() -> None:
    many = b"\xdd" + (4_000_000).to_bytes(4, "big") + b"\x01" * 4_000_000
    body = b"\x83\xa2id\x01\xa7command\xa1x\xa4args\x81\xa1a" + many
    tracemalloc.start()
    with pytest.raises(ProtocolError, match="more than 1000000 values"):
        messages.read_request(body)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * len(body)


def test_others_run_while_a_large_frame_is_read() -> None:
    args: dict[str, object] = {"a": [{"b": [1, b"c"]} for _ in range(10_000)]}
    steps = messages.request_steps(msgspec.msgpack.encode({"id": 1, "command": "x", "args": args}))
    stops = 0
    try:
        while True:
            next(steps)
            stops += 1
    except StopIteration as end:
        assert end.value.args == {"a": [{"b": [1, "c"]}] * 10_000}
    assert stops >= 10_000 * 4 / TURN - 1  # each list and each of its items


@pytest.mark.parametrize(
    ("answer", "transport", "application", "error"),
    [
        ({"success": True, "result": {"x": 1}}, True, True, ""),
        ({"success": True, "result": [1]}, True, True, ""),
        ({"success": True, "result": None}, True, True, ""),
        ({"success": False, "error": "bad"}, True, False, "bad"),
        ({"success": True, "result": {"error": "bad"}}, True, False, "bad"),
        (
            {"success": True, "result": {"status": "error", "error": "bad", "traceback": "…"}},
            True,
            False,
            "bad",
        ),
        ({"success": True, "result": {"status": "error"}}, True, False, ""),
        ({"success": False, "error": {"type": "X", "message": "bad"}}, True, False, ""),
        ({}, False, False, ""),
        ({"success": True, "result": {"x": float("nan"), "error": "bad"}}, True, False, "bad"),
        ({"success": True, "result": {"x": "grüße", "error": "schlecht ü"}}, True, False, "schlecht ü"),
    ],
)
@pytest.mark.parametrize("written_in", ["json", "msgpack"])
def test_every_shape_of_error_is_told_apart(
    answer: dict[str, object], transport: bool, application: bool, error: str, written_in: str
) -> None:
    value = {"id": 3, **answer, "timestamp": 1.5}
    body = json.dumps(value).encode() if written_in == "json" else msgspec.msgpack.encode(value)
    found = messages.read_answer(body)
    assert found == messages.Answer(id=3, transport_ok=transport, application_ok=application, error=error)


@pytest.mark.parametrize(
    "body",
    [
        b"[1, 2]",
        b'{"id": 1, "success": true, "result": }',
        b'{"id": 1, "success": true, "result": "\xff"}',
        b'{"id": 1, "success": true, "result": ' + b"[" * 200_000,
        b'{"id": 1, "success": "yes", "result": 1}',
        b'{"id": 1, "success": true, "result": 1} more',
    ],
)
def test_what_is_no_answer_is_a_protocol_error(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        messages.read_answer(body)


def test_the_runners_last_frame_is_known_and_a_false_one_is_no_answer_either() -> None:
    assert messages.read_exit(b'{"type":"bridgehold_exited","status":5}') == 5
    for false in (b'{"type":"bridgehold_exited","status":"x"}', b'{"type":"bridgehold_exited","status":256}'):
        assert messages.read_exit(false) == -1
    assert messages.read_exit(b'{"id":1,"success":true}') is None


def test_a_negotiation_is_no_answer_and_no_command() -> None:
    offer = messages.read_request(
        b'{"type": "protocol_negotiation", "supported": ["msgpack", "json"], "preferred": "msgpack"}'
    )
    assert isinstance(offer, messages.Negotiation)
    assert offer.choose(("json", "msgpack")) == "msgpack"
    assert offer.choose(("json",)) == "json"
    assert messages.read_answer(messages.selected("msgpack")) is None
    assert format_of(messages.selected("msgpack")) == "json"


def test_a_hostile_body_is_judged_in_linear_time() -> None:
    """Quotes, escapes and NaN in the worst mixtures that were thought of, at a quarter megabyte and at one."""

    def seconds(size: int) -> float:
        pieces = (b'"\\', b'"', b"NaN", b'{"a":"', b"\\u", b"[", b'"\\ud800', b"-Infinity,")
        began = time.perf_counter()
        for piece in pieces:
            body = b'{"id":1,"command":"x","args":NaN' + piece * (size // len(piece))
            with pytest.raises(ProtocolError):
                messages.read_request(body)
        return time.perf_counter() - began

    seconds(1000)
    assert seconds(1 << 20) < 12 * max(seconds(1 << 18), 0.05)
