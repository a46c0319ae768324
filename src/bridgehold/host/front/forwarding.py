"""The socket's methods that cells answer: for whom each is, and what comes of several cells' answers."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from typing import Any, Literal, TypeVar

import msgspec

from bridgehold.errors import (
    BridgeholdError,
    DeniedError,
    InternalError,
    ManifestError,
    NotFoundError,
    SessionEndedError,
)
from bridgehold.host.front.callers import SMALL
from bridgehold.host.front.cell import Cell
from bridgehold.host.front.cells import Cells
from bridgehold.host.front.method import Forwarded, Handler, Method, OfTenant, Scope
from bridgehold.host.front.outgoing import Emit
from bridgehold.host.shares.callers import CALLER
from bridgehold.host.shares.link import decoded
from bridgehold.host.shares.observe import figures_of, merged, sound
from bridgehold.host.shares.refusals import Refusals, command_refused, no_tenant
from bridgehold.host.shares.session_ends import no_session
from bridgehold.ids import LOCAL_TENANT, is_name, new_command_id, parse_command
from bridgehold.policies.model import Decision
from bridgehold.protocol.bodies import BEGIN
from bridgehold.protocol.frames import DrainParams, NoParams, ResumeParams, SessionsParams
from bridgehold.protocol.values import Principal, SessionInfo

_GATHER_SECONDS = 5.0
"""For what is asked of all cells; one that doesn't answer by then is left out, and named."""

_LARGEST = 1024 * 1024
"""Bytes of one cell's answer to what is asked of all."""
_LONGEST_COMMAND = 128
_NO_PARAMS = msgspec.Raw(b"{}")
T = TypeVar("T")
Whose = Literal["tenant", "session", "caller"]


class _Forward(msgspec.Struct, frozen=True, kw_only=True):
    whose: Whose = "tenant"
    gives: int = SMALL
    reads: bool = False


FORWARDED: dict[str, _Forward] = {
    "run": _Forward(),
    "session.open": _Forward(),
    "session.hold": _Forward(),
    "foreign.open": _Forward(),
    "artifact.put": _Forward(),
    "artifact.drop": _Forward(),
    "artifact.get": _Forward(gives=32 << 20, reads=True),
    "artifact.list": _Forward(reads=True),
    "artifact.remove": _Forward(),
    "resource.create": _Forward(),
    "resource.configure": _Forward(),
    "resource.execute": _Forward(),
    "resource.delete": _Forward(),
    "resource.list": _Forward(reads=True),
    "describe": _Forward(reads=True),
    "session.extend": _Forward(whose="session"),
    "session.close": _Forward(whose="session"),
    "session.kill": _Forward(whose="session"),
    "session.profile": _Forward(whose="session"),
    "session.find": _Forward(whose="session", reads=True),
    "logs": _Forward(whose="session", gives=1 << 20, reads=True),
    "tool.reply": _Forward(whose="caller"),
    "foreign.send": _Forward(whose="caller"),
    "foreign.wire": _Forward(whose="caller"),
    "foreign.eof": _Forward(whose="caller"),
}
"""By name; what all of them are asked is `Forwarding`'s own."""


def begins_cell(principal: Principal, method: str) -> bool:
    """Whether `method` is a cell's to answer, and `principal` may ask it (pure)."""
    kind = _Forward() if method == BEGIN else FORWARDED.get(method)
    return kind is not None and (kind.reads or not principal.read_only)


class Forwarding:
    """Handlers; each takes (principal, params, emit)."""

    def __init__(self, cells: Cells, manifest: Callable[[str, str], object], refusals: Refusals) -> None:
        """`manifest`: raises `NotFoundError` where (bridge, tenant) has none."""
        self._cells = cells
        self._manifest = manifest
        self._refusals = refusals
        self._callers: dict[object, int] = {}
        self._numbers = itertools.count(1)

    def table(self) -> dict[str, Method]:
        """The methods by name."""
        found = {name: self._method(name, kind) for name, kind in FORWARDED.items()}
        return found | {
            "ping": Method(NoParams, self.ping, reads=True),
            "sessions": Method(SessionsParams, self.list_sessions, reads=True),
            "zygotes": Method(NoParams, self.list_zygotes, reads=True),
            "metrics": Method(NoParams, self.metrics, operator=True),
            "figures": Method(NoParams, self.figures, operator=True),
            "drain": Method(DrainParams, self.drain, operator=True, decides=True),
            "resume": Method(ResumeParams, self.resume, operator=True, decides=True),
        }

    def left(self, caller: object) -> None:
        """A connection is gone."""
        if (number := self._callers.pop(caller, None)) is not None:
            self._cells.left(number)

    def _method(self, name: str, kind: _Forward) -> Method:
        ways: dict[Whose, Callable[..., Any]] = {
            "tenant": self._to_tenant,
            "session": self._to_session,
            "caller": self._to_caller,
        }
        handler: Handler = partial(ways[kind.whose], name)
        scope = OfTenant if kind.whose == "tenant" else Scope
        return Method(scope, handler, gives=kind.gives, reads=kind.reads)

    async def _to_tenant(self, name: str, principal: Principal, asked: Forwarded, emit: Emit) -> object:
        tenant = (
            LOCAL_TENANT if asked.tenant is None else asked.tenant
        )  # an empty one is no name, to cells too
        cell = self._cells.now(tenant)
        if cell is None:
            await self._demand_bridge(name, principal, tenant, asked)
            cell = await self._cells.of(tenant)
        return await self._call(cell, principal, name, asked.raw, emit)

    async def _demand_bridge(self, name: str, principal: Principal, tenant: str, asked: Forwarded) -> None:
        """No cell begins for what no bridge of the tenant's answers, or for who is none: refused as a cell
        does. Raises so."""
        operation = asked.operation[:_LONGEST_COMMAND]
        bridge = operation.partition(":")[0] if name == "run" else asked.bridge
        if name == "run" and not is_name(tenant):
            parse_command(asked.operation)
            raise await self._refuse(principal, principal.account, operation, no_tenant(principal, tenant))
        if bridge in ("", "common") or principal.bridges or principal.operations:  # a cell knows the order
            return
        try:
            self._manifest(bridge, tenant)
        except ManifestError:  # a cell says what is wrong with it
            return
        except NotFoundError:
            if name != "run":
                raise
            decision = Decision(
                allowed=False, rule="default-deny", reason=f"{operation} is not granted", source=""
            )
            raise await self._refuse(principal, tenant, operation, decision) from None

    async def _refuse(
        self, principal: Principal, tenant: str, operation: str, decision: Decision
    ) -> BridgeholdError:
        event = command_refused(
            tenant=tenant,
            principal=principal.name,
            command=new_command_id(),
            bridge=operation.partition(":")[0],
            operation=operation,
            rule=decision.rule,
            reason=decision.reason,
            source=decision.source,
        )
        return await self._refusals.command(event, DeniedError)

    async def _to_session(self, name: str, principal: Principal, asked: Forwarded, emit: Emit) -> object:
        """The cell of the tenant that has it, as it said when the session opened."""
        owner = self._cells.directory.owner(asked.session, principal.may_act_for)
        cells = self._cells.living(lambda tenant: tenant == owner)
        if not cells and (ended := self._cells.ends.find(owner, asked.session)) is not None:
            if name != "logs":
                raise ended.error
            cells = [await self._cells.of(owner)]  # which is given what the one before it has left
        return await self._first(cells, name, principal, asked, emit)

    async def _to_caller(self, name: str, principal: Principal, asked: Forwarded, emit: Emit) -> object:
        """The cell of the tenant that it names; of none: where this connection has a request under way."""
        number = self._caller()
        cells = [
            cell
            for cell in self._cells.living(principal.may_act_for)
            if (cell.tenant == asked.tenant if asked.tenant else number in cell.calls)
        ]
        return await self._first(cells, name, principal, asked, emit)

    async def _first(
        self, cells: Sequence[Cell], name: str, principal: Principal, asked: Forwarded, emit: Emit
    ) -> object:
        missing = no_session(asked.session)
        for cell in cells:
            try:
                return await self._call(cell, principal, name, asked.raw, emit)
            except SessionEndedError:
                raise
            except NotFoundError as error:
                missing = error
        raise missing

    async def _call(
        self, cell: Cell, principal: Principal, name: str, params: msgspec.Raw, emit: Emit
    ) -> msgspec.Raw:
        return await self._cells.call(cell, principal, name, params, self._caller(), emit)

    def _caller(self) -> int:
        connection = CALLER.get()
        number = self._callers.get(connection)
        if number is None:
            number = self._callers[connection] = next(self._numbers)
        return number

    async def ping(self, _principal: Principal, _params: NoParams, _emit: Emit) -> object:
        """That the host answers, with its version, how many sessions it has, and that it takes parts."""
        return {
            "status": "ok",
            "sessions": len(self._cells.places),
            "version": version("bridgehold"),
            "parts": True,
        }

    async def list_sessions(self, principal: Principal, params: SessionsParams, emit: Emit) -> object:
        """The sessions that the caller may see."""
        cells = [
            one for one in self._cells.living(principal.may_act_for) if params.tenant in (None, one.tenant)
        ]
        raw = msgspec.Raw(msgspec.json.encode(params))
        found = await self._gather(cells, principal, "sessions", raw, emit, list[SessionInfo])
        return [one for _, each in found for one in each]

    async def list_zygotes(self, principal: Principal, _params: NoParams, emit: Emit) -> object:
        """Of what the caller may act for and use: zygotes, and how many sandboxes their pools hold."""
        cells = self._cells.living(principal.may_act_for)
        kind = dict[str, list[dict[str, object]]]
        found = await self._gather(cells, principal, "zygotes", _NO_PARAMS, emit, kind)
        return {
            kind: [one for _, table in found for one in table.get(kind, ())] for kind in ("zygotes", "parked")
        }

    async def metrics(self, _principal: Principal, _params: NoParams, _emit: Emit) -> object:
        """All cells' metrics together, in Prometheus' text format."""
        return {"text": await self._text()}

    async def figures(self, _principal: Principal, _params: NoParams, _emit: Emit) -> object:
        """Figures by bridge and operation, as `bridgehold top` shows them."""
        return figures_of(await self._text())

    async def _text(self) -> str:
        """Of a cell that doesn't answer, what it said last."""

        async def one(cell: Cell) -> None:
            with contextlib.suppress(TimeoutError, BridgeholdError):
                async with asyncio.timeout(_GATHER_SECONDS):
                    cell.metrics = sound(decoded(await cell.ask("metrics", None), str))

        cells = self._cells.living()
        await asyncio.gather(*map(one, cells))
        return merged([self._cells.past, *(cell.metrics for cell in cells)])

    async def drain(self, principal: Principal, params: DrainParams, emit: Emit) -> object:
        """As a cell does, of all that are meant; none of them opens a new session after a cordon."""
        if params.cordon:
            self._cells.cordons.add(params.tenant, params.bridge)
        cells = [one for one in self._cells.living() if params.tenant in ("", one.tenant)]
        raw = msgspec.Raw(msgspec.json.encode(msgspec.structs.replace(params, cordon=False)))
        kind = dict[str, list[str]]
        found = await self._gather(cells, principal, "drain", raw, emit, kind, params.seconds)
        return {"ended": [one for _, each in found for one in each.get("ended", ())]}

    async def resume(self, _principal: Principal, params: ResumeParams, _emit: Emit) -> object:
        """Sessions are opened again where a drain had closed the way."""
        return {"resumed": self._cells.cordons.take_back(params.tenant, params.bridge)}

    async def _gather(
        self,
        cells: Sequence[Cell],
        principal: Principal,
        name: str,
        params: msgspec.Raw,
        emit: Emit,
        kind: type[T],
        seconds: float = 0.0,
    ) -> list[tuple[str, T]]:
        """Their answers, with whose each is; who gives none in time, or no such one, the caller is told."""

        async def one(cell: Cell) -> T | None:
            with contextlib.suppress(TimeoutError, BridgeholdError):
                async with asyncio.timeout(seconds + _GATHER_SECONDS):
                    raw = await self._cells.call(cell, principal, name, params, self._caller(), _nobody)
                    return await asyncio.to_thread(_own, cell.tenant, raw, kind)
            return None

        answers = await asyncio.gather(*map(one, cells))
        silent = [cell.tenant for cell, answer in zip(cells, answers, strict=True) if answer is None]
        if silent:
            emit({"type": "silent", "tenants": silent})
            sys.stderr.write(f"bridgehold: no answer to {name} from the cells of {', '.join(silent)}\n")
        pairs = zip(cells, answers, strict=True)
        return [(cell.tenant, answer) for cell, answer in pairs if answer is not None]


class _Nobody:
    """Hears nothing: what is asked of all has no events."""

    def __call__(self, _event: object, /) -> None:
        return None

    def full(self, _most: int = 0) -> bool:
        return False


_nobody = _Nobody()


def _own(tenant: str, raw: msgspec.Raw, kind: type[T]) -> T:
    """A cell's answer, if it is of that kind, no larger than such a one may be, and speaks of its own tenant.

    Raises `InternalError`.
    """
    if len(memoryview(raw)) > _LARGEST:
        raise InternalError("a cell's answer is too large")
    found: T = decoded(raw, kind)
    items = found if isinstance(found, list) else [one for each in _tables(found) for one in each]
    for item in items:
        said = item.get("tenant", tenant) if isinstance(item, dict) else getattr(item, "tenant", tenant)
        if said != tenant:
            raise InternalError("a cell's answer speaks of another tenant")
    return found


def _tables(found: object) -> list[list[object]]:
    return list(found.values()) if isinstance(found, dict) else []
