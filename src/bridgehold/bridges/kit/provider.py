"""A provider on this machine that plays a paid API: three shapes, a key that it checks, a request log.

For tests, the demo and bridge authors: ``python -m bridgehold.bridges.kit --port 0`` prints
its base URL and where its key is. It listens on loopback only. Its behaviours (errors, slowness, an
echo of the key, redirects) are what a gateway must survive.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import secrets
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any
from urllib.parse import urljoin, urlsplit

import msgspec
from aiohttp import web

from bridgehold.bridges.kit import replies, responses, sending, shapes
from bridgehold.bridges.kit.answers import answer, embedding, text_of, tokens_of
from bridgehold.bridges.kit.behaviour import Behaviour, LoggedRequest, Scripted
from bridgehold.bridges.kit.faults import Fault, fault_of
from bridgehold.bridges.kit.refusals import ErrorKind, error_event, kind_of, refusal, shape_of
from bridgehold.bridges.kit.tool_calls import ToolCall, tool_calls

__all__ = ["Behaviour", "LoggedRequest", "Provider", "Scripted", "fingerprint"]

_BODY_BOUND = 32 * 1024 * 1024
_LOG_BOUND = 10_000


def fingerprint(key: str) -> str:
    """16 hexadecimal digits that tell keys apart without showing one; empty for no key."""
    return hashlib.sha256(key.encode()).hexdigest()[:16] if key else ""


class _Exchange(msgspec.Struct, frozen=True, kw_only=True):
    """A request, and what is to be said to it: `refusal`, or the text and calls of a model."""

    request: web.Request
    body: dict[str, Any]
    refusal: web.StreamResponse | None = None
    fault: Fault | None = None
    text: str = ""
    calls: tuple[ToolCall, ...] = ()
    tokens: int = 0
    """Of the prompt."""

    @property
    def model(self) -> str:
        return str(self.body.get("model", "simulated"))

    @property
    def stream(self) -> bool:
        return self.body.get("stream") is True

    def refused(self, response: web.StreamResponse) -> _Exchange:
        return msgspec.structs.replace(self, refusal=response)


_Read = Callable[[Mapping[str, Any]], Mapping[str, Any]]


class Provider:
    """The simulator. Use `Provider.open()`; everything is gone at the end of the block."""

    def __init__(self, key: str = "") -> None:
        self.key = key or "sk-sim-" + secrets.token_urlsafe(32)
        self.behaviour = Behaviour()
        self.log: deque[LoggedRequest] = deque(maxlen=_LOG_BOUND)
        self.port = 0
        self._script: deque[str | Scripted] = deque()
        self._failures = 0
        self._asked = 0

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
        """Where it answers, in the shape openai."""
        return f"http://127.0.0.1:{self.port}/v1"

    def behave(self, behaviour: Behaviour) -> None:
        """Answer like this from now on."""
        self.behaviour = behaviour
        self._script = deque(behaviour.script)
        self._failures = behaviour.fail_next
        self._asked = 0

    def requests_with_key(self) -> int:
        """How many requests came with the right key."""
        return sum(1 for request in self.log if request.authorised)

    def application(self) -> web.Application:
        """Its routes: what `open` serves."""
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
        asked = await self._admit(request, lambda body: body)
        if asked.refusal is not None:
            return asked.refusal
        if asked.stream:
            options = asked.body.get("stream_options")
            usage = isinstance(options, Mapping) and options.get("include_usage") is True
            usage = usage and self.behaviour.usage
            events = replies.chat_events(
                asked.model, asked.text, asked.tokens, usage=usage, calls=asked.calls
            )
            return await self._events(asked, events)
        document = replies.chat(
            asked.model, asked.text, asked.tokens, usage=self.behaviour.usage, calls=asked.calls
        )
        return await self._document(asked, document)

    async def _messages(self, request: web.Request) -> web.StreamResponse:
        asked = await self._admit(request, shapes.read_anthropic)
        said = (asked.model, asked.text, asked.tokens, asked.calls)
        if asked.refusal is not None:
            return asked.refusal
        if asked.stream:
            return await self._events(asked, shapes.anthropic_events(*said))
        return await self._document(asked, shapes.anthropic_message(*said))

    async def _contents(self, request: web.Request) -> web.StreamResponse:
        asked = await self._admit(request, shapes.read_gemini)
        said = (request.match_info["model"], asked.text, asked.tokens, asked.calls)
        if asked.refusal is not None:
            return asked.refusal
        if request.match_info["act"] == "streamGenerateContent":
            return await self._events(asked, shapes.gemini_events(*said))
        return await self._document(asked, shapes.gemini_content(*said))

    async def _responses(self, request: web.Request) -> web.StreamResponse:
        asked = await self._admit(request, responses.read_response)
        said = (asked.model, asked.text, asked.tokens, asked.calls)
        if asked.refusal is not None:
            return asked.refusal
        if asked.stream:
            return await self._events(asked, responses.response_events(*said))
        return await self._document(asked, responses.response(*said))

    async def _embeddings(self, request: web.Request) -> web.StreamResponse:
        asked = await self._admit(request)
        given = asked.body.get("input")
        texts = [str(item) for item in given] if isinstance(given, list) else [str(given or "")]
        vectors = [embedding(text) for text in texts]
        tokens = sum(tokens_of(text) for text in texts)
        document = replies.embeddings(asked.model, vectors, tokens)
        return asked.refusal or await self._document(asked, document)

    async def _models(self, request: web.Request) -> web.StreamResponse:
        asked = await self._admit(request)
        return asked.refusal or await self._document(asked, replies.models())

    async def _nothing(self, request: web.Request) -> web.StreamResponse:
        asked = await self._admit(request)
        return asked.refusal or self._refuse(request, "not_found")

    async def _admit(self, request: web.Request, read: _Read | None = None) -> _Exchange:
        """Log a request, and decide what it gets. `read`: into the form of chat completions, if any."""
        raw = await request.read()
        key = _key_of(request)
        authorised = hmac.compare_digest(key.encode(), self.key.encode())
        try:
            value = msgspec.json.decode(raw) if raw else {}
        except (msgspec.DecodeError, RecursionError):
            value = None
        body = value if isinstance(value, dict) else {}
        fault = None
        if authorised and self.behaviour.faults is not None:
            fault = fault_of(self.behaviour.faults, self._asked)
            self._asked += 1
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
                fault=fault.kind if fault is not None else "",
            )
        )
        if self.behaviour.latency_ms:
            await asyncio.sleep(self.behaviour.latency_ms / 1000)
        refused = self._unusual(request, authorised, value) or await self._struck(request, fault)
        if refused is None and read is not None:
            return await self._answered(request, body, read(body), fault)
        return _Exchange(request=request, body=body, refusal=refused, fault=fault)

    def _unusual(self, request: web.Request, authorised: bool, value: object) -> web.StreamResponse | None:
        behaviour = self.behaviour
        if not authorised:
            return self._refuse(request, "auth")
        if behaviour.redirect_to and not _is_there(request, behaviour.redirect_to):
            return web.Response(status=behaviour.redirect_status, headers={"Location": behaviour.redirect_to})
        status = behaviour.status if behaviour.status != 200 else 0
        if self._failures:
            self._failures -= 1
            return self._refuse(request, behaviour.error or kind_of(status or 429), status)
        if (behaviour.error or status) and not behaviour.fail_next and behaviour.error_after < 0:
            return self._refuse(request, behaviour.error or kind_of(status), status)
        return self._refuse(request, "bad_request") if value is None else None

    async def _struck(self, request: web.Request, fault: Fault | None) -> web.StreamResponse | None:
        """What a fault does before there is an answer."""
        if fault is None:
            return None
        if fault.kind == "latency" and self.behaviour.faults is not None:
            await asyncio.sleep(self.behaviour.faults.spike_ms / 1000)
        elif fault.kind == "reset":
            sending.reset(request)
            return web.Response()
        elif fault.kind in ("rate_limit", "server", "overloaded"):
            return self._refuse(request, fault.kind)
        return None

    async def _answered(
        self, request: web.Request, body: dict[str, Any], chat: Mapping[str, Any], fault: Fault | None
    ) -> _Exchange:
        """What is said to a request in the form of chat completions: as scripted, else as ever."""
        messages = chat.get("messages")
        listed = [m for m in messages if isinstance(m, Mapping)] if isinstance(messages, list) else []
        tokens = sum(tokens_of(text_of(message.get("content"))) for message in listed)
        asked = _Exchange(request=request, body=body, fault=fault, tokens=tokens)
        most = self.behaviour.context_tokens
        if most and tokens > most:
            return asked.refused(self._refuse(request, "context_length", most=most, came=tokens))
        scripted = self._script.popleft() if self._script else None
        if isinstance(scripted, Scripted):
            await asyncio.sleep(scripted.latency_ms / 1000)
            if scripted.error:
                return asked.refused(self._refuse(request, scripted.error, most=most or tokens, came=tokens))
            calls: tuple[ToolCall, ...] = tuple(
                ToolCall(f"call_sim_{len(listed)}_{place}", name, json.dumps(arguments))
                for place, (name, arguments) in enumerate(scripted.calls)
            )
            text = scripted.text
        else:
            calls = tool_calls(chat) if scripted is None else ()
            text = scripted or ("" if calls else answer(listed, chat.get("response_format")))
        if self.behaviour.echo_key in ("body", "stream"):
            text = f"{text} {_key_of(request)}"
        return msgspec.structs.replace(asked, text=text, calls=calls)

    def _refuse(
        self, request: web.Request, kind: ErrorKind, status: int = 0, *, most: int = 0, came: int = 0
    ) -> web.StreamResponse:
        wait = self.behaviour.retry_after_s
        shape = shape_of(request.path)
        refused = refusal(kind, shape, status=status, retry_after_s=wait, most=most, came=came)
        return web.json_response(refused.document, status=refused.status, headers=refused.headers)

    async def _document(self, asked: _Exchange, value: object) -> web.StreamResponse:
        headers = {"x-request-id": "sim-" + secrets.token_hex(4)}
        if self.behaviour.echo_key == "header":
            headers["x-debug-authorization"] = asked.request.headers.get("Authorization", "")
        body = msgspec.json.encode(value)
        return await sending.send_document(asked.request, body, headers, self.behaviour, asked.fault)

    async def _events(self, asked: _Exchange, events: list[bytes]) -> web.StreamResponse:
        behaviour = self.behaviour
        if behaviour.error and behaviour.error_after >= 0:
            shape = shape_of(asked.request.path)
            events = [*events[: behaviour.error_after], error_event(behaviour.error, shape)]
        return await sending.send_events(asked.request, events, self.behaviour, asked.fault)


def _key_of(request: web.Request) -> str:
    value = request.headers.get("Authorization", "")
    if value.lower().startswith("bearer "):
        return value[7:]
    headers = request.headers
    return headers.get("x-api-key", "") or headers.get("x-goog-api-key", "") or request.query.get("key", "")


def _is_there(request: web.Request, place: str) -> bool:
    """Whether `request` is what a redirect to `place` leads to."""
    try:
        parts = urlsplit(urljoin(str(request.url), place))
    except ValueError:
        return False
    return (parts.path, parts.query) == (request.path, request.query_string)
