"""Tenants and tokens as values: strictly read, rewritten without touching anything else, never widened."""

from __future__ import annotations

import tomllib
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridgehold.client.once import token_of
from bridgehold.errors import ConfigError, PolicyError, SuspendedError, UsageError
from bridgehold.policies import tenants, tokens
from bridgehold.policies.compose import compose_tenant
from bridgehold.policies.model import Ceilings
from bridgehold.policies.tables import format_time, parse_time
from bridgehold.policies.tenants import Tenant

FILE = "tenants/acme.toml"
BY_HAND = '[limits]\ncommand = "20s"  # ours\n\n[bridges.python.rate]\nconcurrency = 2\n'


def faults(text: str) -> list[str]:
    with pytest.raises(PolicyError) as caught:
        tenants.parse("acme", text, FILE)
    return caught.value.message.splitlines()


def test_every_fault_is_told_with_its_line_and_the_nearest_key() -> None:
    said = faults(
        '[tenant]\nstaet = "suspended"\nstate = "supended"\n[tenant.limits]\nsesions = 3\nmemory = "8"\n'
    )
    assert said == [
        "tenants/acme.toml:2: tenant.staet: unknown key (nearest: 'state')",
        "tenants/acme.toml:3: tenant.state: one of active, suspended, revoked is expected (nearest: 'suspended')",
        "tenants/acme.toml:5: tenant.limits.sesions: unknown key (nearest: 'sessions')",
        "tenants/acme.toml:6: tenant.limits.memory: '8' is not a size such as 512MiB (B, KiB, MiB, GiB, TiB)",
    ]
    for text in (
        "tenant = 3\n",
        "[tenant]\nlimits = 3\n",
        "[tenant\n",
        "[tenant]\nreason = 'a\\u0007'\n" * 2,
    ):
        assert faults(text)
    assert faults('[tenant]\nreason = "a\\nb"\n')
    assert faults("[tenant.limits]\nsessions = true\n")
    assert faults("[tenant.limits]\nsessions = -1\n")


def test_a_file_without_the_table_is_a_tenant_without_ceilings() -> None:
    assert tenants.parse("acme", BY_HAND, FILE) == Tenant(name="acme", source=FILE)
    tenants.parse("acme", BY_HAND, FILE).demand()


def test_nothing_begins_for_one_that_is_not_active() -> None:
    for state in ("suspended", "revoked"):
        tenant = tenants.parse("acme", f'[tenant]\nstate = "{state}"\nreason = "unpaid"\n', FILE)
        with pytest.raises(SuspendedError, match=f"acme is {state}: unpaid") as caught:
            tenant.demand()
        assert caught.value.where == "tenants/acme.toml:1"
        assert "`bridgehold tenant resume NAME`; a revoked one stays so" in caught.value.hint


def test_what_stands_beside_the_table_is_never_touched() -> None:
    wanted = Tenant(name="acme", state="suspended", reason='un"paid\\', limits=Ceilings(memory=3 << 29))
    text = tenants.rewritten(BY_HAND, wanted, FILE)
    assert text.startswith(BY_HAND.rstrip())
    again = tenants.parse("acme", text, FILE)
    assert (again.state, again.reason, again.limits) == (wanted.state, wanted.reason, wanted.limits)
    assert 'memory = "1536MiB"' in text
    lines = tenants.rewritten(BY_HAND.replace("\n", "\r\n"), wanted, FILE)
    assert tomllib.loads(lines) == tomllib.loads(text)
    moved = tenants.rewritten(text + "[rate]\nconcurrency = 3\n", Tenant(name="acme"), FILE)
    assert tomllib.loads(moved)["rate"] == {"concurrency": 3}
    assert "limits" not in tomllib.loads(moved)["tenant"]
    assert (
        compose_tenant("acme", text, FILE, "python", lambda _: None, known=["python"]).limits.command_ms
        == 20_000
    )


@pytest.mark.parametrize(
    "text",
    [
        'tenant.state = "active"\n[limits]\n',
        'tenant = { state = "active" }\n',
        '["\\u0074enant"]\nstate = "active"\n',
        '[tenant]\n[bridges.dspy.filesystem]\nread = [\n["tenant"],\n]\n',
        '[bridges.dspy.filesystem]\nread = [\n["tenant"],\n]\n',
        'note = """\n[tenant]\n"""\n',
        "[limits\n",
    ],
)
def test_a_file_that_cant_be_rewritten_safely_is_refused_as_it_is_read(text: str) -> None:
    """Else it would say "active" for good, whoever suspends or revokes the tenant."""
    for act in (
        lambda: tenants.parse("acme", text, FILE),
        lambda: tenants.rewritten(text, Tenant(name="acme", state="suspended"), FILE),
    ):
        with pytest.raises(PolicyError):
            act()


@given(
    reason=st.text(max_size=300).filter(str.isprintable),
    sessions=st.integers(0, 2**40),
    size=st.integers(1 << 20, 10**14),
)
def test_what_is_written_is_read_again(reason: str, sessions: int, size: int) -> None:
    wanted = Tenant(name="a", reason=reason, limits=Ceilings(sessions=sessions, memory=size), declared=True)
    again = tenants.parse("a", tenants.rewritten("", wanted, FILE), FILE)
    assert msgspec.structs.replace(again, source="") == wanted


def test_ceilings_are_changed_by_key_and_refused_all_at_once() -> None:
    limits = tenants.limited(
        Ceilings(sessions=3), {"memory": "8GiB", "sessions": None, "tokens_per_day": "7"}
    )
    assert limits == Ceilings(memory=8 << 30, tokens_per_day=7)
    assert faults('[tenant.limits]\nbytes_per_second = "0 B"\n'), "no ceiling is none that is said"
    money = tenants.limited(Ceilings(), {"money_per_day": "12.5", "money_per_month": 300})
    assert tenants.shown(money) == {"money_per_day": 12.5, "money_per_month": 300}
    with pytest.raises(UsageError) as caught:
        tenants.limited(Ceilings(), {"sesions": 3, "memory": "much", "cpu_share": 0, "tokens_per_day": "x"})
    assert caught.value.message.count("\n") == 3
    assert "(nearest: 'sessions')" in caught.value.message
    for value in ("-1", "1.5", "1e3", "1_000", "1M"):
        with pytest.raises(UsageError, match="whole number in plain digits") as caught:
            tenants.limited(Ceilings(), {"tokens_per_day": value})
        assert "requests_per_day=2000" in caught.value.hint, "how one is written, and no list of keys"


def token(**given: object) -> tokens.Token:
    facts = {"name": "app", "digest": tokens.digest_of("x"), "scope": tokens.Scope(tenants=("acme",))}
    return tokens.Token(**{**facts, **given})


def test_a_token_is_taken_until_it_ends_and_the_one_before_as_long_as_it_is_said() -> None:
    secret, older = tokens.new_token("app"), tokens.new_token("app")
    assert tokens.name_in(secret) == "app"
    assert len(secret) == len("bh_app_") + 64
    one = token(
        digest=tokens.digest_of(secret), previous=tokens.digest_of(older), previous_until=50.0, expires=100.0
    )
    assert one.takes(secret, 99)
    assert not one.takes(secret, 100)
    assert one.takes(older, 49)
    assert not one.takes(older, 50)
    assert not one.takes(secret[:-1], 1)
    assert not token().takes("", 1)
    assert one.ends() == (100.0, 50.0)


@pytest.mark.parametrize(
    "text", ["", "bh_", "bh_a", "bh__" + "0" * 64, "bh_../x_" + "0" * 64, "bh_a_" + "G" * 64]
)
def test_what_is_no_token_has_no_name(text: str) -> None:
    assert tokens.name_in(text) == ""


def test_a_tokens_file_holds_its_digest_and_nothing_that_it_is() -> None:
    secret = tokens.new_token("app")
    scope = tokens.Scope(
        tenants=("acme",), bridges=("python",), operations=("python:*",), read_only=True, logs=False
    )
    one = token(digest=tokens.digest_of(secret), scope=scope, expires=2e9, by="owner", at="now")
    text = tokens.render(one)
    assert tokens.parse("app", text, "f") == one
    assert secret not in text
    assert secret.rpartition("_")[2] not in text


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("operator = true", "unknown key"),
        ('digest = "bh_app_0"', "never a token"),
        ("tenants = []", "at least one tenant"),
        ('tenants = ["*"]', "not a name"),
        ('tenants = ["../x"]', "not a name"),
        ('tenants = "acme"', "a list of names"),
        ('operations = ["a b"]', "no pattern"),
        ('expires = "tomorrow"', "no time such as"),
        ('read_only = "yes"', "true or false"),
    ],
)
def test_a_tokens_file_that_says_something_else_is_refused(line: str, said: str) -> None:
    facts = {"digest": f'digest = "{tokens.digest_of("x")}"', "tenants": 'tenants = ["acme"]'}
    facts[line.partition(" ")[0]] = line
    with pytest.raises(PolicyError, match=said):
        tokens.parse("app", "\n".join(facts.values()), "tokens/app.toml")


def test_times_go_both_ways() -> None:
    assert parse_time(format_time(2e9)) == 2e9
    assert format_time(0) == ""


def test_a_clients_token_comes_from_a_file_that_nobody_else_may_read(tmp_path: Path) -> None:
    assert token_of({}) == ""
    file = tmp_path / "token"
    file.write_text("bh_app_x\n")
    file.chmod(0o600)
    assert token_of({"BRIDGEHOLD_TOKEN_FILE": str(file)}) == "bh_app_x"
    file.chmod(0o640)
    with pytest.raises(ConfigError, match="others may read this token") as caught:
        token_of({"BRIDGEHOLD_TOKEN_FILE": str(file)})
    assert "chmod 600" in caught.value.hint
    with pytest.raises(ConfigError):
        token_of({"BRIDGEHOLD_TOKEN_FILE": str(tmp_path / "none")})
