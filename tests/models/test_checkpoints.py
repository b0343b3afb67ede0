"""What a checkpoint file may be, what it must not be, and which network it fits.

States are filled from the key lists of the published files; a tensor of one value takes no room in a file.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from wsi_pipeline.errors import WeightsError
from wsi_pipeline.models.checkpoints import State, expect, identify, load_into, read_state_dict
from wsi_pipeline.models.sapnet.backbone import EmbeddedPyramid
from wsi_pipeline.models.sapnet.network import SapNet
from wsi_pipeline.models.sapnet.settings import SapNetSettings
from wsi_pipeline.models.semantic_sam.mini import MiniSemanticSam
from wsi_pipeline.models.semantic_sam.settings import SemanticSettings
from wsi_pipeline.models.weights import locate


class Runs:
    """A pickle of this would run a command."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("true",)


def _state() -> dict[str, torch.Tensor]:
    return {"mask_tokens.weight": torch.ones(4, 256), "transformer.norm.bias": torch.zeros(256)}


def _write_cut(path: Path) -> None:
    torch.save(_state(), path)
    path.write_bytes(path.read_bytes()[:-400])


def _write_cut_safetensors(path: Path) -> None:
    save_file(_state(), path)
    path.write_bytes(path.read_bytes()[:-400])


def _write_cut_legacy(path: Path) -> None:
    torch.save(_state(), path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:-400])


def _write_arrays(path: Path) -> None:
    with path.open("wb") as stream:
        np.savez(stream, weight=np.zeros(3))


WRONG_FILES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (lambda path: None, "no such weight file"),
    "empty": (lambda path: path.write_bytes(b""), "is empty"),
    "folder": (lambda path: path.mkdir(), "cannot be read"),
    "text": (lambda path: path.write_text("weights, honestly"), "is not a checkpoint"),
    "web page": (lambda path: path.write_text("<!DOCTYPE html><html>Sign in</html>"), "is a web page"),
    "lfs pointer": (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1"), "Git LFS pointer"),
    "cut": (_write_cut, "cut short or damaged"),
    "cut legacy": (_write_cut_legacy, "cut short or damaged"),
    "cut safetensors": (_write_cut_safetensors, "cut short or damaged"),
    "arrays": (_write_arrays, "cut short or damaged"),
    "pickled code": (lambda path: torch.save({"model": Runs()}, path), r"holds pickled code \(posix.system\)"),
    "pickled network": (lambda path: torch.save(nn.Linear(2, 2), path), r"holds pickled code \(torch.nn"),
    "bare pickle": (lambda path: path.write_bytes(pickle.dumps(Runs())), "bare Python pickle"),
    "list": (lambda path: torch.save([torch.zeros(2)], path), "holds a list, not named parameters"),
    "no tensors": (lambda path: torch.save({"epoch": 3, "optimizer": {}}, path), "holds no parameters"),
    "foreign entries": (lambda path: torch.save(_state() | {"lr": 0.1}, path), r"1 entries are not tensors \(lr\)"),
}


@pytest.mark.parametrize("kind", WRONG_FILES)
def test_wrong_file_is_one_clear_line(kind: str, tmp_path: Path) -> None:
    write, message = WRONG_FILES[kind]
    path = tmp_path / "file.pth"
    write(path)
    with pytest.raises(WeightsError, match=message) as caught:
        read_state_dict(path)
    line = str(caught.value)
    assert line.startswith(str(path))
    assert "\n" not in line
    assert line.endswith(".")


@pytest.mark.parametrize("wrapper", [None, "model", "state_dict"])
@pytest.mark.parametrize("prefix", ["", "module.", "mask_decoder.", "module.mask_decoder."])
def test_wrappers_and_prefixes_come_off(wrapper: str | None, prefix: str, tmp_path: Path) -> None:
    state: dict[str, Any] = {prefix + key: value for key, value in _state().items()}
    path = tmp_path / "file.pth"
    torch.save({wrapper: state, "optimizer": {"lr": 0.1}, "epoch": 7} if wrapper else state, path)
    read = read_state_dict(path)
    assert list(read) == list(_state())
    assert all(torch.equal(read[key], value) for key, value in _state().items())


def test_safetensors_are_told_by_content_not_by_name(tmp_path: Path) -> None:
    save_file(_state(), tmp_path / "file.pth")
    assert list(read_state_dict(tmp_path / "file.pth")) == sorted(_state())


def test_decoder_prefix_stays_in_a_whole_model(tmp_path: Path) -> None:
    state = {"mask_decoder.iou_token.weight": torch.ones(1), "image_encoder.pos_embed": torch.ones(1)}
    torch.save(state, tmp_path / "file.pth")
    assert list(read_state_dict(tmp_path / "file.pth")) == list(state)


def _encoder(kind: str) -> dict[str, torch.Tensor]:
    widths = {"vit_b": 768, "vit_l": 1024, "vit_h": 1280}
    if kind in widths:
        return {"image_encoder.patch_embed.proj.weight": torch.zeros(widths[kind], 3, 1, 1)}
    side = 1 if kind == "lite_medsam" else 3
    return {"image_encoder.patch_embed.seq.0.c.weight": torch.zeros(32, 3, side, side)}


def _decoder(early: int | None, prefix: str = "") -> dict[str, torch.Tensor]:
    state = {f"{prefix}transformer.norm.bias": torch.zeros(1)}
    if early:
        state |= {
            f"{prefix}compress_vit_feat.0.weight": torch.zeros(early, 1, 2, 2),
            f"{prefix}hf_token.weight": torch.zeros(1),
        }
    return state


PREFIX = "mask_decoder."


def _filled(shapes: dict[str, str], value: float = 0.5) -> State:
    """A state dict of one value; shapes as in the key lists."""
    sides = {
        key: [int(side) for side in shape.split("x")] if shape != "scalar" else [] for key, shape in shapes.items()
    }
    return {key: torch.full((), value).expand(shape) for key, shape in sides.items()}


def _network_of(state: State) -> nn.Module:
    """A network that has exactly the parameters of a state dict, all zero."""
    network = nn.Module()
    for key, value in state.items():
        *path, name = key.split(".")
        module = network
        for part in path:
            if part not in dict(module.named_children()):
                module.add_module(part, nn.Module())
            module = module.get_submodule(part)
        module.register_parameter(name, nn.Parameter(torch.zeros(value.shape)))
    return network


@pytest.fixture(scope="module")
def decoders(key_list: Callable[[str], dict[str, str]]) -> dict[str, State]:
    """Decoders as training writes them, by kind; none has a prefix."""

    def part(name: str) -> State:
        state = _filled(key_list(name))
        return {key.removeprefix(PREFIX): value for key, value in state.items() if key.startswith(PREFIX)}

    return {
        "sam-decoder": part("sam_vit_b"),
        "hq-decoder": part("hq_sam_vit_b"),
        "pa-decoder": _filled(key_list("pa_sam_mask_decoder")),
    }


LAYOUTS: dict[str, Callable[[State], dict[str, Any]]] = {
    "flat": dict,
    "prefixed": lambda state: _with_prefix(PREFIX, state),
    "distributed": lambda state: _with_prefix("module.", state),
    "distributed and prefixed": lambda state: _with_prefix(f"module.{PREFIX}", state),
    "in model, after training": lambda state: {"model": state, "optimizer": {"lr": 1e-3}, "epoch": 20},
    "in state_dict, distributed": lambda state: {"state_dict": _with_prefix("module.", state), "epoch": 3},
    "training state beside": lambda state: state | {"optimizer": {"state": {}, "param_groups": []}, "epoch": 20},
    "original decoder beside": lambda state: _with_prefix(PREFIX, state) | _with_prefix("mask_decoder_ori.", state),
}


def _with_prefix(prefix: str, state: State) -> State:
    return {prefix + key: value for key, value in state.items()}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["sam-decoder", "hq-decoder", "pa-decoder"])
def test_decoder_loads_from_every_layout(kind: str, layout: str, decoders: dict[str, State], tmp_path: Path) -> None:
    torch.save(LAYOUTS[layout](decoders[kind]), tmp_path / "file.pth")
    state = read_state_dict(tmp_path / "file.pth")
    assert identify(state).kind == kind
    network = _network_of(decoders[kind])
    load_into(network, state)
    assert all((value == 0.5).all() for value in network.state_dict().values())


def test_decoder_loads_from_safetensors(decoders: dict[str, State], tmp_path: Path) -> None:
    save_file({key: value.contiguous() for key, value in decoders["pa-decoder"].items()}, tmp_path / "decoder")
    state = read_state_dict(tmp_path / "decoder")
    assert identify(state).kind == "pa-decoder"
    load_into(_network_of(decoders["pa-decoder"]), state)


@pytest.mark.parametrize(("name", "variant"), [("b", "vit_b"), ("l", "vit_l"), ("h", "vit_h"), ("tiny", "vit_t")])
def test_every_published_hq_sam_is_identified(
    name: str, variant: str, key_list: Callable[[str], dict[str, str]], tmp_path: Path
) -> None:
    state = _filled(key_list(f"hq_sam_vit_{name}"))
    torch.save(state, tmp_path / "file.pth")
    contents = identify(read_state_dict(tmp_path / "file.pth"))
    assert (contents.kind, contents.variants) == ("hq-sam", (variant,))
    early = identify({key.removeprefix(PREFIX): value for key, value in state.items() if key.startswith(PREFIX)})
    assert early.kind == "hq-decoder"
    assert variant in early.variants


@pytest.mark.parametrize("layout", ["flat", "distributed", "in model, after training"])
def test_whole_hq_sam_loads_into_its_network(
    layout: str, key_list: Callable[[str], dict[str, str]], tmp_path: Path
) -> None:
    from wsi_pipeline.models.hq_sam import build_hq_sam

    torch.save(LAYOUTS[layout](_filled(key_list("hq_sam_vit_tiny"))), tmp_path / "file.pth")
    network = build_hq_sam("vit_t")
    load_into(network, read_state_dict(tmp_path / "file.pth"))
    assert all((value == 0.5).all() for value in network.mask_decoder.state_dict().values())


def _merged_pa_sam(base: State, decoder: State) -> State:
    """As PA-SAM's training merges them: the original decoder is kept aside."""
    aside = {key.replace("mask_decoder", "mask_decoder_ori"): value for key, value in base.items() if PREFIX in key}
    return base | aside | _with_prefix(PREFIX, decoder)


def test_whole_pa_sam_loads_and_its_original_decoder_is_left_out(
    decoders: dict[str, State], key_list: Callable[[str], dict[str, str]], tmp_path: Path
) -> None:
    base = _filled(key_list("mobile_sam_vit_t"), 0.25)
    merged = _merged_pa_sam(base, decoders["pa-decoder"])
    torch.save(merged, tmp_path / "file.pth")
    state = read_state_dict(tmp_path / "file.pth")
    assert (identify(state).kind, identify(state).variants) == ("pa-sam", ("vit_t",))
    network = _network_of({key: value for key, value in merged.items() if not key.startswith("mask_decoder_ori.")})
    load_into(network, state)
    loaded = network.state_dict()
    assert (loaded["mask_decoder.mask_tokens.weight"] == 0.5).all()
    assert (loaded["prompt_encoder.no_mask_embed.weight"] == 0.25).all()


def test_merged_keys_are_those_of_the_published_pa_sam(
    decoders: dict[str, State], key_list: Callable[[str], dict[str, str]]
) -> None:
    merged = _merged_pa_sam(_filled(key_list("sam_vit_l")), decoders["pa-decoder"])
    assert {key for key in merged if key.startswith(PREFIX)} == set(key_list("pa_sam_merged_mask_decoder_part"))
    assert identify(merged).variants == ("vit_l",)


DAMAGE: dict[str, tuple[str, Callable[[State], Any], str]] = {
    "one key missing": (
        "pa-decoder",
        lambda state: state.pop("guiding_conv.6.bias"),
        r"1 missing \(guiding_conv.6.bias\)",
    ),
    "adapter missing": (
        "pa-decoder",
        lambda state: [state.pop(key) for key in list(state) if ".uncertain_mlp." in key],
        r"6 missing \(prompt_adapter.uncertain_mlp.layers.0.weight, .*, …\)",
    ),
    "one key more": (
        "hq-decoder",
        lambda state: state.update({"hf_token.bias": torch.zeros(256)}),
        r"1 unexpected \(hf_token.bias\)",
    ),
    "both kinds at once": (
        "hq-decoder",
        lambda state: state.update({"prompt_adapter.static_refined_token.weight": torch.zeros(1, 256)}),
        r"1 unexpected \(prompt_adapter.static_refined_token.weight\)",
    ),
    "another shape": (
        "hq-decoder",
        lambda state: state.update({"hf_mlp.layers.2.weight": torch.zeros(256, 32)}),
        r"1 of another shape \(hf_mlp.layers.2.weight 256x32 instead of 32x256\)",
    ),
    "another backbone": (
        "hq-decoder",
        lambda state: state.update({"compress_vit_feat.0.weight": torch.zeros(1024, 256, 2, 2)}),
        r"1 of another shape \(compress_vit_feat.0.weight 1024x256x2x2 instead of 768x256x2x2\)",
    ),
    "not a number": (
        "pa-decoder",
        lambda state: state.update({"mask_tokens.weight": torch.full((4, 256), float("nan"))}),
        r"1 parameters hold NaN or infinity \(mask_tokens.weight\)",
    ),
    "infinity": (
        "hq-decoder",
        lambda state: state.update({"hf_token.weight": torch.full((1, 256), float("inf"))}),
        r"1 parameters hold NaN or infinity \(hf_token.weight\)",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_decoder_that_does_not_fit_is_one_clear_line(damage: str, decoders: dict[str, State], tmp_path: Path) -> None:
    kind, spoil, message = DAMAGE[damage]
    state = dict(decoders[kind])
    spoil(state)
    path = tmp_path / "file.pth"
    torch.save(state, path)
    network = _network_of(decoders[kind])
    with pytest.raises(WeightsError, match=message) as caught:
        load_into(network, read_state_dict(path), where=path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert not any(value.any() for value in network.state_dict().values())


@pytest.mark.parametrize("variant", ["vit_b", "vit_l", "vit_h", "vit_t", "lite_medsam"])
def test_encoder_variant_is_read_from_shapes(variant: str) -> None:
    found = identify(_encoder(variant) | _decoder(None, "mask_decoder."))
    assert (found.kind, found.variants) == ("sam", (variant,))


@pytest.mark.parametrize(
    ("state", "kind", "variants"),
    [
        (_encoder("vit_l") | _decoder(1024, "mask_decoder."), "hq-sam", ("vit_l",)),
        (_encoder("vit_l") | {"mask_decoder.prompt_adapter.x": torch.zeros(1)}, "pa-sam", ("vit_l",)),
        (_decoder(None), "sam-decoder", ()),
        (_decoder(768), "hq-decoder", ("vit_b",)),
        (_decoder(160), "hq-decoder", ("vit_t", "lite_medsam")),
        (_decoder(None) | {"prompt_adapter.x": torch.zeros(1)}, "pa-decoder", ()),
        (_decoder(160, "high.") | _decoder(160, "low."), "wsi-heads", ("vit_t", "lite_medsam")),
        (
            _decoder(160, "high.")
            | _decoder(160, "low.")
            | {f"sam.{key}": value for key, value in _encoder("lite_medsam").items()},
            "wsi-sam",
            ("lite_medsam",),
        ),
    ],
)
def test_kind_is_read_from_keys(state: dict[str, torch.Tensor], kind: str, variants: tuple[str, ...]) -> None:
    found = identify(state)
    assert (found.kind, found.variants) == (kind, variants)


@pytest.mark.parametrize("size", ["t", "l"])
@pytest.mark.parametrize("prefix", ["", "model."])
def test_every_published_semantic_sam_is_identified(
    size: str, prefix: str, key_list: Callable[[str], dict[str, str]]
) -> None:
    keys = key_list(f"semantic_sam_swin_{size}")
    state = {f"{prefix}{key.removeprefix('model.')}": torch.zeros(0) for key in keys}
    assert str(identify(state)) == "Semantic-SAM"


def test_small_semantic_sam_and_sapnet_are_identified() -> None:
    with torch.device("meta"):
        semantic = MiniSemanticSam(SemanticSettings(width=32, layers=1), 160)
        sapnet = SapNet(EmbeddedPyramid(32, 160, 4.0), SapNetSettings(classes=("a",), width=32))
    assert identify(semantic.state_dict()).kind == "semantic-sam"
    assert identify(sapnet.state_dict()).kind == "sapnet"


def test_system_is_named_as_far_as_keys_tell() -> None:
    assert identify(_decoder(160)).system == "hq-sam or wsi-sam"
    assert identify(_decoder(None) | {"prompt_adapter.x": torch.zeros(1)}).system == "pa-sam"
    assert identify(_decoder(160, "high.") | _decoder(160, "low.")).system == "wsi-sam"
    assert identify(_encoder("vit_l") | _decoder(1024, "mask_decoder.")).system == "hq-sam"


def test_other_network_is_refused_by_its_keys() -> None:
    with pytest.raises(WeightsError, match=r"another kind of network \(first: layer1.0.conv1.weight"):
        identify({"layer1.0.conv1.weight": torch.zeros(1), "fc.bias": torch.zeros(1)})


def test_wrong_variant_says_what_it_is_and_what_was_wanted() -> None:
    contents = identify(_encoder("vit_l") | _decoder(None, "mask_decoder."))
    with pytest.raises(WeightsError, match=r"^x.pth: holds SAM vit_l, but vit_b was expected\. Set the backbone\.$"):
        expect(contents, ("sam",), "vit_b", where="x.pth", fix="Set the backbone")


def test_wrong_kind_says_what_it_is_and_what_was_wanted() -> None:
    with pytest.raises(WeightsError, match="holds HQ-SAM or WSI-SAM mask decoder for vit_b, but SAM was expected"):
        expect(identify(_decoder(768)), ("sam",), None, where="x.pth")
    whole = identify(_encoder("vit_l") | _decoder(None, "mask_decoder."))
    with pytest.raises(WeightsError, match="holds SAM vit_l, but PA-SAM mask decoder was expected"):
        expect(whole, ("pa-decoder",), "vit_l", where="x.pth")
    with pytest.raises(WeightsError, match="but one of HQ-SAM, HQ-SAM or WSI-SAM mask decoder was expected"):
        expect(whole, ("hq-sam", "hq-decoder"), None, where="x.pth")


def test_fitting_decoder_of_either_tiny_encoder_passes() -> None:
    contents = identify(_decoder(160))
    expect(contents, ("hq-decoder",), "lite_medsam", where="x")
    expect(contents, ("hq-decoder",), "vit_t", where="x")
    with pytest.raises(WeightsError, match="vit_b was expected"):
        expect(contents, ("hq-decoder",), "vit_b", where="x")


def _network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def test_loading_copies_every_value_and_ends_in_evaluation_mode() -> None:
    source, target = _network(), _network().train()
    load_into(target, source.state_dict())
    assert not target.training
    assert all(torch.equal(value, target.state_dict()[key]) for key, value in source.state_dict().items())


def test_named_leftovers_are_ignored_and_nothing_else() -> None:
    state = _network().state_dict()
    leftovers = ["image_encoder.head.weight", "image_encoder.norm_head.bias", "mask_decoder_ori.x", "head.bias"]
    load_into(_network(), state | {key: torch.zeros(1) for key in leftovers})
    with pytest.raises(WeightsError, match=r"1 unexpected \(mask_decoder.header\)"):
        load_into(_network(), state | {"mask_decoder.header": torch.zeros(1)})


def test_missing_unexpected_and_misshapen_keys_are_counted_and_named() -> None:
    state = _network().state_dict()
    del state["0.weight"], state["1.running_var"]
    state["0.bias"] = torch.zeros(5)
    state |= {f"extra.{number}": torch.zeros(1) for number in range(5)}
    with pytest.raises(WeightsError) as caught:
        load_into(_network(), state, where="x.pth")
    assert str(caught.value) == (
        "x.pth: does not fit the network: 2 missing (0.weight, 1.running_var); 5 unexpected (extra.0, extra.1, "
        "extra.2, …); 1 of another shape (0.bias 5 instead of 4). Give the weights of this very model."
    )


def test_values_that_are_not_finite_are_refused() -> None:
    state = _network().state_dict()
    state["0.bias"] = torch.full((4,), float("nan"))
    with pytest.raises(WeightsError, match=r"1 parameters hold NaN or infinity \(0.bias\)"):
        load_into(_network(), state)


def test_refused_state_leaves_the_network_as_it_was() -> None:
    network = _network()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(WeightsError):
        load_into(network, {key: torch.ones_like(value) for key, value in list(before.items())[1:]})
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_embedded_file_fits_lite_medsam_and_no_other() -> None:
    from wsi_pipeline.models.sam import build_sam

    state = read_state_dict(locate("lite-medsam"))
    contents = identify(state)
    assert str(contents) == "SAM LiteMedSAM"
    sam = build_sam("lite_medsam")
    load_into(sam, state)
    own = sam.state_dict()
    assert all(torch.equal(own[key], value) for key, value in state.items())
    with pytest.raises(WeightsError, match="of another shape"):
        load_into(build_sam("vit_t"), state)
