"""One step of subject training: its arithmetic, and what it depends on."""

from dataclasses import replace

import pytest
import torch
from PIL import Image
from torch.nn.functional import mse_loss

from comfyui_fewshot.augmentation.images.load import picture_of, stored_picture
from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.core.images import pixel_key
from comfyui_fewshot.core.progress import NullProgress
from comfyui_fewshot.core.values import Sample
from comfyui_fewshot.models.adapters.apply import applied
from comfyui_fewshot.models.stable_diffusion.encoding.prompt_tokens import Tokens
from comfyui_fewshot.models.stable_diffusion.encoding.prompts import denoise, encode_prompts
from comfyui_fewshot.trainers.context import TrainingContext
from comfyui_fewshot.trainers.data.encoded_set import encode_set
from comfyui_fewshot.trainers.loop import Plan, train
from comfyui_fewshot.trainers.optim.optimizers import LearningRates
from comfyui_fewshot.trainers.state.checkpoint import Checkpoints
from comfyui_fewshot.trainers.state.run_folder import Journal
from comfyui_fewshot.trainers.subject.method import PRIOR, REFERENCE, SubjectStep, SubjectTraining

AUTO = dict(resolution=32, alpha=4.0, text_learning_rate=1e-3, micro_batch=4)


@pytest.fixture
def chosen(settings):
    return replace(settings, **AUTO)


@pytest.fixture
def prepared(model, pictures, chosen):
    """Builds the step and the layers for changed settings."""
    built = []

    def build(set_=None, **changes):
        while built:
            built.pop().remove()
        step, injected = SubjectTraining().prepare(
            model, set_ or pictures, replace(chosen, **changes), None, NullProgress()
        )
        built.append(injected)
        return step, injected

    yield build
    for injected in built:
        injected.remove()


def gradients(step, injected, number=0):
    """The gradient of one whole step and its terms."""
    for parameter in injected.parameters.values():
        parameter.grad = None
    sums = dict.fromkeys(step.weights, 0.0)
    for terms in step.passes(number, list):
        sum(step.weights[name] * value for name, value in terms.items()).backward()
        for name, value in terms.items():
            sums[name] += value.item()
    return sums, {name: p.grad.clone() for name, p in injected.parameters.items() if p.grad is not None}


def test_terms_are_the_plain_errors_of_both_halves(prepared, model):
    """Both terms equal torch's mse_loss of each half, computed alone."""
    step, _ = prepared()
    (terms,) = step.passes(0, list)
    for name in (REFERENCE, PRIOR):
        batch = step.draw(name, 0, range(2))
        with torch.no_grad():
            alone = denoise(model, batch.latents, batch.times, batch.conditioning)
        assert terms[name].item() == pytest.approx(mse_loss(alone, batch.target).item(), rel=1e-5)


def test_one_call_of_the_denoiser_for_both_halves(prepared, model):
    step, _ = prepared()
    calls = []
    model.unet.register_forward_hook(lambda _, inputs, __: calls.append(len(inputs[0])))
    list(step.passes(0, list))
    assert calls == [4]
    step.settings = replace(step.settings, micro_batch=2)
    list(step.passes(0, list))
    assert calls == [4, 2, 2]


def test_halves_are_reduced_each_by_itself(prepared):
    """With a prior target that is met exactly, L_ref and its gradient stay as they are."""
    step, injected = prepared()
    real = step.errors
    step.errors = lambda term, batch, prediction: real(term, batch, prediction) * (term != PRIOR)
    terms, both = gradients(step, injected)
    assert terms[PRIOR] == 0
    alone, single = prepared_alone(step, injected)
    assert terms[REFERENCE] == pytest.approx(alone[REFERENCE], rel=1e-6)
    for name, gradient in single.items():
        assert torch.allclose(both[name], gradient, atol=1e-7), name


def prepared_alone(step, injected):
    """The same step without priors."""
    single = SubjectStep(step.model, step.pools[REFERENCE], None, step.settings)
    return gradients(single, injected)


@pytest.mark.parametrize("micro", [1, 2, 3])
def test_passes_of_any_size_give_the_same_gradients(prepared, micro):
    step, injected = prepared()
    whole = gradients(step, injected)
    step.settings = replace(step.settings, micro_batch=micro)
    parts = gradients(step, injected)
    assert parts[0] == pytest.approx(whole[0], rel=1e-5)
    for name, gradient in whole[1].items():
        assert torch.allclose(parts[1][name], gradient, atol=1e-6), name


def test_terms_draw_from_streams_of_their_own(prepared):
    step, _ = prepared()
    alone = SubjectStep(step.model, step.pools[REFERENCE], None, step.settings)
    one, other = step.draw(REFERENCE, 3, range(2)), alone.draw(REFERENCE, 3, range(2))
    assert torch.equal(one.latents, other.latents) and torch.equal(one.times, other.times)
    prior = step.draw(PRIOR, 3, range(2))
    assert not torch.equal(prior.times, one.times)
    assert not torch.equal(step.draw(REFERENCE, 4, range(2)).target, one.target)


def test_a_prior_weight_of_zero_is_no_term_at_all(prepared):
    assert list(prepared(prior_weight=0.0)[0].weights) == [REFERENCE]


def test_nothing_else_is_trainable(prepared, model):
    _, injected = prepared(parameter_set="cross_kv")
    networks = (model.unet, model.vae, *model.text_encoders)
    assert not any(p.requires_grad for network in networks for p in network.parameters())
    assert injected.parameters and all(p.requires_grad for p in injected.parameters.values())
    assert all(".attn2.to_" in name for name in injected.parameters)


@pytest.mark.parametrize("kind", [dict(text_encoder=True), dict(token="free", token_vectors=2)])
def test_long_captions_that_steps_encode_are_cut_and_told_once(prepared, model, pictures, monkeypatch, caplog, kind):
    """Each step draws and encodes them anew; a tokenizer is asked for each different prompt once in a training."""
    long = [replace(s, caption=f"{s.caption} beside a very long wall, {i}") for i, s in enumerate(pictures.references)]
    tokenizer, asked = model.tokenizers[0], []
    monkeypatch.setattr(model, "tokens", Tokens())
    step, injected = prepared(pictures.with_samples((*long, *pictures.priors)), prior_weight=1.0, **kind)

    def counted(text, **how):
        asked.append(text)
        return tokenizer(text, **how)

    counted.decode, counted.bos_token_id = tokenizer.decode, tokenizer.bos_token_id
    counted.eos_token_id, counted.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    monkeypatch.setattr(model, "tokenizers", (counted,))
    caplog.clear()
    for number in range(8):
        gradients(step, injected, number)
    captions = {sample.caption for sample in long}
    pieces = len(captions) * (2 if "token" in kind else 1) + 1  # before and after the word; the priors' one caption
    assert len(asked) == pieces
    caption_kept = [r.getMessage() for r in caplog.records if "left out" in r.getMessage()]
    assert len(caption_kept) == len(captions) and all(any(f"'{c}'" in line for line in caption_kept) for c in captions)


@pytest.mark.parametrize("live", [False, True])
def test_gradients_reach_the_text_encoder_only_when_asked(prepared, live):
    step, injected = prepared(text_encoder=live)
    with torch.no_grad():
        for name, parameter in injected.parameters.items():
            if name.endswith("up"):
                parameter.add_(0.01)
    _, found = gradients(step, injected)
    assert any(name.startswith("text_encoder") for name in found) == live
    assert all(gradient.abs().sum() > 0 for gradient in found.values())


def test_live_text_equals_cached_text(prepared):
    """An adapter that does nothing yet: both ways give the same losses."""
    cached, injected = prepared()
    expected, _ = gradients(cached, injected)
    injected.remove()
    live, injected = prepared(text_encoder=True)
    assert gradients(live, injected)[0] == pytest.approx(expected, rel=1e-5)


def test_prompts_are_encoded_with_what_stays_on(model, pictures, chosen):
    """A text-encoder adapter that is trained on from, with the text encoder left alone."""
    _, injected = SubjectTraining().prepare(model, pictures, replace(chosen, text_encoder=True), None, NullProgress())
    with torch.no_grad():
        for parameter in injected.parameters.values():
            parameter.add_(0.05)
    start = injected.extract()
    injected.remove()
    step, injected = SubjectTraining().prepare(model, pictures, chosen, start, NullProgress())
    found = step.pools[PRIOR].conditioning["hidden"][:1]
    injected.remove()
    plain = encode_prompts(model, ["a photo of a ball"])["hidden"].detach()
    with applied(model, [(start, 1.0)]):
        expected = encode_prompts(model, ["a photo of a ball"])["hidden"].detach()
    assert torch.allclose(found, expected, atol=1e-5) and not torch.allclose(found, plain, atol=1e-3)


def test_a_refused_set_leaves_no_layers(model, pictures, chosen):
    bare = pictures.with_samples(tuple(replace(sample, mask=None) for sample in pictures.samples))
    with pytest.raises(FewShotError, match="local_weight needs masks"):
        SubjectTraining().prepare(model, bare, replace(chosen, local_weight=0.1), None, NullProgress())
    assert not any("lora" in name for name, _ in model.unet.named_modules())


def test_conditioning_is_cached_once_for_each_prompt(prepared, model):
    step, _ = prepared()
    pool = step.pools[PRIOR]
    with torch.no_grad():
        expected = encode_prompts(model, ["a photo of a ball"])
    assert torch.allclose(pool.conditioning["hidden"], expected["hidden"].expand(4, -1, -1), atol=1e-6)
    assert not pool.mean.requires_grad and not pool.conditioning["hidden"].requires_grad


def test_masks_weigh_places(prepared):
    plain, _ = prepared()
    masked, _ = prepared(background_weight=0.0)
    assert plain.pools[REFERENCE].masks is None
    masks = masked.pools[REFERENCE].masks
    assert masks.shape == (3, 1, 8, 8) and 0 < masks.mean() < 1 and masked.pools[PRIOR].masks is None
    batch = masked.draw(REFERENCE, 0, [0, 1])
    error = torch.ones_like(batch.target) * (1 - batch.masks.ceil())  # wrong only where there is no subject
    assert masked.errors(REFERENCE, batch, batch.target + error).tolist() == [0, 0]
    assert plain.errors(REFERENCE, replace(batch, masks=None), batch.target + error).min() > 0


def test_min_snr_weighs_both_halves_alike(prepared):
    step, _ = prepared(min_snr_gamma=5.0)
    for term in (REFERENCE, PRIOR):
        batch = step.draw(term, 0, range(2))
        batch = replace(batch, times=torch.tensor([0, 500]))
        errors = step.errors(term, batch, batch.target + 1.0)
        assert errors.tolist() == pytest.approx([0.004254, 1.0], abs=1e-5)


def test_noise_offset_is_constant_over_a_picture(prepared):
    plain, _ = prepared()
    offset = SubjectStep(plain.model, plain.pools[REFERENCE], None, replace(plain.settings, noise_offset=0.1))
    difference = offset.draw(REFERENCE, 0, range(2)).target - plain.draw(REFERENCE, 0, range(2)).target
    assert difference.abs().max() > 0
    assert torch.allclose(difference, difference[:, :, :1, :1].expand_as(difference), atol=1e-6)


class Fixed:
    """A step that is always the first one: its pictures, timesteps and noise."""

    def __init__(self, step):
        self.step, self.weights = step, step.weights

    def passes(self, number, share):
        return self.step.passes(0, share)


@pytest.mark.parametrize(
    ("kind", "rate", "steps", "most"),
    [
        (dict(tuning="full", parameter_set="all"), 2e-3, 100, 1e-3),
        (dict(rank=16, alpha=16.0, parameter_set="attention_ff"), 2e-2, 160, 0.12),  # low ranks reach little further
    ],
)
def test_one_picture_with_fixed_noise_is_learned_by_heart(prepared, pictures, tmp_path, kind, rate, steps, most):
    """The whole chain can fit a fixed timestep and noise in fewer than 300 steps: loop, optimiser, all layers."""
    step, injected = prepared(pictures.with_samples(pictures.references[:1]), batch_size=1, **kind)
    plan = Plan(steps, LearningRates({"unet": rate}, steps, 10, "cosine"), rules=injected.rules)
    store, journal = Checkpoints(tmp_path, "k"), Journal(tmp_path / "log.jsonl")
    losses = train(Fixed(step), injected.parameters, plan, store, journal, TrainingContext(tmp_path, "cpu")).terms[
        REFERENCE
    ]
    assert losses[0] > 0.5 and max(losses[-5:]) < most


def test_layers_start_without_effect(model, pictures, chosen):
    step, injected = SubjectTraining().prepare(model, pictures, chosen, None, NullProgress())
    (with_layers,) = step.passes(0, list)
    injected.remove()
    (without,) = step.passes(0, list)
    assert with_layers[REFERENCE].item() == without[REFERENCE].item()


def test_a_mask_that_is_empty_is_told(model, pictures, tmp_path):
    Image.new("L", (40, 36)).save(tmp_path / "empty.png")
    mask = replace(pictures.references[0].mask, path=tmp_path / "empty.png", key=pixel_key(Image.new("L", (40, 36))))
    samples = [replace(pictures.references[0], mask=mask)]
    with pytest.raises(FewShotError, match=r"the mask of .*0.png is empty within the crop"):
        encode_set(model, samples, 32, NullProgress(), masks=True)
    assert encode_set(model, samples, 32, NullProgress()).masks is None


def test_five_hundred_pictures(model, pictures, tmp_path, caplog):
    """Of several sizes, each with a mask of another size; all are read, and what is done to them is told once."""
    mask = stored_picture(Image.new("L", (20, 20), 255), tmp_path)
    samples = []
    for number in range(500):
        path = tmp_path / f"{number}.png"
        size = (40, 40) if number % 5 else (48, 40)
        Image.new("RGB", size, (number % 256, number // 256, 90)).save(path)
        samples.append(Sample(picture_of(path), f"a photo of sks ball {number % 3}", mask if number % 5 else None))
    with caplog.at_level("INFO"):
        pool = encode_set(model, samples, 32, NullProgress())
    assert len(pool.mean) == len(pool.prompts) == len(pool.shapes) == 500 and pool.mean.isfinite().all()
    assert "100 of 500 pictures are cropped to 32 x 32" in caplog.text
    assert "400 of 400 masks are of another size than their picture" in caplog.text


def test_an_autoencoder_that_gives_no_numbers_is_told(model, pictures, monkeypatch):
    mean = torch.zeros(3, 4, 8, 8)
    mean[1, 0, 0, 0] = float("nan")
    monkeypatch.setattr(model, "encode_images", lambda *_: (mean, mean))
    with pytest.raises(FewShotError, match=r"gives no numbers for .*1.png. Load the base in bfloat16 or float32"):
        encode_set(model, pictures.references, 32, NullProgress())


@pytest.mark.parametrize("parameter_set", ["none", "cross_kv"])
@pytest.mark.parametrize(
    ("identifier", "caption"),
    [("Ohwx", "a photo of a ohwx ball"), ("ohwx", "OHWX's ball"), ("ohwx", "a ｏｈｗｘ ball"), ("Ñu", "n\u0303u-ball")],
)
def test_a_word_is_learned_however_captions_write_it(prepared, pictures, parameter_set, identifier, caption):
    concept = replace(pictures.concepts[0], identifier=identifier)
    samples = tuple(replace(s, caption=caption) if s.role == "reference" else s for s in pictures.samples)
    written = replace(pictures, samples=samples, concepts=(concept,))
    for kind in ("free", "direction"):
        step, injected = prepared(written, parameter_set=parameter_set, token=kind)
        _, found = gradients(step, injected)
        moved = [gradient for name, gradient in found.items() if name.startswith("token.")]
        assert moved and all(gradient.abs().sum() > 0 for gradient in moved)


def test_a_word_that_no_caption_says_is_refused(model, pictures, chosen):
    concept = replace(pictures.concepts[0], kind="relation")  # into whose captions nothing is put
    silent = replace(pictures, concepts=(concept,)).with_samples(
        tuple(replace(sample, caption="a photo of a skss ball") for sample in pictures.samples)
    )
    learned = replace(chosen, token="free")
    for set_, settings, message in (
        (silent, learned, "'sks' is to be learned and stands by itself in none of 3 captions.*skss ball"),
        (pictures, replace(learned, caption_dropout=1.0), "caption_dropout is 1, so no caption is ever read"),
    ):
        with pytest.raises(FewShotError, match=message):
            SubjectTraining().prepare(model, set_, settings, None, NullProgress())
        assert not model.learned_tokens
