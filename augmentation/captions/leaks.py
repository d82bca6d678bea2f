"""Words that describe how two things relate: prepositions, verbs of posture, support and contact, and their forms."""

from __future__ import annotations

from functools import cache

# The 56 words for relations of ReVersion (Huang et al. 2023).
RELATION_WORDS = frozenset(
    "aboard about above across after against along alongside amid amidst among amongst anti around astride at atop "
    "before behind below beneath beside between beyond by down following from in including inside into near of off on "
    "onto opposite out outside over past regarding round through throughout to toward towards under underneath up upon "
    "versus with within".split()
)
PREPOSITIONS = RELATION_WORDS | frozenset("besides next per via without".split())

# Prepositions that are adjectives before a noun: "a round table".
ADJECTIVE_PREPOSITIONS = frozenset(("round",))

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
# Bare verb forms that are also nouns ("a top hat"): only their other forms describe a relation.
NOUN_FORMS = frozenset(
    "face top set pin fit print paint lay press seat rest stand position cover place tie sleep nap snooze".split()
)
# Participles that are also nouns, where no other noun precedes them: "the stand <R> a painting".
NOUN_PARTICIPLES = frozenset("painting carving engraving etching wrapping covering hanging".split())
AUXILIARIES = frozenset("am is are was were be been being has have had does did".split())


def inflected(verb: str) -> frozenset[str]:
    """A verb's forms: sit, sits, sitting, seated, sat."""
    forms = {verb, verb + ("es" if verb.endswith(("s", "sh", "ch", "x")) else "s")}
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
        forms.add(verb + "d")
    forms |= {stem + ending for stem in stems for ending in ("ing", "ed")}
    if verb.endswith("y") and verb[-2] not in "aeiou":
        forms |= {verb[:-1] + "ies", verb[:-1] + "ied"}
    return frozenset(forms) | frozenset(IRREGULAR.get(verb, ()))


@cache
def _relation_verbs() -> frozenset[str]:
    every = frozenset(form for verb in LEAK_VERBS for form in inflected(verb))
    plural = {noun + "s" for noun in NOUN_FORMS}
    return (every | {"seated", "atop", "together"}) - NOUN_FORMS - plural


def is_relation_verb(word: str) -> bool:
    """Whether `word` is a form of a verb that describes how two things relate."""
    return word in _relation_verbs()


@cache
def _participles() -> frozenset[str]:
    """Participles and past forms: many of the other forms are nouns ("a bird <R> a nest")."""
    bare = {form for verb in LEAK_VERBS for form in (verb, verb + "s", verb + "es")}
    return _relation_verbs() - bare


def is_participle(word: str) -> bool:
    """Whether `word` is a participle or past form of such a verb, as "sitting", "perched" and "sat" are."""
    return word in _participles()


def base_form(word: str) -> str:
    """The verb a form belongs to, as far as spelling and the lists here allow."""
    for verb in LEAK_VERBS:
        if word in inflected(verb):
            return verb
    for ending in ("ing", "ed", "s"):
        if word.endswith(ending) and len(word) > len(ending) + 2:
            stem = word[: -len(ending)]
            return stem[:-1] if len(stem) > 2 and stem[-1] == stem[-2] else stem
    return word
