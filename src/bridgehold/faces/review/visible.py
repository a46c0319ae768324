"""What comes from inside, as a page may show it: everything escaped, and nothing invisible (pure).

A control, a direction mark or a zero-width character is written as what it is, in a frame of its own: so a
text looks like what it holds. Each text is isolated, so that it can't turn what stands beside it around.
"""

from __future__ import annotations

import re

from markupsafe import Markup, escape

from bridgehold.audit.entries import printable

LONGEST = 600
"""Characters of one text on a page, where nothing else is said."""
_DIGEST = re.compile(r"(sha256[: ][0-9a-f]{8})[0-9a-f]{56}")


def visible(text: object, most: int = LONGEST) -> Markup:
    """The text as an isolated part of a page; past `most` characters it says how many there are."""
    whole = str(text)
    shown = "".join(_marked(character) for character in whole[:most])
    cut = ""
    if len(whole) > most:
        cut = f'<span class="cut">… {len(whole):,} characters</span>'
    return Markup(f"<bdi>{shown}{cut}</bdi>")  # noqa: S704 - each character has been escaped


def brief(text: object) -> str:
    """The text with digests cut to what tells them apart, where the whole one is a link away."""
    return _DIGEST.sub(r"\1…", str(text))


def joined(*texts: str) -> str:
    """What isn't empty, with a point between."""
    return " · ".join(one for one in texts if one)


def _marked(character: str) -> str:
    if character.isprintable():
        return str(escape(character))
    return f'<span class="mark">{_name(character)}</span>'


def _name(character: str) -> str:
    """How it is written where it can't be shown."""
    known = {"\n": "\\n", "\t": "\\t", "\r": "\\r", "\x1b": "ESC"}
    return known.get(character) or f"U+{ord(character):04X}"


def attribute(text: object, most: int = 200) -> str:
    """The text for an attribute or a title, with escapes for what can't be seen; the page escapes it too."""
    whole = printable(str(text))
    return whole if len(whole) <= most else f"{whole[:most]}…"
