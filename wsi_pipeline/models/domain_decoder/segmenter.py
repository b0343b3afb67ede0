"""The domain decoder as a model of its own: the objects of all its classes, as it sees them."""

from __future__ import annotations

from wsi_pipeline.models.domain_decoder.drawing import Drawing
from wsi_pipeline.models.domain_decoder.model import DomainModel
from wsi_pipeline.models.domain_decoder.splitting import SplitSettings
from wsi_pipeline.models.resolve import WeightPlan
from wsi_pipeline.models.roles import Instances, PairImages


class DomainSegmenter:
    """Finds the objects of pairs; see ``roles.InstanceSegmenter``.

    Args:
        plan: see ``domain_plan``.
        device, dtype: as of ``DomainModel``.
        split: how objects are told apart.
        margin: windows hold the object's box grown by this share of its size.
    """

    def __init__(
        self,
        plan: WeightPlan,
        *,
        device: str = "cpu",
        dtype: str = "fp32",
        split: SplitSettings | None = None,
        margin: float | None = None,
    ) -> None:
        self._model = DomainModel(plan, device=device, dtype=dtype)
        self._drawing = Drawing(self._model.size, split or SplitSettings(), margin or 0.0)
        self.input_size, self.uses_low_patch = self._model.size, self._model.uses_low_patch
        self.class_names = self._model.facts.classes
        self.encoder = self._model.encoder

    def find(self, pairs: PairImages, *, mpp: float, min_score: float, max_objects: int) -> list[list[Instances]]:
        """Find the objects of B pairs; a score is the mean probability of an object's px; ``mpp`` is not looked at.

        Raises:
            ValueError: patches of another size, or the low ones are missing.
        """
        return self._drawing.instances(self._model.maps(pairs), min_score=min_score, most=max_objects)
