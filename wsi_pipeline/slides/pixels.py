"""From whatever a file stores to uint8 RGB on white."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from wsi_pipeline.errors import SlideError

if TYPE_CHECKING:
    from PIL import Image

WHITE = 255


def rgb_on_white(image: Image.Image) -> np.ndarray:
    """(h, w, 3) uint8 RGB of an 8-bit PIL image; transparent pixels are composited on white.

    Takes the modes 1, L, LA, P, PA, RGB, RGBA, RGBX, CMYK, YCbCr, HSV and LAB.
    """
    from PIL import Image

    if image.mode in ("LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode != "RGBA":
        return np.array(image.convert("RGB"))
    alpha = image.getchannel("A")
    # Nearly every read is opaque throughout, and then dropping the channel is all there is to do.
    if alpha.getextrema()[0] == WHITE:
        return np.array(image.convert("RGB"))
    canvas = Image.new("RGB", image.size, (WHITE, WHITE, WHITE))
    canvas.paste(image, mask=alpha)
    return np.array(canvas)


def rgb_from_samples(samples: np.ndarray, *, where: object, cmyk: bool = False, inverted: bool = False) -> np.ndarray:
    """(h, w, 3) uint8 RGB of raw samples.

    Args:
        samples: (h, w, c) uint8, or uint16 with c = 3 or 4 (scaled by dropping the low byte, as PNG readers do),
            or bool with c = 1. c = 1 is grey and is repeated, 3 is RGB, 4 is RGB with alpha or CMYK.
        where: the slide, for messages.
        cmyk: four channels are inks.
        inverted: one channel where 0 is white.

    Raises:
        SlideError: any other make-up.
    """
    from PIL import Image

    check_samples(samples.dtype, samples.shape[2], where=where)
    if samples.dtype == np.bool_:
        samples = samples.astype(np.uint8) * np.uint8(255)
    if samples.dtype == np.uint16:
        samples = (samples >> 8).astype(np.uint8)
    channels = samples.shape[2]
    if channels == 1:
        return np.repeat(255 - samples if inverted else samples, 3, axis=2)
    if channels == 4:
        image = Image.fromarray(np.ascontiguousarray(samples))
        if not cmyk:
            return rgb_on_white(image)
        return np.array(Image.frombytes("CMYK", image.size, np.ascontiguousarray(samples).tobytes()).convert("RGB"))
    return np.ascontiguousarray(samples)


def check_samples(dtype: np.dtype[Any], channels: int, *, where: object) -> None:
    """Raise SlideError where ``rgb_from_samples`` cannot make RGB of such samples."""
    if channels not in (1, 3, 4):
        raise SlideError(
            f"has {channels} channels", where=where, fix="Only bright-field slides are read: RGB, RGBA, CMYK or grey"
        )
    if dtype == np.uint8 or (dtype == np.uint16 and channels != 1) or (dtype == np.bool_ and channels == 1):
        return
    kind = "grey" if channels == 1 else f"{channels}-channel"
    raise SlideError(
        f"stores {kind} {dtype} pixels", where=where, fix="Convert it to 8 bits per channel, choosing black and white"
    )


class SrgbTransform:
    """Colours of an ICC profile to sRGB; thread-safe."""

    def __init__(self, profile: bytes, *, where: object) -> None:
        """Raises SlideError where the profile cannot be used on RGB pixels."""
        from PIL import ImageCms

        try:
            source = ImageCms.ImageCmsProfile(BytesIO(profile))
            # Without its one-pixel cache, a transform has no state that threads could disturb.
            self._transform = ImageCms.buildTransform(
                source, ImageCms.createProfile("sRGB"), "RGB", "RGB", flags=ImageCms.Flags.NOCACHE
            )
        except (ImageCms.PyCMSError, OSError) as error:
            raise SlideError(
                f"its ICC profile cannot be used ({error})", where=where, fix="Read it with the colours as stored"
            ) from None

    def apply(self, rgb: np.ndarray) -> np.ndarray:
        """(h, w, 3) uint8 in the profile's colours to the same in sRGB."""
        from PIL import Image, ImageCms

        converted = ImageCms.applyTransform(Image.fromarray(rgb), self._transform)
        assert converted is not None
        return np.array(converted)
