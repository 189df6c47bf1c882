"""The score of campaigns as one HTML file: tables and pictures, no script, nothing from elsewhere, all escaped."""

from __future__ import annotations

from collections.abc import Sequence

from ftslurm import paths
from ftslurm.faults import reporting
from ftslurm.faults.pictures import pictures
from ftslurm.faults.score import Score
from ftslurm.insight.text import visible

TEMPLATE = "campaign.html.j2"


def page(found: Score, past: Sequence[Score], worse: Sequence[str] = ()) -> str:
    """The page.

    Args:
        found: the score.
        past: campaigns of the same name, oldest first, this one among them.
        worse: what has become worse since the baseline.

    Raises:
        UsageError: matplotlib is not installed.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(paths.templates()), undefined=jinja2.StrictUndefined, autoescape=True,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    tables = [
        ("Faults", reporting.faults(found)),
        ("What was said of which fault", reporting.confusion(found)),
        ("Times", reporting.times(found)),
    ]
    if len(past) > 1:
        tables.append(("Campaigns of this name", reporting.trend(past)))
    return environment.get_template(TEMPLATE).render(
        name=visible(found.name),
        sentences=reporting.sentences(found),
        worse=[visible(each) for each in worse],
        tables=tables,
        pictures=pictures(found, past),
    )
