"""Removal of secrets, pure: by value, in every plain spelling (`encodings`), by shape, and by name.

By shape: what providers' keys look like. By name: what stands under ``api_key`` and the like, in a table or
in a text (``api_key=…``, ``"token": "…"``, ``--password …``, a URL's query), and who a URL is fetched as.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
from collections import deque
from typing import TYPE_CHECKING

import msgspec

from bridgehold.audit.encodings import Encodings, Span, mask, merged
from bridgehold.ids import Digest, digest_bytes
from bridgehold.steps import finished

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

MASK = "[redacted]"
MARGIN = 4096
_MOST_NAMES = 1024
_LETTERS = 256
"""Characters at the end of a name that say of what it is one."""
_PARTIAL = 128
_DEPTH = 32
LONGEST_NAME = 64
"""Characters of what may name a key beside it."""

KEY_NAMES = frozenset(
    {
        "apikey",
        "accesskey",
        "accesskeyid",
        "accesstoken",
        "authtoken",
        "authorization",
        "proxyauthorization",
        "bearer",
        "clientsecret",
        "cookie",
        "credential",
        "credentials",
        "idtoken",
        "passphrase",
        "passwd",
        "password",
        "privatekey",
        "refreshtoken",
        "secret",
        "secretaccesskey",
        "secretkey",
        "sessiontoken",
        "setcookie",
        "token",
        "xapikey",
        "xgoogapikey",
    }
)

_KEY_ENDS = (
    *("apikey", "apitoken", "accesskey", "accesstoken", "authkey", "authtoken", "bearertoken", "bottoken"),
    *("clientsecret", "password", "passphrase", "privatekey", "refreshtoken", "secret", "secretkey"),
    *("servicekey", "sessiontoken", "signingkey", "subscriptionkey"),
)
_PROVIDERS = (
    *("ai21", "anthropic", "assemblyai", "aws", "azure", "bedrock", "brave", "cerebras", "claude", "cohere"),
    *("databricks", "deepgram", "deepseek", "elevenlabs", "exa", "fireworks", "gemini", "github", "google"),
    *("gpt", "groq", "hf", "huggingface", "jina", "langchain", "langsmith", "mistral", "nvidia", "openai"),
    *("openrouter", "perplexity", "pinecone", "qdrant", "sambanova", "serpapi", "serper", "stripe", "tavily"),
    *("together", "vertex", "voyage", "watsonx", "weaviate", "xai"),
)
_OF_PROVIDERS = tuple(f"{re.sub('[^a-z]', '', name)}key" for name in _PROVIDERS)
"""Ends of names, as in ``OPENAI_KEY`` and ``groqkey``: most others (``sort_key``) are no secrets'."""
_FOR_PROVIDERS = frozenset(
    f"{what}{re.sub('[^a-z]', '', name)}" for what in ("apikey", "key") for name in _PROVIDERS
)
_EXACT, _ENDS = KEY_NAMES | _FOR_PROVIDERS, (*_KEY_ENDS, *_OF_PROVIDERS)
_MAYBE = frozenset({"auth", "jwt", "pass", "pat"})
_MAYBE_ENDS = ("token", "passwd", "pwd", "passcode", "accesskeyid")
_SOME_ENDS = ("key", "keys", "sig", "signature")
_WORDS = frozenset(
    ["token", "tokens", "secret", "secrets", "credential", "credentials", "cookie", "cookies", "bearer"]
)
"""Names of keys that are words as well: in a text, what stands there has to look like one."""
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
_BEGINS = re.compile("|".join(re.escape(mark) for _, marks, _ in _SHAPES for mark in marks))
NO_LETTERS = re.compile(r"[^a-z]+")
SAYS = re.compile("key|token|secret|pass|pwd|cred|cookie|bearer|auth|jwt|pat|sig")
"""What the letters of a name, in lower case, do not hold where no name of keys is it: found by one look."""


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
_FOLDED = tuple(one.encode() for one in "\u0130\u0131\u017f\u212a")
"""Letters that are one of a to z to whoever asks for neither case."""
_HINT = re.compile(r"key|token|secret|pass|pwd|cred|auth|bearer|cookie|jwt|sig|://", re.IGNORECASE)
LOUD = re.compile(f"(?i:{_HINT.pattern})|{_BEGINS.pattern}")
"""What a text does not hold that `mask_shapes` and `mask_named` leave as it is."""
_SAID = re.compile(
    r"(?<![A-Za-z0-9_])(?:(--?)|([A-Za-z]{1,16}) )?([A-Za-z][A-Za-z0-9_.-]{1,63})"
    r"(?:(?:\\{0,8}[\"'])?\s{0,3}(?::=|=>|[:=])\s{0,3}|\sis\s|(?(1)\s|(?!)))(\\{0,8}[\"'])?"
)
"""A flag or a name, what makes of the text that follows its value, and a quote before that."""
_JUDGED, _LONGEST = 256, 8192
"""Characters of a value that are judged, so that no row of names is slow; that are hidden after them."""
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
_LOGIN = re.compile(r"(?<![^\s\"'])(?:-u|--user)[ =][\"']?[^\s:\"']{1,256}:([^\s\"']{1,1024})")
LOGINS = ("-u", "--user")
_USER = re.compile(r"(?<=://)([^\s/@:\"'?#\\]{0,256})(:[^\s/@\"'?#\\]{0,1024})?@")

_PART, _REACH = 8 * 1024, 16 * 1024
"""Characters in which one search may begin; more than any match of these expressions has and looks at."""
_LONG_REACH = 64 * 1024
"""The same of a token, whose parts are long."""
_LOOK = 256 * 1024
_LOOKS = 64
"""Of what was found, between two stops: some hundred microseconds."""
Masked = tuple[int, int, str]
"""From where to where, and what stands there instead."""


def mask_named(text: str) -> str:
    """`text` with the values of names of keys replaced, and the password of a URL's user."""
    return text if _HINT.search(text) is None else finished(_named_steps(text))


def _named_steps(text: str) -> Generator[None, None, str]:
    for find in (_users, _logins, _values, _nearby):
        text = yield from _masked(text, find(text))
    return text


def _searched(
    pattern: re.Pattern[str], text: str, at: int = 0, reach: int = _REACH
) -> Iterator[re.Match[str] | None]:
    """What `pattern.finditer(text, at)` gives; None after each part that it was looked for in.

    What makes a match is within `reach` of its beginning; it may go on for longer.
    """
    end, stop = len(text), at + _PART
    while True:
        seen = min(end, stop + reach)
        found = pattern.search(text, at, seen)
        while found is not None and found.start() < stop and found.end() == seen < end:
            yield None
            seen = min(end, 2 * seen - at)
            found = pattern.search(text, found.start(), seen)
        if found is not None and (found.start() < stop or seen == end):
            yield found
            at = found.end()
        elif seen == end:
            return
        else:
            at = stop
        if at >= stop:
            yield None
            stop = at + _PART


def _masked(text: str, spans: Iterable[Masked | None]) -> Generator[None, None, str]:
    """`text` without `spans`, in their order; one that begins within another is left out."""
    done, pieces = 0, []
    for span in spans:
        if span is None:
            yield
        elif span[0] >= done:
            pieces += [text[done : span[0]], span[2]]
            done = span[1]
    return "".join([*pieces, text[done:]])


def _shape_steps(
    text: str, name: str, marks: tuple[str, ...], pattern: re.Pattern[str]
) -> Generator[None, None, str]:
    """`_mask_shape` in bounded parts."""
    for at in range(0, len(text), _LOOK):
        yield
        if any(text.find(mark, at, at + _LOOK + len(mark)) >= 0 for mark in marks):
            found = _private_keys(text) if name == "private_key" else _shaped(text, pattern)
            return (yield from _masked(text, (span and (*span, f"[redacted:{name}]") for span in found)))
    return text


def _shaped(text: str, pattern: re.Pattern[str]) -> Iterator[Span | None]:
    for found in _searched(pattern, text, reach=_LONG_REACH if pattern.groups else _REACH):
        yield found and (found.end(1) if pattern.groups else found.start(), found.end())


def _private_keys(text: str) -> Iterator[Span | None]:
    """Each to its end, however far that is."""
    done = 0
    for begin in _searched(_KEY_BEGINS, text):
        if begin is None or begin.start() < done:
            yield None
            continue
        last: re.Match[str] | None = None
        for last in _searched(_KEY_ENDS_AT, text, begin.end()):
            if last is not None:
                break
            yield None
        done = last.end() if last is not None else len(text)
        yield begin.start(), done


def _users(text: str) -> Iterator[Masked | None]:
    for found in _searched(_USER, text):
        yield None if found is None else (*found.span(), _without_password(found))


def _logins(text: str) -> Iterator[Masked | None]:
    for found in _searched(_LOGIN, text):
        yield None if found is None else (*found.span(1), MASK)


def _values(text: str) -> Iterator[Masked | None]:
    """What is said of a name of keys."""
    done = looks = 0
    for said in _searched(_SAID, text):
        looks += 1
        if said is None or not looks % _LOOKS:
            yield None
        if said is None or said.start() < done:
            continue
        named = _is_named(said[2] or "", said[3])
        if not named and not is_some_key_name(said[3]):
            continue
        begin, rest = (_VALUE, _REST) if said[4] is None else _quoted(said[4])
        value = begin.match(text, said.end())
        if value is not None and _is_value(value[1], named=named, quoted=said[4] is not None):
            longer = rest.match(text, value.end(1))
            done = longer.end() if longer is not None else value.end(1)
            yield value.start(1), done, MASK


def _nearby(text: str) -> Iterator[Masked | None]:
    """What looks random soon after a name of keys: ``<api_key>…``, ``f("api_key", "…")``."""
    values: list[re.Match[str]] = []
    for looks, found in enumerate(_searched(_RANDOM, text)):
        if found is None or not looks % _LOOKS:
            yield None
        values += [found] if found is not None and looks_random(found[0]) else []
    names: deque[re.Match[str]] = deque()
    for looks, found in enumerate(_searched(_NEAR, text) if values else ()):
        if found is None or not looks % _LOOKS:
            yield None
        names += [found] if found is not None else []
    before: re.Match[str] | None = None
    for looks, value in enumerate(values):
        if not looks % _LOOKS:
            yield None
        while names and names[0].end() <= value.start():
            before = names.popleft()
        if before and value.start() - before.end() <= _NEARBY and is_some_key_name(before[0]):
            yield (*value.span(), MASK)


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
    return name.lower() not in _WORDS and (is_key_name(name) or is_key_name(before + name))


def _is_value(value: str, *, named: bool, quoted: bool) -> bool:
    """Whether `value`, said of a name that may be a key's, is taken for one. `named`: it is a key's."""
    if value.startswith("[redacted"):
        return False
    if named:
        return quoted or looks_secret(value.rstrip(".:!?"), 6)
    return looks_random(value)


def _without_password(found: re.Match[str]) -> str:
    user, password = found[1], found[2]
    if password:
        return f"{user}:{MASK}@"
    return f"{MASK}@" if looks_random(user) else found[0]


def may_fold(text: bytes) -> bool:
    """Whether a word of a to z may stand in `text` (UTF-8) in other letters than these."""
    return not text.isascii() and any(one in text for one in _FOLDED)


def looks_secret(value: str, least: int) -> bool:
    """Whether it could be a key, where its name alone doesn't say: no word and no text."""
    word = value.isalpha() and (value.islower() or value.isupper() or value.istitle())
    plain = re.search(r"[\s<>|]", value) is None and re.search(r"[A-Za-z]", value) is not None
    return len(value) >= least and plain and not word


def looks_random(value: str) -> bool:
    """Whether it looks like a key under a name that says little: 16 characters, digits among letters."""
    return looks_secret(value, 16) and re.search(r"[0-9]", value) is not None


class Redactor:
    """Removes the values of `secrets` (text, bytes, or their spellings) from texts."""

    def __init__(self, secrets: Iterable[str | bytes | Encodings]) -> None:
        self._values = tuple(one if isinstance(one, Encodings) else Encodings(_bytes(one)) for one in secrets)
        self.longest = max((one.longest for one in self._values), default=0)

    def __repr__(self) -> str:
        return f"Redactor({len(self._values)} values)"

    def text(self, text: str) -> str:
        """`text` without any spelling of any value, and without shapes of keys.

        Where it was cut (``…``, or its end) the beginning of a value is one, too.
        """
        return finished(self.steps(text))

    def steps(self, text: str) -> Generator[None, None, str]:
        """`text` in bounded parts: for who has more to do meanwhile."""
        if self._values:
            parts = text.split("…")
            for index, part in enumerate(parts):
                parts[index] = yield from self._by_value(part)
                if len(part) > _LOOKS or not index % _LOOKS:
                    yield
            text = "…".join(parts)
        for shape in _COMPILED:
            short = len(text) <= _PART
            text = _mask_shape(text, *shape) if short else (yield from _shape_steps(text, *shape))
            yield
        for found in _searched(_HINT, text):
            if found is not None:
                return (yield from _named_steps(text))
            yield
        return text

    def _by_value(self, text: str) -> Generator[None, None, str]:
        data = _bytes(text)
        spans: list[Span] = []
        for value in self._values:
            for span in value.spans(data):
                if span is None:
                    yield
                else:
                    spans.append(span)
        return mask(data, merged(spans), MASK.encode()).decode("utf-8", "surrogatepass") if spans else text


def _bytes(secret: str | bytes) -> bytes:
    return secret if isinstance(secret, bytes) else secret.encode("utf-8", "surrogatepass")


def is_key_name(name: str) -> bool:
    """Whether a value under `name` is masked whatever it is: ``api_key``, ``X-API-Key``, ``hfApiTokens``."""
    return _names_key(_letters(name))


def _letters(name: str) -> str:
    return NO_LETTERS.sub("", name[-_LETTERS:].lower())


def _names_key(plain: str) -> bool:
    """Of a name's letters alone."""
    if plain in _EXACT or plain.endswith(_ENDS):
        return True
    one = plain[:-1]
    return plain.endswith("s") and plain != "tokens" and (one in _EXACT or one.endswith(_ENDS))


def _may_name_key(plain: str) -> bool:
    return plain.endswith(_MAYBE_ENDS) or plain in _MAYBE


def is_token_name(name: str) -> bool:
    """Whether `name` may be a key's (``hf_token``, ``slackBotToken``) or ordinary (``eos_token``)."""
    return _may_name_key(_letters(name))


def is_some_key_name(name: str) -> bool:
    """Whether what stands under `name` may be a secret, where it looks like one: also ``sort_key``."""
    plain = _letters(name)
    return plain.endswith(_SOME_ENDS) or _names_key(plain) or _may_name_key(plain)


def is_shape(text: str) -> bool:
    """Whether `text` is a well-known key and nothing else, but for a header's scheme before it."""
    return _BEGINS.search(text) is not None and _ONLY_SHAPE.fullmatch(mask_shapes(text.strip())) is not None


def preview(
    arguments: object, secrets: Iterable[str | bytes] = (), cap_bytes: int = 2000
) -> tuple[Digest, int, str]:
    """(digest of the full arguments, their size in bytes, a redacted JSON text of at most `cap_bytes`).

    The digest is over sorted-key JSON. What doesn't encode (lone surrogates) is escaped first. The
    text is cut at a whole character and a cut is marked with ``…``; it is never read back as JSON.
    """
    return *digest_of(arguments), preview_text(arguments, cap_bytes, secrets)


def digest_of(value: object) -> tuple[Digest, int]:
    """Digest and size of `value` as `preview` gives them."""
    encoded = _encode(value)
    return digest_bytes(encoded), len(encoded)


def preview_text(value: object, cap_bytes: int, secrets: Iterable[str | bytes] = ()) -> str:
    """The text of `preview`. It takes what is shown, however much there is."""
    redactor = Redactor(secrets)
    budget = [cap_bytes + redactor.longest + MARGIN, _MOST_NAMES]
    return cut(_encode(_mask(value, redactor, budget, 0)).decode("utf-8"), cap_bytes)


def cut(text: str, cap_bytes: int) -> str:
    """`text` in at most `cap_bytes` of UTF-8, with ``…`` where something is missing."""
    raw = text.encode("utf-8", "backslashreplace")
    if len(raw) <= cap_bytes:
        return raw.decode("utf-8")
    return raw[: max(0, cap_bytes - 3)].decode("utf-8", "ignore") + "…"


def _encode(value: object) -> bytes:
    try:
        return msgspec.json.encode(value, enc_hook=_describe, order="sorted")
    except (UnicodeEncodeError, TypeError, ValueError, RecursionError):
        plain = json.dumps(value, default=repr, sort_keys=False, skipkeys=True)
        return plain.encode("ascii")


def _describe(value: object) -> object:
    return f"<{type(value).__name__}>"


def _mask(value: object, redactor: Redactor, budget: list[int], depth: int, *, near: bool = False) -> object:
    """A copy that stops growing at `budget` characters, with secrets out of every string and key.

    `near`: a name of keys stands beside it. `budget[1]`: how many texts are asked whether they are one;
    beside all others one may stand.
    """
    budget[0] -= 4
    if isinstance(value, str):
        return MASK if near and looks_random(value[:MARGIN]) else _mask_text(value, redactor, budget)
    if isinstance(value, (bytes, bytearray)):
        return f"<{len(value)} bytes>"
    if not isinstance(value, (dict, list, tuple)):
        return value
    if depth > _DEPTH:
        return "…"
    if isinstance(value, dict):
        return _mask_dict(value, redactor, budget, depth, near=near)
    items: list[object] = []
    near, before = near or _names_keys(value, budget), ""
    for item in value:
        if budget[0] <= 0:
            break
        login = before in LOGINS and isinstance(item, str) and ":" in item
        items.append(MASK if login else _mask(item, redactor, budget, depth + 1, near=near))
        before = item if isinstance(item, str) else ""
    return items


def _names_keys(values: Iterable[object], budget: list[int]) -> bool:
    """Whether one of `values`, or of a list among them, is a name of keys: another may be its value."""
    return any(
        _may_name(one, budget)
        if isinstance(one, str)
        else isinstance(one, list) and any(_may_name(item, budget) for item in one[:64])
        for one in itertools.islice(values, 256)
    )


def _may_name(one: object, budget: list[int]) -> bool:
    if not isinstance(one, str) or len(one) > LONGEST_NAME:
        return False
    budget[1] -= 1
    return budget[1] < 0 or (is_key_name(one) and one.strip("-").lower() not in _WORDS)


def _mask_dict(
    value: dict[object, object], redactor: Redactor, budget: list[int], depth: int, *, near: bool
) -> dict[str, object]:
    shown: dict[str, object] = {}
    near = near or _names_keys(value.values(), budget)
    for key, item in value.items():
        if budget[0] <= 0:
            break
        name = _mask_text(str(key), redactor, budget)
        hidden = is_key_name(name) or (
            isinstance(item, str) and is_some_key_name(name) and looks_random(item[:MARGIN])
        )
        shown[name] = MASK if hidden else _mask(item, redactor, budget, depth + 1, near=near)
    return shown


def _mask_text(value: str, redactor: Redactor, budget: list[int]) -> str:
    part = value[: max(0, budget[0])]
    budget[0] -= len(part)
    shown = redactor.text(part)
    if len(part) == len(value):
        return shown
    # The cut may stand inside a secret, and masking earlier ones moves it forward: drop that end.
    return shown[: max(0, len(shown) - redactor.longest - _PARTIAL)] + "…"
