"""When bf16 is taken, when it is not, and that the choice is made once."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from wsi_pipeline.errors import WorkflowError
from wsi_pipeline.models import precision, registry, weights
from wsi_pipeline.models.precision import choose_precision, compare, has_bf16, pick_device, reference_pair
from wsi_pipeline.models.registry import ModelSpec
from wsi_pipeline.models.roles import MaskBatch, PairImages, PromptBatch
from wsi_pipeline.workflow import SegmentSettings


class Fake:
    """Draws every box as a mask, shifted and slowed as told."""

    input_size = 64
    mask_size = 16
    uses_low_patch = True
    n_guesses = 1
    prompt_kinds = frozenset({"box"})

    def __init__(self, *, shift: int = 0, seconds: float = 0.0) -> None:
        self.shift, self.seconds = shift, seconds

    def encode(self, pairs: PairImages) -> None:
        assert pairs.low is not None
        assert pairs.low.shape == pairs.high.shape
        time.sleep(self.seconds)

    def decode(
        self, embedding: None, prompts: PromptBatch, *, margin: float | None = None, guesses: bool = False
    ) -> MaskBatch:
        assert prompts.boxes is not None
        logits = np.full((len(prompts), 64, 64), -1.0, np.float32)
        for number, (x0, y0, x1, y1) in enumerate(prompts.boxes.round().astype(int)):
            logits[number, y0:y1, x0 + self.shift : x1 + self.shift] = 1.0
        return MaskBatch(logits, np.zeros((len(prompts), 2), np.int64), np.ones(len(prompts), np.float32))


def test_faster_and_equal_bf16_is_taken() -> None:
    choice = compare(lambda dtype: Fake(seconds=0.02 if dtype == "fp32" else 0.005))
    assert choice.dtype == "bf16"
    assert choice.agreement == 1.0
    assert choice.speedup is not None
    assert choice.speedup > 1.5


def test_bf16_with_other_masks_is_refused_however_fast() -> None:
    choice = compare(lambda dtype: Fake(seconds=0.02) if dtype == "fp32" else Fake(shift=1))
    assert choice.dtype == "fp32"
    assert choice.agreement is not None
    assert choice.agreement < 0.99
    assert "masks differ" in choice.reason


def test_bf16_that_is_not_faster_is_refused() -> None:
    choice = compare(lambda dtype: Fake(seconds=0.01))
    assert choice.dtype == "fp32"
    assert "does not pay" in choice.reason


def test_a_model_of_points_is_asked_at_the_middles_of_the_boxes() -> None:
    asked: list[np.ndarray] = []

    class OfPoints(Fake):
        prompt_kinds = frozenset({"point"})

        def decode(
            self, embedding: None, prompts: PromptBatch, *, margin: float | None = None, guesses: bool = False
        ) -> MaskBatch:
            assert prompts.boxes is None
            assert prompts.points is not None
            asked.append(prompts.points)
            return super().decode(embedding, PromptBatch(prompts.image_index, boxes=np.tile(prompts.points[:, 0], 2)))

    compare(lambda dtype: OfPoints())
    _, boxes = reference_pair(OfPoints.input_size)
    np.testing.assert_allclose(asked[0][:, 0], (boxes[:, :2] + boxes[:, 2:]) / 2)


def test_patch_and_boxes_of_the_caller_are_used() -> None:
    seen: list[int] = []

    class Watching(Fake):
        def decode(
            self, embedding: None, prompts: PromptBatch, *, margin: float | None = None, guesses: bool = False
        ) -> MaskBatch:
            seen.append(len(prompts))
            return super().decode(embedding, prompts)

    image = np.zeros((1, 64, 64, 3), np.uint8)
    compare(lambda dtype: Watching(), patch=PairImages(image, image), boxes=np.array([[1, 1, 9, 9]], np.float32))
    assert set(seen) == {1}


@pytest.mark.parametrize("size", [64, 256])
def test_reference_pair_is_stained_and_always_the_same(size: int) -> None:
    pair, boxes = reference_pair(size)
    again, _ = reference_pair(size)
    assert pair.low is not None
    assert again.low is not None
    assert np.array_equal(pair.high, again.high)
    assert np.array_equal(pair.low, again.low)
    assert pair.high.shape == pair.low.shape == (1, size, size, 3)
    assert len(boxes) >= 8
    assert boxes.min() >= 0
    assert boxes.max() <= size
    for x0, y0, x1, y1 in boxes.astype(int):
        inside = pair.high[0, (y0 + y1) // 2, (x0 + x1) // 2].astype(int)
        assert inside[1] < pair.high[0, :, :, 1].max() - 30, "a box holds something darker than the tissue"


def test_low_patch_shows_the_high_one_in_its_centre() -> None:
    pair, _ = reference_pair(64)
    assert pair.low is not None
    shrunk = pair.high[0].reshape(32, 2, 32, 2, 3).mean(axis=(1, 3))
    assert np.abs(pair.low[0, 16:48, 16:48] - shrunk).max() <= 1


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """A model ``fake`` whose builds are counted, on a device that has bf16."""
    built: list[str] = []

    def build(settings: SegmentSettings, *, device: str, dtype: str) -> Any:
        built.append(dtype)
        return Fake(seconds=0.02 if dtype == "fp32" else 0.0)

    file = tmp_path / "fake.bin"
    file.write_bytes(b"one")
    spec = ModelSpec("fake", ("Segmenter",), "", build, weight_files=lambda settings: {"fake": file})
    monkeypatch.setitem(registry._BUILT_IN, "fake", spec)
    monkeypatch.setattr(precision, "has_bf16", lambda device: True)
    monkeypatch.setattr(precision, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(weights, "cache_folder", lambda: tmp_path / "cache")
    return built


def test_choice_is_measured_once_per_weights(counted: list[str], tmp_path: Path) -> None:
    settings = SegmentSettings(model="fake", device="cpu")
    first = choose_precision(settings)
    assert first.dtype == "bf16"
    assert choose_precision(settings) == first
    assert counted == ["fp32", "bf16"]
    (tmp_path / "fake.bin").write_bytes(b"other weights")
    choose_precision(settings)
    assert counted == ["fp32", "bf16"] * 2


def test_damaged_memory_is_measured_anew(counted: list[str], tmp_path: Path) -> None:
    settings = SegmentSettings(model="fake", device="cpu")
    choose_precision(settings)
    (kept,) = (tmp_path / "cache" / "precision").iterdir()
    kept.write_text('{"dtype": "fp8", "reason": ""}')
    assert choose_precision(settings).dtype == "bf16"
    assert len(counted) == 4


def test_asked_precision_is_obeyed_without_building(counted: list[str]) -> None:
    for name in ("fp32", "bf16"):
        choice = choose_precision(SegmentSettings(model="fake", device="cpu", precision=name))
        assert (choice.dtype, choice.agreement) == (name, None)
    assert counted == []


def test_hardware_without_bf16_gets_fp32_without_building(counted: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "has_bf16", lambda device: False)
    choice = choose_precision(SegmentSettings(model="fake", device="cpu"))
    assert choice.dtype == "fp32"
    assert choice.reason.endswith("has no bf16")
    assert counted == []


def test_devices_torch_does_not_have_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto") == "cuda"
    assert [pick_device(name) for name in ("cpu", "cuda", "cuda:0")] == ["cpu", "cuda", "cuda:0"]
    with pytest.raises(WorkflowError, match="cuda:1 was asked for, but 1 CUDA devices are visible"):
        pick_device("cuda:1")
    for name in ("gpu", "cuda:x", "cpu:0", ""):
        with pytest.raises(WorkflowError, match="no such device"):
            pick_device(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == "cpu"


def test_cpu_feature_flags_decide_on_x86(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision.platform, "machine", lambda: "x86_64")
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False, raising=False)
    assert not has_bf16("cpu")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True, raising=False)
    assert has_bf16("cpu")
