"""What was met on each machine, as a page (pure)."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from kinds import Machine

HEAD = """# Machines

`make machines` tries each of these: a stranger asks the doctor and runs one command. What is met is a
working session, or a message whose remedy, typed as it says, leads to one; where what is missing is somebody
else's to give, the message names it. A machine that meets a stranger otherwise fails the run, which writes
this page.

| machine | seen with | first command | then |
| --- | --- | --- | --- |
"""
NOT_TRIED = """
## Not tried

Distributions other than Debian (Fedora, Ubuntu, Alpine and its musl); kernels before 5.10 and between those
of the table; a /usr that isn't merged with the root; Docker and containerd themselves (containers are
Podman's, by runc); a Kubernetes cluster; WSL; AppArmor as Ubuntu 24.04 sets it up; aarch64.
"""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One machine. `said`: its message, where the first command didn't work; `typed`: the remedy."""

    name: str
    date: str
    tree: str
    facts: dict[str, Any]
    works: bool
    said: str
    said_then: str
    typed: str
    works_then: bool
    not_passed: Sequence[str]
    """Rows of the doctor's that fail at the end."""
    right: bool


def row(outcome: Outcome) -> str:
    """One line for whoever waits."""
    ended = "works" if outcome.works else f"said: {sentence(outcome.said)[:90]}"
    then = " → works" if outcome.works_then else ""
    return f"{outcome.name:28} {'' if outcome.right else 'WRONG: '}{ended}{then}"


def sentence(said: str) -> str:
    """What was said, without its remedy: the first line that is an error's."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return next((line for line in lines if re.match(r"\w+: ", line)), lines[-1] if lines else "nothing")


def page(outcomes: Sequence[Outcome], machines: Sequence[Machine]) -> str:
    """The table, in the machines' order, and what was not tried."""
    by_name = {outcome.name: outcome for outcome in outcomes}
    lines = [line(machine, by_name[machine.name]) for machine in machines if machine.name in by_name]
    left = [machine.what for machine in machines if machine.name not in by_name]
    times = sorted({f"{outcome.date} on `{outcome.tree}`" for outcome in outcomes})
    text = HEAD + "".join(lines) + f"\nTried {', '.join(times)}.\n" + NOT_TRIED
    return text + (f"\nOf the matrix, not yet: {'; '.join(left)}.\n" if left else "")


def line(machine: Machine, outcome: Outcome) -> str:
    """One row of the table."""
    facts = outcome.facts
    system = re.sub(r"Debian GNU/Linux (\d+).*", r"Debian \1", facts["system"])
    seen = f"{system}, kernel {facts['kernel'].split('-')[0]}, Python {facts['python']}, "
    seen += f"bubblewrap {facts['bubblewrap']}, cgroup {facts['cgroups']}, {facts['user']}"
    first = "works" if outcome.works else f"`{cell(sentence(outcome.said))}`"
    then = f"`{cell(outcome.typed)}`: works" if outcome.works_then else "" if outcome.works else "as it says"
    return f"| {machine.what} | {seen} | {first} | {then} |\n"


def cell(text: str) -> str:
    """One line that a table takes."""
    words = re.sub(r"(?<=for d in )\S.*(?=; do )", "…", " ".join(text.split()))
    words = re.sub(r"(?<=chown -R )\d+", "UID", words)
    return words.replace("|", "\\|").replace("`", "")
