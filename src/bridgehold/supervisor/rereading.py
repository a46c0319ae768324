"""What the host asks for and never says: the configuration read again, and told to keeper and launcher.

Where keys may go, and what sandboxes may be bound from, the supervisor alone tells them, which reads the
operator's file itself: a host that was taken over can have it read earlier than its operator would, and can't
have anything stand in it.
"""

from __future__ import annotations

import os
import select
import time

import msgspec

from bridgehold.config.layout import Layout
from bridgehold.config.load import load_config
from bridgehold.config.settings import digest_of_told
from bridgehold.error_info import ErrorInfo
from bridgehold.errors import BridgeholdError, HostUnavailableError, from_info
from bridgehold.host.startup import GO
from bridgehold.keeper.values import keeper_config
from bridgehold.retold import SECONDS, Teller
from bridgehold.sandbox.aside import Aside
from bridgehold.supervisor.plans import launcher_config


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What a child has read, as JSON for the two processes."""

    keeper: msgspec.Raw = msgspec.Raw(b"null")
    launcher: msgspec.Raw = msgspec.Raw(b"null")
    digest: str = ""
    """Of what both are told: by it the host knows whether it has read the same."""
    refusal: ErrorInfo | None = None
    """Why there is nothing to tell."""


class Rereading:
    """One per supervisor."""

    def __init__(self, layout: Layout, keeper: Teller, launcher: Teller) -> None:
        self._layout = layout
        self._keeper = keeper
        self._launcher = launcher
        self._there = layout.config_file.exists()
        """A file that is gone is a fault then, and no word for the defaults."""

    def answer(self) -> bytes:
        """What the host is answered: `GO` and the digest, or the error as JSON.

        Takes `SECONDS` for each of the three at most.
        """
        try:
            told = self._read()
            self._keeper.tell(bytes(told.keeper))
            self._launcher.tell(bytes(told.launcher))
        except BridgeholdError as error:
            return msgspec.json.encode(error.info())
        return GO + b" " + told.digest.encode()

    def close(self) -> None:
        """Nothing more is told to either."""
        self._keeper.close()
        self._launcher.close()

    def _read(self) -> Told:
        """In a child: what the file names may lie where nothing answers. Raises the typed refusal."""
        self._there = self._there or self._layout.config_file.exists()
        there = self._there
        try:
            reading = Aside(lambda: read(self._layout, must_exist=there))
        except OSError as error:
            raise HostUnavailableError(
                f"the configuration can't be read now: {error.strerror}", retry="later"
            ) from error
        try:
            until, answer = time.monotonic() + SECONDS, None
            while (left := until - time.monotonic()) > 0 and answer is None:
                select.select([reading.descriptor], [], [], left)
                answer = reading.advance()
        finally:
            reading.reap(1.0)
        if answer is None:
            raise HostUnavailableError(
                f"the configuration was not read within {SECONDS:g} s: a file system doesn't answer",
                where=str(self._layout.config_file),
                retry="later",
            )
        found = msgspec.json.decode(answer, type=Told)
        if found.refusal is not None:
            raise from_info(found.refusal)
        return found


def read(layout: Layout, *, must_exist: bool) -> bytes:
    """A `Told`, as JSON."""
    try:
        config = load_config(layout.config_file, must_exist=must_exist)
        launcher = launcher_config(layout, config)
        real = {root: os.path.realpath(root) for root in launcher.read_roots}
        told = Told(
            keeper=msgspec.Raw(msgspec.json.encode(keeper_config(layout, config))),
            launcher=msgspec.Raw(msgspec.json.encode(msgspec.structs.replace(launcher, real=real))),
            digest=digest_of_told(config),
        )
    except BridgeholdError as error:
        told = Told(refusal=error.info())
    return msgspec.json.encode(told)
