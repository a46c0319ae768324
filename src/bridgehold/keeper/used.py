"""What an answer counts of what its provider bills by use, whatever its shape (pure).

Kinds are in the words of grants and fees, without the version that a provider may add: ``web_search``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from bridgehold.policies.uses import calls

_CALLS = frozenset(
    f"{kind}_call" for kind in ("web_search", "file_search", "code_interpreter", "image_generation", "mcp")
)
"""Items of an answer of OpenAI's that are calls of tools of its own."""
_REQUESTS = "_requests"
PICTURES = "/images/generations"


def said_of(value: dict[str, object]) -> Counter[str]:
    """Of one document or event: all that the answer has used up to there, by kind."""
    return Counter(
        {
            **_items(_table(value, "response") or value),
            **_requests(_table(value, "message") or value),
            **_grounding(value),
            **_pictures(value),
        }
    )


def came_in(value: dict[str, object]) -> Counter[str]:
    """Of one event: what it alone tells of."""
    kind = value.get("type")
    if kind == "response.output_item.done":
        return _items({"output": [value.get("item")]})
    return Counter({PICTURES: 1} if kind == "image_generation.completed" else {})


def _items(value: dict[str, object]) -> Counter[str]:
    kinds = (str(item.get("type")) for item in _tables(value.get("output")))
    return Counter(kind.removesuffix("_call") for kind in kinds if kind in _CALLS)


def _requests(value: dict[str, object]) -> dict[str, int]:
    counts = _table(_table(value, "usage"), "server_tool_use")
    found = {str(name): calls(count) for name, count in counts.items()}
    return {
        name.removesuffix(_REQUESTS): count
        for name, count in found.items()
        if count and name.endswith(_REQUESTS) and len(name) <= len(_REQUESTS) + 64
    }


def _grounding(value: dict[str, object]) -> dict[str, int]:
    asked = [
        _table(one, "groundingMetadata").get("webSearchQueries") for one in _tables(value.get("candidates"))
    ]
    count = sum(len(queries) for queries in asked if isinstance(queries, list))
    return {"googleSearch": count} if count else {}


def _pictures(value: dict[str, object]) -> dict[str, int]:
    made = sum(1 for one in _tables(value.get("data")) if one.keys() & {"b64_json", "url"})
    return {PICTURES: made} if made else {}


def _table(value: dict[str, object], name: str) -> dict[str, object]:
    found = value.get(name)
    return found if isinstance(found, dict) else {}


def _tables(items: object) -> Iterable[dict[str, object]]:
    return (one for one in items if isinstance(one, dict)) if isinstance(items, list) else ()
