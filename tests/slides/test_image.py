"""PNG and JPEG."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from wsi_pipeline.errors import ResolutionError, SlideError
from wsi_pipeline.geometry import Affine2D
from wsi_pipeline.slides.slide import open_slide

Pixels = Callable[..., np.ndarray]


def whole(path: Path, **options: bool) -> np.ndarray:
    slide = open_slide(path, mpp=0.5, **options)
    return slide.read_grid(Affine2D(), (slide.info.width, slide.info.height))


def test_png_needs_mpp_and_gives_its_pixels(tmp_path: Path, pixels: Pixels) -> None:
    image, path = pixels(50, 60), tmp_path / "a.png"
    Image.fromarray(image).save(path, dpi=(72, 72))
    with pytest.raises(ResolutionError, match="--mpp"):
        open_slide(path)
    assert np.array_equal(whole(path), image)
    info = open_slide(path, mpp=0.5).info
    assert (info.reader, info.vendor, info.mpp_source, info.name) == ("image", "png", "user", "a")


@pytest.mark.parametrize("mpp", [0.0, -1.0, 0.01, 21.0, float("nan"), float("inf")])
def test_absurd_mpp_of_the_user_is_refused(tmp_path: Path, pixels: Pixels, mpp: float) -> None:
    Image.fromarray(pixels(5, 5)).save(tmp_path / "a.png")
    with pytest.raises(ResolutionError, match=r"out of 0\.05 … 20"):
        open_slide(tmp_path / "a.png", mpp=mpp)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_are_white(tmp_path: Path, mode: str) -> None:
    image = Image.new("RGBA", (20, 10), (10, 10, 10, 255))
    image.paste((10, 10, 10, 0), (0, 0, 10, 10))
    image.convert(mode).save(tmp_path / "a.png")
    got = whole(tmp_path / "a.png")
    assert np.all(got[:, :10] == 255)
    assert np.all(got[:, 10:] == 10)


def test_half_transparent_pixels_are_half_white(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (0, 100, 200, 128)).save(tmp_path / "a.png")
    assert np.allclose(whole(tmp_path / "a.png")[0, 0], [127, 177, 227], atol=1)


def test_grey_is_repeated(tmp_path: Path, pixels: Pixels) -> None:
    image = pixels(9, 8, 1)
    Image.fromarray(image[..., 0]).save(tmp_path / "a.png")
    assert np.array_equal(whole(tmp_path / "a.png"), np.repeat(image, 3, axis=2))


def test_cmyk_jpeg_becomes_rgb(tmp_path: Path) -> None:
    Image.new("CMYK", (32, 32), (255, 0, 0, 0)).save(tmp_path / "a.jpg", quality=100)
    assert np.allclose(whole(tmp_path / "a.jpg")[5, 5], [0, 255, 255], atol=3)
    assert "CMYK" in open_slide(tmp_path / "a.jpg", mpp=0.5).info.warnings[0]


def test_sixteen_bit_grey_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 40000, np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(SlideError, match="Convert it to 8 bits"):
        open_slide(tmp_path / "a.png", mpp=0.5)


def test_image_too_large_to_decode_is_refused(tmp_path: Path, pixels: Pixels, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(pixels(60, 60)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(SlideError, match=r"too large to be decoded whole\. Convert it to a tiled"):
        open_slide(tmp_path / "a.png", mpp=0.5)


@pytest.mark.filterwarnings("error")
def test_image_just_over_pillows_limit_is_read_without_a_warning(
    tmp_path: Path, pixels: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(pixels(40, 40)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert whole(tmp_path / "a.png").shape == (40, 40, 3)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_truncated_image_says_so_when_read(tmp_path: Path, pixels: Pixels, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(pixels(100, 100)).save(path)
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(SlideError, match=rf"a\.{suffix}: cannot be decoded .*truncated"):
        whole(path)


def profile(space: str) -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile(space)).tobytes()


def test_icc_profile_is_applied_on_request_only(tmp_path: Path) -> None:
    red_is_blue = profile("sRGB").replace(b"rXYZ", b"....").replace(b"bXYZ", b"rXYZ").replace(b"....", b"bXYZ")
    image, path = np.full((20, 20, 3), (255, 0, 0), np.uint8), tmp_path / "a.png"
    Image.fromarray(image).save(path, icc_profile=red_is_blue)
    assert np.array_equal(whole(path), image)
    assert np.allclose(whole(path, icc=True), (0, 0, 255), atol=2)


def test_icc_profile_of_other_colours_than_rgb_is_an_error_on_request_only(tmp_path: Path, pixels: Pixels) -> None:
    image, path = pixels(20, 20), tmp_path / "a.png"
    Image.fromarray(image).save(path, icc_profile=profile("LAB"))
    assert np.array_equal(whole(path), image)
    with pytest.raises(SlideError, match="ICC profile cannot be used"):
        open_slide(path, mpp=0.5, icc=True)


def test_srgb_profile_changes_nothing_and_padding_stays_white(tmp_path: Path, pixels: Pixels) -> None:
    image, path = pixels(20, 20), tmp_path / "a.png"
    Image.fromarray(image).save(path, icc_profile=profile("sRGB"))
    slide = open_slide(path, mpp=0.5, icc=True)
    got = slide.read_grid(Affine2D(1, 1, -5, -5), (30, 30))
    assert np.abs(got[5:25, 5:25].astype(int) - image).max() <= 2
    assert np.all(got[:5] == 255)


def test_one_pixel_image_works(tmp_path: Path, pixels: Pixels) -> None:
    Image.fromarray(pixels(1, 1)).save(tmp_path / "a.png")
    slide = open_slide(tmp_path / "a.png", mpp=0.5)
    assert slide.thumbnail(256).image.shape == (1, 1, 3)
    assert slide.working_grid(8.0).width == 1
