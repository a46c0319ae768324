"""The demo's scenes as values: what runs, and what each act must come to."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Bomb:
    """One hostile act of the third scene, run by ``python:execute`` in a session of its own."""

    title: str
    code: str
    codes: tuple[str, ...]
    """Error codes that count as stopped; empty: the act ends inside, and `inside` must be in its output."""
    inside: str = ""
    deadline_ms: int = 8_000


BOMBS = (
    Bomb(
        "fork bomb",
        "import os, time, errno\n"
        "made = 0\n"
        "try:\n"
        "    while True:\n"
        "        if os.fork() == 0:\n"
        "            time.sleep(60)\n"
        "        made += 1\n"
        "except OSError as e:\n"
        "    print(f'stopped after {made} processes: {errno.errorcode[e.errno]}')\n",
        codes=(),
        inside="EAGAIN",
    ),
    Bomb(
        "memory bomb",
        "held = []\nwhile True:\n    held.append(bytearray(16 << 20))\n",
        codes=("memory",),
        deadline_ms=25_000,  # a busy machine fills memory slowly
    ),
    Bomb(
        "disk fill",
        "import errno\n"
        "written = 0\n"
        "try:\n"
        "    for i in range(1000):\n"
        "        with open(f'/scratch/fill{i}', 'wb', buffering=0) as f:\n"
        "            for _ in range(64):\n"
        "                written += f.write(b'x' * (1 << 20))\n"
        "except OSError as e:\n"
        "    print(f'stopped after {written >> 20} MiB: {errno.errorcode[e.errno]}')\n",
        codes=(),
        inside="MiB: ENOSPC",
    ),
    Bomb("overrun deadline", "while True:\n    pass\n", codes=("timeout",), deadline_ms=1_500),
    Bomb(
        "escape attempt",
        "import ctypes, errno, os, socket\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "def name(call):\n"
        "    ctypes.set_errno(0)\n"
        "    return 'DONE' if call() >= 0 else errno.errorcode.get(ctypes.get_errno(), '?')\n"
        "print('new user namespace   ', name(lambda: libc.unshare(0x10000000)))\n"
        "print('mount the host       ', name(lambda: libc.mount(b'/dev/vda', b'/tmp', b'ext4', 0, None)))\n"
        "print('join another net     ', name(lambda: libc.setns(0, 0x40000000)))\n"
        "print('trace a process      ', name(lambda: libc.ptrace(16, 1, 0, 0)))\n"
        "for path in ('/etc/shadow', '/root', '/home', '/run/bridgehold'):\n"
        "    print(f'read {path:<16}', 'FOUND' if os.path.exists(path) else 'absent')\n"
        "try:\n"
        "    socket.create_connection(('169.254.169.254', 80), 2); print('cloud metadata        REACHED')\n"
        "except OSError as e:\n"
        "    print('cloud metadata       ', e)\n",
        codes=(),
        inside="EPERM",
    ),
)

DSPY_STEPS = (
    ("configure_lm", {"model": "openai/gpt-4o-mini", "provider": "openai"}),
    ("create_program", {"id": "qa", "signature": "question -> answer", "program_type": "predict"}),
    ("execute_program", {"program_id": "qa", "inputs": {"question": "What does a sandbox keep out?"}}),
    (
        "create_program",
        {"id": "cot", "signature": "question -> answer", "program_type": "chain_of_thought"},
    ),
    ("execute_program", {"program_id": "cot", "inputs": {"question": "Why is the key not inside?"}}),
)
