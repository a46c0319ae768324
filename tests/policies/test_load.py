"""Reading one file: units, and every fault at once with its line (ABUSE 32)."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bridgehold
from bridgehold.errors import PolicyError
from bridgehold.policies.compose import compose
from bridgehold.policies.load import MAX_BYTES, read_toml
from bridgehold.policies.locate import locate
from bridgehold.policies.model import Connect, Policy
from bridgehold.policies.problems import Faulty

ONE_OF_EACH = """\
inline_keys = "refuse"
weakenings = ["connect", "env_secret"]

[limits]
memory = "1.5GiB"
cpu = 1.5
log_rate = "64KiB/s"
grace = "250ms"
command = "5m"
idle = "1h"

[filesystem]
read = ["/srv/models/"]

[network.endpoints.openai]
methods = ["POST", "GET"]
paths = ["chat/completions", "/models/*"]
remote_content = true

[[network.connect]]
host = "*.Example.com."

[secrets]
openai.provider = "openai"
token = { how = "env", variable = "HUB_TOKEN" }

[operations]
allow = ["dspy:*"]
deny = [
  "dspy:delete_*",  # the comment's ] is no end
  "dspy:reset",
]

[rate]
concurrency = 2

[sandbox]
start = "fork"
"""


def load(text: str) -> Policy:
    return compose("own", lambda _: (text, "own.toml"))


def faults(text: str) -> list[str]:
    with pytest.raises(PolicyError) as caught:
        load(text)
    return caught.value.message.splitlines()


def test_one_of_each_kind_of_value() -> None:
    policy = load(ONE_OF_EACH)
    assert policy.limits.memory_bytes == 1536 * 1024**2
    assert policy.limits.cpu_millis == 1500
    assert policy.limits.log_bytes_per_second == 65536
    assert (policy.limits.grace_ms, policy.limits.command_ms, policy.limits.idle_ms) == (
        250,
        300_000,
        3_600_000,
    )
    assert policy.read == ("/srv/models",)
    assert policy.endpoints[0].paths == ("/chat/completions", "/models/*")
    assert policy.endpoints[0].remote_content
    assert policy.connects == (Connect(host="*.example.com"),)
    assert {secret.name: (secret.how, secret.provider, secret.variable) for secret in policy.secrets} == {
        "openai": ("gateway", "openai", ""),
        "token": ("env", "", "HUB_TOKEN"),
    }
    assert policy.operations.deny == ("dspy:delete_*", "dspy:reset")
    assert (policy.inline_keys, policy.sandbox.start, policy.rate.concurrency) == ("refuse", "fork", 2)


def test_every_value_knows_its_line() -> None:
    sources = {key: source.line for key, source in load(ONE_OF_EACH).sources.items()}
    lines = ONE_OF_EACH.splitlines()
    for key, text in {
        "limits.memory": "memory",
        "network.endpoints.openai.paths": "paths",
        "network.connect[0]": "[[network.connect]]",
        "secrets.openai.provider": "openai.provider",
        "secrets.token.variable": "token",
        "operations.deny[0]": '"dspy:delete_*"',
        "operations.deny[1]": '"dspy:reset"',
        "weakenings[1]": "weakenings",
    }.items():
        assert lines[sources[key] - 1].strip().startswith(text), key


def test_all_faults_are_named_at_once_with_line_and_nearest_key() -> None:
    found = faults(
        '[limits]\nmemroy = "1GiB"\ncpu = "two"\nstartup = "30"\n\n[network.endpoints.openai]\nmethod = ["POST"]\n'
        'paths = ["/a/../b"]\n[operatons]\nallow = []\n'
    )
    assert len(found) == 6
    assert found[0] == "own.toml:2: limits.memroy: unknown key (nearest: 'memory')"
    assert found[1].startswith("own.toml:3: limits.cpu: a number of cores")
    assert found[2].startswith("own.toml:4: limits.startup: '30' is not a duration")
    assert found[3] == "own.toml:7: network.endpoints.openai.method: unknown key (nearest: 'methods')"
    assert found[4].startswith("own.toml:8: network.endpoints.openai.paths: ")
    assert found[5] == "own.toml:9: operatons: unknown key (nearest: 'operations')"


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("[filesystem]\nwrite = ['/srv']", "/scratch"),
        ("[filesystem]\nread = ['srv']", "absolute"),
        ("[filesystem]\nread = ['/']", "absolute"),
        ("[filesystem]\nread = ['/a/../etc']", "absolute"),
        ("[limits]\nmemory = 512", "a size such as 512MiB"),
        ("[limits]\nmemory = '512MB'", "a size such as 512MiB"),
        ("[limits]\nmemory = '-1MiB'", "a size"),
        ("[limits]\nmemory = '0MiB'", "outside of"),
        (f"[limits]\nmemory = '{'9' * 400}GiB'", "a size"),
        (f"[limits]\ncommand = '{'9' * 400}h'", "a duration"),
        ("[limits]\nmemory = '\uff15\uff11\uff12MiB'", "a size"),
        ("[limits]\nlog_rate = '64KiB'", "a rate such as"),
        ("[limits]\ncpu = 0", "outside of"),
        ("[limits]\ncpu = nan", "a number of cores"),
        ("[limits]\ncpu = inf", "a number of cores"),
        ("[limits]\nprocesses = true", "a whole number"),
        ("[limits]\nprocesses = 1.0", "a whole number"),
        ("limits = 3", "a table is expected"),
        ("[network.endpoints]\nopenai = 3", "a table is expected"),
        ("[network.endpoints.OpenAI]\npaths = []", "not a name"),
        ("[network.endpoints.a]\nmethods = ['POST', 'CONNECT']", "none of GET"),
        ("[[network.connect]]\nport = 443", "`host` is missing"),
        ("[[network.connect]]\nhost = 'x.com'\nports = 1", "nearest: 'port'"),
        ("[[network.connect]]\nhost = '*.com'", "too wide"),
        ("[[network.connect]]\nhost = 'user@x.com'", "contains '@'"),
        ("[[network.connect]]\nhost = 'x.com'\nport = 65536", "outside of"),
        ("[secrets.a]\nhow = 'file'", "none of gateway, env"),
        ("[secrets.a]\nhow = 'env'\nvariable = 'LD_PRELOAD'", "directs"),
        ("[secrets.a]\nhow = 'env'\nvariable = 'PYTHONPATH'", "directs"),
        ("[secrets.a]\nhow = 'env'\nvariable = 'SSLKEYLOGFILE'", "directs"),
        ("[secrets.a]\nhow = 'env'\nvariable = 'HTTPS_PROXY'", "directs"),
        ("[operations]\nallow = 'dspy:*'", "a list of"),
        ("[operations]\nallow = ['[a-z]*']", "not a pattern"),
        ("[operations]\nallow = ['a?']", "not a pattern"),
        ("[operations]\nallow = ['*a*a*a*a*']", "more than 4"),
        ("weakenings = ['no_cgroups']", "nearest: 'no_cgroup'"),
        ("inline_keys = 'passs'", "nearest: 'pass'"),
        ("[bridges.dspy.limits]\nmemory = '1GiB'", "only a tenant's file"),
        ("a = [", "not TOML"),
        ("a = 1\na = 2", "not TOML"),
        ("a = " + "[" * 20_000, "not TOML"),
        ("a = " + "9" * 5_000, "not TOML"),
        ("#" * (MAX_BYTES + 1), "longer than"),
    ],
)
def test_what_is_refused(text: str, part: str) -> None:
    found = faults(text)
    assert len(found) == 1
    assert part in found[0]
    assert found[0].startswith("own.toml")


def test_a_fault_of_toml_itself_has_its_line() -> None:
    assert faults("[limits]\nmemory = \n")[0].startswith("own.toml:2: not TOML")


def _paths(value: object, path: str) -> set[str]:
    found: set[str] = {path} if path else set()
    if isinstance(value, dict):
        for key, item in value.items():
            found |= _paths(item, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            found |= _paths(item, f"{path}[{index}]")
    return found


SCALARS = st.sampled_from(
    ['1', 'true', '"a # ] } , = b"', "'it[0]'", '"""x\n[y]\nz = "" 1"""', "'''\n]'''", '"\\""', "1979-05-27 07:32:00", "{}", "[]", "[\n1, # ]\n [2],\n]",
     "{ a = 1, b.c = [1] }", '"""quote""""', "0x_f" if False else "0xf"]
)  # fmt: skip


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["", "[t]", "[t.u]", "[[l]]", "[[l]]", "[l.s]", '["q d".x]', "# c", "[[t.m]]"]),
            SCALARS,
        ),
        max_size=8,
    )
)
def test_the_locator_finds_every_key_of_whatever_toml_holds(blocks: list[tuple[str, str]]) -> None:
    text = "".join(
        f"{header}\n\n  k{index} = {value}  # k\nd{index} . e = {value}\n"
        for index, (header, value) in enumerate(blocks)
    )
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    lines = locate(text)
    assert _paths(data, "") == set(lines)
    for index in range(len(blocks)):
        mine = [line for path, line in lines.items() if path.rpartition(".")[2] == f"k{index}"]
        assert [text.splitlines()[line - 1].split()[0] for line in mine] == [f"k{index}"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("\n" + ".".join("a" * 10) + " = 1", 2),
        ("x = '''\n\n'''\n[a.b.c.d.e.f.g.h.i.'j']", 4),
        ('"a" . "b".c.d.e.f.g.h.i."." = 1', 1),
        ("x = { a.b.c.d.e.f.g.h.i.j = 1 }", 1),
        ('x = "\\""\na.b.c.d.e.f.g.h.i.j = 1', 2),
        ("x = '\\'\na.b.c.d.e.f.g.h.i.j = 1", 2),
        ('x = """a"""""\na.b.c.d.e.f.g.h.i.j = 1', 2),
        ("x = ''''a'''''\n# '''\na.b.c.d.e.f.g.h.i.j = 1", 3),
    ],
)
def test_a_key_of_many_dots_is_refused_with_its_line(text: str, line: int) -> None:
    tomllib.loads(text)
    with pytest.raises(Faulty, match=f"own.toml:{line}: not TOML: more than 8 dots in a key"):
        read_toml(text, "own.toml")


@pytest.mark.parametrize(
    "text",
    [
        "a.b.c.d.e.f.g.h.i = 1",
        f"[{'a.' * 8}b]\n{'a.' * 8}b = 1",
        "names = " + str([f"acme.{number}.x.x.x.x.x.x.x.x.x.x" for number in range(500)]),
        "names = [\n" + "  'a.b.c.d.e.f.g.h.i.j', # a.b.c.d.e.f.g.h.i.j\n" * 500 + "]",
        '"a.b.c.d.e.f.g.h.i.j.k" = 1.5',
        'x = """\na.b.c.d.e.f.g.h.i.j = 1\n"""',
        "x = '''\n[a.b.c.d.e.f.g.h.i.j]'''",
        "x = [1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5, 8.5, 9.5, 10.5]",
        'x = "\\"a.b.c.d.e.f.g.h.i.j.k"',
    ],
)
def test_dots_in_texts_and_long_lists_of_names_are_read(text: str) -> None:
    assert read_toml(text, "own.toml") == tomllib.loads(text)


def test_one_reader_alone_parses_toml() -> None:
    package = Path(bridgehold.__file__).parent
    found = [path.name for path in package.rglob("*.py") if "tomllib." in path.read_text()]
    assert found == ["reads.py"]
