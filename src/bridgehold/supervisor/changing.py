"""What the host may have written. A private host loads what writes it with the first question of few."""

from __future__ import annotations

from bridgehold.config.layout import Layout


class Changing:
    """Answers `WRITE` and `RELEASE`."""

    def __init__(self, layout: Layout, *, lasts: bool) -> None:
        """`lasts`: it is nobody's private host; all is loaded here, for packages may be replaced below it."""
        self._layout = layout
        if lasts:
            from bridgehold.supervisor import files, releases  # noqa: F401

    def write(self, said: bytes) -> bytes:
        """See `files.answer`."""
        from bridgehold.supervisor import files

        return files.answer(self._layout, said)

    def release(self, said: bytes, descriptor: int) -> bytes:
        """See `releases.answer`."""
        from bridgehold.supervisor import releases

        return releases.answer(self._layout, said, descriptor)
