"""The host's side of the launcher's socket, for asyncio. Descriptors come only this way round."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import msgspec

from bridgehold import handed
from bridgehold.errors import HostUnavailableError, InternalError, NotFoundError, UsageError, from_info
from bridgehold.policies.model import Machine
from bridgehold.sandbox.launcher import requests
from bridgehold.sandbox.limits.shortage import short_of, shortage, typed
from bridgehold.sandbox.values import (
    Attestation,
    ExitReport,
    Launched,
    SandboxSpec,
    SealReport,
    StartNote,
    TenantShare,
    Usage,
)

T = TypeVar("T")
_MAX_DESCRIPTORS = 40
_KEPT_REPORTS = 1024
"""Ends that are remembered, for a `kill` or `exited` that comes late."""


_NOTHING = StartNote()


class LauncherClient:
    """Requests to the launcher, answered in any order. One per host, and one per cell."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._loop = asyncio.get_running_loop()
        self._next_id = 1
        self._sending = asyncio.Lock()  # the loop keeps one writer a socket: a second would oust the first
        self._waiting: dict[int, asyncio.Future[tuple[requests.Answer, list[int]]]] = {}
        self._exits: dict[str, asyncio.Future[ExitReport]] = {}
        self._proofs: dict[str, asyncio.Future[None]] = {}
        """Of workers that were attested: whether the audit has it."""
        self.on_unrecorded: Callable[[str], None] = _ignored
        """An end could not be written to the audit."""
        self._tasks: set[asyncio.Task[None]] = set()  # the loop holds its tasks only weakly
        self.share_of: Callable[[str], TenantShare | None] = _no_share
        """A tenant's share, sent along with each start; None: as it was."""
        self.lost = asyncio.Event()
        """Set once the launcher is gone; every request fails from then on."""
        self._loop.add_reader(sock, self._read)

    @classmethod
    async def connect(cls, sock: socket.socket) -> LauncherClient:
        """A client on the socket that the supervisor gave."""
        return cls(sock)

    async def machine(self) -> Machine:
        """What this machine offers to sandboxes. Raises `HostUnavailableError`."""
        answer, _ = await self._ask(requests.MachineRequest(self._id()))
        return _expect(answer.machine)

    async def launch(self, spec: SandboxSpec, note: StartNote = _NOTHING) -> tuple[Launched, list[int]]:
        """Start a sandbox; its descriptors are the caller's to close. `note`: for its event."""
        share = self.share_of(spec.tenant)
        return await self._started(requests.LaunchRequest(self._id(), spec, share, note))

    async def fork(
        self, zygote: str, spec: SandboxSpec, note: StartNote = _NOTHING
    ) -> tuple[Launched, list[int]]:
        """A worker from an attested zygote; as `launch`. `ZygoteError` where the zygote can't or is gone."""
        share = self.share_of(spec.tenant)
        return await self._started(requests.ForkRequest(self._id(), zygote, spec, share, note))

    async def _started(
        self, request: requests.LaunchRequest | requests.ForkRequest
    ) -> tuple[Launched, list[int]]:
        answer, descriptors = await self._ask(request)
        launched = _expect(answer.launched)
        self._exits.setdefault(launched.worker, self._loop.create_future())
        if len(descriptors) != launched.descriptors:  # the kernel gives what there is room for
            self._disown(answer, descriptors)
            raise short_of(errno.EMFILE, "for a sandbox's pipes")
        return launched, descriptors

    async def attest(self, worker: str) -> Attestation:
        """Proof; `AttestationError` with every difference after the launcher killed it."""
        self._proofs[worker] = self._loop.create_future()
        answer, _ = await self._ask(requests.AttestRequest(self._id(), worker))
        return _expect(answer.attestation)

    async def recorded(self, worker: str) -> None:
        """Once the proof that `attest` gave is in the audit. Raises what kept it from getting there."""
        try:
            await asyncio.shield(self._proofs[worker])
        finally:
            self._proofs.pop(worker, None)

    async def usage(self, worker: str) -> Usage:
        """What a worker has used so far, by the kernel's count. Raises `NotFoundError`."""
        answer, _ = await self._ask(requests.UsageRequest(self._id(), worker))
        return _expect(answer.usage)

    async def account(self, worker: str) -> tuple[Usage, list[int]]:
        """The account so far, and descriptors to read it by (`AccountReader`), the caller's to close."""
        answer, descriptors = await self._ask(requests.AccountRequest(self._id(), worker))
        return _expect(answer.usage), descriptors

    async def current(self, worker: str) -> None:
        """Raises `ReplacedError` where something that it shows was replaced by its owner."""
        await self._ask(requests.CurrentRequest(self._id(), worker))

    async def kill(self, worker: str) -> ExitReport:
        """End it and wait until its cgroup is empty. The same report however often it is asked."""
        known = self._exits.get(worker)
        if known is not None and known.done():
            return known.result()
        try:
            answer, _ = await self._ask(requests.KillRequest(self._id(), worker))
        except NotFoundError:
            if known is None:
                raise
            return await asyncio.shield(known)
        return _expect(answer.exited)

    async def exited(self, worker: str) -> ExitReport:
        """Wait for its end, whoever caused it."""
        return await asyncio.shield(self._exits.setdefault(worker, self._loop.create_future()))

    async def seal(self, path: str) -> SealReport:
        """Make a finished environment unchangeable. Raises `EnvironmentBuildError`."""
        answer, _ = await self._ask(requests.SealRequest(self._id(), path))
        return _expect(answer.sealed)

    async def empty(self, path: str) -> int:
        """Remove everything in a build or environment folder; the folder itself is the host's to remove."""
        answer, _ = await self._ask(requests.SealRequest(self._id(), path, empty=True))
        return _expect(answer.sealed).files

    async def open_cell(self, cell: str, tenant: str, end: socket.socket) -> tuple[int, int]:
        """Have `end` (of a pair of datagram sockets; closed here) be the channel of a cell of `tenant`.

        The uid that is to be the cell's own, and a descriptor of the user namespace in which it has that,
        the caller's to close; -1 each where cells share the host's uid.
        """
        with end:
            answer, descriptors = await self._ask(
                requests.OpenRequest(self._id(), cell, tenant, self.share_of(tenant)), (end.fileno(),)
            )
        return answer.cell_uid, (descriptors or [-1])[0]

    async def close_cell(self, cell: str) -> None:
        """End a cell's channel, and whatever is left of its process."""
        await self._ask(requests.CloseRequest(self._id(), cell))

    async def enter(self) -> None:
        """Of a cell: have this process be in its tenant's cgroup. Raises `UnsupportedError`, `BusyError`."""
        await self._ask(requests.EnterRequest(self._id()))

    async def adopt(self, cell: str, pid: int) -> None:
        """Have `pid`, a child of this process, be in the cell's cgroup. Raises `NotFoundError`."""
        await self._ask(requests.AdoptRequest(self._id(), cell, pid))

    async def allow(self, cell: str, bridge: str, tenant: str, specs: Iterable[SandboxSpec]) -> None:
        """From now on the cell may start `specs` for `bridge`, and nothing else. Raises `NotFoundError`."""
        ways = tuple(dict.fromkeys(map(requests.way_of, specs)))
        share = self.share_of(tenant)
        await self._ask(requests.AllowRequest(self._id(), cell, bridge, ways, share))

    def close(self) -> None:
        """End the channel; the launcher ends every worker with it."""
        self._lose()
        self._socket.close()

    def _id(self) -> int:
        self._next_id += 1
        return self._next_id

    async def _ask(
        self, request: requests.Request, given: tuple[int, ...] = ()
    ) -> tuple[requests.Answer, list[int]]:
        if self.lost.is_set():
            raise HostUnavailableError("the launcher is gone", retry="no")
        data = msgspec.json.encode(request)
        if len(data) > requests.MAX_DATAGRAM:
            raise UsageError(
                f"a request of {len(data)} bytes to the launcher; {requests.MAX_DATAGRAM} are possible",
                hint="Shorten the environment, the arguments or the mounts.",
            )
        future: asyncio.Future[tuple[requests.Answer, list[int]]] = self._loop.create_future()
        self._waiting[request.id] = future
        try:
            async with self._sending:
                await self._send(data, given)
        except OSError as error:
            self._waiting.pop(request.id, None)
            if shortage(error):
                raise typed(error) from error
            raise HostUnavailableError(f"the launcher can't be reached: {error}", retry="no") from error
        except asyncio.CancelledError:
            future.cancel()  # should it have gone out all the same, the answer is disowned
            raise
        try:
            answer, descriptors = await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self._disown(*future.result())  # it came in the same turn: nobody else will take it
            raise
        if answer.error is not None:
            raise from_info(answer.error)
        return answer, descriptors

    async def _send(self, data: bytes, given: tuple[int, ...]) -> None:
        if not given:
            await self._loop.sock_sendall(self._socket, data)
            return
        while True:
            try:
                socket.send_fds(self._socket, [data], given)
                return
            except BlockingIOError:
                writable = asyncio.Event()
                self._loop.add_writer(self._socket, writable.set)
                try:
                    await writable.wait()
                finally:
                    self._loop.remove_writer(self._socket)

    def _read(self) -> None:
        try:
            data, descriptors, _ = handed.receive(self._socket, requests.MAX_DATAGRAM, _MAX_DESCRIPTORS)
        except BlockingIOError:
            return
        except OSError:
            data, descriptors = b"", []
        if not data:
            self._lose()
            return
        try:
            answer = msgspec.json.decode(data, type=requests.Answer)
        except msgspec.MsgspecError:  # a launcher that is not ours to trust any more
            for descriptor in descriptors:
                os.close(descriptor)
            self._lose()
            return
        if answer.id == 0 and answer.exited is not None:
            self._note_end(answer.exited)
            return
        if answer.id == 0:
            self._note_record(answer)
            return
        future = self._waiting.pop(answer.id, None)
        if future is None or future.done():
            self._disown(answer, descriptors)
            return
        future.set_result((answer, descriptors))

    def _note_record(self, answer: requests.Answer) -> None:
        future = self._proofs.get(answer.recorded)
        if future is not None and not future.done():
            if answer.error is None:
                future.set_result(None)
            else:
                future.set_exception(from_info(answer.error))
                future.exception()  # nobody may be waiting
        if answer.unrecorded:
            self.on_unrecorded(answer.unrecorded)

    def _note_end(self, report: ExitReport) -> None:
        future = self._exits.pop(report.worker, None) or self._loop.create_future()
        self._exits[report.worker] = future  # again, as the newest
        if not future.done():
            future.set_result(report)
        ended = [worker for worker, known in self._exits.items() if known.done()]
        for worker in ended[:-_KEPT_REPORTS]:
            del self._exits[worker]

    def _disown(self, answer: requests.Answer, descriptors: list[int]) -> None:
        """The caller went away: its descriptors are closed, and its worker must not live on."""
        for descriptor in descriptors:
            os.close(descriptor)
        if answer.launched is not None and not self.lost.is_set():
            task = self._loop.create_task(self._end_quietly(answer.launched.worker))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _end_quietly(self, worker: str) -> None:
        with contextlib.suppress(HostUnavailableError, NotFoundError):
            await self.kill(worker)

    def _lose(self) -> None:
        if self.lost.is_set():
            return
        self._loop.remove_reader(self._socket)
        self.lost.set()
        for waiting in (self._waiting, self._exits, self._proofs):
            for future in waiting.values():
                _fail(future)


def _ignored(_: str) -> None:
    return None


def _no_share(_: str) -> None:
    return None


def _fail(future: asyncio.Future[Any]) -> None:
    if not future.done():  # each gets its own: what one raises gathers its frames
        said = "the launcher is gone; every sandbox ended with it"
        future.set_exception(HostUnavailableError(said, retry="no"))
        future.exception()  # nobody may be waiting


def _expect(value: T | None) -> T:
    if value is None:
        raise InternalError("the launcher answered another question")
    return value
