"""Learned words in files: alone, bundled in a LoRA, and those of other programs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.models.adapters.formats import from_tensors, read_lora, to_kohya, write_lora
from comfyui_fewshot.models.adapters.token_files import read_embedding, write_embedding, write_parts

from .tensors import PLACE, adapter, header, pair

NO_VECTORS = [torch.ones(()), torch.ones(0, 768), torch.full((1, 768), torch.nan)]


@pytest.mark.parametrize("vectors", [*NO_VECTORS, torch.ones(1, 1, 768)])
def test_a_word_of_no_numbers_is_refused(vectors: torch.Tensor):
    up, down = pair()
    lora = {f"{PLACE}.lora_up.weight": up, f"{PLACE}.lora_down.weight": down}
    word = from_tensors(lora | {"bundle_emb.w.clip_l": torch.ones(768)}).embeddings["w"]["clip_l"]
    assert word.shape == (1, 768)
    with pytest.raises(FewShotError, match="no vectors, or numbers that are not finite"):
        from_tensors(lora | {"bundle_emb.w.clip_l": vectors})


@pytest.mark.parametrize("vectors", NO_VECTORS)
def test_an_embedding_of_no_numbers_is_refused(tmp_path: Path, vectors: torch.Tensor):
    safetensors.torch.save_file({"emb_params": vectors}, tmp_path / "a.safetensors")
    with pytest.raises(FewShotError, match="no vectors, or numbers that are not finite"):
        read_embedding(tmp_path / "a.safetensors")


def test_embeddings(tmp_path: Path):
    one = adapter(embeddings={"sks": {"clip_l": torch.randn(2, 768)}}, trigger="sks cat")
    path = write_embedding(one, tmp_path / "one.safetensors")
    assert torch.equal(safetensors.torch.load_file(path)["emb_params"], one.embeddings["sks"]["clip_l"])
    assert header(path)["modelspec.architecture"] == "stable-diffusion-v1/textual-inversion"
    vectors = {"clip_l": torch.randn(2, 768), "clip_g": torch.randn(2, 1280)}
    both = adapter(family="sdxl", embeddings={"sks": vectors}, trigger="sks cat")
    path = write_embedding(both, tmp_path / "both.safetensors")
    assert set(safetensors.torch.load_file(path)) == {"clip_l", "clip_g"}
    for mine, name in ((one, "one"), (both, "both")):
        back = read_embedding(tmp_path / f"{name}.safetensors")
        assert (back.family, back.trigger, list(back.embeddings)) == (mine.family, "sks cat", ["sks"])
        assert all(torch.equal(back.embeddings["sks"][kind], v) for kind, v in mine.embeddings["sks"].items())
    with pytest.raises(FewShotError, match="no learned embeddings"):
        write_embedding(adapter(), tmp_path / "none.safetensors")
    with pytest.raises(FewShotError, match="exists already"):
        write_embedding(one, tmp_path / "one.safetensors")
    with pytest.raises(FewShotError, match="lora.safetensors is a LoRA, not an embedding"):
        read_embedding(write_lora(adapter(), tmp_path / "lora.safetensors"))


@pytest.mark.parametrize(("width", "family"), [(768, "sd1"), (1024, "sd2")])
def test_other_tools_embeddings(tmp_path: Path, width: int, family: str):
    """As A1111 writes them: no metadata, and a name of its own; a single vector may have one dimension."""
    safetensors.torch.save_file({"emb_params": torch.ones(width)}, tmp_path / "style.safetensors")
    back = read_embedding(tmp_path / "style.safetensors")
    (kind,) = back.embeddings["style"]
    assert back.family == family and back.embeddings["style"][kind].shape == (1, width)


@pytest.mark.parametrize(
    ("family", "keys", "names"),
    [
        ("sd1", {"clip_l": 768}, {"string_to_param.*"}),
        ("sd2", {"clip_h": 1024}, {"string_to_param.*"}),
        ("sdxl", {"clip_l": 768, "clip_g": 1280}, {"clip_l", "clip_g"}),
    ],
)
def test_embeddings_bundled_in_a_lora(tmp_path: Path, family: str, keys: dict[str, int], names: set[str]):
    """Under the words themselves, whatever the file is called, so that the trigger works in A1111."""
    words = {w: {key: torch.randn(2, width).half().float() for key, width in keys.items()} for w in ("sks", "<zwx>")}
    mine = adapter(family=family, embeddings=words)
    path = write_lora(mine, tmp_path / "file.safetensors")
    bundled = {key for key in safetensors.torch.load_file(path) if key.startswith("bundle_emb.")}
    assert bundled == {f"bundle_emb.{word}.{name}" for word in words for name in names}
    back = read_lora(path)
    assert back.family == family and set(back.embeddings) == set(words)
    assert all(torch.equal(back.embeddings[word][key], words[word][key]) for word in words for key in keys)
    assert not any(key.startswith("bundle") for key in to_kohya(mine))


def test_all_parts_of_an_adapter(tmp_path: Path):
    vectors = {"clip_l": torch.randn(1, 768)}
    both = adapter(embeddings={"sks": vectors, "<zwx>": vectors}, trigger="sks cat")
    names = [path.name for path in write_parts(both, tmp_path / "two.safetensors")]
    assert names == ["two.safetensors", "two_sks.safetensors", "two_zwx.safetensors"]
    (alone,) = write_parts(replace(both, factors={}, embeddings={"sks": vectors}), tmp_path / "word.safetensors")
    assert alone.name == "word.safetensors" and list(read_embedding(alone).embeddings) == ["sks"]


CJK = "猫" * 100


def test_words_of_any_length_become_names(tmp_path: Path):
    """File systems count bytes, 255 of them: a character of Chinese takes three."""
    words = {f"{CJK}{end}": {"clip_l": torch.randn(1, 768)} for end in ("甲", "乙")}
    names = [path.name for path in write_parts(adapter(embeddings=words), tmp_path / f"{'あ' * 60}.safetensors")]
    assert len(set(names)) == 3 and all(len(name.encode()) <= 255 for name in names)
    assert names[1].startswith("あ" * 60 + "_" + "猫" * 13 + "-")
    assert set(read_lora(tmp_path / names[0]).embeddings) == set(words)
    assert [list(read_embedding(tmp_path / name).embeddings) for name in names[1:]] == [[word] for word in words]
