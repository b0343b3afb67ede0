"""Which files a section of a workflow means by SAM-CLIP."""

from __future__ import annotations

from pathlib import Path

from wsi_pipeline.errors import WorkflowError
from wsi_pipeline.models.ov_sam.settings import ClipSettings
from wsi_pipeline.models.resolve import WeightPlan, trained_plan
from wsi_pipeline.models.sam_clip.facts import KIND, MINILM, ClipFacts
from wsi_pipeline.vocabulary import VocabularySettings
from wsi_pipeline.workflow import ModelSettings, RecogniseSettings, SegmentSettings, TextPlaces, TextPrompts


def sam_clip_plan(settings: ModelSettings, *, section: str = "segment") -> WeightPlan:
    """The files behind ``model: sam-clip``: a head and the backbone it names, or one file of both.

    Where words are read by a network, its file is among them as ``text``.

    Raises:
        WorkflowError: a second decoder, an unknown backbone, no weights where none ship, or nobody reads the words.
        WeightsError: a file is missing or of another kind, or was trained on another backbone.
    """
    plan = trained_plan(KIND, settings, section, lambda path: ClipFacts.read(path).backbone)
    path = plan.files[KIND]
    files = {KIND: path} if _holds_sam(path) else dict(plan.files)
    return WeightPlan(plan.backbone, files | _text_files(ClipFacts.read(path).text, settings.clip))


def regions_plan(settings: ModelSettings, *, section: str = "segment") -> WeightPlan:
    """The files behind ``model: sam-clip-regions``; raises as ``sam_clip_plan``."""
    return sam_clip_plan(settings.model_copy(update={"model": KIND}), section=section)


def places_of(settings: SegmentSettings) -> TextPlaces:
    """What a segment section with ``model: sam-clip-regions`` looks for.

    Raises:
        WorkflowError: nothing.
    """
    if settings.text is None:
        fix = "Name them, e.g. {classes: {tumor: [carcinoma], other: [normal tissue]}, background: other}"
        raise WorkflowError("there are no words to look for", where="segment.text", fix=fix)
    return settings.text


def text_prompts_plan(prompts: TextPrompts) -> WeightPlan:
    """The files behind ``source: text``; raises as ``sam_clip_plan``."""
    settings = ModelSettings(model=KIND, backbone=prompts.backbone, weights=prompts.weights, clip=prompts.clip)
    return sam_clip_plan(settings, section="prompts")


def vocabulary_of(settings: RecogniseSettings) -> VocabularySettings:
    """The classes that a section names, or those whose words are in the file.

    Raises:
        WorkflowError, WeightsError: there are none; or see ``sam_clip_plan``.
    """
    if settings.classes:
        return settings
    path = sam_clip_plan(settings, section="recognise").files[KIND]
    classes = ClipFacts.read(path).classes
    if not classes:
        fix = "Name them, e.g. {tumor: [carcinoma], stroma: []}"
        raise WorkflowError(f"{path.name} knows no classes by itself", where="recognise.classes", fix=fix)
    return VocabularySettings(classes=classes)


def class_names(settings: ModelSettings) -> tuple[str, ...]:
    """The names of ``vocabulary_of``; none of another section, and the same errors."""
    return vocabulary_of(settings).names if isinstance(settings, RecogniseSettings) else ()


def _holds_sam(path: Path) -> bool:
    from safetensors import safe_open

    with safe_open(path, "pt") as stored:
        return any(key.startswith("image_encoder.") for key in stored.keys())  # noqa: SIM118 (it is no dict)


def _text_files(text: str, clip: ClipSettings | None) -> dict[str, Path]:
    if clip is not None:
        from wsi_pipeline.models.image_text.local import image_text_weights

        return {"text": image_text_weights(clip.path)}
    if text == MINILM:
        from wsi_pipeline.models.image_text.minilm import minilm_weights

        return {"text": minilm_weights()}
    return {}
