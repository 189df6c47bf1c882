"""When to save: any of the triggers that are wanted, and all of the floors.

Triggers: every so many steps, every so many seconds (`auto`: Daly's interval from the measured cost and the time
between failures), the end of an epoch, a metric that improved, an order (of the supervisor, the operator, a node's
warning), a signal, and the deadline, after which a last save would not be durable in time. Floors: so many steps and
seconds since the last save, and none in flight. An order, a signal and the deadline go below the first two, never
below the last: their save follows as soon as the one in flight is done.

Rule: all ranks must save at the same step. Steps and epochs are the same on every rank, so `due_by_step` is asked on
all of them, and nothing needs to be said. Whatever looks at a clock, a metric or the world is decided by one rank
(`decide`), which announces it for a step that no rank has reached yet (`Decision.needs_announcement`). A floor in
seconds makes all triggers of the second kind (`deterministic`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from typing import Any, Literal

from ftslurm.core.about import SaveKind
from ftslurm.core.interval import daly
from ftslurm.core.strictjson import decode, encode, fields_of, refuse

AUTO_UNMEASURED_S = 300.0
"""`auto` before a save was measured, or where nobody knows how often the job fails."""
DEADLINE_SAFETY = 1.5
"""The last save begins when what is left is this many times as long as saving and draining took before."""
ANNOUNCED_STEPS = 2
"""An announced save is made this many steps later: no rank is further ahead than one step."""
DIFF_WORTH = 0.5
"""A differential save that holds more than this share of a full one is followed by a full one."""


class Order(StrEnum):
    """Why the supervisor asks for a save."""

    TIME_LIMIT = "time_limit"
    OPERATOR = "operator"
    NODE_WARNING = "node_warning"
    PREEMPT = "preempt"


ORDER_WORDS = {
    Order.TIME_LIMIT: "the time limit is near",
    Order.OPERATOR: "the operator asked for it",
    Order.NODE_WARNING: "a node is not well",
    Order.PREEMPT: "the job is being preempted",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SavePolicy:
    """What the user wants. A trigger that is 0, None, False or "" is off.

    Attributes:
        every_steps: a save at every multiple of it.
        every_s: seconds since the last save, or "auto".
        epoch_end: at the end of each epoch.
        metric: whenever this one is better than in every save before.
        metric_mode: what better means.
        min_steps: floor: steps since the last save.
        min_interval_s: floor: seconds since the last save.
        full_every: one save of so many is full, the others are differential; 1: all are full.
        compression: how entries are stored.
    """

    every_steps: int = 0
    every_s: float | Literal["auto"] | None = None
    epoch_end: bool = False
    metric: str = ""
    metric_mode: Literal["min", "max"] = "min"
    min_steps: int = 0
    min_interval_s: float = 0.0
    full_every: int = 1
    compression: Literal["none", "zstd"] = "none"

    @property
    def best_by(self) -> tuple[str, Literal["min", "max"]]:
        """The metric, and what good means, by which a save is the best one; the loss where nothing else is said."""
        return (self.metric, self.metric_mode) if self.metric else ("loss", "min")

    def to_json(self) -> str:
        """Return the form that travels in the environment of the ranks."""
        return encode(asdict(self)).decode("ascii").strip()

    @classmethod
    def from_json(cls, text: str) -> SavePolicy:
        """Return what `to_json` was made from. Raises DataDamaged for anything else."""
        names = tuple(each.name for each in fields(cls))
        record = fields_of(decode(text.encode(), "save policy"), names, "save policy")
        for name, fits in _FITS.items():
            if not fits(record[name]):
                refuse(f"{name}={record[name]!r} does not fit in a save policy")
        return cls(**record)


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """What one rank knows at the end of a step.

    Attributes:
        step: the step that has just been done.
        epoch: the epoch, as a number of passes over the data.
        epoch_ended: whether this step was the last of an epoch.
        now_s: monotonic seconds.
        last_save_step: the step of the last save, or the one that the program began with.
        last_save_s: when that was decided, or when the program began; monotonic seconds.
        in_flight: whether an earlier save is not finished.
        best: the policy's metric in the best save so far.
        metrics: what the program reported at this step.
        order: why the supervisor asked for a save that was not made yet.
        signal: the signal that asked for one, by its name.
        remaining_s: until the time limit; None: there is none, or nobody knows.
        save_cost_s: how long training stood still for a save; 0: not measured.
        drain_s: from there until it was durable; 0: not measured.
        mtbf_s: mean time between failures of the job; 0: nobody knows.
        step_s: how long a step takes; 0: not measured.
    """

    step: int
    epoch: float | None = None
    epoch_ended: bool = False
    now_s: float
    last_save_step: int
    last_save_s: float
    in_flight: bool = False
    best: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    order: Order | None = None
    signal: str = ""
    remaining_s: float | None = None
    save_cost_s: float = 0.0
    drain_s: float = 0.0
    mtbf_s: float = 0.0
    step_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Whether to save, and why: one sentence with numbers.

    `needs_announcement`: the other ranks cannot know it, so it is announced for a later step.
    """

    save: bool
    reason: str
    needs_announcement: bool = False


def deterministic(policy: SavePolicy) -> bool:
    """Return whether steps and epochs alone decide on the triggers of steps and epochs: no floor looks at a clock."""
    return policy.min_interval_s <= 0


def needs_a_clock(policy: SavePolicy) -> bool:
    """Return whether any trigger of the policy is decided by one rank for all."""
    by_step = bool(policy.every_steps or policy.epoch_end)
    return policy.every_s is not None or bool(policy.metric) or (by_step and not deterministic(policy))


def due_by_step(policy: SavePolicy, step: int, last_step: int, *, epoch_ended: bool) -> Decision:
    """Return what every rank decides alike, by itself, from the step and the end of an epoch.

    Whether a save is in flight is not seen here, since it differs between ranks. `last_step` is the step of the last
    save that was decided, or the one that the program began with.
    """
    if not deterministic(policy):
        return Decision(save=False, reason="a floor in seconds makes this one rank's decision")
    return _by_step(policy, step, last_step, epoch_ended=epoch_ended)


def decide(policy: SavePolicy, moment: Moment) -> Decision:
    """Return what one rank decides for all of them, from everything that it knows. Pure.

    Never at the step of the last save: nothing is new since then.
    """
    if moment.step <= moment.last_save_step:
        return Decision(save=False, reason=f"step {moment.step} is saved already")
    urgent = next(_urgent(moment), "")
    if moment.in_flight:
        then = f"; {urgent}: the next one follows it" if urgent else ""
        return Decision(save=False, reason=f"the save of step {moment.last_save_step} is not finished{then}")
    if urgent:
        return Decision(save=True, reason=urgent, needs_announcement=True)
    alike = _by_step(policy, moment.step, moment.last_save_step, epoch_ended=moment.epoch_ended)
    wanted = alike.reason if alike.save else next(_by_clock(policy, moment), "")
    if not wanted:
        return alike
    low = next(_floors(policy, moment), "")
    if low:
        return Decision(save=False, reason=f"{wanted}, but {low}")
    return Decision(save=True, reason=wanted, needs_announcement=not (alike.save and deterministic(policy)))


def interval_s(policy: SavePolicy, moment: Moment) -> float | None:
    """Return the seconds between two saves that the policy wants now; None: none by time."""
    if policy.every_s != "auto":
        return policy.every_s
    if moment.save_cost_s <= 0 or moment.mtbf_s <= 0:
        return AUTO_UNMEASURED_S
    return daly(moment.save_cost_s, moment.mtbf_s) + moment.save_cost_s


def lead_s(moment: Moment) -> float:
    """Return how long before the time limit the last save has to begin."""
    return DEADLINE_SAFETY * (moment.save_cost_s + moment.drain_s) + ANNOUNCED_STEPS * moment.step_s


def improves(policy: SavePolicy, value: float, best: float | None) -> bool:
    """Return whether a value of the policy's metric is better than the best so far; one that is not finite never is."""
    if not math.isfinite(value):
        return False
    if best is None or not math.isfinite(best):
        return True
    return value < best if policy.metric_mode == "min" else value > best


def kind_of_save(
    policy: SavePolicy, *, since_full: int, has_base: bool, diff_share: float = 0.0
) -> tuple[SaveKind, str]:
    """Return what the next save holds, and why.

    Args:
        policy: how often a full one is wanted.
        since_full: differential saves since the last full one.
        has_base: that full one is committed, and of this run and number of ranks.
        diff_share: bytes of the last differential save, as a share of the full one's.
    """
    if policy.full_every <= 1:
        return SaveKind.FULL, "every save is full"
    if not has_base:
        return SaveKind.FULL, "there is no committed full save to build on"
    if since_full + 1 >= policy.full_every:
        return SaveKind.FULL, f"{since_full} differential saves followed the last full one"
    if diff_share > DIFF_WORTH:
        return SaveKind.FULL, f"the last differential save was {100 * diff_share:.0f} % of a full one"
    return SaveKind.DIFF, f"number {since_full + 1} of {policy.full_every - 1} since the last full one"


# ----------------------------------------------------------------------------------------------- triggers and floors


def _by_step(policy: SavePolicy, step: int, last_step: int, *, epoch_ended: bool) -> Decision:
    """The triggers and the floor that are the same on every rank."""
    wanted = ""
    if policy.every_steps and step // policy.every_steps > max(last_step, 0) // policy.every_steps:
        wanted = f"step {step}: every {policy.every_steps} steps"
    elif policy.epoch_end and epoch_ended and step > last_step:
        wanted = f"step {step} ended an epoch"
    if not wanted:
        return Decision(save=False, reason=f"nothing asks for a save at step {step}")
    if step - last_step < policy.min_steps:
        return Decision(save=False, reason=f"{wanted}, but {_too_few(policy, step - last_step)}")
    return Decision(save=True, reason=wanted)


def _urgent(moment: Moment) -> Iterator[str]:
    """What does not wait for a floor."""
    if moment.signal:
        yield f"{moment.signal} was received"
    if moment.order is not None:
        yield ORDER_WORDS[moment.order]
    if moment.remaining_s is not None:
        began_s = moment.now_s + moment.remaining_s - lead_s(moment)
        if moment.last_save_s < began_s <= moment.now_s:
            took = f"a save and its drain take {moment.save_cost_s + moment.drain_s:.1f} s"
            yield f"{moment.remaining_s:.0f} s to the time limit, and {took}"


def _by_clock(policy: SavePolicy, moment: Moment) -> Iterator[str]:
    """The triggers that one rank decides for all."""
    every_s, since_s = interval_s(policy, moment), moment.now_s - moment.last_save_s
    if every_s is not None and since_s >= every_s:
        yield f"{since_s:.0f} s since the last save: {_interval_words(policy, moment, every_s)}"
    value = moment.metrics.get(policy.metric) if policy.metric else None
    if value is not None and improves(policy, value, moment.best):
        before = "the first that is known" if moment.best is None else f"better than {moment.best:g}"
        yield f"{policy.metric} {value:g} is {before}"


def _interval_words(policy: SavePolicy, moment: Moment, every_s: float) -> str:
    if policy.every_s != "auto":
        return f"every {every_s:g} s"
    if moment.save_cost_s <= 0 or moment.mtbf_s <= 0:
        return f"every {every_s:g} s until a save is measured"
    return (
        f"every {every_s:.0f} s (a save costs {moment.save_cost_s:.2g} s, a failure comes every {moment.mtbf_s:.0f} s)"
    )


def _floors(policy: SavePolicy, moment: Moment) -> Iterator[str]:
    steps, since_s = moment.step - moment.last_save_step, moment.now_s - moment.last_save_s
    if steps < policy.min_steps:
        yield _too_few(policy, steps)
    if not deterministic(policy) and since_s < policy.min_interval_s:
        yield f"the last save is {since_s:.1f} s ago, less than {policy.min_interval_s:g} s"


def _too_few(policy: SavePolicy, steps: int) -> str:
    return f"the last save is {steps} steps ago, fewer than {policy.min_steps}"


# ------------------------------------------------------------------------------------------------ what JSON may hold


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_seconds(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


_FITS: dict[str, Callable[[Any], bool]] = {
    "every_steps": _is_whole,
    "every_s": lambda value: value is None or value == "auto" or (_is_seconds(value) and value > 0),
    "epoch_end": lambda value: isinstance(value, bool),
    "metric": lambda value: isinstance(value, str),
    "metric_mode": lambda value: value in ("min", "max"),
    "min_steps": _is_whole,
    "min_interval_s": _is_seconds,
    "full_every": lambda value: _is_whole(value) and value >= 1,
    "compression": lambda value: value in ("none", "zstd"),
}
