"""SAM-CLIP as a prompter: places that fit the words for a class, for any segmenter."""

from __future__ import annotations

from wsi_pipeline.errors import WorkflowError
from wsi_pipeline.models.roles import Detections, PairImages
from wsi_pipeline.models.sam_clip.model import SamClip
from wsi_pipeline.models.sam_clip.prompts import detections_of
from wsi_pipeline.workflow import TextPrompts


class TextPrompter:
    """A ``Prompter``: boxes, surest px and classes of what fits the words; see ``roles.Prompter``.

    Args:
        model: encodes and understands.
        settings: the classes, and what counts as a place. Class n of the results is the n-th of ``settings.targets``.

    Attributes:
        encoder: counts the patches it encoded.

    Raises:
        WorkflowError: there is nothing to tell a class from, or the text encoder does not know a word.
    """

    uses_low_patch = False

    def __init__(self, model: SamClip, settings: TextPrompts) -> None:
        if not settings.targets or len(settings.names) < 2:
            raise WorkflowError(
                "a px is of the class that it fits best, and one class alone fits everywhere",
                where="prompts.classes",
                fix="Add a class for all else, and name it in prompts.background",
            )
        model.classes(settings)  # an unknown word shows now
        self._model, self.settings = model, settings
        self._wanted = [number for number, name in enumerate(settings.names) if name != settings.background]
        self.input_size: int | None = model.input_size
        self.class_names = settings.targets
        self.encoder = model.encoder

    def detect(self, pairs: PairImages, *, mpp: float) -> list[Detections]:
        """Places on each high patch; scores are mean probabilities. See ``roles.Prompter``."""
        px = self._model.input_size / self._model.mask_size
        text_map = self._model.text_map(self._model.encode(pairs), self.settings)
        area = self.settings.min_area / (mpp * px) ** 2
        found = self._model.pieces(text_map, self._wanted, threshold=self.settings.threshold, min_area=area)
        return [detections_of(pieces, px) for pieces in found]
