"""What happens to an audit afterwards, and to what is built: sealing, dropping, sending away, advisories.

In seconds of the processor, beside `verify` or a plain reading of the same bytes.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from bench_audit import a_million
from common import Row, row, show
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bridgehold.audit.anchors import key_id
from bridgehold.audit.pushing.pusher import Pusher
from bridgehold.audit.pushing.sinks import SinkConfig, open_sink
from bridgehold.audit.sealing import Wanted, seal_audit
from bridgehold.audit.seals import Seal, sign
from bridgehold.audit.verify import verify_audit
from bridgehold.sandbox.supply.advisories import read_advisories
from bridgehold.sandbox.supply.judge import judge

EVENTS = 60_000
ADVISORIES = 5_000
PACKAGES = [(f"package-{number}", "1.0") for number in range(200)]


def spent(act: Callable[[], object]) -> float:
    """Seconds of the processor."""
    began = time.process_time()
    act()
    return time.process_time() - began


def measure_audit(home: Path) -> list[Row]:
    audit = home / "audit"
    audit.mkdir()
    a_million(audit, EVENTS, 8 * 1024 * 1024)
    key = Ed25519PrivateKey.generate()
    key_name = key_id(key.public_key().public_bytes_raw())

    def signed(seal: Seal) -> Seal:
        return sign(Seal(**{name: getattr(seal, name) for name in seal.__struct_fields__ if name != "key"},
                         key=key_name), key.sign)  # fmt: skip

    def seal(*, drop: bool) -> int:
        wanted = Wanted(keep=1, drop=drop)
        return len(list(seal_audit(audit, wanted, signed, by="bench", time="2026-11-20T09:30:00.000Z")))

    def push() -> None:
        sink = SinkConfig(name="copy", kind="folder", to=str(home / "copy"))
        state, anchors = home / "push", home / "anchors"
        for one in (state, anchors, home / "copy"):
            one.mkdir()
        pusher = Pusher(
            sink,
            lambda: open_sink(sink, "", "bench"),
            audit=audit,
            anchors=anchors,
            state=state,
            now=time.time,
        )
        for _ in range(10_000):
            if pusher.step() and pusher.state.sent >= EVENTS:
                return
        raise AssertionError(pusher.state)

    verified = spent(lambda: verify_audit(audit))
    size = sum(one.stat().st_size for one in audit.glob("0*/*.jsonl"))
    figures = {"sent to a folder": spent(push), "sealed": spent(lambda: seal(drop=False))}
    shutil.rmtree(home / "copy")
    figures["sealed again without their bodies"] = spent(lambda: seal(drop=True))
    left = sum(one.stat().st_size for one in audit.glob("0*/*.jsonl"))
    bars = (6.0, 3.0, 15.0)
    rows = [
        row(f"{EVENTS:,} events {what}, beside verify", seconds, "s", baseline=verified, most_ratio=most)
        for (what, seconds), most in zip(figures.items(), bars, strict=True)
    ]
    rates = [
        row(f"events {what} a second of the processor", EVENTS / seconds, "1/s")
        for what, seconds in figures.items()
    ]
    return [*rows, *rates, row("what is left of intents' segments", left / 1e6, "MB", baseline=size / 1e6)]


def measure_scan(home: Path) -> list[Row]:
    folder = home / "advisories"
    folder.mkdir()
    for number in range(ADVISORIES):
        affected = {"package": {"ecosystem": "PyPI", "name": f"package-{number}"}}
        ranges = [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": f"1.{number % 3}"}]}]
        said: dict[str, object] = {
            "id": f"GHSA-{number}",
            "modified": "2026-11-01T00:00:00Z",
            "details": "x" * 2_000,
        }
        (folder / f"{number}.json").write_text(
            json.dumps({**said, "affected": [{**affected, "ranges": ranges}]})
        )
    plain = spent(lambda: [json.loads(one.read_bytes()) for one in folder.iterdir()])
    names = {name for name, _ in PACKAGES}
    found = read_advisories(folder, names, datetime.now(UTC))
    assert found.files == ADVISORIES
    reading = spent(lambda: read_advisories(folder, names, datetime.now(UTC)))
    judging = spent(lambda: judge(PACKAGES, found))
    return [
        row(
            f"{ADVISORIES:,} advisories read, beside a plain reading",
            reading,
            "s",
            baseline=plain,
            most_ratio=2,
        ),
        row("advisories read a second of the processor", ADVISORIES / reading, "1/s"),
        row(f"{len(PACKAGES)} packages judged", judging * 1000, "ms"),
    ]


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="bh-bench-", dir=Path.cwd()) as home:
        show([*measure_audit(Path(home)), *measure_scan(Path(home))])


if __name__ == "__main__":
    main()
