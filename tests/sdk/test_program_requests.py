"""What a caller sets for a program: names of keys are refused, as they are really written."""

from __future__ import annotations

import pytest

from bridgehold_sdk.errors import InvalidInput
from bridgehold_sdk.program_requests import checked_environment

KEYS = "API_KEY OPENAI_APIKEY KEY1 API_KEY_2 HF_TOKEN AWS_SECRET_ACCESS_KEY PGPASSWORD MYSQL_PWD GH_PAT passwd myApiKey"
PLAIN = "PWD OLDPWD PATH PYTHONPATH KEYBOARD AUTHOR TOKENIZERS_PARALLELISM PATTERN DB_PATH"


@pytest.mark.parametrize("name", KEYS.split())
def test_a_name_of_a_key_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match="looks like a key's name"):
        checked_environment({name: "value"})


def test_what_only_sounds_like_one_is_taken() -> None:
    assert list(checked_environment(dict.fromkeys(PLAIN.split(), "x"))) == PLAIN.split()
