"""The pictures of a report: their names, what is said beside them, and their files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftslurm.insight import walltime
from ftslurm.insight.text import count, folded, iso, took
from ftslurm.report import canvas, draw_nodes, draw_time, draw_training
from ftslurm.report.anomaly import OUTLIER
from ftslurm.report.draw_nodes import TITLES
from ftslurm.report.helper import PICTURES
from ftslurm.report.recovery import spread

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ftslurm.report.canvas import Form
    from ftslurm.report.contents import Contents
    from ftslurm.report.helper import Helper


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """The files of a picture."""

    wide: bytes
    narrow: bytes
    png: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One picture. `name` is what its files are called, with the run's id behind it; `alt` tells what it shows."""

    name: str
    heading: str
    caption: str
    alt: str
    drawn: Drawn


@dataclass(frozen=True, slots=True)
class _Kind:
    name: str
    heading: str
    draw: Callable[[Contents, Form], Figure]
    caption: Callable[[Contents], str]
    there: Callable[[Contents], bool]


def pictures(contents: Contents, helper: Helper | None = None) -> Iterator[Picture]:
    """Draw everything that there is something to show of; a helper draws its part of it."""
    captions = {kind.name: kind.caption(contents) for kind in _KINDS if kind.there(contents)}
    alts = {name: _alt(contents, name, caption) for name, caption in captions.items()}
    if helper is not None:
        helper.begin(contents, {name: alt for name, alt in alts.items() if name in PICTURES})
    with canvas.style():
        ours = {name: draw(name, contents, alt) for name, alt in alts.items() if helper is None or name not in PICTURES}
        ours |= helper.drawn() if helper is not None else {}
        for name, caption in captions.items():
            drawn = ours.get(name) or draw(name, contents, alts[name])
            yield Picture(name=name, heading=_BY_NAME[name].heading, caption=caption, alt=alts[name], drawn=drawn)


def _alt(contents: Contents, name: str, caption: str) -> str:
    return f"{_BY_NAME[name].heading} of run {canvas.short(contents.run_id, 80)}. {caption}"


def draw(name: str, contents: Contents, alt: str) -> Drawn:
    """Draw one picture in all forms, in the style of `canvas.style`."""
    kind = _BY_NAME[name]
    wide = kind.draw(contents, canvas.WIDE)
    narrow = kind.draw(contents, canvas.NARROW)
    return Drawn(wide=canvas.svg(wide, alt), narrow=canvas.svg(narrow, alt), png=canvas.png(wide))


# ------------------------------------------------------------------------------------------------------------ captions


def _timeline(contents: Contents) -> str:
    nodes = {each.node for each in contents.stretches}
    excluded = contents.story.excluded
    lost = f" Given up: {folded(excluded)}." if excluded else ""
    return (
        f"{count(len(nodes), 'node')}, {count(contents.story.totals.attempts, 'attempt')},"
        f" {count(len(contents.story.incidents), 'incident')}; it began at {iso(contents.begun)}.{lost}"
    )


def _progress(contents: Contents) -> str:
    told = contents.progress
    last = max((point.step for point in told.points), default=0)
    ideal = told.ideal(contents.until)
    text = f"Step {last:,} was reached after {took(contents.until - contents.begun)} (n = {len(told.points):,} points)."
    if ideal is None or told.rate is None:
        return f"{text} No rate of steps is known, so that there is no ideal to compare with."
    return (
        f"{text} At {told.rate:.3g} steps/s, the median rate within attempts, and without queue, saves or failures it"
        f" would be step {ideal:,.0f}."
    )


def _spent(contents: Contents) -> str:
    share, useful = walltime.ettr(contents.spent), walltime.goodput(contents.spent)
    if share is None or useful is None:
        return "Nothing has been spent yet."
    return (
        f"Every second belongs to one category. Productive are {100 * useful:.1f} % of the wall time, and"
        f" {100 * share:.1f} % of the time in which the run was to be trained (ETTR)."
    )


def _recovery(contents: Contents) -> str:
    incidents = contents.story.incidents
    wholes = spread([each.recovery_s for each in incidents if each.recovery_s is not None])
    detects = spread([each.noticed - each.sign for each in incidents if each.noticed > each.sign])
    text = f"n = {count(len(incidents), 'incident')}"
    if len(incidents) > draw_training.MOST_INCIDENTS:
        text += f", of which the last {draw_training.MOST_INCIDENTS} are shown"
    if wholes:
        low, middle, high = map(took, wholes)
        text += f". From the first sign to the release: median {middle} (10 % to 90 %: {low} to {high})"
    if detects:
        text += f". Silence until it was noticed: median {took(detects[1])}"
    return f"{text}. Restoring counts where it took longer than the launch beside it; + is not over yet."


def _checkpoints(contents: Contents) -> str:
    saved = contents.checkpoints
    durable = [each for each in saved if each.durable is not None]
    text = f"n = {count(len(saved), 'checkpoint')}, {len(durable)} of them on shared storage"
    whole = spread([each.save_s for each in saved if each.save_s is not None])
    return f"{text}; median {took(whole[1])} until whole." if whole else f"{text}."


def _resources(contents: Contents) -> str:
    sampled, grid = contents.samples, contents.grid
    return (
        f"n = {count(sampled.count, 'sample')} of {count(len(grid.nodes), 'node')}, as means over {took(grid.width_s)};"
        " dotted lines are failures."
    )


def _anomalies(contents: Contents) -> str:
    shown, nodes = min(len(contents.grid.nodes), draw_nodes.MOST_ROWS), len(contents.grid.nodes)
    some = f"The {shown} most unusual of {nodes} nodes. " if shown < nodes else f"n = {count(nodes, 'node')}. "
    text = (
        f"{some}How far a node is from the others and from its own past, in robust standard deviations"
        f" (modified z-score; {OUTLIER:g} and more is an outlier). Vermilion: more than usual; blue: less."
    )
    if contents.anomalies:
        worst = contents.anomalies[0]
        value = draw_nodes.quantity(worst.metric, worst.value)
        text += f" Highest: {TITLES[worst.metric]} of {canvas.short(worst.node)} at {value} (z = {worst.score:+.1f})."
    return text


_KINDS = (
    _Kind("run_timeline", "Timeline", draw_time.timeline, _timeline, lambda told: bool(told.entries)),
    _Kind("training_progress", "Progress", draw_training.training_progress, _progress,
          lambda told: bool(told.progress.points)),
    _Kind("time_spent", "Where the time went", draw_time.time_spent, _spent, lambda told: bool(told.spent)),
    _Kind("recovery", "Detection and recovery", draw_training.recovery, _recovery,
          lambda told: bool(told.story.incidents)),
    _Kind("checkpoints", "Checkpoints", draw_training.checkpoints, _checkpoints, lambda told: bool(told.checkpoints)),
    _Kind("system_resources", "System resources", draw_nodes.system_resources, _resources,
          lambda told: bool(told.grid.values)),
    _Kind("anomaly_detection_heatmap", "Anomalies", draw_nodes.anomaly_heatmap, _anomalies,
          lambda told: bool(told.grid.values)),
)  # fmt: skip
_BY_NAME = {kind.name: kind for kind in _KINDS}
