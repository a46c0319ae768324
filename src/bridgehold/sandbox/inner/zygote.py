"""The zygote: ``python -I -S -B -X utf8 zygote.py ORDERS``, the descriptor it is given.

It imports what the warm frame names, says so once, and then forks when it is asked to. It never
imports a bridge, has no tenant's data, and answers nobody: the launcher sees what it does.
Standard library and `bridgehold_sdk` only, Python 3.10 and up.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import sys
from typing import Any

if __name__ == "__main__":  # inside, where this folder is a package of another name
    sys.path.append("/opt/bridgehold/sdk")
    __package__ = "bridgehold_inner"

from . import boot, fork, freeze, interpreter, kernel, sources, threads, warm

MAX_ORDER_BYTES = 128 * 1024


def main(orders: int) -> int:
    """The life of a zygote: warm up, say so, and fork for each order that comes.

    A fork returns its exit status.
    """
    frames_in, frames_out = boot.take_wire()
    kernel.close_all_but({orders, frames_in, frames_out})  # bubblewrap leaves one of its own
    boot.set_path()
    interpreter.default_signals()
    interpreter.set_up()
    from bridgehold_sdk import wire

    for module in boot.NEEDED:
        importlib.import_module(module)  # or each fork would load it
    channel = socket.socket(fileno=orders)
    reader = wire.Reader(frames_in, boot.MAX_BOOT_BYTES)
    writer = wire.Writer(frames_out)
    frame = reader.read()
    if frame is None:
        return 0
    warmed = prepare(frame)
    setters = threads.find_setters()
    sys.stdout.flush()
    sys.stderr.flush()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # a fork that is done is reaped by the kernel
    writer.write(warmed)  # the last thing: from now on it is looked at
    return serve(channel, setters)


def prepare(frame: dict[str, Any]) -> dict[str, Any]:
    """Import, call, load, freeze; the answer says why it can't be forked, where it can't."""
    try:
        kernel.enter_own_domain()  # before anything foreign: bubblewrap's init is out of reach from here on
    except OSError as error:
        return {"type": "warmed", "modules": [], "threads": 1, "reason": f"no Landlock: {error}"}
    warmed: dict[str, Any] = warm.warm(frame)
    sources.compile_all(boot.BRIDGE)
    if not warmed.get("reason"):
        freeze.freeze()
    return warmed


def serve(channel: socket.socket, setters: list[fork.Setter]) -> int:
    """Fork once for each order, until the launcher is gone."""
    while True:
        message, descriptors, _, _ = socket.recv_fds(channel, MAX_ORDER_BYTES, fork.MAX_DESCRIPTORS)
        if not message:
            return 0
        own: list[int] = []
        try:
            own += os.pipe()
            if kernel.bare_fork() == 0:
                os.close(own[1])
                fork.become_worker(json.loads(message), descriptors, own[0], setters)
        except OSError as error:  # the machine's, not ours: the next order may find it better
            own += descriptors[fork.REPORT : fork.REPORT + 1]
            del descriptors[fork.REPORT : fork.REPORT + 1]
            if len(own) in (1, 3):
                fork.tell_failure(own[-1], error)
        for descriptor in (*descriptors, *own):  # the last one tells the fork that all are closed
            os.close(descriptor)


if __name__ == "__main__":
    boot.leave(main(int(sys.argv[1])))
