"""A tenant's own level: many sessions of one have the part of one session of another, and one bound."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bridgehold.errors import BridgeholdError, BusyError, TenantFullError
from bridgehold.sandbox.cgroups import CgroupParent, SessionCgroup, files, tenants
from bridgehold.sandbox.cgroups.admission import Capacity
from bridgehold.sandbox.launcher.control import LauncherClient
from bridgehold.sandbox.values import TenantShare
from sandbox import test_cgroups
from sandbox.fork_support import Nursery
from sandbox.launcher_support import Machine, close, python_spec, resources
from sandbox.test_cgroups import MIB, SMALL, Place, child, ended, finish, take, wait_until

place = test_cgroups.place
MANY = 300
CAPACITY = Capacity(memory_bytes=1 << 30, processes=1000)


def spin() -> None:
    """On one processor with all others: two that are busy with more than these share out in other parts."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    while True:
        pass


def spin_twice() -> None:
    os.fork()
    spin()


def cpu(*sessions: SessionCgroup) -> int:
    return sum(session.usage().cpu_us for session in sessions)


def test_six_spinning_sessions_of_one_tenant_leave_another_s_one_its_half(place: Place) -> None:
    free = msgspec.structs.replace(SMALL, cpu_millis=64_000)

    def act(parent: CgroupParent) -> Any:
        many = [parent.create(f"w-{number}", free, tenant="many") for number in range(6)]
        one = parent.create("w-one", free, tenant="one")
        for session in many:
            child(session, spin)
        child(one, spin_twice)
        assert wait_until(lambda: sum(len(session.processes()) for session in (*many, one)) == 8, 60)
        before = cpu(*many), cpu(one)
        enough = sum(before) + 2_000_000
        assert wait_until(lambda: cpu(*many, one) > enough, 60)
        used = cpu(*many) - before[0], cpu(one) - before[1]
        finish(*many, one)
        return used[1] / sum(used)

    assert 0.45 < place.run(act) < 0.55  # one of seven were 0.14


def test_a_tenant_over_its_cap_loses_a_session_of_its_own_and_no_other_tenant_s(place: Place) -> None:
    large = msgspec.structs.replace(SMALL, memory_bytes=200 * MIB)

    def act(parent: CgroupParent) -> Any:
        share = TenantShare(memory_bytes=80 * MIB)
        first = parent.create("w-first", large, tenant="hog", share=share)
        second = parent.create("w-second", large, tenant="hog")
        other = parent.create("w-other", large, tenant="other")
        child(other, lambda: test_cgroups._keep(take(60 * MIB)))
        child(first, lambda: test_cgroups._keep(take(50 * MIB)))
        assert wait_until(
            lambda: first.usage().memory_bytes >= 50 * MIB and other.usage().memory_bytes >= 60 * MIB
        )
        child(second, lambda: test_cgroups._keep(take(50 * MIB)))
        killed = wait_until(lambda: first.usage().oom_kills + second.usage().oom_kills > 0)
        lives = [other.usage().oom_kills, len(other.processes())]
        finish(first, second, other)
        return [killed, *lives]

    assert place.run(act) == [True, 0, 1]


def test_a_tenant_over_its_processes_is_refused_a_fork_and_another_forks_on(place: Place) -> None:
    def act(parent: CgroupParent) -> Any:
        share = TenantShare(processes=10)
        crowd = [parent.create(f"w-{n}", SMALL, tenant="crowd", share=share) for n in range(2)]
        other = parent.create("w-other", SMALL, tenant="other")
        for session in crowd:
            child(session, bomb)
        assert wait_until(lambda: sum(len(session.processes()) for session in crowd) == 10)
        innocent = ended(child(other, lambda: os._exit(ended(os.fork() or os._exit(7)))))
        finish(*crowd, other)
        return innocent

    assert place.run(act) == 7


def bomb() -> None:
    import time

    for _ in range(50):
        with contextlib.suppress(BlockingIOError):
            if os.fork() == 0:
                time.sleep(60)
    time.sleep(60)


def test_a_share_that_changes_holds_for_what_runs_and_a_smaller_cap_than_is_held_is_refused(
    place: Place,
) -> None:
    def act(parent: CgroupParent) -> Any:
        first = parent.create("w-first", SMALL, tenant="one")
        on_v1 = parent.version == "v1"
        folder = Path(first.path).parent
        cap = folder / ("memory.limit_in_bytes" if on_v1 else "memory.max")
        seen = [files.number(cap) == parent.capacity_bytes]
        for size in (100 * MIB, 300 * MIB, 40 * MIB):
            parent.share_out("one", TenantShare(memory_bytes=size, cpu_weight=300))
            seen.append(files.number(cap) == size)
        parent.create("w-more", SMALL, tenant="one").remove()
        seen.append(files.number(cap) == 40 * MIB)  # who says nothing changes nothing
        child(first, lambda: test_cgroups._keep(take(20 * MIB)))
        assert wait_until(lambda: first.usage().memory_bytes >= 20 * MIB)
        try:
            parent.share_out("one", TenantShare(memory_bytes=8 * MIB))
        except BusyError as error:
            seen.append("End sessions" in error.hint)
        seen.append(files.number(cap) == 40 * MIB and first.usage().oom_kills == 0)
        finish(first)
        return seen

    assert place.run(act) == [True] * 7


def test_folders_go_with_the_last_session_of_a_tenant_and_none_is_left_of_many(place: Place) -> None:
    def act(parent: CgroupParent) -> Any:
        top: Path | None = None
        most = 0
        for number in range(MANY):
            session = parent.create("w-one", SMALL, tenant=f"t{number}")
            top = Path(session.path).parent.parent
            session.remove()
            parent.tidy()
            most = max(most, len(owned_folders(parent)))
        kept = parent.create("w-kept", SMALL, tenant="kept")
        other = parent.create("w-other", SMALL, tenant="kept")
        other.remove()
        parent.tidy()
        there = Path(kept.path).parent.name
        kept.remove()
        parent.tidy()
        assert top is not None
        return [most, there, owned_folders(parent)]

    assert place.run(act) == [0, "tenant-kept", []]


def owned_folders(parent: CgroupParent) -> list[str]:
    """Tenants' folders in every hierarchy."""
    found = []
    for top in parent._tenants._tops:  # type: ignore[attr-defined]  # every hierarchy's
        with contextlib.suppress(OSError):
            found += [entry.name for entry in os.scandir(top) if entry.is_dir()]
    return found


def test_a_tenant_whose_folder_can_not_be_made_leaves_nothing_and_is_typed(place: Place) -> None:
    def act(parent: CgroupParent) -> Any:
        codes = []
        for share in (TenantShare(memory_bytes=1), TenantShare(cpu_weight=1)):
            try:
                parent.create("../out", SMALL, tenant="one", share=share)
            except BridgeholdError as error:
                codes.append(error.code)
        parent.tidy()
        return [codes, owned_folders(parent)]

    assert place.run(act) == [["usage", "usage"], []]


def test_idle_sessions_of_one_tenant_leave_room_for_another_s_first_in_both_starts(box: Machine) -> None:
    """The act of taking all admission, at a real launcher: large promises, so that a few sessions do it."""
    code = "import time; print('up', flush=True); time.sleep(300)"

    async def act(client: LauncherClient) -> None:
        client.share_of = lambda _: TenantShare(tenants=2)
        size = (await client.machine()).memory_bytes // 7
        hog, other = Nursery(box, tenant="hog"), Nursery(box, tenant="other")
        zygotes = [await nursery.zygote(client) for nursery in (hog, other)]
        limits = {"memory_bytes": size}
        held = []

        async def take_all() -> None:
            while len(held) < 8:
                held.append(await client.launch(python_spec(code, tenant="hog", limits=limits)))

        with pytest.raises(TenantFullError) as caught:
            await take_all()
        with pytest.raises(TenantFullError):
            await client.fork(zygotes[0].launched.worker, hog.spec(resources=resources(**limits)))
        assert len(held) in (4, 5)
        assert "kept for 1 other tenants" in caught.value.message
        assert (caught.value.retry, bool(caught.value.hint)) == ("later", True)
        held.append(await client.fork(zygotes[1].launched.worker, other.spec(resources=resources(**limits))))
        for launched, ends in held:
            await client.kill(launched.worker)
            close(ends)
        for zygote in zygotes:
            await zygote.end()

    box.drive(act)


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".", "host", "x" * 5000, "A", "cgroup.procs", "\0"])
def test_a_tenant_s_name_is_never_a_path(name: str) -> None:
    folder = tenants.folder_name(name)
    assert len(folder) < 80
    assert "/" not in folder
    assert folder.startswith("tenant")
    assert tenants.folder_name("acme") == "tenant-acme"


def test_limits_are_never_more_than_all_sessions_have_and_weights_are_each_version_s_own() -> None:
    wide = tenants.limits(TenantShare(memory_bytes=1 << 40, processes=1 << 20), CAPACITY)
    assert (wide.memory_bytes, wide.processes, wide.cpu_shares) == (1 << 30, 1000, 1024)
    assert tenants.limits(TenantShare(memory_bytes=5000), CAPACITY).memory_bytes == 4096
    shares = [tenants.limits(TenantShare(cpu_weight=w), CAPACITY).cpu_shares for w in (1, 50, 10_000)]
    assert shares == [10, 512, 102_400]


@pytest.fixture(autouse=True)
def _none_left() -> Iterator[None]:
    yield
    assert not [path for path in Path("/sys/fs/cgroup").glob("*/tenant*") if path.is_dir()]
