"""PNG and JPEG: one level, decoded whole."""

from __future__ import annotations

import threading
import warnings
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wsi_pipeline.errors import SlideError
from wsi_pipeline.slides.base import ReaderFacts
from wsi_pipeline.slides.pixels import rgb_on_white

if TYPE_CHECKING:
    from PIL import Image

_EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")


class ImageReader:
    """A ``LevelReader`` on a PNG or JPEG file, decoded at the first read.

    Images of this kind state no usable pixel size (their dpi is a print size), so ``facts.claims`` is empty.
    16-bit RGB PNG loses its low byte; 16-bit grey is refused.
    """

    def __init__(self, path: Path) -> None:
        """Raises SlideError where the file is no such image, is too large or has no 8-bit pixels."""
        self._path = path
        self._lock = threading.Lock()
        self._pixels: np.ndarray | None = None
        with _open(path) as image:
            if image.mode not in _EIGHT_BIT_MODES:
                raise SlideError(
                    f"stores {image.mode} pixels", where=path, fix="Convert it to 8 bits, choosing black and white"
                )
            profile = image.info.get("icc_profile")
            self.facts = ReaderFacts(
                reader="image",
                vendor=str(image.format).lower(),
                level_sizes=(image.size,),
                icc_profile=profile if image.mode in ("RGB", "RGBA") else None,
                warnings=_warnings(image.mode),
            )

    def read(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """See ``LevelReader.read``."""
        with self._lock:
            if self._pixels is None:
                self._pixels = _decode(self._path)
            pixels = self._pixels
        return pixels[y : y + height, x : x + width].copy()

    def associated_image(self, name: str) -> np.ndarray:
        """There are none; see ``LevelReader.associated_image``."""
        raise SlideError(f"has no associated image {name}", where=self._path)

    def close(self) -> None:
        """See ``LevelReader.close``."""
        with self._lock:
            self._pixels = None


def _open(path: Path) -> Image.Image:
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            # Between one and two times Pillow's limit it only warns; such images are common and fine here.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(path, formats=("PNG", "JPEG"))
    except Image.DecompressionBombError:
        raise SlideError(
            "is too large to be decoded whole", where=path, fix="Convert it to a tiled pyramidal TIFF or OME-Zarr"
        ) from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise SlideError(f"is no readable PNG or JPEG ({error})", where=path, fix="Check the file") from None


def _decode(path: Path) -> np.ndarray:
    try:
        with _open(path) as image:
            image.load()
            return _cmyk_to_srgb(image) if image.mode == "CMYK" else rgb_on_white(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise SlideError(
            f"cannot be decoded ({error})", where=path, fix="The file is damaged or truncated: copy it again"
        ) from None


def _cmyk_to_srgb(image: Image.Image) -> np.ndarray:
    from PIL import ImageCms

    profile = image.info.get("icc_profile")
    if profile:
        try:
            srgb = ImageCms.profileToProfile(
                image, ImageCms.ImageCmsProfile(BytesIO(profile)), ImageCms.createProfile("sRGB"), outputMode="RGB"
            )
            if srgb is not None:
                return rgb_on_white(srgb)
        except (ImageCms.PyCMSError, OSError):
            pass  # an unusable profile; the plain conversion is the best that is left
    return rgb_on_white(image)


def _warnings(mode: str) -> tuple[str, ...]:
    if mode in ("1", "L", "LA"):
        return ("the image is grey; its values are repeated as red, green and blue",)
    if mode == "CMYK":
        return ("the image is CMYK and was converted to RGB",)
    return ()
