"""One event and what explains it: its story, rules that lost, its policy's lines, its place in the chain."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from bridgehold import reads
from bridgehold.audit import chain
from bridgehold.audit.entries import Entry
from bridgehold.audit.reading.linear import Hit
from bridgehold.audit.telling import tell
from bridgehold.audit.why import Story
from bridgehold.errors import AuditError, BridgeholdError
from bridgehold.faces.report.gather import read_grant
from bridgehold.faces.review.rows import Row, row_of
from bridgehold.ids import whole_number
from bridgehold.policies import globs, shipped
from bridgehold.policies.model import Grant, Rules
from bridgehold.policies.names import path_matches

_MOST_LOST, _AROUND = 40, 3
_MOST_POLICY = 1024 * 1024
_MOST_VALUE = 16_384


class Lost(NamedTuple):
    """A rule that did not decide, and why."""

    rule: str
    value: str
    why: str


class SourceLine(NamedTuple):
    """One line of a policy."""

    number: int
    text: str
    decided: bool


class PolicyLines(msgspec.Struct, frozen=True, kw_only=True):
    """A policy's lines around a rule, and whether the file is the one that held then."""

    file: str
    lines: tuple[SourceLine, ...] = ()
    note: str = ""


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """An event's line in the chain."""

    place: str
    offset: int
    prev: str
    hash: str
    intact: bool
    line: str


class Explained(msgspec.Struct, frozen=True, kw_only=True):
    """The page of one event."""

    row: Row
    story: Story
    told: tuple[tuple[Row, str], ...]
    lost: tuple[Lost, ...]
    policy: PolicyLines | None
    link: Link
    fields: tuple[tuple[str, str], ...]
    ties: tuple[tuple[str, str], ...]


def explain(hit: Hit, story: Story, policy: PolicyLines | None) -> Explained:
    """`hit` is the event of `story`."""
    entry = hit.entry
    grant = story.grant if entry.kind != "grant.resolved" else entry
    return Explained(
        row=row_of(entry, hit.framework),
        story=story,
        told=tuple((row_of(event), said) for event, said in tell(story)),
        lost=tuple(_lost(entry, story.rule, grant))[:_MOST_LOST],
        policy=policy,
        link=link_of(hit),
        fields=tuple((name, shown(value)) for name, value in entry.fields.items() if value not in ("", None)),
        ties=tuple(
            (name, getattr(entry, name))
            for name in ("tenant", "principal", "session", "command")
            if getattr(entry, name)
        ),
    )


def shown(value: object) -> str:
    """A field's value in words; what has parts as JSON."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str | int):
        return str(value)
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return ", ".join(value) or "(none)"
    return json.dumps(value, indent=2, ensure_ascii=True)[:_MOST_VALUE]


def link_of(hit: Hit) -> Link:
    """Where it stands, and whether its bytes are those that its own hash was made over."""
    facts = chain.read_line(hit.line)
    return Link(
        place=hit.entry.place,
        offset=hit.offset,
        prev=facts.prev if facts is not None else "",
        hash=facts.hash if facts is not None else "",
        intact=facts is not None and chain.is_intact(hit.line, facts),
        line=hit.line.decode("ascii", "replace"),
    )


def _lost(event: Entry, rule: str, granted: Entry | None) -> Iterator[Lost]:
    grant = read_grant(granted) if granted is not None else None
    if grant is None or granted is None:
        return
    family = event.kind.partition(".")[0]
    if family == "command":
        yield from _by_rules("operations", grant.operations, event.text("operation"), rule)
    elif family == "tool":
        yield from _by_rules("tools", grant.tools, event.text("tool"), rule)
    elif family == "egress":
        yield from _by_endpoints(grant, event, rule)
    yield from _overruled(granted, rule)


def _by_rules(table: str, rules: Rules, name: str, decided: str) -> Iterator[Lost]:
    denied = f"{table}.deny[" in decided
    for which, patterns in (("deny", rules.deny), ("allow", rules.allow)):
        for index, pattern in enumerate(patterns):
            rule = f"{table}.{which}[{index}]"
            if rule == decided or not name:
                continue
            if not globs.matches(pattern, name):
                why = f"{name} doesn't fit it"
            elif which == "allow" and denied:
                why = "it fits, but what denies wins"
            else:
                why = "it fits too, but an earlier one decides"
            yield Lost(rule, pattern, why)


def _by_endpoints(grant: Grant, event: Entry, decided: str) -> Iterator[Lost]:
    method, path, provider = event.text("method"), event.text("path"), event.text("provider")
    for endpoint in grant.endpoints:
        key = f"network.endpoints.{endpoint.provider}"
        if decided.startswith(f"{key}."):
            continue
        value = f"{', '.join(endpoint.methods)} {', '.join(endpoint.paths or endpoint.repos or ())}"
        if provider and provider != endpoint.provider:
            why = f"the request is for {provider}"
        elif method not in endpoint.methods:
            why = f"{method or 'this'} is none of its methods"
        elif endpoint.paths is not None and not any(path_matches(one, path) for one in endpoint.paths):
            why = f"{path} is none of its paths"
        else:
            why = "the request was not made to it"
        yield Lost(key, value, why)
    for index, connect in enumerate(grant.connects):
        rule = f"network.connect[{index}]"
        if rule != decided:
            yield Lost(rule, f"{connect.host}:{connect.port}", f"{event.text('host')} is another place")


def _overruled(granted: Entry, decided: str) -> Iterator[Lost]:
    """Values that the policy's chain, or a ceiling, replaced in the table that decided."""
    body = granted.fields.get("grant")
    overruled = body.get("overruled") if isinstance(body, dict) else None
    table = decided.partition("[")[0]
    for key, several in overruled.items() if isinstance(overruled, dict) else ():
        if not table or not str(key).startswith(table) or not isinstance(several, list):
            continue
        for one in several:
            if isinstance(one, dict):
                yield Lost(
                    str(key), str(one.get("value", "")), f"replaced; it stood in {_source(one.get('source'))}"
                )


def _source(source: object) -> str:
    if isinstance(source, dict):
        return f"{source.get('file', '')}:{source.get('line', '')}"
    return str(source)


def policy_lines(source: str, config: Path | None, loaded: dict[str, str]) -> PolicyLines | None:
    """The lines around ``FILE:LINE``, if that is a policy below `config` or one that comes with the package.

    An audit is no reason to open a file: only ``.toml`` below `config` is read, and no link leads out of it.
    `loaded`: the digest of each file, as it took effect last.
    """
    file, _, line = source.rpartition(":")
    try:
        number = whole_number(line)
    except ValueError:
        return None
    if not file:
        return None
    text = _text(file, config)
    if text is None:
        return PolicyLines(
            file=source, note="The file isn't here: name the configuration's folder with --config."
        )
    digest = f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
    known = loaded.get(file, "")
    note = "" if digest == known else "The file has changed since it took effect, or isn't the one that did."
    lines = text.split("\n")
    first, last = max(1, number - _AROUND), min(len(lines), number + _AROUND)
    return PolicyLines(
        file=source,
        note=note,
        lines=tuple(SourceLine(n, lines[n - 1], n == number) for n in range(first, last + 1)),
    )


def _text(file: str, config: Path | None) -> str | None:
    if file.startswith(shipped.SHIPPED):
        found = shipped.read(file.removesuffix(".toml"))
        return found[0] if found is not None else None
    if config is None or not file.endswith(".toml") or "\0" in file:
        return None
    try:
        root = config.resolve()
        for path in (Path(file), root / file, *(root / "/".join(Path(file).parts[n:]) for n in (-2, -4))):
            real = path.resolve()
            if real.is_relative_to(root) and real.is_file():
                return reads.read_bytes(real, AuditError, most=_MOST_POLICY).decode("utf-8")
    except (BridgeholdError, OSError, RuntimeError, ValueError):
        return None
    return None
