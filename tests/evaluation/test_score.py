"""Scoring: chunk by chunk with the same numbers, one model on the device at a time, each picture seen once by each."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from comfyui_fewshot.core.progress import NullProgress
from comfyui_fewshot.core.values import Prompt
from comfyui_fewshot.evaluation.evaluate import mutual_likeness
from comfyui_fewshot.evaluation.metrics.clip import ClipImage, ClipText
from comfyui_fewshot.evaluation.metrics.diversity import cosine_distance
from comfyui_fewshot.evaluation.metrics.vlm_questions import YesProbability
from comfyui_fewshot.evaluation.samples import SamplingContext
from comfyui_fewshot.evaluation.score import (
    CHUNK,
    ScoreRequest,
    cached_embeddings,
    model_of,
    model_on_device,
    score_images,
)
from comfyui_fewshot.evaluation.set_metrics import diversities
from comfyui_fewshot.pocket.models.weights import WEIGHTS
from comfyui_fewshot.tests.vision import tiny
from comfyui_fewshot.vision.captioners import open_captioner
from comfyui_fewshot.vision.embedders.clip import Clip

REFERENCES = [Image.new("RGB", (64, 64), colour) for colour in ("red", "orange")]


class Eye:
    """A model that counts what it sees and where it is moved."""

    model_id = "eye"

    def __init__(self, log):
        self.log, self.seen = log, []

    def move(self, device):
        self.log.append((self, torch.device(device).type))

    def images(self, images):
        self.seen += [image.getpixel((0, 0)) for image in images]
        return torch.tensor([[value / 255 for value in image.getpixel((0, 0))] for image in images])


class Sum:
    """A metric by an eye; "embedder" is what a masked likeness calls it, "clip" others."""

    def __init__(self, name, **eye):
        self.name = name
        self.__dict__ |= eye
        (self.eye,) = eye.values()

    def scores(self, images, prompts, references):
        return self.eye.images(images).sum(-1) + self.eye.images(references).sum()


def pictures(count, green=0):
    return [Image.new("RGB", (8, 8), (number, green, 0)) for number in range(count)]


def asked(count):
    return [Prompt(f"a {number}", f"a {number}") for number in range(count)]


def test_numbers_do_not_depend_on_the_chunk(monkeypatch):
    """By the pocket's CLIP, whose two metrics share it."""
    clip = Clip(WEIGHTS / "clip")
    generator = torch.Generator().manual_seed(0)
    drawn = [
        Image.fromarray(torch.randint(256, (64, 64, 3), generator=generator, dtype=torch.uint8).numpy())
        for _ in range(7)
    ]
    prompts = [Prompt(text, text) for text in ("a cat", "a dog on the beach", "a hat", "a car", "a cup", "a", "night")]
    requests = [ScoreRequest(ClipText(clip), prompts), ScoreRequest(ClipImage(clip), prompts)]
    whole = [request.metric.scores(drawn, prompts, REFERENCES).tolist() for request in requests]
    for size in (1, 3, CHUNK):
        monkeypatch.setattr("comfyui_fewshot.evaluation.score.CHUNK", size)
        found = score_images(requests, [drawn], REFERENCES, "cpu", NullProgress())
        assert [row[0] for row in found] == [pytest.approx(values, abs=1e-5) for values in whole], size
    assert mutual_likeness(ClipImage(clip), REFERENCES) == pytest.approx(
        float((clip.images(REFERENCES[:1]) * clip.images(REFERENCES[1:])).sum()), abs=1e-5
    )
    assert "images" not in vars(clip), "what remembered is gone"


def test_each_model_sees_each_picture_once_and_alone_on_the_device():
    log: list = []
    one, two = Eye(log), Eye(log)
    requests = [
        ScoreRequest(metric, asked(70)) for metric in (Sum("a", clip=one), Sum("b", dino=two), Sum("c", embedder=one))
    ]
    found = score_images(requests, [pictures(70), pictures(70, 9)], REFERENCES, "meta", NullProgress())
    assert [[len(values) for values in rows] for rows in found] == [[70, 70]] * 3 and found[0] == found[2]
    for eye in (one, two):
        assert len(eye.seen) == 2 * 70 + 2 == len(set(eye.seen))
    assert log == [(one, "meta"), (one, "cpu"), (two, "meta"), (two, "cpu")]


def test_a_model_leaves_the_device_when_it_is_cancelled():
    class Cancel(NullProgress):
        checks = 0

        def check(self):
            self.checks += 1
            if self.checks == 3:
                raise KeyboardInterrupt

        def report(self, done, total, text="", picture=None):
            told.append((done, total))

    log: list = []
    told: list = []
    eye = Eye(log)
    with pytest.raises(KeyboardInterrupt):
        score_images([ScoreRequest(Sum("a", clip=eye), asked(200))], [pictures(200)], REFERENCES, "meta", Cancel())
    assert [where for _, where in log] == ["meta", "cpu"] and "images" not in vars(eye)
    assert told == [(0, 200), (CHUNK, 200)] and len(eye.seen) == 2 * CHUNK + 2


def test_a_model_that_is_asked_moves_too(tmp_path):
    opened = open_captioner(tiny.qwen_vl(tmp_path / "vl"), torch.device("cpu"))
    assert model_of(YesProbability(opened, "inside")) is opened
    with model_on_device(YesProbability(opened, "inside"), "meta"):
        assert {p.device.type for p in opened.model.parameters()} == {"meta"} == {opened.device.type}
        opened.move = lambda device: moved.append(device)  # what was on "meta" holds no numbers to bring back
        moved: list = []
    assert moved == [torch.device("cpu")]


def test_only_what_is_open_is_remembered():
    eye = Eye([])
    metric = Sum("a", clip=eye)
    with cached_embeddings(metric, REFERENCES) as forget:
        drawn = pictures(3)
        for _ in range(2):
            metric.scores(drawn, asked(3), REFERENCES)
        assert len(eye.seen) == 5
        forget()
        metric.scores(drawn, asked(3), REFERENCES)
        assert len(eye.seen) == 8, "the references are kept"


def test_diversity_can_be_watched_and_its_model_moves():
    told: list = []
    log: list = []

    class Watching(NullProgress):
        def report(self, done, total, text="", picture=None):
            told.append((done, total))

    distance = cosine_distance(Eye(log))
    assert model_of(distance) is distance.embedder and model_of(Sum("a", clip=3)) is None
    diversities([pictures(4), pictures(4)], "aabb", distance, SamplingContext(Path(), "meta", Watching()))
    assert told == [(n, 4) for n in range(4)] and [where for _, where in log] == ["meta", "cpu"]
    with model_on_device(distance, "cpu"):
        assert len(log) == 2, "where the CPU computes nothing is moved"
