"""A host that serves HTTP, and callers of it: real HTTP over loopback."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import aiohttp
import psutil

from bridgehold.config.layout import Layout
from hostile.stage import POLICY, Stage
from waiting import until

TOKENS = {name: f"token-of-{name}-0123456789" for name in ("acme", "helper", "rival", "boss", "deaf")}
T = TypeVar("T")


def digest(token: str) -> str:
    return "sha256:" + hashlib.sha256(token.encode()).hexdigest()


def principals() -> str:
    tenants = {"acme": "acme", "helper": "acme", "rival": "rival", "boss": "*", "deaf": "acme"}
    return "".join(
        f'[principals.{name}]\ntokens = ["{digest(token)}"]\ntenants = ["{tenants[name]}"]\n'
        + ("operator = true\n" if name == "boss" else "logs = false\n" if name == "deaf" else "")
        for name, token in TOKENS.items()
    )


CONFIG = f"""
{principals()}
[http]
listen = "127.0.0.1:0"
names = ["bridge.example"]
connections = 40
requests = 6
body = "1MiB"
buffered = "18MiB"
idle_s = 1.5
body_s = 3
beat_s = 0.3
read_s = 1.5
"""

MANIFEST = """
name = "{name}"
version = "1.0.0"
summary = "For HTTP callers"
entry = "served:Served"
[resources.box]
summary = "Something kept"
[operations.act]
summary = "Run code and give what it left in result"
effect = "run"
arguments = {{ required = ["code"], properties = {{ code = {{ type = "string" }} }} }}
[operations.count]
summary = "So many chunks"
effect = "run"
stream = true
arguments = {{ required = ["count"], properties = {{ count = {{ type = "integer" }}, size = {{ type = "integer" }} }} }}
result = {{ type = "integer" }}
[operations.create_box]
summary = "Keep a value"
effect = "create"
resource = "box"
id_field = "id"
arguments = {{ required = ["id"], properties = {{ id = {{ type = "string" }}, value = {{}} }} }}
[operations.run_box]
summary = "Give it back"
effect = "run"
resource = "box"
id_field = "id"
arguments = {{ required = ["id"], properties = {{ id = {{ type = "string" }} }} }}
[operations.delete_box]
summary = "Forget it"
effect = "delete"
resource = "box"
id_field = "id"
arguments = {{ required = ["id"], properties = {{ id = {{ type = "string" }} }} }}
"""
BRIDGE = """
import time
from bridgehold_sdk import Bridge, ToolError, operation

class Served(Bridge):
    def open(self, session):
        self.boxes = {}

    @operation()
    def act(self, code):
        names = {"bridge": self, "tools": self.tools, "result": {}, "ToolError": ToolError, "time": time}
        exec(compile(code, "act", "exec"), names)
        return names["result"]

    @operation(stream=True)
    def count(self, count, size=0):
        self.progress(0, count, "begins")
        for number in range(count):
            yield "x" * size if size else number
        return count

    @operation(effect="create", resource="box", id_field="id")
    def create_box(self, id, value=None):
        self.boxes[id] = value
        return {"id": id}

    @operation(effect="run", resource="box", id_field="id")
    def run_box(self, id):
        return self.boxes[id]

    @operation(effect="delete", resource="box", id_field="id")
    def delete_box(self, id):
        del self.boxes[id]
        return {"id": id}
"""


@dataclass
class HttpStage:
    stage: Stage
    bridge: str
    url: str

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])


def prepare(ready: Stage, start: str = "fork") -> str:
    """The bridge of these tests, whose sandboxes `start` so; its name."""
    name = ready.bridge(manifest=MANIFEST)
    folder = ready.layout.bridges / name
    (folder / "hostile.py").unlink()
    (folder / "served.py").write_text(BRIDGE)
    (ready.layout.policies / f"{name}.toml").write_text(
        POLICY.replace("[rate]", "[rate]\ncommands_per_minute = 100000\nframes_per_second = 100000")
        + f'[tools]\nallow = ["*"]\ndeny = ["forbidden"]\n[sandbox]\nstart = "{start}"\n'
    )
    return name


def url_of(layout: Layout) -> str:
    """What the host said that it listens on."""
    log = layout.config.parent / "host.log"
    return until(lambda: re.findall(r"http://\S+", log.read_text()))[0]


@dataclass(frozen=True)
class Said:
    """One answer."""

    status: int
    headers: dict[str, str]
    body: Any

    @property
    def code(self) -> str:
        return str(self.body.get("code", "")) if isinstance(self.body, dict) else ""


class Caller:
    """One principal's HTTP client."""

    def __init__(self, face: HttpStage, http: aiohttp.ClientSession, token: str) -> None:
        self.url = face.url
        self.http = http
        self.auth = {"Authorization": f"Bearer {token}"} if token else {}

    async def ask(self, method: str, path: str, body: Any = None, **given: Any) -> Said:
        headers = {**self.auth, **given.pop("headers", {})}
        async with self.http.request(
            method, self.url + path, json=body, headers=headers, **given
        ) as response:
            data = await response.read()
            kind = response.content_type
            return Said(
                response.status, dict(response.headers), json.loads(data) if "json" in kind and data else data
            )

    async def open(self, bridge: str, name: str = "") -> str:
        said = await self.ask("POST", "/v1/sessions", {"bridge": bridge, "name": name})
        assert said.status == 201, said
        return str(said.body["id"])

    async def stream(self, path: str, body: Any) -> AsyncIterator[tuple[str, Any]]:
        """The events of a command, beats included (as ``("", None)``)."""
        headers = {**self.auth, "Accept": "text/event-stream"}
        async with self.http.post(self.url + path, json=body, headers=headers) as response:
            assert response.status == 200, await response.text()
            assert response.content_type == "text/event-stream"
            async for event in events(response.content):
                yield event


async def events(content: aiohttp.StreamReader) -> AsyncIterator[tuple[str, Any]]:
    name = ""
    data: Any = None
    while line := (await content.readline()).decode():
        if line.startswith(":"):
            yield "", None
        elif line.startswith("event: "):
            name = line[7:-1]
        elif line.startswith("data: "):
            data = json.loads(line[6:])
        elif line == "\n" and name:
            yield name, data
            name = ""


def using(face: HttpStage, act: Callable[..., Awaitable[T]], *names: str) -> T:
    """Run `act` with a caller for each of `names` (``""``: nobody)."""

    async def run() -> T:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(30)) as http:
            return await act(*(Caller(face, http, TOKENS.get(name, name)) for name in names or ("acme",)))

    return asyncio.run(run())


def raw(face: HttpStage, data: bytes, seconds: float = 5.0) -> bytes:
    return raw_to(face.port, data, seconds)


def raw_to(port: int, data: bytes, seconds: float) -> bytes:
    """What comes back for these bytes, up to the end of the connection or `seconds`."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
        connection.sendall(data)
        found = b""
        try:
            while piece := connection.recv(65_536):
                found += piece
        except (TimeoutError, ConnectionResetError):
            pass
        return found


def head(face: HttpStage, *lines: str, line: str = "GET /v1/bridges HTTP/1.1", host: bool = True) -> bytes:
    """A request's bytes, with `lines` as its fields."""
    fields = [*([f"Host: 127.0.0.1:{face.port}"] if host else []), *lines, "Connection: close"]
    return "\r\n".join((line, *fields, "", "")).encode()


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer else 0


def face_process(face: HttpStage) -> psutil.Process:
    for one in psutil.Process(face.stage.supervisor).children(recursive=True):
        if "bridgehold.faces.http.main" in " ".join(one.cmdline()):
            return one
    raise AssertionError("no HTTP process")


def all_of(one: socket.socket) -> bytes:
    """What still comes, up to its end."""
    found = bytearray()
    with contextlib.suppress(ConnectionResetError):
        while piece := one.recv(1 << 20):
            found += piece
    return bytes(found)
