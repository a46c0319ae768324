"""Where a session's code runs: its namespaces; variables, arguments and folder that its caller gives."""

from __future__ import annotations

import builtins
import contextlib
import os
import re
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from importlib.machinery import BuiltinImporter
from typing import Any

from bridgehold_sdk import InvalidInput, operation

MAIN = "main"
"""The namespace that every session begins with."""
MOST_CONTEXTS = 16
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_HERE = ("_", "In", "Out")
"""Names of a prompt's, among the builtins of the namespace that runs."""


def _here() -> str:
    return os.getcwd()  # noqa: PTH109 - `pathlib` would be imported for it


class Context:
    """One namespace: its `__main__`, its `In` and `Out`, its event loop, its working folder."""

    def __init__(self, name: str, folder: str = "") -> None:
        self.name = name
        self.folder = folder
        """Where it goes on; empty: where the one before it was."""
        self.count = 0
        self.loop: Any = None
        self.fresh()

    def fresh(self) -> None:
        """It knows no name of the caller's."""
        self.module = types.ModuleType("__main__")
        self.names = self.module.__dict__
        self.names.update(__builtins__=builtins, __loader__=BuiltinImporter, __annotations__={})
        self.futures = 0
        self.inputs = [""]
        self.results: dict[int, Any] = {}
        self.here: dict[str, Any] = {"In": self.inputs, "Out": self.results}

    def enter(self) -> None:
        """Code runs in this one from here on."""
        sys.modules["__main__"] = self.module
        for name in _HERE:
            builtins.__dict__.pop(name, None)
        builtins.__dict__.update(self.here)
        if self.folder:
            with contextlib.suppress(OSError):  # the code has removed it
                os.chdir(self.folder)

    def leave(self) -> None:
        """Another one is to run."""
        self.here = {name: builtins.__dict__[name] for name in _HERE if name in builtins.__dict__}
        with contextlib.suppress(OSError):
            self.folder = _here()

    @property
    def source(self) -> str:
        """What a traceback calls the command that runs."""
        return f"<execute {'' if self.name == MAIN else self.name + ' '}{self.count}>"

    def told(self) -> dict[str, Any]:
        """For its caller."""
        names = sum(not name.startswith("__") for name in self.names)
        return {"context": self.name, "count": self.count, "names": names}


class Place:
    """``context_create`` and its kin, and ``place``."""

    def _begin(self) -> None:
        self._at = Context(MAIN)
        self._contexts = {MAIN: self._at}
        self._at.enter()

    @property
    def _namespace(self) -> dict[str, Any]:
        return self._at.names

    def _go_to(self, name: str) -> None:
        """Have the commands run in the namespace `name`. `InvalidInput` where there is none."""
        if name == self._at.name:
            return
        wanted = self._contexts.get(name)
        if wanted is None:
            raise InvalidInput(f"there is no context {name[:80]!r}; context_create makes one")
        self._at.leave()
        self._at = wanted
        wanted.enter()

    @operation(effect="run")
    def context_create(self, context: str, cwd: str = "") -> dict[str, Any]:
        """Another namespace over the session's files, with a working folder of its own."""
        from bridgehold_sdk.program_requests import checked_folder

        if not _NAME.fullmatch(context) or context in self._contexts:
            what = "is there already" if context in self._contexts else "is no name of a context"
            raise InvalidInput(f"{context[:80]!r} {what}")
        if len(self._contexts) >= MOST_CONTEXTS:
            raise InvalidInput(f"a session has at most {MOST_CONTEXTS} contexts; drop one")
        folder = os.path.join(_here(), checked_folder(cwd))  # noqa: PTH118 - as above
        self._contexts[context] = Context(context, folder)
        return self._contexts[context].told()

    @operation(effect="read")
    def context_list(self) -> dict[str, Any]:
        """The session's namespaces, in the order in which they were made."""
        return {"contexts": [one.told() for one in self._contexts.values()]}

    @operation(effect="run")
    def context_drop(self, context: str) -> dict[str, Any]:
        """Forget a namespace. What runs in its threads goes on."""
        if context == MAIN or context not in self._contexts:
            why = "is the session's own" if context == MAIN else "is no context here"
            raise InvalidInput(f"{context[:80]!r} {why}")
        self._go_to(MAIN if self._at.name == context else self._at.name)
        loop = self._contexts.pop(context).loop
        if loop is not None and not loop.is_closed():
            loop.close()
        return {"dropped": context}

    @operation(effect="run")
    def place(
        self, env: Mapping[str, str] | None = None, args: Sequence[str] | None = None, cwd: str = ""
    ) -> dict[str, Any]:
        """Variables, arguments (``sys.argv[1:]``) and working folder of all commands that follow."""
        from bridgehold_sdk.program_requests import checked_environment, checked_folder

        variables, folder = checked_environment(env), checked_folder(cwd)
        os.environ.update(variables)
        if args is not None:
            sys.argv[1:] = list(args)
        if folder:
            os.chdir(folder)
        return {"env": sorted(variables), "args": sys.argv[1:], "cwd": _here()}

    @contextlib.contextmanager
    def _placed(self, env: Mapping[str, str] | None, args: Sequence[str] | None, cwd: str) -> Iterator[None]:
        """As `place`, of one command: afterwards all is as it was before."""
        if not env and args is None and not cwd:
            yield
            return
        from bridgehold_sdk.program_requests import checked_environment, checked_folder

        variables, folder = checked_environment(env), checked_folder(cwd)
        before = {name: os.environ.get(name) for name in variables}
        argv, here = sys.argv[1:], os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.environ.update(variables)
            if args is not None:
                sys.argv[1:] = list(args)
            if folder:
                os.chdir(folder)
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
            if args is not None:
                sys.argv[1:] = argv
            if folder:
                os.fchdir(here)
            os.close(here)
