"""Text files of people: the encoding is known, or said to be unknown; never letters that nobody wrote."""

import codecs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.core.text.decoding import decoded, read_text, usual_encoding

SHORT = {
    ("gb18030", "utf-16-le", "utf-16-be"): [
        "一只狗在草地上", "狗", "白色的猫", "一个女孩站在海边，穿着红色裙子", "sks 狗", "玩具熊",
        "1girl, 单人, 长发, 微笑", "证件照", "三五", "上河",
    ],
    ("big5", "gb18030", "utf-16-le", "utf-16-be"): ["一隻狗在草地上", "白色的貓", "紅色背包", "穿著裙子的女人"],
    ("shift_jis", "utf-16-le", "utf-16-be"): [
        "犬が草の上にいる", "女の子のぬいぐるみ", "sks 犬", "テーブルの上のカップ", "猫, 屋外, 草",
        "東京の夜景", "ロボット",
    ],
    ("euc_jp", "iso2022_jp"): ["犬が草の上にいる", "黒猫がソファに座っている"],
    ("euc_kr", "utf-16-le", "utf-16-be"): ["잔디 위의 개", "개", "하얀 고양이", "sks 강아지", "웃고 있는 여자", "로봇"],
    ("cp1251", "utf-16-le"): ["собака на траве", "кот", "sks собака", "Чёрный кот сидит на диване", "море", "дівчина"],
    ("koi8_r", "cp866"): ["собака на траве", "Белая кошка сидит на диване"],
    ("cp1252", "utf-16-le"): [
        "Ein Hund läuft über die Straße", "Tür", "un chien très drôle", "été", "photo d’un sks chien", "garçon", "año",
        "un niño en la playa", "um cão na praia", "en hund på gräset", "a dog’s “red” ball", "café",
    ],
    ("cp1252",): [
        "sks dog, photo © John Smith 2023", "dog, 50 µm", "50 °C", "dog at 20°", "toy™ dog", "Nike® shoe", "Nike®",
        "dog — running", "dog – running", "word—word", "dog • ball", "a cat · a dog", "£20", "5€", "5 €", "€5", "£2",
        "1939–1945", "3×4", "3 × 4", "½ cup", "1½ cups", "20 m² room", "wait…", "it’s a dog", "dogs’ ball",
        "“red” ball", "a “red dog”, running", "the ‘red’ dog", "« red » dog", "a 5” toy", "©2023", "© 2023 Smith",
        "café – dog", "Köln – Hund", "un chien à 20 °C", "naïve dog © Smith", "à la plage — été",
    ],
    ("cp1250", "utf-16-be"): ["żółty pies na trawie", "pes běží na trávě"],
    ("cp1253", "utf-16-be"): ["ένας σκύλος στο γρασίδι"],
    ("utf-32-le", "utf-32-be"): ["一只狗", "a dog"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("code", "text"), [(code, text) for codes, texts in SHORT.items() for code in codes for text in texts]
)
def test_short_captions(code, text):
    found = decoded(text.encode(code), "a.txt")
    assert found.text == text and found.note.startswith("read as ")
    assert decoded(text.encode(), "a.txt") == decoded(b"\xef\xbb\xbf" + text.encode(), "a.txt")


@pytest.mark.parametrize(
    "text", ["sks dog", "1girl, solo, long_hair", "(smile:1.2)", "p3rs0n", "TOK", "IMG_1234", "犬"]
)
def test_utf8_is_taken_as_it_is(text):
    assert decoded(text.encode(), "a.txt") == decoded(codecs.BOM_UTF8 + text.encode(), "a.txt")
    assert decoded(text.encode(), "a.txt").text == text and not decoded(text.encode(), "a.txt").note
    for code in ("utf-16", "utf-32"):  # with a byte order mark
        assert decoded(text.encode(code), "a.txt").text == text


def test_characters_that_were_lost_before_are_named():
    assert decoded("a \ufffd\ufffd dog".encode(), "a.txt").note == "2 characters in it lost before it was saved"


@pytest.mark.parametrize("raw", [b"a dog\0 on grass", b"a dog on grass\0", b"\0a dog on grass\0\0"])
def test_zero_bytes_are_left_out_and_named(raw):
    found = decoded(raw, "a.txt")
    assert found.text == "a dog on grass" and "zero byte" in found.note


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"\x89PNG\r\n\x1a\n" + bytes(30), "no text but a PNG picture"),
        (b"PK\x03\x04word/document.xml", "no text but a ZIP archive"),
        (b"{\\rtf1\\ansi a dog}", "an RTF document"),
        (bytes(range(256)), "holds binary data"),
        (b"\x81\x20\x8d\xff\x90\x05" * 9, "no text: it holds binary data"),
        ("一只狗在草地上".encode()[:-1], "is UTF-8 up to byte 18 of 20"),
        ("café".encode() + "é".encode("cp1252"), "is UTF-8 up to byte"),
        (b"\xff\xfea\0 \0d", "begins as UTF-16 and is none at byte 6"),
        ("故宫".encode("gbk"), r"several encodings \(tried: UTF-8, .*GB18030.*Shift-JIS.*Windows-1252"),
    ],
)
def test_what_is_unknown_is_refused_by_name(raw, words, tmp_path):
    (tmp_path / "a.txt").write_bytes(raw)
    with pytest.raises(FewShotError, match=f"^a.txt .*{words}"):
        read_text(tmp_path / "a.txt")


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"a" * 100)
    with pytest.raises(FewShotError, match="a.txt has 0 MB"):
        read_text(tmp_path / "a.txt", most=99)
    assert read_text(tmp_path / "a.txt").text == "a" * 100


def test_a_long_text_is_known_by_its_first_letters_beyond_ascii():
    text = "a dog on grass, " * 400 + "un château près de la forêt"
    assert decoded(text.encode("cp1252"), "a.txt").text == text


def test_the_texts_of_a_folder_tell_together(tmp_path):
    """Of short ones each alone may be several encodings."""
    texts = ["故宫", "柴犬", "模型", "仓鼠", "弓箭"]
    files = [tmp_path / f"{number}.txt" for number in range(len(texts))]
    for file, text in zip(files, texts, strict=True):
        file.write_bytes(text.encode("gbk"))
        with pytest.raises(FewShotError, match="several encodings"):
            read_text(file)
    (tmp_path / "plain.txt").write_text("a dog")
    usual = usual_encoding([*files, tmp_path / "plain.txt", tmp_path / "gone.txt"])
    assert usual == "GB18030" and [read_text(file, usual=usual).text for file in files] == texts
    assert usual_encoding(files[:1]) == usual_encoding([tmp_path / "plain.txt"]) == "", "one says nothing of itself"
    other = "犬が草の上にいる".encode("cp932")
    assert decoded(other, "a.txt", usual).encoding == "Shift-JIS"


@given(st.binary(max_size=40))
def test_any_bytes_are_text_or_refused(raw):
    try:
        found = decoded(raw, "a.txt")
    except FewShotError as error:
        assert str(error).startswith("a.txt ")
    else:
        assert "\0" not in found.text and found.encoding and (found.note or "\ufffd" not in found.text)


@pytest.mark.parametrize("code", ["koi8_r", "cp1251", "cp866"])
@pytest.mark.parametrize("text", ["ш", "sks л", "sks dog, ы", "Я sks dog on the grass"])
def test_one_letter_of_an_alphabet_tells_no_encoding(code, text):
    with pytest.raises(FewShotError, match="^a.txt .*save it as UTF-8"):
        decoded(text.encode(code), "a.txt")


def test_the_other_texts_of_a_folder_tell_the_encoding_of_one_letter():
    assert decoded("sks л".encode("cp1251"), "a.txt", "Windows-1251").text == "sks л"


@pytest.mark.parametrize(
    "text",
    ["СОБАКА НА ТРАВЕ", "КРАСНАЯ МАШИНА У ДОМА", "ПОРТРЕТ ДЕВУШКИ", "ДЕВУШКА", "КОТ СПИТ НА ДИВАНЕ", "МЕДВЕДЬ", "НЕБО"],
)
def test_russian_in_capitals_is_never_the_small_letters_of_another_encoding(text):
    """What is capitals in Windows-1251 is small letters in KOI8-R."""
    try:
        assert decoded(text.encode("cp1251"), "a.txt").text == text
    except FewShotError as error:
        assert "save it as UTF-8" in str(error)


def test_ukrainian_of_koi8():
    assert decoded("собака сидить на траві".encode("koi8_u"), "a.txt").text == "собака сидить на траві"
