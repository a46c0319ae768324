"""What real clients send, before the gateway's own judgement of what is plain inference."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import parse_qsl

from bridgehold.keeper.slots import AUTH_QUERY, forwarded_headers
from bridgehold.policies.content import ParsedRequest, body_facts


def check_inference(requests: Iterable[dict[str, Any]]) -> None:
    """`requests` have ``path``, as ``/SHAPE/chat/completions?query``, ``headers`` and ``body``."""
    for request in requests:
        place, _, query = request["path"].partition("?")
        _, shape, rest = place.split("/", 2)
        asked = ParsedRequest(
            path=f"/{rest}",
            body=request["body"],
            query=tuple(pair for pair in parse_qsl(query) if pair[0].lower() not in AUTH_QUERY),
            headers=forwarded_headers(request["headers"].items()),
        )
        assert body_facts(shape, asked).first == "", request
