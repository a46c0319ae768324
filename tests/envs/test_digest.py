from __future__ import annotations

import os

import pytest
from envs_kit import sealed_digest

from bridgehold.errors import EnvironmentBuildError
from bridgehold.sandbox.envs.digest import tree_facts


def tree_digest(tree):
    return tree_facts(tree)[0]


def make(root, *, names=("b", "a/x", "a-y", "ä", "z z")):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"content of {name}")
    (root / "a" / "empty").mkdir()
    (root / "bin").mkdir()
    (root / "bin" / "python").symlink_to("/usr/bin/python3")
    (root / "b").chmod(0o755)


def test_it_is_the_launchers_figure_before_and_after_sealing(tmp_path):
    make(tmp_path / "t")
    before = tree_digest(str(tmp_path / "t"))
    report = sealed_digest(tmp_path / "t")
    after = tree_digest(str(tmp_path / "t"))
    assert before == after
    assert (report.digest, report.files, report.bytes) == (after.digest, after.files, after.bytes)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: (t / "b").write_text("other"),
        lambda t: (t / "b").rename(t / "c"),
        lambda t: (t / "b").chmod(0o644),
        lambda t: (t / "new").touch(),
        lambda t: (t / "newdir").mkdir(),
        lambda t: (t / "a" / "empty").rmdir(),
        lambda t: ((t / "bin" / "python").unlink(), (t / "bin" / "python").symlink_to("/tmp/evil")),
    ],
)
def test_every_change_of_content_changes_it(tmp_path, change):
    make(tmp_path / "t")
    before = tree_digest(str(tmp_path / "t")).digest
    change(tmp_path / "t")
    assert tree_digest(str(tmp_path / "t")).digest != before


def test_times_owners_and_other_modes_do_not_count(tmp_path):
    make(tmp_path / "t")
    before = tree_digest(str(tmp_path / "t"))
    os.utime(tmp_path / "t" / "a-y", (1, 1))
    (tmp_path / "t" / "a-y").chmod(0o400)
    assert tree_digest(str(tmp_path / "t")) == before


def test_a_link_is_not_followed(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "link").symlink_to(outside)
    before = tree_digest(str(tmp_path / "t"))
    (outside / "secret").write_text("x")
    assert tree_digest(str(tmp_path / "t")) == before


def test_special_files_and_hard_links_are_refused(tmp_path):
    (tmp_path / "t").mkdir()
    os.mkfifo(tmp_path / "t" / "pipe")
    with pytest.raises(EnvironmentBuildError, match="special"):
        tree_digest(str(tmp_path / "t"))
    (tmp_path / "t" / "pipe").unlink()
    (tmp_path / "other").write_text("x")
    (tmp_path / "t" / "hard").hardlink_to(tmp_path / "other")
    with pytest.raises(EnvironmentBuildError, match="hard link"):
        tree_digest(str(tmp_path / "t"))
