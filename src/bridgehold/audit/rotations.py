"""The record of a change of the anchors' key: each key signs the other, and where the audit stood then.

The old key counts for nothing behind that place, and the new one vouches for what stood before it: so who
has one of the two can rewrite neither. A key that was lost can't sign; its successor says so, and whoever
trusts the lost key alone trusts no successor. Pure, but for the reading and writing of record files::

    bridgehold-audit-key-v1
    old ed25519:BASE64
    new ed25519:BASE64
    instance i-0123456789ab
    count 1284
    head 6f0c…
    time 2026-11-20T09:30:00.000Z
    by uid 0
    signature-old BASE64          or: signature-old lost
    signature-new BASE64

The old key signs the lines before its signature; the new one signs that line, too.
"""

from __future__ import annotations

import base64
import contextlib
import os
import re
from typing import TYPE_CHECKING

import msgspec

from bridgehold import signatures, writes
from bridgehold.audit.anchors import key_id, read_text
from bridgehold.audit.chain import Head
from bridgehold.audit.entries import printable
from bridgehold.errors import AuditError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

SUFFIX = ".rotation"
PREFIX = "bridgehold-audit-key-v1\n"
LOST = "lost"
_KEY = r"ed25519:([A-Za-z0-9+/]{43}=)"
_SIGNATURE = r"[A-Za-z0-9+/]{86}=="
TEXT = re.compile(
    PREFIX + rf"old {_KEY}\nnew {_KEY}\n"
    r"instance (i-[0-9a-z]{12})\ncount (0|[1-9][0-9]{0,15})\nhead ([0-9a-f]{64})\n"
    r"time ([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z)\nby ([a-z][ -~]{0,99})\n"
    rf"signature-old ({_SIGNATURE}|{LOST})\nsignature-new ({_SIGNATURE})\n"
)
NOWHERE = Head("i-000000000000", 0, "0" * 64)
"""Of an audit without a line."""


class Rotation(msgspec.Struct, frozen=True, kw_only=True):
    """What is signed: `new` (raw public keys) takes the place of `old` where the audit stands at `head`."""

    old: bytes
    new: bytes
    head: Head
    time: str
    by: str
    """Who did it: ``uid 0``, ``host``."""


class SignedRotation(msgspec.Struct, frozen=True, kw_only=True):
    """A rotation with both signatures in base64; that of a lost key is ``lost``."""

    rotation: Rotation
    by_old: str
    by_new: str

    @property
    def lost(self) -> bool:
        """Whether the old key could not sign."""
        return self.by_old == LOST

    @property
    def ids(self) -> tuple[str, str]:
        """The old key's name, and the new one's."""
        return key_id(self.rotation.old), key_id(self.rotation.new)


NamedRotation = tuple[str, SignedRotation | None]
"""(file or line, its record; None where it holds none)"""


class Trust(msgspec.Struct, frozen=True, kw_only=True):
    """Who may sign (id to raw key), and for the retired up to where of which instance."""

    keys: Mapping[str, bytes]
    until: Mapping[str, Head] = {}


def old_text(rotation: Rotation) -> bytes:
    """The bytes that the old key signs."""
    old, new = (base64.b64encode(key).decode("ascii") for key in (rotation.old, rotation.new))
    head = rotation.head
    return (
        f"{PREFIX}old ed25519:{old}\nnew ed25519:{new}\ninstance {head.instance}\ncount {head.count}\n"
        f"head {head.head}\ntime {rotation.time}\nby {rotation.by}\n"
    ).encode("ascii")


def new_text(rotation: Rotation, by_old: str) -> bytes:
    """The bytes that the new key signs: what the old one said of it is among them."""
    return old_text(rotation) + f"signature-old {by_old}\n".encode("ascii")


def cross_sign(
    rotation: Rotation, new: Callable[[bytes], bytes], old: Callable[[bytes], bytes] | None
) -> SignedRotation:
    """Both sign (raw 64-byte signatures); without `old` that key is lost."""
    by_old = base64.b64encode(old(old_text(rotation))).decode("ascii") if old is not None else LOST
    by_new = base64.b64encode(new(new_text(rotation, by_old))).decode("ascii")
    return SignedRotation(rotation=rotation, by_old=by_old, by_new=by_new)


def attach_loss(rotation: Rotation, by_new: bytes) -> SignedRotation:
    """The record of a lost key, where the signature over `new_text` was made elsewhere."""
    return SignedRotation(rotation=rotation, by_old=LOST, by_new=base64.b64encode(by_new).decode("ascii"))


def render(signed: SignedRotation) -> str:
    """The record's text."""
    return f"{new_text(signed.rotation, signed.by_old).decode('ascii')}signature-new {signed.by_new}\n"


def parse(text: str, where: str = "") -> SignedRotation:
    """The record in `text`, exactly as `render` writes it. Raises `AuditError`; checks no signature."""
    found = TEXT.fullmatch(text)
    if found is None:
        raise AuditError("not the record of a key's change", where=where, hint="`audit rotate-key` makes it.")
    old, new, instance, count, head, time, by, by_old, by_new = found.groups()
    rotation = Rotation(
        old=base64.b64decode(old),
        new=base64.b64decode(new),
        head=Head(instance, int(count), head),
        time=time,
        by=by,
    )
    return SignedRotation(rotation=rotation, by_old=by_old, by_new=by_new)


def is_signed(signed: SignedRotation) -> bool:
    """Whether both keys signed it, each with its own; of a lost one only the other."""
    made = signed.rotation
    fine = signatures.holds(made.new, signed.by_new, new_text(made, signed.by_old))
    return (
        fine
        and made.old != made.new
        and (signed.lost or signatures.holds(made.old, signed.by_old, old_text(made)))
    )


def trusted(pinned: Mapping[str, bytes], records: Sequence[SignedRotation]) -> Trust:
    """Whom the `pinned` keys vouch for, over records whose signatures are sound, back and forth.

    A key is bound by its rotation where it signed that itself, or a trusted successor says that it was lost.
    """
    keys = dict(pinned)
    used: list[SignedRotation] = []
    # Forward first: who is known by a successor's word alone names no successor of its own.
    for forward in (True, False):
        while reached := [one for one in records if one not in used and _leads(one, keys, forward=forward)]:
            for one in reached:
                keys.setdefault(one.ids[0], one.rotation.old)
                keys.setdefault(one.ids[1], one.rotation.new)
            used += reached
    return Trust(keys=keys, until={one.ids[0]: one.rotation.head for one in used})


def _leads(one: SignedRotation, keys: Mapping[str, bytes], *, forward: bool) -> bool:
    return one.ids[1] in keys if not forward else one.ids[0] in keys and not one.lost


def way(records: Sequence[SignedRotation], first: str, last: str) -> list[SignedRotation] | None:
    """The changes that lead from one key to another; None where none do."""
    found: list[SignedRotation] = []
    while first != last:
        following = next((one for one in records if one.ids[0] == first and one not in found), None)
        if following is None:
            return None
        found.append(following)
        first = following.ids[1]
    return found


def store(folder: Path, signed: SignedRotation) -> Path:
    """Write the record durably beside the anchors; the same one twice is one file. Raises `AuditError`."""
    target = folder / f"{'.'.join(signed.ids)}{SUFFIX}"
    try:
        with writes.replacing(target, for_owner=True) as file:
            file.write(render(signed).encode("ascii"))
    except OSError as error:
        raise AuditError(f"can't write the record: {error.strerror}", where=str(target)) from error
    return target


def load(*paths: Path) -> list[NamedRotation]:
    """Of every ``.rotation`` file in these folders, and of these files that are one. One that can't be read
    holds no record, as `verify` says; a folder that isn't there has none.
    """
    found: list[NamedRotation] = []
    for path in paths:
        try:
            files = [path / name for name in sorted(os.listdir(path))]  # noqa: PTH208 - names
        except OSError:
            files = [path]
        for file in files:
            if file.name.endswith(SUFFIX) and os.path.lexists(file):
                signed = None
                with contextlib.suppress(AuditError):
                    signed = parse(read_text(file, follow=False), str(file))
                found.append((printable(str(file)), signed))
    return found
