"""Prompts: both encoders, clip skip, learned words, truncation."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.models.conditioning import Conditioning, by_shape
from comfyui_fewshot.models.open import base_from_path, open_base
from comfyui_fewshot.models.stable_diffusion.encoding.prompt_tokens import Tokens
from comfyui_fewshot.models.stable_diffusion.encoding.prompts import denoise, encode_prompts, time_ids
from comfyui_fewshot.models.stable_diffusion.model import StableDiffusion

from ... import checkpoints


@pytest.fixture(scope="module")
def xl_path(tmp_path_factory) -> Path:
    return checkpoints.save(checkpoints.sdxl(), tmp_path_factory.mktemp("xl") / "xl.safetensors")


@pytest.fixture(scope="module")
def xl(xl_path: Path, small_tokenizer: Path):
    with open_base(base_from_path(xl_path), "cpu", tokenizer_folder=small_tokenizer) as model:
        yield model


def test_sdxl_takes_both_encoders_last_but_one_layers(xl: StableDiffusion):
    conditioning = encode_prompts(xl, ["a red cat", "a dog"])
    parts = []
    for encoder, tokenizer in zip(xl.text_encoders, xl.tokenizers, strict=True):
        ids = tokenizer(["a red cat", "a dog"], padding="max_length", max_length=32, return_tensors="pt").input_ids
        output = encoder(ids, output_hidden_states=True)
        parts.append(output.hidden_states[-2])
    torch.testing.assert_close(conditioning["hidden"], torch.cat(parts, -1))
    torch.testing.assert_close(conditioning["pooled"], output.text_embeds)
    assert conditioning["hidden"].shape == (2, 32, 128)


def test_sd1_takes_the_last_layer_with_its_norm(opened_pocket: StableDiffusion):
    encoder, tokenizer = opened_pocket.text_encoders[0], opened_pocket.tokenizers[0]
    ids = tokenizer("a red cat", padding="max_length", max_length=32, return_tensors="pt").input_ids
    torch.testing.assert_close(encode_prompts(opened_pocket, ["a red cat"])["hidden"], encoder(ids).last_hidden_state)


def test_clip_skip(pocket_folder: Path, opened_pocket: StableDiffusion):
    with open_base(base_from_path(pocket_folder, clip_skip=2), "cpu") as model:
        encoder, tokenizer = model.text_encoders[0], model.tokenizers[0]
        ids = tokenizer("a cat", padding="max_length", max_length=32, return_tensors="pt").input_ids
        states = encoder(ids, output_hidden_states=True).hidden_states[-2]
        inner = getattr(encoder, "text_model", encoder)
        torch.testing.assert_close(encode_prompts(model, ["a cat"])["hidden"], inner.final_layer_norm(states))
    with open_base(base_from_path(pocket_folder, clip_skip=9), "cpu") as model:
        with pytest.raises(FewShotError, match="clip skip is 9.* 1 to 4"):
            encode_prompts(model, ["a cat"])


def test_sd2_cannot_use_the_layer_that_it_lacks(tmp_path: Path, small_tokenizer: Path):
    path = checkpoints.save(checkpoints.sd2(), tmp_path / "base.safetensors")
    with open_base(base_from_path(path, clip_skip=1), "cpu", tokenizer_folder=small_tokenizer) as model:
        with pytest.raises(FewShotError, match="clip skip is 1.* 2 to 3"):
            encode_prompts(model, ["a cat"])


def test_learned_words_stand_in_the_prompt(xl: StableDiffusion):
    """A learned word whose vectors are a known word's gives that word's conditioning, in both spellings."""
    vectors = {}
    for names, encoder, tokenizer in zip(xl.family.text_encoders, xl.text_encoders, xl.tokenizers, strict=True):
        ids = tokenizer("red cat", add_special_tokens=False).input_ids
        vectors[names.embedding] = encoder.get_input_embeddings().weight[ids].clone().requires_grad_()
    wanted = encode_prompts(xl, ["a red cat on a hill", "a dog"])
    for word in ("<sks>", "embedding:<sks>"):
        got = encode_prompts(xl, [f"a {word} on a hill", "a dog"], {"<sks>": vectors})
        torch.testing.assert_close(got["hidden"], wanted["hidden"])
        torch.testing.assert_close(got["pooled"], wanted["pooled"])
    got["pooled"].sum().backward()
    assert vectors["clip_l"].grad is None and vectors["clip_g"].grad.abs().sum() > 0
    assert encode_prompts(xl, ["a sks"], {"sk": vectors})["hidden"].equal(encode_prompts(xl, ["a sks"])["hidden"])


def test_a_long_prompt_is_cut_with_a_warning(opened_pocket: StableDiffusion, caplog):
    with caplog.at_level(logging.WARNING):
        hidden = encode_prompts(opened_pocket, ["red cat " * 40])["hidden"]
    assert hidden.shape == (1, 32, 192) and "30 fit; left out" in caplog.text
    vector = {"new": {"clip_l": torch.zeros(50, 192)}}
    assert encode_prompts(opened_pocket, ["a new"], vector)["hidden"].shape == (1, 32, 192)


class Counted:
    """A tokenizer that counts the texts it is given."""

    def __init__(self, tokenizer):
        self.tokenizer, self.texts = tokenizer, []

    def __call__(self, text, **how):
        self.texts.append(text)
        return self.tokenizer(text, **how)

    def __getattr__(self, name):
        return getattr(self.tokenizer, name)


def test_a_prompt_is_cut_once_and_told_once(xl: StableDiffusion, caplog):
    """By each of two encoders; with other learned words it is another row, and no second warning."""
    counted = tuple(Counted(tokenizer) for tokenizer in xl.tokenizers)
    model, long = replace(xl, tokenizers=counted, tokens=Tokens()), "red cat <new> " * 20
    vectors = {"<new>": {"clip_l": torch.ones(2, 64, requires_grad=True), "clip_g": torch.zeros(2, 64)}}
    with caplog.at_level(logging.WARNING):
        with torch.inference_mode():
            first = encode_prompts(model, [long, "a dog"])
            cut = encode_prompts(model, [long], vectors)
        again = encode_prompts(model, ["a dog", long, long])
        learned = encode_prompts(model, [long], vectors)
        vectors["<new>"]["clip_l"] = torch.zeros(2, 64, requires_grad=True)
        moved = encode_prompts(model, [long], vectors)
    assert [one.texts for one in counted] == [[long, "a dog", "red cat ", *[" red cat "] * 19]] * 2
    assert torch.equal(again.take([1, 0])["hidden"], first["hidden"])
    assert torch.equal(again["hidden"][1], again["hidden"][2])
    assert torch.equal(learned["hidden"], cut["hidden"]) and not torch.equal(learned["hidden"], moved["hidden"])
    assert [record.getMessage().split(" is ")[0] for record in caplog.records] == [f"the prompt '{long}'"]
    moved["hidden"].square().sum().backward()  # what was first cut in inference mode can be learned with
    assert vectors["<new>"]["clip_l"].grad.any()


def test_many_prompts_and_one_text_by_mistake(opened_pocket: StableDiffusion):
    prompts = [f"{word} cat" for word in ("red", "blue") * 20]
    hidden = encode_prompts(opened_pocket, prompts)["hidden"]
    torch.testing.assert_close(hidden[38:], encode_prompts(opened_pocket, prompts[:2])["hidden"])
    with pytest.raises(FewShotError, match="put it in a list"):
        encode_prompts(opened_pocket, "a cat")


def test_rows_of_conditioning():
    conditioning = Conditioning.of(hidden=torch.arange(3.0).view(3, 1, 1), pooled=torch.arange(3.0).view(3, 1))
    assert conditioning.take([2, 0])["hidden"].flatten().tolist() == [2, 0]
    assert conditioning.take(slice(1))["pooled"].flatten().tolist() == [0]
    assert conditioning.repeat(2)["pooled"].flatten().tolist() == [0, 1, 2, 0, 1, 2]
    assert len(Conditioning.cat([conditioning, conditioning])) == 6
    assert conditioning.to(torch.float64)["pooled"].dtype == torch.float64
    assert "pooled" not in Conditioning.of(hidden=torch.zeros(1, 1, 1)).to("cpu")


def test_rows_of_unequal_lengths():
    """Rows keep their order, whatever lengths they have, and those of one length lie together."""
    lengths = [2, 3, 2, 1, 3]
    rows = [Conditioning.of(hidden=torch.full((1, length, 1), float(i))) for i, length in enumerate(lengths)]
    whole = Conditioning.cat(rows)

    def told(conditioning: Conditioning) -> list[float]:
        found = {i: t for places, g in conditioning.groups() for i, t in zip(places, g["hidden"][:, 0, 0], strict=True)}
        return [float(found[i]) for i in range(len(conditioning))]

    assert len(whole) == 5 and len(whole.groups()) == 3 and told(whole) == [0, 1, 2, 3, 4]
    assert told(whole.take([4, 0, 4, 1])) == [4, 0, 4, 1] and told(whole.take(slice(1, 4))) == [1, 2, 3]
    assert told(Conditioning.cat([whole.repeat(2), rows[3]]).detach().to("cpu")) == [0, 1, 2, 3, 4] * 2 + [3]
    assert whole.take([0, 2])["hidden"].flatten().tolist() == [0, 0, 2, 2]
    with pytest.raises(ValueError, match="3 shapes"):
        whole["hidden"]
    with pytest.raises(ValueError, match="2, 3"):
        Conditioning.of(hidden=torch.zeros(2, 1, 1), pooled=torch.zeros(3, 1))

    def call(latents: torch.Tensor, t: torch.Tensor, part: Conditioning, sizes: torch.Tensor | None) -> torch.Tensor:
        return latents + 10 * t + 100 * part["hidden"].mean(1) + 1000 * sizes

    x, t = torch.arange(5.0).view(5, 1), torch.arange(5.0)
    found = by_shape(lambda a, b, c, d: call(a, b[:, None], c, d), x, t, whole, x)
    assert found.flatten().tolist() == [1111.0 * i for i in range(5)]


def test_size_conditioning(xl: StableDiffusion):
    ids = time_ids(xl, (600, 400), (8, 0), (512, 512))
    assert ids.tolist() == [600, 400, 8, 0, 512, 512]
    latents, conditioning = torch.randn(2, 4, 8, 8), encode_prompts(xl, ["a", "b"])
    t = torch.tensor([10, 900])
    whole = time_ids(xl, (16, 16), (0, 0), (16, 16))
    assert torch.equal(denoise(xl, latents, t, conditioning), denoise(xl, latents, t, conditioning, whole))
    each = denoise(xl, latents, t, conditioning, torch.stack([whole, ids]))
    assert not torch.allclose(each[1], denoise(xl, latents, t, conditioning, whole)[1], atol=1e-3)
    torch.testing.assert_close(each[0], denoise(xl, latents, t, conditioning, whole)[0])


def test_learned_words_are_read_in_any_case(xl: StableDiffusion):
    vectors = {"clip_l": torch.ones(2, 64), "clip_g": torch.ones(2, 64)}
    learned = {"Ohwx": vectors}
    wanted = encode_prompts(xl, ["a Ohwx on a hill"], learned)["hidden"]
    for word in ("ohwx", "OHWX", "embedding:ohwx", "ｏｈｗｘ"):
        assert torch.equal(encode_prompts(xl, [f"a {word} on a hill"], learned)["hidden"], wanted)
        assert torch.equal(xl.encode_weighted([f"a {word} on a hill"], learned)["hidden"], wanted)
    assert not torch.equal(encode_prompts(xl, ["a ohwxs on a hill"], learned)["hidden"], wanted)


def test_prompts_to_be_drawn(xl: StableDiffusion, caplog):
    """Literal ones as captions are read, to the bit, wherever they stand; others weighted, long or without a name."""
    literal = ["a red cat", "", "a [cat] BREAK <lora:x:1>"]
    wanted = encode_prompts(xl, literal)
    assert torch.equal(xl.encode_weighted(literal)["hidden"], wanted["hidden"])
    mixed = xl.encode_weighted([literal[0], "a (red:1.5) cat", literal[1], "red cat " * 40, literal[2]])
    assert torch.equal(mixed.take([0, 2, 4])["hidden"], wanted["hidden"])
    assert torch.equal(mixed.take([0, 2, 4])["pooled"], wanted["pooled"])
    assert mixed.take([1])["hidden"].shape == (1, 32, 128) and mixed.take([3])["hidden"].shape == (1, 96, 128)
    states = [xl.encode_weighted([f"a (red:{weight}) cat"])["hidden"] for weight in (1.0, 1.5, 2.0)]
    torch.testing.assert_close(states[2] - states[1], states[1] - states[0], atol=1e-5, rtol=1e-4)
    with caplog.at_level(logging.WARNING):
        gone = xl.encode_weighted(["a embedding:nothere cat"])
    assert "embedding:nothere does not exist" in caplog.text
    torch.testing.assert_close(gone["hidden"], encode_prompts(xl, ["a cat"])["hidden"])


def test_embeddings_of_other_families_and_damaged_ones_are_refused(xl: StableDiffusion, tmp_path: Path):
    safetensors.torch.save_file({"emb_params": torch.zeros(2, 768)}, tmp_path / "other.safetensors")
    safetensors.torch.save_file({"clip_l": torch.full((1, 64), torch.nan)}, tmp_path / "nan.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(b"\x00" * 40)
    (tmp_path / "page.pt").write_text("<html>")
    torch.save({"string_to_param": torch.nn.ParameterDict({"*": torch.zeros(1, 64)})}, tmp_path / "code.pt")
    model = replace(xl, embedding_folders=(tmp_path,))
    for name, message in {
        "other": r"other.safetensors has vectors of the shape \(2, 768\) for clip_l, .* takes 64",
        "nan": "nan.safetensors has", "cut": "cut.safetensors is", "page": "page.pt is a web page",
        "code": "code.pt holds more than weights.*choose a .safetensors file",
    }.items():  # fmt: skip
        with pytest.raises(FewShotError, match=message):
            model.encode_weighted([f"a embedding:{name} cat"])
