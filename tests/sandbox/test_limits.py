"""rlimits, each by what a child experiences at it."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from bridgehold.sandbox.limits.rlimits import apply_rlimits, core_handler, own_rlimits, rlimits
from bridgehold.sandbox.values import Resources

MIB = 1 << 20
SMALL = Resources(
    memory_bytes=128 * MIB, cpu_millis=1000, processes=8, open_files=32, file_size_bytes=2 * MIB
)
UID = 0x7A00_0002


def outcome(act: Callable[[], object], *, as_limit: bool = False, shared_uid: bool = False) -> int:
    """What `act` ended with under the limits: errno, 0, or minus the signal."""
    pid = os.fork()
    if pid == 0:
        try:
            os.closerange(3, 1 << 16)  # whatever pytest's other tests left open: the bound counts descriptors
            apply_rlimits(own_rlimits(SMALL, as_limit=as_limit, shared_uid=shared_uid, zygote=False))
            act()
            os._exit(0)
        except OSError as error:
            os._exit(error.errno or 99)
        except MemoryError:
            os._exit(errno.ENOMEM)
        except ValueError:
            os._exit(98)
        except BaseException:
            os._exit(97)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_one_descriptor_too_many_is_refused() -> None:  # ABUSE 7
    assert outcome(lambda: [os.open("/dev/null", os.O_RDONLY) for _ in range(40)]) == errno.EMFILE


def test_a_file_can_not_grow_past_its_size(tmp_path: Path) -> None:
    def act() -> None:
        with (tmp_path / "file").open("wb", buffering=0) as file:
            for _ in range(4):
                file.write(b"x" * MIB)

    assert outcome(act) == errno.EFBIG
    assert (tmp_path / "file").stat().st_size == SMALL.file_size_bytes

    def with_default_signal() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        act()

    assert outcome(with_default_signal) == -signal.SIGXFSZ


def test_a_crash_leaves_no_core(tmp_path: Path) -> None:
    def act() -> None:
        os.chdir(tmp_path)
        signal.signal(signal.SIGQUIT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGQUIT)

    assert outcome(act) == -signal.SIGQUIT
    assert list(tmp_path.iterdir()) == []


def test_limits_can_not_be_raised_again_by_who_has_no_privilege() -> None:
    if os.getuid() != 0:
        pytest.skip("needs root to become somebody else")

    def act() -> None:
        os.setresuid(UID, UID, UID)
        for number in rlimits(SMALL, as_limit=True):
            soft, hard = resource.getrlimit(number)
            assert soft == hard
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(number, (hard + 1, hard + 1))
                os._exit(96)

    assert outcome(act, as_limit=True) == 0


def test_an_ordinary_uid_forks_up_to_its_cap_and_another_uid_is_not_touched() -> None:
    if os.getuid() != 0:
        pytest.skip("needs root to give the child a uid of its own")

    def bomb() -> None:
        read, write = os.pipe()
        os.setresuid(UID, UID, UID)
        children = []
        try:
            for _ in range(100):
                pid = os.fork()
                if pid == 0:
                    os.close(write)
                    os.read(read, 1)
                    os._exit(0)
                children.append(pid)
        except BlockingIOError:
            os._exit(len(children))
        finally:
            for pid in children:
                os.kill(pid, signal.SIGKILL)

    # the child itself and bubblewrap's room count: the cap's own processes are left
    assert outcome(bomb) == SMALL.processes + 4 - 1

    def other() -> None:
        os.setresuid(UID + 1, UID + 1, UID + 1)
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)

    assert outcome(other) == 0


def test_a_shared_uid_keeps_the_user_s_own_process_limit() -> None:
    before = resource.getrlimit(resource.RLIMIT_NPROC)

    def act() -> None:
        os._exit(0 if resource.getrlimit(resource.RLIMIT_NPROC) == before else 1)

    assert outcome(act, shared_uid=True) == 0
    assert outcome(act) == 1


def test_address_space_is_bounded_only_where_asked() -> None:
    def act() -> None:
        mmap.mmap(-1, 4 << 30, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=mmap.PROT_READ).close()

    assert outcome(act) == 0
    assert outcome(act, as_limit=True) == errno.ENOMEM


def test_locked_memory_and_message_queues_are_bounded() -> None:
    def lock() -> None:
        if os.getuid() == 0:
            os.setresuid(UID, UID, UID)
        _, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
        os._exit(0 if 0 < hard <= 64 * 1024 else 1)

    assert outcome(lock) == 0
    assert outcome(lambda: os._exit(resource.getrlimit(resource.RLIMIT_MSGQUEUE)[1])) == 0


def test_a_limit_that_is_lower_already_stays() -> None:
    def act() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))
        apply_rlimits(rlimits(SMALL, as_limit=False))
        os._exit(resource.getrlimit(resource.RLIMIT_NOFILE)[1])

    assert outcome(act) == 16


@pytest.mark.parametrize(
    ("pattern", "limit", "handler"),
    [
        ("core\n", 1, ""),
        ("core\n", 0, ""),
        ("|/usr/lib/apport %p\n", 1, ""),
        ("|/usr/lib/apport %p\n", 0, "the program /usr/lib/apport %p"),
        ("@/run/cores\n", 1, "the socket /run/cores"),
    ],
)
def test_what_a_crash_reaches_is_known(pattern: str, limit: int, handler: str) -> None:
    assert core_handler(pattern, limit) == handler
