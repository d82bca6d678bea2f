"""Evaluation of adapters by metrics."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ...core.errors import FewShotError
from ..comfy import folders, host
from ..comfy.host import io
from ..pictures.sets import picture_tensor
from ..schema.fingerprints import PAGES, models_fingerprint
from ..schema.metric_inputs import MetricChoices, measurement_plan, metric_inputs
from ..schema.sampling_inputs import advanced_sampling_inputs, sampling_inputs
from ..schema.sockets import Adapter, Base, Prompts, Set
from .samples import calling, notes_on

CATEGORY = "few-shot/look"
ADAPTERS = 6
MOST_STRENGTHS = 16
SHOWN = 40  # rows of the grid on the node; the page has more


def common_inputs() -> list[io.Input]:
    return [
        Prompts.Input("prompts", tooltip="From Prompt Set."),
        Set.Input("set", optional=True, tooltip="The subject's pictures; without them no likeness is measured."),
    ]


def evaluation_inputs(pairs: int) -> list[io.Input]:
    """How samples are drawn and what the page holds."""
    return [
        *sampling_inputs("Seed of the first picture; the same for all that are compared."),
        *metric_inputs(),
        *advanced_sampling_inputs(),
        io.Int.Input(
            "drift",
            default=0,
            min=0,
            max=64,
            advanced=True,
            tooltip="Pictures of the class alone that tell how far it has drifted towards the subject; 0 none.",
        ),
        io.Int.Input(
            "pairs",
            default=pairs,
            min=0,
            max=400,
            advanced=True,
            tooltip="Pairs of the blind comparison in the report; 0 leaves it out.",
        ),
        io.Boolean.Input(
            "watermark",
            default=False,
            advanced=True,
            tooltip="Puts an invisible mark into the samples that says they were made by a model.",
        ),
    ]


def outputs() -> list[io.Output]:
    return [
        io.Image.Output(display_name="grid", tooltip="Rows are prompts, columns share their noise."),
        io.Image.Output(display_name="plot", tooltip="Subject fidelity against prompt fidelity, or the grid again."),
        io.String.Output(display_name="table", tooltip="The numbers in lines."),
        io.String.Output(display_name="report", tooltip="Where report.html and evaluation.json lie."),
    ]


class EvaluateLora(io.ComfyNode):
    """Several adapters on the same prompts and seeds, in numbers and pictures."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        sockets = [
            Adapter.Input(f"adapter_{number}", optional=True, tooltip="An adapter to evaluate, or nothing.")
            for number in range(1, ADAPTERS + 1)
        ]
        return io.Schema(
            node_id="FewShotEvaluateLora",
            display_name="Evaluate LoRA",
            category=CATEGORY,
            description="Measures the base and up to six adapters on the same prompts and seeds: a table, a grid, the "
            "frontier of likeness and prompt following, and a report with a blind comparison. A further adapter draws "
            "its own samples only.",
            search_aliases=["compare loras", "clip score", "dino score", "benchmark", "metrics", "image reward"],
            is_output_node=True,
            inputs=[
                Base.Input("base", tooltip="The model that draws."),
                *common_inputs(),
                *sockets,
                io.String.Input(
                    "names", default="", tooltip="Names of the adapters, separated by commas; empty: their triggers."
                ),
                io.Float.Input(
                    "strength", default=1.0, min=-4.0, max=4.0, step=0.05, tooltip="Strength of every adapter."
                ),
                *evaluation_inputs(40),
            ],
            outputs=outputs(),
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, **values: Any) -> str:
        return fingerprint(cls.hidden.unique_id, values)

    @classmethod
    def execute(cls, base: Any, prompts: Any, names: str, strength: float, **values: Any) -> io.NodeOutput:
        from ...evaluation.samples import Candidate

        adapters = [values.pop(f"adapter_{number}", None) for number in range(1, ADAPTERS + 1)]
        adapters = [adapter for adapter in adapters if adapter is not None]
        pairs = zip(candidate_names(adapters, names), adapters, strict=True)
        candidates = [Candidate(name, adapter, strength) for name, adapter in pairs]
        evaluation, page = run_evaluation(cls.hidden.unique_id, base, candidates, prompts, False, values)
        return node_output(cls, evaluation, page, False, [])


class StrengthSweep(io.ComfyNode):
    """One adapter at several strengths, with the best one marked."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FewShotStrengthSweep",
            display_name="Strength Sweep",
            category=CATEGORY,
            description="Finds the strength at which an adapter is most like its subject and still follows prompts, "
            "by drawing the same prompts at several.",
            search_aliases=["best lora strength", "lora weight", "xy plot strength"],
            is_output_node=True,
            inputs=[
                Base.Input("base", tooltip="The model that draws."),
                Adapter.Input("adapter", tooltip="The adapter whose strength is asked for."),
                *common_inputs(),
                io.String.Input(
                    "strengths",
                    default="0.4, 0.6, 0.8, 1.0, 1.2",
                    tooltip="The strengths to try, separated by commas, 16 at most. The base alone is always there.",
                ),
                *evaluation_inputs(0),
            ],
            outputs=[
                *outputs(),
                io.Float.Output(display_name="best", tooltip="The best strength; 1 where none gained anything."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, strengths: str | None = None) -> bool | str:
        try:
            numbers(strengths if strengths is not None else "1")
        except FewShotError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, **values: Any) -> str:
        return fingerprint(cls.hidden.unique_id, values)

    @classmethod
    def execute(cls, base: Any, adapter: Any, prompts: Any, strengths: str, **values: Any) -> io.NodeOutput:
        from ...evaluation.samples import Candidate

        candidates = [Candidate(f"{value:.4g}", adapter, value) for value in numbers(strengths)]
        evaluation, page = run_evaluation(cls.hidden.unique_id, base, candidates, prompts, True, values)
        best = 1.0 if evaluation.best is None else evaluation.samples.candidates[evaluation.best].strength
        return node_output(cls, evaluation, page, True, [best])


def numbers(text: str) -> list[float]:
    """The strengths in a line, each once, by size."""
    try:
        strengths = sorted({round(float(part), 4) for part in text.replace(";", ",").split(",") if part.strip()})
    except ValueError:
        raise FewShotError(f"{text!r} are no strengths; write numbers separated by commas, such as 0.6, 1.0") from None
    if not strengths or len(strengths) > MOST_STRENGTHS or not all(-4 <= value <= 4 for value in strengths):
        raise FewShotError(f"{text!r}: give one to {MOST_STRENGTHS} strengths between -4 and 4")
    return strengths


def candidate_names(adapters: list[Any], names: str) -> list[str]:
    """A name for each adapter: as given, else its trigger; equal ones are numbered."""
    given = [name.strip() for name in names.split(",")] if names.strip() else []
    if len(given) > len(adapters):
        raise FewShotError(f"{len(given)} names are given for {len(adapters)} adapters; take some away")
    unique: list[str] = []
    for number, adapter in enumerate(adapters):
        name = given[number] if number < len(given) and given[number] else adapter.trigger or f"adapter {number + 1}"
        taken, count = {"base", *unique}, 1
        while (candidate := name if count == 1 else f"{name} ({count})") in taken:
            count += 1
        unique.append(candidate)
    return unique


def fingerprint(node_id: str | None, values: dict[str, Any]) -> str:
    """Changes whenever a model that can measure was added or replaced, or the node's report was deleted."""
    return f"{PAGES.losses(node_id)} reports lost\n{models_fingerprint(values)}"


def run_evaluation(
    node_id: str | None, base: Any, candidates: list[Any], prompts: Any, path: bool, values: dict[str, Any]
) -> tuple[Any, Path]:
    """Draws, scores and writes the report; gives the evaluation and its page."""
    from ...augmentation.images.load import load_mask, load_picture
    from ...core.context import RunContext
    from ...evaluation.evaluate import evaluate
    from ...evaluation.match_prompts import match_concept
    from ...evaluation.report import evaluation as evaluation_report
    from ...evaluation.samples import DrawSettings

    training_set, drift, pairs = values.pop("set", None), values.pop("drift"), values.pop("pairs")
    choices = MetricChoices.pop_from(values)
    settings = DrawSettings(**values)
    drawn = [*(text for prompt in prompts.prompts for text in (prompt.text, prompt.stripped)), settings.negative]
    notes = notes_on(drawn, *calling(*(candidate.adapter for candidate in candidates)))
    prompts = replace(prompts, note="\n".join(filter(None, (prompts.note, *notes))))
    concept, samples, left_out = (None, (), ()) if training_set is None else match_concept(training_set, prompts)
    with host.engine(node_id) as progress:
        references = [load_picture(sample.image) for sample in samples]
        masks = [(r, load_mask(s.mask)) for r, s in zip(references, samples, strict=True) if s.mask is not None]
        plan = measurement_plan(base, concept, choices, masks)
        plan = replace(
            plan,
            references=references,
            noun=concept.noun if concept is not None else "",
            drift=drift,
            left_out=(*left_out, *plan.left_out),
        )
        context = RunContext(folders.samples_folder(), host.device(), progress, **folders.prompt_files())
        evaluation = evaluate(base, candidates, prompts, plan, settings, context)
    folder = folders.free_path(folders.evaluations_folder(), "sweep" if path else "evaluation", "")
    title = f"{'Strengths' if path else 'Evaluation'} on {base.name}"
    page = evaluation_report.write(evaluation, folder, title, path, pairs)
    PAGES.wrote(node_id, page)
    return evaluation, page


def node_output(
    cls: type[io.ComfyNode], evaluation: Any, page: Path, path: bool, extra_outputs: list[Any]
) -> io.NodeOutput:
    """The outputs, and on the node the plot with the table below it."""
    from ...evaluation.report import evaluation as evaluation_report

    grid = picture_tensor(evaluation_report.grid(evaluation, SHOWN))
    plotted = evaluation_report.frontier(evaluation, path)
    plot = grid if plotted is None else picture_tensor(plotted)
    text = "\n".join(filter(None, (evaluation_report.lines(evaluation), evaluation.samples.note, str(page))))
    return io.NodeOutput(grid, plot, text, str(page), *extra_outputs, ui=host.show(cls, plot, text))
