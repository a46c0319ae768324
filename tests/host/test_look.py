"""What every command looks like at 80 and at 160 columns, with colours and without; and what its start imports."""

from __future__ import annotations

import importlib
import inspect
import io
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridgehold import BridgeholdError, SyncClient
from bridgehold.client.private import PrivateHost
from bridgehold.config.layout import Layout, find_layout
from bridgehold.faces.bench import starts
from bridgehold.faces.bench.figures import Figure, figure, spread
from bridgehold.faces.cli.border import guarded
from bridgehold.faces.cli.commands import app
from bridgehold.faces.cli.tree import OPTIONS, TREE, Command, Group, page
from bridgehold.faces.jupyter import installed
from bridgehold.faces.layout import Column, cells, dim, fold, grouped, number, paragraph, table
from bridgehold.sandbox.doctor.model import Check

ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
BOXES = re.compile("[\u2500-\u259f]")
LOOKS = [(width, colour) for width in (80, 160) for colour in (False, True)]
POLICY = """\
extends = "python"
[limits]
memory = "300MiB"
[operations]
deny = ["python:reset"]
"""
CONFIG = """\
[host]
memory_reserve = "1GiB"
[providers.a-provider-with-a-long-name]
base_url = "https://a-host-with-a-long-name.example.com/and/a/path/that/is/long/enough/to/be/wider/than/a/line"
[principals.app]
uids = [1001]
tenants = ["acme", "globex"]
"""


class Scene:
    """A home with a host, and something of everything in it."""

    def __init__(self, layout: Layout, client: SyncClient) -> None:
        self.layout = layout
        self.session = client.request(
            "session.open", {"bridge": "python", "name": "a-session-with-a-long-name"}
        )["id"]
        client.run("python:execute", {"code": "print('a line\\n' * 3)"}, session=self.session)
        self.failed = self._event(
            client, "python:execute", {"code": "def f():\n    raise ValueError('no ' * 60)\nf()"}
        )
        self.denied = self._event(client, "python:reset", {})
        self.written = layout.state / "report.html"
        kernel: dict[str, Any] = {
            "display_name": "",
            "bridge": "python",
            "tenant": "local",
            "trust_forms": False,
        }
        installed.install("a-kernel-with-a-long-name", **kernel, prefix=None)
        self.artifact = client.put(b"x" * 5_000, name="a file.txt").digest

    @staticmethod
    def _event(client: SyncClient, operation: str, arguments: dict[str, object]) -> str:
        with pytest.raises(BridgeholdError) as caught:
            client.run(operation, arguments)
        return caught.value.event


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with tempfile.TemporaryDirectory(prefix="bh-look-") as folder, pytest.MonkeyPatch.context() as patch:
        Path(folder).chmod(0o755)
        patch.setenv("BRIDGEHOLD_HOME", folder)
        patch.setenv("XDG_CACHE_HOME", f"{folder}/cache")
        patch.setenv("JUPYTER_DATA_DIR", f"{folder}/jupyter")
        layout = find_layout({"BRIDGEHOLD_HOME": folder}, 0)
        for place in (layout.policies, layout.tenants, layout.bridges):
            place.mkdir(parents=True)
        (layout.policies / "python.toml").write_text(POLICY)
        layout.config_file.write_text(CONFIG)
        host = PrivateHost.start(layout)
        try:
            with SyncClient.connect(layout.socket) as client:
                yield Scene(layout, client)
        finally:
            host.stop()


Show = Callable[..., tuple[int, str, str]]


@pytest.fixture
def show(scene: Scene, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Show:
    """One command at a width: (status, out, err)."""

    def run(width: int, colour: bool, *arguments: str) -> tuple[int, str, str]:
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setenv("FORCE_COLOR", "1")  # as for a terminal; NO_COLOR leaves the width alone
        monkeypatch.setenv("NO_COLOR", "" if colour else "1")
        monkeypatch.setenv("TERM", "xterm-256color")
        monkeypatch.setattr(sys, "argv", ["bridgehold", *arguments])
        status = guarded(lambda: app(prog_name="bridgehold", standalone_mode=False))
        captured = capfd.readouterr()
        return status, captured.out, captured.err

    return run


def looks(text: str, width: int, *, data: bool = False) -> None:
    """No box, and no line that is too wide, but for a word that has no room beside what names it."""
    assert not BOXES.search(text), text
    for line in [] if data else ANSI.sub("", text).splitlines():
        longest = max(map(cells, line.split()), default=0)
        assert cells(line) <= width or longest > width - 20, f"{cells(line)} cells of {width}: {line}"


SHOWN: list[tuple[tuple[str, ...], list[str]]] = [
    (("sessions",), ["{session}", "a-session-with-a-long-name", "python"]),
    (("zygotes",), []),
    (("attack", "--list"), ["new-namespaces", "way-round"]),
    (("resources",), []),
    (("artifacts", "list"), ["{artifact}"]),
    (("bridge", "list"), ["transformers", "langchain", "python"]),
    (("bridge", "show", "dspy"), ["dspy:configure_lm", "dspy:update_session_data"]),
    (("bridge", "verify"), []),
    (("bridge", "scan"), []),
    (
        ("policy", "explain", "python"),
        ["provider_requests_per_minute", "memory", "filesystem", "policies/python.toml:3"],
    ),
    (
        ("policy", "show", "python"),
        ["memory", "policies/python.toml:3", "shipped:baseline.toml:8", "default"],
    ),
    (("policy", "explain", "dspy"), ["network.endpoints.openai", "paths", "secrets.anthropic"]),
    (("policy", "check"), []),
    (("policy", "posture"), ["python", "transformers"]),
    (("policy", "lint"), ["key-reach", "rate.provider_tokens_total"]),
    (("policy", "diff", "python", "dspy"), ["network.endpoints.openai", "dspy:generate"]),
    (("policy", "simulate", "python"), []),
    (("policy", "review", "python"), []),
    (("policy", "approve", "nothing"), []),
    (("proposals",), []),
    (("proposals", "list"), []),
    (("proposals", "show", "nothing"), ["list`"]),
    (("propose", "{denied}"), ["operations.deny[0]"]),
    (("config",), ["memory_reserve", "providers.a-provider-with-a-long-name", "base_url"]),
    (("config", "--all"), ["audit_tenant_quota", "keyring_backend", "max_age_s"]),
    (("secrets", "list"), []),
    (("tenant", "list"), ["acme", "globex"]),
    (("tenant", "show", "acme"), ["acme"]),
    (("token", "list"), []),
    (("audit", "tail"), []),
    (("audit", "query", "--kind", "command"), ["command.refused", "command.outcome"]),
    (("audit", "query", "--kind", "egress"), []),
    (("audit", "query", "kind = command and framework = python"), ["command.refused", "command.outcome"]),
    (("audit", "query", "tennant = acme"), ["'tennant'"]),
    (("audit", "verify"), []),
    (("audit", "report", "--output", "{written}"), []),
    (("review", "nowhere"), []),
    (("usage",), ["python", "local"]),
    (("why", "{failed}"), ["command.outcome", "{failed}"]),
    (("why", "{denied}"), ["{denied}", "operations.deny[0]"]),
    (("reload",), []),
    (("jupyter", "install", "--name", "a-kernel-with-a-long-name"), ["a-kernel-with-a-long-name"]),
    (("jupyter", "list"), ["a-kernel-with-a-long-name", "framed"]),
    (("jupyter", "uninstall", "nothing"), []),
    (("run", "python:execute", "--args", '{"code": "raise ValueError(\'no \' * 60)"}'), []),
    (("run", "python:nothing"), []),
    (("top", "--looks", "1"), ["a-session-with-a-long-name", "python:execute"]),
    (("profile", "{session}", "--seconds", "0.2"), []),
    (("sessions", "kill", "nobody"), []),
    (("init",), []),
]
"""Commands, and words of theirs that are never cut."""


@pytest.mark.parametrize(("arguments", "keys"), SHOWN, ids=[" ".join(one) for one, _ in SHOWN])
def test_every_command_reads_well_at_each_width(
    scene: Scene, show: Show, arguments: tuple[str, ...], keys: list[str]
) -> None:
    names = {key: str(value) for key, value in vars(scene).items()}
    argv = [names.get(one.strip("{}"), one) for one in arguments]
    statuses = set()
    for width, colour in LOOKS:
        status, out, err = show(width, colour, *argv)
        statuses.add(status)
        assert "Traceback" not in err.replace("  | Traceback", "")
        looks(out, width, data=argv[0] == "run")
        looks(err, width)
        plain = ANSI.sub("", out + err)
        assert colour or not re.search(r"\x1b\[[0-9;]*m", out + err)
        assert not (colour and keys) or "\x1b[" in out + err, plain
        for key in keys:
            assert names.get(key.strip("{}"), key) in re.split(r"[\s,;]+", plain), f"{key} is cut: {plain}"
    assert len(statuses) == 1


def test_doctor_reads_well_at_each_width(show: Show, monkeypatch: pytest.MonkeyPatch) -> None:
    from bridgehold.supervisor import checks

    _, out, _ = show(80, False, "doctor", "--json")
    seen = [Check(**one) for one in json.loads(out)]
    monkeypatch.setattr(checks, "run_all", lambda *_, **__: seen)  # seen once: each look takes seconds
    for width, colour in LOOKS:
        _, out, _ = show(width, colour, "doctor")
        looks(out, width)
        words = ANSI.sub("", out).split()
        assert all(word in words for one in seen for word in (*one.name.split(), one.status))


CHANGES: list[tuple[tuple[str, ...], list[str]]] = [
    (("tenant", "create", "newco{look}"), ["active"]),
    (("tenant", "limit", "newco{look}", "sessions=3"), ["sessions"]),
    (("tenant", "suspend", "newco{look}", "--reason", "no " * 40), ["suspended"]),
    (("tenant", "resume", "newco{look}"), ["active"]),
    (("token", "create", "reader{look}", "--tenant", "newco{look}", "--bridge", "python"), ["newco{look};"]),
    (("token", "rotate", "reader{look}"), ["newco{look};"]),
    (("token", "revoke", "reader{look}"), ["reader{look}"]),
    (("tenant", "revoke", "newco{look}"), ["zygotes", "keys"]),
    (("tenant", "remove", "newco{look}"), ["newco{look}"]),
    (("sessions", "drain", "--tenant", "acme"), ["resume`"]),
    (("sessions", "resume", "--tenant", "acme"), []),
    (("logs", "{session}"), ["line"]),
    (("logs", "nobody"), ["sessions`"]),
    (("artifacts", "put", "{file}"), ["local"]),
    (("artifacts", "get", "{artifact}", "{file}.{look}"), []),
    (("artifacts", "rm", "sha256:0"), ["list`"]),
    (("secrets", "rm", "nothing"), ["list`"]),
    (("policy", "learn", "python", "--output", "{file}.{look}.toml"), []),
    (("proposals", "approve", "p-0123456789ab"), ["list`"]),
    (("proposals", "reject", "p-0123456789ab"), ["list`"]),
    (("bridge", "new", "poet{look}"), ["poet{look}"]),
    (("bridge", "lock", "poet{look}"), ["packages"]),
    (("bridge", "build", "python"), ["packages"]),
    (("bridge", "gc"), ["removed"]),
    (("bridge", "adapter", "python"), ["PythonAdapter:"]),
    (("bridge", "provider", "--nonsense"), []),
    (("chaos", "nothing"), ["python,"]),
    (("serve", "--check"), ["start"]),
    (("stop", "--nonsense"), []),
    (("metrics",), ["bridgehold_sessions"]),
]
"""As `SHOWN`, of commands that change something: each look at what is its own."""
AT_HOME = [
    (("bridge", "check", "sonnet"), "PASS"),
    (("bridge", "dev", "sonnet:greet", "--runs", "1"), "greeting_id,"),
    (("shell",), "2"),
]
"""What starts sandboxes of its own: looked at twice."""


def test_what_changes_something_reads_well_at_each_width(scene: Scene, show: Show, tmp_path: Path) -> None:
    file = tmp_path / "file.txt"
    file.write_text("x")
    for look, (width, colour) in enumerate(LOOKS):
        names = {**vars(scene), "file": file, "look": look}
        for arguments, words in CHANGES:
            argv = [one.format_map(names) for one in arguments]
            status, out, err = show(width, colour, *argv)
            assert "Traceback" not in out + err, err
            assert status != 2 or argv[-1] == "--nonsense" or argv[1] == "lock", (argv, err)
            looks(out, width, data=argv[0] in ("logs", "metrics") or argv[1] == "adapter")
            looks(shown(err), width)
            assert colour or not re.search(r"\x1b\[[0-9;]*m", out + err)
            plain = re.split(r"\s+", ANSI.sub("", out + err))
            assert all(word.format_map(names) in plain for word in words), (argv, plain)


AS_JSON: list[tuple[tuple[str, ...], set[str]]] = [
    (("sessions", "drain", "--tenant", "acme"), {"ended"}),
    (("sessions", "resume", "--tenant", "acme"), {"resumed"}),
    (("logs", "{session}"), {"session", "log"}),
    (("logs", "nobody"), {"code", "hint"}),
    (("artifacts", "put", "{file}"), {"digest", "size_bytes"}),
    (("artifacts", "get", "{artifact}", "{file}.json"), {"digest", "path", "size_bytes"}),
    (("artifacts", "rm", "{kept}"), {"removed", "tenant"}),
    (("artifacts", "rm", "sha256:0"), {"code", "hint"}),
    (("secrets", "rm", "nothing"), {"code", "hint"}),
    (("tenant", "create", "machine"), {"name", "state"}),
    (("token", "create", "robot", "--tenant", "machine"), {"name", "token"}),
    (("token", "revoke", "robot"), {"revoked"}),
    (("bridge", "new", "ode"), {"files", "next"}),
    (("bridge", "lock", "ode"), {"code", "hint"}),
    (("sessions", "kill", "{other}"), {"id"}),
    (("init",), {"code", "hint"}),
    (("init", "--force"), {"wrote"}),
    (("stop", "--nonsense"), {"code", "hint"}),
]
"""What changes something, and keys of what it answers."""


def test_what_changes_something_answers_a_machine(scene: Scene, show: Show, tmp_path: Path) -> None:
    file = tmp_path / "file.txt"
    file.write_text("x")
    with SyncClient.connect(scene.layout.socket) as client:
        other = client.request("session.open", {"bridge": "python"})["id"]
        kept = client.put(b"y").digest
    names = {**vars(scene), "file": file, "other": other, "kept": kept}
    for arguments, keys in AS_JSON:
        status, out, _ = show(80, True, *(one.format_map(names) for one in arguments), "--json")
        found = json.loads(out)
        assert keys <= found.keys(), (arguments, out)
        assert bool(status) is ("code" in keys), (arguments, out)


@pytest.mark.usefixtures("scene")
def test_a_question_that_nobody_can_answer_names_the_way_without(
    show: Show, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    status, out, err = show(1_000, False, "policy", "approve", "python")
    assert status == 2, err
    assert "python  never reviewed" in out, "what is asked for was shown first"
    assert "nobody answered" in err
    assert "--yes" in err


ITS_OWN = {
    "demo": "a scene for people", "python": "a program's own output", "shell": "a talk", "serve": "runs until it is ended",
    "bridge adapter": "a Python module", "bridge provider": "runs until it is ended", "bridge dev": "runs until it is ended",
    "audit export": "JSON lines as it is", "review": "a page", "metrics": "Prometheus' own text", "stdio": "a protocol",
}  # fmt: skip
"""What has no ``--json``, and what it writes instead."""


def test_every_command_answers_a_machine_or_has_a_form_of_its_own() -> None:
    def walk(entries: Iterable[Command | Group], before: str = "") -> Iterator[tuple[str, Command | Group]]:
        for one in entries:
            if one.place:
                yield f"{before}{one.name}", one
            if isinstance(one, Group):
                yield from walk(one.commands, f"{before}{one.name} ")

    without = set()
    for name, entry in walk(one for entries in TREE.values() for one in entries):
        module, _, function = entry.place.partition(":")
        taken = inspect.signature(
            getattr(importlib.import_module(f"bridgehold.faces.cli.{module}"), function)
        )
        said = [str(one.annotation) for one in taken.parameters.values()]
        if not any(one == "Json" or "--json" in one for one in said):
            without.add(name)
    assert without == set(ITS_OWN)


def shown(err: str) -> str:
    """What stays of it: progress is drawn while the cursor is hidden, and is gone when it is done."""
    return re.sub(r"\x1b\[\?25l.*?\x1b\[\?25h", "", err, flags=re.DOTALL)


def test_what_tries_a_bridge_reads_well_at_each_width(
    scene: Scene, show: Show, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert show(80, False, "bridge", "new", "sonnet")[0] == 0
    for arguments, word in AT_HOME:
        for width, colour in (LOOKS[0], LOOKS[-1]):
            monkeypatch.setattr(sys, "stdin", io.StringIO("1 + 1\n"))
            _, out, err = show(width, colour, *arguments)
            looks(out, width)
            looks(shown(err), width)
            assert word in ANSI.sub("", out + err).split(), (arguments, out, err)


def test_figures_stand_under_their_start_and_are_not_cut(show: Show, monkeypatch: pytest.MonkeyPatch) -> None:
    async def measured(bridge: str, *_: object) -> list[Figure]:
        found = [
            one
            for way in ("cold", "fork")
            for one in spread(f"{bridge}: {way}, to the first command's end", [1.5, 20.25], baseline=30.0)
        ]
        return [*found, figure(f"{bridge}: sessions made, used once and ended, for each core", 1.1, "/s")]

    monkeypatch.setattr(starts, "measure", measured)
    for width, colour in LOOKS:
        _, out, _ = show(width, colour, "bench")
        looks(out, width)
        lines = [line.strip() for line in ANSI.sub("", out).splitlines() if line.strip()]
        assert [line for line in lines if "  " not in line] == ["python: cold", "python: fork", "python"]
        assert sum("to the first command's end, p50" in line for line in lines) == 2
        assert any(line.startswith("sessions made, used once and ended, for each core  ") for line in lines)


def test_why_tells_its_story_in_order_and_in_sentences(scene: Scene, show: Show) -> None:
    _, out, _ = show(1_000, False, "why", scene.failed)
    story, facts, *_ = out.split("\n\n")
    sentences = [line[2:] for line in story.splitlines()[1:]]
    times = [line.split()[0] for line in sentences]
    assert times == sorted(times), "not in the order of time"
    assert (
        next(one for one in story.splitlines() if one.startswith("→ "))
        .partition("  ")[2]
        .startswith("The command ended with application after ")
    )
    assert (
        " asked for python:execute for tenant local; it was allowed by operations.allow[0] (shipped:" in story
    )
    assert all(line.endswith(".") for line in sentences), story
    assert out.index(sentences[-1]) < out.index("remedy") < out.index("related\n")
    assert facts.startswith("rule   ")
    denied = show(1_000, False, "why", scene.denied)[1]
    assert " asked for python:reset for tenant local; it was refused by operations.deny[0] (" in denied
    assert "related" not in denied


def listed() -> Iterator[tuple[tuple[str, ...], Command | Group]]:
    for entries in TREE.values():
        for entry in entries:
            yield (entry.name,), entry
            for one in entry.commands if isinstance(entry, Group) else ():
                yield (entry.name, one.name), one


def test_the_help_of_each_command_fits_and_each_line_of_a_listing_is_one_line(show: Show) -> None:
    for path, entry in [((), None), *listed()]:
        for width in (80, 160):
            status, out, err = show(width, False, *path, "--help")
            assert (status, err) == (0, ""), (path, err)
            looks(out, 80)
        if entry is not None:
            assert len(entry.line) <= 66, entry
    assert show(80, True, "--help")[1] == page()
    assert show(80, False)[2] == page()
    long = {name for param in app.params for name in param.opts if name.startswith("--")}
    assert long | {"-h, --help"} == set(OPTIONS)


OURS = {
    "bridgehold", "bridgehold.__main__", "bridgehold.error_info", "bridgehold.error_texts", "bridgehold.errors", "bridgehold.hardening", "bridgehold.faces",
    "bridgehold.faces.cli", "bridgehold.faces.cli.main", "bridgehold.faces.cli.border", "bridgehold.faces.cli.tree",
}  # fmt: skip
RUN = {
    "bridgehold.faces.cli.commands", "bridgehold.faces.cli.known", "bridgehold.faces.cli.place", "bridgehold.faces.cli.run", "bridgehold.faces.layout",
    "bridgehold.faces.render", "bridgehold.faces.screen", "bridgehold.client", "bridgehold.client.once", "bridgehold.config",
    "bridgehold.config.layout", "bridgehold.protocol", "bridgehold.protocol.frames", "bridgehold.protocol.values",
    "bridgehold.policies", "bridgehold.policies.globs", "bridgehold.policies.units", "bridgehold.audit", "bridgehold.audit.chain",
    "bridgehold.audit.entries", "bridgehold.ids", "bridgehold.reads", "bridgehold.steps", "bridgehold.strict", "bridgehold.strict_turns",
}  # fmt: skip
HEAVY = {
    "asyncio",
    "ssl",
    "email",
    "rich",
    "pydantic",
    "importlib.metadata",
    "http",
    "cryptography",
    "logging",
}
IMPORTED = """
import sys
before = set(sys.modules)
from bridgehold.__main__ import main
try:
    main()
finally:
    sys.stderr.write("\\n" + " ".join(sorted(set(sys.modules) - before - {"bridgehold.__main__"})))
"""


@pytest.mark.parametrize(
    ("arguments", "ours", "others"),
    [
        (["--help"], OURS, {"msgspec", "typing_extensions"}),
        (
            ["run", "python:execute", "--args", '{"code": "1"}'],
            OURS | RUN,
            {"msgspec", "typing_extensions", "typer", "annotated_doc", "shellingham"},
        ),
    ],
    ids=["help", "run"],
)
def test_a_start_imports_no_more_than_it_uses(
    scene: Scene, arguments: list[str], ours: set[str], others: set[str]
) -> None:
    argv = [sys.executable, "-c", IMPORTED, *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, env=dict(os.environ))
    found = set(done.stderr.splitlines()[-1].split())
    assert {name for name in found if name.split(".")[0] == "bridgehold"} <= ours
    assert not found & HEAVY
    foreign = {name.split(".")[0] for name in found} - set(sys.stdlib_module_names) - {"bridgehold"}
    assert {name for name in foreign if not name.startswith("_")} <= others


@pytest.mark.parametrize(
    ("module", "unused"),
    [
        ("supervisor.main", {"asyncio", "cryptography", "http", "packaging"}),
        ("keeper.main", {"aiohttp", "attr", "email", "packaging", "yarl"}),
        ("audit.journal", {"asyncio", "cryptography", "ssl"}),
        ("sandbox.launcher.main", {"asyncio", "cryptography", "logging", "ssl"}),
        ("host.main", {"aiohttp", "keyring", "requests", "typer"}),
    ],
)
def test_a_process_of_a_private_host_loads_nothing_that_few_hosts_use(module: str, unused: set[str]) -> None:
    text = f"import sys, bridgehold.{module}; print(*sys.modules)"
    argv = [sys.executable, "-P", "-c", text]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60)
    assert not {"pydantic", "rich", *unused} & set(done.stdout.split())


SERVED = """
import socket, sys
from pathlib import Path
from bridgehold.config.layout import Layout
from bridgehold.config.load import Config
from bridgehold.keeper.carrier import Carrier
from bridgehold.keeper.places import Turns
from bridgehold.keeper.resolve import system_lookup
from bridgehold.keeper.values import parse_config
from bridgehold.supervisor.changing import Changing
from bridgehold.supervisor.plans import plan
service = sys.argv[1] == "service"
layout = Layout(config=Path("/c"), state=Path("/s"), run=Path("/r"))
keeper = parse_config(plan(layout, Config(), service=service).keeper.config)
Carrier(keeper, {}, system_lookup, Turns())
Changing(layout, lasts=service)
print(*({"aiohttp", "bridgehold.supervisor.files", "bridgehold.supervisor.releases"} & set(sys.modules)))
"""


@pytest.mark.parametrize(("kind", "loaded"), [("service", 3), ("private", 0)])
def test_a_service_loads_at_its_start_what_may_be_replaced_below_it(kind: str, loaded: int) -> None:
    argv = [sys.executable, "-P", "-c", SERVED, kind]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60)
    assert len(done.stdout.split()) == loaded, done.stdout


WORDS = st.text(alphabet="abc-é漢", min_size=1, max_size=12)
CELLS = st.lists(WORDS, max_size=6).map(" ".join)


@settings(max_examples=200, deadline=None)
@given(
    rows=st.lists(st.tuples(WORDS, CELLS, CELLS, CELLS), min_size=1, max_size=6), width=st.integers(50, 160)
)
def test_a_table_has_every_word_whole_and_no_line_too_wide(
    rows: list[tuple[str, str, str, str]], width: int
) -> None:
    columns = [Column("key"), number("size"), Column("what it is"), dim("source")]
    lines = ["".join(text for text, _ in line) for line in table(columns, rows, width)]
    assert all(cells(line) <= width for line in lines), lines
    shown = "\n".join(lines).split()
    for row in rows:
        assert all(word in shown for cell in row for word in cell.split())


@settings(max_examples=200, deadline=None)
@given(text=st.text(alphabet="ab \n漢", max_size=80), width=st.integers(5, 40))
def test_a_paragraph_loses_no_word_and_no_style(text: str, width: int) -> None:
    assert " ".join(fold(text, width)).split() == text.split()
    half = len(text) // 2
    lines = paragraph([text[:half], (text[half:], "dim")], width, under="> ")
    assert (
        "".join("".join(piece for piece, _ in line) for line in lines).replace("> ", "").split() is not None
    )
    dimmed = "".join(piece for line in lines for piece, style in line if style == "dim")
    assert "".join(dimmed.split()) == "".join(text[half:].split())


def test_keys_stand_under_their_table_and_numbers_end_together() -> None:
    rows = [
        ("a", "1", "x"),
        ("t.u.key", "12 MiB", "y"),
        ("t.u.other", "text", "y"),
        ("t.u.third", "9 s", "z"),
    ]
    assert grouped(rows) == [
        ("a", "1", "x"),
        "t.u",
        ("key", "12 MiB", "y"),
        ("other", "text", "y"),
        ("third", "   9 s", "z"),
    ]
    lines = [
        "".join(text for text, _ in line)
        for line in table([Column("key"), Column("v"), Column("by")], grouped(rows), 80)
    ]
    assert lines == ["  key    v       by", "  a      1       x", "", "t.u", "  key    12 MiB  y", "  other  text    y", "  third     9 s  z"]  # fmt: skip


def test_json_is_one_document_whatever_the_width(show: Show) -> None:
    _, out, _ = show(80, True, "sessions", "--json")
    assert json.loads(out)[0]["name"] == "a-session-with-a-long-name"


HIDDEN = """
mount --bind /dev/null "$(readlink -f "$(command -v bwrap)")"
for one in "run python:execute" "shell" "stdio --bridge python" "serve" "serve --check" "bridge build python"; do
    "$0" -m bridgehold $one < /dev/null > out 2> err; echo "$?|$one|$(tr '\\n' ' ' < out)|$(tr '\\n' ' ' < err)"
done
"""


def test_a_machine_without_bubblewrap_is_told_so_by_whatever_needs_it(tmp_path: Path) -> None:
    inside = (
        ["unshare", "--mount"] if os.getuid() == 0 else ["unshare", "--user", "--map-root-user", "--mount"]
    )
    argv = [*inside, "bash", "-c", HIDDEN, sys.executable]
    open_to_others(tmp_path)  # for the host's other processes
    environ = {**os.environ, "BRIDGEHOLD_HOME": str(tmp_path / "home")}
    done = subprocess.run(argv, capture_output=True, text=True, check=True, env=environ, cwd=tmp_path)
    told = [line.split("|") for line in done.stdout.splitlines() if line.count("|") >= 3]
    assert len(told) == 6, done
    for status, command, out, *err in told:
        said = "|".join(err)
        assert status == ("14" if command.startswith("serve") else "51"), (status, command, said)
        assert "bubblewrap is missing" in said, (command, said)
        assert "apt-get install bubblewrap" in said, (command, said)
        assert "Traceback" not in out + said


CLOSED = [("", "config"), ("state", ""), ("state/audit", "")]
"""A folder that the service's user can't write, and one that is missing."""


def open_to_others(folder: Path) -> None:
    """Let every user reach it: a run's temporary folders are its owner's alone."""
    for place in (folder, *folder.parents):
        facts = place.stat()
        if facts.st_uid == os.getuid() and facts.st_mode & 0o005 != 0o005:
            place.chmod(0o755)


def test_what_may_not_be_read_or_written_says_by_whom_or_why(tmp_path: Path) -> None:
    home = tmp_path / "home"
    for folder in ("config/policies", "state", "run"):
        (home / folder).mkdir(parents=True)
    policy = home / "config/policies/python.toml"
    policy.write_text('extends = "python"\n')
    policy.chmod(0o600 if os.getuid() == 0 else 0)
    open_to_others(home / "config/policies")
    uid = os.getuid() or 65534
    as_user = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"] if os.getuid() == 0 else []
    read_only = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
    mounted = ["unshare", *([] if os.getuid() == 0 else ["-r"]), "-m", "sh", "-c", read_only, str(home)]
    for before, command, said in (
        (as_user, ["policy", "explain", "python"], f"uid {uid}, read it"),
        (mounted, ["serve", "--check"], "its file system is read-only"),
        (mounted, ["secrets", "set", "openai"], "Mount it writable"),
        (mounted, ["init"], "Mount it writable"),
    ):
        done = subprocess.run(
            [*before, sys.executable, "-m", "bridgehold", *command],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "BRIDGEHOLD_HOME": str(home)},
            input="sk-0123456789",
            cwd="/",
            timeout=240,
        )
        assert (done.returncode != 0, said in " ".join(done.stderr.split())) == (True, True), done


@pytest.mark.parametrize(("closed", "missing"), CLOSED[: 3 if os.getuid() == 0 else 2])
def test_folders_that_the_services_user_cannot_write_are_seen_before_a_start(
    tmp_path: Path, closed: str, missing: str
) -> None:
    home = tmp_path / "home"
    for folder in ("config", "state/audit", "run"):
        (home / folder).mkdir(parents=True)
    as_user: list[str] = []
    if os.getuid() == 0:  # the service's user owns all but what is closed
        as_user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        for place in (home, *home.rglob("*")):
            os.chown(place, 65534, 65534)
        os.chown(home / closed, 0, 0)
        open_to_others(tmp_path)
    if missing:
        (home / missing).rmdir()
    (home / closed).chmod(0o555)
    environ = {**os.environ, "BRIDGEHOLD_HOME": str(home)}
    for command in (["serve", "--check"], ["serve"]):
        argv = [*as_user, sys.executable, "-m", "bridgehold", *command]
        done = subprocess.run(
            argv, capture_output=True, text=True, check=False, env=environ, cwd="/", timeout=60
        )
        assert (done.returncode, done.stdout) == (3, ""), (command, done)
        assert str(home / closed) in done.stderr
        assert "remedy" in done.stderr
        assert "Traceback" not in done.stderr
    (home / closed).chmod(0o755)
    if os.getuid() == 0:
        os.chown(home / closed, 65534, 65534)
    argv = [*as_user, sys.executable, "-m", "bridgehold", "serve", "--check"]
    before = sorted(home.rglob("*"))
    assert subprocess.run(argv, env=environ, cwd="/", capture_output=True, check=False).returncode == 0
    assert sorted(home.rglob("*")) == before


def test_anothers_host_is_closed_in_words_and_with_a_remedy(scene: Scene) -> None:
    if os.getuid() != 0:  # only root can be another user; the suite runs as root too
        return
    other = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        sys.executable,
        "-m",
        "bridgehold",
    ]
    for arguments, status, said, where in (
        (
            ["run", "python:execute", "--args", '{"code": "1"}'],
            13,
            "local user 65534 is nobody here",
            "principals",
        ),
        (["sessions"], 13, "local user 65534 is nobody here", "principals"),
        (["stop"], 13, "local user 65534 is nobody here", "principals"),
        (["stdio", "--bridge", "python"], 13, "local user 65534 is nobody here", "principals"),
        (["why", "i-x.1"], 50, "can't read the audit's folder: Permission denied", "state/audit"),
        (["audit", "tail"], 50, "can't read the audit's folder: Permission denied", "state/audit"),
        (["bridge", "new", "poet"], 3, "can't be written: Permission denied", "config/bridges"),
        (["secrets", "list"], 17, "can't be read: Permission denied", "state/secrets"),
    ):
        done = subprocess.run(
            [*other, *arguments], input="", capture_output=True, text=True, check=False, cwd="/"
        )
        assert (done.returncode, said in done.stderr) == (status, True), (arguments, done)
        lines = [line.split()[0] for line in done.stderr.splitlines()]
        assert lines[1:3] == ["where", "remedy"], (arguments, done.stderr)
        assert where in done.stderr


def test_a_command_that_asks_once_acts_for_whom_its_token_says(scene: Scene, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("not-known-here\n")
    file.chmod(0o600)
    argv = [sys.executable, "-m", "bridgehold", "run", "python:execute", "--args", '{"code": "1"}']
    environ = {**os.environ, "BRIDGEHOLD_TOKEN_FILE": str(file)}
    for mode, status, said in (
        (0o600, 13, "the token is not known here"),
        (0o644, 3, "others may read this token"),
    ):
        file.chmod(mode)
        done = subprocess.run(argv, capture_output=True, text=True, check=False, env=environ)
        assert (done.returncode, said in done.stderr) == (status, True), done
