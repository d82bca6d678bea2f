"""What a prompt means when it is drawn: weights, embeddings, and what is drawn as plain words."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest

from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.core.text.embeddings import (
    EmbeddingName,
    embedding_file,
    embedding_parts,
    missing_notes,
    reading_key,
    unweighted,
)
from comfyui_fewshot.core.text.syntax import check_placeholders, drawing_notes, literal_notes, weight_notes
from comfyui_fewshot.core.text.weights import escaped, weighted
from comfyui_fewshot.core.values import Prompt


@pytest.mark.parametrize(
    ("prompt", "pieces"),
    [
        ("a (cat:1.3)", [("a ", 1.0), ("cat", 1.3)]),
        ("((a))", [("a", pytest.approx(1.21))]),
        ("(a (b:1.5) c:0.5)", [("a ", 0.5), ("b", 1.5), (" c", 0.5)]),
        ("(a:1.2:3) (b:x)", [("a:1.2", 3.0), (" ", 1.0), ("b:x", pytest.approx(1.1))]),
        ("(:2) ()", [(":2", pytest.approx(1.1)), (" ", 1.0)]),
        ("a (b", [("a ", 1.0), ("(b", 1.0)]),
        ("a) (b:2) c", [("a) (b:2) c", 1.0)]),
        ("((a)", [("(a", pytest.approx(1.1))]),
        (r"\(a\) (b\):1.5)", [("(a) ", 1.0), ("b)", 1.5)]),
        ("[a] {b|c} <lora:x:1> (d: -0.5 )", [("[a] {b|c} <lora:x:1> ", 1.0), ("d", -0.5)]),
        ("", []),
    ],
)
def test_weights(prompt: str, pieces: list[tuple[str, float]]):
    assert weighted(prompt) == pieces


def test_weights_that_cannot_be_drawn_and_words_put_in():
    for wrong in ("(a:nan)", "(a:inf)", "(a:1e39)", "(a (b:-1e39))", "(a:1001)", "(" * 200 + "a" + ")" * 200):
        with pytest.raises(FewShotError, match="weight of|parentheses"):
            weighted(wrong)
    assert weighted(f"a {escaped('dog (toy)')}") == [("a dog (toy)", 1.0)]


def test_embeddings_are_named_behind_a_space():
    parts = embedding_parts("embedding:foo, red a,embedding:no embedding:bar[x] y")
    assert parts == [EmbeddingName("foo,", "red a,embedding:no"), EmbeddingName("bar", "[x] y")]
    assert [part.rest for part in parts if isinstance(part, EmbeddingName)] == [", red a,embedding:no", "[x] y"]
    assert embedding_parts("an embedding: of") == ["an ", EmbeddingName("of")]
    assert embedding_parts("embedding:") == [EmbeddingName("")]


def test_the_file_of_an_embedding(tmp_path: Path):
    (tmp_path / "one" / "deep").mkdir(parents=True)
    for name in ("one/foo.safetensors", "one/foo.pt", "one/deep/bar.bin", "secret.safetensors", "one/odd,.pt"):
        (tmp_path / name).write_bytes(b"x")
    folders = [tmp_path / "none", tmp_path / "one"]

    def found(name: str) -> str:
        path, rest = EmbeddingName(name, "red").find(folders)
        return f"{path.name if path else None} {rest}"

    assert found("foo") == "foo.safetensors red" and found("foo.pt") == "foo.pt red"
    assert found("foo,") == "foo.safetensors , red" and found("odd,") == "odd,.pt red"
    assert found("bar") == found("deep/bar") == "bar.bin red" and found("../secret") == "None red"
    assert embedding_file("", folders) is None and embedding_file("Foo", folders) is None
    key = reading_key("embedding:foo (a:2)", folders)
    (tmp_path / "one/foo.safetensors").write_bytes(b"other")
    assert reading_key("embedding:foo (a:2)", folders) != key
    assert reading_key("a cat [x] <R> BREAK", folders) == () != reading_key("a cat " * 60, folders)


def test_metrics_read_words_alone():
    assert unweighted(r"a (cat:1.3), \(toy\), ((red))") == "a cat, (toy), red"
    assert unweighted("embedding:bad, a cat, embedding:x, in snow") == "a cat, in snow"
    assert unweighted("a  cat :) [x] , ") == "a  cat :) [x] , "
    assert Prompt("a (sks cat:1.2)", "a (cat:1.2)").words == "a cat"


@pytest.mark.parametrize(
    ("prompt", "named"),
    [
        ("<lora:foo:1> a cat", "'<lora:foo:1>': .*Load Adapter"),
        ("a <lyco:x:0.5> cat", "'<lyco:x:0.5>'"),
        ("a cat BREAK night", "'BREAK'"),
        ("a cat AND a dog", "'AND'"),
        ("a [cat]", r"'\[cat\]': .*\(word:0.9\)"),
        ("[cat:dog:0.5]", r"'\[cat:dog:0.5\]': .*all steps"),
        ("a [cat|dog]", r"'\[cat\|dog\]'"),
        ("{cat|dog}", r"'\{cat\|dog\}': .*a line for each"),
        ("{{best}} a", r"'\{best\}': .*only \{trigger\} is filled in"),
        ("a __colour__ cat", "'__colour__': .*wildcard"),
        ("a cat // really", "'// really'"),
        ("a cat /* not */ here", r"'/\* not \*/'"),
        ("a cat++", r"'cat\+\+'"),
        ("a,embedding:foo", "'a,embedding:foo': .*behind a space"),
        ("a (cat:1,3)", r"'\(cat:1,3\)': .*\(word:1.3\)"),
        ("a （cat:1.3）", "（cat:1.3）"),
        ("a (cat:1.3", "in part as plain words"),
        ("embedding:nothere", "^embedding:nothere does not exist in models/embeddings and is left out"),
        ("(a embedding:nope, b:1.2)", "^embedding:nope does not exist"),
    ],
)
def test_what_is_drawn_as_plain_words_is_named(prompt: str, named: str, tmp_path: Path):
    [note] = drawing_notes([prompt, prompt], [tmp_path], ("{trigger}", "[V]"))
    assert re.search(named, note), note


def test_what_comfyui_reads_is_not_named(tmp_path: Path):
    (tmp_path / "foo.pt").write_bytes(b"x")
    fine = (
        "a {trigger}", "a [V] dog", "(cat:1.3) ((b))", r"\(a\) \[", "embedding:foo", "embedding:sks x", "a <R> b",
        "http://a.b/c", "R&B and rock", "snake_case", "a - b -- c", "50/50", "", "a_b__c",
    )  # fmt: skip
    assert drawing_notes(fine, [tmp_path], ("{trigger}", "[V]"), ["SKS"]) == []
    many = literal_notes([f"<lora:{i}:1>" for i in range(9)])
    assert len(many) == 1 and "and 6 more" in many[0]


@pytest.mark.parametrize(
    "part",
    [
        "a", "a ", "a\n", "[", "[a:", "[a:1", "[:1 ", "a[a|", "[" + "|" * 999, "(", "(a:", "(: ", "(a:1,", "((a))+",
        "{", "{a|", "{" + "|" * 999, "<lora:", "<lora:a ", "/__a", "__a", "__", "/*", "/* ", "//", "a+", "aa+++",
        "embedding:", "(embedding:", ",embedding:a", "embedding:a ", "a:1", "（a:1", "1", ".", " ", ":", "|",
    ],
)  # fmt: skip
def test_long_prompts_are_looked_through_at_once(part: str):
    for prompt in (part * (100_000 // len(part)), "[{(<" + part * (100_000 // len(part)) + "x"):
        start = time.process_time()
        literal_notes([prompt])
        weight_notes([prompt])
        assert time.process_time() - start < 1


def test_folders_are_looked_through_once_for_all_embeddings(tmp_path, monkeypatch):
    walks = []
    monkeypatch.setattr(os, "walk", lambda folder, **_: walks.append(folder) or [])
    assert len(missing_notes([f"embedding:a{i} embedding:b{i}" for i in range(9)], [tmp_path])) == 18
    assert walks == [tmp_path]


def test_half_letters_are_told():
    for text in ("\ud800", "a cat \udcff"):
        with pytest.raises(FewShotError, match=r"half a letter \(U\+D[8C]"):
            Prompt(text, text)


def test_placeholders_that_are_nearly_one():
    for text in ("{triger} in snow", "{Trigger}", "a { trigger }", "{triggers}", "{tigger}"):
        with pytest.raises(FewShotError, match="stands for nothing: write {trigger}"):
            check_placeholders([text], ("{trigger}",))
    check_placeholders(["{trigger} {cat|dog} {best} {}", "(cat:1.3)"], ("{trigger}",))
    with pytest.raises(FewShotError, match="write {noun}"):
        check_placeholders(["a {nuon}"], ("{noun}",))


def test_captions_with_weights_are_counted_once():
    captions = ["a (cat:1.3)", r"hat \(red\)", "((x))", "a cat (red)", "a cat :)", "embedding:foo"]
    [note] = weight_notes(captions)
    assert note.startswith("4 captions") and "'(cat:1.3)'" in note and weight_notes(captions[3:5]) == []
