"""What the demo shows: headings, what two ways come to side by side, and tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bridgehold.faces import layout
from bridgehold.faces.layout import Column, Part
from bridgehold.faces.screen import out


class Stage:
    """Prints the demo, scene by scene."""

    def scene(self, number: int, title: str) -> None:
        """Begin a scene with a numbered title."""
        out.say()
        out.say((f"{number}. {title}", "bold"))

    def say(self, *parts: Part) -> None:
        """Print one paragraph."""
        out.say(*parts, under="  ")

    def side_by_side(self, *ways: tuple[str, str]) -> None:
        """Of each way its title and what came of it."""
        out.say()
        self.table([title for title, _ in ways], [[text for _, text in ways]])
        out.say()

    def table(self, columns: Sequence[Column | str], rows: Iterable[Sequence[str]]) -> None:
        """Print a table; long cells are folded."""
        named = [Column(one) if isinstance(one, str) else one for one in columns]
        out.lines(layout.table(named, list(rows), out.width))
