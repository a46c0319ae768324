"""Commands: run to their end or as a stream of events, cancelled, and their tools answered."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from aiohttp import web

from bridgehold.errors import BridgeholdError, NotFoundError, UsageError
from bridgehold.host.faces.http import sse
from bridgehold.host.faces.http.bodies import Command, Run, RunOperation, Taken, ToolAnswer
from bridgehold.host.faces.http.calls import Call
from bridgehold.host.faces.http.replies import answer, write
from bridgehold.host.faces.http.running import Running
from bridgehold.host.faces.http.statuses import status_of

_STREAM = "text/event-stream"


async def run(call: Call) -> web.StreamResponse:
    asked = await call.body(Run)
    where = {"session": asked.session, "tenant": call.caller.tenant(asked.tenant)}
    return await _run(call, asked, {"operation": asked.operation, **where})


async def run_operation(call: Call) -> web.StreamResponse:
    asked = await call.body(RunOperation)
    where = {"session": asked.session, "tenant": call.caller.tenant(asked.tenant)}
    return await _run(call, asked, {"operation": f"{call.path('bridge')}:{call.path('operation')}", **where})


async def run_in_session(call: Call) -> web.StreamResponse:
    asked = await call.body(Command)
    session = call.session_id()
    bridge, tenant = await call.place(session)
    operation = asked.operation if ":" in asked.operation else f"{bridge}:{asked.operation}"
    return await _run(call, asked, {"operation": operation, "session": session, "tenant": tenant})


async def cancel(call: Call) -> web.StreamResponse:
    """The command's own request ends with the error ``cancelled``."""
    call.face.commands.find(call.caller.principal, call.path("command")).cancel()
    return answer(Taken(status="cancelling"), 202)


async def answer_tool(call: Call) -> web.StreamResponse:
    """What a tool call came to, for the command whose stream asked for it, from its own principal."""
    running = call.face.commands.find(call.caller.principal, call.path("command"))
    number = call.path("call")
    if not (number.isascii() and number.isdigit() and len(number) < 16 and int(number) in running.calls):
        raise NotFoundError("no tool call waits for this answer", hint="")
    running.calls.discard(int(number))  # one answer at a time is read, and one is taken
    try:
        said = await call.body(ToolAnswer)
    except BaseException:
        running.calls.add(int(number))
        raise
    settled = {"command": running.host_name, "call": int(number), "result": said.result, "error": said.error}
    await call.ask("tool.reply", settled)
    return answer(Taken(status="taken"))


async def _run(call: Call, asked: Command | Run | RunOperation, params: dict[str, Any]) -> web.StreamResponse:
    streams = _STREAM in call.request.headers.get("Accept", "")
    if asked.tools and not streams:
        hint = f"Send `Accept: {_STREAM}`: each call comes as an event."
        raise UsageError("tools are called by events", where="tools", hint=hint)
    commands, principal = call.face.commands, call.caller.principal
    parent = commands.find(principal, asked.parent).host_name if asked.parent else ""
    params |= {
        "arguments": asked.arguments,
        "deadline_ms": asked.deadline_ms,
        "tools": msgspec.to_builtins(asked.tools),
        "parent": parent,
        "stream": streams,
    }
    with commands.enter(principal, asked.id) as running:
        try:
            return await (_streamed if streams else _whole)(call, running, params)
        finally:
            call.link.spoiled = call.link.spoiled or not _over(running.work)


def _over(work: asyncio.Future[Any] | None) -> bool:
    """Whether the host has answered, so that nothing of it can still run."""
    return work is not None and work.done() and not work.cancelled()


async def _whole(call: Call, running: Running, params: dict[str, Any]) -> web.StreamResponse:
    running.work = asyncio.ensure_future(call.ask("run", params))
    return answer(await running.result(running.work))


async def _streamed(call: Call, running: Running, params: dict[str, Any]) -> web.StreamResponse:
    """Events as they come; a failure is the last one, since the status has been sent by then."""
    patience = call.face.config.read_s
    response = await sse.opened(call.request, running.name)

    def heard(said: dict[str, Any]) -> None:
        kind = said.pop("type")
        if kind == "tool_call":
            running.host_name, said["command"] = said["command"], running.name
            running.calls.add(said["call"])
        outbox.put(sse.event(kind, said))

    def over(done: asyncio.Future[Any]) -> None:
        if not done.cancelled():
            done.exception()  # it is told to the caller; where that one is gone, to nobody
        outbox.close()

    work = running.work = asyncio.ensure_future(call.link.client.request("run", params, heard))
    outbox = sse.Outbox(call.share(), call.face.config.beat_s, work.cancel)
    work.add_done_callback(over)
    try:
        while piece := await outbox.take():
            await write(call.request, response, piece, patience)
        await write(call.request, response, await _last(running, work, outbox), patience)
    finally:
        work.cancel()
        outbox.forget()
    return response


async def _last(running: Running, work: asyncio.Future[Any], outbox: sse.Outbox) -> bytes:
    try:
        if outbox.full:
            raise outbox.failure
        return sse.event("result", await running.result(work))
    except BridgeholdError as error:
        return sse.event("error", {**msgspec.to_builtins(error.info()), "status": status_of(error.code)})
