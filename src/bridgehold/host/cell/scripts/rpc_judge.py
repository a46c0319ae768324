"""Decides on the calls between a gRPC worker and its BEAM, and records them: commands in, tools out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Protocol

from bridgehold.audit.arguments import Arguments, shown, split_in_turns
from bridgehold.bridges.legacy import rpc
from bridgehold.bridges.legacy.messages import Answer
from bridgehold.bridges.legacy.rpc import CallFacts, Method
from bridgehold.bridges.legacy.rpc_target import told_target
from bridgehold.errors import (
    BridgeholdError,
    BudgetError,
    BusyError,
    CrashError,
    DeniedError,
    LimitError,
    ProtocolError,
)
from bridgehold.host.cell.commands import refusals
from bridgehold.host.cell.scripts.ledger import Ledger, Pending
from bridgehold.host.cell.scripts.rpc_call import Call
from bridgehold.host.cell.sessions.session import Session
from bridgehold.host.cell.tools.records import ToolRecords
from bridgehold.host.cell.tools.values import ToolContext, ToolSpec
from bridgehold.host.front.boots import SCRIPT_PLACEHOLDER
from bridgehold.ids import is_operation
from bridgehold.policies.buckets import CommandRates, TokenBucket
from bridgehold.policies.decide import decide_call, decide_tool
from bridgehold.policies.model import MIB, Decision, Grant

_MOST_SESSIONS = 10_000
_PASSED_PER_SECOND, _PASSED_AT_ONCE = 50, 200
"""Calls back that are passed on unjudged; a worker's heartbeat is one in seconds."""
_MOST_UNDECIDED = 256
"""Calls of one direction that wait for a decision or its record; one that was given up waits on, too."""
_LONGEST = 300
"""Characters of what a refusal calls an operation."""
_OTHER = 32 * MIB
"""Held for the calls of a session beside two of its largest messages."""


class Held(Protocol):
    """What the calls of one session share."""

    session: Session
    ledger: Ledger
    grant: Grant
    sessions: dict[str, str]
    """Ids of the BEAM's sessions that this worker was asked in, with the newest command in each."""

    async def look_up(self) -> BridgeholdError | None:
        """The grant as the files say it now is `grant` from here on; why it can't be told."""

    def hold(self, size: int) -> None:
        """So many bytes more are held, or fewer. Raises `LimitError`."""

    def late(self, deadline_ms: int) -> None:
        """A command is past its deadline."""

    def spawn(self, work: Coroutine[None, None, None]) -> None:
        """Do `work` beside what comes next."""


class _Judge:
    methods: Mapping[str, Method]

    def __init__(self, held: Held, rates: CommandRates) -> None:
        self._held = held
        self._rates = rates
        self._undecided = 0

    def odd(self, what: str) -> None:
        """A side broke the wire."""
        self._held.session.worker.violation(what)

    def hold(self, size: int) -> None:
        """So many bytes more are held, or fewer."""
        self._held.hold(size)

    def _later(self, call: Call, work: Callable[[], Awaitable[None]], cost: int = 0) -> None:
        """`cost`: bytes of what was read of it, which wait with it. Raises `BusyError`, `LimitError`."""
        if self._undecided >= _MOST_UNDECIDED:
            raise BusyError(f"{_MOST_UNDECIDED} calls wait to be decided on")
        try:
            self.hold(cost)
        except LimitError:
            self.hold(-cost)
            raise
        self._undecided += 1

        async def act() -> None:
            try:
                await work()
            except BridgeholdError as error:
                call.refuse(error, getattr(error, "rule", ""))
            finally:
                self._undecided -= 1
                self.hold(-cost)

        self._held.spawn(act())


class Commands(_Judge):
    """What the BEAM asks of its worker."""

    methods = rpc.TO_WORKER

    @property
    def request_bytes(self) -> int:
        """The largest request."""
        return self._held.grant.limits.request_bytes

    @property
    def answer_bytes(self) -> int:
        """The largest answer."""
        return self._held.grant.limits.response_bytes

    def judge(self, call: Call, message: memoryview | None) -> None:
        """Pass it, or write its intent and pass it then, or refuse it."""
        method = call.method
        if method.name not in self.methods:
            self._later(call, lambda: self._refuse_unknown(method.name))
            return
        if message is None:
            call.let_through()
            return
        asked = rpc.read_request(method, message)
        self._remember(asked.session)
        if method.kind == "pass":
            call.let_through()
        else:
            self._later(call, lambda: self._run(call, asked), asked.cost)

    def _remember(self, session: str) -> None:
        known = self._held.sessions
        if not session:
            return
        known[session] = known.pop(session, "")
        while len(known) > _MOST_SESSIONS:
            del known[next(iter(known))]

    async def _refuse_unknown(self, name: str) -> None:
        decision = Decision(
            allowed=False, rule="rpc", reason=f"{name[:120]!r} is no call that a worker of this family takes"
        )
        raise _named(await self._held.ledger.refuse("rpc", {"call": name}, decision, DeniedError), "rpc")

    async def _run(self, call: Call, asked: CallFacts) -> None:
        held, bridge = self._held, self._held.session.key.bridge
        fault = await held.look_up()
        operation = rpc.operation_of(asked.name)
        target, unclear = told_target(asked.name, asked.parameters)
        named = f"{operation}:{target}" if target else operation
        arguments = await split_in_turns(asked.parameters, plain=False)
        kept, ledger, principal = arguments.kept, held.ledger, held.ledger.principal
        if held.session.draining:
            raise held.session.refusal()
        if fault is not None:
            raise await ledger.refuse(named, kept, *refusals.ungranted(fault, bridge, operation))
        decision = self._decide(operation, target, unclear, arguments, asked.unread)
        if not decision.allowed:
            raise _named(await ledger.refuse(named[:_LONGEST], kept, decision, DeniedError), decision.rule)
        if not any(principal.may_run(bridge, f"{bridge}:{one}") for one in (operation, named)):
            decision = refusals.out_of_scope(principal, f"{bridge}:{named}")
            raise _named(await ledger.refuse(named, kept, decision, DeniedError), decision.rule)
        if rule := self._rates.over(held.grant, time.monotonic()):
            decision = refusals.past(rule, held.grant)
            raise _named(await ledger.refuse(named, kept, decision, BudgetError), rule)
        pending = await ledger.intend(held.grant, named, arguments, decision.rule)
        held.session.commands += 1
        held.sessions[asked.session] = pending.plan.command
        held.session.serve(pending.plan.command)
        call.let_through(_Command(held, call.method, pending))

    def _decide(
        self, operation: str, target: str, unclear: str, arguments: Arguments, unread: tuple[str, ...]
    ) -> Decision:
        grant = self._held.grant
        if not is_operation(operation):
            reason = f"{operation[:80]!r} is not a command's name"
            return Decision(allowed=False, rule="default-deny", reason=reason)
        if unclear:
            reason = f"what it would run can't be told: {unclear}"
            return Decision(allowed=False, rule="target", reason=reason)
        decision = decide_call(grant, grant.bridge, operation, target)
        if decision.allowed and unread and grant.inline_keys != "pass":
            reason, source = rpc.unsearched(unread[0]), str(grant.sources.get("inline_keys", ""))
            return Decision(allowed=False, rule="inline_keys", reason=reason, source=source)
        if decision.allowed and arguments.keys and grant.inline_keys != "pass":
            return Decision(
                allowed=False,
                rule="inline_keys",
                reason=f"the argument {shown(arguments.keys[0][0])} holds a key, and a message goes on "
                f"as it is or not at all: leave it out or send {SCRIPT_PLACEHOLDER!r}; the gateway puts the "
                "tenant's own key in",
                source=str(grant.sources.get("inline_keys", "")),
            )
        return decision


class _Command:
    """A command that runs."""

    def __init__(self, held: Held, method: Method, pending: Pending) -> None:
        self._held = held
        self._method = method
        self._pending = pending
        self._answer: rpc.Answered | None = None
        self._body = b""
        self._kept = 0
        deadline_ms = pending.plan.deadline_ms
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(deadline_ms / 1000, held.late, deadline_ms)

    def answered(self, message: bytes) -> None:
        """Its answer, or a piece of it."""
        self._held.session.used_at = time.monotonic()
        if self._method.answers:
            self._keep(len(message))
            self._body = message
            self._answer = rpc.read_answer(self._method, message)

    def ended(self, status: int, message: str) -> None:
        """Its status came: it was transported, whatever it says."""
        said = self._answer or rpc.Answered(ok=not self._method.answers)
        ok = status == rpc.OK and said.ok
        error = said.error if status == rpc.OK else f"gRPC status {status}: {message[:1_000]}"
        self._write(Answer(id=None, transport_ok=True, application_ok=ok, error="" if ok else error), None)

    def broken(self, why: str) -> None:
        """It never came."""
        session = self._held.session
        failure = session.why if not session.alive else CrashError(why[:500])
        self._write(None, failure)

    def _write(self, answer: Answer | None, failure: BridgeholdError | None) -> None:
        self._timer.cancel()
        session = self._held.session
        if session.current_command == self._pending.plan.command:
            session.serve("")
        self._held.spawn(self._record(answer, failure))

    async def _record(self, answer: Answer | None, failure: BridgeholdError | None) -> None:
        try:
            await self._held.ledger.record(self._pending, answer, failure=failure, body=self._body)
        finally:
            self._body = b""
            self._keep(0)

    def _keep(self, size: int) -> None:
        """Its answer has passed and is kept for the record: counted like what waits to pass."""
        more, self._kept = size - self._kept, size
        self._held.hold(more)


class Callbacks(_Judge):
    """What the worker asks of the BEAM: hostile, each of it."""

    methods = rpc.FROM_WORKER

    def __init__(self, held: Held, rates: CommandRates) -> None:
        super().__init__(held, rates)
        self._passed = TokenBucket(_PASSED_PER_SECOND, _PASSED_AT_ONCE)

    @property
    def request_bytes(self) -> int:
        """The largest request."""
        return self._held.grant.limits.response_bytes

    @property
    def answer_bytes(self) -> int:
        """The largest answer."""
        return self._held.grant.limits.request_bytes

    def judge(self, call: Call, message: memoryview | None) -> None:
        """Pass it, or write its intent and pass it then, or refuse it."""
        method = call.method
        if method.name not in self.methods or message is None:
            reason = f"{method.name[:120]!r} is no call that a worker may make"
            self._later(call, lambda: self._refuse("", method.name, {}, "rpc", reason))
            return
        asked = rpc.read_request(method, message)
        if method.session and asked.session not in self._held.sessions:
            reason = f"the session {asked.session[:80]!r} is none that this worker was asked in"
            self._later(
                call, lambda: self._refuse("", method.name, {"session": asked.session}, "session", reason)
            )
        elif method.kind == "pass":
            self._pass(call)
        else:
            self._later(call, lambda: self._run(call, asked), asked.cost)

    def _pass(self, call: Call) -> None:
        """At the pace that its BEAM bears: past it a call waits, and so many of them at most."""
        wait = self._passed.take(1, time.monotonic())

        async def act() -> None:
            await asyncio.sleep(wait)
            call.let_through()

        if not wait:
            return call.let_through()
        return self._later(call, act)

    def _records(self, session: str) -> ToolRecords:
        held = self._held
        context = ToolContext(
            tenant=held.session.key.tenant,
            principal=held.ledger.principal.name,
            session=held.session.id,
            command=held.sessions.get(session, ""),
        )
        return ToolRecords(context, held.session.worker.events)

    async def _refuse(
        self, session: str, tool: str, arguments: dict[str, object], rule: str, reason: str, source: str = ""
    ) -> None:
        decision = Decision(allowed=False, rule=rule, reason=reason, source=source)
        event = await self._records(session).refused(tool, arguments, decision)
        error = DeniedError(
            f"{reason} [rule {rule}]",
            hint=f"bridgehold why {event}" if event else "",
            where=source,
            event=event,
        )
        raise _named(error, rule)

    async def _run(self, call: Call, asked: CallFacts) -> None:
        held = self._held
        if fault := await held.look_up():
            await self._refuse(asked.session, asked.name, asked.parameters, "grant", fault.message)
        decision = decide_tool(held.grant, asked.name)
        if not decision.allowed:
            await self._refuse(
                asked.session, asked.name, asked.parameters, decision.rule, decision.reason, decision.source
            )
        tool = ToolSpec(name=asked.name, description="", parameters={})
        records = self._records(asked.session)
        intent = await records.intent(tool, asked.parameters, decision)
        call.let_through(_Tool(held, call.method, tool, records, intent))


class _Tool:
    """A callback that runs."""

    def __init__(self, held: Held, method: Method, tool: ToolSpec, records: ToolRecords, intent: str) -> None:
        self._held = held
        self._method = method
        self._tool = tool
        self._records = records
        self._intent = intent
        self._began = time.monotonic()
        self._answer = rpc.Answered(ok=False)
        self._size = 0

    def answered(self, message: bytes) -> None:
        """The BEAM's answer: what it says of itself, where that can be read."""
        self._size = len(message)
        try:
            self._answer = rpc.read_answer(self._method, message)
        except ProtocolError as error:
            self._answer = rpc.Answered(ok=False, error=error.message)

    def ended(self, status: int, message: str) -> None:
        """Its status came."""
        if status == rpc.OK and self._answer.ok:
            self._write(None)
        else:
            told = self._answer.error if status == rpc.OK else f"gRPC status {status}: {message}"
            self._write(CrashError(told[:500]))

    def broken(self, why: str) -> None:
        """It never came."""
        self._write(CrashError(why[:500]))

    def _write(self, failure: BridgeholdError | None) -> None:
        ms = int((time.monotonic() - self._began) * 1000)
        self._held.spawn(self._records.outcome(self._tool, self._intent, {"bytes": self._size}, failure, ms))


def most_held(grant: Grant) -> int:
    """Bytes that all calls of a session may hold together."""
    return 2 * (grant.limits.request_bytes + grant.limits.response_bytes) + _OTHER


def past_held(held: int, most: int) -> LimitError:
    """What says that calls of one session hold too much."""
    return LimitError(
        f"the calls of this session hold {held} bytes; {most} are allowed", hint="Read the answers."
    )


def _named(error: BridgeholdError, rule: str) -> BridgeholdError:
    setattr(error, "rule", rule)  # noqa: B010 - said in the trailer beside the message
    return error
