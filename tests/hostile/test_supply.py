"""A real environment is scanned: an advisory that hits, one that doesn't; and what the configuration blocks."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridgehold import BridgeholdError
from bridgehold.config.load import load_config
from bridgehold.sandbox.doctor import Context
from bridgehold.supervisor.checks import supply_probe
from envs.envs_kit import make_wheel, sha256
from envs.test_wheelscan import TWO_READINGS, forged
from hostile.stage import KINDS_OF_HOSTS, MANIFEST, Stage, stage
from hostile.test_environments import bridgehold, spoil
from supply.advisory_files import osv, ranges, write
from waiting import until

pytestmark = pytest.mark.hostile
METADATA = "Metadata-Version: 2.1\nName: demo-pkg\nVersion: 1.0\nLicense-Expression: MIT\n"
WITH_LOCK = MANIFEST.replace('entry = "hostile:Hostile"', 'entry = "hostile:Hostile"\nlock = "lock.txt"')
HIGH = {"severity": "HIGH"}
HIT = osv(id="GHSA-hit", summary="it leaks", database_specific=HIGH, affected={
    "ranges": ranges({"introduced": "0"}, {"fixed": "1.1"})})  # fmt: skip
MISS = osv(id="GHSA-miss", database_specific=HIGH, affected={
    "ranges": ranges({"introduced": "0"}, {"fixed": "1.0"})})  # fmt: skip


@pytest.fixture(scope="module", params=KINDS_OF_HOSTS)
def scanned(request: pytest.FixtureRequest) -> Iterator[Stage]:
    with stage(request.param) as one:
        yield one


def locked(host: Stage) -> str:
    """A bridge whose environment holds one package, which it brings itself."""
    name = host.bridge(manifest=WITH_LOCK)
    folder = host.layout.bridges / name
    (folder / "wheels").mkdir()
    wheel = make_wheel(folder / "wheels", metadata=METADATA)
    (folder / "lock.txt").write_text(f"demo-pkg==1.0 --hash=sha256:{sha256(wheel)}\n")
    return name


def advisories(host: Stage, name: str, **files: object) -> Path:
    """A folder of them, which is all that the configuration names from now on."""
    folder = host.layout.config.parent / name
    write(folder, **files)  # type: ignore[arg-type]
    return folder


def configure(host: Stage, folder: Path, more: str = "") -> None:
    text = host.layout.config_file.read_text().partition("[supply]")[0]
    host.layout.config_file.write_text(f'{text}[supply]\nadvisories = "{folder}"\nmax_age_days = 0\n{more}')
    host.client.request("reload")


def blocked(host: Stage, bridge: str) -> BridgeholdError:
    with pytest.raises(BridgeholdError) as caught, host.session(bridge):
        pass
    return caught.value


def test_an_advisory_that_hits_and_one_that_does_not(scanned: Stage, tmp_path: Path) -> None:
    bridge = locked(scanned)
    assert bridgehold(scanned, "bridge", "build", bridge, "--no-start").returncode == 0
    folder = advisories(scanned, "both", miss=MISS)
    configure(scanned, folder)
    said = bridgehold(scanned, "bridge", "scan", bridge)
    assert (said.returncode, "GHSA" in said.stdout, "MIT 1" in said.stdout) == (0, False, True), said
    write(folder, hit=HIT)
    sbom = tmp_path / "bills"
    said = bridgehold(scanned, "bridge", "scan", bridge, "--json", "--sbom", str(sbom))
    assert said.returncode == 16, said
    report = json.loads(said.stdout)
    (one,) = report["environments"]
    assert [(hit["id"], hit["severity"], hit["fixed"]) for hit in one["hits"]] == [
        ("GHSA-hit", "high", ["1.1"])
    ]
    assert (one["ok"], one["blocked"], one["contents"]["changed"]) == (False, "", "")
    (part,) = one["contents"]["parts"]
    assert (part["name"], part["licence"]["expression"], part["reread"]) == ("demo-pkg", "MIT", True)
    (bill,) = (json.loads(file.read_text()) for file in sbom.iterdir())
    assert bill["components"][0]["purl"] == "pkg:pypi/demo-pkg@1.0"
    assert bill["vulnerabilities"][0]["id"] == "GHSA-hit"
    shown = bridgehold(scanned, "bridge", "scan", bridge, "--fail-on", "critical")
    assert (shown.returncode, "GHSA-hit" in shown.stdout, "GHSA-miss" in shown.stdout) == (0, True, False)
    told = [event for event in scanned.events("environment.scanned") if event["bridge"] == bridge]
    assert [(event["ok"], event["count"], event["fail_on"]) for event in told] == [
        (True, 0, "high"),
        (False, 1, "high"),
        (True, 1, "critical"),
    ]
    assert told[1]["advisories"] == ["demo-pkg 1.0 GHSA-hit high"]
    with scanned.session(bridge) as session:  # nothing blocks by itself
        assert session.run("act", {"code": "import demo_pkg; result = demo_pkg.VALUE"}) == 1


def test_what_is_found_vulnerable_later_is_shown_and_blocked_as_configured(scanned: Stage) -> None:
    bridge = locked(scanned)
    folder = advisories(scanned, "later", miss=MISS)
    configure(scanned, folder, 'block = "high"\n')
    config = load_config(scanned.layout.config_file)
    with scanned.session(bridge) as session:
        assert session.run("act", {"code": "result = 1"}) == 1
        assert supply_probe(scanned.layout, config).run(Context()).status == "PASS"
        write(folder, hit=HIT)
        row = supply_probe(scanned.layout, config).run(Context())
        assert (row.status, "GHSA-hit" in row.detail) == ("FAIL", True)
        said = bridgehold(scanned, "bridge", "scan", bridge)  # which looks at the folder at once
        assert (said.returncode, "blocked" in said.stdout) == (16, True)
        assert all(word in said.stdout for word in (session.id, "runs on it", "local", bridge)), said.stdout
        told = json.loads(bridgehold(scanned, "bridge", "scan", bridge, "--json").stdout)["environments"]
        users = [(one["session"], one["tenant"]) for env in told for one in env["sessions"]]
        assert users == [(session.id, "local")]
        before = len(scanned.events("environment.refused"))
        error = blocked(scanned, bridge)
        assert (error.code, "GHSA-hit" in error.message, error.where) == (
            "dependency",
            True,
            str(folder / "hit.json"),
        )
        refused = scanned.events("environment.refused")[before:]
        assert [(one["bridge"], one["ref"]) for one in refused] == [(bridge, error.event)]
        assert session.run("act", {"code": "result = 2"}) == 2  # it began before
    assert scanned.act("result['x'] = 1") == {"x": 1}  # what has no such package is not blocked
    configure(scanned, folder, 'block = "critical"\n')
    assert (
        supply_probe(scanned.layout, load_config(scanned.layout.config_file)).run(Context()).status
        == "CAUTION"
    )
    with scanned.session(bridge):
        pass
    configure(scanned, folder, 'block = "high"\naccepted = ["GHSA-hit"]\n')
    with scanned.session(bridge):
        pass
    shown = bridgehold(scanned, "bridge", "scan", bridge)
    assert (shown.returncode, "accepted" in shown.stdout) == (0, True)


def test_nothing_is_built_on_what_is_blocked(scanned: Stage) -> None:
    folder = advisories(scanned, "before", hit=HIT)
    configure(scanned, folder, 'block = "low"\n')
    name = locked(scanned)
    lock = scanned.layout.bridges / name / "lock.txt"
    wheel = make_wheel(lock.parent / "wheels", version="1.0.1")
    lock.write_text(f"demo-pkg==1.0.1 --hash=sha256:{sha256(wheel)}\n")
    trees = set(scanned.layout.environments.iterdir())
    said = bridgehold(scanned, "bridge", "build", name)
    assert (said.returncode, "mended in 1.1" in said.stderr, "[supply] accepted" in said.stderr) == (
        16,
        True,
        True,
    )
    assert set(scanned.layout.environments.iterdir()) == trees


def standing(host: Stage, bridge: str) -> int:
    """Workers of the bridge that stand ready for whoever comes next."""
    groups = host.client.request("zygotes").values()
    return sum(
        one["count"] for group in groups for one in group if "count" in one and one["bridge"] == bridge
    )


def test_what_stands_ready_is_not_handed_out_once_it_is_blocked(scanned: Stage) -> None:
    bridge, file = locked(scanned), scanned.layout.config_file
    folder = advisories(scanned, "ready", miss=MISS)
    before = file.read_text().partition("[supply]")[0]
    file.write_text(f"{before}[bridges.{bridge}]\npool_size = 1\n")
    configure(scanned, folder, 'block = "high"\n')
    with scanned.session(bridge):
        pass
    until(lambda: standing(scanned, bridge) == 1)
    write(folder, hit=HIT)
    assert bridgehold(scanned, "bridge", "scan", bridge).returncode == 16  # the folder is looked at now
    opened = len(scanned.events("session.opened"))
    assert "GHSA-hit" in blocked(scanned, bridge).message
    (folder / "hit.json").unlink()
    for licences, said in (
        ('["MIT"]', "under a licence that is not taken: MIT"),
        ('["GPL-*", "not stated"]', ""),
    ):
        configure(scanned, folder, f"licences = {licences}\n")
        if said:
            error = blocked(scanned, bridge)
            assert (error.code, said in error.message) == ("dependency", True), error
            shown = bridgehold(scanned, "bridge", "scan", bridge)
            assert (shown.returncode, said in " ".join(shown.stdout.split())) == (0, True), shown
            row = supply_probe(scanned.layout, load_config(file)).run(Context())
            assert (row.status, said in row.detail) == ("FAIL", True)
    assert len(scanned.events("session.opened")) == opened
    with scanned.session(bridge) as session:
        assert session.run("act", {"code": "result = 1"}) == 1
    configure(scanned, folder, 'licences = ["MIT"]\naccepted = ["pkg:demo-pkg"]\n')
    with scanned.session(bridge):
        pass
    file.write_text(before)
    scanned.client.request("reload")


def test_no_zygote_of_what_is_blocked_is_forked_from(scanned: Stage) -> None:
    """It stands, with a session of it: that goes on and is shown, and nobody else gets in."""
    scanned.start = "fork"
    bridge = locked(scanned)
    scanned.start = "cold"
    folder = advisories(scanned, "zygote", miss=MISS)
    configure(scanned, folder, 'block = "high"\n')
    with scanned.session(bridge) as session:
        assert session.run("act", {"code": "import demo_pkg; result = demo_pkg.VALUE"}) == 1
        with scanned.session(bridge) as second:
            assert second.run("act", {"code": "result = 2"}) == 2
        zygotes = scanned.client.request("zygotes")["zygotes"]
        stood = [one["name"] for one in zygotes if one["bridge"] == bridge]
        workers = [one["start"] for one in scanned.events("worker.started") if one["bridge"] == bridge]
        assert (len(stood), workers[-2:]) == (1, ["fork", "fork"])
        write(folder, hit=HIT)
        said = bridgehold(scanned, "bridge", "scan", bridge)
        assert (said.returncode, "blocked" in said.stdout) == (16, True)
        assert "GHSA-hit" in blocked(scanned, bridge).message
        assert [
            one["start"] for one in scanned.events("worker.started") if one["bridge"] == bridge
        ] == workers
        assert bridge in bridgehold(scanned, "sessions").stdout
        assert session.run("act", {"code": "result = 3"}) == 3
    assert "GHSA-hit" in blocked(scanned, bridge).message
    assert [one["start"] for one in scanned.events("worker.started") if one["bridge"] == bridge] == workers
    configure(scanned, folder)


def test_nothing_is_built_under_a_licence_that_is_not_taken(scanned: Stage) -> None:
    configure(scanned, advisories(scanned, "licences", miss=MISS), 'licences = ["MIT"]\n')
    bridge = locked(scanned)
    folder = scanned.layout.bridges / bridge
    wheel = make_wheel(folder / "wheels", version="1.0.7", metadata=METADATA.replace("1.0", "1.0.7"))
    (folder / "lock.txt").write_text(f"demo-pkg==1.0.7 --hash=sha256:{sha256(wheel)}\n")
    trees = set(scanned.layout.environments.iterdir())
    said = bridgehold(scanned, "bridge", "build", bridge)
    told = ("not taken: MIT" in said.stderr, "pkg:demo-pkg" in said.stderr)
    assert (said.returncode, *told) == (16, True, True), said
    assert {one.name for one in set(scanned.layout.environments.iterdir()) - trees} == set()
    configure(scanned, scanned.layout.config.parent / "licences", "")


def test_what_can_not_be_told_blocks(scanned: Stage) -> None:
    bridge = locked(scanned)
    folder = advisories(scanned, "untold", miss=MISS)
    configure(scanned, folder)
    missing = bridgehold(scanned, "bridge", "scan", bridge)
    assert (missing.returncode, "is not built" in missing.stderr) == (6, True)
    assert bridgehold(scanned, "bridge", "build", bridge, "--no-start").returncode == 0
    (folder / "broken.json").write_text("{")
    configure(scanned, folder, 'block = "high"\n')
    error = blocked(scanned, bridge)
    assert (error.code, error.where) == ("dependency", str(folder / "broken.json"))
    said = bridgehold(scanned, "bridge", "scan", bridge)
    assert (said.returncode, "broken.json" in said.stderr) == (16, True)
    assert bridgehold(scanned, "bridge", "scan", bridge, "--fail-on", "never").returncode == 0
    configure(scanned, advisories(scanned, "old", miss=MISS), 'block = "high"\n')
    text = scanned.layout.config_file.read_text()
    scanned.layout.config_file.write_text(text.replace("max_age_days = 0", "max_age_days = 1"))
    write(scanned.layout.config.parent / "old", miss={**MISS, "modified": "2020-01-01T00:00:00Z"})
    scanned.client.request("reload")
    bridgehold(scanned, "bridge", "scan", bridge)
    assert "too old" in blocked(scanned, bridge).message
    configure(scanned, scanned.layout.config.parent / "nowhere", 'block = "high"\n')
    assert "can't be read" in blocked(scanned, bridge).message
    assert bridgehold(scanned, "bridge", "scan", bridge).returncode == 16
    configure(scanned, advisories(scanned, "again", miss=MISS))


def test_a_changed_environment_is_told_and_says_nothing_of_itself(scanned: Stage) -> None:
    bridge = locked(scanned)
    (scanned.layout.bridges / bridge / "lock.txt").write_text(
        f"demo-pkg==2.0 --hash=sha256:{sha256(make_wheel(scanned.layout.bridges / bridge / 'wheels', version='2.0'))}\n"
    )
    built = json.loads(bridgehold(scanned, "bridge", "build", bridge, "--json", "--no-start").stdout)
    spoil(scanned.layout.environments / built["digest"].removeprefix("sha256:"))
    said = bridgehold(scanned, "bridge", "scan", bridge, "--json")
    (one,) = json.loads(said.stdout)["environments"]
    assert (said.returncode, "pyvenv.cfg" in one["contents"]["changed"]) == (18, True)
    assert [part["licence"] for part in one["contents"]["parts"]] == [{"expression": "", "names": []}]


@pytest.mark.parametrize("what", ["a Unicode path in both", "another local name", "bytes between two"])
def test_a_wheel_that_two_readers_can_take_for_two_is_refused_by_a_build_and_leaves_nothing(
    scanned: Stage, tmp_path: Path, what: str
) -> None:
    """As an operator builds it: no installer has had the archive. The rest: tests/envs/test_wheelscan.py."""
    configure(scanned, advisories(scanned, "none", miss=MISS))
    bridge = locked(scanned)
    (brought,) = (scanned.layout.bridges / bridge / "wheels").iterdir()
    brought.write_bytes(forged(tmp_path, TWO_READINGS[what][1]).read_bytes())
    lock = brought.parent.parent / "lock.txt"
    lock.write_text(f"demo-pkg==1.0 --hash=sha256:{sha256(brought)}\n")
    before = set(os.listdir(scanned.layout.environments))
    with pytest.raises(BridgeholdError, match=r"demo_pkg/x\.py.*\[archive\]|no entry"):
        scanned.client.request("bridge.build", {"bridge": bridge})
    new = set(os.listdir(scanned.layout.environments)) - before
    assert not [name for name in new if len(name) == 64 or name.startswith(".build")]
