"""What the launcher's loop waits for: each descriptor has who is called, and who is told of what that raises.

Nothing that comes of one worker, one channel or one job leaves the loop as an exception: `apart` is the one
way in which the loop calls anybody.
"""

from __future__ import annotations

import contextlib
import functools
import math
import select
import sys
import traceback
from collections.abc import Callable
from typing import NamedTuple

from bridgehold.sandbox.limits.shortage import FAULTS

READ, WRITE = select.EPOLLIN, select.EPOLLOUT
Fails = Callable[[Exception], None]
"""Told of what went wrong: it ends whom that concerns, and nobody else."""


def apart(act: Callable[[], None], fails: Fails) -> None:
    """Run `act`; what it raises, `fails` is told, and what that raises ends nobody."""
    try:
        act()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is one worker's, one channel's or one job's
        try:
            if not isinstance(error, FAULTS):
                _complain(error)
            fails(error)
        except Exception as second:  # noqa: BLE001 - as above
            _complain(second)


def nobodys(_: Exception) -> None:
    """Of what is nobody's: the next turn looks again."""


def _complain(error: Exception) -> None:
    """A fault of the launcher's own, for who runs it: where it was and of what kind; no text of anybody's."""
    last = traceback.extract_tb(error.__traceback__)[-1:]
    where = "".join(f"{one.name}, line {one.lineno}" for one in last)
    with contextlib.suppress(OSError, ValueError):  # nobody may be left to read it
        sys.stderr.write(f"launcher: {type(error).__name__} in {where}; it ends whom it concerns alone\n")


class _Entry(NamedTuple):
    events: int
    ready: Callable[[int, int], None]
    fails: Fails


class Poll:
    """An epoll that keeps to what was asked for last, whatever fails."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._entries: dict[int, _Entry] = {}

    def want(self, descriptor: int, events: int, ready: Callable[[int, int], None], fails: Fails) -> None:
        """Have `ready` called with the descriptor and what it is ready for. Raises `OSError` where the kernel
        has no room for another; what was asked for before holds on then."""
        known = self._entries.get(descriptor)
        if known is None:
            self._epoll.register(descriptor, events)
        elif known.events != events:
            self._epoll.modify(descriptor, events)
        self._entries[descriptor] = _Entry(events, ready, fails)

    def wants(self, descriptor: int, events: int) -> bool:
        """Whether just that is asked for."""
        known = self._entries.get(descriptor)
        return known is not None and known.events == events

    def drop(self, descriptor: int) -> None:
        """No more of it; before it is closed."""
        if self._entries.pop(descriptor, None) is not None:
            self._forget(descriptor)

    def turn(self, seconds: float | None) -> None:
        """Wait, and call whoever's descriptor is ready and wanted still. Raises `OSError` of the wait."""
        patience = None if seconds is None else math.ceil(seconds * 1e3) / 1e3
        self._call(self._epoll.poll(patience, max(1, len(self._entries))))

    def look(self, seconds: float) -> None:
        """As `turn`, of each descriptor by itself: where the kernel's own list can't be waited for."""
        poller = select.poll()
        for descriptor, entry in self._entries.items():
            poller.register(descriptor, entry.events)
        self._call(poller.poll(seconds * 1e3))

    def _call(self, found: list[tuple[int, int]]) -> None:
        for descriptor, events, entry in [
            (number, seen, self._entries.get(number)) for number, seen in found
        ]:
            if entry is None:
                self._forget(descriptor)  # it could not be dropped when it was to be
            elif (
                self._entries.get(descriptor) is entry
            ):  # what another has dropped in this turn is not called
                apart(functools.partial(entry.ready, descriptor, _asked(events) & entry.events), entry.fails)

    def _forget(self, descriptor: int) -> None:
        try:
            self._epoll.unregister(descriptor)
        except OSError:
            return  # it was closed, and with that it is gone


def _asked(events: int) -> int:
    """As reading and writing: an error, or the other side's end, is both (pure)."""
    return events if not events & ~(READ | WRITE) else READ | WRITE
