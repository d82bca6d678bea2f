"""What fits on which card, by formula, and that formulas count what is there."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfyui_fewshot.tests.trainers.test_auto import BIG, SDXL
from comfyui_fewshot.trainers.auto import resolve, split_of
from comfyui_fewshot.trainers.forecast import CARDS, Weights, demand, host_memory, on_card
from comfyui_fewshot.trainers.memory import CHECKPOINTED, CONTEXT, HEADROOM, activation_elements, split, trained_bytes
from comfyui_fewshot.trainers.settings import SubjectSettings

SD1_WEIGHTS = Weights(859_520_964, 83_653_863, 123_060_480)
XL_WEIGHTS = Weights(2_567_463_684, 83_653_863, 123_060_480 + 694_659_840)
XL = replace(BIG, parameters=XL_WEIGHTS.denoiser, config=SDXL, native_resolution=1024, text_encoders=2)


def cards(facts, numbers, **settings):
    given = SubjectSettings(**settings)
    chosen, _ = resolve(given, replace(facts, free=None))
    left = dict(micro_batch=0, gradient_checkpointing="auto", offload="auto", weights="auto")
    asked = replace(chosen, **(left | {k: v for k, v in settings.items() if k in left}))
    return {size: on_card(asked, facts, numbers, size * 1e9, chosen.text_encoder) for size in CARDS}


def test_sd1_fits_everywhere_without_computing_twice():
    for card in cards(replace(BIG, trained=3_200_000), SD1_WEIGHTS).values():
        assert card.fits and not card.split.checkpointing and not card.split.float8 and card.split.micro_batch >= 1


def test_sdxl_fits_everywhere():
    """Rank 16 on all attention: 23 M numbers."""
    found = cards(replace(XL, trained=23_200_000), XL_WEIGHTS)
    assert all(card.fits for card in found.values())
    assert [card.split.checkpointing for card in found.values()] == [True, True, True, False]
    assert [card.split.float8 for card in found.values()] == [True, False, False, False]
    assert found[8].split.offload and found[12].split.offload and not found[24].split.offload
    assert [card.split.micro_batch for card in found.values()] == [1, 1, 2, 1]


def test_the_default_of_sdxl_takes_12_gigabytes():
    """Rank 16 on attention and feed-forward layers: 40 M numbers, whose moments are too much beside 8 GB's weights."""
    found = cards(replace(XL, trained=40_140_800), XL_WEIGHTS)
    assert {size: card.fits for size, card in found.items()} == {8: False, 12: True, 16: True, 24: True}
    assert [card.split.float8 for card in found.values()] == [True, False, False, False]


def test_what_does_not_fit_says_so():
    found = cards(replace(XL, trained=23_200_000), XL_WEIGHTS, weights="full")
    assert not found[8].fits and found[8].split.fits is False and found[12].fits
    chosen, reasons = resolve(SubjectSettings(weights="full"), replace(XL, free=1_000_000_000))
    assert (
        "too much for this device: lower resolution or rank, or train attention alone" in reasons[-1]
        and chosen.micro_batch == 1
    )


@given(st.floats(4e9, 80e9), st.integers(0, 200_000_000), st.sampled_from(["auto", "on", "off"]))
def test_a_fitting_card_keeps_its_headroom(size, trained, checkpointing):
    card = on_card(
        SubjectSettings(resolution=1024, batch_size=1, gradient_checkpointing=checkpointing),
        replace(XL, trained=trained), XL_WEIGHTS, size, False,
    )  # fmt: skip
    assert card.fits == (card.size - card.demand.total >= HEADROOM)
    if card.split.fits:
        assert card.headroom >= HEADROOM - 2


@given(st.floats(0, 60e9), st.floats(0, 60e9))
def test_more_memory_never_splits_more(one, other):
    small, large = sorted((one, other))
    settings = SubjectSettings(resolution=1024, batch_size=2)
    first, second = (split_of(settings, replace(XL, free=int(free))) for free in (small, large))
    assert (second.checkpointing, second.float8) <= (first.checkpointing, first.float8)
    if first.checkpointing == second.checkpointing:
        assert second.micro_batch >= first.micro_batch or (first.offload and not second.offload)


def test_demand_adds_up_what_is_there():
    plan = split(2, 5e9, int(4e9), "on", 1, ("on", 1e9))
    found = demand(plan, 1_000_000, XL_WEIGHTS, 2, reads_text=False)
    assert found.context == CONTEXT and found.trained == 1e6
    assert found.frozen == 2 * XL_WEIGHTS.denoiser  # text encoders and autoencoder wait
    assert found.activations == pytest.approx(5e9 * CHECKPOINTED)
    reading = demand(plan, 0, XL_WEIGHTS, 2, reads_text=True)
    assert reading.frozen == 2 * (XL_WEIGHTS.denoiser + XL_WEIGHTS.text)
    picture = activation_elements(SDXL, 128, 128) * 3.5
    assert split_of(SubjectSettings(resolution=1024, batch_size=1), replace(XL, free=int(80e9))).bytes == 2 * picture


def test_an_optimiser_with_small_moments_leaves_room():
    """Weight, gradient and last good value in 12 bytes, and two moments in 8, 2 or with Prodigy's two more in 16."""
    assert [trained_bytes(10, kind) for kind in ("adamw", "adamw_8bit", "prodigy")] == [200, 140, 280]
    whole = dict(tuning="full", parameter_set="all", resolution=512, batch_size=1)
    facts = replace(BIG, trained=SD1_WEIGHTS.denoiser)
    found = {kind: cards(facts, SD1_WEIGHTS, optimizer=kind, **whole)[16] for kind in ("adamw", "adamw_8bit")}
    gap = found["adamw"].demand.trained - found["adamw_8bit"].demand.trained
    assert gap == 6 * SD1_WEIGHTS.denoiser and found["adamw_8bit"].headroom > found["adamw"].headroom
    assert not found["adamw"].fits


def test_host_memory_grows_by_what_waits():
    off, on = (split(1, 1e9, int(20e9), "off", 1, (way, 1e9)) for way in ("off", "on"))
    waits = host_memory(on, 10, XL_WEIGHTS, True, False, 0) - host_memory(off, 10, XL_WEIGHTS, True, False, 0)
    assert waits == 2 * (XL_WEIGHTS.text + XL_WEIGHTS.autoencoder)
    assert host_memory(off, 10, XL_WEIGHTS, True, False, 500) - host_memory(off, 10, XL_WEIGHTS, True, False, 0) == 500
    cpu = host_memory(off, 0, XL_WEIGHTS, False, False, 0)
    assert cpu > 4 * (XL_WEIGHTS.denoiser + XL_WEIGHTS.text)
