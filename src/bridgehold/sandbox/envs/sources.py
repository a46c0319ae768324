"""Where wheels come from on this machine: the settings that uv's and pip's users already have.

The index is the first of an explicit one, ``UV_DEFAULT_INDEX``, ``UV_INDEX_URL``, ``PIP_INDEX_URL``,
pip.conf's ``index-url``, and the public index. Folders (`find-links`) and further indexes are added.
"""

from __future__ import annotations

import configparser
import os
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from bridgehold import reads
from bridgehold.errors import ConfigError
from bridgehold.sandbox.envs.values import Sources

_SECTIONS = ("global", "install")
_SCHEMES = ("https", "http", "file")


def _standard_index() -> str:
    from pypi_simple import (
        PYPI_SIMPLE_ENDPOINT,
    )  # it brings `requests` along: 0.2 s that a host's start is spared

    return PYPI_SIMPLE_ENDPOINT


def find_sources(environ: Mapping[str, str], settings: Mapping[str, str], *, index: str = "") -> Sources:
    """The sources that `environ` and pip.conf's `settings` select (pure). `index` wins where given."""
    first = (
        index
        or environ.get("UV_DEFAULT_INDEX", "")
        or environ.get("UV_INDEX_URL", "")
        or environ.get("PIP_INDEX_URL", "")
        or settings.get("index-url", "")
        or _standard_index()
    )
    no_index = environ.get("PIP_NO_INDEX", settings.get("no-index", "")).lower() in ("1", "true", "yes", "on")
    extra = _words(
        environ.get("UV_INDEX", ""),
        environ.get("UV_EXTRA_INDEX_URL", ""),
        environ.get("PIP_EXTRA_INDEX_URL", settings.get("extra-index-url", "")),
    )
    links = _words(
        environ.get("UV_FIND_LINKS", "").replace(",", " "),
        environ.get("PIP_FIND_LINKS", settings.get("find-links", "")),
    )
    urls = [_index_url(word) for word in ([] if no_index and not index else [first]) + extra]
    return Sources(
        folders=_once(_folder(word) for word in links if "://" not in word or word.startswith("file://")),
        indexes=_once(sorted(urls, key=lambda url: not url.startswith("file://"))),
        certificates=environ.get("SSL_CERT_FILE", "")
        or environ.get("REQUESTS_CA_BUNDLE", "")
        or environ.get("PIP_CERT", "")
        or settings.get("cert", ""),
    )


def default_sources(index: str = "") -> Sources:
    """`find_sources` for this process: its environment, and the pip.conf files of machine and user."""
    return find_sources(os.environ, read_pip_settings(os.environ), index=index)


def read_pip_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """pip.conf's settings, later files over earlier ones. ``PIP_CONFIG_FILE=/dev/null`` turns all off."""
    named = environ.get("PIP_CONFIG_FILE", "")
    if named == os.devnull:
        return {}
    home = reads.home_of(environ, os.getuid())
    user = Path(environ.get("XDG_CONFIG_HOME", "") or home / ".config")
    files = [Path("/etc/pip.conf"), home / ".pip/pip.conf", user / "pip/pip.conf"]
    settings: dict[str, str] = {}
    for file in [*files, *([Path(named)] if named else [])]:
        try:
            text = reads.read_text(file, ConfigError)
        except ConfigError:
            continue  # absent, or of another user: pip would not see it either
        settings.update(parse_pip_settings(text, str(file)))
    return settings


def parse_pip_settings(text: str, file: str) -> dict[str, str]:
    """Keys with dashes, from the sections that concern installing (pure)."""
    parser = configparser.RawConfigParser()
    try:
        parser.read_string(text)
    except configparser.Error as error:
        raise ConfigError(f"this pip configuration can't be read: {error.message}", where=file) from error
    return {
        key.replace("_", "-"): value
        for section in _SECTIONS
        if parser.has_section(section)
        for key, value in parser.items(section)
    }


def shown(url: str) -> str:
    """`url` without user, password, query: fit for a message."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    return urlunsplit((parts.scheme, f"{host}:{parts.port}" if parts.port else host, parts.path, "", ""))


def _words(*texts: str) -> list[str]:
    return [word for text in texts for word in shlex.split(text, comments=False)]


def _index_url(word: str) -> str:
    name, separator, rest = word.partition("=")
    url = rest if separator and "://" not in name else word  # uv's `name=url`
    if url.startswith("/"):
        url = Path(url).as_uri()
    if urlsplit(url).scheme not in _SCHEMES:
        raise ConfigError(
            f"{shown(url)[:200]!r} is no package index",
            hint="An index is an http(s):// or file:// URL of the simple API.",
        )
    return url


def _folder(word: str) -> str:
    return urlsplit(word).path if word.startswith("file://") else word


def _once(words: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(words))
