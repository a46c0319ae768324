"""Recovery by replay, through a whole host: what is made again, what never is, and what hostile ones get."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from bridgehold import BridgeholdError, SyncClient
from bridgehold.host.front.boots import GATEWAY_PORT
from hostile.stage import POLICY, Stage, stage

KINDS = ["root", "user"] if os.getuid() == 0 else ["self"]
MANIFEST = """
name = "{name}"
version = "1.0.0"
entry = "hostile:Hostile"
[resources.thing]
recovery = "replay"
[resources.memory]
[operations.configure]
summary = "Set the unit"
effect = "configure"
[operations.configure.arguments.properties]
unit = {{ type = "string" }}
api_key = {{ type = "string" }}
[operations.create_thing]
summary = "Make one"
effect = "create"
resource = "thing"
id_field = "id"
[operations.create_thing.arguments]
required = ["size"]
[operations.create_thing.arguments.properties]
id = {{ type = "string" }}
size = {{ type = "integer" }}
how = {{ type = "string" }}
[operations.create_memory]
summary = "Make one that is not made again"
effect = "create"
resource = "memory"
id_field = "id"
[operations.create_memory.arguments.properties]
id = {{ type = "string" }}
[operations.delete_thing]
summary = "Remove one"
effect = "delete"
resource = "thing"
id_field = "id"
[operations.delete_thing.arguments.properties]
id = {{ type = "string" }}
[operations.run_thing]
summary = "What it is"
effect = "run"
resource = "thing"
id_field = "id"
[operations.run_thing.arguments.properties]
id = {{ type = "string" }}
[operations.end]
summary = "End the worker"
effect = "run"
[operations.end.arguments.properties]
how = {{ type = "string" }}
"""
BRIDGE = """
import contextlib, os, threading, time, urllib.request, uuid
from bridgehold_sdk import Bridge, operation

class Hostile(Bridge):
    def __init__(self, *given, **more):
        super().__init__(*given, **more)
        self.things, self.unit, self.runs = {}, "m", 0

    @operation()
    def configure(self, unit="m", api_key=""):
        self.unit = unit
        return {"unit": unit}

    @operation()
    def create_thing(self, size, id="", how=""):
        if how == "random":
            id = uuid.uuid4().hex
        if how == "tool":
            self.tools["hello"]()
        if how == "gateway":
            try:
                urllib.request.urlopen("http://127.0.0.1:GATEWAY/nowhere/x", timeout=5)
            except Exception:
                pass
        self.things[id] = size
        return {"id": id}

    @operation()
    def create_memory(self, id="m"):
        self.things[id] = 0
        return {"id": id}

    @operation()
    def delete_thing(self, id):
        del self.things[id]
        return {}

    @operation()
    def run_thing(self, id):
        self.runs += 1
        return {"size": self.things.get(id), "unit": self.unit, "runs": self.runs, "pid": os.getpid(),
                "things": sorted(self.things)}

    @operation()
    def end(self, how="exit"):
        while how == "hang":
            with contextlib.suppress(KeyboardInterrupt):
                time.sleep(60)
        if how == "memory":
            kept = []
            while True:
                kept.append(bytearray(16 << 20))
        os._exit(1)
""".replace("GATEWAY", str(GATEWAY_PORT))


@pytest.fixture(scope="module", params=KINDS)
def lossy(request: pytest.FixtureRequest) -> Iterator[Stage]:
    with stage(request.param, "fork") as ready:
        name = ready.bridge(manifest=MANIFEST)
        (ready.layout.bridges / name / "hostile.py").write_text(BRIDGE)
        policy = POLICY.replace('command = "60s"', 'command = "3s"')
        policy = policy.replace("[rate]", "[rate]\ncommands_per_minute = 6000")
        (ready.layout.policies / f"{name}.toml").write_text(
            policy + '[tools]\nallow = ["*"]\n[sandbox]\nstart = "fork"\n'
        )
        ready.__dict__["_plain"] = name
        yield ready


def fails(session: Any, operation: str, arguments: dict[str, Any] | None = None) -> BridgeholdError:
    with pytest.raises(BridgeholdError) as caught:
        session.run(operation, arguments or {})
    return caught.value


@pytest.mark.parametrize(("how", "code"), [("exit", "crash"), ("hang", "timeout"), ("memory", "memory")])
def test_what_was_made_is_there_again_and_the_audit_says_how(lossy: Stage, how: str, code: str) -> None:
    with lossy.session() as session:
        session.run("configure", {"unit": "km"})
        session.run("create_thing", {"id": "a", "size": 1})
        session.run("create_thing", {"id": "b", "size": 2})
        session.run("create_memory", {"id": "m"})
        session.run("delete_thing", {"id": "a"})
        first = session.run("run_thing", {"id": "b"})
        assert first["things"] == ["b", "m"]
        error = fails(session, "end", {"how": how})
        assert error.code == code
        assert "made again (2 commands)" in error.hint
        again = session.run("run_thing", {"id": "b"})  # by the old id
        assert (again["size"], again["unit"], again["runs"]) == (2, "km", 1)
        assert again["things"] == ["b"]
        assert session.run("run_thing", {"id": "b"})["runs"] == 2
        opened = lossy.events("session.opened")[-1]
        assert (session.lost, session.id) == ([opened["recovers"]], opened["session"])
        repeated = [e for e in lossy.events("command.intent") if e["session"] == opened["session"]]
        assert [e["operation"].partition(":")[2] for e in repeated[:3]] == [
            "configure",
            "create_thing",
            "run_thing",
        ]
        before = {e["command"]: e for e in lossy.events("command.intent") if e["session"] == session.lost[0]}
        for event in repeated[:2]:
            assert before[event["replays"]]["arguments_digest"] == event["arguments_digest"]
        assert repeated[2]["replays"] == ""
        fails(session, "end")  # and once more: what was made again is made again
        assert session.run("run_thing", {"id": "b"})["size"] == 2


def test_a_resource_that_ended_with_its_session_says_so_to_its_tenant(lossy: Stage) -> None:
    with lossy.session() as session:
        session.run("create_memory", {"id": "gone-with-it"})
    for tenant, code in (("local", "session_ended"), ("local", "session_ended"), ("other", "not_found")):
        with pytest.raises(BridgeholdError) as caught:
            lossy.client.request(
                "resource.execute", {"id": "gone-with-it", "operation": "run_thing", "tenant": tenant}
            )
        assert caught.value.code == code
        assert (session.id in caught.value.message) == (tenant == "local")


def test_a_resource_is_still_found_by_its_id(lossy: Stage) -> None:
    with lossy.session() as session:
        session.run("create_thing", {"id": "lone", "size": 7})
        fails(session, "end")
        for _ in range(2):
            found = lossy.client.request(
                "resource.execute", {"bridge": lossy.plain, "id": "lone", "operation": "run_thing"}
            )
            assert found["value"]["size"] == 7
        listed = lossy.client.request("resource.list", {"bridge": lossy.plain})
        assert [one["id"] for one in listed].count("lone") == 1
        session.run("delete_thing", {"id": "lone"})


@pytest.mark.parametrize(
    ("operation", "arguments", "said"),
    [
        ("create_thing", {"id": "x", "size": 1, "how": "gateway"}, "called a provider or a tool"),
        ("create_thing", {"id": "x", "size": 1, "how": "tool"}, "called a provider or a tool"),
    ],
)
def test_what_called_out_is_never_run_again(
    lossy: Stage, operation: str, arguments: dict[str, Any], said: str
) -> None:
    def hello() -> str:
        return "hello"

    with lossy.client.session(lossy.plain, tools=[hello]) as session:
        session.run("create_thing", {"id": "a", "size": 1})
        session.run(operation, arguments)
        assert said in fails(session, "end").hint
        assert fails(session, "run_thing", {"id": "a"}).code == "session_ended"


def test_another_id_than_the_first_time_ends_the_recovery_and_leaves_no_half(lossy: Stage) -> None:
    with lossy.session() as session:
        session.run("create_thing", {"id": "a", "size": 1})
        session.run("create_thing", {"size": 1, "how": "random"})
        fails(session, "end")
        error = fails(session, "run_thing", {"id": "a"})
        assert error.code == "session_ended"
        assert "where it had made" in error.message
        assert fails(session, "run_thing", {"id": "a"}).code == "session_ended"
        assert not lossy.client.request("resource.list", {"bridge": lossy.plain})


def test_commands_that_come_together_wait_for_one_recovery(lossy: Stage) -> None:
    with lossy.session() as session:
        for number in range(5):
            session.run("create_thing", {"id": f"t{number}", "size": number})
        fails(session, "end")
        found: list[Any] = []

        def ask(number: int) -> None:
            with SyncClient.connect(lossy.layout.socket) as client:
                reply = client.request(
                    "run",
                    {
                        "operation": f"{lossy.plain}:run_thing",
                        "arguments": {"id": f"t{number}"},
                        "session": session.id,
                    },
                )
                found.append((number, reply["value"]["size"]))

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert sorted(found) == [(number, number) for number in range(5)]
        opened = [e for e in lossy.events("session.opened") if e["recovers"] == session.id]
        assert len(opened) == 1


def test_an_end_that_was_asked_for_is_an_end(lossy: Stage) -> None:
    with lossy.session() as session:
        session.run("create_thing", {"id": "a", "size": 1})
        lossy.client.request("session.close", {"session": session.id})
        assert fails(session, "run_thing", {"id": "a"}).code == "session_ended"


def test_nobody_else_reaches_a_lost_session_by_its_id(lossy: Stage) -> None:
    with lossy.session() as session:
        session.run("create_thing", {"id": "a", "size": 1})
        fails(session, "end")
        with pytest.raises(BridgeholdError) as caught:
            lossy.client.request(
                "run",
                {
                    "operation": f"{lossy.plain}:run_thing",
                    "arguments": {"id": "a"},
                    "session": session.id,
                    "tenant": "another",
                },
            )
        assert caught.value.code in ("not_found", "denied")
        with pytest.raises(BridgeholdError) as caught:
            lossy.client.request(
                "run",
                {"operation": "python:execute", "arguments": {"code": "1"}, "session": session.id},
            )
        assert caught.value.code == "not_found"
