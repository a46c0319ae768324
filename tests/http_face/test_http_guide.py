"""docs/how-to/http.md, done: its shell blocks are run against a host that is configured as it says."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from hostile.stage import KINDS_OF_HOSTS, POLICY, make_home, ordinary_user, start_host, stop_host
from http_face.http_support import url_of

PAGE = Path(__file__).parents[2] / "docs/how-to/http.md"
MANIFEST = """
name = "desk"
version = "1.0.0"
entry = "desk:Desk"
[operations.greet]
summary = "Greet a customer"
effect = "run"
arguments = { required = ["name"], properties = { name = { type = "string" } } }
"""
BRIDGE = """
from bridgehold_sdk import Bridge, operation

class Desk(Bridge):
    @operation()
    def greet(self, name):
        return f"{name}, with us since {self.tools['lookup'](name=name)['since']}"
"""


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)


def sh(script: str, folder: Path, **variables: str) -> str:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("kind", KINDS_OF_HOSTS)
def test_the_guide_works_as_it_is_written(kind: str, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        assert not os.environ.get("CI"), "CI has curl"
        pytest.skip("curl is not installed")
    first, *rest = blocks("sh")
    digest, token = sh(first + 'echo "$TOKEN"', tmp_path).splitlines()
    (config,) = blocks("toml")
    with contextlib.ExitStack() as stack:
        user, cgroup = stack.enter_context(ordinary_user()) if kind == "user" else ("", "auto")
        layout = make_home(pwd.getpwnam(user).pw_uid if user else os.getuid())
        stack.callback(shutil.rmtree, layout.config.parent, ignore_errors=True)
        folder = layout.bridges / "desk"
        folder.mkdir(mode=0o755)
        (folder / "bridge.toml").write_text(MANIFEST)
        (folder / "desk.py").write_text(BRIDGE)
        (layout.policies / "desk.toml").write_text(POLICY + '[tools]\nallow = ["lookup"]\n')
        config = config.replace("DIGEST", digest.split()[0]).replace(":8765", ":0")
        layout.config_file.write_text(f'[host]\ncgroup = "{cgroup}"\n{config}')
        stack.callback(stop_host, start_host(layout, user=user))
        found = sh("\n".join(rest), tmp_path, URL=url_of(layout), TOKEN=token)
    assert '"value":42' in found
    assert found.count('"value":42') == 2, "a session keeps what it was told"
    assert '"code":"cancelled"' in found
    assert '"value":"Ada, with us since 2019"' in found
    assert (tmp_path / "openapi.json").stat().st_size > 10_000
