"""Refused commands: written to the audit, and then an error that says rule, reason and how to look it up."""

from __future__ import annotations

from bridgehold.audit.client import JournalClient
from bridgehold.audit.events import CommandRefused
from bridgehold.audit.redact import preview
from bridgehold.errors import BridgeholdError, PolicyError
from bridgehold.host.observe import Metrics
from bridgehold.host.values import CommandRequest, Principal
from bridgehold.policies.model import Decision, Grant

_PREVIEW_BYTES = 2_000


class Refusal:
    """Writes one refusal and gives the error to raise; both carry rule, reason and source."""

    def __init__(
        self,
        journal: JournalClient,
        command: str,
        principal: Principal,
        request: CommandRequest,
        bridge: str,
        operation: str,
        metrics: Metrics,
    ) -> None:
        self._metrics = metrics
        self._journal = journal
        self._command = command
        self._principal = principal
        self._request = request
        self._bridge = bridge
        self._operation = operation

    def _event(self, decision: Decision) -> CommandRefused:
        digest, _, text = preview(self._request.arguments, (), _PREVIEW_BYTES)
        return CommandRefused(
            tenant=self._request.tenant[:64],
            principal=self._principal.name,
            command=self._command,
            bridge=self._bridge,
            operation=f"{self._bridge}:{self._operation}",
            rule=decision.rule,
            reason=decision.reason[:500],
            source=decision.source,
            arguments_digest=digest,
            arguments_preview=text,
        )

    async def __call__(
        self, decision: Decision, kind: type[BridgeholdError], hint: str = ""
    ) -> BridgeholdError:
        return await refused(self._journal, self._metrics, self._event(decision), kind, hint)


async def refused(
    journal: JournalClient,
    metrics: Metrics,
    event: CommandRefused,
    kind: type[BridgeholdError],
    hint: str = "",
) -> BridgeholdError:
    """The refusal, written; and the error to raise, which says how to look it up."""
    metrics.refused.inc()
    reference = (await journal.append(event)).ref
    text = event.reason if event.rule == "arguments" else f"{event.reason} [rule {event.rule}]"
    return kind(text, hint=hint or f"bridgehold why {reference}", where=event.source, event=reference)


def no_tenant(principal: Principal, tenant: str) -> Decision:
    return Decision(
        allowed=False,
        rule=f"principals.{principal.name}.tenants",
        reason=f"{principal.name} may not act for tenant {tenant[:64]!r}",
        source="config.toml",
    )


def unknown(bridge: str, operation: str) -> Decision:
    return Decision(
        allowed=False,
        rule="default-deny",
        reason=f"{bridge}:{operation} is not granted",
        source="",
    )


def no_policy(error: PolicyError) -> Decision:
    """The rules can't be read, or can't be: nothing is allowed until they can."""
    return Decision(
        allowed=False, rule="policy", reason=f"{error.where}: {error.message}".strip(": "), source=error.where
    )


def foreign(bridge: str) -> Decision:
    return Decision(
        allowed=False,
        rule="foreign",
        reason=f"{bridge} runs scripts of the operator's own, and only their own callers speak with them",
        source="bridge.toml",
    )


def over_rate(grant: Grant) -> Decision:
    return Decision(
        allowed=False,
        rule="rate.commands_per_minute",
        reason=f"more than {grant.rate.commands_per_minute} commands a minute",
        source=str(grant.sources.get("rate.commands_per_minute", "")),
    )
