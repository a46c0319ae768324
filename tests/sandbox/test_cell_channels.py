"""A cell's channel to the launcher: its tenant's orders of the host's, and nothing of anybody else's.

A cell is played by a client on a channel of its own that asks what no sound one would.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
from collections.abc import AsyncIterator

import msgspec
import pytest

from bridgehold.errors import (
    BridgeholdError,
    DeniedError,
    HostUnavailableError,
    NotFoundError,
    TenantFullError,
)
from bridgehold.sandbox.launcher import requests
from bridgehold.sandbox.launcher.control import LauncherClient
from bridgehold.sandbox.values import SandboxSpec, TenantShare
from sandbox.launcher_support import Machine, close, python_spec, read_line

pytestmark = pytest.mark.hostile

WAIT = "import time; print('up', flush=True); time.sleep(120)"


def waiting(tenant: str, **changes: object) -> SandboxSpec:
    return python_spec(WAIT, tenant=tenant, **changes)


@contextlib.asynccontextmanager
async def cell(host: LauncherClient, tenant: str) -> AsyncIterator[tuple[str, socket.socket, LauncherClient]]:
    """Its name, its end of the channel, and a client on it."""
    name = f"{tenant}-{secrets.token_hex(4)}"
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    await host.open_cell(name, tenant, theirs)
    client = await LauncherClient.connect(ours)
    try:
        yield name, ours, client
    finally:
        client.close()


async def up(client: LauncherClient, spec: SandboxSpec) -> str:
    launched, ends = await client.launch(spec)
    assert await read_line(ends[1]) == "up\n"
    close(ends)
    return launched.worker


async def up_in_time(client: LauncherClient, spec: SandboxSpec) -> str:
    """Once what others had is given back: the end of a cell is a state that the launcher comes to by itself."""
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(BridgeholdError):
                return await up(client, spec)
            await asyncio.sleep(0)


def test_a_cell_starts_what_the_host_has_ordered_for_it_and_nothing_else(box: Machine) -> None:
    async def act(host: LauncherClient) -> None:
        async with cell(host, "acme") as (name, _, client):
            spec = waiting("acme")
            with pytest.raises(DeniedError):
                await client.launch(spec)
            await host.allow(name, "test", "acme", [spec])
            worker = await up(client, spec)
            wider = msgspec.structs.replace(
                spec, resources=msgspec.structs.replace(spec.resources, processes=200)
            )
            for other in (wider, waiting("globex"), waiting("acme", bridge="other")):
                with pytest.raises(DeniedError):
                    await client.launch(other)
            with pytest.raises(DeniedError):
                await client.fork(worker, wider)
            await host.allow(
                name, "test", "acme", [wider]
            )  # a word of the host's takes the place of the last
            with pytest.raises(DeniedError):
                await client.launch(spec)
            assert (await client.kill(worker)).cause == "killed"

    box.drive(act)


def test_a_cell_has_no_more_sandboxes_than_its_tenant_whatever_places_it_gives_back(box: Machine) -> None:
    """The front is told by the cell which of its sessions have ended; the launcher sees them."""

    async def act(host: LauncherClient) -> None:
        host.share_of = lambda _: TenantShare(sandboxes=2)
        async with cell(host, "acme") as (name, _, client), cell(host, "globex") as (other, _, neighbour):
            await host.allow(name, "test", "acme", [waiting("acme")])
            await host.allow(other, "test", "globex", [waiting("globex")])
            client.share_of = lambda _: TenantShare(sandboxes=9)  # its own word counts for nothing
            first = await up(client, waiting("acme"))
            await up(client, waiting("acme"))
            with pytest.raises(TenantFullError, match="acme has 2 sandboxes"):
                await client.launch(waiting("acme"))
            await up(neighbour, waiting("globex"))
            await client.kill(first)
            await up(client, waiting("acme"))

    box.drive(act)


def test_a_cell_reaches_no_sandbox_of_anothers(box: Machine) -> None:
    async def act(host: LauncherClient) -> None:
        hosts = await up(host, waiting("globex"))
        async with cell(host, "acme") as (_, _, hostile), cell(host, "globex") as (name, _, victim):
            await host.allow(name, "test", "globex", [waiting("globex")])
            theirs = await up(victim, waiting("globex"))
            for worker in (hosts, theirs, "w-0123456789ab"):
                for ask in (hostile.kill, hostile.attest, hostile.usage, hostile.account, hostile.current):
                    with pytest.raises(NotFoundError):
                        await ask(worker)
            assert (await host.usage(hosts)).memory_bytes > 0
            assert (await victim.usage(theirs)).memory_bytes > 0
            with pytest.raises(NotFoundError):
                await victim.kill(hosts)
        await host.kill(hosts)

    box.drive(act)


def _seal() -> requests.Request:
    return requests.SealRequest(7, "/tmp")


@pytest.mark.parametrize(
    "said",
    [
        b"no request",
        b"[" * 100_000,
        msgspec.json.encode(_seal()),
        msgspec.json.encode(requests.OpenRequest(7, "mine", "globex")),
        msgspec.json.encode(requests.AllowRequest(7, "victim", "test", ("sha256:00",))),
    ],
    ids=["no JSON", "deep", "a seal", "a channel", "an allowance"],
)
def test_what_breaks_a_cells_channel_ends_that_cell_alone(box: Machine, said: bytes) -> None:
    async def act(host: LauncherClient) -> None:
        hosts = await up(host, waiting("globex"))
        async with cell(host, "acme") as (name, end, hostile), cell(host, "globex") as (other, _, victim):
            await host.allow(name, "test", "acme", [waiting("acme")])
            await host.allow(other, "test", "globex", [waiting("globex")])
            own, theirs = await up(hostile, waiting("acme")), await up(victim, waiting("globex"))
            end.send(said)
            await asyncio.wait_for(hostile.lost.wait(), 30)
            with pytest.raises(HostUnavailableError):
                await hostile.exited(own)
            with pytest.raises(NotFoundError):
                await host.allow(name, "test", "acme", [])
            assert (await victim.usage(theirs)).memory_bytes > 0
        assert (await host.kill(hosts)).cause == "killed"

    box.drive(act)


def test_with_its_cell_all_goes_that_it_started_and_the_cgroup_is_given_back(box: Machine) -> None:
    async def act(host: LauncherClient) -> None:
        before = (await host.machine()).memory_bytes
        async with cell(host, "acme") as (name, _, client):
            await host.allow(name, "test", "acme", [waiting("acme", limits={"memory_bytes": before // 2})])
            await up_in_time(client, waiting("acme", limits={"memory_bytes": before // 2}))
            big = waiting("globex", limits={"memory_bytes": before // 4 * 3})
            with pytest.raises(BridgeholdError):
                await host.launch(big)
        await host.kill(await up_in_time(host, big))

    box.drive(act)


def test_a_cells_descriptors_are_nobodys(box: Machine) -> None:
    async def act(host: LauncherClient) -> None:
        async with cell(host, "acme") as (_, end, client):
            pipe, kept = os.pipe()
            for number in range(100):
                ask = msgspec.json.encode(requests.UsageRequest(10_000 + number, "w-0123456789ab"))
                socket.send_fds(end, [ask], [kept])
            await client.machine()  # whatever came before is done with
            os.close(kept)
            assert await asyncio.to_thread(os.read, pipe, 1) == b""
            os.close(pipe)

    box.drive(act)


def test_no_channel_without_a_tenant_a_new_name_and_a_socket_of_datagrams(box: Machine) -> None:
    async def act(host: LauncherClient) -> None:
        async with cell(host, "acme") as (name, _, _):
            for said, tenant, kind in (
                (name, "acme", socket.SOCK_SEQPACKET),
                ("new", "", socket.SOCK_SEQPACKET),
                ("new", "acme", socket.SOCK_STREAM),
            ):
                ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
                with ours, pytest.raises(BridgeholdError, match="a cell's channel"):
                    await host.open_cell(said, tenant, theirs)
            with pytest.raises(BridgeholdError, match="descriptor"):
                await host._ask(requests.OpenRequest(host._id(), "bare", "acme"))

    box.drive(act)
