"""Every other key of a policy at work on a real session: a key without a case fails.

The keys come from the loader's own vocabulary, which docs/reference/policy.md holds. A rule is the host's
own, so one host shows it; limits are shown on each kind (`test_policy_limits`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from bridgehold import BridgeholdError
from bridgehold.policies.vocabulary import VOCABULARY
from hostile.cases_rules import RULES
from hostile.keyed import Case, Keyed, keyed_host, sha256
from hostile.stage import Stage, stage

pytestmark = pytest.mark.hostile

KIND = "root" if os.getuid() == 0 else "self"
KEYS = sorted(key.path for key in VOCABULARY if not key.path.startswith("limits."))


@pytest.fixture(scope="module")
def keyed() -> Iterator[Keyed]:
    with keyed_host(KIND, "cold") as ready:
        yield ready


def enforcement(_keyed: Keyed) -> None:
    """A machine without cgroups for sessions: refused, unless the start may be weakened and names it."""
    with stage(KIND, cgroups="none") as ready:
        policy = ready.layout.policies / f"{ready.plain}.toml"
        text = policy.read_text()
        codes = []
        for wanted, named in (("strict", '"no_cgroup"'), ("weakened", ""), ("weakened", '"no_cgroup"')):
            changed = text.replace("[sandbox]\n", f'[sandbox]\nenforcement = "{wanted}"\n')
            policy.write_text(f"weakenings = [{named}]\n{changed}")
            codes.append(_outcome(ready))
        assert codes == ["unsupported", "unsupported", "ok"]


def _outcome(ready: Stage, bridge: str = "") -> str:
    try:
        with ready.session(bridge) as session:
            session.run("act", {"code": "pass"})
    except BridgeholdError as error:
        return error.code
    return "ok"


CASES: dict[str, Case] = {**RULES, "sandbox.enforcement": enforcement}
_shown: set[Case] = set()


@pytest.mark.parametrize("key", KEYS)
def test_a_key_is_at_work(keyed: Keyed, key: str) -> None:
    assert key in CASES, "a key without a case: show it at work"
    if CASES[key] not in _shown:  # one case may show several keys together
        CASES[key](keyed)
        _shown.add(CASES[key])


def test_no_case_is_for_a_key_that_there_is_not() -> None:
    assert set(CASES) <= set(KEYS)


def test_more_than_there_is_is_promised_only_where_host_and_policy_say_so() -> None:
    with stage(KIND, host="overcommit = true") as ready:
        policy = ready.layout.policies / f"{ready.plain}.toml"
        machine = ready.client.request("grant", {"bridge": ready.plain})["machine"]["memory_bytes"]
        text = policy.read_text().replace('memory = "256MiB"', f'memory = "{machine * 2 // 5}B"')
        policy.write_text(text)
        with ready.session(), ready.session():
            assert _outcome(ready) == "busy"
            policy.write_text(f'weakenings = ["overcommit"]\n{text}')
            assert _outcome(ready) == "ok"


def test_a_wheel_with_a_pth_is_built_where_sessions_may_have_it_and_nowhere_else(keyed: Keyed) -> None:
    """`bridge build` and a session ask for the same environment."""
    (wheel,) = (keyed.data / "wheels").glob("*.whl")
    codes = {}
    for named in (True, False):
        changes = {"weakenings": ["private_network", *(["pth"] if named else [])]}
        name = keyed.bridge(changes)
        folder = keyed.stage.layout.bridges / name
        (folder / "requirements.in").write_text("demo-pkg\n")
        (folder / "requirements.lock").write_text(f"demo-pkg==1.0 --hash=sha256:{sha256(wheel)}\n")
        manifest = (folder / "bridge.toml").read_text()
        files = 'requirements = "requirements.in"\nlock = "requirements.lock"\n'
        (folder / "bridge.toml").write_text(manifest.replace("entry =", f"{files}entry ="))
        try:
            built = keyed.client.request("bridge.build", {"bridge": name})
            codes["build", named] = "ok" if built["packages"] == 1 else "empty"
        except BridgeholdError as error:
            codes["build", named] = error.code
            assert "demo.pth" in str(error)
        codes["session", named] = _outcome(keyed.stage, name)
        lock, told = folder / "requirements.lock", (folder / "requirements.lock").stat()
        lock.write_text(f"demo-pkg==1.0 --hash=sha256:{sha256(wheel)[::-1]}\n")
        os.utime(lock, ns=(told.st_atime_ns, told.st_mtime_ns))
        with pytest.raises(BridgeholdError, match="demo-pkg"):  # same size, same time: content decides
            keyed.client.request("bridge.build", {"bridge": name})
    refused = codes["build", False]
    assert codes == {
        ("build", True): "ok",
        ("session", True): "ok",
        ("build", False): refused,
        ("session", False): refused,
    }
    assert refused == "dependency"
