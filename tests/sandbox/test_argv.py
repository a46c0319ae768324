"""Spec → bubblewrap's arguments, against golden files. Rewrite them with BRIDGEHOLD_GOLDEN=write."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from bridgehold.errors import UnsupportedError
from bridgehold.policies.model import Grant, Limits, Machine, Rate, Rules, SandboxRules
from bridgehold.sandbox.launch.argv import bwrap_arguments
from bridgehold.sandbox.launch.bwrap import DISABLE_USERNS, NEEDED, SIZE, read_bwrap
from bridgehold.sandbox.spec import Paths, compiler_spec, python_inside, resources, spec_digest, worker_spec
from bridgehold.sandbox.values import SandboxSpec

GOLDEN = Path(__file__).parent / "golden"
PATHS = Paths(
    environment="/var/lib/bridgehold/envs/abc",
    bridge="/etc/bridgehold/bridges/dspy",
    inner="/opt/bh/inner",
    sdk="/opt/bh/bridgehold_sdk",
    python_prefix="/opt/python3.11",
    usr_links=(("/bin", "usr/bin"), ("/lib", "usr/lib"), ("/lib64", "usr/lib64")),
    etc=("/etc/ssl", "/etc/ld.so.cache"),
)
GRANT = Grant(
    tenant="acme",
    bridge="dspy",
    bridge_version="1.0",
    policy="dspy",
    limits=Limits(cpu_millis=1500),
    endpoints=(),
    connects=(),
    secrets=(),
    operations=Rules(),
    tools=Rules(),
    resources=Rules(),
    read=("/srv/data",),
    rate=Rate(),
    inline_keys="capture",
    sandbox=SandboxRules(),
    weakenings=(),
    machine=Machine(cgroup="v2", uids="range"),
    sources={},
)
WORKER = worker_spec(GRANT, PATHS, gateway_port=8080)
COMPILER = compiler_spec(
    PATHS,
    argv=("/usr/bin/python3", "-S", "-c", "pass"),
    resources=resources(GRANT),
    bridge="dspy",
)


NEWEST = NEEDED | {SIZE, DISABLE_USERNS}


def arguments(spec: SandboxSpec, *, staged: bool, known: frozenset[str] = NEWEST) -> tuple[str, ...]:
    files = {m.target: 20 + i for i, m in enumerate(m for m in spec.mounts if m.kind == "file")}
    kinds = ("ro_bind", "tmpfs")
    stage = {m.target: f"/mnt/w-1/{i}" for i, m in enumerate(spec.mounts) if m.kind in kinds}
    return bwrap_arguments(
        spec,
        known=known,
        seccomp_fd=10,
        info_fd=11,
        block_fd=12,
        files=files,
        staged=stage if staged else None,
    )


@pytest.mark.parametrize(
    ("name", "spec", "staged"),
    [("worker", WORKER, True), ("worker-unstaged", WORKER, False), ("compiler", COMPILER, True)],
)
def test_arguments_are_the_golden_ones(name: str, spec: SandboxSpec, *, staged: bool) -> None:
    made = "\n".join(arguments(spec, staged=staged)) + "\n"
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("BRIDGEHOLD_GOLDEN") == "write":
        path.write_text(made)
    assert made == path.read_text()


@pytest.mark.parametrize("spec", [WORKER, COMPILER])
def test_every_barrier_stands_in_the_arguments(spec: SandboxSpec) -> None:
    made = arguments(spec, staged=True)
    options = made[: made.index("--")]
    namespaces = {f"--unshare-{name}" for name in ("user", "ipc", "pid", "net", "uts", "cgroup")}
    assert namespaces | {"--disable-userns", "--die-with-parent", "--new-session", "--clearenv"} <= set(
        options
    )
    assert options[options.index("--cap-drop") + 1] == "ALL"
    assert options[options.index("--seccomp") + 1] == "10"
    read_only = [options[i + 1] for i, word in enumerate(options) if word == "--remount-ro"]
    assert read_only == ["/dev", "/"]
    assert "--share-net" not in options
    assert "--dev-bind" not in options


@pytest.mark.parametrize("spec", [WORKER, COMPILER])
@pytest.mark.parametrize("known", [NEEDED, NEEDED | {SIZE}, NEWEST], ids=["0.5", "0.7", "0.8"])
def test_an_older_bubblewrap_is_asked_for_nothing_that_it_lacks(
    spec: SandboxSpec, known: frozenset[str]
) -> None:
    made = arguments(spec, staged=True, known=known)
    options = {word[2:] for word in made[: made.index("--")] if word.startswith("--")}
    assert options <= known
    assert (DISABLE_USERNS in options) == (known == NEWEST)
    if SIZE not in known:
        with pytest.raises(UnsupportedError, match="can have no bound"):
            arguments(spec, staged=False, known=known)


def test_what_bubblewrap_says_of_itself_is_believed() -> None:
    said = "usage: bwrap [OPTIONS...] [--] COMMAND\n\n    --help    Print this\n"
    said += "".join(f"    --{name} FD      Does so (see --other)\n" for name in sorted(NEEDED))
    found = read_bwrap("/usr/bin/bwrap", "bubblewrap 0.5.0\n", said)
    assert (found.version, found.options - NEEDED) == ("0.5.0", {"help"})
    for text in (said.replace("--perms", "--modes"), "", "Killed"):
        with pytest.raises(UnsupportedError, match=r"has no --[a-z-]+$") as caught:
            read_bwrap("/usr/bin/bwrap", "bubblewrap 0.4.1\n", text)
        assert "0.5 or newer" in caught.value.hint


def test_shm_is_mounted_after_dev_went_read_only() -> None:
    made = arguments(WORKER, staged=True)
    assert made.index("/dev/shm") > made.index("--remount-ro")
    assert made.count("/dev/shm") == 1


def test_a_compiler_has_the_system_and_pipes_and_nothing_else() -> None:
    prefix = {PATHS.python_prefix}
    assert {m.source for m in COMPILER.mounts if m.kind == "ro_bind"} <= {"/usr", *PATHS.etc} | prefix
    assert COMPILER.gateway_port == 0


def test_the_environment_is_an_allow_list_that_follows_the_cpu_limit() -> None:
    environment = dict(WORKER.environment)
    assert environment["OMP_NUM_THREADS"] == environment["OPENBLAS_NUM_THREADS"] == "2"
    assert environment["HOME"] == "/scratch"
    assert environment["PYTHONNOUSERSITE"] == "1"
    assert not any(word in name for name in environment for word in ("KEY", "TOKEN", "SECRET"))


@pytest.mark.parametrize(
    ("prefix", "inside"),
    [
        ("/usrlocal/python", "/usrlocal/python"),
        ("/home/somebody/.pyenv/versions/3.13.0", "/home/somebody/.pyenv/versions/3.13.0"),
        ("/opt/python3.14", "/opt/python3.14"),
        ("/tmp/python", "/opt/python"),
        ("/scratch", "/opt/python"),
        ("/etc/alternatives/python", "/opt/python"),
        ("/usr", None),
        ("/usr/local", None),
    ],
)
def test_a_python_stands_whole_at_its_own_path(prefix: str, inside: str | None) -> None:
    paths = msgspec.structs.replace(PATHS, python_prefix=prefix)
    mounts = worker_spec(GRANT, paths, gateway_port=0).mounts
    found = [m.target for m in mounts if m.kind == "ro_bind" and m.source == prefix and prefix != "/usr"]
    assert found == ([] if inside is None else [inside])
    assert python_inside(prefix) == (inside or prefix)


def test_the_digest_knows_every_field() -> None:
    changed = (
        msgspec.structs.replace(WORKER, tenant="other"),
        msgspec.structs.replace(WORKER, mounts=WORKER.mounts[:-1]),
        msgspec.structs.replace(WORKER, environment=(*WORKER.environment, ("A", "b"))),
        msgspec.structs.replace(WORKER, resources=msgspec.structs.replace(WORKER.resources, memory_bytes=1)),
    )
    digests = {spec_digest(spec) for spec in (WORKER, *changed)}
    assert len(digests) == 1 + len(changed)
    assert spec_digest(WORKER) == spec_digest(worker_spec(GRANT, PATHS, gateway_port=8080))
