"""The provider that a zygote's first call meets: canned answers, from a socket that reaches nothing.

It lives until the zygote is warm. What asks is hostile already, so it is read like a session's
gateway, with fewer requests and less of everything.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time

import h11

from bridgehold.bridges.kit import replies, responses
from bridgehold.bridges.kit.answers import answer
from bridgehold.host.cell.gateway.parse import BadRequest, parse_head
from bridgehold.host.cell.gateway.values import GatewayLimits
from bridgehold.host.cell.gateway.wire import GuestGone, Wire
from bridgehold.policies.buckets import TokenBucket
from bridgehold.tasks import begin_task

_TEXT = "The simulated answer to: warm up"
_MOST_CONNECTIONS, _MOST_REQUESTS = 4, 64
_READS = 500
"""A second, and at once: of connections and reads together."""
_MOST_BODY = 64 * 1024
_MOST_READ = 8 * 1024
"""Bytes of a request that are looked into for the form of its answer: reading takes more than linear
time, and this loop serves every tenant."""
_LIMITS = GatewayLimits(idle_ms=20_000, head_ms=5_000, body_ms=5_000, write_ms=5_000)


class WarmGateway:
    """Serves on `listener`, which it owns. `close` ends every connection."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._listener.setblocking(False)
        self._requests = 0
        self._reads = TokenBucket(_READS, _READS)
        self._serving: set[asyncio.Task[None]] = set()
        self._accepting = asyncio.create_task(self._accept())

    async def close(self) -> None:
        """Close the listener and every connection."""
        tasks = [self._accepting, *self._serving]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._listener.close()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._pace()
            sock, _ = await loop.sock_accept(self._listener)
            if len(self._serving) >= _MOST_CONNECTIONS:
                sock.close()
                continue
            begin_task(self._serve(Wire(sock, _LIMITS, self._pace)), self._serving)

    async def _pace(self) -> None:
        """Before each connection and each read, a byte of a body too: all of them together wait."""
        wait = self._reads.take(1, time.monotonic())
        if wait:
            await asyncio.sleep(wait)

    async def _serve(self, wire: Wire) -> None:
        with contextlib.suppress(GuestGone, BadRequest, OSError):
            try:
                while self._requests < _MOST_REQUESTS and await wire.begun():
                    self._requests += 1
                    if not await self._answer(wire):
                        return
            finally:
                wire.close()

    async def _answer(self, wire: Wire) -> bool:
        """One request; whether the connection goes on."""
        head = await wire.read_head()
        if head is None:
            return False
        connection, request = parse_head(head, _LIMITS.head_bytes)
        body = await wire.read_body(connection, _MOST_BODY)
        if body is None:
            raise BadRequest("http.body", "more than a first call needs", status=413)
        kind, answer = canned(request.target.decode("latin-1"), body)
        headers = [("Content-Type", kind), ("Content-Length", str(len(answer)))]
        sent = connection.send(h11.Response(status_code=200, headers=headers)) or b""
        await wire.send(sent + answer)
        return True


def canned(target: str, body: bytes) -> tuple[str, bytes]:
    """Content type and body of the answer in OpenAI's shape (pure but for the time)."""
    asked = _read(body)
    model = str(asked.get("model", "warm-up"))[:64]
    path = target.partition("?")[0].rstrip("/")
    if path.endswith("/models"):
        return _json(replies.models())
    if path.endswith("/embeddings"):
        return _json(replies.embeddings(model, [[0.0] * 8], 2))
    if path.endswith("/responses"):
        return _json(responses.response(model, _TEXT, 2))
    text = _fitting(asked) if len(body) <= _MOST_READ else _TEXT
    if asked.get("stream") is True:
        return "text/event-stream", b"".join(replies.chat_events(model, text, 2, usage=True))
    return _json(replies.chat(model, text, 2))


def _read(body: bytes) -> dict[str, object]:
    """What was asked, with nothing in it that UTF-8 can't write; empty for what is no object."""
    try:
        plain = json.dumps(json.loads(body), ensure_ascii=False).encode("utf-8", "replace")
        asked = json.loads(plain)
    except (ValueError, RecursionError):
        return {}
    return asked if isinstance(asked, dict) else {}


def _fitting(asked: dict[str, object]) -> str:
    """What a framework's adapter can read: the test kit's provider knows their forms."""
    messages = asked.get("messages")
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        return _TEXT
    return answer(messages, asked.get("response_format"))


def _json(value: object) -> tuple[str, bytes]:
    return "application/json", json.dumps(value).encode()
