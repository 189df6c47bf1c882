from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from ftslurm.core.conditions import NodeHealth
from ftslurm.core.events import Phase, TimerFired
from ftslurm.core.fitness import HOLD, HOLD_S
from ftslurm.core.health import INCIDENT_S, Consequence, Level, cap
from ftslurm.core.recovery import Policy
from ftslurm.core.run import advance
from ftslurm.core.state import Run


def told(reports, count):
    """Return when each node was given up, after these reports (seconds, node) of the same trouble."""
    names = tuple(f"n{number}" for number in range(count))
    run = Run(phase=Phase.STARTING, nodes=names, agents=frozenset(names), scanned=False)
    happens = [(at, "report", node) for at, node in reports] + [(at + HOLD_S, "timer", node) for at, node in reports]
    given_up = {}
    for at, what, number in sorted(happens):
        node = names[number % count]
        token = run.timers.get(HOLD + node, 0)
        event = (
            NodeHealth(
                node=node, level=Level.FAILED, metric="gpu_lost", reason="lost", action=Consequence.EXCLUDE, mono=at
            )
            if what == "report"
            else TimerFired(name=HOLD + node, token=token, mono=at)
        )
        run, _ = advance(run, replace(event, at=at), Policy())
        given_up |= {each: at for each in run.condemned if each not in given_up}
    return given_up


reports = st.lists(st.tuples(st.floats(0, 5000), st.integers(0, 63)), max_size=30, unique_by=lambda each: each[1])


@given(reports, st.integers(1, 64))
def test_no_checker_takes_more_than_its_share(found, count):
    """However its reports come: never more than max(1, 5 %) of the nodes within ten minutes."""
    times = sorted(told(found, count).values())
    assert all(sum(begin <= at < begin + INCIDENT_S for at in times) <= cap(count) for begin in times)


@given(st.floats(0, 1000), st.integers(0, 63), st.integers(1, 64))
def test_one_sick_node_is_given_up_in_time(at, node, count):
    """A node that is alone with its trouble is given up when the hold is over."""
    assert told([(at, node)], count) == {f"n{node % count}": at + HOLD_S}


@given(st.integers(2, 39))
def test_what_all_have_at_once_costs_nobody(count):
    """The broken checker of NHC issue 161."""
    assert told([(10.0 + number / 100, number) for number in range(count)], count) == {}
