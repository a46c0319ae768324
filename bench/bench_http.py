"""What HTTP adds to a command: the same ones over the host's socket and over HTTP, in turns, on one host."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
from bench_traffic import CHUNKS, double, prepare
from common import Row, median, percentile, row, show

from bridgehold import Client
from bridgehold.client.session import ClientSession
from bridgehold.config.layout import Layout

TOKEN = "a-token-for-the-benchmark"
COUNT, CALLS = 400, 200
DOUBLE = {
    "name": "double",
    "parameters": {"type": "object", "properties": {"number": {"type": "integer"}}},
}


@contextmanager
def served(home: Path) -> Iterator[tuple[Layout, str]]:
    """A host with HTTP, and its address."""
    layout = prepare(home)
    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    layout.config_file.write_text(f'[principals.app]\ntokens = ["sha256:{digest}"]\ntenants = ["local"]\n')
    host = subprocess.Popen(
        [sys.executable, "-m", "bridgehold", "serve", "--http", "127.0.0.1:0"],
        env={**os.environ, "BRIDGEHOLD_HOME": str(home)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert host.stderr is not None
        for line in host.stderr:
            if found := re.search(r"http://\S+", line):
                yield layout, found[0]
                return
        sys.exit("the host did not start")
    finally:
        host.terminate()
        host.wait(30)


class Http:
    """A caller that keeps its connections."""

    def __init__(self, http: aiohttp.ClientSession, url: str, session: str) -> None:
        self._http = http
        self._url = url
        self._path = f"{url}/v1/sessions/{session}/commands"
        self._auth = {"Authorization": f"Bearer {TOKEN}"}

    async def run(self, operation: str, arguments: dict[str, Any]) -> Any:
        body = {"operation": operation, "arguments": arguments}
        async with self._http.post(self._path, json=body, headers=self._auth) as response:
            response.raise_for_status()
            return (await response.json())["value"]

    async def stream(self, operation: str, arguments: dict[str, Any]) -> tuple[int, Any]:
        """How many chunks came, and the value; tool calls are answered."""
        body = {"operation": operation, "arguments": arguments, "tools": [DOUBLE]}
        chunks, name, data = 0, b"", None
        headers = {**self._auth, "Accept": "text/event-stream"}
        async with self._http.post(self._path, json=body, headers=headers) as response:
            response.raise_for_status()
            async for line in response.content:
                if line.startswith(b"event: "):
                    name = line[7:-1]
                    chunks += name == b"chunk"
                elif line.startswith(b"data: ") and name in {b"tool_call", b"result", b"error"}:
                    data = json.loads(line[6:])
                    if name == b"tool_call":
                        await self._answer(data)
        if name != b"result" or data is None:
            sys.exit(f"the stream failed: {data}")
        return chunks, data["value"]

    async def _answer(self, call: dict[str, Any]) -> None:
        path = f"{self._url}/v1/commands/{call['command']}/tools/{call['call']}"
        body = {"result": double(**call["arguments"])}
        async with self._http.post(path, json=body, headers=self._auth) as response:
            response.raise_for_status()


async def in_turns(
    ways: Mapping[str, Callable[[], Awaitable[Any]]], count: int, warmup: int
) -> dict[str, list[float]]:
    """Milliseconds of each way, one after the other, so that they share the machine's moods."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(warmup + count):
        for name, act in ways.items():
            started = time.perf_counter()
            await act()
            if turn >= warmup:
                found[name].append((time.perf_counter() - started) * 1000)
    return found


async def chunks(stream: Callable[[], Awaitable[int]]) -> float:
    """Chunks a second."""
    started = time.perf_counter()
    if (seen := await stream()) != CHUNKS:
        sys.exit(f"{seen} of {CHUNKS} chunks came")
    return CHUNKS / (time.perf_counter() - started)


async def measure(layout: Layout, url: str) -> list[Row]:
    async with (
        await Client.connect(layout.socket) as client,
        client.session("traffic", tools=[double]) as session,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(120)) as connections,
    ):
        http = Http(connections, url, session.id)

        async def health() -> None:
            async with connections.get(f"{url}/healthz") as response:
                await response.read()

        ways = {
            "socket": lambda: session.run("echo", {"value": 1}),
            "http": lambda: http.run("echo", {"value": 1}),
            "health": health,
        }
        found = await in_turns(ways, COUNT, 20)
        asked = await in_turns(
            {
                "socket": lambda: session.run("ask", {"count": CALLS}),
                "http": lambda: http.stream("ask", {"count": CALLS}),
            },
            5,
            1,
        )
        rates = [
            (await chunks(lambda: _counted(session)), await chunks(lambda: _heard(http))) for _ in range(3)
        ]
    socket, over = median(found["socket"]), median(found["http"])
    return [
        row("command over the host's socket, p50", socket, "ms"),
        row("the same over HTTP, p50", over, "ms", baseline=socket),
        row("the same over HTTP, p99", percentile(found["http"], 0.99), "ms"),
        row("of it the client library and an empty answer", median(found["health"]), "ms"),
        row(
            "tool: a call of the caller's by event and POST",
            median(asked["http"]) / CALLS,
            "ms",
            baseline=median(asked["socket"]) / CALLS,
        ),
        row(
            "stream: chunks that reach an HTTP caller",
            median([one[1] for one in rates]),
            "/s",
            baseline=median([one[0] for one in rates]),
        ),
    ]


async def _counted(session: ClientSession) -> int:
    seen = 0
    async for event in session.stream("count", {"count": CHUNKS}):
        seen += event["type"] == "chunk"
    return seen


async def _heard(http: Http) -> int:
    return (await http.stream("count", {"count": CHUNKS}))[0]


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="bh-bench-") as home, served(Path(home)) as (layout, url):
        show(asyncio.run(measure(layout, url)))


if __name__ == "__main__":
    main()
