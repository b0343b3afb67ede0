"""The benchmark of heads asks fairly and counts right."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2]))  # benchmarks are no part of the installed package

from benchmarks import tiles as laid_out
from benchmarks.heads import __main__ as command
from benchmarks.heads import ablation, study, summary, tiles
from benchmarks.heads.page import CHANGED, METRICS, render
from benchmarks.heads.prompts import BOXES, TIGHT, WAYS, prompts_on, ways_for
from benchmarks.heads.scores import METRICS as COLUMNS
from benchmarks.heads.scores import measure, nothing_but_boundary, score
from benchmarks.heads.subjects import Ellipse, card_of, inscribed, parse_heads, settings_of
from benchmarks.heads.tiles import AnnotatedTile, AskedPatch, Family, patches_of, read_tiles
from wsi_pipeline.errors import DatasetError, WeightsError
from wsi_pipeline.models.hq_decoder import HqMaskDecoder
from wsi_pipeline.models.roles import MaskBatch
from wsi_pipeline.training.data.samples import Picture

SIZE = 64


def labelled(width: int, height: int, side: int = 9, spacing: int = 14) -> np.ndarray:
    """(height, width) int32: squares that do not touch, numbered row by row."""
    labels = np.zeros((height, width), np.int32)
    corners = [(y, x) for y in range(2, height - side, spacing) for x in range(3, width - side, spacing)]
    for number, (y, x) in enumerate(corners, start=1):
        labels[y : y + side, x : x + side] = number
    return labels


def tile_of(labels: np.ndarray, family: Family = tiles.FAMILIES["tnbc"], number: int = 0) -> AnnotatedTile:
    image = np.random.default_rng(number).integers(0, 255, (*labels.shape, 3), np.uint8)
    return AnnotatedTile(number, Picture(image, labels, np.ones(labels.shape, bool)), family, "tnbc", f"g{number}")


@pytest.fixture(autouse=True)
def _small_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(laid_out, "OVERLAP", 20)


@pytest.mark.parametrize(("width", "height"), [(150, 110), (64, 64), (200, 40)])
def test_every_object_is_asked_about_once(width: int, height: int) -> None:
    labels = labelled(width, height)
    patches = list(patches_of(tile_of(labels), SIZE))
    asked = np.concatenate([patch.labels for patch in patches])
    assert sorted(asked.tolist()) == list(range(1, labels.max() + 1))
    for patch in patches:
        areas = np.bincount(labels.ravel())[patch.labels]
        assert patch.cut == 0
        np.testing.assert_array_equal(patch.truth.sum(axis=(1, 2)), areas)


def test_most_central_agrees_with_trying_every_patch() -> None:
    labels = labelled(150, 110)
    plan = laid_out.layout(150, 110, SIZE)
    places = [plan.tile(row, col) for row in range(plan.rows) for col in range(plan.cols)]
    wanted = np.unique(labels)[1:]
    for label, home in zip(wanted, tiles.most_central(labels, wanted, places), strict=True):
        rows, columns = np.nonzero(labels == label)
        middle = np.array([columns.mean() + 0.5, rows.mean() + 0.5])
        distances = [np.hypot(*(middle - (p.x + SIZE / 2, p.y + SIZE / 2))) for p in places]
        assert distances[home] == pytest.approx(min(distances))


def test_glands_at_half_size_are_one_patch_and_small_objects_are_left_out() -> None:
    labels = np.zeros((2 * SIZE, 2 * SIZE), np.int32)
    labels[20:60, 30:90] = 1
    labels[100:106, 100:106] = 2  # 9 px at half size
    (patch,) = patches_of(tile_of(labels, tiles.FAMILIES["rings_prostate"]), SIZE)
    assert patch.labels.tolist() == [1]
    assert patch.known.all()
    assert patch.pair.high.shape == patch.pair.low.shape == (1, SIZE, SIZE, 3)
    np.testing.assert_array_equal(patch.truth[0], labels[1::2, 1::2] == 1)


def test_the_low_patch_sees_the_surroundings() -> None:
    labels = labelled(4 * SIZE, 4 * SIZE)
    tile = tile_of(labels)
    tile.picture.image[:] = np.linspace(0, 255, 4 * SIZE).astype(np.uint8)[None, :, None]
    for patch in patches_of(tile, SIZE):
        if patch.known.all():
            high, low = (one[0, SIZE // 2, :, 0].astype(float) for one in (patch.pair.high, patch.pair.low))
            inner = slice(SIZE // 4, 3 * SIZE // 4)
            np.testing.assert_allclose(low[inner], high.reshape(-1, 2).mean(axis=1), atol=2)


def test_px_beyond_the_tile_are_unknown() -> None:
    (patch,) = patches_of(tile_of(labelled(SIZE, 40)), SIZE)
    assert patch.known.sum() == SIZE * 40


def test_a_limit_takes_objects_evenly_and_does_not_change_their_prompts() -> None:
    tile = tile_of(labelled(150, 110))
    boxes = {}
    for limit in (None, 5):
        for patch in patches_of(tile, SIZE, limit):
            for label, box in zip(patch.labels.tolist(), _boxes_of(patch), strict=True):
                boxes.setdefault(label, []).append(box)
    asked_twice = [both for both in boxes.values() if len(both) == 2]
    assert len(asked_twice) == 5
    for first, second in asked_twice:
        np.testing.assert_array_equal(first, second)


def _boxes_of(patch: AskedPatch) -> np.ndarray:
    boxes = prompts_on(patch, BOXES[2]).boxes
    assert boxes is not None
    return boxes


def test_boxes_are_tight_at_px_corners_and_jittered_within_bounds() -> None:
    labels = np.zeros((SIZE, SIZE), np.int32)
    labels[10:30, 20:36] = 1
    (patch,) = patches_of(tile_of(labels), SIZE)
    (tight,) = prompts_on(patch, TIGHT).boxes
    assert tight.tolist() == [20, 10, 36, 30]
    for way in BOXES[1:]:
        (box,) = prompts_on(patch, way).boxes
        assert not np.array_equal(box, tight)
        assert (np.abs(box - tight) <= way.jitter * np.tile([16, 20], 2)).all()


def test_points_and_masks_are_of_the_object() -> None:
    labels = np.zeros((SIZE, SIZE), np.int32)
    labels[10:30, 20:36] = 1
    (patch,) = patches_of(tile_of(labels), SIZE)
    for way in WAYS[3:6]:
        prompts = prompts_on(patch, way)
        x, y = np.floor(prompts.points[0]).astype(int).T
        assert len(x) == way.points
        assert patch.truth[0, y, x].all()
        assert (prompts.point_labels == 1).all()
    outline = prompts_on(patch, WAYS[6])
    logits = outline.masks[0]
    rows, columns = np.nonzero(logits > 0)
    assert outline.boxes[0].tolist() == [
        columns.min() / 4,
        rows.min() / 4,
        (columns.max() + 1) / 4,
        (rows.max() + 1) / 4,
    ]
    inside = np.kron(patch.truth[0], np.ones((4, 4), bool))
    assert set(np.unique(logits)) == {-6.0, 6.0}
    assert ((logits > 0) == inside).mean() > 0.9


def test_a_model_of_boxes_is_asked_with_boxes() -> None:
    assert ways_for({"box"}) == list(BOXES)
    assert ways_for({"box", "point", "mask"}) == list(WAYS)


def test_the_ellipse_finds_an_ellipse() -> None:
    boxes = np.array([[10.0, 8.0, 50.0, 32.0]])
    drawn = inscribed(boxes, SIZE)
    y, x = np.mgrid[:SIZE, :SIZE]
    truth = ((x + 0.5 - 30) / 20) ** 2 + ((y + 0.5 - 20) / 12) ** 2 <= 1
    assert score(drawn, truth[None])[0, 0] > 0.99
    (patch,) = patches_of(tile_of(truth.astype(np.int32)), SIZE)
    found = measure("ellipse", Ellipse(), [patch], [TIGHT])
    assert found[TIGHT.name][0].min() > 0.99


def test_a_box_without_extent_holds_nothing() -> None:
    assert not inscribed(np.array([[4.0, 4.0, 4.0, 4.0]]), SIZE).any()


def test_scores_of_a_shifted_square() -> None:
    truth, shifted = np.zeros((2, 1, SIZE, SIZE), bool)
    truth[0, 20:40, 20:40] = True
    shifted[0, 20:40, 22:42] = True
    dice, iou, wide, narrow = score(shifted, truth)[0]
    assert dice == pytest.approx(0.9)
    assert iou == pytest.approx(18 / 22)
    assert narrow < wide < iou
    assert score(truth, truth).tolist() == [[1, 1, 1, 1]]
    assert score(np.zeros_like(truth), truth).tolist() == [[0, 0, 0, 0]]


def test_nothing_but_boundary() -> None:
    masks = np.zeros((2, 256, 256), bool)
    masks[0, 10:24, 10:24] = True  # 7 px from every side
    masks[1, 10:30, 10:30] = True
    assert nothing_but_boundary(masks).tolist() == [True, False]


def test_answers_in_windows_are_put_where_they_belong() -> None:
    logits = np.array([[[1.0, -1.0], [2.0, -32.0]], [[-1.0, 3.0], [-1.0, -1.0]]], np.float32)
    masks = MaskBatch(logits, np.array([[3, 5], [0, 0]]), np.zeros(2, np.float32)).on_patch(8)
    assert [list(zip(*np.nonzero(mask), strict=True)) for mask in masks] == [[(5, 3), (6, 3)], [(0, 1)]]


def table_of(patches: int) -> tuple[list[AskedPatch], summary.Objects]:
    made = [p for number in range(patches) for p in patches_of(tile_of(labelled(80, 60), number=number), SIZE)]
    return made, summary.Objects.of(made)


def test_a_head_does_not_differ_from_itself() -> None:
    patches, objects = table_of(3)
    scores = measure("ellipse", Ellipse(), patches, BOXES)
    compared = summary.compared(scores, scores, objects)
    assert set(compared) == {measure.name for measure in summary.MEASURES if measure.family != tiles.REGIONS}
    assert all(estimate == [0, 0, 0] for estimate in compared.values())


def test_a_difference_that_all_objects_share_has_no_spread() -> None:
    base = np.random.default_rng(0).random(60)
    value, low, high = summary.paired(base, base + 0.1, [f"g{number % 4}" for number in range(60)])
    assert (value, low, high) == pytest.approx((0.1, 0.1, 0.1))


def test_groups_and_not_objects_are_drawn() -> None:
    gain = np.repeat([0.0, 0.2], 30)
    groups = ["a"] * 30 + ["b"] * 30
    value, low, high = summary.paired(np.zeros(60), gain, groups)
    assert (value, low, high) == pytest.approx((0.1, 0.0, 0.2))
    assert np.isnan(summary.paired(np.zeros(60), gain, ["a"] * 60)[1])


def test_means_are_over_objects_of_a_set() -> None:
    objects = summary.Objects(
        np.array(["tnbc", "tnbc", "benign gland"]),
        np.array([tiles.NUCLEI, tiles.NUCLEI, tiles.REGIONS]),
        np.array(["a", "b", "c"]),
    )
    values = np.tile([[0.2], [0.4], [0.9]], len(COLUMNS))
    found = summary.means({"tight box": values}, objects)["tight box"]
    assert {name: of["dice"] for name, of in found.items()} == {
        "tnbc": 0.3,
        "benign gland": 0.9,
        tiles.NUCLEI: 0.3,
        tiles.REGIONS: 0.9,
        summary.ALL: 0.5,
    }


def test_parts_that_are_taken_out_are_silent() -> None:
    torch.manual_seed(0)
    decoder = HqMaskDecoder(8)
    embedding, early = torch.randn(1, 256, 4, 4), torch.randn(1, 4, 4, 8)
    with torch.inference_mode():
        assert decoder.image_features(embedding, early).abs().max() > 0
        ablation.without_features(decoder)
        assert decoder.image_features(embedding, early).abs().max() == 0
        decoder.add_nothing()
        assert decoder.hf_mlp(torch.randn(3, 256)).abs().max() == 0


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """Writes a data set of a tile per row."""

    def write(*rows: dict[str, str]) -> Path:
        labels = labelled(80, 60)
        columns = ("file", "mask", "dataset", "split", "group", "object_class", "licence")
        with (tmp_path / "manifest.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            for number, row in enumerate(rows):
                image, mask = f"{number}.png", f"{number}_mask.png"
                Image.fromarray(np.full((*labels.shape, 3), 200, np.uint8)).save(tmp_path / image)
                Image.fromarray(labels.astype(np.uint8)).save(tmp_path / mask)
                known = {"file": image, "mask": mask, "group": f"g{number}", "licence": "CC0-1.0"}
                writer.writerow(known | {"object_class": "nucleus", "dataset": "tnbc", "split": "val"} | row)
        return tmp_path

    return write


def test_only_validation_tiles_are_read(folder: Callable[..., Path]) -> None:
    data = folder({"split": "train"}, {}, {"dataset": "rings_prostate", "object_class": "benign gland"})
    read = [(tile.number, tile.kind, tile.family.name) for tile in read_tiles(data)]
    assert read == [(1, "tnbc", tiles.NUCLEI), (2, "benign gland", tiles.REGIONS)]


def test_an_unknown_data_set_is_an_error(folder: Callable[..., Path]) -> None:
    with pytest.raises(DatasetError, match="line 2: nobody says how to ask about moon"):
        list(read_tiles(folder({"dataset": "moon"})))


def test_a_card_tells_how_its_head_is_asked(tmp_path: Path) -> None:
    weights = tmp_path / "pa.safetensors"
    assert card_of(weights) == {}
    assert settings_of("pa-sam", weights).backbone == "lite-medsam"
    card = {"segment": {"model": "pa-sam", "backbone": "vit-b", "edges": "image", "weights": "pa.safetensors"}}
    weights.with_suffix(".json").write_text(json.dumps(card))
    settings = settings_of("pa-sam", weights)
    assert (settings.backbone, settings.edges, settings.weights) == ("vit-b", "image", str(weights))
    with pytest.raises(WeightsError, match="is of pa-sam"):
        settings_of("hq-sam", weights)


def test_heads_are_named_once() -> None:
    found = parse_heads(["hq-sam", "wsi-sam=a/b.safetensors"])
    assert found == {"hq-sam": None, "wsi-sam": Path("a/b.safetensors")}
    for words in (["hq-sam", "hq-sam=x"], ["sam"]):
        with pytest.raises(ValueError, match="compared already"):
            parse_heads(words)


class _Blind(Ellipse):
    """Stands for a model; it answers like an ellipse."""

    prompt_kinds = frozenset({"box"})


def test_the_page_tells_all_and_no_folder(
    folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "build", lambda settings, embeddings: _Blind())
    monkeypatch.setattr(study.ablation, "ablated", lambda settings, name, embeddings: _Blind())
    data, page, numbers = folder({}, {}), tmp_path / "deep" / "page.md", tmp_path / "numbers.json"
    words = ["--data", data, "--head", "wsi-sam", "--limit", "4", "--write", page, "--json", numbers]
    monkeypatch.setattr(sys, "argv", ["heads", *map(str, words)])
    command.main()
    text, found = page.read_text(), json.loads(numbers.read_text())
    assert str(tmp_path) not in text
    assert "at most 4 objects" in text
    assert "not asked with 1 point, 3 points, 5 points, noised mask." in text
    assert found["sets"]["all"] == {"objects": 8, "groups": 2}
    assert found["differences"]["sam"]["wsi-sam"]["Dice, nuclei"] == [0, 0, 0]
    assert f"| tight box | `wsi-sam` | {found['means']['wsi-sam']['tight box']['tnbc']['iou']:.3f} |" in text
    assert all(title in text for title in METRICS.values())
    assert set(found["ablation"]) == set(CHANGED)
    assert text == render(found, text.split("```sh\n")[1].split("\n```")[0])
