"""Writes advisories as OSV has them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def osv(name: str = "demo-pkg", **fields: Any) -> dict[str, Any]:
    """An advisory that hits every version of `name`, but for what `fields` say; `affected`: its first entry's."""
    affected = {"package": {"ecosystem": "PyPI", "name": name}, **fields.pop("affected", {})}
    if not affected.keys() & {"ranges", "versions"}:
        affected["ranges"] = [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}]}]
    return {"id": "GHSA-aaaa", "modified": "2026-05-30T00:00:00Z", "affected": [affected], **fields}


def ranges(*events: dict[str, str], kind: str = "ECOSYSTEM") -> list[dict[str, Any]]:
    return [{"type": kind, "events": list(events)}]


def write(folder: Path, **files: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
