"""ABUSE 64: a policy or a ceiling that can't be read, dangles, changes within one tick or is misspelt."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bridgehold import BridgeholdError
from bridgehold.config.layout import Layout
from hostile.stage import KINDS_OF_HOSTS, POLICY, USER, Stage, stage
from waiting import until

pytestmark = pytest.mark.hostile

CEILING = '[bridges.{name}.limits]\nmemory = "128MiB"\n[operations]\ndeny = ["{name}:report"]\n'


@pytest.fixture(scope="module", params=KINDS_OF_HOSTS)
def place(request: pytest.FixtureRequest) -> Iterator[Stage]:
    with stage(request.param) as ready:
        yield ready


def _dangle(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(path.parent / "nowhere")


def _instead(make: Callable[[Path], None]) -> Callable[[Path], None]:
    def act(path: Path) -> None:
        path.unlink()
        make(path)

    return act


def _moved(folder: Path, then: Callable[[Path], None] | None = None) -> None:
    folder.rename(folder.with_name("elsewhere"))
    if then is not None:
        then(folder)


def _tenant(layout: Layout) -> Path:
    return layout.tenants / "acme.toml"


ACTS: dict[str, Callable[[Layout, str], None]] = {
    "a folder of tenants that can't be listed": lambda layout, _: layout.tenants.chmod(0o111),
    "a folder of tenants that can't be entered": lambda layout, _: layout.tenants.chmod(0),
    "a folder of policies that can't be entered": lambda layout, _: layout.policies.chmod(0),
    "a folder of tenants that has gone": lambda layout, _: _moved(layout.tenants),
    "a folder of tenants that is a link to nowhere": lambda layout, _: _moved(layout.tenants, _dangle),
    "a ceiling that can't be read": lambda layout, _: _tenant(layout).chmod(0),
    "a ceiling that is a link to nowhere": lambda layout, _: _dangle(_tenant(layout)),
    "a ceiling that is a folder": lambda layout, _: _instead(Path.mkdir)(_tenant(layout)),
    "a ceiling that is a pipe": lambda layout, _: _instead(os.mkfifo)(_tenant(layout)),
    "an empty ceiling": lambda layout, _: _tenant(layout).write_text(""),
    "half a ceiling": lambda layout, name: _tenant(layout).write_text(CEILING.format(name=name)[:-3]),
    "a ceiling in no encoding": lambda layout, _: _tenant(layout).write_bytes(b"# \xff\n"),
    "a misspelt table": lambda layout, _: _tenant(layout).write_text("[bridges.hostle1]\n"),
    "a misspelt table of tables": lambda layout, _: _tenant(layout).write_text("[bridge.hostile1]\n"),
    "bridges that are no table": lambda layout, _: _tenant(layout).write_text("bridges = []\n"),
    "a quoted path for a table": lambda layout, _: _tenant(layout).write_text(
        '[bridges."hostile1.limits"]\n'
    ),
    "a policy that is a link to nowhere": lambda layout, name: _dangle(layout.policies / f"{name}.toml"),
    "an empty policy": lambda layout, name: (layout.policies / f"{name}.toml").write_text("") and None,
    "a policy that extends one that dangles": lambda layout, _: _dangle(layout.policies / "base.toml"),
    "a ceiling that is gone": lambda layout, _: _tenant(layout).unlink(),
    "a ceiling that has another name for a moment": lambda layout, _: _moved(_tenant(layout)),
    "a policy that is gone": lambda layout, name: (layout.policies / f"{name}.toml").unlink(),
    "a policy that extends one that is gone": lambda layout, _: (layout.policies / "base.toml").unlink(),
}


ONLY_A_HOST_KNOWS = {
    "a folder of tenants that has gone",
    "a ceiling that is gone",
    "a ceiling that has another name for a moment",
    "a policy that is gone",
}
"""Who looks for the first time can't know that there was one."""
CHECKER = """
import json, sys
from bridgehold.config.layout import default_layout
from bridgehold.faces.cli.policy_check import check_layout
for _ in sys.stdin:
    print(json.dumps(check_layout(default_layout())[1]), flush=True)
"""


@pytest.fixture(scope="module")
def checker(place: Stage) -> Iterator[Callable[[], list[str]]]:
    """What `policy check` says, without a new interpreter each time."""
    command, environment = _as_operator(place, "-c", CHECKER)
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        source, sink = process.stdout, process.stdin

        def ask() -> list[str]:
            sink.write("?\n")
            sink.flush()
            found: list[str] = json.loads(source.readline())
            return found

        yield ask
        sink.close()


@pytest.fixture(scope="module")
def bridge(place: Stage) -> str:
    """A bridge whose policy extends another of the operator's, and a tenant with a ceiling."""
    name = place.bridge()
    layout = place.layout
    (layout.policies / "base.toml").write_text(POLICY)
    (layout.policies / f"{name}.toml").write_text('extends = "base"\n')
    _tenant(layout).write_text(CEILING.format(name=name))
    return name


def _run(place: Stage, bridge: str, operation: str = "act") -> str:
    try:
        place.client.run(
            f"{bridge}:{operation}", {"code": "pass"} if operation == "act" else {}, tenant="acme"
        )
    except BridgeholdError as error:
        return error.code
    return "ok"


def _as_operator(place: Stage, *arguments: str) -> tuple[list[str], dict[str, str]]:
    command = [sys.executable, *arguments]
    if place.kind == "user":
        command = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--init-groups", *command]
    return command, {**os.environ, "BRIDGEHOLD_HOME": str(place.layout.config.parent)}


def _check(place: Stage) -> tuple[int, list[str]]:
    command, environment = _as_operator(place, "-m", "bridgehold", "policy", "check", "--json")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)["faults"]


def _restore(layout: Layout, kept: dict[Path, bytes]) -> None:
    elsewhere = layout.config / "elsewhere"
    if elsewhere.exists():
        layout.tenants.unlink(missing_ok=True)
        elsewhere.rename(layout.tenants)
    (layout.tenants / "elsewhere").unlink(missing_ok=True)
    for folder in (layout.tenants, layout.policies):
        folder.chmod(0o755)
    for path, content in kept.items():
        if path.is_dir():
            path.rmdir()
        path.unlink(missing_ok=True)
        path.write_bytes(content)
        path.chmod(0o644)


@pytest.mark.parametrize("what", sorted(ACTS))
def test_64_rules_that_cannot_be_read_refuse_and_nothing_takes_their_place(
    place: Stage, bridge: str, checker: Callable[[], list[str]], what: str
) -> None:
    layout = place.layout
    files = [path for folder in (layout.tenants, layout.policies) for path in folder.glob("*.toml")]
    kept = {path: path.read_bytes() for path in files}
    assert _run(place, bridge) == "ok"
    before = len(place.events("command.refused"))
    try:
        ACTS[what](layout, bridge)
        assert _run(place, bridge) == "policy", "what was read before is still believed"
        assert _run(place, bridge) == "policy", "it is believed the second time"
        refusal = place.events("command.refused")[before]
        assert (refusal["rule"], refusal["tenant"]) == ("policy", "acme")
        assert str(layout.config) in str(refusal["reason"])
        faults = checker()
        assert any(str(layout.config) in fault for fault in faults) or what in ONLY_A_HOST_KNOWS, faults
    finally:
        _restore(layout, kept)
    assert _run(place, bridge) == "ok"


def test_64_a_ceiling_that_changes_within_a_tick_holds_at_once(place: Stage, bridge: str) -> None:
    """Same length, same time of change, and no time between: content decides, nothing else."""
    path = _tenant(place.layout)
    told = path.stat()
    first = CEILING.format(name=bridge)
    second = first.replace('report"]', 'act"]   ')
    for _ in range(3):
        for text, codes in ((first, ("ok", "denied")), (second, ("denied", "ok"))):
            path.write_text(text)
            os.utime(path, ns=(told.st_atime_ns, told.st_mtime_ns))
            assert path.stat().st_size == told.st_size
            assert (_run(place, bridge), _run(place, bridge, "report")) == codes
    path.write_text(CEILING.format(name=bridge))


def test_64_what_was_here_and_is_gone_refuses_until_an_operator_says_that_it_is_so(
    place: Stage, bridge: str
) -> None:
    """Also a ceiling that no command had rested on yet: it was there when the host looked into the folder."""
    layout = place.layout
    late = layout.tenants / "late.toml"
    late.write_text(CEILING.format(name=bridge))
    assert _run(place, bridge) == "ok"
    late.unlink()
    for _ in range(2):
        with pytest.raises(BridgeholdError, match="was here and is gone") as caught:
            place.client.run(f"{bridge}:report", tenant="late")
        assert (caught.value.code, caught.value.where) == ("policy", str(late))
        assert "put it back" in str(caught.value.hint)
        assert "`bridgehold reload`" in str(caught.value.hint)
    late.write_text(CEILING.format(name=bridge))
    with pytest.raises(BridgeholdError, match="operations"):
        place.client.run(f"{bridge}:report", tenant="late")
    late.unlink()
    found = place.client.request("reload", {})
    assert found["applied"] == ["tenants/late.toml (gone)"]
    assert place.events("config.reloaded")[-1]["applied"] == found["applied"]
    place.client.run(f"{bridge}:report", tenant="late")
    assert place.client.request("reload", {})["applied"] == []
    aside = layout.config_file.rename(layout.config / "config.aside")
    try:
        with pytest.raises(BridgeholdError, match="there is no such file"):
            place.client.request("reload", {})
    finally:
        aside.rename(layout.config_file)


def test_64_the_audit_names_every_file_a_grant_rests_on(place: Stage, bridge: str) -> None:
    """A byte of the leaf, of what it extends or of the ceiling is another digest, and another event."""
    layout, seen = place.layout, []
    for path in (_tenant(layout), layout.policies / "base.toml", layout.policies / f"{bridge}.toml"):
        path.write_text(path.read_text() + "# a word\n")
        assert _run(place, bridge) == "ok"
        seen.append(place.events("policy.loaded")[-1])
    assert len({event["digest"] for event in seen}) == 3
    files = {str(one).rpartition(" ")[0] for one in seen[-1]["files"]}  # type: ignore[attr-defined]  # a list of texts
    named = {_tenant(layout), layout.policies / "base.toml", layout.policies / f"{bridge}.toml"}
    assert {*map(str, named), "shipped:baseline.toml"} == files


def test_64_a_bridge_that_cannot_be_seen_is_not_replaced_by_a_shipped_one(place: Stage) -> None:
    layout = place.layout
    own = layout.bridges / "python"
    _dangle(own)
    try:

        def seen() -> bool:  # a host looks at bridges four times a second
            with contextlib.suppress(BridgeholdError):
                return not place.client.run("python:execute", {"code": "1"})
            return True

        until(seen)
        with pytest.raises(BridgeholdError, match="leads nowhere"):
            place.client.run("python:execute", {"code": "1"})
        status, faults = _check(place)
        assert status == 5
        assert any("python" in fault and "leads nowhere" in fault for fault in faults), faults
    finally:
        own.unlink()
    until(lambda: "leads nowhere" not in _listed(place, "python")[1])
    shipped, fault = _listed(place, "python")
    assert not shipped
    assert "was here and is gone" in fault
    with pytest.raises(BridgeholdError, match="was here and is gone"):
        place.client.run("python:execute", {"code": "1"})
    assert place.client.request("reload", {})["applied"] == ["bridges/python (gone)"]
    assert _listed(place, "python") == (True, "")


def _listed(place: Stage, name: str) -> tuple[bool, str]:
    found = next(one for one in place.client.request("bridges") if one["name"] == name)
    return found["shipped"], found["fault"]


def test_64_files_that_come_near_to_the_one_that_is_missed_are_found(place: Stage, bridge: str) -> None:
    layout = place.layout
    made = [layout.policies / "pyton.toml", layout.tenants / "lokal.toml", layout.tenants / "acme.tml"]
    for path in made:
        path.write_text('extends = "baseline"\n')
    try:
        _, faults = _check(place)
        for path in made:
            assert any(path.name in fault for fault in faults), (path, faults)
    finally:
        for path in made:
            path.unlink()
    assert _check(place) == (0, [])
