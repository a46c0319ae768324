"""matplotlib's list of fonts, of a matplotlib that is honest, broken or hostile."""

from __future__ import annotations

import asyncio
import json

import pytest
from envs_kit import DirectRunner

from bridgehold.errors import DependencyError
from bridgehold.sandbox.envs import fonts
from bridgehold.sandbox.envs.unpack import Tree, lay_skeleton

ENTRY = {"fname": "fonts/ttf/A.ttf", "name": "A", "weight": 400, "size": "scalable", "__class__": "FontEntry"}
LIST = {
    "_version": "3.11.0",
    "default_size": None,
    "defaultFamily": {"ttf": "A"},
    "afmlist": [],
    "ttflist": [ENTRY],
    "__class__": "FontManager",
}
PACKAGE = """
import os, json
def get_cachedir():
    return "/tmp"
class FontManager:
    __version__ = "7"
PLACE = "/tmp/fontlist-v7.json"
"""


def lay(tree, interpreter, act):
    """A matplotlib whose font manager does `act` as it is imported."""
    lay_skeleton(tree, interpreter)
    package = f"{interpreter.site_packages}/matplotlib"
    tree.file(f"{package}/__init__.py", (PACKAGE.encode(),))
    tree.file(f"{package}/font_manager.py", (b"from matplotlib import *\nimport os, json\n", act.encode()))


@pytest.fixture
def listed(tmp_path, interpreter):
    """(what is missing, what lies in the tree beside what was laid down) of a matplotlib that does `act`."""

    def run(act):
        tree = Tree(tmp_path)
        lay(tree, interpreter, act)
        before = set(tmp_path.rglob("*"))
        lacks = asyncio.run(fonts.list_fonts(DirectRunner(), tree, interpreter, "demo", ""))
        made = {str(path.relative_to(tmp_path)) for path in set(tmp_path.rglob("*")) - before}
        return lacks, made

    return run


def test_the_list_is_kept_as_data_that_we_write(listed, tmp_path):
    found = LIST | {"_version": "7"}
    lacks, made = listed(f"open(PLACE, 'w').write(json.dumps({found!r}, indent=4))")
    assert lacks == ()
    name = f"{fonts.FOLDER}/fontlist-v7.json"
    assert made == {"cache", fonts.FOLDER, name}
    assert (tmp_path / name).read_text() == json.dumps(found, separators=(",", ":"))


ACTS = {
    "a link": ("os.symlink('/usr/lib/os-release', PLACE)", "malformed"),
    "a pipe that nobody writes": ("os.mkfifo(PLACE)", "longer than"),
    "no end": ("while True: pass", "longer than"),
    "more than a list may have": ("while True: os.write(3, b' ' * 65536)", "bytes"),
    "a gigabyte of nothing": ("os.truncate(os.open(PLACE, os.O_CREAT | os.O_RDWR), 1 << 30)", "bytes"),
    "a hundred thousand brackets": ("open(PLACE, 'w').write('[' * 100_000)", "deep"),
    "nothing": ("os._exit(0)", "refused"),
    "another list": ("open(PLACE, 'w').write('[]')", "refused"),
    "an exception": ("raise ImportError('no fonts today')", "no fonts today"),
    "a death": ("os.kill(os.getpid(), 9)", "ended"),
    "the tree written": ("open('/env/planted.py', 'w')", "Read-only"),
}


@pytest.mark.hostile
@pytest.mark.parametrize("act", ACTS)
def test_a_hostile_matplotlib_leaves_nothing_and_the_build_goes_on(listed, monkeypatch, act):
    monkeypatch.setattr(fonts, "_SECONDS", 1 if ACTS[act][1] == "longer than" else 60)
    [lack], made = listed(ACTS[act][0])
    assert made == set()
    assert lack.startswith("matplotlib's list of fonts, which each session makes: ")
    assert ACTS[act][1] in lack


REFUSED = {
    "no version": {key: value for key, value in LIST.items() if key != "_version"},
    "a version that is a path": LIST | {"_version": "../../lib/x"},
    "a version with a null": LIST | {"_version": "1\0"},
    "another class": LIST | {"__class__": "Popen"},
    "an entry of another class": LIST | {"ttflist": [ENTRY | {"__class__": "Popen"}]},
    "a class within": LIST | {"defaultFamily": {"__class__": "FontEntry"}},
    "something deep": LIST | {"ttflist": [ENTRY | {"name": ["A"]}]},
    "no fonts": {key: value for key, value in LIST.items() if key != "ttflist"},
    "too many": LIST | {"ttflist": [ENTRY] * 41_000},
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_such_list_is_refused(what):
    with pytest.raises(DependencyError, match="refused"):
        fonts.checked(json.dumps(REFUSED[what]).encode())


def test_a_list_of_another_kind_of_text_is_refused():
    text = json.dumps(LIST)
    for spoilt in (text.replace("400", "NaN"), text.replace('"name"', '"fname"'), text + "x", "\xff"):
        with pytest.raises(DependencyError, match="refused"):
            fonts.checked(spoilt.encode("latin-1"))
