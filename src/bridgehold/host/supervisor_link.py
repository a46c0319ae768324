"""The host's link to its supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import itertools
import os
import socket

import msgspec

from bridgehold.error_info import ErrorInfo
from bridgehold.errors import BusyError, HostUnavailableError, UnsupportedError, from_info
from bridgehold.host.startup import (
    ANOTHER,
    CHECK_SECONDS,
    GO,
    LONGEST_FILE,
    READY,
    RELEASE,
    REREAD,
    SEALS,
    WRITE,
    FileChange,
    ReleaseChange,
)

_SEND_AGAIN_SECONDS = 0.01
"""For the next version to say whether it could start."""


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
