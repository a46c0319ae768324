"""The durable writer of one instance: seals events into the chain, writes, syncs, rotates.

It never leaves half a line behind a running chain: a short or failed write is cut back to the last
good byte. The first failed sync or cut closes the writer for good, because nobody knows any more
what is on the disk. When the disk is full, a preallocated reserve is given up, and only the ends
of what had begun are still taken.
"""

from __future__ import annotations

import errno
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from bridgehold import clock, writes
from bridgehold.audit import chain
from bridgehold.audit.events import CLOSING_KINDS, Event, SegmentRotated, kind_of
from bridgehold.audit.formatter import EventFormatter
from bridgehold.audit.segments import segment_name
from bridgehold.audit.tally import Tally
from bridgehold.errors import AuditError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_PASSING = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""Of opening a file: nothing has changed by that, and a later try may do."""
_RETRY_RESERVE_NS = 2_000_000_000

RefusalCode = Literal["full", "budget", "failed", "invalid"]


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How the journal divides its room."""

    segment_bytes: int = 64 * 1024 * 1024
    segment_seconds: int = 24 * 3600
    tenant_quota_bytes: int = 4 * 1024**3
    """Per tenant and instance; a sixteenth more is kept for the ends of what had begun."""


class Written(msgspec.Struct, frozen=True):
    """Where an event stands: its number in the instance's chain, and its line's hash."""

    seq: int
    hash: str


class Refused(msgspec.Struct, frozen=True):
    """An event that was not written, and why; the others of its group may have been."""

    code: RefusalCode
    message: str


Result = Written | Refused


class _NoRoomError(Exception):
    """The disk, the quota of the file system or the file size limit is reached."""


class Writer:
    """Not thread-safe; one per process. `sync` and `now_ns` are the system's calls unless tested."""

    def __init__(
        self,
        folder: Path,
        instance: str,
        *,
        reserve: Reserve,
        limits: Limits | None = None,
        sync: Callable[[int], None] = os.fdatasync,
        now_ns: Callable[[], int] = clock.now_ns,
    ) -> None:
        self.instance = instance
        self.count = 0
        self.head = chain.GENESIS
        self.failed = ""
        self.earliest = self.latest = ""
        """Of the times in the segment that is written."""
        self.tally = Tally((limits or Limits()).tenant_quota_bytes)
        self._folder = folder
        self._limits = limits or Limits()
        self._reserve = reserve
        self._sync = sync
        self._now_ns = now_ns
        self._prefix = chain.hash_prefix(instance)
        self._formatter = EventFormatter()
        self._boot = boot_id()
        self._second = -1
        self._second_text = ""
        self._dirty = False
        self._number = 1
        self._descriptor, self._size, self._opened = self._create(1)

    @property
    def full(self) -> bool:
        """Whether the disk has no room left: the reserve has been given up."""
        return not self._reserve.held

    @property
    def dirty(self) -> bool:
        """Whether something was written and not synced yet."""
        return self._dirty

    def write(self, events: Sequence[Event], owners: Sequence[str] = ()) -> list[Result]:
        """Write `events` in order, one result each; `sync` makes them durable.

        `owners`: whose each of them is (`Recorder.owner`); without them all are the host's.
        """
        owners = owners or ["host"] * len(events)
        if self.failed:
            return [Refused("failed", self.failed)] * len(events)
        if self.full:
            self._reserve.take_again()
        try:
            return self._write_or_use_reserve(events, owners)
        except _NoRoomError:
            return [Refused("full", "the audit's disk is full, and its reserve is used up")] * len(events)
        except OSError as error:
            return self._fail(error, len(events))

    def _write_or_use_reserve(self, events: Sequence[Event], owners: Sequence[str]) -> list[Result]:
        try:
            self._rotate_if_due()
            return self._group(events, owners, full=self.full)
        except _NoRoomError:
            self._reserve.give_up()
        return self._group(events, owners, full=True)

    def sync(self) -> bool:
        """Make everything written durable. False: never again, see `failed`."""
        if self._dirty and not self.failed:
            try:
                self._sync(self._descriptor)
                self._demand_at_its_place()
            except OSError as error:
                self._fail(error, 0)
            else:
                self._dirty = False
        return not self.failed

    def _demand_at_its_place(self) -> None:
        """A file that was removed, moved or mounted over takes lines that nobody will ever read."""
        try:
            seen = os.lstat(self._folder / segment_name(self._number))
        except FileNotFoundError:
            seen = None
        if seen is None or not os.path.samestat(seen, os.fstat(self._descriptor)):
            raise OSError(errno.ENOENT, "it is not at its place any more")

    def _group(self, events: Sequence[Event], owners: Sequence[str], *, full: bool) -> list[Result]:
        """All of `events` in one write; raises `_NoRoomError` with nothing changed."""
        results: list[Result] = []
        lines: list[bytes] = []
        count, head = self.count, self.head
        changes = self.tally.begin()
        for event, owner in zip(events, owners, strict=True):
            closing = kind_of(event) in CLOSING_KINDS
            if full and not closing:
                results.append(
                    Refused("full", "the audit's disk is full; only ends of what began are written")
                )
                continue
            if not changes.has_room(event, owner, closing=closing):
                results.append(
                    Refused("budget", f"tenant {event.tenant!r} has used up its share of the audit")
                )
                continue
            try:
                line, digest = self._seal(event, count + 1, head)
            except AuditError as error:
                results.append(Refused("invalid", error.message))
                continue
            except Exception as error:  # noqa: BLE001 - of one event, which is refused: all others' are written
                results.append(Refused("invalid", f"an event that can't be written: {type(error).__name__}"))
                continue
            count, head = count + 1, digest
            changes.add(event, chain.reference(self.instance, count), len(line), owner)
            lines.append(line)
            results.append(Written(count, digest))
        if lines:
            self._put(b"".join(lines))
            self.count, self.head = count, head
            changes.keep()
        return results

    def _seal(self, event: Event, seq: int, prev: str) -> tuple[bytes, str]:
        nanoseconds = self._now_ns()
        second, rest = divmod(nanoseconds, 1_000_000_000)
        if second != self._second:
            self._second = second
            self._second_text = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        record = self._formatter.line(
            event,
            instance=self.instance,
            seq=seq,
            time=self._timed(f"{self._second_text}.{rest // 1_000_000:03d}Z"),
            mono_ns=time.monotonic_ns(),
            boot=self._boot,
            prev=prev,
        )
        return chain.seal(self._prefix, prev, record)

    def _timed(self, time: str) -> str:
        """`time`, noted: a clock that steps back widens the span."""
        if not self.earliest or time < self.earliest:
            self.earliest = time
        self.latest = max(self.latest, time)
        return time

    def _put(self, data: bytes) -> None:
        view, done = memoryview(data), 0
        try:
            while done < len(data):
                done += os.write(self._descriptor, view[done:])
        except OSError as error:
            if done:
                os.ftruncate(self._descriptor, self._size)
            if error.errno in _FULL:
                raise _NoRoomError from error
            raise
        self._size += len(data)
        self._dirty = True

    def _fail(self, error: OSError, refused: int) -> list[Result]:
        self.failed = f"the audit's segment is closed for good after a failed write: {error.strerror}"
        return [Refused("failed", self.failed)] * refused

    def _rotate_if_due(self) -> None:
        age = time.monotonic() - self._opened
        if self._size == 0:
            return
        if self._size < self._limits.segment_bytes and age < self._limits.segment_seconds:
            return
        self._rotate()

    def _rotate(self) -> None:
        """Sync and seal the old file, and carry the head into the first line of the new one.

        Only for the new file there may be no room: what a failed sync has lost, nobody knows.
        """
        self._sync(self._descriptor)
        previous, old, old_size = segment_name(self._number), self._descriptor, self._size
        unfinished = self.tally.unfinished()
        span = self.earliest, self.latest
        try:
            self._descriptor, self._size, self._opened = self._create(self._number + 1)
        except OSError as error:
            if error.errno in _PASSING:
                return  # this one goes on until there is room for another
            if error.errno in _FULL:
                raise _NoRoomError from error
            raise
        event = SegmentRotated(
            previous_segment=previous,
            previous_count=self.count,
            unfinished=unfinished[:4096],
            unfinished_count=len(unfinished),
            earliest=self.earliest,
            latest=self.latest,
        )
        self.earliest = self.latest = ""
        try:
            self._group([event], ["journal"], full=False)
        except _NoRoomError:
            (self._folder / segment_name(self._number + 1)).unlink()
            os.close(self._descriptor)
            self._descriptor, self._size = old, old_size
            self.earliest, self.latest = span
            raise
        self._number += 1
        os.fchmod(old, 0o440)
        os.close(old)

    def _create(self, number: int) -> tuple[int, int, float]:
        path = self._folder / segment_name(number)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(path, flags, 0o640)
        try:
            writes.sync_folder(self._folder)
        except OSError:
            os.close(descriptor)
            path.unlink()
            raise
        return descriptor, 0, time.monotonic()

    def close(self) -> None:
        """Sync and close; the file becomes read-only."""
        if self.sync():
            os.fchmod(self._descriptor, 0o440)
        os.close(self._descriptor)


class Reserve:
    """A preallocated file whose blocks are given up when the disk is full, and taken again later."""

    def __init__(self, path: Path, size: int) -> None:
        self._size = size
        # It is cut: what else stands there, or bears another name, isn't.
        self._descriptor = writes.open_lock(path)
        self._tried = 0
        self.held = False
        self.take_again()

    def give_up(self) -> None:
        """Free the blocks of the reserve, so that the last events can be written."""
        os.ftruncate(self._descriptor, 0)
        self.held = False
        self._tried = time.monotonic_ns()

    def take_again(self) -> None:
        """Allocate it, at most every two seconds; `held` says whether it is there."""
        now = time.monotonic_ns()
        if self._tried and now - self._tried < _RETRY_RESERVE_NS:
            return
        self._tried = now
        try:
            os.posix_fallocate(self._descriptor, 0, self._size)
        except OSError:
            os.ftruncate(self._descriptor, 0)
            self.held = False
        else:
            self.held = True


def boot_id() -> str:
    """The kernel's random id of this boot; zeros where the system has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return "00000000-0000-0000-0000-000000000000"
