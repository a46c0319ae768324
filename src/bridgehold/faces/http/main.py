"""The HTTP face's process: no privilege, no key, no right of its own; a client of the host's socket.

``python -m bridgehold.faces.http.main --fd-listener N --fd-config N``, started by the supervisor.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import os
import resource
import signal
import socket
import sys

import msgspec
from aiohttp import web

from bridgehold.config.http import HttpConfig, names_of
from bridgehold.errors import BridgeholdError, UnsupportedError
from bridgehold.faces.http.border import Border
from bridgehold.faces.http.calls import Face
from bridgehold.faces.http.guard import BoundedServer, Runner
from bridgehold.faces.http.openapi import document
from bridgehold.hardening import harden, hear_no_more, leave
from bridgehold.host.startup import LEAVE

_PR_SET_NO_NEW_PRIVS = 38
_FIRST_REQUEST_S = 1.0
"""For who was accepted when the host left, to send what it came for."""
_BESIDE_CONNECTIONS = 1_024
"""Descriptors beside those of callers: one connection to the host for each, and our own."""


async def serve(config: HttpConfig, listener: socket.socket) -> None:
    """Until SIGTERM. What is under way then is cut off, unless the host's end has ended it.

    From `LEAVE` on nobody more is accepted, and each connection ends after what runs on it: after its first
    request, if none has come, which is told after SIGTERM that the host has left.
    """
    stop, leaving = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(LEAVE, leaving.set)
    face = Face(config, document)
    border = Border(face, names_of(listener.getsockname()[0], config.names))
    runner = Runner(border.application(), config.connections, config.idle_s)
    await runner.setup()
    server = runner.server
    assert isinstance(server, BoundedServer)  # noqa: S101 - the runner makes nothing else
    border.server = server
    face.metrics.watch(lambda: server.open_connections)
    sweeping = asyncio.create_task(face.links.sweep())
    site = web.SockSite(runner, listener)
    await site.start()

    async def leave() -> None:
        await leaving.wait()
        loop.remove_reader(listener)  # who was accepted has a connection before the server closes, not after
        await asyncio.sleep(0)
        await site.stop()
        server.leave()

    leaver = asyncio.create_task(leave())
    await stop.wait()
    leaver.cancel()
    sweeping.cancel()
    if server.leaving:
        face.links.give_up()
        await server.emptied(_FIRST_REQUEST_S)
    for task in list(face.commands.tasks):
        task.cancel()
    await runner.cleanup()
    await face.links.close()
    hear_no_more(signal.SIGTERM, LEAVE)


def confine(connections: int) -> None:
    """No further process or thread, no new privilege, and as many descriptors as its callers need."""
    if ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise UnsupportedError("this kernel refuses PR_SET_NO_NEW_PRIVS")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 3 * connections + _BESIDE_CONNECTIONS  # a resumable command has one more to the host
    bound = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (bound, bound))
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))


def main() -> int:
    """Run the HTTP face on descriptors of the supervisor's. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="bridgehold http")
    parser.add_argument("--fd-listener", type=int, required=True)
    parser.add_argument("--fd-config", type=int, required=True)
    arguments = parser.parse_args()
    os.umask(0o077)
    try:
        with os.fdopen(arguments.fd_config, "rb") as file:
            config = msgspec.json.decode(file.read(), type=HttpConfig)
        harden(parent=config.supervisor)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is the supervisor's to pass on
        listener = socket.socket(fileno=arguments.fd_listener)
        listener.set_inheritable(False)
        listener.setblocking(False)
        confine(config.connections)
        asyncio.run(serve(config, listener))
    except BridgeholdError as error:
        sys.stderr.write(f"bridgehold http: {error.code}: {error.message}\n")
        return error.exit_status
    return 0


if __name__ == "__main__":
    leave(main())
