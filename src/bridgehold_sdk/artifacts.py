"""The tenant's artifacts, from inside: bytes by digest, kept by the host beyond the session.

They are tools of the host's: a policy grants them as ``artifact_put``, ``artifact_get``, ``artifact_list``.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from bridgehold_sdk.bridge import Tool
from bridgehold_sdk.errors import ToolError

_PART_BYTES = 256 * 1024


class Artifacts:
    """`self.artifacts` of a bridge, for the running command. Raises `ToolError` with code ``denied``."""

    def __init__(self, tools: Callable[[], Mapping[str, Tool]]) -> None:
        self._tools = tools

    @property
    def granted(self) -> bool:
        """Whether this command may keep any."""
        return "artifact_put" in self._tools()

    def put(self, data: bytes, *, name: str = "", media_type: str = "") -> dict[str, Any]:
        """Keep `data`; ``{"digest", "size_bytes", "name", …}``."""
        upload = ""
        starts = range(0, max(1, len(data)), _PART_BYTES)
        said: dict[str, Any] = {}
        for start in starts:
            part = base64.b64encode(data[start : start + _PART_BYTES]).decode("ascii")
            last = start + _PART_BYTES >= len(data)
            more = {"upload": upload} if upload else {}
            said = self._call("artifact_put", data=part, last=last, name=name, media_type=media_type, **more)
            upload = str(said.get("upload", ""))
        return said

    def get(self, digest: str) -> bytes:
        """All of an artifact's bytes."""
        return b"".join(self.parts(digest))

    def parts(self, digest: str) -> Iterator[bytes]:
        """An artifact's bytes, a part at a time."""
        offset = 0
        while True:
            said = self._call("artifact_get", digest=digest, offset=offset, length=_PART_BYTES)
            data = base64.b64decode(said["data"])
            offset += len(data)
            if data:
                yield data
            if not data or offset >= said["size_bytes"]:
                return

    def list(self) -> list[dict[str, Any]]:
        """The tenant's artifacts: digest, name, media type, size in bytes. Raises `ToolError`."""
        found: list[dict[str, Any]] = self._call("artifact_list")
        return found

    def _call(self, operation: str, /, **arguments: Any) -> Any:
        tool = self._tools().get(operation)
        if tool is None:
            raise ToolError(operation, "denied", "the policy does not grant it: tools.allow")
        return tool(**arguments)
