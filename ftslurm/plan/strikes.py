"""When what goes wrong in a simulated run: the outages of nodes, failures of the program, and false alarms."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from random import Random
from typing import NamedTuple

from ftslurm.plan.terms import Terms


class What(StrEnum):
    """What goes wrong. PROGRAM: a rank fails on a sound node; FALSE_ALARM: nothing fails, and a node is given up."""

    NODE = "node"
    PROGRAM = "program"
    FALSE_ALARM = "false alarm"


class Strike(NamedTuple):
    """One of them: when, in seconds since the beginning, on which node of the fleet, and how long its repair takes."""

    at_s: float
    node: int
    what: What
    repair_s: float = 0.0


def drawn(terms: Terms, dice: Random) -> list[Strike]:
    """All strikes of a run, in the order in which they come.

    A generator's outages cost their node, of a trace's a share; failures of programs and false alarms come at random.
    """
    found = [
        Strike(each.at_s, each.node, What.NODE, each.repair_s)
        for each in terms.outages.outages(terms.fleet, terms.span_s, dice)
    ]
    if terms.node_share < 1:
        found = [each if dice.random() < terms.node_share else each._replace(what=What.PROGRAM) for each in found]
    found += _at_random(terms, What.PROGRAM, terms.program_rate, dice)
    found += _at_random(terms, What.FALSE_ALARM, terms.alarm_rate, dice)
    return sorted(found)


def _at_random(terms: Terms, what: What, rate: float, dice: Random) -> Iterator[Strike]:
    at_s, fleet_rate = 0.0, rate * terms.fleet
    while fleet_rate > 0:
        at_s += dice.expovariate(fleet_rate)
        if at_s >= terms.span_s:
            return
        yield Strike(at_s, int(dice.random() * terms.fleet), what)
