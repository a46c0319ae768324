"""Makes wheels, honest and hostile, local indexes, and runs the installer without a launcher."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import io
import os
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

from bridgehold.sandbox.attest import seal
from bridgehold.sandbox.envs.compile import CompileExit, CompileOrder, Talk
from bridgehold.sandbox.envs.lock import parse_lock
from bridgehold.sandbox.envs.store import remove_tree
from bridgehold.sandbox.envs.values import BuildProgress, Lock, Sources
from bridgehold.sandbox.spec import ENVIRONMENT, below_usr, python_inside
from bridgehold.sandbox.values import SealReport


def record_line(name: str, data: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
    return f"{name},sha256={digest},{len(data)}\n"


def make_wheel(
    folder: Path,
    name: str = "demo_pkg",
    version: str = "1.0",
    files: dict[str, str | bytes] | None = None,
    *,
    tag: str = "py3-none-any",
    tags: str = "",
    metadata: str | None = None,
    entry_points: str = "",
    unlisted: dict[str, str] | None = None,
    wrong_hash: Iterable[str] = (),
    record: bool = True,
    infos: Iterable[tuple[zipfile.ZipInfo, bytes]] = (),
) -> Path:
    """A wheel with a sound RECORD, but for what the arguments break."""
    info = f"{name}-{version}.dist-info"
    content: dict[str, bytes] = {
        key: value.encode() if isinstance(value, str) else value
        for key, value in (files if files is not None else {f"{name}/__init__.py": "VALUE = 1\n"}).items()
    }
    content[f"{info}/METADATA"] = (
        metadata or f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n"
    ).encode()
    content[f"{info}/WHEEL"] = f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tags or tag}\n".encode()
    if entry_points:
        content[f"{info}/entry_points.txt"] = entry_points.encode()
    extra = [(member, data) for member, data in infos]
    lines = [
        record_line(key, b"something else" if key in set(wrong_hash) else data)
        for key, data in [*content.items(), *((i.filename, d) for i, d in extra)]
    ]
    if record:
        content[f"{info}/RECORD"] = ("".join(lines) + f"{info}/RECORD,,\n").encode()
    content |= {key: value.encode() for key, value in (unlisted or {}).items()}
    path = folder / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for key, data in content.items():
            archive.writestr(key, data)
        for member, data in extra:
            archive.writestr(member, data)
    return path


def make_sdist(folder: Path, canary: Path, name: str = "demo_pkg", version: str = "1.0") -> Path:
    """A source distribution whose build would touch `canary`."""
    import tarfile

    path = folder / f"{name}-{version}.tar.gz"
    touch = f"open({str(canary)!r}, 'w').write('ran')\n"
    setup = f"{touch}from setuptools import setup\nsetup(name={name!r})\n".encode()
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo(f"{name}-{version}/setup.py")
        member.size = len(setup)
        archive.addfile(member, io.BytesIO(setup))
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def make_index(root: Path, files: Iterable[Path]) -> str:
    """A simple index on disk; its URL."""
    pages: dict[str, list[Path]] = {}
    for file in files:
        name = file.name.split("-")[0].replace("_", "-").lower()
        pages.setdefault(name, []).append(file)
    for name, members in pages.items():
        page = root / "simple" / name / "index.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        links = "".join(f'<a href="{m.as_uri()}#sha256={sha256(m)}">{m.name}</a>\n' for m in members)
        page.write_text(f"<!DOCTYPE html><html><body>\n{links}</body></html>\n")
    (root / "simple").mkdir(parents=True, exist_ok=True)
    return (root / "simple").as_uri()


def make_lock(*files: Path, marker: str = "") -> Lock:
    """A lock with one pin per file."""
    lines = [
        f"{file.name.split('-')[0]}=={file.name.removesuffix('.tar.gz').split('-')[1]}"
        f"{' ; ' + marker if marker else ''} \\\n    --hash=sha256:{sha256(file)}\n"
        for file in files
    ]
    return parse_lock("".join(lines), "requirements.lock")


def local_sources(index: str) -> Sources:
    return Sources(indexes=(index,))


def sealed_digest(tree: Path) -> SealReport:
    """The launcher's own sealing, in this process."""
    top = os.open(tree, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return seal.seal_tree(top, str(tree))
    finally:
        os.close(top)


class DirectRunner:
    """`BuildRunner` over a bubblewrap of our own: for tests of this room without the launcher's."""

    def __init__(self) -> None:
        self.runs: list[CompileOrder] = []

    async def run(self, order: CompileOrder, talk: Talk, log: Callable[[bytes], None]) -> CompileExit:
        self.runs.append(order)
        binds = [
            ["--symlink", str(Path(f"/{n}").readlink()), f"/{n}"]
            for n in ("bin", "lib", "lib64")
            if Path(f"/{n}").is_symlink()
        ]
        if order.tree:
            binds.append(["--ro-bind", order.tree, ENVIRONMENT])
        if not below_usr(order.interpreter_prefix):
            binds.append(["--ro-bind", order.interpreter_prefix, python_inside(order.interpreter_prefix)])
        argv = [
            "bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--clearenv", "--setenv", "PATH",
            "/usr/bin:/bin", "--setenv", "PYTHONHASHSEED", "0", "--proc", "/proc", "--dev", "/dev",
            "--ro-bind", "/usr", "/usr", *(word for bind in binds for word in bind),
            "--tmpfs", "/tmp", "--remount-ro", "/", "--chdir", "/tmp", "--", *order.argv,
        ]  # fmt: skip
        with subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stderr is not None
            try:
                await asyncio.to_thread(talk, process.stdin, process.stdout)
                log(await asyncio.to_thread(process.stderr.read))
                status = await asyncio.to_thread(process.wait)
            finally:
                process.kill()
        return CompileExit(cause="exited" if status >= 0 else "signal", status=abs(status))

    async def seal(self, build: str) -> SealReport:
        return await asyncio.to_thread(sealed_digest, Path(build))

    async def discard(self, build: str) -> str:
        remove_tree(Path(build))
        return ""


class Progress:
    """Collects what a build tells."""

    def __init__(self) -> None:
        self.seen: list[BuildProgress] = []

    def __call__(self, progress: BuildProgress) -> None:
        self.seen.append(progress)

    @property
    def phases(self) -> list[str]:
        return list(dict.fromkeys(progress.phase for progress in self.seen))


def have_bwrap() -> bool:
    return shutil.which("bwrap") is not None


@contextlib.contextmanager
def writable(tree: Path):
    """A sealed tree, opened for a test to spoil."""
    for folder, _, files in os.walk(tree):
        os.chmod(folder, 0o755)
        for file in files:
            if not os.path.islink(os.path.join(folder, file)):
                os.chmod(os.path.join(folder, file), 0o644)
    yield tree
