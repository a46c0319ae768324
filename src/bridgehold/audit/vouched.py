"""A file that the audit's key vouches for: by its digest, its names and its time. Pure::

bridgehold-attack-report-v1
file attack.md sha256:…
file attack.json sha256:…
time 2026-11-20T09:30:00.000Z
by uid 0
key k-93c1f0a2b4d5e6f7
signature BASE64
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping

import msgspec

from bridgehold import signatures
from bridgehold.errors import AuditError

PREFIX = "bridgehold-attack-report-v1\n"
_TEXT = re.compile(
    PREFIX + r"((?:file [A-Za-z0-9._-]{1,200} sha256:[0-9a-f]{64}\n){1,8})"
    r"time ([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z)\nby ([a-z][ -~]{0,99})\n"
    r"key (k-[0-9a-f]{16})\nsignature ([A-Za-z0-9+/]{86}==)\n"
)


class Vouched(msgspec.Struct, frozen=True, kw_only=True):
    """What is signed: names of files and their digests, when and by whom; the signature in base64."""

    files: tuple[tuple[str, str], ...]
    time: str
    by: str
    key: str = ""
    signature: str = ""


def text_of(made: Vouched) -> bytes:
    """The bytes to sign."""
    named = "".join(f"file {name} {digest}\n" for name, digest in made.files)
    return f"{PREFIX}{named}time {made.time}\nby {made.by}\nkey {made.key}\n".encode("ascii")


def sign(made: Vouched, with_key: Callable[[bytes], bytes]) -> Vouched:
    """With the raw 64-byte signature that `with_key` makes."""
    return msgspec.structs.replace(made, signature=base64.b64encode(with_key(text_of(made))).decode("ascii"))


def render(made: Vouched) -> str:
    """The file's text."""
    return f"{text_of(made).decode('ascii')}signature {made.signature}\n"


def parse(text: str, where: str = "") -> Vouched:
    """Exactly as `render` writes it. Raises `AuditError`; checks no signature."""
    found = _TEXT.fullmatch(text)
    if found is None:
        raise AuditError("not a report's signature", where=where, hint="`bridgehold attack --out` writes it.")
    named, time, by, key, signature = found.groups()
    lines = [line.split(" ") for line in named.splitlines()]
    return Vouched(
        files=tuple((name, digest) for _, name, digest in lines),
        time=time,
        by=by,
        key=key,
        signature=signature,
    )


def is_signed(made: Vouched, keys: Mapping[str, bytes]) -> bool | None:
    """Whether the signature is that of its key; None where `keys` (id to raw public key) lacks it."""
    raw = keys.get(made.key)
    return None if raw is None else signatures.holds(raw, made.signature, text_of(made))
