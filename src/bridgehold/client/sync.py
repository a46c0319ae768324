"""The synchronous facade: the same methods as `Client`, for callers without an event loop.

One background thread runs the loop; every call waits for its coroutine. Safe from any thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from bridgehold.client.adapter import Adapter
from bridgehold.client.client import RECONNECT_SECONDS, Client, Host
from bridgehold.client.connection import Progress
from bridgehold.client.session import ClientSession
from bridgehold.client.tools import Tools
from bridgehold.config.layout import Layout
from bridgehold.ids import ANONYMOUS_SESSION, LOCAL_TENANT
from bridgehold.protocol.values import Artifact, Reply, ResourceRef, SessionInfo

if TYPE_CHECKING:
    from bridgehold.protocol.submissions import Submission

T = TypeVar("T")


class _Loop:
    """An event loop on a daemon thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="bridgehold", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:  # its own failure, or what a signal's handler raised: nobody waits any more
            future.cancel()
            raise

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class SyncClient:
    """A client of the running host, or (`open`) of a private one. Use it as a context manager."""

    def __init__(self, loop: _Loop, client: Client, stack: contextlib.AsyncExitStack) -> None:
        self._loop = loop
        self._client = client
        self._stack = stack

    @classmethod
    def connect(
        cls,
        socket_path: Path | str | None = None,
        *,
        token: str = "",
        reconnect_s: float = RECONNECT_SECONDS,
    ) -> Self:
        """As `Client.connect`."""
        return cls._enter(
            lambda stack: stack.enter_async_context(
                Client.connect(socket_path, token=token, reconnect_s=reconnect_s)
            )
        )

    @property
    def alive(self) -> bool:
        """As `Client.alive`."""
        return self._client.alive

    @property
    def on_build(self) -> Progress | None:
        """As `Client.on_build`; called on the client's own thread."""
        return self._client.on_build

    @on_build.setter
    def on_build(self, told: Progress | None) -> None:
        self._client.on_build = told

    @classmethod
    def open(cls, layout: Layout | None = None) -> Self:
        """Use the host that runs on `layout`, or start a private one until `close`."""
        return cls._enter(lambda stack: stack.enter_async_context(Host.open(layout)))

    @classmethod
    def of(cls, opener: contextlib.AbstractAsyncContextManager[Client]) -> Self:
        """Of any client that `opener` opens: ``SyncClient.of(FakeHost("talk.jsonl"))``."""
        return cls._enter(lambda stack: stack.enter_async_context(opener))

    @classmethod
    def _enter(cls, enter: Any) -> Self:
        loop = _Loop()
        stack = contextlib.AsyncExitStack()
        try:
            return cls(loop, loop.run(enter(stack)), stack)
        except BaseException:
            loop.close()
            raise

    def close(self) -> None:
        """End the connection, and a private host with it."""
        self.__exit__(None, None, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._loop.run(_unwound(self._stack, kind, error, trace))
        finally:
            self._loop.close()

    def request(
        self, method: str, params: dict[str, Any] | None = None, on_event: Progress | None = None
    ) -> Any:
        """As `Client.request`; `on_event` is called on the client's own thread."""
        return self._loop.run(self._client.request(method, params or {}, on_event))

    def call(
        self,
        operation: str,
        arguments: dict[str, Any] | None = None,
        *,
        session: str = ANONYMOUS_SESSION,
        tenant: str = LOCAL_TENANT,
        deadline_ms: int = 0,
        on_event: Progress | None = None,
        tools: Tools = (),
    ) -> Reply:
        """As `Client.call`; `on_event` is called on the client's own thread."""
        work = self._client.call(
            operation,
            arguments,
            session=session,
            tenant=tenant,
            deadline_ms=deadline_ms,
            on_event=on_event,
            tools=tools,
        )
        return self._loop.run(work)

    def run(
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
        """As `Client.run`."""
        return self._loop.run(
            self._client.run(
                operation,
                arguments,
                session=session,
                tenant=tenant,
                deadline_ms=deadline_ms,
                tools=tools,
                retries=retries,
                repeatable=repeatable,
            )
        )

    @contextlib.contextmanager
    def session(
        self, bridge: str, *, tenant: str = LOCAL_TENANT, name: str = "", tools: Tools = ()
    ) -> Iterator[SyncSession]:
        """A session of its own, ended with the block. `tools`: offered to each of its commands."""
        manager = self._client.session(bridge, tenant=tenant, name=name, tools=tools)
        session = self._loop.run(manager.__aenter__())
        try:
            yield SyncSession(self._loop, session)
        finally:
            self._loop.run(_leave(manager))

    @contextlib.contextmanager
    def through(
        self, wrap: Callable[[Client], contextlib.AbstractAsyncContextManager[Client]]
    ) -> Iterator[Self]:
        """The same client behind another: ``client.through(lambda c: record(c, "talk.jsonl"))``."""
        stack = contextlib.AsyncExitStack()
        wrapped = self._loop.run(stack.enter_async_context(wrap(self._client)))
        try:
            yield type(self)(self._loop, wrapped, contextlib.AsyncExitStack())
        except BaseException as error:
            self._loop.run(_unwound(stack, type(error), error, error.__traceback__))
            raise
        self._loop.run(stack.aclose())

    def put(
        self, data: bytes | Path, *, name: str = "", media_type: str = "", tenant: str = LOCAL_TENANT
    ) -> Artifact:
        """As `Client.put`."""
        return self._loop.run(self._client.put(data, name=name, media_type=media_type, tenant=tenant))

    def get(self, digest: str, *, tenant: str = LOCAL_TENANT, to: Path | None = None) -> bytes:
        """As `Client.get`."""
        return self._loop.run(self._client.get(digest, tenant=tenant, to=to))

    def files(self, *, tenant: str = LOCAL_TENANT) -> list[Artifact]:
        """As `Client.files`."""
        return self._loop.run(self._client.files(tenant=tenant))

    def remove(self, digest: str, *, tenant: str = LOCAL_TENANT) -> None:
        """As `Client.remove`."""
        self._loop.run(self._client.remove(digest, tenant=tenant))

    def submit(self, source: Path, *, tenant: str = LOCAL_TENANT) -> Submission:
        """As `Client.submit`."""
        return self._loop.run(self._client.submit(source, tenant=tenant))

    def submissions(self, *, tenant: str | None = None) -> list[Submission]:
        """As `Client.submissions`."""
        return self._loop.run(self._client.submissions(tenant=tenant))

    def create_resource(
        self,
        kind: str,
        arguments: dict[str, Any] | None = None,
        *,
        bridge: str = "",
        session: str = ANONYMOUS_SESSION,
        tenant: str = LOCAL_TENANT,
        operation: str = "",
    ) -> Any:
        """As `Client.create_resource`."""
        return self._loop.run(
            self._client.create_resource(
                kind, arguments, bridge=bridge, session=session, tenant=tenant, operation=operation
            )
        )

    def execute_resource(
        self,
        resource_id: str,
        arguments: dict[str, Any] | None = None,
        *,
        tenant: str = LOCAL_TENANT,
        operation: str = "",
        **where: str,
    ) -> Any:
        """As `Client.execute_resource`."""
        return self._loop.run(
            self._client.execute_resource(resource_id, arguments, tenant=tenant, operation=operation, **where)
        )

    def delete_resource(
        self, resource_id: str, *, tenant: str = LOCAL_TENANT, operation: str = "", **where: str
    ) -> Any:
        """As `Client.delete_resource`."""
        return self._loop.run(
            self._client.delete_resource(resource_id, tenant=tenant, operation=operation, **where)
        )

    def list_resources(self, *, tenant: str = LOCAL_TENANT, **where: str) -> list[ResourceRef]:
        """As `Client.list_resources`."""
        return self._loop.run(self._client.list_resources(tenant=tenant, **where))

    def describe(self, bridge: str = "", *, tenant: str = LOCAL_TENANT) -> dict[str, Any]:
        """As `Client.describe`."""
        return self._loop.run(self._client.describe(bridge, tenant=tenant))

    def configure(
        self,
        arguments: dict[str, Any],
        *,
        bridge: str = "",
        session: str = ANONYMOUS_SESSION,
        tenant: str = LOCAL_TENANT,
        operation: str = "",
    ) -> Any:
        """As `Client.configure`."""
        return self._loop.run(
            self._client.configure(
                arguments, bridge=bridge, session=session, tenant=tenant, operation=operation
            )
        )

    def get_adapter(
        self, bridge: str = "", *, session: str = ANONYMOUS_SESSION, tenant: str = LOCAL_TENANT
    ) -> SyncAdapter:
        """As `Client.get_adapter`."""
        adapter = self._loop.run(self._client.get_adapter(bridge, session=session, tenant=tenant))
        return SyncAdapter(self._loop, adapter)

    def sessions(self) -> list[SessionInfo]:
        """As `Client.sessions`."""
        return self._loop.run(self._client.sessions())

    def logs(self, session: str) -> str:
        """As `Client.logs`."""
        return self._loop.run(self._client.logs(session))


class SyncAdapter:
    """As `Adapter`: ``adapter.create_program(signature="question -> answer")``."""

    def __init__(self, loop: _Loop, adapter: Adapter) -> None:
        self._loop = loop
        self._adapter = adapter

    def __dir__(self) -> list[str]:
        return dir(self._adapter)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        operation = getattr(self._adapter, name)

        def call(**arguments: Any) -> Any:
            return self._loop.run(operation(**arguments))

        return call


class SyncSession:
    """One session; its operations may be named without their bridge."""

    def __init__(self, loop: _Loop, session: ClientSession) -> None:
        self._loop = loop
        self._session = session

    @property
    def id(self) -> str:
        """Another one after it was lost and made again (`lost`)."""
        return self._session.id

    @property
    def anew(self) -> str:
        """As `ClientSession.anew`."""
        return self._session.anew

    @property
    def lost(self) -> list[str]:
        """As `ClientSession.lost`."""
        return self._session.lost

    def call(
        self,
        operation: str,
        arguments: dict[str, Any] | None = None,
        *,
        deadline_ms: int = 0,
        on_event: Progress | None = None,
    ) -> Reply:
        """As `ClientSession.call`; `on_event` is called on the client's own thread."""
        work = self._session.call(operation, arguments, deadline_ms=deadline_ms, on_event=on_event)
        return self._loop.run(work)

    def run(
        self,
        operation: str,
        arguments: dict[str, Any] | None = None,
        *,
        deadline_ms: int = 0,
        retries: int = 0,
        repeatable: bool = False,
    ) -> Any:
        """As `ClientSession.run`."""
        return self._loop.run(
            self._session.run(
                operation, arguments, deadline_ms=deadline_ms, retries=retries, repeatable=repeatable
            )
        )

    def stream(
        self, operation: str, arguments: dict[str, Any] | None = None, *, deadline_ms: int = 0
    ) -> Iterator[dict[str, Any]]:
        """As `ClientSession.stream`."""
        events = self._session.stream(operation, arguments, deadline_ms=deadline_ms)
        try:
            while (event := self._loop.run(_next(events))) is not None:
                yield event
        finally:
            self._loop.run(_closed(events))

    def logs(self) -> str:
        """As `ClientSession.logs`."""
        return self._loop.run(self._session.logs())

    def put(self, data: bytes | Path, *, name: str = "", media_type: str = "") -> Artifact:
        """As `ClientSession.put`."""
        return self._loop.run(self._session.put(data, name=name, media_type=media_type))

    def get(self, digest: str, *, to: Path | None = None) -> bytes:
        """As `ClientSession.get`."""
        return self._loop.run(self._session.get(digest, to=to))

    def files(self) -> list[Artifact]:
        """As `ClientSession.files`."""
        return self._loop.run(self._session.files())


async def _next(events: AsyncIterator[dict[str, Any]]) -> dict[str, Any] | None:
    return await anext(events, None)


async def _closed(events: AsyncIterator[dict[str, Any]]) -> None:
    if isinstance(events, AsyncGenerator):
        await events.aclose()


async def _unwound(
    stack: contextlib.AsyncExitStack,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
) -> None:
    await stack.__aexit__(kind, error, trace)


async def _leave(manager: contextlib.AbstractAsyncContextManager[Any]) -> None:
    await manager.__aexit__(None, None, None)
