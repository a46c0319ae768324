"""Every program in examples/ prints what its docstring says, against one host with a simulated provider."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridgehold.keeper.admin import SecretAdmin
from hostile.served import running_provider
from hostile.stage import make_home, start_host, stop_host
from http_face.http_support import url_of

FOLDER = Path(__file__).parents[1] / "examples"
PROGRAMS = sorted(path for path in FOLDER.iterdir() if path.suffix in {".py", ".sh"})
TOKEN = "token-of-the-examples-0123456789"


@pytest.fixture(scope="module")
def environ() -> Iterator[dict[str, str]]:
    """What the programs find: a home whose host has the bridge, its policy, a provider and an HTTP address."""
    with contextlib.ExitStack() as stack:
        layout = make_home(os.getuid())
        stack.callback(shutil.rmtree, layout.config.parent, ignore_errors=True)
        provider = stack.enter_context(running_provider())
        shutil.copytree(FOLDER / "bridges", layout.bridges, dirs_exist_ok=True)
        policy = (FOLDER / "policies/desk.toml").read_text()
        (layout.policies / "desk.toml").write_text(  # the provider is on this machine
            f'weakenings = ["private_network"]\n{policy}\n[sandbox]\nenforcement = "weakened"\n'
        )
        layout.config_file.write_text(
            f'[providers.openai]\nbase_url = "{provider.base_url}"\nprivate = true\n'
            f'[principals.me]\nuids = [{os.getuid()}]\ntenants = ["local"]\n'
            f'[principals.app]\ntokens = ["sha256:{hashlib.sha256(TOKEN.encode()).hexdigest()}"]\n'
            'tenants = ["local"]\n[http]\nlisten = "127.0.0.1:0"\n'
        )
        layout.secrets.mkdir(parents=True)
        layout.secrets.chmod(0o700)
        SecretAdmin.open_file(layout.secrets).set("local", "openai", provider.key.encode())
        stack.callback(stop_host, start_host(layout))
        home = str(layout.config.parent)
        yield {**os.environ, "BRIDGEHOLD_HOME": home, "URL": url_of(layout), "TOKEN": TOKEN}


def promised(program: Path) -> str:
    """The indented block after ``Prints`` in a program's docstring, or in its first comment."""
    text = re.sub(r"^# ?", "", program.read_text(), flags=re.MULTILINE)
    found = re.search(r"^Prints[^\n]*:\n\n((?: {4}[^\n]*\n)+)", text, re.MULTILINE)
    assert found, program
    return textwrap.dedent(found[1])


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.name)
def test_it_prints_what_it_says(program: Path, environ: dict[str, str]) -> None:
    command = [sys.executable] if program.suffix == ".py" else ["bash"]
    done = subprocess.run(
        [*command, str(program)],
        env=environ,
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == promised(program)


def test_the_page_names_each_of_them() -> None:
    links = set(re.findall(r"\]\(([^)]+)\)", (FOLDER / "README.md").read_text()))
    assert {path.name for path in PROGRAMS} <= links
    assert all((FOLDER / link).exists() for link in links)
