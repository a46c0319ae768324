"""Builds with a real installer in a real sandbox; the launcher's part is `test_launcher_runner`'s."""

from __future__ import annotations

import asyncio
import io
import marshal
import os
import shutil
import subprocess
import sys
import threading
from importlib.util import source_hash
from pathlib import Path

import pytest
from envs_kit import DirectRunner, Progress, have_bwrap, make_index, make_lock, make_wheel, sha256

from bridgehold.errors import BridgeholdError, BudgetError, DependencyError, EnvironmentBuildError
from bridgehold.sandbox.envs.build import _For
from bridgehold.sandbox.envs.compile import CompileExit
from bridgehold.sandbox.envs.lock import parse_lock
from bridgehold.sandbox.envs.store import EnvironmentStore, remove_tree
from bridgehold.sandbox.envs.wheelscan import scan_wheel
from waiting import eventually

pytestmark = pytest.mark.skipif(not have_bwrap(), reason="bubblewrap is missing")

EMPTY = parse_lock("", "requirements.lock")


def ensure(builder, lock, progress=lambda _: None, **options):
    return asyncio.run(builder.ensure(lock, bridge="demo", on_progress=progress, **options))


def test_a_build_is_complete_read_only_and_found_again(builder, dist, tmp_path, store, progress, interpreter):
    wheel = make_wheel(
        dist,
        files={"demo_pkg/__init__.py": "VALUE = 41\n", "demo_pkg/sub/mod.py": "X = 1\n"},
        entry_points="[console_scripts]\ndemo = demo_pkg:main\n",
    )
    build = builder(make_index(tmp_path, [wheel]))
    lock = make_lock(wheel)
    assert build.find(lock) is None
    environment = ensure(build, lock, progress)
    tree = store.path(environment)
    site = tree / interpreter.site_packages
    assert (site / "demo_pkg" / "__init__.py").read_text() == "VALUE = 41\n"
    assert list((site / "demo_pkg" / "__pycache__").glob("*.pyc"))
    assert (tree / "bin" / "python").readlink().as_posix() == interpreter.inside
    assert (tree / "bin" / "demo").read_text().startswith("#!/env/bin/python")
    assert sorted(p.name for p in tree.iterdir()) == ["bin", "lib", "pyvenv.cfg"]
    assert "include-system-site-packages = false" in (tree / "pyvenv.cfg").read_text()
    assert all(not p.lstat().st_mode & 0o222 for p in tree.rglob("*") if not p.is_symlink())
    assert progress.phases == ["resolve", "fetch", "scan", "install", "compile", "seal", "verify"]
    assert [(p.name, p.version) for p in environment.packages] == [("demo-pkg", "1.0")]
    store.verify(environment)

    again = Progress()
    assert ensure(build, lock, again) == environment
    assert again.seen == []
    assert store.list() == (environment,)
    assert not list(store.folder.glob(".build-*"))


def test_compiled_files_are_never_checked_against_times_and_name_the_final_path(
    builder, dist, tmp_path, store, interpreter
):
    wheel = make_wheel(dist, files={"demo_pkg/__init__.py": "def f():\n    return 1\n"})
    environment = ensure(builder(make_index(tmp_path, [wheel])), make_lock(wheel))
    data = next(store.path(environment).rglob("demo_pkg/__pycache__/*.pyc")).read_bytes()
    assert int.from_bytes(data[4:8], "little") == 0b01  # by hash, unchecked: a copy's times don't matter
    assert f"/env/{interpreter.site_packages}/demo_pkg/__init__.py".encode() in data


def test_the_same_lock_gives_the_same_tree_anywhere(builder, dist, tmp_path, store, interpreter):
    wheel = make_wheel(dist, files={f"demo_pkg/m{i}.py": f"NAMES = {{'a', 'b', {i}}}\n" for i in range(20)})
    build = builder(make_index(tmp_path, [wheel]))
    first = ensure(build, make_lock(wheel))
    build._store = EnvironmentStore(tmp_path / "elsewhere")
    assert ensure(build, make_lock(wheel)).digest == first.digest


def test_an_empty_lock_is_an_environment_without_packages(builder, store, runner):
    environment = ensure(builder(), EMPTY)
    assert environment.packages == ()
    assert (store.path(environment) / "bin" / "python").is_symlink()
    assert runner.runs == []  # there is nothing to compile


HOSTILE = {
    "pth": {"evil.pth": "import os; open({canary!r}, 'w').write('ran')\n"},
    "sitecustomize": {"sitecustomize.py": "open({canary!r}, 'w').write('ran')\n"},
    "usercustomize": {"usercustomize.py": "open({canary!r}, 'w').write('ran')\n"},
    "pyvenv.cfg": {"demo_pkg-1.0.data/data/pyvenv.cfg": "home = /tmp\ninclude-system-site-packages = true\n"},
    "python": {"demo_pkg-1.0.data/scripts/python": "#!/bin/sh\necho ran > {canary}\n"},
    "shadow": {"encodings/__init__.py": "open({canary!r}, 'w').write('ran')\n"},
}


@pytest.mark.hostile
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_wheel_is_refused_before_any_of_it_runs(builder, dist, tmp_path, store, runner, name):
    canary = tmp_path / "canary"
    files = {
        path: text.replace("{canary!r}", repr(str(canary))).replace("{canary}", str(canary))
        for path, text in HOSTILE[name].items()
    }
    wheel = make_wheel(dist, files={"demo_pkg/__init__.py": "", **files})
    with pytest.raises(DependencyError) as caught:
        ensure(builder(make_index(tmp_path, [wheel])), make_lock(wheel))
    assert next(iter(files)) in caught.value.message
    assert caught.value.where == wheel.name
    assert runner.runs == []
    assert not canary.exists()
    assert store.list() == ()


@pytest.mark.hostile
def test_nothing_of_a_wheel_runs_in_a_build_even_where_pth_is_allowed(
    builder, dist, tmp_path, store, interpreter
):
    """Its line would plant a file in /env, or end the compiler: it does neither, for nobody obeys it."""
    line = "import os; open('/env/planted.py', 'w'); os._exit(7)\n"
    files = {"demo_pkg/__init__.py": "X = 1\n", "a.pth": line}
    environment = ensure(
        builder(make_index(tmp_path, [make_wheel(dist, files=files)])),
        make_lock(next(dist.glob("*.whl"))),
        allow_pth=True,
    )
    site = store.path(environment) / interpreter.site_packages
    assert not list(site.glob("*.pth")), "a worker's children would run it"
    assert ".pth" not in next(site.glob("*/RECORD")).read_text()
    assert list((site / "demo_pkg/__pycache__").iterdir())
    assert not list(store.path(environment).rglob("planted*"))


def test_the_weakening_is_part_of_what_an_environment_is(builder, dist, tmp_path):
    wheel = make_wheel(dist, files={"demo_pkg/__init__.py": "", "a.pth": "# only a comment\n"})
    build = builder(make_index(tmp_path, [wheel]))
    environment = ensure(build, make_lock(wheel), allow_pth=True)
    assert environment.weakenings == ("pth",)
    assert build.find(make_lock(wheel)) is None
    with pytest.raises(DependencyError, match=r"a\.pth"):
        ensure(build, make_lock(wheel))


class SpoilingRunner(DirectRunner):
    """Somebody with our rights changes one thing of a tree before it is sealed."""

    def __init__(self, spoil):
        super().__init__()
        self._spoil = spoil

    async def seal(self, build):
        self._spoil(Path(build))
        return await super().seal(build)


SPOILED = {
    "a new file": lambda tree, site: (site / "sitecustomize.py").write_text("evil"),
    "a new folder": lambda tree, site: (site / "empty").mkdir(),
    "other bytes": lambda tree, site: (site / "demo_pkg/__init__.py").write_text("evil"),
    "a lost file": lambda tree, site: (site / "demo_pkg/__init__.py").unlink(),
    "other bytecode": lambda tree, site: next(site.rglob("*.pyc")).write_bytes(b"evil"),
    "another config": lambda tree, site: (tree / "pyvenv.cfg").write_text("home = /tmp\n"),
    "a command more": lambda tree, site: (tree / "bin/extra").write_text("#!/bin/sh\n"),
    "a link": lambda tree, site: (site / "link").symlink_to("/etc/shadow"),
    "another mode": lambda tree, site: (site / "demo_pkg/__init__.py").chmod(0o755),
    "another interpreter": lambda tree, site: (
        (tree / "bin/python").unlink(),
        (tree / "bin/python").symlink_to("/usr/bin/python3.9"),
    ),
}


@pytest.mark.parametrize("what", SPOILED)
def test_a_tree_that_is_not_what_was_read_is_refused(builder, dist, tmp_path, store, interpreter, what):
    def act(tree):
        SPOILED[what](tree, tree / interpreter.site_packages)

    wheel = make_wheel(dist)
    with pytest.raises(DependencyError, match=r"digest|symbolic link"):
        ensure(builder(make_index(tmp_path, [wheel]), runner=SpoilingRunner(act)), make_lock(wheel))
    assert store.list() == ()
    assert not list(store.folder.glob(".build-*"))


def both_of(first, second):
    lock = parse_lock("", "x")
    return type(lock)(file="x", pins=make_lock(first).pins + make_lock(second).pins, digest=lock.digest)


def test_two_wheels_that_claim_one_file_are_refused(builder, dist, tmp_path, runner):
    first = make_wheel(dist, files={"shared/__init__.py": "A = 1\n"})
    second = make_wheel(dist, name="other_pkg", files={"shared/__init__.py": "B = 2\n"})
    with pytest.raises(DependencyError, match=r"shared/__init__\.py: .* would overwrite"):
        ensure(builder(make_index(tmp_path, [first, second])), both_of(first, second))
    assert runner.runs == []


@pytest.mark.hostile
@pytest.mark.parametrize(
    "planted",
    [
        "other_pkg/mod.cpython-311-x86_64-linux-gnu.so",
        "other_pkg/mod.pyc",
        "other_pkg/mod/__init__.py",
        "other_pkg.py",
        "other_pkg/__init__.abi3.so",
    ],
)
def test_a_wheel_that_puts_a_module_in_the_place_of_anothers_is_refused(
    builder, dist, tmp_path, runner, planted
):
    """Python would find it before, or instead of, the other wheel's source."""
    first = make_wheel(dist, files={"demo_pkg/__init__.py": "", planted: b"\x7fELF"})
    second = make_wheel(dist, name="other_pkg", files={"other_pkg/__init__.py": "", "other_pkg/mod.py": ""})
    with pytest.raises(DependencyError, match="would stand in for"):
        ensure(builder(make_index(tmp_path, [first, second])), both_of(first, second))
    assert runner.runs == []


@pytest.mark.hostile
def test_compiled_files_that_a_wheel_ships_are_made_anew(builder, dist, tmp_path, store, interpreter):
    """A wheel's code object for its own, or another wheel's, source is never what gets imported."""
    tag = sys.implementation.cache_tag
    evil = b"\xa7\r\r\n" + bytes(12) + b"evil"
    first = make_wheel(
        dist,
        files={
            "demo_pkg/__init__.py": "VALUE = 1\n",
            f"demo_pkg/__pycache__/__init__.{tag}.pyc": evil,
            f"other_pkg/__pycache__/__init__.{tag}.pyc": evil,
        },
    )
    second = make_wheel(dist, name="other_pkg", files={"other_pkg/__init__.py": "VALUE = 2\n"})
    environment = ensure(builder(make_index(tmp_path, [first, second])), both_of(first, second))
    site = store.path(environment) / interpreter.site_packages
    for name, value in (("demo_pkg", 1), ("other_pkg", 2)):
        (compiled,) = (site / name / "__pycache__").iterdir()
        assert compiled.read_bytes()[8:16] == source_hash((site / name / "__init__.py").read_bytes())
        assert marshal.loads(compiled.read_bytes()[16:]).co_consts[0] == value


@pytest.mark.hostile
def test_a_compiler_that_is_taken_over_answers_for_its_own_wheel_only(builder, dist, tmp_path, store):
    """Each wheel has a compiler of its own, which hears no other wheel's name and writes no file."""

    class Heard(DirectRunner):
        async def run(self, order, talk, log):
            class Ear:
                """What the compiler reads, written through."""

                def __init__(self, to):
                    self.write, self.to = self.hear, to

                def hear(self, data):
                    mine.update(name for name in (b"demo_pkg", b"other_pkg") if name in data)
                    self.to.write(data)

                def __enter__(self):
                    return self

                def __exit__(self, *_):
                    self.to.close()

            mine = set()
            heard.append(mine)

            def listen(to, answers):
                talk(Ear(to), answers)

            return await super().run(order, listen, log)

    heard = []
    first = make_wheel(dist, files={"demo_pkg/__init__.py": ""})
    second = make_wheel(dist, name="other_pkg", files={"other_pkg/__init__.py": ""})
    runner = Heard()
    ensure(builder(make_index(tmp_path, [first, second]), runner=runner), both_of(first, second))
    assert sorted(map(sorted, heard)) == [[b"demo_pkg"], [b"other_pkg"]]
    assert all("/env" not in " ".join(order.argv[:-1]) for order in runner.runs)


class LyingRunner(DirectRunner):
    """A compiler that was taken over: it answers what it likes."""

    def __init__(self, said):
        super().__init__()
        self._said = said

    async def run(self, order, talk, log):
        answers = Counted(self._said)
        try:
            await asyncio.to_thread(talk, io.BytesIO(), answers)
        finally:
            self.taken = answers.taken
        return CompileExit(cause="exited", status=0)


class Counted(io.BytesIO):
    """Knows how much of it was read."""

    taken = 0

    def read(self, size=-1):
        data = super().read(size)
        self.taken += len(data)
        return data


@pytest.mark.hostile
@pytest.mark.parametrize(
    ("said", "says"),
    [
        (b"", "ended"),
        (b"\xff\xff\xff\xff" + b"x" * 100, "compiles to 4294967295 bytes"),
        (b"\x05\0\0\0ab", "ended"),
        (b"\0\0\0\0" + b"\0\0\0\0", "more than it was asked"),
    ],
)
def test_an_absurd_answer_of_a_compiler_ends_the_build(builder, dist, tmp_path, store, said, says):
    wheel = make_wheel(dist, files={"demo_pkg/__init__.py": ""})
    with pytest.raises(DependencyError, match=says):
        ensure(builder(make_index(tmp_path, [wheel]), runner=LyingRunner(said)), make_lock(wheel))
    assert sorted(path.name for path in store.folder.iterdir()) == ["keys"]


@pytest.mark.hostile
def test_many_answers_that_are_not_absurd_are_bounded_together(builder, dist, tmp_path, store):
    files = {f"demo_pkg/m{number}.py": "" for number in range(40)} | {"demo_pkg/__init__.py": ""}
    wheel = make_wheel(dist, files=files)
    said = ((1 << 20).to_bytes(4, "little") + bytes(1 << 20)) * 20
    runner = LyingRunner(said)
    with pytest.raises(DependencyError, match="more than its sources can"):
        ensure(builder(make_index(tmp_path, [wheel]), runner=runner), make_lock(wheel))
    assert runner.taken <= 17 << 20
    assert sorted(path.name for path in store.folder.iterdir()) == ["keys"]


def test_what_python_can_not_compile_is_left_uncompiled(builder, dist, tmp_path, store):
    files = {
        "demo_pkg/__init__.py": "", "demo_pkg/old.py": "print 'two'\n", "demo_pkg/nul.py": b"\0\xff",
        "demo_pkg/deep.py": "(" * 5_000 + ")" * 5_000, "demo_pkg/coding.py": b"# coding: nonsense\n\xe4\n",
    }  # fmt: skip
    wheel = make_wheel(dist, files=files)
    environment = ensure(builder(make_index(tmp_path, [wheel])), make_lock(wheel))
    assert [path.name.split(".")[0] for path in store.path(environment).rglob("*.pyc")] == ["__init__"]


def test_commands_and_scripts_are_ours_to_write(builder, dist, tmp_path, store):
    wheel = make_wheel(
        dist,
        files={
            "demo_pkg/__init__.py": "",
            "demo_pkg-1.0.data/scripts/tool": b"#!pythonw -O\nprint(1)\n",
            "demo_pkg-1.0.data/scripts/native": b"\x7fELF\0#!python",
        },
        entry_points="[console_scripts]\nsay = demo_pkg.cli : Main.run [extra]\n",
    )
    tree = store.path(ensure(builder(make_index(tmp_path, [wheel])), make_lock(wheel)))
    assert (tree / "bin/tool").read_bytes() == b"#!/env/bin/python\nprint(1)\n"
    assert (tree / "bin/native").read_bytes() == b"\x7fELF\0#!python"
    said = (tree / "bin/say").read_text()
    assert said.startswith("#!/env/bin/python\n")
    assert "from demo_pkg.cli import Main\n" in said
    assert "sys.exit(Main.run())" in said
    assert all((tree / "bin" / name).stat().st_mode & 0o111 for name in ("tool", "native", "say"))
    record = next(tree.rglob("RECORD")).read_text()
    assert "../../../bin/say,sha256=" in record


class FailingRunner(DirectRunner):
    def __init__(self, ended, text=b""):
        super().__init__()
        self._ended, self._text = ended, text

    async def run(self, order, talk, log):
        log(self._text)
        await asyncio.to_thread(talk, io.BytesIO(), io.BytesIO())
        return self._ended


def test_a_failing_compiler_tells_its_last_lines_bounded_and_printable(builder, dist, tmp_path):
    text = b"noise\n" * 100_000 + b"\x1b[31merror: the wheel is broken\n"
    wheel = make_wheel(dist)
    index = make_index(tmp_path, [wheel])
    with pytest.raises(DependencyError, match="error: the wheel is broken") as caught:
        ensure(
            builder(index, runner=FailingRunner(CompileExit(cause="exited", status=1), text)),
            make_lock(wheel),
        )
    assert "\x1b" not in caught.value.message
    assert "demo_pkg/__init__.py" in caught.value.message
    assert caught.value.where == wheel.name
    assert len(caught.value.message) < 2_000
    with pytest.raises(EnvironmentBuildError, match="memory cap"):
        ensure(builder(index, runner=FailingRunner(CompileExit(cause="memory", status=9))), make_lock(wheel))


@pytest.mark.skipif(os.getuid() != 0, reason="only root can mount a small disk")
@pytest.mark.parametrize("full", ["wheels", "envs"])
def test_a_full_disk_is_a_shortage_and_no_broken_wheel(builder, dist, tmp_path, full):
    wheel = make_wheel(dist, files={"demo_pkg/__init__.py": os.urandom(600_000).hex()})
    build, lock = builder(make_index(tmp_path, [wheel])), make_lock(wheel)
    disk = tmp_path / full
    disk.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k,mode=755", "none", str(disk)], check=True)
    try:
        with pytest.raises(BridgeholdError) as caught:
            ensure(build, lock)
        assert caught.value.code == "shortage", caught.value.message
        assert "room" in caught.value.message
        assert build.find(lock) is None
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        assert ensure(build, lock).packages  # what was short left nothing behind
    finally:
        for path in disk.iterdir():
            if path.is_dir():
                remove_tree(path)
        subprocess.run(["umount", str(disk)], check=True)


def test_a_second_builder_waits_and_takes_the_first_ones_tree(builder, dist, tmp_path, runner):
    wheel = make_wheel(dist)
    index = make_index(tmp_path, [wheel])
    first, second = Progress(), Progress()

    async def both():
        one, two = builder(index), builder(index)
        return await asyncio.gather(
            one.ensure(make_lock(wheel), bridge="a", on_progress=first),
            two.ensure(make_lock(wheel), bridge="b", on_progress=second),
        )

    one, two = asyncio.run(both())
    assert one == two
    assert len(runner.runs) == 1
    assert second.phases == ["wait"]


def test_a_cancelled_build_leaves_nothing(builder, dist, tmp_path, store):
    class Stuck(DirectRunner):
        async def run(self, order, talk, log):
            self.runs.append(order)
            await asyncio.sleep(60)

    stuck, wheel = Stuck(), make_wheel(dist)
    build = builder(make_index(tmp_path, [wheel]), runner=stuck)

    async def run():
        task = asyncio.create_task(build.ensure(make_lock(wheel), bridge="x", on_progress=lambda _: None))
        await eventually(lambda: stuck.runs)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    assert sorted(p.name for p in store.folder.iterdir()) == ["keys"]


def test_a_tenants_own_wheels_are_compiled_in_its_share_and_for_less_long(
    builder, dist, tmp_path, runner, monkeypatch
):
    class Stuck(DirectRunner):
        async def run(self, order, talk, log):
            self.runs.append(order)
            await asyncio.sleep(60)

    own, other = make_wheel(dist), make_wheel(dist, name="other_pkg")
    ensure(builder(make_index(tmp_path, [other])), make_lock(other), tenant="acme")
    assert [order.tenant for order in runner.runs] == ["acme"]
    (tmp_path / "more").mkdir()
    spare = make_wheel(tmp_path / "more", name="spare_pkg")
    ensure(builder(folders=(str(spare.parent),)), make_lock(spare))
    assert runner.runs[-1].tenant == "local"

    monkeypatch.setattr("bridgehold.sandbox.envs.build._OWN_COMPILE_SECONDS", 0.05)
    stuck = Stuck()
    with pytest.raises(EnvironmentBuildError, match=r"longer than 0\.05 s"):
        ensure(builder(runner=stuck), make_lock(own), tenant="acme", wheels=str(dist))
    assert [order.tenant for order in stuck.runs] == ["acme"]
    asked = _For("demo", "acme", str(tmp_path), lambda _: None)
    assert asked.seconds(own.name) == 600, "an index's wheel may be large"


def test_what_a_tenants_build_fetches_is_asked_for_before_and_goes_with_it(builder, dist, tmp_path, store):
    """The disk is everybody's: nothing that is fetched for a tenant outlives its build, nor comes first."""
    wheels = [make_wheel(dist, name, files={f"{name}/data": bytes(3 << 20)}) for name in ("one", "two")]
    build, lock = builder(make_index(tmp_path, wheels)), make_lock(*wheels)
    packed = sum(wheel.stat().st_size for wheel in wheels)

    def lying():
        return sorted(path.name for path in (tmp_path / "wheels").glob("*") if path.name != "listings")

    def room(most):
        def demand(size):
            asked.append(size)
            if size > most:
                raise BudgetError("too much")

        return demand

    for most, last in ((packed - 1, packed), (6 << 20, 6 << 20)):
        asked, seen = [], Progress()
        with pytest.raises(BudgetError):
            ensure(build, lock, seen, tenant="acme", room=room(most))
        assert asked[-1] >= last
        assert "install" not in seen.phases
        assert lying() == []
        assert [path.name for path in store.folder.iterdir() if path.name.startswith(".build")] == []
    other = make_lock(wheels[0])
    ensure(build, other)
    assert lying() == [sha256(wheels[0])]
    assert ensure(build, lock, tenant="acme", room=room(7 << 20)).files
    assert lying() == [sha256(wheels[0])]


def test_a_file_of_one_wheel_is_no_folder_of_anothers(builder, dist, tmp_path):
    first = make_wheel(dist, "one", files={"one/__init__.py": "", "shared/data": "of one"})
    second = make_wheel(dist, "two", files={"two/__init__.py": "", "shared/data/more": "of two"})
    for wheels in ((first, second), (second, first)):
        with pytest.raises(DependencyError, match=r"shared/data: a file of one-1\.0-.*a folder of two-1\.0-"):
            ensure(builder(make_index(tmp_path / wheels[0].name, wheels)), make_lock(*wheels))


def test_a_build_that_ends_while_it_scans_holds_up_nobody(builder, dist, tmp_path, monkeypatch):
    """Neither the loop, which all tenants share, nor its own end by the scans that have not begun."""
    wheels = [make_wheel(dist, name=f"demo_{number}") for number in range(12)]
    begun, go_on = [], threading.Event()
    scan = scan_wheel

    def slow(path, *more, **options):
        begun.append(path)
        go_on.wait(30)
        return scan(path, *more, **options)

    monkeypatch.setattr("bridgehold.sandbox.envs.build.scan_wheel", slow)
    build = builder(make_index(tmp_path, wheels))

    async def run():
        task = asyncio.create_task(build.ensure(make_lock(*wheels), bridge="x", on_progress=lambda _: None))
        await eventually(lambda: len(begun) >= 2)
        watchdog = threading.Timer(10, go_on.set)  # a loop that is blocked can't let it go on
        watchdog.start()
        task.cancel()
        for _ in range(20):
            await asyncio.sleep(0.01)
        assert not go_on.is_set(), "the loop was blocked by scans"
        watchdog.cancel()
        assert not task.done(), "what runs is waited for"
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    assert len(begun) == 2, "scans that had not begun were run all the same"


def test_what_is_collected_and_what_stays(builder, dist, tmp_path, store):
    """Nothing that is referred to, in use by any host, or being built; nor what was used of late, unless asked."""
    wheel, other = make_wheel(dist), make_wheel(dist, name="other_pkg")
    build = builder(make_index(tmp_path, [wheel, other]))
    kept, used, idle = (ensure(build, make_lock(w)) for w in (wheel, other)), None, ensure(builder(), EMPTY)
    kept, used = kept
    hold = store.hold(used)
    stale, lost = store.new_build("b" * 64), store.folder / ("c" * 64)
    lost.mkdir()
    stuck = store.new_build("0" * 64)  # the first by name, and deeper than what is removed
    above = os.open(stuck, os.O_RDONLY)
    for _ in range(600):
        os.mkdir("a", dir_fd=above)
        below = os.open("a", os.O_RDONLY, dir_fd=above)
        os.close(above)
        above = below
    os.close(above)
    collect = lambda **options: asyncio.run(build.collect(lambda: {kept.digest}, **options))  # noqa: E731 - said thrice

    async def while_building():
        async with store.building("a" * 64, lambda _: None):
            busy = store.new_build("a" * 64)
            return busy, await build.collect(lambda: {kept.digest}, unused_seconds=3_600)

    busy, removed = asyncio.run(while_building())
    assert set(removed.removed) == {stale, lost}
    assert busy.is_dir()
    os.utime(tmp_path / "wheels" / sha256(other), (0, 0))
    assert set(collect().removed) == {busy, store.path(idle)}
    assert (store.find(kept.key), store.find(used.key), store.find(idle.key)) == (kept, used, None)
    assert (tmp_path / "wheels" / sha256(other)).exists()
    os.close(hold)
    assert set(collect().removed) == {store.path(used), tmp_path / "wheels" / sha256(other)}
    assert store.list() == (kept,)
    assert store.hold(used) is None
    assert stuck.is_dir()
    shutil.rmtree(stuck)
    left = {path.suffix or path.name for path in store.folder.iterdir()}
    assert left <= {".json", ".facts", ".use", "keys", ".lock", store.path(kept).name}
    nothing = build.collect(lambda: pytest.fail("nothing might go"), unused_seconds=3_600)
    assert asyncio.run(nothing).removed == []
