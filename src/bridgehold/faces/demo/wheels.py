"""The poisoned dependency as a wheel, made on the spot: module code, and a ``.pth`` for every start."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from importlib.resources import files
from pathlib import Path

from bridgehold import writes

NAME, VERSION = "litelike", "1.82.8"
PTH = "litelike_init.pth"
_DROP = "http://127.0.0.1:9/drop"
_PTH_CODE = "import litelike\n"


def write_wheel(folder: Path, *, drop: str, with_pth: bool) -> Path:
    """The wheel file below `folder`, its code told to send to `drop`. The kinds differ by their hashes."""
    code = (files("bridgehold.faces.demo") / "assets" / "litelike.py").read_text(encoding="utf-8")
    info = f"{NAME}-{VERSION}.dist-info"
    members = {
        f"{NAME}.py": code.replace(_DROP, drop).encode(),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {NAME}\nVersion: {VERSION}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: demo\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    if with_pth:
        members[PTH] = _PTH_CODE.encode()
    rows = [f"{name},sha256={_digest(data)},{len(data)}" for name, data in members.items()]
    members[f"{info}/RECORD"] = "\n".join([*rows, f"{info}/RECORD,,", ""]).encode()
    writes.make_folder(folder)
    path = folder / f"{NAME}-{VERSION}-py3-none-any.whl"
    with writes.replacing(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, data in members.items():
            wheel.writestr(zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0)), data)
    return path


def lock_of(wheel: Path) -> str:
    """A lock of one line, with the hash of `wheel`."""
    return f"{NAME}=={VERSION} --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n"


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
