"""A gRPC worker is started as Snakepit starts one, dialled and asked, and what is missing is named."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path

from bridgehold import reads
from bridgehold.bridges.legacy.rpc import OK
from bridgehold.bridges.legacy.rpc_start import READY_FILE
from bridgehold.errors import BridgeholdError, ProtocolError
from bridgehold.faces.legacy.checks import LONGEST_WAIT, end_of, fail, fail_by
from bridgehold.faces.legacy.rpc_dial import Reply, Side
from bridgehold.ids import whole_number
from bridgehold.sandbox.doctor.model import Check

_SHORTEST_WAIT = 30.0
"""Seconds that Snakepit waits for the ready file, each 50 ms."""
_LOOK_SECONDS = 0.05
_CALL_SECONDS = 30.0
_END_SECONDS = 15.0
_SESSION = "bridgehold-check"
_HEARTBEAT = {"enabled": True, "interval_ms": 2000, "timeout_ms": 10000, "max_missed_heartbeats": 3}
_ASKED = (("Ping", "bridgehold"), ("InitializeSession", _SESSION), ("Heartbeat", _SESSION))


async def rpc_trial(folder: Path, script: Path, roots: tuple[str, ...], adapter: str) -> list[Check]:
    """Whether it starts, answers, calls back and ends."""
    came: Counter[str] = Counter()

    def serve(name: str, _message: bytes) -> bytes:
        came[name] += 1
        return b"\x0a\x04pong" if name == "Ping" else b"\x08\x01"

    server = await asyncio.get_running_loop().create_server(lambda: Side(serve), "127.0.0.1", 0)
    with tempfile.TemporaryDirectory(prefix="bridgehold-check-") as place:
        port = int(server.sockets[0].getsockname()[1])
        worker = await _Worker.started(folder, script, roots, adapter, port, Path(place) / "ready")
        try:
            return await _seen(worker, script, came)
        finally:
            await worker.end()
            server.close()


async def _seen(worker: _Worker, script: Path, came: Counter[str]) -> list[Check]:
    began = time.monotonic()
    port, said = await worker.ready()
    seconds = time.monotonic() - began
    if not port:
        await worker.end()
        return [fail_by("start", said, await worker.wrote())]
    late = seconds > _SHORTEST_WAIT
    found = [
        Check(
            name="start",
            status="CAUTION" if late else "PASS",
            detail=f"{script.name} wrote its ready file within {seconds:.1f} s",
            remedy="Snakepit waits 30 s: use --start fork." if late else "",
        )
    ]
    failed = await _calls(port)
    if failed:
        found.append(fail("calls", "; ".join(failed), ""))
    else:
        found.append(Check(name="calls", status="PASS", detail=f"{', '.join(name for name, _ in _ASKED)}"))
    if came["Ping"]:
        detail = f"came at its starter's address: {', '.join(sorted(came))}"
        found.append(Check(name="callbacks", status="PASS", detail=detail))
    else:
        found.append(fail("callbacks", "nothing came at its starter's address", ""))
    status = await worker.end()
    detail = f"SIGTERM ended it with {status}"
    expected = status in (0, 128 + signal.SIGTERM)
    found.append(
        Check(name="end", status="PASS", detail=detail)
        if expected
        else Check(name="end", status="CAUTION", detail=detail, remedy="Snakepit takes 0 and 143 for an end.")
    )
    return found


async def _calls(port: int) -> list[str]:
    """Those that weren't answered, with what came instead."""
    try:
        async with asyncio.timeout(_CALL_SECONDS):
            _, side = await asyncio.get_running_loop().create_connection(Side, "localhost", port)
    except (OSError, TimeoutError) as error:
        return [f"it can't be dialled: {error}"]
    failed = []
    try:
        for name, text in _ASKED:
            reply = await _ask(side, name, b"\x0a" + bytes([len(text)]) + text.encode())
            if reply.status != OK:
                failed.append(f"{name}: gRPC status {reply.status}: {reply.said[:300]}")
    finally:
        side.close()
    return failed


async def _ask(side: Side, name: str, message: bytes) -> Reply:
    try:
        async with asyncio.timeout(_CALL_SECONDS):
            return await side.call(name, message)
    except (TimeoutError, ProtocolError) as error:
        return Reply(status=4, said=str(error) or f"nothing within {_CALL_SECONDS:g} s")


class _Worker:
    """One worker behind the shim."""

    def __init__(self, process: asyncio.subprocess.Process, ready_file: Path) -> None:
        self._process = process
        self._ready_file = ready_file
        self._wrote = asyncio.create_task(end_of(process.stderr))
        self._printed = asyncio.create_task(end_of(process.stdout))

    @classmethod
    async def started(
        cls, folder: Path, script: Path, roots: tuple[str, ...], adapter: str, port: int, ready_file: Path
    ) -> _Worker:
        """With the arguments and the variables that Snakepit gives."""
        argv = [str(script), "--adapter", adapter, "--port", "0", "--elixir-address", f"127.0.0.1:{port}"]
        argv += ["--snakepit-run-id", "bhcheck"]
        if "threaded" in script.name:
            argv += ["--max-workers", "4"]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(roots),
            READY_FILE: str(ready_file),
            "SNAKEPIT_PROCESS_GROUP": "1",
            "SNAKEPIT_HEARTBEAT_CONFIG": json.dumps(_HEARTBEAT),
        }
        pipe, none = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
        program = str(folder / "bin" / "python3")
        process = await asyncio.create_subprocess_exec(
            program, *argv, stdin=none, stdout=pipe, stderr=pipe, env=environment, cwd=script.parent
        )
        return cls(process, ready_file)

    async def ready(self) -> tuple[int, str]:
        """The port that it wrote; 0 and why not."""
        deadline = time.monotonic() + LONGEST_WAIT
        while time.monotonic() < deadline:
            with contextlib.suppress(BridgeholdError, ValueError):
                if text := reads.read_text(self._ready_file, ProtocolError, or_none=True):
                    return whole_number(text), ""
            with contextlib.suppress(TimeoutError):
                status = await asyncio.wait_for(self._process.wait(), _LOOK_SECONDS)
                return 0, f"it ended with {status} before it was ready"
        return 0, f"no ready file within {LONGEST_WAIT:g} s"

    async def end(self) -> int:
        """SIGTERM, and SIGKILL where that doesn't do; its exit status."""
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), _END_SECONDS)
        except TimeoutError:
            self._process.kill()
        await asyncio.gather(self._printed, self._wrote)
        return await self._process.wait()

    async def wrote(self) -> str:
        """The end of its standard error."""
        return (await self._wrote).decode(errors="replace")
