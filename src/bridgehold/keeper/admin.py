"""Setting, listing and removing secrets, in the operator's own process; no host need run.

A running keeper sees the changed index within seconds, drops the older value, and ends the streams
that used it. Values come in as bytes and never go out.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from bridgehold.errors import NotFoundError
from bridgehold.ids import nearest, parse_name
from bridgehold.keeper.files import locked
from bridgehold.keeper.index import Reference, begin, read_index, write_index
from bridgehold.keeper.stores import SecretStore, check_value, open_store
from bridgehold.keeper.values import StoreConfig, store_config

if TYPE_CHECKING:
    from bridgehold.config.layout import Layout
    from bridgehold.config.load import Config


class SecretAdmin:
    """One store and its index."""

    def __init__(self, config: StoreConfig, store: SecretStore | None = None) -> None:
        self._folder = Path(config.folder)
        self._store = store or open_store(config)

    @classmethod
    def for_layout(cls, layout: Layout, config: Config, *, credentials_directory: str = "") -> SecretAdmin:
        """The store that `config` names. Raises `SecretError` if it can't be used here."""
        return cls(store_config(layout, config, credentials_directory=credentials_directory))

    @classmethod
    def open_file(cls, folder: Path) -> SecretAdmin:
        """The encrypted file in `folder`, with its key file beside it."""
        return cls(StoreConfig(folder=str(folder)))

    @property
    def store(self) -> str:
        """``file``, ``keyring`` or ``systemd``."""
        return self._store.kind

    def set(
        self, tenant: str, name: str, value: bytes, *, allow_env: bool = False, provider: str = ""
    ) -> Reference:
        """Keep `value` as the tenant's secret `name`; an older one is replaced.

        `provider` binds it to that provider; empty leaves it to the one whose configuration names
        the secret. `allow_env` lets a policy put it into a sandbox's environment. Takes about a
        second with the encrypted file. Raises `SecretError`, never with the value.
        """
        parse_name(tenant, "tenant")
        parse_name(name, "secret")
        if provider:
            parse_name(provider, "provider")
        plain = check_value(value)
        with locked(self._folder):
            index = read_index(self._folder)
            reference = Reference(
                tenant=tenant,
                name=name,
                provider=provider,
                allow_env=allow_env,
                created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                store=self._store.kind,
                version=index.generation + 1,
            )
            self._store.set(tenant, name, plain)
            write_index(self._folder, index.having(reference, begin(plain)))
        return reference

    def list(self) -> tuple[Reference, ...]:
        """What exists, by tenant and name."""
        held = self._store.names()
        if held is not None:
            return tuple(Reference(tenant=t, name=n, store=self._store.kind) for t, n in held)
        return read_index(self._folder).secrets

    def remove(self, tenant: str, name: str) -> Reference:
        """Forget it: the index first, so that a running keeper lets go even if the store fails."""
        with locked(self._folder):
            index = read_index(self._folder)
            found = index.find(tenant, name)
            if found is None:
                near = nearest(name, [one.name for one in index.secrets if one.tenant == tenant])
                raise NotFoundError(
                    f"{tenant[:64]} has no secret {name[:80]!r}{near}",
                    hint="`bridgehold secrets list` shows the names.",
                )
            write_index(self._folder, index.without(tenant, name))
            self._store.remove(tenant, name)
        return found
