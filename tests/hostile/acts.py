"""The acts of ABUSE.md as code that runs inside a sandbox, and what must come of each.

`code` leaves its findings in `result`. `expect` gets them and says what is wrong, or nothing.
Acts that end their session are in `fatal.py`; those on the wire, the gateway, the audit and the
processes have modules of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Result = dict[str, Any]


@dataclass(frozen=True)
class Act:
    row: int
    name: str
    code: str
    expect: Callable[[Result], object]
    """Truthy: the barrier held."""


def refused(*names: str) -> Callable[[Result], object]:
    """Every attempt of `result['tries']` ended with one of the errno names (or exceptions) given."""

    def check(result: Result) -> bool:
        tries = result["tries"]
        return bool(tries) and all(answer in names for answer in tries.values())

    return check


# Inside: try each call, and note the errno's name, the exception's name, or "DONE".
HELPERS = """
import ctypes, errno, os, socket, subprocess, sys, time
libc = ctypes.CDLL(None, use_errno=True)
tries = {}
def attempt(name, call):
    try:
        call()
        tries[name] = "DONE"
    except OSError as e:
        tries[name] = errno.errorcode.get(e.errno, str(e.errno))
    except BaseException as e:
        tries[name] = type(e).__name__
def syscall(number, *args):
    ctypes.set_errno(0)
    if libc.syscall(number, *args) == -1:
        raise OSError(ctypes.get_errno(), "refused")
result = {"tries": tries}
"""

ACTS: list[Act] = []


def act(row: int, name: str, expect: Callable[[Result], object], code: str) -> None:
    ACTS.append(Act(row=row, name=name, code=HELPERS + code, expect=expect))


act(
    1,
    "fork bomb",
    lambda r: r["error"] == "EAGAIN" and r["made"] < 80,
    """
children = []
result["error"] = ""
for _ in range(500):
    try:
        pid = os.fork()
    except OSError as e:
        result["error"] = errno.errorcode[e.errno]
        break
    if pid == 0:
        time.sleep(30)
        os._exit(0)
    children.append(pid)
result["made"] = len(children)
for pid in children:
    os.kill(pid, 9)
    os.waitpid(pid, 0)
""",
)

act(
    5,
    "fill /tmp, scratch and /dev/shm",
    lambda r: all(error == "ENOSPC" for error in r["ends"].values()) and r["written"] < 700 << 20,
    """
ends, written = {}, 0
for folder in ("/dev/shm", "/tmp", "/scratch"):
    ends[folder] = "DONE"
    try:
        for i in range(10):
            with open(f"{folder}/fill{i}", "wb", buffering=0) as f:
                for _ in range(60):
                    written += f.write(b"x" * (1 << 20))
    except OSError as e:
        ends[folder] = errno.errorcode[e.errno]
    for name in os.listdir(folder):
        if name.startswith("fill"):
            os.unlink(f"{folder}/{name}")
result["ends"], result["written"] = ends, written
""",
)

act(
    6,
    "write to /dev, /, the environment, the SDK and the bridge",
    refused("EROFS", "EACCES", "EPERM"),
    """
import bridgehold_sdk
places = ["/dev/x", "/x", "/env/x", "/bridge/x", "/opt/x", "/usr/x", "/etc/x",
          os.path.dirname(bridgehold_sdk.__file__) + "/x", os.path.dirname(os.__file__) + "/x"]
for place in places:
    attempt(place, lambda: open(place, "w"))
""",
)

act(
    7,
    "descriptor exhaustion",
    lambda r: r["error"] == "EMFILE" and r["opened"] < 600,
    """
held = []
result["error"] = ""
try:
    for _ in range(5000):
        held.append(os.open("/dev/null", os.O_RDONLY))
except OSError as e:
    result["error"] = errno.errorcode[e.errno]
result["opened"] = len(held)
for fd in held:
    os.close(fd)
""",
)

act(
    7,
    "thread exhaustion",
    lambda r: r["error"] and r["started"] < 80,
    """
import threading
stop, started, result["error"] = threading.Event(), [], ""
try:
    for _ in range(500):
        thread = threading.Thread(target=stop.wait, daemon=True)
        thread.start()
        started.append(thread)
except (RuntimeError, OSError) as e:
    result["error"] = type(e).__name__
stop.set()
for thread in started:
    thread.join()
result["started"] = len(started)
""",
)

act(
    13,
    "print, os.system and printf stay out of the framing",
    lambda r: r["done"],
    """
print("noise by print" * 100)
os.system("echo noise by echo")
libc.puts(b"noise by puts")
libc.fflush(None)
os.write(1, b"\\x00\\x00\\x00\\x05hello")
sys.__stdout__.write("noise")
sys.__stdout__.flush()
result["done"] = True
""",
)

act(
    16,
    "no inherited descriptor can carry descriptors",
    lambda r: r["sockets"] == [] and set(r["kinds"]) <= {"pipe", "null", "other"},
    """
import stat
kinds, sockets = [], []
for fd in sorted(int(n) for n in os.listdir("/proc/self/fd")):
    try:
        mode = os.fstat(fd).st_mode
    except OSError:
        continue
    if stat.S_ISSOCK(mode):
        sockets.append(fd)
    kinds.append("pipe" if stat.S_ISFIFO(mode) else "null" if stat.S_ISCHR(mode) else "other")
result["sockets"], result["kinds"] = sockets, kinds
""",
)

act(
    17,
    "ptrace, process_vm_readv and pidfd_getfd",
    refused("EPERM", "ESRCH", "ENOSYS"),
    """
child = os.fork()
if child == 0:
    time.sleep(20)
    os._exit(0)
buffer = ctypes.create_string_buffer(16)
attempt("ptrace", lambda: syscall(101, 16, child, 0, 0))
attempt("process_vm_readv", lambda: syscall(310, child, buffer, 1, buffer, 1, 0))
attempt("process_vm_writev", lambda: syscall(311, child, buffer, 1, buffer, 1, 0))
try:
    pidfd = os.pidfd_open(child)
except PermissionError:  # a fork has none to try with: its zygote's filter refuses the call itself
    pidfd = -1
attempt("pidfd_getfd", lambda: syscall(438, pidfd, 0, 0))
os.kill(child, 9)
os.waitpid(child, 0)
""",
)

act(
    17,
    "siblings and the host are invisible",
    lambda r: r["count"] <= 8 and not r["foreign"],
    """
pids = [int(n) for n in os.listdir("/proc") if n.isdigit()]
foreign = []
for pid in pids:
    try:
        line = open(f"/proc/{pid}/cmdline", "rb").read().replace(b"\\0", b" ").decode()
    except OSError:
        continue
    if any(word in line for word in ("launcher", "keeper", "journal", "supervise", "systemd", "sshd")):
        foreign.append(line)
result["count"], result["foreign"] = len(pids), foreign
""",
)

act(
    18,
    "the host's files and sockets are absent",
    lambda r: r["found"] == [],
    """
places = ["/etc/shadow", "/root", "/home", "/var", "/run", "/srv", "/mnt", "/media", "/boot", "/etc/ssh",
          "/sys/kernel", "/sys/module", "/sys/firmware", "/sys/class/dmi", "/sys/devices/pci0000:00",
          "/etc/bridgehold", "/proc/1/root/etc/shadow", "/proc/sys/kernel/core_pattern.x",
          "/run/bridgehold", "/var/run/docker.sock", "/tmp/.X11-unix"]
found = []
for place in places:
    try:
        os.stat(place)
        listing = os.listdir(place) if os.path.isdir(place) else ["file"]
        if listing:
            found.append((place, listing[:5]))
    except OSError:
        pass
# What /sys holds is small texts of the session's own, in the sandbox's read-only root.
for folder, names, files in os.walk("/sys"):
    for path in [folder, *(os.path.join(folder, name) for name in files)]:
        if os.stat(path).st_dev != os.stat("/").st_dev or os.path.islink(path) or os.access(path, os.W_OK) and not os.statvfs(path).f_flag & os.ST_RDONLY:
            found.append(path)
    found += [(name, len(open(os.path.join(folder, name)).read())) for name in files if os.path.getsize(os.path.join(folder, name)) > 64]
result["found"] = found
""",
)

act(
    19,
    "no secret in any environment, command line or parent",
    lambda r: not r["leaks"],
    """
leaks = []
for name in ("1/environ", "self/environ", "1/cmdline", "self/cmdline", "2/environ", "2/cmdline"):
    try:
        data = open("/proc/" + name, "rb").read()
    except OSError:
        continue
    for word in (b"CANARY", b"sk-live", b"SECRET", b"PASSPHRASE"):
        if word in data:
            leaks.append((name, word.decode()))
for key, value in os.environ.items():
    if "CANARY" in value or "sk-live" in value:
        leaks.append(("os.environ", key))
result["leaks"] = leaks
""",
)

act(
    18,
    "the list of locks of files: reading it holds up whoever takes one, on all of the machine",
    refused("EACCES"),
    """
attempt("read", lambda: open("/proc/locks").read())
attempt("as another name", lambda: open("/proc/self/root/proc/locks").read())
for name in ("cpu", "io", "memory"):
    attempt("pressure of " + name, lambda: open("/proc/pressure/" + name).read())
def opens(path):
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
        return True
    except OSError:
        return False
def writable():
    found = []
    for folder, below, files in os.walk("/proc"):
        below[:] = [name for name in below if not name.isdigit()]
        paths = [folder + "/" + name for name in files]
        found += [path for path in paths if os.access(path, os.W_OK) and opens(path)]
    if not found:
        raise PermissionError(13, "nothing of the machine's")
    return found
attempt("what can be written to", writable)
""",
)

act(
    20,
    "namespaces, mounts, keys, bpf, perf, userfaultfd, io_uring",
    refused("EPERM", "ENOSYS", "EINVAL", "EACCES", "EUSERS", "ENOSPC", "ENOTSUP"),
    """
buffer = ctypes.create_string_buffer(256)
attempt("unshare user", lambda: syscall(272, 0x10000000))
attempt("unshare mount", lambda: syscall(272, 0x00020000))
attempt("unshare net", lambda: syscall(272, 0x40000000))
attempt("clone new user", lambda: syscall(56, 0x10000000 | 17, 0, 0, 0, 0))
attempt("clone3", lambda: syscall(435, buffer, 88))
attempt("setns", lambda: syscall(308, os.open("/proc/self/ns/net", os.O_RDONLY), 0))
attempt("who owns a namespace", lambda: syscall(16, os.open("/proc/self/ns/net", os.O_RDONLY), 0xb701, 0))
attempt("the next namespace", lambda: syscall(16, os.open("/proc/self/ns/mnt", os.O_RDONLY), 0x8010b70b, buffer))
attempt("a processor core for itself", lambda: syscall(157, 62, 1, 0, 0, 0))
attempt("mount", lambda: syscall(165, b"none", b"/tmp", b"tmpfs", 0, None))
attempt("umount", lambda: syscall(166, b"/proc", 2))
attempt("pivot_root", lambda: syscall(155, b"/tmp", b"/tmp"))
attempt("chroot", lambda: syscall(161, b"/tmp"))
attempt("open_tree", lambda: syscall(428, -100, b"/", 1))
attempt("fsopen", lambda: syscall(430, b"tmpfs", 0))
attempt("move_mount", lambda: syscall(429, -1, b"", -1, b"", 0))
attempt("mount_setattr", lambda: syscall(442, -100, b"/", 0, buffer, 32))
attempt("mknod", lambda: os.mknod("/tmp/mem", 0o600 | 0o020000, os.makedev(1, 1)))
attempt("add_key", lambda: syscall(248, b"user", b"a", b"b", 1, -3))
attempt("request_key", lambda: syscall(249, b"user", b"a", None, -3))
attempt("keyctl", lambda: syscall(250, 0, -3, 0))
attempt("bpf", lambda: syscall(321, 0, buffer, 128))
attempt("perf_event_open", lambda: syscall(298, buffer, 0, -1, -1, 0))
attempt("userfaultfd", lambda: syscall(323, 1))
attempt("io_uring_setup", lambda: syscall(425, 8, buffer))
attempt("open_by_handle_at", lambda: syscall(304, -100, buffer, 0))
attempt("kexec_load", lambda: syscall(246, 0, 0, None, 0))
attempt("init_module", lambda: syscall(175, buffer, 1, b""))
attempt("reboot", lambda: syscall(169, 0xfee1dead, 672274793, 0, None))
attempt("swapon", lambda: syscall(167, b"/tmp/x", 0))
attempt("no address randomisation", lambda: syscall(135, 0x0040000))
attempt("readable is executable", lambda: syscall(135, 0x0400000))
attempt("setuid 0", lambda: os.setuid(0))
attempt("chown", lambda: os.chown("/tmp", 0, 0))
""",
)

act(
    20,
    "terminal injection and setuid programs",
    lambda r: all(v != "DONE" for v in r["tries"].values()) and r["uid"] != 0 and not r["root"],
    """
import fcntl, glob
master, slave = os.openpty()
attempt("TIOCSTI", lambda: fcntl.ioctl(slave, 0x5412, b"x"))
attempt("TIOCSTI high bits", lambda: syscall(16, slave, 0x100005412, b"x"))
attempt("TIOCLINUX", lambda: fcntl.ioctl(slave, 0x541C, b"\\x02"))
os.close(master), os.close(slave)
root = []
for program in ("/usr/bin/su", "/usr/bin/mount", "/usr/bin/newuidmap", "/usr/bin/passwd"):
    if os.path.exists(program):
        pid = os.fork()
        if pid == 0:
            os.execv("/bin/sh", ["sh", "-c", f"{program} --version >/dev/null 2>&1; id -u"])
        os.waitpid(pid, 0)
status = open("/proc/self/status").read()
result["uid"] = os.getuid()
result["root"] = [l for l in status.splitlines() if l.startswith("Cap") and int(l.split()[1], 16)]
""",
)

act(
    21,
    "VSOCK, PACKET, NETLINK and raw sockets",
    refused("EAFNOSUPPORT", "EPERM", "EACCES", "EPROTONOSUPPORT"),
    """
for name, family, kind in (("vsock", 40, 1), ("packet", 17, 3), ("netlink", 16, 3), ("raw", 2, 3),
                           ("raw6", 10, 3), ("alg", 38, 5), ("bluetooth", 31, 3), ("xdp", 44, 3),
                           ("can", 29, 3), ("kcm", 41, 2), ("tipc", 30, 1), ("rds", 21, 5),
                           ("raw cloexec", 2, 3 | 0o2000000)):
    attempt(name, lambda: socket.socket(family, kind).close())
""",
)

act(
    22,
    "connect anywhere, and DNS",
    refused("ENETUNREACH", "EHOSTUNREACH", "-2", "-3", "ECONNREFUSED", "EADDRNOTAVAIL", "EACCES", "EPERM"),
    """
for address in ("1.1.1.1", "169.254.169.254", "10.0.0.1", "192.168.0.1", "172.17.0.1", "8.8.8.8"):
    def dial():
        with socket.socket() as s:
            s.settimeout(2)
            s.connect((address, 80))
    attempt(address, dial)
def dial6():
    with socket.socket(socket.AF_INET6) as s:
        s.settimeout(2)
        s.connect(("2606:4700:4700::1111", 80))
attempt("ipv6", dial6)
attempt("dns", lambda: socket.getaddrinfo("example.com", 80))
def udp():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.sendto(b"x", ("8.8.8.8", 53))
attempt("udp", udp)
""",
)

act(
    30,
    "a sibling's ports and abstract sockets, and the host's",
    lambda r: all(v in ("ECONNREFUSED", "ENOENT", "EACCES", "EPERM") for v in r["tries"].values()),
    """
for port in (22, 80, 443, 3306, 5432, 6379, 8000, 9000):
    def dial():
        with socket.socket() as s:
            s.settimeout(1)
            s.connect(("127.0.0.1", port))
    attempt(port, dial)
for name in ("\\0dbus", "\\0/tmp/.X11-unix/X0", "\\0bridgehold", "/run/bridgehold/host.sock"):
    def dial_unix():
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(name)
    attempt(repr(name), dial_unix)
""",
)

act(
    42,
    "what a kernel uid shares: pipes, inotify, keys, in-flight descriptors",
    lambda r: r["survived"],
    """
import array
pairs, sent = [], 0
try:
    for _ in range(40):
        a, b = socket.socketpair()
        a.setblocking(False)
        pairs.append((a, b))
        for _ in range(20):
            a.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2] * 20))])
            sent += 1
except OSError as e:
    result["descriptors"] = errno.errorcode[e.errno]
pipes = []
try:
    for _ in range(200):
        r, w = os.pipe()
        pipes += [r, w]
        import fcntl
        fcntl.fcntl(w, 1031, 1 << 20)
except OSError as e:
    result["pipes"] = errno.errorcode[e.errno]
watches = 0
try:
    for _ in range(300):
        if libc.inotify_init() < 0:
            break
        watches += 1
except OSError:
    pass
for fd in pipes:
    os.close(fd)
for a, b in pairs:
    a.close(), b.close()
result["survived"] = True
""",
)

act(
    44,
    "descriptor flags of what is shared",
    lambda r: r["done"],
    """
import fcntl
for fd in list(range(0, 30)):
    try:
        flags = fcntl.fcntl(fd, fcntl.F_GETFL)
        fcntl.fcntl(fd, fcntl.F_SETFL, flags & ~os.O_NONBLOCK)
        fcntl.fcntl(fd, 1031, 4096)
    except OSError:
        pass
for fd in range(0, 30):
    try:
        s = socket.socket(fileno=os.dup(fd))
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\\1\\0\\0\\0\\6\\0\\0\\0")
        s.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
result["done"] = True
""",
)
