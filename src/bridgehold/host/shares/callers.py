"""Who asks, and what those are told whose host is leaving: known on both sides of the house."""

from __future__ import annotations

from contextvars import ContextVar

CALLER: ContextVar[object] = ContextVar("CALLER")
"""The connection that asks."""
LEAVING = "the host is being replaced by a new one; the request was not begun"
