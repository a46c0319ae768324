"""How much a session's models, texts and weights may take. More is refused before it is made."""

from __future__ import annotations

from bridgehold_sdk import InvalidInput

MAX_MODEL_BYTES = 1 << 30
"""Of one model's weights; training needs four times as much for a while."""
MAX_SESSION_BYTES = 2 << 30
MAX_KEPT = 100
MAX_TEXT_CHARACTERS = 1_000_000
"""Of one request's texts together."""
MAX_RECORDS = 100_000
MAX_TOKENS = 8_192
"""Of one text, prompt and answer together."""
MAX_STEPS = 100_000
MAX_VALUES = 500_000
"""Numbers in one answer."""


def check_model_bytes(size: int, held: int) -> None:
    """Raise `InvalidInput` where a model of `size` bytes has no room beside what is `held`."""
    if size > MAX_MODEL_BYTES:
        raise InvalidInput(f"the model's weights take {size} bytes; one takes at most {MAX_MODEL_BYTES}")
    if held + size > MAX_SESSION_BYTES:
        raise InvalidInput(
            f"the model's weights take {size} bytes beside the {held} of this session; together "
            f"{MAX_SESSION_BYTES} are the most: delete some"
        )


def check_texts(texts: list[str]) -> None:
    """Raise `InvalidInput` for more texts, or longer ones, than one command may have."""
    total = sum(map(len, texts))
    if total > MAX_TEXT_CHARACTERS:
        raise InvalidInput(f"{total} characters given; one request takes at most {MAX_TEXT_CHARACTERS}")
