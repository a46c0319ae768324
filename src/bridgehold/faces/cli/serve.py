"""`bridgehold serve`, `stop` and `init`: the host as a service, and its first configuration."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from importlib.metadata import version
from typing import Annotated

import typer

from bridgehold import writes
from bridgehold.client.client import Client
from bridgehold.config.layout import default_layout
from bridgehold.config.load import load_config
from bridgehold.error_texts import mending
from bridgehold.errors import ConfigError, HostLeavingError, HostUnavailableError
from bridgehold.faces.cli.options import Json
from bridgehold.faces.progress import waiting
from bridgehold.faces.render import print_json, tell_passed_over, tell_unread
from bridgehold.faces.screen import err, out
from bridgehold.supervisor import handover

Now = Annotated[bool, typer.Option("--now", help="End commands that run, rather than wait for them.")]
_LAST_SECONDS = 20.0
"""A host's last words and its last processes, once it has closed its connections."""
_FIRST_CONFIG = """\
# Bridgehold's configuration. docs/reference/configuration.md lists every key with its default.

[host]
memory_reserve = "1GiB"     # what sessions never get together

# Who may ask. The host's own user and root are operators; everybody else needs a section.
# [principals.app]
# uids = [1001]
# tenants = ["acme"]
# tokens = ["sha256:…"]      # for HTTP: docs/how-to/http.md

# HTTP, off unless it is asked for.
# [http]
# listen = "127.0.0.1:8765"

# A provider behind the gateway; its key is put in by the keeper (bridgehold secrets set openai).
# [providers.openai]
# base_url = "https://api.openai.com/v1"
"""


def serve(
    http: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS:PORT",
            help="Serve HTTP there too, as `[http] listen` does: 127.0.0.1:8765. Callers need tokens.",
        ),
    ] = "",
    check: Annotated[
        bool,
        typer.Option(
            handover.CHECK, help="Start nothing: say whether this version could, with this configuration."
        ),
    ] = False,
) -> None:
    """Start the host on its socket and stay in the foreground until stopped.

    A socket that systemd listens on (a socket unit) is taken over, and left to it.
    """
    from bridgehold.config.http import listen_address
    from bridgehold.faces.http.listening import listen, url_of
    from bridgehold.supervisor.folders import could_start
    from bridgehold.supervisor.supervise import run

    layout = default_layout()
    config = load_config(layout.config_file)
    address = http or config.http.listen
    said = "--http" if http else f"[http] listen in {layout.config_file}"
    if check:
        if address:
            listen_address(address, public=config.http.public)
        could_start(layout, config)
        out.say(f"{version('bridgehold')} could start with {layout.config}")
        return
    command = handover.command_line(sys.argv, sys.orig_argv, sys.executable)
    given = handover.take(os.environ, os.getpid())
    listener = listen(address, public=config.http.public, said=said, given=given.http) if address else None

    def ready() -> None:
        there = "" if layout.config_file.exists() else " (there is none: defaults hold)"
        err.say(f"configuration {layout.config_file}{there}")
        tell_unread(layout)
        tell_passed_over(layout)
        err.say(f"listening on {layout.socket}")
        if listener is not None:
            err.say(f"listening on {url_of(listener)}")
            said = any(section.tokens for section in config.principals.values())
            if not said and not any(layout.tokens.glob("*.toml")):
                err.say("nobody has a token yet: `bridgehold token create` makes one")

    raise typer.Exit(run(layout, ready=ready, http=listener, given=given, command=command))


def stop(now: Now = False, json_output: Json = False) -> None:
    """Stop the running host: what runs may finish, sessions end, the audit is synced, nothing is left.

    Commands get `[host] drain_s`, 10 seconds by default.
    """
    with waiting("waiting for what runs"):
        kept = asyncio.run(_stop(now=now))
        path, deadline = default_layout().socket, time.monotonic() + _LAST_SECONDS
        while not kept and path.exists() and time.monotonic() < deadline:  # its last process takes it away
            time.sleep(0.02)
    if json_output:
        print_json({"stopped": str(path)})
    else:
        out.say("stopped")


def restart(now: Now = False, json_output: Json = False) -> None:
    """Replace the running host by the version that is installed now, with the configuration as it is now.

    That version is asked first whether it could start; if not, the host goes on. Commands that run may finish
    as with `stop`; whoever connects meanwhile waits, and is served by the new host. Sessions end.
    """
    with waiting("waiting for what runs, then for the new host"):
        before, after = asyncio.run(_restart(now=now))
    if json_output:
        print_json({"before": before, "after": after})
    else:
        out.say(f"restarted: {before} → {after}" if before != after else f"restarted: {after}")


async def _restart(*, now: bool) -> tuple[str, str]:
    """The versions before and after."""
    async with Client.connect(reconnect_s=0) as client:
        before = (await client.request("ping", {}))["version"]
        await _until_gone(client, now=now, again=True)
    async with Client.connect() as client:
        return before, (await client.request("ping", {}))["version"]


async def _stop(*, now: bool) -> bool:
    async with Client.connect(reconnect_s=0) as client:
        return await _until_gone(client, now=now, again=False)


async def _until_gone(client: Client, *, now: bool, again: bool) -> bool:
    """Whether the socket stays, for the next host."""
    try:
        await client.request("stop", {"now": now, "again": again})
        while True:  # the host closes the connection when it is gone
            await client.request("ping", {})
            await asyncio.sleep(0.05)
    except HostLeavingError:
        return True
    except HostUnavailableError:
        return False


def init(
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing config.toml.")] = False,
    json_output: Json = False,
) -> None:
    """Write a first config.toml with comments, in the layout's place."""
    layout = default_layout()
    if layout.config_file.exists() and not force:
        load_config(layout.config_file)
        raise ConfigError(
            "there is a configuration already, and it is sound",
            where=str(layout.config_file),
            hint="Edit it, or overwrite it with --force.",
        )
    try:
        for folder in (layout.policies, layout.tenants, layout.bridges):
            writes.make_folder(folder)
        writes.replace(layout.config_file, _FIRST_CONFIG)
    except OSError as error:
        raise ConfigError(
            f"can't be written: {error.strerror}",
            where=str(error.filename or layout.config_file),
            hint=mending(
                error,
                "Write it as the user whose host it is, or set BRIDGEHOLD_HOME to a folder of your own.",
            ),
        ) from error
    if json_output:
        print_json({"wrote": str(layout.config_file)})
    else:
        out.say(f"wrote {layout.config_file}")
