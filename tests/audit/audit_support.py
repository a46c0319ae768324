"""Real journals: a process at the other end of a socket, or its `Journal` in this process."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec

from bridgehold.audit.beginning import JournalConfig
from bridgehold.audit.client import JournalClient, encode
from bridgehold.audit.events import CommandIntent, CommandOutcome, Event, Receipt
from bridgehold.audit.journal import Journal
from bridgehold.audit.recorders import HOST, Recorder
from bridgehold.audit.segments import instance_folders
from bridgehold.records import wire
from bridgehold.records.sendings import SENDING_KINDS
from bridgehold.records.workers import RECORDED_KINDS, kind_of


def intent(**changes: object) -> CommandIntent:
    """A command's intent as the host writes it."""
    fields: dict[str, object] = {
        "tenant": "acme",
        "principal": "app",
        "session": "s-0123456789abcdef",
        "command": "c-0123456789abcdef",
        "bridge": "python",
        "operation": "python:execute",
        "grant": "sha256:" + "a" * 64,
        "rule": "operations.allow[0]",
        "arguments_digest": "sha256:" + "b" * 64,
        "arguments_bytes": 20,
        "arguments_preview": '{"code":"print(1)"}',
        "deadline_ms": 60_000,
    }
    return CommandIntent(**{**fields, **changes})  # type: ignore[arg-type]  # values by name


def outcome(of: str, **changes: object) -> CommandOutcome:
    """The outcome of intent `of`."""
    fields: dict[str, object] = {
        "tenant": "acme",
        "session": "s-0123456789abcdef",
        "command": "c-0123456789abcdef",
        "intent": of,
        "transport_ok": True,
        "application_ok": True,
    }
    return CommandOutcome(**{**fields, **changes})  # type: ignore[arg-type]  # values by name


class LiveJournal:
    """The journal's process and the sockets to it."""

    def __init__(self, config: JournalConfig, clients: int = 1, *, others: tuple[str, ...] = ()) -> None:
        """`clients`: of the host's role. `others`: ``launcher``, ``keeper``, ``intake``."""
        pairs = [socket.socketpair() for _ in range(clients)]
        more = {
            name: socket.socketpair(
                socket.AF_UNIX, socket.SOCK_SEQPACKET if name == "intake" else socket.SOCK_STREAM
            )
            for name in others
        }
        with tempfile.TemporaryFile() as file:
            file.write(msgspec.json.encode(config))
            file.seek(0)
            argv = [sys.executable, "-I", "-m", "bridgehold.audit.journal", "--fd-config", str(file.fileno())]
            for _, theirs in pairs:
                argv += ["--fd-host", str(theirs.fileno())]
            for name, (_, theirs) in more.items():
                argv += [f"--fd-{name}", str(theirs.fileno())]
            pairs += more.values()
            inherited = (file.fileno(), *(theirs.fileno() for _, theirs in pairs))
            self.process = subprocess.Popen(argv, pass_fds=inherited, stderr=subprocess.PIPE)
        for _, theirs in pairs:
            theirs.close()
        self.sockets = [ours for ours, _ in pairs]
        self.others = {name: ours for name, (ours, _) in more.items()}
        self.socket = self.sockets[0]

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(30)

    def end(self) -> int:
        """Close our ends and give the exit status."""
        for ours in self.sockets:
            ours.close()
        return self.process.wait(30)

    def errors(self) -> str:
        assert self.process.stderr is not None
        return self.process.stderr.read().decode()


@contextlib.asynccontextmanager
async def connected(journal: LiveJournal, deadline_s: float = 10.0) -> AsyncIterator[JournalClient]:
    client = await JournalClient.connect(journal.socket, deadline_s=deadline_s)
    try:
        yield client
    finally:
        await client.close()


class Filler:
    """Writes an audit through the journal's own code in this process."""

    def __init__(
        self,
        folder: Path,
        recorders: tuple[str, ...] = ("host",),
        sync: Callable[[int], None] = os.fdatasync,
        **changes: object,
    ) -> None:
        fields = {"folder": str(folder), "reserve_bytes": 65_536, **changes}
        config = JournalConfig(**fields)  # type: ignore[arg-type]  # values by name
        self.journal = Journal(config, recorders=recorders, sync=sync)
        self.launcher, self.keeper = Recorder("launcher"), Recorder("keeper")

    def _recorder(self, kind: str) -> Recorder:
        if kind in SENDING_KINDS:
            return self.keeper
        return self.launcher if kind in RECORDED_KINDS else HOST

    def put(self, *events: Event) -> list[Receipt]:
        """Each by whom it is to be written."""
        requests = [wire.Request(wire.APPEND, n, encode(event)) for n, event in enumerate(events)]
        recorders = [self._recorder(kind_of(event)) for event in events]
        answers = self.journal.answer(requests, recorders)
        assert all(not answer.code for answer in answers), answers
        instance = self.journal.writer.instance
        return [Receipt(ref=f"{instance}.{a.seq}", seq=a.seq, hash=a.hash) for a in answers]

    def pairs(self, count: int) -> None:
        """`count` commands, each with intent and outcome."""
        for number in range(count):
            self.put(outcome(self.put(intent(command=f"c-{number:016d}"))[0].ref, command=f"c-{number:016d}"))

    def close(self) -> None:
        self.journal.close("test")


def segment_files(audit: Path) -> list[Path]:
    """Every segment, in the order of instances and numbers."""
    return [segment.path for folder in instance_folders(audit) for segment in folder.segments()]


def lines_of(file: Path) -> list[bytes]:
    return file.read_bytes().split(b"\n")[:-1]


def rewrite(file: Path, lines: list[bytes]) -> None:
    file.chmod(0o600)
    file.write_bytes(b"".join(line + b"\n" for line in lines))
