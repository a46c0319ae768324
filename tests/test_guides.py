"""Every block of README.md and docs/ that can be typed is typed, as root and as an ordinary user, or says why not."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import tempfile
import tomllib
from pathlib import Path

import pytest

from bridgehold.audit import chain
from bridgehold.faces.testing import transcript
from bridgehold.sandbox.envs import store
from hostile.stage import KINDS_OF_HOSTS, built_environments, copy_environment, ordinary_user
from typed import ROOT, TYPED, Block, Shell, blocks, commands, give_to

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
OWN = {
    "docs/tutorial/your-first-bridge.md": {"console", "python"},  # tests/kit/test_guide.py
    "docs/how-to/http.md": {"sh"},  # tests/http_face/test_http_guide.py
}
"""Pages that a test of their own types, and the languages of which it types every block."""
HERE = (
    "docs/tutorial/first-hour.md",
    "docs/reference/python.md",
    "docs/reference/unified.md",
    "README.md",
    "docs/how-to/run-code.md",
    "docs/how-to/tenants.md",
    "docs/how-to/upgrade.md",
    "docs/how-to/review-the-audit.md",
    "docs/how-to/review-policies.md",
    "docs/how-to/dspex.md",
    "docs/tutorial/review.md",
    "docs/how-to/review-page.md",
    "docs/how-to/backup.md",
)
"""The others, in the order in which one home and its host serve them all."""
LANGUAGES = {*TYPED, "toml", "ini", "json", "text", "nginx"}
NOT_RUN = 25
"""How many say so."""


def all_blocks() -> list[Block]:
    return [block for page in PAGES for block in blocks(page)]


def name_of(block: Block) -> str:
    return block.place.rpartition(":")[0]


def test_every_block_says_what_it_is_and_is_typed_or_says_why_not() -> None:
    found = all_blocks()
    fences = [re.findall(r"^[ \t>]*(?:```|~~~)", page.read_text(), re.MULTILINE) for page in PAGES]
    assert sum(map(len, fences)) == 2 * len(found), "a fence that no test sees"
    assert {block.language for block in found} == LANGUAGES, [
        block.place for block in found if block.language not in LANGUAGES
    ]
    typed = [block for block in found if block.language in TYPED]
    left = [
        block.place
        for block in typed
        if block.runs and name_of(block) not in HERE and block.language not in OWN.get(name_of(block), ())
    ]
    assert not left, "neither typed nor said why not"
    assert all(len(block.why) > 20 for block in found if block.only)
    assert sum(block.only == "not run" for block in found) == NOT_RUN
    for block in typed:
        if block.language == "console":
            assert commands(block.text), block.place
            for command, _ in commands(block.text):  # one that doesn't end has the shell wait for ever
                for end in re.findall(r"<<-?'?(\w+)", command):
                    assert command.endswith(f"\n{end}"), block.place
        if block.language == "python":
            compile(
                block.text, block.place, "exec", 0x2000
            )  # with `await` at the top, as a reader's shell has it


def test_every_block_of_data_can_be_read() -> None:
    for block in all_blocks():
        if block.language == "toml":
            tomllib.loads(block.text)
        elif block.language == "json" and "…" not in block.text:
            for line in block.text.splitlines():
                json.loads(line.lstrip("→← "))


def test_the_numbers_of_formats_are_the_codes_own() -> None:
    page = (ROOT / "docs/how-to/upgrade.md").read_text()
    said = re.findall(
        r"^\| (a line of the audit|an environment|a recorded conversation) \| (\d+) \|", page, re.MULTILINE
    )
    assert [int(number) for _, number in said] == [chain.VERSION, store.FORMAT, transcript.VERSION]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", KINDS_OF_HOSTS)
def test_the_pages_work_as_they_are_typed(kind: str) -> None:
    with contextlib.ExitStack() as stack:
        user, cgroup = stack.enter_context(ordinary_user()) if kind == "user" else ("", "auto")
        folder = Path(tempfile.mkdtemp(prefix="bh-guides-"))  # a reader's own, closed to everybody else
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        home = folder / "first-hour"
        (home / "state").mkdir(parents=True)
        if user:
            give_to(user, folder, home, home / "state")
            copy_environment("dspy", home / "state/envs", user)
        else:
            (home / "state/envs").symlink_to(built_environments())
        socket = home / "run/host.sock"
        shell = Shell(folder, user=user, BRIDGEHOLD__HOST__CGROUP=cgroup)
        stack.callback(shell.close)
        for page in HERE:
            if page != HERE[0] and not socket.exists():
                shell.type(Block(page, "console", "$ bridgehold serve &\n"), socket_path=socket)
            for block in blocks(ROOT / page):
                if block.runs:
                    shell.type(block, socket_path=socket)
        assert shell.run("bridgehold stop")[0] == 0
        assert shell.ran > 60
        assert os.getuid() != 0 or kind != "user" or (home / "config").stat().st_uid != 0


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", KINDS_OF_HOSTS[-1:])
def test_two_tenants_are_made_from_nothing_where_each_has_a_cell(kind: str) -> None:
    """The page of tenants by itself: no other has made anything before it. As who has the fewest rights."""
    with contextlib.ExitStack() as stack:
        user, cgroup = stack.enter_context(ordinary_user()) if kind == "user" else ("", "auto")
        folder = Path(tempfile.mkdtemp(prefix="bh-tenants-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        home = folder / "home"
        home.mkdir()
        if user:
            give_to(user, folder, home)
        given = {"BRIDGEHOLD_HOME": str(home), "BRIDGEHOLD__HOST__CGROUP": cgroup}
        shell = Shell(folder, user=user, BRIDGEHOLD__HOST__CELLS="true", **given)
        stack.callback(shell.close)
        socket, page = home / "run/host.sock", "docs/how-to/tenants.md"
        shell.type(Block(page, "console", "$ bridgehold serve &\n"), socket_path=socket)
        for block in blocks(ROOT / page):
            if block.runs:
                shell.type(block, socket_path=socket)
        status, said = shell.run("bridgehold audit query --kind cell.started")
        assert status == 0
        assert {"acme", "rival"} <= set(said.split()), said
        assert shell.run("bridgehold stop")[0] == 0
        assert shell.ran > 30
