"""fp32 or bf16: proposed by the hardware, decided by the masks and the clock.

bf16 is taken only where the device has it, where the masks of a reference patch agree with fp32, and where it is
faster on this very machine. The coordinator decides once and tells its workers.
"""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from wsi_pipeline.errors import WorkflowError
from wsi_pipeline.models.roles import PairImages, PromptBatch
from wsi_pipeline.models.weights import cache_folder, write_atomically
from wsi_pipeline.workflow import ModelSettings, RecogniseSettings

if TYPE_CHECKING:
    from wsi_pipeline.models.roles import Segmenter

logger = logging.getLogger(__name__)

MIN_AGREEMENT = 0.99
"""Mean IoU of bf16 and fp32 masks below which bf16 is refused."""
MIN_SPEEDUP = 1.05
"""bf16 must beat fp32 by this factor: a tie is no reason to give up digits."""
_N_BOXES = 8
_PATIENCE_S = 5.0
"""A first run longer than this counts; a shorter one only warms up for the second."""


@dataclass(frozen=True, slots=True)
class PrecisionChoice:
    """A decision and why.

    Attributes:
        dtype: ``fp32`` or ``bf16``.
        reason: one line.
        agreement: mean IoU of the bf16 masks with the fp32 masks; None when not measured.
        speedup: fp32 time / bf16 time; None when not measured.
    """

    dtype: str
    reason: str
    agreement: float | None = None
    speedup: float | None = None


def pick_device(device: str, *, where: str = "segment.device") -> str:
    """Turn ``auto``, ``cpu``, ``cuda`` or ``cuda:1`` into a device torch has; ``where`` it was asked for, for messages.

    Raises:
        WorkflowError: no such device here.
    """
    if device == "cpu":
        return device
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = device.partition(":")
    if kind != "cuda" or (number and not number.isdigit()):
        raise WorkflowError(f"no such device: {device}", where=where, fix="Use auto, cpu, cuda or cuda:0")
    if int(number or 0) >= torch.cuda.device_count():
        raise WorkflowError(
            f"{device} was asked for, but {torch.cuda.device_count()} CUDA devices are visible",
            where=where,
            fix="Use auto or cpu",
        )
    return device


def has_bf16(device: str) -> bool:
    """Whether the device computes in bf16 natively (not whether it pays)."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if platform.machine().lower() in {"x86_64", "amd64"}:
        # these names are not public; a torch without them is treated as a CPU without bf16
        checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        return any(getattr(torch.cpu, name, lambda: False)() for name in checks)
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):
        return False


def choose_precision(
    settings: ModelSettings,
    *,
    device: str | None = None,
    patch: PairImages | None = None,
    boxes: np.ndarray | None = None,
) -> PrecisionChoice:
    """Decide between fp32 and bf16 for the model of a segment section on this machine.

    The decision is kept in the user's cache under the weights' digests, the device, the thread count and torch's
    version, so that it is measured once.

    Args:
        settings: the section; ``precision`` other than ``auto`` is obeyed.
        device: torch's name; None takes ``settings.device``.
        patch: one pair to compare on; None takes a synthetic stained one.
        boxes: (N, 4) float32 prompts on ``patch`` in px; needed with it.

    Raises:
        WorkflowError, WeightsError: the model cannot be built.
    """
    from wsi_pipeline.models.registry import find_model, section_of, weights_of

    if settings.precision != "auto":
        return PrecisionChoice(settings.precision, "asked for in the workflow")
    chosen = pick_device(device or settings.device)
    if not has_bf16(chosen):
        return PrecisionChoice("fp32", f"{_hardware(chosen)} has no bf16")
    spec = find_model(settings.model, section=section_of(settings))
    if "Segmenter" not in spec.roles or isinstance(settings, RecogniseSettings):
        return PrecisionChoice("fp32", f"{spec.name} has no masks to compare; bf16 has to be asked for")
    key = _key({"model": spec.name, "weights": weights_of(settings)} | _circumstances(chosen))
    kept = _recall(key) if patch is None else None
    if kept is not None:
        return kept
    logger.info("comparing bf16 with fp32 on %s", _hardware(chosen))
    choice = compare(
        lambda dtype: cast("Segmenter", spec.build(settings, device=chosen, dtype=dtype)),
        patch=patch,
        boxes=boxes,
        margin=settings.window_margin,
    )
    if patch is None:
        _remember(key, choice)
    return choice


def compare(
    build: Callable[[str], Segmenter],
    *,
    patch: PairImages | None = None,
    boxes: np.ndarray | None = None,
    margin: float | None = None,
) -> PrecisionChoice:
    """Run fp32 and bf16 on the same patch, one after the other, and pick.

    Args:
        build: makes the model in the precision it is told.
        patch: one pair to compare on; None takes ``reference_pair``.
        boxes: (N, 4) float32 prompts on ``patch`` in px.
        margin: as in ``Segmenter.decode``.
    """
    masks: dict[str, np.ndarray] = {}
    seconds: dict[str, float] = {}
    for dtype in ("fp32", "bf16"):
        model = build(dtype)
        if patch is None or boxes is None:
            patch, boxes = reference_pair(model.input_size)
        masks[dtype], seconds[dtype] = _run(model, patch, boxes, margin)
        del model  # two large models at once may not fit
    agreement = _mean_iou(masks["fp32"], masks["bf16"])
    speedup = seconds["fp32"] / max(seconds["bf16"], 1e-9)
    facts = f"IoU with fp32 {agreement:.4f}, {speedup:.2f} times as fast"
    if agreement < MIN_AGREEMENT:
        return PrecisionChoice("fp32", f"bf16 masks differ ({facts})", agreement, speedup)
    if speedup < MIN_SPEEDUP:
        return PrecisionChoice("fp32", f"bf16 does not pay here ({facts})", agreement, speedup)
    return PrecisionChoice("bf16", f"bf16 agrees and is faster ({facts})", agreement, speedup)


def reference_pair(size: int, *, context_factor: int = 2) -> tuple[PairImages, np.ndarray]:
    """A synthetic stained patch pair, the same on every machine.

    Pale to dark oval nuclei on pink tissue with a smooth stain gradient and noise; the low patch shows the same
    scene around the high one's field.

    Returns:
        One pair of (1, size, size, 3) uint8 images, and (8, 4) float32 boxes around nuclei in high-patch px.
    """
    field = size * context_factor
    random = np.random.default_rng(20240)
    wave = np.sin(np.linspace(0, 5, field, dtype=np.float32))[None, :, None]
    tissue = np.array([228, 186, 208], np.float32) - wave * np.array([18, 25, 14], np.float32)
    tissue = np.repeat(tissue, field, axis=0)
    margin = (field - size) // 2
    boxes = []
    for cx, cy, a, b in _ovals(field, size / 16, random):
        _stain(tissue, cx, cy, a, b, strength=random.uniform(0.35, 1.0))
        box = np.array([cx - a, cy - b, cx + a, cy + b]) - margin
        if box.min() >= 0 and box.max() <= size:
            boxes.append(box)
    image = np.clip(tissue + random.normal(0, 5, tissue.shape), 0, 255)
    high = image[margin : margin + size, margin : margin + size]
    low = image.reshape(size, context_factor, size, context_factor, 3).mean(axis=(1, 3))
    pair = PairImages(high[None].astype(np.uint8), low[None].astype(np.uint8), float(context_factor))
    return pair, np.asarray(boxes[:_N_BOXES], np.float32)


def _ovals(field: int, radius: float, random: np.random.Generator) -> Iterator[tuple[float, float, float, float]]:
    """Centres and half axes in px of ovals that do not touch, on a jittered grid over ``field`` px."""
    step = int(radius * 3.2)
    for row in range(step // 2, field, step):
        for column in range(step // 2, field, step):
            dx, dy = random.uniform(-0.25, 0.25, 2) * radius
            a, b = random.uniform(0.7, 1.2, 2) * radius
            yield column + dx, row + dy, a, b


def _stain(image: np.ndarray, cx: float, cy: float, a: float, b: float, *, strength: float) -> None:
    """Paint one soft-edged nucleus into an (H, W, 3) float image."""
    reach = int(max(a, b) * 1.2) + 2
    x0, y0 = max(int(cx) - reach, 0), max(int(cy) - reach, 0)
    window = image[y0 : int(cy) + reach, x0 : int(cx) + reach]
    y, x = np.mgrid[y0 : y0 + window.shape[0], x0 : x0 + window.shape[1]]
    distance = ((x - cx) / a) ** 2 + ((y - cy) / b) ** 2
    alpha = strength * np.clip((1.15 - distance) / 0.3, 0, 1)[..., None]
    window += alpha * (np.array([98, 66, 138]) - window)


def _around(boxes: np.ndarray, kinds: frozenset[str]) -> PromptBatch:
    """What a model is asked about objects in boxes (N, 4): the boxes, or their middles where it takes points only."""
    images = np.zeros(len(boxes), np.int64)
    if "box" in kinds:
        return PromptBatch(images, boxes=boxes)
    middles = (boxes[:, None, :2] + boxes[:, None, 2:]) / 2
    return PromptBatch(images, points=middles, point_labels=np.ones(middles.shape[:2], np.int64))


def _run(model: Segmenter, patch: PairImages, boxes: np.ndarray, margin: float | None) -> tuple[np.ndarray, float]:
    """Masks (N, h, w) bool and the time of encoding and decoding in seconds."""
    prompts = _around(boxes.astype(np.float32), model.prompt_kinds)
    elapsed = 0.0
    for _ in range(2):
        start = time.perf_counter()
        answer = model.decode(model.encode(patch), prompts, margin=margin)
        elapsed = time.perf_counter() - start
        if elapsed > _PATIENCE_S:
            break
    return answer.logits > 0, elapsed


def _mean_iou(one: np.ndarray, other: np.ndarray) -> float:
    """Mean over masks of |A and B| / |A or B|; two empty masks agree."""
    axes = tuple(range(1, one.ndim))
    union = (one | other).sum(axes)
    return float(np.where(union, (one & other).sum(axes) / np.maximum(union, 1), 1.0).mean())


def _hardware(device: str) -> str:
    import torch

    if device.startswith("cuda"):
        return str(torch.cuda.get_device_name(device))
    return f"{platform.machine()} CPU ({torch.backends.cpu.get_cpu_capability()})"


def _circumstances(device: str) -> dict[str, Any]:
    import torch

    threads = torch.get_num_threads() if device == "cpu" else None
    return {"hardware": _hardware(device), "host": platform.node(), "threads": threads, "torch": torch.__version__}


def _key(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]


def _recall(key: str) -> PrecisionChoice | None:
    try:
        kept = json.loads((cache_folder() / "precision" / f"{key}.json").read_bytes())
        choice = PrecisionChoice(**kept)
    except (OSError, ValueError, TypeError):
        return None
    return choice if choice.dtype in ("fp32", "bf16") else None


def _remember(key: str, choice: PrecisionChoice) -> None:
    # a cache that cannot be written only costs time
    with suppress(OSError):
        write_atomically(cache_folder() / "precision" / f"{key}.json", json.dumps(asdict(choice)).encode())
