"""The launcher's channel to the journal: what it starts, what it has seen of it, and how that ended.

Nothing here waits. A start is written before its sandbox's first instruction is let run: the start goes on
when the journal has it on the disk, and fails where the journal takes it not, or not in time.
"""

from __future__ import annotations

import functools
import math
import os
import select
import socket
import time
from collections.abc import Callable
from typing import Literal, Protocol

from bridgehold.errors import AuditError, BridgeholdError, BudgetError
from bridgehold.records import wire
from bridgehold.records.workers import (
    Event,
    WorkerAttested,
    WorkerExited,
    WorkerRefused,
    WorkerStarted,
    ZygoteAttested,
)
from bridgehold.sandbox.launcher import requests
from bridgehold.sandbox.launcher.channel import encode
from bridgehold.sandbox.launcher.worker import Worker
from bridgehold.sandbox.limits.shortage import shortage
from bridgehold.sandbox.values import Attestation, ExitReport

_SECONDS = 5.0
"""From what is written to the journal's answer."""
_LAST_SECONDS = 5.0
"""At the launcher's end, for what it still has to say."""
_UNSENT = 4 * 1024 * 1024
"""Bytes that the journal has not taken yet, from which on nothing further is begun."""
_READ = 65536
_MOST_DIFFERENCES = 50
_BY = {"memory": "kernel", "zygote": "zygote", "exited": "guest", "signal": "guest"}
_What = Literal["head", "start", "proof", "end", "refusal"]


class Owner(Protocol):
    """What `Recording` needs of the launcher's loop."""

    def guard(self, worker: Worker, act: Callable[[], None]) -> None:
        """See `Launcher.guard`."""

    def recorded(self, worker: Worker) -> None:
        """Its start is on the disk: it may go on."""

    def fail(self, worker: Worker, error: Exception) -> None:
        """See `Launcher.fail`."""

    def answer(self, worker: Worker, answer: requests.Answer) -> None:
        """See `Launcher.answer`."""


class Recording:
    """One channel. Without a socket nothing is recorded: a launcher of the doctor's own, say."""

    def __init__(self, owner: Owner, sock: socket.socket | None) -> None:
        self._owner = owner
        self._socket = sock
        self._instance = ""
        self._incoming, self._outgoing = bytearray(), bytearray()
        self._waiting: dict[int, tuple[_What, Worker | None]] = {}
        self._next = 0
        self._gone = ""
        self._closing = False
        if sock is not None:
            sock.setblocking(False)
            self._ask("head", wire.HEAD, b"", None)

    @property
    def channel(self) -> socket.socket | None:
        """To be polled; None where there is none, or none any more."""
        return None if self._gone else self._socket

    @property
    def unsent(self) -> bool:
        """Whether something waits to be sent."""
        return bool(self._outgoing)

    def demand(self) -> None:
        """Raise `AuditError` where no start can be recorded now."""
        if self._gone:
            raise AuditError(
                f"the journal is gone: {self._gone}",
                hint="Restart the host; `bridgehold audit verify` shows what was written.",
                where="journal:gone",
            )
        if len(self._outgoing) > _UNSENT:
            raise AuditError("the journal does not keep up: too many events wait", retry="later")

    def start(self, worker: Worker) -> None:
        """Write that it begins; `Owner.recorded` or `Owner.fail` follows."""
        if self._socket is None:
            self._owner.recorded(worker)
            return
        spec = worker.spec
        worker.record_until = time.monotonic() + _SECONDS
        event = WorkerStarted(
            tenant=worker.tenant,
            session=worker.note.session,
            worker=worker.name,
            purpose=spec.kind,
            bridge=spec.bridge,
            start="fork" if worker.parent is not None else "cold",
            spec=worker.digest,
            environment=worker.note.environment,
            uid=worker.uid,
            cgroup=worker.cgroup.path,
            weakenings=spec.weakenings,
            zygote=worker.parent.name if worker.parent is not None else "",
        )
        self._write("start", event, worker)

    def expire(self, worker: Worker) -> None:
        """Its start was not confirmed in time."""
        worker.record_until = math.inf
        self._owner.fail(
            worker,
            AuditError(
                f"the journal did not confirm a start within {_SECONDS:g} s",
                hint="The audit's disk is too slow or stuck; nothing runs without its event.",
                retry="later",
            ),
        )

    def attested(self, worker: Worker, proof: Attestation) -> None:
        """Write what was seen of it; whoever started it is told when that is durable."""
        if self._socket is None or self._gone:
            error = self._gone_error() if self._gone else None
            self._owner.answer(worker, _told(worker, error))
            return
        kind = ZygoteAttested if worker.spec.kind == "zygote" else WorkerAttested
        event = kind(
            tenant=worker.tenant,
            session=worker.note.session,
            worker=worker.name,
            spec=worker.digest,
            pid=proof.pid,
            uid=proof.uid,
            environment=worker.note.environment,
            capabilities=proof.capabilities,
            no_new_privs=proof.no_new_privs,
            seccomp_mode=proof.seccomp_mode,
            namespaces=proof.namespaces,
            cgroup=proof.cgroup,
            mounts=proof.mounts_digest,
            weakenings=worker.spec.weakenings,
            zygote=worker.parent.name if worker.parent is not None else "",
            phases_us=worker.start.running.phases_us,
        )
        self._write("proof", event, worker)

    def refused(self, worker: Worker, differences: str) -> None:
        """Write that it is not what its spec says."""
        if self.channel is not None:
            event = WorkerRefused(
                tenant=worker.tenant,
                session=worker.note.session,
                worker=worker.name,
                differences=tuple(differences.split("; "))[:_MOST_DIFFERENCES],
            )
            self._write("refusal", event, worker)

    def ended(self, worker: Worker, report: ExitReport) -> None:
        """Write that nothing is left of it, where its start is written, or as soon as that is known."""
        by = _BY.get(report.cause) or ("host" if worker.killers else "launcher")
        failed = worker.failure.message if worker.failure is not None else ""
        worker.ended = WorkerExited(
            tenant=worker.tenant,
            session=worker.note.session,
            worker=worker.name,
            intent=worker.start_event,
            cause=report.cause,
            by=by,
            reason=(report.reason or failed)[:500],
            status=report.status,
            cpu_us=report.usage.cpu_us,
            memory_peak_bytes=report.usage.memory_peak_bytes,
            oom_kills=report.usage.oom_kills,
            emptied_ms=report.emptied_ms,
        )
        if worker.start_event:
            self._write_end(worker, worker.ended)

    def ready(self, *, readable: bool) -> None:
        """Send what waits, and take what was answered."""
        sock = self.channel
        if sock is None:
            return
        data = b""
        try:
            self._flush()
            if readable:
                data = sock.recv(_READ)
                self._incoming += data
            answers = wire.take_answers(self._incoming)
        except (BlockingIOError, InterruptedError):
            return
        except AuditError as error:
            self.lose(error.message)
            return
        except OSError as error:
            self._stumble(error)
            return
        for answer in answers:
            self._answered(answer)
        if readable and not data:
            self.lose("its end of the socket closed")

    def _stumble(self, error: OSError) -> None:
        """The socket could not be used: it is gone, but where the machine is short of something."""
        if not shortage(error):
            self.lose(os.strerror(error.errno or 0))

    def close(self) -> None:
        """Say what is still to be said, within a few seconds, and go."""
        self._closing = True
        deadline = time.monotonic() + _LAST_SECONDS
        while self.channel is not None and (self._outgoing or self._owes_an_end()):
            left = deadline - time.monotonic()
            if left <= 0:
                break
            events = select.POLLIN | (select.POLLOUT if self._outgoing else 0)
            poller = select.poll()
            poller.register(self.channel, events)
            found = dict(poller.poll(left * 1000)).get(self.channel.fileno(), 0)
            self.ready(readable=bool(found & ~select.POLLOUT))
        if self._socket is not None:
            self._socket.close()
            self._gone = self._gone or "the launcher ends"

    def _tell(self, worker: Worker, answer: requests.Answer) -> None:
        """As `Owner.answer`, while there is somebody to hear it."""
        if not self._closing:
            self._owner.answer(worker, answer)

    def _owes_an_end(self) -> bool:
        return any(what == "start" and one and one.ended for what, one in self._waiting.values())

    def _answered(self, answer: wire.Answer) -> None:
        what, worker = self._waiting.pop(answer.id, ("refusal", None))
        error = wire.refusal(answer)
        if what == "head":
            self._instance = answer.instance
        elif worker is not None:
            self._owner.guard(worker, functools.partial(self._heard, what, worker, answer, error))

    def _heard(self, what: _What, worker: Worker, answer: wire.Answer, error: BridgeholdError | None) -> None:
        if what == "start":
            self._started(worker, answer, error)
        elif what == "proof":
            self._tell(worker, _told(worker, error))
        elif what == "end" and error is not None and not isinstance(error, BudgetError):
            self._missed(worker, error)

    def _started(self, worker: Worker, answer: wire.Answer, error: BridgeholdError | None) -> None:
        worker.record_until = math.inf
        if error is not None:
            if worker.ending is None and worker.ended is None:
                self._owner.fail(worker, error)
            return
        worker.start_event = f"{self._instance}.{answer.seq}"
        if worker.ended is not None:
            self._write_end(worker, worker.ended)
        elif worker.ending is None:
            self._owner.recorded(worker)

    def _write_end(self, worker: Worker, event: WorkerExited) -> None:
        if self._gone:
            self._missed(worker, self._gone_error())
            return
        event = WorkerExited(
            **{name: getattr(event, name) for name in event.__struct_fields__ if name != "intent"},
            intent=worker.start_event,
        )
        self._write("end", event, worker)

    def _missed(self, worker: Worker, error: BridgeholdError) -> None:
        text = f"worker.exited could not be written: {error.message}"
        self._tell(worker, requests.Answer(id=0, unrecorded=text))

    def _write(self, what: _What, event: Event, worker: Worker) -> None:
        durable = what != "end"
        self._ask(what, wire.APPEND if durable else wire.APPEND_BUFFERED, encode(event), worker)

    def _ask(self, what: _What, operation: int, payload: bytes, worker: Worker | None) -> None:
        self._next += 1
        self._waiting[self._next] = (what, worker)
        self._outgoing += wire.request(operation, self._next, payload)
        try:
            self._flush()
        except OSError as error:
            self._stumble(error)

    def _flush(self) -> None:
        sock = self.channel
        while self._outgoing and sock is not None:
            try:
                del self._outgoing[: sock.send(self._outgoing)]
            except (BlockingIOError, InterruptedError):
                return

    def _gone_error(self) -> AuditError:
        return AuditError(f"the journal is gone: {self._gone}", where="journal:gone")

    def lose(self, reason: str) -> None:
        """The channel has ended: nothing that waits is confirmed any more."""
        self._gone = reason
        self._outgoing.clear()
        waiting, self._waiting = self._waiting, {}
        for what, worker in waiting.values():
            if worker is not None and what in ("start", "proof", "end"):
                self._owner.guard(worker, functools.partial(self._answer_lost, what, worker))

    def _answer_lost(self, what: _What, worker: Worker) -> None:
        if what == "start" and worker.ending is None and worker.ended is None:
            worker.record_until = math.inf
            self._owner.fail(worker, self._gone_error())
        elif what == "proof":
            self._tell(worker, _told(worker, self._gone_error()))
        elif what == "end":
            self._missed(worker, self._gone_error())


def _told(worker: Worker, error: BridgeholdError | None) -> requests.Answer:
    return requests.Answer(id=0, recorded=worker.name, error=error.info() if error is not None else None)
