"""Commands: run to their end or as a stream of events, cancelled, and their tools answered."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
from aiohttp import web

from bridgehold.error_texts import defect_of
from bridgehold.errors import (
    BridgeholdError,
    BusyError,
    CancelledError,
    HostUnavailableError,
    NotFoundError,
    UsageError,
)
from bridgehold.faces.http import sse
from bridgehold.faces.http.bodies import Command, CommandFacts, Run, RunOperation, Taken, ToolAnswer
from bridgehold.faces.http.calls import Call
from bridgehold.faces.http.checks import bearer, prefers
from bridgehold.faces.http.flow import HELD, Flow, whole
from bridgehold.faces.http.links import STASHED
from bridgehold.faces.http.replies import answer, write
from bridgehold.faces.http.route import route
from bridgehold.faces.http.running import Running
from bridgehold.faces.http.statuses import Refused, status_of
from bridgehold.protocol.values import Answer
from bridgehold.tasks import begin_task

_STREAM = "text/event-stream"


@route("POST", "/v1/sessions/{session}/commands", gives=Answer, streams=True)
async def run_in_session(call: Call, asked: Command) -> object:
    """Run a command in a session."""
    session = call.session_id()
    bridge, tenant = await call.place(session)
    operation = asked.operation if ":" in asked.operation else f"{bridge}:{asked.operation}"
    return await _run(call, asked, {"operation": operation, "session": session, "tenant": tenant})


@route("POST", "/v1/run", gives=Answer, streams=True)
async def run(call: Call, asked: Run) -> object:
    """Run a command in the session `anonymous`, or one that is named."""
    where = {"session": asked.session, "tenant": call.caller.tenant(asked.tenant)}
    return await _run(call, asked, {"operation": asked.operation, **where})


@route("POST", "/v1/run/{bridge}/{operation}", gives=Answer, streams=True)
async def run_operation(call: Call, asked: RunOperation) -> object:
    """The same, the operation being named in the path."""
    where = {"session": asked.session, "tenant": call.caller.tenant(asked.tenant)}
    return await _run(call, asked, {"operation": f"{call.path('bridge')}:{call.path('operation')}", **where})


@route("DELETE", "/v1/commands/{command}", gives=Taken, status=202, uncounted=True)
async def cancel(call: Call) -> object:
    """Cancel a command of yours that is under way.

    The command's own request ends with the error ``cancelled``.
    """
    call.face.commands.find(call.caller.owner, call.path("command")).cancel()
    return Taken(status="cancelling")


@route("POST", "/v1/commands/{command}/tools/{call}", body=ToolAnswer, gives=Taken, uncounted=True)
async def answer_tool(call: Call) -> object:
    """Answer a tool call that a command's stream told.

    From the principal of the command whose stream asked for it.
    """
    running = call.face.commands.find(call.caller.owner, call.path("command"))
    number = call.path("call")
    if not (number.isascii() and number.isdigit() and len(number) < 16 and int(number) in running.calls):
        raise NotFoundError("no tool call waits for this answer", hint="")
    running.calls.discard(int(number))  # one answer at a time is read, and one is taken
    try:
        said = await call.body(ToolAnswer)
        settled = {
            "command": running.host_name,
            "call": int(number),
            "result": said.result,
            "error": said.error,
            "tenant": running.tenant or None,
        }
        await call.ask("tool.reply", settled)
    except BaseException:
        running.calls.add(int(number))
        raise
    return Taken(status="taken")


async def _run(call: Call, asked: Command | Run | RunOperation, params: dict[str, Any]) -> object:
    streams = prefers(call.request.headers.getall("Accept", []), _STREAM, "application/json")
    if asked.tools and not streams:
        hint = f"Send `Accept: {_STREAM}`: each call comes as an event."
        raise UsageError("tools are called by events", where="tools", hint=hint)
    commands, owner = call.face.commands, call.caller.owner
    parent = commands.find(owner, asked.parent).host_name if asked.parent else ""
    params |= {
        "arguments": asked.arguments,
        "deadline_ms": asked.deadline_ms,
        "tools": asked.tools,
        "parent": parent,
        "stream": streams,
    }
    if asked.resumable:
        if not streams:
            raise UsageError(
                "what is resumed is a stream", where="resumable", hint=f"Send `Accept: {_STREAM}`."
            )
        running = commands.begin(owner, asked.id)
        running.tenant = params["tenant"] or ""
        return await _begun(call, running, params)
    with commands.enter(owner, asked.id) as running:
        running.tenant = params["tenant"] or ""
        try:
            return await (_streamed if streams else _whole)(call, running, params)
        finally:
            call.link.spoiled = call.link.spoiled or not _over(running.work)


@route("GET", "/v1/commands/{command}", gives=CommandFacts, uncounted=True)
async def look(call: Call) -> object:
    """A command of yours: its state, and what came of it while that is kept."""
    return call.face.commands.look(call.caller.owner, call.path("command")).facts()


@route("GET", "/v1/commands/{command}/events", query=("after",), gives_kind="text/event-stream")
async def events(call: Call) -> object:
    """A resumable command's events after `Last-Event-ID`, as they come."""
    running = call.face.commands.look(call.caller.owner, call.path("command"))
    if running.log is None:
        raise NotFoundError(
            "the command's events are not kept", hint="Ask for them with `resumable` when you start it."
        )
    said = call.request.headers.get("Last-Event-ID", "") or call.query("after") or "0"
    if not (said.isascii() and said.isdigit() and len(said) < 16):
        raise UsageError(
            "no event's id", where="Last-Event-ID", hint="Send the last `id:` that you have read."
        )
    if int(said) > running.log.last:
        raise UsageError(
            f"no event {int(said)} was sent: the last is {running.log.last}",
            where="Last-Event-ID",
            hint="Send the last `id:` that you have read of this command.",
        )
    return await _followed(call, running, running.log, int(said))


async def _begun(call: Call, running: Running, params: dict[str, Any]) -> web.StreamResponse:
    """A command with a connection of its own to the host: it outlives this request."""
    face, principal, owner = call.face, call.caller.principal, call.caller.owner
    log = running.log = sse.EventLog(call.share())
    place = face.requests.of(principal)
    if face.requests.held_by(principal) >= face.config.requests or not place.take(1):
        face.commands.end(owner, running)
        raise Refused(429, BusyError(f"{principal} has too many commands under way", hint=""))
    held, call.body_share = call.body_share, call.share()  # what it was sent lives as long as it
    token = bearer(call.request.headers.getall("Authorization", []))

    async def work() -> None:
        try:
            stashed = any(value is STASHED for value in params.values())  # it is where it was put
            async with face.links.of(token, call.link if stashed else None) as link:
                if running.cancelled:  # before there was anything to cancel at the host
                    raise CancelledError("the command was cancelled by its caller")  # noqa: TRY301 - said below
                handle_event = _listener(running, log.add)
                running.work = asyncio.ensure_future(link.pass_on("run", params, handle_event))
                try:
                    log.add("result", await whole(await running.result(running.work), call.share()))
                finally:
                    link.spoiled = link.spoiled or not _over(running.work)
        except BridgeholdError as error:
            log.add("error", {**msgspec.to_builtins(error.info()), "status": status_of(error.code)})
        except Refused as error:
            log.add("error", {**msgspec.to_builtins(error.error.info()), "status": error.status})
        except Exception as error:  # noqa: BLE001 - whoever follows it hears of a defect
            defect = defect_of(error, "a resumable command")
            log.add("error", {**msgspec.to_builtins(defect.info()), "status": status_of(defect.code)})
        finally:
            log.close()
            held.give_back()
            place.give_back()
            face.commands.end(owner, running)

    begin_task(work(), face.commands.tasks)
    return await _followed(call, running, log, 0)


async def _followed(call: Call, running: Running, log: sse.EventLog, number: int) -> web.StreamResponse:
    with running.read():
        response = await sse.opened(call.request, running.name)
        while not (log.closed and number >= log.last):
            piece, number = await log.after(number, call.face.config.beat_s)
            await write(call.request, response, piece, call.face.config.read_s)
    return response


def _listener(
    running: Running, put: Callable[[str, dict[str, Any]], None], crowded: Callable[[], bool] = lambda: False
) -> Callable[[dict[str, Any]], None]:
    """Takes what the host tells of a command, and gives it on by kind; no output while it is `crowded`."""
    left_out: Counter[str] = Counter()

    def handle_event(said: dict[str, Any]) -> None:
        kind = said.pop("type")
        if kind == "output":
            stream = said["stream"]
            left_out[stream] += said.pop("cut", 0)
            if crowded():
                left_out[stream] += len(said["text"].encode())
                return
            if cut := left_out.pop(stream, 0):
                said["cut"] = cut
        if kind == "tool_call":
            running.host_name, said["command"] = said["command"], running.name
            running.calls.add(said["call"])
        put(kind, said)

    return handle_event


def _over(work: asyncio.Future[Any] | None) -> bool:
    """Whether the host has answered, so that nothing of it can still run."""
    return work is not None and work.done() and not work.cancelled()


async def _whole(call: Call, running: Running, params: dict[str, Any]) -> Flow | web.StreamResponse:
    running.work = asyncio.ensure_future(call.link.pass_on("run", params))
    result = await running.result(running.work)
    return result if isinstance(result, Flow) else answer(result)


async def _streamed(call: Call, running: Running, params: dict[str, Any]) -> web.StreamResponse:
    """Events as they come; a failure is the last one, since the status has been sent by then."""
    patience = call.face.config.read_s
    response = await sse.opened(call.request, running.name)

    def over(done: asyncio.Future[Any]) -> None:
        if not done.cancelled():
            done.exception()  # it is told to the caller; where that one is gone, to nobody
        outbox.close()

    handle_event = _listener(
        running, lambda kind, said: outbox.put(sse.event(kind, said)), lambda: outbox.crowded
    )
    work = running.work = asyncio.ensure_future(call.link.pass_on("run", params, handle_event))
    at_ease = call.link.connection.at_ease
    outbox = sse.Outbox(call.share(), call.face.config.beat_s, work.cancel, at_ease)
    work.add_done_callback(over)
    try:
        while piece := await outbox.take():
            await write(call.request, response, piece, patience)
        async for piece in _last(call, running, work, outbox):
            await write(call.request, response, piece, patience)
    finally:
        work.cancel()
        outbox.forget()
    return response


async def _last(
    call: Call, running: Running, work: asyncio.Future[msgspec.Raw | Flow], outbox: sse.Outbox
) -> AsyncIterator[bytes]:
    """The last event. One that breaks off midway has no end: whoever cuts the stream off says so by that."""
    try:
        if outbox.full:
            raise outbox.failure  # noqa: TRY301 - said below
        result = await running.result(work)
        call.hold(HELD if isinstance(result, Flow) else 0)
    except Exception as fault:  # noqa: BLE001 - the status was sent: a defect can be told here alone
        if isinstance(fault, HostUnavailableError) and outbox.held_up:
            fault = outbox.failure
        error = fault if isinstance(fault, BridgeholdError) else defect_of(fault, "a stream")
        yield sse.event("error", {**msgspec.to_builtins(error.info()), "status": status_of(error.code)})
        return
    if not isinstance(result, Flow):
        yield sse.event("result", result)
        return
    yield b"event: result\ndata: "
    async for piece in result.pieces():
        yield piece.replace(b"\n", b" ").replace(b"\r", b" ")
    yield b"\n\n"
