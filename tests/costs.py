"""What work costs is measured without what the tests before it have left in memory."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def as_in_a_host() -> Iterator[None]:
    """Import it where processor time is measured: a full collection looks at what the work makes alone."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
