"""The prompts that adapters are measured with."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ...core.errors import FewShotError
from ...core.text.decoding import read_text
from ...evaluation.prompts.lists import NAMES, RECONSTRUCTED, REFINING, RELATIONS, REVERSION, TRIGGER
from ...evaluation.prompts.relation import FIRST, SECOND, TEMPLATE, relation_lines, things_of
from ..comfy import folders, host
from ..comfy.host import io
from ..schema.sockets import Prompts, Set
from .samples import notes_on

CATEGORY = "few-shot/look"
OWN, FILE, REFINEMENT, RELATION = "own lines", "text file", "refinement", "relation"
OWN_ACTIVITIES = OWN_THINGS = "own"
LINES = "a photo of a {trigger}\na photo of a {trigger} on the beach\na photo of a {trigger} wearing a hat"
PLACEHOLDERS = (TRIGGER, FIRST, SECOND)
LARGEST_FILE = 4_000_000  # bytes


class PromptSetNode(io.ComfyNode):
    """A list of prompts about a subject, with what metrics read of each."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        lines = io.String.Input(
            "lines", default=LINES, multiline=True, tooltip="One prompt a line, {trigger} in the subject's place."
        )
        file = io.Combo.Input(
            "file", options=folders.text_files(), tooltip="A .txt file in ComfyUI's input folder, one prompt a line."
        )
        relation = io.Combo.Input(
            "relation", options=list(RELATIONS), default="painted_on", tooltip="What is asked for."
        )
        refinement = [
            io.Combo.Input(
                "kind",
                options=[*REFINING, OWN_ACTIVITIES],
                default="live",
                tooltip="What is asked for: activities of living things, toys, vessels or vehicles, or your own.",
            ),
            io.String.Input(
                "activities",
                default="",
                multiline=True,
                optional=True,
                tooltip="With own: what the subject does or where it is, one a line (playing soccer).",
            ),
            io.Float.Input(
                "share",
                default=0.5,
                min=0.0,
                max=1.0,
                step=0.05,
                optional=True,
                tooltip="Share of the prompts that name the subject; the others name its class alone, where the base "
                "knows the activity.",
            ),
            io.Float.Input(
                "held_out",
                default=0.25,
                min=0.0,
                max=0.9,
                step=0.05,
                optional=True,
                tooltip="Share of the activities that is not learned from, and tells whether it carries over.",
            ),
        ]
        between = [
            io.Combo.Input(
                "things",
                options=[OWN_THINGS, *RELATIONS],
                default=OWN_THINGS,
                tooltip="Which things: your own, or those of one of ReVersion's relations.",
            ),
            io.String.Input(
                "first", default="", multiline=True, optional=True, tooltip="With own: the first things, one a line."
            ),
            io.String.Input(
                "second", default="", multiline=True, optional=True, tooltip="With own: the second things, one a line."
            ),
            io.String.Input(
                "template",
                default=TEMPLATE,
                optional=True,
                tooltip="The prompt, with {first}, {second} and, for the relation's word, {trigger}.",
            ),
        ]
        options = [
            io.DynamicCombo.Option(OWN, [lines]),
            io.DynamicCombo.Option(FILE, [file]),
            io.DynamicCombo.Option(REFINEMENT, refinement),
            io.DynamicCombo.Option(RELATION, between),
            *(io.DynamicCombo.Option(name, [relation] if name == REVERSION else []) for name in NAMES),
        ]
        return io.Schema(
            node_id="FewShotPromptSet",
            display_name="Prompt Set",
            category=CATEGORY,
            description="Prompts for Evaluate LoRA, Strength Sweep and Refine LoRA: those of the papers, those of the "
            "pocket's world, or your own.",
            search_aliases=["prompt list", "dreambench", "benchmark prompts", "evaluation prompts"],
            inputs=[
                io.DynamicCombo.Input(
                    "source",
                    options=options,
                    tooltip="Where the prompts come from. InstructBooth's and ReVersion's are partly reconstructed; "
                    "the help page says how.",
                ),
                Set.Input("set", optional=True, tooltip="Pictures whose words are taken instead of these."),
                io.String.Input(
                    "identifier",
                    default="",
                    optional=True,
                    tooltip="The rare word that calls the subject. Empty: each adapter's own trigger phrase.",
                ),
                io.String.Input(
                    "noun", default="", optional=True, tooltip="What kind of thing it is: what metrics read of it."
                ),
                io.String.Input(
                    "description", default="", optional=True, tooltip="Words for its looks that were trained with it."
                ),
                io.Int.Input(
                    "most",
                    default=50,
                    min=1,
                    max=1000,
                    optional=True,
                    tooltip="Prompts at most; the rest is left out, and told.",
                ),
            ],
            outputs=[
                Prompts.Output(display_name="PROMPTS", tooltip="For Evaluate LoRA, Strength Sweep and Refine LoRA."),
                io.String.Output(display_name="report", tooltip="The prompts, and what was left out and why."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, source: dict[str, Any] | None = None, **_: Any) -> str:
        """A text file that was written anew is read anew."""
        if not isinstance(source, dict) or source.get("source") != FILE:
            return ""
        try:
            state = folders.text_file(source["file"]).stat()
        except (FewShotError, KeyError):
            return "missing"
        return f"{state.st_size}:{state.st_mtime_ns}"

    @classmethod
    def execute(
        cls,
        source: dict[str, Any] | None = None,
        identifier: str = "",
        noun: str = "",
        description: str = "",
        most: int = 50,
        set: Any = None,
    ) -> io.NodeOutput:
        from ...core.text.syntax import check_placeholders
        from ...evaluation.match_prompts import check_kind
        from ...evaluation.prompts.sets import bounded, prompt_set

        source = source or {}
        check_placeholders(texts_of(source), PLACEHOLDERS)
        words = [" ".join(text.split()) for text in (identifier, description, noun)]
        concept = concept_of(source, set, words)
        check_kind(str(source.get("source")), concept)
        if source.get("source") == REFINEMENT:
            prompts, left_out = bounded(refinement_set(source, concept), most)
        else:
            written = lines_of(source, concept.identifier)
            check_placeholders(written, PLACEHOLDERS)
            prompts, left_out = prompt_set(written, concept, most)
        prompts = replace(prompts, note=note_of(source))
        texts = [prompt.text for prompt in prompts.prompts]
        found = notes_on(texts, concept.identifier)
        lines = [*texts, *left_out, *found, *([prompts.note] if prompts.note else [])]
        report = "\n".join(lines)
        return io.NodeOutput(prompts, report, ui=host.say(cls.hidden.unique_id, report))


def texts_of(source: dict[str, Any]) -> list[str]:
    """What a person wrote into the widgets."""
    return [line for value in source.values() if isinstance(value, str) for line in value.splitlines()]


def note_of(source: dict[str, Any]) -> str:
    """Whether the chosen prompts are the paper's own: "" where they are. Of a file, its encoding as it was found."""
    name = source.get("source", "")
    if name == FILE:
        read = read_text(folders.text_file(source["file"]), LARGEST_FILE)
        return f"{source['file']}: {read.note}; save it as UTF-8 if the prompts are wrong" if read.note else ""
    borrowed = name == RELATION and source.get("things", OWN_THINGS) != OWN_THINGS
    note = RECONSTRUCTED.get(REVERSION if borrowed else name, "")
    return f"{REVERSION if borrowed else name}: {note}" if note else ""


def refinement_set(source: dict[str, Any], concept: Any) -> Any:
    """The prompts of the mode refinement."""
    from ...evaluation.prompts.refinement import refinement_prompts

    kind, own = source["kind"], source.get("activities", "")
    if (kind == OWN_ACTIVITIES) != bool(own.strip()):
        raise FewShotError(
            "activities is empty: write one a line, or choose another kind"
            if kind == OWN_ACTIVITIES
            else f"activities are written, but the kind is {kind}: choose {OWN_ACTIVITIES}, or empty them"
        )
    activities = own.splitlines() if own.strip() else REFINING[kind]
    return refinement_prompts(activities, concept, source.get("share", 0.5), source.get("held_out", 0.25))


def relation_lines_of(source: dict[str, Any], identifier: str) -> tuple[str, ...]:
    """The lines of the mode relation."""
    own, named = [source.get(name, "") for name in ("first", "second")], source["things"]
    if named != OWN_THINGS and any(text.strip() for text in own):
        raise FewShotError(f"things are written, but those of {named} are chosen: choose {OWN_THINGS}, or empty them")
    first, second = [text.splitlines() for text in own] if named == OWN_THINGS else things_of(named)
    return relation_lines(source.get("template") or TEMPLATE, first, second, identifier)


def lines_of(source: dict[str, Any], identifier: str = "") -> Any:
    """The lines of the chosen source."""
    from ...evaluation.prompts.sets import lines_of as known

    kind = source.get("source")
    if kind == RELATION:
        return relation_lines_of(source, identifier)
    if kind == OWN:
        return source["lines"].splitlines()
    if kind != FILE:
        return known(str(kind), source.get("relation", ""))
    return read_text(folders.text_file(source["file"]), LARGEST_FILE).text.splitlines()


def concept_of(source: dict[str, Any], training_set: Any, words: list[str]) -> Any:
    """The concept of the prompts: the set's first one, or that of the widgets."""
    from ...core.values import Concept

    identifier, description, noun = words
    if training_set is not None:
        return training_set.concepts[0]
    if source.get("source") == REVERSION:
        return Concept(identifier, "", description or RELATIONS[source["relation"]][0], kind="relation")
    if source.get("source") == RELATION:
        if not description and source["things"] == OWN_THINGS:
            raise FewShotError(
                "the description is empty: say the relation in words (inside), which metrics and the base alone read, "
                "or connect a SET"
            )
        named = RELATIONS.get(source["things"], ("",))[0]
        return Concept(identifier, "", description or named, kind="relation")
    if not noun:
        raise FewShotError("the noun is empty: say what kind of thing the prompts ask for (cat), or connect a SET")
    return Concept(identifier, noun, description)
