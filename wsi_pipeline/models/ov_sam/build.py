"""From sections of a workflow to Open-Vocabulary SAM in the form they ask for."""

from __future__ import annotations

from wsi_pipeline.errors import WorkflowError
from wsi_pipeline.models import builders
from wsi_pipeline.models.image_text import MapEncoder
from wsi_pipeline.models.image_text.local import load_image_text
from wsi_pipeline.models.image_text.openclip import OpenClip
from wsi_pipeline.models.ov_sam.baselines import FeatureCropRecogniser, ImageCropRecogniser
from wsi_pipeline.models.ov_sam.embedded import EmbeddedRecogniser
from wsi_pipeline.models.ov_sam.model import OpenVocabularySam
from wsi_pipeline.models.ov_sam.plan import class_names, ov_sam_plan
from wsi_pipeline.models.ov_sam.published import load_parts
from wsi_pipeline.models.ov_sam.recogniser import OpenVocabularyRecogniser, check_fit
from wsi_pipeline.models.ov_sam.settings import ClipSettings
from wsi_pipeline.models.resolve import WeightPlan
from wsi_pipeline.models.roles import Recogniser
from wsi_pipeline.models.segmenter import BatchedSegmenter
from wsi_pipeline.models.weights import locate
from wsi_pipeline.workflow import ModelSettings, RecogniseSettings


def build_recogniser(settings: RecogniseSettings, *, device: str = "cpu", dtype: str = "fp32") -> Recogniser:
    """The model of a recognise section: the head on the shared encoder, or what its ``clip`` asks for.

    Raises:
        WorkflowError: no classes, a word that nobody knows, or a package is missing.
        WeightsError: a file is missing, unsafe or does not fit.
    """
    clip = settings.clip
    if clip is None:
        return EmbeddedRecogniser(ov_sam_plan(settings), settings, device=device, dtype=dtype)
    class_names(settings)  # none shows now, not after the network is read
    network = _network(clip, device, dtype)
    if settings.weights is not None:
        parts = load_parts(locate(settings.weights))
        return OpenVocabularyRecogniser(
            _with_stages(network, clip), parts, settings, base=clip.base, alpha=clip.alpha, beta=clip.beta
        )
    if clip.how == "feature-crop":
        return FeatureCropRecogniser(network, settings)
    return ImageCropRecogniser(network, settings, background=clip.background == "keep")


def build_segmenter(settings: ModelSettings, *, device: str = "cpu", dtype: str = "fp32") -> BatchedSegmenter:
    """The model of a segment section: on the shared encoder plain SAM, whose embedding needs no adapter.

    Raises:
        WorkflowError: a network without the weights that make masks of it, or a package is missing.
        WeightsError: a file is missing, unsafe or does not fit.
    """
    clip = settings.clip
    if clip is None:
        plan = ov_sam_plan(settings, section="segment")
        sam = WeightPlan(plan.backbone, {"sam": plan.files["sam"]})
        return builders.build("sam", sam, settings, device=device, dtype=dtype)
    if settings.weights is None:
        fix = "Set it to a clip2sam_*.pth of Open-Vocabulary SAM"
        raise WorkflowError("an image-text network alone draws nothing", where="segment.weights", fix=fix)
    network, parts = _with_stages(_network(clip, device, dtype), clip), load_parts(locate(settings.weights))
    check_fit(network, parts)
    return OpenVocabularySam(network, parts)


def _network(clip: ClipSettings, device: str, dtype: str) -> MapEncoder:
    return load_image_text(clip.path, clip.model, device=device, dtype=builders.DTYPES[dtype])


def _with_stages(network: MapEncoder, clip: ClipSettings) -> OpenClip:
    """A network with the four maps that the published parts stand on."""
    if isinstance(network, OpenClip) and network.has_stages:
        return network
    fix = "Give a ResNet or ConvNeXt of open_clip, or leave weights out"
    raise WorkflowError("has no maps of four sizes", where=clip.path, fix=fix)
