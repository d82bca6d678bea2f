"""Decoded pictures are what a browser shows: some hundred files of every mode, profile, alpha and rotation."""

from __future__ import annotations

import ast
import base64
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.core.images import decode, decode_mask, pixel_key, write_png
from comfyui_fewshot.tests.core import seen_pictures as made
from comfyui_fewshot.tests.core.seen_pictures import disc, raw_png, saved, scene, turned, with_chunks, with_nclx
from comfyui_fewshot.tests.evaluation.report.browser import Page, browse
from comfyui_fewshot.tests.test_house import modules

MOST = 2  # levels of 255
SHOW = """(async () => {
  const shown = {};
  for (const [name, url] of Object.entries(FILES)) {
    const picture = new Image();
    picture.src = url;
    await picture.decode();
    const canvas = document.createElement('canvas');
    [canvas.width, canvas.height] = [picture.naturalWidth, picture.naturalHeight];
    const pen = canvas.getContext('2d', {colorSpace: 'srgb', willReadFrequently: true});
    pen.fillStyle = 'white';
    pen.fillRect(0, 0, canvas.width, canvas.height);
    pen.drawImage(picture, 0, 0);
    const values = pen.getImageData(0, 0, canvas.width, canvas.height).data;
    let text = '';
    for (let i = 0; i < values.length; i += 4096) text += String.fromCharCode(...values.subarray(i, i + 4096));
    shown[name] = [canvas.width, canvas.height, btoa(text)];
  }
  return shown;
})()"""
KINDS = {"jpg": "jpeg"}
SHARP = {"quality": 97, "subsampling": 0}
AVIF = {"quality": 100, "subsampling": "4:4:4"}
SRGB = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
ADOBE = (0.3127, 0.3290, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)


def shown(files: dict[str, bytes]) -> dict[str, np.ndarray]:
    """What a browser draws of each file on a white canvas (h, w, 3)."""
    urls = {}
    for name, data in files.items():
        kind = name.rpartition(".")[2]
        urls[name] = f"data:image/{KINDS.get(kind, kind)};base64,{base64.b64encode(data).decode()}"

    async def visit(page: Page, _: Path) -> dict[str, tuple[int, int, str]]:
        return await page.run(SHOW.replace("FILES", json.dumps(urls)))

    pictures = {}
    for name, (wide, high, text) in browse(visit).items():
        pictures[name] = np.frombuffer(base64.b64decode(text), np.uint8).reshape(high, wide, 4)[..., :3]
    return pictures


def gamma(value: float, *chromaticities: float) -> list[tuple[bytes, bytes]]:
    chunks = [(b"gAMA", struct.pack(">I", round(value * 100000)))] if value else []
    if chromaticities:
        chunks.append((b"cHRM", struct.pack(">8I", *(round(v * 100000) for v in chromaticities))))
    return chunks


def codes(primaries: int, transfer: int, full: int = 1) -> tuple[bytes, bytes]:
    return b"cICP", bytes([primaries, transfer, 0, full])


def inks() -> Image.Image:
    """Cyan, magenta and yellow only: browsers fold black into them before they apply a profile."""
    return scene().convert("CMYK")


def with_black() -> Image.Image:
    values = np.asarray(inks()).copy()
    values[..., 3] = np.linspace(0, 255, made.WIDE).astype(np.uint8)
    return Image.fromarray(values, "CMYK")


def profiled() -> dict[str, bytes]:
    picture, grey = scene(), scene().convert("L")
    p3, linear = made.rgb_profile("p3"), made.grey_profile(1.0)
    files = {f"icc {space}.png": saved(picture, icc_profile=made.rgb_profile(space)) for space in made.SPACES}
    return files | {
        "icc.jpg": saved(picture, "JPEG", icc_profile=p3, exif=turned(6), **SHARP),
        "icc.webp": saved(picture, "WEBP", lossless=True, icc_profile=p3),
        "icc table.png": saved(picture, icc_profile=made.table_profile()),
        "icc indexed.png": saved(picture.quantize(16), icc_profile=p3),
        "icc grey.png": saved(grey, icc_profile=linear),
        "icc grey.jpg": saved(grey, "JPEG", quality=97, icc_profile=made.grey_profile(1.8)),
        "icc grey by rgb.jpg": saved(grey, "JPEG", quality=97, icc_profile=made.rgb_profile("prophoto")),
        "icc rgb by grey.png": with_chunks(saved(picture, icc_profile=linear), *gamma(1.0)),
        "icc rgb by cmyk.jpg": saved(picture, "JPEG", icc_profile=made.cmyk_profile(), **SHARP),
        "icc broken.jpg": saved(picture, "JPEG", icc_profile=b"junk" * 40, **SHARP),
        "icc cut.png": saved(picture, icc_profile=p3[:200]),
        "icc broken, gamma.png": with_chunks(saved(picture), (b"iCCP", b"x\0\0junk"), *gamma(1.0)),
        "cmyk.jpg": saved(with_black(), "JPEG", quality=97),
        "cmyk icc.jpg": saved(inks(), "JPEG", quality=97, icc_profile=made.cmyk_profile()),
        "cmyk by rgb.jpg": saved(with_black(), "JPEG", quality=97, icc_profile=p3),
    }


def tagged() -> dict[str, bytes]:
    png = saved(scene())
    prophoto = saved(scene(), icc_profile=made.rgb_profile("prophoto"))
    files = {
        "gamma of sRGB.png": with_chunks(png, *gamma(0.45455)),
        "gamma of sRGB, cHRM.png": with_chunks(png, *gamma(0.45455, *SRGB)),
        "gamma 1.png": with_chunks(png, *gamma(1.0)),
        "gamma 1.8.png": with_chunks(png, *gamma(1 / 1.8)),
        "gamma, cHRM.png": with_chunks(png, *gamma(0.45455, *ADOBE)),
        "cHRM.png": with_chunks(png, *gamma(0, *ADOBE)),
        "cHRM of nothing.png": with_chunks(png, *gamma(1.0, *[0.3] * 8)),
        "sRGB, gamma.png": with_chunks(png, (b"sRGB", b"\0"), *gamma(1.0, *ADOBE)),
        "icc, gamma.png": with_chunks(prophoto, *gamma(1.0)),
        "codes, icc.png": with_chunks(prophoto, codes(12, 13)),
        "codes of sRGB, icc.png": with_chunks(prophoto, codes(1, 13)),
        "codes of nothing, icc.png": with_chunks(prophoto, codes(2, 2)),
        "codes in narrow range.png": with_chunks(png, codes(12, 13, full=0)),
        "codes, grey.png": with_chunks(saved(scene().convert("L")), codes(12, 8)),
    }
    return files | {f"codes {p} {t}.png": with_chunks(png, codes(p, t)) for p, t in ((9, 14), (11, 17), (5, 7), (4, 4))}


def transparent() -> dict[str, bytes]:
    soft, hard, bled, grey = scene(), scene(), scene().resize((99, 67)), scene().convert("LA")
    soft.putalpha(disc())
    hard.putalpha(disc(0.01))
    bled.putalpha(disc(0.01).resize(bled.size))
    grey.putalpha(disc())
    stray = Image.new("RGBA", hard.size)
    stray.paste(hard, mask=hard.getchannel("A"))
    stray.putpixel((0, 0), (9, 200, 9, 0))
    nearly = scene()
    nearly.putalpha(disc().point(lambda value: 250 + value // 51))
    multiplied = Image.fromarray((np.asarray(scene()) * (np.asarray(disc())[..., None] / 255)).astype(np.uint8))
    multiplied.putalpha(disc())
    return {
        "cut.png": saved(soft), "cut lossless.webp": saved(soft, "WEBP", lossless=True), "cut grey.png": saved(grey),
        "cut lossy.webp": saved(soft, "WEBP", quality=70),
        "cut resized.png": saved(bled.resize((48, 32), Image.Resampling.LANCZOS)), "cut stray.png": saved(stray),
        "cut indexed.png": saved(soft.quantize(32)), "cut.gif": saved(hard, "GIF"), "cut.bmp": saved(soft, "BMP"),
        "cut p3.webp": saved(soft, "WEBP", lossless=True, icc_profile=made.rgb_profile("p3")),
        "cut multiplied.png": saved(multiplied), "nearly opaque.png": saved(nearly),
        "cut grey, linear.png": saved(grey, icc_profile=made.grey_profile(1.0)),
    }  # fmt: skip


def deep() -> dict[str, bytes]:
    grey, alpha = np.asarray(scene().convert("L"), int), np.asarray(disc(), int)
    colours = np.clip(np.asarray(scene(), int) * 257 + 90, 0, 65535)
    keyed = np.where(alpha[..., None] > 0, colours, (1000, 2000, 3000))
    files = {
        "grey 16.png": raw_png(grey * 257, 0, 16),
        "rgb 16.png": raw_png(colours, 2, 16),
        "grey and alpha 16.png": raw_png(np.stack([grey * 257, alpha * 257], -1), 4, 16),
        "rgba 16.png": raw_png(np.dstack([colours, alpha * 257]), 6, 16),
        "grey 16, key.png": raw_png(np.where(alpha > 0, grey * 257, 777), 0, 16, (b"tRNS", struct.pack(">H", 777))),
        "rgb 16, key.png": raw_png(keyed, 2, 16, (b"tRNS", struct.pack(">3H", 1000, 2000, 3000))),
        "grey 8, key.png": raw_png(grey, 0, 8, (b"tRNS", struct.pack(">H", 100))),
    }
    for bits in (1, 2, 4):
        files[f"grey {bits}, key.png"] = raw_png(
            grey >> (8 - bits), 0, bits, (b"tRNS", struct.pack(">H", 1 if bits < 4 else 7))
        )
    return files


def plain() -> dict[str, bytes]:
    uncalibrated = turned(1)
    uncalibrated[0x8769] = {0xA001: 65535, 0xA005: {1: "R03"}}
    files = {
        "plain.bmp": saved(scene(), "BMP"), "plain.gif": saved(scene(), "GIF"),
        "one bit.png": saved(scene().convert("1")),
        "progressive.jpg": saved(scene(64, 64), "JPEG", quality=90, progressive=True),
        "exif of Adobe RGB.jpg": saved(scene(), "JPEG", exif=uncalibrated, **SHARP),
        "dot.png": saved(Image.new("RGB", (1, 1), (1, 2, 3))), "line.png": saved(scene(2, 4000).crop((0, 0, 1, 4000))),
    }  # fmt: skip
    for way in range(1, 9):
        files[f"turned {way}.jpg"] = saved(scene(), "JPEG", exif=turned(way), **SHARP)
        files[f"turned {way}.png"] = saved(scene(), exif=turned(way))
    frames = [Image.new("RGB", (12, 8), colour) for colour in ("maroon", "lime")]
    for kind in ("gif", "webp", "png"):
        files[f"moving.{kind}"] = saved(
            frames[0], kind.upper(), save_all=True, append_images=frames[1:], duration=60000
        )
    return files | {
        "moving later.png": saved(frames[0], save_all=True, default_image=True, append_images=frames, duration=60000)
    }


def avifs() -> dict[str, bytes]:
    """None where Pillow is older than its support of AVIF. Alphas are hard: Chromium 156 takes them for video range."""
    if "AVIF" not in Image.SAVE:
        return {}
    icc, cut, avif = made.rgb_profile("p3"), scene(), saved(scene(), "AVIF", **AVIF)
    cut.putalpha(disc(0.01))
    files = {"icc.avif": saved(scene(), "AVIF", icc_profile=icc, **AVIF), "cut.avif": saved(cut, "AVIF", quality=70)}
    files |= {f"turned {way}.avif": saved(scene(), "AVIF", exif=turned(way), **AVIF) for way in range(1, 9)}
    return files | {f"codes {p} {t}.avif": with_nclx(avif, p, t) for p, t in ((12, 13), (9, 1), (22, 5), (2, 8))}


def test_pictures_are_as_a_browser_shows_them(tmp_path):
    files = profiled() | tagged() | transparent() | deep() | plain() | avifs()
    assert len(files) > 80
    apart = {}
    for name, picture in shown(files).items():
        (tmp_path / name).write_bytes(files[name])
        own = np.asarray(decode(tmp_path / name)[0])
        assert own.shape == picture.shape, name
        apart[name] = int(np.abs(own.astype(int) - picture).max())
    assert not {name: levels for name, levels in apart.items() if levels > MOST}
    assert len(apart) == len(files)


def written(path: Path, picture: Image.Image, **how) -> tuple[np.ndarray, list[str]]:
    """A picture saved to `path` and decoded: its pixels and what was noted."""
    picture.save(path, **how)
    notes: list[str] = []
    return np.asarray(decode(path, notes)[0]).astype(int), notes


# ------------------------------------------------------------------------------- what browsers do not show, or not so


@pytest.mark.parametrize("mode", ["RGB", "L", "LAB", "LA"])
def test_a_tiff_is_as_the_same_picture_in_another_format(tmp_path, mode):
    icc = {"RGB": made.rgb_profile("p3"), "L": made.grey_profile(1.0)}.get(mode)
    how = {"icc_profile": icc} if icc else {}
    picture = scene().convert("RGB" if mode == "LAB" else mode)
    wanted, _ = written(tmp_path / "a.png", scene() if mode == "LAB" else picture, **how)
    if mode == "LAB":
        picture = ImageCms.profileToProfile(
            picture, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
        )
    found, notes = written(tmp_path / "a.tif", picture, **how)
    assert np.abs(found - wanted).mean() <= (2 if mode == "LAB" else 0) and not notes


@pytest.mark.parametrize("kind", ["tif", "jpg"])
def test_black_ink_counts_by_its_profile(tmp_path, kind):
    """Browsers mix black into the other inks before they apply a printer's profile; here it is the profile's black."""
    black = Image.new("CMYK", (16, 16), (0, 0, 0, 255))
    found, notes = written(tmp_path / f"a.{kind}", black, icc_profile=made.cmyk_profile())
    assert np.abs(found - 31).max() <= 1 and not notes, "L 12 of Lab, which the perceptual table gives, is 31"


@pytest.mark.parametrize("way", range(2, 9))
def test_webp_is_turned_too(tmp_path, way):
    (tmp_path / "a.png").write_bytes(saved(scene(), exif=turned(way)))
    found, _ = written(tmp_path / "a.webp", scene(), exif=turned(way), lossless=True)
    assert (found == np.asarray(decode(tmp_path / "a.png")[0])).all()


@pytest.mark.parametrize(
    ("values", "top"),
    [
        (np.linspace(0, 1, 96, dtype=np.float32), 1), (np.linspace(-3, 200, 96, dtype=np.float32), 255),
        (np.linspace(0, 5000, 96, dtype=np.float32), 65535), (np.linspace(0, 90000, 96, dtype=np.float32), 90000),
        (np.arange(96, dtype=np.int32) * 2, 255), (np.arange(96, dtype=np.int32) * 600, 65535),
        (np.arange(96, dtype=np.int32) * 10**5, 2**24 - 1),
    ],
)  # fmt: skip
def test_numbers_without_a_white_are_scaled_and_it_is_said(tmp_path, values, top):
    found, notes = written(tmp_path / "numbers.tif", Image.fromarray(values.reshape(8, 12)))
    wanted = np.round(np.clip(values.astype(float).reshape(8, 12) / top, 0, 1) * 255)
    assert np.abs(found[..., 0] - wanted).max() <= 1
    assert len(notes) == 1 and "numbers.tif holds numbers from" in notes[0] and notes[0].endswith(f"0 to {top:g}")


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_white_may_be_zero(tmp_path, dtype):
    values = np.linspace(0, np.iinfo(dtype).max if dtype is np.uint16 else 1, 96).reshape(8, 12).astype(dtype)
    found, _ = written(tmp_path / "a.tif", Image.fromarray(values), tiffinfo={262: 0})
    wanted, _ = written(tmp_path / "b.tif", Image.fromarray(values))
    assert np.abs(found - (255 - wanted)).max() == 0


def test_soft_edges_are_the_mask_and_lie_on_white(tmp_path):
    picture, alpha = scene(), disc()
    picture.putalpha(alpha)
    for kind, how in (("png", {}), ("webp", {"lossless": True}), ("tif", {})):
        found, _ = written(tmp_path / f"a.{kind}", picture, **how)
        share = np.asarray(alpha, float)[..., None] / 255
        assert np.abs(found - (np.asarray(scene()) * share + 255 * (1 - share))).max() <= 1
        assert (np.asarray(decode_mask(tmp_path / f"a.{kind}")) == np.asarray(alpha)).all()


@pytest.mark.parametrize(("clear", "has_mask"), [(0, False), (1, False), (40, True)])
def test_a_picture_that_is_nearly_opaque_has_no_mask(tmp_path, clear, has_mask):
    alpha = Image.new("L", (100, 100), 252)
    for place in range(clear):
        alpha.putpixel((place, 0), 0)
    picture = scene(100, 100)
    picture.putalpha(alpha)
    picture.save(tmp_path / "a.png")
    assert (decode(tmp_path / "a.png")[1] is not None) == has_mask


def test_what_cannot_be_seen_is_refused_in_words(tmp_path):
    Image.new("RGBA", (8, 8), (200, 30, 40, 0)).save(tmp_path / "clear.png")
    (tmp_path / "hdr.png").write_bytes(with_chunks(saved(scene()), codes(9, 16)))
    scene().save(tmp_path / "print.png", "EPS")
    scene().save(tmp_path / "old.jpg", "PCX")
    for name, words in (
        ("clear", "transparent all over"), ("hdr", r"HDR \(PQ\)"), ("print", "not a picture that can be read"),
    ):  # fmt: skip
        with pytest.raises(FewShotError, match=rf"{name}\.png is {words}"):
            decode(tmp_path / f"{name}.png")
    with pytest.raises(FewShotError, match=r"old\.jpg is not a picture that can be read"):
        decode(tmp_path / "old.jpg")


@pytest.mark.parametrize("kind", ["png", "jpg", "webp"])
def test_damaged_exif_does_not_hide_the_picture(tmp_path, kind):
    found, notes = written(tmp_path / f"a.{kind}", scene(), exif=b"Exif\0\0junk and more", quality=95)
    assert found.shape == (made.HIGH, made.WIDE, 3)
    assert len(notes) == 1 and f"a.{kind} has damaged EXIF" in notes[0]


def test_a_profile_that_says_sRGB_changes_no_pixel(tmp_path):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    found, notes = written(tmp_path / "a.png", scene(), icc_profile=srgb)
    assert (found == np.asarray(scene())).all() and not notes


def test_a_profile_is_applied_once(tmp_path):
    """Pillow writes a picture's own profile into its copies; of converted colours that would be wrong."""
    (tmp_path / "a.png").write_bytes(saved(scene(), icc_profile=made.rgb_profile("p3")))
    first, _ = decode(tmp_path / "a.png")
    write_png(first, tmp_path / "b.png")
    assert pixel_key(decode(tmp_path / "b.png")[0]) == pixel_key(first) != pixel_key(scene())


def test_every_reader_takes_the_one_way_in():
    """Pillow's own open takes formats that it hands to other programs."""
    ways = {
        path for path, tree in modules().items() for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("Image.open", "PIL.Image.open")
    }  # fmt: skip
    assert ways == {"core/images/files.py"}
