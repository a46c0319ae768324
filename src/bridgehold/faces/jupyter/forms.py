"""What a sandbox says, as a front end may show it (pure): typed, bounded, and nothing that acts there.

A notebook's page may do all that its user may, terminals of the machine included, and runs the HTML of cells.
So without trust HTML stands in a frame that has neither scripts nor a network, a drawing is a picture, and
forms that renderers act on are left out.
"""

from __future__ import annotations

import base64
import html
import re
from typing import Any

import msgspec

from bridgehold import reads
from bridgehold.errors import UsageError

MOST_FORM = 4 * 1024 * 1024
"""Bytes of one form, as JSON."""
MOST_FORMS = 20
"""Of one value."""
_NAMES = re.compile(r"[a-z]{1,20}/[a-z0-9][a-z0-9.+-]{0,99}", re.ASCII)
_PICTURES = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})
_PLAIN = frozenset({"text/plain", "application/json", "text/html", "image/svg+xml"})
_COLOUR = r"\x1b\[[0-9;]{0,40}m"
_ACTS = re.compile(rf"({_COLOUR})|[\x00-\x07\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_BASE64 = re.compile(r"[A-Za-z0-9+/\s]*={0,2}\s*", re.ASCII)
_RULES = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_LOOK = "width:100%;height:24em;border:0;resize:vertical;background:#fff"


def visible(text: object) -> str:
    """Text with its colours, line ends, tabs, and steps back in a line; all else a terminal acts on goes."""
    return _ACTS.sub(lambda found: found[1] or "", text) if isinstance(text, str) else ""


def bundle(forms: object, *, trusted: bool) -> dict[str, Any]:
    """Forms by media type, as `display_data` and `execute_result` take them; what is none is left out."""
    found: dict[str, Any] = {}
    if not isinstance(forms, dict):
        return found
    for name, form in forms.items():
        if len(found) < MOST_FORMS and isinstance(name, str) and _NAMES.fullmatch(name):
            shown = _form(name, form, trusted=trusted)
            if shown is not None:
                found[name] = shown
    if not trusted:
        drawing, page = found.pop("image/svg+xml", None), found.pop("text/html", None)
        if page is not None:
            found["text/html"] = framed(page)
        elif drawing is not None and not found.keys() & _PICTURES:
            found["text/html"] = _drawn(drawing)
    return found


def size_of(data: dict[str, Any]) -> int:
    """Characters of what `bundle` gives, as a front end gets it."""
    return sum(len(form if isinstance(form, str) else msgspec.json.encode(form)) for form in data.values())


def framed(page: str) -> str:
    """`page` where it has no script, no network, no form, and nothing of the page around it."""
    rules = f'<meta http-equiv="Content-Security-Policy" content="{_RULES}">'
    inside = html.escape(rules + page, quote=True)
    return f'<iframe sandbox="" referrerpolicy="no-referrer" style="{_LOOK}" srcdoc="{inside}"></iframe>'


def _drawn(drawing: str) -> str:
    data = base64.b64encode(drawing.encode("utf-8", "replace")).decode("ascii")
    return f'<img alt="" src="data:image/svg+xml;base64,{data}">'


def _form(name: str, form: object, *, trusted: bool) -> Any:
    """The form as the front end takes it; None: it takes none such."""
    if "javascript" in name or "ecmascript" in name or not (trusted or name in _PICTURES | _PLAIN):
        return None
    if name == "application/json" or name.endswith("+json"):
        try:
            reads.check_plain(form, UsageError, name, nul=True)
        except UsageError:
            return None
        return form if len(msgspec.json.encode(form)) <= MOST_FORM else None
    if not isinstance(form, str) or len(form) > MOST_FORM:
        return None
    if name in _PICTURES:
        return form if _BASE64.fullmatch(form) else None
    return visible(form) if name.startswith("text/") and name != "text/html" else form
