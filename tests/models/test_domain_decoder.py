"""The domain decoder is small, looks at one patch or at both, and its file says what it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from wsi_pipeline.errors import WeightsError
from wsi_pipeline.models.checkpoints import identify, read_metadata
from wsi_pipeline.models.convert import import_checkpoint
from wsi_pipeline.models.domain_decoder.decoder import (
    DecoderFacts,
    DomainDecoder,
    load_domain_decoder,
    middle,
)
from wsi_pipeline.models.layers import EncoderOutput
from wsi_pipeline.models.resolve import domain_plan
from wsi_pipeline.models.weights import locate

ALONE = DecoderFacts(classes=("nucleus",), backbone="lite-medsam", early_channels=160)
PAIRED = DecoderFacts(classes=("gland", "tumour"), backbone="lite-medsam", early_channels=160, context_factor=2.0)


def seen(count: int) -> EncoderOutput:
    return EncoderOutput(torch.randn(count, 256, 64, 64), torch.randn(count, 64, 64, 160))


def saved(path: Path, facts: DecoderFacts) -> Path:
    decoder = DomainDecoder(facts)
    save_file(decoder.state_dict(), path, metadata=facts.metadata())
    return path


@pytest.mark.parametrize("facts", [ALONE, PAIRED])
def test_maps_are_256_px_and_distances_are_shares(facts: DecoderFacts) -> None:
    maps = DomainDecoder(facts).eval()(seen(2), torch.randn(2, 256, 64, 64) if facts is PAIRED else None)
    shape = (2, len(facts.classes), 256, 256)
    assert maps.masks.shape == maps.distances.shape == shape
    assert 0 <= maps.distances.min() <= maps.distances.max() <= 1


def test_the_low_patch_is_cropped_to_the_field_of_the_high_one() -> None:
    low = torch.arange(64.0).expand(1, 1, 64, 64)
    for factor, first in ((2.0, 16), (4.0, 24)):
        px_middles = first + (torch.arange(64) + 0.5) / factor - 0.5
        torch.testing.assert_close(middle(low, factor)[0, 0, 32], px_middles)


def test_the_low_patch_counts_only_for_a_decoder_that_looks_at_it() -> None:
    high, (low, other) = seen(1), torch.randn(2, 1, 256, 64, 64)
    paired, alone = DomainDecoder(PAIRED).eval(), DomainDecoder(ALONE).eval()
    assert not torch.equal(paired(high, low).masks, paired(high, other).masks)
    assert torch.equal(alone(high, low).masks, alone(high, None).masks)


def test_an_image_does_not_depend_on_the_others_of_its_batch() -> None:
    high = seen(3)
    decoder = DomainDecoder(ALONE).train()
    decoder.dropout.eval()
    torch.testing.assert_close(
        decoder(high, None).masks[:1], decoder(EncoderOutput(*(part[:1] for part in high)), None).masks
    )


@pytest.mark.parametrize("facts", [ALONE, PAIRED])
def test_it_is_light(facts: DecoderFacts) -> None:
    assert sum(parameter.numel() for parameter in DomainDecoder(facts).parameters()) < 750_000


@pytest.mark.parametrize("facts", [ALONE, PAIRED])
def test_a_file_says_classes_backbone_and_context(tmp_path: Path, facts: DecoderFacts) -> None:
    path = saved(tmp_path / "decoder.safetensors", facts)
    assert DecoderFacts.read(path) == facts
    assert load_domain_decoder(path).facts == facts
    plan = domain_plan(str(path))
    assert plan.backbone.name == "lite-medsam"
    assert plan.files["domain-decoder"] == path


def test_keys_tell_a_domain_decoder() -> None:
    assert identify(DomainDecoder(ALONE).state_dict()).kind == "domain-decoder"


def test_an_imported_decoder_still_says_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WSI_PIPELINE_WEIGHTS", str(tmp_path / "store"))
    import_checkpoint(saved(tmp_path / "decoder.safetensors", PAIRED), name="my-glands")
    assert DecoderFacts.read(locate("my-glands")) == PAIRED
    assert read_metadata(locate("my-glands"))["kind"] == "domain-decoder"


def test_a_file_that_does_not_say_its_classes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bare.safetensors"
    save_file(DomainDecoder(ALONE).state_dict(), path)
    with pytest.raises(WeightsError, match="does not say which classes it finds"):
        load_domain_decoder(path)


def test_weights_of_another_kind_are_refused() -> None:
    with pytest.raises(WeightsError, match="holds SAM LiteMedSAM, but domain decoder was expected"):
        domain_plan("lite-medsam")


def test_a_backbone_nobody_knows_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "decoder.safetensors", ALONE.model_copy(update={"backbone": "vit-x"}))
    with pytest.raises(WeightsError, match=r"was trained on the backbone vit-x that is not known here. Train it again"):
        domain_plan(str(path))
