from __future__ import annotations

import stat
import zipfile

import pytest
from envs_kit import make_wheel, sha256

from bridgehold.errors import DependencyError
from bridgehold.sandbox.envs.archive import ScanLimits
from bridgehold.sandbox.envs.values import Wheel
from bridgehold.sandbox.envs.wheelscan import refuse_findings, scan_wheel

INFO = "demo_pkg-1.0.dist-info"
DATA = "demo_pkg-1.0.data"
CODE = {"demo_pkg/__init__.py": "VALUE = 1\n"}


@pytest.fixture
def scan(interpreter):
    def run(path, **options):
        wheel = Wheel(
            name=options.pop("name", "demo-pkg"),
            version=options.pop("version", "1.0"),
            filename=path.name,
            sha256=options.pop("sha256", sha256(path)),
            size=path.stat().st_size,
        )
        return scan_wheel(path, wheel, interpreter, **options)

    return run


def rules(report):
    return {(finding.rule, finding.file) for finding in report.findings}


def link(name, target="../../etc/passwd"):
    info = zipfile.ZipInfo(name)
    info.create_system = 3
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info, target.encode()


def test_an_honest_wheel_has_no_findings_and_every_file_with_its_place(dist, scan, interpreter):
    site = interpreter.site_packages
    report = scan(
        make_wheel(
            dist,
            files={
                **CODE,
                "demo_pkg/weights.pth": "a checkpoint",
                "demo_pkg/logging.py": "",
                f"{DATA}/scripts/demo-tool": "#!python\n",
                f"{DATA}/data/share/man/man1/demo.1": "",
                f"{DATA}/headers/demo.h": "",
                f"{DATA}/purelib/demo_extra.py": "",
            },
            entry_points="[console_scripts]\ndemo = demo_pkg:main\n",
        )
    )
    assert report.findings == ()
    paths = {file.path for file in report.files}
    assert {
        f"{site}/demo_pkg/__init__.py",
        f"{site}/demo_pkg/weights.pth",
        f"{site}/demo_extra.py",
        "share/man/man1/demo.1",
    } <= paths
    assert set(report.scripts) == {"demo", "demo-tool"}


@pytest.mark.parametrize(
    ("rule", "file"),
    [
        ("pth", "evil.pth"),
        ("pth", "EVIL.PTH"),
        ("pth", "evil.start"),
        ("pth", f"{DATA}/purelib/evil.pth"),
        ("sitecustomize", "sitecustomize.py"),
        ("sitecustomize", "usercustomize/__init__.py"),
        ("sitecustomize", "sitecustomize.cpython-311-x86_64-linux-gnu.so"),
        ("sitecustomize", f"{DATA}/platlib/usercustomize.py"),
        ("data", f"{DATA}/data/pyvenv.cfg"),
        ("data", f"{DATA}/data/lib/python3.11/site-packages/evil.pth"),
        ("data", f"{DATA}/data/bin/tool"),
        ("data", f"{DATA}/data/anything"),
        ("data", f"{DATA}/nonsense/x"),
        ("data", f"{DATA}/loose"),
        ("data", "pyvenv.cfg"),
        ("script", f"{DATA}/scripts/python"),
        ("script", f"{DATA}/scripts/python3.11"),
        ("script", f"{DATA}/scripts/activate"),
        ("script", f"{DATA}/scripts/sub/tool"),
        ("shadow", "os.py"),
        ("shadow", "json/__init__.py"),
        ("shadow", "_ssl.cpython-311-x86_64-linux-gnu.so"),
        ("shadow", "LOGGING.py"),
        ("shadow", "bridgehold_sdk/__init__.py"),
        ("shadow", "bridgehold.py"),
        ("metadata", "other-1.0.dist-info/METADATA"),
        ("path", "/etc/passwd"),
        ("path", "../../escape.py"),
        ("path", "demo_pkg/../../escape.py"),
        ("path", "demo_pkg//x.py"),
        ("path", "demo_pkg\\x.py"),
        ("path", "c:/x.py"),
        ("path", "demo_pkg/a\nb.py"),
        ("path", "demo_pkg/" + "x" * 300 + ".py"),
    ],
)
def test_a_file_that_may_not_be_there_is_refused_and_named(dist, scan, rule, file):
    report = scan(make_wheel(dist, files={**CODE, file: "raise SystemExit\n"}))
    found = {finding.rule for finding in report.findings}
    assert rule in found
    if rule != "metadata":
        named = [f.file for f in report.findings if f.rule == rule]
        assert any(file[:200] in name or "\\x0a" in name or name in file for name in named)


def test_the_pth_weakening_allows_pth_and_nothing_else(dist, scan):
    files = {**CODE, "a.pth": "import os\n"}
    assert scan(make_wheel(dist, files=files), allow_pth=True).findings == ()
    files["sitecustomize.py"] = ""
    assert rules(scan(make_wheel(dist, files=files), allow_pth=True)) == {
        ("sitecustomize", "sitecustomize.py")
    }


def test_commands_of_entry_points_are_judged_like_scripts(dist, scan):
    for name in ("python3", "../../evil", "a b"):
        text = f"[console_scripts]\n{name} = demo_pkg:main\n"
        assert ("script", f"{INFO}/entry_points.txt") in rules(scan(make_wheel(dist, entry_points=text)))


def test_a_link_or_a_setuid_file_is_refused(dist, scan):
    assert ("special", "demo_pkg/link") in rules(scan(make_wheel(dist, infos=[link("demo_pkg/link")])))
    setuid = zipfile.ZipInfo("demo_pkg/su")
    setuid.create_system = 3
    setuid.external_attr = (stat.S_IFREG | 0o4755) << 16
    assert ("special", "demo_pkg/su") in rules(scan(make_wheel(dist, infos=[(setuid, b"x")])))


def test_record_must_name_every_file_with_its_hash(dist, scan):
    assert ("record", f"{INFO}/RECORD") in rules(scan(make_wheel(dist, record=False)))
    assert ("record", "demo_pkg/hidden.py") in rules(
        scan(make_wheel(dist, unlisted={"demo_pkg/hidden.py": "evil"}))
    )
    assert ("record", "demo_pkg/__init__.py") in rules(
        scan(make_wheel(dist, files=CODE, wrong_hash=["demo_pkg/__init__.py"]))
    )


def test_the_metadata_must_be_the_files_own(dist, scan):
    path = make_wheel(dist, metadata="Name: other\nVersion: 1.0\n")
    assert ("metadata", f"{INFO}/METADATA") in rules(scan(path))
    path = make_wheel(dist, metadata="Name: demo-pkg\nVersion: 2.0\n")
    assert ("metadata", f"{INFO}/METADATA") in rules(scan(path))
    path = make_wheel(dist, metadata="Name: demo-pkg\nVersion: 1.0\n\n" + "x" * 2_000_000)
    assert ("metadata", f"{INFO}/METADATA") in rules(scan(path))
    assert "metadata" in {f.rule for f in scan(make_wheel(dist), name="other").findings}


def test_names_that_collide_are_refused(dist, scan):
    assert ("case", "demo_pkg/Mod.py") in rules(
        scan(make_wheel(dist, files={**CODE, "demo_pkg/mod.py": "", "demo_pkg/Mod.py": ""}))
    )
    twice = [(zipfile.ZipInfo("demo_pkg/x.py"), b"1"), (zipfile.ZipInfo("demo_pkg/x.py"), b"2")]
    with pytest.warns(UserWarning, match="Duplicate"):
        path = make_wheel(dist, infos=twice)
    assert ("duplicate", "demo_pkg/x.py") in rules(scan(path))
    path = make_wheel(dist, files={**CODE, f"{DATA}/purelib/demo_pkg/__init__.py": "evil"})
    assert ("duplicate", f"{DATA}/purelib/demo_pkg/__init__.py") in rules(scan(path))
    path = make_wheel(dist, files={**CODE, "demo_pkg/a": "", "demo_pkg/a/b.py": ""})
    assert "duplicate" in {f.rule for f in scan(path).findings}


def test_bombs_are_refused_unread(dist, scan):
    path = make_wheel(dist, files={**CODE, "demo_pkg/zeros": b"\0" * 4_000_000})
    assert ("bomb", "demo_pkg/zeros") in rules(scan(path, limits=ScanLimits(ratio_from=1_000_000)))
    assert "bomb" in {f.rule for f in scan(path, limits=ScanLimits(unpacked_bytes=1_000_000)).findings}
    assert "bomb" in {f.rule for f in scan(path, limits=ScanLimits(members=2)).findings}


def test_bytes_that_another_reader_would_see_otherwise_are_refused(dist, scan):
    honest = make_wheel(dist).read_bytes()
    cases = {
        "prepended": b"#!/bin/sh\necho evil\n" + honest,
        "appended": honest + b"PK\3\4 something that streams on",
        "local name": honest.replace(b"demo_pkg/__init__.py", b"demo_pkg/__evil__.py", 1),
        "second archive": honest + honest,
        "cut": honest[: len(honest) // 2],
        "no archive": b"x" * 500,
        "empty": b"",
    }
    for what, data in cases.items():
        (dist / "demo_pkg-1.0-py3-none-any.whl").write_bytes(data)
        found = {f.rule for f in scan(dist / "demo_pkg-1.0-py3-none-any.whl").findings}
        assert found == {"archive"}, what


def contents(path):
    with zipfile.ZipFile(path) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def test_a_flipped_byte_is_a_finding_or_means_nothing_and_never_an_exception(dist, scan):
    path = make_wheel(dist)
    honest, expected = path.read_bytes(), contents(path)
    for place in range(len(honest)):
        data = bytearray(honest)
        data[place] ^= 0xFF
        path.write_bytes(data)
        if not scan(path).findings:  # a time, a version: fields that say nothing about content
            assert contents(path) == expected, place
    assert {f.rule for f in scan(path, sha256=sha256(make_wheel(dist / ".."))).findings} == {"hash"}


def test_all_findings_of_all_wheels_are_told_at_once(dist, scan):
    first = scan(make_wheel(dist, files={**CODE, "a.pth": "", "sitecustomize.py": ""}))
    with pytest.raises(DependencyError) as caught:
        refuse_findings([first])
    assert "a.pth" in caught.value.message
    assert "sitecustomize.py" in caught.value.message
    assert caught.value.where == "demo_pkg-1.0-py3-none-any.whl"
    assert "`pth`" in caught.value.hint
    refuse_findings([scan(make_wheel(dist))])
