"""How many bytes wait in the face: of all callers, and by whom they are given back."""

from __future__ import annotations


class Buffered:
    """One bound for all."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.held = 0

    def share(self) -> Share:
        return Share(self)

    def take(self, size: int) -> bool:
        if self.held + size > self._most:
            return False
        self.held += size
        return True


class Share:
    """What one request holds of it."""

    def __init__(self, of: Buffered) -> None:
        self._of = of
        self._held = 0

    def take(self, size: int) -> bool:
        """Hold `size` more; false, and nothing is held of it, where there is no room."""
        if not self._of.take(size):
            return False
        self._held += size
        return True

    def give_back(self) -> None:
        """All of it."""
        self._of.held -= self._held
        self._held = 0
