"""Where a model's folder may lie, and on what it may run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from bridgehold_sdk import InvalidInput

SAVED = Path("/scratch/saved")
"""The session's own folder for weights; it ends with the session."""
READABLE = ("/data", "/scratch")
"""What the policy's [filesystem] read gives lies below /data."""


def model_folder(path: str) -> Path:
    """The folder behind `path`, links followed, if it lies where models may lie."""
    real = Path(path).resolve()
    if not any(real.is_relative_to(root) for root in READABLE):
        raise InvalidInput(
            f"{path[:200]!r} is below neither /data (folders of the policy's [filesystem] read) nor /scratch"
        )
    if not real.is_dir():
        raise InvalidInput(f"{path[:200]!r} is no folder that this session can see")
    return real


def saved_folder(name: str) -> Path:
    """Where a model is saved under a name that is a single part of a path."""
    if (
        not name
        or name in {".", ".."}
        or set(name) & {"/", "\0"}
        or len(name) > 100
        or name.endswith(".part")
    ):
        raise InvalidInput(
            "a name of saved weights is 1 to 100 characters without a slash, not ending in .part"
        )
    return SAVED / name


def device_of(name: str) -> Any:
    """`torch.device`, or `InvalidInput` that names what the device lacks."""
    if reason := missing_for(name):
        raise InvalidInput(f"device {name!r}: {reason}; this session has cpu")
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise InvalidInput(f"device {name!r}: {str(error)[:200]}") from error


def missing_for(name: str) -> str:
    """Why a device can't be used here, everything that is missing at once; empty where it can."""
    kind, _, index = name.partition(":")
    if kind != "cuda":
        return "" if name == "cpu" else "only cpu and cuda are known"
    missing = []
    if torch.version.cuda is None and getattr(torch.version, "hip", None) is None:
        missing.append(f"torch {torch.__version__} is built without CUDA")
    if not Path("/dev/nvidiactl").exists():
        missing.append("the sandbox has no /dev/nvidiactl")
    if not missing and not torch.cuda.is_available():
        missing.append("no driver answers")
    if not missing and index.isdecimal() and int(index) >= torch.cuda.device_count():
        missing.append(f"there are {torch.cuda.device_count()} devices")
    return ", and ".join(missing)


def devices() -> list[dict[str, Any]]:
    """Every device by name: whether it can be used, with what, or what is missing."""
    missing = missing_for("cuda")
    cuda: dict[str, Any] = {"device": "cuda", "available": not missing, "missing": missing}
    if not missing:
        free, total = torch.cuda.mem_get_info()
        cuda.update(count=torch.cuda.device_count(), free_bytes=free, total_bytes=total)
    cpu = {
        "device": "cpu",
        "available": True,
        "missing": "",
        "threads": torch.get_num_threads(),
        "interop_threads": torch.get_num_interop_threads(),
        "resident_bytes": resident_bytes(),
    }
    return [cpu, cuda]


def resident_bytes() -> int:
    """What this process has in memory."""
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
