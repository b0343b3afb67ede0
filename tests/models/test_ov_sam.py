"""Open-Vocabulary SAM in all its forms: on the shared encoder, on a network of its own, and without training."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from wsi_pipeline.errors import WeightsError, WorkflowError
from wsi_pipeline.models.image_text import MapEncoder
from wsi_pipeline.models.image_text.local import image_text_weights, load_image_text
from wsi_pipeline.models.image_text.openclip import MAP_PX, OpenClip
from wsi_pipeline.models.layers import EncoderOutput
from wsi_pipeline.models.ov_sam import embedded
from wsi_pipeline.models.ov_sam.baselines import CROPS_AT_ONCE, FeatureCropRecogniser, ImageCropRecogniser
from wsi_pipeline.models.ov_sam.build import build_recogniser, build_segmenter
from wsi_pipeline.models.ov_sam.embedded import EmbeddedRecogniser, SeenPairs
from wsi_pipeline.models.ov_sam.ensemble import fuse
from wsi_pipeline.models.ov_sam.model import OpenVocabularySam, sureness
from wsi_pipeline.models.ov_sam.plan import class_names, context_factor, ov_sam_plan, weight_files
from wsi_pipeline.models.ov_sam.published import OvSamParts, load_adapter, load_parts
from wsi_pipeline.models.ov_sam.recogniser import OpenVocabularyRecogniser, large_enough
from wsi_pipeline.models.ov_sam.region_head import RegionFacts, RegionHead
from wsi_pipeline.models.roles import PairImages, PromptBatch, Recogniser, Regions, Segmenter
from wsi_pipeline.vocabulary import VocabularySettings
from wsi_pipeline.workflow import RecogniseSettings, SegmentSettings

TRAINED = {"tumor": ["carcinoma"], "stroma": [], "fat": ["adipose tissue"]}


def words(classes: object) -> VocabularySettings:
    return VocabularySettings.model_validate({"classes": classes})


def squares(*boxes: Sequence[int], image: int = 0) -> Regions:
    """Regions that fill their boxes."""
    masks = [np.ones((y1 - y0, x1 - x0), bool) for x0, y0, x1, y1 in boxes]
    return Regions(np.full(len(boxes), image), np.array(boxes, np.int64), masks)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (*shape, 3), dtype=np.uint8)


# on the shared encoder


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Untrained heads: one for high patches, one for pairs."""
    folder, files = tmp_path_factory.mktemp("heads"), {}
    for name, factor in {"alone": None, "paired": 2.0}.items():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            facts = RegionFacts(
                classes=TRAINED, backbone="lite-medsam", early_channels=160, context_factor=factor, dim=8
            )
            head = RegionHead(facts)
        files[name] = folder / f"{name}.safetensors"
        save_file(head.state_dict(), files[name], metadata=facts.metadata())
    return files


def section(path: Path, **more: Any) -> RecogniseSettings:
    return RecogniseSettings.model_validate({"weights": str(path)} | more)


def test_a_file_says_classes_words_and_context(heads: dict[str, Path]) -> None:
    facts = RegionFacts.read(heads["paired"])
    assert {one.name: list(one.synonyms) for one in facts.classes} == TRAINED | {"stroma": ["stroma"]}
    assert facts.channels == 3 * 416
    assert ov_sam_plan(section(heads["paired"])).files["ov-sam"] == heads["paired"]
    assert set(weight_files(section(heads["alone"]))) == {"sam", "ov-sam"}
    assert context_factor(section(heads["paired"])) == 2.0
    assert class_names(section(heads["alone"])) == ("tumor", "stroma", "fat")
    assert class_names(section(heads["alone"], classes=["fat"])) == ("fat",)


def test_a_file_that_says_nothing_is_refused(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "bare.safetensors")
    with pytest.raises(WeightsError, match="does not say which classes it names"):
        build_recogniser(section(tmp_path / "bare.safetensors"))


def test_a_patch_is_encoded_once_for_masks_and_names(heads: dict[str, Path]) -> None:
    settings = SegmentSettings.model_validate({"model": "ov-sam", "weights": str(heads["alone"])})
    segmenter, recogniser = build_segmenter(settings), build_recogniser(section(heads["alone"]))
    assert isinstance(recogniser, Recogniser)
    assert isinstance(segmenter, Segmenter)
    assert recogniser.encoder is segmenter.encoder
    before, pairs = segmenter.encoder.computed, PairImages(noise(1, 256, 256))
    embedding = segmenter.encode(pairs)
    masks = segmenter.decode(embedding, PromptBatch(np.zeros(1, np.int64), boxes=np.array([[40, 40, 90, 80]])))
    told = recogniser.recognise(recogniser.encode(pairs), squares((40, 40, 90, 80), (0, 0, 9, 9)))
    assert segmenter.encoder.computed == before + 1
    assert len(masks) == 1
    assert told.shape == (2, 3)
    np.testing.assert_allclose(told.sum(axis=1), 1, rtol=1e-5)


@pytest.fixture(scope="module")
def paired(heads: dict[str, Path]) -> EmbeddedRecogniser:
    return build_recogniser(section(heads["paired"]))


@pytest.fixture(scope="module")
def seen() -> SeenPairs:
    """A pair of patches, encoded by chance."""
    random = torch.Generator().manual_seed(0)
    high, low = (
        EncoderOutput(torch.randn(1, 256, 64, 64, generator=random), torch.randn(1, 64, 64, 160, generator=random))
        for _ in range(2)
    )
    return SeenPairs(high, low)


def test_the_low_patch_has_a_say(paired: EmbeddedRecogniser, seen: SeenPairs) -> None:
    where = squares((100, 100, 140, 150))
    assert paired.uses_low_patch
    assert not np.allclose(paired.recognise(seen, where), paired.recognise(SeenPairs(seen.high, seen.high), where))
    with pytest.raises(ValueError, match="the low ones are missing"):
        paired.encode(PairImages(noise(1, 256, 256)))


def test_names_come_in_the_order_of_the_section(heads: dict[str, Path], seen: SeenPairs) -> None:
    own = build_recogniser(section(heads["alone"]))
    classes = {"adipose": ["Adipose_tissue"], "cancer": ["carcinoma"], "stroma": []}
    other = build_recogniser(section(heads["alone"], classes=classes))
    assert other.class_names == ("adipose", "cancer", "stroma")
    told, where = SeenPairs(seen.high, None), squares((10, 10, 60, 60))
    np.testing.assert_allclose(other.recognise(told, where), own.recognise(told, where)[:, [2, 0, 1]], rtol=1e-4)


def test_a_word_the_head_never_learned_is_refused(heads: dict[str, Path]) -> None:
    with pytest.raises(WorkflowError, match="gland were not trained; known are tumor, stroma, fat"):
        build_recogniser(section(heads["alone"], classes=["tumor", "gland"]))


def test_a_tile_of_five_thousand_objects_is_pooled_in_parts(
    paired: EmbeddedRecogniser, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def features(high: object, low: object, some: Regions, **_: object) -> Tensor:
        sizes.append(len(some))
        return torch.randn(len(some), 3 * 416, 1, 1)

    monkeypatch.setattr(embedded, "region_features", features)
    count = 5000
    regions = Regions(np.zeros(count, np.int64), np.tile([0, 0, 4, 4], (count, 1)), [np.ones((4, 4), bool)] * count)
    assert paired.recognise((None, None), regions).shape == (count, 3)
    assert max(sizes) == embedded.REGIONS_AT_ONCE
    assert paired.recognise((None, None), squares()).shape == (0, 3)


# without training


class Colours:
    """An image means its mean colour, a word the colour it says; its maps are the image itself, in cells of 4 px."""

    name, dim, logit_scale, reads_sentences, image_size, pool_grid = "colours", 3, 100.0, True, 16, None
    said = ("red", "green", "blue")

    def __init__(self) -> None:
        self.looked: list[tuple[int, ...]] = []

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        return F.normalize(torch.tensor([[float(word in text) for word in self.said] for text in texts]), dim=1)

    def encode_image(self, images: np.ndarray) -> Tensor:
        self.looked.append(images.shape)
        return F.normalize(torch.from_numpy(images).float().mean(dim=(1, 2)), dim=1)

    def encode_map(self, images: np.ndarray) -> Tensor:
        return F.avg_pool2d(torch.from_numpy(images).float().permute(0, 3, 1, 2), 4)

    def encode_pooled(self, pooled: Tensor) -> Tensor:
        return F.normalize(pooled, dim=1)


@pytest.fixture
def flag() -> PairImages:
    """Two images of 64 px: red left and green right, and all blue."""
    images = np.zeros((2, 64, 64, 3), np.uint8)
    images[0, :, :32, 0] = images[0, :, 32:, 1] = images[1, :, :, 2] = 255
    return PairImages(images)


@pytest.mark.parametrize("make", [ImageCropRecogniser, FeatureCropRecogniser])
def test_baselines_look_where_the_regions_are(make: Callable[..., Any], flag: PairImages) -> None:
    recogniser = make(Colours(), words(["blue", "red", "green"]))
    assert isinstance(recogniser, Recogniser)
    assert not hasattr(recogniser, "encoder")  # that is what keeps embeddings on disk
    regions = Regions(np.array([0, 1, 0]), np.array([[4, 4, 20, 50], [0, 0, 64, 64], [40, 0, 60, 9]]), [])
    regions = Regions(
        regions.image_index, regions.boxes, [np.ones((y1 - y0, x1 - x0), bool) for x0, y0, x1, y1 in regions.boxes]
    )
    told = recogniser.recognise(recogniser.encode(flag), regions)
    assert told.argmax(axis=1).tolist() == [1, 0, 2]
    np.testing.assert_allclose(told.sum(axis=1), 1, rtol=1e-5)
    assert recogniser.recognise(recogniser.encode(flag), squares()).shape == (0, 3)


def test_a_crop_without_its_background_shows_the_mask_alone(flag: PairImages) -> None:
    left = np.zeros((64, 64), bool)
    left[:, :32] = True
    regions, vocabulary = Regions(np.zeros(1, np.int64), np.array([[0, 0, 64, 64]]), [left]), words(["red", "green"])
    kept, removed = (
        recogniser.recognise(flag.high, regions)[0]
        for recogniser in (ImageCropRecogniser(Colours(), vocabulary, background=keep) for keep in (True, False))
    )
    assert kept[0] == pytest.approx(0.5)
    assert removed[0] > 0.9


def test_crops_are_looked_at_in_batches(flag: PairImages) -> None:
    encoder = Colours()
    count = 2 * CROPS_AT_ONCE + 1
    ImageCropRecogniser(encoder, words(["red"])).recognise(flag.high, squares(*[(0, 0, 5, 7)] * count))
    assert encoder.looked == [(CROPS_AT_ONCE, 16, 16, 3)] * 2 + [(1, 16, 16, 3)]


# an image-text network from a file


VISION: dict[str, dict[str, Any]] = {
    "resnet": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 8},
    "vit": {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8},
}
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 8, "heads": 1, "layers": 1}


def write_folder(folder: Path, vision: dict[str, Any], **text: Any) -> Path:
    open_clip = pytest.importorskip("open_clip")
    config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": TEXT | text}
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = open_clip.CLIP(16, vision, TEXT)
    save_file(network.state_dict(), folder / "open_clip_model.safetensors")
    return folder


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("clips")
    return {name: write_folder(root / name, vision) for name, vision in VISION.items()}


def test_a_folder_of_open_clip_is_read_in_silence(
    clips: dict[str, Path], capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    handlers = logging.getLogger().handlers[:]
    clip = load_image_text(clips["vit"])
    assert isinstance(clip, MapEncoder)
    assert (clip.dim, clip.image_size, clip.pool_grid) == (16, 32, None)
    torch.testing.assert_close(clip.encode_text(["a", "fat"]).norm(dim=1), torch.ones(2))
    assert clip.encode_map(noise(2, 50, 50)).shape == (2, 16, 4, 4)
    assert logging.getLogger().handlers == handlers
    assert (capfd.readouterr().err, caplog.text) == ("", "")


def test_a_region_that_is_the_whole_image_means_what_the_image_means(clips: dict[str, Path]) -> None:
    clip = load_image_text(clips["resnet"])
    assert clip.pool_grid == 2
    image = noise(1, MAP_PX, MAP_PX)
    seen = FeatureCropRecogniser(clip, words(["fat"])).encode(PairImages(image))
    assert seen.maps.shape == (1, 256, 32, 32)
    small = noise(1, 64, 64)
    maps = clip._maps(clip._pixels.of(small, clip.device, clip.dtype), 1)[0]
    torch.testing.assert_close(clip.encode_pooled(maps), clip.encode_image(small), atol=1e-5, rtol=1e-4)


def test_a_checkpoint_needs_the_name_of_its_architecture(clips: dict[str, Path], tmp_path: Path) -> None:
    file = clips["vit"] / "open_clip_model.safetensors"
    with pytest.raises(WorkflowError, match="is no architecture of open_clip"):
        load_image_text(file)
    with pytest.raises(WeightsError, match="does not fit the network"):
        load_image_text(file, "RN50")
    with pytest.raises(WeightsError, match="no such file or folder"):
        load_image_text(tmp_path / "gone")
    with pytest.raises(WeightsError, match="is no folder of an image-text network"):
        load_image_text(tmp_path)
    assert image_text_weights(file) == image_text_weights(clips["vit"]) == file


def test_nothing_is_downloaded_for_the_words(tmp_path: Path) -> None:
    foreign = write_folder(tmp_path / "foreign", VISION["vit"], hf_tokenizer_name="some/where")
    with pytest.raises(WorkflowError, match="words are read by some/where, which is no part of it"):
        load_image_text(foreign)


def test_a_checkpoint_with_code_is_refused(clips: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "open_clip_config.json").write_bytes((clips["vit"] / "open_clip_config.json").read_bytes())
    torch.save({"state_dict": {"x": Path("y")}}, folder / "open_clip_pytorch_model.bin")
    with pytest.raises(WeightsError, match="holds pickled code"):
        load_image_text(folder)


@pytest.fixture(scope="module")
def transformers_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("transformers")
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    letters = [chr(97 + n) for n in range(26)]
    vocabulary = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    transformers.CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt")).save_pretrained(folder)
    text = small | {"vocab_size": len(vocabulary), "max_position_embeddings": 12, "eos_token_id": len(vocabulary) - 1}
    config = transformers.CLIPConfig(
        text_config=text, vision_config=small | {"image_size": 32, "patch_size": 8}, projection_dim=8
    )
    transformers.CLIPModel(config).save_pretrained(folder)
    return folder


def test_a_folder_of_transformers_is_read_too(transformers_folder: Path) -> None:
    clip = load_image_text(transformers_folder)
    assert isinstance(clip, MapEncoder)
    assert (clip.dim, clip.image_size, clip.pool_grid) == (8, 32, None)
    vectors = clip.encode_text(["fat", "a much longer text than the network takes"])
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(clip.encode_text(["fat"])[0], vectors[0], atol=1e-5, rtol=1e-4)
    assert clip.encode_image(noise(2, 40, 20)).shape == (2, 8)
    maps = clip.encode_map(noise(1, 64, 64))
    assert maps.shape == (1, 16, 4, 4)
    assert clip.encode_pooled(maps.mean(dim=(2, 3))).shape == (1, 8)


def test_a_folder_of_another_network_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match="holds a network of type bert, not a CLIP"):
        load_image_text(tmp_path)


# an image-text network as the only encoder


SMALL = {"pyramid_channels": 8, "width": 16, "heads": 1, "depth": 1}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as mmengine writes it, for the small ResNet."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        parts = OvSamParts((32, 64, 128, 256), 16, **SMALL)
    frozen = {"backbone.layer1.0.conv1.weight": torch.zeros(1)}
    path = tmp_path_factory.mktemp("published") / "clip2sam.pth"
    torch.save({"meta": {"epoch": 12}, "state_dict": parts.state_dict() | frozen}, path)
    return path


@pytest.fixture(scope="module")
def resnet(clips: dict[str, Path]) -> OpenClip:
    return load_image_text(clips["resnet"])


def test_sizes_of_a_published_checkpoint_are_those_of_its_parameters(published: Path) -> None:
    parts = load_parts(published)
    assert (parts.image_size, parts.mask_decoder.dim) == (1024, 16)
    torch.testing.assert_close(load_adapter(published).state_dict(), parts.neck.state_dict())


def test_an_adapter_alone_names_nothing(published: Path, tmp_path: Path) -> None:
    adapter = load_adapter(published)
    path = tmp_path / "sam2clip.pth"
    torch.save({"state_dict": {f"neck_student.{key}": value for key, value in adapter.state_dict().items()}}, path)
    torch.testing.assert_close(load_adapter(path).state_dict(), adapter.state_dict())
    with pytest.raises(WeightsError, match="holds the adapter alone"):
        load_parts(path)


def test_other_checkpoints_are_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {"x": torch.zeros(1)}}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="is no checkpoint of Open-Vocabulary SAM"):
        load_parts(tmp_path / "other.pth")


def test_it_draws_and_names_what_it_sees_once(published: Path, resnet: OpenClip) -> None:
    parts = load_parts(published)
    recogniser = OpenVocabularyRecogniser(resnet, parts, words(TRAINED), base=("tumor",))
    model = OpenVocabularySam(resnet, parts, recogniser)
    assert isinstance(model, Segmenter)
    before, pairs = model.stages.computed, PairImages(noise(1, 1024, 1024))
    embedding = model.encode(pairs)
    boxes, points = np.array([[100, 200, 600, 700]], np.float32), np.array([[[500, 500]]], np.float32)
    image = np.zeros(1, np.int64)
    by_box = model.decode(embedding, PromptBatch(image, boxes=boxes))
    by_point = model.decode(embedding, PromptBatch(image, points=points, point_labels=np.ones((1, 1), np.int64)))
    assert by_box.logits.shape == by_point.logits.shape == (1, 1024, 1024)
    assert 0 <= by_box.iou[0] <= 1
    regions = squares((100, 200, 600, 700), (0, 0, 8, 8))
    told = model.recognise(embedding, regions)
    np.testing.assert_allclose(told.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(recogniser.recognise(recogniser.encode(pairs), regions), told, rtol=1e-4)
    assert model.stages.computed == before + 1


def test_a_network_of_another_width_does_not_fit(published: Path, resnet: OpenClip) -> None:
    parts = load_parts(published)
    parts.mask_decoder.dim = 768
    with pytest.raises(WeightsError, match="has vectors of 16 numbers, the weights of 768"):
        OpenVocabularyRecogniser(resnet, parts, words(TRAINED))


def test_what_the_network_cannot_see_is_left_to_the_head() -> None:
    head, clip = torch.randn(2, 4), torch.randn(2, 4)
    fused = fuse(head, clip, base={0}, valid=torch.tensor([False, True]))
    torch.testing.assert_close(fused[0], head[0].log_softmax(0))
    assert not torch.allclose(fused[1], head[1].log_softmax(0))
    regions = squares((0, 0, 16, 16), (0, 0, 17, 17), (40, 40, 60, 60))
    assert large_enough(regions, 32).tolist() == [False, True, True]


def test_sureness_is_the_mean_probability_inside() -> None:
    logits = torch.tensor([[[0.0, 2], [-3, 2]], [[-1, -1], [-1, -1]]])
    torch.testing.assert_close(sureness(logits), torch.tensor([torch.sigmoid(torch.tensor(2.0)).item(), 0]))


# which form a section asks for


def asked(path: Path, **more: Any) -> RecogniseSettings:
    return RecogniseSettings.model_validate(
        {"classes": TRAINED} | more | {"clip": {"path": path} | more.get("clip", {})}
    )


def test_a_section_gets_the_form_it_asks_for(clips: dict[str, Path], published: Path) -> None:
    forms = {
        ImageCropRecogniser: asked(clips["vit"]),
        FeatureCropRecogniser: asked(clips["vit"], clip={"how": "feature-crop"}),
        OpenVocabularyRecogniser: asked(clips["resnet"], weights=str(published)),
    }
    for form, settings in forms.items():
        assert type(build_recogniser(settings)) is form
    assert set(weight_files(forms[OpenVocabularyRecogniser])) == {"clip", "ov-sam"}
    assert set(weight_files(forms[ImageCropRecogniser])) == {"clip"}
    drawing = SegmentSettings.model_validate(
        {"model": "ov-sam", "weights": str(published), "clip": {"path": clips["resnet"]}}
    )
    assert type(build_segmenter(drawing)) is OpenVocabularySam


def test_a_network_without_weights_draws_nothing(clips: dict[str, Path]) -> None:
    settings = SegmentSettings.model_validate({"model": "ov-sam", "clip": {"path": clips["resnet"]}})
    with pytest.raises(WorkflowError, match="an image-text network alone draws nothing"):
        build_segmenter(settings)


def test_published_weights_need_a_network_with_four_maps(clips: dict[str, Path], published: Path) -> None:
    with pytest.raises(WorkflowError, match="has no maps of four sizes"):
        build_recogniser(asked(clips["vit"], weights=str(published)))


def test_a_network_of_the_users_knows_no_classes_by_itself(clips: dict[str, Path]) -> None:
    with pytest.raises(WorkflowError, match="knows no classes by itself"):
        build_recogniser(asked(clips["vit"], classes=[]))
