"""Pictures: from a folder or from the graph into a training set, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...core.errors import FewShotError
from ..comfy import folders, host
from ..comfy.host import io
from ..schema.sockets import Set
from .mask_sources import on_white, source_of, upright

if TYPE_CHECKING:
    import torch

CATEGORY = "few-shot/pictures"
FOLDER, SOCKET = "folder", "images"


class SubjectPictures(io.ComfyNode):
    """A few pictures of one subject, and the words that name it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        folder = io.Combo.Input(
            "folder",
            options=folders.picture_folders(),
            tooltip="A folder in ComfyUI's input folder with 2 to 10 pictures. Read too: name.txt (caption), "
            "name_mask.png (white on the subject), transparency, and kohya's folders 10_name.",
        )
        sockets = [
            io.Image.Input("images", tooltip="The pictures of the subject."),
            io.Mask.Input(
                "masks",
                optional=True,
                tooltip="White on the subject: one, or one for each picture. Load Image's MASK is white where the file "
                "is transparent: it is inverted here, and the node says so. With other nodes put Invert Mask between "
                "where white is the background.",
            ),
            io.String.Input(
                "captions",
                default="",
                multiline=True,
                optional=True,
                tooltip="One line for each picture, or one for all. Empty: a photo of the subject.",
            ),
        ]
        return io.Schema(
            node_id="FewShotSubjectPictures",
            display_name="Subject Pictures",
            category=CATEGORY,
            description="A few pictures of one subject and the words that name it.",
            search_aliases=["dreambooth images", "training images", "dataset", "load image folder"],
            inputs=[
                io.DynamicCombo.Input(
                    "source",
                    options=[io.DynamicCombo.Option(FOLDER, [folder]), io.DynamicCombo.Option(SOCKET, sockets)],
                    tooltip="Where the pictures come from: a folder in ComfyUI's input folder, or sockets.",
                ),
                io.String.Input(
                    "identifier", default="sks", tooltip="A rare word that will stand for your subject in prompts."
                ),
                io.String.Input(
                    "noun",
                    default="",
                    placeholder="dog",
                    tooltip="What the subject is, in one or two words: dog, backpack.",
                ),
                io.String.Input(
                    "description",
                    default="",
                    optional=True,
                    tooltip="Its looks in one to three words (optional): red and white. They go between the others.",
                ),
            ],
            outputs=[Set.Output(display_name="SET", tooltip="The pictures with their captions and masks.")],
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt],
            is_input_list=True,  # pictures of several sizes come as a list, and are one set
        )

    @classmethod
    def fingerprint_inputs(cls, source: dict[str, Any] | None = None, **_: Any) -> str:
        folder = single("folder", (source or {}).get("folder"))
        if single("source", (source or {}).get("source")) != FOLDER or not isinstance(folder, str):
            return ""
        return folders.folder_print(folders.picture_folder(folder))

    @classmethod
    def execute(cls, source: dict[str, Any] | None = None, **words: Any) -> io.NodeOutput:
        from ...augmentation.images.load import subject_concept, subject_from_folder, subject_from_tensors
        from ...core.text.syntax import weight_notes

        source, warnings = source or {}, []
        kind = single("source", source.get("source"))
        words_given = [single(name, words.get(name, "")).strip() for name in ("identifier", "noun", "description")]
        if kind == FOLDER:
            folder = folders.picture_folder(single("folder", source["folder"]))
            found = subject_from_folder(folder, *words_given, warnings=warnings)
        elif kind == SOCKET:
            concept = subject_concept(*words_given)
            captions, cache = captions_of(source.get("captions", "")), folders.sent_pictures_folder()
            images, masks = source["images"], source.get("masks")
            if masks is not None:
                made_by = source_of(cls.hidden, "source.masks", "source.images")
                given, masks = masks, upright(masks, made_by, warnings)
                if made_by is not None and made_by.same_picture:
                    images = on_white(images, given, masks)
            found = subject_from_tensors(images, masks, cache, concept, captions, warnings)
        else:
            raise FewShotError(f"no such source {kind!r}: choose '{FOLDER}' or '{SOCKET}'")
        warnings += weight_notes((sample.caption for sample in found.references), words_given)
        return io.NodeOutput(found, ui=host.say(cls.hidden.unique_id, "\n".join([summary(found), *warnings])))


def single(name: str, given: Any) -> Any:
    """The value of a widget or socket that takes one, of a node that gets its inputs as lists.

    Raises:
        FewShotError: a list of several came over the socket.
    """
    if not isinstance(given, (list, tuple)):
        return given
    if len(given) != 1:
        raise FewShotError(
            f"{name} takes one value, and {len(given)} came over its socket; connect a node that gives one"
        )
    return given[0]


def captions_of(given: Any) -> list[str] | None:
    """Captions from a widget, one a line, or from a socket that gives a list of them, one each."""
    texts = [given] if isinstance(given, str) else list(given)
    if len(texts) > 1:
        return [" ".join(text.split()) for text in texts]
    return [line.strip() for text in texts for line in text.splitlines() if line.strip()] or None


def summary(pictures: Any) -> str:
    """One line on what a set holds."""
    masks = sum(1 for sample in pictures.samples if sample.mask is not None)
    priors = f", {len(pictures.priors)} priors" if pictures.priors else ""
    return f"{len(pictures.references)} pictures of {pictures.trigger}, {masks} masks{priors}"


class CombineSets(io.ComfyNode):
    """Several subjects as one set."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        more = [
            Set.Input(f"set_{number}", optional=number > 2, tooltip="Pictures of one subject, with its own identifier.")
            for number in range(1, 7)
        ]
        return io.Schema(
            node_id="FewShotCombineSets",
            display_name="Combine Sets",
            category=CATEGORY,
            description="Joins the pictures of several subjects into one set, so that one training teaches them all. "
            "Each keeps its own words, masks and priors.",
            search_aliases=["several subjects", "multi subject", "merge datasets", "concatenate sets"],
            inputs=more,
            outputs=[Set.Output(display_name="SET", tooltip="The pictures of all subjects.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, **sets: Any) -> io.NodeOutput:
        from ...augmentation.images.combine import combine

        given = [sets[name] for name in sorted(sets) if sets[name] is not None]
        found = combine(given)
        return io.NodeOutput(found, ui=host.say(cls.hidden.unique_id, summary(found)))


class SetToImages(io.ComfyNode):
    """A training set as ComfyUI's own lists."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FewShotSetToImages",
            display_name="Set to Images",
            category=CATEGORY,
            description="Gives a set's pictures, masks and captions as lists for ComfyUI's own nodes.",
            search_aliases=["dataset to images", "preview training set"],
            inputs=[
                Set.Input("set", tooltip="A set of training pictures."),
                io.Combo.Input(
                    "role",
                    options=["all", "reference", "prior"],
                    default="all",
                    tooltip="Which pictures: all, only those of the subject, or only the priors of its class.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="IMAGE", is_output_list=True, tooltip="The pictures, each in its own size."
                ),
                io.Mask.Output(
                    display_name="MASK", is_output_list=True, tooltip="Their masks; white all over where there is none."
                ),
                io.String.Output(display_name="CAPTION", is_output_list=True, tooltip="Their captions."),
            ],
        )

    @classmethod
    def execute(cls, set: Any, role: str = "all") -> io.NodeOutput:
        import torch

        from ...augmentation.images.load import load_mask, load_picture

        chosen = [sample for sample in set.samples if role in ("all", sample.role)]
        if not chosen:
            raise FewShotError(
                f"the set has no pictures of the role {role!r}: choose another, or connect Generate Priors"
            )
        images, masks = [], []
        for sample in chosen:
            picture = load_picture(sample.image)
            images.append(picture_tensor(picture))
            whole = torch.ones(1, picture.height, picture.width)
            masks.append(whole if sample.mask is None else mask_tensor(load_mask(sample.mask), picture.size))
        return io.NodeOutput(images, masks, [sample.caption for sample in chosen])


def picture_tensor(picture: Any) -> torch.Tensor:
    """A PIL picture as ComfyUI's IMAGE: (1, height, width, 3) in [0, 1]."""
    import numpy as np
    import torch

    return torch.from_numpy(np.asarray(picture.convert("RGB"), dtype=np.float32) / 255.0)[None]


def mask_tensor(mask: Any, size: tuple[int, int]) -> torch.Tensor:
    """A PIL mask as ComfyUI's MASK: (1, height, width) in [0, 1], in the size (width, height) of its picture."""
    import numpy as np
    import torch

    if mask.size != size:
        mask = mask.resize(size)
    return torch.from_numpy(np.asarray(mask.convert("L"), dtype=np.float32) / 255.0)[None]
