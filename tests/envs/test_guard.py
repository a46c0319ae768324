"""A built environment that changed on disk is not used: each act, seen by who looked before and by who didn't."""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import os
import time

import pytest
from envs_kit import have_bwrap, make_index, make_lock, make_wheel, writable

from bridgehold.errors import EnvironmentChangedError, NotFoundError
from bridgehold.sandbox.envs import guard as guard_module
from bridgehold.sandbox.envs.guard import Guard
from waiting import eventually

pytestmark = pytest.mark.skipif(not have_bwrap(), reason="bubblewrap is missing")


@pytest.fixture
def built(builder, dist, tmp_path):
    wheel = make_wheel(dist, files={"demo_pkg/__init__.py": "VALUE = 1\n", "demo_pkg/sub/mod.py": "X = 1\n"})
    build = builder(make_index(tmp_path, [wheel]))
    return asyncio.run(build.ensure(make_lock(wheel), bridge="demo", on_progress=lambda _: None))


@pytest.fixture
def guard(store):
    with contextlib.closing(Guard(store)) as made:
        yield made


def check(guard, environment):
    asyncio.run(guard.check(environment))


def in_place(path):
    """Other bytes of the same length, and the old times again."""
    facts = path.stat()
    path.write_bytes(path.read_bytes()[::-1])
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def swap(tree):
    """The whole tree makes room for a copy that is another."""
    aside = tree.with_name("aside")
    tree.rename(aside)
    tree.mkdir()
    (tree / "pyvenv.cfg").write_text("evil")


ACTS = {
    "a source": lambda tree, site: in_place(site / "demo_pkg/sub/mod.py"),
    "compiled code": lambda tree, site: in_place(next((site / "demo_pkg/sub/__pycache__").iterdir())),
    "the config": lambda tree, site: in_place(tree / "pyvenv.cfg"),
    "a mode": lambda tree, site: (site / "demo_pkg/__init__.py").chmod(0o755),
    "a new file": lambda tree, site: (site / "sitecustomize.py").write_text("evil"),
    "a new folder": lambda tree, site: (tree / "extra").mkdir(),
    "a lost file": lambda tree, site: (site / "demo_pkg/sub/mod.py").unlink(),
    "another name": lambda tree, site: (site / "demo_pkg/sub").rename(site / "demo_pkg/other"),
    "another interpreter": lambda tree, site: (
        (tree / "bin/python").unlink(),
        (tree / "bin/python").symlink_to("/tmp/evil"),
    ),
    "another file of its name": lambda tree, site: (
        (site / "new").write_text("evil"),
        (site / "new").rename(site / "demo_pkg/sub/mod.py"),
    ),
    "another tree": lambda tree, site: swap(tree),
}


@pytest.mark.hostile
@pytest.mark.parametrize("what", ACTS)
def test_what_changed_is_not_used(built, store, guard, interpreter, what):
    tree = store.path(built)
    check(guard, built)
    with writable(tree):
        check(guard, built)  # only modes of writing changed, and back they are not: bytes decide
        ACTS[what](tree, tree / interpreter.site_packages)
    with pytest.raises(EnvironmentChangedError) as caught:
        check(guard, built)
    assert caught.value.where.startswith(str(tree))
    with pytest.raises(EnvironmentChangedError):
        check(guard, built)
    with contextlib.closing(Guard(store)) as another, pytest.raises(EnvironmentChangedError):
        check(another, built)
    with pytest.raises(EnvironmentChangedError):
        store.verify(built)


@pytest.mark.hostile
@pytest.mark.parametrize("way", ["a mapping", "a second name"])
def test_what_the_kernel_does_not_tell_of_is_seen_by_the_next_comparison(
    built, store, guard, interpreter, tmp_path, monkeypatch, way
):
    path = store.path(built) / interpreter.site_packages / "demo_pkg/sub/mod.py"
    with writable(store.path(built)):
        store.verify(built)
    outside = tmp_path / "outside"
    outside.mkdir()
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        check(guard, built)
        if way == "a mapping":
            mapped[0:1] = b"Y"
        else:
            (outside / "name").hardlink_to(path)
            (outside / "name").write_text("Y = 1\n")
        monkeypatch.setattr(guard_module, "LOOK_SECONDS", 0.0)

        async def seen() -> None:  # raises once it is
            await guard.check(built)

        with pytest.raises(EnvironmentChangedError, match=r"mod\.py"):
            asyncio.run(eventually(seen))


def test_facts_that_are_lost_old_or_forged_only_cost_a_reading(built, store, guard, interpreter):
    facts = store.path(built).with_suffix(".facts")
    sealed = facts.read_bytes()
    source = store.path(built) / interpreter.site_packages / "demo_pkg/__init__.py"
    os.utime(source, (1, 1))
    check(guard, built)
    assert facts.read_bytes() != sealed  # read, found the same, and sealed anew
    for data in (
        b"",
        b"\xc1",
        sealed[:-1],
        sealed.replace(b"sub/mod.py 0", b"sub/mod.py 1"),
    ):
        facts.write_bytes(data)
        store.check(built)
        assert facts.read_bytes() != data
    facts.unlink()
    with contextlib.closing(Guard(store)) as another:
        check(another, built)
        in_place(source)  # whoever had no facts has made some, and watches like everybody
        with pytest.raises(EnvironmentChangedError):
            check(another, built)
        in_place(source)
    store.check(built)
    with writable(store.path(built)):
        source.write_text("VALUE = 2\n")
    facts.unlink()
    with pytest.raises(EnvironmentChangedError, match="the tree is not as sealed"):
        check(guard, built)


def test_a_quiet_environment_is_not_read_and_costs_next_to_nothing(built, store, guard, monkeypatch):
    check(guard, built)
    monkeypatch.setattr(store, "facts", lambda _: pytest.fail("looked at"))

    async def often():
        begun = time.perf_counter()
        for _ in range(1_000):
            await guard.check(built)
        return (time.perf_counter() - begun) / 1_000

    assert asyncio.run(often()) < 0.001


@pytest.mark.hostile
def test_without_the_kernels_word_every_use_is_a_comparison(built, store, interpreter, monkeypatch):
    """An account that has no watches left, because a session took them all, fails slow and closed."""

    class Exhausted:
        def __getattr__(self, name):
            return lambda *_: -1

    monkeypatch.setattr(guard_module, "_libc", Exhausted())
    with contextlib.closing(Guard(store)) as guard:
        check(guard, built)
        check(guard, built)
        with writable(store.path(built)):
            (store.path(built) / interpreter.site_packages / "demo_pkg/__init__.py").write_text("evil")
        with pytest.raises(EnvironmentChangedError):
            check(guard, built)


@pytest.mark.hostile
def test_a_tree_that_waits_under_the_name_of_what_is_built_is_set_aside(builder, dist, tmp_path, store):
    wheel = make_wheel(dist)
    build = builder(make_index(tmp_path, [wheel]))
    ensure = lambda: asyncio.run(  # noqa: E731 - said twice
        build.ensure(make_lock(wheel), bridge="demo", on_progress=lambda _: None)
    )
    environment = ensure()
    asyncio.run(build.anew(environment))
    planted = store.path(environment)
    planted.mkdir()
    (planted / "pyvenv.cfg").write_text("evil")
    assert ensure() == environment
    store.verify(environment)
    aside = [path for path in store.folder.iterdir() if path.name.startswith(".changed-")]
    assert len(aside) == 2
    with contextlib.closing(Guard(store)) as guard:
        check(guard, environment)
        kept = asyncio.run(build.collect(lambda: {environment.digest}))
        assert not kept.removed  # its sessions may run in one of them
    assert set(asyncio.run(build.collect(lambda: {environment.digest})).removed) == set(aside)
    asyncio.run(build.collect(tuple))
    with contextlib.closing(Guard(store)) as guard, pytest.raises(NotFoundError):
        check(guard, environment)
