"""Models by name: from a folder that the operator gave, else from a hub that the policy grants.

Of a hub come weights as safetensors, configuration and words; they pass through the scratch and are
gone from it once they are loaded. The host keeps them, so that the next load needs no network.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from hf_bounds import check_model_bytes

from bridgehold_sdk import Bridge, InvalidInput
from bridgehold_sdk.hub import Hub

GIVEN = Path("/data")
"""Below it lie the folders of the policy's [filesystem] read."""
FETCHED = Path("/scratch/hub")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}", re.ASCII)
_INDEX = "model.safetensors.index.json"
_CONFIGURATION = ("config.json", "generation_config.json")
_WORDS = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "vocab.txt", "merges.txt", "config.json"),
)


class Place(NamedTuple):
    """Where a model lies now, and what it is called."""

    folder: str
    source: str


def check_name(name: str, revision: str | None) -> None:
    """Raise `InvalidInput` for what names no model of a hub."""
    if not _NAME.fullmatch(name) or not _REVISION.fullmatch(revision or "main"):
        raise InvalidInput(f"{name[:100]!r}, {(revision or 'main')[:100]!r}: a name is OWNER/NAME, or NAME")


def given(name: str, revision: str | None) -> Place | None:
    """The operator's own: ``OWNER/NAME`` below a granted folder, or a hub cache's layout of it.

    A plain folder has no revision, so it is passed over where one is asked for.
    """
    for root in sorted(GIVEN.iterdir()) if GIVEN.is_dir() else []:
        plain = root / name
        if revision is None and (plain / "config.json").is_file():
            return Place(str(plain), str(plain))
        cached = root / f"models--{name.replace('/', '--')}"
        head = cached / "refs" / (revision or "main")
        commit = head.read_text(encoding="ascii").strip() if head.is_file() else revision or ""
        snapshot = cached / "snapshots" / commit
        if _REVISION.fullmatch(commit) and (snapshot / "config.json").is_file():
            return Place(str(snapshot), f"{name}@{commit}")
    return None


@contextlib.contextmanager
def named(
    bridge: Bridge,
    name: str,
    revision: str | None,
    *,
    refresh: bool = False,
    words: bool = False,
    held: int = 0,
) -> Iterator[Place]:
    """The tokenizer's files (`words`) or the model's, for the time of the block.

    The operator's own first, then a hub's; otherwise `InvalidInput` says what would have to be granted.
    """
    check_name(name, revision)
    own = None if refresh else given(name, revision)
    if own is not None:
        yield own
        return
    if "hub" not in bridge.providers:
        raise InvalidInput(
            f"{name} is in no folder that this session can read, and no hub is granted to it: put {name} "
            f"below a folder of the policy's `[filesystem] read`, or grant it: "
            f"`[network.endpoints.hub] repos = [{name!r}]`"
        )
    with _fetched(bridge, name, revision or "main", refresh=refresh, words=words, held=held) as place:
        yield place


@contextlib.contextmanager
def _fetched(
    bridge: Bridge, name: str, asked: str, *, refresh: bool, words: bool, held: int
) -> Iterator[Place]:
    hub = Hub(bridge.provider("hub"))
    known = hub.describe(name, asked, refresh=refresh)
    folder = FETCHED / name.replace("/", "--")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        files = _first(known["files"], name, words=words)
        done = 0
        while files:
            file = files.pop(0)
            bridge.progress(done, done + len(files) + 1, file)
            if hub.fetch(name, file, folder / file, asked) != known["commit"]:
                raise InvalidInput(f"{name}@{asked} became another commit while it was fetched; try again")
            done += 1
            if file == _INDEX:
                files += _shards(folder / file, known["files"])
                check_model_bytes(sum(max(0, known["files"][one]) for one in files), held)
        yield Place(str(folder), f"{name}@{known['commit']}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _first(files: dict[str, int], name: str, *, words: bool) -> list[str]:
    if words:
        if "tokenizer.json" not in files:
            raise InvalidInput(f"{name} holds no tokenizer.json that may be fetched")
        return [file for file in _WORDS if file in files]
    weights = "model.safetensors" if "model.safetensors" in files else _INDEX
    if weights not in files or "config.json" not in files:
        raise InvalidInput(
            f"{name} holds no config.json with model.safetensors that may be fetched; other kinds of weights "
            "can run code and are not read"
        )
    return [*(file for file in _CONFIGURATION if file in files), weights]


def _shards(index: Path, files: dict[str, int]) -> list[str]:
    try:
        found = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidInput(f"{_INDEX} names no files of weights") from error
    for file in found:
        if not isinstance(file, str) or file not in files or not file.endswith(".safetensors"):
            raise InvalidInput(f"{_INDEX} names {str(file)[:100]!r}, which can't be fetched")
    return found
