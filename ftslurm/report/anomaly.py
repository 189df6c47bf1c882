"""Which node behaved unlike the others, and unlike itself before: a robust z-score of every metric.

    z = 0.6745 (x - median) / max(MAD, 0.6745 grain)

This is the modified z-score of Iglewicz and Hoaglin ("How to Detect and Handle Outliers", ASQC 1993, section 3.3), who
call 3.5 and more an outlier: median and median absolute deviation do not move with the outliers that they are to show.
`grain` is the least difference of the metric that means anything, so that a metric that hardly moves makes no noise.

It is taken twice: against all nodes at the same time (three at least), and against all that the node itself showed
before (eight values at least). Where both can be told, the one of smaller size counts, and 0 where they point to
different sides: a node that always differs, such as the batch host, is no anomaly, and neither is what all nodes do at
the same time, such as a save. Where there are too few nodes, only the node's own past counts; at the beginning of a run
only the other nodes do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from ftslurm.report.samples import METRICS, Grid

TO_SIGMA = 0.6745
OUTLIER = 3.5
PEERS, PAST = 3, 8

Row = Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Anomaly:
    """The highest score of a node in one metric: when (epoch seconds) and how far off, with its sign."""

    node: str
    metric: str
    t: float
    score: float
    value: float


def score(value: float, reference: Sequence[float], grain: float) -> float:
    """Return how far a value is from a reference, in robust standard deviations."""
    middle = median(reference)
    spread = median(abs(each - middle) for each in reference)
    return TO_SIGMA * (value - middle) / max(spread, TO_SIGMA * grain)


def joined(peers: float | None, past: float | None) -> float | None:
    """Return the score that counts of the one against other nodes and the one against the node's own past."""
    if peers is None or past is None:
        return past if peers is None else peers
    if peers * past <= 0:
        return 0.0
    return math.copysign(min(abs(peers), abs(past)), peers)


def scores(grid: Grid) -> dict[str, dict[str, list[float | None]]]:
    """Return the score of every metric, node and column; None where there is no value, or nothing to compare with."""
    return {
        metric: {node: _row(node, rows, METRICS[metric].grain) for node in rows} for metric, rows in grid.values.items()
    }


def _row(node: str, rows: Mapping[str, Row], grain: float) -> list[float | None]:
    past: list[float] = []
    found: list[float | None] = []
    for column, value in enumerate(rows[node]):
        if value is None:
            found.append(None)
            continue
        others = [other for row in rows.values() if (other := row[column]) is not None]
        against_peers = score(value, others, grain) if len(others) >= PEERS else None
        # Most values are nothing unusual among the others: then the past is not asked, which costs most.
        asked = len(past) >= PAST and (against_peers is None or abs(against_peers) > 1)
        found.append(joined(against_peers, score(value, past, grain) if asked else None))
        past.append(value)
    return found


def worst(grid: Grid, scored: Mapping[str, Mapping[str, Row]], most: int = 20) -> list[Anomaly]:
    """Return the outliers, one for each node and metric at its highest, the highest first."""
    found = []
    for metric, rows in scored.items():
        for node, row in rows.items():
            column, high = max(enumerate(row), key=lambda pair: abs(pair[1] or 0.0), default=(0, None))
            value = grid.values[metric][node][column] if high is not None else None
            if high is not None and value is not None and abs(high) >= OUTLIER:
                t = grid.start + (column + 0.5) * grid.width_s
                found.append(Anomaly(node, metric, t, high, value))
    return sorted(found, key=lambda each: (-abs(each.score), each.node, each.metric))[:most]
