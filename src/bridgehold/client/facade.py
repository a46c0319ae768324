"""What makes the synchronous facade: a loop on a thread, and methods that wait for another's."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

A = TypeVar("A")
P = ParamSpec("P")
S = TypeVar("S")
T = TypeVar("T")
_LAST_SECONDS = 5.0
"""For what is still under way when a loop is closed: its last words."""


class Loop:
    """An event loop on a daemon thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._closing = False
        self._thread = threading.Thread(target=self._turn, name="bridgehold", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """What `work` gives, once it is done."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:  # its own failure, or what a signal's handler raised: nobody waits any more
            future.cancel()
            raise

    def close(self) -> None:
        """End the loop and its thread."""
        self._closing = True
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _turn(self) -> None:
        while not self._closing:
            try:
                self._loop.run_forever()
            except (SystemExit, KeyboardInterrupt):
                """Raised by code of the caller's; its task has it, and who waits is told by the next turn."""
        with contextlib.suppress(SystemExit, KeyboardInterrupt):
            self._cancel_all()

    def _cancel_all(self) -> None:
        """Whoever waits was interrupted, and what it waited for lets go of what it holds."""
        left = asyncio.all_tasks(self._loop)
        for task in left:
            task.cancel()
        if left:
            self._loop.run_until_complete(asyncio.wait(left, timeout=_LAST_SECONDS))


class Facade(Generic[A]):
    """`awaited`, whose coroutines run in `loop`."""

    def __init__(self, loop: Loop, awaited: A) -> None:
        self._loop = loop
        self._awaited = awaited


def waited(
    method: Callable[Concatenate[A, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Facade[A], P], T]:
    """`method` of what the facade is of, or what its own class makes of it, waited for."""

    @functools.wraps(method)
    def wait(self: Facade[A], /, *args: P.args, **kwargs: P.kwargs) -> T:
        work: Coroutine[Any, Any, T] = getattr(self._awaited, method.__name__)(*args, **kwargs)
        return self._loop.run(work)

    return wait


def entered(
    method: Callable[Concatenate[A, P], contextlib.AbstractAsyncContextManager[S]],
    make: Callable[[Loop, S], T],
) -> Callable[Concatenate[Facade[A], P], contextlib.AbstractContextManager[T]]:
    """As `waited`, of what is a block: it gives what `make` makes of the block's own."""

    @contextlib.contextmanager
    def block(self: Facade[A], /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        manager = getattr(self._awaited, method.__name__)(*args, **kwargs)
        inner = self._loop.run(manager.__aenter__())
        try:
            yield make(self._loop, inner)
        finally:
            self._loop.run(_left(manager))

    functools.update_wrapper(block, method)
    return block


def each(loop: Loop, items: AsyncIterator[T]) -> Iterator[T]:
    """One after the other, each waited for."""
    try:
        while (item := loop.run(_next(items))) is not None:
            yield item
    finally:
        loop.run(_closed(items))


async def _next(events: AsyncIterator[T]) -> T | None:
    return await anext(events, None)


async def _left(manager: contextlib.AbstractAsyncContextManager[Any]) -> None:
    await manager.__aexit__(None, None, None)


async def _closed(events: AsyncIterator[Any]) -> None:
    if isinstance(events, AsyncGenerator):
        await events.aclose()
