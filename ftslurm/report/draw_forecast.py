"""The picture of a forecast: what is left of the time against the interval between saves, and the best of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ftslurm.core.interval import daly, optimum, young
from ftslurm.insight.palette import BLUE, DARK_GREY, ORANGE, PURPLE, SKY, VERMILION
from ftslurm.insight.text import took
from ftslurm.plan import losses
from ftslurm.plan.forecast import interval_of
from ftslurm.plan.rates import PRESETS
from ftslurm.report import canvas
from ftslurm.report.canvas import INK, PAPER, Form

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ftslurm.plan.inputs import Inputs

POINTS = 160
TICKS_S = tuple(unit * many for unit, many in (
    (1, 0.001), (1, 0.01), (1, 0.1), (1, 1), (1, 10), (60, 1), (60, 5), (60, 20), (3600, 1), (3600, 5), (86400, 1),
    (86400, 5), (86400, 20), (86400, 100), (86400, 1000),
))  # fmt: skip
SPAN = 30.0
"""The axis goes from a thirtieth of the best interval to thirty times of it."""


def forecast(inputs: Inputs, form: Form) -> Figure:
    """ETTR against interval at the run's rate and at the published ones, with the exact optimum of each."""
    figure = canvas.sheet(form, 3.8)
    axes = canvas.place(
        figure, (canvas.label_in(["100 %"]) + 0.25, 1.35 if form.narrow else 1.1, canvas.RIGHT_IN, 0.32)
    )
    best_s = optimum(inputs.save.value, inputs.mttf_s)
    grid = [best_s / SPAN * SPAN ** (2 * k / (POINTS - 1)) for k in range(POINTS)]
    styles = zip(PRESETS.items(), (SKY, PURPLE, ORANGE), ("--", "-.", ":"), strict=True)
    for (name, rate), colour, dashes in styles:
        if rate.per_1000_node_days == inputs.rate.per_1000_node_days:
            continue
        _curve(axes, inputs, grid, rate.mttf_s(inputs.nodes), color=colour, linestyle=dashes, lw=1.2,
               label=f"{name}: {rate.per_1000_node_days:.2f}")  # fmt: skip
    own = f"this run: {inputs.rate.per_1000_node_days:.2f} failures in 1,000 node-days"
    _curve(axes, inputs, grid, inputs.mttf_s, color=BLUE, linestyle="-", lw=2.0, label=own)
    _marks(axes, inputs, grid)
    axes.set_xscale("log")
    axes.set_xlim(grid[0], grid[-1])
    axes.set_ylim(0, 1.0)
    ticks = [each for each in TICKS_S if grid[0] <= each <= grid[-1]]
    axes.set_xticks(ticks, [took(each) for each in ticks])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    axes.set_xlabel("work between two saves")
    axes.set_ylabel("ETTR")
    canvas.title(figure, f"Time that is left, on {inputs.nodes:,} nodes")
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower left", ncols=2 if form.narrow else 3, bbox_to_anchor=(0.005, 0.0),
                  borderaxespad=0.2, columnspacing=0.9)  # fmt: skip
    return figure


def _curve(axes: Axes, inputs: Inputs, grid: list[float], mttf_s: float, **look: Any) -> None:  # noqa: ANN401 - matplotlib's own
    """The curve at one rate, and a dot at its optimum."""
    axes.plot(grid, [losses.ettr(each, inputs.costs, mttf_s) for each in grid], **look)
    best_s = optimum(inputs.save.value, mttf_s)
    if grid[0] <= best_s <= grid[-1]:
        axes.plot([best_s], [losses.ettr(best_s, inputs.costs, mttf_s)], "o", color=look["color"], ms=5,
                  markeredgecolor=PAPER, zorder=4)  # fmt: skip


def _marks(axes: Axes, inputs: Inputs, grid: list[float]) -> None:
    """Where the formulas and the run itself are."""
    cost_s, mttf_s = inputs.save.value, inputs.mttf_s
    for name, at, marker in (("Daly", daly(cost_s, mttf_s), "D"), ("Young", young(cost_s, mttf_s), "s")):
        if grid[0] <= at <= grid[-1]:
            axes.plot([at], [losses.ettr(at, inputs.costs, mttf_s)], marker, color="none", markeredgecolor=INK, ms=7,
                      zorder=5, linestyle="", label=name)  # fmt: skip
    used = interval_of(inputs).seconds
    if inputs.interval is not None and grid[0] <= used <= grid[-1]:
        axes.axvline(used, color=VERMILION, lw=1.2, label=f"the run's own: {took(used)}")
    axes.axvline(optimum(cost_s, mttf_s), color=DARK_GREY, lw=0.8, linestyle=(0, (1, 2)), label="exact optimum")


def words(inputs: Inputs) -> str:
    """What the picture shows, for those who do not see it."""
    best_s = optimum(inputs.save.value, inputs.mttf_s)
    best = losses.ettr(best_s, inputs.costs, inputs.mttf_s)
    return (
        f"Expected ETTR against the work between two saves on {inputs.nodes} nodes: at best {100 * best:.1f} % at"
        f" {took(best_s)}, at {inputs.rate.per_1000_node_days:.2f} failures in 1,000 node-days."
    )


def picture(inputs: Inputs, *, vector: bool) -> bytes:
    """The file: SVG with text as text, or PNG. The same inputs give the same bytes."""
    with canvas.style():
        figure = forecast(inputs, canvas.WIDE)
        return canvas.svg(figure, words(inputs)) if vector else canvas.png(figure)
