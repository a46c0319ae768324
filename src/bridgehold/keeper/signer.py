"""The anchors' Ed25519 key: made at its first use, 0600, never shown; signs anchors and nothing else."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bridgehold.errors import DeniedError, SecretError
from bridgehold.keeper.files import locked, read_private, write_private

FILE = "anchor.key"
_PREFIX = b"bridgehold-audit-anchor-v1\n"
_BOUND = 4096


class Signer:
    """The key in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key: Ed25519PrivateKey | None = None

    def sign(self, text: bytes) -> bytes:
        """The raw 64-byte signature of an anchor's text. Raises `DeniedError` for any other text."""
        if not text.startswith(_PREFIX) or len(text) > _BOUND:
            raise DeniedError("the keeper signs anchors of the audit, and nothing else", hint="")
        return self._load().sign(text)

    def public_key(self) -> bytes:
        """The raw 32 bytes of the key's public half. Raises `SecretError`."""
        return self._load().public_key().public_bytes_raw()

    def _load(self) -> Ed25519PrivateKey:
        if self._key is None:
            with locked(self._folder):
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
