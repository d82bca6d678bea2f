"""The pocket's CLIPTokenizer: byte-pair merges learned on the world's own vocabulary, so that each word is one token."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.normalizers import Lowercase, Sequence
from tokenizers.pre_tokenizers import ByteLevel, Split, WhitespaceSplit
from tokenizers.pre_tokenizers import Sequence as PreSequence
from tokenizers.trainers import BpeTrainer
from transformers import CLIPTokenizer

from .world import vocabulary

LENGTH = 32  # tokens of a prompt, with the first and the last
BOS, EOS = "<|startoftext|>", "<|endoftext|>"


def build(folder: Path) -> CLIPTokenizer:
    """Write vocab.json and merges.txt into `folder` and load them as a CLIPTokenizer.

    Every byte is in the vocabulary with and without the end-of-word mark, so any text can be encoded.
    """
    folder.mkdir(parents=True, exist_ok=True)
    letters = ByteLevel.alphabet()
    model = Tokenizer(BPE(end_of_word_suffix="</w>"))
    model.normalizer = Sequence([Lowercase()])
    model.pre_tokenizer = PreSequence([WhitespaceSplit(), Split("-", "isolated")])
    words = sorted({part for word in vocabulary() for part in word.replace("-", " - ").split()})
    trainer = BpeTrainer(vocab_size=10**6, min_frequency=0, end_of_word_suffix="</w>", show_progress=False)
    model.train_from_iterator(words, trainer)
    merges = json.loads(model.to_str())["model"]["merges"]
    pairs = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in merges]
    tokens = sorted(letters) + [f"{letter}</w>" for letter in sorted(letters)] + ["".join(pair) for pair in pairs]
    tokens = list(dict.fromkeys(tokens)) + [BOS, EOS]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in pairs) + "\n")
    tokenizer = CLIPTokenizer.from_pretrained(folder, model_max_length=LENGTH, pad_token=EOS, unk_token=EOS)
    tokenizer.save_pretrained(folder)
    return tokenizer
