"""A folder with an encrypted file is made once, and copied for each test."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bridgehold.keeper.admin import SecretAdmin

sys.path.insert(0, str(Path(__file__).parent.parent / "gateway"))  # for `gateway_support`

ACME = "sk-file-acme-0123456789abcdef"


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("secrets") / "secrets"
    SecretAdmin.open_file(folder).set("acme", "openai", ACME.encode() + b"\n")
    return folder


@pytest.fixture
def secrets_folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "secrets", copy_function=shutil.copy2))


@pytest.fixture
def acme_key() -> str:
    return ACME


@pytest.fixture
def admin(secrets_folder: Path) -> Callable[[], SecretAdmin]:
    return lambda: SecretAdmin.open_file(secrets_folder)
