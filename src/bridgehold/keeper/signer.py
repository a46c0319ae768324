"""The anchors' Ed25519 key: made at its first use, 0600, never shown; signs anchors and what belongs to them.

Its file holds the key, and behind it the records of its changes: so a change is one replaced file, and a
crash leaves the old state or the new one. Whoever signs looks at the file first, so that a running keeper
signs with the new key as soon as there is one.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bridgehold.audit import seals, vouched
from bridgehold.audit.anchors import key_id
from bridgehold.audit.chain import Head
from bridgehold.audit.rotations import (
    LOST,
    TEXT,
    Rotation,
    SignedRotation,
    cross_sign,
    parse,
    render,
)
from bridgehold.audit.seals import Seal
from bridgehold.audit.vouched import Vouched
from bridgehold.errors import AuditError, DeniedError, SecretError
from bridgehold.keeper.files import locked, read_private, write_private

FILE = "anchor.key"
_LOCK = ".anchor.lock"
"""Held for milliseconds: between the look at the audit's head and the new key nothing is signed."""
_ANCHOR = b"bridgehold-audit-anchor-v1\n"
_LOST = f"\nsignature-old {LOST}\n".encode()
_BOUND = 4096
_FILE_BOUND = 64 * 1024
_MISSING = "Restore it from its backup; if there is none, `bridgehold audit rotate-key --lost` begins anew."
_HERE = "Leave `--lost` away: it signs its successor, and whoever trusts it trusts that one, too."
_END = b"-----END PRIVATE KEY-----\n"
_KEPT = 50
"""Records of changes in the file; every one of them is stored beside the anchors, too."""


class Held(msgspec.Struct, frozen=True):
    """What the file holds."""

    key: Ed25519PrivateKey
    records: tuple[str, ...] = ()

    @property
    def public(self) -> bytes:
        """The raw 32 bytes."""
        return self.key.public_key().public_bytes_raw()


class Signer:
    """The key in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: tuple[tuple[int, int, int], Held] | None = None

    def sign(self, text: bytes) -> bytes:
        """The raw 64-byte signature of an anchor's text, or of a record that an older key was lost.

        Raises `DeniedError` for any other text, and for one that names another key.
        """
        with locked(self._folder, _LOCK):
            held = self._load()
            named = b"\nkey %b\n" % key_id(held.public).encode("ascii")
            anchor = text.startswith(_ANCHOR) and text.endswith(named)
            if len(text) > _BOUND or not (anchor or _is_own_loss(text, held.public)):
                raise DeniedError(
                    "the keeper signs anchors of the audit that name its key, and nothing else", hint=""
                )
            return held.key.sign(text)

    def held(self) -> Held:
        """The key that signs now, and the records of its changes. Raises `SecretError`."""
        with locked(self._folder, _LOCK):
            return self._load()

    def seal(self, made: Seal) -> Seal:
        """A segment's seal, with key and signature. For an operator's process: no host may ask for it."""
        with locked(self._folder, _LOCK):
            held = self._load()
            named = msgspec.structs.replace(made, key=key_id(held.public))
            return seals.sign(named, held.key.sign)

    def vouch(self, made: Vouched) -> Vouched:
        """For a report, with key and signature. For an operator's process: no host may ask for it."""
        with locked(self._folder, _LOCK):
            held = self._load()
            return vouched.sign(msgspec.structs.replace(made, key=key_id(held.public)), held.key.sign)

    def rotate(
        self, head: Callable[[], Head], by: str, now: datetime, *, lost: bytes | None = None
    ) -> SignedRotation:
        """Another key from now on; both sign that. `head`: where the audit stands, durably.

        `lost`: the public half of a key that is here no more, or can't be read: its successor signs alone.
        Raises `SecretError` where there is no key, or (`lost`) where there is one.
        """
        with locked(self._folder, _LOCK):
            old = self._old(lost)
            new = Ed25519PrivateKey.generate()
            made = Rotation(
                old=old.public if old is not None else lost or b"",
                new=new.public_key().public_bytes_raw(),
                head=head(),
                time=now.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                by=by,
            )
            signed = cross_sign(made, new.sign, old.key.sign if old is not None else None)
            before = old.records if old is not None else ()
            self._write(Held(new, (*before, render(signed))[-_KEPT:]))
            return signed

    def _old(self, lost: bytes | None) -> Held | None:
        path = self._folder / FILE
        try:
            data = read_private(path, _FILE_BOUND)
            old = self._parse(data) if data is not None else None
        except SecretError:
            if lost is None:
                raise
            return None
        if old is None and lost is None:
            raise SecretError("there is no signing key", where=str(path), hint=_MISSING)
        if old is not None and lost is not None:
            raise SecretError("the signing key is here, whole", where=str(path), hint=_HERE)
        return old

    def _load(self) -> Held:
        """As the file says now; made where there is none. The caller holds the lock."""
        path = self._folder / FILE
        facts = _facts(path)
        if self._held is None or facts is None or self._held[0] != facts:
            data = read_private(path, _FILE_BOUND)
            held = self._parse(data) if data is not None else Held(Ed25519PrivateKey.generate())
            if data is None:
                self._write(held)
            self._held = (_facts(path) or (0, 0, 0), held)
        return self._held[1]

    def _write(self, held: Held) -> None:
        pem = held.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        write_private(self._folder / FILE, pem + "".join(held.records).encode("ascii"))

    def _parse(self, data: bytes) -> Held:
        pem, end, rest = data.partition(_END)
        try:
            key = serialization.load_pem_private_key(pem + end, None)
            records = tuple(found[0] for found in TEXT.finditer(rest.decode("ascii")))
        except (ValueError, TypeError):
            key, records = None, ()
        if not isinstance(key, Ed25519PrivateKey) or "".join(records).encode() != rest:
            raise SecretError("is not an Ed25519 private key", where=str(self._folder / FILE), hint=_MISSING)
        return Held(key, records)


def _facts(path: Path) -> tuple[int, int, int] | None:
    """What changes when the file is replaced."""
    try:
        facts = path.stat(follow_symlinks=False)
    except OSError:
        return None
    return facts.st_ino, facts.st_mtime_ns, facts.st_size


def _is_own_loss(text: bytes, public: bytes) -> bool:
    """Whether it is the record, but for our signature, that an older key than ours is lost."""
    if not text.endswith(_LOST):
        return False
    try:
        record = parse(f"{text.decode('ascii')}signature-new {'A' * 86}==\n")
    except (AuditError, UnicodeDecodeError):
        return False
    return record.rotation.new == public and record.rotation.old != public
