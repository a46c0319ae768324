"""Every call that the filter refuses, and what meets its answer: a library that goes on, or one that says so."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from bridgehold.sandbox.launch import seccomp
from bridgehold.sandbox.launch.seccomp_rules import JOIN
from hostile.stage import PAIRED, Stage

pytestmark = pytest.mark.hostile
WAYS = PAIRED


class Library(NamedTuple):
    """Goes on where `calls` are refused: `code` leaves `comes_to` in ``found``."""

    calls: tuple[str, ...]
    code: str
    comes_to: object


LIBRARIES = {
    "the C library's threads, posix_spawn and vfork": Library(
        ("clone3", "clone"),
        """
thread = threading.Thread(target=lambda: None)
thread.start()
thread.join()
found = [os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)[1], subprocess.run(["true"]).returncode]
""",
        [0, 0],
    ),
    "asyncio's watcher of children": Library(
        ("pidfd_open",),
        """
async def main():
    child = await asyncio.create_subprocess_exec("sh", "-c", "exit 7")
    return await child.wait()
found = asyncio.run(main())
""",
        7,
    ),
    "tail -f, which polls then (watchfiles does at ENOSYS too)": Library(
        ("inotify_init", "inotify_init1"),
        """
open("followed", "w").write("first\\n")
with subprocess.Popen(["tail", "-n", "+1", "-s", "0.05", "-f", "followed"], stdout=-1, stderr=-1, text=True) as tail:
    found = [tail.stdout.readline()]
    open("followed", "a").write("second\\n")
    found += [tail.stdout.readline()]
    tail.kill()
""",
        ["first\n", "second\n"],
    ),
    "cp and tar with all attributes, shutil": Library(
        ("setxattr", "lsetxattr", "fsetxattr", "setxattrat", "chown", "lchown", "fchown", "fchownat"),
        """
tar = "mkdir out; tar --xattrs --acls -cf - kept | tar -C out --xattrs --acls --same-owner -xpf - && test -s out/kept"
found = [subprocess.run(argv, stderr=-3).returncode for argv in (["cp", "--preserve=all", "/etc/passwd", "kept"], ["sh", "-c", tar])]
found.append(os.path.basename(shutil.copy2("/etc/passwd", "copied")))
""",
        [0, 0, "copied"],
    ),
    "subprocess with another user, as at home": Library(
        ("setuid", "setgid", "setreuid", "setregid", "setresuid", "setresgid"),
        """
found = []
for changes in ({"user": 0}, {"user": 1000, "group": 1000}):
    try:
        found.append(subprocess.run(["true"], **changes).returncode)
    except PermissionError:
        found.append("PermissionError")
""",
        ["PermissionError", 0],
    ),
    "the resolver, uuid, servers on every address": Library(
        ("socket", "socketpair", "setsockopt"),
        """
found = [socket.getaddrinfo("localhost", 80, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)[0][4][0] in ("127.0.0.1", "::1"),
         uuid.getnode() > 0, socket.has_dualstack_ipv6()]
try:
    socket.getaddrinfo("nowhere.invalid", 80)
except socket.gaierror:
    found.append("gaierror")
with socket.create_server(("", 0)) as server, socket.create_connection(server.getsockname()) as client:
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    for level, option, value in ((6, 31, b"tls"), (1, 60, 1), (0, 11, 1), (1, 37, 1)):  # kTLS, zero-copy, errors, time stamps
        try:
            client.setsockopt(level, option, value)
        except OSError as error:
            found.append(errno.errorcode[error.errno])
    loop = asyncio.new_event_loop()
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
""",
        [True, True, True, "gaierror", *["ENOPROTOOPT"] * 4],
    ),
    "malloc with huge pages": Library(
        ("mmap", "madvise"),
        """
more = {**os.environ, "GLIBC_TUNABLES": "glibc.malloc.hugetlb=2"}
found = subprocess.check_output([sys.executable, "-c", "print(len(bytearray(8 << 20)))"], env=more, text=True).strip()
""",
        str(8 << 20),
    ),
    "sync, dd without a cache": Library(
        ("sync", "syncfs", "fadvise64"),
        """
os.sync()
found = [subprocess.run(argv, stderr=-3).returncode for argv in (
    ["sync", "-f", "."], ["dd", "if=/etc/passwd", "of=/dev/null", "iflag=nocache"])]
""",
        [0, 0],
    ),
    "sqlite's locks, and fcntl's": Library(
        ("fcntl",),
        """
one, two = (sqlite3.connect("base", isolation_level=None) for _ in range(2))
one.execute("PRAGMA journal_mode=WAL")
one.execute("CREATE TABLE t (x)")
two.execute("INSERT INTO t VALUES (7)")
with open("locked", "w") as file:
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
found = one.execute("SELECT x FROM t").fetchall()
found = [list(row) for row in found]
one.close(), two.close()
""",
        [[7]],
    ),
    "who wants no core file": Library(
        ("setrlimit", "prlimit64"),
        """
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
found = subprocess.run(["sh", "-c", "ulimit -c 0; kill -SEGV $$"]).returncode
""",
        -11,
    ),
    "setarch, and who asks for its personality": Library(
        ("personality",),
        """
libc = ctypes.CDLL(None)
found = [libc.personality(ctypes.c_ulong(0xFFFFFFFF)), subprocess.run(["setarch", os.uname().machine, "true"]).returncode]
""",
        [0, 0],
    ),
    "terminals": Library(
        ("ioctl",),
        """
child, terminal = pty.fork()
if child == 0:
    os.execv("/bin/sh", ["sh", "-c", "stty size; exit 3"])
found = [os.read(terminal, 100).decode().split(), os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])]
""",
        [["0", "0"], 3],
    ),
    "findmnt, df, psutil's way to mounts": Library(
        ("statmount", "listmount", "open_tree_attr", "name_to_handle_at"),
        'found = [subprocess.run(argv, stdout=-3).returncode for argv in (["findmnt", "/tmp"], ["df", "/tmp"])]',
        [0, 0],
    ),
    "the scheduler's older call": Library(
        ("sched_setattr",),
        "os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))\nfound = os.sched_getscheduler(0) == os.SCHED_BATCH",
        True,
    ),
    "multiprocessing's shared memory": Library(
        ("shmget", "memfd_create", "memfd_secret"),
        """
memory = shared_memory.SharedMemory(create=True, size=4096)
memory.buf[:2] = b"ok"
other = shared_memory.SharedMemory(memory.name)
found = bytes(other.buf[:2]).decode()
for one in (other, memory):
    one.close()
memory.unlink()
descriptor = os.memfd_create("plain")
found += str(os.write(descriptor, b"x"))
""",
        "ok1",
    ),
}
AS_AT_HOME = {
    "an ordinary user is refused them as well, with EPERM": (
        *(
            "mount",
            "umount",
            "umount2",
            "pivot_root",
            "chroot",
            "open_tree",
            "move_mount",
            "fsopen",
            "fsconfig",
        ),
        *(
            "fsmount",
            "fspick",
            "mount_setattr",
            "open_by_handle_at",
            "kexec_load",
            "kexec_file_load",
            "init_module",
        ),
        *("finit_module", "delete_module", "reboot", "swapon", "swapoff", "acct", "quotactl", "quotactl_fd"),
        *(
            "syslog",
            "vhangup",
            "iopl",
            "ioperm",
            "settimeofday",
            "clock_settime",
            "clock_adjtime",
            "adjtimex",
        ),
        *("fanotify_init", "ustat", "sysfs", "sethostname", "setdomainname", "unshare"),
        *("bpf", "perf_event_open", "userfaultfd"),
    ),
    "of other processes: debuggers say that they may not, with the answer of a machine that restricts ptrace": (
        *("ptrace", "process_vm_readv", "process_vm_writev", "pidfd_getfd", "kcmp", "process_madvise"),
    ),
    "a kernel that was built without it says so too": (
        *("add_key", "request_key", "keyctl", "io_uring_setup", "io_uring_enter", "io_uring_register"),
        *("nfsservctl", "lookup_dcookie", "uselib", "_sysctl", "create_module", "get_kernel_syms"),
        *("query_module", "modify_ldt", "io_setup", "io_destroy", "io_submit", "io_cancel", "io_getevents"),
        *("io_pgetevents", "seccomp", "prctl", "move_pages", "migrate_pages", "mbind", "set_mempolicy"),
        *("set_mempolicy_home_node", "get_mempolicy", "setns"),
    ),
}
"""Calls that no library makes without being ready for the answer that it gets on machines of today."""
IMPORTS = (
    "import asyncio, ctypes, errno, fcntl, json, os, pty, resource, shutil, socket, sqlite3, subprocess, sys\n"
    "import threading, uuid\nfrom multiprocessing import shared_memory\nos.chdir('/tmp')\n"
)


def test_every_refused_call_has_its_library_or_its_reason() -> None:
    refused = {call for rule in (*seccomp.RULES, JOIN) for call in rule.calls}
    named = [call for library in LIBRARIES.values() for call in library.calls]
    named += [call for calls in AS_AT_HOME.values() for call in calls]
    assert refused - set(named) == set()
    assert set(named) - refused == {"pidfd_open"}, "which a fork alone is refused"
    assert len(named) == len(set(named))


def test_libraries_go_on_where_their_calls_are_refused(host: Stage) -> None:
    code = "".join(
        f"def act():\n    {'    '.join(library.code.strip().splitlines(keepends=True))}\n    return found\n"
        f"result[{name!r}] = act()\n"
        for name, library in LIBRARIES.items()
    )
    assert host.act(IMPORTS + code) == {name: library.comes_to for name, library in LIBRARIES.items()}
