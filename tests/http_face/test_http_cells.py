"""HTTP, and the socket, where each tenant has a cell of its own."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from bridgehold import SyncClient
from hostile.stage import stage
from http_face.http_support import (
    CONFIG,
    TOKENS,
    Caller,
    HttpStage,
    all_of,
    face_process,
    head,
    prepare,
    status,
    url_of,
    using,
)
from waiting import until

MIB = 1 << 20
HELD = 160
"""MiB that the callers of this host may hold together."""
FRAME = 30
ACME = f"Authorization: Bearer {TOKENS['acme']}"
ADD = {
    "name": "add",
    "description": "Add one",
    "parameters": {"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}},
    "result": {"type": "integer"},
}


@pytest.fixture(scope="module")
def face() -> Iterator[HttpStage]:
    kind, host = "root" if os.getuid() == 0 else "self", f'cells = true\ncaller_bytes = "{HELD}MiB"'
    config = (
        CONFIG.replace('body = "1MiB"', 'body = "16MiB"')
        .replace("body_s = 3", "body_s = 60")
        .replace("read_s = 1.5", "read_s = 60")
    )
    with stage(kind, "cold", config, host=host) as ready:
        served = HttpStage(stage=ready, bridge=prepare(ready), url=url_of(ready.layout))
        policy = ready.layout.policies / f"{served.bridge}.toml"
        policy.write_text(policy.read_text().replace('response = "1MiB"', 'response = "8MiB"'))
        yield served
        assert "Traceback" not in ready.layout.config.parent.joinpath("host.log").read_text()


def test_tools_of_http_callers_are_answered_by_whatever_connection(face: HttpStage) -> None:
    async def act(acme: Caller) -> None:
        body = {
            "operation": f"{face.bridge}:act",
            "arguments": {"code": "result = [tools['add'](a=n) for n in range(3)]"},
            "tools": [ADD],
        }
        async for name, data in acme.stream("/v1/run", body):
            if name == "tool_call":
                path = f"/v1/commands/{data['command']}/tools/{data['call']}"
                said = await acme.ask("POST", path, {"result": data["arguments"]["a"] + 1})
                assert said.body == {"status": "taken"}, said.body
        assert data["value"] == [1, 2, 3]

    using(face, act)


def test_callers_hold_no_more_of_all_cells_and_the_front_together_than_one_host_may(face: HttpStage) -> None:
    """Of each of three, three frames that want their last bytes; two are tenants' with cells, one is the front's."""
    names = ("acme", "rival", "boss")
    for name in names[:2]:
        with SyncClient.connect(face.stage.layout.socket, token=TOKENS[name]) as client:
            client.put(b"it has a cell", tenant=name)
    refused = []
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as waiting:
        for name in names * 3:
            caller = stack.enter_context(socket.socket(socket.AF_UNIX))
            caller.settimeout(60)
            caller.connect(str(face.stage.layout.socket))
            hello = json.dumps({"id": 1, "method": "hello", "params": {"token": TOKENS[name]}}).encode()
            caller.sendall(struct.pack(">I", len(hello)) + hello)
            assert b'"principal"' in caller.recv(4096)
            caller.setblocking(False)
            waiting.register(caller, selectors.EVENT_READ | selectors.EVENT_WRITE, FRAME * MIB)
            caller.send(struct.pack(">I", FRAME * MIB))
        while len(refused) < 4:
            for key, event in waiting.select():
                assert isinstance(key.fileobj, socket.socket)
                if event & selectors.EVENT_READ:
                    with contextlib.suppress(ConnectionResetError):
                        refused.append(key.fileobj.recv(4096))
                    waiting.unregister(key.fileobj)
                    continue
                with contextlib.suppress(BlockingIOError):
                    left = key.data - key.fileobj.send(b"[" * min(MIB, key.data - 1))
                    events = selectors.EVENT_READ | (selectors.EVENT_WRITE if left > 1 else 0)
                    waiting.modify(key.fileobj, events, left)
    assert all(b'"busy"' in said for said in refused), refused
    using(face, _is_served)


def cell_of(face: HttpStage, tenant: str) -> psutil.Process:
    """The tenant's cell, which runs: a fork of the host in the tenant's cgroup."""
    for one in psutil.Process(face.stage.supervisor).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
            folder = Path(f"/proc/{one.pid}/cgroup").read_text()
            if f"/tenant-{tenant}/" in folder and "bridgehold.host.main" in one.cmdline():
                return one
    raise AssertionError(tenant)


def begin(face: HttpStage, body: bytes, *, accept: str = "application/json", kept: int = 0) -> socket.socket:
    """A request of acme's, but for the last bytes of its body; nobody reads the answer."""
    fields = [ACME, "Content-Type: application/json", f"Accept: {accept}", f"Content-Length: {len(body)}"]
    caller = socket.socket()
    caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    caller.settimeout(60)
    caller.connect(("127.0.0.1", face.port))
    caller.sendall(head(face, *fields, line="POST /v1/run HTTP/1.1") + body[: len(body) - kept])
    return caller


def acting(face: HttpStage, **more: Any) -> bytes:
    return json.dumps({"operation": f"{face.bridge}:act", **more}).encode()


def test_answers_that_nobody_reads_wait_in_their_cell_and_are_cut_off_with_it(face: HttpStage) -> None:
    async def keep(rival: Caller) -> str:
        session = await rival.open(face.bridge, "stays")
        asked = {"operation": "act", "arguments": {"code": "bridge.boxes['n'] = 7"}}
        assert (await rival.ask("POST", f"/v1/sessions/{session}/commands", asked)).status == 200
        return session

    session, process = using(face, keep, "rival"), face_process(face)
    using(face, _is_served)
    before = process.memory_info().rss
    kinds = ["application/json", "text/event-stream"] * 2
    with contextlib.ExitStack() as stack:
        body = acting(face, arguments={"code": "result = 'x' * 7_000_000"})
        callers = [stack.enter_context(begin(face, body, accept=kind)) for kind in kinds]
        for caller in callers:
            assert status(caller.recv(300)) == 200
        assert process.memory_info().rss < before + (6 << 20), "28 MB of answers"
        cell_of(face, "acme").kill()
        for kind, caller in zip(kinds, callers, strict=True):
            found = all_of(caller)
            assert len(found) < 7_000_000
            assert kind != "text/event-stream" or not found.endswith(b"\n\n"), (
                "no event, and no end of a body"
            )

    async def act(rival: Caller, acme: Caller) -> None:
        asked = {"operation": "act", "arguments": {"code": "result = bridge.boxes['n']"}}
        assert (await rival.ask("POST", f"/v1/sessions/{session}/commands", asked)).body["value"] == 7
        asked = {"operation": f"{face.bridge}:act", "arguments": {"code": "result = 'x' * 7_000_000"}}
        assert len((await acme.ask("POST", "/v1/run", asked)).body["value"]) == 7_000_000

    using(face, act, "rival", "acme")


def test_a_stream_goes_at_its_readers_pace_and_loses_nothing(face: HttpStage) -> None:
    process = face_process(face)
    using(face, _is_served)
    before, count = process.memory_info().rss, 1_000
    asked = {"operation": f"{face.bridge}:count", "arguments": {"count": count, "size": 20_000}}
    with begin(face, json.dumps(asked).encode(), accept="text/event-stream") as caller:
        cell, seen = cell_of(face, "acme"), [0.0]

        def at_rest() -> bool:
            """Whether the cell has done next to nothing for five looks."""
            seen.append(cell.cpu_times().user)
            return len(seen) > 6 and seen[-1] - seen[-6] < 0.02

        found = caller.recv(4_096)
        while b"event: chunk\n" not in found:
            found += caller.recv(4_096)
        until(at_rest)
        using(face, _is_served, "rival")
        assert process.memory_info().rss < before + (8 << 20), "20 MB of events"
        found += all_of(caller)
    assert found.count(b"event: chunk\n") == count
    assert b"event: result\n" in found[-2_000:], found[-300:]


def test_large_bodies_wait_in_their_cell_and_heads_and_slow_ones_keep_nobody_out(face: HttpStage) -> None:
    """More of them than the face has room for, each but for its end; beside an upload of a GiB, and heads
    without an end."""
    process = face_process(face)
    using(face, _is_served)
    before = process.memory_info().rss
    code = "result = len(text)"
    body = acting(face, arguments={"code": f"text = {'x' * 6_000_000!r}\n{code}"})
    upload = head(face, ACME, f"Content-Length: {1 << 30}", line="PUT /v1/artifacts HTTP/1.1")
    with contextlib.ExitStack() as stack:
        callers = [stack.enter_context(begin(face, body, kept=5)) for _ in range(5)]
        for data in (upload + bytes(1 << 20), *[b"GET / HTTP/1.1\r\nX: "] * 20):
            slow = stack.enter_context(socket.create_connection(("127.0.0.1", face.port), timeout=60))
            slow.sendall(data)
        using(face, _puts_much, "rival")
        assert process.memory_info().rss < before + (28 << 20), "30 MB of bodies, and 18 MiB of room"
        for caller in callers:
            caller.sendall(body[-5:])
            answer = json.loads(all_of(caller).partition(b"\r\n\r\n")[2])
            assert answer["value"] == 6_000_000, answer


async def _puts_much(rival: Caller) -> None:
    assert (await rival.ask("PUT", "/v1/artifacts", data=b"x" * (5 << 20))).status == 201


def test_what_the_face_makes_of_bodies_is_counted_by_what_it_takes(face: HttpStage) -> None:
    process = face_process(face)
    using(face, _is_served)
    before = process.memory_info().rss
    values = "[]," * (MIB // 3 - 1_000)
    tools = [{**ADD, "parameters": {"examples": ["all"]}}]
    body = acting(face, arguments={"code": ""}, tools=tools).replace(b'"all"', f"{values}1".encode())
    with contextlib.ExitStack() as stack:
        callers = [stack.enter_context(begin(face, body, accept="text/event-stream")) for _ in range(3)]
        said = [all_of(caller) for caller in callers]
    assert [status(one) for one in said] == [503] * 3, said
    assert all(b"too many bytes" in one for one in said), said
    assert process.memory_info().rss < before + (30 << 20), "23 MiB of each"


def test_whatever_takes_a_large_body_has_it_from_its_cell(face: HttpStage) -> None:
    text, large = "y" * 300_000, {**ADD, "parameters": {}, "result": {}}

    async def act(acme: Caller) -> None:
        made = {"kind": "box", "bridge": face.bridge, "session": "boxes"}
        said = await acme.ask("POST", "/v1/resources", {**made, "arguments": {"id": "b", "value": text}})
        assert said.status == 201, said
        code = f"text = {text!r}\nresult = [len(text), len(tools['add']())]"
        run = {"operation": f"{face.bridge}:act", "arguments": {"code": code}, "tools": [large]}
        async for name, data in acme.stream("/v1/run", {**run, "resumable": True, "id": "kept"}):
            if name == "tool_call":
                path = f"/v1/commands/kept/tools/{data['call']}"
                assert (await acme.ask("POST", path, {"result": text})).body == {"status": "taken"}
        assert data["value"] == [300_000, 300_000], data
        said = await acme.ask("POST", "/v1/run", {**run, "tools": [], "arguments": [text]})
        assert (said.status, said.code) == (400, "usage"), said
        said = await acme.ask("POST", "/v1/run", {**run, "tools": [], "more": 1})
        assert "unknown field `more`" in said.body["message"], said
        said = await acme.ask("POST", "/v1/sessions", {"bridge": face.bridge, "name": text})
        assert (said.status, said.code) == (400, "usage"), said
        given = await acme.ask("POST", "/v1/resources/b/execute", {"session": "boxes"})
        assert given.body["value"] == text

    using(face, act)


def test_a_cell_that_ends_while_a_body_comes_is_told_of(face: HttpStage) -> None:
    using(face, _is_served)
    body = acting(face, arguments={"code": "x" * 500_000})
    with begin(face, body, kept=5) as caller:
        using(face, _is_served, "rival")
        cell_of(face, "acme").kill()
        with contextlib.suppress(OSError):
            caller.sendall(body[-5:])
        answer = all_of(caller)
        assert status(answer) == 503, answer[:300]
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] in ("cell_ended", "host_unavailable")
    using(face, _is_served)


async def _is_served(acme: Caller) -> None:
    assert (await acme.ask("GET", "/v1/sessions")).status == 200
