"""One host, and a home in which the kernel is installed, for all of these tests."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bridgehold.client.private import PrivateHost
from bridgehold.config.layout import find_layout
from bridgehold.faces.jupyter import installed


@pytest.fixture(scope="session")
def home() -> Iterator[Path]:
    """What the kernels find: `BRIDGEHOLD_HOME`, with a host that listens, and Jupyter's own folder."""
    with tempfile.TemporaryDirectory(prefix="bh-jupyter-") as folder, pytest.MonkeyPatch.context() as patch:
        Path(folder).chmod(0o755)
        patch.setenv("BRIDGEHOLD_HOME", folder)
        for name, below in (("DATA", "jupyter"), ("RUNTIME", "runtime"), ("CONFIG", "config")):
            patch.setenv(f"JUPYTER_{name}_DIR", f"{folder}/{below}")
        layout = find_layout({"BRIDGEHOLD_HOME": folder}, 0)
        layout.policies.mkdir(parents=True)
        host = PrivateHost.start(layout)
        try:
            given: dict[str, Any] = {"display_name": "Sandbox", "bridge": "python", "tenant": "local"}
            installed.install("sandbox", **given, trust_forms=False, prefix=None)
            yield Path(folder)
        finally:
            host.stop()
