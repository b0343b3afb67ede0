"""Weight files by name: what is known about each, where it lies, and whether it is the right one.

The catalogue is ``catalogue.yaml`` beside this file. The store is a folder of the user
(``WSI_PIPELINE_WEIGHTS`` names another one) that holds downloaded and imported files; every imported file has
a ``.json`` beside it with its digest, origin and licence.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import re
from functools import cache
from pathlib import Path
from typing import Any, Literal

import platformdirs
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from wsi_pipeline.errors import WeightsError
from wsi_pipeline.files import hash_file
from wsi_pipeline.models.download import Progress, download

STORE_VARIABLE = "WSI_PIPELINE_WEIGHTS"
SHIPPED = Path(__file__).parents[1] / "weights"
"""Folder of the weights that come with this package, each with its card beside it."""
NAME = re.compile(r"^[a-z0-9][a-z0-9-]*$")
"""What a weight file may be called; everything else is a path."""

Variant = Literal["lite_medsam", "vit_t", "vit_b", "vit_l", "vit_h"]
Kind = Literal[
    "sam",
    "hq-sam",
    "pa-sam",
    "wsi-sam",
    "wsi-heads",
    "hq-decoder",
    "pa-decoder",
    "domain-decoder",
    "lora-sam",
    "ov-sam",
    "sam-clip",
    "sapnet",
    "semantic-sam",
]


class WeightFile(BaseModel):
    """What is known about one weight file.

    Attributes:
        name: how workflows and commands call it.
        system: the published system it belongs to.
        variant: image encoder it holds or fits.
        kind: a whole SAM, HQ-SAM, PA-SAM or WSI-SAM, a pair of WSI-SAM decoders, one decoder of HQ-SAM (WSI-SAM's
            are of the same kind) or PA-SAM, a domain decoder, adapter and heads of a LoRA-SAM, or a head of
            Open-Vocabulary SAM or of SAM-CLIP, or what SAPNet or the small Semantic-SAM learned.
        where: shipped with this package, embedded in another installed one, download, or by path.
        url: address for ``download``.
        package: distribution that carries an ``embedded`` file.
        size: bytes, where known.
        sha256: hex digest, where known.
        status: one line on what it can do.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=NAME.pattern)
    system: str
    variant: Variant
    kind: Kind
    where: Literal["shipped", "embedded", "download", "by-path"]
    file: str
    url: str | None = None
    package: str | None = None
    size: int | None = Field(None, gt=0)
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    licence: str
    page: str
    citation: str
    status: str

    @model_validator(mode="after")
    def _complete(self) -> WeightFile:
        needed = {"shipped": self.sha256, "embedded": self.package and self.sha256, "download": self.url}
        if not needed.get(self.where, True):
            raise ValueError(f"{self.name}: an entry with `where: {self.where}` lacks a field")
        return self


class StoredFile(BaseModel):
    """The ``.json`` beside an imported file.

    Attributes:
        file: name of the safetensors file.
        sha256: its digest.
        source: name of the file it was made from.
        source_sha256: that file's digest.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    file: str
    system: str
    variant: Variant | None
    kind: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int
    source: str
    source_sha256: str
    licence: str


@cache
def catalogue() -> dict[str, WeightFile]:
    """Every known weight file by name, in the order of the catalogue."""
    text = Path(__file__).with_name("catalogue.yaml").read_text(encoding="utf-8")
    entries = [WeightFile.model_validate(item) for item in yaml.safe_load(text)]
    return {entry.name: entry for entry in entries}


def find_entry(name: str) -> WeightFile:
    """The catalogue entry of that name.

    Raises:
        WeightsError: no such entry.
    """
    try:
        return catalogue()[name]
    except KeyError:
        raise _unknown(name) from None


def shipped_head(system: str, variant: Variant | str) -> WeightFile | None:
    """What ships of a system for an image encoder; None for nothing."""
    found = (entry for entry in catalogue().values() if entry.where == "shipped" and entry.system == system)
    return next((entry for entry in found if entry.variant == variant), None)


def store_folder() -> Path:
    """Where downloaded and imported weight files lie (the folder need not exist yet)."""
    override = os.environ.get(STORE_VARIABLE)
    return Path(override).expanduser() if override else Path(platformdirs.user_data_dir("wsi-pipeline")) / "weights"


def cache_folder() -> Path:
    """Where facts that can be found again are kept."""
    return Path(platformdirs.user_cache_dir("wsi-pipeline"))


def stored_files() -> dict[str, StoredFile]:
    """Imported files by name.

    Raises:
        WeightsError: a description in the store is damaged.
    """
    found = {}
    for path in sorted(store_folder().glob("*.json")):
        entry = _read_stored(path)
        found[entry.name] = entry
    return found


def is_known(name: str) -> bool:
    """Whether a weight file is called that, in the catalogue or in the store."""
    return name in catalogue() or _description(name) is not None


def variant_of(name: str) -> Variant | None:
    """The image encoder that the weights of that name are for.

    A file may fit encoders it was not trained on, so its name can know more than its keys.

    Returns:
        None for paths, and where a name does not settle it.

    Raises:
        WeightsError: the description in the store is damaged.
    """
    if name in catalogue():
        return catalogue()[name].variant
    description = _description(name)
    return None if description is None else _read_stored(description).variant


def locate(name_or_path: str | Path) -> Path:
    """The checked file behind a name of the catalogue, a name of the store, or a path.

    Nothing is downloaded here (see ``fetch``). A file with a known SHA-256 is checked once; afterwards its size
    and modification time stand for it.

    Raises:
        WeightsError: unknown name, no such file, not fetched yet, or a wrong digest.
    """
    name = str(name_or_path)
    if is_known(name):
        return _locate_named(name)
    path = Path(name_or_path).expanduser()
    if path.is_file():
        return path.resolve()
    if len(path.parts) == 1 and not path.suffix:
        raise _unknown(name)
    what = "is a folder, not a weight file" if path.is_dir() else "no such weight file"
    raise WeightsError(what, where=path, fix="Give a file's path or a name from `wsi-pipeline models list`")


def present(name: str) -> Path | None:
    """The file of a known name if it is on this machine, unchecked; else None."""
    entry = catalogue().get(name)
    if entry is not None and entry.where == "shipped":
        path = SHIPPED / entry.file
        return path if path.is_file() else None
    if entry is not None and entry.where == "embedded":
        return _packaged(entry)
    candidates = [store_folder() / f"{name}.safetensors"]
    if entry is not None:
        candidates.insert(0, store_folder() / entry.file)
    return next((path for path in candidates if path.is_file()), None)


def fetch(name: str, *, progress: Progress | None = None) -> Path:
    """Make a catalogue file available on this machine, downloading it if need be.

    Raises:
        WeightsError: unknown name, a file that has no address, or a failed download.
    """
    entry = find_entry(name)
    if entry.where != "download" or present(name) is not None:
        return locate(name)
    target = store_folder() / entry.file
    return download(str(entry.url), target, sha256=entry.sha256, size=entry.size, progress=progress)


def verify(name_or_path: str | Path) -> tuple[str, bool]:
    """Compute a weight file's SHA-256 anew and compare it with what is known about the file.

    Returns:
        The digest, and whether there was one to compare it with.

    Raises:
        WeightsError: as ``locate``.
    """
    name = str(name_or_path)
    path = (present(name) if is_known(name) else None) or locate(name_or_path)
    found = sha256_of(path, fresh=True)
    expected = _expected(name, path)
    if expected is not None and found != expected:
        raise _mismatch(path, found, expected)
    return found, expected is not None


def sha256_of(path: Path, *, fresh: bool = False) -> str:
    """SHA-256 of a file; remembered under its size and modification time unless ``fresh``.

    Raises:
        WeightsError: the file cannot be read.
    """
    try:
        path = path.resolve(strict=True)
        stat = path.stat()
        signature = {"path": str(path), "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
        memo = cache_folder() / "sha256" / f"{hashlib.sha256(str(path).encode()).hexdigest()[:24]}.json"
        known = None if fresh else _recall(memo, signature)
        if known is not None:
            return known
        digest = hash_file(path)
    except OSError as error:
        raise WeightsError(f"cannot be read ({error.strerror})", where=path, fix="Check the file") from None
    _remember(memo, signature | {"sha256": digest})
    return digest


def write_atomically(path: Path, data: bytes) -> None:
    """Write a small file beside its place and rename it there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_bytes(data)
    part.replace(path)


def _locate_named(name: str) -> Path:
    entry = catalogue().get(name)
    path = present(name)
    if path is None:
        raise _absent(name, entry)
    expected = _expected(name, path)
    if expected is not None:
        found = sha256_of(path)
        if found != expected:
            raise _mismatch(path, found, expected)
    return path.resolve()


def _expected(name: str, path: Path) -> str | None:
    """The digest the file behind a name must have; None where nothing is known."""
    description = _description(name)
    if description is not None and path.name == f"{name}.safetensors":
        return _read_stored(description).sha256
    entry = catalogue().get(name)
    return entry.sha256 if entry is not None else None


def _packaged(entry: WeightFile) -> Path | None:
    """A data file of an installed distribution, found without importing it."""
    try:
        files = importlib.metadata.files(str(entry.package)) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    for item in files:
        if item.name == entry.file:
            path = Path(str(item.locate()))
            return path if path.is_file() else None
    return None


def _description(name: str) -> Path | None:
    """The description of an imported file, if one is called that."""
    path = store_folder() / f"{name}.json"
    # the path of a weight file that happens to lie beside a .json is still a path
    return path if NAME.match(name) and path.is_file() else None


def _read_stored(path: Path) -> StoredFile:
    try:
        return StoredFile.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        raise WeightsError(
            "describes no weight file", where=path, fix="Delete it and import the weights again"
        ) from None


def _absent(name: str, entry: WeightFile | None) -> WeightsError:
    if entry is None:
        return WeightsError("the imported file is gone", where=name, fix="Import it again")
    if entry.where == "shipped":
        fix = "Run `pip install --force-reinstall wsi-pipeline`"
        return WeightsError(f"the data file {entry.file} of this package is missing", where=name, fix=fix)
    if entry.where == "embedded":
        return WeightsError(
            f"the data file {entry.file} of the package {entry.package} is missing",
            where=name,
            fix=f"Run `pip install --force-reinstall {entry.package}`",
        )
    if entry.where == "download":
        return WeightsError("is not on this machine yet", where=name, fix=f"Run `wsi-pipeline models fetch {name}`")
    return WeightsError(
        "has no download address that can be relied on",
        where=name,
        fix=f"Get {entry.file} from {entry.page}, then run `wsi-pipeline models import {entry.file} --name {name}`",
    )


def _mismatch(path: Path, found: str, expected: str) -> WeightsError:
    return WeightsError(
        f"has SHA-256 {found[:12]}…, expected {expected[:12]}…: the file is damaged or was changed",
        where=path,
        fix="Delete it and get it again",
    )


def _unknown(name: str) -> WeightsError:
    names = ", ".join([*catalogue(), *(path.stem for path in sorted(store_folder().glob("*.json")))])
    return WeightsError("no such weights", where=name, fix=f"Give a path or one of: {names}")


def _recall(memo: Path, signature: dict[str, Any]) -> str | None:
    try:
        kept = json.loads(memo.read_bytes())
    except (OSError, ValueError):
        return None
    digest = kept.pop("sha256", None) if isinstance(kept, dict) else None
    return digest if kept == signature and isinstance(digest, str) else None


def _remember(memo: Path, facts: dict[str, Any]) -> None:
    # a cache that cannot be written only costs time
    with contextlib.suppress(OSError):
        write_atomically(memo, json.dumps(facts).encode())
