"""A cgroup from the user's own systemd, as a desktop or an ssh login has it: a scope, delegated to us.

What a login starts lies in its session's scope, which is systemd's and not ours to divide. Its user's manager
gives a process a scope of its own when asked (``StartTransientUnit``), as podman asks; so no command has to
be typed before `bridgehold run`.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bridgehold.errors import UnsupportedError
from bridgehold.ids import random_id
from bridgehold.sandbox.cgroups import delegation
from bridgehold.sandbox.cgroups.places import Hierarchy, hierarchies, own_cgroups

if TYPE_CHECKING:
    from jeepney.low_level import Message  # type: ignore[import-untyped]  # it has no stubs

_SOCKETS = ("bus", "systemd/private")
"""Below XDG_RUNTIME_DIR: the session's bus, and the manager's own, where no bus runs."""
_SECONDS = 5.0
_LOOK_AGAIN_SECONDS = 0.01
_READ = 4096


def enter(choice: str, environ: Mapping[str, str]) -> bool:
    """Have the user's manager move this process into a scope of its own, where that is what is missing.

    `choice`: ``[host] cgroup``; anything but ``auto`` asks for nothing. False where no scope is needed, or
    there is nobody to ask. Raises `UnsupportedError` where the manager refuses or doesn't answer in 5 s.
    """
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    if choice != "auto" or os.getuid() == 0 or not runtime or not _wanted():
        return False
    addresses = list(_addresses(Path(runtime)))
    if not addresses:
        return False
    name = f"bridgehold-{random_id('scope', 12)}.scope"
    failures = []
    for address in addresses:
        try:
            _ask(address, request(name, os.getpid()))
        except Exception as error:  # noqa: BLE001 - whatever a parser makes of what a bus says, it is no scope
            failures.append(f"{address.name}: {error}")
            continue
        _wait_for(name)
        return True
    raise UnsupportedError(f"the user's systemd gives no scope: {'; '.join(failures)}", where=runtime)


def request(name: str, pid: int) -> Message:
    """The call that makes the scope `name` of the process `pid`, to be divided by it (pure)."""
    from jeepney import DBusAddress, new_method_call  # type: ignore[import-untyped]  # it has no stubs

    manager = DBusAddress(
        "/org/freedesktop/systemd1", "org.freedesktop.systemd1", "org.freedesktop.systemd1.Manager"
    )
    properties: list[tuple[str, tuple[str, Any]]] = [
        ("Description", ("s", "Bridgehold, and its sandboxes")),
        ("PIDs", ("au", [pid])),
        ("Delegate", ("b", True)),
        ("CollectMode", ("s", "inactive-or-failed")),
    ]
    return new_method_call(manager, "StartTransientUnit", "ssa(sv)a(sa(sv))", (name, "fail", properties, []))


def _wanted() -> bool:
    """Whether this machine's cgroups are v2 alone and the one that this process is in isn't ours."""
    with contextlib.suppress(OSError, UnsupportedError):
        mountinfo = Path("/proc/self/mountinfo").read_text(encoding="utf-8")
        mounts = hierarchies(mountinfo, "v2")
        if not mounts or hierarchies(mountinfo, "v1"):
            return False
        own = _own(mounts[0])
        return own is not None and not _ours(own, mounts[0].mount)
    return False


def _own(hierarchy: Hierarchy) -> Path | None:
    return hierarchy.folder(own_cgroups(Path("/proc/self/cgroup").read_text(encoding="utf-8")).get("", "/"))


def _ours(own: Path, mount: Path) -> bool:
    try:
        delegation.choose(own, mount, real_root=False)
    except UnsupportedError:
        return False
    return True


def _addresses(runtime: Path) -> Iterator[Path]:
    """The sockets that are there and this user's: nobody else is asked to move our processes."""
    for name in _SOCKETS:
        path = runtime / name
        with contextlib.suppress(OSError):
            status = path.stat()
            if stat.S_ISSOCK(status.st_mode) and status.st_uid == os.getuid():
                yield path


def _ask(address: Path, message: Message) -> None:
    """Send `message` and read its answer. Raises `OSError`, jeepney's `ValueError`, or `UnsupportedError`.

    Not by jeepney's connection: it says Hello, which the manager's own socket doesn't know.
    """
    from jeepney.bus_messages import message_bus  # type: ignore[import-untyped]  # it has no stubs
    from jeepney.io.blocking import prep_socket  # type: ignore[import-untyped]  # it has no stubs

    with prep_socket(str(address), timeout=_SECONDS) as stream:
        stream.settimeout(_SECONDS)
        if address.name == "bus":
            _call(stream, message_bus.Hello(), 1)
        _call(stream, message, 2)


def _call(stream: socket.socket, message: Message, serial: int) -> None:
    from jeepney import HeaderFields, MessageType
    from jeepney.low_level import Parser
    from jeepney.wrappers import DBusErrorResponse  # type: ignore[import-untyped]  # it has no stubs

    stream.sendall(message.serialise(serial))
    parser = Parser()
    while True:
        while (answer := parser.get_next_message()) is not None:
            if answer.header.fields.get(HeaderFields.reply_serial) != serial:
                continue
            if answer.header.message_type == MessageType.error:
                raise UnsupportedError(str(DBusErrorResponse(answer))[:300])
            return
        data = stream.recv(_READ)
        if not data:
            raise UnsupportedError("it closed the connection")
        parser.add_data(data)


def _wait_for(name: str) -> None:
    """Until the kernel says that this process is in the scope: its job is queued when the manager answers."""
    deadline = time.monotonic() + _SECONDS
    while f"/{name}" not in Path("/proc/self/cgroup").read_text(encoding="utf-8"):
        if time.monotonic() > deadline:
            raise UnsupportedError(f"the user's systemd said that it makes {name}, and didn't")
        time.sleep(_LOOK_AGAIN_SECONDS)
