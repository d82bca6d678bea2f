"""MASKs that ComfyUI makes of transparency: white where a file is transparent."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from comfyui_fewshot.tests.server import graphs

pytestmark = pytest.mark.server


def picture(server, name: str, transparent: tuple[int, int, int, int], inside: bool) -> None:
    """A picture of 64 x 64 in the input folder; transparent is a box, or all around it."""
    alpha = np.full((64, 64), 255 if inside else 0, np.uint8)
    left, top, right, bottom = transparent
    alpha[top:bottom, left:right] = 0 if inside else 255
    colours = np.zeros((64, 64, 3), np.uint8)
    colours[alpha > 0] = (200, 40, 40)
    path = server.base / "input" / name
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.dstack([colours, alpha])).save(path)


def subject(images: list, masks: list) -> graphs.Graph:
    inputs = {"source": "images", "source.images": images, "source.masks": masks, "source.captions": ""}
    return {
        "set": graphs.node("FewShotSubjectPictures", **inputs, **graphs.WORDS),
        "show": graphs.node("FewShotSetToImages", set=["set", 0], role="all"),
        "picture": graphs.node("ProbeKeep", value=["show", 0], name="picture"),
        "mask": graphs.node("ProbeKeep", value=["show", 1], name="mask"),
    }


def load(name: str) -> graphs.Graph:
    return {"load": graphs.node("LoadImage", image=name)}


def run(server, graph: graphs.Graph) -> tuple[str, np.ndarray, np.ndarray]:
    said = server.succeed(graph).outputs("set")["text"][0]
    return said, server.kept("picture")[0], server.kept("mask")[0]


def test_a_cut_out_is_as_from_its_folder(server):
    picture(server, "cutouts/cat.png", (16, 16, 48, 48), inside=False)
    picture(server, "cat_cut_out.png", (16, 16, 48, 48), inside=False)
    said, seen, mask = run(server, load("cat_cut_out.png") | subject(["load", 0], ["load", 1]))
    assert "the MASK of LoadImage is white where the picture is transparent; it was inverted" in said
    assert mask[32, 32] == 1 and mask[0, 0] == 0 and (seen[0, 0] == 1).all()
    folder = {"set": graphs.pictures("cutouts")["set"]}
    server.succeed(load("cat_cut_out.png") | subject(["load", 0], ["load", 1]) | folder)
    assert (server.kept("picture")[0] == seen).all() and (server.kept("mask")[0] == mask).all()


def test_with_invert_mask_it_is_the_same_and_nothing_is_said(server):
    picture(server, "cat_cut_out.png", (16, 16, 48, 48), inside=False)
    turn = {"turn": graphs.node("InvertMask", mask=["load", 1])}
    said, _, mask = run(server, load("cat_cut_out.png") | turn | subject(["load", 0], ["turn", 0]))
    assert "inverted" not in said and "Invert" not in said and mask[32, 32] == 1 and mask[0, 0] == 0


OTHER_WAYS = {
    "alpha of Load Image (as Mask)": {"m": graphs.node("LoadImageMask", image="cat_cut_out.png", channel="alpha")},
    "Split Image with Alpha": {
        "joined": graphs.node("JoinImageWithAlpha", image=["load", 0], alpha=["load", 1]),
        "m": graphs.node("SplitImageWithAlpha", image=["joined", 0]),
    },
    "another Load Image": {"m": graphs.node("LoadImageOutput", image="cat_cut_out.png [input]")},
}


@pytest.mark.parametrize("way", OTHER_WAYS)
def test_other_nodes_of_transparency(server, way):
    picture(server, "cat_cut_out.png", (16, 16, 48, 48), inside=False)
    slot = 0 if OTHER_WAYS[way]["m"]["class_type"] == "LoadImageMask" else 1
    said, seen, mask = run(server, load("cat_cut_out.png") | OTHER_WAYS[way] | subject(["load", 0], ["m", slot]))
    assert "it was inverted" in said and "on white" not in said
    assert mask[32, 32] == 1 and mask[0, 0] == 0 and (seen[0, 0] == 0).all()


def test_a_colour_of_a_mask_file_is_taken_as_it_is(server):
    white = np.zeros((64, 64, 3), np.uint8)
    white[16:48, 16:48] = 255
    Image.fromarray(white).save(server.base / "input" / "red_mask.png")
    picture(server, "cat_cut_out.png", (16, 16, 48, 48), inside=False)
    mask = {"m": graphs.node("LoadImageMask", image="red_mask.png", channel="red")}
    said, _, found = run(server, load("cat_cut_out.png") | mask | subject(["load", 0], ["m", 0]))
    assert "nvert" not in said and found[32, 32] == 1 and found[0, 0] == 0


def test_what_was_painted_in_the_mask_editor_is_the_subject(server):
    picture(server, "clipspace/clipspace-painted-masked-1.png", (16, 16, 48, 64), inside=True)
    name = "clipspace/clipspace-painted-masked-1.png [input]"
    said, _, mask = run(server, load(name) | subject(["load", 0], ["load", 1]))
    assert "nvert" not in said and mask[32, 32] == 1 and mask[0, 0] == 0


def test_a_hole_inside_a_picture_is_named(server):
    picture(server, "hole.png", (16, 16, 48, 48), inside=True)
    said, _, mask = run(server, load("hole.png") | subject(["load", 0], ["load", 1]))
    assert "taken for the subject" in said and mask[32, 32] == 1 and mask[0, 0] == 0


def test_an_opaque_picture_has_no_mask(server):
    Image.effect_noise((64, 64), 80).convert("RGB").save(server.base / "input" / "opaque.png")
    said, _, mask = run(server, load("opaque.png") | subject(["load", 0], ["load", 1]))
    assert "0 masks" in said and "nvert" not in said and (mask == 1).all()


def test_a_mask_of_another_node_that_looks_inverted_is_named(server):
    picture(server, "cat_cut_out.png", (16, 16, 48, 48), inside=False)
    grown = {"grown": graphs.node("GrowMask", mask=["load", 1], expand=2, tapered_corners=True)}
    graph = load("cat_cut_out.png") | grown
    said, _, mask = run(server, graph | subject(["load", 0], ["grown", 0]))
    assert "picture 1: the mask is white along the picture's edges" in said and "put Invert Mask between" in said
    assert mask[0, 0] == 1
    segment = graphs.node(
        "FewShotSegmentByPrompt", set=["set", 0], model="auto", outline="auto", phrases="", threshold=0.0,
        instances="best", missing="stop", role="all", keep=True, masks=["load", 1],
    )  # fmt: skip
    keep = {"segment": segment, "kept": graphs.node("ProbeKeep", value=["segment", 2], name="found")}
    outcome = server.succeed(load("cat_cut_out.png") | graphs.pictures() | keep)
    assert "it was inverted" in outcome.outputs("segment")["text"][0] and server.kept("found")[0][32, 32] == 1
