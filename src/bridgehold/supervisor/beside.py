"""What runs beside a host where its configuration says so: what sends the audit away, and its retention."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

from bridgehold.config.layout import Layout
from bridgehold.config.load import Config
from bridgehold.supervisor import plans

_AGAIN_S = 5.0
_END_S = 5.0


class Pushing:
    """The process (`pushing`) is begun anew whenever it ends, until `stop`."""

    def __init__(self, layout: Layout, config: Config) -> None:
        """Does nothing where there is no sink."""
        self._layout = layout
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        if config.push:
            threading.Thread(target=self._keep, daemon=True).start()

    def _keep(self) -> None:
        argv = [sys.executable, *plans.INTERPRETER_FLAGS, "-m", "bridgehold.supervisor.pushing"]
        argv += ["--config", str(self._layout.config), "--state", str(self._layout.state)]
        argv += ["--run", str(self._layout.run), "--parent", str(os.getpid())]
        environment = plans.push_environment()
        while True:
            with self._lock:
                if self._stopped.is_set():
                    return
                process = self._process = subprocess.Popen(
                    argv, stdin=subprocess.DEVNULL, env=environment, cwd="/", start_new_session=True
                )
            status = process.wait()
            if not self._stopped.is_set():
                sys.stderr.write(f"bridgehold: what sends the audit away ended with status {status}\n")
            self._stopped.wait(_AGAIN_S)

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


class Retention:
    """One look (`retention`) after another, until `stop`."""

    def __init__(self, layout: Layout, config: Config) -> None:
        """Does nothing where nothing is dropped by itself."""
        self._layout = layout
        self._every = config.retention.every_s
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        if config.retention.wanted:
            threading.Thread(target=self._keep, daemon=True).start()

    def _keep(self) -> None:
        argv = [sys.executable, *plans.INTERPRETER_FLAGS, "-m", "bridgehold.supervisor.retention"]
        argv += ["--config", str(self._layout.config), "--state", str(self._layout.state)]
        argv += ["--run", str(self._layout.run), "--parent", str(os.getpid())]
        while not self._stopped.wait(self._every):
            with self._lock:
                if self._stopped.is_set():
                    return
                self._process = subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    env=plans.push_environment(),
                    cwd="/",
                    start_new_session=True,
                )
            self._process.wait()

    def stop(self) -> None:
        """End it, whatever it is at: what is sealed half is as it was."""
        with self._lock:
            self._stopped.set()
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(_END_S)


class Beside:
    """Both of them."""

    def __init__(self, layout: Layout, config: Config) -> None:
        self._all = (Pushing(layout, config), Retention(layout, config))

    def stop(self) -> None:
        """See each."""
        for one in self._all:
            one.stop()
