"""The one recorder of sessions' ends: what began does not stay open in the audit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from bridgehold.audit.events import Event, Receipt, kind_of
from bridgehold.errors import BridgeholdError, BudgetError


class Journal(Protocol):
    """What is needed of it."""

    async def append(self, event: Event, *, durable: bool = True) -> Receipt:
        """Write it. Raises `AuditError` or `BudgetError`."""


class Closings:
    """Writes ends. One that can't be written stops the host, unless only its tenant's share is used up."""

    def __init__(self, journal: Journal, on_degraded: Callable[[str], None]) -> None:
        self._journal = journal
        self._on_degraded = on_degraded

    async def write(self, event: Event, *, durable: bool = True) -> str:
        """Its reference; empty where it could not be written. Never raises: ends go on whatever is wrong."""
        try:
            return (await self._journal.append(event, durable=durable)).ref
        except BudgetError:  # its tenant's matter alone
            return ""
        except Exception as error:  # noqa: BLE001 - a defect here must not keep a worker or a place
            reason = error.message if isinstance(error, BridgeholdError) else type(error).__name__
            self._on_degraded(f"{kind_of(event)} could not be written: {reason}")
            return ""
