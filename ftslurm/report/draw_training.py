"""Pictures of the training: its progress beside the ideal, its checkpoints, its recoveries."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from ftslurm.insight.palette import BLUE, CATEGORIES, DARK_GREY, ORANGE, SKY, VERMILION
from ftslurm.insight.text import took
from ftslurm.report import canvas
from ftslurm.report.canvas import INK, PAPER, Clock, Form
from ftslurm.report.recovery import parts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    from ftslurm.insight.incident import Incident
    from ftslurm.report.contents import Contents
    from ftslurm.report.progress import Point

MOST_INCIDENTS = 20
MANY = 60
PART_COLOURS = {
    "detect": CATEGORIES["detecting"],
    "decide": VERMILION,
    "stop": "#E58B4A",
    "leave": "#8F3F00",
    "queue": CATEGORIES["queued"],
    "plan": "#F2BC93",
    "launch": CATEGORIES["starting"],
    "restore": CATEGORIES["loading"],
    "release": "#F9DFCB",
}
"""What is a category of wall time, too, has its colour; the other parts are shades of recovering."""


def training_progress(contents: Contents, form: Form) -> Figure:
    """The step that was reached when, and where it would have been."""
    told, clock = contents.progress, Clock(contents.begun, contents.until)
    figure = canvas.sheet(form, 3.3 if form.narrow else 3.7)
    most = max((point.step for point in told.points), default=0)
    axes = canvas.place(
        figure, (canvas.label_in([f"{most:,}"]) + 0.22, 1.0 if form.narrow else 0.75, canvas.RIGHT_IN, 0.3)
    )
    clock.lines(axes, [mark.t for mark in contents.marks])
    _attempts(axes, clock, told.points)
    saved = [point for point in told.points if point.saved]
    xs, ys = [clock.at(each.t) for each in saved], [each.step for each in saved]
    if len(saved) < MANY:
        axes.scatter(xs, ys, s=16, color=SKY, edgecolors=PAPER, linewidths=0.4, zorder=4)
    else:  # so many would hide the line
        axes.scatter(xs, ys, s=14, color=SKY, linewidths=0, zorder=2.5)
    ideal = told.ideal(contents.until)
    if ideal is not None and told.since is not None:
        axes.plot([clock.at(told.since), clock.at(contents.until)], [0, ideal], color=DARK_GREY, lw=1.2, linestyle="--")
    axes.set_ylim(bottom=0, top=1.06 * max(most, ideal or 0, 1))
    clock.dress(axes)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_ylabel("training step")
    canvas.title(figure, "Progress against the ideal")
    figure.legend(handles=_progress_handles(contents), loc="lower left", ncols=3 if form.narrow else 5,
                  bbox_to_anchor=(0.005, 0.0), borderaxespad=0.2, columnspacing=0.9)  # fmt: skip
    return figure


def _attempts(axes: Axes, clock: Clock, points: Sequence[Point]) -> None:
    """A line for each attempt, and one from its end to where the next one began."""
    by_attempt: dict[int, list[Point]] = {}
    for point in points:
        by_attempt.setdefault(point.attempt, []).append(point)
    before: tuple[float, int] | None = None
    for mine in by_attempt.values():
        # A checkpoint is told when it is whole, when the training is further already.
        steps = list(accumulate((point.step for point in mine), max))
        xs = [clock.at(point.t) for point in mine]
        if before is not None:
            back = [before[0], xs[0], xs[0]], [before[1], before[1], steps[0]]
            axes.plot(*back, color=ORANGE, linestyle=(0, (2, 1.4)), lw=1.3)
        axes.plot(xs, steps, color=BLUE, zorder=3)
        before = xs[-1], steps[-1]


def _progress_handles(contents: Contents) -> list[Line2D]:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=BLUE, label="training"),
        Line2D([], [], color=SKY, marker="o", linestyle="", markersize=5, label="checkpoint"),
        Line2D([], [], color=DARK_GREY, linestyle="--", label="ideal"),
    ]
    if contents.marks:
        handles.append(Line2D([], [], color=ORANGE, linestyle=(0, (2, 1.4)), label="gone back"))
        handles.append(Line2D([], [], color=INK, linestyle=(0, (1, 2)), lw=1.0, label="failure"))
    return handles


def checkpoints(contents: Contents, form: Form) -> Figure:
    """How long each checkpoint took to be whole and to be safe; how much work was at risk."""
    clock = Clock(contents.begun, contents.until)
    figure = canvas.sheet(form, 4.6 if form.narrow else 2.9)
    if form.narrow:
        boxes = ((0.72, 2.85, canvas.RIGHT_IN, 0.3), (0.72, 0.5, canvas.RIGHT_IN, 2.45))
    else:
        half = form.width_in / 2
        boxes = ((0.72, 0.5, half + 0.12, 0.3), (half + 0.72, 0.5, canvas.RIGHT_IN, 0.3))
    took_axes, risk_axes = (canvas.place(figure, box) for box in boxes)
    saved = contents.checkpoints
    dots = ((SKY, "o", "whole on the nodes", [(each.whole, each.save_s) for each in saved]),
            (BLUE, "D", "on shared storage", [(each.durable, each.durable_s) for each in saved]))  # fmt: skip
    size = 22 if len(saved) < MANY else 8
    for colour, marker, label, each in dots:
        known = [(clock.at(t), seconds) for t, seconds in each if t is not None and seconds is not None]
        xs, ys = [x for x, _ in known], [y for _, y in known]
        look: dict[str, Any] = {"color": colour, "marker": marker, "edgecolors": PAPER, "linewidths": 0.3}
        took_axes.scatter(xs, ys, s=size, label=label, zorder=3, **look)
    took_axes.set_ylim(bottom=0)
    took_axes.set_ylabel("seconds")
    took_axes.set_title("Time of a save" if form.narrow else "Time from the first file of a save")
    took_axes.legend(loc="upper left", ncols=1 if form.narrow else 2, borderaxespad=0.1)
    top = took_axes.get_ylim()[1]
    took_axes.set_ylim(0, top * (1.6 if form.narrow else 1.28))
    clock.dress(took_axes, label=not form.narrow)
    _risk(risk_axes, clock, contents)
    risk_axes.set_title("Work at risk" if form.narrow else "Work at risk: time since the newest checkpoint")
    return figure


def _risk(axes: Axes, clock: Clock, contents: Contents) -> None:
    """The time since the newest checkpoint that the run could go back to: what a failure in that moment would cost."""
    began = contents.progress.since
    moments = sorted(each.whole for each in contents.checkpoints if each.whole is not None)
    if began is not None:
        xs, ys = [clock.at(began)], [0.0]
        last = began
        for moment in [*moments, contents.until]:
            xs += [clock.at(moment), clock.at(moment)]
            ys += [max(moment - last, 0.0), 0.0]
            last = max(moment, last)
        axes.fill_between(xs, ys, color=ORANGE, alpha=0.55, linewidth=0, zorder=2)
    clock.lines(axes, [mark.t for mark in contents.marks])
    axes.set_ylim(bottom=0)
    axes.set_ylabel("seconds")
    clock.dress(axes)


def recovery(contents: Contents, form: Form) -> Figure:
    """One bar for each incident, in the parts of its recovery."""
    from matplotlib.patches import Patch

    incidents = contents.story.incidents[-MOST_INCIDENTS:]
    known = [parts(each) for each in incidents]
    used = [name for name in PART_COLOURS if any(name in each for each in known)]
    labels = [_label(each, form) for each in incidents] or ["none"]
    columns = 3 if form.narrow else 9
    legend_in = 0.24 * -(-len(used) // columns) + 0.06
    figure = canvas.sheet(form, 0.34 * len(labels) + legend_in + 0.95)
    axes = canvas.place(figure, (canvas.label_in(labels), 0.5 + legend_in, 0.75, 0.3))
    rows = range(len(incidents))
    left = [0.0] * len(incidents)
    for name in used:
        widths = [each.get(name, 0.0) for each in known]
        axes.barh(rows, widths, left=left, color=PART_COLOURS[name], height=0.66, edgecolor=PAPER, linewidth=0.5)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    most = max([*left, 1e-6])
    for row, (incident, whole) in enumerate(zip(incidents, left, strict=True)):
        text = took(whole) if incident.released is not None else f"{took(whole)}+"
        axes.text(whole + most * 0.012, row, text, va="center", fontsize=8.5)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xlim(0, most)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("seconds since the first sign")
    canvas.title(figure, "What each recovery consisted of")
    handles = [Patch(facecolor=PART_COLOURS[name], label=name) for name in used]
    figure.legend(handles=handles, loc="lower left", ncols=columns, bbox_to_anchor=(0.005, 0.0), borderaxespad=0.2)
    return figure


def _label(incident: Incident, form: Form) -> str:
    said = incident.judgements[0] if incident.judgements else None
    what = f"{said.where or said.scope}: {said.cause}" if said is not None else "no verdict"
    return f"#{incident.number} {canvas.short(what, 16 if form.narrow else 34)}"
