from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridgehold.errors import BusyError, UnsupportedError
from bridgehold.sandbox.cgroups.admission import Capacity, admit, capacity, machine_capacity
from bridgehold.sandbox.values import Resources

GIB = 1 << 30


def session(memory: int, processes: int = 10) -> Resources:
    return Resources(
        memory_bytes=memory, cpu_millis=100, processes=processes, open_files=10, file_size_bytes=10
    )


LIMITS = Capacity(memory_bytes=4 * GIB, processes=100)


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
