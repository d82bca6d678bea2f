"""Captions of pictures, expanded captions, and prompts from one's own gallery."""

from __future__ import annotations

import json
import logging
from functools import partial
from pathlib import Path
from typing import Any

from ...core.errors import FewShotError
from ...vision.places import CAPTIONER_PLACES, CLIP_PLACES, WRITER_PLACES
from ..comfy import folders, host
from ..comfy.host import io
from ..pictures.sets import picture_tensor
from ..schema.sampling_inputs import seed_input
from ..schema.sockets import Set
from .segment import answer_cache

log = logging.getLogger(__name__)
CATEGORY = "few-shot/augment"
GRAMMAR, MODEL, TEXT = "grammar", "language model", "text"
NO_MODEL, POCKET = "none", "pocket"
MOST_SHOWN = 24
NO_WRITER = (
    "no language model is on disk, so the built-in grammar wrote these: for captions by a model put a folder in "
    "transformers' layout, such as Qwen/Qwen3-1.7B, into models/LLM and press R to refresh"
)


def _lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def _chosen(there: dict[str, Path], name: str, what: str, places: tuple[str, ...], example: str) -> Path:
    if name in there:
        return there[name]
    raise FewShotError(
        f"no {what} {name!r} is on disk: put a folder in transformers' layout, such as {example}, into "
        f"{' or '.join(f'models/{place}' for place in places[:3])} and press R to refresh"
    )


class CaptionPictures(io.ComfyNode):
    """Captions by a local captioner, with what the identifier shall come to mean left out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FewShotCaptionPictures",
            display_name="Caption Pictures",
            category=CATEGORY,
            description="Lets a local captioner say what each picture shows, puts the identifier before the class noun "
            "and leaves out the words that the identifier shall come to mean.",
            search_aliases=["blip", "florence", "qwen vl", "auto caption", "tagger"],
            inputs=[
                Set.Input("set", tooltip="The pictures to caption; priors keep their prompts."),
                io.Combo.Input(
                    "model",
                    options=list(captioners()) or [NO_MODEL],
                    tooltip="A BLIP, Florence-2 or Qwen-VL in transformers' layout in models/captioners or models/LLM.",
                ),
                io.Combo.Input(
                    "detail",
                    options=["short", "detailed", "full"],
                    default="short",
                    tooltip="How much is said. CLIP reads 77 tokens; BLIP knows one level.",
                ),
                io.String.Input(
                    "bind",
                    default="",
                    multiline=True,
                    tooltip="Words to leave out, since the identifier shall come to mean them: its colour, its collar. "
                    "A line 'sks: red, collar' is for that subject alone.",
                ),
                io.Boolean.Input(
                    "overwrite", default=True, tooltip="Off: only pictures without a caption of their own get one."
                ),
            ],
            outputs=[
                Set.Output(display_name="SET", tooltip="The set with captions."),
                io.String.Output(display_name="captions", tooltip="The captions, a line each."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, set: Any, model: str, detail: str, bind: str, overwrite: bool) -> io.NodeOutput:
        from ...augmentation.captions.caption import CaptionSettings, caption_set, report
        from ...augmentation.captions.rules import clip_tokens
        from ...augmentation.images.load import load_picture
        from ...evaluation.report.grids import contact_sheet
        from ...vision.captioners import CachedCaptioner, open_captioner

        folder = _chosen(captioners(), model, "captioner", CAPTIONER_PLACES, "Salesforce/blip-image-captioning-base")
        captioner = CachedCaptioner(answer_cache(partial(open_captioner, folder, host.device()), folder))
        count = clip_tokens(host.TOKENIZER)
        with host.engine(cls.hidden.unique_id) as progress:
            settings = CaptionSettings(_lines(bind), detail, overwrite)
            made, table = caption_set(set, captioner, settings, progress, count)
        shown = made.references[:MOST_SHOWN]
        sheet = contact_sheet([load_picture(s.image) for s in shown], [s.caption for s in shown])
        captions = "\n".join(sample.caption for sample in made.references)
        return io.NodeOutput(made, captions, ui=host.show(cls, picture_tensor(sheet), report(table)))


def captioners() -> dict[str, Path]:
    from ...vision.find import CAPTIONERS, find

    return find(folders.model_roots(*CAPTIONER_PLACES), CAPTIONERS)


def writers() -> dict[str, Path]:
    from ...vision.find import WRITERS, find

    return find(folders.model_roots(*WRITER_PLACES), WRITERS)


def clips() -> dict[str, Path]:
    from ...vision.find import find

    pocket = folders.POCKET / "clip"
    own = {POCKET: pocket} if (pocket / "config.json").is_file() else {}
    return find(folders.model_roots(*CLIP_PLACES), ("clip",)) | own


class ExpandCaptions(io.ComfyNode):
    """More captions for each picture, each checked."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        model = io.Combo.Input(
            "model",
            options=list(writers()) or [NO_MODEL],
            tooltip="A language model in transformers' layout that follows instructions, from models/LLM. With none "
            "on disk the grammar writes, and the table says so.",
        )
        text = io.String.Input(
            "captions",
            default="",
            multiline=True,
            tooltip="From any other node: JSON {captions: [...]} or {picture: [...]}, or one a line for all pictures.",
        )
        return io.Schema(
            node_id="FewShotExpandCaptions",
            display_name="Expand Captions",
            category=CATEGORY,
            description="Gives each picture several captions, so that training ties the subject or relation to none of "
            "their words. A caption that tells what the identifier is to mean is refused, with the reason.",
            search_aliases=["llm captions", "caption augmentation", "reversion templates"],
            inputs=[
                Set.Input(
                    "set", tooltip="Captioned pictures. A relation's captions name its two things: cat <R> chair."
                ),
                io.DynamicCombo.Input(
                    "source",
                    options=[
                        io.DynamicCombo.Option(GRAMMAR, []),
                        io.DynamicCombo.Option(MODEL, [model]),
                        io.DynamicCombo.Option(TEXT, [text]),
                    ],
                    tooltip="Who writes: the built-in grammar, a local language model, or any other node by its text.",
                ),
                io.Int.Input("count", default=12, min=1, max=100, tooltip="Captions of each picture, with your own."),
                io.String.Input(
                    "relation",
                    default="",
                    tooltip="Words that name the relation (sitting on, painted on); no caption may hold them. "
                    "Separated by commas.",
                ),
                io.String.Input(
                    "bind",
                    default="",
                    tooltip="Looks of the subject that no caption shall name, separated by commas.",
                ),
                seed_input("Seed of the grammar's choice and of the model's sampling."),
            ],
            outputs=[
                Set.Output(display_name="SET", tooltip="Each picture as often as it has captions, its weight shared."),
                io.String.Output(display_name="captions", tooltip="The kept captions, a line each."),
                io.String.Output(display_name="table", tooltip="Kept and refused captions, with reasons."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls, set: Any, count: int, relation: str, bind: str, seed: int, source: dict[str, Any] | None = None
    ) -> io.NodeOutput:
        from ...augmentation.captions.expand import ExpansionSettings, expand, report
        from ...augmentation.captions.rules import clip_tokens
        from ...vision.language_model import CachedWriter, LocalWriter

        source = source or {"source": GRAMMAR}
        settings = ExpansionSettings(count, _listed(relation), _listed(bind), seed)
        text = source.get("captions", "") if source["source"] == TEXT else ""
        if source["source"] == TEXT and not text.strip():
            raise FewShotError("there are no captions: connect the text of another node, or choose the grammar")
        with host.engine(cls.hidden.unique_id) as progress:
            writer, absent = None, source["source"] == MODEL and source["model"] == NO_MODEL
            if source["source"] == MODEL and not absent:
                folder = _chosen(writers(), source["model"], "language model", WRITER_PLACES, "Qwen/Qwen3-1.7B")
                writer = CachedWriter(answer_cache(partial(LocalWriter, folder, host.device()), folder))
            made, rows = expand(set, settings, writer, text, clip_tokens(host.TOKENIZER), progress)
        table = report(rows)
        if absent:
            log.warning("%s", NO_WRITER)
            table = f"{NO_WRITER}\n{table}"
        kept = "\n".join(row.caption for row in rows if row.kept)
        return io.NodeOutput(made, kept, table, ui=host.say(cls.hidden.unique_id, table))


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for line in text.splitlines() for part in line.split(",") if part.strip())


class PromptInspiration(io.ComfyNode):
    """Prompts out of one's own gallery, made prompts of one's own subject."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FewShotPromptInspiration",
            display_name="Prompt Inspiration",
            category=CATEGORY,
            description="Searches the prompts in the metadata of your own pictures (ComfyUI and A1111) by keywords and "
            "by look, and rewrites them to your subject.",
            search_aliases=["prompt search", "png info", "read metadata", "gallery"],
            inputs=[
                io.Combo.Input(
                    "folder",
                    options=folders.galleries(),
                    tooltip="Where to look: in ComfyUI's output or ComfyUI's input folder.",
                ),
                io.String.Input(
                    "keywords",
                    default="",
                    placeholder="castle sunset",
                    tooltip="Words that the prompt holds; red* finds what starts so. Empty: the newest.",
                ),
                io.Combo.Input(
                    "clip",
                    options=[NO_MODEL, *clips()],
                    default=NO_MODEL,
                    tooltip="A CLIP in transformers' layout from models/clip_vision or models/clip; for like.",
                ),
                io.String.Input(
                    "like",
                    default="",
                    placeholder="a calm evening at the sea",
                    tooltip="What the picture looks like; needs a CLIP.",
                ),
                io.Int.Input("count", default=8, min=1, max=100, tooltip="Prompts to find."),
                io.Int.Input("pick", default=1, min=1, max=100, tooltip="Which of them goes to the output prompt."),
                Set.Input("set", optional=True, tooltip="Your subject; found prompts are rewritten to it."),
            ],
            outputs=[
                io.String.Output(display_name="prompt", tooltip="The picked prompt, rewritten to the subject."),
                io.String.Output(display_name="negative", tooltip="Its negative prompt."),
                io.String.Output(display_name="prompts", tooltip="All found prompts, rewritten, a line each."),
                io.String.Output(display_name="parameters", tooltip="The picked picture's parameters as JSON."),
                io.Image.Output(display_name="thumbnails", tooltip="The found pictures with their prompts."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, folder: str | None = None, **_: Any) -> str:
        return "" if folder is None else opened_gallery(folder).state()

    @classmethod
    def execute(
        cls, folder: str, keywords: str, clip: str, like: str, count: int, pick: int, set: Any = None
    ) -> io.NodeOutput:
        from ...augmentation.gallery.rewrite import rewrite
        from ...vision.embedders.clip import Clip

        if like.strip() and clip == NO_MODEL:
            raise FewShotError(f'to find what looks like "{like}" a CLIP is needed: choose one, or use keywords')
        with host.engine(cls.hidden.unique_id) as progress:
            index = opened_gallery(folder)
            update = index.update(progress)
            clip_model = None
            if like.strip():
                clip_model = Clip(
                    _chosen(clips(), clip, "CLIP", CLIP_PLACES, "openai/clip-vit-base-patch32"), host.device()
                )
            found = index.search(keywords, clip_model, like.strip(), count, progress)
        if pick > len(found):
            raise FewShotError(f"pick is {pick}, but {len(found)} prompts were found: choose 1 to {len(found)}")
        concept = set.concepts[0] if set is not None else None
        prompts = [entry.positive if concept is None else rewrite(entry.positive, concept).text for entry in found]
        best = found[pick - 1]
        sheet = thumbnails(found, prompts)
        report = f"{update}\n\n" + "\n".join(f"{n}. {prompt}" for n, prompt in enumerate(prompts, 1))
        if reason := best.parameters.get("negative_not_found"):
            report += f"\n\nThe negative prompt of {best.path.name} was not found: {reason}."
        return io.NodeOutput(
            prompts[pick - 1], best.negative, "\n".join(prompts), json.dumps(dict(best.parameters), indent=1), sheet,
            ui=host.show(cls, sheet, report),
        )  # fmt: skip


def opened_gallery(name: str) -> Any:
    """The gallery of the folder that the widget names, without what this pack itself keeps there."""
    from ...augmentation.gallery.index import Gallery

    folder = folders.gallery(name)
    return Gallery(folder, folders.gallery_index(folder), leave_out=("fewshot",))


def thumbnails(entries: Any, prompts: list[str]) -> Any:
    """The found pictures with their prompts as a sheet; a picture whose pixels are damaged is a grey tile."""
    from PIL import Image

    from ...core.images import decode
    from ...evaluation.report.grids import contact_sheet

    tiles = []
    for entry in entries[:MOST_SHOWN]:
        try:
            tile = decode(entry.path)[0]
            tile.thumbnail((256, 256))
        except FewShotError:
            tile = Image.new("RGB", (256, 256), (128, 128, 128))
        tiles.append(tile)
    return picture_tensor(contact_sheet(tiles, prompts[: len(tiles)], cell=256))
