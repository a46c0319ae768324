"""Which files below the folders of scripts are workers, and what they speak: read, never run."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from bridgehold import reads
from bridgehold.bridges.legacy.rpc_start import SCRIPTS
from bridgehold.errors import BridgeholdError, UsageError
from bridgehold.faces.legacy.families import Wire

_FRAMED = re.compile(r"stdin\.buffer")
_SNAKEBRIDGE = "snakebridge_adapter"
_SNAKEPIT = "snakepit_bridge.adapters.showcase.ShowcaseAdapter"


def chosen(script: str, roots: tuple[str, ...]) -> Path | None:
    """`script`, or the first that looks like a worker; None where it may not run, or there is none."""
    if not script:
        return next(workers_in(roots), None)
    path = Path(os.path.realpath(script))
    return path if path.is_file() and any(path.is_relative_to(root) for root in roots) else None


def workers_in(roots: tuple[str, ...]) -> Iterator[Path]:
    """Scripts that speak frames or gRPC, as name or text show it; those in the folders themselves first."""
    for root in roots:
        paths = (path for path in Path(root).rglob("*.py") if path.is_file())
        for path in sorted(paths, key=lambda path: (len(path.parts), path.name)):
            with contextlib.suppress(BridgeholdError):
                text = reads.read_text(path, UsageError)
                if wire_of(path) == "grpc" or _FRAMED.search(text):
                    yield path


def wire_of(script: Path) -> Wire:
    """What a worker speaks, by its file's name: as Snakepit's orphan sweep tells its own."""
    return "grpc" if script.name in SCRIPTS else "stdio"


def wires_in(roots: tuple[str, ...]) -> tuple[Wire, ...]:
    """What the workers in the folders speak; empty where none looks like one."""
    return tuple(sorted({wire_of(path) for path in workers_in(roots)}))


def mode_of(source: str) -> str:
    """As which a pool starts a script that speaks frames."""
    return "enhanced-worker" if "enhanced-worker" in source else "pool-worker"


def is_bridged(roots: tuple[str, ...]) -> bool:
    """Whether SnakeBridge's adapter is in the folders, which imports whatever a call names."""
    return any(
        (Path(root) / name).exists() for root in roots for name in (f"{_SNAKEBRIDGE}.py", _SNAKEBRIDGE)
    )


def adapter_in(roots: tuple[str, ...]) -> str:
    """The adapter that a gRPC worker of these folders is started with: SnakeBridge's where it is there."""
    return f"{_SNAKEBRIDGE}.SnakeBridgeAdapter" if is_bridged(roots) else _SNAKEPIT
