"""What a reviewer asks of policies: what is grave, what changes, what would have been refused."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import typer
from hypothesis import given, settings

from bridgehold.bridges.releases import Releases, folder_of, render
from bridgehold.config.layout import find_layout
from bridgehold.errors import PolicyError, UsageError
from bridgehold.faces.cli.policy import show
from bridgehold.faces.cli.policy_review import diff
from bridgehold.faces.cli.policy_review import lint as lint_command
from bridgehold.ids import digest_bytes
from bridgehold.policies.changes import compare
from bridgehold.policies.expectations import read_expectations, unknown
from bridgehold.policies.explain import Known
from bridgehold.policies.lint import gravest, lint
from bridgehold.policies.lint_rules import RULES, SEVERITIES
from bridgehold.policies.model import GIB, Ceilings, Connect, Endpoint, Grant, Machine, Needs, Policy
from bridgehold.policies.posture import POWERS, posture
from bridgehold.policies.reviewed import Review
from bridgehold.policies.reviewed import render as render_review
from bridgehold.policies.simulate import Act, decide, simulate
from bridgehold.policies.vocabulary import BY_PATH
from policies.test_properties import Said, allowed, ceiling_of, grant_of, pairs, policy_of, text_of

NEEDS = Needs(
    endpoints=(Endpoint(provider="openai", methods=("POST", "DELETE"), remote_content=True),),
    connects=(Connect(host="*.example.com"), Connect(host="10.0.0.7", private=True)),
    operations=("dspy:run",),
)
ENDPOINT = '[network.endpoints.openai]\npaths = ["/chat/completions"]\n'
OPERATIONS = '[operations]\nallow = ["dspy:run"]\n'
WIDE = f"""
inline_keys = "pass"
weakenings = ["connect", "private_network", "env_secret", "inline_keys_pass", "devices", "pth"]
[limits]
cpu = 64.0
[filesystem]
read = ["/srv", "/srv/models"]
devices = ["/dev/nvidia0"]
{ENDPOINT.replace('"/chat', '"/files/*", "/chat')}methods = ["POST", "DELETE"]
remote_content = true
fields = ["tools"]
[network.endpoints.anthropic]
paths = ["/messages"]
[[network.connect]]
host = "*.example.com"
[[network.connect]]
host = "10.0.0.7"
private = true
[secrets.openai]
[secrets.token]
how = "env"
variable = "HUB_TOKEN"
[operations]
allow = ["*"]
[tools]
allow = ["*"]
"""


def _wide(grant_of: Callable[..., Grant], needs: Needs) -> Grant:
    asked = msgspec.structs.replace(NEEDS, secrets=needs.secrets, operations=("*",))
    machine = Machine(cgroup="v2", uids="range", memory_bytes=8 * GIB, cpus=4, devices=("/dev/nvidia0",))
    return grant_of(WIDE, needs=asked, machine=machine)


def test_each_rule_is_met_by_a_policy_and_none_by_a_plain_one(
    grant_of: Callable[..., Grant], policy_of: Callable[[str], Policy], needs: Needs
) -> None:
    found = lint(_wide(grant_of, needs), policy_of(WIDE))
    assert {one.rule for one in found} == {rule.name for rule in RULES}
    assert all(one.where.startswith(("own.toml:", "default", "machine")) for one in found)
    assert [SEVERITIES.index(one.severity) for one in found] == sorted(
        SEVERITIES.index(one.severity) for one in found
    )
    assert {one.severity for one in found if one.value == "pth"} == {"low"}
    assert gravest(found) == "high"
    plain = grant_of(OPERATIONS, needs=Needs(operations=("dspy:run",)))
    assert lint(plain, policy_of(OPERATIONS)) == ()
    assert gravest(()) is None


def test_a_budget_of_the_policys_or_the_tenants_is_one(grant_of: Callable[..., Grant]) -> None:
    def rules(grant: Grant) -> set[str]:
        return {one.rule for one in lint(grant)}

    without = grant_of(ENDPOINT + OPERATIONS, needs=NEEDS)
    assert rules(without) == {"no-budget"}
    assert (
        rules(grant_of(ENDPOINT + OPERATIONS + "[rate]\nprovider_tokens_total = 9\n", needs=NEEDS)) == set()
    )
    assert rules(msgspec.structs.replace(without, ceilings=Ceilings(money_per_day=1))) == set()
    assert rules(msgspec.structs.replace(without, ceilings=Ceilings(sessions=1))) == {"no-budget"}


def test_a_row_of_the_posture_says_each_power(grant_of: Callable[..., Grant], needs: Needs) -> None:
    row = posture(_wide(grant_of, needs))
    assert tuple(row.powers) == POWERS
    assert row.powers["providers"] == ("openai (any request)",)
    assert row.powers["keys"] == ("openai (put in)", "token (inside)")
    assert row.powers["tunnels"] == ("*.example.com:443", "10.0.0.7:443 (private)")
    assert row.gravest == "high"
    assert not any(posture(grant_of(OPERATIONS, needs=Needs(operations=("dspy:run",)))).powers.values())


@settings(max_examples=60, deadline=None)
@given(pairs())
def test_what_is_narrowed_gains_nothing_and_is_no_graver(both: tuple[Said, Said]) -> None:
    policy = policy_of(text_of(both[0]))
    wide, narrow = grant_of(policy, None), grant_of(policy, ceiling_of(text_of(both[1])))
    if wide is None or narrow is None:
        return
    assert compare(wide, wide) == compare(narrow, narrow)
    assert not compare(wide, wide).gained
    reach = [
        one for one in compare(wide, narrow).gained if one.key.startswith(("network.connect", "secrets."))
    ]
    assert reach == []
    graver = [gravest(lint(one)) for one in (wide, narrow)]
    if graver[1] is not None:
        assert graver[0] is not None
        assert SEVERITIES.index(graver[0]) <= SEVERITIES.index(graver[1])


@settings(max_examples=60, deadline=None)
@given(pairs())
def test_the_policy_in_force_refuses_nothing_that_ran_and_another_what_it_refuses(
    both: tuple[Said, Said],
) -> None:
    policy = policy_of(text_of(both[0]))
    wide, narrow = grant_of(policy, None), grant_of(policy, ceiling_of(text_of(both[1])))
    if wide is None or narrow is None:
        return
    ran = _act(wide)
    assert list(simulate(wide, ran)) == []
    refused = [one.act.name for one in simulate(narrow, ran)]
    kept = {(one.what, one.name) for one in _act(narrow)}
    assert refused == [one.name for one in ran if (one.what, one.name) not in kept]


def _act(grant: Grant) -> list[Act]:
    """What of a fixed set ran under `grant`, as an audit tells it."""
    found: dict[tuple[str, str], Act] = {}
    for what, *names in sorted(allowed(grant), key=repr):
        match what, names:
            case "operation", (operation, ()):
                one = Act(what="operation", name=f"b:{operation}")
            case "tool", (tool,):
                one = Act(what="tool", name=str(tool))
            case "egress", (provider, method, path, facts) if not facts.first:
                one = Act(what="egress", name=f"{provider} {method} {path}")
            case "connect", (host,):
                one = Act(what="connect", name=f"{host}:443")
            case _:
                continue
        found.setdefault((one.what, one.name), one)
    return list(found.values())


def test_a_file_of_expectations_says_where_each_stands(grant_of: Callable[..., Grant]) -> None:
    text = """
# What must hold.
[[expect]]
bridge = "dspy"
tenant = "acme"
allows = ["dspy:run", "openai POST /chat/completions"]
refuses = [
  "dspy:delete",
  "openai POST /files",
  "connect example.com:443",
  "tool search",
  "resource program",
]
"""
    found = list(read_expectations(text, "expect.toml"))
    assert [(one.what, one.allowed, one.event) for one in found] == [
        ("operation", True, "expect.toml:6"),
        ("egress", True, "expect.toml:6"),
        ("operation", False, "expect.toml:8"),
        ("egress", False, "expect.toml:9"),
        ("connect", False, "expect.toml:10"),
        ("tool", False, "expect.toml:11"),
        ("resource", False, "expect.toml:12"),
    ]
    grant = grant_of(ENDPOINT + OPERATIONS, needs=NEEDS)
    assert list(simulate(grant, found)) == []
    (wrong,) = simulate(grant, [msgspec.structs.replace(found[2], allowed=True)])
    assert (wrong.decision.rule, wrong.act.event) == ("default-deny", "expect.toml:8")
    assert decide(grant, Act(what="connect", name="example.com:x")).allowed is False


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("expect = 3", "no file of expectations"),
        ("[[expect]]\ntenant = 'a'\n", "bridge"),
        ("[[expect]]\nbridge = 'b'\nallow = []\n", "allow"),
        ("[[expect]]\nbridge = 'b'\nallows = ['everything']\n", "can't be asked for"),
        ("[[expect]]\nbridge = 'b'\nallows = ['connect example.com']\n", "can't be asked for"),
        ("[[expect]]\nbridge = 'b'\nrefuses = ['connect x:" + "9" * 5_000 + "']\n", "can't be asked for"),
        ("[[expect", "not TOML"),
        ("expect = []", "nothing is expected"),
        ("[[expect]]\nbridge = 'b'\n", "nothing is expected"),
    ],
)
def test_what_can_not_be_expected_is_named(text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        list(read_expectations(text, "expect.toml"))
    assert said in f"{caught.value.message}"
    assert caught.value.where.startswith("expect.toml")


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        ("python:excute", "python:execute"),
        ("dspy:run", "is no operation of python"),
        ("opnai POST /files", "openai"),
        ("resource namespce", "namespace"),
        ("python:execute", ""),
        ("common:ping", ""),
        ("openai POST /files", ""),
        ("resource namespace", ""),
        ("tool whatever", ""),
    ],
)
def test_an_expectation_of_what_there_is_not_proves_nothing(said: str, fault: str) -> None:
    """Every policy refuses a name that is misspelt: such a line could never fail."""
    known = Known(
        operations=("python:execute", "dspy:run"), resources=("namespace",), providers=("openai",), unread=()
    )
    text = f"[[expect]]\nbridge = 'python'\nrefuses = [{said!r}]\n"
    (act,) = read_expectations(text, "expect.toml")
    found = unknown(act, known)
    assert (fault in found) if fault else not found


def test_the_page_has_every_rule_with_its_severity() -> None:
    page = (Path(__file__).parents[2] / "docs/how-to/review-policies.md").read_text()
    rows = re.findall(r"^\| (`.+`) \| (\w+) \| .+ \|$", page, re.MULTILINE)
    said = {name: severity for names, severity in rows for name in re.findall(r"`([a-z-]+)`", names)}
    assert said == {rule.name: rule.severity for rule in RULES}


MINE = """
name = "mine"
version = "{version}"
summary = "Two versions of one bridge"
entry = "mine:Mine"
{needs}
[operations.ask]
summary = "Ask"
effect = "run"
{more}
"""
NEEDS_OPENAI = '[[needs.endpoints]]\nprovider = "openai"\nmethods = ["POST"]\npaths = ["/embeddings"]\n'
MORE = '[operations.wipe]\nsummary = "Wipe"\neffect = "run"\n'


def test_two_versions_of_a_bridge_are_compared_by_what_each_may_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By manifest and policy: a folder, a release of a tenant's own bridge, and that under another policy."""
    monkeypatch.setenv("BRIDGEHOLD_HOME", str(tmp_path))
    layout = find_layout({"BRIDGEHOLD_HOME": str(tmp_path)}, 0)
    home = layout.own_bridges("acme") / "mine"
    digests = ["sha256:" + sign * 64 for sign in "ab"]
    for digest, said in zip(digests, (("1", "", ""), ("2", NEEDS_OPENAI, MORE)), strict=True):
        folder = folder_of(home, digest)
        folder.mkdir(parents=True)
        (folder / "mine.py").write_text("")
        names = dict(zip(("version", "needs", "more"), said, strict=True))
        (folder / "bridge.toml").write_text(MINE.format(**names))
    current = Releases(digest=digests[0], submission="sub-1", by="boss", at="2026-01-01T00:00:00Z")
    (home / "current.toml").write_text(render(current))
    (layout.tenants / "acme.toml").write_text("# of its own\n")
    layout.policies.mkdir()
    (layout.policies / "mine.toml").write_text(
        '[operations]\nallow = ["*"]\n[network.endpoints.openai]\nmethods = ["POST"]\npaths = ["/embeddings"]\n'
    )

    def told(version: str, policy: Path | None = None) -> tuple[set[str], set[str]]:
        diff("mine", tenant="acme", version=version, policy=policy, json_output=True)
        said = json.loads(capsys.readouterr().out)
        found = [{f"{one['key']} {one['value']}" for one in said[name]} for name in ("gained", "lost")]
        return found[0], found[1]

    more = {"operations mine:wipe", "network.endpoints.openai POST /embeddings"}
    assert told(digests[1]) == (more, set())
    assert told(str(folder_of(home, digests[1]))) == (more, set())
    assert told(digests[0]) == (set(), set())
    (tmp_path / "narrow.toml").write_text('[operations]\nallow = ["mine:wipe"]\n')
    assert told(digests[1], tmp_path / "narrow.toml") == ({"operations mine:wipe"}, {"operations mine:ask"})
    (home / "current.toml").write_text(render(msgspec.structs.replace(current, digest=digests[1])))
    assert told(digests[0]) == (set(), more)
    with pytest.raises(UsageError, match="compared with"):
        diff("mine", "python", tenant="acme", version=digests[1])
    other = tmp_path / "other"
    shutil.copytree(folder_of(home, digests[1]), other)
    (other / "bridge.toml").write_text(MINE.format(version="1", needs="", more="").replace('"mine"', '"its"'))
    with pytest.raises(UsageError, match="a version of its, not of mine"):
        diff("mine", tenant="acme", version=str(other))


def test_a_limit_is_found_that_no_machine_of_the_fleet_can_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each by one machine whole: memory on one and cores on another hold nothing together."""
    monkeypatch.setenv("BRIDGEHOLD_HOME", str(tmp_path))
    layout = find_layout({"BRIDGEHOLD_HOME": str(tmp_path)}, 0)
    layout.policies.mkdir(parents=True)
    own = layout.policies / "python.toml"

    def found(memory: str, cpu: str, **fleet: tuple[str, int]) -> dict[str, tuple[str, str]]:
        own.write_text(f'extends = "baseline"\n[limits]\nmemory = "{memory}"\ncpu = {cpu}\n')
        tables = [
            f'[fleet.{name}]\nmemory = "{size}"\ncpus = {cpus}\n' for name, (size, cpus) in fleet.items()
        ]
        layout.config_file.write_text("".join(tables))
        lint_command(["python"], fail_on="never", json_output=True)
        said = [one for one in json.loads(capsys.readouterr().out) if one["rule"] == "beyond-machine"]
        return {one["key"]: (one["value"], one["where"]) for one in said}

    memory, cpu = ("100 GiB", f"{own}:3"), ("32 cores", f"{own}:4")
    both = {"limits.memory": memory, "limits.cpu": cpu}
    assert found("100GiB", "32", one=("8GiB", 4), other=("128GiB", 32)) == {}
    assert found("100GiB", "32", one=("101GiB", 32)) == {}
    assert found("100GiB", "32", one=("100GiB", 32)) == {"limits.memory": memory}  # the host's reserve
    assert found("100GiB", "32", one=("128GiB", 4), other=("8GiB", 4)) == {"limits.cpu": cpu}
    assert len(found("100GiB", "32", one=("128GiB", 4), other=("8GiB", 64))) == 1
    assert found("100GiB", "32", one=("8GiB", 4)) == both
    assert set(found("64TiB", "1")) == {"limits.memory"}, "without a fleet it is this machine"


def test_lint_for_a_review_of_code_and_its_exit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BRIDGEHOLD_HOME", str(tmp_path))
    layout = find_layout({"BRIDGEHOLD_HOME": str(tmp_path)}, 0)
    layout.policies.mkdir(parents=True)
    own = layout.policies / "python.toml"
    own.write_text('extends = "baseline"\ninline_keys = "pass"\nweakenings = ["inline_keys_pass"]\n')
    with pytest.raises(typer.Exit) as ended:
        lint_command(["python"], sarif_output=True)
    assert ended.value.exit_code == PolicyError.exit_status
    said = json.loads(capsys.readouterr().out)
    assert said["version"] == "2.1.0"
    (ran,) = said["runs"]
    assert {rule["id"] for rule in ran["tool"]["driver"]["rules"]} == {rule.name for rule in RULES}
    found = {one["ruleId"]: one for one in ran["results"]}
    place = found["keys-pass"]["locations"][0]["physicalLocation"]
    assert found["keys-pass"]["level"] == "error"
    assert (place["artifactLocation"]["uri"], place["region"]["startLine"]) == (str(own), 2)
    lint_command(["python"], fail_on="never", sarif_output=True)


def test_no_policy_grants_a_write_to_what_others_see() -> None:
    """So that no rule of lint looks for a wide one, or a shared one; a key that did would need its rule."""
    assert {path for path in BY_PATH if path.startswith("filesystem.")} == {
        "filesystem.read",
        "filesystem.devices",
    }


def test_a_policy_is_shown_with_what_became_of_its_review(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BRIDGEHOLD_HOME", str(tmp_path))
    layout = find_layout({"BRIDGEHOLD_HOME": str(tmp_path)}, 0)
    layout.policies.mkdir(parents=True)

    def told(name: str = "mine") -> dict[str, str]:
        show(name, json_output=True)
        return dict(json.loads(capsys.readouterr().out)["review"])

    assert told("python") == {"state": "shipped"}
    text = 'extends = "baseline"\n'
    (layout.policies / "mine.toml").write_text(text)
    assert told() == {"state": "never"}
    made = Review(digest=digest_bytes(text.encode()), by="maria", at="2026-01-01T00:00:00Z", text=text)
    file = layout.policies / "mine.review.toml"
    file.write_text(render_review(made))
    who = {"by": "maria", "at": "2026-01-01T00:00:00Z", "expires": ""}
    assert told() == {"state": "reviewed", **who}
    show("mine")
    assert "as it was reviewed by maria at 2026-01-01T00:00:00Z" in " ".join(capsys.readouterr().out.split())
    file.write_text(render_review(msgspec.structs.replace(made, expires="2026-01-02T00:00:00Z")))
    assert told()["state"] == "ended"
    (layout.policies / "mine.toml").write_text(text + "# edited\n")
    assert told()["state"] == "edited"
    file.write_text("no review")
    assert told() == {"state": "unsound"}
