"""Small pictures, masks and files as people keep them."""

from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 32


def photo(file: Path, seed: int = 0) -> None:
    """Smooth colours, another picture for each name and seed."""
    file.parent.mkdir(parents=True, exist_ok=True)
    colours = np.random.default_rng([seed, *file.stem.encode()]).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(colours).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(file)


def mask(file: Path, mode: str = "L", value: int = 255, left: int = 8) -> None:
    """A white square on black; of the mode RGBA white where it is opaque, of RGB red on black."""
    file.parent.mkdir(parents=True, exist_ok=True)
    values = np.zeros((SIDE, SIDE), np.uint8)
    values[8:20, left:24] = value
    shape = Image.fromarray(values)
    if mode == "RGBA":
        cut_out = Image.new("RGBA", shape.size, (255, 255, 255, 0))
        cut_out.putalpha(shape)
        cut_out.save(file)
    elif mode == "RGB":
        black = Image.new("L", shape.size)
        Image.merge("RGB", (shape, black, black)).save(file)
    else:
        shape.convert(mode).save(file)


def written(folder: Path, files: dict[str, str | bytes]) -> None:
    """The photos `x.png` and `y.jpg` with these files beside them; an ending of pictures makes a photo."""
    for name, content in {"x.png": "", "y.jpg": "", **files}.items():
        if Path(name).suffix.lower() in (".png", ".jpg", ".jpeg") and not content:
            photo(folder / name)
        else:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
