"""What came of a simulated run: where its time went, and what was done about its failures."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from ftslurm.core.recovery import Kind


class Loss(StrEnum):
    """What wall time is spent on; every second is one of these."""

    PRODUCTIVE = "productive"
    REDONE = "redone"
    SAVING = "saving"
    DETECTING = "detecting"
    DIAGNOSING = "diagnosing"
    RESTARTING = "restarting"
    WAITING = "waiting"


def _nothing() -> dict[Loss, float]:
    return dict.fromkeys(Loss, 0.0)


def _no_plans() -> dict[Kind, int]:
    return dict.fromkeys(Kind, 0)


@dataclass(slots=True, kw_only=True)
class Outcome:
    """One simulated run.

    Attributes:
        wall_s: the time that was simulated; `spent_s` sums to it.
        spent_s: seconds by what they were spent on. Work is REDONE until the run is where it had been before.
        work_s: what was trained for the first time, in seconds of the full world: a smaller world does less a second.
        lost_work_s: work that was rolled back, in the same unit.
        failures: faults and false alarms that stopped the training or a restart.
        plans: how often the core chose which plan; ABORT: the run gave up, and somebody resumed it.
        right_exclusions: broken nodes that were given up.
        wrong_exclusions: healthy ones.
        spares_lost: nodes that failed while they were held idle.
        saves: checkpoints that were finished.
    """

    wall_s: float
    spent_s: dict[Loss, float] = field(default_factory=_nothing)
    work_s: float = 0.0
    lost_work_s: float = 0.0
    failures: int = 0
    plans: dict[Kind, int] = field(default_factory=_no_plans)
    right_exclusions: int = 0
    wrong_exclusions: int = 0
    spares_lost: int = 0
    saves: int = 0

    @property
    def ettr(self) -> float:
        """The effective training time ratio over the whole run: the share of the time that was productive."""
        return self.spent_s[Loss.PRODUCTIVE] / self.wall_s

    @property
    def goodput(self) -> float:
        """The work that was done, as a share of what the full world does without any loss."""
        return self.work_s / self.wall_s

    @property
    def mttf_s(self) -> float:
        """The mean time between failures; infinite where there was none."""
        return self.wall_s / self.failures if self.failures else float("inf")
