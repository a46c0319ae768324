"""Counts tokens in an answer that streams by, within a bound and without delaying it."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator

import msgspec

from bridgehold.keeper.shapes import Usage, rules_of
from bridgehold.keeper.used import came_in, said_of

_DOCUMENT = 2 * 1024 * 1024
"""Of a longer JSON answer its end alone is looked at for usage, where all providers say it."""
_MOST_PARTS = 100_000
"""Objects, lists and keys of an answer that is read whole, on a loop that all tenants share; beyond them the
same, and an event of a stream isn't read."""
_TAIL = 64 * 1024
_LINE = 256 * 1024
_FRAME_EVENTS = 4
"""So many events of a stream of chat completions carry no token: its first, its last, its usage."""
_TOKEN_BYTES = 8
"""A text has at least one token for so many bytes; it has at most one for each."""
_TEXTS = frozenset(
    {"arguments", "content", "delta", "partial_json", "reasoning_content", "refusal", "text", "thinking"}
)
"""Where an answer's text stands, in every shape."""
_TABLES = frozenset({"args", "input"})
"""What a model wrote as a table: arguments of a function's call."""
_REPEATING = ("response.", "transcript.")
"""Events of these kinds say each text once as it comes, and once more in whole."""
_USAGES = ("usageMetadata", "usage")
_LONGEST_USAGE, _MOST_LOOKS = 8 * 1024, 4
"""Of the name of a usage, as many as are looked at from the end: a model may have written more of them."""
_LONGEST_NAME = 32
_WITHIN = re.compile(rb'[^"\\\n]*(?:\\[^\n][^"\\\n]*)*')
_NO_CHOICES = re.compile(rb'"choices"\s*:\s*\[\s*\]')
_SPACES = re.compile(rb"[ \t\r\n]*")


def is_stream(content_type: str) -> bool:
    """Whether an answer of this type is a stream of events."""
    return content_type.partition(";")[0].strip().lower() == "text/event-stream"


class Counted(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer told of its tokens."""

    said: Usage | None = None
    """By the provider, so far."""
    seen: int = 0
    """Tokens that came out at least, counted from what flowed by."""
    text: int = 0
    """Bytes of what a model wrote that flowed by: so many tokens at most."""
    used: tuple[tuple[str, int], ...] = ()
    """What of it is billed by use, and how often, as far as it was read."""
    whole: bool = False
    """Whether the provider's last word on it has come."""


NOTHING = Counted()


def charge(reserved: int, counted: Counted, status: int, *, open_ended: int = 0) -> int:
    """Tokens that a request is charged with, once it went out (pure).

    The larger of what was said and what was seen; the reservation too, where the answer was left before
    its end or says nothing of usage, and then, for a request that named no bound of its own, all that
    flowed by may have been a token each. `open_ended`: the bytes of such a request, 0 for others. A
    provider's refusal or redirect has used what it says.
    """
    said = counted.said or Usage()
    known = said.input_tokens + max(said.output_tokens, counted.seen)
    if status >= 300:
        return said.input_tokens + said.output_tokens
    if counted.whole and counted.said is not None:
        return known
    return max(reserved, known, open_ended and max(open_ended, said.input_tokens) + counted.text)


class Unasked:
    """Leaves the event that names the usage out of a stream of chat completions: a client that didn't ask
    for it takes the first choice of each event. All else passes as it came, line by line."""

    def __init__(self) -> None:
        self._line = bytearray()
        self._passing = False
        """Within a line that is too long to be held back."""
        self._dropped = False

    def feed(self, chunk: bytes) -> bytes:
        """What goes on to the guest."""
        made = bytearray()
        *lines, rest = chunk.split(b"\n")
        for line in lines:
            self._line += line + b"\n"
            made += self._passed()
            self._passing = False
        self._line += rest
        if self._passing or len(self._line) > _LINE:
            made += self._line
            self._line, self._passing = bytearray(), True
        return bytes(made)

    def end(self) -> bytes:
        """The rest of it."""
        return self._passed()

    def _passed(self) -> bytes:
        line, self._line = bytes(self._line), bytearray()
        if self._passing:
            return line
        empty = not line.strip()
        if (empty and self._dropped) or _says_usage_alone(line):
            self._dropped = not empty  # and the empty line that ends the event
            return b""
        self._dropped = False
        return line


def _says_usage_alone(line: bytes) -> bool:
    if not line.startswith(b"data:") or b'"usage"' not in line or _NO_CHOICES.search(line) is None:
        return False
    try:
        value = msgspec.json.decode(line[5:])
    except (msgspec.DecodeError, RecursionError, ValueError):
        return False
    return isinstance(value, dict) and value.get("choices") == [] and isinstance(value.get("usage"), dict)


class UsageTap:
    """Feed it every chunk, say `end` at the answer's end, ask for `counted` whenever."""

    def __init__(self, shape: str, content_type: str) -> None:
        self._rules = rules_of(shape)
        self._stream = is_stream(content_type)
        self._buffer = bytearray()
        self._skipping = False
        self._said: Usage | None = None
        self._whole = False
        self._used: Counter[str] = Counter()
        """As the answer counts them, by kind."""
        self._came: Counter[str] = Counter()
        """As they came one by one."""
        self._text = 0
        """Characters in what was read whole."""
        self._written = 0
        """Bytes of the same."""
        self._unread = _Writing()
        """Of what isn't: a document before its end, lines of a stream that are too long."""
        self._events = 0

    def feed(self, chunk: bytes) -> None:
        """Look at a piece of the answer on its way to the guest."""
        if self._stream:
            self._feed_lines(chunk)
            return
        self._unread.feed(chunk)
        self._buffer += chunk
        if len(self._buffer) > _DOCUMENT:
            self._buffer, self._skipping = self._buffer[-_TAIL:], True

    def end(self) -> None:
        """The provider has said everything."""
        self._whole = True
        if self._stream and not self._skipping:
            self._line(bytes(self._buffer))
        elif self._stream:
            pass
        elif self._skipping or not self._take(bytes(self._buffer)):
            self._said = self._said_last()
        self._buffer = bytearray()

    @property
    def counted(self) -> Counted:
        """What the answer so far says or shows of its cost."""
        unread = self._unread.written
        if self._stream:
            events = max(0, self._events - _FRAME_EVENTS)
            seen, said = max(events, self._text // _TOKEN_BYTES), self._said
            text = self._written + unread + _written(self._buffer)
        elif self._whole:
            seen, said, text = self._text // _TOKEN_BYTES, self._said, max(self._written, unread)
        else:
            seen, said, text = unread // _TOKEN_BYTES, self._said_last(), unread
        used = tuple((self._used | self._came).items())
        return Counted(said=said, seen=seen, text=text, used=used, whole=self._whole)

    def _said_last(self) -> Usage | None:
        """The last usage in a document that isn't read whole. No text looks so: its quotes are escaped."""
        document = bytes(self._buffer)
        for name in _USAGES:
            key, at = f'"{name}"'.encode(), len(document)
            for _ in range(_MOST_LOOKS):
                at = document.rfind(key, 0, at)
                if at < 0:
                    break
                start = document.find(b"{", at, at + len(key) + _LONGEST_NAME)
                part = document[start : start + _LONGEST_USAGE].decode("utf-8", "replace")
                try:
                    value, _ = json.JSONDecoder().raw_decode(part) if start >= 0 else (None, 0)
                except (ValueError, RecursionError):  # cut off within: an earlier one may be whole
                    continue
                if (found := self._rules.usage({name: value})) is not None:
                    return found
        return None

    def _feed_lines(self, chunk: bytes) -> None:
        self._buffer += chunk
        *lines, rest = self._buffer.split(b"\n")
        for line in lines:
            if self._skipping:
                self._unread.feed(bytes(line) + b"\n")
            else:
                self._line(bytes(line))
            self._skipping = False
        self._buffer = rest
        if self._skipping or len(rest) > _LINE:
            self._unread.feed(bytes(rest))
            self._buffer, self._skipping = bytearray(), True

    def _line(self, line: bytes) -> None:
        if not line.startswith(b"data:"):
            if b'"' in line:  # no stream of events, whatever it is called
                self._unread.feed(line + b"\n")
            return
        document = line[5:].strip()
        if document == b"[DONE]":
            self._whole = True
            return
        if not self._take(document):  # cut off within, or one of many lines: its text flowed by all the same
            self._unread.feed(document + b"\n")

    def _take(self, document: bytes) -> bool:
        """Whether it could be read."""
        if sum(map(document.count, (b"{", b"[", b":"))) > _MOST_PARTS:
            return False
        try:
            value = msgspec.json.decode(document)
        except (msgspec.DecodeError, RecursionError, ValueError):
            return False
        for one in value if isinstance(value, list) else [value]:  # Gemini streams as one list, too
            if isinstance(one, dict):
                self._value(one)
        return True

    def _value(self, value: dict[str, object]) -> None:
        kind = str(value.get("type", ""))
        self._events += kind in ("", "error") or kind.endswith("delta")
        if kind.startswith(_REPEATING):
            delta = value.get("delta")
            self._written += len(delta.encode("utf-8", "replace")) if isinstance(delta, str) else 0
        else:
            for text in _texts(value):
                self._text += len(text)
                self._written += len(text.encode("utf-8", "replace"))
        self._used |= said_of(value)
        self._came += came_in(value)
        found = self._rules.usage(value)
        if found is not None:
            self._said = found.most(self._said or found)
        if self._rules.last(value):
            self._whole = True


def _texts(value: dict[str, object]) -> Iterator[str]:
    """An answer's texts, wherever they stand; what is generated otherwise (images, vectors) has none."""
    stack: list[tuple[object, bool]] = [(value, False)]
    while stack:
        item, all_of_it = stack.pop()
        if isinstance(item, dict):
            for name, inner in item.items():
                if isinstance(inner, str):
                    if all_of_it or name in _TEXTS:
                        yield inner
                elif isinstance(inner, dict | list):
                    stack.append((inner, all_of_it or name in _TABLES))
        elif isinstance(item, list) and item and isinstance(item[0], dict | list):
            stack += [(inner, all_of_it) for inner in item]


class _Writing:
    """Bytes that a model wrote, counted in JSON on its way: however it is cut, and without its end."""

    def __init__(self) -> None:
        self.written = 0
        self._inside = False
        """Of a string."""
        self._escaped = False
        self._taken = 0
        """What the string under way, or the last one, added: nothing, where it turns out to be a name."""
        self._string = b""
        self._ended = False
        """A string has ended, and what follows says whether it was a name."""
        self._name = ""
        self._depth = 0
        self._table: int | None = None
        """The depth at which a table began of which all is written by a model."""

    def feed(self, data: bytes) -> None:
        at = 0
        while at < len(data):
            at = self._text(data, at) if self._inside else self._between(data, at)

    def _text(self, data: bytes, at: int) -> int:
        if self._escaped:
            self._escaped = False
            stop = at + 1
        else:
            found = _WITHIN.match(data, at)
            stop = found.end() if found else at
        if self._table is not None or self._name in _TEXTS:
            self._taken += stop - at
            self.written += stop - at
        if len(self._string) < _LONGEST_NAME:
            self._string += data[at:stop][:_LONGEST_NAME]
        if stop == len(data):
            return stop
        self._escaped = data[stop] == ord("\\")
        if not self._escaped:  # a quote, or a line's end, which no string has
            self._inside, self._ended = False, data[stop] == ord('"')
        return stop + 1

    def _between(self, data: bytes, at: int) -> int:
        if self._ended:
            found = _SPACES.match(data, at)
            at = found.end() if found else at
            if at == len(data):
                return at
            self._ended = False
            if data[at] == ord(":"):
                self._name = self._string.decode("utf-8", "replace")
                if self._table is None:
                    self.written -= self._taken
        quote = data.find(b'"', at)
        stop = len(data) if quote < 0 else quote
        part = data[at:stop]
        opened = part.count(b"{") + part.count(b"[")
        if self._table is None and opened and self._name in _TABLES:
            self._table = self._depth
        self._depth += opened - part.count(b"}") - part.count(b"]")
        if self._table is not None:
            self.written += len(part)
            if self._depth <= self._table:
                self._table, self._name = None, ""
        if quote >= 0:
            self._inside, self._string, self._taken = True, b"", 0
            stop += 1
        return stop


def _written(data: bytearray) -> int:
    writing = _Writing()
    writing.feed(bytes(data))
    return writing.written
