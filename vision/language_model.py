"""A local language model that rewrites captions: its prompts, and how transformers runs it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from jinja2 import TemplateError

from ..core.errors import FewShotError
from ..core.values import Concept
from .answer_cache import AnswerCache
from .open import open_model, open_processor

MAX_NEW_TOKENS = 1024
TEMPERATURE, TOP_P = 0.8, 0.95
Message = dict[str, str]

RELATION = """You rewrite captions of a picture that shows two things and how they relate.
The token {placeholder} stands for how they relate. Rules for every caption:
- {placeholder} stands in it exactly once, between the two things, "{first}" before it and "{second}" after it.
- Never describe, name or paraphrase how the two relate: no verb and no preposition that connects them.
- You may vary articles and true adjectives, and you may end with a comma and a background or a style.
- At most 25 words.
Answer with JSON only: {{"captions": ["...", "..."]}}
Good: "a black and white cat {placeholder} a brown chair, indoors"
Refused: "a cat sitting {placeholder} a chair" ("sitting" tells how they relate)"""

SUBJECT = """You rewrite captions of pictures of one subject, "{phrase}".
Rules for every caption:
- "{phrase}" stands in it exactly once, word for word.
- Never describe what the subject itself looks like{bind}.
- Say what is around it: the place, the light, the view, the style, as far as the given caption tells.
- At most 25 words.
Answer with JSON only: {{"captions": ["...", "..."]}}
Good: "a photo of a {phrase}, in the evening light"
Refused: "a photo of a dog" ("{phrase}" is missing)"""


class Writer(Protocol):
    """A language model."""

    def write(self, messages: Sequence[Message], seed: int) -> str:
        """Its answer to a conversation; the same for the same seed."""
        ...


class LocalWriter:
    """An instruction-following model in transformers' layout, sampled at temperature 0.8 and top-p 0.95."""

    def __init__(self, folder: Path, device: torch.device):
        self.device = device
        self.tokenizer = open_processor("AutoTokenizer", folder)
        dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
        self.model = open_model("AutoModelForCausalLM", folder, device, dtype)

    @torch.no_grad()
    def write(self, messages: Sequence[Message], seed: int) -> str:
        inputs = self._inputs(list(messages))
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(seed)
            tokens = self.model.generate(
                **inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=True, temperature=TEMPERATURE, top_p=TOP_P,
                pad_token_id=self.tokenizer.pad_token_id or self.tokenizer.eos_token_id,
            )  # fmt: skip
        return self.tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)

    def _inputs(self, messages: list[Message]):
        if not self.tokenizer.chat_template:
            text = "\n\n".join(message["content"] for message in messages) + "\n\n"
            return self.tokenizer(text, return_tensors="pt").to(self.device)
        # The template writes the special tokens itself.
        prompt = self._prompt(messages)
        return self.tokenizer(prompt, add_special_tokens=False, return_tensors="pt").to(self.device)

    def _prompt(self, messages: list[Message]) -> str:
        """The conversation in the model's own form.

        Templates without a system role (Gemma, older Mistral) raise an error or leave its text out; it then goes
        before the first question.
        """
        rules = [message["content"] for message in messages if message["role"] == "system"]
        try:
            text = self._apply_template(messages)
            if all(rule.strip() in text for rule in rules):
                return text
        except TemplateError:
            pass
        try:
            return self._apply_template(without_system(messages))
        except TemplateError as error:
            raise FewShotError(
                f"the chat template of {self.tokenizer.name_or_path} cannot hold a conversation ({error}); choose an "
                "instruction-following language model"
            ) from error

    def _apply_template(self, messages: list[Message]) -> str:
        # `enable_thinking` is Qwen3's; other templates do not look at it.
        return self.tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, enable_thinking=False, tokenize=False
        )


class CachedWriter:
    """A `Writer` cached on disk by conversation and seed; its model is opened at the first miss."""

    def __init__(self, answers: AnswerCache[Writer]):
        self.answers = answers

    def write(self, messages: Sequence[Message], seed: int) -> str:
        return self.answers.get("write", list(messages), seed, by=lambda model: model.write(messages, seed))


def relation_messages(placeholder: str, first: str, second: str, caption: str, count: int) -> list[Message]:
    """The conversation that asks for `count` captions of a relation's picture."""
    system = RELATION.format(placeholder=placeholder, first=first, second=second)
    return _conversation(system, caption, count)


def subject_messages(concept: Concept, caption: str, bind: Sequence[str], count: int) -> list[Message]:
    """The conversation that asks for `count` captions of a subject's picture."""
    words = f" (above all not: {', '.join(bind)})" if bind else ""
    return _conversation(SUBJECT.format(phrase=concept.phrase, bind=words), caption, count)


def _conversation(system: str, caption: str, count: int) -> list[Message]:
    return [
        {"role": "system", "content": system},
        {"role": "user", "content": f'Write {count} different captions for the picture captioned "{caption}".'},
    ]


def without_system(messages: Sequence[Message]) -> list[Message]:
    """The same conversation with the system's text before the first question."""
    rules = "\n\n".join(message["content"] for message in messages if message["role"] == "system")
    first, *rest = [message for message in messages if message["role"] != "system"]
    return [{**first, "content": f"{rules}\n\n{first['content']}" if rules else first["content"]}, *rest]


def retry_messages(messages: Sequence[Message], answer: str, reasons: Sequence[str], count: int) -> list[Message]:
    """The same conversation with what was wrong with the last answer."""
    wrong = "\n".join(f"- {reason}" for reason in reasons[:8]) or "- it held no captions in the JSON asked for"
    again = f"Refused:\n{wrong}\nWrite {count} other captions that keep every rule. Answer with JSON only."
    return [*messages, {"role": "assistant", "content": answer[-2000:]}, {"role": "user", "content": again}]
