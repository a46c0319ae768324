"""No write of ours follows a link that somebody planted: the acts, and that nothing writes any other way."""

from __future__ import annotations

import ast
import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bridgehold import writes
from bridgehold.bridges.manifest_file import load_manifest
from bridgehold.config.layout import find_layout
from bridgehold.config.load import Config
from bridgehold.config.sections import HostSection
from bridgehold.errors import ConfigError
from bridgehold.faces.authoring import locking
from bridgehold.keeper.files import replacing as replacing_private
from bridgehold.supervisor import plans
from bridgehold.supervisor.folders import check_folders, prepare_folders
from bridgehold.supervisor.handover import held_lock
from ways import open_way

ROOT = Path(__file__).parents[1]
AUTHOR = 60_123
"""A uid that is nobody's: who wrote the bridge."""
BY_ROOT = pytest.mark.skipif(os.getuid() != 0, reason="a second uid is root's to give")

ELSEWHERE = {
    "writes.py": "the one place",
    "sandbox/attest/seal.py": "by descriptor, no link followed",
    "sandbox/cgroups/": "the kernel's files",
    "sandbox/launch/cold.py": "the kernel's files",
    "sandbox/launch/userns.py": "the kernel's files",
    "sandbox/fork/shell.py": "the kernel's files",
    "faces/testing/remains.py": "the kernel's files",
    "sandbox/launch/staging.py": "on a tmpfs of the launcher's namespace, or below a folder it made and owns",
    "sandbox/attest/view.py": "on a tmpfs that was mounted a moment ago",
    "sandbox/doctor/": "below a folder of mkdtemp's",
    "sandbox/inner/": "inside a sandbox",
    "bridges/shipped/": "inside a sandbox",
    "faces/attack/assets/": "inside a sandbox",
    "faces/attack/outside.py": "below a folder of mkdtemp's",
    "faces/attack/ways.py": "below a folder of mkdtemp's",
    "faces/demo/story.py": "below a folder of mkdtemp's",
    "faces/testing/playground.py": "in a folder that was made a moment ago",
}
"""Files, and folders of files, that may write without `writes`, and why."""
BY_NAME = {
    *("write_text", "write_bytes", "touch", "symlink_to", "hardlink_to", "mkdir", "makedirs", "chmod"),
    *("chown", "lchown", "symlink", "link"),
}
OF_SHUTIL = {"copyfile", "copytree", "copy", "copy2", "move"}
OWN_METHODS = {"of", "writer", "_writer", "self", "parts", "registry", "tree"}
"""What has methods of such a name that are not the file system's."""


def strays(source: str) -> Iterator[str]:
    """Calls that may create or change a file under a name that is looked up again."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute | ast.Name):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
        owner = ast.unparse(node.func.value) if isinstance(node.func, ast.Attribute) else ""
        text = ast.unparse(node)
        words = [*node.args, *(keyword.value for keyword in node.keywords if keyword.arg == "mode")]
        modes = [
            word.value for word in words if isinstance(word, ast.Constant) and isinstance(word.value, str)
        ]
        opens = any(set(mode) <= set("rwaxbt+") and set(mode) & set("wax+") for mode in modes if mode)
        made = ("O_CREAT" in text or "O_TRUNC" in text) and "O_NOFOLLOW" not in text
        moved = name == "replace" and (owner == "os" or (len(node.args) == 1 and "partial" in text))
        if (
            "dir_fd=" in text
            or owner.split(".")[-1] in OWN_METHODS
            or (name in OF_SHUTIL and owner != "shutil")
        ):
            continue
        if (
            name in BY_NAME | OF_SHUTIL
            or moved
            or (name in ("open", "fdopen") and ((opens and name == "open") or made))
        ):
            yield f"{node.lineno}: {text[:100]}"


def test_nothing_writes_by_a_name_alone() -> None:
    source = ROOT / "src/bridgehold"
    found = {
        f"{name}:{stray}"
        for path in source.rglob("*.py")
        if not (name := str(path.relative_to(source))).startswith(tuple(ELSEWHERE))
        for stray in strays(path.read_text(encoding="utf-8"))
    }
    assert found == set()


@pytest.mark.parametrize(
    "line",
    [
        "path.write_text('x')", "open(path, 'w')", "path.open('ab')", "os.open(path, os.O_CREAT | os.O_WRONLY)",
        "os.replace(a, b)", "partial.replace(path)", "folder.mkdir(parents=True)", "shutil.copyfile(a, b)",
        "os.chown(path, 1, 1)", "path.chmod(0o644)",
    ],
)  # fmt: skip
def test_the_search_sees_a_stray(line: str) -> None:
    assert list(strays(line))
    assert not list(strays("text.replace('a', 'b'); open(path); os.open(path, os.O_CREAT | os.O_NOFOLLOW)"))


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """Something of root's, or the user's, that nobody asked to be changed."""
    open_way(tmp_path)
    path = tmp_path / "victim"
    path.write_text("mine\n")
    path.chmod(0o640)
    return path


def bridgehold(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bridgehold", *arguments],
        env={**os.environ, "BRIDGEHOLD_HOME": str(home)},
        capture_output=True, text=True, check=False, cwd="/", timeout=120,
    )  # fmt: skip


@pytest.fixture
def authored(victim: Path) -> Path:
    """A bridge with a lock to be written, in a folder where its author plants what he likes; its home."""
    home = victim.parent / "home"
    assert bridgehold(home, "bridge", "new", "toy").returncode == 0
    folder = home / "config/bridges/toy"
    manifest = folder / "bridge.toml"
    lines = 'requirements = "requirements.in"\nlock = "requirements.lock"\n[resources'
    manifest.write_text(manifest.read_text().replace("[resources", lines, 1))
    (folder / "requirements.in").write_text("# nothing\n")
    (folder / "requirements.lock").write_text("")
    return home


@pytest.mark.hostile
def test_a_lock_overwrites_nothing_through_what_a_bridge_plants(authored: Path, victim: Path) -> None:
    folder = authored / "config/bridges/toy"
    for name in ("requirements.partial", "requirements.lock.partial", ".requirements.lock.new"):
        (folder / name).symlink_to(victim)
    (folder / "requirements.lock").unlink()
    (folder / "requirements.lock").symlink_to(victim)
    said = bridgehold(authored, "bridge", "lock", "toy")
    assert said.returncode == 0, said.stderr
    assert (victim.read_text(), victim.stat().st_mode & 0o777) == ("mine\n", 0o640)
    assert not (folder / "requirements.lock").is_symlink()  # the name is replaced, not what it points to
    elsewhere = victim.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "requirements.lock").write_text("")
    (folder / "sub").symlink_to(elsewhere)
    manifest = folder / "bridge.toml"
    manifest.write_text(manifest.read_text().replace('"requirements.lock"', '"sub/requirements.lock"'))
    said = bridgehold(authored, "bridge", "lock", "toy")
    assert (said.returncode, "a link" in said.stderr, "Traceback" in said.stderr) == (3, True, False), said
    assert [path.name for path in elsewhere.iterdir()] == ["requirements.lock"]


@pytest.mark.parametrize("when", ["before the lock begins", "while it is resolved"])
@pytest.mark.hostile
def test_a_lock_goes_to_the_folder_whose_manifest_was_read(
    authored: Path, victim: Path, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever may rename the bridge's folder puts a link in its place, and chooses the lock's name."""
    folder, away = authored / "config/bridges/toy", authored / "config/bridges/away"
    text = (folder / "bridge.toml").read_text()
    (folder / "bridge.toml").write_text(text.replace('"requirements.lock"', f'"{victim.name}"'))
    (folder / victim.name).write_text("")
    (victim.parent / "requirements.in").write_text("# theirs\n")
    manifest = load_manifest(folder)

    def swap() -> None:
        folder.rename(away)
        folder.symlink_to(victim.parent)

    def resolved(text: str, where: str, python: str, index: str) -> str:
        swap()
        return resolve(text, where, python, index)

    resolve = locking.resolve
    if when == "while it is resolved":
        monkeypatch.setattr(locking, "resolve", resolved)
        assert locking.lock(manifest, "3.11", HostSection()) == 0
    else:
        swap()
        with pytest.raises(ConfigError):
            locking.lock(manifest, "3.11", HostSection())
    assert (victim.read_text(), victim.stat().st_mode & 0o777) == ("mine\n", 0o640)


@BY_ROOT
@pytest.mark.hostile
def test_nothing_is_written_in_a_folder_that_is_somebody_elses(authored: Path) -> None:
    folder = authored / "config/bridges/toy"
    before = sorted(path.name for path in folder.iterdir())
    os.chown(folder, AUTHOR, AUTHOR)
    said = bridgehold(authored, "bridge", "lock", "toy")
    assert (said.returncode, f"uid {AUTHOR}" in said.stderr) == (3, True), said.stderr
    os.chown(folder, 0, 0)
    folder.chmod(0o777)
    assert "anybody may change" in bridgehold(authored, "bridge", "lock", "toy").stderr
    assert sorted(path.name for path in folder.iterdir()) == before


@pytest.mark.hostile
def test_new_init_and_shim_overwrite_nothing(victim: Path) -> None:
    home = victim.parent / "home"
    (home / "config/policies").mkdir(parents=True)
    (home / "config/config.toml").symlink_to(victim)
    (home / "config/policies/toy.toml").symlink_to(victim.parent / "absent")
    (home / "config/bridges").mkdir()
    assert bridgehold(home, "init", "--force").returncode == 0
    assert not (home / "config/config.toml").is_symlink()
    said = bridgehold(home, "bridge", "new", "toy")
    assert (said.returncode != 0, "Traceback" in said.stderr) == (True, False)
    assert not (victim.parent / "absent").exists()
    assert victim.read_text() == "mine\n"


@BY_ROOT
@pytest.mark.hostile
@pytest.mark.parametrize("name", ["uids", "host.lock"])
def test_root_gives_nothing_away_through_the_hosts_own_folder(victim: Path, name: str) -> None:
    """The runtime folder is the host's role's: whoever took that over may plant links there."""
    layout = find_layout({"BRIDGEHOLD_HOME": str(victim.parent / "home")}, 0)
    config = Config()
    prepare_folders(layout, config)
    role = plans.roles(config).host
    assert layout.run.stat().st_uid == role
    target = victim.parent / "of-root"
    target.mkdir(mode=0o755)
    if name == "uids":
        layout.uids.rmdir()
        layout.uids.symlink_to(target)
        os.chown(layout.uids, role, role, follow_symlinks=False)
        with pytest.raises(ConfigError, match="a link, or a file, stands for"):
            prepare_folders(layout, config)
    else:
        (layout.run / name).symlink_to(target / "made")
        with pytest.raises(OSError, match="symbolic links"):
            writes.open_lock(layout.run / name)
        (layout.run / name).unlink()
        os.link(victim, layout.run / name)
        with pytest.raises(OSError, match="no plain file"):
            writes.open_lock(layout.run / name)
    assert (target.stat().st_uid, target.stat().st_mode & 0o777, list(target.iterdir())) == (0, 0o755, [])


@pytest.mark.hostile
def test_who_swaps_a_half_written_file_changes_nothing_else(victim: Path) -> None:
    """The keeper's role owns the folder in which root sets keys."""
    folder = victim.parent / "secrets"
    folder.mkdir(mode=0o700)
    if os.getuid() == 0:
        os.chown(folder, AUTHOR, AUTHOR)
    with replacing_private(folder / "secrets.crypt", b"start") as partial:
        assert partial.read_bytes() == b"start"
        (hidden,) = folder.iterdir()
        hidden.unlink()
        hidden.symlink_to(victim)
        partial.write_bytes(b"sealed")
    facts = victim.stat()
    assert (victim.read_text(), facts.st_uid, facts.st_mode & 0o777) == ("mine\n", os.getuid(), 0o640)
    with replacing_private(folder / "secrets.crypt", b"start") as partial:
        partial.write_bytes(b"sealed")
    kept = (folder / "secrets.crypt").stat()
    assert (kept.st_uid, kept.st_mode & 0o777) == (folder.stat().st_uid, 0o600)


def test_a_block_that_ends_badly_leaves_the_file_as_it_was(victim: Path) -> None:
    def half() -> None:
        with writes.replacing(victim) as file:
            file.write(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        half()
    assert (victim.read_text(), len(list(victim.parent.iterdir()))) == ("mine\n", 1)
    writes.replace(victim, "whole\n", mode=0o600)
    assert (victim.read_text(), victim.stat().st_mode & 0o777) == ("whole\n", 0o600)
    with pytest.raises(FileExistsError):
        writes.create(victim)
    with pytest.raises(IsADirectoryError):
        writes.replace(victim.parent, b"x")


def test_what_arrives_in_part_alone_stays_not_and_a_full_disk_names_it(tmp_path: Path) -> None:
    """A bound on a file's size is the full disk that anybody may have."""
    code = (
        "import resource, sys; from pathlib import Path; from bridgehold import writes\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))\n"
        "try:\n"
        "    with writes.arriving(Path(sys.argv[1])) as file:\n"
        "        file.write(b'x' * 1_000)\n"
        "except OSError as error:\n"
        "    print(error.filename)\n"
    )
    place = tmp_path / "taken"
    argv = [sys.executable, "-c", code, str(place)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60)
    assert (done.stdout, list(tmp_path.iterdir())) == (f"{place}\n", [])

    def half() -> None:
        with writes.arriving(place) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half()
    assert list(tmp_path.iterdir()) == []
    with writes.arriving(place) as file:
        file.write(b"whole")
    with pytest.raises(FileExistsError), writes.arriving(place):
        pass
    assert place.read_bytes() == b"whole"  # what was there before is nobody's half


def test_a_private_folder_keeps_nobody_out_of_those_it_lies_in(tmp_path: Path) -> None:
    """Keys may be set before a host was ever started."""
    writes.make_folder(tmp_path / "state/secrets", mode=0o700)
    modes = [(tmp_path / name).stat().st_mode & 0o777 for name in ("state", "state/secrets")]
    assert modes == [0o755, 0o700]
    writes.make_folder(tmp_path / "state/secrets")
    with pytest.raises(FileExistsError):
        writes.make_folder(tmp_path / "state/secrets", new=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="roles have uids of their own under root alone")
def test_roots_umask_locks_no_role_out_of_a_folder_that_is_made(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir(mode=0o700)
    before = os.umask(0o077)
    try:
        writes.make_folder(tmp_path / "there/home/state/secrets", mode=0o700)
    finally:
        os.umask(before)
    made = ("there", "there/home", "there/home/state", "there/home/state/secrets")
    modes = [(tmp_path / name).stat().st_mode & 0o777 for name in made]
    assert modes == [0o700, 0o755, 0o755, 0o700]
    layout = find_layout({"BRIDGEHOLD_HOME": str(tmp_path / "there/home")}, 0)
    layout.state.chmod(0o700)  # as one that was made before, or by hand
    for refused in (prepare_folders, check_folders):
        with pytest.raises(ConfigError, match="closed to the users") as caught:
            refused(layout, Config())
        assert (caught.value.where, f"`chmod o+x {layout.state}`" in caught.value.hint) == (
            str(layout.state),
            True,
        )


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone may be somebody else for a moment")
def test_a_lock_that_one_may_not_write_is_told_as_that(tmp_path: Path) -> None:
    layout = find_layout({"BRIDGEHOLD_HOME": str(tmp_path)}, 0)
    layout.run.mkdir()
    (layout.run / "host.lock").touch(mode=0o600)
    os.seteuid(65534)
    try:
        with pytest.raises(ConfigError, match="Permission denied") as caught, held_lock(layout, -1):
            pass
    finally:
        os.seteuid(0)
    assert caught.value.hint.startswith("Let uid 65534 write it")


@pytest.mark.parametrize(
    "write", [lambda path: writes.replace(path, b"x"), lambda path: writes.create(path).close()]
)
def test_what_the_system_refuses_is_told_by_the_files_own_name(
    tmp_path: Path, write: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def read_only(path: Any, flags: int, *more: Any, **by: Any) -> int:
        if flags & os.O_CREAT:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
        return real(path, flags, *more, **by)

    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(OSError, match="Read-only") as caught:
        write(tmp_path / "kept.toml")
    assert caught.value.filename == str(tmp_path / "kept.toml")
