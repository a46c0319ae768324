"""Tenants and tokens as the files say them now: read for each question, changed one at a time.

A file that can't be read, or says what nobody understands, is a refusal for its own tenant or token, and
for nobody else. The files are written by the supervisor, whose they are (`supervisor.files`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Generic, TypeVar

from bridgehold import clock, reads
from bridgehold.errors import BridgeholdError, DeniedError, NotFoundError, PolicyError, UsageError
from bridgehold.host.startup import LONGEST_FILE, FileChange
from bridgehold.ids import digest_bytes, is_name, nearest
from bridgehold.policies import tenants, tokens
from bridgehold.policies.files import PolicyFiles, Readings
from bridgehold.policies.tenants import Tenant
from bridgehold.policies.tokens import Token
from bridgehold.protocol.values import Principal

Write = Callable[[FileChange], Awaitable[None]]
_MOST_KEPT = 4_096
_WATCH_SECONDS = 0.5
T = TypeVar("T")


class _Parsed(Generic[T]):
    """What texts say, parsed once each; no text is kept in place of a file."""

    def __init__(self, parse: Callable[[str, str, str], T]) -> None:
        self._parse = parse
        self._known: dict[str, tuple[str, T]] = {}

    def of(self, name: str, text: str, file: str) -> T:
        known = self._known.get(name)
        if known is None or known[0] != text:
            if len(self._known) >= _MOST_KEPT:
                self._known.clear()
            known = self._known[name] = (text, self._parse(name, text, file))
        return known[1]


def _nothing(_name: str, _readings: Readings) -> None:
    """Nothing has to be signed."""


class TenantFiles:
    """Every tenant's file, read for each question."""

    def __init__(
        self,
        files: PolicyFiles,
        folder: Path,
        write: Write,
        demand: Callable[[str, Readings], object] = _nothing,
    ) -> None:
        """`files`: those that grants are made of, so that both see the same. `demand`: raises where what they
        say of a tenant's ceilings counts for nothing."""
        self._files = files
        self._demand = demand
        self._folder = folder
        self._write = write
        self._parsed = _Parsed(tenants.parse)
        self._turn = asyncio.Lock()
        self.on_hold: Callable[[str], Awaitable[None]] = _nobody
        """Told of a tenant whose file does not say what holds; over once all who read it know."""

    def of(self, name: str) -> Tenant:
        """The tenant; one without ceilings where no file says anything of it.

        Raises `PolicyError`, also where the file allows more than somebody has to have signed.
        """
        readings = Readings(self._files)
        found = readings.read("tenant", name)
        self._demand(name, readings)
        return Tenant(name=name) if found is None else self._parsed.of(name, found.text, found.file)

    def readings(self, name: str) -> Readings:
        """What the tenant's ceilings rest on. Raises `PolicyError`."""
        readings = Readings(self._files)
        readings.read("tenant", name)
        return readings

    def said(self, name: str) -> Tenant:
        """As the file says it, whether that counts or not. Raises `PolicyError`."""
        found = self._files.read("tenant", name)
        return Tenant(name=name) if found is None else self._parsed.of(name, found.text, found.file)

    def demand(self, name: str) -> None:
        """Raise `SuspendedError` unless the tenant is active, `PolicyError` where that can't be told."""
        self.of(name).demand()

    def artifacts(self, name: str) -> int | None:
        """The tenant's ceiling for what is kept for it, also for other threads. Raises `PolicyError`."""
        return self.of(name).limits.artifacts

    def environments(self, name: str) -> int | None:
        """Likewise for the environments of bridges of its own."""
        return self.of(name).limits.environments

    def names(self) -> tuple[str, ...]:
        """Of those that have a file. Raises `PolicyError`."""
        return self._files.names("tenant")

    async def change(self, name: str, edit: Callable[[Tenant], Tenant]) -> Tenant:
        """Write what `edit` makes of it, durably. Raises what `edit` does, `PolicyError`, `BusyError`."""
        async with self._turn:
            before = self._on_disk(name)
            file = str(self._folder / f"{name}.toml")
            known = tenants.parse(name, before, file) if before else Tenant(name=name)
            text = tenants.rewritten(before, edit(tenants.in_state_of(known, self.said(name))), file)
            await self._write(FileChange(kind="tenants", name=name, text=text, was=_digest(before)))
            self._files.put_instead("tenant", name, "")
            return self.said(name)

    async def hold(self, name: str, tenant: Tenant) -> None:
        """`tenant` is what holds, as its file can't be made to say so: until it does, or a new host."""
        self._files.put_instead("tenant", name, tenants.rewritten("", tenant, ""))
        await self.on_hold(name)

    def check(self, name: str) -> None:
        """Raise `PolicyError` where its file can't be read as it is, whatever holds in its place."""
        tenants.parse(name, self._on_disk(name), str(self._folder / f"{name}.toml"))

    def _on_disk(self, name: str) -> str:
        (found,) = self._files.own("tenant", [name], on_disk=True)
        return found.text if found is not None else ""

    async def remove(self, name: str) -> None:
        """Only of one that is revoked. Raises `NotFoundError`, `UsageError`."""
        async with self._turn:
            before = self._on_disk(name)
            await self._write(FileChange(kind="tenants", name=name, text=None, was=_digest(before)))
            self._files.put_instead("tenant", name, "")
            self._files.let_go([self._folder / f"{name}.toml"])


async def _nobody(_name: str) -> None:
    """Nobody reads it elsewhere."""


class TokenFiles:
    """Every token's file, read whenever a token is shown."""

    def __init__(self, folder: Path, write: Write) -> None:
        self._folder = folder
        self._write = write
        self._parsed = _Parsed(tokens.parse)
        self._held: set[str] = set()
        self._turn = asyncio.Lock()
        self._ends: set[float] = set()
        """When tokens that were shown end."""

    def principal(self, token: str, now: float) -> Principal | None:
        """Whose `token` is, at `now` (seconds since the epoch); None: nobody's."""
        name = tokens.name_in(token)
        if not name:
            return None
        try:
            text = self._text(name)
            found = self._parse(name, text) if text else None
        except BridgeholdError:  # a broken file makes nobody
            found = None
        if found is None or name in self._held or not found.takes(token, now):
            return None
        self._ends.update(found.ends())
        scope = found.scope
        return Principal(
            name=f"token:{name}",
            tenants=scope.tenants,
            logs=scope.logs,
            bridges=scope.bridges,
            operations=scope.operations,
            read_only=scope.read_only,
        )

    def of(self, name: str) -> Token:
        """Raises `NotFoundError`, `PolicyError`."""
        return self._parse(name, self._text(name))

    def names(self) -> tuple[str, ...]:
        """The names of all tokens, sorted. Raises `PolicyError`."""
        try:
            listed = [path.stem for path in self._folder.iterdir() if path.suffix == ".toml"]
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise PolicyError(f"tokens can't be listed: {error.strerror}", where=str(self._folder)) from error
        return tuple(sorted(name for name in listed if is_name(name)))

    async def settled(self) -> tuple[str, ...]:
        """As `names`, once what is being written has been."""
        async with self._turn:
            return self.names()

    def hold(self, name: str) -> None:
        """It makes nobody from here on, since its file could not be written: until it is, or a new host."""
        self._held.add(name)

    def holds(self, name: str) -> bool:
        """Whether it makes nobody whatever its file says."""
        return name in self._held

    async def add(self, token: Token, demand: Callable[[], None]) -> None:
        """Raises `UsageError` where there is one of that name, and what `demand` does, right before it is
        written: who then waits for `settled` sees it."""
        async with self._turn:
            demand()
            if token.name in self.names():
                raise UsageError(
                    f"there is a token {token.name!r} already",
                    hint=f"`bridgehold token rotate {token.name}` gives it another secret.",
                )
            await self._put(token, "")

    async def change(self, name: str, edit: Callable[[Token], Token]) -> Token:
        """Change one token by `edit`, durably. Raises `NotFoundError`."""
        async with self._turn:
            before = self._text(name)
            wanted = edit(self._parse(name, before))
            await self._put(wanted, before)
            return wanted

    async def remove(self, name: str) -> None:
        """Whether it can be read or not: it is worth nothing from here on. Raises `NotFoundError`."""
        async with self._turn:
            if name not in self.names():
                self.of(name)
            await self._write(FileChange(kind="tokens", name=name, text=None, was=_digest(self._text(name))))
            self._held.discard(name)

    async def watch(self, changed: Callable[[], Awaitable[None]]) -> None:
        """Call `changed` soon after any file has, or a token that was shown has ended. For ever."""
        seen = self._stamp()
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            found, now = self._stamp(), clock.now()
            over = {when for when in self._ends if when <= now}
            if found != seen or over:
                seen = found
                self._ends -= over
                await changed()

    async def _put(self, token: Token, before: str) -> None:
        text = tokens.render(token)
        await self._write(FileChange(kind="tokens", name=token.name, text=text, was=_digest(before)))
        self._held.discard(token.name)

    def _parse(self, name: str, text: str) -> Token:
        if not text:
            raise NotFoundError(
                f"there is no token {name[:80]!r}{nearest(name, self.names())}",
                hint="`bridgehold token list` shows all. One of config.toml is changed there.",
            )
        return self._parsed.of(name, text, str(self._path(name)))

    def _text(self, name: str) -> str:
        if not is_name(name):
            raise NotFoundError(f"{name[:80]!r} is no token's name")
        return reads.read_text(self._path(name), PolicyError, most=LONGEST_FILE, or_none=True)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.toml"

    def _stamp(self) -> frozenset[tuple[str, int, int, int]]:
        found = set()
        with contextlib.suppress(OSError), os.scandir(self._folder) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    facts = entry.stat()
                    found.add((entry.name, facts.st_ino, facts.st_mtime_ns, facts.st_size))
        return frozenset(found)


def unknown_token() -> DeniedError:
    """The error for a token that nobody has."""
    return DeniedError("the token is not known here", hint="Ask the operator for a current token.")


def _digest(text: str) -> str:
    return digest_bytes(text.encode()) if text else ""
