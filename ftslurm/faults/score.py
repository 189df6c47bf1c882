"""The score of a campaign: how much was noticed, how rightly, how fast, and what it cost. Pure.

- recall: of the injections that have to be noticed, those that were.
- right: of all injections, those of which the right thing was said; of those that are nobody's business: nothing.
- precision of a fault: of everything that runs said and that may rightly be said of this fault, the part that an
  injection explains. It is not known where nothing of the kind was said.
- wrong exclusions: nodes that were given up although nothing was done to them that costs a node.

A score survives a round trip through JSON: reports of past campaigns and baselines are read from it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from ftslurm.core.strictjson import fields_of
from ftslurm.errors import DataDamaged
from ftslurm.faults import matching
from ftslurm.faults.matching import Alarm, Case, Finding, Weights

if TYPE_CHECKING:
    from ftslurm.faults.fault import Fault

SCHEMA = 1
STAGES = ("detect", "decide", "stop", "launch", "restore", "released", "first_step")
QUANTILES = (50, 90, 99)
SLACK = 0.02
"""Shares may be so much worse than the baseline's: one injection of fifty."""

SLOWER = 1.5
SLOWER_S = 2.0
"""A median may be half as long again, or two seconds longer, before it is a regression."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One fault. Shares are None where there is nothing to divide by."""

    fault: str
    injected: int
    due: int
    detected: int
    right: int
    precision: float | None

    @property
    def recall(self) -> float | None:
        """Of those that have to be noticed."""
        return self.detected / self.due if self.due else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A whole campaign.

    Attributes:
        name, began: which campaign, and when it began (epoch seconds).
        runs, finished: how many trainings there were, and how many came to their end.
        rows: by fault.
        confusion: fault -> what was said -> how often.
        wrong_exclusions: `node (run)`.
        times: part of the recovery -> p50, p90, p99 in seconds, and how many there were.
        lost_s, lost_steps: training that was done again, in all.
        weights: equal, different, unknown -> how many runs.
    """

    name: str
    began: float
    runs: int = 0
    finished: int = 0
    rows: tuple[Row, ...] = ()
    confusion: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    wrong_exclusions: tuple[str, ...] = ()
    times: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    lost_s: float = 0.0
    lost_steps: int = 0
    weights: Mapping[str, int] = field(default_factory=dict)

    @property
    def injected(self) -> int:
        """All injections."""
        return sum(row.injected for row in self.rows)

    @property
    def recall(self) -> float | None:
        """Of all that had to be noticed."""
        return _share(sum(row.detected for row in self.rows), sum(row.due for row in self.rows))

    @property
    def right(self) -> float | None:
        """Of all injections, those of which the right thing was said."""
        return _share(sum(row.right for row in self.rows), self.injected)

    def plain(self) -> dict[str, Any]:
        """For JSON; the shares stand beside what they are made of."""
        rows = [{**asdict(row), "recall": row.recall} for row in self.rows]
        found = {**asdict(self), "rows": rows, "wrong_exclusions": list(self.wrong_exclusions)}
        return {"schema": SCHEMA, "injected": self.injected, "recall": self.recall, "right": self.right, **found}


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def score(name: str, began: float, cases: Sequence[Case], catalogue: Mapping[str, Fault]) -> Score:
    """The score of these runs."""
    found = [each for case in cases for each in matching.findings(case, catalogue)]
    heard = [each for case in cases for each in matching.alarms(case, catalogue)]
    wrong = [f"{node} ({case.run})" for case in cases for node in matching.wrong_exclusions(case, catalogue)]
    confusion: dict[str, Counter[str]] = {}
    for each in found:
        confusion.setdefault(each.fault, Counter())[each.said] += 1
    names = sorted(confusion)
    return Score(
        name=name,
        began=began,
        runs=len(cases),
        finished=sum(case.ended == "finished" for case in cases),
        rows=tuple(_row(catalogue[fault], found, heard) for fault in names),
        confusion={fault: dict(confusion[fault]) for fault in names},
        wrong_exclusions=tuple(wrong),
        times=_times(found),
        lost_s=round(sum(each.lost_s or 0.0 for each in found), 3),
        lost_steps=sum(each.lost_steps or 0 for each in found),
        weights={word.value: sum(case.weights is word for case in cases) for word in Weights},
    )


def _row(fault: Fault, found: Sequence[Finding], heard: Sequence[Alarm]) -> Row:
    mine = [each for each in found if each.fault == fault.name]
    alike = [alarm for alarm in heard if alarm.slug in fault.causes]
    return Row(
        fault=fault.name,
        injected=len(mine),
        due=sum(each.due for each in mine),
        detected=sum(each.due and each.detected for each in mine),
        right=sum(each.right for each in mine),
        precision=_share(sum(alarm.explained for alarm in alike), len(alike)),
    )


def _times(found: Sequence[Finding]) -> dict[str, dict[str, float]]:
    times = {}
    for stage in STAGES:
        values = sorted(each.times[stage] for each in found if each.due and stage in each.times)
        if values:
            quantiles = {f"p{share}": round(quantile(values, share), 3) for share in QUANTILES}
            times[stage] = {"count": len(values), **quantiles}
    return times


def quantile(ordered: Sequence[float], share: int) -> float:
    """The smallest value that `share` percent of all are not above (the nearest rank); there is at least one value."""
    return ordered[max(-(-len(ordered) * share // 100), 1) - 1]


def regressions(now: Score, before: Score) -> tuple[str, ...]:
    """What has become worse since the baseline, one sentence for each; empty: nothing."""
    found = []
    for what, new, old in (("recall", now.recall, before.recall), ("right class", now.right, before.right)):
        if new is not None and old is not None and new < old - SLACK:
            found.append(f"{what} is {new:.1%}, was {old:.1%}")
    if len(now.wrong_exclusions) > len(before.wrong_exclusions):
        found.append(f"{len(now.wrong_exclusions)} wrong exclusions, was {len(before.wrong_exclusions)}")
    for what, new_count, old_count in (
        ("runs with other weights than undisturbed", _other(now), _other(before)),
        ("runs that did not finish", now.runs - now.finished, before.runs - before.finished),
    ):
        if new_count > old_count:
            found.append(f"{new_count} {what}, was {old_count}")
    for stage, old_times in before.times.items():
        new_s, old_s = now.times.get(stage, {}).get("p50"), old_times.get("p50")
        if new_s is not None and old_s is not None and new_s > max(SLOWER * old_s, old_s + SLOWER_S):
            found.append(f"{stage} takes {new_s:.1f} s (median), was {old_s:.1f} s")
    return tuple(found)


def _other(found: Score) -> int:
    return found.weights.get(Weights.DIFFERENT.value, 0)


_ROW = ("fault", "injected", "due", "detected", "right", "precision", "recall")
_OWN = ("name", "began", "runs", "finished", "confusion", "times", "lost_s", "lost_steps", "weights")


def from_plain(data: Any) -> Score:  # noqa: ANN401 - JSON
    """A score from what `plain` returned.

    Raises:
        DataDamaged: it is none, or of a later release.
    """
    keys = ("schema", "injected", "recall", "right", "rows", "wrong_exclusions", *_OWN)
    values = fields_of(data, keys, "score of a campaign")
    if values["schema"] != SCHEMA:
        raise DataDamaged(f"a score of schema {values['schema']!r}", hint="written by another release of ftslurm?")
    try:
        rows = tuple(
            Row(**{key: value for key, value in fields_of(row, _ROW, "row of a score").items() if key != "recall"})
            for row in values["rows"]
        )
        wrong = tuple(map(str, values["wrong_exclusions"]))
        return Score(rows=rows, wrong_exclusions=wrong, **{key: values[key] for key in _OWN})
    except TypeError as error:
        raise DataDamaged(f"not the score of a campaign: {error}") from error
