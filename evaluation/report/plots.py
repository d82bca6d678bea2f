"""Plots by matplotlib's object interface, which keeps no global state and needs no display."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox
from PIL import Image

from ...core.errors import FewShotError
from ...core.images import open_picture
from ..selection import Curve

SERIES = ("#2a6fdb", "#d9602b", "#2f9e62", "#9250c4", "#b58a00", "#c2377b")
# offsets (right, up) in points of a label from its point; those to the left end there
LABEL_OFFSETS = tuple((right, up) for up in (5, -13, 18, -26, 31, -39, 44, -52) for right in (7, -7))


FRONTIER_SIZE = (840, 560)  # width and height in pixels


@dataclass(frozen=True)
class Theme:
    paper: str
    ink: str
    rule: str


LIGHT = Theme(paper="#ffffff", ink="#30343b", rule="#d9dce1")
DARK = Theme(paper="#1d2026", ink="#c9ced6", rule="#3a3f48")
CURVE = (840, 420)  # pixels of a curve over the steps


def loss_curve(
    losses: Sequence[float] | Mapping[str, Sequence[float]], title: str = "", theme: Theme = LIGHT
) -> Image.Image:
    """The loss of every step, faint, and over it its moving average; a mapping draws one curve a term.

    The average is exponential over about a twentieth of the steps, without the bias of its start. Steps whose
    loss is no number leave a gap, and the legend says how many there are.

    Raises:
        FewShotError: there is nothing to draw.
    """
    terms = losses if isinstance(losses, Mapping) else {"loss": losses}
    terms = {name: [float(value) for value in values] for name, values in terms.items() if len(values)}
    if not terms:
        raise FewShotError("there are no losses to plot; train at least one step")
    figure, axes = _figure(CURVE, theme)
    for number, (name, values) in enumerate(terms.items()):
        colour = SERIES[number % len(SERIES)]
        steps = range(1, len(values) + 1)
        shown = [value if math.isfinite(value) else math.nan for value in values]
        lost = sum(math.isnan(value) for value in shown)
        label = f"{name} (no number at {lost} of {len(values)} steps)" if lost else name
        if len(values) < 3:
            axes.plot(steps, shown, color=colour, marker="o", markersize=4, linewidth=1, label=label)
            continue
        axes.plot(steps, shown, color=colour, alpha=0.28, linewidth=0.9)
        axes.plot(steps, smoothed(shown, max(2.0, len(values) / 20)), color=colour, linewidth=2, label=label)
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.set_title(title, loc="left", fontsize=11, color=theme.ink)
    axes.margins(x=0.01)
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
    if len(terms) > 1 or any("no number" in text for text in axes.get_legend_handles_labels()[1]):
        axes.legend(frameon=False, labelcolor=theme.ink, fontsize=9)
    return _picture(figure)


def validation_curve(curve: Curve, chosen: int | None = None, theme: Theme = LIGHT) -> Image.Image:
    """Each validation's two shares and the score made of them (see `selection`), over the steps; `chosen` is marked.

    Raises:
        FewShotError: there is no validation that gave numbers before training.
    """
    anchors = curve.anchors
    if anchors is None:
        raise FewShotError("there is no validation of the untrained base to compare with; train with a validating CLIP")
    points = [point for point in curve.points if point.is_finite]
    figure, axes = _figure(CURVE, theme)
    shares = {
        "likeness gained": [anchors.subject_gain(point) for point in points],
        "prompt following kept": [anchors.prompt_retention(point) for point in points],
        "score": [anchors.score(point) for point in points],
    }
    steps = [point.step for point in points]
    for number, (name, values) in enumerate(shares.items()):
        colour, strong = SERIES[number], name == "score"
        axes.plot(steps, values, color=colour, marker="o", markersize=4, linewidth=2 if strong else 1.2, label=name)
    if chosen is not None:
        axes.axvline(chosen, color=theme.ink, linewidth=1, linestyle="--", label=f"chosen: step {chosen}")
    axes.set_xlabel("step")
    axes.set_ylabel("share")
    axes.margins(x=0.01)
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
    axes.legend(frameon=False, labelcolor=theme.ink, fontsize=9)
    return _picture(figure)


def frontier_plot(
    points: Sequence[tuple[str, float, float]],
    axes: tuple[str, str],
    frontier: Sequence[int] = (),
    best: int | None = None,
    path: bool = False,
    theme: Theme = LIGHT,
) -> Image.Image:
    """Candidates as (name, subject fidelity, prompt fidelity); `axes` names the two metrics.

    `frontier` are those that no other one surpasses in both, joined by a dashed line; `best` gets a ring; `path` joins
    all in their order, as the strengths of one adapter are.

    Raises:
        FewShotError: there is nothing to draw.
    """
    if not points:
        raise FewShotError("there are no points to plot; evaluate at least one adapter")
    figure, plot = _figure(FRONTIER_SIZE, theme)
    plot.grid(color=theme.rule, linewidth=0.8)
    if path:
        plot.plot([p[1] for p in points], [p[2] for p in points], color=theme.rule, linewidth=2, zorder=1)
    edge = sorted(frontier, key=lambda number: points[number][1])
    if len(edge) > 1:
        along = {"color": theme.ink, "linewidth": 1, "linestyle": "--", "zorder": 2, "label": "frontier"}
        plot.plot([points[n][1] for n in edge], [points[n][2] for n in edge], **along)
    for number, (_, subject, prompt) in enumerate(points):
        colour = SERIES[0] if path else SERIES[number % len(SERIES)]
        plot.scatter([subject], [prompt], s=46, color=colour, zorder=3)
    if best is not None:
        name, subject, prompt = points[best]
        ring = {"facecolors": "none", "edgecolors": SERIES[1], "linewidths": 2, "zorder": 5}
        plot.scatter([subject], [prompt], s=220, label=f"best: {name}", **ring)
    plot.set_xlabel(f"subject fidelity ({axes[0]})")
    plot.set_ylabel(f"prompt fidelity ({axes[1]})")
    plot.margins(0.16)
    if plot.get_legend_handles_labels()[1]:  # above the axes, where its signs are not taken for points
        look = {"frameon": False, "labelcolor": theme.ink, "fontsize": 9, "markerscale": 0.6}
        figure.legend(loc="outside upper right", ncols=2, **look)
    _name_points(figure, plot, points, theme)
    return _picture(figure)


def _name_points(figure: Figure, plot: Axes, points: Sequence[tuple[str, float, float]], theme: Theme) -> None:
    """Writes each name beside its point, where no earlier name stands; points in one place have theirs in a column."""
    figure.draw_without_rendering()  # lays the axes out, without which no place is known
    taken: list[Bbox] = []
    look = {"textcoords": "offset points", "fontsize": 9, "color": theme.ink, "zorder": 4}
    for name, subject, prompt in points:
        label = plot.annotate(name, (subject, prompt), xytext=LABEL_OFFSETS[0], **look)
        for right, up in LABEL_OFFSETS:
            label.set_position((right, up))
            label.set_horizontalalignment("left" if right > 0 else "right")
            box = label.get_window_extent()
            inside = box.x0 >= 0 and box.x1 <= figure.bbox.width
            if inside and not any(box.overlaps(other) for other in taken):
                break
        taken.append(label.get_window_extent())


def difference_plot(
    differences: Sequence[tuple[str, float, tuple[float, float] | None]], title: str = "", theme: Theme = LIGHT
) -> Image.Image:
    """Differences as (name, value, interval or None), one below the other beside a line at 0.

    Raises:
        FewShotError: there is nothing to draw.
    """
    if not differences:
        raise FewShotError("there are no differences to plot; measure two sides")
    figure, axes = _figure((CURVE[0], 110 + 46 * len(differences)), theme)
    axes.grid(axis="x", color=theme.rule, linewidth=0.8)
    axes.axvline(0, color=theme.ink, linewidth=1)
    for number, (_, value, interval) in enumerate(differences):
        colour = SERIES[0] if value >= 0 else SERIES[1]
        if interval is not None:
            axes.plot(interval, [number, number], color=colour, linewidth=2)
        axes.scatter([value], [number], s=46, color=colour, zorder=3)
    axes.set_yticks(range(len(differences)), [name for name, _, _ in differences])
    axes.set_ylim(len(differences) - 0.5, -0.5)
    axes.margins(x=0.12)
    axes.set_title(title, loc="left", fontsize=11, color=theme.ink)
    return _picture(figure)


def below(*pictures: Image.Image) -> Image.Image:
    """Pictures one below the other."""
    sheet = Image.new("RGB", (max(p.width for p in pictures), sum(p.height for p in pictures)), "white")
    top = 0
    for picture in pictures:
        sheet.paste(picture, (0, top))
        top += picture.height
    return sheet


def smoothed(values: Sequence[float], window: float) -> list[float]:
    """Exponential moving average with the bias of its start removed (as Adam does, Kingma & Ba 2015)."""
    keep = 1 - 1 / max(window, 1.0)
    total = weight = 0.0
    means = []
    for value in values:
        if math.isfinite(value):
            total, weight = keep * total + (1 - keep) * value, keep * weight + (1 - keep)
        means.append(total / weight if weight else math.nan)
    return means


def _figure(size: tuple[int, int], theme: Theme):
    figure = Figure(figsize=(size[0] / 120, size[1] / 120), dpi=120, facecolor=theme.paper, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(facecolor=theme.paper)
    axes.grid(axis="y", color=theme.rule, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(theme.rule)
    axes.tick_params(colors=theme.ink, labelsize=9, length=3)
    axes.xaxis.label.set_color(theme.ink)
    axes.yaxis.label.set_color(theme.ink)
    return figure, axes


def _picture(figure: Figure) -> Image.Image:
    data = io.BytesIO()
    figure.savefig(data, format="png", facecolor=figure.get_facecolor())
    data.seek(0)
    return open_picture(data).convert("RGB")
