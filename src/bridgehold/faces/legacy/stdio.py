"""`bridgehold stdio`: one pool worker of DSPex or Snakepit, in front of one session of a bridge of ours.

The worker ends with its input, a signal, `shutdown` or its session; whoever waits for an answer gets
one before.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Callable
from typing import Any

from bridgehold.bridges.legacy import messages
from bridgehold.bridges.legacy.bodies import FORMATS, Format, format_of
from bridgehold.bridges.legacy.frames import pack
from bridgehold.client.client import Client
from bridgehold.error_texts import defect_of
from bridgehold.errors import BridgeholdError, BusyError, CancelledError, SessionEndedError, UsageError
from bridgehold.faces.legacy.bound import BoundSession
from bridgehold.faces.legacy.callbacks import Callbacks
from bridgehold.faces.legacy.callers import CallerSessions
from bridgehold.faces.legacy.commands import Step, error_text, fresh_answer, recreation, translate
from bridgehold.faces.legacy.pipes import PipeOut
from bridgehold.faces.legacy.values import Outcome
from bridgehold.protocol import plain

MODE = "pool-worker"
_AT_ONCE = 64
"""Requests that run or wait; beyond that the caller's pipe fills, or they are refused where tools wait."""


def _busy(body: bytes) -> bytes:
    error = BusyError(f"{_AT_ONCE} requests already run or wait")
    return messages.failure(messages.read_id(body), error_text(error), format_of(body))


def _say_building() -> Callable[[dict[str, Any]], None]:
    """One line on standard error for each phase of a build that the worker's session waits for."""
    said: set[str] = set()

    def show_progress(event: dict[str, Any]) -> None:
        phase = str(event.get("phase"))
        if phase not in said:
            said.add(phase)
            sys.stderr.write(f"bridgehold: building the environment of {event.get('bridge')}: {phase}\n")

    return show_progress


class Worker:
    """One caller's side: frames in, answers out, one session at a time."""

    def __init__(
        self,
        client: Client,
        pipe: PipeOut,
        *,
        bridge: str,
        tenant: str,
        formats: tuple[Format, ...] = FORMATS,
    ) -> None:
        self._client = client
        client.on_build = _say_building()
        self._pipe = pipe
        self._bridge = bridge
        self._tenant = tenant
        self._formats = formats
        self._began = time.time()
        self._worker_id = ""
        self._commands = self._errors = 0
        self._framework: dict[str, object] = {}
        self._callers = CallerSessions(bridge, self._call)
        self._running: set[asyncio.Task[None]] = set()
        self._room = asyncio.Semaphore(_AT_ONCE)
        self.ended: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._callbacks = Callbacks(lambda data: pipe.put(pack(data)))
        self._session = self._open()

    async def take(self, body: bytes) -> None:
        """One frame of the caller's, answered in a task of its own; a tool's answer goes to who waits."""
        answer = messages.read_rpc_answer(body)
        if answer is not None:
            fault = _fault_of(body)
            if fault is not None:
                answer = messages.RpcAnswer(rpc_id=answer.rpc_id, error=plain.error_text(fault))
            self._callbacks.settle(answer)
            return
        if self._callbacks.tools and self._room.locked():  # an answer may stand behind it, and must be read
            self._pipe.put(pack(_busy(body)))
            return
        await self._room.acquire()
        task = asyncio.create_task(self._answer(body))
        self._running.add(task)
        task.add_done_callback(self._finished)

    async def finish(self, seconds: float) -> None:
        """Let what runs end, for `seconds`; then cancel and answer it, and end the session."""
        if self._running and seconds > 0:
            await asyncio.wait(self._running, timeout=seconds)
        for task in list(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await self._session.close()

    @property
    def last_words_seconds(self) -> float:
        """After the session ended by itself, whoever asks meanwhile is still told why."""
        return 0.5

    def stop(self, _number: int) -> None:
        """A signal: what runs is answered, and the end is an orderly one."""
        self.end()

    def end(self, status: int = 0, message: str = "") -> None:
        """The first call decides how the worker ends; later ones change nothing."""
        if not self.ended.done():
            self.ended.set_result(Outcome(status=status, message=message))

    def _open(self) -> BoundSession:
        """Requests that come before it is open wait for it; when it ends by itself, so do we."""
        session = BoundSession(self._client, "session.hold", {"bridge": self._bridge, "tenant": self._tenant})
        session.ended.add_done_callback(
            lambda ended: self.end(ended.result().status, f"the session ended: {ended.result().reason}")
        )
        return session

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._room.release()

    async def _answer(self, body: bytes) -> None:
        written_in, request_id = format_of(body), None
        try:
            request_id = messages.read_id(body)
            request = self._read(body)
            if isinstance(request, messages.Negotiation):
                answer = messages.selected(request.choose(self._formats))
            else:
                result = await self._run(request)
                answer = messages.success(request_id, result, written_in)
        except BridgeholdError as error:
            self._errors += 1
            sys.stderr.write(error.traceback)
            answer = messages.failure(request_id, error_text(error), written_in)
        except asyncio.CancelledError:
            ending = CancelledError("the worker is ending, and the command was cancelled")
            answer = messages.failure(request_id, error_text(ending), written_in)
        except Exception as error:  # noqa: BLE001 - whoever asked waits for an answer, a defect's too
            self._errors += 1
            answer = messages.failure(
                request_id, error_text(defect_of(error, "an answer of the worker's")), written_in
            )
        self._pipe.put(pack(answer))

    def _read(self, body: bytes) -> messages.Request | messages.Negotiation:
        """Raises `UsageError` for what can't arrive as it was sent, `ProtocolError` for what is no frame."""
        fault = _fault_of(body)
        if fault is not None and fault.where:
            raise fault
        request = messages.read_request(body)
        if fault is not None:
            raise fault
        return request

    async def _run(self, request: messages.Request) -> object:
        if request.format not in self._formats:
            raise UsageError(f"this worker takes no {request.format}", hint="See its --format.")
        if request.command == "register_tools":
            return self._callbacks.register(request.args, request.format)
        step = translate(self._bridge, request.command, request.args)
        session = await self._session.id()
        if step.own is not None:
            return await self._own(step, request.command, session)
        self._commands += 1
        try:
            value = await self._call(step, session)
        except BridgeholdError as error:
            again = recreation(self._bridge, request.args)
            if again is None or error.code != "not_found" or request.command != "execute_program":
                raise
            await self._call(again, session)
            value = await self._call(step, session)
        if step.operation == "common:get_capabilities" and isinstance(value, dict):
            return {**value, "mode": MODE}  # of this worker, as its ping says it
        return self._callers.remember(step, str(request.args.get("session_id") or ""), value)

    async def _own(self, step: Step, command: str, session: str) -> object:
        if step.own == "ping":
            return await self._ping(step.arguments, session)
        self._commands += 1
        if step.own == "fresh":
            return await self._fresh(command)
        if step.own == "clean_session":
            return await self._callers.clean(step.arguments, session)
        if step.own == "session_data":
            return await self._callers.data(step.arguments, session)
        asyncio.get_running_loop().call_later(0.01, self.end)
        ended = {"status": "shutting_down", "worker_id": self._worker_id, "mode": MODE}
        return {**ended, "sessions_cleaned": self._callers.count}

    async def _call(self, step: Step, session: str) -> Any:
        for key, value in step.arguments.items():
            if isinstance(value, bytes):
                raise UsageError(f"the argument {key[:80]!r} is binary", hint="Send it as base64 text.")
        return await self._client.run(
            step.operation,
            step.arguments,
            session=session,
            tenant=self._tenant,
            tools=self._callbacks.tools,
        )

    async def _ping(self, args: dict[str, object], session: str) -> dict[str, object]:
        """Not a command: it is true as long as the session lives, and waits behind nothing."""
        if isinstance(args.get("worker_id"), str):
            self._worker_id = str(args["worker_id"])[:200]
        if not self._framework and len(self._running) == 1:
            with contextlib.suppress(BridgeholdError):
                answer = await self._call(Step(operation="common:ping"), session)
                self._framework = dict(answer.get("framework") or {})
        if not self._session.alive:
            raise SessionEndedError("the session has ended")
        now = time.time()
        return {
            "status": "ok",
            "timestamp": now,
            "uptime": now - self._began,
            "mode": MODE,
            "worker_id": self._worker_id,
            "bridge": self._bridge,
            "bridge_type": self._bridge,
            "session": session,
            **({"framework": self._framework} if self._framework else {}),
            **({"dspy_available": True, "gemini_available": False} if self._bridge == "dspy" else {}),
        }

    async def _fresh(self, command: str) -> dict[str, object]:
        """What a bridge forgets least wrongly is a whole sandbox."""
        old, self._session = self._session, self._open()
        programs = self._callers.programs
        self._callers.forget()
        await old.close()
        await self._session.id()
        commands, errors = self._commands, self._errors
        self._commands = self._errors = 0
        return fresh_answer(command, programs=programs, commands=commands, errors=errors)


def _fault_of(body: bytes) -> UsageError | None:
    """Why JSON would not arrive as it was sent. What of msgpack would not is met when it is sent on."""
    if format_of(body) == "json":
        try:
            plain.loads(body, above=1)
        except UsageError as error:
            return error
    return None
