from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftslurm.core.diagnosis import Cause
from ftslurm.core.lemons import (
    DAY_S,
    DECAY_DAYS,
    Evidence,
    Forgiveness,
    Mark,
    Standing,
    judge,
    mark_of,
    mark_of_xid,
    marks_of_a_lemon,
    poisson_tail,
    rate_of,
    to_exclude,
)
from ftslurm.core.pricing import FAILURES_PER_NODE_DAY

NOW = 1000 * DAY_S


def marks(node: str, *days_ago: float, weight: float = 1.0) -> list[Mark]:
    """Marks of a node, so many days before now."""
    return [Mark(node=node, at=NOW - days * DAY_S, cause="node_down", weight=weight) for days in days_ago]


def standings(*found: list[Mark], nodes: int = 400, forgiven: tuple[Forgiveness, ...] = ()) -> dict[str, Standing]:
    """What is said of each node."""
    return {each.node: each.standing for each in judge([mark for some in found for mark in some], forgiven, NOW, nodes)}


@pytest.mark.parametrize(
    ("count", "mean", "expected"),
    [(0, 0.5, 1.0), (1, 0.0, 0.0), (1, 0.5, 1 - math.exp(-0.5)), (2, 0.0294, 4.24e-4), (3, 0.1176, 2.49e-4)],
)
def test_tail_of_poisson(count, mean, expected):
    """The numbers of the published trace: two in 7 days, three in 28 days, at 4.2 faults in 1000 node-days."""
    assert poisson_tail(count, mean) == pytest.approx(expected, rel=0.01)


@given(st.integers(0, 60), st.floats(0, 40))
def test_tail_is_a_probability_that_falls(count, mean):
    """Between 0 and 1, never larger for more events, and exact against the sum where that is well behaved."""
    tail, next_tail = poisson_tail(count, mean), poisson_tail(count + 1, mean)
    assert 0.0 <= next_tail <= tail <= 1.0 + 1e-12
    whole = (
        sum(math.exp(-mean + number * math.log(mean) - math.lgamma(number + 1)) for number in range(count, 400))
        if (mean > 0)
        else float(count == 0)
    )
    assert tail == pytest.approx(whole, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize(
    ("nodes", "week", "four_weeks"),
    [(1, 2, 2), (4, 2, 2), (64, 2, 3), (400, 2, 3), (4000, 3, 4), (100_000, 4, 5)],
)
def test_number_of_marks_follows_from_the_fleet(nodes, week, four_weeks):
    """More nodes have more unlucky ones among them; a single mark is never enough."""
    assert marks_of_a_lemon(FAILURES_PER_NODE_DAY, 7.0, nodes) == week
    assert marks_of_a_lemon(FAILURES_PER_NODE_DAY, 28.0, nodes) == four_weeks


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (marks("n1", 1), Standing.MARKED),
        (marks("n1", 1, 5), Standing.LEMON),
        (marks("n1", 1, 15), Standing.MARKED),
        (marks("n1", 1, 10, 20), Standing.LEMON),
        (marks("n1", 1, 1.02), Standing.MARKED),
        (marks("n1", 1, 5, weight=0.5), Standing.MARKED),
        (marks("n1", 20, 24), Standing.LEMON),
        (marks("n1", 30, 34), Standing.PROBATION),
        (marks("n1", 3, 30, 34), Standing.LEMON),
        (marks("n1", 57, 60), Standing.CLEAN),
        (marks("n1", 3, 60, 64), Standing.MARKED),
        (marks("n1", 29), Standing.CLEAN),
        (marks("n1", -1), None),
    ],
)
def test_standing_follows_from_the_marks(found, expected):
    """Repeat offenders are lemons for four weeks, then on probation; everything decays."""
    assert standings(found).get("n1") is expected


def test_forgiven_marks_count_no_more():
    """After a repair a node is clean; new marks count from nothing."""
    repaired = Forgiveness(node="n1", at=NOW - 0.5 * DAY_S)
    earlier = replace(repaired, at=NOW - 9 * DAY_S)
    assert standings(marks("n1", 1, 3), forgiven=(repaired, earlier)) == {"n1": Standing.CLEAN}
    assert standings(marks("n1", 0.1, 1, 3), forgiven=(earlier, repaired)) == {"n1": Standing.MARKED}
    assert standings(marks("n2", 1, 3), forgiven=(repaired,)) == {"n2": Standing.LEMON}


def test_many_nodes_at_once_have_a_common_cause():
    """A switch that fails marks a rack: none of its nodes is blamed, however often it happens."""
    rack = [marks(f"n{index}", 1, 3) for index in range(30)]
    assert set(standings(*rack).values()) == {Standing.CLEAN}
    assert set(standings(*rack[:20]).values()) == {Standing.LEMON}
    assert set(standings(*rack[:2], nodes=4).values()) == {Standing.CLEAN}
    assert set(standings(rack[0], nodes=4).values()) == {Standing.LEMON}


def test_omens_add_up_and_bring_nobody_back():
    """Eight remapped rows in a week are a lemon among 400 nodes, seven are chance; after probation they are no relapse."""
    omens = [replace(mark, weight=0.25, cause="xid_63") for mark in marks("n1", *(0.5 + day / 2 for day in range(8)))]
    assert standings(omens) == {"n1": Standing.LEMON}
    assert standings(omens[1:]) == {"n1": Standing.MARKED}
    lemon = marks("n1", 30, 32)
    assert standings(lemon, omens[:1]) == {"n1": Standing.PROBATION}
    assert standings(lemon, marks("n1", 1)) == {"n1": Standing.LEMON}
    assert mark_of_xid(63) == (Evidence.HARD, 0.25)
    assert mark_of_xid(31) is None


def test_worst_come_first_with_their_reasons():
    """The order is that of the exclusion; reasons have numbers."""
    found = judge([*marks("n1", 40), *marks("n2", 2), *marks("n3", 1, 2, 3), *marks("n4", 9, 10)], (), NOW, 400)
    assert [each.node for each in found] == ["n3", "n4", "n2", "n1"]
    assert found[0].reason == "3 faults within 7 days, where 2 are more than chance; counts for 27 more days"
    assert (found[0].marks, found[0].last.at) == (3, NOW - DAY_S)
    assert found[2].reason == "last marked 2 days ago; no more than chance"


@pytest.mark.parametrize(
    ("size", "asked", "expected"),
    [(400, 10, 3), (40, 10, 2), (20, 10, 1), (4, 3, 1), (4, 4, 0), (4, 5, 0), (0, 1, 0)],
)
def test_never_more_than_the_share_is_excluded(size, asked, expected):
    """At most 5 % of a partition, or one node, and never so many that the job could not run."""
    lemons = [mark for index in range(3) for mark in marks(f"n{index}", 1 + index / 10, 3 + index / 10)]
    records = judge([*lemons, *marks("n9", 1)], (), NOW, 400)
    chosen = to_exclude(records, [f"n{index}" for index in range(size)], asked)
    assert [each.node for each in chosen] == ["n0", "n1", "n2"][:expected]


def test_rate_is_learnt_and_never_below_the_published_one():
    """A quiet ledger proves little: nobody knows how long each node was watched."""
    assert rate_of([], NOW, 10_000) == FAILURES_PER_NODE_DAY
    many = [mark for index in range(200) for mark in marks(f"n{index}", 1 + index / 20)]
    assert rate_of(many, NOW, 400) == pytest.approx((3.79 + 200) / (1000 + 400 * DECAY_DAYS))


@pytest.mark.parametrize(
    ("cause", "expected"),
    [
        (Cause.NODE_DOWN, (Evidence.HARD, 1.0)),
        (Cause.NODE_UNREACHABLE, (Evidence.SOFT, 1.0)),
        (Cause.EXCISED, None),
        (Cause.APPLICATION_ERROR, None),
        (Cause.CANCEL, None),
        ("a cause of a newer release", None),
    ],
)
def test_only_what_the_node_did_counts(cause, expected):
    """A healthy node that Slurm took out of the job, and the program's own errors, leave no mark."""
    assert mark_of(cause) == expected


MARKS = st.lists(
    st.builds(
        Mark,
        node=st.sampled_from(["n1", "n2", "n3"]),
        at=st.floats(NOW - 100 * DAY_S, NOW + DAY_S),
        cause=st.just("node_down"),
        weight=st.sampled_from([0.5, 1.0]),
    ),
    max_size=25,
)


@given(MARKS, st.integers(1, 5000), st.randoms())
def test_order_of_the_files_means_nothing(found, nodes, random):
    """Marks may come in any order; every marked node is told once; what is excluded is a lemon."""
    records = judge(found, (), NOW, nodes)
    random.shuffle(found)
    assert judge(found, (), NOW, nodes) == records
    assert {each.node for each in records} == {each.node for each in found if each.at <= NOW}
    assert all(each.reason for each in records)
    assert all(each.standing is Standing.LEMON for each in to_exclude(records, ("n1", "n2"), 1))
