"""What a build has of the launcher: it runs compilers, and takes trees over."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import msgspec

from bridgehold.errors import BridgeholdError
from bridgehold.sandbox.envs.compile import CompileExit, CompileOrder, Talk
from bridgehold.sandbox.envs.values import MIB
from bridgehold.sandbox.launcher.control import LauncherClient
from bridgehold.sandbox.spec import Paths, compiler_spec
from bridgehold.sandbox.values import Resources, SealReport

COMPILER = Resources(
    memory_bytes=768 * MIB,
    cpu_millis=2_000,
    processes=8,
    open_files=64,
    file_size_bytes=16 * MIB,
)
_READ_BYTES = 65_536
_LOG_RATE = 4 * MIB
"""Bytes of a log in a second: who writes without end waits, and the host's loop serves others."""


class LauncherRunner:
    """`BuildRunner` over a `LauncherClient`. Of `paths` only the system's folders are used."""

    def __init__(self, client: LauncherClient, paths: Paths, resources: Resources = COMPILER) -> None:
        self._client = client
        self._paths = paths
        self._resources = resources

    async def run(self, order: CompileOrder, talk: Talk, log: Callable[[bytes], None]) -> CompileExit:
        """Run the compiler in a sandbox, talk to it, and wait for its end. Raises `EnvironmentBuildError`.

        What sees a tree is proved first, as a session is: `AttestationError` where it isn't what it must be.
        """
        spec = compiler_spec(
            msgspec.structs.replace(self._paths, python_prefix=order.interpreter_prefix),
            argv=order.argv,
            resources=self._resources,
            bridge=order.bridge,
            tenant=order.tenant,
            tree=order.tree,
        )
        launched, (to, answers, said) = await self._client.launch(spec)
        for descriptor in (to, answers):
            os.set_blocking(descriptor, True)
        ends = os.fdopen(to, "wb"), os.fdopen(answers, "rb", buffering=1 << 16)
        listening, talking = asyncio.create_task(_drain(said, log)), list[asyncio.Task[bytes | None]]()
        try:
            if order.tree:  # wheels' code, which says that it is there, and begins when it is talked to
                talking.append(asyncio.create_task(asyncio.to_thread(ends[1].read, 1)))
                await asyncio.shield(talking[0])
                await self._client.attest(launched.worker)
                await self._client.recorded(launched.worker)
            talking.append(asyncio.create_task(asyncio.to_thread(talk, *ends)))
            await asyncio.shield(talking[-1])
            report = await self._client.exited(launched.worker)
            await listening
        except BaseException:
            with contextlib.suppress(BridgeholdError):
                await asyncio.shield(self._client.kill(launched.worker))
            raise
        finally:
            listening.cancel()
            await asyncio.gather(listening, *talking, return_exceptions=True)
            for end in ends:  # `talk` may not have come to it
                with contextlib.suppress(OSError):
                    end.close()
        return CompileExit(cause=report.cause, status=report.status)

    async def seal(self, build: str) -> SealReport:
        """Have the launcher make the tree below `build` unchangeable."""
        return await self._client.seal(build)

    async def discard(self, build: str) -> str:
        """The launcher empties it, whoever owns what is in it; the empty folder is ours to remove."""
        why = ""
        try:
            await self._client.empty(build)
        except BridgeholdError as error:
            why = error.message
        stays = _remove_empty(Path(build))
        return stays and (why or stays)


def _remove_empty(build: Path) -> str:
    try:
        build.rmdir()
    except FileNotFoundError:
        return ""
    except OSError as error:  # what is left is `gc`'s, later
        return error.strerror or str(error)
    return ""


async def _drain(descriptor: int, log: Callable[[bytes], None]) -> None:
    """Feed `log` what comes from a pipe until its end, no faster than `_LOG_RATE`. Owns the descriptor."""
    os.set_blocking(descriptor, False)
    try:
        while data := await _piece(descriptor):
            log(data)
            await asyncio.sleep(len(data) / _LOG_RATE)
    finally:
        os.close(descriptor)


async def _piece(descriptor: int) -> bytes:
    loop, there = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(descriptor, there.set)
    try:
        while True:
            await there.wait()
            with contextlib.suppress(BlockingIOError):
                return os.read(descriptor, _READ_BYTES)
            there.clear()
    except OSError:
        return b""
    finally:
        loop.remove_reader(descriptor)
