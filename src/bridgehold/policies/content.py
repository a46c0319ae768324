"""Whether a request is plain inference: each field of body, query and headers is one that is known (pure).

A provider does more with a request than to answer it: it fetches, calls back, runs tools, keeps and looks
up. So what a request may hold is a list (`policies.fields`), and anything else is refused, whatever it
may mean, unless the endpoint grants it: one by one (``fields``) or all of it (``remote_content``).

The caller has parsed the bytes strictly (no key twice), and sends on what it parsed. Names are compared
exactly: another spelling is another field. Strings are never searched: a URL in a message's text is text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import msgspec

from bridgehold.policies import fields
from bridgehold.policies.fields import Media, Node, Row, Table, Union
from bridgehold.policies.uses import SPOKEN, UNJUDGED, Met, Use, calls

MAX_DEPTH = 64
MAX_VALUES = 200_000

_INDEX = re.compile(r"\[\d+\]")
_BELOW = re.compile(r"[.\[]")
_NAME = re.compile(r"[A-Za-z0-9_$-]{1,64}", re.ASCII)
_SNAKE = re.compile(r"_([a-z0-9])")
_DATED = re.compile(r"[0-9]+$")
_NO_BODY = "no path that is known to take a body"
_LONGEST_PATH = 80
_NO_PATH = "no path that is known"
_NO_METHOD = "no method that is known to go with its path"
_LOOKED_UP = "without a body the provider would look up, or remove, what it keeps"
PASSING = frozenset({"accept", "accept-language", "content-type", "user-agent"})
"""Headers of every request that switch nothing on."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that isn't known to be inference."""

    place: str
    """Where it stands, as ``messages[0].content[1].image_url``; ``?NAME`` in a query, a header's name."""
    why: str
    value: str = ""
    """The text that stands there, where that decided."""
    exit: bool = False
    """Whether it is known to lead out, or to what is kept."""
    medium: str = ""
    """Of a place for media: which, and it is counted already."""
    calls: int = 0
    """Of a tool: how often it may be called, where its table says that."""
    billed: bool = True
    """Whether it may cost anything beside tokens."""

    @property
    def grants(self) -> tuple[str, ...]:
        """What grants it, the narrowest first: its place, with ``[]`` for an index, and its value or not."""
        general = _INDEX.sub("[]", self.place)
        sayable = self.value.isascii() and self.value.isprintable() and self.value
        return (f"{general}={self.value}", general) if sayable else (general,)

    def granted(self, grants: frozenset[str]) -> bool:
        """Whether one of `grants` names it, or what it lies below."""
        return "*" in grants or not grants.isdisjoint(self.names)

    @property
    def names(self) -> tuple[str, ...]:
        """What grants it, and what it lies below, which grants it too: the narrowest first."""
        names = self.grants
        above = tuple(names[-1][: end.start()] for end in _BELOW.finditer(names[-1]))
        return (*names, *above[::-1])


class BodyFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What was found in a request. Empty: plain inference."""

    unreadable: str = ""
    """Why the body could not be judged."""
    finding: Finding | None = None
    """The first that isn't granted."""
    forced: tuple[tuple[str, object], ...] = ()
    """Fields to send beside the request's own, or for them."""
    unasked: bool = False
    """Whether the answer will name its usage though the request doesn't ask for that."""
    media: int = 0
    """Tokens at most of what is no text in it, and of what a grant has the provider read."""
    generates: bool = True
    """Whether tokens come out of it."""
    each: int = 0
    """Tokens that may come out for each byte of it, where it can't name a bound."""
    model: str = ""
    """That the request names, in its body or its path."""
    uses: tuple[Use, ...] = ()
    """What of it may be billed beside tokens, once for each answer that it asks for."""

    @property
    def first(self) -> str:
        """The first fact in words, or empty for plain inference."""
        if self.unreadable:
            return f"the body could not be judged: {self.unreadable}"
        return f"{self.finding.why}: {self.finding.place}" if self.finding is not None else ""


NO_BODY = BodyFacts()
UNREADABLE = BodyFacts(unreadable="not a JSON object", uses=(UNJUDGED,))


class ParsedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request as the gateway has read it. `body` is the parsed JSON, or None where there is none."""

    path: str
    """Normalised, below the provider's base."""
    method: str = "POST"
    body: dict[str, object] | None = None
    query: tuple[tuple[str, str], ...] = ()
    """Without slots of keys."""
    headers: tuple[tuple[str, str], ...] = ()
    """Those that would go on, in lower case."""
    host: str = ""


def head_facts(shape: str, asked: ParsedRequest, granted: Iterable[str] = ()) -> BodyFacts:
    """As `body_facts`, of what is known before a body is read: path, method, query and headers."""
    table = fields.shape_of(shape)
    row, model = fields.row_of(table, asked.path)
    findings = _Findings(frozenset(granted))
    found = next(findings.of_head(row, model, asked, table.headers), None)
    return BodyFacts(finding=found, uses=findings.uses_of(row, None))


def body_facts(shape: str, asked: ParsedRequest, granted: Iterable[str] = ()) -> BodyFacts:
    """The facts of a request. Never raises; what can't be judged is `unreadable`.

    `granted`: the endpoint's ``fields``; each lets in the place that it names and all below, ``*`` all.
    """
    table = fields.shape_of(shape)
    row, model = fields.row_of(table, asked.path)
    grants = frozenset(granted)
    streamed = () if row is None or asked.body is None else _streamed(row, asked.body, grants)
    facts = BodyFacts(
        forced=(() if row is None or asked.body is None else _forced(row, asked, grants)) + streamed,
        unasked=bool(streamed),
        generates=row is None or row.generates,
        each=row.each if row is not None else 0,
        model=model or _text(asked.body, "model"),
    )
    findings = _Findings(grants)
    if row is None and "*" in grants:
        list(findings.of_head(row, model, asked, table.headers))
        return msgspec.structs.replace(facts, uses=findings.uses_of(row, asked.body))
    try:
        for found in findings.of(row, model, asked, table.headers):
            return msgspec.structs.replace(facts, finding=found)
    except _TooMuchError as error:
        if "*" not in grants:
            return msgspec.structs.replace(facts, unreadable=str(error))
        findings.windows += 1
        findings.met.unread = True
    facts = msgspec.structs.replace(facts, uses=findings.uses_of(row, asked.body))
    if row is None or not row.media:
        return facts
    return msgspec.structs.replace(facts, media=findings.cost(table.media))


def _forced(row: Row, asked: ParsedRequest, grants: frozenset[str]) -> tuple[tuple[str, object], ...]:
    body = asked.body or {}
    silent = fields.forced(row, asked.host).items()
    return tuple(
        (name, value) for name, value in silent if body.get(name) is None and grants.isdisjoint((name, "*"))
    )


def _streamed(row: Row, body: dict[str, object], grants: frozenset[str]) -> tuple[tuple[str, object], ...]:
    """Tables of a streaming request as they are sent, where that isn't as they came."""
    if body.get("stream") is not True:
        return ()
    made = []
    for name, wanted in row.streamed.items():
        said = body.get(name)
        own = said if isinstance(said, dict) else {}
        places = {name, *(f"{name}.{inner}" for inner in wanted), "*"}
        if grants.isdisjoint(places) and any(own.get(inner) is not value for inner, value in wanted.items()):
            made.append((name, {**own, **wanted}))
    return tuple(made)


def _text(body: dict[str, object] | None, name: str) -> str:
    value = body.get(name) if body is not None else None
    return value if isinstance(value, str) else ""


class _TooMuchError(Exception):
    """The body is deeper or larger than what is walked."""


class _Findings:
    """One walk. What is granted is not gone into; where it leads out, it may fill a model's window."""

    def __init__(self, grants: frozenset[str]) -> None:
        self._grants = grants
        self._seen = 0
        self._stack: list[tuple[str, Node, object, int]] = []
        self.images = 0
        self.windows = 0
        self.met = Met()

    def uses_of(self, row: Row | None, body: dict[str, object] | None) -> tuple[Use, ...]:
        """What was met that may be billed by use, or the path is."""
        spoken = len(_text(body, "input")) // SPOKEN if row is not None and row.each else 0
        own = (Use((row.paths[0],), 1 + spoken),) if row is not None and row.billed else ()
        return (*own, *self.met.uses(body))

    def cost(self, media: Media) -> int:
        """Tokens at most of the media that were met: together no more than fills a window."""
        return min(self.images * media.image + self.windows * media.window, media.window)

    def of(
        self, row: Row | None, model: str, asked: ParsedRequest, switches: dict[str, tuple[str, ...]]
    ) -> Iterator[Finding]:
        """Those that aren't granted, those of the head first."""
        yield from self.of_head(row, model, asked, switches)
        yield from self._left(self._body_or_none(row, asked))

    def of_head(
        self, row: Row | None, model: str, asked: ParsedRequest, switches: dict[str, tuple[str, ...]]
    ) -> Iterator[Finding]:
        """Those of them that no body changes: of path, method, headers, query, and a model in the path."""
        named = model if row is not None and row.body is not None else ""
        found = (*_path(row, asked), *_headers(asked, switches), *self._query(row, asked), *_model(named))
        return self._left(found)

    def _left(self, findings: Iterable[Finding]) -> Iterator[Finding]:
        for found in findings:
            if not found.granted(self._grants):
                yield found
                continue
            if found.exit and not found.medium:
                self.windows += 1
            if found.billed and not found.medium and found.why not in fields.unbilled():
                self.met.add(found.names, found.calls)

    def _body_or_none(self, row: Row | None, asked: ParsedRequest) -> Iterator[Finding]:
        if asked.body is not None:
            yield from self._body(row, asked.body)
        elif row is not None and row.body is not None:
            yield Finding(place="(no body)", why=_LOOKED_UP, exit=True)

    def _met(self, medium: str) -> None:
        self.images += medium == "image"
        self.windows += medium == "file"

    def _query(self, row: Row | None, asked: ParsedRequest) -> Iterator[Finding]:
        known = row.query if row is not None else {}
        for name, value in asked.query:
            node = known.get(name)
            if node is None:
                yield _unknown(f"?{name[:60]}", name)
            elif fields.why_not_text(node, value):
                yield Finding(place=f"?{name}", value=value[:80], why=f"not {node.shown}")

    def _body(self, row: Row | None, body: dict[str, object]) -> Iterator[Finding]:
        if row is None or row.body is None:
            for name in body or ("",):  # an empty one makes a thread, a conversation, a batch's end
                found = _unknown(name and _below("", name), name)
                found = found if name else Finding(place="(body)", why=_NO_BODY)
                yield msgspec.structs.replace(found, billed=False)  # its path is
            return
        self._stack.append(("", row.body, body, 0))
        while self._stack:
            place, node, value, depth = self._stack.pop()
            if depth > MAX_DEPTH:
                raise _TooMuchError(f"deeper than {MAX_DEPTH} at {place[:80]}")
            yield from self._value(place, node, value, depth)
            if self._seen > MAX_VALUES:
                raise _TooMuchError(f"more than {MAX_VALUES} values")

    def _value(self, place: str, node: Node, value: object, depth: int) -> Iterator[Finding]:
        if value is None or type(value) in node.types:
            return
        if node.opaque and not isinstance(value, str):
            if node.opaque == "schema" and (why := fields.why_not_schema(value)):
                yield Finding(place=place, why=why, exit=True)
        elif isinstance(value, str):
            if why := fields.why_not_text(node, value):
                shown = value[:80] if node.literals or "model" in node.kinds else ""
                yield msgspec.structs.replace(_wrong(place, why, shown), medium=node.medium)
        elif isinstance(value, list) and node.items is not None:
            self._items(place, node.items, value, depth)
        elif isinstance(value, dict) and node.values is not None:
            self._push((_below(place, name), node.values, item, depth + 1) for name, item in value.items())
        elif isinstance(value, dict) and node.table is not None:
            yield from self._table(place, node.table, value, depth)
        elif isinstance(value, dict) and node.union is not None:
            yield from self._union(place, node.union, value, depth)
        elif not any(value is literal for literal in node.literals):
            yield _wrong(place, f"not {node.shown}", "true" if value is True else "")

    def _items(self, place: str, node: Node, items: list[object], depth: int) -> None:
        if set(map(type, items)) <= node.types:
            return  # tokens, texts and numbers, as many as there may be
        self._push((f"{place}[{index}]", node, item, depth + 1) for index, item in enumerate(items))

    def _push(self, more: Iterable[tuple[str, Node, object, int]]) -> None:
        before = len(self._stack)
        self._stack += more
        self._seen += len(self._stack) - before

    def _table(
        self, place: str, table: Table, value: dict[str, object], depth: int, tag: str = ""
    ) -> Iterator[Finding]:
        met: set[str] = set()
        granted = False
        for name, item in value.items():
            known = _SNAKE.sub(lambda found: found[1].upper(), name) if table.camel else name
            node = table.fields.get(known)
            if known in met:
                yield Finding(place=_below(place, name), why="two spellings of one field")
            elif node is not None:
                if node.medium and isinstance(item, str):
                    self._met(fields.medium_of(node.medium, item, value))
                self._push([(_below(place, name), node, item, depth + 1)])
            elif name != tag and item is not None:
                found = _unknown(_below(place, name), name)
                granted |= found.granted(self._grants)
                yield found
            met.add(known)
        for name in () if granted else table.needed:
            if value.get(name) is None:
                why = "the provider would use, or keep, a stored object, whose content isn't here"
                yield Finding(place=_below(place, name), why=why, exit=True)

    def _union(self, place: str, union: Union, value: dict[str, object], depth: int) -> Iterator[Finding]:
        kind = value.get(union.by)
        chosen = union.default if kind is None else kind
        variant = union.variants.get(chosen) if isinstance(chosen, str) else None
        if variant is not None:
            yield from self._table(place, variant, value, depth, union.by)
            return
        shown = chosen if isinstance(chosen, str) else repr(chosen)
        known = ", ".join(union.variants)
        found = _wrong(_below(place, union.by), f"{shown[:60]!r} is none of {known}", shown[:80])
        yield msgspec.structs.replace(found, calls=calls(value.get("max_uses")))


def _headers(asked: ParsedRequest, switches: dict[str, tuple[str, ...]]) -> Iterator[Finding]:
    """Of a header that switches something on, each of its values is looked at."""
    for name, value in asked.headers:
        if name in PASSING:
            continue
        allowed = switches.get(name, ())
        for part in filter(None, map(str.strip, value.split(","))):
            if not any(fields.is_like(pattern, part) for pattern in allowed):
                yield Finding(place=name, value=part[:80], why="no header's value that is known")


def _path(row: Row | None, asked: ParsedRequest) -> Iterator[Finding]:
    """What stands behind another path, or another method, is the account's: for everybody who has the key."""
    if row is None:
        path = fields.bare(asked.path)
        yield Finding(place="(path)", value=path if len(path) <= _LONGEST_PATH else "", why=_NO_PATH)
    elif asked.method not in row.methods:
        yield Finding(place="(method)", value=asked.method[:20], why=_NO_METHOD)


def _model(model: str) -> Iterator[Finding]:
    if model and (why := fields.why_not_plain(model)):
        yield Finding(place="model", value=model[:80], why=why, exit=True)


def _below(place: str, name: str) -> str:
    """A name with characters of ours in it is quoted, so that it is never taken for another's place."""
    shown = name if _NAME.fullmatch(name) else repr(name[:60])
    return f"{place}.{shown}" if place else shown


def _unknown(place: str, name: str) -> Finding:
    why = fields.words().get(fold(name))
    return Finding(place=place, why=why or "no field that is known", exit=why is not None)


def _wrong(place: str, why: str, value: str) -> Finding:
    """Another type or value than may stand there; in better words, where its name or value is known."""
    texts = fields.words()
    last = _INDEX.sub("", place).rpartition(".")[2]
    known = (
        texts.get(_DATED.sub("", fold(value)))
        or texts.get(fold(last))
        or (why if why in texts.values() else "")
    )
    return Finding(place=place, why=known or why, value=value, exit=bool(known))


def fold(key: str) -> str:
    """A key without case, ``_`` and ``-``."""
    return key.casefold().replace("_", "").replace("-", "")
