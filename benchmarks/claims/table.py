"""The claims of the methods' documents, each with the rows that measure it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..harness.rows import BenchmarkRow


@dataclass(frozen=True)
class Claim:
    """A claim, its author and published figure, and the rows (of one bench) that measure it."""

    text: str
    theirs: str
    bench: str
    rows: tuple[str, ...]


CLAIMS = (
    Claim("Priors keep the class from turning into the subject", "DreamBooth: shown in pictures", "subject",
          ("priors.drift_ratio",)),
    Claim("Segment-and-paste with the attention loss follows prompts in new places", "poster: shown in pictures",
          "subject", ("poster.*",)),
    Claim("The attention loss brings attention onto the subject", "poster: shown in maps", "subject",
          ("local.iou_before", "local.iou_after")),
    Claim("Tuning more of the network raises likeness", "poster: stated", "subject",
          ("tuning.*",)),
    Claim("Several subjects in one picture stay apart", "poster: shown in pictures", "subject",
          ("multi.both", "multi.gain", "multi.described")),
    Claim("Adapters that were trained apart can be joined", "shown in pictures",
          "subject", ("multi.fused", "multi.summed", "multi.orthogonal")),
    Claim("A detailed description helps rare subjects", "InstructBooth: stated for its first stage", "subject",
          ("description.*",)),
    Claim("The chosen checkpoint is as good as the best fixed one", "this project", "subject", ("auto.gap",)),
    Claim("The default is the best recipe of those that were tried", "this project", "subject",
          ("default.*", "default_lead.*", "recipe.*")),
    Claim("Plain baselines", "CLIP-T / DINO: DreamBooth .310 / .699, Custom Diffusion .323 / .535, Textual Inversion "
          ".271 / .576", "subject", ("baseline.*", "preset.*")),
    Claim("Optimisers and schedules, and a learned word beside the layers, against plain AdamW", "this project",
          "subject", ("optimiser.*",)),
    Claim("Losses of the trade: min-SNR, offset noise and others, against the plain one (baseline.lora)",
          "this project", "subject", ("loss.*",)),
    Claim("A relation is learned from two pictures; captions and the adversarial loss help",
          "entity accuracy 23.96, 28.70 with captions, 28.25 and 26.78 with the adversarial loss", "relation",
          ("entity.*", "relation.ours", "relation.ours_adapter", "relation.reversion", "relation.base_and",
           "relation.captions", "relation.gan_*", "ours.entity_gain", "ours.relation_loss")),
    Claim("A word that the base knows is found again from pictures, and a low-rank way beside it reaches beyond the "
          "base's words", "this project", "relation", ("relation.word*", "relation.entities*", "relation.beyond*")),
    Claim("Relation inversion works with ten pictures", "ReVersion: by a classifier that cannot be had here",
          "relation", ("reversion10.relation",)),
    Claim("Steering and focal sampling help", "ReVersion: ablation", "relation", ("steering.*", "focal.*")),
    Claim("Refinement makes a subject follow actions without losing it",
          "InstructBooth: ImageReward .441 to 1.196, DINO .699 to .650", "refine",
          ("refined.prompt_gain", "refined.subject_share")),
    Claim("Refinement does more than undo overfitting", "this project", "refine",
          ("refined.over_auto", "refined.over_strength")),
    Claim("Prompts with and without the identifier need fewer samples", "InstructBooth: figure 8", "refine",
          ("idmix.samples_ratio",)),
    Claim("Ways of refinement, and the published implementation of DDPO", "this project", "refine",
          ("method.*", "ddpo_baseline.*")),
    Claim("Metrics rank adapters as the judge does", "this project", "evaluate", ("metric.*",)),
    Claim("The invisible mark is found after JPEG and a crop", "this project", "evaluate", ("watermark.*",)),
)  # fmt: skip


@dataclass(frozen=True)
class Unproven:
    """What this page cannot show, since no weights of full size are here: why, the rows that only test code, and the
    command that shows it on a person's own weights; "" where there is none yet."""

    what: str
    why: str
    rows: tuple[str, ...]
    command: str


DREAMBENCH = "run.py bench dreambench --base FILE --pictures FOLDER"
CHECK_MODELS = "run.py check models"
UNPROVEN = (
    Unproven("Likeness and prompt following of photographed subjects, of Train Subject and of plain LoRA training",
             "the rows are of a small model and of drawings", ("baseline.*", "tuning.*", "auto.*", "priors.*"),
             DREAMBENCH),
    Unproven("What refinement gains on photographs, and what it costs of the likeness",
             "the same; and its rewards see little of what full-size ones see", ("refined.*", "method.*"),
             DREAMBENCH),
    Unproven("DINO, ImageReward, and PickScore and HPSv2 as models of their own",
             "the pocket holds one CLIP and no DINO: these rows test the metrics' code", ("metric.pickscore.*",
             "metric.hpsv2.*"), f"{CHECK_MODELS}, and {DREAMBENCH} for their numbers"),
    Unproven("That segmenters (SAM, SAM 2, Grounding DINO, OWLv2, CLIPSeg, Florence-2), captioners and language models "
             "give what a person's pictures need",
             "they were run with small random weights, which tests that they are opened and called rightly", (),
             CHECK_MODELS),
    Unproven("The other presets, several subjects, pasted composites and fused adapters on photographs",
             "the rows are of drawings", ("preset.*", "poster.*", "multi.*", "description.*"), ""),
    Unproven("Relations between photographed things", "the rows are of drawings; ReVersion's own data is not here",
             ("entity.*", "relation.*", "reversion10.*"), ""),
    Unproven("Subjects on Z-Image, FLUX.2 klein and other families in ComfyUI's own network",
             "small networks of ComfyUI's classes with random weights were trained, on CPUs: gradients, files and that "
             "ComfyUI is left as it was are tested, and neither likeness, memory nor speed on a GPU", (), ""),
    Unproven("Memory and time of full-size bases", "no GPU was at hand: they are counted on networks without weights",
             (), f"the node Training Plan; {DREAMBENCH} tells the time of all its parts"),
)  # fmt: skip


def rows_of_claim(claim: Claim, rows: Sequence[BenchmarkRow]) -> list[BenchmarkRow]:
    """The rows of a claim; a pattern ends in *."""
    return [
        row
        for pattern in claim.rows
        for row in rows
        if (row.name.startswith(pattern[:-1]) if pattern.endswith("*") else row.name == pattern)
    ]
