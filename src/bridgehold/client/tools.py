"""A caller's own functions, as tools for the bridges that it calls."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import threading
import types
import typing
from collections.abc import Awaitable, Callable, Iterable
from contextvars import ContextVar
from typing import Any

from bridgehold.errors import BridgeholdError, UsageError
from bridgehold.protocol.frames import OfferedTool
from bridgehold.protocol.plain import error_text, to_plain

RUNNING_FOR: ContextVar[str] = ContextVar("bridgehold_running_for", default="")
"""The command whose tool runs now: a command that the tool runs says so."""
_PLAIN = (str, int, float, bool)
"""Kinds of a default that a schema can tell."""
_DESCRIBE = "Describe it yourself: Tool(function=…, name=…, parameters={…})."
_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean", list: "array", dict: "object"}


class Tool(OfferedTool, frozen=True, kw_only=True):
    """A function with its name, what it does, and the JSON Schema of its arguments."""

    function: Callable[..., Any]

    @classmethod
    def of(cls, function: Callable[..., Any]) -> Tool:
        """From the function's own name, docstring and annotations. `UsageError` for what has no schema."""
        if not callable(function) or not hasattr(function, "__name__"):
            kind = type(function).__name__
            raise UsageError(f"tools: a {kind} is no function with a name", hint=f"tools=[f, g]. {_DESCRIBE}")
        try:
            hints = typing.get_type_hints(function)
            parameters = inspect.signature(function).parameters
        except Exception as error:  # annotations are the caller's own code
            said = f"{function.__name__}: what it takes can't be read: {error_text(error)}"
            raise UsageError(said, hint=_DESCRIBE) from error
        properties: dict[str, Any] = {}
        required = []
        for name, parameter in parameters.items():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
                raise UsageError(f"{function.__name__}: {name} can't be given by name", hint=_DESCRIBE)
            properties[name] = _schema(hints.get(name), function.__name__, name)
            if parameter.default is parameter.empty:
                required.append(name)
            elif type(parameter.default) in _PLAIN:
                properties[name] = {**properties[name], "default": parameter.default}
        schema = {"type": "object", "properties": properties, "additionalProperties": False}
        return cls(
            function=function,
            name=function.__name__,
            description=inspect.getdoc(function) or "",
            parameters={**schema, "required": required} if required else schema,
        )

    @property
    def fact(self) -> dict[str, Any]:
        """What the host is told."""
        return {name: getattr(self, name) for name in OfferedTool.__struct_fields__}

    async def answer(self, arguments: dict[str, Any], command: str) -> dict[str, Any]:
        """``{"result": …}`` or ``{"error": text}``, however the function ends; a cancel of this call raises.

        A plain function runs on a thread, so that it may use a synchronous client.
        """
        token = RUNNING_FOR.set(command)
        try:
            if inspect.iscoroutinefunction(self.function):
                return await _ended(self.function, arguments)
            return await _on_thread(self.function, arguments)
        finally:
            RUNNING_FOR.reset(token)


async def _ended(function: Callable[..., Any], arguments: dict[str, Any]) -> dict[str, Any]:
    task = asyncio.current_task()
    try:
        return _result(await function(**arguments))
    except asyncio.CancelledError as error:
        if task is not None and task.cancelling():
            raise
        return {"error": error_text(error)}
    except BaseException as error:  # noqa: BLE001 - SystemExit too is an end of the function, not of the caller
        return {"error": error_text(error)}


async def _on_thread(function: Callable[..., Any], arguments: dict[str, Any]) -> dict[str, Any]:
    """On a thread of its own: tools that run commands nest, and a pool's threads would all wait at once.

    It is a daemon: a function that never returns must not keep the caller's process from ending.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[dict[str, Any]] = loop.create_future()
    context = contextvars.copy_context()

    def settle(answer: dict[str, Any]) -> None:
        if not future.done():
            future.set_result(answer)

    def run() -> None:
        try:
            answer = _result(context.run(function, **arguments))
        except BaseException as error:  # noqa: BLE001 - SystemExit too is an end of the function, not of the caller
            answer = {"error": error_text(error)}
        with contextlib.suppress(RuntimeError):  # the loop has ended, and with it who waits
            loop.call_soon_threadsafe(settle, answer)

    threading.Thread(target=run, name="bridgehold-tool", daemon=True).start()
    return await future


def _result(value: object) -> dict[str, Any]:
    return {"result": to_plain(value, "result")}


Tools = Iterable[Tool | Callable[..., Any]]


def named(tools: Tools) -> dict[str, Tool]:
    """By name."""
    made = [tool if isinstance(tool, Tool) else Tool.of(tool) for tool in tools]
    return {tool.name: tool for tool in made}


async def serve(
    offered: dict[str, Tool], event: dict[str, Any], send: Callable[[str, dict[str, Any]], Awaitable[object]]
) -> None:
    """One call of the bridge's: what the function gives or raises goes back, or why that can't be sent."""
    call = {"command": event["command"], "call": event["call"]}
    answer = await offered[event["tool"]].answer(event["arguments"], event["command"])
    try:
        await send("tool.reply", {**call, **answer})
    except BridgeholdError as error:
        with contextlib.suppress(BridgeholdError):  # the command ended first
            await send("tool.reply", {**call, "error": f"the tool's result can't be sent: {error.message}"})


def _schema(hint: Any, function: str, name: str) -> dict[str, Any]:
    if hint is None or hint is Any:
        return {}
    origin, given = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return {"enum": list(given)}
    if origin in (typing.Union, types.UnionType):
        return {
            "anyOf": [
                _schema(one, function, name) if one is not type(None) else {"type": "null"} for one in given
            ]
        }
    if origin is list and given:
        return {"type": "array", "items": _schema(given[0], function, name)}
    plain = _TYPES.get(origin or hint)
    if plain is None:
        raise UsageError(
            f"{function}: no schema is known for {name}: {hint}",
            hint="Describe it yourself: Tool(function=…, name=…, parameters={…}).",
        )
    return {"type": plain} if plain != "object" else {"type": plain, "additionalProperties": True}
