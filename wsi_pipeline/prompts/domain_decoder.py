"""Objects that a domain decoder sees on the embedding the segmenter works on: a prompter that costs no encoder call."""

from __future__ import annotations

from wsi_pipeline.models.domain_decoder.model import DomainModel
from wsi_pipeline.models.domain_decoder.object_map import ObjectMap, detections_of, split_maps
from wsi_pipeline.models.domain_decoder.splitting import SplitSettings
from wsi_pipeline.models.resolve import domain_plan, target_number
from wsi_pipeline.models.roles import Detections, PairImages
from wsi_pipeline.workflow import DomainDecoderPrompts


class DomainPrompter:
    """A ``Prompter``: boxes and inner points of the objects of one class.

    Args:
        settings: the file, the class, and how objects are told apart.
        device, dtype: those of the segmenter, so that both share an encoder and every embedding.

    Attributes:
        model: sees them.
        encoder: counts the patches it encoded.

    Raises:
        WeightsError: the file is missing or of something else.
        WorkflowError: the decoder does not know the class.
    """

    def __init__(self, settings: DomainDecoderPrompts, *, device: str = "cpu", dtype: str = "fp32") -> None:
        self.settings = settings
        self.model = DomainModel(domain_plan(settings.weights), device=device, dtype=dtype)
        self.input_size: int | None = self.model.size
        self.uses_low_patch = self.model.uses_low_patch
        self.encoder = self.model.encoder
        self._class = target_number(settings, self.model.facts.classes)

    def detect(self, pairs: PairImages, *, mpp: float) -> list[Detections]:
        """Objects of each high patch, from top to bottom; scores are mean probabilities. See ``Prompter``."""
        return [detections_of(seen, self.model.px) for seen in self.see(pairs, mpp=mpp)]

    def see(self, pairs: PairImages, *, mpp: float) -> list[ObjectMap]:
        """The same objects as labels; ``mpp`` is µm per px of the high patches."""
        settings = self.settings
        area = settings.min_area / (mpp * self.model.px) ** 2
        split = SplitSettings(settings.threshold, settings.prominence, min_area=area)
        return split_maps(self.model.maps(pairs), self._class, split)
