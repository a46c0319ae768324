"""Counts tokens in an answer that streams by, within a bound and without delaying it."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from bridgehold.host.cell.gateway.shapes import Usage, rules_of

_DOCUMENT = 2 * 1024 * 1024
"""Longer JSON answers are not read; their usage is not known."""
_LINE = 256 * 1024
_FRAME_EVENTS = 4
"""So many events of a stream of chat completions carry no token: its first, its last, its usage."""
_TOKEN_BYTES = 8
"""A text has at least one token for so many bytes."""
_TEXTS = frozenset(
    {"arguments", "content", "partial_json", "reasoning_content", "refusal", "text", "thinking"}
)
"""Where an answer's text stands, in every shape."""


class Counted(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer told of its tokens."""

    said: Usage | None = None
    """By the provider, so far."""
    seen: int = 0
    """Tokens that came out at least, counted from what flowed by."""
    whole: bool = False
    """Whether the provider's last word on it has come."""


NOTHING = Counted()


def charge(reserved: int, counted: Counted, status: int) -> int:
    """Tokens that a request is charged with, once it went out (pure).

    The larger of what was said and what was seen; the reservation too, where the answer was left before
    its end or says nothing of usage. A provider's refusal or redirect has used what it says.
    """
    said = counted.said or Usage()
    known = said.input_tokens + max(said.output_tokens, counted.seen)
    if status >= 300:
        return said.input_tokens + said.output_tokens
    return known if counted.whole and counted.said is not None else max(reserved, known)


class UsageTap:
    """Feed it every chunk, say `end` at the answer's end, ask for `counted` whenever."""

    def __init__(self, shape: str, content_type: str) -> None:
        self._rules = rules_of(shape)
        self._stream = content_type.partition(";")[0].strip().lower() == "text/event-stream"
        self._buffer = bytearray()
        self._skipping = False
        self._said: Usage | None = None
        self._whole = False
        self._text = 0
        self._events = 0

    def feed(self, chunk: bytes) -> None:
        """Look at a piece of the answer on its way to the guest."""
        if self._stream:
            self._feed_lines(chunk)
        elif len(self._buffer) + len(chunk) <= _DOCUMENT:
            self._buffer += chunk
        else:
            self._skipping = True

    def end(self) -> None:
        """The provider has said everything."""
        self._whole = True
        if self._stream and not self._skipping:
            self._line(bytes(self._buffer))
        elif not self._skipping:
            self._take(bytes(self._buffer))
        self._buffer = bytearray()

    @property
    def counted(self) -> Counted:
        """What the answer so far says or shows of its cost."""
        events = max(0, self._events - _FRAME_EVENTS) if self._stream else 0
        return Counted(said=self._said, seen=max(events, self._text // _TOKEN_BYTES), whole=self._whole)

    def _feed_lines(self, chunk: bytes) -> None:
        self._buffer += chunk
        *lines, rest = self._buffer.split(b"\n")
        for line in lines:
            if not self._skipping:
                self._line(bytes(line))
            self._skipping = False
        self._buffer = rest
        if len(rest) > _LINE:
            self._buffer, self._skipping = bytearray(), True

    def _line(self, line: bytes) -> None:
        if not line.startswith(b"data:"):
            return
        document = line[5:].strip()
        if document == b"[DONE]":
            self._whole = True
            return
        self._take(document)

    def _take(self, document: bytes) -> None:
        try:
            value = msgspec.json.decode(document)
        except (msgspec.DecodeError, RecursionError, ValueError):
            return
        for one in value if isinstance(value, list) else [value]:  # Gemini streams as one list, too
            if isinstance(one, dict):
                self._value(one)

    def _value(self, value: dict[str, object]) -> None:
        kind = str(value.get("type", ""))
        self._events += kind in ("", "error") or kind.endswith("delta")
        if not kind.startswith("response."):  # these say each text once more, and again in whole
            self._text += sum(_text_bytes(value))
        found = self._rules.usage(value)
        if found is not None:
            self._said = found.most(self._said or found)
        if self._rules.last(value):
            self._whole = True


def _text_bytes(value: dict[str, object]) -> Iterator[int]:
    """Of an answer's text, wherever it stands; what is generated otherwise (images, vectors) has none."""
    stack: list[object] = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            for name, inner in item.items():
                if isinstance(inner, str):
                    if name in _TEXTS:
                        yield len(inner)
                elif isinstance(inner, dict | list):
                    stack.append(inner)
        elif isinstance(item, list) and item and isinstance(item[0], dict | list):
            stack += item
