"""Learned words: where they begin, what stays fixed, what the networks know, and that prompts read them."""

import pytest
import torch

from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.core.values import Adapter
from comfyui_fewshot.models.adapters.apply import applied
from comfyui_fewshot.models.adapters.inject import Full, LoraSpec, inject
from comfyui_fewshot.models.adapters.learned_tokens import MAX_NORM, LearnedTokens, TokenSpec
from comfyui_fewshot.models.stable_diffusion.encoding.prompts import content_tokens, encode_prompts

PROMPT = "a photo of a sks cat"


@pytest.fixture
def begin(opened_pocket):
    made = []

    def learn(*specs, start_from=None):
        made.append(LearnedTokens(opened_pocket, specs, start_from))
        return made[-1]

    yield learn
    for words in reversed(made):
        words.remove()


def table(model):
    return model.text_encoders[0].get_input_embeddings().weight


def ids(model, text):
    return model.tokenizers[0](text, add_special_tokens=False).input_ids


@torch.no_grad()
def test_a_new_word_means_what_it_begins_with(opened_pocket, begin):
    told = encode_prompts(opened_pocket, ["a photo of a cat cat"])["hidden"]
    before = encode_prompts(opened_pocket, [PROMPT])["hidden"]
    begin(TokenSpec("sks", "cat"))
    assert torch.allclose(encode_prompts(opened_pocket, [PROMPT])["hidden"], told, atol=1e-5)
    assert not torch.allclose(before, told, atol=1e-2)


def test_vectors_of_several_tokens(opened_pocket, begin):
    rows = table(opened_pocket)[torch.tensor(ids(opened_pocket, "cat car"))]
    words = begin(TokenSpec("sks", "cat car", 3), TokenSpec("zwx", "cat car", 1))
    assert torch.equal(words["sks"]["clip_l"], rows[[0, 1, 0]])
    assert torch.allclose(words["zwx"]["clip_l"], rows.mean(0, keepdim=True))
    assert content_tokens(opened_pocket, "a sks") == 4


def test_directions_keep_the_usual_length(opened_pocket, begin):
    words = begin(TokenSpec("sks", "cat", 1, direction=True))
    (parameter,) = words.parameters.values()
    vector = words["sks"]["clip_l"].detach()
    usual = table(opened_pocket).norm(dim=1).mean()
    assert parameter.norm().item() == pytest.approx(1.0, abs=1e-6) and vector.norm() == pytest.approx(
        float(usual), rel=1e-5
    )
    assert words.rules["token.sks.clip_l"].start is not None
    free = begin(TokenSpec("zwx", "cat"))
    assert free.rules["token.zwx.clip_l"].max_norm == pytest.approx(MAX_NORM * float(usual))


def test_gradients_reach_the_vectors_and_nothing_else(opened_pocket, begin):
    words = begin(TokenSpec("sks", "cat", 2, direction=True))
    encode_prompts(opened_pocket, [PROMPT])["hidden"].square().mean().backward()
    (parameter,) = words.parameters.values()
    assert parameter.grad.abs().min(dim=1).values.max() > 0
    assert table(opened_pocket).grad is None


def test_the_networks_forget(opened_pocket, begin):
    kept = {"zwx": {"clip_l": torch.randn(1, table(opened_pocket).shape[1])}}
    words = begin(TokenSpec("sks", "cat"), start_from=Adapter({}, "sd1", "zwx car", kept))
    assert set(opened_pocket.learned_tokens) == {"sks", "zwx"}
    words.hide()
    assert set(opened_pocket.learned_tokens) == {"zwx"}
    words.show()
    found = words.extract()
    assert set(found) == {"sks", "zwx"} and torch.equal(found["zwx"]["clip_l"], kept["zwx"]["clip_l"])
    words.remove()
    assert not opened_pocket.learned_tokens


def test_training_on_begins_with_the_word_as_it_was(opened_pocket, begin):
    vectors = torch.randn(2, table(opened_pocket).shape[1])
    start = Adapter({}, "sd1", "sks cat", {"sks": {"clip_l": vectors}})
    for direction in (False, True):
        words = begin(TokenSpec("sks", "car", 2, direction), start_from=start)
        assert torch.allclose(words.extract()["sks"]["clip_l"], vectors, atol=1e-6)
    with pytest.raises(FewShotError, match="has 2 vectors, and token_vectors is 1: set it to 2"):
        begin(TokenSpec("sks", "car"), start_from=start)
    other = Adapter({}, "sd1", "sks cat", {"sks": {"clip_l": torch.randn(1, 7)}})
    with pytest.raises(FewShotError, match="no clip_l vectors of width"):
        begin(TokenSpec("sks", "car"), start_from=other)


@pytest.mark.parametrize("word", ["", "two words", "a.b", "a:b", "(sks)"])
def test_words_that_prompts_cannot_hold(word):
    with pytest.raises(FewShotError, match="cannot be learned as a word"):
        TokenSpec(word, "cat")


def test_a_start_that_is_no_word(opened_pocket, begin):
    with pytest.raises(FewShotError, match="is to begin as '', which is no word"):
        begin(TokenSpec("sks", ""))


@torch.no_grad()
def test_an_applied_adapter_brings_its_words(opened_pocket):
    words = {"sks": {"clip_l": torch.randn(2, table(opened_pocket).shape[1])}}
    adapter = Adapter({}, "sd1", "sks cat", words)
    told = encode_prompts(opened_pocket, [PROMPT], words)["hidden"]
    with applied(opened_pocket, [(adapter, 1.0)]):
        assert torch.equal(encode_prompts(opened_pocket, [PROMPT])["hidden"], told)
    with applied(opened_pocket, [(adapter, 0.0)]):
        assert not opened_pocket.learned_tokens
    assert not torch.equal(encode_prompts(opened_pocket, [PROMPT])["hidden"], told)
    wide = Adapter({}, "sd1", "sks cat", {"sks": {"clip_l": torch.randn(1, 5)}})
    with pytest.raises(FewShotError, match="has no clip_l vectors of width"), applied(opened_pocket, [(wide, 1.0)]):
        pass


# --------------------------------------------------------------------------------------- weights trained in full


@torch.no_grad()
def test_weights_in_full_come_and_go(opened_pocket):
    """Everything: at first nothing changes; then the difference, added as an adapter, is the same network."""
    unet = opened_pocket.unet
    before = {name: p for name, p in unet.named_parameters()}
    latents = torch.randn(1, opened_pocket.latent_channels, 8, 8)
    told = encode_prompts(opened_pocket, [PROMPT])["hidden"]

    def drawn():
        return unet(latents, torch.tensor([500]), told).sample

    plain = drawn()
    injected = inject(opened_pocket, {"all": Full()}, 0)
    assert len(injected.parameters) == len(before) and torch.equal(drawn(), plain)
    for number, parameter in enumerate(injected.parameters.values()):
        parameter.add_(0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)))
    changed = drawn()
    with injected.disabled():
        assert torch.equal(drawn(), plain)
    adapter = injected.extract("sks cat")
    injected.remove()
    assert all(p is before[name] for name, p in unet.named_parameters()) and torch.equal(drawn(), plain)
    with applied(opened_pocket, [(adapter, 1.0)]):
        assert torch.allclose(drawn(), changed, atol=1e-4) and not torch.allclose(changed, plain, atol=1e-2)
    again = inject(opened_pocket, {"all": Full()}, 0, start_from=adapter)
    assert torch.allclose(drawn(), changed, atol=1e-4)
    again.remove()


def test_a_set_in_full_beside_a_low_rank_one(opened_pocket):
    injected = inject(opened_pocket, {"cross_kv": Full(), "text": LoraSpec(2, 2.0)}, 0)
    names = set(injected.parameters)
    injected.remove()
    dense = {name for name in names if name.endswith(".weight")}
    assert dense and all(name.split(".")[-2] in ("to_k", "to_v") and ".attn2." in name for name in dense)
    assert all(name.startswith("text_encoder.") for name in names - dense) and names - dense


def test_ranks_above_a_layer_s_width_are_lowered(opened_pocket, caplog):
    injected = inject(opened_pocket, {"cross": LoraSpec(100_000, 50_000.0)}, 0)
    factors = injected.extract().factors
    injected.remove()
    for factor in factors.values():
        assert factor.rank == min(factor.up.shape[0], factor.down.shape[1])
        assert factor.alpha == pytest.approx(0.5 * factor.rank)
    assert "is lowered to it there" in caplog.text
