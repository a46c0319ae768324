"""What people read, on standard output and standard error: wrapped at words, styled where colours are wanted.

Text is text: nothing in it is markup, and what a terminal could act on is spelled out, whoever wrote it.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TextIO

from bridgehold.error_texts import harmless
from bridgehold.faces.layout import Line, Part, paragraph
from bridgehold.ids import whole_number

WIDE = 100_000
"""Where nobody looks no line is folded: an id that is cut in two is none."""
_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


class Screen:
    """One of the two streams, as it is at the moment of use."""

    def __init__(self, *, stderr: bool = False) -> None:
        self._stderr = stderr

    @property
    def file(self) -> TextIO:
        """The stream that takes what is written now."""
        return sys.stderr if self._stderr else sys.stdout

    @property
    def is_terminal(self) -> bool:
        """Whether somebody looks. ``FORCE_COLOR`` says so too."""
        if os.environ.get("FORCE_COLOR"):
            return True
        stream: TextIO | None = self.file
        return stream is not None and stream.isatty()

    @property
    def width(self) -> int:
        """Cells in a line: `COLUMNS`, the terminal's own, or as good as no bound."""
        given = os.environ.get("COLUMNS", "")
        with contextlib.suppress(ValueError):
            if columns := whole_number(given):
                return columns
        try:
            return os.get_terminal_size(self.file.fileno()).columns or 80
        except (OSError, ValueError, AttributeError):
            return 80 if self.is_terminal else WIDE

    @property
    def coloured(self) -> bool:
        """Whether styles are written: for a terminal, unless ``NO_COLOR`` is set or it knows none."""
        return self.is_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

    def say(self, *parts: Part, under: str = "", end: str = "\n", whole: bool = False) -> None:
        """Write one paragraph, wrapped where somebody looks. `under`: what further lines begin with.

        `whole`: data, never wrapped.
        """
        clean = [harmless(part) if isinstance(part, str) else (harmless(part[0]), part[1]) for part in parts]
        width = self.width if self.is_terminal and not whole else WIDE
        lines = paragraph(clean, width, under=under)
        self.write("\n".join(self.styled(line) for line in lines) + end)

    def lines(self, lines: list[Line]) -> None:
        """Write what is laid out already."""
        for line in lines:
            self.write(self.styled([(harmless(text), style) for text, style in line]) + "\n")

    def styled(self, line: Line) -> str:
        """The line as it is written, with the styles of a terminal where colours are wanted."""
        coloured = self.coloured
        return "".join(
            f"\x1b[{';'.join(_CODES[one] for one in style.split())}m{text}\x1b[0m"
            if style and coloured
            else text
            for text, style in line
        )

    def write(self, text: str) -> None:
        """Write `text` as it is."""
        self.file.write(text)


out = Screen()
err = Screen(stderr=True)
