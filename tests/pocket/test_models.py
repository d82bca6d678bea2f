"""The pocket's models: ordinary classes in ordinary folders, a judge, and a training that resumes."""

import json

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from comfyui_fewshot.pocket import assemble, train
from comfyui_fewshot.pocket.fit_loop import FitSettings, fit
from comfyui_fewshot.pocket.models import diffusion, judge, reader
from comfyui_fewshot.pocket.models.weights import WEIGHTS
from comfyui_fewshot.pocket.world import drawing, pictures, scene_batches, words, world


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return assemble.random_folder(tmp_path_factory.mktemp("pocket"))


def test_every_word_is_one_token(tmp_path):
    tokenizer = words.build(tmp_path)
    again = CLIPTokenizer.from_pretrained(tmp_path)
    for word in world.vocabulary():
        expected = 5 if "-" in word else 3
        assert len(tokenizer(word).input_ids) == expected == len(again(word).input_ids), word
    assert again.model_max_length == words.LENGTH and again.pad_token_id == again.eos_token_id
    assert again.decode(again("anything at all").input_ids, skip_special_tokens=True) == "anything at all"


def test_a_used_tokenizer_is_saved_as_a_new_one(tmp_path):
    tokenizer = words.build(tmp_path / "new")
    tokenizer(["a cat"], padding="max_length", truncation=True)
    words.save(tokenizer, tmp_path / "used")
    for file in sorted((tmp_path / "new").glob("*.json")):
        assert (tmp_path / "used" / file.name).read_bytes() == file.read_bytes()


def test_unseen_tokens_are_as_long_as_known_words(folder):
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    text = CLIPTextModel.from_pretrained(folder / "text_encoder", torch_dtype=torch.float32)
    table, trained = text.get_input_embeddings().weight, words.caption_tokens(tokenizer)
    with torch.no_grad():
        table[trained] *= 5
    before = table.detach().clone()
    words.rescale_untrained_tokens(text, tokenizer)
    untrained = [i for i in range(len(tokenizer)) if i not in trained]
    assert all(tokenizer(word).input_ids[1] in untrained for word in world.IDENTIFIERS)
    assert torch.allclose(table[untrained].norm(dim=1), before[trained].norm(dim=1).mean().expand(len(untrained)))
    assert torch.equal(table[trained], before[trained])
    assert torch.allclose(torch.cosine_similarity(table[untrained], before[untrained]), torch.ones(len(untrained)))


def test_shipped_unseen_tokens_are_as_long_as_known_words():
    tokenizer = CLIPTokenizer.from_pretrained(WEIGHTS / "tokenizer")
    text = CLIPTextModel.from_pretrained(WEIGHTS / "text_encoder", torch_dtype=torch.float32)
    lengths, trained = text.get_input_embeddings().weight.detach().norm(dim=1), words.caption_tokens(tokenizer)
    assert 0.95 < lengths.mean() / lengths[trained].mean() < 1.05


def test_the_longest_caption_fits():
    tokenizer_length = 0
    for i in range(300):
        rng = world.rng_of(3, i)
        scene = world.random_scene(rng, two=1.0)
        caption = world.caption(scene, rng, with_look=1, placed=1)
        tokenizer_length = max(tokenizer_length, len(caption.replace("-", " - ").split()) + 2)
    assert tokenizer_length <= words.LENGTH


def test_the_folder_holds_ordinary_classes(folder):
    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    assert 8e6 <= sum(p.numel() for p in unet.parameters()) <= 12e6
    widths = unet.config.block_out_channels
    assert all(width % widths[0] == 0 for width in widths)
    assert AutoencoderKL.from_pretrained(folder / "vae").config.latent_channels == 8
    assert CLIPTextModel.from_pretrained(folder / "text_encoder").config.max_position_embeddings == words.LENGTH
    assert json.loads((folder / "model_index.json").read_text())["unet"][1] == "UNet2DConditionModel"


def test_shipped_files_stay_small():
    files = [f for f in WEIGHTS.rglob("*") if f.is_file()]
    assert files, "the pocket's weights are missing"
    assert max(f.stat().st_size for f in files) <= 16 * 2**20
    assert sum(f.stat().st_size for f in files) <= 48 * 2**20


def test_reader_answers_are_cut_where_the_truth_is():
    scenes = [world.scene_of(4, i) for i in range(16)]
    right = reader.truth(scenes)
    model = reader.SceneReader(reader.SceneReaderConfig())
    parts = reader.split(model(torch.zeros(16, 3, 64, 64)))
    for given, wanted in zip(parts, right, strict=True):
        assert given.keys() == wanted.keys()
    perfect = torch.cat([_sure(given, wanted) for given, wanted in zip(parts, right, strict=True)], 1)
    assert float(reader.reading_loss(perfect, scenes)) < 1e-3

    class Oracle(torch.nn.Module):
        def forward(self, pictures):
            return perfect

    readings = judge.read(Oracle(), torch.zeros(16, 3, 64, 64))
    assert [r.layout for r in readings] == [s.layout for s in scenes]
    assert [[t.look for t in r.things] for r in readings] == [[t.look for t in s.things] for s in scenes]


def _sure(given, wanted):
    columns = []
    for name, logits in given.items():
        target = wanted[name]
        one_hot = target if name == "colours" else torch.nn.functional.one_hot(target.clamp(min=0), logits.shape[1])
        columns.append((one_hot.float() - 0.5) * 60)
    return torch.cat(columns, 1)


def test_shipped_readers_read_the_subjects():
    """True pictures of the subjects: the gate's share over all of them, and none is misread as a rule."""
    sure = judge.SubjectJudge()
    shares = {}
    for subject in world.SUBJECTS:
        shown = [drawing.render(pictures.subject_scene(subject, 77, i))[0] for i in range(32)]
        shares[subject.name] = sure.subject_fidelity(shown, subject.name)
    assert sum(shares.values()) / len(shares) >= 0.95, shares
    assert min(shares.values()) >= 0.75, shares


def test_training_resumes_where_it_was_cut(tmp_path):
    def run(minutes, state):
        torch.manual_seed(0)
        module = torch.nn.Linear(4, 1)
        trained = []

        def loss(step):
            trained.append(step)
            return module(torch.ones(8, 4)).square().mean(), {}

        fit(module, loss, FitSettings(1e-2), state, minutes)
        return module, trained

    _, first = run(0.005, tmp_path / "state.safetensors")
    module, second = run(0.01, tmp_path / "state.safetensors")
    assert first[0] == 0 and second[0] == first[-1] + 1
    assert float(module(torch.ones(1, 4)).detach().square()) < 1


def test_latents_are_known_by_their_encoder(folder, tmp_path):
    def key(changed: str) -> str:
        """The key of a copy of the folder in which the tensors under `changed` differ."""
        vae = AutoencoderKL.from_pretrained(folder / "vae")
        with torch.no_grad():
            for name, tensor in vae.named_parameters():
                if name.startswith(changed):
                    tensor.add_(1.0)
        vae.save_pretrained(tmp_path / changed)
        return train.encoder_key(tmp_path / changed)

    plain = key("nothing")
    assert key("decoder.") == plain and key("post_quant_conv.") == plain
    assert key("encoder.") != plain and key("quant_conv.") != plain


def test_beside_a_denoiser_only_the_decoder_learns(tmp_path):
    weights = assemble.random_folder(tmp_path / "weights")
    before = {name: t.clone() for name, t in AutoencoderKL.from_pretrained(weights / "vae").state_dict().items()}
    paths = train.TrainingPaths(weights, tmp_path / "state", torch.device("cpu"), scenes=0)
    paths.cache.mkdir()
    train.train_autoencoder(paths, minutes=0.05)
    after = AutoencoderKL.from_pretrained(weights / "vae", torch_dtype=torch.float32).state_dict()
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed and changed <= {"decoder", "post_quant_conv"}


def test_the_denoiser_learns(folder, tmp_path):
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    model = diffusion.TextConditionedDenoiser(diffusion.build_text(tokenizer), diffusion.build_unet())
    scenes = [world.scene_of(31, i) for i in range(8)]
    loss = diffusion.loss_of(model, tokenizer, torch.randn(8, 8, 8, 8).half(), scenes, torch.device("cpu"), batch=8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    values = []
    for step in range(12):
        value, _ = loss(step)
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        values.append(float(value.detach()))
    assert sum(values[-3:]) < 0.9 * sum(values[:3])


def test_batches_are_functions_of_their_number():
    first, second = (scene_batches.SceneBatches(3, 4, masked=True)[5] for _ in range(2))
    assert first[0] == second[0] and torch.equal(first[1], second[1]) and torch.equal(first[2], second[2])
    assert first[0] == scene_batches.SceneBatches(3, 4, first=5)[0][0]


def test_the_command_refuses_an_unknown_part(capsys):
    with pytest.raises(SystemExit):
        train.main(["--part", "everything"])
    assert "invalid choice" in capsys.readouterr().err
