"""A defect, an exception that is none of ours: whoever waits is told, typed, and our log says where."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any, cast

import pytest

from bridgehold.client.client import Client
from bridgehold.errors import InternalError
from bridgehold.faces.jupyter.kernel import Kernel
from bridgehold.faces.legacy import stdio
from bridgehold.faces.legacy.bound import BoundSession
from bridgehold.faces.legacy.pipes import PipeOut
from bridgehold.faces.legacy.rpc import RpcShim

MET = "sk-what-it-met"


class Broken:
    """A client in which something of ours fails that no error of ours tells of."""

    on_build: Callable[[dict[str, Any]], None]

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []

    async def request(self, method: str, params: dict[str, Any], *_: object, **__: object) -> Any:
        self.asked.append((method, params))
        raise KeyError(MET)

    run = request


class Pipe:
    def __init__(self) -> None:
        self.said: list[bytes] = []

    def put(self, data: bytes) -> None:
        self.said.append(data)


def test_a_session_that_a_defect_keeps_from_opening_has_ended(capsys: pytest.CaptureFixture[str]) -> None:
    async def act() -> None:
        bound = BoundSession(cast(Client, Broken()), "session.hold", {})
        with pytest.raises(InternalError, match="KeyError in the session's request"):
            await asyncio.wait_for(bound.id(), 30)
        end = await asyncio.wait_for(bound.ended, 30)
        assert (end.code, end.status) == ("internal", InternalError.exit_status)
        assert not bound.alive

    asyncio.run(act())
    logged = capsys.readouterr().err
    assert "in _hold" in logged
    assert MET not in logged


def test_a_command_that_meets_a_defect_is_answered(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise KeyError(MET)

    async def act() -> list[bytes]:
        pipe = Pipe()
        worker = stdio.Worker(cast(Client, Broken()), cast(PipeOut, pipe), bridge="python", tenant="local")
        monkeypatch.setattr(stdio, "translate", broken)
        await worker.take(b'{"id":7,"command":"ping","args":{}}')
        await worker.finish(30)
        return pipe.said

    (answer,) = asyncio.run(act())
    said = json.loads(answer[4:])
    assert (said["id"], said["success"]) == (7, False)
    assert "KeyError" in said["error"]
    assert MET not in answer[4:].decode() + capsys.readouterr().err


def test_a_connection_that_meets_a_defect_is_ended_at_its_other_end(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def act() -> None:
        ended: list[int] = []
        rpc = RpcShim.__new__(RpcShim)
        rpc._tasks = set()

        async def say_end(conn: Any) -> None:
            ended.append(conn.number)

        rpc._say_end = say_end  # type: ignore[method-assign]  # what is told is what is looked at
        rpc._held = cast(Any, None)
        conn: Any = type("Conn", (), {"number": 3, "writer": None})()
        rpc._spawn(rpc._pass(conn, asyncio.StreamReader()))
        await asyncio.gather(*rpc._tasks, return_exceptions=True)
        assert ended == [3]
        await asyncio.sleep(0)

    asyncio.run(act())
    assert "AttributeError in a connection" in capsys.readouterr().err


def answer_with(error: Exception) -> Callable[..., Coroutine[Any, Any, dict[str, Any]]]:
    async def answer(*_: object) -> dict[str, Any]:
        raise error

    return answer


def test_a_frontend_is_answered_and_its_kernel_goes_on() -> None:
    async def act() -> None:
        published: list[Any] = []
        replies: list[Any] = []
        kernel = Kernel.__new__(Kernel)
        wire: Any = type("Wire", (), {})()
        wire.publish = lambda kind, content, asked: published.append(content.get("execution_state"))
        wire.reply = lambda asked, content: replies.append(content)
        kernel._wire = wire
        kernel._handlers = {"execute_request": answer_with(KeyError("x"))}
        await kernel._answer(cast(Any, type("Asked", (), {"kind": "execute_request"})()))
        assert replies[0]["status"] == "error"
        assert published == ["busy", "idle"]

    asyncio.run(act())
