"""Ed25519 signatures: of anchors, seals, rotations, reports, approvals."""

from __future__ import annotations

import base64


def holds(public_key: bytes, signature: bytes | str, text: bytes) -> bool:
    """Whether `signature` (64 bytes, or in base64) of `text` is that of the raw 32-byte `public_key`."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        raw = base64.b64decode(signature, validate=True) if isinstance(signature, str) else signature
        Ed25519PublicKey.from_public_bytes(public_key).verify(raw, text)
    except (InvalidSignature, ValueError):
        return False
    return True
