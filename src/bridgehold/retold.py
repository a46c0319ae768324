"""How the supervisor tells a process that it has started what has changed of its configuration.

Over a pair of datagram sockets of which nobody else ever holds an end: the configuration as a descriptor, as
at the start, beside a number; the answer is that number, and what was wrong with it.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import IO

import msgspec

from bridgehold import handed
from bridgehold.error_info import ErrorInfo
from bridgehold.errors import BridgeholdError, HostUnavailableError, InternalError, from_info

SECONDS = 10.0
"""For the process to take it over."""
LONGEST = 4 * 1024 * 1024
_LONGEST_ANSWER = 64 * 1024


@contextlib.contextmanager
def configuration_file(config: bytes) -> Iterator[IO[bytes]]:
    """A process's configuration travels in an unnamed file, so that argv shows nothing."""
    with tempfile.TemporaryFile() as file:
        file.write(config)
        file.flush()
        file.seek(0)
        yield file


class Teller:
    """The supervisor's end."""

    def __init__(self, name: str, channel: socket.socket) -> None:
        """`name`: of the process at the other end."""
        self._name = name
        channel.setblocking(False)
        self._channel = channel
        self._numbers = itertools.count(1)

    def tell(self, config: bytes) -> None:
        """Have it take over `config`. Raises its typed refusal, `HostUnavailableError` where it is silent."""
        number = b"%d" % next(self._numbers)
        until = time.monotonic() + SECONDS
        with contextlib.suppress(OSError):
            with configuration_file(config) as file:
                socket.send_fds(self._channel, [number], [file.fileno()])
            while (left := until - time.monotonic()) > 0:
                if not select.select([self._channel], [], [], left)[0]:
                    break
                answer = self._channel.recv(_LONGEST_ANSWER)
                to, _, refusal = answer.partition(b" ")
                if to == number:  # one that comes late is no later one's
                    return _raise(refusal)
                if not answer:
                    break
        raise HostUnavailableError(f"the {self._name} does not answer", retry="later")

    def close(self) -> None:
        """Nothing more is told."""
        self._channel.close()


def hear(channel: socket.socket, take: Callable[[bytes], None]) -> bool:
    """Give `take` what has come, and say what it raised; whether there may be more.

    Never waits for anybody: a supervisor that has more to say does not before it is answered.
    """
    try:
        number, given, _ = handed.receive(channel, 64, 1, handed.NOW)
    except BlockingIOError:
        return True
    except OSError:
        return False
    if not given:
        return bool(number)
    refusal = b""
    try:
        with os.fdopen(given[0], "rb") as file:
            take(file.read(LONGEST))
    except BridgeholdError as error:
        refusal = msgspec.json.encode(error.info())
    except (msgspec.MsgspecError, OSError, ValueError) as error:
        refusal = msgspec.json.encode(InternalError(f"it can't be read: {type(error).__name__}").info())
    with contextlib.suppress(OSError):
        channel.send(number + b" " + refusal, socket.MSG_DONTWAIT)
    return True


def _raise(refusal: bytes) -> None:
    if refusal:
        raise from_info(msgspec.json.decode(refusal, type=ErrorInfo))
