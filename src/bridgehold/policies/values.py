"""TOML values to typed ones, by kind of key. Each reader raises `ValueError` with the remedy."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import PurePosixPath

from bridgehold.errors import DeniedError
from bridgehold.ids import is_name, nearest
from bridgehold.policies import globs
from bridgehold.policies.downloads import normalise_repo_pattern
from bridgehold.policies.model import Connect
from bridgehold.policies.names import normalise_host_pattern, normalise_path_pattern
from bridgehold.policies.units import parse_duration, parse_size
from bridgehold.policies.vocabulary import ANY, CONNECT_KEYS, Key

_PATTERN = re.compile(r"[A-Za-z0-9_.:*-]{1,200}", re.ASCII)
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]{0,99}", re.ASCII)
_DIRECTING = re.compile(
    r"LD_.*|PYTHON.*|BRIDGEHOLD.*|MALLOC_.*|LC_.*|.*_PROXY|SSL_CERT_.*|GLIBC_TUNABLES|GCONV_PATH"
    r"|PATH|HOME|TMPDIR|SHELL|SHELLOPTS|BASH_ENV|ENV|IFS|LANG|TZ|XDG_CACHE_HOME|HF_HOME|DSPY_CACHEDIR"
    r"|OPENSSL_CONF|OPENSSL_MODULES|SSLKEYLOGFILE|NODE_OPTIONS|PERL5(?:LIB|OPT)|RUBY(?:LIB|OPT)"
    r"|_?JAVA_(?:TOOL_)?OPTIONS|GIT_(?:SSH|EXEC|CONFIG).*"
)
DEVICE = re.compile(r"/dev/nvidia(?:[0-9]{1,3}|ctl|-modeset|-uvm|-uvm-tools)", re.ASCII)
"""Device files that may be granted at all: a disk or /dev/kvm is none, whoever names it."""
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_FIELD = re.compile(
    r"\*|\((?:no )?body\)|\(path\)(?:=/[\x21-\x7e]{0,79})?|\(method\)(?:=[A-Z]{1,20})?"
    r"|\??[A-Za-z0-9_$-]{1,64}(?:\[\])*(?:\.[A-Za-z0-9_$-]{1,64}(?:\[\])*)*(?:=[\x20-\x7e]{1,80})?",
    re.ASCII,
)
_MOST_ITEMS = 500
MILLION = 1_000_000


def read_value(key: Key, value: object) -> object:
    """`value` as the model keeps it: bytes, milliseconds, thousandths of a core, tuples, texts; None for
    ``"any"``."""
    if key.takes_any and value == ANY:
        return None
    return _READERS[key.kind](key, value)


def _size(key: Key, value: object) -> int:
    return _bounded(key, parse_size(_text(value, "a size such as 512MiB")))


def _rate(key: Key, value: object) -> int:
    text = _text(value, "a rate such as 64KiB/s")
    if not text.endswith("/s"):
        raise ValueError(f"{text[:40]!r} is not a rate such as 64KiB/s")
    return _bounded(key, parse_size(text[:-2]))


def _duration(key: Key, value: object) -> int:
    return _bounded(key, parse_duration(_text(value, "a duration such as 30s")))


def _cores(key: Key, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e6:
        raise ValueError(f"a number of cores such as 1.5 is expected, not {_shown(value)}")
    return _bounded(key, round(value * 1000), " thousandths of a core")


def _count(key: Key, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"a whole number is expected, not {_shown(value)}")  # noqa: TRY004 - the one kind a reader raises
    return _bounded(key, value)


def _money(key: Key, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e9:
        raise ValueError(f"an amount such as 12.50 is expected, not {_shown(value)}")
    return _bounded(key, round(value * MILLION), " millionths")


def _bounded(key: Key, value: int, unit: str = "") -> int:
    if not key.least <= value <= key.most:
        raise ValueError(f"{value} is outside of {key.least} … {key.most}{unit}")
    return value


def _flag(_key: Key, value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"true or false is expected, not {_shown(value)}")  # noqa: TRY004 - the one kind a reader raises
    return value


def _choice(key: Key, value: object) -> str:
    text = _text(value, f"one of {', '.join(key.options)}")
    if text not in key.options:
        raise ValueError(f"{text[:40]!r} is none of {', '.join(key.options)}{nearest(text, key.options)}")
    return text


def _name(_key: Key, value: object) -> str:
    text = _text(value, "a name")
    if not is_name(text):
        raise ValueError(f"{text[:40]!r} is not a name (lower-case letters, digits, '-' and '_'; at most 63)")
    return text


def _variable(_key: Key, value: object) -> str:
    text = _text(value, "an environment variable's name")
    if not _VARIABLE.fullmatch(text):
        raise ValueError(f"{text[:40]!r} is not an environment variable's name in upper case")
    if directs_programs(text):
        raise ValueError(f"{text!r} directs the interpreter, the loader or its traffic; it can't be a secret")
    return text


def directs_programs(name: str) -> bool:
    """Whether a variable says what programs load or where traffic goes: none is set for a guest (pure)."""
    return _DIRECTING.fullmatch(name) is not None


def _texts(value: object, what: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"a list of {what} is expected, not {_shown(value)}")
    if len(value) > _MOST_ITEMS:
        raise ValueError(f"{len(value)} items; at most {_MOST_ITEMS} are taken")
    return tuple(value)


def _listed(key: Key, value: object) -> tuple[str, ...]:
    found = _texts(value, "texts")
    for text in found:
        if text not in key.options:
            known = ", ".join(key.options)
            raise ValueError(f"{text[:40]!r} is none of {known}{nearest(text, key.options)}")
    return found


def _paths(_key: Key, value: object) -> tuple[str, ...]:
    return tuple(_named(normalise_path_pattern, text) for text in _texts(value, "paths"))


def _patterns(_key: Key, value: object) -> tuple[str, ...]:
    found = _texts(value, "patterns")
    for text in found:
        if not _PATTERN.fullmatch(text):
            raise ValueError(f"{text[:80]!r} is not a pattern: letters, digits, '_', '-', '.', ':' and '*'")
        if globs.too_wild(text):
            raise ValueError(f"{text[:80]!r} has more than {globs.MAX_STARS} '*', or is too long to have any")
    return found


def _fields(_key: Key, value: object) -> tuple[str, ...]:
    found = _texts(value, "fields")
    for text in found:
        if not _FIELD.fullmatch(text):
            raise ValueError(
                f"{text[:80]!r} is no field: `a.b[].c`, `a.type=value`, `?query`, `header=value`, "
                "`(path)=/x`, `(method)=GET`, `(body)`, `(no body)`, `*`"
            )
    return found


def _folders(_key: Key, value: object) -> tuple[str, ...]:
    found = _texts(value, "absolute folders")
    for text in found:
        path = PurePosixPath(text)
        plain = text.isprintable() and not any(part in ("..", ".") for part in text.split("/"))
        if not path.is_absolute() or text.startswith("//") or path == PurePosixPath("/") or not plain:
            raise ValueError(f"{text[:80]!r} is not an absolute folder without '.' and '..', below '/'")
    return tuple(str(PurePosixPath(text)) for text in found)


def _devices(_key: Key, value: object) -> tuple[str, ...]:
    found = _texts(value, "device files")
    for text in found:
        if not DEVICE.fullmatch(text):
            raise ValueError(
                f"{text[:80]!r} is no device that can be granted: /dev/nvidia0, /dev/nvidiactl, …"
            )
    return found


def _connects(_key: Key, value: object) -> tuple[Connect, ...]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise ValueError(f"an array of tables [[network.connect]] is expected, not {_shown(value)}")
    return tuple(_connect(item) for item in value)


def _connect(table: dict[str, object]) -> Connect:
    known = {key.path.rpartition(".")[2]: key for key in CONNECT_KEYS}
    for name in table:
        if name not in known:
            raise ValueError(f"unknown key {name[:80]!r}{nearest(name, known)}")
    if "host" not in table:
        raise ValueError("`host` is missing")
    return Connect(
        host=_named(normalise_host_pattern, _text(table["host"], "a host")),
        port=_count(known["port"], table.get("port", 443)),
        private=_flag(known["private"], table.get("private", False)),
    )


def _repos(_key: Key, value: object) -> tuple[str, ...]:
    return tuple(_named(normalise_repo_pattern, text) for text in _texts(value, "repos"))


def _digests(_key: Key, value: object) -> tuple[str, ...]:
    found = _texts(value, "digests")
    for text in found:
        if not _SHA256.fullmatch(text):
            raise ValueError(f"{text[:80]!r} is not 64 hexadecimal digits in lower case")
    return found


def _named(normalise: Callable[[str], str], text: str) -> str:
    try:
        return normalise(text)
    except DeniedError as error:
        raise ValueError(f"{error.message}. {error.hint}".removesuffix(". ")) from None


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{what} is expected, not {_shown(value)}")  # noqa: TRY004 - the one kind a reader raises
    return value


def _shown(value: object) -> str:
    return repr(value)[:60]


_READERS: dict[str, Callable[[Key, object], object]] = {
    "size": _size,
    "rate": _rate,
    "duration": _duration,
    "cores": _cores,
    "count": _count,
    "money": _money,
    "flag": _flag,
    "choice": _choice,
    "name": _name,
    "extends": _name,
    "variable": _variable,
    "methods": _listed,
    "weakenings": _listed,
    "paths": _paths,
    "patterns": _patterns,
    "fields": _fields,
    "folders": _folders,
    "devices": _devices,
    "connects": _connects,
    "repos": _repos,
    "digests": _digests,
}
