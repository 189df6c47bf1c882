"""The picture of a simulated study: ETTR against each thing that is swept, with its 95 % bands; else where time goes.

One panel for each key of the sweep, one line for each combination of the others. A failure rate is drawn as the mean
time between failures of the job that follows from it, an interval between saves in minutes, whatever formula it came
from. Dotted lines are the exact formula's, where it has something to say.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

from ftslurm.insight.palette import BLUE, GREY, ORANGE, PURPLE, SERIES, SKY, VERMILION, YELLOW
from ftslurm.insight.text import took
from ftslurm.plan.outcome import Loss
from ftslurm.plan.replication import Estimate, Result, shares
from ftslurm.plan.study import Study
from ftslurm.plan.telling import formula
from ftslurm.report import canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_PANELS = 4
MARKERS = "osD^vP*X"
PANEL_IN, ROW_IN = 3.2, 2.2
LEGEND_ROW_IN = 0.22
_LOSSES = {
    Loss.PRODUCTIVE: BLUE,
    Loss.REDONE: ORANGE,
    Loss.SAVING: SKY,
    Loss.DETECTING: PURPLE,
    Loss.DIAGNOSING: YELLOW,
    Loss.RESTARTING: VERMILION,
    Loss.WAITING: GREY,
}
"""The colours that a report gives to the same."""
_RATES = ("faults.rate", "faults.mtbf")
_INTERVAL = "checkpoint.every"


@dataclass(frozen=True, slots=True)
class Point:
    """One case in a panel."""

    x: float
    ettr: Estimate
    goodput: Estimate
    expected: float | None


Line = tuple[str, list[Point]]
"""A line's name and its points, from left to right."""


@dataclass(frozen=True, slots=True)
class Panel:
    """One swept key: its lines, how many more there would be, and its values where they are words and no numbers."""

    key: str
    lines: list[Line]
    left_out: int
    words: tuple[str, ...]


def picture(study: Study, results: Sequence[Result], suffix: str) -> bytes:
    """Return the picture as the bytes of a `.svg` or `.png`."""
    with canvas.style():
        keys = [key for key in study.keys if len({dict(each.case.swept)[key] for each in results}) > 1]
        figure = _lines([_panel_of(key, results) for key in keys[:MOST_PANELS]]) if keys else _bars(results[0])
        name = canvas.short(study.first.name, 60)
        runs = study.first.replications
        title = f"{name}: ETTR and goodput, mean of {runs} runs with its 95 % interval"
        if not keys:
            title = f"{name}: where {took(study.first.span)} go, mean of {runs} runs"
        canvas.title(figure, title)
        return canvas.png(figure) if suffix == ".png" else canvas.svg(figure, title)


def _panel_of(key: str, results: Sequence[Result]) -> Panel:
    values = [_value(key, each) for each in results]
    words: tuple[str, ...] = ()
    if any(value is None for value in values):
        words = tuple(dict.fromkeys(dict(each.case.swept)[key] for each in results))
    found: dict[str, list[Point]] = {}
    for each, value in zip(results, values, strict=True):
        others = ", ".join(f"{name} {canvas.short(text)}" for name, text in each.case.swept if name != key)
        x = float(words.index(dict(each.case.swept)[key])) if words else value or 0.0
        ettr = each.estimate(lambda outcome: outcome.ettr)
        point = Point(x, ettr, each.estimate(lambda outcome: outcome.goodput), formula(each.terms))
        found.setdefault(others or "simulated", []).append(point)
    lines = [(name, sorted(points, key=lambda point: point.x)) for name, points in found.items()]
    return Panel(key, lines[: len(SERIES)], max(len(lines) - len(SERIES), 0), words)


def _value(key: str, result: Result) -> float | None:
    """Where a case stands on the axis; None: its value is no number."""
    value: object = result.case.scenario
    if key in _RATES:
        value = result.terms.mttf_s / 3600
    elif key == _INTERVAL:
        value = result.terms.copies.interval_s / 60
    else:
        for name in key.split("."):
            value = getattr(value, name, None)
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and value < inf
    return float(value) if is_number else None  # type: ignore[arg-type]


def _label(key: str) -> str:
    if key in _RATES:
        return "mean time between failures of the job (h)"
    return "work between two saves (min)" if key == _INTERVAL else key


def _lines(panels: Sequence[Panel]) -> Figure:
    """ETTR above goodput, a column for each panel, and its lines' names below."""
    rows = max(len(each.lines) + (each.left_out > 0) for each in panels)
    legend_in = LEGEND_ROW_IN * rows + 0.65
    wide = max(canvas.WIDE_IN, PANEL_IN * len(panels))
    height = 2 * ROW_IN + legend_in + 0.4
    figure = canvas.sheet(canvas.Form(wide), height)
    across = wide / len(panels)
    for number, panel in enumerate(panels):
        left, right = number * across + 0.72, wide - (number + 1) * across + canvas.RIGHT_IN
        upper = canvas.place(figure, (left, legend_in + ROW_IN, right, 0.4))
        lower = canvas.place(figure, (left, legend_in, right, ROW_IN + 0.6))
        _curves(upper, panel, "ETTR", lambda point: point.ettr)
        _curves(lower, panel, "goodput", lambda point: point.goodput)
        upper.tick_params(labelbottom=False)
        lower.set_xlabel(_label(panel.key))
        remark = f"{panel.left_out} more lines are not drawn" if panel.left_out else None
        lower.legend(loc="upper left", bbox_to_anchor=(-0.1, -0.3), borderaxespad=0.0, title=remark)
    return figure


def _curves(axes: Axes, panel: Panel, what: str, measure: Callable[[Point], Estimate]) -> None:
    for (name, points), colour, marker in zip(panel.lines, SERIES, MARKERS, strict=False):
        xs, found = [point.x for point in points], [measure(point) for point in points]
        # Between words there is nothing, and no line.
        style = "" if panel.words else "-"
        means = [each.mean for each in found]
        axes.plot(xs, means, color=colour, marker=marker, markersize=4, linestyle=style, label=name)
        bands = [(each.low, each.high) for each in found if each.low is not None and each.high is not None]
        if len(bands) == len(xs):
            lows, highs = [low for low, _ in bands], [high for _, high in bands]
            if panel.words:
                axes.vlines(xs, lows, highs, color=colour, linewidth=3.0, alpha=0.35)
            else:
                axes.fill_between(xs, lows, highs, color=colour, alpha=0.2, linewidth=0)
        known = [(point.x, point.expected) for point in points if point.expected is not None]
        if what == "ETTR":
            axes.plot([x for x, _ in known], [y for _, y in known], color=colour, linestyle=":", linewidth=1.0)
    axes.set_ylabel(what)
    every = [point.x for _, points in panel.lines for point in points]
    if panel.words:
        axes.set_xticks(range(len(panel.words)), [canvas.short(word, 12) for word in panel.words])
    elif min(every) > 0 and max(every) > 8 * min(every):
        _logarithmic(axes)


def _logarithmic(axes: Axes) -> None:
    """Plain numbers at the ticks: powers would be drawn as formulas, and text here is text."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _bars(result: Result) -> Figure:
    found = shares(result.outcomes)
    figure = canvas.sheet(canvas.WIDE, 0.3 * len(found) + 0.95)
    axes = canvas.place(figure, (canvas.label_in(list(found)), 0.5, 1.0, 0.3))
    values = [100 * share for share in found.values()]
    axes.barh(list(found), values, color=[_LOSSES[Loss(name)] for name in found], height=0.72)
    axes.invert_yaxis()
    for row, value in enumerate(values):
        axes.text(value + 1, row, f"{value:.2f} %", va="center", fontsize=8.5)
    axes.set_xlim(0, 100)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("share of the wall time (%)")
    return figure
