"""The same conversation with a real host, recorded, and with `FakeHost`, replayed; and every way to differ."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bridgehold import BridgeholdError, Client, SyncClient
from bridgehold.testing import FakeHost, TranscriptError, record
from hostile.stage import Stage, stage
from kit.talk import KEY, TOKEN, lookup, put_bridge, talk

KIND = "root" if os.getuid() == 0 else "self"


@pytest.fixture(scope="module")
def host() -> Iterator[Stage]:
    with stage(KIND) as ready:
        put_bridge(ready)
        yield ready


@pytest.fixture(scope="module")
def recorded(host: Stage, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """(transcript, what was seen while it was recorded)."""
    file = tmp_path_factory.mktemp("talk") / "talk.jsonl"

    async def run() -> dict[str, Any]:
        async with await Client.connect(host.layout.socket) as client, record(client, file) as recorder:
            return await talk(recorder)

    return file, asyncio.run(run())


def test_the_same_body_sees_the_same_of_a_real_and_of_a_fake_host(
    recorded: tuple[Path, dict[str, Any]],
) -> None:
    file, real = recorded

    async def replay() -> dict[str, Any]:
        async with FakeHost(file) as fake:
            return await talk(fake)

    begun = time.monotonic()
    fake = asyncio.run(replay())
    assert time.monotonic() - begun < 1
    assert fake == real
    assert [event["type"] for event in real["streamed"] if event["type"] != "progress"] == [
        *["chunk"] * 3,
        "result",
    ]
    assert any(event["type"] == "progress" for event in real["streamed"])
    assert real["asked"][0] == {"name": "Ada", "place": "Turin"}
    assert "KeyError" in real["asked"][1]
    assert [real[name][0] for name in ("missing", "wrong", "denied", "crashed")] == [
        "not_found",
        "usage",
        "denied",
        "crash",
    ]


def test_no_key_is_in_a_transcript(recorded: tuple[Path, dict[str, Any]]) -> None:
    text = recorded[0].read_text()
    assert KEY not in text
    assert TOKEN not in text
    assert '"api_key":"[redacted]"' in text
    assert "{'options': {'token': '[redacted]'}}" in text  # the bridge said it back: masked by value


def play(file: Path, body: Callable[[Client], Any], **more: Any) -> TranscriptError:
    async def run() -> None:
        async with FakeHost(file, **more) as fake:
            await body(fake)

    with pytest.raises(TranscriptError) as caught:
        asyncio.run(run())
    assert caught.value.retry == "no"
    return caught.value


@pytest.fixture(scope="module")
def short(host: Stage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One session with three commands, the last with a tool; and one session more, of two commands."""
    file = tmp_path_factory.mktemp("short") / "short.jsonl"

    async def run() -> None:
        async with await Client.connect(host.layout.socket) as client, record(client, file) as recorder:
            async with recorder.session("talk", tools=[lookup]) as session:
                await session.run("add", {"text": "one", "id": "a"})
                await session.run("add", {"text": "two", "id": "b"})
                await session.run("ask", {"names": ["Ada"]})
            async with recorder.session("talk", tools=[lookup]) as session:
                await session.run("add", {"text": "three", "id": "c"})
                await session.run("spell", {"word_id": "c"})

    asyncio.run(run())
    return file


def test_other_arguments_are_named_with_their_difference_and_line(short: Path) -> None:
    async def body(host: Client) -> None:
        async with host.session("talk", tools=[lookup]) as session:
            await session.run("add", {"text": "eins", "id": "a"})

    error = play(short, body)
    assert error.where == f"{short}:4"
    assert "call 2, talk:add, has other parameters" in error.message
    assert '-    "text": "one"' in error.message
    assert '+    "text": "eins"' in error.message
    assert "--bridgehold-record" in error.hint


def test_another_call_or_one_too_many_is_named(short: Path) -> None:
    async def body(host: Client) -> None:
        async with host.session("talk", tools=[lookup]) as session:
            await session.run("add", {"text": "one", "id": "a"})
            await session.run("ask", {"names": ["Ada"]})

    assert "call 3 should have been talk:add, and was talk:ask" in play(short, body).message


def test_what_was_not_made_is_named_at_the_end_and_a_swallowed_difference_is_raised(short: Path) -> None:
    async def half(host: Client) -> None:
        async with host.session("talk", tools=[lookup]) as session:
            await session.run("add", {"text": "one", "id": "a"})

    assert "should have been talk:add, and was session.close" in play(short, half).message

    async def nothing(host: Client) -> None:
        """Makes no call at all."""

    error = play(short, nothing)
    assert "9 recorded calls were not made: session.open (line 2)" in error.message

    async def swallows(host: Client) -> None:
        try:
            await host.run("talk:add", {"text": "anonymous"})
        except BridgeholdError:
            return

    assert "call 1 should have been session.open" in play(short, swallows).message


def test_an_error_of_the_callers_own_is_not_hidden_by_what_was_not_made(short: Path) -> None:
    async def run() -> None:
        async with FakeHost(short):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        asyncio.run(run())
    with pytest.raises(ZeroDivisionError), SyncClient.of(FakeHost(short)):
        raise ZeroDivisionError


def test_a_tool_is_really_called_and_its_answer_compared(short: Path) -> None:
    from bridgehold import Tool

    called = []

    def elsewhere(name: str) -> dict[str, str]:
        called.append(name)
        return {"name": name, "place": "Nice"}

    tool = Tool.of(lookup)
    other = Tool(function=elsewhere, name="lookup", description=tool.description, parameters=tool.parameters)

    async def body(host: Client) -> None:
        async with host.session("talk", tools=[other]) as session:
            await session.run("add", {"text": "one", "id": "a"})
            await session.run("add", {"text": "two", "id": "b"})
            await session.run("ask", {"names": ["Ada"]})

    error = play(short, body)
    assert called == ["Ada"]
    assert '-    "place": "Turin"' in error.message
    assert '+    "place": "Nice"' in error.message

    async def sleeps(name: str) -> None:
        await asyncio.sleep(60)

    slow = Tool(function=sleeps, name="lookup", description=tool.description, parameters=tool.parameters)

    async def waits(host: Client) -> None:
        async with host.session("talk", tools=[slow]) as session:
            await session.run("add", {"text": "one", "id": "a"})
            await session.run("add", {"text": "two", "id": "b"})
            await session.run("ask", {"names": ["Ada"]})

    assert "did not answer in 0.1 s" in play(short, waits, patience_s=0.1).message


def test_any_order_takes_what_is_there_and_nothing_else(short: Path) -> None:
    async def first(host: Client) -> None:
        async with host.session("talk", tools=[lookup]) as session:
            await asyncio.sleep(0.02)
            assert await session.run("add", {"text": "two", "id": "b"}) == {"word_id": "b"}
            await session.run("add", {"text": "one", "id": "a"})
            await session.run("ask", {"names": ["Ada"]})

    async def second(host: Client) -> None:
        async with host.session("talk", tools=[lookup]) as session:
            await session.run("add", {"text": "three", "id": "c"})
            assert await session.run("spell", {"word_id": "c"}) == list("three")

    async def both() -> None:
        async with FakeHost(short, order="any") as fake:  # the session that is opened second speaks first
            await asyncio.gather(first(fake), second(fake))

    asyncio.run(both())

    async def mixed(host: Client) -> None:
        async with host.session("talk", tools=[lookup]) as session:
            await session.run("add", {"text": "one", "id": "a"})
            await session.run("add", {"text": "three", "id": "c"})  # of the other session

    error = play(short, mixed, order="any")
    assert "no recorded call that is left is like this talk:add" in error.message


def test_the_synchronous_facade_records_and_replays(host: Stage, tmp_path: Path) -> None:
    from contextlib import asynccontextmanager

    file = tmp_path / "sync.jsonl"

    @asynccontextmanager
    async def recording() -> Any:
        async with await Client.connect(host.layout.socket) as client, record(client, file) as recorder:
            yield recorder

    def body(client: SyncClient) -> list[Any]:
        with client.session("talk", tools=[lookup]) as session:
            events = [event["type"] for event in session.stream("count", {"to": 2})]
            for event in session.stream("count", {"to": 100, "pause": 0.05}):
                if event["type"] == "chunk":
                    break
            with pytest.raises(BridgeholdError) as caught:
                session.run("spell", {"word_id": "no"})
            return [events, session.run("ask", {"names": ["Ada"]}), caught.value.info()]

    with SyncClient.of(recording()) as client:
        real = body(client)
    with SyncClient.of(FakeHost(file)) as client:
        assert body(client) == real
    with pytest.raises(TranscriptError, match="were not made"), SyncClient.of(FakeHost(file)):
        pass


def test_a_recording_that_fails_leaves_the_older_one(host: Stage, tmp_path: Path) -> None:
    file = tmp_path / "kept.jsonl"
    file.write_text("older")

    async def run() -> None:
        async with await Client.connect(host.layout.socket) as client, record(client, file) as recorder:
            await recorder.request("ping", {})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        asyncio.run(run())
    assert [path.name for path in tmp_path.iterdir()] == ["kept.jsonl"]
    assert file.read_text() == "older"


def test_the_recorded_speed_can_be_kept(recorded: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    lines = [json.loads(line) for line in recorded[0].read_text().splitlines()]
    slow = tmp_path / "slow.jsonl"
    call = {"type": "call", "call": 1, "method": "ping", "params": {}}
    end = {"type": "result", "call": 1, "value": {"status": "ok"}, "ms": 200}
    slow.write_text("\n".join(json.dumps(line) for line in (lines[0], call, end)))

    async def ping(pace: float) -> float:
        async with FakeHost(slow, pace=pace) as fake:
            begun = time.monotonic()
            assert await fake.request("ping", {}) == {"status": "ok"}
            return time.monotonic() - begun

    assert asyncio.run(ping(1.0)) >= 0.2
    assert asyncio.run(ping(0.0)) < 0.1


def test_a_command_of_the_shell_is_recorded(host: Stage, tmp_path: Path) -> None:
    file = tmp_path / "talk.jsonl"
    environment = {**os.environ, "BRIDGEHOLD_HOME": str(host.layout.config.parent)}
    command = [
        sys.executable,
        "-m",
        "bridgehold",
        "run",
        "talk:add",
        "--args",
        '{"text": "x", "id": "shell"}',
    ]
    said = subprocess.run(
        [*command, "--record", str(file)], env=environment, capture_output=True, text=True, check=False
    )
    assert said.returncode == 0, said.stderr

    async def run() -> Any:
        async with FakeHost(file) as fake:
            return await fake.run("talk:add", {"text": "x", "id": "shell"})

    assert asyncio.run(run()) == {"word_id": "shell"} == json.loads(said.stdout)
