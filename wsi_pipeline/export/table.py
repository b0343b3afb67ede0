"""The object table: one row per object, from fragments of pass 2 to GeoParquet and CSV.

Everything is streamed in row groups and holds nothing that changes between two runs of the same work, so
files of equal content are equal byte by byte.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute  # casts load it when they are asked, and fail where threads ask at once
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import shapely

from wsi_pipeline.errors import DamagedFileError
from wsi_pipeline.files import beside, is_passing
from wsi_pipeline.slides.info import SlideInfo

OBJECT_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("label", pa.uint32()),
        pa.field("class", pa.string()),
        pa.field("name", pa.string()),
        pa.field("object_type", pa.string(), nullable=False),
        pa.field("geometry", pa.binary(), nullable=False),
        pa.field("area_um2", pa.float64()),
        pa.field("perimeter_um", pa.float64()),
        pa.field("circularity", pa.float64()),
        pa.field("solidity", pa.float64()),
        pa.field("max_diameter_um", pa.float64()),
        pa.field("min_diameter_um", pa.float64()),
        pa.field("predicted_iou", pa.float32()),
        pa.field("stability", pa.float32()),
        pa.field("detection", pa.float32()),
        pa.field("tile", pa.int32()),
        pa.field("prompt_id", pa.string()),
        pa.field("color", pa.int32()),
        pa.field("locked", pa.bool_(), nullable=False),
        pa.field("metadata", pa.string()),
    ]
)
"""Columns of the object table.

``id`` UUID; ``label`` value in the instance pyramid; ``class``/``name`` text or null; ``object_type``
``detection`` or ``annotation``; ``geometry`` WKB, level-0 px of the uncropped slide; shape measurements in µm;
``predicted_iou``, ``stability``, ``detection`` scores in [0, 1] or null; ``tile`` index or null; ``prompt_id`` the
source annotation or null; ``color`` the object's own colour as 0xRRGGBB or null; ``locked``; ``metadata`` a JSON
object of text or null.

Where objects were recognised there is one column more, ``probabilities``: a struct of float32, one field for each
class, null where the object was not seen. Tables without it are as they were before there was such a stage.
"""

PROBABILITY = "Probability: {}"
"""Name of a class's probability, with the class, in QuPath and in CSV files."""

ROWS_PER_GROUP = 32_768
_DEFAULTS: dict[str, Any] = {"object_type": "detection", "locked": False}


def object_schema(classes: Iterable[str] = ()) -> pa.Schema:
    """``OBJECT_SCHEMA``, with the probabilities of the classes that objects were recognised as."""
    fields = [pa.field(name, pa.float32()) for name in classes]
    return OBJECT_SCHEMA.append(pa.field("probabilities", pa.struct(fields))) if fields else OBJECT_SCHEMA


def recognised_classes(schema: pa.Schema) -> tuple[str, ...]:
    """The classes whose probabilities a table holds."""
    if "probabilities" not in schema.names:
        return ()
    return tuple(field.name for field in schema.field("probabilities").type)


def probability_columns(table: pa.Table) -> dict[str, pa.ChunkedArray]:
    """The probabilities of a table's objects, by ``PROBABILITY`` of the class."""
    names = [PROBABILITY.format(name) for name in recognised_classes(table.schema)]
    return dict(zip(names, table["probabilities"].flatten(), strict=True)) if names else {}


def object_table(
    geometry: np.ndarray, probabilities: Mapping[str, np.ndarray] | None = None, /, *, id: Any, **columns: Any
) -> pa.Table:
    """Build a table of ``object_schema``; columns that are not given are null (``detection``, not locked).

    Args:
        geometry: (N,) shapely geometries, level-0 px.
        probabilities: (N,) float32 by class; NaN means null.
        id: (N,) UUID strings.
        columns: other columns by name, each (N,) or one value for all rows; NaN means null.
    """
    unknown = set(columns) - set(OBJECT_SCHEMA.names)
    if unknown:
        raise ValueError(f"no such column of the object table: {', '.join(sorted(unknown))}")
    count = len(geometry)
    given = {**_DEFAULTS, **columns, "id": id, "geometry": shapely.to_wkb(np.asarray(geometry, object))}
    arrays = [_column(given.get(field.name), field.type, count) for field in OBJECT_SCHEMA]
    if probabilities:
        values = [pa.array(column, pa.float32(), from_pandas=True) for column in probabilities.values()]
        arrays.append(pa.StructArray.from_arrays(values, names=list(probabilities)))
    return pa.Table.from_arrays(arrays, schema=object_schema(probabilities or ()))


def _column(values: Any, kind: pa.DataType, count: int) -> pa.Array:
    if values is None:
        return pa.nulls(count, kind)
    if isinstance(values, str | bool | int | float):
        return pa.repeat(pa.scalar(values, kind), count)
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values.cast(kind)
    return pa.array(values, kind, from_pandas=True)


def pack_color(color: tuple[int, int, int] | None) -> int | None:
    """(r, g, b) → 0xRRGGBB."""
    return None if color is None else color[0] << 16 | color[1] << 8 | color[2]


def unpack_color(packed: int) -> tuple[int, int, int]:
    """0xRRGGBB → (r, g, b)."""
    return packed >> 16 & 255, packed >> 8 & 255, packed & 255


def write_fragment(path: Path, table: pa.Table) -> None:
    """Write one part of the object table; equal tables give equal bytes."""
    with _sink(path) as sink:
        pq.write_table(_checked(table), sink, compression="zstd", store_schema=False, write_page_checksum=True)


def read_fragments(paths: Iterable[Path]) -> Iterator[pa.RecordBatch]:
    """The rows of fragments in the order given, a bounded number at a time.

    Raises:
        DamagedFileError: a fragment is missing or damaged.
    """
    for path in paths:
        with _named(path), pq.ParquetFile(path, page_checksum_verification=True) as file:
            for batch in file.iter_batches(batch_size=ROWS_PER_GROUP):
                yield _checked(batch)


def classes_of(path: Path) -> tuple[str, ...]:
    """The classes that the objects of a table's file were recognised as.

    Raises:
        DamagedFileError: it is missing or damaged.
    """
    with _named(path):
        return recognised_classes(pq.read_schema(path))


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Say which file cannot be read."""
    try:
        yield
    except (OSError, pa.ArrowInvalid) as error:
        if is_passing(error):
            raise
        raise DamagedFileError(
            f"cannot be read ({error})", where=path, fix="Delete the file and run again to make it anew"
        ) from None


def _checked(table: Any) -> Any:
    """A table or batch in exactly the schema of object tables."""
    return table.cast(object_schema(recognised_classes(table.schema)))


def regrouped(batches: Iterable[pa.RecordBatch | pa.Table], rows: int = ROWS_PER_GROUP) -> Iterator[pa.Table]:
    """The same rows in tables of ``rows`` rows (the last may be shorter), however they came."""
    held: list[pa.Table] = []
    count = 0
    for batch in batches:
        table = pa.Table.from_batches([batch]) if isinstance(batch, pa.RecordBatch) else batch
        while count + len(table) >= rows:
            take = rows - count
            yield pa.concat_tables([*held, table.slice(0, take)]).combine_chunks()
            table, held, count = table.slice(take), [], 0
        if len(table):
            held.append(table)
            count += len(table)
    if held:
        yield pa.concat_tables(held).combine_chunks()


def write_geoparquet(
    path: Path, batches: Iterable[pa.RecordBatch | pa.Table], info: SlideInfo, classes: Sequence[str] = ()
) -> int:
    """Write the final table as GeoParquet 1.1 in row groups; returns the number of rows.

    The coordinate system is the slide's level-0 px (``crs: null``); the slide's name, size and µm per px are kept
    under the key ``wsi_pipeline``.

    Args:
        path: the file.
        batches: rows of ``object_schema(classes)``.
        info: the slide.
        classes: those that the objects were recognised as.

    Raises:
        OutputError: the file cannot be written.
    """
    extent = _Extent()
    count = 0
    with (
        _sink(path) as sink,
        pq.ParquetWriter(sink, object_schema(classes), compression="zstd", store_schema=False) as writer,
    ):
        for table in regrouped(batches):
            writer.write_table(_checked(table), row_group_size=ROWS_PER_GROUP)
            extent.add(shapely.from_wkb(table["geometry"].to_numpy()))
            count += len(table)
        writer.add_key_value_metadata({"geo": json.dumps(extent.metadata()), "wsi_pipeline": json.dumps(_slide(info))})
    return count


@contextmanager
def _sink(path: Path) -> Iterator[pa.NativeFile]:
    """Where to write a file; closed even if its writer cannot end it, as on a full disk."""
    with beside(path) as partial, pa.OSFile(str(partial), "wb") as sink:
        yield sink


class _Extent:
    """Bounding box and geometry types of everything seen so far."""

    def __init__(self) -> None:
        self.low, self.high = np.full(2, np.inf), np.full(2, -np.inf)
        self.types: set[str] = set()

    def add(self, geometries: np.ndarray) -> None:
        self.types |= {shapely.GeometryType(t).name for t in np.unique(shapely.get_type_id(geometries)) if t >= 0}
        bounds = shapely.total_bounds(geometries)
        if np.isfinite(bounds).all():
            self.low, self.high = np.minimum(self.low, bounds[:2]), np.maximum(self.high, bounds[2:])

    def metadata(self) -> dict[str, Any]:
        names = {"POINT": "Point", "POLYGON": "Polygon", "MULTIPOINT": "MultiPoint", "MULTIPOLYGON": "MultiPolygon"}
        column: dict[str, Any] = {
            "encoding": "WKB",
            "geometry_types": sorted(names.get(name, name.title()) for name in self.types),
            "crs": None,
            "edges": "planar",
        }
        if np.isfinite(self.low).all():
            column["bbox"] = [*self.low.tolist(), *self.high.tolist()]
        return {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}


def _slide(info: SlideInfo) -> dict[str, Any]:
    return {
        "slide": info.name,
        "size": [info.width, info.height],
        "mpp": [info.resolution.x, info.resolution.y],
        "bounds": list(info.bounds.bounds),
    }


def write_csv(path: Path, batches: Iterable[pa.RecordBatch | pa.Table], classes: Sequence[str] = ()) -> int:
    """Write the table as CSV with the centroid (level-0 px) in place of the outline; returns the number of rows.

    Arguments are those of ``write_geoparquet``; the probability of every class is a column of its own.

    Raises:
        OutputError: the file cannot be written.
    """
    kept = [field for field in OBJECT_SCHEMA if field.name != "geometry"]
    middle = [pa.field(name, pa.float64()) for name in ("centroid_x", "centroid_y")]
    schema = pa.schema([*kept, *middle, *(pa.field(PROBABILITY.format(name), pa.float32()) for name in classes)])
    count = 0
    with _sink(path) as sink, pa_csv.CSVWriter(sink, schema) as writer:
        for table in regrouped(batches):
            center = shapely.centroid(shapely.from_wkb(table["geometry"].to_numpy()))
            places = [pa.array(np.round(axis(center), 2)) for axis in (shapely.get_x, shapely.get_y)]
            columns = [table[field.name] for field in kept] + places + list(probability_columns(table).values())
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))
            count += len(table)
    return count
