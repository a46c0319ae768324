"""What a report is made of: titled tables of plain text, as Markdown, HTML or data (pure).

Every cell may be a guest's words: none of them can begin a row, a heading, a link or a tag.
"""

from __future__ import annotations

import html
import re

import msgspec

from bridgehold.audit.entries import printable

MOST_ROWS = 500
"""Of one table; how many more there are is said."""
_LONGEST = 400
"""Characters of a cell."""
_MARKS = re.compile(r"([\\`*_{}\[\]<>()#!|~&])")
_BARE_LINK = re.compile(r"(www)\.", re.IGNORECASE)
"""What GitHub makes a link of without being asked."""
_STYLE = """
:root{color-scheme:light dark}
body{font:15px/1.5 system-ui,sans-serif;max-width:75rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.6rem}h2{font-size:1.2rem;margin-top:2.2rem}
.table{overflow-x:auto}table{border-collapse:collapse;width:100%}
th,td{text-align:left;vertical-align:top;padding:.3rem .6rem}
th,td{border-bottom:1px solid #8886;overflow-wrap:anywhere}
th{border-bottom:2px solid #888}nav a{margin-right:1rem}.note{color:#767676}
@media print{nav{display:none}body{margin:0;max-width:none;font-size:10pt}tr{break-inside:avoid}
h2{break-after:avoid}thead{display:table-header-group}}
"""


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """One question's answer."""

    name: str
    """Stable, for programs: ``refused``."""
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    """What is said where there is nothing, and beside what there is."""
    left_out: int = 0
    """Rows past `MOST_ROWS`."""


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """A whole report. `scope`: what it is of, as names and values."""

    title: str
    scope: tuple[tuple[str, str], ...]
    sections: tuple[Section, ...]


def _said(section: Section) -> str:
    more = f"and {section.left_out} more rows" if section.left_out else ""
    nothing = "" if section.rows else "nothing"
    return "; ".join(part for part in (nothing, section.note, more) if part)


def _cut(text: str) -> str:
    text = printable(text)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}… ({len(text)} characters)"


def markdown(document: Document) -> str:
    """As GitHub's Markdown, safe to render whoever wrote a cell."""
    lines = [f"# {_mark(document.title)}", ""]
    lines += [f"- {_mark(name)}: {_mark(value)}" for name, value in document.scope]
    for section in document.sections:
        lines += ["", f"## {_mark(section.title)}", ""]
        if section.rows:
            lines += [_row(section.columns), "|" + " --- |" * len(section.columns)]
            lines += [_row(row) for row in section.rows]
        if said := _said(section):
            lines += [*([""] if section.rows else []), _mark(said)]
    return "\n".join(lines) + "\n"


def _mark(text: str) -> str:
    plain = _MARKS.sub(r"\\\1", _cut(text)).replace("@", "&#64;").replace("://", "&#58;//")
    return _BARE_LINK.sub(r"\1&#46;", plain) or " "


def _row(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(_mark(cell) for cell in cells)} |"


def page(document: Document) -> str:
    """One HTML file that loads nothing, runs nothing, and prints well."""
    policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{_text(document.title)}</title><style>{_STYLE}</style></head><body><main>",
        f"<h1>{_text(document.title)}</h1><table><tbody>",
        *(
            f'<tr><th scope="row">{_text(name)}</th><td>{_text(value)}</td></tr>'
            for name, value in document.scope
        ),
        '</tbody></table><nav aria-label="Sections">',
        *(f'<a href="#{one.name}">{_text(one.title)}</a>' for one in document.sections),
        "</nav>",
    ]
    for section in document.sections:
        parts.append(
            f'<section aria-labelledby="{section.name}"><h2 id="{section.name}">{_text(section.title)}</h2>'
        )
        if section.rows:
            heads = "".join(f'<th scope="col">{_text(one)}</th>' for one in section.columns)
            parts.append(f'<div class="table"><table><thead><tr>{heads}</tr></thead><tbody>')
            parts += [
                f"<tr>{''.join(f'<td>{_text(cell)}</td>' for cell in row)}</tr>" for row in section.rows
            ]
            parts.append("</tbody></table></div>")
        if said := _said(section):
            parts.append(f'<p class="note">{_text(said)}</p>')
        parts.append("</section>")
    return "\n".join([*parts, "</main></body></html>\n"])


def _text(text: str) -> str:
    return html.escape(_cut(text))
