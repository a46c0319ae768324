"""A user script's session: frames pass as they came, and each command has an intent and an outcome.

The parsed copy feeds policy and audit and decides what passes; not one byte that passes is changed.
Everything from inside is hostile: it is bounded before it is read, an answer that nobody waits for is
dropped and written down, and what can't be read ends the session.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from bridgehold.audit.arguments import left_in, split_in_turns
from bridgehold.bridges.legacy.bodies import Format, is_odd
from bridgehold.bridges.legacy.frames import Splitter, pack
from bridgehold.bridges.legacy.messages import Answer, read_answer, read_exit
from bridgehold.bridges.legacy.splice import with_other
from bridgehold.errors import (
    BridgeholdError,
    BudgetError,
    BusyError,
    CommandTimeoutError,
    CrashError,
    DeniedError,
    LimitError,
    NotFoundError,
    PolicyError,
    UnsupportedError,
    UsageError,
)
from bridgehold.host.cell.commands import refusals
from bridgehold.host.cell.commands.inline_keys import KeyKeeper
from bridgehold.host.cell.scripts.ledger import Ledger, Pending
from bridgehold.host.cell.scripts.rules import PLAIN, DecidedCommand, decide_frame, decide_plain, key_refused
from bridgehold.host.cell.sessions.session import Session
from bridgehold.host.cell.workers.raw import PlainBytes
from bridgehold.host.front.boots import SCRIPT_PLACEHOLDER, Script
from bridgehold.host.front.outgoing import Emit
from bridgehold.host.shares.logs import Stream
from bridgehold.ids import new_command_id
from bridgehold.policies.buckets import CommandRates
from bridgehold.policies.model import MIB, Grant
from bridgehold.policies.units import format_ms
from bridgehold.protocol.frames import INPUT_CLOSED
from bridgehold.protocol.values import Principal
from bridgehold.tasks import begin_task

MAX_PENDING = 256
_DRAIN_SECONDS = 5.0
"""What commands in flight get when the caller's input has ended, before the grace."""

_MOST_UNREAD = 4 * MIB
_LOOK_SECONDS = 0.05
_LAST_WORDS = 16_384
_WITHHELD = b"bridgehold: the script's standard error is in its log, which you may not read\n"
_OF_A_RESPONSE = (
    "`limits.response` of the policy bounds what a script answers, `limits.request` what it is sent"
)
_ENDING_SECONDS = 10.0
"""Until it is known why a worker has ended that takes no more bytes."""
_ODD_COST = 8
"""What is hard to read counts as so many more bytes: all sessions share the loop that reads it."""

Rules = Callable[[], Awaitable[Grant]]
"""The grant as the files say it now. Raises a `Fault`."""
Fault = PolicyError | NotFoundError | UnsupportedError
"""The rules can't be told; the bridge, or all that is foreign, is switched off."""


class Relay:
    """One session's two directions, from where the script is about to run to where it has ended."""

    def __init__(
        self,
        session: Session,
        *,
        formats: tuple[Format, ...],
        protocol: bool,
        ledger: Ledger,
        rules: Rules,
        rates: CommandRates,
        keys: KeyKeeper,
        emit: Emit,
        may_read: bool,
    ) -> None:
        """`rules` decides on each command; what the session was given at its start stays as it is.

        `may_read`: its caller is given what the script writes beside its result, its standard error.
        """
        self.session = session
        self._formats = formats
        self._protocol = protocol
        self._ledger = ledger
        self._rules = rules
        self._rates = rates
        self._keys = keys
        self._emit = emit
        self._may_read = may_read
        self._grant = session.order.grant
        """What was granted when it was last asked for."""
        self._pending: dict[int | str | None, Pending] = {}
        self._negotiated = False
        self._leaving = False
        self._began = 0.0
        """When the script was let run, by the monotonic clock."""
        self._spoke = False
        """Whether the script ever wrote a frame."""
        self.exit_status = -1
        """As the runner inside says it; for a forked worker, whose own nobody outside can wait for."""
        self._turn = asyncio.Lock()
        self._idle = asyncio.Event()
        self._idle.set()
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, script: Script, principal: Principal) -> None:
        """Give the pipes to the script. One that speaks no protocol is one command, from here to its end.

        `principal`: who opened it.
        """
        worker, self._began = self.session.worker, time.monotonic()
        fault = await self._look_up_rules()
        if self._protocol:  # without rules each of its commands is refused
            bound = Splitter(self._grant.limits.response_bytes, _OF_A_RESPONSE)
            worker.relay(bound, self._on_body, self._full)
        else:
            decision, told = decide_plain(script, self._grant)
            if fault is not None:
                raise await self._refuse_without_rules(PLAIN, told, fault)
            if not decision.allowed:
                raise await self._ledger.refuse(PLAIN, told, decision, DeniedError)
            if not principal.may_run_all(self.session.key.bridge):
                raise await self._refuse_out_of_scope(PLAIN, told, principal)
            await self._demand_rate(PLAIN, told)
            shown = left_in(told, await split_in_turns(told))
            self._put(None, await self._ledger.intend(self._grant, PLAIN, shown, decision.rule))
            if self._may_read:
                worker.log.tap = self._on_log
            worker.relay(PlainBytes(), self._on_output, self._full)
        begin_task(self._settle(), self._tasks)
        await worker.send_raw(b"\n")

    async def send(self, data: bytes, principal: Principal) -> None:
        """One frame's body, or a piece of plain input, from `principal`. Raises why it does not pass.

        Plain input waits until its tenant's bytes are within their ceiling.
        """
        async with self._turn:
            self._ledger.principal = principal
            self.session.used_at = time.monotonic()
            if not self._protocol:
                if not principal.may_run_all(self.session.key.bridge):
                    raise await self._refuse_out_of_scope(PLAIN, {}, principal)
                await self._wait_for_ceiling()
                self._charge(data)
                await self._deliver(data)
                return
            fault = await self._look_up_rules()
            most = self._grant.limits.request_bytes
            if len(data) > most:
                raise LimitError(
                    f"the request has {len(data)} bytes; {most} are allowed",
                    hint="Raise `limits.request` in the policy; `limits.response` bounds what is answered.",
                )
            decided = await decide_frame(data, self._grant, self._formats)
            if decided is not None:
                data = await self._admit(decided, fault, principal, data)
            elif self._negotiated:
                raise UsageError("the format was negotiated already")
            else:
                self._negotiated = True
            self._charge(data)
            await self._deliver(pack(data))

    async def _deliver(self, data: bytes) -> None:
        """To the script. Raises why its worker ended, where that is why it takes no more."""
        try:
            await self.session.worker.send_raw(data)
        except CrashError as error:
            try:
                async with asyncio.timeout(_ENDING_SECONDS):
                    ending = await self.session.wait_ended()
            except TimeoutError:
                raise error from None
            raise ending from None

    def say_last_words(self) -> None:
        """What a script printed that ended without a frame (its help, its traceback) is its caller's, too.

        Whoever may not read it is told that there is some.
        """
        printed = self.session.worker.log.text(_LAST_WORDS)
        if not printed or (self._protocol and self._spoke):
            return
        if not self._may_read:
            self._emit({"type": "err", "data": _WITHHELD})
        elif self._protocol:
            self._emit({"type": "err", "data": printed.encode()})

    def finish_input(self) -> None:
        """The caller's input has ended, and so does the script's; one with a protocol has to go soon."""
        self.session.worker.finish_input()
        if self._protocol and not self._leaving:
            self._leaving = True
            begin_task(self._see_out(), self._tasks)

    async def _see_out(self) -> None:
        """What is in flight may end; a script that nobody has asked anything may still be starting."""
        ended = asyncio.ensure_future(self.session.wait_ended())
        waiting: list[asyncio.Future[Any]] = [ended]
        seconds = self._grant.limits.startup_ms / 1000
        if self._spoke or self.session.commands:
            waiting.append(asyncio.ensure_future(self._idle.wait()))
            seconds = _DRAIN_SECONDS
        await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for future in waiting:
            future.cancel()
        await self.session.close(INPUT_CLOSED)

    async def _look_up_rules(self) -> Fault | None:
        """What stands now; why that can't be told, where it can't."""
        try:
            self._grant = await self._rules()
        except (PolicyError, NotFoundError, UnsupportedError) as error:
            return error
        return None

    async def _wait_for_ceiling(self) -> None:
        while self.session.alive and self._rates.owed(self._grant, time.monotonic()) > 0:  # noqa: ASYNC110 - time pays
            await asyncio.sleep(_LOOK_SECONDS)

    def _charge(self, data: bytes) -> None:
        self._rates.charge(self._grant, len(data), time.monotonic())

    async def _demand_rate(self, operation: str, kept: dict[str, object]) -> None:
        """Count one more command, or refuse it."""
        if rule := self._rates.over(self._grant, time.monotonic()):
            raise await self._ledger.refuse(operation, kept, refusals.past(rule, self._grant), BudgetError)

    async def _refuse_out_of_scope(
        self, operation: str, kept: dict[str, object], principal: Principal
    ) -> BridgeholdError:
        decision = refusals.out_of_scope(principal, f"{self.session.key.bridge}:{operation}")
        return await self._ledger.refuse(operation, kept, decision, DeniedError)

    async def _refuse_without_rules(
        self, operation: str, kept: dict[str, object], fault: Fault
    ) -> BridgeholdError:
        refusal = refusals.ungranted(fault, self.session.key.bridge, operation)
        return await self._ledger.refuse(operation, kept, *refusal)

    async def _admit(
        self, decided: DecidedCommand, fault: Fault | None, principal: Principal, data: bytes
    ) -> bytes:
        """The word of policy and scope, the durable intent, and the place in the table, in this order.

        What goes on of `data`: all of it, but for keys that the policy says to capture.
        """
        identity, operation, kept = decided.request.id, decided.request.command, decided.arguments.kept
        if self.session.draining:
            raise self.session.refusal()
        if identity is None or identity in self._pending:
            raise UsageError(f"the id {identity!r} is missing, or in flight already")
        if len(self._pending) >= MAX_PENDING:
            raise BusyError(f"{MAX_PENDING} commands are in flight already")
        if fault is not None:
            raise await self._refuse_without_rules(operation, kept, fault)
        if not decided.decision.allowed:
            raise await self._ledger.refuse(operation, kept, decided.decision, DeniedError)
        bridge = self.session.key.bridge
        if not principal.may_run(bridge, f"{bridge}:{operation}"):
            raise await self._refuse_out_of_scope(operation, kept, principal)
        await self._demand_rate(operation, kept)
        rule, command = decided.decision.rule, new_command_id()
        arguments = decided.arguments
        if arguments.keys and self._grant.inline_keys == "capture":
            data = await self._capture(decided, command, data)
        self._put(identity, await self._ledger.intend(self._grant, operation, arguments, rule, command))
        self.session.commands += 1
        return data

    async def _capture(self, decided: DecidedCommand, command: str, data: bytes) -> bytes:
        """`data` with the placeholder for each key, which is the session's secret from now on."""
        arguments, principal = decided.arguments, self._ledger.principal.name
        values = tuple({value for _, value in arguments.keys})
        without = await asyncio.to_thread(with_other, data, values, SCRIPT_PLACEHOLDER)
        why = "it can't be replaced as it is written there"
        if without is not None:
            try:
                await self._keys.capture(self.session, arguments, command=command, principal=principal)
            except DeniedError as error:
                why = error.message
            else:
                return without
        refused = key_refused(arguments, self._grant, why)
        raise await self._ledger.refuse(decided.request.command, arguments.kept, refused, DeniedError)

    def _on_body(self, body: bytes) -> None:
        """One frame of the script's. Raises `ProtocolError`: its pipe is not read on then."""
        status = read_exit(body)
        if status is not None:
            self.exit_status = status
            return
        self._spoke = True
        self._charge(body)
        if is_odd(body):
            self.session.worker.charge(_ODD_COST * len(body))
        answer = read_answer(body)
        self.session.used_at = time.monotonic()
        if answer is None or answer.id is None:
            self._emit({"type": "frame", "data": body})
            return
        pending = self._pending.pop(answer.id, None)
        if pending is None:
            self.session.worker.violation(f"an answer to {answer.id!r:.80}, which nobody waits for")
            return
        self._emit({"type": "frame", "data": body, "id": answer.id})
        self._arm()
        begin_task(self._ledger.record(pending, answer, body=body), self._tasks)

    def _full(self) -> bool:
        """Whether its caller leaves so much unread that the script has to wait, as it would at home.

        It waits, too, while its tenant's bytes are past their ceiling.
        """
        return self._emit.full(_MOST_UNREAD) or self._rates.owed(self._grant, time.monotonic()) > 0

    def _on_output(self, data: bytes) -> None:
        self._charge(data)
        self._emit({"type": "out", "data": data})

    def _on_log(self, _stream: Stream, data: bytes) -> None:
        self._charge(data)
        self._emit({"type": "err", "data": data})

    def _put(self, identity: int | str | None, pending: Pending) -> None:
        self._pending[identity] = pending
        if len(self._pending) == 1:
            self._arm()

    def _arm(self) -> None:
        """The oldest in flight is what the script does now, and its deadline is what counts."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        oldest = next(iter(self._pending.values()), None)
        if oldest is None:
            self._idle.set()
        else:
            self._idle.clear()
        self.session.serve(oldest.plan.command if oldest is not None else "")
        if oldest is not None:
            deadline_ms = oldest.plan.deadline_ms
            if self._protocol and not self._spoke:  # its imports are its start's time, not a command's
                passed_ms = int((time.monotonic() - self._began) * 1000)
                deadline_ms = max(deadline_ms, self._grant.limits.startup_ms - passed_ms)
            self._timer = asyncio.get_running_loop().call_later(deadline_ms / 1000, self._late, deadline_ms)

    def _late(self, deadline_ms: int) -> None:
        error = CommandTimeoutError(
            f"a command did not end within {format_ms(deadline_ms)}; its session was ended",
            hint="Give it more time in the policy (`[limits] command`), or ask for less.",
        )
        begin_task(self._end("command deadline", error), self._tasks)

    async def _end(self, reason: str, error: CommandTimeoutError) -> None:
        await self.session.end(reason, error)

    async def _settle(self) -> None:
        """At the session's end: whatever is in flight has its outcome in the audit, too."""
        ending = await self.session.wait_ended()
        if self._timer is not None:
            self._timer.cancel()
        report = self.session.worker.report
        for identity, pending in list(self._pending.items()):
            if identity is None and report is not None and report.cause == "exited":
                ran = Answer(id=None, transport_ok=True, application_ok=report.status == 0)
                await self._ledger.record(pending, ran)
            else:
                await self._ledger.record(pending, None, failure=ending)
        self._pending.clear()
