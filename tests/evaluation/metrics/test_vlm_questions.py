"""A vision-language model asked about relations: by its real class on random weights, and with written answers."""

import pytest
import torch
from PIL import Image

from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.core.values import Concept, Prompt
from comfyui_fewshot.evaluation.metrics.vlm_questions import DISTRACTORS, PairwiseChoice, YesProbability, vlm_measures
from comfyui_fewshot.tests.vision import tiny
from comfyui_fewshot.vision.captioners import open_captioner

RED, BLUE = Image.new("RGB", (90, 60), "red"), Image.new("RGB", (90, 60), "blue")
PROMPTS = [Prompt("a cat <R> a box", "a cat inside a box"), Prompt("a dog <R> a bag", "a dog inside a bag")]
INSIDE = Concept("<R>", "", "inside", kind="relation")


class Answers:
    """Says with a probability what it was told to, whatever the place; `first` is added to the first choice."""

    model_id = "written"

    def __init__(self, own, first=0.0):
        self.own, self.first, self.questions = own, first, []

    def answers(self, picture, question, choices):
        self.questions.append(question)
        if tuple(choices) == ("yes", "no"):
            return [self.own, 1 - self.own]
        one = self.own if "A: the cat is inside" in question or "A: the dog is inside" in question else 1 - self.own
        return [one + self.first, 1 - one - self.first]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return open_captioner(tiny.qwen_vl(tmp_path_factory.mktemp("vl") / "tiny-vl"), torch.device("cpu"))


def test_a_model_s_answers_are_its_next_token_s_probabilities(model):
    """Over the choices' first tokens in small and capital letters; other pictures and questions, other answers."""
    seen = []
    forward = model.model.forward
    model.model.forward = lambda *a, **k: seen.append(forward(*a, **k)) or seen[-1]
    found = model.answers(RED, "Is it so?", ("yes", "no"))
    model.model.forward = forward
    ids = [[model.processor.tokenizer.convert_tokens_to_ids(letter) for letter in pair] for pair in ("yY", "nN")]
    told = seen[0].logits[0, -1].float().softmax(0)
    shares = torch.stack([told[pair].sum() for pair in ids])
    assert found == pytest.approx((shares / shares.sum()).tolist(), rel=1e-4) and sum(found) == pytest.approx(1)
    assert model.answers(RED, "Is it so?", ("no", "yes")) == pytest.approx(found[::-1])
    assert model.answers(BLUE, "Is it so?", ("yes", "no")) != found
    assert model.answers(RED, "Is it not?", ("yes", "no")) != found


def test_a_real_model_measures(model):
    measures = vlm_measures(model, INSIDE)
    assert {m.metric.model_id for m in measures} == {model.model_id} and model.model_id.startswith("tiny-vl qwen2_vl ")
    assert {m.axis for m in measures} == {"subject"}
    for measure in measures:
        scores = measure.metric.scores([RED, BLUE], PROMPTS)
        assert scores.shape == (2,) and scores.dtype == torch.float32 and bool(((scores >= 0) & (scores <= 1)).all())


def test_the_question_names_both_things_and_the_relation():
    asked = Answers(0.8)
    assert YesProbability(asked, "inside").scores([RED, BLUE], PROMPTS).tolist() == pytest.approx([0.8, 0.8])
    assert asked.questions[1] == "Is the dog inside the bag? Answer yes or no."


def test_a_choice_does_not_depend_on_its_place():
    """A model that always prefers the first answer chooses by the rest of what it says."""
    others = ["on", "Inside", "behind", "under", "near", "beside"]
    for own, wanted in ((0.6, 1.0), (0.4, 0.0)):
        asked = Answers(own, first=0.3)
        assert PairwiseChoice(asked, "inside", others).scores([RED], PROMPTS[:1]).tolist() == [wanted]
        assert len(asked.questions) == 2 * DISTRACTORS and not any("beside" in question for question in asked.questions)


def test_what_cannot_be_asked_is_refused():
    for concept in (None, Concept("sks", "cat"), Concept("<R>", "", kind="relation")):
        with pytest.raises(FewShotError, match="its relation in words"):
            vlm_measures(Answers(0.5), concept)
    with pytest.raises(FewShotError, match="does not say what is on what"):
        YesProbability(Answers(0.5), "on").scores([RED], PROMPTS[:1])
    with pytest.raises(FewShotError, match="there are none"):
        PairwiseChoice(Answers(0.5), "inside", ["inside"])
