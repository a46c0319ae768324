"""How grave an advisory is: in words as its source says it, or by the score of its CVSS vector (pure)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal, get_args

Severity = Literal["critical", "high", "medium", "low"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)
"""The gravest first."""
Known = Literal["critical", "high", "medium", "low", "unknown"]
"""``unknown``: nothing says how grave it is. It counts as the gravest."""
_WORDS: dict[str, Severity] = {
    "critical": "critical",
    "high": "high",
    "moderate": "medium",
    "medium": "medium",
    "low": "low",
}
_FROM: tuple[tuple[float, Severity], ...] = ((9.0, "critical"), (7.0, "high"), (4.0, "medium"), (0.0, "low"))
_IMPACT = {"H": 0.56, "L": 0.22, "N": 0.0}
_METRICS: dict[str, dict[str, float]] = {
    "AV": {"N": 0.85, "A": 0.62, "L": 0.55, "P": 0.2},
    "AC": {"L": 0.77, "H": 0.44},
    "PR": {"N": 0.85, "L": 0.62, "H": 0.27},
    "UI": {"N": 0.85, "R": 0.62},
    "S": {"U": 0.0, "C": 1.0},
    "C": _IMPACT,
    "I": _IMPACT,
    "A": _IMPACT,
}
_PRIVILEGES_CHANGED = {"N": 0.85, "L": 0.68, "H": 0.5}
_MOST = 500


def in_words(said: object) -> Known:
    """Of a source's own word, such as ``MODERATE``."""
    return _WORDS.get(said.strip().lower(), "unknown") if isinstance(said, str) else "unknown"


def of_score(score: float) -> Severity:
    """The word of a score from 0 to 10, as CVSS 3 has it; nothing is less than ``low``."""
    return next(word for least, word in _FROM if score >= least)


def cvss3_score(vector: str) -> float | None:
    """The base score of a vector ``CVSS:3.0/…`` or ``CVSS:3.1/…``; None where it is none.

    Formulas: CVSS 3.1, section 7.1, and its ``Roundup`` of appendix A.
    """
    if len(vector) > _MOST or not vector.startswith(("CVSS:3.0/", "CVSS:3.1/")):
        return None
    given = dict(part.split(":", 1) for part in vector.split("/")[1:] if ":" in part)
    if any(given.get(name) not in values for name, values in _METRICS.items()):
        return None
    value = {name: values[given[name]] for name, values in _METRICS.items()}
    changed = given["S"] == "C"
    privileges = _PRIVILEGES_CHANGED[given["PR"]] if changed else value["PR"]
    lost = 1 - (1 - value["C"]) * (1 - value["I"]) * (1 - value["A"])
    impact = 7.52 * (lost - 0.029) - 3.25 * (lost - 0.02) ** 15 if changed else 6.42 * lost
    if impact <= 0:
        return 0.0
    total = impact + 8.22 * value["AV"] * value["AC"] * privileges * value["UI"]
    return _round_up(min(1.08 * total if changed else total, 10.0))


def _round_up(value: float) -> float:
    whole = round(value * 100_000)
    return whole / 100_000 if whole % 10_000 == 0 else (math.floor(whole / 10_000) + 1) / 10


def gravest(several: Iterable[Known]) -> Known:
    """Of what is known; ``unknown`` where nothing is."""
    known = set(several) - {"unknown"}
    return next((one for one in SEVERITIES if one in known), "unknown")


def reaches(severity: Known, threshold: Severity) -> bool:
    """Whether it is as grave as `threshold`, or graver; what is unknown is."""
    return severity == "unknown" or SEVERITIES.index(severity) <= SEVERITIES.index(threshold)


def as_threshold(word: str) -> Severity | None:
    """Of a setting; None where it names no severity, such as ``never``."""
    return next((one for one in SEVERITIES if one == word), None)
