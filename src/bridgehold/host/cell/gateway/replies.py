"""Answers to the guest: heads, bodies, refusals; framed by h11 so that nothing can be smuggled."""

from __future__ import annotations

import re
from collections.abc import Iterable

import h11
import msgspec

from bridgehold.host.cell.gateway.wire import GuestGone, Wire
from bridgehold.keeper.shapes import Denial, denial_body

_NAME = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+")
_LENGTH = re.compile(r"[0-9]{1,15}")
_OWN = frozenset({"content-length", "transfer-encoding", "connection", "content-encoding", "date"})


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """Why a request is not served."""

    status: int
    rule: str
    reason: str
    source: str = ""
    severity: str = "normal"
    hint: str = ""

    def message(self, event: str) -> str:
        """For people, as SDKs show it: the reason, the rule, the remedy, and where the story is."""
        parts = [f"Bridgehold refused this request: {self.reason} (rule {self.rule})."]
        if self.hint:
            parts.append(self.hint)
        if event:
            parts.append(f"Run: bridgehold why {event}")
        return " ".join(parts)


class Replies:
    """The response side of one request."""

    def __init__(self, wire: Wire, connection: h11.Connection, shape: str, *, bodiless: bool = False) -> None:
        """`bodiless`: it was asked by HEAD, so no byte may follow a head."""
        self._wire = wire
        self._connection = connection
        self._shape = shape
        self._bodiless = bodiless
        self.started = False
        self.sent = 0

    async def head(self, status: int, headers: Iterable[tuple[str, str]]) -> None:
        """Status and headers of a provider's answer; its length is kept if it says one."""
        listed = [(n, v) for n, v in headers if _NAME.fullmatch(n)]
        lengths = [v for n, v in listed if n == "content-length" and _LENGTH.fullmatch(v)]
        kept = [(n, v.strip()) for n, v in listed if n not in _OWN and not n.startswith("x-bridgehold-")]
        if len(lengths) == 1:
            kept.append(("content-length", lengths[0]))
        elif status not in (204, 304):
            kept.append(("transfer-encoding", "chunked"))
        encoded = [(n.encode("ascii"), v.encode("latin-1", "replace")) for n, v in kept]
        self.started = True
        await self._send(h11.Response(status_code=status, headers=encoded))

    async def data(self, chunk: bytes) -> None:
        """Send a piece of the answer's body. Raises `GuestGone`."""
        if chunk:
            self.sent += len(chunk)
            await self._send(h11.Data(data=chunk))

    async def end(self) -> None:
        """The answer is whole. Raises `GuestGone`."""
        await self._send(h11.EndOfMessage())

    async def refuse(self, refusal: Refusal, event: str, *, close: bool = False) -> None:
        """The whole answer to a refused request, in the provider's own shape."""
        denial = Denial(status=refusal.status, rule=refusal.rule, message=refusal.message(event), event=event)
        body = denial_body(self._shape, denial)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode("ascii")),
            (b"x-bridgehold-rule", refusal.rule.encode("ascii", "replace")),
        ]
        if event:
            headers.append((b"x-bridgehold-event", event.encode("ascii")))
        if refusal.status == 429:
            headers.append((b"retry-after", b"5"))
        if close:
            headers.append((b"connection", b"close"))
        self.started = True
        self.sent += 0 if self._bodiless else len(body)
        response = h11.Response(status_code=refusal.status, headers=headers)
        payload = b"".join(
            self._connection.send(event) or b""
            for event in (response, *([] if self._bodiless else [h11.Data(data=body)]), h11.EndOfMessage())
        )
        await self._wire.send(payload)

    async def _send(self, event: h11.Response | h11.Data | h11.EndOfMessage) -> None:
        try:
            payload = self._connection.send(event)
        except h11.LocalProtocolError:
            raise GuestGone("the provider's answer breaks its own framing") from None
        await self._wire.send(payload or b"")


def raw_refusal(refusal: Refusal, event: str) -> bytes:
    """A refusal for bytes that are no request: the connection closes after it."""
    body = denial_body(
        "openai",
        Denial(status=refusal.status, rule=refusal.rule, message=refusal.message(event), event=event),
    )
    head = (
        f"HTTP/1.1 {refusal.status} Refused\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode("ascii") + body
