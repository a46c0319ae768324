"""The socket that the HTTP face listens on, made before anything starts: a bad address is said at once."""

from __future__ import annotations

import ipaddress
import socket

from bridgehold.errors import ConfigError
from bridgehold.host.faces.http.checks import listen_address

_BACKLOG = 256


def listen(text: str, *, public: bool, given: socket.socket | None = None) -> socket.socket:
    """A listening socket at ``ADDRESS:PORT`` (port 0: any that is free). Raises `ConfigError`.

    `given`: one that listens already, taken if it listens there, and closed otherwise.
    """
    address, port = listen_address(text, public=public)
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
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"can't listen on {text}: {error.strerror or error}",
            where="http.listen",
            hint="Choose another port, or end what listens there.",
        ) from error
    listener.listen(_BACKLOG)
    return listener


def url_of(listener: socket.socket) -> str:
    address, port = listener.getsockname()[:2]
    return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"
