"""numpy's arrays each way: dtype, shape and the bytes themselves, so that NaN payloads and -0.0 survive."""

from __future__ import annotations

import base64
import binascii
import math
from typing import Any

import numpy as np
from frame_bounds import MAX_BYTES

from bridgehold_sdk import InvalidInput

KINDS = "biufcmMSU"
"""Booleans, numbers, durations, datetimes, bytes, text. Never objects: they would be pickled."""


def decode_array(dtype: str, shape: list[int], data: str, order: str = "C") -> Any:
    """The array of base64 `data`. Raises `InvalidInput` where the three don't agree."""
    made = array_dtype(dtype)
    count = math.prod(shape)
    wanted = count * made.itemsize
    if wanted > MAX_BYTES:
        raise InvalidInput(f"the array would take {wanted} bytes; at most {MAX_BYTES}")
    try:
        raw = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidInput(f"data: no base64: {error}") from error
    if len(raw) != wanted:
        raise InvalidInput(f"data: {len(raw)} bytes given, {wanted} make {shape} of {made.str}")
    return np.frombuffer(raw, dtype=made).reshape(shape, order=order).copy(order="K")


def encode_array(array: Any) -> dict[str, Any]:
    """``{"dtype", "shape", "order", "data"}`` with the byte order in the dtype."""
    order = "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"
    raw = array.tobytes(order=order)
    return {
        "dtype": array.dtype.str,
        "shape": list(array.shape),
        "order": order,
        "data": base64.b64encode(raw).decode("ascii"),
    }


def array_dtype(dtype: str) -> Any:
    """numpy's dtype of this name, if it is a plain one."""
    try:
        made = np.dtype(dtype)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"dtype {dtype[:80]!r} is none of numpy's") from error
    if made.hasobject or made.fields or made.subdtype or made.kind not in KINDS or not made.itemsize:
        raise InvalidInput(
            f"dtype {dtype[:80]!r} is not carried: plain numbers, booleans, times and texts are"
        )
    return made


def describe_array(array: Any) -> dict[str, Any]:
    """Shape, bytes, and what is not finite; extremes of the finite."""
    facts: dict[str, Any] = {
        "dtype": array.dtype.str,
        "shape": list(array.shape),
        "bytes": int(array.nbytes),
    }
    if array.dtype.kind in "fc":
        finite = np.isfinite(array)
        facts["nan"] = int(np.isnan(array).sum())
        facts["infinite"] = int(np.isinf(array).sum())
        if array.dtype.kind == "f" and finite.any():
            facts["min"], facts["max"] = float(array[finite].min()), float(array[finite].max())
    elif array.dtype.kind in "iu" and array.size:
        facts["min"], facts["max"] = int(array.min()), int(array.max())
    elif array.dtype.kind in "mM":
        facts["missing"] = int(np.isnat(array).sum())
    return facts
