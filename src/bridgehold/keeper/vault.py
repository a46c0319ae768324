"""The values in the keeper's memory: fetched once, held briefly, dropped when the index changes.

Whoever uses a value registers its task; a rotated, removed or dropped secret cancels the task, so
that no stream outlives its key.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from bridgehold.audit.encodings import Encodings
from bridgehold.config.providers import ProviderEntry
from bridgehold.errors import BridgeholdError, DeniedError, SecretError
from bridgehold.keeper.files import locked
from bridgehold.keeper.index import Index, Reference, begin, read_index, stamp, write_index
from bridgehold.keeper.places import Places
from bridgehold.keeper.protocol import Marks
from bridgehold.keeper.stores import SecretStore, check_value, open_store, wipe
from bridgehold.keeper.values import KeeperConfig

_SESSION_BOUND = 16_384
"""Session secrets in memory at once."""
_REVOKED = "the tenant was revoked"
_COMPILING = ThreadPoolExecutor(max_workers=2, thread_name_prefix="encodings")
"""Threads that wait for no name server and no store."""


class CachedSecret:
    """One value in memory and the tasks that use it now."""

    def __init__(self, value: bytearray, reference: Reference | None, tenant: str) -> None:
        self.value = value
        self.reference = reference
        self.tenant = tenant
        self.used_at = time.monotonic()
        self.revoked = ""
        self._users: set[asyncio.Task[object]] = set()
        self._encodings: asyncio.Future[Encodings] | None = None

    def __repr__(self) -> str:
        return f"CachedSecret({self.reference})"

    @contextlib.contextmanager
    def use(self) -> Iterator[bytes]:
        """The value, for as long as the block runs; a revocation cancels the block's task."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - only called from a stream's task
        if self.revoked:
            raise SecretError(self.revoked)
        self._users.add(task)
        try:
            yield bytes(self.value)
        finally:
            self._users.discard(task)
            self.used_at = time.monotonic()

    async def encodings(self) -> Encodings:
        """How the value may be written. Making them takes longer than a turn of the loop may."""
        if self._encodings is None:
            loop = asyncio.get_running_loop()
            self._encodings = loop.run_in_executor(_COMPILING, Encodings, bytes(self.value))
        return await asyncio.shield(self._encodings)

    @property
    def in_use(self) -> bool:
        """Whether a request is sending the value now."""
        return bool(self._users)

    def revoke(self, reason: str) -> None:
        """Wipe the value and cancel the requests that use it; they end with `reason`."""
        self.revoked = reason
        for task in self._users:
            task.cancel()
        self._encodings = None
        wipe(self.value)


class Vault:
    """Tenants' secrets from the store, and sessions' own ones that exist only here."""

    def __init__(self, config: KeeperConfig, providers: Mapping[str, ProviderEntry] | None = None) -> None:
        """`providers`: as they are now, by name; those of `config`, if left out."""
        self._config = config
        self._providers = {one.name: one for one in config.providers} if providers is None else providers
        self._folder = Path(config.secrets.folder)
        self._held: dict[tuple[str, str], CachedSecret] = {}
        self._fetching: dict[tuple[str, str], asyncio.Task[CachedSecret]] = {}
        self._session: dict[tuple[str, str], CachedSecret] = {}
        self._places = Places(_SESSION_BOUND, self.tenants_with)
        """Of sessions' own keys."""
        self._forgotten: set[str] = set()
        """Tenants whose secrets the store can't be rid of."""
        self._begins: dict[Reference, str] = {}
        self._index = Index()
        self._named: frozenset[str] | None = None
        """Tenants with a secret in the store; None: it has to be looked at."""
        self._stamp = (-1, 0, 0)
        self._store: SecretStore | None = None
        self.problem = ""
        # Threads of our own: an access that never returns costs one of these and nothing else.
        self._threads = ThreadPoolExecutor(max_workers=4, thread_name_prefix="store")

    @property
    def counts(self) -> tuple[int, int, int, int]:
        """(references, values held, session secrets, the index's generation)."""
        return len(self._index.secrets), len(self._held), len(self._session), self._index.generation

    def tenants_with(self, tenant: str) -> int:
        """How many tenants have a secret here, this one included."""
        if self._named is None:
            listed: Iterable[str] = (one.tenant for one in self._index.secrets)
            if self._config.secrets.store == "systemd":
                listed = (one for one, _ in self._listed())
            self._named = frozenset(listed)
        return len({*self._named, *self._places.holders, tenant})

    def versions(self, tenant: str) -> str:
        """A digest of the tenant's references, which changes with each change of one of them."""
        self.refresh()
        own = [reference for reference in self._index.secrets if reference.tenant == tenant]
        return hashlib.sha256(msgspec.json.encode(own)).hexdigest()

    def references(self, first: int, most: int) -> Index:
        """The index with those from number `first` on, at most `most`. Raises `SecretError` without one."""
        self.refresh()
        if self.problem:  # what can't be read is not gone
            raise SecretError(self.problem, retry="later")
        return msgspec.structs.replace(self._index, secrets=self._index.secrets[first : first + most])

    def missing(self, tenant: str, names: tuple[str, ...]) -> tuple[str, ...]:
        """Which of `names` the tenant has no secret of."""
        self.refresh()
        return tuple(name for name in names if not self._has(tenant, name))

    def _has(self, tenant: str, name: str) -> bool:
        if self._config.secrets.store != "systemd":
            return self._index.find(tenant, name) is not None
        value = self._read(Reference(tenant=tenant, name=name, store="systemd"))
        found = value is not None
        if value is not None:
            value[:] = bytes(len(value))
        return found

    async def find(self, tenant: str, session: str, entry: ProviderEntry, secret: str = "") -> CachedSecret:
        """The value for this request: the session's own one, or the tenant's bound to `entry`."""
        own = self._session.get((session, entry.name)) if session else None
        if own is not None and own.tenant == tenant:
            return own
        reference = self._bound(tenant, entry, secret)
        return await self._fetch(reference)

    async def marks(self, tenant: str) -> Marks:
        """How the tenant's values begin, its sessions' own ones included. Raises `SecretError`."""
        found = [begin(bytes(held.value)) for held in self._own(tenant)]
        for reference in await self._references(tenant):
            said = self._index.begin_of(reference)
            if said is None:
                said = self._begins.get(reference)
            if said is None:
                said = self._begins[reference] = begin(bytes((await self._fetch(reference)).value))
            found.append(said)
        return Marks(begins=tuple(sorted(set(found) - {""})), always="" in found)

    async def encodings(self, tenant: str) -> list[Encodings]:
        """Of each of the tenant's values. Raises `SecretError`."""
        fetched = await asyncio.gather(*[self._fetch(one) for one in await self._references(tenant)])
        return [await held.encodings() for held in (*self._own(tenant), *fetched)]

    def _own(self, tenant: str) -> list[CachedSecret]:
        return [held for held in self._session.values() if held.tenant == tenant]

    async def _references(self, tenant: str) -> list[Reference]:
        self.refresh()
        if self._config.secrets.store != "systemd":
            return [one for one in self._index.secrets if one.tenant == tenant]
        listed = await asyncio.get_running_loop().run_in_executor(self._threads, self._listed)
        return [Reference(tenant=one, name=name, store="systemd") for one, name in listed if one == tenant]

    def _listed(self) -> tuple[tuple[str, str], ...]:
        return self._opened().names() or ()

    def _opened(self) -> SecretStore:
        if self._store is None:
            self._store = open_store(self._config.secrets)
        return self._store

    async def reveal(self, tenant: str, name: str) -> str:
        """A value stored with `allow_env`. Raises `DeniedError` for any other, there or not."""
        self.refresh()
        reference = self._index.find(tenant, name)
        if reference is None or not reference.allow_env:
            raise DeniedError(
                f"{tenant[:64]} has no secret {name[:64]!r} that may leave the keeper",
                hint="Store it with --allow-env, and grant the weakening `env_secret` in the policy.",
            )
        return bytes((await self._fetch(reference)).value).decode("ascii")

    def put_session(self, session: str, provider: str, value: str, tenant: str) -> None:
        """Keep `value` for one session and provider.

        Raises `SecretError` past the bound or without the provider.
        """
        if provider not in self._providers:
            raise SecretError(f"there is no provider {provider[:64]!r}")
        plain = bytearray(check_value(value.encode("utf-8", "replace")))
        older = self._session.get((session, provider))
        if older is not None and older.tenant != tenant:
            raise SecretError(f"the session {session[:64]} is another tenant's")
        if older is not None:
            self._drop((session, provider), "the session's key was replaced")
        if not self._places.take(tenant):
            raise SecretError("too many keys of the tenant's sessions are held", retry="later")
        self._session[(session, provider)] = CachedSecret(plain, None, tenant)

    def _drop(self, key: tuple[str, str], reason: str) -> None:
        held = self._session.pop(key)
        self._places.give_back(held.tenant)
        held.revoke(reason)

    def drop_providers(self, names: Collection[str]) -> None:
        """Revoke sessions' own keys for these: they were meant for where these providers were."""
        for key in [key for key in self._session if key[1] in names]:
            self._drop(key, "its provider was changed or removed")

    def drop_session(self, session: str, tenant: str) -> None:
        """Revoke every secret of one session of the tenant's."""
        own = [key for key, held in self._session.items() if held.tenant == tenant]
        for key in [key for key in own if key[0] == session]:
            self._drop(key, "the session ended")

    async def forget(self, tenant: str) -> int:
        """Every value of the tenant's, from the index first: then it is worth nothing. How many there were.

        The store follows on a thread of its own, since each of its accesses may take a second. What systemd
        gave stays in its unit: it is not given out by this process any more.
        """
        loop = asyncio.get_running_loop()
        gone: tuple[tuple[str, str], ...] = ()
        if self._config.secrets.store == "systemd":
            listed = await loop.run_in_executor(self._threads, self._listed)
            gone = tuple(one for one in listed if one[0] == tenant)
            self._forgotten.add(tenant)
        else:
            found = await loop.run_in_executor(self._threads, self._unlist, tenant)
            gone = tuple((one.tenant, one.name) for one in found)
            self.refresh()
            self._threads.submit(self._remove, gone)
        for key in [key for key, held in self._held.items() if held.tenant == tenant]:
            self._held.pop(key).revoke(_REVOKED)
        for key in [key for key, held in self._session.items() if held.tenant == tenant]:
            self._drop(key, _REVOKED)
        return len(gone)

    def _unlist(self, tenant: str) -> tuple[Reference, ...]:
        with locked(self._folder):
            index = read_index(self._folder)
            found = tuple(one for one in index.secrets if one.tenant == tenant)
            if found:
                write_index(self._folder, index.without_tenant(tenant))
        return found

    def _remove(self, gone: tuple[tuple[str, str], ...]) -> None:
        for tenant, name in gone:
            with contextlib.suppress(BridgeholdError), locked(self._folder):
                if read_index(self._folder).find(tenant, name) is None:  # it wasn't set anew meanwhile
                    self._opened().remove(tenant, name)

    def _bound(self, tenant: str, entry: ProviderEntry, secret: str) -> Reference:
        """The tenant's reference for `entry`, by our own table and index only."""
        self.refresh()
        if tenant in self._forgotten:
            raise SecretError(_REVOKED)
        name = secret or entry.secret_name
        reference = self._index.find(tenant, name)
        if reference is None and self._config.secrets.store == "systemd":
            reference = Reference(tenant=tenant, name=name, store="systemd")
        if reference is None:
            raise SecretError(
                f"tenant {tenant[:64]} has no secret {name[:64]!r} for provider {entry.name}",
                hint=f"`bridgehold secrets set {name[:64]} --tenant {tenant[:64]}` reads it from a pipe.",
            )
        bound_here = reference.provider == entry.name
        by_table = not reference.provider and name == entry.secret_name
        if not (bound_here or by_table):
            raise SecretError(
                f"secret {name[:64]!r} is not bound to provider {entry.name}",
                hint="Bind it: `bridgehold secrets set NAME --provider PROVIDER`.",
            )
        return reference

    async def _fetch(self, reference: Reference) -> CachedSecret:
        key = (reference.tenant, reference.name)
        held = self._held.get(key)
        if held is not None and held.reference == reference:
            held.used_at = time.monotonic()
            return held
        fetching = self._fetching.get(key)
        if fetching is None:
            fetching = asyncio.create_task(self._fetch_now(reference))
            self._fetching[key] = fetching
            fetching.add_done_callback(lambda _: self._fetching.pop(key, None))
        held = await asyncio.shield(fetching)
        if held.revoked:
            raise SecretError(held.revoked, retry="later")
        return held

    async def _fetch_now(self, reference: Reference) -> CachedSecret:
        loop = asyncio.get_running_loop()
        work = loop.run_in_executor(self._threads, self._read, reference)
        try:
            value = await asyncio.wait_for(work, self._config.secrets.timeout_ms / 1000)
        except TimeoutError:
            raise SecretError("the store of secrets does not answer", retry="later") from None
        if value is None:
            raise SecretError(
                f"the store lacks {reference.tenant}'s secret {reference.name!r}, which the index names",
                hint="Set it anew; the passphrase or the keyring may have changed.",
            )
        held = CachedSecret(value, reference, reference.tenant)
        older = self._held.pop((reference.tenant, reference.name), None)
        if older is not None:
            older.revoke("the secret was replaced")
        self.refresh()
        if not self._is_current(reference):
            held.revoke("the secret was changed meanwhile")
            return held
        self._held[(reference.tenant, reference.name)] = held
        return held

    def _read(self, reference: Reference) -> bytearray | None:
        return self._opened().get(reference.tenant, reference.name)

    def refresh(self) -> None:
        """Look at the index; let go of every value whose reference changed or went."""
        if self._config.secrets.store == "systemd":
            return
        now = stamp(self._folder)
        if now == self._stamp:
            return
        try:
            self._index = read_index(self._folder)
        except BridgeholdError as error:
            self.problem = error.message
            self._index = Index()  # without an index no secret is known: fail closed
        else:
            self.problem = ""
        self._stamp, self._named = now, None
        self._begins = {one: self._begins[one] for one in self._index.secrets if one in self._begins}
        for key, held in list(self._held.items()):
            if held.reference is not None and not self._is_current(held.reference):
                del self._held[key]
                held.revoke("the secret was changed or removed")

    def _is_current(self, reference: Reference) -> bool:
        if reference.store == "systemd":
            return reference.tenant not in self._forgotten
        return self._index.find(reference.tenant, reference.name) == reference

    def expire(self, now: float) -> None:
        """Drop values that nobody used for a while."""
        for key, held in list(self._held.items()):
            if not held.in_use and now - held.used_at > self._config.cache_ms / 1000:
                self._held.pop(key).revoke("not used for a while")

    async def watch(self) -> None:
        """Look at the index for ever."""
        while True:
            await asyncio.sleep(self._config.reload_ms / 1000)
            self.refresh()
            self.expire(time.monotonic())

    def close(self) -> None:
        """Revoke and wipe everything; reads of the store that hang are left behind."""
        for held in (*self._held.values(), *self._session.values()):
            held.revoke("the keeper ends")
        self._threads.shutdown(wait=False, cancel_futures=True)
