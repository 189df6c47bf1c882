from __future__ import annotations

import math
from random import Random

import pytest

from ftslurm.core.lemons import DAY_S
from ftslurm.plan.hours import WEEK_S, rhythm
from ftslurm.plan.past import Clock, Exposure, Fault, Past, joined, moments
from ftslurm.plan.ranking import causes, ranking, spread
from ftslurm.plan.spacing import spacing, weibull_shape
from tests.lab.longer import long_test
from tests.plan.pasts import fleet, past, public, public_events, with_trace


def alike(nodes: int, rate: float, days: float, seed: int, **bad: float) -> Past:
    """A fleet of one rate a day, but for the nodes that are named."""
    return fleet({f"n{index}": rate for index in range(nodes - len(bad))} | bad, days, Random(seed))


@pytest.mark.parametrize("shape", [0.6, 1.0, 2.0])
def test_the_shape_of_gaps_is_found(shape):
    """2,000 gaps of a Weibull law: its shape lies in the interval, and only 1 is like Poisson."""
    dice = Random(7)
    times = [0.0]
    for _ in range(2000):
        times.append(times[-1] + dice.weibullvariate(3.0, shape))
    found = spacing(times)
    assert found.low < shape < found.high
    assert (found.p > 0.05) == (shape == 1.0)
    assert found.gaps == 2000
    assert found.mean_s == pytest.approx(3.0 * math.gamma(1 + 1 / shape), rel=0.1)


def test_the_shape_does_not_depend_on_the_unit():
    """Hours or seconds: the same shape, also where powers would overflow."""
    gaps = [0.5, 1.0, 3.0, 4.0, 9.0]
    assert weibull_shape(gaps) == pytest.approx(weibull_shape([1e9 * gap for gap in gaps]))


@pytest.mark.parametrize("times", [[], [1.0], [1.0, 2.0, 3.0], [5.0] * 20, list(range(20))])
def test_gaps_that_say_nothing_have_no_shape(times):
    """Too few, all 0, or all the same: None, and no error."""
    assert spacing([float(t) for t in times]) is None


def test_a_fleet_of_equals_is_not_dispersed():
    """Equal nodes: an index near 1, as many nodes without a fault as Poisson has, no node beyond chance."""
    equal = alike(400, 0.004, 180.0, 11)
    told = spread(equal)
    assert told.p > 0.01
    assert told.index == pytest.approx(1.0, abs=0.25)
    assert told.never == pytest.approx(told.never_expected, rel=0.2)
    assert min(each.p for each in ranking(equal)) > 0.05


def test_two_lemons_among_400_are_on_top():
    """Nodes that fail 20 times as often come first, beyond chance, and their intervals lie above the fleet's rate."""
    bad = alike(400, 0.004, 180.0, 5, bad1=0.09, bad2=0.09)
    first, second, *others = ranking(bad)
    assert {first.node, second.node} == {"bad1", "bad2"}
    assert max(first.p, second.p) < 0.001
    assert min(first.low, second.low) > bad.rate
    assert max(first.low, second.low) < 0.09 < min(first.high, second.high)
    assert bad.rate < first.expected < first.rate
    assert min(each.p for each in others) > 0.01
    assert spread(bad).p < 0.001


@long_test("intervals of 200 fleets")
def test_intervals_hold_what_they_promise():
    """Of 20,000 nodes 95 % lie in their intervals; what is expected is nearer to the truth than what was."""
    held = asked = 0
    was = expected = 0.0
    for seed in range(200):
        dice = Random(seed)
        rates = {f"n{index}": 0.02 + dice.gammavariate(2.0, 0.01) for index in range(100)}
        for each in ranking(fleet(rates, 180.0, dice)):
            asked += 1
            held += each.low <= rates[each.node] <= each.high
            was += (each.rate - rates[each.node]) ** 2
            expected += (each.expected - rates[each.node]) ** 2
    assert 0.94 < held / asked < 0.96
    assert expected < 0.8 * was


def test_without_an_exposure_there_are_no_rates():
    """Faults are counted and nodes ranked by them; nothing else is claimed."""
    known = past([("n1", 1.0), ("n2", 2.0), ("n2", 3.0)], 10.0, 4)
    unknown = Past(faults=known.faults, begun=0.0, until=known.until, fleet=4)
    assert unknown.rate is None
    assert [(each.node, each.faults, each.rate, each.p) for each in ranking(unknown)] == [
        ("n2", 2, None, None),
        ("n1", 1, None, None),
    ]
    told = spread(unknown)
    assert (told.nodes, told.never, told.index, told.p, told.never_expected) == (4, 2, None, None, None)
    assert spread(Past(faults=known.faults, begun=0.0, until=known.until)) is None


def test_rates_count_the_time_in_which_a_node_was_watched():
    """Two days of the one, eight of the other; a fault outside of it does not count."""
    stays = {"n1": ((0.0, 2 * DAY_S),), "n2": ((0.0, 3 * DAY_S), (5 * DAY_S, 10 * DAY_S)), "n3": ((0.0, DAY_S),)}
    faults = (
        Fault(node="n1", at=DAY_S, cause="gpu"),
        Fault(node="n2", at=DAY_S, cause="gpu"),
        Fault(node="n2", at=4 * DAY_S, cause="gpu", rated=False),
    )
    watch = Exposure(nodes=3, words="in use", stays=stays)
    told = Past(faults=faults, begun=0.0, until=10 * DAY_S, exposure=watch)
    assert told.rate == pytest.approx(2 / 11)
    assert {each.node: (each.faults, each.days) for each in ranking(told)} == {"n1": (1, 2.0), "n2": (1, 8.0)}
    clock = told.clock()
    assert [clock.at(day * DAY_S) for day in (0, 1, 2, 3, 4, 6, 20)] == pytest.approx([0, 3, 5, 6, 6, 7, 11])
    assert told.clock("n2").at(6 * DAY_S) == pytest.approx(4)
    assert spread(told).nodes == 3


def test_time_is_joined_and_moments_are_merged():
    """Stays that overlap count once; faults within a minute are one moment."""
    assert joined([(5.0, 7.0), (0.0, 2.0), (1.0, 3.0), (9.0, 9.0)]) == ((0.0, 3.0), (5.0, 7.0))
    faults = [Fault(node="n1", at=t, cause="x") for t in (0.0, 30.0, 80.0, 200.0)]
    assert moments(faults) == [0.0, 80.0, 200.0]
    assert Clock([], 1.0).at(5.0) == 0.0


def test_causes_are_counted_with_their_nodes():
    """The most frequent first."""
    faults = [Fault(node=node, at=0.0, cause=cause) for node, cause in (("a", "x"), ("b", "y"), ("b", "y"), ("c", "y"))]
    assert causes(faults) == (("y", 3, 2), ("x", 1, 1))


def test_a_preferred_hour_is_found_and_no_other():
    """Faults at nine in the morning, give or take; evenly spread ones prefer nothing."""
    dice = Random(2)
    nine = [day * DAY_S + dice.gauss(9.0, 2.0) * 3600 for day in range(60)]
    found = rhythm(nine, DAY_S)
    assert found.p < 1e-6
    assert found.peak_s / 3600 == pytest.approx(9.0, abs=1.0)
    even = [dice.uniform(0.0, 60 * DAY_S) for _ in range(200)]
    assert rhythm(even, DAY_S).p > 0.01
    assert rhythm(even, WEEK_S).p > 0.01
    assert rhythm(nine[:10], DAY_S) is None


@with_trace
def test_numbers_of_the_public_trace():
    """Counted again from the file by other means: rate, dispersion, concentration, gaps."""
    told, events = public(), public_events()
    days = sorted(day for _, day, what in events if what == "fault_start")
    counts = [
        sum(node == each and what == "fault_start" for each, _, what in events)
        for node in {each for each, _, _ in events}
    ]
    counts += [0] * (400 - len(counts))
    mean = sum(counts) / 400
    found = spread(told)
    assert len(told.faults) == len(days) == 312
    assert 1000 * told.rate == pytest.approx(1000 * 312 / (400 * max(day for _, day, _ in events)))
    assert found.index == pytest.approx(sum((count - mean) ** 2 for count in counts) / 399 / mean)
    assert (round(found.index, 2), found.never) == (2.41, 241)
    assert found.never_expected == pytest.approx(400 * math.exp(-mean))
    assert [round(part, 3) for _, part in found.tops] == [0.349, 0.532, 0.747]
    gaps = spacing([day * DAY_S for day in days])
    assert (gaps.zero, round(gaps.mean_s / 3600, 1), round(gaps.cv, 2)) == (50, 13.1, 2.19)
    assert gaps.high < 0.7
