"""Which node behaved unlike the others, and unlike itself before: a robust z-score of every metric.

    z = 0.6745 (x - median) / max(b MAD, 0.6745 grain)

This is the modified z-score of Iglewicz and Hoaglin ("How to Detect and Handle Outliers", ASQC 1993, section 3.3),
who call 3.5 and more an outlier: median and median absolute deviation do not move with the outliers that they are to
show. `grain` is the least difference of the metric that means anything, so that a metric that hardly moves makes no
noise; b makes up for the MAD being too small on average in small samples (Croux and Rousseeuw, "Time-Efficient
Algorithms for Two Highly Robust Estimators of Scale", COMPSTAT 1992).

It is taken twice: against all nodes at the same time (three at least; their MAD counts as no smaller than it usually
is in this run, because among few nodes some are alike by chance), and against all that the node itself showed before
(eight values at least). Where both can be told, the one of smaller size counts, and 0 where they point to
different sides: a node that always differs, such as the batch host, is no anomaly, and neither is what all nodes do at
the same time, such as a save. Where there are too few nodes, only the node's own past counts; at the beginning of a run
only the other nodes do.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from ftslurm.report.samples import METRICS, Grid, Row

TO_SIGMA = 0.6745
OUTLIER = 3.5
PEERS, PAST = 3, 8
_SMALL = {2: 1.196, 3: 1.495, 4: 1.363, 5: 1.206, 6: 1.200, 7: 1.140, 8: 1.129, 9: 1.107}


@dataclass(frozen=True, slots=True)
class Anomaly:
    """The highest score of a node in one metric: when (epoch seconds) and how far off, with its sign."""

    node: str
    metric: str
    t: float
    score: float
    value: float


def spread(reference: Sequence[float]) -> float:
    """Return the MAD, corrected for the size of the sample."""
    number, middle = len(reference), median(reference)
    correction = _SMALL.get(number, number / (number - 0.8))
    return correction * median(abs(each - middle) for each in reference)


def score(value: float, reference: Sequence[float], least: float) -> float:
    """Return how far a value is from a reference, in robust standard deviations; the MAD counts as `least` at least."""
    return TO_SIGMA * (value - median(reference)) / max(spread(reference), least)


def joined(peers: float | None, past: float | None) -> float | None:
    """Return the score that counts of the one against other nodes and the one against the node's own past."""
    if peers is None or past is None:
        return past if peers is None else peers
    if peers * past <= 0:
        return 0.0
    return math.copysign(min(abs(peers), abs(past)), peers)


def scores(grid: Grid) -> dict[str, dict[str, list[float | None]]]:
    """Return the score of every metric, node and column; None where there is no value, or nothing to compare with."""
    found = {}
    for metric, rows in grid.values.items():
        least = TO_SIGMA * METRICS[metric].grain
        peers = [_known(row[column] for row in rows.values()) for column in range(grid.bins)]
        told = [spread(values) for values in peers if len(values) >= PEERS]
        usual = max(median(told), least) if told else least
        found[metric] = {node: _row(row, peers, usual, least) for node, row in rows.items()}
    return found


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _row(row: Row, peers: Sequence[Sequence[float]], usual: float, least: float) -> list[float | None]:
    past: list[float] = []
    found: list[float | None] = []
    for value, others in zip(row, peers, strict=True):
        if value is None:
            found.append(None)
            continue
        against_peers = score(value, others, usual) if len(others) >= PEERS else None
        # Most values are nothing unusual among the others: then the past is not asked, which costs most.
        asked = len(past) >= PAST and (against_peers is None or abs(against_peers) > 1)
        found.append(joined(against_peers, score(value, past, least) if asked else None))
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
