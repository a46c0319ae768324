"""What the command line says to who writes as people write: a remedy, the nearest right word, what is used."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from bridgehold import SyncClient
from bridgehold.audit.query import parse_time
from bridgehold.client.once import token_of
from bridgehold.client.private import PrivateHost
from bridgehold.config.layout import Layout, find_layout
from bridgehold.config.load import load_config, parse_config
from bridgehold.config.settings import merge
from bridgehold.errors import BusyError, ConfigError, UsageError
from bridgehold.faces.authoring.check import Verdict
from bridgehold.faces.cli import authoring, secrets, tenants
from bridgehold.faces.cli.border import guarded
from bridgehold.faces.cli.commands import app
from bridgehold.faces.http.listening import listen
from bridgehold.host.front.registry import Registry
from bridgehold.host.shares.cordons import Cordons
from bridgehold.keeper.admin import SecretAdmin
from bridgehold.policies.model import Machine
from bridgehold.protocol.tenants import TenantInfo
from bridgehold.sandbox.doctor import Context
from bridgehold.supervisor.checks import bridges_probe, configuration_probe

sys.path.insert(0, str(Path(__file__).parents[1] / "envs"))

from envs_kit import make_index, make_sdist, make_wheel

Say = Callable[..., tuple[int, str, str]]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    monkeypatch.setenv("BRIDGEHOLD_HOME", str(tmp_path / "home"))
    layout = find_layout({"BRIDGEHOLD_HOME": str(tmp_path / "home")}, 0)
    for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent, layout.config.parent):
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)
    for folder in (layout.policies, layout.tenants, layout.bridges):
        folder.mkdir(parents=True)
    return layout


@pytest.fixture
def say(home: Layout, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Say:
    """The command line in this process: (status, out, err)."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["bridgehold", *arguments])
        status = guarded(lambda: app(prog_name="bridgehold", standalone_mode=False))
        captured = capfd.readouterr()
        assert "Traceback" not in captured.err
        return status, captured.out, captured.err

    return run


def test_policy_check_names_what_nothing_here_bears_in_files_and_layouts(home: Layout, say: Say) -> None:
    (home.config_file).write_text('[providers.mistral]\nbase_url = "https://api.mistral.ai/v1"\n')
    policy = home.policies / "dspy.toml"
    policy.write_text(
        'extends = "dspy"\n[operations]\ndeny = ["dspy:delete_progam"]\n'
        '[network.endpoints.mistal]\npaths = ["/chat/completions"]\n'
    )
    (home.tenants / "acme.toml").write_text('[bridges.dspy.operations]\ndeny = ["dspy:exeute_program"]\n')
    status, out, _ = say("policy", "check")
    assert status == 5
    assert f"{policy}:3: operations.deny: 'dspy:delete_progam': no bridge has such an operation" in out
    assert "(nearest: 'dspy:delete_program')" in out
    assert f"{policy}:4: network.endpoints.mistal: there is no [providers.mistal]" in out
    assert "(nearest: 'mistral')" in out
    assert "acme.toml:2: operations.deny: 'dspy:exeute_program'" in out
    status, out, _ = say("policy", "check", str(policy))
    assert status == 5
    assert out.count("nearest") == 2
    policy.write_text('extends = "dspy"\n[network]\nmode = "gateway"\n')
    (home.tenants / "acme.toml").unlink()
    status, out, err = say("policy", "check")  # of one file, once, however many bridges it grants
    assert (status, out.count(f"{policy}:3"), out.count("network.mode"), "1 fault(s)" in err) == (
        5,
        1,
        1,
        True,
    )
    policy.write_text('extends = "dspy"\n[limits]\nmemory = "16MiB"\n')
    status, out, _ = say("policy", "check")  # what each bridge needs, with its place once
    assert (status, out.count("dspy for local: "), out.count(f"{policy}:3: ")) == (5, 1, 1), out
    policy.write_text('extends = "dspy"\n[operations]\ndeny = ["dspy:delete_program"]\n')
    assert say("policy", "check")[0] == 0
    status, out, _ = say("policy", "explain", "dspy", "--json")
    assert "dspy:delete_program" not in json.loads(out)["operations"]["allow"]
    assert "dspy:create_program" in json.loads(out)["operations"]["allow"]


def test_what_lies_where_bridges_do_and_is_none_is_named_wherever_one_looks(home: Layout, say: Say) -> None:
    for place in (home.bridges / "My-Bridge", home.own_bridges("acme") / "plans 2"):
        place.mkdir(parents=True)
        (place / "bridge.toml").write_text('name = "mine"\n')
    (home.bridges / "empty").mkdir()
    (home.bridges / ".git").mkdir()
    (home.tenants / "Globex" / "bridges").mkdir(parents=True)
    home.tokens.mkdir()
    (home.tokens / "My App.toml").write_text("")
    listed = say("bridge", "list")[2]
    checked = say("policy", "check")[1]
    config = load_config(home.config_file)
    registry = Registry(home, config, Machine(cgroup="v2", uids="range", memory_bytes=0, cpus=1), None)
    probe = bridges_probe(home).run(Context(cgroup="auto", reserve_bytes=0, uid_first=0, uid_count=0))
    assert probe.status == "CAUTION"
    for place, why in (
        ("bridges/My-Bridge", "its name is no bridge's: lower-case"),
        ("tenants/acme/bridges/plans 2", "its name is no bridge's: lower-case"),
        ("bridges/empty", "it holds no bridge.toml"),
    ):
        assert f"nothing reads {home.config / place}: {why}" in listed
        assert f"{home.config / place}: nothing reads this: {why}" in checked
        assert str(home.config / place) in probe.detail
        assert why in registry.rules()[place]  # which a start and a reload compare, and tell
    assert f"nothing reads {home.tenants / 'Globex'}: its name is no tenant's" in listed
    assert checked.count(f"{home.tenants / 'Globex'}:") == 1
    assert f"{home.tokens / 'My App.toml'}: nothing reads this: a token's file is NAME.toml" in checked
    assert ".git" not in listed + checked
    status, _, err = say("bridge", "show", "My-Bridge")
    assert (status, "Its name is no bridge's: lower-case" in err) == (6, True)
    for place in (home.bridges / "My-Bridge", home.bridges / "empty"):
        shutil.rmtree(place)
    shutil.rmtree(home.tenants / "Globex")
    shutil.rmtree(home.own_bridges("acme") / "plans 2")
    assert say("bridge", "list")[2] == ""
    assert (
        bridges_probe(home).run(Context(cgroup="auto", reserve_bytes=0, uid_first=0, uid_count=0)).status
        == "PASS"
    )


def test_a_key_whose_name_is_a_slip_is_kept_and_said(
    home: Layout, say: Say, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    home.config_file.write_text(
        '[providers.mistral]\nbase_url = "https://api.mistral.ai/v1"\nsecret = "paris"\n'
    )

    def told(tenant: str, name: str, provider: str = "") -> str:
        secrets.tell_slips(tenant, name, provider)
        return capfd.readouterr().err

    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"sk-0123456789abcdef\n")))
    status, _, err = say("secrets", "set", "openia")
    assert status == 0
    status, _, err = say("secrets", "set", "openai", "--tenant", "acme")  # nothing more comes
    assert (status, "| bridgehold secrets set openai --tenant acme" in err) == (2, True), err
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"sk-0123456789abcdef\n")))
    status, _, err = say("secrets", "set", "openia")
    assert status == 0
    assert "no provider and no bridge asks for 'openia' (nearest: 'openai')" in err
    assert "`bridgehold secrets rm openia` forgets it" in err
    assert "`bridgehold secrets rm pariss --tenant acme` forgets it" in told("acme", "pariss")
    assert "there is no [providers.mistrall] in" in told("local", "mine", "mistrall")
    for right in (("openai",), ("paris",), ("my-own",), ("openai2",), ("mine", "mistral")):
        assert told("local", *right) == ""


KEY = "sk-ab12cd34ef56gh78"


@pytest.mark.parametrize("words", [("openai", KEY), (f"openai={KEY}",), (KEY,), ("--json", "openai", KEY)])
def test_a_key_that_was_typed_as_an_argument_is_not_said_again(say: Say, words: tuple[str, ...]) -> None:
    status, out, err = say("secrets", "set", *words)
    assert status == 2
    assert KEY.lower() not in (out + err).lower()
    assert "A key never goes on a command line" in out + err
    assert "pipe it in" in out + err


def test_a_bridge_for_one_tenant_is_written_listed_and_shown_for_it(home: Layout, say: Say) -> None:
    assert say("bridge", "new", "poet", "--tenant", "acme")[0] == 0
    assert (home.own_bridges("acme") / "poet" / "bridge.toml").is_file()
    assert say("bridge", "show", "poet", "--tenant", "acme")[0] == 0
    status, _, err = say("bridge", "show", "poet")
    assert status == 6
    assert "there is no bridge 'poet'" in err
    assert "poet" not in err.partition("There are")[2]
    _, out, _ = say("bridge", "list", "--json")
    assert [one["tenant"] for one in json.loads(out) if one["name"] == "poet"] == ["acme"]
    assert say("bridge", "new", "poet", "--tenant", "globex")[0] == 0
    status, _, err = say("bridge", "new", "poet", "--tenant", "globex")
    assert (status, "is there already" in err) == (2, True)
    policies = {one: home.policies / f"poet@{one}.toml" for one in ("acme", "globex")}
    assert not (home.policies / "poet.toml").exists()

    def memory(tenant: str) -> tuple[str, int]:
        given = json.loads(say("policy", "explain", "poet", "--tenant", tenant, "--json")[1])
        return given["policy"], given["limits"]["memory_bytes"] >> 20

    policies["acme"].write_text(policies["acme"].read_text() + '[limits]\nmemory = "300MiB"\n')
    policies["globex"].write_text('extends = "poet"\n[limits]\nmemory = "200MiB"\n')
    (home.policies / "poet.toml").write_text('extends = "python"\n[limits]\nmemory = "100MiB"\n')
    assert [memory("acme"), memory("globex")] == [("poet@acme", 300), ("poet@globex", 200)]
    assert say("policy", "check")[0] == 0
    policies["globex"].unlink()  # the shared one holds, where none is the tenant's
    assert [memory("acme"), memory("globex")] == [("poet@acme", 300), ("poet", 100)]
    (home.policies / "peot@acme.toml").write_text('extends = "poet"\n')
    (home.policies / "poet@acme@globex.toml").write_text('extends = "poet"\n')
    (home.tenants / "acme@globex.toml").write_text("# nobody's\n")
    status, out, _ = say("policy", "check")
    assert status == 5
    assert "policies/peot@acme.toml: acme has no bridge 'peot' (nearest: 'poet')" in out
    assert out.count("nothing reads this") == 2
    policies["acme"].write_text('extends = "poet@globex"\n')
    assert "'poet@globex' is not a name" in say("policy", "explain", "poet", "--tenant", "acme")[2]
    status, _, err = say("bridge", "show", "pyton")
    assert "(nearest: 'python')" in err


NOW = datetime(2026, 11, 29, 15, 30, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("now", "2026-11-29T15:30:10"),
        ("Today", "2026-11-29T00:00:00"),
        ("yesterday", "2026-11-28T00:00:00"),
        ("90s", "2026-11-29T15:28:40"),
        ("15 min", "2026-11-29T15:15:10"),
        ("1h", "2026-11-29T14:30:10"),
        ("2 hours ago", "2026-11-29T13:30:10"),
        ("2 days ago", "2026-11-27T15:30:10"),
        ("1w", "2026-11-22T15:30:10"),
        ("2026-11-20", "2026-11-20T00:00:00"),
        ("2026-11", "2026-11-01T00:00:00"),
        ("2026-11-20T10:00+01:00", "2026-11-20T09:00:00"),
    ],
)
def test_times_are_read_as_people_write_them(written: str, meant: str) -> None:
    assert parse_time(written, NOW) == f"{meant}.000000"


@pytest.mark.parametrize(
    "written", ["yesterdy", "1", "1 fortnight", "ago", "-1h", "999999999w", "1.5h", "٣h", "in 2 hours"]
)
def test_what_is_no_time_is_refused_and_shown_how(written: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_time(written, NOW)
    assert "3 days ago" in caught.value.hint
    assert ("yesterday" in caught.value.message) is (written == "yesterdy")


def test_a_search_without_a_find_says_so_and_what_may_be_meant(home: Layout, say: Say) -> None:
    assert say("run", "python:execute", "--args", '{"code": "1"}', "--tenant", "acme")[0] == 0
    status, out, err = say("audit", "query", "--tenant", "acmee")
    assert (status, out) == (0, "")
    assert "no event fits: tenant acmee (nearest: 'acme')" in err
    assert "acme" in say("audit", "query", "--tenant", "acme", "--since", "1h")[1]
    assert say("audit", "query", "--until", "yesterday")[1] == ""
    status, _, err = say("audit", "query", "--since", "today", "--until", "yesterday")
    assert (status, "is not after since 'today'" in err) == (2, True), err
    for kind, near in (("egress.refusd", "egress.refused"), ("comand", "command"), ("sessions", "session")):
        status, _, err = say("audit", "query", "--kind", kind)
        assert (status, near in err) == (2, True), err
    for command, near in (("pyton:execute", "python:execute"), ("python:exceute", "python:execute")):
        status, _, err = say("run", command)
        assert (status, f"nearest: {near!r}" in err, "bridgehold why" in err) == (13, True, True), err
    for words, near in (
        (("audti",), "audit"),
        (("bridge", "lst"), "list"),
        (("audit", "query", "--knd=x"), "--kind"),
    ):
        status, _, err = say(*words)
        assert (status, near in err) == (2, True), err


def test_a_session_is_found_by_its_name_too(home: Layout, say: Say) -> None:
    for name in ("mine", "other", "mine"):  # each time on a private host of its own
        assert say("run", "python:execute", "--args", '{"code": "1"}', "--session", name)[0] == 0
    found = [
        json.loads(line) for line in say("audit", "query", "--session", "mine", "--json")[1].splitlines()
    ]
    opened = [one for one in found if one["kind"] == "session.opened"]
    assert [one["fields"]["name"] for one in opened] == ["mine", "mine"]
    ids = [one["session"] for one in opened]
    assert {one["session"] for one in found} == set(ids)
    by_id = [say("audit", "query", "--session", one, "--json")[1].splitlines() for one in ids]
    assert list(map(json.loads, by_id[0] + by_id[1])) == found
    assert len(say("audit", "query", "--session", "mine", "--limit", "3")[1].splitlines()) == 3
    for typed, told in (
        (("pyton",), "there is no bridge 'pyton', here or in this audit (nearest: 'python')"),
        (("pyton", "--json"), "there is no bridge 'pyton'"),
        (("python", "--tenant", "locl"), "there is no tenant 'locl' (nearest: 'local')"),
        (("python", "--session", f"{ids[0]}x"), f"(nearest: {ids[0]!r})"),
        (("python", "--session", "mine"), f"its id is {ids[0]}"),
        (
            ("pandas", "--session", ids[0]),
            f"remedy `bridgehold policy learn python --tenant local --session {ids[0]}`",
        ),
    ):
        status, out, err = say("policy", "learn", *typed)
        assert (status, told in out + err) == (6, True), out + err
    status, out, err = say("policy", "learn", "pandas")  # which did nothing: an answer, and no fault
    assert (status, "extends" in out, "was let do nothing" in err) == (0, True, True)
    status, _, err = say("audit", "query", "session = mine")
    assert (status, "--session mine finds it by its name" in err) == (0, True), err
    status, _, err = say("why", "mine")
    assert (status, "`bridgehold audit query --session mine`" in err) == (6, True), err
    for what, slip, near in (("tenant", "lcoal", "local"), ("framework", "pyton", "python")):
        status, out, err = say("audit", "report", f"--{what}", slip)  # an empty review is no clean one
        said = f"{slip}: no event is of it (nearest: {near!r})"
        assert (status, f"{what} {said}" in err, f"- {what}: {slip}: no event is of it" in out) == (
            0,
            True,
            True,
        ), err
        assert "no event is of it" not in say("audit", "report", f"--{what}", near)[1]
    status, _, err = say("audit", "query", "--framework", "pyton")
    assert (status, "framework pyton (nearest: 'python')" in err) == (0, True), err
    status, _, err = say("policy", "show", "pyton")
    assert (status, "nearest: 'python'" in err) == (5, True), err
    empty = home.config / "bridges"
    for words in (
        ("audit", "query"), ("audit", "tail"), ("audit", "verify"), ("audit", "report"), ("audit", "export"),
        ("usage",), ("why", "i-0123456789ab.1"),
    ):  # fmt: skip
        status, out, err = say(*words, "--audit", str(empty))
        assert (status, out, "no audit in this folder" in err) == (50, "", True), (words, out, err)
    status, _, err = say("review", str(empty))
    assert (status, "no audit in this folder" in err) == (50, True), err
    for words in (("profile", "mine", "--seconds", "99"), ("top", "--every", "-1")):
        assert say(*words)[0] == 2
    status, out, err = say("audit", "query", "--session", "mien")
    assert (status, out, "no event fits: session mien (nearest: 'mine')" in err) == (0, "", True), err


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_a_port_in_use_is_told_with_who_has_it_and_another(
    family: socket.AddressFamily, home: Layout, say: Say
) -> None:
    host = "127.0.0.1" if family == socket.AF_INET else "::1"
    with socket.socket(family) as other:
        other.bind((host, 0))
        other.listen()
        port = other.getsockname()[1]
        address = f"{host}:{port}" if family == socket.AF_INET else f"[{host}]:{port}"
        status, _, err = say("serve", "--http", address)
        assert status == 3
        assert f"can't listen on {address}: pid {os.getpid()} (" in err
        assert "where  --http" in err
        assert "End it, or choose another port" in err
        if family == socket.AF_INET:
            status, _, err = say("bridge", "provider", "--port", str(port))
            assert (status, f"pid {os.getpid()} (" in err, "where  --port" in err) == (3, True, True), err
        home.config_file.write_text(f'[http]\nlisten = "{address}"\n')
        status, _, err = say("serve")
        assert (status, f"where  [http] listen in {home.config_file}" in err) == (3, True), err
    for wrong, hint in (
        ("192.0.2.7:8765", "no loopback"),
        ("127.0.0.1:99999", "no address"),
        ("localhost:1", "no address"),
    ):
        status, _, err = say("serve", "--http", wrong)
        assert (status, hint in err) == (3, True), err
    with pytest.raises(ConfigError) as caught:
        listen("192.0.2.7:8765", public=True, said="--http")
    assert "no such address" in caught.value.hint


@pytest.mark.skipif(os.getuid() != 0, reason="what another user may not see takes two users")
def test_a_port_of_another_users_and_one_of_roots_are_told_as_such(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        for port, said in ((other.getsockname()[1], "not shown to this user"), (80, "Ports below 1024")):
            done = subprocess.run(
                [sys.executable, "-c", (f"from bridgehold.faces.http.listening import listen\n"
                 f"try: listen('127.0.0.1:{port}', public=False)\n"
                 "except Exception as error: print(error, error.hint)")],
                capture_output=True, text=True, check=False, user=65_534, group=65_534, cwd="/",
            )  # fmt: skip
            assert said in done.stdout, done.stderr


def test_a_configuration_that_lies_where_it_is_not_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, say: Say, home: Layout
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    beside = tmp_path / ".config/bridgehold/config.toml"
    beside.parent.mkdir(parents=True)
    assert "not read" not in say("config")[2]
    beside.write_text("")
    assert f"not read: {beside}; {home.config_file} is" in say("config")[2]
    monkeypatch.delenv("BRIDGEHOLD_HOME")
    layout = find_layout(os.environ, os.getuid())
    check = configuration_probe(layout).run(Context())
    if os.getuid() == 0:
        assert check.status == "CAUTION"
        assert str(beside) in check.detail
        assert str(layout.config) in check.remedy
    else:
        assert (check.status, str(beside) in check.detail) == ("PASS", True)


def test_what_everyone_writes_first_is_told_how_it_is_written_here(say: Say) -> None:
    status, _, err = say("run", "python:execute", '{"code": "1"}')
    assert (status, "Arguments go in as JSON: --args" in err) == (2, True), err
    status, _, err = say("tenant", "limit", "acme", "--sessions", "1")
    assert (status, "A ceiling is KEY=VALUE: sessions=2" in err) == (2, True), err
    for other in (("run", "python:execute", "--nonsense"), ("tenant", "limit"), ("tenant", "show", "a", "b")):
        status, _, err = say(*other)
        assert (status, "--help` shows what it takes" in err, "JSON: --args" in err) == (2, True, False), err


def test_a_reload_names_one_line_for_one_key_and_what_holds_without_it(home: Layout, say: Say) -> None:
    provider = '[providers.mine]\nbase_url = "https://example.com/v1"\n'
    waits = '[secrets]\nstore = "keyring"\n'
    old, new = (
        parse_config("", "x"),
        parse_config(provider + waits + "[bridges.dspy]\npool_size = 2\n[bridges.x]\n", "x"),
    )
    merged, found = merge(old, new)
    assert found.applied == ("bridges.dspy.pool_size", "bridges.x", "providers.mine.base_url")
    assert found.waiting == ("secrets.store",)
    assert merge(merged, old)[1].applied == found.applied
    assert merge(merged, merged)[1].applied == ()
    private = PrivateHost.start(home, dict(os.environ))
    try:
        with SyncClient.connect(home.socket) as client:
            client.request("ping")
            assert "nothing has changed, neither" in say("reload")[1]
            (home.policies / "dspy.toml").write_text('extends = "dspy"\n[limits]\nmemory = "600MiB"\n')
            (home.tenants / "acme.toml").write_text("[limits]\nmemry = 1\n")
            home.config_file.write_text(provider + waits)
            _, out, err = say("reload")
            *lines, refused = out.splitlines()
            assert lines == [
                "taken over  providers.mine.base_url",
                "waits for a restart  secrets.store",
                "holds already  policies/dspy.toml",
            ], out
            assert refused.startswith("holds already  tenants/acme.toml (refused: ")
            assert refused.endswith(":2: limits.memry: unknown key (nearest: 'memory'))")
            assert "bridgehold restart" in err
            assert say("reload")[1].startswith("waits for a restart  secrets.store\n")
            home.config_file.unlink()
            assert "Put it back; an empty file means the defaults." in say("reload")[2]
    finally:
        private.stop()


def test_a_lock_is_refused_for_what_is_wrong_and_taken_from_where_a_build_takes_it(
    tmp_path: Path, home: Layout, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    dist = tmp_path / "dist"
    dist.mkdir()
    wheels = [make_wheel(dist), make_wheel(dist, "foreign_pkg", tag="cp27-cp27m-win32")]
    index = make_index(tmp_path, [*wheels, make_sdist(dist, tmp_path / "canary", "source_pkg")])
    home.config_file.write_text(f'[host]\nindex = "{index}"\n')
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    assert say("bridge", "new", "toy")[0] == 0
    folder = home.bridges / "toy"
    manifest = (folder / "bridge.toml").read_text()
    asked = 'requirements = "requirements.in"\nlock = "requirements.lock"\n[resources'
    (folder / "bridge.toml").write_text(manifest.replace("[resources", asked, 1))
    for text, said in (
        ("no-such-pkg", "Check how its name is spelt"),
        ("demo-pkg>=2", "Ask for a version that exists"),
        ("source-pkg", "nothing is built from source"),
        ("foreign-pkg", "nothing is built from source"),
    ):
        (folder / "requirements.in").write_text(f"{text}\n")
        status, _, err = say("bridge", "lock", "toy")
        assert (status, said in err, text.partition(">")[0] in err) == (16, True, True), err
    (folder / "requirements.in").write_text("demo-pkg\n")
    assert say("bridge", "lock", "toy")[0] == 0
    assert "demo-pkg==1.0" in (folder / "requirements.lock").read_text()
    for wrong in ("banana", "2.7", "3"):
        assert say("bridge", "lock", "toy", "--python", wrong)[0] == 2
    monkeypatch.setenv("BRIDGEHOLD__HOST__INDEX", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    assert "Check the network" in say("bridge", "lock", "toy")[2]
    (folder / "bridge.toml").write_text(
        re.sub(
            r"^python = .*$", 'python = ">=3.99"', (folder / "bridge.toml").read_text(), flags=re.MULTILINE
        )
    )
    status, _, err = say("bridge", "lock", "toy")
    assert (status, "Python >=3.99 is needed" in err) == (15, True), err


@pytest.mark.skipif(os.getuid() != 0, reason="an ordinary user without a cgroup is made of root")
def test_a_private_host_that_cannot_start_says_what_is_missing_and_its_own_remedy() -> None:
    with tempfile.TemporaryDirectory(prefix="bh-nobody-") as folder:
        os.chown(folder, 65_534, 65_534)
        _cannot_start(Path(folder))


def _cannot_start(home: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bridgehold", "run", "python:execute", "--args", '{"code": "1"}', "--json"],
        env={**os.environ, "BRIDGEHOLD_HOME": str(home), "HOME": str(home)},
        capture_output=True, check=False, user=65_534, group=65_534, extra_groups=[], cwd="/", timeout=60,
    )  # fmt: skip
    error = json.loads(done.stdout or done.stderr)
    assert (done.returncode, error["code"]) == (51, "host_unavailable")
    assert "a private host could not start: no uids for sessions: " in error["message"]
    assert "usermod --add-subuids" in error["hint"]
    assert "usermod" not in error["message"]


def test_what_cannot_be_written_or_is_misspelt_is_told_before_anything_runs(
    home: Layout, say: Say, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    code = f'{{"code": "open({str(tmp_path / "ran")!r}, chr(119))"}}'
    status, _, err = say("run", "python:execute", "--args", code, "--record", str(folder))
    assert (status, f"where  {folder}" in err) == (2, True), err
    assert not (home.state / "audit").is_dir() or "command.intent" not in say("audit", "tail")[1]
    for words, said in (
        (("secrets", "set", "Bad!"), "is not a name"),
        (("policy", "explain", "python", "--tenant", "Bad!"), "is not a name"),
        (("run", "python:execute", "--args", f"@{tmp_path / 'gone'}"), "remedy Look how its path is spelt"),
        (("policy", "check", str(tmp_path / "gone")), "remedy Look how its path is spelt"),
        (("audit", "verify", "--audit", str(folder), "--key", str(folder)), "remedy A key is one file"),
        (("audit", "verify", "--audit", str(folder), "--anchors", str(tmp_path / "gone")), "remedy A key"),
    ):
        status, _, err = say(*words)
        assert (status != 0, said in err, "Errno" in err) == (True, True, False), err
    private = PrivateHost.start(home, dict(os.environ))
    try:
        for words in (
            ("sessions", "drain", "--bridge", "pyton"),
            ("sessions", "resume", "--bridge", "pyton"),
            ("resources", "--bridge", "pyton"),
        ):
            status, _, err = say(*words)
            assert (status, "nearest: 'python'" in err) == (6, True), err
        status, out, err = say("sessions", "drain", "--bridge", "python", "--tenant", "acme")
        assert (status, out) == (0, "0 sessions ended\n")
        assert "no new one of python for acme is opened until `bridgehold sessions resume`" in err
        assert say("run", "python:execute", "--args", '{"code": "1"}', "--tenant", "acme")[0] != 0
        assert "1 drained" in say("sessions", "resume", "--bridge", "python", "--tenant", "acme")[1]
    finally:
        private.stop()


def test_a_misspelt_tenant_is_refused_wherever_one_is_typed_and_one_of_its_own_is_not(
    home: Layout, say: Say
) -> None:
    home.tenants.mkdir(parents=True, exist_ok=True)
    (home.tenants / "acme.toml").write_text("[tenant]\n")
    home.config_file.write_text('[principals.app]\ntenants = ["globex"]\n')
    typed = {
        "run": ("python:execute",),
        "shell": ("python",),
        "stdio": (),
        "artifacts list": (),
        "secrets set": ("openai",),
        "bridge show": ("python",),
        "bridge check": ("python",),
        "bridge submit": ("mine",),
        "bridge new": ("mine",),
        "bridge rollback": ("mine",),
        "bridge submissions": (),
        "policy explain": ("python",),
        "policy lint": (),
        "policy posture": (),
        "resources": (),
    }
    for command, arguments in typed.items():
        for wrong, near in (("acmee", "acme"), ("globx", "globex"), ("locl", "local")):
            status, _, err = say(*command.split(), *arguments, "--tenant", wrong)
            assert (status, f"there is no tenant '{wrong}' (nearest: '{near}')" in err) == (6, True), command
    SecretAdmin.open_file(home.secrets).set("acme2", "openai", b"sk-of-acme2-0123456789")
    for fine in ("acme", "globex", "local", "acme2", "newcomer"):
        assert "no tenant" not in say("artifacts", "list", "--tenant", fine)[2]
    assert not (home.tenants / "acmee").exists()


def test_a_token_file_without_a_token_is_no_reason_to_ask_as_somebody_else(
    home: Layout, tmp_path: Path
) -> None:
    """What its reader's uid may is more than what any token may."""
    named = tmp_path / "token"
    for text in ("", "\r\n"):
        named.write_text(text)
        named.chmod(0o600)
        with pytest.raises(ConfigError, match="the file has no token") as caught:
            token_of({"BRIDGEHOLD_TOKEN_FILE": str(named)})
        assert caught.value.where == str(named)
    assert token_of({}) == ""


def test_a_byte_order_mark_is_named_wherever_a_file_of_ours_begins_with_one(home: Layout, say: Say) -> None:
    marked = "\ufeff"
    (home.policies / "python.toml").write_text(f'{marked}extends = "python"\n')
    (home.tenants / "acme.toml").parent.mkdir(exist_ok=True)
    (home.tenants / "acme.toml").write_text(f"{marked}[tenant]\n")
    arguments = home.config / "arguments.json"
    arguments.write_text(f'{marked}{{"code": "1"}}')
    said = [say("policy", "check"), say("run", "python:execute", "--args", f"@{arguments}")]
    home.config_file.write_text(f"{marked}[host]\n")
    said.append(say("policy", "check"))
    for status, out, err in said:
        assert (status != 0, "begins with a byte order mark" in out + err) == (True, True), out + err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[providers.x]\nbase_url = "https://x.org"\nprivat = true', "providers.x.privat: unknown key (nearest: 'private')"),
        ("[hots]\nx = 1", "hots: unknown key (nearest: 'host')"),
        ('[providers.x]\nbase_url = "https://x.org"\n[providers.x.models.m]\nprise = 1', "models.m.prise: unknown key (nearest: 'price')"),
        ('[bridges.x]\nscript = "/a"', "bridges.x.script: unknown key (nearest: 'scripts')"),
        ("[zygotes]\nqqqq = 1", "zygotes.qqqq: unknown key"),
    ],
)  # fmt: skip
def test_an_unknown_key_of_the_configuration_is_told_with_the_nearest(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "x")
    assert said in caught.value.message


def test_a_drain_says_what_was_drained() -> None:
    for tenant, bridge, said in (("acme", "", "acme"), ("", "python", "python"), ("", "", "this host"), ("acme", "python", "python of acme")):  # fmt: skip
        cordons = Cordons()
        cordons.add(tenant, bridge)
        with pytest.raises(BusyError, match=f"an operator has drained {said}$"):
            cordons.demand("acme", "python")


def test_a_tenants_sessions_are_shown_beside_their_ceiling(capsys: pytest.CaptureFixture[str]) -> None:
    info = TenantInfo(name="acme", state="active", sessions=1, limits={"sessions": "2", "memory": "1GiB"})
    tenants._one(msgspec.to_builtins(info), json_output=False)
    said = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert [value for key, value in said if key in ("sessions", "memory")] == ["1 of 2", "1GiB"]


def test_a_folder_in_a_bridges_place_is_told_as_one(
    home: Layout, say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert say("bridge", "new", "toy")[0] == 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine.py").touch()
    shutil.copytree(home.bridges / "toy", tmp_path / "copied")
    of_none = "remedy `bridgehold bridge new mine` writes a bridge that runs"
    for words, told in (
        (("bridge", "check", "./mine"), of_none),
        (("bridge", "check", "mine"), of_none),
        (("bridge", "check", "mine", "--json"), "no bridge.toml"),
        (("bridge", "lock", "./mine/"), of_none),
        (("bridge", "build", str(tmp_path / "mine")), of_none),
        (("bridge", "dev", "./mine:act"), of_none),
        (("run", "./mine:act"), of_none),
        (("shell", "./mine"), of_none),
        (("policy", "lint", "./mine"), of_none),
        (("policy", "learn", "./mine"), of_none),
        (("run", "./mine.py"), "remedy `bridgehold python ./mine.py` runs a script"),
        (("bridge", "show", str(home.bridges / "toy")), "Type toy instead."),
        (("bridge", "show", "./copied"), f"Copy it to {home.bridges / 'copied'}"),
        (("bridge", "show", "./gone"), "there is no bridge './gone'"),
    ):
        status, out, err = say(*words)
        assert (status, told in out + err) == (6, True), out + err
    (tmp_path / "toy").mkdir()  # beside a bridge of that name: the bridge is meant
    assert say("bridge", "show", "toy")[0] == 0


@pytest.mark.parametrize(
    ("asked", "locked", "told"),
    [
        ("numpy>>2", "", "requirements.in:1). One a line"),
        ("numpy\n-r other.txt", "", "requirements.in:2)"),
        (None, "", "there is no such file"),
        ("numpy", None, "`bridgehold bridge lock toy{own}` writes it"),
        ("numpy", "", "numpy is asked for and not in the lock. Remedy: bridgehold bridge lock toy{own}"),
        ("numpy", "numpy==2.0.0", "requirements.lock:1). Make the lock anew"),
        ("numpy", f"numpy==2.0.0 --hash=sha256:{'0' * 64}\n" * 2, "pinned twice"),
        ("numpy; sys_platform == 'win32'", "", ""),
    ],
)
@pytest.mark.parametrize("own", ["", " --tenant acme"])
def test_bridge_check_says_what_lock_and_build_would_refuse_before_anything_starts(
    say: Say,
    home: Layout,
    monkeypatch: pytest.MonkeyPatch,
    asked: str | None,
    locked: str | None,
    told: str,
    own: str,
) -> None:
    assert say("bridge", "new", "toy", *own.split())[0] == 0
    folder = (home.own_bridges("acme") if own else home.bridges) / "toy"
    manifest = folder / "bridge.toml"
    named = 'requirements = "requirements.in"\nlock = "requirements.lock"\n[resources'
    manifest.write_text(manifest.read_text().replace("[resources", named, 1))
    for name, text in (("requirements.in", asked), ("requirements.lock", locked)):
        if text is not None:
            (folder / name).write_text(text)
    started = list[str]()

    async def start(*_: object, **__: object) -> list[Verdict]:
        started.append("a host")
        return []

    monkeypatch.setattr(authoring, "_check", start)
    status, out, _ = say("bridge", "check", "toy", *own.split(), "--json")
    failed = json.loads(out)
    assert (status, not failed) == ((1, False) if told else (0, True)), out
    assert any(told.format(own=own) in one["detail"] for one in failed) or not told, out
    assert started == ([] if told else ["a host"])
