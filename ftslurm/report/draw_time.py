"""Pictures of time: what the run and each of its nodes did when, and where the time went."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ftslurm.insight.palette import CATEGORIES, VERMILION
from ftslurm.insight.text import took
from ftslurm.insight.walltime import Category, Interval
from ftslurm.report import canvas
from ftslurm.report.canvas import FAINT, INK, PAPER, Clock, Form
from ftslurm.report.timeline import Role, order

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    from ftslurm.report.contents import Contents

MOST_NODES = 32
COLUMNS = 900
ROW_IN = 0.27
RARE = frozenset({Category.DETECTING, Category.RECOVERING, Category.LOADING, Category.STARTING})
RARE_WEIGHT = 50.0
"""What is short and telling shows in a column of which it is a fiftieth part."""

Span = tuple[float, float]


def coarse(intervals: Sequence[Interval], columns: int = COLUMNS) -> list[Interval]:
    """The intervals as a picture can show them: in each column what it is mostly of."""
    if not intervals:
        return []
    start, end = intervals[0].start, intervals[-1].end
    width = (end - start) / columns
    if width <= 0 or len(intervals) < columns // 4:
        return list(intervals)
    weights: list[dict[Category, float]] = [{} for _ in range(columns)]
    for each in intervals:
        heavy = RARE_WEIGHT if each.category in RARE else 1.0
        first = min(int((each.start - start) / width), columns - 1)
        last = min(int((each.end - start) / width), columns - 1)
        for column in range(first, last + 1):
            left = start + column * width
            inside = min(each.end, left + width) - max(each.start, left)
            weights[column][each.category] = weights[column].get(each.category, 0.0) + heavy * max(inside, 0.0)
    found: list[Interval] = []
    for column, cell in enumerate(weights):
        category = max(cell, key=lambda name: cell[name])
        stop = start + (column + 1) * width
        if found and found[-1].category is category:
            found[-1] = Interval(found[-1].start, stop, category)
        else:
            found.append(Interval(start + column * width, stop, category))
    return found


def timeline(contents: Contents, form: Form) -> Figure:
    """One row for the run and one for each node, in the colours of what time went to; failures are marked."""
    from matplotlib.patches import Patch

    nodes, others = order(contents.stretches, contents.marks, MOST_NODES)
    labels = ["run", *(canvas.short(node, 14) for node in nodes)]
    clock = Clock(contents.begun, contents.until)
    shown = coarse(contents.intervals)
    used = [category for category in Category if any(each.category is category for each in shown)]
    roles = {each.role for each in contents.stretches}
    handles: list[Patch | Line2D] = [Patch(facecolor=CATEGORIES[category], label=category) for category in used]
    handles += [Patch(facecolor="none", edgecolor=INK, linewidth=0.8, label="held idle")] if Role.HELD in roles else []
    handles += [Patch(facecolor=FAINT, hatch="////", edgecolor=INK, label="given up")] if Role.LOST in roles else []
    handles += [_mark_handle()] if contents.marks else []
    columns = 3 if form.narrow else 9
    legend_in = 0.24 * -(-len(handles) // columns) + 0.06
    height = ROW_IN * len(labels) + legend_in + 0.82
    figure = canvas.sheet(form, height)
    axes = canvas.place(figure, (canvas.label_in(labels), 0.5 + legend_in, canvas.RIGHT_IN, 0.3))
    _strips(axes, clock, shown, [(row, _works(contents, node)) for row, node in enumerate(nodes, 1)])
    _roles(axes, clock, contents, nodes)
    _marks(axes, clock, contents, nodes)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.set_yticks(range(len(labels)), labels)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    clock.dress(axes)
    more = f", and {others} others alike" if others else ""
    canvas.title(figure, "What every node did" + more)
    figure.legend(handles=handles, loc="lower left", ncols=columns, bbox_to_anchor=(0.005, 0.0), borderaxespad=0.2)
    return figure


def _mark_handle() -> Line2D:
    from matplotlib.lines import Line2D

    return Line2D(
        [], [], marker="X", linestyle="", color=VERMILION, markeredgecolor=PAPER, markersize=9, label="failure"
    )


def _works(contents: Contents, node: str) -> list[Span]:
    return [(each.start, each.end) for each in contents.stretches if each.node == node and each.role is Role.WORKS]


def _strips(axes: Axes, clock: Clock, shown: Sequence[Interval], rows: Iterable[tuple[int, list[Span]]]) -> None:
    """All rectangles of one category are one artist."""
    from matplotlib.collections import PolyCollection

    found: dict[Category, list[list[Span]]] = {}
    for each in shown:
        if each.category is not Category.IDLE:
            found.setdefault(each.category, []).append(_box(clock, 0, (each.start, each.end)))
    for row, spans in rows:
        for start, end in spans:
            for each in shown:
                inside = max(each.start, start), min(each.end, end)
                if inside[0] < inside[1] and each.category is not Category.IDLE:
                    found.setdefault(each.category, []).append(_box(clock, row, inside))
    for category, boxes in found.items():
        axes.add_collection(PolyCollection(boxes, facecolors=CATEGORIES[category], linewidths=0, zorder=2))


def _box(clock: Clock, row: int, span: Span, half: float = 0.36) -> list[Span]:
    left, right = clock.at(span[0]), clock.at(span[1])
    return [(left, row - half), (right, row - half), (right, row + half), (left, row + half)]


def _roles(axes: Axes, clock: Clock, contents: Contents, nodes: Sequence[str]) -> None:
    from matplotlib.collections import PolyCollection

    rows = {node: row for row, node in enumerate(nodes, 1)}
    looks: dict[Role, dict[str, Any]] = {
        Role.HELD: {"facecolors": "none", "edgecolors": INK, "linewidths": 0.7},
        Role.LOST: {"facecolors": FAINT, "edgecolors": INK, "linewidths": 0.0, "hatch": "////"},
    }
    for role, look in looks.items():
        boxes = [
            _box(clock, rows[each.node], (each.start, each.end), 0.3)
            for each in contents.stretches
            if each.role is role and each.node in rows
        ]
        if boxes:
            axes.add_collection(PolyCollection(boxes, zorder=2, **look))


def _marks(axes: Axes, clock: Clock, contents: Contents, nodes: Sequence[str]) -> None:
    rows = {node: row for row, node in enumerate(nodes, 1)}
    at = [(clock.at(mark.t), rows.get(mark.node, 0)) for mark in contents.marks]
    if at:
        axes.scatter(
            [x for x, _ in at], [y for _, y in at], marker="X", s=70, color=VERMILION, edgecolors=PAPER, linewidths=0.9,
            zorder=4, clip_on=False,
        )  # fmt: skip


def time_spent(contents: Contents, form: Form) -> Figure:
    """Every category with its share of the wall time."""
    spent = {category: contents.spent.get(category, 0.0) for category in Category}
    whole = sum(spent.values()) or 1.0
    names = [category for category in Category if spent[category] > 0] or [Category.PRODUCTIVE]
    figure = canvas.sheet(form, 0.3 * len(names) + 0.95)
    axes = canvas.place(figure, (canvas.label_in(names), 0.5, 1.35 if form.narrow else 1.6, 0.3))
    shares = [100 * spent[category] / whole for category in names]
    axes.barh(names, shares, color=[CATEGORIES[category] for category in names], height=0.72)
    axes.invert_yaxis()
    most = max([*shares, 1.0])
    for row, (category, share) in enumerate(zip(names, shares, strict=True)):
        axes.text(share + most * 0.012, row, f"{share:.1f} %, {took(spent[category])}", va="center", fontsize=8.5)
    axes.set_xlim(0, most)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("share of the wall time (%)")
    canvas.title(figure, f"Where {took(whole if contents.spent else 0.0)} went")
    return figure
