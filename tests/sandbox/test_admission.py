from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridgehold.errors import BusyError, TenantFullError, UnsupportedError
from bridgehold.policies.parts import kept_for_others
from bridgehold.sandbox.cgroups import admission
from bridgehold.sandbox.cgroups.admission import Capacity, Held, capacity, machine_capacity
from bridgehold.sandbox.values import Resources, TenantShare

GIB = 1 << 30


def session(memory: int, processes: int = 10) -> Resources:
    return Resources(
        memory_bytes=memory, cpu_millis=100, processes=processes, open_files=10, file_size_bytes=10
    )


LIMITS = Capacity(memory_bytes=4 * GIB, processes=100)


def admit(
    wanted: Resources,
    held: list[Resources] | dict[str, list[Resources]],
    limits: Capacity,
    *,
    tenant: str = "local",
    share: TenantShare | None = None,
    overcommit: bool = False,
) -> None:
    by_tenant = held if isinstance(held, dict) else {tenant: held}
    promised = [(name, one) for name, ones in by_tenant.items() for one in ones]
    admission.admit(wanted, Held.of(promised), limits, tenant=tenant, share=share, overcommit=overcommit)


def fill(
    tenant: str, held: dict[str, list[Resources]], one: Resources, limits: Capacity, tenants: int
) -> int:
    """As many sessions as `tenant` gets."""
    count = 0
    while True:
        try:
            admit(one, held, limits, tenant=tenant, share=TenantShare(tenants=tenants))
        except BusyError:
            return count
        held.setdefault(tenant, []).append(one)
        count += 1


def test_the_last_session_that_fits_is_let_in_and_the_next_is_told_the_numbers() -> None:
    held = [session(GIB)] * 3
    admit(session(GIB), held, LIMITS)
    with pytest.raises(BusyError) as caught:
        admit(session(GIB), [*held, session(1)], LIMITS)
    assert caught.value.retry == "later"
    assert "1 GiB of memory does not fit: 4 sessions are promised 3 GiB of 4 GiB" in caught.value.message
    assert "overcommit" in caught.value.hint


def test_processes_are_admitted_like_memory() -> None:
    held = [session(1, 45)] * 2
    admit(session(1, 10), held, LIMITS)
    with pytest.raises(
        BusyError, match="11 processes do not fit: 2 sessions are promised 90 of 100"
    ) as caught:
        admit(session(1, 11), held, LIMITS)
    assert "pid_max" in caught.value.hint


def test_overcommit_lets_the_sum_pass_but_never_one_session_that_is_larger_than_everything() -> None:
    held = [session(4 * GIB, 100)] * 5
    admit(session(4 * GIB, 100), held, LIMITS, overcommit=True)
    for impossible in (session(5 * GIB), session(1, 101)):
        with pytest.raises(BusyError, match="never fits") as caught:
            admit(impossible, [], LIMITS, overcommit=True)
        assert caught.value.retry == "no"


@given(
    st.lists(
        st.tuples(st.integers(1, 5 * GIB), st.integers(1, 200)).map(lambda pair: session(*pair)), max_size=30
    )
)
def test_whatever_is_asked_the_promises_never_pass_the_capacity(asked: list[Resources]) -> None:
    held: list[Resources] = []
    for one in asked:
        try:
            admit(one, held, LIMITS)
        except BusyError:
            continue
        held.append(one)
    assert sum(one.memory_bytes for one in held) <= LIMITS.memory_bytes
    assert sum(one.processes for one in held) <= LIMITS.processes


def test_one_tenant_s_idle_sessions_take_all_admission_no_more() -> None:
    """The act: 44 sessions of 512 MiB on 22 GiB, and then another tenant's first."""
    limits, held = Capacity(memory_bytes=22 * GIB, processes=28_000), dict[str, list[Resources]]()
    one = session(GIB // 2, 32)
    assert fill("hog", dict(held), one, limits, 1) == 44  # alone, it has everything
    assert fill("hog", held, one, limits, 2) == 33
    with pytest.raises(TenantFullError) as caught:
        admit(one, held, limits, tenant="hog", share=TenantShare(tenants=2))
    assert caught.value.code == "tenant_full"
    assert (caught.value.retry, caught.value.exit_status) == ("later", 24)
    assert "tenant hog is promised 16.5 GiB" in caught.value.message
    assert "5.5 GiB are kept for 1 other tenants" in caught.value.message
    assert "End sessions of this tenant" in caught.value.hint
    assert fill("other", held, one, limits, 2) == 11


def test_however_many_tenants_there_are_a_hog_leaves_half_in_sessions_of_one_size() -> None:
    limits, held = Capacity(memory_bytes=22 * GIB, processes=28_000), dict[str, list[Resources]]()
    assert fill("hog", held, session(GIB // 2, 32), limits, 1000) == 22
    firsts = [fill(f"t{n}", held, session(GIB // 2, 32), limits, 1000) for n in range(30)]
    assert firsts == [1] * 22 + [0] * 8


@given(
    st.integers(2, 6),
    st.lists(st.tuples(st.integers(0, 5), st.integers(1, 900), st.integers(1, 30)), max_size=60),
)
def test_whatever_others_took_a_tenant_gets_its_part(tenants: int, asked: list[tuple[int, int, int]]) -> None:
    limits = Capacity(memory_bytes=12_000, processes=1_200)
    part = Capacity(memory_bytes=12_000 // (2 * tenants), processes=1_200 // (2 * tenants))
    held: dict[str, list[Resources]] = {}
    for who, memory, processes in asked:
        one = session(memory, processes)
        small = memory <= part.memory_bytes and processes <= part.processes
        if who % tenants and small:  # a larger session than the part may take from the parts of others
            with contextlib.suppress(BusyError):
                admit(one, held, limits, tenant=f"t{who % tenants}", share=TenantShare(tenants=tenants))
                held.setdefault(f"t{who % tenants}", []).append(one)
    mine = session(part.memory_bytes // 2, part.processes // 2)
    assert fill("t0", held, mine, limits, tenants) >= 2


def test_a_tenant_s_own_bound_is_its_bound_and_a_session_beyond_it_never_fits() -> None:
    share = TenantShare(memory_bytes=GIB)
    admit(session(GIB), [], LIMITS, share=share)
    with pytest.raises(TenantFullError, match="it may have 1 GiB"):
        admit(session(GIB), [session(1)], LIMITS, share=share)
    with pytest.raises(
        TenantFullError, match="never fits: all that tenant local has may have 1 GiB"
    ) as caught:
        admit(session(2 * GIB), [], LIMITS, share=share, overcommit=True)
    assert caught.value.retry == "no"
    with pytest.raises(TenantFullError, match="11 more processes do not fit"):
        admit(session(1, 11), [session(1, 10)], LIMITS, share=TenantShare(processes=20))


def test_what_others_hold_is_not_kept_for_them_twice() -> None:
    held = {"one": 50, "two": 10}
    assert kept_for_others(held, "one", 2, whole=100, need=10) == 15
    assert kept_for_others({"one": 50, "two": 25}, "one", 2, whole=100, need=10) == 0
    assert kept_for_others(held, "two", 2, whole=100, need=10) == 0
    assert kept_for_others({"one": 50}, "one", 50, whole=100, need=10) == 50
    assert kept_for_others({}, "one", 1, whole=100, need=10) == 0


def test_capacity_is_the_smaller_of_machine_and_ceiling_less_the_reserve() -> None:
    def ask(ceiling: int | None, pids: int | None = None) -> Capacity:
        return capacity(
            total_bytes=8 * GIB,
            memory_ceiling=ceiling,
            reserve_bytes=GIB,
            total_processes=32768,
            process_ceiling=pids,
        )

    assert ask(None) == Capacity(memory_bytes=7 * GIB, processes=28672)
    assert ask(3 * GIB, 800) == Capacity(memory_bytes=2 * GIB, processes=700)
    assert ask(2**63 - 4096).memory_bytes == 7 * GIB  # v1's word for no limit
    with pytest.raises(UnsupportedError, match=r"the reserve of 1 GiB leaves sessions nothing of the 1 GiB"):
        ask(GIB)


def test_this_machine_keeps_memory_and_processes_back() -> None:
    mine = machine_capacity(reserve_bytes=GIB // 4, memory_ceiling=None, process_ceiling=None)
    with open("/proc/sys/kernel/pid_max") as file:
        assert 0 < mine.processes < int(file.read())
    with open("/proc/meminfo") as file:
        total = int(file.readline().split()[1]) * 1024
    assert 0 < mine.memory_bytes < total
