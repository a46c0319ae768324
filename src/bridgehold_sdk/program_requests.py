"""What a caller asks of a program, checked: its variables, its folder, its terminal."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from bridgehold_sdk.errors import InvalidInput
from bridgehold_sdk.secret_names import holds_password, names_secret

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MOST_VARIABLES = 256
_MOST_CHARACTERS = 1000


def checked_environment(given: Mapping[str, Any] | None) -> dict[str, str]:
    """The variables that a caller asks for. `InvalidInput` for a name that is none, or a key."""
    found: dict[str, str] = {}
    for name, value in (given or {}).items():
        if not _NAME.fullmatch(name) or len(name) > 200 or not isinstance(value, str) or "\0" in value:
            raise InvalidInput(f"{name[:80]!r} is no environment variable of text")
        if names_secret(name):
            raise InvalidInput(f"{name[:80]} looks like a key's name, and keys aren't given to code")
        if holds_password(value):
            raise InvalidInput(f"{name[:80]} has a password in its value, and keys aren't given to code")
        found[name] = value
    if len(found) > _MOST_VARIABLES:
        raise InvalidInput(f"{len(found)} environment variables; at most {_MOST_VARIABLES}")
    return found


def checked_folder(path: str) -> str:
    """The working folder that a caller asks for; empty: the session's. `InvalidInput` where there is none."""
    if path and ("\0" in path or not os.path.isdir(path)):
        raise InvalidInput(f"there is no folder {path[:200]!r}")
    return path


class Size(NamedTuple):
    """Of a terminal, in characters."""

    rows: int
    columns: int


def checked_size(given: Mapping[str, Any] | None) -> Size | None:
    """The terminal that a caller asks for; None: none. `InvalidInput` for a size that none has."""
    if given is None:
        return None
    rows, columns = given.get("rows", 24), given.get("columns", 80)
    for value in (rows, columns):
        if type(value) is not int or not 1 <= value <= _MOST_CHARACTERS:
            raise InvalidInput(f"a terminal has 1 to {_MOST_CHARACTERS} rows and columns")
    return Size(rows, columns)
