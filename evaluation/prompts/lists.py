"""The lists of known prompt sets, and nothing else, so that a menu can be built without opening anything.

DreamBench's 25 + 25 prompts are those of the published benchmark (Ruiz et al. 2023, CC-BY-4.0). InstructBooth shows its
forty activities in a figure only and ReVersion's things come with its data: both are reconstructed, and `RECONSTRUCTED`
says so to reports.
"""

from __future__ import annotations

TRIGGER = "{trigger}"
GROUNDS = (
    "in the jungle", "in the snow", "on the beach", "on a cobblestone street", "on top of pink fabric",
    "on top of a wooden floor", "with a city in the background", "with a mountain in the background",
    "with a blue house in the background", "on top of a purple rug in a forest",
)  # fmt: skip
LOOKS = ("a red", "a purple", "a shiny", "a wet", "a cube shaped")
OBJECT = (
    "with a wheat field in the background", "with a tree and autumn leaves in the background",
    "with the Eiffel Tower in the background", "floating on top of water", "floating in an ocean of milk",
    "on top of green grass with sunflowers around it", "on top of a mirror",
    "on top of the sidewalk in a crowded street", "on top of a dirt road", "on top of a white rug",
)  # fmt: skip
LIVE = (
    "wearing a red hat", "wearing a santa hat", "wearing a rainbow scarf", "wearing a black top hat and a monocle",
    "in a chef outfit", "in a firefighter outfit", "in a police outfit", "wearing pink glasses",
    "wearing a yellow shirt", "in a purple wizard outfit",
)  # fmt: skip
ACTIVITIES = {
    "animal": ("playing soccer", "riding a bike", "cooking a gourmet meal", "playing a guitar", "wearing headphones"),
    "toy": ("playing tennis", "playing soccer", "riding a bike", "cooking", "doing taekwondo"),
    "container": (
        "floating on the water", "with popcorn in it", "with pens in it", "with flowers in it", "on top of a stove",
    ),
    "bike": (
        "parked in the snow", "floating on the water", "being ridden by a cat", "with a basket of flowers",
        "in front of a castle",
    ),
}  # fmt: skip
# activities to refine with, by kind of subject; disjoint from `ACTIVITIES`, which stay held out
REFINING = {
    "live": (
        "playing volleyball", "riding a skateboard", "reading a book", "painting on a canvas", "playing the drums",
        "surfing on a wave", "baking bread", "wearing a raincoat", "jumping over a puddle", "sleeping on a sofa",
        "driving a car", "holding an umbrella", "drinking from a cup", "climbing a tree", "wearing a scarf",
        "dancing on a stage", "in a nurse outfit", "on top of a blue sofa", "swimming in a lake", "playing chess",
    ),
    "toy": (
        "playing basketball", "riding a horse", "reading a newspaper", "driving a train", "flying a kite",
        "playing the piano", "sitting in a bathtub", "wearing a crown", "on a swing", "building a sand castle",
        "painting a wall", "in a rowing boat", "skiing down a hill", "holding a balloon", "wearing sunglasses",
        "in a spaceship", "on top of a blue sofa", "at a birthday party", "eating a cake", "under a christmas tree",
    ),
    "vessel": (
        "full of strawberries", "with a candle in it", "with coffee in it", "with ice in it", "with a plant in it",
        "with coins in it", "with a spoon in it", "with soup in it", "on a stack of books", "on a picnic blanket",
        "in a sink", "in a shop window", "with a church in the background", "on top of a blue sofa", "in the rain",
        "on a windowsill", "with a bird sitting on it", "with a ribbon tied around it", "next to a teapot",
        "carried by a monkey",
    ),
    "vehicle": (
        "on a bridge", "in a desert", "in a garage", "with a church in the background", "crossing a river",
        "on a race track", "with a suitcase on it", "being ridden by a dog", "covered in leaves", "in a parade",
        "in the rain", "under a street lamp", "on a ferry", "with balloons tied to it", "next to a tractor",
        "in front of a lighthouse", "on top of a blue sofa", "in a museum", "on a mountain road", "with a flag on it",
    ),
}  # fmt: skip
ANIMATE = ("cat", "dog", "rabbit", "panda", "monkey", "otter", "child", "knight", "robot", "astronaut")
SOLID = ("box", "cup", "basket", "bag", "bottle", "bowl", "car", "boat", "tent", "suitcase")
FLAT = ("wall", "stone", "leaf", "plate", "canvas", "door", "rock", "shell", "jar", "wooden board")
# ReVersion's ten relations: its words, and ten things for either side
RELATIONS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "painted_on": ("painted on", ANIMATE, FLAT),
    "carved_by": ("carved by", ANIMATE, ("wood", "jade", "stone", "ice", "soap", "marble", "clay", "a carrot", "ivory",
                                         "an apple")),
    "shake_hands": ("shaking hands with", ANIMATE, ANIMATE[::-1]),
    "hug": ("hugging", ANIMATE, ANIMATE[::-1]),
    "back2back": ("sitting back to back with", ANIMATE, ANIMATE[::-1]),
    "inside": ("inside", ANIMATE, SOLID),
    "on": ("on", ANIMATE, ("chair", "table", "sofa", "rock", "box", "rug", "bench", "roof", "bed", "shelf")),
    "hanging_from": ("hanging from", ANIMATE, ("tree", "rope", "ceiling", "branch", "ladder", "pole", "lamp", "cliff",
                                               "balcony", "hook")),
    "wrapped_in": ("wrapped in", ANIMATE, ("blanket", "towel", "scarf", "leaf", "quilt", "sheet", "net", "carpet",
                                           "flag", "bandage")),
    "ride_on": ("riding on", ANIMATE, ("horse", "elephant", "bicycle", "motorbike", "dolphin", "camel", "skateboard",
                                       "turtle", "broom", "train")),
}  # fmt: skip
POCKET = tuple(
    f"a photo of a {TRIGGER} {words}"
    for words in (
        "on the beach", "wearing a hat in the meadow", "on a car in the snow", "at night", "holding a ball in a room",
        "beside a house on the street", "in the snow", "with a balloon on the beach", "under a boat in the meadow",
        "on the street", "under an umbrella at night", "behind a cup in a room",
    )
)  # fmt: skip
OBJECTS, BEINGS, REVERSION, POCKETS = "dreambench objects", "dreambench live", "reversion", "pocket"
INSTRUCTBOOTH = {kind: f"instructbooth {kind}" for kind in ACTIVITIES}
NAMES = (OBJECTS, BEINGS, *INSTRUCTBOOTH.values(), REVERSION, POCKETS)
RECONSTRUCTED = {
    **dict.fromkeys(
        INSTRUCTBOOTH.values(), "reconstructed: the paper shows its activities in a figure only, some are named in text"
    ),
    REVERSION: "the ten relations are the paper's, the things on either side were chosen here",
}
DREAMBENCH_OF = {OBJECTS: OBJECT, BEINGS: LIVE}
