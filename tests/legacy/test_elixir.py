"""A real Elixir Port, with Debian's Elixir, in front of `bridgehold stdio` and of a shim."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hostile.stage import Stage
from legacy.conftest import PROFILES, make_shim
from legacy.peer import stdio_command
from waiting import until

CLIENT = Path(__file__).parent / "elixir/port_client.exs"
POOL = ("--mode", "pool-worker", "--worker-id", "worker_1_5")


def missing() -> str:
    if shutil.which("elixir") is None:
        return "no Elixir here: apt-get install elixir erlang-jiffy"
    tried = subprocess.run(["elixir", "-e", ':jiffy.encode("")'], capture_output=True, check=False)
    return "" if tried.returncode == 0 else "no JSON for Elixir here: apt-get install erlang-jiffy"


@pytest.fixture(scope="module", autouse=True)
def elixir() -> None:
    if reason := missing():
        pytest.skip(reason)


@pytest.fixture
def client(host: Stage, tmp_path: Path) -> Iterator[Any]:
    running: list[subprocess.Popen[str]] = []

    def begin(conversation: str, *argv: str) -> subprocess.Popen[str]:
        program = shutil.which(argv[0])
        assert program is not None
        found = subprocess.Popen(
            ["elixir", str(CLIENT), conversation, program, *argv[1:]],
            stdout=subprocess.PIPE,
            stderr=(tmp_path / "stderr").open("w"),
            text=True,
            encoding="utf-8",
            env={**os.environ, "BRIDGEHOLD_HOME": str(host.layout.config.parent), "LC_ALL": "C.UTF-8"},
        )
        running.append(found)
        return found

    yield begin
    for process in running:
        process.kill()
        process.communicate()


def talk(process: subprocess.Popen[str], tmp: Path) -> list[dict[str, Any]]:
    """The steps of a conversation that went to its end."""
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said + (tmp / "stderr").read_text()
    return [json.loads(line) for line in said.splitlines()]


def wait_gone(host: Stage, pids: list[int], bridges: set[str], seconds: float = 15) -> None:
    until(
        lambda: (
            not any(Path(f"/proc/{pid}").exists() for pid in pids)
            and (not any(info.bridge in bridges for info in host.client.sessions()))
        )
    )


def test_a_port_talks_to_stdio_and_its_end_leaves_nothing(host: Stage, client: Any, tmp_path: Path) -> None:
    steps = talk(client("stdio", *stdio_command("--bridge", "python")), tmp_path)
    assert [step["step"] for step in steps] == [
        "handshake",
        "commands",
        "errors",
        "two in flight",
        "a long frame",
        "closed",
        "handshake",
        "shut down",
    ]
    wait_gone(host, [step["pid"] for step in steps if "pid" in step], {"python"})


@pytest.mark.parametrize("profile", PROFILES.values())
def test_a_port_talks_to_an_unmodified_script(host: Stage, client: Any, tmp_path: Path, profile: str) -> None:
    program = make_shim(host, tmp_path / "venv", profile)
    steps = talk(client("script", str(program), str(host.log / "dspex_like.py"), *POOL), tmp_path)
    names = [step["step"] for step in steps]
    assert names == ["handshake", "commands", "errors", "died", "handshake", "closed"]
    known = {9} if profile == PROFILES["cold"] else {9, 1}  # nobody can wait for a fork of a zygote
    assert steps[3]["status"] in known
    wait_gone(host, [step["pid"] for step in steps if "pid" in step], {profile})


def test_an_elixir_that_is_killed_leaves_nothing(host: Stage, client: Any) -> None:
    process = client("hold", *stdio_command("--bridge", "python"))
    assert process.stdout is not None
    step = json.loads(process.stdout.readline())
    assert any(info.id == step["session"] for info in host.client.sessions())
    process.kill()
    wait_gone(host, [step["pid"]], {"python"})
