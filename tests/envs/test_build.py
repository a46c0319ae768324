"""Builds with a real installer in a real sandbox; the launcher's part is `test_launcher_runner`'s."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path

import pytest
from envs_kit import DirectRunner, Progress, have_bwrap, make_index, make_lock, make_wheel, writable

from bridgehold.errors import DependencyError, EnvironmentBuildError
from bridgehold.sandbox.envs.install import InstallExit
from bridgehold.sandbox.envs.lock import parse_lock
from bridgehold.sandbox.envs.store import EnvironmentStore

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
    assert [(p.name, p.version) for p in store.packages(environment)] == [("demo-pkg", "1.0")]
    store.verify(environment)

    again = Progress()
    assert ensure(build, lock, again) == environment
    assert again.seen == []
    assert store.list() == (environment,)
    assert not list(store.folder.glob(".build-*"))
    assert not list((tmp_path / "wheels" / "sets").iterdir())


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
    assert store.packages(environment) == ()
    assert (store.path(environment) / "bin" / "python").is_symlink()
    assert len(runner.runs) == 1


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
def test_what_runs_during_an_install_can_not_hide(builder, dist, tmp_path, store, interpreter):
    """With the weakening `pth` its line does run, inside the sandbox: so the canary is a real one."""
    target = f"/env/{interpreter.site_packages}/planted.py"
    wheel = make_wheel(
        dist, files={"demo_pkg/__init__.py": "", "a.pth": f"import os; open({target!r}, 'w').write('evil')\n"}
    )
    with pytest.raises(DependencyError, match=r"planted\.py: no wheel announced it"):
        ensure(builder(make_index(tmp_path, [wheel])), make_lock(wheel), allow_pth=True)
    assert store.list() == ()
    assert not list(store.folder.glob(".build-*"))


def test_the_weakening_is_part_of_what_an_environment_is(builder, dist, tmp_path):
    wheel = make_wheel(dist, files={"demo_pkg/__init__.py": "", "a.pth": "# only a comment\n"})
    build = builder(make_index(tmp_path, [wheel]))
    environment = ensure(build, make_lock(wheel), allow_pth=True)
    assert environment.weakenings == ("pth",)
    assert build.find(make_lock(wheel)) is None
    with pytest.raises(DependencyError, match=r"a\.pth"):
        ensure(build, make_lock(wheel))


class SpoilingRunner(DirectRunner):
    """An installer that leaves one thing more, or less, than the wheels announce."""

    def __init__(self, spoil):
        super().__init__()
        self._spoil = spoil

    async def run(self, order, log):
        ended = await super().run(order, log)
        self._spoil(order.build)
        return ended


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda site, tree: (site / "sitecustomize.py").write_text("evil"), r"sitecustomize\.py: no wheel"),
        (lambda site, tree: (site / "late.pth").write_text("evil"), r"late\.pth: no wheel"),
        (lambda site, tree: (site / "demo_pkg/__init__.py").write_text("evil"), "bytes are not the wheel's"),
        (lambda site, tree: (site / "demo_pkg/__init__.py").unlink(), "missing"),
        (lambda site, tree: (tree / "pyvenv.cfg").write_text("home = /tmp\n"), r"pyvenv\.cfg: not as it was"),
        (lambda site, tree: (tree / "bin/extra").write_text("#!/bin/sh\n"), "bin/extra: no wheel"),
        (lambda site, tree: (site / "demo_pkg/__pycache__/other.cpython-311.pyc").write_text("x"), "other"),
        (lambda site, tree: (site / "link").symlink_to("/etc/shadow"), "link"),
        (
            lambda site, tree: (
                (tree / "bin/python").unlink(),
                (tree / "bin/python").symlink_to("/usr/bin/python3.99"),
            ),
            "base interpreter",
        ),
    ],
)
def test_a_tree_that_is_not_what_was_announced_is_refused(
    builder, dist, tmp_path, store, interpreter, spoil, says
):
    def act(build):
        spoil(Path(build) / interpreter.site_packages, Path(build))

    wheel = make_wheel(dist)
    with pytest.raises(DependencyError) as caught:
        ensure(builder(make_index(tmp_path, [wheel]), runner=SpoilingRunner(act)), make_lock(wheel))
    assert re.search(says, caught.value.message + " " + caught.value.where)
    assert store.list() == ()
    assert not list(store.folder.glob(".build-*"))


def test_two_wheels_that_claim_one_file_are_refused(builder, dist, tmp_path, runner):
    first = make_wheel(dist, files={"shared/__init__.py": "A = 1\n"})
    second = make_wheel(dist, name="other_pkg", files={"shared/__init__.py": "B = 2\n"})
    lock = parse_lock("", "x")
    lock = type(lock)(file="x", pins=make_lock(first).pins + make_lock(second).pins, digest=lock.digest)
    with pytest.raises(DependencyError, match=r"shared/__init__\.py: .* would overwrite"):
        ensure(builder(make_index(tmp_path, [first, second])), lock)
    assert runner.runs == []


class FailingRunner(DirectRunner):
    def __init__(self, ended, text=b""):
        super().__init__()
        self._ended, self._text = ended, text

    async def run(self, order, log):
        log(self._text)
        return self._ended


def test_a_failing_installer_tells_its_last_lines_bounded_and_printable(builder):
    text = b"noise\n" * 100_000 + b"\x1b[31merror: the wheel is broken\n"
    with pytest.raises(DependencyError, match="error: the wheel is broken") as caught:
        ensure(builder(runner=FailingRunner(InstallExit(cause="exited", status=1), text)), EMPTY)
    assert "\x1b" not in caught.value.message
    assert len(caught.value.message) < 2_000
    with pytest.raises(EnvironmentBuildError, match="memory cap"):
        ensure(builder(runner=FailingRunner(InstallExit(cause="memory", status=9))), EMPTY)


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


def test_a_cancelled_build_leaves_nothing(builder, tmp_path, store):
    class Stuck(DirectRunner):
        async def run(self, order, log):
            self.runs.append(order)
            await asyncio.sleep(60)

    stuck = Stuck()

    async def run():
        task = asyncio.create_task(
            builder(runner=stuck).ensure(EMPTY, bridge="x", on_progress=lambda _: None)
        )
        while not stuck.runs:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    assert [p.name for p in store.folder.iterdir()] == ["keys"]


def test_verify_finds_a_changed_byte_and_gc_keeps_what_is_referenced(builder, dist, tmp_path, store):
    wheel = make_wheel(dist)
    full = ensure(builder(make_index(tmp_path, [wheel])), make_lock(wheel))
    empty = ensure(builder(), EMPTY)
    assert store.size_bytes() == full.bytes + empty.bytes
    with writable(store.path(full)):
        file = next(store.path(full).rglob("__init__.py"))
        file.write_text("VALUE = 2\n")
    with pytest.raises(EnvironmentBuildError, match="digest"):
        store.verify(full)

    stale = store.new_build(full.key)
    removed, left = store.gc({empty.digest})
    assert set(removed) == {store.path(full), stale}
    assert left == ()
    assert store.list() == (empty,)
    assert store.find(full.key) is None
    assert store.find(empty.key) == empty


def test_gc_leaves_a_build_that_somebody_works_on(store):
    key = "a" * 64

    async def run():
        async with store.building(key, lambda _: None):
            build = store.new_build(key)
            assert store.gc(()) == ((), ())
            return build

    build = asyncio.run(run())
    assert build.is_dir()
    assert store.gc(()) == ((build,), ())
    assert os.listdir(store.folder) == ["keys"]
