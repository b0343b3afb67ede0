"""A trained SAPNet at work: its instance branch finds the objects of patches without clicks."""

from __future__ import annotations

import numpy as np
import torch

from wsi_pipeline.models.placing import suited
from wsi_pipeline.models.roles import Instances, MaskBatch, PairImages
from wsi_pipeline.models.sam import Sam
from wsi_pipeline.models.sapnet.feature_maps import FeatureMaps
from wsi_pipeline.models.sapnet.network import SapNet
from wsi_pipeline.models.sapnet.solo_results import Solos, draw
from wsi_pipeline.models.windows import CELLS, Windows
from wsi_pipeline.segment.decoding import calls_that_fit

MARGIN = 0.1
"""Objects are drawn in windows around them, grown by this share of their size."""


class SapNetSegmenter:
    """Finds and names the objects of high patches; the low patch is not looked at.

    Args:
        network: trained with an instance branch.
        sam: its encoder is what the network stands on, unless it looks at pixels.
        device: where to compute.
        dtype: of the encoder; all else stays float32.

    Attributes:
        encoder: counts the patches it encoded; None where the network looks at pixels.
    """

    uses_low_patch = False

    def __init__(
        self, network: SapNet, sam: Sam, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        self.device, self.input_size = torch.device(device), sam.variant.image_size
        self.class_names = network.settings.classes
        self._maps = FeatureMaps(network, sam, device=self.device, dtype=dtype)
        self._images_per_call = suited(self.device, cpu=1, gpu=8)
        self.encoder = self._maps.encoder

    @torch.inference_mode()
    def find(self, pairs: PairImages, *, mpp: float, min_score: float, max_objects: int) -> list[list[Instances]]:
        """Find and draw the objects of B pairs; ``mpp`` is not looked at.

        Arguments and result as of ``roles.InstanceSegmenter``.

        Raises:
            ValueError: patches of another size.
        """
        network, size = self._maps.network, (self.input_size, self.input_size)
        found: list[list[Instances]] = []
        for levels in self._maps.of(pairs.high, self._images_per_call):
            solos = network.predict(levels, size, min_score=min_score, max_objects=max_objects)
            found += [instances_of(one, self.input_size) for one in solos]
        return found


def instances_of(found: Solos, size: int) -> list[Instances]:
    """The objects of a patch of ``size`` px in windows, those of one side together."""
    if not len(found):
        return []
    windows = Windows.around(found.boxes.cpu().numpy(), MARGIN, size)
    corners, sides = windows.corners(size), windows.side * (size // CELLS)
    groups: list[Instances] = []
    for side in np.unique(sides):
        alike = np.flatnonzero(sides == side)
        calls = (alike[rows] for rows in calls_that_fit(sides[alike]))
        groups += [_group(found, rows, corners[rows], int(side), size) for rows in calls]
    return groups


def _group(found: Solos, rows: np.ndarray, corners: np.ndarray, side: int, size: int) -> Instances:
    """Some objects, drawn in windows of one side that begin at ``corners`` (n, 2)."""
    scores, labels, boxes, kernels = (part[rows] for part in (found.scores, found.labels, found.boxes, found.kernels))
    start = torch.from_numpy(corners).to(boxes.device)
    logits = draw(Solos(scores, labels, boxes, kernels, found.feature), (size, size), start, side).cpu().numpy()
    sure = scores.cpu().numpy()
    return Instances(MaskBatch(logits, corners, sure), boxes.cpu().numpy(), sure, labels.cpu().numpy() + 1)
