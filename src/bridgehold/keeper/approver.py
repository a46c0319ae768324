"""The key that approved rules and reviews are signed with: made at its first use, 0600, never shown.

It lies beside the keeper's keys, and the keeper signs nothing with it: who owns the configuration does, at a
terminal. The keeper tells its public half.
"""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bridgehold.errors import DeniedError, SecretError
from bridgehold.keeper.files import locked, read_private, write_private
from bridgehold.policies.approved import PREFIX
from bridgehold.policies.reviewed import PREFIX as REVIEW

FILE = "approval.key"
_PREFIXES = (PREFIX, REVIEW)
_BOUND = 4096
_LONGEST = 64 * 1024
_LOCK = ".approval.lock"


class Approver:
    """The key in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key: Ed25519PrivateKey | None = None

    def sign(self, text: bytes) -> bytes:
        """The raw 64-byte signature of an approval. Raises `DeniedError` for any other text."""
        if not text.startswith(_PREFIXES) or len(text) > _LONGEST:
            raise DeniedError("this key signs approvals, and nothing else", hint="")
        return self._load().sign(text)

    def public_key(self) -> bytes:
        """The raw 32 bytes of the key's public half. Raises `SecretError`."""
        return self._load().public_key().public_bytes_raw()

    def _load(self) -> Ed25519PrivateKey:
        if self._key is None:
            with locked(self._folder, _LOCK):
                data = read_private(self._folder / FILE, _BOUND)
                self._key = self._create() if data is None else self._parse(data)
        return self._key

    def _create(self) -> Ed25519PrivateKey:
        key = Ed25519PrivateKey.generate()
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        write_private(self._folder / FILE, pem)
        return key

    def _parse(self, data: bytes) -> Ed25519PrivateKey:
        try:
            key = serialization.load_pem_private_key(data, None)
        except (ValueError, TypeError):
            key = None
        if not isinstance(key, Ed25519PrivateKey):
            raise SecretError("is not an Ed25519 private key", where=str(self._folder / FILE))
        return key
