"""Tools that are endpoints of the operator's: a POST of the arguments, through the keeper.

The address is a `[providers.NAME]` of the configuration. So its name is resolved and pinned, private
ranges are refused and the tenant's key is put in as for any provider, and no bridge sees either.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from bridgehold import strict
from bridgehold.errors import ApplicationError, LimitError, NotFoundError
from bridgehold.host.cell.tools.values import ToolContext, ToolSpec
from bridgehold.keeper.client import KeeperClient
from bridgehold.keeper.protocol import UpstreamRequest

_MOST_BYTES = 4 * 1024 * 1024
_JSON = (("content-type", "application/json"), ("accept", "application/json"))


class HttpTools:
    """Calls endpoints through the keeper."""

    def __init__(self, keeper: KeeperClient) -> None:
        self._keeper = keeper
        self._places: Mapping[str, tuple[str, str]] = {}

    def replace(self, places: Mapping[str, tuple[str, str]]) -> None:
        """By tool, the provider and the path below its base URL."""
        self._places = places

    async def call(self, tool: ToolSpec, arguments: dict[str, object], context: ToolContext) -> object:
        """POST the arguments to the tool's address, through the keeper."""
        if tool.name not in self._places:
            raise NotFoundError(f"the tool {tool.name} is not offered any more")
        provider, path = self._places[tool.name]
        body = msgspec.json.encode(arguments)
        request = UpstreamRequest(
            tenant=context.tenant,
            session=context.session,
            provider=provider,
            method="POST",
            path=path,
            headers=_JSON,
            body_bytes=len(body),
            deadline_ms=tool.timeout_ms,
        )
        found = bytearray()
        async with await self._keeper.request(request, body) as response:
            async for piece in response.body():
                found += piece
                if len(found) > _MOST_BYTES:
                    raise LimitError(f"the tool {tool.name} answered with more than {_MOST_BYTES} bytes")
        if not 200 <= response.status < 300:
            raise ApplicationError(f"the tool {tool.name} answered with status {response.status}")
        try:
            return strict.loads(bytes(found)) if found else None
        except strict.StrictError as error:
            raise ApplicationError(
                f"the tool {tool.name} answered with what can't be sent: {error}"
            ) from None
