"""The journal: a process that appends, syncs and acknowledges, and does nothing else.

``python -m bridgehold.audit.journal --fd-config N --fd-journal M [--fd-journal M2 …]`` with
inherited descriptors: the configuration (`JournalConfig` as JSON) and one stream socket per
client. Everything that is pending is written together and made durable by one sync (group
commit). It ends, with `journal.closed` written, when every client has gone or on SIGTERM.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
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

from bridgehold import writes
from bridgehold.audit import anchors, segments, wire
from bridgehold.audit.events import (
    JOURNAL_KINDS,
    AnchorSigned,
    Event,
    JournalClosed,
    JournalOpened,
    event_types,
    kind_of,
)
from bridgehold.audit.recovery import Recovered, recover
from bridgehold.audit.writer import Limits, Refused, Reserve, Result, Writer, Written, sync_folder
from bridgehold.errors import AuditError, BridgeholdError
from bridgehold.hardening import harden_journal as harden
from bridgehold.ids import new_instance_id

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_READ = 1024 * 1024
_GROUP = 2048
"""Most requests of one group."""
_BUFFERED_SYNC_S = 0.5
"""How long a buffered event may wait for its sync."""
_DRAIN_S = 5.0
"""How long the last clients may go on writing after SIGTERM."""
_UNREAD = 8 * 1024 * 1024
"""Answers a client may leave unread before nothing more is read from it."""

_EVENT: msgspec.json.Decoder[Any] = msgspec.json.Decoder(functools.reduce(operator.or_, event_types()))


class JournalConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Folders are absolute and exist; sizes are bytes."""

    folder: str
    anchors: str = ""
    """Where anchors are kept beside the audit; empty: none are taken."""
    reserve_bytes: int = 4 * 1024 * 1024
    limits: Limits = Limits()


class Journal:
    """One instance: holds the audit's lock for its life, and answers decoded requests."""

    def __init__(self, config: JournalConfig, *, sync: Callable[[int], None] = os.fdatasync) -> None:
        """Raises `AuditError` where another writer holds the folder or its first line can't be written."""
        self._anchors = Path(config.anchors) if config.anchors else None
        audit = Path(config.folder)
        self._lock = _lock(audit)
        try:
            self.writer = _begin(audit, config, sync)
        except BridgeholdError:
            os.close(self._lock)
            raise

    def answer(self, requests: Sequence[wire.Request]) -> list[wire.Answer]:
        """Write, sync once if anything asks for it, and answer each request in order."""
        pending: list[Event] = []
        places: list[int | wire.Answer] = []
        durable = False
        for request in requests:
            try:
                event = self._event(request)
            except BridgeholdError as error:
                places.append(wire.Answer(request.id, code="invalid", message=error.message))
                continue
            if event is None:
                places.append(-1)
                durable = True
                continue
            durable = durable or request.operation != wire.APPEND_BUFFERED
            places.append(len(pending))
            pending.append(event)
        results = self.writer.write(pending) if pending else []
        if durable:
            self.writer.sync()
        return [
            place if isinstance(place, wire.Answer) else self._answer(request, place, results)
            for request, place in zip(requests, places, strict=True)
        ]

    def _answer(self, request: wire.Request, place: int, results: list[Result]) -> wire.Answer:
        writer = self.writer
        result: Result = Written(writer.count, writer.head) if place < 0 else results[place]
        if writer.failed and request.operation != wire.APPEND_BUFFERED:
            result = Refused("failed", writer.failed)
        if isinstance(result, Refused):
            return wire.Answer(request.id, code=result.code, message=result.message)
        instance = writer.instance if place < 0 else ""
        return wire.Answer(request.id, result.seq, result.hash, instance=instance)

    def _event(self, request: wire.Request) -> Event | None:
        """What to write for `request`; None for the head, and for what only changes a bound.

        Raises `AuditError` for what isn't taken.
        """
        if request.operation == wire.HEAD:
            return None
        if request.operation == wire.QUOTA:
            self._bound(request.payload)
            return None
        if request.operation == wire.ANCHOR:
            return self._anchor(request.payload)
        if request.operation not in (wire.APPEND, wire.APPEND_BUFFERED):
            raise AuditError("an operation that the journal does not know")
        try:
            event = _EVENT.decode(request.payload)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise AuditError(f"not an event: {error}") from error
        if not isinstance(event, Event) or kind_of(event) in JOURNAL_KINDS:
            raise AuditError("an event of the journal's own kind from a client")
        return event

    def _bound(self, payload: bytes) -> None:
        try:
            quota = msgspec.json.decode(payload, type=wire.Quota)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise AuditError(f"not a tenant's quota: {error}") from error
        self.writer.tally.bound(quota.tenant, quota.bytes)

    def _anchor(self, payload: bytes) -> Event:
        signed = anchors.parse(payload.decode("ascii", "replace"))
        anchor = signed.anchor
        if (
            self._anchors is None
            or anchor.instance != self.writer.instance
            or anchor.count > self.writer.count
        ):
            raise AuditError("an anchor of another audit, or of what is not written yet")
        anchors.store(self._anchors, signed)
        return AnchorSigned(count=anchor.count, head=anchor.head, key=anchor.key, signature=signed.signature)

    def close(self, reason: str) -> None:
        """Write `journal.closed`, sync, and give the lock back."""
        unfinished = self.writer.tally.unfinished()
        event = JournalClosed(
            reason=reason,
            unfinished=unfinished[:256],
            unfinished_count=len(unfinished),
            earliest=self.writer.earliest,
            latest=self.writer.latest,
        )
        self.writer.write([event])
        self.writer.close()
        os.close(self._lock)


def _begin(audit: Path, config: JournalConfig, sync: Callable[[int], None]) -> Writer:
    """Recover, make the new instance's folder and write its first line, durably."""
    folder = audit
    try:
        before = recover(audit)
        instance = new_instance_id()
        reserve = Reserve(audit / segments.RESERVE, config.reserve_bytes)
        folder = audit / segments.folder_name(before.ordinal + 1, instance)
        writes.make_folder(folder, mode=0o750, new=True)
        sync_folder(audit)
        writer = Writer(folder, instance, reserve=reserve, limits=config.limits, sync=sync)
    except OSError as error:
        _discard(folder, audit)
        raise AuditError(
            f"the audit can't be begun: {error.strerror}",
            where=str(audit),
            hint="Give the journal's user a writable folder with free space.",
        ) from error
    if isinstance(writer.write([_opened(before)])[0], Refused) or not writer.sync():
        _discard(folder, audit)
        raise AuditError(
            "the audit's first line can't be written: its disk is full",
            where=str(audit),
            hint="Free space on the audit's disk.",
        )
    return writer


def _discard(folder: Path, audit: Path) -> None:
    """Remove the folder of an instance that never had a line."""
    if folder == audit:
        return
    with contextlib.suppress(OSError):
        for segment in folder.iterdir():
            if segment.stat().st_size == 0:
                segment.unlink()
        folder.rmdir()


def _opened(before: Recovered) -> JournalOpened:
    return JournalOpened(
        quarantined_bytes=before.quarantined_bytes,
        quarantined=before.quarantined,
        recovered_from="" if before.closed else before.head.instance,
        previous=before.head.instance,
        previous_count=before.head.count,
        previous_head=before.head.head if before.head.instance else "",
        unfinished=before.unfinished[:256],
        unfinished_count=len(before.unfinished),
    )


def _lock(audit: Path) -> int:
    try:
        descriptor = writes.open_lock(audit / segments.LOCK)
    except OSError as error:
        raise AuditError(f"can't open the audit's lock: {error.strerror}", where=str(audit)) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise AuditError(
            "another journal writes this audit",
            where=str(audit),
            hint="One host per audit: use the running one, or give this one a layout of its own.",
        ) from error
    return descriptor


class _Client:
    """One stream socket; bytes in, answers out, both bounded by not reading."""

    def __init__(self, descriptor: int) -> None:
        self.socket = socket.socket(fileno=descriptor)
        self.socket.setblocking(False)
        self.incoming = bytearray()
        self.outgoing = bytearray()
        self.ended = False

    def read(self) -> None:
        with contextlib.suppress(BlockingIOError, InterruptedError):
            try:
                data = self.socket.recv(_READ)
            except ConnectionError:
                data = b""
            self.incoming += data
            self.ended = not data

    def write(self) -> None:
        with contextlib.suppress(BlockingIOError, InterruptedError):
            try:
                del self.outgoing[: self.socket.send(self.outgoing)]
            except ConnectionError:
                self.outgoing.clear()
                self.ended = True

    def requests(self) -> list[wire.Request]:
        try:
            return list(wire.take_requests(self.incoming, _GROUP))
        except AuditError as error:
            sys.stderr.write(f"bridgehold journal: {error.message}; the client is cut off\n")
            self.incoming.clear()
            self.ended = True
            return []

    def mask(self) -> int:
        wanted = select.POLLOUT if self.outgoing else 0
        if not self.ended and len(self.outgoing) < _UNREAD and len(self.incoming) < 2 * wire.MAX_FRAME:
            wanted |= select.POLLIN
        return wanted


def serve(journal: Journal, descriptors: Sequence[int]) -> None:
    """Answer until every client has gone, or until SIGTERM and a grace."""
    clients = {descriptor: _Client(descriptor) for descriptor in descriptors}
    stop: list[float] = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(time.monotonic() + _DRAIN_S))
    synced, busy = time.monotonic(), False
    while clients and not (stop and time.monotonic() > stop[0]):
        poller = select.poll()
        for descriptor, client in clients.items():
            poller.register(descriptor, client.mask())
        wait = 0 if busy else 100 if stop or journal.writer.dirty else 1000
        for descriptor, happened in poller.poll(wait):
            client = clients[descriptor]
            if happened & select.POLLOUT:
                client.write()
            if happened & (select.POLLIN | select.POLLHUP | select.POLLERR) and client.mask() & select.POLLIN:
                client.read()
        busy = _answer_all(journal, clients)
        if journal.writer.dirty and time.monotonic() - synced > _BUFFERED_SYNC_S:
            journal.writer.sync()
            synced = time.monotonic()
    for client in clients.values():
        client.socket.close()


def _answer_all(journal: Journal, clients: dict[int, _Client]) -> bool:
    """One group of every client's pending requests; the gone are dropped. True: more may be pending."""
    taken = {descriptor: client.requests() for descriptor, client in clients.items()}
    joined = [request for requests in taken.values() for request in requests]
    found = iter(journal.answer(joined) if joined else ())
    for descriptor, requests in taken.items():
        client = clients[descriptor]
        if requests:
            client.outgoing += wire.answers([next(found) for _ in requests])
            client.write()
        elif client.ended and not client.outgoing:
            client.socket.close()
            del clients[descriptor]
    return bool(joined)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the journal on the descriptors that `argv` names, until its clients are gone.

    Returns the exit status.
    """
    parser = argparse.ArgumentParser(prog="bridgehold.audit.journal", description=__doc__)
    parser.add_argument("--fd-config", type=int, required=True)
    parser.add_argument("--fd-journal", type=int, action="append", required=True)
    options = parser.parse_args(argv)
    try:
        harden()
        with os.fdopen(options.fd_config, "rb") as file:
            config = msgspec.json.decode(file.read(), type=JournalConfig)
        journal = Journal(config)
    except BridgeholdError as error:
        sys.stderr.write(f"bridgehold journal: {error.message} ({error.where}). {error.hint}\n")
        return error.exit_status
    serve(journal, options.fd_journal)
    journal.close("clients gone")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
