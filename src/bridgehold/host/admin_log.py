"""What operators change, in the audit: durably before it begins, by whom and on what, and when it has ended.

Neither event holds a token or a value of a key. Whoever asked may go away: what has begun is finished.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

import msgspec

from bridgehold.audit.client import JournalClient
from bridgehold.audit.events import AdminIntent, AdminOutcome
from bridgehold.errors import BridgeholdError
from bridgehold.host.cell.workers.calls import unbroken
from bridgehold.ids import digest_bytes
from bridgehold.protocol.tenants import Revoked
from bridgehold.protocol.values import Principal

T = TypeVar("T")
_LONGEST, _ITEM, _MOST_ITEMS = 300, 60, 100


class AdminLog:
    """One per host."""

    def __init__(self, journal: JournalClient) -> None:
        self._journal = journal

    async def audited(
        self,
        principal: Principal,
        action: str,
        subject: str,
        details: Mapping[str, object],
        act: Callable[[], Awaitable[T]],
        *,
        tenant: str = "",
    ) -> T:
        """`act`, between a durable intent and its outcome. `tenant`: whose matter it is, where it has one."""
        intent = AdminIntent(
            tenant=tenant, principal=principal.name, action=action, subject=subject, details=_texts(details)
        )
        return await unbroken(self._recorded(intent, act))

    async def _recorded(self, intended: AdminIntent, act: Callable[[], Awaitable[T]]) -> T:
        intent = await self._journal.append(intended)
        begun = time.monotonic()
        code = reason = ""
        parts: dict[str, int] = {}
        try:
            done = await act()
            if isinstance(done, Revoked):
                parts = {name: part.ms for name, part in done.parts.items()}
            return done
        except BridgeholdError as error:
            code, reason = error.code, error.message[:500]
            raise
        except BaseException:
            code = "internal"
            raise
        finally:
            await self._journal.append(
                AdminOutcome(
                    tenant=intended.tenant,
                    principal=intended.principal,
                    intent=intent.ref,
                    action=intended.action,
                    subject=intended.subject,
                    ok=not code,
                    code=code,
                    reason=reason,
                    ms=round((time.monotonic() - begun) * 1000),
                    parts_ms=parts,
                )
            )


def _texts(details: Mapping[str, object]) -> dict[str, str]:
    """For the audit: short, and nothing nested."""
    shown = {
        key: _list(list(map(str, value))) if isinstance(value, list | tuple) else str(value)[:_LONGEST]
        for key, value in details.items()
        if value not in ("", (), [])
    }
    return {key[:80]: value for key, value in list(shown.items())[:32]}


def _list(items: list[str]) -> str:
    """All of it; where it is too long for that, its length and digest and the start of each of the first."""
    joined = ", ".join(items)
    if len(joined) <= _LONGEST:
        return joined
    started = ", ".join(one if len(one) <= _ITEM else f"{one[: _ITEM - 1]}…" for one in items[:_MOST_ITEMS])
    digest = digest_bytes(msgspec.json.encode(items))
    return f"{len(items)} in all, {digest} as JSON: {started}{', …' if len(items) > _MOST_ITEMS else ''}"
