"""Reads model and token counts from an answer that flows by: bounded, and never in its way."""

from __future__ import annotations

import msgspec

from bridgehold.host.gateway.shapes import Usage, rules_of

_DOCUMENT = 2 * 1024 * 1024
"""Longer JSON answers are not read; their usage is estimated."""
_LINE = 256 * 1024


class UsageTap:
    """Feed it every chunk; ask once at the end."""

    def __init__(self, shape: str, content_type: str) -> None:
        self._usage_of = rules_of(shape).usage
        self._stream = content_type.partition(";")[0].strip().lower() == "text/event-stream"
        self._buffer = bytearray()
        self._skipping = False
        self._found: Usage | None = None
        self._bytes = 0
        self._events = 0

    def feed(self, chunk: bytes) -> None:
        self._bytes += len(chunk)
        if self._stream:
            self._feed_lines(chunk)
        elif len(self._buffer) + len(chunk) <= _DOCUMENT:
            self._buffer += chunk
        else:
            self._skipping = True

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
        self._events += 1
        if b"sage" not in line:  # usage, usageMetadata
            return
        self._take(line[5:].strip())

    def _take(self, document: bytes) -> None:
        try:
            value = msgspec.json.decode(document)
        except (msgspec.DecodeError, RecursionError, ValueError):
            return
        found = self._usage_of(value)
        if found is not None:
            older = self._found or Usage()
            self._found = Usage(
                input_tokens=max(older.input_tokens, found.input_tokens),
                output_tokens=max(older.output_tokens, found.output_tokens),
            )

    def result(self, request_bytes: int) -> tuple[Usage, bool]:
        """(usage, whether it is estimated): four bytes a token in, one event or four bytes a token out.

        Estimates keep the budget honest where a guest asks for no usage, or leaves before it comes.
        """
        if not self._stream and not self._skipping and self._buffer:
            self._take(bytes(self._buffer))
            self._buffer = bytearray()
        if self._found is not None:
            return self._found, False
        output = self._events if self._stream else self._bytes // 4
        return Usage(input_tokens=request_bytes // 4, output_tokens=output), True
