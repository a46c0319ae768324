"""A provider on this machine that plays a paid API: three shapes, a key that it checks, a request log.

For tests, the demo and bridge authors: ``python -m bridgehold.bridges.kit.provider --port 0`` prints
its base URL and where its key is. It listens on loopback only. Its behaviours (errors, slowness, an
echo of the key, redirects) are what a gateway must survive.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import hmac
import os
import secrets
import sys
from collections import deque
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
from aiohttp import web

from bridgehold.bridges.kit import replies, shapes
from bridgehold.bridges.kit.answers import answer, embedding, text_of, tokens_of
from bridgehold.bridges.kit.tool_calls import ToolCall, tool_calls

_BODY_BOUND = 32 * 1024 * 1024
_LOG_BOUND = 10_000


class Behaviour(msgspec.Struct, frozen=True, kw_only=True):
    """How it answers from now on."""

    latency_ms: int = 0
    """Before the head of an answer."""
    chunk_ms: int = 0
    """Between two events of a stream."""
    status: int = 200
    """Another status answers every request with an error of that kind."""
    fail_next: int = 0
    """So many requests get 429 (or `status`), then all is well again."""
    echo_key: Literal["", "body", "header", "stream"] = ""
    """Send the caller's key back, as careless proxies and debug pages do."""
    redirect_to: str = ""
    break_after: int = -1
    """Cut the connection after so many events of a stream."""
    usage: bool = True
    script: tuple[str, ...] = ()
    """Texts for the next answers, in order; then the deterministic ones."""


class LoggedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One request as it came. The key only as a fingerprint."""

    method: str
    path: str
    query: str
    key_fingerprint: str
    """First 16 hexadecimal digits of the key's SHA-256; empty without a key."""
    authorised: bool
    headers: tuple[str, ...]
    """Names only."""
    body: bytes
    stream: bool = False


def fingerprint(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:16] if key else ""


class Provider:
    """The simulator. Use `Provider.open()`; everything is gone at the end of the block."""

    def __init__(self, key: str = "") -> None:
        self.key = key or "sk-sim-" + secrets.token_urlsafe(32)
        self.behaviour = Behaviour()
        self.log: deque[LoggedRequest] = deque(maxlen=_LOG_BOUND)
        self.port = 0
        self._script: deque[str] = deque()
        self._failures = 0

    def __repr__(self) -> str:
        return f"Provider(port={self.port})"

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, *, port: int = 0, key: str = "", host: str = "127.0.0.1") -> AsyncIterator[Provider]:
        """Listening on loopback at `port`, or at a free one."""
        provider = cls(key)
        runner = web.AppRunner(provider.application(), access_log=None, shutdown_timeout=0.5)
        await runner.setup()
        try:
            site = web.TCPSite(runner, host, port)
            await site.start()
            provider.port = int(runner.addresses[0][1])
            yield provider
        finally:
            await runner.cleanup()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def behave(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self._script = deque(behaviour.script)
        self._failures = behaviour.fail_next

    def requests_with_key(self) -> int:
        """How many requests came with the right key."""
        return sum(1 for request in self.log if request.authorised)

    def application(self) -> web.Application:
        app = web.Application(client_max_size=_BODY_BOUND)
        for prefix in ("/v1", ""):
            app.router.add_post(f"{prefix}/chat/completions", self._chat)
            app.router.add_post(f"{prefix}/responses", self._responses)
            app.router.add_post(f"{prefix}/embeddings", self._embeddings)
            app.router.add_post(f"{prefix}/messages", self._messages)
            app.router.add_get(f"{prefix}/models", self._models)
        for prefix in ("/v1beta", "/v1", ""):
            acts = "{act:generateContent|streamGenerateContent}"
            app.router.add_post(f"{prefix}/models/{{model}}:{acts}", self._contents)
        app.router.add_route("*", "/{tail:.*}", self._nothing)
        return app

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body, refusal = await self._admit(request)
        if refusal is not None:
            return refusal
        text, calls, prompt = self._said(body, request)
        model = str(body.get("model", "simulated"))
        if body.get("stream") is True:
            options = body.get("stream_options")
            usage = isinstance(options, Mapping) and options.get("include_usage") is True
            usage = usage and self.behaviour.usage
            events = replies.chat_events(model, text, prompt, usage=usage, calls=calls)
            return await self._stream(request, events)
        document = replies.chat(model, text, prompt, usage=self.behaviour.usage, calls=calls)
        return self._json(request, document)

    async def _messages(self, request: web.Request) -> web.StreamResponse:
        body, refusal = await self._admit(request)
        if refusal is not None:
            return refusal
        text, calls, prompt = self._said(shapes.read_anthropic(body), request)
        model = str(body.get("model", "simulated"))
        if body.get("stream") is True:
            return await self._stream(request, shapes.anthropic_events(model, text, prompt, calls))
        return self._json(request, shapes.anthropic_message(model, text, prompt, calls))

    async def _contents(self, request: web.Request) -> web.StreamResponse:
        body, refusal = await self._admit(request)
        if refusal is not None:
            return refusal
        text, calls, prompt = self._said(shapes.read_gemini(body), request)
        model = request.match_info["model"]
        if request.match_info["act"] == "streamGenerateContent":
            return await self._stream(request, shapes.gemini_events(model, text, prompt, calls))
        return self._json(request, shapes.gemini_content(model, text, prompt, calls))

    def _said(self, body: Mapping[str, Any], request: web.Request) -> tuple[str, tuple[ToolCall, ...], int]:
        """The text, or the calls, that answer a `body` of the OpenAI form, and the tokens of its messages."""
        messages = body.get("messages")
        listed = [m for m in messages if isinstance(m, Mapping)] if isinstance(messages, list) else []
        calls = () if self._script else tool_calls(body)
        text = "" if calls else self._text(listed, body.get("response_format"), request)
        return text, calls, sum(tokens_of(text_of(message.get("content"))) for message in listed)

    async def _responses(self, request: web.Request) -> web.StreamResponse:
        body, refusal = await self._admit(request)
        if refusal is not None:
            return refusal
        given = body.get("input")
        messages = given if isinstance(given, list) else [{"role": "user", "content": str(given or "")}]
        listed = [m for m in messages if isinstance(m, Mapping)]
        wanted = body.get("text")
        form = wanted.get("format") if isinstance(wanted, Mapping) else None
        text = self._text(listed, form, request)
        prompt = sum(tokens_of(text_of(message.get("content"))) for message in listed)
        model = str(body.get("model", "simulated"))
        if body.get("stream") is True:
            return await self._stream(request, replies.response_events(model, text, prompt))
        return self._json(request, replies.response(model, text, prompt))

    async def _embeddings(self, request: web.Request) -> web.StreamResponse:
        body, refusal = await self._admit(request)
        if refusal is not None:
            return refusal
        given = body.get("input")
        texts = [str(item) for item in given] if isinstance(given, list) else [str(given or "")]
        vectors = [embedding(text) for text in texts]
        tokens = sum(tokens_of(text) for text in texts)
        return self._json(request, replies.embeddings(str(body.get("model", "simulated")), vectors, tokens))

    async def _models(self, request: web.Request) -> web.StreamResponse:
        _, refusal = await self._admit(request)
        return refusal or self._json(request, replies.models())

    async def _nothing(self, request: web.Request) -> web.StreamResponse:
        _, refusal = await self._admit(request)
        return refusal or web.json_response(
            replies.error("no such path", "invalid_request_error"), status=404
        )

    async def _admit(self, request: web.Request) -> tuple[dict[str, Any], web.StreamResponse | None]:
        """(decoded body, the answer where it isn't the ordinary one)."""
        raw = await request.read()
        key = _key_of(request)
        authorised = hmac.compare_digest(key.encode(), self.key.encode())
        try:
            value = msgspec.json.decode(raw) if raw else {}
        except msgspec.DecodeError:
            value = None
        body = value if isinstance(value, dict) else {}
        self.log.append(
            LoggedRequest(
                method=request.method,
                path=request.path,
                query=request.query_string,
                key_fingerprint=fingerprint(key),
                authorised=authorised,
                headers=tuple(sorted(name.lower() for name in request.headers)),
                body=raw,
                stream=body.get("stream") is True,
            )
        )
        if self.behaviour.latency_ms:
            await asyncio.sleep(self.behaviour.latency_ms / 1000)
        return body, self._unusual(authorised, value)

    def _unusual(self, authorised: bool, value: object) -> web.StreamResponse | None:
        behaviour = self.behaviour
        if not authorised:
            return web.json_response(
                replies.error("Incorrect API key provided", "invalid_request_error"), status=401
            )
        if behaviour.redirect_to:
            return web.Response(status=307, headers={"Location": behaviour.redirect_to})
        if self._failures:
            self._failures -= 1
            status = behaviour.status if behaviour.status != 200 else 429
            return web.json_response(
                replies.error("scripted", "rate_limit_error"), status=status, headers={"Retry-After": "0"}
            )
        if behaviour.status != 200 and not behaviour.fail_next:
            return web.json_response(replies.error("scripted", "server_error"), status=behaviour.status)
        if value is None:
            return web.json_response(replies.error("not JSON", "invalid_request_error"), status=400)
        return None

    def _text(self, messages: list[Mapping[str, Any]], form: object, request: web.Request) -> str:
        text = self._script.popleft() if self._script else answer(messages, form)
        return f"{text} {_key_of(request)}" if self.behaviour.echo_key in ("body", "stream") else text

    def _json(self, request: web.Request, value: object) -> web.Response:
        headers = {"x-request-id": "sim-" + secrets.token_hex(4)}
        if self.behaviour.echo_key == "header":
            headers["x-debug-authorization"] = request.headers.get("Authorization", "")
        return web.Response(body=msgspec.json.encode(value), content_type="application/json", headers=headers)

    async def _stream(self, request: web.Request, events: list[bytes]) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}
        )
        await response.prepare(request)
        for index, event in enumerate(events):
            if index == self.behaviour.break_after:
                if request.transport is not None:
                    request.transport.abort()
                return response
            for piece in self._pieces(event):
                await response.write(piece)
            if self.behaviour.chunk_ms:
                await asyncio.sleep(self.behaviour.chunk_ms / 1000)
        await response.write_eof()
        return response

    def _pieces(self, event: bytes) -> list[bytes]:
        """Echoed keys are cut across writes: a scrubber that looks at single chunks misses them."""
        if self.behaviour.echo_key != "stream":
            return [event]
        return [event[at : at + 7] for at in range(0, len(event), 7)]


def _key_of(request: web.Request) -> str:
    value = request.headers.get("Authorization", "")
    if value.lower().startswith("bearer "):
        return value[7:]
    headers = request.headers
    return headers.get("x-api-key", "") or headers.get("x-goog-api-key", "") or request.query.get("key", "")


async def _serve(port: int, key_file: str, behaviour: Behaviour) -> None:
    key = ""
    if key_file and Path(key_file).exists():  # noqa: ASYNC240 - once, before anything is served
        key = Path(key_file).read_text(encoding="ascii").strip()  # noqa: ASYNC240 - as above
    async with Provider.open(port=port, key=key) as provider:
        provider.behave(behaviour)
        if key_file and not key:
            descriptor = os.open(key_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(provider.key)
        where = key_file or "no file (--key-file keeps it)"
        sys.stdout.write(f"{provider.base_url}\nkey: {where}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description="A local provider in OpenAI's shape.")
    parser.add_argument("--port", type=int, default=0, help="0 (default) takes a free one; it is printed")
    parser.add_argument("--key-file", default="", help="read the key here, or write a new one (0600)")
    parser.add_argument("--latency-ms", type=int, default=0, help="before each answer")
    parser.add_argument("--chunk-ms", type=int, default=0, help="between two events of a stream")
    arguments = parser.parse_args()
    behaviour = Behaviour(latency_ms=arguments.latency_ms, chunk_ms=arguments.chunk_ms)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(arguments.port, arguments.key_file, behaviour))


if __name__ == "__main__":
    main()
