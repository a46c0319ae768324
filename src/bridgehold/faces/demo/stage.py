"""What the demo draws with: headings, two panels side by side, and tables. Plain where it is no terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.rule import Rule
from rich.table import Table


class Stage:
    """Prints the demo, scene by scene."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)

    def scene(self, number: int, title: str) -> None:
        """Begin a scene with a numbered title."""
        self.console.print()
        self.console.print(Rule(f"[bold]{number}. {escape(title)}[/]", align="left"))

    def say(self, text: str) -> None:
        """Print `text`, wrapped by the terminal alone."""
        self.console.print(text, soft_wrap=True)

    def panels(self, left: tuple[str, str, str], right: tuple[str, str, str]) -> None:
        """Two panels: (title, colour, text) each."""
        grid = Table.grid(expand=True)
        grid.add_column(ratio=1)
        grid.add_column(ratio=1)
        grid.add_row(
            *(
                Panel(escape(text), title=f"[bold]{escape(title)}[/]", border_style=colour)
                for title, colour, text in (left, right)
            )
        )
        self.console.print(grid)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Print a table; long cells are folded."""
        view = Table(header_style="bold")
        for column in columns:
            view.add_column(column, overflow="fold")
        for row in rows:
            view.add_row(*row)
        self.console.print(view)
