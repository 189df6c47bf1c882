"""When what goes wrong in a simulated run: the outages of nodes, failures of the program, and false alarms."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from random import Random
from typing import NamedTuple, Protocol

from ftslurm.plan.generators import Generator


class What(StrEnum):
    """What goes wrong. PROGRAM: a rank fails, and its node is sound; FALSE_ALARM: nothing fails, and a node is given up."""

    NODE = "node"
    PROGRAM = "program"
    FALSE_ALARM = "false alarm"


class Strike(NamedTuple):
    """One of them: when, in seconds since the beginning, on which node of the fleet, and how long its repair takes."""

    at_s: float
    node: int
    what: What
    repair_s: float = 0.0


class Sources(Protocol):
    """What strikes are drawn from; rates are those of one node, in a second."""

    fleet: int
    span_s: float
    outages: Generator
    node_share: float
    program_rate: float
    alarm_rate: float


def drawn(sources: Sources, dice: Random) -> list[Strike]:
    """All strikes of a run, in the order in which they come.

    A generator's outages cost their node, of a trace's this share; failures of programs and false alarms come at random.
    """
    found = [
        Strike(each.at_s, each.node, What.NODE, each.repair_s)
        for each in sources.outages.outages(sources.fleet, sources.span_s, dice)
    ]
    if sources.node_share < 1:
        found = [each if dice.random() < sources.node_share else each._replace(what=What.PROGRAM) for each in found]
    found += _at_random(sources, What.PROGRAM, sources.program_rate, dice)
    found += _at_random(sources, What.FALSE_ALARM, sources.alarm_rate, dice)
    return sorted(found)


def _at_random(sources: Sources, what: What, rate: float, dice: Random) -> Iterator[Strike]:
    at_s, fleet_rate = 0.0, rate * sources.fleet
    while fleet_rate > 0:
        at_s += dice.expovariate(fleet_rate)
        if at_s >= sources.span_s:
            return
        yield Strike(at_s, int(dice.random() * sources.fleet), what)
