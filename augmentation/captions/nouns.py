"""Some three hundred nouns and what they are, for captions at another level of detail ("cat" -> "animal")."""

from __future__ import annotations

from functools import cache

from ...core.text.words import find_word
from .parse import position_of, singular, words

KINDS = {
    "animal": "cat dog bird fish horse cow sheep goat pig rabbit hamster mouse rat squirrel fox wolf bear lion tiger "
    "leopard elephant giraffe zebra monkey gorilla panda koala kangaroo deer moose camel donkey frog toad lizard snake "
    "turtle tortoise crocodile penguin owl eagle parrot pigeon crow swan duck goose chicken rooster turkey flamingo "
    "seal whale dolphin shark octopus crab lobster snail butterfly bee beetle spider ant kitten puppy pony lamb otter "
    "raccoon hedgehog bat sparrow corgi poodle terrier",
    "person": "man woman boy girl child baby lady gentleman teacher doctor nurse chef soldier dancer singer king queen "
    "knight farmer sailor pirate astronaut athlete student",
    "furniture": "chair table stool bench sofa couch armchair desk bed shelf bookshelf wardrobe dresser crib "
    "ottoman nightstand",
    "vessel": "cup mug glass bowl pot vase bottle jar pitcher jug teapot kettle pan basin bucket barrel",
    "container": "box basket bag backpack suitcase crate trunk chest drawer wallet purse pouch can tin",
    "vehicle": "car bus truck van taxi bicycle bike motorbike motorcycle scooter train tram tractor wagon cart",
    "boat": "canoe kayak ship sailboat ferry yacht raft",
    "aircraft": "airplane plane helicopter balloon glider drone",
    "building": "house tower castle church barn hut cabin temple lighthouse bridge skyscraper garage shed windmill",
    "plant": "tree bush flower rose tulip sunflower cactus fern ivy bonsai daisy orchid lily",
    "fruit": "apple banana orange pear peach grape strawberry cherry lemon lime melon watermelon pineapple mango plum",
    "vegetable": "carrot potato tomato cucumber pumpkin onion pepper cabbage broccoli corn eggplant mushroom",
    "food": "bread cake cookie pizza sandwich burger sushi rice soup salad cheese egg pie doughnut pancake",
    "garment": "shirt dress coat jacket hat cap scarf sock glove skirt sweater hoodie vest trousers boot shoe sneaker",
    "toy": "doll teddy robot plushie plush ball kite puppet dinosaur figurine lego puzzle teddybear",
    "instrument": "guitar piano violin drum trumpet flute harp cello saxophone accordion",
    "device": "phone laptop computer camera television radio clock watch lamp keyboard printer speaker tablet",
    "tool": "hammer saw wrench screwdriver drill axe shovel rake scissors knife ladder brush",
    "utensil": "spoon fork plate tray ladle whisk chopstick",
    "material": "wall stone rock paper canvas wood brick leaf board fence rug carpet blanket towel pillow curtain",
}

SYNONYMS = {
    "sofa": ("couch",), "couch": ("sofa",), "cup": ("mug",), "mug": ("cup",), "bike": ("bicycle",),
    "bicycle": ("bike",), "plane": ("airplane",), "airplane": ("plane",), "motorbike": ("motorcycle",),
    "motorcycle": ("motorbike",), "rock": ("stone",), "stone": ("rock",), "rug": ("carpet",), "carpet": ("rug",),
    "ship": ("boat",), "plushie": ("plush toy",), "television": ("TV",), "bush": ("shrub",), "rabbit": ("bunny",),
    "purse": ("handbag",), "trousers": ("pants",), "sneaker": ("trainer",), "donkey": ("burro",), "pitcher": ("jug",),
    "jug": ("pitcher",), "teddy": ("teddy bear",), "automobile": ("car",), "backpack": ("rucksack",),
}  # fmt: skip


# Other words for a kind, by which a caption may name a thing again.
ALSO = {
    "animal": "pet creature beast feline canine critter kitty", "furniture": "seat seating", "person": "human",
    "vehicle": "automobile",
}  # fmt: skip


@cache
def _kind_by_noun() -> dict[str, str]:
    return {noun: kind for kind, nouns in KINDS.items() for noun in nouns.split()}


def kind_of(noun: str) -> str:
    """What a noun is ("cat" -> "animal"), by its last word; "" for one that is not listed."""
    last = words(noun)[-1:]
    return _kind_by_noun().get(singular(last[0]), "") if last else ""


def names_of(noun: str) -> tuple[str, ...]:
    """All words that may stand for `noun`: itself, words for the same, and what it is."""
    kind = kind_of(noun)
    return (noun, *SYNONYMS.get(singular(noun.lower()), ()), *([kind] if kind else []))


def same_kind(noun: str, text: str) -> str:
    """The first word of `text`, by itself, that is of the kind of `noun` or names that kind; "" when there is none."""
    kind = kind_of(noun)
    if not kind:
        return ""
    also = ALSO.get(kind, "").split()
    for word in dict.fromkeys(words(text)):
        named = kind_of(word) == kind or position_of(kind, [word]) is not None or singular(word) in also
        if named and find_word(word, text):
            return word
    return ""
