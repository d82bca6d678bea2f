"""Pictures of the pocket world: silhouettes, patterns, places and accessories, drawn with supersampling."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw

from .world import COLOURS, SIZE, Pose, Scene, Thing

SCALE = 3  # supersampling
PLACE_TONES = {  # upper and lower tone
    "beach": ((160, 214, 240), (236, 214, 158)),
    "meadow": ((198, 228, 240), (142, 190, 112)),
    "snow": ((176, 186, 204), (232, 238, 246)),
    "night": ((44, 48, 98), (72, 70, 92)),
    "room": ((236, 204, 192), (166, 122, 90)),
    "street": ((178, 178, 182), (112, 112, 118)),
}
HAT, BALL, BALLOON, UMBRELLA, ROPE, FRAME = (
    (104, 62, 30),
    (0, 150, 150),
    (240, 120, 176),
    (190, 40, 130),
    (120, 82, 44),
    (120, 82, 44),
)


def _arc(x, y, rx, ry, angles):
    return np.stack([x + rx * np.cos(angles), y + ry * np.sin(angles)], 1)


def _ellipse(x, y, rx, ry):
    return _arc(x, y, rx, ry, np.linspace(0.0, 2 * math.pi, 28))


def _dome(x, y, rx, ry):
    """The upper half of an ellipse."""
    return _arc(x, y, rx, ry, np.linspace(math.pi, 2 * math.pi, 24))


def _box(left, top, right, bottom):
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)], float)


def _poly(*points):
    return np.array(points, float)


# Polygons in units of the half extent, y down; "cut" are holes, "dark" and "light" are details.
SILHOUETTES = {
    "cat": {
        "fill": [
            _ellipse(0, 0.42, 0.52, 0.58),
            _ellipse(0, -0.42, 0.46, 0.4),
            _poly((-0.46, -0.98), (-0.06, -0.72), (-0.44, -0.4)),
            _poly((0.46, -0.98), (0.06, -0.72), (0.44, -0.4)),
            _poly((0.3, 0.75), (0.78, 0.5), (0.76, -0.1), (0.98, -0.1), (1.0, 0.6), (0.5, 1.0)),
        ],
        "dark": [_ellipse(-0.18, -0.46, 0.09, 0.09), _ellipse(0.18, -0.46, 0.09, 0.09)],
    },
    "bird": {
        "fill": [
            _ellipse(-0.05, 0.12, 0.68, 0.5),
            _ellipse(0.48, -0.46, 0.36, 0.36),
            _poly((-0.5, 0.0), (-1.0, -0.5), (-1.0, 0.2), (-0.5, 0.35)),
        ],
        "dark": [
            _poly((0.76, -0.58), (1.05, -0.4), (0.76, -0.28)),
            _ellipse(0.52, -0.52, 0.08, 0.08),
            _box(-0.22, 0.58, -0.1, 0.9),
            _box(0.1, 0.58, 0.22, 0.9),
        ],
    },
    "fish": {
        "fill": [
            _ellipse(0.2, 0, 0.78, 0.55),
            _poly((-0.4, 0), (-1.0, -0.58), (-0.82, 0), (-1.0, 0.58)),
            _poly((-0.1, -0.4), (0.15, -0.78), (0.5, -0.4)),
        ],
        "dark": [_ellipse(0.62, -0.1, 0.1, 0.1)],
    },
    "cup": {
        "fill": [_ellipse(0.48, 0.02, 0.5, 0.5), _poly((-0.85, -0.85), (0.55, -0.85), (0.42, 0.85), (-0.72, 0.85))],
        "cut": [_ellipse(0.6, 0.0, 0.22, 0.26)],
    },
    "bottle": {
        "fill": [
            _box(-0.2, -0.9, 0.2, -0.2),
            _poly((-0.2, -0.5), (0.2, -0.5), (0.52, -0.1), (0.52, 1.0), (-0.52, 1.0), (-0.52, -0.1)),
        ],
        "dark": [_box(-0.24, -1.0, 0.24, -0.8)],
    },
    "car": {
        "fill": [
            _poly((-1.0, -0.1), (1.0, -0.1), (1.0, 0.48), (-1.0, 0.48)),
            _poly((-0.68, -0.05), (-0.42, -0.68), (0.38, -0.68), (0.68, -0.05)),
        ],
        "light": [
            _poly((-0.42, -0.14), (-0.28, -0.5), (-0.04, -0.5), (-0.04, -0.14)),
            _poly((0.08, -0.14), (0.08, -0.5), (0.26, -0.5), (0.42, -0.14)),
        ],
        "dark": [_ellipse(-0.55, 0.45, 0.24, 0.24), _ellipse(0.55, 0.45, 0.24, 0.24)],
    },
    "boat": {
        "fill": [
            _poly((-1.0, 0.35), (1.0, 0.35), (0.66, 1.0), (-0.66, 1.0)),
            _poly((0.02, -1.0), (0.02, 0.2), (0.85, 0.2)),
            _poly((-0.16, -0.7), (-0.16, 0.2), (-0.72, 0.2)),
        ],
        "dark": [_box(-0.1, -1.0, 0.0, 0.4)],
    },
    "house": {
        "fill": [_box(-0.72, -0.2, 0.72, 1.0), _poly((-1.0, -0.15), (0, -1.0), (1.0, -0.15))],
        "dark": [_box(-0.18, 0.4, 0.18, 1.0)],
        "light": [_box(-0.56, 0.05, -0.28, 0.32), _box(0.28, 0.05, 0.56, 0.32)],
    },
}
TOP = {"cat": (0, -0.78), "bird": (0.48, -0.78), "fish": (0.2, -0.6), "cup": (-0.15, -0.85), "bottle": (0, -0.95)}
TOP |= {"car": (0, -0.65), "boat": (0.0, -0.95), "house": (0, -0.95)}
BADGE_AT = {"cat": (0, 0.45), "bird": (-0.05, 0.12), "fish": (0.15, 0.05), "cup": (-0.15, 0.1), "bottle": (0, 0.45)}
BADGE_AT |= {"car": (0, 0.18), "boat": (0.0, 0.66), "house": (0, 0.12)}


def _place_points(points, pose: Pose):
    """Unit coordinates to supersampled pixels."""
    local = points * (pose.stretch * (-1 if pose.mirrored else 1), 1.0)
    cos, sin = math.cos(pose.tilt), math.sin(pose.tilt)
    turned = local @ np.array([[cos, sin], [-sin, cos]])
    return (turned * pose.half + (pose.x, pose.y)) * SCALE


def _draw(draw, points, fill, grow=0.0):
    flat = [tuple(p) for p in points]
    draw.polygon(flat, fill=fill)
    if grow:
        draw.line([*flat, flat[0], flat[1]], fill=fill, width=int(2 * grow * SCALE), joint="curve")


_GRID = np.mgrid[0 : SIZE * SCALE, 0 : SIZE * SCALE].astype(np.float32) / SCALE


def _pattern(thing: Thing, pose: Pose, box) -> np.ndarray:
    """Where the second colour goes, as a boolean array over `box` (supersampled left, top, right, bottom).

    Parts are at least six pixels wide whatever the size of the thing, so that the autoencoder keeps them.
    """
    left, top, right, bottom = box
    dy, dx = _GRID[0, top:bottom, left:right] - pose.y, _GRID[1, top:bottom, left:right] - pose.x
    cos, sin = math.cos(pose.tilt), math.sin(pose.tilt)
    x, y = cos * dx + sin * dy, -sin * dx + cos * dy
    if thing.pattern == "striped":
        return np.floor((y + 3.25) / 6.5) % 2 == 1
    if thing.pattern == "dotted":
        row = np.round(y / 9)
        return ((x - 5 * (row % 2)) / 10 - np.round((x - 5 * (row % 2)) / 10)) ** 2 * 100 + (y - 9 * row) ** 2 < 11.5
    if thing.pattern == "patched":
        return (np.floor(x / 9) + np.floor(y / 9)) % 2 == 1
    return y > 0.1 * pose.half  # two-coloured


def _badge(shape, centre, radius):
    x, y = centre
    if shape == "disc":
        return [_ellipse(x, y, radius, radius)]
    bar = _box(x - radius * 1.3, y - radius * 0.5, x + radius * 1.3, y + radius * 0.5)
    return (
        [bar] if shape == "bar" else [bar, _box(x - radius * 0.5, y - radius * 1.3, x + radius * 0.5, y + radius * 1.3)]
    )


def _outline_of(colour):
    return (112, 112, 116) if colour == "black" else tuple(int(0.5 * v) for v in COLOURS[colour])


def _draw_thing(canvas: Image.Image, thing: Thing, pose: Pose) -> Image.Image:
    """Draw one thing and give its mask, supersampled."""
    shape = {part: [_place_points(p, pose) for p in polygons] for part, polygons in SILHOUETTES[thing.noun].items()}
    rim, body = (Image.new("L", canvas.size, 0) for _ in range(2))
    for polygon in shape["fill"]:
        _draw(ImageDraw.Draw(rim), polygon, 255, grow=1.0)
        _draw(ImageDraw.Draw(body), polygon, 255)
    for polygon in shape.get("cut", []):
        _draw(ImageDraw.Draw(body), polygon, 0, grow=1.0)
        _draw(ImageDraw.Draw(rim), polygon, 0)
    canvas.paste(_outline_of(thing.colours[0]), (0, 0), rim)
    canvas.paste(COLOURS[thing.colours[0]], (0, 0), body)
    box = body.getbbox()
    if thing.pattern != "plain" and box:
        second = np.asarray(body.crop(box)) * _pattern(thing, pose, box)
        canvas.paste(COLOURS[thing.colours[1]], box, Image.fromarray(second.astype(np.uint8)))
    draw, mask = ImageDraw.Draw(canvas), ImageDraw.Draw(rim)
    for part, tone in (("light", (206, 232, 244)), ("dark", (24, 20, 24))):
        for polygon in shape.get(part, []):
            _draw(draw, polygon, tone)
            _draw(mask, polygon, 255)
    if thing.badge:
        x, y = BADGE_AT[thing.noun]
        for polygon in _badge(thing.badge[0], (x, y), 4.6 / pose.half):
            _draw(draw, _place_points(polygon, pose), COLOURS[thing.badge[1]])
    return rim


def _draw_accessory(draw, thing: Thing, pose: Pose):
    (x, y), half, s = _place_points(np.array([TOP[thing.noun]]), pose)[0] / SCALE, pose.half, SCALE
    if thing.accessory == "hat":
        for part in (_box(x - 8.5, y - 1, x + 8.5, y + 2), _box(x - 5, y - 9, x + 5, y + 1)):
            _draw(draw, part * s, HAT)
        _draw(draw, _box(x - 5, y - 3.4, x + 5, y - 1) * s, (235, 200, 60))
    elif thing.accessory == "ball":
        side = 1 if pose.x < SIZE / 2 else -1
        at = (pose.x + side * (half * 0.7 + 2), min(pose.y + half * 0.75, SIZE - 7))
        _draw(draw, _ellipse(*at, 6.2, 6.2) * s, (0, 90, 92))
        _draw(draw, _ellipse(*at, 5.2, 5.2) * s, BALL)
        _draw(draw, _box(at[0] - 5, at[1] - 1.1, at[0] + 5, at[1] + 1.1) * s, (240, 240, 240))
    elif thing.accessory == "balloon":
        side = 1 if pose.x < SIZE / 2 else -1
        at = (min(max(pose.x + side * (half * 0.8 + 3), 8), SIZE - 8), max(y - 5, 9))
        draw.line([(at[0] * s, at[1] * s), (pose.x * s, pose.y * s)], fill=(90, 60, 80), width=int(1.3 * s))
        _draw(draw, _ellipse(*at, 6.8, 8) * s, (170, 60, 120))
        _draw(draw, _ellipse(*at, 5.8, 7) * s, BALLOON)
    elif thing.accessory == "umbrella":
        draw.line([(x * s, (y - 9) * s), (x * s, (y + 6) * s)], fill=(60, 40, 50), width=int(1.6 * s))
        _draw(draw, _dome(x, y - 1, 15, 12) * s, UMBRELLA)
        _draw(draw, _dome(x, y - 1, 5, 12) * s, (250, 226, 240))


def _draw_place(scene: Scene) -> Image.Image:
    def tone(index):
        return tuple(
            int(np.clip(v + t, 0, 255)) for v, t in zip(PLACE_TONES[scene.place][index], scene.tint, strict=True)
        )

    canvas = Image.new("RGB", (SIZE * SCALE, SIZE * SCALE), tone(0))
    draw, s = ImageDraw.Draw(canvas), SCALE
    draw.rectangle([0, int(scene.horizon * s), SIZE * s, SIZE * s], fill=tone(1))
    if scene.place == "night":
        draw.ellipse([5 * s, 4 * s, 14 * s, 13 * s], fill=(246, 240, 190))
    if scene.place == "beach":
        draw.rectangle([0, int((scene.horizon - 7) * s), SIZE * s, int(scene.horizon * s)], fill=(64, 148, 196))
    return canvas


def _draw_relation(draw, scene: Scene, under: bool):
    """What a hidden relation draws below (`under`) or above its things."""
    s, (first, second) = SCALE, scene.poses
    if scene.layout == "dream" and under:
        _draw(draw, _ellipse(second.x, second.y, 18, 15.5) * s, (90, 90, 110))
        _draw(draw, _ellipse(second.x, second.y, 17, 14.5) * s, (252, 252, 255))
        for share, radius in ((0.34, 2.6), (0.52, 3.4)):
            at = first.x + share * (second.x - first.x), first.y - 8 + share * (second.y - first.y)
            _draw(draw, _ellipse(*at, radius, radius) * s, (252, 252, 255))
    if scene.layout == "framed" and under:
        _draw(draw, _box(first.x - 17, first.y - 17, first.x + 17, first.y + 17) * s, FRAME)
        _draw(draw, _box(first.x - 13.5, first.y - 13.5, first.x + 13.5, first.y + 13.5) * s, (250, 244, 220))
    if scene.layout == "tied" and not under:
        sag = (first.x + second.x) / 2, max(first.y, second.y) + 8
        curve = [(first.x + 6, first.y), (first.x + 11, (first.y + sag[1]) / 2 + 2), sag]
        curve += [(second.x - 11, (second.y + sag[1]) / 2 + 2), (second.x - 6, second.y)]
        draw.line([(x * s, y * s) for x, y in curve], fill=ROPE, width=int(3.2 * s), joint="curve")


def render(scene: Scene) -> tuple[Image.Image, list[Image.Image]]:
    """The picture (RGB, 64 x 64) and the visible mask of each thing (L, 0 or 255), in the scene's order."""
    canvas, masks = _paint(scene)
    small = [m.resize((SIZE, SIZE), Image.Resampling.BOX).point(lambda v: 255 * (v >= 128)) for m in masks]
    return canvas.resize((SIZE, SIZE), Image.Resampling.BOX), small


def _paint(scene: Scene) -> tuple[Image.Image, list[Image.Image]]:
    """The supersampled picture and masks."""
    canvas = _draw_place(scene)
    masks: list[Image.Image] = []
    if len(scene.things) == 2:
        _draw_relation(ImageDraw.Draw(canvas), scene, under=True)
    for thing, pose in zip(scene.things, scene.poses, strict=True):
        mask = _draw_thing(canvas, thing, pose)
        if thing.accessory:
            _draw_accessory(ImageDraw.Draw(canvas), thing, pose)
        for earlier in masks:
            earlier.paste(0, (0, 0), mask)
        masks.append(mask)
    if len(scene.things) == 2:
        _draw_relation(ImageDraw.Draw(canvas), scene, under=False)
    return canvas, masks


def pixels(scene: Scene) -> np.ndarray:
    """The picture as uint8 (64, 64, 3)."""
    return np.asarray(_paint(scene)[0].resize((SIZE, SIZE), Image.Resampling.BOX))
