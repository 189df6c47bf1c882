"""The parts of every recovery, one after the other, so that they sum up to the whole of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import quantiles
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ftslurm.insight.incident import Incident

PARTS: Mapping[str, str] = {
    "detect": "silence until it was noticed",
    "decide": "witnesses are asked, evidence is weighed",
    "stop": "until nothing of the attempt was left",
    "leave": "the job is given back to Slurm",
    "queue": "the job waits",
    "plan": "until the last launch, failed ones included",
    "launch": "until all ranks were there",
    "restore": "the checkpoint is brought, after the ranks were there",
    "release": "until the ranks began",
}
"""What a recovery consists of, in order."""


def parts(incident: Incident) -> dict[str, float]:
    """Return the seconds of each part; what is not known belongs to the next one that is.

    A launch and its restore run side by side: `restore` is the time by which it took longer.
    """
    there = max([t for t in (incident.mustered, incident.restored) if t is not None], default=None)
    ends = {
        "detect": incident.noticed,
        "decide": incident.decided,
        "stop": incident.stopped,
        "leave": incident.left,
        "queue": incident.back,
        "plan": incident.launched,
        "launch": incident.mustered,
        "restore": there,
        "release": incident.released,
    }
    found, now = {}, incident.sign
    for name, end in ends.items():
        if end is not None and end > now:
            found[name], now = end - now, end
    return found


def spread(values: Sequence[float]) -> tuple[float, float, float] | None:
    """Return the 10th, 50th and 90th percentile; None without values."""
    if len(values) < 2:
        return (values[0],) * 3 if values else None
    cuts = quantiles(values, n=10, method="inclusive")
    return cuts[0], cuts[4], cuts[8]
