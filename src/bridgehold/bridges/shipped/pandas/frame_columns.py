"""A column each way: name, dtype and cells, exactly; what the dtype can't hold is refused, not bent."""

from __future__ import annotations

import math
from typing import Any, Callable

import numpy as np
import pandas as pd
from frame_cells import decode_cell, encode_cell, encode_float, missing_kind, tag_of

from bridgehold_sdk import InvalidInput

NUMPY = frozenset(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64))
FLOATS = frozenset({"float16", "float32", "float64"})
INTEGERS = frozenset(name.replace("int", "Int").replace("uInt", "UInt") for name in NUMPY)
KNOWN = (
    "bool, int8 … uint64, float16 … float64, boolean, Int8 … UInt64, Float32, Float64, str, string, object, "
    "category, datetime64[unit], datetime64[unit, zone], timedelta64[unit], period[frequency]"
)

Cells = list[Any]


def encode_column(series: Any, name: Any) -> dict[str, Any]:
    """``{"name", "dtype", "values"}``, for categories ``categories`` and ``ordered`` too.

    In `values`, null is what the dtype itself calls missing (``null`` in the answer says which).
    """
    dtype = str(series.dtype)
    column: dict[str, Any] = {"name": name, "dtype": dtype}
    if isinstance(series.dtype, pd.CategoricalDtype):
        listed = series.dtype.categories
        categories = encode_column(pd.Series(listed, dtype=listed.dtype), None)
        column["categories"] = {key: categories[key] for key in ("dtype", "values")}
        column["ordered"] = bool(series.dtype.ordered)
        labels = [*categories["values"], None]
        column["values"] = [labels[code] for code in series.array.codes.tolist()]
    else:
        column["values"] = _encode_values(series, dtype)
    column["null"] = null_of(dtype)
    return column


def decode_column(column: dict[str, Any], where: str) -> Any:
    """The series of a column. Raises `InvalidInput` with the column and row of what doesn't fit."""
    dtype, values = column["dtype"], column["values"]
    if dtype == "category":
        return _decode_category(column, where)
    made = _decode_values(values, dtype, where)
    return pd.Series(made, dtype=made.dtype)  # said, or objects that are all texts would become `str`


def null_of(dtype: str) -> str:
    """What null stands for in a column of this dtype: ``nan``, ``NA``, ``NaT``, ``None``; else ``""``."""
    if dtype in FLOATS or dtype in {"str", "category"}:
        return "nan"
    if dtype in INTEGERS or dtype in {"boolean", "Float32", "Float64", "string"}:
        return "NA"
    if dtype.startswith(("datetime64", "timedelta64", "period")):
        return "NaT"
    return "None" if dtype == "object" else ""


def count_missing(series: Any) -> dict[str, int]:
    """How many cells are missing, by the kind of missing."""
    dtype = str(series.dtype)
    if dtype == "object":
        found: dict[str, int] = {}
        for value in series:
            kind = missing_kind(value)
            if kind:
                found[kind] = found.get(kind, 0) + 1
        return found
    if dtype in {"Float32", "Float64"}:  # both can be there, and pandas counts one of them only
        kinds = [missing_kind(value) for value in series]
        return {kind: kinds.count(kind) for kind in ("nan", "NA") if kind in kinds}
    count = int(series.isna().sum())
    return {null_of(dtype): count} if count else {}


def checked_dtype(dtype: str, where: str) -> Any:
    """pandas' dtype of this name, if it is one that is carried."""
    if dtype in {"interval", "Sparse"} or "pyarrow" in dtype:
        raise InvalidInput(f"{where}: dtype {dtype[:80]!r} is not carried; these are: {KNOWN}")
    try:
        made = pd.api.types.pandas_dtype(dtype)
    except (TypeError, ValueError, KeyError) as error:
        raise InvalidInput(f"{where}: dtype {dtype[:80]!r} is none of {KNOWN}") from error
    if str(made) != dtype:
        raise InvalidInput(f"{where}: write dtype {dtype[:80]!r} as {str(made)!r}")
    return made


def _encode_values(series: Any, dtype: str) -> Cells:  # noqa: PLR0911 - one for each kind
    missing = series.isna().tolist()
    if dtype == "bool" or dtype in NUMPY:
        return list(series.tolist())
    if dtype in FLOATS:
        return [value if math.isfinite(value) else _float_cell(value) for value in series.tolist()]
    if dtype in {"Float32", "Float64"}:
        return [None if value is pd.NA else encode_float(float(value)) for value in series]
    if dtype in INTEGERS or dtype == "boolean":
        kind = bool if dtype == "boolean" else int
        return [None if gone else kind(value) for value, gone in zip(series, missing, strict=True)]
    if dtype in {"str", "string"}:
        return [None if gone else str(value) for value, gone in zip(series, missing, strict=True)]
    if dtype == "object":
        return [encode_cell(value) for value in series]
    if dtype.startswith("timedelta64"):
        numbers = series.to_numpy().view("i8").tolist()
        return [None if gone else number for number, gone in zip(numbers, missing, strict=True)]
    if dtype.startswith("datetime64"):
        return [None if gone else value.isoformat() for value, gone in zip(series, missing, strict=True)]
    if dtype.startswith("period"):
        return [None if gone else str(value) for value, gone in zip(series, missing, strict=True)]
    raise InvalidInput(f"a column of dtype {dtype} can't be carried; these can: {KNOWN}")


def _float_cell(value: float) -> Any:
    return None if math.isnan(value) else encode_float(value)


def _decode_category(column: dict[str, Any], where: str) -> Any:
    given = column.get("categories")
    if not isinstance(given, dict) or not isinstance(given.get("values"), list):
        raise InvalidInput(f"{where}: a category column has categories: {{dtype, values}}")
    if given.get("dtype") == "category":
        raise InvalidInput(f"{where}: categories are not categorical themselves")
    listed = _decode_values(given["values"], given.get("dtype", "str"), f"{where}.categories")
    categories = pd.Index(listed, dtype=listed.dtype)
    if categories.hasnans or not categories.is_unique:
        raise InvalidInput(f"{where}: categories are there, and each once")
    codes = {_key(cell): code for code, cell in enumerate(given["values"])}
    found = []
    for row, cell in enumerate(column["values"]):
        code = -1 if cell is None or tag_of(cell) == "nan" else codes.get(_key(cell))
        if code is None:
            raise InvalidInput(f"{where}[{row}]: not one of the categories: {shown(cell)}")
        found.append(code)
    dtype = pd.CategoricalDtype(categories, ordered=bool(column.get("ordered", False)))
    return pd.Series(pd.Categorical.from_codes(np.array(found, dtype="int64"), dtype=dtype))


def _key(cell: Any) -> tuple[str, str]:
    """1, 1.0 and True are three categories."""
    return type(cell).__name__, repr(cell)


def _decode_values(values: Cells, dtype: str, where: str) -> Any:
    """An array of `dtype`."""
    checked_dtype(dtype, where)
    for test, decode in _DECODERS:
        if test(dtype):
            return decode(values, dtype, where)
    raise InvalidInput(f"{where}: dtype {dtype[:80]!r} is not carried; these are: {KNOWN}")


def _exact(
    values: Cells, kind: type, what: str, where: str, *, missing: str = ""
) -> tuple[Cells, list[bool]]:
    """Values of exactly `kind` (True is no integer) and where they are missing."""
    gone = [cell is None or (bool(missing) and tag_of(cell) == missing) for cell in values]
    for row, (cell, absent) in enumerate(zip(values, gone, strict=True)):
        if absent and not missing:
            raise InvalidInput(f"{where}[{row}]: this dtype has no missing values; take a nullable one")
        if not absent and type(cell) is not kind:
            raise InvalidInput(f"{where}[{row}]: {what} expected, {type(cell).__name__} given: {shown(cell)}")
    return values, gone


def _plain(values: Cells, dtype: str, where: str) -> Any:
    exact, _ = _exact(values, bool if dtype == "bool" else int, "a " + dtype, where)
    return _array(exact, dtype, where)


def _nullable(values: Cells, dtype: str, where: str) -> Any:
    kind = bool if dtype == "boolean" else int
    exact, gone = _exact(values, kind, "a " + dtype, where, missing="NA")
    filled = [kind(0) if absent else cell for cell, absent in zip(exact, gone, strict=True)]
    plain = _array(filled, "bool" if kind is bool else dtype.lower(), where)
    maker = pd.arrays.BooleanArray if kind is bool else pd.arrays.IntegerArray
    return maker(plain, np.array(gone, dtype=bool))


def _array(values: Cells, dtype: str, where: str) -> Any:
    try:
        return np.array(values, dtype=dtype)
    except OverflowError as error:
        held = np.iinfo(dtype)
        row, cell = next((at, one) for at, one in enumerate(values) if not held.min <= one <= held.max)
        raise InvalidInput(f"{where}[{row}]: a number is beyond {dtype}: {shown(cell)}") from error


def _float(values: Cells, dtype: str, where: str) -> Any:
    wide = np.array([_one_float(cell, f"{where}[{row}]") for row, cell in enumerate(values)], dtype="float64")
    return narrowed(wide, dtype, where)


def narrowed(wide: Any, dtype: str, where: str) -> Any:
    """Doubles as `dtype`, each to its nearest. Raises `InvalidInput` where that would be infinity, zero, or
    a number that the format's smallest ones can't tell from others."""
    with np.errstate(over="ignore", under="ignore"):
        made = wide.astype(dtype)
    if made.dtype != wide.dtype:
        with np.errstate(invalid="ignore", over="ignore"):
            off = np.abs(made.astype("float64") - wide) > np.abs(wide) * float(np.finfo(dtype).epsneg)
        bent = np.flatnonzero(np.isfinite(wide) & (off | ~np.isfinite(made)))
        if len(bent):
            row = int(bent[0])
            raise InvalidInput(
                f"{where}[{row}]: {dtype} would hold {made[row]} in place of {shown(wide[row].item())}"
            )
    return made


def shown(cell: Any) -> str:
    """A cell as a message shows it."""
    return repr(cell)[:60]


def _nullable_float(values: Cells, dtype: str, where: str) -> Any:
    gone = [cell is None or tag_of(cell) == "NA" for cell in values]
    filled = [0.0 if absent else cell for cell, absent in zip(values, gone, strict=True)]
    return pd.arrays.FloatingArray(_float(filled, dtype.lower(), where), np.array(gone, dtype=bool))


def _one_float(cell: Any, where: str) -> float:
    if cell is None:
        return math.nan
    value = decode_cell(cell, where)
    if type(value) not in {int, float} or (type(value) is int and not exact_in_float(value)):
        raise InvalidInput(f"{where}: a number that a float holds exactly is expected: {shown(value)}")
    return float(value)


def exact_in_float(value: int) -> bool:
    """Whether a double holds this integer."""
    try:
        return int(float(value)) == value
    except OverflowError:
        return False


def _text(values: Cells, dtype: str, where: str) -> Any:
    exact, gone = _exact(values, str, "text", where, missing="nan" if dtype == "str" else "NA")
    cells = [None if absent else cell for cell, absent in zip(exact, gone, strict=True)]
    return pd.array(cells, dtype=pd.api.types.pandas_dtype(dtype))


def _object(values: Cells, dtype: str, where: str) -> Any:
    array = np.empty(len(values), dtype=object)
    for row, cell in enumerate(values):
        array[row] = decode_cell(cell, f"{where}[{row}]")
    return array


def _moments(values: Cells, dtype: str, where: str) -> Any:
    """Datetimes: ISO 8601 text, with an offset exactly where the dtype has a zone."""
    made = pd.api.types.pandas_dtype(dtype)
    zone = getattr(made, "tz", None)
    unit = made.unit if zone is not None else np.datetime_data(made)[0]
    exact, gone = _exact(values, str, "ISO 8601 text", where, missing="NaT")
    moments = []
    for row, (cell, absent) in enumerate(zip(exact, gone, strict=True)):
        moment = None if absent else _moment(cell, unit, f"{where}[{row}]")
        if moment is not None and (moment.tz is None) is not (zone is None):
            wanted = "an offset, such as +02:00" if zone is not None else "no offset: the dtype has no zone"
            raise InvalidInput(f"{where}[{row}]: a datetime with {wanted} is expected")
        moments.append(np.datetime64("NaT") if moment is None else moment.asm8)
    array = np.array(moments, dtype=f"datetime64[{unit}]")
    return array if zone is None else pd.DatetimeIndex(array).tz_localize("UTC").tz_convert(zone).array


def _moment(text: str, unit: str, where: str) -> Any:
    try:
        return pd.Timestamp(text).as_unit(unit, round_ok=False)
    except (ValueError, OverflowError) as error:
        raise InvalidInput(f"{where}: no datetime that the unit {unit} holds: {str(error)[:200]}") from error


def _durations(values: Cells, dtype: str, where: str) -> Any:
    """Timedeltas: integers in the dtype's unit, or text such as ``1 days 02:00:00``."""
    unit = np.datetime_data(np.dtype(dtype))[0]
    found = []
    for row, cell in enumerate(values):
        try:
            if cell is None or tag_of(cell) == "NaT":
                found.append(np.timedelta64("NaT"))
            elif type(cell) is int:
                found.append(np.timedelta64(cell, unit))
            elif isinstance(cell, str):
                found.append(pd.Timedelta(cell).as_unit(unit, round_ok=False).asm8)
            else:
                raise InvalidInput(f"{where}[{row}]: an integer in {unit} or a duration as text is expected")
        except (ValueError, OverflowError) as error:
            raise InvalidInput(
                f"{where}[{row}]: no duration that {unit} holds: {str(error)[:200]}"
            ) from error
    return np.array(found, dtype=dtype)


def _periods(values: Cells, dtype: str, where: str) -> Any:
    exact, gone = _exact(values, str, "a period as text", where, missing="NaT")
    try:
        cells = [pd.NaT if absent else cell for cell, absent in zip(exact, gone, strict=True)]
        return pd.PeriodIndex(cells, dtype=pd.api.types.pandas_dtype(dtype)).array
    except (ValueError, TypeError) as error:
        raise InvalidInput(f"{where}: {str(error)[:200]}") from error


_DECODERS: tuple[tuple[Callable[[str], bool], Callable[[Cells, str, str], Any]], ...] = (
    (lambda dtype: dtype == "bool" or dtype in NUMPY, _plain),
    (lambda dtype: dtype == "boolean" or dtype in INTEGERS, _nullable),
    (lambda dtype: dtype in FLOATS, _float),
    (lambda dtype: dtype in {"Float32", "Float64"}, _nullable_float),
    (lambda dtype: dtype in {"str", "string"}, _text),
    (lambda dtype: dtype == "object", _object),
    (lambda dtype: dtype.startswith("datetime64"), _moments),
    (lambda dtype: dtype.startswith("timedelta64"), _durations),
    (lambda dtype: dtype.startswith("period["), _periods),
)
