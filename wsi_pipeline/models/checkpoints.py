"""Reading checkpoints safely and putting them into the networks they belong to, and into no others.

Official loaders of the SAM family are non-strict and let a wrong file pass in silence. Here a file says by its own
keys and shapes what it is, and every key that is missing, left over or of another shape is an error.
"""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wsi_pipeline.errors import WeightsError

State = dict[str, Tensor]

_WRAPPERS = ("model", "state_dict", "teacher")
_BOOKKEEPING = frozenset({"optimizer", "epoch"})
_IGNORED = re.compile(r"^(?:sam\.)?(?:image_encoder\.)?(?:norm_head|head|mask_decoder_ori)\.")
"""Classifier leftovers of TinyViT and the untouched decoder that PA-SAM keeps aside; no network uses them."""

_VIT_WIDTHS = {768: "vit_b", 1024: "vit_l", 1280: "vit_h"}
_EARLY_WIDTHS = {768: ("vit_b",), 1024: ("vit_l",), 1280: ("vit_h",), 160: ("vit_t", "lite_medsam")}
"""Rows of ``compress_vit_feat.0.weight`` (channels of the early encoder feature) to the encoders that have them."""

_NAMES = {
    "sam": "SAM",
    "hq-sam": "HQ-SAM",
    "pa-sam": "PA-SAM",
    "wsi-sam": "WSI-SAM (backbone and both decoders)",
    "wsi-heads": "WSI-SAM decoders (high and low)",
    "sam-decoder": "SAM mask decoder",
    "hq-decoder": "HQ-SAM or WSI-SAM mask decoder",
    "pa-decoder": "PA-SAM mask decoder",
    "domain-decoder": "domain decoder",
    "lora-sam": "LoRA-SAM (adapter and heads)",
    "ov-sam": "region head of Open-Vocabulary SAM",
    "sam-clip": "SAM-CLIP",
    "sapnet": "SAPNet (all but a frozen encoder)",
    "semantic-sam": "Semantic-SAM",
}
_SYSTEMS = {
    "wsi-heads": "wsi-sam",
    "sam-decoder": "sam",
    "hq-decoder": "hq-sam or wsi-sam",
    "pa-decoder": "pa-sam",
}
_VARIANT_NAMES = {
    "lite_medsam": "LiteMedSAM",
    "vit_t": "MobileSAM (TinyViT)",
    "vit_b": "vit_b",
    "vit_l": "vit_l",
    "vit_h": "vit_h",
}
_PARTS = (
    ("domain-decoder", frozenset({"entry", "upscaling", "outlines", "maps"})),
    ("lora-sam", frozenset({"neck", "head"})),
    ("ov-sam", frozenset({"norm", "convolution", "projection", "log_scale"})),
    ("sapnet", frozenset({"backbone", "scorer"})),
    ("semantic-sam", frozenset({"pixel_decoder", "decoder"})),
    ("semantic-sam", frozenset({"sem_seg_head"})),
)
"""Beginnings of keys that tell kinds of files without an image encoder of the SAM family from all others; those of
published Semantic-SAM are under ``model.``."""
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Contents:
    """What a state dict holds.

    Attributes:
        kind: ``sam``, ``hq-sam``, ``pa-sam``, ``wsi-sam``, ``wsi-heads``, ``sam-decoder``, ``hq-decoder``,
            ``pa-decoder``, ``domain-decoder``, ``lora-sam``, ``ov-sam``, ``sam-clip``, ``sapnet`` or ``semantic-sam``.
            An HQ decoder and a WSI-SAM branch have the same keys: only the caller knows which.
        variants: the image encoders it holds or fits; several when shapes cannot tell, empty when any fits.
    """

    kind: str
    variants: tuple[str, ...]

    @property
    def system(self) -> str:
        """The published system it belongs to, as far as keys tell."""
        return _SYSTEMS.get(self.kind, self.kind)

    def __str__(self) -> str:
        names = " or ".join(_VARIANT_NAMES[variant] for variant in self.variants)
        return f"{_NAMES[self.kind]}{' for' if self.kind != 'sam' else ''} {names}" if names else _NAMES[self.kind]


def read_state_dict(path: Path) -> State:
    """Read a checkpoint without running any code of it.

    Takes PyTorch files (``weights_only=True``) and safetensors, flat or under ``model`` / ``state_dict``; the prefix
    ``module.`` is stripped, the decoder-only prefix ``mask_decoder.`` is too when nothing else is there.

    Returns:
        Name to tensor, on the CPU, in the file's dtypes.

    Raises:
        WeightsError: no such file, damaged, not a checkpoint, holds pickled code, or no parameters.
    """
    path = Path(path)
    start = _first_bytes(path)
    loaded = _read_safetensors(path) if _is_safetensors(start) else _read_torch(path, start)
    return _normalise(_unwrap(loaded, path), path)


def read_metadata(path: Path) -> dict[str, str]:
    """What a safetensors file says besides its tensors; nothing for files of other kinds.

    Raises:
        WeightsError: no such file, or damaged.
    """
    from safetensors import SafetensorError, safe_open

    if not _is_safetensors(_first_bytes(path)):
        return {}
    try:
        with safe_open(path, "pt") as stored:
            return stored.metadata() or {}
    except SafetensorError as error:
        raise _damaged(path, str(error)) from None


def identify(state: Mapping[str, Tensor], *, where: object = None) -> Contents:
    """Say from keys and shapes which network a normalised state dict belongs to.

    Raises:
        WeightsError: none of the SAM family.
    """
    parts = {key.removeprefix("model.").partition(".")[0] for key in state}
    for kind, needed in _PARTS:
        if parts >= needed:
            return Contents(kind, ())
    if "clip_head" in parts:
        return Contents("sam-clip", _encoder_variants(state, "image_encoder."))
    if {"high", "low"} <= parts:
        variants = _early_variants(state, "high.") or ()
        if "sam" in parts:
            return Contents("wsi-sam", _encoder_variants(state, "sam.image_encoder.") or variants)
        return Contents("wsi-heads", variants)
    if "image_encoder" in parts:
        variants = _encoder_variants(state, "image_encoder.")
        prefix, suffix = "mask_decoder.", "sam"
    else:
        variants = _early_variants(state, "")
        prefix, suffix = "", "decoder"
    if not variants and "transformer" not in parts:
        first = ", ".join(list(state)[:_SHOWN])
        raise WeightsError(
            f"holds parameters of another kind of network (first: {first})",
            where=where,
            fix="Give a checkpoint of SAM, MobileSAM, LiteMedSAM, HQ-SAM, PA-SAM or WSI-SAM",
        )
    if any(key.startswith(f"{prefix}prompt_adapter.") for key in state):
        return Contents(f"pa-{suffix}", variants)
    if f"{prefix}hf_token.weight" in state:
        return Contents(f"hq-{suffix}", variants)
    return Contents("sam" if suffix == "sam" else "sam-decoder", variants)


def expect(
    contents: Contents, kinds: Iterable[str], variant: str | None, *, where: object, fix: str | None = None
) -> None:
    """Refuse a file of the wrong kind or for the wrong image encoder.

    Args:
        contents: what the file holds.
        kinds: kinds that will do.
        variant: the image encoder it has to fit; None for any.
        where: the file.
        fix: what the user can do about it.

    Raises:
        WeightsError: naming what the file is and what was expected.
    """
    wanted = tuple(kinds)
    if contents.kind not in wanted:
        expected = f"{'one of ' if len(wanted) > 1 else ''}{', '.join(_NAMES[kind] for kind in wanted)}"
    elif variant is not None and contents.variants and variant not in contents.variants:
        expected = _VARIANT_NAMES[variant]
    else:
        return
    raise WeightsError(f"holds {contents}, but {expected} was expected", where=where, fix=fix)


def load_into(module: nn.Module, state: Mapping[str, Tensor], *, where: object = None) -> None:
    """Copy a state dict into a network, exactly.

    Only the keys that no network uses (``head.*``, ``norm_head.*``, ``mask_decoder_ori.*``) may be too many or
    missing. The network is in evaluation mode afterwards, which also refreshes caches derived from parameters.

    Raises:
        WeightsError: missing, unexpected or misshapen keys (with counts and the first names), or values that are
            not finite.
    """
    own = module.state_dict()
    missing = [key for key in own if key not in state and not _IGNORED.match(key)]
    unexpected = [key for key in state if key not in own and not _IGNORED.match(key)]
    fitting = {key: value for key, value in state.items() if key in own}
    misshapen = [
        f"{key} {_shape(value)} instead of {_shape(own[key])}"
        for key, value in fitting.items()
        if value.shape != own[key].shape
    ]
    problems = [
        f"{len(keys)} {word} ({_some(keys)})"
        for word, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen))
        if keys
    ]
    if problems:
        raise WeightsError(
            f"does not fit the network: {'; '.join(problems)}", where=where, fix="Give the weights of this very model"
        )
    broken = [key for key, value in fitting.items() if not torch.isfinite(value).all()]
    if broken:
        raise WeightsError(
            f"{len(broken)} parameters hold NaN or infinity ({_some(broken)})", where=where, fix="Get the file again"
        )
    module.load_state_dict(fitting, strict=False)
    module.eval()


def _first_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            start = stream.read(512)
    except FileNotFoundError:
        raise WeightsError("no such weight file", where=path, fix="Check the path") from None
    except OSError as error:
        raise WeightsError(f"cannot be read ({error.strerror})", where=path, fix="Check the file") from None
    if not start:
        raise WeightsError("is empty", where=path, fix="Get the file again")
    text = start.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html")):
        raise WeightsError("is a web page, not a checkpoint", where=path, fix="Download the file behind that page")
    if text.startswith(b"version https://git-lfs"):
        raise WeightsError("is a Git LFS pointer, not the file itself", where=path, fix="Run `git lfs pull`")
    return start


def _is_safetensors(start: bytes) -> bool:
    return len(start) > 8 and start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 1 << 32


def _read_safetensors(path: Path) -> State:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise _damaged(path, str(error)) from None


def _read_torch(path: Path, start: bytes) -> Any:
    if not start.startswith((b"PK\x03\x04", b"\x80")):
        raise WeightsError("is not a checkpoint", where=path, fix="Give a PyTorch (.pth, .pt) or .safetensors file")
    try:
        with warnings.catch_warnings():  # torch remarks on foreign pickles before it refuses them
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise _unsafe(path, refused[1]) if refused else _bare_pickle(path) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        # what torch raises for a cut or foreign file depends on where it is cut
        if "TorchScript" in str(error):
            raise _unsafe(path, "a TorchScript program") from None
        raise _damaged(path, str(error)) from None


def _unsafe(path: Path, what: str) -> WeightsError:
    return WeightsError(
        f"holds pickled code ({what}) and was not opened further",
        where=path,
        fix="Where you trust its origin, save its tensors alone, best as .safetensors",
    )


def _bare_pickle(path: Path) -> WeightsError:
    return WeightsError(
        "is a bare Python pickle or damaged, not a PyTorch checkpoint; it could run code and was not opened",
        where=path,
        fix="Give a file written by torch.save or safetensors",
    )


def _damaged(path: Path, reason: str) -> WeightsError:
    short = (reason.splitlines() or [""])[0][:100]
    return WeightsError(f"is cut short or damaged ({short})", where=path, fix="Get the file again")


def _unwrap(loaded: Any, path: Path) -> dict[str, Any]:
    """The innermost dict of parameters."""
    while isinstance(loaded, Mapping):
        inner = next((loaded[key] for key in _WRAPPERS if isinstance(loaded.get(key), Mapping)), None)
        if inner is None:
            return dict(loaded)
        loaded = inner
    raise WeightsError(
        f"holds a {type(loaded).__name__}, not named parameters", where=path, fix="Give the model's state dict"
    )


def _normalise(entries: dict[str, Any], path: Path) -> State:
    foreign = [key for key, value in entries.items() if not isinstance(value, Tensor) and key not in _BOOKKEEPING]
    if foreign:
        names = _some([str(key) for key in foreign])
        raise WeightsError(
            f"{len(foreign)} entries are not tensors ({names})", where=path, fix="Give the model's state dict alone"
        )
    state = {key: value for key, value in entries.items() if key not in _BOOKKEEPING}
    if not state:
        raise WeightsError("holds no parameters", where=path, fix="Give the model's state dict")
    state = {key.removeprefix("module."): value for key, value in state.items()}
    if all(key.startswith(("mask_decoder.", "mask_decoder_ori.")) for key in state):
        state = {key.removeprefix("mask_decoder."): value for key, value in state.items()}
    return state


def _encoder_variants(state: Mapping[str, Tensor], prefix: str) -> tuple[str, ...]:
    convolution = state.get(f"{prefix}patch_embed.seq.0.c.weight")
    if convolution is not None and convolution.ndim == 4:
        return ("lite_medsam",) if convolution.shape[-1] == 1 else ("vit_t",)
    projection = state.get(f"{prefix}patch_embed.proj.weight")
    variant = None if projection is None else _VIT_WIDTHS.get(projection.shape[0])
    return () if variant is None else (variant,)


def _early_variants(state: Mapping[str, Tensor], prefix: str) -> tuple[str, ...]:
    weight = state.get(f"{prefix}compress_vit_feat.0.weight")
    return () if weight is None else _EARLY_WIDTHS.get(weight.shape[0], ())


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
