"""What the launcher refuses of a host that was taken over."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bridgehold.errors import BusyError, DeniedError, UnsupportedError
from bridgehold.sandbox.launcher.control import LauncherClient
from bridgehold.sandbox.limits.bounds import Bounds, check
from bridgehold.sandbox.values import Launched, Mount, SandboxSpec
from sandbox.launcher_support import Machine, close, python_spec, resources

GPU = "/dev/nvidia0"
BOUNDS = Bounds(read_roots=("/srv/envs",), build_root="/srv/builds", max_memory_bytes=1 << 30, devices=(GPU,))
BASE = (Mount(kind="proc", target="/proc"), Mount(kind="dev", target="/dev"))


def spec(*mounts: Mount, **changes: Any) -> SandboxSpec:
    base: dict[str, Any] = {
        "tenant": "local",
        "bridge": "b",
        "argv": ("/env/bin/python",),
        "environment": (("HOME", "/scratch"),),
        "mounts": (*BASE, *mounts),
        "resources": resources(),
    }
    return SandboxSpec(**(base | changes))


def ro(source: str, target: str = "/env") -> Mount:
    return Mount(kind="ro_bind", source=source, target=target)


def device(source: str, target: str = "") -> Mount:
    return Mount(kind="device", source=source, target=target or source)


def test_a_sound_spec_passes() -> None:
    check(spec(ro("/srv/envs/abc"), ro("/usr", "/usr"), ro("/etc/ssl", "/etc/ssl")), BOUNDS)
    check(spec(kind="compiler"), BOUNDS)
    check(spec(device(GPU)), BOUNDS)


REFUSED: dict[str, SandboxSpec] = {
    "a bind of somebody's home": spec(ro("/home/alice")),
    "a root that only begins like an allowed one": spec(ro("/srv/envs-of-others")),
    "dots that lead out": spec(ro("/srv/envs/../../etc")),
    "all of /etc": spec(ro("/etc")),
    "the passwords": spec(ro("/etc/shadow")),
    "an option smuggled in behind a NUL": spec(Mount(kind="dir", target="/x\0--bind\0/\0/host")),
    "the same in a link's text": spec(Mount(kind="symlink", source="x\0--bind\0/\0/h", target="/x")),
    "the same in a value": spec(environment=(("A", "b\0--bind"),)),
    "the same in the command": spec(argv=("/bin/true", "\0")),
    "half a character": spec(argv=("/bin/true", "\ud800")),
    "a cover over /": spec(Mount(kind="tmpfs", target="/", size_bytes=1)),
    "a cover over a part of /proc": spec(Mount(kind="dir", target="/proc/sys")),
    "a cover over a device": spec(Mount(kind="file", target="/dev/null")),
    "a device that nobody named": spec(device("/dev/nvidia1")),
    "a disk": spec(device("/dev/sda")),
    "a device at another's place": spec(device(GPU, "/dev/null")),
    "another device at its place": spec(device("/dev/sda", GPU)),
    "a device outside of /dev": spec(device(GPU, "/scratch/gpu")),
    "a bind of a device as a folder": spec(ro(GPU, "/dev/gpu")),
    "a device for a compiler": spec(device(GPU), kind="compiler"),
    "/sys": spec(ro("/usr/share", "/sys")),
    "a second /proc": spec(Mount(kind="proc", target="/proc2")),
    "a file instead of /dev": spec(mounts=(BASE[0], Mount(kind="dir", target="/dev"))),
    "no /proc of its own": spec(mounts=(BASE[1],)),
    "a relative target": spec(Mount(kind="dir", target="x")),
    "one target twice": spec(Mount(kind="dir", target="/a"), Mount(kind="dir", target="/a")),
    "a tmpfs of all memory": spec(Mount(kind="tmpfs", target="/t", size_bytes=1 << 40)),
    "a tmpfs without a size": spec(Mount(kind="tmpfs", target="/t")),
    "more memory than there is": spec(resources=resources(memory_bytes=1 << 31)),
    "no limit of open files (-1 is infinity)": spec(resources=resources(open_files=-1)),
    "no limit of file size": spec(resources=resources(file_size_bytes=-1)),
    "no processes": spec(resources=resources(processes=0)),
    "no cpu": spec(resources=resources(cpu_millis=0)),
    "no command": spec(argv=()),
    "a thousand arguments": spec(argv=("/bin/true",) * 1000),
    "a megabyte of environment": spec(environment=(("A", "x" * (1 << 20)),)),
    "an environment variable with = in its name": spec(environment=(("A=B", "c"),)),
    "a privileged port": spec(gateway_port=80),
    "a port that is none": spec(gateway_port=70_000),
    "a compiler with a gateway": spec(kind="compiler", gateway_port=8080),
    "a hostname that is an option": spec(hostname="--bind"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused(what: str) -> None:
    with pytest.raises(DeniedError, match="the launcher refuses"):
        check(REFUSED[what], BOUNDS)


def refused(box: Machine, asked: SandboxSpec, error: type[Exception]) -> None:
    async def act(client: LauncherClient) -> None:
        with pytest.raises(error):
            await client.launch(asked)

    box.drive(act)


@pytest.mark.hostile
def test_a_link_out_of_its_root_is_not_followed(box: Machine) -> None:
    link = box.home / "innocent"
    link.symlink_to("/root" if os.getuid() == 0 else "/")
    refused(box, python_spec("", mounts=(ro(str(link)),)), DeniedError)
    inner = box.home / "folder"
    inner.symlink_to("/etc")
    refused(box, python_spec("", mounts=(ro(str(inner / "ssl")),)), DeniedError)
    link.unlink()
    inner.unlink()


@pytest.mark.hostile
def test_a_root_that_is_swapped_for_a_link_shows_what_it_showed_before(box: Machine) -> None:
    """The host owns the folder in which the builds lie; it renames it and puts a link in its place."""
    build = box.builds / "swap"
    build.mkdir()
    os.chown(build, box.owner, box.owner)
    aside = box.folder / "aside"
    victim = box.folder / "victim"
    (victim / "swap").mkdir(parents=True)
    before = (victim / "swap").stat()
    box.builds.rename(aside)
    box.builds.symlink_to(victim)
    try:
        (aside / "swap" / "own").write_text("")
        os.chown(aside / "swap" / "own", box.owner, box.owner)
        (victim / "swap" / "foreign").write_text("")

        async def act(client: LauncherClient) -> None:
            assert (await client.seal(str(build))).files == 1
            assert await client.empty(str(build)) == 1

        box.drive(act)
        after = (victim / "swap").stat()
        assert (before.st_uid, before.st_mode) == (after.st_uid, after.st_mode)
        assert (victim / "swap" / "foreign").exists()
        assert not (aside / "swap" / "own").exists()
    finally:
        box.builds.unlink()
        aside.rename(box.builds)


@pytest.mark.hostile
def test_a_build_folder_that_is_a_link_or_elsewhere_is_refused(box: Machine) -> None:
    (box.builds / "link").symlink_to(box.home)

    async def act(client: LauncherClient) -> None:
        for path in (box.builds / "link", box.home, box.builds, box.builds / "link" / "x"):
            with pytest.raises(DeniedError):
                await client.seal(str(path))
            with pytest.raises(DeniedError):
                await client.empty(str(path))

    box.drive(act)
    assert box.home.stat().st_uid == box.owner
    (box.builds / "link").unlink()


def test_a_source_that_the_session_could_not_read_is_named(box: Machine) -> None:
    closed = box.home / "closed"
    closed.mkdir(mode=0o700)

    async def act(client: LauncherClient) -> None:
        with pytest.raises(UnsupportedError, match="closed to the session's uid") as caught:
            await client.launch(python_spec("", mounts=(ro(str(closed)),)))
        assert "chmod" in caught.value.hint

    box.drive(act)
    closed.rmdir()


def test_admission_holds_the_sum(box: Machine) -> None:
    async def act(client: LauncherClient) -> None:
        most = (await client.machine()).memory_bytes
        third = resources(memory_bytes=most // 5 * 2)
        wait = python_spec("import time; time.sleep(60)", resources=third)
        held: list[tuple[Launched, list[int]]] = [await client.launch(wait) for _ in range(2)]
        with pytest.raises(BusyError):
            await client.launch(wait)
        for launched, ends in held:
            await client.kill(launched.worker)
            close(ends)
        launched, ends = await client.launch(wait)
        await client.kill(launched.worker)
        close(ends)

    box.drive(act)


def test_the_bounds_are_a_value() -> None:
    assert msgspec.json.decode(msgspec.json.encode(BOUNDS), type=Bounds) == BOUNDS
    assert Path(BOUNDS.build_root).is_absolute()
