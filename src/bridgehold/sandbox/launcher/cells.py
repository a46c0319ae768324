"""The channels of cells: whose each is, what it may start, and where its process is."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import socket

from bridgehold.errors import NotFoundError, UnsupportedError, UsageError
from bridgehold.sandbox import procfs
from bridgehold.sandbox.launcher import requests
from bridgehold.sandbox.launcher.channel import Channel
from bridgehold.sandbox.launcher.worker import Parts
from bridgehold.sandbox.limits.shortage import FAULTS
from bridgehold.sandbox.values import Resources

_RESOURCES = Resources(memory_bytes=1 << 30, cpu_millis=2_000, processes=128, open_files=0, file_size_bytes=0)
"""Of a cell's own process, within its tenant's share."""
_WEIGHT = 16
"""Times a session's: of its tenant's part, what answers callers comes before what they have asked for."""
_QUICK_LOOKS, _QUICK_SECONDS, _SLOW_SECONDS = 50, 0.005, 0.2

OfCells = (
    requests.OpenRequest
    | requests.AllowRequest
    | requests.AdoptRequest
    | requests.EnterRequest
    | requests.CloseRequest
)


class Cells:
    """All of a launcher's, by name."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._cells: dict[str, Channel] = {}
        self._leaving: dict[Channel, int] = {}
        """Of cells that have ended: how often it was looked what is left."""

    def channels(self) -> list[Channel]:
        """Those that are open."""
        return list(self._cells.values())

    def handle(self, channel: Channel, request: OfCells) -> Channel | None:
        """What `channel` asks. Raises typed refusals. A channel that is to end, if there is one."""
        match request:
            case requests.AllowRequest():
                cell = self._cells.get(request.cell)
                if cell is None:
                    raise NotFoundError(f"no cell {request.cell[:40]}")
                cell.allow(request.bridge, request.ways, request.share)
            case requests.AdoptRequest():
                cell = self._cells.get(request.cell)
                if cell is None:
                    raise NotFoundError(f"no cell {request.cell[:40]}")
                if cell.leaf is not None:
                    cell.leaf.take(request.pid)
            case requests.EnterRequest():
                self._enter(channel)
            case requests.CloseRequest():
                return self._cells.get(request.cell)
        return None

    def forget(self, channel: Channel) -> None:
        """Its peer is gone, or broke its rules: whatever is left of the cell ends with it."""
        self._cells = {name: one for name, one in self._cells.items() if one is not channel}
        self._leaving[channel] = 0
        self.step()

    def step(self) -> None:
        """End what is left of cells that have ended. What can't be done or told now is tried again."""
        for channel in list(self._leaving):
            self._leaving[channel] += 1
            try:
                if not self._ended(channel):
                    continue
            except FAULTS:
                continue
            del self._leaving[channel]
            with contextlib.suppress(
                *FAULTS
            ):  # the tenant's folder goes with its last; the next one tidies again
                self._parts.parent.tidy()
            if self._parts.cells is not None and channel.uid >= 0:
                self._parts.cells.pool.give_back(channel.uid)  # nothing has it any more

    @property
    def patience(self) -> float:
        """Seconds until another look at them."""
        looks = min(self._leaving.values(), default=None)
        if looks is None:
            return math.inf
        return _QUICK_SECONDS if looks < _QUICK_LOOKS else _SLOW_SECONDS

    def close(self) -> None:
        """Let go of what is left."""
        for channel in self._leaving:
            if channel.process >= 0:
                os.close(channel.process)
        self._leaving.clear()

    def _ended(self, channel: Channel) -> bool:
        if channel.process >= 0:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # the host ends it as well
                signal.pidfd_send_signal(channel.process, signal.SIGKILL)
        if (leaf := channel.leaf) is not None:
            leaf.lift()
            leaf.kill()
            if leaf.processes():
                return False
            leaf.remove()  # what stays busy for a moment is the parent's to tidy
            channel.leaf = None
        if channel.process >= 0:
            if not procfs.ended(channel.process):
                return False
            os.close(channel.process)
            channel.process = -1
        return True

    def open(self, channel: Channel, request: requests.OpenRequest) -> tuple[int, list[int]]:
        """A channel for a cell. Its uid, and a descriptor of the namespace in which it has that.

        Raises `UsageError`, `BusyError`."""
        sock = socket.socket(fileno=channel.take_descriptor())
        if not request.tenant or request.cell in self._cells or sock.type != socket.SOCK_SEQPACKET:
            sock.close()
            raise UsageError("a cell's channel has a tenant, a name of its own, and a socket of datagrams")
        uid, namespace = -1, list[int]()
        try:
            if (own := self._parts.cells) is not None:
                namespace.append(os.dup(own.namespace))
                uid = own.pool.take()
        except BaseException:
            for descriptor in namespace:
                os.close(descriptor)
            sock.close()
            raise
        self._cells[request.cell] = cell = Channel(sock, tenant=request.tenant)
        cell.share, cell.uid = request.share, uid
        return uid, namespace

    def _enter(self, channel: Channel) -> None:
        """A cell is its tenant's as its sandboxes are: its memory, its processors, its processes."""
        if channel.process >= 0:
            return
        channel.process = procfs.open_process(channel.sender, lambda: channel.connected)
        if self._parts.parent.version == "none":
            return
        name = next(name for name, one in self._cells.items() if one is channel)
        self._parts.parent.carry_cells()
        leaf = self._parts.parent.create(name, _RESOURCES, tenant=channel.tenant, share=channel.share)
        channel.leaf = leaf
        leaf.weigh(_WEIGHT)
        try:
            leaf.take(channel.sender)
        except OSError as error:
            raise UnsupportedError(f"a cell can't enter its cgroup: {error}", where=name) from error
