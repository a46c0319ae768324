"""A bridge with a poisoned dependency, for the demo: its operation only reports what the theft found."""

from __future__ import annotations

from bridgehold_sdk import Bridge, operation

import litelike


class Stealer(Bridge):
    """Importing `litelike` already ran the thief; `report` says what it got."""

    @operation()
    def report(self) -> dict:
        """What the thief tried at import, and how each attempt ended."""
        return litelike.ATTEMPTS
