"""Writing the simulated provider's answers, whole or as something goes wrong on the way."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence

from aiohttp import web

from bridgehold.bridges.kit.behaviour import Behaviour
from bridgehold.bridges.kit.faults import Fault, Faults

_GARBAGE = b"<html><body>502 Bad Gateway</body></html>"
_ECHO_BYTES = 7
_SSE = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}


async def send_document(
    request: web.Request,
    body: bytes,
    headers: Mapping[str, str],
    behaviour: Behaviour,
    fault: Fault | None,
) -> web.StreamResponse:
    """A JSON document, or what `fault` leaves of it."""
    if fault is not None and fault.kind == "garbage":
        body = _GARBAGE
    if fault is not None and fault.kind == "truncate":
        body = body[: _place(fault, len(body))]
    if fault is None or fault.kind not in ("reset_stream", "drip"):
        return web.Response(body=body, content_type="application/json", headers=headers)
    response = web.StreamResponse(headers={**headers, "Content-Type": "application/json"})
    response.content_length = len(body)
    with contextlib.suppress(ConnectionError):
        await response.prepare(request)
        if fault.kind == "drip":
            await _drip(response, body, behaviour.faults or Faults())
            await response.write_eof()
        else:
            await response.write(body[: _place(fault, len(body))])
            reset(request)
    return response


async def send_events(
    request: web.Request, events: Sequence[bytes], behaviour: Behaviour, fault: Fault | None
) -> web.StreamResponse:
    """A stream of events, or what `fault` leaves of it."""
    response = web.StreamResponse(headers=_SSE)
    with contextlib.suppress(ConnectionError):  # who asked has gone
        await response.prepare(request)
        await _write(request, response, events, behaviour, fault)
    return response


async def _write(
    request: web.Request,
    response: web.StreamResponse,
    events: Sequence[bytes],
    behaviour: Behaviour,
    fault: Fault | None,
) -> None:
    kind = fault.kind if fault is not None else ""
    last = _place(fault, len(events)) if fault is not None else -1
    for index, event in enumerate(events):
        if index == behaviour.break_after:
            reset(request)
            return
        if kind == "drip":
            await _drip(response, event, behaviour.faults or Faults())
        elif kind == "garbage" and index == last:
            await response.write(b"data: " + _GARBAGE + b"\n\n")
        elif kind in ("reset_stream", "truncate") and index == last:
            await response.write(event[: len(event) // 2])
            if kind == "reset_stream":
                reset(request)
            else:
                await response.write_eof()
            return
        else:
            for piece in _pieces(event, behaviour):
                await response.write(piece)
        if behaviour.chunk_ms:
            await asyncio.sleep(behaviour.chunk_ms / 1000)
    await response.write_eof()


def reset(request: web.Request) -> None:
    """End the connection as it stands."""
    if request.transport is not None:
        request.transport.abort()


def _place(fault: Fault, length: int) -> int:
    """Where it strikes: within, so that something is missing."""
    return min(int(fault.at * length), max(0, length - 1))


async def _drip(response: web.StreamResponse, data: bytes, faults: Faults) -> None:
    step = max(1, faults.drip_bytes)
    for at in range(0, len(data), step):
        await response.write(data[at : at + step])
        await asyncio.sleep(faults.drip_ms / 1000)


def _pieces(event: bytes, behaviour: Behaviour) -> list[bytes]:
    """Echoed keys are cut across writes: a scrubber that looks at single chunks misses them."""
    if behaviour.echo_key != "stream":
        return [event]
    return [event[at : at + _ECHO_BYTES] for at in range(0, len(event), _ECHO_BYTES)]
