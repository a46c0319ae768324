"""The synchronous facade of a session, its files and its processes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, overload

from bridgehold.client.connection import Progress
from bridgehold.client.execution import Ask
from bridgehold.client.facade import Facade, each, waited
from bridgehold.client.processes import Process, Size
from bridgehold.client.session import ClientSession
from bridgehold.client.session_files import MOST_READ, SessionFiles
from bridgehold.protocol.values import Artifact

Artifacts = list[Artifact]


class SyncSession(Facade[ClientSession]):
    """One session; its operations may be named without their bridge.

    Its methods are `ClientSession`'s, waited for; an `on_event` is called on the client's own thread.
    """

    call = waited(ClientSession.call)
    run = waited(ClientSession.run)
    execute = waited(ClientSession.execute)
    place = waited(ClientSession.place)
    create_context = waited(ClientSession.create_context)
    contexts = waited(ClientSession.contexts)
    drop_context = waited(ClientSession.drop_context)
    extend = waited(ClientSession.extend)
    logs = waited(ClientSession.logs)
    put = waited(ClientSession.put)
    get = waited(ClientSession.get)
    artifacts = waited(ClientSession.artifacts)
    complete = waited(ClientSession.complete)
    inspect = waited(ClientSession.inspect)

    @overload
    def command(
        self,
        argv: Sequence[str],
        *,
        stdin: str | Ask | None = ...,
        cwd: str = ...,
        env: Mapping[str, str] | None = ...,
        terminal: Size | None = ...,
        background: Literal[True],
        deadline_ms: int = ...,
        on_event: Progress | None = ...,
    ) -> SyncProcess: ...

    @overload
    def command(
        self,
        argv: Sequence[str],
        *,
        stdin: str | Ask | None = ...,
        cwd: str = ...,
        env: Mapping[str, str] | None = ...,
        terminal: Size | None = ...,
        background: Literal[False] = ...,
        deadline_ms: int = ...,
        on_event: Progress | None = ...,
    ) -> dict[str, Any]: ...

    def command(
        self,
        argv: Sequence[str],
        *,
        stdin: str | Ask | None = None,
        cwd: str = "",
        env: Mapping[str, str] | None = None,
        terminal: Size | None = None,
        background: bool = False,
        deadline_ms: int = 0,
        on_event: Progress | None = None,
    ) -> dict[str, Any] | SyncProcess:
        """As `ClientSession.command`."""
        work = self._awaited.command(
            argv,
            stdin=stdin,
            cwd=cwd,
            env=env,
            terminal=terminal,
            background=background,  # type: ignore[call-overload]  # either
            deadline_ms=deadline_ms,
            on_event=on_event,
        )
        found: dict[str, Any] | Process = self._loop.run(work)
        return SyncProcess(self._loop, found) if isinstance(found, Process) else found

    def processes(self) -> list[SyncProcess]:
        """As `ClientSession.processes`."""
        return [SyncProcess(self._loop, one) for one in self._loop.run(self._awaited.processes())]

    @property
    def files(self) -> SyncFiles:
        """As `ClientSession.files`."""
        return SyncFiles(self._loop, self._awaited.files)

    @property
    def id(self) -> str:
        """Another one after it was lost and made again (`lost`)."""
        return self._awaited.id

    @property
    def anew(self) -> str:
        """As `ClientSession.anew`."""
        return self._awaited.anew

    @property
    def lost(self) -> list[str]:
        """As `ClientSession.lost`."""
        return self._awaited.lost

    def stream(
        self, operation: str, arguments: dict[str, Any] | None = None, *, deadline_ms: int = 0
    ) -> Iterator[dict[str, Any]]:
        """As `ClientSession.stream`."""
        yield from each(self._loop, self._awaited.stream(operation, arguments, deadline_ms=deadline_ms))


class SyncProcess(Facade[Process]):
    """As `Process`, whose methods are waited for."""

    poll = waited(Process.poll)
    wait = waited(Process.wait)
    read = waited(Process.read)
    write = waited(Process.write)
    send_signal = waited(Process.send_signal)
    resize = waited(Process.resize)

    @property
    def number(self) -> int:
        """As `Process.number`."""
        return self._awaited.number

    @property
    def argv(self) -> list[str]:
        """As `Process.argv`."""
        return self._awaited.argv

    def output(self, *, stream: str = "stdout", offset: int = 0) -> Iterator[bytes]:
        """As `Process.output`."""
        yield from each(self._loop, self._awaited.output(stream=stream, offset=offset))


class SyncFiles(Facade[SessionFiles]):
    """`session.files`: `SessionFiles`, whose methods are waited for."""

    stat = waited(SessionFiles.stat)
    list = waited(SessionFiles.list)
    read = waited(SessionFiles.read)
    write = waited(SessionFiles.write)
    write_all = waited(SessionFiles.write_all)
    mkdir = waited(SessionFiles.mkdir)
    rename = waited(SessionFiles.rename)
    remove = waited(SessionFiles.remove)
    put = waited(SessionFiles.put)
    get = waited(SessionFiles.get)

    def __call__(self) -> Artifacts:
        """As `SessionFiles.__call__`."""
        return self._loop.run(self._awaited())

    def parts(self, path: str, *, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """As `SessionFiles.parts`."""
        yield from each(self._loop, self._awaited.parts(path, offset=offset, length=length))

    def folder(self, path: str = "", *, most_bytes: int = MOST_READ) -> Iterator[tuple[str, bytes]]:
        """As `SessionFiles.folder`."""
        yield from each(self._loop, self._awaited.folder(path, most_bytes=most_bytes))
