"""Words that tell how two things relate: prepositions, verbs of posture, support and contact, and their forms."""

from __future__ import annotations

from functools import cache

RELATION_WORDS = frozenset(
    "aboard about above across after against along alongside amid amidst among amongst anti around astride at atop "
    "before behind below beneath beside between beyond by down following from in including inside into near of off on "
    "onto opposite out outside over past regarding round through throughout to toward towards under underneath up upon "
    "versus with within".split()
)
"""the 56 words for relations of ReVersion (Huang et al. 2023)"""

PREPOSITIONS = RELATION_WORDS | frozenset("besides next per via without".split())

ROUND = frozenset(("round",))
"""prepositions that are adjectives where they stand before a noun: "a round table" """

LEAK_VERBS = (
    "sit perch rest stand lie lay hang lean support hold wrap paint carve hug ride contain attach place mount "
    "balance embrace grip clasp clutch cling climb crouch curl drape dangle embed enclose fasten float hover glue "
    "grasp kiss lounge nest nestle pin pose print engrave etch recline seat settle shake sleep snuggle squat stack "
    "stick straddle surround suspend swing tie touch carry wear bind cover press push pull put set situate position "
    "locate leap jump kneel rub saddle face crawl fit fill top relax doze snooze nap occupy".split()
)
IRREGULAR = {
    "sit": ("sat",),
    "stand": ("stood",),
    "lie": ("lay", "lain", "lying"),
    "lay": ("laid",),
    "hang": ("hung",),
    "hold": ("held",),
    "ride": ("rode", "ridden"),
    "cling": ("clung",),
    "stick": ("stuck",),
    "swing": ("swung",),
    "bind": ("bound",),
    "shake": ("shook", "shaken"),
    "sleep": ("slept", "asleep"),
    "tie": ("tying",),
    "wear": ("wore", "worn"),
    "kneel": ("knelt",),
    "leap": ("leapt",),
    "lean": ("leant",),
}
NOUNS_TOO = frozenset(
    "face top set pin fit print paint lay press seat rest stand position cover place tie sleep nap snooze".split()
)
"""bare forms that name things and looks ("a top hat"), so that only their other forms tell a relation"""
THINGS_TOO = frozenset("painting carving engraving etching wrapping covering hanging".split())
"""other forms that name things, where no thing is named before them: "the stand <R> a painting" """
AUXILIARIES = frozenset("am is are was were be been being has have had does did".split())


def inflected(verb: str) -> frozenset[str]:
    """A verb's forms: sit, sits, sitting, seated, sat."""
    found = {verb, verb + ("es" if verb.endswith(("s", "sh", "ch", "x")) else "s")}
    short = (
        len(verb) > 2
        and verb[-1] not in "aeiouwxy"
        and verb[-2] in "aeiou"
        and verb[-3] not in "aeiou"
        and len(verb) < 5
    )
    stems = {verb + verb[-1]} if short else {verb}
    if verb.endswith("e"):
        stems = {verb[:-1]}
        found.add(verb + "d")
    found |= {stem + ending for stem in stems for ending in ("ing", "ed")}
    if verb.endswith("y") and verb[-2] not in "aeiou":
        found |= {verb[:-1] + "ies", verb[:-1] + "ied"}
    return frozenset(found) | frozenset(IRREGULAR.get(verb, ()))


@cache
def _leaks() -> frozenset[str]:
    every = frozenset(form for verb in LEAK_VERBS for form in inflected(verb))
    plural = {noun + "s" for noun in NOUNS_TOO}
    return (every | {"seated", "atop", "together"}) - NOUNS_TOO - plural


def leak_verb(word: str) -> bool:
    """Whether `word` is a form of a verb that tells how two things relate."""
    return word in _leaks()


@cache
def _doing() -> frozenset[str]:
    """Participles and past forms: of the others many name things ("a bird <R> a nest")."""
    bare = {form for verb in LEAK_VERBS for form in (verb, verb + "s", verb + "es")}
    return _leaks() - bare


def doing(word: str) -> bool:
    """Whether `word` is a participle or past form of such a verb, as "sitting", "perched" and "sat" are."""
    return word in _doing()


def base_form(word: str) -> str:
    """The verb a form belongs to, as far as spelling and the lists here tell."""
    for verb in LEAK_VERBS:
        if word in inflected(verb):
            return verb
    for ending in ("ing", "ed", "s"):
        if word.endswith(ending) and len(word) > len(ending) + 2:
            stem = word[: -len(ending)]
            return stem[:-1] if len(stem) > 2 and stem[-1] == stem[-2] else stem
    return word
