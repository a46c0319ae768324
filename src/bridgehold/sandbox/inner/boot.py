"""The first code inside a sandbox: ``python -I -S -B -X utf8 boot.py [OUTPUT]``.

Before anything foreign is imported it takes the wire's descriptors out of reach of `print`, of
child processes and of C libraries, and makes OUTPUT, a descriptor, the standard output. Then it reads
the boot frame, imports what that names, and runs the bridge. It guards honest imports; against hostile
ones the sandbox and the host's codec stand.
Standard library and `bridgehold_sdk` only, Python 3.10 and up.
"""

from __future__ import annotations

import fcntl
import importlib
import os
import sys
from typing import Any

SDK = "/opt/bridgehold/sdk"
PACKAGE = "bridgehold_inner"
"""What this folder is inside."""
BRIDGE = "/bridge"
ENVIRONMENT = "/env"
FIRST_FREE_FD = 16
"""Above what a program expects of its first descriptors, below the least `open_files` that a policy takes."""
MAX_BOOT_BYTES = 1024 * 1024
NEEDED = tuple(f"bridgehold_sdk.{name}" for name in ("bridge", "faults", "preload", "runtime", "wire"))
"""What `serve` imports, for a zygote to have it beforehand."""
STATUS_IMPORT = 3
"""Exit status after a fault that was sent before `ready`."""


def take_wire(output: int = 2) -> tuple[int, int]:
    """Move the frames from 0 and 1 to high descriptors that no child inherits; 1 becomes `output`."""
    frames_in = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, FIRST_FREE_FD)
    frames_out = fcntl.fcntl(1, fcntl.F_DUPFD_CLOEXEC, FIRST_FREE_FD)
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(output, 1)
    if output > 2:
        os.close(output)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True, write_through=True, errors="backslashreplace")  # type: ignore[union-attr]  # a TextIOWrapper at start
    return frames_in, frames_out


def set_path(*own: str) -> None:
    """Standard library first, then ours, `own` folders, the environment. No ``site``: no .pth runs.

    Each stands there once, however often this is called, and what a framework has added stays.
    """
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    path = [entry for entry in sys.path if entry and entry not in own]
    path += [e for e in (SDK, f"{ENVIRONMENT}/lib/{version}/site-packages") if e not in path]
    place = path.index(SDK) + 1
    sys.path[:] = [*path[:place], *own, *path[place:]]
    sys.prefix = sys.exec_prefix = ENVIRONMENT


def load(entry: str) -> Any:
    """The instance that `module:Class` names."""
    from bridgehold_sdk import Bridge

    module, _, name = entry.partition(":")
    kind = getattr(importlib.import_module(module), name, None)
    if not (isinstance(kind, type) and issubclass(kind, Bridge)):
        raise TypeError(f"entry {entry!r} names no class that extends bridgehold_sdk.Bridge")
    return kind()


def make_runtime(boot: dict[str, Any], reader: Any, writer: Any) -> Any:
    """Import what the boot frame names, in its order, and make the runtime."""
    from bridgehold_sdk.bridge import Provider
    from bridgehold_sdk.preload import run_hooks
    from bridgehold_sdk.runtime import Runtime

    if boot.get("type") != "boot":
        raise ValueError("the first frame is not `boot`")
    reader.max_bytes = boot.get("request_bytes", reader.max_bytes)
    writer.max_bytes = boot.get("response_bytes", writer.max_bytes)
    writer.parts = boot.get("parts") is True
    os.environ.update(boot.get("environment", {}))
    for module in boot.get("preload", ()):
        importlib.import_module(module)
    set_path(BRIDGE)  # only now: a zygote imports what is to be warm without the bridge's files
    bridge = load(boot["entry"])
    run_hooks()
    return Runtime(
        bridge,
        name=boot["bridge"],
        version=boot.get("version", ""),
        reader=reader,
        writer=writer,
        providers={name: Provider(**fact) for name, fact in boot.get("providers", {}).items()},
        worker_id=boot.get("worker_id", ""),
        folder=BRIDGE,
        limits=boot.get("limits"),
    )


def serve(frames_in: int, frames_out: int) -> int:
    """Read the boot frame, load the bridge, and run it to its end; the exit status."""
    from bridgehold_sdk import wire
    from bridgehold_sdk.faults import describe
    from bridgehold_sdk.wire import silence_in_forks

    silence_in_forks(frames_in, frames_out)
    reader = wire.Reader(frames_in, MAX_BOOT_BYTES)
    writer = wire.Writer(frames_out)
    boot = reader.read()
    if boot is None:
        return 0
    if boot.get("foreign"):
        return serve_script(boot, reader, writer, frames_in, frames_out)
    try:
        runtime = make_runtime(boot, reader, writer)
    except BaseException as error:  # noqa: BLE001 - an import may raise anything, SystemExit included
        writer.write_bytes(wire.encode_fault(0, describe(error, alive=False), writer.max_bytes))
        return STATUS_IMPORT
    status: int = runtime.run()
    return status


def serve_script(boot: dict[str, Any], reader: Any, writer: Any, frames_in: int, frames_out: int) -> int:
    """A script of the tenant's own instead of a bridge's class: it speaks its own protocol, not ours."""
    script = importlib.import_module(f"{PACKAGE}.script")
    set_path(BRIDGE)
    os.environ.update(boot.get("environment", {}))
    status: int = script.serve(boot, reader, writer, frames_in, frames_out)
    return status


def main() -> int:
    """The first code inside a cold sandbox: take the wire, load the bridge, serve.

    Returns the exit status.
    """
    frames_in, frames_out = take_wire(*map(int, sys.argv[1:]))
    set_path()
    interpreter = importlib.import_module(f"{PACKAGE}.interpreter")
    interpreter.default_signals()
    interpreter.set_up()
    return serve(frames_in, frames_out)


def leave(status: int) -> None:
    """End at once: foreign threads and exit hooks don't get to hold a worker that is done."""
    from bridgehold_sdk.streams import flush

    flush()
    os._exit(status)


if __name__ == "__main__":
    leave(main())
