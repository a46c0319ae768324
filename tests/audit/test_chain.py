"""The format, byte for byte: somebody else's verifier must be able to rely on it."""

from __future__ import annotations

import hashlib
import json

import pytest

from bridgehold.audit import chain

RECORD = (
    b'{"v":1,"instance":"i-0123456789ab","seq":1,"time":"2026-11-20T09:30:00.123Z","mono_ns":5,'
    b'"boot":"00000000-0000-0000-0000-000000000000","kind":"host.stopped","reason":"asked","prev":"'
    + b"0" * 64
    + b'"}'
)


def test_hash_covers_the_stored_bytes_as_documented() -> None:
    line, digest = chain.seal(chain.hash_prefix("i-0123456789ab"), chain.GENESIS, RECORD)
    body, _, rest = line.partition(b',"hash":"')
    by_hand = hashlib.sha256(
        b"bridgehold.audit.v1\n" + b"i-0123456789ab" + b"\n" + b"0" * 64 + b"\n" + body
    ).hexdigest()
    assert digest == by_hand
    assert rest == by_hand.encode() + b'"}\n'
    assert json.loads(line)["hash"] == digest


def test_the_envelope_is_read_back() -> None:
    line, digest = chain.seal(chain.hash_prefix("i-0123456789ab"), chain.GENESIS, RECORD)
    facts = chain.read_line(line[:-1])
    assert facts == chain.LineFacts(
        "i-0123456789ab", 1, "2026-11-20T09:30:00.123Z", "host.stopped", chain.GENESIS, digest
    )
    assert facts is not None
    assert chain.is_intact(line[:-1], facts)


def test_another_instance_or_predecessor_gives_another_hash() -> None:
    body = RECORD[:-1]
    hashes = {
        chain.line_hash(chain.hash_prefix("i-0123456789ab"), chain.GENESIS, body),
        chain.line_hash(chain.hash_prefix("i-0123456789ac"), chain.GENESIS, body),
        chain.line_hash(chain.hash_prefix("i-0123456789ab"), "1" * 64, body),
    }
    assert len(hashes) == 3


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        b'{"v":2' + RECORD[6:],
        b"\xff" * 300,
        b" " + RECORD,
        b'{"v":1,"instance":"../../../etc"',
        b"x" * (chain.MAX_LINE + 1),
    ],
)
def test_what_is_no_line_of_ours_is_none(line: bytes) -> None:
    assert chain.read_line(line) is None


@pytest.mark.parametrize(
    "text", ["", "i-0123456789ab", "i-0123456789ab.0", "i-0123456789AB.1", "i-0123456789ab.1x"]
)
def test_references_are_strict(text: str) -> None:
    assert chain.parse_reference(text) is None


def test_reference_round_trip() -> None:
    assert chain.parse_reference(chain.reference("i-0123456789ab", 42)) == ("i-0123456789ab", 42)
