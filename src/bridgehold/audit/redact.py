"""Removal of secrets, pure: by value, in every form a value is likely to be written in, and by shape.

By value: as it is, JSON-escaped, percent-encoded, hexadecimal, and base64 at each of the three
alignments. By shape: what providers' keys look like. By name: what stands under ``api_key`` and
the like. Nothing here keeps a secret longer than the call.
"""

from __future__ import annotations

import base64
import json
import re
from typing import TYPE_CHECKING
from urllib.parse import quote, quote_plus, unquote_to_bytes

import msgspec

from bridgehold.ids import Digest, digest_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MASK = "[redacted]"
SHORTEST = 4
"""Shorter values are not looked for: masking them would shred ordinary text and hide nothing."""
_SHORTEST_ENCODED = 8
_MARGIN = 4096
_PARTIAL = 128
_DEPTH = 32
_NESTED = 4
_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})|\\x([0-9a-fA-F]{2})|\\(.)", re.DOTALL)

KEY_NAMES = frozenset(
    {
        "apikey",
        "accesskey",
        "accesskeyid",
        "accesstoken",
        "authtoken",
        "authorization",
        "proxyauthorization",
        "bearer",
        "clientsecret",
        "cookie",
        "credential",
        "credentials",
        "idtoken",
        "passphrase",
        "passwd",
        "password",
        "privatekey",
        "refreshtoken",
        "secret",
        "secretaccesskey",
        "secretkey",
        "sessiontoken",
        "setcookie",
        "token",
        "xapikey",
        "xgoogapikey",
    }
)

_SHAPES = (
    ("private_key", ("-----BEGIN ",), r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*-----|\Z)"),
    ("sk", ("sk-",), r"(?<![A-Za-z0-9])sk-[A-Za-z0-9_-]{12,}"),
    ("aws", ("AKIA", "ASIA"), r"(?<![A-Za-z0-9])(?:AKIA|ASIA)[0-9A-Z]{16}"),
    ("github", ("ghp_", "gho_", "ghu_", "ghs_", "ghr_"), r"(?<![A-Za-z0-9])gh[pousr]_[A-Za-z0-9]{20,}"),
    ("github", ("github_pat_",), r"github_pat_[A-Za-z0-9_]{20,}"),
    ("google", ("AIza",), r"AIza[0-9A-Za-z_-]{30,}"),
    ("jwt", ("eyJ",), r"eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{4,}(?:\.[A-Za-z0-9_-]*)?"),
    ("huggingface", ("hf_",), r"(?<![A-Za-z0-9])hf_[A-Za-z0-9]{20,}"),
    ("groq", ("gsk_",), r"(?<![A-Za-z0-9])gsk_[A-Za-z0-9]{20,}"),
    ("slack", ("xox",), r"xox[abeoprs]-[A-Za-z0-9-]{10,}"),
    ("gitlab", ("glpat-",), r"glpat-[A-Za-z0-9_-]{16,}"),
    ("bearer", ("earer ",), r"(?<=[Bb]earer )[A-Za-z0-9._~+/=-]{16,}"),
)
_COMPILED = tuple((name, marks, re.compile(pattern, re.DOTALL)) for name, marks, pattern in _SHAPES)


def find_shape(text: str) -> bool:
    """Whether `mask_shapes` would change `text`; cheap where it wouldn't."""
    return any(
        pattern.search(text) is not None
        for _, marks, pattern in _COMPILED
        if any(mark in text for mark in marks)
    )


def mask_shapes(text: str) -> str:
    """`text` with every value of a well-known key shape replaced by ``[redacted:SHAPE]``."""
    for name, marks, pattern in _COMPILED:
        if any(mark in text for mark in marks):
            text = pattern.sub(f"[redacted:{name}]", text)
    return text


class Redactor:
    """Removes the values of `secrets` (text or bytes) from texts."""

    def __init__(self, secrets: Iterable[str | bytes]) -> None:
        values = {_bytes(secret) for secret in secrets}
        self._values = tuple(value for value in values if len(value) >= SHORTEST)
        forms = {form for value in self._values for form in _forms(value)}
        self._forms = tuple(sorted(forms, key=len, reverse=True))
        self.longest = max((len(form) for form in self._forms), default=0)

    def __repr__(self) -> str:
        return f"Redactor({len(self._values)} values)"

    def text(self, text: str) -> str:
        """`text` without any form of any value, and without shapes of keys.

        A text that holds a value in a mixed spelling (some characters percent-encoded, say) is
        masked as a whole.
        """
        for form in self._forms:
            if form in text:
                text = text.replace(form, MASK)
        if self._values and self._hidden(text):
            return MASK
        return mask_shapes(text)

    def _hidden(self, text: str) -> bool:
        if "\n" in text or " " in text or "\\" in text:  # base64 and hexadecimal may be wrapped
            compact = re.sub(r"\\[nrt]|[\s\\]", "", text)
            if any(form in compact for form in self._forms):
                return True
        return any(value in plain for plain in _decodings(text) for value in self._values)


def _bytes(secret: str | bytes) -> bytes:
    return secret if isinstance(secret, bytes) else secret.encode("utf-8", "surrogatepass")


def _forms(value: bytes) -> Iterator[str]:
    text = value.decode("utf-8", "replace")
    yield text
    yield json.dumps(text)[1:-1]
    yield json.dumps(text, ensure_ascii=False)[1:-1]
    if len(value) < _SHORTEST_ENCODED:
        return
    yield quote(value, safe="")
    yield quote(value)
    yield quote_plus(value)
    yield value.hex()
    yield value.hex().upper()
    for shift in range(3):
        yield from _base64_core(value, shift)


def _base64_core(value: bytes, shift: int) -> Iterator[str]:
    """The characters of base64 that `value` alone decides when it stands at offset `shift` mod 3."""
    encoded = base64.b64encode(b"\0" * shift + value)
    first = (0, 2, 3)[shift]
    last = (shift + len(value)) * 8 // 6
    core = encoded[first:last].decode("ascii")
    yield core
    yield core.replace("+", "-").replace("/", "_")


def _unescape(found: re.Match[str]) -> str:
    code = found[1] or found[2]
    return chr(int(code, 16)) if code else {"n": "\n", "r": "\r", "t": "\t"}.get(found[3], found[3])


def _decodings(text: str) -> Iterator[bytes]:
    """What `text` says once undone: percent-encoding twice, nested escapes, hexadecimal."""
    if "%" in text:
        once = unquote_to_bytes(text.encode("utf-8", "replace"))
        yield once
        yield unquote_to_bytes(once)
    plain = text
    for _ in range(_NESTED):
        if "\\" not in plain:
            break
        plain = _ESCAPE.sub(_unescape, plain)
        yield plain.encode("utf-8", "replace")
    for run in re.findall(r"(?:[0-9a-fA-F]{2}[:, -]?){8,}", text):
        digits = re.sub(r"[^0-9a-fA-F]", "", run)
        for shift in (0, 1):
            part = digits[shift:]
            yield bytes.fromhex(part[: len(part) // 2 * 2])


def is_key_name(name: str) -> bool:
    """Whether a value under `name` is masked whatever it is: ``api_key``, ``X-API-Key``, ``hfToken``."""
    plain = re.sub(r"[^a-z]", "", name.lower())
    return plain in KEY_NAMES or plain.endswith(("apikey", "password", "secret", "authtoken", "accesstoken"))


def preview(
    arguments: object, secrets: Iterable[str | bytes] = (), cap_bytes: int = 2000
) -> tuple[Digest, int, str]:
    """(digest of the full arguments, their size in bytes, a redacted JSON text of at most `cap_bytes`).

    The digest is over sorted-key JSON. What doesn't encode (lone surrogates) is escaped first. The
    text is cut at a whole character and a cut is marked with ``…``; it is never read back as JSON.
    """
    encoded = _encode(arguments)
    redactor = Redactor(secrets)
    budget = [cap_bytes + redactor.longest + _MARGIN]
    shown = _encode(_mask(arguments, redactor, budget, 0)).decode("utf-8")
    return digest_bytes(encoded), len(encoded), cut(shown, cap_bytes)


def cut(text: str, cap_bytes: int) -> str:
    """`text` in at most `cap_bytes` of UTF-8, with ``…`` where something is missing."""
    raw = text.encode("utf-8", "backslashreplace")
    if len(raw) <= cap_bytes:
        return raw.decode("utf-8")
    return raw[: max(0, cap_bytes - 3)].decode("utf-8", "ignore") + "…"


def _encode(value: object) -> bytes:
    try:
        return msgspec.json.encode(value, enc_hook=_describe, order="sorted")
    except (UnicodeEncodeError, TypeError, ValueError, RecursionError):
        plain = json.dumps(value, default=repr, sort_keys=False, skipkeys=True)
        return plain.encode("ascii")


def _describe(value: object) -> object:
    return f"<{type(value).__name__}>"


def _mask(value: object, redactor: Redactor, budget: list[int], depth: int) -> object:
    """A copy that stops growing at `budget` characters, with secrets out of every string and key."""
    budget[0] -= 4
    if isinstance(value, str):
        return _mask_text(value, redactor, budget)
    if isinstance(value, (bytes, bytearray)):
        return f"<{len(value)} bytes>"
    if not isinstance(value, (dict, list, tuple)):
        return value
    if depth > _DEPTH:
        return "…"
    if isinstance(value, dict):
        return _mask_dict(value, redactor, budget, depth)
    items: list[object] = []
    for item in value:
        if budget[0] <= 0:
            break
        items.append(_mask(item, redactor, budget, depth + 1))
    return items


def _mask_dict(
    value: dict[object, object], redactor: Redactor, budget: list[int], depth: int
) -> dict[str, object]:
    shown: dict[str, object] = {}
    for key, item in value.items():
        if budget[0] <= 0:
            break
        name = _mask_text(str(key), redactor, budget)
        shown[name] = MASK if is_key_name(name) else _mask(item, redactor, budget, depth + 1)
    return shown


def _mask_text(value: str, redactor: Redactor, budget: list[int]) -> str:
    part = value[: max(0, budget[0])]
    budget[0] -= len(part)
    shown = redactor.text(part)
    if len(part) == len(value):
        return shown
    # The cut may stand inside a secret, and masking earlier ones moves it forward: drop that end.
    return shown[: max(0, len(shown) - redactor.longest - _PARTIAL)] + "…"
