from __future__ import annotations

import re
import stat
import struct
import zipfile
import zlib

import pytest

from bridgehold.errors import DependencyError
from bridgehold.sandbox.envs.archive import ScanLimits
from bridgehold.sandbox.envs.index import parse_wheel_name, tags
from bridgehold.sandbox.envs.values import Wheel
from bridgehold.sandbox.envs.wheelscan import refuse_findings, scan_wheel
from envs.envs_kit import make_wheel, sha256

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
        "bin/demo",
        "bin/demo-tool",
    } <= paths


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
        ("metadata", "other-1.0.DIST-INFO/entry_points.txt"),
        ("metadata", "other.egg-info/PKG-INFO"),
        ("metadata", "other.egg-info"),
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


def test_a_record_of_more_lines_than_files_is_read_no_further(dist, scan):
    rows = "".join(f"d{number}/,,\n" for number in range(100_000))
    path = make_wheel(dist, record=False, unlisted={f"{INFO}/RECORD": rows})
    (finding,) = [one for one in scan(path).findings if one.rule == "record"]
    assert finding.detail.startswith("more than 2")
    gone = "".join(f"d{number},,\n" for number in range(20))
    path = make_wheel(dist, record=False, unlisted={f"{INFO}/RECORD": gone})
    assert len(scan(path).findings) <= 50


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


def test_bytes_that_end_just_after_a_block_of_the_reader_are_all_read(dist, scan):
    """zlib has taken in the last packed byte by then, and still holds what comes of it."""
    sizes = [(1 << 20) + more for more in (0, 1, 5, 100, 195, 258, 259)]
    files = {f"demo_pkg/{size}.txt": bytes(size) for size in sizes}
    report = scan(make_wheel(dist, files={**CODE, **files}))
    assert report.findings == ()
    assert {file.size for file in report.files} > set(sizes)


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


class Forged:
    """A wheel, byte by byte: what its two headers say of the member ``demo_pkg/x.py`` can be told apart."""

    def __init__(self, honest):
        with zipfile.ZipFile(honest) as archive:
            self.members = [(info.filename.encode(), archive.read(info)) for info in archive.infolist()]
        self.local = {}
        self.central = {}
        self.before = self.after = self.between = self.tail = b""
        self.end = {}
        self.data = None

    def bytes(self):
        body, directory = self.before, b""
        for name, data in self.members:
            target = name == b"demo_pkg/x.py"
            change, said = (self.local, self.central) if target else ({}, {})
            begins = len(body)
            fields = {
                "need": 20, "flags": 0, "method": 0, "time": 0, "date": 33, "crc": zlib.crc32(data),
                "packed": len(data), "size": len(data), "name": name, "extra": b"",
            }  # fmt: skip
            here, there = {**fields, **change}, {**fields, **said}
            body += struct.pack(
                "<4sHHHHHIIIHH", b"PK\3\4", *(here[key] for key in list(fields)[:8]),
                len(here["name"]), len(here["extra"]),
            ) + here["name"] + here["extra"] + (self.data if target and self.data is not None else data)  # fmt: skip
            body += self.after if target else b""
            comment = there.get("comment", b"")
            directory += struct.pack(
                "<4sBBHHHHHIIIHHHHHII", b"PK\1\2", 20, there.get("system", 3),
                *(there[key] for key in list(fields)[:8]), len(there["name"]), len(there["extra"]),
                len(comment), there.get("disk", 0), 0, there.get("mode", 0o100644) << 16 | there.get("dos", 0),
                there.get("begins", begins),
            ) + there["name"] + there["extra"] + comment  # fmt: skip
        body += self.between
        end = {"disk": 0, "first": 0, "here": len(self.members), "count": len(self.members)} | self.end
        return body + directory + struct.pack(
            "<4sHHHHIIH", b"PK\5\6", end["disk"], end["first"], end["here"], end["count"],
            len(directory), len(body) + end.get("shift", 0), len(end.get("comment", b"")),
        ) + end.get("comment", b"") + self.tail  # fmt: skip


def field(kind, data):
    return struct.pack("<HH", kind, len(data)) + data


OTHER = b"demo_pkg/__pycache__/x.cpython-311.pyc"
UNICODE_PATH = field(0x7075, b"\1" + struct.pack("<I", zlib.crc32(b"demo_pkg/x.py")) + OTHER)
DEFLATED = zlib.compressobj(wbits=-15)
DEFLATED = DEFLATED.compress(b"X = 1\n") + DEFLATED.flush()
TWO_READINGS = {
    # what → (rule, what the finding says, changes)
    "a Unicode path in the directory": ("0x7075 .Unicode path. in its directory", {"central": {"extra": UNICODE_PATH}}),
    "a Unicode path in the local header": ("0x7075", {"local": {"extra": UNICODE_PATH}}),
    "a Unicode path in both": ("0x7075", {"local": {"extra": UNICODE_PATH}, "central": {"extra": UNICODE_PATH}}),
    "a Unicode comment": ("0x6375", {"central": {"extra": field(0x6375, b"\1abcdx")}}),
    "an unknown field": ("0xcafe .unknown.", {"central": {"extra": field(0xCAFE, b"")}}),
    "half a field": ("half an extra field", {"central": {"extra": b"\x55\x54\x09\0a"}}),
    "bytes after the last field": ("half an extra field", {"local": {"extra": field(0x5455, b"abcd") + b"x"}}),
    "zip64 in the directory": ("zip64", {"central": {"extra": field(1, bytes(16)), "size": 0xFFFFFFFF}}),
    "zip64 with another size": ("zip64", {
        "local": {"packed": 0xFFFFFFFF, "size": 0xFFFFFFFF, "extra": field(1, struct.pack("<QQ", 6, 7))},
    }),
    "zip64 that nobody asked for": ("zip64", {"local": {"extra": field(1, struct.pack("<QQ", 5, 6))}}),
    "half of zip64": ("zip64", {"local": {"extra": field(1, struct.pack("<Q", 6))}}),
    "zip64 that is promised and missing": ("no size", {"local": {"packed": 0xFFFFFFFF, "size": 0xFFFFFFFF}}),
    "half of it in zip64": ("contradicts", {"local": {"packed": 0xFFFFFFFF}}),
    "another local name": ("contradicts", {"local": {"name": b"demo_pkg/y.py"}}),
    "a longer local name": ("no entry|contradicts", {"local": {"name": b"demo_pkg/x.pyc"}}),
    "another local method": ("contradicts", {"local": {"method": 8}}),
    "another local size": ("contradicts", {"local": {"size": 5}}),
    "another local packed size": ("contradicts", {"local": {"packed": 5}}),
    "another local checksum": ("contradicts", {"local": {"crc": 1}}),
    "another local flag": ("contradicts", {"local": {"flags": 0x800}}),
    "another local time": ("contradicts", {"local": {"time": 7}}),
    "another local version": ("contradicts", {"local": {"need": 45}}),
    "a version to come": ("version 63", {"local": {"need": 63}, "central": {"need": 63}}),
    "no deflate stream": ("none of its method", {
        "local": {"method": 8}, "central": {"method": 8}, "data": b"\xff\xff\xff\xff\xff\xff",
    }),
    "sizes that follow": ("data descriptor", {
        "local": {"flags": 8, "crc": 0, "packed": 0, "size": 0}, "central": {"flags": 8},
        "after": struct.pack("<4sIII", b"PK\7\x08", zlib.crc32(b"X = 1\n"), 6, 6),
    }),
    "an encrypted member": ("encrypted", {"local": {"flags": 1}, "central": {"flags": 1}}),
    "a masked header": ("unknown", {"local": {"flags": 0x2000}, "central": {"flags": 0x2000}}),
    "an unusual method": ("unusual", {"local": {"method": 12}, "central": {"method": 12}}),
    "stored in two sizes": ("two sizes", {"local": {"size": 7}, "central": {"size": 7}}),
    "a name in nobody's encoding": ("encoding", {"local": {"name": b"demo_pkg/\xe9.py"}, "central": {"name": b"demo_pkg/\xe9.py"}}),
    "a name that says UTF-8 and is none": ("encoding", {
        "local": {"name": b"demo_pkg/\xe9.py", "flags": 0x800}, "central": {"name": b"demo_pkg/\xe9.py", "flags": 0x800},
    }),
    "a name with a NUL": ("control", {"local": {"name": b"demo_pkg/x.py\0.txt"}, "central": {"name": b"demo_pkg/x.py\0.txt"}}),
    "a comment of a member": ("comment", {"central": {"comment": b"hi"}}),
    "another disk": ("disk", {"central": {"disk": 1}}),
    "a system with modes of its own": ("system", {"central": {"system": 7}}),
    "a link": ("link", {"central": {"mode": 0o120777}}),
    "a link of a DOS archive": ("link", {"central": {"mode": 0o120777, "system": 0}}),
    "a device": ("special", {"central": {"mode": 0o020666}}),
    "a folder by its mode": ("kind", {"central": {"mode": 0o040755}}),
    "a folder by its attributes": ("folder by its attributes", {"central": {"dos": 0x10}}),
    "a folder by its name": ("folder with bytes", {"local": {"name": b"demo_pkg/x/"}, "central": {"name": b"demo_pkg/x/", "mode": 0}}),
    "an entry that is two": ("no entry|two", {"central": {"begins": 0}}),
    "bytes before the first": ("no entry", {"before": b"PK\3\4"}),
    "bytes between two": ("no entry", {"after": b"PK\3\4 nobody's"}),
    "bytes before the directory": ("no entry", {"between": b"x"}),
    "bytes after the end": ("own directory", {"tail": b"x"}),
    "a comment of the archive": ("between", {"end": {"comment": b"PK\5\6" + bytes(18)}}),
    "a second disk": ("disk", {"end": {"first": 1}}),
    "another count on this disk": ("disk", {"end": {"here": 1}}),
    "one entry less": ("count", {"end": {"here": 4, "count": 4}}),
    "one entry more": ("no entry 6", {"end": {"here": 6, "count": 6}}),
    "a directory elsewhere": ("between", {"end": {"shift": -1}}),
    "other bytes than the checksum": ("checksum", {"data": b"Y = 1\n"}),
    "deflated past its end": ("end elsewhere", {
        "local": {"method": 8, "packed": len(DEFLATED) + 3}, "central": {"method": 8, "packed": len(DEFLATED) + 3},
        "data": DEFLATED + b"abc",
    }),
    "deflated without an end": ("end elsewhere|as the size", {
        "local": {"method": 8, "packed": len(DEFLATED) - 2}, "central": {"method": 8, "packed": len(DEFLATED) - 2},
        "data": DEFLATED[:-2],
    }),
    "deflated to more": ("size and checksum|end elsewhere", {
        "local": {"method": 8, "packed": len(DEFLATED), "size": 3}, "central": {"method": 8, "packed": len(DEFLATED), "size": 3},
        "data": DEFLATED,
    }),
}  # fmt: skip


def forged(dist, changes):
    path = make_wheel(dist, files={**CODE, "demo_pkg/x.py": "X = 1\n"})
    made = Forged(path)
    for name, value in changes.items():
        setattr(made, name, value)
    path.write_bytes(made.bytes())
    return path


@pytest.mark.hostile
@pytest.mark.parametrize("what", TWO_READINGS)
def test_a_field_in_which_two_readers_can_differ_is_refused_and_named(dist, scan, what):
    says, changes = TWO_READINGS[what]
    report = scan(forged(dist, changes))
    assert re.search(says, "; ".join(map(str, report.findings))), report.findings
    assert report.files == () or what == "other bytes than the checksum" or "defla" in what


def test_what_real_archives_say_besides_is_taken(dist, scan):
    times, owner = field(0x5455, bytes(9)), field(0x7875, bytes(11))
    far = field(1, struct.pack("<QQ", 6, 6))
    packed = {"method": 8, "packed": len(DEFLATED), "flags": 2}
    for changes in (
        {},
        {"local": {"extra": times + owner}, "central": {"extra": field(0x5455, bytes(5)) + owner}},
        {"local": {"packed": 0xFFFFFFFF, "size": 0xFFFFFFFF, "extra": far}},
        {"local": {"extra": far}},
        {"local": packed, "central": packed, "data": DEFLATED},
        {"local": {"flags": 0x800}, "central": {"flags": 0x800, "system": 0, "mode": 0}},
    ):
        report = scan(forged(dist, changes))
        assert report.findings == (), changes
        assert [file.size for file in report.files if file.member == "demo_pkg/x.py"] == [6]


SETUPTOOLS = (
    "import os; var = 'SETUPTOOLS_USE_DISTUTILS'; enabled = os.environ.get(var, {!r}) == 'local'; "
    "enabled and __import__('_distutils_hack').add_shim(); \n"
)


@pytest.mark.parametrize("default", ["local", "stdlib"])
def test_a_pth_that_is_known_by_its_bytes_is_no_fault_and_is_not_installed(dist, scan, default):
    """Not by its name, and whatever else is in the wheel: another one could bring what it would import."""
    text = SETUPTOOLS.format(default)
    report = scan(make_wheel(dist, files={**CODE, "distutils-precedence.pth": text}))
    assert report.findings == ()
    assert not [file.path for file in report.files if file.path.endswith(".pth")]
    assert b".pth" not in next(file.content for file in report.files if file.path.endswith("/RECORD"))
    for name, other in (("distutils-precedence.pth", text + "\n"), ("a.pth", f"{text}import evil")):
        assert rules(scan(make_wheel(dist, files={**CODE, name: other}))) == {("pth", name)}


def test_folders_of_folders_are_refused_before_each_is_kept_in_memory(scan, tmp_path):
    deep = scan(make_wheel(tmp_path, files={"a/" * 40 + "b": ""}))
    assert any("deep" in finding.detail for finding in deep.findings)
    names = [f"{number:05}" + "/a" * 29 + "/b" for number in range(3_000)]
    wide = scan(make_wheel(tmp_path, name="wide_pkg", files=dict.fromkeys(names, "")), name="wide-pkg")
    assert any("60000 folders" in finding.detail for finding in wide.findings)


@pytest.mark.parametrize("named", ["py3-none-any", "py2.py3-none-any", "cp311-cp311-manylinux_2_35_x86_64"])
def test_what_a_bridge_brings_is_named_by_what_it_says_that_it_fits(dist, scan, named):
    made = make_wheel(dist, tag="cp311-cp311-macosx_11_0_arm64")
    path = made.rename(dist / f"demo_pkg-1.0-{named}.whl")
    assert rules(scan(path, own=True)) == {("metadata", f"{INFO}/WHEEL")}
    sound = make_wheel(dist, tag=named)
    assert not rules(scan(sound, own=True))


def test_what_a_wheel_says_of_itself_costs_no_more_than_reading_it(dist, scan):
    """In a host's own process, where such a parse keeps every tenant waiting for minutes."""
    text = f"[console_scripts]\ndemo ={' ' * 60_000}demo_pkg:main\na{' ' * 190_000}b\n"
    assert ("metadata", f"{INFO}/entry_points.txt") in rules(
        scan(make_wheel(dist, files=CODE, entry_points=text))
    )


@pytest.mark.parametrize("each", [11, 1_000])
def test_a_wheel_that_says_to_fit_everything_takes_no_memory_for_it(dist, scan, each):
    words = "-".join(".".join(f"{kind}{number}" for number in range(each)) for kind in "abc")
    assert not tags(words)
    made = make_wheel(dist, tags=words)
    assert ("metadata", f"{INFO}/WHEEL") in rules(scan(made, own=True))
    assert parse_wheel_name(f"demo_pkg-{'1' * 5_000}-py3-none-any.whl") is None
