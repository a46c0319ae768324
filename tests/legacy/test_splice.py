"""Keys replaced in a frame's bytes: what is no key stays as it was spelled, or nothing is replaced."""

from __future__ import annotations

import json

import msgspec
import pytest

from bridgehold.bridges.legacy.splice import with_other

KEY = "sk-not/real-0123456789"
PLACE = "sk-bh-foreign"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            b'{"id":1, "command":"c","args" : {"api_key": "%s", "n": 1.50, "x": NaN, "e": "\\u00fc", "t": 1e2}}',
            b'{"id":1, "command":"c","args" : {"api_key": "%s", "n": 1.50, "x": NaN, "e": "\\u00fc", "t": 1e2}}',
        ),
        (
            b'{"command":"c","args":{"k":["-H","Bearer %s"]}}',
            b'{"command":"c","args":{"k":["-H","Bearer %s"]}}',
        ),
    ],
)
def test_nothing_but_the_key_is_written_anew(before: bytes, after: bytes) -> None:
    wanted = after % PLACE.encode()
    assert with_other(before % KEY.encode(), (KEY,), PLACE) == wanted
    assert with_other(before % KEY.replace("/", "\\/").encode(), (KEY,), PLACE) == wanted


def test_msgpack_keeps_its_binaries_and_gets_other_lengths() -> None:
    args = {"api_key": KEY, "raw": b"\x00\xff", "as_bytes": KEY.encode(), KEY: 1}
    body = msgspec.msgpack.encode({"id": 1, "command": "c", "args": args})
    made = with_other(body, (KEY,), PLACE)
    assert made is not None
    assert msgspec.msgpack.decode(made)["args"] == {
        "api_key": PLACE,
        "raw": b"\x00\xff",
        "as_bytes": PLACE.encode(),
        PLACE: 1,
    }


@pytest.mark.parametrize(
    "body",
    [
        {
            "id": 1,
            "command": "c",
            "args": {"api_key": KEY},
            "api_key": KEY,
        },  # the frame's own, beside arguments
        {"id": 1, "command": "c", "args": {"api_key": "short"}},
        {"id": 1, "command": "c", "args": {KEY: 1, PLACE: 2}},  # two fields would be one
    ],
)
def test_what_would_say_something_else_is_not_made(body: dict[str, object]) -> None:
    values = ("short",) if body["args"] == {"api_key": "short"} else (KEY,)
    assert with_other(json.dumps(body).encode(), values, PLACE) is None


def test_a_key_in_escapes_is_not_found_and_nothing_is_sent() -> None:
    body = json.dumps({"id": 1, "command": "c", "args": {"api_key": KEY}}).replace("sk-", "\\u0073k-")
    assert with_other(body.encode(), (KEY,), PLACE) is None
