"""Transcripts are read strictly, within bounds, and every fault is named with file and line."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from bridgehold.bridges.kit.provider import Provider
from bridgehold.errors import TranscriptError
from bridgehold.faces.testing import transcript
from bridgehold.faces.testing.masking import Masker
from bridgehold.faces.testing.script import Script
from bridgehold.faces.testing.transcript import Called, Ended, load, parse

HEADER = {"type": "transcript", "version": 1, "bridgehold": "0.1.0"}
CALL = {"type": "call", "call": 1, "method": "run", "params": {"operation": "a:b"}}
END = {"type": "result", "call": 1, "value": 3, "ms": 1}


def text(*lines: Any) -> list[bytes]:
    return [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]


def test_a_transcript_is_read_as_exchanges() -> None:
    (exchange,) = parse(text(HEADER, CALL, END), "f")
    assert exchange.where == "f:2"
    assert exchange.called == Called(call=1, method="run", params={"operation": "a:b"})
    assert exchange.steps == (Ended(call=1, value=3, ms=1),)


@pytest.mark.parametrize(
    ("lines", "where", "said"),
    [
        ([], "f:1", "empty"),
        ([CALL, END], "f:1", "no header"),
        ([HEADER | {"version": 2}], "f:1", "version 2"),
        ([HEADER, HEADER], "f:2", "second header"),
        ([HEADER, CALL], "f:2", "call 1 (a:b) has no end"),
        ([HEADER, CALL | {"call": 2}], "f:2", "call 1 is next"),
        ([HEADER, CALL, END, END], "f:4", "not under way"),
        ([HEADER, END], "f:2", "not under way"),
        ([HEADER, CALL | {"more": 1}], "f:2", "more"),
        ([HEADER, CALL | {"call": "1"}], "f:2", "call"),
        ([HEADER, {"type": "other"}], "f:2", "other"),
        ([HEADER, {"type": "error", "call": 1, "error": {"code": 3}}], "f:2", "error"),
        ([HEADER, b"{"], "f:2", "no line"),
        ([HEADER, b"\xff\xfe"], "f:2", "no line"),
        ([HEADER, b""], "f:2", "no line"),
        ([HEADER, b"[" * 100_000], "f:2", "nested more than"),
        ([HEADER, b'{"x": "' + b"[" * 1_000 + b'"}'], "f:2", "no line"),
        ([HEADER, b'{"x": ' + b"[" * 300 + b"]" * 300 + b"}"], "f:2", "nested more than"),
    ],
)
def test_a_fault_is_named_with_its_line(lines: list[Any], where: str, said: str) -> None:
    with pytest.raises(TranscriptError) as caught:
        parse(text(*lines), "f")
    assert caught.value.where == where
    assert said in caught.value.message


def test_parameters_that_another_version_leaves_empty_make_no_difference() -> None:
    (exchange,) = parse(text(HEADER, CALL, END), "f")
    later = {
        "operation": "a:b",
        "arguments": {},
        "tools": [],
        "parent": "",
        "deadline_ms": 0,
        "stream": False,
    }
    assert Script((exchange,)).take("run", later) is exchange
    for more in ({"deadline_ms": 1}, {"stream": True}, {"arguments": {"x": 0}}):
        with pytest.raises(TranscriptError, match="other parameters"):
            Script((exchange,)).take("run", later | more)


def test_what_is_too_large_or_not_there_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "talk.jsonl"
    with pytest.raises(TranscriptError, match="no such file"):
        load(file)
    file.write_bytes(b"\n".join(text(HEADER, CALL, END)))
    assert len(load(file)) == 1
    monkeypatch.setattr(transcript, "MOST_BYTES", 20)
    with pytest.raises(TranscriptError, match="more than 20 bytes"):
        load(file)
    monkeypatch.undo()
    monkeypatch.setattr(transcript, "MOST_LINES", 2)
    with pytest.raises(TranscriptError, match="more than 2 lines"):
        load(file)


def test_keys_are_masked_by_name_by_shape_and_by_value() -> None:
    masker = Masker()
    key = Provider().key
    shown = masker.params(
        "run",
        {
            "operation": "a:b",
            "arguments": {
                "api_key": "plain-looking-value",
                "deep": [{"password": 1234, "client_secret": {"value": "another-one"}}],
                "text": f"use {key}",
                "n": 3,
                "token": None,
            },
        },
    )
    assert shown["arguments"] == {
        "api_key": "[redacted]",
        "deep": [{"password": "[redacted]", "client_secret": {"value": "[redacted]"}}],
        "text": "use [redacted:sk]",
        "n": 3,
        "token": None,
    }
    later = masker.result("run", {"value": "you gave plain-looking-value and another-one"})
    assert later == {"value": "you gave [redacted] and [redacted]"}
    token = "given-by-a-tool"
    assert masker.answer({"result": ({"token": token},), "call": 1}) == {"result": [{"token": "[redacted]"}]}
    assert masker.value(f"it said {token}") == "it said [redacted]"
    masker.masked({"event": {"token": "the", "secret": "made-inside-the-sandbox"}})
    assert masker.masked(["the word", "made-inside-the-sandbox"]) == ["the word", "[redacted]"]
    data = base64.b64encode(f"a file with {key}".encode()).decode()
    starred = masker.result("artifact.get", {"data": data, "size_bytes": 3})
    assert set(base64.b64decode(starred["data"])) == {ord("*")}
    assert len(base64.b64decode(starred["data"])) == len(base64.b64decode(data))
    put = masker.params("artifact.put", {"data": data, "name": "x"})
    assert put["data"].startswith("sha256:")
    harmless = base64.b64encode(b"nothing of the kind").decode()
    assert masker.result("artifact.get", {"data": harmless})["data"] == harmless


def test_a_value_without_bottom_is_not_recorded() -> None:
    deep: Any = 1
    for _ in range(300):
        deep = [deep]
    with pytest.raises(TranscriptError, match="deep"):
        Masker().params("run", {"arguments": {"x": deep}})
