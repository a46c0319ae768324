"""What ``python ARGUMENTS`` is asked to do (pure): the few forms that a worker's starter uses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from bridgehold.errors import UsageError

_FLAGS = frozenset("bBdEiIOPqRsSuvx")
"""Without an argument. They say how an interpreter starts, and the sandbox's own is started our way."""
_WITH_ARGUMENT = frozenset("WX")
_LONG_WITH_ARGUMENT = "--check-hash-based-pycs"
VERSION_CODE = "import platform; print('Python', platform.python_version())"


class Invocation(msgspec.Struct, frozen=True, kw_only=True):
    """What ``python …`` was asked to run: `text` is a path, code or a module's name, by `kind`."""

    kind: Literal["script", "code", "module", "stdin"]
    text: str = ""
    args: tuple[str, ...] = ()
    takes_input: bool = True
    """Whether standard input is its own: what asks for the version leaves it to whoever comes next."""

    @property
    def protocol(self) -> bool:
        """Whether its standard streams carry frames; otherwise they are anybody's text."""
        return self.kind == "script"


_VERSION = Invocation(kind="code", text=VERSION_CODE, takes_input=False)


def parse(arguments: Sequence[str]) -> Invocation:
    """Raises `UsageError` for what python itself would refuse."""
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if word == "-":
            return Invocation(kind="stdin", args=tuple(rest))
        if word == "--":
            break
        if not word.startswith("-"):
            rest.insert(0, word)
            break
        if word == "--version":
            return _VERSION
        if word == _LONG_WITH_ARGUMENT:
            rest[:1] = []
            continue
        if word.startswith("--"):
            raise UsageError(f"unknown option {word[:80]}")
        found = _short(word[1:], rest)
        if found is not None:
            return found
    if not rest:
        return Invocation(kind="stdin")
    return Invocation(kind="script", text=rest[0], args=tuple(rest[1:]))


def _short(letters: str, rest: list[str]) -> Invocation | None:
    """A cluster such as ``-uBc``; takes from `rest` what belongs to it."""
    for index, letter in enumerate(letters):
        if letter == "V":
            return _VERSION
        if letter in "cm":
            text = letters[index + 1 :] or (rest.pop(0) if rest else None)
            if text is None:
                raise UsageError(f"argument expected for the -{letter} option")
            return Invocation(kind="code" if letter == "c" else "module", text=text, args=tuple(rest))
        if letter in _WITH_ARGUMENT:
            if not letters[index + 1 :]:
                rest[:1] = []
            return None
        if letter not in _FLAGS:
            raise UsageError(f"unknown option -{letter}")
    return None
