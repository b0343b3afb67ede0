"""Bringing a user's checkpoint into the store: tensors only, as safetensors, with its origin written down."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from wsi_pipeline.errors import WeightsError
from wsi_pipeline.files import hash_file
from wsi_pipeline.models.weights import (
    NAME,
    StoredFile,
    WeightFile,
    catalogue,
    sha256_of,
    store_folder,
    write_atomically,
)

if TYPE_CHECKING:
    from wsi_pipeline.models.checkpoints import Contents, State


def import_checkpoint(path: Path, *, name: str, licence: str | None = None) -> StoredFile:
    """Convert a checkpoint to safetensors in the store.

    Wrappers, the ``module.`` prefix and optimiser state are dropped; keys and values stay the published ones. A name
    of the catalogue holds the file to what the catalogue knows: kind, variant and, where known, digest.

    Args:
        path: PyTorch or safetensors file.
        name: what workflows shall call it: lower-case letters, digits and hyphens.
        licence: of the weights; None takes the catalogue's or ``unknown``.

    Returns:
        The description that lies beside the new file.

    Raises:
        WeightsError: not readable, unsafe, not of the SAM family, not what ``name`` stands for, or no room.
    """
    from wsi_pipeline.models.checkpoints import identify, read_metadata, read_state_dict

    if not NAME.match(name):
        raise WeightsError(
            "is no name for weights", where=name, fix="Use lower-case letters, digits and hyphens, such as my-decoder"
        )
    state = read_state_dict(path)
    contents = identify(state, where=path)
    digest = sha256_of(path)
    entry = catalogue().get(name)
    if entry is not None:
        _require_match(path, contents, digest, entry)
    source = {
        "source": path.name,
        "source_sha256": digest,
        "licence": licence or (entry.licence if entry else "unknown"),
        "kind": contents.kind,
    }
    file, size, sha256 = _write(state, store_folder() / f"{name}.safetensors", read_metadata(path) | source)
    variants = (entry.variant,) if entry else contents.variants
    stored = StoredFile(
        name=name,
        file=file.name,
        system=entry.system if entry else contents.system,
        variant=variants[0] if len(variants) == 1 else None,
        sha256=sha256,
        size=size,
        **source,
    )
    write_atomically(file.with_suffix(".json"), stored.model_dump_json(indent=2).encode())
    return stored


def _require_match(path: Path, contents: Contents, digest: str, entry: WeightFile) -> None:
    """Refuse a file that is not the one the catalogue means."""
    from wsi_pipeline.models.checkpoints import expect

    if entry.where in ("embedded", "shipped"):
        raise WeightsError("comes with the package and is not imported", where=entry.name, fix="Choose another name")
    if entry.sha256 is not None and entry.sha256 != digest:
        raise WeightsError(
            f"has SHA-256 {digest[:12]}…, but {entry.name} is the file with {entry.sha256[:12]}…",
            where=path,
            fix="Choose another name, or get the published file",
        )
    fix = f"Choose another name, or get {entry.file} from {entry.page}"
    expect(contents, (entry.kind,), entry.variant, where=path, fix=fix)


def _write(state: State, target: Path, metadata: dict[str, str]) -> tuple[Path, int, str]:
    """Write safetensors beside their place and rename them there; returns the file, its bytes and its SHA-256."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    part = target.with_name(f"{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # tensors may share memory in the source; safetensors wants each on its own
        save_file({key: value.contiguous().clone() for key, value in state.items()}, part, metadata=metadata)
        size, sha256 = part.stat().st_size, hash_file(part)
        part.replace(target)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            part.unlink()
        raise WeightsError(
            f"cannot be written ({error})",
            where=target,
            fix="Free some space, or set WSI_PIPELINE_WEIGHTS to another folder",
        ) from None
    return target, size, sha256
