"""How often nodes fail: published rates, and a site's own, learnt from its node ledger and Slurm's accounting.

A rate is in failures per 1,000 node-days, of nodes that are up. The best and the worst published GPU fleet differ by a
factor of seven, so a preset is a guess with a name; where there is anything to learn a rate from, learn it.

What is learnt: failures are Poisson(rate x node-days), the rate is Gamma. The weak prior is that of the rule for
lemons: 1,000 node-days at the typical rate. Node-days are those that the user's own jobs have held, as Slurm's
accounting has them. Failures are the marks that those jobs left in the node ledger, and jobs that Slurm ended with
NODE_FAIL and no mark tells of. Without accounting nobody knows the node-days, and there is no rate.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ftslurm import ledger
from ftslurm.core.lemons import DAY_S, PRIOR_NODE_DAYS, SAME_OUTAGE_S, Mark
from ftslurm.core.pricing import FAILURES_PER_NODE_DAY
from ftslurm.errors import Refused, ServiceUnavailable, TryAgain
from ftslurm.plan.gamma import quantile
from ftslurm.slurm.records import JobState
from ftslurm.slurm.usage import Stay, stays

if TYPE_CHECKING:
    from ftslurm.slurm.client import SlurmClient

DAYS = 180
"""So far back a rate is learnt from: hardware that was replaced since says nothing about tomorrow."""
GIVEN_UP = 0.5
"""The weight from which a mark is a failure; lighter ones are omens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """How often a node fails.

    Attributes:
        per_1000_node_days: the rate itself.
        low: where its 95 % interval begins; None: nobody knows.
        high: where it ends.
        source: where the number is from, in words.
    """

    per_1000_node_days: float
    low: float | None = None
    high: float | None = None
    source: str

    @property
    def per_second(self) -> float:
        """Failures of one node in a second."""
        return self.per_1000_node_days / (1000 * DAY_S)

    def mttf_s(self, nodes: int) -> float:
        """The mean time between failures of a job of so many nodes, in seconds; infinite where nothing fails."""
        return 1 / (nodes * self.per_second) if nodes * self.per_1000_node_days else math.inf


GOOD = Rate(
    per_1000_node_days=2.34, source="good: Meta's RSC-2, 8k A100 over 11 months (Kokolis et al., arXiv 2410.21680)"
)
TYPICAL = Rate(
    per_1000_node_days=3.79,
    source="typical: Llama 3 405B, 419 unexpected stops of 2,048 nodes in 54 days (arXiv 2407.21783, table 5)",
)
BAD = Rate(
    per_1000_node_days=6.50, source="bad: Meta's RSC-1, 16k A100 over 11 months (Kokolis et al., arXiv 2410.21680)"
)
PRESETS = {"good": GOOD, "typical": TYPICAL, "bad": BAD}


@dataclass(frozen=True, slots=True, kw_only=True)
class Prior:
    """What is believed before anything was seen: as if `faults` had come in `node_days`; both are more than 0."""

    faults: float
    node_days: float


WEAK = Prior(faults=FAILURES_PER_NODE_DAY * PRIOR_NODE_DAYS, node_days=PRIOR_NODE_DAYS)


def posterior(faults: float, node_days: float, prior: Prior = WEAK, source: str = "observed") -> Rate:
    """Return the rate after `faults` in `node_days`: the mean of its Gamma posterior and the middle 95 % of it.

    Raises:
        ValueError: a negative number, or a prior that is none.
    """
    if not (0 <= faults < math.inf and 0 <= node_days < math.inf and prior.faults > 0 and prior.node_days > 0):
        raise ValueError(f"{faults:g} failures in {node_days:g} node-days have no rate")
    shape, days = prior.faults + faults, prior.node_days + node_days
    low, high = (1000 * quantile(shape, each) / days for each in (0.025, 0.975))
    return Rate(per_1000_node_days=1000 * shape / days, low=low, high=high, source=source)


@dataclass(frozen=True, slots=True, kw_only=True)
class Learnt:
    """What was learnt: a rate, or None and why not.

    Attributes:
        rate: the posterior; None where there is no accounting to count node-days by.
        faults: failures of nodes that hit the user's jobs.
        node_days: how long those jobs held nodes.
        reason: one sentence with the numbers, or why there is no rate.
    """

    rate: Rate | None
    faults: int = 0
    node_days: float = 0.0
    reason: str


def learnt(client: SlurmClient, folder: Path, *, days: int = DAYS, now: float | None = None) -> Learnt:
    """Return the rate that this user's jobs of the last days have met.

    Args:
        client: asked for accounting.
        folder: the node ledger's.
        days: how far back.
        now: seconds since the epoch; None: the clock's.

    Raises:
        StorageError: the ledger cannot be read.
    """
    try:
        held = stays(client, days)
    except (ServiceUnavailable, Refused, TryAgain) as error:
        return Learnt(rate=None, reason=f"Slurm's accounting does not say how long jobs held nodes: {error}")
    node_days = sum(stay.nodes * stay.elapsed_s for stay in held) / DAY_S
    if not node_days:
        return Learnt(rate=None, reason=f"accounting knows no job of yours that ran in the last {days} days")
    since = (time.time() if now is None else now) - days * DAY_S
    marks = _failures((mark for mark in ledger.read(folder).marks if mark.at >= since), held)
    unmarked = [stay for stay in held if stay.state is JobState.NODE_FAIL and not _told(stay, marks)]
    faults = len(marks) + len(unmarked)
    reason = (
        f"learnt: {faults} failures ({len(marks)} in the node ledger, {len(unmarked)} NODE_FAIL in Slurm's accounting) "
        f"in {node_days:.0f} node-days of your jobs in {days} days, with a prior of {WEAK.node_days:.0f} node-days at "
        f"{1000 * WEAK.faults / WEAK.node_days:.2f}"
    )
    rate = posterior(faults, node_days, source=reason)
    return Learnt(rate=rate, faults=faults, node_days=node_days, reason=reason)


def _failures(marks: Iterable[Mark], held: Sequence[Stay]) -> list[Mark]:
    """The marks of these jobs by which nodes were given up; those of one node within an hour are one failure."""
    ours = frozenset(job_id for stay in held for job_id in stay.job_ids)
    kept: list[Mark] = []
    last: dict[str, float] = {}
    for mark in sorted(marks, key=lambda each: (each.at, each.node)):
        if mark.job in ours and mark.weight >= GIVEN_UP and mark.at - last.get(mark.node, -math.inf) > SAME_OUTAGE_S:
            kept.append(mark)
            last[mark.node] = mark.at
    return kept


def _told(stay: Stay, marks: Sequence[Mark]) -> bool:
    """Whether a mark tells of the failure that ended this stay."""
    start = -math.inf if stay.start is None else stay.start
    end = math.inf if stay.end is None else stay.end + SAME_OUTAGE_S
    return any(mark.job in stay.job_ids and start <= mark.at <= end for mark in marks)
