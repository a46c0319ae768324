"""``audit.query``: operators ask the audit, and others what it has of their own tenants.

Read-only, and bounded: a process of its own answers, one at a time, and each question is an event that is on
the disk before its answer leaves.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections import Counter

import msgspec

from bridgehold.audit.client import JournalClient
from bridgehold.audit.events import AuditQueried
from bridgehold.audit.reading.asked import NARROW, Answer, FoundEvents, Inquiry, Scope
from bridgehold.audit.reading.language import parse, without_texts
from bridgehold.config.layout import Layout
from bridgehold.errors import (
    AuditError,
    BridgeholdError,
    BusyError,
    CancelledError,
    DeniedError,
    UsageError,
    from_info,
)
from bridgehold.host.front.method import Method
from bridgehold.host.front.outgoing import Emit
from bridgehold.protocol.audits import AuditQueryParams
from bridgehold.protocol.values import Principal

_MOST_BYTES = 1 << 20
_MOST_OUTPUT = 8 << 20
_MOST_ASKED = 2
"""Questions that wait or are answered: of one tenant's principals together, of one that has several alone."""
_SECONDS = 300.0
"""For the first question too, which builds the index."""
_KEPT = ("PATH", "PYTHONPATH", "LANG", "LC_ALL", "TZ")


class AuditQuestions:
    """The handler. One per host."""

    def __init__(self, layout: Layout, journal: JournalClient) -> None:
        self._layout = layout
        self._journal = journal
        self._asking: Counter[tuple[str, str]] = Counter()
        self._free = asyncio.Lock()

    def table(self) -> dict[str, Method]:
        """The methods by name."""
        return {"audit.query": Method(AuditQueryParams, self.query, reads=True, gives=_MOST_BYTES)}

    async def query(self, principal: Principal, params: AuditQueryParams, _emit: Emit) -> FoundEvents:
        """Events that fit. Raises `UsageError` for the question, and `DeniedError` for who reads no logs.

        Who may not read what guests print may not search it either.
        """
        if not principal.may_read:
            raise DeniedError(
                f"{principal.name} may not read what guests print, and the audit quotes it",
                hint="An operator gives a principal or a token `logs`.",
            )
        if params.before and params.after:
            raise UsageError("either older or younger ones", where="before, after")
        parse(params.question)
        counted = (principal.account, "" if principal.account else principal.name)
        if self._asking[counted] >= _MOST_ASKED:
            who = f"tenant {principal.account}" if principal.account else principal.name
            raise BusyError(f"{who} has {_MOST_ASKED} questions to the audit under way")
        self._asking[counted] += 1
        try:
            return await self._told(principal, params)
        finally:
            self._asking[counted] -= 1
            if not self._asking[counted]:
                del self._asking[counted]

    async def _told(self, principal: Principal, params: AuditQueryParams) -> FoundEvents:
        count, code = 0, "internal"
        try:
            async with self._free:
                found = await self._found(principal, params)
            count, code = len(found.events), ""
        except BridgeholdError as error:
            code = error.code
            raise
        except asyncio.CancelledError:  # who asked is gone, and had it worked on all the same
            code = CancelledError.code
            raise
        finally:
            await self._journal.append(
                AuditQueried(
                    tenant=principal.account,
                    principal=principal.name,
                    question=without_texts(params.question)[:1_000],
                    count=count,
                    code=code,
                )
            )
        return found

    async def _found(self, principal: Principal, params: AuditQueryParams) -> FoundEvents:
        scope = Scope(tenants=tuple(principal.tenants), bridges=principal.bridges)
        asked = Inquiry(
            audit=str(self._layout.audit),
            cache=str(self._layout.audit_index),
            question=params.question,
            limit=params.limit,
            most_bytes=_MOST_BYTES // 2,
            before=params.before,
            after=params.after,
            scope=None if principal.operator else scope,
        )
        answer = msgspec.json.decode(await _by_a_process(msgspec.json.encode(asked)), type=Answer)
        if answer.found is None:
            assert answer.error is not None  # noqa: S101 - one of the two
            raise from_info(answer.error)
        return answer.found


async def _by_a_process(asked: bytes) -> bytes:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "bridgehold.audit.reading.asked"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={name: os.environ[name] for name in _KEPT if name in os.environ},
        limit=_MOST_OUTPUT,
    )
    try:
        async with asyncio.timeout(_SECONDS):
            told, _ = await process.communicate(asked)
    except TimeoutError:
        told = b""
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    if process.returncode is not None and process.returncode < 0:
        raise UsageError("the question takes too long", where="question", hint=NARROW)
    if process.returncode or not told:
        raise AuditError("the audit could not be asked", hint="The host's log says why.", retry="later")
    return told
