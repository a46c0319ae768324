"""What comes over the launcher's channels and the journal's: each is polled for what can be done with it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Protocol

from bridgehold.sandbox.launcher import requests
from bridgehold.sandbox.launcher.channel import Channel, ChannelClosedError
from bridgehold.sandbox.launcher.poll import READ, WRITE, Poll, apart, nobodys
from bridgehold.sandbox.launcher.recording import Recording
from bridgehold.sandbox.limits.shortage import shortage, typed


class Owner(Protocol):
    """What `Hearing` needs of the launcher's loop."""

    def respond(self, channel: Channel, request: requests.Request) -> None:
        """See `Launcher.respond`."""

    def lost(self, channel: Channel) -> None:
        """See `Launcher.lost`."""


class Hearing:
    """Of the host's own channel, of each cell's, and of the journal's."""

    def __init__(self, owner: Owner, poll: Poll, channel: Channel, recording: Recording) -> None:
        self._owner = owner
        self._poll = poll
        self._channel = channel
        self._recording = recording
        self._journal = -1
        """What is polled of `recording`."""
        self.unheard = False
        """Something could not be polled for want of room: it is tried again."""
        poll.want(channel.fileno(), READ, self._ready(channel), nobodys)

    def attend(self, channels: Iterable[Channel]) -> None:
        """Every turn: have the host's own, `channels` and the journal's polled."""
        self.unheard = False
        for channel in (self._channel, *channels):
            apart(functools.partial(self._listen, channel), functools.partial(self._mute, channel))
        apart(self._listen_to_journal, self._mute_journal)

    def attend_host(self) -> None:
        """It can't be told whether the host has asked something: look."""
        self._channel_ready(self._channel, self._channel.fileno(), READ | WRITE)

    def _listen(self, channel: Channel) -> None:
        """Poll `channel` for what can be done with it now."""
        wanted = 0 if channel.full else READ
        wanted = (wanted | WRITE if channel.unsent else wanted) or WRITE
        if not self._poll.wants(channel.fileno(), wanted):
            ready = self._ready(channel)
            self._poll.want(channel.fileno(), wanted, ready, functools.partial(self._mute, channel))

    def _ready(self, channel: Channel) -> Callable[[int, int], None]:
        return functools.partial(self._channel_ready, channel)

    def _mute(self, channel: Channel, error: Exception) -> None:
        """A channel can't be polled, or read: where the machine is short of something, it is tried again."""
        if shortage(error):
            self.unheard = True
        elif not channel.whole:  # of the host's own nothing but its end is one
            self._owner.lost(channel)

    def _listen_to_journal(self) -> None:
        journal = self._recording.channel.fileno() if self._recording.channel is not None else -1
        if journal != self._journal and self._journal >= 0:
            self._poll.drop(self._journal)
        self._journal = journal
        wanted = READ | (WRITE if self._recording.unsent else 0)
        if journal >= 0 and not self._poll.wants(journal, wanted):
            self._poll.want(journal, wanted, self._journal_ready, self._mute_journal)

    def _journal_ready(self, _: int, events: int) -> None:
        self._recording.ready(readable=bool(events & READ))

    def _mute_journal(self, error: Exception) -> None:
        if shortage(error):
            self.unheard = True
        else:
            self._recording.lose(typed(error).message)

    def _channel_ready(self, channel: Channel, _: int, events: int) -> None:
        try:
            if events & WRITE:
                channel.flush()
            request = channel.receive() if events & READ else None
        except ChannelClosedError:
            self._owner.lost(channel)
            return
        if request is not None:
            self._owner.respond(channel, request)
