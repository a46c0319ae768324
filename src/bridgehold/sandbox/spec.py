"""Grant → SandboxSpec (pure): what a worker, or a compiler, can touch, and how much."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Literal

import msgspec

from bridgehold.ids import LOCAL_TENANT
from bridgehold.policies.model import MIB, Grant
from bridgehold.sandbox import guest_files
from bridgehold.sandbox.values import GUEST_NAME, HOSTNAME, Mount, Resources, SandboxSpec

SDK = "/opt/bridgehold/sdk"
INNER = f"{SDK}/bridgehold_inner"
"""A package inside: `bridgehold.sandbox.inner`, by a name that no tenant's has."""
ENVIRONMENT = "/env"
BRIDGE = "/bridge"
SCRIPTS = "/scripts"
"""Where further folders of scripts are, by number: ``/scripts/1``."""
SCRATCH = "/scratch"
PYTHON = "/opt/python"
_TAKEN = (
    *("/tmp", "/proc", "/dev", "/sys", "/etc", "/data", "/bin", "/lib", "/lib32", "/lib64", "/libx32"),  # noqa: S108
    *("/sbin", SDK, ENVIRONMENT, BRIDGE, SCRIPTS, SCRATCH),
)
"""Places inside that are the sandbox's own: nothing of the machine's that lies below them is shown there."""

THREAD_COUNTS = (
    *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"),
    *("POLARS_MAX_THREADS", "RAYON_NUM_THREADS"),
)
"""Of pools that would start a thread for each processor of the machine."""
_WARMING_PROCESSES = 64
"""Of a zygote while it warms; the launcher leaves it no room beside its own afterwards."""
CPU_COUNTS = ("PYTHON_CPU_COUNT", "LOKY_MAX_CPU_COUNT")


class Paths(msgspec.Struct, frozen=True, kw_only=True):
    """The host folders that a worker sees read-only."""

    environment: str
    bridge: str
    scripts: tuple[str, ...] = ()
    """Further folders beside `bridge`, whose scripts may run too."""
    inner: str
    sdk: str
    python_prefix: str
    """Base interpreter's prefix; below /usr it is part of the /usr bind."""
    usr_links: tuple[tuple[str, str], ...]
    """Root folders that are links on this host, such as ``/lib`` → ``usr/lib``."""
    etc: tuple[str, ...]
    """Files and folders of /etc that exist here and hold no secret."""
    cpuinfo: str = ""
    """The machine's /proc/cpuinfo, of which a worker is shown as many processors as it has."""


def worker_spec(
    grant: Grant,
    paths: Paths,
    *,
    gateway_port: int,
    start: Literal["cold", "fork"] = "cold",
    environment: Mapping[str, str] | None = None,
) -> SandboxSpec:
    """The sandbox of one session's worker. Forked or cold, it is the same but for `start`.

    `environment`: an operator's own variables; what the sandbox itself sets wins.
    """
    limits = grant.limits
    folders = (paths.bridge, *paths.scripts)
    mounts = [
        *_system(paths),
        *guest_files.limits(resources(grant), paths.cpuinfo),
        Mount(kind="ro_bind", source=paths.environment, target=ENVIRONMENT),
        Mount(kind="ro_bind", source=paths.inner, target=INNER),
        Mount(kind="ro_bind", source=paths.sdk, target=SDK + "/bridgehold_sdk"),
        Mount(kind="symlink", source="bridgehold_inner/child.py", target=SDK + "/sitecustomize.py"),
        *(
            Mount(kind="ro_bind", source=source, target=target)
            for source, target in zip(folders, script_places(len(folders)), strict=True)
        ),
        *(Mount(kind="ro_bind", source=source, target=f"/data/{i}") for i, source in enumerate(grant.read)),
        *(Mount(kind="device", source=name, target=name) for name in grant.devices),
        Mount(kind="tmpfs", target=SCRATCH, size_bytes=limits.scratch_bytes, mode=0o700),
        Mount(kind="tmpfs", target="/tmp", size_bytes=limits.scratch_bytes, mode=0o1777),  # noqa: S108 - inside
        Mount(kind="tmpfs", target="/dev/shm", size_bytes=limits.shm_bytes, mode=0o1777),  # noqa: S108 - inside
    ]
    return SandboxSpec(
        kind="worker",
        start=start,
        tenant=grant.tenant,
        bridge=grant.bridge,
        argv=(f"{ENVIRONMENT}/bin/python", "-I", "-S", "-B", "-X", "utf8", f"{INNER}/boot.py"),
        environment=tuple(sorted({**(environment or {}), **worker_environment(grant)}.items())),
        mounts=with_folders(mounts),
        resources=resources(grant),
        working_directory=SCRATCH,
        gateway_port=gateway_port,
        two_outputs=True,
        weakenings=grant.weakenings,
    )


def script_places(count: int) -> tuple[str, ...]:
    """Where so many folders are inside: a bridge's own first, then further ones with scripts (pure)."""
    return (BRIDGE, *(f"{SCRIPTS}/{number}" for number in range(1, count)))


def zygote_spec(worker: SandboxSpec, resources: Resources) -> SandboxSpec:
    """The sandbox of the zygote that workers of this spec are forked from: what it sees they see.

    Its threads are capped at one, since a process with more can't be forked; its folders for writing
    are its own, and each fork covers them with new ones.
    """
    environment = dict(worker.environment) | dict.fromkeys(THREAD_COUNTS, "1")
    return msgspec.structs.replace(
        worker,
        kind="zygote",
        start="cold",
        argv=(*worker.argv[:-1], f"{INNER}/zygote.py"),
        environment=tuple(sorted(environment.items())),
        resources=resources,
        callback_port=0,  # each fork's own
        two_outputs=False,
    )


def warming_spec(worker: SandboxSpec, memory_bytes: int) -> SandboxSpec:
    """As `zygote_spec`, of a host whose zygotes may have so much memory (pure)."""
    own = worker.resources
    warming = Resources(
        memory_bytes=memory_bytes,
        cpu_millis=own.cpu_millis,
        processes=_WARMING_PROCESSES,
        open_files=own.open_files,
        file_size_bytes=own.file_size_bytes,
    )
    return zygote_spec(worker, warming)


def starts_of(worker: SandboxSpec, zygote_bytes: int) -> tuple[SandboxSpec, ...]:
    """Every sandbox that a session of this spec may begin as or from (pure)."""
    ways: tuple[Literal["cold", "fork"], ...] = ("cold", "fork")
    return (
        *(msgspec.structs.replace(worker, start=start) for start in ways),
        warming_spec(worker, zygote_bytes),
    )


def resources(grant: Grant) -> Resources:
    """A grant's limits as the kernel takes them (pure)."""
    limits = grant.limits
    return Resources(
        memory_bytes=limits.memory_bytes,
        cpu_millis=limits.cpu_millis,
        processes=limits.processes,
        open_files=limits.open_files,
        file_size_bytes=limits.file_size_bytes,
    )


def worker_environment(grant: Grant) -> dict[str, str]:
    """The whole environment: an allow-list of constants, with thread counts from the cpu limit.

    PYTHONPATH is for the interpreters that a guest starts: they find what its own does, and first of all
    the `sitecustomize` that puts it in the worker's order (`inner/child.py`).
    """
    threads = str(guest_files.processors(grant.limits.cpu_millis))
    return {
        "PATH": f"{ENVIRONMENT}/bin:/usr/bin:/bin",
        "HOME": SCRATCH,
        "PWD": SCRATCH,
        "USER": GUEST_NAME,
        "LOGNAME": GUEST_NAME,
        "TMPDIR": "/tmp",  # noqa: S108 - inside: a tmpfs of its own
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "PYTHONNOUSERSITE": "1",
        "PYTHONPATH": f"{SDK}:{BRIDGE}",
        "XDG_CACHE_HOME": f"{SCRATCH}/.cache",
        "DSPY_CACHEDIR": f"{SCRATCH}/.cache/dspy",
        "HF_HOME": f"{SCRATCH}/.cache/huggingface",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "JE_ARROW_MALLOC_CONF": "background_thread:false",
        "NO_PROXY": "127.0.0.1,localhost",
        **dict.fromkeys((*THREAD_COUNTS, *CPU_COUNTS), threads),
    }


def compiler_spec(
    paths: Paths,
    *,
    argv: tuple[str, ...],
    resources: Resources,
    bridge: str,
    tenant: str = LOCAL_TENANT,
    tree: str = "",
) -> SandboxSpec:
    """The sandbox in which a wheel's sources are compiled: pipes, and nothing to read, write or reach.

    `tree`: an environment of which it sees all, to list fonts by; empty: it sees none.
    """
    mounts = [
        *([Mount(kind="ro_bind", source=tree, target=ENVIRONMENT)] if tree else ()),
        *_system(paths),
        Mount(kind="tmpfs", target="/tmp", size_bytes=16 * MIB, mode=0o1777),  # noqa: S108 - inside
        Mount(kind="tmpfs", target="/dev/shm", size_bytes=16 * MIB, mode=0o1777),  # noqa: S108 - inside
    ]
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/tmp", "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"}  # noqa: S108 - inside
    if tree:
        environment |= dict.fromkeys(THREAD_COUNTS, "1")
    return SandboxSpec(
        kind="fonts" if tree else "compiler",
        tenant=tenant,
        bridge=bridge,
        argv=argv,
        environment=tuple(sorted(environment.items())),
        mounts=tuple(mounts),
        resources=resources,
        working_directory="/tmp",  # noqa: S108 - inside
    )


def _system(paths: Paths) -> list[Mount]:
    mounts = [
        Mount(kind="proc", target="/proc"),
        Mount(kind="dev", target="/dev"),
        Mount(kind="ro_bind", source="/usr", target="/usr"),
        *(Mount(kind="symlink", source=text, target=target) for target, text in paths.usr_links),
        *(Mount(kind="ro_bind", source=path, target=path) for path in paths.etc),
        *guest_files.names(HOSTNAME, SCRATCH),
    ]
    if not below_usr(paths.python_prefix):
        mounts.append(
            Mount(kind="ro_bind", source=paths.python_prefix, target=python_inside(paths.python_prefix))
        )
    return mounts


def below_usr(prefix: str) -> bool:
    """Whether a Python of this prefix is the system's own, which every sandbox shows (pure)."""
    return prefix == "/usr" or prefix.startswith("/usr/")


def prefix_of(executable: str) -> str:
    """The folder that a Python's executable belongs to, by where it lies: what its sandboxes show."""
    return str(Path(executable).resolve().parent.parent)


def python_inside(prefix: str) -> str:
    """Where a Python with this prefix stands inside (pure).

    At its own path: its executable and its extension modules find their libraries by absolute paths that were
    written at its build, and elsewhere another libpython of the machine's would be taken in their place.
    At `PYTHON` only where something of the sandbox's own stands at that path.
    """
    if below_usr(prefix):
        return prefix
    taken = any(prefix == place or prefix.startswith(place + "/") for place in _TAKEN)
    return PYTHON if taken else prefix


def with_folders(mounts: Iterable[Mount]) -> tuple[Mount, ...]:
    """`mounts` with the folders that they lie in, open to all: bubblewrap makes its own for one uid only.

    In a zygote's namespaces each session has another uid (pure).
    """
    found: dict[str, Mount] = {}
    for mount in mounts:
        folders = [str(folder) for folder in reversed(PurePosixPath(mount.target).parents[:-1])]
        for folder in folders:
            if folder in found and found[folder].kind != "dir":
                break  # what lies below a mount is that mount's own
            found.setdefault(folder, Mount(kind="dir", target=folder))
        found[mount.target] = mount
    return tuple(found.values())


def spec_digest(spec: SandboxSpec) -> str:
    """``sha256:`` of the spec's canonical JSON: two equal digests are equal sandboxes."""
    return "sha256:" + hashlib.sha256(msgspec.json.encode(spec, order="deterministic")).hexdigest()
