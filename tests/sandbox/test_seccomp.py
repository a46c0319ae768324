"""The filter: complete as data, and each refused call refused in a real sandbox."""

from __future__ import annotations

import ast
import ctypes
import json
import os
import platform
import random
from pathlib import Path

import pytest

from bridgehold.errors import UnsupportedError
from bridgehold.sandbox.launch import seccomp
from bridgehold.sandbox.launch.seccomp_rules import Rule
from sandbox.launcher_support import Machine

TRY = """
import ctypes, errno, json, mmap, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
found = {}
def call(name, number, *args):
    ctypes.set_errno(0)
    value = libc.syscall(ctypes.c_long(number), *(ctypes.c_long(a) for a in args))
    found[name] = errno.errorcode[ctypes.get_errno()] if value == -1 else "DONE"
def opened(name, *args):
    try:
        socket.socket(*args).close()
        found[name] = "DONE"
    except OSError as error:
        found[name] = errno.errorcode[error.errno]
"""

# x86-64 numbers: the calls are made raw, so that no library's fallback hides the answer.
CALLS = {
    "mount": 165, "umount2": 166, "pivot_root": 155, "chroot": 161, "open_tree": 428, "move_mount": 429,
    "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433, "mount_setattr": 442, "statmount": 457,
    "listmount": 458, "open_tree_attr": 467, "move_pages": 279, "unshare": 272, "add_key": 248,
    "request_key": 249, "keyctl": 250, "bpf": 321, "perf_event_open": 298, "userfaultfd": 323,
    "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "ptrace": 101,
    "process_vm_readv": 310, "process_vm_writev": 311, "pidfd_getfd": 438, "kcmp": 312,
    "open_by_handle_at": 304, "name_to_handle_at": 303, "kexec_load": 246, "init_module": 175,
    "finit_module": 313, "delete_module": 176, "reboot": 169, "swapon": 167, "acct": 163,
    "quotactl": 179, "syslog": 103, "iopl": 172, "settimeofday": 164, "clock_settime": 227,
    "fanotify_init": 300, "modify_ldt": 154, "sethostname": 170,
}  # fmt: skip
FAMILIES = (
    "AF_NETLINK",
    "AF_PACKET",
    "AF_VSOCK",
    "AF_ALG",
    "AF_BLUETOOTH",
    "AF_TIPC",
    "AF_CAN",
    "AF_QIPCRTR",
)


def refuses(call: str, *arguments: int) -> bool:
    """Whether a rule is for a call with these arguments."""
    tests = {
        "eq": lambda value, test: value == test.value,
        "ne": lambda value, test: value != test.value,
        "lt": lambda value, test: value < test.value,
        "gt": lambda value, test: value > test.value,
        "ge": lambda value, test: value >= test.value,
        "masked_eq": lambda value, test: value & test.mask == test.value,
        "other_id": lambda value, test: value & 0xFFFFFFFF not in (test.value, 0xFFFFFFFF),
    }
    return any(
        all(tests[test.op](arguments[test.index], test) for test in rule.when)
        for rule in seccomp.RULES
        if call in rule.calls
    )


def tried(box: Machine, code: str) -> dict[str, str]:
    out, report = box.python(TRY + code + "\nprint(json.dumps(found))")
    assert report.cause == "exited", (out, report)
    assert report.status == 0, out
    return dict(json.loads(out.splitlines()[-1]))


def test_ids_are_compared_as_the_kernel_does() -> None:
    for call, places in (("chown", (1, 2)), ("fchownat", (2, 3)), ("setuid", (0,)), ("setresgid", (0, 1, 2))):
        for place in places:
            for value in (0, 999, 1001, 65534, 100_000, 0xFFFFFFFE, 1 << 32):
                assert refuses(call, *(value if number == place else 1000 for number in range(5)))
            for value in (1000, 0xFFFFFFFF, (1 << 64) - 1, 1 << 32 | 1000):
                assert not refuses(call, *(value if number == place else 1000 for number in range(5)))


def test_the_filter_compiles_to_bpf() -> None:
    program = seccomp.compile_filter()
    assert len(program) % 8 == 0
    assert 50 < len(program) // 8 <= 4096


def test_a_call_that_libseccomp_can_not_name_is_refused_and_named() -> None:
    """Left out in silence, its rule would leave it open."""
    rules = (*seccomp.RULES, Rule(calls=("mount", "no_such_call"), why="a misspelt name"))
    with pytest.raises(UnsupportedError, match="no_such_call"):
        seccomp.compile_filter(rules)


def test_new_calls_have_the_numbers_that_a_libseccomp_that_knows_them_gives() -> None:
    library = ctypes.CDLL("libseccomp.so.2")
    found = {name: library.seccomp_syscall_resolve_name(name.encode()) for name in seccomp.NEW_NUMBERS}
    known = {name: number for name, number in found.items() if number != -1}
    assert len(known) > 15
    assert known == {name: seccomp.NEW_NUMBERS[name] for name in known}
    assert all(number >= 424 for number in seccomp.NEW_NUMBERS.values())  # older ones differ by architecture


def test_the_page_lists_every_call_and_reason() -> None:
    page = seccomp.reference()
    for rule in seccomp.RULES:
        assert rule.why in page
        assert all(f"`{call}`" in page for call in rule.calls)


@pytest.mark.hostile
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers of the test are x86-64's")
def test_each_call_is_refused(box: Machine) -> None:
    code = "\n".join(f"call({name!r}, {number}, 0, 0, 0, 0, 0)" for name, number in CALLS.items())
    others = {
        "setns": (308, "ENOSYS"),
        "sched_setattr": (314, "ENOSYS"),
        "sync": (162, "DONE"),
        "syncfs": (306, "DONE"),
    }
    code += "".join(f"\ncall({name!r}, {number}, -1, 0)" for name, (number, _) in others.items())
    found = tried(box, code)  # syncfs(-1): the kernel itself would say EBADF
    other = {name: answer for name, (_, answer) in others.items()} | {"name_to_handle_at": "ENOTSUP"}
    absent = (
        *("add_key", "request_key", "keyctl", "io_uring_setup", "io_uring_enter", "io_uring_register"),
        *("statmount", "listmount", "open_tree_attr", "move_pages", "modify_ldt"),
    )
    assert found == dict.fromkeys(CALLS, "EPERM") | other | dict.fromkeys(absent, "ENOSYS")


@pytest.mark.hostile
def test_what_others_read_stays_in_memory(box: Machine) -> None:
    """Thrown out through a read-only mount, it would tell when another session reads it again."""
    shared = Path(os.__file__).with_name("this.py")
    shared.read_bytes()
    out, _ = box.python(
        f"""
import mmap, os
descriptor = os.open({str(shared)!r}, os.O_RDONLY)
os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
with mmap.mmap(descriptor, 0, prot=mmap.PROT_READ) as mapped:
    for advice in (4, 20, 21):  # DONTNEED, COLD, PAGEOUT: of this mapping alone
        mapped[0], mapped.madvise(advice)
print("tried")
"""
    )
    assert "tried" in out
    with shared.open("rb") as file:
        assert os.preadv(file.fileno(), [bytearray(64)], 0, os.RWF_NOWAIT) == 64  # EAGAIN: not in memory


@pytest.mark.hostile
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers of the test are x86-64's")
def test_calls_newer_than_the_list_do_not_exist(box: Machine) -> None:
    numbers = (seccomp.UNREVIEWED.start, 500, seccomp.UNREVIEWED.stop - 1)
    found = tried(box, "\n".join(f"call({number}, {number})" for number in numbers))
    assert set(found.values()) == {"ENOSYS"}


@pytest.mark.hostile
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers of the test are x86-64's")
def test_new_namespaces_are_refused_whichever_way_they_are_asked_for(box: Machine) -> None:
    flags = (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000)
    code = "\n".join(f"call('clone {flag:#x}', 56, {flag} | 17, 0, 0, 0, 0)" for flag in flags)
    found = tried(box, code + "\ncall('clone3', 435, 0, 88)")
    assert found.pop("clone3") == "ENOSYS"  # EPERM would break threads of newer libraries
    assert set(found.values()) == {"EPERM"}


def test_a_personality_may_be_asked_for_and_none_be_taken_that_weakens() -> None:
    """Every set of flags, by each of its bits and by chance, with whatever stands below and above them."""
    draw = random.Random(17)
    low = [0, 1, 8, 0x20000, 0x20008, 0x3FFFF, *(draw.getrandbits(18) for _ in range(20))]
    flags = {1 << bit for bit in range(18, 32)} | {0xFFFC0000 ^ (1 << bit) for bit in range(18, 32)}
    flags |= {0xFFFC0000, *(draw.getrandbits(14) << 18 for _ in range(3_000))} - {0}
    for value in (flag | rest for flag in flags for rest in low):
        assert refuses("personality", value) == (value != 0xFFFFFFFF), hex(value)
        assert refuses("personality", value | 1 << 32)  # the kernel looks at 32 bits
    assert not any(refuses("personality", value) for value in low)
    for bit in range(32):
        assert refuses("personality", 0xFFFFFFFF ^ (1 << bit))


@pytest.mark.hostile
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers of the test are x86-64's")
def test_a_refusal_is_one_at_which_libraries_fall_back(box: Machine) -> None:
    found = tried(
        box,
        """
call("asks", 135, 0xFFFFFFFF)
for value in (0x0040000, 0x0400000, 0x0100000, 0x4000000, 0xFFFFFFFE, (1 << 32) | 0x0040000):
    call(f"takes {value:#x}", 135, value)
import subprocess
try:
    socket.if_nameindex()
except OSError as error:
    found["interfaces"] = errno.errorcode[error.errno]
# Programs and libraries that go on without what is refused:
found["cp keeps what it can"] = str(subprocess.run(["cp", "--preserve=all", "/etc/passwd", "/scratch/copy"]).returncode)
found["tar"] = str(subprocess.run("tar -C /etc -cf - passwd | tar -C /scratch --same-owner -xpf - 2>/dev/null; test -s /scratch/passwd",
                                  shell=True).returncode)
found["addresses"] = socket.getaddrinfo("127.0.0.1", 80, flags=socket.AI_ADDRCONFIG)[0][4][0]
""",
    )
    takes = {name: answer for name, answer in found.items() if name.startswith("takes")}
    assert set(takes.values()) == {"EPERM"}
    assert {name: answer for name, answer in found.items() if name not in takes} == {
        "asks": "DONE",
        "interfaces": "EAFNOSUPPORT",
        "cp keeps what it can": "0",
        "tar": "0",
        "addresses": "127.0.0.1",
    }


@pytest.mark.hostile
def test_socket_families_types_and_protocols(box: Machine) -> None:
    families = "\n".join(
        f"if hasattr(socket, {name!r}): opened({name!r}, socket.{name}, socket.SOCK_RAW)\n"
        f"if hasattr(socket, {name!r}): opened({name + ' dgram'!r}, socket.{name}, socket.SOCK_DGRAM)"
        for name in FAMILIES
    )
    found = tried(box, families)
    assert {"AF_NETLINK", "AF_PACKET", "AF_VSOCK"} <= found.keys()
    assert set(found.values()) == {"EAFNOSUPPORT"}
    # A family with high bits set is the same family to the kernel.
    found = tried(box, "call('vsock', 41, (1 << 32) | 40, 1, 0); call('netlink', 41, (7 << 32) | 16, 2, 0)")
    assert set(found.values()) == {"EAFNOSUPPORT"}
    found = tried(
        box,
        """
opened("raw", socket.AF_INET, socket.SOCK_RAW, 1)
opened("raw6", socket.AF_INET6, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 58)
opened("packet", socket.AF_INET, 10, 0x0300)
opened("sctp", socket.AF_INET, socket.SOCK_STREAM, 132)
opened("mptcp", socket.AF_INET, socket.SOCK_STREAM, 262)
""",
    )
    refused = {
        "raw": "EPERM",
        "raw6": "EPERM",
        "packet": "EPERM",
    }  # as at home, where ping's libraries fall back
    assert found == {**refused, "sctp": "EPROTONOSUPPORT", "mptcp": "EPROTONOSUPPORT"}
    found = tried(
        box,
        """
for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        opened(f"{family} {kind}", family, kind)
""",
    )
    assert set(found.values()) == {"DONE"}
    # Of what is left, nothing makes the kernel look for a module.
    found = tried(
        box,
        """
for family in (2, 10):
    for kind in (1, 2, 5):
        for protocol in range(20):
            opened(f"{kind} {protocol} {family}", family, kind, protocol)
            call(f"pair {kind} {protocol} {family}", 53, family, kind, protocol, 0)
""",
    )
    made = {name[:-2].strip() for name, answer in found.items() if answer == "DONE"}
    assert made == {"1 0", "1 6", "2 0", "2 17"}
    pairs = {
        name for name, answer in found.items() if name.startswith("pair") and answer == "EPROTONOSUPPORT"
    }
    assert len(pairs) == 2 * (3 * 20 - 4)
    found = tried(
        box,
        """
for family in (2, 10):
    for kind in (0, 3, 4, 6, 7, 8, 9, 10):
        for protocol in (0, 1, 6, 17, 33, 58, 132, 255, 262, (1 << 32) | 6):
            for more in (0, 0o2000000, 1 << 32):
                call(f"{kind} {protocol} {family} {more}", 41, family, kind | more, protocol)
                call(f"pair {kind} {protocol} {family} {more}", 53, family, kind | more, protocol, 0)
""",
    )
    assert set(found.values()) == {"EPERM"}, (
        "the filter's: the kernel's own, after modprobe, is ESOCKTNOSUPPORT"
    )


@pytest.mark.hostile
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers of the test are x86-64's")
def test_terminals_and_personalities(box: Machine) -> None:
    found = tried(
        box,
        """
main, side = os.openpty()
for name, request in (("TIOCSTI", 0x5412), ("TIOCLINUX", 0x541C), ("TIOCSETD", 0x5423)):
    call(name, 16, side, request, 0)
    call(name + " with high bits", 16, side, request | 0x1234_0000_0000, 0)
end = socket.socket(socket.AF_UNIX).detach()
for request in (0x8940, 0x8941, 0x8980, 0x8981, 0x8982, 0x8983, 0x89A0, 0x89A1):
    call(f"a driver {request:#x}", 16, end, request, 0)
    call(f"a driver {request:#x} with high bits", 16, end, request | 1 << 40, 0)
call("no randomisation", 135, 0x0040000)
call("read implies exec", 135, 0x0400000)
""",
    )
    assert set(found.values()) == {"EPERM"}
    assert tried(box, "call('default', 135, 0)") == {"default": "DONE"}


@pytest.mark.hostile
@pytest.mark.skipif(platform.machine() != "x86_64", reason="32-bit code of x86")
def test_a_32_bit_call_kills(box: Machine) -> None:
    """``mov eax, 20; int 0x80; ret``: getpid by the 32-bit door, where no number means the same."""
    code = """
    import ctypes, mmap
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(bytes.fromhex("b814000000cd80c3"))
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    print("pid", ctypes.CFUNCTYPE(ctypes.c_int)(address)())
    """
    out, report = box.python(code)
    assert "pid" not in out
    assert (report.cause, report.status) == ("signal", 31)


@pytest.mark.hostile
def test_code_in_pid_1_is_filtered_too(box: Machine) -> None:
    """bubblewrap's own init can be written to from inside; it has nothing that the guest lacks."""
    out, _ = box.python(
        """
        text = open("/proc/1/status").read()
        print({line.split(":")[0]: line.split()[1] for line in text.splitlines() if line[:3] in ("Sec", "Cap", "NoN")})
        """
    )
    facts = ast.literal_eval(out)
    assert facts["Seccomp"] == "2"
    assert facts["NoNewPrivs"] == "1"
    assert {int(value, 16) for name, value in facts.items() if name.startswith("Cap")} == {0}


def test_ordinary_python_works(box: Machine) -> None:
    code = """
    import concurrent.futures, multiprocessing, os, socket, sqlite3, ssl, subprocess, sys, tempfile, threading, time
    import asyncio, ctypes, decimal, hashlib, json, random, select, shutil, signal, uuid
    def twice(n): return n * 2
    if __name__ == "__main__":
        results = []
        threads = [threading.Thread(target=results.append, args=(n,)) for n in range(8)]
        [t.start() for t in threads]; [t.join() for t in threads]
        assert sorted(results) == list(range(8))
        assert subprocess.run(["/bin/echo", "x"], capture_output=True, check=True).stdout == b"x\\n"
        assert os.system("exit 3") >> 8 == 3
        context = multiprocessing.get_context("fork")
        with context.Pool(2) as pool:
            assert pool.map(twice, [1, 2, 3]) == [2, 4, 6]
        lock, value = context.Lock(), context.Value("i", 0)
        with lock: value.value += 1
        with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
            assert list(pool.map(twice, [4])) == [8]
        server = socket.create_server(("127.0.0.1", 0))
        client = socket.create_connection(server.getsockname())
        accepted, _ = server.accept(); client.sendall(b"hi"); assert accepted.recv(2) == b"hi"
        async def main():
            process = await asyncio.create_subprocess_exec("/bin/true")
            assert await process.wait() == 0
            return await asyncio.to_thread(sum, [1, 2])
        assert asyncio.run(main()) == 3
        with tempfile.NamedTemporaryFile() as file: file.write(b"x" * 100000)
        assert sqlite3.connect("/scratch/x.db").execute("select 1").fetchone() == (1,)
        assert ssl.RAND_bytes(8) and uuid.uuid4() and time.time()
        print("fine", shutil.disk_usage("/scratch").total, os.cpu_count())
    """
    out, report = box.python(code)
    assert out.startswith("fine"), out
    assert (report.cause, report.status) == ("exited", 0)
