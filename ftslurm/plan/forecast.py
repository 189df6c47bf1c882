"""What to expect of a run before it begins: how often it fails, how often to save, where its time will go.

    inputs = gather(config, rate, measured)        # ftslurm.plan.inputs
    print(text(parts(inputs), width))              # ftslurm.plan.table

Everything here is closed: failures of nodes are independent and come at random (exponential), each of them ends the
attempt, and the rate runs on the time in which ranks are up (work, saves, restarts; nothing fails while a failure is
being noticed, or while the job waits). How far that can be trusted is what the simulation of other failure models says.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftslurm.core.interval import daly, optimum, young
from ftslurm.insight.text import count, took
from ftslurm.plan import losses, table
from ftslurm.plan.deadline import deadline
from ftslurm.plan.inputs import Inputs
from ftslurm.plan.space import space
from ftslurm.plan.spares import shrink_or_wait, spare_nodes
from ftslurm.plan.table import Part, Row

if TYPE_CHECKING:
    from ftslurm.plan.losses import Split

SHARES = {
    "productive": ("productive", "work that counts: its share is the expected ETTR"),
    "redone": ("work done again", "what a failure loses since the newest save"),
    "saving": ("standing still to save", "saves that a failure cuts short included"),
    "detecting": ("until it is noticed", "nothing else fails meanwhile"),
    "restarting": ("restart and load", "may fail, too, and then begins anew"),
    "waiting": ("waiting for nodes", "nothing fails meanwhile"),
}
WORTH = 0.005
"""An interval whose ETTR is less than this below the best one is as good."""
MODEL = "nodes fail independently, at random (exponential); every failure ends the attempt"


@dataclass(frozen=True, slots=True)
class Interval:
    """The work between two saves that the forecast reckons with, and why."""

    seconds: float
    source: str


def interval_of(inputs: Inputs) -> Interval:
    """Return the interval that the run will have; the best one where the program decides and nobody knows."""
    if inputs.interval is not None:
        return Interval(inputs.interval.value, inputs.interval.source)
    best_s = optimum(inputs.save.value, inputs.mttf_s)
    return Interval(best_s, "the exact optimum: what the program will do is not known")


def parts(inputs: Inputs) -> tuple[Part, ...]:
    """Return all that can be said, in the order in which it is read."""
    interval = interval_of(inputs)
    at = losses.split(interval.seconds, inputs.costs, inputs.mttf_s)
    return (
        Part("failures", "failures", tuple(_failures(inputs))),
        Part("costs", "what they cost", tuple(_costs(inputs, interval))),
        Part("intervals", "how often to save", tuple(_intervals(inputs, interval))),
        Part("time", "where the time goes", tuple(_time(inputs, interval, at))),
        Part("spares", "spare nodes", tuple(spare_nodes(inputs))),
        Part("shrink", "shrink or wait", tuple(shrink_or_wait(inputs))),
        Part("deadline", "how long it takes", tuple(deadline(inputs, at.productive))),
        Part("space", "room for checkpoints", tuple(space(inputs, interval.seconds))),
    )


def headline(inputs: Inputs) -> str:
    """Return the forecast in one sentence."""
    best_s, used_s = optimum(inputs.save.value, inputs.mttf_s), interval_of(inputs).seconds
    best, used = _ettr(inputs, best_s), _ettr(inputs, used_s)
    saving = f"with a save every {took(used_s)}" if inputs.config.checkpoint.is_watched else "and nothing is saved"
    better = f"; {table.percent(best)} with one every {took(best_s)}" if best - used >= WORTH else ""
    return (
        f"{inputs.config.name} on {count(inputs.nodes, 'node')}: a failure every {took(inputs.mttf_s)};"
        f" {table.percent(used)} of the time trains, {saving}{better}"
    )


def _failures(inputs: Inputs) -> Iterator[Row]:
    rate = inputs.rate
    yield table.number("nodes", "nodes", inputs.nodes, "all of them are needed at any time")
    yield table.number(
        "failures_per_1000_node_days", "failures in 1,000 node-days", rate.per_1000_node_days, rate.source
    )
    if rate.low is not None and rate.high is not None:
        for key, label, bound in (("low", "lower", rate.low), ("high", "upper", rate.high)):
            what = "of the 95 % interval of the rate"
            yield table.number(f"failures_per_1000_node_days_{key}", f"{label} end", bound, what)
    yield table.seconds("mttf", "time between failures", inputs.mttf_s, f"of the job; {MODEL}")


def _costs(inputs: Inputs, interval: Interval) -> Iterator[Row]:
    named = (
        ("save", "a save"),
        ("detect", "to notice a failure"),
        ("restart", "a restart"),
        ("wait", "wait for nodes"),
    )
    for key, label in named:
        known = getattr(inputs, key)
        yield table.seconds(key, label, known.value, known.source)
    lost_s = inputs.costs.failure_s + min(interval.seconds, inputs.mttf_s) / 2
    because = f"of the whole job: half an interval of work, and {took(inputs.costs.failure_s)} until it goes on"
    yield table.seconds("failure", "one failure costs", lost_s, because)
    hours = lost_s * inputs.nodes / 3600
    yield table.number("failure_node_hours", "in node-hours", hours, f"{inputs.nodes} nodes stand still meanwhile")


def _intervals(inputs: Inputs, interval: Interval) -> Iterator[Row]:
    cost_s, mttf_s = inputs.save.value, inputs.mttf_s
    named = (
        ("optimum", "exact optimum", optimum(cost_s, mttf_s), "the root of (1 - t/M) e^((t + C)/M) = 1"),
        (
            "daly",
            "Daly, higher order",
            daly(cost_s, mttf_s),
            "FGCS 22, 2006; what checkpoint.every: {time: auto} takes",
        ),
        ("young", "Young, first order", young(cost_s, mttf_s), "CACM 17, 1974"),
    )
    for key, label, best_s, why in named:
        yield table.seconds(key, label, best_s, f"{why}; ETTR {table.percent(_ettr(inputs, best_s))}")
    share = table.percent(_ettr(inputs, interval.seconds))
    yield table.seconds("used", "the run's own", interval.seconds, f"{interval.source}; ETTR {share}")


def _ettr(inputs: Inputs, interval_s: float) -> float:
    return losses.ettr(interval_s, inputs.costs, inputs.mttf_s) if interval_s > 0 else 0.0


def _time(inputs: Inputs, interval: Interval, at: Split) -> Iterator[Row]:
    for name, value in at.items():
        label, why = SHARES[name]
        yield table.share(name, label, value, why)
    linear = losses.linear(interval.seconds, inputs.costs, inputs.mttf_s)
    yield table.share("ettr_linear", "ETTR, Meta's linear form", linear, _linear_words(linear, at.productive))
    rate = inputs.rate
    if rate.low is None or rate.high is None:
        return
    for key, label, per_1000 in (("low", "at the upper end", rate.high), ("high", "at the lower end", rate.low)):
        if per_1000 <= 0:
            continue
        mttf_s = inputs.mttf_s * rate.per_1000_node_days / per_1000
        because = "of the rate's 95 % interval, with the same interval between saves"
        yield table.share(f"ettr_{key}", f"ETTR {label}", losses.ettr(interval.seconds, inputs.costs, mttf_s), because)


def _linear_words(linear: float, exact: float) -> str:
    if abs(linear - exact) < 0.01:
        return "arXiv 2410.21680; it agrees: little is lost"
    return "arXiv 2410.21680; it holds only where little is lost, and not here"
