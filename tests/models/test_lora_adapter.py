"""Low-rank adapters on SAM's encoders."""

from __future__ import annotations

import copy

import pytest
import torch

from wsi_pipeline.errors import WeightsError
from wsi_pipeline.models.lora_sam.lora import (
    adapted_layers,
    adapter_share,
    adapter_state,
    add_adapter,
    load_adapter,
    merge,
    save_adapter,
    use_adapter,
)
from wsi_pipeline.models.lora_sam.settings import AdapterSettings
from wsi_pipeline.models.sam import build_sam

IMAGE = torch.linspace(0, 1, 3 * 256 * 256).sin().view(1, 3, 256, 256)


def moved(encoder, name="default", seed=1):
    """The encoder after something was learnt."""
    generator = torch.Generator().manual_seed(seed)
    for layer in adapted_layers(encoder).values():
        half = layer.lora_B[name]
        half.weight.data += 0.1 * torch.randn(half.weight.shape, generator=generator) * half.rows
    return encoder


def embedding(encoder):
    return encoder.eval()(IMAGE).embedding


@pytest.fixture
def encoder(small_sam):
    return small_sam().image_encoder


def test_a_new_adapter_changes_nothing_to_the_last_bit(encoder):
    before = embedding(encoder)
    add_adapter(encoder, AdapterSettings(rank=4))
    assert torch.equal(embedding(encoder), before)
    assert not torch.equal(embedding(moved(encoder)), before)


@pytest.mark.slow
def test_a_new_adapter_changes_nothing_on_lite_medsam_either():
    encoder = build_sam("lite_medsam").image_encoder
    before = embedding(encoder)
    add_adapter(encoder, AdapterSettings(rank=4))
    assert torch.equal(embedding(encoder), before)


def test_merged_weights_answer_alike_and_have_the_published_form(encoder):
    keys = set(encoder.state_dict())
    add_adapter(encoder, AdapterSettings(rank=4))
    apart = embedding(moved(encoder))
    together = copy.deepcopy(encoder)
    merge(together)
    assert set(together.state_dict()) == keys
    assert not adapted_layers(together)
    torch.testing.assert_close(embedding(together), apart, rtol=1e-5, atol=1e-5)
    assert torch.equal(embedding(encoder), apart)


@pytest.mark.parametrize("variant", ["small", "lite_medsam"])
def test_keys_are_left_alone_where_only_queries_and_values_are_updated(variant, small_sam):
    """Rows of each projection, for both layouts of the fused layer, while being trained with momentum and decay."""
    encoder = (small_sam() if variant == "small" else build_sam(variant)).image_encoder
    add_adapter(encoder, AdapterSettings(rank=2, targets=("q", "v")))
    layer = next(iter(adapted_layers(encoder).values()))
    half = layer.lora_B["default"]
    with torch.enable_grad():
        optimiser = torch.optim.AdamW([half.weight], lr=0.1)
        for _ in range(3):
            optimiser.zero_grad()
            layer(torch.ones(1, layer.in_features)).square().sum().backward()
            optimiser.step()
    width = half.out_features // 3
    rows = half.weight.abs().sum(dim=1)
    # SAM's ViT: all queries, all keys, all values; TinyViT: the three of each head
    of_each = rows.view(3, width) if variant == "small" else rows.view(4, 3, width // 4).transpose(0, 1).flatten(1)
    query, key, value = of_each
    assert not key.any()
    assert (query > 0).all()
    assert (value > 0).all()


def test_only_the_adapter_is_trained(encoder):
    add_adapter(encoder, AdapterSettings(rank=4))
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    trained = [value for value in encoder.parameters() if value.requires_grad]
    with torch.enable_grad():
        optimiser = torch.optim.AdamW(trained, lr=0.1)
        encoder(IMAGE).embedding.square().mean().backward()
        optimiser.step()
    changed = {name for name, value in encoder.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all("lora_" in name for name in changed)


SHARES = [
    # variant, rank, projections, share in %
    ("lite_medsam", 4, "qkv", 0.52),
    ("lite_medsam", 8, "qkv", 1.04),
    ("lite_medsam", 16, "qv", 1.56),
    ("lite_medsam", 16, "qkv", 2.07),
    ("vit_b", 4, "qkv", 0.16),
    ("vit_b", 8, "qkv", 0.33),
    ("vit_b", 16, "qkv", 0.66),
]


@pytest.mark.parametrize(("variant", "rank", "parts", "percent"), SHARES)
def test_trained_share_of_an_encoder(variant, rank, parts, percent):
    """Below 2 % but for rank 16 on all three projections of the smallest encoder."""
    with torch.device("meta"):
        encoder = build_sam(variant).image_encoder
        add_adapter(encoder, AdapterSettings(rank=rank, targets=tuple(parts)))
    share = adapter_share(encoder)
    print(f"{variant}, rank {rank}, {parts}: {100 * share:.2f} % of the encoder is trained")
    assert 100 * share == pytest.approx(percent, abs=0.006)


def test_an_adapter_alone_comes_back_from_a_small_file(tmp_path):
    settings = AdapterSettings(rank=16, alpha=8, targets=("q", "v"))
    encoder = build_sam("lite_medsam").image_encoder
    add_adapter(encoder, settings)
    path = tmp_path / "adapter.safetensors"
    save_adapter(moved(encoder), settings, path)
    print(f"{path.stat().st_size / 1e6:.2f} MB")
    assert path.stat().st_size < 5e6
    other = build_sam("lite_medsam").image_encoder
    assert load_adapter(other, path) == settings
    mine, theirs = adapter_state(encoder), adapter_state(other)
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[key]) for key, value in mine.items())
    assert next(iter(adapted_layers(other).values())).scaling["default"] == 0.5


def test_a_reloaded_adapter_gives_the_same_output(encoder, small_sam, tmp_path):
    settings = AdapterSettings(rank=4)
    add_adapter(encoder, settings)
    save_adapter(moved(encoder), settings, tmp_path / "a.safetensors")
    other = small_sam().image_encoder
    load_adapter(other, tmp_path / "a.safetensors")
    assert torch.equal(embedding(other), embedding(encoder))


def test_adapters_are_swapped_and_taken_off(encoder):
    plain = embedding(encoder)
    add_adapter(encoder, AdapterSettings(rank=4), "nuclei")
    nuclei = embedding(moved(encoder, "nuclei", seed=1))
    add_adapter(encoder, AdapterSettings(rank=2), "glands")
    glands = embedding(moved(encoder, "glands", seed=2))
    assert not torch.equal(nuclei, glands)
    assert all("glands" in name for name, value in encoder.named_parameters() if value.requires_grad)
    use_adapter(encoder, "nuclei")
    assert torch.equal(embedding(encoder), nuclei)
    use_adapter(encoder, None)
    assert torch.equal(embedding(encoder), plain)
    assert adapter_share(encoder) == 0
    merge(encoder)
    assert torch.equal(embedding(encoder), plain)


def test_files_that_do_not_fit_are_one_clear_line(encoder, small_sam, tmp_path):
    settings = AdapterSettings(rank=4)
    add_adapter(encoder, settings)
    path = tmp_path / "a.safetensors"
    save_adapter(encoder, settings, path)
    with pytest.raises(WeightsError, match=r"tensors of the adapter do not fit the encoder .*on this very encoder"):
        load_adapter(build_sam("lite_medsam").image_encoder, path)
    path.write_bytes(b"something else")
    with pytest.raises(WeightsError, match=r"a.safetensors: is no adapter"):
        load_adapter(small_sam().image_encoder, path)
