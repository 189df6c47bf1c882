"""How well a node is: what is measured on it, the rules that judge a reading, and levels with hysteresis.

A reading is one value of one metric, of the node or of one of its devices. A rule says from which value on, after how
many readings in a row, a node has which level, and what follows. A level rises only after the rule's `readings` and
falls only after twice as many, so that a value that swings about its limit does not make the level swing. A reading
without a value (UNKNOWN: the probe could not answer) changes nothing and blames nobody.

A checker that is broken everywhere must not take every node away (NHC issue 161): what is found at the same time on
more than max(1, 5 %) of the nodes says more about the checker, or about something that all nodes share, than about a
node.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from ftslurm.core.diagnosis import Cause
from ftslurm.core.placement import usable as feasible

if TYPE_CHECKING:
    from ftslurm.core.recovery import Policy
    from ftslurm.core.state import Run


class Level(StrEnum):
    """How well a node is."""

    HEALTHY = "healthy"
    WARNING = "warning"
    CRITICAL = "critical"
    FAILED = "failed"

    @property
    def rank(self) -> int:
        """0 for healthy, 3 for failed."""
        return tuple(Level).index(self)


class Consequence(StrEnum):
    """What follows from a rule that holds.

    AVOID: the node is not used at the next relaunch, if enough others remain. EXCLUDE: the node is given up for the
    rest of the run.
    """

    NONE = "none"
    SAY = "say"
    AVOID = "avoid"
    EXCLUDE = "exclude"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """What is measured: its unit, what it means, and the class of failure that it is evidence of."""

    unit: str
    meaning: str
    cause: Cause = Cause.NODE_UNHEALTHY


METRICS: Mapping[str, Metric] = {
    "gpu_missing": Metric(
        unit="", meaning="GPUs that Slurm gave to the job and the driver does not show", cause=Cause.GPU
    ),
    "gpu_lost": Metric(unit="", meaning="1 when NVML says that the GPU has fallen off the bus", cause=Cause.GPU),
    "gpu_xid": Metric(unit="", meaning="the code of an error that the GPU's driver reported (XID)", cause=Cause.GPU),
    "gpu_ecc_uncorrected": Metric(
        unit="errors", meaning="uncorrected memory errors of the GPU since its driver was loaded", cause=Cause.GPU
    ),
    "gpu_ecc_lifetime": Metric(
        unit="errors", meaning="uncorrected memory errors of the GPU in its whole life", cause=Cause.GPU
    ),
    "gpu_remap_failed": Metric(
        unit="", meaning="1 when the GPU could not replace a bad row of its memory", cause=Cause.GPU
    ),
    "gpu_remap_pending": Metric(
        unit="", meaning="1 when the GPU waits for a reset to replace a bad row of its memory", cause=Cause.GPU
    ),
    "gpu_temperature": Metric(unit="C", meaning="temperature of the GPU", cause=Cause.GPU),
    "gpu_thermal_margin": Metric(
        unit="C", meaning="degrees below the temperature from which the GPU slows itself down", cause=Cause.GPU
    ),
    "gpu_memory_used": Metric(unit="%", meaning="share of the GPU's memory that is in use", cause=Cause.GPU),
    "gpu_utilization": Metric(
        unit="%", meaning="share of the last moments in which the GPU computed something", cause=Cause.GPU
    ),
    "gpu_power": Metric(unit="W", meaning="power that the GPU draws", cause=Cause.GPU),
    "compute_wrong": Metric(
        unit="values",
        meaning="wrong, infinite or undefined values in a matrix product of known result",
        cause=Cause.GPU,
    ),
    "memory_kills": Metric(
        unit="kills", meaning="processes of the job that the kernel killed for memory since the last reading"
    ),
    "memory_pressure": Metric(
        unit="%", meaning="share of the last 10 s in which processes of the node waited for memory (PSI, some)"
    ),
    "load_per_core": Metric(unit="", meaning="load average of the last minute, divided by the number of cores"),
    "scratch_free": Metric(unit="%", meaning="free space on the node's scratch", cause=Cause.STORAGE),
    "scratch_inodes_free": Metric(unit="%", meaning="free inodes on the node's scratch", cause=Cause.STORAGE),
    "scratch_write": Metric(unit="s", meaning="time to write and fsync 64 KiB on scratch", cause=Cause.STORAGE),
    "scratch_write_failed": Metric(
        unit="", meaning="1 when a small write to scratch ended in an error", cause=Cause.STORAGE
    ),
    "shared_free": Metric(unit="%", meaning="free space on shared storage", cause=Cause.STORAGE),
    "shared_inodes_free": Metric(unit="%", meaning="free inodes on shared storage", cause=Cause.STORAGE),
    "shared_write": Metric(unit="s", meaning="time to write and fsync 4 KiB on shared storage", cause=Cause.STORAGE),
    "shared_write_failed": Metric(
        unit="", meaning="1 when a small write to shared storage ended in an error", cause=Cause.STORAGE
    ),
    "clock_offset": Metric(
        unit="s", meaning="how far the node's clock is at least off the supervisor's, half the round trip taken off"
    ),
}
"""Every metric there is: the names that the configuration's rules may use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """From which value on a node is how well. `above`: bad when more than `limit`, else when less."""

    metric: str
    limit: float
    above: bool = True
    readings: int = 3
    severity: Level = Level.WARNING
    action: Consequence = Consequence.SAY

    def matches(self, value: float) -> bool:
        """Tell whether a value is on the bad side of the limit."""
        return value > self.limit if self.above else value < self.limit


def _rule(metric: str, limit: float, severity: Level, action: Consequence, readings: int = 3) -> Rule:
    return Rule(metric=metric, limit=limit, severity=severity, action=action, readings=readings)


def _low(metric: str, limit: float, severity: Level, action: Consequence) -> Rule:
    return Rule(metric=metric, limit=limit, above=False, severity=severity, action=action)


DEFAULT_RULES: tuple[Rule, ...] = (
    _rule("gpu_missing", 0, Level.FAILED, Consequence.EXCLUDE, readings=1),
    _rule("gpu_lost", 0, Level.FAILED, Consequence.EXCLUDE, readings=1),
    _rule("gpu_ecc_uncorrected", 0, Level.CRITICAL, Consequence.AVOID, readings=1),
    _rule("gpu_remap_failed", 0, Level.FAILED, Consequence.EXCLUDE, readings=1),
    _rule("gpu_remap_pending", 0, Level.WARNING, Consequence.SAY, readings=1),
    Rule(metric="gpu_thermal_margin", limit=1, above=False, severity=Level.WARNING),
    _rule("compute_wrong", 0, Level.FAILED, Consequence.EXCLUDE, readings=1),
    _rule("memory_pressure", 40, Level.WARNING, Consequence.SAY),
    _rule("load_per_core", 16, Level.WARNING, Consequence.SAY, readings=6),
    _low("scratch_free", 5, Level.WARNING, Consequence.SAY),
    _low("scratch_free", 1, Level.CRITICAL, Consequence.AVOID),
    _low("scratch_inodes_free", 5, Level.WARNING, Consequence.SAY),
    _low("scratch_inodes_free", 1, Level.CRITICAL, Consequence.AVOID),
    _rule("scratch_write", 10, Level.WARNING, Consequence.SAY),
    _rule("scratch_write_failed", 0, Level.CRITICAL, Consequence.AVOID),
    _low("shared_free", 2, Level.WARNING, Consequence.SAY),
    _low("shared_inodes_free", 2, Level.WARNING, Consequence.SAY),
    _rule("shared_write", 10, Level.WARNING, Consequence.SAY),
    _rule("shared_write_failed", 0, Level.WARNING, Consequence.SAY),
    _rule("clock_offset", 1, Level.WARNING, Consequence.SAY),
)
"""What holds where the configuration has no rule for a metric.

A GPU that is gone, that cannot replace bad memory, or that computes wrongly, excludes its node. An uncorrected memory
error needs a reset, so the node is avoided. Full or unwritable scratch is avoided: checkpoints would fail there. Shared
storage is everybody's: it never speaks against a node.
"""


def rules_with(own: Sequence[Rule]) -> tuple[Rule, ...]:
    """Return the rules to use: the user's, and the built-in ones for metrics that the user's do not name."""
    named = {rule.metric for rule in own}
    return (*own, *(rule for rule in DEFAULT_RULES if rule.metric not in named))


# ----------------------------------------------------------------------------------------------------------- readings


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One value, or None where the probe could not say; `detail` is what a person wants to know beside it."""

    metric: str
    value: float | None
    device: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """How one rule stands for one device: whether it holds, and how many readings in a row say otherwise."""

    holds: bool = False
    against: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """The level of one metric of one device has changed."""

    metric: str
    device: str
    level: Level
    action: Consequence
    value: float
    reason: str


Tallies = Mapping[tuple[int, str], Tally]
_WELL = Rule(metric="", limit=0.0, severity=Level.HEALTHY, action=Consequence.NONE)


def digest(rules: Sequence[Rule], tallies: Tallies, readings: Iterable[Reading]) -> tuple[Tallies, tuple[Change, ...]]:
    """Return the tallies after these readings, and which levels they changed."""
    now, changes = dict(tallies), []
    for reading in readings:
        if reading.value is None:
            continue
        mine = [number for number, rule in enumerate(rules) if rule.metric == reading.metric]
        before = _worst(rules, now, mine, reading.device)
        for number in mine:
            key = (number, reading.device)
            now[key] = _count(rules[number], now.get(key, Tally()), reading.value)
        after = _worst(rules, now, mine, reading.device)
        if after is not before:
            changes.append(_change(reading, reading.value, after, before))
    return now, tuple(changes)


def _count(rule: Rule, tally: Tally, value: float) -> Tally:
    """Return the tally after one more reading: `readings` in a row raise a level, twice as many make it fall."""
    if rule.matches(value) is tally.holds:
        return Tally(holds=tally.holds)
    needed = 2 * rule.readings if tally.holds else rule.readings
    against = tally.against + 1
    return Tally(holds=not tally.holds) if against >= needed else Tally(holds=tally.holds, against=against)


def _worst(rules: Sequence[Rule], tallies: Tallies, mine: Sequence[int], device: str) -> Rule:
    """Return the worst rule that holds; of equals the first; `_WELL` where none does."""
    holding = [rules[number] for number in mine if tallies.get((number, device), Tally()).holds]
    return max(holding, key=lambda rule: rule.severity.rank, default=_WELL)


def _change(reading: Reading, value: float, after: Rule, before: Rule) -> Change:
    return Change(
        metric=reading.metric,
        device=reading.device,
        level=after.severity,
        action=after.action,
        value=value,
        reason=_sentence(reading, value, after, before),
    )


def _sentence(reading: Reading, value: float, after: Rule, before: Rule) -> str:
    what = f"{reading.metric} of {reading.device}" if reading.device else reading.metric
    said = f"{what} is {quantity(reading.metric, value)}" + (f" ({reading.detail})" if reading.detail else "")
    rule = before if after is _WELL else after
    side = "above" if rule.above else "below"
    limit = quantity(rule.metric, rule.limit)
    if after is _WELL:
        return f"{said}: no longer {side} {limit}, for {2 * rule.readings} readings"
    times = f", for {rule.readings} readings" if rule.readings > 1 else ""
    return f"{said}, {side} {limit}{times}"


def quantity(metric: str, value: float) -> str:
    """Return a value with its unit."""
    unit = METRICS[metric].unit
    number = f"{value:.4g}"
    return number + unit if unit == "%" else f"{number} {unit}".strip()


# -------------------------------------------------------------------------------------------------------- what follows


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """What is wrong with a node, since when (the supervisor's monotonic clock), and what follows."""

    metric: str
    device: str = ""
    level: Level
    action: Consequence
    reason: str
    mono: float


Health = Mapping[str, tuple[Condition, ...]]

INCIDENT_S = 600.0
CAP_SHARE = 20


def level_of(conditions: Sequence[Condition]) -> Level:
    """Return the level of a node with these conditions: that of the worst one."""
    return max((each.level for each in conditions), key=lambda level: level.rank, default=Level.HEALTHY)


def cap(nodes: int) -> int:
    """Return on how many of the nodes a metric may be bad at the same time and still speak against each of them."""
    return max(1, nodes // CAP_SHARE)


def crowd(health: Health, nodes: Sequence[str], one: Condition) -> tuple[str, ...]:
    """Return the nodes where the same metric is as bad as to act on, since about the same time."""
    return tuple(
        node
        for node in nodes
        if any(
            each.metric == one.metric and acts(each) and abs(each.mono - one.mono) <= INCIDENT_S
            for each in health.get(node, ())
        )
    )


def acts(condition: Condition) -> bool:
    """Tell whether more than words follows from a condition."""
    return condition.action in (Consequence.AVOID, Consequence.EXCLUDE) or (
        condition.level is Level.FAILED and condition.action is not Consequence.NONE
    )


def fit(usable: Sequence[str], health: Health, nodes: Sequence[str], least: int) -> tuple[str, ...]:
    """Return the usable nodes without those that are too ill, the worst left out first, while `least` remain.

    Args:
        usable: the nodes to choose from.
        health: what is wrong with which node.
        nodes: all nodes of the allocation: what ails more of them than `cap` allows speaks against none.
        least: how many have to remain.
    """
    ill = [
        (max(each.level.rank for each in against), node)
        for node in usable
        if (
            against := [
                each
                for each in health.get(node, ())
                if acts(each) and len(crowd(health, nodes, each)) <= cap(len(nodes))
            ]
        )
    ]
    spare = max(len(usable) - least, 0)
    out = {node for _, node in sorted(ill, key=lambda pair: -pair[0])[:spare]}
    return tuple(node for node in usable if node not in out)


def fit_nodes(run: Run, policy: Policy) -> tuple[str, ...]:
    """Return the nodes of a run for its next attempt: the usable ones that are well, or more where they are too few."""
    least = max(policy.min_nodes, 1)
    enough = (
        count
        for count in range(least, len(run.usable) + 1)
        if feasible(run.usable[:count], policy.ranks_per_node, policy.world_multiple_of, policy.world_sizes) == count
    )
    return fit(run.usable, run.health, run.nodes, next(enough, len(run.usable)))
