"""Downloads from a hub: what is granted comes in, proven and once; what isn't, or lies, does not."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hub_support import PLACEHOLDER, REPO, HubStand, hub_grant, on_hub

from bridgehold.audit.events import ArtifactChanged, ArtifactRead, EgressIntent, EgressOutcome, EgressRefused
from bridgehold.bridges.kit.hub import HubBehaviour
from bridgehold.config.providers import ProviderEntry
from bridgehold.errors import DeniedError, ProviderError
from bridgehold.host.cell.gateway import hub as hub_proxy
from bridgehold.host.cell.gateway.exchange import never_sent
from bridgehold.host.cell.store.downloads import read_listing
from bridgehold.keeper.follow import Hop, next_hop
from bridgehold.keeper.protocol import UNREACHED, UpstreamRequest
from bridgehold.keeper.values import KeeperConfig, StoreConfig, check_config
from waiting import eventually


def test_a_model_comes_in_once_and_the_audit_says_what(tmp_path: Path) -> None:
    async def test(stand: HubStand) -> None:
        described = await stand.get(f"/api/models/{REPO}/revision/main")
        assert described.json["sha"] == stand.hub.commit(REPO)
        assert [one["rfilename"] for one in described.json["siblings"]] == [
            "config.json",
            "model.safetensors",
        ]
        first = await stand.file("model.safetensors")
        assert (first.status, first.body) == (200, stand.bytes_of("model.safetensors"))
        assert first.headers["etag"] == f'"{stand.digest("model.safetensors")}"'
        assert (await stand.file("config.json")).json == {"model_type": "gpt2", "n_embd": 4}
        asked = len(stand.hub.log)
        stand.hub.behave(HubBehaviour(status=503))  # from here on there is no hub
        again = await stand.file("model.safetensors")
        head = await stand.file("model.safetensors", method="HEAD")
        part = await stand.file("model.safetensors", headers={"Range": "bytes=8-15"})
        assert again.body == first.body
        assert (head.body, head.headers["content-length"]) == (b"", str(len(first.body)))
        assert (part.status, part.body) == (206, first.body[8:16])
        assert part.headers["content-range"] == f"bytes 8-15/{len(first.body)}"
        assert len(stand.hub.log) == asked
        assert set(stand.kept) == {stand.digest("model.safetensors"), stand.digest("config.json")}
        intents, outcomes = stand.audit.of(EgressIntent), stand.audit.of(EgressOutcome)
        commit = stand.hub.commit(REPO)
        assert [event.path for event in intents] == [
            f"/api/models/{REPO}/revision/main",
            f"/{REPO}/resolve/{commit}/model.safetensors",
            f"/{REPO}/resolve/{commit}/config.json",
        ]
        assert all(event.rule == "network.endpoints.hub.repos[0]" for event in intents)
        assert [(event.status, event.code) for event in outcomes] == [(200, "")] * 3
        assert outcomes[1].digest == f"sha256:{stand.digest('model.safetensors')}"
        assert (outcomes[1].response_bytes, outcomes[1].followed) == (len(first.body), "127.0.0.1")
        assert outcomes[2].followed == ""
        kept = stand.audit.of(ArtifactChanged)
        assert [event.name for event in kept] == [
            f"hub:{REPO}@{commit[:12]}/{name}" for name in ("model.safetensors", "config.json")
        ]
        reads = [(event.offset, event.length) for event in stand.audit.of(ArtifactRead)]
        listed = (0, len(described.body))
        assert reads == [listed, (0, len(first.body)), (0, 35), (0, len(first.body)), (8, 8)]

    on_hub(tmp_path, test)


def test_the_token_goes_to_the_hub_and_nowhere_else(tmp_path: Path) -> None:
    async def test(stand: HubStand) -> None:
        stand.hub.behave(HubBehaviour(relative=True))
        assert (await stand.file("model.safetensors")).status == 200
        assert (await stand.file("config.json")).status == 200
        by_host = {
            entry.at: {one.key for one in stand.hub.log if one.at == entry.at} for entry in stand.hub.log
        }
        assert by_host == {"hub": {"right"}, "files": {"none"}}
        named = {name for one in stand.hub.log if one.at == "files" for name in one.headers}
        assert named == {"host", "accept", "accept-encoding"}

    on_hub(tmp_path, test)


def test_a_public_hub_is_asked_without_a_key(tmp_path: Path) -> None:
    async def test(stand: HubStand) -> None:
        assert (await stand.file("model.safetensors")).status == 200
        assert {one.key for one in stand.hub.log} == {"none"}
        assert {event.how for event in stand.audit.of(EgressIntent)} == {"none"}

    on_hub(tmp_path, test, hub_grant(secret=False), needs_token=False, auth="none")


ASKED: dict[str, tuple[str, str, int, str]] = {
    "another repo": ("GET", "/acme/other/resolve/main/config.json", 403, "default-deny"),
    "another tenant's repo": ("GET", "/umbra/secret/resolve/main/config.json", 403, "default-deny"),
    "what another repo has": ("GET", "/api/models/acme/other/revision/main", 403, "default-deny"),
    "a pickle": ("GET", "/acme/tiny/resolve/main/pytorch_model.bin", 403, "hub.kind"),
    "code": ("GET", "/acme/tiny/resolve/main/modeling_tiny.py", 403, "hub.kind"),
    "a hidden file": ("GET", "/acme/tiny/resolve/main/.gitattributes.json", 403, "hub.kind"),
    "a file below": ("GET", "/acme/tiny/resolve/main/deep/config.json", 403, "default-deny"),
    "climbing": ("GET", "/acme/tiny/resolve/main/../../../api/tokens.json", 403, "names.path"),
    "climbing, encoded": ("GET", "/acme/tiny/resolve/main/..%2f..%2fapi%2ftokens.json", 403, "names.path"),
    "climbing, encoded twice": ("GET", "/acme/tiny/resolve/main/%252e%252e/tokens.json", 403, "names.path"),
    "climbing by backslash": ("GET", "/acme/tiny/resolve/main/..%5c..%5ctokens.json", 403, "names.path"),
    "a revision that climbs": ("GET", "/acme/tiny/resolve/..%2f..%2fapi/tokens.json", 403, "names.path"),
    "whose token it is": ("GET", "/api/whoami-v2", 403, "hub.path"),
    "tokens": ("GET", "/api/settings/tokens", 403, "hub.path"),
    "a data set": ("GET", "/datasets/acme/resolve/main/config.json", 403, "hub.path"),
    "raw": ("GET", "/acme/tiny/raw/main/config.json", 403, "hub.path"),
    "a query": ("GET", "/acme/tiny/resolve/main/config.json?download=true", 403, "gateway.query"),
    "a query with a token": (
        "GET",
        "/acme/tiny/resolve/main/config.json?token=hf_x",
        403,
        "placeholder.mixed",
    ),
    "to write": ("POST", "/api/models/acme/tiny/revision/main", 403, "hub.method"),
    "to commit": ("POST", "/api/models/acme/tiny/commit/main", 403, "hub.method"),
    "to delete": ("DELETE", "/api/repos/delete", 403, "hub.method"),
    "to put": ("PUT", "/acme/tiny/resolve/main/config.json", 403, "hub.method"),
}


def test_what_is_not_granted_is_refused_before_the_hub_hears_of_it(tmp_path: Path) -> None:
    async def test(stand: HubStand) -> None:
        for what, (method, path, status, rule) in ASKED.items():
            reply = await stand.get(path, method=method)
            assert (reply.status, reply.headers["x-bridgehold-rule"]) == (status, rule), what
            assert "Bridgehold refused this request" in reply.json["error"], what
        keys = {
            "placeholder.missing": None,
            "placeholder.own-key": "hf_mine",
            "placeholder.session": "sk-bh-old",
        }
        for rule, key in keys.items():
            reply = await stand.file("config.json", key=key)
            assert reply.headers["x-bridgehold-rule"] == rule
        assert len(stand.audit.of(EgressRefused)) == len(ASKED) + len(keys)
        assert list(stand.hub.log) == []
        assert stand.audit.of(EgressIntent) == []
        for path in ("/acme/other/resolve/main/config.json", "/acme/tiny/resolve/main/pytorch_model.bin"):
            head = await stand.get(path, method="HEAD")
            assert (head.status, head.body) == (403, b"")
            assert int(head.headers["content-length"]) > 0
        missing = await stand.file("nothing.json")
        assert (missing.status, missing.headers["x-bridgehold-rule"]) == (404, "hub.entry")

    on_hub(tmp_path, test)


def test_a_host_that_was_taken_over_reads_no_accounts(tmp_path: Path) -> None:
    async def test(stand: HubStand) -> None:
        asked = {"tenant": "acme", "session": "s-x", "provider": "hub", "method": "GET"}
        for changes in (
            {"path": "/api/whoami-v2"},
            {"path": "/api/settings/tokens"},
            {"path": f"/{REPO}/raw/main/config.json"},
            {"path": f"/{REPO}/resolve/main/config.json", "method": "POST"},
            {"path": f"/{REPO}/resolve/main/config.json", "method": "HEAD"},
        ):
            with pytest.raises(DeniedError):
                await stand.keeper.request(UpstreamRequest(**{**asked, **changes}), b"")
        assert list(stand.hub.log) == []

    on_hub(tmp_path, test)


LIES: dict[str, tuple[HubBehaviour, str, str]] = {
    "other weights": (HubBehaviour(body="changed"), "model.safetensors", "hub.digest"),
    "another configuration": (HubBehaviour(body="changed"), "config.json", "hub.digest"),
    "a byte less": (HubBehaviour(body="short"), "model.safetensors", "hub.size"),
    "a byte more": (HubBehaviour(body="long"), "model.safetensors", "hub.size"),
    "a body without an end": (HubBehaviour(body="endless"), "model.safetensors", "hub.size"),
    "half a body": (HubBehaviour(body="cut"), "model.safetensors", "keeper.provider"),
    "another commit": (HubBehaviour(commit="0" * 40), "config.json", "hub.commit"),
}


def test_a_hub_that_lies_gets_nothing_in(tmp_path: Path) -> None:
    async def test(stand: HubStand) -> None:
        assert (await stand.get(f"/api/models/{REPO}/revision/main")).status == 200
        for what, (behaviour, file, rule) in LIES.items():
            stand.hub.behave(behaviour)
            reply = await stand.file(file)
            assert (reply.status, reply.headers["x-bridgehold-rule"]) == (502, rule), what
            assert stand.audit.of(EgressOutcome)[-1].code == rule, what
            assert stand.kept == {}, what
        severities = {event.rule: event.severity for event in stand.audit.of(EgressRefused)}
        assert (severities["hub.digest"], severities["hub.size"]) == ("high", "normal")
        stand.hub.behave(HubBehaviour())
        assert (await stand.file("model.safetensors")).status == 200

    on_hub(tmp_path, test)


PLACES = {
    "metadata": "http://169.254.169.254/latest/meta-data/",
    "loopback": "http://127.0.0.1:1/secrets",
    "loopback in decimal": "http://2130706433:1/",
    "loopback, mapped": "http://[::ffff:127.0.0.1]:1/",
    "another host": "https://evil.example/model.safetensors",
    "a file": "file:///etc/shadow",
    "a user": "http://user@127.0.0.1:{files}/acme/tiny/model.safetensors",
}


def test_a_redirect_leads_only_where_the_operator_said(tmp_path: Path) -> None:
    async def test(stand: HubStand) -> None:
        for what, place in PLACES.items():
            stand.hub.behave(HubBehaviour(redirect_to=place.format(files=stand.hub.files_port)))
            reply = await stand.file("model.safetensors")
            assert (reply.status, reply.headers["x-bridgehold-rule"]) == (403, "keeper.redirect"), what
            assert stand.audit.of(EgressRefused)[-1].severity == "high", what
        loop = f"{stand.hub.base_url}/{REPO}/resolve/main/model.safetensors"
        stand.hub.behave(HubBehaviour(redirect_to=loop))
        reply = await stand.file("model.safetensors")
        assert "redirects more than 3 times" in reply.json["error"]
        assert stand.kept == {}
        assert all(one.at == "hub" for one in stand.hub.log)

    on_hub(tmp_path, test)


def test_an_error_after_the_hub_has_seen_the_key_never_says_that_nothing_was_sent(tmp_path: Path) -> None:
    gone = {
        "no answer in time": HubBehaviour(latency_ms=60_000),
        "files where nobody listens": HubBehaviour(redirect_to="http://127.0.0.1:1/x"),
        "files elsewhere": HubBehaviour(redirect_to="https://evil.example/x"),
    }

    async def test(stand: HubStand) -> None:
        for what, behaviour in gone.items():
            stand.hub.behave(behaviour)
            asked = len(stand.hub.log)
            request = UpstreamRequest(
                tenant="acme",
                session="s",
                provider="hub",
                method="GET",
                path=f"/{REPO}/resolve/main/config.json",
                secret="hub",
                deadline_ms=1_000,
            )
            with pytest.raises((DeniedError, ProviderError)) as found:
                await stand.keeper.request(request, b"")
            assert len(stand.hub.log) > asked, what
            assert found.value.where != UNREACHED, what
            assert not never_sent(found.value), what

    on_hub(tmp_path, test, hosts=("127.0.0.1:1",))


def test_a_hubs_name_at_a_private_address_is_refused(tmp_path: Path) -> None:
    async def lookup(host: str, port: int) -> list[str]:
        return ["10.0.0.7"]

    async def test(stand: HubStand) -> None:
        reply = await stand.file("config.json")
        assert (reply.status, reply.headers["x-bridgehold-rule"]) == (403, "keeper.address")
        assert "10.0.0.7, which is not public" in reply.json["error"]

    on_hub(tmp_path, test, lookup=lookup, base_url="https://hub.example", private=False, hosts=())


ENTRY = ProviderEntry(
    name="hub", base_url="https://hub.example", shape="hub", hosts=("*.files.example", "cdn.example:8443")
)
HERE = Hop(url="https://hub.example/acme/tiny/resolve/main/x", host="hub.example", keyed=True)


@pytest.mark.parametrize(
    ("location", "host", "keyed"),
    [
        ("/api/resolve-cache/models/acme/tiny/x", "hub.example", True),
        ("https://hub.example/elsewhere", "hub.example", True),
        ("https://HUB.example./elsewhere", "hub.example", True),
        ("https://eu.files.example/x?Signature=1", "eu.files.example", False),
        ("https://cdn.example:8443/x", "cdn.example", False),
    ],
)
def test_the_key_stays_at_the_hubs_own_origin(location: str, host: str, keyed: bool) -> None:
    hop = next_hop(ENTRY, HERE, location)
    assert (hop.host, hop.keyed) == (host, keyed)
    away = msgspec.structs.replace(HERE, keyed=False)
    assert next_hop(ENTRY, away, location).keyed is False


@pytest.mark.parametrize(
    "location",
    [
        "http://hub.example/x",
        "https://hub.example:444/x",
        "https://files.example/x",
        "https://a.b.files.example/x",
        "https://evilfiles.example/x",
        "https://cdn.example/x",
        "https://hub.example@evil.example/x",
        "//evil.example/x",
        "https://127.0.0.1/x",
    ],
)
def test_no_other_place_is_followed(location: str) -> None:
    with pytest.raises(DeniedError):
        next_hop(ENTRY, HERE, location)


def test_sizes_digests_and_revisions_of_the_policy_bound_what_comes_in(tmp_path: Path) -> None:
    async def test(stand: HubStand) -> None:
        pin = stand.digest("config.json")
        size = len(stand.bytes_of("model.safetensors"))
        cases: list[tuple[dict[str, Any], str, int, str]] = [
            ({"file_bytes": size - 1}, "model.safetensors", 403, "network.endpoints.hub.file_size"),
            ({"total_bytes": size - 1}, "model.safetensors", 403, "network.endpoints.hub.total_size"),
            ({"digests": (pin,)}, "model.safetensors", 403, "network.endpoints.hub.digests"),
            ({"digests": ("0" * 64,)}, "config.json", 403, "network.endpoints.hub.digests"),
            ({"files": ("/*.safetensors",)}, "config.json", 403, "default-deny"),
            ({"repos": (f"/{REPO}@{'0' * 40}",)}, "config.json", 403, "default-deny"),
            ({"repos": ("/*@main",)}, "config.json", 403, "default-deny"),
            ({"digests": (pin,)}, "config.json", 200, ""),
            ({"repos": (f"/acme/t*@{stand.hub.commit(REPO)}",)}, "config.json", 200, ""),
            ({"total_bytes": size}, "model.safetensors", 200, ""),
        ]
        for number, (changes, file, status, rule) in enumerate(cases):
            own = {"hub": PLACEHOLDER}
            port = await stand.open(hub_grant(**changes), session=f"s-{number}", placeholders=own)
            revision = stand.hub.commit(REPO) if "/acme/t*" in str(changes) else "main"
            reply = await stand.file(file, port=port, revision=revision)
            found = reply.headers.get("x-bridgehold-rule", "")
            assert (reply.status, found) == (status, rule), changes

    on_hub(tmp_path, test)


def test_a_hub_that_names_no_sizes_is_bounded_all_the_same(tmp_path: Path) -> None:
    async def test(stand: HubStand) -> None:
        stand.hub.behave(HubBehaviour(sizes=False))
        assert (await stand.file("config.json")).status == 200
        stand.hub.behave(HubBehaviour(sizes=False, body="changed"))  # the hub's own word of its large file
        reply = await stand.file("model.safetensors")
        assert reply.headers["x-bridgehold-rule"] == "hub.digest"
        stand.hub.behave(HubBehaviour(sizes=False, body="endless"))
        reply = await stand.file("model.safetensors")
        assert reply.headers["x-bridgehold-rule"] == "hub.size"
        assert set(stand.kept) == {stand.digest("config.json")}

    on_hub(tmp_path, test, hub_grant(file_bytes=100_000))


def test_the_quota_of_the_tenants_artifacts_holds(tmp_path: Path) -> None:
    async def test(stand: HubStand) -> None:
        reply = await stand.file("model.safetensors")
        assert (reply.status, reply.headers["x-bridgehold-rule"]) == (507, "host.artifacts")
        assert "[host] artifacts" in reply.json["error"]
        assert stand.kept == {}

    on_hub(tmp_path, test, quota=20_000)


def test_kept_listings_are_read_in_the_audit_count_in_the_quota_and_cost_what_they_cost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listing that is kept is asked for as often as a guest likes, and no request goes out for it."""
    path = f"/api/models/{REPO}/revision/main"
    on_loop: list[str] = []
    real = hub_proxy._described

    def described(*given: Any) -> bytes:
        if threading.current_thread() is threading.main_thread():
            on_loop.append("filtered there")
        return real(*given)

    monkeypatch.setattr(hub_proxy, "_described", described)

    async def test(stand: HubStand) -> None:
        for number in range(300):
            (stand.folder / REPO / f"part-{number:03d}-{'x' * 60}.safetensors").write_bytes(b"")
            (stand.folder / REPO / f"never-{number:03d}.bin").write_bytes(b"")
        told = await stand.get(path)
        assert len(told.json["siblings"]) == 302
        store = stand.downloads.store
        (kept,) = store.listings("acme")
        assert b".bin" not in kept.read_bytes(), "what never comes in isn't kept"
        assert store.used("acme") == kept.stat().st_size
        stand.hub.behave(HubBehaviour(status=503))
        again = await stand.get(path)
        head = await stand.get(path, method="HEAD")
        assert again.body == told.body
        assert head.headers["content-length"] == str(len(told.body))
        digest, size = f"sha256:{hashlib.sha256(told.body).hexdigest()}", len(told.body)
        assert [
            (event.digest, event.size_bytes, event.length, event.name)
            for event in stand.audit.of(ArtifactRead)
        ] == [(digest, size, length, f"hub:{REPO}@main") for length in (size, size, 0)]
        stand.audit.failing = True
        assert (await stand.get(path)).status == 503, "it went out without its event"
        stand.audit.failing = False
        assert not on_loop
        parts, taken = stand.gateways[0]._reverse._hub._parts, []
        real_take = parts.take
        monkeypatch.setattr(parts, "take", lambda many, now: (taken.append(many), real_take(many, now))[1])
        assert (await stand.get(path)).status == 200
        assert taken == [302 * (1 + len(hub_grant().endpoints[0].files))]
        # Bytes of the tenant's own are worth more than what a hub says again.
        store.quota = store.used("acme") + 100
        await asyncio.to_thread(store.put, "acme", b"x" * 500)
        assert store.listings("acme") == []
        stand.hub.behave(HubBehaviour())
        refused = await stand.get(path)
        assert (refused.status, refused.headers["x-bridgehold-rule"]) == (507, "host.artifacts")

    on_hub(tmp_path, test)


def test_a_listing_that_changes_under_a_load_gives_no_other_commits_file(tmp_path: Path) -> None:
    """Another session asks anew while one loads: the newest listing is another's commit, without the file."""

    async def test(stand: HubStand) -> None:
        downloads, first = stand.downloads, stand.hub.commit(REPO)
        assert (await stand.file("config.json")).status == 200
        real, stale = downloads.listing, True

        async def listing(*key: str) -> Any:
            nonlocal stale
            found = await real(*key)
            if not stale:  # what the other session has kept by the time that this one looks again
                return msgspec.structs.replace(found, commit="0" * 40, files={}, kept={})
            stale = False
            return found

        downloads.listing = listing  # type: ignore[method-assign]
        reply = await stand.file("config.json")
        assert (reply.status, reply.headers["x-repo-commit"]) == (200, first)

    on_hub(tmp_path, test)


HOSTILE = [
    {"sha": 5, "siblings": []},
    {"sha": "a" * 40},
    {"sha": "a" * 40, "siblings": {"rfilename": "x"}},
    {"sha": "a" * 40, "siblings": [{"name": "config.json"}]},
    {"sha": "a" * 40, "siblings": [["config.json"]]},
    {"sha": "a" * 40, "siblings": [{"rfilename": ["config.json"]}]},
    {"sha": "a" * 40, "siblings": [{"rfilename": "config.json", "lfs": {"sha256": []}}]},
    {"sha": "A" * 40, "siblings": []},
    [],
    None,
]


def test_a_hostile_listing_is_refused_or_holds_what_can_be_asked_for() -> None:
    for document in HOSTILE:
        with pytest.raises(ProviderError, match="no form that is known"):
            read_listing("hub", REPO, "main", json.dumps(document).encode())
    for raw in (
        b"",
        b"[" * 100_000,
        b'{"sha": "\xff"}',
        b'{"sha":"' + b"a" * 40 + b'","siblings":[{"size":1e999}]}',
    ):
        with pytest.raises(ProviderError, match="no form that is known"):
            read_listing("hub", REPO, "main", raw)
    names = ["ok.json", "x.bin", "n" * 2_000 + ".json", "a\nb.json", "\u00e9.json", ".x.json"]
    siblings = [{"rfilename": name, "size": -5, "blobId": "z", "lfs": None} for name in names]
    body = json.dumps({"sha": "a" * 40, "siblings": siblings}).encode()
    with pytest.raises(ProviderError, match="no form that is known"):  # a lone surrogate is no text
        read_listing("hub", REPO, "main", body.replace(b"n" * 2_000, b"\\ud800"))
    made = read_listing("hub", REPO, "main", body)
    assert list(made.files) == ["ok.json"]
    assert msgspec.json.encode(made)


def test_tenants_share_no_bytes_and_two_sessions_of_one_download_once(tmp_path: Path) -> None:
    async def test(stand: HubStand) -> None:
        other = await stand.open(session="s-two", grant=hub_grant(), placeholders={"hub": PLACEHOLDER})
        stand.hub.behave(HubBehaviour(latency_ms=100))
        one, two = await asyncio.gather(
            stand.file("model.safetensors"), stand.file("model.safetensors", port=other)
        )
        assert one.body == two.body == stand.bytes_of("model.safetensors")
        assert len([entry for entry in stand.hub.log if entry.at == "files"]) == 1
        theirs = "sk-bh-umbra-hub-333333333333"
        port = await stand.open(hub_grant("umbra"), session="s-umbra", placeholders={"hub": theirs})
        reply = await stand.file("model.safetensors", port=port, key=theirs)
        assert (reply.status, reply.headers["x-bridgehold-rule"]) == (403, "hub.denied")  # umbra's own token

    on_hub(tmp_path, test)


def test_a_guest_that_leaves_ends_the_download(tmp_path: Path) -> None:
    async def test(stand: HubStand) -> None:
        assert (await stand.get(f"/api/models/{REPO}/revision/main")).status == 200
        stand.hub.behave(HubBehaviour(latency_ms=3000))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stand.file("model.safetensors"), 0.3)
        await eventually(lambda: len(stand.audit.of(EgressOutcome)) == 2)
        assert stand.audit.of(EgressOutcome)[-1].code == "cancelled"
        assert stand.kept == {}

    on_hub(tmp_path, test)


def test_a_revision_is_asked_for_anew_only_on_demand(tmp_path: Path) -> None:
    async def test(stand: HubStand) -> None:
        old, path = stand.hub.commit(REPO), f"/api/models/{REPO}/revision/main"
        assert (await stand.file("config.json")).status == 200
        (stand.folder / REPO / "config.json").write_text("{}")
        assert (await stand.get(path)).json["sha"] == old
        assert (await stand.file("config.json")).json["n_embd"] == 4
        fresh = await stand.get(path, headers={"Cache-Control": "no-cache"})
        assert fresh.json["sha"] == stand.hub.commit(REPO) != old
        assert (await stand.file("config.json")).json == {}

    on_hub(tmp_path, test)


def test_nothing_is_asked_where_the_audit_cannot_be_written(tmp_path: Path) -> None:
    async def test(stand: HubStand) -> None:
        stand.audit.failing = True
        reply = await stand.file("config.json")
        assert (reply.status, reply.headers["x-bridgehold-rule"]) == (503, "gateway.audit")
        assert list(stand.hub.log) == []

    on_hub(tmp_path, test)


@pytest.mark.parametrize(
    ("entry", "fault"),
    [
        ({"shape": "openai", "auth": "none"}, "auth none is a hub's only"),
        ({"shape": "openai", "hosts": ("cdn.example",)}, "hosts are a hub's only"),
        ({"shape": "hub", "hosts": ("*.example",)}, "is no host, *.host or host:port"),
        ({"shape": "hub", "hosts": ("cdn.example:0",)}, "is no host, *.host or host:port"),
        ({"shape": "hub", "hosts": ("https://cdn.example",)}, "is no host, *.host or host:port"),
    ],
)
def test_a_wrong_entry_is_named(entry: dict[str, Any], fault: str) -> None:
    made = ProviderEntry(name="hub", base_url="https://hub.example", **entry)
    with pytest.raises(Exception, match=fault.replace("*", r"\*")):
        check_config(KeeperConfig(secrets=StoreConfig(folder="/nowhere"), providers=(made,)))
