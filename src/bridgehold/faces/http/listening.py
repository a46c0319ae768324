"""The socket that the HTTP face listens on, made before anything starts: a bad address is said at once."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from pathlib import Path

from bridgehold.config.http import listen_address
from bridgehold.errors import ConfigError

_BACKLOG = 256
_LISTENS = "0A"
"""The state of a listening socket in /proc/net/tcp."""


def listen(
    text: str, *, public: bool, said: str = "http.listen", given: socket.socket | None = None
) -> socket.socket:
    """A listening socket at ``ADDRESS:PORT`` (port 0: any that is free), which `said` says.

    `given`: one that listens already, taken if it listens there, and closed otherwise. Raises
    `ConfigError`: of a port that is taken it says who has it, as far as this user may see.
    """
    try:
        address, port = listen_address(text, public=public)
    except ConfigError as error:
        error.where = said
        raise
    if given is not None:
        place = given.getsockname()
        if place[0] == address and port in (0, place[1]):
            return given
        given.close()
    family = socket.AF_INET6 if ipaddress.ip_address(address).version == 6 else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((address, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise refused(text, port, error, said) from error
    return listener


def refused(text: str, port: int, error: OSError, said: str) -> ConfigError:
    """Why nobody can listen at `text`, which `said` says, and what to do."""
    return ConfigError(_why(text, port, error), where=said, hint=_remedy(port, error))


def _why(text: str, port: int, error: OSError) -> str:
    if error.errno != errno.EADDRINUSE:
        return f"can't listen on {text}: {os.strerror(error.errno or 0)}"
    return f"can't listen on {text}: {who_listens(port) or 'a process that is not shown to this user'} does"


def _remedy(port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"End it, or choose another port, such as {port + 1 if port < 65_535 else 8765}."
    if error.errno in (errno.EACCES, errno.EPERM):
        return "Ports below 1024 are root's: choose one above, such as 8765."
    if error.errno == errno.EADDRNOTAVAIL:
        return "This machine has no such address: `ip address` shows those that it has."
    return "Choose another address or port."


def who_listens(port: int) -> str:
    """``pid 4711 (python3 -m http.server)``: who listens on the TCP port, if this user may see it."""
    inodes = set()
    for table in ("tcp", "tcp6"):
        try:
            rows = Path(f"/proc/net/{table}").read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        cells = [row.split() for row in rows]
        inodes |= {
            cell[9] for cell in cells if cell[3] == _LISTENS and int(cell[1].rpartition(":")[2], 16) == port
        }
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for process in Path("/proc").glob("[0-9]*") if wanted else ():
        try:
            held = any(str(entry.readlink()) in wanted for entry in (process / "fd").iterdir())
            command = (process / "cmdline").read_bytes() if held else b""
        except OSError:
            continue  # another user's, or gone
        if held:
            shown = " ".join(command.replace(b"\0", b" ").decode(errors="replace").split())
            return f"pid {process.name} ({shown[:80] or 'unnamed'})"
    return ""


def url_of(listener: socket.socket) -> str:
    """The listener's address as a URL, for IPv4 and IPv6."""
    address, port = listener.getsockname()[:2]
    return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"
