"""The page's places, and users of the machine who were not let in."""

from __future__ import annotations

import asyncio
import contextlib

from review.conftest import Shown
from review.review_support import reading
from waiting import eventually


def test_who_is_not_let_in_holds_no_place(shown: Shown) -> None:
    """A form that is never sent to its end, as often as there are places: the reader is served all the same."""

    async def act() -> None:
        async with reading(shown.audit, shown.cache) as reader, contextlib.AsyncExitStack() as stack:
            address, _, port = reader.base.removeprefix("http://").rpartition(":")
            form = f"POST /enter HTTP/1.1\r\nHost: {address}:{port}\r\nContent-Length: 9\r\n"
            form += "Content-Type: application/x-www-form-urlencoded\r\n\r\nt"
            server = reader.app.server
            assert server is not None
            for count in range(1, 65):
                _, writer = await asyncio.open_connection(address, int(port))
                stack.callback(writer.close)
                writer.write(form.encode())
                await eventually(lambda count=count: server.open_connections >= min(count + 1, 64))  # type: ignore[misc]  # bound now
            async with asyncio.timeout(30):
                for _ in range(3):
                    assert (await reader.get("/trust", Connection="close"))[0] == 200

    asyncio.run(act())
