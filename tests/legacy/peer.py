"""The other side: what DSPex or Snakepit does with a worker it has started."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec


class Peer:
    """One worker process and its two pipes; stderr in a file."""

    def __init__(
        self,
        argv: Sequence[str],
        home: Path,
        tmp: Path,
        environment: dict[str, str] | None = None,
        **more: Any,
    ) -> None:
        self.stderr_file = tmp / f"stderr-{time.monotonic_ns()}"
        self.process = subprocess.Popen(
            list(argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.stderr_file.open("wb"),
            env={**os.environ, "BRIDGEHOLD_HOME": str(home), **(environment or {})},
            **more,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.to, self.out = self.process.stdin, self.process.stdout

    def send_raw(self, data: bytes) -> None:
        self.to.write(data)
        self.to.flush()

    def send_body(self, body: bytes) -> None:
        self.send_raw(len(body).to_bytes(4, "big") + body)

    def send(self, identity: int, command: str, args: object = None, **more: object) -> None:
        body = {"id": identity, "command": command, "args": args or {}, "timestamp": "2025-01-01T00:00:00Z"}
        self.send_body(json.dumps(body | more).encode())

    def receive_body(self, seconds: float = 60) -> bytes:
        return self._exactly(int.from_bytes(self._exactly(4, seconds), "big"), seconds)

    def receive(self, seconds: float = 60) -> dict[str, Any]:
        body = self.receive_body(seconds)
        value = msgspec.msgpack.decode(body) if body[0] >= 0x80 else json.loads(body)
        assert isinstance(value, dict)
        return value

    def ask(self, identity: int, command: str, args: object = None) -> dict[str, Any]:
        self.send(identity, command, args)
        answer = self.receive()
        assert answer["id"] == identity, answer
        return answer

    def handshake(self) -> dict[str, Any]:
        answer = self.ask(0, "ping", {"initialization": True, "worker_id": "worker_1_5"})
        assert answer["success"], answer
        assert answer["result"]["status"] == "ok"
        return answer

    def end(self, seconds: float = 60) -> tuple[int, bytes]:
        """(exit status, what was still on stdout)."""
        rest = self.out.read()
        return self.process.wait(seconds), rest

    @property
    def stderr(self) -> str:
        return self.stderr_file.read_text()

    def kill(self) -> None:
        for pipe in (self.to, self.out):
            with contextlib.suppress(OSError):
                pipe.close()
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def _exactly(self, count: int, seconds: float) -> bytes:
        data = b""
        deadline = time.monotonic() + seconds
        while len(data) < count:
            ready, _, _ = select.select([self.out], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"no answer within {seconds} s; stderr: {self.stderr[-2000:]}"
            piece = os.read(self.out.fileno(), count - len(data))
            assert piece, f"stdout ended; stderr: {self.stderr[-2000:]}"
            data += piece
        return data


def stdio_command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "bridgehold", "stdio", *arguments]
