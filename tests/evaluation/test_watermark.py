"""The mark is found after JPEG and a crop, is not found where it is not, and is not seen."""

import io

import numpy as np
import pytest
import skimage.data
from PIL import Image

from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.evaluation.watermark import THRESHOLD, add_watermark, has_watermark, score
from comfyui_fewshot.pocket.world import drawing, world


def photographs():
    sheets = [getattr(skimage.data, name)() for name in ("astronaut", "chelsea", "coffee")]
    return [Image.fromarray(s[a : a + 256, b : b + 256]) for s in sheets for a, b in ((0, 0), (40, 100))]


def drawn():
    return [drawing.render(world.scene_of(81, number, hidden=0.0))[0] for number in range(12)]


def worn(picture, seed):
    """A tenth of each side cut away, then JPEG of quality 80."""
    rng = np.random.default_rng(seed)
    width, height = (int(0.9 * side) for side in picture.size)
    left, top = int(rng.integers(picture.width - width + 1)), int(rng.integers(picture.height - height + 1))
    data = io.BytesIO()
    picture.crop((left, top, left + width, top + height)).save(data, "JPEG", quality=80)
    return Image.open(data)


@pytest.mark.parametrize("pictures", [photographs, drawn])
def test_it_survives(pictures):
    for number, picture in enumerate(pictures()):
        made = add_watermark(picture)
        assert has_watermark(made) and has_watermark(worn(made, number))
        assert not has_watermark(picture) and not has_watermark(worn(picture, number))


def test_it_is_not_seen():
    picture = photographs()[0]
    before, after = (np.asarray(p, np.float64) for p in (picture, add_watermark(picture)))
    assert before.shape == after.shape and 10 * np.log10(255**2 / ((before - after) ** 2).mean()) > 38


def test_noise_and_flat_pictures_have_no_mark():
    rng = np.random.default_rng(0)
    noise = [Image.fromarray(rng.integers(0, 256, (64, 80, 3), dtype=np.uint8)) for _ in range(100)]
    assert sum(score(picture) > THRESHOLD for picture in noise) <= 1
    assert score(Image.new("RGB", (64, 64), "white")) == 0 and score(Image.new("RGB", (8, 8))) == 0


def test_small_pictures_are_refused():
    with pytest.raises(FewShotError, match="48 x 64 is too small for the watermark; draw at least 64 x 64"):
        add_watermark(Image.new("RGB", (48, 64)))
