"""What a provider would do with a body beyond inference: fetch, run tools, use stored objects (pure).

With such a body the provider is an exit from the sandbox or a drawer that it shares with others, so
`decide` refuses it unless the endpoint grants ``remote_content``. The caller has parsed the bytes
strictly (no key twice), and sends on what it parsed.

Keys are compared without case, ``_`` and ``-``: servers differ in what they fold. Strings are never
searched: a URL in a message's text is text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

import msgspec

Shape = Literal["openai", "anthropic", "gemini", "custom"]

MAX_DEPTH = 64
MAX_VALUES = 200_000


class BodyFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Each fact is where it was first seen (``messages[0].content[1].image_url``), or empty."""

    remote_url: str = ""
    """The provider would fetch this URL."""
    server_tool: str = ""
    """The provider would run this tool, or use a model that searches by itself."""
    stored_object: str = ""
    """The provider would read, or keep, an object under the key."""
    unreadable: str = ""
    """Why the body could not be judged."""

    @property
    def first(self) -> str:
        """The first fact in words, or empty for plain inference."""
        for text, place in (
            ("the body could not be judged", self.unreadable),
            ("the provider would fetch a URL", self.remote_url),
            ("the provider would run a tool of its own", self.server_tool),
            ("the provider would use a stored object", self.stored_object),
        ):
            if place:
                return f"{text}: {place}"
        return ""


NO_BODY = BodyFacts()
UNREADABLE = BodyFacts(unreadable="not a JSON object")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_URLS = _words("imageurl fileurl videourl audiourl documenturl inputurl url uri fileuri gcsuri")
_MEDIA = _words("image audio video file document source media")
"""Keys whose value is an object or inline data, and with some servers a URL."""
_STORED = _words(
    "fileid vectorstoreid previousresponseid responseid conversation conversationid threadid assistantid "
    "container containerid cachedcontent itemreference inputfileid trainingfile datasetid knowledgebaseid "
    "uploadid skillid store background"
)
_SERVER_SIDE = _words(
    "websearchoptions searchparameters enablesearch websearch plugins mcpservers connectors serverurl "
    "connectorid searchdomainfilter datasources urlcontext googlesearch googlesearchretrieval codeexecution "
    "googlemaps filesearch computeruse enterprisewebsearch codeinterpreter mcp"
)
_CLIENT_TOOLS = _words("function custom")
_ITEMS = _words(
    "message functioncall functioncalloutput customtoolcall customtoolcalloutput reasoning text inputtext "
    "inputimage inputaudio inputfile imageurl outputtext"
)
_SEARCHING = re.compile(r"(?:^|[-_/.:])(?:search|online|sonar|deep-research)(?:$|[-_/.:0-9])", re.IGNORECASE)
_SCHEMAS = _words("parameters schema inputschema responseschema responsejsonschema")
_SCHEMA_HOLDERS = _words(
    "function functions tools jsonschema responseformat text format functiondeclarations generationconfig"
)
_OPAQUE = frozenset({("functioncall", "args"), ("functionresponse", "response"), ("", "metadata")})
"""(holder, key) below which names are the caller's own and mean nothing to the provider."""


def body_facts(shape: str, value: object) -> BodyFacts:
    """The facts of a parsed body. Never raises; what can't be judged is `unreadable`.

    `shape` is the provider's. One rule set judges them all: servers that speak a shape take keys of
    others too, and an unknown shape must not be judged more mildly.
    """
    del shape
    if not isinstance(value, dict):
        return UNREADABLE
    found: dict[str, str] = {}
    try:
        for fact, place in _facts(value):
            found.setdefault(fact, place[:200])
    except _TooMuchError as error:
        found["unreadable"] = str(error)
    return BodyFacts(**found)


class _TooMuchError(Exception):
    """The body is deeper or larger than what is walked."""


def _facts(body: dict[str, object]) -> Iterator[tuple[str, str]]:
    for key, value in body.items():
        name = fold(key)
        if name == "model" and isinstance(value, str) and _SEARCHING.search(value):
            yield "server_tool", f"model {value[:80]}"
        if name == "prompt" and isinstance(value, dict):
            yield "stored_object", key
        if name == "input" and isinstance(value, list):
            yield from _items(key, value)
    yield from _walk(body)


def _walk(body: dict[str, object]) -> Iterator[tuple[str, str]]:
    seen = 0
    stack: list[tuple[str, str, object, int]] = [("", "", body, 0)]
    while stack:
        place, holder, value, depth = stack.pop()
        if depth > MAX_DEPTH:
            raise _TooMuchError(f"deeper than {MAX_DEPTH} at {place[:80]}")
        if isinstance(value, list):
            if _plain(value):
                continue  # tokens, texts and numbers: nothing in them is looked at
            seen += len(value)
            stack += [
                (f"{place}[{index}]", holder, item, depth + 1)
                for index, item in enumerate(value)
                if isinstance(item, dict | list)
            ]
        elif isinstance(value, dict):
            seen += len(value)
            if len({fold(key) for key in value}) != len(value):
                raise _TooMuchError(f"two spellings of one key in {place[:80] or 'the body'}")
            for key, item in value.items():
                name, inner = fold(key), f"{place}.{key[:60]}" if place else key[:60]
                yield from _member(name, inner, holder, item)
                if isinstance(item, dict | list) and not _opaque(name, holder, value):
                    stack.append((inner, name, item, depth + 1))
        if seen > MAX_VALUES:
            raise _TooMuchError(f"more than {MAX_VALUES} values")


def _opaque(name: str, holder: str, table: dict[str, object]) -> bool:
    """Whether what lies below is a JSON Schema or a function's arguments, never content."""
    if name == "input":
        return holder == "content" and table.get("type") == "tool_use"
    return (holder, name) in _OPAQUE or (name in _SCHEMAS and holder in _SCHEMA_HOLDERS)


def _plain(items: list[object]) -> bool:
    kinds = set(map(type, items))
    return dict not in kinds and list not in kinds


def _member(name: str, place: str, holder: str, value: object) -> Iterator[tuple[str, str]]:
    """What one key with its value means."""
    if value is None or value is False or name == "":
        return
    single = name.removesuffix("s")
    if _is_remote(single, value):
        yield "remote_url", place
    elif single in _STORED or name in _STORED or (name == "id" and holder == "audio"):
        yield "stored_object", place
    elif name in _SERVER_SIDE:
        yield "server_tool", place
    elif name == "tools":
        yield from _tools(place, value)
    elif name == "type" and isinstance(value, str) and fold(value) in ("itemreference", "url"):
        yield ("remote_url" if fold(value) == "url" else "stored_object"), place


def _is_remote(name: str, value: object) -> bool:
    texts = _texts(value)
    if name in _URLS:
        return not all(_inline(text) for text in texts)
    return name in _MEDIA and any("://" in text[:40] for text in texts)


def _texts(value: object) -> list[str]:
    items = value if isinstance(value, list) else [value]
    return [item for item in items if isinstance(item, str)]


def _inline(url: str) -> bool:
    """Whether the content stands in the body itself."""
    return url[:5].lower() == "data:"


def _tools(place: str, tools: object) -> Iterator[tuple[str, str]]:
    """Every tool that isn't a function of the caller's is run by the provider."""
    if not isinstance(tools, list):
        yield "server_tool", place
        return
    for index, tool in enumerate(tools):
        kind = tool.get("type") if isinstance(tool, dict) else None
        described = isinstance(tool, dict) and any(
            fold(key) in ("inputschema", "functiondeclarations") for key in tool
        )
        if kind is None and described:
            continue
        if not isinstance(kind, str) or fold(kind) not in _CLIENT_TOOLS:
            yield "server_tool", f"{place}[{index}] {str(kind)[:60]}"


def _items(place: str, items: list[object]) -> Iterator[tuple[str, str]]:
    """Items that name what the provider keeps, instead of holding it."""
    for index, item in enumerate(items):
        if not isinstance(item, dict):
            continue
        kind = item.get("type")
        where = f"{place}[{index}]"
        if kind is None:
            if "role" not in item and "id" in item:
                yield "stored_object", f"{where} without a type"
        elif not isinstance(kind, str) or fold(kind) not in _ITEMS:
            yield "stored_object", f"{where} {str(kind)[:60]}"
        elif fold(kind) == "reasoning" and "id" in item and not item.get("encrypted_content"):
            yield "stored_object", f"{where} reasoning by id"


def fold(key: str) -> str:
    """A key as the most lenient server reads it."""
    return key.casefold().replace("_", "").replace("-", "")
