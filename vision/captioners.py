"""Local captioners: BLIP, Florence-2, and vision-language models of the Qwen-VL class, through transformers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from PIL import Image

from ..core.errors import FewShotError
from ..core.images import pixel_key
from . import find as on_disk
from . import open as local_models
from .answer_cache import Answers
from .model_ids import model_id

LONGEST = 1280  # pixels of the longer edge: such a model makes a token of each 28 x 28 pixels, however many there are

DETAILS = ("short", "detailed", "full")

MOST_TOKENS = {"short": 40, "detailed": 100, "full": 200}

ASKED = {
    "short": "Describe this picture in one short sentence.",
    "detailed": "Describe this picture in one or two sentences: what is in it, where it is, the light and the view.",
    "full": "Describe this picture in detail: what is in it, where it is, the background, the light and the view.",
}

FLORENCE_TASKS = {"short": "<CAPTION>", "detailed": "<DETAILED_CAPTION>", "full": "<MORE_DETAILED_CAPTION>"}


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
