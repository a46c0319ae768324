"""The program behind a shim's ``bin/python3``: python to whoever starts it, a client of the host inside."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from bridgehold import reads
from bridgehold.bridges.legacy.rpc_start import is_rpc_worker
from bridgehold.client.client import Client, Host
from bridgehold.config.layout import Layout
from bridgehold.error_texts import from_os
from bridgehold.errors import BridgeholdError, ConfigError, HostUnavailableError
from bridgehold.faces.legacy.pipes import PAGED_SECONDS, UNREAD_SECONDS, PipeIn, PipeOut, take_standard
from bridgehold.faces.legacy.python_argv import Invocation, parse
from bridgehold.faces.legacy.rpc import RpcShim
from bridgehold.faces.legacy.run import AsItComes, frames, say, serve
from bridgehold.faces.legacy.shim import Shim
from bridgehold.faces.legacy.values import Outcome, ShimFile
from bridgehold.hardening import open_standard

SHIM_FILE = "bridgehold.json"
_TRIES = 6
_STATUS_NO_FILE = 2
_STATUS_DEFECT = 70


def main(executable: str) -> None:
    """Never returns: exits as the script did. No traceback, and nothing on stdout that is not its own."""
    with contextlib.suppress(OSError):
        os.setsid()  # a group of its own: whoever ends the group ends this worker and no other
    os._exit(run(Path(executable), sys.argv[1:]))


def run(executable: Path, arguments: Sequence[str]) -> int:
    """The exit status."""
    open_standard()
    try:
        invocation = located(parse(arguments))
        if invocation.kind == "script" and not Path(invocation.text).is_file():
            say(f"can't open file {invocation.text!r}: no such file", name="python3")
            return _STATUS_NO_FILE
        given = read_shim_file(executable.resolve().parent.parent / SHIM_FILE)
        frames_in, frames_out = take_standard()
        if not invocation.takes_input:
            frames_in = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        outcome = asyncio.run(_relay(given, invocation, frames_in, frames_out))
    except BridgeholdError as error:
        say(f"{error.code}: {error.message}" + (f" ({error.hint})" if error.hint else ""))
        return error.exit_status
    except OSError as error:
        ours = from_os(error)
        say(f"{ours.code}: {ours.message}" + (f" ({ours.where})" if ours.where else ""))
        return ours.exit_status
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # noqa: BLE001 - the last border: people get a sentence, not a traceback
        say(f"internal: {type(error).__name__}: {error}")
        return _STATUS_DEFECT
    if outcome.message:
        say(outcome.message)
    return outcome.status


def located(invocation: Invocation) -> Invocation:
    """A script by its real path: the host knows no working directory of ours, and follows no link."""
    if invocation.kind != "script":
        return invocation
    return msgspec.structs.replace(invocation, text=os.path.realpath(invocation.text))


def python_path(text: str) -> tuple[str, ...]:
    """The folders of PYTHONPATH; the host takes those that lie below the scripts."""
    return tuple(os.path.realpath(folder) for folder in text.split(os.pathsep) if folder)


def read_shim_file(path: Path) -> ShimFile:
    """Raises `ConfigError`."""
    hint = "Make the folder anew with `bridgehold shim`."
    data = reads.read_bytes(path, ConfigError, hint=hint)
    try:
        return msgspec.json.decode(data, type=ShimFile)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise ConfigError(f"is no shim's own file: {error}", where=str(path), hint=hint) from error


async def _relay(given: ShimFile, invocation: Invocation, frames_in: int, frames_out: int) -> Outcome:
    layout = Layout(config=Path(given.config), state=Path(given.state), run=Path(given.run))
    async with contextlib.AsyncExitStack() as stack:
        client = await _open_host(stack, layout)
        path = python_path(os.environ.get("PYTHONPATH", ""))
        if invocation.kind == "script" and is_rpc_worker(invocation.text, invocation.args):
            return await RpcShim(client, given, invocation, os.environ, path).run()
        patience_s = UNREAD_SECONDS if invocation.protocol else PAGED_SECONDS
        out, err = PipeOut(frames_out, patience_s=patience_s), PipeOut(2, patience_s=patience_s)
        shim = Shim(
            client,
            out,
            err,
            invocation=invocation,
            profile=given.profile,
            tenant=given.tenant,
            path=path,
        )
        reader = frames() if invocation.protocol else AsItComes()
        outcome = await serve(shim, PipeIn(frames_in), out, reader)
        await err.close(1.0)
        return outcome


async def _open_host(stack: contextlib.AsyncExitStack, layout: Layout) -> Client:
    """The host that runs; or a private one, which another worker may be starting at this moment."""
    for left in reversed(range(_TRIES)):
        try:
            return await stack.enter_async_context(Host.open(layout))
        except HostUnavailableError:
            if not left:
                raise
            await asyncio.sleep(1.0)
    raise HostUnavailableError("no host")
