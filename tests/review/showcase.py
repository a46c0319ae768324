"""An audit worth looking at: nine days, two tenants, four frameworks, and what a reviewer would want to find."""

from __future__ import annotations

import hashlib
import random
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from audit.audit_support import Filler, intent, outcome
from bridgehold.audit.events import (
    AdminIntent,
    AdminOutcome,
    CommandRefused,
    ConfigReloaded,
    EgressIntent,
    EgressOutcome,
    EgressRefused,
    EnvironmentBuilt,
    GrantResolved,
    HostStarted,
    PolicyLoaded,
    PrincipalRefused,
    SecretChanged,
    SessionClosed,
    SessionOpened,
    ToolIntent,
    ToolOutcome,
    ToolRefused,
)
from bridgehold.audit.writer import Writer
from bridgehold.policies.model import Connect, Endpoint, Grant, Rate, Rules, SecretGrant
from doubles.house import grant_of

BEGUN = datetime(2026, 11, 20, 8, tzinfo=UTC)
POLICY = """\
# What dspy may do here.
extends = "baseline"

[operations]
allow = ["dspy:*"]
deny = ["dspy:evaluate_*"]

[network.endpoints.openai]
methods = ["POST"]
paths = ["/chat/completions"]

[secrets.openai]
how = "gateway"
provider = "openai"
"""
MIB = 1024 * 1024


class Clock:
    """Times of the audit's lines, as the story goes."""

    def __init__(self) -> None:
        self.now = BEGUN

    def __call__(self) -> int:
        self.now += timedelta(milliseconds=7)
        return int(self.now.timestamp() * 1_000_000_000)


def grants() -> dict[tuple[str, str], Grant]:
    """What each framework of each tenant is granted."""
    openai = Endpoint(provider="openai", methods=("POST",), paths=("/chat/completions",))
    anthropic = Endpoint(provider="anthropic", methods=("POST",), paths=("/messages",))
    hub = Endpoint(provider="hub", methods=("GET",), repos=("/acme/small@main",))
    key = SecretGrant(name="openai", how="gateway", provider="openai")
    facts: dict[tuple[str, str], dict[str, object]] = {
        ("acme", "dspy"): {
            "endpoints": (openai,), "secrets": (key,),
            "operations": Rules(allow=("dspy:*",), deny=("dspy:evaluate_*",)),
            "tools": Rules(allow=("search", "calculator")),
            "rate": Rate(provider_tokens_total=400_000, provider_requests_total=2_000),
        },
        ("acme", "langchain"): {
            "endpoints": (openai, anthropic), "secrets": (key, SecretGrant(name="anthropic", how="env", variable="ANTHROPIC_API_KEY")),
            "operations": Rules(allow=("langchain:run", "langchain:create_chain")),
            "connects": (Connect(host="docs.example.org"),), "weakenings": ("connect", "env_secret"),
        },
        ("globex", "transformers"): {
            "endpoints": (hub,), "operations": Rules(allow=("transformers:*",)),
            "read": ("/srv/models",), "devices": ("/dev/nvidia0",), "weakenings": ("devices",),
        },
        ("globex", "pandas"): {"operations": Rules(allow=("pandas:read", "pandas:query", "pandas:plot")), "read": ("/srv/data/sales",)},
    }  # fmt: skip
    made = {}
    for (tenant, bridge), changes in facts.items():
        plain = grant_of(tenant, bridge, start="fork", concurrency=8, generation=1)
        grant = msgspec.structs.replace(plain, policy=bridge, inline_keys="capture", digest="", **changes)
        digest = hashlib.sha256(msgspec.json.encode(grant)).hexdigest()
        made[tenant, bridge] = msgspec.structs.replace(grant, digest=f"sha256:{digest}")
    return made


def build(audit: Path, config: Path, *, scale: int = 6) -> None:
    """Write it into `audit`, and the policies that it tells of into `config`."""
    _Story(audit, config, scale).tell()


class _Story:
    def __init__(self, audit: Path, config: Path, scale: int) -> None:
        self._random, self._scale = random.Random(7), scale
        self._clock = Clock()
        defaults = Writer.__init__.__kwdefaults__
        now, defaults["now_ns"] = defaults["now_ns"], self._clock
        try:
            self._filler = Filler(audit, sync=lambda _: None)
        finally:
            defaults["now_ns"] = now
        self._policy = config / "policies/dspy.toml"
        self._policy.parent.mkdir(parents=True)
        self._policy.write_text(POLICY)
        self._granted = grants()
        self._number = 0
        self.put = self._filler.put

    def tell(self) -> None:
        self.put(HostStarted(version="0.1.0", uid=997, machine={"kernel": "6.12", "cgroup": "v2"}))
        before = msgspec.structs.replace(
            self._granted["acme", "langchain"],
            connects=(),
            weakenings=("env_secret",),
            digest="sha256:" + "1" * 64,
        )
        self.put(SecretChanged(tenant="acme", name="openai", action="set", store="file"))
        for grant in [*self._granted.values(), before]:
            if grant is not self._granted["acme", "langchain"]:
                self._grant(grant)
        for name in ("dspy", "langchain", "transformers", "pandas"):
            self.put(
                EnvironmentBuilt(
                    bridge=name,
                    lock="sha256:" + "b" * 64,
                    digest="sha256:" + "c" * 64,
                    files=4_211,
                    bytes=91 * MIB,
                    ms=8_150,
                )
            )
        for day in range(9):
            self._clock.now = BEGUN + timedelta(days=day, minutes=self._random.randrange(50))
            if day == 5:
                self._changes()
            for _ in range(self._scale):
                for tenant, bridge in self._granted:
                    self._session(tenant, bridge, day)
                    self._clock.now += timedelta(minutes=self._random.randrange(3, 40))
        self.put(PrincipalRefused(uid=1042, reason="uid 1042 belongs to no principal"))
        self.put(
            SessionOpened(
                tenant="acme",
                principal="app",
                session="s-00000000000000aa",
                bridge="dspy",
                grant=self._granted["acme", "dspy"].digest,
                start="parked",
                name="live",
            )
        )
        self._filler.journal.writer.sync()

    def _grant(self, grant: Grant) -> None:
        source = str(self._policy) if grant.bridge == "dspy" else f"shipped:{grant.bridge}.toml"
        digest = hashlib.sha256(POLICY.encode()).hexdigest()
        files = (f"{source} sha256:{digest}", f"shipped:baseline.toml sha256:{'9' * 64}")
        self.put(
            PolicyLoaded(
                tenant=grant.tenant,
                name=grant.policy,
                digest="sha256:" + "d" * 64,
                files=files,
                bridge=grant.bridge,
                gained=tuple(f"network.connect {one.host}:{one.port}" for one in grant.connects),
            )
        )
        facts = msgspec.to_builtins(grant)
        facts["sources"] = {
            "operations.allow[0]": f"{source}:5",
            "operations.deny[0]": f"{source}:6",
            "network.endpoints.openai.paths[0]": f"{source}:10",
        }
        facts["overruled"] = {
            "operations.allow": [
                {"value": "common:*", "source": {"file": "shipped:baseline.toml", "line": 12}}
            ]
        }
        self.put(GrantResolved(tenant=grant.tenant, digest=grant.digest, grant=facts))

    def _changes(self) -> None:
        ref = self.put(
            AdminIntent(
                principal="maria",
                tenant="globex",
                action="tenant.limit",
                subject="globex",
                details={"sessions": "12"},
            )
        )[0].ref
        self.put(
            AdminOutcome(
                principal="maria",
                tenant="globex",
                intent=ref,
                action="tenant.limit",
                subject="globex",
                ok=True,
                ms=4,
            )
        )
        self.put(
            SecretChanged(tenant="acme", principal="maria", name="anthropic", action="set", store="file")
        )
        self.put(
            ConfigReloaded(
                digest="sha256:" + "e" * 64,
                applied=("policies/langchain.toml",),
                waiting=("host.memory_reserve",),
            )
        )
        self._grant(self._granted["acme", "langchain"])

    def _session(self, tenant: str, bridge: str, day: int) -> None:
        grant, pick = self._granted[tenant, bridge], self._random
        self._number += 1
        ties = {
            "tenant": tenant,
            "principal": "app" if tenant == "acme" else "notebook",
            "session": f"s-{self._number:016x}",
        }
        self.put(
            SessionOpened(
                **ties,
                bridge=bridge,
                grant=grant.digest,
                start=pick.choice(("fork", "parked")),
                name=f"{bridge}-{self._number}",
            )
        )
        cpu = peak = 0
        operations = {
            "dspy": ("create_program", "execute", "execute"),
            "langchain": ("create_chain", "run"),
            "transformers": ("load", "generate"),
            "pandas": ("read", "query"),
        }[bridge]
        count = pick.randrange(4, 18)
        for _ in range(count):
            self._clock.now += timedelta(seconds=pick.randrange(1, 40))
            used, memory = pick.randrange(20_000, 900_000), pick.randrange(60, 480) * MIB
            cpu, peak = cpu + used, max(peak, memory)
            self._command(ties, grant, f"{bridge}:{pick.choice(operations)}", used, memory)
        self._refusals(ties, bridge, day)
        self._clock.now += timedelta(minutes=2)
        self.put(
            SessionClosed(
                **ties, reason="idle time", commands=count, cpu_us=cpu, memory_peak_bytes=peak, emptied_ms=11
            )
        )

    def _command(self, ties: dict[str, str], grant: Grant, operation: str, cpu: int, memory: int) -> None:
        pick = self._random
        command = f"c-{pick.getrandbits(64):016x}"
        ref = self.put(
            intent(**ties, command=command, bridge=grant.bridge, operation=operation, grant=grant.digest)
        )[0].ref
        if grant.bridge in ("dspy", "langchain") and pick.random() < 0.7:
            self._request(ties, command)
        if grant.bridge == "dspy" and pick.random() < 0.25:
            tool = self.put(
                ToolIntent(
                    **ties,
                    command=command,
                    parent=command,
                    tool="search",
                    how="python",
                    rule="tools.allow[0]",
                    arguments_digest="",
                    arguments_bytes=12,
                    arguments_preview="",
                )
            )[0].ref
            self.put(ToolOutcome(**ties, command=command, intent=tool, tool="search", ok=True, ms=31))
        failed = pick.random()
        changes: dict[str, object] = {
            "principal": ties["principal"],
            "cpu_us": cpu,
            "memory_peak_bytes": memory,
            "ms": cpu // 700,
        }
        if failed < 0.03:
            changes |= {
                "application_ok": False,
                "code": "application",
                "reason": "ValueError: no column named 'revenue'",
            }
        elif failed < 0.05:
            changes |= {
                "transport_ok": False,
                "application_ok": False,
                "code": "memory",
                "reason": "limits.memory of 512 MiB",
            }
        self.put(outcome(ref, **{**ties, "command": command, **changes}))

    def _request(self, ties: dict[str, str], command: str) -> None:
        where = {
            "provider": "openai",
            "host": "api.openai.com",
            "method": "POST",
            "path": "/chat/completions",
        }
        ref = self.put(
            EgressIntent(
                **ties,
                command=command,
                **where,
                rule="network.endpoints.openai.paths[0]",
                model="gpt-4o-mini",
            )
        )[0].ref
        self._clock.now += timedelta(milliseconds=self._random.randrange(200, 1_800))
        tokens = self._random.randrange(300, 1_500)
        self.put(
            EgressOutcome(
                **ties,
                command=command,
                **where,
                intent=ref,
                status=200,
                request_bytes=1_812,
                response_bytes=2_204,
                ms=640,
                model="gpt-4o-mini",
                input_tokens=tokens // 2,
                output_tokens=tokens // 2,
                charged=tokens,
            )
        )

    def _refusals(self, ties: dict[str, str], bridge: str, day: int) -> None:
        policy = str(self._policy)
        if bridge == "dspy" and self._random.random() < 0.4:
            self.put(
                CommandRefused(
                    **ties,
                    command=f"c-{self._random.getrandbits(64):016x}",
                    bridge=bridge,
                    operation="dspy:evaluate_program",
                    rule="operations.deny[0]",
                    reason="the operation 'dspy:evaluate_program' is denied by 'dspy:evaluate_*'",
                    source=f"{policy}:6",
                )
            )
        if bridge == "langchain" and day >= 6:
            for host in ("telemetry.example.net", "169.254.169.254"):
                self.put(
                    EgressRefused(
                        **ties,
                        host=host,
                        method="POST",
                        path="/v1/traces",
                        rule="default-deny",
                        reason=f"no tunnel to {host}:443 is granted",
                        source="shipped:langchain.toml:9",
                        severity="high",
                    )
                )
        if bridge == "pandas" and self._random.random() < 0.2:
            self.put(
                ToolRefused(
                    **ties,
                    tool="shell",
                    rule="default-deny",
                    reason="the tool 'shell' is not granted to 'globex'",
                    source="shipped:pandas.toml:4",
                )
            )


def copied(audit: Path, to: Path) -> Path:
    """A copy, as a reviewer has it."""
    return Path(shutil.copytree(audit, to))


def references(audit: Path) -> Iterator[str]:
    """Of every event, oldest first."""
    from bridgehold.audit.read import read_all

    return (entry.ref for entry in read_all(audit))
