"""The mask pyramid: valid, aligned, consistent over its levels, and the same bytes whoever wrote it when."""

from __future__ import annotations

import hashlib
import json
import pickle
import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from ome_zarr_models import open_ome_zarr
from ome_zarr_models.v05.image_label import ImageLabel

from wsi_pipeline.errors import OutputError
from wsi_pipeline.geometry import Affine2D, PixelGrid, Region, Resolution
from wsi_pipeline.slides.info import SlideInfo
from wsi_pipeline.stitching.ngff import MaskPyramid, halve_mean

CLASSES = [("Tumor", (200, 0, 0)), ("Immune cells", (160, 90, 160))]
TO_LEVEL0 = Affine2D(2.5, 2.0, 1000.0, 400.0)
RESOLUTION = Resolution(0.2, 0.25)


def slide_info() -> SlideInfo:
    return SlideInfo(
        path="slide.svs",
        name="slide",
        width=20_000,
        height=10_000,
        resolution=RESOLUTION,
        mpp_source="property",
        bounds=Region(1000, 400, 4000, 3000),
        has_bounds=True,
        level_sizes=((20_000, 10_000),),
        reader="openslide",
        vendor="aperio",
        fingerprint="abc",
    )


def create(path, width, height, *, chunk=64, shard=256, classes=CLASSES) -> MaskPyramid:
    grid = PixelGrid(width, height, TO_LEVEL0, 0.5)
    return MaskPyramid.create(path, grid, chunk=chunk, shard=shard, classes=classes, slide=slide_info())


def scene(width, height):
    """Labels and probability with an empty quarter."""
    rng = np.random.default_rng(width)
    instance = np.kron(rng.integers(0, 50, (-(-height // 8), -(-width // 8))), np.ones((8, 8)))[:height, :width]
    instance[: height // 2, : width // 2] = 0
    probability = np.where(instance > 0, rng.integers(1, 256, (height, width)), 0)
    return instance.astype(np.uint32), (instance % 3).astype(np.uint8), probability.astype(np.uint8)


def fill(pyramid, data, *, shuffle=None, threads=1):
    """Write every shard of every level, level by level."""
    order = random.Random(shuffle)
    with ThreadPoolExecutor(threads) as pool:
        for level in range(pyramid.n_levels):
            shards = pyramid.shards(level)
            if shuffle is not None:
                order.shuffle(shards)
            list(pool.map(lambda shard, level=level: write(pyramid, level, shard, data), shards))
    return pyramid


def write(pyramid, level, shard, data):
    if level:
        pyramid.build_shard(level, *shard)
    else:
        x0, y0, x1, y1 = pyramid.shard_region(0, *shard)
        pyramid.write_shard(*shard, *(d[y0:y1, x0:x1] for d in data))


def content(path):
    return {
        file.relative_to(path).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in path.rglob("*")
        if file.is_file()
    }


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """1301 x 700 px: odd sizes on every level, edge shards, an empty quarter."""
    data = scene(1301, 700)
    return fill(create(tmp_path_factory.mktemp("ngff") / "masks.ome.zarr", 1301, 700), data), data


def test_validator_accepts_image_and_labels(written):
    pyramid, _ = written
    image = open_ome_zarr(zarr.open_group(pyramid.path, mode="r"), version="0.5")
    assert type(image).__name__ == "Image"
    ome = image.attributes.ome
    assert [a.unit for a in ome.multiscales[0].axes] == [None, "micrometer", "micrometer"]
    assert len(ome.multiscales[0].datasets) == pyramid.n_levels == 3
    labels = open_ome_zarr(zarr.open_group(pyramid.path / "labels", mode="r"), version="0.5")
    assert labels.attributes.ome.labels == ["instance", "class"]
    for name in ("instance", "class"):
        ImageLabel.from_zarr(zarr.open_group(pyramid.path / "labels" / name, mode="r"))


def test_classes_have_names_and_colours(written):
    label = json.loads((written[0].path / "labels/class/zarr.json").read_text())["attributes"]["ome"]["image-label"]
    assert label["colors"][0] == {"label-value": 1, "rgba": [200, 0, 0, 255]}
    assert label["properties"][1] == {"label-value": 2, "class": "Immune cells"}
    assert label["source"] == {"image": "../../"}


def test_arrays_are_sharded_zstd_with_named_dimensions(written):
    array = zarr.open_array(written[0].path / "0", mode="r")
    assert array.shape == (1, 700, 1301)
    assert array.chunks == (1, 64, 64)
    assert array.shards == (1, 256, 256)
    assert array.metadata.dimension_names == ("c", "y", "x")
    assert [type(c).__name__ for c in array.compressors] == ["ZstdCodec"]
    assert zarr.open_array(written[0].path / "labels/instance/2", mode="r").dtype == np.uint32


@pytest.mark.parametrize("level", [0, 1, 2])
def test_transformations_place_pixel_centres_on_the_slide(written, level):
    """Where NGFF puts a pixel = the mean centre of the level-0 px it stands for, in µm."""
    pyramid, _ = written
    step = 2**level
    for folder, averaged in (("", True), ("labels/instance", False), ("labels/class", False)):
        scales = json.loads((pyramid.path / folder / "zarr.json").read_text())["attributes"]["ome"]["multiscales"][0]
        scale, translation = scales["datasets"][level]["coordinateTransformations"]
        for j in (0, 5):
            members = np.arange(j * step, (j + 1) * step) if averaged else np.array([j * step])
            corner = np.column_stack([members, members]) + 0.5
            expected = ((TO_LEVEL0.apply(corner) - 0.5) * (RESOLUTION.x, RESOLUTION.y)).mean(axis=0)
            got = [scale["scale"][axis] * j + translation["translation"][axis] for axis in (-1, -2)]
            assert got == pytest.approx(expected.tolist(), abs=1e-9)
        if averaged:
            assert (scale["scale"][0], translation["translation"][0]) == (1.0, 0.0)


def test_levels_are_level_0_thinned_out_or_averaged(written):
    pyramid, (instance, class_, probability) = written
    for level in range(pyramid.n_levels):
        width, height = pyramid.size(level)
        whole = 0, 0, width, height
        step = 2**level
        np.testing.assert_array_equal(pyramid.read_labels("instance", *whole, level), instance[::step, ::step])
        np.testing.assert_array_equal(pyramid.read_labels("class", *whole, level), class_[::step, ::step])
        np.testing.assert_array_equal(pyramid.read_probability(*whole, level), probability)
        probability = halve_mean(probability)
    assert max(width, height) <= 512


def test_bytes_do_not_depend_on_order_threads_or_rewriting(written, tmp_path):
    pyramid, data = written
    other = create(tmp_path / "masks.ome.zarr", 1301, 700)
    fill(other, data, shuffle=1, threads=4)
    assert content(other.path) == content(pyramid.path)
    fill(other, data, shuffle=2)
    assert content(other.path) == content(pyramid.path)


def test_empty_shards_are_not_written(written):
    files = content(written[0].path)
    assert "labels/instance/0/c/0/0" not in files
    assert "0/c/0/0/0" not in files
    assert "labels/instance/0/c/2/5" in files


@settings(max_examples=30, deadline=None)
@given(st.integers(-80, 1400), st.integers(-80, 800), st.integers(1, 300), st.integers(1, 300))
def test_any_rectangle_is_read_with_zeros_outside(written, x, y, width, height):
    pyramid, (instance, *_) = written
    padded = np.pad(instance, 1200)
    expected = padded[y + 1200 : y + 1200 + height, x + 1200 : x + 1200 + width]
    np.testing.assert_array_equal(pyramid.read_labels("instance", x, y, x + width, y + height), expected)


def test_many_threads_read_the_same(written):
    pyramid, (instance, *_) = written
    pyramid = pickle.loads(pickle.dumps(pyramid))  # noqa: S301 - our own bytes
    corners = [(x, y) for y in range(0, 700, 100) for x in range(0, 1300, 100)]
    with ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(lambda c: pyramid.read_labels("instance", *c, c[0] + 100, c[1] + 100), corners))
    for (x, y), part in zip(corners, parts, strict=True):
        assert part.shape == (100, 100)
        np.testing.assert_array_equal(part[:, : 1301 - x], instance[y : y + 100, x : x + 100])


def test_open_gives_back_what_was_created(written):
    assert MaskPyramid.open(written[0].path) == written[0]


@pytest.mark.parametrize("size", [(1, 1), (64, 1), (65, 300), (512, 512), (513, 7), (1025, 1025)])
def test_shards_partition_every_level_and_shrink_with_it(tmp_path, size):
    pyramid = create(tmp_path / "p.zarr", *size)
    assert pyramid.size(0) == size
    assert max(pyramid.size(pyramid.n_levels - 1)) <= 512
    for level in range(pyramid.n_levels):
        width, height = pyramid.size(level)
        times = np.zeros((height, width), int)
        for shard in pyramid.shards(level):
            x0, y0, x1, y1 = pyramid.shard_region(level, *shard)
            times[y0:y1, x0:x1] += 1
        assert (times == 1).all()
        shards = zarr.open_array(pyramid.path / f"labels/class/{level}", mode="r").shards
        assert shards == tuple(min(256, -(-side // 64) * 64) for side in (height, width))
    fill(pyramid, scene(*size))
    np.testing.assert_array_equal(pyramid.read_labels("instance", 0, 0, *size), scene(*size)[0])


def test_without_probability_every_object_is_certain(tmp_path):
    pyramid = create(tmp_path / "p.zarr", 100, 90)
    instance, class_, _ = scene(100, 90)
    pyramid.write_shard(0, 0, instance, class_, None)
    np.testing.assert_array_equal(pyramid.read_probability(0, 0, 100, 90), np.where(instance > 0, 255, 0))


def test_more_than_255_classes_take_16_bits(tmp_path):
    pyramid = create(tmp_path / "p.zarr", 10, 10, classes=[(f"class {i}", (i % 256, 0, 0)) for i in range(300)])
    class_ = np.full((10, 10), 299, np.uint16)
    pyramid.write_shard(0, 0, class_.astype(np.uint32), class_, None)
    assert pyramid.read_labels("class", 0, 0, 1, 1).tolist() == [[299]]


def test_unknown_class_is_refused(tmp_path):
    pyramid = create(tmp_path / "p.zarr", 10, 10)
    with pytest.raises(ValueError, match="class 3"):
        pyramid.write_shard(0, 0, np.ones((10, 10), np.uint32), np.full((10, 10), 3, np.uint16), None)


@given(arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_probability_of_a_coarse_pixel_is_the_mean_of_the_pixels_that_exist(image):
    result = halve_mean(image)
    assert result.shape == (-(-image.shape[0] // 2), -(-image.shape[1] // 2))
    for y, x in np.ndindex(result.shape):
        mean = image[2 * y : 2 * y + 2, 2 * x : 2 * x + 2].astype(float).mean()
        assert result[y, x] == int(np.floor(mean + 0.5))


def test_existing_folder_is_refused(written):
    with pytest.raises(OutputError, match="exists already"):
        create(written[0].path, 10, 10)


@pytest.mark.parametrize("kind", ["missing", "file", "other zarr"])
def test_what_is_no_pyramid_is_named(tmp_path, kind):
    path = tmp_path / "p.zarr"
    if kind == "file":
        path.write_text("x")
    elif kind == "other zarr":
        zarr.create_group(path)
    with pytest.raises(OutputError, match=r"p\.zarr: is no mask pyramid"):
        MaskPyramid.open(path)


def test_unwritable_place_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="cannot be written"):
        create(tmp_path / "file" / "p.zarr", 10, 10)


def test_files_of_a_killed_writer_are_removed(tmp_path):
    pyramid = fill(create(tmp_path / "p.zarr", 100, 90), scene(100, 90))
    before = content(pyramid.path)
    (pyramid.path / "0/c/0/0/0.0123.partial").write_bytes(b"half")
    assert pyramid.remove_partial_files() == 1
    assert content(pyramid.path) == before
