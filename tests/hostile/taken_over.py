"""A back door for cells, in tests alone: who asks by it runs code in the cell, as whoever has taken it over would.

It comes by `PYTHONPATH`, which reaches every process of a host's: this module, as ``sitecustomize``, changes one
method of a cell's as its module is imported. Nothing of the host's own code knows of it.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import sys
import tempfile
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bridgehold import SyncClient
    from hostile.stage import Stage

_MODULE = "bridgehold.host.cell_process"
_KEY = "backdoor"


class _Door(importlib.abc.MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != _MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.loader is not None
        load = spec.loader.exec_module

        def opened(module: types.ModuleType) -> None:
            load(module)
            _open(module)

        spec.loader.exec_module = opened  # type: ignore[method-assign]  # of this one loader
        return spec


def _open(module: Any) -> None:
    process = module.CellProcess
    sound = process._call

    async def call(self: Any, asked: Any, told: Any) -> object:
        code = json.loads(bytes(asked.params)).get(_KEY)
        if code is None:
            return await sound(self, asked, told)
        names: dict[str, Any] = {"cell": self, "result": {}}
        exec(compile(f"async def act():\n{code}\n    return result", "act", "exec"), names)
        try:
            return await names["act"]()
        except BaseException as error:
            return {"error": f"{type(error).__name__}: {error}"}

    process._call = call


@contextlib.contextmanager
def doors() -> Iterator[None]:
    """Hosts that are started meanwhile have one in each cell."""
    with tempfile.TemporaryDirectory(prefix="bh-door-") as folder:
        Path(folder).chmod(0o755)
        Path(folder, "sitecustomize.py").write_text(
            Path(__file__).read_text() + "\n\nsys.meta_path.insert(0, _Door())\n"
        )
        before = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = folder if before is None else f"{folder}{os.pathsep}{before}"
        try:
            yield
        finally:
            if before is None:
                del os.environ["PYTHONPATH"]
            else:
                os.environ["PYTHONPATH"] = before


def act_in_cell(host: Stage, tenant: str, code: str, client: SyncClient | None = None) -> dict[str, Any]:
    """Run `code` in the tenant's cell: it leaves in `result` what it found, and may await. `cell` is its process.

    `client`: of another thread's own.
    """
    lines = "\n".join(f"    {line}" for line in code.splitlines())
    found = (client or host.client).request("artifact.list", {"tenant": tenant, _KEY: lines})
    assert isinstance(found, dict), found
    return found
