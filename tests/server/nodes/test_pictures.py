"""Subject Pictures, Relation Pictures and Prompt Set say on the node what they made of people's files."""

import pytest

from comfyui_fewshot.tests.augmentation.folder.drawn import mask, photo, written
from comfyui_fewshot.tests.server import graphs

pytestmark = pytest.mark.server
SHOW = {
    "show": graphs.node("FewShotSetToImages", set=["set", 0], role="all"),
    "keep": graphs.node("PreviewAny", source=["show", 2]),
}


def test_every_file_of_a_folder_is_accounted_for_on_the_node(server):
    folder = server.base / "input" / "every"
    written(folder, {"x.TXT": "一只狗".encode("gbk"), "metadata.csv": "file_name,text\ny.jpg,a dog", "clip.mp4": b""})
    written(folder, {"q.txt": "a dog", "z.png": "", "z.txt": bytes(range(256))})
    mask(folder / "mask_x.png")
    mask(folder / "masks" / "y.png")
    mask(folder / "unknown.png")
    outcome = server.succeed(graphs.pictures("every") | SHOW)
    first, *notes = outcome.outputs("set")["text"][0].splitlines()
    assert first.startswith("3 pictures") and first.endswith("2 masks")
    for words in (
        "unknown.png was left out", "z.txt is no text", "q.txt is not read", "x.TXT: read as GB18030",
        "1 video (clip.mp4)",
    ):  # fmt: skip
        assert sum(words in note for note in notes) == 1, words
    assert len(notes) == 5 and "一只狗" in outcome.outputs("keep")["text"][0]
    mask(folder / "masks" / "z.png", left=10)  # a file in a folder inside is seen too
    assert server.succeed(graphs.pictures("every") | SHOW).outputs("set")["text"][0].splitlines()[0].endswith("3 masks")


def test_kohya_s_top_folder_says_where_pictures_lie(server):
    photo(server.base / "input" / "kohya" / "img" / "10_sks dog" / "a.png")
    photo(server.base / "input" / "kohya" / "reg" / "1_dog" / "r.png")
    message = server.run(graphs.pictures("kohya") | SHOW).error["exception_message"]
    assert "pictures lie in img/10_sks dog (1)" in message and "reg/1_dog (1)" in message
    assert server.succeed(graphs.pictures("kohya/img/10_sks dog") | SHOW).outputs("set")["text"][0].startswith("1 pic")


def test_relation_pictures_take_the_same_forms(server):
    written(server.base / "input" / "related", {"x.png.txt": "cat <R> chair", "captions.csv": "y.jpg,dog <R> bed\n"})
    mask(server.base / "input" / "related" / "x_alpha.png")
    words = {"source": "folder", "source.folder": "related", "source.things": "", "identifier": "<R>", "relation": ""}
    outcome = server.succeed({"set": graphs.node("FewShotRelationPictures", **words)} | SHOW)
    assert outcome.outputs("set")["text"][0] == "2 pictures of <R>, 2 captions"


@pytest.mark.parametrize("code", ["gbk", "utf-16-le", "utf-8"])
def test_a_file_of_prompts_in_any_encoding(server, code):
    (server.base / "input" / "OWN.TXT").write_bytes("sks 狗 在草地上\nsks 狗 在沙滩上\n".encode(code))
    words = {"identifier": "sks", "noun": "狗", "description": "", "most": 50}
    node = graphs.node("FewShotPromptSet", **{"source": "text file", "source.file": "OWN.TXT"}, **words)
    outcome = server.succeed({"prompts": node, "keep": graphs.node("PreviewAny", source=["prompts", 1])})
    lines = outcome.outputs("prompts")["text"][0].splitlines()
    assert lines[:2] == ["sks 狗 在草地上", "sks 狗 在沙滩上"] and ("read as" in lines[-1]) == (code != "utf-8")
