"""The policies that come with the package: names to texts."""

from __future__ import annotations

from functools import cache
from importlib import resources

SHIPPED = "shipped:"
"""Before the name of a policy that comes with the package, where a file of the operator's has its name."""
_NAMES = (
    *("baseline", "custom", "dspy", "enhanced", "foreign", "langchain", "pandas", "python"),
    "transformers",
)


def names() -> tuple[str, ...]:
    """Names of the shipped policies."""
    return _NAMES


@cache
def read(name: str) -> tuple[str, str] | None:
    """(text, file name to show) of the shipped policy `name`, or None; ``shipped:`` may stand before it."""
    name = name.removeprefix(SHIPPED)
    if name not in _NAMES:
        return None
    file = resources.files("bridgehold.policies").joinpath("shipped", f"{name}.toml")
    return file.read_text(encoding="utf-8"), f"{SHIPPED}{name}.toml"
