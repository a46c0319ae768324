"""Why a command is refused: the decision of each case, and its record as event and error."""

from __future__ import annotations

import msgspec

from bridgehold.audit.arguments import (
    Arguments,
    preview_of,
    split_in_turns,
    with_contents,
    without_contents,
)
from bridgehold.audit.events import CommandRefused
from bridgehold.error_texts import placed
from bridgehold.errors import (
    BridgeholdError,
    DeniedError,
    NotFoundError,
    PolicyError,
    SuspendedError,
    UnsupportedError,
    UsageError,
)
from bridgehold.host.cell.commands.command_log import PREVIEW_BYTES
from bridgehold.host.shares.refusals import LONGEST_REASON, Refusals, command_refused
from bridgehold.ids import is_name
from bridgehold.policies.model import Decision, Grant
from bridgehold.protocol.frames import CommandRequest
from bridgehold.protocol.values import Principal

_LOOKED_AT = 5_000
"""Values; no rate counts what is refused, and a look for keys takes up to 50 ms for so many."""


class Refusal(msgspec.Struct, frozen=True):
    """Refuses one command; event and error carry rule, reason and source."""

    refusals: Refusals
    command: str
    principal: Principal
    request: CommandRequest
    session: str = ""
    """Where it was known already."""

    async def _event(self, decision: Decision) -> CommandRefused:
        given, contents = without_contents(self.request.arguments)
        told = await _told(given)
        told = told if contents is None else with_contents(told, contents)
        digest, _, text = preview_of(told, PREVIEW_BYTES)
        tenant = self.request.tenant
        return command_refused(
            tenant=tenant
            if self.principal.may_act_for(tenant) and is_name(tenant)
            else self.principal.account,
            principal=self.principal.name,
            session=self.session,
            command=self.command,
            bridge=self.request.operation.partition(":")[0],
            operation=self.request.operation,
            rule=decision.rule,
            reason=decision.reason[:LONGEST_REASON],
            source=decision.source,
            arguments_digest=digest,
            arguments_preview=text,
        )

    async def __call__(
        self, decision: Decision, kind: type[BridgeholdError], hint: str = ""
    ) -> BridgeholdError:
        """Record the refusal; the error to raise, with its reference."""
        return await self.refusals.command(await self._event(decision), kind, hint)


async def _told(given: dict[str, object]) -> Arguments:
    """What of the arguments may be shown."""
    if _is_wide(given):
        return Arguments(kept={"…": f"more than {_LOOKED_AT} values"})
    try:
        return await split_in_turns(given, plain=False)
    except UsageError as error:
        return Arguments(kept={"…": error.message})


def _is_wide(arguments: object) -> bool:
    """Whether more than `_LOOKED_AT` values stand in them, at any depth."""
    waiting, left = [arguments], _LOOKED_AT
    while waiting:
        one = waiting.pop()
        if isinstance(one, (dict, list)):
            left -= len(one)
            if left < 0:
                return True
            waiting.extend(one.values() if isinstance(one, dict) else one)
    return False


def out_of_scope(principal: Principal, operation: str) -> Decision:
    """The token's scope does not include `operation`."""
    return Decision(
        allowed=False,
        rule=f"{principal.name}.scope",
        reason=f"{principal.name} may not run {operation[:128]}",
        source=f"tokens/{principal.name.partition(':')[2]}.toml",
    )


def suspended(error: SuspendedError) -> Decision:
    """The tenant is suspended."""
    return Decision(allowed=False, rule="tenant.state", reason=error.message, source=error.where)


def unknown(bridge: str, operation: str) -> Decision:
    """There is no such operation, or none that the caller may know of."""
    return Decision(
        allowed=False,
        rule="default-deny",
        reason=f"{bridge}:{operation} is not granted",
        source="",
    )


def no_policy(error: BridgeholdError) -> Decision:
    """The rules can't be read, or can't be: nothing is allowed until they can."""
    return Decision(allowed=False, rule="policy", reason=placed(error), source=error.where)


def ungranted(
    error: BridgeholdError, bridge: str, operation: str
) -> tuple[Decision, type[BridgeholdError], str]:
    """Why there is no grant, as a decision; the kind of error to raise, and its hint."""
    if isinstance(error, NotFoundError):
        return unknown(bridge, operation), DeniedError, ""
    if isinstance(error, SuspendedError):
        return suspended(error), SuspendedError, error.hint
    if isinstance(error, UnsupportedError):
        off = Decision(allowed=False, rule="features.foreign", reason=error.message, source=error.where)
        return off, UnsupportedError, error.hint
    return no_policy(error), PolicyError, error.hint


def foreign(bridge: str) -> Decision:
    """The bridge runs user scripts, which have no operations."""
    return Decision(
        allowed=False,
        rule="foreign",
        reason=f"{bridge} runs scripts of the operator's own, and only their own callers speak with them",
        source="bridge.toml",
    )


def past(rule: str, grant: Grant) -> Decision:
    """`rule`: a rate of the policy's, or a ceiling of the tenant's."""
    if rule == "rate.commands_per_minute":
        return over_rate(grant)
    key = rule.rpartition(".")[2]
    return Decision(
        allowed=False,
        rule=rule,
        reason=f"tenant {grant.tenant} has more than {getattr(grant.ceilings, key)} {key.replace('_', ' ')}",
        source=f"tenants/{grant.tenant}.toml",
    )


def over_rate(grant: Grant) -> Decision:
    """The tenant has asked for more commands in a minute than its policy grants."""
    return Decision(
        allowed=False,
        rule="rate.commands_per_minute",
        reason=f"more than {grant.rate.commands_per_minute} commands a minute",
        source=str(grant.sources.get("rate.commands_per_minute", "")),
    )
