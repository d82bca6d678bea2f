"""Learned words: an adapter's embedding in Sample Grid, in ComfyUI's CLIP, and as a file of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from comfyui_fewshot.core.values import Adapter, LowRank
from comfyui_fewshot.models.adapters.formats import write_lora
from comfyui_fewshot.models.adapters.learned_tokens import LearnedTokens, TokenSpec
from comfyui_fewshot.models.open import base_from_path, open_base
from comfyui_fewshot.tests.server import graphs
from comfyui_fewshot.tests.server.harness import PACK

pytestmark = pytest.mark.server
CLOSE = 1e-3  # of a pixel in [0, 1]
WIDTH = 192  # of the pocket's text encoder
MODULE = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k"


def far(one, other):
    return float(np.abs(one - other).max())


@pytest.fixture(scope="module")
def graph(server):
    """Base and an adapter of one layer and one learned word of two vectors."""
    random = torch.Generator().manual_seed(0)
    up, down = torch.randn(192, 2, generator=random) * 0.05, torch.randn(2, WIDTH, generator=random)
    vectors = torch.randn(2, WIDTH, generator=random)
    adapter = Adapter({MODULE: LowRank(up, down, 2.0)}, "sd1", "sks cat", {"sks": {"clip_l": vectors}})
    write_lora(adapter, server.base / "models" / "loras" / "word.safetensors")
    load = {"source": "file", "source.name": "word.safetensors"}
    return graphs.base() | {"adapter": graphs.node("FewShotLoadAdapter", **load)}


def test_apply_adapter_teaches_the_word_to_comfyui(server, graph):
    apply = {"apply": graphs.node("FewShotApplyAdapter", adapter=["adapter", 0], model=["base", 1], clip=["base", 2],
                                  strength_model=1.0, strength_clip=1.0)}  # fmt: skip
    drawn = graphs.drawing(["apply", 0], ["apply", 1], prompt="a photo of a embedding:sks cat")
    server.succeed(graph | apply | drawn | graphs.grid(["adapter", 0]))
    assert far(server.kept("native"), server.kept("after")) <= CLOSE
    assert far(server.kept("native"), server.kept("before")) > CLOSE


def test_other_words_are_looked_for_as_before(server, graph):
    apply = {"apply": graphs.node("FewShotApplyAdapter", adapter=["adapter", 0], model=["base", 1], clip=["base", 2],
                                  strength_model=1.0, strength_clip=1.0)}  # fmt: skip
    start = len(server.log)
    server.succeed(graph | apply | graphs.drawing(["apply", 0], ["apply", 1], prompt="embedding:nobody, cat"))
    assert "embedding:nobody, does not exist" in server.log[start:]


def test_a_saved_word_is_listed_and_used_at_once(server, graph):
    save = {"save": graphs.node("FewShotSaveAdapter", adapter=["adapter", 0], name="word")}
    *lines, note = server.succeed(graph | save).outputs("save")["text"][0].splitlines()
    assert note.startswith("sks is a learned word, which is more than one token") and "write embedding:" in note
    written = [Path(line) for line in lines]
    assert [path.parent.name for path in written] == ["loras", "embeddings"]
    name = written[1].stem
    assert name in server.get("/embeddings")
    lora = {"lora": graphs.node("LoraLoader", model=["base", 1], clip=["base", 2], lora_name=written[0].name,
                                strength_model=1.0, strength_clip=1.0)}  # fmt: skip
    drawn = graphs.drawing(["lora", 0], ["lora", 1], prompt=f"a photo of a embedding:{name} cat")
    server.succeed(graph | lora | drawn | graphs.grid(["adapter", 0]))
    assert far(server.kept("native"), server.kept("after")) <= CLOSE


def test_a_lora_file_carries_a_word_of_one_token(server):
    """ComfyUI's own loader and prompt node, with the trigger as it is printed and saved."""
    with open_base(base_from_path(server.base / "custom_nodes" / PACK / "pocket" / "weights"), "cpu") as model:
        words = LearnedTokens(model, [TokenSpec("sks", "cat")])
        with torch.no_grad():
            for vectors in words.parameters.values():
                vectors.copy_(torch.randn(vectors.shape, generator=torch.Generator().manual_seed(3)))
        factors, embeddings = words.table_factors(), words.extract()
        words.remove()
    layer = LowRank(torch.randn(192, 2) * 0.02, torch.randn(2, WIDTH) * 0.5, 2.0)
    adapter = Adapter({MODULE: layer, **factors}, "sd1", "sks cat", embeddings)
    write_lora(adapter, server.base / "models" / "loras" / "carried.safetensors")
    load = {"source": "file", "source.name": "carried.safetensors"}
    graph = graphs.base() | {
        "adapter": graphs.node("FewShotLoadAdapter", **load),
        "lora": graphs.node("LoraLoader", model=["base", 1], clip=["base", 2], lora_name="carried.safetensors",
                            strength_model=1.0, strength_clip=1.0),
        "save": graphs.node("FewShotSaveAdapter", adapter=["adapter", 0], name="carried"),
    }  # fmt: skip
    drawn = graphs.drawing(["lora", 0], ["lora", 1], prompt=f"a photo of a {adapter.trigger}")
    answer = server.succeed(graph | drawn | graphs.grid(["adapter", 0]))
    assert far(server.kept("native"), server.kept("after")) <= CLOSE < far(server.kept("native"), server.kept("before"))
    assert "learned word" not in answer.outputs("save")["text"][0]
