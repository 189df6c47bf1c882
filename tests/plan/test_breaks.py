from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftslurm.plan.breaks import EDGE, best_cut, break_of_a_node, breaks
from tests.lab.longer import long_test
from tests.plan.pasts import poisson


def clusters(days: float, dice: Random) -> list[float]:
    """A renewal process whose gaps vary more than exponential ones: no rate changes, yet faults cluster."""
    found, at = [], 0.0
    while (at := at + dice.weibullvariate(0.5, 0.6)) < days:
        found.append(at)
    return found


def false_alarms(histories: int, draw) -> int:
    """In how many histories of a rate that never changes a change is found."""
    return sum(bool(breaks(draw(Random(seed)), 100.0)) for seed in range(histories))


def test_a_rate_that_doubles_is_found():
    """Twice the rate from day 40 of 100 on: one change, mostly near that day, with about these rates."""
    near = 0
    for seed in range(4):
        dice = Random(seed)
        times = poisson(2.0, 40.0, dice) + poisson(4.0, 60.0, dice, begun=40.0)
        (found,) = breaks(times, 100.0)
        near += abs(found.at - 40.0) < 5.0
        assert abs(found.at - 40.0) < 15.0
        assert found.before == pytest.approx(2.0, rel=0.35)
        assert found.after == pytest.approx(4.0, rel=0.35)
        assert found.p <= 0.05
    assert near >= 3


def test_two_changes_are_found_in_their_order():
    """Up and down again: two changes, whose rates are those between them."""
    dice = Random(3)
    times = poisson(1.0, 40.0, dice) + poisson(6.0, 20.0, dice, begun=40.0) + poisson(1.0, 40.0, dice, begun=60.0)
    up, down = breaks(times, 100.0)
    assert abs(up.at - 40.0) < 4.0
    assert abs(down.at - 60.0) < 4.0
    assert up.after == down.before > 4.0


def test_poisson_has_changes_as_rarely_as_is_stated():
    """Of 40 fleets of one rate 2 are expected at 5 %; 7 or more would have a chance of 0.003."""
    assert false_alarms(40, lambda dice: poisson(0.6, 100.0, dice)) < 7


@long_test("600 fleets of one rate, even and clustered")
@pytest.mark.parametrize("draw", [lambda dice: poisson(0.6, 100.0, dice), lambda dice: clusters(100.0, dice)])
def test_false_alarms_over_many_fleets(draw):
    """At 5 %, 30 of 600 are expected; more than 46 would have a chance of 0.002. Clusters alone are no change."""
    assert false_alarms(600, draw) <= 46


def test_nodes_of_one_rate_have_changes_as_rarely_as_is_stated():
    """20 times 20 nodes: at 5 % over all nodes together 1 of 20 fleets is expected, 5 have a chance of 0.003."""
    alarms = 0
    for seed in range(20):
        dice = Random(seed)
        nodes = [poisson(0.05, 100.0, dice) for _ in range(20)]
        looked_at = [times for times in nodes if len(times) >= 4]
        alarms += any(break_of_a_node(times, 100.0, len(looked_at)) for times in looked_at)
    assert alarms < 5


def test_a_node_that_goes_bad_is_found():
    """Nothing for 80 days, then six faults in ten: found among 100 nodes that were looked at."""
    found = break_of_a_node([81.0, 82.5, 84.0, 86.0, 87.0, 90.0], 100.0, 100)
    assert found is not None
    assert found.at == 81.0
    assert found.before == 0.0
    assert found.after == pytest.approx(6 / 19)


@pytest.mark.parametrize("times", [[], [50.0], [10.0, 20.0, 30.0]])
def test_too_few_faults_have_no_change(times):
    """Nothing is said of what cannot be told."""
    assert breaks(times, 100.0) == ()
    assert break_of_a_node(times, 100.0, 1) is None
    assert breaks(times, 0.0) == ()


TIMES = st.lists(st.floats(0.0, 100.0), max_size=40).map(sorted)


@given(TIMES)
def test_the_best_cut_gains_and_keeps_from_the_edges(times):
    """No cut makes two rates worse than one; where there is one it is at a fault, away from both ends."""
    cut = best_cut(times, 100.0)
    assert cut.gain >= 0.0
    if cut.gain:
        assert cut.at in times
        assert 100.0 * EDGE <= cut.at <= 100.0 * (1 - EDGE)


@settings(max_examples=15)
@given(TIMES)
def test_the_same_times_give_the_same_answer(times):
    """The dice are seeded."""
    assert breaks(times, 100.0) == breaks(times, 100.0)
