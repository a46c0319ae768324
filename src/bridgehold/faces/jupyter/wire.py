"""Jupyter's messages over its five sockets: signed by the key of the connection file, each checked."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import time
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import zmq
import zmq.asyncio
from jupyter_client.session import Session

from bridgehold import reads
from bridgehold.errors import UsageError

_LINGER_MS = 1_000
_MOST_FILE = 64 * 1024
MOST_MESSAGE = 16 * 1024 * 1024
"""Bytes of one part of a message; whoever sends more loses its connection. A cell has 6 MB, escaped."""
_TAKEN_SECONDS, _PAUSE_SECONDS = 10.0, 0.05
"""A front end chooses free ports before its kernel takes them: who has one by then may soon leave it."""

Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Channel = Literal["shell", "control", "stdin"]


class Ports(msgspec.Struct, frozen=True):
    """A connection file. Without a key anybody of this machine could send cells: it has one."""

    ip: Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]
    transport: Literal["tcp", "ipc"]
    key: Annotated[str, msgspec.Meta(min_length=16, max_length=1000)]
    signature_scheme: Literal["hmac-sha256", "hmac-sha384", "hmac-sha512"]
    shell_port: Port
    iopub_port: Port
    stdin_port: Port
    control_port: Port
    hb_port: Port

    def address(self, port: int) -> str:
        """Where a socket listens."""
        return f"{self.transport}://{self.ip}{':' if self.transport == 'tcp' else '-'}{port}"


def read_ports(path: Path) -> Ports:
    """Raises `UsageError`, which tells nothing of the key."""
    data = reads.read_text(path, UsageError, most=_MOST_FILE)
    try:
        return msgspec.convert(reads.parse_json(data, UsageError, str(path)), type=Ports)
    except msgspec.ValidationError as error:
        raise UsageError(f"is no connection file for this kernel: {error}", where=str(path)) from None


class Message(NamedTuple):
    """A message of a front end's: its kind is a ``…_request``, most often."""

    channel: Channel
    kind: str
    content: Any
    header: dict[str, Any]
    identities: list[bytes]


class Wire:
    """The sockets. One task receives from each; sending never waits."""

    def __init__(self, ports: Ports) -> None:
        self._signed = Session(key=ports.key.encode(), signature_scheme=ports.signature_scheme)
        self._context = zmq.asyncio.Context()
        self._iopub = self._bound(zmq.PUB, ports.address(ports.iopub_port))
        self._heart = self._bound(zmq.REP, ports.address(ports.hb_port))
        self._sockets: dict[Channel, zmq.asyncio.Socket] = {
            "shell": self._bound(zmq.ROUTER, ports.address(ports.shell_port)),
            "control": self._bound(zmq.ROUTER, ports.address(ports.control_port)),
            "stdin": self._bound(zmq.ROUTER, ports.address(ports.stdin_port)),
        }

    def _bound(self, kind: int, address: str) -> zmq.asyncio.Socket:
        made = self._context.socket(kind)
        made.linger = _LINGER_MS
        made.maxmsgsize = MOST_MESSAGE  # of any user of this machine, whose signature is looked at later
        made.sndhwm = 0  # what one cell says is bounded; a message that is dropped is missed for ever
        until = time.monotonic() + _TAKEN_SECONDS
        while True:
            try:
                made.bind(address)
            except zmq.ZMQError as error:
                if error.errno == errno.EADDRINUSE and time.monotonic() < until:
                    time.sleep(_PAUSE_SECONDS)
                    continue
                raise UsageError(f"nothing can listen there: {error.strerror}", where=address) from error
            return made

    def close(self) -> None:
        """What was sent goes out first, within a second."""
        self._context.destroy(linger=_LINGER_MS)

    async def beat(self) -> None:
        """Answer that the kernel lives, until cancelled."""
        while True:
            await self._heart.send_multipart(await self._heart.recv_multipart())

    async def receive(self, channel: Channel) -> Message:
        """The next message that is signed as it has to be; others are as if they had never come."""
        while True:
            asked = self._read(channel, await self._sockets[channel].recv_multipart())
            if asked is not None:
                return asked

    def _read(self, channel: Channel, parts: list[bytes]) -> Message | None:
        with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError, IndexError):
            identities, rest = self._signed.feed_identities(parts)
            said = self._signed.deserialize(rest)
            return Message(channel, str(said["msg_type"]), said["content"], said["header"], identities)
        return None

    async def waiting(self, channel: Channel) -> list[Message]:
        """All that has come by now."""
        found = []
        await asyncio.sleep(0)
        while await self._sockets[channel].poll(0):
            asked = self._read(channel, await self._sockets[channel].recv_multipart())
            found += [asked] if asked is not None else []
        return found

    def reply(self, asked: Message, content: dict[str, Any]) -> None:
        """Answer a request where it came from."""
        kind = f"{asked.kind.removesuffix('_request')}_reply"
        socket = self._sockets[asked.channel]
        self._signed.send(socket, kind, content, parent=asked.header, ident=asked.identities)

    def publish(self, kind: str, content: dict[str, Any], asked: Message | None) -> None:
        """Tell every front end, of that request."""
        parent = asked.header if asked is not None else {}
        self._signed.send(self._iopub, kind, content, parent=parent, ident=kind.encode())

    async def ask(self, asked: Message, prompt: str) -> str:
        """A line of input from the front end that sent `asked`; what it said before is dropped."""
        await self.waiting("stdin")
        content = {"prompt": prompt, "password": False}
        socket = self._sockets["stdin"]
        self._signed.send(socket, "input_request", content, parent=asked.header, ident=asked.identities)
        while True:
            said = await self.receive("stdin")
            if said.kind == "input_reply" and said.identities == asked.identities:
                return str(said.content.get("value", ""))
