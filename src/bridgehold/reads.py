"""Every file that is read as a whole: a plain one, bounded, in UTF-8, and refused with what, where and why.

What is no plain file isn't waited for, a number has at most 64 bits, and nothing is nested deeper than a
person would write it: whoever wrote the file, what it gives can be held, converted and shown. What can't be
read is an error of the caller's choice, never one of Python's.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from bridgehold.errors import BridgeholdError

MOST_BYTES = 16 * 1024 * 1024
MOST_DEPTH = 64
MOST_NUMBER = 2**63
MOST_DOTS = 8
"""In one key of TOML: who parses it holds every beginning of a key, so that long ones cost their square."""
MOST_KEYS = 500
"""Characters of the keys that lead to one value: each value is told by them."""
_LOOK = "Look how its path is spelt; a plain file is expected."
_PERMIT = "Let this user read it, or run this as the user whose it is."
_OPAQUE = re.compile(
    r'"""(?:[^"\\]++|\\.|"(?!""))*+(?:"{3,5}+)?|"(?:[^"\\\n]++|\\[^\n])*+"?'
    r"|'''(?:[^']++|'(?!''))*+(?:'{3,5}+)?|'[^'\n]*+'?|#[^\n]*+",
    re.DOTALL,
)
"""A string of TOML, whether it ends or not, or a comment."""
_DOTTED = re.compile(rf"(?<![A-Za-z0-9_-])(?:[A-Za-z0-9_-]++[ \t]*+\.[ \t]*+){{{MOST_DOTS + 1}}}")
_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


def home_of(environ: Mapping[str, str], uid: int) -> Path:
    """A user's folder: ``HOME`` where it is a whole path, otherwise as the machine knows `uid`, or ``/``."""
    said = environ.get("HOME", "")
    if said.startswith("/"):
        return Path(said)
    try:
        return Path(pwd.getpwuid(uid).pw_dir)
    except KeyError:
        return Path("/")


def read_bytes(
    path: Path, kind: type[BridgeholdError], *, most: int = MOST_BYTES, hint: str = "", or_none: bool = False
) -> bytes:
    """The whole file. Raises a `kind`. `or_none`: a file that isn't there is an empty one."""
    try:
        descriptor = os.open(path, _FLAGS)
    except FileNotFoundError as error:
        if or_none and not path.is_symlink():
            return b""
        if path.is_symlink():
            raise kind("is a link that leads nowhere", where=str(path), hint=hint) from error
        raise kind("there is no such file", where=str(path), hint=hint or _LOOK) from error
    except (OSError, ValueError) as error:
        remedy = _PERMIT if isinstance(error, PermissionError) else hint or _LOOK
        raise kind(f"can't be read: {_why(error)}", where=str(path), hint=remedy) from error
    try:
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise kind("is no plain file", where=str(path), hint=hint or _LOOK)
            data = file.read(most + 1)
    except OSError as error:
        raise kind(f"can't be read: {_why(error)}", where=str(path), hint=hint or _LOOK) from error
    if len(data) > most:
        raise kind(f"has more than {most} bytes", where=str(path), hint=hint)
    return data


_MARK = "\ufeff"
_MARKED = "begins with a byte order mark; save it as UTF-8 without one"
"""Invisible in every editor, and each parser has another name for what it takes it for."""


def read_text(
    path: Path, kind: type[BridgeholdError], *, most: int = MOST_BYTES, hint: str = "", or_none: bool = False
) -> str:
    """As `read_bytes`, in UTF-8."""
    return decode(read_bytes(path, kind, most=most, hint=hint, or_none=or_none), kind, str(path), hint=hint)


def decode(data: bytes, kind: type[BridgeholdError], where: str, *, hint: str = "") -> str:
    """UTF-8, line ends as they are (pure). Raises a `kind` that names the line."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise kind("is not UTF-8", where=f"{where}:{line}", hint=hint) from error
    if text.startswith(_MARK):
        raise kind(_MARKED, where=f"{where}:1", hint=hint)
    return text


def parse_toml(text: str, kind: type[BridgeholdError], where: str, *, hint: str = "") -> dict[str, object]:
    """The tables of `text` (pure). Raises a `kind`."""
    try:
        data = load_toml(text.replace("\r\n", "\n"))
    except ValueError as error:
        raise kind(f"not TOML: {error}", where=where, hint=hint) from None
    check_plain(data, kind, where, hint=hint)
    return data


def load_toml(text: str) -> dict[str, object]:
    """As `parse_toml`, for who tells faults otherwise. Raises `ValueError`, of one line.

    It takes time and memory in proportion to `text`, and so does walking the tables with the keys that lead
    to each value.
    """
    if text.startswith(_MARK):
        raise ValueError(_MARKED)
    bare = _OPAQUE.sub(lambda found: "_" + "\n" * found[0].count("\n"), text)
    if dotted := _DOTTED.search(bare):
        line = bare.count("\n", 0, dotted.start()) + 1
        raise ValueError(f"more than {MOST_DOTS} dots in a key (at line {line}, column 1)")
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        what, found, place = str(error).rpartition(" (at ")
        raise ValueError(f"{what[:150]}{found}{place}"[:200]) from None
    except ValueError:
        raise ValueError("a number of too many digits") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    _check_keys(data)
    return data


def _check_keys(data: dict[str, object]) -> None:
    waiting: list[tuple[object, int, int]] = [(data, 0, 0)]
    while waiting:
        one, length, depth = waiting.pop()
        if length > MOST_KEYS:
            raise ValueError(f"more than {MOST_KEYS} characters of keys that lead to one value")
        if depth > MOST_DEPTH:
            raise ValueError(f"nested deeper than {MOST_DEPTH}")
        if isinstance(one, dict):
            waiting += [(below, length + len(key) + 1, depth + 1) for key, below in one.items()]
        elif isinstance(one, list):
            waiting += [(below, length, depth + 1) for below in one]


def parse_json(text: str, kind: type[BridgeholdError], where: str, *, hint: str = "") -> object:
    """The value of `text` (pure). Raises a `kind` that says where it goes wrong."""

    def refuse(constant: str) -> NoReturn:
        raise kind(f"{constant} is no number of JSON", where=where, hint=hint)

    try:
        value = json.loads(text, parse_constant=refuse)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, character {error.colno}"
        raise kind(f"not JSON: {error.msg} at {place}", where=where, hint=hint) from None
    except ValueError:
        raise kind("not JSON: a number of too many digits", where=where, hint=hint) from None
    except RecursionError:
        raise kind("not JSON: nested too deeply", where=where, hint=hint) from None
    check_plain(value, kind, where, hint=hint, nul=True)
    return value


def check_plain(
    value: object, kind: type[BridgeholdError], where: str, *, hint: str = "", nul: bool = False
) -> None:
    """That all of a parsed file can be held, converted and shown (pure). `nul`: texts may hold NUL."""
    waiting: list[tuple[str, object, int]] = [("", value, 0)]
    while waiting:
        place, one, depth = waiting.pop()
        fault = _fault(one, depth, nul=nul)
        if fault:
            raise kind(f"{place.removeprefix('.')[:100]}: {fault}".removeprefix(": "), where=where, hint=hint)
        if isinstance(one, dict):
            waiting += [(f"{place}.{key}"[:200], below, depth + 1) for key, below in one.items()]
            waiting += [(f"{place} (a key)"[:200], key, depth + 1) for key in one]
        elif isinstance(one, list):
            waiting += [(f"{place}[{number}]"[:200], below, depth + 1) for number, below in enumerate(one)]


def _fault(value: object, depth: int, *, nul: bool) -> str:
    if depth > MOST_DEPTH:
        return f"nested deeper than {MOST_DEPTH}"
    if isinstance(value, int) and not -MOST_NUMBER <= value < 2 * MOST_NUMBER:
        return "a number of more than 64 bits"
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):  # noqa: PLR0124
        return "a number that is not finite"
    if isinstance(value, str) and not nul and "\0" in value:
        return "a text with a NUL in it"
    if isinstance(value, str) and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            return "half of a pair of UTF-16"
    return ""


def _why(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else "") or "its name is none"
