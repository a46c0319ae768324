"""One build from this machine's own package sources, as an operator's first one is."""

from __future__ import annotations

import asyncio
import subprocess

import pytest
from envs_kit import have_bwrap
from uv import find_uv_bin

from bridgehold.sandbox.envs.build import EnvironmentBuilder
from bridgehold.sandbox.envs.lock import read_lock
from bridgehold.sandbox.envs.sources import default_sources

LOCK = ["--universal", "--python-version", "3.11", "--only-binary", ":all:", "--generate-hashes"]
PLAIN = ["--no-header", "--no-annotate", "--no-emit-index-url", "--no-python-downloads", "--no-cache"]


@pytest.mark.network
@pytest.mark.skipif(not have_bwrap(), reason="bubblewrap is missing")
def test_what_uv_locks_is_fetched_scanned_and_installed(tmp_path, store, runner, interpreter, progress):
    (tmp_path / "requirements.in").write_text("six\npackaging\n")
    lock_file = tmp_path / "requirements.lock"
    argv = [find_uv_bin(), "pip", "compile", "-q", *LOCK, *PLAIN, "requirements.in", "-o", lock_file.name]
    subprocess.run(argv, cwd=tmp_path, check=True, capture_output=True, timeout=60)
    lock = read_lock(lock_file)
    builder = EnvironmentBuilder(
        store=store,
        wheels=tmp_path / "wheels",
        runner=runner,
        sources=default_sources,
        interpreter=interpreter,
    )
    environment = asyncio.run(builder.ensure(lock, bridge="demo", on_progress=progress))
    assert {package.name for package in environment.packages} == {"six", "packaging"}
    store.verify(environment)
    assert "fetch" in progress.phases
