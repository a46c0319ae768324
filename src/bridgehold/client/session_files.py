"""A session's files, from the caller's side. Names and sizes come out of a sandbox, and aren't believed."""

from __future__ import annotations

import asyncio
import errno
import io
import os
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import msgspec

from bridgehold.errors import LimitError, ProtocolError, UsageError
from bridgehold.protocol.parts import Moved
from bridgehold.protocol.values import Artifact, FileFact, FilePart, Reply

PART_BYTES = 4 * 1024 * 1024
_AHEAD = 1
"""Parts under way beside the one that is waited for: while a process has one, the next has another."""
MOST_READ = 1024 * 1024 * 1024
"""Bytes of one file that are read where its caller says nothing: a sandbox's file may grow as it is read."""
MOST_FILES = 10_000
"""Of one folder that is taken out."""
_OF_NAMES = (errno.EEXIST, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EILSEQ)
"""What a file here can't be called, or lie in."""
Facts = list[FileFact]
Content = bytes | str | Path
"""What goes into a file: bytes, text, or the path of a file here."""


class Runs(Protocol):
    """What is needed of a session."""

    tenant: str

    async def run(self, operation: str, arguments: dict[str, Any] | None = None) -> Any:
        """Run an operation; its value."""

    async def call(
        self, operation: str, arguments: dict[str, Any] | None = None, *, moved: Moved | None = None
    ) -> Reply:
        """As `run`, the whole reply; `moved`: the bytes that go beside its arguments."""

    async def artifacts(self) -> list[Artifact]:
        """The tenant's artifacts."""


class SessionFiles:
    """`session.files`: the files of one session, by the operations that its bridge has for them."""

    def __init__(self, session: Runs) -> None:
        self._session = session

    async def __call__(self) -> list[Artifact]:
        """The artifacts of the session's tenant: as `session.artifacts`."""
        return await self._session.artifacts()

    async def stat(self, path: str) -> FileFact:
        """What lies at `path`. Raises `NotFoundError`."""
        return _fact(await self._session.run("files_stat", {"path": path}))

    async def list(self, path: str = "", *, depth: int = 1) -> Facts:
        """What lies in the folder, and `depth` levels below, by name; no link is followed.

        Raises `LimitError` where it is more than `MOST_FILES`, `ProtocolError` for what doesn't lie there.
        """
        asked = {"path": path, "depth": depth, "most": MOST_FILES}
        said = _table(await self._session.run("files_list", asked))
        if said.get("truncated"):
            raise LimitError(f"there are more than {MOST_FILES} entries below {path or '.'!r}")
        listed = said.get("entries")
        if not isinstance(listed, list):
            raise ProtocolError("the session's listing is none")
        facts = [_fact(one) for one in listed]
        for fact in facts:
            _within(fact.path, path)
        return facts

    async def parts(self, path: str, *, offset: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        """A file's bytes from `offset` on, a part at a time; at most `length`, else at most `MOST_READ`."""
        async for data in self._parts({"path": path}, offset, length):
            yield data

    async def _parts(self, place: dict[str, Any], offset: int, length: int | None) -> AsyncIterator[bytes]:
        left = MOST_READ if length is None else length
        ahead: deque[asyncio.Task[FilePart]] = deque()
        step, asked = PART_BYTES, offset
        try:
            while left > 0:
                due = offset + min(left, step)
                asked = max(asked, due)
                part = await (ahead.popleft() if ahead else self._part(place, offset, left))
                data = part.base64[:left]
                left -= len(data)
                offset += len(data)
                if offset != due and not part.end:  # it gives less at once: the others lie elsewhere
                    await _given_up(ahead)
                    step, asked = len(data), offset
                while not part.end and len(ahead) < _AHEAD and asked < min(offset + left, part.size_bytes):
                    length_asked = min(step, offset + left - asked)
                    ahead.append(asyncio.create_task(self._part(place, asked, length_asked)))
                    asked += length_asked
                if data:
                    yield data
                if part.end:
                    return
        finally:
            await _given_up(ahead)
        if length is None:
            raise LimitError(f"the file has more than {MOST_READ} bytes; read a range of it (`length=`)")

    async def _part(self, place: dict[str, Any], offset: int, left: int) -> FilePart:
        asked = {**place, "offset": offset, "length": min(left, PART_BYTES)}
        return FilePart.of((await self._session.call("files_read", asked, moved=Moved())).value)

    async def read(self, path: str, *, offset: int = 0, length: int | None = None) -> bytes:
        """A file's bytes, or a range of them."""
        whole = io.BytesIO()  # a part's memory serves the next
        async for data in self.parts(path, offset=offset, length=length):
            whole.write(data)
        return whole.getvalue()

    async def write(self, path: str, data: Content, *, mode: int = 0o644) -> FileFact:
        """Write a file, and the folders that it lies in; it appears when it is whole."""
        offset = 0
        under_way: deque[asyncio.Task[Reply]] = deque()
        with _source(data) as source:
            part = source.read(PART_BYTES)
            try:
                while True:
                    following = source.read(PART_BYTES)
                    asked = {"path": path, "offset": offset, "last": not following, "mode": mode}
                    moved = Moved("arguments.base64", part)
                    under_way.append(
                        asyncio.create_task(self._session.call("files_write", asked, moved=moved))
                    )
                    while under_way and (len(under_way) > _AHEAD or not offset or not following):
                        await under_way.popleft()  # the first alone: it says whether any may be written
                    if not following:
                        return await self.stat(path)
                    offset += len(part)
                    part = following
            finally:
                await _given_up(under_way)

    async def write_all(self, files: Mapping[str, Content]) -> None:
        """Write several: paths with what goes into them."""
        for path, data in files.items():
            await self.write(path, data)

    async def mkdir(self, path: str) -> FileFact:
        """Make a folder, and those that it lies in."""
        return _fact(await self._session.run("files_mkdir", {"path": path}))

    async def rename(self, path: str, to: str) -> FileFact:
        """Give a file or a folder another path."""
        return _fact(await self._session.run("files_rename", {"path": path, "to": to}))

    async def remove(self, path: str, *, recursive: bool = False) -> None:
        """Remove a file, a link or an empty folder; with `recursive` all that is in it, too."""
        await self._session.run("files_remove", {"path": path, "recursive": recursive})

    async def folder(
        self, path: str = "", *, most_bytes: int = MOST_READ
    ) -> AsyncIterator[tuple[str, bytes]]:
        """Every regular file below a folder as (its path within that, its bytes), one after the other.

        Links and special files are left out, and names that are no text. Raises `LimitError` past
        `most_bytes` in all.
        """
        left = most_bytes
        for fact in await self.list(path, depth=32):
            if fact.kind != "file" or fact.raw:
                continue
            data = await self.read(fact.path, length=left + 1)
            left -= len(data)
            if left < 0:
                raise _too_large(path, most_bytes)
            yield _within(fact.path, path), data

    async def put(self, source: Path, path: str = "") -> int:
        """Write a file of this machine's, or a folder with all regular files in it; how many."""
        found = await asyncio.to_thread(_regular, source)
        for one in found:
            inside = PurePosixPath(path or source.name)
            await self.write(str(inside if one == source else inside / one.relative_to(source)), one)
        return len(found)

    async def get(self, path: str, to: Path, *, most_bytes: int = MOST_READ) -> int:
        """Take a file, or a folder's regular files, out into a new file or folder; how many.

        Whatever the sandbox calls its files, all of them lie in `to`: a name that leads elsewhere is refused.
        Raises `LimitError` past `most_bytes` in all; what was written by then stays.
        """
        fact = await self.stat(path)
        if fact.kind != "folder":
            if await self._get(path, to, most_bytes) < 0:
                raise _too_large(path, most_bytes)
            return 1
        await asyncio.to_thread(to.mkdir)
        count, left = 0, most_bytes
        for one in await self.list(path, depth=32):
            if one.raw or one.kind not in ("file", "folder"):
                continue
            place = to / _within(one.path, path)
            try:
                if one.kind == "folder":
                    await asyncio.to_thread(place.mkdir)
                    continue
                left = await self._get(one.path, place, left)
            except OSError as error:
                if error.errno not in _OF_NAMES:
                    raise
                raise ProtocolError(f"a listing holds what can't lie in a folder: {error.strerror}") from None
            if left < 0:
                raise _too_large(path, most_bytes)
            count += 1
        return count

    async def _get(self, path: str, to: Path, most: int) -> int:
        """How many of `most` bytes are left; -1: it has more."""
        from bridgehold import writes

        with writes.arriving(to) as file:
            async for data in self.parts(path, length=most + 1):
                most -= len(data)
                file.write(data[:most] if most < 0 else data)
        return most


async def _given_up(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel what nobody waits for any more; what it raises is nobody's."""
    if tasks := tuple(tasks):
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _regular(source: Path) -> list[Path]:
    """A file, or those in a folder that no link leads to."""
    if not source.is_dir():
        return [source]
    return sorted(one for one in source.rglob("*") if one.is_file() and not one.is_symlink())


def _within(path: str, top: str) -> str:
    """`path` below `top`, as one that stays below. Raises `ProtocolError`."""
    inside = path[len(top.rstrip("/")) + 1 :] if top not in ("", ".") else path
    names = inside.split("/")
    if not path.startswith("" if top in ("", ".") else top.rstrip("/") + "/") or not inside:
        raise ProtocolError("a listing holds what is not below its folder")
    if any(name in ("", ".", "..") or "\0" in name or os.sep != "/" for name in names):
        raise ProtocolError("a listing holds a name that leads elsewhere")
    return inside


def _source(data: Content) -> Any:
    if isinstance(data, str):
        return io.BytesIO(data.encode("utf-8"))
    if not isinstance(data, Path):
        try:
            return io.BytesIO(data if isinstance(data, bytes) else memoryview(data))  # of bytes no copy
        except TypeError as error:
            what = f"{type(data).__module__}.{type(data).__qualname__}"
            raise UsageError(
                f"a file is bytes or text, and a {what} is neither",
                where="data",
                hint="Give its text or bytes, or the `Path` of a file.",
            ) from error
    try:
        return data.open("rb")
    except OSError as error:
        raise UsageError(f"can't be read: {error.strerror}", where=str(data)) from error


def _table(said: object) -> dict[str, Any]:
    if not isinstance(said, dict):
        raise ProtocolError("the session answered with no object")
    return said


def _fact(said: object) -> FileFact:
    try:
        return msgspec.convert(said, type=FileFact)
    except msgspec.ValidationError as error:
        raise ProtocolError(f"the session's word on a file is none: {error}") from None


def _too_large(path: str, most_bytes: int) -> LimitError:
    return LimitError(f"the files below {path or '.'!r} have more than {most_bytes} bytes")
