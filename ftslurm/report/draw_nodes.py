"""Pictures of the nodes: what they used of themselves, and which of them behaved unlike the others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ftslurm.insight.palette import BLUE, GREY, SERIES, VERMILION
from ftslurm.report import canvas
from ftslurm.report.anomaly import OUTLIER
from ftslurm.report.canvas import FAINT, Clock, Form
from ftslurm.report.recovery import spread
from ftslurm.report.samples import METRICS, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

    from ftslurm.report.contents import Contents

MOST_LINES = 6
MOST_ROWS = 12
CLIP, USUAL = 6.0, 1.5
PANEL_IN, PANEL_GAP_IN = 1.1, 0.44
LOOKS: Sequence[Any] = ("-", "--", "-.", (0, (1, 1)), (0, (5, 1)), (0, (3, 1, 1, 1)))
TITLES = {
    "cpu": "CPU", "load": "load per core", "memory": "memory", "disk_read": "disk read", "disk_write": "disk written",
    "scratch_used": "scratch used", "net_in": "network in", "net_out": "network out", "fabric_in": "fabric in",
    "fabric_out": "fabric out", "gpu_utilization": "GPU", "gpu_memory_used": "GPU memory",
    "gpu_temperature": "GPU temperature", "gpu_power": "GPU power", "step_rate": "steps of the slowest rank",
}  # fmt: skip
_PREFIXES = (("G", 1e9), ("M", 1e6), ("k", 1e3))


def system_resources(contents: Contents, form: Form) -> Figure:
    """One panel for each resource: a line for each node, or how the nodes are spread."""
    grid, clock = contents.grid, Clock(contents.begun, contents.until)
    metrics = list(grid.values) or ["cpu"]
    columns = 1 if form.narrow else 2
    rows = -(-len(metrics) // columns)
    legend_in = 0.24 * -(-min(len(grid.nodes), MOST_LINES) // (3 if form.narrow else 6)) + 0.1
    height = rows * (PANEL_IN + PANEL_GAP_IN) + 0.45 + legend_in
    figure = canvas.sheet(form, height)
    half = form.width_in / columns
    for number, metric in enumerate(metrics):
        row, column = divmod(number, columns)
        top = 0.32 + row * (PANEL_IN + PANEL_GAP_IN)
        box = (
            column * half + 0.72,
            height - top - PANEL_IN,
            form.width_in - (column + 1) * half + canvas.RIGHT_IN,
            top,
        )
        axes = canvas.place(figure, box)
        _panel(axes, clock, contents, metric)
        clock.dress(axes, label=number >= len(metrics) - columns)
    handles = _handles(contents)
    if handles:
        figure.legend(handles=handles, loc="lower left", ncols=3 if form.narrow else 6, bbox_to_anchor=(0.005, 0.0),
                      borderaxespad=0.2)  # fmt: skip
    return figure


def _panel(axes: Axes, clock: Clock, contents: Contents, metric: str) -> None:
    rows = contents.grid.values.get(metric, {})
    grid = contents.grid
    known = [value for row in rows.values() for value in row if value is not None]
    unit, scale = scaled(METRICS[metric].unit, max(known, default=0.0))
    xs = [clock.at(grid.start + (column + 0.5) * grid.width_s) for column in range(grid.bins)]
    clock.lines(axes, [mark.t for mark in contents.marks])
    if len(grid.nodes) <= MOST_LINES:
        for node, row in rows.items():
            number = grid.nodes.index(node)
            ys = [math.nan if value is None else value / scale for value in row]
            axes.plot(xs, ys, color=SERIES[number % len(SERIES)], linestyle=LOOKS[number % len(LOOKS)], lw=1.4)
    else:
        _spread(axes, xs, rows, scale)
    axes.set_ylim(0, 100 if unit == "%" else max(max(known, default=0.0) / scale * 1.15, 1e-3))
    axes.set_ylabel(unit or " ")
    axes.set_title(TITLES[metric])


def _spread(axes: Axes, xs: Sequence[float], rows: Mapping[str, Row], scale: float) -> None:
    """The median of the nodes, the middle 80 % of them, and the extremes."""
    columns = list(zip(*rows.values(), strict=True))
    told = [[value / scale for value in column if value is not None] for column in columns]
    parts = [
        (x, spread(sorted(values)), min(values), max(values)) for x, values in zip(xs, told, strict=True) if values
    ]
    at = [part[0] for part in parts]
    axes.fill_between(at, [part[2] for part in parts], [part[3] for part in parts], color=FAINT, linewidth=0)
    low, middle, high = zip(*(part[1] or (0.0, 0.0, 0.0) for part in parts), strict=True)
    axes.fill_between(at, low, high, color=BLUE, alpha=0.35, linewidth=0)
    axes.plot(at, middle, color=BLUE)


def _handles(contents: Contents) -> list[object]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    nodes = contents.grid.nodes
    if len(nodes) > MOST_LINES:
        return [
            Line2D([], [], color=BLUE, label=f"median of {len(nodes)} nodes"),
            Patch(facecolor=BLUE, alpha=0.35, label="10 % to 90 %"),
            Patch(facecolor=FAINT, label="all"),
        ]
    return [
        Line2D(
            [],
            [],
            color=SERIES[number % len(SERIES)],
            linestyle=LOOKS[number % len(LOOKS)],
            label=canvas.short(node, 14),
        )
        for number, node in enumerate(nodes)
    ]


def quantity(metric: str, value: float) -> str:
    """A value in words, as in `1.2 GB/s`."""
    unit, scale = scaled(METRICS[metric].unit, abs(value))
    return f"{value / scale:,.3g} {unit}".strip()


def scaled(unit: str, most: float) -> tuple[str, float]:
    """A unit with a prefix that suits the largest value, and how many of the plain unit it is."""
    if unit != "B/s":
        return unit, 1.0
    return next(((f"{prefix}{unit}", size) for prefix, size in _PREFIXES if most >= size), (unit, 1.0))


def anomaly_heatmap(contents: Contents, form: Form) -> Figure:
    """The score of every metric, node and moment; only the most unusual nodes where there are many."""
    grid, clock = contents.grid, Clock(contents.begun, contents.until)
    nodes = unusual(contents, MOST_ROWS)
    empty = [math.nan] * grid.bins
    lines: list[Sequence[float]] = []
    ticks: list[tuple[int, str]] = []
    titles: list[tuple[int, str]] = []
    for metric, scored in contents.scores.items():
        titles.append((len(lines), TITLES[metric]))
        lines.append(empty)
        for node in nodes:
            ticks.append((len(lines), canvas.short(node, 12)))
            lines.append([math.nan if value is None else value for value in scored.get(node, empty)])
    height = 0.165 * len(lines) + 1.25
    figure = canvas.sheet(form, height)
    margin = canvas.label_in([label for _, label in ticks])
    axes = canvas.place(figure, (margin, 1.0, canvas.RIGHT_IN, 0.2))
    end = clock.at(grid.start + grid.bins * grid.width_s)
    image = axes.imshow(lines, cmap=_colours(), vmin=-CLIP, vmax=CLIP, aspect="auto", interpolation="nearest",
                        extent=(0, end, len(lines) - 0.5, -0.5))  # fmt: skip
    for line, title in titles:
        axes.text(0, line + 0.08, f" {title}", fontsize=8.5, fontweight="bold", va="center")
    axes.set_yticks([line for line, _ in ticks], [label for _, label in ticks])
    axes.tick_params(axis="y", length=0, labelsize=7.5)
    axes.grid(visible=False)
    clock.lines(axes, [mark.t for mark in contents.marks])
    clock.dress(axes)
    bar = canvas.place(figure, (margin, 0.38, form.width_in - margin - 2.4, height - 0.48))
    figure.colorbar(image, cax=bar, orientation="horizontal", ticks=[-CLIP, -OUTLIER, 0, OUTLIER, CLIP])
    bar.set_xlabel("robust z-score")
    bar.tick_params(labelsize=8)
    return figure


def unusual(contents: Contents, most: int) -> list[str]:
    """The nodes with the highest scores, in the order of all nodes."""
    highs = {
        node: max(
            (abs(value) for rows in contents.scores.values() for value in rows.get(node, ()) if value), default=0.0
        )
        for node in contents.grid.nodes
    }
    chosen = set(sorted(highs, key=lambda node: (-highs[node], node))[:most])
    return [node for node in sorted(contents.grid.nodes) if node in chosen]


def _colours() -> Colormap:
    """Blue for less than usual, vermilion for more; what is usual is a faint grey, on light pages and on dark ones."""
    from matplotlib.colors import LinearSegmentedColormap, to_rgb

    low, high, usual = to_rgb(BLUE), to_rgb(VERMILION), (*to_rgb(GREY), 0.2)
    near, half = 0.5 * USUAL / CLIP, 0.5 * OUTLIER / CLIP
    stops = [
        (0.0, (*low, 1.0)), (0.5 - half, (*low, 0.5)), (0.5 - near, usual),
        (0.5 + near, usual), (0.5 + half, (*high, 0.5)), (1.0, (*high, 1.0)),
    ]  # fmt: skip
    return LinearSegmentedColormap.from_list("unusual", stops).with_extremes(bad=(0, 0, 0, 0))
