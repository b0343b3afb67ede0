"""Low-rank adapters on the attention of SAM's encoders (Hu et al. 2022), by peft.

An adapter adds (alpha / r) B A x to what a fused projection ``qkv`` makes of x; A is r x d and B, which starts at zero,
3d x r. The projection itself and everything else of the encoder stays frozen. An encoder may carry several adapters, of
which one at most is in use.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional as F

from wsi_pipeline.errors import WeightsError
from wsi_pipeline.files import beside
from wsi_pipeline.models.backbones.tiny_vit import WindowAttention
from wsi_pipeline.models.lora_sam.settings import AdapterSettings

ADAPTER = "default"
"""Name of the adapter where there is only one."""
_TARGET = "qkv"
_METADATA = "adapter"


class _SomeRows(nn.Linear):
    """B, of which only a share of the rows is ever used; the others get no gradient and stay zero."""

    rows: Tensor

    def __init__(self, whole: nn.Linear, rows: Tensor, share: float) -> None:
        super().__init__(whole.in_features, whole.out_features, bias=False)
        self.weight = whole.weight
        self.n_trained = round(share * whole.weight.numel())
        self.register_buffer("rows", rows.to(whole.weight)[:, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.rows)


def add_adapter(encoder: nn.Module, settings: AdapterSettings, name: str = ADAPTER) -> None:
    """Freeze an image encoder and put a trainable adapter on it, which is in use from now on.

    The encoder answers as before, to the last bit, until the adapter is trained or loaded.

    Args:
        encoder: SAM's ViT or TinyViT; is changed.
        settings: of the adapter; its rank is above 0.
        name: of the adapter.
    """
    encoder.requires_grad_(False)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type] # any number will do
        lora_dropout=settings.dropout,
        target_modules=[_TARGET],
        bias="none",
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`")  # several adapters are what is wanted
        inject_adapter_in_model(config, encoder, adapter_name=name)
    for attention in encoder.modules():
        layer = getattr(attention, _TARGET, None)
        if isinstance(layer, LoraLayer):
            whole = layer.lora_B[name]
            assert isinstance(whole, nn.Linear)
            rows = _rows(attention, whole.out_features, settings.targets)
            layer.lora_B[name] = _SomeRows(whole, rows, len(set(settings.targets)) / len(_TARGET))
    use_adapter(encoder, name)


def _rows(attention: nn.Module, count: int, targets: Collection[str]) -> Tensor:
    """(count,) 1 for rows of the fused projection that are updated, else 0."""
    chosen = torch.tensor([float(part in targets) for part in _TARGET])
    if isinstance(attention, WindowAttention):
        # TinyViT keeps the three projections of a head together, SAM's ViT the heads of a projection
        return chosen.repeat_interleave(count // (3 * attention.heads)).repeat(attention.heads)
    return chosen.repeat_interleave(count // 3)


def adapted_layers(encoder: nn.Module) -> dict[str, LoraLayer]:
    """The layers that carry adapters, by their names in the encoder."""
    return {name: layer for name, layer in encoder.named_modules() if isinstance(layer, LoraLayer)}


def use_adapter(encoder: nn.Module, name: str | None) -> None:
    """Use another one of an encoder's adapters, and train that one; None uses none, and the encoder is as published."""
    for layer in adapted_layers(encoder).values():
        layer.enable_adapters(name is not None)
        if name is not None:
            layer.set_adapter(name)


def merge(encoder: nn.Module) -> None:
    """Put the adapter in use into the encoder's weights for good: it has its published form again, and is as fast."""
    for name, layer in adapted_layers(encoder).items():
        if not layer.disable_adapters:
            layer.merge()
        parent, _, child = name.rpartition(".")
        setattr(encoder.get_submodule(parent), child, layer.get_base_layer())
    if hasattr(encoder, "peft_config"):
        del encoder.peft_config
    encoder.requires_grad_(False)


def adapter_state(encoder: nn.Module, name: str = ADAPTER) -> dict[str, Tensor]:
    """The tensors of an adapter; keys such as ``blocks.0.attn.qkv.lora_A.weight`` do not hold its name."""
    state: dict[str, Tensor] = get_peft_model_state_dict(encoder, adapter_name=name)
    return state


def set_adapter_state(encoder: nn.Module, state: Mapping[str, Tensor], name: str = ADAPTER, *, where: object) -> None:
    """Give an adapter that an encoder carries the values of ``adapter_state``.

    Raises:
        WeightsError: it is of another rank or for another encoder, or values are not finite.
    """
    own = adapter_state(encoder, name)
    wrong = [key for key in own.keys() | state.keys() if key not in own or key not in state]
    wrong += [key for key in own.keys() & state.keys() if own[key].shape != state[key].shape]
    if wrong:
        raise WeightsError(
            f"{len(wrong)} tensors of the adapter do not fit the encoder (first: {min(wrong)})",
            where=where,
            fix="Give an adapter that was trained on this very encoder",
        )
    broken = [key for key, value in state.items() if not torch.isfinite(value).all()]
    if broken:
        raise WeightsError(f"{len(broken)} tensors hold NaN or infinity", where=where, fix="Get the file again")
    set_peft_model_state_dict(encoder, dict(state), adapter_name=name)


def save_adapter(encoder: nn.Module, settings: AdapterSettings, path: Path, name: str = ADAPTER) -> None:
    """Write an adapter alone, as safetensors with its settings in the metadata.

    Raises:
        OutputError: it cannot be written.
    """
    kept = AdapterSettings.model_validate(settings.model_dump(include=set(AdapterSettings.model_fields)))
    state = {key: value.detach().cpu().contiguous() for key, value in adapter_state(encoder, name).items()}
    with beside(path) as partial:
        partial.write_bytes(save(state, {_METADATA: kept.model_dump_json()}))


def load_adapter(encoder: nn.Module, path: Path, name: str = ADAPTER) -> AdapterSettings:
    """Put an adapter that ``save_adapter`` wrote on an encoder and use it.

    Returns:
        Its settings.

    Raises:
        WeightsError: the file is no adapter, or one for another encoder.
    """
    try:
        with safe_open(path, "pt") as file:
            settings = AdapterSettings.model_validate_json((file.metadata() or {})[_METADATA])
        state = load_file(path)
    except (OSError, SafetensorError, KeyError, ValueError):
        raise WeightsError("is no adapter", where=path, fix="Give a file that save_adapter wrote") from None
    add_adapter(encoder, settings, name)
    set_adapter_state(encoder, state, name, where=path)
    return settings


def adapter_share(encoder: nn.Module) -> float:
    """Parameters that an encoder's adapter in use trains, as a share of the encoder's own."""
    adapters = [value for name, value in encoder.named_parameters() if "lora_" in name]
    trained = sum(value.numel() for value in adapters if value.requires_grad)
    for module in encoder.modules():
        if isinstance(module, _SomeRows) and module.weight.requires_grad:
            trained += module.n_trained - module.weight.numel()
    own = sum(value.numel() for value in encoder.parameters()) - sum(value.numel() for value in adapters)
    return trained / own
