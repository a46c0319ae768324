"""The question's language, parsed: ``kind = egress.refused and host ~ example and time >= yesterday`` (pure).

    question   = [ alternative { "or" alternative } ]
    alternative = term { ["and"] term }
    term       = "not" term | "(" question ")" | comparison | TEXT
    comparison = FIELD sign value | FIELD "in" "(" value { "," value } ")"
    sign       = "=" | "!=" | "<" | "<=" | ">" | ">=" | "~" | "!~"

A value is a word, or a text in quotation marks, where ``\\"`` and ``\\\\`` stand for a mark and a stroke.
A text that no field is named for stands anywhere in the event. Errors name the column, and the nearest word.
"""

from __future__ import annotations

import contextlib
import re
from datetime import datetime
from typing import NamedTuple, NoReturn

from bridgehold.audit.chain import MAX_INTEGER, parse_reference
from bridgehold.audit.query import Query, parse_time
from bridgehold.audit.reading.fields import FIELDS, FRAMEWORK, KINDS, Field
from bridgehold.audit.reading.syntax import All, AnyOf, Compare, Expression, Not, Operator, Text, both, equal
from bridgehold.errors import UsageError
from bridgehold.ids import nearest

_LONGEST, _DEEPEST, _MOST = 4_096, 32, 200
"""Characters, nesting, comparisons of one question."""
_TOKEN = re.compile(
    r'\s*(?:(?P<text>"(?:[^"\\]|\\.)*")|(?P<sign><=|>=|!=|!~|[=<>~(),])|(?P<word>[^\s"=<>~(),!]+))',
    re.DOTALL,
)
_SIGNS = ("=", "!=", "<", "<=", ">", ">=", "~", "!~")
_WORDS = ("and", "or", "not", "in")
_FACTORS = {
    "ms": {"": 1, "ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000},
    "us": {"": 1, "us": 1, "ms": 1_000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000},
    "bytes": {
        "": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30,
    },
    "": {"": 1},
}  # fmt: skip
_SIGNED: dict[str, tuple[Operator, bool]] = {
    "=": ("=", False), "!=": ("=", True), "~": ("~", False), "!~": ("~", True),
    "<": ("<", False), "<=": ("<=", False), ">": (">", False), ">=": (">=", False),
}  # fmt: skip


class _Token(NamedTuple):
    kind: str
    """``text``, ``sign``, ``word`` or ``end``."""
    value: str
    column: int
    """From 1 on."""


def parse(text: str, now: datetime | None = None) -> Expression:
    """The question in `text`; of none, everything. Raises `UsageError`, which names the column.

    `now`: what ``2h`` and ``yesterday`` are counted from.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        _fail(error.start + 1, "is no text in UTF-8")
    if len(text) > _LONGEST:
        _fail(_LONGEST, f"a question has at most {_LONGEST} characters")
    return _Parser(_tokens(text), now).question()


def without_texts(text: str) -> str:
    """A question as it may be written down: what was looked for in texts may be somebody's secret."""
    shown: list[str] = []
    for token in _tokens(text)[:-1]:
        hidden = token.kind == "text" or (shown and shown[-1] in ("~", "!~"))
        shown.append('"…"' if hidden else token.value)
    return " ".join(shown)


def narrowed(wanted: Query, framework: str = "") -> Expression:
    """What the fields of `wanted` ask, in this language; its limit apart."""
    parts: list[Expression] = [
        equal(name, value)
        for name, value in (
            ("kind", wanted.kind), ("tenant", wanted.tenant), ("session", wanted.session),
            ("command", wanted.command), (FRAMEWORK, framework),
        )
        if value
    ]  # fmt: skip
    parts += [Text(wanted.text)] if wanted.text else []
    parts += [Compare(FIELDS["time"], ">=", wanted.since)] if wanted.since else []
    parts += [Compare(FIELDS["time"], "<", wanted.until)] if wanted.until else []
    return both(*parts)


def _fail(column: int, message: str, hint: str = "") -> NoReturn:
    hint = hint or 'Write such as: kind = egress.refused and host ~ "example" and time >= yesterday'
    raise UsageError(message, where=f"question, column {column}", hint=hint)


def _tokens(text: str) -> list[_Token]:
    found: list[_Token] = []
    at, end = 0, len(text.rstrip())
    while at < end:
        match = _TOKEN.match(text, at)
        if match is None:
            rest = text[at:].lstrip()
            column = len(text) - len(rest) + 1
            _fail(column, "a quotation mark that isn't closed" if rest[0] == '"' else f"what is {rest[0]!r}?")
        kind = str(match.lastgroup)
        found.append(_Token(kind, match[kind], match.start(kind) + 1))
        at = match.end()
    return [*found, _Token("end", "", len(text) + 1)]


class _Parser:
    def __init__(self, tokens: list[_Token], now: datetime | None) -> None:
        self._tokens, self._at, self._now = tokens, 0, now
        self._depth = self._count = 0

    def question(self) -> Expression:
        if self._next.kind == "end":
            return All()
        found = self._either()
        if self._next.kind != "end":
            _fail(self._next.column, f"{self._next.value[:40]!r} can't stand here")
        return found

    @property
    def _next(self) -> _Token:
        return self._tokens[self._at]

    def _take(self) -> _Token:
        token = self._next
        self._at += token.kind != "end"
        return token

    def _is(self, value: str, kind: str = "word") -> bool:
        return self._next.kind == kind and self._next.value.lower() == value

    def _either(self) -> Expression:
        parts = [self._together()]
        while self._is("or"):
            self._take()
            parts.append(self._together())
        return parts[0] if len(parts) == 1 else AnyOf(tuple(parts))

    def _together(self) -> Expression:
        parts = [self._term()]
        while not (self._next.kind == "end" or self._is("or") or self._is(")", "sign")):
            if self._is("and"):
                self._take()
            parts.append(self._term())
        return both(*parts)

    def _term(self) -> Expression:
        token = self._take()
        self._count += 1
        if self._count > _MOST:
            _fail(token.column, f"a question has at most {_MOST} parts")
        if token.kind == "word" and token.value.lower() == "not":
            return Not(self._deeper(token, self._term))
        if (token.kind, token.value) == ("sign", "("):
            found = self._deeper(token, self._either)
            self._expect(")")
            return found
        if token.kind == "text":
            return Text(self._needle(token))
        if token.kind == "word" and token.value.lower() not in _WORDS:
            return self._comparison(token)
        what = "the question ends here" if token.kind == "end" else f"{token.value!r} can't stand here"
        _fail(token.column, f"{what}: a field, a text in quotation marks, `not` or `(` is missing")

    def _deeper(self, token: _Token, read: object) -> Expression:
        self._depth += 1
        if self._depth > _DEEPEST:
            _fail(token.column, f"parentheses are at most {_DEEPEST} deep")
        found: Expression = read()  # type: ignore[operator]  # one of this parser's own methods
        self._depth -= 1
        return found

    def _expect(self, sign: str) -> None:
        token = self._take()
        if (token.kind, token.value) != ("sign", sign):
            _fail(token.column, f"{sign!r} is missing")

    def _comparison(self, token: _Token) -> Expression:
        field = FIELDS.get(token.value)
        if field is None:
            near = nearest(token.value, FIELDS)
            hint = "" if near else "docs/reference/query.md lists them; a text stands in quotation marks."
            _fail(token.column, f"there is no field {token.value[:40]!r}{near}", hint)
        sign = self._take()
        if sign.kind == "word" and sign.value.lower() == "in":
            return self._one_of(field, sign)
        if sign.kind != "sign" or sign.value not in _SIGNS:
            _fail(sign.column, f"after {field.name!r} one of {' '.join(_SIGNS)} or `in (…)` is missing")
        operator, negated = _SIGNED[sign.value]
        found = self._compare(field, operator, sign)
        return Not(found) if negated else found

    def _one_of(self, field: Field, sign: _Token) -> Expression:
        self._expect("(")
        parts = [self._compare(field, "=", sign)]
        while self._is(",", "sign"):
            self._take()
            parts.append(self._compare(field, "=", sign))
        self._expect(")")
        return parts[0] if len(parts) == 1 else AnyOf(tuple(parts))

    def _compare(self, field: Field, operator: Operator, sign: _Token) -> Expression:
        _check_operator(field, operator, sign)
        token = self._take()
        self._count += 1
        if self._count > _MOST:
            _fail(token.column, f"a question has at most {_MOST} parts")
        if token.kind not in ("word", "text"):
            _fail(token.column, f"a value for {field.name!r} is missing")
        text = _plain(token)
        if operator == "~":
            needle = self._needle(token)
            return Text(needle) if field.type == "text" else Compare(field, "~", needle)
        return Compare(field, operator, self._value(field, text, token))

    def _needle(self, token: _Token) -> str:
        text = _plain(token)
        if not text:
            _fail(token.column, "an empty text stands everywhere")
        return text

    def _value(self, field: Field, text: str, token: _Token) -> str | int:
        match field.type:
            case "number":
                return _number(field, text, token)
            case "flag":
                if text not in ("true", "false"):
                    near = nearest(text, ("true", "false"))
                    _fail(token.column, f"{field.name!r} is true or false, not {text[:40]!r}{near}")
                return int(text == "true")
            case "time":
                with contextlib.suppress(UsageError):
                    return parse_time(text, self._now)
                _fail(token.column, f"{text[:40]!r} is no time{nearest(text, ('today', 'yesterday'))}")
            case "kind":
                if not any(f"{kind}.".startswith(f"{text}.") for kind in KINDS):
                    near = nearest(text, (*KINDS, *{kind.partition(".")[0] for kind in KINDS}))
                    hint = "docs/reference/events.md lists them."
                    _fail(token.column, f"there is no kind of event {text[:40]!r}{near}", hint)
            case "event":
                if parse_reference(text) is None:
                    _fail(token.column, f"{text[:40]!r} is no event: one is INSTANCE.SEQ")
        return text


def _check_operator(field: Field, operator: Operator, sign: _Token) -> None:
    ordered = field.type in ("number", "time")
    if operator in ("<", "<=", ">", ">=") and not ordered:
        _fail(sign.column, f"{field.name!r} has no order: use = or ~")
    if operator == "~" and field.type not in ("name", "list", "text"):
        _fail(sign.column, f"{field.name!r} is no text: use ={' or < and >' if ordered else ''}")
    if operator == "=" and field.type in ("text", "time"):
        use = "~" if field.type == "text" else "< and >="
        _fail(sign.column, f"{field.name!r} equals nothing: use {use}")


def _plain(token: _Token) -> str:
    if token.kind == "text":
        return re.sub(r"\\(.)", r"\1", token.value[1:-1], flags=re.DOTALL)
    return token.value


def _number(field: Field, text: str, token: _Token) -> int:
    factors = _FACTORS[field.unit]
    found = re.fullmatch(r"([0-9]{1,16})\s?([A-Za-z]*)", text, re.ASCII)
    if found is None or found[2] not in factors:
        units = " ".join(unit for unit in factors if unit)
        said = f": a number{f', or one with {units}' if units else ''}"
        _fail(token.column, f"{text[:40]!r} is no value for {field.name!r}{said}")
    return min(int(found[1]) * factors[found[2]], MAX_INTEGER)
