"""From sections of a workflow to Semantic-SAM."""

from __future__ import annotations

from wsi_pipeline.errors import WorkflowError
from wsi_pipeline.models.builders import DTYPES, load_sam
from wsi_pipeline.models.resolve import WeightPlan
from wsi_pipeline.models.semantic_sam.file import KIND, SemanticFacts, load_semantic_sam
from wsi_pipeline.models.semantic_sam.official import TOKENS, load_official
from wsi_pipeline.models.semantic_sam.plan import class_names, is_published, semantic_files, semantic_plan
from wsi_pipeline.models.semantic_sam.recogniser import SemanticRecogniser
from wsi_pipeline.models.semantic_sam.segmenter import SemanticSegmenter, on_sam, published
from wsi_pipeline.workflow import ModelSettings, RecogniseSettings


def build_segmenter(settings: ModelSettings, *, device: str = "cpu", dtype: str = "fp32") -> SemanticSegmenter:
    """The model of a segment section.

    Raises:
        WorkflowError, WeightsError: see ``semantic_files`` and ``load_official``.
    """
    if is_published(settings):
        network = load_official(semantic_files(settings)[KIND])
        return published(network, TOKENS, device=device, dtype=DTYPES[dtype])
    return _trained(semantic_plan(settings), device=device, dtype=dtype)


def build_recogniser(settings: RecogniseSettings, *, device: str = "cpu", dtype: str = "fp32") -> SemanticRecogniser:
    """The model of a recognise section; without classes, it names those of its file.

    Raises:
        WorkflowError: a class that its file does not name, or objects among parts; or see ``semantic_plan``.
        WeightsError: see ``semantic_plan``.
    """
    plan = semantic_plan(settings, section="recognise")
    known, names = SemanticFacts.read(plan.files[KIND]).settings, class_names(settings)
    head = next((one for one in (known.objects, known.parts) if set(names) <= set(one)), None)
    if not names or head is None:
        told = "; or ".join(", ".join(one) for one in (known.objects, known.parts) if one) or "no classes"
        fix = f"Choose among what it tells apart: {told}"
        raise WorkflowError(f"{plan.files[KIND].name} does not tell these apart", where="recognise.classes", fix=fix)
    columns = [head.index(name) for name in names]
    segmenter = _trained(plan, device=device, dtype=dtype)
    return SemanticRecogniser(segmenter, names, columns, parts=head is not known.objects)


def _trained(plan: WeightPlan, *, device: str, dtype: str) -> SemanticSegmenter:
    path = plan.files[KIND]
    levels = SemanticFacts.read(path).levels
    return on_sam(load_semantic_sam(path), load_sam(plan), levels, device=device, dtype=DTYPES[dtype])
