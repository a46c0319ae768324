"""The python bridge with libraries that draw, for tests of forms; set-up builds its environment.

python tests/pictures.py FOLDER     lays it down in a folder of bridges
"""

from __future__ import annotations

import sys
from pathlib import Path

NAME = "pictures"
POLICY = """
extends = "baseline"
[limits]
memory = "1GiB"
startup = "60s"
[operations]
allow = ["pictures:*"]
[sandbox]
start = "{start}"
"""
_TESTS = Path(__file__).parent
_PYTHON = _TESTS.parent / "src/bridgehold/bridges/shipped/python"
_PRELOADED = '"matplotlib.font_manager"'
_LOCKED = 'requirements = "requirements.in"\nlock = "requirements.lock"\n'


def lay(bridges: Path) -> None:
    """Write the bridge's folder."""
    folder = bridges / NAME
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    for file in _PYTHON.glob("*.py"):
        text = file.read_text()
        (folder / file.name).write_text(text.replace('    name = "python"\n', f'    name = "{NAME}"\n'))
    manifest = (_PYTHON / "bridge.toml").read_text()
    manifest = manifest.replace('name = "python"\n', f'name = "{NAME}"\n{_LOCKED}', 1)
    (folder / "bridge.toml").write_text(manifest.replace("modules = [", f"modules = [{_PRELOADED}, ", 1))
    for name in ("requirements.in", "requirements.lock"):
        (folder / name).write_text((_TESTS / "environments" / NAME / name).read_text())


if __name__ == "__main__":
    lay(Path(sys.argv[1]))
