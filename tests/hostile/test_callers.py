"""Callers of the socket that read nothing, send half of it, or only hold on: bounded, and nobody else's harm."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import importlib
import json
import os
import random
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec.inspect
import psutil
import pytest

import bridgehold
from bridgehold import BridgeholdError, SyncClient
from hostile.stage import Stage, stage
from waiting import until

pytestmark = pytest.mark.hostile
KIND = "root" if os.getuid() == 0 else "self"
TOKENS = {"acme": "a-token-of-acme", "other": "a-token-of-another"}
MIB = 1 << 20
HELD = 160
"""MiB that the callers of this host may hold together."""
_SYS_SETRESUID = 117


def _principal(name: str, token: str) -> str:
    digest = hashlib.sha256(token.encode()).hexdigest()
    return f'[principals.{name}]\ntenants = ["{name}"]\ntokens = ["sha256:{digest}"]\n'


@pytest.fixture(scope="module")
def host() -> Iterator[Stage]:
    config = "".join(_principal(name, token) for name, token in TOKENS.items())
    with stage(KIND, "cold", config, host=f'connections = 160\ncaller_bytes = "{HELD}MiB"') as ready:
        yield ready


def host_process(host: Stage) -> psutil.Process:
    children = psutil.Process(host.supervisor).children()
    return next(child for child in children if "bridgehold.host.main" in child.cmdline())


def resident(host: Stage) -> float:
    """MiB of the host's process."""
    return float(host_process(host).memory_info().rss / MIB)


def frame(number: int, method: str, params: object = None) -> bytes:
    body = json.dumps({"id": number, "method": method, "params": params or {}}).encode()
    return struct.pack(">I", len(body)) + body


def dial(host: Stage, token: str = "") -> socket.socket:
    link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    link.settimeout(20)
    link.connect(str(host.layout.socket))
    if token:
        link.sendall(frame(1, "hello", {"token": token}))
        assert "result" in answer(link)
    return link


def answer(link: socket.socket) -> dict[str, Any]:
    """The next frame; empty where the host has ended the connection."""
    try:
        head = link.recv(4, socket.MSG_WAITALL)
        length = struct.unpack(">I", head)[0] if len(head) == 4 else 0
        body = link.recv(length, socket.MSG_WAITALL) if length else b""
    except ConnectionError:
        return {}
    found: dict[str, Any] = json.loads(body) if body and len(body) == length else {}
    return found


def as_uid(uid: int, path: Path) -> socket.socket:
    """A connection that the kernel says is `uid`'s; the identity is one thread's own."""
    made: list[socket.socket] = []

    def connect() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.syscall(_SYS_SETRESUID, -1, uid, -1) == 0
        link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        link.settimeout(20)
        link.connect(str(path))
        made.append(link)

    thread = threading.Thread(target=connect)
    thread.start()
    thread.join()
    return made[0]


def others_are_well(host: Stage) -> float:
    """The slowest of ten answers to another principal, on a connection of its own; seconds."""
    slowest = 0.0
    with SyncClient.connect(host.layout.socket, token=TOKENS["other"]) as client:
        digest = client.put(b"x" * MIB, tenant="other").digest
        for _ in range(10):
            begun = time.monotonic()
            assert len(client.get(digest, tenant="other")) == MIB
            slowest = max(slowest, time.monotonic() - begun)
    return slowest


def until_ended(link: socket.socket, seconds: float) -> dict[str, Any]:
    """Read on until the host has ended the connection; its last word."""
    link.settimeout(seconds)
    last: dict[str, Any] = {}
    while said := answer(link):
        last = said
    return last


def test_answers_that_are_never_read_end_their_own_connection_and_stay_bounded(host: Stage) -> None:
    with SyncClient.connect(host.layout.socket, token=TOKENS["acme"]) as client:
        digest = client.put(os.urandom(4 * MIB), tenant="acme").digest
    before, worst = resident(host), 0.0
    with contextlib.ExitStack() as stack:
        links = [stack.enter_context(dial(host, TOKENS["acme"])) for _ in range(8)]
        for link in links:
            link.setblocking(False)
            with contextlib.suppress(OSError):
                for number in range(2, 130):
                    link.sendall(frame(number, "artifact.get", {"digest": digest, "tenant": "acme"}))
        deadline = time.monotonic() + 4
        while time.monotonic() < deadline:
            assert others_are_well(host) < 3
            worst = max(worst, resident(host))
        assert worst - before < 3 * HELD  # what is held, its copy while it is written, and what malloc keeps
        for link in links:
            link.close()
    assert others_are_well(host) < 3


STREAMING = """
name = "{name}"
version = "1.0.0"
summary = "Never stops"
entry = "hostile:Hostile"
[operations.flood]
summary = "Stream without an end"
effect = "run"
stream = true
"""
FLOOD = """
from bridgehold_sdk import Bridge, operation

class Hostile(Bridge):
    @operation(effect="run", stream=True)
    def flood(self):
        while True:
            yield "x" * 100_000
"""


def test_a_stream_that_is_not_read_ends_its_command_and_no_other(host: Stage) -> None:
    name = host.bridge(manifest=STREAMING)
    (host.layout.bridges / name / "hostile.py").write_text(FLOOD)
    with host.session(name) as silent, host.session() as other, dial(host) as link:
        params = {"operation": f"{name}:flood", "session": silent.id, "stream": True}
        link.sendall(frame(2, "run", params))
        codes: list[object] = []

        def ended() -> bool:
            """The guest waits for its reader, and the host for so long as docs/reference/host-protocol.md says."""
            assert other.run("act", {"code": "result = {'x': 1}"}) == {"x": 1}
            codes[:] = [e["code"] for e in host.events("command.outcome") if e["session"] == silent.id]
            return bool(codes)

        until(ended, 55)
        assert codes == ["cancelled"]  # before its own deadline of 60 s
        last = until_ended(link, 5)
        assert "result" not in last


@pytest.mark.parametrize("sent", [3, 4, 1_000])
def test_half_a_frame_takes_no_room_beyond_its_share_and_no_time(host: Stage, sent: int) -> None:
    """The most is asked for on each of many connections, and then nothing comes."""
    before = resident(host)
    with contextlib.ExitStack() as stack:
        links = [stack.enter_context(dial(host, TOKENS["acme"])) for _ in range(20)]
        for link in links:
            link.sendall((struct.pack(">I", 60 * MIB) + b"{" * 1_000)[:sent])
        assert others_are_well(host) < 3
        assert resident(host) - before < HELD
        if sent == 3:
            last = until_ended(links[0], 20)
            assert last["id"] == 0
            assert last["error"]["code"] == "protocol"
            assert "did not come within 10 s" in last["error"]["message"]


def test_whole_frames_are_counted_as_what_they_become(host: Stage) -> None:
    """A few bytes of JSON are many objects."""
    before = resident(host)
    with contextlib.ExitStack() as stack:
        links = [stack.enter_context(dial(host, TOKENS["acme"])) for _ in range(4)]
        deep = b"[" + b"[],{}," * (5 * MIB) + b"0]"
        body = (
            b'{"id":2,"method":"run","params":{"operation":"a:b","tenant":"acme","arguments":{"x":'
            + deep
            + b"}}}"
        )
        for link in links:
            threading.Thread(target=_send, args=(link, body), daemon=True).start()
        codes = {answer(link).get("error", {}).get("code", "ended") for link in links}
        assert codes <= {"limit", "busy"}
        assert others_are_well(host) < 3
        assert resident(host) - before < 2 * HELD


def _send(link: socket.socket, body: bytes) -> None:
    with contextlib.suppress(OSError):
        link.sendall(struct.pack(">I", len(body)) + body)


def test_who_holds_all_connections_keeps_nobody_out(host: Stage) -> None:
    with contextlib.ExitStack() as stack:
        refused = 0
        for _ in range(80):
            link = stack.enter_context(dial(host))
            link.sendall(frame(1, "hello", {"token": TOKENS["acme"]}))
            said = answer(link)
            refused += said.get("error", {}).get("code") == "busy"
        assert refused >= 40
        with SyncClient.connect(host.layout.socket, token=TOKENS["other"]) as client:
            client.request("ping")
        with SyncClient.connect(host.layout.socket) as owner:
            owner.request("ping")
        assert host_process(host).num_fds() < 200


@pytest.mark.skipif(os.getuid() != 0, reason="only root can connect as somebody who is not known")
def test_strangers_are_bounded_by_uid_and_in_time_and_cost_no_place_of_others(host: Stage) -> None:
    begun = time.monotonic()
    before = len(host.events("principal.refused"))
    with contextlib.ExitStack() as stack:
        links = [stack.enter_context(as_uid(54_321, host.layout.socket)) for _ in range(300)]
        for link in links[::2]:
            with contextlib.suppress(OSError):
                link.sendall(struct.pack(">I", 40 * MIB))
        for uid in (54_321, 54_322, 54_323):
            with as_uid(uid, host.layout.socket) as late:
                with contextlib.suppress(BrokenPipeError):  # it may be refused before it says a word
                    late.sendall(frame(1, "hello", {"token": TOKENS["other"]}))
                said = answer(late)
                assert "result" in said or said["error"]["code"] == "busy"
                assert uid == 54_321 or "result" in said  # another uid finds a place, whoever took the others
        silent = [until_ended(link, 40).get("error", {}).get("code") for link in links[1::2]]
        assert set(silent) == {"busy", "denied"}
        assert silent.count("denied") <= 13  # as many had a place, and lost it for saying nothing
        assert all(until_ended(link, 20).get("error", {}).get("code") != "internal" for link in links)
    assert time.monotonic() - begun < 60
    assert len(host.events("principal.refused")) - before < 200
    assert others_are_well(host) < 3


TEXTS = (
    *(
        "",
        "a",
        "a" * 300,
        "x" * 70_000,
        "../x",
        "/",
        "\x00",
        "\n",
        "é" * 100,
        "\u202e",
        "😀",
        "*",
        "-1",
        "NaN",
        "a:b",
    ),
    *(
        "s-0",
        "s-" + "a" * 16,
        "c-" + "a" * 16,
        "sha256:" + "0" * 64,
        "sha256:" + "g" * 64,
        "local",
        "[" * 999,
        "!!",
    ),
)
NUMBERS = (0, -1, 1, 2**31, 2**53, 2**63 - 1, 2**63, 2**64 - 1, -(2**63))
FLOATS = (0.0, -1.0, 0.01, 1e308, 5e-324)
ANYTHING = (None, True, 1, "x", [], {}, {"a": [1]}, 2**63, 1e308)
LASTING = ("stop", "drain", "session.hold", "foreign.open", "bridge.build")
"""They end the host, or go on for as long as their caller wants."""


def methods() -> dict[str, type[msgspec.Struct]]:
    """Every method that the host's source names, with the type of its parameters."""
    found = {}
    for file in Path(bridgehold.__file__).parent.glob("host/**/*.py"):
        for name, kind in re.findall(r'"([a-z_.]+)": Method\(\s*(\w+)', file.read_text()):
            module = ".".join(file.relative_to(Path(bridgehold.__file__).parents[1]).with_suffix("").parts)
            found[name] = getattr(importlib.import_module(module), kind)
    return found


def drawn(chance: random.Random, kind: msgspec.inspect.Type) -> object:
    """A value of the type, at its edges."""
    match kind:
        case msgspec.inspect.StructType():
            fields = [one for one in kind.fields if one.required or chance.random() < 0.5]
            return {one.encode_name: drawn(chance, one.type) for one in fields}
        case msgspec.inspect.DictType():
            return {
                chance.choice(TEXTS): drawn(chance, kind.value_type) for _ in range(chance.choice((0, 2)))
            }
        case msgspec.inspect.ListType() | msgspec.inspect.VarTupleType():
            return [drawn(chance, kind.item_type) for _ in range(chance.choice((0, 1, 3)))]
        case msgspec.inspect.UnionType():
            return drawn(chance, chance.choice(kind.types))
        case msgspec.inspect.LiteralType():
            return chance.choice((*kind.values, "none of them"))
        case msgspec.inspect.IntType():
            return chance.choice(NUMBERS)
        case msgspec.inspect.FloatType():
            return chance.choice(FLOATS)
        case msgspec.inspect.BoolType():
            return chance.random() < 0.5
        case msgspec.inspect.StrType():
            return chance.choice(TEXTS)
    return chance.choice(ANYTHING)


def test_any_value_of_any_field_of_any_method_is_answered_in_words_of_ours(host: Stage) -> None:
    chance = random.Random(12)
    asked = {name: msgspec.inspect.type_info(kind) for name, kind in methods().items() if name not in LASTING}
    assert len(asked) > 25
    kept = host.client.request("artifact.put", {"data": "AAAA"})["digest"]
    for _ in range(1_000):
        name = chance.choice(sorted(asked))
        params = drawn(chance, asked[name])
        assert isinstance(params, dict)
        if name == "artifact.get" and chance.random() < 0.5:
            params["digest"], params["tenant"] = kept, "local"
        try:
            host.client.request(name, params)
        except BridgeholdError as error:
            assert error.code != "internal", (name, params)
    assert "Traceback" not in (text := (host.layout.config.parent / "host.log").read_text())
    assert 'File "' not in text
