"""Where a secret's value stands in bytes, however it is plainly spelt; pure.

Each character may be as it is or escaped in any way that JSON, URLs, HTML, mail or a source text escape it,
one differently from the next; the whole may be hexadecimal, decimal numbers or base64 (at each of the three
alignments, both alphabets), wrapped or separated. A beginning of at least half the value (or of 20
characters) counts as it, and so does its second half: an echo that is cut short still shows too much.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator

SHORTEST = 4
"""Shorter values are not looked for: masking them would shred ordinary text and hide nothing."""
MARK = 4
"""Characters of a beginning that say that a value may be there (`beginnings`)."""
_SHORTEST_ENCODED = 8
_HALVED = 16
_ENOUGH = 20
_VERIFIED = 512
"""Characters of a long value that are compared; what follows those is taken to belong to it."""
_SLASHES = r"\\\\{0,7}"
_LINE = r"=?(?:\r|\\\\{0,7}r)?(?:\n|\\\\{0,7}n)[ \t]?"
_WIDE = rf"(?>\0|\\\\{{0,7}}(?:u0000|x00|0{{1,3}}(?![0-7]))|%00|{_LINE}){{0,3}}"
_WRAP = r"(?>[\s\0]|\\\\{0,7}[nrt]){0,8}"
_BETWEEN_HEX = r"(?>[\s:;,._\0-]|\\\\{0,7}[nrt]|0[xX]){0,8}"
_BETWEEN_NUMBERS = r"(?>[\s,;:|_-]|\\\\{0,7}[nrt]){0,8}"
_ANYTHING = r"(?>[\s\0]{0,3}(?>\\{1,8}(?:u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|.)|%%[0-9a-fA-F]{2}|[!-~])){0,%d}"
_NEVER = "(?P<last>(?!))?"
_SIGNS = {
    "+": rf"(?:[+-]|%(?:25){{0,4}}2[bB]|{_SLASHES}u002[bB])",
    "/": rf"(?:[/_]|%(?:25){{0,4}}2[fF]|{_SLASHES}(?:/|u002[fF]))",
}
_HTML = """&amp|AMP <lt|LT >gt|GT "quot|QUOT 'apos !excl #num $dollar %percnt (lpar )rpar *ast|midast +plus
,comma .period /sol :colon ;semi =equals ?quest @commat [lsqb|lbrack \\bsol ]rsqb|rbrack ^Hat _lowbar|UnderBar
`grave|DiacriticalGrave {lcub|lbrace |verbar|vert|VerticalLine }rcub|rbrace"""
_NAMED = {word[0]: f"(?:{word[1:]})" for word in _HTML.split()}
"""As HTML 5 has them; what writes all of them out (PHP's `htmlentities`) does so for a key's `_`, too."""
_SHORT = {"\n": "n", "\r": "r", "\t": "t"}
_OWN_ESCAPES = "%\\"
_AMBIGUOUS = re.compile(r"[%\\&=+]")
_SEVERAL = (
    rb"(?:(?:(?:%(?:25){0,4}|=|\\{1,8}x)[c-fC-F][0-9a-fA-F]|\\{1,8}3[0-7]{2}|[\xc2-\xf4])"
    rb"(?:(?:%(?:25){0,4}|=|\\{1,8}x)[89abAB][0-9a-fA-F]|\\{1,8}2[0-7]{2}|[\x80-\xbf]){0,2}"
    rb"|\\{1,8}u[dD][89abAB][0-9a-fA-F]{2})?"
)
"""What begins a character beyond ASCII, in a spelling that takes more than one byte or unit."""
_UNFINISHED = re.compile(
    rb"\\{0,8}" + _SEVERAL + rb"(?:"
    rb"=?\\{1,8}(?:r\\{0,8}|u(?:[0-9a-fA-F]{0,3}|\{[0-9a-fA-F]{0,12})|U[0-9a-fA-F]{0,7}|x[0-9a-fA-F]?|[0-7]{0,3})?"
    rb"|=?\r\\{0,8}|=[0-9a-fA-F]?|%(?:25){0,4}[0-9a-fA-F]?|&[#0-9a-zA-Z]{0,14})?\Z"
)
"""What an end may cut, of `_alternatives` and what stands between them; `\\` before it is its own escape."""
_UNFINISHED_NUMBER = re.compile(rb"(?:[0-9]{1,3}|0[xX]|\\{1,8})\Z")
_LONGEST_UNFINISHED = 64
_PART = 8 * 1024
"""Bytes that one look takes about a millisecond for, whatever they are."""

_WIDEST = 16

Span = tuple[int, int]
Element = tuple[str, str]
"""What may stand before it, and what it is."""


class Encodings:
    """Of one value. Holds the value in its expressions: keep it no longer than the value."""

    def __init__(self, value: bytes) -> None:
        """`value` of fewer than `SHORTEST` bytes: nothing is found."""
        made = list(_expressions(value)) if len(value) >= SHORTEST else []
        self._patterns = tuple((re.compile(text.encode("latin-1")), cuts) for text, cuts in made)
        self.longest = _WIDEST * len(value)
        """Bytes that a spelling of it may take."""
        re.purge()  # its cache would keep the value

    def __repr__(self) -> str:
        return "Encodings()"

    def find(self, data: bytes, *, last: bool = True, cut: bool = False) -> tuple[list[Span], int]:
        """(spans to mask, where to hold back from) of `data`; with `last` nothing is held back.

        Without `last` more may follow, so an end that may go on as the value is held back whole. With
        `cut` something followed and is gone: an end that begins as the value does is masked too.
        """
        found: list[Span] = []
        hold = len(data)
        ends = {
            one: len(data) if last else _before_cut(data, one) for one in (_UNFINISHED, _UNFINISHED_NUMBER)
        }
        for pattern, unfinished in self._patterns:
            end = ends[unfinished]
            hold = min(hold, end)
            for match in pattern.finditer(data, 0, end):
                open_end = match.end() == end and match["last"] is None
                if open_end and not last:
                    hold = min(hold, match.start())
                elif match["least"] is not None or (cut and match["mark"] is not None):
                    found.append(match.span())
        return _before(found, hold)

    def spans(self, data: bytes) -> Iterator[Span | None]:
        """What `find` masks in a whole text that may have been cut; None after each bounded part of it."""
        at, size = 0, _PART
        while True:
            last = at + size >= len(data)
            found, hold = self.find(data[at : at + size], last=last, cut=last)
            yield from ((at + start, at + end) for start, end in found)
            if last:
                return
            yield None
            size = _PART if hold else 2 * size  # a beginning that is longer than a part is looked at whole
            at += hold


def beginnings(marks: Iterable[bytes]) -> re.Pattern[bytes] | None:
    """Finds where a value that begins with one of `marks` (of `MARK` bytes) may stand, in any spelling."""
    branches = [branch for mark in marks for branch in _branches(mark)]
    return re.compile("|".join(branches).encode("latin-1")) if branches else None


def mask(data: bytes, spans: list[Span], word: bytes = b"") -> bytes:
    """`data` with `word` in place of each span, or as many ``*``."""
    pieces, at = [], 0
    for start, end in spans:
        pieces += [data[at:start], word or b"*" * (end - start)]
        at = end
    return b"".join([*pieces, data[at:]])


def _before_cut(data: bytes, unfinished: re.Pattern[bytes]) -> int:
    """Where a character begins whose spelling the end of `data` may cut, or its length."""
    found = unfinished.search(data, max(0, len(data) - _LONGEST_UNFINISHED))
    return found.start() if found else len(data)


def merged(spans: Iterable[Span]) -> list[Span]:
    """Their union, in order."""
    found: list[Span] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found


def _before(spans: list[Span], hold: int) -> tuple[list[Span], int]:
    """The union of `spans` that ends before `hold`; one that reaches beyond it moves it back."""
    kept = merged(spans)
    while kept and kept[-1][1] > hold:
        hold = min(hold, kept.pop()[0])
    return kept, hold


def _expressions(value: bytes) -> Iterator[tuple[str, re.Pattern[bytes]]]:
    """Each with what of it an end may cut in two."""
    text = value.decode("utf-8", "surrogateescape")
    yield _expression(_characters(text), len(text)), _UNFINISHED
    if len(text) >= _HALVED:
        yield _expression(_characters(text[len(text) // 2 :]), 0), _UNFINISHED
    if _AMBIGUOUS.search(text):
        yield _literals(text), _UNFINISHED
    if len(value) >= _SHORTEST_ENCODED:
        yield _expression(_hexadecimal(value), len(value)), _UNFINISHED_NUMBER
        yield _expression(_numbers(value), len(value)), _UNFINISHED_NUMBER
        for shift in range(3):
            yield _expression(_base64(value, shift), len(value)), _UNFINISHED


def _expression(elements: list[Element], characters: int) -> str:
    """A beginning of `elements` (of so many `characters`) that is enough, and what follows of them.

    At the end of the text less is found too. Groups that took part say how far it came: ``mark``,
    ``least`` and ``last``. With 0 characters nothing less than all is enough.
    """
    size, rest = min(len(elements), _VERIFIED), len(elements) - _VERIFIED
    least = size
    if characters >= _HALVED:
        least = min(size, len(elements) // 2, _ENOUGH * len(elements) // characters)
    ends = {"mark": min(MARK, size), "least": least}
    if rest <= 0:
        ends["last"] = size
    pieces = []
    for index, (between, element) in enumerate(elements[:_VERIFIED]):
        reached = element
        for name, end in ends.items():
            if index + 1 == end:
                reached = f"(?P<{name}>{reached})"
        if index:
            reached = f"{between}(?:{reached}|\\Z)"
        pieces.append(reached if index < least else f"(?:{reached}|)")
    return "".join(pieces) + (_ANYTHING % rest + _NEVER if rest > 0 else "")


def _characters(text: str) -> list[Element]:
    """What is tried is not tried another way later, but for the first, whose literals guide the search."""
    return [
        (_WIDE, f"(?{'>' if index else ':'}{'|'.join(_alternatives(one))})") for index, one in enumerate(text)
    ]


def _alternatives(one: str) -> list[str]:
    """Each begins with a literal, so that a search looks at few places."""
    code, raw = ord(one), one.encode("utf-8", "surrogateescape")
    kept = "" if one in _OWN_ESCAPES else "+"  # giving back of a run only helps what escapes itself
    slashes = _SLASHES + kept
    escaped = "".join(f"%(?:25){{0,4}}{kept}{_either(f'{byte:02x}')}" for byte in raw)
    slashed = [
        slashes.join(f"u{_either(f'{unit:04x}')}" for unit in _units(one)),
        f"u\\{{0{{0,6}}{_either(f'{code:x}')}\\}}",
        f"U{_either(f'{code:08x}')}",
        slashes.join(f"(?:x{_either(f'{byte:02x}')}|{byte:03o})" for byte in raw),
    ]
    if one in _SHORT:
        slashed.append(_SHORT[one])
    elif not one.isalnum():
        slashed.append(_quoted(raw))
    found = [
        escaped,
        f"{slashes}(?:{'|'.join(slashed)})",
        f"&#(?:0{{0,5}}{code}|[xX]0{{0,5}}{_either(f'{code:x}')});",
        "".join(f"={_either(f'{byte:02x}')}" for byte in raw),
    ]
    if one in _NAMED:
        found.append(f"&{_NAMED[one]};")
    if one == " ":
        found.append(r"\+")
    return [*found, _quoted(raw)]


def _units(one: str) -> list[int]:
    """UTF-16, as JSON escapes it."""
    data = one.encode("utf-16-be", "surrogatepass")
    return [int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2)]


def _literals(text: str) -> str:
    """As it is, and as a string within strings: where a character of the value also begins an escape."""
    forms = [text]
    for _ in range(3):
        forms.append(json.dumps(forms[-1], ensure_ascii=False)[1:-1])
    quoted = "|".join(_quoted(form.encode("utf-8", "surrogateescape")) for form in reversed(forms))
    return f"(?P<last>(?P<least>(?P<mark>{quoted})))"


def _hexadecimal(value: bytes) -> list[Element]:
    return [("" if index % 2 else _BETWEEN_HEX, _either(digit)) for index, digit in enumerate(value.hex())]


def _numbers(value: bytes) -> list[Element]:
    return [
        (_BETWEEN_NUMBERS, f"{'(?<![0-9])' if index else ''}{byte}(?![0-9])")
        for index, byte in enumerate(value)
    ]


def _base64(value: bytes, shift: int) -> list[Element]:
    """The characters that `value` alone decides when it stands at offset `shift` mod 3."""
    encoded = base64.b64encode(b"\0" * shift + value)
    core = encoded[(0, 2, 3)[shift] : (shift + len(value)) * 8 // 6].decode("ascii")
    return [(_WRAP, _SIGNS.get(one, one)) for one in core]


def _branches(mark: bytes) -> Iterator[str]:
    """`_expressions` of a beginning, as alternatives that each begin with a literal."""
    text = mark.decode("utf-8", "surrogateescape")
    rest = "".join(between + one for between, one in _characters(text)[1:])
    for first in _alternatives(text[0]):
        yield first + rest
    for elements in (_hexadecimal(mark), _numbers(mark), *(_base64(mark, shift) for shift in range(3))):
        yield elements[0][1] + "".join(between + one for between, one in elements[1:])


def _either(digits: str) -> str:
    """Hexadecimal digits in either case."""
    return "".join(f"[{one}{one.upper()}]" if one.isalpha() else one for one in digits)


def _quoted(raw: bytes) -> str:
    return re.escape(raw).decode("latin-1")
