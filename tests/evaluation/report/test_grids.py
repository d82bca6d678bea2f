"""Sheets show every picture where it belongs, whatever its size and label."""

import pytest
from PIL import Image

from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.evaluation.report.grids import GAP, LINES, before_after, contact_sheet, masked, outline

COLOURS = ["red", "lime", "blue", "cyan", "magenta", "yellow"]


def dots(count: int, size=(64, 64)) -> list[Image.Image]:
    return [Image.new("RGB", size, colour) for colour in COLOURS[:count]]


def found(sheet: Image.Image, colour: str) -> tuple[int, int, int, int]:
    """The box of `colour` in `sheet`."""
    wanted = Image.new("RGB", (1, 1), colour).getpixel((0, 0))
    bands = [band.point(lambda v, w=value: 255 * (v == w)) for band, value in zip(sheet.split(), wanted, strict=True)]
    both = Image.composite(bands[0], Image.new("L", sheet.size), bands[1])
    return Image.composite(both, Image.new("L", sheet.size), bands[2]).getbbox()


def test_before_after_places():
    rows = [dots(6)[i : i + 2] for i in (0, 2, 4)]
    sheet = before_after(rows, ["a cat on the beach", "a cat " * 60, ""])
    boxes = [found(sheet, colour) for colour in COLOURS]
    assert all(box[2] - box[0] == box[3] - box[1] == 256 for box in boxes), "64 px are enlarged by whole pixels"
    assert {box[0] for box in boxes[::2]} == {GAP} and {box[0] for box in boxes[1::2]} == {2 * GAP + 256}
    assert all(one[1] == two[1] for one, two in zip(boxes[::2], boxes[1::2], strict=True))
    assert boxes[0][3] < boxes[2][1] and boxes[2][3] < boxes[4][1]


def test_before_after_has_as_many_columns_as_named():
    sheet = before_after([dots(3, (512, 256))], ["x"], ["base", "LoRA", "refined"], cell=100)
    assert sheet.width == 3 * 100 + 4 * GAP
    assert found(sheet, "blue")[3] - found(sheet, "blue")[1] == 50


def test_contact_sheet_keeps_order_and_aspect():
    pictures = [Image.new("RGB", size, c) for size, c in zip([(40, 20), (20, 40), (300, 300)], COLOURS, strict=False)]
    sheet = contact_sheet(pictures, ["one", "two words", "ü ệ д"], columns=2, cell=120)
    boxes = [found(sheet, colour) for colour in COLOURS[:3]]
    assert [(b[2] - b[0], b[3] - b[1]) for b in boxes] == [(120, 60), (60, 120), (120, 120)]
    assert boxes[0][0] < boxes[1][0] and boxes[2][1] > boxes[0][3]
    assert contact_sheet(pictures).size > (0, 0)


def test_many_pictures_are_bounded():
    sheet = contact_sheet([Image.new("RGB", (500, 20))] * 90, columns=2)
    assert max(sheet.size) <= 16_000


def test_masked():
    mask = Image.new("L", (32, 32))
    mask.paste(255, (0, 0, 16, 32))
    shown = masked(Image.new("RGB", (64, 64), "red"), mask)
    assert shown.getpixel((4, 4)) == (255, 0, 0) and shown.getpixel((60, 4))[1] > 150
    assert masked(shown, None) is shown


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: before_after([], []), "no pictures to compare"),
        (lambda: before_after([dots(2)], []), "1 rows of pictures cannot have 0 labels"),
        (lambda: before_after([dots(3)], ["a"]), "a row has 3 pictures for the 2 columns before, after"),
        (lambda: contact_sheet([]), "no pictures for a contact sheet"),
        (lambda: contact_sheet(dots(2), ["a"]), "2 pictures cannot have 1 labels"),
    ],
)
def test_refused(call, said):
    with pytest.raises(FewShotError, match=said):
        call()


def test_outline_lies_around_each_mask_and_nowhere_in_it():
    picture = Image.new("RGB", (60, 40))
    masks = [Image.new("L", picture.size) for _ in range(2)]
    masks[0].paste(255, (5, 5, 25, 30))
    masks[1].paste(255, (35, 5, 55, 30))
    shown = outline(picture, masks)
    assert shown.getpixel((4, 10)) == LINES[0] and shown.getpixel((34, 10)) == LINES[1]
    assert shown.getpixel((15, 15)) == shown.getpixel((45, 15)) == (0, 0, 0) == shown.getpixel((30, 15))
    assert picture.getcolors() == [(60 * 40, (0, 0, 0))]
