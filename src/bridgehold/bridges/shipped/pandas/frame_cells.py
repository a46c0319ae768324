"""One cell each way. What JSON can't hold is an object with the key ``$``, so that nothing is guessed.

``null`` is `None`. NaN, `pandas.NA` and `NaT` are three other things, and stay three.
"""

from __future__ import annotations

import base64
import datetime
import decimal
import math
import re
from typing import Any, Callable

import numpy as np
import pandas as pd

from bridgehold_sdk import InvalidInput

TAG = "$"
_MIN_INTEGER = -(2**63)
_MAX_INTEGER = 2**64 - 1
_SINGLE: dict[str, Any] = {
    "nan": math.nan,
    "inf": math.inf,
    "-inf": -math.inf,
    "NA": pd.NA,
    "NaT": pd.NaT,
}


def encode_cell(value: Any) -> Any:  # noqa: PLR0911 - one for each kind
    """`value` as the wire carries it. Raises `InvalidInput` for what no cell may hold."""
    if value is None or isinstance(value, (str, bool)):
        return value
    if value is pd.NA:
        return {TAG: "NA"}
    if value is pd.NaT:
        return {TAG: "NaT"}
    if isinstance(value, (np.bool_, np.integer, np.floating)):
        value = value.item()
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        if _MIN_INTEGER <= value <= _MAX_INTEGER:
            return value
        return {TAG: "int", "value": str(value)}
    if isinstance(value, float):
        return encode_float(value)
    if isinstance(value, bytes):
        return {TAG: "bytes", "value": base64.b64encode(value).decode("ascii")}
    return _encode_other(value)


def encode_float(value: float) -> Any:
    """A finite number as it is; the three that JSON lacks, tagged."""
    if math.isfinite(value):
        return value
    return {TAG: "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"}


def decode_cell(cell: Any, where: str) -> Any:
    """The value of a cell. Lists and untagged objects are refused: a cell is one value."""
    if isinstance(cell, list):
        raise InvalidInput(f"{where}: a cell is one value, not a list")
    if not isinstance(cell, dict):
        return cell
    tag = cell.get(TAG)
    if len(cell) == 1 and isinstance(tag, str) and tag in _SINGLE:
        return _SINGLE[tag]
    reader = _READERS.get(tag) if isinstance(tag, str) else None
    if reader is None or set(cell) != {TAG, "value"} or not isinstance(cell["value"], str):
        known = ", ".join([*_SINGLE, *_READERS])
        raise InvalidInput(f"{where}: an object in a cell is {{'$': KIND}} with a value; kinds: {known}")
    try:
        return reader(cell["value"])
    except (ValueError, ArithmeticError) as error:
        raise InvalidInput(f"{where}: no {tag}: {str(error)[:200]}") from error


def tag_of(cell: Any) -> str:
    """``nan`` for a tagged NaN; empty for what is not tagged."""
    return str(cell.get(TAG, "")) if isinstance(cell, dict) and len(cell) == 1 else ""


def missing_kind(value: Any) -> str:
    """``None``, ``NA``, ``NaT`` or ``nan``, kept apart; empty where there is a value."""
    if value is None:
        return "None"
    if value is pd.NA:
        return "NA"
    if value is pd.NaT:
        return "NaT"
    if isinstance(value, (float, np.floating)) and math.isnan(value):
        return "nan"
    return ""


def _encode_other(value: Any) -> Any:
    if isinstance(value, (pd.Timedelta, np.timedelta64, datetime.timedelta)):
        return {TAG: "timedelta", "value": pd.Timedelta(value).isoformat()}
    if isinstance(value, pd.Timestamp):
        return {TAG: "datetime", "value": value.isoformat()}
    if isinstance(value, datetime.datetime):
        return {TAG: "datetime", "value": pd.Timestamp(value).isoformat()}
    if isinstance(value, datetime.date):
        return {TAG: "date", "value": value.isoformat()}
    if isinstance(value, pd.Period):
        return {TAG: "period", "value": str(value)}
    if isinstance(value, decimal.Decimal):
        return {TAG: "decimal", "value": str(value)}
    raise InvalidInput(f"a cell holds {type(value).__name__}, which can't be carried; cast its column first")


def _integer(text: str) -> int:
    if not re.fullmatch(r"-?[0-9]{1,4000}", text):
        raise ValueError("not of digits, 4000 at most")
    return int(text)


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


_READERS: dict[str, Callable[[str], Any]] = {
    "int": _integer,
    "bytes": _bytes,
    "decimal": decimal.Decimal,
    "datetime": pd.Timestamp,
    "date": datetime.date.fromisoformat,
    "timedelta": pd.Timedelta,
}
