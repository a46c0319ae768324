"""What a hostile guest does. Each function is one act: it gets facts, and gives (whether it broke out, what it saw).

Run inside a sandbox alone. Standard library, Python 3.10 and up. Where a barrier is missing, an act writes its
own marker, reaches the report's own listener, or takes a little more than the limit, and stops by itself.
"""

import ctypes
import errno
import mmap
import os
import platform
import resource
import signal
import socket
import subprocess
import sys
import threading
import time

MIB = 1 << 20
LIBC = ctypes.CDLL(None, use_errno=True)
ARM = platform.machine() in ("aarch64", "arm64")
CALLS = {
    "add_key": 217 if ARM else 248,
    "bpf": 280 if ARM else 321,
    "perf_event_open": 241 if ARM else 298,
    "userfaultfd": 282 if ARM else 323,
    "io_uring_setup": 425,
}


def must(answer):
    if answer == -1:
        raise OSError(ctypes.get_errno(), "refused")
    return answer


def call(name, *arguments):
    ctypes.set_errno(0)
    return must(LIBC.syscall(CALLS[name], *arguments))


def tried(calls):
    said = {}
    for name, act in calls.items():
        try:
            act()
            said[name] = "DONE"
        except OSError as error:
            said[name] = errno.errorcode.get(error.errno, type(error).__name__)
        except Exception as error:
            said[name] = type(error).__name__
    return "DONE" in said.values(), ", ".join(f"{name}: {answer}" for name, answer in said.items())


def in_child(act):
    """Run `act` in a child, for what can't be taken back; raises the OSError that it met."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            act()
            os.write(write, b"0")
        except OSError as error:
            os.write(write, str(error.errno or errno.EIO).encode())
        finally:
            os._exit(0)
    os.close(write)
    said = os.read(read, 20)
    os.close(read)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    if said != b"0":
        raise OSError(int(said or errno.EIO), "refused")


def named(facts):
    """So that this process and its children are found from outside."""
    LIBC.prctl(15, facts["mark"].encode(), 0, 0, 0)


def name_of(error):
    return errno.errorcode.get(error.errno, type(error).__name__)


# --- seccomp


def new_namespaces(facts):
    flags = {"user": 0x10000000, "mount": 0x20000, "net": 0x40000000, "pid": 0x20000000}
    return tried({name: lambda flag=flag: in_child(lambda: must(LIBC.unshare(flag))) for name, flag in flags.items()})


def mount(facts):
    def over():
        must(LIBC.mount(b"none", b"/tmp", b"tmpfs", 0, None))

    def pivot():
        must(LIBC.chroot(b"/tmp"))

    return tried({"mount": lambda: in_child(over), "chroot": lambda: in_child(pivot)})


def tracing(facts):
    return tried({"ptrace": lambda: in_child(lambda: must(LIBC.ptrace(0, 0, 0, 0)))})


def odd_sockets(facts):
    kinds = {"netlink": (16, 3, 0), "packet": (17, 3, 0), "vsock": (40, 1, 0), "alg": (38, 5, 0), "raw": (2, 3, 1)}
    return tried({name: lambda kind=kind: socket.socket(*kind).close() for name, kind in kinds.items()})


def keyring(facts):
    return tried({"add_key": lambda: call("add_key", b"user", facts["mark"].encode(), b"x", 1, -2)})


def kernel_programs(facts):
    attributes = bytes([1, 0, 0, 0, 4, 0, 0, 0, 4, 0, 0, 0, 1, 0, 0, 0]) + bytes(112)
    return tried(
        {
            "bpf": lambda: os.close(call("bpf", 0, attributes, 128)),
            "userfaultfd": lambda: os.close(call("userfaultfd", os.O_CLOEXEC)),
            "perf": lambda: os.close(call("perf_event_open", bytes([1, 0, 0, 0, 112]) + bytes(107), 0, -1, -1, 0)),
        }
    )


def io_uring(facts):
    return tried({"io_uring_setup": lambda: os.close(call("io_uring_setup", 1, ctypes.create_string_buffer(120)))})


def personality(facts):
    return tried({"no randomisation": lambda: in_child(lambda: must(LIBC.personality(0x40000)))})


# --- namespaces


def see_processes(facts):
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                if facts["victim_mark"].encode() in file.read():
                    found.append(pid)
        except OSError:
            pass
    return bool(found), f"{len(found)} of the host's own processes seen"


def signal_outside(facts):
    pid = facts["victim"]
    if os.path.exists(f"/proc/{pid}") and not see_processes(facts)[0]:
        return False, "the number is a process of its own"
    return tried({"kill": lambda: os.kill(pid, signal.SIGTERM)})


def abstract_socket(facts):
    def dial():
        with socket.socket(socket.AF_UNIX) as one:
            one.connect("\0" + facts["abstract"])

    return tried({"connect": dial})


# --- mounts


def read_outside(facts):
    try:
        with open(facts["canary_file"], encoding="utf-8") as file:
            return facts["canary"] in file.read(), "read"
    except OSError as error:
        return False, name_of(error)


def host_files(facts):
    def look(path):
        with open(path, "rb") as file:
            file.read(1)

    def enter(path):
        if not os.listdir(path):
            raise FileNotFoundError(errno.ENOENT, "empty")

    return tried({path: lambda path=path: (enter if os.path.isdir(path) else look)(path) for path in facts["host_files"]})


def write_outside(facts):
    def write():
        with open(facts["marker"], "x", encoding="utf-8") as file:
            file.write(facts["mark"])

    return tried({"write": write})


def write_system(facts):
    def write(folder):
        path = os.path.join(folder, "." + facts["mark"])
        with open(path, "x", encoding="utf-8"):
            os.unlink(path)

    folders = ["/", "/usr", "/etc", "/dev", "/opt", "/sys", os.path.dirname(os.__file__)]
    sdk = sys.modules.get("bridgehold_sdk")
    folders += [os.path.dirname(sdk.__file__)] if sdk else []
    return tried({folder: lambda folder=folder: write(folder) for folder in folders if os.path.isdir(folder)})


def device_nodes(facts):
    path = f"/tmp/{facts['mark']}"

    def make():
        os.mknod(path, 0o20600, os.makedev(1, 3))
        os.unlink(path)

    calls = {"mknod": make}
    for name in ("/dev/kmsg", "/dev/mem", "/dev/fuse", "/dev/net/tun", "/dev/loop-control", "/dev/kvm"):
        calls[name] = lambda name=name: os.close(os.open(name, os.O_RDONLY))
    return tried(calls)


def fill_scratch(facts):
    return fill("/tmp", facts["scratch_bytes"])


# --- rlimits


def descriptors(facts):
    held, said = [], "no end"
    try:
        while len(held) < facts["open_files"] + 64:
            held.append(os.open("/dev/null", os.O_RDONLY))
    except OSError as error:
        said = name_of(error)
    for one in held:
        os.close(one)
    return len(held) >= facts["open_files"], f"{said} after {len(held)} of {facts['open_files']}"


def big_file(facts):
    path = f"/tmp/{facts['mark']}"
    try:
        with open(path, "wb") as file:
            return tried({"truncate": lambda: os.truncate(file.fileno(), facts["file_size_bytes"] + 1)})
    finally:
        os.unlink(path)


def core_dump(facts):
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    pid = os.fork()
    if pid == 0:
        os.chdir("/tmp")
        os.kill(os.getpid(), signal.SIGSEGV)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    dumped = os.WIFSIGNALED(status) and os.WCOREDUMP(status)
    return dumped or hard not in (0, 1), f"limit {hard}, dumped: {'yes' if dumped else 'no'}"


def locked_memory(facts):
    area = mmap.mmap(-1, MIB)
    view = (ctypes.c_char * MIB).from_buffer(area)
    return tried({"mlock 1 MiB": lambda: must(LIBC.mlock(ctypes.byref(view), MIB))})


# --- network and gateway


def dial_out(facts):
    def dial(address):
        socket.create_connection((address, facts["port"]), 3).close()

    return tried({address: lambda address=address: dial(address) for address in facts["addresses"]})


def datagram(facts):
    """What is sent and reaches nobody is no way out: outside is looked whether it came."""

    def send(address):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.settimeout(2)
            one.connect((address, facts["udp_port"]))
            one.send(facts["mark"].encode())
            if one.recv(100) != facts["mark"].encode():
                raise OSError(errno.EIO, "another answer")

    return tried({address: lambda address=address: send(address) for address in facts["addresses"]})


def way_round(facts):
    """Ask whatever serves requests inside for the report's own listener, in every spelling."""
    port, said, came = facts["port"], {}, False
    gate = os.environ.get("HTTP_PROXY", os.environ.get("http_proxy", "")).rpartition(":")[2].strip("/")
    gate = int(gate) if gate.isdigit() else facts["gateway"]
    for name in ("127.0.0.1", "localhost", "2130706433", "0x7f000001", "0177.0.0.1", "[::ffff:127.0.0.1]"):
        for head in (
            f"GET http://{name}:{port}/ HTTP/1.1\r\nHost: {name}:{port}\r\nConnection: close\r\n\r\n",
            f"CONNECT {name}:{port} HTTP/1.1\r\nHost: {name}:{port}\r\n\r\n",
            f"GET / HTTP/1.1\r\nHost: {name}:{port}\r\nConnection: close\r\n\r\n",
        ):
            try:
                with socket.create_connection(("127.0.0.1", gate), 5) as one:
                    one.sendall(head.encode())
                    answer = one.recv(4096)
                    if head.startswith("CONNECT") and answer[9:12] == b"200":
                        one.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                        answer += one.recv(4096)
                came = came or facts["canary"].encode() in answer
                said[answer[9:12].decode("ascii", "replace") or "closed"] = 1
            except OSError as error:
                said[name_of(error)] = 1
    return came, "answers: " + ", ".join(sorted(said))


# --- keys


def environment(facts):
    places, found = ["/proc/self/environ", "/proc/1/environ", "/proc/self/cmdline"], []
    texts = {"environ": "\0".join(f"{key}={value}" for key, value in os.environ.items())}
    for place in places:
        try:
            with open(place, "rb") as file:
                texts[place] = file.read().decode("utf-8", "replace")
        except OSError:
            pass
    for place, text in texts.items():
        if facts["canary"] in text:
            found.append(f"the host's own in {place}")
        for entry in text.split("\0"):
            name, _, value = entry.partition("=")
            if name.endswith(("_API_KEY", "_TOKEN", "_SECRET", "_PASSWORD")) and value:
                if not value.startswith(facts["placeholder"]):
                    found.append(f"{name} in {place}")
    return bool(found), ", ".join(found) or "none"


# --- audit


def forge_audit(facts):
    """A line like one of the audit's, wherever words of a guest may come to lie."""
    line = f'{{"v":1,"kind":"{facts["forged"]}","mark":"{facts["mark"]}"}}'
    for text in (f"\n{line}\n", f"\r\n\x1b[2K{line}\u2028{line}\n"):
        print(text)
        os.write(2, text.encode())

    def append(path):
        with open(path, "a", encoding="utf-8") as file:
            file.write(f"\n{line}\n")

    return tried({"append": lambda: append(facts["audit"] + "/" + facts["mark"])})
