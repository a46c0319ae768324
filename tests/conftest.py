"""For every test: how long one example of a property takes is the machine's load, and no finding."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")
