"""The whole thing: a launcher of our own starts a sandbox, proves it from outside, and ends it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from bridgehold.errors import AttestationError, BridgeholdError, HostUnavailableError, UnsupportedError
from bridgehold.sandbox.cgroups import SETTING
from bridgehold.sandbox.doctor.model import Check, Context, Probe, failed, passed
from bridgehold.sandbox.launcher.control import LauncherClient
from bridgehold.sandbox.launcher.given import LauncherConfig
from bridgehold.sandbox.values import Attestation, ExitReport, Mount, Resources, SandboxSpec

_MIB = 1 << 20
_ANSWER_SECONDS = 10.0
_MAX_ANSWER = 16 * 1024
# Each line is a hostile act; what must not happen is printed if it does.
_ACTS = """\
echo ready
read go
touch /written 2>/dev/null && echo 'wrote to /'
touch /usr/written 2>/dev/null && echo 'wrote to /usr'
touch /dev/written 2>/dev/null && echo 'wrote to /dev'
cat /etc/shadow >/dev/null 2>&1 && echo 'read /etc/shadow'
test -e /sys/kernel && echo 'sees /sys'
test -e /root -o -e /home && echo 'sees homes'
for p in /proc/[0-9]*; do test ${p#/proc/} -gt 50 && echo 'sees foreign processes'; done
mount -t tmpfs none /tmp 2>/dev/null && echo 'mounted'
unshare -U true 2>/dev/null && echo 'made a namespace'
dd if=/dev/zero of=/tmp/fill bs=1M count=16 2>/dev/null && echo 'filled more than its tmpfs'
echo done
"""


def sandbox(context: Context) -> Check:
    """Whether a whole sandbox can be started, attested and ended through a launcher; by doing it."""
    try:
        proof, said, report = asyncio.run(_attempt(context))
    except AttestationError as error:
        return failed("sandbox", f"started, but attestation differs: {error.message}", "Please report this.")
    if said != ["done"]:
        return failed("sandbox", "inside: " + "; ".join(said)[:1000], "Please report this.")
    return passed(
        "sandbox",
        f"started as kernel uid {proof.uid}, attested (seccomp {proof.seccomp_mode}, no new privileges, no "
        f"capability), 10 escapes refused, ended and empty after {report.emptied_ms} ms",
    )


def usr_links() -> tuple[Mount, ...]:
    """The folders of / that are links into /usr on this machine."""
    return tuple(
        Mount(kind="symlink", source=str(Path("/", name).readlink()), target=f"/{name}")
        for name in ("bin", "lib", "lib32", "lib64", "libx32", "sbin")
        if Path("/", name).is_symlink()
    )


def probe_spec() -> SandboxSpec:
    """A sandbox of the system's own tools, which read one line, act, and answer."""
    return SandboxSpec(
        kind="probe",
        tenant="local",
        bridge="doctor",
        argv=("/usr/bin/sh", "-c", _ACTS),
        environment=(("PATH", "/usr/bin:/bin"),),
        mounts=(
            Mount(kind="proc", target="/proc"),
            Mount(kind="dev", target="/dev"),
            Mount(kind="ro_bind", source="/usr", target="/usr"),
            *usr_links(),
            Mount(kind="tmpfs", target="/tmp", size_bytes=_MIB, mode=0o1777),  # noqa: S108 - inside
            Mount(kind="tmpfs", target="/dev/shm", size_bytes=_MIB, mode=0o1777),  # noqa: S108 - inside
        ),
        resources=Resources(
            memory_bytes=64 * _MIB, cpu_millis=1000, processes=16, open_files=64, file_size_bytes=64 * _MIB
        ),
    )


async def _attempt(context: Context) -> tuple[Attestation, list[str], ExitReport]:
    async with own_launcher(context) as client:
        launched, descriptors = await client.launch(probe_spec())
        guest = _Guest(descriptors)
        try:
            if await asyncio.to_thread(guest.expect, "ready") != ["ready"]:
                said_last = await asyncio.to_thread(guest.last_words)
                raise UnsupportedError(
                    f"the sandbox ended before its first word: {said_last}",
                    hint="The rows above name what is missing.",
                )
            proof = await client.attest(launched.worker)
            guest.go()
            said = await asyncio.to_thread(guest.expect, "done")
        finally:
            guest.close()
        return proof, said, await client.kill(launched.worker)


@contextlib.asynccontextmanager
async def own_launcher(context: Context, read_roots: tuple[str, ...] = ()) -> AsyncIterator[LauncherClient]:
    """A launcher for one probe, and its end. `UnsupportedError` says what it wrote before it gave up."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with tempfile.TemporaryDirectory(prefix="bridgehold-doctor-") as folder:
        process = _start(context, Path(folder), theirs, read_roots)
        theirs.close()
        client = await LauncherClient.connect(ours)
        try:
            await client.machine()
            yield client
        except HostUnavailableError as error:
            raise _refusal(process) from error
        finally:
            client.close()
            await asyncio.to_thread(_end, process)


def _start(
    context: Context, folder: Path, control: socket.socket, read_roots: tuple[str, ...]
) -> subprocess.Popen[bytes]:
    for name in ("build", "uids"):
        (folder / name).mkdir(mode=0o700)
    config = LauncherConfig(
        unrecorded=True,
        read_roots=read_roots,
        build_root=str(folder / "build"),
        uid_folder=str(folder / "uids"),
        uid_first=context.uid_first,
        uid_count=context.uid_count,
        cgroup=context.cgroup,
        reserve_bytes=context.reserve_bytes,
    )
    read, write = os.pipe()
    os.write(write, msgspec.json.encode(config))
    os.close(write)
    process = subprocess.Popen(
        [
            *(sys.executable, "-P", "-m", "bridgehold.sandbox.launcher.main"),
            *("--fd-control", str(control.fileno()), "--fd-config", str(read)),
        ],
        pass_fds=(control.fileno(), read),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    os.close(read)
    return process


class _Guest:
    """The probe's program: it says that it is ready, waits, acts, and says what came of it."""

    def __init__(self, descriptors: list[int]) -> None:
        self._to, self._from, *self._others = descriptors
        self._data = b""

    def expect(self, last: str) -> list[str]:
        """Lines up to `last` and with it; fewer where the guest ended before."""
        end = f"{last}\n".encode()
        self._data = b""
        while not self._data.endswith(end) and len(self._data) < _MAX_ANSWER:
            part = os.read(self._from, 4096)
            if not part:
                break
            self._data += part
        return self._data.decode("utf-8", "replace").splitlines()

    def last_words(self) -> str:
        """What it and bubblewrap wrote to the log, once it has ended."""
        return os.read(self._others[0], _MAX_ANSWER).decode("utf-8", "replace").strip()[-500:] or "no message"

    def go(self) -> None:
        os.write(self._to, b"go\n")

    def close(self) -> None:
        for descriptor in (self._to, self._from, *self._others):
            os.close(descriptor)


def _refusal(process: subprocess.Popen[bytes]) -> BridgeholdError:
    try:
        _, said = process.communicate(timeout=_ANSWER_SECONDS)
    except subprocess.TimeoutExpired:
        said = b"it does not end"
    text = said.decode("utf-8", "replace").strip()[-1000:]
    if SETTING in text:
        return UnsupportedError("sessions can have no cgroup here", where=SETTING)
    return UnsupportedError(
        f"the launcher does not start: {text}", hint="The rows above name what is missing."
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(timeout=_ANSWER_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stderr is not None:
        process.stderr.close()


PROBES = (
    Probe(
        name="sandbox",
        proves="The launcher starts a real sandbox, attests it from outside, and ends it; ten escapes fail.",
        run=sandbox,
        seconds=40.0,
    ),
)
