"""A refusal that becomes a rule: asked for, approved by another, signed, ended by itself; and all who would cheat."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bridgehold import BridgeholdError, SyncClient
from bridgehold.client.client import connect
from bridgehold.errors import DeniedError, PolicyError
from bridgehold.faces.cli.proposals import approve
from bridgehold.faces.review.confirm import Act
from bridgehold.host.proposal_store import MOST_RECORDS, ProposalStore
from bridgehold.host.proposals import rule_of
from bridgehold.host.startup import FileChange
from bridgehold.ids import digest_bytes
from bridgehold.keeper.approver import Approver
from bridgehold.keeper.signer import Signer
from bridgehold.policies.approved import Approved, render
from bridgehold.policies.tables import format_time
from bridgehold.protocol.proposals import Proposal, ShownProposal
from bridgehold.supervisor import files
from hostile.stage import KINDS_OF_HOSTS, POLICY, Stage, stage
from review.review_support import reading
from waiting import until

pytestmark = pytest.mark.hostile
ONCE = files.Once(0)
BOSS = "another-operators-own-token"
CONFIG = f"""
[principals.boss]
tokens = ["sha256:{hashlib.sha256(BOSS.encode()).hexdigest()}"]
tenants = ["*"]
operator = true
"""


@pytest.fixture(scope="module", params=KINDS_OF_HOSTS)
def host(request: pytest.FixtureRequest) -> Iterator[Stage]:
    cells = str(request.param != "root").lower()  # each tenant has one of its own at the ordinary user's host
    with stage(request.param, config=CONFIG, host=f"cells = {cells}\n") as ready:
        yield ready
        assert "Traceback" not in ready.layout.config.parent.joinpath("host.log").read_text()


def bridge(host: Stage, *, more: str = "", allow: str = "report") -> str:
    """A bridge whose policy allows one operation of two."""
    name = host.bridge()
    text = POLICY.replace('allow = ["*"]', f'allow = ["{name}:{allow}"]')
    (host.layout.policies / f"{name}.toml").write_text(text + more)
    return name


def tenant(host: Stage, name: str) -> str:
    with contextlib.suppress(BridgeholdError):
        host.client.request("tenant.create", {"name": name, "limits": {}})
    return str(
        host.client.request("token.create", {"name": f"{name}-{time.time_ns()}", "tenants": [name]})["token"]
    )


@contextlib.contextmanager
def client(host: Stage, secret: str) -> Iterator[SyncClient]:
    with contextlib.closing(SyncClient.connect(host.layout.socket, token=secret, reconnect_s=0)) as found:
        yield found


def refused(act: Callable[[], object]) -> BridgeholdError:
    with pytest.raises(BridgeholdError) as caught:
        act()
    return caught.value


def signed(
    host: Stage, asker: SyncClient, proposal: str, *, lasts: float = 0, key: Any = None
) -> dict[str, Any]:
    """What `asker` sends to approve it, signed as who owns the configuration would, or by another `key`."""
    shown = msgspec.convert(asker.request("proposal.show", {"proposal": proposal}), type=ShownProposal)
    now = time.time()
    rule = rule_of(shown, format_time(now), format_time(int(now) + (lasts or shown.seconds)))
    sign = key or Approver(host.layout.secrets)
    signature = base64.b64encode(sign.sign(rule.text(shown.bridge, shown.tenant))).decode()
    return {
        "proposal": proposal,
        "seen": shown.seen,
        "approved": rule.approved,
        "expires": rule.expires,
        "signature": signature,
    }


def test_a_refusal_becomes_a_rule_that_ends_by_itself_in_an_open_session(host: Stage) -> None:
    name = bridge(host)
    with client(host, tenant(host, "acme")) as own, own.session(name, tenant="acme") as session:
        assert session.run("report") == {}
        act = {"code": "result['x'] = 1"}
        error = refused(lambda: session.run("act", act))
        assert (error.code, bool(error.event)) == ("denied", True)
        made = own.request("proposal.make", {"event": error.event, "reason": "it is my work"})
        assert made["grants"] == {"operations.allow": [f"{name}:act"]}
        assert refused(lambda: session.run("act", act)).code == "denied", "asking opens nothing"
        assert (
            refused(lambda: own.request("proposal.approve", signed(host, own, made["id"]))).code == "denied"
        )
        assert refused(lambda: session.run("act", act)).code == "denied"
        done = host.client.request("proposal.approve", signed(host, host.client, made["id"], lasts=4))
        assert done["state"] == "approved"
        assert session.run("act", act) == {"x": 1}
        until(lambda: refused_code(lambda: session.run("act", act)) == "denied", 30)
        assert session.run("report") == {}, "the session goes on"
        assert own.request("proposal.show", {"proposal": made["id"]})["state"] == "expired"
    event = [one for one in host.events("admin.intent") if one["action"] == "proposal.approve"][-1]
    details = event["details"]
    assert isinstance(details, dict)
    assert event["principal"] != details["asked_by"]
    assert (details["proposal"], details["gained"]) == (made["id"], f"operations {name}:act")
    assert details["signature"]
    loaded = [one for one in host.events("policy.loaded") if one["bridge"] == name]
    assert [(one["gained"], one["lost"]) for one in loaded[-2:]] == [
        ([f"operations {name}:act"], []),
        ([], [f"operations {name}:act"]),
    ]


def refused_code(act: Callable[[], object]) -> str:
    try:
        act()
    except BridgeholdError as error:
        return error.code
    return ""


def test_who_asked_never_approves_and_nobody_sees_anothers(host: Stage) -> None:
    name = bridge(host)
    with (
        client(host, BOSS) as boss,
        client(host, tenant(host, "acme")) as own,
        client(host, tenant(host, "evil")) as evil,
    ):
        error = refused(lambda: own.run(f"{name}:act", {"code": ""}, tenant="acme"))
        others, none = (
            refused(lambda event=event: evil.request("proposal.make", {"event": event})).info()
            for event in (error.event, f"{error.event}9999")
        )
        assert (others.code, "9999" in none.message) == ("not_found", True)
        assert others.hint == none.hint, "another's event is in no word different from none"
        assert others.message == none.message.replace("9999", "")
        made = boss.request("proposal.make", {"event": error.event})
        assert made["by"] == "boss"
        fault = refused(lambda: boss.request("proposal.approve", signed(host, boss, made["id"])))
        assert (fault.code, "asked for" in fault.message) == ("denied", True)
        assert evil.request("proposal.list", {}) == []
        assert refused(lambda: evil.request("proposal.show", {"proposal": made["id"]})).code == "not_found"
        assert [one["id"] for one in own.request("proposal.list", {})][-1] == made["id"]
        for method in ("proposal.approve", "proposal.reject"):
            asked = signed(host, own, made["id"]) if method.endswith("approve") else {"proposal": made["id"]}
            assert refused(lambda method=method, asked=asked: own.request(method, asked)).code == "denied"
        host.client.request("proposal.reject", {"proposal": made["id"], "reason": "no"})
        again = refused(
            lambda: host.client.request("proposal.approve", signed(host, host.client, made["id"]))
        )
        assert again.code == "usage"


def test_an_approved_rule_can_be_ended(host: Stage) -> None:
    name = bridge(host)
    with client(host, tenant(host, "acme")) as own, own.session(name, tenant="acme") as session:
        act = {"code": ""}
        error = refused(lambda: session.run("act", act))
        made = own.request("proposal.make", {"event": error.event})
        host.client.request("proposal.approve", signed(host, host.client, made["id"]))
        assert session.run("act", act) == {}
        host.client.request("proposal.reject", {"proposal": made["id"]})
        assert refused(lambda: session.run("act", act)).code == "denied"


def test_what_is_not_soundly_signed_is_refused_by_the_host_the_supervisor_and_the_resolver(
    host: Stage,
) -> None:
    name = bridge(host)
    other = Ed25519PrivateKey.generate()
    file = host.layout.policies / f"{name}@acme.approved.toml"
    with client(host, tenant(host, "acme")) as own:
        act = lambda: own.run(f"{name}:act", {"code": ""}, tenant="acme")  # noqa: E731 - asked again and again
        error = refused(act)
        made = own.request("proposal.make", {"event": error.event})
        forged = signed(host, host.client, made["id"], key=other)
        assert refused(lambda: host.client.request("proposal.approve", forged)).code == "denied"
        longer = signed(host, host.client, made["id"], lasts=10**7)
        assert refused(lambda: host.client.request("proposal.approve", longer)).code == "usage"
        unseen = {**signed(host, host.client, made["id"]), "seen": "sha256:" + "0" * 64}
        assert refused(lambda: host.client.request("proposal.approve", unseen)).code == "usage"
        assert not file.exists()
        host.client.request("proposal.approve", signed(host, host.client, made["id"]))
        act()
        sound = file.read_text()
        # A host that was taken over asks the supervisor for more than was signed.
        for text in (sound.replace(":act", ":*"), sound.replace(f"{name}:act", f"{name}:delete")):
            change = FileChange(
                kind="approved", name=f"{name}@acme", text=text, was=digest_bytes(sound.encode())
            )
            with pytest.raises(PolicyError):
                files.change(host.layout, msgspec.json.encode(change), ONCE)
        moved = FileChange(kind="approved", name=f"{name}@evil", text=sound, was="")
        with pytest.raises(PolicyError, match="signature"):
            files.change(host.layout, msgspec.json.encode(moved), ONCE)
        for place in ("../config", f"{name}", f"{name}@acme/../x"):
            change = FileChange(kind="approved", name=place, text=sound, was="")
            with pytest.raises(BridgeholdError):
                files.change(host.layout, msgspec.json.encode(change), ONCE)
        file.write_text(sound.replace(f"{name}:act", f"{name}:report"))  # by hand
        until(lambda: refused_code(act) == "policy", 10)
        file.write_text(sound)
        until(lambda: refused_code(act) == "", 10)
        file.unlink()
        until(lambda: refused_code(act) == "policy", 10)  # that it is gone on purpose an operator says
        host.client.request("reload", {})
        assert refused(act).code == "denied"


def test_the_keeper_signs_no_approval_for_anybody(host: Stage) -> None:
    signer = Approver(host.layout.secrets)
    with pytest.raises(DeniedError):
        signer.sign(b"bridgehold-audit-anchor-v1\nx")
    with pytest.raises(DeniedError):
        Signer(host.layout.secrets).sign(b"bridgehold-approval-v1\n{}")


def test_a_ceiling_and_a_deny_bind_whoever_asks(host: Stage) -> None:
    name = bridge(host)
    denied = bridge(host)
    text = (host.layout.policies / f"{denied}.toml").read_text()
    (host.layout.policies / f"{denied}.toml").write_text(
        text.replace("[rate]", f'deny = ["{denied}:act"]\n[rate]')
    )
    with client(host, tenant(host, "bound")) as own:
        bound = host.layout.tenants / "bound.toml"
        bound.write_text(bound.read_text() + f'[operations]\nallow = ["{name}:report", "{denied}:*"]\n')
        for which in (name, denied):
            error = refused(lambda which=which: own.run(f"{which}:act", {"code": ""}, tenant="bound"))
            fault = refused(lambda error=error: own.request("proposal.make", {"event": error.event}))
            assert fault.code == "denied", fault.message
            assert ("denied by" in fault.message) == (which == denied)


def test_what_was_ended_comes_back_by_no_host(host: Stage) -> None:
    """A host that was taken over hands the supervisor a rule that was soundly signed once, and rejected since."""
    name = bridge(host)
    shown = ShownProposal(
        id="p-000000000001", tenant="acme", bridge=name, event="i-000000000000.1", what=f"operation {name}:act",
        refused="x", grants={"operations.allow": (f"{name}:act",)}, gained=(), risk=(), weakenings=(), seconds=99,
        by="acme", at="", until="", seen="sha256:0", you="boss",
    )  # fmt: skip
    begin = time.time() - 3600
    sign = Approver(host.layout.secrets).sign
    rule = rule_of(shown, format_time(begin), format_time(begin + 10**6))
    rule = msgspec.structs.replace(rule, signature=base64.b64encode(sign(rule.text(name, "acme"))).decode())
    file = host.layout.policies / f"{name}@acme.approved.toml"
    change = FileChange(kind="approved", name=f"{name}@acme", text=render([rule]), was="")
    with pytest.raises(PolicyError, match="not new"):
        files.change(host.layout, msgspec.json.encode(change), ONCE)
    assert not file.exists()
    file.write_text(render([rule]))  # by who owns the configuration: it stays, when another one joins it
    new = msgspec.structs.replace(rule, id="p-000000000002", approved=format_time(time.time()), signature="")
    new = msgspec.structs.replace(new, signature=base64.b64encode(sign(new.text(name, "acme"))).decode())
    was = digest_bytes(render([rule]).encode())
    change = FileChange(kind="approved", name=f"{name}@acme", text=render([rule, new]), was=was)
    if host.kind == "root":  # who writes is who owns the folder
        files.change(host.layout, msgspec.json.encode(change), ONCE)
        assert file.read_text() == render([rule, new])


def test_a_rule_that_was_just_approved_and_ended_stays_ended(host: Stage) -> None:
    """Within the minutes in which its signature is new: handed in again, or put there by hand."""
    name = bridge(host)
    with client(host, tenant(host, "acme")) as own, own.session(name, tenant="acme") as session:
        act = {"code": ""}
        error = refused(lambda: session.run("act", act))
        made = own.request("proposal.make", {"event": error.event})
        host.client.request("proposal.approve", signed(host, host.client, made["id"]))
        assert session.run("act", act) == {}
        file = host.layout.policies / f"{name}@acme.approved.toml"
        granted = file.read_text()
        host.client.request("proposal.reject", {"proposal": made["id"]})
        ended = file.read_text()
        assert made["id"] in ended
        table = ended[ended.index("[ended]") :]
        soon = re.sub(r'(?<= = )"[^"]+"', f'"{format_time(time.time() + 2)}"', table)
        assert soon != table
        for text in (granted, render([]), f"# Soon it might come back.\n{soon}"):
            change = FileChange(
                kind="approved", name=f"{name}@acme", text=text, was=digest_bytes(ended.encode())
            )
            with pytest.raises(PolicyError, match=r"left out of \[ended\]"):
                files.change(host.layout, msgspec.json.encode(change), ONCE)
        assert file.read_text() == ended
        with file.open("w") as kept:  # whose file it is
            kept.write(f"{granted}\n{table}")
        assert refused(lambda: session.run("act", act)).code == "denied"


def test_no_file_of_rules_grows_beyond_what_can_be_ended(host: Stage) -> None:
    name = bridge(host)
    sign = Approver(host.layout.secrets).sign
    rules = []
    for number in range(40):
        rule = Approved(
            id=f"p-{number:012d}", event="e", asked_by="acme", approved_by="boss", approved=format_time(time.time()),
            expires=format_time(time.time() + 999), seen="x",
            grants={"network.endpoints.openai.paths": (f"/{number}{'x' * 1_800}",)},
        )  # fmt: skip
        signature = base64.b64encode(sign(rule.text(name, "acme"))).decode()
        rules.append(msgspec.structs.replace(rule, signature=signature))
    change = FileChange(kind="approved", name=f"{name}@acme", text=render(rules), was="")
    with pytest.raises(PolicyError, match="65536 bytes"):
        files.change(host.layout, msgspec.json.encode(change), ONCE)
    assert not (host.layout.policies / f"{name}@acme.approved.toml").exists()


def test_a_rule_is_ended_whatever_its_record_says(host: Stage) -> None:
    """Where the disk took the file of rules and not the record, the record says that it waits."""
    name = bridge(host)
    with client(host, tenant(host, "acme")) as own, own.session(name, tenant="acme") as session:
        act = {"code": ""}
        error = refused(lambda: session.run("act", act))
        made = own.request("proposal.make", {"event": error.event})
        (record,) = host.layout.proposals.glob(f"acme/{made['id']}.json")
        before = record.read_bytes()
        host.client.request("proposal.approve", signed(host, host.client, made["id"]))
        assert session.run("act", act) == {}
        record.write_bytes(before)
        assert own.request("proposal.show", {"proposal": made["id"]})["state"] == "waiting"
        host.client.request("proposal.reject", {"proposal": made["id"]})
        assert refused(lambda: session.run("act", act)).code == "denied"


def test_who_is_created_anew_under_a_name_has_nothing_of_who_had_it_before(host: Stage) -> None:
    """No rule, no proposal, no story, no session's last words: what an operator was told of stays, and no more."""
    name, act = bridge(host), {"code": "result['x'] = 1"}
    before = tenant(host, "heir")
    with client(host, before) as own:
        events = list[str]()
        for code in ("1", "2"):
            error = refused(lambda code=code: own.run(f"{name}:act", {"code": code}, tenant="heir"))
            events.append(error.event)
        held, waiting = (own.request("proposal.make", {"event": event})["id"] for event in events)
        host.client.request("proposal.approve", signed(host, host.client, held))
        with own.session(name, name="mine", tenant="heir") as session:
            assert session.run("act", {"code": "print('of the one before')\nresult['x'] = 1"}) == {"x": 1}
            assert "of the one before" in own.logs(session.id)
        assert len(own.request("proposal.list", {})) == 2
        told = own.request("audit.query", {"question": "kind = session.opened"})["events"]
        assert [one["session"] for one in told] == [session.id]
    host.client.request("tenant.revoke", {"name": "heir"})
    host.client.request("tenant.remove", {"name": "heir"})
    with client(host, tenant(host, "heir")) as own:
        assert refused(lambda: own.run(f"{name}:act", act, tenant="heir")).code == "denied"
        assert own.request("proposal.list", {}) == []
        for one in (held, waiting):
            assert (
                refused(lambda one=one: own.request("proposal.show", {"proposal": one})).code == "not_found"
            )
        assert refused(lambda: own.request("proposal.make", {"event": events[0]})).code == "not_found"
        for one in (session.id, "mine"):
            assert refused(lambda one=one: own.logs(one)).code == "not_found"
        with own.session(name, name="mine", tenant="heir") as fresh:
            assert fresh.run("report") == {}
        for question in ("", "kind = session", "framework = " + name, '"of the one before"'):
            known = own.request("audit.query", {"question": question})["events"]
            assert {one["session"] for one in known} <= {fresh.id, ""}, question
        assert any(one["session"] == fresh.id for one in own.request("audit.query", {})["events"])
        before_it = {"before": told[0]["ref"]}
        assert refused(lambda: own.request("audit.query", before_it)).code == "not_found"
    whole = host.client.request("audit.query", {"question": "kind = session.opened and tenant = heir"})
    assert [one["session"] for one in whole["events"]] == [session.id, fresh.id], "an operator has all of it"


def test_a_host_that_was_taken_over_has_no_other_rule_signed_than_was_looked_at(
    host: Stage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The digest of what was looked at is worked out by who signs, on the page and at the command line."""
    monkeypatch.setenv("BRIDGEHOLD_HOME", str(host.layout.config.parent))
    name, asked, told = bridge(host), list[str](), list[str]()
    with client(host, tenant(host, "acme")) as own:
        error = refused(lambda: own.run(f"{name}:act", {"code": ""}, tenant="acme"))
        one = str(own.request("proposal.make", {"event": error.event})["id"])
    lies: dict[str, Any] = {}

    async def ask(method: str, params: dict[str, Any]) -> Any:
        asked.append(method)
        async with connect(host.layout.socket) as known:
            return {**await known.request(method, params), **lies}

    def tell(_shown: ShownProposal, _act: object, code: str) -> None:
        told.append(code)

    async def act() -> None:
        async with reading(host.layout.audit, tmp_path, ask=ask, tell=tell) as reader:
            ours = {"Origin": reader.base}

            async def post(path: str, **form: str) -> int:
                url = f"{reader.base}/proposal/{one}/{path}"
                async with reader.session.post(url, data=form, headers=ours, allow_redirects=False) as answer:
                    return answer.status

            page = (await reader.get(f"/proposal/{one}"))[1]
            seen = re.findall(r'name="seen" value="([^"]+)"', page)[0]
            for lie in (
                {"grants": {"operations.allow": [f"{name}:act", f"{name}:report"]}},
                {"tenant": "local"}, {"seconds": 7_000_000}, {"bridge": "python"}, {"by": "nobody"},
            ):  # fmt: skip
                lies.clear()
                assert await post("ask", decision="approve", seen=seen) == 303
                lies.update(lie)
                assert await post("confirm", code=told[-1]) == 403, lie
            lies.update({"seen": ""})  # what has no digest was seen by nobody
            assert await post("ask", decision="approve", seen="waiting") == 303
            assert await post("confirm", code=told[-1]) == 400

    monkeypatch.setattr("bridgehold.faces.review.confirm.MOST_ASKED", 9)
    asyncio.run(act())
    assert "proposal.approve" not in asked
    lies = {"grants": {"operations.allow": [f"{name}:report"]}}
    monkeypatch.setattr("bridgehold.faces.cli.proposals.ask", lambda *given: asyncio.run(ask(*given)))
    shown = host.client.request("proposal.show", {"proposal": one})
    for seen in ("", shown["seen"]):
        assert refused(lambda seen=seen: approve(one, seen=seen, yes=True)).code == "denied"
    assert "proposal.approve" not in asked
    assert host.client.request("proposal.show", {"proposal": one})["state"] == "waiting"


def test_a_tenant_that_asks_and_asks_has_no_rule_forgotten_that_holds(tmp_path: Path) -> None:
    store = ProposalStore(tmp_path)
    one = Proposal(
        id="p-000000000000", tenant="acme", bridge="demo", event="e", what="operation demo:act", refused="x",
        grants={}, gained=(), risk=(), weakenings=(), seconds=60, by="acme",
        at="2026-01-01T00:00:00Z", until="2999-01-01T00:00:00Z", expires="2999-01-01T00:00:00Z", state="approved",
    )  # fmt: skip
    store.write(one)
    for number in range(1, MOST_RECORDS + 20):
        asked = msgspec.structs.replace(
            one, id=f"p-{number:012d}", at="2026-02-01T00:00:00Z", state="rejected", expires=""
        )
        store.add(asked)
    assert len(store.of("acme")) == MOST_RECORDS
    assert store.find(one.id).state == "approved"


def test_on_the_page_only_the_terminals_code_decides_and_only_what_was_seen(
    host: Stage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Forged requests, replayed codes, another proposal's code, guesses, and what changes in between."""
    monkeypatch.setenv("BRIDGEHOLD_HOME", str(host.layout.config.parent))
    name, told = bridge(host), list[tuple[str, str, str]]()
    with client(host, tenant(host, "acme")) as own:

        def made() -> str:
            error = refused(lambda: own.run(f"{name}:act", {"code": ""}, tenant="acme"))
            return str(own.request("proposal.make", {"event": error.event})["id"])

        async def ask(method: str, params: dict[str, Any]) -> Any:
            async with connect(host.layout.socket) as asked:
                return await asked.request(method, params)

        def tell(shown: ShownProposal, act: Act, code: str) -> None:
            told.append((shown.id, f"{act.decision} {act.reason}".strip(), code))

        def state(proposal: str) -> str:
            return str(own.request("proposal.show", {"proposal": proposal})["state"])

        async def act() -> None:
            one, other = made(), made()
            async with reading(host.layout.audit, tmp_path, ask=ask, tell=tell) as reader:
                ours = {"Origin": reader.base}

                async def post(path: str, headers: dict[str, str] = ours, **form: str) -> int:
                    url = f"{reader.base}/proposal/{path}"
                    async with reader.session.post(
                        url, data=form, headers=headers, allow_redirects=False
                    ) as answer:
                        return answer.status

                async def seen(proposal: str) -> str:
                    page = (await reader.get(f"/proposal/{proposal}"))[1]
                    return re.findall(r'name="seen" value="([^"]+)"', page)[0]

                listed = (await reader.get("/proposals"))[1]
                assert f"/proposal/{one}" in listed
                page = (await reader.get(f"/proposal/{one}"))[1]
                assert f"{name}:act" in page
                digest = await seen(one)
                for forged in (
                    {}, {"Origin": "http://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "none"},
                    {**ours, "Sec-Fetch-Site": "cross-site"}, {**ours, "Sec-Fetch-Site": "same-site"},
                    {"Origin": "null", "Sec-Fetch-Site": "cross-site"},
                ):  # fmt: skip
                    assert await post(f"{one}/ask", forged, decision="approve", seen=digest) == 403, forged
                    assert await post(f"{one}/confirm", forged, code="aaaa-aaaa") == 403, forged
                assert await post(f"{one}/ask", {**ours, "Host": "evil.example"}, seen=digest) == 421
                assert await post(f"{one}/ask", decision="approve", seen="sha256:" + "0" * 64) == 400
                assert await post(f"{one}/ask", decision="reject", seen=digest, reason="x" * 400) == 400
                assert told == []
                assert await post(f"{one}/ask", decision="approve", seen=digest) == 303
                ((proposal, decision, code),) = told
                assert (proposal, decision) == (one, "approve")
                assert code not in (await reader.get(f"/proposal/{one}"))[1], "the terminal alone shows it"
                assert await post(f"{other}/confirm", code=code) == 403, "it is of another one"
                for wrong in ("", "aaaa-aaaa"):
                    assert await post(f"{one}/confirm", code=wrong) == 403
                assert state(one) == "waiting"
                assert await post(f"{one}/confirm", code=f" {code.upper()} ") == 303
                assert state(one) == "approved"
                assert own.run(f"{name}:act", {"code": "result['x'] = 1"}, tenant="acme") == {"x": 1}
                assert await post(f"{one}/confirm", code=code) == 403, "once"
                same_site = {"Origin": "null", "Sec-Fetch-Site": "same-origin"}  # as a form's browser says
                asked = {"decision": "reject", "seen": await seen(one), "reason": "it was a trial"}
                assert await post(f"{one}/ask", same_site, **asked) == 303
                policy = host.layout.policies / f"{name}.toml"
                assert told[-1][1] == "reject it was a trial", (
                    "the words that are written down are shown, too"
                )
                assert await post(f"{one}/confirm", code=told[-1][2]) == 303
                assert state(one) == "rejected"
                assert refused(lambda: own.run(f"{name}:act", {"code": ""}, tenant="acme")).code == "denied"
                asked = {"decision": "approve", "seen": await seen(other)}
                assert await post(f"{other}/ask", **asked) == 303
                policy.write_text(policy.read_text() + "# something else holds now\n[rate]\nper_minute = 7\n")
                assert await post(f"{other}/confirm", code=told[-1][2]) == 400, "not what was seen"
                assert state(other) == "waiting"

        asyncio.run(act())
    events = [
        one for one in host.events("admin.intent") if one["action"] in ("proposal.approve", "proposal.reject")
    ]
    assert [one["action"] for one in events[-2:]] == ["proposal.approve", "proposal.reject"]
