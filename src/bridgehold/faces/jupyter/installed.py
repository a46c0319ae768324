"""Kernels as front ends find them: one folder each, with a `kernel.json`; no secret is in it."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import msgspec

from bridgehold import reads, writes
from bridgehold.error_texts import from_os
from bridgehold.errors import DependencyError, NotFoundError, UsageError
from bridgehold.ids import nearest

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}", re.ASCII)
_MARK = "bridgehold"


class Installed(msgspec.Struct, frozen=True):
    """One kernel of ours."""

    name: str
    display_name: str
    folder: str
    bridge: str
    tenant: str
    trust_forms: bool


def install(
    name: str, *, display_name: str, bridge: str, tenant: str, trust_forms: bool, prefix: Path | None
) -> Installed:
    """Write it for this user, or below `prefix`; one of ours of that name is replaced.

    Raises `UsageError`, `DependencyError` without the extra, and what the system refuses.
    """
    _check(name)
    argv = [sys.executable, "-P", "-m", "bridgehold.faces.jupyter", "-f", "{connection_file}"]
    argv += ["--bridge", bridge, "--tenant", tenant, *(["--trust-forms"] if trust_forms else [])]
    spec = {
        "argv": argv,
        "display_name": display_name,
        "language": "python",
        "interrupt_mode": "message",
        "metadata": {_MARK: {"bridge": bridge, "tenant": tenant, "trust_forms": trust_forms}},
    }
    kernels = Path(_manager().user_kernel_dir)
    if prefix is not None:
        kernels = prefix.absolute() / "share/jupyter/kernels"
    folder = kernels / name
    try:
        if folder.is_dir() and not _is_ours(folder / "kernel.json"):
            hint = "Take another name, or remove it by `jupyter kernelspec`."
            raise UsageError("a kernel of somebody else's has this name", where=str(folder), hint=hint)
        writes.make_folder(folder)
        writes.replace(folder / "kernel.json", json.dumps(spec, indent=1) + "\n")
    except OSError as error:
        raise from_os(error) from error
    except ValueError as error:
        raise UsageError(f"no kernel can be there: {error}", where=str(prefix)) from error
    return Installed(name, display_name, str(folder), bridge, tenant, trust_forms)


def _is_ours(file: Path) -> bool:
    spec = reads.parse_json(reads.read_text(file, UsageError, or_none=True) or "{}", UsageError, str(file))
    metadata = spec.get("metadata") if isinstance(spec, dict) else None
    return isinstance(metadata, dict) and _MARK in metadata


def find() -> list[Installed]:
    """Those of ours that a front end of this user's finds."""
    found = []
    for name, entry in sorted(_manager().get_all_specs().items()):
        spec = entry.get("spec", {})
        facts = spec.get("metadata", {}).get(_MARK)
        if isinstance(facts, dict):
            known = {"name": name, "display_name": spec.get("display_name"), "folder": entry["resource_dir"]}
            try:
                found.append(msgspec.convert(known | facts, type=Installed))
            except msgspec.ValidationError:
                continue
    return found


def uninstall(name: str) -> Installed:
    """Remove one of ours. Raises `NotFoundError` for others, and for none."""
    _check(name)
    for one in find():
        if one.name == name:
            try:
                _manager().remove_kernel_spec(name)
            except OSError as error:
                raise from_os(error) from error
            return one
    hint = "`bridgehold jupyter list` shows those that are there."
    near = nearest(name, [one.name for one in find()])
    raise NotFoundError(f"there is no kernel of ours with this name{near}", where=name, hint=hint)


def _check(name: str) -> None:
    if not _NAME.fullmatch(name):
        hint = "Small letters, digits, `-`, `_` and `.`: sandbox"
        raise UsageError(f"{name[:100]!r} is no kernel's name", where="--name", hint=hint)


def _manager() -> Any:
    try:
        from jupyter_client.kernelspec import KernelSpecManager
    except ImportError as error:
        hint = "Install it: pip install 'bridgehold[jupyter]'."
        raise DependencyError("a kernel needs jupyter_client, which isn't installed", hint=hint) from error
    return KernelSpecManager()
