"""Removal of secrets, pure: by value, in every plain spelling (`spellings`), by shape, and by name.

By shape: what providers' keys look like. By name: what stands under ``api_key`` and the like.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import msgspec

from bridgehold.audit.spellings import Spellings, mask, merged
from bridgehold.ids import Digest, digest_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable

MASK = "[redacted]"
_MARGIN = 4096
_PARTIAL = 128
_DEPTH = 32

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

_KEY_ENDS = (
    *("apikey", "apitoken", "accesskey", "accesstoken", "authkey", "authtoken", "bearertoken", "bottoken"),
    *("clientsecret", "password", "passphrase", "privatekey", "refreshtoken", "secret", "secretkey"),
    *("servicekey", "sessiontoken", "signingkey", "subscriptionkey"),
)
_MAYBE = frozenset({"auth", "jwt", "pass", "pat"})
_ONLY_SHAPE = re.compile(r"(?:[A-Za-z]{4,8} )?\[redacted:\w+\]")

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
_BEGINS = re.compile("|".join(re.escape(mark) for _, marks, _ in _SHAPES for mark in marks))


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
    """Removes the values of `secrets` (text, bytes, or their spellings) from texts."""

    def __init__(self, secrets: Iterable[str | bytes | Spellings]) -> None:
        self._values = tuple(one if isinstance(one, Spellings) else Spellings(_bytes(one)) for one in secrets)
        self.longest = max((one.longest for one in self._values), default=0)

    def __repr__(self) -> str:
        return f"Redactor({len(self._values)} values)"

    def text(self, text: str) -> str:
        """`text` without any spelling of any value, and without shapes of keys.

        Where it was cut (``…``, or its end) the beginning of a value is one, too.
        """
        if self._values:
            text = "…".join(self._by_value(part) for part in text.split("…"))
        return mask_shapes(text)

    def _by_value(self, text: str) -> str:
        data = _bytes(text)
        spans = merged(span for value in self._values for span in value.find(data, cut=True)[0])
        return mask(data, spans, MASK.encode()).decode("utf-8", "surrogatepass") if spans else text


def _bytes(secret: str | bytes) -> bytes:
    return secret if isinstance(secret, bytes) else secret.encode("utf-8", "surrogatepass")


def is_key_name(name: str) -> bool:
    """Whether a value under `name` is masked whatever it is: ``api_key``, ``X-API-Key``, ``hfApiTokens``."""
    plain = re.sub(r"[^a-z]", "", name.lower())
    names = (plain,) if plain == "tokens" else (plain, plain.removesuffix("s"))
    return any(one in KEY_NAMES or one.endswith(_KEY_ENDS) for one in names)


def is_token_name(name: str) -> bool:
    """Whether `name` may be a key's (``hf_token``, ``slackBotToken``) or ordinary (``eos_token``)."""
    plain = re.sub(r"[^a-z]", "", name.lower())
    return plain.endswith(("token", "passwd", "pwd", "passcode", "accesskeyid")) or plain in _MAYBE


def is_shape(text: str) -> bool:
    """Whether `text` is a well-known key and nothing else, but for a header's scheme before it."""
    return _BEGINS.search(text) is not None and _ONLY_SHAPE.fullmatch(mask_shapes(text.strip())) is not None


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
