"""The kit's servers, each in a thread of its own, for tests that aren't asynchronous."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TypeVar

from bridgehold.bridges.kit.hub import Hub
from bridgehold.bridges.kit.provider import Provider

T = TypeVar("T")


@contextlib.contextmanager
def running(server: AbstractAsyncContextManager[T]) -> Iterator[T]:
    """`server`, from here to the end of the block."""
    loop = asyncio.new_event_loop()
    ready: concurrent.futures.Future[tuple[T, asyncio.Event]] = concurrent.futures.Future()

    async def serve() -> None:
        end = asyncio.Event()
        async with server as opened:
            ready.set_result((opened, end))
            await end.wait()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:  # answers that nobody waits for any more
            task.cancel()
            await asyncio.wait({task})

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
    thread.start()
    opened, end = ready.result(30)
    try:
        yield opened
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join(30)


def running_provider() -> contextlib.AbstractContextManager[Provider]:
    return running(Provider.open())


def running_hub(folder: Path, *, private: bool = True) -> contextlib.AbstractContextManager[Hub]:
    return running(Hub.open(folder, private=private))
