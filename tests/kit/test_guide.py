"""docs/tutorial/your-first-bridge.md, word for word on a fresh home: its files are written, its commands run."""

from __future__ import annotations

import contextlib
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridgehold.bridges.kit.provider import Provider
from bridgehold.client.facade import Loop
from hostile.stage import KINDS_OF_HOSTS, ordinary_user
from typed import DONE, ROOT, Shell, blocks, commands, give_to, pattern, until_listening

PAGE = ROOT / "docs/tutorial/your-first-bridge.md"
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


@pytest.fixture
def provider() -> Iterator[Provider]:
    """Plays the paid provider of the page's last section."""
    loop = Loop()
    manager = Provider.open()
    provider = loop.run(manager.__aenter__())
    yield provider
    loop.run(manager.__aexit__(None, None, None))
    loop.close()


@pytest.mark.network
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", KINDS_OF_HOSTS)
def test_every_command_of_the_guide_works_on_a_fresh_home(kind: str, provider: Provider) -> None:
    assert re.search(r"^setup:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    ran = []
    with contextlib.ExitStack() as stack:
        user, cgroup = stack.enter_context(ordinary_user()) if kind == "user" else ("", "auto")
        folder = Path(tempfile.mkdtemp(prefix="bh-guide-"))  # a reader's own, closed to everybody else
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        home = folder / "first-bridge"
        (home / "config/policies").mkdir(parents=True)
        (home / "config/config.toml").write_text(PLAYED.format(base=provider.base_url))
        (home / "config/policies/poet-played.toml").write_text(POLICY)
        if user:
            give_to(user, folder, *folder.rglob("*"))
        given = {"OPENAI_API_KEY": provider.key, "PYTEST_ADDOPTS": "-p no:cacheprovider"}
        shell = Shell(folder, user=user, **given, BRIDGEHOLD__HOST__CGROUP=cgroup)
        stack.callback(shell.close)
        parts = _PART.findall(PAGE.read_text())
        assert len(parts) == len(blocks(PAGE)), "a block that is neither a file of the reader's nor typed"
        for path, text, block in parts:
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
    assert len(ran) >= 20
    assert provider.requests_with_key() == 1  # the key went out by the gateway alone
