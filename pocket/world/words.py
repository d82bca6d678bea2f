"""The pocket's CLIPTokenizer: byte-pair merges of the world's own vocabulary, so that each word is one token."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextModel, CLIPTokenizer

from .world import IDENTIFIERS, vocabulary

LENGTH = 32  # tokens of a prompt, with the first and the last
BOS, EOS = "<|startoftext|>", "<|endoftext|>"


def build(folder: Path) -> CLIPTokenizer:
    """Write vocab.json and merges.txt into `folder` and load them as a CLIPTokenizer.

    Every byte is in the vocabulary with and without the end-of-word mark, so any text can be encoded.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").unlink(missing_ok=True)  # it would be read before the files written here
    letters = sorted(ByteLevel.alphabet())
    pairs = merges({part for word in vocabulary() for part in word.replace("-", " - ").split()})
    tokens = letters + [f"{letter}</w>" for letter in letters] + ["".join(pair) for pair in pairs]
    tokens = list(dict.fromkeys(tokens)) + [BOS, EOS]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in pairs) + "\n")
    tokenizer = CLIPTokenizer.from_pretrained(folder, model_max_length=LENGTH, pad_token=EOS, unk_token=EOS)
    tokenizer.save_pretrained(folder)
    return tokenizer


def merges(words: set[str]) -> list[tuple[str, str]]:
    """Byte-pair merges (Sennrich et al. 2016) until every word is one token; ties go by the alphabet."""
    spelled = [[*word[:-1], word[-1] + "</w>"] for word in sorted(words)]
    pairs = []
    while any(len(parts) > 1 for parts in spelled):
        counts = Counter(pair for parts in spelled for pair in pairwise(parts))
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        pairs.append(best)
        spelled = [_merged(parts, best) for parts in spelled]
    return pairs


def _merged(parts: list[str], pair: tuple[str, str]) -> list[str]:
    result: list[str] = []
    for part in parts:
        if result and (result[-1], part) == pair:
            result[-1] += part
        else:
            result.append(part)
    return result


def save(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write the tokenizer in the new layout (tokenizer.json) and in the old one (vocab.json, merges.txt)."""
    backend = getattr(tokenizer, "backend_tokenizer", None)  # transformers 4 has none here
    if backend is not None:  # the padding and truncation of the last call would be written too
        backend.no_padding()
        backend.no_truncation()
    tokenizer.save_pretrained(folder)
    if not (folder / "tokenizer.json").exists():
        return  # transformers 4 writes the old layout
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    pairs = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(pairs) + "\n")


@torch.no_grad()
def rescale_untrained_tokens(text: CLIPTextModel, tokenizer: CLIPTokenizer) -> None:
    """Scale embeddings that no caption trains (identifiers, letters, parts of words) to the mean norm of all others.

    Weight decay and their small start leave them a fifth of that, so that "sks cat" would hardly differ from "cat", and
    the table's mean length would be no word's. In the CLIPs that people have, rare tokens are as long as common ones.
    """
    table = text.get_input_embeddings().weight
    trained = caption_tokens(tokenizer)
    length = table[trained].norm(dim=1).mean()
    untrained = sorted(set(range(len(table))) - set(trained))
    table[untrained] *= length / table[untrained].norm(dim=1, keepdim=True)


def caption_tokens(tokenizer: CLIPTokenizer) -> list[int]:
    """The ids of all tokens of captions, the first and the last one of a prompt included."""
    return sorted({number for word in vocabulary() if word not in IDENTIFIERS for number in tokenizer(word).input_ids})
