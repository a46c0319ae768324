"""``reload``: a running host takes over what has changed in its configuration, and drops no session.

All or nothing: a file with a fault changes nothing. Where keys may go, and what sandboxes may be bound from,
keeper and launcher are told by the supervisor, which reads the file itself. Who is connected is looked up
again, so that a principal that went, or lost a tenant, loses its connections and what they hold.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

import msgspec

from bridgehold.audit.client import JournalClient
from bridgehold.audit.events import ConfigReloaded
from bridgehold.config.load import Config, load_config
from bridgehold.config.settings import Reload, Settings, digest_of_told, merge
from bridgehold.errors import BusyError
from bridgehold.host.admin_log import AdminLog
from bridgehold.host.front.method import Method
from bridgehold.host.front.outgoing import Emit
from bridgehold.host.front.registry import Registry
from bridgehold.host.front.server import SocketServer
from bridgehold.ids import digest_bytes
from bridgehold.protocol.frames import NoParams
from bridgehold.protocol.values import Principal

_TRIES = 3
"""For the supervisor to read the same as the host."""


class Parts(Protocol):
    """What of the host keeps something of a configuration; the rest reads `settings` at each use."""

    def check(self, config: Config) -> None:
        """Raise `ConfigError` where they can't take it over."""

    def tell(self, config: Config, gone: tuple[Path, ...]) -> None:
        """From now on it holds. `gone`: rules and bridges that nobody is to miss any more."""


class Reloading:
    """The handler of ``reload``."""

    def __init__(
        self,
        settings: Settings,
        file: Path,
        overrides: dict[str, str],
        registry: Registry,
        parts: Parts,
        journal: JournalClient,
        log: AdminLog,
        reread: Callable[[], Awaitable[str]],
        after: Callable[[], None],
    ) -> None:
        """`overrides`: what the environment said at the start. `reread`: has whoever may tell keeper and
        launcher what the file says; the digest of it. `after` is called once all is in place."""
        self._settings = settings
        self._file = file
        self._overrides = overrides
        self._registry = registry
        self._parts = parts
        self._journal = journal
        self._log = log
        self._reread = reread
        self._after = after
        self._turn = asyncio.Lock()
        self._there = file.exists()
        """Whether there was a file: one that is gone is a fault then, and no word for the defaults."""
        self._servers: tuple[SocketServer, ...] = ()
        parts.tell(settings.now, ())
        self._rules = registry.rules()

    def table(self) -> dict[str, Method]:
        """The methods by name."""
        return {"reload": Method(NoParams, self.reload, operator=True)}

    def serve_with(self, *servers: SocketServer) -> None:
        """The servers whose principals a reload changes."""
        self._servers = servers

    async def reload(self, principal: Principal, _params: NoParams, _emit: Emit) -> Reload:
        """Raises `ConfigError`, `UsageError`, or `AuditError` at first, and then nothing has changed."""
        async with self._turn:  # on the disk first: keeper and launcher, once they are told, go by it
            return await self._log.audited(
                principal, "reload", self._file.name, {}, lambda: self._taken_over(principal)
            )

    async def _taken_over(self, principal: Principal) -> Reload:
        config, found = await self._read()
        gone = self._registry.gone()
        found = msgspec.structs.replace(found, applied=(*found.applied, *map(_shown, gone)))
        self._settings.now = config
        self._parts.tell(config, gone)
        event = ConfigReloaded(
            principal=principal.name,
            digest=digest_bytes(msgspec.json.encode(config)),
            applied=found.applied,
            waiting=found.waiting,
        )
        await self._journal.append(event)
        await asyncio.gather(*(server.look_up_again() for server in self._servers))
        self._after()
        before, self._rules = self._rules, self._registry.rules()
        return msgspec.structs.replace(found, files=self._changed(before, self._rules))

    async def _read(self) -> tuple[Config, Reload]:
        """What holds from now on; keeper and launcher have been told their part of it."""
        for _ in range(_TRIES):
            new = await asyncio.to_thread(load_config, self._file, self._overrides, must_exist=self._there)
            self._there = self._there or self._file.exists()
            config, found = merge(self._settings.now, new)
            self._parts.check(config)
            if await self._reread() == digest_of_told(config):
                return config, found
        raise BusyError("config.toml changes while it is read", where=str(self._file), retry="same")

    def _changed(self, before: dict[str, str], after: dict[str, str]) -> tuple[str, ...]:
        """Files that say something else than before; of one that can't be used also why."""
        found = []
        for name, said in sorted(after.items()):
            if before.get(name) != said:
                why = self._registry.refused(name) if said.startswith("sha256:") else said
                found.append(f"{name} (refused: {why})" if why else name)
        return tuple(found)


def _shown(gone: Path) -> str:
    return f"{gone.parent.name}/{gone.name} (gone)"
