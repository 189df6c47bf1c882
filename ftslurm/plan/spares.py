"""How many spare nodes to hold, and whether to go on with fewer nodes or to wait for one."""

from __future__ import annotations

from collections.abc import Iterator

from ftslurm.insight.text import count, took
from ftslurm.plan import table
from ftslurm.plan.inputs import Inputs
from ftslurm.plan.reliability import spares
from ftslurm.plan.smaller import worth_of
from ftslurm.plan.table import Row

DAY_S = 86400.0


def spare_nodes(inputs: Inputs) -> Iterator[Row]:
    """The spares that suffice for the wanted share of the time, and whether the configuration has them."""
    repair_s, wanted = inputs.repair.value, inputs.config.plan.availability
    mean = inputs.nodes * inputs.rate.per_second * repair_s
    needed = spares(inputs.nodes, inputs.rate.per_second, repair_s, wanted)
    yield table.seconds("repair", "a repair", repair_s, inputs.repair.source)
    yield table.number(
        "in_repair", "nodes in repair", mean, "on the mean: nodes x rate x mean repair, however long each takes"
    )
    because = f"suffice {100 * wanted:g} % of the time (plan.availability): that quantile of Poisson({mean:.3g})"
    yield table.number("needed", "spares needed", needed, f"{because}; repairs do not wait for each other")
    yield table.number("held", "spares held", inputs.config.recovery.spares, _held(inputs, needed))


def _held(inputs: Inputs, needed: int) -> str:
    held, limit_s = inputs.config.recovery.spares, inputs.config.resources.time
    if limit_s is not None and inputs.repair.value > limit_s:
        lost = inputs.nodes * inputs.rate.per_second * limit_s
        text = f"recovery.spares; in one job of {took(limit_s)} {lost:.3g} nodes fail on the mean, and none comes back"
        return (
            f"{text}: spares for one job are {spares(inputs.nodes, inputs.rate.per_second, limit_s, _wanted(inputs))}"
        )
    return "recovery.spares" if held >= needed else f"recovery.spares: {needed - held} too few"


def _wanted(inputs: Inputs) -> float:
    return inputs.config.plan.availability


def shrink_or_wait(inputs: Inputs) -> Iterator[Row]:
    """When to go on with one node less, and when to wait for another.

    Going on with n - 1 of n nodes until the repair loses a share of the work for that long; waiting loses all of it
    for the wait. They cost the same at a wait of share x repair.
    """
    if inputs.nodes < 2:
        yield table.words("only", "one node", "wait", "there is no smaller world than one node")
        return
    worth = worth_of(inputs, inputs.nodes - 1)
    lost = max(1 - (inputs.nodes - 1) / inputs.nodes * worth.share, 0.0)
    even_s = lost * inputs.repair.value
    yield table.share("lost", "one node less loses", lost, f"with {count(inputs.nodes - 1, 'node')}: {worth.reason}")
    why = f"that share of {took(inputs.repair.value)} of repair; a shorter wait pays, a longer one does not"
    yield table.seconds("break_even", "wait at most", even_s, why)
    queue_s = inputs.config.plan.queue_wait
    if queue_s is None:
        yield table.words("advice", "so", "unknown", "how long the queue lets wait is not known: give plan.queue_wait")
        return
    better = "wait" if queue_s < even_s else "shrink"
    yield table.words("advice", "so", better, f"plan.queue_wait is {took(queue_s)}")
