"""Where audits leave to. Each sends one batch, and returns only once it has arrived. Raises `SinkError`.

TLS is verified always, no redirect is followed, and no answer is read beyond its bound.
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import os
import socket
import ssl
import threading
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Protocol

import msgspec

from bridgehold import writes
from bridgehold.audit import anchors, chain
from bridgehold.audit.pushing import texts
from bridgehold.audit.pushing.cursor import Batch
from bridgehold.audit.segments import read_lines
from bridgehold.errors import AuditError

TIMEOUT_S = 10.0
"""Without a byte."""
MOST_S = 60.0
"""For one batch, with its answer."""
_MOST_ANSWER = 64 * 1024
_TOO_LARGE = 413


class SinkConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One of ``[push.NAME]``. `ca`: a file of certificates to trust instead of the system's."""

    name: str
    kind: Literal["folder", "syslog", "http", "otlp"]
    to: str
    ca: str = ""
    only_anchors: bool = False


class SinkError(Exception):
    """A batch that may not have arrived; `again_s`: when the sink wants to be asked again; `too_large`: it
    takes fewer lines at once.
    """

    def __init__(self, reason: str, again_s: float = 0.0, *, too_large: bool = False) -> None:
        super().__init__(reason)
        self.again_s = again_s
        self.too_large = too_large


class Parcel(msgspec.Struct, frozen=True, kw_only=True):
    """A batch, and the texts of anchors that its lines tell of, by the file's name."""

    batch: Batch
    lines: tuple[bytes, ...]
    """Those of the batch that this sink is sent."""
    anchors: dict[str, bytes]


class Sink(Protocol):
    """One place. Used by one thread."""

    def send(self, parcel: Parcel) -> None:
        """Return once all of it has arrived. Raises `SinkError`."""


def open_sink(config: SinkConfig, secret: str, host: str) -> Sink:
    """`secret`: put into a request's ``Authorization``; `host`: this machine's name."""
    match config.kind:
        case "folder":
            return FolderSink(Path(config.to))
        case "syslog":
            return SyslogSink(config, host)
        case _:
            return HttpSink(config, secret, host)


class FolderSink:
    """A copy that `audit verify` reads: the same files with the same bytes, and ``anchors`` beside them.

    What has arrived stays as it arrived, whatever becomes of the audit's own files: lines are added, and
    nothing but the published key is replaced.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._end = ("", 0)
        """The file that was written to last, and where it ended."""

    def send(self, parcel: Parcel) -> None:
        """What is sent again takes the place of itself."""
        batch = parcel.batch
        try:
            for name, text in parcel.anchors.items():
                writes.make_folder(self._folder / "anchors", mode=0o750)
                place = self._folder / "anchors" / name
                if name == anchors.PUBLIC_KEY or not os.path.lexists(place):
                    writes.replace(place, text, mode=0o640)
            if not parcel.lines:
                return
            path = self._folder / "audit" / batch.file
            writes.make_folder(path.parent, mode=0o750)
            with writes.our_folder(path.parent) as folder:
                flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
                descriptor = os.open(path.name, flags, 0o640, dir_fd=folder)
                try:
                    at = self._place(path, os.fstat(descriptor).st_size, batch)
                    os.ftruncate(descriptor, at)
                    view = memoryview(b"".join(line + b"\n" for line in batch.lines))
                    while view:
                        done = os.pwrite(descriptor, view, at)
                        view, at = view[done:], at + done
                    os.fsync(descriptor)
                    os.fsync(folder)
                    self._end = (batch.file, at)
                finally:
                    os.close(descriptor)
        except OSError as error:
            raise SinkError(f"can't write there: {error.strerror}") from error

    def _place(self, path: Path, size: int, batch: Batch) -> int:
        """Behind every line that has arrived: by its number, since bodies may have gone meanwhile."""
        if self._end == (batch.file, size):
            return size
        end = 0
        for end, lines, _ in read_lines(path):
            for line in lines:
                head = chain.head_of(line)
                if head is not None and int(head[2]) > batch.behind:
                    return end
                end += len(line) + 1  # noqa: PLW2901 - the next batch says where it begins
        return end


class SyslogSink:
    """RFC 5424 over TLS with octet counting (RFC 5425). A batch has arrived once the receiver, which was told
    that no more comes, ends the connection in order.
    """

    def __init__(self, config: SinkConfig, host: str) -> None:
        self._host, self._port = texts.host_and_port(config.to, 6514)
        self._context = _context(config)
        self._name = host

    def send(self, parcel: Parcel) -> None:
        """By a connection of its own."""
        messages = [texts.syslog(line, self._name) for line in parcel.lines]
        messages += [texts.syslog_of_anchor(text, self._name) for text in parcel.anchors.values()]
        data = b"".join(b"%d %b" % (len(message), message) for message in messages)
        try:
            with _connected(self._host, self._port, self._context) as secure:
                secure.sendall(data)
                _end_in_order(secure)
        except (OSError, ssl.SSLError) as error:
            raise SinkError(_reason(error)) from error


def _end_in_order(secure: ssl.SSLSocket) -> None:
    """Tell that no more comes, and wait for the receiver's end: a reset means that it left some unread."""
    try:
        plain = secure.unwrap()
    except ssl.SSLEOFError:  # it ended the connection without a last word
        return
    with contextlib.suppress(OSError):
        plain.shutdown(socket.SHUT_WR)
    for _ in range(16):
        if not plain.recv(4096):
            return


class HttpSink:
    """POST of lines as NDJSON, or of OTLP's JSON; 2xx means that they have arrived."""

    def __init__(self, config: SinkConfig, secret: str, host: str) -> None:
        parts = urllib.parse.urlsplit(config.to)
        self._host, self._port = parts.hostname or "", parts.port or 443
        self._path = parts.path or "/"
        if parts.query:
            self._path += f"?{parts.query}"
        self._context = _context(config)
        self._otlp = config.kind == "otlp"
        self._name = host
        self._secret = secret

    def send(self, parcel: Parcel) -> None:
        """One request."""
        if self._otlp:
            body, kind = (
                texts.otlp(parcel.lines, tuple(parcel.anchors.values()), self._name),
                "application/json",
            )
        else:
            extra = [texts.anchor_line(text) for text in parcel.anchors.values()]
            body = b"".join(line + b"\n" for line in (*parcel.lines, *extra))
            kind = "application/x-ndjson"
        headers = {"Content-Type": kind, "User-Agent": "bridgehold", "Connection": "close"}
        if self._secret:
            headers["Authorization"] = f"Bearer {self._secret}"
        connection = http.client.HTTPSConnection(self._host, self._port, context=self._context)
        try:
            with _connected(self._host, self._port, self._context) as connection.sock:
                connection.request("POST", self._path, body, headers)
                answer = connection.getresponse()
                said = answer.read(_MOST_ANSWER)
        except (OSError, ssl.SSLError, http.client.HTTPException) as error:
            raise SinkError(_reason(error)) from None
        finally:
            connection.close()
        if not 200 <= answer.status < 300:
            again_s = _retry_after(answer.getheader("Retry-After", ""))
            raise SinkError(f"it answered {answer.status}", again_s, too_large=answer.status == _TOO_LARGE)
        if self._otlp and (rejected := texts.rejected(said)):
            raise SinkError(f"it rejected {rejected} records")


@contextlib.contextmanager
def _connected(host: str, port: int, context: ssl.SSLContext) -> Iterator[ssl.SSLSocket]:
    """A connection over TLS that ends after `MOST_S`, whatever the sink says a byte at a time meanwhile.

    Raises `TimeoutError` then, also where it looks as if the sink had ended it.
    """
    over = threading.Event()
    with socket.create_connection((host, port), TIMEOUT_S) as plain, plain.dup() as held:

        def end() -> None:
            over.set()
            with contextlib.suppress(OSError):
                held.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(MOST_S, end)
        timer.daemon = True
        timer.start()
        try:
            with context.wrap_socket(plain, server_hostname=host) as secure:
                yield secure
            if over.is_set():
                raise TimeoutError(errno.ETIMEDOUT, f"not done within {MOST_S:g} seconds")
        finally:
            timer.cancel()


def _context(config: SinkConfig) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=config.ca or None)
    except (OSError, ssl.SSLError) as error:
        raise SinkError(f"its certificates can't be read: {_reason(error)}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _retry_after(said: str) -> float:
    return min(float(said), 3600.0) if said.isascii() and said.isdecimal() and len(said) < 6 else 0.0


def _reason(error: Exception) -> str:
    """Never with what was sent."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"[:200]
    if isinstance(error, OSError) and error.strerror:
        return error.strerror[:200]
    return type(error).__name__


def with_anchors(batch: Batch, folder: Path, *, only_anchors: bool) -> Parcel:
    """What one sink is sent of `batch`; `folder`: where anchors and records of keys lie."""
    found: dict[str, bytes] = {}
    for name in texts.named_files(batch.lines):
        with contextlib.suppress(AuditError):  # it went, or never came: the line itself tells of it
            found[name] = anchors.read_text(folder / name, follow=False).encode("ascii")
    lines = () if only_anchors else batch.lines
    return Parcel(batch=batch, lines=lines, anchors=found)
