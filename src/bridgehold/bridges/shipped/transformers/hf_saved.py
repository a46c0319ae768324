"""Weights in the session's scratch: safetensors and what goes with them, by name."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

from hf_models import Model
from hf_places import SAVED, saved_folder
from hf_tokens import Words

from bridgehold_sdk import InvalidInput, ResourceNotFound


def save(name: str, model: Model, words: Words | None) -> dict[str, Any]:
    """Write a model's folder; a name is used once."""
    folder = saved_folder(name)
    if folder.exists():
        raise InvalidInput(f"there are saved weights named {name!r} already")
    building = Path(f"{folder}.part")
    shutil.rmtree(building, ignore_errors=True)
    try:
        model.network.save_pretrained(building)
        if words is not None:
            words.tokenizer.save_pretrained(building)
        building.rename(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return describe(name)


def describe(name: str) -> dict[str, Any]:
    """What callers are told of saved weights. Raises `ResourceNotFound`."""
    folder = saved_folder(name)
    if not folder.is_dir():
        raise ResourceNotFound("saved weights", name)
    files = [
        {"file": file.name, "bytes": file.stat().st_size, "sha256": _sha256(file)}
        for file in sorted(folder.iterdir())
    ]
    return {
        "name": name,
        "path": str(folder),
        "bytes": sum(file["bytes"] for file in files),
        "files": files,
    }


def names() -> list[str]:
    """The names of all saved weights, sorted."""
    if not SAVED.is_dir():
        return []
    return sorted(folder.name for folder in SAVED.iterdir() if folder.suffix != ".part")


def delete(name: str) -> None:
    """Remove saved weights. Raises `ResourceNotFound`."""
    describe(name)
    shutil.rmtree(saved_folder(name))


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
