"""A sandbox's own network namespace, entered for a moment: its bounds, and the gateway's listener.

The guest never holds the listener, and can't change the bounds: that takes CAP_NET_ADMIN.
"""

from __future__ import annotations

import os
import socket
import threading

from bridgehold.errors import UnsupportedError
from bridgehold.sandbox import containers, syscalls
from bridgehold.sandbox.values import SandboxSpec

SETTINGS = (
    # A connection that nobody has accepted is charged to nobody: what it may hold, and how many rest.
    ("net/ipv4/tcp_rmem", "4096 32768 4194304"),
    ("net/ipv4/tcp_max_tw_buckets", "1024"),
    ("net/ipv4/tcp_no_metrics_save", "1"),  # a table of the machine's
)
"""Path below /proc/sys → value. Each is the namespace's own."""
_IP_FREEBIND = 15


DIALS = 32
"""Sockets, not connected, for the host's connections to a worker that listens: one for each."""


def enter(init: int, spec: SandboxSpec, *, settled: bool = False) -> list[int]:
    """Set the bounds in the network namespace of process `init`, and listen on its loopback as `spec` says.

    The gateway's listener, that of callbacks, and the sockets that belong to it, as far as there are any.
    `settled`: the bounds are set already. Raises `OSError`.

    A thread that lives for this alone joins the network namespace (which is a thread's own), makes
    the socket and ends; it is joined before anything forks. An ordinary user's launcher could not
    go back to its first network namespace, so the main thread never leaves it (docs/adr/0002).
    """
    made: list[int] = []
    failed: list[OSError] = []

    def act() -> None:
        try:
            _act(init, spec, settled, made)
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=act, name="listener")
    thread.start()  # RuntimeError where the machine has no thread left: `shortage` knows it
    thread.join()
    if failed:
        for descriptor in made:
            os.close(descriptor)
        raise failed[0]
    return made


def no_listener(error: OSError) -> UnsupportedError:
    """What `enter` could not do, as the error of a start (pure but for where this runs)."""
    return UnsupportedError(f"no listener inside the sandbox: {error}", hint=containers.hint(error))


def _act(init: int, spec: SandboxSpec, settled: bool, made: list[int]) -> None:
    inside = os.open(f"/proc/{init}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        syscalls.setns(inside, syscalls.CLONE_NEWNET)
    finally:
        os.close(inside)
    if not settled:
        for path, value in SETTINGS:
            write(f"/proc/sys/{path}", value)
    made.extend(_listen(port) for port in (spec.gateway_port, spec.callback_port) if port)
    if spec.callback_port:
        made.extend(socket.socket(socket.AF_INET, socket.SOCK_STREAM).detach() for _ in range(DIALS))


def _listen(port: int) -> int:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_IP, _IP_FREEBIND, 1)  # the loopback may come up a moment later
        listener.bind(("127.0.0.1", port))
        listener.listen(64)
    except BaseException:
        listener.close()
        raise
    return listener.detach()


def write(path: str, value: str) -> None:
    """One write of a sysctl. Raises `OSError` with its path."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, value.encode())
    finally:
        os.close(descriptor)
