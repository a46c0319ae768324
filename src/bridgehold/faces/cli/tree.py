"""The tree of commands: where each one is, and its line in a listing. Nothing heavy is imported for it.

A line of a listing is shorter than the command's own help, which is its function's docstring.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Command(NamedTuple):
    """One command: its name, where its function is, its line in a listing."""

    name: str
    place: str
    """``module:function`` of `bridgehold.faces.cli`."""
    line: str
    loose: bool = False
    """Its arguments begin with the first that is no option of ours."""


class Group(NamedTuple):
    """Commands below one name."""

    name: str
    line: str
    commands: tuple[Command | Group, ...]
    place: str = ""
    """What runs where no command of the group is named; its help otherwise."""


Tree = Mapping[str, tuple[Command | Group, ...]]
"""Commands by the heading under which they are listed."""

_SUBMISSIONS = (
    Command("list", "submissions:list_submissions", "Bridges that were handed in."),
    Command("show", "submissions:show", "What one gains and loses."),
    Command("approve", "submissions:approve", "Have new sessions begin with it."),
    Command("reject", "submissions:reject", "Refuse it."),
)
_BRIDGE: tuple[Command | Group, ...] = (
    Command("list", "bridges:list_bridges", "Every bridge of this host."),
    Command("show", "bridges:show", "A bridge's operations and what it asks for."),
    Command("build", "bridges:build", "Build its environment."),
    Command("verify", "bridges:verify", "Read every byte of built environments again."),
    Command("scan", "supply:scan", "Hashes, licences and advisories of what is built."),
    Command("gc", "bridges:collect", "Remove environments that nobody uses."),
    Command("adapter", "bridges:adapter", "Print its operations as a Python module."),
    Command("new", "authoring:new", "Write a bridge that runs and is tested."),
    Command("lock", "authoring:lock_bridge", "Resolve what it asks for to exact versions."),
    Command("check", "authoring:check_bridge", "Try what any bridge must do."),
    Command("dev", "authoring:dev", "Run an operation again after each save."),
    Command("submit", "submissions:submit", "Hand in a bridge of a tenant's own."),
    Group(
        "submissions",
        "Bridges that were handed in: see, approve, reject.",
        _SUBMISSIONS,
        "submissions:submissions",
    ),
    Command("rollback", "submissions:rollback", "Return to the release before."),
    Command("provider", "chaos:provider", "Play a provider on this machine."),
)
_POLICY = (
    Command("check", "policy:check", "Read policies strictly; every fault with its line."),
    Command("show", "policy:show", "A policy with all that it extends, each value with its source."),
    Command("explain", "policy:explain", "What a bridge is granted, and which line says so."),
    Command("lint", "policy_review:lint", "What a reviewer should look at, the gravest first."),
    Command("posture", "policy_review:posture", "Bridges and their powers, in one table."),
    Command("diff", "policy_review:diff", "Capabilities gained and lost from one grant to another."),
    Command("simulate", "policy_review:simulate", "What a policy would have refused of what was asked."),
    Command("test", "policy_review:expect", "Whether policies do what a file expects."),
    Command("learn", "policy_learn:learn", "Draft a policy out of what was seen, for a person to sign."),
    Command("review", "policy_sign:review", "What a policy changes since somebody signed it."),
    Command("approve", "policy_sign:approve", "Sign it as it is now."),
)
_PROPOSALS = (
    Command("list", "proposals:list_proposals", "Rules that were asked for."),
    Command("show", "proposals:show", "The rule, what it gains, its risk."),
    Command("approve", "proposals:approve", "Sign it: it holds until it expires."),
    Command("reject", "proposals:reject", "Refuse it, or end one that was approved."),
)
_SECRETS = (
    Command("set", "secrets:set_secret", "Keep a key: typed at the prompt, or piped in."),
    Command("list", "secrets:list_secrets", "Names, tenants and stores; never a value."),
    Command("rm", "secrets:remove_secret", "Forget a key."),
)
_TENANT = (
    Command("list", "tenants:list_tenants", "Every tenant, and how it stands."),
    Command("show", "tenants:show", "One tenant: state, ceilings, who changed it last."),
    Command("create", "tenants:create", "Make a tenant."),
    Command("limit", "tenants:limit", "Set ceilings, or take some away."),
    Command("suspend", "tenants:suspend", "Let nothing more begin for it."),
    Command("resume", "tenants:resume", "Let a suspended tenant go on."),
    Command("revoke", "tenants:revoke", "End all that it has, for good."),
    Command("remove", "tenants:remove", "Remove a revoked tenant; a ceiling in its file stays."),
)
_TOKEN = (
    Command("list", "tenants:list_tokens", "Tokens by name and scope; never a token."),
    Command("create", "tenants:create_token", "Make a token and print it, once."),
    Command("rotate", "tenants:rotate", "Give a token another secret."),
    Command("revoke", "tenants:revoke_token", "Make a token worth nothing."),
)
_AUDIT = (
    Command("tail", "audit:tail", "The newest events."),
    Command("query", "audit:query", "Events by kind, tenant, session, command, time or text."),
    Command("verify", "audit:verify", "Whether the audit is whole, and as it was written."),
    Command("report", "audit_report:report", "A review: reach, refusals, keys, spending, changes."),
    Command("export", "audit:export", "Every event as OCSF, one JSON line each."),
    Command("rotate-key", "audit_acts:rotate_key", "Another key signs anchors; both sign the change."),
    Command("sinks", "audit_acts:sinks", "Where events and anchors leave to, and what waits."),
    Command("seal", "audit_acts:seal", "Close and sign old segments; drop their bodies, if asked to."),
)
_SESSIONS = (
    Command("kill", "observe:kill", "End a session at once."),
    Command("drain", "observe:drain", "End sessions politely, and open no new ones."),
    Command("resume", "observe:resume", "Open sessions again after a drain."),
)
_ARTIFACTS = (
    Command("list", "artifacts:list_artifacts", "The tenant's artifacts, the newest last."),
    Command("put", "artifacts:put", "Keep a file; prints its digest."),
    Command("get", "artifacts:get", "Write an artifact into a new file."),
    Command("rm", "artifacts:remove", "Forget an artifact."),
)
_JUPYTER = (
    Command("install", "jupyter:install", "Let notebooks run their cells in a sandbox."),
    Command("list", "jupyter:list_kernels", "The kernels that are installed."),
    Command("uninstall", "jupyter:uninstall", "Remove one."),
)
TREE: Tree = {
    "Begin": (
        Command("doctor", "doctor:doctor", "Prove every barrier of this machine."),
        Command("attack", "attack:attack", "Hostile acts in sandboxes here, and a signed report."),
        Command("demo", "demo:demo", "A theft that fails, and work with a key that isn't there."),
        Command("init", "serve:init", "Write a first config.toml."),
    ),
    "Work": (
        Command("run", "run:run", "Run one command in a sandbox."),
        Command("python", "python:python", "Run a program as `python` would, in a sandbox.", loose=True),
        Command("shell", "shell:shell", "Talk to one session."),
        Group("jupyter", "A kernel for notebooks, whose cells run in a sandbox.", _JUPYTER),
        Group("sessions", "List sessions, or end some.", _SESSIONS, "sessions:sessions"),
        Command("files", "files:files", "Files of a session: see, get, put, move, remove."),
        Command("resources", "sessions:resources", "What sessions hold: programs, chains, models."),
        Command("logs", "sessions:logs", "What a session's bridge wrote."),
        Group("artifacts", "Bytes of tenants, by digest: what outlives a session.", _ARTIFACTS),
    ),
    "The host": (
        Command("serve", "serve:serve", "Start the host, in the foreground."),
        Command("stop", "serve:stop", "Stop it; what runs may finish."),
        Command("restart", "serve:restart", "Replace it by the version that is installed now."),
        Command("config", "settings:config", "What the configuration says, and who said it."),
        Command("reload", "settings:reload", "Have it read its configuration again."),
        Group("tenant", "Tenants: make, bound, suspend, revoke them.", _TENANT),
        Group("token", "Tokens: who shows one acts for its tenants.", _TOKEN),
        Group("secrets", "Keys of tenants, for the keeper. Values are never printed.", _SECRETS),
    ),
    "Bridges and policies": (
        Group("bridge", "See bridges, build their environments, write and check your own.", _BRIDGE),
        Group("policy", "Check policies, and see what a bridge is granted and why.", _POLICY),
        Command("propose", "proposals:propose", "Ask for the smallest rule that allows what was refused."),
        Group(
            "proposals", "Rules that were asked for: see, approve, reject.", _PROPOSALS, "proposals:proposals"
        ),
        Command("chaos", "chaos:chaos", "Try a bridge while things go wrong."),
    ),
    "What happened": (
        Command("why", "audit:why", "The story of an event, and its remedy."),
        Group("audit", "Read, query and verify the audit.", _AUDIT),
        Command("review", "review:review", "An audit in a browser: reach, use, refusals, spending, changes."),
        Command("usage", "usage:usage", "Who used what."),
        Command("top", "observe:top", "Sessions and operations, live."),
        Command("metrics", "observe:metrics", "The host's figures in Prometheus' text format."),
        Command("profile", "observe:profile", "Where a session spends its time."),
        Command("zygotes", "sessions:zygotes", "The warm processes that sessions are forked from."),
        Command("bench", "bench:bench", "How long sessions take to begin on this machine."),
    ),
    "DSPex and Snakepit": (
        Command("stdio", "stdio:stdio", "Answer their frames on stdin and stdout."),
        Command("shim", "shim:shim", "Make an interpreter that runs their scripts in sandboxes."),
    ),
}
HELP = "A sandboxed execution host for ML-framework bridges."
OPTIONS = {
    "--version": "Print the version.",
    "--install-completion": "Install completion for the current shell.",
    "--show-completion": "Show completion, to copy or to change it.",
    "-h, --help": "Show this message and exit.",
}


def page() -> str:
    """What ``bridgehold --help`` shows: every command by what it is for."""
    blocks = {"Options": list(OPTIONS.items())}
    blocks |= {heading: [(entry.name, entry.line) for entry in entries] for heading, entries in TREE.items()}
    lines = ["Usage: bridgehold [OPTIONS] COMMAND [ARGS]...", "", f"  {HELP}"]
    for heading, rows in blocks.items():
        width = max(len(name) for name, _ in rows) if heading == "Options" else _WIDTH
        lines += ["", f"{heading}:", *(f"  {name:<{width}}  {text}" for name, text in rows)]
    return "\n".join(lines) + "\n"


_WIDTH = max(len(entry.name) for entries in TREE.values() for entry in entries)
