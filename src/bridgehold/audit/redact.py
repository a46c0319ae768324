"""Removal of secrets, pure: by value, in every plain spelling (`encodings`), by shape, and by name.

By shape (`key_shapes`): what providers' keys look like. By name (`key_names`): what stands under ``api_key``
and the like, in a table (`preview`) or in a text (`key_texts`), and who a URL is fetched as.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from bridgehold.audit.encodings import Encodings, Span, mask, merged
from bridgehold.audit.key_shapes import BEGINS, shape_steps
from bridgehold.audit.key_texts import HINT, named_steps
from bridgehold.audit.searching import LOOKS, MASK, searched
from bridgehold.steps import finished

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable


_FOLDED = tuple(one.encode() for one in "\u0130\u0131\u017f\u212a")
"""Letters that are one of a to z to whoever asks for neither case."""
LOUD = re.compile(f"(?i:{HINT.pattern})|{BEGINS.pattern}")
"""What a text does not hold that `mask_shapes` and `mask_named` leave as it is."""


def may_fold(text: bytes) -> bool:
    """Whether a word of a to z may stand in `text` (UTF-8) in other letters than these."""
    return not text.isascii() and any(one in text for one in _FOLDED)


class Redactor:
    """Removes the values of `secrets` (text, bytes, or their spellings) from texts."""

    def __init__(self, secrets: Iterable[str | bytes | Encodings]) -> None:
        self._values = tuple(one if isinstance(one, Encodings) else Encodings(_bytes(one)) for one in secrets)
        self.longest = max((one.longest for one in self._values), default=0)

    def __repr__(self) -> str:
        return f"Redactor({len(self._values)} values)"

    def text(self, text: str) -> str:
        """`text` without any spelling of any value, and without shapes of keys.

        Where it was cut (``…``, or its end) the beginning of a value is one, too.
        """
        return finished(self.steps(text))

    def steps(self, text: str) -> Generator[None, None, str]:
        """`text` in bounded parts: for who has more to do meanwhile."""
        if self._values:
            parts = text.split("…")
            for index, part in enumerate(parts):
                parts[index] = yield from self._by_value(part)
                if len(part) > LOOKS or not index % LOOKS:
                    yield
            text = "…".join(parts)
        text = yield from shape_steps(text)
        for found in searched(HINT, text):
            if found is not None:
                return (yield from named_steps(text))
            yield
        return text

    def _by_value(self, text: str) -> Generator[None, None, str]:
        data = _bytes(text)
        spans: list[Span] = []
        for value in self._values:
            for span in value.spans(data):
                if span is None:
                    yield
                else:
                    spans.append(span)
        return mask(data, merged(spans), MASK.encode()).decode("utf-8", "surrogatepass") if spans else text


def _bytes(secret: str | bytes) -> bytes:
    return secret if isinstance(secret, bytes) else secret.encode("utf-8", "surrogatepass")
