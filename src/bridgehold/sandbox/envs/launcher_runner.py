"""The installer's runner in service: the launcher starts it, ends it, and takes its tree over."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import msgspec

from bridgehold.errors import BridgeholdError
from bridgehold.sandbox.control import LauncherClient
from bridgehold.sandbox.envs.install import InstallExit, InstallOrder
from bridgehold.sandbox.envs.values import GIB, MIB
from bridgehold.sandbox.spec import Paths, installer_spec
from bridgehold.sandbox.values import Resources, SealReport

INSTALLER = Resources(
    memory_bytes=768 * MIB,
    cpu_millis=2_000,
    processes=256,
    open_files=1_024,
    file_size_bytes=4 * GIB,
)
_READ_BYTES = 65_536


class LauncherRunner:
    """`InstallRunner` over a `LauncherClient`. Of `paths` only the system's folders are used."""

    def __init__(self, client: LauncherClient, paths: Paths, resources: Resources = INSTALLER) -> None:
        self._client = client
        self._paths = paths
        self._resources = resources

    async def run(self, order: InstallOrder, log: Callable[[bytes], None]) -> InstallExit:
        spec = installer_spec(
            msgspec.structs.replace(self._paths, python_prefix=order.interpreter_prefix),
            argv=order.argv,
            build=order.build,
            wheels=order.wheels,
            uv=order.uv,
            resources=self._resources,
            bridge=order.bridge,
        )
        launched, descriptors = await self._client.launch(spec)
        os.close(descriptors[0])  # nobody writes to an installer
        pipes = [asyncio.create_task(_drain(descriptor, log)) for descriptor in descriptors[1:]]
        try:
            report = await self._client.exited(launched.worker)
            await asyncio.gather(*pipes)
        except BaseException:
            with contextlib.suppress(BridgeholdError):
                await asyncio.shield(self._client.kill(launched.worker))
            raise
        finally:
            for pipe in pipes:
                pipe.cancel()
            await asyncio.gather(*pipes, return_exceptions=True)
        return InstallExit(cause=report.cause, status=report.status)

    async def seal(self, build: str) -> SealReport:
        return await self._client.seal(build)

    async def discard(self, build: str) -> None:
        """The launcher empties it, whoever owns what is in it; the empty folder is ours to remove."""
        with contextlib.suppress(BridgeholdError):
            await self._client.empty(build)
        _remove_empty(Path(build))


def _remove_empty(build: Path) -> None:
    with contextlib.suppress(OSError):  # what is left is `gc`'s, later
        build.rmdir()


async def _drain(descriptor: int, log: Callable[[bytes], None]) -> None:
    """Feed `log` what comes from a pipe until its end. Owns the descriptor."""
    loop = asyncio.get_running_loop()
    os.set_blocking(descriptor, False)
    ended: asyncio.Future[None] = loop.create_future()

    def read() -> None:
        try:
            data = os.read(descriptor, _READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            log(data)
        elif not ended.done():
            loop.remove_reader(descriptor)
            ended.set_result(None)

    loop.add_reader(descriptor, read)
    try:
        await ended
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
