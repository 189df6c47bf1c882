"""The samples of a run's nodes, read from what their agents wrote and laid on one grid of time.

Agents write beside one another, are killed in the middle of a line, and stop for a while when shared storage hangs:
what cannot be read is counted and left out. A long run of many nodes has more lines than a picture has points, so that
of large files only every so many lines are read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftslurm.errors import StorageError
from ftslurm.runtime.resources import RESOURCES, Resource

if TYPE_CHECKING:
    from ftslurm.paths import RunPaths

MOST_LINES = 60_000
"""Lines that are read in all."""
MOST_STEPS = 1e15
"""No training has more."""
MOST_DIGITS = 7
"""Of the number of a rank."""
SKEW_S = 600.0
"""How far the clocks of nodes may differ, and how long agents may outlive the run."""
LINE = 300
"""About how many bytes a line has."""

METRICS: Mapping[str, Resource] = {
    **RESOURCES,
    "gpu_utilization": Resource(
        unit="%", meaning="share of the time in which the node's GPUs compute, mean", grain=2.0
    ),
    "gpu_memory_used": Resource(unit="%", meaning="share of the GPUs' memory that is in use, mean", grain=1.0),
    "gpu_temperature": Resource(unit="C", meaning="temperature of the node's hottest GPU", grain=2.0),
    "gpu_power": Resource(unit="W", meaning="power that the node's GPUs draw, sum", grain=10.0),
    "step_rate": Resource(unit="steps/s", meaning="training steps a second of the node's slowest rank", grain=0.01),
}
"""Everything that is shown of nodes, by name."""
_MOST = 1e300


def _mean(values: Sequence[float]) -> float:
    """Of a few values: `fmean` takes five times as long."""
    return sum(values) / len(values)


_GPUS: Mapping[str, Callable[[Sequence[float]], float]] = {
    "gpu_utilization": _mean,
    "gpu_memory_used": _mean,
    "gpu_temperature": max,
    "gpu_power": sum,
}

Row = Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Sample:
    """What one node told at one moment (epoch seconds). `steps` are those of the ranks of `attempt`."""

    t: float
    values: Mapping[str, float]
    attempt: int | None = None
    steps: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Samples:
    """All samples by node, in order of time; `missed` could not be written, `unreadable` lines could not be read."""

    by_node: Mapping[str, Sequence[Sample]] = field(default_factory=dict)
    missed: int = 0
    unreadable: int = 0

    @property
    def count(self) -> int:
        """How many there are."""
        return sum(map(len, self.by_node.values()))


def read(paths: RunPaths, start: float, end: float) -> Samples:
    """Return the samples of a run from `start` to `end`; what claims to be of another time counts as unreadable.

    Raises:
        StorageError: a file is there and cannot be read.
    """
    files = sorted(paths.samples.glob("*.*.jsonl"))
    total = sum(path.stat().st_size for path in files)
    every = max(math.ceil(total / LINE / MOST_LINES), 1)
    found: dict[str, list[Sample]] = {}
    missed = unreadable = 0
    for path in files:
        node = path.name.rsplit(".", 2)[0]
        for record in _records(path, every):
            sample = _sample(record)
            if sample is None or not start - SKEW_S <= sample.t <= end + SKEW_S:
                unreadable += 1
                continue
            found.setdefault(node, []).append(sample)
            missed += _count(record.get("missed"))
    by_node = {node: _with_rates(sorted(each, key=lambda one: one.t)) for node, each in found.items()}
    return Samples(by_node, missed, unreadable)


def _records(path: Path, every: int) -> Iterator[dict[str, Any]]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error
    # What stands behind the last newline is being written, or was never finished.
    for line in data.split(b"\n")[:-1][::every]:
        try:
            record = json.loads(line)
        except ValueError:
            record = {}
        yield record if isinstance(record, dict) else {}


def _number(value: object) -> float | None:
    """A number that can be reckoned with: JSON also has infinities, integers of any length, and truths."""
    return float(value) if (type(value) is float or type(value) is int) and -_MOST < value < _MOST else None


def _count(value: object) -> int:
    number = _number(value)
    return int(number) if number is not None and number > 0 else 0


def _sample(record: Mapping[str, Any]) -> Sample | None:
    t = _number(record.get("t"))
    if t is None or t <= 0:
        return None
    values = {name: number for name in RESOURCES if (number := _number(record.get(name))) is not None}
    gpus, attempt, said = (record.get(name) for name in ("gpus", "attempt", "steps"))
    if isinstance(gpus, dict):
        values |= _joined(gpus)
    steps = {
        int(rank): int(number)
        for rank, step in (said.items() if isinstance(said, dict) else ())
        if len(rank) <= MOST_DIGITS and rank.isascii() and rank.isdecimal()
        if (number := _number(step)) is not None and 0 <= number < MOST_STEPS
    }
    return Sample(t, values, attempt if isinstance(attempt, int) else None, steps)


def _joined(gpus: Mapping[str, Any]) -> dict[str, float]:
    """One value for all GPUs of a node."""
    found: dict[str, list[float]] = {}
    for key, value in gpus.items():
        number, name = _number(value), key.partition("/")[0]
        if number is not None and name in _GPUS:
            found.setdefault(name, []).append(number)
    return {name: _GPUS[name](each) for name, each in found.items()}


def _with_rates(samples: list[Sample]) -> list[Sample]:
    """The samples with the steps a second of the slowest rank since the one before."""
    told = samples[:1]
    for before, now in pairwise(samples):
        known = before.steps if before.attempt == now.attempt and now.t > before.t else {}
        gain = min((step - known[rank] for rank, step in now.steps.items() if rank in known), default=-1)
        if gain >= 0:
            rate = gain / (now.t - before.t)
            told.append(Sample(now.t, {**now.values, "step_rate": rate}, now.attempt, now.steps))
        else:
            told.append(now)
    return told


# ---------------------------------------------------------------------------------------------------------------- grid


@dataclass(frozen=True, slots=True)
class Grid:
    """Means of every metric, of every node, in stretches of time of one length; None where there is no sample."""

    start: float
    width_s: float
    bins: int
    values: Mapping[str, Mapping[str, Row]]

    @property
    def nodes(self) -> tuple[str, ...]:
        """All nodes that have a value of anything."""
        return tuple(dict.fromkeys(node for rows in self.values.values() for node in rows))


def grid(samples: Samples, start: float, end: float, most: int = 120) -> Grid:
    """Lay the samples on a grid of at most so many columns, wide enough for a sample in each."""
    pauses = sorted(
        later.t - sooner.t
        for each in samples.by_node.values()
        for sooner, later in pairwise(each)
        if later.t > sooner.t
    )
    usual_s = pauses[len(pauses) // 2] if pauses else 5.0
    span_s = max(end - start, usual_s)
    bins = max(min(most, int(span_s / (1.2 * usual_s))), 1)
    width_s = span_s / bins
    rows: dict[str, dict[str, Row]] = {name: {} for name in METRICS}
    for node, mine in sorted(samples.by_node.items()):
        columns: list[list[Mapping[str, float]]] = [[] for _ in range(bins)]
        for sample in mine:
            place = (sample.t - start) / width_s
            # The last sample stands on the edge of the last column, and a clock may be a little behind.
            if -1 < place <= bins:
                columns[min(max(int(place), 0), bins - 1)].append(sample.values)
        for name in METRICS:
            told = [[values[name] for values in column if name in values] for column in columns]
            row = [_mean(values) if values else None for values in told]
            if any(told):
                rows[name][node] = row
    return Grid(start, width_s, bins, {name: each for name, each in rows.items() if each})
