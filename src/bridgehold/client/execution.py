"""`session.execute`: code with variables, tools, input and results, as Python's own values."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bridgehold.client.tools import Tool
from bridgehold.errors import UsageError
from bridgehold.protocol.plain import unreadable

Ask = Callable[[str], str | None]
"""Gives a line of input, of the prompt; None: there is no more."""
_DEEPEST = 50
OBJECT = "$object"
"""Around an object of one key that could be taken for a tag: inside it none is."""


def encoded(value: Any, where: str, depth: int = 0) -> Any:
    """`value` as `python:execute` takes a variable; other kinds go as arguments do.

    Raises `UsageError` with the place, `where` and what is below it.
    """
    if depth > _DEEPEST:
        what = f"nested deeper than {_DEEPEST}, or refers to itself"
        raise UsageError(f"{where}: {what}", where=where, hint="Send it flatter.")
    try:
        return _tagged(value, where, depth + 1)
    except (UsageError, MemoryError):
        raise
    except Exception as error:
        raise unreadable(value, where, error) from error


def _tagged(value: Any, where: str, below: int) -> Any:  # noqa: PLR0911 - one for each kind
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": repr(float(value))}
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return {"$integer": str(int(value))}
    if isinstance(value, bytes | bytearray | memoryview):
        return {"$bytes": base64.b64encode(value).decode("ascii")}
    if isinstance(value, datetime.date) and value == value:  # noqa: PLR0124 - NaT isn't itself
        return _dated(value, where)
    if isinstance(value, list | tuple):
        return [encoded(one, f"{where}[{number}]", below) for number, one in enumerate(value)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        made = {key: encoded(one, f"{where}.{key}", below) for key, one in value.items()}
        return {OBJECT: made} if len(made) == 1 and str(next(iter(made))).startswith("$") else made
    if type(value).__name__ == "DataFrame" and callable(getattr(value, "to_dict", None)):
        return {"$frame": encoded(value.to_dict("split"), where, below)}
    if getattr(getattr(value, "dtype", None), "kind", "") == "f" and callable(getattr(value, "tolist", None)):
        native = value.tolist()  # an array may hold what JSON has not
        return native if type(native) is type(value) else encoded(native, where, below)
    return value


def _dated(value: datetime.date, where: str) -> dict[str, str]:
    if getattr(value, "nanosecond", 0):
        raise UsageError(
            f"{where}: finer than a microsecond", where=where, hint="Round it, or send its text or number."
        )
    tag = "$datetime" if isinstance(value, datetime.datetime) else "$date"
    return {tag: value.isoformat()}


def decoded(value: Any) -> Any:
    """A variable's value, as it came back; what nobody can make of it stays as it is."""
    if isinstance(value, list):
        return [decoded(one) for one in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        [(tag, given)] = value.items()
        if tag == OBJECT and isinstance(given, dict):
            return {name: decoded(one) for name, one in given.items()}
        make = _MAKERS.get(tag)
        if make is not None:
            try:
                return make(given)
            except (ValueError, TypeError):
                return value
    return {name: decoded(one) for name, one in value.items()}


_MAKERS: dict[str, Callable[[Any], Any]] = {
    "$float": float,
    "$integer": int,
    "$bytes": base64.b64decode,
    "$date": datetime.date.fromisoformat,
    "$datetime": datetime.datetime.fromisoformat,
}


def arguments_of(
    code: str, variables: Mapping[str, Any] | None, returns: tuple[str, ...], stdin: str | Ask | None
) -> tuple[dict[str, Any], tuple[Tool, ...]]:
    """The arguments of `execute`, and the tool that gives input."""
    given: dict[str, Any] = {"code": code}
    if variables:
        given["variables"] = {
            name: encoded(value, f"arguments.variables.{name}") for name, value in variables.items()
        }
    if returns:
        given["returns"] = list(returns)
    if isinstance(stdin, str):
        given["stdin"] = stdin
    return given, (input_tool(stdin),) if callable(stdin) else ()


def placed(env: Mapping[str, str] | None, args: Sequence[str] | None, cwd: str) -> dict[str, Any]:
    """The arguments that say where code runs."""
    given: dict[str, Any] = {"env": dict(env)} if env else {}
    given |= {"args": list(args)} if args is not None else {}
    return given | ({"cwd": cwd} if cwd else {})


def input_tool(ask: Ask) -> Tool:
    """The tool `stdin` that asks `ask` for each line."""

    def stdin(prompt: str = "") -> dict[str, Any]:
        line = ask(prompt)
        return {"eof": True} if line is None else {"text": line if line.endswith("\n") else f"{line}\n"}

    return Tool.of(stdin)


def value_of(said: Any) -> Any:
    """The result of `execute`, with the variables that came back as Python's own values."""
    if not isinstance(said, dict) or not isinstance(said.get("variables"), dict):
        return said
    back = {
        name: decoded(one["value"]) if isinstance(one, dict) and "value" in one else one
        for name, one in said["variables"].items()
    }
    return {**said, "variables": back}
