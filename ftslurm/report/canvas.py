"""How every picture looks, and how it becomes a file. All of matplotlib that is not drawing is here.

Pictures are drawn twice: wide, and narrow for a telephone, with letters of the same size. The SVG has its text as text
and follows the reader's dark mode: what is ink, faint or paper in it is changed by a style sheet of its own; a viewer
that knows no style sheets shows it in light. The same contents give the same bytes: no date, no random ids, and no
settings of the user's.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ftslurm.insight.text import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT, PAPER = "#1b1c1e", "#d9dadc", "#fdfdfe"
DARK = {INK: "#e7e8ea", FAINT: "#44474b", PAPER: "#16181b"}
WIDE_IN, NARROW_IN = 9.4, 3.9
RIGHT_IN = 0.18
DPI = 130
PNG = {"compress_level": 3}
"""Half the time of the usual level, for a fourth more bytes."""
STYLE: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titley": 1.0,  # else every drawing measures all labels of ticks, to find a place above them
    "axes.labelsize": 9.0,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.edgecolor": FAINT,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "text.color": INK,
    "text.parse_math": False,
    "lines.linewidth": 1.6,
    "hatch.color": INK,
    "hatch.linewidth": 0.5,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.handlelength": 1.2,
    "legend.handleheight": 0.9,
    "legend.columnspacing": 1.2,
    "legend.labelcolor": INK,
    "svg.fonttype": "none",
    "svg.hashsalt": "ftslurm",
    "path.simplify": True,
}
_FONTS = "system-ui,'Segoe UI',Roboto,'Helvetica Neue','DejaVu Sans',Arial,sans-serif"


@dataclass(frozen=True, slots=True)
class Form:
    """Wide or narrow."""

    width_in: float

    @property
    def narrow(self) -> bool:
        """Whether it is for a small screen."""
        return self.width_in < 6


WIDE, NARROW = Form(WIDE_IN), Form(NARROW_IN)


def load() -> None:
    """Load what everything is drawn with, which takes a while."""
    from importlib import import_module

    for name in ("backends.backend_agg", "backends.backend_svg", "collections", "figure", "image", "legend"):
        import_module(f"matplotlib.{name}")


@contextmanager
def style() -> Iterator[None]:
    """Draw as all pictures of a report are drawn, whatever the user's own settings are."""
    import matplotlib as mpl

    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        yield


def sheet(form: Form, height_in: float) -> Figure:
    """An empty picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(form.width_in, height_in))
    figure.patch.set_alpha(0.0)
    FigureCanvasAgg(figure)
    return figure


def place(figure: Figure, box: tuple[float, float, float, float], **more: Any) -> Axes:  # noqa: ANN401 - matplotlib's own
    """Axes in a box of left, bottom, right and top margins, in inches: letters do not grow with the picture."""
    left, bottom, right, top = box
    width, height = figure.get_size_inches()
    area = (left / width, bottom / height, (width - left - right) / width, (height - bottom - top) / height)
    return figure.add_axes(area, **more)


def title(figure: Figure, text: str) -> None:
    """A title over the whole picture, at its left edge."""
    width, height = figure.get_size_inches()
    figure.text(0.08 / width, 1 - 0.06 / height, text, fontsize=9.5, fontweight="bold", va="top")


def label_in(labels: Sequence[str]) -> float:
    """How many inches the longest of these labels takes at an axis."""
    return 0.2 + 0.083 * max(map(len, labels), default=0)


def short(text: str, most: int = 22) -> str:
    """A name for a picture: nothing in it acts on anybody, and it is not too long."""
    seen = visible(text)
    return seen if len(seen) <= most else f"{seen[: most - 1]}\N{HORIZONTAL ELLIPSIS}"


# -------------------------------------------------------------------------------------------------------------- time


@dataclass(frozen=True, slots=True)
class Clock:
    """The axis of time: since the run began, in a unit that suits its length."""

    begun: float
    until: float

    @property
    def unit(self) -> tuple[str, float]:
        """Its name and its length in seconds."""
        span = self.until - self.begun
        for name, length, from_ in (("days", 86400.0, 4 * 86400), ("hours", 3600.0, 2 * 3600), ("minutes", 60.0, 180)):
            if span >= from_:
                return name, length
        return "seconds", 1.0

    def at(self, t: float) -> float:
        """Where a moment stands on the axis."""
        return (t - self.begun) / self.unit[1]

    def dress(self, axes: Axes, *, label: bool = True) -> None:
        """Give the axis its limits and its label."""
        axes.set_xlim(0, max(self.at(self.until), 1e-9))
        if label:
            axes.set_xlabel(f"time since the run began ({self.unit[0]})")
        else:
            axes.tick_params(labelbottom=False)

    def lines(self, axes: Axes, moments: Sequence[float]) -> None:
        """Thin lines at moments at which something failed; all of them are one path."""
        xs = [x for t in moments for x in (self.at(t), self.at(t), math.nan)]
        ys = [0.0, 1.0, math.nan] * len(moments)
        axes.plot(xs, ys, transform=axes.get_xaxis_transform(), color=INK, lw=0.8, linestyle=(0, (1, 2)), zorder=1.5)


# ------------------------------------------------------------------------------------------------------------- files


def png(figure: Figure) -> bytes:
    """The picture in light colours on white."""
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=DPI, facecolor="white", metadata={"Software": None}, pil_kwargs=PNG)
    return out.getvalue()


def svg(figure: Figure, title: str) -> bytes:
    """The picture with its text as text, for light and dark pages."""
    out = io.StringIO()
    figure.savefig(
        out, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Title": visible(title)}
    )
    text = out.getvalue()
    sheet_end = text.index("</style>")
    text = text[:sheet_end] + _dark() + text[sheet_end:]
    return text.replace("'DejaVu Sans'", _FONTS).encode()


def _dark() -> str:
    rules = "".join(
        f'[style*="{name}: {light}"]{{{name}:{dark}!important}}'
        for light, dark in DARK.items()
        for name in ("fill", "stroke")
    )
    # Text has no colour of its own in the file where it is black, the one that INK stands for.
    rules += f'[fill="{FAINT}"]{{fill:{DARK[FAINT]}}}'  # what lies under a hatch
    return f"text{{fill:{INK}}}@media (prefers-color-scheme:dark){{text{{fill:{DARK[INK]}}}{rules}}}"
