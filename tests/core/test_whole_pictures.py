"""Files that lack a part of their pixels are refused by name, also those that Pillow takes."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile

from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.core.images import decode
from comfyui_fewshot.core.images.whole import PASSES

WIDE, HIGH = 67, 45
SCENE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (HIGH, WIDE, 3), dtype=np.uint8))
END = b"\xff\xd9"


def stored(picture: Image.Image, **how) -> bytes:
    data = io.BytesIO()
    picture.save(data, **how)
    return data.getvalue()


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png_of_rows(rows: bytes, interlaced: int = 0) -> bytes:
    head = struct.pack(">IIBBBBB", WIDE, HIGH, 8, 2, 0, 0, interlaced)
    return b"".join(
        [b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    )


def rows_of(values: np.ndarray) -> bytes:
    return b"".join(b"\0" + row.tobytes() for row in values)


def interlaced_rows() -> bytes:
    return b"".join(rows_of(np.asarray(SCENE)[top::down, left::across]) for left, top, across, down in PASSES)


def refuse(tmp_path, data: bytes, ending: str):
    (tmp_path / f"cut.{ending}").write_bytes(data)
    with pytest.raises(FewShotError, match=rf"^cut.{ending} is damaged.*(again|take it away)"):
        decode(tmp_path / f"cut.{ending}")


@pytest.mark.parametrize("interlaced", [0, 1])
def test_png_without_all_rows(tmp_path, interlaced):
    rows = interlaced_rows() if interlaced else rows_of(np.asarray(SCENE))
    (tmp_path / "whole.png").write_bytes(png_of_rows(rows, interlaced))
    assert decode(tmp_path / "whole.png")[0].tobytes() == SCENE.tobytes()
    refuse(tmp_path, png_of_rows(rows[: len(rows) // 2], interlaced), "png")


def test_png_whose_rest_a_download_left_empty(tmp_path):
    data = stored(Image.linear_gradient("L"), format="PNG")
    refuse(tmp_path, data[: len(data) * 2 // 3] + bytes(len(data) // 3), "png")


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("rest", ["nothing", "zeros"])
def test_jpeg_that_ends_early(tmp_path, progressive, rest):
    data = stored(SCENE, format="JPEG", quality=90, progressive=progressive)
    half = data[: len(data) // 2]
    refuse(tmp_path, half + (END if rest == "nothing" else bytes(len(half))), "jpg")


@pytest.mark.parametrize("how", [{}, {"progressive": True}, {"restart_marker_blocks": 3}, {"subsampling": 0}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_whole_jpegs_are_taken(tmp_path, how, mode):
    for number, picture in enumerate((SCENE, Image.new("RGB", (33, 50), (128, 128, 128)), SCENE.crop((0, 0, 1, 1)))):
        how = {key: value for key, value in how.items() if mode == "RGB" or key != "subsampling"}
        picture.convert(mode).save(tmp_path / f"{number}.jpg", **how)
        decode(tmp_path / f"{number}.jpg")


def test_a_second_picture_behind_the_first_is_not_looked_at(tmp_path):
    (tmp_path / "two.jpg").write_bytes(stored(SCENE, format="JPEG") + stored(SCENE, format="JPEG")[:300])
    assert decode(tmp_path / "two.jpg")[0].size == SCENE.size


@pytest.mark.parametrize("ending", ["png", "jpg", "bmp"])
def test_another_program_lets_pillow_read_cut_files(tmp_path, monkeypatch, ending):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    SCENE.save(tmp_path / f"cut.{ending}")
    data = (tmp_path / f"cut.{ending}").read_bytes()
    refuse(tmp_path, data[: len(data) // 2], ending)
    assert ImageFile.LOAD_TRUNCATED_IMAGES
