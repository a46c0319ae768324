"""The fork start, done once: a zygote without a framework, one session forked from it, both proved."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path

import msgspec

import bridgehold_sdk
from bridgehold.errors import AttestationError, BridgeholdError, UnsupportedError, ZygoteError
from bridgehold.sandbox import inner
from bridgehold.sandbox.cgroups import SETTING
from bridgehold.sandbox.doctor.launcher import own_launcher, usr_links
from bridgehold.sandbox.doctor.model import Check, Context, Probe, caution, failed, passed
from bridgehold.sandbox.launcher.control import LauncherClient
from bridgehold.sandbox.spec import INNER, SDK, below_usr, python_inside, with_folders, zygote_spec
from bridgehold.sandbox.values import Attestation, Mount, Resources, SandboxSpec

_MIB = 1 << 20
_MAX_ANSWER = 64 * 1024
_HEADER = 4
_RESOURCES = Resources(
    memory_bytes=128 * _MIB, cpu_millis=1000, processes=16, open_files=256, file_size_bytes=64 * _MIB
)


def fork_start(context: Context) -> Check:
    """Whether a zygote can be started, forked and attested; by doing it."""
    try:
        proof, milliseconds = asyncio.run(_attempt(context))
    except (AttestationError, ZygoteError) as error:
        return failed(
            "fork-start", f"forked, but not as it should be: {error.message}", "Please report this."
        )
    except BridgeholdError as error:
        if error.where == SETTING:
            raise
        return caution(
            "fork-start",
            f"sessions start cold here, in seconds: {error.message}",
            error.hint or "It needs a cgroup, a uid for each session, and Landlock (Linux 5.19).",
        )
    return passed(
        "fork-start",
        f"a zygote forked a session into namespaces, a cgroup and a kernel uid ({proof.uid}) of its own, "
        f"attested, in {milliseconds:.1f} ms",
    )


def _spec() -> tuple[SandboxSpec, tuple[str, ...]]:
    """A worker's sandbox without an environment and a bridge, and the folders that it is bound from."""
    prefix = os.path.realpath(sys.base_prefix)
    python = Path(os.path.realpath(sys.executable))
    own = {
        f"{SDK}/bridgehold_sdk": str(Path(str(bridgehold_sdk.__file__)).parent),
        INNER: str(Path(str(inner.__file__)).parent),
    }
    if not below_usr(prefix):
        own[python_inside(prefix)] = prefix
        python = Path(python_inside(prefix)) / python.relative_to(prefix)
    mounts = [
        Mount(kind="proc", target="/proc"),
        Mount(kind="dev", target="/dev"),
        Mount(kind="ro_bind", source="/usr", target="/usr"),
        *usr_links(),
        *(Mount(kind="ro_bind", source=source, target=target) for target, source in own.items()),
        *(
            Mount(kind="tmpfs", target=target, size_bytes=_MIB, mode=0o1777)
            for target in ("/scratch", "/tmp", "/dev/shm")  # noqa: S108 - inside
        ),
    ]
    spec = SandboxSpec(
        start="fork",
        tenant="local",
        bridge="doctor",
        argv=(str(python), "-I", "-S", "-B", "-X", "utf8", f"{INNER}/boot.py"),
        environment=(("PATH", "/usr/bin:/bin"),),
        mounts=with_folders(mounts),
        resources=_RESOURCES,
        working_directory="/scratch",
    )
    return spec, tuple(own.values())


async def _attempt(context: Context) -> tuple[Attestation, float]:
    spec, roots = _spec()
    async with own_launcher(context, roots) as client:
        zygote = await _warm(client, zygote_spec(spec, _RESOURCES))
        begun = time.perf_counter()
        launched, descriptors = await client.fork(zygote, spec)
        proof = await client.attest(launched.worker)
        milliseconds = (time.perf_counter() - begun) * 1000
        for descriptor in descriptors:
            os.close(descriptor)
        return proof, milliseconds


async def _warm(client: LauncherClient, spec: SandboxSpec) -> str:
    """A zygote that imported nothing, attested; its name."""
    launched, descriptors = await client.launch(spec)
    try:
        frame = json.dumps(
            {"type": "warm", "modules": [], "calls": [], "weights": [], "gateway": ""}
        ).encode()
        os.write(descriptors[0], len(frame).to_bytes(_HEADER, "big") + frame)
        answer = await asyncio.to_thread(_read_frame, descriptors[1])
        reason = answer.get("reason", "") if isinstance(answer, dict) else "it answers no object"
        if reason:
            raise UnsupportedError(f"a zygote can't be forked: {str(reason)[:300]}")
        await client.attest(launched.worker)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    return launched.worker


def _read_frame(descriptor: int) -> object:
    data = b""
    while len(data) < _HEADER or len(data) < _HEADER + int.from_bytes(data[:_HEADER], "big"):
        part = os.read(descriptor, 4096)
        data += part
        if not part or len(data) > _MAX_ANSWER:
            raise UnsupportedError("the zygote ended before it was warm")
    return msgspec.json.decode(data[_HEADER:])


PROBES = (
    Probe(
        name="fork-start",
        proves="A session can be forked from a warm process into a sandbox of its own, and be attested.",
        run=fork_start,
        seconds=40.0,
    ),
)
