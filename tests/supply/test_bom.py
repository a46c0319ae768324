"""What licence a package says it has, and the bill of materials as CycloneDX's own validator reads it."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bridgehold.sandbox.supply.bom import bill_of
from bridgehold.sandbox.supply.judge import Hit
from bridgehold.sandbox.supply.licences import Licence, licence_of, licences_in, taken
from bridgehold.sandbox.supply.scan import Contents, Part, Scanned

ROOT = Path(__file__).parents[2]
NOW = datetime(2026, 6, 1, tzinfo=UTC)
VALIDATE = """
import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
fault = JsonStrictValidator(SchemaVersion.V1_6).validate_str(sys.stdin.read())
sys.exit(str(fault) if fault else 0)
"""


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ("License-Expression: MIT OR Apache-2.0\nLicense: other\n", Licence(expression="MIT OR Apache-2.0")),
        ("Classifier: License :: OSI Approved :: MIT License\n", Licence(names=("MIT License",))),
        ("License: BSD-3-Clause\n", Licence(names=("BSD-3-Clause",))),
        (f"License: {'words ' * 100}\n", Licence()),
        ("Name: x\n\nLicense: in the text\n", Licence()),
        ("", Licence()),
        ("License: \x1b[31mred\n", Licence(names=("\x1b[31mred",))),
    ],
)
def test_licences(metadata: str, said: Licence) -> None:
    assert licence_of(metadata) == said


@pytest.mark.parametrize(
    ("said", "blocked", "fine"),
    [
        ("MIT", "AGPL-*", True),
        ("agpl-3.0-only", "AGPL-*", False),
        ("MIT OR AGPL-3.0-only", "AGPL-*", True),  # one of them is enough
        ("MIT AND AGPL-3.0-only", "AGPL-*", False),
        ("MIT OR (BSD-3-Clause AND AGPL-3.0-only)", "AGPL-*", True),
        ("(MIT OR Apache-2.0) AND (AGPL-3.0-only OR GPL-2.0+)", "*GPL-*", False),
        ("GPL-2.0-only WITH Classpath-exception-2.0", "GPL-2*", False),
        ("GPL-2.0-only WITH Classpath-exception-2.0 OR MIT", "GPL-2*", True),
        # what can't be read: each word counts
        ("MIT ) AND AGPL-3.0-only", "AGPL-*", False),
        ("MIT OR AND AGPL-3.0-only", "AGPL-*", False),
        ("MIT OR", "AGPL-*", True),
        (f"{'(' * 900}MIT OR AGPL-3.0-only{')' * 900}", "AGPL-*", False),
        (f"MIT OR {'x' * 3_000}", "AGPL-*", True),
        (f"AGPL-3.0-only OR {'x' * 3_000} AND MIT", "AGPL-*", False),
    ],
)
def test_a_licence_is_taken_or_not(said: str, blocked: str, fine: bool) -> None:
    licence = licence_of(f"License-Expression: {said}\n")
    assert (taken(licence, (blocked,)), taken(licence, ())) == (fine, True)


def test_of_names_that_are_no_expression_each_counts() -> None:
    several = "".join(
        f"Classifier: License :: OSI Approved :: {one}\n" for one in (*map(str, range(30)), "GPLv3")
    )
    assert not taken(licence_of(several), ("gpl*",))
    assert [taken(Licence(), (one,)) for one in ("GPL*", "not stated")] == [True, False]


def test_licences_of_a_folder(tmp_path: Path) -> None:
    for name, data in (("Demo_Pkg-1.0", b"License: MIT\n"), ("bad-1", b"\xff\xfe"), ("none-2", None)):
        folder = tmp_path / f"{name}.dist-info"
        folder.mkdir()
        if data is not None:
            (folder / "METADATA").write_bytes(data)
    assert licences_in(tmp_path) == {"demo-pkg": Licence(names=("MIT",)), "bad": Licence()}


def test_the_bill_is_what_the_schema_says() -> None:
    python = ROOT / ".environments/deploy/bin/python"
    if not python.exists():
        pytest.skip("make environments builds what validates it")
    parts = [
        Part(name="demo-pkg", version="1.0+cu1", wheel="w.whl", sha256="0" * 64, licence=licence, reread=True)
        for licence in (Licence(expression="MIT OR Apache-2.0"),)
    ]
    parts += [
        Part(name=f"p{n}", version="1", wheel="", sha256="", licence=licence, reread=False)
        for n, licence in enumerate((Licence(names=("MIT License", "\x1b[1mx")), Licence()))
    ]
    hit = Hit(
        package="demo-pkg", version="1.0+cu1", id="GHSA-1", aliases=("CVE-1",), severity="unknown",
        summary="bad", fixed=(), accepted=False, file="f",
    )  # fmt: skip
    scanned = Scanned(
        digest="sha256:" + "1" * 64, bridges=("a", "b"), python="3.11.2", platform="linux-x86_64",
        contents=Contents(parts=tuple(parts), findings=(), changed=""), hits=(hit,), ok=False, blocked="",
    )  # fmt: skip
    bill = bill_of(scanned, NOW, "0.1.0")
    assert bill["components"][0]["purl"] == "pkg:pypi/demo-pkg@1.0%2Bcu1"
    found = subprocess.run(
        [python, "-P", "-c", VALIDATE], input=json.dumps(bill), capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stderr) == (0, "")
    broken = json.dumps({**bill, "components": [{"type": "nothing"}]})
    found = subprocess.run(
        [python, "-P", "-c", VALIDATE], input=broken, capture_output=True, text=True, check=False
    )
    assert found.returncode == 1
