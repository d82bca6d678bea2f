"""The report stands alone, escapes every text, and is written whole or not at all."""

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from comfyui_fewshot.core import atomic
from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.evaluation.report.html import Figure, Folded, Table, Text, settings_table, write_report

BAD = "<script>alert('x')</script> & \"quoted\""


class Reader(HTMLParser):
    """Collects tags, what they point to, and checks that all are closed in order."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.links = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "srcset", "href")]
        if tag not in ("meta", "img", "source", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def page(tmp_path):
    sections = [
        Text(BAD, f"{BAD}\n\nsecond\nline"),
        settings_table({"learning_rate": 0.0001, "text_encoder": False, BAD: BAD, "empty": None, "sets": ("a", "b")}),
        Table("Figures", [("before", 0.123456, 3), ("after", None, 4)], ["", "fidelity", "n"]),
        Table("Nothing", [], note=BAD),
        Folded(BAD, BAD, [Text(BAD, BAD)]),
        Figure(BAD, Image.new("RGB", (30, 20), "red"), BAD, dark=Image.new("RGB", (30, 20), "blue")),
    ]
    return write_report(tmp_path / "run", BAD, sections).read_text("utf-8")


def test_well_formed_and_alone(page):
    reader = Reader()
    reader.feed(page)
    assert not reader.open and "script" not in reader.tags and "link" not in reader.tags
    assert len(reader.links) == 2 and all(link.startswith("data:image/png;base64,") for link in reader.links)
    assert "http:" not in page and "https:" not in page


def test_every_text_is_escaped(page):
    assert "<script>" not in page and page.count("&lt;script&gt;") >= 11
    assert 'alt="&lt;script&gt;' in page


def test_values(page):
    assert "<td>learning rate</td><td class=number>0.0001</td>" in page
    assert "<td>text encoder</td><td>off</td>" in page and "<td>a, b</td>" in page
    assert "<td class=number>0.1235</td>" in page and "<td>–</td>" in page
    assert "<p>second<br>line</p>" in page and "<p>none</p>" in page


def test_the_picture_is_inside(page):
    data = re.search(r'src="data:image/png;base64,([^"]+)"', page)[1]
    assert Image.open(io.BytesIO(base64.b64decode(data))).getpixel((0, 0)) == (255, 0, 0)


def test_large_photographs_are_jpegs_and_all_else_is_exact(tmp_path):
    rng = np.random.default_rng(0)
    soft = Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).resize((1200, 1200))
    grain = Image.fromarray((np.asarray(soft, int) + rng.integers(-4, 5, (1200, 1200, 3))).clip(0, 255).astype("uint8"))
    drawn = Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).resize((1024, 1024), 0)
    shown = (grain, grain.resize((900, 900)), drawn)
    text = write_report(tmp_path, "large", [Figure("", picture) for picture in shown]).read_text("utf-8")
    found = re.findall(r'src="data:image/(\w+);base64,([^"]+)"', text)
    assert [kind for kind, _ in found] == ["jpeg", "png", "png"]
    opened = [np.asarray(Image.open(io.BytesIO(base64.b64decode(data))), int) for _, data in found]
    assert abs(opened[0] - np.asarray(grain)).mean() < 4 and (opened[2] == np.asarray(drawn)).all()
    assert len(found[0][1]) < 0.5 * len(_inlined_png(grain))


def _inlined_png(picture):
    data = io.BytesIO()
    picture.save(data, "PNG")
    return base64.b64encode(data.getvalue())


def test_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = write_report(tmp_path, "one", [])
    before = path.read_text()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(FewShotError, match="No space left"):
        write_report(tmp_path, "two", [])
    assert path.read_text() == before and [f.name for f in Path(tmp_path).iterdir()] == ["report.html"]
