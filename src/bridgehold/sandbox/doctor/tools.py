"""Programs that environments and secrets need."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess

from bridgehold.sandbox.doctor.model import Check, Context, Probe, caution, failed, passed

_EMPTY = ("keyring.backends.fail.Keyring", "keyring.backends.null.Keyring")
_INSTALL = "Install Bridgehold again with its dependencies: pip install bridgehold"


def uv(_: Context) -> Check:
    """Whether the package uv, which resolves locks, is installed."""
    if importlib.util.find_spec("uv") is None:
        return failed("uv", "the package uv is missing", _INSTALL)
    try:
        path = importlib.import_module("uv").find_uv_bin()
        shown = subprocess.run([path, "--version"], check=True, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError) as error:
        return failed("uv", f"uv does not run: {error}", _INSTALL)
    return passed("uv", f"{shown.stdout.strip()} at {path}")


def keyring(_: Context) -> Check:
    """Which back-end the keyring library would take. The host pins one and never takes what is found."""
    if importlib.util.find_spec("keyring") is None:
        return failed("keyring", "the package keyring is missing", _INSTALL)
    found = importlib.import_module("keyring").get_keyring()
    usable = [_name(one) for one in getattr(found, "backends", (found,))]
    desktop = [name for name in usable if name.startswith("keyring.backends.") and name not in _EMPTY]
    if not desktop:
        return caution(
            "keyring",
            "no desktop keyring answers here (a service has no session bus)",
            'Use the encrypted file (`[secrets] store = "file"`) or systemd credentials.',
        )
    return passed("keyring", f"{', '.join(desktop)} answers")


def _name(backend: object) -> str:
    return f"{type(backend).__module__}.{type(backend).__name__}"


PROBES = (
    Probe(name="uv", proves="uv is there and runs.", run=uv),
    Probe(name="keyring", proves="Which keyring back-end answers, if any.", run=keyring),
)
