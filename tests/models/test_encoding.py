"""One embedding per patch: shared among models, recalled from memory and disk, never stale."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from wsi_pipeline.models.encoding import PatchEncoder, shared_encoder, weights_signature
from wsi_pipeline.models.layers import EncoderOutput
from wsi_pipeline.models.preprocess import UNIT_PIXELS

CPU = torch.device("cpu")


class Encoder(nn.Module):
    """Quick, and counts the patches it sees."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor([float(factor)]))
        self.seen = 0

    def forward(self, x: torch.Tensor) -> EncoderOutput:
        self.seen += len(x)
        mean = x.mean(dim=(2, 3)) * self.factor
        return EncoderOutput(mean[:, :, None, None].repeat(1, 1, 2, 2), mean[:, None, None, :].repeat(1, 2, 2, 1))


def patches(*seeds: int) -> np.ndarray:
    return np.stack([np.random.default_rng(seed).integers(0, 255, (8, 8, 3), np.uint8) for seed in seeds])


def encoder_of(module: Encoder) -> PatchEncoder:
    return shared_encoder(module, UNIT_PIXELS, 8, device=CPU, dtype=torch.float32)


def test_models_with_the_same_weights_share_an_encoder() -> None:
    one, same, other = encoder_of(Encoder(1)), encoder_of(Encoder(1)), encoder_of(Encoder(2))
    assert one is same
    assert other is not one


def test_a_patch_is_encoded_once_for_all_who_share() -> None:
    module = Encoder(3)
    first, second = encoder_of(module), encoder_of(Encoder(3))
    high, low = first.encode(patches(0, 1), patches(2, 3))
    assert module.seen == first.computed == 4
    (again,) = second.encode(patches(1, 0))
    assert module.seen == 4
    assert second.recalled == 2
    assert torch.equal(again.embedding, high.embedding.flip(0))
    assert torch.equal(again.early, high.early.flip(0))
    (mixed,) = second.encode(patches(0, 9))
    assert module.seen == 5
    assert torch.equal(mixed.embedding[0], high.embedding[0])
    assert low.embedding.shape == (2, 3, 2, 2)


def test_a_patch_that_occurs_twice_is_encoded_once() -> None:
    module = Encoder(4)
    encoder, _ = encoder_of(module), encoder_of(module)
    high, low = encoder.encode(patches(0, 1), patches(1, 1))
    assert module.seen == 2
    assert torch.equal(low.embedding[0], high.embedding[1])


def test_alone_nothing_is_kept() -> None:
    module = Encoder(5)
    encoder = encoder_of(module)
    encoder.encode(patches(0))
    encoder.encode(patches(0))
    assert module.seen == encoder.computed == 2


def test_embeddings_on_disk_serve_later_runs(tmp_path: Path) -> None:
    encoder = encoder_of(Encoder(6))
    encoder.keep_in(tmp_path)
    (fresh,) = encoder.encode(patches(0, 1))
    del encoder
    module = Encoder(6)
    later = encoder_of(module)
    later.keep_in(tmp_path)
    (kept,) = later.encode(patches(1, 0))
    assert module.seen == 0
    assert later.recalled == 2
    assert torch.equal(kept.embedding, fresh.embedding.flip(0))


def test_keeping_embeddings_can_be_stopped(tmp_path: Path) -> None:
    encoder = encoder_of(Encoder(10))
    encoder.keep_in(tmp_path)
    encoder.keep_in(None)
    encoder.encode(patches(0))
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize("change", ["weights", "precision"])
def test_embeddings_of_other_weights_or_precision_are_not_taken(tmp_path: Path, change: str) -> None:
    encoder = encoder_of(Encoder(7))
    encoder.keep_in(tmp_path)
    encoder.encode(patches(0))
    module = Encoder(8 if change == "weights" else 7)
    dtype = torch.float32 if change == "weights" else torch.bfloat16
    other = shared_encoder(module, UNIT_PIXELS, 8, device=CPU, dtype=dtype)
    other.keep_in(tmp_path)
    other.encode(patches(0))
    assert other.computed == 1
    assert other.recalled == 0


def test_a_damaged_file_is_made_again(tmp_path: Path) -> None:
    encoder = encoder_of(Encoder(9))
    encoder.keep_in(tmp_path)
    (fresh,) = encoder.encode(patches(0))
    (file,) = tmp_path.rglob("*.safetensors")
    whole = file.read_bytes()
    file.write_bytes(whole[:20])
    later = PatchEncoder(
        Encoder(9), UNIT_PIXELS, 8, signature=weights_signature(Encoder(9)), device=CPU, dtype=torch.float32
    )
    later.keep_in(tmp_path)
    (again,) = later.encode(patches(0))
    assert later.computed == 1
    assert torch.equal(again.embedding, fresh.embedding)
    assert file.read_bytes() == whole


def test_patches_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="8, 8, 3"):
        encoder_of(Encoder()).encode(np.zeros((1, 4, 4, 3), np.uint8))


def test_the_signature_knows_names_and_values() -> None:
    assert weights_signature(Encoder(1)) == weights_signature(Encoder(1)) != weights_signature(Encoder(2))
