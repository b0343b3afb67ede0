"""What a checkpoint file may be, what it must not be, and which network it fits."""

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
from wsi_pipeline.models.checkpoints import expect, identify, load_into, read_state_dict
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


def test_other_network_is_refused_by_its_keys() -> None:
    with pytest.raises(WeightsError, match=r"another kind of network \(first: layer1.0.conv1.weight"):
        identify({"layer1.0.conv1.weight": torch.zeros(1), "fc.bias": torch.zeros(1)})


def test_wrong_variant_says_what_it_is_and_what_was_wanted() -> None:
    contents = identify(_encoder("vit_l") | _decoder(None, "mask_decoder."))
    with pytest.raises(WeightsError, match=r"^x.pth: holds SAM vit_l, but vit_b was expected\."):
        expect(contents, ("sam",), "vit_b", where="x.pth")


def test_wrong_kind_says_what_it_is_and_what_was_wanted() -> None:
    with pytest.raises(WeightsError, match="holds HQ-SAM or WSI-SAM mask decoder for vit_b, but SAM was expected"):
        expect(identify(_decoder(768)), ("sam",), None, where="x.pth")


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
