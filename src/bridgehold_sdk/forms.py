"""A value's forms by media type, as a notebook shows them. Each is bounded on its own; text is always there.

What gives a form is foreign code: one that raises, or is too large, is left out and named in ``left_out``.
"""

from __future__ import annotations

import base64
import io
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from bridgehold_sdk.faults import class_name
from bridgehold_sdk.plain import clean_text, to_plain

FORM_BYTES = 1024 * 1024
"""Of one form, as it is sent."""
MOST_FORMS = 16
_METHODS = (
    ("_repr_html_", "text/html"),
    ("_repr_markdown_", "text/markdown"),
    ("_repr_latex_", "text/latex"),
    ("_repr_svg_", "image/svg+xml"),
    ("_repr_png_", "image/png"),
    ("_repr_jpeg_", "image/jpeg"),
    ("_repr_json_", "application/json"),
)
_ROWS = 1_000
"""Of a frame, as data."""
_DRAWING_BYTES = 128 * 1024
"""Of a figure as a drawing: one of many points is its picture alone, and costs no more time than this."""
_LONGEST_TYPE = 100

Guard = Callable[[BaseException], None]
"""Told of what a form raised; raises it on where it is a cancel."""


def forms_of(value: Any, text: str, most: int, guard: Guard) -> dict[str, Any]:
    """``{"text/plain": text, media type: form, …}``, what is ``left_out`` and why; each of `most` bytes."""
    found: dict[str, Any] = {"text/plain": text}
    left_out: dict[str, str] = {}
    most = min(most, FORM_BYTES)
    makers = _makers(value, guard)
    while len(found) < MOST_FORMS:
        try:
            media, make = next(makers)
        except StopIteration:
            break
        except BaseException as error:  # noqa: BLE001 - the value's class is foreign code, its metaclass too
            guard(error)
            break
        if media in found or media in left_out:
            continue
        try:
            form = _plain(make(), media)
        except _TooLongError as error:
            left_out[media] = str(error)
            continue
        except BaseException as error:  # noqa: BLE001 - foreign code may raise anything
            guard(error)
            left_out[media] = f"it raised {class_name(type(error))}"
            continue
        if form is None:
            continue
        size = _size(form)
        if size > most:
            left_out[media] = f"{size} bytes"
        else:
            found[media] = form
    return {**found, "left_out": left_out} if left_out else found


def bundle_of(given: Any, most: int, guard: Guard) -> dict[str, Any]:
    """The forms that ``display(…, raw=True)`` gives, within the same bounds."""
    raw = _Raw(given) if isinstance(given, Mapping) else given
    text = str(given.get("text/plain", "")) if isinstance(given, Mapping) else ""
    return forms_of(raw, clean_text(text)[:most], most, guard)


class _Raw:
    def __init__(self, given: Mapping[str, Any]) -> None:
        self._given = given

    def _repr_mimebundle_(self, **_: Any) -> Mapping[str, Any]:
        return self._given


def _makers(value: Any, guard: Guard) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Media types, each with what makes the form; what the value's own class offers comes first."""
    kind = type(value)
    if isinstance(value, type):
        return  # a class is no value of its own
    bundle = getattr(kind, "_repr_mimebundle_", None)
    if callable(bundle) and not _is_plotly(kind):
        made: Any = None
        try:
            made = bundle(value)
        except BaseException as error:  # noqa: BLE001 - foreign code
            guard(error)
        made = made[0] if isinstance(made, tuple) and made else made
        for media, form in list(made.items())[:MOST_FORMS] if isinstance(made, dict) else ():
            if isinstance(media, str) and len(media) <= _LONGEST_TYPE and "/" in media:
                yield clean_text(media), partial(_same, form)
    if _is_plotly(kind):
        yield "application/vnd.plotly.v1+json", lambda: json.loads(value.to_json())
        yield "text/html", lambda: value.to_html(include_plotlyjs="cdn", full_html=False)
        return
    for name, media in _METHODS:
        method = getattr(kind, name, None)
        if callable(method):
            yield media, partial(method, value)
    if _is_of(kind, "matplotlib.figure", "Figure"):
        yield "image/png", lambda: picture(value, "png")
        yield "image/svg+xml", lambda: picture(value, "svg", _DRAWING_BYTES)
    elif _is_of(kind, "pandas", "DataFrame") and "pandas" in sys.modules:
        yield (
            "application/json",
            lambda: json.loads(value.head(_ROWS).to_json(orient="split", date_format="iso")),
        )


def _same(form: Any) -> Any:
    return form


def picture(figure: Any, kind: str, most: int = sys.maxsize) -> bytes:
    """A figure of matplotlib's as the bytes of a picture; not more than `most` are made."""
    written = _Bounded(most)
    figure.savefig(written, format=kind, bbox_inches="tight")
    return written.getvalue()


class _TooLongError(Exception):
    """Of a form that was given up."""


class _Bounded(io.BytesIO):
    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def write(self, data: Any) -> int:
        if self.tell() > self._most:
            raise _TooLongError(f"more than {self._most} bytes")
        return super().write(data)


def _is_plotly(kind: type) -> bool:
    return any(_is_of(one, "plotly", "BaseFigure") for one in kind.__mro__)


def _is_of(kind: type, package: str, name: str) -> bool:
    module = kind.__dict__.get("__module__", "")
    return kind.__name__ == name and isinstance(module, str) and (module + ".").startswith(package + ".")


def _plain(form: Any, media: str) -> Any:
    if isinstance(form, tuple) and form:  # a form and its metadata
        form = form[0]
    if form is None:
        return None
    if isinstance(form, (bytes, bytearray)):
        if len(form) > FORM_BYTES:
            return _Large(len(form))
        if media.endswith("+xml") or media.startswith("text/"):
            return form.decode("utf-8", "backslashreplace")
        return base64.b64encode(form).decode("ascii")
    if isinstance(form, str):
        return _Large(len(form)) if len(form) > FORM_BYTES else clean_text(form)
    if media.endswith("json"):
        return to_plain(form)
    raise TypeError("no text, and no bytes")


class _Large(int):
    """The size of a form that is not looked at."""


def _size(form: Any) -> int:
    if isinstance(form, _Large):
        return int(form)
    if isinstance(form, str):
        return len(form.encode("utf-8"))
    return len(json.dumps(form, ensure_ascii=False).encode("utf-8"))
