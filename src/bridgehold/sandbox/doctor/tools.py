"""Programs that environments and secrets need."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess

from bridgehold.sandbox.doctor.model import Check, Context, Probe, caution, failed, passed

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
    """Whether the desktop's key ring answers that the host can be pinned to.

    keyring's own search is not run: it loads every back-end, one of which runs a C compiler.
    """
    try:
        backend = importlib.import_module("keyring.backends.SecretService").Keyring
    except ImportError:
        return failed("keyring", "the package keyring is missing", _INSTALL)
    try:
        backend.priority  # noqa: B018 - asking for it is keyring's test of the bus
    except Exception:  # noqa: BLE001 - whatever the bus and its library raise, it does not answer
        return caution(
            "keyring",
            "no desktop keyring answers here (a service has no session bus)",
            'Use the encrypted file (`[secrets] store = "file"`) or systemd credentials.',
        )
    return passed("keyring", "keyring.backends.SecretService.Keyring answers")


PROBES = (
    Probe(name="uv", proves="uv is there and runs.", run=uv),
    Probe(name="keyring", proves="The desktop's keyring answers, where there is one.", run=keyring),
)
