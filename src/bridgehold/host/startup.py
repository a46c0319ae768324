"""What a host's process and its supervisor say to each other; first, what it is started with."""

from __future__ import annotations

import fcntl
import signal
from typing import Literal

import msgspec


class HostConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What the host's process is told; it reads config.toml, policies and tenants itself."""

    config: str
    state: str
    run: str
    owner_uid: int
    supervisor: int
    face_uid: int | None = None
    """The kernel uid of the HTTP face, where it has one of its own."""
    overrides: dict[str, str] = {}
    """Variables of the environment that say single keys of config.toml."""
    cells: bool = False
    """Each tenant is served by a process of its own."""
    lasting: bool = False
    """Its listening sockets stay open after it: whoever comes then waits for the next host."""


class Ends(msgspec.Struct, frozen=True, kw_only=True):
    """The descriptors that the supervisor gave."""

    launcher: int
    keeper: int
    journal: int
    listener: int
    parent: int
    """The supervisor: it is told what stands below."""
    tokens: int = -1
    """Where the HTTP face connects, if there is one."""
    keeper_intake: int = -1
    """Where the keeper takes the channels of cells."""
    journal_intake: int = -1
    """Where the journal does."""


READY, ANOTHER, GO = b"ready", b"another", b"go"
"""What the host says to its supervisor, the first two; and what that answers, if it isn't a reason.

A question is ``VERB NUMBER REST``, and its answer ``NUMBER REST``: one that comes late is no later one's.
"""
USED, DESERTED = b"used", b"deserted"
"""What a private host says, unasked, once its owner is gone: others are connected to it; nobody is."""
WRITE = b"write"
"""With a `FileChange`: have the supervisor, which owns the configuration, write one file of it."""
RELEASE = b"release"
"""With a `ReleaseChange`, and what it lays down in sealed memory, as a descriptor beside it."""
REREAD = b"reread"
"""Have the supervisor read config.toml, and tell keeper and launcher what it says. Nothing goes with it."""
SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
MOST_CELLS = 512
"""At once: each is some ten MiB, and a caller that may act for any tenant may name any number."""
LONGEST_FILE = 64 * 1024
LEAVE = signal.SIGUSR1
"""To the HTTP face: accept nobody more, end each connection after what runs on it."""
LONGEST_REASON = 4_000
"""Characters of why no other host can take over."""
CHECK_SECONDS = 30


class FileChange(msgspec.Struct, frozen=True, kw_only=True):
    """One file of the configuration, as an operator wants it through the host."""

    kind: Literal["tenants", "tokens", "approved", "review"]
    name: str
    """Of approved rules ``BRIDGE@TENANT``; of a review the policy's, or ``@TENANT`` of a tenant's ceiling."""
    text: str | None
    """None: it is to go; of a tenant's the table ``[tenant]`` alone, where something else is said there."""
    was: str
    """The digest of what it replaces; empty: there is none. Another text there is nobody's to overwrite."""


class ReleaseChange(msgspec.Struct, frozen=True, kw_only=True):
    """Which release of a tenant's submitted bridge is in use, as an operator has approved it."""

    tenant: str
    bridge: str
    text: str
    """Of its ``current.toml``."""
    was: str
    """As in `FileChange`."""
