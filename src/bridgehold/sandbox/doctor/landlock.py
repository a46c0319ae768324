"""Landlock: the version, and a rule at work."""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from bridgehold.sandbox import syscalls
from bridgehold.sandbox.doctor.acts import in_child, syscall
from bridgehold.sandbox.doctor.model import Check, Context, Probe, caution, failed, passed

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION_FLAG = 1
_RULE_PATH_BENEATH = 1
_READ_FILE, _READ_DIR, _EXECUTE = 1 << 2, 1 << 3, 1 << 0


def landlock(_: Context) -> Check:
    """Whether the kernel has Landlock, and which version."""
    try:
        version = syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION_FLAG))
    except OSError as error:
        return caution(
            "landlock",
            f"not in this kernel ({errno.errorcode.get(error.errno or 0, '?')}): sessions start cold",
            "Boot with lsm=landlock,…: a zygote needs it to be kept from what is not its own, and without it "
            "a tenant's cell opens whatever the host may.",
        )
    allowed, refused = in_child(lambda: _act("/usr/bin/true")), in_child(lambda: _act("/etc/passwd"))
    if (allowed, refused) != (0, errno.EACCES):
        return failed(
            "landlock", f"version {version}: a rule gave {allowed} and {refused}", "Please report this."
        )
    return passed(
        "landlock",
        f"version {version}: a rule for /usr lets it be read and /etc not. Zygotes and cells enter a domain, "
        "which keeps them from others' memory, and cells from files that are not their tenant's and, from "
        "version 6 on, from signals; a zygote's files are the mount namespace's and the uid's matter",
    )


def _act(path: str) -> int:
    """Forbid reading but below /usr, then read `path`."""
    handled = struct.pack("=Q", _READ_FILE | _READ_DIR | _EXECUTE)
    ruleset = syscall(
        _CREATE_RULESET, ctypes.c_char_p(handled), ctypes.c_size_t(len(handled)), ctypes.c_uint32(0)
    )
    beneath = os.open("/usr", os.O_PATH | os.O_CLOEXEC)
    rule = struct.pack("=Qi", _READ_FILE | _READ_DIR | _EXECUTE, beneath)
    syscall(
        _ADD_RULE,
        ctypes.c_int(ruleset),
        ctypes.c_int(_RULE_PATH_BENEATH),
        ctypes.c_char_p(rule),
        ctypes.c_uint32(0),
    )
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    syscall(_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0))
    os.close(os.open(path, os.O_RDONLY))
    return 0


PROBES = (Probe(name="landlock", proves="Landlock's version, and that a rule refuses a file.", run=landlock),)
