"""What a front end may ask, typed; and what is answered without a sandbox (pure)."""

from __future__ import annotations

import ast
import codeop
import fnmatch
import textwrap
import warnings
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec

MOST_CODE = 1_000_000
"""Characters of one cell, as `python:execute` takes it."""
Code = Annotated[str, msgspec.Meta(max_length=MOST_CODE)]


class Execute(msgspec.Struct, frozen=True):
    """`execute_request`."""

    code: Code
    silent: bool = False
    store_history: bool = True
    user_expressions: Annotated[dict[str, Code], msgspec.Meta(max_length=100)] = {}
    allow_stdin: bool = True
    stop_on_error: bool = True


class At(msgspec.Struct, frozen=True):
    """`complete_request` and `inspect_request`: characters, not bytes."""

    code: Code
    cursor_pos: int


class IsComplete(msgspec.Struct, frozen=True):
    """`is_complete_request`."""

    code: Code


class History(msgspec.Struct, frozen=True):
    """`history_request`."""

    hist_access_type: Literal["range", "tail", "search"]
    output: bool = False
    n: int | None = None
    pattern: Annotated[str, msgspec.Meta(max_length=1_000)] | None = None
    unique: bool = False
    start: int | None = None
    stop: int | None = None


class Shutdown(msgspec.Struct, frozen=True):
    """`shutdown_request`."""

    restart: bool = False


def completeness(code: str) -> dict[str, str]:
    """Whether a prompt runs `code` now, or takes another line."""
    compiler = codeop.CommandCompiler()
    compiler.compiler.flags |= ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    code = textwrap.dedent(code)
    last = code.rpartition("\n")[2]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            whole = compiler(code, "<cell>", "exec") is not None
    except (SyntaxError, ValueError, OverflowError, MemoryError, RecursionError):
        return {"status": "invalid"}
    if whole and not (last[:1].isspace() and last.strip()):
        return {"status": "complete"}
    indent = last[: len(last) - len(last.lstrip())]
    return {"status": "incomplete", "indent": f"{indent}    " if last.rstrip().endswith(":") else indent}


def remembered(asked: History, inputs: Sequence[tuple[int, str]]) -> list[list[Any]]:
    """``[session, line, input]`` of each that was asked for; of this session alone, and no output."""
    found = list(inputs)
    if asked.hist_access_type == "range":
        first, last = asked.start or 1, asked.stop
        found = [one for one in found if one[0] >= first and (last is None or one[0] < last)]
    if asked.hist_access_type == "search":
        found = [one for one in found if fnmatch.fnmatchcase(one[1], asked.pattern or "*")]
        if asked.unique:
            latest = {text: line for line, text in found}
            found = [(line, text) for line, text in found if latest[text] == line]
    if asked.hist_access_type != "range" and asked.n is not None:
        found = found[-asked.n :] if asked.n > 0 else []
    return [[0, line, [text, None] if asked.output else text] for line, text in found]
