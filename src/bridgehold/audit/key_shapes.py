"""Keys that their own form tells, pure: what those of well-known providers look like."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from bridgehold.audit.encodings import Span
from bridgehold.audit.searching import LOOK, LOOKS, PART, replaced, run_end, searched

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

_ONLY_SHAPE = re.compile(r"(?:[A-Za-z]{4,8} )?\[redacted:\w+\]")
_KEY_BEGINS = re.compile("-----BEGIN [A-Z ]{0,64}PRIVATE KEY-----")
_KEY_ENDS_AT = re.compile("-----END [A-Z ]{0,64}-----")
_SHAPES = (
    ("private_key", ("-----BEGIN ",), rf"{_KEY_BEGINS.pattern}.*?(?:{_KEY_ENDS_AT.pattern}|\Z)"),
    ("sk", ("sk-",), r"(?<![A-Za-z0-9])sk-[A-Za-z0-9_-]{12,}"),
    ("aws", ("AKIA", "ASIA"), r"(?<![A-Za-z0-9])(?:AKIA|ASIA)[0-9A-Z]{16}"),
    ("github", ("ghp_", "gho_", "ghu_", "ghs_", "ghr_"), r"(?<![A-Za-z0-9])gh[pousr]_[A-Za-z0-9]{20,}"),
    ("github", ("github_pat_",), r"github_pat_[A-Za-z0-9_]{20,}"),
    ("google", ("AIza",), r"AIza[0-9A-Za-z_-]{30,}"),
    (
        "jwt",
        (".eyJ",),
        (
            r"(?<![A-Za-z0-9_-])(?>([A-Za-z0-9_-]*?)(?=eyJ))[A-Za-z0-9_-]{11,}+"
            r"\.eyJ[A-Za-z0-9_-]{4,}(?:\.[A-Za-z0-9_-]*)?"
        ),
    ),
    ("huggingface", ("hf_",), r"(?<![A-Za-z0-9])hf_[A-Za-z0-9]{20,}"),
    ("groq", ("gsk_",), r"(?<![A-Za-z0-9])gsk_[A-Za-z0-9]{20,}"),
    ("slack", ("xox",), r"xox[abeoprs]-[A-Za-z0-9-]{10,}"),
    ("slack", ("hooks.slack.com",), r"(?<=hooks\.slack\.com/)[A-Za-z0-9/_-]{16,}"),
    ("gitlab", ("glpat-",), r"glpat-[A-Za-z0-9_-]{16,}"),
    ("bearer", ("earer ",), r"(?<=[Bb]earer )[A-Za-z0-9._~+/=-]{16,}"),
)
"""Each is tried once in a run of its characters, so that no text makes it slow; a group before it stays."""
_COMPILED = tuple((name, marks, re.compile(pattern, re.DOTALL)) for name, marks, pattern in _SHAPES)
BEGINS = re.compile("|".join(re.escape(mark) for _, marks, _ in _SHAPES for mark in marks))


def find_shape(text: str) -> bool:
    """Whether `mask_shapes` would change `text`; cheap where it wouldn't."""
    return any(
        pattern.search(text) is not None
        for _, marks, pattern in _COMPILED
        if any(mark in text for mark in marks)
    )


def mask_shapes(text: str) -> str:
    """`text` with every value of a well-known key shape replaced by ``[redacted:SHAPE]``."""
    for shape in _COMPILED:
        text = _mask_shape(text, *shape)
    return text


def _mask_shape(text: str, name: str, marks: tuple[str, ...], pattern: re.Pattern[str]) -> str:
    if not any(mark in text for mark in marks):
        return text
    return pattern.sub(rf"\1[redacted:{name}]" if pattern.groups else f"[redacted:{name}]", text)


MARKS = (b"://", *(mark.encode() for _, marks, _ in _SHAPES for mark in marks))
_TOKEN = "".join((*map(chr, range(48, 58)), *map(chr, range(65, 91)), *map(chr, range(97, 123)), "_-"))
_OF_TOKEN = re.compile(rf"[A-Za-z0-9_-]{{1,{PART}}}")
_TOKEN_PART = re.compile(r"\.eyJ(?=[A-Za-z0-9_-]{4})")
_LEAST_HEAD = 11


def shape_steps(text: str) -> Generator[None, None, str]:
    """As `mask_shapes`, in bounded parts where the text is long."""
    for shape in _COMPILED:
        text = _mask_shape(text, *shape) if len(text) <= PART else (yield from _shape_steps(text, *shape))
        yield
    return text


def _shape_steps(
    text: str, name: str, marks: tuple[str, ...], pattern: re.Pattern[str]
) -> Generator[None, None, str]:
    """`_mask_shape` in bounded parts."""
    for at in range(0, len(text), LOOK):
        yield
        if any(text.find(mark, at, at + LOOK + len(mark)) >= 0 for mark in marks):
            find = {"private_key": _private_keys, "jwt": _tokens}.get(name)
            found = find(text) if find is not None else _shaped(text, pattern)
            return (yield from replaced(text, (span and (*span, f"[redacted:{name}]") for span in found)))
    return text


def _shaped(text: str, pattern: re.Pattern[str]) -> Iterator[Span | None]:
    for found in searched(pattern, text):
        yield found and found.span()


def _tokens(text: str) -> Iterator[Span | None]:
    """Each from where its head begins, and to its end, however far both are from its second part."""
    done = 0
    for looks, found in enumerate(searched(_TOKEN_PART, text)):
        if found is None or not looks % LOOKS:
            yield None
        if found is None or found.start() < done:
            continue
        begin = found.start()
        while piece := text[max(done, begin - PART) : begin]:
            run = len(piece) - len(piece.rstrip(_TOKEN))
            begin -= run
            if run < PART:
                break
            yield None
        begin = text.find("eyJ", begin, found.start())
        if begin < 0 or found.start() - begin < _LEAST_HEAD:
            continue
        done = yield from run_end(_OF_TOKEN, text, found.end())
        if text[done : done + 1] == ".":
            done = yield from run_end(_OF_TOKEN, text, done + 1)
        yield begin, done


def _private_keys(text: str) -> Iterator[Span | None]:
    """Each to its end, however far that is."""
    done = 0
    for begin in searched(_KEY_BEGINS, text):
        if begin is None or begin.start() < done:
            yield None
            continue
        last: re.Match[str] | None = None
        for last in searched(_KEY_ENDS_AT, text, begin.end()):
            if last is not None:
                break
            yield None
        done = last.end() if last is not None else len(text)
        yield begin.start(), done


def is_shape(text: str) -> bool:
    """Whether `text` is a well-known key and nothing else, but for a header's scheme before it."""
    return BEGINS.search(text) is not None and _ONLY_SHAPE.fullmatch(mask_shapes(text.strip())) is not None
