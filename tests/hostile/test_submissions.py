"""A bridge that a tenant brings: from its archive to sessions of it, and whatever its author tries on the way."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridgehold import BridgeholdError, SyncClient
from hostile.stage import BRIDGE, KINDS_OF_HOSTS, MANIFEST, POLICY, Stage, stage
from waiting import until

pytestmark = pytest.mark.hostile


@pytest.fixture(scope="module", params=KINDS_OF_HOSTS)
def host(request: pytest.FixtureRequest) -> Iterator[Stage]:
    with stage(request.param) as ready:
        yield ready
        assert "Traceback" not in ready.layout.config.parent.joinpath("host.log").read_text()


def made(folder: Path, name: str, says: str, *, version: str = "1.0.0", more: str = "") -> Path:
    """A bridge's folder, whose report is `says`."""
    folder.mkdir(parents=True, exist_ok=True)
    manifest = MANIFEST.format(name=name).replace("1.0.0", version)
    (folder / "bridge.toml").write_text(manifest + more)
    (folder / "hostile.py").write_text(BRIDGE.format(at_import=f"result['says'] = {says!r}"))
    return folder


def policy(host: Stage, name: str, start: str = "cold", more: str = "") -> None:
    (host.layout.policies / f"{name}.toml").write_text(POLICY + more + f'[sandbox]\nstart = "{start}"\n')


def tenant(host: Stage, name: str, **limits: object) -> str:
    """A tenant with a token for all that it has."""
    host.client.request("tenant.create", {"name": name, "limits": limits})
    return str(host.client.request("token.create", {"name": name, "tenants": [name]})["token"])


@contextlib.contextmanager
def client(host: Stage, secret: str) -> Iterator[SyncClient]:
    with contextlib.closing(SyncClient.connect(host.layout.socket, token=secret, reconnect_s=0)) as found:
        yield found


def approve(host: Stage, submission: str) -> dict[str, object]:
    shown = host.client.request("bridge.submission", {"submission": submission})
    asked = {"submission": submission, "seen": shown["seen"]}
    done: dict[str, object] = host.client.request("bridge.approve", asked)
    return done


def code_of(act) -> str:  # type: ignore[no-untyped-def]
    try:
        act()
    except BridgeholdError as error:
        return error.code
    return ""


@pytest.mark.parametrize("start", ["cold", "fork"])
def test_from_archive_to_sessions_and_back(host: Stage, tmp_path: Path, start: str) -> None:
    name, whose = f"plans-{start}", f"acme-{start}"
    policy(host, name, start)
    secret = tenant(host, whose)
    with client(host, secret) as own:

        def says(session: str) -> object:
            return own.run(f"{name}:report", tenant=whose, session=session)["says"]  # type: ignore[call-overload]

        first = own.submit(made(tmp_path / "a", name, "first"), tenant=whose)
        assert (first.state, first.by) == ("waiting", f"token:{whose}")
        assert [one.status for one in first.tried] == ["PASS"] * 6
        assert code_of(lambda: says("old")) == "denied"
        assert own.files(tenant=whose) == []
        asked = {"submission": first.id, "seen": "x"}
        assert code_of(lambda: own.request("bridge.approve", asked)) == "denied"
        assert code_of(lambda: host.client.request("bridge.approve", asked)) == "usage"
        assert approve(host, first.id)["digest"] == first.digest
        assert says("old") == "first"
        second = own.submit(made(tmp_path / "a", name, "second", version="1.1.0"), tenant=whose)
        approve(host, second.id)
        assert says("new") == "second"
        assert says("old") == "first"
        host.client.request("bridge.rollback", {"bridge": name, "tenant": whose})
        assert (says("back"), says("new"), says("old")) == ("first", "second", "first")
        host.client.request("bridge.rollback", {"bridge": name, "tenant": whose})
        assert code_of(lambda: says("none")) == "denied"
