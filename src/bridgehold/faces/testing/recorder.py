"""Recording: a client that passes everything on to a real one, and writes down what was said."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import msgspec

from bridgehold import writes
from bridgehold.client.client import Client, Host
from bridgehold.client.connection import Progress
from bridgehold.config.layout import Layout
from bridgehold.errors import BridgeholdError, TranscriptError, UsageError
from bridgehold.faces.testing.masking import Masker
from bridgehold.faces.testing.transcript import (
    MOST_BYTES,
    VERSION,
    Answered,
    Called,
    Ended,
    Failed,
    Header,
    Line,
    ReceivedEvent,
    Stopped,
    encode_line,
)
from bridgehold.protocol.parts import Moved


class Recorder(Client):
    """A `Client` whose requests go to `client`. Use `record`, which opens and closes the file."""

    def __init__(self, client: Client, sink: IO[bytes]) -> None:
        self._client = client
        self._sink = sink
        self._masker = Masker()
        self._calls = 0
        self._bytes = 0
        self._commands: dict[str, tuple[int, float]] = {}
        """Commands that called a tool: their call's number, and when it began."""
        self._write(Header(version=VERSION, bridgehold=version("bridgehold")))

    @property
    def alive(self) -> bool:
        """Whether the client that it records still has a connection."""
        return self._client.alive

    async def aclose(self) -> None:
        """The real client is its opener's to close."""

    async def request(
        self,
        method: str,
        params: dict[str, Any],
        on_event: Progress | None = None,
        moved: Moved | None = None,
    ) -> Any:
        """As `Client.request`, and written down. Keys are masked, in what is written only."""
        if method == "tool.reply":
            self._answered(params)
            return await self._client.request(method, params)
        params = moved.within(params) if moved is not None else params
        shown = self._masker.params(method, params)
        self._calls += 1
        call, begun = self._calls, time.monotonic()
        self._write(Called(call=call, method=method, params=shown))

        def handle_event(event: dict[str, Any]) -> None:
            if event.get("type") == "tool_call":
                self._commands[str(event.get("command"))] = (call, begun)
            self._write(ReceivedEvent(call=call, event=self._masker.masked(event), ms=_since(begun)))
            if on_event is not None:
                on_event(event)

        try:
            value = await self._client.request(method, params, handle_event if on_event is not None else None)
        except BridgeholdError as error:
            info = msgspec.convert(
                self._masker.value(msgspec.to_builtins(error.info())), type=type(error.info())
            )
            self._write(Failed(call=call, error=info, ms=_since(begun)))
            raise
        except asyncio.CancelledError:
            self._write(Stopped(call=call, ms=_since(begun)))
            raise
        self._write(Ended(call=call, value=self._masker.result(method, value), ms=_since(begun)))
        return value

    def _answered(self, params: dict[str, Any]) -> None:
        found = self._commands.get(str(params.get("command")))
        if found is not None:
            call, begun = found
            shown = self._masker.answer(params)
            self._write(Answered(call=call, tool_call=params["call"], ms=_since(begun), **shown))

    def _write(self, line: Line) -> None:
        if self._sink.closed:
            return
        data = encode_line(line)
        self._bytes += len(data)
        if self._bytes > MOST_BYTES:
            raise TranscriptError(
                f"what was said has more than {MOST_BYTES} bytes", hint="Record less in one transcript."
            )
        self._sink.write(data)


def _since(begun: float) -> int:
    """Whole milliseconds."""
    return round((time.monotonic() - begun) * 1000)


@contextlib.asynccontextmanager
async def record(client: Client, file: Path | str) -> AsyncIterator[Recorder]:
    """Record what is asked of `client` in the block, as a transcript for `FakeHost`.

    The file is replaced at the block's end; where an exception leaves the block, it stays as it was. Raises
    `UsageError` where it can't be written.
    """
    path = Path(file)
    async with contextlib.AsyncExitStack() as stack:
        try:
            writes.make_folder(path.parent)
            sink = stack.enter_context(writes.replacing(path, mode=0o600))
        except OSError as error:
            raise UsageError(f"the transcript can't be written: {error.strerror}", where=str(path)) from error
        yield Recorder(client, sink)


@contextlib.asynccontextmanager
async def recording(file: Path | str, layout: Layout | None = None) -> AsyncIterator[Recorder]:
    """`Host.open` and `record` in one."""
    async with Host.open(layout) as host, record(host, file) as recorder:
        yield recorder
