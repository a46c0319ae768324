"""The systems that start foreign workers, by version: how each is told which Python it starts (pure)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

Wire = Literal["stdio", "grpc"]
SERVED: frozenset[Wire] = frozenset({"stdio"})
"""Wires whose workers one command sets up; a profile for the others is written by hand."""
FRAME_BYTES: dict[Wire, int] = {"stdio": 32 << 20, "grpc": 100 << 20}
"""The largest message that passes: what the host's own protocol carries, and what Snakepit's gRPC allows."""


class Family(msgspec.Struct, frozen=True, kw_only=True):
    """One system in one range of versions."""

    name: str
    wire: Wire
    line: str
    """For config.exs; ``{python}`` is the interpreter, ``{folder}`` the shim's folder."""

    def shown(self, folder: Path) -> str:
        """The line, for the shim in `folder`."""
        return self.line.format(python=_text(folder / "bin" / "python3"), folder=_text(folder))


FAMILIES = (
    Family(
        name="DSPex to 0.2", wire="stdio", line='config :dspex, :python_bridge, python_executable: "{python}"'
    ),
    Family(
        name="Snakepit to 0.3",
        wire="stdio",
        line='System.put_env("PATH", "{folder}/bin:" <> System.get_env("PATH", ""))',
    ),
    Family(
        name="Snakepit from 0.4, stdio adapter",
        wire="stdio",
        line='config :snakepit, python_executable: "{python}"',
    ),
    Family(
        name="Snakepit from 0.4, gRPC", wire="grpc", line='config :snakepit, python_executable: "{python}"'
    ),
    Family(
        name="DSPex from 0.3, SnakeBridge", wire="grpc", line='config :snakebridge, venv_path: "{folder}"'
    ),
)


def served() -> tuple[Family, ...]:
    """Those that one command sets up."""
    return tuple(family for family in FAMILIES if family.wire in SERVED)


def frame_bytes() -> int:
    """The largest message of any wire that one command sets up."""
    return max(FRAME_BYTES[wire] for wire in SERVED)


def _text(path: Path) -> str:
    """Inside a text of Elixir's."""
    return str(path).replace("\\", "\\\\").replace('"', '\\"').replace("#{", "\\#{")
