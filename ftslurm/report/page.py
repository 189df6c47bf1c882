"""The page: one file of HTML that needs nothing else, from no other place, and runs no script.

Pictures are in it as data, two of each: the browser takes the one that fits the width. Jinja escapes every value, and
what would turn the direction of writing or act on a terminal is shown as an escape before (`insight.text`). A policy in
the page forbids it to load anything or to run anything, whatever a name may hold.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ftslurm import paths
from ftslurm.insight import walltime
from ftslurm.insight.palette import CATEGORIES
from ftslurm.insight.text import count, folded, iso, took, visible, visible_lines
from ftslurm.report.draw_nodes import TITLES, quantity

if TYPE_CHECKING:
    from ftslurm.insight.incident import Incident
    from ftslurm.report.contents import Contents
    from ftslurm.report.pictures import Picture

TEMPLATE = "report/report.html.j2"
MOST_ROWS = 200
"""Rows of a table on the page; the CSV files have all."""


def page(contents: Contents, shown: Sequence[Picture], files: Sequence[str], remark: str = "") -> str:
    """Return the page; `files` lie beside it."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(paths.templates()),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"seen": _seen, "took": _took, "iso": _iso, "data": _data, "lines": _lines}
    story = contents.story
    remarks = [*contents.remarks, *([remark] if remark else [])]
    return environment.get_template(TEMPLATE).render(
        contents=contents,
        story=story,
        remarks=remarks,
        facts=_facts(contents),
        pictures=shown,
        spent=_spent(contents),
        incidents=story.incidents[-MOST_ROWS:],
        causes=_causes,
        folded=folded,
        checkpoints=contents.checkpoints[-MOST_ROWS:],
        most=MOST_ROWS,
        quantity=quantity,
        titles=TITLES,
        files=files,
    )


def _facts(contents: Contents) -> list[tuple[str, str]]:
    """What stands at the top, large."""
    story = contents.story
    useful = walltime.goodput(contents.spent) if contents.spent else None
    last = max((point.step for point in contents.progress.points), default=None)
    recovered = sum(each.released is not None for each in story.incidents)
    return [
        ("phase", str(story.phase)),
        ("wall time", took(contents.until - contents.begun)),
        ("productive", "unknown" if useful is None else f"{100 * useful:.1f} %"),
        ("last step", "unknown" if last is None else f"{last:,}"),
        ("recovered incidents", f"{recovered} of {len(story.incidents)}"),
        ("lost work", took(story.totals.lost_s)),
        ("checkpoints", f"{len(contents.checkpoints):,}"),
        ("given up", folded(story.excluded) if story.excluded else "no node"),
    ]


def _spent(contents: Contents) -> list[tuple[str, str, str, float]]:
    whole = sum(contents.spent.values()) or 1.0
    return [(name, CATEGORIES[name], took(s), 100 * s / whole) for name, s in contents.spent.items()]


def _causes(incident: Incident) -> str:
    """What an incident was about, in a few words."""
    said = [f"{each.cause} ({each.where})" if each.where else str(each.cause) for each in incident.judgements]
    return ", ".join(said[:2]) + (f" and {count(len(said) - 2, 'more')}" if len(said) > 2 else "") or "no verdict"


def _seen(value: object) -> str:
    return visible(str(value))


def _lines(text: str) -> str:
    return "\n".join(visible_lines(text))


def _took(seconds: float | None) -> str:
    return "-" if seconds is None else took(seconds)


def _iso(t: float | None) -> str:
    return iso(t) or "-"


def _data(picture: bytes) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(picture).decode()}"
