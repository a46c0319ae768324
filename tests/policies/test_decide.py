"""Decisions, each with its rule, reason and line: ABUSE 23 to 25, 33, 45 as pure acts."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

import msgspec
import pytest

from bridgehold.policies.content import NO_BODY, BodyFacts, Finding
from bridgehold.policies.decide import (
    DEFAULT_DENY,
    decide_address,
    decide_call,
    decide_connect,
    decide_egress,
    decide_operation,
    decide_tool,
    secret_of,
)
from bridgehold.policies.model import Connect, Grant, Needs, Rules

POLICY = """\
weakenings = ["connect", "private_network", "env_secret"]
[network.endpoints.openai]
paths = ["/chat/completions", "/embeddings"]
[[network.connect]]
host = "*.example.com"
[[network.connect]]
host = "10.0.0.7"
private = true
[[network.connect]]
host = "8.8.8.8"
[secrets.openai]
[secrets.token]
how = "env"
variable = "HUB_TOKEN"
[operations]
allow = ["dspy:*"]
deny = ["dspy:delete_*"]
[tools]
allow = ["search_*"]
deny = ["search_private"]
[resources]
allow = ["program"]
"""


@pytest.fixture
def grant(grant_of: Callable[..., Grant], needs: Needs) -> Grant:
    connects = (*needs.connects, Connect(host="8.8.8.8"))
    from msgspec.structs import replace

    return grant_of(POLICY, needs=replace(needs, connects=connects))


def test_an_allowed_operation_names_its_rule_and_line(grant: Grant) -> None:
    decision = decide_operation(grant, "dspy", "create_program", ["program"])
    assert (decision.allowed, decision.rule, decision.source) == (True, "operations.allow[0]", "own.toml:16")


@pytest.mark.parametrize(
    ("bridge", "operation", "resource", "rule", "source"),
    [
        ("dspy", "delete_program", None, "operations.deny[0]", "own.toml:17"),
        ("dspy", "unknown", None, "default-deny", "own.toml:16"),
        ("dspy", "CREATE_PROGRAM", None, "default-deny", "own.toml:16"),
        ("dspy", "create_program\n", None, "default-deny", "own.toml:16"),
        ("dspy", "*", None, "default-deny", "own.toml:16"),
        ("python", "execute", None, "bridge", "own.toml:15"),
        ("dspy", "create_program", "model", "default-deny", "own.toml:22"),
        ("common", "shutdown", None, "common", ""),
        ("common", "open", None, "common", ""),
        ("common", "anything", None, "common", ""),
    ],
)
def test_operations_that_are_refused(
    grant: Grant, bridge: str, operation: str, resource: str | None, rule: str, source: str
) -> None:
    decision = decide_operation(grant, bridge, operation, [resource] if resource else [])
    assert (decision.allowed, decision.rule, decision.source) == (False, rule, source)
    assert decision.reason


@pytest.mark.parametrize("operation", ["ping", "get_stats", "get_capabilities", "health"])
def test_common_operations_are_always_allowed(grant_of: Callable[..., Grant], operation: str) -> None:
    assert decide_operation(grant_of(""), "common", operation).allowed


def test_deny_wins_for_tools_too(grant: Grant) -> None:
    assert decide_tool(grant, "search_web").allowed
    assert decide_tool(grant, "search_private").rule == "tools.deny[0]"
    assert decide_tool(grant, "Search_web").rule == "default-deny"


def test_egress_that_is_granted(grant: Grant) -> None:
    decision = decide_egress(grant, "openai", "POST", "/chat/%63ompletions/", NO_BODY)
    assert decision.allowed
    assert decision.rule == "network.endpoints.openai.paths[0]"
    assert decision.source == "own.toml:3"


@pytest.mark.parametrize(
    ("provider", "method", "path", "rule"),
    [
        ("anthropic", "POST", "/chat/completions", "default-deny"),
        ("OpenAI", "POST", "/chat/completions", "default-deny"),
        ("openai", "GET", "/chat/completions", "network.endpoints.openai.methods"),
        ("openai", "post", "/chat/completions", "network.endpoints.openai.methods"),
        ("openai", "POST", "/files", "default-deny"),
        ("openai", "POST", "/Chat/completions", "default-deny"),
        ("openai", "POST", "/chat/completions/x", "default-deny"),
        ("openai", "POST", "/chat/../files", "names.path"),
        ("openai", "POST", "/chat/%2e%2e/files", "names.path"),
        ("openai", "POST", "/chat%2fcompletions", "names.path"),
        ("openai", "POST", "//chat/completions", "names.path"),
        ("openai", "POST", "/chat\\completions", "names.path"),
        ("openai", "POST", "/chat/completions\x00", "names.path"),
        ("openai", "POST", "https://evil.example/chat/completions", "names.path"),
    ],
)
def test_egress_that_is_refused(grant: Grant, provider: str, method: str, path: str, rule: str) -> None:
    decision = decide_egress(grant, provider, method, path, NO_BODY)
    assert (decision.allowed, decision.rule) == (False, rule)
    assert decision.source.startswith("own.toml:")


@pytest.mark.parametrize(
    ("facts", "key", "remedy"),
    [
        (
            BodyFacts(finding=Finding(place="tools[0].type", value="mcp", why="would run", exit=True)),
            "remote_content",
            """`[network.endpoints.openai] fields = ["tools[].type=mcp"]` grants it""",
        ),
        (
            BodyFacts(finding=Finding(place="messages[3].new", why="no field")),
            "fields",
            """no field: messages[3].new, which isn't granted: `[network.endpoints.openai] fields = ["messages[].new"]`""",
        ),
        (BodyFacts(unreadable="too deep"), "remote_content", "could not be judged: too deep"),
    ],
)
def test_a_body_that_is_more_than_inference_is_refused(
    grant: Grant, facts: BodyFacts, key: str, remedy: str
) -> None:
    decision = decide_egress(grant, "openai", "POST", "/chat/completions", facts)
    assert (decision.allowed, decision.rule) == (False, f"network.endpoints.openai.{key}")
    assert remedy in decision.reason


def test_tunnels_that_are_granted(grant: Grant) -> None:
    assert decide_connect(grant, "Data.Example.com.", 443).rule == "network.connect[0]"
    assert decide_connect(grant, "10.0.0.7", 443).rule == "network.connect[1]"
    assert decide_connect(grant, "0x0a.7", 443).rule == "network.connect[1]"
    assert decide_connect(grant, "134744072", 443).rule == "network.connect[2]"


@pytest.mark.parametrize(
    "host",
    [
        "evilexample.com", "example.com", "example.com.evil.example", "a.b.example.com", "data.example.com:443", "data.example.com@evil.com",
        "data.example.com\x00", "data.example.com%2eevil.com", "data.example.com..", "127.0.0.1", "2130706433", "0x7f.1", "0177.0.0.1",
        "[::1]", "::ffff:169.254.169.254", "[::ffff:8.8.4.4]", "169.254.169.254", "localhost", "10.0.0.8",
    ],
)  # fmt: skip
def test_tunnels_that_are_refused(grant: Grant, host: str) -> None:
    decision = decide_connect(grant, host, 443)
    assert not decision.allowed
    assert decision.rule in ("default-deny", "names.host")
    assert decision.source.startswith("own.toml:")


def test_a_tunnel_is_for_one_port_and_never_to_a_provider(grant: Grant) -> None:
    assert not decide_connect(grant, "data.example.com", 22).allowed
    decision = decide_connect(grant, "API.example.com.", 443, provider_hosts={"api.example.com"})
    assert decision.rule == "provider-binding"


@pytest.mark.parametrize("address", ["127.0.0.1", "169.254.169.254", "::1", "64:ff9b::a00:1", "10.0.0.7"])
def test_a_granted_name_that_resolves_inwards_is_refused(grant: Grant, address: str) -> None:
    decision = decide_address(grant, "data.example.com", 443, ipaddress.ip_address(address))
    assert (decision.allowed, decision.rule) == (False, "names.public")
    assert decision.source == "own.toml:4"


def test_addresses_that_may_be_dialled(grant: Grant) -> None:
    assert decide_address(grant, "data.example.com", 443, ipaddress.ip_address("8.8.4.4")).allowed
    assert decide_address(grant, "10.0.0.7", 443, ipaddress.ip_address("10.0.0.7")).allowed
    assert not decide_address(grant, "other.com", 443, ipaddress.ip_address("8.8.4.4")).allowed


def test_a_private_literal_needs_more_than_its_name(grant_of: Callable[..., Grant], needs: Needs) -> None:
    text = "weakenings = ['connect']\n[[network.connect]]\nhost = '10.0.0.7'\n"
    decision = decide_connect(grant_of(text, needs=needs), "10.0.0.7", 443)
    assert (decision.allowed, decision.rule) == (False, "names.public")


def test_secrets_are_bound(grant: Grant) -> None:
    bound = secret_of(grant, "openai")
    assert bound is not None
    assert bound.name == "openai"
    assert secret_of(grant, "other") is None


@pytest.mark.parametrize(
    ("allow", "deny", "target", "rule"),
    [
        ("dspy:*", "", "os.system", "operations.allow[0]"),
        ("dspy:call", "", "os.system", "operations.allow[0]"),
        ("dspy:call:math.*", "", "math.pi", "operations.allow[0]"),
        ("dspy:call:math.*", "", "os.system", DEFAULT_DENY),
        ("dspy:call:math.*", "", "", DEFAULT_DENY),
        ("dspy:call", "dspy:*:os.*", "os.system", "operations.deny[0]"),
        ("dspy:call:*", "dspy:call", "math.pi", "operations.deny[0]"),
    ],
)
def test_a_call_has_the_name_of_what_it_reaches_too(
    grant: Grant, allow: str, deny: str, target: str, rule: str
) -> None:
    rules = Rules(allow=(allow,), deny=(deny,) if deny else ())
    grant = msgspec.structs.replace(grant, bridge="dspy", operations=rules)
    decision = decide_call(grant, "dspy", "call", target)
    assert (decision.rule, decision.allowed) == (rule, "allow" in rule)
