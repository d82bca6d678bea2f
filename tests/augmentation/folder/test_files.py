"""Every file of a folder is used or named; folders of other trainers say where their pictures lie."""

import os

import pytest

from comfyui_fewshot.augmentation.images.load import subject_from_folder
from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.tests.augmentation.folder.drawn import mask, photo, written


def notes_of(folder, *words):
    notes: list[str] = []
    subject_from_folder(folder, *(words or ("sks", "dog")), warnings=notes)
    return "\n".join(notes)


def test_the_rest_is_named_by_kind_in_one_line(tmp_path):
    names = "a.mp4 b.MOV c.psd d.dng e.zip f.npz g.safetensors h.toml i.md j.tga k.weird Thumbs.db .DS_Store ._x.png"
    written(tmp_path, dict.fromkeys(names.split(), b""))
    (line,) = notes_of(tmp_path).splitlines()
    for part in (
        "not read: ", "2 videos (a.mp4 and b.MOV)", "1 layered picture (c.psd)", "1 raw photo (d.dng)",
        "1 archive (e.zip)",
        "2 caches of a trainer (f.npz and g.safetensors)", "1 file of settings (h.toml)", "1 document (i.md)",
        "1 picture in another form (save it as PNG) (j.tga)", "1 other file (k.weird)",
        "3 hidden files (._x.png, .DS_Store and Thumbs.db)",
    ):  # fmt: skip
        assert part in line


def test_folders_inside_are_named_with_their_pictures(tmp_path):
    written(tmp_path, {"old/a.png": "", "old/deep/b.png": "", "5_sks dog/a.png": "", "5_sks dog/more/b.png": ""})
    (tmp_path / "log").mkdir()
    assert notes_of(tmp_path).splitlines() == [
        "folder 5_sks dog/more was left out: it holds 1 picture; only folders named as 10_name are read",
        "folder log was left out: it holds no pictures; only folders named as 10_name are read",
        "folder old was left out: it holds 2 pictures; only folders named as 10_name are read",
    ]


def test_the_same_picture_twice_is_named(tmp_path):
    written(tmp_path, {})
    (tmp_path / "copy.png").write_bytes((tmp_path / "x.png").read_bytes())
    assert notes_of(tmp_path) == "copy.png and x.png are the same picture, which counts 2 times"


def test_kohya_s_top_folder_says_where_pictures_lie(tmp_path):
    photo(tmp_path / "img" / "10_sks dog" / "a.png")
    photo(tmp_path / "reg" / "1_dog" / "r.png")
    for name in ("log", "model"):
        (tmp_path / name).mkdir()
    with pytest.raises(FewShotError, match=r"no pictures in .* itself; pictures lie in img/10_sks dog \(1\)") as raised:
        subject_from_folder(tmp_path, "sks", "dog")
    assert "reg/1_dog (1) holds pictures of the class" in str(raised.value)
    for name in ("b.png", "c.png"):
        photo(tmp_path / "img" / "5_zwx cat" / name)
    with pytest.raises(FewShotError, match=r"img/5_zwx cat \(2\) and img/10_sks dog \(1\): .* Combine Sets"):
        subject_from_folder(tmp_path, "sks", "dog")
    assert 'folder 5_zwx cat is named for "zwx cat", and its pictures are taught as "sks dog"' in notes_of(
        tmp_path / "img"
    )
    photo(tmp_path / "img" / "1_dog" / "c.png")
    assert 'folder 1_dog is named for "dog"' in notes_of(tmp_path / "img")
    assert notes_of(tmp_path / "img" / "10_sks dog") == notes_of(tmp_path / "img" / "5_zwx cat", "zwx", "cat") == ""
    assert "holds pictures of the class, not of the subject" in notes_of(tmp_path / "reg" / "1_dog")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([], "put some there"),
        (["train/a.png", "test/b.png"], r"pictures lie in test \(1\) and train \(1\): choose one of them"),
        (
            ["images/a.png", "masks/a.png"],
            r"pictures lie in images \(1\): .*; masks go into .* their pictures, .* folder masks$",
        ),
        (["a/b/c/d.png"], r"pictures lie in a/b/c \(1\)"),
        (["clip.mp4"], r"put some there .*; not read: 1 video \(clip.mp4\)"),
    ],
)
def test_a_folder_without_pictures(tmp_path, files, words):
    for name in files:
        if name.endswith(".mp4"):
            (tmp_path / name).write_bytes(b"")
        else:
            (mask if "mask" in name else photo)(tmp_path / name)
    with pytest.raises(FewShotError, match=words):
        subject_from_folder(tmp_path, "sks", "dog")


def test_tables_of_the_top_are_of_the_repeated_folders_too(tmp_path):
    photo(tmp_path / "10_sks dog" / "a.png")
    photo(tmp_path / "2_sks dog" / "a.png")
    mask(tmp_path / "10_sks dog" / "masks" / "a.png")
    (tmp_path / "meta_cap.json").write_text(
        '{"/d/2_sks dog/a": {"caption": "two dog"}, "/d/10_sks dog/a": {"caption": "ten dog"}}'
    )
    found = subject_from_folder(tmp_path, "sks", "dog")
    assert [(s.caption, s.weight, s.mask is not None) for s in found.samples] == [
        ("two sks dog", 2, False), ("ten sks dog", 10, True),
    ]  # fmt: skip


def test_other_files_among_masks_are_named_too(tmp_path):
    written(tmp_path, {"masks/x.npy": b"", "masks/Thumbs.db": b""})
    mask(tmp_path / "masks" / "x.png")
    assert notes_of(tmp_path) == "not read: 1 hidden file (Thumbs.db), 1 cache of a trainer (x.npy)"


def test_a_date_before_a_folder_s_name_is_no_number_of_repeats(tmp_path):
    for name in ("20240115_dog/a.png", "1000_dog/b.png", "1001_dog/c.png", "x.png"):
        photo(tmp_path / name)
    notes: list[str] = []
    samples = subject_from_folder(tmp_path, "sks", "dog", warnings=notes).samples
    assert {s.image.path.name: s.weight for s in samples} == {"a.png": 1, "b.png": 1000, "c.png": 1, "x.png": 1}
    assert [note.split(":")[0] for note in notes] == ["folder 1001_dog counts once", "folder 20240115_dog counts once"]


def test_only_regular_files_are_read(tmp_path):
    """A pipe would be waited for; a link to nothing is named too."""
    written(tmp_path, {"masks/q.npy": b""})
    for name in ("x.txt", "b.jpg", "masks/y.png"):
        os.mkfifo(tmp_path / name)
    (tmp_path / "c.png").symlink_to(tmp_path / "gone.png")
    assert "4 files of no usual kind: a pipe, a device or a broken link (b.jpg, c.png, x.txt and y.png)" in notes_of(
        tmp_path
    )


def test_a_path_that_is_too_long_is_refused(tmp_path):
    for long in (tmp_path / ("a" * 5000), tmp_path / "/".join(["a" * 100] * 60)):
        with pytest.raises(FewShotError, match="there is no folder"):
            subject_from_folder(long, "sks", "dog")
