"""The documentation's fenced blocks, and a shell that types them: as root or as an ordinary user.

A ``console`` block has commands after ``$ `` (continued after ``> ``), and after each what it must print, somewhere
and in that order; ``…`` is anything. A comment right before a block, ``<!-- not run: WHY -->``, says what can't be
typed here.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import socket
import subprocess
import sys
import textwrap
import threading
from dataclasses import dataclass
from pathlib import Path

from waiting import until

ROOT = Path(__file__).parents[1]
DONE = ("make setup", "source .venv/bin/activate")
"""What this suite itself runs in."""
TYPED = ("console", "sh", "python")
_FENCE = re.compile(
    r"(?:^[ ]*<!-- (not run): ([^\n]+) -->\n)?^([ ]*)```(\w*)\n(.*?)^\3```$", re.DOTALL | re.MULTILINE
)
_PYTHON = """
import ast, asyncio, inspect, sys
text = open(sys.argv[1]).read()
made = eval(compile(text, "block", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), {"__name__": "__main__"})
if inspect.iscoroutine(made):
    asyncio.run(made)
"""


@dataclass(frozen=True)
class Block:
    place: str
    language: str
    text: str
    only: str = ""
    """``not run``, or nothing."""
    why: str = ""

    @property
    def runs(self) -> bool:
        return self.language in TYPED and not self.only


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    name = str(page.relative_to(ROOT))
    return [
        Block(
            f"{name}:{text.count(chr(10), 0, found.start(4)) + 1}",
            found[4],
            textwrap.dedent(found[5]) if found[3] else found[5],
            found[1] or "",
            found[2] or "",
        )
        for found in _FENCE.finditer(text)
    ]


def commands(block: str) -> list[tuple[str, list[str]]]:
    """(command, lines that it must print)."""
    found: list[tuple[str, list[str]]] = []
    for line in block.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        elif (line == ">" or line.startswith("> ")) and not found[-1][1]:
            found[-1] = (f"{found[-1][0]}\n{line[2:]}", [])
        else:
            found[-1][1].append(line.strip())
    return found


def pattern(lines: list[str]) -> re.Pattern[str]:
    return re.compile(".*?".join(re.escape(line).replace("…", ".*?") for line in lines), re.DOTALL)


def until_listening(path: Path) -> None:
    """As a reader waits for the host's line."""

    def listens() -> bool:
        with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
            probe.connect(str(path))
            return True
        return False

    until(listens, 60)


class Shell:
    """One bash for whole pages, as a reader has one."""

    def __init__(self, home: Path, *, user: str = "", **variables: str) -> None:
        """`user`: whose it is, if not this process's; it needs `home` to be its own."""
        self.home = home
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        given = {name: value for name, value in os.environ.items() if not name.startswith("BRIDGEHOLD")}
        argv = ["bash", "--norc"]
        if user:
            argv = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", *argv]
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**given, "HOME": str(home), "PATH": path, "COLUMNS": "200", **variables},
            cwd=ROOT,
            text=True,
        )
        self.ran = 0

    def run(self, command: str) -> tuple[int, str]:
        """(exit status, all that it printed)."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{command}\n_s=$?; echo; echo bridgehold-status $_s\n")
        self._process.stdin.flush()
        said = ""
        for line in self._process.stdout:
            if line.startswith("bridgehold-status "):
                return int(line.split()[1]), said
            said += line
        raise AssertionError(f"the shell ended: {said}")

    def type(self, block: Block, *, socket_path: Path) -> None:
        """All of a block, each command with what the page says of it."""
        if block.language == "python":
            script, runner = self.home / "block.py", self.home / "run_block.py"
            script.write_text(block.text)
            runner.write_text(_PYTHON)
            status, said = self.run(f"python {runner} {script}")
            assert status == 0, f"{block.place}\n{said}"
            self.ran += 1
            return
        for command, lines in commands(block.text):
            if command in DONE:
                continue
            status, said = self.run(command)
            if command.startswith("bridgehold serve") and command.endswith("&"):
                until_listening(socket_path)
            assert status == 0, f"{block.place}\n$ {command}\n{said}"
            assert pattern(lines).search(said), (
                f"{block.place}\n$ {command}\n{said}\nbut the page says:\n{lines}"
            )
            self.ran += 1

    def close(self) -> None:
        """End it, and what it left running in the background."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write("kill $(jobs -p) 2>/dev/null; wait\n")
            self._process.stdin.close()
        watchdog = threading.Timer(30, self._process.kill)
        watchdog.start()
        self._process.wait()
        watchdog.cancel()


def give_to(user: str, *folders: Path) -> None:
    entry = pwd.getpwnam(user)
    for folder in folders:
        os.chown(folder, entry.pw_uid, entry.pw_gid)
