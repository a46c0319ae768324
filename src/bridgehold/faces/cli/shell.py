"""`bridgehold shell`: a prompt that talks to one session, with blocks, history and completion.

The prompt has the main thread, so that Ctrl-C is a `KeyboardInterrupt` here: of a command that runs it
cancels the command, of a line it drops the line. The session lives either way.
"""

from __future__ import annotations

import codeop
import contextlib
import importlib
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer

from bridgehold import reads, writes
from bridgehold.client.sync import SyncClient, SyncSession
from bridgehold.config.layout import default_layout
from bridgehold.errors import BridgeholdError, ConfigError, UsageError
from bridgehold.faces.cli import place
from bridgehold.faces.cli.known import typed_bridge
from bridgehold.faces.cli.run import Live, Tenant, building, print_value, read_arguments
from bridgehold.faces.render import plain, print_cold, print_error
from bridgehold.faces.screen import err, out
from bridgehold.ids import LOCAL_TENANT

HISTORY_LINES = 1_000
_MAX_HISTORY_BYTES = 1 << 20
_LAST = frozenset({"memory", "crash", "session_ended", "host_unavailable", "host_leaving"})
"""After these there is no session to talk to."""


def shell(
    bridge: Annotated[str, typer.Argument(help="The bridge to talk to.", callback=typed_bridge)] = "python",
    program: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PROGRAM ARG...]", help="With --terminal; a shell, if none."),
    ] = None,
    terminal: Annotated[
        bool,
        typer.Option("--terminal", help="A program of the sandbox's at this terminal."),
    ] = False,
    tenant: Tenant = LOCAL_TENANT,
    env: place.Env = None,
    cwd: place.Cwd = "",
    limit: place.Limit = None,
) -> None:
    """Talk to one session: `OPERATION {JSON}` a line; with the python bridge, code as at Python's prompt.

    Ctrl-C interrupts the command that runs, Ctrl-D ends. Tab completes; there is a history.
    """
    time_ms, limits = place.limits(limit)
    where = place.placed(env, cwd)
    if terminal:
        from bridgehold.faces.cli.terminal import run_terminal

        raise typer.Exit(run_terminal(bridge, tenant, program or (), limits, where))
    if program:
        raise UsageError(f"{program[0][:80]!r} is a program for --terminal", where="shell")
    with SyncClient.open() as client, contextlib.ExitStack() as stack:
        with building(client):
            opening = client.session(bridge, tenant=tenant, limits=limits, **where)
            session = stack.enter_context(opening)
        err.say((f"session {session.id}; end with Ctrl-D", "dim"))
        stack.enter_context(_line_editing(_completer(client, session, bridge, tenant)))
        while (text := _prompted(bridge)) is not None:
            if text.strip():
                _run(client, session, bridge, tenant, text, time_ms)


def _prompted(bridge: str) -> str | None:
    """The next line or block; None at the end of input."""
    while True:
        try:
            return _read(bridge, blocks=bridge == "python")
        except KeyboardInterrupt:
            err.say(("\nKeyboardInterrupt", "dim"))


def _run(
    client: SyncClient, session: SyncSession, bridge: str, tenant: str, text: str, deadline_ms: int
) -> None:
    try:
        if bridge == "python" and not text.startswith(":"):
            operation, arguments = "python:execute", {"code": text}
        else:
            name, _, given = text.removeprefix(":").strip().partition(" ")
            operation = name if ":" in name else f"{bridge}:{name}"
            arguments = read_arguments(given or "{}")
        with Live(frames=True, apart=True) as shown:
            asked: dict[str, Any] = {"session": session.id, "tenant": tenant, "deadline_ms": deadline_ms}
            reply = client.call(operation, arguments, **asked, on_event=shown)
    except KeyboardInterrupt:
        err.say(("KeyboardInterrupt: the command was cancelled; the session lives", "dim"))
    except BridgeholdError as error:
        print_error(error, as_json=False)
        if error.code in _LAST:
            raise
    else:
        if operation == "python:execute" and isinstance(reply.value, dict):
            print_cold(reply.cold_start)
            _show_execution(reply.value)
        else:
            print_value(reply)


def whole(text: str) -> bool:
    """Whether Python would run `text` now, rather than ask for more (pure). What is no Python is whole."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return codeop.compile_command(text, symbol="single") is not None
        except (SyntaxError, ValueError, OverflowError, MemoryError, RecursionError):
            return True


def _read(bridge: str, *, blocks: bool) -> str | None:
    """A line; with `blocks` a statement of several, which an empty line ends. None at the end of input."""
    try:
        text = input(f"{bridge}> ")
    except EOFError:
        return None
    while blocks and not text.startswith(":") and not whole(text):
        try:
            text += "\n" + input("." * len(bridge) + "> ")
        except EOFError:
            break
    return text


@contextlib.contextmanager
def _line_editing(complete: Callable[[str], list[str]]) -> Iterator[None]:
    """History kept from one time to the next, and completion at Tab; where the terminal has line editing."""
    try:
        readline = importlib.import_module("readline")
    except ImportError:
        yield
        return
    found: list[str] = []

    def completer(text: str, state: int) -> str | None:
        if state == 0:
            found[:] = complete(text) if text else ["    "]
        return found[state] if state < len(found) else None

    file = default_layout().state / "shell-history"
    with contextlib.suppress(BridgeholdError):
        for line in reads.read_text(file, ConfigError, most=_MAX_HISTORY_BYTES, or_none=True).splitlines():
            readline.add_history(line)
    readline.set_completer(completer)
    readline.set_completer_delims(" \t\n`~!@#$%^&*()-=+[{]}\\|;:'\",<>/?")
    readline.parse_and_bind("tab: complete")
    try:
        yield
    finally:
        _keep(file, readline)


def _keep(file: Path, readline: ModuleType) -> None:
    """For its owner alone: what is typed may be anything. Another's host has no place for it."""
    count = readline.get_current_history_length()
    first = max(1, count - HISTORY_LINES + 1)
    lines = [readline.get_history_item(number) or "" for number in range(first, count + 1)]
    with contextlib.suppress(BridgeholdError, OSError):
        writes.replace(file, "".join(f"{line}\n" for line in lines), mode=0o600)


def _completer(
    client: SyncClient, session: SyncSession, bridge: str, tenant: str
) -> Callable[[str], list[str]]:
    """What a word can become: a name of the session's, or an operation."""
    if bridge == "python":
        return lambda text: _names(session, text)
    described = client.describe(bridge, tenant=tenant)
    operations = [str(one["name"]) for one in described["operations"]]
    return lambda text: [f"{name} " for name in operations if name.startswith(text)]


def _names(session: SyncSession, text: str) -> list[str]:
    """By the session itself; none where it can't say now."""
    with contextlib.suppress(BridgeholdError):
        said: Any = session.run("complete", {"code": text}, deadline_ms=5_000)
        found = said.get("matches") if isinstance(said, dict) else None
        return [plain(str(one)) for one in found] if isinstance(found, list) else []
    return []


def _show_execution(value: dict[str, Any]) -> None:
    if value.get("repr") not in (None, "None"):
        out.say(str(value["repr"]), whole=True)
