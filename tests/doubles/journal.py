"""The journal: a list, and what in it was begun and not ended."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TypeVar

from bridgehold.audit import events
from bridgehold.audit.client import undone
from bridgehold.audit.events import Event, Receipt
from doubles.steps import Steps

E = TypeVar("E", bound=Event)


class DoubleJournal:
    """Events in order. As of the real one, what its caller no longer waits for is written all the same."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self.events: list[Event] = []
        self.gone = asyncio.Event()

    async def append(self, event: Event, *, durable: bool = True) -> Receipt:
        try:
            await self._steps.take(f"journal {type(event).__name__}")
        except asyncio.CancelledError:
            self._write(event, given_up=True)
            raise
        receipt = self._write(event)
        try:
            await self._steps.take(f"journal {type(event).__name__} written")
        except BaseException:
            self._undo(event, receipt)
            raise
        return receipt

    def _write(self, event: Event, *, given_up: bool = False) -> Receipt:
        self.events.append(event)
        number = len(self.events)
        receipt = Receipt(ref=f"double.{number}", seq=number, hash="")
        if given_up:
            self._undo(event, receipt)
        return receipt

    def _undo(self, event: Event, receipt: Receipt) -> None:
        """What an intent announced that nobody waits for is not begun: the client says so itself."""
        if isinstance(event, events.CommandIntent):
            self.events.append(undone(event, receipt.ref))

    def of(self, kind: type[E]) -> Iterator[E]:
        return (event for event in self.events if isinstance(event, kind))

    def open_sessions(self) -> set[str]:
        """Opened and not closed; a session that was closed twice, or never opened, is a fault of its own."""
        return _open(
            [one.session for one in self.of(events.SessionOpened)],
            [one.session for one in self.of(events.SessionClosed)],
        )

    def open_workers(self) -> set[str]:
        """Started and not exited, zygotes too."""
        return _open(
            [one.worker for one in self.of(events.WorkerStarted)],
            [one.worker for one in self.of(events.WorkerExited)],
        )

    def open_commands(self) -> set[str]:
        """With an intent and no outcome."""
        return _open(
            [one.command for one in self.of(events.CommandIntent)],
            [one.command for one in self.of(events.CommandOutcome)],
        )

    def open_zygotes(self) -> set[str]:
        ended = {one.zygote for one in self.of(events.ZygoteEnded)}
        return {one.zygote for one in self.of(events.ZygoteStarted)} - ended


def _open(begun: list[str], ended: list[str]) -> set[str]:
    assert len(begun) == len(set(begun)), f"begun twice: {begun}"
    assert len(ended) == len(set(ended)), f"ended twice: {ended}"
    return set(begun) - set(ended)
