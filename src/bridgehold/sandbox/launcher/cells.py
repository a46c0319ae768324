"""The channels of cells: whose each is, what it may start, and where its process is."""

from __future__ import annotations

import contextlib
import os
import signal
import socket

from bridgehold.errors import NotFoundError, UnsupportedError, UsageError
from bridgehold.sandbox import procfs
from bridgehold.sandbox.launcher import requests
from bridgehold.sandbox.launcher.channel import Channel
from bridgehold.sandbox.launcher.worker import Parts
from bridgehold.sandbox.values import Resources

_RESOURCES = Resources(memory_bytes=1 << 30, cpu_millis=2_000, processes=128, open_files=0, file_size_bytes=0)
"""Of a cell's own process, within its tenant's share."""


OfCells = requests.OpenRequest | requests.AllowRequest | requests.EnterRequest | requests.CloseRequest


class Cells:
    """All of a launcher's, by name."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._cells: dict[str, Channel] = {}
        self._leaving: list[tuple[int, int]] = []
        """Processes (pidfds) that have been killed, and the uid that each has until it is gone."""

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
                cell.allow(request.bridge, request.digests, request.share)
            case requests.EnterRequest():
                self._enter(channel)
            case requests.CloseRequest():
                return self._cells.get(request.cell)
        return None

    def forget(self, channel: Channel) -> None:
        """Its peer is gone, or broke its rules: whatever is left of the cell ends with it."""
        self._cells = {name: one for name, one in self._cells.items() if one is not channel}
        if channel.leaf is not None:
            channel.leaf.lift()
            channel.leaf.kill()
            channel.leaf.remove()  # what stays busy for a moment is the parent's to tidy
        if channel.process >= 0:
            with contextlib.suppress(OSError):  # the host kills it as well
                signal.pidfd_send_signal(channel.process, signal.SIGKILL)
            self._leaving.append((channel.process, channel.uid))
        else:
            self._give_back(channel.uid)
        self._look()

    def close(self) -> None:
        """Of what is left: descriptors."""
        for process, _ in self._leaving:
            os.close(process)
        self._leaving.clear()

    def _look(self) -> None:
        """A uid is free once nothing has it any more: a cell forks nothing, so that it is one process."""
        for one in [one for one in self._leaving if procfs.ended(one[0])]:
            self._leaving.remove(one)
            os.close(one[0])
            self._give_back(one[1])

    def _give_back(self, uid: int) -> None:
        if self._parts.cells is not None and uid >= 0:
            self._parts.cells.pool.give_back(uid)

    def open(self, channel: Channel, request: requests.OpenRequest) -> tuple[int, list[int]]:
        """A channel for a cell. Its uid, and a descriptor of the namespace in which it has that.

        Raises `UsageError`, `BusyError`."""
        sock = socket.socket(fileno=channel.take_descriptor())
        if not request.tenant or request.cell in self._cells or sock.type != socket.SOCK_SEQPACKET:
            sock.close()
            raise UsageError("a cell's channel has a tenant, a name of its own, and a socket of datagrams")
        self._look()
        uid, namespace = -1, list[int]()
        try:
            if (own := self._parts.cells) is not None:
                uid, namespace = own.pool.take(), [os.dup(own.namespace)]
        except BaseException:
            self._give_back(uid)
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
        leaf = self._parts.parent.create(name, _RESOURCES, tenant=channel.tenant, share=channel.share)
        channel.leaf = leaf
        try:
            leaf.take(channel.sender)
        except OSError as error:
            raise UnsupportedError(f"a cell can't enter its cgroup: {error}", where=name) from error
