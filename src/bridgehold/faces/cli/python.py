"""`bridgehold python`: one program in a fresh sandbox, as `python` would run it here."""

from __future__ import annotations

import base64
import codecs
import contextlib
import sys
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
import typer

from bridgehold import reads
from bridgehold.client.once import Once
from bridgehold.errors import LimitError, UsageError
from bridgehold.faces.cli import place
from bridgehold.faces.cli.ahead import take
from bridgehold.faces.cli.attached import Input, Written, is_null, read_word, running_host
from bridgehold.faces.cli.known import typed_bridge
from bridgehold.faces.cli.run import Tenant, build_bars
from bridgehold.ids import LOCAL_TENANT, parse_name
from bridgehold.protocol.frames import MAX_FRAME
from bridgehold.protocol.values import FilePart

_PART_BYTES = 1 << 20
_MOST_READ = 1024 * 1024 * 1024
"""Bytes of one file that is taken out: a sandbox's may grow as it is read."""
_TOOL = {
    "name": "stdin",
    "description": "The next part of standard input.",
    "parameters": {"type": "object", "properties": {"signals": {"type": "boolean"}}},
}


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
    env: place.Env = None,
    cwd: place.Cwd = "",
    limit: place.Limit = None,
    bridge: Annotated[
        str, typer.Option(help="The bridge whose environment it runs in.", callback=typed_bridge)
    ] = "python",
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
    deadline_ms, limits = place.limits(limit)
    asked = _Program(
        bridge=parse_name(bridge, "bridge"),
        tenant=tenant,
        deadline_ms=deadline_ms,
        limits=limits,
        files=[_pair(one, inside_first=False) for one in file or []],
        wanted=[_pair(one, inside_first=True) for one in read or []],
        arguments={"args": list(invocation.args), **place.placed(env, cwd)},
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
    limits: dict[str, str]
    """Of its session."""
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


def _stdin_text() -> str:
    data = sys.stdin.buffer.read(MAX_FRAME + 1)
    if len(data) > MAX_FRAME:
        raise UsageError(f"has more than {MAX_FRAME} bytes", where="standard input")
    return reads.decode(data.removeprefix(codecs.BOM_UTF8), UsageError, "standard input")  # as `python`


def _run(asked: _Program, *, with_input: bool) -> int:
    """The program's exit status."""
    begun = take(asked.bridge, asked.tenant)
    with running_host() if begun is None else begun.host as host:
        with build_bars() as built:
            params = {"bridge": asked.bridge, "tenant": asked.tenant, "progress": True}
            params |= {"limits": asked.limits} if asked.limits else {}
            session = host.hold(params, built) if begun is None else host.held(begun.request, built)
        for here, there in asked.files:
            _put(host, session, asked, Path(here), there)
        request = _request(asked, session, "program", asked.arguments)
        request |= {"stream": True, "deadline_ms": asked.deadline_ms, "tools": [_TOOL]}
        with contextlib.ExitStack() as stack:
            written = stack.enter_context(Written())
            empty = not with_input or is_null(0)
            heard = stack.enter_context(Input(host, written, empty=empty))
            ended = read_word(host.request("run", request, heard)["value"], _Ended)
        for there, here in asked.wanted:
            _get(host, session, asked, there, Path(here))
        return ended.status


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

    with writes.arriving(here) as file:
        offset = 0
        while True:
            what = {"path": there, "offset": offset, "length": _PART_BYTES}
            part = FilePart.of(host.request("run", _request(asked, session, "files_read", what))["value"])
            offset += file.write(part.base64)
            if part.end:
                return
            if offset >= _MOST_READ:
                raise LimitError(f"the file has more than {_MOST_READ} bytes", where=there)
