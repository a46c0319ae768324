"""The whole way through a real launcher, with a host that has no privilege: as root and as a user."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pwd
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from envs_kit import make_wheel
from launcher_support import KINDS, Machine, account, delegated, start

from bridgehold.sandbox.envs import launcher_runner
from bridgehold.sandbox.launcher.given import LauncherConfig

HOST_UID = 0x78000000 + 1
HERE = Path(__file__).parent


def build(made, wheels, *options):
    """What `host_side` says; as root it runs under the host's own role uid."""
    uid = HOST_UID if made.kind == "root" else made.owner
    if made.kind == "root":
        for folder in (made.builds, made.home):
            os.chown(folder, uid, uid)
    dist = made.folder / "dist"
    dist.mkdir()
    dist.chmod(0o755)
    for name, files in wheels.items():
        make_wheel(dist, name=name, files=files).chmod(0o644)
    control = made.control.dup()
    argv = [sys.executable, str(HERE / "host_side.py"), str(control.fileno()), str(made.folder), str(dist)]
    identity = {"user": uid, "group": uid, "extra_groups": []} if os.getuid() == 0 else {}
    done = subprocess.run(
        [*argv, *options],
        pass_fds=(control.fileno(),),
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": os.environ["PATH"], "HOME": str(made.home), "PYTHONDONTWRITEBYTECODE": "1"},
        cwd="/",
        **identity,
        check=False,
    )
    control.close()
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(params=KINDS)
def made(request):
    """A launcher whose bounds are those of a host: environments, wheels, our own Python and uv."""
    kind = request.param
    with contextlib.ExitStack() as stack:
        entry = account() if kind == "user" else pwd.getpwuid(os.getuid())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bh-envs-")))
        for inner in (folder, *(folder / name for name in ("builds", "uids", "home"))):
            inner.mkdir(exist_ok=True)
            inner.chmod(0o755)
            os.chown(inner, entry.pw_uid, entry.pw_gid)
        config = LauncherConfig(
            unrecorded=True,
            read_roots=(
                str(folder / "home"),
                str(folder / "builds"),
                os.path.realpath(sys.base_prefix),
                os.path.realpath(sys.prefix),
            ),
            build_root=str(folder / "builds"),
            uid_folder=str(folder / "uids"),
            uid_first=HOST_UID + 1_000,
            uid_count=100,
            reserve_bytes=256 << 20,
            cgroup=stack.enter_context(delegated(entry)) if kind == "user" else "auto",
        )
        process, control = start(config, entry if kind == "user" else None)
        try:
            yield Machine(kind=kind, folder=folder, config=config, process=process, control=control)
        finally:
            control.close()
            process.wait(30)


def test_a_host_without_privilege_gets_an_environment_it_can_not_change(made):
    answer = build(made, {"demo_pkg": {"demo_pkg/__init__.py": "VALUE = 1\n"}})
    assert "error" not in answer
    assert answer["packages"] == ["demo-pkg"]
    assert answer["again"] is True
    assert answer["left"] == []
    if made.kind == "root":
        assert answer["writable"] is False
        assert answer["owner"] == 0
    assert answer["modes"] == ["0o0"]


def test_what_nobody_refers_to_is_removed_whoever_owns_it(made):
    answer = build(made, {"demo_pkg": {"demo_pkg/__init__.py": ""}}, "--collect")
    assert answer["collected"] == [Path(answer["tree"]).name]
    assert not Path(answer["tree"]).exists()
    assert not list(made.builds.glob("*.json"))


CURIOUS = """
import json, os, socket, time
begun = time.monotonic()
from matplotlib import PLACE
def told(act, *given):
    try:
        return str(act(*given))
    except OSError as error:
        return os.strerror(error.errno)
acts = (
    str(begun),
    told(open, "/env/planted.py", "w"),
    told(os.chmod, "/env/bin", 0o777),
    told(os.rename, "/env/lib", "/env/lob"),
    told(open, "/etc/shadow"),
    told(socket.create_connection, ("1.1.1.1", 443), 1),
    ",".join(sorted(os.environ)),
    ",".join(sorted(os.listdir("/"))),
)
class FontManager:
    __version__ = "7"
json.dump(
    {"_version": "7", "ttflist": [{"fname": act, "__class__": "FontEntry"} for act in acts], "__class__": "FontManager"},
    open(PLACE, "w"),
)
"""


THERE = "PLACE = '/tmp/fontlist-v7.json'\ndef get_cachedir(): return '/tmp'\n"


@pytest.mark.hostile
def test_matplotlib_lists_its_fonts_with_the_tree_read_only_and_nothing_to_reach(made):
    """What a hostile one sees and may do, told in its list: less than a session's, and not before the proof."""
    files = {
        "matplotlib/__init__.py": THERE,
        "matplotlib/font_manager.py": CURIOUS,
        "a.pth": "import os; os._exit(7)",
    }
    answer = build(made, {"matplotlib": files}, "--pth")
    assert answer["lacks"] == []
    [kept] = Path(answer["tree"]).rglob("fontlist*")
    assert not kept.stat().st_mode & 0o222
    begun, *acts, variables, root = [entry["fname"] for entry in json.loads(kept.read_text())["ttflist"]]
    [(_, proved)] = answer["proved"]
    assert float(begun) > proved
    refused = {"Read-only file system"}
    assert set(acts[:3]) <= refused
    assert acts[3] in ("No such file or directory", "Permission denied")
    assert acts[4] == "Network is unreachable"
    assert "PATH" in variables
    assert not {"PYTHONPATH", "BRIDGEHOLD_HOME"} & set(variables.split(","))
    assert {"bridge", "scratch", "data"}.isdisjoint(root.split(","))
    assert not list(Path(answer["tree"]).rglob("planted*"))


@pytest.mark.hostile
def test_matplotlib_lists_nothing_in_a_sandbox_that_is_not_proved(made):
    files = {"matplotlib/__init__.py": THERE, "matplotlib/font_manager.py": CURIOUS}
    answer = build(made, {"matplotlib": files}, "--unproved")
    assert answer["lacks"] == ["matplotlib's list of fonts, which each session makes: it isn't so"]
    assert not list(Path(answer["tree"]).rglob("fontlist*"))


@pytest.mark.hostile
def test_no_line_of_a_wheel_runs_where_it_is_built(made):
    line = "import os; open('/env/planted.py', 'w'); os._exit(7)\n"
    answer = build(made, {"demo_pkg": {"demo_pkg/__init__.py": "", "a.pth": line}}, "--pth")
    assert "error" not in answer
    assert not list(Path(answer["tree"]).rglob("planted*"))
    assert list(Path(answer["tree"]).rglob("demo_pkg/__pycache__/*.pyc"))
    assert answer["left"] == []


@pytest.mark.hostile
def test_who_writes_without_end_waits_and_the_loop_serves_others(monkeypatch):
    """A piece is read, and no other before its time."""
    monkeypatch.setattr(launcher_runner, "_LOG_RATE", 1)
    pieces: list[int] = []

    async def act() -> None:
        ours, theirs = os.pipe()
        os.set_blocking(theirs, False)
        listening = asyncio.create_task(launcher_runner._drain(ours, lambda data: pieces.append(len(data))))
        for _ in range(100):
            with contextlib.suppress(BlockingIOError):
                while os.write(theirs, bytes(1 << 16)):
                    pass
            await asyncio.sleep(0)
        listening.cancel()
        await asyncio.wait({listening})
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(ours)
        os.close(theirs)

    asyncio.run(act())
    assert len(pieces) == 1


def test_a_log_is_read_to_its_end(monkeypatch):
    monkeypatch.setattr(launcher_runner, "_READ_BYTES", 3)
    said = bytearray()

    async def act() -> None:
        ours, theirs = os.pipe()
        listening = asyncio.create_task(launcher_runner._drain(ours, said.extend))
        await asyncio.sleep(0)
        os.write(theirs, b"eight words")
        os.close(theirs)
        await listening

    asyncio.run(act())
    assert said == b"eight words"
