"""The guest's codec against the same vectors as the host's."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from bridgehold_sdk import ResultTooLarge, wire
from bridgehold_sdk.errors import WireError

VECTORS = Path(__file__).parent.parent / "vectors" / "wire"
STAMP = "2026-01-02T03:04:05.678+00:00"


def vectors(name: str) -> list[Any]:
    listed = json.loads((VECTORS / f"{name}.json").read_text(encoding="utf-8"))
    return [pytest.param(vector, id=vector["name"]) for vector in listed]


def body_of(vector: dict[str, Any]) -> bytes:
    if "hex" in vector:
        return bytes.fromhex(vector["hex"])
    if "build" in vector:
        before, part, times, after = vector["build"]
        return (before + part * times + after).encode()
    return str(vector["text"]).encode()


@pytest.mark.parametrize("vector", vectors("guest_frames"))
def test_guest_frames_have_these_bytes(vector: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "_now", lambda: STAMP)
    kind, *fields = vector["make"]
    data = wire.encode(getattr(wire, kind)(*fields))
    assert data[4:].decode() == vector["text"]
    assert int.from_bytes(data[:4], "big") == len(data) - 4


@pytest.mark.parametrize("vector", vectors("host_frames"))
def test_host_frames_are_read(vector: dict[str, Any]) -> None:
    frame = wire.decode(vector["text"].encode())
    for name, value in vector["fields"].items():
        assert frame[name] == value


@pytest.mark.parametrize("vector", vectors("parted"))
def test_bytes_beside_a_frame_have_this_form(vector: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "_now", lambda: STAMP)
    data, part = bytes.fromhex(vector["hex"]), bytes.fromhex(vector["part"])
    out, into = os.pipe()
    if vector["from"] == "guest":
        wire.Writer(into).write_bytes(*wire.encode_parted(vector["id"], wire.Parted(vector["said"], part)))
        assert os.read(out, 65536) == data
    else:
        os.write(into, data)
        frame = wire.Reader(out).read()
        assert frame is not None
        assert frame["args"] == {**vector["said"], "base64": part}
        assert (frame["id"], frame["command"]) == (vector["id"], vector["command"])
        assert "part" not in frame
    os.close(into)
    os.close(out)


@pytest.mark.parametrize(
    "text",
    [
        '{"id":1,"command":"a:b","args":{}}',
        '{"id":1,"command":"a:b","args":{},"part":"args.data"}',
        '{"id":1,"command":"a:b","args":{"base64":""},"part":"args.base64"}',
        '{"id":1,"command":"a:b","args":[],"part":"args.base64"}',
        "",
        "x",
    ],
)
def test_bytes_that_belong_nowhere_break_the_stream(text: str) -> None:
    out, into = os.pipe()
    os.write(into, ((1 << 31) | (4 + len(text) + 1)).to_bytes(4, "big") + len(text).to_bytes(4, "big"))
    os.write(into, text.encode() + b"x")
    os.close(into)
    with pytest.raises(WireError):
        wire.Reader(out).read()
    os.close(out)


@pytest.mark.parametrize("vector", vectors("invalid"))
def test_invalid_bytes_are_refused(vector: dict[str, Any]) -> None:
    with pytest.raises(WireError):
        wire.decode(body_of(vector))


def test_a_pipe_carries_frames_larger_than_itself() -> None:
    out, into = os.pipe()
    reader, writer = wire.Reader(out), wire.Writer(into)
    frames = [wire.result(number, "x" * 300_000) for number in range(4)]
    threads = [threading.Thread(target=writer.write, args=(frame,)) for frame in frames]
    for thread in threads:
        thread.start()
    found = [reader.read() for _ in frames]
    for thread in threads:
        thread.join()
    os.close(into)
    assert sorted(frame["id"] for frame in found if frame) == [0, 1, 2, 3]
    assert all(frame and len(frame["result"]) == 300_000 for frame in found)
    assert reader.read() is None
    os.close(out)


@pytest.mark.parametrize("data", [b"\0\0", b"\0\0\0\x05{}", b"\0\0\0\x01{", b"\xff\xff\xff\xff", b"\0\0\0\0"])
def test_a_broken_stream_is_an_error_and_not_an_end(data: bytes) -> None:
    out, into = os.pipe()
    os.write(into, data)
    os.close(into)
    with pytest.raises(WireError):
        wire.Reader(out).read()
    os.close(out)


def test_a_result_is_bounded() -> None:
    with pytest.raises(ResultTooLarge, match="chunks"):
        wire.encode(wire.result(1, "x" * 5000), 1000)
