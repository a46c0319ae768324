"""One session, from the caller's side."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from bridgehold.client.connection import Progress
from bridgehold.client.execution import Ask, arguments_of, placed, value_of
from bridgehold.client.processes import Programs
from bridgehold.client.retry import with_retries
from bridgehold.client.session_files import SessionFiles
from bridgehold.client.tools import RUNNING_FOR, Tool, Tools
from bridgehold.protocol.parts import Moved
from bridgehold.protocol.values import QUEUE_BOUND, Artifact, Reply


class Asks(Protocol):
    """What a session asks of its client."""

    async def call(
        self,
        operation: str,
        arguments: dict[str, Any] | None = None,
        *,
        session: str = ...,
        tenant: str = ...,
        deadline_ms: int = 0,
        on_event: Progress | None = None,
        tools: Tools = (),
        moved: Moved | None = None,
    ) -> Reply:
        """Run a command; see `Client.call`."""

    async def request(self, method: str, params: dict[str, Any]) -> Any:
        """A request of the protocol; see `Client.request`."""

    async def logs(self, session: str) -> str:
        """The session's log; see `Client.logs`."""

    async def put(
        self, data: bytes | Path, *, name: str = "", media_type: str = "", tenant: str = ...
    ) -> Artifact:
        """Keep bytes or a file as an artifact; see `Client.put`."""

    async def get(self, digest: str, *, tenant: str = ..., to: Path | None = None) -> bytes:
        """An artifact's bytes; see `Client.get`."""

    async def files(self, *, tenant: str = ...) -> list[Artifact]:
        """The tenant's artifacts; see `Client.files`."""


class ClientSession(Programs):
    """One session, from the caller's side: operations may be named without their bridge."""

    def __init__(
        self, client: Asks, bridge: str, tenant: str, session_id: str, tools: tuple[Tool, ...] = ()
    ) -> None:
        self._tools = tools
        self._client = client
        self.bridge = bridge
        self.tenant = tenant
        self.id = session_id
        self._room = asyncio.Semaphore(QUEUE_BOUND)
        self.anew = ""
        """As `Reply.anew`, where its name had another session before it was opened here."""
        self.lost: list[str] = []
        """Ids that it had before: each was lost with its worker, and what it held was made again."""

    async def call(
        self,
        operation: str,
        arguments: dict[str, Any] | None = None,
        *,
        deadline_ms: int = 0,
        on_event: Progress | None = None,
        tools: tuple[Tool, ...] = (),
        moved: Moved | None = None,
    ) -> Reply:
        """Run the operation and give the whole `Reply`. `on_event` gets chunks and progress as they come.

        However many are called at once: what the host would refuse as one too many waits here.
        """
        if RUNNING_FOR.get():  # from a tool of a command of ours, which has its place already
            return await self._call(operation, arguments, deadline_ms, on_event, tools, moved)
        async with self._room:
            return await self._call(operation, arguments, deadline_ms, on_event, tools, moved)

    async def _call(
        self,
        operation: str,
        arguments: dict[str, Any] | None,
        deadline_ms: int,
        on_event: Progress | None,
        tools: tuple[Tool, ...],
        moved: Moved | None = None,
    ) -> Reply:
        reply = await self._client.call(
            self._full(operation),
            arguments,
            session=self.id,
            tenant=self.tenant,
            deadline_ms=deadline_ms,
            on_event=on_event,
            tools=(*self._tools, *tools),
            moved=moved,
        )
        if reply.session != self.id:
            self.lost.append(self.id)
            self.id = reply.session
        return reply

    async def run(
        self,
        operation: str,
        arguments: dict[str, Any] | None = None,
        *,
        deadline_ms: int = 0,
        retries: int = 0,
        repeatable: bool = False,
    ) -> Any:
        """Its value; `retries` and `repeatable` as in `Client.run`."""

        def call() -> Awaitable[Reply]:
            return self.call(operation, arguments, deadline_ms=deadline_ms)

        return (await with_retries(call, retries, repeatable=repeatable)).value

    async def execute(
        self,
        code: str,
        *,
        variables: Mapping[str, Any] | None = None,
        returns: tuple[str, ...] = (),
        stdin: str | Ask | None = None,
        env: Mapping[str, str] | None = None,
        args: Sequence[str] | None = None,
        cwd: str = "",
        context: str = "",
        deadline_ms: int = 0,
        on_event: Progress | None = None,
    ) -> Any:
        """Run code (`python:execute`) and give its result, an object.

        `variables`: names that are set before, with Python's own values: infinity, bytes, dates and frames
        are some. `returns`: names whose values come back as ``variables``. `stdin`: all of its input, or a
        function that gives a line for a prompt, None for no more. `env`, `args` and `cwd`: as `place`, for
        this command alone. `context`: in which of the session's namespaces.
        """
        arguments, tools = arguments_of(code, variables, returns, stdin)
        arguments |= placed(env, args, cwd) | ({"context": context} if context else {})
        reply = await self.call("execute", arguments, deadline_ms=deadline_ms, on_event=on_event, tools=tools)
        return value_of(reply.value)

    async def place(
        self,
        *,
        env: Mapping[str, str] | None = None,
        args: Sequence[str] | None = None,
        cwd: str = "",
    ) -> dict[str, Any]:
        """Variables (none with a key's name), ``sys.argv[1:]`` and working folder of all that follows."""
        said: dict[str, Any] = await self.run("place", placed(env, args, cwd))
        return said

    async def create_context(self, context: str, *, cwd: str = "") -> None:
        """Another namespace over the session's files, for `context=` of `execute` and its kin."""
        await self.run("context_create", {"context": context} | ({"cwd": cwd} if cwd else {}))

    async def contexts(self) -> list[dict[str, Any]]:
        """The session's namespaces: ``context``, ``count`` of commands, and of ``names``."""
        said: list[dict[str, Any]] = (await self.run("context_list"))["contexts"]
        return said

    async def drop_context(self, context: str) -> None:
        """Forget a namespace."""
        await self.run("context_drop", {"context": context})

    async def extend(self, *, session: str = "", idle: str = "") -> dict[str, Any]:
        """Let it live so long from now on (``"10m"``), or without a command: up to what the policy gives.

        What it has already it keeps. Gives ``left_ms`` and ``idle_ms``; raises `DeniedError` with the key.
        """
        limits = {name: value for name, value in (("session", session), ("idle", idle)) if value}
        said: dict[str, Any] = await self._client.request(
            "session.extend", {"session": self.id, "limits": limits}
        )
        return said

    async def stream(
        self, operation: str, arguments: dict[str, Any] | None = None, *, deadline_ms: int = 0
    ) -> AsyncIterator[dict[str, Any]]:
        """Chunks and progress as they come, then ``{"type": "result", "value": …}``."""
        queue: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        work = asyncio.ensure_future(
            self.call(operation, arguments, deadline_ms=deadline_ms, on_event=queue.put_nowait)
        )
        work.add_done_callback(lambda _: queue.put_nowait(None))
        try:
            while (event := await queue.get()) is not None:
                yield event
            yield {"type": "result", "value": (await work).value}
        finally:
            work.cancel()

    async def logs(self) -> str:
        """What the code in it has printed, its newest part."""
        return await self._client.logs(self.id)

    async def put(self, data: bytes | Path, *, name: str = "", media_type: str = "") -> Artifact:
        """As `Client.put`, for the session's tenant."""
        return await self._client.put(data, name=name, media_type=media_type, tenant=self.tenant)

    async def get(self, digest: str, *, to: Path | None = None) -> bytes:
        """As `Client.get`, for the session's tenant."""
        return await self._client.get(digest, tenant=self.tenant, to=to)

    async def artifacts(self) -> list[Artifact]:
        """As `Client.files`, for the session's tenant."""
        return await self._client.files(tenant=self.tenant)

    @property
    def files(self) -> SessionFiles:
        """The session's own files; called, the artifacts of its tenant."""
        return SessionFiles(self)

    def _full(self, operation: str) -> str:
        return operation if ":" in operation else f"{self.bridge}:{operation}"
