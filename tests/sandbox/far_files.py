"""A file system whose server is this program: ``far_files.py PID FOLDER far`` mounts it where PID sees FOLDER.

It holds ``folder/hello``, and has the kernel ask for every name and fact each time. Stopped, it answers nothing.
``… auto``: an automounter that mounts nothing, and never says so.
"""

from __future__ import annotations

import errno
import os
import struct
import sys
from pathlib import Path

from bridgehold.sandbox import syscalls

HELLO = b"from afar\n"
ROOT, FOLDER, FILE = 1, 2, 3
_HEAD, _ANSWER = struct.Struct("=IIQQIIII"), struct.Struct("=IiQ")
_LOOKUP, _GETATTR, _OPEN, _READ, _INIT, _OPENDIR = 1, 3, 14, 15, 26, 27
_UNANSWERED = (2, 36, 42)
_NOTHING = (18, 25, 28, 29, 34)
"""Done, with nothing to say: closing, an empty list, access."""


def facts(node: int) -> bytes:
    mode, size = (0o100644, len(HELLO)) if node == FILE else (0o40755, 0)
    return struct.pack("=6Q10I", node, size, 0, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


def answer(operation: int, node: int, data: bytes) -> bytes:
    """Raises `OSError`, which is answered."""
    if operation == _INIT:
        return struct.pack("=4I2H2I2HI7I", 7, 31, 4096, 0, 4, 4, 4096, 1, 1, 0, *(0,) * 8)
    if operation == _LOOKUP:
        found = {(ROOT, b"folder"): FOLDER, (FOLDER, b"hello"): FILE}.get((node, data.rstrip(b"\0")))
        if found is None:
            raise OSError(errno.ENOENT, "")
        return struct.pack("=4Q2I", found, 0, 0, 0, 0, 0) + facts(found)
    if operation == _GETATTR:
        return struct.pack("=Q2I", 0, 0, 0) + facts(node)
    if operation in (_OPEN, _OPENDIR):
        return bytes(16)
    if operation == _READ:
        offset, size = struct.unpack_from("=8xQI", data)
        return HELLO[offset : offset + size]
    if operation in _NOTHING:
        return b""
    raise OSError(errno.ENOSYS, "")


def automount() -> None:
    asked, told = os.pipe()
    options = f"fd={told},pgrp={os.getpgrp()},minproto=5,maxproto=5,indirect"
    syscalls.mount("far", str(Path(sys.argv[2])), "autofs", 0, options)
    os.close(told)
    print("ready", flush=True)
    while os.read(asked, 4096):
        pass


def main() -> None:
    place = os.open(f"/proc/{int(sys.argv[1])}/ns/mnt", os.O_RDONLY)
    if sys.argv[3:] == ["auto"]:
        os.setpgrp()
        syscalls.setns(place, syscalls.CLONE_NEWNS)
        automount()
        return
    device = os.open("/dev/fuse", os.O_RDWR)
    syscalls.setns(place, syscalls.CLONE_NEWNS)
    options = f"fd={device},rootmode=40755,user_id=0,group_id=0,allow_other,default_permissions"
    syscalls.mount("far", str(Path(sys.argv[2])), "fuse", syscalls.MS_NOSUID | syscalls.MS_NODEV, options)
    print("ready", flush=True)
    while True:
        try:
            asked = os.read(device, 1 << 16)
        except OSError:  # unmounted
            return
        _, operation, unique, node, *_ = _HEAD.unpack_from(asked)
        if operation in _UNANSWERED:
            continue
        try:
            number, said = 0, answer(operation, node, asked[_HEAD.size :])
        except OSError as error:
            number, said = -(error.errno or errno.EIO), b""
        try:
            os.write(device, _ANSWER.pack(_ANSWER.size + len(said), number, unique) + said)
        except FileNotFoundError:
            continue  # whoever asked is gone


if __name__ == "__main__":
    main()
