"""`[review] required`: a policy counts as it was signed, and refuses once it is edited; all who would cheat."""

from __future__ import annotations

import base64
import functools
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bridgehold import BridgeholdError
from bridgehold.errors import DeniedError, PolicyError
from bridgehold.faces.cli import policy_sign
from bridgehold.host.startup import FileChange
from bridgehold.ids import digest_bytes
from bridgehold.keeper.approver import Approver
from bridgehold.policies.reviewed import Review, render
from bridgehold.policies.tables import format_time
from bridgehold.supervisor import files
from hostile.stage import KINDS_OF_HOSTS, Stage, stage
from waiting import until

pytestmark = pytest.mark.hostile
ONCE = files.Once(0)


@pytest.fixture(scope="module", params=KINDS_OF_HOSTS)
def host(request: pytest.FixtureRequest) -> Iterator[Stage]:
    cells = str(request.param != "root").lower()  # each tenant has one of its own at the ordinary user's host
    with stage(request.param, config="[review]\nrequired = true\n", host=f"cells = {cells}\n") as ready:
        yield ready
        assert "Traceback" not in ready.layout.config.parent.joinpath("host.log").read_text()


def sign(host: Stage, policy: str, *, lasts: int = 0, key: Any = None) -> dict[str, object]:
    """What `bridgehold policy approve` sends."""
    shown = host.client.request("policy.review", {"policy": policy})
    now = time.time()
    made = Review(
        digest=shown["digest"],
        by=shown["you"],
        at=format_time(now),
        expires=format_time(int(now) + lasts) if lasts else "",
    )
    signature = (key or Approver(host.layout.secrets)).sign(made.signed(policy))
    return {
        "policy": policy,
        "seen": shown["seen"],
        "at": made.at,
        "expires": made.expires,
        "signature": base64.b64encode(signature).decode(),
    }


def code(host: Stage, bridge: str, tenant: str = "local") -> tuple[str, str]:
    try:
        host.client.run(f"{bridge}:report", tenant=tenant)
    except BridgeholdError as error:
        return error.code, error.message
    return "", ""


def test_a_policy_counts_as_it_was_signed_and_refuses_once_it_is_edited(host: Stage) -> None:
    name = host.bridge()
    file = host.layout.policies / f"{name}.toml"
    assert code(host, name)[0] == "policy"
    assert "nobody has reviewed this policy, as `[review] required` demands" in code(host, name)[1]
    shown = host.client.request("policy.review", {"policy": name})
    assert (shown["state"], shown["required"]) == ("never", True)
    assert {one["key"] for change in shown["changes"] for one in change["gained"]} >= {"operations"}
    host.client.request("policy.approve", sign(host, name))
    with host.session(name) as session:
        assert session.run("report") == {}
        sound = file.read_text()
        file.write_text(sound + '[tools]\nallow = ["*"]\n')
        until(lambda: code(host, name)[0] == "policy", 10)
        assert "edited since" in code(host, name)[1]
        with pytest.raises(BridgeholdError, match="edited since"):
            session.run("report")
        shown = host.client.request("policy.review", {"policy": name})
        assert shown["state"] == "edited"
        assert [one["key"] for one in shown["changes"][0]["gained"]] == ["tools"]
        before = sign(host, name)
        file.write_text(sound + '[tools]\nallow = ["*", "more"]\n')
        with pytest.raises(BridgeholdError, match="not as it was seen"):
            host.client.request("policy.approve", before)
        host.client.request("policy.approve", sign(host, name))
        assert session.run("report") == {}
    event = [one for one in host.events("admin.intent") if one["action"] == "policy.approve"][-1]
    details = event["details"]
    assert isinstance(details, dict)
    assert (event["subject"], bool(event["principal"])) == (name, True)
    assert f"local/{name} tools *" in details["gained"]
    assert details["signature"]


def test_who_signs_works_out_what_is_signed_and_believes_no_host(
    host: Stage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A host that was taken over hides what an edit gains, and names the digest of another text."""
    name = host.bridge()
    file = host.layout.policies / f"{name}.toml"
    file.write_text(file.read_text() + '[tools]\nallow = ["hidden"]\n')
    lie: dict[str, object] = {}
    asked: list[str] = []

    def ask(method: str, params: dict[str, Any]) -> object:
        asked.append(method)
        said = host.client.request(method, params)
        return {**said, **lie} if method == "policy.review" else said

    monkeypatch.setattr(policy_sign, "ask", ask)
    monkeypatch.setattr(policy_sign, "default_layout", lambda: host.layout)
    lie = {"digest": digest_bytes(b"wider"), "changes": []}
    with pytest.raises(DeniedError, match="the digest of something else"):
        policy_sign.approve(name, yes=True)
    assert asked == ["policy.review"]
    lie = {"changes": []}
    policy_sign.approve(name, yes=True)
    shown, said = capsys.readouterr()
    assert "hidden" in shown
    assert "the host tells other changes" in said
    assert code(host, name) == ("", "")
    lie = {}
    policy_sign.approve(name, yes=True)
    assert "the host tells other changes" not in capsys.readouterr().err


def test_a_review_that_ends_or_is_forged_counts_for_nothing(host: Stage) -> None:
    name = host.bridge()
    with pytest.raises(BridgeholdError, match="not signed"):
        host.client.request("policy.approve", sign(host, name, key=Ed25519PrivateKey.generate()))

    def counted(seconds: int) -> bool:
        host.client.request("policy.approve", sign(host, name, lasts=seconds))
        return code(host, name)[0] == ""

    assert any(counted(seconds) for seconds in (4, 12))  # what a busy machine takes for one start
    until(lambda: "ended at" in code(host, name)[1], 30)
    host.client.request("policy.approve", sign(host, name))
    assert code(host, name)[0] == ""
    review = host.layout.policies / f"{name}.review.toml"
    sound = review.read_text()
    text = (host.layout.policies / f"{name}.toml").read_text() + "# more\n"
    forged = Review(digest="sha256:" + "0" * 64, by="boss", at=format_time(time.time()), text=text)
    review.write_text(render(forged))
    until(lambda: "soundly signed" in code(host, name)[1], 10)
    change = FileChange(kind="review", name=name, text=render(forged), was="")
    with pytest.raises(BridgeholdError):  # of a host that was taken over
        files.change(host.layout, msgspec.json.encode(change), ONCE)
    for other in (f"{name}x", "../config"):
        change = FileChange(kind="review", name=other, text=sound, was="")
        with pytest.raises((PolicyError, BridgeholdError)):
            files.change(host.layout, msgspec.json.encode(change), ONCE)
    review.write_text(sound)
    until(lambda: code(host, name)[0] == "", 10)


def test_a_reviewed_policy_that_is_gone_gives_way_to_no_wider_one(host: Stage) -> None:
    """Who may write the folder, and has no key, removes a tenant's own: no start and no reload takes another."""
    name = host.bridge()
    host.client.request("policy.approve", sign(host, name))
    own = host.layout.policies / f"{name}@local.toml"
    own.write_text(
        (host.layout.policies / f"{name}.toml").read_text().replace('allow = ["*"]', "allow = []", 1)
    )
    host.client.request("policy.approve", sign(host, f"{name}@local"))
    until(lambda: code(host, name)[0] == "denied", 10)
    own.unlink()
    until(lambda: code(host, name)[0] == "policy", 10)
    host.client.request("reload", {})
    found = code(host, name)
    assert (found[0], "is gone" in found[1]) == ("policy", True)
    own.with_name(f"{name}@local.review.toml").unlink()  # who has the key, or nobody, says so
    host.client.request("reload", {})
    assert code(host, name)[0] == ""


def test_what_comes_with_the_package_needs_no_review(host: Stage) -> None:
    with pytest.raises(BridgeholdError) as caught:
        host.client.request("policy.review", {"policy": "python"})
    assert caught.value.code == "not_found"


def limit(host: Stage, tenant: str, **limits: object) -> str:
    """What an operator is told who changes ceilings while the host runs; empty: it is done."""
    try:
        host.client.request("tenant.limit", {"name": tenant, "limits": limits})
    except BridgeholdError as error:
        return f"{error.code}: {error.message}"
    return ""


def is_told(host: Stage, bridge: str, wide: str) -> bool:
    """Whether acme is refused for what is `wide`; empty: not at all."""
    said = code(host, bridge, "acme")[1]
    return wide in said if wide else not said


def test_a_ceiling_is_lowered_by_anybody_and_raised_by_who_signs(host: Stage) -> None:
    name, file = host.bridge(), host.layout.tenants / "acme.toml"
    host.client.request("policy.approve", sign(host, name))
    host.client.request("tenant.create", {"name": "acme", "limits": {"sessions": 4}})
    assert code(host, name, "acme")[0] == ""  # it narrows what was signed, and daily work needs no signature
    assert limit(host, "acme", sessions=3) == ""
    for raised in ({"sessions": 4}, {"sessions": None}):  # nor does whoever holds the host raise it
        assert "a ceiling is raised by who signs: tenant.limits.sessions 3 →" in limit(host, "acme", **raised)
    shown = host.client.request("policy.review", {"policy": "@acme"})
    assert (shown["state"], shown["required"]) == ("never", True)

    said = file.read_text()
    file.write_text(f'[limits]\nmemory = "128MiB"\n{said}')  # rules by hand are looked at by somebody
    until(lambda: "nobody has reviewed the ceiling of acme" in code(host, name, "acme")[1], 10)
    assert code(host, name)[0] == ""
    host.client.request("policy.approve", sign(host, "@acme"))
    event = [one for one in host.events("admin.intent") if one["action"] == "policy.approve"][-1]
    details = event["details"]
    assert isinstance(details, dict)
    assert (event["subject"], "acme/* tenant.limits.sessions any → 3" in details["lost"]) == ("@acme", True)
    assert f"acme/{name} limits.memory 256 MiB → 128 MiB" in details["lost"], details

    with host.session(name, "acme") as session:
        signed = file.read_text()
        for memory, wide in (("96MiB", ""), ("129MiB", "limits.memory 128 MiB → 129 MiB"), ("128MiB", "")):
            file.write_text(signed.replace("128MiB", memory))
            until(functools.partial(is_told, host, name, wide), 10)
            try:
                session.run("report")
                said = ""
            except BridgeholdError as error:
                said = error.message
            assert bool(said) == bool(wide), said
            assert wide in said
            shown = host.client.request("policy.review", {"policy": "@acme"})
            expected = {"96MiB": "narrowed", "129MiB": "edited", "128MiB": "reviewed"}
            assert shown["state"] == expected[memory], shown
        for text in (
            signed.replace("sessions = 3", "sessions = 5"),
            signed.replace("[limits]\nmemory", "[rate]\n#"),
        ):
            file.write_text(text)
            until(lambda: "it allows more than was reviewed" in code(host, name, "acme")[1], 10)
            listed = host.client.request("tenant.list", {})
            if "sessions = 5" in text:
                (acme,) = (one for one in listed if one["name"] == "acme")
                assert (acme["state"], "tenant.limits.sessions 3 → 5" in acme["reason"]) == ("broken", True)
        file.write_text(signed)
        until(lambda: code(host, name, "acme")[0] == "", 10)
    assert limit(host, "acme", sessions=1) == limit(host, "acme", sessions=3) == ""  # up to what was signed
    assert "3 → 4" in limit(host, "acme", sessions=4)
    assert code(host, name, "acme")[0] == ""


def test_no_way_round_what_was_signed_of_a_ceiling(host: Stage) -> None:
    """Who may write the folder, and who has taken the host over; neither has the key."""
    name, file = host.bridge(), host.layout.tenants / "umbra.toml"
    host.client.request("policy.approve", sign(host, name))
    host.client.request("tenant.create", {"name": "umbra", "limits": {"sessions": 2}})
    host.client.request("policy.approve", sign(host, "@umbra"))
    review, said = file.with_name("umbra.review.toml"), file.read_text()
    sound = review.read_text()
    wide = said.replace("sessions = 2", "sessions = 9")
    forged = Review(digest="sha256:" + "0" * 64, by="boss", at=format_time(time.time()), text=wide)
    for text in (render(forged), sound.replace("sessions = 2", "sessions = 9"), "", "# nothing\n"):
        review.write_text(text)
        until(lambda: code(host, name, "umbra")[0] == "policy", 10)
        change = FileChange(kind="review", name="@umbra", text=text, was=digest_bytes(text.encode()))
        with pytest.raises(BridgeholdError):
            files.change(host.layout, msgspec.json.encode(change), ONCE)
    review.write_text(sound)
    until(lambda: code(host, name, "umbra")[0] == "", 10)
    for kind, of, text in (
        ("tenants", "umbra", wide),
        ("tenants", "umbra", said.replace("sessions = 2", "")),
        ("tenants", "umbra.review", sound),
        ("review", "@umbra/../x", sound),
        ("review", "@", sound),
        ("review", f"@{name}", sound),  # of another tenant
    ):
        was = digest_bytes(said.encode()) if of == "umbra" else ""
        with pytest.raises((PolicyError, BridgeholdError)):
            files.change(
                host.layout, msgspec.json.encode(FileChange(kind=kind, name=of, text=text, was=was)), ONCE
            )
    file.unlink()
    until(lambda: code(host, name, "umbra")[0] == "policy", 10)
    host.client.request("reload", {})
    assert "is gone" in code(host, name, "umbra")[1]
    file.write_text(wide)
    until(lambda: "tenant.limits.sessions 2 → 9" in code(host, name, "umbra")[1], 10)
    # what ends something needs no signature, whatever the file says
    assert host.client.request("tenant.suspend", {"name": "umbra"})["state"] == "suspended"
    until(lambda: code(host, name, "umbra")[0] in {"suspended", "policy"}, 10)
    assert host.client.request("tenant.revoke", {"name": "umbra"})["name"] == "umbra"
    host.client.request("tenant.remove", {"name": "umbra"})
