"""Every kind of file gives the same objects, and what does not fit is said in one line."""

from __future__ import annotations

import base64
import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from wsi_pipeline.errors import LabelsError, WsiPipelineError
from wsi_pipeline.evaluation.drawing import TRUTH_COLOR, draw
from wsi_pipeline.evaluation.labels import Frame
from wsi_pipeline.evaluation.pairing import Truth, find_prediction, read_truths, stem
from wsi_pipeline.evaluation.reading import read_pair
from wsi_pipeline.evaluation.study import Options, evaluate
from wsi_pipeline.evaluation.summary import summarise

DTYPES = {
    "l.png": np.uint8,
    "m.png": np.uint16,
    "s.tif": np.uint8,
    "t.tif": np.uint16,
    "u.tif": np.uint32,
    "i.tif": np.int32,
}


@pytest.mark.parametrize("name", DTYPES)
def test_label_images_of_all_depths_are_read(files, tmp_path, name):
    path = files.image(tmp_path / name, files.labels().astype(DTYPES[name]))
    truth, prediction, frame = read_pair(path, path)
    np.testing.assert_array_equal(truth.image, files.labels())
    np.testing.assert_array_equal(prediction.image, files.labels())
    assert (frame.width, frame.height, frame.mpp) == (64, 48, None)
    assert truth.classes == (None, None, None)


def test_a_pyramid_brings_classes_and_mpp(files, tmp_path):
    truth, _, frame = read_pair(files.pyramid(tmp_path / "m.ome.zarr"), files.image(tmp_path / "p.png", files.labels()))
    np.testing.assert_array_equal(truth.image, files.labels())
    assert truth.classes == ("Tumor", "Stroma", "Tumor")
    assert frame.mpp == 0.5


def test_mpp_is_known_where_either_file_says_it(files, tmp_path):
    pair = files.image(tmp_path / "p.png", files.labels()), files.pyramid(tmp_path / "m.ome.zarr")
    assert read_pair(*pair)[2].mpp == 0.5


def test_a_coarser_level_is_compared_at_its_own_size(files, tmp_path):
    large = np.kron(files.labels(), np.ones((16, 16), np.uint16))
    path = files.pyramid(tmp_path / "m.ome.zarr", large)
    truth, _, frame = read_pair(path, path, level=1)
    np.testing.assert_array_equal(truth.image, large[::2, ::2])
    assert frame.mpp == 1.0
    with pytest.raises(LabelsError, match=r"has no level 2.*--level 0 to 1"):
        read_pair(path, path, level=2)


@pytest.mark.parametrize(("origin", "shift"), [(None, (0, 0)), ("bounds", (0, 0)), ("full", (100, 40))])
def test_outlines_lie_where_qupath_shows_them(files, tmp_path, origin, shift):
    outlines = files.geojson(tmp_path / "a.geojson", scale=2, shift=shift, origin=origin)
    truth, prediction, _ = read_pair(outlines, files.pyramid(tmp_path / "m.ome.zarr"))
    np.testing.assert_array_equal(truth.image, prediction.image)
    assert truth.classes == prediction.classes


def test_outlines_lie_on_a_label_image(files, tmp_path):
    truth, prediction, _ = read_pair(
        files.image(tmp_path / "t.png", files.labels()), files.geojson(tmp_path / "a.geojson")
    )
    np.testing.assert_array_equal(truth.image, prediction.image)
    assert prediction.classes == ("Tumor", "Stroma", "Tumor")


def test_two_outline_files_need_the_size_of_the_image(files, tmp_path):
    path = files.geojson(tmp_path / "a.geojson")
    with pytest.raises(LabelsError, match=r"nothing says how large the image is\. Give --width and --height"):
        read_pair(path, path)
    truth, _, _ = read_pair(path, path, given=Frame(64, 48))
    np.testing.assert_array_equal(truth.image, files.labels())


def test_what_lies_outside_of_the_image_is_cut(files, tmp_path):
    path = files.geojson(tmp_path / "a.geojson", shift=(-10, 20))
    truth, _, _ = read_pair(path, path, given=Frame(64, 48))
    np.testing.assert_array_equal(truth.mask[20:, :54], files.labels()[:28, 10:] > 0)


BAD = {
    "rgb": (np.zeros((4, 4, 3), np.uint8), "p.png", r"is no label image: it is \(4, 4, 3\)"),
    "float": (np.zeros((4, 4), np.float32), "p.tif", "holds float32"),
    "negative": (np.full((4, 4), -1, np.int16), "p.tif", "labels below 0"),
    "size": (np.zeros((4, 5), np.uint8), "p.png", r"p.png: is 5 x 4 px, its truth .*t.png is 64 x 48 px"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_label_image_is_refused(files, tmp_path, case):
    image, name, message = BAD[case]
    with pytest.raises(LabelsError, match=message):
        read_pair(files.image(tmp_path / "t.png", files.labels()), files.image(tmp_path / name, image))


@pytest.mark.parametrize("name", ["p.png", "p.tif", "p.geojson", "p.ome.zarr", "p.json.gz"])
def test_a_damaged_file_is_named(files, tmp_path, name):
    path = tmp_path / name
    path.mkdir() if name.endswith(".zarr") else path.write_bytes(b"\x00 nothing")
    with pytest.raises(WsiPipelineError) as caught:
        read_pair(files.image(tmp_path / "t.png", files.labels()), path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["p.png", "p.geojson"])
def test_a_missing_file_is_named(files, tmp_path, name):
    with pytest.raises(LabelsError, match=f"{name}: does not exist"):
        read_pair(files.image(tmp_path / "t.png", files.labels()), tmp_path / name)


def manifest(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_a_manifest_names_truths_groups_and_classes(files, tmp_path):
    row = {"file": "tiles/i/a.png", "mask": "tiles/m/a.png", "group": "g", "object_class": "nucleus", "mpp": "0.5"}
    (tmp_path / "tiles").mkdir()
    files.image(tmp_path / "tiles/m/a.png", files.labels())
    rows = [row | {"split": "val"}, row | {"file": "i/b.png", "mpp": "", "group": "", "split": "train"}]
    path = manifest(tmp_path / "tiles" / "manifest.csv", rows)
    first, second = read_truths(path)
    assert (first.name, first.group, first.mpp, first.object_class) == ("a", "g", 0.5, "nucleus")
    assert first.path == tmp_path / "tiles/m/a.png"
    assert (second.name, second.group, second.mpp) == ("b", "b", None)
    assert second.image == tmp_path / "tiles" / "i/b.png"
    assert read_truths(path, {"split": "val"}) == [first]


WRONG = {
    "no row": ([{"mask": "a.png", "split": "x"}], {"split": "val"}, "has no row to evaluate"),
    "no mask": ([{"file": "a.png"}], {}, "has no column mask. It has file"),
    "no column": ([{"mask": "a.png"}], {"split": "val"}, "has no column split"),
    "twice": ([{"mask": "x/a.png"}, {"mask": "y/a.tif"}], {}, "names a more than once"),
    "mpp": ([{"mask": "a.png", "mpp": "40x"}], {}, "mpp 40x of a is no number"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_manifest_is_explained(tmp_path, case):
    rows, where, message = WRONG[case]
    with pytest.raises(LabelsError, match=message):
        read_truths(manifest(tmp_path / "m.csv", rows), where)


def test_a_manifest_that_is_not_there_is_named(tmp_path):
    with pytest.raises(LabelsError, match=r"m\.csv: cannot be read"):
        read_truths(tmp_path / "m.csv")


@pytest.mark.parametrize("name", ["a.png", "a.ome.tif", "a.geojson.gz", "a.ome.zarr", "a/masks.ome.zarr"])
def test_predictions_are_found_by_the_name_of_the_image(tmp_path, name):
    (tmp_path / "b.png").touch()
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    assert find_prediction(tmp_path, "a") == tmp_path / name
    assert stem(tmp_path / name) == "a"


def test_a_prediction_that_is_missing_or_there_twice_is_named(tmp_path):
    with pytest.raises(LabelsError, match=r"has no prediction for a\. Put a\.png"):
        find_prediction(tmp_path, "a")
    for name in ("a.png", "a.tif"):
        (tmp_path / name).touch()
    with pytest.raises(LabelsError, match=r"has 2 predictions for a: a\.png, a\.tif"):
        find_prediction(tmp_path, "a")


def test_classes_are_scored_where_both_sides_tell_them(files, tmp_path):
    outlines, plain = files.geojson(tmp_path / "a.geojson"), files.image(tmp_path / "p.png", files.labels())
    truths = read_truths(outlines)
    image = evaluate(truths, {"run": files.pyramid(tmp_path / "m.ome.zarr")})["run"][0]
    assert image.classes.keys() == {"Tumor", "Stroma"}
    assert image.values("Tumor").keys() == image.values().keys()
    assert evaluate(truths, {"run": plain})["run"][0].classes == {}


def test_one_class_is_compared_alone_and_a_prediction_without_classes_whole(files, tmp_path):
    truths = read_truths(files.geojson(tmp_path / "a.geojson"))
    plain = files.image(tmp_path / "p.png", files.labels())
    result = evaluate(truths, {"run": plain}, Options(class_name="Tumor"))["run"][0]
    assert (result.whole.counts.truth_objects, result.whole.counts.predicted_objects) == (2, 3)
    with pytest.raises(LabelsError, match=r"has no object of class Necrosis\. Check --class"):
        evaluate(truths, {"run": plain}, Options(class_name="Necrosis"))


def test_a_small_outline_lies_on_top_of_the_one_around_it(tmp_path):
    boxes = [[[0, 0], [9, 0], [9, 9], [0, 9], [0, 0]], [[2, 2], [4, 2], [4, 4], [2, 4], [2, 2]]]
    for order in (boxes, boxes[::-1]):
        features = [
            {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [box]}, "properties": {}}
            for box in order
        ]
        path = tmp_path / "a.geojson"
        path.write_text(json.dumps(features))
        truth, _, _ = read_pair(path, path, given=Frame(9, 9))
        assert truth.areas.tolist() == [77, 4]


def test_mpp_is_that_of_the_user_then_of_the_manifest_then_of_a_file(files, tmp_path):
    pyramid = files.pyramid(tmp_path / "m.ome.zarr")
    (truth,) = read_truths(pyramid)
    told = replace(truth, mpp=0.3)
    assert evaluate([truth], {"run": pyramid})["run"][0].mpp == 0.5
    assert evaluate([told], {"run": pyramid})["run"][0].mpp == 0.3
    assert evaluate([told], {"run": pyramid}, Options(mpp=0.2))["run"][0].mpp == 0.2


def test_numbers_of_a_class_come_from_the_images_that_have_it(files, tmp_path):
    path, empty = files.image(tmp_path / "t.png", files.labels()), files.image(tmp_path / "e.png", files.labels() * 0)
    truths = [Truth(str(n), path, "ab"[n > 0], object_class="cd"[n > 0]) for n in range(3)]
    results = {"run": evaluate(truths[:1], {"run": path})["run"] + evaluate(truths[1:], {"run": empty})["run"]}
    classes = summarise(results, Options())["runs"]["run"]["classes"]
    assert (classes["c"]["images"], classes["d"]["images"]) == (1, 2)
    assert classes["c"]["pooled"]["recall"] == [1, None, None]
    assert classes["d"]["pooled"]["recall"] == [0, None, None]


def test_a_draw_weighs_the_images_of_a_class_by_their_own_groups(files, tmp_path):
    path, empty = files.image(tmp_path / "t.png", files.labels()), files.image(tmp_path / "e.png", files.labels() * 0)
    truths = [Truth(str(n), path, "abcc"[n], object_class="xxyy"[n]) for n in range(4)]
    found = [evaluate([truth], {"r": empty if n == 1 else path})["r"][0] for n, truth in enumerate(truths)]
    first, second = (summarise({"r": order}, Options())["runs"]["r"]["classes"]["x"] for order in (found, found[::-1]))
    assert first == second


def test_of_a_large_image_the_worst_part_is_drawn(files, tmp_path):
    image = np.zeros((700, 1400), np.uint8)
    image[650:690, 1300:1390] = 1
    truth = files.image(tmp_path / "t.png", image)
    result = evaluate(read_truths(truth), {"r": files.image(tmp_path / "p.png", image * 0)})["r"][0]
    url = draw(result, Options())
    with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as picture:
        assert picture.size == (2 * (1400 - 1280), 2 * (700 - 640))
        assert picture.getpixel((40, 20)) == TRUTH_COLOR
