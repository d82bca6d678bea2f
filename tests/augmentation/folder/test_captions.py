"""Captions by all names and forms that are usual; those that are not read are named with the reason."""

import json

import pytest

from comfyui_fewshot.augmentation.images.load import subject_from_folder
from comfyui_fewshot.augmentation.images.relation_pictures import relation_from_folder
from comfyui_fewshot.tests.augmentation.folder.drawn import written

WINDOWS = "C:\\w\\Y.JPG"
NONE, NEW = "a photo of sks dog", "one sks dog"


def captions_in(folder):
    notes: list[str] = []
    found = subject_from_folder(folder, "sks", "dog", warnings=notes)
    return {s.image.path.name: s.caption for s in found.samples}, "\n".join(notes)


def record(**fields):
    return json.dumps(fields)


READ = [
    ({"x.txt": "\ufeffa  dog\r\n", "y.TXT": "one dog"}, "a sks dog", "one sks dog"),
    ({"x.caption": "a dog", "y.cap": "one dog"}, "a sks dog", "one sks dog"),
    ({"x.png.txt": "a dog", "y.txt.txt": "one dog"}, "a sks dog", "one sks dog"),
    ({"X.txt": "a dog", "y.png.txt": "one dog"}, "a sks dog", "one sks dog"),
    ({"x_caption.txt": "a dog", "captions/y.txt": "one dog"}, "a sks dog", "one sks dog"),
    ({"x.txt": "", "x.caption": "a dog", "y.txt": record(caption="one dog")}, "a sks dog", "one sks dog"),
    ({"x.json": record(caption="a dog"), "y.json": record(prompt="one dog")}, "a sks dog", "one sks dog"),
    ({"x.json": record(text="a dog", tags="sun, sea"), "y.json": '"one dog"'}, "a sks dog, sun, sea", "one sks dog"),
    (
        {"x.json": record(tags={"1dog": 0.9, "sun": 0.8}), "y.jpg.json": record(tag_string="1dog long_hair")},
        "sks dog, 1dog, sun", "sks dog, 1dog, long hair",
    ),
    (
        {"metadata.jsonl": f'{record(file_name="x.png", text="a dog")}\n{record(file_name="i/y.jpg", text="one dog")}'},
        "a sks dog", "one sks dog",
    ),
    (
        {"d.jsonl": f'{record(image_path="/w/x.png", caption="a dog")}\n{record(path=WINDOWS, caption="one dog")}'},
        "a sks dog", "one sks dog",
    ),
    ({"metadata.csv": 'file_name,text\nx.png,a dog, big\ny.jpg,"one dog, 1"'}, "a sks dog, big", "one sks dog, 1"),
    ({"captions.csv": "image;caption\nx.png;a dog\ny.jpg;one dog"}, "a sks dog", "one sks dog"),
    ({"c.csv": ",Image Name,blip_caption,negative_prompt\n0,x.png,a dog,b\n1,y.jpg,one dog,b\n"}, "a sks dog", NEW),
    ({"c.csv": "\ufefffile_name\ttext\nx.png\ta dog\ny.jpg\tone dog".encode("utf-16-le")}, "a sks dog", "one sks dog"),
    ({"metadata.csv": 'file_name,text\nx.png,"a\ndog"\ny.jpg,"one dog'}, "a sks dog", "one sks dog"),
    ({"captions.tsv": "filename\tcaption\nx.png\ta dog\ny.jpg\tone dog"}, "a sks dog", "one sks dog"),
    ({"captions.csv": "x.png,a dog\ny.jpg,one dog\n"}, "a sks dog", "one sks dog"),
    ({"captions.txt": "x.png\ta dog\ny.jpg\tone dog\n"}, "a sks dog", "one sks dog"),
    ({"captions.txt": "x.png: a dog, big\ny.jpg: one dog\n"}, "a sks dog, big", "one sks dog"),
    ({"captions.json": record(**{"x.png": "a dog", "y.jpg": "one dog"})}, "a sks dog", "one sks dog"),
    ({"captions.json": record(captions={"x": "a dog", "y": "one dog"})}, "a sks dog", "one sks dog"),
    (
        {"c.json": json.dumps([{"image": "x.png", "caption": "a dog"}, {"file": "y.jpg", "text": "one dog"}])},
        "a sks dog", "one sks dog",
    ),
    (
        {"meta_cap.json": record(**{"/d/x": {"caption": "a dog", "tags": "sun"}, "/d/y": {"tags": "one dog"}})},
        "a sks dog, sun", "one sks dog",
    ),
    (
        {"coco.json": record(
            images=[{"id": 1, "file_name": "x.png"}, {"id": 2, "file_name": "y.jpg"}],
            annotations=[{"image_id": 1, "caption": "a dog"}, {"image_id": 2, "caption": "one dog"}],
        )},
        "a sks dog", "one sks dog",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("files", "x", "y"), READ)
def test_usual_forms(tmp_path, files, x, y):
    written(tmp_path, files)
    found, notes = captions_in(tmp_path)
    assert found == {"x.png": x, "y.jpg": y}
    assert notes in ("", "x.txt is not read: it is empty")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"x.json": record(shapes=[], imagePath="x.png")}, "x.json is not read: it holds LabelMe's shapes"),
        ({"c.json": record(images=[], annotations=[], categories=[])}, "c.json is not read: it holds boxes"),
        ({"x.json": record(nodes=[], links=[])}, "x.json is not read: it holds a graph of ComfyUI"),
        ({"x.json": record(width=3)}, "x.json is not read: none of its fields (width) is a caption"),
        ({"x.json": '{"caption": '}, "x.json is not read: it is no JSON"),
        ({"m.jsonl": record(file_name="x.png", text="a dog") + "\n{"}, "m.jsonl is not read: line 2: it is no JSON"),
        ({"metadata.csv": "a,b\n1,2\n"}, "metadata.csv is not read: it needs fields such as file_name and text"),
        ({"metadata.jsonl": record(file_name="q.png", text="a dog")}, "names a picture that is not here: q.png"),
        ({"x.txt": "0 0.5 0.5 0.2 0.2"}, "x.txt is not read: a caption has words"),
        ({"q.txt": "a dog", "readme.txt": "hello"}, "q.txt and readme.txt are not read: there is no picture"),
        ({"captions/q.txt": "a dog"}, "q.txt is not read: no picture has its name"),
        ({"x.txt": b"\x89PNG\r\n\x1a\n\0\0"}, "x.txt is no text but a PNG picture"),
        ({"x.txt": "故宫".encode("gbk")}, "x.txt could be several encodings"),
        ({"x.txt": bytes(range(200))}, "x.txt is no text: it holds binary data"),
        ({"m.json": record(images=[{"id": [1], "file_name": "x.png"}], annotations=[])}, "json is not read: it holds"),
        (
            {"m.json": record(images=[{"id": 1, "file_name": "x"}], annotations=[{"image_id": [1], "caption": "a"}])},
            "m.json is not read: it holds boxes",
        ),
        ({"m.json": record(images=[[1]], annotations=[2, {"image_id": {}, "caption": "a"}])}, "m.json is not"),
        ({"m.json": '{"a":' * 900 + "1" + "}" * 900}, "m.json is not read"),
        ({"m.csv": 'file_name,text\nx.png,"open dog\ny.jpg,dog\nq.jpg,dog'}, "m.csv is not read: it is damaged: a"),
        ({"m.csv": '\nid;text\nx;"open dog\ny;dog'}, "a quote in line 3 is not closed"),
        ({"m.csv": 'x.png,"open dog\ny.jpg,"dog'}, "a quote in line 1 is not closed"),
        ({"train.parquet": b"PAR1"}, "1 table in another form (save it as CSV) (train.parquet)"),
    ],
)  # fmt: skip
def test_what_is_not_read_is_named(tmp_path, files, words):
    written(tmp_path, files)
    found, notes = captions_in(tmp_path)
    assert found["x.png"] == found["y.jpg"] == NONE and words in notes


def test_one_of_several_captions_is_used_and_the_others_are_named(tmp_path):
    tables = {
        "metadata.jsonl": record(file_name="x.png", text="table dog"),
        "captions.json": record(**{"x.png": "a dog"}),
    }
    written(tmp_path, {"x.png.txt": "a dog", "x.caption": "other dog", **tables, "y.txt": "one\nold dog"})
    found, notes = captions_in(tmp_path)
    assert found == {"x.png": "other sks dog", "y.jpg": "one old sks dog"}
    assert "x.png is captioned by x.caption; x.png.txt, metadata.jsonl and captions.json say something else" in notes
    assert "y.txt has several lines, which are joined to one caption" in notes
    (tmp_path / "x.json").write_text(json.dumps(["a", "b"]))
    for name in ("x.caption", "x.png.txt", *tables):
        (tmp_path / name).unlink()
    assert "of several captions the first is taken for x.png (x.json)" in captions_in(tmp_path)[1]


def test_files_of_two_cases_belong_to_their_pictures(tmp_path):
    written(tmp_path, {"h.png": "", "H.png": "", "h.txt": "small dog", "H.txt": "large dog"})
    found, notes = captions_in(tmp_path)
    assert found["h.png"] == "small sks dog" and found["H.png"] == "large sks dog" and not notes


def test_encodings_are_found_and_named(tmp_path):
    texts = {
        "gbk": "一只狗在草地上",
        "shift_jis": "犬が草の上にいる",
        "utf-16-le": "a dog on grass",
        "utf-16-be": "a dog on grass",
    }
    written(
        tmp_path,
        {f"{code}.png": "" for code in texts} | {f"{code}.txt": text.encode(code) for code, text in texts.items()},
    )
    (tmp_path / "x.txt").write_bytes(b"a dog\0 on grass")
    found, notes = captions_in(tmp_path)
    assert found["gbk.png"] == f"sks dog, {texts['gbk']}" and found["shift_jis.png"] == f"sks dog, {texts['shift_jis']}"
    assert found["utf-16-le.png"] == found["utf-16-be.png"] == found["x.png"] == "a sks dog on grass"
    assert [line.split(";")[0] for line in notes.splitlines()] == [
        "gbk.txt: read as GB18030", "shift_jis.txt: read as Shift-JIS", "utf-16-be.txt: read as UTF-16 (big-endian)",
        "utf-16-le.txt: read as UTF-16 (little-endian)", "x.txt: 1 zero byte in it left out",
    ]  # fmt: skip


def test_captions_of_a_relation_take_the_same_forms(tmp_path):
    written(
        tmp_path,
        {"x.TXT": "cat <R> car\nred cat <R> car", "metadata.csv": "file_name,text\ny.jpg,一只狗 <R> 猫".encode("gbk")},
    )
    notes: list[str] = []
    found = relation_from_folder(tmp_path, "<R>", warnings=notes)
    assert [(s.caption, s.weight) for s in found.samples] == [
        ("cat <R> car", 0.5),
        ("red cat <R> car", 0.5),
        ("一只狗 <R> 猫", 1),
    ]
    (tmp_path / "text.json").write_text(json.dumps({"x.png": ["dog {} bed"]}))
    found = relation_from_folder(tmp_path, "<R>", warnings=notes)
    assert (
        found.samples[0].caption == "dog <R> bed" and "captioned by text.json; x.TXT says something else" in notes[-2]
    )


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_one_table_beside_two_folders(tmp_path, ending):
    """As data sets are laid out whose table names "train/a.png" and "test/a.png"."""
    for folder in ("train", "test", "other"):
        written(tmp_path / folder, {})
    rows = [("train/x.png", "a dog"), ("test/x.png", "one dog"), ("y.jpg", "a dog of no folder")]
    lines = [record(file_name=name, text=text) for name, text in rows]
    table = "\n".join(lines if ending == "jsonl" else ["file_name,text", *map(",".join, rows)])
    (tmp_path / f"metadata.{ending}").write_text(table)
    assert captions_in(tmp_path / "train") == ({"x.png": "a sks dog", "y.jpg": NONE}, "")
    (tmp_path / "test" / "x.txt").write_text("the dog")
    captions, notes = captions_in(tmp_path / "test")
    assert captions["x.png"] == "the sks dog" and f"metadata.{ending} says something else" in notes
    assert captions_in(tmp_path / "other")[0] == {"x.png": NONE, "y.jpg": NONE}


def test_a_table_beside_the_folder_that_is_broken_is_named(tmp_path):
    written(tmp_path / "train", {})
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "train/x.png", "text"')
    assert "metadata.jsonl beside the folder train is not read: line 1" in captions_in(tmp_path / "train")[1]
