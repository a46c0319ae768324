"""CSV text to a frame. A cell is read as what it says, or refused with its column and row.

pandas' own reader makes an index of the first cells where rows are longer than their header, reads
integers as floats where a cell is missing, and narrows floats to infinity and zero. Here every row fits
its header, and each column is decoded as one that comes with its dtype is.
"""

from __future__ import annotations

import csv
import io
import re
from typing import Any

import pandas as pd
from frame_bounds import MAX_BYTES, MAX_ROWS, check_shape
from frame_columns import FLOATS, INTEGERS, NUMPY, checked_dtype, decode_column, shown
from frame_wire import inferred_dtype

from bridgehold_sdk import InvalidInput

MISSING = frozenset(
    {"", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>"}
    | {"N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"}
)
"""What pandas takes for a missing cell, where the caller doesn't say."""
_BOOLS = {"True": True, "TRUE": True, "true": True, "False": False, "FALSE": False, "false": False}
_INTEGER = re.compile(r"[+-]?[0-9]{1,4000}")
_FLOAT = re.compile(r"[+-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|inf|infinity)", re.IGNORECASE)

Texts = list[Any]
"""A column's cells: text, or None where it is missing."""


def from_csv(text: str, options: dict[str, Any]) -> tuple[Any, bool]:
    """A frame of CSV text, and whether rows beyond `max_rows` were left out."""
    dtypes = dict(options.get("dtypes") or {})
    for name, dtype in dtypes.items():
        checked_dtype(dtype, f"dtypes.{name}"[:120])
    if any(dtype.startswith(("datetime64", "timedelta64", "period")) for dtype in dtypes.values()):
        raise InvalidInput("datetimes in CSV text: name their columns in dates")
    wanted = min(int(options.get("max_rows") or MAX_ROWS), MAX_ROWS)
    names, rows, truncated = _read(text, options, wanted)
    check_shape(len(rows), len(names), "the frame")
    dates = set(options.get("dates") or [])
    if unknown := (dates | set(dtypes)) - {str(name) for name in names}:
        raise InvalidInput(f"the CSV text has no column {min(unknown)[:100]!r}")
    missing = frozenset(options.get("missing") or MISSING)
    decimal = options.get("decimal", ".")
    made: dict[Any, Any] = {}
    for at, name in enumerate(names):
        cells: Texts = [None if at >= len(row) or row[at] in missing else row[at] for row in rows]
        where = f"column {name!r}"[:120]
        if str(name) in dates:
            made[name] = _dates(cells, where)
        else:
            made[name] = _column(cells, dtypes.get(str(name), ""), decimal, where)
    frame = pd.DataFrame(made, index=pd.RangeIndex(len(rows)))
    frame.columns = pd.Index(names, dtype="str" if options.get("header", True) else "int64")
    return frame, truncated


def _read(text: str, options: dict[str, Any], wanted: int) -> tuple[list[Any], list[list[str]], bool]:
    """Column names, at most `wanted` rows, and whether more follow."""
    csv.field_size_limit(MAX_BYTES)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=options.get("separator", ","), strict=True)
    names: list[Any] | None = None
    rows: list[list[str]] = []
    try:
        for row in reader:
            if not row:  # a blank line
                continue
            if names is None:
                header = options.get("header", True)
                names = _names(row) if header else list(range(len(row)))
                if header:
                    continue
            if len(row) > len(names):
                raise InvalidInput(
                    f"the CSV text, row {len(rows)} (line {reader.line_num}): {len(row)} cells, and the "
                    f"{'header' if options.get('header', True) else 'first row'} has {len(names)}; "
                    f"the first that is too many: {shown(row[len(names)])}"
                )
            if len(rows) == wanted:
                return names, rows, True
            rows.append(row)
    except (csv.Error, ValueError) as error:
        raise InvalidInput(
            f"the CSV text can't be read: line {reader.line_num}: {str(error)[:300]}"
        ) from error
    if names is None:
        raise InvalidInput("the CSV text can't be read: it has no line")
    return names, rows, False


def _names(header: list[str]) -> list[Any]:
    """Names as pandas gives them: ``a``, ``a.1`` for one that stands twice, ``Unnamed: 2`` for none."""
    found: dict[str, None] = {}
    for at, text in enumerate(header):
        plain = name = text or f"Unnamed: {at}"
        number = 0
        while name in found or (number and name in header):
            number += 1
            name = f"{plain}.{number}"
        found[name] = None
    return list(found)


def _column(cells: Texts, dtype: str, decimal: str, where: str) -> Any:
    if dtype in {"str", "string", "object"}:
        return decode_column({"name": None, "dtype": dtype, "values": cells}, where)
    if dtype == "category":
        values = sorted({cell for cell in cells if cell is not None})
        categories = {"dtype": "str", "values": values}
        column = {"name": None, "dtype": dtype, "values": cells, "categories": categories}
        return decode_column(column, where)
    if not dtype:
        return _inferred(cells, decimal, where)
    values = [
        None if cell is None else _typed(cell, dtype, decimal, f"{where}[{row}]")
        for row, cell in enumerate(cells)
    ]
    return decode_column({"name": None, "dtype": dtype, "values": values}, where)


def _typed(text: str, dtype: str, decimal: str, where: str) -> Any:
    """One cell of a column whose dtype is given."""
    text = text.strip()
    found: Any = None
    if dtype in {"bool", "boolean"}:
        found = _BOOLS.get(text)
    elif dtype in NUMPY or dtype in INTEGERS:
        found = int(text) if _INTEGER.fullmatch(text) else None
    elif dtype in FLOATS or dtype in {"Float32", "Float64"}:
        found = _number(text, decimal)
    if found is None:
        raise InvalidInput(f"{where}: no {dtype}: {shown(text)}")
    return _wire(found)


def _inferred(cells: Texts, decimal: str, where: str) -> Any:
    """The first of integers, floats, booleans and texts that holds every cell as it is."""
    there = [cell.strip() for cell in cells if cell is not None]
    if not there:
        return decode_column({"name": None, "dtype": "float64", "values": cells}, where)
    read = {text: _BOOLS.get(text) for text in set(there)}
    if any(value is None for value in read.values()):
        read = {text: _number(text, decimal) for text in read}
    values = [None if cell is None else read[cell.strip()] for cell in cells]
    if any(value is None for value in read.values()):
        return decode_column({"name": None, "dtype": "str", "values": cells}, where)
    dtype = inferred_dtype(values)
    if dtype == "object" or any(type(value) is int and not -(2**63) <= value < 2**64 for value in values):
        return decode_column({"name": None, "dtype": "str", "values": cells}, where)
    kept = "float64" if dtype == "Float64" else dtype  # a float has a missing value of its own
    return decode_column({"name": None, "dtype": kept, "values": [_wire(value) for value in values]}, where)


def _number(text: str, decimal: str) -> Any:
    """The integer or float that `text` says; None where it says none, or one that a float can't hold."""
    if _INTEGER.fullmatch(text):
        return int(text)
    plain = text if decimal == "." else None if "." in text else text.replace(decimal, ".", 1)
    if plain is None or not _FLOAT.fullmatch(plain):
        return None
    value = float(plain)
    if value in {float("inf"), float("-inf")} and "inf" not in plain.lower():
        return None
    if value == 0 and re.search(r"[1-9]", re.split("[eE]", plain)[0]):
        return None
    return value


def _wire(value: Any) -> Any:
    """Infinity as `decode_cell` takes it."""
    if isinstance(value, float) and value in {float("inf"), float("-inf")}:
        return {"$": "inf" if value > 0 else "-inf"}
    return value


def _dates(cells: Texts, where: str) -> Any:
    try:
        made = pd.to_datetime(pd.Series(cells, dtype=object))
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidInput(f"{where}: not every cell is a datetime: {str(error)[:200]}") from error
    if not str(made.dtype).startswith("datetime64"):
        raise InvalidInput(f"{where}: not every cell is a datetime")
    return made
