"""Masks by all names that are usual; nothing that is a mask is learned as a picture."""

import pytest
from PIL import Image, ImageFilter

from comfyui_fewshot.augmentation.folder.files import picture_files
from comfyui_fewshot.augmentation.images.load import subject_from_folder
from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.tests.augmentation.folder.drawn import mask, photo


def masks_in(folder):
    """The pictures with the names of their masks, and the notes."""
    notes: list[str] = []
    files = picture_files(folder, notes)
    found = {f.path.name: None if f.mask is None else f.mask.relative_to(folder).as_posix() for f in files}
    return found, "\n".join(notes)


NAMES = [
    "x_mask.png", "x-mask.png", "x.mask.png", "mask_x.png", "mask-x.bmp", "x-masklabel.png", "x_alpha.png",
    "x_Mask.PNG",
    "x_mask_0.png", "x_mask2.png", "x_0_mask.png", "x.png.mask.png", "x.png_mask.png", "x (mask).png", "xMask.webp",
    "maskx.png", "x_alphamask.png", "x_mask_final.png", "X-MASK.tif", "x_matte.png", "x_seg.png", "x_遮罩.png",
    "masks/x.png", "mask/X.jpg", "masks/x_mask.png", "mask_dir/x.webp", "conditioning/x.png", "segmentations/x.png",
]  # fmt: skip
BY_LOOK = ["x_m.png", "x_0.png", "binary x.png", "scan x of logo.png"]


@pytest.mark.parametrize("name", [*NAMES, *BY_LOOK])
def test_usual_names(tmp_path, name):
    for picture in ("x.png", "xy.png", "z.jpg"):
        photo(tmp_path / picture)
    mask(tmp_path / name)
    found, notes = masks_in(tmp_path)
    assert found == {"x.png": name, "xy.png": None, "z.jpg": None}
    assert (f"by name and look, in black and white alone: {name} for x.png" in notes) if name in BY_LOOK else not notes


def test_a_folder_of_all_forms(tmp_path):
    """Each of ten pictures has its mask in another form, one does not fit and one has two."""
    names = {"a": "a_mask.png", "b": "b_mask.png", "c": "c-masklabel.png", "e": "e-mask.png", "g": "g.mask.png",
             "h": "h_Mask.PNG", "i": "mask_i.png", "j": "j_alpha.png", "k": "k_mask_0.png"}  # fmt: skip
    for letter in "abcdeghijk":
        photo(tmp_path / f"{letter}.png")
    for letter, name in names.items():
        mask(tmp_path / name, {"a": "1", "b": "RGBA"}.get(letter, "L"))
    mask(tmp_path / "masks" / "a.png", left=12)
    notes: list[str] = []
    found = subject_from_folder(tmp_path, "sks", "dog", warnings=notes)
    masks = {s.image.path.stem: s.mask.path.name for s in found.samples if s.mask}
    assert len(found.samples) == 10 and masks == names
    assert notes == ["a.png has several masks: a_mask.png is used, masks/a.png is not"]


@pytest.mark.parametrize(
    ("name", "mode", "words"),
    [
        ("unknown.png", "L", "black and white alone"),
        ("unknown.jpg", "L", "black and white alone"),
        ("unknown.png", "RGBA", "black and white alone"),
        ("mask.png", "L", "its picture is not there"),
        ("q_mask.png", "L", "its picture is not there"),
        ("q-masklabel.png", "RGB", "its picture is not there"),
        ("x_mask.png", "RGB", "named as the mask of x.png, but is in colours"),
        ("masks/x.png", "RGB", "masks/x.png is not read: a mask is in white on black"),
        ("masks/q.png", "L", "masks/q.png is not read: no picture has that name"),
        ("x_depth.png", "RGB", "a control map of x.png"),
        ("x-condlabel.png", "RGB", "a control map of x.png"),
    ],
)
def test_what_belongs_to_no_picture_is_left_out_by_name(tmp_path, name, mode, words):
    photo(tmp_path / "x.png")
    photo(tmp_path / "z.png")
    mask(tmp_path / name, mode if not name.endswith("jpg") else "L")
    found, notes = masks_in(tmp_path)
    assert found == {"x.png": None, "z.png": None} and words in notes and name.rpartition("/")[2] in notes


def test_several_masks_of_one_picture_are_named(tmp_path):
    photo(tmp_path / "x.png")
    for number in range(2):
        mask(tmp_path / f"x_mask_{number}.png", left=8 + number)
    found, notes = masks_in(tmp_path)
    assert found == {"x.png": None} and "several (x_mask_0.png and x_mask_1.png); join them in one, x_mask.png" in notes
    mask(tmp_path / "x_mask_1.png", left=8)  # the same again
    assert masks_in(tmp_path) == ({"x.png": "x_mask_0.png"}, "")


def test_pictures_that_only_seem_to_be_masks(tmp_path):
    for name in ("mask_1.png", "mask 2.png", "red mask.jpg"):  # photos of a mask
        photo(tmp_path / "photos" / name)
    assert masks_in(tmp_path / "photos") == ({"mask 2.png": None, "mask_1.png": None, "red mask.jpg": None}, "")
    photo(tmp_path / "ink" / "x.png")
    mask(tmp_path / "ink" / "drawing.png")
    (tmp_path / "ink" / "drawing.txt").write_text("an ink drawing of a dog")
    assert masks_in(tmp_path / "ink") == ({"drawing.png": None, "x.png": None}, "")
    for number in range(2):
        mask(tmp_path / "all" / f"{number}.png", left=8 + number)
    found, notes = masks_in(tmp_path / "all")
    assert found == {"0.png": None, "1.png": None} and "all pictures are in black and white alone" in notes


def test_a_picture_is_never_its_own_mask(tmp_path):
    for name in ("x.png", "z.png"):
        photo(tmp_path / name)
        with Image.open(tmp_path / name) as picture:
            picture.convert("L").save(tmp_path / name)
    (tmp_path / "masks").symlink_to(tmp_path, target_is_directory=True)
    found, notes = masks_in(tmp_path)
    assert found == {"x.png": None, "z.png": None} and "masks/x.png and z.png are not read as a mask" in notes


def test_masks_alone_are_no_pictures(tmp_path):
    for name in ("a_mask.png", "b_mask.png"):
        mask(tmp_path / name)
    with pytest.raises(FewShotError, match="no pictures in .*, only masks: a_mask.png"):
        subject_from_folder(tmp_path, "sks", "dog")


def test_a_mask_of_label_numbers_is_named(tmp_path):
    photo(tmp_path / "x.png")
    mask(tmp_path / "x_mask.png", value=1)
    notes: list[str] = []
    (sample,) = subject_from_folder(tmp_path, "sks", "dog", warnings=notes).samples
    assert sample.mask is None and "nearly black (1 of 255)" in notes[0]


def test_a_soft_mask_is_known_by_look_and_name(tmp_path):
    photo(tmp_path / "x.png")
    mask(tmp_path / "x_fg.png")
    with Image.open(tmp_path / "x_fg.png") as shape:
        soft = shape.filter(ImageFilter.BoxBlur(1))
    soft.save(tmp_path / "x_fg.png")
    found, notes = masks_in(tmp_path)
    assert found == {"x.png": "x_fg.png"} and "x_fg.png for x.png" in notes
    (tmp_path / "x_fg.png").unlink()
    for name in ("x_mask.png", "mask_x.png"):
        soft.save(tmp_path / name)
        assert masks_in(tmp_path) == ({"x.png": name}, "")
        (tmp_path / name).unlink()


def grey(file):
    photo(file)
    with Image.open(file) as picture:
        picture.convert("L").save(file)


@pytest.mark.parametrize(
    ("picture", "other", "draw"),
    [
        ("dog.jpg", "dog_silhouette.png", mask), ("1.jpg", "1_logo.png", mask), ("dog.jpg", "dog-logo.png", mask),
        ("romeo.jpg", "alpha_romeo.jpg", grey), ("cat.jpg", "mask cat.jpg", grey), ("dog.jpg", "dog_normal.jpg", photo),
        ("cat.jpg", "cat_mask.jpg", photo), ("dog.jpg", "dog-mask.jpg", grey), ("x.png", "mask_x.png", mask),
    ],
)  # fmt: skip
@pytest.mark.parametrize("ending", [".txt", ".caption"])
def test_a_caption_of_its_own_makes_a_picture(tmp_path, picture, other, draw, ending):
    photo(tmp_path / picture)
    draw(tmp_path / other)
    (tmp_path / other).with_suffix(ending).write_text("a dog")
    found, notes = masks_in(tmp_path)
    assert found == {picture: None, other: None}
    assert (f"{other} is used as a picture" in notes and f"looks like a mask of {picture}" in notes) == (draw is mask)
    assert notes.count("\n") == 0
    (tmp_path / other).with_suffix(ending).write_text("")
    without = masks_in(tmp_path)
    assert without[0] != found or draw is grey


def test_a_plain_mask_that_a_program_captioned_stays_one(tmp_path):
    photo(tmp_path / "x.png")
    mask(tmp_path / "x_mask.png")
    (tmp_path / "x_mask.txt").write_text("white square, simple background")
    found, notes = masks_in(tmp_path)
    assert found == {"x.png": "x_mask.png"} and "x_mask.txt is not read" in notes


@pytest.mark.parametrize("name", ["mask_dancer.png", "alpha dancer.png", "maskdancer.png"])
def test_a_grey_photo_with_a_mask_s_word_in_front_is_a_picture(tmp_path, name):
    photo(tmp_path / "dancer.png")
    grey(tmp_path / name)
    found, notes = masks_in(tmp_path)
    assert found == {"dancer.png": None, name: None} and f"{name} is used as a picture" in notes
