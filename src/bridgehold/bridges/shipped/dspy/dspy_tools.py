"""The host's tools as DSPy's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dspy

from bridgehold_sdk import Bridge, InvalidInput


def offered_tools(bridge: Bridge, names: list[str] | None) -> dict[str, Any]:
    """Of the host's side, by name; called in whichever command runs the program."""
    found = {}
    for name in names or ():
        tool = bridge.tools.get(name)
        if tool is None:
            offered = ", ".join(bridge.tools) or "none"
            raise InvalidInput(f"the tool {name[:80]!r} is not offered to this command: {offered}")
        found[name] = dspy.Tool(
            _caller(bridge, name),
            name=name,
            desc=tool.description or name,
            args=dict(tool.parameters.get("properties") or {}),
        )
    return found


def _caller(bridge: Bridge, name: str) -> Callable[..., Any]:
    def call(**arguments: Any) -> Any:
        if name not in bridge.tools:
            raise InvalidInput(f"the tool {name!r} is not offered to this command")
        return bridge.tools[name](**arguments)

    return call
