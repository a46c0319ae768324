"""Artifacts from the caller's side: bytes in and out, in parts."""

from __future__ import annotations

import contextlib
import errno
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import msgspec

from bridgehold import writes
from bridgehold.error_texts import from_os
from bridgehold.errors import UsageError
from bridgehold.protocol.parts import Moved, bytes_of
from bridgehold.protocol.values import Artifact

PART_BYTES = 4 * 1024 * 1024


class Asks(Protocol):
    """What is needed of a client."""

    async def request(self, method: str, params: dict[str, Any], *, moved: Moved | None = None) -> Any:
        """Send one request of the host's protocol and return its result. Raises the host's typed error."""


async def put(
    client: Asks, data: bytes | Path, *, tenant: str, name: str = "", media_type: str = ""
) -> Artifact:
    """Keep bytes, or a file's, which is read as it is sent."""
    source = _source(data)
    shown = name or (data.name if isinstance(data, Path) else "")
    upload = ""
    with source:
        part = source.read(PART_BYTES)
        while True:
            following = source.read(PART_BYTES)
            params = {
                "upload": upload,
                "last": not following,
                "name": shown,
                "media_type": media_type,
                "tenant": tenant,
            }
            said = await client.request("artifact.put", params, moved=Moved("data", part))
            if not following:
                return msgspec.convert(said, type=Artifact, strict=False)
            upload, part = said["upload"], following


def _source(data: bytes | Path) -> BinaryIO:
    """Raises `UsageError` for what has no bytes."""
    try:
        if isinstance(data, Path):
            return data.open("rb")
        return io.BytesIO(data if isinstance(data, bytes) else memoryview(data))  # of bytes no copy
    except OSError as error:
        where = str(data)
        raise UsageError(
            f"can't be read: {error.strerror}", where=where, hint="Look how its path is spelt."
        ) from error
    except TypeError as error:
        what = f"{type(data).__module__}.{type(data).__qualname__}"
        hint = "Encode text (`.encode()`), or give the `Path` of a file."
        raise UsageError(f"bytes are kept, and a {what} is none", where="data", hint=hint) from error


async def get(client: Asks, digest: str, *, tenant: str, to: Path | None = None) -> bytes:
    """All bytes; with `to` they go into that file, and nothing is given."""
    offset, kept = 0, io.BytesIO()
    with _new(to) if to is not None else kept as target:
        while True:
            params = {"digest": digest, "offset": offset, "length": PART_BYTES, "tenant": tenant}
            said = await client.request("artifact.get", params, moved=Moved())
            data = bytes_of(said["data"])
            offset += target.write(data)
            if not data or offset >= said["size_bytes"]:
                return kept.getvalue() if to is None else b""


@contextlib.contextmanager
def _new(path: Path) -> Iterator[BinaryIO]:
    try:
        with writes.arriving(path) as file:
            yield file
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise from_os(error) from error
        raise UsageError(
            f"{path} can't be written: {error.strerror}", hint="Name a new file in a folder of yours."
        ) from error
