"""The keeper's Ed25519 keys: made at their first use, 0600, never shown.

Each signs texts of its own kind and nothing else: anchors of the audit, and approvals of rules.
"""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bridgehold.errors import DeniedError, SecretError
from bridgehold.keeper.files import locked, read_private, write_private
from bridgehold.policies.approved import PREFIX as APPROVAL

FILE = "anchor.key"
APPROVAL_FILE = "approval.key"
_PREFIXES = {
    FILE: (b"bridgehold-audit-anchor-v1\n", "anchors of the audit"),
    APPROVAL_FILE: (APPROVAL, "approvals of rules"),
}
_BOUND = 4096


class Signer:
    """One key in `folder`."""

    def __init__(self, folder: Path, file: str = FILE) -> None:
        self._folder = folder
        self._file = file
        self._prefix, self._what = _PREFIXES[file]
        self._key: Ed25519PrivateKey | None = None

    def sign(self, text: bytes) -> bytes:
        """The raw 64-byte signature of a text of its kind. Raises `DeniedError` for any other text."""
        if not text.startswith(self._prefix) or len(text) > _BOUND:
            raise DeniedError(f"this key signs {self._what}, and nothing else", hint="")
        return self._load().sign(text)

    def public_key(self) -> bytes:
        """The raw 32 bytes of the key's public half. Raises `SecretError`."""
        return self._load().public_key().public_bytes_raw()

    def _load(self) -> Ed25519PrivateKey:
        if self._key is None:
            with locked(self._folder):
                data = read_private(self._folder / self._file, _BOUND)
                self._key = self._create() if data is None else self._parse(data)
        return self._key

    def _create(self) -> Ed25519PrivateKey:
        key = Ed25519PrivateKey.generate()
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        write_private(self._folder / self._file, pem)
        return key

    def _parse(self, data: bytes) -> Ed25519PrivateKey:
        try:
            key = serialization.load_pem_private_key(data, None)
        except (ValueError, TypeError):
            key = None
        if not isinstance(key, Ed25519PrivateKey):
            raise SecretError("is not an Ed25519 private key", where=str(self._folder / self._file))
        return key
