"""The workflow file: one section per stage, checked as a whole before anything runs.

A workflow is YAML. Lengths and areas carry their unit (``32 px``, ``16 um``, ``30 um2``); a unit that does
not fit, an unknown key or a wrong type is one line naming the key.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from wsi_pipeline.errors import WorkflowError
from wsi_pipeline.granularity import Levels
from wsi_pipeline.models.matcher.settings import MatcherSettings
from wsi_pipeline.models.ov_sam.settings import ClipSettings
from wsi_pipeline.quantities import Length, Microns, Mpp, PxOrMicrons, Share, SquareMicrons
from wsi_pipeline.settings import Section, describe, read_settings, set_key
from wsi_pipeline.vocabulary import VocabularySettings


class TissueSettings(Section):
    """Where to look."""

    method: Literal["classical", "mask", "none"] = Field(
        "classical", description="find it by colour, take a mask of your own, or look everywhere"
    )
    mask: Path | None = Field(None, description="PNG (covering the slide bounds) or QuPath GeoJSON; method: mask")
    mpp: Mpp = Field(8.0, description="resolution of the overview the tissue is found on, µm/px")
    min_area: SquareMicrons = Field(20_000.0, description="smaller tissue pieces are dropped")
    max_hole: SquareMicrons = Field(50_000.0, description="smaller holes are filled")
    close: Microns = Field(24.0, description="gaps up to this width are closed")
    artefacts: bool = Field(True, description="find pen and out-of-focus areas and leave them out")


class TilingSettings(Section):
    """Paired patches."""

    overlap: PxOrMicrons = Field(Length(value=32, unit="um"), description="shared by neighbouring tiles")
    context_factor: float = Field(2.0, gt=1, le=16, description="how much farther the low patch sees")
    min_tissue: Share = Field(0.02, description="tiles with a smaller share of tissue are skipped")
    batch: int = Field(16, ge=1, le=1024, description="tiles of one task")


class NucleusDetectorPrompts(Section):
    """Nuclei found on the haematoxylin channel of every tile."""

    source: Literal["nucleus-detector"] = Field(description="boxes around dark spots of the haematoxylin channel")
    class_name: str | None = Field("Nucleus", alias="class", description="class of the results")
    min_diameter: Microns = Field(4.0, description="smaller spots are no nuclei")
    max_diameter: Microns = Field(20.0, description="larger spots are no nuclei")
    threshold: float = Field(1.0, gt=0, description="above 1 finds only darker nuclei, below 1 paler ones too")


class DomainDecoderPrompts(Section):
    """Objects that a trained domain decoder sees on every tile."""

    source: Literal["domain-decoder"] = Field(description="objects that a trained decoder sees, whatever they are")
    class_name: str | None = Field(None, alias="class", description="class of the results")
    weights: str = Field("nuclei-litemedsam", description="name in the weight store or path of a domain decoder")
    target: str | None = Field(None, description="class of the decoder to look for; null takes its first")
    threshold: Share = Field(0.5, description="px of at least this probability are of an object")
    prominence: Share = Field(0.1, description="touching objects are parted at necks at least this deep")
    min_area: SquareMicrons = Field(10.0, description="smaller objects are left out")


class GridPrompts(Section):
    """A regular grid of points on tissue: automatic masks, with the settings of segment-anything's generator."""

    source: Literal["grid"] = Field(description="points at equal distances on tissue")
    class_name: str | None = Field(None, alias="class", description="class of the results")
    spacing: Microns = Field(16.0, description="distance of neighbouring points")
    points_per_side: int | None = Field(None, ge=1, le=1024, description="points per side of a tile; overrides spacing")
    points_per_batch: int = Field(64, ge=1, description="most points asked at once; fewer where memory is short")
    pred_iou_thresh: Share = Field(0.88, description="masks need a higher predicted IoU; replaces segment.min_iou")
    stability_score_thresh: Share = Field(0.95, description="masks need this stability; replaces segment.min_stability")
    stability_score_offset: float = Field(
        1.0, ge=0, description="stability compares the masks at logits this far around 0"
    )
    box_nms_thresh: Share = Field(0.7, description="of two masks whose boxes overlap more (IoU) the better one stays")
    crop_n_layers: int = Field(0, ge=0, le=4, description="layers of crops asked about, too; layer i has 4^i per tile")
    crop_nms_thresh: Share = Field(0.7, description="the same between crops; masks of smaller crops stay")
    crop_overlap_ratio: float = Field(
        512 / 1500, ge=0, lt=1, description="share of the tile that crops of layer 1 have in common"
    )
    crop_n_points_downscale_factor: int = Field(
        1, ge=1, description="each layer of crops has so many times fewer points per side"
    )
    min_mask_region_area: SquareMicrons = Field(10.0, description="smaller specks and holes of a mask are removed")


class SegmentModelPrompts(Section):
    """No prompts: the model of the segment section finds the objects of every tile by itself."""

    source: Literal["segment-model"] = Field(description="nothing is asked: the segment model finds objects by itself")
    class_name: str | None = Field(
        None, alias="class", description="class of the results; null takes the classes that the model tells apart"
    )
    max_objects: int = Field(300, ge=1, description="most objects of a tile, the surest ones")


class MatcherPrompts(MatcherSettings):
    """Places on every tile that look like given examples; their classes are those of the examples."""

    source: Literal["matcher"] = Field(description="what looks like the examples given with --example")
    class_name: str | None = Field(
        None, alias="class", description="class of the results; null takes those of the examples"
    )


class TextPlaces(VocabularySettings):
    """Words, and what counts as a place that fits them."""

    threshold: Share = Field(0.5, description="px of at least this probability are of a class")
    min_area: SquareMicrons = Field(2000.0, description="smaller places are left out")

    @model_validator(mode="after")
    def _tells_apart(self) -> TextPlaces:
        if not self.targets or len(self.names) < 2:
            raise PydanticCustomError(
                "alone",
                "classes: a px is of the class that it fits best, and one class alone fits everywhere; "
                "add a class for all else, and name it in background",
            )
        return self


class TextPrompts(TextPlaces):
    """Places on every tile that fit the words for a class."""

    source: Literal["text"] = Field(description="what fits the words for a class")
    class_name: str | None = Field(None, alias="class", description="class of the results; null takes the words'")
    weights: str | None = Field(None, description="name in the weight store or path of a SAM-CLIP")
    backbone: str | None = Field(None, description="name of a backbone; null takes the model's default")
    clip: ClipSettings | None = Field(None, description="an image-text network of yours, whose words are understood")


class TissueBoxPrompts(Section):
    """One box around every piece of tissue."""

    source: Literal["tissue-boxes"] = Field(description="one box around every piece of tissue")
    class_name: str | None = Field("Tissue", alias="class", description="class of the results")
    margin: Microns = Field(50.0, description="how much larger the box is than the piece, on every side")


class QuPathPrompts(Section):
    """Annotations of a QuPath GeoJSON file: points, boxes, outlines and regions of interest."""

    source: Literal["qupath"] = Field(description="annotations drawn in QuPath")
    file: Path | None = Field(None, description="one file for every slide; else --prompts on the command line")
    class_name: str | None = Field(None, alias="class", description="for prompts without a class of their own")
    roi_classes: list[str] = Field(["Region*"], description="annotations of these classes limit the run")
    negative_classes: list[str] = Field(["Ignore*", "Negative"], description="points of these classes mean 'not here'")
    points_only: bool = Field(False, description="leave out what is no point, and say so")
    use_outline: bool = Field(True, description="an outline is a mask prompt too, where the model takes masks")
    fallback: Literal["keep", "drop"] = Field(
        "keep", description="what an annotation without a usable answer leaves: its own outline, or nothing"
    )
    point_box: Microns | None = Field(
        None, description="a model that takes no points is asked with a box of this side around each instead"
    )


PromptSettings = Annotated[
    NucleusDetectorPrompts
    | DomainDecoderPrompts
    | SegmentModelPrompts
    | GridPrompts
    | MatcherPrompts
    | TextPrompts
    | TissueBoxPrompts
    | QuPathPrompts,
    Field(discriminator="source"),
]


class ModelSettings(Section):
    """A model and how it is asked; a bare name stands for all its defaults."""

    model: str = Field(description="name from `wsi-pipeline models list`")
    backbone: str | None = Field(None, description="name of a backbone; None takes the model's default")
    weights: str | None = Field(None, description="name in the weight store or path of a checkpoint")
    weights_low: str | None = Field(None, description="second decoder of wsi-sam, when it is a file of its own")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:0")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto takes bf16 where it is faster and its masks agree with those of fp32"
    )
    window_margin: float | None = Field(
        0.5, ge=0, description="decode only the box grown by this share of its size; null decodes the whole patch"
    )
    multimask: bool | None = Field(
        None, description="the best of three guesses instead of the single mask; null: for single points only"
    )
    hq_token_only: bool = Field(False, description="hq-sam: the high-quality mask alone, not added to SAM's")
    clip: ClipSettings | None = Field(
        None, description="ov-sam and sam-clip: an image-text network of yours, whose words are understood"
    )
    edges: Literal["published", "image"] = Field(
        "published", description="pa-sam: edges as the official weights know them, or those of the image itself"
    )

    @model_validator(mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        return {"model": value} if isinstance(value, str) else value


class SegmentSettings(ModelSettings):
    """Which model draws the masks."""

    model: str = Field("wsi-sam", description="name from `wsi-pipeline models list`")
    min_iou: Share = Field(0.5, description="objects with a lower predicted IoU, or score, are dropped")
    min_stability: Share = Field(0.0, description="objects whose outline depends more on the threshold are dropped")
    nms_iou: Share = Field(0.5, description="of two objects overlapping more than this the better one stays")
    object_share: float = Field(
        0.5, gt=0, le=1, description="prompted runs: share of the patch side the object should fill"
    )
    max_growth: int = Field(4, ge=0, le=10, description="prompted runs: how often a patch may double")
    granularity: Levels = Field(
        (),
        description="of models whose clicks mean masks of six sizes: the level that is wanted, 1 (coarsest) to 6, "
        "levels with their classes, as in {2: Gland, 6: Nucleus}, or all; null: the surest one",
    )
    matcher: MatcherSettings | None = Field(None, description="of model matcher: the examples, and what is like them")
    text: TextPlaces | None = Field(None, description="of model sam-clip-regions: the classes, and what fits them")


class RefineSettings(ModelSettings):
    """Which model draws the masks again, each from its box, its points and itself."""

    model: str = Field("hq-sam", description="name from `wsi-pipeline models list`")
    min_agreement: Share = Field(
        0.5, description="a coarse mask that the refined one overlaps less than this (IoU) stays as it is"
    )
    points: int = Field(
        1, ge=0, le=16, description="points on the mask's middle line given besides, where the model takes points"
    )


class RecogniseSettings(ModelSettings, VocabularySettings):
    """Which model names the objects, and which names there are."""

    model: str = Field("ov-sam", description="name from `wsi-pipeline models list`")
    min_probability: Share = Field(0.0, description="objects whose best class is less probable get no class")
    keep_classes: bool = Field(
        False, description="an object that has a class keeps it; the probabilities are written all the same"
    )


class LearnSettings(Section):
    """What is learned from points before anything is looked for; weights of the segment section come from it."""

    system: Literal["sapnet"] = Field("sapnet", description="what is trained; the model of the segment section")
    set: dict[str, Any] = Field(
        {}, description="keys of its recipe that are to be otherwise; without classes, those of the points are learned"
    )


class StitchSettings(Section):
    """How tiles become one image."""

    merge_iou: Share = Field(0.3, description="objects of neighbouring tiles overlapping more are one object")
    nested: bool | None = Field(
        None,
        description="parts stay beside their whole: each object has its whole outline, and QuPath gets it beneath what "
        "holds it; null: where several levels of granularity are wanted",
    )
    chunk: int = Field(512, ge=64, le=4096, multiple_of=64, description="chunk side of the pyramid, px")
    shard: int = Field(2048, ge=64, le=32768, description="shard side of the pyramid, px; a multiple of chunk")


class VectorizeSettings(Section):
    """How masks become polygons."""

    simplify: Microns = Field(0.0, description="largest deviation of a simplified outline")
    min_area: SquareMicrons = Field(0.0, description="smaller objects are dropped")
    fill_holes: SquareMicrons = Field(0.0, description="smaller holes are filled")


class CellSettings(Section):
    """Nested objects that are one cell in QuPath."""

    cell: str = Field("Cell", min_length=1, description="class of what becomes the cell's outline")
    nucleus: str = Field("Nucleus", min_length=1, description="class of what lies in it and becomes its nucleus")


class ExportSettings(Section):
    """What is written beside the pyramid."""

    object_type: Literal["detection", "annotation"] = Field(
        "detection",
        description="detections are many and light, annotations few and editable; prompted runs keep theirs",
    )
    cells: CellSettings | None = Field(
        None,
        description="of nested runs: a cell that holds a nucleus is written as a QuPath cell with both outlines",
    )
    measurements: bool = Field(True, description="area, diameters, circularity and more; scores")
    tissue_annotations: bool = Field(True, description="tissue as `Region*`, artefacts as `Artefact*`")
    qupath_origin: Literal["auto", "bounds", "full"] = Field(
        "auto",
        description="where QuPath's pixel (0, 0) lies: at the corner of the scanned bounds or of the whole slide",
    )
    lock: bool = Field(False, description="lock annotations against editing")
    gzip: bool = Field(False, description="write .geojson.gz")
    max_objects_per_file: int | None = Field(None, ge=1, description="split the GeoJSON into parts of so many objects")
    geometry: Literal["polygon", "centroid"] = Field("polygon", description="outlines, or only their middle points")
    csv: bool = Field(False, description="write objects.csv")
    ome_tiff: bool = Field(False, description="write the label pyramid as masks.ome.tif, too")
    overview: bool = Field(True, description="draw overview.png")


class Workflow(Section):
    """One section per stage, left to right."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$", description="small letters, digits and hyphens")
    description: str = Field("", description="one line for people")
    mpp: Mpp = Field(description="working resolution, µm per px")
    tissue: TissueSettings = Field(TissueSettings(), description="where to look")
    tiling: TilingSettings = Field(TilingSettings(), description="which patches")
    learn: LearnSettings | None = Field(None, description="what to learn first, from points given with --prompts")
    prompts: PromptSettings | None = Field(None, description="what to ask; with segment, or neither")
    segment: SegmentSettings | None = Field(None, description="who answers")
    refine: RefineSettings | None = Field(None, description="who draws the answers, and outlines from QuPath, again")
    recognise: RecogniseSettings | None = Field(None, description="who names the objects, and outlines from QuPath")
    stitch: StitchSettings = Field(StitchSettings(), description="how tiles become one image")
    vectorize: VectorizeSettings = Field(VectorizeSettings(), description="how masks become polygons")
    export: ExportSettings = Field(ExportSettings(), description="what is written beside the pyramid")

    @property
    def prompted(self) -> bool:
        """Whether patches are centred on prompts (else a grid covers the tissue)."""
        return isinstance(self.prompts, QuPathPrompts | TissueBoxPrompts)

    @property
    def takes_files(self) -> bool:
        """Whether slides may have a QuPath file each, to be asked about or to learn from."""
        return self.learn is not None or isinstance(self.prompts, QuPathPrompts)

    @property
    def nested(self) -> bool:
        """Whether objects may lie in others, each whole."""
        asked = self.stitch.nested
        return asked if asked is not None else self.segment is not None and len(self.segment.granularity) > 1

    @property
    def draws(self) -> bool:
        """Whether a model draws outlines (else those from QuPath are the objects)."""
        return self.segment is not None or self.refine is not None


def model_sections(workflow: Workflow) -> dict[str, ModelSettings]:
    """The sections of a workflow that name a model, by stage and in the order in which objects go through them."""
    found = {stage: getattr(workflow, stage) for stage in _MODELS}
    return {stage: settings for stage, settings in found.items() if settings is not None}


def load_workflow(source: str | Path, overrides: dict[str, Any] | None = None) -> Workflow:
    """Read a workflow by path or by the name of one that ships with the package.

    Args:
        source: path of a YAML file, or a name such as ``nuclei``.
        overrides: dotted keys and their values, e.g. ``{"segment.model": "sam"}``.

    Raises:
        WorkflowError: unknown name, unreadable or invalid YAML, unknown key, wrong type or unit.
    """
    path = find_workflow(source)
    fix = "See `wsi-pipeline workflows show nuclei`"
    data = read_settings(path, error=WorkflowError, what="workflow", fix=fix)
    for key, value in (overrides or {}).items():
        set_key(data, key, value, error=WorkflowError, where=path, fix=_ADVICE, named=_MODELS)
    return parse_workflow(data, where=path)


def change_workflow(workflow: Workflow, overrides: dict[str, Any]) -> Workflow:
    """The workflow with some of its keys changed; see ``load_workflow``."""
    data = workflow.model_dump(mode="json", by_alias=True)
    for key, value in overrides.items():
        set_key(data, key, value, error=WorkflowError, where=workflow.name, fix=_ADVICE, named=_MODELS)
    return parse_workflow(data, where=workflow.name) if overrides else workflow


def with_examples(
    workflow: Workflow, slides: Sequence[Path], annotations: Sequence[Path], *, mpp: float | None = None
) -> Workflow:
    """The workflow with examples for its matcher.

    Args:
        workflow: one that takes examples.
        slides: where they are.
        annotations: QuPath GeoJSON with their outlines, one file for each slide.
        mpp: µm per level-0 px of the slides, where they do not say or are wrong.

    Raises:
        WorkflowError: not one annotation for each slide, or nothing in the workflow takes examples.
    """
    if len(slides) != len(annotations):
        raise WorkflowError(
            f"{len(slides)} slides with examples have {len(annotations)} annotations",
            where="--example",
            fix="Give --example and --example-annotation in pairs",
        )
    if not slides:
        return workflow
    pairs = [
        {"slide": str(slide.absolute()), "annotation": str(annotation.absolute()), "mpp": mpp}
        for slide, annotation in zip(slides, annotations, strict=True)
    ]
    if isinstance(workflow.prompts, MatcherPrompts):
        return change_workflow(workflow, {"prompts.examples": pairs})
    if workflow.segment is not None and workflow.segment.model == "matcher":
        return change_workflow(workflow, {"segment.matcher": _matcher(workflow.segment) | {"examples": pairs}})
    fix = "Use the workflow find-similar, or one with `prompts: {source: matcher}`"
    raise WorkflowError("takes no examples", where=workflow.name, fix=fix)


def _matcher(settings: SegmentSettings) -> dict[str, Any]:
    return (settings.matcher or MatcherSettings()).model_dump(mode="json", by_alias=True)


def parse_workflow(data: dict[str, Any], *, where: object = None) -> Workflow:
    """Check workflow data; see ``load_workflow``."""
    try:
        workflow = Workflow.model_validate(data)
    except ValidationError as error:
        raise WorkflowError(describe(error), where=where, fix=_ADVICE) from None
    if workflow.segment is not None and workflow.prompts is None:
        raise WorkflowError("has a segment section but no prompts", where=where, fix="Add `prompts: {source: ...}`")
    if workflow.refine is not None and workflow.prompts is None:
        raise WorkflowError("has a refine section but no prompts", where=where, fix="Add `prompts: {source: ...}`")
    if workflow.recognise is not None and workflow.prompts is None:
        raise WorkflowError("has a recognise section but no prompts", where=where, fix="Add `prompts: {source: ...}`")
    if workflow.prompts is not None and workflow.segment is None:
        of_outlines = workflow.refine is not None or workflow.recognise is not None
        if not (of_outlines and isinstance(workflow.prompts, QuPathPrompts)):
            raise WorkflowError("has prompts but no segment section", where=where, fix="Add `segment: wsi-sam`")
    if workflow.learn is not None and not isinstance(workflow.prompts, SegmentModelPrompts):
        fix = "Set `prompts: {source: segment-model}`"
        raise WorkflowError("has a learn section, and what learns finds objects by itself", where=where, fix=fix)
    if workflow.stitch.shard % workflow.stitch.chunk:
        raise WorkflowError("stitch.shard must be a multiple of stitch.chunk", where=where, fix=_ADVICE)
    return workflow


def workflow_folder() -> Path:
    """Where the workflows that ship with the package lie."""
    packaged = resources.files("wsi_pipeline") / "_workflows"
    if packaged.is_dir():
        return Path(str(packaged))
    return Path(__file__).parent.parent / "workflows"


def find_workflow(source: str | Path) -> Path:
    """The file behind a workflow name or path."""
    path = Path(source)
    if path.suffix in (".yaml", ".yml"):
        if path.is_file():
            return path
        raise WorkflowError("no such workflow file", where=path, fix="Check the path")
    shipped = workflow_folder() / f"{source}.yaml"
    if shipped.is_file():
        return shipped
    names = ", ".join(sorted(p.stem for p in workflow_folder().glob("*.yaml")))
    raise WorkflowError("no such workflow", where=source, fix=f"Give a .yaml file or one of: {names}")


_MODELS = ("segment", "refine", "recognise")
"""Sections of which a bare name means the model."""

_ADVICE = "See `wsi-pipeline workflows schema` for every key"
