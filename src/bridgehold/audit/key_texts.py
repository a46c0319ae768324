"""Keys that stand in a text beside their name, pure.

``api_key=…``, ``"token": "…"``, ``--password …``, a URL's query, its user and password.
"""

from __future__ import annotations

import functools
import re
from collections import deque
from typing import TYPE_CHECKING

from bridgehold.audit.key_names import (
    WORDS,
    is_key_name,
    is_some_key_name,
    looks_random,
    looks_secret,
)
from bridgehold.audit.searching import LOOKS, MASK, PART, Masked, replaced, run_end, searched
from bridgehold.steps import finished

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

HINT = re.compile(r"key|token|secret|pass|pwd|cred|auth|bearer|cookie|jwt|sig|://", re.IGNORECASE)
_SAID = re.compile(
    r"(?<![A-Za-z0-9_])(?:(--?)|([A-Za-z]{1,16}) )?([A-Za-z][A-Za-z0-9_.-]{1,63})"
    r"(?:(?:\\{0,8}[\"'])?\s{0,3}(?::=|=>|[:=])\s{0,3}|\sis\s|(?(1)\s|(?!)))(\\{0,8}[\"'])?"
)
"""A flag or a name, what makes of the text that follows its value, and a quote before that."""
_JUDGED, _LONGEST = 256, PART
"""Characters of a value that are judged, so that no row of names is slow; that are looked at in one step, for
where a value ends. It is hidden to its end, however far that is."""
_OF_VALUE = r"[^\s\"'\\,;&<>|()\[\]{}]"
_VALUE = re.compile(rf"(?:(?:bearer|basic|token|apikey)\s+)?({_OF_VALUE}{{1,{_JUDGED}}})", re.IGNORECASE)
_REST = re.compile(rf"{_OF_VALUE}{{0,{_LONGEST}}}")
_NEAR = re.compile(
    r"(?<![A-Za-z0-9_])[A-Za-z0-9_.%-]{0,40}?"
    r"(?:key|token|secret|passw|passphrase|pwd|credential|authorization|bearer|cookie)[A-Za-z]{0,12}",
    re.IGNORECASE,
)
_NEARBY = 64
"""Characters after a name of keys in which what looks random is its value, whatever stands between."""
_RANDOM = re.compile(r"[A-Za-z0-9_+/.~-]{16,8192}={0,2}")
_MORE_RANDOM = re.compile(rf"[A-Za-z0-9_+/.~-]{{1,{_LONGEST}}}={{0,2}}")
_LOGIN = re.compile(r"(?<![^\s\"'])(?:-u|--user)[ =][\"']?[^\s:\"']{1,256}:([^\s\"']{1,1024})")
_MORE_LOGIN = re.compile(rf"[^\s\"']{{1,{_LONGEST}}}")
LOGINS = ("-u", "--user")
_HOST = re.compile("://")
_USER, _PASSWORD = (re.compile(rf"[^\s/@{but}\"'?#\\]{{1,{_LONGEST}}}") for but in (":", ""))


def mask_named(text: str) -> str:
    """`text` with the values of names of keys replaced, and the password of a URL's user."""
    return text if HINT.search(text) is None else finished(named_steps(text))


def named_steps(text: str) -> Generator[None, None, str]:
    """As `mask_named`, in bounded parts."""
    for find in (_users, _logins, _values, _nearby):
        text = yield from replaced(text, find(text))
    return text


def _users(text: str) -> Iterator[Masked | None]:
    for looks, found in enumerate(searched(_HOST, text)):
        if found is None or not looks % LOOKS:
            yield None
        if found is None:
            continue
        begin = found.end()
        user = end = yield from run_end(_USER, text, begin)
        if text[user : user + 1] == ":":
            end = yield from run_end(_PASSWORD, text, user + 1)
        if text[end : end + 1] == "@":
            yield begin, end + 1, _without_password(text[begin:end], text[begin:user], text[user + 1 : end])


def _logins(text: str) -> Iterator[Masked | None]:
    for found in searched(_LOGIN, text):
        if found is None:
            yield None
        else:
            yield found.start(1), (yield from run_end(_MORE_LOGIN, text, found.end(1))), MASK


def _values(text: str) -> Iterator[Masked | None]:
    """What is said of a name of keys."""
    done = looks = 0
    for said in searched(_SAID, text):
        looks += 1
        if said is None or not looks % LOOKS:
            yield None
        if said is None or said.start() < done:
            continue
        named = _is_named(said[2] or "", said[3])
        if not named and not is_some_key_name(said[3]):
            continue
        begin, rest = (_VALUE, _REST) if said[4] is None else _quoted(said[4])
        value = begin.match(text, said.end())
        if value is not None and _is_value(value[1], named=named, quoted=said[4] is not None):
            done = yield from run_end(rest, text, value.end(1))
            yield value.start(1), done, MASK


def _nearby(text: str) -> Iterator[Masked | None]:
    """What looks random soon after a name of keys: ``<api_key>…``, ``f("api_key", "…")``."""
    values: list[re.Match[str]] = []
    for looks, found in enumerate(searched(_RANDOM, text)):
        if found is None or not looks % LOOKS:
            yield None
        values += [found] if found is not None and looks_random(found[0]) else []
    names: deque[re.Match[str]] = deque()
    for looks, found in enumerate(searched(_NEAR, text) if values else ()):
        if found is None or not looks % LOOKS:
            yield None
        names += [found] if found is not None else []
    before: re.Match[str] | None = None
    for looks, value in enumerate(values):
        if not looks % LOOKS:
            yield None
        while names and names[0].end() <= value.start():
            before = names.popleft()
        if before and value.start() - before.end() <= _NEARBY and is_some_key_name(before[0]):
            yield value.start(), (yield from run_end(_MORE_RANDOM, text, value.end())), MASK


@functools.cache
def _quoted(quote: str) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """What stands between two of `quote`, which has backslashes before it where the text is quoted itself.

    As much of it as is judged, and what may follow.
    """
    one = r"(?:\\.|[^\\])" if len(quote) == 1 else "."
    one = f"(?:(?!{re.escape(quote)}){one})"
    return (
        re.compile(f"({one}{{1,{_JUDGED}}})", re.DOTALL),
        re.compile(f"{one}{{0,{_LONGEST}}}", re.DOTALL),
    )


def _is_named(before: str, name: str) -> bool:
    """Whether a text that says something of `name` names a key by it. `before`: the word before it."""
    return name.lower() not in WORDS and (is_key_name(name) or is_key_name(before + name))


def _is_value(value: str, *, named: bool, quoted: bool) -> bool:
    """Whether `value`, said of a name that may be a key's, is taken for one. `named`: it is a key's."""
    if value.startswith("[redacted"):
        return False
    if named:
        return quoted or looks_secret(value.rstrip(".:!?"), 6)
    return looks_random(value)


def _without_password(whole: str, user: str, password: str) -> str:
    if password:
        return f"{user}:{MASK}@"
    return f"{MASK}@" if looks_random(user) else f"{whole}@"
