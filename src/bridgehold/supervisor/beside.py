"""What runs beside a host where its configuration says so: what sends the audit away, and its retention.

Each is a process of its own, which its supervisor begins again and again.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
from pathlib import Path

from bridgehold.config.layout import Layout
from bridgehold.config.load import Config
from bridgehold.supervisor import plans

_AGAIN_S = 5.0
_END_S = 5.0


class _Again:
    """One process, begun anew after it has ended, until `stop`."""

    def __init__(
        self, module: str, layout: Layout, *, first_s: float, again_s: float, told: str = ""
    ) -> None:
        """`first_s`: seconds until it begins; `again_s`: from an end to the next start.

        `told`: what the log says it is, where it is not to end at all.
        """
        self._argv = [sys.executable, *plans.INTERPRETER_FLAGS, "-m", module]
        for name in _FOLDERS:
            self._argv += [f"--{name}", str(getattr(layout, name))]
        self._argv += ["--parent", str(os.getpid())]
        self._told = told
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        threading.Thread(target=self._keep, args=(first_s, again_s), daemon=True).start()

    def _keep(self, first_s: float, again_s: float) -> None:
        environment, wait = plans.push_environment(), first_s
        while not self._stopped.wait(wait):
            with self._lock:
                if self._stopped.is_set():
                    return
                process = self._process = subprocess.Popen(
                    self._argv, stdin=subprocess.DEVNULL, env=environment, cwd="/", start_new_session=True
                )
            status, wait = process.wait(), again_s
            if self._told and not self._stopped.is_set():
                sys.stderr.write(f"bridgehold: {self._told} ended with status {status}\n")

    def stop(self) -> None:
        """End it, and begin it no more."""
        with self._lock:
            self._stopped.set()
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Beside:
    """All of them that the configuration wants."""

    def __init__(self, layout: Layout, config: Config) -> None:
        self._all: list[_Again] = []
        if config.push:
            module, told = "bridgehold.supervisor.pushing", "what sends the audit away"
            self._all.append(_Again(module, layout, first_s=0, again_s=_AGAIN_S, told=told))
        if config.retention.wanted:
            module, every = "bridgehold.supervisor.retention", config.retention.every_s
            self._all.append(_Again(module, layout, first_s=every, again_s=every))

    def stop(self) -> None:
        """End each: what retention has sealed half is as it was."""
        for one in self._all:
            one.stop()


_FOLDERS = ("config", "state", "run")


def given() -> tuple[Layout, int]:
    """In such a process: the layout that it was begun with, and its supervisor's pid."""
    parser = argparse.ArgumentParser()
    for name in _FOLDERS:
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--parent", type=int, required=True)
    options = parser.parse_args()
    return Layout(config=options.config, state=options.state, run=options.run), options.parent
