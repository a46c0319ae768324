"""What licence a package is under, as its own metadata says it."""

from __future__ import annotations

from email.parser import HeaderParser
from pathlib import Path

import msgspec
from packaging.utils import canonicalize_name

from bridgehold import reads
from bridgehold.errors import DependencyError

_MOST_BYTES = 1024 * 1024
_MOST_NAMES = 8
_MOST_TEXT = 100
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
    expression = _line(headers.get("License-Expression"))
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


def _line(said: object) -> str:
    return " ".join(str(said or "").split())[:_MOST_TEXT]
