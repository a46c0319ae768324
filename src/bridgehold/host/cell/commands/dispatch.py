"""The life of a command: request → operation → decision → intent, durable → call → outcome → reply.

A refusal is an event too. If the intent can't be written, the command doesn't run; if the outcome
can't be written, the reply says `degraded` and the host stops taking commands.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from functools import partial

import msgspec

from bridgehold.audit.arguments import (
    CONTENTS,
    at_once,
    judged_with,
    split_contents,
    split_in_turns,
)
from bridgehold.audit.client import JournalClient
from bridgehold.bridges.frames import ResultFrame
from bridgehold.bridges.manifest import COMMON_TAKES, common_misfit
from bridgehold.bridges.schema import names_within, problems_in_turns
from bridgehold.error_info import Output
from bridgehold.errors import (
    BridgeholdError,
    BudgetError,
    DeniedError,
    NotFoundError,
    PolicyError,
    SuspendedError,
    UsageError,
)
from bridgehold.host.cell.commands import refusals
from bridgehold.host.cell.commands.begun import as_begun, default_bridge
from bridgehold.host.cell.commands.chains import Arrival, Arrivals, Chain, Chains
from bridgehold.host.cell.commands.command_log import (
    Came,
    CommandLog,
    Counted,
    GoneError,
    InOrder,
    Plan,
    came_of,
    ending_of,
    output_of,
    used,
    with_output,
)
from bridgehold.host.cell.commands.completed import completed, place_of
from bridgehold.host.cell.commands.decided import LONGEST_NAME, decided, may_act_for, may_run
from bridgehold.host.cell.commands.errors import redact_error
from bridgehold.host.cell.commands.inline_keys import KeyKeeper, take_inline_keys
from bridgehold.host.cell.commands.recovery import Recovery
from bridgehold.host.cell.commands.replays import Step
from bridgehold.host.cell.commands.resources import Resources
from bridgehold.host.cell.sessions.session import Session, SessionKey
from bridgehold.host.cell.sessions.sessions import Sessions
from bridgehold.host.cell.tools.calls import INPUT, ToolCalls, told
from bridgehold.host.cell.tools.offers import CallersOffer, Offers
from bridgehold.host.cell.tools.records import ToolRecords
from bridgehold.host.cell.tools.values import Offered, ToolContext
from bridgehold.host.cell.workers.calls import Watcher, unbroken
from bridgehold.host.front.boots import OrderMaker
from bridgehold.host.front.registry import Registry
from bridgehold.host.shares.observe import Metrics
from bridgehold.host.shares.refusals import Refusals, no_tenant
from bridgehold.ids import is_name, new_command_id, parse_command
from bridgehold.policies.buckets import CommandRates
from bridgehold.policies.model import Decision
from bridgehold.protocol.frames import CommandRequest
from bridgehold.protocol.values import CommandUsage, Principal, Reply

_COMMON = "common"
_BESIDE = ("common:ping", "common:health")
"""Answered while a command runs."""


class Dispatch:
    """Runs commands. One per host; holds no guest bytes and no key."""

    def __init__(
        self,
        *,
        registry: Registry,
        sessions: Sessions,
        journal: JournalClient,
        keys: KeyKeeper,
        make_order: OrderMaker,
        offers: Offers,
        resources: Resources,
        recovery: Recovery,
        metrics: Metrics,
        refused: Refusals,
        rates: CommandRates,
        on_degraded: Callable[[str], None],
        redact: Callable[[str, str], Awaitable[str]],
    ) -> None:
        """`redact`: (tenant, text) without the values of the tenant's secrets."""
        self._redact = redact
        self._refusals = refused
        self._resources = resources
        self._recovery = recovery
        self._metrics = metrics
        self._offers = offers
        self._chains, self._arrivals = Chains(), Arrivals()
        self._registry = registry
        self._sessions = sessions
        self._keys = keys
        self._make_order = make_order
        self._log = CommandLog(journal, metrics, on_degraded, rates)
        self._rates = rates

    async def run(
        self,
        principal: Principal,
        request: CommandRequest,
        watcher: Watcher | None = None,
        callers: CallersOffer | None = None,
    ) -> Reply:
        """One command, from request to reply. Raises the typed error, with its event's reference.

        `callers`: tools that the caller runs itself while the command runs.
        """
        arrival = self._arrivals.of(principal.name, request) if CONTENTS in request.arguments else None
        try:
            plan = await self._plan(new_command_id(), principal, request)
            offered = self._offers.known.get((request.tenant, plan.bridge))
            if offered is None or callers is not None:
                offered = self._offers.of(request.tenant, plan.bridge, callers)
            session = await self._session(plan)
            waited = session.commands == 0
            if session.key in self._recovery.lost or session.id in self._recovery.under_way:
                await self._recovery.restored(session, partial(self._again, principal))
                waited = True
            return await self._run_in(session, plan, offered, watcher, arrival, waited=waited)
        except BridgeholdError as error:
            await redact_error(error, self._redact, request.tenant)
            raise
        finally:
            if arrival is not None:
                arrival.leave()

    async def _again(self, principal: Principal, session: Session, step: Step) -> object:
        """Repeat a lost session's command in `session`: it is decided and audited as the first time."""
        request = CommandRequest(
            operation=step.operation,
            arguments=step.arguments,
            tenant=session.key.tenant,
            session=session.id,
        )
        plan = await self._plan(new_command_id(), principal, request, replays=step.command)
        offered = self._offers.of(request.tenant, plan.bridge, None)
        return (await self._run_in(session, plan, offered, None)).value

    async def _run_in(
        self,
        session: Session,
        plan: Plan,
        offered: Offered,
        watcher: Watcher | None,
        arrival: Arrival | None = None,
        *,
        waited: bool = False,
    ) -> Reply:
        """`waited`: for its session, since it was decided. What counts is what holds when it begins."""
        if plan.operation is None and plan.request.operation in _BESIDE:
            return await self._beside(session, await self._still(plan) if waited else plan)
        parent, waiting = self._chains.parent(plan, session.id) if plan.request.parent else ("", ())
        facts = ""
        if arrival is not None:
            facts, waited = await arrival.in_order(plan.arguments.contents), True
        async with session.turn(plan.command, plan.principal.name, nested=bool(parent)) as queued:
            if waited or queued:
                plan = await self._still(plan)
            if plan.arguments.keys:
                await self._keys.capture(session, plan.arguments)
            intent = await self._log.intend(plan, session, parent, facts)
            if not offered:
                return await self._call(plan, session, intent, watcher)
            context = ToolContext(
                tenant=plan.grant.tenant,
                principal=plan.principal.name,
                session=session.id,
                command=plan.command,
            )
            takes_input = INPUT in offered and plan.operation is not None and plan.operation.input
            any_told = takes_input or plan.grant.tools.allow
            tools = ToolCalls(
                grant=plan.grant,
                offered=offered,
                facts=told(plan.grant, offered, takes_input=takes_input) if any_told else (),
                takes_input=takes_input,
                records=ToolRecords(context, session.worker.events),
                metrics=self._metrics,
            )
            self._chains[plan.command] = Chain(plan.grant.tenant, (*waiting, session.id))
            try:
                return await self._call(plan, session, intent, watcher, tools)
            finally:
                del self._chains[plan.command]
                if tools.running:
                    await tools.close()

    async def _still(self, plan: Plan) -> Plan:
        """`plan`, which had to wait, as it is decided now; a refusal is written and raised."""
        with contextlib.suppress(BridgeholdError):  # what refuses it now is told as of any other
            if (await self._registry.granted(plan.grant.tenant, plan.bridge)).grant is plan.grant:
                return plan
        return await self._plan(plan.command, plan.principal, plan.request, replays=plan.replays, before=plan)

    async def _plan(
        self,
        command: str,
        principal: Principal,
        request: CommandRequest,
        *,
        replays: str = "",
        before: Plan | None = None,
    ) -> Plan:
        """Decide; a refusal is written and raised. `replays`: the lost command that this one repeats.

        `before`: how it was decided under an earlier grant; no rate counts it twice.
        """
        bridge, operation = parse_command(request.operation)
        refuse = refusals.Refusal(self._refusals, command, principal, request)
        if len(request.tenant) > LONGEST_NAME or not may_act_for(principal, request.tenant):
            raise await refuse(no_tenant(principal, request.tenant), DeniedError)
        target = default_bridge(self._registry, self._sessions, request) if bridge == _COMMON else bridge
        target = before.bridge if before is not None else target
        if not may_run(principal, target, request.operation):
            raise await refuse(refusals.out_of_scope(principal, request.operation), DeniedError)
        try:
            granted = await self._registry.granted(request.tenant, target)
            begun = granted.manifest.release
            granted = await as_begun(self._registry, self._sessions, granted, request) if begun else granted
        except (NotFoundError, SuspendedError, PolicyError) as error:
            raise await refuse(*refusals.ungranted(error, bridge, operation)) from None
        manifest, grant = granted.manifest, granted.grant
        if manifest.foreign:
            raise await refuse(refusals.foreign(target), DeniedError)
        declared = manifest.operations.get(operation) if bridge != _COMMON else None
        own = (declared.resource,) if declared is not None and declared.resource else ()
        decision = granted.decisions.get((request.operation, own)) or decided(granted, bridge, operation, own)
        if not decision.allowed or (declared is None and bridge != _COMMON):
            raise await refuse(
                decision if not decision.allowed else refusals.unknown(bridge, operation), DeniedError
            )
        if not replays and before is None and (rule := self._rates.over(grant, time.monotonic())):
            raise await refuse(refusals.past(rule, grant), BudgetError)
        looked = False
        if declared is not None:  # after the rate: the look takes time, and what is refused by it has cost it
            kinds, looked = await names_within(request.arguments, manifest.id_names, declared.resource)
            if kinds != own:
                decision = granted.decisions.get((request.operation, kinds)) or decided(
                    granted, bridge, operation, kinds
                )
                if not decision.allowed:
                    raise await refuse(decision, DeniedError)
        try:
            given, apart = request.arguments, declared is not None and declared.contents
            given, contents = split_contents(given, apart=apart) if CONTENTS in given else (given, None)
            arguments = at_once(given) or await split_in_turns(given)
            looked = looked or not arguments.quiet
            if arguments.keys:
                arguments = take_inline_keys(given, arguments, grant)
            takes = declared.arguments if declared is not None else COMMON_TAKES
            sent, most = arguments.kept, grant.limits.request_bytes
            arguments, sent = (
                (arguments, sent) if contents is None else judged_with(arguments, contents, takes, most)
            )
            wrong, waited = await problems_in_turns(takes, sent)
            if wrong:
                raise manifest.misfit(declared, wrong) if declared else common_misfit(operation, wrong)
        except BridgeholdError as error:
            reason = Decision(allowed=False, rule="arguments", reason=error.message, source="bridge.toml")
            raise await refuse(reason, type(error), hint=error.hint) from None
        bounds = (grant.limits.command_ms, declared.timeout_ms if declared else 0, request.deadline_ms)
        plan = Plan(
            command=command,
            principal=principal,
            request=request,
            bridge=target,
            operation=declared,
            grant=grant,
            decision=decision,
            deadline_ms=min(ms for ms in bounds if ms > 0),
            arguments=arguments,
            replays=replays,
        )
        return await self._still(plan) if looked or waited else plan

    async def _session(self, plan: Plan) -> Session:
        request = plan.request
        if request.session.startswith("s-"):
            found = await self._sessions.by_id(request.tenant, request.session)
            key = found if isinstance(found, SessionKey) else found.key
            if key.bridge != plan.bridge:
                raise NotFoundError(f"no session {request.session!r} with {plan.bridge} here")
            if isinstance(found, Session):
                return found
        elif is_name(request.session):
            key = SessionKey(request.tenant, plan.bridge, request.session)
        else:
            raise UsageError(f"{request.session[:80]!r} is not a session's name or id")
        return await self._sessions.get_or_open(
            key,
            lambda session_id: self._make_order(key.tenant, key.asks(session_id, plan.principal.name)),
            plan.principal.name,
            nested=self._chains.waiting(plan) is not None,
        )

    async def _call(
        self,
        plan: Plan,
        session: Session,
        intent: str,
        watcher: Watcher | None,
        tools: ToolCalls | None = None,
    ) -> Reply:
        started = time.monotonic()
        session.called_out = False
        arguments, output = plan.arguments.kept, output_of(plan, watcher)
        if plan.arguments.contents is not None:
            arguments = plan.arguments.sent
        call = session.call(
            plan.request.operation,
            arguments,
            deadline_ms=plan.deadline_ms,
            stream=InOrder(output, watcher) if watcher else None,
            tools=tools,
            output=output,
        )
        came = await came_of(call, plan.request.operation, output)
        reply = await unbroken(self._conclude(plan, session, intent, came, started))
        operation = plan.operation
        if operation is not None and operation.effect not in ("run", "read") and session.alive:
            called_out = session.may_have_called or (tools is not None and tools.asked > 0)
            done = completed(plan, arguments, reply.value, called_out=called_out)
            self._resources.note(operation, place_of(plan, session), arguments, reply.value)
            self._recovery.note(session, session.order.manifest, operation, done)
        return reply

    async def _beside(self, session: Session, plan: Plan) -> Reply:
        """What is answered while a command runs; the kernel's account is that command's."""
        started = time.monotonic()
        parent = plan.request.parent if self._chains.waiting(plan) else ""
        intent = await self._log.intend(plan, session, parent)
        operation = plan.request.operation
        call = session.beside(operation, plan.arguments.kept, deadline_ms=plan.deadline_ms)
        came = await came_of(call, operation)
        return await unbroken(self._conclude(plan, session, intent, came, started, alone=False))

    async def _conclude(
        self, plan: Plan, session: Session, intent: str, came: Came, started: float, *, alone: bool = True
    ) -> Reply:
        """Write the outcome, and give the reply or raise what failed, with what the command wrote.

        `alone`: nothing else ran in its session meanwhile, and what the kernel charged is the command's.
        """
        seconds = time.monotonic() - started
        failure, written = came.failure, came.written
        inside = plan.operation is not None and plan.operation.output
        if inside and isinstance(came.frame, ResultFrame):
            came = msgspec.structs.replace(came, frame=with_output(came.frame, written))
        value = came.frame.result if isinstance(came.frame, ResultFrame) else None
        beside = isinstance(value, dict) and isinstance(value.get(CONTENTS), bytes)
        hashed = asyncio.ensure_future(ending_of(came)) if beside else None  # while the kernel is asked
        usage = await used(session, started) if alone else CommandUsage(ms=int(seconds * 1000))
        counted = None
        if plan.operation is not None:
            code = failure.code if failure is not None else ""
            counted = Counted(plan.bridge, plan.operation.name, code, seconds)
        ending = await (hashed or ending_of(came))
        receipt = await self._log.record(plan, session.id, intent, ending, usage, counted)
        if isinstance(failure, GoneError):
            raise asyncio.CancelledError
        anew = session.tell_anew() if session.anew and not plan.replays else ""
        if failure is not None:
            failure.event = receipt or intent
            failure.output = written
            self._sessions.settle(session)
            began = f"The session had begun anew: {anew}." if anew else ""
            failure.hint = f"{failure.hint} {session.outlook} {began}".strip()
            raise failure
        assert isinstance(came.frame, ResultFrame)  # noqa: S101 - the two other cases have been raised
        return Reply(
            value=came.frame.result,
            session=session.id,
            usage=usage,
            receipt=receipt,
            degraded=not receipt,
            cold_start=session.worker.cold_reason if session.commands == 1 else "",
            anew=anew,
            output=Output() if inside or not plan.principal.may_read else written,
        )
