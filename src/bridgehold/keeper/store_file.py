"""The encrypted file for machines without a desktop: keyrings.cryptfile (Argon2id, AES-GCM).

Its passphrase comes from a 0600 key file that we create, or from a systemd credential. Each value has an
Argon2 of its own. A passphrase that somebody chose takes the better part of a second to try, so the keeper
fetches once and holds it in memory; one that we drew can't be guessed at any speed, and is tried in no time.
"""

from __future__ import annotations

import contextlib
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

from keyrings.cryptfile.cryptfile import CryptFileKeyring  # type: ignore[import-untyped]  # it has no stubs

from bridgehold.errors import SecretError
from bridgehold.keeper.files import read_private, replacing, write_private

FILE = "secrets.crypt"
KEY_FILE = "secrets.key"
SERVICE = "bridgehold"
_BOUND = 32 * 1024 * 1024
_DRAWN = "random:"
"""How a passphrase of ours begins: 384 random bits follow, which need no stretching."""
_OF_OURS = re.compile(_DRAWN + "[A-Za-z0-9_-]{64}")


class FileStore:
    """Secrets in one encrypted file below `folder`."""

    kind = "file"

    def __init__(self, folder: Path, credential: str = "", credentials_directory: str = "") -> None:
        self._folder = folder
        self._credential = credential
        self._credentials_directory = credentials_directory

    def get(self, tenant: str, name: str) -> bytearray | None:
        """As `SecretStore.get`; None too where there is no file yet."""
        if read_private(self._folder / FILE, _BOUND) is None:
            return None
        with self._opens() as keyring:
            # Its property tries the passphrase first, by an Argon2 more: the value's own seal tells as much.
            keyring._keyring_key = self._passphrase_of(keyring, create=False)  # noqa: SLF001
            value = keyring.get_password(SERVICE, f"{tenant}/{name}")
        if value is None:
            self._open(self._folder / FILE, create=False)
            return None
        return bytearray(value.encode("ascii", "replace"))

    def set(self, tenant: str, name: str, value: bytes) -> None:
        """As `SecretStore.set`: the file is replaced as a whole."""
        with replacing(self._folder / FILE, self._current()) as partial:
            keyring = self._open(partial, create=True)
            keyring.set_password(SERVICE, f"{tenant}/{name}", value.decode("ascii"))

    def remove(self, tenant: str, name: str) -> None:
        """As `SecretStore.remove`."""
        current = self._current()
        if not current:
            return
        from keyring.errors import PasswordDeleteError

        with replacing(self._folder / FILE, current) as partial:
            try:
                self._open(partial, create=False).delete_password(SERVICE, f"{tenant}/{name}")
            except PasswordDeleteError:
                return

    def names(self) -> None:
        """None: the file's entries can't be listed without the passphrase, so the index has the names."""
        return

    def _current(self) -> bytes:
        return read_private(self._folder / FILE, _BOUND) or b""

    def _open(self, path: Path, *, create: bool) -> CryptFileKeyring:
        """After its passphrase was tried."""
        with self._opens(path) as keyring:
            keyring.keyring_key = self._passphrase_of(keyring, create=create)
        return keyring

    @contextlib.contextmanager
    def _opens(self, path: Path | None = None) -> Iterator[CryptFileKeyring]:
        keyring = CryptFileKeyring()
        keyring.file_path = str(path or self._folder / FILE)
        try:
            yield keyring
        except (ValueError, KeyError, AssertionError):
            raise SecretError(
                "the passphrase does not open the encrypted file",
                where=str(self._folder / FILE),
                hint=f"Restore {KEY_FILE} (or the credential) that belongs to it, or set the secrets anew.",
            ) from None

    def _passphrase_of(self, keyring: CryptFileKeyring, *, create: bool) -> str:
        """The passphrase; `keyring` has the cost of its kind, which the file doesn't say."""
        passphrase = self._passphrase(create=create)
        if _OF_OURS.fullmatch(passphrase):
            keyring.time_cost, keyring.memory_cost = 1, 8 * keyring.parallelism  # Argon2's least
        return passphrase

    def _passphrase(self, *, create: bool) -> str:
        if self._credential:
            from bridgehold.keeper.store_systemd import read_credential

            return read_credential(self._credentials_directory, self._credential).decode("utf-8").strip()
        path = self._folder / KEY_FILE
        data = read_private(path, 4096)
        if data is None and create and not self._current():
            data = (_DRAWN + secrets.token_urlsafe(48)).encode("ascii")
            write_private(path, data)
        if not data or not data.strip():
            raise SecretError("the key file of the encrypted file is missing", where=str(path))
        return data.decode("ascii", "replace").strip()
