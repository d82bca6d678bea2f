"""What is trained here against real ComfyUI: the same names, the same outputs with the LoRA on, the same pictures."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from comfyui_fewshot.models.adapters.formats import read_lora, write_lora
from comfyui_fewshot.models.adapters.inject import LoraSpec, applied
from comfyui_fewshot.models.adapters.learned_tokens import LearnedTokens, TokenSpec
from comfyui_fewshot.models.adapters.token_files import write_embedding
from comfyui_fewshot.models.open import base_from_path, open_base
from comfyui_fewshot.models.sampling import SamplingOptions, sample, sample_latents
from comfyui_fewshot.models.stable_diffusion.encoding.prompts import denoise, encode_prompts
from comfyui_fewshot.models.stable_diffusion.model import StableDiffusion

from . import checkpoints
from .checkpoints import TextShape, UNetShape, VaeShape
from .conftest import random_adapter

pytestmark = pytest.mark.slow

PROBE = Path(__file__).with_name("probes") / "comfy_probe.py"
PROMPT = "a photo of a sks striped cat, in a park"
LEARNED = "a photo of a {} cat, in a park"
WORD = "zwx"
CARRIED = "sks"
LONG = "a red cat beside a blue house on a green hill under a very wide sky, " * 6
PROMPTS = (
    "a photo of a (cat:1.3)", "((masterpiece)), a [cat], (dog:0.7) \\(happy\\)", "(a (b:1.2) c:0.5) d) (e:2)",
    "((a cat), in snow", "(cat:1.2:3) (dog:x) (:2) ()", "embedding:word",
    "a embedding:word, in (embedding:lora:1.4) snow embedding:nothere, tail", "(cat:-1) (dog:0) (cat:1e0)",
    "a,embedding:word BREAK <lora:foo:1> {cat|dog} AND __x__", "", LONG, f"(a cat:1.2) {LONG} (at night:0.8)",
    "embedding:old red (embedding:sub/inner.safetensors cat:0.8) embedding:inner", "a photo\nof a (cat: 1.1 )",
    "embedding:one[x] and embedding:word<y z", "x embedding:many embedding:many embedding:many y",
    "embedding:,word a, embedding:word,, b", "\\\\(a\\\\) (b\\):1.5)", f"{'cat ' * 72}(red dog on the hill:1.3)",
)  # fmt: skip
LITERAL = ("", PROMPTS[3], PROMPTS[8])
DRAWN = ("a photo of a (red:1.4) cat, embedding:word, \\(in snow\\)", f"(blurry:1.2), {LONG}")
NEGATIVE = "blurry"
THIN = VaeShape(channels=32, multipliers=(1, 1, 1, 1), layers=1)
SETS = {"attention_ff": LoraSpec(4, 3.0), "text": LoraSpec(2, 2.0)}


@dataclass
class Answer:
    tensors: dict[str, torch.Tensor]
    report: dict


def ask_comfyui(comfyui: Path, job: Path, inputs: dict[str, torch.Tensor], **order) -> Answer:
    """Let ComfyUI compute the job; fails with its error output."""
    order = {
        "prompt": PROMPT,
        "negative": NEGATIVE,
        "pixels": False,
        "sdxl": False,
        "seed": 5,
        "steps": 0,
        "prompts": PROMPTS,
    } | order
    order |= {"learned": LEARNED, "drawn": DRAWN}
    (job / "job.json").write_text(json.dumps(order))
    safetensors.torch.save_file(inputs, job / "inputs.safetensors")
    done = subprocess.run([sys.executable, str(PROBE), str(comfyui), str(job)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    report = json.loads((job / "report.json").read_text())
    return Answer(safetensors.torch.load_file(job / "outputs.safetensors"), report)


def noisy(model: StableDiffusion, side: int, count: int = 1) -> dict[str, torch.Tensor]:
    latents = torch.randn(count, model.latent_channels, side, side, generator=torch.Generator().manual_seed(3))
    return {"latents": latents, "timesteps": torch.tensor([700, 40][:count])}


def write_both(model: StableDiffusion, job: Path) -> Path:
    """A LoRA of every set that carries a learned word of one token, and a word of three vectors as an embedding.

    The embedding stands alone and in a LoRA's file.
    """
    random = torch.Generator().manual_seed(9)
    vectors = {
        which.embedding: torch.randn(3, encoder.config.hidden_size, generator=random).half().float() * 0.1
        for which, encoder in zip(model.family.text_encoders, model.text_encoders, strict=True)
    }
    layers = random_adapter(model, SETS)
    adapter = replace(layers, embeddings={WORD: vectors})
    (job / "embeddings").mkdir()
    write_embedding(adapter, job / "embeddings" / "word.safetensors")
    write_lora(adapter, job / "embeddings" / "lora.safetensors")
    words = LearnedTokens(model, [TokenSpec(CARRIED, "cat")])
    for vector in words.parameters.values():
        vector.copy_(torch.randn(vector.shape, generator=random).half() * 0.1)
    told = {WORD: vectors, **words.extract()}
    write_lora(
        replace(layers, factors=layers.factors | words.table_factors(), embeddings=told), job / "lora.safetensors"
    )
    words.remove()
    write_others(vectors, job / "embeddings")
    return job / "lora.safetensors"


def write_others(vectors: dict[str, torch.Tensor], folder: Path) -> None:
    """Embeddings in other forms and places, of other lengths."""
    first = next(iter(vectors.values()))
    (folder / "sub").mkdir()
    names = vectors if len(vectors) > 1 else {"emb_params": first}
    save = safetensors.torch.save_file
    save({kind: v.flip(0).contiguous() for kind, v in names.items()}, folder / "sub" / "inner.safetensors")
    save({kind: v[0].clone() for kind, v in names.items()}, folder / "one.safetensors")
    save({kind: v.repeat(11, 1) * 0.9 for kind, v in names.items()}, folder / "many.safetensors")
    old = {"string_to_param": {"*": first * 0.5}, "name": "old"} if len(vectors) == 1 else dict(vectors)
    torch.save(old, folder / "old.pt")


def check_prompts(model: StableDiffusion, answer: Answer) -> None:
    """Weights, escapes, embeddings and long prompts give ComfyUI's states."""
    plain = model.encode_prompts(PROMPTS)
    for number, prompt in enumerate(PROMPTS):
        found = model.encode_weighted([prompt])
        close(found["hidden"], answer.tensors[f"prompt{number}_hidden"])
        if "pooled" in found:
            close(found["pooled"], answer.tensors[f"prompt{number}_pooled"])
        same = found["hidden"].shape == plain["hidden"][:1].shape and torch.allclose(
            found["hidden"], plain["hidden"][number], atol=1e-3
        )
        assert same == (prompt in LITERAL)
    together = model.encode_weighted(PROMPTS)
    assert len(together) == len(PROMPTS)
    close(together.take([7])["hidden"], answer.tensors["prompt7_hidden"])


def check_weighted_picture(model: StableDiffusion, answer: Answer, options: SamplingOptions) -> None:
    """A sampling run from such prompts, whose lengths differ, gives ComfyUI's latents."""
    options = replace(options, negative=DRAWN[1])
    close(sample_latents(model, DRAWN[:1], [5], options), answer.tensors["weighted"])
    assert (
        sample_latents(model, ["a photo of a red cat"], [5], options) - answer.tensors["weighted"]
    ).abs().max() > 0.05


def check_words(model: StableDiffusion, answer: Answer) -> None:
    """A prompt with the learned word gives ComfyUI's states, whichever file it reads the word from."""
    conditioning = encode_prompts(model, [LEARNED.format(WORD)])
    for name in ("word", "lora"):
        close(conditioning["hidden"], answer.tensors[f"{name}_hidden"], 1e-3)
        if "pooled" in conditioning:
            close(conditioning["pooled"], answer.tensors[f"{name}_pooled"], 1e-3)
    plain = encode_prompts(model, [LEARNED.format("rare")])
    assert (plain["hidden"] - conditioning["hidden"]).abs().max() > 0.05


def check_outputs(model: StableDiffusion, answer: Answer, inputs: dict[str, torch.Tensor], base: torch.Tensor) -> None:
    """Text states and predictions agree to 1e-4, learned words too, and the LoRA had an effect."""
    check_words(model, answer)
    conditioning = encode_prompts(model, [PROMPT])
    assert CARRIED in model.learned_tokens
    close(conditioning["hidden"], answer.tensors["hidden"])
    if "pooled" in conditioning:
        close(conditioning["pooled"], answer.tensors["pooled"])
    count = len(inputs["latents"])
    prediction = denoise(model, inputs["latents"], inputs["timesteps"], conditioning.repeat(count))
    close(prediction, answer.tensors["prediction"])
    assert (prediction - base).abs().max() > 0.05


def close(mine: torch.Tensor, theirs: torch.Tensor, tolerance: float = 1e-4) -> None:
    assert mine.shape == theirs.shape
    assert (mine - theirs).abs().max() <= tolerance * max(1.0, theirs.abs().max().item())


def check_tokens(model: StableDiffusion, answer: Answer) -> None:
    """The ids that each encoder is given, padding included, are ComfyUI's."""
    for name, tokenizer, encoder in zip("lg", model.tokenizers, model.text_encoders, strict=False):
        name = {"sd2": "h"}.get(model.family.name, name)
        window = encoder.config.max_position_embeddings
        row = model.tokens.row(tokenizer, window, PROMPT, {}, model.device)
        assert row.ids.tolist() == answer.tensors[f"tokens_{name}"].tolist()


def opened(path: Path, comfyui: Path, clip_skip: int = 0):
    base, vocabulary = base_from_path(path, clip_skip=clip_skip), comfyui / "comfy/sd1_tokenizer"
    return open_base(base, "cpu", tokenizer_folder=vocabulary, embedding_folders=[path.parent / "embeddings"])


@pytest.mark.parametrize("clip_skip", [0, 2])
@torch.no_grad()
def test_sd1_outputs_and_pictures(comfyui_path: Path, tmp_path: Path, clip_skip: int):
    text = TextShape(layers=2)
    shape = UNetShape(multipliers=(1, 1), depths=(1, 0), context=768)
    path = checkpoints.save(checkpoints.sd1(shape, text, VaeShape()), tmp_path / "checkpoint.safetensors")
    with opened(path, comfyui_path, clip_skip) as model:
        write_both(model, tmp_path)
        inputs = noisy(model, 8, 2)
        answer = ask_comfyui(
            comfyui_path,
            tmp_path,
            inputs,
            pixels=True,
            steps=7,
            guidance=4.0,
            clip_skip=clip_skip,
            text_options={"clip_l_model_config": {"num_hidden_layers": text.layers}},
        )
        assert answer.report["unmatched"] == []
        check_tokens(model, answer)
        base = denoise(model, inputs["latents"], inputs["timesteps"], encode_prompts(model, [PROMPT]).repeat(2))
        with applied(model, [(read_lora(tmp_path / "lora.safetensors"), 1.0)]):
            check_outputs(model, answer, inputs, base)
            check_prompts(model, answer)
            options = SamplingOptions(64, 64, steps=7, guidance=4.0, negative=NEGATIVE)
            check_weighted_picture(model, answer, options)
            picture = sample(model, [PROMPT], [5], options)
        assert (picture - answer.tensors["picture"]).abs().max() <= 1e-3
        without = sample(model, [PROMPT], [5], options)
        assert (without - answer.tensors["picture"]).abs().max() > 0.05


def check_latents(model: StableDiffusion, answer: Answer, lora: Path) -> None:
    """A sampling run with the LoRA on gives ComfyUI's latents, and the base alone does not."""
    options = SamplingOptions(64, 64, steps=4, guidance=3.0, negative=NEGATIVE)
    with applied(model, [(read_lora(lora), 1.0)]):
        close(sample_latents(model, [PROMPT], [5], options), answer.tensors["latents"], 1e-3)
        check_prompts(model, answer)
        check_weighted_picture(model, answer, options)
    assert (sample_latents(model, [PROMPT], [5], options) - answer.tensors["latents"]).abs().max() > 0.05


@torch.no_grad()
def test_sd2_outputs_and_latents(comfyui_path: Path, tmp_path: Path):
    text = TextShape(width=1024, layers=3, inner=4096)
    shape = UNetShape(multipliers=(1, 1), depths=(1, 0), context=1024, linear=True)
    path = checkpoints.save(checkpoints.sd2(shape, text, THIN), tmp_path / "checkpoint.safetensors")
    with opened(path, comfyui_path) as model:
        lora = write_both(model, tmp_path)
        inputs = noisy(model, 8, 2)
        options = {"clip_h_model_config": {"num_hidden_layers": text.layers}}
        answer = ask_comfyui(comfyui_path, tmp_path, inputs, steps=4, guidance=3.0, text_options=options)
        assert answer.report["unmatched"] == []
        check_tokens(model, answer)
        base = denoise(model, inputs["latents"], inputs["timesteps"], encode_prompts(model, [PROMPT]).repeat(2))
        with applied(model, [(read_lora(lora), 1.0)]):
            check_outputs(model, answer, inputs, base)
        check_latents(model, answer, lora)


@torch.no_grad()
def test_sdxl_with_velocity_and_zero_snr(comfyui_path: Path, tmp_path: Path):
    """Real transformer depths and full-size text encoders; the markers that NoobAI-like files carry."""
    shape = UNetShape(
        multipliers=(1, 1, 1), layers=2, depths=(0, 2, 10), middle=10, context=2048, linear=True, added=2816
    )
    texts = TextShape(layers=12), TextShape(width=1280, layers=32, inner=5120)
    tensors = checkpoints.sdxl(shape, texts, THIN, dtype=torch.float16)
    tensors |= {"v_pred": torch.empty(0), "ztsnr": torch.empty(0)}
    path = checkpoints.save(tensors, tmp_path / "checkpoint.safetensors")
    del tensors
    with opened(path, comfyui_path) as model:
        assert model.ref.prediction == "v_prediction" and model.ref.zero_snr
        lora = write_both(model, tmp_path)
        inputs = noisy(model, 8)
        answer = ask_comfyui(comfyui_path, tmp_path, inputs, sdxl=True, steps=4, guidance=3.0)
        assert answer.report["unmatched"] == []
        assert answer.report["prediction"] == "V_PREDICTION"
        check_tokens(model, answer)
        base = denoise(model, inputs["latents"], inputs["timesteps"], encode_prompts(model, [PROMPT]))
        with applied(model, [(read_lora(lora), 1.0)]):
            check_outputs(model, answer, inputs, base)
        check_latents(model, answer, lora)
