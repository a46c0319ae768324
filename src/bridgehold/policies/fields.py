"""What requests of each shape may hold, as tables: `inference/SHAPE.toml`, read once (pure but for that).

A type is written as alternatives, separated by ``|``:

- ``text``, ``int``, ``number``, ``bool``, and ``=VALUE``, exactly that value (``='true'`` is a text);
- ``data(MEDIUM)``: text that begins with ``data:``, so that the content stands in the body;
  ``inline(MEDIUM)``: that, or text that begins as base64 does. Its MEDIUM says what it may cost (`Media`):
  ``image``; ``file``, which may be anything; ``typed``, what the MIME type beside it says; ``sealed``, the
  provider's own, and no more than its bytes;
- ``model``: the name of a model that answers by itself (`why_not_plain`);
- ``schema``: a JSON Schema that refers to itself alone; ``json``: the caller's own, unread by a provider;
- ``[T]``, a list; ``{T}``, a table with names of the caller's; ``Name``, a type or union of the file.

Null stands for a field that isn't there. A union chooses by the text under its key ``by``, or its
``default``. A name with ``!`` before it must be there.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from functools import cache
from importlib import resources
from typing import Any

import msgspec

from bridgehold import reads
from bridgehold.policies.names import path_matches

SHAPES = ("openai", "anthropic", "gemini")
_SCALARS = {
    "text": (str,),
    "model": (str,),
    "int": (int,),
    "number": (int, float),
    "bool": (bool,),
}
_MEDIUM = re.compile(r"(data|inline)\((image|file|typed|sealed)\)")
_LITERALS: dict[str, object] = {"true": True, "false": False}
_VERSION = re.compile(r"/v[0-9][a-z0-9]*(?=/)")
_SEARCHING = re.compile(
    r"(?:^|[-_/.:])(?:search|online|sonar|(?:deep-)?research|compound|aqa|agent|browser)(?:$|[-_/.:0-9])",
    re.IGNORECASE,
)
_STORED = re.compile(r"^ft:|(?:^|/)(?:agents|assistants|bots|endpoints|tunedModels)/", re.IGNORECASE)
_BASE64 = re.compile(r"[A-Za-z0-9+/=_\-\r\n]*", re.ASCII)
_MODEL = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9._@/+-]{0,199}(?::(?:latest|[a-z0-9._-]*[0-9][A-Za-z0-9._-]*))?", re.ASCII
)
_REFERENCES = {
    "$ref": ("#",),
    "$dynamicRef": ("#",),
    "$recursiveRef": ("#",),
    "$schema": ("http://json-schema.org/", "https://json-schema.org/"),
}
"""Of a JSON Schema: what each may begin with, so that nobody has to fetch anything to read it."""


class Node(msgspec.Struct, kw_only=True):
    """What may stand in one place. Mutable only while a file is read: types refer to each other."""

    shown: str = ""
    kinds: frozenset[str] = frozenset()
    types: frozenset[type] = frozenset()
    """Of `kinds`, those that any value of fits."""
    literals: tuple[object, ...] = ()
    items: Node | None = None
    values: Node | None = None
    table: Table | None = None
    union: Union | None = None
    medium: str = ""
    """Of ``data`` and ``inline``: what stands there, and costs as many tokens as `Media` has it."""
    opaque: str = ""
    """``json`` or ``schema``: a table, or anything below one, is not looked at field by field."""


class Table(msgspec.Struct, kw_only=True):
    """A JSON object's known fields by name; `needed` ones must be there.

    `camel`: names may be in camel case too.
    """

    fields: dict[str, Node]
    needed: tuple[str, ...] = ()
    camel: bool = False


class Union(msgspec.Struct, kw_only=True):
    """An object whose field `by` says which of `variants` it is; without that field it is `default`."""

    by: str
    default: str
    variants: dict[str, Table]


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """What may be sent to some paths."""

    paths: tuple[str, ...]
    methods: tuple[str, ...]
    query: dict[str, Node]
    body: Node | None = None
    """None: no body may be sent."""
    generates: bool = True
    """Whether tokens come out."""
    forced: dict[str, object] = {}
    """Fields that are sent with this value where the request says nothing of them."""
    forced_at: tuple[str, ...] = ()
    """Only to these hosts; empty: to all."""
    streamed: dict[str, dict[str, object]] = {}
    """Of a request whose answer streams: tables, and what is set in them whatever it says itself."""
    media: bool = True
    """Whether media in it are billed."""
    each: int = 0
    """Tokens that may come out for each byte of it, where it can't name a bound."""
    billed: bool = False
    """Whether models there may be billed by picture, character or second, and not by token."""


class Media(msgspec.Struct, frozen=True):
    """The most tokens that a provider bills for what is no text: no number of bytes bounds that."""

    image: int
    window: int
    """For all of a request's input: the largest window of the shape's models, filled with what is dearest."""


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """All that the gateway knows of one provider's API: a row for each path, and the headers that matter."""

    rows: tuple[Row, ...]
    headers: dict[str, tuple[str, ...]]
    """Of the headers that switch something on: patterns of the values that may go on."""
    media: Media


@cache
def shape_of(name: str) -> Shape:
    """The tables of the shape `name`; of a shape that has none, the rows of all that have."""
    if name not in SHAPES:
        shapes = [shape_of(each) for each in SHAPES]
        headers = {header: values for shape in shapes for header, values in shape.headers.items()}
        rows = sorted((row for shape in shapes for row in shape.rows), key=lambda row: row.body is None)
        return Shape(
            rows=tuple(rows),
            headers=headers,
            media=Media(max(one.media.image for one in shapes), max(one.media.window for one in shapes)),
        )
    return _Reader(source(name)).shape()


@cache
def words() -> dict[str, str]:
    """What a field of a name (`fold`ed) is known to make of a provider."""
    kinds = source("exits")["kinds"]
    return {name: kind["why"] for kind in kinds for name in kind["names"].split()}


@cache
def unbilled() -> frozenset[str]:
    """Of those words the ones that cost no more than tokens."""
    return frozenset(kind["why"] for kind in source("exits")["kinds"] if not kind.get("billed", True))


def row_of(shape: Shape, path: str) -> tuple[Row | None, str]:
    """(row for a normalised `path`, the model that the path names). Versions in front don't matter."""
    plain = bare(path)
    for row in shape.rows:
        for pattern in row.paths:
            if path_matches(pattern, plain):
                return row, _starred(pattern, plain)
    return None, ""


def bare(path: str) -> str:
    """A normalised path without a version in front."""
    return _VERSION.sub("", path, count=1) if path.startswith("/v") else path


def version_of(path: str) -> str:
    """The version in front of a normalised path, as ``v1beta``; empty: there is none."""
    found = _VERSION.match(path)
    return found.group()[1:] if found else ""


def _starred(pattern: str, path: str) -> str:
    """What stands in `path` for the ``*`` of `pattern`."""
    before, star, after = pattern.partition("*")
    return path[len(before) : len(path) - len(after)] if star else ""


def forced(row: Row, host: str) -> dict[str, object]:
    """What is to be sent to `host` where a request is silent."""
    at = not row.forced_at or any(fnmatchcase(host, pattern) for pattern in row.forced_at)
    return row.forced if at else {}


def why_not_text(node: Node, text: str) -> str:
    """Why `text` can't stand there; empty where it can."""
    if "text" in node.kinds or text in node.literals:
        return ""
    if "model" in node.kinds:
        return why_not_plain(text)
    if "data" in node.kinds and text[:5].lower() == "data:":
        return ""
    if "inline" in node.kinds and (text[:5].lower() == "data:" or _BASE64.fullmatch(text[:64])):
        return ""
    if node.kinds & {"data", "inline"}:
        return "the provider would fetch a URL"
    return f"not {node.shown}"


def medium_of(medium: str, item: str, beside: dict[str, object]) -> str:
    """What `item` is, by its place; what says of itself that it is no image is one nowhere."""
    said = item[5:64] if item[:5].lower() == "data:" else ""
    if medium == "typed":
        own = beside.get("mimeType") or beside.get("mime_type")
        said = said or (own if isinstance(own, str) else "")
        if said.lower().startswith("text/"):
            return "sealed"
        medium = "image" if said.lower().startswith("image/") else "file"
    return "file" if medium == "image" and said and not said.lower().startswith("image/") else medium


def is_like(pattern: str, text: str) -> bool:
    """Whether a header's value is one that the pattern names: a ``*`` may end it."""
    return text.startswith(pattern[:-1]) if pattern.endswith("*") else text == pattern


def why_not_plain(model: str) -> str:
    """Why a model of this name may do more than answer; empty where the name says nothing of it."""
    if _SEARCHING.search(model):
        return "the provider would run a tool of its own"
    if _STORED.search(model):
        return "the provider would use, or keep, a stored object"
    if not _MODEL.fullmatch(model):
        return "a model's name with a suffix or a list changes what the provider does"
    return ""


def why_not_schema(value: object) -> str:
    """Why a JSON Schema reaches beyond itself; empty where it doesn't."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            for name, inner in item.items():
                if isinstance(inner, str) and not inner.startswith(_REFERENCES.get(name, "")):
                    return "the provider would fetch a URL"
                if isinstance(inner, dict | list):
                    stack.append(inner)
        elif isinstance(item, list):
            stack += [inner for inner in item if isinstance(inner, dict | list)]
    return ""


def source(name: str) -> dict[str, Any]:
    """The file of a shape, or ``exits``, as it stands."""
    place = resources.files("bridgehold.policies").joinpath("inference", f"{name}.toml")
    return reads.load_toml(place.read_text(encoding="utf-8"))


class _Reader:
    """One file to nodes. Raises `ValueError` for what is no type, and `KeyError` for an unknown name."""

    def __init__(self, file: dict[str, Any]) -> None:
        self._file = file
        self._named: dict[str, Node] = {}

    def shape(self) -> Shape:
        rows = tuple(
            Row(
                paths=tuple(row["paths"]),
                methods=tuple(row.get("methods", ("POST",) if "body" in row else ("GET", "HEAD"))),
                query={name: self.node(text) for name, text in row.get("query", {}).items()},
                body=self.node(row["body"]) if "body" in row else None,
                generates=row.get("generates", True),
                forced=row.get("forced", {}),
                forced_at=tuple(row.get("forced_at", ())),
                streamed=row.get("streamed", {}),
                media=row.get("media", True),
                each=row.get("each", 0),
                billed=row.get("billed", False),
            )
            for row in self._file["rows"]
        )
        headers = {name: tuple(values) for name, values in self._file["headers"].items()}
        return Shape(rows=rows, headers=headers, media=Media(**self._file["media"]))

    def node(self, given: str | dict[str, Any]) -> Node:
        if isinstance(given, dict):
            return Node(shown="an object", table=self._table(given))
        made = Node(shown=given.replace("=", ""))
        for text in _split(given):
            self._add(made, text)
        return made

    def _add(self, node: Node, text: str) -> None:
        if text.startswith("="):
            node.literals += (_LITERALS.get(text[1:], text[1:].strip("'")),)
        elif text.startswith("["):
            node.items = self.node(text[1:-1])
        elif text.startswith("{"):
            node.values = self.node(text[1:-1])
        elif text in ("json", "schema"):
            node.opaque = text
        elif (found := _MEDIUM.fullmatch(text)) is not None:
            node.kinds |= {found[1]}
            node.medium = found[2]
        elif text in _SCALARS:
            node.kinds |= {text}
            if text != "model":
                node.types |= frozenset(_SCALARS[text])
        else:
            named = self._of_name(text)
            node.table, node.union = named.table, named.union

    def _of_name(self, name: str) -> Node:
        if name in self._named:
            return self._named[name]
        made = self._named[name] = Node(shown=name)
        if name in self._file.get("unions", {}):
            given = dict(self._file["unions"][name])
            made.union = Union(by=given.pop("by"), default=given.pop("default", ""), variants={})
            for variant, fields in given.items():
                made.union.variants[variant] = self._table(fields)
        else:
            made.table = Table(fields={}, camel=self._file.get("camel", False))
            filled = self._table(self._file["types"][name])
            made.table.fields, made.table.needed = filled.fields, filled.needed
        return made

    def _table(self, given: dict[str, Any]) -> Table:
        fields = {name.removeprefix("!"): self.node(text) for name, text in given.items()}
        needed = tuple(name[1:] for name in given if name.startswith("!"))
        return Table(fields=fields, needed=needed, camel=self._file.get("camel", False))


def _split(text: str) -> list[str]:
    """Alternatives at the top: those within brackets belong together."""
    parts, depth, start = [], 0, 0
    for at, character in enumerate(text):
        depth += (character in "[{") - (character in "]}")
        if character == "|" and depth == 0:
            parts.append(text[start:at].strip())
            start = at + 1
    return [*parts, text[start:].strip()]
