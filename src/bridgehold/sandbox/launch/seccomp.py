"""The seccomp filter, compiled by libseccomp from reviewable data. Default: allow; what is named is refused.

Ids are compared by a few instructions of ours before libseccomp's: it has no test for "neither of two".
bubblewrap loads it just before the guest's first instruction, so it never hinders the set-up.
`docs/reference/seccomp.md` is generated from `RULES`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys

from bridgehold.errors import UnsupportedError
from bridgehold.sandbox.launch.seccomp_rules import JOIN, JOIN_TRACED, SURFACE, Argument, Rule
from bridgehold.sandbox.launch.seccomp_uncounted import UNCOUNTED

_COMPARE = {"ne": 1, "lt": 2, "eq": 4, "ge": 5, "gt": 6, "masked_eq": 7}
_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_TRACE = 0x7FF00000
_KILL_PROCESS = 0x80000000
_ATTRIBUTE_BAD_ARCH = 2
_UNKNOWN = -1
"""libseccomp's answer to a name that it doesn't know at all."""

_BOTH = (*SURFACE, *UNCOUNTED)
RULES: tuple[Rule, ...] = (*_BOTH, JOIN)
ZYGOTE_RULES: tuple[Rule, ...] = (
    *_BOTH,
    JOIN_TRACED,
    Rule(calls=("pidfd_open",), why="a zygote's forks join what they are handed, and nothing else"),
    Rule(
        calls=("clone",),
        why="CLONE_PTRACE: a child that the launcher would hold too",
        when=(Argument(0, "masked_eq", 0x2000, 0x2000),),
    ),
)
"""A zygote's own filter, and for good that of what is forked from it: nothing inside loads another."""

NEW_NUMBERS = {
    "io_uring_setup": 425,
    "io_uring_enter": 426,
    "io_uring_register": 427,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "fspick": 433,
    "pidfd_open": 434,
    "clone3": 435,
    "pidfd_getfd": 438,
    "process_madvise": 440,
    "mount_setattr": 442,
    "quotactl_fd": 443,
    "memfd_secret": 447,
    "set_mempolicy_home_node": 450,
    "statmount": 457,
    "listmount": 458,
    "setxattrat": 463,
    "open_tree_attr": 467,
}
"""Calls that an older libseccomp can't name. Since 2019 a new call has one number everywhere."""

UNREVIEWED = range(470, 512)
"""Numbers that had no call when this list was reviewed: ENOSYS, as on the kernel of that day."""


def compile_filter(rules: tuple[Rule, ...] = RULES) -> bytes:
    """The BPF program of `rules`, for bubblewrap's ``--seccomp``.

    A call that this architecture lacks is left out: nothing can make it. Any call newer than this list
    is `UNREVIEWED`. Raises `UnsupportedError` where libseccomp is missing, refuses a rule, or doesn't
    know a name that `NEW_NUMBERS` lacks: leaving that rule out would leave its call open.
    """
    library = _library()
    context = library.seccomp_init(_ALLOW)
    if not context:
        raise UnsupportedError("libseccomp could not start a filter")
    try:
        _must(
            library.seccomp_attr_set(ctypes.c_void_p(context), _ATTRIBUTE_BAD_ARCH, _KILL_PROCESS),
            "architecture",
        )
        for rule in rules:
            for call in () if _is_of_ids(rule) else rule.calls:
                _add(library, context, rule, _number(library, call))
        future = Rule(calls=(), why="newer than this list", answer=errno.ENOSYS)
        for number in UNREVIEWED:
            _add(library, context, future, number)
        descriptor = os.memfd_create("bpf")
        try:
            _must(library.seccomp_export_bpf(ctypes.c_void_p(context), descriptor), "export")
            size = os.lseek(descriptor, 0, os.SEEK_END)
            return _ids(library, [rule for rule in rules if _is_of_ids(rule)]) + os.pread(descriptor, size, 0)
        finally:
            os.close(descriptor)
    finally:
        library.seccomp_release(ctypes.c_void_p(context))


class _ArgCompare(ctypes.Structure):
    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("datum_a", ctypes.c_uint64),
        ("datum_b", ctypes.c_uint64),
    )


def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError as error:
        raise UnsupportedError(
            "libseccomp.so.2 is missing", hint="Install it: apt-get install libseccomp2"
        ) from error
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_init.argtypes = [ctypes.c_uint32]
    library.seccomp_arch_native.restype = ctypes.c_uint32
    return library


def _number(library: ctypes.CDLL, call: str) -> int:
    """The call's number; negative where this architecture has no such call. `UnsupportedError`: unknown."""
    number = NEW_NUMBERS.get(call, _UNKNOWN)
    if number == _UNKNOWN:
        number = int(library.seccomp_syscall_resolve_name(call.encode()))
    if number == _UNKNOWN:
        raise UnsupportedError(
            f"this libseccomp does not know the call {call}, so the filter can't refuse it",
            hint="Install a newer libseccomp: apt-get install --only-upgrade libseccomp2",
        )
    return number


def _add(library: ctypes.CDLL, context: int, rule: Rule, number: int) -> None:
    if number < 0:
        return
    compares = (_ArgCompare * len(rule.when))(*(_compare(test) for test in rule.when))
    action = ctypes.c_uint32(_TRACE if rule.tracer else _ERRNO | rule.answer)
    result = library.seccomp_rule_add_array(
        ctypes.c_void_p(context), action, number, len(rule.when), compares
    )
    _must(result, f"rule for {rule.calls or number}")


def _compare(test: Argument) -> _ArgCompare:
    if test.op == "masked_eq":
        return _ArgCompare(test.index, _COMPARE[test.op], test.mask, test.value)
    return _ArgCompare(test.index, _COMPARE[test.op], test.value, 0)


_LOAD, _JUMP, _JUMP_EQUAL, _RETURN = 0x20, 0x05, 0x15, 0x06
"""Of classic BPF: a word of the call's data, go on, compare, answer."""
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16
_LOW_HALF = 0 if sys.byteorder == "little" else 4


def _is_of_ids(rule: Rule) -> bool:
    return any(test.op == "other_id" for test in rule.when)


def _ids(library: ctypes.CDLL, rules: list[Rule]) -> bytes:
    """Instructions that answer where one of `rules` holds, and otherwise end where the next program begins.

    A call of another architecture, or of none that is named, is for that one to judge.
    """
    arguments: dict[int, list[tuple[Argument, int]]] = {}
    for rule in rules:
        (test,) = rule.when
        for number in (_number(library, call) for call in rule.calls):
            if number >= 0:
                arguments.setdefault(number, []).append((test, rule.answer))
    code = [(_LOAD, 0, 0, _NUMBER_AT)]
    left = sum(2 + 4 * len(tests) for tests in arguments.values())
    for number, tests in arguments.items():
        size = 1 + 4 * len(tests)
        left -= size + 1
        code.append((_JUMP_EQUAL, 0, size, number))
        for test, answer in tests:
            code += [
                (_LOAD, 0, 0, _ARGUMENTS_AT + 8 * test.index + _LOW_HALF),
                (_JUMP_EQUAL, 2, 0, test.value),
                (_JUMP_EQUAL, 1, 0, 0xFFFFFFFF),
                (_RETURN, 0, 0, _ERRNO | answer),
            ]
        code.append((_JUMP, 0, 0, left))
    native = library.seccomp_arch_native()
    code = [(_LOAD, 0, 0, _ARCHITECTURE_AT), (_JUMP_EQUAL, 0, len(code), native), *code]
    return b"".join(struct.pack("=HBBI", *one) for one in code)


def _must(result: int, what: str) -> None:
    if result < 0:
        raise UnsupportedError(f"libseccomp refused the {what}: {os.strerror(-result)}")


def reference() -> str:
    """``docs/reference/seccomp.md``, generated."""
    lines = [
        "# The seccomp filter",
        "",
        "Whatever no row refuses is allowed. The guest sees the error as the call's own failure.",
        "A call of a foreign architecture (32-bit, x32) kills the process.",
        "",
        "| calls | only where | answer | why |",
        "| --- | --- | --- | --- |",
    ]
    for rule in RULES:
        calls = ", ".join(f"`{call}`" for call in rule.calls)
        when = " and ".join(_shown(test) for test in rule.when) or "always"
        answer = errno.errorcode[rule.answer] if rule.answer else "done, without effect"
        lines.append(f"| {calls} | {when} | {answer} | {rule.why} |")
    lines.append(
        f"| every call numbered {UNREVIEWED.start} to {UNREVIEWED.stop - 1} | always | ENOSYS | "
        "newer than this list |"
    )
    lines += [
        "",
        "A session that was forked has its zygote's filter, which was there before the zygote's first",
        "instruction. It is this list and three things more: `pidfd_open` is refused (EPERM, and asyncio",
        "falls back), so is `clone` with CLONE_PTRACE (EPERM), and `setns` is the launcher's to allow: a",
        "fork joins its namespaces by seven calls, while the launcher traces it. Without a tracer: ENOSYS.",
    ]
    return "\n".join(lines) + "\n"


def _shown(test: Argument) -> str:
    if test.op == "masked_eq":
        return f"argument {test.index} & {test.mask:#x} = {test.value:#x}"
    if test.op == "other_id":
        return f"argument {test.index} is neither {test.value} nor -1"
    words = {"lt": "<", "eq": "=", "ne": "≠", "gt": ">", "ge": "≥"}
    return f"argument {test.index} {words[test.op]} {test.value}"
