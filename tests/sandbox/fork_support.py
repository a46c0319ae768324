"""A zygote of a real launcher's, with a framework and a bridge that the test writes, and its forks."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

import bridgehold_sdk
from bridgehold.sandbox import inner
from bridgehold.sandbox.launcher.control import LauncherClient
from bridgehold.sandbox.spec import INNER, SDK, with_folders, zygote_spec
from bridgehold.sandbox.values import Attestation, Launched, Mount, SandboxSpec
from sandbox.launcher_support import PYTHON, Machine, python_spec, resources

SITE = f"/env/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
BRIDGE = """
    import os, sys
    import framework
    from bridgehold_sdk import Bridge, operation

    class Test(Bridge):
        @operation()
        def python(self, code: str):
            space = {"framework": framework}
            exec(code, space)
            return space.get("value")
"""


@dataclass
class Guest:
    """A running sandbox with its wire: a zygote, or a worker."""

    launched: Launched
    ends: list[int]
    client: LauncherClient
    calls: int = 0
    warmed: dict[str, Any] = field(default_factory=dict)
    """Of a zygote: what it said when it was warm."""

    async def send(self, frame: dict[str, Any]) -> None:
        data = json.dumps(frame).encode()
        await asyncio.to_thread(os.write, self.ends[0], len(data).to_bytes(4, "big") + data)

    async def receive(self) -> dict[str, Any]:
        frame: dict[str, Any] = json.loads(await asyncio.to_thread(self._receive))
        return frame

    def _receive(self) -> bytes:
        head = _exactly(self.ends[1], 4)
        return _exactly(self.ends[1], int.from_bytes(head, "big"))

    async def call(self, command: str, **args: Any) -> Any:
        """The result; a fault raises with its text."""
        self.calls += 1
        await self.send({"id": self.calls, "command": command, "args": args})
        reply = await self.receive()
        if not reply["success"]:
            raise AssertionError(json.dumps(reply))
        return reply["result"]

    async def python(self, code: str) -> Any:
        """Run `code` in the session; what it left in `value`."""
        return await self.call("test:python", code=textwrap.dedent(code))

    async def attest(self) -> Attestation:
        return await self.client.attest(self.launched.worker)

    async def end(self) -> None:
        await self.client.kill(self.launched.worker)
        self.close()

    def close(self) -> None:
        for end in self.ends:
            os.close(end)
        self.ends = []

    def log(self) -> str:
        os.set_blocking(self.ends[2], False)
        try:
            return os.read(self.ends[2], 65536).decode(errors="replace")
        except BlockingIOError:
            return ""


def _exactly(descriptor: int, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = os.read(descriptor, count - len(data))
        if not part:
            raise EOFError("the guest closed its frames")
        data += part
    return data


@dataclass
class Nursery:
    """Folders that a zygote and its forks are bound from, in a machine's home."""

    machine: Machine
    framework: str = ""
    bridge: str = BRIDGE
    limits: dict[str, int] = field(default_factory=dict)
    tenant: str = "local"

    def __post_init__(self) -> None:
        home = self.machine.home
        for name, source in (
            ("sdk", Path(str(bridgehold_sdk.__file__)).parent),
            ("inner", Path(str(inner.__file__)).parent),
        ):
            if not (home / name).exists():
                # Compiled, as an installed package is; what is being written beside it is left out.
                shutil.copytree(source, home / name, ignore=shutil.ignore_patterns("*-pytest-*", "*.pyc.*"))
        self._write(home / "site" / self.tenant / "framework.py", self.framework)
        self._write(home / "bridge" / self.tenant / "forkbridge.py", self.bridge)

    def _write(self, path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        for folder in (path, path.parent, path.parent.parent):
            folder.chmod(0o755)
            os.chown(folder, self.machine.owner, self.machine.owner)

    def spec(self, **changes: Any) -> SandboxSpec:
        """Of a worker that is forked."""
        home = self.machine.home
        mounts = tuple(
            Mount(kind="ro_bind", source=str(home / source), target=target)
            for source, target in (
                ("sdk", f"{SDK}/bridgehold_sdk"),
                ("inner", INNER),
                (f"site/{self.tenant}", SITE),
                (f"bridge/{self.tenant}", "/bridge"),
            )
        )
        base = python_spec("", mounts=mounts, limits=self.limits, tenant=self.tenant)
        argv = (str(PYTHON), "-I", "-S", "-B", "-X", "utf8", f"{INNER}/boot.py")
        own: dict[str, Any] = {"argv": argv, "mounts": with_folders(base.mounts), "start": "fork"}
        return msgspec.structs.replace(base, **(own | changes))

    async def zygote(
        self,
        client: LauncherClient,
        *,
        attest: bool = True,
        mounts: tuple[Mount, ...] | None = None,
        **warm: Any,
    ) -> Guest:
        """Warm, attested and ready to be forked."""
        spec = zygote_spec(
            self.spec(mounts=mounts or self.spec().mounts), resources(memory_bytes=256 << 20, processes=8)
        )
        guest = Guest(*await client.launch(spec), client)
        await guest.send(
            {"type": "warm", "modules": ["framework"], "calls": [], "weights": [], "gateway": "", **warm}
        )
        guest.warmed = await guest.receive()
        if guest.warmed.get("reason") and attest:
            raise AssertionError(json.dumps(guest.warmed) + guest.log())
        if attest:
            await guest.attest()
        return guest

    async def fork(
        self, client: LauncherClient, zygote: Guest, *, attest: bool = True, **changes: Any
    ) -> Guest:
        """Forked, booted, attested and open."""
        guest = Guest(*await client.fork(zygote.launched.worker, self.spec(**changes)), client)
        try:
            await guest.send({"type": "boot", "bridge": "test", "entry": "forkbridge:Test", "worker_id": "w"})
            ready = await guest.receive()
        except (OSError, EOFError) as error:
            raise AssertionError(f"{error}: {guest.log()}") from error
        assert ready.get("type") == "ready", ready
        if attest:
            await guest.attest()
            await guest.call("common:open", session={"id": "s", "name": "s", "tenant": self.tenant})
        return guest
