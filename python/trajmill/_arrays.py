"""Arrow columns as numpy arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Array = npt.NDArray[Any]
_masked: Any = np.ma.MaskedArray


def to_numpy(column: Any) -> Array:
    """Returns a column as an array without a copy if it has no nulls and is not packed.

    Vectors become the other axes. Where values are null, the array is a `numpy.ma.MaskedArray`
    whose data are NaN or zero; texts and other objects are None there.
    """
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
        if isinstance(column, pa.ChunkedArray):
            column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([])
    kind = column.type
    if pa.types.is_struct(kind):
        if column.null_count == 0:
            fields = [to_numpy(column.field(i)) for i in range(kind.num_fields)]
            dtypes = [
                (kind.field(i).name, field.dtype, field.shape[1:])
                for i, field in enumerate(fields)
            ]
            array = np.empty(len(column), dtypes)
            for (name, *_), field in zip(dtypes, fields, strict=True):
                array[name] = field
            return array
        return _objects(column)
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if is_list or pa.types.is_fixed_size_list(kind):
        return _vectors(column)
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    if not (is_number or pa.types.is_boolean(kind)):
        return _objects(column)
    if column.null_count == 0:
        plain: Array = column.to_numpy(zero_copy_only=False)
        return plain
    mask = column.is_null().to_numpy(zero_copy_only=False)
    filled = pc.fill_null(column, float("nan") if pa.types.is_floating(kind) else 0)
    data: Array = filled.to_numpy(zero_copy_only=False)
    masked: Array = _masked(data.astype(kind.to_pandas_dtype(), copy=False), mask)
    return masked


def _objects(column: Any) -> Array:
    array: Array = np.empty(len(column), object)
    array[:] = column.to_pylist()
    return array


def _vectors(column: Any) -> Array:
    valid = column.is_valid().to_numpy(zero_copy_only=False)
    inner = to_numpy(column.flatten())
    count = int(valid.sum())
    if pa.types.is_fixed_size_list(column.type):
        width = column.type.list_size
    else:
        lengths = pc.list_value_length(column).drop_null()
        widths = lengths.unique().to_pylist()
        if len(widths) > 1:
            # Vectors of several lengths: one array each.
            array: Array = np.empty(len(column), object)
            for row, value in enumerate(column):
                array[row] = to_numpy(value.values) if value.is_valid else None
            return array
        width = widths[0] if widths else 0
    if inner.dtype == object:
        return _objects(column)
    known = inner.reshape(count, width, *inner.shape[1:])
    if count == len(column):
        return known
    fill = np.nan if np.issubdtype(known.dtype, np.floating) else 0
    data = np.full((len(column), *known.shape[1:]), fill, known.dtype)
    data[valid] = known
    mask = np.broadcast_to(
        ~valid.reshape(-1, *([1] * (known.ndim - 1))), data.shape
    ).copy()
    masked: Array = _masked(data, mask)
    return masked
