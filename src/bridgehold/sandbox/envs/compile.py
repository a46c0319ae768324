"""Byte-compiling, in a sandbox per wheel that has nothing but what it is told: no tree, no network.

A compiler reads hostile text, so it may be taken over. It gets one wheel's sources through a pipe and
answers with one code object each; the header, the name and the place are made here. Whatever it does, it
answers for that wheel's own modules, which are that wheel's to write anyway. Its Python processes no
site: no environment is mounted, and ``-S -s -P`` find none.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Sequence
from importlib.util import source_hash
from typing import BinaryIO, Literal, Protocol

import msgspec

from bridgehold.errors import DependencyError, EnvironmentBuildError
from bridgehold.ids import LOCAL_TENANT
from bridgehold.sandbox.envs.unpack import Tree
from bridgehold.sandbox.envs.values import MIB, Interpreter, ScanReport
from bridgehold.sandbox.spec import ENVIRONMENT
from bridgehold.sandbox.values import SealReport

_ASKED = struct.Struct("<II")
_ANSWERED = struct.Struct("<I")
_MAX_SOURCE = 16 * MIB
_MOST_TIMES, _MOST_CODE = 16, 128 * MIB
"""Of one answer: this many times its source and 1 MiB, and never more than this."""
_ALL_TIMES, _ALL_EACH, _ALL_MORE = 8, 4096, 16 * MIB
"""Of all answers for a wheel: this many times its sources, and for each source, and once. (Packages: some one
time.)"""
_UNCHECKED = (1).to_bytes(4, "little")
"""By hash of the source, and never looked at again: the tree can't change, and copies have other times."""
_KEPT_LOG = 64 * 1024
_SHOWN_LINES = 12

# Sources come as (size of name, size of source, name, source) and go as (size, code): none where Python
# can't compile it, which is no fault: packages hold templates, and tests for other versions.
PROGRAM = """
import marshal, struct, sys, warnings
warnings.simplefilter("ignore")
read, write = sys.stdin.buffer.read, sys.stdout.buffer.write
while head := read(8):
    names, size = struct.unpack("<II", head)
    name, source = read(names).decode("utf-8", "surrogateescape"), read(size)
    try:
        code = marshal.dumps(compile(source, name, "exec", 0, True, 0))
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError):
        code = b""
    write(struct.pack("<I", len(code)))
    write(code)
sys.stdout.buffer.flush()
"""
Talk = Callable[[BinaryIO, BinaryIO], None]
"""(what the compiler reads, what it writes): both ends are closed by whoever calls it."""


class CompileOrder(msgspec.Struct, frozen=True, kw_only=True):
    """One run of the compiler, or of what lists fonts. Paths are of the host."""

    argv: tuple[str, ...]
    interpreter_prefix: str
    bridge: str
    tenant: str = LOCAL_TENANT
    """In whose share it runs."""
    tree: str = ""
    """Shown read-only as the environment; empty: none is."""


class CompileExit(msgspec.Struct, frozen=True, kw_only=True):
    """How the compiling process ended; `status` is its exit status or the signal's number."""

    cause: Literal["exited", "signal", "memory", "killed", "launcher", "zygote"]
    status: int


class BuildRunner(Protocol):
    """What a build needs of the launcher: `launcher_runner` in service."""

    async def run(self, order: CompileOrder, talk: Talk, log: Callable[[bytes], None]) -> CompileExit:
        """Run a compiler, `talk` to it in a thread, and feed `log` what it says beside.

        Cancelled, or where `talk` raises: it is killed before this returns.
        """
        ...

    async def seal(self, build: str) -> SealReport:
        """Take the tree over, read-only, with its digest. `DependencyError` at links or special files."""
        ...

    async def discard(self, build: str) -> str:
        """Remove a folder that is not to be used, whoever owns what is in it; why it stays, or nothing."""
        ...


def compile_argv(interpreter: Interpreter) -> tuple[str, ...]:
    """The command line of the compiler inside: isolated, and without the environment's own code.

    Before 3.11 there is no ``-P``; the folder that it would leave out is an empty one of the sandbox's own.
    """
    path = () if interpreter.minor == "3.10" else ("-P",)
    return (interpreter.inside, "-S", "-s", *path, "-B", "-X", "utf8", "-c", PROGRAM)


def sources_of(report: ScanReport, interpreter: Interpreter) -> tuple[str, ...]:
    """The wheel's modules, as paths below the environment."""
    site = interpreter.site_packages + "/"
    return tuple(
        file.path
        for file in report.files
        if file.path.endswith(".py") and file.path.startswith(site) and file.size <= _MAX_SOURCE
    )


class Compilation:
    """One wheel's sources on their way through a compiler, and what comes of them on its way into `tree`."""

    def __init__(self, tree: Tree, sources: Sequence[str], interpreter: Interpreter) -> None:
        self._tree = tree
        self._interpreter = interpreter
        self._sources = sources
        self._done = 0

    @property
    def unanswered(self) -> str:
        """The first source without an answer; empty where all have theirs."""
        return self._sources[self._done] if self._done < len(self._sources) else ""

    def talk(self, to: BinaryIO, answers: BinaryIO) -> None:
        """Until all are answered, or the compiler is gone. Before an absurd answer is read:
        `DependencyError`."""
        room = self._room()
        feeder = threading.Thread(target=self._feed, args=(to,), daemon=True)
        feeder.start()
        try:
            for path in self._sources:
                head = answers.read(_ANSWERED.size)
                if len(head) < _ANSWERED.size:
                    return
                (size,) = _ANSWERED.unpack(head)
                source = self._tree.path(path).read_bytes()
                if size > min(_MOST_TIMES * len(source) + MIB, _MOST_CODE):
                    raise DependencyError(f"{path}: compiles to {size} bytes")
                room -= size
                if room < 0:
                    raise DependencyError(f"{path}: the wheel compiles to more than its sources can")
                code = answers.read(size)
                if len(code) < size:
                    return
                if code:
                    header = self._interpreter.magic + _UNCHECKED + source_hash(source)
                    folder, _, name = path.rpartition("/")
                    cached = f"__pycache__/{name.removesuffix('.py')}.{self._interpreter.cache_tag}.pyc"
                    self._tree.file(f"{folder}/{cached}" if folder else cached, (header, code))
                self._done += 1
            if answers.read(1):
                raise DependencyError("the compiler answered more than it was asked")
        finally:
            answers.close()
            feeder.join()

    def _room(self) -> int:
        """Bytes that all answers together may have."""
        sizes = [self._tree.path(path).stat().st_size for path in self._sources]
        return _ALL_TIMES * sum(sizes) + _ALL_EACH * len(sizes) + _ALL_MORE

    def _feed(self, to: BinaryIO) -> None:
        try:
            with to:
                for path in self._sources:
                    name = f"{ENVIRONMENT}/{path}".encode("utf-8", "surrogateescape")
                    source = self._tree.path(path).read_bytes()
                    to.write(_ASKED.pack(len(name), len(source)) + name + source)
        except OSError:
            return  # it is gone: that shows at the other pipe


class Log:
    """The last lines of what a compiler says beside its answers, bounded."""

    def __init__(self) -> None:
        self._tail = b""

    def write(self, data: bytes) -> None:
        """Keep the end of what the compiler wrote."""
        self._tail = (self._tail + data)[-_KEPT_LOG:]

    def last_lines(self) -> str:
        """The last lines, short and printable, for an error's message."""
        return "\n".join(_clean(line[:400]) for line in self._tail.splitlines()[-_SHOWN_LINES:])


def require_success(
    ended: CompileExit, log: Log, file: str, *, where: str, what: str = "the compiler"
) -> None:
    """Raise `DependencyError` or `EnvironmentBuildError` unless it went well.

    `file`: the first without an answer, if there is one.
    """
    if ended.cause == "exited" and ended.status == 0 and not file:
        return
    said = log.last_lines()
    said = f"; it said:\n{said}" if said else ""
    if ended.cause == "memory":
        raise EnvironmentBuildError(
            f"{what} reached its memory cap at {file or 'the end'}{said}", where=where
        )
    if ended.cause in ("exited", "signal"):
        raise DependencyError(
            f"{what} ended ({ended.cause} {ended.status}) at {file or 'the end'}{said}",
            where=where,
            hint="A wheel is broken, or does not fit this Python. Pin another version.",
        )
    raise EnvironmentBuildError(
        f"{what} was ended ({ended.cause} {ended.status}){said}", where=where, retry="same"
    )


def _clean(line: bytes) -> str:
    """A hostile line as a printable one."""
    text = line.decode("utf-8", "replace")
    return "".join(c if c.isprintable() else "?" for c in text)
