"""Every kind of file that people keep pictures in gives the right upright 8-bit pixels."""

import io
import os
import stat

import numpy as np
import pytest
from PIL import Image

from comfyui_fewshot.core import atomic, images
from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.core.images import decode, decode_mask, pixel_key, write_png

WIDE, HIGH = 24, 16


@pytest.fixture
def scene() -> Image.Image:
    """Smooth and different in every corner, so that compression keeps it and rotation shows."""
    down, along = np.mgrid[0:HIGH, 0:WIDE]
    values = np.stack([along * 10, down * 15, 255 - along * 5 - down * 5], -1)
    return Image.fromarray(values.astype(np.uint8))


def near(one: Image.Image, other: Image.Image, most: float) -> bool:
    return one.size == other.size and np.abs(np.asarray(one, float) - np.asarray(other, float)).mean() <= most


@pytest.mark.parametrize(
    ("ending", "how", "most"),
    [
        ("png", {}, 0), ("bmp", {}, 0), ("tif", {}, 0), ("tiff", {"compression": "tiff_lzw"}, 0),
        ("webp", {"lossless": True}, 0), ("webp", {"quality": 95}, 4), ("jpg", {"quality": 95}, 4),
        ("jpeg", {"quality": 95, "progressive": True}, 4), ("gif", {}, 12),
    ],
)  # fmt: skip
def test_formats(tmp_path, scene, ending, how, most):
    path = tmp_path / f"picture.{ending}"
    scene.save(path, **how)
    picture, mask = decode(path)
    assert picture.mode == "RGB" and mask is None
    assert near(picture, scene, most)


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path, ending):
    values = np.linspace(0, 65535, WIDE * HIGH).reshape(HIGH, WIDE).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / f"deep.{ending}")
    picture, _ = decode(tmp_path / f"deep.{ending}")
    assert near(picture.convert("L"), Image.fromarray(np.round(values / 257).astype(np.uint8)), 0.01)


@pytest.mark.parametrize("top", [1.0, 255.0])
def test_float_tiff(tmp_path, top):
    values = np.linspace(0, top, WIDE * HIGH, dtype=np.float32).reshape(HIGH, WIDE)
    Image.fromarray(values).save(tmp_path / "float.tif")
    picture, _ = decode(tmp_path / "float.tif")
    assert near(picture.convert("L"), Image.fromarray(np.round(values / top * 255).astype(np.uint8)), 0.01)


def test_float_tiff_with_nan_is_damaged(tmp_path):
    Image.fromarray(np.full((4, 4), np.nan, np.float32)).save(tmp_path / "nan.tif")
    with pytest.raises(FewShotError, match="nan.tif is damaged"):
        decode(tmp_path / "nan.tif")


@pytest.mark.parametrize("mode", ["CMYK", "L", "1", "YCbCr"])
def test_colour_modes(tmp_path, scene, mode):
    path = tmp_path / ("picture.tif" if mode == "1" else "picture.jpg")
    scene.convert(mode).save(path, **({} if mode == "1" else {"quality": 95}))
    picture, mask = decode(path)
    assert picture.mode == "RGB" and mask is None
    assert near(picture, scene.convert(mode).convert("RGB"), 4)


def test_palette_with_transparency(tmp_path, scene):
    indexed = scene.quantize(8)
    clear = indexed.getpixel((0, 0))
    indexed.save(tmp_path / "indexed.png", transparency=clear)
    picture, mask = decode(tmp_path / "indexed.png")
    assert picture.mode == "RGB" and mask.mode == "L"
    assert mask.getpixel((0, 0)) == 0 and mask.getextrema() == (0, 255)


def test_what_lies_under_a_painted_alpha_is_not_seen(tmp_path, scene):
    alpha = Image.new("L", scene.size)
    alpha.paste(255, (4, 4, 12, 12))
    scene.copy().convert("RGBA").save(tmp_path / "opaque.png")
    scene.putalpha(alpha)
    scene.save(tmp_path / "painted.png")
    picture, mask = decode(tmp_path / "painted.png")
    assert pixel_key(mask) == pixel_key(alpha)
    seen = Image.new("RGB", scene.size, "white")
    seen.paste(scene.convert("RGB"), mask=alpha)
    assert near(picture, seen, 0)
    assert decode(tmp_path / "opaque.png")[1] is None


def test_a_cut_out_lies_on_white(tmp_path):
    cut = Image.new("RGBA", (20, 20))
    cut.paste((200, 30, 40, 255), (5, 5, 15, 15))
    cut.save(tmp_path / "cut.png")
    picture, mask = decode(tmp_path / "cut.png")
    assert picture.getpixel((0, 0)) == (255, 255, 255) and picture.getpixel((9, 9)) == (200, 30, 40)
    assert mask.getbbox() == (5, 5, 15, 15)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
def test_exif_rotation(tmp_path, scene, orientation, ending):
    """A camera stores the turned pixels and how to turn them back."""
    back = {
        2: [Image.Transpose.FLIP_LEFT_RIGHT], 3: [Image.Transpose.ROTATE_180], 4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE], 6: [Image.Transpose.ROTATE_90], 7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }.get(orientation, [])  # fmt: skip
    stored = scene
    for turn in back:
        stored = stored.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / f"turned.{ending}", exif=exif, **({"quality": 95} if ending in ("jpg", "webp") else {}))
    picture, _ = decode(tmp_path / f"turned.{ending}")
    assert near(picture, scene, 5)


@pytest.mark.parametrize("ending", ["gif", "webp", "png", "tif"])
def test_of_an_animation_the_first_frame(tmp_path, ending):
    frames = [Image.new("RGB", (12, 8), colour) for colour in ("red", "lime", "blue")]
    frames[0].save(tmp_path / f"moving.{ending}", save_all=True, append_images=frames[1:])
    picture, _ = decode(tmp_path / f"moving.{ending}")
    assert near(picture, frames[0], 3)


def test_a_mask_is_transparency_or_brightness(tmp_path):
    shape = Image.new("L", (10, 10))
    shape.paste(200, (2, 2, 6, 6))
    shape.save(tmp_path / "bright.png")
    clear = Image.new("RGBA", (10, 10), "black")
    clear.putalpha(shape)
    clear.save(tmp_path / "clear.png")
    assert pixel_key(decode_mask(tmp_path / "bright.png")) == pixel_key(shape)
    assert pixel_key(decode_mask(tmp_path / "clear.png")) == pixel_key(shape)


def test_broken_files_are_named(tmp_path, scene):
    (tmp_path / "text.png").write_text("this is no picture")
    (tmp_path / "empty.jpg").write_bytes(b"")
    data = io.BytesIO()
    scene.resize((300, 300)).save(data, "JPEG")
    (tmp_path / "half.jpg").write_bytes(data.getvalue()[: len(data.getvalue()) // 2])
    for name in ("text.png", "empty.jpg", "half.jpg"):
        with pytest.raises(FewShotError, match=name):
            decode(tmp_path / name)
    with pytest.raises(FewShotError, match="is not there"):
        decode(tmp_path / "gone.png")


def test_huge_pictures_are_refused_before_they_are_decoded(tmp_path):
    Image.new("1", (9001, 9001)).save(tmp_path / "huge.png")
    with pytest.raises(FewShotError, match=r"huge.png has 9001 x 9001 pixels"):
        decode(tmp_path / "huge.png")
    Image.new("1", (20000, 20000)).save(tmp_path / "bomb.png", compress_level=1)
    with pytest.raises(FewShotError, match=r"bomb.png is too large"):
        decode(tmp_path / "bomb.png")


def test_a_huge_photograph_is_reduced_while_it_is_decoded(tmp_path):
    """A JPEG can be read at half its size; what lies where stays."""
    tall = Image.new("L", (8000, 10002))
    tall.paste(255, (0, 0, 4000, 10002))
    exif = Image.Exif()
    exif[0x0112] = 6
    tall.save(tmp_path / "huge.jpg", exif=exif)
    picture, _ = decode(tmp_path / "huge.jpg")
    assert picture.size == (5001, 4000) and picture.width * picture.height <= images.MOST_PIXELS
    assert picture.getpixel((2500, 100)) == (255, 255, 255) and picture.getpixel((2500, 3900)) == (0, 0, 0)
    tall.crop((0, 0, 7000, 10000)).save(tmp_path / "large.jpg")
    assert decode(tmp_path / "large.jpg")[0].size == (7000, 10000), "what is not too large is read whole"


def test_one_pixel(tmp_path):
    Image.new("RGB", (1, 1), (1, 2, 3)).save(tmp_path / "dot.png")
    assert decode(tmp_path / "dot.png")[0].getpixel((0, 0)) == (1, 2, 3)


def test_writing_is_whole_or_not_at_all(tmp_path, monkeypatch):
    path = write_png(Image.new("RGB", (4, 4)), tmp_path / "new" / "a.png")
    before = path.read_bytes()
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask, "others may read it as any file"

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(FewShotError, match="No space left on device"):
        atomic.write_whole(path, b"other")
    assert path.read_bytes() == before and [f.name for f in path.parent.iterdir()] == ["a.png"]
