"""What fits on which card, by formula: the phase that needs most, of all that a training goes through."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfyui_fewshot.models.contract import ActivationMemory, ParameterCounts
from comfyui_fewshot.tests.trainers.auto.test_rules import BIG, XL
from comfyui_fewshot.trainers.auto.fit import (
    CONTEXT,
    HEADROOM,
    MemoryOptions,
    PhaseMemory,
    sampling_batch,
    split_batch,
    trained_bytes,
)
from comfyui_fewshot.trainers.auto.rules import ALLOCATOR, FLOAT8_SAVES, phase_memory, resolve, split_of
from comfyui_fewshot.trainers.plan import forecast
from comfyui_fewshot.trainers.plan.forecast import CARDS, host_memory, on_card, on_device, phases
from comfyui_fewshot.trainers.subject.settings import SubjectSettings

SD1_WEIGHTS = ParameterCounts(859_520_964, 83_653_863, 123_060_480)
XL_WEIGHTS = ParameterCounts(2_567_463_684, 83_653_863, 123_060_480 + 694_659_840)
DEFAULT = 41_861_120  # numbers of SDXL that are trained by default: rank 16 on attention and feed-forward layers
CLIP = 2_200_000_000  # bytes of a CLIP ViT-L/14 in fp32 that looks at 32 pictures


def cards(inputs, numbers, **settings):
    given = SubjectSettings(**settings)
    chosen, _ = resolve(given, replace(inputs, free_bytes=None))
    left = dict(micro_batch=0, gradient_checkpointing="auto", offload="auto", weights="auto")
    asked = replace(chosen, **(left | {k: v for k, v in settings.items() if k in left}))
    return {size: on_card(asked, inputs, numbers, size * 1e9) for size in CARDS}


def test_sd1_fits_everywhere_without_computing_twice():
    for card in cards(replace(BIG, trainable_parameters=6_000_000, validator_bytes=CLIP), SD1_WEIGHTS).values():
        assert card.fits and not card.split.checkpointing and not card.split.float8 and card.split.micro_batch >= 1


def test_sdxl_fits_everywhere_without_a_word_and_from_12_gb_as_it_is_trained_by_default():
    """With a CLIP that validates; what needs most on small cards is no step but the pictures' encoding."""
    found = cards(replace(XL, trainable_parameters=DEFAULT, validator_bytes=CLIP), XL_WEIGHTS, token="none")
    assert all(card.fits for card in found.values())
    assert [card.split.checkpointing for card in found.values()] == [True, True, True, False]
    assert [card.split.float8 for card in found.values()] == [True, False, False, False]
    assert found[8].split.offload and found[12].split.offload and not found[24].split.offload
    assert [card.split.micro_batch for card in found.values()] == [2, 2, 2, 1]
    assert [card.phase for card in found.values()] == [forecast.ENCODING] * 3 + [forecast.STEP]
    reading = replace(XL, trainable_parameters=DEFAULT, validator_bytes=CLIP, text_activation_bytes=270_000_000)
    found = cards(reading, XL_WEIGHTS)  # the encoders that a word is learned through
    assert [card.fits for card in found.values()] == [False, True, True, True]
    found = cards(reading, XL_WEIGHTS, text_encoder=True)  # encoders that are trained cannot make room for others
    assert [card.fits for card in found.values()] == [False, True, True, True]
    assert found[8].phase == forecast.SCORING
    found = cards(replace(reading, samples_images=False), XL_WEIGHTS, text_encoder=True)
    assert all(card.fits for card in found.values())


def test_what_does_not_fit_says_so():
    found = cards(replace(XL, trainable_parameters=DEFAULT), XL_WEIGHTS, weights="full", token="none")
    assert not found[8].fits and found[8].split.fits is False and found[12].fits
    assert found[8].phase == forecast.ENCODING  # a step alone would fit
    chosen, reasons = resolve(SubjectSettings(weights="full"), replace(XL, free_bytes=100_000_000))
    assert (
        "too much for this device: lower resolution or rank, or train attention alone" in reasons[-1]
        and chosen.micro_batch == 1
    )


@given(
    st.floats(4e9, 80e9), st.integers(0, 200_000_000), st.sampled_from(["auto", "on", "off"]),
    st.sampled_from([0, CLIP]), st.sampled_from(["low_rank", "full"]), st.sampled_from(["adamw", "schedule_free"]),
    st.booleans(),
)  # fmt: skip
def test_a_fitting_card_keeps_its_headroom_in_every_phase(size, trained, checkpointing, judges, tuning, kind, draws):
    card = on_card(
        SubjectSettings(
            resolution=1024, batch_size=1, gradient_checkpointing=checkpointing, tuning=tuning, optimizer=kind
        ),
        replace(XL, trainable_parameters=trained, validator_bytes=judges, samples_images=draws), XL_WEIGHTS, size,
    )  # fmt: skip
    assert card.fits == (max(one.total for one in card.phases.values()) <= size - HEADROOM)
    if card.split.fits:
        later = [one.total for name, one in card.phases.items() if name != forecast.LOADING]
        assert max(later) <= size - HEADROOM + 2


@given(st.floats(0, 60e9), st.floats(0, 60e9))
def test_more_memory_never_splits_more(one, other):
    small, large = sorted((one, other))
    settings = SubjectSettings(resolution=1024, batch_size=2)
    first, second = (split_of(settings, replace(XL, free_bytes=int(free))) for free in (small, large))
    assert (second.checkpointing, second.float8) <= (first.checkpointing, first.float8)
    if first.checkpointing == second.checkpointing:
        assert second.micro_batch >= first.micro_batch or (first.offload and not second.offload)


def test_each_phase_adds_up_what_is_there():
    settings = SubjectSettings(resolution=1024, batch_size=1, optimizer="adamw")
    inputs = on_device(replace(XL, trainable_parameters=1_000_000, validator_bytes=CLIP), XL_WEIGHTS, 2, 2, False, 8e9)
    plan = split_of(settings, inputs)
    assert plan.offload and plan.checkpointing and plan.float8
    found = phases(settings, plan, inputs, XL_WEIGHTS)
    denoiser, text, seeing = 2 * XL_WEIGHTS.denoiser, 2 * XL_WEIGHTS.text, 2 * XL_WEIGHTS.autoencoder
    small, trained = denoiser * (1 - FLOAT8_SAVES), trained_bytes(1_000_000, "adamw")
    pixels = 1024 * 1024
    assert {name: (one.frozen, one.trained) for name, one in found.items()} == {
        forecast.LOADING: (denoiser, 0),
        forecast.ENCODING: (small + text + seeing, 4e6),
        forecast.STEP: (pytest.approx(small), trained),
        forecast.SAMPLING: (small + text + seeing, trained),
        forecast.DECODING: (pytest.approx(small + seeing), trained),
        forecast.SCORING: (pytest.approx(small), trained),
    }
    assert all(one.context == CONTEXT for one in found.values())
    assert found[forecast.ENCODING].activations == pytest.approx(5 * 128 * pixels * 2, rel=0.01)
    assert found[forecast.DECODING].activations == pytest.approx(6 * 128 * pixels * 2, rel=0.01)
    picture = XL.costs.training(1024, True, ("self", "cross", "feed_forward"))
    copies = 2e6  # of what is trained, in the half precision that a pass computes in
    assert found[forecast.STEP].activations == plan.micro_batch * ALLOCATOR * picture.checkpointed + copies
    nothing = phases(settings, plan, replace(inputs, samples_images=False), XL_WEIGHTS)
    assert set(nothing) == {forecast.LOADING, forecast.ENCODING, forecast.STEP}
    reading = on_device(inputs, XL_WEIGHTS, 2, 2, True, 8e9)
    assert phases(settings, plan, reading, XL_WEIGHTS)[forecast.STEP].frozen == pytest.approx(small + text)


@pytest.mark.parametrize("kind", ["adamw", "schedule_free"])
def test_weights_trained_in_full_are_copied_for_passes_and_averaged_weights_exchanged(kind):
    """Copies in half precision, where a pass computes: in a step, and to draw with what is no adapter. Schedule-free
    takes 4 bytes a number for its update, and while pictures are drawn, decoded and looked at."""
    whole, more = SD1_WEIGHTS.denoiser, 4 * SD1_WEIGHTS.denoiser if kind == "schedule_free" else 0
    settings = SubjectSettings(
        tuning="full", parameter_set="all", resolution=512, batch_size=1, optimizer=kind, gradient_checkpointing="on"
    )
    inputs = on_device(replace(BIG, trainable_parameters=whole, validator_bytes=CLIP), SD1_WEIGHTS, 2, 2, False, 80e9)
    plan, work = split_of(settings, inputs), phase_memory(settings, inputs)
    found = {name: one.activations for name, one in phases(settings, plan, inputs, SD1_WEIGHTS).items()}
    picture = BIG.costs.training(512, True, ("self", "cross", "feed_forward"))
    assert found[forecast.STEP] == max(more, plan.micro_batch * ALLOCATOR * picture.checkpointed + 2 * whole)
    assert found[forecast.SAMPLING] == sampling_batch(plan.micro_batch) * work.denoising + 2 * whole + more
    assert found[forecast.DECODING] == sampling_batch(plan.micro_batch) * work.decoding + more
    assert found[forecast.SCORING] == CLIP + more
    wide = on_device(replace(inputs, is_half=False), SD1_WEIGHTS, 4, 4, False, 80e9)
    step = phases(settings, split_of(settings, wide), wide, SD1_WEIGHTS)[forecast.STEP]
    picture = BIG.costs.training(512, False, ("self", "cross", "feed_forward"))
    assert step.activations == max(more, plan.micro_batch * ALLOCATOR * picture.checkpointed)


def test_float16_sees_in_fp32():
    """Its autoencoder computes in fp32: pictures take twice as much there."""
    settings = SubjectSettings(resolution=1024, batch_size=1)
    half, wide = (on_device(XL, XL_WEIGHTS, 2, number, False, 24e9) for number in (2, 4))
    taken = [phases(settings, split_of(settings, one), one, XL_WEIGHTS)[forecast.ENCODING] for one in (half, wide)]
    assert taken[1].activations == 2 * taken[0].activations
    assert taken[1].frozen - taken[0].frozen == 2 * XL_WEIGHTS.autoencoder


def test_fewer_pictures_go_through_where_drawing_needs_the_room():
    """Four in a pass are drawn two at once, and three one at once."""
    work = PhaseMemory(decoding=3e9)
    peak = lambda micro, offload: work.peak(micro, 0, 0)  # noqa: E731
    image, free = ActivationMemory(1e9, 1e8), int(5e9 + HEADROOM)
    assert split_batch(4, image, free, MemoryOptions("off")).micro_batch == 4
    assert split_batch(4, image, free, MemoryOptions("off"), peak).micro_batch == 3
    fixed = split_batch(4, image, free, MemoryOptions("off", 4), peak)
    assert fixed.micro_batch == 4 and not fixed.fits


def test_an_optimiser_with_small_moments_leaves_room():
    """Weight, gradient and last good value in 12 bytes, and two moments in 8, 2 or with Prodigy's two more in 16."""
    assert [trained_bytes(10, kind) for kind in ("adamw", "adamw_8bit", "prodigy")] == [200, 140, 280]
    whole = dict(tuning="full", parameter_set="all", resolution=512, batch_size=1)
    inputs = replace(BIG, trainable_parameters=SD1_WEIGHTS.denoiser)
    found = {kind: cards(inputs, SD1_WEIGHTS, optimizer=kind, **whole)[16] for kind in ("adamw", "adamw_8bit")}
    gap = found["adamw"].demand.trained - found["adamw_8bit"].demand.trained
    assert gap == 6 * SD1_WEIGHTS.denoiser and found["adamw_8bit"].headroom > found["adamw"].headroom
    assert not found["adamw"].fits


def test_host_memory_grows_by_what_waits():
    settings = SubjectSettings(resolution=1024, batch_size=1)
    inputs = on_device(XL, XL_WEIGHTS, 2, 2, False, 24e9)
    plans = [split_of(replace(settings, offload=way), inputs) for way in ("off", "on")]
    needed = [phases(settings, plan, inputs, XL_WEIGHTS) for plan in plans]
    off, on = (host_memory(n, plan, 10, inputs, True, 0) for n, plan in zip(needed, plans, strict=True))
    assert on - off == 2 * (XL_WEIGHTS.text + XL_WEIGHTS.autoencoder)
    assert host_memory(needed[0], plans[0], 10, inputs, True, 500) - off == 500
    cpu = on_device(XL, XL_WEIGHTS, 4, 4, False, None)
    whole = phases(settings, plans[0], cpu, XL_WEIGHTS)
    assert host_memory(whole, plans[0], 0, cpu, False, 0) > 4 * (XL_WEIGHTS.denoiser + XL_WEIGHTS.text)
