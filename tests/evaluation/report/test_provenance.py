"""What files say of where they come from: saved, loaded and asked, of a LoRA, a word and what was made of several."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from comfyui_fewshot.core.values import Adapter, BaseModelRef, Concept, LowRank, Picture, Sample, TrainingSet
from comfyui_fewshot.evaluation.report.provenance import provenance
from comfyui_fewshot.models.adapters.formats import read_lora, write_lora
from comfyui_fewshot.models.adapters.merge import sum_adapters
from comfyui_fewshot.models.adapters.metadata import FACTS, SOURCES
from comfyui_fewshot.models.adapters.token_files import read_embedding, write_parts
from comfyui_fewshot.trainers.refine.method import together
from comfyui_fewshot.trainers.save import training_metadata
from comfyui_fewshot.trainers.subject.settings import SubjectSettings

MODULE = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_v"
BASE = BaseModelRef("sd1", Path("models/dreamy_v8.safetensors"), "0123456789abcdef")


def told(pictures=3, priors=0, **settings):
    shown = Picture(Path("a cat in my garden.png"), "key", 8, 8)
    samples = [Sample(shown, "a sks cat asleep", role=role) for role in ["reference"] * pictures + ["prior"] * priors]
    known = {"steps": 400, "seed": 7, "learning_rate": 1e-4, "text_learning_rate": 1e-5}
    return training_metadata(
        BASE, SubjectSettings(**(known | settings)), TrainingSet(tuple(samples), (Concept("sks", "cat"),))
    )


def lora(trigger="sks cat", metadata=None, words=None, seed=0):
    random = torch.Generator().manual_seed(seed)
    pair = LowRank(torch.randn(320, 2, generator=random), torch.randn(2, 768, generator=random), 2.0)
    return Adapter({MODULE: pair}, "sd1", trigger, words or {}, metadata or {})


def test_a_lora_says_what_was_trained_on_what(tmp_path):
    told_of = told(priors=2)
    back = read_lora(write_lora(lora(metadata=told_of), tmp_path / "cat.safetensors"))
    found = provenance(back)
    assert found.complete and dict(found.stated) == {
        "trigger": "sks cat", "base": "dreamy_v8 (01234567)", "pictures": "3", "priors": "2", "steps": "400",
        "seed": "7",
    }  # fmt: skip
    assert back.metadata["fewshot.base_key"] == BASE.key and set(told_of) <= set(FACTS)
    assert not any("garden" in value or "asleep" in value for value in back.metadata.values())


def test_a_base_in_a_folder_keeps_its_dots():
    bases = [replace(BASE, location=Path("diffusers/dreamy-2.1")), replace(BASE, location=Path("v1.5.ckpt"))]
    assert [base.name for base in bases] == ["dreamy-2.1", "v1.5"]


def test_a_word_says_it_too_and_nothing_of_a_network(tmp_path):
    """Alone, and beside a LoRA that was read from a file, whose header tells more than a word is."""
    word = {"<R>": {"clip_l": torch.ones(2, 768)}}
    alone = Adapter({}, "sd1", "<R>", word, told(steps=900))
    (file,) = write_parts(alone, tmp_path / "relation.safetensors")
    found = provenance(read_embedding(file))
    assert found.complete and found.stated["base"] == "dreamy_v8 (01234567)"
    assert (found.stated["pictures"], found.stated["steps"], found.stated["trigger"]) == ("3", "900", "<R>")
    listed = {"ss_tag_frequency": "{}", "ss_datasets": "[my garden]", "ss_network_dim": "2"}
    both = read_lora(write_lora(lora("<R>", told() | listed, word), tmp_path / "both.safetensors"))
    file = write_parts(both, tmp_path / "again.safetensors")[1]
    header = read_embedding(file).metadata
    assert provenance(read_embedding(file)).complete and not set(header) & {*listed, "ss_network_module"}


def test_a_sum_says_what_it_was_made_of(tmp_path):
    cat, dog = lora(metadata=told()), lora("qpr dog", told(pictures=5, steps=600, seed=8), seed=1)
    both = sum_adapters([(cat, 1.0), (dog, 0.5)])
    found = provenance(read_lora(write_lora(both, tmp_path / "both.safetensors")))
    assert found.complete and dict(found.stated) == {
        "trigger": "sks cat, qpr dog", "base": "dreamy_v8 (01234567)", "pictures": "3 + 5", "priors": "0 + 0",
        "steps": "400 + 600", "seed": "7 + 8", "made of": "1 x sks cat, 0.5 x qpr dog",
    }  # fmt: skip
    other = lora("xyz car", {"ss_sd_model_name": "other", "ss_steps": "50"}, seed=2)
    three = sum_adapters([(replace(both, trigger="sks cat and qpr dog"), 0.5), (other, 1.0)])
    found = provenance(read_lora(write_lora(three, tmp_path / "three.safetensors")))
    assert found.stated["made of"] == "0.5 x sks cat, 0.25 x qpr dog, 1 x xyz car"
    assert found.stated["pictures"] == "3 + 5 + ?" and found.stated["base"] == "dreamy_v8 (01234567), other"
    assert found.missing == ("pictures",), "what one of them does not tell is not told"
    assert len(three.metadata[SOURCES].splitlines()) == 3


def test_a_refined_lora_still_says_what_its_subject_was_trained_on():
    refining = lora("", told(pictures=0, steps=60, seed=9), seed=1)
    both, _ = together(lora(metadata=told()), refining)
    said = provenance(both).stated
    assert (said["trigger"], said["pictures"], said["steps"]) == ("sks cat", "3 + 0", "400 + 60")
    assert said["made of"] == "1 x sks cat, 1 x refinement"


@pytest.mark.parametrize("text", ["{", "[1]", '{"trigger": "sks"}', ""])
def test_lines_of_another_tool_are_no_lines(text):
    found = provenance(lora(metadata=told() | {SOURCES: text}))
    assert found.complete and found.stated["pictures"] == "3" and "made of" not in found.stated


def test_what_is_not_told_is_missing():
    assert provenance(lora("", {"ss_steps": "None"})).missing == ("trigger", "pictures", "steps")
    assert provenance(lora()).stated["base"] == "sd1"
