"""The life of a command: request → operation → decision → intent, durable → call → outcome → reply.

A refusal is an event too. If the intent can't be written, the command doesn't run; if the outcome
can't be written, the reply says `degraded` and the host stops taking commands.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import msgspec

from bridgehold.audit.arguments import preview_of
from bridgehold.audit.client import JournalClient
from bridgehold.audit.events import CommandIntent
from bridgehold.bridges.frames import ChunkFrame, FaultFrame, ProgressFrame, ResultFrame
from bridgehold.bridges.manifest import check_common
from bridgehold.errors import (
    BridgeholdError,
    BudgetError,
    BusyError,
    DeniedError,
    NotFoundError,
    Output,
    PolicyError,
    SuspendedError,
    UsageError,
)
from bridgehold.host.cell.commands import refusals
from bridgehold.host.cell.commands.command_log import (
    CommandLog,
    GoneError,
    Plan,
    came_of,
    deadline_of,
    outcome_of,
    used,
)
from bridgehold.host.cell.commands.inline_keys import KeyKeeper, take_inline_keys
from bridgehold.host.cell.commands.recovery import Recovery
from bridgehold.host.cell.commands.replays import CompletedCommand, Step
from bridgehold.host.cell.commands.resources import Resources, kinds_of
from bridgehold.host.cell.sessions.session import Session, SessionKey
from bridgehold.host.cell.sessions.sessions import Sessions
from bridgehold.host.cell.tools.calls import ToolCalls
from bridgehold.host.cell.tools.offers import CallersOffer, Offers
from bridgehold.host.cell.tools.values import Offered, ToolContext
from bridgehold.host.cell.workers.calls import Stream, Watcher, unbroken
from bridgehold.host.front.boots import StartOrder
from bridgehold.host.front.registry import Registry
from bridgehold.host.shares.buckets import CommandRates
from bridgehold.host.shares.logs import OUTPUT_BYTES, CommandOutput
from bridgehold.host.shares.observe import Metrics
from bridgehold.host.shares.refusals import Refusals
from bridgehold.ids import is_name, new_command_id, parse_command
from bridgehold.policies.decide import decide_operation
from bridgehold.policies.model import Decision
from bridgehold.protocol.values import CommandRequest, CommandUsage, Principal, Reply, ResourceRef

_PREVIEW_BYTES = 2_000
_MOST_NESTED = 8
_COMMON = "common"
_BESIDE = ("common:ping", "common:health")
"""Answered while a command runs."""

OrderMaker = Callable[[str, str, str, str, str], Awaitable[StartOrder]]
"""(tenant, bridge, session id, session name, principal) → what to start."""


class _Chain(msgspec.Struct, frozen=True):
    """A running command that has tools: for whom, and the sessions whose commands wait for it."""

    tenant: str
    sessions: tuple[str, ...] = ()


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
        self._chains: dict[str, _Chain] = {}
        self._registry = registry
        self._sessions = sessions
        self._journal = journal
        self._keys = keys
        self._make_order = make_order
        self._on_degraded = on_degraded
        self._log = CommandLog(journal, on_degraded)
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
        try:
            return await self._run(principal, request, watcher, callers)
        except BridgeholdError as error:
            if error.traceback:
                error.traceback = await self._redact(request.tenant, error.traceback)
            if error.output:
                error.output = await self._redacted(request.tenant, error.output)
            raise

    async def _redacted(self, tenant: str, output: Output) -> Output:
        """An error is shown, and written down, in more places than a reply."""
        texts = [await self._redact(tenant, text) for text in (output.stdout, output.stderr)]
        return msgspec.structs.replace(output, stdout=texts[0], stderr=texts[1])

    async def _run(
        self,
        principal: Principal,
        request: CommandRequest,
        watcher: Watcher | None,
        callers: CallersOffer | None,
    ) -> Reply:
        plan = await self._plan(new_command_id(), principal, request)
        offered = self._offers.of(request.tenant, plan.bridge, callers)
        session = await self._session(plan)

        async def again(session: Session, step: Step) -> object:
            return await self._again(principal, session, step)

        await self._recovery.restored(session, again)
        return await self._run_in(session, plan, offered, watcher)

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

    async def _run_in(self, session: Session, plan: Plan, offered: Offered, watcher: Watcher | None) -> Reply:
        if plan.operation is None and plan.request.operation in _BESIDE:
            return await self._beside(session, plan)
        parent, waiting = self._parent(plan, session)
        async with session.turn(plan.command, plan.principal.name, nested=bool(parent)):
            arguments = await self._keys.capture(session, plan.arguments)
            intent = await self._intend(plan, session, parent)
            if not offered:
                return await self._call(plan, session, intent, arguments, watcher)
            tools = ToolCalls(
                grant=plan.grant,
                context=_context(plan, session),
                offered=offered,
                journal=self._journal,
                metrics=self._metrics,
                events=session.worker.events,
                on_degraded=self._on_degraded,
            )
            self._chains[plan.command] = _Chain(plan.grant.tenant, (*waiting, session.id))
            try:
                return await self._call(plan, session, intent, arguments, watcher, tools)
            finally:
                del self._chains[plan.command]
                await tools.close()

    def _parent(self, plan: Plan, session: Session) -> tuple[str, tuple[str, ...]]:
        """The command whose tool runs this one (empty where that is only said), and the sessions that wait.

        Raises `BusyError` where it could never end.
        """
        known = self._waits(plan)
        if known is None:
            return "", ()
        if session.id in known.sessions:
            raise BusyError(
                f"session {session.id} waits for the very tool that asks it",
                hint="A tool may use another session, never the one that called it.",
            )
        if len(known.sessions) >= _MOST_NESTED:
            raise BusyError(f"tools that run commands nest {_MOST_NESTED} deep at most")
        return plan.request.parent, known.sessions

    def _waits(self, plan: Plan) -> _Chain | None:
        """The command that `plan` says it is for, where that runs with tools and may be seen."""
        known = self._chains.get(plan.request.parent)
        return known if known is not None and plan.principal.may_act_for(known.tenant) else None

    async def _plan(
        self, command: str, principal: Principal, request: CommandRequest, *, replays: str = ""
    ) -> Plan:
        """Decide; a refusal is written and raised. `replays`: the lost command that this one repeats."""
        bridge, operation = parse_command(request.operation)
        refuse = refusals.Refusal(self._refusals, command, principal, request, bridge, operation)
        if not is_name(request.tenant) or not principal.may_act_for(request.tenant):
            raise await refuse(refusals.no_tenant(principal, request.tenant), DeniedError)
        target = self._default_bridge(request) if bridge == _COMMON else bridge
        if not principal.may_run(target, request.operation):
            raise await refuse(refusals.out_of_scope(principal, request.operation), DeniedError)
        try:
            manifest = self._registry.manifest(target, request.tenant)
            grant = await self._registry.grant(request.tenant, target)
        except NotFoundError:
            raise await refuse(refusals.unknown(bridge, operation), DeniedError) from None
        except SuspendedError as error:
            raise await refuse(refusals.suspended(error), SuspendedError, hint=error.hint) from None
        except PolicyError as error:
            raise await refuse(refusals.no_policy(error), PolicyError, hint=error.hint) from None
        if manifest.foreign:
            raise await refuse(refusals.foreign(target), DeniedError)
        declared = manifest.operations.get(operation) if bridge != _COMMON else None
        kinds = kinds_of(manifest, declared, request.arguments) if declared is not None else ()
        decision = decide_operation(grant, bridge, operation, kinds)
        if not decision.allowed or (declared is None and bridge != _COMMON):
            raise await refuse(
                decision if not decision.allowed else refusals.unknown(bridge, operation), DeniedError
            )
        if not replays and (rule := self._rates.over(grant, time.monotonic())):
            raise await refuse(refusals.past(rule, grant), BudgetError)
        try:
            arguments = take_inline_keys(request.arguments, grant)
            if declared is not None:
                manifest.check_arguments(operation, arguments.kept)
            else:
                check_common(operation, arguments.kept)
        except BridgeholdError as error:
            reason = Decision(allowed=False, rule="arguments", reason=error.message, source="bridge.toml")
            raise await refuse(reason, type(error), hint=error.hint) from None
        return Plan(
            command=command,
            principal=principal,
            request=request,
            bridge=target,
            operation=declared,
            grant=grant,
            decision=decision,
            deadline_ms=deadline_of(request, declared, grant),
            arguments=arguments,
            replays=replays,
        )

    def _default_bridge(self, request: CommandRequest) -> str:
        """``common:*`` goes to the session's bridge, or to the default one."""
        for session in self._sessions:
            if session.key.tenant == request.tenant and request.session in (session.id, session.key.name):
                return str(session.key.bridge)
        return self._registry.default_bridge

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
            lambda session_id: self._make_order(
                key.tenant, key.bridge, session_id, key.name, plan.principal.name
            ),
            plan.principal.name,
            nested=self._waits(plan) is not None,
        )

    async def _intend(self, plan: Plan, session: Session, parent: str) -> str:
        digest, size, text = preview_of(plan.arguments.kept, _PREVIEW_BYTES)
        self._rates.charge(plan.grant, size, time.monotonic())
        event = CommandIntent(
            tenant=plan.grant.tenant,
            principal=plan.principal.name,
            session=session.id,
            command=plan.command,
            bridge=plan.bridge,
            operation=plan.request.operation,
            grant=plan.grant.digest,
            rule=plan.decision.rule,
            arguments_digest=digest,
            arguments_bytes=size,
            arguments_preview=text,
            deadline_ms=plan.deadline_ms,
            parent=parent,
            replays=plan.replays,
        )
        return await self._log.intend(event, session)

    async def _call(
        self,
        plan: Plan,
        session: Session,
        intent: str,
        arguments: dict[str, object],
        watcher: Watcher | None,
        tools: ToolCalls | None = None,
    ) -> Reply:
        started = time.monotonic()
        session.called_out = False
        output = _output_of(plan, watcher)
        frame, failure = await came_of(
            session.call(
                plan.request.operation,
                arguments,
                deadline_ms=plan.deadline_ms,
                stream=_in_order(output, watcher) if watcher else None,
                tools=tools,
                output=output,
            ),
            plan.request.operation,
        )
        written = output.finish()
        reply = await unbroken(self._ended(plan, session, intent, frame, failure, started, written))
        if plan.operation is not None and session.alive:
            self._resources.note(plan.operation, _place(plan, session), arguments, reply.value)
            completed = CompletedCommand(
                command=plan.command,
                bridge=plan.bridge,
                arguments=arguments,
                result=reply.value,
                had_key=bool(plan.arguments.keys),
                called_out=session.may_have_called or (tools is not None and tools.asked),
            )
            self._recovery.note(session, session.order.manifest, plan.operation, completed)
        return reply

    async def _ended(
        self,
        plan: Plan,
        session: Session,
        intent: str,
        frame: ResultFrame | FaultFrame | None,
        failure: BridgeholdError | None,
        started: float,
        written: Output,
    ) -> Reply:
        usage = await used(session, started)
        if plan.operation is not None:
            code = failure.code if failure is not None else ""
            seconds = time.monotonic() - started
            self._metrics.command(plan.bridge, plan.operation.name, code, seconds, usage.cpu_us)
        return await self._conclude(plan, session, intent, frame, failure, usage, written)

    async def _beside(self, session: Session, plan: Plan) -> Reply:
        """What is answered while a command runs; the kernel's account is that command's."""
        started = time.monotonic()
        intent = await self._intend(plan, session, plan.request.parent if self._waits(plan) else "")
        operation = plan.request.operation
        frame, failure = await came_of(
            session.beside(operation, plan.arguments.kept, deadline_ms=plan.deadline_ms), operation
        )
        usage = CommandUsage(ms=int((time.monotonic() - started) * 1000))
        return await self._conclude(plan, session, intent, frame, failure, usage, Output())

    async def _conclude(
        self,
        plan: Plan,
        session: Session,
        intent: str,
        frame: ResultFrame | FaultFrame | None,
        failure: BridgeholdError | None,
        usage: CommandUsage,
        written: Output,
    ) -> Reply:
        """Write the outcome, and give the reply or raise `failure`, with what the command wrote."""
        inside = plan.operation is not None and plan.operation.output
        if inside and isinstance(frame, ResultFrame):
            frame = _with_output(frame, written)
        outcome = outcome_of(plan, session.id, intent, frame, failure, usage)
        self._rates.charge(plan.grant, outcome.result_bytes, time.monotonic())
        receipt = await unbroken(self._log.record(outcome))
        if isinstance(failure, GoneError):
            raise asyncio.CancelledError
        told = "" if plan.replays else session.tell_anew()
        if failure is not None:
            failure.event = receipt or intent
            failure.output = written
            self._sessions.settle(session)
            began = f"The session had begun anew: {told}." if told else ""
            failure.hint = f"{failure.hint} {session.outlook} {began}".strip()
            raise failure
        assert isinstance(frame, ResultFrame)  # noqa: S101 - the two other cases have been raised
        return Reply(
            value=frame.result,
            session=session.id,
            usage=usage,
            receipt=receipt,
            degraded=not receipt,
            cold_start=session.worker.cold_reason if session.commands == 1 else "",
            anew=told,
            output=Output() if inside or not plan.principal.may_read else written,
        )


def _output_of(plan: Plan, watcher: Watcher | None) -> CommandOutput:
    """What sessions write is shown to who may read it, or where it is the operation's own result."""
    most = min(OUTPUT_BYTES, plan.grant.limits.response_bytes // 4)  # two streams, and a value beside them
    shown = plan.principal.may_read or (plan.operation is not None and plan.operation.output)
    return CommandOutput(most, watcher, watcher.full) if watcher and shown else CommandOutput(most)


def _in_order(output: CommandOutput, watcher: Watcher) -> Stream:
    """Frames to `watcher`, each after what was written before it."""

    def stream(frame: ChunkFrame | ProgressFrame) -> None:
        output.flush()
        watcher(frame)

    return stream


def _with_output(frame: ResultFrame, written: Output) -> ResultFrame:
    """With what its command wrote in the result; as it is, where that is no object."""
    if not isinstance(frame.result, dict):
        return frame
    cut = bool(written.stdout_cut or written.stderr_cut)
    shown = {"stdout": written.stdout, "stderr": written.stderr}
    truncated = {"truncated": True} if cut else {}
    return msgspec.structs.replace(frame, result={**shown, **frame.result, **shown, **truncated})


def _context(plan: Plan, session: Session) -> ToolContext:
    return ToolContext(
        tenant=plan.grant.tenant, principal=plan.principal.name, session=session.id, command=plan.command
    )


def _place(plan: Plan, session: Session) -> ResourceRef:
    return ResourceRef(
        id="",
        kind="",
        bridge=plan.bridge,
        session=session.id,
        session_name=session.key.name,
        tenant=session.key.tenant,
    )
