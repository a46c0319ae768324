"""The five scenes, played for real on a private host: theft, work, sandboxes, bombs, proof.

Every act must come to what its scene says; one that doesn't makes the demo end with status 1.
"""

from __future__ import annotations

import asyncio
import functools
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from bridgehold import writes
from bridgehold.audit import anchors as anchor_files
from bridgehold.audit.verify import verify_audit
from bridgehold.bridges.kit.provider import Provider
from bridgehold.bridges.kit.sink import ExfiltrationSink
from bridgehold.client.client import Client, Host
from bridgehold.config.layout import Layout, default_layout
from bridgehold.config.load import load_config
from bridgehold.errors import BridgeholdError, UsageError
from bridgehold.faces.demo import home as demo_home
from bridgehold.faces.demo.fresh import COUNT, tick_up
from bridgehold.faces.demo.own_key import find_own_key, lend
from bridgehold.faces.demo.scenes import BOMBS, DSPY_STEPS, Bomb
from bridgehold.faces.demo.stage import Stage
from bridgehold.faces.layout import Column, number
from bridgehold.faces.progress import build_progress, show_progress
from bridgehold.keeper.admin import SecretAdmin
from bridgehold.policies.units import format_ms, format_size

REAL = ("dspy", "custom")
_HEAD_START = 3.0
"""Seconds for the first scene before the large environments begin to use the machine."""


async def run_demo(home: Path | None, *, real_key: bool = False) -> int:
    """Play everything; 0 where every act came to what it must. `real_key`: with the user's own."""
    return await Story(home or demo_home.default_home(), Stage(), real_key=real_key).play()


_MARKS = {"✓": "green", "✗": "red"}


class Story:
    """The demo's scenes, in order, on a private host below `home`."""

    def __init__(self, home: Path, stage: Stage, *, real_key: bool) -> None:
        self._home = home
        self._real_key = real_key
        self._stage = stage
        self._faults: list[str] = []
        self._real = False
        self._values: list[bytes] = []
        """Every key of this run, to look for in the audit at the end. Never printed."""

    async def play(self) -> int:
        """Play all scenes. Returns the exit status: 0 where each went as the demo says, 1 otherwise."""
        started = time.monotonic()
        async with Provider.open() as provider, ExfiltrationSink.open() as sink:
            layout = self._prepare(provider, sink)
            async with Host.open(layout) as host:
                theft = asyncio.ensure_future(self._theft(host, sink, started))
                await asyncio.wait({theft}, timeout=_HEAD_START)
                builds = asyncio.ensure_future(self._build(host))
                try:
                    await theft
                    await builds
                    await self._work(host, provider)
                    await self._fresh(host)
                    await self._bombs(host)
                finally:
                    builds.cancel()
        self._proof(layout)
        for fault in self._faults:
            self._stage.say(("NOT AS IT MUST BE", "bold red"), f" {fault}")
        ask = f"BRIDGEHOLD_HOME={self._home} bridgehold why EVENT | audit tail | audit verify"
        took = format_ms((time.monotonic() - started) * 1000)
        self._stage.say((f"\n{took}. To ask the audit: {ask}", "dim"))
        return 1 if self._faults else 0

    def _must(self, held: bool, what: str) -> None:
        if not held:
            self._faults.append(what)

    def _prepare(self, provider: Provider, sink: ExfiltrationSink) -> Layout:
        user = default_layout()
        own = find_own_key(user)
        if self._real_key and own is None:
            raise UsageError(
                "there is no key of yours to work with",
                where=str(user.secrets),
                hint="Store one with `bridgehold secrets set openai`, or leave --real-key out.",
            )
        if own is not None and not self._real_key:
            self._stage.say(("your stored openai key is left alone; --real-key works with it", "dim"))
            own = None
        self._real = own is not None
        layout = demo_home.prepare(
            self._home,
            provider=own.base_url if own else provider.base_url,
            private=own.private if own else True,
            store=own.config.secrets.store if own else "file",
            host=demo_home.own_host_section(user),
            sink_port=sink.port,
        )
        if own is not None:
            lend(own, layout)
        wheels = self._home / "wheels"
        os.environ["UV_FIND_LINKS"] = f"{wheels / 'poisoned'},{wheels / 'plain'}"
        decoy = sink.decoy
        self._values += [provider.key.encode(), decoy.encode()]
        admin = SecretAdmin.for_layout(layout, load_config(layout.config_file))
        if own is None:
            admin.set("local", "openai", provider.key.encode())
        admin.set("decoy", "openai", decoy.encode(), allow_env=True)
        return layout

    async def _build(self, host: Client) -> None:
        with build_progress() as bars:
            tasks = {name: bars.add_task(name, total=None, note="waiting") for name in REAL}
            await asyncio.gather(
                *(
                    host.request(
                        "bridge.build",
                        {"bridge": name},
                        functools.partial(show_progress, bars, tasks[name], name),
                    )
                    for name in REAL
                )
            )

    async def _theft(self, host: Client, sink: ExfiltrationSink, started: float) -> None:
        stage = self._stage
        stage.scene(1, "A poisoned dependency (the shape of litellm 1.82.8), twice")
        stage.say(
            "Its module code and its .pth collect keys and send them to a thief on this machine. Both run "
            "in a sandbox; left has what bridges have elsewhere: a (decoy) key in the environment, a way out."
        )
        left, right = await asyncio.gather(
            host.run("stealer-open:report", tenant="decoy"), host.run("stealer:report")
        )
        pth = await self._refused(host, "stealer-pth:report")
        stolen = sink.stolen()
        stage.side_by_side(
            ("keys inside, egress open", _captured(left) + f"\n\nthe thief has the decoy: {stolen}"),
            ("the default", _captured(right) + f"\n\nthe wheel with its .pth:\n  {pth}"),
        )
        self._must(stolen, "left: the decoy should have been stolen")
        self._must(right["keys"] == [] and right["files"] == [], f"right: something was there: {right}")
        self._must(
            not any(str(a).startswith(("sent", "resolved")) for a in right["sent"].values()),
            f"right: something went out: {right['sent']}",
        )
        self._must("litelike_init.pth" in pth, f"the .pth was not named: {pth}")
        stage.say((f"{format_ms((time.monotonic() - started) * 1000)} after the start", "dim"))

    async def _refused(self, host: Client, operation: str) -> str:
        try:
            await host.run(operation)
        except BridgeholdError as error:
            return f"{error.code}: {error.message} ({error.where})"
        return "it ran"

    async def _work(self, host: Client, provider: Provider) -> None:
        stage = self._stage
        stage.scene(2, "Real work, with a key that isn't there")
        async with host.session("dspy") as session:
            for operation, arguments in DSPY_STEPS:
                reply = await session.call(operation, arguments)
                shown = _short(reply.value)
                cost = f"{format_ms(reply.usage.ms)}, peak {format_size(reply.usage.memory_peak_bytes)}"
                stage.say("  ", (f"dspy:{operation:<16}", "cyan"), f" {shown}  ", (cost, "dim"))
            seen = await session.run("common:ping")
        if not self._real:
            self._must(provider.requests_with_key() >= 2, "the provider saw no request with its key")
        self._must(seen["status"] == "ok", "dspy does not answer ping")
        seen_by = (
            "the real provider" if self._real else f"{provider.requests_with_key()} requests came with it"
        )
        stage.say(f"  the key was put in on the way out ({seen_by}); inside there was only a placeholder")
        async with host.session("custom") as session:
            for operation, arguments in (
                ("load_data", {"name": "digits", "id": "digits"}),
                ("train", {"model": "random_forest", "data": "digits", "id": "forest"}),
                ("evaluate", {"model_id": "forest"}),
            ):
                reply = await session.call(operation, arguments)
                cost = f"{format_ms(reply.usage.ms)}, cpu {format_ms(reply.usage.cpu_us / 1000)}"
                stage.say(
                    "  ", (f"custom:{operation:<14}", "cyan"), f" {_short(reply.value)}  ", (cost, "dim")
                )

    async def _fresh(self, host: Client) -> None:
        stage = self._stage
        stage.scene(3, f"{COUNT} sessions, each in a sandbox of its own that nobody has used")
        found = sorted(await tick_up(host))
        stage.say(
            "  each with namespaces, a cgroup and a kernel uid of its own, proved from outside; "
            f"from asking to the first reply half of them within {format_ms(found[len(found) // 2])}, "
            f"99 of 100 within {format_ms(found[len(found) * 99 // 100])}"
        )
        self._must(len(found) == COUNT, "not every session came")

    async def _bombs(self, host: Client) -> None:
        self._stage.scene(4, "Bombs")
        rows = [await self._bomb(host, bomb) for bomb in BOMBS]
        self._stage.table(("act", Column("", styles=_MARKS), "what came of it", number("after"), "why"), rows)

    async def _bomb(self, host: Client, bomb: Bomb) -> tuple[str, str, str, str, str]:
        started = time.monotonic()
        try:
            async with host.session("python") as session:
                reply = await session.call("execute", {"code": bomb.code}, deadline_ms=bomb.deadline_ms)
            value: Any = reply.value
            said = str(value.get("stdout", "")).strip()
            held = not bomb.codes and bomb.inside in said and "DONE" not in said and "FOUND" not in said
            outcome, event = said, reply.receipt
        except BridgeholdError as error:
            held = error.code in bomb.codes
            outcome, event = f"{error.code}: {error.message}", error.event
        self._must(held, f"{bomb.title}: {outcome}")
        mark = "✓" if held else "✗"
        after = format_ms((time.monotonic() - started) * 1000)
        return bomb.title, mark, outcome, after, f"bridgehold why {event}"

    def _proof(self, layout: Layout) -> None:
        stage = self._stage
        stage.scene(5, "The audit of all that")
        keys = anchor_files.read_key(layout.anchors / "anchor.pub")
        report = verify_audit(layout.audit, beside=layout.anchors, keys=keys)
        leaked = [path.name for path in layout.audit.rglob("*.jsonl") if self._holds_key(path)]
        stage.say(
            f"  {report.events} events: integrity {'sound' if report.integrity.ok else 'BROKEN'}, "
            f"completeness {'whole' if report.completeness.ok else 'NOT WHOLE'}, {report.anchoring.status}"
        )
        stage.say(f"  keys found in it: {len(leaked)}")
        self._must(report.integrity.ok and report.completeness.ok, "the audit does not verify")
        self._must(not leaked, f"a key stands in {leaked}")
        with tempfile.TemporaryDirectory(prefix="bh-demo-") as folder:
            copy = Path(folder) / "audit"
            shutil.copytree(layout.audit, copy)
            place = _flip_a_byte(copy)
            broken = verify_audit(copy)
        named = broken.first_bad.place if broken.first_bad else "nowhere"
        stage.say(f"  one byte flipped in a copy, at {place}: verify names ", (named, "bold"))
        self._must(named.endswith(place), f"the flipped byte is at {place}, verify says {named}")

    def _holds_key(self, path: Path) -> bool:
        data = path.read_bytes()
        return any(value in data for value in self._values)


def _captured(report: dict[str, Any]) -> str:
    lines = [
        f"keys in the environment: {', '.join(report['keys']) or 'none'}",
        f"credential files: {', '.join(report['files']) or 'none'}",
    ]
    return "\n".join([*lines, *(f"{name}:\n  {answer}" for name, answer in report["sent"].items())])


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 110 else text[:107] + "…"


def _flip_a_byte(audit: Path) -> str:
    """Flip one bit in the middle of the newest segment; ``file:line`` of it."""
    segment = max(audit.rglob("*.jsonl"), key=lambda path: path.stat().st_size)
    data = bytearray(segment.read_bytes())
    at = len(data) // 2
    while data[at] in b'\n"\\':
        at += 1
    data[at] ^= 1
    writes.replace(segment, bytes(data), mode=0o600)
    return f"{segment.name}:{data[:at].count(10) + 1}"
