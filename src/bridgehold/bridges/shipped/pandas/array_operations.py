"""Operations on numpy's arrays: in and out as bytes, and to frames and back."""

from __future__ import annotations

from typing import Any

import frame_filters
import numpy as np
import pandas as pd
from array_wire import array_dtype, decode_array, describe_array, encode_array
from frame_bounds import PAGE_BYTES, check_bytes, check_shape
from frame_casts import column_array
from frame_kept import Array

from bridgehold_sdk import InvalidInput, Store, operation


class Arrays:
    """``load_array`` and its kin, of a bridge that keeps frames."""

    arrays: Store[Array]
    _held: Any
    _keep: Any
    _table: Any

    @operation(effect="create", resource="array", id_field="id")
    def load_array(
        self, dtype: str, shape: list[int], data: str, order: str = "C", id: str | None = None
    ) -> dict[str, Any]:
        """Make an array of its bytes."""
        return self._keep_array(decode_array(dtype, shape, data, order), id)

    @operation(effect="read", resource="array", id_field="array_id")
    def get_array(self, array_id: str, offset: int = 0, limit: int | None = None) -> dict[str, Any]:
        """An array's bytes, or a part of its first dimension."""
        values = self.arrays.get(array_id).values
        total = values.shape[0] if values.ndim else 1
        if values.ndim:
            values = values[offset : None if limit is None else offset + limit]
        if values.nbytes > PAGE_BYTES:
            raise InvalidInput(
                f"this part has {values.nbytes} bytes, an answer at most {PAGE_BYTES}: take a smaller limit"
            )
        given = values.shape[0] if values.ndim else 1
        return {
            "array_id": array_id,
            **encode_array(values),
            "offset": offset,
            "total": total,
            "truncated": given < total,
        }

    @operation(effect="read", resource="array", id_field="array_id")
    def describe_array(self, array_id: str) -> dict[str, Any]:
        """Shape, bytes, what is not finite, extremes."""
        return {"array_id": array_id, **describe_array(self.arrays.get(array_id).values)}

    @operation(effect="create", resource="array", id_field="id")
    def frame_to_array(
        self, frame_id: str, dtype: str, columns: list[Any] | None = None, id: str | None = None
    ) -> dict[str, Any]:
        """Columns as an array of two dimensions."""
        table = self._table(frame_id)
        names = list(table.columns) if columns is None else columns
        made = array_dtype(dtype)
        check_bytes(len(table) * len(names) * made.itemsize, self._held(), "the array")
        values = np.empty((len(table), len(names)), dtype=made)
        for at, name in enumerate(names):
            values[:, at] = column_array(frame_filters.column_of(table, name), made, name)
        return self._keep_array(values, id)

    @operation(effect="create", resource="frame", id_field="id")
    def array_to_frame(
        self, array_id: str, columns: list[str] | None = None, id: str | None = None
    ) -> dict[str, Any]:
        """An array of one or two dimensions as a frame."""
        values = self.arrays.get(array_id).values
        if values.ndim not in {1, 2} or values.dtype.kind not in "biufmM":
            raise InvalidInput("a frame is made of one or two dimensions of numbers, booleans or times")
        values = values.reshape(len(values), -1) if values.ndim == 1 else values
        check_shape(*values.shape, "the frame")
        if columns is not None and (len(columns) != values.shape[1] or len(set(columns)) != len(columns)):
            raise InvalidInput(f"{values.shape[1]} different names are needed")
        values = values.astype(values.dtype.newbyteorder("="), copy=False)
        return self._keep(pd.DataFrame(values, columns=columns), f"array {array_id}", id)

    @operation(effect="read", resource="array")
    def list_arrays(self) -> dict[str, Any]:
        """The session's arrays."""
        listed = [
            {
                "array_id": array_id,
                "dtype": array.values.dtype.str,
                "shape": list(array.values.shape),
                "bytes": int(array.values.nbytes),
                "created": array.created,
            }
            for array_id, array in self.arrays.items()
        ]
        return {"arrays": listed, "total_count": len(listed)}

    @operation(effect="delete", resource="array", id_field="array_id")
    def delete_array(self, array_id: str) -> dict[str, Any]:
        """Forget an array."""
        self.arrays.delete(array_id)
        return {"array_id": array_id, "status": "deleted"}

    def _keep_array(self, values: Any, array_id: str | None) -> dict[str, Any]:
        check_bytes(int(values.nbytes), self._held(), "the array")
        kept = self.arrays.add(Array(values), array_id)
        return {
            "array_id": kept,
            "dtype": values.dtype.str,
            "shape": list(values.shape),
            "bytes": values.nbytes,
        }
