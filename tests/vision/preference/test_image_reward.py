"""The port of ImageReward equals a plain implementation on random weights, and the published values where they are."""

import hashlib
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import conv2d, gelu, layer_norm, linear
from transformers import BertTokenizer

from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.core.values import Prompt
from comfyui_fewshot.evaluation.metrics.preference import ImageReward
from comfyui_fewshot.vision.preference.image_reward import CONVERTED, PUBLISHED, ImageRewardModel

SEEN, READ, DEEP, PATCH, GRID = 128, 64, 2, 8, 4
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "cat", "on", "the", "beach", "sks"]
NAMED = "FEWSHOT_IMAGE_REWARD"
"""a variable that names a folder with ImageReward.pt, vocab.txt of bert-base-uncased, and the authors' pictures"""
PICTURES = [f"{number}.webp" for number in range(1, 5)]


def golden():
    """That folder, or else the one in ComfyUI's models where Evaluate LoRA finds the checkpoint."""
    if NAMED in os.environ:
        return Path(os.environ[NAMED])
    models = Path(os.environ["COMFYUI_PATH"]) / "models"
    folders = [folder for root in ("clip_vision", "rewards") for folder in sorted((models / root).glob("*"))]
    return next((f for f in folders if (f / PUBLISHED).is_file() or (f / CONVERTED).is_file()), None)


def published(seed=0):
    """Random weights with the published checkpoint's names."""
    torch.manual_seed(seed)
    sizes = {
        "visual_encoder.cls_token": (1, 1, SEEN),
        "visual_encoder.pos_embed": (1, GRID * GRID + 1, SEEN),
        "visual_encoder.patch_embed.proj.weight": (SEEN, 3, PATCH, PATCH),
        "visual_encoder.patch_embed.proj.bias": (SEEN,),
        "text_encoder.embeddings.word_embeddings.weight": (len(WORDS), READ),
        "text_encoder.embeddings.position_embeddings.weight": (40, READ),
        "vision_proj.weight": (8, SEEN),
    }
    pairs = {"visual_encoder.norm": (SEEN, None), "text_encoder.embeddings.LayerNorm": (READ, None)}
    for n in range(DEEP):
        block, layer = f"visual_encoder.blocks.{n}.", f"text_encoder.encoder.layer.{n}."
        pairs |= {block + "norm1": (SEEN, None), block + "norm2": (SEEN, None)}
        pairs |= {block + "attn.qkv": (3 * SEEN, SEEN), block + "attn.proj": (SEEN, SEEN)}
        pairs |= {block + "mlp.fc1": (4 * SEEN, SEEN), block + "mlp.fc2": (SEEN, 4 * SEEN)}
        for kind, width in (("attention", READ), ("crossattention", SEEN)):
            pairs |= {f"{layer}{kind}.self.{what}": (READ, width) for what in ("key", "value")}
            pairs |= {f"{layer}{kind}.self.query": (READ, READ), f"{layer}{kind}.output.dense": (READ, READ)}
            pairs[f"{layer}{kind}.output.LayerNorm"] = (READ, None)
        pairs |= {layer + "intermediate.dense": (3 * READ, READ), layer + "output.dense": (READ, 3 * READ)}
        pairs[layer + "output.LayerNorm"] = (READ, None)
    weights = {f"blip.{name}": 0.3 * torch.randn(size) for name, size in sizes.items()}
    for name, (out, into) in pairs.items():
        size = (out,) if into is None else (out, into)
        weights[f"blip.{name}.weight"] = (into is None) + torch.randn(size) * (0.1 if into is None else into**-0.5)
        weights[f"blip.{name}.bias"] = 0.1 * torch.randn(out)
    weights["blip.text_encoder.embeddings.position_ids"] = torch.arange(40)[None]
    for number, (out, into) in zip((0, 2, 4, 6, 7), ((32, READ), (16, 32), (8, 16), (4, 8), (1, 4)), strict=True):
        weights[f"mlp.layers.{number}.weight"] = torch.randn(out, into) * into**-0.5
        weights[f"mlp.layers.{number}.bias"] = torch.randn(out)
    return weights


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("reward")
    torch.save(published(), path / PUBLISHED)
    (path / "vocab.txt").write_text("\n".join(WORDS))
    BertTokenizer(str(path / "vocab.txt")).save_pretrained(path)
    return path


def plain(weights, picture, ids):
    """One picture (3, S, S) and its ids without padding, written from the papers' equations."""

    def get(name):
        return weights[f"blip.{name}"]

    def affine(x, name):
        return linear(x, get(name + ".weight"), get(name + ".bias"))

    def norm(x, name, eps):
        return layer_norm(x, x.shape[-1:], get(name + ".weight"), get(name + ".bias"), eps)

    def attend(q, k, v):
        q, k, v = (x.unflatten(-1, (-1, 64)).transpose(0, 1) for x in (q, k, v))
        return (torch.softmax(q @ k.transpose(1, 2) / math.sqrt(64), -1) @ v).transpose(0, 1).flatten(1)

    name = "visual_encoder.patch_embed.proj"
    x = conv2d(picture[None], get(name + ".weight"), get(name + ".bias"), PATCH)[0].flatten(1).T
    x = torch.cat([get("visual_encoder.cls_token")[0], x]) + get("visual_encoder.pos_embed")[0]
    for n in range(DEEP):
        at = f"visual_encoder.blocks.{n}."
        q, k, v = affine(norm(x, at + "norm1", 1e-6), at + "attn.qkv").chunk(3, -1)
        x = x + affine(attend(q, k, v), at + "attn.proj")
        x = x + affine(gelu(affine(norm(x, at + "norm2", 1e-6), at + "mlp.fc1")), at + "mlp.fc2")
    seen = norm(x, "visual_encoder.norm", 1e-6)
    at = "text_encoder.embeddings."
    y = get(at + "word_embeddings.weight")[ids] + get(at + "position_embeddings.weight")[: len(ids)]
    y = norm(y, at + "LayerNorm", 1e-12)
    for n in range(DEEP):
        for kind in ("attention", "crossattention"):
            at = f"text_encoder.encoder.layer.{n}.{kind}."
            source = y if kind == "attention" else seen
            got = attend(
                affine(y, at + "self.query"), affine(source, at + "self.key"), affine(source, at + "self.value")
            )
            y = norm(affine(got, at + "output.dense") + y, at + "output.LayerNorm", 1e-12)
        at = f"text_encoder.encoder.layer.{n}."
        inner = affine(gelu(affine(y, at + "intermediate.dense")), at + "output.dense")
        y = norm(inner + y, at + "output.LayerNorm", 1e-12)
    z = y[0]
    for number in (0, 2, 4, 6, 7):
        z = linear(z, weights[f"mlp.layers.{number}.weight"], weights[f"mlp.layers.{number}.bias"])
    return (z.item() - 0.16717362830052426) / 1.0333394966054072


def noise(seed, size=(32, 32)):
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values)


PROMPTS = [Prompt("a sks cat on the beach", "a cat on the beach"), Prompt("a red sks cat", "a red cat")]


def test_equals_the_plain_implementation(folder):
    images = [noise(0), noise(1)]
    mine = ImageReward(folder).scores(images, PROMPTS)
    weights = published()
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
    for image, prompt, score in zip(images, PROMPTS, mine.tolist(), strict=True):
        values = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255
        ids = [2, *(WORDS.index(word) for word in prompt.stripped.split()), 3]
        assert score == pytest.approx(plain(weights, (values - mean) / std, torch.tensor(ids)), abs=1e-5)
    assert abs(mine[0] - mine[1]) > 1e-3, "the two are told apart"


def test_it_is_kept_as_safetensors_and_reads_the_same(folder, tmp_path):
    images = [noise(number) for number in range(11)]
    prompts = [PROMPTS[number % 2] for number in range(11)]
    first = ImageReward(folder).scores(images, prompts)
    assert (folder / CONVERTED).is_file()
    for name in (CONVERTED, "vocab.txt", "tokenizer_config.json", "tokenizer.json"):
        if (folder / name).is_file():
            (tmp_path / name).write_bytes((folder / name).read_bytes())
    again = ImageReward(tmp_path)
    one_by_one = torch.cat([again.scores([i], [p]) for i, p in zip(images, prompts, strict=True)])
    assert torch.allclose(first, one_by_one, atol=1e-5), "without the published file, and in batches of one"
    told = hashlib.sha256((folder / PUBLISHED).read_bytes()).hexdigest()[:8]
    assert again.model_id == ImageReward(folder).model_id == f"ImageReward BLIP {told}"


def test_a_published_file_that_was_replaced_is_read_anew(folder, tmp_path):
    images = [noise(0), noise(1)]
    for name in (CONVERTED, "vocab.txt", "tokenizer_config.json", "tokenizer.json"):
        if (folder / name).is_file():
            (tmp_path / name).write_bytes((folder / name).read_bytes())
    torch.save(published(), tmp_path / PUBLISHED)
    first = ImageReward(tmp_path)
    scores, told, kept = first.scores(images, PROMPTS), first.model_id, (tmp_path / CONVERTED).stat().st_mtime_ns
    assert torch.equal(ImageReward(tmp_path).scores(images, PROMPTS), scores)
    assert (tmp_path / CONVERTED).stat().st_mtime_ns == kept, "read once"
    torch.save(published(1), tmp_path / PUBLISHED)
    other = ImageReward(tmp_path)
    assert not torch.allclose(other.scores(images, PROMPTS), scores, atol=1e-2)
    assert other.model_id != told


def test_what_is_missing_is_named(folder, tmp_path):
    with pytest.raises(FewShotError, match=f"there is no {PUBLISHED} in .*; put the file"):
        ImageRewardModel(tmp_path)
    torch.save({"blip.visual_encoder.cls_token": torch.zeros(1)}, tmp_path / PUBLISHED)
    with pytest.raises(FewShotError, match="are not ImageReward's"):
        ImageRewardModel(tmp_path).rewards([noise(0)], ["a cat"])
    short = published()
    del short["blip.visual_encoder.norm.bias"]
    torch.save(short, tmp_path / PUBLISHED)
    with pytest.raises(FewShotError, match="lacks weights"):
        ImageRewardModel(tmp_path).rewards([noise(0)], ["a cat"])
    (tmp_path / CONVERTED).unlink()
    torch.save(published(), tmp_path / PUBLISHED)
    with pytest.raises(FewShotError, match="holds no tokenizer"):
        ImageRewardModel(tmp_path).rewards([noise(0)], ["a cat"])
    (tmp_path / CONVERTED).unlink()
    (tmp_path / PUBLISHED).write_bytes(b"no weights")
    with pytest.raises(FewShotError, match="cannot be read"):
        ImageRewardModel(tmp_path).rewards([noise(0)], ["a cat"])


def test_the_published_values():
    """Runs in full where the checkpoint is; elsewhere it asserts that nobody named a folder of it."""
    folder = golden()
    if folder is None:
        assert NAMED not in os.environ
        return
    lacking = [name for name in PICTURES if not (folder / name).is_file()]
    assert not lacking, f"{folder} lacks {', '.join(lacking)}: put ImageReward's assets/images there"
    text = "a painting of an ocean with clouds and birds, day time, low depth field effect"
    images = [Image.open(folder / name).convert("RGB") for name in PICTURES]
    scores = ImageReward(folder).scores(images, [Prompt(text, text)] * 4)
    assert scores.tolist() == pytest.approx([0.5811623, 0.2745276, -1.4131819, -2.0295696], abs=1e-2)


def test_a_vocabulary_alone_is_a_tokenizer_and_the_reward_has_a_gradient(folder, tmp_path):
    torch.save(published(), tmp_path / PUBLISHED)
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
    alone, whole = ImageRewardModel(tmp_path), ImageRewardModel(folder)
    text = "a RED cat on the beach"
    assert alone.tokenizer(text).input_ids == whole.tokenizer(text).input_ids
    picture = Image.new("RGB", (48, 40), (200, 40, 90))
    pixels = torch.tensor([200.0, 40.0, 90.0]).view(1, 3, 1, 1).expand(1, 3, 40, 48) / 255
    pixels = pixels.clone().requires_grad_(True)
    found = ImageReward(tmp_path).gradient(pixels, [Prompt(text, text)])
    torch.testing.assert_close(found.detach(), alone.rewards([picture], [text]), atol=1e-4, rtol=1e-4)
    (gradient,) = torch.autograd.grad(found.sum(), pixels)
    assert gradient.abs().max() > 0
