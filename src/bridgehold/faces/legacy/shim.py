"""The relay of one worker that is a script of the caller's own: bytes go through, ids are remembered.

Nothing is decided here. The host reads a copy of every frame, refuses, audits and ends; what is kept
here is which ids wait for an answer, so that each gets one whatever ends first.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from bridgehold.bridges.legacy import messages
from bridgehold.bridges.legacy.bodies import Format, format_of
from bridgehold.bridges.legacy.frames import pack
from bridgehold.client.client import Client
from bridgehold.errors import BridgeholdError
from bridgehold.faces.legacy.bound import BoundSession, End
from bridgehold.faces.legacy.commands import error_text
from bridgehold.faces.legacy.pipes import PipeOut
from bridgehold.faces.legacy.python_argv import Invocation
from bridgehold.faces.legacy.values import Outcome
from bridgehold.protocol.frames import INPUT_CLOSED
from bridgehold.protocol.parts import Moved, bytes_of

_KILLED = 137
_LAST_WORDS_SECONDS, _WRITTEN_SECONDS = 0.5, 0.1


class Shim:
    """A `Taker` of frames, or of pieces of plain input."""

    def __init__(
        self,
        client: Client,
        out: PipeOut,
        err: PipeOut,
        *,
        invocation: Invocation,
        profile: str,
        tenant: str,
        path: tuple[str, ...] = (),
    ) -> None:
        self._client = client
        self._out = out
        self._err = err
        self._protocol = invocation.protocol
        self._waiting: dict[int | str, Format] = {}
        self._input_ended = False
        self.ended: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._ending = "session_ended: the worker is ending"
        params = {
            "bridge": profile,
            "tenant": tenant,
            "kind": invocation.kind,
            "text": invocation.text,
            "args": invocation.args,
            "path": path,
        }
        self._held = BoundSession(client, "foreign.open", params, self._on_event)
        self._held.ended.add_done_callback(lambda ended: self._on_end(ended.result()))

    @property
    def last_words_seconds(self) -> float:
        """Of one that never ran: the first request has not come yet, maybe, and is to be told why.

        Of one that ran: what is written already is read, and told why.
        """
        if not self._held.opened:
            return _LAST_WORDS_SECONDS
        return _WRITTEN_SECONDS if self._protocol else 0.0

    async def take(self, body: bytes) -> None:
        """Send one frame of the caller's to the script.

        A request whose id is waited for already is answered at once.
        """
        identity = messages.read_id(body) if self._protocol else None
        written_in = format_of(body)
        if identity is not None and identity not in self._waiting:
            self._waiting[identity] = written_in
        else:
            identity = None  # somebody else waits for it: an answer of ours would be taken for theirs
        try:
            session = await self._held.id()
            await self._client.request("foreign.send", {"session": session}, moved=Moved("data", body))
        except BridgeholdError as error:
            if not self._protocol or not self._held.alive:
                return  # its end answers whatever waits, and says why
            if identity is not None:
                self._waiting.pop(identity, None)
            self._out.put(pack(messages.failure(identity, error_text(error), written_in)))

    async def finish(self, seconds: float) -> None:
        """With time: the script reads the end of its input, and the host sees it out. Without: it ends."""
        if seconds > 0 and not self._input_ended:
            self._input_ended = True
            with contextlib.suppress(BridgeholdError):
                session = await self._held.id()
                await self._client.request("foreign.eof", {"session": session})
            await asyncio.wait({self._held.ended})
        await self._held.close()
        for identity, written_in in self._waiting.items():
            self._out.put(pack(messages.failure(identity, self._ending, written_in)))
        self._waiting.clear()

    def stop(self, number: int) -> None:
        """A signal: as an interpreter that it ended."""
        self.end(128 + number)

    def end(self, status: int = 0, message: str = "") -> None:
        """The first call decides how the shim ends; later ones change nothing."""
        if not self.ended.done():
            self.ended.set_result(Outcome(status=status, message=message))

    def _on_event(self, event: dict[str, Any]) -> None:
        kind = event.get("type")
        if kind not in {"frame", "out", "err"}:
            return
        data = bytes_of(event["data"])
        if kind == "frame":
            self._waiting.pop(event.get("id", ""), None)
            self._out.put(pack(data))
        else:
            (self._out if kind == "out" else self._err).put(data)

    def _on_end(self, end: End) -> None:
        self._ending = f"{end.code}: {end.reason}"
        if end.cause == "exited" and end.exit >= 0:
            self.end(end.exit)
        elif end.cause == "exited":
            self.end(1, "the script ended with a status that is not known (it was forked)")
        elif end.cause == "signal":
            self.end(128 + end.exit, end.reason if self._protocol else "")
        elif self._input_ended and end.reason.endswith(INPUT_CLOSED):
            self.end(_KILLED, "the script went on after the end of its input, and was ended by force")
        else:
            self.end(end.status, self._ending)
