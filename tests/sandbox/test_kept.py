"""Each attested fact has what keeps it true after the proof, and an act that tries to make it untrue."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from bridgehold.sandbox.attest.kept import KEPT, Kept
from bridgehold.sandbox.attest.observe import Observed, observe
from bridgehold.sandbox.launch.mounts import Identity, MountSeen
from bridgehold.sandbox.launcher.control import LauncherClient
from sandbox.launcher_support import Machine, close, python_spec, read_line

ROOT = Path(__file__).parents[2]


def test_every_attested_fact_has_a_keeper_and_no_row_keeps_what_is_not_attested() -> None:
    attested = {name for kind in (Observed, MountSeen, Identity) for name in kind.__struct_fields__}
    kept = [fact for one in KEPT for fact in one.facts]
    assert sorted(kept) == sorted(attested)


@cache
def functions_of(file: Path) -> dict[str, ast.FunctionDef | ast.AsyncFunctionDef]:
    tree = ast.parse(file.read_text())
    return {one.name: one for one in tree.body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize("one", KEPT, ids=lambda one: one.what)
def test_every_keeper_has_an_act_that_is_done(one: Kept) -> None:
    assert one.acts
    for act in one.acts:
        file, _, rest = act.partition("::")
        name, _, case = rest.partition("[")
        assert (ROOT / file).is_file(), act
        if not name:
            continue
        assert name in functions_of(ROOT / file), act
        if case:
            listed = [
                sys.executable, "-P", "-m", "pytest", "-q", "--collect-only", "-p", "no:cacheprovider",
                f"{file}::{name}",
            ]  # fmt: skip
            done = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
            assert case.removesuffix("]") in done.stdout, act


ACTS = r"""
import ctypes, os, resource, time
libc = ctypes.CDLL(None, use_errno=True)
done = []
def attempt(name, call):
    try:
        if not call():
            done.append(name)
    except (OSError, ValueError, AttributeError):
        pass
for other in (0, 1, 65534):
    attempt(f"setresuid {other}", lambda: os.setresuid(other, other, other))
    attempt(f"setresgid {other}", lambda: os.setresgid(other, other, other))
attempt("setgroups", lambda: os.setgroups([0]))
header = (ctypes.c_uint32 * 2)(0x20080522, 0)
full = (ctypes.c_uint32 * 6)(*[0xFFFFFFFF] * 6)
attempt("capset", lambda: libc.capset(header, full))
attempt("ambient", lambda: libc.prctl(47, 2, 21, 0, 0))
attempt("no_new_privs", lambda: libc.prctl(38, 0, 0, 0, 0))
attempt("seccomp off", lambda: libc.prctl(22, 0, 0, 0, 0))
attempt("a filter of its own", lambda: libc.prctl(22, 2, None, 0, 0))
for name, flag in (("user", 0x10000000), ("mnt", 0x20000), ("pid", 0x20000000), ("net", 0x40000000),
                   ("ipc", 0x8000000), ("uts", 0x4000000), ("cgroup", 0x2000000)):
    attempt(f"unshare {name}", lambda: libc.unshare(flag))
    for place in ("/proc/self/ns", "/proc/1/ns"):
        attempt(f"setns {place} {name}", lambda: libc.setns(os.open(f"{place}/{name}", os.O_RDONLY), 0))
for name in dir(resource):
    if name.startswith("RLIMIT_"):
        limit = getattr(resource, name)
        soft, hard = resource.getrlimit(limit)
        if hard != resource.RLIM_INFINITY:
            attempt(name, lambda: resource.setrlimit(limit, (soft, hard + 1)) or resource.getrlimit(limit) == (soft, hard))
targets = [line.split()[4] for line in open("/proc/self/mountinfo")]
for target in targets:
    path = target.encode()
    attempt(f"remount {target}", lambda: libc.mount(None, path, None, 32, None))
    attempt(f"bind and remount {target}", lambda: libc.mount(None, path, None, 32 | 4096, None))
    attempt(f"shared {target}", lambda: libc.mount(None, path, None, 1 << 20, None))
    attempt(f"umount {target}", lambda: libc.umount2(path, 2))
attempt("a mount of its own", lambda: libc.mount(b"none", b"/tmp", b"tmpfs", 0, None))
attempt("pivot_root", lambda: libc.syscall(155, b"/tmp", b"/tmp"))
attempt("chroot", lambda: os.chroot("/tmp"))
print(done, flush=True)
time.sleep(60)
"""


@pytest.mark.hostile
def test_nothing_that_was_proved_is_changed_from_inside(box: Machine) -> None:
    """Every call that could: each fails, and the second proof is the first."""

    async def act(client: LauncherClient) -> None:
        launched, ends = await client.launch(python_spec("print('up', flush=True); input()\n" + ACTS))
        await read_line(ends[1])
        before = await client.attest(launched.worker)
        seen = observe(before.pid) if os.getuid() == 0 else None
        os.write(ends[0], b"\n")
        assert await read_line(ends[1]) == "[]\n"
        assert await client.attest(launched.worker) == before
        assert (observe(before.pid) if os.getuid() == 0 else None) == seen
        await client.kill(launched.worker)
        close(ends)

    box.drive(act)
