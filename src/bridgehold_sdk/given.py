"""What a caller gives to code beside it: variables, tools as functions, standard input. And variables back.

JSON has no infinity, no bytes, no dates: those go as an object of one key, ``{"$bytes": base64}``, `TAGS`.
"""

from __future__ import annotations

import asyncio
import base64
import builtins
import contextlib
import importlib
import io
import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from bridgehold_sdk.bridge import Tool
from bridgehold_sdk.errors import InvalidInput, ToolError
from bridgehold_sdk.plain import to_plain

TAGS = ("$float", "$bytes", "$datetime", "$date", "$integer", "$frame", "$object")
_NUMBER = re.compile(r"-?(?:[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?|inf|nan)")
"""As `repr` writes one."""
_DEEPEST = 50
_EXCEPTIONS = {
    name: kind
    for name, kind in vars(builtins).items()
    if isinstance(kind, type) and issubclass(kind, Exception) and kind is not Exception
}


def decoded(value: Any) -> Any:
    """A variable's value, of what a caller sent. `InvalidInput` for a tag that is none."""
    if isinstance(value, list):
        return [decoded(one) for one in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        [(tag, text)] = value.items()
        if tag in TAGS:
            try:
                return _of_tag(tag, text)
            except (ValueError, TypeError, KeyError) as error:
                raise InvalidInput(f"a variable's {tag} is none: {error}") from None
    return {name: decoded(one) for name, one in value.items()}


def _of_tag(tag: str, given: Any) -> Any:
    if isinstance(given, str) and tag in ("$float", "$integer") and not _NUMBER.fullmatch(given):
        raise ValueError(f"{given[:40]!r} is no number in plain digits")
    if tag == "$float":
        return float(given)
    if tag == "$integer":
        return int(given)
    if tag == "$bytes":
        return base64.b64decode(given, validate=True)
    if tag == "$object":  # one that could be taken for a tag
        return {name: decoded(one) for name, one in dict(given).items()}
    if tag == "$frame":
        names = {name: decoded(given[name]) for name in ("columns", "index") if name in given}
        pandas: Any = importlib.import_module("pandas")  # where the environment has it
        return pandas.DataFrame(decoded(given["data"]), **names)
    import datetime

    return (datetime.datetime if tag == "$datetime" else datetime.date).fromisoformat(given)


def encoded(value: Any, depth: int = 0) -> Any:  # noqa: PLR0911 - one for each kind
    """`value` as its caller gets it. Raises `NotPlain` for what can't be sent."""
    kind = type(value)
    if depth > _DEEPEST or kind in (str, bool, type(None)):
        return to_plain(value)
    if kind is float:
        return value if math.isfinite(value) else {"$float": repr(value)}
    if kind is int:
        return value if -(2**63) <= value < 2**64 else {"$integer": str(value)}
    if kind in (bytes, bytearray):
        return {"$bytes": base64.b64encode(value).decode("ascii")}
    if kind in (list, tuple):
        return [encoded(one, depth + 1) for one in value]
    if kind is dict and all(isinstance(key, str) for key in value):
        made = {key: encoded(one, depth + 1) for key, one in value.items()}
        return {"$object": made} if len(made) == 1 and next(iter(made))[:1] == "$" else made
    if kind.__module__ == "datetime" and kind.__name__ in ("datetime", "date"):
        return {f"${kind.__name__}": value.isoformat()}
    if kind.__name__ == "DataFrame" and kind.__module__.startswith("pandas."):
        split = value.to_dict("split")
        return {"$frame": {name: encoded(part, depth + 1) for name, part in split.items()}}
    return to_plain(value)


class ToolFunction:
    """A tool as a name in the code: with its signature, from any thread, awaited where a loop runs."""

    def __init__(self, tool: Tool, find: Callable[[], Mapping[str, Tool]]) -> None:
        """`find`: the tools of the command that runs."""
        self.__name__ = self.__qualname__ = tool.name
        self.__doc__ = tool.description
        self.__module__ = "__main__"
        self._schema = tool.parameters
        self._find = find

    @property
    def __signature__(self) -> Any:
        """By the tool's schema."""
        import inspect

        kind, none = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.empty
        required = self._schema.get("required", [])
        made = [
            inspect.Parameter(name, kind, default=none if name in required else fact.get("default"))
            for name, fact in self._properties().items()
        ]
        return inspect.Signature(sorted(made, key=lambda one: one.default is not none))

    def __repr__(self) -> str:
        return f"<tool {self.__name__}>"

    def _properties(self) -> dict[str, Any]:
        found = self._schema.get("properties", {})
        return {name: fact if isinstance(fact, dict) else {} for name, fact in found.items()}

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """The tool's result; in a coroutine an awaitable of it."""
        names = list(self._properties())
        if len(args) > len(names):
            raise TypeError(f"{self.__name__}() takes {len(names)} arguments, and {len(args)} were given")
        given = dict(zip(names, args, strict=False))
        if twice := given.keys() & kwargs.keys():
            raise TypeError(f"{self.__name__}() got several values for argument {min(twice)!r}")
        given.update(kwargs)
        if asyncio_runs():
            return asyncio.to_thread(self._ask, given)
        return self._ask(given)

    def _ask(self, given: dict[str, Any]) -> Any:
        tool = self._find().get(self.__name__)
        if tool is None:
            raise ToolError(self.__name__, "denied", "this command is not offered it")
        try:
            return tool(**given)
        except ToolError as error:
            raise _as_raised(error) from None


def asyncio_runs() -> bool:
    """Whether this thread is in an event loop."""
    return "asyncio" in sys.modules and asyncio._get_running_loop() is not None  # noqa: SLF001 - it never raises


def _as_raised(error: ToolError) -> Exception:
    """With the name of what the tool raised: the builtin exception of that name, else one made for it."""
    name, colon, text = str(error).partition(": ")[2].partition(": ")
    if error.code != "application" or not name.isidentifier() or not (colon or name):
        return error
    kind = _EXCEPTIONS.get(name)
    if kind is not None:
        try:
            return kind(text)
        except TypeError:  # one that takes more than a text
            return error
    made: Exception = type(name, (ToolError,), {})(error.tool, error.code, text)
    made.args = (text,)
    return made


class Input(io.RawIOBase):
    """Standard input that comes from the caller's tool `stdin`, as it is read."""

    name = "<stdin>"

    def __init__(self, tool: Tool) -> None:
        super().__init__()
        self._left = b""
        self._tool: Tool | None = tool
        self.prompt = ""

    def fileno(self) -> int:
        """None: a process that inherits standard input can't ask."""
        raise io.UnsupportedOperation("standard input is asked of the caller, and comes from no descriptor")

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """The next bytes, once there are any; 0 at the end."""
        from bridgehold_sdk.pieces import bytes_of

        while not self._left and self._tool is not None:
            takes = "prompt" in self._tool.parameters.get("properties", ())
            said = self._tool(prompt=self.prompt) if takes else self._tool()
            if not isinstance(said, dict):
                said = {"eof": True} if said is None else {"text": f"{said}\n"}
            self._left = bytes_of(said)
            if said.get("eof"):
                self._tool = None
        size = min(len(buffer), len(self._left))
        buffer[:size] = self._left[:size]
        self._left = self._left[size:]
        return size


@contextlib.contextmanager
def asked_input(tool: Tool) -> Iterator[None]:
    """`sys.stdin` and `input` ask `tool`, for one command."""
    source = Input(tool)
    before, builtin = sys.stdin, builtins.input
    builtins.input = asking(source)
    sys.stdin = io.TextIOWrapper(io.BufferedReader(source), "utf-8", "surrogateescape")
    try:
        yield
    finally:
        sys.stdin, builtins.input = before, builtin


@contextlib.contextmanager
def text_input(text: str) -> Iterator[None]:
    """Standard input is a file with `text`, for one command and the processes that it starts."""
    before, descriptor = sys.stdin, os.dup(0)
    with open(os.memfd_create("stdin"), "r+b") as file:
        file.write(text.encode("utf-8", "surrogatepass"))
        file.seek(0)
        os.dup2(file.fileno(), 0)
    raw = io.FileIO(0, closefd=False)
    raw.name = "<stdin>"  # as the interpreter names its own
    sys.stdin = io.TextIOWrapper(io.BufferedReader(raw), "utf-8", "surrogateescape")
    try:
        yield
    finally:
        os.dup2(descriptor, 0)
        os.close(descriptor)
        sys.stdin = before


def asking(source: Input) -> Callable[..., str]:
    """An `input` whose prompt is shown, and told to the tool."""

    def ask(prompt: object = "", /) -> str:
        source.prompt = str(prompt)
        print(prompt, end="", flush=True)
        line = sys.stdin.readline()
        if not line:
            raise EOFError("EOF when reading a line")
        return line.removesuffix("\n")

    ask.__name__ = ask.__qualname__ = "input"
    return ask
