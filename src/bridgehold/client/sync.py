"""The synchronous facade: the same methods as `Client`, for callers without an event loop.

One background thread runs the loop; every call waits for its coroutine. Safe from any thread.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bridgehold.client.adapter import Adapter
from bridgehold.client.client import RECONNECT_SECONDS, Client, Host
from bridgehold.client.connection import Progress
from bridgehold.client.facade import Facade, Loop, entered, waited
from bridgehold.client.sync_session import SyncSession
from bridgehold.config.layout import Layout
from bridgehold.ids import ANONYMOUS_SESSION, LOCAL_TENANT
from bridgehold.protocol.parts import Moved

__all__ = ["SyncAdapter", "SyncClient", "SyncSession"]


class SyncClient(Facade[Client]):
    """A client of the running host, or (`open`) of a private one. Use it as a context manager.

    Its methods are `Client`'s, waited for; an `on_event` is called on the client's own thread.
    """

    def __init__(self, loop: Loop, client: Client, stack: contextlib.AsyncExitStack) -> None:
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
        loop = Loop()
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
        self,
        method: str,
        params: dict[str, Any] | None = None,
        on_event: Progress | None = None,
        moved: Moved | None = None,
    ) -> Any:
        """As `Client.request`; `on_event` is called on the client's own thread."""
        return self._loop.run(self._awaited.request(method, params or {}, on_event, moved))

    call = waited(Client.call)
    run = waited(Client.run)

    session = entered(Client.session, SyncSession)

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

    put = waited(Client.put)
    get = waited(Client.get)
    files = waited(Client.files)
    remove = waited(Client.remove)
    submit = waited(Client.submit)
    submissions = waited(Client.submissions)
    create_resource = waited(Client.create_resource)
    execute_resource = waited(Client.execute_resource)
    delete_resource = waited(Client.delete_resource)
    list_resources = waited(Client.list_resources)
    describe = waited(Client.describe)
    configure = waited(Client.configure)
    sessions = waited(Client.sessions)
    logs = waited(Client.logs)

    def get_adapter(
        self, bridge: str = "", *, session: str = ANONYMOUS_SESSION, tenant: str = LOCAL_TENANT
    ) -> SyncAdapter:
        """As `Client.get_adapter`."""
        adapter = self._loop.run(self._awaited.get_adapter(bridge, session=session, tenant=tenant))
        return SyncAdapter(self._loop, adapter)


class SyncAdapter(Facade[Adapter]):
    """As `Adapter`: ``adapter.create_program(signature="question -> answer")``."""

    def __dir__(self) -> list[str]:
        return dir(self._awaited)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        operation = getattr(self._awaited, name)

        def call(**arguments: Any) -> Any:
            return self._loop.run(operation(**arguments))

        return call


async def _unwound(
    stack: contextlib.AsyncExitStack,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
) -> None:
    await stack.__aexit__(kind, error, trace)
