"""The synchronous facade: the same methods as `Client`, for callers without an event loop.

One background thread runs the loop; every call waits for its coroutine. Safe from any thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar

from bridgehold.client.adapter import Adapter
from bridgehold.client.client import RECONNECT_SECONDS, Client, Host
from bridgehold.client.connection import Progress
from bridgehold.client.session import ClientSession
from bridgehold.client.session_files import MOST_READ, Content, SessionFiles
from bridgehold.client.tools import Tools
from bridgehold.config.layout import Layout
from bridgehold.ids import ANONYMOUS_SESSION, LOCAL_TENANT
from bridgehold.protocol.values import Artifact

Artifacts = list[Artifact]
A = TypeVar("A")
P = ParamSpec("P")
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


class _Facade(Generic[A]):
    """`awaited`, whose coroutines run in `loop`."""

    def __init__(self, loop: _Loop, awaited: A) -> None:
        self._loop = loop
        self._awaited = awaited


def _waited(
    method: Callable[Concatenate[A, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[_Facade[A], P], T]:
    """`method` of what the facade is of, or what its own class makes of it, waited for."""

    @functools.wraps(method)
    def wait(self: _Facade[A], /, *args: P.args, **kwargs: P.kwargs) -> T:
        work: Coroutine[Any, Any, T] = getattr(self._awaited, method.__name__)(*args, **kwargs)
        return self._loop.run(work)

    return wait


class SyncClient(_Facade[Client]):
    """A client of the running host, or (`open`) of a private one. Use it as a context manager.

    Its methods are `Client`'s, waited for; an `on_event` is called on the client's own thread.
    """

    def __init__(self, loop: _Loop, client: Client, stack: contextlib.AsyncExitStack) -> None:
        super().__init__(loop, client)
        self._stack = stack

    @classmethod
    def connect(
        cls,
        socket_path: Path | str | None = None,
        *,
        token: str = "",
        tenant: str = "",
        reconnect_s: float = RECONNECT_SECONDS,
    ) -> Self:
        """As `Client.connect`."""
        return cls._enter(
            lambda stack: stack.enter_async_context(
                Client.connect(socket_path, token=token, tenant=tenant, reconnect_s=reconnect_s)
            )
        )

    @property
    def alive(self) -> bool:
        """As `Client.alive`."""
        return self._awaited.alive

    @property
    def on_build(self) -> Progress | None:
        """As `Client.on_build`; called on the client's own thread."""
        return self._awaited.on_build

    @on_build.setter
    def on_build(self, told: Progress | None) -> None:
        self._awaited.on_build = told

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
        return self._loop.run(self._awaited.request(method, params or {}, on_event))

    call = _waited(Client.call)
    run = _waited(Client.run)

    @contextlib.contextmanager
    def session(
        self,
        bridge: str,
        *,
        tenant: str = LOCAL_TENANT,
        name: str = "",
        tools: Tools = (),
        files: Mapping[str, Content] | None = None,
    ) -> Iterator[SyncSession]:
        """As `Client.session`: one of its own, ended with the block."""
        manager = self._awaited.session(bridge, tenant=tenant, name=name, tools=tools, files=files)
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
        wrapped = self._loop.run(stack.enter_async_context(wrap(self._awaited)))
        try:
            yield type(self)(self._loop, wrapped, contextlib.AsyncExitStack())
        except BaseException as error:
            self._loop.run(_unwound(stack, type(error), error, error.__traceback__))
            raise
        self._loop.run(stack.aclose())

    put = _waited(Client.put)
    get = _waited(Client.get)
    files = _waited(Client.files)
    remove = _waited(Client.remove)
    submit = _waited(Client.submit)
    submissions = _waited(Client.submissions)
    create_resource = _waited(Client.create_resource)
    execute_resource = _waited(Client.execute_resource)
    delete_resource = _waited(Client.delete_resource)
    list_resources = _waited(Client.list_resources)
    describe = _waited(Client.describe)
    configure = _waited(Client.configure)
    sessions = _waited(Client.sessions)
    logs = _waited(Client.logs)

    def get_adapter(
        self, bridge: str = "", *, session: str = ANONYMOUS_SESSION, tenant: str = LOCAL_TENANT
    ) -> SyncAdapter:
        """As `Client.get_adapter`."""
        adapter = self._loop.run(self._awaited.get_adapter(bridge, session=session, tenant=tenant))
        return SyncAdapter(self._loop, adapter)


class SyncAdapter(_Facade[Adapter]):
    """As `Adapter`: ``adapter.create_program(signature="question -> answer")``."""

    def __dir__(self) -> list[str]:
        return dir(self._awaited)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        operation = getattr(self._awaited, name)

        def call(**arguments: Any) -> Any:
            return self._loop.run(operation(**arguments))

        return call


class SyncSession(_Facade[ClientSession]):
    """One session; its operations may be named without their bridge.

    Its methods are `ClientSession`'s, waited for; an `on_event` is called on the client's own thread.
    """

    call = _waited(ClientSession.call)
    run = _waited(ClientSession.run)
    execute = _waited(ClientSession.execute)
    logs = _waited(ClientSession.logs)
    put = _waited(ClientSession.put)
    get = _waited(ClientSession.get)
    artifacts = _waited(ClientSession.artifacts)

    @property
    def files(self) -> SyncFiles:
        """As `ClientSession.files`."""
        return SyncFiles(self._loop, self._awaited.files)

    @property
    def id(self) -> str:
        """Another one after it was lost and made again (`lost`)."""
        return self._awaited.id

    @property
    def anew(self) -> str:
        """As `ClientSession.anew`."""
        return self._awaited.anew

    @property
    def lost(self) -> list[str]:
        """As `ClientSession.lost`."""
        return self._awaited.lost

    def stream(
        self, operation: str, arguments: dict[str, Any] | None = None, *, deadline_ms: int = 0
    ) -> Iterator[dict[str, Any]]:
        """As `ClientSession.stream`."""
        events = self._awaited.stream(operation, arguments, deadline_ms=deadline_ms)
        try:
            while (event := self._loop.run(_next(events))) is not None:
                yield event
        finally:
            self._loop.run(_closed(events))


class SyncFiles(_Facade[SessionFiles]):
    """`session.files`: `SessionFiles`, whose methods are waited for."""

    stat = _waited(SessionFiles.stat)
    list = _waited(SessionFiles.list)
    read = _waited(SessionFiles.read)
    write = _waited(SessionFiles.write)
    write_all = _waited(SessionFiles.write_all)
    mkdir = _waited(SessionFiles.mkdir)
    rename = _waited(SessionFiles.rename)
    remove = _waited(SessionFiles.remove)
    put = _waited(SessionFiles.put)
    get = _waited(SessionFiles.get)

    def __call__(self) -> Artifacts:
        """As `SessionFiles.__call__`."""
        return self._loop.run(self._awaited())

    def parts(self, path: str, *, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """As `SessionFiles.parts`."""
        yield from self._each(self._awaited.parts(path, offset=offset, length=length))

    def folder(self, path: str = "", *, most_bytes: int = MOST_READ) -> Iterator[tuple[str, bytes]]:
        """As `SessionFiles.folder`."""
        yield from self._each(self._awaited.folder(path, most_bytes=most_bytes))

    def _each(self, items: AsyncIterator[T]) -> Iterator[T]:
        try:
            while (item := self._loop.run(_next(items))) is not None:
                yield item
        finally:
            self._loop.run(_closed(items))


async def _next(events: AsyncIterator[T]) -> T | None:
    return await anext(events, None)


async def _closed(events: AsyncIterator[Any]) -> None:
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
