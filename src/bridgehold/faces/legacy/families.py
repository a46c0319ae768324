"""The systems that start foreign workers, by version: how each is told which Python it starts (pure)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import msgspec

Wire = Literal["stdio", "grpc"]
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
        name="Snakepit from 0.4 to 0.13, gRPC",
        wire="grpc",
        line='config :snakepit, python_executable: "{python}"',
    ),
    Family(
        name="DSPex from 0.3 to 0.12, SnakeBridge to 0.16",
        wire="grpc",
        line='config :snakebridge, venv_path: "{folder}"',
    ),
)


def served(wires: Iterable[Wire]) -> tuple[Family, ...]:
    """Those whose workers speak one of `wires`; all of them where nobody knows which."""
    wanted = frozenset(wires)
    return tuple(family for family in FAMILIES if not wanted or family.wire in wanted)


def frame_bytes(wires: Iterable[Wire]) -> int:
    """The largest message of `wires`; of standard input and output where nobody knows which."""
    return max((FRAME_BYTES[wire] for wire in wires), default=FRAME_BYTES["stdio"])


def _text(path: Path) -> str:
    """Inside a text of Elixir's."""
    return str(path).replace("\\", "\\\\").replace('"', '\\"').replace("#{", "\\#{")
