"""HTTP, and the socket, where each tenant has a cell of its own."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import struct
from collections.abc import Iterator

import pytest

from bridgehold import SyncClient
from hostile.stage import stage
from http_face.http_support import CONFIG, TOKENS, Caller, HttpStage, prepare, url_of, using

MIB = 1 << 20
HELD = 160
"""MiB that the callers of this host may hold together."""
FRAME = 30
ADD = {
    "name": "add",
    "description": "Add one",
    "parameters": {"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}},
    "result": {"type": "integer"},
}


@pytest.fixture(scope="module")
def face() -> Iterator[HttpStage]:
    kind, host = "root" if os.getuid() == 0 else "self", f'cells = true\ncaller_bytes = "{HELD}MiB"'
    with stage(kind, "cold", CONFIG, host=host) as ready:
        yield HttpStage(stage=ready, bridge=prepare(ready), url=url_of(ready.layout))


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


async def _is_served(acme: Caller) -> None:
    assert (await acme.ask("GET", "/v1/sessions")).status == 200
