"""Local captioners: BLIP, Florence-2, and vision-language models of the Qwen-VL class, through transformers."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

import torch
from PIL import Image

from ..models.errors import FewShotError
from ..models.values import Concept, TrainingSet
from ..models.watching import Silent, Watcher
from ..models.weight_ids import model_id
from . import local_models, on_disk
from .answers import Answers
from .caption_parts import ARTICLES, plain, singular, words
from .captions import with_subject
from .decoding import pixel_key
from .pictures import load_picture

log = logging.getLogger(__name__)
WINDOW = 77  # tokens that CLIP's text encoders read, the first and last of which are not words
LONGEST = 1280  # pixels of the longer edge: such a model makes a token of each 28 x 28 pixels, however many there are
DETAILS = ("short", "detailed", "full")
MOST_TOKENS = {"short": 40, "detailed": 100, "full": 200}
ASKED = {
    "short": "Describe this picture in one short sentence.",
    "detailed": "Describe this picture in one or two sentences: what is in it, where it is, the light and the view.",
    "full": "Describe this picture in detail: what is in it, where it is, the background, the light and the view.",
}
FLORENCE_TASKS = {"short": "<CAPTION>", "detailed": "<DETAILED_CAPTION>", "full": "<MORE_DETAILED_CAPTION>"}
OPENINGS = re.compile(
    r"^(?:(?:the|this) (?:image|picture|photo|photograph) (?:shows|depicts|features|captures|is of)|"
    r"in (?:the|this) (?:image|picture|photo),?(?: we (?:can )?see| there is)?)\s+",
    re.IGNORECASE,
)


class Captioner(Protocol):
    """Says what a picture shows."""

    def caption(self, picture: Image.Image, detail: str) -> str:
        """One text for the RGB `picture`; `detail` is one of `DETAILS`."""
        ...


class _Transformers:
    processor_class, model_class = "AutoProcessor", ""

    def __init__(self, folder: Path, device: torch.device):
        self.device = device
        dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
        self.processor = local_models.open_processor(self.processor_class, folder)
        self.model = local_models.open_model(self.model_class, folder, device, dtype)

    def move(self, device: torch.device | str) -> None:
        """Compute on another device from now on, in the same type; on the CPU it waits without taking GPU memory."""
        self.device = torch.device(device)
        self.model.to(self.device)

    def _placed(self, inputs):
        """Inputs on the device; pictures in the model's type."""
        return {
            name: value.to(self.device, self.model.dtype) if value.is_floating_point() else value.to(self.device)
            for name, value in inputs.items()
            if isinstance(value, torch.Tensor)
        }


class Blip(_Transformers):
    """BLIP (Li et al. 2022). It knows one level of detail."""

    processor_class, model_class = "BlipProcessor", "BlipForConditionalGeneration"

    @torch.no_grad()
    def caption(self, picture: Image.Image, detail: str) -> str:
        inputs = self._placed(self.processor(images=picture, return_tensors="pt"))
        tokens = self.model.generate(**inputs, max_new_tokens=MOST_TOKENS[detail], num_beams=3, do_sample=False)
        return self.processor.batch_decode(tokens, skip_special_tokens=True)[0]


class Florence(_Transformers):
    """Florence-2 (Xiao et al. 2023) by its three captioning tasks."""

    processor_class, model_class = "Florence2Processor", "Florence2ForConditionalGeneration"

    @torch.no_grad()
    def caption(self, picture: Image.Image, detail: str) -> str:
        task = FLORENCE_TASKS[detail]
        inputs = self._placed(self.processor(images=picture, text=task, return_tensors="pt"))
        tokens = self.model.generate(**inputs, max_new_tokens=2 * MOST_TOKENS[detail], num_beams=3, do_sample=False)
        text = self.processor.batch_decode(tokens, skip_special_tokens=False)[0]
        answer = self.processor.post_process_generation(text, task=task, image_size=picture.size)[task]
        return re.sub(r"</?s>|<pad>", " ", answer)


class Chatting(_Transformers):
    """A vision-language model that is asked in words: Qwen-VL, SmolVLM, LLaVA-OneVision, Gemma 3."""

    model_class = "AutoModelForImageTextToText"

    def __init__(self, folder: Path, device: torch.device):
        super().__init__(folder, device)
        self.folder = folder

    @property
    def model_id(self) -> str:
        return model_id(self.folder)

    @torch.no_grad()
    def answers(self, picture: Image.Image, question: str, choices: Sequence[str]) -> list[float]:
        """How probable each of `choices` is as the answer's first token, in relation to the others; their sum is 1.

        A choice counts in small and in capital letters, and behind a space, where that is another token.
        """
        logits = self.model(**self._asked(picture, question)).logits[0, -1].float()
        encode = self.processor.tokenizer
        forms = [{form for word in (c, c.capitalize()) for form in (word, f" {word}")} for c in choices]
        first = [sorted({encode(form, add_special_tokens=False).input_ids[0] for form in own}) for own in forms]
        shared = set.intersection(*map(set, first))  # such as a token that is the space alone
        told = torch.stack([logits[[i for i in own if i not in shared]].logsumexp(0) for own in first])
        return told.softmax(0).tolist()

    def _asked(self, picture: Image.Image, question: str):
        """What the model takes for a question about an RGB picture, which is reduced where it is very large."""
        picture = picture.copy()
        picture.thumbnail((LONGEST, LONGEST))
        asked = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
        prompt = self.processor.apply_chat_template(asked, add_generation_prompt=True)
        return self._placed(self.processor(images=[picture], text=[prompt], return_tensors="pt"))

    @torch.no_grad()
    def caption(self, picture: Image.Image, detail: str) -> str:
        inputs = self._asked(picture, ASKED[detail])
        tokens = self.model.generate(**inputs, max_new_tokens=MOST_TOKENS[detail], do_sample=False)
        new = tokens[:, inputs["input_ids"].shape[1] :]
        return self.processor.batch_decode(new, skip_special_tokens=True)[0]


class RememberingCaptioner:
    """A `Captioner` whose answers are kept on disk by picture and detail; its model is opened for what is new."""

    def __init__(self, answers: Answers[Captioner]):
        self.answers = answers

    def caption(self, picture: Image.Image, detail: str) -> str:
        return self.answers.to("caption", pixel_key(picture), detail, by=lambda model: model.caption(picture, detail))


def open_captioner(folder: Path, device: torch.device) -> Captioner:
    """The captioner in `folder`, by the kind that its config.json names."""
    kind = on_disk.kind_of(folder)
    if kind == "blip":
        return Blip(folder, device)
    if kind == "florence2":
        return Florence(folder, device)
    if kind in on_disk.CHATTING:
        return Chatting(folder, device)
    raise FewShotError(
        f"{folder} holds a {kind or 'model of unknown kind'}; {', '.join(on_disk.CAPTIONERS)} write captions"
    )


# ---------------------------------------------------------------------------------------------------------- the set


@dataclass(frozen=True)
class Captioned:
    """One picture's line in the report: what the model said, what became of it, and its tokens where counted."""

    picture: str
    said: str
    caption: str
    tokens: int | None = None

    @property
    def too_long(self) -> bool:
        return self.tokens is not None and self.tokens > WINDOW

    def __str__(self) -> str:
        count = "" if self.tokens is None else f"  [{self.tokens}/{WINDOW} tokens]"
        lost = f" of {WINDOW} the rest is not read" if self.too_long else ""
        return f"{self.picture}: {self.said} -> {self.caption}{count}{lost}"


def caption_set(
    pictures: TrainingSet,
    captioner: Captioner,
    bind: Sequence[str] = (),
    detail: Literal["short", "detailed", "full"] = "short",
    overwrite: bool = True,
    watcher: Watcher | None = None,
    tokens: Callable[[str], int] | None = None,
) -> tuple[TrainingSet, list[Captioned]]:
    """The references of `pictures` with captions by `captioner`; priors and composites keep theirs.

    `bind` are words to leave out, for each subject: what is not said is absorbed by its identifier. A line
    "sks: collar, red" is for the subject with that identifier alone, any other line for all. Not `overwrite` keeps a
    caption that is more than "a photo of" the subject. `tokens` counts the tokens of a caption, without the first and
    the last.

    Raises:
        FewShotError: an unknown `detail`, no references, a relation (its captions say what it connects), a `bind`
            line for a subject that is not in the set.
    """
    if detail not in DETAILS:
        raise FewShotError(f"detail is {detail!r}; choose one of {', '.join(DETAILS)}")
    if all(sample.pasted for sample in pictures.references):
        raise FewShotError("the set has no pictures of its own to caption; connect Subject Pictures")
    watcher, left_out = watcher or Silent(), bound(pictures.concepts, bind)
    made, table = [], []
    for sample in pictures.samples:
        watcher.check()
        concept = pictures.concepts[sample.concept]
        if (
            sample.role != "reference"
            or sample.pasted
            or not (overwrite or sample.caption == with_subject("", concept))
        ):
            made.append(sample)
            continue
        if concept.kind == "relation":
            raise FewShotError(
                f"{sample.image.path.name} shows a relation, and a captioner would name it; write its two things "
                f'yourself ("cat {concept.identifier} chair") and connect Expand Captions'
            )
        said = plain(captioner.caption(load_picture(sample.image), detail))
        caption = with_subject(without_bound(OPENINGS.sub("", said), left_out[sample.concept], concept), concept)
        if not said:
            log.warning("the captioner said nothing of %s; it is captioned %s", sample.image.path.name, caption)
        made.append(replace(sample, caption=caption))
        table.append(Captioned(sample.image.path.name, said, caption, tokens(caption) + 2 if tokens else None))
        if table[-1].too_long:
            log.warning("%s", table[-1])
        watcher.progress(len(table), len(pictures.references), f"{sample.image.path.name}: {caption}")
    return pictures.with_samples(tuple(made)), table


def report(table: Sequence[Captioned]) -> str:
    """A line for each picture, and how many captions are longer than a text encoder reads."""
    long = sum(1 for row in table if row.too_long)
    head = f"{len(table)} captions"
    if long:
        head += f", {long} of them too long: choose less detail, or words to leave out"
    return "\n".join([head, *map(str, table)])


def bound(concepts: Sequence[Concept], lines: Sequence[str]) -> list[frozenset[str]]:
    """For each of `concepts` the words that `lines` leave out of its captions; see `caption_set`."""
    found: list[set[str]] = [set() for _ in concepts]
    for line in lines:
        name, colon, rest = line.partition(":")
        chosen = [i for i, c in enumerate(concepts) if not colon or c.identifier.lower() == name.strip().lower()]
        if not chosen:
            names = ", ".join(c.identifier for c in concepts)
            raise FewShotError(f'"{line}" is for a subject "{name.strip()}" that the set does not have ({names})')
        for index in chosen:
            found[index] |= set(words(rest if colon else line))
    return [frozenset(words_) for words_ in found]


def without_bound(caption: str, bind: frozenset[str], concept: Concept) -> str:
    """`caption` without the words in `bind` (in the singular or the plural); the class noun always stays.

    Phrases that only a bound word held together go too: of "a dog with a red collar on grass" and "collar", "red",
    "with a" goes as well.
    """
    out = {singular(word) for word in bind} - {singular(word) for word in words(concept.noun)}
    if not out:
        return caption
    kept = [token for token in caption.split() if not _is_out(token, out)]
    return _tidied(" ".join(kept))


def _is_out(token: str, out: set[str]) -> bool:
    parts = words(token)
    return bool(parts) and all(singular(part) in out for part in parts)


def _tidied(text: str) -> str:
    """`text` without articles and joining words that lost what they stood before."""
    joining = rf"(?:with|and|wearing|in|of|on|has|having|that|{'|'.join(sorted(ARTICLES))})"
    before = None
    while before != text:
        before = text
        text = re.sub(rf"\b{joining}\s+(?=(?:with|and|wearing|in|on|at|of|under|near|beside|is)\b)", "", text)
        text = re.sub(rf"\s+{joining}(?=\s*(?:[,.]|$))", "", text)
        text = re.sub(r"\s+(?=[,.])", "", re.sub(r"(?:,\s*)+,", ",", text))
        text = re.sub(r"\b([Aa])n (?=[^aeiouAEIOU\W])", r"\1 ", text)
    return " ".join(text.split()).strip(" ,")
