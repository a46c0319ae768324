"""What a secret store is, and which one the configuration names. Never auto-detected.

One file for each implementation. A store is used from worker threads: its methods block.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from bridgehold.errors import SecretError
from bridgehold.keeper.values import StoreConfig

MAX_VALUE = 8 * 1024
MIN_VALUE = 8
"""Shorter values could not be looked for in what a provider sends back."""


class SecretStore(Protocol):
    """Values by (tenant, name). Raises `SecretError` where the back-end fails; never shows a value."""

    kind: str

    def get(self, tenant: str, name: str) -> bytearray | None:
        """The value, for the caller to wipe, or None where there is none. Raises `SecretError`."""

    def set(self, tenant: str, name: str, value: bytes) -> None:
        """Keep `value` (ASCII) in place of any before it. Raises `SecretError`."""

    def remove(self, tenant: str, name: str) -> None:
        """Forget the value; one that isn't there is no error. Raises `SecretError`."""

    def names(self) -> tuple[tuple[str, str], ...] | None:
        """(tenant, name) of everything it holds, where the store itself is the list; otherwise None."""


def open_store(config: StoreConfig) -> SecretStore:
    """The one store that `config` names. Raises `SecretError` if it can't be used here."""
    folder = Path(config.folder)
    if config.store == "systemd":
        from bridgehold.keeper.store_systemd import CredentialStore

        return CredentialStore(config.credentials_directory)
    if config.store == "keyring" and config.keyring_backend == "secretservice":
        from bridgehold.keeper.store_keyring import KeyringStore

        return KeyringStore.secret_service()
    from bridgehold.keeper.store_file import FileStore

    return FileStore(folder, config.passphrase_credential, config.credentials_directory)


def check_value(value: bytes) -> bytes:
    """`value` without one ending newline, if a header can carry it. Raises `SecretError`; never shows it."""
    plain = value.removesuffix(b"\n").removesuffix(b"\r")
    if not MIN_VALUE <= len(plain) <= MAX_VALUE:
        raise SecretError(
            f"a secret has {MIN_VALUE} to {MAX_VALUE} bytes; this one has {len(plain)}",
            hint="Pass the whole key on standard input.",
        )
    if any(not 0x21 <= byte <= 0x7E for byte in plain):
        raise SecretError(
            "a secret is printable ASCII without spaces; this one isn't",
            hint="A line break or a quotation mark may have come along with the key.",
        )
    return plain


def wipe(value: bytearray) -> None:
    """Overwrite a value that is no longer needed."""
    value[:] = bytes(len(value))
