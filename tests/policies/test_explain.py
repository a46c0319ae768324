"""`explain` and `check`: values in, values out."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bridgehold.policies.explain import Known, check, explain, unknown_names
from bridgehold.policies.model import Grant
from bridgehold.policies.vocabulary import VOCABULARY


def test_every_row_has_its_source_and_what_it_replaced(grant_of: Callable[..., Grant]) -> None:
    grant = grant_of("extends = 'dspy'\n[limits]\nmemory = '768MiB'\n", "[limits]\nmemory = '600MiB'\n")
    rows = {row.key: row for row in explain(grant)}
    memory = rows["limits.memory"]
    assert (memory.value, memory.source) == ("600 MiB", "acme.toml:2")
    assert memory.losing == (
        "768 MiB (own.toml:3)",
        "1GiB (shipped:dspy.toml:6)",
        "512MiB (shipped:baseline.toml:7)",
    )
    assert rows["rate.concurrency"].source == "default"
    assert rows["network.endpoints.openai.paths"].value == "/chat/completions, /embeddings, /responses"
    assert any(row.key.startswith("withheld") and "HUB" not in row.value for row in rows.values())


def test_every_key_of_the_vocabulary_is_explained(grant_of: Callable[..., Grant]) -> None:
    text = (
        "weakenings = ['connect']\n[network.endpoints.openai]\npaths = ['/chat/completions']\n[secrets.openai]\n"
        "[[network.connect]]\nhost = '*.example.com'\n"
    )
    shown = {row.key for row in explain(grant_of(text))}
    hub = {row.key for row in explain(grant_of("[network.endpoints.openai]\nrepos = ['acme/*']\n"))}
    for key in VOCABULARY:
        path = key.path.replace("endpoints.*", "endpoints.openai").replace("secrets.*", "secrets.openai")
        if path.startswith("network.connect"):
            path = "network.connect[0]"
        if path in ("extends", "secrets.openai.provider", "secrets.openai.variable"):
            continue
        assert path in shown or path in hub


def test_an_empty_grant_says_that_nothing_is_reachable(grant_of: Callable[..., Grant]) -> None:
    rows = {row.key: row.value for row in explain(grant_of(""))}
    assert rows["network.endpoints"] == "(none: nothing is reachable)"


def test_check_names_every_problem_once() -> None:
    found = check(
        {
            "base": ("[limits]\nmemry = '1GiB'\n", "base.toml"),
            "top": ("extends = 'base'\n", "top.toml"),
            "odd": ("extends = 'baseline'\n[secrets.x]\ninvalid = 1\n", "odd.toml"),
            "open": ("[[network.connect]]\nhost = 'a.com'\n", "open.toml"),
            "fine": ("extends = 'dspy'\n", "fine.toml"),
        }
    )
    assert [(fault.policy, fault.where) for fault in found] == [
        ("base", "base.toml:2"),
        ("odd", "odd.toml:3"),
        ("open", "open.toml:1"),
    ]
    assert found[0].message == "limits.memry: unknown key (nearest: 'memory')"
    assert "connect" in found[2].message


KNOWN = Known(
    operations=("dspy:create_program", "dspy:execute_program", "python:execute", "mine:*"),
    resources=("program", "lm"),
    providers=("openai", "anthropic"),
    unread=("broken",),
)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[operations]\nallow = ['dspy:*']\ndeny = ['dspy:execut_program']", ("p.toml:3: operations.deny: "
         "'dspy:execut_program': no bridge has such an operation (nearest: 'dspy:execute_program')")),
        ("[operations]\nallow = [\n'dspy:*',\n'dpsy:*',\n]", ("p.toml:4: operations.allow: "
         "'dpsy:*': there is no bridge 'dpsy' (nearest: 'dspy')")),
        ("[operations]\nallow = ['execute']", ("p.toml:2: operations.allow: 'execute' is no operation: "
         "write bridge:operation (nearest: 'python:execute')")),
        ("[operations]\nallow = ['dspy:*_everything']", "no bridge has such an operation"),
        ("[resources]\ndeny = ['progam']", ("p.toml:2: resources.deny: 'progam': no bridge has resources of "
         "this kind (nearest: 'program')")),
        ("[network.endpoints.opnai]\npaths = ['/x']", ("p.toml:1: network.endpoints.opnai: "
         "there is no [providers.opnai] in config.toml (nearest: 'openai')")),
        ("[secrets.key]\nprovider = 'antropic'", ("p.toml:2: secrets.key.provider: "
         "there is no [providers.antropic] in config.toml (nearest: 'anthropic')")),
        ("[operations]\nallow = ['*', '*:execute', 'dspy:*_program', 'mine:whatever', 'broken:x', 'common:ping']", ""),
        ("[resources]\nallow = ['*', 'pro*']\n[tools]\nallow = ['anything']", ""),
        ("[network.endpoints.openai]\npaths = ['/x']\n[secrets.anything]\nprovider = 'openai'", ""),
        ("[limit]", ""),
    ],
)  # fmt: skip
def test_names_that_nothing_here_bears_are_faults(text: str, fault: str) -> None:
    found = list(unknown_names(text, "p.toml", KNOWN))
    assert (len(found) == 1 and fault in found[0]) if fault else found == []


def test_a_tenants_file_and_its_tables_are_looked_at_as_well() -> None:
    text = "[operations]\ndeny = ['dspy:x']\n[bridges.python.operations]\ndeny = ['python:exeute']\n"
    first, second = unknown_names(text, "acme.toml", KNOWN, tables=["dspy", "python"])
    assert first.startswith("acme.toml:2: operations.deny: 'dspy:x'")
    assert second.startswith("acme.toml:4: operations.deny: 'python:exeute'")
