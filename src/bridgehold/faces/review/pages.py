"""The pages as text: templates filled with values; whatever a value holds, it is escaped (no I/O)."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import resources
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from bridgehold.errors import DependencyError

if TYPE_CHECKING:
    import jinja2

NAVIGATION = (
    ("/", "Overview"),
    ("/timeline", "Timeline"),
    ("/refusals", "Refusals"),
    ("/sessions", "Sessions"),
    ("/keys", "Keys and budgets"),
    ("/changes", "Changes"),
    ("/proposals", "Proposals"),
    ("/trust", "Trust"),
)
STATIC = {"review.css": "text/css", "review.js": "text/javascript", "icon.svg": "image/svg+xml"}


def render(template: str, **values: object) -> str:
    """The page. Raises `DependencyError` where Jinja2 isn't installed."""
    return _environment().get_template(template).render(**values)


@functools.cache
def _environment() -> jinja2.Environment:
    try:
        import jinja2
    except ImportError as error:
        hint = "Install it: pip install 'bridgehold[review]'."
        raise DependencyError("the page needs Jinja2, which isn't installed", hint=hint) from error
    from bridgehold.faces.review.visible import attribute, brief, joined, visible

    made = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        loader=jinja2.FunctionLoader(_template),
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters |= {
        "seen": visible, "attr": attribute, "brief": brief, "size": size, "number": number, "ms": duration,
        "moment": moment, "event_link": event_link, "session_link": session_link,
    }  # fmt: skip
    made.globals |= {"navigation": NAVIGATION, "joined": joined}
    return made


def prepare() -> None:
    """Compile every template, so that no reader waits for it. Raises as `render`."""
    made = _environment()
    for file in resources.files("bridgehold.faces.review").joinpath("templates").iterdir():
        made.get_template(file.name)


def _template(name: str) -> str | None:
    file = resources.files("bridgehold.faces.review").joinpath("templates", name)
    return file.read_text(encoding="utf-8") if file.is_file() else None


@functools.cache
def static(name: str) -> bytes:
    """A file of ours."""
    return resources.files("bridgehold.faces.review").joinpath("static", name).read_bytes()


def event_link(reference: str) -> str:
    """The page of an event."""
    return f"/event/{quote(reference, safe='')}"


def session_link(session: str) -> str:
    """The page of a session."""
    return f"/session/{quote(session, safe='')}"


def number(value: int) -> str:
    """With its thousands apart."""
    return f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def size(value: int) -> str:
    """Bytes in the unit that suits them."""
    amount = float(value)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024 or unit == "GiB":
            return f"{amount:.0f} {unit}" if unit == "B" or amount >= 100 else f"{amount:.1f} {unit}"
        amount /= 1024
    return ""


def duration(micros: int) -> str:
    """Microseconds in the unit that suits them."""
    if micros < 1_000:
        return f"{micros} µs"
    if micros < 1_000_000:
        return f"{micros / 1_000:.0f} ms"
    seconds = micros / 1_000_000
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def moment(time: str) -> str:
    """A time of the audit for people: no fraction, and no letter between."""
    return time[:19].replace("T", " ")


def now() -> str:
    """The time of a page that is printed."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


def frame(values: Mapping[str, Any], path: str, sources: Mapping[str, object]) -> dict[str, Any]:
    """What every page has beside its own `values`."""
    return {"path": path, "made": now(), **sources, **values}
