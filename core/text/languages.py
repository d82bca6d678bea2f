"""How likely a text is in the languages that captions are written in: what tells the encodings of a text apart.

Every language is a table of its characters, the frequent ones first, as they stand in descriptions of pictures. What a
table lacks is rare (a character of the first level of a national standard) or hardly ever written (any other).
"""

from __future__ import annotations

import math
import re
import unicodedata
from dataclasses import dataclass
from functools import cache

_SIMPLIFIED = (
    "的一在人上女色有着红白黑个穿子头发手小大狗猫和不天地是了里下中前后长花眼蓝草绿黄灰粉紫棕橙金银站坐走跑跳躺看"
    "背景照片图像张只条件衣服裙裤鞋帽包袋车房屋"
    "门窗墙树木石山水海河湖沙滩云雪雨风日月星光夜晚早晨城市街道路旁边面桌椅床杯瓶盘玩具熊毛绒动物鸟鱼马牛羊鸡鸭兔"
    "龙男孩儿童老年轻美丽可爱笑脸身体腿脚肩胸腰臂指"
    "唇鼻耳嘴牙皮肤表情微睛镜戴拿抱握吃喝睡飞起来去出入过向对与及或为以这那其它他她们我你特写近远全半正侧方左右高"
    "低深浅明暗亮清新旧古现代格画摄影室内外户森林园"
    "公田野场建筑桥塔楼店铺商书本电脑机灯火食苹果蛋糕咖啡茶酒米饭肉菜两三四五六七八九十多少名位开关时间东西南北会"
    "说生活学校工作家国心姑娘少先士西装领带"
)
_TRADITIONAL = _SIMPLIFIED.translate(
    str.maketrans(
        "着红个头发后长蓝绿黄银图张只条裤车门墙树滩云风边盘动鸟鱼马鸡鸭龙儿轻丽爱脸体脚镜飞来过对与为这们写远侧浅旧现"
        "摄画园场筑桥楼铺书电脑机灯苹饭里猫两开关"
        "时间东会说学国装领带脚睛",
        "著紅個頭髮後長藍綠黃銀圖張隻條褲車門牆樹灘雲風邊盤動鳥魚馬雞鴨龍兒輕麗愛臉體腳鏡飛來過對與為這們寫遠側淺舊現"
        "攝畫園場築橋樓鋪書電腦機燈蘋飯裡貓兩開關"
        "時間東會說學國裝領帶腳睛",
    )
)
_KANJI = (
    "人女子犬猫白黒赤青緑黄色大小中上下前後手目髪服着物座立歩走見背景花草木山海空雪雨夜日月光街道家部屋窓机椅本車"
    "男少年外内室写真一二三四五六七八九十長短茶金銀紫"
    "桃笑顔体足肩胸腰腕指耳口鼻毛鳥魚馬牛動公園森林川湖石砂浜店駅東京古新時計食器皿瓶杯紅水制帽靴袋持抱寝飲遊飛正"
    "横向左右高低近遠明暗美可愛綺麗若老母父親友達私"
    "何生学校先行来出入間分今気会的風絵画像撮影辺城市建橋塔電灯火雲晴朝夕"
)
_HIRAGANA = (
    "のいにがるはてたをとしっなでりかきうらあこまんれさくすもえけそつちおみめよやだどせわろじびげばぎゃずょごほひ"
    "ふむゆへぼぶべぐねつぬぱぺぴぷぽづざぜぞ"
)
_KATAKANA = (
    "ーンスルトラクイッドリアフシレジタプロカコマバテブデウサグパベセネキメノムニハピオナチモソワダポエヤミボャュ"
    "ビツギケヘゴホユヒガズヨェョゲィァヴザペゼォヌ"
)
_HANGUL = (
    "이다는에의가고하을를있은위로한개양강아지여자소녀남년빨간파란하얀검노초록색배경서앉사진집바닥잔디눈속해변물하"
    "늘나무꽃산길도시밤낮옷입웃머리카락긴짧큰작귀운컵테블"
    "책상창문방안밖실외야숲공원인형장난감곰마풀밭들그림스타일름얼굴손발모습과와보기니까만라어오음으전화차동건거햇"
    "빛구름비피탁두세네흰갈회람포즈"
)
_ALPHABETS = {
    "Russian": "оеаинтсрвлкмдпуяыьгзбчйхжшюцщэфъё",
    "Ukrainian": "оаинвіетрскдлмупяьзгбйчхцїжєшюфщґ",
    "Greek": "αοιετσνηυρπκμλςόίάωέδγχύθφβήώξζψϊϋΐΰ",
    "Hebrew": "יוהלאתמרשבנםדחעקפכגןטסצזךףץ",
    "Arabic": "اليمنورتبةدعفسهحكقجأشصطخزضغذىثئإءظؤآ",
    "Thai": "านรกอเงมยวลดทส่้ตะัปิีบคหจพชขใไุู์โถผซณึื็ธภศำแ",
}
_VOWELS = {"Russian": "аеёиоуыэюя", "Ukrainian": "аеєиіїоуюя"}
_AFTER = {"й": True, "ы": False, "ь": False, "ъ": False}  # whether a vowel stands before it
# Letters beyond a to z with their share of the text in thousandths, and words that no text is without.
_LATIN = {
    "English": (
        "é:.05 ï:.02 ö:.01 ñ:.01",
        "a an the of on in with and is at photo by to her his from under",
    ),
    "French": (
        "é:19 à:5 è:4 ê:2 ç:1 ù:.6 â:.6 î:.5 ô:.5 û:.4 ë:.2 œ:.3 ï:.3 ü:.05 ÿ:.01 æ:.01",
        "un une le la les de des du et sur dans avec au en qui est dans près sous photo à",
    ),
    "German": (
        "ü:6 ä:5 ö:3 ß:3",
        "ein eine einen einem einer der die das und auf im mit über von vor den dem in ist foto",
    ),
    "Spanish": (
        "ó:8 í:7 á:5 é:4 ñ:3 ú:2 ü:.2 ¿:.5 ¡:.5",
        "un una el la los las de en con y sobre del junto al es foto",
    ),
    "Portuguese": (
        "ã:7 ç:5 á:5 é:5 ó:3 ê:4 í:3 õ:2 ú:2 â:2 à:1 ô:1 ü:.1",
        "um uma o a os as de em com e sobre do da no na foto",
    ),
    "Italian": (
        "è:4 à:3 ù:1.5 ò:2 ì:1 é:1",
        "un una il la lo gli di e con su sul in che foto",
    ),
    "Nordic": (
        "å:12 ä:14 ö:12 ø:9 æ:8 é:.5 ð:2 þ:1",
        "en ett et och og på med i som den det av foto",
    ),
    "Polish": (
        "ł:18 ą:10 ę:11 ó:9 ż:8 ś:7 ć:4 ń:2 ź:1",
        "w na z i się jest do pod obok przy",
    ),
    "Czech": (
        "á:22 í:30 é:13 ě:15 ř:12 č:10 š:8 ž:10 ý:10 ů:6 ú:2 ň:1 ť:.4 ď:.3 ľ:1 ĺ:.3 ô:1 ä:.5",
        "na v a s se je před pod u",
    ),
    "Hungarian": (
        "á:35 é:35 ö:10 ó:10 ő:10 ü:6 í:6 ú:3 ű:2",
        "a az egy és van",
    ),
    "Turkish": (
        "ı:50 ü:18 ş:18 ç:11 ğ:11 ö:8 İ:1 â:.3",
        "bir ve üzerinde ile",
    ),
}
_MARKS = {
    "’": 2, "‘": 0.5, "“": 2, "”": 2, "–": 2, "—": 2, "…": 1, "«": 1, "»": 1, "„": 1, "·": 0.05, "°": 1, "\xa0": 0.3,
    "€": 0.3, "×": 0.1, "£": 0.1, "½": 0.1, "²": 0.1, "®": 0.02, "©": 0.02, "™": 0.02, "№": 0.1, "´": 0.02, "•": 0.2,
}  # fmt: skip
_OPENING = "„“«¿¡"
_FINAL = "ךםןףץς"  # forms of letters at the end of words
_WIDE_MARKS = "，。、！？：；「」『』《》（）…—“”‘’・　～【】"
# Natural logarithms of shares of a text.
_LETTER, _SPACE, _DIGIT, _PUNCTUATION, _BREAK = (math.log(p) for p in (1 / 30, 1 / 8, 1 / 80, 1 / 60, 1 / 80))
_RARE, _SECOND, _HARDLY, _NEVER = math.log(7e-5), math.log(2e-6), math.log(1e-7), math.log(1e-20)
_ODD = math.log(1e-3)  # ASCII that stands in few descriptions
_SOUNDING, _CLUSTERED = math.log(0.72 / 0.49), math.log(0.28 / 0.51)  # in words, and among letters by chance
_MIXED, _CAPITAL, _CAPITAL_INSIDE, _KNOWN_WORD = math.log(1e-4), math.log(0.05), math.log(1e-4), math.log(30)


@dataclass(frozen=True)
class Language:
    """`frequent`: logarithms of shares by lower-case character. `level` names the standard whose first level is rare
    but written; letters of `latin` languages stand in words beside a to z, others do not. `vowels` tell words
    from letters in a row: capitals of one encoding are the small letters of another."""

    name: str
    frequent: dict[str, float]
    level: str = ""
    latin: bool = False
    vowels: str = ""
    words: frozenset[str] = frozenset()


def _ranked(characters: str, mass: float, flat: int) -> dict[str, float]:
    """Shares that fall with the rank r as 1 / (r + flat), Zipf's law, and add up to `mass`."""
    order = list(dict.fromkeys(characters))
    total = sum(1 / (rank + flat) for rank in range(1, len(order) + 1))
    return {char: math.log(mass / total / (rank + flat)) for rank, char in enumerate(order, 1)}


def _thousandths(shares: str) -> dict[str, float]:
    return {pair[0]: math.log(float(pair[2:]) / 1000) for pair in shares.split()}


@cache
def languages() -> dict[str, Language]:
    """All known languages by their names."""
    found = [
        Language("Simplified Chinese", _ranked(_SIMPLIFIED, 0.6, 20), "gb2312"),
        Language("Traditional Chinese", _ranked(_TRADITIONAL, 0.6, 20), "big5"),
        Language(
            "Japanese",
            _ranked(_HIRAGANA, 0.4, 8) | _ranked(_KATAKANA, 0.2, 8) | _ranked(_KANJI, 0.25, 20),
            "shift_jis",
        ),
        Language("Korean", _ranked(_HANGUL, 0.7, 20), "euc_kr"),
        *(
            Language(name, _ranked(letters, 0.9, 6), vowels=_VOWELS.get(name, ""))
            for name, letters in _ALPHABETS.items()
        ),
        *(
            Language(name, _thousandths(shares), latin=True, words=frozenset(words.split()))
            for name, (shares, words) in _LATIN.items()
        ),
    ]
    return {language.name: language for language in found}


# The rows of each standard that hold its frequent characters, as its two-byte codes.
_FIRST_LEVEL = {
    "gb2312": (0xB0A1, 0xD7F9), "big5": (0xA440, 0xC67E), "shift_jis": (0x889F, 0x9872), "euc_kr": (0xB0A1, 0xC8FE),
}  # fmt: skip


@cache
def _code(char: str, standard: str) -> int:
    """The number of a character in a standard; 0 where it is none of its letters."""
    try:
        return int.from_bytes(char.encode(standard), "big") if char.isalpha() else 0
    except UnicodeEncodeError:
        return 0


def log_likelihood(text: str, language: Language) -> float:
    """The logarithm of how likely `text` is in `language`, character by character; case and script follow words."""
    total, before = 0.0, ""
    for char in text:
        total += _share(char, language) + _joint(before, char, language)
        before = char
    if language.words:
        total += _KNOWN_WORD * sum(word in language.words for word in re.findall(r"[^\W\d_]+", text.lower()))
    return total


def _share(char: str, language: Language) -> float:
    if char.isascii():
        if char.isalpha():
            return _LETTER + (_CAPITAL if char.isupper() else 0)
        if char in "\n\r\t":
            return _BREAK
        return _SPACE if char == " " else _DIGIT if char.isdigit() else _PUNCTUATION if char in ",.-'()_:" else _ODD
    lower = char.lower()
    if lower in language.frequent:
        return language.frequent[lower] + (_CAPITAL if char != lower else 0)
    if language.level:
        if char in _WIDE_MARKS:
            return math.log(1 / 300)
        code = _code(char, language.level)
        first, last = _FIRST_LEVEL[language.level]
        return _HARDLY if not code else _RARE if first <= code <= last else _SECOND
    if char in _MARKS:
        return math.log(_MARKS[char] / 1000)
    return _HARDLY if char.isalpha() or "\u2600" <= char <= "\u27bf" or char >= "\U0001f000" else _NEVER  # emoji


def _joint(before: str, char: str, language: Language) -> float:
    """What two neighbours add: a capital after a small letter, and letters of two alphabets, stand in no word."""
    if before == "\r" and char != "\n":
        return _MIXED
    if _is_letter(before) and char in _OPENING or not _is_letter(before) and unicodedata.category(char) == "Mn":
        return _MIXED  # what opens a word within one, and a mark above nothing
    if not (_is_letter(before) and _is_letter(char)):
        return 0.0
    is_odd = before in _FINAL or (before.islower() and char.isupper())
    mixed = before.isascii() != char.isascii() and not language.latin
    again = (-1.0 if language.vowels else -0.6) * _CAPITAL if before.isupper() and char.isupper() else 0.0
    sound = 0.0 if char.isascii() or not language.vowels else _sound(before.lower(), char.lower(), language.vowels)
    return again + sound + _CAPITAL_INSIDE * is_odd + _MIXED * mixed * (0.25 if language.level else 1)


def _sound(before: str, letter: str, vowels: str) -> float:
    """What it adds whether vowels and consonants take turns, as in words they mostly do."""
    if letter in _AFTER:
        return 0.0 if _AFTER[letter] == (before in vowels) else _ODD
    return _SOUNDING if (before in vowels) != (letter in vowels) else _CLUSTERED


def _is_letter(char: str) -> bool:
    """Whether `char` is a letter or a mark above or below one."""
    return bool(char) and unicodedata.category(char)[0] in "LM"


def is_text(text: str) -> bool:
    """Whether `text` has no controls but breaks, nothing unassigned or private, and no surrogates."""
    return all(char in "\n\r\t\f" or unicodedata.category(char) not in ("Cc", "Cn", "Co", "Cs") for char in text)
