"""From sections of a workflow to a matcher: its features, its segmenter, its examples."""

from __future__ import annotations

from pathlib import Path

from wsi_pipeline.errors import WorkflowError
from wsi_pipeline.models import builders
from wsi_pipeline.models.matcher.examples import read_outlines
from wsi_pipeline.models.matcher.features import FeatureEncoder, SamFeatures, load_timm
from wsi_pipeline.models.matcher.model import MatcherModel
from wsi_pipeline.models.matcher.settings import MatcherSettings
from wsi_pipeline.models.resolve import BACKBONES, WeightPlan, sam_plan
from wsi_pipeline.qupath.origin import Origin
from wsi_pipeline.workflow import MatcherPrompts, ModelSettings, SegmentSettings


def build_matcher(
    settings: SegmentSettings, *, device: str = "cpu", dtype: str = "fp32", origin: Origin = "auto"
) -> MatcherModel:
    """The model of a segment section: matches, and SAM on the section's backbone, which draws them.

    Args:
        settings: the section; its ``matcher`` names the examples.
        device, dtype: where and in what to compute.
        origin: how QuPath opened the slides of the examples.

    Raises:
        WorkflowError: no examples, or an encoder that is unknown or without its checkpoint.
        WeightsError: a file is missing, unsafe or does not fit.
        SlideError, PromptError: see ``read_outlines``.
    """
    matcher = settings.matcher or MatcherSettings()
    outlines = read_outlines(matcher, origin=origin)
    plan = sam_plan(settings.model_copy(update={"model": "sam"}))
    segmenter = builders.build("sam", plan, settings, device=device, dtype=dtype)
    features = build_features(matcher, plan, device=device, dtype=dtype)
    return MatcherModel(matcher, outlines, features, segmenter, margin=settings.window_margin)


def build_match_prompter(
    settings: MatcherPrompts, *, device: str = "cpu", dtype: str = "fp32", origin: Origin = "auto"
) -> MatcherModel:
    """The matcher of a prompts section, which leaves drawing to the segment section; raises as ``build_matcher``."""
    outlines = read_outlines(settings, origin=origin)
    plan = sam_plan(ModelSettings(model="sam"))
    features = build_features(settings, plan, device=device, dtype=dtype)
    return MatcherModel(settings, outlines, features, None)


def build_features(settings: MatcherSettings, plan: WeightPlan, *, device: str, dtype: str) -> FeatureEncoder:
    """Whose features are compared.

    Args:
        settings: name the encoder: ``embedded`` is that of the plan, with its early map; the name of a backbone means
            its embedding alone; everything else is timm's.
        plan: of the SAM that draws.
        device, dtype: where and in what to compute.

    Raises:
        WorkflowError, WeightsError: as ``build_matcher``.
    """
    name = settings.encoder
    if name == "embedded" or name in BACKBONES:
        own = name == "embedded"
        sam = builders.load_sam(plan if own else sam_plan(ModelSettings(model="sam", backbone=name)))
        return SamFeatures(sam, settings.grid, early=own, device=device, dtype=builders.DTYPES[dtype])
    if settings.encoder_weights is None:
        fix = "Set matcher.encoder_weights to the path of its checkpoint"
        raise WorkflowError(f"the encoder {name} has no weights", where="matcher.encoder", fix=fix)
    path = Path(settings.encoder_weights).expanduser()
    return load_timm(name, path, settings.grid, device=device, dtype=builders.DTYPES[dtype])
