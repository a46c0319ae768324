"""Tries machines: on each a stranger asks the doctor and runs one command. Writes docs/reference/machines.md.

    python machines/run.py [--write] [--json] [--list] [--kept FOLDER] [NAME ...]

All, or those that are named. What a machine answers is a working session, or a message whose remedy, typed
as shown, leads to one; anything else fails the run. As root, on Debian 12. Containers want podman, runc and
jq, machines with a kernel of their own the machine tool beside a checkout ($BRIDGEHOLD_VM); what isn't there
is said, and not tried. `--kept`: base systems are kept there (~/.cache/bridgehold-machines). `--write`: each
result is kept in machines/results.json, and the page is written anew.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import json
import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path.insert(0, str(HERE))

from kinds import AT_ROOT, MACHINES, OTHER_BWRAP, Machine  # noqa: E402
from page import Outcome, page, row  # noqa: E402

RESULTS = HERE / "results.json"
PAGE = ROOT / "docs/reference/machines.md"
STEPS = HERE / "steps.py"
WITHOUT = HERE / "without.py"
VENV = ROOT / os.environ.get("VENV", ".venv")
USER = "bh-machines"
SECONDS = 1800
BASE = "python3,python3-venv,ca-certificates,git,make"
TOOL = Path(os.environ.get("BRIDGEHOLD_VM", ROOT.parent / "shared/vm/vm"))
MARK = re.compile(r"MACHINE (\{.*\})")


class MissingError(Exception):
    """What a machine needs isn't here: it is not tried."""


class Bench:
    """What machines share: a user, the wheel, packages and base systems, made when first asked for."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder, self.cache = folder, cache
        self._made: dict[str, Path] = {}

    def wheel(self) -> Path:
        """The wheel of this tree."""
        if "wheel" not in self._made:
            run([VENV / "bin/python", "-m", "hatchling", "build", "-t", "wheel", "-d", self.folder], cwd=ROOT)
            (self._made["wheel"],) = self.folder.glob("*.whl")
        return self._made["wheel"]

    def installed(self, machine: Machine) -> Path:
        """The program, as `machine` says that it is installed, where every user may read it."""
        name = f"{machine.install}-{machine.python.replace('/', '_')}"
        if name not in self._made:
            self._made[name] = getattr(self, f"_{machine.install}")(machine, self.folder / name)
        return self._made[name]

    def _venv(self, machine: Machine, place: Path) -> Path:
        uv = VENV / "bin/uv"
        run([uv, "venv", "--quiet", "--python", found_python(machine.python), place])
        into = [uv, "pip", "install", "--quiet", "--system-certs", "--python", place / "bin/python"]
        run([*into, "--no-deps", "-r", ROOT / "locks/build.txt"])
        run([*into, "--no-deps", "--no-build-isolation", "-r", ROOT / "locks/run.txt", self.wheel()])
        return place / "bin/bridgehold"

    def _user(self, _: Machine, place: Path) -> Path:
        home = Path(pwd.getpwnam(USER).pw_dir)
        self._pip(place, "--user", "--break-system-packages")
        return home / ".local/bin/bridgehold"

    def _target(self, machine: Machine, place: Path) -> Path:
        place.mkdir()
        shutil.chown(place, USER)
        self._pip(place, "--target", str(place / "packages"))
        program = place / "bridgehold"
        program.write_text(
            f"#!/bin/sh\nPYTHONPATH={place}/packages exec {machine.python} "
            f'{place}/packages/bin/bridgehold "$@"\n'
        )
        program.chmod(0o755)
        return program

    def _pip(self, place: Path, *options: str) -> None:
        pip = ["runuser", "-u", USER, "--", "/usr/bin/python3", "-m", "pip", "install", "-q", *options]
        pip += ["--no-warn-script-location", "--no-deps"]
        run([*pip, "--require-hashes", "-r", self.carried(ROOT / "locks/run.txt")], cwd=Path("/"))
        run([*pip, "--upgrade", self.wheel()], cwd=Path("/"))

    def package(self, suite: str) -> Path:
        """dist/ with the tarball and the Debian package for `suite`'s Python."""
        name = f"dist-{suite}"
        if name not in self._made:
            place = self.folder / name
            if suite == "bookworm":
                run([VENV / "bin/python", ROOT / "scripts/package", "--out", place])
            else:
                self._package_there(suite, place)
            self._made[name] = place
        return self._made[name]

    def _package_there(self, suite: str, place: Path) -> None:
        """Built in a base system of that suite: a package is for the Python that it was built with."""
        root = self.folder / f"root-{suite}"
        root.mkdir()
        run(["tar", "-xf", self.base(suite), "-C", root])
        run(["git", "clone", "--quiet", ROOT, root / "src"])
        for path in ("etc/pip.conf", "etc/resolv.conf", "etc/ssl/certs/ca-certificates.crt"):
            if Path("/", path).exists():
                shutil.copy(Path("/", path), root / path)
        mounts = "".join(f"mount --rbind /{name} {root}/{name}; " for name in ("proc", "dev", "sys"))
        inside = "unset TMPDIR; cd /src && make setup && .venv/bin/python scripts/package --out /made"
        run(
            [
                "unshare",
                "-m",
                "--propagation",
                "private",
                "sh",
                "-ec",
                f"{mounts} chroot {root} sh -ec '{inside}'",
            ]
        )
        shutil.move(root / "made", place)
        shutil.rmtree(root)

    def tree(self, suite: str) -> Path:
        """The package for `suite`, unpacked."""
        place = self.folder / f"tree-{suite}"
        if not place.exists():
            (archive,) = self.package(suite).glob("*.tar.gz")
            place.mkdir()
            run(["tar", "-xzf", archive, "-C", place])
        return place

    def image(self, suite: str) -> str:
        """The package in an image, by the recipe that users have."""
        name, base = f"localhost/bridgehold-{suite}", f"localhost/{suite}:base"
        if name not in self._made:
            run(["podman", "import", self.base(suite), base])
            context = self.folder / f"image-{suite}"
            shutil.copytree(self.package(suite), context / "dist")
            shutil.copytree(ROOT / "deploy", context / "deploy")
            shutil.copytree(ROOT / "scripts", context / "scripts")
            options = "--runtime=runc --network=host --isolation=chroot"
            environ = {**os.environ, "BASE": base, "NAME": name, "IMAGE_OPTIONS": options}
            run([context / "scripts/image"], env=environ)
            self._made[name] = context
        return name

    def profile(self) -> Path:
        """The runtime's filter with one call more, by the page's own command."""
        if "profile" not in self._made:
            text = (ROOT / "docs/how-to/container.md").read_text()
            (command,) = re.findall(r"^(jq [^>]*) > seccomp.json$", text, re.MULTILINE | re.DOTALL)
            path = self.folder / "seccomp.json"
            path.write_text(run(["sh", "-c", command]))
            self._made["profile"] = path
        return self._made["profile"]

    def bubblewrap(self) -> None:
        """Debian 11's, unpacked below the cache."""
        suite, place = "bullseye", self.cache / "bullseye"
        if not place.exists():
            want("mmdebstrap")
            part = self.cache / f"{suite}.part"
            run(["mmdebstrap", "--quiet", "--variant=extract", "--include=bubblewrap", suite, part])
            part.rename(place)

    def carried(self, source: Path) -> Path:
        """A file where every user may read it."""
        copied = self.folder / source.name
        shutil.copy(source, copied)
        copied.chmod(0o755)
        return copied

    def base(self, suite: str) -> Path:
        """A base system as a tarball, kept."""
        path = self.cache / f"{suite}.tar"
        if not path.exists():
            want("mmdebstrap")
            part = path.with_suffix(".part.tar")
            run(["mmdebstrap", "--quiet", "--variant=minbase", f"--include={BASE}", suite, part])
            part.rename(path)
        return path


def here(machine: Machine, bench: Bench) -> Iterator[dict[str, Any]]:
    """What a stranger meets on this machine: at first, and after the remedy."""
    program = bench.installed(machine)
    environ = {**os.environ, "NAME": USER, "CACHE": str(bench.cache)}
    if machine.prepare == OTHER_BWRAP:
        bench.bubblewrap()
    take_cgroups(pwd.getpwnam(USER).pw_uid)
    with namespace() as inside:
        if machine.prepare:
            run([*inside, "sh", "-ec", machine.prepare], env=environ)
        steps = [*inside, *stranger(machine), "/usr/bin/python3", bench.carried(STEPS), program]
        first = met(steps)
        yield first
        typed: list[str] = []
        last = first
        for words, name, text in machine.configured:
            if words not in last["said"]:
                return
            typed.append(words)
            steps += [name, text]
            last = met(steps) | {"typed": "; then ".join(typed)}
            yield last
        yield from remedied(machine, last["said"], inside, steps)


def remedied(machine: Machine, said: str, inside: list[str], steps: list[Any]) -> Iterator[dict[str, Any]]:
    """What is met after each remedy that was said has been typed as root, one after the other."""
    typed: list[str] = []
    while found := re.search(AT_ROOT, said):
        command = found[1] or found[2]
        if command in typed:
            return
        typed.append(command)
        run([*inside, "sh", "-ec", command if found[1] else machine.undo])
        answer = met(steps) | {"typed": "; then ".join(typed)}
        yield answer
        said = answer["said"]


def stranger(machine: Machine) -> list[str]:
    """In front of a command: as whom, and without what."""
    less = [sys.executable, str(WITHOUT), machine.without] if machine.without else []
    return less if machine.root else [*less, "runuser", "-u", USER, "--"]


@contextlib.contextmanager
def namespace() -> Iterator[list[str]]:
    """A mount namespace that ends with this: what to put in front of a command to run it there."""
    holder = subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", "echo; exec cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        if holder.stdout is not None:
            holder.stdout.readline()  # it is there
        yield ["nsenter", f"--mount=/proc/{holder.pid}/ns/mnt", "--"]
    finally:
        holder.communicate()


def container(machine: Machine, bench: Bench) -> Iterator[dict[str, Any]]:
    """What a stranger meets in a container, and in one that is started with what was said."""
    want("podman", "runc", "jq")
    image = bench.image(machine.suite)
    first = met(in_container(bench, image, machine.options))
    yield first
    if machine.again:
        if not all(option in first["said"] for option in machine.again):
            return
        more = tuple(option.replace(" ", "=", 1) for option in machine.again)
        yield met(in_container(bench, image, (*machine.options, *more))) | {"typed": " ".join(machine.again)}


def in_container(bench: Bench, image: str, options: tuple[str, ...]) -> list[str]:
    """The command that carries the steps into a container, past its own entry point to its own user."""
    limits = [
        f"--ulimit={name}=20000:20000" for name in ("nofile", "nproc")
    ]  # no more than this machine's own
    given = [option.replace("$PROFILE", str(bench.profile())) for option in options]
    steps = (
        "bridgehold-entrypoint --version >/dev/null && exec setpriv --reuid=bridgehold --regid=bridgehold "
        "--init-groups --inh-caps=-all env HOME=/var/lib/bridgehold python3 /steps.py /usr/bin/bridgehold"
    )
    command = ["podman", "--runtime=runc", "run", "--rm", "--network=none", *limits, *given]
    return [*command, f"--volume={STEPS}:/steps.py:ro", "--entrypoint=/bin/sh", image, "-c", steps]


def emulated(machine: Machine, bench: Bench) -> Iterator[dict[str, Any]]:
    """What a stranger meets on a machine with systemd and a kernel of its own."""
    if not TOOL.exists():
        raise MissingError(f"no machine tool at {TOOL}")
    who = [] if machine.root else ["--user", "alice"]
    properties = [word for option in machine.options for word in ("--prop", option)]
    tree = bench.tree(machine.suite)
    copies = ["--copy", f"{tree}/opt/bridgehold:/opt/bridgehold", "--copy", f"{STEPS}:/steps.py"]
    command = [TOOL, "run", "--seconds", SECONDS, *who, *properties, *copies, "--"]
    command += ["/usr/bin/python3", "/steps.py", "/opt/bridgehold/bin/bridgehold"]
    yield met(command, env={**os.environ, "VM_SUITE": machine.suite})


KINDS = {"here": here, "container": container, "emulated": emulated}


def tried(machine: Machine, bench: Bench) -> Outcome:
    """One machine: what was met, and whether it is what a stranger should meet."""
    met_there = list(KINDS[machine.kind](machine, bench))
    first, last = met_there[0], met_there[-1]
    said = first["said"]
    right = bool(first["works"]) if not machine.says else bool(re.search(machine.says, said))
    if machine.says and not machine.ends:
        right = right and last["works"]
    return Outcome(
        name=machine.name,
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        tree=run(["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT).strip(),
        facts=first["facts"],
        works=first["works"],
        said=said if not first["works"] else "",
        said_then=last["said"] if len(met_there) > 1 else "",
        typed=last.get("typed", ""),
        works_then=len(met_there) > 1 and last["works"],
        not_passed=tuple(row["name"] for row in last["not_passed"] if row["status"] == "FAIL"),
        right=right,
    )


def met(command: list[Any], env: dict[str, str] | None = None) -> dict[str, Any]:
    """What the steps printed."""
    done = subprocess.run(
        list(map(str, command)),
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
        cwd="/",
    )
    found = MARK.search(done.stdout)
    if found is None:
        raise RuntimeError(f"no answer (status {done.returncode}): {(done.stdout + done.stderr)[-2000:]}")
    answer: dict[str, Any] = json.loads(found[1])
    if "bridgehold doctor" in answer["said"]:  # who is sent there reads what it says
        answer["said"] += "".join(f"\ndoctor {row['name']}: {row['remedy']}" for row in answer["not_passed"])
    return answer


def want(*programs: str) -> None:
    """`MissingError` names those that aren't here."""
    lacking = [name for name in programs if shutil.which(name) is None]
    if lacking:
        raise MissingError(f"not here: {', '.join(lacking)}")


def found_python(name: str) -> str:
    """The path of an interpreter: as named, or pyenv's of that version."""
    if name.startswith("/"):
        return name
    places = sorted((Path.home() / ".pyenv/versions").glob(f"{name}*/bin/python{name}"))
    if not places:
        raise MissingError(f"no Python {name} of pyenv")
    return str(places[-1])


def run(command: list[Any], *, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """One step of set-up; its words where it fails."""
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))[:200]}: {(done.stderr or done.stdout)[-1500:]}")
    return done.stdout


@contextlib.contextmanager
def user() -> Iterator[None]:
    """An ordinary user of this machine, with nothing of theirs left afterwards."""
    run(["useradd", "--create-home", USER])
    uid = pwd.getpwnam(USER).pw_uid
    try:
        yield
    finally:
        take_cgroups(uid)
        run(["userdel", "--remove", USER])


def take_cgroups(uid: int) -> None:
    """What a remedy gave the user."""
    for one in ("memory", "pids", "cpu", "cpuacct"):
        top = Path("/sys/fs/cgroup", one, f"for-bridgehold-{uid}")
        for path in (*sorted(top.rglob("*/"), reverse=True), top):
            with contextlib.suppress(FileNotFoundError):
                path.rmdir()


def main() -> int:
    """Try them; the exit status is 1 where one meets a stranger otherwise than it should."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--write", action="store_true", help="write machines/results.json and the page")
    parser.add_argument("--json", action="store_true", help="one JSON object a machine")
    parser.add_argument("--list", action="store_true", help="the machines, none tried")
    parser.add_argument("--kept", type=Path, default=Path.home() / ".cache/bridgehold-machines")
    arguments = parser.parse_args()
    chosen = [machine for machine in MACHINES if not arguments.names or machine.name in arguments.names]
    unknown = set(arguments.names) - {machine.name for machine in MACHINES}
    if unknown:
        parser.error(f"no machine {', '.join(sorted(unknown))}; see --list")
    if arguments.list:
        print("\n".join(f"{machine.name:28} {machine.what}" for machine in chosen))
        return 0
    if os.getuid() != 0:
        parser.error("machines are made by root")
    arguments.kept.mkdir(parents=True, exist_ok=True)
    results = {one["name"]: one for one in json.loads(RESULTS.read_text())} if RESULTS.exists() else {}
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="machines-") as name, user():
        Path(name).chmod(0o755)
        bench = Bench(Path(name), arguments.kept)
        for machine in chosen:
            try:
                outcome = tried(machine, bench)
            except MissingError as missing:
                print(f"{machine.name:28} not tried: {missing}", flush=True)
                continue
            except (RuntimeError, subprocess.TimeoutExpired) as error:
                print(f"{machine.name:28} WRONG: {error}", flush=True)
                wrong += 1
                continue
            wrong += not outcome.right
            results[machine.name] = dataclasses.asdict(outcome)
            print(json.dumps(results[machine.name]) if arguments.json else row(outcome), flush=True)
    if arguments.write:
        kept = [results[machine.name] for machine in MACHINES if machine.name in results]
        RESULTS.write_text(json.dumps(kept, indent=1) + "\n")
        PAGE.write_text(page([Outcome(**one) for one in kept], MACHINES))
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
