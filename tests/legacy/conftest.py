"""Hosts for these tests, as root or as whoever runs them; one profile for foreign scripts in each start."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridgehold.faces.legacy.folder import write_shim
from bridgehold.faces.legacy.values import ShimFile
from hostile.stage import Stage, stage
from legacy.peer import Peer

SCRIPTS = Path(__file__).parent / "scripts"
PROFILES = {"cold": "mine", "fork": "forked"}
FRAMES_ONLY = "framesonly"
"""Its policy denies plain code."""
MANIFEST = """
name = "{name}"
version = "1.0.0"
summary = "Scripts of our own"
foreign = "auto"
[[needs.endpoints]]
provider = "openai"
methods = ["POST"]
paths = ["/chat/completions"]
[[needs.secrets]]
name = "openai"
how = "gateway"
provider = "openai"
"""
POLICY = """
extends = "baseline"
[limits]
memory = "256MiB"
request = "1MiB"
response = "1MiB"
command = "6s"
grace = "500ms"
[operations]
allow = ["{name}:*"]
deny = ["{name}:forbidden"]
[network.endpoints.openai]
methods = ["POST"]
paths = ["/chat/completions"]
[secrets.openai]
how = "gateway"
provider = "openai"
[sandbox]
start = "{start}"
[rate]
concurrency = 200
commands_per_minute = 60000
"""


@pytest.fixture(scope="session")
def host() -> Iterator[Stage]:
    """`log` is the folder of scripts: a copy, to which tests may add."""
    with foreign_stage() as ready:
        yield ready


@pytest.fixture(scope="module")
def deaf() -> Iterator[Stage]:
    """As `host`; who asks may not read what its sessions write."""
    with foreign_stage(
        f'[principals.tester]\nuids = [{os.getuid()}]\ntenants = ["*"]\nlogs = false\n'
    ) as ready:
        yield ready


@contextlib.contextmanager
def foreign_stage(first: str = "") -> Iterator[Stage]:
    scripts = Path(tempfile.mkdtemp(prefix="bh-scripts-")) / "python"
    shutil.copytree(SCRIPTS, scripts)
    scripts.parent.chmod(0o755)
    names = (*PROFILES.values(), FRAMES_ONLY)
    config = "".join(f'[bridges.{name}]\nscripts = "{scripts}"\n' for name in names)
    kind = os.environ.get("BRIDGEHOLD_TEST_KIND", "root" if os.getuid() == 0 else "self")
    with stage(kind, config=config, first=first) as ready:
        for start, name in (*PROFILES.items(), ("cold", FRAMES_ONLY)):
            folder = ready.layout.bridges / name
            folder.mkdir(parents=True)
            (folder / "bridge.toml").write_text(MANIFEST.format(name=name))
            policy = POLICY.format(name=name, start=start)
            if name == FRAMES_ONLY:
                policy = policy.replace(":forbidden", ":python")
            (ready.layout.policies / f"{name}.toml").write_text(policy)
        ready.log = scripts
        yield ready
    shutil.rmtree(scripts.parent)


@pytest.fixture
def started() -> Iterator[list[Peer]]:
    peers: list[Peer] = []
    yield peers
    for peer in peers:
        peer.kill()


def make_shim(host: Stage, folder: Path, profile: str, tenant: str = "local") -> Path:
    layout = host.layout
    given = ShimFile(
        profile=profile,
        tenant=tenant,
        config=str(layout.config),
        state=str(layout.state),
        run=str(layout.run),
    )
    return write_shim(folder, given)
