"""How a cell begins: its channels, its namespace, what it is told; all of it is undone where one fails."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Coroutine

import msgspec

from bridgehold import clock
from bridgehold.audit.client import JournalClient
from bridgehold.audit.events import CellStarted
from bridgehold.errors import BridgeholdError
from bridgehold.host.front.allowances import Allowances
from bridgehold.host.front.cell import Cell, facts_of
from bridgehold.host.front.ends import Ends
from bridgehold.host.front.opens import House, Opens
from bridgehold.host.shares import cell_wire
from bridgehold.host.shares.link import Link
from bridgehold.host.shares.memory import in_memory
from bridgehold.host.template import Template
from bridgehold.intake import hand_in
from bridgehold.sandbox.launcher.control import LauncherClient


class Intakes(msgspec.Struct, frozen=True, kw_only=True):
    """Where a cell's channels are handed in."""

    launcher: LauncherClient
    keeper: socket.socket
    journal: socket.socket


class CellStarts:
    """Of every cell of a host."""

    def __init__(
        self,
        template: Template,
        intakes: Intakes,
        house: House,
        allowances: Allowances,
        journal: JournalClient,
        ends: Ends,
        spawn: Callable[[Coroutine[None, None, None]], None],
    ) -> None:
        """`spawn`: have something done that nobody waits for."""
        self._template = template
        self._intakes = intakes
        self._house = house
        self._allowances = allowances
        self._journal = journal
        self._ends = ends
        self._spawn = spawn

    async def begin(self, cell: Cell, link: Link, config: cell_wire.CellConfig) -> None:
        """`link`: over which the cell asks. Raises `HostUnavailableError`, `UsageError`."""
        tenant, layout = cell.tenant, self._house.layout
        seen = (layout.policies, layout.bridges, layout.artifacts / tenant)
        cell.folders = {path: facts_of(path) for path in seen}
        host_end, theirs = socket.socketpair()
        launcher, launcher_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        keeper, keeper_end = socket.socketpair()
        journal, journal_end = socket.socketpair()
        entrance, entrance_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        entrance.setblocking(False)
        opens, opens_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with contextlib.ExitStack() as undo:
            kept = (theirs, launcher, keeper, journal, entrance_end, opens_end)
            for end in (*kept, host_end, launcher_end, keeper_end, journal_end, entrance, opens):
                undo.callback(end.close)
            uid, namespace = await self._intakes.launcher.open_cell(cell.name, tenant, launcher_end)
            undo.callback(self._spawn_close, cell)
            given = contextlib.ExitStack()
            undo.push(given)
            if namespace >= 0:
                given.callback(os.close, namespace)
            await self._allowances.begin(tenant, config.spent)
            await hand_in(self._intakes.keeper, tenant, keeper_end)
            await hand_in(self._intakes.journal, tenant, journal_end)
            ended, told = self._ends.of(tenant), clock.ONE.told()
            config = msgspec.structs.replace(config, uid=uid, ended=ended, time=told)
            ends = [in_memory(msgspec.json.encode(config)), *(end.detach() for end in kept)]
            ends += [namespace] if namespace >= 0 else []
            given.pop_all()
            cell.entrance = entrance
            cell.opens = Opens(
                self._house,
                opens,
                tenant=tenant,
                cell=cell.name,
                bridges=lambda: cell.asked,
                broken=cell.kill,
            )
            undo.callback(cell.opens.close)
            cell.watch(await self._template.fork(ends))
            undo.callback(cell.let_go)
            undo.callback(cell.kill)
            cell.link = link
            await link.connect(host_end)
            ms = round((time.monotonic() - cell.begun) * 1000)
            started = CellStarted(tenant=tenant, cell=cell.name, pid=cell.pid, uid=uid, ms=ms)
            await self._journal.append(started, durable=False)
            undo.pop_all()

    def _spawn_close(self, cell: Cell) -> None:
        self._spawn(self.close_channel(cell))

    async def close_channel(self, cell: Cell) -> None:
        """What is left of it dies with its cgroup, whoever holds its end."""
        with contextlib.suppress(BridgeholdError):
            await self._intakes.launcher.close_cell(cell.name)
