"""The audit events of tool calls, within the one bucket of their session (`host.shares.session_events`)."""

from __future__ import annotations

import msgspec

from bridgehold.audit.arguments import left_in, preview_of, split_in_turns
from bridgehold.audit.events import ToolIntent, ToolOutcome, ToolRefused
from bridgehold.audit.preview import digest_of
from bridgehold.errors import BridgeholdError
from bridgehold.host.cell.tools.values import ToolContext, ToolSpec
from bridgehold.host.shares.session_events import SessionEvents
from bridgehold.policies.model import Decision

_PREVIEW_BYTES = 2_000


class ToolRecords(msgspec.Struct, frozen=True):
    """The events of one command's tool calls, each in the name of whoever asked for the command."""

    context: ToolContext
    events: SessionEvents

    async def refused(self, tool: str, arguments: dict[str, object], decision: Decision) -> str:
        """Write a refusal; its reference, or the empty string where it was folded or can't be written."""
        counted_as = f"tool.refused {decision.rule}"
        if not self.events.room(counted_as, self.context.principal):
            return ""
        digest, _ = digest_of(arguments)
        event = ToolRefused(
            **self.context.ties,
            tool=tool[:80],
            rule=decision.rule,
            reason=decision.reason[:500],
            source=decision.source,
            arguments_digest=digest,
        )
        return await self.events.record(event, counted_as)

    async def intent(self, tool: ToolSpec, arguments: dict[str, object], decision: Decision) -> str:
        """Durable before the tool runs; its reference. Raises `AuditError`, `BudgetError`.

        Past the session's rate it waits, with room for the outcome and for what the host itself notes.
        """
        shown = left_in(arguments, await split_in_turns(arguments))
        digest, size, text = preview_of(shown, _PREVIEW_BYTES)
        event = ToolIntent(
            **self.context.ties,
            parent=self.context.command,
            tool=tool.name,
            how=tool.how,
            rule=decision.rule,
            arguments_digest=digest,
            arguments_bytes=size,
            arguments_preview=text,
        )
        await self.events.wait(3 if tool.how == "host" else 2)
        return await self.events.intend(event)

    async def outcome(
        self, tool: ToolSpec, intent: str, result: object, failure: BridgeholdError | None, ms: int
    ) -> None:
        """What came of the call that `intent` announced. A failure to write it degrades."""
        digest, size = digest_of(result)
        event = ToolOutcome(
            **self.context.ties,
            intent=intent,
            tool=tool.name,
            ok=failure is None,
            code=failure.code if failure else "",
            reason=failure.message[:500] if failure else "",
            ms=ms,
            result_digest=digest if failure is None else "",
            result_bytes=size if failure is None else 0,
        )
        await self.events.record(event)
