"""The host's side of the fetcher process: start it clean, read its lines, bound everything."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Coroutine

import msgspec

from bridgehold.errors import EnvironmentBuildError, from_info
from bridgehold.sandbox.envs.values import BuildProgress, FetchLine, FetchRequest, FetchResult, Wheel

_PASSED = (
    "PYTHONPATH",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY",
    "http_proxy", "https_proxy", "no_proxy", "all_proxy",
)  # fmt: skip
_MAX_LINE = 4 * 1024 * 1024
_MAX_STDERR = 8 * 1024


def clean_environment(environ: dict[str, str]) -> dict[str, str]:
    """Proxies and our own import path of `environ`: no key, no home whose .netrc could be read (pure)."""
    passed = {name: environ[name] for name in _PASSED if name in environ}
    return {**passed, "PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "LANG": "C.UTF-8"}


async def fetch(
    request: FetchRequest,
    on_progress: Callable[[BuildProgress], None],
    on_wheel: Callable[[Wheel], None] = lambda _: None,
) -> FetchResult:
    """Bring every wheel of `request`; `on_wheel` is told each that is there, the large ones last.

    Raises `EnvironmentBuildError`; ends the process if cancelled.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",  # no script folder; our own PYTHONPATH, if any, is how this package is found
        "-s",
        "-m",
        "bridgehold.sandbox.envs.fetch",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=clean_environment(dict(os.environ)),
        limit=_MAX_LINE,
    )
    stdin, stdout, stderr = process.stdin, process.stdout, process.stderr
    if stdin is None or stdout is None or stderr is None:
        raise EnvironmentBuildError("the fetcher has no pipes")
    trouble, files = asyncio.create_task(_tail(stderr)), False
    try:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            stdin.write(msgspec.json.encode(request))
            await stdin.drain()
            stdin.close()
        async with asyncio.timeout(request.limits.resolve_seconds) as within:

            def told(progress: BuildProgress) -> None:
                nonlocal files
                if progress.phase == "fetch" and not files:
                    files = True
                    within.reschedule(asyncio.get_running_loop().time() + request.limits.seconds)
                on_progress(progress)

            result = await _read(stdout, told, on_wheel)
            await process.wait()
    except TimeoutError as error:
        seconds = request.limits.seconds if files else request.limits.resolve_seconds
        raise EnvironmentBuildError(
            f"{'fetching' if files else 'asking the indexes'} took longer than {seconds:g} s",
            retry="later",
            hint="Look at the network and at the index. What was fetched whole is kept.",
        ) from error
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        tail = await trouble
    if result is None:
        raise EnvironmentBuildError(
            f"the fetcher ended with status {process.returncode} and no result: {tail[-400:] or '-'}",
            retry="later",
        )
    return result


async def _read(
    stdout: asyncio.StreamReader,
    on_progress: Callable[[BuildProgress], None],
    on_wheel: Callable[[Wheel], None],
) -> FetchResult | None:
    while True:
        try:
            data = await stdout.readline()
            if not data:
                return None
            line = msgspec.json.decode(data, type=FetchLine)
        except (ValueError, msgspec.MsgspecError) as error:
            raise EnvironmentBuildError("the fetcher broke its own protocol") from error
        if line.error is not None:
            raise from_info(line.error)
        if line.result is not None:
            return line.result
        if line.wheel is not None:
            on_wheel(line.wheel)
        if line.progress is not None:
            on_progress(line.progress)


async def _tail(stream: asyncio.StreamReader) -> str:
    kept = b""
    while data := await stream.read(4096):
        kept = (kept + data)[-_MAX_STDERR:]
    return kept.decode("utf-8", "replace")


async def until(refused: asyncio.Event, fetching: Coroutine[None, None, FetchResult]) -> tuple[Wheel, ...]:
    """What is fetched; nothing, once it was ended because one of the wheels is `refused`."""
    task, watch = asyncio.ensure_future(fetching), asyncio.ensure_future(refused.wait())
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result().wheels
        return ()
    finally:
        watch.cancel()
        task.cancel()
        await asyncio.wait({task})
