"""HTTP where each tenant has a cell of its own."""

from __future__ import annotations

import os

from hostile.stage import stage
from http_face.http_support import CONFIG, Caller, HttpStage, prepare, url_of, using

ADD = {
    "name": "add",
    "description": "Add one",
    "parameters": {"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}},
    "result": {"type": "integer"},
}


def test_tools_of_http_callers_are_answered_by_whatever_connection() -> None:
    with stage("root" if os.getuid() == 0 else "self", "cold", CONFIG, host="cells = true") as ready:
        face = HttpStage(stage=ready, bridge=prepare(ready), url=url_of(ready.layout))

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
