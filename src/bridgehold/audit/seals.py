"""Seals: an old segment, closed and signed, whose bodies may have been dropped. Pure.

A seal lies beside its segment, as `SEGMENT.seal`: a signed text, and behind it a mark of each line, so that
a changed line is found by its number::

    bridgehold-audit-seal-v1
    instance i-0123456789ab
    segment 1
    lines 1 1284
    head 6f0c…                    the hash of the last line
    was sha256:…                  the segment's bytes as they were written
    now sha256:…                  … and with what was dropped
    dropped 1200                  lines without their body
    marks sha256:…                of all that follows the signature
    time 2026-11-20T09:30:00.000Z
    by uid 0
    key k-93c1f0a2b4d5e6f7
    signature BASE64
    1c5a9f00                      eight digits of each line's sha256, as it is now

A line without its body keeps its envelope, whom and what it belongs to, numbers, and the hash that it had: so
the chain goes on through it, what was used can still be counted, and every intent finds its outcome.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Mapping

import msgspec

from bridgehold import signatures
from bridgehold.audit import chain
from bridgehold.audit.events import JOURNAL_KINDS
from bridgehold.errors import AuditError

SUFFIX = ".seal"
PREFIX = "bridgehold-audit-seal-v1\n"
MARK = 8
DROPPED = "by seal"
"""What a line without its body says in its field ``dropped``."""
MOST_BYTES = 32 * 1024 * 1024
"""Of a seal with its marks."""
_DIGEST = r"sha256:[0-9a-f]{64}"
_TEXT = re.compile(
    PREFIX + r"instance (i-[0-9a-z]{12})\nsegment ([1-9][0-9]{0,7})\n"
    r"lines ([1-9][0-9]{0,15}) ([1-9][0-9]{0,15})\nhead ([0-9a-f]{64})\n"
    rf"was ({_DIGEST})\nnow ({_DIGEST})\ndropped (0|[1-9][0-9]{{0,15}})\nmarks ({_DIGEST})\n"
    r"time ([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z)\nby ([a-z][ -~]{0,99})\n"
    r"key (k-[0-9a-f]{16})\nsignature ([A-Za-z0-9+/]{86}==)\n"
)
_WHOLE = ("host.", "config.", "policy.", "grant.", "admin.", "secret.", "environment.")
"""What an operator did, and what was in force, is never dropped; nor are the journal's own lines."""
_KEPT = (
    *("tenant", "session", "command", "bridge", "operation", "grant", "intent", "parent", "decided"),
    *("worker", "zygote", "purpose", "start", "provider", "model", "code"),
)
"""Texts that stay: names and references by which lines belong together."""
_MOST_TEXT = 200
_TIES = ("tenant", "principal", "session", "command")
_BODY = msgspec.json.Decoder(dict[str, object])
_MARK_OF_STUB = f',"dropped":"{DROPPED}","prev":"'.encode()


class Seal(msgspec.Struct, frozen=True, kw_only=True):
    """What is signed, with its signature in base64."""

    instance: str
    segment: int
    first: int
    last: int
    head: str
    was: str
    now: str
    dropped: int
    marks: str
    time: str
    by: str
    key: str
    signature: str = ""

    @property
    def place(self) -> tuple[str, int]:
        """The instance and the number of the segment that it belongs to."""
        return self.instance, self.segment


def text_of(seal: Seal) -> bytes:
    """The bytes to sign."""
    return (
        f"{PREFIX}instance {seal.instance}\nsegment {seal.segment}\nlines {seal.first} {seal.last}\n"
        f"head {seal.head}\nwas {seal.was}\nnow {seal.now}\ndropped {seal.dropped}\nmarks {seal.marks}\n"
        f"time {seal.time}\nby {seal.by}\nkey {seal.key}\n"
    ).encode("ascii")


def sign(seal: Seal, with_key: Callable[[bytes], bytes]) -> Seal:
    """The seal with the raw 64-byte signature that `with_key` makes."""
    signature = base64.b64encode(with_key(text_of(seal))).decode("ascii")
    return msgspec.structs.replace(seal, signature=signature)


def render(seal: Seal) -> str:
    """The seal's text, without marks."""
    return f"{text_of(seal).decode('ascii')}signature {seal.signature}\n"


def parse(text: str, where: str = "") -> Seal:
    """The seal in `text`, exactly as `render` writes it. Raises `AuditError`; checks no signature."""
    found = _TEXT.fullmatch(text)
    if found is None:
        raise AuditError("not a segment's seal", where=where, hint="`audit seal` makes it.")
    instance, segment, first, last, head, was, now, dropped, marks, time, by, key, signature = found.groups()
    return Seal(
        instance=instance,
        segment=int(segment),
        first=int(first),
        last=int(last),
        head=head,
        was=was,
        now=now,
        dropped=int(dropped),
        marks=marks,
        time=time,
        by=by,
        key=key,
        signature=signature,
    )


def split(data: bytes, where: str = "") -> tuple[Seal, bytes]:
    """The seal and its marks, of a file's bytes. Raises `AuditError`."""
    at = data.find(b"\nsignature ")
    end = data.find(b"\n", at + 1) + 1
    if at < 0 or not end:
        raise AuditError("not a segment's seal", where=where)
    try:
        return parse(data[:end].decode("ascii"), where), data[end:]
    except UnicodeDecodeError:
        raise AuditError("not a segment's seal", where=where) from None


def is_signed(seal: Seal, keys: Mapping[str, bytes]) -> bool:
    """Whether the signature is that of its key, and that is one of `keys` (id to raw public key)."""
    raw = keys.get(seal.key)
    return raw is not None and signatures.holds(raw, seal.signature, text_of(seal))


def mark(line: bytes) -> bytes:
    """Of a line without its newline."""
    return hashlib.sha256(line).hexdigest()[:MARK].encode("ascii")


def digest(data: bytes) -> str:
    """As seals write it."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def without_body(line: bytes) -> bytes:
    """What is left of a stored line (no newline) once its body is dropped; itself, where it has none to drop.

    The same again gives the same.
    """
    head = chain.head_of(line)
    if head is None or is_stub(line):
        return line
    kind = head[4].decode("ascii")
    if kind in JOURNAL_KINDS or kind.startswith(_WHOLE):
        return line
    body = chain.decode(_BODY, line)
    if body is None:
        return line
    ties = {name: body.get(name, "") if name in _KEPT else "" for name in _TIES}
    rest = {name: value for name, value in body.items() if name not in _ENVELOPE and _stays(name, value)}
    kept = msgspec.json.encode({**ties, **rest, "dropped": DROPPED})[1:-1]
    return b"%b,%b%b" % (head[0], _ascii(kept), line[-(chain.TAIL + chain.PREV_TAIL) :])


_ENVELOPE = frozenset({"v", "instance", "seq", "time", "mono_ns", "boot", "kind", "prev", "hash", *_TIES})


def _stays(name: str, value: object) -> bool:
    if isinstance(value, str):
        return name in _KEPT and len(value) <= _MOST_TEXT
    return isinstance(value, int) and abs(value) <= chain.MAX_INTEGER


def _ascii(text: bytes) -> bytes:
    """JSON text with everything outside of printable ASCII escaped, as stored lines have it."""
    shown = text.decode("utf-8")
    if shown.isascii() and shown.isprintable():
        return text
    pieces = (c if " " <= c <= "~" else "".join(f"\\u{u:04x}" for u in _units(c)) for c in shown)
    return "".join(pieces).encode("ascii")


def _units(character: str) -> tuple[int, ...]:
    data = character.encode("utf-16-be", "surrogatepass")
    return tuple(int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2))


def is_stub(line: bytes) -> bool:
    """Whether a stored line says that its body was dropped; a seal must say so, too."""
    end = len(line) - chain.TAIL - chain.PREV_TAIL
    return line[end - len(_MARK_OF_STUB) + len(b',"prev":"') :].startswith(_MARK_OF_STUB)
