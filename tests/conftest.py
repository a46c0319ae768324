"""For every test: how long an example of a property takes, or is drawn, is the machine's load, and no finding."""

from __future__ import annotations

import gc

from hypothesis import HealthCheck, settings

settings.register_profile("unhurried", deadline=None, suppress_health_check=(HealthCheck.too_slow,))
settings.load_profile("unhurried")


def pytest_sessionstart() -> None:
    """What collecting makes is there for good: nothing is looked through for garbage."""
    gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()  # no full collection of a test's looks at all the others
    gc.enable()
