"""Data sets: records with a text each, and a label where something is to be told apart."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from hf_bounds import MAX_RECORDS

from bridgehold_sdk import InvalidInput


@dataclass(eq=False, repr=False)
class Data:
    """Records, in their order."""

    records: list[dict[str, Any]]
    created: float = field(default_factory=time.time)

    @property
    def fields(self) -> dict[str, str]:
        """Of each field the kind of its values."""
        found: dict[str, set[str]] = {}
        for record in self.records:
            for name, value in record.items():
                found.setdefault(name, set()).add(type(value).__name__)
        return {name: "|".join(sorted(kinds)) for name, kinds in found.items()}

    def texts(self, name: str) -> list[str]:
        """The field `name` of every record. Raises `InvalidInput` where one has no text there."""
        values = [record.get(name) for record in self.records]
        for row, value in enumerate(values):
            if not isinstance(value, str) or not value:
                raise InvalidInput(f"record {row}: {name[:100]!r} is a text")
        return [str(value) for value in values]

    def labels(self, name: str, known: dict[str, int], count: int) -> list[int]:
        """Numbers of classes, by the model's own names or as they are."""
        found = []
        for row, record in enumerate(self.records):
            value = record.get(name)
            number = known.get(value) if isinstance(value, str) else value
            if type(number) is not int or not 0 <= number < count:
                names = ", ".join(known)[:200]
                raise InvalidInput(
                    f"record {row}: {name[:100]!r} is none of the classes 0 … {count - 1} ({names})"
                )
            found.append(number)
        return found


def create(records: list[dict[str, Any]]) -> Data:
    """Records that are checked and kept. Raises `InvalidInput`."""
    if not records or len(records) > MAX_RECORDS:
        raise InvalidInput(f"a data set has 1 to {MAX_RECORDS} records")
    for row, record in enumerate(records):
        for name, value in record.items():
            if not isinstance(value, (str, int, float, bool, type(None))):
                raise InvalidInput(f"record {row}: {name[:100]!r} is text, a number, a boolean or null")
    return Data(records)
