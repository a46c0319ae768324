"""An environment's tree, laid down from wheels that were read: there is no installer, and nothing runs.

The tree is the host's until the launcher takes it over; no sandbox ever has it writable. So what it must
be is known before it is looked at: every name, kind, link, executable bit and byte, as one digest.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from bridgehold import writes
from bridgehold.errors import DependencyError
from bridgehold.ids import Digest
from bridgehold.sandbox.envs.archive import Archive, ArchiveFaultError, ScanLimits
from bridgehold.sandbox.envs.digest import file_line, folder_line, link_line
from bridgehold.sandbox.envs.values import Interpreter, ScanReport

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_SHOWN = 8


class Tree:
    """A build folder while it is filled, and the digest that it must have."""

    def __init__(self, build: Path) -> None:
        """`build`: a new folder of ours, empty."""
        self._build = build
        self._lines: dict[str, str] = {}
        self._making = threading.RLock()

    def digest(self) -> Digest:
        """As `tree_facts` and the launcher's sealing compute it of what is there."""
        found = hashlib.sha256()
        for path in sorted(self._lines, key=lambda one: one.split("/")):
            found.update(self._lines[path].encode("utf-8", "surrogateescape"))
        return Digest("sha256:" + found.hexdigest())

    def path(self, name: str) -> Path:
        """Where `name` lies in the tree that is built."""
        return self._build / name

    def folder(self, name: str) -> None:
        """`name` and the folders that it lies in."""
        with self._making:  # wheels are compiled beside each other, and share folders
            if name and name not in self._lines:
                self.folder(name.rpartition("/")[0])
                writes.make_folder(self._build / name, new=True)
                self._lines[name] = folder_line(name)

    def link(self, name: str, text: str) -> None:
        """Make a symbolic link `name` to `text`. Raises `OSError`."""
        self.folder(name.rpartition("/")[0])
        with writes.our_folder((self._build / name).parent, beneath=self._build) as folder:
            os.symlink(text, name.rpartition("/")[2], dir_fd=folder)
        self._lines[name] = link_line(name, text)

    def file(self, name: str, blocks: Iterable[bytes], *, executable: bool = False) -> str:
        """A new file; its sha256. Nothing is written twice."""
        self.folder(name.rpartition("/")[0])
        content = hashlib.sha256()
        with os.fdopen(os.open(self._build / name, _NEW, 0o600), "wb") as file:
            for block in blocks:
                content.update(block)
                file.write(block)
            os.fchmod(file.fileno(), 0o755 if executable else 0o644)
        self._lines[name] = file_line(name, content.hexdigest(), executable=executable)
        return content.hexdigest()

    def __contains__(self, name: str) -> bool:
        return name in self._lines


def lay_skeleton(tree: Tree, interpreter: Interpreter) -> None:
    """What an environment without packages is: three links and pyvenv.cfg."""
    tree.folder(interpreter.site_packages)
    tree.link("bin/python", interpreter.inside)
    for name in ("python3", f"python{interpreter.minor}"):
        tree.link(f"bin/{name}", "python")
    tree.file("pyvenv.cfg", (pyvenv_config(interpreter).encode(),))


def pyvenv_config(interpreter: Interpreter) -> str:
    """The whole pyvenv.cfg (pure). Nothing of a wheel gets into it."""
    return f"home = {Path(interpreter.inside).parent}\ninclude-system-site-packages = false\n"


def lay_wheel(tree: Tree, wheel: Path, report: ScanReport, limits: ScanLimits) -> None:
    """Every file that the scan announced, with its bytes. Raises `DependencyError`."""
    try:
        with wheel.open("rb") as file:
            archive = Archive(file, limits)
            members = {member.name: member for member in archive.members}
            for asked in report.files:
                if asked.path in tree:  # another wheel's, with the same bytes: `clashes` saw to that
                    continue
                blocks = archive.blocks(members[asked.member]) if asked.member else (asked.content,)
                if tree.file(asked.path, blocks, executable=asked.executable) != asked.sha256:
                    raise DependencyError(
                        f"{asked.path}: its bytes changed after the scan", where=report.wheel
                    )
    except (ArchiveFaultError, KeyError) as error:
        raise DependencyError("the wheel changed after the scan", where=report.wheel) from error


def clashes(reports: Sequence[ScanReport]) -> Iterator[str]:
    """Files that two wheels would both install, with different bytes, and modules that are two (pure)."""
    owners: dict[str, tuple[str, str]] = {}
    modules: dict[str, tuple[str, str]] = {}
    folders: dict[str, str] = {}
    for report in reports:
        for file in report.files:
            folder = file.path
            while (folder := folder.rpartition("/")[0]) and folder not in folders:
                folders[folder] = report.wheel
            owner, known = owners.setdefault(file.path, (report.wheel, file.sha256))
            if known != file.sha256:
                yield f"{file.path}: {report.wheel} would overwrite what {owner} installs"
            module = _module(file.path)
            if module is None:
                continue
            owner, path = modules.setdefault(module, (report.wheel, file.path))
            if owner != report.wheel and path != file.path:
                yield f"{file.path}: {report.wheel} would stand in for {path} of {owner}"
    for path in owners.keys() & folders.keys():
        yield f"{path}: a file of {owners[path][0]}, and a folder of {folders[path]}"


def refuse_clashes(reports: Sequence[ScanReport]) -> None:
    """Raise `DependencyError` where two wheels bring the same file."""
    found = list(clashes(reports))
    if found:
        raise DependencyError(
            "; ".join(found[:_SHOWN]),
            where=found[0].split(":", 1)[0],
            hint="Two packages of this lock claim one file or module; lock without one of them.",
        )


def _module(path: str) -> str | None:
    """What `import` would find in this file: the path of the module, or of the package it begins."""
    if not path.endswith((".py", ".pyc", ".so")):
        return None
    folder, _, name = path.rpartition("/")
    stem = name.split(".", 1)[0]
    return folder if stem == "__init__" else f"{folder}/{stem}"
