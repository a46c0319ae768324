"""What a session keeps: tables and arrays."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any


@dataclass(eq=False, repr=False)
class Frame:
    """A table, and where it came from."""

    table: Any
    origin: str
    size: int
    created: float = field(default_factory=time.time)


@dataclass(eq=False, repr=False)
class Array:
    """Values of one dtype."""

    values: Any
    created: float = field(default_factory=time.time)
