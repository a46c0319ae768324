"""`bridgehold python`: one program in a fresh sandbox, as `python` would run it here."""

from __future__ import annotations

import base64
import codecs
import contextlib
import os
import queue
import select
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal, NamedTuple, Self, TypeVar

import msgspec
import typer

from bridgehold import reads
from bridgehold.client.once import Once
from bridgehold.config.layout import default_layout
from bridgehold.errors import (
    BridgeholdError,
    HostUnavailableError,
    LimitError,
    ProtocolError,
    UsageError,
    harmless,
)
from bridgehold.faces.cli.run import Tenant, build_bars, parse_deadline
from bridgehold.ids import LOCAL_TENANT, parse_name
from bridgehold.protocol.frames import MAX_FRAME
from bridgehold.protocol.values import FilePart

_PART_BYTES = 1 << 20
_READ_BYTES = 64 * 1024
_PATIENCE_S = 15.0
"""How long one question for input is left open: a tool of a caller's has 30 s."""
_MOST_WAITING = 4_096
"""Pieces of output that wait to be written."""
_STREAMS = {"stdout": 1, "stderr": 2}
_MOST_READ = 1024 * 1024 * 1024
"""Bytes of one file that is taken out: a sandbox's may grow as it is read."""
T = TypeVar("T", bound=msgspec.Struct)
_TOOL = {
    "name": "stdin",
    "description": "The next part of standard input.",
    "parameters": {"type": "object", "properties": {"signals": {"type": "boolean"}}},
}


class _Piece(msgspec.Struct, frozen=True):
    """Of a program's output: the sandbox's own word, as `_Ended` is."""

    stream: Literal["stdout", "stderr"]
    text: str = ""
    base64: bytes = b""


class _Ended(msgspec.Struct, frozen=True):
    status: Annotated[int, msgspec.Meta(ge=0, le=255)]


def python(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[-c CODE | -m MODULE | FILE | -] [ARG]...", help="As of `python`."),
    ] = None,
    file: Annotated[
        list[str] | None, typer.Option("--file", help="A file to put inside first: HERE or HERE:THERE.")
    ] = None,
    read: Annotated[
        list[str] | None, typer.Option("--read", help="A file to take out afterwards: THERE or THERE:HERE.")
    ] = None,
    env: Annotated[
        list[str] | None, typer.Option("--env", help="A variable: NAME=VALUE, or NAME as it is here.")
    ] = None,
    limit: Annotated[
        list[str] | None, typer.Option("--limit", help="Less than the policy's: time=5s.")
    ] = None,
    bridge: Annotated[str, typer.Option(help="The bridge whose environment it runs in.")] = "python",
    tenant: Tenant = LOCAL_TENANT,
) -> None:
    """Run a program as `python` would, in a sandbox of its own that ends with it.

    Streams are live, the exit status is the program's. Options of ours come first.
    """
    from bridgehold.faces.legacy.python_argv import parse

    if not arguments and sys.stdin.isatty():
        from bridgehold.faces.cli.shell import shell

        shell(bridge=bridge, tenant=tenant)
        return
    invocation = parse(arguments or ["-"])
    parse_name(tenant, "tenant")
    asked = _Program(
        bridge=parse_name(bridge, "bridge"),
        tenant=tenant,
        deadline_ms=_limits(limit or []),
        files=[_pair(one, inside_first=False) for one in file or []],
        wanted=[_pair(one, inside_first=True) for one in read or []],
        arguments={"args": list(invocation.args), "env": _variables(env or [])},
    )
    text, kind = invocation.text, str(invocation.kind)
    if kind == "stdin":
        text = _stdin_text()
    elif kind == "script":
        kind = "file"
        asked.files.insert(0, (text, Path(text).name))
        text = Path(text).name
    asked.arguments.update(kind=kind, text=text)
    raise typer.Exit(_run(asked, with_input=kind != "stdin"))


class _Program(NamedTuple):
    bridge: str
    tenant: str
    deadline_ms: int
    files: list[tuple[str, str]]
    """Here, there."""
    wanted: list[tuple[str, str]]
    """There, here."""
    arguments: dict[str, Any]


def _pair(text: str, *, inside_first: bool) -> tuple[str, str]:
    first, colon, second = text.rpartition(":")
    if not colon:
        first, second = text, Path(text).name
    if not first or not second:
        what = "THERE:HERE" if inside_first else "HERE:THERE"
        raise UsageError(f"{text[:200]!r} names no file", hint=f"Write a path, or {what}.")
    return first, second


def _variables(given: list[str]) -> dict[str, str]:
    found = {}
    for one in given:
        name, equals, value = one.partition("=")
        if not equals and name not in os.environ:
            raise UsageError(f"there is no variable {name[:80]} here", where="--env")
        found[name] = value if equals else os.environ[name]
    return found


def _limits(given: list[str]) -> int:
    """The deadline, in milliseconds; 0: the policy's."""
    deadline = 0
    for one in given:
        name, _, value = one.partition("=")
        if name != "time" or not value:
            raise UsageError(f"{one[:80]!r} is no limit", where="--limit", hint="There is time=5s.")
        deadline = parse_deadline(value)
    return deadline


def _stdin_text() -> str:
    data = sys.stdin.buffer.read(MAX_FRAME + 1)
    if len(data) > MAX_FRAME:
        raise UsageError(f"has more than {MAX_FRAME} bytes", where="standard input")
    return reads.decode(data.removeprefix(codecs.BOM_UTF8), UsageError, "standard input")  # as `python`


def _run(asked: _Program, *, with_input: bool) -> int:
    """The program's exit status."""
    with _host() as host:
        with build_bars() as built:
            params = {"bridge": asked.bridge, "tenant": asked.tenant, "progress": True}
            session = host.hold(params, built)
        for here, there in asked.files:
            _put(host, session, asked, Path(here), there)
        request = _request(asked, session, "program", asked.arguments)
        request |= {"stream": True, "deadline_ms": asked.deadline_ms, "tools": [_TOOL]}
        with contextlib.ExitStack() as stack:
            written = stack.enter_context(_Written())
            empty = not with_input or _is_null(0)
            heard = stack.enter_context(_Input(host, written, empty=empty))
            ended = _read(host.request("run", request, heard)["value"], _Ended)
        for there, here in asked.wanted:
            _get(host, session, asked, there, Path(here))
        return ended.status


def _read(said: object, kind: type[T]) -> T:
    try:
        return msgspec.convert(said, type=kind)
    except msgspec.ValidationError as error:
        raise ProtocolError(f"the session's word on its program is none: {error}") from None


@contextlib.contextmanager
def _host() -> Iterator[Once]:
    """The host that runs, or a private one for the block."""
    layout = default_layout()
    with contextlib.ExitStack() as stack:
        try:
            host = Once.open(layout.socket)
        except HostUnavailableError:
            from bridgehold.client.private import PrivateHost

            stack.callback(PrivateHost.start(layout).stop)
            host = Once.open(layout.socket)
        yield stack.enter_context(host)


def _request(asked: _Program, session: str, operation: str, arguments: dict[str, Any]) -> dict[str, Any]:
    named = {"operation": f"{asked.bridge}:{operation}", "arguments": arguments}
    return {**named, "session": session, "tenant": asked.tenant}


def _put(host: Once, session: str, asked: _Program, here: Path, there: str) -> None:
    try:
        with here.open("rb") as file:
            offset, part = 0, file.read(_PART_BYTES)
            while True:
                following = file.read(_PART_BYTES)
                text = base64.b64encode(part).decode("ascii")
                what = {"path": there, "base64": text, "offset": offset, "last": not following}
                host.request("run", _request(asked, session, "files_write", what))
                if not following:
                    return
                offset, part = offset + len(part), following
    except OSError as error:
        raise UsageError(f"can't be read: {error.strerror}", where=str(here)) from error


def _get(host: Once, session: str, asked: _Program, there: str, here: Path) -> None:
    from bridgehold import writes

    with writes.create(here, mode=0o644) as file:
        offset = 0
        while True:
            what = {"path": there, "offset": offset, "length": _PART_BYTES}
            part = FilePart.of(host.request("run", _request(asked, session, "files_read", what))["value"])
            offset += file.write(part.base64)
            if part.end:
                return
            if offset >= _MOST_READ:
                raise LimitError(f"the file has more than {_MOST_READ} bytes", where=there)


def _is_null(descriptor: int) -> bool:
    """Whether nothing can come from it."""
    with contextlib.suppress(OSError):
        return os.fstat(descriptor).st_rdev == Path(os.devnull).stat().st_rdev
    return True


class _Written:
    """Writes what the program does, on a thread: a pager that waits keeps none of the host's answers waiting.

    To a terminal nothing is written that it could act on.
    """

    def __init__(self) -> None:
        self._waiting: queue.Queue[tuple[int, bytes] | None] = queue.Queue(_MOST_WAITING)
        self._broken = False
        self._shown = {number: os.isatty(number) for number in _STREAMS.values()}
        self._thread = threading.Thread(target=self._write, daemon=True)

    def __call__(self, event: dict[str, Any]) -> None:
        if self._broken:
            raise BrokenPipeError
        if event.get("type") != "chunk":
            return
        piece = _read(event["data"], _Piece)
        number = _STREAMS[piece.stream]
        data = piece.text.encode() or piece.base64
        if self._shown[number]:
            data = harmless(data.decode("utf-8", "backslashreplace")).encode()
        self._waiting.put((number, data))

    def __enter__(self) -> _Written:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._waiting.put(None)
        self._thread.join()

    def _write(self) -> None:
        while (item := self._waiting.get()) is not None:
            number, data = item
            try:
                while data and not self._broken:
                    data = data[os.write(number, data) :]
            except OSError:
                self._broken = True


class _Input:
    """Answers what the program's side asks for, on threads: input once it is read, and an interrupt.

    The first interrupt is the program's, the next one ours.
    """

    def __init__(self, host: Once, written: _Written, *, empty: bool) -> None:
        """`empty`: there is no input."""
        self._host = host
        self._written = written
        self._empty = empty
        self._inputs: queue.Queue[dict[str, Any]] = queue.Queue()
        self._signals: queue.Queue[dict[str, Any]] = queue.Queue()
        self._woken, self._wake = os.pipe()
        self._interrupts = 0
        self._before: Any = None

    def __call__(self, event: dict[str, Any]) -> None:
        if event.get("type") == "tool_call":
            (self._signals if event["arguments"].get("signals") else self._inputs).put(event)
        else:
            self._written(event)

    def __enter__(self) -> Self:
        for work in (self._give_input, self._give_signals):
            threading.Thread(target=work, daemon=True).start()
        self._before = signal.signal(signal.SIGINT, self._interrupt)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        self._interrupts += 1
        if self._interrupts > 1:
            raise KeyboardInterrupt
        os.write(self._wake, b"i")

    def _give_input(self) -> None:
        while True:
            asked = self._inputs.get()
            result: dict[str, Any] = {}
            if self._empty or select.select([0], [], [], _PATIENCE_S)[0]:
                data = b"" if self._empty else os.read(0, _READ_BYTES)
                self._empty = not data
                result = {"base64": base64.b64encode(data).decode("ascii"), "eof": not data}
            self._reply(asked, result)

    def _give_signals(self) -> None:
        while True:
            asked = self._signals.get()
            woken = select.select([self._woken], [], [], _PATIENCE_S)[0] and os.read(self._woken, 1)
            self._reply(asked, {"signal": int(signal.SIGINT)} if woken else {})

    def _reply(self, asked: dict[str, Any], result: dict[str, Any]) -> None:
        with contextlib.suppress(BridgeholdError, OSError):
            told = {"command": asked["command"], "call": asked["call"], "result": result}
            self._host.send("tool.reply", told)
