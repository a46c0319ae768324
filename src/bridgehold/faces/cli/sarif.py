"""Findings as SARIF 2.1.0, which code review and CI read."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

from bridgehold.ids import whole_number
from bridgehold.policies.lint import Finding
from bridgehold.policies.lint_rules import RULES, Severity

_LEVELS: dict[Severity, str] = {"high": "error", "medium": "warning", "low": "note", "info": "note"}


def sarif(found: Iterable[Finding]) -> dict[str, Any]:
    """One run, with every rule there is."""
    rules = [
        {
            "id": rule.name,
            "shortDescription": {"text": rule.means},
            "help": {"text": rule.remedy},
            "defaultConfiguration": {"level": _LEVELS[rule.severity]},
        }
        for rule in RULES
    ]
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": {"name": "bridgehold", "version": version("bridgehold"), "rules": rules}},
                "results": [_result(one) for one in found],
            }
        ],
    }


def _result(one: Finding) -> dict[str, Any]:
    file, _, line = one.where.rpartition(":")
    place: dict[str, Any] = {"artifactLocation": {"uri": one.where}}
    with contextlib.suppress(ValueError):
        place["region"] = {"startLine": whole_number(line)}
        place["artifactLocation"]["uri"] = file
    return {
        "ruleId": one.rule,
        "level": _LEVELS[one.severity],
        "message": {"text": f"{one.tenant}, {one.bridge}: {one.key} = {one.value}: {one.means}"},
        "locations": [{"physicalLocation": place}],
    }
