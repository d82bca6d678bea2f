"""The captions that the few-shot relation report shows (figure 2): originals, and what its language model made."""

CAT = ("a black and white cat <R> a brown chair", [
    "cat () chair",
    "a cat () a chair",
    "a black and white cat () a brown chair",
    "a black and white cat () a wooden chair, simple background",
])  # fmt: skip
POT = ("a pot with green plant <R> a wooden stool", [
    "pot () stool",
    "a pot () a stool",
    "a pot with green plant () a wooden stool",
    "a pot with green plant () a wooden stool, indoor",
])  # fmt: skip
LEAKING = [
    (CAT[0], "a cat sitting () a wooden chair", "sitting"),
    (CAT[0], "a cat perched () a brown chair", "perched"),
    (POT[0], "a black pot () supported by a light wooden stool", "supported"),
    (POT[0], "a leafy plant () inside a black pot on a stool", "inside"),
    (POT[0], "a black pot () resting on a wooden base", "resting"),
]
