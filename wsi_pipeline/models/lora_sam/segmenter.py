"""A trained LoRA-SAM at work: it finds the objects of patches by itself."""

from __future__ import annotations

import copy

import torch

from wsi_pipeline.models.encoding import shared_encoder
from wsi_pipeline.models.lora_sam.lora import merge
from wsi_pipeline.models.lora_sam.model import LoraSam
from wsi_pipeline.models.lora_sam.prompted import PromptedLoraSam
from wsi_pipeline.models.placing import suited
from wsi_pipeline.models.roles import Instances, PairImages


class LoraSamSegmenter:
    """Finds the objects of high patches; the low patch is not looked at.

    Args:
        model: its adapter is merged into the encoder; the model itself is not changed.
        device: where to compute.
        dtype: of the encoder and of SAM's mask decoder; pyramid and heads stay float32.
        margin: draw only the object's box grown by this share of its size; None draws the whole patch.
    """

    uses_low_patch = False

    def __init__(
        self,
        model: LoraSam,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        margin: float | None = 0.5,
    ) -> None:
        self.device = torch.device(device)
        self.input_size, self.class_names = model.size, model.settings.classes
        self._margin = margin
        self._images_per_call = suited(self.device, cpu=1, gpu=8)
        own = copy.deepcopy(model).eval().to(self.device)
        merge(own.image_encoder)
        self.encoder = shared_encoder(own.encoder(), own.pixels, own.size, device=self.device, dtype=dtype)
        # the shared encoder has the weights now
        del own.image_encoder
        if isinstance(own, PromptedLoraSam):
            own.mask_decoder.to(dtype)
            own.decode_batch = suited(self.device, cpu=8, gpu=64)
        self._model = own

    @torch.inference_mode()
    def find(self, pairs: PairImages, *, mpp: float, min_score: float, max_objects: int) -> list[list[Instances]]:
        """Find and draw the objects of B pairs; ``mpp`` is not looked at.

        Arguments and result as of ``roles.InstanceSegmenter``.

        Raises:
            ValueError: patches of another size.
        """
        (seen,) = self.encoder.encode(pairs.high)
        found: list[list[Instances]] = []
        for images in seen.in_float32().few_at_once(self._images_per_call):
            found += self._model.instances(images, min_score=min_score, most=max_objects, margin=self._margin)
        return found
