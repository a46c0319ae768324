"""A foreign worker that speaks gRPC: where it listens is told, and it is asked to end by SIGTERM.

Its standard output is its log already. The frames are ours alone, and what of them reaches the host is a port
of its own loopback and its exit status. None of this protects anybody.
Standard library only, Python 3.10 and up.
"""

from __future__ import annotations

import os
import signal
import time
from typing import Any, Dict

from bridgehold_sdk.threads import begin_thread

READY_FILE = "/tmp/snakepit-ready"  # noqa: S108 - inside: a tmpfs of its own
_LOOK_SECONDS, _LATER_SECONDS = 0.005, 0.1
_SOON_SECONDS = 60.0


def begin(what: Dict[str, Any], frames_in: int, frames_out: int) -> None:
    """Its variables, its folder, and a thread for each of the two things that are waited for."""
    os.environ.update(dict(what["environment"]))
    os.environ["SNAKEPIT_READY_FILE"] = READY_FILE
    os.chdir(os.path.dirname(what["text"]))
    for act, descriptor in ((_wait_for_end, frames_in), (_wait_for_port, frames_out)):
        begin_thread("bridgehold", act, descriptor)


def _wait_for_end(frames_in: int) -> None:
    """The end of its input is its starter's SIGTERM."""
    try:
        while os.read(frames_in, 4096):
            pass
    except OSError:
        return
    os.kill(os.getpid(), signal.SIGTERM)


def _wait_for_port(frames_out: int) -> None:
    began = time.monotonic()
    while True:
        try:
            with open(READY_FILE, "rb") as file:
                port = int(file.read(16))
            break
        except (OSError, ValueError):
            early = time.monotonic() - began < _SOON_SECONDS
            time.sleep(_LOOK_SECONDS if early else _LATER_SECONDS)
    body = b'{"type":"bridgehold_ready","port":%d}' % port
    try:
        os.write(frames_out, len(body).to_bytes(4, "big") + body)
    except OSError:
        return
