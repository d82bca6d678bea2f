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
from .answer_cache import AnswerCache
from .find import CAPTIONERS, VISION_LANGUAGE_KINDS, kind_of
from .model_ids import model_id
from .open import TransformersModel

# Pixels of the longer edge: such a model makes one token of each 28 x 28 pixels.
MAX_EDGE = 1280

DETAILS = ("short", "detailed", "full")

MAX_NEW_TOKENS = {"short": 40, "detailed": 100, "full": 200}

INSTRUCTIONS = {
    "short": "Describe this picture in one short sentence.",
    "detailed": "Describe this picture in one or two sentences: what is in it, where it is, the light and the view.",
    "full": "Describe this picture in detail: what is in it, where it is, the background, the light and the view.",
}

FLORENCE_TASKS = {"short": "<CAPTION>", "detailed": "<DETAILED_CAPTION>", "full": "<MORE_DETAILED_CAPTION>"}


class Captioner(Protocol):
    """Describes a picture in words."""

    def caption(self, picture: Image.Image, detail: str) -> str:
        """One text for the RGB `picture`; `detail` is one of `DETAILS`."""
        ...


class _TransformersCaptioner(TransformersModel):
    def __init__(self, folder: Path, device: torch.device):
        super().__init__(folder, device, torch.float32 if device.type == "cpu" else torch.bfloat16)

    def move(self, device: torch.device | str) -> None:
        """Move the model to another device, in the same dtype; on the CPU it takes no GPU memory."""
        self.device = torch.device(device)
        self.model.to(self.device)

    def _to_device(self, inputs):
        """Inputs on the model's device; floating-point ones in its dtype."""
        return {
            name: value.to(self.device, self.model.dtype) if value.is_floating_point() else value.to(self.device)
            for name, value in inputs.items()
            if isinstance(value, torch.Tensor)
        }


class BlipCaptioner(_TransformersCaptioner):
    """BLIP (Li et al. 2022). It knows one level of detail."""

    processor_class, model_class = "BlipProcessor", "BlipForConditionalGeneration"

    @torch.no_grad()
    def caption(self, picture: Image.Image, detail: str) -> str:
        inputs = self._to_device(self.processor(images=picture, return_tensors="pt"))
        tokens = self.model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS[detail], num_beams=3, do_sample=False)
        return self.processor.batch_decode(tokens, skip_special_tokens=True)[0]


class FlorenceCaptioner(_TransformersCaptioner):
    """Florence-2 (Xiao et al. 2023) by its three captioning tasks."""

    processor_class, model_class = "Florence2Processor", "Florence2ForConditionalGeneration"

    @torch.no_grad()
    def caption(self, picture: Image.Image, detail: str) -> str:
        task = FLORENCE_TASKS[detail]
        inputs = self._to_device(self.processor(images=picture, text=task, return_tensors="pt"))
        tokens = self.model.generate(**inputs, max_new_tokens=2 * MAX_NEW_TOKENS[detail], num_beams=3, do_sample=False)
        text = self.processor.batch_decode(tokens, skip_special_tokens=False)[0]
        answer = self.processor.post_process_generation(text, task=task, image_size=picture.size)[task]
        return re.sub(r"</?s>|<pad>", " ", answer)


class ChatCaptioner(_TransformersCaptioner):
    """A vision-language model prompted by chat messages: Qwen-VL, SmolVLM, LLaVA-OneVision, Gemma 3."""

    model_class = "AutoModelForImageTextToText"

    def __init__(self, folder: Path, device: torch.device):
        super().__init__(folder, device)
        self.folder = folder

    @property
    def model_id(self) -> str:
        return model_id(self.folder)

    @torch.no_grad()
    def answers(self, picture: Image.Image, question: str, choices: Sequence[str]) -> list[float]:
        """Probabilities of `choices` as the answer's first token, normalised over the choices.

        A choice counts in small and in capital letters, and behind a space, where that is another token.
        """
        logits = self.model(**self._chat_inputs(picture, question)).logits[0, -1].float()
        encode = self.processor.tokenizer
        forms = [{form for word in (c, c.capitalize()) for form in (word, f" {word}")} for c in choices]
        first = [sorted({encode(form, add_special_tokens=False).input_ids[0] for form in each}) for each in forms]
        shared = set.intersection(*map(set, first))  # such as a token that is the space alone
        scores = torch.stack([logits[[i for i in tokens if i not in shared]].logsumexp(0) for tokens in first])
        return scores.softmax(0).tolist()

    def _chat_inputs(self, picture: Image.Image, question: str):
        """The model's inputs for a question about an RGB picture; a very large picture is reduced first."""
        picture = picture.copy()
        picture.thumbnail((MAX_EDGE, MAX_EDGE))
        messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
        prompt = self.processor.apply_chat_template(messages, add_generation_prompt=True)
        return self._to_device(self.processor(images=[picture], text=[prompt], return_tensors="pt"))

    @torch.no_grad()
    def caption(self, picture: Image.Image, detail: str) -> str:
        inputs = self._chat_inputs(picture, INSTRUCTIONS[detail])
        tokens = self.model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS[detail], do_sample=False)
        new = tokens[:, inputs["input_ids"].shape[1] :]
        return self.processor.batch_decode(new, skip_special_tokens=True)[0]


class CachedCaptioner:
    """A `Captioner` cached on disk by picture and detail; its model is opened at the first miss."""

    def __init__(self, answers: AnswerCache[Captioner]):
        self.answers = answers

    def caption(self, picture: Image.Image, detail: str) -> str:
        return self.answers.get("caption", pixel_key(picture), detail, by=lambda model: model.caption(picture, detail))


def open_captioner(folder: Path, device: torch.device) -> Captioner:
    """The captioner in `folder`, by the kind that its config.json names."""
    kind = kind_of(folder)
    if kind == "blip":
        return BlipCaptioner(folder, device)
    if kind == "florence2":
        return FlorenceCaptioner(folder, device)
    if kind in VISION_LANGUAGE_KINDS:
        return ChatCaptioner(folder, device)
    raise FewShotError(f"{folder} holds a {kind or 'model of unknown kind'}; {', '.join(CAPTIONERS)} write captions")
