"""Pictures of a campaign's score as SVG, for the page, in the colours of Okabe and Ito, which all can tell apart.

Letters are drawn as paths: nothing in a name can become markup, and the page needs no font.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ftslurm.errors import UsageError
from ftslurm.faults.reporting import STAGE_NAMES, moment
from ftslurm.insight.text import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ftslurm.faults.score import Score

BLUE, ORANGE, GREEN, GREY, BLACK = "#0072B2", "#E69F00", "#009E73", "#BBBBBB", "#000000"
WIDTH_IN = 8.0
ROW_IN = 0.32


def pictures(found: Score, past: Sequence[Score]) -> list[tuple[str, str]]:
    """Title and SVG of each picture.

    Raises:
        UsageError: matplotlib is not installed.
    """
    chosen: list[tuple[str, float, Callable[[Axes], None]]] = []
    if found.rows:
        chosen.append(("Noticed, and rightly", 1.2 + ROW_IN * len(found.rows), lambda axes: _shares(axes, found)))
        chosen.append(
            ("What was said of which fault", 2.0 + ROW_IN * len(found.rows), lambda axes: _confusion(axes, found))
        )
    if found.times:
        chosen.append(("How long each part took", 1.2 + ROW_IN * len(found.times), lambda axes: _times(axes, found)))
    if len(past) > 1:
        chosen.append(("Campaigns of this name", 3.0, lambda axes: _trend(axes, past)))
    return [(title, _svg(draw, height)) for title, height, draw in chosen]


def _svg(draw: Callable[[Axes], None], height_in: float) -> str:
    try:
        import matplotlib as mpl
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError("pictures need matplotlib", hint="pip install 'ftslurm[report]'") from error
    with mpl.rc_context({"svg.fonttype": "path", "svg.hashsalt": "ftslurm", "font.size": 9, "text.parse_math": False}):
        figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        draw(axes)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    # Remarks hold the labels as they are; matplotlib sees to it that none of them ends early.
    return re.sub(r"<!--.*?-->", "", text[text.index("<svg") :], flags=re.DOTALL)


def _label(name: str) -> str:
    """A name in letters that every font has."""
    return visible(name).encode("ascii", "backslashreplace").decode()


def _shares(axes: Axes, found: Score) -> None:
    names = [_label(row.fault) for row in found.rows]
    places = range(len(names))
    right = [row.right / row.injected if row.injected else 0 for row in found.rows]
    axes.barh([y - 0.2 for y in places], [row.recall or 0 for row in found.rows], 0.4, color=BLUE, label="noticed")
    axes.barh([y + 0.2 for y in places], right, 0.4, color=ORANGE, label="right class", hatch="//", edgecolor="white")
    for y, row in zip(places, found.rows, strict=True):
        if row.recall is None:
            axes.text(0.01, y - 0.2, "nothing is to be noticed", va="center", color=BLACK, fontsize=7)
    axes.set_yticks(list(places), names)
    axes.set_xlim(0, 1)
    axes.invert_yaxis()
    axes.set_xlabel("share of injections")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.2), ncols=2, frameon=False)


def _confusion(axes: Axes, found: Score) -> None:
    names = sorted(found.confusion)
    said = sorted({slug for row in found.confusion.values() for slug in row})
    counts = [[found.confusion[name].get(slug, 0) for slug in said] for name in names]
    most = max(max(row) for row in counts)
    columns, lines = range(len(said)), range(len(names))
    axes.pcolormesh(
        columns, lines, counts, cmap="Blues", vmin=0, vmax=max(most, 1), edgecolors="white", shading="nearest"
    )
    axes.invert_yaxis()
    for y, row in enumerate(counts):
        for x, number in enumerate(row):
            if number:
                axes.text(x, y, str(number), ha="center", va="center", color="white" if number > most / 2 else BLACK)
    axes.set_xticks(range(len(said)), [_label(each) for each in said], rotation=35, ha="right")
    axes.set_yticks(range(len(names)), [_label(each) for each in names])
    axes.set_ylabel("injected")
    axes.set_xlabel("said")


def _times(axes: Axes, found: Score) -> None:
    names = [STAGE_NAMES.get(stage, stage) for stage in found.times]
    for y, values in enumerate(found.times.values()):
        axes.plot([values["p50"], values["p99"]], [y, y], color=GREY, linewidth=4, solid_capstyle="round", zorder=1)
    for marker, share, colour in (("o", "p50", BLUE), ("s", "p90", ORANGE), ("D", "p99", GREEN)):
        points = [each[share] for each in found.times.values()]
        axes.scatter(points, range(len(names)), marker=marker, color=colour, label=share, zorder=2)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlim(left=0)
    axes.invert_yaxis()
    axes.set_xlabel("seconds")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.25), ncols=3, frameon=False)


def _trend(axes: Axes, past: Sequence[Score]) -> None:
    places = range(len(past))
    for share, marker, colour in (("recall", "o", BLUE), ("right", "s", ORANGE)):
        values = [getattr(each, share) for each in past]
        shown = [float("nan") if value is None else value for value in values]
        axes.plot(places, shown, marker=marker, color=colour, label=share)
    axes.set_ylim(0, 1.05)
    axes.set_ylabel("share")
    axes.set_xticks(places, [moment(each.began) for each in past], rotation=35, ha="right")
    axes.legend(frameon=False)
