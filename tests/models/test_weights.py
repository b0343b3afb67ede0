"""The catalogue, the store, and the checks a file passes before it is used."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from wsi_pipeline.errors import WeightsError
from wsi_pipeline.models import weights
from wsi_pipeline.models.checkpoints import read_state_dict
from wsi_pipeline.models.convert import import_checkpoint
from wsi_pipeline.models.weights import (
    WeightFile,
    catalogue,
    fetch,
    locate,
    present,
    sha256_of,
    store_folder,
    stored_files,
    variant_of,
    verify,
)

LITE_MEDSAM = "79d8c9dca6db4d69d3f905579e5250af05e859fff9c1f543e89a513c3028ce76"


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store and a cache of this test alone."""
    store = tmp_path / "store"
    monkeypatch.setenv("WSI_PIPELINE_WEIGHTS", str(store))
    monkeypatch.setattr(weights, "cache_folder", lambda: tmp_path / "cache")
    return store


@pytest.fixture
def small_entry(monkeypatch: pytest.MonkeyPatch) -> WeightFile:
    """A downloadable catalogue entry whose right content is ``right``."""
    facts = catalogue()["mobile-sam"].model_dump()
    digest = hashlib.sha256(b"right").hexdigest()
    entry = WeightFile.model_validate(facts | {"name": "small", "file": "small.pt", "sha256": digest, "size": 5})
    monkeypatch.setattr(weights, "catalogue", lambda: {"small": entry})
    return entry


def _high_decoder(path: Path, rows: int = 160) -> Path:
    state = {"transformer.norm.bias": torch.zeros(2), "hf_token.weight": torch.ones(1, 2)}
    state["compress_vit_feat.0.weight"] = torch.zeros(rows, 1, 2, 2)
    torch.save({"model": state, "optimizer": {"lr": 1e-3}, "epoch": 20}, path)
    return path


def test_every_entry_can_be_had_or_says_how() -> None:
    for name, entry in catalogue().items():
        assert entry.name == name
        assert entry.licence
        assert entry.citation
        assert entry.page.startswith("https://")
        if entry.where == "download":
            assert str(entry.url).startswith("https://")
            assert str(entry.url).endswith(entry.file)
            assert entry.sha256
            assert entry.size


SHIPPED_NAMES = [entry.name for entry in catalogue().values() if entry.where == "shipped"]


@pytest.mark.parametrize("name", SHIPPED_NAMES)
def test_shipped_weights_are_those_of_their_card(name: str) -> None:
    entry = catalogue()[name]
    path = locate(name)
    card = json.loads(path.with_suffix(".json").read_text())
    assert verify(name) == (entry.sha256, True)
    assert (card["file"], card["sha256"], card["kind"]) == (entry.file, entry.sha256, entry.kind)
    assert path.stat().st_size == entry.size
    assert card["recipe"]["system"] == entry.system
    licences = {row["licence"] for rows in card["data"].values() for row in rows}
    assert licences <= {"CC0-1.0", "CC-BY-4.0"}
    assert not str(card).count("/")  # nobody's folders
    assert f"| `{entry.file}` | {entry.size:,} | `{entry.sha256}` |" in (path.parent / "README.md").read_text()


def test_shipped_weights_fit_in_the_wheel() -> None:
    by_prompts = {"wsi-sam", "hq-sam", "pa-sam", "domain-decoder", "lora-sam"}
    sizes = {name: locate(name).stat().st_size for name in SHIPPED_NAMES}
    assert {catalogue()[name].system for name in SHIPPED_NAMES} == by_prompts | {"sapnet", "semantic-sam"}
    assert sum(size for name, size in sizes.items() if catalogue()[name].system in by_prompts) < 40e6
    assert sum(sizes.values()) < 50e6


def test_every_published_file_of_hq_sam_and_pa_sam_is_known() -> None:
    published = [
        (entry.name, entry.variant, entry.kind, entry.where)
        for entry in catalogue().values()
        if entry.system in ("hq-sam", "pa-sam") and entry.where != "shipped"
    ]
    assert published == [
        ("hq-sam-vit-tiny", "vit_t", "hq-sam", "download"),
        ("hq-sam-vit-b", "vit_b", "hq-sam", "download"),
        ("hq-sam-vit-l", "vit_l", "hq-sam", "download"),
        ("hq-sam-vit-h", "vit_h", "hq-sam", "download"),
        ("pa-sam-vit-l", "vit_l", "pa-decoder", "by-path"),
    ]


def test_download_addresses_name_a_version_that_stays() -> None:
    for entry in catalogue().values():
        if entry.where == "download":
            assert "/main/" not in str(entry.url)
            assert "/master/" not in str(entry.url)


@pytest.mark.parametrize("gap", [{"where": "download", "url": None}, {"sha256": "4b8939"}, {"licence": None}])
def test_catalogue_entry_with_a_gap_is_refused(gap: dict[str, str | None]) -> None:
    with pytest.raises(ValueError):
        WeightFile.model_validate(catalogue()["mobile-sam"].model_dump() | gap)


def test_embedded_file_is_found_without_importing_its_package() -> None:
    code = (
        "import sys; from wsi_pipeline.models.weights import locate; path = locate('lite-medsam');"
        "assert not [m for m in sys.modules if m.startswith(('medsam', 'torch'))]; print(path)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    path = Path(ran.stdout.strip())
    assert path.name == "lite_medsam.pth"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == LITE_MEDSAM


def test_path_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.pth").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    assert locate("mine.pth") == tmp_path / "mine.pth"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sam-vit-q", "no such weights.* one of: lite-medsam"),
        ("nowhere/sam.pth", "nowhere/sam.pth: no such weight file"),
        ("mobile-sam", "not on this machine yet.*models fetch mobile-sam"),
        ("hq-sam-vit-b", "not on this machine yet.*models fetch hq-sam-vit-b"),
        ("wsi-sam-tiny-high", "no download address.*models import net_high.pth --name wsi-sam-tiny-high"),
        ("pa-sam-vit-l", "no download address.*models import epoch_20.pth --name pa-sam-vit-l"),
    ],
)
def test_absent_weights_say_what_to_do(name: str, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        locate(name)


def test_folder_in_place_of_a_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="is a folder"):
        locate(tmp_path)


def test_downloaded_file_of_wrong_content_is_refused(small_entry: WeightFile, own_folders: Path) -> None:
    own_folders.mkdir()
    file = own_folders / small_entry.file
    file.write_bytes(b"right")
    assert locate("small") == file
    file.write_bytes(b"wrong")
    with pytest.raises(WeightsError, match=r"has SHA-256 .*, expected .*damaged or was changed"):
        locate("small")


def test_file_is_hashed_once_until_it_changes(
    small_entry: WeightFile, own_folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_folders.mkdir()
    file = own_folders / small_entry.file
    file.write_bytes(b"right")
    hashed: list[Path] = []
    original = weights.hash_file
    monkeypatch.setattr(weights, "hash_file", lambda path: hashed.append(path) or original(path))
    locate("small")
    locate("small")
    assert len(hashed) == 1
    os.utime(file, ns=(1, 1))
    locate("small")
    assert len(hashed) == 2


def test_verify_sees_damage_that_size_and_time_hide(small_entry: WeightFile, own_folders: Path) -> None:
    own_folders.mkdir()
    file = own_folders / small_entry.file
    file.write_bytes(b"right")
    stat = file.stat()
    locate("small")
    file.write_bytes(b"WRONG")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(WeightsError, match="SHA-256"):
        verify("small")


def test_cache_that_cannot_be_written_only_costs_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"x")
    monkeypatch.setattr(weights, "cache_folder", lambda: tmp_path / "file")
    assert sha256_of(tmp_path / "file") == hashlib.sha256(b"x").hexdigest()


def test_damaged_cache_entry_is_computed_anew(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    digest = sha256_of(tmp_path / "file")
    (memo,) = (tmp_path / "cache" / "sha256").iterdir()
    for content in ("", "[]", '{"sha256": 3}'):
        memo.write_text(content)
        assert sha256_of(tmp_path / "file") == digest


def test_fetching_what_is_here_needs_no_network(
    small_entry: WeightFile, own_folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WSI_PIPELINE_OFFLINE", "1")
    with pytest.raises(WeightsError, match="WSI_PIPELINE_OFFLINE is set"):
        fetch("small")
    own_folders.mkdir()
    (own_folders / small_entry.file).write_bytes(b"right")
    assert fetch("small") == own_folders / small_entry.file


def test_fetching_takes_address_size_and_digest_of_the_entry(
    small_entry: WeightFile, own_folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def pretend(url: str, target: Path, *, sha256: str, size: int, progress: object) -> Path:
        asked.extend((url, target, sha256, size))
        return target

    monkeypatch.setattr(weights, "download", pretend)
    assert fetch("small") == own_folders / small_entry.file
    assert asked == [small_entry.url, own_folders / small_entry.file, small_entry.sha256, small_entry.size]


def test_imported_checkpoint_keeps_values_and_origin(tmp_path: Path) -> None:
    source = _high_decoder(tmp_path / "net_high.pth")
    stored = import_checkpoint(source, name="wsi-sam-tiny-high")
    path = locate("wsi-sam-tiny-high")
    assert path == store_folder() / "wsi-sam-tiny-high.safetensors"
    assert stored == stored_files()["wsi-sam-tiny-high"]
    assert (stored.kind, stored.variant, stored.licence) == ("hq-decoder", "vit_t", "not stated by the authors")
    assert stored.source_sha256 == hashlib.sha256(source.read_bytes()).hexdigest()
    with safe_open(path, "pt") as file:
        assert file.metadata()["source_sha256"] == stored.source_sha256
        assert file.metadata()["licence"] == stored.licence
    before, after = read_state_dict(source), read_state_dict(path)
    assert {key: value.tolist() for key, value in before.items()} == {
        key: value.tolist() for key, value in after.items()
    }


def test_imported_pa_decoder_keeps_the_backbone_its_name_knows(tmp_path: Path) -> None:
    state = {"transformer.norm.bias": torch.zeros(2), "prompt_adapter.static_refined_token.weight": torch.zeros(1, 2)}
    torch.save(state, tmp_path / "epoch_20.pth")
    known = import_checkpoint(tmp_path / "epoch_20.pth", name="pa-sam-vit-l")
    assert (known.system, known.kind, known.variant) == ("pa-sam", "pa-decoder", "vit_l")
    own = import_checkpoint(tmp_path / "epoch_20.pth", name="mine")
    assert (own.system, own.kind, own.variant) == ("pa-sam", "pa-decoder", None)
    assert (variant_of("pa-sam-vit-l"), variant_of("mine"), variant_of("mine.pth")) == ("vit_l", None, None)


def test_path_beside_a_description_is_still_a_path(tmp_path: Path) -> None:
    (tmp_path / "net.json").write_text("{}")
    (tmp_path / "net").write_bytes(b"x")
    assert locate(tmp_path / "net") == tmp_path / "net"


def test_import_under_a_name_of_ones_own(tmp_path: Path) -> None:
    stored = import_checkpoint(_high_decoder(tmp_path / "a.pth", rows=768), name="mine", licence="CC-BY-4.0")
    assert (stored.variant, stored.licence) == ("vit_b", "CC-BY-4.0")
    assert present("mine") == locate("mine")
    (store_folder() / "mine.safetensors").write_bytes(b"damaged")
    with pytest.raises(WeightsError, match="SHA-256"):
        locate("mine")
    (store_folder() / "mine.safetensors").unlink()
    with pytest.raises(WeightsError, match="the imported file is gone"):
        locate("mine")
    (store_folder() / "mine.json").write_text(json.dumps({"name": "mine"}))
    with pytest.raises(WeightsError, match="describes no weight file"):
        stored_files()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Mine", "is no name for weights"),
        ("../mine", "is no name for weights"),
        ("lite-medsam", "comes with the package"),
        ("hq-sam-litemedsam", "comes with the package"),
        ("hq-sam-vit-b", "hq-sam-vit-b is the file with 14a9d662cd6f"),
        ("sam-vit-b", "sam-vit-b is the file with ec2df6273261"),
    ],
)
def test_import_under_a_wrong_name_is_refused(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=message):
        import_checkpoint(_high_decoder(tmp_path / "net.pth"), name=name)
    assert not store_folder().exists()


def test_import_of_another_variant_under_a_catalogue_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        WeightsError, match=r"for vit_b, but MobileSAM .* was expected. Choose another name, or get net"
    ):
        import_checkpoint(_high_decoder(tmp_path / "net.pth", rows=768), name="wsi-sam-tiny-high")


def test_import_of_another_kind_under_a_catalogue_name_is_refused(tmp_path: Path) -> None:
    sam = {"image_encoder.patch_embed.proj.weight": torch.zeros(1024, 3, 1, 1)}
    torch.save(sam, tmp_path / "sam.pth")
    with pytest.raises(WeightsError, match="holds SAM vit_l, but PA-SAM mask decoder was expected"):
        import_checkpoint(tmp_path / "sam.pth", name="pa-sam-vit-l")
    assert not store_folder().exists()


def test_store_that_cannot_be_made_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("WSI_PIPELINE_WEIGHTS", str(tmp_path / "file" / "store"))
    with pytest.raises(WeightsError, match="cannot be written"):
        import_checkpoint(_high_decoder(tmp_path / "net.pth"), name="mine")
