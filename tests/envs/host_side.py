"""The host's side of an installation, as a process of its own: no privilege but the launcher's socket.

``python host_side.py FD FOLDER DIST`` builds what DIST's wheels are, twice, and prints what came of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import sys
import time
from pathlib import Path

from envs_kit import make_lock

from bridgehold.config.machine import system_paths
from bridgehold.errors import AttestationError, BridgeholdError
from bridgehold.sandbox import procfs
from bridgehold.sandbox.envs.build import EnvironmentBuilder
from bridgehold.sandbox.envs.interpreter import host_interpreter
from bridgehold.sandbox.envs.launcher_runner import LauncherRunner
from bridgehold.sandbox.envs.store import EnvironmentStore
from bridgehold.sandbox.envs.values import Sources
from bridgehold.sandbox.launcher.control import LauncherClient


class Watched(LauncherClient):
    """Tells when each proof was used: once its process waits, or is gone. With ``--unproved`` there is none."""

    async def attest(self, worker):
        proof = await super().attest(worker)
        if "--unproved" in sys.argv:
            raise AttestationError("it isn't so")
        seen: list[object] = []
        with contextlib.suppress(OSError):
            while len(seen) < 20:
                fields = procfs.stat(proof.pid)
                now = fields[0], *fields[11:13]  # its state and its processor time
                seen = [*(one for one in seen if one == now), now] if fields[0] == "S" else []
                await asyncio.sleep(0.01)
        PROVED.append((worker, time.monotonic()))
        return proof


PROVED: list[tuple[str, float]] = []


async def main(control: socket.socket, folder: Path, dist: Path) -> dict[str, object]:
    client = await Watched.connect(control)
    store = EnvironmentStore(folder / "builds")
    builder = EnvironmentBuilder(
        store=store,
        wheels=folder / "home" / "wheels",
        runner=LauncherRunner(client, system_paths()),
        sources=lambda: Sources(folders=(str(dist),)),
        interpreter=host_interpreter(),
    )
    lock = make_lock(*sorted(dist.glob("*.whl")))
    answer: dict[str, object] = {"uid": os.getuid()}
    try:
        environment = await builder.ensure(
            lock, bridge="demo", on_progress=lambda _: None, allow_pth="--pth" in sys.argv
        )
        tree = store.path(environment)
        store.verify(environment)
        started = time.perf_counter()
        answer["again"] = builder.find(lock) == environment
        answer["find_ms"] = (time.perf_counter() - started) * 1000
        answer["owner"] = tree.stat().st_uid
        answer["modes"] = sorted(
            {oct(p.lstat().st_mode & 0o222) for p in tree.rglob("*") if not p.is_symlink()}
        )
        answer["tree"] = str(tree)
        answer["lacks"] = environment.lacks
        answer["packages"] = [package.name for package in environment.packages]
        try:
            (tree / "late.py").write_text("evil")
        except PermissionError:
            answer["writable"] = False
    except BridgeholdError as error:
        answer["error"] = [error.code, error.message, error.where]
    if "--collect" in sys.argv:
        answer["collected"] = [path.name for path in (await builder.collect(tuple)).removed]
    answer["left"] = sorted(path.name for path in store.folder.iterdir() if path.name.startswith(".build"))
    answer["proved"] = PROVED
    client.close()
    return answer


if __name__ == "__main__":
    end = socket.socket(fileno=int(sys.argv[1]))
    print(json.dumps(asyncio.run(main(end, Path(sys.argv[2]), Path(sys.argv[3])))))
