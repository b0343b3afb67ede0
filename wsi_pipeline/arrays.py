"""Named arrays in one file: what the tasks of a run leave for each other.

An Arrow file with one row; every array is a compressed column, so that few of many are read without the rest. Not
``npz``: numpy reads its headers with Python's parser, which in Python 3.11 and 3.12 fails now and then when two threads
use it at once, as the threads of a worker do.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import feather

from wsi_pipeline.errors import DamagedFileError
from wsi_pipeline.files import beside, is_passing

_LAYOUT = b"arrays"


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays of numbers, bool or unicode and of any shape beside ``path`` and rename the file there.

    Raises:
        OutputError: the file cannot be written.
    """
    layout = {name: [array.dtype.str, array.shape, _checksum(array)] for name, array in arrays.items()}
    columns = {
        name: pa.LargeListArray.from_arrays([0, array.size], pa.array(array.ravel())) for name, array in arrays.items()
    }
    table = pa.table(columns, metadata={_LAYOUT: json.dumps(layout).encode()})
    with beside(path) as partial:
        feather.write_feather(table, str(partial), compression="zstd")


def load_arrays(path: Path, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """The arrays of those names that ``save_arrays`` wrote; None for all.

    Raises:
        DamagedFileError: the file is not as it was written, or gone.
    """
    try:
        table = feather.read_table(path, columns=None if names is None else list(names), use_threads=False)
        layout = json.loads(table.schema.metadata[_LAYOUT])
        arrays = {name: _array(table.column(name), *layout[name][:2]) for name in table.column_names}
    # whatever the bytes of a damaged file make Arrow, or numpy behind it, stumble over
    except Exception as error:
        if is_passing(error):
            raise
        raise DamagedFileError(f"cannot be read ({type(error).__name__})", where=path, fix=_AGAIN) from None
    for name, array in arrays.items():
        if _checksum(array) != layout[name][2]:
            raise DamagedFileError(f"is damaged (checksum of {name})", where=path, fix=_AGAIN)
    return arrays


_AGAIN = "Run the same command again; it is made anew"


def _checksum(array: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(array).data.cast("B")) if array.size else 0


def _array(column: pa.ChunkedArray, dtype: str, shape: Sequence[int]) -> np.ndarray:
    values = column.chunk(0).values
    return values.to_numpy(zero_copy_only=False).astype(dtype, copy=False).reshape(shape)
