"""What a transcript may not hold: keys, by the name they stand under, by their shape and by their value.

Recording and replaying mask alike, so a replayed call matches whatever key it was made with.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

import msgspec

from bridgehold.audit.arguments import split_keys
from bridgehold.audit.encodings import SHORTEST, Encodings
from bridgehold.audit.key_names import is_key_name
from bridgehold.audit.key_shapes import find_shape
from bridgehold.audit.redact import Redactor
from bridgehold.audit.searching import MASK
from bridgehold.errors import TranscriptError, UsageError
from bridgehold.faces.testing.transcript import DEEPEST
from bridgehold.ids import digest_bytes

_KEY_LENGTH = 16
_STARS = b"*"


class Masker:
    """Remembers every key that it was shown, and takes it out of all that comes later."""

    def __init__(self) -> None:
        self._known: dict[str, Encodings] = {}
        self._redactor = Redactor(())

    def params(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """A request's parameters as a transcript has them. Raises `TypeError` for what is no JSON."""
        plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(params))
        arguments = plain.get("arguments")
        if isinstance(arguments, dict):
            try:
                self._learn([value for _, value in split_keys(arguments).keys])
            except UsageError as error:
                raise TranscriptError(error.message, hint="") from None
        self._learn(_secrets(plain, DEEPEST))
        if method == "artifact.put" and isinstance(plain.get("data"), str):
            plain["data"] = str(digest_bytes(plain["data"].encode()))
        shown = self.value(plain)
        assert isinstance(shown, dict)  # noqa: S101 - a dict is masked to a dict
        return shown

    def result(self, method: str, value: object) -> Any:
        """What a request gave; an artifact's bytes are starred out as a whole where a key is in them."""
        plain = msgspec.json.decode(msgspec.json.encode(value))
        if method == "artifact.get" and isinstance(plain, dict) and isinstance(plain.get("data"), str):
            data = plain.pop("data")
            return {**self.masked(plain), "data": self._bytes(data)}
        return self.masked(plain)

    def masked(self, value: object) -> Any:
        """What the host's side said. Of it only what is as long as keys are is looked for later: a short
        word that stands under ``token`` may well be one of a text's."""
        plain = msgspec.json.decode(msgspec.json.encode(value))
        self._learn(one for one in _secrets(plain, DEEPEST) if len(one) >= _KEY_LENGTH and " " not in one)
        return self.value(plain)

    def answer(self, params: dict[str, Any]) -> dict[str, Any]:
        """What a tool of the caller's answered: its ``result`` or its ``error``."""
        given = {name: params[name] for name in ("result", "error") if name in params}
        plain = msgspec.json.decode(msgspec.json.encode(given))
        self._learn(_secrets(plain, DEEPEST))
        shown: dict[str, Any] = self.value(plain)
        return shown

    def value(self, value: Any) -> Any:
        """A plain value without what is known, named or shaped like a key."""
        return _masked(value, self._redactor, named=False, depth=DEEPEST)

    def _learn(self, values: Any) -> None:
        fresh = {value for value in values if len(value) >= SHORTEST and value != MASK} - self._known.keys()
        if fresh:
            self._known |= {value: Encodings(value.encode("utf-8", "surrogatepass")) for value in fresh}
            self._redactor = Redactor(self._known.values())

    def _bytes(self, data: str) -> str:
        try:
            raw = base64.b64decode(data, validate=True)
        except binascii.Error:
            return MASK
        text = raw.decode("latin-1")
        if find_shape(text) or self._redactor.text(text) != text:
            return base64.b64encode(_STARS * len(raw)).decode("ascii")
        return data


def _secrets(value: Any, depth: int, *, named: bool = False) -> set[str]:
    """Texts that stand under the name of a key."""
    if isinstance(value, str):
        return {value} if named else set()
    if depth == 0:
        return set()
    found: set[str] = set()
    if isinstance(value, dict):
        for key, item in value.items():
            found |= _secrets(item, depth - 1, named=named or is_key_name(key))
    elif isinstance(value, list):
        for item in value:
            found |= _secrets(item, depth - 1, named=named)
    return found


def _masked(value: Any, redactor: Redactor, *, named: bool, depth: int) -> Any:
    if value is None or isinstance(value, bool) or value == "":
        return value
    if isinstance(value, dict | list) and depth == 0:
        raise TranscriptError(f"a value nested more than {DEEPEST} deep is not recorded", hint="")
    if isinstance(value, dict):
        return {
            redactor.text(key): _masked(item, redactor, named=named or is_key_name(key), depth=depth - 1)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_masked(item, redactor, named=named, depth=depth - 1) for item in value]
    if named:
        return MASK
    return redactor.text(value) if isinstance(value, str) else value
