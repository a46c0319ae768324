"""The audit leaves by itself: in order, at least once, whatever the sink does; and the journal knows nothing of it."""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from audit_support import Filler, lines_of, segment_files
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from bridgehold.audit import anchors, chain, seals
from bridgehold.audit.pushing import sinks, texts
from bridgehold.audit.pushing.cursor import Cursor, next_batch, sizes, waiting
from bridgehold.audit.pushing.pusher import Pusher, read_state
from bridgehold.audit.pushing.sinks import FolderSink, Parcel, Sink, SinkConfig, SinkError, open_sink
from bridgehold.audit.sealing import Wanted, seal_audit
from bridgehold.audit.verify import verify_audit
from bridgehold.audit.writer import Limits
from bridgehold.config.kinds import read_table
from bridgehold.config.sections import PushSection

KEY = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)


class Home:
    """An audit of two instances with several segments, anchors beside it, and where sinks stand."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.audit, self.beside, self.state = (folder / name for name in ("audit", "anchors", "push"))
        for path in (self.audit, self.beside, self.state):
            path.mkdir()
        self.begin()
        self.filler.pairs(6)
        self.filler.close()
        self.begin()
        self.filler.pairs(6)
        self.anchor()

    def begin(self) -> None:
        self.filler = Filler(self.audit, limits=Limits(segment_bytes=4_000), anchors=str(self.beside))

    def anchor(self) -> None:
        writer = self.filler.journal.writer
        made = anchors.anchor_at(
            chain.Head(writer.instance, writer.count, writer.head),
            time="2026-11-20T09:30:00.000Z",
            public_key=KEY.public_key().public_bytes_raw(),
        )
        event = self.filler.journal._anchor(anchors.render(anchors.sign_anchor(made, KEY.sign)).encode())
        assert event is not None
        writer.write([event])
        writer.sync()

    @property
    def lines(self) -> list[bytes]:
        return [line for file in segment_files(self.audit) for line in lines_of(file)]


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Counted:
    """A sink that remembers, and fails as long as it is told to."""

    def __init__(self) -> None:
        self.down = False
        self.taken: list[bytes] = []
        self.anchors: dict[str, bytes] = {}
        self.tries = 0
        self.lost = False

    def send(self, parcel: Parcel) -> None:
        self.tries += 1
        if self.down:
            raise SinkError("nobody listens")
        self.taken += parcel.lines
        self.anchors |= parcel.anchors
        if self.lost:  # it arrived, and its answer did not
            raise SinkError("the answer was lost")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def pusher(home: Home, sink: Callable[[], Sink], clock: Clock, **changes: Any) -> Pusher:
    config = SinkConfig(**{"name": "one", "kind": "http", "to": "https://x", **changes})
    return Pusher(config, sink, audit=home.audit, anchors=home.beside, state=home.state, now=clock)


def run(of: Pusher, clock: Clock, *, seconds: float) -> list[float]:
    """So many seconds of the clock; the waits."""
    end, waits = clock.now + seconds, []
    while clock.now < end:
        wait = of.step()
        waits.append(wait)
        clock.now += wait or 0.001
    return waits


def test_a_sink_that_is_gone_for_an_hour_has_all_in_order_afterwards(home: Home) -> None:
    sink, clock = Counted(), Clock()
    of = pusher(home, lambda: sink, clock)
    run(of, clock, seconds=5)
    assert sink.taken == home.lines
    sink.down = True
    home.filler.pairs(20)  # commands go on: nobody asks the sink
    home.anchor()
    sink.tries = 0
    waits = run(of, clock, seconds=3600)
    assert 60 < sink.tries < 80
    assert max(waits) == 60
    state = read_state(home.state / "one.json")
    assert state.waiting == len(home.lines) - len(sink.taken) > 40
    assert state.problem == "nobody listens"
    assert clock.now - state.failing_since > 3500
    sink.down = False
    home.filler.pairs(3)
    run(of, clock, seconds=130)
    assert sink.taken == home.lines
    state = read_state(home.state / "one.json")
    assert (state.waiting, state.problem, state.sent) == (0, "", len(home.lines))
    assert sorted(sink.anchors) == sorted(path.name for path in home.beside.iterdir())


def test_what_a_lost_answer_was_for_is_sent_again_and_nothing_is_passed_over(home: Home) -> None:
    sink, clock = Counted(), Clock()
    sink.lost = True
    of = pusher(home, lambda: sink, clock)
    of.step()
    first = list(sink.taken)
    sink.lost = False
    sink.taken.clear()
    run(pusher(home, lambda: sink, clock), clock, seconds=5)  # another process, after a crash
    assert sink.taken == home.lines
    assert first == home.lines[: len(first)]


def test_a_line_leaves_once_it_has_been_on_the_disk_for_a_second(home: Home) -> None:
    settled = sizes(home.audit)
    home.filler.pairs(1)
    found, cursor = [], Cursor()
    while (batch := next_batch(home.audit, cursor, settled)) is not None:
        found += batch.lines
        cursor = batch.after
    assert found == home.lines[:-2]
    assert waiting(home.audit, cursor) == 2


def test_where_bodies_were_dropped_meanwhile_the_next_line_is_found_by_its_number(home: Home) -> None:
    batch = next_batch(home.audit, Cursor(), {})
    assert batch is not None
    cursor = Cursor(
        folder=batch.after.folder, segment=1, offset=sum(len(line) + 1 for line in batch.lines[:3]), seq=3
    )
    list(
        seal_audit(
            home.audit, Wanted(drop=True), lambda made: seals.sign(made, KEY.sign), by="uid 0", time="x"
        )
    )
    after = next_batch(home.audit, cursor, {})
    assert after is not None
    facts = chain.read_line(after.lines[0])
    assert facts is not None
    assert facts.seq == 4


@settings(max_examples=60, deadline=None)
@given(cuts=st.lists(st.tuples(st.integers(1, 5), st.booleans()), max_size=12))
def test_no_order_of_writing_crashing_and_failing_loses_or_swaps_a_line(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[tuple[int, bool]]
) -> None:
    home = Home(tmp_path_factory.mktemp("home"))
    sink, clock = Counted(), Clock()
    of = pusher(home, lambda: sink, clock)
    for pairs, down in cuts:
        sink.down = down
        home.filler.pairs(pairs)
        if down:
            of = pusher(home, lambda: sink, clock)
        run(of, clock, seconds=pairs)
    sink.down = False
    run(of, clock, seconds=130)
    assert sink.taken == home.lines


def test_a_folder_is_a_copy_that_verifies_with_its_anchors(home: Home, tmp_path: Path) -> None:
    clock, copy = Clock(), tmp_path / "copy"
    of = pusher(home, lambda: FolderSink(copy), clock)
    run(of, clock, seconds=3)
    home.filler.pairs(2)
    run(of, clock, seconds=3)
    for file in segment_files(home.audit):
        assert (copy / "audit" / file.relative_to(home.audit)).read_bytes() == file.read_bytes()
    kept = anchors.load(copy / "anchors")
    report = verify_audit(copy / "audit", outside=kept)
    assert report.ok, report.first_bad
    assert report.anchoring.status == "anchored"


def test_what_has_arrived_in_a_folder_is_rewritten_by_nobody(home: Home, tmp_path: Path) -> None:
    """Whoever holds the journal writes its files anew, so that its lines would fall upon those in the copy."""
    clock, copy = Clock(), tmp_path / "copy"
    of = pusher(home, lambda: FolderSink(copy), clock)
    run(of, clock, seconds=3)
    own = segment_files(home.audit)[-1]
    arrived = copy / "audit" / own.relative_to(home.audit)
    before = arrived.read_bytes()
    (anchor,) = (copy / "anchors").iterdir()
    signed = anchor.read_bytes()
    last = own.read_bytes().splitlines()[-1]
    told = next(line for line in own.read_bytes().splitlines() if b'"kind":"anchor.signed"' in line)
    seq = chain.read_line(last).seq  # type: ignore[union-attr]  # it is one of ours
    (home.beside / anchor.name).write_text("forged")
    for number, lines in enumerate(
        (b"forged\n", re.sub(rb'"seq":\d+', b'"seq":%d' % (seq + 1), told) + b"\n")
    ):
        own.chmod(0o600)
        own.write_bytes(lines)
        run(of if number else pusher(home, lambda: FolderSink(copy), clock), clock, seconds=4)
        assert arrived.read_bytes().startswith(before)
        assert arrived.read_bytes().endswith(lines), "what is forged has arrived as well, behind"
    assert anchor.read_bytes() == signed


def test_bodies_that_are_dropped_while_a_sink_is_away_cost_the_copy_no_line(
    home: Home, tmp_path: Path
) -> None:
    clock, copy = Clock(), tmp_path / "copy"
    sink = FolderSink(copy)
    batch = next_batch(home.audit, Cursor(), {}, 3)
    assert batch is not None
    assert len(batch.lines) == 3
    sink.send(Parcel(batch=batch, lines=batch.lines, anchors={}))
    arrived = copy / "audit" / batch.file
    before = arrived.read_bytes()
    list(
        seal_audit(
            home.audit, Wanted(drop=True), lambda made: seals.sign(made, KEY.sign), by="uid 0", time="x"
        )
    )
    for again in (
        sink,
        FolderSink(copy),
    ):  # the second: its process died before it had written down where it was
        after = next_batch(home.audit, batch.after, {})
        assert after is not None
        again.send(Parcel(batch=after, lines=after.lines, anchors={}))
        lines = arrived.read_bytes().splitlines()
        assert arrived.read_bytes().startswith(before)
        found = [facts.seq for line in lines if (facts := chain.read_line(line)) is not None]
        assert found == list(range(1, len(lines) + 1))
    assert clock.now


@pytest.mark.parametrize(
    ("kind", "to"),
    [
        ("syslog", "a..b:6514"), ("syslog", "a:99999"), ("syslog", "a:0"), ("syslog", f"{'a' * 64}:1"),
        ("http", "https://a..b/"), ("http", "https://a:99999/"), ("http", "https://a/\u00e9"),
        ("otlp", "https://a/x y"), ("otlp", "https://a/x\r\nHost: b"),
    ],
)  # fmt: skip
def test_an_address_that_no_connection_can_be_made_to_is_refused_where_it_is_written(
    kind: str, to: str
) -> None:
    with pytest.raises(ValueError, match="`to` is"):
        read_table(PushSection, {"kind": kind, "to": to})


@pytest.mark.parametrize("fault", [UnicodeError("label empty"), OverflowError("port"), ValueError("sk-0123")])
def test_whatever_a_sink_ends_with_is_said_and_tried_again(home: Home, fault: Exception) -> None:
    clock, sink, faults = Clock(), Counted(), [fault]

    def opened() -> Sink:
        if faults:
            raise faults.pop()
        return sink

    of = pusher(home, opened, clock)
    of.step()
    assert type(fault).__name__ in of.state.problem
    assert "sk-" not in of.state.problem
    run(of, clock, seconds=5)
    assert sink.taken == home.lines


def test_a_sink_of_anchors_alone_is_sent_nothing_else(home: Home) -> None:
    sink, clock = Counted(), Clock()
    run(pusher(home, lambda: sink, clock, only_anchors=True), clock, seconds=3)
    assert sink.taken == []
    assert len(sink.anchors) == 1


# --- real servers, with TLS ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(certificate, private key) for localhost, signed by itself."""
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    cert, private = folder / "cert.pem", folder / "key.pem"
    cert.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return cert, private


class Receiver(http.server.BaseHTTPRequestHandler):
    """Answers as the server's `answers` say, 200 after them."""

    def do_POST(self) -> None:
        server: Any = self.server
        body = self.rfile.read(int(self.headers["Content-Length"]))
        fine = (200, {}, b"{}") if len(body) <= server.most else (413, {}, b"")
        status, headers, said = server.answers.pop(0) if server.answers else fine
        server.requests.append((self.path, dict(self.headers), body, status))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_: object) -> None:
        """To nobody."""


@pytest.fixture
def receiver(certificate: tuple[Path, Path]) -> Iterator[Any]:
    server: Any = http.server.ThreadingHTTPServer(("localhost", 0), Receiver)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.answers, server.requests, server.most = [], [], 10_000_000
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def of_receiver(receiver: Any, certificate: tuple[Path, Path], kind: Any = "http", **more: Any) -> SinkConfig:
    to = f"https://localhost:{receiver.server_port}/take?all=1"
    return SinkConfig(**{"name": "one", "kind": kind, "to": to, "ca": str(certificate[0]), **more})


def test_lines_leave_by_post_with_their_key_and_no_redirect_is_followed(
    home: Home, receiver: Any, certificate: tuple[Path, Path]
) -> None:
    config, clock = of_receiver(receiver, certificate), Clock()
    receiver.answers = [(302, {"Location": "https://localhost:1/"}, b""), (503, {"Retry-After": "90"}, b"")]
    of = pusher(home, lambda: open_sink(config, "sk-of-the-sink-0123", "host"), clock)
    waits = run(of, clock, seconds=110)
    assert 90.0 in waits
    assert {path for path, *_ in receiver.requests} == {"/take?all=1"}
    assert {headers["Authorization"] for _, headers, *_ in receiver.requests} == {
        "Bearer sk-of-the-sink-0123"
    }
    arrived = [body for _, _, body, status in receiver.requests if status == 200]
    lines = b"".join(arrived).split(b"\n")[:-1]
    assert [line for line in lines if b'"kind":"anchor"' not in line] == home.lines
    assert sum(b'"kind":"anchor"' in line for line in lines) == 1


def test_a_certificate_that_nobody_trusts_gets_nothing(
    home: Home, receiver: Any, certificate: tuple[Path, Path]
) -> None:
    clock, config = Clock(), of_receiver(receiver, certificate, ca="")
    of = pusher(home, lambda: open_sink(config, "sk-of-the-sink-0123", "host"), clock)
    run(of, clock, seconds=3)
    assert receiver.requests == []
    assert "certificate" in of.state.problem
    assert "sk-of" not in of.state.problem


def test_an_answer_without_end_is_read_to_its_bound(
    home: Home, receiver: Any, certificate: tuple[Path, Path]
) -> None:
    receiver.answers = [(200, {}, b"x" * 5_000_000)]
    clock, config = Clock(), of_receiver(receiver, certificate)
    run(pusher(home, lambda: open_sink(config, "", "host"), clock), clock, seconds=5)
    assert read_state(home.state / "one.json").sent == len(home.lines)


@pytest.mark.parametrize("kind", ["http", "syslog"])
def test_a_sink_that_never_comes_to_its_answer_is_left(
    home: Home, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Each answer of 100 says that another one comes; a syslog that reads nothing has taken nothing."""
    monkeypatch.setattr(sinks, "MOST_S", 1.0)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    server, over = socket.create_server(("localhost", 0)), threading.Event()

    def serve() -> None:
        with (
            contextlib.suppress(OSError),
            context.wrap_socket(server.accept()[0], server_side=True) as secure,
        ):
            while not over.wait(0.01):
                if kind == "http":
                    secure.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")

    threading.Thread(target=serve, daemon=True).start()
    port = server.getsockname()[1]
    to = f"https://localhost:{port}/" if kind == "http" else f"localhost:{port}"
    config = SinkConfig(name="one", kind=kind, to=to, ca=str(certificate[0]))  # type: ignore[arg-type]  # of the two
    of = pusher(home, lambda: open_sink(config, "", "host"), Clock())
    stepped = threading.Thread(target=of.step, daemon=True)
    stepped.start()
    stepped.join(60)
    assert not stepped.is_alive()
    assert of.state.problem
    assert of.state.sent == 0
    over.set()
    server.close()


def test_a_sink_that_takes_less_at_once_is_sent_less(
    home: Home, receiver: Any, certificate: tuple[Path, Path]
) -> None:
    """A proxy's bound is no more than what busy tenants write while it is away."""
    receiver.most = 2_000
    clock, config = Clock(), of_receiver(receiver, certificate)
    of = pusher(home, lambda: open_sink(config, "", "host"), clock)
    run(of, clock, seconds=30)
    arrived = b"".join(body for _, _, body, status in receiver.requests if status == 200).split(b"\n")[:-1]
    assert [line for line in arrived if b'"kind":"anchor"' not in line] == home.lines
    assert of.state.problem == ""


def test_otlp_has_a_record_for_each_event_and_what_is_rejected_is_sent_again(
    home: Home, receiver: Any, certificate: tuple[Path, Path]
) -> None:
    receiver.answers = [(200, {}, b'{"partialSuccess":{"rejectedLogRecords":"2"}}')]
    clock, config = Clock(), of_receiver(receiver, certificate, kind="otlp")
    of = pusher(home, lambda: open_sink(config, "", "machine"), clock)
    of.step()
    assert of.state.problem == "it rejected 2 records"
    run(of, clock, seconds=20)
    found = []
    for _, _, body, _ in receiver.requests[1:]:
        (resource,) = json.loads(body)["resourceLogs"]
        assert {"key": "host.name", "value": {"stringValue": "machine"}} in resource["resource"]["attributes"]
        found += resource["scopeLogs"][0]["logRecords"]
    events = [record for record in found if "eventName" in record]
    assert [record["body"]["stringValue"].encode() for record in events] == home.lines
    assert all(re.fullmatch(r"1[0-9]{18}", record["timeUnixNano"]) for record in events)
    assert len(found) == len(events) + 1


class Syslog:
    """Reads what comes over TLS, one connection after the other; hangs up early as long as `rude`."""

    def __init__(self, certificate: tuple[Path, Path]) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(*certificate)
        self.socket = socket.create_server(("localhost", 0))
        self.port = self.socket.getsockname()[1]
        self.messages: list[bytes] = []
        self.rude = 0
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        while True:
            try:
                plain, _ = self.socket.accept()
            except OSError:
                return
            try:
                with self.context.wrap_socket(plain, server_side=True) as secure:
                    self.take(secure)
            except OSError:
                continue

    def take(self, secure: ssl.SSLSocket) -> None:
        if self.rude:
            self.rude -= 1
            secure.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            return
        data = b""
        while part := secure.recv(65536):
            data += part
        while data:
            length, _, rest = data.partition(b" ")
            self.messages.append(rest[: int(length)])
            data = rest[int(length) :]
        secure.unwrap()


def test_syslog_counts_octets_over_tls_and_what_was_cut_off_comes_again(
    home: Home, certificate: tuple[Path, Path]
) -> None:
    server, clock = Syslog(certificate), Clock()
    server.rude = 2
    config = SinkConfig(name="one", kind="syslog", to=f"localhost:{server.port}", ca=str(certificate[0]))
    of = pusher(home, lambda: open_sink(config, "", "my host\u202e"), clock)
    run(of, clock, seconds=30)
    server.socket.close()
    assert of.state.problem == ""
    shape = re.compile(rb"<(\d+)>1 (\S+) (\S+) bridgehold - (\S+) (-|\[bridgehold@32473 [^]]+\]) (.*)")
    parts = [shape.fullmatch(message) for message in server.messages]
    assert all(parts)
    found = [part for part in parts if part is not None]
    assert [part[6] for part in found if part[4] != b"anchor"] == home.lines
    assert {part[3] for part in found} == {b"myhost"}
    assert {int(part[1]) for part in found} <= {108, 110}
    (anchor,) = [part for part in found if part[4] == b"anchor"]
    assert base64.b64decode(anchor[6]) == next(home.beside.iterdir()).read_bytes()


@settings(max_examples=200, deadline=None)
@given(line=st.one_of(st.binary(max_size=300), st.text(max_size=100).map(str.encode)))
def test_any_line_is_a_message_and_a_record(line: bytes) -> None:
    line = line.replace(b"\n", b"")
    assert texts.syslog(line, "h").endswith(line)
    assert json.loads(texts.otlp((line,), (), "h"))
    assert list(texts.named_files((line,))) == []
    assert isinstance(texts.rejected(line), int)
