"""`[review] required`: a policy counts as it was signed, and refuses once it is edited; all who would cheat."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bridgehold import BridgeholdError
from bridgehold.errors import PolicyError
from bridgehold.host.startup import FileChange
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


def code(host: Stage, bridge: str) -> tuple[str, str]:
    try:
        host.client.run(f"{bridge}:report")
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


def test_a_review_that_ends_or_is_forged_counts_for_nothing(host: Stage) -> None:
    name = host.bridge()
    with pytest.raises(BridgeholdError, match="not signed"):
        host.client.request("policy.approve", sign(host, name, key=Ed25519PrivateKey.generate()))
    host.client.request("policy.approve", sign(host, name, lasts=4))
    assert code(host, name)[0] == ""
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
