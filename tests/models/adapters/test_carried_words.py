"""Learned words in LoRA files: rows of the text encoders' tables, that every loader of LoRAs puts there."""

from dataclasses import replace

import pytest
import torch

from comfyui_fewshot.core.values import Adapter, LowRank
from comfyui_fewshot.models.adapters.apply import applied, delta
from comfyui_fewshot.models.adapters.formats import read_lora, write_lora
from comfyui_fewshot.models.adapters.forms.word_rows import TABLE, carried_words, without_words
from comfyui_fewshot.models.adapters.inject import LoraSpec, inject
from comfyui_fewshot.models.adapters.learned_tokens import LearnedTokens, TokenSpec
from comfyui_fewshot.models.adapters.merge import sum_adapters
from comfyui_fewshot.models.adapters.metadata import lora_metadata
from comfyui_fewshot.models.adapters.token_files import word_note

PATH = f"text_encoder.{TABLE}"
SETS = {"cross": LoraSpec(4, 4.0)}


@pytest.fixture
def table(opened_pocket):
    return opened_pocket.text_encoders[0].get_input_embeddings().weight.detach()


def trained(model, *specs, start_from=None, sets=SETS, seed=1):
    """An adapter whose pairs and words are drawn at random."""
    injected = inject(model, sets, seed, start_from, LearnedTokens(model, specs, start_from))
    try:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in injected.parameters.values():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        return injected.extract("sks cat")
    finally:
        injected.remove()


def changed_table(adapter, table):
    return table + delta(adapter.factors[PATH], table.device, table.shape)


def stored(adapter, word):
    """A word's vector as a LoRA file bundles it."""
    return adapter.embeddings[word]["clip_l"][0].half().float()


def row_of(model, word):
    (row,) = model.tokenizers[0](word, add_special_tokens=False).input_ids
    return row


def test_the_words_become_their_rows_and_nothing_else_changes(opened_pocket, table):
    adapter = trained(opened_pocket, TokenSpec("sks", "cat"), TokenSpec("zwx", "car"))
    found, rows = changed_table(adapter, table), [row_of(opened_pocket, word) for word in ("sks", "zwx")]
    for word, row in zip(("sks", "zwx"), rows, strict=True):
        assert torch.allclose(found[row], stored(adapter, word), atol=1e-6)
    others = torch.ones(len(table), dtype=torch.bool)
    others[rows] = False
    assert torch.equal(found[others], table[others])
    assert carried_words(adapter) and word_note(adapter) == ""


@pytest.mark.parametrize("spec", [TokenSpec("sks", "cat", 2), TokenSpec("qqqq-zz", "cat")])
def test_words_of_several_tokens_are_called_by_their_file(opened_pocket, spec):
    adapter = trained(opened_pocket, spec)
    assert PATH not in adapter.factors and not carried_words(adapter)
    assert f"{spec.word} is a learned word" in word_note(adapter) and "write embedding:" in word_note(adapter)


def test_one_of_two_words_is_not_enough(opened_pocket):
    adapter = trained(opened_pocket, TokenSpec("sks", "cat"), TokenSpec("zwx", "car", 2))
    assert PATH in adapter.factors and not carried_words(adapter) and word_note(adapter)


def test_words_alone_are_embeddings(opened_pocket):
    assert not trained(opened_pocket, TokenSpec("sks", "cat"), sets={}).factors


def test_a_file_brings_them_back_and_says_nothing_of_their_rank(opened_pocket, table, tmp_path):
    adapter = trained(opened_pocket, TokenSpec("sks", "cat"))
    back = read_lora(write_lora(adapter, tmp_path / "lora.safetensors"))
    row = row_of(opened_pocket, "sks")
    assert torch.allclose(changed_table(back, table)[row], stored(adapter, "sks"), atol=1e-6)
    assert carried_words(back) and set(without_words(back)) == set(adapter.factors) - {PATH}
    assert back.metadata["ss_network_dim"] == "4" == lora_metadata(back, {}, "")["ss_network_dim"]


def test_training_on_carries_the_word_as_it_is_then(opened_pocket, table):
    first = trained(opened_pocket, TokenSpec("sks", "cat"))
    row = row_of(opened_pocket, "sks")
    for specs in ((TokenSpec("sks", "cat"),), ()):  # the word learned further, and kept
        on = trained(opened_pocket, *specs, start_from=first, seed=2)
        word = on.embeddings["sks"]["clip_l"][0]
        assert torch.allclose(changed_table(on, table)[row], stored(on, "sks"), atol=1e-6)
        assert torch.equal(word, first.embeddings["sks"]["clip_l"][0]) is not bool(specs)


def test_where_it_is_applied_the_word_is_known_and_the_table_as_it_was(opened_pocket, table):
    adapter = trained(opened_pocket, TokenSpec("sks", "cat"))
    with applied(opened_pocket, [(adapter, 0.5)]):
        assert opened_pocket.text_encoders[0].get_input_embeddings().weight is not None
        assert torch.equal(opened_pocket.text_encoders[0].get_input_embeddings().weight, table)
        assert "sks" in opened_pocket.learned_tokens


def test_a_sum_of_adapters_carries_all_words_in_full(opened_pocket, table):
    one, other = (trained(opened_pocket, TokenSpec(word, "cat"), seed=n) for n, word in enumerate(("sks", "zwx")))
    both = sum_adapters([(one, 0.5), (replace(other, trigger="zwx cat"), 0.5)])
    assert carried_words(both)
    for word, adapter in (("sks", one), ("zwx", other)):
        row = changed_table(both, table)[row_of(opened_pocket, word)]
        assert torch.allclose(row, stored(adapter, word), atol=1e-5)


def test_another_trainers_rows_are_a_change_like_any_other(opened_pocket, table):
    up = torch.zeros(len(table), 1)
    up[3] = 1.0
    foreign = Adapter({PATH: LowRank(up, torch.ones(1, table.shape[1]), 1.0)}, "sd1", "sks cat")
    assert set(without_words(foreign)) == {PATH}
    with applied(opened_pocket, [(foreign, 1.0)]):
        now = opened_pocket.text_encoders[0].get_input_embeddings().weight
        assert torch.allclose(now[3], table[3] + 1) and torch.equal(now[4:], table[4:])
