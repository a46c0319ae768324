"""Uids, bubblewrap, seccomp and the network, each tried on its own."""

from __future__ import annotations

import errno
import os
import pwd
import socket
import tempfile
from pathlib import Path

from bridgehold.sandbox.doctor.acts import (
    bare_bwrap,
    become,
    in_child,
    session_uid,
)
from bridgehold.sandbox.doctor.model import Check, Context, Probe, caution, failed, passed
from bridgehold.sandbox.launch.bwrap import DISABLE_USERNS, INSTALL_BWRAP, SIZE, met_bwrap
from bridgehold.sandbox.launch.seccomp import compile_filter

_TRUE = "/usr/bin/true"


def uid_range(context: Context) -> Check:
    """Take a session's uid, try to come back, and try to read what the caller keeps to itself."""
    with tempfile.NamedTemporaryFile(prefix="bridgehold-doctor-") as private:
        Path(private.name).chmod(0o600)
        was_root = os.getuid() == 0
        uid, how = session_uid(context)

        def come_back() -> int:
            become(uid)
            os.setresuid(0, 0, 0)
            return 0

        def read() -> int:
            become(uid)
            Path(private.name).read_bytes()
            return 0

        for act, what, refusal in (
            (come_back, "become uid 0 again", errno.EPERM),
            (read, "read the caller's 0600 file", errno.EACCES),
        ):
            code = in_child(act)
            if code == 0:
                return failed("uid-range", f"{how}: it could {what}", "Please report this.")
            if code != refusal:
                return failed(
                    "uid-range",
                    f"{how} can't be taken: {errno.errorcode.get(code, code)}",
                    "Let this process see those uids (no PrivateUsers=, a container with a wider uid map).",
                )
    nested = bare_bwrap([_TRUE], uid=uid)
    if nested.returncode != 0:
        return failed("uid-range", f"{how}: bwrap does not run as it: {_last(nested.stderr)}", _NESTED_REMEDY)
    if was_root and _has_owner(uid):
        return caution(
            "uid-range",
            f"{how} works, and belongs to a user of this machine",
            "Choose another `[host] uid_base`.",
        )
    return passed("uid-range", f"{how}: no way back, the caller's file stays closed, bwrap runs as it")


_NESTED_REMEDY = "See the rows user-namespaces, apparmor and systemd."


def _has_owner(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def bubblewrap(context: Context) -> Check:
    """Whether bubblewrap is there, and new enough."""
    found = met_bwrap()
    uid = context.uid_first if os.getuid() == 0 else None
    known = f"--{DISABLE_USERNS}" if DISABLE_USERNS in found.options else ""
    sized = ["--size", "4096"] if SIZE in found.options else []
    ran = bare_bwrap([_TRUE], uid=uid, options=[*filter(None, [known]), *sized, "--tmpfs", "/mnt"])
    if ran.returncode != 0:
        return failed(
            "bubblewrap", f"a sandbox with nothing in it fails: {_last(ran.stderr)}", _NESTED_REMEDY
        )
    what = f"{found.path} {found.version}: all namespaces, no capability"
    if not known:
        return caution(
            "bubblewrap",
            f"{what}; no --{DISABLE_USERNS}: the filter alone refuses further user namespaces (row seccomp)",
            f"{INSTALL_BWRAP}: 0.8 or newer refuses it twice (Debian 12, Ubuntu 24.04).",
        )
    again = bare_bwrap(["/usr/bin/unshare", "-U", _TRUE], uid=uid, options=[known])
    if again.returncode == 0:
        return failed("bubblewrap", f"{known} did not stop a further namespace", INSTALL_BWRAP)
    return passed("bubblewrap", f"{what}, and no further user namespace")


def seccomp(context: Context) -> Check:
    """The default filter, loaded by bwrap, against a call that works without it."""
    uid = context.uid_first if os.getuid() == 0 else None
    act = ["/usr/bin/unshare", "--uts", "--user", _TRUE]
    without = bare_bwrap(act, uid=uid)
    program = compile_filter()
    descriptor = os.memfd_create("filter")
    os.write(descriptor, program)
    os.lseek(descriptor, 0, os.SEEK_SET)
    with_filter = bare_bwrap(act, uid=uid, options=["--seccomp", str(descriptor)], keep=[descriptor])
    if with_filter.returncode == 0:
        return failed(
            "seccomp", "unshare(2) works under the filter", "Use a kernel with CONFIG_SECCOMP_FILTER."
        )
    if "Operation not permitted" not in with_filter.stderr:
        return failed(
            "seccomp", f"the filter could not be loaded: {_last(with_filter.stderr)}", _NESTED_REMEDY
        )
    if without.returncode != 0:
        return caution(
            "seccomp",
            f"the filter loads, but unshare(2) fails here without it too: {_last(without.stderr)}",
            _NESTED_REMEDY,
        )
    return passed(
        "seccomp",
        f"default filter ({len(program) // 8} instructions): unshare(2) works without it, EPERM with",
    )


def network(context: Context) -> Check:
    """A listener on this machine's loopback, from here and from a sandbox."""
    uid = context.uid_first if os.getuid() == 0 else None
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        act = ["/bin/bash", "-c", f"exec 3<>/dev/tcp/127.0.0.1/{port}"]
        inside = bare_bwrap(act, uid=uid)
        outside = bare_bwrap(act, uid=uid, options=["--share-net"])
    devices = bare_bwrap(["/bin/cat", "/proc/net/dev"], uid=uid)
    names = [line.split(":")[0].strip() for line in devices.stdout.splitlines() if ":" in line]
    if devices.returncode != 0:
        return failed("network", f"no sandbox starts: {_last(devices.stderr)}", _NESTED_REMEDY)
    if inside.returncode == 0 or names != ["lo"]:
        return failed(
            "network", f"a sandbox reached the host's loopback or has devices {names}", "Please report this."
        )
    if outside.returncode != 0:
        return caution(
            "network",
            f"only lo inside; the same connection with the network shared fails too: {_last(outside.stderr)}",
            "Check that loopback is up (ip link set lo up).",
        )
    return passed(
        "network", "only lo inside; a listener of this machine is reached from outside and not from in"
    )


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no message"


PROBES = (
    Probe(
        name="uid-range",
        proves="A session's uid can be taken, can't be left, opens no file of the caller, and runs bwrap.",
        run=uid_range,
    ),
    Probe(
        name="bubblewrap",
        proves="bwrap is there, new enough, starts a sandbox and forbids further user namespaces.",
        run=bubblewrap,
    ),
    Probe(
        name="seccomp",
        proves="The default filter loads, and refuses a call that works without it.",
        run=seccomp,
    ),
    Probe(
        name="network",
        proves="A sandbox has lo alone and can't reach a listener on the host's loopback.",
        run=network,
    ),
)
