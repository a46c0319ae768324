"""Takes a key's own value out of what a provider sends back: streaming, in every plain spelling.

A match becomes as many ``*``, so that lengths stay true and nothing waits for the end of the body.
An upstream is trusted with the key; this guards against echoes, not against a provider that hides
the key on purpose.
"""

from __future__ import annotations

from collections.abc import Generator

from bridgehold.audit.encodings import Encodings, mask

_PART = 8 * 1024


class Scrubber:
    """For one answer. `count` says how often the value was masked so far."""

    def __init__(self, value: Encodings | bytes) -> None:
        """`value` may be empty: then nothing is masked."""
        self._encodings = value if isinstance(value, Encodings) else Encodings(value)
        self._held = b""
        self.count = 0

    def __repr__(self) -> str:
        return f"Scrubber(count={self.count})"

    def text(self, text: str) -> str:
        """A header's value, whole."""
        data = text.encode("latin-1", "replace")
        spans, _ = self._encodings.find(data)
        self.count += len(spans)
        return mask(data, spans).decode("latin-1")

    def feed(self, data: bytes) -> bytes:
        """What of the stream is safe to pass on; an end that may go on as the value is held back."""
        return self._pass(data, last=False)

    def steps(self, data: bytes) -> Generator[None, None, bytes]:
        """`feed` in bounded parts."""
        passed = []
        for at in range(0, len(data), _PART):
            passed.append(self.feed(data[at : at + _PART]))
            yield
        return b"".join(passed)

    def finish(self) -> bytes:
        """What was held back for a value that might have gone on; call it once, at the end."""
        return self._pass(b"", last=True)

    def _pass(self, data: bytes, *, last: bool) -> bytes:
        data = self._held + data
        spans, hold = self._encodings.find(data, last=last)
        self.count += len(spans)
        self._held = data[hold:]
        return mask(data[:hold], spans)
