"""The front's end of what it opens for one cell: judged by the tenant's grants, whatever the cell says."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import threading
import time
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable, Collection
from ipaddress import ip_address
from pathlib import Path

import msgspec

from bridgehold import handed, reads
from bridgehold.bridges.catalogue import Entry
from bridgehold.bridges.manifest_file import MAX_FILE_BYTES
from bridgehold.config.layout import Layout
from bridgehold.config.settings import Settings
from bridgehold.error_info import ErrorInfo
from bridgehold.error_texts import at_border
from bridgehold.errors import (
    BridgeholdError,
    BusyError,
    DeniedError,
    ManifestError,
    NotFoundError,
    UsageError,
)
from bridgehold.host.front.registry import Registry
from bridgehold.host.shares import openings
from bridgehold.host.shares.dialling import LOOPBACK, Dial, provider_places
from bridgehold.host.shares.memory import in_memory
from bridgehold.host.shares.openings import Opened, answer
from bridgehold.host.shares.tool_starts import kill, pidfd_of, spawn
from bridgehold.ids import digest_bytes
from bridgehold.keeper.resolve import Lookup, resolve
from bridgehold.policies.buckets import TokenBucket
from bridgehold.policies.decide import decide_address, decide_connect, decide_tool
from bridgehold.policies.model import Grant
from bridgehold.policies.reviewed import SUFFIX
from bridgehold.tasks import begin_task

_RATE, _BURST = 200.0, 400.0
"""Questions a second of one cell; more wait in its socket."""
_OF_A_SECOND = 10 * _RATE
"""So many questions a second of the loop counts as: one cell has a tenth of it at the most."""
_MOST_AT_ONCE = 64
_MOST_TOOLS = 32
_MOST_LOOKUPS = 256
_LARGEST = 4 * 1024
_MOST_BESIDE = 1
_MOST_CONNECTING = 4
_CONNECT_SECONDS = 10.0
_SO_NETNS_COOKIE = 71


class House(msgspec.Struct, frozen=True, kw_only=True):
    """What all cells' are answered from."""

    registry: Registry
    settings: Settings
    layout: Layout
    lookup: Lookup
    dial: Dial
    adopt: Callable[[str, int], Awaitable[None]]
    """(cell, pid): have that process be in the cell's cgroup."""


class Opens:
    """For one cell, until it is closed."""

    def __init__(
        self,
        house: House,
        sock: socket.socket,
        *,
        tenant: str,
        cell: str,
        bridges: Callable[[], Collection[str]],
        broken: Callable[[str], None],
    ) -> None:
        """`bridges`: those that it has had orders for. `broken`: told why it can't be answered any more."""
        sock.setblocking(False)
        self._house = house
        self._socket = sock
        self._tenant = tenant
        self._cell = cell
        self._bridges = bridges
        self._broken = broken
        self._pace = TokenBucket(_RATE, _BURST)
        self._found: dict[tuple[str, int], tuple[str, ...]] = {}
        """Addresses that hosts were found at, by (host, port)."""
        self._tools: dict[int, Process | None] = {}
        """By the question that began it; None: it is being started."""
        self._connecting = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._listening = False
        self._closed = False
        self._listen()

    def close(self) -> None:
        """Nothing is opened any more, and the tools' processes end."""
        if self._closed:
            return
        self._closed = True
        self._deafen()
        self._socket.close()
        for task in self._tasks:
            task.cancel()
        for process in self._tools.values():
            if process is not None:
                kill(process)
        self._tools.clear()

    def _listen(self) -> None:
        if not (self._closed or self._listening):
            asyncio.get_running_loop().add_reader(self._socket, self._take)
            self._listening = True

    def _deafen(self) -> None:
        if self._listening:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._listening = False

    def _take(self) -> None:
        given: list[int] = []
        try:
            data, given, _ = handed.receive(self._socket, _LARGEST, _MOST_BESIDE)
            self._taken(data, given)
        except BlockingIOError:
            return
        except (OSError, msgspec.MsgspecError, ValueError, RecursionError):
            self._broken("what it asked to have opened is no question")
        finally:
            for one in given:
                os.close(one)

    def _taken(self, data: bytes, given: list[int]) -> None:
        """One question. What it keeps of `given` it takes out."""
        if not data:
            self._deafen()  # the cell's end is told by others
            return
        ask = msgspec.json.decode(data, type=openings.Ask)
        begun = time.monotonic()
        self._hear(ask, given)
        now = time.monotonic()
        if wait := self._pace.take(1 + (now - begun) * _OF_A_SECOND, now):
            self._deafen()
            asyncio.get_running_loop().call_later(wait, self._listen)

    def _hear(self, ask: openings.Ask, given: list[int]) -> None:
        match ask:
            case openings.AskConnect():
                self._connect(ask, given)
            case openings.AskRules() | openings.AskBridges():
                self._answer_now(ask)
            case openings.EndTool():
                if (process := self._tools.get(ask.tool)) is not None:
                    kill(process)
            case _ if len(self._tasks) >= _MOST_AT_ONCE:
                self._send(Opened(id=ask.id, error=BusyError("much is being opened for it already").info()))
            case _:
                begin_task(self._serve(ask), self._tasks)

    def _answer_now(self, ask: openings.AskRules | openings.AskBridges) -> None:
        """Whoever asks waits for it, and nobody else: it is read here and now."""
        given: list[int] = []
        try:
            if isinstance(ask, openings.AskRules):
                opened = self._rules(ask, given)
            else:
                opened = self._bridges_of(ask, given)
        except BridgeholdError as error:
            opened = Opened(id=ask.id, error=error.info())
        except Exception as error:  # noqa: BLE001 - a defect of ours ends one question
            opened = Opened(id=ask.id, error=_defect(error))
        self._send(opened, given)

    def _rules(self, ask: openings.AskRules, given: list[int]) -> Opened:
        registry = self._house.registry
        found = registry.files.own("tenant", [self._tenant, f"{self._tenant}{SUFFIX}"])
        given += [in_memory(one.text.encode()) for one in found if one is not None]
        there = tuple(one is not None for one in found)
        return Opened(id=ask.id, tenants=registry.tenants_with(self._tenant), there=there)

    def _bridges_of(self, ask: openings.AskBridges, given: list[int]) -> Opened:
        own = self._house.registry.own(self._tenant, anew=ask.anew)
        facts = [(_shown(entry), entry.manifest.digest if entry.manifest else "") for entry in own]
        digest = digest_bytes(msgspec.json.encode(facts))
        if digest != ask.known:
            given.append(in_memory(msgspec.json.encode([_with_text(one) for one, _ in facts])))
        return Opened(id=ask.id, digest=digest)

    async def _serve(self, ask: openings.Ask) -> None:
        try:
            opened, given = await self._open(ask)
        except BridgeholdError as error:
            opened, given = Opened(id=ask.id, error=error.info()), []
        except OSError as error:
            opened, given = Opened(id=ask.id, status=error.errno or 1), []
        except Exception as error:  # noqa: BLE001 - a defect of ours ends one question
            opened, given = Opened(id=ask.id, error=_defect(error)), []
        self._send(opened, given)

    async def _open(self, ask: openings.Ask) -> tuple[Opened, list[int]]:
        match ask:
            case openings.AskLookup():
                addresses = await self._look_up(ask)
                return Opened(id=ask.id, addresses=addresses), []
            case openings.AskDial():
                return Opened(id=ask.id), [await self._dial(ask)]
            case openings.AskTool():
                return Opened(id=ask.id), await self._start(ask)
            case openings.AskStatus():
                process = self._tools.get(ask.tool)
                status = await process.wait() if process is not None else -9
                self._tools.pop(ask.tool, None)
                return Opened(id=ask.id, status=status), []
        raise UsageError("nothing else is opened")

    async def _grant(self, bridge: str) -> Grant:
        return await self._house.registry.grant(self._tenant, bridge)

    async def _look_up(self, ask: openings.AskLookup) -> tuple[str, ...]:
        grant = await self._grant(ask.bridge)
        hosts, _ = provider_places(self._house.settings.now.providers)
        decision = decide_connect(grant, ask.host, ask.port, hosts)
        if not decision.allowed:
            raise DeniedError(decision.reason, where=decision.rule)
        found = tuple(await resolve(ask.host, ask.port, private=True, lookup=self._house.lookup))
        self._found.pop((ask.host, ask.port), None)
        while len(self._found) >= _MOST_LOOKUPS:
            del self._found[next(iter(self._found))]
        self._found[ask.host, ask.port] = found
        return found

    async def _dial(self, ask: openings.AskDial) -> int:
        grant = await self._grant(ask.bridge)
        hosts, places = provider_places(self._house.settings.now.providers)
        try:
            address = ip_address(ask.address)
        except ValueError:
            raise UsageError(f"{ask.address[:60]!r} is no address") from None
        decision = decide_connect(grant, ask.host, ask.port, hosts)
        if decision.allowed:
            decision = decide_address(grant, ask.host, ask.port, address)
        if not decision.allowed:
            raise DeniedError(decision.reason, where=decision.rule)
        found = self._found.get((ask.host, ask.port), ())
        if str(address) not in (*found, ask.host) or (str(address), ask.port) in places:
            raise DeniedError(f"{ask.host} was not found at {address}", where="names.public")
        sock = await self._house.dial(ask.host, str(address), ask.port)
        return sock.detach()

    async def _start(self, ask: openings.AskTool) -> list[int]:
        tool = self._house.settings.now.tools.get(ask.tool)
        if tool is None or not tool.entry:
            raise NotFoundError(f"the tool {ask.tool[:80]!r} is not offered")
        grants = [await self._grant(bridge) for bridge in self._bridges()]
        if not any(decide_tool(grant, ask.tool).allowed for grant in grants):
            raise DeniedError(f"no bridge of the tenant's has the tool {ask.tool[:80]!r}", where="tools")
        if len(self._tools) >= _MOST_TOOLS:
            found = self._tools.items()
            self._tools = {number: one for number, one in found if one is None or one.returncode is None}
        if len(self._tools) >= _MOST_TOOLS or ask.id in self._tools:
            raise BusyError(f"{_MOST_TOOLS} processes of tools run for the tenant")
        self._tools[ask.id] = None  # counted from here on: others ask while it starts
        given: list[int] = []
        reads = -1
        try:
            reads, writes = os.pipe()
            given.append(writes)
            process, answers = await spawn(self._house.layout.tools, tool.entry, reads)
            given.append(answers)
            self._tools[ask.id] = process
            await self._house.adopt(self._cell, process.pid)
            pidfd = pidfd_of(process)
            given.append(pidfd if pidfd >= 0 else os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        except BaseException:
            for descriptor in given:
                os.close(descriptor)
            if (process_begun := self._tools.pop(ask.id, None)) is not None:
                kill(process_begun)
            raise
        finally:
            if reads >= 0:
                os.close(reads)
        return given

    def _connect(self, ask: openings.AskConnect, given: list[int]) -> None:
        """By a thread: whoever has a socket too can make every call on it wait."""
        try:
            if self._connecting >= _MOST_CONNECTING:
                raise BusyError("much is being connected for it already")
            sock = _of_a_sandbox(given)
        except BridgeholdError as error:
            self._send(Opened(id=ask.id, error=error.info()))
            return
        loop = asyncio.get_running_loop()
        self._connecting += 1

        def over(status: int) -> None:
            self._connecting -= 1
            self._send(Opened(id=ask.id, status=status))

        def connect() -> None:
            status = 0
            with sock:
                try:
                    sock.settimeout(_CONNECT_SECONDS)
                    sock.connect((LOOPBACK, ask.port))
                except OSError as error:
                    status = error.errno or errno.ETIMEDOUT
            with contextlib.suppress(RuntimeError):  # the host has ended meanwhile
                loop.call_soon_threadsafe(over, status)

        threading.Thread(target=connect, name="bridgehold-connect", daemon=True).start()

    def _send(self, opened: Opened, given: list[int] | None = None) -> None:
        if self._closed:
            for descriptor in given or []:
                os.close(descriptor)
            return
        try:
            answer(self._socket, opened, given)
        except BlockingIOError:
            self._broken("it doesn't read what it has asked for")
        except OSError:
            with contextlib.suppress(OSError):
                self._deafen()


def _of_a_sandbox(given: list[int]) -> socket.socket:
    """The one of `given`, taken out, where it is of another network than this process's. Raises."""
    if given:
        with contextlib.suppress(OSError), socket.socket() as own:
            sock = socket.socket(fileno=given[0])
            given.clear()
            if sock.family == socket.AF_INET and _network(sock) != _network(own):
                return sock
            sock.close()
    raise UsageError("no socket of a sandbox's network")


def _network(sock: socket.socket) -> bytes:
    return sock.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)


def _defect(error: Exception) -> ErrorInfo:
    return at_border(error, f"a defect in Bridgehold: {type(error).__name__}").info()


def _shown(entry: Entry) -> openings.OwnBridge:
    release = entry.manifest.release if entry.manifest is not None else ""
    return openings.OwnBridge(name=entry.name, folder=str(entry.folder), release=release, fault=entry.fault)


def _with_text(own: openings.OwnBridge) -> openings.OwnBridge:
    if own.fault:
        return own
    try:
        text = reads.read_text(Path(own.folder, "bridge.toml"), ManifestError, most=MAX_FILE_BYTES)
    except ManifestError as error:
        return msgspec.structs.replace(own, fault=error.message)
    return msgspec.structs.replace(own, text=text)
