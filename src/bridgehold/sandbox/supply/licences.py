"""What licence a package is under, as its own metadata says it; and whether an operator takes that."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator
from email.parser import HeaderParser
from fnmatch import fnmatchcase
from pathlib import Path

import msgspec
from packaging.utils import canonicalize_name

from bridgehold import reads
from bridgehold.errors import DependencyError

_MOST_BYTES = 1024 * 1024
_MOST_NAMES = 64
_MOST_TEXT = 100
_MOST_EXPRESSION = 2_000
_DEEPEST = 50
_CLASSIFIER = "License :: "


class Licence(msgspec.Struct, frozen=True, kw_only=True):
    """As said, not as found out: whoever made the package wrote it."""

    expression: str = ""
    """An SPDX expression, where the metadata has one."""
    names: tuple[str, ...] = ()
    """Else what it calls its licences."""

    def __str__(self) -> str:
        return self.expression or ", ".join(self.names) or "not stated"


def licence_of(metadata: str) -> Licence:
    """Of a package's METADATA (pure)."""
    headers = HeaderParser().parsestr(metadata)
    expression = _line(headers.get("License-Expression"), _MOST_EXPRESSION)
    if expression:
        return Licence(expression=expression)
    classified = [_line(one) for one in headers.get_all("Classifier", [])]
    names = [one.rpartition(" :: ")[2] for one in classified if one.startswith(_CLASSIFIER)]
    text = str(headers.get("License", "")).strip()
    if not names and text and len(text) <= _MOST_TEXT:  # longer ones are the licence's own text
        names = [_line(text)]
    return Licence(names=tuple(dict.fromkeys(names))[:_MOST_NAMES])


def licences_in(site: Path) -> dict[str, Licence]:
    """By canonical name, of every distribution in the folder `site`; what can't be read says nothing."""
    found: dict[str, Licence] = {}
    for folder in sorted(site.glob("*.dist-info")):
        name = canonicalize_name(folder.name.removesuffix(".dist-info").rpartition("-")[0])
        try:
            data = reads.read_bytes(folder / "METADATA", DependencyError, most=_MOST_BYTES)
        except DependencyError:
            continue
        found[name] = licence_of(data.decode(errors="replace"))
    return found


def taken(licence: Licence, blocked: Iterable[str]) -> bool:
    """Whether a package under `licence` may be used where these are `blocked` (pure): patterns as of a shell,
    whatever the case; ``not stated`` is what states none.

    Of an SPDX expression one of alternatives is enough, all of what is joined by AND is needed, and an
    exception behind WITH excuses nothing. Of names that are no expression, and in what can't be read, each
    counts: which of them hold together nobody knows.
    """
    patterns = [one.casefold() for one in blocked]

    def fine(name: str) -> bool:
        return not any(fnmatchcase(name.casefold(), one) for one in patterns)

    if not licence.expression:
        return all(map(fine, licence.names or (str(licence),)))
    words = _WORDS.findall(licence.expression)
    if len(licence.expression) < _MOST_EXPRESSION and words.count("(") <= _DEEPEST:
        with contextlib.suppress(ValueError):
            found, end = _either(iter([*words, ""]), fine)
            if not end:
                return found
    return all(fine(word) for word in words)


_WORDS = re.compile(r"[()]|[^()\s]+")


def _either(words: Iterator[str], fine: Callable[[str], bool]) -> tuple[bool, str]:
    """Alternatives, and the word behind them. Raises `ValueError`."""
    found, word = _all_of(words, fine)
    while word.upper() == "OR":
        other, word = _all_of(words, fine)
        found = found or other
    if word not in ("", ")"):
        raise ValueError(word)
    return found, word


def _all_of(words: Iterator[str], fine: Callable[[str], bool]) -> tuple[bool, str]:
    found, word = _one(words, fine)
    while word.upper() == "AND":
        other, word = _one(words, fine)
        found = found and other
    return found, word


def _one(words: Iterator[str], fine: Callable[[str], bool]) -> tuple[bool, str]:
    word = next(words)
    if word == "(":
        found, end = _either(words, fine)
        if end != ")":
            raise ValueError(word)
    elif word in ("", ")") or word.upper() in _JOINING:
        raise ValueError(word)
    else:
        found = fine(word)
    word = next(words, "")
    if word.upper() == "WITH":
        next(words, "")
        word = next(words, "")
    return found, word


_JOINING = {"AND", "OR", "WITH"}


def _line(said: object, most: int = _MOST_TEXT) -> str:
    return " ".join(str(said or "").split())[:most]
