"""Anchors: a signed (instance, count, head) that is kept elsewhere, so that nothing below it can be
rewritten unseen.

The text is what is signed, byte for byte. Signing happens where the key is (the keeper); this
module builds texts, checks signatures, and reads and writes anchor files::

    bridgehold-audit-anchor-v1
    instance i-0123456789ab
    count 1284
    head 6f0c…
    time 2026-11-20T09:30:00.000Z
    key k-93c1f0a2b4d5e6f7
    signature BASE64
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import stat
from typing import TYPE_CHECKING

import msgspec

from bridgehold import signatures, writes
from bridgehold.audit.entries import printable
from bridgehold.errors import AuditError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from bridgehold.audit.chain import Head

_MAX_BYTES = 4096
_EXPECTED = "A key is one file; anchors are files that end in `.anchor`, or a folder of them."
SUFFIX = ".anchor"
PUBLIC_KEY = "anchor.pub"
"""Where the key that signs now lies beside the anchors."""
_TEXT = re.compile(
    r"bridgehold-audit-anchor-v1\n"
    r"instance (i-[0-9a-z]{12})\ncount ([1-9][0-9]{0,15})\nhead ([0-9a-f]{64})\n"
    r"time ([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z)\nkey (k-[0-9a-f]{16})\n"
    r"signature ([A-Za-z0-9+/]{86}==)\n"
)


class Anchor(msgspec.Struct, frozen=True, kw_only=True):
    """What is signed: after `count` lines, `instance` stood at `head`, at `time`, says `key`."""

    instance: str
    count: int
    head: str
    time: str
    key: str


class SignedAnchor(msgspec.Struct, frozen=True, kw_only=True):
    """An anchor and its signature by the keeper's key."""

    anchor: Anchor
    signature: str
    """Base64 of the 64-byte Ed25519 signature over `anchor_text`."""


def key_id(public_key: bytes) -> str:
    """The name of a raw 32-byte Ed25519 public key."""
    return "k-" + hashlib.sha256(public_key).hexdigest()[:16]


def anchor_at(head: Head, *, time: str, public_key: bytes) -> Anchor:
    """The anchor to sign for `head`, as `JournalClient.head` gives it."""
    return Anchor(instance=head.instance, count=head.count, head=head.head, time=time, key=key_id(public_key))


def anchor_text(anchor: Anchor) -> bytes:
    """The bytes to sign."""
    return (
        f"bridgehold-audit-anchor-v1\ninstance {anchor.instance}\ncount {anchor.count}\n"
        f"head {anchor.head}\ntime {anchor.time}\nkey {anchor.key}\n"
    ).encode("ascii")


def attach(anchor: Anchor, signature: bytes) -> SignedAnchor:
    """The signed anchor, where the signature was made elsewhere (asynchronously, say)."""
    return SignedAnchor(anchor=anchor, signature=base64.b64encode(signature).decode("ascii"))


def sign_anchor(anchor: Anchor, sign: Callable[[bytes], bytes]) -> SignedAnchor:
    """`sign` takes the text and returns the raw 64-byte signature."""
    return attach(anchor, sign(anchor_text(anchor)))


def render(signed: SignedAnchor) -> str:
    """The file's text."""
    return f"{anchor_text(signed.anchor).decode('ascii')}signature {signed.signature}\n"


def parse(text: str, where: str = "") -> SignedAnchor:
    """The anchor in `text`, exactly as `render` writes it. Raises `AuditError`; checks no signature."""
    found = _TEXT.fullmatch(text)
    if found is None:
        raise AuditError(
            "not an anchor", where=where, hint="An anchor is the text that `audit anchor` prints."
        )
    instance, count, head, time, key, signature = found.groups()
    anchor = Anchor(instance=instance, count=int(count), head=head, time=time, key=key)
    return SignedAnchor(anchor=anchor, signature=signature)


def is_signed(signed: SignedAnchor, keys: Mapping[str, bytes]) -> bool | None:
    """Whether the signature is that of its key; None where `keys` (id to raw public key) lacks it."""
    raw = keys.get(signed.anchor.key)
    return None if raw is None else signatures.holds(raw, signed.signature, anchor_text(signed.anchor))


def key_line(public_key: bytes) -> str:
    """A public key as one line of text, for `read_key`."""
    return f"ed25519:{base64.b64encode(public_key).decode('ascii')}\n"


def read_key(path: Path) -> dict[str, bytes]:
    """Key id to raw key from a file: ``ed25519:BASE64`` or PEM. Raises `AuditError`."""
    return parse_key(read_text(path), str(path))


def parse_key(data: str, where: str = "") -> dict[str, bytes]:
    """As `read_key`, of a file's text."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        if data.startswith("ed25519:"):
            text = data.removeprefix("ed25519:").strip()
            key: object = Ed25519PublicKey.from_public_bytes(base64.b64decode(text, validate=True))
        else:
            key = serialization.load_pem_public_key(data.encode("ascii"))
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise AuditError(
            "not an Ed25519 public key", where=where, hint="`ed25519:BASE64` on one line, or PEM."
        )
    raw = key.public_bytes_raw()
    return {key_id(raw): raw}


def store(folder: Path, signed: SignedAnchor) -> Path:
    """Write the anchor durably below `folder`; the same anchor twice is one file."""
    anchor = signed.anchor
    target = folder / f"{anchor.instance}.{anchor.count}{SUFFIX}"
    try:
        writes.replace(target, render(signed))
    except OSError as error:
        raise AuditError(f"can't write the anchor: {error.strerror}", where=str(target)) from error
    return target


NamedAnchor = tuple[str, SignedAnchor | None]
"""(file, its anchor; None where it holds none)"""


def load(path: Path) -> list[NamedAnchor]:
    """Of one file, or of every ``.anchor`` file of a folder: one that holds no anchor is a finding of
    `verify`'s, not an error. Raises `AuditError` where there is no such file, or no anchor in the folder.
    """
    found = load_folder(path) if path.is_dir() else [_load(path, follow=True)]
    if not found:
        raise AuditError(
            "no anchor in this folder",
            where=str(path),
            hint="Name the folder that *.anchor files are kept in.",
        )
    return found


def load_folder(folder: Path) -> list[NamedAnchor]:
    """Of every ``.anchor`` file of a folder that may have none, or not be there. One that can't be read
    holds no anchor, as `verify` says.
    """
    try:
        names = sorted(name for name in os.listdir(folder) if name.endswith(SUFFIX))  # noqa: PTH208 - names
    except FileNotFoundError:
        return []
    except OSError:
        return [(printable(str(folder)), None)]
    return [_load(folder / name, follow=False) for name in names]


def _load(file: Path, *, follow: bool) -> NamedAnchor:
    try:
        return printable(str(file)), parse(read_text(file, follow=follow), str(file))
    except AuditError:
        if not file.is_symlink() and not file.exists():
            raise
        return printable(str(file)), None


def read_text(path: Path, *, follow: bool = True) -> str:
    """At most 4 KiB of a regular file; no pipe is waited for. Raises `AuditError`."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    try:
        descriptor = os.open(path, flags)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise AuditError("not a regular file", where=str(path), hint=_EXPECTED)
            return file.read(_MAX_BYTES + 1).decode("ascii")
    except OSError as error:
        raise AuditError(f"can't be read: {error.strerror}", where=str(path), hint=_EXPECTED) from error
    except ValueError as error:
        raise AuditError("is no text", where=str(path), hint=_EXPECTED) from error
