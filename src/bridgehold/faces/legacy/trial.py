"""`bridgehold shim check`: a worker is started as a pool would start it, and what is missing is named.

Everything foreign runs where it always does, behind the shim's own interpreter; scripts are only read here.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bridgehold import reads
from bridgehold.bridges.legacy import messages
from bridgehold.bridges.legacy.frames import HEADER_BYTES, pack
from bridgehold.config.layout import Layout
from bridgehold.config.load import load_config
from bridgehold.config.machine import real_folders
from bridgehold.errors import BridgeholdError, ProtocolError, UsageError
from bridgehold.faces.authoring.scripts import imports_of
from bridgehold.faces.legacy import setup
from bridgehold.faces.legacy.checks import LONGEST_WAIT, end_of, fail, fail_by, last
from bridgehold.faces.legacy.python import SHIM_FILE, read_shim_file
from bridgehold.faces.legacy.rpc_trial import rpc_trial
from bridgehold.faces.legacy.values import ShimFile
from bridgehold.faces.legacy.workers import adapter_in, chosen, mode_of, wire_of
from bridgehold.host.front.registry import Registry
from bridgehold.sandbox.doctor.model import Check

_SHORTEST_WAIT = 10.0
"""Seconds that the impatient one of the systems waits for a handshake."""
_MOST_FRAME = 1 << 20
_MOST_NAMES = 64 * 1024
"""Bytes of what a script imports, which go into one command."""
_LOOK = (
    "import importlib.util, json, sys\n"
    "def there(name):\n"
    "    try: return importlib.util.find_spec(name) is not None\n"
    "    except Exception: return False\n"
    "print(json.dumps([name for name in sys.argv[1:] if not there(name)]))"
)


async def trial(
    folder: Path, script: str, registry_of: Callable[[Layout], Registry], adapter: str = ""
) -> list[Check]:
    """What was seen, in the order in which a worker meets it. Raises `ConfigError` for what is no shim.

    `registry_of` reads the policies of the shim's host. `adapter`: of a worker that speaks gRPC.
    """
    given = read_shim_file(folder / SHIM_FILE)
    layout = Layout(config=Path(given.config), state=Path(given.state), run=Path(given.run))
    found = [await _interpreter(folder)]
    if found[0].status == "FAIL":
        return found
    section = load_config(layout.config_file).bridges.get(given.profile)
    roots = real_folders(section.scripts) if section is not None else ()
    worker = chosen(script, roots)
    if worker is None:
        detail = f"{script or 'no worker'} is not below {', '.join(roots) or 'any folder'}"
        return [*found, fail("script", detail, "Name it: bridgehold shim check DIR --script FILE")]
    source = reads.read_text(worker, UsageError)
    found.append(await _imports(folder, worker, source, roots))
    if wire_of(worker) == "grpc":
        found += await rpc_trial(folder, worker, roots, adapter or adapter_in(roots))
    else:
        found.append(await _handshake(folder, worker, source, roots))
    return [*found, *_keys(layout, given, registry_of)]


async def _interpreter(folder: Path) -> Check:
    status, said, wrong = await _python(folder, "--version")
    if status and "can't bind" in wrong:
        remedy = "bridgehold restart, where a folder of scripts lies below one that is closed to others."
        return fail("interpreter", last(wrong), remedy)
    if status:
        return fail(
            "interpreter", last(wrong) or f"exit status {status}", "Make it anew: bridgehold shim DIR …"
        )
    return Check(name="interpreter", status="PASS", detail=said.strip())


async def _imports(folder: Path, script: Path, source: str, roots: tuple[str, ...]) -> Check:
    """Of the script itself: whether the sandbox has what it imports."""
    try:
        names = sorted(imports_of(ast.parse(source)))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return fail("imports", f"{script.name} can't be read: {error}", "")
    if len(" ".join(names).encode()) > _MOST_NAMES:
        return fail("imports", f"{script.name} imports {len(names)} modules: too many to look for", "")
    path = os.pathsep.join([str(script.parent), *roots])
    status, said, wrong = await _python(folder, "-c", _LOOK, *names, path=path)
    if status:
        return Check(name="imports", status="CAUTION", detail=last(wrong) or f"exit status {status}")
    with contextlib.suppress(ValueError):
        if missing := json.loads(said):
            remedy = f"Add what has it to the requirements: bridgehold shim {folder} --requirements FILE …"
            return fail("imports", f"not there: {', '.join(map(str, missing))}", remedy)
    return Check(name="imports", status="PASS", detail=", ".join(names) or "the standard library alone")


async def _handshake(folder: Path, script: Path, source: str, roots: tuple[str, ...]) -> Check:
    began = time.monotonic()
    arguments = (str(script), "--mode", mode_of(source), "--worker-id", f"worker_1_{time.time_ns() // 1000}")
    process = await _started(folder, arguments, os.pathsep.join(roots))
    said = ""
    try:
        async with asyncio.timeout(LONGEST_WAIT):
            answer = await _ping(process, negotiated=messages.NEGOTIATION in source)
        if not (answer.transport_ok and answer.application_ok):
            said = answer.error or "a ping was answered with an error"
    except (OSError, EOFError, TimeoutError, ProtocolError) as error:
        said = str(error) or "it ended without a word"
    seconds = time.monotonic() - began
    wrong = await process.finish()
    if said:
        return fail_by("handshake", said, wrong)
    detail = f"{script.name} answered a ping within {seconds:.1f} s"
    if seconds > _SHORTEST_WAIT:
        return Check(
            name="handshake", status="CAUTION", detail=detail, remedy="DSPex waits 10 s: use --start fork."
        )
    return Check(name="handshake", status="PASS", detail=detail)


def _keys(layout: Layout, given: ShimFile, registry_of: Callable[[Layout], Registry]) -> Iterator[Check]:
    try:
        registry = registry_of(layout)
        grant = registry.resolve_grant(given.tenant, registry.manifest(given.profile, given.tenant))
    except BridgeholdError as error:
        yield fail("policy", error.message, error.hint)
        return
    keys = setup.keys_of(layout, load_config(layout.config_file), given.tenant)
    missing = [one.name for one in grant.secrets if one.name not in keys]
    if missing:
        remedy = f"bridgehold secrets set {missing[0]} --tenant {given.tenant}"
        yield Check(name="keys", status="CAUTION", detail=f"none yet: {', '.join(missing)}", remedy=remedy)
    elif grant.secrets:
        yield Check(name="keys", status="PASS", detail=", ".join(one.name for one in grant.secrets))


class _Worker:
    """One worker behind the shim, and its pipes."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        assert process.stderr is not None  # noqa: S101 - all three are pipes
        self._wrong = asyncio.create_task(end_of(process.stderr))

    async def ask(self, body: bytes) -> bytes:
        """The body of the next frame. Raises `EOFError`, `OSError`, `ProtocolError`."""
        sink, source = self._process.stdin, self._process.stdout
        assert sink is not None  # noqa: S101
        assert source is not None  # noqa: S101
        sink.write(pack(body))
        await sink.drain()
        length = int.from_bytes(await source.readexactly(HEADER_BYTES), "big")
        if length > _MOST_FRAME:
            raise ProtocolError(f"a frame of {length} bytes: this is text, not a frame")
        return await source.readexactly(length)

    async def finish(self) -> str:
        """Its standard error, once it has ended; it is ended where it stays at the end of its input."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), _SHORTEST_WAIT)
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        return (await self._wrong).decode(errors="replace")


async def _ping(worker: _Worker, *, negotiated: bool) -> messages.Answer:
    if negotiated:
        offer = {"type": messages.NEGOTIATION, "supported": ["json"], "preferred": "json"}
        await worker.ask(json.dumps(offer).encode())
    args = {"initialization": True, "worker_id": "worker_1"}
    request = {"id": 0, "command": "ping", "args": args, "timestamp": "2025-01-01T00:00:00Z"}
    answer = messages.read_answer(await worker.ask(json.dumps(request).encode()))
    if answer is None:
        raise ProtocolError("the answer to a ping is none")
    return answer


async def _started(folder: Path, arguments: tuple[str, ...], path: str) -> _Worker:
    pipe = asyncio.subprocess.PIPE
    program = str(folder / "bin" / "python3")
    environment = {**os.environ, "PYTHONPATH": path}
    return _Worker(
        await asyncio.create_subprocess_exec(
            program, *arguments, stdin=pipe, stdout=pipe, stderr=pipe, env=environment
        )
    )


async def _python(folder: Path, *arguments: str, path: str = "") -> tuple[int, str, str]:
    """Exit status, standard output and standard error of the shim's interpreter."""
    process = await asyncio.create_subprocess_exec(
        str(folder / "bin" / "python3"),
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
    )
    try:
        async with asyncio.timeout(LONGEST_WAIT):
            said, wrong = await asyncio.gather(end_of(process.stdout), end_of(process.stderr))
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
        return 124, "", f"nothing within {LONGEST_WAIT:g} s"
    return process.returncode or 0, said.decode(errors="replace"), wrong.decode(errors="replace")
