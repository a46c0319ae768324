"""What is installed for development is what was tested: the locks answer pyproject.toml, by hash, from any index."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
ASKED = {
    "dev": [*PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"]["test"]],
    "build": PROJECT["dependency-groups"]["build"],
    "client": PROJECT["dependency-groups"]["client"],
}
_PIN = re.compile(r"([A-Za-z0-9._-]+)==([^ ;\\]+)(?: ; [^\\]+)?(?: \\)?")


def pins(name: str) -> dict[str, str]:
    """{package: version}; every line that is no pin is a hash."""
    found, hashes = {}, 0
    for line in (ROOT / f"locks/{name}.txt").read_text().splitlines():
        if line.startswith("    "):
            assert re.fullmatch(r" {4}--hash=sha256:[0-9a-f]{64}( \\)?", line), line
            hashes += 1
            continue
        assert not found or hashes, f"no hash before {line}"
        match = _PIN.fullmatch(line)
        assert match, line
        found[canonicalize_name(match[1])], hashes = match[2], 0
    assert hashes
    return found


@pytest.mark.parametrize("name", sorted(ASKED))
def test_a_lock_answers_what_the_project_asks_for(name: str) -> None:
    locked = pins(name)
    for asked in map(Requirement, ASKED[name]):
        version = locked.get(canonicalize_name(asked.name))
        assert version, f"{asked.name} is not locked; run: make upgrade"
        assert asked.specifier.contains(version), f"{asked} against {version}; run: make upgrade"


def test_what_has_no_stable_interface_has_an_upper_bound() -> None:
    locked = pins("dev")
    for asked in map(Requirement, PROJECT["project"]["dependencies"]):
        if locked[canonicalize_name(asked.name)].startswith("0."):
            assert any(one.operator == "<" for one in asked.specifier), str(asked)


def test_what_a_package_holds_is_what_was_tested() -> None:
    tested, packed = pins("dev"), pins("run")
    assert {canonicalize_name(Requirement(one).name) for one in PROJECT["project"]["dependencies"]} <= set(
        packed
    )
    assert {name: version for name, version in packed.items() if tested.get(name) != version} == {}
