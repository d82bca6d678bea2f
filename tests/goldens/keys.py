"""Content keys of values that a person may have on disk or in a graph: by them a finished run is found again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from comfyui_fewshot.augmentation.priors.generate import PriorSettings
from comfyui_fewshot.core.values import (
    NOISY_FROM,
    Adapter,
    BaseModelRef,
    Concept,
    Dense,
    Kept,
    LowRank,
    Part,
    Picture,
    Prompt,
    PromptSet,
    Sample,
    TrainingSet,
    content_key,
)
from comfyui_fewshot.trainers.refine.settings import RefinementSettings
from comfyui_fewshot.trainers.relation.settings import RelationSettings
from comfyui_fewshot.trainers.subject.settings import SubjectSettings

SUBJECT = Concept("sks", "cat", "striped")
RELATION = Concept("<R>", "", "next to", kind="relation")
PICTURE, MASK = (Picture(Path(name), name * 4, 512, 640) for name in ("cat", "mask"))
BASE = BaseModelRef("sd1", Path("model.safetensors"), "b" * 64)
PATH = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"


def content_keys() -> dict[str, str]:
    """The keys by what they are of."""
    plain = Sample(PICTURE, "a photo of a sks cat", MASK)
    pasted = replace(plain, others=(Part(1, MASK),), pasted=True, background=0.25, beside=MASK)
    prior = Sample(PICTURE, "a photo of a cat", role="prior", weight=0.5)
    ramp = torch.arange(8, dtype=torch.float32)
    factors = {PATH: LowRank(ramp.view(4, 2), ramp.view(2, 4), 2.0)}
    adapter = Adapter(factors, "sd1", "sks cat")
    prompts = PromptSet((Prompt("a sks cat", "a cat", "train"), Prompt("a cat", "a cat")), note="not in the key")
    return {
        "parts": content_key("a", 1, 1.5, True, None, ["b", ("c",)], {"d": frozenset("ef")}),
        "tensor float32": content_key(ramp),
        "tensor bfloat16": content_key(ramp.bfloat16()),
        "tensor scalar": content_key(torch.tensor(3)),
        "concept": content_key(SUBJECT),
        "relation": content_key(RELATION),
        "picture": content_key(PICTURE),
        "training set": TrainingSet((plain, prior), (SUBJECT,)).key,
        "training set of composites": TrainingSet((pasted,), (SUBJECT, Concept("zwx", "dog"))).key,
        "training set of a relation": TrainingSet((Sample(PICTURE, "cat <R> car"),), (RELATION,)).key,
        "low-rank factor": content_key(LowRank(ramp.view(4, 2), ramp.view(2, 4), 2.0)),
        "low-rank factor with a middle": content_key(LowRank(ramp, ramp, 2.0, ramp)),
        "full factor": content_key(Dense(ramp, ramp)),
        "factor as read": content_key(Kept({"hada_w1_a": ramp})),
        "adapter": adapter.key,
        "adapter with a word": replace(adapter, embeddings={"sks": {"clip_l": ramp.view(1, 8)}}).key,
        "adapter of noisy times": replace(adapter, metadata={NOISY_FROM: "0.5"}).key,
        "prompts": prompts.key,
        "base": content_key(BASE),
        "priors": PriorSettings().key(BASE, "cat", torch.device("cpu")),
        "subject settings": SubjectSettings().key(),
        "subject settings, changed": SubjectSettings(steps=5, local_weight=0.05, tuning="full", seed=3).key(),
        "subject settings, what does not matter": SubjectSettings(save_every=7, log_every=3, preview_every=2).key(),
        "relation settings": RelationSettings().key(),
        "relation settings, changed": RelationSettings(adversarial="sensible", high_noise_rank=4).key(),
        "refinement settings": RefinementSettings().key(),
        "refinement settings, changed": RefinementSettings(method="grpo", group=4, rank=2, alpha=4.0).key(),
        "relation settings, of every group": RelationSettings(
            steps=9,
            batch_size=2,
            resolution=64,
            token="free",
            token_start="near",
            seed=5,
            warmup=0.1,
            weights="full",
            validate_every=3,
            focal=0.25,
            high_noise_rank=2,
            high_noise_learning_rate=1e-4,
        ).key(),
        "refinement settings, of every group": RefinementSettings(
            steps=4,
            learning_rate=3e-5,
            resolution=64,
            optimizer="prodigy",
            weight_decay=0.1,
            schedule="linear",
            patience=5,
            weights="full",
            preview_every=3,
            method="pairs",
            pair_with="references",
            explore=0.5,
        ).key(),
        "relation settings, what does not matter": RelationSettings(micro_batch=2, offload="on", log_every=3).key(),
    }
