"""One event loop for the whole session.

Clients keep their connections, and those belong to the loop they were opened on. A cancel comes as
an exception out of the running loop: whatever was under way is ended before it goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Iterator
from typing import Any, TypeVar

T = TypeVar("T")


class Loop:
    """One event loop for the session's asynchronous calls, made when the first one comes."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for `work`; its result."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
        task = self._loop.create_task(work)
        try:
            return self._loop.run_until_complete(task)
        except BaseException:
            self._end_all()
            raise

    def iterate(self, items: AsyncGenerator[T, None]) -> Iterator[T]:
        """`items`, one at a time, from code that is no coroutine."""
        try:
            while True:
                try:
                    yield self.run(_next(items))
                except StopAsyncIteration:
                    return
        finally:
            self.run(items.aclose())

    def close(self) -> None:
        """Close the loop, if one was made."""
        if self._loop is not None:
            self._end_all()
            self._loop.close()
            self._loop = None

    def _end_all(self) -> None:
        if self._loop is None or self._loop.is_closed():
            return
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        if tasks:
            self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))


async def _next(items: AsyncGenerator[T, None]) -> T:
    return await items.__anext__()
