"""Artifacts: a body in and out, in parts, so that no more than two are held here."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from aiohttp import StreamReader, web

from bridgehold.errors import BridgeholdError, UsageError
from bridgehold.faces.http.calls import Call
from bridgehold.faces.http.replies import headers, write
from bridgehold.faces.http.route import route
from bridgehold.faces.http.statuses import Refused, too_slow
from bridgehold.protocol.parts import Moved
from bridgehold.protocol.values import Artifact

PART_BYTES = 1 << 20
"""What is here of an artifact at once."""
_AT_ONCE = 2 * PART_BYTES
"""Of an upload: a part, and the one after it, which says whether it is the last."""


@route("PUT", "/v1/artifacts", gives=Artifact, query=("name", "tenant"), status=201, takes_bytes=True)
async def put(call: Call) -> object:
    """Keep the body's bytes for the tenant.

    Whatever they are; the content type is kept as their media type.
    """
    if call.request.headers.get("Content-Encoding"):
        raise Refused(415, UsageError("a compressed body is not taken", where="Content-Encoding"))
    length = call.request.content_length
    call.hold(min(length if length is not None else _AT_ONCE, _AT_ONCE))
    upload, said = _Upload(call), {}
    try:
        async for part, last in _parts(call.request.content, call.face.config.body_s):
            said = await upload.add(part, last=last)
    except BaseException:
        await upload.drop()
        raise
    return msgspec.convert(said, type=Artifact, strict=False)


class _Upload:
    """One upload at the host, from its first part on."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._name = ""
        kind = call.request.headers.get("Content-Type", "")[:200]
        self._shown = {"name": call.query("name"), "media_type": kind, "tenant": call.tenant}

    async def add(self, part: bytes, *, last: bool) -> dict[str, Any]:
        """What the host says: the artifact, once the last part is there."""
        params = {"upload": self._name, "last": last, **self._shown}
        work = asyncio.ensure_future(self._call.link.ask("artifact.put", params, Moved("data", part)))
        try:
            said: dict[str, Any] = await asyncio.shield(work)
        except asyncio.CancelledError:  # the host goes on all the same, and only its answer names the upload
            with contextlib.suppress(BridgeholdError):
                self._name = (await work).get("upload", "")
            raise
        self._name = said.get("upload", "")
        return said

    async def drop(self) -> None:
        """Forget it, unless it is whole."""
        if self._name:
            with contextlib.suppress(BridgeholdError):  # it is forgotten after a while as well
                where = {"upload": self._name, "tenant": self._shown["tenant"]}
                await self._call.ask("artifact.drop", where)


@route("GET", "/v1/artifacts/{digest}", query=("tenant",), gives_kind="application/octet-stream")
async def get(call: Call) -> object:
    """An artifact's bytes.

    Always as an attachment of no type: what a tenant keeps is nobody's page.
    """
    call.hold(PART_BYTES)
    digest = call.path("digest")
    asked = {"digest": digest, "tenant": call.tenant, "length": PART_BYTES}
    said = await call.ask("artifact.get", {**asked, "offset": 0})
    size = said["size_bytes"]
    more = {
        "Content-Type": "application/octet-stream",
        "Content-Disposition": "attachment",
        "ETag": f'"{digest}"',
    }
    response = web.StreamResponse(headers=headers(more))
    response.content_length = size
    await response.prepare(call.request)
    if call.request.method == "HEAD":
        return response
    offset = 0
    while data := base64.b64decode(said["data"]):
        await write(call.request, response, data, call.face.config.read_s)
        offset += len(data)
        if offset >= size:
            break
        said = await call.ask("artifact.get", {**asked, "offset": offset})
    return response


@route("GET", "/v1/artifacts", gives=list[Artifact], query=("tenant",))
async def listed(call: Call) -> object:
    """The tenant's artifacts, the newest last."""
    return await call.ask("artifact.list", {"tenant": call.tenant})


@route("DELETE", "/v1/artifacts/{digest}", gives=Artifact, query=("tenant",))
async def remove(call: Call) -> object:
    """Forget an artifact."""
    return await call.ask("artifact.remove", {"digest": call.path("digest"), "tenant": call.tenant})


async def _parts(content: StreamReader, seconds: float) -> AsyncIterator[tuple[bytes, bool]]:
    """The body in parts, at least one, each with whether it is the last. `Refused` where slow."""
    part = await _part(content, seconds)
    while True:
        following = await _part(content, seconds) if len(part) == PART_BYTES else b""
        yield part, not following
        if not following:
            return
        part = following


async def _part(content: StreamReader, seconds: float) -> bytes:
    data = bytearray()
    try:
        async with asyncio.timeout(seconds):
            while len(data) < PART_BYTES and (piece := await content.read(PART_BYTES - len(data))):
                data += piece
    except TimeoutError:
        raise too_slow(seconds) from None
    return bytes(data)
