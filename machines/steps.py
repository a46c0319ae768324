"""What a stranger does on a machine: look at it, ask the doctor, run one command. Prints one line of JSON.

    python3 steps.py PROGRAM [FILE TEXT ...]

PROGRAM: `bridgehold`, as installed there. FILE: below the folder of configuration, with TEXT. Standard
library alone, Python 3.9 and up: it is carried to each machine as it is.
"""

import json
import os
import platform
import re
import subprocess
import sys
import tempfile

MARK = "MACHINE "
SECONDS = 300


def main(program, *files):
    """Everything, in the order in which a person would see it."""
    with tempfile.TemporaryDirectory(prefix="stranger-") as home:
        environ = dict(os.environ, BRIDGEHOLD_HOME=home)
        for number in range(0, len(files), 2):
            path = os.path.join(home, "config", files[number])
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w", encoding="utf-8") as file:
                file.write(files[number + 1])
        checks = asked([program, "doctor", "--json"], environ)
        told = asked([program, "run", "python:execute", "--args", '{"code": "6 * 7"}'], environ)
    try:
        rows = json.loads(checks.stdout)
    except ValueError:
        rows = [{"name": "doctor", "status": "FAIL", "detail": checks.stderr[-500:], "remedy": ""}]
    answered = '"value": 42' in told.stdout
    return {
        "facts": facts(program),
        "passed": sum(row["status"] == "PASS" for row in rows),
        "not_passed": [row for row in rows if row["status"] != "PASS"],
        "works": answered,
        "said": "" if answered else told.stderr[-3000:],
    }


def asked(command, environ):
    """One command; what is not there, or takes too long, has said so."""
    try:
        return subprocess.run(
            command,
            check=False,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            universal_newlines=True,
            timeout=SECONDS,
            cwd="/",
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 124, "", str(error))


def facts(program):
    """What decides: system, kernel, interpreter, bubblewrap, cgroups, security modules, and who this is."""
    system = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', read("/etc/os-release"), re.MULTILINE))
    with open(program, "rb") as file:
        interpreter = file.readline(400).decode("utf-8", "replace").strip().lstrip("#!")
    if not interpreter.startswith("/") or interpreter.startswith("/bin/sh"):
        interpreter = os.path.join(os.path.dirname(os.path.realpath(program)), "python3")
    if not os.path.exists(interpreter):
        interpreter = "python3"
    shown = asked([interpreter, "-c", "import platform; print(platform.python_version())"], dict(os.environ))
    bubblewrap = asked(["bwrap", "--version"], dict(os.environ))
    mounts = [line.split() for line in read("/proc/mounts").splitlines()]
    kinds = {fields[2] for fields in mounts if fields[1].startswith("/sys/fs/cgroup")}
    return {
        "system": system.get("PRETTY_NAME", platform.system()),
        "kernel": platform.release(),
        "python": shown.stdout.strip(),
        "bubblewrap": (bubblewrap.stdout.split() or ["none"])[-1],
        "cgroups": {"cgroup2": "v2", "cgroup": "v1"}.get(
            "".join(sorted(kinds - {"tmpfs"})), "v1 and v2" if kinds else "none"
        ),
        "user": "root" if os.getuid() == 0 else "an ordinary user",
    }


def read(path):
    """A file's text; empty where it can't be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


if __name__ == "__main__":
    print(MARK + json.dumps(main(*sys.argv[1:])))
