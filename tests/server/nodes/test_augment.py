"""Prepare Pictures, Generate Priors, and Segment and Paste in a running ComfyUI, alone and one after the other."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from comfyui_fewshot.tests.core import seen_pictures
from comfyui_fewshot.tests.server import graphs
from comfyui_fewshot.tests.server.nodes.test_words_and_masks import left_half, segment

pytestmark = pytest.mark.server
PREPARE = {"crop": "subject", "resolution": 64, "upscale": False, "duplicates": "leave out", "tightness": 0.0}
PRIORS = {"count": 2, "steps": 2, "guidance": 1.0, "seed": 0, "batch": 4, "width": 0, "height": 0}
PASTE = {
    "variants": 3, "prior_variants": 1, "share": 0.5, "together": 0.3, "background": "any", "background_weight": 0.1,
    "flip": False, "seed": 0, "mixed": True, "described": True, "smallest": 0.35, "largest": 0.95, "size": 0,
}  # fmt: skip


def prepare(source="set", **inputs):
    return {"prepare": graphs.node("FewShotPreparePictures", set=[source, 0], **(PREPARE | inputs))}


def priors(source="set", base="base", **inputs):
    return {"priors": graphs.node("FewShotGeneratePriors", base=[base, 0], set=[source, 0], **(PRIORS | inputs))}


def paste(source="set", **inputs):
    return {"paste": graphs.node("FewShotSegmentPaste", set=[source, 0], **(PASTE | inputs))}


def keep(**slots):
    return {
        f"keep_{name}": graphs.node("ProbeKeep", value=[node, slot], name=name) for name, (node, slot) in slots.items()
    }


def shown(server, outcome, node):
    """The picture and the text on a node."""
    said = outcome.outputs(node)
    return np.asarray(server.picture(said["images"][0])), said["text"][0]


def test_each_node_shows_what_it_did(server):
    graph = graphs.base() | graphs.pictures() | prepare() | priors("prepare") | paste("segment")
    graph |= left_half() | segment("priors", masks=["mask", 0])
    graph |= keep(table=("prepare", 2), said=("priors", 2), pasted=("paste", 2), sheet=("paste", 1))
    outcome = server.succeed(graph)
    for node in ("prepare", "priors", "segment", "paste"):
        picture, text = shown(server, outcome, node)
        assert min(picture.shape[:2]) >= 64 and picture.std() > 5, node
        assert ("the given mask" if node == "segment" else "pictures of sks cat") in text, node
    table = str(server.kept("table")).splitlines()
    assert table[0].split()[0] == "file" and all(" 64x64 " in line for line in table[1:]) and "/77" in table[1]
    references = len(table) - 1
    assert "2 drawn now" in str(server.kept("said"))
    assert f"{references * (1 + 3)} pictures" in str(server.kept("pasted"))
    assert f"{references * 3 + 2} are composites" in str(server.kept("pasted"))
    assert server.kept("sheet").shape[-1] == 3


def test_what_follows_gets_pictures_masks_and_captions(server):
    lists = graphs.node("FewShotSetToImages", set=["paste", 0], role="reference")
    # A phrase of its own: what another test's graph left in ComfyUI's cache would not be shown there again.
    masked = left_half() | segment(masks=["mask", 0], phrases="cat")
    graph = graphs.pictures() | masked | paste("segment", variants=1, together=0.0)
    picked = {
        "one": graphs.node("ImageFromBatch", image=["lists", 0], batch_index=0, length=1),
        "shape": graphs.node("MaskToImage", mask=["lists", 1]),
    }
    graph |= {"lists": lists} | picked | keep(picture=("one", 0), mask=("shape", 0), words=("lists", 2))
    server.succeed(graph)
    assert server.kept("picture").shape[1:] == (64, 64, 3) == server.kept("mask").shape[1:]
    assert str(server.kept("words")).endswith("background")
    assert 0.02 < server.kept("mask").mean() < 0.95 and set(np.unique(server.kept("mask"))) == {0.0, 1.0}


def test_lists_of_pictures_and_masks_of_several_sizes_are_one_set(server):
    """Set to Images gives lists; a node that took them one by one would make a set of each picture."""
    folder = server.base / "input" / "sizes"
    folder.mkdir(parents=True, exist_ok=True)
    boxes = {"a": ((96, 64), (8, 8, 40, 40)), "b": ((64, 80), (20, 30, 60, 70)), "c": ((48, 48), (5, 5, 25, 30))}
    for name, (size, box) in boxes.items():
        Image.effect_noise(size, 80).convert("RGB").save(folder / f"{name}.png")
        mask = Image.new("L", size)
        mask.paste(255, box)
        mask.save(folder / f"{name}_mask.png")
    lists = {"lists": graphs.node("FewShotSetToImages", set=["set", 0], role="all")}
    again = {
        "source": "images", "source.images": ["lists", 0], "source.masks": ["lists", 1],
        "source.captions": ["lists", 2],
    }  # fmt: skip
    second = {"second": graphs.node("FewShotSubjectPictures", **again, **(graphs.WORDS | {"identifier": "zwx"}))}
    masked = segment("bare", masks=["lists", 1])
    bare = {"source": "images", "source.images": ["lists", 0], "source.captions": "a photo of cat"}
    bare_set = {"bare": graphs.node("FewShotSubjectPictures", **bare, **graphs.WORDS)}
    table = prepare("second", crop="none")
    graph = graphs.pictures("sizes") | lists | second | bare_set | masked | table
    outcome = server.succeed(graph | keep(table=("prepare", 2), found=("segment", 3), made=("second", 0)))
    assert outcome.outputs("second")["text"][0].startswith("3 pictures of zwx cat, 3 masks")
    assert len(str(server.kept("table")).splitlines()) == 4
    said = str(server.kept("found")).splitlines()
    shares = [(x1 - x0) * (y1 - y0) / (w * h) for (w, h), (x0, y0, x1, y1) in boxes.values()]
    assert len(said) == 3 and [line.rsplit("mask, ", 1)[1] for line in said] == [
        f"{share:.0%} of the picture" for share in shares
    ]


def test_several_values_for_one_widget_are_refused(server):
    lists = {"lists": graphs.node("FewShotSetToImages", set=["set", 0], role="all")}
    graph = graphs.pictures() | lists | left_half() | segment(masks=["mask", 0], phrases=["lists", 2])
    outcome = server.run(graph | keep(said=("segment", 3)))
    assert "phrases takes one value, and 2 came" in outcome.error["exception_message"]


def test_without_masks_pasting_says_what_to_connect(server):
    folder = server.base / "input" / "bare"
    folder.mkdir(parents=True, exist_ok=True)
    Image.effect_noise((64, 64), 80).convert("RGB").save(folder / "noise.png")
    outcome = server.run(graphs.pictures("bare") | paste() | keep(said=("paste", 2)))
    said = outcome.error["exception_message"]
    assert "noise.png has no mask" in said and "Connect Segment by Prompt" in said


def from_graph(model, clip):
    return {
        "changed": graphs.node(
            "FewShotBaseFromModel", model=model, clip=clip, vae=["base", 3], clip_skip=0, dtype="auto"
        )
    }


def test_priors_of_a_base_with_a_lora_on_are_refused(server):
    trained = graphs.training(server.get("/object_info"), steps=1)
    apply = graphs.node(
        "FewShotApplyAdapter", adapter=["train", 0], model=["base", 1], clip=["base", 2], strength_model=1.0,
        strength_clip=1.0,
    )  # fmt: skip
    merged = graphs.node("ModelMergeSimple", model1=["base", 1], model2=["apply", 0], ratio=0.5)
    for model in ("apply", "merged"):
        graph = trained | {"apply": apply, "merged": merged} | from_graph([model, 0], ["base", 2])
        outcome = server.run(graph | priors(base="changed") | keep(said=("priors", 2)))
        assert "weights patched by a LoRA" in outcome.error["exception_message"], model


def test_a_merged_base_draws_priors(server):
    merged = graphs.node("ModelMergeSimple", model1=["base", 1], model2=["base", 1], ratio=0.5)
    graph = graphs.base() | graphs.pictures() | {"merged": merged} | from_graph(["merged", 0], ["base", 2])
    server.succeed(graph | priors(base="changed", count=1, seed=5) | keep(said=("priors", 2)))
    assert "1 drawn now" in str(server.kept("said"))


def test_a_broken_picture_is_named_and_copies_are_left_out(server):
    folder = server.base / "input" / "of_all_kinds"
    folder.mkdir(parents=True, exist_ok=True)
    picture = Image.effect_noise((96, 64), 80).convert("RGB")
    picture.save(folder / "a.png")
    picture.save(folder / "b.png", compress_level=0)
    Image.new("RGB", (1, 1)).save(folder / "c.png")
    (folder / "d.png").write_bytes(b"\x89PNG")
    outcome = server.succeed(graphs.pictures("of_all_kinds") | prepare() | keep(table=("prepare", 2)))
    table = str(server.kept("table"))
    assert "left out: the same picture as a.png" in table and "small: 1 x 1 pixels" in table
    assert "64x64+16+0" in table
    assert "d.png" in outcome.outputs("set")["text"][0]


def test_pictures_come_as_they_are_seen(server):
    """Colours by their profile, a cut-out on white with its mask, and a note where a profile is damaged."""
    folder = server.base / "input" / "seen"
    folder.mkdir(parents=True, exist_ok=True)
    cut = Image.new("RGBA", (64, 64), (0, 90, 0, 0))
    cut.paste((202, 54, 51, 255), (16, 16, 48, 48))
    cut.save(folder / "a.webp", lossless=True, exact=True, icc_profile=seen_pictures.rgb_profile("p3"))
    parts = {"parts": graphs.node("FewShotSetToImages", set=["set", 0], role="all")}
    server.succeed(graphs.pictures("seen") | parts | keep(image=("parts", 0), mask=("parts", 1)))
    image, mask = server.kept("image"), server.kept("mask")
    assert np.abs(image[0, 32, 32] * 255 - (220, 30, 40)).max() <= 1.01 and (image[0, 0, 0] == 1).all()
    assert mask[0].sum() == 32 * 32
    Image.new("RGB", (64, 64)).save(folder / "b.jpg", icc_profile=b"junk" * 40)
    said = server.succeed(graphs.pictures("seen") | prepare() | keep(table=("prepare", 2))).outputs("set")["text"][0]
    assert "b.jpg has a damaged colour profile; its colours are taken as sRGB" in said


def test_a_made_picture_keeps_its_name(server):
    """What later nodes say names pictures as the person knows them."""
    graph = graphs.pictures() | prepare(resolution=32) | segment("prepare") | keep(said=("segment", 3))
    server.succeed(graph)
    assert str(server.kept("said")).startswith("cat_patched_00_")
