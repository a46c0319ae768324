"""Frames that the host and a script could read differently: none of them reaches the script."""

from __future__ import annotations

import json
from collections.abc import Iterator

import msgspec
import pytest

from hostile.stage import Stage
from legacy.conftest import make_shim
from legacy.peer import Peer


def pack(*items: tuple[object, object]) -> bytes:
    """A msgpack map with its keys as they are given, even twice."""
    return bytes([0x80 | len(items)]) + b"".join(map(msgspec.msgpack.encode, sum(items, ())))


DENIED = ("command", "forbidden")
ARGS = ("args", msgspec.Raw(pack(("api_key", "a-real-key"), ("api_key", ""))))
HOSTILE = {
    "negotiates": b'{"type":"protocol_negotiation","command":"forbidden","id":7}',
    "negotiates with args": b'{"type":"protocol_negotiation","args":{"command":"forbidden"},"id":7}',
    "negotiates in depth": b'{"type":"protocol_negotiation","timestamp":{"command":"forbidden"}}',
    "negotiates, escaped": b'{"type":"protocol_negotiation","\\u0063ommand":"forbidden","id":7}',
    "two types": b'{"type":"x","command":"forbidden","type":"protocol_negotiation","id":7}',
    "first command": b'{"id":7,"command":"forbidden","command":"echo"}',
    "last command": b'{"id":7,"command":"echo","command":"forbidden"}',
    "escaped command": b'{"id":7,"\\u0063ommand":"forbidden","command":"echo"}',
    "odd command": b'{"id":7,"command":"forbidden","command":"echo","args":{"x":NaN}}',
    "two args": b'{"id":7,"command":"echo","args":{"api_key":"a-real-key"},"args":{}}',
    "two keys": b'{"id":7,"command":"echo","args":{"api_key":"a-real-key","api_key":""}}',
    "two ids": b'{"id":0,"id":7,"command":"echo"}',
    "packed negotiation": pack(("type", "protocol_negotiation"), DENIED, ("id", 7)),
    "plain packed negotiation": pack(("type", "protocol_negotiation"), ("supported", ["json"])),
    "packed first": pack(("id", 7), DENIED, ("command", "echo")),
    "packed last": pack(("id", 7), ("command", "echo"), DENIED),
    "packed as bytes": pack(("id", 7), (b"command", "forbidden"), ("command", "echo")),
    "packed only as bytes": pack(("id", 7), (b"command", "forbidden")),
    "packed two keys": pack(("id", 7), ("command", "echo"), ARGS),
}


@pytest.fixture(scope="module")
def peer(host: Stage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    folder = tmp_path_factory.mktemp("two")
    program = make_shim(host, folder / "venv", "mine")
    found = Peer([str(program), str(host.log / "first_like.py")], folder, folder)
    found.handshake()
    yield found
    found.kill()


def seen(peer: Peer, identity: int) -> list[str]:
    found = peer.ask(identity, "seen")["result"]["seen"]
    assert isinstance(found, list)
    return found


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_frame_that_two_readers_read_differently_is_refused_and_never_forwarded(
    peer: Peer, body: bytes
) -> None:
    before = seen(peer, 1)
    peer.send_body(body)
    answer = peer.receive()
    assert answer["success"] is False
    assert answer["error"].startswith("protocol: "), answer
    assert seen(peer, 2) == [*before, "seen"]


def test_the_look_alike_does_read_them_differently() -> None:
    """Or else the tests above would prove nothing."""
    body = HOSTILE["first command"]
    assert json.loads(body)["command"] == "echo"
    assert dict(reversed(json.loads(body, object_pairs_hook=list)))["command"] == "forbidden"


def test_a_format_is_negotiated_once(peer: Peer) -> None:
    """Every other frame that passes has an intent in the audit."""
    offer = b'{"type": "protocol_negotiation", "supported": ["json"], "preferred": "json", "timestamp": 1.5}'
    peer.send_body(offer)
    assert peer.receive()["type"] == "protocol_selected"
    before = seen(peer, 1)
    peer.send_body(offer)
    assert peer.receive()["error"].startswith("usage: the format was negotiated already")
    assert seen(peer, 2) == [*before, "seen"]
