"""The configuration beyond its file: overrides, what a reload takes over, what an operator demands."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridgehold.config.effective import effective_settings
from bridgehold.config.load import Config, load_config, overrides, parse_config
from bridgehold.config.required import unmet
from bridgehold.config.sections import BridgeSection
from bridgehold.config.settings import Settings, digest_of_told, merge
from bridgehold.errors import ConfigError, UnsupportedError
from bridgehold.sandbox.envs.interpreter import host_interpreter
from bridgehold.sandbox.envs.lock import parse_lock


def config(text: str, **environ: str) -> Config:
    return parse_config(text, "config.toml", overrides(environ))


def test_a_variable_says_a_single_key_and_wins() -> None:
    found = config(
        '[host]\nmax_sessions = 5\ncgroup = "v1"\n[bridges.dspy]\npool_size = 1\n',
        BRIDGEHOLD__HOST__MAX_SESSIONS="50",
        BRIDGEHOLD__HOST__CGROUP="none",
        BRIDGEHOLD__BRIDGES__DSPY__POOL_SIZE="3",
        BRIDGEHOLD__BRIDGES__DSPY__PRESTART='["acme"]',
        BRIDGEHOLD__FEATURES__FORK="false",
        BRIDGEHOLD_HOME="/elsewhere",
    )
    assert (found.host.max_sessions, found.host.cgroup) == (50, "none")
    assert (found.bridges["dspy"].pool_size, found.bridges["dspy"].prestart) == (3, ("acme",))
    assert found.features.fork is False


def test_every_fault_is_named_at_once_with_who_said_it_and_never_the_value() -> None:
    with pytest.raises(ConfigError) as caught:
        config(
            "[host]\nmax_sessions = 0\nnothing = 1\n",
            BRIDGEHOLD__HOST__UID_COUNT="sk-secret-value",
            BRIDGEHOLD__HOTS__X="1",
        )
    text = caught.value.message
    assert text.startswith("4 fault(s)")
    assert "host.max_sessions" in text
    assert "host.nothing" in text
    assert "(BRIDGEHOLD__HOST__UID_COUNT)" in text
    assert "(BRIDGEHOLD__HOTS__X)" in text
    assert "sk-secret" not in text


@pytest.mark.parametrize(
    "line",
    [
        'LD_PRELOAD = "/x.so"',
        'PYTHONPATH = "/x"',
        'NODE_OPTIONS = "--require /x.js"',
        'SSLKEYLOGFILE = "/scratch/x"',
        'LC_ALL = "C"',
        'PATH = "/x"',
        'BRIDGEHOLD_X = "1"',
        'OPENAI_API_KEY = "x"',
        'HF_TOKEN = "x"',
        'HTTPS_PROXY = "http://x"',
        'lower = "x"',
        '"A=B" = "x"',
        'OK = "sk-proj-0123456789abcdefghijABCDEFGHIJ0123456789abcdefgh"',
        'OK = "two\\nlines"',
        f'OK = "{"x" * 5_000}"',
    ],
)
def test_variables_that_may_not_go_inside_are_refused_and_their_value_is_not_told(line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config(f"[bridges.dspy.environment]\n{line}\n")
    assert "bridges.dspy.environment" in caught.value.message
    assert "sk-proj" not in caught.value.message


def test_what_is_harmless_may_go_inside() -> None:
    found = config('[bridges.dspy.environment]\nTOKENIZERS_PARALLELISM = "false"\nMAX_TOKENS = "1"\n')
    assert len(found.bridges["dspy"].environment) == 2


def test_a_reload_takes_over_what_it_can_and_names_the_rest() -> None:
    old = config('[host]\nmax_sessions = 5\n[bridges.x]\nscripts = "/a"\n')
    new = config(
        '[host]\nmax_sessions = 6\ncgroup = "none"\n[providers.mine]\nbase_url = "https://x.example"\n'
        '[bridges.x]\nscripts = "/b"\npool_size = 2\n[features]\ntools = ["acme"]\n'
    )
    merged, found = merge(old, new)
    told = ("bridges.x.pool_size", "bridges.x.scripts", "features.tools", "host.max_sessions")
    assert (*found.applied[:4], found.waiting) == (*told, ("host.cgroup",))
    assert all(key.startswith("providers.mine.") for key in found.applied[4:])
    assert (merged.host.max_sessions, merged.host.cgroup, merged.bridges["x"].scripts) == (6, "auto", ("/b",))
    assert merged.providers["mine"].base_url == "https://x.example"
    assert digest_of_told(merged) == digest_of_told(new) != digest_of_told(old)
    assert merge(merged, merged)[1].applied == ()


def test_a_feature_is_on_off_or_for_some_tenants() -> None:
    features = config('[features]\nfork = false\ntools = ["acme"]\n').features
    assert (features.on("fork", "acme"), features.on("tools", "acme"), features.on("tools", "x")) == (
        False,
        True,
        False,
    )
    features.demand("tools", "acme")
    with pytest.raises(UnsupportedError, match="switched off here for x"):
        features.demand("tools", "x")
    settings = Settings(config("[features]\npools = false\nrecovery = false\n[bridges.b]\npool_size = 3\n"))
    assert settings.pool("acme", "b").size == 0
    assert not settings.recovers("acme", "b")


def test_what_an_operator_demands_of_a_lock_is_named_as_a_whole() -> None:
    pin = "one==1.5 --hash=sha256:" + "0" * 64 + "\n"
    lock = parse_lock(pin, "requirements.lock")
    section = BridgeSection(required_packages=("One>=2", "two"), min_python="4.0")
    found = unmet(section, lock, host_interpreter())
    assert len(found) == 3
    assert "its lock has 1.5" in found[0]
    assert found[1] == "two is not in its lock"
    assert (
        unmet(BridgeSection(required_packages=("one>=1,<2",), min_python="3.8"), lock, host_interpreter())
        == []
    )
    for wrong in (
        'required_packages = ["./evil"]',
        'required_packages = ["x @ file:///x"]',
        'min_python = "x"',
    ):
        with pytest.raises(ConfigError):
            config(f"[bridges.b]\n{wrong}\n")


def test_who_said_what_is_shown(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("[host]\nmax_sessions = 5\n[bridges.x.environment]\nA = '1'\n")
    environ = {"BRIDGEHOLD__HOST__OVERCOMMIT": "true"}
    found = {one.key: (one.value, one.by) for one in effective_settings(file, environ)}
    assert found["host.max_sessions"] == (5, "config.toml")
    assert found["host.overcommit"] == (True, "BRIDGEHOLD__HOST__OVERCOMMIT")
    assert found["host.cgroup"] == ("auto", "default")
    assert found["bridges.x.environment"] == ({"A": "1"}, "config.toml")
    assert load_config(file, environ).host.overcommit
