"""A bridge in a tenant's folder is that tenant's alone, whoever else asks, links to it or takes its name."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridgehold import BridgeholdError
from bridgehold.faces.cli.policy_check import check_layout
from hostile.stage import BRIDGE, KINDS_OF_HOSTS, MANIFEST, POLICY, Stage, stage
from waiting import until

pytestmark = pytest.mark.hostile


@pytest.fixture(scope="module", params=KINDS_OF_HOSTS)
def place(request: pytest.FixtureRequest) -> Iterator[Stage]:
    with stage(request.param) as ready:
        yield ready


def put(place: Stage, tenant: str, name: str, says: str, *, start: str = "cold") -> Path:
    """A bridge in the tenant's folder whose report is `says`."""
    folder = place.layout.own_bridges(tenant) / name
    folder.mkdir(parents=True)
    (folder / "bridge.toml").write_text(MANIFEST.format(name=name))
    (folder / "hostile.py").write_text(BRIDGE.format(at_import=f"result['says'] = {says!r}"))
    (place.layout.policies / f"{name}.toml").write_text(POLICY + f'[sandbox]\nstart = "{start}"\n')
    return folder


def report(place: Stage, bridge: str, tenant: str) -> object:
    """What the bridge says to the tenant, or (code, message) of the refusal."""
    try:
        return place.client.run(f"{bridge}:report", tenant=tenant)["says"]  # type: ignore[call-overload]  # a table
    except BridgeholdError as error:
        return (error.code, error.message.replace(bridge, "NAME"))


@contextlib.contextmanager
def gone_after(place: Stage) -> Iterator[None]:
    yield
    shutil.rmtree(place.layout.tenants / "acme", ignore_errors=True)
    shutil.rmtree(place.layout.tenants / "globex", ignore_errors=True)


@pytest.mark.parametrize("start", ["cold", "fork"])
def test_only_its_tenant_meets_it_and_two_may_have_the_same_name(place: Stage, start: str) -> None:
    name, other = f"mine-{start}", f"theirs-{start}"
    with gone_after(place):
        put(place, "acme", name, "acme's", start=start)
        put(place, "acme", other, "acme's other", start=start)
        put(place, "globex", name, "globex's", start=start)
        assert report(place, name, "acme") == "acme's"
        assert report(place, name, "globex") == "globex's"
        assert report(place, name, "acme") == "acme's"
        assert report(place, other, "acme") == "acme's other"
        nothing = report(place, "nothing-of-the-kind", "globex")
        assert nothing[0] == "denied"  # type: ignore[index]  # a refusal is a pair
        for tenant in ("globex", "local", "nobody"):
            assert report(place, other, tenant) == nothing, tenant
            for act in (
                lambda tenant=tenant: place.client.describe(other, tenant=tenant),
                lambda tenant=tenant: place.client.session(other, tenant=tenant).__enter__(),
                lambda tenant=tenant: place.client.request("bridge.build", {"bridge": other, "tenant": tenant}),
                lambda tenant=tenant: place.client.request("grant", {"bridge": other, "tenant": tenant}),
            ):  # fmt: skip
                with pytest.raises(BridgeholdError) as caught:
                    act()
                assert caught.value.code == "not_found"
                assert other not in caught.value.hint
        own = place.layout.policies / f"{name}@globex.toml"
        own.write_text(POLICY.replace('allow = ["*"]', "allow = []") + f'[sandbox]\nstart = "{start}"\n')
        assert report(place, name, "globex")[0] == "denied"  # type: ignore[index]  # a policy of its own
        assert report(place, name, "acme") == "acme's"
        own.unlink()  # nothing that grants more takes its place, until an operator says so
        assert report(place, name, "globex")[0] == "policy"  # type: ignore[index]
        assert report(place, name, "acme") == "acme's"
        place.client.request("reload")
        assert report(place, name, "globex") == "globex's"
        (place.layout.tenants / "globex.toml").write_text(f"[bridges.{other}.limits]\nmemory = '1MiB'\n")
        assert report(place, name, "globex")[0] == "policy"  # type: ignore[index]  # it would bound nobody
        (place.layout.tenants / "globex.toml").unlink()
        place.client.request("reload")  # it is gone on purpose
        listed = {(one["name"], one["tenant"]) for one in place.client.request("bridges")}
        assert {(name, "acme"), (name, "globex"), (other, "acme"), ("python", "")} <= listed


def test_no_link_leads_to_anothers_and_no_name_takes_that_of_all(place: Stage) -> None:
    with gone_after(place):
        target = put(place, "acme", "linked", "acme's")
        own = place.layout.own_bridges("globex")
        own.mkdir(parents=True)
        (own / "linked").symlink_to(target)
        put(place, "acme", "python", "not the shipped one")
        assert report(place, "linked", "globex")[0] == "manifest"  # type: ignore[index]  # a refusal is a pair
        assert report(place, "python", "acme")[0] == "manifest"  # type: ignore[index]  # as above
        value = place.client.run("python:execute", {"code": "6 * 7"}, tenant="globex")
        assert value["repr"] == "42"  # type: ignore[index,call-overload]  # a table
        faults = "\n".join(check_layout(place.layout)[1])
        assert f"{own / 'linked'}: is a link" in faults
        assert "every tenant has a bridge 'python'" in faults
        shutil.rmtree(own)
        own.symlink_to(place.layout.own_bridges("acme"))
        assert report(place, "linked", "globex")[0] == "denied"  # type: ignore[index]  # as above
        assert f"{own}: is a link" in "\n".join(check_layout(place.layout)[1])
        (place.layout.policies / "python.toml").unlink()
        place.client.request("reload")


def test_what_is_wrong_with_a_tenants_folder_is_wrong_for_this_tenant_alone(place: Stage) -> None:
    with gone_after(place):
        put(place, "globex", "sound", "globex's")
        folder = put(place, "acme", "broken", "acme's")
        (place.layout.tenants / "acme" / "policies").mkdir()
        assert "nothing reads this" in "\n".join(check_layout(place.layout)[1])
        for mend, act in (
            (lambda: folder.parent.chmod(0o755), lambda: folder.parent.chmod(0)),
            (lambda: folder.chmod(0o755), lambda: folder.chmod(0)),
            (
                lambda: (folder / "bridge.toml").write_text(MANIFEST.format(name="broken")),
                lambda: (folder / "bridge.toml").write_bytes(b"\xff"),
            ),
        ):
            if act.__code__.co_names[-1] == "chmod":
                _owned(place, folder)
            act()
            until(
                lambda: report(place, "broken", "acme") != "acme's"
            )  # files are looked at four times a second
            assert report(place, "sound", "globex") == "globex's"
            mend()
            assert report(place, "broken", "acme") == "acme's"


def _owned(place: Stage, folder: Path) -> None:
    """By whoever serves, so that its mode counts for it too."""
    owner = place.layout.config.stat().st_uid
    for path in (folder.parent, folder):
        os.chown(path, owner, owner)
