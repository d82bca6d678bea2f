"""The pocket's CLIPModel and CLIPSegForImageSegmentation, trained on captions that name patterns and relations."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPSegConfig,
    CLIPSegForImageSegmentation,
    CLIPTokenizer,
)

from ..world import world
from ..world.words import LENGTH
from . import reader

SEED = 41
WIDTH = 128


def _text(tokenizer: CLIPTokenizer) -> dict:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "projection_dim": WIDTH,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": LENGTH,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


VISION = {
    "hidden_size": WIDTH,
    "intermediate_size": 4 * WIDTH,
    "projection_dim": WIDTH,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "image_size": world.SIZE,
    "patch_size": 8,
}


def build_clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    return CLIPModel(CLIPConfig(text_config=_text(tokenizer), vision_config=VISION, projection_dim=WIDTH))


def processor() -> CLIPImageProcessor:
    half = [0.5, 0.5, 0.5]
    return CLIPImageProcessor(
        size={"shortest_edge": world.SIZE}, crop_size=world.SIZE, image_mean=half, image_std=half, do_convert_rgb=True
    )


class ClipWithReadingHead(nn.Module):
    """CLIP with an auxiliary reading head on its patches, which is dropped after training.

    Naming what each picture holds teaches the vision tower much faster than matching captions alone.
    """

    def __init__(self, clip: CLIPModel):
        super().__init__()
        self.clip = clip
        total = sum(sum(group.values()) for group in reader.ANSWERS)
        self.squeeze = nn.Linear(WIDTH, 24)
        self.read = nn.Linear(24 * (world.SIZE // VISION["patch_size"]) ** 2, total)

    def forward(self, pictures, tokens):
        vision_output = self.clip.vision_model(pictures)
        image = nn.functional.normalize(self.clip.visual_projection(vision_output.pooler_output), dim=-1)
        text = self.clip.text_projection(self.clip.text_model(tokens).pooler_output)
        text = nn.functional.normalize(text, dim=-1)
        patches = self.squeeze(vision_output.last_hidden_state[:, 1:]).flatten(1)
        return self.clip.logit_scale.exp().clamp(max=100) * text @ image.T, self.read(patches)


def clip_loss(model: ClipWithReadingHead, tokenizer: CLIPTokenizer, batches, device: torch.device):
    """Symmetric contrastive loss (Radford et al. 2021) over the batch, and the auxiliary reading."""

    def loss(step: int):
        scenes, pictures, _ = next(batches)
        rng = world.rng_of(SEED, step)
        captions = [world.caption(s, rng, with_look=0.9, placed=0.9, named_hidden=True, and_share=0.0) for s in scenes]
        tokens = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids.to(device)
        with torch.autocast(device.type, torch.bfloat16):
            logits, answers = model(pictures.float().div_(127.5).sub_(1).to(device), tokens)
        logits, target = logits.float(), torch.arange(len(scenes), device=device)
        match = (nn.functional.cross_entropy(logits, target) + nn.functional.cross_entropy(logits.T, target)) / 2
        reading = reader.reading_loss(answers.float(), scenes)
        top = (logits.argmax(1) == target).float().mean()
        return match + 0.3 * reading, {"top1": round(float(top), 3), "match": round(float(match.detach()), 3)}

    return loss


def build_clipseg(clip: CLIPModel) -> CLIPSegForImageSegmentation:
    """A CLIPSeg whose towers are the fitted CLIP's and whose decoder is new."""
    config = CLIPSegConfig(
        text_config=clip.config.text_config.to_dict(),
        vision_config=clip.config.vision_config.to_dict(),
        projection_dim=WIDTH,
        extract_layers=[1, 3, 4],
        reduce_dim=96,
        decoder_num_attention_heads=4,
        decoder_intermediate_size=384,
        conditional_layer=0,
        use_complex_transposed_convolution=True,
    )
    model = CLIPSegForImageSegmentation(config)
    towers = model.clip.state_dict()
    model.clip.load_state_dict({k: v for k, v in clip.state_dict().items() if k in towers}, strict=True)
    for part in model.decoder.modules():
        if isinstance(part, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            part.reset_parameters()  # transformers starts them with a deviation of 1, from which little is learned
    return model


def segment(model: CLIPSegForImageSegmentation, pictures: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """The logits of the model's own forward pass, but with gradients into both towers, which that one keeps frozen.

    `tokens` may hold several phrases for each picture, one picture's after another's: it is then encoded only once.
    """
    vision_output = model.clip.vision_model(pixel_values=pictures, output_hidden_states=True).hidden_states
    words = model.clip.get_text_features(tokens).pooler_output
    times = len(tokens) // len(pictures)
    return model.decoder([vision_output[i + 1].repeat_interleave(times, 0) for i in model.extract_layers], words).logits


def phrases_and_masks(scene: world.Scene, masks: torch.Tensor, rng) -> list[tuple[str, torch.Tensor]]:
    """Two phrases ("a cat", "a red cat") with their masks: for both things, or for the only one and an absent one.

    Both things of one picture together train the model to separate them where they touch.
    """
    absent = [noun for noun in world.CLASSES if noun not in {t.noun for t in scene.things}]
    phrases = []
    for slot, thing in enumerate(scene.things):
        words = world.thing_words(replace(thing, accessory=None), bool(rng.random() < 0.4))
        phrases.append((words, masks[slot]))
    nothing = (f"a {absent[int(rng.integers(len(absent)))]}", torch.zeros_like(masks[0]))
    return [*phrases, nothing][:2]


def full_size(logits: torch.Tensor) -> torch.Tensor:
    """CLIPSeg's logits (N, 32, 32) at the size of the pictures: its decoder gives 4 x 4 values a patch."""
    return nn.functional.interpolate(logits[:, None], size=world.SIZE, mode="bilinear", align_corners=False)[:, 0]


def clipseg_loss(model: CLIPSegForImageSegmentation, tokenizer: CLIPTokenizer, batches, device: torch.device):
    """Binary cross-entropy and soft Dice of the phrase's mask."""

    def loss(step: int):
        scenes, pictures, masks = next(batches)
        rng = world.rng_of(SEED + 1, step)
        phrases = [a for s, m in zip(scenes, masks, strict=True) for a in phrases_and_masks(s, m, rng)]
        tokens = tokenizer([p for p, _ in phrases], padding="max_length", truncation=True, return_tensors="pt")
        target = torch.stack([m for _, m in phrases]).float().to(device)
        with torch.autocast(device.type, torch.bfloat16):
            logits = segment(model, pictures.float().div_(127.5).sub_(1).to(device), tokens.input_ids.to(device))
        logits = full_size(logits.float())
        share = torch.sigmoid(logits)
        both = (share * target).sum((1, 2))
        dice = 1 - (2 * both + 1) / (share.sum((1, 2)) + target.sum((1, 2)) + 1)
        iou = ((logits > 0) & (target > 0)).sum() / ((logits > 0) | (target > 0)).sum().clamp(min=1)
        value = nn.functional.binary_cross_entropy_with_logits(logits, target) + dice.mean()
        return value, {"iou": round(float(iou), 3)}

    return loss
