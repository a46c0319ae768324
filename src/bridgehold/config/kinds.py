"""Texts and numbers of ``config.toml`` that have one form."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationInfo

Size = Annotated[str, Field(pattern=r"^[0-9]{1,15}(\.[0-9]{1,15})? ?(B|KiB|MiB|GiB|TiB)$")]
Uid = Annotated[int, Field(strict=True, ge=0, lt=2**32 - 1)]
_NAME = r"[a-z][a-z0-9_-]{0,62}"
Name = Annotated[str, Field(pattern=f"^{_NAME}$")]
NameOrAll = Annotated[str, Field(pattern=rf"^({_NAME}|\*)$")]
NameOrNone = Annotated[str, Field(pattern=f"^({_NAME})?$")]
Folder = Annotated[str, Field(pattern=r"^/")]


def as_it_is(cls: type[BaseModel], value: Any, info: ValidationInfo) -> Any:
    """`value`, unless it is a text or a flag for a number, or no flag for one. Raises `ValueError`.

    Pydantic takes ``"1_0"`` and ``true`` for numbers, and ``"on"`` and 1 for true.
    """
    kind = cls.model_fields[info.field_name or ""].annotation
    if kind in (int, float) and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise ValueError("a number is expected")
    if kind is bool and not isinstance(value, bool):
        raise ValueError("true or false is expected")
    return value
