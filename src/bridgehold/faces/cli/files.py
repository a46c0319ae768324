"""`bridgehold files SESSION ls | get | put | mkdir | mv | rm`: the files of a session that is open."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from bridgehold.client.client import Client
from bridgehold.client.session import ClientSession
from bridgehold.client.session_files import SessionFiles
from bridgehold.errors import UsageError
from bridgehold.faces.cli.asking import using
from bridgehold.faces.cli.known import session_of
from bridgehold.faces.cli.options import Json
from bridgehold.faces.layout import dim, number
from bridgehold.faces.render import print_json, table
from bridgehold.faces.screen import err
from bridgehold.policies.units import format_size
from bridgehold.protocol.values import FileFact


class _Typed:
    """What was typed after the action."""

    def __init__(self, paths: list[str], *, depth: int, recursive: bool, json_output: bool) -> None:
        self.paths = paths
        self.depth = depth
        self.recursive = recursive
        self.json_output = json_output

    def path(self, index: int, instead: str | None = None) -> str:
        """The one at `index`. Raises `UsageError` where it is missing."""
        if index < len(self.paths):
            return self.paths[index]
        if instead is None:
            raise UsageError("a path is missing", where="bridgehold files", hint=_HINT)
        return instead


_HINT = "ls [PATH] · get PATH [HERE] · put HERE [PATH] · mkdir PATH · mv PATH TO · rm PATH"


def files(
    session: Annotated[str, typer.Argument(help="Its id or name.")],
    action: Annotated[str, typer.Argument(help="ls, get, put, mkdir, mv or rm.")],
    paths: Annotated[list[str] | None, typer.Argument(help="One or two, as the action takes them.")] = None,
    depth: Annotated[int, typer.Option(help="Levels that `ls` shows.", min=1, max=32)] = 1,
    recursive: Annotated[bool, typer.Option("--recursive", help="`rm`: with all that is in it.")] = False,
    json_output: Json = False,
) -> None:
    """See, take out, put in, move and remove files of a session. Folders go as a whole."""
    act = _ACTIONS.get(action)
    if act is None:
        raise UsageError(f"{action[:40]!r} is no action", where="bridgehold files", hint=_HINT)
    typed = _Typed(paths or [], depth=depth, recursive=recursive, json_output=json_output)
    using(lambda client: _of(client, session, act, typed))


async def _of(client: Client, name: str, act: _Act, typed: _Typed) -> None:
    async with session_of(client, name):
        found = await client.request("session.find", {"session": name})
    session = ClientSession(client, found["bridge"], found["tenant"], found["id"])
    await act(session.files, typed)


async def _list(of: SessionFiles, typed: _Typed) -> None:
    found = await of.list(typed.path(0, ""), depth=typed.depth)
    if typed.json_output:
        print_json(found)
        return
    rows = [(one.path + _mark(one), format_size(one.size_bytes), _when(one.modified)) for one in found]
    table(("path", number("size"), dim("changed")), rows, empty="there is nothing")


def _mark(fact: FileFact) -> str:
    return {"folder": "/", "link": f" -> {fact.target}", "other": " (special)"}.get(fact.kind, "")


def _when(seconds: float) -> str:
    """As the sandbox says; a time that no calendar has is none."""
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return ""


async def _get(of: SessionFiles, typed: _Typed) -> None:
    path = typed.path(0)
    to = Path(typed.path(1, Path(path).name))
    err.say(f"{await of.get(path, to)} file(s) in {to}")


async def _put(of: SessionFiles, typed: _Typed) -> None:
    source = Path(typed.path(0))
    err.say(f"{await of.put(source, typed.path(1, source.name))} file(s) put")


async def _mkdir(of: SessionFiles, typed: _Typed) -> None:
    await of.mkdir(typed.path(0))


async def _move(of: SessionFiles, typed: _Typed) -> None:
    await of.rename(typed.path(0), typed.path(1))


async def _remove(of: SessionFiles, typed: _Typed) -> None:
    await of.remove(typed.path(0), recursive=typed.recursive)
    err.say(f"removed {typed.path(0)}")


_Act = Callable[[SessionFiles, _Typed], Awaitable[None]]
_ACTIONS: dict[str, _Act] = {
    "ls": _list,
    "get": _get,
    "put": _put,
    "mkdir": _mkdir,
    "mv": _move,
    "rm": _remove,
}
