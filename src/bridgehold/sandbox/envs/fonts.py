"""matplotlib's list of fonts, made once with an environment: else each session that draws makes it.

This alone of a build runs wheels' code, after all of it is laid down: what ``import matplotlib.font_manager``
runs in every session that draws. It runs as there, once its sandbox is proved as theirs are: no network,
nobody's data, the tree read-only. What leaves it are one pipe's bytes, bounded, which must be such a list;
what is kept is written by us, where no wheel may put a file and no import looks (docs/adr/0023).
"""

from __future__ import annotations

import asyncio
import re
from typing import BinaryIO

import msgspec

from bridgehold import strict
from bridgehold.errors import BridgeholdError, DependencyError
from bridgehold.ids import LOCAL_TENANT
from bridgehold.sandbox.envs.compile import BuildRunner, CompileOrder, Log, require_success
from bridgehold.sandbox.envs.unpack import Tree
from bridgehold.sandbox.envs.values import DRAWS, MIB, Interpreter
from bridgehold.sandbox.spec import ENVIRONMENT

FOLDER = "cache/matplotlib"
"""Below an environment. `inner/interpreter.py` copies what lies there into each session's own cache."""
_SECONDS = 120
_MAX_BYTES = 4 * MIB
"""Some 15,000 fonts."""
_MAX_VALUES, _MAX_DEPTH = 200_000, 3
_VERSION = re.compile(r"[0-9a-z]{1,16}(\.[0-9a-z]{1,16}){0,3}")
_Scalar = str | int | float | bool | None

PROGRAM = f"""
import os, sys
os.write(1, b" ")
while os.read(0, 4096):
    pass
answer = os.dup(1)
os.dup2(2, 1)
sys.path.append(sys.argv[1])
sys.prefix = sys.exec_prefix = "{ENVIRONMENT}"
from matplotlib import font_manager, get_cachedir
name = f"fontlist-v{{font_manager.FontManager.__version__}}.json"
with open(os.path.join(get_cachedir(), name), "rb") as file, open(answer, "wb") as out:
    out.write(file.read())
sys.stderr.flush()
os._exit(0)
"""


async def list_fonts(
    runner: BuildRunner, tree: Tree, interpreter: Interpreter, bridge: str, tenant: str
) -> tuple[str, ...]:
    """Lay the list down in `tree`; what is missing and why, or nothing. `tenant`: empty is everybody's.

    Raises `OSError` where it can't be written.
    """
    order = CompileOrder(
        argv=_argv(interpreter),
        interpreter_prefix=interpreter.prefix,
        bridge=bridge,
        tenant=tenant or LOCAL_TENANT,
        tree=str(tree.path("")),
    )
    answer, log = _Answer(), Log()
    try:
        async with asyncio.timeout(_SECONDS):
            ended = await runner.run(order, answer.talk, log.write)
        require_success(ended, log, "", where=DRAWS, what="what lists them")
        name, text = checked(answer.text)
    except BridgeholdError as error:
        why = error.message
    except TimeoutError:
        why = f"listing them took longer than {_SECONDS} s"
    else:
        tree.file(f"{FOLDER}/{name}", (text,))
        return ()
    return (f"matplotlib's list of fonts, which each session makes: {why}",)


def checked(answer: bytes) -> tuple[str, bytes]:
    """The name of the list's file, and the list written anew (pure). `DependencyError` where it is none."""
    try:
        value = strict.loads(answer, max_depth=_MAX_DEPTH, max_values=_MAX_VALUES)
        facts = msgspec.convert(value, dict[str, _Scalar | dict[str, _Scalar] | list[dict[str, _Scalar]]])
    except (strict.StrictError, msgspec.ValidationError) as error:
        raise DependencyError(f"the list of fonts is refused: {error}", where=DRAWS) from None
    version = str(facts.get("_version"))
    lists = [one for one in facts.values() if isinstance(one, list)]
    tables = [one for one in facts.values() if isinstance(one, dict)]
    if not (
        facts.get("__class__") == "FontManager"
        and _VERSION.fullmatch(version)
        and isinstance(facts.get("ttflist"), list)
        and all(entry.get("__class__") == "FontEntry" for one in lists for entry in one)
        and not any("__class__" in one for one in tables)
    ):
        raise DependencyError("the list of fonts is refused: it isn't matplotlib's", where=DRAWS)
    return f"fontlist-v{version}.json", msgspec.json.encode(facts)


class _Answer:
    """What comes of the sandbox, whole or not at all."""

    def __init__(self) -> None:
        self.text = b""

    def talk(self, to: BinaryIO, answers: BinaryIO) -> None:
        """Have it begin, and read until its end. `DependencyError` past what such a list may have."""
        to.close()
        with answers:
            self.text = answers.read(_MAX_BYTES + 1)
        if len(self.text) > _MAX_BYTES:
            raise DependencyError(f"the list of fonts has more than {_MAX_BYTES} bytes", where=DRAWS)


def _argv(interpreter: Interpreter) -> tuple[str, ...]:
    """As a session's own interpreter: isolated, without `site`, so that no .pth runs."""
    flags = ("-I", "-S", "-B", "-X", "utf8")
    return (f"{ENVIRONMENT}/bin/python", *flags, "-c", PROGRAM, f"{ENVIRONMENT}/{interpreter.site_packages}")
