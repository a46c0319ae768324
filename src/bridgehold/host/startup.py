"""The host process's start: its configuration, and its link to the supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import itertools
import os
import signal
import socket
from typing import Literal

import msgspec

from bridgehold.error_info import ErrorInfo
from bridgehold.errors import BusyError, HostUnavailableError, UnsupportedError, from_info


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
_SEND_AGAIN_SECONDS = 0.01
"""For the next version to say whether it could start."""


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


class SupervisorLink:
    """The host's channel to its supervisor."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._turn = asyncio.Lock()
        self._numbers = itertools.count(1)

    def say_ready(self) -> None:
        """Tell the supervisor that the host serves; one that ends already ends this process too."""
        with contextlib.suppress(OSError):
            self._channel.send(READY)
        self._channel.setblocking(False)

    async def say(self, word: bytes) -> None:
        """Tell the supervisor what it answers nothing to."""
        with contextlib.suppress(OSError):  # it has ended, and this process with it
            await asyncio.get_running_loop().sock_sendall(self._channel, word)

    async def ask_for_another(self) -> None:
        """Have the version that is installed now take this host's place. Raises the typed refusal."""
        if self._turn.locked():
            raise BusyError("the host has been asked already")
        said = await self._ask(ANOTHER, b"", 2 * CHECK_SECONDS)
        if said != GO:
            raise UnsupportedError(
                f"no other host can take over: {said.decode(errors='replace')}",
                hint="This host goes on. `bridgehold serve --check` says what is to be mended.",
            )

    async def write(self, change: FileChange) -> None:
        """Have the supervisor write it, durably. Raises its typed refusal: then nothing has changed."""
        _raise_refusal(await self._ask(WRITE, msgspec.json.encode(change), CHECK_SECONDS))

    async def reread(self) -> str:
        """Have keeper and launcher told what config.toml says now, as the supervisor reads it.

        The digest of what they were told. Raises the typed refusal: then nothing has changed, or they do not
        answer.
        """
        answer = await self._ask(REREAD, b"", 2 * CHECK_SECONDS)
        if not answer.startswith(GO + b" "):
            _raise_refusal(answer)
        return answer.removeprefix(GO + b" ").decode(errors="replace")

    async def release(self, change: ReleaseChange, bundle: bytes | None) -> None:
        """As `write`. `bundle`: the files of a release that is not there yet, encoded."""
        said = msgspec.json.encode(change)
        if bundle is None:
            _raise_refusal(await self._ask(RELEASE, said, CHECK_SECONDS))
            return
        descriptor = await asyncio.to_thread(_sealed, bundle)
        try:
            _raise_refusal(await self._ask(RELEASE, said, CHECK_SECONDS, (descriptor,)))
        finally:
            os.close(descriptor)

    async def _ask(
        self, verb: bytes, rest: bytes, seconds: float, descriptors: tuple[int, ...] = ()
    ) -> bytes:
        """The answer to this question; one to a question before it, whose asker has gone, is dropped."""
        loop = asyncio.get_running_loop()
        async with self._turn:
            number = b"%d" % next(self._numbers)
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._send(b"%b %b %b" % (verb, number, rest), descriptors)
                    while answer := await loop.sock_recv(self._channel, LONGEST_FILE):
                        to, _, said = answer.partition(b" ")
                        if to == number:
                            return said
        raise HostUnavailableError("the supervisor does not answer", retry="no")

    async def _send(self, said: bytes, descriptors: tuple[int, ...]) -> None:
        if not descriptors:
            await asyncio.get_running_loop().sock_sendall(self._channel, said)
            return
        while True:
            with contextlib.suppress(BlockingIOError):
                socket.send_fds(self._channel, [said], descriptors)
                return
            await asyncio.sleep(_SEND_AGAIN_SECONDS)


def _sealed(data: bytes) -> int:
    """A descriptor of memory that holds `data`, and never anything else."""
    descriptor = os.memfd_create("bridge", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(data)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, SEALS)
    return descriptor


def _raise_refusal(answer: bytes) -> None:
    """Raise what the supervisor answers; nothing where it has done what it was asked."""
    if answer == GO:
        return
    try:
        info = msgspec.json.decode(answer, type=ErrorInfo)
    except (msgspec.MsgspecError, ValueError):
        raise HostUnavailableError("the supervisor's answer can't be read", retry="no") from None
    raise from_info(info)
