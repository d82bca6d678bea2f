"""A dry run as text, and a contact sheet of the images as training crops them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from PIL import Image

from ...augmentation.images.crop import fit_to
from ...augmentation.images.load import load_mask, load_picture
from ...evaluation.report.grids import contact_sheet
from .dry_run import DryRun
from .forecast import CardFit, Phases, largest

MOST_SHOWN = 24


def described(plan: DryRun) -> str:
    """The plan in lines."""
    lines = [*_pictures(plan), *_size(plan), *_time(plan), "", "chosen:"]
    return "\n".join([*lines, *(f"  {reason}" for reason in plan.reasons)])


def _pictures(plan: DryRun) -> list[str]:
    side = plan.chosen.resolution
    pictures = {one.sample.image.key: one for one in plan.references}.values()  # one may have many captions
    sizes = Counter((one.sample.image.width, one.sample.image.height) for one in pictures)
    groups = ", ".join(f"{count} of {w} x {h}" for (w, h), count in sizes.most_common(6))
    more = f" and {len(sizes) - 6} other sizes" if len(sizes) > 6 else ""
    captions = f" with {len(plan.references)} captions" if len(plan.references) > len(pictures) else ""
    lines = [
        f"pictures: {len(pictures)} references{captions}, {plan.priors} priors",
        f"sizes: {groups}{more}; one bucket: all are cropped to {side} x {side}",
    ]
    large = [one for one in pictures if one.scale > 1]
    if large:
        most = max(one.scale for one in large)
        lines.append(f"warning: {len(large)} are smaller than that and are enlarged, up to {most:.1f} times: blurred")
    tokens = [one.tokens for one in plan.references]
    lines.append(f"captions: {min(tokens)} to {max(tokens)} tokens of {plan.token_limit} that are read")
    long = [one for one in plan.references if one.tokens > plan.token_limit]
    if long:
        name = long[0].sample.image.path.name
        lines.append(f"warning: {len(long)} captions are too long and lose their end, first that of {name}")
    draws = list(draws_per_image(plan).values())
    text = f"seen: each reference about {_range(draws)} times in {plan.chosen.steps} steps of {plan.chosen.batch_size}"
    lines.append(text + (f", each prior {plan.prior_draws:.1f}" if plan.prior_draws else ""))
    if len(draws) == 1:
        lines.append("warning: one picture only: its pose and place will be learned with the subject")
    elif max(draws) < 10:
        lines.append("warning: that is seldom for so many pictures: raise steps, or choose the best ten pictures")
    return lines


def draws_per_image(plan: DryRun) -> Counter[str]:
    """How often each reference is drawn with any of its captions, by its image's key."""
    total: Counter[str] = Counter()
    for one in plan.references:
        total[one.sample.image.key] += one.draws  # type: ignore[assignment]
    return total


def _size(plan: DryRun) -> list[str]:
    lines = [f"trained: {plan.trainable_parameters / 1e6:.2f} M numbers"]
    if plan.gpu is not None:
        lines += _phases(plan.gpu)
        if plan.timing is not None and plan.timing.peak is not None:
            lines.append(f"GPU memory of a step (measured): {plan.timing.peak / 1e9:.1f} GB")
    lines.append(f"host memory (estimated): {plan.host / 1e9:.1f} GB")
    return lines + [f"on {card.size / 1e9:.0f} GB (estimated): {_card(card)}" for card in plan.cards]


def _phases(phases: Phases) -> list[str]:
    """The phase with the highest peak in its parts, then all phases."""
    most = largest(phases)
    d = phases[most]
    each = ", ".join(f"{name} {one.total / 1e9:.1f}" for name, one in phases.items())
    return [
        f"GPU memory (estimated): {d.total / 1e9:.1f} GB, most of all for {most} = {d.frozen / 1e9:.1f} frozen + "
        f"{d.trained / 1e9:.2f} trained + {d.activations / 1e9:.1f} activations + {d.context / 1e9:.1f} CUDA",
        f"GPU memory by phase (estimated): {each} GB",
    ]


def _card(card: CardFit) -> str:
    split = card.split
    ways = [f"{split.micro_batch} in a pass"]
    ways += ["gradient checkpointing"] if split.checkpointing else []
    ways += ["encoders wait on the host"] if split.offload else []
    ways += ["8-bit frozen weights"] if split.float8 else ["half precision"]
    verdict = f"{card.headroom / 1e9:.1f} GB stay free" if card.fits else "does not fit"
    return f"{', '.join(ways)}: {card.demand.total / 1e9:.1f} GB for {card.phase}, {verdict}"


def _time(plan: DryRun) -> list[str]:
    if plan.timing is None or plan.seconds is None:
        return ["time: no step was timed"]
    lines = [
        f"time: {plan.timing.seconds:.3g} s a step (measured over {plan.timing.steps} on {plan.device}), "
        f"{_minutes(plan.seconds)} in all (estimated)"
    ]
    if plan.validations:
        share = 1 - plan.timing.seconds * plan.chosen.steps / plan.seconds
        lines.append(f"validations: {plan.validations}, {share:.0%} of the time (estimated)")
    return lines


def _range(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:.1f}" if high - low < 0.05 else f"{low:.1f} to {high:.1f}"


def _minutes(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def crops(plan: DryRun) -> Image.Image:
    """The references as training crops them, each with its size, tokens and expected number of draws."""
    shown = plan.references[:MOST_SHOWN]
    side, images, labels = plan.chosen.resolution, [], []
    for one in shown:
        mask = load_mask(one.sample.mask) if one.sample.mask is not None else None
        fitted, _, _ = fit_to(load_picture(one.sample.image), mask, side, side, centre="mask" if mask else "centre")
        images.append(fitted)
        size = f"{one.sample.image.width} x {one.sample.image.height}"
        labels.append(f"{size}, {one.tokens} tokens, {one.draws:.0f} times: {one.sample.caption}")
    return contact_sheet(images, labels)
