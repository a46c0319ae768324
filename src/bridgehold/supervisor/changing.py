"""What the host may have written. A private host loads what writes it with the first question of few."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bridgehold import clock
from bridgehold.config.layout import Layout

if TYPE_CHECKING:
    from bridgehold.supervisor import files


class Changing:
    """Answers `WRITE` and `RELEASE`."""

    def __init__(self, layout: Layout, *, lasts: bool) -> None:
        """`lasts`: it is nobody's private host; all is loaded here, for packages may be replaced below it."""
        self._layout, self._since = layout, clock.now()
        self._once: files.Once | None = None
        if lasts:
            from bridgehold.supervisor import files, releases  # noqa: F401

    def write(self, said: bytes) -> bytes:
        """See `files.answer`."""
        from bridgehold.supervisor import files

        self._once = self._once or files.Once(self._since)
        return files.answer(self._layout, said, self._once)

    def release(self, said: bytes, descriptor: int) -> bytes:
        """See `releases.answer`."""
        from bridgehold.supervisor import releases

        return releases.answer(self._layout, said, descriptor)
