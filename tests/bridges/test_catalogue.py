"""The catalogue: shipped and operator's bridges, what keeps one from starting, and `ready`."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from bridgehold.bridges import manifest_file
from bridgehold.bridges.catalogue import (
    MOST_PACKAGES,
    MOST_PROBLEMS,
    Catalogue,
    check_ready,
    shipped_folder,
)
from bridgehold.bridges.frames import ReadyFrame
from bridgehold.bridges.manifest import Manifest
from bridgehold.errors import ManifestError, NotFoundError

TOY = """\
name = "{name}"
version = "1.0.0"
entry = "toy:Toy"
python = ">=3.12"
requirements = "requirements.in"
lock = "requirements.lock"
[[needs.endpoints]]
provider = "openai"
[[needs.secrets]]
name = "openai"
provider = "openai"
[operations.go]
summary = "Go"
effect = "run"
[operations.stop]
summary = "Stop"
effect = "run"
"""


def toy(root: Path, name: str = "toy", text: str = TOY) -> Path:
    folder = root / name
    folder.mkdir()
    (folder / "bridge.toml").write_text(text.format(name=name))
    (folder / "toy.py").write_text("raise SystemExit('a manifest is never learned by running')")
    (folder / "requirements.in").write_text("# asked for\nnumpy>=2\nSome_Package[extra]==1.0\n")
    (folder / "requirements.lock").write_text(
        "numpy==2.0.0 \\\n    --hash=sha256:00\nsome.package==1.0 --hash=sha256:11\n"
    )
    return folder


def test_shipped_bridges_are_complete() -> None:
    catalogue = Catalogue.load()
    names = [entry.name for entry in catalogue.list()]
    assert {"custom", "dspy", "enhanced", "langchain", "pandas", "python", "transformers"} <= set(names)
    for entry in catalogue.list():
        assert entry.shipped
        assert entry.fault == ""
        assert entry.folder.parent == shipped_folder()
        assert catalogue.validate(entry.name) == []
        assert (entry.folder / "README.md").is_file()
    assert {"execute", "reset"} <= set(catalogue.get("python").operations)


def test_a_look_parses_what_has_changed_since_the_last_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[str] = []
    parse = manifest_file.parse_manifest

    def counted(text: str, folder: Path) -> Manifest:
        parsed.append(folder.name)
        return parse(text, folder)

    monkeypatch.setattr(manifest_file, "parse_manifest", counted)
    one, other = toy(tmp_path), toy(tmp_path, "other")
    first = Catalogue.load([tmp_path])
    assert {"toy", "other"} <= set(parsed)

    def look(before: Catalogue) -> tuple[Catalogue, list[str]]:
        parsed.clear()
        known = [entry.manifest for entry in before.list() if entry.manifest is not None]
        return Catalogue.load([tmp_path], known=known), list(parsed)

    again, looked = look(first)
    assert (looked, again.list()) == ([], first.list())
    facts = (one / "bridge.toml").stat()
    (one / "bridge.toml").write_text(TOY.format(name="toy").replace("1.0.0", "1.0.1"))
    os.utime(one / "bridge.toml", ns=(facts.st_atime_ns, facts.st_mtime_ns))  # nothing but its bytes tells it
    other.rename(tmp_path / "moved")
    changed, looked = look(again)
    assert looked == ["moved", "toy"]
    assert changed.get("toy").version == "1.0.1"
    with pytest.raises(ManifestError, match="calls itself 'other'"):
        changed.get("moved")
    (one / "bridge.toml").write_text("no longer TOML")
    with pytest.raises(ManifestError, match="not TOML"):
        look(changed)[0].get("toy")


def test_shipped_bridges_are_read_once_and_again_while_one_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Catalogue.load().get("python") is Catalogue.load([tmp_path]).get("python")
    monkeypatch.setattr("bridgehold.bridges.catalogue.shipped_folder", lambda: tmp_path)
    file = toy(tmp_path) / "bridge.toml"
    file.write_text("broken")
    with pytest.raises(ManifestError):
        Catalogue.load().get("toy")
    file.write_text(TOY.format(name="toy"))
    assert Catalogue.load().get("toy").name == "toy"


def test_an_operators_folder_adds_and_replaces(tmp_path: Path) -> None:
    toy(tmp_path)
    toy(tmp_path, "python")
    (tmp_path / "no_manifest").mkdir()
    catalogue = Catalogue.load([tmp_path, tmp_path / "absent"])
    assert not next(entry for entry in catalogue.list() if entry.name == "python").shipped
    assert set(catalogue.get("python").operations) == {"go", "stop"}
    assert catalogue.get("toy").folder == tmp_path / "toy"
    with pytest.raises(NotFoundError, match="no bridge 'nothing'") as caught:
        catalogue.get("nothing")
    assert "toy" in caught.value.hint


def test_a_broken_bridge_stops_no_other(tmp_path: Path) -> None:
    toy(tmp_path)
    toy(tmp_path, "broken", "name = 3")
    folder = toy(tmp_path, "other")
    (folder / "bridge.toml").write_text(TOY.format(name="someone"))
    catalogue = Catalogue.load([tmp_path])
    assert catalogue.get("toy").name == "toy"
    with pytest.raises(ManifestError, match="name: text"):
        catalogue.get("broken")
    with pytest.raises(ManifestError, match="calls itself 'someone'"):
        catalogue.get("other")
    (problem,) = catalogue.validate("broken")
    assert problem.kind == "manifest"


def test_what_keeps_a_bridge_from_starting(tmp_path: Path) -> None:
    folder = toy(tmp_path)
    catalogue = Catalogue.load([tmp_path])
    assert catalogue.validate("toy", pythons=["3.11.2", "3.13.0"], secrets=["openai"]) == []
    found = catalogue.validate("toy", pythons=["3.11.2"], secrets=[])
    assert [problem.kind for problem in found] == ["python", "secret"]
    assert found[1].hint == "bridgehold secrets set openai"
    (folder / "requirements.lock").write_text("numpy==2.0.0\n")
    found = catalogue.validate("toy")
    assert [(problem.kind, problem.message.split()[0]) for problem in found] == [
        ("package", "some-package"),
        ("package", "numpy"),
    ]
    (folder / "requirements.lock").unlink()
    (folder / "toy.py").unlink()
    assert [problem.kind for problem in catalogue.validate("toy")][:2] == ["file", "file"]
    (folder / "requirements.lock").symlink_to("/etc/passwd")
    assert any("no regular file" in problem.message for problem in catalogue.validate("toy"))


@pytest.mark.parametrize("file", ["requirements.in", "requirements.lock"])
def test_a_file_of_packages_without_a_bound_is_told_in_a_line(
    tmp_path: Path, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = toy(tmp_path)
    catalogue = Catalogue.load([tmp_path])

    def told(*texts: str) -> list[str]:
        (folder / file).write_text("".join(texts))
        return [one.message for one in catalogue.validate("toy")]

    many = "".join(f"p{number}\n" for number in range(MOST_PACKAGES + 1))
    assert told(many) == [f"{folder / file} names more than {MOST_PACKAGES} packages"]
    assert len(told(many[:1000])) == MOST_PROBLEMS
    assert all(len(line) < 300 for line in told("p" * 100_000, "\n"))
    with (folder / file).open("wb") as sparse:  # larger than this machine's memory
        sparse.truncate(1 << 40)
    (told_of,) = catalogue.validate("toy")
    assert (told_of.kind, "has more than" in told_of.message) == ("file", True)
    (folder / file).unlink()
    os.mkfifo(folder / file)
    monkeypatch.setattr(Path, "is_file", lambda _: True)  # it becomes one after the look at it
    assert any("is no plain file" in one.message for one in catalogue.validate("toy"))


def test_ready_must_say_what_the_manifest_says(tmp_path: Path) -> None:
    toy(tmp_path)
    manifest = Catalogue.load([tmp_path]).get("toy")
    good = ReadyFrame(bridge="toy", version="1.0.0", operations=("stop", "go"), python="3.12.1")
    check_ready(manifest, good)
    for change, text in (
        ({"bridge": "python"}, "calls itself 'python'"),
        ({"version": "1.0.1"}, "the manifest says '1.0.0'"),
        ({"operations": ("go",)}, "the code lacks stop"),
        ({"operations": ("go", "stop", "more")}, "the manifest lacks more"),
        ({"operations": ("go", "stop", "go")}, "twice"),
        ({"python": "3.11.9"}, "the manifest wants '>=3.12'"),
        ({"python": "??"}, "the manifest wants"),
    ):
        with pytest.raises(ManifestError, match="contradicts its manifest") as caught:
            check_ready(manifest, msgspec.structs.replace(good, **change))
        assert text in caught.value.message
