"""How often nodes fail: published rates, and a site's own, learnt from its node ledger and Slurm's accounting.

A rate is in failures per 1,000 node-days, of nodes that are up. The best and the worst published GPU fleet differ by a
factor of seven (reliability of a site is its own), so a preset is a guess with a name; learn the rate where there is
anything to learn it from.
"""

from __future__ import annotations

from dataclasses import dataclass

from ftslurm.core.lemons import DAY_S


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
        return 1 / (nodes * self.per_second) if nodes * self.per_1000_node_days else float("inf")


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
    """What is believed before anything was seen: as if `faults` had come in `node_days`."""

    faults: float
    node_days: float


def posterior(faults: float, node_days: float, prior: Prior | None = None, source: str = "observed") -> Rate:
    """Return the rate after `faults` in `node_days`: the posterior mean and its 95 % interval (Gamma-Poisson)."""
    raise NotImplementedError


@dataclass(frozen=True, slots=True, kw_only=True)
class Learnt:
    """What was learnt: a rate, or None and why not.

    Attributes:
        rate: the posterior; None where there is no accounting to count node-days by.
        faults: outages of nodes that hit the user's jobs.
        node_days: how long those jobs held nodes.
        reason: one sentence with the numbers, or why there is no rate.
    """

    rate: Rate | None
    faults: int = 0
    node_days: float = 0.0
    reason: str
