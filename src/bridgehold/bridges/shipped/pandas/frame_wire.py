"""A frame each way: columns with dtypes, and records. (`frame_csv` reads CSV text.)"""

from __future__ import annotations

import json
from typing import Any

import pandas as pd
from frame_bounds import check_shape
from frame_cells import encode_cell, tag_of
from frame_columns import decode_column, encode_column, exact_in_float

from bridgehold_sdk import InvalidInput


def encode_frame(frame: Any) -> dict[str, Any]:
    """``{"rows", "columns": […], "index": …}``; `decode_frame` makes an equal frame of it."""
    columns = [encode_column(frame.iloc[:, at], plain_name(name)) for at, name in enumerate(frame.columns)]
    return {"rows": len(frame), "columns": columns, "index": encode_index(frame.index)}


def encode_index(index: Any) -> dict[str, Any]:
    """A range by its three numbers, everything else by a column for each level."""
    if isinstance(index, pd.RangeIndex):
        kept = {"start": index.start, "stop": index.stop, "step": index.step}
        return {"range": kept, "name": plain_name(index.name)}
    levels = [index.get_level_values(level) for level in range(index.nlevels)]
    return {
        "columns": [
            encode_column(pd.Series(level, dtype=level.dtype), plain_name(level.name)) for level in levels
        ]
    }


def plain_name(name: Any) -> Any:
    """A column's name: text, an integer, or null."""
    if name is None or isinstance(name, str):
        return name
    if hasattr(name, "item"):
        name = name.item()
    if isinstance(name, bool) or not isinstance(name, int):
        raise InvalidInput(f"a column's name is text or an integer, not {type(name).__name__}")
    return name


def decode_frame(columns: list[dict[str, Any]], index: dict[str, Any] | None) -> Any:
    """The frame of ``columns`` and ``index`` as `encode_frame` gives them."""
    if not columns and index is None:
        return pd.DataFrame()
    names = [column["name"] for column in columns]
    if len({(type(name), name) for name in names}) != len(names):
        raise InvalidInput("two columns have the same name")
    lengths = {len(column["values"]) for column in columns}
    if len(lengths) > 1:
        raise InvalidInput(
            f"columns have {', '.join(map(str, sorted(lengths)))} values; they are equally long"
        )
    rows = lengths.pop() if lengths else _index_length(index or {})
    check_shape(rows, len(columns), "the frame")
    series = [decode_column(column, f"column {column['name']!r}"[:120]) for column in columns]
    made = decode_index(index, rows) if index is not None else pd.RangeIndex(rows)
    frame = pd.DataFrame(dict(enumerate(series)), index=pd.RangeIndex(rows))
    frame.columns = pd.Index(names, dtype=_names_dtype(names))
    frame.index = made
    return frame


def decode_index(index: dict[str, Any], rows: int) -> Any:
    """The index that the wire describes, for `rows` rows. Raises `InvalidInput`."""
    if "range" in index:
        kept = index["range"]
        if kept["step"] == 0:
            raise InvalidInput("index.range.step: not 0")
        made = pd.RangeIndex(kept["start"], kept["stop"], kept["step"], name=index.get("name"))
        if len(made) != rows:
            raise InvalidInput(f"the index has {len(made)} places, the columns {rows}")
        return made
    levels = index.get("columns") or []
    if not levels:
        raise InvalidInput("an index has a range, or columns")
    if any(len(level["values"]) != rows for level in levels):
        raise InvalidInput(f"the index has {len(levels[0]['values'])} places, the columns {rows}")
    try:
        made = [_level(level, f"index {number}") for number, level in enumerate(levels)]
    except NotImplementedError as error:
        raise InvalidInput(f"index: {str(error)[:200]}") from error
    if len(made) == 1:
        return made[0]
    joined = pd.MultiIndex.from_arrays(made)
    for number, level in enumerate(made):
        # pandas keeps one kind of missing for all, and takes True for 1.
        kept = joined.get_level_values(number)
        if _spelled(kept) != _spelled(level):
            raise InvalidInput(
                f"index {number}: several levels can't tell these cells apart; make it a column"
            )
    return joined


def _spelled(index: Any) -> str:
    return json.dumps(encode_column(pd.Series(index, dtype=index.dtype), None))


def _level(level: dict[str, Any], where: str) -> Any:
    values = decode_column(level, where)
    return pd.Index(values, dtype=values.dtype, name=level["name"])


def from_records(records: list[dict[str, Any]], dtypes: dict[str, str]) -> tuple[Any, dict[str, int]]:
    """A frame of records, and of each column how many records lack it. No dtype given: inferred.

    A record without a column's key has a missing value there, of the kind that the dtype has.
    """
    names = list(dict.fromkeys(name for record in records for name in record))
    names += [name for name in dtypes if name not in names]
    check_shape(len(records), len(names), "the frame")
    absent = {name: sum(name not in record for record in records) for name in names}
    made: dict[str, Any] = {}
    for name in names:
        cells = [record.get(name) for record in records]
        where = f"column {name!r}"[:120]
        dtype = dtypes.get(name) or inferred_dtype(cells)
        made[name] = decode_column({"name": name, "dtype": dtype, "values": cells}, where)
    frame = pd.DataFrame(made, index=pd.RangeIndex(len(records)))
    frame.columns = pd.Index(names, dtype="str")
    return frame, {name: count for name, count in absent.items() if count}


def inferred_dtype(cells: list[Any]) -> str:
    """The dtype that holds these cells as they are; with a null, one that has a missing value of its own."""
    kinds = {_kind(cell) for cell in cells}
    null = "null" in kinds
    kinds.discard("null")
    if kinds == {"bool"}:
        return "boolean" if null else "bool"
    if kinds == {"int"}:
        numbers = [cell for cell in cells if cell is not None]
        wide = "UInt64" if min(numbers) >= 0 and max(numbers) >= 2**63 else "Int64"
        if min(numbers) < 0 and max(numbers) >= 2**63:
            return "object"
        return wide if null else wide.lower()
    if kinds in ({"float"}, {"float", "int"}):
        exact = all(type(cell) is not int or exact_in_float(cell) for cell in cells)
        return "object" if not exact else "Float64" if null else "float64"
    return "str" if kinds == {"str"} else "object"


def _kind(cell: Any) -> str:
    if cell is None:
        return "null"
    if isinstance(cell, dict):
        return "float" if tag_of(cell) in {"nan", "inf", "-inf"} else "object"
    return type(cell).__name__


def to_records(frame: Any) -> list[dict[str, Any]]:
    """Rows as objects, for reading: the same cells, without dtypes and index."""
    names = [str(name) for name in frame.columns]
    if len(set(names)) != len(names):
        raise InvalidInput("two columns' names read alike as text; ask for columns instead of records")
    cells = [encode_cells(frame.iloc[:, at]) for at in range(len(names))]
    return [dict(zip(names, row, strict=True)) for row in zip(*cells, strict=True)]


def encode_cells(series: Any) -> list[Any]:
    """Cells of any dtype, each readable by itself: what is missing is tagged with its kind."""
    return [
        int(value) if str(series.dtype).startswith(("int", "uint")) else encode_cell(value)
        for value in series
    ]


def json_bytes(value: Any) -> int:
    """What `value` takes on the wire."""
    return len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8"))


def _index_length(index: dict[str, Any]) -> int:
    levels = index.get("columns") or []
    if levels:
        return len(levels[0]["values"])
    kept = index.get("range") or {"start": 0, "stop": 0, "step": 1}
    return len(range(kept["start"], kept["stop"], kept["step"] or 1))


def _names_dtype(names: list[Any]) -> Any:
    """Names of one kind have its dtype; mixed ones stay what they are."""
    kinds = {type(name) for name in names}
    return "str" if kinds == {str} else "int64" if kinds == {int} else object
