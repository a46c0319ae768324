"""How a worker starts, behind one small interface: order in, attested live worker out.

`forks.ForkStart` forks a sandbox from a zygote, or launches a fresh one; `pool.WarmPool` has some of
them ahead of demand. Whatever goes wrong, nothing is left running: the worker is killed, its pipes are
closed, and the error says what the kernel or the guest said.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

import msgspec

from bridgehold.bridges.catalogue import check_ready
from bridgehold.bridges.frames import FaultFrame, ReadyFrame
from bridgehold.errors import (
    BridgeholdError,
    CommandTimeoutError,
    CrashError,
    NotFoundError,
    ShortageError,
    UnsupportedError,
)
from bridgehold.host.cell.workers.calls import unbroken
from bridgehold.host.cell.workers.live import LiveWorker, Services
from bridgehold.host.cell.workers.pipes import GuestPipes
from bridgehold.host.cell.workers.translate import exit_error, fault_error
from bridgehold.host.front.boots import (
    SCRIPT_PLACEHOLDER,
    StartOrder,
    boot_frame,
    new_placeholder,
)
from bridgehold.host.shares.logs import LAST_OUTPUT, SessionLog
from bridgehold.policies.units import format_ms
from bridgehold.sandbox.limits.shortage import named, short_of, typed
from bridgehold.sandbox.values import Launched

T = TypeVar("T")
SHORTAGE_DELAYS_S = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
"""Between tries of a start that met a shortage of the machine."""
_BUBBLEWRAP = "bwrap: "
_LINE = 4096
"""Bytes of a log beyond which it is no single line of bubblewrap's."""
_SHOWN = 300
"""Characters of it that an error repeats."""
_PIPES = 4
"""Frames to the guest and from it, its standard error and output; then the gateway's listener, where it has
one; then what belongs to callbacks."""


Record = Callable[[StartOrder], Awaitable[object]]
"""Begins to write that a session opens on this order; what it gives ends when that is durable."""


class Starter(Protocol):
    """Order in, attested live worker out."""

    async def start(self, order: StartOrder, record: Record) -> LiveWorker:
        """A worker that was told whose it is, after that was recorded. Its order is `order`, or that of one
        which stood ready under a session id of its own. Where it fails, nothing is left running.
        """


def begin(services: Services, order: StartOrder, launched: Launched) -> LiveWorker:
    """The host's side of a sandbox that was just started, not proved yet."""
    limits = order.grant.limits
    return LiveWorker(services, order, launched, SessionLog(limits.log_bytes, limits.log_bytes_per_second))


async def guarded(worker: LiveWorker, step: Awaitable[None]) -> None:
    """`step`, within the start-up time; where it fails, the worker is ended before the error goes on."""
    budget, log = worker.order.grant.limits.startup_ms, worker.log
    try:
        async with asyncio.timeout_at(worker.deadline):
            await step
    except TimeoutError as error:
        refusal = CommandTimeoutError(
            f"the bridge was not ready within its start-up time of {format_ms(budget)}",
            hint="Raise `[limits] startup` in the policy, or make the bridge's imports lighter.",
        )
        await unbroken(worker.end(refusal))
        raise _with_log(refusal, log) from error
    except BridgeholdError as error:
        await unbroken(worker.end(error))
        raise _with_log(_unstarted(worker) or error, log) from error
    except OSError as error:
        failure = typed(error)  # of this host's own: what its guest does to its pipes raises nothing here
        await unbroken(worker.end(failure))
        raise failure from error
    except BaseException:
        await unbroken(worker.end(CrashError("the start was given up")))
        raise


def bubblewrap_refusal(log: SessionLog) -> BridgeholdError | None:
    """What kept bubblewrap from starting the guest, as it says itself: its only line of log.

    A guest could write that line too, and be started again some times, or be told to ask the doctor: that is
    all it would gain.
    """
    said = log.text().strip() if len(log) <= _LINE else ""
    if not said.startswith(_BUBBLEWRAP) or "\n" in said:
        return None
    number = named(said)
    if number:
        return short_of(number, said)
    shown = "".join(one if one.isprintable() else " " for one in said[:_SHOWN])  # a guest's, perhaps
    return UnsupportedError(
        f"bubblewrap did not start the sandbox: {shown}",
        hint="`bridgehold doctor` says what this machine lacks, and what gives it.",
    )


def _unstarted(worker: LiveWorker) -> BridgeholdError | None:
    """`bubblewrap_refusal`, where that is what a worker's start failed of."""
    failure = bubblewrap_refusal(worker.log)
    if failure is None or worker.launched.zygote:  # bubblewrap has no part in a fork
        return None
    ready = worker.calls.ready
    if (ready.done() and not ready.cancelled() and ready.exception() is None) or worker.report is None:
        return None
    if worker.report.cause != "exited":
        return None
    worker.booted = False
    return failure


async def patiently(act: Callable[[], Awaitable[T]], delays: Sequence[float] = SHORTAGE_DELAYS_S) -> T:
    """`act`; again, later and later, while the machine is short of something."""
    for delay in delays:
        try:
            return await act()
        except ShortageError:
            await asyncio.sleep(delay)
    return await act()


async def prepare(services: Services, worker: LiveWorker, descriptors: list[int]) -> None:
    """Pipes, gateway, boot and proof: everything up to where the session's own data comes in."""
    await _boot(services, worker, descriptors)
    await _attest(services, worker)


async def open_session(services: Services, worker: LiveWorker, recorded: Awaitable[object]) -> None:
    """Tell an attested worker whose it is. Its start's processor time is nobody's command's."""
    order = worker.order
    await recorded
    session = {"id": order.session, "name": order.session_name, "tenant": order.grant.tenant}
    opening: dict[str, object] = {"session": session}
    if order.script is not None:
        opening["script"] = msgspec.to_builtins(order.script)
    reply, _, _ = await asyncio.gather(
        worker.call("common:open", opening, deadline_ms=order.grant.limits.startup_ms),
        _known(worker, worker.learn_account()),
        worker.proven(),
    )
    if isinstance(reply, FaultFrame):
        raise fault_error(reply, where="open")


async def _boot(services: Services, worker: LiveWorker, descriptors: list[int]) -> None:
    order = worker.order
    worker.pipes = GuestPipes(
        descriptors[:_PIPES],
        limits=order.grant.limits,
        rate=order.grant.rate,
        log=worker.log,
        on_frame=worker.calls.deliver,
        on_end=worker.on_pipe_end,
        budget=services.frames.of(worker.order.grant.tenant),
    )
    fixed = SCRIPT_PLACEHOLDER if order.manifest.foreign else ""
    placeholders = {endpoint.provider: fixed or new_placeholder() for endpoint in order.grant.endpoints}
    if len(descriptors) > _PIPES:
        listener = socket.socket(fileno=descriptors[_PIPES])
        worker.gateway = await services.open_gateway(listener, order, placeholders, worker.events)
    worker.sockets = tuple(socket.socket(fileno=number) for number in descriptors[_PIPES + 1 :])
    for one in worker.sockets:
        one.setblocking(False)
    worker.booted = True
    await worker.pipes.send(boot_frame(order, placeholders))
    ready: ReadyFrame = await asyncio.shield(worker.calls.ready)
    check_ready(order.manifest, ready)
    worker.pipes.takes_parts = ready.parts


async def _known(worker: LiveWorker, asked: Awaitable[T]) -> T:
    """What the launcher says of `worker`. Of one that has ended it knows nothing: then what it ended of."""
    try:
        return await asked
    except NotFoundError as error:
        await worker.ended.wait()
        raise exit_error(worker.report, worker.order.grant.limits) if worker.report else error from error


async def _attest(services: Services, worker: LiveWorker) -> None:
    proof = await _known(worker, patiently(lambda: services.launcher.attest(worker.name)))
    worker.attestation = proof
    worker.record(services.launcher.recorded(worker.name))


def _with_log(error: BridgeholdError, log: SessionLog) -> BridgeholdError:
    """Keep the last lines of the guest's log with a failed start: there is no session to ask later."""
    last = log.text(600).strip()
    if last:
        error.hint = f"{error.hint}\n{LAST_OUTPUT}\n{last}".strip()
    return error
