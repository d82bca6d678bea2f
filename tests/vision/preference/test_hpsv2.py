"""HPSv2's published form gives what a plain implementation of open_clip's towers gives, and is converted once."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import conv2d, gelu, layer_norm, linear

from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.core.values import Prompt
from comfyui_fewshot.core.weight_files import file_hash
from comfyui_fewshot.evaluation.metrics.preference import HumanPreference
from comfyui_fewshot.pocket.world.words import build
from comfyui_fewshot.vision.embedders.clip import MEAN, STD, Clip
from comfyui_fewshot.vision.preference.hpsv2 import clip_of, converted

SEEN, READ, SHARED, LENGTH, SIDE, PATCH = 160, 128, 32, 32, 32, 8
PROMPTS = [Prompt("a sks cat on the beach", "a cat on the beach"), Prompt("a car", "a car")]


def published(vocabulary, seed=0):
    """Random weights with open_clip's names."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*size):
        return torch.randn(size, generator=generator) * size[-1] ** -0.5

    found = {
        "visual.class_embedding": noise(SEEN),
        "visual.positional_embedding": noise((SIDE // PATCH) ** 2 + 1, SEEN),
        "visual.conv1.weight": noise(SEEN, 3, PATCH, PATCH),
        "visual.proj": noise(SEEN, SHARED),
        "token_embedding.weight": noise(vocabulary, READ),
        "positional_embedding": noise(LENGTH, READ),
        "text_projection": noise(READ, SHARED),
        "logit_scale": torch.tensor(2.0),
    }
    pairs = {"visual.ln_pre": (SEEN,), "visual.ln_post": (SEEN,), "ln_final": (READ,)}
    for tower, width in (("visual.", SEEN), ("", READ)):
        for number in range(2):
            at = f"{tower}transformer.resblocks.{number}."
            pairs |= {at + "ln_1": (width,), at + "ln_2": (width,), at + "attn.out_proj": (width, width)}
            pairs |= {at + "mlp.c_fc": (2 * width, width), at + "mlp.c_proj": (width, 2 * width)}
            found[at + "attn.in_proj_weight"], found[at + "attn.in_proj_bias"] = (
                noise(3 * width, width),
                noise(3 * width),
            )
    for name, size in pairs.items():
        found[name + ".weight"] = noise(*size) + (len(size) == 1)
        found[name + ".bias"] = noise(size[0])
    return found


def tower(weights, x, at, head, causal):
    """Two blocks (L, D) with pre-norm, as in Radford et al. 2021, section 2.4."""

    def norm(x, name):
        return layer_norm(x, x.shape[-1:], weights[name + ".weight"], weights[name + ".bias"], 1e-5)

    def affine(x, name):
        return linear(x, weights[name + ".weight"], weights[name + ".bias"])

    for number in range(2):
        block = f"{at}transformer.resblocks.{number}."
        inner = norm(x, block + "ln_1")
        mixed = linear(inner, weights[block + "attn.in_proj_weight"], weights[block + "attn.in_proj_bias"])
        q, k, v = (part.unflatten(-1, (-1, head)).transpose(0, 1) for part in mixed.chunk(3, -1))
        logits = q @ k.transpose(1, 2) / math.sqrt(head)
        if causal:
            logits = logits.masked_fill(torch.ones(len(x), len(x)).triu(1).bool(), -math.inf)
        x = x + affine((logits.softmax(-1) @ v).transpose(0, 1).flatten(1), block + "attn.out_proj")
        x = x + affine(gelu(affine(norm(x, block + "ln_2"), block + "mlp.c_fc")), block + "mlp.c_proj")
    return x


def plain(weights, image, ids):
    """The cosine of one picture and one text."""
    values = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255
    values = (values - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    x = conv2d(values[None], weights["visual.conv1.weight"], stride=PATCH)[0].flatten(1).T
    x = torch.cat([weights["visual.class_embedding"][None], x]) + weights["visual.positional_embedding"]
    x = layer_norm(x, (SEEN,), weights["visual.ln_pre.weight"], weights["visual.ln_pre.bias"])
    x = tower(weights, x, "visual.", 80, causal=False)[0]
    x = (
        layer_norm(x, (SEEN,), weights["visual.ln_post.weight"], weights["visual.ln_post.bias"])
        @ weights["visual.proj"]
    )
    y = weights["token_embedding.weight"][ids] + weights["positional_embedding"][: len(ids)]
    y = layer_norm(
        tower(weights, y, "", 64, causal=True), (READ,), weights["ln_final.weight"], weights["ln_final.bias"]
    )[-1]
    return float(torch.cosine_similarity(x, y @ weights["text_projection"], dim=0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("hps")
    torch.save({"state_dict": published(len(build(path)))}, path / "HPS_v2.1_compressed.pt")
    return path


def test_equals_the_plain_implementation(folder):
    images = [Image.fromarray(np.random.default_rng(n).integers(0, 256, (SIDE, SIDE, 3), np.uint8)) for n in (0, 1)]
    metric = HumanPreference(folder)
    mine = metric.scores(images, PROMPTS)
    tokenizer = metric.model.tokenizer
    weights = published(len(tokenizer))
    assert tokenizer.eos_token_id == len(tokenizer) - 1
    wanted = [
        plain(weights, image, torch.tensor(tokenizer(prompt.stripped).input_ids))
        for image, prompt in zip(images, PROMPTS, strict=True)
    ]
    assert mine.tolist() == pytest.approx(wanted, abs=1e-5) and abs(wanted[0] - wanted[1]) > 1e-3
    made = folder / "model.safetensors"
    before = made.stat().st_mtime_ns
    assert torch.equal(HumanPreference(folder).scores(images, PROMPTS), mine)
    assert made.stat().st_mtime_ns == before, "converted once"


def test_a_published_file_that_was_replaced_is_converted_anew(tmp_path):
    words = len(build(tmp_path))
    first, second, later = (published(words, seed) for seed in range(3))
    file = tmp_path / "HPS_v2_compressed.pt"

    def seen():
        model = Clip(converted(tmp_path)).model
        return model.visual_projection.weight, HumanPreference(tmp_path).model_id

    torch.save(first, file)
    weights, told = seen()
    assert torch.equal(weights, first["visual.proj"].T)
    assert told == f"{tmp_path.name} (HPS_v2_compressed) ViT-160x2/8 {file_hash(file)[:8]}"
    torch.save(second, file)
    weights, again = seen()
    assert torch.equal(weights, second["visual.proj"].T) and again != told
    torch.save(later, tmp_path / "HPS_v2.1_compressed.pt")
    weights, newer = seen()
    assert torch.equal(weights, later["visual.proj"].T) and "(HPS_v2.1_compressed)" in newer, "the latest version"
    for path in tmp_path.glob("*.pt"):
        path.unlink()
    weights, alone = seen()
    assert torch.equal(weights, later["visual.proj"].T) and alone == newer, "what was made of it is enough"


def test_a_model_that_somebody_put_there_stays(tmp_path, caplog):
    words = len(build(tmp_path))
    clip_of(published(words)).save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    torch.save(published(words, 1), tmp_path / "HPS_v2.1_compressed.pt")
    assert converted(tmp_path) == tmp_path and "HPS_v2.1_compressed.pt is not read" in caplog.text
    assert all((tmp_path / name).read_bytes() == data for name, data in before.items())


def test_what_is_missing_is_named(tmp_path):
    weights = published(40)
    del weights["ln_final.bias"]
    with pytest.raises(FewShotError, match="text_model.final_layer_norm.bias lacks"):
        clip_of(weights)
    del weights["visual.proj"]
    with pytest.raises(FewShotError, match="no whole open_clip ViT-H"):
        clip_of(weights)
    (tmp_path / "HPS_v2_compressed.pt").write_bytes(b"nothing")
    with pytest.raises(FewShotError, match="HPS_v2_compressed.pt cannot be read"):
        converted(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["HPS_v2_compressed.pt"]
