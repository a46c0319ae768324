"""Tests of CPython's own and of packages', inside and outside: a difference without a barrier's name fails.

    python compat/run.py [--part] [--write] [--json] [--kept FOLDER [--only-kept]] [MODULE ...]

Outside they run as an ordinary user, with the interpreter that the sandboxes use. Inside they run as a
process in a cold session and in a forked one, and within `python:execute`. CPython's are all that the
distribution's own package has. Those that ship in packages' wheels run as a process, by pytest, in the
environment of `frameworks.lock`, which is built here. `--part`: the modules that the suite tries. `--kept`:
each module's outcomes are kept in FOLDER, and those that are there are not measured again: a run that was cut
off goes on; with `--only-kept` nothing is measured, and the page says what has not been. A difference without
a reason is measured again, alone: what was seen once only goes by the clock of a busy machine, and the page
lists it. `--write`: docs/reference/differences.md is written anew.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from compare import (  # noqa: E402
    DONE,
    WAYS,
    Difference,
    Reason,
    beside_table,
    confirmed,
    differences,
    explained,
    read_beside,
    read_reasons,
    table,
)

from bridgehold import BridgeholdError, SyncClient  # noqa: E402
from bridgehold.bridges.catalogue import Catalogue  # noqa: E402
from bridgehold.config.layout import Layout, find_layout  # noqa: E402

REASONS = HERE / "reasons.toml"
PAGE = HERE.parent / "docs/reference/differences.md"
DRIVER = (HERE / "driver.py").read_text(encoding="utf-8")
BUILT = find_layout({"BRIDGEHOLD_HOME": str(HERE.parent / ".environments")}, os.getuid()).environments
PYTHON = "/usr/bin/python3"
TESTS = Path("/usr/lib/python3.11/test")
"""Where Debian's libpython3.11-testsuite puts CPython's own."""
USER = "nobody"
SECONDS = 3600
"""The longest that a module may take: `test_multiprocessing_spawn` takes six minutes of a busy machine."""
AT_ONCE = 2
PACKAGES = "frameworks"
"""The bridge with the packages: the shipped `python` with a lock."""
POLICY = f"""
extends = "baseline"
[operations]
allow = ["{{bridge}}:*"]
[sandbox]
start = "{{start}}"
[limits]
memory = "1GiB"
processes = 256
open_files = 1024
file_size = "1GiB"
scratch = "512MiB"
shm = "128MiB"
response = "8MiB"
log_rate = "8MiB/s"
command = "{SECONDS + 20}s"
"""
AS_A_PROCESS = """
import subprocess, sys
open("/tmp/driver.py", "w").write({driver!r})
open("/tmp/out.jsonl", "w").close()
argv = [{python}, "-I", "/tmp/driver.py", {module!r}, "/tmp/out.jsonl"]
try:
    none = subprocess.DEVNULL
    done = subprocess.run(argv, stdin=none, stdout=none, stderr=none, cwd="/tmp", timeout={seconds})
    ended = done.returncode
except subprocess.TimeoutExpired:
    ended = "time"
(open("/tmp/out.jsonl").read(), str(ended))
"""
WITHIN = """
{driver}
run({module!r}, "/tmp/out.jsonl")
(open("/tmp/out.jsonl").read(), "0")
"""

HEAD = """# What Python does otherwise inside

CPython's own regression tests are run outside, as an ordinary user, and inside: as a process of a cold
session, as one of a forked session, and within `python:execute` itself. Every test that does not end as
outside stands in this table, with the barrier that makes the difference; a difference without one fails the
run. Tests that ship in packages' wheels are run the same way, as a process. `make compat` measures it anew
and writes this page; a part of it is in `make test`.

Seen with CPython {version}: {modules} modules, {tests} tests passed inside, in the three ways together.
Measured on {trees}.

"""
TAIL = """
What no test of theirs shows, and ours do:

{beside}
Where a limit is a policy's (memory, processes, sizes of files), the run had 1 GiB, 256 processes and 512 MiB
of scratch: `[limits]` in the policy says how much it is for you.

The modules: {listed}.
"""


def read(lines: str, ended: str) -> dict[str, str]:
    """What the driver wrote; a cut last line doesn't count. A run without its last line has how it ended."""
    found = {}
    for line in lines.splitlines():
        with contextlib.suppress(ValueError):
            test, outcome = json.loads(line)
            found[test] = outcome if found.get(test, "passed") == "passed" else found[test]
    found.setdefault("", f"ended: {ended}")
    return found


def is_packages(module: str) -> bool:
    return "/" in module


def ways_of(module: str) -> tuple[str, ...]:
    return tuple(way for way in WAYS if way != "execute" or not is_packages(module))


def outside(module: str, python: str = PYTHON) -> dict[str, str]:
    """As an ordinary user of this machine."""
    entry = pwd.getpwnam(USER)
    with tempfile.TemporaryDirectory(prefix="compat-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "driver.py").write_text(DRIVER, encoding="utf-8")
        home = folder / "home"
        home.mkdir()
        argv = [python, "-I", str(folder / "driver.py"), module, str(home / "out.jsonl")]
        user: dict[str, object] = {}
        if os.getuid() == 0:
            os.chown(home, entry.pw_uid, entry.pw_gid)
            user = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
        environment = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": str(home), "TMPDIR": str(home)}
        try:
            ended = str(
                subprocess.run(  # type: ignore[call-overload]  # the user's three are given together or not
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    cwd=home,
                    env=environment,
                    timeout=SECONDS,
                    check=False,
                    **user,
                ).returncode
            )
        except subprocess.TimeoutExpired:
            ended = "time"
        out = home / "out.jsonl"
        return read(out.read_text(encoding="ascii") if out.exists() else "", ended)


def inside(client: SyncClient, module: str, way: str) -> dict[str, str]:
    """In a session of its own."""
    code = (WITHIN if way == "execute" else AS_A_PROCESS).format(
        driver=DRIVER.partition("\nif __name__")[0] if way == "execute" else DRIVER,
        module=module,
        python="sys.executable",
        seconds=SECONDS,
    )
    try:
        with client.session(PACKAGES if is_packages(module) else "python") as session:
            value = session.run("execute", {"code": code})["value"]
    except BridgeholdError as error:
        return {"": f"ended: {error.code}"}
    return read(*value)


@contextlib.contextmanager
def host(packages: bool) -> Iterator[tuple[SyncClient, Layout]]:
    """A private host on a layout of its own; with `packages`, on the environments that are built already."""
    home = Path(tempfile.mkdtemp(prefix="compat-host-"))
    home.chmod(0o755)
    layout = find_layout({"BRIDGEHOLD_HOME": str(home)}, os.getuid())
    for folder in (layout.config, layout.policies, layout.bridges, layout.tenants, layout.state):
        folder.mkdir(parents=True)
    if packages:
        BUILT.mkdir(parents=True, exist_ok=True)
        layout.environments.symlink_to(BUILT)
    bridge = layout.bridges / PACKAGES
    shipped = Catalogue.load().get("python").folder
    shutil.copytree(shipped, bridge)
    shutil.copy(HERE / "frameworks.lock", bridge / "requirements.lock")
    manifest = (shipped / "bridge.toml").read_text(encoding="utf-8")
    (bridge / "bridge.toml").write_text(
        manifest.replace('name = "python"', f'name = "{PACKAGES}"\nlock = "requirements.lock"')
    )
    try:
        with SyncClient.open(layout) as client:
            yield client, layout
    finally:
        shutil.rmtree(home, ignore_errors=True)


def environment(layout: Layout) -> str:
    """The interpreter of the packages' environment, which is built if it isn't there."""
    argv = [sys.executable, "-m", "bridgehold", "bridge", "build", PACKAGES, "--no-start", "--json"]
    home = {**os.environ, "BRIDGEHOLD_HOME": str(layout.config.parent)}
    built = json.loads(subprocess.run(argv, env=home, stdout=subprocess.PIPE, check=True).stdout)
    return str(layout.environments / built["digest"].removeprefix("sha256:") / "bin/python")


@dataclass(frozen=True)
class Kept:
    """Outcomes that were measured, each with the commit on which it was."""

    folder: Path | None
    tree: str

    def _path(self, way: str, module: str) -> Path | None:
        return self.folder and self.folder / way / (module.replace("/", ":") + ".json")

    def read(self, way: str, module: str) -> dict[str, str] | None:
        path = self._path(way, module)
        if path is None or not path.exists():
            return None
        outcomes: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))["outcomes"]
        return outcomes

    def write(self, way: str, module: str, outcomes: dict[str, str], seconds: float) -> None:
        path = self._path(way, module)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            kept = {"tree": self.tree, "seconds": round(seconds, 1), "outcomes": outcomes}
            path.write_text(json.dumps(kept), encoding="utf-8")

    def trees(self, modules: list[str]) -> dict[str, int]:
        """Commit → how many of the modules were measured on it, inside."""
        counts: Counter[str] = Counter()
        for module in modules:
            paths = [self._path(way, module) for way in WAYS]
            of = {json.loads(path.read_text())["tree"] for path in paths if path and path.exists()}
            counts[" and ".join(sorted(of)) or self.tree] += 1
        return dict(counts)

    def lacking(self, modules: list[str]) -> dict[str, list[str]]:
        """Module → the ways in which it was not measured."""

        def lacks(way: str, module: str) -> bool:
            return self.read("outside", module) is None or self.read(way, module) is None

        found = {module: [way for way in ways_of(module) if lacks(way, module)] for module in modules}
        return {module: ways for module, ways in found.items() if ways}

    def again(self) -> Kept:
        """Where second runs are kept."""
        return Kept(self.folder and self.folder / "again", self.tree)


def tree() -> str:
    """The commit of what is measured; with a plus where the source is not as committed."""
    git = ["git", "-C", str(HERE.parent)]
    short = subprocess.run(
        [*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False
    )
    changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", "src"], capture_output=True, check=False)
    return (short.stdout.strip() or "a copy without history") + ("+" if changed.returncode == 1 else "")


def measure(
    modules: list[str], kept: Kept, at_once: int = AT_ONCE
) -> Iterator[tuple[str, str, dict[str, str]]]:
    """(way, module, outcomes) for each of both, the runs outside first."""
    wanted = {
        way: [module for module in modules if way == "outside" or way in ways_of(module)]
        for way in ("outside", *WAYS)
    }
    missing = {module for way, of in wanted.items() for module in of if kept.read(way, module) is None}
    with ThreadPoolExecutor(at_once) as pool, contextlib.ExitStack() as stack:
        some = any(map(is_packages, missing))
        client, layout = stack.enter_context(host(some)) if missing else (None, None)
        packages = environment(layout) if layout and some else ""
        for way, chosen in wanted.items():
            if layout:
                start = "cold" if way == "cold" else "fork"
                for bridge in ("python", PACKAGES):
                    (layout.policies / f"{bridge}.toml").write_text(POLICY.format(start=start, bridge=bridge))

            def one(module: str, way: str = way) -> dict[str, str]:
                known = kept.read(way, module)
                if known is not None or client is None:
                    return known or {}
                began = time.monotonic()
                if way == "outside":
                    known = outside(module, packages if is_packages(module) else PYTHON)
                else:
                    known = inside(client, module, way)
                kept.write(way, module, known, time.monotonic() - began)
                return known

            for done, (module, outcomes) in enumerate(zip(chosen, pool.map(one, chosen), strict=True), 1):
                if sys.stderr.isatty():
                    sys.stderr.write(f"\r{way:8} {done:4} of {len(chosen)}  {module:40}")
                yield way, module, outcomes
    if sys.stderr.isatty():
        sys.stderr.write("\n")


def chosen(part: bool) -> list[str]:
    """The suite's part, which modules.txt lists; or all that the distribution has, and packages' files."""
    listed = [line.split("#")[0].strip() for line in (HERE / "modules.txt").read_text().splitlines()]
    own = [line for line in listed if line and not is_packages(line)]
    if part:
        return own
    all_ = {
        entry.name.removesuffix(".py")
        for entry in TESTS.glob("test_*")
        if entry.suffix == ".py" or (entry / "__init__.py").exists()
    }
    return [*sorted(all_), *filter(is_packages, listed)]


@dataclass
class Seen:
    """What runs showed: outcomes outside by module, differences by way and module; tests passed inside."""

    bases: dict[str, dict[str, str]]
    found: dict[tuple[str, str], list[Difference]]
    tests: int = 0

    def all(self) -> list[Difference]:
        return [one for of in self.found.values() for one in of]


def seen(runs: Iterable[tuple[str, str, dict[str, str]]]) -> Seen:
    so_far = Seen({}, {})
    for way, module, outcomes in runs:
        if way == "outside":
            so_far.bases[module] = outcomes
            if outcomes[""] != DONE:
                print(f"{module}: outside, it {outcomes['']}", file=sys.stderr)
        else:
            so_far.tests += sum(outcome == "passed" for outcome in outcomes.values())
            so_far.found[way, module] = differences(way, so_far.bases[module], outcomes)
    return so_far


def what_is_kept(modules: list[str], kept: Kept) -> Iterator[tuple[str, str, dict[str, str]]]:
    """As `measure`, without measuring."""
    for way in ("outside", *WAYS):
        for module in modules:
            outcomes = kept.read(way, module)
            if outcomes is not None and kept.read("outside", module) is not None:
                yield way, module, outcomes


def measured_again(first: Seen, reasons: tuple[Reason, ...], kept: Kept, only_kept: bool) -> list[Difference]:
    """What was seen in one of two runs only is taken out of `first`, and returned."""
    doubted = {key for key, of in first.found.items() if explained(of, reasons)[1]}
    modules = sorted({module for _, module in doubted})
    runs = what_is_kept(modules, kept.again()) if only_kept else measure(modules, kept.again(), at_once=1)
    second, once = seen(runs).found, []
    for key in doubted & second.keys():
        first.found[key], gone = confirmed(first.found[key], second[key])
        once += gone
    return once


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--part", action="store_true", help="the modules that the suite tries")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name} anew")
    parser.add_argument("--json", action="store_true", help="every difference as JSON")
    parser.add_argument("--kept", type=Path, help="where outcomes are kept, and found again")
    parser.add_argument("--only-kept", action="store_true", help="measure nothing")
    parser.add_argument("modules", nargs="*", help="instead of all that there are")
    options = parser.parse_args()
    kept = Kept(options.kept, tree())
    modules = options.modules or chosen(options.part)
    reasons = read_reasons(REASONS.read_text(encoding="utf-8"))
    began = time.monotonic()
    first = seen(what_is_kept(modules, kept) if options.only_kept else measure(modules, kept))
    unended = [module for module, outcomes in first.bases.items() if outcomes[""] != DONE]
    if unended or not first.tests:
        print("Nothing can be compared with what did not run outside. Are CPython's own tests installed")
        print("(Debian: libpython3.11-testsuite)? `make environments` does that.")
        return 1
    once = measured_again(first, reasons, kept, options.only_kept)
    found = first.all()
    known, unknown = explained(found, reasons)
    if options.json:
        print(json.dumps([vars(one) for one in found]))
        return int(bool(unknown))
    print(table(known))
    for what, of in (("no reason:", unknown), ("seen once:", once)):
        for one in of:
            print(f"{what} {one.way:8} {one.test}\n    outside  {one.outside}\n    inside   {one.inside}")
    counts = f"{first.tests} tests passed inside, {len(found)} differences, {len(unknown)} without a reason"
    print(f"{len(modules)} modules, {counts}, {time.monotonic() - began:.0f} s")
    if options.write and not unknown:
        write(modules, known, first.tests, kept, once)
    return int(bool(unknown))


def write(
    modules: list[str],
    known: dict[Reason, list[Difference]],
    tests: int,
    kept: Kept,
    once: list[Difference],
) -> None:
    """The page, from what was seen."""
    lacking = kept.lacking(modules) if kept.folder else {}
    there = [module for module in modules if lacking.get(module) != [*ways_of(module)]]
    trees = kept.trees(there)
    of = [f"`{tree}`" + (f" ({count} modules)" if len(trees) > 1 else "") for tree, count in trees.items()]
    version = subprocess.run([PYTHON, "-V"], capture_output=True, text=True, check=True).stdout.split()[1]
    notes = ""
    if lacking:
        said = "; ".join(f"{short(module)} ({', '.join(ways)})" for module, ways in lacking.items())
        notes += f"Not measured yet: {said}.\n\n"
    if once:
        said = ", ".join(f"`{name}`" for name in sorted({one.test for one in once}))
        notes += f"Seen once, on a busy machine, and not when the module was run again alone: {said}.\n\n"
    PAGE.write_text(
        HEAD.format(version=version, modules=len(there), tests=f"{tests:,}", trees=", ".join(of))
        + notes
        + table(known)
        + TAIL.format(
            listed=", ".join(map(short, there)),
            beside=beside_table(read_beside(REASONS.read_text(encoding="utf-8"))),
        ),
        encoding="utf-8",
    )


def short(module: str) -> str:
    return f"`{module.removeprefix('test_')}`"


if __name__ == "__main__":
    raise SystemExit(main())
