"""What a worker's end looks like from outside."""

from __future__ import annotations

import msgspec


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How the worker ended: its exit status, and what stderr should say."""

    status: int = 0
    message: str = ""
