"""The Python interface: `Client` talks to a running host, `Host` starts a private one first.

Both have the same methods. Everything here is a client of the host's socket; no bridge, key or
audit record is ever handled in the caller's process.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import msgspec

from bridgehold.client import files
from bridgehold.client.adapter import Adapter
from bridgehold.client.connection import Connection, Opening, Progress, Reach, sorted_out
from bridgehold.client.meant import may_be_a_slip, meant
from bridgehold.client.once import token_of
from bridgehold.client.private import PrivateHost
from bridgehold.client.retry import with_retries
from bridgehold.client.session import ClientSession
from bridgehold.client.session_files import Content
from bridgehold.client.tools import RUNNING_FOR, Tools, named, serve
from bridgehold.config.layout import Layout, default_layout
from bridgehold.errors import (
    BridgeholdError,
    DeniedError,
    HostUnavailableError,
)
from bridgehold.ids import ANONYMOUS_SESSION, LOCAL_TENANT
from bridgehold.protocol.parts import Moved
from bridgehold.protocol.plain import to_plain
from bridgehold.protocol.values import Artifact, Reply, ResourceRef, SessionInfo

if TYPE_CHECKING:
    from bridgehold.protocol.submissions import Submission

RECONNECT_SECONDS = 10.0
"""How long a request looks for a host that has gone away, unless the client says otherwise."""
_CLOSE_SECONDS = 30.0
"""How long the end of a session's block waits for the host, which ends it all the same."""


class Client:
    """A client of a running host: ``async with Client.connect() as client``, or `await` it and close it.

    A host that is restarted is found again: the next request waits for it, for some seconds. Requests that
    were under way when it went fail with `HostUnavailableError`; what belonged to a session of the host that
    is gone fails with `SessionEndedError`, each time. A host that is replaced (`bridgehold restart`) answers
    what it has begun; what it hasn't is sent to the new one, without a word.
    """

    def __init__(self, host: Reach) -> None:
        self._host = host

    @classmethod
    def connect(
        cls,
        socket_path: Path | str | None = None,
        *,
        token: str = "",
        tenant: str = "",
        reconnect_s: float = RECONNECT_SECONDS,
    ) -> Opening[Self]:
        """Connect to the host that listens at `socket_path` (the default layout's, if None).

        `token`: if empty, what the file holds that `BRIDGEHOLD_TOKEN_FILE` names; without either, the uid of
        this process says who asks. `tenant`: the only one that this client is for; with `[host] cells`
        nothing of it passes what other tenants share then. `reconnect_s`: how long a later request looks for
        a host that has gone away; 0: not at all.
        Raises `HostUnavailableError`, `DeniedError` for a token that the host doesn't know.
        """
        path = Path(socket_path) if socket_path is not None else default_layout().socket

        async def reach() -> Connection:
            shown = token or token_of(os.environ)
            connection = await Connection.open(path)
            if shown or tenant:
                said = {"token": shown} | ({"tenant": tenant} if tenant else {})
                try:
                    await connection.request("hello", msgspec.json.encode(said), None)
                except BaseException:
                    await connection.aclose()
                    raise
            return connection

        async def make() -> Self:
            return cls(Reach(await reach(), reach if reconnect_s > 0 else None, reconnect_s))

        return Opening(make)

    @property
    def alive(self) -> bool:
        """Whether the host takes requests on this connection. (A request after that opens another.)"""
        return self._host.alive

    async def aclose(self) -> None:
        """End the connection. Sessions that are still open end with it, unless they have a name."""
        await self._host.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    on_build: Progress | None = None
    """Told while an environment is built that a command or session waits for: `bridge`, `phase`, `done`, …"""

    async def request(
        self,
        method: str,
        params: dict[str, Any],
        on_event: Progress | None = None,
        moved: Moved | None = None,
    ) -> Any:
        """One request of the protocol. Cancelling it cancels it at the host. Raises the typed error.

        `moved`: bytes that belong into `params`, beside them; the answer's may come so, too.
        """
        if (on_build := self.on_build) is not None and method in _MAY_BUILD:
            params, on_event = {**params, "progress": True}, sorted_out(on_build, on_event)
        try:
            return await self._host.request(method, params, _encode_params(params), on_event, moved)
        except DeniedError as error:
            if may_be_a_slip(method, error):
                with contextlib.suppress(BridgeholdError):  # who is nobody here is told no bridges
                    bridges = await self._host.request("bridges", {}, _encode_params({}), None)
                    error.hint = " ".join(filter(None, (meant(params, bridges), error.hint)))
            raise

    async def call(
        self,
        operation: str,
        arguments: dict[str, Any] | None = None,
        *,
        session: str = ANONYMOUS_SESSION,
        tenant: str = LOCAL_TENANT,
        deadline_ms: int = 0,
        on_event: Progress | None = None,
        tools: Tools = (),
        moved: Moved | None = None,
    ) -> Reply:
        """Run ``bridge:operation`` and give the whole `Reply`. `tools`: functions that it may call back."""
        offered = named(tools)
        params = {
            "operation": operation,
            "arguments": arguments or {},
            "session": session,
            "tenant": tenant,
            "deadline_ms": deadline_ms,
            "stream": on_event is not None,
            "tools": [tool.fact for tool in offered.values()],
            "parent": RUNNING_FOR.get(),
        }
        if not offered:
            return msgspec.convert(await self.request("run", params, on_event, moved), type=Reply)
        tasks: set[asyncio.Task[None]] = set()

        def handle_event(event: dict[str, Any]) -> None:
            if event.get("type") == "tool_call":
                tasks.add(asyncio.create_task(serve(offered, event, self.request)))
            elif on_event is not None:
                on_event(event)

        try:
            return msgspec.convert(await self.request("run", params, handle_event, moved), type=Reply)
        finally:
            for task in tasks:
                task.cancel()

    async def run(
        self,
        operation: str,
        arguments: dict[str, Any] | None = None,
        *,
        session: str = ANONYMOUS_SESSION,
        tenant: str = LOCAL_TENANT,
        deadline_ms: int = 0,
        tools: Tools = (),
        retries: int = 0,
        repeatable: bool = False,
    ) -> Any:
        """Run ``bridge:operation`` and give its value.

        `retries`: how often it is tried again where the error says that it may help. `repeatable`: it may
        run twice, so a crash is tried again too.
        """

        def call() -> Awaitable[Reply]:
            return self.call(
                operation, arguments, session=session, tenant=tenant, deadline_ms=deadline_ms, tools=tools
            )

        return (await with_retries(call, retries, repeatable=repeatable)).value

    @contextlib.asynccontextmanager
    async def session(
        self,
        bridge: str,
        *,
        tenant: str = LOCAL_TENANT,
        name: str = "",
        tools: Tools = (),
        files: Mapping[str, Content] | None = None,
        limits: Mapping[str, str | float] | None = None,
        env: Mapping[str, str] | None = None,
        args: Sequence[str] | None = None,
        cwd: str = "",
    ) -> AsyncIterator[ClientSession]:
        """A session of its own, ended with the block. `tools`: offered to each of its commands.

        `files`: put there first, by their paths inside. `limits`: its own, by the policy's keys, at most what
        that gives: ``{"memory": "256MiB", "cpu": 0.5, "idle": "10m"}``. `env`, …: as `ClientSession.place`.
        """
        offered = named(tools)
        params = {"bridge": bridge, "tenant": tenant, "name": name}
        opened = await self.request("session.open", params | ({"limits": dict(limits)} if limits else {}))
        session = ClientSession(self, bridge, tenant, opened["id"], tuple(offered.values()))
        session.anew = opened.get("anew", "")
        try:
            if files:
                await session.files.write_all(files)
            if env or args is not None or cwd:
                await session.place(env=env, args=args, cwd=cwd)
            yield session
        finally:
            if self.alive:  # a host that is gone has closed it
                with contextlib.suppress(BridgeholdError, TimeoutError):
                    async with asyncio.timeout(_CLOSE_SECONDS):
                        await self.request("session.close", {"session": session.id})

    async def put(
        self, data: bytes | Path, *, name: str = "", media_type: str = "", tenant: str = LOCAL_TENANT
    ) -> Artifact:
        """Keep bytes, or a file, for the tenant; found again by their digest."""
        return await files.put(self, data, tenant=tenant, name=name, media_type=media_type)

    async def get(self, digest: str, *, tenant: str = LOCAL_TENANT, to: Path | None = None) -> bytes:
        """An artifact's bytes; with `to` they go into that new file instead."""
        return await files.get(self, digest, tenant=tenant, to=to)

    async def files(self, *, tenant: str = LOCAL_TENANT) -> list[Artifact]:
        """The tenant's artifacts, the newest last."""
        return msgspec.convert(await self.request("artifact.list", {"tenant": tenant}), type=list[Artifact])

    async def remove(self, digest: str, *, tenant: str = LOCAL_TENANT) -> None:
        """Forget an artifact."""
        await self.request("artifact.remove", {"digest": digest, "tenant": tenant})

    async def submit(self, source: Path, *, tenant: str = LOCAL_TENANT) -> Submission:
        """Hand in a bridge of the tenant's own, a folder or a zip of one; it waits for an operator then."""
        from bridgehold.client.submit import packed  # no command that runs pays for it
        from bridgehold.protocol.submissions import Submission

        archive = await self.put(packed(source), name=source.name, tenant=tenant)
        params = {"archive": archive.digest, "tenant": tenant}
        try:
            return msgspec.convert(await self.request("bridge.submit", params), type=Submission)
        except BridgeholdError:
            with contextlib.suppress(BridgeholdError):  # the host let go of it, unless it refused before
                await self.remove(archive.digest, tenant=tenant)
            raise

    async def submissions(self, *, tenant: str | None = None) -> list[Submission]:
        """Bridges that were handed in, of one tenant or of all that one may act for; the newest last."""
        from bridgehold.protocol.submissions import Submission

        return msgspec.convert(
            await self.request("bridge.submissions", {"tenant": tenant}), type=list[Submission]
        )

    # The unified interface: the same verbs for every bridge.

    async def create_resource(
        self,
        kind: str,
        arguments: dict[str, Any] | None = None,
        *,
        bridge: str = "",
        session: str = ANONYMOUS_SESSION,
        tenant: str = LOCAL_TENANT,
        operation: str = "",
    ) -> Any:
        """Make a `kind` (``program``, ``chain``, …) by the bridge's own operation; its result.

        `bridge`: the default one, if left out; `operation`: where the bridge has several that make one.
        """
        where = {"bridge": bridge, "session": session, "tenant": tenant, "operation": operation}
        params = {"kind": kind, "arguments": arguments or {}, **where}
        return (await self.request("resource.create", params))["value"]

    async def execute_resource(
        self,
        /,
        resource_id: str,
        arguments: dict[str, Any] | None = None,
        *,
        tenant: str = LOCAL_TENANT,
        operation: str = "",
        **where: str,
    ) -> Any:
        """Run a resource, wherever it lives. `where`: ``bridge``, ``kind``, ``session``, if ids are alike."""
        params = {"id": resource_id, "arguments": arguments or {}, "tenant": tenant, "operation": operation}
        return (await self.request("resource.execute", {**params, **where}))["value"]

    async def delete_resource(
        self, /, resource_id: str, *, tenant: str = LOCAL_TENANT, operation: str = "", **where: str
    ) -> Any:
        """Forget a resource, wherever it lives. `where`: as in `execute_resource`."""
        params = {"id": resource_id, "tenant": tenant, "operation": operation}
        return (await self.request("resource.delete", {**params, **where}))["value"]

    async def list_resources(self, /, *, tenant: str = LOCAL_TENANT, **where: str) -> list[ResourceRef]:
        """What the tenant's sessions hold. `where`: ``bridge``, ``kind``, ``session``."""
        found = await self.request("resource.list", {"tenant": tenant, **where})
        return msgspec.convert(found, type=list[ResourceRef])

    async def describe(self, bridge: str = "", *, tenant: str = LOCAL_TENANT) -> dict[str, Any]:
        """A bridge's resources and operations with their schemas, and what the tenant is granted."""
        found: dict[str, Any] = await self.request("describe", {"bridge": bridge, "tenant": tenant})
        return found

    async def configure(
        self,
        arguments: dict[str, Any],
        *,
        bridge: str = "",
        session: str = ANONYMOUS_SESSION,
        tenant: str = LOCAL_TENANT,
        operation: str = "",
    ) -> Any:
        """Run the bridge's own configuring operation: its language model, most often."""
        where = {"bridge": bridge, "session": session, "tenant": tenant, "operation": operation}
        return (await self.request("resource.configure", {"arguments": arguments, **where}))["value"]

    async def get_adapter(
        self, bridge: str = "", *, session: str = ANONYMOUS_SESSION, tenant: str = LOCAL_TENANT
    ) -> Adapter:
        """The bridge's operations as methods. `bridgehold bridge adapter NAME` writes a typed class."""
        return Adapter(self, await self.describe(bridge, tenant=tenant), session=session, tenant=tenant)

    async def sessions(self) -> list[SessionInfo]:
        """Those of the tenants that the caller may act for."""
        return msgspec.convert(await self.request("sessions", {}), type=list[SessionInfo])

    async def logs(self, session: str) -> str:
        """What the code in a session (its id or name) has printed, its newest part."""
        return str((await self.request("logs", {"session": session}))["text"])


class Host(Client):
    """A private host with its client: started by `open`, ended once its block has, and all other clients."""

    _private: PrivateHost | None = None

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, layout: Layout | None = None) -> AsyncIterator[Self]:
        """Use the host that runs on `layout`, or start a private one for the length of the block."""
        layout = layout or default_layout()
        async with contextlib.AsyncExitStack() as stack:
            try:
                client = await cls.connect(layout.socket)
            except HostUnavailableError:
                private = await PrivateHost.begin(layout)
                stack.push_async_callback(asyncio.to_thread, private.stop)
                client = await cls.connect(layout.socket, reconnect_s=0)  # nobody starts it again
            stack.push_async_callback(client.aclose)
            yield client


_MAY_BUILD = ("run", "session.open", "session.hold")


def _encode_params(params: dict[str, Any]) -> bytes:
    """A request's parameters; what can't be sent is named as the caller wrote it: ``arguments.data[3]``."""
    return msgspec.json.encode({key: to_plain(value, key) for key, value in params.items()})


def connect(socket_path: Path | str | None = None, *, token: str = "") -> Opening[Client]:
    """A client of the host that is running: awaited, or as a block."""
    return Client.connect(socket_path, token=token)
