"""A host that isn't there: a `Client` that answers as a transcript has it, without sandbox or provider."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from bridgehold.client.client import Client
from bridgehold.client.connection import Progress
from bridgehold.errors import BridgeholdError, TranscriptError, from_info
from bridgehold.faces.testing.masking import Masker
from bridgehold.faces.testing.script import Order, Script, difference
from bridgehold.faces.testing.transcript import (
    Answered,
    Ended,
    Exchange,
    Failed,
    ReceivedEvent,
    Stopped,
    load,
)
from bridgehold.protocol.parts import Moved

_Answer = asyncio.Future[dict[str, Any]]


class FakeHost(Client):
    """``async with FakeHost("talk.jsonl") as host``: the methods of `Host` and `Client`, replayed.

    A call that is not the next recorded one raises `TranscriptError` with the difference; recorded calls that
    were not made raise it at the block's end, as does a difference that the caller swallowed. The caller's
    tools are really called, and what they answer must be what was recorded.

    `order` ``any`` takes calls in any order; `pace` 1.0 replays at the recorded speed (0: at once);
    `patience_s` is how long a tool, or a cancel that was recorded, is waited for.
    """

    def __init__(
        self, transcript: Path | str, *, order: Order = "strict", pace: float = 0.0, patience_s: float = 30.0
    ) -> None:
        self._script = Script(load(transcript), order)
        self._masker = Masker()
        self._pace = pace
        self._patience = patience_s
        self._first: BridgeholdError | None = None
        self._answers: dict[tuple[str, int | str], _Answer] = {}

    @property
    def alive(self) -> bool:
        """Always: nothing can close on it."""
        return True

    async def aclose(self) -> None:
        """Nothing is held open."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.check()

    def check(self) -> None:
        """Raise the first difference that was met, or name the recorded calls that were not made."""
        found = self._first or self._script.unused()
        if found is not None:
            raise found

    async def request(
        self,
        method: str,
        params: dict[str, Any],
        on_event: Progress | None = None,
        moved: Moved | None = None,
    ) -> Any:
        """One call, as it was recorded. Raises `TranscriptError` for another."""
        try:
            if method == "tool.reply":
                return self._answered(params)
            params = moved.within(params) if moved is not None else params
            exchange = self._script.take(method, self._masker.params(method, params))
            return await self._play(exchange, on_event)
        except TranscriptError as error:
            self._first = self._first or error
            raise

    async def _play(self, exchange: Exchange, on_event: Progress | None) -> Any:
        command, at = "", 0
        for step in exchange.steps:
            await asyncio.sleep(max(0, step.ms - at) / 1000 * self._pace)
            at = step.ms
            if isinstance(step, ReceivedEvent):
                command = str(step.event.get("command", command))
                if on_event is not None:
                    on_event(msgspec.json.decode(msgspec.json.encode(step.event)))
            elif isinstance(step, Answered):
                await self._compare(exchange, command, step)
            elif isinstance(step, Failed):
                raise from_info(step.error)
            elif isinstance(step, Stopped):
                await asyncio.sleep(self._patience)
                raise TranscriptError(
                    f"{exchange.called.name} was cancelled when it was recorded, and was not now",
                    where=exchange.where,
                )
            elif isinstance(step, Ended):
                return msgspec.json.decode(msgspec.json.encode(step.value))
        raise AssertionError("every exchange has an end")

    async def _compare(self, exchange: Exchange, command: str, recorded: Answered) -> None:
        """Wait for the caller's tool, and hold its answer against the recorded one."""
        try:
            came = await asyncio.wait_for(self._answer(command, recorded.tool_call), self._patience)
        except TimeoutError:
            raise TranscriptError(
                f"a tool of {exchange.called.name} did not answer in {self._patience:g} s",
                where=exchange.where,
            ) from None
        expected = {
            name: value
            for name in ("result", "error")
            if (value := getattr(recorded, name)) is not msgspec.UNSET
        }
        shown = self._masker.answer(came)
        if shown != expected:
            raise TranscriptError(
                f"a tool of {exchange.called.name} answered something else than was recorded\n"
                f"{difference(expected, shown)}",
                where=exchange.where,
            )

    def _answered(self, params: dict[str, Any]) -> dict[str, str]:
        future = self._answer(str(params.get("command")), params["call"])
        if not future.done():
            future.set_result(params)
        return {"status": "ok"}

    def _answer(self, command: str, call: int | str) -> _Answer:
        found = self._answers.get((command, call))
        if found is None:
            found = self._answers[command, call] = asyncio.get_running_loop().create_future()
        return found
