"""docs/tutorial/your-first-bridge.md, word for word on a fresh home: its files are written, its commands run.

What follows a command in a block is what it must print, somewhere and in that order; ``…`` is anything.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridgehold.bridges.kit.provider import Provider
from bridgehold.host.faces.sync import _Loop

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/tutorial/your-first-bridge.md"
DONE = ("make setup", "source .venv/bin/activate")
"""What this suite itself runs in."""
_PART = re.compile(
    r"`(config/[^`\n]+)`[^`]*?:\n\n```(?:toml|python|text)\n(.*?)```|```console\n(.*?)```", re.DOTALL
)
PLAYED = """
[providers.openai]
base_url = "{base}"
private = true
[bridges.poet]
policy = "poet-played"
[bridges.dspy]
enabled = false
[bridges.enhanced]
enabled = false
[bridges.langchain]
enabled = false
"""
"""What is shipped and would reach the provider at its private address has no policy that names so."""
POLICY = 'extends = "poet"\nweakenings = ["private_network"]\n[sandbox]\nenforcement = "weakened"\n'


def commands(block: str) -> Iterator[tuple[str, list[str]]]:
    """(command, lines that it must print)."""
    found: list[tuple[str, list[str]]] = []
    for line in block.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        else:
            found[-1][1].append(line.strip())
    return iter(found)


def pattern(lines: list[str]) -> re.Pattern[str]:
    return re.compile(".*?".join(re.escape(line).replace("…", ".*?") for line in lines), re.DOTALL)


@pytest.fixture
def provider() -> Iterator[Provider]:
    """Plays the paid provider of the page's last section."""
    loop = _Loop()
    manager = Provider.open()
    provider = loop.run(manager.__aenter__())
    yield provider
    loop.run(manager.__aexit__(None, None, None))
    loop.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A reader's own, closed to everybody else as root's is. (pytest's is opened and closed by every run.)"""
    made = Path(tempfile.mkdtemp(prefix="bh-guide-"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


def until_listening(path: Path) -> None:
    """As a reader waits for the host's line."""
    for _ in range(400):
        with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
            probe.connect(str(path))
            return
        time.sleep(0.05)
    raise AssertionError("the host does not listen")


class Shell:
    """One bash for the whole page, as a reader has one."""

    def __init__(self, home: Path, key: str) -> None:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = {**os.environ, "HOME": str(home), "PATH": path, "OPENAI_API_KEY": key, "COLUMNS": "200"}
        environment.pop("BRIDGEHOLD_HOME", None)
        self._process = subprocess.Popen(
            ["bash", "--norc"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=ROOT,
            text=True,
        )

    def run(self, command: str) -> tuple[int, str]:
        """(exit status, all that it printed)."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(
            f"{command}\necho; echo bridgehold-status $?\n".replace("echo;", "_s=$?; echo;").replace(
                "$?\n", "$_s\n"
            )
        )
        self._process.stdin.flush()
        said = ""
        for line in self._process.stdout:
            if line.startswith("bridgehold-status "):
                return int(line.split()[1]), said
            said += line
        raise AssertionError(f"the shell ended: {said}")

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        watchdog = threading.Timer(20, self._process.kill)
        watchdog.start()
        self._process.wait()
        watchdog.cancel()


@pytest.mark.network
@pytest.mark.timeout(300)
def test_every_command_of_the_guide_works_on_a_fresh_home(folder: Path, provider: Provider) -> None:
    assert re.search(r"^setup:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    home = folder / "first-bridge"
    (home / "config/policies").mkdir(parents=True)
    (home / "config/config.toml").write_text(PLAYED.format(base=provider.base_url))
    (home / "config/policies/poet-played.toml").write_text(POLICY)
    shell = Shell(folder, provider.key)
    ran = []
    try:
        for path, text, block in _PART.findall(PAGE.read_text()):
            if path:
                (home / path).write_text(text)
                continue
            for command, lines in commands(block):
                if command in DONE:
                    continue
                status, said = shell.run(command)
                if command.endswith("&"):
                    until_listening(home / "run/host.sock")
                assert status == 0, f"$ {command}\n{said}"
                assert pattern(lines).search(said), f"$ {command}\n{said}\nbut the page says:\n{lines}"
                assert provider.key not in said
                ran.append(command)
    finally:
        shell.close()
    assert len(ran) >= 20
    assert provider.requests_with_key() == 1  # the key went out by the gateway alone
