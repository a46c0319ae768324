"""The tool calls of one command: decided, audited before and after, bounded in number and time.

What asks is hostile: unknown names, floods, arguments of any shape. What is asked may hang. Each call
ends in one reply, and all of them end with their command.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

from bridgehold.audit.arguments import preview_of
from bridgehold.audit.client import JournalClient
from bridgehold.audit.events import ToolIntent, ToolOutcome, ToolRefused
from bridgehold.audit.redact import preview
from bridgehold.bridges.frames import ToolCallFrame, ToolFact, ToolFault, ToolReplyFrame
from bridgehold.bridges.schema import problems
from bridgehold.errors import (
    ApplicationError,
    BridgeholdError,
    BudgetError,
    BusyError,
    CommandTimeoutError,
    DeniedError,
    InternalError,
    LimitError,
    UsageError,
)
from bridgehold.host.cell.tools.values import Offered, ToolContext, ToolSource, ToolSpec
from bridgehold.host.cell.workers.pipes import GuestPipes
from bridgehold.host.shares.observe import Metrics
from bridgehold.host.shares.session_events import SessionEvents
from bridgehold.policies.decide import decide_tool
from bridgehold.policies.model import Decision, Grant
from bridgehold.policies.units import format_ms

MOST_AT_ONCE = 16
MOST_PER_COMMAND = 1_000
_PREVIEW_BYTES = 2_000
_MESSAGE = 2_000


class ToolCalls:
    """Of one command, from its start to its end. `accept` is called for each frame that asks."""

    def __init__(
        self,
        *,
        grant: Grant,
        context: ToolContext,
        offered: Offered,
        journal: JournalClient,
        metrics: Metrics,
        events: SessionEvents,
        on_degraded: Callable[[str], None],
    ) -> None:
        """`events` of its session. `on_degraded`: an outcome couldn't be written, although its tool ran."""
        self._events = events
        self._on_degraded = on_degraded
        self._metrics = metrics
        self._grant = grant
        self._context = context
        self._offered = offered
        self._journal = journal
        self._running: set[asyncio.Task[None]] = set()
        self._asked = 0

    @property
    def facts(self) -> tuple[ToolFact, ...]:
        """What the bridge is told of: what it is granted."""
        if not self._grant.tools.allow:
            return ()
        return tuple(
            tool.fact for name, (tool, _) in self._offered.items() if decide_tool(self._grant, name).allowed
        )

    @property
    def asked(self) -> bool:
        """Whether the bridge has asked for any."""
        return self._asked > 0

    def accept(self, frame: ToolCallFrame, pipes: GuestPipes) -> str:
        """Begin the call that `frame` asks for. What it says was wrong with it; empty where nothing."""
        self._asked += 1
        if self._asked > MOST_PER_COMMAND or len(self._running) >= 2 * MOST_AT_ONCE:
            return "more tool calls than a command may make"
        task = asyncio.create_task(self._serve(frame, pipes, busy=len(self._running) >= MOST_AT_ONCE))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return ""

    async def close(self) -> None:
        """The command has ended: so does every call that is still under way."""
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.wait(self._running)

    async def _serve(self, frame: ToolCallFrame, pipes: GuestPipes, *, busy: bool) -> None:
        reply = await self._answered(frame, busy=busy)
        with contextlib.suppress(BridgeholdError):  # the worker is gone, and with it who asked
            try:
                await pipes.send(reply)
            except (UsageError, LimitError) as error:
                await pipes.send(_failed(frame, ApplicationError(f"the tool's result: {error.message}")))

    async def _answered(self, frame: ToolCallFrame, *, busy: bool) -> ToolReplyFrame:
        try:
            if busy:
                raise BusyError(f"{MOST_AT_ONCE} tool calls of this command are under way")
            return ToolReplyFrame(id=frame.id, call=frame.call, result=await self._run(frame))
        except BridgeholdError as error:
            return _failed(frame, error)

    async def _run(self, frame: ToolCallFrame) -> object:
        tool, source, decision = await self._decided(frame)
        digest, size, text = preview_of(frame.arguments, _PREVIEW_BYTES)
        intent = ToolIntent(
            tenant=self._context.tenant,
            principal=self._context.principal,
            session=self._context.session,
            command=self._context.command,
            parent=self._context.command,
            tool=tool.name,
            how=tool.how,
            rule=decision.rule,
            arguments_digest=digest,
            arguments_bytes=size,
            arguments_preview=text,
        )
        await self._events.wait(3 if tool.how == "host" else 2)  # with its outcome, and what the host notes
        reference = (await self._journal.append(intent)).ref
        started = time.monotonic()
        result: object = None
        failure: BridgeholdError | None = None
        try:
            result = await self._within_time(tool, source, frame.arguments)
        except BridgeholdError as error:
            failure = error
            raise
        except asyncio.CancelledError:
            failure = CommandTimeoutError("its command ended first")
            raise
        except Exception as error:  # whatever a tool's kind does, the caller gets its error
            failure = InternalError(f"{type(error).__name__} in the call of the tool {tool.name}")
            raise failure from error
        finally:
            ms = int((time.monotonic() - started) * 1000)
            self._metrics.tools.labels(tool.how, failure.code if failure else "ok").inc()
            await asyncio.shield(self._record(tool, reference, result, failure, ms))
        return result

    async def _decided(self, frame: ToolCallFrame) -> tuple[ToolSpec, ToolSource, Decision]:
        found = self._offered.get(frame.tool)
        decision = decide_tool(self._grant, frame.tool)
        if found is None or not decision.allowed:
            if decision.allowed:
                reason = f"the tool {frame.tool[:80]!r} is not offered to this command"
                decision = Decision(allowed=False, rule="tools", reason=reason, source="")
            raise await self._refused(frame, decision, DeniedError)
        if wrong := problems(found[0].takes, frame.arguments):
            fault = Decision(allowed=False, rule="arguments", reason="; ".join(wrong), source=frame.tool[:80])
            raise await self._refused(frame, fault, UsageError)
        return *found, decision

    async def _refused(
        self, frame: ToolCallFrame, decision: Decision, kind: type[BridgeholdError]
    ) -> BridgeholdError:
        said = f"{decision.reason} [rule {decision.rule}]"
        if not self._events.room(f"tool.refused {decision.rule}", self._context.principal):
            return kind(said)
        digest, _, _ = preview(frame.arguments, cap_bytes=0)
        event = ToolRefused(
            tenant=self._context.tenant,
            principal=self._context.principal,
            session=self._context.session,
            command=self._context.command,
            tool=frame.tool[:80],
            rule=decision.rule,
            reason=decision.reason[:500],
            source=decision.source,
            arguments_digest=digest,
        )
        reference = (await self._journal.append(event)).ref
        return kind(f"{said} (bridgehold why {reference})")

    async def _within_time(self, tool: ToolSpec, source: ToolSource, arguments: dict[str, object]) -> object:
        try:
            async with asyncio.timeout(tool.timeout_ms / 1000):
                result = await source.call(tool, arguments, self._context)
        except TimeoutError:
            raise CommandTimeoutError(
                f"the tool {tool.name} did not answer within {format_ms(tool.timeout_ms)}"
            ) from None
        if wrong := problems(tool.result, result, "result"):
            raise ApplicationError(f"the tool {tool.name} gave what its schema rules out: {'; '.join(wrong)}")
        return result

    async def _record(
        self, tool: ToolSpec, intent: str, result: object, failure: BridgeholdError | None, ms: int
    ) -> None:
        digest, size, _ = preview(result, cap_bytes=0)
        outcome = ToolOutcome(
            tenant=self._context.tenant,
            principal=self._context.principal,
            session=self._context.session,
            command=self._context.command,
            intent=intent,
            tool=tool.name,
            ok=failure is None,
            code=failure.code if failure else "",
            reason=failure.message[:500] if failure else "",
            ms=ms,
            result_digest=digest if failure is None else "",
            result_bytes=size if failure is None else 0,
        )
        try:
            await self._journal.append(outcome, durable=False)
        except BudgetError:  # its tenant's share of the audit is used up, which is nobody else's matter
            self._events.count("tool.outcome", outcome.principal)
        except BridgeholdError as error:
            self._on_degraded(f"a tool's outcome could not be written: {error.message}")


def _failed(frame: ToolCallFrame, error: BridgeholdError) -> ToolReplyFrame:
    fault = ToolFault(code=error.code, message=error.message[:_MESSAGE])
    return ToolReplyFrame(id=frame.id, call=frame.call, error=fault)
