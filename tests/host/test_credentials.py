"""systemd's credentials reach the keeper's own uid, and nobody else."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from bridgehold.config.layout import find_layout
from bridgehold.config.load import load_config
from bridgehold.supervisor import plans
from bridgehold.supervisor.folders import hand_over_credentials, prepare_folders


def test_credentials_are_the_keepers_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = find_layout({"BRIDGEHOLD_HOME": str(tmp_path / "home")}, os.getuid())
    given = tmp_path / "given"
    given.mkdir()
    (given / "openai").write_bytes(b"not-a-key")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(given))
    prepare_folders(layout, load_config(layout.config_file))
    folder = Path(hand_over_credentials(layout))
    facts = (folder / "openai").stat()
    if os.getuid() == 0:
        keeper = plans.roles(load_config(layout.config_file)).keeper
        assert (facts.st_uid, stat.S_IMODE(facts.st_mode)) == (keeper, 0o400)
        assert (folder.stat().st_uid, stat.S_IMODE(folder.stat().st_mode)) == (keeper, 0o700)
    else:
        assert folder == given


def test_without_credentials_there_is_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    layout = find_layout({"BRIDGEHOLD_HOME": str(tmp_path)}, os.getuid())
    assert hand_over_credentials(layout) == ""
    assert not (layout.run / "credentials").exists()
