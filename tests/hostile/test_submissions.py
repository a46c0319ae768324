"""A bridge that a tenant brings: from its archive to sessions of it, and whatever its author tries on the way."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bridgehold import BridgeholdError, SyncClient
from bridgehold.bridges import bundle
from bridgehold.client.submit import packed
from bridgehold.errors import NotFoundError
from envs.envs_kit import make_wheel
from hostile.stage import BRIDGE, MANIFEST, PAIRED, POLICY, Stage, stage
from waiting import until

pytestmark = pytest.mark.hostile
BOSS = "another-operators-own-token"
CONFIG = f"""
[principals.boss]
tokens = ["sha256:{hashlib.sha256(BOSS.encode()).hexdigest()}"]
tenants = ["*"]
operator = true
"""
NOTHING = "file:///nonexistent/simple"
"""An index that has no package: no test asks a real one for a made-up name."""
CONFINED = """
import os, socket
assert not os.path.exists("/data"), "a folder of its policy's"
with socket.socket() as one:
    one.settimeout(2)
    assert one.connect_ex(("192.0.2.1", 443)), "a way out"
assert not [key for key in os.environ if "sk-" in os.environ[key]]
assert sorted(os.listdir("/bridge")) == ["bridge.toml", "hostile.py"], os.listdir("/bridge")
"""


@pytest.fixture(scope="module", params=PAIRED, ids="-".join)
def host(request: pytest.FixtureRequest) -> Iterator[Stage]:
    kind, start = request.param
    cells = str(kind != "root").lower()  # each tenant has one of its own at the ordinary user's host
    with stage(kind, start, config=CONFIG, host=f'index = "{NOTHING}"\ncells = {cells}\n') as ready:
        yield ready
        assert "Traceback" not in ready.layout.config.parent.joinpath("host.log").read_text()


def made(folder: Path, name: str, at_import: str = "", *, version: str = "1.0.0", more: str = "") -> Path:
    """A bridge's folder, whose module runs `at_import`."""
    folder.mkdir(parents=True, exist_ok=True)
    manifest = MANIFEST.format(name=name).replace('version = "1.0.0"', f'version = "{version}"\n{more}')
    (folder / "bridge.toml").write_text(manifest)
    (folder / "hostile.py").write_text(BRIDGE.format(at_import=at_import))
    return folder


def saying(what: str) -> str:
    return f"result['says'] = {what!r}"


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


def code_of(act: Callable[[], object]) -> str:
    try:
        act()
    except BridgeholdError as error:
        return error.code
    return ""


def test_from_archive_to_sessions_and_back(host: Stage, tmp_path: Path) -> None:
    name, whose = "plans", "acme"
    policy(host, name, host.start)
    secret = tenant(host, whose)
    with client(host, secret) as own:

        def says(session: str) -> object:
            return own.run(f"{name}:report", tenant=whose, session=session)["says"]  # type: ignore[call-overload]

        first = own.submit(made(tmp_path / "a", name, saying("first")), tenant=whose)
        assert (first.state, first.by) == ("waiting", f"token:{whose}")
        assert [one.status for one in first.tried] == ["PASS"] * 6
        assert code_of(lambda: says("old")) == "denied"
        assert own.files(tenant=whose) == []
        asked = {"submission": first.id, "seen": "x"}
        assert code_of(lambda: own.request("bridge.approve", asked)) == "denied"
        assert code_of(lambda: host.client.request("bridge.approve", asked)) == "usage"
        assert approve(host, first.id)["digest"] == first.digest
        assert says("old") == "first"
        second = own.submit(made(tmp_path / "a", name, saying("second"), version="1.1.0"), tenant=whose)
        approve(host, second.id)
        assert says("new") == "second"
        assert says("old") == "first"
        host.client.request("bridge.rollback", {"bridge": name, "tenant": whose})
        assert (says("back"), says("new"), says("old")) == ("first", "second", "first")
        for asked, expected in (
            ({"bridge": f"{name}s", "tenant": whose}, f"(nearest: '{name}')"),
            ({"bridge": name, "tenant": "local"}, f"--tenant {whose}"),
        ):
            with pytest.raises(NotFoundError) as caught:
                host.client.request("bridge.rollback", asked)
            assert expected in f"{caught.value.message} {caught.value.hint}"
        typed = [sys.executable, "-m", "bridgehold", "bridge", "rollback", name, "--tenant", whose]
        home = {**os.environ, "BRIDGEHOLD_HOME": str(host.layout.config.parent)}
        done = subprocess.run(typed, env=home, capture_output=True, text=True, check=True)
        assert "3 that run keep what they began with" in done.stdout
        assert code_of(lambda: says("none")) in ("denied", "not_found")  # it was there, and is gone


def test_it_is_tried_without_reach_and_shown_with_what_it_gains(host: Stage, tmp_path: Path) -> None:
    reach = """
[filesystem]
read = ["/usr/share"]
[network.endpoints.openai]
paths = ["/v1/chat/completions"]
[secrets.openai]
how = "gateway"
"""
    needs = """
[[needs.endpoints]]
provider = "openai"
[[needs.endpoints]]
provider = "anthropic"
"""
    policy(host, "reaching", more=reach)
    secret = tenant(host, "reacher")
    with client(host, secret) as own:
        folder = made(tmp_path / "a", "reaching", CONFINED)
        (folder / "bridge.toml").write_text((folder / "bridge.toml").read_text() + needs)
        made_one = own.submit(folder, tenant="reacher")
        assert made_one.state == "waiting", made_one
        shown = own.request("bridge.submission", {"submission": made_one.id})
    gained = {(one["key"], one["value"]): one["new"] for one in shown["gained"]}
    assert gained["network.endpoints.openai", "POST /v1/chat/completions"] is True
    assert gained["filesystem.read", "/usr/share"] is True
    assert shown["policy"] == "reaching"
    assert any("anthropic" in text for text in shown["withheld"])
    assert shown["replaces"] == ""
    assert approve(host, made_one.id)["before"] == ""
    intent = next(
        one for one in host.events("admin.intent") if one["details"].get("submission") == made_one.id
    )  # type: ignore[attr-defined]
    assert (intent["action"], intent["subject"]) == ("bridge.approve", "reacher/reaching")
    assert intent["details"]["digest"] == made_one.digest  # type: ignore[index]
    assert "network.endpoints.openai" in intent["details"]["gained"]  # type: ignore[index]
    asked = [one for one in host.events("admin.intent") if one["action"] == "bridge.submit"]
    assert {(one["tenant"], one["principal"]) for one in asked} >= {("reacher", "token:reacher")}
    ended = {one["intent"] for one in host.events("admin.outcome") if one["ok"]}
    assert {intent["ref"], asked[-1]["ref"]} <= ended


def test_what_was_seen_is_what_is_approved(host: Stage, tmp_path: Path) -> None:
    policy(host, "pinned")
    secret = tenant(host, "pins")
    with client(host, secret) as own, client(host, BOSS) as boss:
        one, other, third = (
            own.submit(made(tmp_path / "a", "pinned", saying(text)), tenant="pins")
            for text in ("1", "2", "3")
        )

        def seen(submission: str) -> dict[str, Any]:
            shown = boss.request("bridge.submission", {"submission": submission})
            return {"submission": submission, "seen": shown["seen"]}

        before = seen(one.id)
        policy(host, "pinned", more="[filesystem]\nread = ['/usr/share']\n")
        until(lambda: seen(one.id) != before)
        assert code_of(lambda: boss.request("bridge.approve", before)) == "usage", "it gains more by now"
        others, first = seen(other.id), seen(one.id)
        boss.request("bridge.approve", first)
        assert code_of(lambda: boss.request("bridge.approve", first)) == "usage", "it was approved"
        assert code_of(lambda: boss.request("bridge.approve", others)) == "usage", (
            "it replaces something else"
        )
        assert own.run("pinned:report", tenant="pins")["says"] == "1"  # type: ignore[call-overload,index]
        path = next(host.layout.quarantine.glob(f"*/{third.id}.bundle"))
        thirds = seen(third.id)
        found = bundle.decode(path.read_bytes())
        path.write_bytes(bundle.encode(bundle.Bundle(files=found.files[:1])))
        assert code_of(lambda: boss.request("bridge.approve", thirds)) == "usage", "other bytes"
        rejected = boss.request("bridge.reject", {"submission": other.id, "reason": "no"})
        assert (rejected["state"], rejected["reason"]) == ("rejected", "no")
        assert code_of(lambda: boss.request("bridge.approve", others)) == "usage"
        mine = boss.submit(made(tmp_path / "a", "pinned", saying("4")), tenant="pins")
        assert code_of(lambda: boss.request("bridge.approve", seen(mine.id))) == "denied", "its own"
        approve(host, mine.id)
        release = host.layout.own_bridges("pins") / "pinned" / "releases" / mine.digest[7:]
        assert {path.stat().st_uid for path in release.rglob("*")} == {host.layout.config.stat().st_uid}


def test_who_may_hand_in_what(host: Stage, tmp_path: Path) -> None:
    secret, other = tenant(host, "scoped"), tenant(host, "stranger")

    def scoped(name: str, **scope: object) -> str:
        asked = {"name": name, "tenants": ["scoped"], **scope}
        return str(host.client.request("token.create", asked)["token"])

    folder = made(tmp_path / "a", "scoped-one")
    for name, scope in (
        ("reads", {"read_only": True}),
        ("uses", {"bridges": ["python"]}),
        ("runs", {"operations": ["scoped-one:report"]}),
    ):
        with client(host, scoped(name, **scope)) as narrow:
            assert code_of(lambda narrow=narrow: narrow.submit(folder, tenant="scoped")) == "denied", name  # type: ignore[misc]
    with client(host, secret) as own, client(host, other) as stranger:
        assert code_of(lambda: own.submit(folder, tenant="stranger")) == "denied"
        by_hand = made(host.layout.own_bridges("scoped") / "by-hand", "by-hand", saying("ours"))
        for name, more in (("python", ""), ("by-hand", ""), ("x", 'foreign = "auto"\n')):
            refused = made(tmp_path / name, name, more=more)
            assert code_of(lambda refused=refused: own.submit(refused, tenant="scoped")) in (
                "usage",
                "manifest",
            )  # type: ignore[misc]
        assert "ours" in (by_hand / "hostile.py").read_text()
        waits = own.submit(folder, tenant="scoped")
        same = stranger.submit(made(tmp_path / "b", "scoped-one", saying("another's")), tenant="stranger")
        assert [one.id for one in own.submissions()] == [waits.id]
        asked = {"submission": waits.id}
        assert code_of(lambda: stranger.request("bridge.submission", asked)) == "not_found"
        policy(host, "scoped-one")
        approve(host, same.id)
        assert code_of(lambda: own.run("scoped-one:report", tenant="scoped")) == "denied"  # type: ignore[call-overload]
        host.client.request("tenant.suspend", {"name": "scoped"})
        assert code_of(lambda: own.submit(folder, tenant="scoped")) == "suspended"
        assert code_of(lambda: host.client.submit(folder, tenant="scoped")) == "suspended"
        assert code_of(lambda: approve(host, waits.id)) == "suspended"
        host.client.request("tenant.resume", {"name": "scoped"})
        host.client.request("tenant.limit", {"name": "scoped", "limits": {"submissions": 1}})
        assert code_of(lambda: own.submit(folder, tenant="scoped")) == "budget"
        assert own.files(tenant="scoped") == []


def test_its_packages_are_locked_here_and_its_wheels_scanned(host: Stage, tmp_path: Path) -> None:
    policy(host, "wheeled")
    secret = tenant(host, "wheeler")
    more = 'requirements = "asked.txt"\nlock = "asked.lock"\n'
    folder = made(tmp_path / "a", "wheeled", "import demo_pkg\nresult['says'] = demo_pkg.VALUE", more=more)
    (folder / "wheels").mkdir()
    wheel = make_wheel(folder / "wheels")
    (folder / "asked.txt").write_text("demo-pkg\n")
    (folder / "asked.lock").write_text("evil==1.0 --hash=sha256:" + "0" * 64 + "\n")
    with client(host, secret) as own:
        sound = own.submit(folder, tenant="wheeler")
        assert (sound.state, sound.packages) == ("waiting", 1), sound
        approve(host, sound.id)
        assert own.run("wheeled:report", tenant="wheeler")["says"] == 1  # type: ignore[call-overload,index]
        wheel.unlink()
        make_wheel(folder / "wheels", files={"demo_pkg/__init__.py": "", "evil.pth": "import os"})
        assert code_of(lambda: own.submit(folder, tenant="wheeler")) == "dependency"
        for asked in ("-e .", "demo-pkg @ file:///etc", "--index-url http://192.0.2.1", "never-heard-of"):
            (folder / "asked.txt").write_text(f"{asked}\n")
            assert code_of(lambda: own.submit(folder, tenant="wheeler")) == "dependency", asked


def test_what_is_built_for_a_tenants_own_bridges_is_bounded_and_goes_with_them(
    host: Stage, tmp_path: Path
) -> None:
    policy(host, "filling")
    secret = tenant(host, "filler", environments="1MiB")

    def trees() -> set[str]:
        found = host.layout.environments.iterdir()
        return {path.name for path in found if path.is_dir() and len(path.name) == 64}

    def wheeled(size: int) -> Path:
        folder = tmp_path / str(size)
        made(folder, "filling", more='requirements = "asked.txt"\nlock = "asked.lock"\n')
        (folder / "asked.txt").write_text("demo-pkg\n")
        (folder / "wheels").mkdir()
        make_wheel(folder / "wheels", files={"demo_pkg/__init__.py": "", "demo_pkg/data": os.urandom(size)})
        return folder

    before = trees()
    with client(host, secret) as own:
        assert code_of(lambda: own.submit(wheeled(2 << 20), tenant="filler")) == "budget"
        assert trees() == before, "what was built beyond it is gone"
        first = own.submit(wheeled(700 << 10), tenant="filler")
        assert len(trees() - before) == 1
        assert code_of(lambda: own.submit(wheeled(600 << 10), tenant="filler")) == "budget"
        assert len(trees() - before) == 1
        host.client.request("bridge.reject", {"submission": first.id})
        assert trees() == before
        second = own.submit(wheeled(650 << 10), tenant="filler")
        approve(host, second.id)
        assert own.run("filling:report", tenant="filler") == {}
        assert code_of(lambda: own.submit(wheeled(500 << 10), tenant="filler")) == "budget"
        host.client.request("tenant.limit", {"name": "filler", "limits": {"environments": None}})
        assert own.submit(wheeled(550 << 10), tenant="filler").state == "waiting"


def test_a_trial_that_fails_or_is_given_up_leaves_nothing(host: Stage, tmp_path: Path) -> None:
    policy(host, "failing")
    policy(host, "slow")
    secret = tenant(host, "fails")
    log = host.layout.config.parent / "host.log"
    with client(host, secret) as own:
        failed = own.submit(made(tmp_path / "a", "failing", "raise SystemExit(3)"), tenant="fails")
        assert failed.state == "failed"
        assert "starts" in failed.reason
        lying = made(tmp_path / "b", "failing")
        (lying / "hostile.py").write_text("class Hostile: pass\n")
        assert own.submit(lying, tenant="fails").state == "failed"
        assert code_of(lambda: approve(host, failed.id)) == "usage"
        slow = made(tmp_path / "c", "slow", "import time; time.sleep(100)")
        said: list[str] = []
        thread = threading.Thread(
            target=lambda: said.append(code_of(lambda: own.submit(slow, tenant="fails")))
        )
        thread.start()

        def trials() -> list[Any]:
            opened = {one["session"] for one in host.events("session.opened") if one["bridge"] == "slow"}
            return list(opened - {one["session"] for one in host.events("session.closed")})

        until(trials)
        with client(host, secret) as second:
            assert code_of(lambda: second.submit(slow, tenant="fails")) == "busy", "one at a time"
        begun = time.monotonic()
        done = host.client.request("tenant.revoke", {"name": "fails"})
        assert time.monotonic() - begun < 30
        assert done["parts"]["submissions"]["ms"] < 5_000
        thread.join(30)
        assert said
        assert said[0] != ""
        until(lambda: not trials())
    assert not (host.layout.quarantine / "fails").exists()
    assert "Traceback" not in log.read_text()


def test_who_goes_away_meanwhile_finds_it_checked(host: Stage, tmp_path: Path) -> None:
    policy(host, "left-alone")
    secret = tenant(host, "leaver")
    with client(host, secret) as own:
        folder = made(tmp_path / "a", "left-alone", "import time; time.sleep(1)")
        archive = own.put(packed(folder), tenant="leaver").digest
        with client(host, secret) as leaving:
            asked = {"archive": archive, "tenant": "leaver"}
            thread = threading.Thread(target=lambda: code_of(lambda: leaving.request("bridge.submit", asked)))
            thread.start()
            until(lambda: [one.state for one in own.submissions()] == ["checking"])
        thread.join(30)
        until(lambda: [one.state for one in own.submissions()] == ["waiting"])
        assert own.files(tenant="leaver") == []
        gone = {"archive": archive, "tenant": "leaver"}
        assert code_of(lambda: own.request("bridge.submit", gone)) == "not_found", "an archive is taken once"
