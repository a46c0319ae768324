"""HTTP by its own rules: states that can be asked for, streams that go on, HEAD, media types, a generated client."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import textwrap
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bridgehold.bridges.catalogue import Catalogue
from bridgehold.faces.http.checks import check_accept, prefers
from bridgehold.faces.http.openapi import document
from bridgehold.faces.http.statuses import Refused
from hostile.stage import ROOT
from http_face.http_support import TOKENS, Caller, HttpStage, using
from waiting import eventually

STREAM = {"Accept": "text/event-stream"}
CLIENT = ROOT / ".environments/client/bin"
STEPS = "for n in range({}):\n    bridge.progress(n, {}, 'step')\n    time.sleep({})\nresult = 'done'"


async def read(
    caller: Caller, method: str, path: str, body: Any = None, *, most: int = 10_000, **headers: str
) -> AsyncIterator[tuple[int, str, Any]]:
    """(id, event, data) of a stream, at most so many; the connection is cut off then."""
    async with caller.http.request(
        method, caller.url + path, json=body, headers={**caller.auth, **STREAM, **headers}
    ) as response:
        assert response.status == 200, await response.text()
        number, name, data = 0, "", None
        while most and (line := (await response.content.readline()).decode()):
            field, _, value = line.rstrip("\n").partition(": ")
            if field == "id":
                number = int(value)
            elif field == "event":
                name = value
            elif field == "data":
                data = json.loads(value)
            elif not line.strip() and name:
                yield number, name, data
                number, name, most = 0, "", most - 1


async def answers(caller: Caller, path: str) -> bool:
    return (await caller.ask("GET", path)).status == 200


async def until_over(caller: Caller, name: str) -> Any:
    async def over() -> Any:
        said = await caller.ask("GET", f"/v1/commands/{name}")
        assert said.status == 200, said
        return said.body if said.body["state"] != "running" else None

    return await eventually(over)


def test_a_session_and_its_commands_can_be_looked_at(face: HttpStage) -> None:
    async def act(acme: Caller, rival: Caller) -> None:
        session = await acme.open(face.bridge)
        path = f"/v1/sessions/{session}"
        found = await acme.ask("GET", path)
        assert (found.status, found.body["id"], found.body["state"]) == (200, session, "idle")
        assert not {"pid", "uid", "grant"} & set(found.body)
        body = {"operation": "act", "arguments": {"code": "time.sleep(1); result = [1, 2]"}, "id": "looked"}
        work = asyncio.create_task(acme.ask("POST", f"{path}/commands", body))
        await eventually(partial(answers, acme, "/v1/commands/looked"))
        running = (await acme.ask("GET", "/v1/commands/looked")).body
        assert (running["state"], running["answer"], running["error"]) == ("running", None, None)
        whole = (await work).body
        done = (await acme.ask("GET", "/v1/commands/looked")).body
        assert (done["state"], done["answer"]) == ("done", whole)
        failing = {"operation": "act", "arguments": {"code": "1/0"}, "id": "fails"}
        refused = (await acme.ask("POST", f"{path}/commands", failing)).body
        failed = (await acme.ask("GET", "/v1/commands/fails")).body
        assert (failed["state"], failed["error"]) == ("failed", refused)
        for name in ("looked", "never-was"):
            foreign = await rival.ask("GET", f"/v1/commands/{name}")
            assert (foreign.status, foreign.code) == (404, "not_found")
            assert foreign.body["message"] == f"no command {name!r} is known here"
        assert (await rival.ask("GET", path)).status == 404
        await acme.ask("DELETE", path)
        gone = await acme.ask("GET", path)
        assert (gone.status, gone.code) == (410, "session_ended")

    using(face, act, "acme", "rival")


def test_a_lost_stream_goes_on_where_it_was(face: HttpStage) -> None:
    async def act(acme: Caller, rival: Caller) -> None:
        body = {
            "operation": f"{face.bridge}:act",
            "arguments": {"code": STEPS.format(12, 12, 0.1)},
            "id": "long-one",
            "resumable": True,
        }
        first = [one async for one in read(acme, "POST", "/v1/run", body, most=4)]
        assert [name for _, name, _ in first] == ["open", "progress", "progress", "progress"]
        assert [number for number, _, _ in first] == [0, 1, 2, 3]
        again = [
            one async for one in read(acme, "GET", "/v1/commands/long-one/events", **{"Last-Event-ID": "3"})
        ]
        assert [number for number, name, _ in again if name != "open"] == list(range(4, 14))
        assert again[-1][1] == "result"
        assert again[-1][2]["value"] == "done"
        late = [one async for one in read(acme, "GET", "/v1/commands/long-one/events?after=12")]
        assert [(number, name) for number, name, _ in late] == [(0, "open"), (13, "result")]
        facts = (await acme.ask("GET", "/v1/commands/long-one")).body
        assert (facts["state"], facts["events"]) == ("done", 13)
        for path in ("long-one", "never-was"):
            foreign = await rival.ask("GET", f"/v1/commands/{path}/events", headers=STREAM)
            assert (foreign.status, foreign.code) == (404, "not_found")
        for number in ("x", "14", "999999"):
            wrong = await acme.ask(
                "GET", "/v1/commands/long-one/events", headers={**STREAM, "Last-Event-ID": number}
            )
            assert (wrong.status, wrong.body["where"]) == (400, "Last-Event-ID")
        plain = await acme.ask("POST", "/v1/run", {**body, "id": "plain"})
        assert (plain.status, plain.body["where"]) == (400, "resumable")

    using(face, act, "acme", "rival")


def test_a_reader_that_falls_behind_loses_events_and_not_its_command(face: HttpStage) -> None:
    async def act(acme: Caller) -> None:
        body = {
            "operation": f"{face.bridge}:count",
            "arguments": {"count": 40, "size": 100_000},
            "id": "flood",
            "resumable": True,
        }
        async for _ in read(acme, "POST", "/v1/run", body, most=1):
            pass
        assert (await until_over(acme, "flood"))["state"] == "done"
        seen = [one async for one in read(acme, "GET", "/v1/commands/flood/events")]
        (gap,) = [data for _, name, data in seen if name == "gap"]
        numbers = [number for number, name, _ in seen if name in ("chunk", "result", "progress")]
        assert gap["first"] == 1
        assert numbers == list(range(gap["last"] + 1, 43))
        assert seen[-1][1] == "result"

    using(face, act)


def test_a_resumable_command_is_cancelled_by_its_name(face: HttpStage) -> None:
    async def act(acme: Caller) -> None:
        body = {
            "operation": f"{face.bridge}:act",
            "arguments": {"code": "time.sleep(7)"},
            "id": "left",
            "resumable": True,
        }
        async for _ in read(acme, "POST", "/v1/run", body, most=1):
            pass
        assert (await acme.ask("GET", "/v1/commands/left")).body["state"] == "running"
        assert (await acme.ask("DELETE", "/v1/commands/left")).status == 202
        facts = await until_over(acme, "left")
        assert (facts["state"], facts["error"]["code"]) == ("cancelled", "cancelled")
        seen = [one async for one in read(acme, "GET", "/v1/commands/left/events")]
        assert (seen[-1][1], seen[-1][2]["code"]) == ("error", "cancelled")

    using(face, act)


def test_resumable_commands_count_as_requests(face: HttpStage) -> None:
    async def act(helper: Caller) -> None:
        body = {"operation": f"{face.bridge}:act", "arguments": {"code": "time.sleep(6)"}, "resumable": True}
        statuses = []
        for number in range(8):
            async with helper.http.post(
                f"{helper.url}/v1/run", json={**body, "id": f"r{number}"}, headers={**helper.auth, **STREAM}
            ) as response:
                statuses.append(response.status)
        assert 429 in statuses
        for number, status in enumerate(statuses):
            if status == 200:
                await helper.ask("DELETE", f"/v1/commands/r{number}")
                await until_over(helper, f"r{number}")
        await eventually(partial(answers, helper, "/v1/sessions"))

    using(face, act, "helper")


def test_head_is_get_without_its_body(face: HttpStage) -> None:
    async def act(acme: Caller) -> None:
        kept = (await acme.ask("PUT", "/v1/artifacts", data=b"x" * 300_000)).body["digest"]
        for path in ("/healthz", "/v1/bridges", "/v1/sessions", f"/v1/artifacts/{kept}", "/openapi.json"):
            got = await acme.ask("GET", path, headers={"Accept": "*/*"})
            headed = await acme.ask("HEAD", path, headers={"Accept": "*/*"})
            assert headed.status == got.status == 200, path
            assert headed.headers["Content-Type"] == got.headers["Content-Type"]
            if path != "/v1/sessions":  # which tells ages: they have more digits the next time
                assert headed.headers["Content-Length"] == got.headers["Content-Length"], path
        assert (await acme.ask("HEAD", "/v1/nothing")).status == 404
        await acme.ask("DELETE", f"/v1/artifacts/{kept}")

    using(face, act)


@pytest.mark.parametrize(
    ("accept", "streams"),
    [
        ([], False),
        (["*/*"], False),
        (["text/*"], False),
        (["text/event-stream"], True),
        (["application/json, text/event-stream"], True),
        (["application/json;q=0.9, text/event-stream;q=0.5"], False),
        (["text/event-stream;q=0"], False),
        (["TEXT/Event-Stream ; q=1.0", "application/json"], True),
        (["text/event-stream;q=banana"], False),
    ],
)
def test_a_stream_is_what_was_asked_for_by_the_rules(accept: list[str], streams: bool) -> None:
    assert prefers(accept, "text/event-stream", "application/json") is streams


@pytest.mark.parametrize("accept", [["image/png"], ["application/json;q=0"], ["*/*;q=0"], ["text/*"]])
def test_what_accepts_nothing_that_there_is_gets_406(face: HttpStage, accept: list[str]) -> None:
    with pytest.raises(Refused) as caught:
        check_accept(accept, ["application/json"])
    assert caught.value.status == 406

    async def act(acme: Caller) -> None:
        said = await acme.ask("GET", "/v1/sessions", headers={"Accept": accept[0]})
        assert (said.status, said.code, said.body["where"]) == (406, "usage", "Accept")
        other = await acme.ask(
            "POST", "/v1/run", headers={"Content-Type": "application/json; charset=latin-1"}, data=b"{}"
        )
        assert (other.status, other.code) == (415, "usage")

    using(face, act)


def described(name: str) -> dict[str, Any]:
    """A shipped bridge as `describe` says it, everything granted."""
    manifest = Catalogue.load().get(name)
    operations = [
        {
            "name": one.name,
            "summary": one.summary,
            "arguments": one.arguments,
            "result": one.result,
            "stream": one.stream,
            "granted": True,
        }
        for one in manifest.operations.values()
    ]
    return {"name": name, "operations": operations}


def generate(text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "openapi.json").write_text(text)
    return subprocess.run(
        [
            *(CLIENT / "openapi-python-client", "generate", "--path", "openapi.json", "--meta", "none"),
            *("--output-path", "made", "--fail-on-warning"),
        ],
        cwd=folder,
        env={**os.environ, "PATH": f"{CLIENT}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )


USE = """
import json, sys
from made import AuthenticatedClient
from made.api.default import (
    artifacts_get, artifacts_put, commands_look, commands_run, sessions_list_sessions, sessions_open_session,
    sessions_session,
)
from made.models import OpenSession, Run
from made.types import File
from io import BytesIO

url, token, bridge = sys.argv[1:]
client = AuthenticatedClient(base_url=url, token=token)
opened = sessions_open_session.sync(client=client, body=OpenSession(bridge=bridge))
facts = sessions_session.sync(opened.id, client=client)
body = Run.from_dict(
    {"operation": f"{bridge}:act", "arguments": {"code": "result = 6 * 7"}, "session": opened.id, "id": "made"}
)
answer = commands_run.sync(client=client, body=body)
looked = commands_look.sync("made", client=client)
kept = artifacts_put.sync(client=client, body=File(payload=BytesIO(b"bytes")), name="n")
data = artifacts_get.sync(kept.digest, client=client)
print(json.dumps([facts.state, answer.value, looked.state, looked.answer.value, data.payload.read().decode()]))
"""


def test_a_generated_client_loses_nothing_and_works(face: HttpStage, tmp_path: Path) -> None:
    names = ("custom", "dspy", "enhanced", "langchain", "pandas", "python", "transformers")
    every = tmp_path / "every"
    every.mkdir()
    said = generate(json.dumps(document(map(described, names))), every)
    assert said.returncode == 0, said.stdout + said.stderr
    assert "not be generated" not in said.stdout + said.stderr

    async def act(acme: Caller) -> str:
        return json.dumps((await acme.ask("GET", "/openapi.json")).body)

    served = tmp_path / "served"
    served.mkdir()
    said = generate(using(face, act), served)
    assert said.returncode == 0, said.stdout + said.stderr
    used = subprocess.run(
        [CLIENT / "python", "-c", textwrap.dedent(USE), face.url, TOKENS["acme"], face.bridge],
        cwd=served,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert used.returncode == 0, used.stderr[-3000:]
    assert json.loads(used.stdout) == ["idle", 42, "done", 42, "bytes"]
