"""The workflow file: one section per stage, checked as a whole before anything runs.

A workflow is YAML. Lengths and areas carry their unit (``32 px``, ``16 um``, ``30 um2``); a unit that does
not fit, an unknown key or a wrong type is one line naming the key.
"""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from wsi_pipeline.errors import WorkflowError
from wsi_pipeline.settings import Section, describe, read_settings, set_key

_QUANTITY = re.compile(r"^\s*([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*([a-zA-Zµμ²^0-9/]*)\s*$")
_MICRONS = {"um": 1.0, "mm": 1000.0}


def _split(value: object) -> tuple[float, str]:
    match = _QUANTITY.match(str(value))
    if match is None:
        raise PydanticCustomError("quantity", "{value} is not a number with a unit", {"value": repr(value)})
    unit = match[2].replace("µ", "u").replace("μ", "u").replace("²", "2").replace("^", "")
    return float(match[1]), unit


class Length(BaseModel):
    """A length in px of the working resolution or in µm."""

    model_config = ConfigDict(frozen=True)
    value: float
    unit: Literal["px", "um"]

    def px(self, mpp: float) -> float:
        """The length in px at ``mpp`` µm per px."""
        return self.value if self.unit == "px" else self.value / mpp


def _length(value: object) -> Length:
    if isinstance(value, Length):
        return value
    number, unit = _split(value)
    if unit == "px":
        return Length(value=number, unit="px")
    if unit in _MICRONS:
        return Length(value=number * _MICRONS[unit], unit="um")
    raise PydanticCustomError("length_unit", "{value} needs the unit px, um or mm", {"value": repr(value)})


def _in_microns(value: object) -> float:
    if isinstance(value, int | float) and value == 0:
        return 0.0
    length = _length(value)
    if length.unit != "um":
        raise PydanticCustomError("micron_unit", "{value} needs the unit um or mm", {"value": repr(value)})
    return length.value


def _in_square_microns(value: object) -> float:
    if isinstance(value, int | float) and value == 0:
        return 0.0
    number, unit = _split(value)
    factors = {"um2": 1.0, "mm2": 1e6}
    if unit not in factors:
        raise PydanticCustomError("area_unit", "{value} needs the unit um2 or mm2", {"value": repr(value)})
    return number * factors[unit]


def _in_mpp(value: object) -> float:
    if isinstance(value, int | float):
        return float(value)
    number, unit = _split(value)
    if unit not in ("", "um", "um/px"):
        raise PydanticCustomError("mpp_unit", "{value} needs the unit um/px", {"value": repr(value)})
    return number


def _unit(suffix: str) -> PlainSerializer:
    return PlainSerializer(lambda value: f"{value:g} {suffix}", return_type=str)


PxOrMicrons = Annotated[
    Length, BeforeValidator(_length), PlainSerializer(lambda v: f"{v.value:g} {v.unit}", return_type=str)
]
Microns = Annotated[float, BeforeValidator(_in_microns), Field(ge=0), _unit("um")]
SquareMicrons = Annotated[float, BeforeValidator(_in_square_microns), Field(ge=0), _unit("um2")]
Mpp = Annotated[float, BeforeValidator(_in_mpp), Field(ge=0.05, le=100)]
Share = Annotated[float, Field(ge=0, le=1)]


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


class RefineSettings(ModelSettings):
    """Which model draws the masks again, each from its box, its points and itself."""

    model: str = Field("hq-sam", description="name from `wsi-pipeline models list`")
    min_agreement: Share = Field(
        0.5, description="a coarse mask that the refined one overlaps less than this (IoU) stays as it is"
    )
    points: int = Field(
        1, ge=0, le=16, description="points on the mask's middle line given besides, where the model takes points"
    )


class StitchSettings(Section):
    """How tiles become one image."""

    merge_iou: Share = Field(0.3, description="objects of neighbouring tiles overlapping more are one object")
    chunk: int = Field(512, ge=64, le=4096, multiple_of=64, description="chunk side of the pyramid, px")
    shard: int = Field(2048, ge=64, le=32768, description="shard side of the pyramid, px; a multiple of chunk")


class VectorizeSettings(Section):
    """How masks become polygons."""

    simplify: Microns = Field(0.0, description="largest deviation of a simplified outline")
    min_area: SquareMicrons = Field(0.0, description="smaller objects are dropped")
    fill_holes: SquareMicrons = Field(0.0, description="smaller holes are filled")


class ExportSettings(Section):
    """What is written beside the pyramid."""

    object_type: Literal["detection", "annotation"] = Field(
        "detection",
        description="detections are many and light, annotations few and editable; prompted runs keep theirs",
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
    prompts: PromptSettings | None = Field(None, description="what to ask; with segment, or neither")
    segment: SegmentSettings | None = Field(None, description="who answers")
    refine: RefineSettings | None = Field(None, description="who draws the answers, and outlines from QuPath, again")
    stitch: StitchSettings = Field(StitchSettings(), description="how tiles become one image")
    vectorize: VectorizeSettings = Field(VectorizeSettings(), description="how masks become polygons")
    export: ExportSettings = Field(ExportSettings(), description="what is written beside the pyramid")

    @property
    def prompted(self) -> bool:
        """Whether patches are centred on prompts (else a grid covers the tissue)."""
        return isinstance(self.prompts, QuPathPrompts | TissueBoxPrompts)


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
        set_key(data, key, value, error=WorkflowError, where=path, fix=_ADVICE, named=("segment", "refine"))
    return parse_workflow(data, where=path)


def change_workflow(workflow: Workflow, overrides: dict[str, Any]) -> Workflow:
    """The workflow with some of its keys changed; see ``load_workflow``."""
    data = workflow.model_dump(mode="json", by_alias=True)
    for key, value in overrides.items():
        set_key(data, key, value, error=WorkflowError, where=workflow.name, fix=_ADVICE, named=("segment", "refine"))
    return parse_workflow(data, where=workflow.name) if overrides else workflow


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
    if workflow.prompts is not None and workflow.segment is None:
        outlines = workflow.refine is not None and isinstance(workflow.prompts, QuPathPrompts)
        if not outlines:
            raise WorkflowError("has prompts but no segment section", where=where, fix="Add `segment: wsi-sam`")
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


_ADVICE = "See `wsi-pipeline workflows schema` for every key"
