"""The picture of `ftslurm nodes --analyze`: a row for each node, a mark for each fault, over the fleet's rate.

Marks differ by colour and by shape, and changes of the rate are lines with a number: nothing hangs on a colour alone.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from ftslurm.core.lemons import DAY_S
from ftslurm.errors import UsageError
from ftslurm.insight.palette import BLUE, DARK_GREY, GREEN, ORANGE, PURPLE, SKY, VERMILION
from ftslurm.insight.text import count, day
from ftslurm.plan.past import Past
from ftslurm.report import canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ftslurm.plan.patterns import Patterns

MOST_ROWS = 60
_ROW_IN = 0.13
_RATE_IN = 1.0
_STYLES = ((BLUE, "o"), (ORANGE, "s"), (GREEN, "^"), (PURPLE, "D"), (SKY, "v"), (DARK_GREY, "x"))
"""Of the most frequent causes; the last one is for all others."""


def picture(found: Patterns, form: str) -> bytes:
    """The picture as the bytes of a `png` or an `svg`.

    Raises:
        UsageError: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise UsageError("pictures need matplotlib", hint="pip install 'ftslurm[report]'") from error
    del mpl
    with canvas.style():
        figure = _draw(found)
        if form == "png":
            return canvas.png(figure)
        return canvas.svg(figure, f"Faults over time by node. {_caption(found)}")


def _draw(found: Patterns) -> Figure:
    rows = [each.node for each in found.ranking][:MOST_ROWS]
    margin = canvas.label_in([canvas.short(each, 24) for each in rows])
    height = _ROW_IN * max(len(rows), 8)
    figure = canvas.sheet(canvas.WIDE, height + _RATE_IN + 1.75)
    canvas.title(figure, f"{count(len(found.past.faults), 'fault')} in {found.past.span_days:.0f} days")
    width, inches = figure.get_size_inches()
    figure.text(0.08 / width, 1 - 0.27 / inches, _caption(found), va="top", fontsize=8)
    rate = canvas.place(figure, (margin, height + 1.2, canvas.RIGHT_IN, 0.55))
    raster = canvas.place(figure, (margin, 0.95, canvas.RIGHT_IN, _RATE_IN + 0.8), sharex=rate)
    _rate(rate, found)
    _raster(raster, found, rows)
    return figure


def _caption(found: Patterns) -> str:
    shown = min(len(found.ranking), MOST_ROWS)
    some = f"The {shown} most unreliable of {len(found.ranking)}" if shown < len(found.ranking) else f"All {shown}"
    return (
        f"{some} nodes with faults; grey: under repair; vermilion: changes of the rate"
        f" ({len(found.breaks)} of the fleet, {len(found.node_breaks)} of nodes)"
    )


def _x(t: float, past: Past) -> float:
    return (t - past.begun) / DAY_S


def _rate(axes: Axes, found: Patterns) -> None:
    """Faults a week, and the level between the changes of the fleet's rate."""
    past = found.past
    edges = [week * 7.0 for week in range(int(past.span_days // 7) + 2)]
    days = [_x(each.at, past) for each in past.faults]
    axes.hist(days, bins=edges, color=SKY, edgecolor=canvas.PAPER, linewidth=0.5)
    ends = [0.0, *(_x(each.at, past) for each in found.breaks), max(past.span_days, 1e-9)]
    for begin, end in pairwise(ends):
        inside = sum(begin <= each < end for each in days)
        level = 7.0 * inside / max(end - begin, 1e-9)
        axes.plot([begin, end], [level, level], color=canvas.INK, linewidth=1.6)
    _breaks(axes, found)
    axes.set_ylabel("a week")
    axes.tick_params(labelbottom=False)


def _raster(axes: Axes, found: Patterns, rows: list[str]) -> None:
    past = found.past
    place = {node: row for row, node in enumerate(rows)}
    shown = [each for each in past.faults if each.node in place]
    for each in shown:
        if each.over is not None:
            end = _x(min(each.over, past.until), past)
            axes.hlines(place[each.node], _x(each.at, past), end, color=canvas.FAINT, linewidth=3, zorder=1)
    named = [cause for cause, _, _ in found.causes[: len(_STYLES) - 1]]
    labels = {cause: canvas.short(cause, 26) for cause in named}
    for style, cause in zip((*_STYLES[: len(named)], _STYLES[-1]), (*named, None), strict=True):
        some = [each for each in shown if (each.cause if each.cause in labels else None) == cause]
        if some:
            days, lines = [_x(each.at, past) for each in some], [place[each.node] for each in some]
            label = "others" if cause is None else labels[cause]
            axes.scatter(days, lines, s=13, color=style[0], marker=style[1], label=label, zorder=2, linewidths=1)
    _breaks(axes, found)
    for node, change in found.node_breaks:
        if node in place:
            axes.plot(_x(change.at, past), place[node], marker="|", markersize=11, markeredgewidth=2, color=VERMILION)
    axes.set_yticks(range(len(rows)), [canvas.short(node, 24) for node in rows])
    axes.tick_params(axis="y", length=0, labelsize=6.5)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, max(past.span_days, 1e-9))
    axes.set_xlabel(f"days since {day(past.begun)}" if past.dated else "days since the trace began")
    below = -0.52 / (_ROW_IN * max(len(rows), 8))
    axes.legend(loc="upper center", bbox_to_anchor=(0.45, below), ncols=3)


def _breaks(axes: Axes, found: Patterns) -> None:
    for each in found.breaks:
        axes.axvline(_x(each.at, found.past), color=VERMILION, linestyle="--", linewidth=1.2)
