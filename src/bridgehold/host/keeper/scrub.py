"""Takes a key's own value out of what a provider sends back: streaming, in every usual spelling.

As it is, JSON-escaped, percent-encoded, hexadecimal, and base64 at each of the three alignments.
A match becomes as many ``*``, so that lengths stay true and nothing waits for the end of the body.
An upstream is trusted with the key; this guards against echoes, not against a provider that hides
the key on purpose.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from urllib.parse import quote, quote_plus

_LONG = 16


class Scrubber:
    """For one answer. `count` says how often the value was masked so far."""

    def __init__(self, value: bytes) -> None:
        """`value` may be empty: then nothing is masked."""
        forms = {form for form in _forms(value) if len(form) >= 6}
        self._forms = sorted(forms, key=len, reverse=True)
        self._pattern = re.compile(b"|".join(re.escape(form) for form in self._forms) or b"(?!)")
        self._held = b""
        self.count = 0

    def __repr__(self) -> str:
        return f"Scrubber(count={self.count})"

    def text(self, text: str) -> str:
        """A header's value, whole."""
        return self._mask(text.encode("latin-1", "replace")).decode("latin-1")

    def feed(self, data: bytes) -> bytes:
        """What of the stream is safe to pass on; an end that may begin a match is held back."""
        data = self._mask(self._held + data)
        keep = self._partial(data)
        self._held = data[len(data) - keep :]
        return data[: len(data) - keep]

    def finish(self) -> bytes:
        held, self._held = self._held, b""
        return held

    def _mask(self, data: bytes) -> bytes:
        masked, count = self._pattern.subn(lambda match: b"*" * len(match[0]), data)
        self.count += count
        return masked

    def _partial(self, data: bytes) -> int:
        """Length of the longest end of `data` that is the beginning of a form."""
        longest = 0
        for form in self._forms:
            tail = data[-(len(form) - 1) :]
            place = tail.find(form[:1])
            while place >= 0 and len(tail) - place > longest:
                if form.startswith(tail[place:]):
                    longest = len(tail) - place
                    break
                place = tail.find(form[:1], place + 1)
        return longest


def _forms(value: bytes) -> Iterator[bytes]:
    yield value
    yield value.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
    yield value.replace(b"\\", b"\\\\").replace(b'"', b'\\"').replace(b"/", b"\\/")
    text = value.decode("latin-1")
    for encoded in (quote(text, safe=""), quote(text), quote_plus(text)):
        yield encoded.encode("ascii")
        yield re.sub(r"%[0-9A-F]{2}", lambda match: match[0].lower(), encoded).encode("ascii")
    yield value.hex().encode("ascii")
    yield value.hex().upper().encode("ascii")
    for shift in range(3):
        encoded64 = base64.b64encode(b"\0" * shift + value)
        core = encoded64[(0, 2, 3)[shift] : (shift + len(value)) * 8 // 6]
        yield core
        yield core.replace(b"+", b"-").replace(b"/", b"_")
    if len(value) >= _LONG:  # an echo that is cut short, as error messages do, still shows too much
        yield value[: len(value) * 3 // 4]
        yield value[len(value) // 4 :]
