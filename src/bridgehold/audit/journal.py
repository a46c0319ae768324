"""The journal: a process that appends, syncs and acknowledges, and does nothing else.

``python -m bridgehold.audit.journal --fd-config N --fd-host N [--fd-launcher N] [--fd-keeper N]
[--fd-intake N]`` with inherited descriptors: the configuration (`JournalConfig` as JSON), one stream socket
per recorder, and where the host adds channels at run time. What is pending on all of them is written
together, each channel's share of it, and made durable by one sync (group commit). It ends, with
`journal.closed` written, when every channel has ended or on SIGTERM.
"""

from __future__ import annotations

import argparse
import functools
import operator
import os
import select
import signal
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from bridgehold.audit import beside
from bridgehold.audit.beginning import LISTED, JournalConfig, begin, lock
from bridgehold.audit.chain import Head
from bridgehold.audit.channels import Channel, Intake, turns
from bridgehold.audit.events import (
    ChannelEnded,
    Event,
    JournalClosed,
    event_types,
)
from bridgehold.audit.recorders import HOST, Name, Recorder, breach
from bridgehold.audit.writer import Refused, Result, Written
from bridgehold.error_texts import to_log_text
from bridgehold.errors import AuditError, BridgeholdError
from bridgehold.hardening import harden_journal as harden
from bridgehold.hardening import leave
from bridgehold.records import wire

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_BUFFERED_SYNC_S = 0.5
"""How long a buffered event may wait for its sync."""
_DRAIN_S = 5.0
"""How long the last clients may go on writing after SIGTERM."""
_MOST_REASON = 500
_LEFT_OPEN = "it is gone; the outcome of what it had begun is unknown"
_HELD_MS = 10
"""Between looks at a channel that has had its part for now."""

_EVENT: msgspec.json.Decoder[Any] = msgspec.json.Decoder(functools.reduce(operator.or_, event_types()))


class Journal:
    """One instance: holds the audit's lock for its life, and answers decoded requests."""

    def __init__(
        self,
        config: JournalConfig,
        *,
        recorders: tuple[str, ...] = ("host",),
        sync: Callable[[int], None] = os.fdatasync,
    ) -> None:
        """Raises `AuditError` where another writer holds the folder or its first line can't be written.

        `recorders`: who has a channel of its own from the start.
        """
        self._launcher = "launcher" in recorders
        self._anchors = Path(config.anchors) if config.anchors else None
        audit = Path(config.folder)
        self._lock = lock(audit)
        try:
            self.writer = begin(audit, config, recorders, sync)
        except BridgeholdError:
            os.close(self._lock)
            raise

    def answer(
        self, requests: Sequence[wire.Request], recorders: Sequence[Recorder] = ()
    ) -> list[wire.Answer]:
        """Write, sync once if anything asks for it, and answer each request in order.

        `recorders`: whose each request is; without them all are the host's. One that breaks the rules is
        `broken`, and nothing more of it is written.
        """
        recorders = recorders or [HOST] * len(requests)
        pending: list[Event] = []
        owners: list[str] = []
        places: list[int | wire.Answer] = []
        durable = False
        for request, recorder in zip(requests, recorders, strict=True):
            if recorder.broken:
                places.append(wire.Answer(request.id, code=wire.BREACH, message=recorder.broken))
                continue
            try:
                event = self._event(request, recorder)
            except BridgeholdError as error:
                code = wire.BREACH if recorder.broken else "invalid"
                places.append(wire.Answer(request.id, code=code, message=error.message))
                continue
            except Exception as error:  # noqa: BLE001 - of one request: the journal is everybody's
                text = f"an event that can't be taken: {type(error).__name__}"
                places.append(wire.Answer(request.id, code="invalid", message=text))
                continue
            if event is None:
                places.append(-1)
                durable = True
                continue
            durable = durable or request.operation != wire.APPEND_BUFFERED
            places.append(len(pending))
            pending.append(event)
            owners.append(recorder.owner)
        results = self.writer.write(pending, owners) if pending else []
        if durable:
            self.writer.sync()
        return [
            place if isinstance(place, wire.Answer) else self._answer(request, place, results)
            for request, place in zip(requests, places, strict=True)
        ]

    def note_breach(self, recorder: Recorder) -> None:
        """Write that its channel has ended."""
        self.writer.write(
            [
                ChannelEnded(
                    tenant=recorder.tenant, recorder=recorder.name, reason=recorder.broken[:_MOST_REASON]
                )
            ]
        )

    def ended(self, recorder: Recorder) -> None:
        """Its channel is gone: what it has left open is named, and counts no longer.

        The host's own is named at the end, by `close`, as is what there is no room to say now.
        """
        tally = self.writer.tally
        left = tally.left_by(recorder.owner) if recorder.name != "host" else ()
        for at in range(0, len(left), LISTED):
            part = left[at : at + LISTED]
            event = ChannelEnded(
                tenant=recorder.tenant, recorder=recorder.name, reason=_LEFT_OPEN, unfinished=part
            )
            if isinstance(self.writer.write([event])[0], Refused):
                return
            tally.forget(part)

    def _answer(self, request: wire.Request, place: int, results: list[Result]) -> wire.Answer:
        writer = self.writer
        result: Result = Written(writer.count, writer.head) if place < 0 else results[place]
        if writer.failed and request.operation != wire.APPEND_BUFFERED:
            result = Refused("failed", writer.failed)
        if isinstance(result, Refused):
            return wire.Answer(request.id, code=result.code, message=result.message)
        instance = writer.instance if place < 0 else ""
        return wire.Answer(request.id, result.seq, result.hash, instance=instance)

    def _event(self, request: wire.Request, recorder: Recorder) -> Event | None:
        """What to write for `request`; None for the head, and for what only changes a bound.

        Raises `AuditError` for what isn't taken; a breach marks the recorder, too.
        """
        if request.operation == wire.HEAD:
            return None
        if request.operation in (wire.QUOTA, wire.ANCHOR):
            if recorder.name != "host":
                raise _broken(recorder, "bounds and anchors are the host's alone")
            if request.operation == wire.ANCHOR:
                return self._anchor(request.payload)
            self._bound(request.payload)
            return None
        if request.operation not in (wire.APPEND, wire.APPEND_BUFFERED):
            raise AuditError("an operation that the journal does not know")
        try:
            event = _EVENT.decode(request.payload)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise AuditError(f"not an event: {error}") from error
        owner, _ = self.writer.tally.open.get(str(getattr(event, "intent", "")), ("", ""))
        fault = breach(recorder, event, owner, launcher=self._launcher)
        if fault:
            raise _broken(recorder, fault)
        return event  # type: ignore[no-any-return]  # the decoder's type is a union of all events

    def _bound(self, payload: bytes) -> None:
        try:
            quota = msgspec.json.decode(payload, type=wire.Quota)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise AuditError(f"not a tenant's quota: {error}") from error
        self.writer.tally.bound(quota.tenant, quota.bytes)

    def _anchor(self, payload: bytes) -> Event | None:
        """An anchor, the record of a change of its key, or the key: stored; what to write of it."""
        if self._anchors is None:
            raise AuditError("this audit keeps no anchors")
        return beside.take(payload.decode("ascii", "replace"), self._anchors, self._head())

    def _head(self) -> Head:
        return Head(self.writer.instance, self.writer.count, self.writer.head)

    def close(self, reason: str) -> None:
        """Write `journal.closed`, sync, and give the lock back."""
        unfinished = self.writer.tally.unfinished()
        event = JournalClosed(
            reason=reason,
            unfinished=unfinished[:LISTED],
            unfinished_count=len(unfinished),
            earliest=self.writer.earliest,
            latest=self.writer.latest,
        )
        self.writer.write([event])
        self.writer.close()
        os.close(self._lock)


def _broken(recorder: Recorder, reason: str) -> AuditError:
    recorder.broken = reason
    return AuditError(reason)


def serve(journal: Journal, channels: Sequence[Channel], intake: Intake | None = None) -> None:
    """Answer until every channel has ended, or until SIGTERM and a grace.

    `channels`: in the order in which each has its turn; those that the host adds at `intake` come last.
    """
    open_now = {channel.socket.fileno(): channel for channel in channels}
    stop: list[float] = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(time.monotonic() + _DRAIN_S))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    synced, busy = time.monotonic(), False
    while open_now and not (stop and time.monotonic() > stop[0]):
        wait = 0 if busy else 100 if stop or journal.writer.dirty else 1000
        if not busy and any(channel.pending for channel in open_now.values()):
            wait = _HELD_MS
        intake = _exchange(open_now, intake, wait)
        busy = _answer_all(journal, open_now)
        if journal.writer.dirty and time.monotonic() - synced > _BUFFERED_SYNC_S:
            journal.writer.sync()
            synced = time.monotonic()
    for channel in open_now.values():
        channel.socket.close()
        journal.ended(channel.recorder)
    if intake is not None:
        intake.socket.close()


def _exchange(channels: dict[int, Channel], intake: Intake | None, wait: int) -> Intake | None:
    """Send and receive what can be, after at most `wait` milliseconds. The intake, while it is open."""
    poller = select.poll()
    for descriptor, channel in channels.items():
        poller.register(descriptor, channel.mask())
    if intake is not None:
        poller.register(intake.socket, select.POLLIN)
    ready = dict(poller.poll(wait))
    if intake is not None and intake.socket.fileno() in ready:
        added = intake.receive(len(channels))
        if added is not None:
            channels[added.socket.fileno()] = added
        if intake.ended:
            intake.socket.close()
            intake = None
    if not ready:
        return intake
    # The first channels are read last, the launcher's whether or not it was seen to be ready: what it wrote
    # before its host wrote of the same is then in the same group, and stands before it.
    for descriptor, channel in reversed(channels.items()):
        happened = ready.get(descriptor, 0)
        if happened & select.POLLOUT:
            channel.write()
        heard = happened & (select.POLLIN | select.POLLHUP | select.POLLERR)
        if (heard or channel.recorder.name == "launcher") and channel.mask() & select.POLLIN:
            channel.read()
    return intake


def _answer_all(journal: Journal, channels: dict[int, Channel]) -> bool:
    """One group of all channels' requests; the gone are dropped. True: more may be pending."""
    taken = turns(channels.values())
    requests = [request for _, requests in taken for request in requests]
    recorders = [channel.recorder for channel, requests in taken for _ in requests]
    found = iter(journal.answer(requests, recorders) if requests else ())
    for channel, asked in taken:
        if asked:
            channel.outgoing += wire.answers([next(found) for _ in asked])
            channel.write()
        if channel.recorder.broken:
            channel.cut()
            journal.note_breach(channel.recorder)
    for descriptor, channel in list(channels.items()):
        if channel.ended and not channel.outgoing and not channel.pending:
            channel.socket.close()
            del channels[descriptor]
            journal.ended(channel.recorder)
    return bool(requests)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the journal on the descriptors that `argv` names, until its clients are gone.

    Returns the exit status.
    """
    parser = argparse.ArgumentParser(prog="bridgehold.audit.journal", description=__doc__)
    parser.add_argument("--fd-config", type=int, required=True)
    parser.add_argument("--fd-host", type=int, action="append", required=True)
    for name in ("launcher", "keeper", "intake"):
        parser.add_argument(f"--fd-{name}", type=int, default=-1)
    options = parser.parse_args(argv)
    try:
        harden()
        with os.fdopen(options.fd_config, "rb") as file:
            config = msgspec.json.decode(file.read(), type=JournalConfig)
        channels = _channels(options)
        names = dict.fromkeys(channel.recorder.name for channel in channels)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # what it opens it closes: `serve` listens
        journal = Journal(config, recorders=tuple(names))
    except BridgeholdError as error:
        sys.stderr.write(to_log_text(error))
        return error.exit_status
    intake = Intake(socket.socket(fileno=options.fd_intake)) if options.fd_intake >= 0 else None
    serve(journal, channels, intake)
    journal.close("clients gone")
    return 0


def _channels(options: argparse.Namespace) -> list[Channel]:
    """Those of the supervisor's: the launcher's turn comes first, so that an end is never told before it."""
    given: list[tuple[int, Name]] = [(options.fd_launcher, "launcher"), (options.fd_keeper, "keeper")]
    given += [(descriptor, "host") for descriptor in options.fd_host]
    return [Channel(socket.socket(fileno=number), Recorder(name)) for number, name in given if number >= 0]


if __name__ == "__main__":
    leave(main())
