"""The HTTP face's main paths, on a real host over loopback: sessions, commands, events, tools, artifacts."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from openapi_spec_validator import OpenAPIV31SpecValidator

from bridgehold.audit.read import read_all
from http_face.http_support import Caller, HttpStage, events, prepare, using
from waiting import eventually

SLEEP = "import time\nfor _ in range(3000): time.sleep(0.02)"
"""A command that ends by itself after eight seconds, and at once when it is cancelled."""


ADD_LARGE = {
    "name": "add",
    "description": "Add",
    "parameters": {"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}},
}


def test_health_needs_no_token(face: HttpStage) -> None:
    async def act(nobody: Caller) -> None:
        assert (await nobody.ask("GET", "/healthz")).body == {"status": "ok"}

    using(face, act, "")


def test_a_session_from_its_opening_to_its_end(face: HttpStage) -> None:
    async def act(acme: Caller) -> None:
        opened = await acme.ask("POST", "/v1/sessions", {"bridge": face.bridge, "name": "mine"})
        assert opened.status == 201
        assert opened.body["tenant"] == "acme", "the token's only tenant is meant"
        session = opened.body["id"]
        again = await acme.ask("POST", "/v1/sessions", {"bridge": face.bridge, "name": "mine"})
        assert again.body["id"] == session
        path = f"/v1/sessions/{session}/commands"
        said = await acme.ask("POST", path, {"operation": "act", "arguments": {"code": "result['a'] = 1"}})
        assert said.status == 200
        assert said.body["value"] == {"a": 1}
        assert said.body["session"] == session
        assert said.body["receipt"]
        await acme.ask("POST", path, {"operation": "act", "arguments": {"code": "bridge.kept = 'state'"}})
        full = {"operation": f"{face.bridge}:act", "arguments": {"code": "result = bridge.kept"}}
        assert (await acme.ask("POST", path, full)).body["value"] == "state"
        listed = await acme.ask("GET", "/v1/sessions")
        (mine,) = [one for one in listed.body if one["id"] == session]
        assert mine["commands"] == 3
        assert not {"pid", "uid", "grant"} & set(mine)
        await acme.ask("POST", path, {"operation": "act", "arguments": {"code": "print('to the log')"}})
        assert "to the log" in (await acme.ask("GET", f"/v1/sessions/{session}/logs")).body["text"]
        assert (await acme.ask("DELETE", f"/v1/sessions/{session}")).body["id"] == session
        gone = await acme.ask("POST", path, {"operation": "act", "arguments": {"code": "1"}})
        assert (gone.status, gone.code) == (410, "session_ended")

    using(face, act)


def test_one_shot_commands_by_body_and_by_path(face: HttpStage) -> None:
    async def act(acme: Caller) -> None:
        body = {"operation": f"{face.bridge}:act", "arguments": {"code": "result = 3"}}
        assert (await acme.ask("POST", "/v1/run", body)).body["value"] == 3
        said = await acme.ask("POST", f"/v1/run/{face.bridge}/act", {"arguments": {"code": "result = 4"}})
        assert said.body["value"] == 4
        assert said.headers["Cache-Control"] == "no-store"
        assert said.headers["X-Content-Type-Options"] == "nosniff"
        assert "Access-Control-Allow-Origin" not in said.headers

    using(face, act)


def test_the_audit_names_the_tokens_principal_and_never_the_face(face: HttpStage) -> None:
    async def act(acme: Caller, helper: Caller) -> None:
        for caller, mark in ((acme, "by acme"), (helper, "by helper")):
            body = {"operation": f"{face.bridge}:act", "arguments": {"code": f"'{mark}'"}}
            assert (await caller.ask("POST", "/v1/run", body)).status == 200

    using(face, act, "acme", "helper")
    intents = [entry for entry in read_all(face.stage.layout.audit) if entry.kind == "command.intent"]
    by = {entry.text("arguments_preview"): (entry.principal, entry.tenant) for entry in intents}
    for name in ("acme", "helper"):
        assert by[f'{{"code":"\'by {name}\'"}}'] == (name, "acme")
    assert not {"owner", "http"} & {entry.principal for entry in intents}


def test_errors_carry_the_bodys_fields_and_their_status(each_start: HttpStage) -> None:
    async def act(acme: Caller) -> None:
        for code, status, name in (
            ("raise ValueError('broken')", 422, "application"),
            ("import os; os._exit(3)", 502, "crash"),
        ):
            body = {"operation": f"{each_start.bridge}:act", "arguments": {"code": code}, "session": "fails"}
            said = await acme.ask("POST", "/v1/run", body)
            assert (said.status, said.code) == (status, name), said
            assert set(said.body) == {"code", "message", "hint", "where", "retry", "event", "traceback"}
            assert said.body["event"], "the audit's reference"
            assert ("in <module>\nValueError: broken" in said.body["traceback"]) == (name == "application")
        wrong = await acme.ask("POST", "/v1/run", {"operation": f"{each_start.bridge}:act", "arguments": {}})
        assert (wrong.status, wrong.code) == (400, "usage")
        late = {
            "operation": f"{each_start.bridge}:act",
            "arguments": {"code": SLEEP},
            "deadline_ms": 200,
            "session": "d",
        }
        said = await acme.ask("POST", "/v1/run", late)
        assert (said.status, said.code) == (504, "timeout")
        assert (await acme.ask("GET", "/v1/nothing")).status == 404
        slashed = await acme.ask("POST", "/v1/sessions/", {"bridge": "python"})
        assert (slashed.status, "location" in slashed.headers) == (404, False)
        assert "No path here ends in a slash" in slashed.body["hint"]
        wrong_method = await acme.ask("PUT", "/v1/run", {})
        assert wrong_method.status == 405
        assert wrong_method.headers["Allow"] == "POST"

    using(each_start, act)


def test_who_may_not_read_logs_reads_type_and_message_alone(each_start: HttpStage) -> None:
    async def act(acme: Caller, deaf: Caller) -> None:
        body = {"operation": f"{each_start.bridge}:act", "arguments": {"code": "secret_name = 1 / 0"}}
        told = (await acme.ask("POST", "/v1/run", body)).body
        said = (await deaf.ask("POST", "/v1/run", body)).body
        assert "ZeroDivisionError" in told["traceback"]
        assert (said["message"], said["traceback"]) == (told["message"], "")
        streamed = [event async for event in deaf.stream("/v1/run", body)]
        assert streamed[-1][0] == "error"
        assert streamed[-1][1]["traceback"] == ""
        session = await acme.open(each_start.bridge)
        path = f"/v1/sessions/{session}/commands"
        await acme.ask("POST", path, {"operation": "act", "arguments": {"code": "print('for the log')"}})
        refused = await deaf.ask("GET", f"/v1/sessions/{session}/logs")
        assert (refused.status, refused.code) == (403, "denied")
        assert (await acme.ask("GET", f"/v1/sessions/{session}/logs")).status == 200

    using(each_start, act, "acme", "deaf")


def test_a_stream_has_progress_chunks_beats_and_a_result(face: HttpStage) -> None:
    async def act(acme: Caller) -> None:
        body = {"operation": f"{face.bridge}:count", "arguments": {"count": 5}}
        seen = [event async for event in acme.stream("/v1/run", body)]
        names = [name for name, _ in seen if name]
        assert names == ["open", "progress", *["chunk"] * 5, "result"]
        told = {name: data for name, data in seen if name}
        assert told["progress"] == {"done": 0, "total": 5, "note": "begins"}
        assert [data["data"] for name, data in seen if name == "chunk"] == [0, 1, 2, 3, 4]
        assert told["result"]["value"] == 5
        quiet = {"operation": f"{face.bridge}:act", "arguments": {"code": "time.sleep(1)"}}
        assert ("", None) in [event async for event in acme.stream("/v1/run", quiet)]
        failing = {"operation": f"{face.bridge}:act", "arguments": {"code": "1/0"}}
        last = [event async for event in acme.stream("/v1/run", failing)][-1]
        assert last[0] == "error"
        assert (last[1]["code"], last[1]["status"]) == ("application", 422)

    using(face, act)


def test_what_a_command_writes_is_an_event_while_it_runs_and_comes_with_its_end(
    each_start: HttpStage,
) -> None:
    def body(code: str) -> dict[str, Any]:
        code = f"import sys\nprint('out é')\ntime.sleep(0.5)\nprint('err', file=sys.stderr)\n{code}"
        return {"operation": f"{each_start.bridge}:act", "arguments": {"code": code}}

    async def act(acme: Caller, deaf: Caller) -> None:
        began = asyncio.get_running_loop().time()
        seen, times = [], []
        async for name, data in acme.stream("/v1/run", body("result = 1")):
            if name in ("output", "result"):
                seen.append((name, data))
                times.append(asyncio.get_running_loop().time() - began)
        first, second, (_, result) = seen
        assert first == ("output", {"stream": "stdout", "text": "out é\n"})
        assert second == ("output", {"stream": "stderr", "text": "err\n"})
        assert times[-1] - times[0] > 0.4
        assert result["output"] == {"stdout": "out é\n", "stderr": "err\n"}
        failed = await acme.ask("POST", "/v1/run", body("1/0"))
        assert failed.body["output"] == {"stdout": "out é\n", "stderr": "err\n"}
        for code in ("result = 1", "1/0"):  # what sessions write isn't for everybody
            async for name, data in deaf.stream("/v1/run", body(code)):
                assert name != "output"
                assert "out é" not in json.dumps(data, ensure_ascii=False)

    using(each_start, act, "acme", "deaf")


def test_a_command_is_cancelled_by_its_name_and_its_session_lives(face: HttpStage) -> None:
    async def act(acme: Caller) -> None:
        session = await acme.open(face.bridge)
        path = f"/v1/sessions/{session}/commands"
        await acme.ask("POST", path, {"operation": "act", "arguments": {"code": "bridge.kept = 7"}})
        work = asyncio.create_task(
            acme.ask("POST", path, {"operation": "act", "arguments": {"code": SLEEP}, "id": "long"})
        )
        await eventually(partial(face.stage.busy, session))
        twice = await acme.ask("POST", path, {"operation": "act", "arguments": {"code": "1"}, "id": "long"})
        assert (twice.status, twice.code) == (400, "usage")
        assert (await acme.ask("DELETE", "/v1/commands/long")).status == 202
        said = await asyncio.wait_for(work, 30)
        assert (said.status, said.code) == (409, "cancelled")
        after = await acme.ask(
            "POST", path, {"operation": "act", "arguments": {"code": "result = bridge.kept"}}
        )
        assert after.body["value"] == 7
        assert (await acme.ask("DELETE", "/v1/commands/long")).status == 404

        async for name, data in acme.stream(path, {"operation": "act", "arguments": {"code": SLEEP}}):
            if name == "open":
                assert (await acme.ask("DELETE", f"/v1/commands/{data['command']}")).status == 202
            last = (name, data)
        assert last[0] == "error"
        assert last[1]["code"] == "cancelled"

    using(face, act)


def test_a_caller_that_goes_away_cancels_its_command(face: HttpStage) -> None:
    async def act(acme: Caller) -> None:
        session = await acme.open(face.bridge)
        path = f"/v1/sessions/{session}/commands"
        for headers in ({}, {"Accept": "text/event-stream"}):
            body = {"operation": "act", "arguments": {"code": SLEEP}}
            work = asyncio.create_task(acme.ask("POST", path, body, headers=headers))
            await eventually(partial(face.stage.busy, session))
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            said = await asyncio.wait_for(
                acme.ask("POST", path, {"operation": "act", "arguments": {"code": "result = 1"}}), 3
            )
            assert said.body["value"] == 1

    using(face, act)
    outcomes = [event for event in face.stage.events("command.outcome") if event["code"] == "cancelled"]
    assert len(outcomes) >= 2


TOOLS = [
    {
        "name": "add",
        "description": "Add two numbers",
        "parameters": {
            "type": "object",
            "required": ["a", "b"],
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        },
        "result": {"type": "integer"},
    },
    {"name": "forbidden"},
]


async def with_tools(caller: Caller, face: HttpStage, code: str, reply: Any) -> list[tuple[str, Any]]:
    """Run `code` in a stream; `reply(event)` is the body of the answer to each tool call, or None."""
    body = {
        "operation": f"{face.bridge}:act",
        "arguments": {"code": code},
        "tools": TOOLS,
        "session": "tools",
    }
    seen = []
    async for name, data in caller.stream("/v1/run", body):
        seen.append((name, data))
        if name == "tool_call" and (said := reply(data)) is not None:
            answered = await caller.ask("POST", f"/v1/commands/{data['command']}/tools/{data['call']}", said)
            assert answered.status == 200, answered
    return seen


def test_tools_are_events_and_their_answers_posts(face: HttpStage) -> None:
    async def act(acme: Caller) -> None:
        code = (
            "result['sums'] = [tools['add'](a=i, b=1) for i in range(3)]; result['offered'] = sorted(tools)"
        )
        seen = await with_tools(
            acme, face, code, lambda e: {"result": e["arguments"]["a"] + e["arguments"]["b"]}
        )
        calls = [data for name, data in seen if name == "tool_call"]
        assert [call["arguments"]["a"] for call in calls] == [0, 1, 2]
        assert {call["tool"] for call in calls} == {"add"}
        assert "add" in seen[-1][1]["value"]["offered"]
        assert "forbidden" not in seen[-1][1]["value"]["offered"]
        assert seen[-1][1]["value"]["sums"] == [1, 2, 3]

    using(face, act)
    intent, outcome = face.stage.events("tool.intent")[-1], face.stage.events("tool.outcome")[-1]
    assert (intent["tool"], intent["how"], intent["tenant"]) == ("add", "caller", "acme")
    assert outcome["intent"] == intent["ref"]
    assert outcome["ok"] is True


def test_a_tools_errors_are_typed_both_ways(face: HttpStage) -> None:
    code = (
        "def ask(**given):\n    try:\n        return tools['add'](**given)\n"
        "    except ToolError as error:\n        return [error.code, str(error)]\n"
        "result['failed'] = ask(a=1, b=1)\nresult['untyped'] = ask(a=2, b=1)\nresult['unasked'] = ask(a='x', b=1)\n"
    )
    answers = {1: {"error": "ValueError: no sums today"}, 2: {"result": "no number"}}

    async def act(acme: Caller) -> None:
        seen = await with_tools(acme, face, code, lambda e: answers[e["arguments"]["a"]])
        value = seen[-1][1]["value"]
        assert value["failed"] == ["application", "tool 'add': ValueError: no sums today"]
        assert value["untyped"][0] == "application"
        assert "schema" in value["untyped"][1]
        assert value["unasked"][0] == "usage"
        assert sum(1 for name, _ in seen if name == "tool_call") == 2, (
            "what the schema rules out is not asked"
        )
        plain = {"operation": f"{face.bridge}:act", "arguments": {"code": "1"}, "tools": TOOLS}
        said = await acme.ask("POST", "/v1/run", plain)
        assert (said.status, said.code) == (400, "usage")
        assert "text/event-stream" in said.body["hint"]

    using(face, act)


def test_a_tool_may_run_commands_but_never_in_the_session_that_waits(face: HttpStage) -> None:
    async def act(acme: Caller) -> None:
        found: list[Any] = []
        body = {
            "operation": f"{face.bridge}:act",
            "arguments": {"code": "result = tools['add'](a=1, b=2)"},
            "tools": TOOLS,
            "session": "outer",
        }
        async for name, data in acme.stream("/v1/run", body):
            if name == "tool_call":
                for session in ("inner", "outer"):
                    inner = {
                        "operation": f"{face.bridge}:act",
                        "arguments": {"code": "result = 40"},
                        "session": session,
                        "parent": data["command"],
                    }
                    found.append(await acme.ask("POST", "/v1/run", inner))
                path = f"/v1/commands/{data['command']}/tools/{data['call']}"
                await acme.ask("POST", path, {"result": found[0].body["value"]})
        assert data["value"] == 40
        assert (found[1].status, found[1].code) == (503, "busy")

    using(face, act)


async def _up_to(seen: AsyncIterator[tuple[str, Any]], wanted: str) -> AsyncIterator[tuple[str, Any]]:
    async for name, data in seen:
        yield name, data
        if name == wanted:
            return


def test_a_caller_that_leaves_fails_its_tool_call(face: HttpStage) -> None:
    async def act(acme: Caller) -> None:
        headers = {**acme.auth, "Accept": "text/event-stream"}
        body = {
            "operation": f"{face.bridge}:act",
            "arguments": {"code": "tools['add'](a=77, b=1)"},
            "tools": TOOLS,
            "session": "left",
        }
        async with acme.http.post(acme.url + "/v1/run", json=body, headers=headers) as response:
            told = [data async for name, data in _up_to(events(response.content), "tool_call")][-1]
            response.close()
        outcome = (
            await eventually(
                lambda: [one for one in face.stage.events("tool.outcome")[-1:] if one["code"] == "timeout"]
            )
        )[0]
        assert "ended first" in str(outcome["reason"])
        late = await acme.ask("POST", f"/v1/commands/{told['command']}/tools/{told['call']}", {"result": 1})
        assert late.status == 404

    using(face, act)


def test_the_unified_interface(face: HttpStage) -> None:
    async def act(acme: Caller) -> None:
        body = {"kind": "box", "bridge": face.bridge, "arguments": {"id": "b/1 ü", "value": [1]}}
        assert (await acme.ask("POST", "/v1/resources", body)).status == 201
        listed = (await acme.ask("GET", f"/v1/resources?bridge={face.bridge}")).body
        assert "b/1 ü" in [one["id"] for one in listed]
        path = "/v1/resources/b%2F1%20%C3%BC"
        assert (await acme.ask("POST", f"{path}/execute", {})).body["value"] == [1]
        assert (await acme.ask("DELETE", path)).status == 200
        assert (await acme.ask("POST", f"{path}/execute", {})).status == 404

    using(face, act)


def test_artifacts_go_in_and_come_out_in_parts(face: HttpStage) -> None:
    async def act(acme: Caller) -> None:
        for size in (0, 10, 9 * 1024 * 1024 + 3):
            data = os.urandom(size)
            kept = await acme.ask(
                "PUT", f"/v1/artifacts?name=n{size}", data=data, headers={"Content-Type": "text/html"}
            )
            assert kept.status == 201, kept
            assert kept.body["size_bytes"] == size
            got = await acme.ask("GET", f"/v1/artifacts/{kept.body['digest']}")
            assert got.body == data
            assert got.headers["Content-Type"] == "application/octet-stream"
            assert got.headers["Content-Disposition"] == "attachment"
            assert kept.body["digest"] in [
                one["digest"] for one in (await acme.ask("GET", "/v1/artifacts")).body
            ]
            assert (await acme.ask("DELETE", f"/v1/artifacts/{kept.body['digest']}")).status == 200
            assert (await acme.ask("GET", f"/v1/artifacts/{kept.body['digest']}")).status == 404

    using(face, act)


def test_an_artifact_of_unknown_length(face: HttpStage) -> None:
    data = os.urandom(5 << 20)

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(data), 300_000):
            yield data[start : start + 300_000]

    async def act(acme: Caller) -> None:
        kept = await acme.ask("PUT", "/v1/artifacts", data=pieces())
        assert kept.body["digest"] == f"sha256:{hashlib.sha256(data).hexdigest()}"

    using(face, act)


def test_code_and_files_of_a_session(face: HttpStage) -> None:
    async def act(acme: Caller) -> None:
        async def run(operation: str, **arguments: Any) -> Any:
            said = await acme.ask(
                "POST", f"/v1/run/python/{operation}", {"session": "desk", "arguments": arguments}
            )
            assert said.status == 200, said
            return said.body["value"]

        assert (await run("files_write", path="in/a", base64="AP8="))["size_bytes"] == 2
        assert [one["path"] for one in (await run("files_list", depth=2))["entries"]] == ["in", "in/a"]
        code = "open('in/b', 'wb').write(more)\ndisplay(1)\nawait __import__('asyncio').sleep(0, input())"
        said = await run(
            "execute", code=code, variables={"more": {"$bytes": "AQ=="}}, stdin="typed", returns=["more"]
        )
        assert (said["value"], said["displays"]) == ("typed", [{"text/plain": "1"}])
        assert said["variables"] == {"more": {"value": {"$bytes": "AQ=="}}}
        assert (await run("files_read", path="in/b"))["base64"] == "AQ=="
        assert (await run("program", kind="code", text="print(1); raise SystemExit(3)"))["status"] == 3
        assert (await run("complete", code="mor"))["matches"] == ["more"]
        paths = (await acme.ask("GET", "/openapi.json")).body["paths"]
        for operation in (
            "execute",
            "program",
            "files_read",
            "files_write",
            "complete",
            "place",
            "context_list",
        ):
            assert f"/v1/run/python/{operation}" in paths
        asked = {"bridge": "python", "name": "small", "limits": {"memory": "96MiB", "session": "1m"}}
        made = await acme.ask("POST", "/v1/sessions", asked)
        assert made.status == 201, made
        extend = f"/v1/sessions/{made.body['id']}/extend"
        more = await acme.ask("POST", extend, {"limits": {"session": "30m"}})
        assert (more.status, more.body["left_ms"] > 1_700_000) == (200, True), more
        for path, limits in (("/v1/sessions", {"memory": "64TiB"}), (extend, {"session": "9h"})):
            body = {"limits": limits} | ({"bridge": "python"} if path == "/v1/sessions" else {})
            refused = await acme.ask("POST", path, body)
            assert (refused.status, "limits." in refused.body["message"]) == (403, True), refused

    using(face, act)


def test_figures_are_for_operators(face: HttpStage) -> None:
    async def act(acme: Caller, boss: Caller) -> None:
        assert (await acme.ask("GET", "/metrics")).status == 403
        text = (await boss.ask("GET", "/metrics")).body.decode()
        assert "bridgehold_commands_total" in text
        assert 'bridgehold_http_requests_total{method="GET",route="/metrics",status="403"}' in text
        assert "acme" not in text

    using(face, act, "acme", "boss")


def test_the_served_document_is_openapi_and_names_what_is_granted(face: HttpStage) -> None:
    async def act(acme: Caller) -> Any:
        described = await acme.ask("GET", f"/v1/bridges/{face.bridge}")
        assert {one["name"] for one in described.body["operations"]} >= {"act", "create_box"}
        return (await acme.ask("GET", "/openapi.json")).body

    found = using(face, act)
    OpenAPIV31SpecValidator(found).validate()
    assert f"/v1/run/{face.bridge}/count" in found["paths"]
    assert "/v1/run/dspy/create_program" in found["paths"]


def test_what_is_large_crosses_the_face_as_it_came(face: HttpStage) -> None:
    """Both ways, and in a stream's events; what the face doesn't read of it the host does, in its words."""
    box = {"id": "it", "value": {"é": [1, 2.5, None, "x" * 30_000], "n": list(range(40_000))}}
    code = (
        "result = [tools['add'](a=n)['n'] for n in range(2)]\nresult = result + [{'big': list(range(9000))}]"
    )

    async def act(acme: Caller) -> None:
        session = await acme.open(face.bridge)
        path = f"/v1/sessions/{session}/commands"
        made = await acme.ask("POST", path, {"operation": "create_box", "arguments": box})
        assert made.status == 200, made
        given = await acme.ask("POST", path, {"operation": "run_box", "arguments": {"id": "it"}})
        assert given.body["value"] == box["value"]
        twice = (
            b'{"operation":"create_box","arguments":{"id":"z","value":[' + b"1," * 40_000 + b'1],"id":"y"}}'
        )
        headers = {**acme.auth, "Content-Type": "application/json"}
        async with acme.http.post(acme.url + path, data=twice, headers=headers) as response:
            said = await response.json()
            assert (response.status, said["code"]) == (400, "usage"), said
            assert "two keys are both spelled 'id'" in said["message"]
        body = {"operation": f"{face.bridge}:act", "arguments": {"code": code}, "tools": [ADD_LARGE]}
        async for name, data in acme.stream("/v1/run", body):
            if name == "tool_call":
                answer = {"result": {"n": list(range(20_000))}}
                told = await acme.ask("POST", f"/v1/commands/{data['command']}/tools/{data['call']}", answer)
                assert told.body == {"status": "taken"}, told.body
        assert name == "result"
        assert data["value"] == [list(range(20_000)), list(range(20_000)), {"big": list(range(9000))}]

    using(face, act)


def is_asked() -> bool:
    """Whether a process answers a question to an audit just now."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if b"bridgehold.audit.reading.asked" in path.read_bytes():
                return True
    return False


def audit(question: str, **given: str) -> str:
    return f"/v1/audit?{urlencode({'question': question, **given})}"


def test_the_audit_is_asked_over_http_by_each_for_what_is_its_own(face: HttpStage) -> None:
    """Operators are answered of all; a tenant of its own story, whatever it writes; and each question is told."""

    async def act(acme: Caller, rival: Caller, boss: Caller, deaf: Caller) -> None:
        path = f"/v1/run/{face.bridge}/act"
        said = "result['x'] = 'whispered'"
        theirs = (await rival.ask("POST", path, {"arguments": {"code": said}, "tenant": "rival"})).body
        for _ in range(3):
            assert (await acme.ask("POST", path, {"arguments": {"code": "result['x'] = 1"}})).status == 200

        async def found(who: Caller, question: str, **given: str) -> list[dict[str, Any]]:
            answered = await who.ask("GET", audit(question, **given))
            assert answered.status == 200, answered
            return list(answered.body["events"])

        (outcome,) = await found(boss, f"event = {theirs['receipt']}")
        assert (outcome["tenant"], outcome["kind"]) == ("rival", "command.outcome")
        assert await found(boss, "kind = worker.started and tenant = rival")
        for question in (
            "tenant = rival", "not tenant = acme", f"event = {theirs['receipt']}", "kind in (worker, host)",
            'uid >= 0 or mounts ~ usr or "whispered" or tenant = "" or tenant = rival or not "no such text"',
        ):  # fmt: skip
            told = await found(acme, question, limit="500")
            assert [one for one in told if one["tenant"] != "acme"] == [], question
            assert not any(one["kind"].startswith(("worker", "host", "grant")) for one in told), question
        assert await found(rival, '"whispered"')

        mine = "kind = command.outcome and principal = acme"
        newest = (await acme.ask("GET", audit(mine, limit="2"))).body
        assert (len(newest["events"]), newest["more"]) == (2, True)
        first, second = newest["events"]
        older = await found(acme, mine, limit="1", before=first["ref"])
        assert older[0]["seq"] < first["seq"] < second["seq"]
        assert await found(acme, mine, limit="1", after=older[0]["ref"]) == [first]

        foreign, never = [
            await acme.ask("GET", audit("", before=ref)) for ref in (theirs["receipt"], "i-0123456789ab.1")
        ]
        assert (foreign.status, foreign.code, never.code) == (404, "not_found", "not_found")
        for wrong in (
            audit("tennant = acme"), audit("((" * 40), audit("x" * 5_000), audit("", limit="0"),
            audit("", limit="501"), audit("", limit="-1"), audit("", limit="1" * 30), audit("", limit="٣"),
            audit("", before=first["ref"], after=first["ref"]), audit("", before="x" * 200),
        ):  # fmt: skip
            answered = await acme.ask("GET", wrong)
            assert (answered.status, answered.code) == (400, "usage"), wrong
        assert (await deaf.ask("GET", audit(""))).code == "denied", "it may not read what guests print"
        for method in ("POST", "PUT", "DELETE"):
            assert (await boss.ask(method, audit(""))).status == 405
        assert (await Caller(face, acme.http, "").ask("GET", audit(""))).status == 401

        asked = await found(boss, "kind = audit.queried and principal = acme")
        assert {one["tenant"] for one in asked} == {"acme"}
        assert not any("whispered" in one["fields"]["question"] for one in asked)
        said = [one["fields"] for one in asked if one["fields"]["question"] == "tenant = rival"]
        assert said == [{"question": "tenant = rival", "count": 0, "code": ""}]

        left = "kind = zygote.started and principal = acme"
        asking = asyncio.create_task(acme.ask("GET", audit(left)))
        await eventually(lambda: asking.done() or is_asked())
        asking.cancel()  # its caller is gone, and the connection with it

        async def told() -> bool:
            asked = await found(boss, "kind = audit.queried and principal = acme")
            return left in [one["fields"]["question"] for one in asked]

        await eventually(told)

    using(face, act, "acme", "rival", "boss", "deaf")


def test_whether_a_policy_is_as_it_was_signed_is_told_to_operators_alone(face: HttpStage) -> None:
    async def act(acme: Caller, boss: Caller) -> None:
        path = f"/v1/policies/{face.bridge}/review"
        said = (await boss.ask("GET", path)).body
        assert (said["policy"], said["state"], said["required"]) == (face.bridge, "never", False)
        assert (await acme.ask("GET", path)).code == "denied"
        assert (await boss.ask("GET", "/v1/policies/..%2Fconfig/review")).code == "not_found"
        assert (await boss.ask("POST", path, {})).status == 405

    using(face, act, "acme", "boss")


def test_a_refusal_becomes_a_proposal_which_its_tenant_alone_sees_and_an_operator_rejects(
    face: HttpStage,
) -> None:
    name = prepare(face.stage)
    policy = face.stage.layout.policies / f"{name}.toml"
    policy.write_text(policy.read_text().replace('allow = ["*"]', f'allow = ["{name}:count"]', 1))
    run = {"operation": f"{name}:act", "arguments": {"code": "result = 1"}}

    async def act(acme: Caller, helper: Caller, rival: Caller, boss: Caller) -> None:
        refused = await acme.ask("POST", "/v1/run", run)
        assert (refused.status, refused.code) == (403, "denied")
        asked = {"event": refused.body["event"], "reason": "it is my work"}
        assert (await rival.ask("POST", "/v1/proposals", asked)).code == "not_found"
        made = await acme.ask("POST", "/v1/proposals", asked)
        assert (made.status, made.body["state"], made.body["tenant"]) == (201, "waiting", "acme")
        assert made.body["grants"] == {"operations.allow": [f"{name}:act"]}
        path = f"/v1/proposals/{made.body['id']}"
        seen = {who: (await who.ask("GET", "/v1/proposals")).body for who in (acme, helper, rival)}
        assert [[one["id"] for one in each] for each in seen.values()] == [[made.body["id"]]] * 2 + [[]]
        assert (await rival.ask("GET", path)).code == "not_found"
        assert (await acme.ask("GET", path)).body["reason"] == "it is my work"
        assert (await acme.ask("POST", f"{path}/reject", {})).code == "denied"
        ended = await boss.ask("POST", f"{path}/reject", {"reason": "it is not"})
        assert (ended.status, ended.body["state"]) == (200, "rejected")
        wrong = await acme.ask("POST", "/v1/proposals", {**asked, "weakenings": ["a", "b", "c"]})
        assert (wrong.status, wrong.code) == (400, "usage")
        assert (await acme.ask("POST", "/v1/run", run)).code == "denied"

    using(face, act, "acme", "helper", "rival", "boss")
