"""What the acts could reach outside, and looks at whether they did: all of it the report's own.

A file and a folder that anybody may use, a listener on the loopback, an abstract socket, a process.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from bridgehold import writes

CANARY_VARIABLE = "BRIDGEHOLD_ATTACK_CANARY"
_LEFT_SECONDS = 20.0
_PAUSE = 0.05
_VICTIM = "import sys; sys.stdin.read()"
"""It ends with whoever started it, however that ends."""


class Outside:
    """Stands while acts run; use it as a context manager."""

    def __init__(self) -> None:
        self.mark = f"bha{secrets.token_hex(5)}"
        """A process inside takes it for its name."""
        self.canary = secrets.token_hex(16)
        self.folder = Path(tempfile.mkdtemp(prefix="bh-attack-"))
        self.marker = self.folder / "open" / self.mark
        self.canary_file = self.folder / "readable"
        self.abstract = f"bh-attack-{secrets.token_hex(8)}"
        self.arrived = 0
        """Connections and datagrams that came."""
        self.most = 0
        """Processes and threads with the mark that were seen at once."""
        self._ends = threading.Event()
        self._threads: list[threading.Thread] = []
        self._stack = contextlib.ExitStack()
        self.tcp = self._socket(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0))
        self.udp = self._socket(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0))
        self.unix = self._socket(socket.AF_UNIX, socket.SOCK_STREAM, f"\0{self.abstract}")
        self._victim: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self.folder.chmod(0o755)
        writes.make_folder(self.marker.parent)
        self.marker.parent.chmod(0o777)
        writes.replace(self.canary_file, self.canary)
        self._victim = subprocess.Popen(
            [sys.executable, "-P", "-c", _VICTIM, f"victim-{self.mark}"],
            env={CANARY_VARIABLE: self.canary},
            stdin=subprocess.PIPE,
            start_new_session=True,  # a terminal's Ctrl-C is not its own
        )
        self._stack.callback(self._end_victim)
        for work in (self._accept, self._watch):
            thread = threading.Thread(target=work, daemon=True)
            thread.start()
            self._threads.append(thread)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ends.set()
        for thread in self._threads:
            thread.join()
        self._stack.close()

    @property
    def victim(self) -> int:
        """The pid of a process that does nothing."""
        return self._victim.pid if self._victim is not None else -1

    @property
    def victim_lives(self) -> bool:
        """Whether nobody has ended it; one that was ended is replaced by none."""
        return self._victim is not None and self._victim.poll() is None

    def marked(self) -> int:
        """Processes and threads of this machine that have the mark for a name."""
        found = 0
        for pid in filter(str.isdigit, os.listdir("/proc")):  # noqa: PTH208 - names
            with contextlib.suppress(OSError):
                if (
                    Path("/proc", pid, "comm").read_text(encoding="utf-8", errors="replace").strip()
                    == self.mark
                ):
                    found += len(os.listdir(f"/proc/{pid}/task"))  # noqa: PTH208 - names
        return found

    def left(self) -> int:
        """How many of them are still there, once there was time to end them."""
        deadline = time.monotonic() + _LEFT_SECONDS
        while (found := self.marked()) and time.monotonic() < deadline:
            time.sleep(_PAUSE)
        return found

    def _end_victim(self) -> None:
        if self._victim is not None:
            self._victim.kill()
            self._victim.communicate()

    def _socket(self, family: int, kind: int, address: tuple[str, int] | str) -> socket.socket:
        made = self._stack.enter_context(socket.socket(family, kind))
        made.bind(address)
        if kind == socket.SOCK_STREAM:
            made.listen(64)
        made.settimeout(_PAUSE)
        return made

    def _accept(self) -> None:
        answer = f"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{self.canary}".encode()
        while not self._ends.is_set():
            for one in (self.tcp, self.unix):
                with contextlib.suppress(TimeoutError, OSError):
                    caller, _ = one.accept()
                    self.arrived += 1
                    with caller:
                        caller.settimeout(1)
                        caller.sendall(answer)
            with contextlib.suppress(TimeoutError, OSError):
                data, sender = self.udp.recvfrom(1000)
                self.arrived += 1
                self.udp.sendto(data, sender)

    def _watch(self) -> None:
        while not self._ends.wait(_PAUSE):
            self.most = max(self.most, self.marked())
