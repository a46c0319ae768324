"""The tool calls of one command: decided, audited before and after, bounded in number and time.

What asks is hostile: unknown names, floods, arguments of any shape. What is asked may hang. Each call
ends in one reply, and all of them end with their command.
"""

from __future__ import annotations

import asyncio
import contextlib
import time

import msgspec

from bridgehold import clock
from bridgehold.bridges.frames import ToolCallFrame, ToolFact, ToolFault, ToolReplyFrame
from bridgehold.bridges.schema import problems_in_turns
from bridgehold.error_texts import at_border
from bridgehold.errors import (
    ApplicationError,
    BridgeholdError,
    BusyError,
    CommandTimeoutError,
    DeniedError,
    LimitError,
    UsageError,
)
from bridgehold.host.cell.tools.records import ToolRecords
from bridgehold.host.cell.tools.values import Offered, ToolMeans, ToolSource, ToolSpec
from bridgehold.host.cell.workers.pipes import GuestPipes
from bridgehold.host.shares.observe import Metrics
from bridgehold.policies.decide import DEFAULT_DENY, decide_tool
from bridgehold.policies.model import Decision, Grant
from bridgehold.policies.units import format_ms
from bridgehold.tasks import begin_task

MOST_AT_ONCE = 16
MOST_PER_COMMAND = 1_000
_MESSAGE = 2_000


INPUT = "stdin"
"""The tool by which a caller gives a command its standard input, where the manifest says so."""


def told(grant: Grant, offered: Offered, *, takes_input: bool = False) -> tuple[ToolFact, ...]:
    """What a bridge is told of: what it is granted of what is offered (pure)."""
    return tuple(
        tool.fact
        for name, (tool, _) in offered.items()
        if _decide(grant, name, tool, takes_input=takes_input).allowed
    )


def _decide(grant: Grant, name: str, tool: ToolSpec | None, *, takes_input: bool) -> Decision:
    """By the policy. What a caller types into its own command needs no grant; a policy may deny it."""
    decision = decide_tool(grant, name)
    asked = takes_input and name == INPUT and tool is not None and tool.how == "caller"
    if asked and decision.rule == DEFAULT_DENY:
        return Decision(allowed=True, rule="input", reason="the command's own caller gives its input")
    return decision


class ToolCalls(msgspec.Struct, kw_only=True):
    """Of one command, from its start to its end. `accept` is called for each frame that asks."""

    grant: Grant
    offered: Offered
    facts: tuple[ToolFact, ...] = ()
    """What the bridge is told of (`told`)."""
    takes_input: bool = False
    """Whether the command takes what its caller's tool `INPUT` gives."""
    records: ToolRecords
    metrics: Metrics
    running: set[asyncio.Task[None]] = msgspec.field(default_factory=set)
    asked: int = 0
    """How many the bridge has asked for."""

    def accept(self, frame: ToolCallFrame, pipes: GuestPipes) -> str:
        """Begin the call that `frame` asks for. What it says was wrong with it; empty where nothing."""
        self.asked += 1
        if self.asked > MOST_PER_COMMAND or len(self.running) >= 2 * MOST_AT_ONCE:
            return "more tool calls than a command may make"
        begin_task(self._serve(frame, pipes, busy=len(self.running) >= MOST_AT_ONCE), self.running)
        return ""

    async def close(self) -> None:
        """The command has ended: so does every call that is still under way."""
        for task in self.running:
            task.cancel()
        if self.running:
            await asyncio.wait(self.running)

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
        reference = await self.records.intent(tool, frame.arguments, decision)
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
            failure = at_border(error, f"{type(error).__name__} in the call of the tool {tool.name}")
            raise failure from error
        finally:
            ms = int((time.monotonic() - started) * 1000)
            self.metrics.tools.labels(tool.how, failure.code if failure else "ok").inc()
            await asyncio.shield(self.records.outcome(tool, reference, result, failure, ms))
        return result

    async def _decided(self, frame: ToolCallFrame) -> tuple[ToolSpec, ToolSource, Decision]:
        found = self.offered.get(frame.tool)
        decision = _decide(
            self.grant.at(clock.now()), frame.tool, found[0] if found else None, takes_input=self.takes_input
        )
        if found is None or not decision.allowed:
            if decision.allowed:
                reason = f"the tool {frame.tool[:80]!r} is not offered to this command"
                decision = Decision(allowed=False, rule="tools", reason=reason, source="")
            raise await self._refused(frame, decision, DeniedError)
        try:
            wrong, _ = await problems_in_turns(found[0].takes, frame.arguments)
            kind: type[BridgeholdError] = UsageError
        except LimitError as error:
            wrong, kind = [error.message], LimitError
        if wrong:
            fault = Decision(allowed=False, rule="arguments", reason="; ".join(wrong), source=frame.tool[:80])
            raise await self._refused(frame, fault, kind)
        return *found, decision

    async def _refused(
        self, frame: ToolCallFrame, decision: Decision, kind: type[BridgeholdError]
    ) -> BridgeholdError:
        reference = await self.records.refused(frame.tool, frame.arguments, decision)
        why = f" (bridgehold why {reference})" if reference else ""
        return kind(f"{decision.reason} [rule {decision.rule}]{why}")

    async def _within_time(self, tool: ToolSpec, source: ToolSource, arguments: dict[str, object]) -> object:
        try:
            async with asyncio.timeout(tool.timeout_ms / 1000):
                means = ToolMeans(self.grant, self.records.events)
                result = await source.call(tool, arguments, self.records.context, means)
        except TimeoutError:
            raise CommandTimeoutError(
                f"the tool {tool.name} did not answer within {format_ms(tool.timeout_ms)}"
            ) from None
        wrong, _ = await problems_in_turns(tool.result, result, "result")
        if wrong:
            raise ApplicationError(f"the tool {tool.name} gave what its schema rules out: {'; '.join(wrong)}")
        return result


def _failed(frame: ToolCallFrame, error: BridgeholdError) -> ToolReplyFrame:
    fault = ToolFault(code=error.code, message=error.message[:_MESSAGE])
    return ToolReplyFrame(id=frame.id, call=frame.call, error=fault)
