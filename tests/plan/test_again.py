from __future__ import annotations

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftslurm.core.lemons import DAY_S
from ftslurm.plan.past import Fault, Past, by_node
from ftslurm.plan.repeaters import again, binomial_tail, followed, offences, wilson
from tests.plan.pasts import fleet, past, public, public_events, with_trace


def test_faults_soon_after_a_repair_are_counted():
    """From the repair, by the node's own faults; those whose days are not over are left out."""
    told = past([("a", 10.0), ("a", 10.6), ("a", 20.0), ("b", 10.7), ("b", 99.5)], 100.0, 10)
    assert [(each.days, each.faults, each.again) for each in again(told)] == [(1.0, 4, 1), (7.0, 4, 1), (28.0, 4, 2)]
    assert offences(by_node(told.faults), 28.0) == {"a": 2}


def test_a_repair_that_nobody_wrote_down_counts_from_the_fault():
    """A share too small, never too large: the day after the repair is then partly before it."""
    faults = tuple(Fault(node="a", at=day * DAY_S, cause="x") for day in (1.0, 3.0))
    assert not followed(faults[0], faults, 1.0)
    assert followed(faults[0], faults, 2.0)


def test_a_node_that_is_not_repaired_yet_cannot_fail_again():
    """It is left out, and so is a fault during the repair."""
    faults = (
        Fault(node="a", at=DAY_S, cause="x", over=5 * DAY_S),
        Fault(node="a", at=2 * DAY_S, cause="x", over=math.inf),
    )
    told = Past(faults=faults, begun=0.0, until=60 * DAY_S)
    assert [(each.faults, each.again, each.chance) for each in again(told)] == [(1, 0, None)] * 3


def test_equal_nodes_fail_again_as_chance_has_it():
    """2,000 nodes of one rate: the share of each number of days is about 1 - exp(-rate days)."""
    told = fleet({f"n{index}": 0.01 for index in range(2000)}, 120.0, Random(4))
    for each in again(told):
        assert each.chance == pytest.approx(-math.expm1(-0.01 * each.days), rel=0.1)
        assert each.low <= each.chance <= each.high
        assert each.p > 0.01


@with_trace
def test_shares_of_the_public_trace():
    """Counted again from the file: a quarter fails again within a day of the repair, where chance gives 0.4 %."""
    events, found = public_events(), again(public())
    pairs: dict[str, list[list[float]]] = {}
    for node, day, what in sorted(events, key=lambda each: each[1]):
        if what == "fault_start":
            pairs.setdefault(node, []).append([day, math.inf])
        else:
            next(each for each in pairs[node] if each[1] == math.inf)[1] = day
    last = max(day for _, day, _ in events)
    for each in found:
        asked = [(pair, of) for of in pairs.values() for pair in of if pair[1] + each.days <= last]
        count = sum(
            any(start > begun and end <= start <= end + each.days for start, _ in of) for (begun, end), of in asked
        )
        assert (each.faults, each.again) == (len(asked), count)
    assert [round(each.share, 2) for each in found] == [0.26, 0.35, 0.48]
    assert found[0].chance == pytest.approx(0.0045, abs=0.0001)
    assert max(each.p for each in found) < 1e-6


@given(st.integers(0, 40), st.integers(1, 40), st.floats(0.001, 0.999))
def test_binomial_tail_is_the_sum_of_its_terms(count, of, chance):
    """Against the sum of exact coefficients."""
    whole = sum(math.comb(of, k) * chance**k * (1 - chance) ** (of - k) for k in range(count, of + 1))
    assert binomial_tail(count, of, chance) == pytest.approx(whole, rel=1e-6, abs=1e-12)


@given(st.integers(0, 50), st.integers(0, 50))
def test_a_share_lies_in_its_interval(count, of):
    """Between 0 and 1, around the share."""
    low, high = wilson(min(count, of), of)
    share = min(count, of) / of if of else 0.5
    assert 0.0 <= low <= share + 1e-12
    assert share - 1e-12 <= high <= 1.0


def test_wilson_against_a_published_example():
    """0 of 10: 0 to 0.2775 (Newcombe, Statistics in Medicine 17, 1998, by z = 1.96)."""
    assert wilson(0, 10) == (0.0, pytest.approx(0.2775, abs=0.0001))
