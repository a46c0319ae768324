"""Keys in arguments: found under every usual name and in every place, and nothing else is taken for one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridgehold.audit.arguments import Arguments, preview_of, split_keys, without_keys
from bridgehold.errors import DeniedError, UsageError
from bridgehold.host.cell.commands.inline_keys import KeyKeeper, take_inline_keys
from bridgehold.policies.compose import compose
from bridgehold.policies.grant import resolve
from bridgehold.policies.model import Endpoint, Grant, Machine, Needs

MACHINE = Machine(cgroup="v2", uids="range", memory_bytes=1 << 34, cpus=2)


def grant(how: str) -> Grant:
    weak = 'weakenings = ["inline_keys_pass"]\n' if how == "pass" else ""
    text = f'extends = "baseline"\ninline_keys = "{how}"\n{weak}[operations]\nallow = ["*"]\n'
    from bridgehold.policies import shipped

    policy = compose("p", lambda name: (text, "p.toml") if name == "p" else shipped.read(name))
    return resolve(Needs(operations=("x:y",)), policy, None, MACHINE, tenant="t", bridge="x", version="1")


def taken_of(arguments: dict[str, Any], granted: Grant) -> Arguments:
    return take_inline_keys(arguments, split_keys(arguments), granted)


ARGUMENTS = {"model": "m", "api_key": "value-1", "config": {"API_KEY": "value-2", "temperature": 1}}


def test_capture_takes_keys_out_at_any_depth_and_leaves_the_rest() -> None:
    taken = taken_of(ARGUMENTS, grant("capture"))
    assert taken.kept == {"model": "m", "config": {"temperature": 1}}
    assert [value for _, value in taken.keys] == ["value-1", "value-2"]
    assert "value-1" not in repr(taken)


def test_refuse_names_the_argument_and_never_its_value() -> None:
    with pytest.raises(DeniedError) as caught:
        taken_of(ARGUMENTS, grant("refuse"))
    assert "api_key" in caught.value.message
    assert "value-1" not in str(caught.value.info())


def test_pass_is_a_named_weakening_and_changes_nothing() -> None:
    weakened = grant("pass")
    assert "inline_keys_pass" in weakened.weakenings
    assert taken_of(ARGUMENTS, weakened).kept == ARGUMENTS


KEY = "sk-proj-0123456789abcdefABCDEF"
PLAIN = "0a1B2c3D4e5F6g7H8i9J"


@pytest.mark.parametrize("value", [KEY, PLAIN])
@pytest.mark.parametrize(
    "name",
    [
        *("api_key", "apiKey", "API-KEY", "api.key", "OPENAI_API_KEY", "openai_api_keys", "x-goog-api-key"),
        *("token", "hf_token", "HUGGINGFACEHUB_API_TOKEN", "accessToken", "slack_bot_token", "access_key"),
        *("Authorization", "proxy-authorization", "secret", "client_secret", "password", "private_key"),
        *("AWS_SECRET_ACCESS_KEY", "credentials", "cookie", "bearer", "subscription-key", "auth"),
    ],
)
def test_a_key_is_taken_out_wherever_it_stands(name: str, value: str) -> None:
    deep: dict[str, Any] = {name: value, "temperature": 1}
    for level in range(40):
        deep = {"inner": [1, "text", deep]} if level % 2 else {"inner": deep}
    places: list[dict[str, Any]] = [
        {name: value},
        {"config": {name: value}},
        {"models": [{"model": "m"}, {"model": "n", name: value}]},
        {"models": [[{name: value}]]},
        {name: [value]},
        {name: {"value": value}},
        {"headers": [[name, value]]},
        {"env": [{"name": name, "value": value}]},
        {"header": {"key": name, "value": f"Bearer {value}"}},
        deep,
    ]
    for place in places:
        taken = taken_of(place, grant("capture"))
        assert [found for _, found in taken.keys] == [value], place
        assert value not in json.dumps(taken.kept)
        assert value not in json.dumps(without_keys({**place, "note": f"it is {value}"}))
        with pytest.raises(DeniedError):
            taken_of(place, grant("refuse"))


@pytest.mark.parametrize("place", ["model", "input", "x", "", "items"])
def test_what_has_the_form_of_a_key_is_one_under_any_name(place: str) -> None:
    for value in (KEY, f"Bearer {KEY}", f" {KEY}\n", "ghp_0123456789abcdefghijABCDEFGHIJ012345"):
        assert taken_of({place: value}, grant("capture")).keys
        assert taken_of({place: [1, [value]]}, grant("capture")).keys
        assert taken_of({"table": {value: place}}, grant("capture")).keys


@pytest.mark.parametrize(
    "arguments",
    [
        {
            "max_tokens": 100,
            "tokens": ["the", "cat", "sat"],
            "token": "hello",
            "tokenizer": "bert-base-uncased",
        },
        {"eos_token": "<|endoftext|>", "pad_token": "[PAD]", "stop_token": "Observation:"},
        {
            "key": "customer",
            "sort_key": "name_2023_descending_",
            "keys": ["a-long-name-0001", "b"],
            "author": "x",
        },
        {"secret": "a short story of a secret", "auth": "none", "credentials": None, "password": ""},
        {"code": "api_key = 'never looked into'", "text": "the token abc is not a key"},
        {"pair": ["name", "value-12345678"], "headers": [["accept", "application/json"]]},
    ],
)
def test_ordinary_arguments_stay_as_they_are(arguments: dict[str, Any]) -> None:
    taken = taken_of(arguments, grant("capture"))
    assert taken.kept == arguments
    assert taken.keys == ()
    assert without_keys(arguments) == arguments


NAMES = (
    *("OPENAI_KEY", "groqkey", "openaiKey", "ANTHROPIC-KEY", "key_openai", "apiKeyOpenAI", "my_groq_keys"),
    *("api_key", "OPENAI_API_KEY", "hf_token", "GITHUB_TOKEN", "client_secret", "db_password", "token"),
)
VALUES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_+-]{18,38}[A-Za-z0-9]=?", fullmatch=True).filter(
    lambda text: any(c.isdigit() for c in text) and any(c.isalpha() for c in text)
)
TAKEN: dict[str, Callable[[str, str], Any]] = {
    "under its name": lambda name, value: {name: value},
    "a flag": lambda name, value: ["run", f"--{name}={value}", "--model", "m"],
    "a flag and its value": lambda name, value: ["run", f"--{name}", value, "--model", "m"],
    "a variable": lambda name, value: ["A=1", f"{name}={value}", "B=2"],
    "a header's line": lambda name, value: ["curl", "-H", f"{name}: {value}", "http://x/y"],
    "k and v": lambda name, value: [{"k": name, "v": value}],
    "name and value": lambda name, value: {"env": [{"Name": name, "Value": value}]},
    "variable and values": lambda name, value: {"variable": name, "values": [value]},
}
STAYING: dict[str, Callable[[str, str], Any]] = {
    "a query": lambda name, value: f"https://api.example/v1?a=1&{name}={value}&b=2",
    "a user's password": lambda _, value: f"postgres://user:{value}@db.example/x",
    "a user": lambda _, value: f"https://{value}@git.example/x.git",
    "a text": lambda name, value: f"please use {name}: {value} for it",
    "a sentence": lambda name, value: f"My {name} is {value}, I think",
    "code": lambda name, value: f"client = C({name}='{value}')",
    "a command": lambda name, value: f"run --{name} {value} --model m",
    "json in a text": lambda name, value: json.dumps({"a": 1, name: value, "b": [2]}),
    "json in json": lambda name, value: json.dumps({"inner": json.dumps({name: value})}),
    "toml in a text": lambda name, value: f'[provider]\n{name} = "{value}"\n',
    "xml": lambda name, value: f'<{name}>{value}</{name}><add key="{name}" value="{value}"/>',
    "a pair in json in a text": lambda name, value: json.dumps({"name": name, "value": value}),
    "a pair in yaml": lambda name, value: f"- name: {name}\n  value: {value}\n",
    "a call": lambda name, value: f"set('{name}', '{value}'); os.environ['{name}'] = '{value}'",
    "a shell's words": lambda name, value: f"setx {name} {value} & curl -u user:{value} https://x.example",
    "an arrow": lambda name, value: f"{name} -> {value}",
}


@settings(deadline=None, max_examples=100)
@given(name=st.sampled_from(NAMES), value=VALUES, place=st.sampled_from(sorted(TAKEN)))
def test_a_key_with_its_name_is_taken_out_of_lists_and_pairs_too(name: str, value: str, place: str) -> None:
    arguments = {"x": TAKEN[place](name, value), "model": "m"}
    taken = taken_of(arguments, grant("capture"))
    assert [found for _, found in taken.keys] == [value], arguments
    assert value not in json.dumps(taken.kept)
    assert taken.kept["model"] == "m"
    for kept in (arguments, taken.kept):
        assert value not in preview_of(Arguments(kept=kept), 4_000)[2]
    rest = json.dumps(taken.kept)
    assert all(one in rest for one in ("--model", "A=1", "B=2", "http://x/y") if one in json.dumps(arguments))
    with pytest.raises(DeniedError):
        taken_of(arguments, grant("refuse"))


@settings(deadline=None, max_examples=100)
@given(
    name=st.sampled_from(NAMES), value=VALUES, place=st.sampled_from(sorted(STAYING)), cap=st.integers(0, 300)
)
def test_a_key_within_a_longer_text_stays_there_and_is_never_written_down(
    name: str, value: str, place: str, cap: int
) -> None:
    arguments = {"x": STAYING[place](name, value), "y": [{"text": STAYING[place](name, value)}]}
    taken = taken_of(arguments, grant("capture"))
    assert taken.kept == arguments
    for most in (cap, 4_000):
        assert value not in preview_of(taken, most)[2]
        assert value[:12] not in preview_of(Arguments(kept=without_keys(arguments)), most)[2]


def test_no_preview_shows_what_stands_beside_a_name_of_keys_in_a_list_or_a_table() -> None:
    for arguments in (
        {"x": [["api_key", PLAIN, "extra"]]},
        {"names": ["api_key"], "values": [PLAIN]},
        {"x": ["curl", "-u", "user:short1"], "y": [["header", "x-api-key", {"is": PLAIN}]]},
    ):
        shown = preview_of(taken_of(arguments, grant("capture")), 4_000)[2]
        assert PLAIN not in shown
        assert "short1" not in shown


def test_what_only_looks_like_names_of_keys_is_passed_on_and_shown() -> None:
    for arguments in (
        {
            "argv": [
                "--sort-key",
                "name",
                "--token",
                "<unset>",
                "--keyboard=de_DE-2023",
            ]
        },
        {"env": ["PATH=/usr/bin:/bin", "TOKENIZERS_PARALLELISM=false", "HOTKEY=ctrl-shift-x"]},
        {"partition_key": "customer", "primary_key": ["id", "name"], "key": "row-17", "cache_key": "prompts"},
        {"field": "token", "value": "hello", "k": 5, "v": "a value of 16 characters"},
        {"role": "user", "name": "token", "content": "What is a token? token=short; password: string"},
        {
            "url": "https://user@host.example/a?page=2&sort=key:name",
            "q": "api_key is required",
            "key_path": "/x/y",
        },
        {
            "text": "The password is wrong. secret: yes. token: the, cat",
            "max_tokens": 100,
            "keys": ["a", "b"],
        },
        {"code": "def f(api_key: str, token: Token = None): return key == other_key"},
    ):
        taken = taken_of(arguments, grant("capture"))
        assert (taken.kept, taken.keys) == (arguments, ())
        assert "redacted" not in preview_of(Arguments(kept=arguments), 4_000)[2]
    variable = {
        "argv": ["--api-key=$OPENAI_API_KEY", "--token", "%TOKEN_OF_MINE_0123%", "API_KEY=<your-key-here>"]
    }
    assert taken_of(variable, grant("capture")).kept == variable


def test_keys_in_what_only_a_foreign_wire_carries_are_found() -> None:
    """MessagePack has bytes, and names that are no text."""
    for found in ({"api_key": KEY.encode()}, {"x": {1: {"token": PLAIN}}}, {"x": [KEY.encode()], b"y": 1}):
        taken = split_keys(found)  # type: ignore[arg-type]  # as the other wire gives them
        assert [value for _, value in taken.keys] in ([KEY], [PLAIN])
        assert KEY not in str(taken.kept)
    assert split_keys({"x": {1: b"\xff\x00", None: 2}}).kept == {"x": {1: b"\xff\x00", None: 2}}


def test_arguments_that_nest_without_end_are_refused() -> None:
    deep: Any = []
    for _ in range(900):
        deep = [deep]
    for arguments in ({"x": deep}, {"x": {"y": deep}}):
        with pytest.raises(UsageError, match="deeper"):
            taken_of(arguments, grant("capture"))
        assert "deeper" in str(without_keys(arguments))


def test_two_keys_for_one_provider_are_refused_and_the_name_chooses_between_two() -> None:
    told: list[tuple[str, str, str]] = []

    class Secrets:
        async def put_session_secret(self, session: str, provider: str, value: str, *, tenant: str) -> None:
            told.append((provider, value, tenant))

    class Journal:
        async def append(self, event: object) -> None:
            assert KEY not in str(event)

    changed: list[str] = []
    keeper = KeyKeeper(Secrets(), Journal(), changed.append)  # type: ignore[arg-type]  # what it uses of it

    def capture(arguments: dict[str, Any], *providers: str) -> dict[str, object]:
        granted = msgspec.structs.replace(
            grant("capture"), endpoints=tuple(Endpoint(provider=one, paths=("/x",)) for one in providers)
        )
        holder = SimpleNamespace(
            id="s-1", current_command="c", current_principal="p", order=SimpleNamespace(grant=granted)
        )
        return asyncio.run(keeper.capture(holder, taken_of(arguments, granted)))  # type: ignore[arg-type]

    assert capture({"a": {"api_key": KEY}, "b": {"api_key": KEY}, "c": 1}, "openai") == {
        "a": {},
        "b": {},
        "c": 1,
    }
    assert told == [("openai", KEY, "t")]
    assert changed == ["t"]
    with pytest.raises(DeniedError, match="more than one key"):
        capture({"api_key": KEY, "token": PLAIN}, "openai")
    with pytest.raises(DeniedError, match="belongs to no provider"):
        capture({"api_key": KEY}, "openai", "anthropic")
    told.clear()
    capture(
        {"OPENAI_API_KEY": KEY, "env": [{"name": "ANTHROPIC_API_KEY", "value": PLAIN}]}, "openai", "anthropic"
    )
    assert sorted(told) == [("anthropic", PLAIN, "t"), ("openai", KEY, "t")]


def test_a_placeholder_is_no_key() -> None:
    taken = taken_of({"api_key": "sk-bh-abc"}, grant("capture"))
    assert taken.keys == ()


def test_a_request_of_many_keys_is_shown_by_their_number_alone() -> None:
    """Each was looked for in all of it: their number squared, for a request that is refused anyway."""
    many = {"list": [{"api_key": f"Zk{number:06}abcdEFGH12"} for number in range(20_000)]}
    assert without_keys(many) == {"…": "20000 keys"}
    few = {
        "list": [{"api_key": f"Zk{number:06}abcdEFGH12"} for number in range(16)],
        "note": "Zk000003abcdEFGH12",
    }
    assert "Zk0000" not in json.dumps(without_keys(few))
