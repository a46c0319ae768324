"""One audit for all that only read it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from review import showcase


class Shown(NamedTuple):
    audit: Path
    cache: Path
    config: Path


@pytest.fixture(scope="session")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    """The story of `showcase`, small."""
    home = tmp_path_factory.mktemp("review")
    made = Shown(home / "audit", home / "cache", home / "config")
    made.audit.mkdir()
    showcase.build(made.audit, made.config, scale=1)
    return made
