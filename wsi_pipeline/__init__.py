"""Precise masks for gigapixel slides: from a slide to OME-Zarr pyramids and QuPath annotations."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("wsi-pipeline")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

__all__ = ["__version__"]
